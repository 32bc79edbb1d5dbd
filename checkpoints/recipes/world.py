"""Render little worlds with labels: pictures, cameras, and every pixel's name.

    python world.py --out DIR --scene teatable   # a bundled scene
    python world.py --out DIR --seed 7 --views 4 --size 288x216 --spp 8 --count 20   # random worlds

A world is a table, a desk or a toy shelf with things on it, in a room. It is written as a capture
that `python -m langsplat build` reads (nerfstudio's transforms.json and a ply of starting points),
together with `labels/NAME.png` (a number per pixel) and `labels.json` (what each number means).
Letters: H W pixels. Lengths are decimetres, z is up.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from look import COLORS, Look, Part, Surface, mottle, planks, stripes
from meshes import Mesh, box, lathe, merged, rectangle, spline
from PIL import Image
from things import KINDS


@dataclass(frozen=True)
class Board:
    """A level surface to put things on: its centre, and half its size along x and y.

    The radius of a round one is half_x.
    """

    x: float
    y: float
    z: float
    half_x: float
    half_y: float
    round: bool = False

    def spot(self, rng: np.random.Generator, room: float) -> tuple[float, float] | None:
        """A random place for a thing of radius `room`, or None if the thing does not fit there."""
        u, v = rng.uniform(-1, 1, 2)
        if self.round:
            fits = np.hypot(u, v) * self.half_x + 0.7 * room < self.half_x
        else:
            fits = self.half_y > 0.75 * room and (
                abs(u) * self.half_x + 0.75 * room < self.half_x
                and abs(v) * self.half_y + 0.75 * room < self.half_y + 0.3
            )
        reach = self.half_x if self.round else self.half_y
        return (self.x + u * self.half_x, self.y + v * reach) if fits else None


BOARDS = {
    "table": (Board(0, 0, 0, 5.2, 5.2, round=True),),
    "desk": (Board(0, 0, 0, 6.0, 3.6),),
    "shelf": (
        Board(0, -2.7, 0, 5.2, 1.35),
        Board(0, 0, 1.9, 5.2, 1.35),
        Board(0, 2.7, 3.8, 5.2, 1.35),
    ),
}


@dataclass(frozen=True)
class Placed:
    """One thing: its kind, its main colour, where it stands (decimetres) and how it is turned."""

    kind: str
    color: str
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class World:
    """Parts in world space, what they belong to, and the light."""

    parts: list[Part]
    labels: list[dict[str, object]]  # one per part; "index" counts from 1
    light: dict[str, object] = field(default_factory=dict)
    furniture: str = "table"


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera: camera-to-world with OpenGL axes [4, 4], focal length in pixels."""

    camtoworld: np.ndarray
    focal: float
    width: int
    height: int


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera to world, OpenGL axes (x right, y up, z backwards), [4, 4]."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :4] = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return matrix


def compose(
    things: Sequence[Placed], seed: int, *, furniture: str = "table", plain: bool = False
) -> World:
    """Put the things on furniture in a room; `plain` varies furniture, walls, light at random."""
    rng = np.random.default_rng(seed)
    parts: list[Part] = []
    labels: list[dict[str, object]] = []

    def add(kind: str, color: str, instance: int, part: Part) -> None:
        parts.append(part)
        labels.append(
            {
                "index": len(parts),
                "instance": instance,
                "object": kind,
                "object_color": color,
                "part": part.name,
                "part_color": part.surface.color,
                "material": part.surface.material,
            }
        )

    for instance, thing in enumerate(things, start=1):
        look = Look(np.random.default_rng([seed, instance]), thing.color)
        for part in KINDS[thing.kind].build(look):
            mesh = part.mesh.scaled(thing.scale).turned("z", thing.yaw)
            moved = Part(part.name, mesh.moved(thing.x, thing.y, thing.z), part.surface)
            add(thing.kind, thing.color, instance, moved)
    for kind, color, part in _room(rng, furniture, plain):
        add(kind, color, 0, part)
    assert len(parts) < 256, "labels are one byte a pixel"
    return World(parts, labels, _light(rng, plain), furniture)


