"""Camera positions from bare photos: how many are placed, how well, and how long it takes.

The door's 12 photos as they are, and 40 evenly spaced photos of the bedroom; both at their full
size, on this machine's cores.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from langsplat.capture import Capture, load_capture
from tests.benchmarks.rows import Row, row
from tests.conftest import DATA


def evenly(paths: Sequence[Path], count: int) -> list[Path]:
    return [paths[round(k * (len(paths) - 1) / (count - 1))] for k in range(count)]


def worst_turn(found: Capture, truth: Capture) -> float:
    """Largest angle in degrees between placed and true cameras, after the best rotation."""
    poses = {camera.name: camera.camtoworld[:3, :3].double() for camera in truth.cameras}
    a = torch.stack([camera.camtoworld[:3, :3].double() for camera in found.cameras])
    b = torch.stack([poses[camera.name] for camera in found.cameras])
    u, _, v = torch.linalg.svd((b @ a.mT).sum(0))
    cosine = ((u @ v @ a * b).sum((1, 2)) - 1) / 2
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).max())


def run(device: str = "cpu") -> list[Row]:
    """SfM runs on the CPU whatever the device."""
    rows = []
    for name, count, bar in (("gtsfm_lund_door", 12, 12), ("snowmiku_small", 40, 36)):
        photos = sorted((DATA / name / "images").iterdir())
        with tempfile.TemporaryDirectory() as folder:
            for path in evenly(photos, count):
                shutil.copy(path, folder)
            start = time.perf_counter()
            capture = load_capture(folder, max_side=336)
            seconds = time.perf_counter() - start
        truth = load_capture(DATA / name, max_side=64)
        rows += [
            row(f"sfm {name}: placed of {count}", len(capture.images), "photos", bar=bar),
            row(f"sfm {name}: all stages", seconds, "s"),
            row(f"sfm {name}: worst camera", worst_turn(capture, truth), "degrees"),
            row(f"sfm {name}: points", len(capture.points), "points"),
        ]
    return rows
