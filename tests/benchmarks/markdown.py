"""Measured rows as sections of a Markdown file, one per benchmark and machine.

A run replaces the section of the same benchmark on the same machine. The others, and the text
before the first, stay as they are.
"""

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from llvmlite.binding import get_host_cpu_name

from tests.benchmarks.rows import Row

INTRODUCTION = """# Benchmarks

Each section says what was run, where and when.
"""


def machine(device: str) -> str:
    """The GPU's name, or the processor's with LLVM's name for its kind and the number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    name = names[0] if names else platform.machine()
    return f"{name} ({get_host_cpu_name()}), {os.cpu_count()} cores"


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def section(name: str, doc: str, picture: str | None, rows: Sequence[Row], device: str) -> str:
    """A benchmark's rows, with the command, the machine and the date of the run."""
    busy = os.getloadavg()[0]
    lines = [
        f"## {name}: {machine(device)}",
        "",
        doc.splitlines()[0],
        "",
        f"`python -m tests.benchmarks {name} --device {device}`, {today()}, "
        f"load of the machine at the end {busy:.1f}",
        "",
        *([f"![{name}]({picture})", ""] if picture else []),
        "| what | figure | yardstick | ratio | bar |",
        "|---|---|---|---|---|",
        *map(_line, rows),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    number = "{:.4g}".format
    if row.value is None:
        figure, bar = f"not measured: {row.why}", "" if row.bar is None else number(row.bar)
    else:
        value = f"{row.value:,.0f}" if abs(row.value) >= 1e4 else number(row.value)
        figure = f"{value} {row.unit}".strip()
        bar = "" if row.bar is None else f"{row.bar:g}: {'ok' if row.ok else '**missed**'}"
    yardstick = "" if row.yardstick is None else number(row.yardstick)
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return f"| {row.name} | {figure} | {yardstick} | {ratio} | {bar} |"


def update(file: Path, sections: Sequence[str]) -> None:
    """Write sections into a file; each replaces the one with its heading or goes to the end."""
    text = file.read_text(encoding="utf-8") if file.exists() else INTRODUCTION
    head, *old = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = {part.split("\n", 1)[0]: part.rstrip() for part in old}
    kept |= {part.split("\n", 1)[0]: part.rstrip() for part in sections}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join([head.rstrip(), *kept.values()]) + "\n", encoding="utf-8")
