"""Values for what the page draws besides pictures: the 3D point view, the legend, the status line.

The point view gets positions as 16-bit steps in a cube, colors as one byte per point, and a
description in words for those who cannot see a canvas.
"""

import base64
import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from langsplat.query import Answer, heat
from langsplat.rasterize import SH_C0
from langsplat.scene import Scene

MAX_POINTS = 20_000
# 16 bits per axis: a step is far below a pixel, and takes half the bytes of float32.
_STEPS = 65_535
_MIN_OPACITY = 0.25
_SHADES = 6  # of each of red, green and blue in the palette


@dataclass(frozen=True, eq=False)
class Cloud:
    """The part of a scene that the point view shows.

    Attributes:
        rows: [P] the Gaussians that are shown, P <= MAX_POINTS.
        total: how many the scene has.
        low, size: [3] float and a length: the cube around the points, in world units.
        places: [P, 3] uint16, position in the cube.
        shades: [P] uint8, color in a palette of 6 x 6 x 6.
        up, eye: [3] the scene's up, and the first viewpoint, in cube sides from the cube's centre.
        key: the same for the same points.
    """

    rows: np.ndarray
    total: int
    low: np.ndarray
    size: float
    places: np.ndarray
    shades: np.ndarray
    up: np.ndarray
    eye: np.ndarray

    @cached_property
    def key(self) -> str:
        parts = self.rows, self.low, self.places, self.shades
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def cloud_of(scene: Scene) -> Cloud:
    """Choose the points to show: solid Gaussians near what the cameras look at, at most 20,000."""
    means = scene.gaussians.means.numpy()
    center = scene.center.numpy()
    solid = scene.gaussians.opacities.numpy() >= _MIN_OPACITY
    near = np.linalg.norm(means - center, axis=1) <= 1.5 * scene.radius
    rows = np.flatnonzero(solid & near)
    if len(rows) == 0:
        rows = np.arange(len(means))
    if len(rows) > MAX_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))
    shown = means[rows].astype(np.float64)
    if len(rows):
        # A few stray Gaussians must not shrink everything else to a dot.
        low, high = np.quantile(shown, (0.01, 0.99), axis=0)
        middle, size = (low + high) / 2, 1.1 * max(float((high - low).max()), 1e-6)
        inside = (np.abs(shown - middle) <= size / 2).all(axis=1)
        rows, shown = rows[inside], shown[inside]
    else:
        middle, size = center.astype(np.float64), 1.0
    low = middle - size / 2
    color = np.clip(0.5 + SH_C0 * scene.gaussians.sh[:, 0].numpy()[rows], 0, 1)
    shades = np.rint(color * (_SHADES - 1)).astype(np.uint8) @ np.array([36, 6, 1], np.uint8)
    eye = np.array([1.0, 1.0, 1.0])
    if scene.cameras:
        eye = scene.cameras[scene.start_view].position.numpy().astype(np.float64) - middle
    eye = 1.1 * eye / max(float(np.linalg.norm(eye)), 1e-9)
    return Cloud(
        rows=rows,
        total=len(means),
        low=low,
        size=size,
        places=np.rint((shown - low) / size * _STEPS).astype(np.uint16),
        shades=shades,
        up=scene.up.numpy(),
        eye=eye,
    )


def cloud_payload(cloud: Cloud) -> dict[str, Any]:
    """What the point view needs once for each scene: the points, in the scene's own colors."""
    return {
        "key": cloud.key,
        "places": base64.b64encode(cloud.places.tobytes()).decode(),
        "low": cloud.low.tolist(),
        "size": cloud.size,
        "up": cloud.up.tolist(),
        "eye": cloud.eye.tolist(),
        "shades": base64.b64encode(cloud.shades.tobytes()).decode(),
    }


def point_payload(cloud: Cloud, answer: Answer | None) -> dict[str, Any]:
    """What an answer found of the points whose `cloud_payload` was sent before."""
    payload = {"key": cloud.key, "twin": _twin(cloud, answer)}
    if answer is None:
        return payload
    scores = np.clip(answer.gaussian_relevancy[cloud.rows], 0, 1)
    # Bytes >= `cut` are the points found, and rounding must not change which these are.
    cut = math.floor(answer.threshold * 255) + 1
    levels, found = np.rint(scores * 255), scores > answer.threshold
    levels = np.where(found, np.maximum(levels, cut), np.minimum(levels, cut - 1)).astype(np.uint8)
    return payload | {
        "scores": base64.b64encode(levels.tobytes()).decode(),
        "cut": cut,
        "colors": _scale(33),
    }


def _twin(cloud: Cloud, answer: Answer | None) -> str:
    """The point view in words, for those who cannot see a canvas."""
    part = f"{len(cloud.rows):,} of {cloud.total:,} Gaussians"
    shown = f"{part} as points: drag or use arrow keys to turn them."
    if answer is None:
        return f"{shown} No query yet: they have the scene's own colors."
    count = int((answer.gaussian_relevancy[cloud.rows] > answer.threshold).sum())
    if not count:
        return f"{shown} None scores above {answer.threshold:.2f}."
    score, have = ("scores", "it has") if count == 1 else ("score", "they have")
    return (
        f"{shown} {count:,} of them {score} above {answer.threshold:.2f}: {have} the colors of the "
        "scale, the others their own, muted."
    )


def status(text: str, kind: str) -> dict[str, str]:
    """A status line's value; `kind` is plain, busy, found, none or error."""
    return {"text": text, "kind": kind}


def legend(threshold: float) -> str:
    """The relevancy's colors with numbers, and a mark at the threshold. HTML of numbers only."""
    stops = ", ".join(_scale(17))
    ticks = "".join(f"<span>{value:g}</span>" for value in (0, 0.25, 0.5, 0.75, 1))
    return (
        f'<div class="legend" role="img" aria-label="Color scale of the relevancy from 0 (dark '
        f'blue) to 1 (dark red); the threshold is {threshold:.2f}">'
        f'<div class="legend-bar" style="background: linear-gradient(to right, {stops})">'
        f'<i style="left: {100 * threshold:.1f}%"></i></div>'
        f'<div class="legend-ticks">{ticks}</div></div>'
    )


def _scale(steps: int) -> list[str]:
    """The relevancy's colors as evenly spaced CSS colors."""
    colors = heat(np.linspace(0, 1, steps, dtype=np.float32)[None])[0]
    return [f"rgb({r},{g},{b})" for r, g, b in colors.tolist()]
