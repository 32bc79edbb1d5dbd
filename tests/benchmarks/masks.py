"""Segment Anything's bookkeeping: which of 300 masks stay, and a whole ViT-B on a picture.

The weights are random (the time does not depend on them), so nothing is downloaded.
"""

import time

import numpy as np

from langsplat.sam import PRESETS, SamSegmenter, SamSettings, keep_masks
from tests.benchmarks.rows import Row, row

HEIGHT, WIDTH, MASKS = 730, 1000, 300
BAR = 30.0


def ellipses(count: int = MASKS, seed: int = 0) -> np.ndarray:
    """[count, HEIGHT, WIDTH] bool: of all sizes from 10 to 250 pixels, covering a pixel 7 times."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    masks = np.empty((count, HEIGHT, WIDTH), bool)
    for mask in masks:
        cx, cy, turn = rng.uniform(0, (WIDTH, HEIGHT, np.pi))
        a, b = np.exp(rng.uniform(np.log(10), np.log(250), 2))
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        np.less((u / a) ** 2 + (v / b) ** 2, 1, out=mask)
    return masks


def pair_by_pair(masks: np.ndarray, scores: np.ndarray, settings: SamSettings) -> np.ndarray:
    """The same rules as a double loop over pairs of masks."""
    keep = scores > settings.score
    order = np.argsort(-scores, kind="stable")
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            both = np.logical_and(masks[i], masks[j]).sum()
            either = np.logical_or(masks[i], masks[j]).sum()
            if both > settings.mask_overlap * either:
                keep[j] = False
            of_i, of_j = both / masks[i].sum(), both / masks[j].sum()
            if of_j >= settings.inside and of_i < settings.fills:
                keep[j] = False
            if of_i >= settings.inside and of_j < settings.fills:
                keep[i] = False
    return keep


def run(device: str = "cpu") -> list[Row]:
    masks = ellipses()
    scores = np.random.default_rng(1).uniform(0.6, 1, len(masks))
    settings = PRESETS["paper"]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        kept = keep_masks(masks, scores, settings)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    wanted = pair_by_pair(masks, scores, settings)
    loop = time.perf_counter() - began
    assert np.array_equal(kept, wanted), "the two disagree"
    seconds = float(np.median(times))
    return [
        row(f"mask NMS, {MASKS} masks {WIDTH} x {HEIGHT}", seconds, "s"),
        row("mask NMS: double loop over pairs, same masks", loop, "s"),
        row("mask NMS: times faster", loop / seconds, "x", bar=BAR),
        row("sam_vit_b:cpu on a picture, random weights", _sam_seconds(device), "s"),
    ]


def _sam_seconds(device: str) -> float:
    """One picture through a whole ViT-B and its filters; no mask survives random weights."""
    from segment_anything import SamPredictor, sam_model_registry

    network = sam_model_registry["vit_b"]().to(device).eval()
    segmenter = SamSegmenter("random", SamPredictor(network), PRESETS["cpu"])
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    began = time.perf_counter()
    segmenter(image)
    return time.perf_counter() - began
