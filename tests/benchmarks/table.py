"""Autoencoder queries by table against decoding every pixel: time and error, on the bundled scenes.

No official autoencoder can be shipped, so one of the paper's size (512 numbers, decoder 16 ... 256)
is trained on what each scene's Gaussians stand for. The bundled encoder's embeddings have 128
numbers; they are turned into 512 by a fixed rotation, which changes no cosine.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.codec import (
    Autoencoder,
    AutoencoderConfig,
    Codebook,
    DecodeTable,
    fit_autoencoder,
    tabulate,
)
from langsplat.encoders import Encoder, load_encoder
from langsplat.hub import bundled_scenes
from langsplat.query import MIN_SUPPORT, NEGATIVES, SHARPNESS, SceneQuery, half_smoothed
from langsplat.rasterize import render
from langsplat.scene import Camera, LanguageField, Scene, load_scene
from tests.benchmarks.rasterize import seconds
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

SPEED_BAR, ERROR_BAR, IOU_BAR = 50.0, 0.005, 0.99
COVERED = 0.01  # of the view; smaller masks are not compared
VIEWS = 2
REPEATS = 5  # of decoding every pixel


class Turned:
    """An encoder with its embeddings turned into a space of 512 numbers."""

    image_size = 1
    dim = 512

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.name, self._encoder = encoder.name, encoder
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(self.dim, encoder.dim, generator=generator)
        self.turn = torch.linalg.qr(random)[0].T.to(device)

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        return self._encoder.encode_images(images).to(self.turn) @ self.turn

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._encoder.encode_texts(texts).to(self.turn) @ self.turn


def with_autoencoder(scene: Scene, turn: Tensor) -> tuple[Scene, float]:
    """The scene with latents in place of a codebook's codes; and the held-out cosine."""
    field = scene.language
    assert field is not None and isinstance(field.codec, Codebook)
    levels = range(len(field.levels))
    meant = [F.normalize(field.dense(k) @ field.codec.codewords[k], dim=1) @ turn for k in levels]
    generator = torch.Generator().manual_seed(0)
    some = []
    for rows, mass in zip(meant, field.mass, strict=True):
        known = rows[mass > 0]
        some.append(known[torch.randperm(len(known), generator=generator)[:1000].to(known.device)])
    codec, cosine = fit_autoencoder(
        torch.cat(some), AutoencoderConfig(rounds=40), device=turn.device
    )
    codec = codec.to(turn.device)
    codes = torch.stack([codec.encode(rows) for rows in meant])
    return replace(
        scene, language=LanguageField(None, codes, field.mass, codec, field.encoder)
    ), cosine


def run(device: str = "cpu") -> list[Row]:
    encoder = Turned(load_encoder("bundled", device=device), device)
    words = json.loads((ROOT / "tests/data/words.json").read_text())["kinds"]
    rows = []
    for name, folder in bundled_scenes().items():
        scene = load_scene(folder)
        assert scene.language is not None
        scene, cosine = with_autoencoder(scene.to(device), encoder.turn)
        texts = [*scene.examples, *(word for word in words if word not in scene.examples)]
        rows += compare(name, scene, encoder, texts, cosine, device)
    return rows


