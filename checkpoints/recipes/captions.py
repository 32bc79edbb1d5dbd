"""What can be said of a crop: every caption with the facts that make it true.

A caption names any of kind, part, color, object color and material; it is true of a crop when all
that it names fits. Letters: B crops, T captions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from look import COLORS, MATERIALS
from things import KINDS, PART_WORDS

# What a room has besides the things; the first name is the kind's own.
ROOM_NAMES: dict[str, tuple[str, ...]] = {
    "table": ("table", "tabletop", "desk", "table top"),
    "shelf": ("shelf", "shelves", "bookshelf"),
    "floor": ("floor", "wooden floor", "ground", "floorboards"),
    "rug": ("rug", "carpet"),
    "wall": ("wall", "wallpaper"),
    "picture": ("picture", "painting on the wall", "picture frame"),
}
# The kind's own name comes first. Its unheard names are left out: they serve to measure.
KIND_NAMES: dict[str, tuple[str, ...]] = {
    name: (name, *kind.names) for name, kind in KINDS.items()
} | ROOM_NAMES
# Their parts, except those that are nearly the whole thing.
ROOM_PARTS: dict[str, tuple[str, ...]] = {
    "table": ("edge", "leg"),
    "shelf": ("side",),
    "wall": ("skirting",),
    "picture": ("frame", "painting"),
}
PART_NAMES: dict[str, tuple[str, ...]] = PART_WORDS | {
    "edge": ("edge",),
    "side": ("side",),
    "skirting": ("skirting", "skirting board", "baseboard"),
    "painting": ("painting",),
}
# Parts that share another part's words.
SAME_PART = {"leaves": "leaf", "stems": "stem", "leg": "legs"}
BARE_NOT = {"body", "case", "box", "walls", "dough", "tip", "navel", "head", "foot", "rose"}
BARE_NOT |= {"edge", "side"}
COLOR_NAMES = {name: (name,) for name in COLORS} | {
    "grey": ("grey", "gray"),
    "turquoise": ("turquoise", "teal", "cyan"),
    "purple": ("purple", "violet"),
}
MATERIAL_NAMES: dict[str, tuple[str, ...]] = {
    "ceramic": ("ceramic", "porcelain"),
    "metal": ("metal", "metallic"),
    "wood": ("wooden", "wood"),
    "plush": ("plush", "fluffy", "furry"),
    "cloth": ("cloth", "fabric"),
    "paper": ("paper", "made of paper"),
    "leather": ("leather",),
    "rubber": ("rubber",),
    "plastic": ("plastic",),
}
NEAR_COLORS = (
    ("yellow", "orange"),
    ("orange", "brown"),
    ("red", "orange"),
    ("white", "grey"),
    ("black", "grey"),
    ("blue", "turquoise"),
    ("pink", "purple"),
)

# Words for things that are in no world; trained as untrue of everything.
_ABSENT = """dog cat horse cow sheep bird fish elephant lion tiger monkey rabbit mouse chicken pig
person man woman child baby hand shoe hat shirt dress jacket sock glove scarf belt bag backpack
suitcase umbrella watch ring necklace glasses sunglasses chair sofa couch bed pillow blanket
curtain door mirror shelf cupboard drawer stove oven fridge microwave toaster sink bathtub toilet
toilet towel soap brush comb razor toothbrush laptop computer keyboard monitor phone tablet camera
television radio speaker headphones cable battery robot printer screwdriver hammer nail saw wrench
drill rope ladder bucket broom shovel hose tent bicycle motorcycle bus truck train airplane boat
ship helicopter rocket road bridge building tower castle church tree forest grass mountain river
lake beach ocean sky cloud sun moon star snow rain pizza burger sandwich bread cheese egg meat
sausage soup salad rice pasta potato carrot tomato onion pepper cucumber lettuce corn mushroom
strawberry grape watermelon pineapple peach chocolate candy milk juice beer wine
knife fork chopsticks pan guitar piano drum violin trumpet football basketball tennis racket skate
dice cards puzzle chess doll lego kite balloon newspaper envelope stamp pencil pen scissors ruler
eraser glue key lock coin wallet""".split()
_PRESENT = {word for names in KIND_NAMES.values() for name in names for word in name.split()}
_PRESENT |= {word for kind in KINDS.values() for name in kind.unheard for word in name.split()}
_PRESENT |= {word for names in PART_NAMES.values() for name in names for word in name.split()}
ABSENT = [word for word in _ABSENT if word not in _PRESENT]

KIND_IDS = {name: k for k, name in enumerate(KIND_NAMES)}
PART_IDS = {name: k for k, name in enumerate(PART_NAMES)}
COLOR_IDS = {name: k for k, name in enumerate(COLORS)}
MATERIAL_IDS = {name: k for k, name in enumerate(MATERIALS)}
WHOLE, GROUP = -1, -2


def part_id(name: str) -> int:
    return PART_IDS[SAME_PART.get(name, name)]


def is_named_part(label: Mapping[str, Any]) -> bool:
    """Whether a label is of a part with a name of its own, not of the main surface of the room."""
    return bool(label["instance"]) or label["part"] in ROOM_PARTS.get(label["object"], ())


@dataclass(frozen=True)
class Caption:
    """A text and what it claims; -1 = it says nothing about that."""

    text: str
    kind: int = -1
    part: int = -1
    color: int = -1
    object_color: int = -1
    material: int = -1


def kind_captions() -> list[Caption]:
    return [Caption(n, kind=KIND_IDS[k]) for k, names in KIND_NAMES.items() for n in names]


def color_kind_captions() -> list[Caption]:
    """Every name of a kind in the kind's colours and brown; for what a room has, in all colours."""
    out = []
    for kind, names in KIND_NAMES.items():
        for color, words in COLOR_NAMES.items():
            if kind in KINDS and color not in KINDS[kind].colors and color != "brown":
                continue  # nothing to learn from: no such thing is ever rendered
            for name in names:
                for word in words:
                    ids = (KIND_IDS[kind], COLOR_IDS[color])
                    out.append(Caption(f"{word} {name}", kind=ids[0], color=ids[1]))
    return out