def _light(rng: np.random.Generator, random: bool) -> dict[str, object]:
    if not random:
        return {
            "sky": [0.62, 0.68, 0.78],
            "lamp": [9.0, 8.2, 7.0],
            "at": [7.0, -6.0, 17.0],
            "size": 5.0,
        }
    warm = rng.uniform(-0.12, 0.12)
    angle, level = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.9)
    power = rng.uniform(4, 12)
    return {
        "sky": [level * (1 - warm), level, level * (1 + warm)],
        "lamp": [power * (1 + warm), power, power * (1 - warm)],
        "at": [10 * np.cos(angle), 10 * np.sin(angle), rng.uniform(12, 20)],
        "size": rng.uniform(3.0, 7.0),
    }


def _wood(texture: np.ndarray) -> Surface:
    return Surface("brown", texture.mean((0, 1)), "wood", 0.45, texture=texture)


def _matt(color: str, texture: np.ndarray, material: str) -> Surface:
    return Surface(color, texture.mean((0, 1)), material, 0.9, texture=texture)


def _furniture(
    rng: np.random.Generator, name: str, random: bool
) -> Iterator[tuple[str, str, Part]]:
    tone = "brown" if not random else str(rng.choice(["brown", "pale", "dark"]))
    surface, color = _wood(planks(rng, tone)), "brown"
    if random and rng.random() < 0.5:
        color = str(rng.choice(list(COLORS)))
        base = np.array(COLORS[color])
        other = base * 0.75 + 0.25 * rng.uniform(0, 1, 3)
        cloth = stripes(base, other, 2 * int(rng.integers(1, 9)), around=bool(rng.random() < 0.5))
        surface = _matt(color, np.clip(cloth, 0, 1), "cloth")
    if name == "table":
        radius = BOARDS["table"][0].half_x
        profile = spline([(radius, -0.35), (radius + 0.1, -0.17), (radius, 0)], 6)
        edge = lathe([(0, -0.35), (radius, -0.35)], profile, segments=96)
        top = lathe([(radius, 0), (0, 0)], segments=96)
        flat = top.vertices[:, :2] / (2 * radius) + 0.5
        top = Mesh(top.vertices, top.normals, flat, top.faces)
        yield "table", color, Part("top", top, surface)
        yield "table", color, Part("edge", edge, surface)
        leg = lathe(spline([(2.4, -7), (0.7, -6.6), (0.45, -4), (0.9, -0.35)], 8))
        yield "table", color, Part("leg", leg, surface)
    elif name == "desk":
        board = BOARDS["desk"][0]
        wide, deep = 2 * board.half_x + 0.4, 2 * board.half_y + 0.4
        yield "table", color, Part("top", box(wide, deep, 0.35, 0.06).moved(0, 0, -0.35), surface)
        legs = [
            box(0.5, 0.5, 6.7, 0.06).moved(x * (wide / 2 - 0.5), y * (deep / 2 - 0.5), -7)
            for x in (-1, 1)
            for y in (-1, 1)
        ]
        yield "table", color, Part("leg", merged(*legs), surface)
    else:
        boards = BOARDS["shelf"]
        wide = 2 * boards[0].half_x + 0.3
        steps = []
        for board, above in zip(boards, (*boards[1:], boards[-1]), strict=True):
            deep = 2 * board.half_y
            steps.append(box(wide, deep, 0.25, 0.05).moved(0, board.y, board.z - 0.25))
            rise = above.z - board.z
            if rise:  # the riser behind a step, up to the next one
                back = board.y + board.half_y
                steps.append(box(wide, 0.2, rise, 0.03).moved(0, back, board.z - 0.2))
        last = boards[-1]
        steps.append(box(wide, 0.2, 7 + last.z, 0.03).moved(0, last.y + last.half_y, -7))
        yield "shelf", color, Part("boards", merged(*steps), surface)
        paint = str(rng.choice(["white", "turquoise", "yellow"])) if random else "white"
        side = Surface(paint, np.array(COLORS[paint]), "wood", 0.5)
        for sign in (-1, 1):
            walls = [
                box(0.25, 2 * b.half_y, 7 + b.z + 0.15, 0.05).moved(
                    sign * (wide / 2 + 0.1), b.y, -7
                )
                for b in boards
            ]
            yield "shelf", color, Part("side", merged(*walls), side)


