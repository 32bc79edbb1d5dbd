"""The whole build of a real capture, as a user runs it: time, memory, size of the scene."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from langsplat.scene import SCENE_FILE, load_scene
from tests.benchmarks.rows import Row, row
from tests.conftest import DATA, ROOT


def run(device: str = "cpu") -> list[Row]:
    capture = DATA / "snowmiku_small"
    if not capture.exists():
        raise SystemExit(f"{capture} is absent: set LANGSPLAT_TEST_DATA.")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "scene"
        command = [sys.executable, "-m", "langsplat", "build", str(capture), "--out", str(out)]
        began = time.perf_counter()
        subprocess.run(
            [*command, "--device", device, "--holdout-every", "8"],
            check=True,
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - began
        # The largest resident size any child of this process has reached, in kilobytes on Linux.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        size = (out / SCENE_FILE).stat().st_size
        scene = load_scene(out)
    print(json.dumps(scene.provenance["seconds"]))
    lower = {"higher_is_better": False}
    return [
        row("build: snowmiku_small, all stages", seconds, "s", bar=900, **lower),
        row("build: peak memory", peak / 1e9, "GB", bar=4, **lower),
        row("build: size of the scene", size / 1e6, "MB", bar=15, **lower),
        row("build: Gaussians", len(scene.gaussians), ""),
        row("build: held-out PSNR", scene.provenance["psnr"]["mean"], "dB"),
    ]