def compare(
    name: str, scene: Scene, encoder: Encoder, texts: Sequence[str], cosine: float, device: str
) -> list[Row]:
    field = scene.language
    assert field is not None and not isinstance(field.codec, Codebook)
    codec, latents = field.codec, field.codes[field.mass > 0]
    began = time.perf_counter()
    table = tabulate(codec, latents)
    build = time.perf_counter() - began
    assert table is not None
    engine, decoding = (
        SceneQuery(scene, encoder, exact=exact, near_things=False) for exact in (False, True)
    )
    views = scene.cameras[:: len(scene.cameras) // VIEWS][:VIEWS]
    wrong, ious = [], []
    for view in views:
        wanted, seen = decoded(scene, encoder, texts, view)
        for got, want in zip(engine.relevancy(texts, view), wanted, strict=True):
            wrong.append((got - want).abs()[seen])
            for mask, true in zip(half_smoothed(got) > 0.5, half_smoothed(want) > 0.5, strict=True):
                if float(true.float().mean()) > COVERED:
                    ious.append(float((mask & true).sum() / (mask | true).sum()))
    view, asked = views[0], iter(texts * 100)
    # In turns, so that the load of other programs affects both alike.
    times = []
    decoding.relevancy(texts[:1], view)
    for _ in range(REPEATS):
        exact = _spent(lambda: decoding.relevancy([next(asked)], view), device)
        quick = [_spent(lambda: engine.relevancy([next(asked)], view), device) for _ in range(5)]
        times.append((*exact, *np.median(quick, axis=0)))
    exact_wall, exact_work, wall, work = (float(t) for t in np.median(times, axis=0))
    ratio = float(np.median([one[0] / one[2] for one in times]))
    ten = seconds(lambda: engine.relevancy([next(asked) for _ in range(10)], view), 5, device)
    label = f"{name} {view.width}x{view.height}"
    size = table.rows.numel() * (4 if device == "cuda" else 2) / 1e6  # as it is kept
    return [
        row(f"{label}: new word, same view: decoding over table", ratio, "x", bar=SPEED_BAR),
        row(f"{label}: the same in processor time", exact_work / work, "x"),
        row(f"{label}: new word, same view, by table", 1e3 * wall, "ms"),
        row(f"{label}: new word, same view, every pixel decoded", 1e3 * exact_wall, "ms"),
        row(f"{label}: ten words at once, by table", 1e3 * ten, "ms"),
        row(
            f"{label}: error of relevancy, 99.9th percentile, {len(texts)} words, {VIEWS} views",
            _percentile(torch.cat(wrong)),
            "",
            bar=ERROR_BAR,
            higher_is_better=False,
        ),
        row(f"{label}: the same of the worst word in a view", max(map(_percentile, wrong)), ""),
        row(
            f"{label}: IoU of masks over 1 % of the view, worst of {len(ious)}",
            min(ious, default=1.0),
            "",
            bar=IOU_BAR,
        ),
        row(f"{label}: table of 6 x {table.side}² cells", size, "MB"),
        row(f"{label}: of which its own views look up", 100 * looked_up(scene, table), "%"),
        row(f"{label}: building it", build, "s"),
        row(f"{label}: the autoencoder's held-out cosine", cosine, ""),
    ]


def looked_up(scene: Scene, table: DecodeTable) -> float:
    """The share of a table's corners that the pixels of the scene's own cameras need."""
    field, side = scene.language, table.side
    assert field is not None
    levels = range(len(field.levels))
    values = torch.cat([*(field.values(k) for k in levels), (field.mass.T > 0).float()], dim=1)
    used = torch.zeros(len(table.rows), dtype=torch.bool, device=values.device)
    for camera in scene.cameras:
        image, _ = render(scene.gaussians, camera, values=values)
        seen = image[..., -len(levels) :] > MIN_SUPPORT
        latents = image[..., : -len(levels)].unflatten(2, (len(levels), -1))[seen]
        x, y = ((table.places(latents) + 1) / 2).unbind(-1)
        column, row_of = (x * side).long(), (y * (6 * side + 5)).long()
        for corner in itertools.product((0, 1), (0, 1)):
            used[(row_of + corner[0]) * (side + 1) + column + corner[1]] = True
    return float(used.float().mean())


def decoded(
    scene: Scene, encoder: Encoder, texts: Sequence[str], camera: Camera
) -> tuple[Tensor, Tensor]:
    """By definition, each pixel's embedding against each text, [T, L, H, W]; and what is seen."""
    field = scene.language
    assert field is not None and isinstance(field.codec, Autoencoder)
    levels = range(len(field.levels))
    values = torch.cat([*(field.values(k) for k in levels), (field.mass.T > 0).float()], dim=1)
    image, _ = render(scene.gaussians, camera, values=values)
    latents, share = image[..., :-3].unflatten(2, (3, -1)), image[..., -3:].permute(2, 0, 1)
    cosines = field.codec.cosines(latents, encoder.encode_texts([*texts, *NEGATIVES]))
    found, negatives = cosines.split((len(texts), len(NEGATIVES)), dim=3)
    relevancy = torch.sigmoid(SHARPNESS * (found - negatives.amax(dim=3, keepdim=True)))
    seen = share > MIN_SUPPORT
    return relevancy.permute(3, 2, 0, 1) * seen, seen


def _spent(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds on the clock, and of processor time (all cores together)."""
    began = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _percentile(values: Tensor) -> float:
    return float(np.percentile(values.cpu().numpy(), 99.9)) if len(values) else 0.0
