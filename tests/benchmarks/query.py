"""How fast words are answered: at the same view, at a new one, ten at once; and in what memory.

The yardstick for a new word is the slow definition, in the same run: render E = 512 channels of
every level, bring them to length 1, score them. For a new view it is the view's picture in RGB;
the page draws that just before, and then the rasterizer knows what the view sees. The garden of
the rasterizer's benchmark gets random unit codes (3 levels, 64 codewords, 4 in a code), the worst
case: every codeword occurs in every tile. The bundled scenes have codes of their own.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.codec import Codebook
from langsplat.encoders import Encoder, load_encoder
from langsplat.hub import bundled_scenes
from langsplat.query import MIN_SUPPORT, NEGATIVES, SHARPNESS, SceneQuery
from langsplat.rasterize import render
from langsplat.scene import Camera, Gaussians, LanguageField, Scene, load_scene
from tests.benchmarks.rasterize import garden
from tests.benchmarks.rows import Row, row
from tests.benchmarks.synthetic import moved
from tests.conftest import ROOT

DIM, LEVELS, WORDS, TOP = 512, 3, 64, 4
WARM, ASKED = "a warm word", "a word asked before"


class RandomEncoder:
    """Gives every text a unit embedding of its own."""

    name = "random"
    dim = DIM
    image_size = 8

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: list[str]) -> Tensor:
        seeds = [torch.Generator().manual_seed(hash_of(text)) for text in texts]
        return F.normalize(torch.stack([torch.randn(DIM, generator=seed) for seed in seeds]), dim=1)


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode(), "little") % (1 << 31)


def coded(gaussians: Gaussians, camera: Camera) -> Scene:
    """The Gaussians with random unit codes."""
    n, generator = len(gaussians), torch.Generator().manual_seed(0)
    codewords = F.normalize(torch.randn(LEVELS, WORDS, DIM, generator=generator), dim=2)
    rows = torch.randint(WORDS, (LEVELS, n, TOP), generator=generator, dtype=torch.int16)
    codes = torch.rand(LEVELS, n, TOP, generator=generator)
    codes /= codes.sum(2, keepdim=True)
    field = LanguageField(rows, codes, torch.ones(LEVELS, n), Codebook(codewords), "random")
    up, center = torch.tensor([0.0, -1, 0]), gaussians.means.mean(0)
    return Scene(gaussians, (camera,), up, center, 1.0, field)


def garden_scene() -> tuple[str, Scene]:
    name, (means, quats, scales, opacities, colors), views, Ks, width, height = garden()
    gaussians = Gaussians(means, quats, scales, opacities, (colors[:, None] - 0.5) / 0.28209479)
    return name, coded(gaussians, Camera(views[0], Ks[0], width, height))


def exact(engine: SceneQuery, camera: Camera, text: str) -> Tensor:
    """Pixel relevancy [L, H, W] by the slow definition, with every pixel's embedding in full."""
    field, gaussians = engine.scene.language, engine.scene.gaussians
    assert field is not None
    texts = engine.encoder.encode_texts([text, *NEGATIVES]).to(gaussians.device)
    out = []
    for level in range(len(field.levels)):
        dense = field.dense(level)
        values = torch.cat([dense @ field.codec.codewords[level], dense.sum(1, keepdim=True)], 1)
        image, _ = render(gaussians, camera, values=values)
        cosines = F.normalize(image[..., :-1], dim=2) @ texts.T
        margin = cosines[..., 0] - cosines[..., 1:].amax(2)
        out.append(torch.sigmoid(SHARPNESS * margin) * (image[..., -1] > MIN_SUPPORT))
    return torch.stack(out)


