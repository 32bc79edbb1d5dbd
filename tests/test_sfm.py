"""The SfM worker: what it asks of COLMAP and makes of its answer, and that it ends with its parent.

COLMAP is stood in for; tests/test_capture.py runs the real one.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from langsplat import sfm
from tests.conftest import ROOT

STILL, MOVED = "PANORAMIC", "CALIBRATED"


def model(photos: int, focal: float = 80.0) -> MagicMock:
    """A reconstruction of so many photos; two of them see a point at a right angle."""
    found = MagicMock()
    found.num_reg_images.return_value = photos
    found.reg_image_ids.return_value = [1, 2]
    found.images = {number: MagicMock() for number in (1, 2)}
    found.images[1].projection_center.return_value = np.array([-1.0, 0, 0])
    found.images[2].projection_center.return_value = np.array([1.0, 0, 0])
    point = MagicMock(xyz=np.array([0, 0, 1.0]))
    point.track.elements = [MagicMock(image_id=number) for number in (1, 2)]
    found.points3D = {7: point}
    found.cameras = {1: MagicMock(width=100, height=75)}
    found.cameras[1].mean_focal_length.return_value = focal
    return found


@pytest.fixture
def colmap(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stands in for pycolmap: two photos, one pair of them, no model."""
    colmap = MagicMock()
    colmap.TwoViewGeometryConfiguration.PANORAMIC = STILL
    answer(colmap, [(MOVED, 100)])
    colmap.incremental_mapping.return_value = {}
    monkeypatch.setitem(sys.modules, "pycolmap", colmap)
    return colmap


def answer(colmap: MagicMock, pairs: list[tuple[str, int]]) -> None:
    """What the database holds: each pair's kind and number of matches; 99 and 100 details."""
    database = colmap.Database.open.return_value.__enter__.return_value
    geometries = [MagicMock(config=kind, inlier_matches=range(count)) for kind, count in pairs]
    database.read_two_view_geometries.return_value = ([], geometries)
    database.read_all_images.return_value = [MagicMock(), MagicMock()]
    database.num_keypoints_for_image.side_effect = [99, 100]


def test_the_same_photos_give_the_same_cameras_by_a_seed_set_before_anything_else(
    colmap: MagicMock, tmp_path: Path
) -> None:
    group = {"names": ["a.jpg", "b.jpg"], "width": 64, "height": 48, "focal": None}
    (tmp_path / sfm.JOB_FILE).write_text(json.dumps({"groups": [group]}))
    sfm._work(tmp_path)
    assert colmap.mock_calls[0] == call.set_random_seed(0)
    assert colmap.IncrementalPipelineOptions.call_args.kwargs["random_seed"] == 0


