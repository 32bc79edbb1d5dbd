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
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from langsplat import sfm
from tests.conftest import ROOT

STILL, EITHER, MOVED = "PANORAMIC", "PLANAR_OR_PANORAMIC", "CALIBRATED"


FAR = [4.0, 0, 1.0]
PAIR = sfm.PhotoGroup(["a.jpg", "b.jpg"], 64, 48, None)


def model(photos: int, focal: float = 80.0) -> MagicMock:
    """A reconstruction of so many photos; two of them see points at 90, 53.13 and 0 degrees."""
    found = MagicMock()
    found.num_reg_images.return_value = photos
    found.reg_image_ids.return_value = [1, 2]
    found.images = {number: MagicMock() for number in (1, 2)}
    found.images[1].projection_center.return_value = np.array([-1.0, 0, 0])
    found.images[2].projection_center.return_value = np.array([1.0, 0, 0])
    found.points3D = {}
    # The length of the last one's ray, divided by itself, is rounded to more than 1.
    for xyz, seen_from in (([0, 0, 1.0], (1, 2)), ([0, 0, 2.0], (1, 2)), (FAR, (1, 1))):
        point = found.points3D[tuple(xyz)] = MagicMock(xyz=np.array(xyz))
        point.track.elements = [MagicMock(image_id=number) for number in seen_from]
    found.cameras = {1: MagicMock(width=100, height=75)}
    found.cameras[1].mean_focal_length.return_value = focal
    return found


@pytest.fixture
def colmap(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stands in for pycolmap: two photos, one pair of them, no model."""
    colmap = MagicMock()
    kinds = colmap.TwoViewGeometryConfiguration
    kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC, kinds.PLANAR = STILL, EITHER, "PLANAR"
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


def test_colmap_gets_each_group_with_its_lens_and_tells_how_far_it_is(
    colmap: MagicMock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [
        {"names": ["c.jpg", "a.jpg"], "width": 64, "height": 48, "focal": 70.5},
        {"names": ["b.jpg", "d.jpg"], "width": 48, "height": 64, "focal": None},
    ]
    (tmp_path / sfm.JOB_FILE).write_text(json.dumps({"groups": groups}))
    readers = [MagicMock(), MagicMock(camera_params="")]
    colmap.ImageReaderOptions.side_effect = readers

    def place(*_: object, initial_image_pair_callback: Callable, **given: Callable) -> dict:
        for photos in (3, 1):  # the first attempt is given up
            initial_image_pair_callback()
            for _photo in range(photos):
                given["next_image_callback"]()
        return {}

    colmap.incremental_mapping.side_effect = place
    sfm._work(tmp_path)
    extracted = [made.kwargs for made in colmap.extract_features.call_args_list]
    assert [each["image_names"] for each in extracted] == [["c.jpg", "a.jpg"], ["b.jpg", "d.jpg"]]
    assert [each["reader_options"] for each in extracted] == readers
    assert all(each["camera_mode"] == colmap.CameraMode.SINGLE for each in extracted)
    assert [reader.camera_params for reader in readers] == ["70.5,32.0,24.0,0", ""]
    assert extracted[0]["extraction_options"].sift.max_num_features == sfm.MAX_FEATURES
    assert colmap.IncrementalPipelineOptions.return_value.min_model_size == 3
    assert colmap.IncrementalPipelineOptions.return_value.extract_colors is True
    pairs = (tmp_path / "pairs.txt").read_text().split("\n")
    assert pairs[:4] == ["a.jpg b.jpg", "a.jpg c.jpg", "a.jpg d.jpg", "b.jpg c.jpg"]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["earlier"] for line in told if "earlier" in line] == [0, 2]
    placing = [line["done"] for line in told if line.get("stage") == sfm.PLACING]
    assert placing == [0, 3, 4, 4, 3]


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
        "angle": pytest.approx(53.13, abs=0.01),
        "focal_ratio": 0.9,
    }
    written = [size for size in models if models[size].write_binary.called]
    assert written == [9] and models[9].write_binary.call_args == call(tmp_path / sfm.MODEL)


def test_a_model_without_points_shows_no_depth(colmap: MagicMock, tmp_path: Path) -> None:
    empty = model(5)
    empty.points3D = {}
    assert sfm._verdict(tmp_path, [empty])["angle"] == 0


@pytest.mark.parametrize(
    ("pairs", "turning"),
    [
        ([(STILL, 15), (MOVED, 14)], True),
        ([(STILL, 15), (MOVED, 15)], False),
        ([(EITHER, 15), (STILL, 15)], True),
        ([("PLANAR", 15)], False),
        ([(STILL, 14)], False),
        ([], False),
    ],
)
def test_only_pairs_of_15_matches_say_whether_the_camera_moved(
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
        ("job.json: No space left on device", OSError, "No space left on device: .*"),
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
    worker_is(f"import sys; print({words!r}); sys.exit(3)", monkeypatch)
    with pytest.raises(error, match=told):
        sfm.place_cameras(tmp_path, [PAIR])


def worker_is(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, popen = [sys.executable, "-c", program], subprocess.Popen
    monkeypatch.setattr(sfm.subprocess, "Popen", lambda _, **options: popen(worker, **options))


RESULT = {"model": None, "placed": 0, "other": 0, "poor": 1, "turning": True}
RESULT |= {"angle": 0.0, "focal_ratio": 1.0}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("", r"\(exit code 0\).* words: nothing"),
        (f"print({json.dumps({'result': RESULT})!r}); exit(1)", r"\(exit code 1\)"),
    ],
)
def test_a_worker_that_gives_no_result_or_ends_badly_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    worker_is(program, monkeypatch)
    with pytest.raises(ValueError, match=told):
        sfm.place_cameras(tmp_path, [PAIR])


def test_what_the_worker_and_colmap_say_is_the_progress_of_all_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        json.dumps({"earlier": 2}),
        "I1128 feature_extraction.cc:258] Processed file [1/2]",
        "I1128 feature_extraction.cc:258] Processed file [2/2]",
        "I1128 pairing.cc:120] Processing block [1/3]",
        json.dumps({"stage": sfm.PLACING, "done": 2, "total": 3, "note": "", "left": None}),
        json.dumps({"result": RESULT}),
    )
    worker_is(f"print({chr(10).join(lines)!r})", monkeypatch)
    told: list[tuple[str, int, int, str]] = []
    found = sfm.place_cameras(
        tmp_path, [PAIR, replace(PAIR, names=["c.jpg"])], progress=lambda *now: told.append(now)
    )
    assert found == sfm.Placement(**RESULT)
    assert told == [
        (sfm.FEATURES, 3, 3, ""),
        (sfm.FEATURES, 3, 3, ""),
        (sfm.MATCHING, 0, 3, ""),
        (sfm.PLACING, 2, 3, ""),
    ]


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
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pycolmap.py").write_text(ENDLESS)
    paths = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
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