def part_captions(parts_of: dict[str, Iterable[str]]) -> list[Caption]:
    """As "handle", "red handle", "handle of the mug", "mug handle", "handle of the red mug"."""
    out = []
    for part, names in PART_NAMES.items():
        for name in names:
            if part in BARE_NOT or name in BARE_NOT:
                continue
            out.append(Caption(name, part=PART_IDS[part]))
            for color, words in COLOR_NAMES.items():
                out += [
                    Caption(f"{w} {name}", part=PART_IDS[part], color=COLOR_IDS[color])
                    for w in words
                ]
    for kind, parts in parts_of.items():
        for part in parts:
            ids = {"kind": KIND_IDS[kind], "part": part_id(part)}
            for owner in KIND_NAMES[kind]:
                for name in PART_NAMES[SAME_PART.get(part, part)]:
                    out.append(Caption(f"{name} of the {owner}", **ids))
                    out.append(Caption(f"{owner} {name}", **ids))
            owner, name = KIND_NAMES[kind][0], PART_NAMES[SAME_PART.get(part, part)][0]
            for color, words in COLOR_NAMES.items():
                text = f"{name} of the {words[0]} {owner}"
                out.append(Caption(text, object_color=COLOR_IDS[color], **ids))
    return out


def attribute_captions() -> list[Caption]:
    out = []
    for color, words in COLOR_NAMES.items():
        for word in words:
            for text in (word, f"something {word}", f"{word} thing"):
                out.append(Caption(text, color=COLOR_IDS[color]))
    for material, words in MATERIAL_NAMES.items():
        for word in words:
            for text in (word, f"something {word}"):
                out.append(Caption(text, material=MATERIAL_IDS[material]))
    return out


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known about B crops; part is WHOLE or GROUP if a crop is not of a part."""

    kind: np.ndarray
    part: np.ndarray
    color: np.ndarray
    object_color: np.ndarray
    material: np.ndarray
    kinds_seen: np.ndarray  # [B, kinds] bool, like the next two: all that is in the crop,
    colors_seen: np.ndarray  # so that naming it may not count as false
    materials_seen: np.ndarray
    share: np.ndarray  # the part's, of the object's visible pixels, 0 .. 1

    def rows(self, index: np.ndarray) -> "Facts":
        return Facts(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def truth(facts: Facts, captions: list[Caption]) -> np.ndarray:
    """[B, T] int8: 1 true, 0 false, -1 neither (left out)."""
    columns = ("kind", "part", "color", "object_color", "material")
    kind, part, color, owner, material = (
        np.array([getattr(c, name) for c in captions])[None] for name in columns
    )
    f = {name: getattr(facts, name)[:, None] for name in (*columns, "share")}
    group, whole = f["part"] == GROUP, f["part"] == WHOLE
    same_kind = (kind < 0) | (f["kind"] == kind)
    same_part = np.where(part < 0, (kind < 0) | whole, f["part"] == part)
    # A caption of a whole thing means the thing's own colour; parts have theirs.
    same_color = (color < 0) | (f["color"] == color)
    same_owner = (owner < 0) | (f["object_color"] == owner)
    same_material = (material < 0) | (f["material"] == material)
    out = (same_kind & same_part & same_color & same_owner & same_material & ~group).astype(np.int8)

    kind_seen = (kind < 0) | facts.kinds_seen[:, kind[0]]
    color_seen = (color < 0) | facts.colors_seen[:, color[0]]
    material_seen = (material < 0) | facts.materials_seen[:, material[0]]
    seen = kind_seen & color_seen & material_seen & (out == 0)
    attribute = (kind < 0) & (part < 0)
    out[seen & (group | attribute)] = -1
    # A part that is most of its object nearly is the object. But a whole is none of its parts:
    # else it would answer for them, with higher scores than theirs.
    out[seen & ~group & (f["part"] >= 0) & (part < 0) & (kind >= 0) & (f["share"] > 0.45)] = -1
    for first, second in NEAR_COLORS:
        for a, b in ((first, second), (second, first)):
            near = (color == COLOR_IDS[a]) & (f["color"] == COLOR_IDS[b])
            out[near & same_kind & same_part & (out == 0)] = -1
    return out
