"""How costs grow with Gaussians, pixels and words asked at once, with a plot.

Growth is the exponent in cost ~ size^exponent between the last two sizes: 1 is linear. Costs on
the CPU are processor time of all cores together.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from langsplat.progress import torch_threads
from langsplat.query import SceneQuery
from langsplat.rasterize import render
from langsplat.scene import Camera
from tests.benchmarks import synthetic
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

PICTURES = {"cpu": "scale.svg", "cuda": "scale-gpu.svg"}
GAUSSIANS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000)
SIDES = (160, 320, 640, 1280, 1920)  # widths of views of 4:3
WORDS = (1, 2, 5, 10, 20, 50)
BAR = 1.15  # of the growth; 1 is linear
COLORS = ("#1b6ca8", "#c8553d", "#3c8d53", "#7a4fa3", "#b8860b", "#555555")

Curves = dict[str, list[float]]


def run(device: str = "cpu") -> list[Row]:
    panels = [
        ("Gaussians, at 640x480", GAUSSIANS, _against_gaussians(device)),
        *_against_view_and_words(device),
    ]
    draw(ROOT / "docs" / PICTURES[device], panels)
    rows = []
    for title, sizes, curves in panels:
        what = title.split(",")[0]
        for name, costs in curves.items():
            rows += [
                row(f"{name}, {size:,} {what}", cost, "ms")
                for size, cost in zip(sizes, costs, strict=True)
            ]
            growth = math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])
            label = f"{name}: growth with {what}"
            rows.append(row(label, growth, "", bar=BAR, higher_is_better=False))
    return rows


def _against_gaussians(device: str) -> Curves:
    curves: Curves = {}
    for count in GAUSSIANS:
        for codec in ("codebook", "autoencoder"):
            for name, value in _of_scene(count, codec, device).items():
                curves.setdefault(name, []).append(value)
    return curves


def _of_scene(count: int, codec: str, device: str) -> dict[str, float]:
    scene = synthetic.scene(count, codec, device=device)
    engine = SceneQuery(scene, synthetic.AnyWords())
    costs = {f"{codec}, {n}": v for n, v in _queries(engine, scene.cameras, device).items()}
    if codec == "codebook":
        views = itertools.cycle(scene.cameras)
        costs["picture in RGB"] = cost(lambda: render(scene.gaussians, next(views)), device)
    return costs


def _against_view_and_words(device: str) -> list[tuple[str, Sequence[int], Curves]]:
    by_pixels: Curves = {}
    by_words: Curves = {}
    for codec in ("codebook", "autoencoder"):
        scene = synthetic.scene(100_000, codec, device=device)
        engine = SceneQuery(scene, synthetic.AnyWords())
        for width in SIDES:
            cameras = [camera.resized(width) for camera in scene.cameras]
            for name, value in _queries(engine, cameras, device, pixels_only=True).items():
                by_pixels.setdefault(f"{codec}, {name}", []).append(value)
        ask = partial(engine.relevancy, camera=scene.cameras[0])
        by_words[f"{codec}, same view"] = [
            cost(partial(ask, [f"word {number}" for number in range(count)]), device)
            for count in WORDS
        ]
    pixels = [width * width * 3 // 4 for width in SIDES]
    return [
        ("pixels, 100,000 Gaussians", pixels, by_pixels),
        ("words at once, 100,000 Gaussians, 640x480", WORDS, by_words),
    ]


def _queries(
    engine: SceneQuery, cameras: Sequence[Camera], device: str, *, pixels_only: bool = False
) -> dict[str, float]:
    """Milliseconds for each kind of question."""
    views = itertools.cycle(cameras)
    words = (f"word {number}" for number in itertools.count())
    asked = {
        "first word at a view": lambda: engine.relevancy(["word"], next(views)),
        "new word, same view": lambda: engine.relevancy([next(words)], cameras[0]),
        "a word on the Gaussians": lambda: engine.gaussian_relevancy([next(words)]),
    }
    return {
        name: cost(work, device)
        for name, work in asked.items()
        if not (pixels_only and "Gaussians" in name)
    }


def cost(work: Callable[[], object], device: str) -> float:
    """Least milliseconds of six runs, after one to warm up; of fewer if they take long.

    On the CPU it is processor time of all cores together, which other programs change least.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: list[float] = []
    with torch_threads(1):  # a second thread would be counted while it waits
        for _ in range(7):
            began = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(1e3 * (clock() - began))
            if len(times) > 1 and times[-1] > 3000:
                break
    return min(times[1:])


def draw(file: Path, panels: Sequence[tuple[str, Sequence[int], Curves]]) -> None:
    """Draw the panels side by side as SVG; both axes are logarithmic, dotted means linear."""
    width, height, legend = 400, 300, 150
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(panels)} '
        f'{height + legend}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, sizes, curves) in enumerate(panels):
        parts.append(f'<g transform="translate({width * number} 0)">')
        parts += _panel(title, sizes, curves, width, height)
        parts.append("</g>")
    file.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(title: str, sizes: Sequence[int], curves: Curves, width: int, height: int) -> list[str]:
    left, right, top, bottom = 50, width - 15, 30, height - 35
    values = [value for costs in curves.values() for value in costs]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])

    def place(size: float, value: float) -> str:
        x = left + (right - left) * (math.log10(size) - first) / (last - first)
        y = bottom - (bottom - top) * (math.log10(value) - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{left}" y="18" font-size="13">ms against {title}</text>']
    for power in range(low, high + 1):
        x, y = place(sizes[0], 10.0**power).split(",")
        parts.append(f'<path d="M{x} {y}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{10.0**power:g}</text>')
    for size in sizes:
        x, y = place(size, 10.0**low).split(",")
        short = f"{size / 1e6:.3g}M" if size >= 1e6 else f"{size / 1e3:.3g}k"
        short = short if size >= 1000 else str(size)
        parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{short}</text>')
    end = min(sizes[-1], sizes[0] * 10.0 ** (high - low))
    line = f"{place(sizes[0], 10.0**low)} {place(end, 10.0**low * end / sizes[0])}"
    parts.append(f'<polyline points="{line}" stroke="#aaa" stroke-dasharray="2 3" fill="none"/>')
    for row_number, (name, costs) in enumerate(curves.items()):
        color = COLORS[row_number % len(COLORS)]
        dash = ' stroke-dasharray="6 3"' if row_number >= len(COLORS) else ""
        points = " ".join(place(size, value) for size, value in zip(sizes, costs, strict=True))
        parts.append(
            f'<polyline points="{points}" stroke="{color}" stroke-width="2" fill="none"{dash}/>'
        )
        y = bottom + 38 + 15 * row_number
        parts.append(f'<path d="M{left} {y - 4}h24" stroke="{color}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{left + 30}" y="{y}">{name}</text>')
    return parts
