"""`python -m tests.benchmarks NAME ... [--json FILE] [--device cpu|cuda]`: measure and print."""

import argparse
import importlib
import json
from pathlib import Path

from tests.benchmarks.rows import Row

NAMES = (
    "rasterize",
    "query",
    "train",
    "build",
    "sfm",
    "page",
    "masks",
    "segments",
    "accuracy",
    "import",
)
MODULES = {"import": "imports"}  # a keyword is no name for a module


def show(row: Row) -> str:
    text = f"{row.name:<58} {row.value:>12.4g} {row.unit:<16}"
    if row.yardstick is not None:
        text += f" yardstick {row.yardstick:.4g}, ratio {row.ratio:.3g}"
    if row.bar is not None:
        text += f"  bar {row.bar:g}: {'ok' if row.ok else 'MISSED'}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.names:
        module = importlib.import_module(f"tests.benchmarks.{MODULES.get(name, name)}")
        for row in module.run(args.device):
            print(show(row), flush=True)
            rows.append(row)
    if args.json:
        args.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
