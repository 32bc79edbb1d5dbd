"""Copy a world's labels to where the tests look for them, and write the words they ask.

python ship.py WORLD_DIR --every 8 --out tests/data/desk            # held-out views
python ship.py WORLD_DIR --every 4 --out tests/data/heldout --rest  # the others too
python ship.py --words tests/data/words.json
"""

import argparse
import json
import shutil
from pathlib import Path

from things import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("world", type=Path, nargs="?")
    parser.add_argument("--every", type=int, default=8, help="as --holdout-every of the build")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rest", action="store_true", help="the other views' labels, in others/")
    parser.add_argument("--words", type=Path, help="write kinds and the names never trained here")
    args = parser.parse_args()
    if args.words:
        other = {name: kind for kind, entry in KINDS.items() for name in entry.unheard}
        args.words.write_text(json.dumps({"kinds": sorted(KINDS), "other_names": other}, indent=1))
    if args.world:
        args.out.mkdir(parents=True, exist_ok=True)
        labels = json.loads((args.world / "labels.json").read_text())
        (args.out / "labels.json").write_text(json.dumps(labels, separators=(",", ":")) + "\n")
        for number, file in enumerate(sorted((args.world / "labels").glob("*.png"))):
            folder = args.out if number % args.every == 0 else args.out / "others"
            if number % args.every == 0 or args.rest:
                folder.mkdir(exist_ok=True)
                shutil.copy(file, folder / file.name)


if __name__ == "__main__":
    main()
