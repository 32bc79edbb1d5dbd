"""What a program sets for itself; how stages report and go on is tested with the stages."""

import ctypes
import subprocess
import sys

import pytest

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
    """8,000 pages of 4 KB are asked for, four times: none comes from the system again."""
    run = subprocess.run(
        [sys.executable, "-c", NEW_PAGES], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert int(run.stdout) < 200


def test_a_program_that_starts_does_not_look_for_old_garbage() -> None:
    """What is imported is no garbage; young garbage, a cycle that was let go, still goes."""
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
