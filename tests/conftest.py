"""Shared by all tests: where real captures live, small scenes, and what was left out."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from langsplat.progress import prepare_process

prepare_process()  # as every program does, before it loads torch

import torch  # noqa: E402

# Before anything imports Triton: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# Triton comes with torch's CUDA builds only.
collect_ignore = [] if find_spec("triton") else ["test_query_triton.py"]

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LANGSPLAT_TEST_DATA", ROOT.parent / "shared" / "data"))


def real_data(folder: str) -> Path:
    """The folder of a real capture, or a skip that says where it was looked for."""
    path = DATA / folder
    if not path.exists():
        pytest.skip(f"real capture {folder} is not in {DATA} (set LANGSPLAT_TEST_DATA)")
    return path


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same seed, whichever ran before it."""
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not torch.cuda.is_available():
        terminalreporter.write_line(
            "No CUDA device: gsplat's tests were deselected; `pytest -m gpu` runs them on one."
        )
