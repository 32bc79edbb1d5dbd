"""Cut labelled crops out of rendered worlds, exactly as the pipeline cuts them.

    python crops.py WORLD_DIR ... --out crops.npz

Besides the true segments there are imperfect ones, like those of a segmenter: ragged borders,
halves, neighbours glued together, and (--segmenter) those of the bundled segmenter, named after
the thing or part they cover best. If a bundled scene is built from the world, the views that the
scene holds out are skipped (--holdout-every), and the segmenter sees the surface of the scene's
Gaussians, as it does in the pipeline (--built). The archive holds `images` [B, S, S, 3] uint8 and
an array for every field of captions.Facts.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from captions import COLOR_IDS, GROUP, KIND_IDS, MATERIAL_IDS, WHOLE, Facts, is_named_part, part_id
from look import mottle
from PIL import Image
from things import KINDS

from langsplat.features import crop_segments
from langsplat.masks import load_segmenter
from langsplat.rasterize import render_surface
from langsplat.scene import Scene, load_scene
from langsplat.train import split_views

SIZE = 128
SMALLEST_THING, SMALLEST_PART = 90, 24  # pixels


class LabelledView:
    """One view with the facts of every part, and the crops cut from it so far."""

    def __init__(self, image: np.ndarray, labels: np.ndarray, names: list[dict]) -> None:
        self.image, self.labels = image, labels
        count = max(n["index"] for n in names) + 1
        self.kind = np.full(count, -1)
        self.part = np.full(count, -1)
        self.color, self.owner, self.material = (np.zeros(count, int) for _ in range(3))
        self.thing = np.full(count, -1)  # a number per object; for the room, per kind
        room = {}
        for n in names:
            i = n["index"]
            self.kind[i] = KIND_IDS[n["object"]]
            self.part[i] = part_id(n["part"]) if is_named_part(n) else -1
            self.color[i] = COLOR_IDS[n["part_color"]]
            self.owner[i] = COLOR_IDS[n["object_color"]]
            self.material[i] = MATERIAL_IDS[n["material"]]
            self.thing[i] = n["instance"] or 500 + room.setdefault(n["object"], len(room))
        self.thing[0] = -1
        self.area = np.bincount(labels.ravel(), minlength=count)
        self.images: list[np.ndarray] = []
        self.rows: list[tuple] = []

    def cut(self, segments: np.ndarray, level: np.ndarray) -> None:
        """Crop every segment; level[i] is WHOLE, GROUP or 0 (a part) for segment i."""
        self.images.append(crop_segments(self.image, segments, SIZE))
        count = len(self.kind)
        pairs = (segments * count + self.labels)[segments >= 0]
        table = np.bincount(pairs, minlength=len(level) * count).reshape(len(level), count)
        table[:, 0] = 0
        for k, inside in enumerate(table):
            main = int(inside.argmax())
            things = np.bincount(np.maximum(self.thing, 0), weights=inside, minlength=600)
            owner = int(things.argmax())
            if level[k] != 0:  # facts of the thing that fills most of it
                main = int(np.where(self.thing == owner, inside, -1).argmax())
            # Slivers of a neighbour at a ragged border do not count as seen.
            seen = np.flatnonzero(inside > 0.08 * inside.sum())
            share = self.area[main] / max(self.area[self.thing == self.thing[main]].sum(), 1)
            if level[k] == 0:
                part, color = self.part[main], self.color[main]
            else:
                part, color = level[k], self.owner[main]
            self.rows.append(
                (
                    *(self.kind[main], part, color, self.owner[main], self.material[main]),
                    *(
                        _among(self.kind[seen], len(KIND_IDS)),
                        _among(self.color[seen], len(COLOR_IDS)),
                    ),
                    _among(self.material[seen], len(MATERIAL_IDS)),
                    share,
                )
            )


def _among(values: np.ndarray, count: int) -> np.ndarray:
    """[count] bool: which numbers occur among the values."""
    return np.bincount(values[values >= 0], minlength=count) > 0


def _numbered(ids: np.ndarray, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids renumbered from 0 without gaps, -1 for negative and small ones; and the old ids."""
    old, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    keep = (old >= 0) & (counts >= smallest)
    new = np.where(keep, np.cumsum(keep) - 1, -1)
    return new[inverse].reshape(ids.shape).astype(np.int32), old[keep]


