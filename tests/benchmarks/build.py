"""The whole build of a real capture, as a user runs it: time, memory, size of the scene."""

import json
import re
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
        command += ["--device", device, "--holdout-every", "8"]
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        peak = 0
        while child.poll() is None:
            peak = max(peak, _peak_of(child.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        if child.returncode:
            raise SystemExit("The build failed: run it by itself to read why.")
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


def _peak_of(process: int) -> int:
    """The most bytes a process had resident; not ru_maxrss, which starts at its parent's."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:  # it has just ended
        return 0
    found = re.search(r"VmHWM:\s*(\d+)", status)  # a process that ends has no memory left
    return int(found[1]) * 1024 if found else 0