def test_colmap_takes_the_cores_that_it_may_use_not_all_there_are(
    colmap: MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own default asks the system; more threads than cores cost memory and time."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    (tmp_path / sfm.JOB_FILE).write_text(json.dumps({"groups": []}))
    sfm._work(tmp_path)
    assert all(made.kwargs.get("num_threads", -1) < 64 for made in colmap.mock_calls)


@pytest.mark.parametrize("sizes", list(itertools.permutations([4, 9, 6])))
def test_of_several_models_the_largest_is_kept_in_whatever_order_they_come(
    colmap: MagicMock, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    models = {size: model(size, focal=10.0 * size) for size in sizes}
    verdict = sfm._verdict(tmp_path, list(models.values()))
    assert verdict == {
        "model": str(tmp_path / sfm.MODEL),
        "placed": 9,
        "other": 6,
        "poor": 1,
        "turning": False,
        "angle": pytest.approx(90),
        "focal_ratio": 0.9,
    }
    written = [size for size in models if models[size].write_binary.called]
    assert written == [9] and models[9].write_binary.call_args == call(tmp_path / sfm.MODEL)


@pytest.mark.parametrize(
    ("pairs", "turning"),
    [
        ([(STILL, 15), (MOVED, 14)], True),
        ([(STILL, 15), (MOVED, 15)], False),
        ([(STILL, 14)], False),
        ([], False),
    ],
)
def test_a_pair_of_fewer_than_15_matches_does_not_say_whether_the_camera_moved(
    colmap: MagicMock, tmp_path: Path, pairs: list[tuple[str, int]], turning: bool
) -> None:
    answer(colmap, pairs)
    assert sfm._verdict(tmp_path, [])["turning"] is turning


def until(happened: Callable[[], bool], otherwise: str) -> None:
    """Wait for at most 20 s."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@pytest.mark.parametrize(
    "what, error, told",
    [
        ("SQLite error: database or disk is full", OSError, "No space left on device: .*"),
        ("Check failed: x", ValueError, r".*\(exit code 3\).* words: what\(\):  Check failed: x"),
    ],
)
def test_what_colmap_says_before_it_aborts_is_told_and_not_its_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: type[Exception], told: str
) -> None:
    stack = "".join(f"    @     0x7f24788ac05{k % 10} (libc.so.6+0x8e056)\n" for k in range(25))
    words = f"""terminate called after throwing an instance of 'std::runtime_error'
  what():  {what}
*** Aborted at 1795831765 (unix time) try "date -d @1795831765" if you are using GNU date ***
PC: @     0x7f24788a8eec (libc.so.6+0x8aeeb)
*** SIGABRT (@0x572b) received by PID 22315 (TID 0x7f24) from PID 22315; stack trace: ***
{stack}"""
    worker = [sys.executable, "-c", f"import sys; print({words!r}); sys.exit(3)"]
    popen = subprocess.Popen
    monkeypatch.setattr(sfm.subprocess, "Popen", lambda _, **options: popen(worker, **options))
    with pytest.raises(error, match=told):
        sfm.place_cameras(tmp_path, [sfm.PhotoGroup(["a.jpg", "b.jpg"], 64, 48, None)])


def runs(process: str) -> bool:
    """Whether it runs; a dead process may still be listed, until it is collected."""
    try:
        return Path("/proc", process, "stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


FIRST_THREAD = """
import runpy, sys, threading

def start(thread):
    print(*[name for name in ("zlib", "numpy", "pycolmap") if name in sys.modules])
    sys.exit()

threading.Thread.start = start
runpy.run_module("langsplat.sfm", run_name="__main__")
"""


def test_all_that_is_compiled_is_loaded_before_a_thread_waits_for_stdin(tmp_path: Path) -> None:
    """On Windows numpy would else wait for that thread, which waits for the parent's end."""
    (tmp_path / "pycolmap.py").touch()
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", FIRST_THREAD], env=environment, capture_output=True, text=True
    )
    assert run.stdout.split() == ["zlib", "numpy", "pycolmap"], run.stderr


ENDLESS = """
import os, time
from pathlib import Path
from types import SimpleNamespace
logging = SimpleNamespace()

def set_random_seed(seed):
    Path("child").write_text(str(os.getpid()))
    time.sleep(600)
"""
PARENT = """
import signal
from pathlib import Path
from langsplat.sfm import PhotoGroup, place_cameras
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
place_cameras(Path(), [PhotoGroup(["a.jpg", "b.jpg"], 64, 48, None)])
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_worker_that_never_says_a_word_ends_with_its_parent(
    tmp_path: Path, how: signal.Signals
) -> None:
    """It never writes, so it cannot notice that nobody listens, only that its stdin closes."""
    (tmp_path / "pycolmap.py").write_text(ENDLESS)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}
    )
    told = tmp_path / "child"
    try:
        until(lambda: told.exists() and told.read_text() != "", "the worker never began")
        parent.send_signal(how)
        parent.wait(timeout=20)
        until(lambda: not runs(told.read_text()), "the worker outlived its parent")
    finally:
        parent.kill()
        parent.wait()
        if told.exists() and runs(told.read_text()):
            os.kill(int(told.read_text()), signal.SIGKILL)
