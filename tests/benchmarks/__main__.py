"""`python -m tests.benchmarks [NAME ...] [--device cpu|cuda] [--markdown FILE] [--json FILE]`.

Measures and prints. Without names: everything whose speed depends on the device. Bars of times and
rates are meant for two cores, those of `speed` for a GPU; all others hold on any device.
"""

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks.markdown import section, update
from tests.benchmarks.rows import Row, not_measured

SPEED = ("rasterize", "query", "speed", "table", "scale", "train")
OTHERS = ("build", "sfm", "page", "masks", "segments", "accuracy", "import", "lift", "ablation")
NAMES = (*SPEED, *OTHERS)
OF_TIME = ("ms", "s", "1/s", "iterations/s", "x")  # the units of times, rates and their ratios
MODULES = {"import": "imports"}  # a keyword cannot name a module


def show(row: Row) -> str:
    if row.value is None:
        return f"{row.name:<58} not measured: {row.why}"
    text = f"{row.name:<58} {row.value:>12.4g} {row.unit:<16}"
    if row.yardstick is not None:
        text += f" yardstick {row.yardstick:.4g}, ratio {row.ratio:.3g}"
    if row.bar is not None:
        text += f"  bar {row.bar:g}: {'ok' if row.ok else 'MISSED'}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--markdown", type=Path, help="put a section for each name in this file")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device was found: use --device cpu")
    rows: list[Row] = []
    for name in args.names or SPEED:
        module = importlib.import_module(f"tests.benchmarks.{MODULES.get(name, name)}")
        try:
            measured = module.run(args.device)
        except pytest.skip.Exception as reason:  # a capture is not here
            measured = [not_measured(name, str(reason))]
        if args.device == "cuda" and name != "speed":
            measured = [
                replace(row, bar=None, ok=None) if row.unit in OF_TIME else row for row in measured
            ]
        for row in measured:
            print(show(row), flush=True)
        rows += measured
        if args.markdown:  # at once: a later benchmark may be stopped
            picture = getattr(module, "PICTURES", {}).get(args.device)
            text = section(name, str(module.__doc__), picture, measured, args.device)
            update(args.markdown, [text])
    if args.json:
        args.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