def _ragged(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The map with its borders shifted by a few pixels."""
    height, width = ids.shape
    reach = rng.uniform(2, 5)
    dy, dx = ((mottle(rng, 512)[:height, :width] - 0.5) * 2 * reach for _ in range(2))
    y, x = np.mgrid[:height, :width]
    y = np.clip(np.rint(y + dy), 0, height - 1).astype(int)
    return ids[y, np.clip(np.rint(x + dx), 0, width - 1).astype(int)]


def _halves(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut off what lies beyond a random line from every segment, up to 40 % of it."""
    out = ids.copy()
    y, x = np.mgrid[: ids.shape[0], : ids.shape[1]]
    for k in range(int(ids.max()) + 1):
        inside = ids == k
        angle = rng.uniform(0, 2 * np.pi)
        along = (np.cos(angle) * x + np.sin(angle) * y)[inside]
        out[inside] = np.where(along < np.quantile(along, rng.uniform(0.6, 0.95)), k, -1)
    return out


def _glued(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Join some pairs of touching segments; everything else is -1."""
    a, b = ids[:, 2:].ravel(), ids[:, :-2].ravel()
    pairs = np.unique(np.sort(np.stack([a, b], 1)[(a != b) & (a >= 0) & (b >= 0)], 1), axis=0)
    out = np.full_like(ids, -1)
    used: set[int] = set()
    for first, second in rng.permutation(pairs)[:12].tolist():
        if not used & {first, second}:
            out[np.isin(ids, (first, second))] = first
            used |= {first, second}
    return out


def _named(view: LabelledView, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A segmenter's map, -1 where doubtful, and each segment's level: thing, part or group."""
    thing = view.thing[view.labels]
    level = np.full(int(ids.max()) + 1, 99)
    for k in range(len(level)):
        inside = ids == k
        area = inside.sum()
        things, counts = np.unique(thing[inside], return_counts=True)
        best, count = things[counts.argmax()], counts.max()
        if best < 0 or area < SMALLEST_PART:
            continue
        whole = (thing == best).sum()
        labels, of_label = np.unique(view.labels[inside], return_counts=True)
        label, most = labels[of_label.argmax()], of_label.max()
        if count < 0.8 * area:
            level[k] = GROUP
        elif best >= 500:  # of a room only pieces are visible
            level[k] = 0 if view.part[label] >= 0 and most > 0.85 * area else WHOLE
        elif count > 0.65 * whole:
            level[k] = WHOLE
        elif most > 0.85 * area and most > 0.5 * (view.labels == label).sum():
            level[k] = 0
    keep = level != 99
    new = np.where(keep, np.cumsum(keep) - 1, -1)
    return np.where(ids >= 0, new[ids], -1).astype(np.int32), level[keep]


def cut_world(
    folder: Path,
    rng: np.random.Generator,
    *,
    segmenter: bool,
    holdout_every: int = 0,
    built: Scene | None = None,
) -> tuple[list, list]:
    """Crops, and rows of facts, of those views of one world that are not held out.

    `built`: the scene that was built from the world, whose surface the segmenter sees.
    """
    cameras = {Path(camera.name).stem: camera for camera in built.cameras} if built else {}
    names = json.loads((folder / "labels.json").read_text())["labels"]
    images, rows = [], []
    segment = load_segmenter("bundled") if segmenter else None
    files = sorted((folder / "labels").glob("*.png"))
    seen, _ = split_views(len(files), holdout_every)
    for number, file in enumerate([files[view] for view in seen]):
        labels = np.asarray(Image.open(file))
        image = np.asarray(Image.open(folder / "images" / file.name).convert("RGB"))
        view = LabelledView(image, labels, names)
        things = view.thing[labels]
        parts = np.where(view.part[labels] >= 0, labels, -1).astype(int)
        whole, _ = _numbered(things, SMALLEST_THING)
        count = int(whole.max()) + 1
        view.cut(whole, np.full(count, WHOLE))
        for spoiled in (_ragged(whole, rng), _halves(whole, rng)):
            spoiled, left = _numbered(spoiled, SMALLEST_THING)
            view.cut(spoiled, np.full(len(left), WHOLE))
        glued, left = _numbered(_glued(whole, rng), SMALLEST_THING)
        view.cut(glued, np.full(len(left), GROUP))
        for ids in (parts, _ragged(parts, rng)):
            ids, left = _numbered(ids, SMALLEST_PART)
            view.cut(ids, np.zeros(len(left), int))
        if segment is not None and (built or number % 2 == 0):
            surface = None
            if built:
                surface = render_surface(built.gaussians, cameras[file.stem]).numpy()
            for ids in segment(image, surface):
                view.cut(*_named(view, ids))
        images += view.images
        rows += view.rows
    return images, rows


def drawn(rows: list[tuple], count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most `count` crops, fewer of what is everywhere: groups and the room."""
    kind, part = (np.array([row[k] for row in rows]) for k in (0, 1))
    weight = np.where(part == GROUP, 0.2, np.where(kind >= len(KINDS), 0.25, 1.0))
    if len(rows) <= count:
        return np.arange(len(rows))
    return rng.choice(len(rows), count, replace=False, p=weight / weight.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("worlds", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--segmenter", action="store_true", help="the bundled segmenter's too")
    parser.add_argument("--built", type=Path, help="the scene built from the one world")
    parser.add_argument("--holdout-every", type=int, default=0, help="leave out every n-th view")
    parser.add_argument("--keep", type=int, default=10**9, help="crops of a world, at most")
    args = parser.parse_args()
    images, rows, worlds = [], [], []
    ready = [folder for folder in args.worlds if (folder / "labels.json").is_file()]
    for number, folder in enumerate(ready):
        rng = np.random.default_rng([args.seed, number])
        crops, facts = cut_world(
            folder,
            rng,
            segmenter=args.segmenter,
            holdout_every=args.holdout_every,
            built=load_scene(args.built) if args.built else None,
        )
        keep = drawn(facts, args.keep, rng)
        images.append(np.concatenate(crops)[keep])
        rows += [facts[k] for k in keep]
        worlds += [number] * len(keep)
        print(f"{folder.name}: {len(keep)} of {len(facts)} crops", flush=True)
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    arrays = dict(zip(Facts.__dataclass_fields__, columns, strict=True))
    np.savez(args.out, images=np.concatenate(images), world=np.array(worlds), **arrays)


if __name__ == "__main__":
    main()
