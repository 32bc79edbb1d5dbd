"""Three-level queries and feature splatting per second, against LangSplatV2's figures on an A100.

On a GPU at 1440x1080 with a million Gaussians; on the CPU the same code on a small scene. A query
is everything from a text's embedding to the mask: pixel relevancy of three levels, smoothing, the
best level, threshold. Nothing is copied to the host. The naive pipeline is LangSplat's as
published: a render for each level, every pixel decoded, smoothing on the host.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from langsplat.codec import Autoencoder
from langsplat.query import NEGATIVES, SMOOTHING, SceneQuery, half_smoothed
from langsplat.rasterize import render
from langsplat.scene import Camera, Scene
from tests.benchmarks import synthetic
from tests.benchmarks.rows import Row, not_measured, row

QUERY_BAR, SPLAT_BAR = 385.0, 476.0  # LangSplatV2: 384.6 and 476.2 per second
WORDS = [f"word {number}" for number in range(1000)]


def answer(engine: SceneQuery, word: str, camera: Camera) -> Tensor:
    """The mask [H, W] of the best level, on the scene's device."""
    by_level = half_smoothed(engine.relevancy([word], camera)[0])
    best = by_level.flatten(1).amax(dim=1).argmax(dim=0, keepdim=True)
    return by_level.index_select(0, best)[0] > 0.5


def naive(scene: Scene, camera: Camera, texts: Tensor) -> np.ndarray:
    """The mask as LangSplat's own evaluation makes it; texts are the query and the negatives."""
    from scipy.ndimage import uniform_filter

    field = scene.language
    assert field is not None and isinstance(field.codec, Autoencoder)
    levels = []
    for level in range(len(field.levels)):
        latents, _ = render(scene.gaussians, camera, values=field.values(level))
        embeddings = field.codec.decode(latents.flatten(0, 1))  # [H W, E]
        scores = (10 * embeddings @ texts.T).exp()
        pairs = scores[:, :1] / (scores[:, :1] + scores[:, 1:])
        relevancy = pairs.amin(dim=1).unflatten(0, latents.shape[:2]).cpu().numpy()
        size = max(1, round(SMOOTHING * camera.width))
        levels.append(0.5 * (relevancy + uniform_filter(relevancy, size, mode="constant")))
    return max(levels, key=lambda values: float(values.max())) > 0.5


def rate(work: Callable[[], object], device: str, *, repeats: int = 5) -> float:
    """Calls per second: median of batches of about half a second, or of one call if longer."""

    def batch(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    batch(1)
    count = max(1, round(0.5 / batch(1)))
    return float(np.median([count / batch(count) for _ in range(repeats)]))


def run(device: str = "cpu") -> list[Row]:
    rows = [*_of_codec("autoencoder", device), *_of_codec("codebook", device)]
    if device != "cuda":
        why = "no GPU here; --device cuda does it"
        for what, bar in (("a query", QUERY_BAR), ("features of three levels", SPLAT_BAR)):
            name = f"GPU, 1,000,000 Gaussians 1440x1080: {what}"
            rows.append(not_measured(name, why, unit="1/s", bar=bar))
    return rows


def _of_codec(codec: str, device: str) -> list[Row]:
    on_gpu = device == "cuda"
    count, width, height = (1_000_000, 1440, 1080) if on_gpu else (30_000, 336, 252)
    encoder = synthetic.AnyWords()
    encoder.encode_texts([*WORDS, *NEGATIVES])  # the encoder's time is not measured here
    scene = synthetic.scene(count, codec, device=device)
    engine = SceneQuery(scene, encoder)
    field = scene.language
    assert field is not None
    cameras = [camera.resized(width, height) for camera in scene.cameras]
    views, words = itertools.cycle(cameras), itertools.cycle(WORDS)
    values = torch.cat([field.values(k) for k in range(len(field.levels))], dim=1)
    splat = rate(lambda: render(scene.gaussians, next(views), values=values), device)
    new_view = rate(lambda: answer(engine, next(words), synthetic.moved(next(views))), device)
    new_word = rate(lambda: answer(engine, next(words), cameras[0]), device)
    label = f"{codec}, {count:,} Gaussians {width}x{height}"
    query_bar = QUERY_BAR if on_gpu else None
    # The bar is for few numbers: LangSplatV2 splats its few weights of codewords, this the latents.
    splat_bar = SPLAT_BAR if on_gpu and codec == "autoencoder" else None
    channels = values.shape[1]
    rows = [
        row(f"{label}: features of three levels, {channels} channels", splat, "1/s", bar=splat_bar),
        row(f"{label}: a query at a new view", new_view, "1/s", bar=query_bar),
        row(f"{label}: a new word, same view", new_word, "1/s", bar=query_bar),
    ]
    if codec == "autoencoder":
        texts = encoder.encode_texts([WORDS[0], *NEGATIVES]).to(device)
        plain = rate(lambda: naive(scene, next(views), texts), device, repeats=3)
        rows += [
            row(f"{label}: naive pipeline, a query", plain, "1/s"),
            row(f"{label}: a query at a new view over it", new_view / plain, "x"),
            row(f"{label}: a new word over it", new_word / plain, "x"),
        ]
    return rows