def _room(
    rng: np.random.Generator, furniture: str, random: bool
) -> Iterator[tuple[str, str, Part]]:
    """The furniture, a floor with a rug, and four walls with pictures. There is no ceiling."""
    yield from _furniture(rng, furniture, random)
    floor = np.tile(planks(rng, "pale", 8), (2, 2, 1))
    yield "floor", "brown", Part("floor", rectangle(44, 44).moved(0, 0, -7), _wood(floor))
    rug_color = "turquoise" if not random else str(rng.choice(list(COLORS)))
    rings = (np.hypot(*np.mgrid[-1:1:192j, -1:1:192j]) * 9).astype(int)[..., None] % 3
    pale = np.array([0.88, 0.84, 0.76])
    cloth = np.where(rings == 0, 0.55 * np.array(COLORS[rug_color]) + 0.3, pale)
    cloth = np.clip(cloth * (0.9 + 0.2 * mottle(rng, 192)[..., None]), 0, 1)
    mesh = lathe([(10, 0.05), (0, 0.05)], segments=96).moved(0, 0, -7)
    mesh = Mesh(mesh.vertices, mesh.normals, mesh.vertices[:, :2] / 20 + 0.5, mesh.faces)
    yield "rug", rug_color, Part("rug", mesh, _matt(rug_color, cloth, "cloth"))

    tints = np.array(
        [[0.80, 0.76, 0.68], [0.66, 0.74, 0.76], [0.80, 0.76, 0.68], [0.78, 0.68, 0.66]]
    )
    if random:
        tints = np.clip(rng.uniform(0.35, 0.9, (4, 1)) + rng.normal(0, 0.08, (4, 3)), 0.1, 0.95)
    for side in range(4):
        yaw = 90.0 * side

        def on_wall(mesh: Mesh, across: float, up: float, yaw: float = yaw) -> Mesh:
            return mesh.turned("x", 90).moved(across, 21.9, up).turned("z", yaw)

        paper = _wallpaper(rng, tints[side])
        yield (
            "wall",
            "white",
            Part("wall", on_wall(rectangle(44, 26), 0, 6), _matt("white", paper, "paper")),
        )
        skirting = on_wall(box(44, 1.2, 0.3, 0.05).moved(0, -0.6, 0), 0, -6.4)
        yield (
            "wall",
            "white",
            Part("skirting", skirting, Surface("white", np.array([0.9, 0.89, 0.86]))),
        )
        for across in (-10.0, 10.0):
            across += rng.uniform(-2, 2)
            wide, high, up = rng.uniform(6, 9), rng.uniform(5, 8), rng.uniform(2.5, 5)
            frame = box(wide + 0.8, high + 0.8, 0.4, 0.08).moved(0, 0, 0)
            wood = Surface(
                "brown", np.array([0.35, 0.22, 0.12]) * rng.uniform(0.6, 1.5), "wood", 0.5
            )
            yield "picture", "brown", Part("frame", on_wall(frame, across, up), wood)
            art = on_wall(rectangle(wide, high).moved(0, 0, 0.43), across, up)
            yield "picture", "brown", Part("painting", art, _matt("white", _painting(rng), "paper"))


def _wallpaper(rng: np.random.Generator, tint: np.ndarray) -> np.ndarray:
    size = 256
    bands = 0.5 + 0.5 * np.sign(np.sin(np.linspace(0, 2 * np.pi * 14, size)))
    shade = 0.96 + 0.05 * bands[None, :] + 0.05 * (mottle(rng, size) - 0.5)
    paper = tint * shade[..., None]
    low = np.arange(size) < 0.3 * size  # the lower third is panelled
    paper[low] = (0.55 * tint + 0.38) * (0.97 + 0.04 * mottle(rng, size)[low][..., None])
    paper[int(0.3 * size) : int(0.315 * size)] = 0.88
    return np.clip(paper, 0, 1)


def _painting(rng: np.random.Generator) -> np.ndarray:
    """Hills under a sky: bands of colour with soft, wavy borders, [96, 96, 3]."""
    size = 96
    names = list(COLORS)
    image = np.empty((size, size, 3))
    image[:] = 0.5 * np.array(COLORS[str(rng.choice(names))]) + 0.45
    for level in (0.62, 0.42, 0.2):
        wave = level + 0.1 * (mottle(rng, size)[0] - 0.3)
        hill = 0.75 * np.array(COLORS[str(rng.choice(names))]) + 0.15
        image[np.arange(size)[:, None] < wave * size] = hill
    y, x = np.mgrid[:size, :size] / size
    image[np.hypot(x - rng.uniform(0.2, 0.8), y - 0.8) < 0.09] = [0.97, 0.86, 0.5]
    return image


