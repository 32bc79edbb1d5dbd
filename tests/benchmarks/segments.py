"""How well segments fit the true things and parts of the bundled scenes, level by level.

For every true thing of at least THING pixels and every true named part of at least PART pixels:
the highest intersection over union with any segment of a level. The pictures are drawn from the
scene's own Gaussians at the labelled cameras, because its photos are not stored. Writes a contact
sheet to docs/segments.jpg.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from langsplat.hub import bundled_scenes
from langsplat.masks import load_segmenter
from langsplat.query import render_rgb
from langsplat.rasterize import render_surface
from langsplat.scene import LEVELS, load_scene
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

THING, PART = 90, 24  # pixels; smaller ones are not measured
ROOM = 0.01  # of the picture; smaller connected pieces of floor, walls, table are not measured
LABELS = ROOT / "tests" / "data"
SECONDS = 0.35  # of one core, per picture of 480x360
REACH = 2  # pixels between a boundary and the true one, at most
SHEET = ROOT / "docs" / "segments.jpg"


class Truth:
    """Label image -> masks of what is to be found, by what `labels.json` says of its numbers."""

    def __init__(self, file: Path) -> None:
        labels = json.loads(file.read_text())["labels"]
        count = max(label["index"] for label in labels) + 1
        kinds: dict[str, int] = {}
        self._thing, self._part, self._any = (np.full(count, -1) for _ in range(3))
        parts: dict[tuple[int, str], int] = {}
        for label in labels:
            i, instance = label["index"], label["instance"]
            if instance:
                self._thing[i] = self._any[i] = instance
                self._part[i] = parts.setdefault((instance, label["part"]), len(parts))
            else:
                self._any[i] = 1000 + kinds.setdefault(label["object"], len(kinds))

    def things(self, labels: np.ndarray) -> list[np.ndarray]:
        return _masks(self._thing[labels], THING)

    def parts(self, labels: np.ndarray) -> list[np.ndarray]:
        return _masks(self._part[labels], PART)

    def room(self, labels: np.ndarray) -> list[np.ndarray]:
        """Table, floor, walls, pictures: each connected piece that is visible among the things."""
        kinds = np.where(self._thing[labels] < 0, self._any[labels], -1)
        masks = []
        for kind in range(1000, kinds.max() + 1):
            pieces, _ = ndimage.label(kinds == kind)
            masks += _masks(pieces - 1, ROOM * labels.size)
        return masks

    def boundary(self, labels: np.ndarray) -> np.ndarray:
        return boundary(self._any[labels])


def _masks(ids: np.ndarray, smallest: float) -> list[np.ndarray]:
    masks = [ids == i for i in np.unique(ids[ids >= 0])]
    return [mask for mask in masks if mask.sum() >= smallest]


def boundary(ids: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels that differ from the one to the right or below."""
    out = np.zeros(ids.shape, bool)
    out[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    out[:-1] |= ids[1:] != ids[:-1]
    return out


def best_ious(segments: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """[H, W] ids and M masks -> [M] highest intersection over union with any one segment."""
    areas = np.bincount(segments.ravel())
    best = np.zeros(len(masks))
    for index, mask in enumerate(masks):
        inside = np.bincount(segments[mask], minlength=len(areas))
        best[index] = (inside / (areas + mask.sum() - inside)).max()
    return best


def boundary_f(found: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of precision and recall of boundary pixels, within REACH pixels."""
    near_true = ndimage.distance_transform_edt(~true) <= REACH
    near_found = ndimage.distance_transform_edt(~found) <= REACH
    precision = near_true[found].mean() if found.any() else 0.0
    recall = near_found[true].mean() if true.any() else 0.0
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def measure(
    views: Iterable[tuple[np.ndarray, np.ndarray | None, np.ndarray]],
    truth: Truth,
    segment: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
) -> dict[str, float]:
    """Views (image, surface, labels) -> every figure by its name, means over things, parts, views.

    "things, any level" takes the best segment of all levels, "things, whole" that of one level.
    """
    found: dict[str, list[np.ndarray]] = {}
    seconds = []
    for image, surface, labels in views:
        began = time.thread_time()
        levels = segment(image, surface)
        seconds.append(time.thread_time() - began)
        for kind in ("things", "parts", "room"):
            masks = getattr(truth, kind)(labels)
            ious = np.stack([best_ious(ids, masks) for ids in levels])
            for name, of_level in zip(LEVELS, ious, strict=True):
                found.setdefault(f"{kind}, {name}", []).append(of_level)
            found.setdefault(f"{kind}, any level", []).append(ious.max(axis=0))
        score = boundary_f(boundary(levels[2]), truth.boundary(labels))
        found.setdefault("boundary F, whole", []).append(np.array([score]))
        for name, ids in zip(LEVELS, levels, strict=True):
            found.setdefault(f"segments, {name}", []).append(np.array([ids.max() + 1]))
    figures = {name: float(np.concatenate(values).mean()) for name, values in found.items()}
    return figures | {"seconds": float(np.median(seconds))}


def bundled_views(scene: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(image, surface, labels) of the labelled views of a bundled scene, drawn from it."""
    loaded = load_scene(bundled_scenes()[scene])
    by_stem = {Path(camera.name).stem: camera for camera in loaded.cameras}
    views = []
    for file in sorted((LABELS / scene).glob("*.png")):
        camera = by_stem[file.stem]
        surface = render_surface(loaded.gaussians, camera).numpy()
        views.append((render_rgb(loaded, camera), surface, np.asarray(Image.open(file))))
    return views


def painted(image: np.ndarray, ids: np.ndarray) -> Image.Image:
    """The picture with every segment in a color of its own and white edges."""
    colors = np.random.default_rng(3).integers(40, 256, (ids.max() + 2, 3))
    colors[-1] = 0
    out = 0.45 * image + 0.55 * colors[ids]
    out[boundary(ids)] = 255
    return Image.fromarray(out.astype(np.uint8))


def contact_sheet(scenes: Iterable[str]) -> None:
    """Two views of every scene: picture, subparts, parts, wholes."""
    segmenter = load_segmenter()
    tiles = []
    for scene in scenes:
        views = bundled_views(scene)
        for image, surface, _ in (views[1], views[len(views) // 2]):
            tiles.append(Image.fromarray(image))
            tiles += [painted(image, ids) for ids in segmenter(image, surface)]
    width, height = 320, 240
    sheet = Image.new("RGB", (4 * width, len(tiles) // 4 * height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile.resize((width, height)), (k % 4 * width, k // 4 * height))
    SHEET.parent.mkdir(exist_ok=True)
    sheet.save(SHEET, quality=85)


def run(device: str = "cpu") -> list[Row]:
    """The yardstick of every figure is the same segmenter on the picture alone."""
    segmenter = load_segmenter()
    rows = []
    scenes = sorted(name for name in bundled_scenes() if (LABELS / name / "labels.json").is_file())
    contact_sheet(scenes)
    for scene in scenes:
        truth = Truth(LABELS / scene / "labels.json")
        views = bundled_views(scene)
        alone = measure(views, truth, lambda image, _: segmenter(image))
        both = measure(views, truth, lambda image, surface: segmenter(image, surface))
        for name, value in both.items():
            title = f"segments: {scene}, {name}"
            if name == "seconds":
                bar = row(title, value, "s of one core", bar=SECONDS, higher_is_better=False)
                rows.append(bar)
            else:
                unit = {"boundary F": "F", "segments": ""}.get(name.split(",")[0], "IoU")
                rows.append(row(title, value, unit, yardstick=alone[name]))
    return rows
