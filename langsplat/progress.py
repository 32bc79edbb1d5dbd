"""How long-running work reports progress, resumes after a stop, and shares cores and memory.

A stage calls `progress(stage, done, total, note)` as often as it likes, with `done` of `total`
units finished. The terminal shows a bar with the seconds left; a parent process reads JSON lines.
Now and then a stage saves a checkpoint, to resume from if it is killed.
"""

import contextlib
import ctypes
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_SECONDS = 20.0
"""Between two checkpoints of long-running work."""
_VALUE = "value."  # prefix of the names of numbers in a checkpoint

Progress = Callable[[str, int, int, str], None]
"""`progress(stage, done, total, note)`; total > 0, 0 <= done <= total, note may be empty."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The default: says nothing."""


class Eta:
    """Seconds left of a stage, from the pace since it began; None until 5 % and 2 s have passed."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._first = 0

    def update(self, stage: str, done: int, total: int) -> float | None:
        now = time.monotonic()
        if stage != self._stage:
            # A resumed stage starts at done > 0, and what an earlier run did must not count.
            self._stage, self._began, self._first = stage, now, done
        elapsed = now - self._began
        fresh = done - self._first
        if fresh <= 0 or elapsed < 2.0 or fresh < 0.05 * total:
            return None
        return elapsed / fresh * (total - done)


def plain(text: str) -> str:
    """`text` with control characters, which could steer a terminal, as backslash escapes."""
    return "".join(
        ch.encode("unicode_escape").decode() if unicodedata.category(ch) == "Cc" else ch
        for ch in text
    )


def terminal_progress() -> Progress:
    """Progress on stderr: a line per stage that updates, or plain lines if it is not a terminal."""
    eta = Eta()
    live = sys.stderr.isatty()
    last_stage, last_at = "", 0.0

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last_stage, last_at
        left = eta.update(stage, done, total)
        now = time.monotonic()
        new_stage = stage != last_stage
        if not new_stage and done < total and now - last_at < (0.2 if live else 5.0):
            return
        if new_stage and last_stage and live:
            sys.stderr.write("\n")
        filled = round(24 * done / max(total, 1))
        share = f"[{'#' * filled}{'.' * (24 - filled)}] {100 * done / max(total, 1):3.0f} %"
        remaining = f", {left:.0f} s left" if left is not None and done < total else ""
        text = f"{stage:<22} {share}{remaining}{'  ' + plain(note) if note else ''}"
        if live and done < total:  # a wrapped part would stay when the line is updated
            text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r\033[K{text}" if live else f"{text}\n")
        sys.stderr.flush()
        last_stage, last_at = stage, now

    return show


def json_progress() -> Progress:
    """Progress as JSON lines on stdout, for a parent process: {stage, done, total, note, left}."""
    eta = Eta()

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        left = eta.update(stage, done, total)
        line = {"stage": stage, "done": done, "total": total, "note": note, "left": left}
        print(json.dumps(line), flush=True)

    return show


def hold_python_numbers(config: Any) -> None:
    """Make Python's numbers of a frozen config's numpy ones, which JSON and torch do not take."""

    def held(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(held, value))
        return value.item() if hasattr(value, "item") else value

    for name, value in vars(config).items():
        object.__setattr__(config, name, held(value))


def check_whole(name: str, value: Any) -> None:
    """Raise ValueError unless a setting is a whole number, of Python's or of numpy's."""
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")


class Saved(NamedTuple):
    """The checkpoint of an earlier run: tensors on the CPU, how much was done, other numbers."""

    tensors: "dict[str, Tensor]"
    done: int
    values: dict[str, float]


class Checkpoints:
    """The checkpoint file of a stage: everything that its next step depends on.

    Args:
        path: of the file, which is written whole or not at all; None: nothing is saved.
        identity: inputs and settings. A file with another identity is not used.
    """

    def __init__(self, path: Path | str | None, identity: Mapping[str, str]) -> None:
        self._path, self._identity = None if path is None else Path(path), dict(identity)
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        late = time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        return self._path is not None and late

    def save(self, tensors: "Mapping[str, Tensor]", done: int, **values: int | float) -> None:
        """Replace the file: tensors on any device, how much is done, and numbers, kept exactly."""
        if self._path is None:
            return
        numbers = {_VALUE + name: repr(value) for name, value in (values | {"done": done}).items()}
        with replacing(self._path) as partial:
            whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            write_tensors(whole, partial, self._identity | numbers)
        self._saved = time.monotonic()

    def load(
        self, stage: str, total: int, progress: Progress, *, unit: str = "step"
    ) -> Saved | None:
        """The checkpoint of an earlier run, or None if there is none, of this work and intact.

        If there is a file, the note given to `progress` says whether it is used. It is no error if
        it cannot be: the stage then starts from the beginning.
        """
        if self._path is None or not self._path.exists():
            return None
        saved, note = self._read(self._path)
        done = saved.done if saved is not None else 0
        progress(stage, done, total, note or f"continuing at {unit} {done}")
        return saved

    def _read(self, path: Path) -> tuple[Saved | None, str]:
        """The contents of the file, or the reason why it cannot be used."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as handle:
                found = handle.metadata() or {}
                numbers = {k: v for k, v in found.items() if k.startswith(_VALUE)}
                if {k: v for k, v in found.items() if k not in numbers} != self._identity:
                    return None, "the unfinished work found is of other photos or settings"
                # Copies: Windows replaces no file that is mapped, as the next checkpoint does.
                tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}
            values = {k.removeprefix(_VALUE): float(v) for k, v in numbers.items()}
            return Saved(tensors, int(values.pop("done")), values), ""
        except (SafetensorError, OSError, ValueError, LookupError):
            return None, "the unfinished work found cannot be read: a new start"


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A new hidden file beside `file`, which takes its place at the end; an error removes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.urandom(4).hex()}.{file.name}")  # numpy looks at the suffix
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(tensors: "dict[str, Tensor]", file: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file; OSError if it cannot be written, as for any file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file, metadata)
    except SafetensorError as error:  # its text has the system's error
        raise OSError(None, str(error), str(file)) from error