def surround(
    views: int, width: int, height: int, *, furniture: str = "table", seed: int = 0
) -> list[View]:
    """Cameras on a dome around the things: three turns, 15 to 60 degrees up, two distances.

    A shelf has a back, so the cameras are closer together in front of it (at -y).
    """
    target, distance, front = {
        "table": ((0.0, 0.0, 0.7), 13.0, 0.0),
        "desk": ((0.0, 0.0, 0.7), 13.5, 0.0),
        "shelf": ((0.0, 0.0, 2.2), 16.0, 0.8),
    }[furniture]
    rng = np.random.default_rng(seed)
    out = []
    for k in range(views):
        share = (k + 0.5) / views
        elevation = np.radians(15 + 45 * share)
        azimuth = 2 * np.pi * 3.0 * share + 0.4
        off = (azimuth + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi  # from straight ahead
        azimuth -= front * off
        at = np.array(target) + rng.uniform(-0.4, 0.4, 3)
        away = [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
        matrix = look_at(at + (distance if k % 4 else 0.785 * distance) * np.array(away), at)
        out.append(View(matrix, 0.5 * width / np.tan(np.radians(24.5)), width, height))
    return out


def tea_table() -> World:
    """Tea for a bear, with fruit and sweets."""
    things = [
        Placed("lamp", "yellow", 0.2, 3.6, 0, 0, 1.1),
        Placed("teddy bear", "brown", -2.6, 2.5, 0, 40, 1.0),
        Placed("vase", "purple", 2.7, 2.7, 0, 0, 1.05),
        Placed("teapot", "blue", -0.1, 0.9, 0, 200, 1.1),
        Placed("mug", "red", -1.7, -0.6, 0, 200, 1.1),
        Placed("mug", "white", 1.65, 0.3, 0, -60, 1.1),
        Placed("plate", "white", 0.15, -1.7, 0, 0, 1.05),
        Placed("cookie", "brown", -0.3, -1.45, 0.1, 0, 1.0),
        Placed("cookie", "brown", 0.55, -1.35, 0.1, 70, 1.0),
        Placed("donut", "pink", 0.2, -2.2, 0.1, 0, 0.95),
        Placed("bowl", "turquoise", 3.3, -1.0, 0, 0, 1.25),
        Placed("apple", "red", 3.02, -1.3, 0.22, 20, 1.0),
        Placed("orange", "orange", 3.75, -1.05, 0.24, 0, 1.0),
        Placed("lemon", "yellow", 3.1, -0.55, 0.3, 50, 1.0),
        Placed("banana", "yellow", 2.3, -3.1, 0, 25, 1.0),
        Placed("rubber duck", "yellow", -3.9, -0.1, 0, 60, 0.95),
        Placed("toy car", "blue", -2.6, -3.0, 0, 130, 1.0),
        Placed("candle", "white", -1.3, 2.9, 0, 0, 1.1),
        Placed("book", "green", -0.2, -3.9, 0, 80, 0.9),
        Placed("clock", "pink", 4.1, 1.2, 0, 70, 0.95),
        Placed("plant", "orange", -4.05, 1.2, 0, 0, 0.95),
    ]
    return compose(things, seed=1)


def desk() -> World:
    """A desk where somebody works and plays."""
    things = [
        Placed("monitor", "black", 0.0, 2.3, 0, 0, 1.2),
        Placed("keyboard", "white", -0.1, -0.5, 0, 0, 1.1),
        Placed("computer mouse", "black", 2.3, -1.0, 0, 10, 0.8),
        Placed("laptop", "grey", -3.7, 0.3, 0, -35, 1.1),
        Placed("lamp", "green", 4.6, 2.3, 0, 0, 1.0),
        Placed("globe", "blue", -4.7, 2.4, 0, 20, 1.0),
        Placed("pencil cup", "orange", 2.6, 1.9, 0, 0, 1.1),
        Placed("telephone", "red", 4.3, -0.3, 0, -30, 1.0),
        Placed("camera", "black", -2.0, -2.6, 0, -15, 1.0),
        Placed("headphones", "purple", 2.9, -2.6, 0, 30, 0.95),
        Placed("calculator", "yellow", 0.9, -2.6, 0, 15, 1.0),
        Placed("stapler", "turquoise", -0.5, -2.5, 0, 60, 1.0),
        Placed("mug", "white", 2.1, 0.8, 0, 130, 1.0),
        Placed("cactus", "pink", -2.6, 2.4, 0, 0, 1.0),
        Placed("scissors", "red", -4.5, -2.4, 0, 50, 1.0),
        Placed("hourglass", "brown", 5.2, 0.9, 0, 0, 0.9),
        Placed("fan", "white", -2.0, 1.0, 0, 20, 0.7),
        Placed("magnifying glass", "brown", 4.9, -2.5, 0, 20, 0.85),
    ]
    return compose(things, seed=2, furniture="desk")


def toy_shelf() -> World:
    """Three steps of toys."""
    low, middle, high = (board.z for board in BOARDS["shelf"])
    things = [
        Placed("toy train", "red", -3.6, -2.7, low, 90, 1.0),
        Placed("building blocks", "blue", -1.3, -2.8, low, 20, 0.9),
        Placed("rubber duck", "yellow", 0.5, -2.8, low, -20, 0.9),
        Placed("drum", "orange", 2.3, -2.7, low, 0, 0.9),
        Placed("toy car", "green", 4.2, -2.7, low, 65, 0.9),
        Placed("dinosaur", "green", -4.1, 0, middle, 35, 0.95),
        Placed("robot", "grey", -2.1, 0, middle, 10, 0.95),
        Placed("stacking rings", "red", -0.3, 0, middle, 0, 0.95),
        Placed("penguin", "black", 1.3, 0, middle, -15, 0.95),
        Placed("sailboat", "blue", 2.9, 0, middle, 30, 0.95),
        Placed("ball", "red", 4.5, 0, middle, 0, 0.85),
        Placed("castle", "grey", -3.9, 2.7, high, 10, 0.95),
        Placed("bunny", "pink", -1.6, 2.6, high, 0, 1.0),
        Placed("rocket", "white", 0.2, 2.7, high, 20, 1.0),
        Placed("elephant", "turquoise", 2.1, 2.7, high, -30, 0.95),
        Placed("guitar", "brown", 4.3, 2.7, high, -10, 0.95),
    ]
    return compose(things, seed=3, furniture="shelf")


SCENES = {"teatable": tea_table, "desk": desk, "toyshelf": toy_shelf}


def random_world(seed: int, colors: int = 0) -> World:
    """As many things as fit on the furniture, with random colours, sizes and light.

    Worlds of one seed differ only in the colours of their things, drawn anew for each `colors`.
    """
    rng = np.random.default_rng([seed, 99])
    furniture = str(rng.choice(list(BOARDS), p=[0.5, 0.3, 0.2]))
    boards = BOARDS[furniture]
    things: list[Placed] = []
    taken: list[tuple[float, float, float, float]] = []
    names = list(rng.permutation(list(KINDS)))
    for name in names:
        kind = KINDS[name]
        scale = rng.uniform(0.8, 1.3)
        room = kind.radius * scale
        for _ in range(15):
            board = boards[int(rng.integers(len(boards)))]
            spot = board.spot(rng, room)
            if spot is None:
                continue
            x, y = spot
            if all(
                np.hypot(x - a, y - b) > 0.82 * (room + c) for a, b, z, c in taken if z == board.z
            ):
                taken.append((x, y, board.z, room))
                color = str(rng.choice(kind.colors))
                things.append(Placed(name, color, x, y, board.z, rng.uniform(0, 360), scale))
                break
    if colors:
        again = np.random.default_rng([seed, 99, colors])
        things = [
            replace(thing, color=str(again.choice(KINDS[thing.kind].colors))) for thing in things
        ]
    return compose(things, seed, furniture=furniture, plain=True)


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def tone(light: np.ndarray) -> np.ndarray:
    """Linear light to sRGB uint8, compressing highlights softly so that they keep their colour."""
    light = np.maximum(light, 0)
    light = light * (1 + light / 9.0) / (1 + light / 2.2)
    light = np.clip(light * 1.25, 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * srgb + 0.5).astype(np.uint8)


def smooth_noise(
    color: np.ndarray, albedo: np.ndarray, normal: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """Remove a path tracer's noise but keep textures and edges, [H, W, 3] linear light.

    Light is separated from texture (color / albedo) and averaged over growing neighbourhoods of
    the same normal and plane and similar brightness (an a-trous wavelet filter).
    """
    base = albedo + 0.02
    light = color / base
    normal = normal / np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6)
    center = position.mean((0, 1))
    scale = np.linalg.norm(position - center, axis=2) * 0.004 + 0.02
    height, width = light.shape[:2]
    kernel = (0.25, 0.5, 0.25)
    for step in (1, 2, 4, 8):
        bright = light.mean(2)
        stack = np.concatenate([light, normal, position, bright[..., None]], axis=2)
        stack = np.pad(stack, ((step, step), (step, step), (0, 0)), mode="edge")
        total = np.zeros_like(light)
        weight = np.zeros((height, width), light.dtype)
        for dy in range(3):
            for dx in range(3):
                moved = stack[dy * step : dy * step + height, dx * step : dx * step + width]
                near = np.clip(np.einsum("hwc,hwc->hw", normal, moved[..., 3:6]), 0, 1) ** 32
                plane = np.einsum("hwc,hwc->hw", normal, moved[..., 6:9] - position) / scale
                change = (moved[..., 9] - bright) / (0.25 * (bright + moved[..., 9]) + 0.02)
                w = kernel[dy] * kernel[dx] * near * np.exp(-(plane**2) - change**2 / step)
                w = w + 1e-6 * (dy == dx == 1)
                total += w[..., None] * moved[..., :3]
                weight += w
        light = total / weight[..., None]
    return light * base


class Studio:
    """A world loaded into the renderer."""

    def __init__(self, world: World) -> None:
        import mitsuba as mi

        if mi.variant() is None:
            mi.set_variant("llvm_ad_rgb")
        self._mi = mi
        light = world.light
        at, size = np.array(light["at"], float), float(str(light["size"]))
        lamp = mi.ScalarTransform4f().look_at(origin=at.tolist(), target=[0, 0, 0], up=[0, 1, 0])
        content = {
            "type": "scene",
            "sky": {"type": "constant", "radiance": {"type": "rgb", "value": light["sky"]}},
            "lamp": {
                "type": "rectangle",
                "to_world": lamp @ mi.ScalarTransform4f().scale([size / 2, size / 2, 1]),
                "emitter": {
                    "type": "area",
                    "radiance": {"type": "rgb", "value": [6 * v for v in light["lamp"]]},
                },
            },
        }
        for number, part in enumerate(world.parts, start=1):
            content[f"part{number:03d}"] = self._shape(f"part{number:03d}", part)
        # Merging equal shapes would merge their labels.
        self._scene = mi.load_dict(content, optimize=False)

    def _shape(self, name: str, part: Part):  # type: ignore[no-untyped-def]
        mi, look = self._mi, part.surface
        if look.texture is not None:
            bitmap = mi.Bitmap(np.ascontiguousarray(linear(look.texture)[::-1].astype(np.float32)))
            color = {"type": "bitmap", "bitmap": bitmap, "raw": True}
        else:
            color = {"type": "rgb", "value": linear(look.rgb).tolist()}
        if look.roughness > 0.8:
            bsdf = {"type": "diffuse", "reflectance": color}
        else:
            bsdf = {
                "type": "principled",
                "base_color": color,
                "roughness": look.roughness,
                "metallic": look.metallic,
            }
        props = mi.Properties()
        props["bsdf"] = mi.load_dict({"type": "twosided", "bsdf": bsdf})
        if look.glow:
            radiance = (look.glow * linear(look.rgb)).tolist()
            # Weight 0: too small and faint to aim rays at; rays that happen to hit it see it.
            props["emitter"] = mi.load_dict(
                {
                    "type": "area",
                    "radiance": {"type": "rgb", "value": radiance},
                    "sampling_weight": 0.0,
                }
            )
        m = part.mesh
        mesh = mi.Mesh(
            name,
            len(m.vertices),
            len(m.faces),
            has_vertex_normals=True,
            has_vertex_texcoords=True,
            props=props,
        )
        values = mi.traverse(mesh)
        values["vertex_positions"] = np.ascontiguousarray(m.vertices, np.float32).ravel()
        values["vertex_normals"] = np.ascontiguousarray(m.normals, np.float32).ravel()
        values["vertex_texcoords"] = np.ascontiguousarray(m.uv, np.float32).ravel()
        values["faces"] = np.ascontiguousarray(m.faces, np.uint32).ravel()
        values.update()
        mesh.set_id(name)
        return mesh

    def _sensor(self, view: View):  # type: ignore[no-untyped-def]
        mi = self._mi
        # Mitsuba's camera looks along +z with x to the left.
        matrix = view.camtoworld @ np.diag([-1.0, 1.0, -1.0, 1.0])
        return mi.load_dict(
            {
                "type": "perspective",
                "fov": float(np.degrees(2 * np.arctan(0.5 * view.width / view.focal))),
                "fov_axis": "x",
                "near_clip": 0.1,
                "far_clip": 1000.0,
                "to_world": mi.ScalarTransform4f(matrix.tolist()),
                "film": {
                    "type": "hdrfilm",
                    "width": view.width,
                    "height": view.height,
                    "rfilter": {"type": "gaussian", "stddev": 0.45},
                    "pixel_format": "rgb",
                },
                "sampler": {"type": "multijitter"},
            }
        )

    def picture(self, view: View, spp: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Linear light [H, W, 3] and the surfaces' own color (albedo) [H, W, 3]."""
        mi = self._mi
        integrator = mi.load_dict(
            {
                "type": "aov",
                "aovs": "albedo:albedo,nn:sh_normal,pp:position",
                "image": {"type": "path", "max_depth": 5},
            }
        )
        sensor = self._sensor(view)
        out = mi.render(self._scene, sensor=sensor, integrator=integrator, spp=spp, seed=seed)
        out = np.nan_to_num(np.array(out, dtype=np.float32))
        albedo = out[..., 3:6]
        return smooth_noise(out[..., :3], albedo, out[..., 6:9], out[..., 9:12]), albedo

    def labels(self, view: View) -> np.ndarray:
        """[H, W] uint8: the number of the part seen at each pixel's centre, 0 = none."""
        import drjit as dr

        mi = self._mi
        at = dr.arange(mi.UInt32, view.width * view.height)
        x = (mi.Float(at % view.width) + 0.5) / view.width
        y = (mi.Float(at // view.width) + 0.5) / view.height
        ray, _ = self._sensor(view).sample_ray(0.0, 0.5, mi.Point2f(x, y), mi.Point2f(0.5))
        seen = np.array(
            dr.reinterpret_array(mi.UInt32, self._scene.ray_intersect_preliminary(ray).shape)
        )
        out = np.zeros(len(seen), np.uint8)
        # Shapes are numbered in the order in which they happen to load, so go by their names.
        for shape in self._scene.shapes():
            if shape.id().startswith("part"):
                handle = int(np.array(dr.reinterpret_array(mi.UInt32, mi.ShapePtr(shape)))[0])
                out[seen == handle] = int(shape.id()[4:7])
        return out.reshape(view.height, view.width)


def recolored(
    light: np.ndarray, albedo: np.ndarray, labels: np.ndarray, old: World, new: World
) -> np.ndarray:
    """The picture [H, W, 3] with the new world's colours, without rendering it again.

    Light and shadow stay; so does gloss, all light that the surface's own colour does not explain.
    """
    means = [
        np.stack([[0.5] * 3, *(linear(part.surface.rgb) for part in world.parts)])
        for world in (old, new)
    ]
    change = (means[1] / np.maximum(means[0], 0.004))[labels].astype(light.dtype)
    shade = (light * albedo).sum(2) / np.maximum((albedo**2).sum(2), 1e-4)
    gloss = np.maximum(light - albedo * shade[..., None], 0)
    return np.clip(albedo * change, 0, 0.95) * shade[..., None] + np.minimum(gloss, 0.6)


def starting_points(world: World, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random surface points, denser on things than in the room: xyz [P, 3], RGB uint8 [P, 3]."""
    rng = np.random.default_rng(seed)
    corners, colors, areas = [], [], []
    for part, label in zip(world.parts, world.labels, strict=True):
        triangles = part.mesh.vertices[part.mesh.faces]
        a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        weight = {0: 0.02}.get(int(str(label["instance"])), 1.0)
        weight = 0.25 if label["object"] == "table" else weight
        surface = part.surface
        rgb = np.broadcast_to(surface.rgb, (len(area), 3))
        if surface.texture is not None:
            h, w = surface.texture.shape[:2]
            uv = part.mesh.uv[part.mesh.faces].mean(1) % 1
            rgb = surface.texture[
                (uv[:, 1] * (h - 1)).astype(int), (uv[:, 0] * (w - 1)).astype(int)
            ]
        corners.append(triangles)
        colors.append(rgb)
        areas.append(area * weight)
    triangles, rgb, area = (np.concatenate(values) for values in (corners, colors, areas))
    pick = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    a, b, c = (triangles[pick, k] for k in range(3))
    points = a + u * (b - a) + v * (c - a)
    return points.astype(np.float32), (255 * np.clip(rgb[pick], 0, 1)).astype(np.uint8)


def write_ply(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    """A binary ply of coloured points."""
    kinds = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(points), kinds)
    for k, name in enumerate("xyz"):
        rows[name] = points[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, k]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {name}\n" for name in "xyz")
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    path.write_bytes(header.encode() + b"end_header\n" + rows.tobytes())


def write_capture(
    worlds: Sequence[World],
    views: Sequence[View],
    folders: Sequence[Path],
    *,
    spp: int,
    seed: int,
    until: float = np.inf,
    points: int = 12_000,
) -> None:
    """Render the first world's views until time.monotonic() passes `until`.

    The other worlds are the same in other colours, for the other folders. Views that exist already
    are kept, so an interrupted run can be resumed.
    """
    studio = None
    for k, view in enumerate(views):
        name = f"view_{k:03d}.png"
        if (folders[-1] / "labels" / name).exists():
            continue
        if time.monotonic() > until:
            return
        studio = studio or Studio(worlds[0])
        began = time.perf_counter()
        light, albedo = studio.picture(view, spp, seed + k)
        labels = studio.labels(view)
        for world, out in zip(worlds, folders, strict=True):
            for folder in ("images", "labels"):
                (out / folder).mkdir(parents=True, exist_ok=True)
            if world is not worlds[0]:
                image = tone(recolored(light, albedo, labels, worlds[0], world))
            else:
                image = tone(light)
            Image.fromarray(image).save(out / "images" / name)
            Image.fromarray(labels).save(out / "labels" / name)
        print(f"{folders[0].name}/{name} {time.perf_counter() - began:.1f} s", flush=True)
    for world, out in zip(worlds, folders, strict=True):
        _write_descriptions(world, views, out, points)


def _write_descriptions(world: World, views: Sequence[View], out: Path, points: int) -> None:
    first = views[0]
    frames = [
        {"file_path": f"images/view_{k:03d}.png", "transform_matrix": view.camtoworld.tolist()}
        for k, view in enumerate(views)
    ]
    capture = {
        "camera_model": "OPENCV",
        "fl_x": first.focal,
        "fl_y": first.focal,
        "cx": first.width / 2,
        "cy": first.height / 2,
        "w": first.width,
        "h": first.height,
        "ply_file_path": "points.ply",
        "frames": frames,
    }
    (out / "transforms.json").write_text(json.dumps(capture, indent=1))
    (out / "labels.json").write_text(json.dumps({"labels": world.labels}, indent=1))
    write_ply(out / "points.ply", *starting_points(world, points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--seed", type=int, help="random worlds from this seed on")
    parser.add_argument("--scene", choices=list(SCENES), default="teatable", help="a bundled one")
    parser.add_argument("--count", type=int, default=1, help="how many random worlds")
    parser.add_argument("--views", type=int, default=66)
    parser.add_argument("--size", default="480x360", help="WIDTHxHEIGHT")
    parser.add_argument("--spp", type=int, default=32, help="samples a pixel")
    parser.add_argument("--recolors", type=int, default=0, help="each also in so many colourings")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then; run again to go on")
    args = parser.parse_args()
    width, height = (int(part) for part in args.size.split("x"))
    until = time.monotonic() + 60 * args.minutes
    if args.seed is None:
        world = SCENES[args.scene]()
        views = surround(args.views, width, height, furniture=world.furniture)
        write_capture([world], views, [args.out], spp=args.spp, seed=0, until=until)
        return
    for seed in range(args.seed, args.seed + args.count):
        worlds = [random_world(seed, colors) for colors in range(args.recolors + 1)]
        views = surround(args.views, width, height, furniture=worlds[0].furniture, seed=seed)
        folders = [args.out / f"world_{seed:04d}_{k}" for k in range(len(worlds))]
        write_capture(worlds, views, folders, spp=args.spp, seed=seed, until=until)


if __name__ == "__main__":
    if "DRJIT_LIBLLVM_PATH" not in os.environ:
        found = sorted(Path("/usr/lib").glob("*/libLLVM*19*.so*")) + sorted(
            Path("/usr/lib").glob("*/libLLVM.so.19*")
        )
        if found:
            os.environ["DRJIT_LIBLLVM_PATH"] = str(found[0])
    main()
