"""How long work reports itself: one callback type, and two ways to show it.

A stage calls `progress(stage, done, total, note)` as often as it likes, with `done` of `total`
units finished. The terminal shows a bar with the seconds left; a parent process reads JSON lines.
"""

import json
import sys
import time
from collections.abc import Callable

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
            # A resumed stage starts at done > 0: what an earlier run did says nothing of our pace.
            self._stage, self._began, self._first = stage, now, done
        elapsed = now - self._began
        fresh = done - self._first
        if fresh <= 0 or elapsed < 2.0 or fresh < 0.05 * total:
            return None
        return elapsed / fresh * (total - done)


def terminal_progress() -> Progress:
    """Progress on stderr: one updating line a stage, or plain lines if it is not a terminal."""
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
        text = f"{stage:<22} {share}{remaining}{'  ' + note if note else ''}"
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
