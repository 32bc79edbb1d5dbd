"""What a program sets for itself; how stages report and go on is tested with the stages."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from langsplat.progress import (
    Checkpoints,
    json_progress,
    prepare_process,
    replacing,
    silent,
    terminal_progress,
    torch_threads,
    write_tensors,
)
from tests.conftest import ROOT

NEW_PAGES = """
import resource
from langsplat.progress import prepare_process
prepare_process()
import numpy as np

def work():
    for _ in range(4):
        parts = [np.ones(1_000_000) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

print(-(work() - work()))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc can be told",
)
def test_memory_that_is_freed_stays_with_the_program() -> None:
    """8,000 pages of 4 KB are asked for, four times: hardly any come from the system again."""
    run = subprocess.run(
        [sys.executable, "-c", NEW_PAGES], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert int(run.stdout) < 200


RECYCLED = """
from langsplat.progress import prepare_process
prepare_process()
import numpy as np
from langsplat._rasterize_numba import _memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
pairs = [(_memory(8_000_000), np.ones(16_000)) for _ in range(20)]
for block, _ in pairs:
    block[:] = 1
filled, between = resident(), [small for _, small in pairs]
del pairs, block
print(filled - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is the C library's")
def test_large_memory_that_is_not_recycled_returns_to_the_system() -> None:
    """Though smaller pieces between it are in use, and the heap keeps what is freed."""
    run = subprocess.run(
        [sys.executable, "-c", RECYCLED], capture_output=True, text=True, cwd=ROOT, check=True
    )
    filled, left = map(int, run.stdout.split())
    assert filled > 150_000_000 and left < 20_000_000


def test_a_program_that_starts_does_not_look_for_old_garbage() -> None:
    """What is imported is no garbage; new garbage, a cycle no longer in use, is still collected."""
    code = """
import gc, weakref
from langsplat.progress import prepare_process
prepare_process()
before = gc.get_stats()[2]["collections"]
import torch
print(gc.get_stats()[2]["collections"] - before)

class Cycle:
    def __init__(self):
        self.own = self

gone = weakref.ref(Cycle())
kept = [[] for _ in range(20_000)]
print(gone() is None)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert run.stdout.split() == ["0", "True"]


def test_threads_that_wait_leave_the_cores_to_others_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_the_time_left_goes_by_the_pace_of_this_run_and_this_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stage goes on at 60 of 100, where another run stopped."""
    now = 0.0
    monkeypatch.setattr("langsplat.progress.time", SimpleNamespace(monotonic=lambda: now))
    shows = json_progress(), terminal_progress()
    for at, stage, done in (
        (100.0, "A", 60),
        (101.0, "A", 66),  # too soon
        (103.0, "A", 64),  # too little
        (105.0, "A", 65),
        (110.0, "A", 70),
        (144.0, "A", 99),
        (145.0, "A", 100),  # the end is told whenever it comes
        (150.0, "B", 0),
        (160.0, "B", 80),
    ):
        now = at
        for show in shows:
            show(stage, done, 100, "")
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["left"] for line in lines] == [None, None, None, 35, 30, 44 / 39, 0, None, 2.5]
    assert lines[4] == {"stage": "A", "done": 70, "total": 100, "note": "", "left": 30}
    told = [line.partition(" %")[2] for line in err.splitlines()]
    assert told == ["", ", 35 s left", ", 30 s left", ", 1 s left", "", "", ", 2 s left"]


def test_a_parent_process_is_told_at_once() -> None:
    """This child ends in a way that loses what Python has not handed over yet."""
    code = (
        "import os; from langsplat.progress import json_progress; "
        "json_progress()('Train', 1, 4, ''); os._exit(0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment, check=True
    )
    assert json.loads(run.stdout)["done"] == 1


def test_a_line_that_is_updated_does_not_wrap(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = terminal_progress()
    for done in (0, 100):
        show("Describe segments", done, 100, "300 segments in photo 17.jpg, 2.5 s")
    first, last = capsys.readouterr().err.removeprefix("\r\033[K").split("\r\033[K")
    assert len(first) == 59 and first.startswith("Describe segments")
    assert last.strip().endswith("photo 17.jpg, 2.5 s"), "what stays is whole"


def test_a_terminal_has_a_line_a_stage_that_is_updated_five_times_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("langsplat.progress.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = terminal_progress()
    for at, stage, done in ((0.0, "A", 0), (0.1, "A", 10), (0.3, "A", 25), (0.4, "B", 50)):
        now = at
        show(stage, done, 100, "")
    lines = capsys.readouterr().err.split("\n")
    shown = [[each.split("]")[0][-12:] for each in line.split("\r\033[K")[1:]] for line in lines]
    assert shown == [["." * 12, "." * 12], ["." * 12]]
    assert "[######.." in lines[0] and "[############...." in lines[1]


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_progress()("Read photos", 1, 1, "Left out: \x1b[2Ja\n\x9bé.jpg")
    assert capsys.readouterr().err.endswith("  Left out: \\x1b[2Ja\\n\\x9bé.jpg\n")


def test_an_error_gives_torch_its_threads_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before


def test_of_two_writers_of_one_file_the_last_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    with replacing(file) as one, replacing(file) as two:
        one.write_text("one")
        two.write_text("two")
    assert one != two and file.read_text() == "one"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.state").mkdir()
    with pytest.raises(OSError):
        Checkpoints(tmp_path / "train.state", {}).save({"means": torch.zeros(3)}, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["train.state"]


def test_a_checkpoint_is_due_twenty_seconds_after_the_start_or_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("langsplat.progress.time", SimpleNamespace(monotonic=lambda: now))
    kept, none = Checkpoints(tmp_path / "train.state", {}), Checkpoints(None, {})
    due = []
    for at in (100.0, 119.0, 120.0, 139.0, 140.0):
        now = at
        due.append(kept.due)
        if kept.due:
            kept.save({"means": torch.zeros(3)}, 1)
        assert not none.due, "there is nowhere to save to"
    assert due == [False, False, True, False, True]


def test_a_checkpoint_that_was_loaded_needs_its_file_no_longer(tmp_path: Path) -> None:
    """The next one replaces it, and Windows replaces no file that is mapped into memory."""
    file = tmp_path / "train.state"
    checkpoints = Checkpoints(file, {})
    checkpoints.save({"means": torch.ones(3)}, 1)
    saved = checkpoints.load("Train", 9, silent)
    with file.open("r+b") as opened:  # what is mapped shows this
        opened.write(bytes(file.stat().st_size))
    assert saved is not None and torch.equal(saved.tensors["means"], torch.ones(3))


@pytest.mark.parametrize(
    "numbers", [{}, {"value.done": "7o"}, {"value.done": "7", "value.loss": ""}]
)
def test_a_checkpoint_whose_numbers_are_damaged_is_a_new_start(
    tmp_path: Path, numbers: dict[str, str]
) -> None:
    write_tensors({"means": torch.zeros(3)}, tmp_path / "train.state", numbers | {"of": "photos"})
    told: list[tuple[str, int, int, str]] = []
    checkpoints = Checkpoints(tmp_path / "train.state", {"of": "photos"})
    assert checkpoints.load("Train", 9, lambda *now: told.append(now)) is None
    assert told == [("Train", 0, 9, "the unfinished work found cannot be read: a new start")]


@pytest.mark.parametrize("closed", [1, 2])
def test_what_is_said_to_a_closed_output_is_lost_and_no_error(closed: int) -> None:
    """As by `>&-`; Python then has None in its place."""
    program = (
        "import sys; from langsplat.progress import prepare_process, terminal_progress; "
        "prepare_process(); terminal_progress()('a stage', 1, 1); print('a line'); "
        "sys.stdout.flush(); sys.stderr.flush()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        preexec_fn=lambda: os.close(closed),
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0
    assert ("a line" in said, "a stage" in said) == (closed == 2, closed == 1)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal")
@pytest.mark.parametrize("before", ["SIG_DFL", "SIG_IGN"])
def test_a_program_whose_terminal_is_closed_tidies_up_unless_it_is_to_go_on(before: str) -> None:
    """`nohup` has the signal ignored."""
    program = (
        "import signal; from langsplat.progress import end_tidily; "
        f"signal.signal(signal.SIGHUP, signal.{before}); end_tidily()\n"
        "try:\n    signal.raise_signal(signal.SIGHUP); print('went on')\n"
        "finally:\n    print('tidied up')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    went_on = ["went on"] if before == "SIG_IGN" else []
    assert run.stdout.split("\n") == [*went_on, "tidied up", ""]