def digest_of(*parts: "Tensor | str") -> str:
    """A hash of tensors and texts, for the identity of `Checkpoints`."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(f"{tuple(part.shape)} {part.dtype}".encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """A signal handler that does what Ctrl-C does.

    Every `finally` runs: children are ended, partial files and scratch folders removed.
    """
    raise KeyboardInterrupt


def end_tidily() -> None:
    """Let a request to end, and the end of the terminal, do what Ctrl-C does."""
    signal.signal(signal.SIGTERM, interrupt)
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # nohup ignores it
        signal.signal(hangup, interrupt)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run a `with` block of a few seconds that no further Ctrl-C or request to end cuts short."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), signal.SIG_IGN) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def prepare_process() -> None:
    """Process-wide settings of a program, to be made before torch is loaded.

    Without them torch's idle threads spin on the cores that the rasterizer needs, and freed memory
    returns to the system, which hands it out again zeroed, page by page: training steps took 1.4
    times as long. (Memory is left as it is if the C library is not glibc.) Python's garbage
    collector would also scan everything that was ever imported or compiled over and over, for a
    sixth of the page's start: now it scans old objects a hundred times less often, and young ones
    as before.

    Where the output was closed before the program began (`>&-`), what is printed is lost.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1000)
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
            set_option(trim_threshold, 2**31 - 1)
            set_option(mmap_threshold, 2**25)  # the most it takes


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a `with` block with this many torch threads.

    A second thread costs small operations more than it gains, and between two renders it would spin
    on a core that the rasterizer's threads need: on two busy cores a training step with one torch
    thread is six times as fast, a batch of an autoencoder's ten times.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
