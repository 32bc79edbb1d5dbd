"""What things are made of: parts with names, surfaces, and where their variation comes from.

A kind is a function `kind(look) -> list[Part]`; the thing stands on z = 0 about the origin, faces
-y, and is in decimetres. `look` carries the random generator and the main colour, so two mugs are
similar but never the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from meshes import Mesh

# sRGB centres of the colour names; a thing's own colour is drawn near one.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.09, 0.09),
    "orange": (0.95, 0.47, 0.06),
    "yellow": (0.96, 0.80, 0.12),
    "green": (0.16, 0.56, 0.20),
    "blue": (0.11, 0.27, 0.76),
    "purple": (0.46, 0.16, 0.63),
    "pink": (0.95, 0.51, 0.66),
    "brown": (0.44, 0.26, 0.13),
    "white": (0.93, 0.92, 0.90),
    "black": (0.07, 0.07, 0.08),
    "grey": (0.49, 0.50, 0.51),
    "turquoise": (0.16, 0.70, 0.70),
}
ANY = tuple(COLORS)
BRIGHT = tuple(name for name in COLORS if name not in ("black", "grey", "brown"))


@dataclass(frozen=True, eq=False)
class Surface:
    """How a part looks: colour name and sRGB in [0, 1], or a texture [h, w, 3] that replaces it."""

    color: str
    rgb: np.ndarray
    material: str = "plastic"
    roughness: float = 0.4
    metallic: float = 0.0
    glow: float = 0.0
    texture: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Part:
    name: str
    mesh: Mesh
    surface: Surface


MATERIALS = {  # roughness, metallic
    "ceramic": (0.22, 0.0),
    "plastic": (0.35, 0.0),
    "metal": (0.28, 0.9),
    "wood": (0.6, 0.0),
    "plush": (1.0, 0.0),
    "paper": (0.9, 0.0),
    "wax": (0.5, 0.0),
    "cloth": (1.0, 0.0),
    "leaf": (0.5, 0.0),
    "skin": (0.35, 0.0),
    "baked": (0.85, 0.0),
    "rubber": (0.75, 0.0),
    "leather": (0.6, 0.0),
    "glass": (0.08, 0.0),  # glazed and opaque: nothing is seen through
    "stone": (0.9, 0.0),
}


@dataclass(frozen=True, eq=False)
class Look:
    """Where one thing gets its variation from."""

    rng: np.random.Generator
    color: str

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def other(self, *names: str) -> str:
        """One of the names, but not the main colour."""
        return str(self.rng.choice([name for name in names if name != self.color]))

    def paint(
        self, color: str = "", material: str = "plastic", *, glow: float = 0.0, speck: float = 0.0
    ) -> Surface:
        """A surface of the named colour (empty: the main one); speck adds a mottled texture."""
        color = color or self.color
        rgb = np.array(COLORS[color])
        rgb = np.clip(rgb * self.rng.uniform(0.88, 1.1) + self.rng.normal(0, 0.02, 3), 0.02, 0.97)
        roughness, metallic = MATERIALS[material]
        texture = None
        if speck:
            texture = np.clip(rgb * (1 + speck * (mottle(self.rng, 96) - 0.5)[..., None]), 0, 1)
        return Surface(color, rgb, material, roughness, metallic, glow, texture)


def mottle(rng: np.random.Generator, size: int, octaves: int = 4) -> np.ndarray:
    """Smooth noise [size, size] in [0, 1] that tiles without seams."""
    out = np.zeros((size, size))
    for octave in range(octaves):
        cells = 4 * 2**octave
        grid = rng.random((cells, cells))
        at = np.arange(size) * cells / size
        low, share = at.astype(int), at % 1
        share = share * share * (3 - 2 * share)
        high = (low + 1) % cells
        rows = grid[low] * (1 - share[:, None]) + grid[high] * share[:, None]
        out += (rows[:, low] * (1 - share) + rows[:, high] * share) / 2**octave
    out -= out.min()
    return out / out.max()


def planks(rng: np.random.Generator, color: str = "brown", boards: int = 6) -> np.ndarray:
    """Wooden boards, sRGB [256, 256, 3]."""
    size = 256
    v, u = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    board = np.minimum((v * boards).astype(int), boards - 1)
    wave = mottle(rng, size)
    grain = 0.5 + 0.5 * np.sin(70 * v + 9 * wave + rng.uniform(0, 6, boards)[board])
    tone = rng.uniform(0.85, 1.1, boards)[board] * (0.9 + 0.14 * grain + 0.12 * wave)
    seam = np.abs((v * boards) % 1 - 0.5) > 0.485
    base = np.array(
        {"brown": (0.60, 0.40, 0.24), "pale": (0.80, 0.65, 0.46)}.get(color, (0.4, 0.3, 0.2))
    )
    return np.clip(base * (tone * np.where(seam, 0.6, 1))[..., None] + 0 * u[..., None], 0, 1)


def stripes(first: np.ndarray, second: np.ndarray, count: int, *, around: bool) -> np.ndarray:
    """Two alternating colours, [128, 128, 3]; around = they alternate along v, else along u."""
    turn = (np.arange(128) * count // 128) % 2
    row = np.where(turn[:, None] == 0, first, second)
    image = np.broadcast_to(row[:, None] if around else row[None], (128, 128, 3))
    return np.array(image)


def vessel(outer: np.ndarray, thick: float, floor: float = 0.06) -> tuple[np.ndarray, ...]:
    """Profiles of a vessel: outside going up, a rounded rim, inside going down, its floor."""
    inner = outer[::-1].copy()
    inner[:, 0] = np.maximum(inner[:, 0] - thick, 0.01)
    inner[:, 1] = np.maximum(inner[:, 1], outer[0, 1] + floor)
    top = outer[-1]
    a = np.radians(np.linspace(0, 180, 7))
    rim = np.stack([top[0] - thick / 2 * (1 - np.cos(a)), top[1] + thick / 2 * np.sin(a)], 1)
    return (
        np.array([(0, outer[0, 1]), outer[0]]),
        outer,
        rim,
        inner,
        np.array([inner[-1], (0, inner[-1, 1])]),
    )


@dataclass(frozen=True)
class Kind:
    """How to build a kind, the colours it comes in, and its footprint's radius in decimetres.

    `names` are its other names; `unheard` are further ones, kept out of the captions to measure how
    well the text side generalises.
    """

    build: Callable[[Look], list[Part]]
    colors: tuple[str, ...]
    radius: float
    names: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