def medians(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each; they take turns, so that all meet the same load on the machine."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, taken in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first compiles
                taken.append(time.perf_counter() - began)
    return [float(np.median(taken)) for taken in times]


def measure(name: str, scene: Scene, encoder: Encoder, camera: Camera) -> list[Row]:
    engine, forgetful = SceneQuery(scene, encoder), SceneQuery(scene, encoder, kept_bytes=0)
    slow = exact(engine, camera, ASKED)
    worst = float((engine.relevancy([ASKED], camera)[0] - slow).abs().max())

    shown = camera

    def picture() -> None:
        nonlocal shown
        shown = moved(camera)
        render(scene.gaussians, shown)

    numbers = itertools.count()

    def new(count: int) -> list[str]:
        """Words not asked before, since an engine remembers what a word means."""
        return [f"thing {next(numbers)}" for _ in range(count)]

    def first(count: int, *, drawn: bool = False) -> Callable[[], object]:
        return lambda: forgetful.ask_all(new(count), shown if drawn else moved(camera))

    engine.ask(WARM, camera)
    (word,) = medians([lambda: engine.ask_all(new(1), camera)], 15)
    ten, one = medians(
        [lambda: engine.ask_all(new(10), camera), lambda: engine.ask_all(new(1), camera)], 9
    )
    view, ten_views, rgb, drawn_view = medians(
        [first(1), first(10), picture, first(1, drawn=True)], 25
    )
    (definition,) = medians([lambda: exact(engine, camera, ASKED)], 5)
    label = f"{name} {camera.width}x{camera.height}"
    return [
        row(f"{label}: new word, same view", 1e3 * word, "ms", bar=40, higher_is_better=False),
        row(
            f"{label}: 512 channels over a new word", 1e3 * definition, "ms",
            yardstick=1e3 * word, bar=50,
        ),
        row(f"{label}: difference to it", worst, "relevancy", bar=1e-4, higher_is_better=False),
        row(
            f"{label}: first word at a new view over RGB", 1e3 * view, "ms",
            yardstick=1e3 * rgb, bar=3, higher_is_better=False,
        ),
        row(
            f"{label}: the same, its picture just drawn", 1e3 * drawn_view, "ms",
            yardstick=1e3 * rgb, bar=3, higher_is_better=False,
        ),
        row(
            f"{label}: ten words at a new view over one", 1e3 * ten_views, "ms",
            yardstick=1e3 * view, bar=2, higher_is_better=False,
        ),
        row(
            f"{label}: ten words at the same view over one", 1e3 * ten, "ms",
            yardstick=1e3 * one, bar=2, higher_is_better=False,
        ),
    ]  # fmt: skip


# In a process of its own, so that the peak is the engine's; torch's own memory is not counted.
MEMORY = """
import resource
import langsplat._codes_numba
from tests.benchmarks.query import RandomEncoder, million
from langsplat.query import SceneQuery
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
scene = million()
SceneQuery(scene, RandomEncoder()).ask("thing", scene.cameras[0])
# Not ru_maxrss: that of a child begins at its parent's.
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024 - before)
"""


def million() -> Scene:
    """A room of 1,000,000 Gaussians with harmonics of degree 3, seen at 1440x1080."""
    n, generator = 1_000_000, torch.Generator().manual_seed(0)
    points = torch.randn(n, 3, generator=generator) * torch.tensor([2.0, 1.5, 1.5])
    gaussians = Gaussians(
        means=points,
        quats=torch.randn(n, 4, generator=generator),
        scales=0.01 + 0.03 * torch.rand(n, 3, generator=generator),
        opacities=0.1 + 0.8 * torch.rand(n, generator=generator),
        sh=torch.rand(n, 16, 3, generator=generator),
    )
    view = torch.eye(4)
    view[2, 3] = 4
    K = torch.tensor([[1100.0, 0, 720], [0, 1100, 540], [0, 0, 1]])
    return coded(gaussians, Camera(view, K, 1440, 1080))


def run(device: str = "cpu") -> list[Row]:
    name, scene = garden_scene()
    rows = measure(name, scene.to(device), RandomEncoder(), scene.cameras[0])
    for name, folder in bundled_scenes().items():
        scene = load_scene(folder)
        assert scene.language is not None
        encoder = load_encoder(scene.language.encoder)
        rows += measure(name, scene.to(device), encoder, scene.cameras[0])
    if device == "cpu":
        printed = subprocess.run(
            [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True
        )
        label = "memory of 1,000,000 Gaussians and a view of 1440x1080"
        rows.append(row(label, int(printed.stdout) / 1e6, "MB", bar=2000, higher_is_better=False))
    return rows
