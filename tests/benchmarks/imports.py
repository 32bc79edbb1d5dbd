"""Importing official level runs of a million Gaussians: peak memory over one checkpoint's size."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests import official_files as files
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

GAUSSIANS = 1_000_000
MEMORY_BAR = 3.0

# In a process of its own, so that the peak is the import's. What torch and langsplat take by
# themselves, before anything is read, is reported separately.
IMPORT = """
import resource, sys, time
import langsplat._rasterize_numba
from langsplat.official import find_official, import_official
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
began = time.perf_counter()
import_official(find_official([sys.argv[1]]), sys.argv[2])
# Not ru_maxrss: that of a child begins at its parent's.
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
print(before, peak, time.perf_counter() - began)
"""


def run(device: str = "cpu") -> list[Row]:
    """Three 13-element checkpoints, an autoencoder and cameras become a scene with its preview."""
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "project"
        for level in (1, 2, 3):
            run = root / f"output/teatime_{level}"
            latents = torch.eye(3)[[level - 1, level % 3]]
            path = files.write_checkpoint(
                run / "chkpnt30000.pth", "language", GAUSSIANS, latents=latents
            )
            files.write_cfg_args(run / "cfg_args", feature_level=level)
        files.write_colmap(root / "data/teatime/sparse/0")
        torch.save(files.autoencoder_state(), root / "best_ckpt.pth")
        size = path.stat().st_size
        command = [sys.executable, "-c", IMPORT, str(root), str(Path(work) / "scene")]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        before, peak, seconds = (float(word) for word in printed.stdout.split())
        scene = (Path(work) / "scene/scene.safetensors").stat().st_size
    name = "import of 3 runs, 1,000,000 Gaussians"
    return [
        row(
            f"{name}: memory over one file",
            (peak - before) / 1e6,
            "MB",
            yardstick=size / 1e6,
            bar=MEMORY_BAR,
            higher_is_better=False,
        ),
        row(f"{name}: with torch itself", peak / 1e6, "MB", yardstick=size / 1e6),
        row(f"{name}: time", seconds, "s"),
        row(f"{name}: the scene", scene / 1e6, "MB"),
    ]
