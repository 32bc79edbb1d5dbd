"""The texts that the bundled encoder learns, and a sentence encoder's rows for them.

There are three sorts: captions, whose truth about a crop is known; absent things, untrue of every
crop; and a pool of everyday words and short phrases of which only the meaning is known, from a
sentence encoder. Through the pool a name that is in no caption ("couch") comes to mean what its
neighbours mean ("sofa"): if the lexicon says so, or else if one kind is clearly the nearest, the
word is taken for a name of it. Letters: T texts, E the sentence encoder's size, K kinds.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from captions import (
    ABSENT,
    COLOR_IDS,
    COLOR_NAMES,
    KIND_IDS,
    KIND_NAMES,
    MATERIAL_NAMES,
    PART_NAMES,
    ROOM_PARTS,
    Caption,
    attribute_captions,
    color_kind_captions,
    kind_captions,
    part_captions,
)
from look import COLORS, Look
from things import KINDS
from torch import Tensor

NEGATIVES = ("object", "things", "stuff", "texture")
# Pairs never shown in training: results on them tell whether colour and kind combine.
UNSEEN = (
    ("mug", "purple"),
    ("teapot", "red"),
    ("book", "turquoise"),
    ("vase", "orange"),
    ("bottle", "pink"),
    ("toy car", "yellow"),
    ("ball", "green"),
    ("house", "purple"),
    ("gift box", "orange"),
    ("candle", "green"),
)
WORDS = 24_000  # the tokenizer's most frequent, for the pool
# A word is taken for another name of a kind if it is this near to the nearest of its names, and
# nearer by this much than to any other kind's.
NEAR, MARGIN = 0.5, 0.08
# A word whose cosine with every known name is below this is taken to mean nothing visible.
FOREIGN = 0.42


def parts_of_kinds() -> dict[str, list[str]]:
    """The named parts of every kind, found by building one of each, and of what a room has."""
    rng = np.random.default_rng(0)
    built = {k: kind.build(Look(rng, kind.colors[0])) for k, kind in KINDS.items()}
    named = {k: [part.name for part in parts] for k, parts in built.items() if len(parts) > 1}
    return named | {k: list(parts) for k, parts in ROOM_PARTS.items()}


def pool_of(tokenizer: open_clip.SimpleTokenizer, seed: int = 0) -> list[str]:
    """Frequent words: alone, in pairs, after adjectives, beside nouns, and in "x of the y"."""
    rng = np.random.default_rng(seed)
    ranked = sorted(tokenizer.encoder.items(), key=lambda item: item[1])
    whole = [text[:-4] for text, _ in ranked if text.endswith("</w>")]
    words = [word for word in whole if word.isascii() and word.isalpha() and len(word) > 2][:WORDS]
    common = words[:6000]
    adjectives = [*COLORS, *(word for names in MATERIAL_NAMES.values() for word in names)]
    parts = [name for names in PART_NAMES.values() for name in names]

    def draw(choices: Sequence[str], count: int) -> list[str]:
        return [choices[k] for k in rng.integers(len(choices), size=count)]

    count = 8000
    pool = list(words)
    pool += [f"{a} {b}" for a, b in zip(draw(common, count), draw(common, count), strict=True)]
    pool += [f"{a} {b}" for a, b in zip(draw(adjectives, count), draw(common, count), strict=True)]
    pool += [f"{a} of the {b}" for a, b in zip(draw(parts, 4000), draw(common, 4000), strict=True)]
    nouns = [name for names in KIND_NAMES.values() for name in names]
    pool += [f"{a} {b}" for a, b in zip(draw(common, count), draw(nouns, count), strict=True)]
    pool += [f"{a} {b}" for a, b in zip(draw(nouns, 4000), draw(common, 4000), strict=True)]
    return list(dict.fromkeys(pool))


class Vocabulary:
    """All captions, in groups that are drawn equally often; tokens and meanings of every text."""

    def __init__(
        self, tokenizer: open_clip.SimpleTokenizer, lexicon: Path, sentences: Path | None = None
    ) -> None:
        self._tokenizer = tokenizer
        known = json.loads(lexicon.read_text())
        self._names: dict[str, str] = known["names"]  # word -> kind
        self._ids: dict[str, list[int]] = {}
        parts = part_captions(parts_of_kinds())
        unseen = {(KIND_IDS[k], COLOR_IDS[c]) for k, c in UNSEEN}
        colored = [c for c in color_kind_captions() if (c.kind, c.color) not in unseen]
        self.groups = [
            kind_captions(),
            colored,
            [c for c in parts if c.kind < 0 and c.color < 0],
            [c for c in parts if c.kind < 0 and c.color >= 0],
            [c for c in parts if c.kind >= 0 and c.object_color < 0],
            [c for c in parts if c.kind >= 0 and c.object_color >= 0],
            attribute_captions(),
        ]
        pool = [*pool_of(tokenizer), *self._names, *known["words"]]
        self.pool = list(dict.fromkeys(pool))
        self.trained = torch.zeros(tokenizer.vocab_size, 1)
        for text in (*self.texts(), "a an the my", "."):
            self.trained[self.ids(text)] = 1
        if sentences is not None:
            self._read(sentences)

    def texts(self) -> list[str]:
        """Every text that the sentence encoder must embed."""
        said = (c.text for group in self.groups for c in group)
        return list(dict.fromkeys([*said, *ABSENT, *NEGATIVES, *self.pool]))

    def _read(self, sentences: Path) -> None:
        with np.load(sentences) as data:
            self._row = {text: k for k, text in enumerate(data["texts"].tolist())}
            self._rows = torch.from_numpy(data["rows"]).float()
        rows = self.meanings(self.pool)
        self.pool_tokens = self.tokens(self.pool)
        kinds = [(rows @ self.meanings(names).T).amax(1) for names in KIND_NAMES.values()]
        self.pool_kinds = torch.stack(kinds, 1)  # [pool, K] cosine to the kind's nearest name
        self.groups += self._taken_for()
        groups = (self.groups[0], self.groups[2], self.groups[6])
        names = [c.text for group in groups for c in group]
        names += [word for words in COLOR_NAMES.values() for word in words]
        near = (rows @ self.meanings(dict.fromkeys(names)).T).amax(1)
        self.foreign = [
            text
            for text, c in zip(self.pool, near.tolist(), strict=True)
            if c < FOREIGN and text not in self._names
        ]

    def _taken_for(self) -> list[list[Caption]]:
        """Captions with words of the pool as other names of kinds: bare, and with a color."""
        said = {caption.text for group in self.groups for caption in group}
        known = {word for names in PART_NAMES.values() for name in names for word in name.split()}
        near, kind = self.pool_kinds.topk(2, dim=1)
        sure = (near[:, 0] > NEAR) & (near[:, 0] - near[:, 1] > MARGIN)
        bare, colored = [], []
        names = list(KIND_NAMES)
        taken = {self.pool[k]: names[int(kind[k, 0])] for k in sure.nonzero()[:, 0].tolist()}
        for text, nearest in (taken | self._names).items():
            first = text.split()[0]
            if text in said or text in known or " of the " in text or first in COLOR_IDS:
                continue
            bare.append(Caption(text, kind=KIND_IDS[nearest]))
            for color in KINDS[nearest].colors if nearest in KINDS else ():
                if (nearest, color) not in UNSEEN:
                    ids = (KIND_IDS[nearest], COLOR_IDS[color])
                    colored.append(Caption(f"{color} {text}", kind=ids[0], color=ids[1]))
        return [bare, colored]

    def word_rows(self) -> tuple[Tensor, Tensor]:
        """Tokens that are whole words of the pool [T], and their sentence embeddings [T, E]."""
        whole = [(self.ids(text), text) for text in self.pool if " " not in text]
        whole = [(ids[0], text) for ids, text in whole if len(ids) == 1]
        return torch.tensor([t for t, _ in whole]), self.meanings([text for _, text in whole])

    def meanings(self, texts: Iterable[str]) -> Tensor:
        """The sentence embeddings of texts, [T, E]."""
        return self._rows[[self._row[text] for text in texts]]

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self._tokenizer.encode(text)
        return self._ids[text]

    def tokens(self, texts: Iterable[str]) -> Tensor:
        """The texts' tokens, [T, context]."""
        length = self._tokenizer.context_length
        out = []
        for text in texts:
            ids = self.ids(text)[: length - 2]
            ids = [self._tokenizer.sot_token_id, *ids, self._tokenizer.eot_token_id]
            out.append(F.pad(torch.tensor(ids), (0, length - len(ids))))
        return torch.stack(out) if out else torch.zeros(0, length, dtype=torch.long)

    def said(self, caption: Caption, rng: np.random.Generator) -> str:
        """The caption as somebody may type it."""
        bare = caption.kind < 0 and caption.part < 0
        before = ("", "", "a ", "the ", "my ", "an " if caption.text[0] in "aeio" else "a ")
        return caption.text if bare else str(rng.choice(before)) + caption.text

    def strange(self, rng: np.random.Generator) -> str:
        """Something that is in no world: a foreign word, or the name of an absent thing."""
        words = ABSENT if rng.random() < 0.4 else self.foreign
        return words[int(rng.integers(len(words)))]
