"""Evaluation: labels, and how well a scene's answers fit them by the published protocols.

    labels = read_labels("lerf_ovs/label/teatime")  # LERF-OVS, 3D-OVS, or a rendered world
    asked = SceneQuery(scene, encoder, as_published=True, near_things=False)
    report = evaluate(asked, labels, "langsplat-v1")
    print(report.markdown())

A labelled frame lists objects as LERF-OVS does: a category (the words to ask), its pixels, a box.
A query is a (frame, category) pair: the masks of its objects are joined, and each of their boxes
counts. For each query the relevancy of every level becomes a mask; the protocol chooses a level,
and the IoU of its mask with the label is the score. For localisation the protocol chooses a level
separately, and its brightest spot is a hit if it lies in a box. The report also has the scores of
every level and the best of them (the oracle). Profiles:

- `langsplat-v1`: LangSplat's evaluator of LERF-OVS (arXiv 2312.16084), with its even window and a
  majority vote that never sees the last row and column.
- `langsplat-v2`: LangSplatV2's (arXiv 2507.07136), with odd windows cut at the border.
- `3dovs-v2`: LangSplatV2's of 3D-OVS; only part and whole may answer.
- `3d-selection`: Gaussians are chosen in 3D and drawn alone (OpenGaussian's protocol). Its numbers
  cannot be compared with those of the others.

Frames are found by name, never by number. Letters: T texts, L levels, H W pixels, B boxes (left,
top, right, bottom in pixels, the last column and row included), P corners of a polygon.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

from langsplat.encoders import Encoder
from langsplat.metrics import mask_iou
from langsplat.official import (
    read_array,
    read_autoencoder,
    read_cameras,
    read_cfg_args,
    repeated,
    stem_of,
)
from langsplat.progress import Progress, silent
from langsplat.query import MAX_QUERY_PIXELS, NEGATIVES, SHARPNESS, SceneQuery
from langsplat.rasterize import render
from langsplat.scene import LEVELS, MAX_IMAGE_PIXELS, Camera, writable
from langsplat.train import split_views

STAGE = "Evaluate"
MOST_INDICES = 1 << 20  # of a rendered world's labels
MIN_PIXELS = 60  # a rendered world's query is asked only of frames that show at least this much
SELECTED = 0.5  # a Gaussian whose relevancy exceeds this is selected (3d-selection)
SILHOUETTE = 0.7  # and the mask is where the selected ones reach an alpha above this
LONGEST_LATENT = 1.01  # of official renders: unit latents blend to 1 at most, up to rounding
# With a scene's own labels 65 to 79 % of the queries reach an IoU of 0.25 at their best level, with
# another scene's labels 4 to 7 % (the bundled and the held-out worlds asked with each other's, by a
# throw-away script).
FEW_FITTING = 0.1
_UNIT = 2.0**40  # relevancies are summed as multiples of 1 / this, exactly, so that ties stay ties
_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that meet at a corner are connected
_PHOTOS = {".jpg", ".jpeg", ".png"}
_FRACTION = 16  # bits after the point when edges are followed down the rows
# What reading JSON raises if it is truncated, or not structured as expected.
_NOT_AS_MEANT = (
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    RecursionError,
    OSError,
)


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """One outlined thing.

    Args:
        category: the words to ask for it.
        box: left, top, right, bottom.
        corner: (x, y) of the patch in the picture.
        patch: [h, w] bool, its pixels.
    """

    category: str
    box: tuple[float, float, float, float]
    corner: tuple[int, int]
    patch: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        category: str,
        mask: ArrayLike,
        box: tuple[float, float, float, float] | None = None,
    ) -> "LabelledObject":
        """From a mask [H, W] of the whole picture, where non-zero is inside.

        Without a box, the one around the mask.
        """
        inside = np.asarray(mask) != 0
        columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        if not len(rows):
            return cls(category, box or (0.0, 0.0, -1.0, -1.0), (0, 0), inside[:0, :0])
        left, top, right, bottom = (int(v) for v in (columns[0], rows[0], columns[-1], rows[-1]))
        patch = inside[top : bottom + 1, left : right + 1].copy()
        around = (float(left), float(top), float(right), float(bottom))
        return cls(category, box or around, (left, top), patch)


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A picture's name, its size in pixels, and the objects outlined in it."""

    name: str
    width: int
    height: int
    objects: tuple[LabelledObject, ...]

    @property
    def queries(self) -> list[str]:
        """The categories, each once, in the order in which they first appear."""
        return list(dict.fromkeys(thing.category for thing in self.objects))

    def mask(self, query: str) -> NDArray[np.bool_]:
        """[H, W], the pixels of every object of that category."""
        mask = np.zeros((self.height, self.width), dtype=bool)
        for thing in self.objects:
            if thing.category == query:
                (x, y), (h, w) = thing.corner, thing.patch.shape
                mask[y : y + h, x : x + w] |= thing.patch
        return mask

    def boxes(self, query: str) -> NDArray[np.float64]:
        """[B, 4], the boxes of that category, each once."""
        boxes = dict.fromkeys(thing.box for thing in self.objects if thing.category == query)
        return np.array(list(boxes), dtype=np.float64).reshape(-1, 4)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled frames of one scene.

    Args:
        name: of the scene.
        frames: at least one; pictures are told apart by their names without the ending.
        asked_together: a category -> another text whose answer is joined with its own.
    Raises:
        ValueError: there is no frame, or two have the same name.
    """

    name: str
    frames: tuple[LabelledFrame, ...]
    asked_together: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"The labels {self.name!r} hold no frame: choose another folder.")
        stems = [Path(frame.name).stem for frame in self.frames]
        if (twice := repeated(stems)) is not None:
            raise ValueError(f"Two labelled frames are both called {twice!r}: rename one.")


def read_labels(path: Path | str) -> Labels:
    """Read a folder of labels in one of these layouts.

    - LERF-OVS: `FRAME.json` files (`lerf_ovs/label/<scene>`).
    - 3D-OVS: `segmentations/<frame>/<class>.png` in the folder, or the segmentations folder itself;
      `classes.txt` is not needed: a frame is asked for the classes it has files of.
    - A rendered world: `labels.json`, and index pictures beside it or in `labels/`.

    Raises:
        ValueError: it is none of these, or a file in it cannot be used; the sentence names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"There are no labels at {path}: give a folder.")
    if (folder / "labels.json").is_file():
        return _read_world(folder)
    masks = folder / "segmentations" if (folder / "segmentations").is_dir() else folder
    painted = any(masks.glob("*/*.png"))
    # Beside its segmentations a scene may have JSON files, such as a transforms.json.
    if any(folder.glob("*.json")) and (masks is folder or not painted):
        return _read_lerf(folder)
    if painted:
        return _read_3dovs(masks)
    raise ValueError(
        f"{path} holds no labels: neither FRAME.json files (LERF-OVS), nor segmentations/FRAME/"
        "CLASS.png (3D-OVS), nor labels.json with index pictures (a rendered world)."
    )


def _read_lerf(folder: Path) -> Labels:
    frames = [_lerf_frame(file) for file in sorted(folder.glob("*.json"))]
    return Labels(folder.resolve().name, tuple(frames))


def _lerf_frame(file: Path) -> LabelledFrame:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        info = content["info"]
        name = str(info.get("name") or file.stem)
        width, height = int(info["width"]), int(info["height"])
        things = [
            (
                str(thing["category"]).strip(),
                np.array(thing["segmentation"], dtype=np.float64).reshape(-1, 2),
                [float(value) for value in thing["bbox"]],
            )
            for thing in content["objects"]
        ]
    except _NOT_AS_MEANT as error:
        raise ValueError(
            f"{file} is not a LERF-OVS label, which has info (name, width, height) and objects "
            "(category, segmentation, bbox): correct or remove the file."
        ) from error

    def check(good: bool, otherwise: str) -> None:
        if not good:
            raise ValueError(
                f"{file} is not a LERF-OVS label: {otherwise}. Correct or remove the file."
            )

    good = min(width, height) >= 1 and width * height <= MAX_IMAGE_PIXELS
    check(good, f"the size {width} x {height} is not a picture's")
    reach = np.array([width, height])
    objects = []
    for category, corners, box in things:
        good = bool(category) and len(corners) > 0 and len(box) == 4
        check(good, "an object lacks its category, outline or box")
        good = bool(np.isfinite(corners).all() and np.isfinite(box).all())
        check(good, f"the outline or box of {category!r} is not finite")
        good = bool((corners >= -reach).all() and (corners <= 2 * reach).all())
        check(good, f"the outline of {category!r} lies far outside the picture")
        left, right = sorted(box[0::2])
        top, bottom = sorted(box[1::2])
        mask = fill_polygon(corners, width, height)
        objects.append(LabelledObject.of(category, mask, (left, top, right, bottom)))
    return LabelledFrame(name, width, height, tuple(objects))


def _read_3dovs(folder: Path) -> Labels:
    """<frame>/<class>.png, non-zero inside; the scene's name is that of the folder above."""
    here = folder.resolve()
    name = here.parent.name if here.name == "segmentations" else here.name
    frames = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        objects, sizes = [], set()
        for file in sorted(place.glob("*.png")):
            picture = _picture(file)
            mask = (picture if picture.ndim == 2 else picture[..., 0]) > 0
            sizes.add(mask.shape)
            objects.append(LabelledObject.of(file.stem, mask))
        if len(sizes) > 1:
            raise ValueError(f"The masks in {place} differ in size: correct or remove the frame.")
        if objects:
            height, width = sizes.pop()
            frames.append(LabelledFrame(place.name, width, height, tuple(objects)))
    # LangSplatV2's evaluator asks its scene "room" for the table together with the wall.
    return Labels(name, tuple(frames), {"wood wall": "wood table"} if name == "room" else None)


def _read_world(folder: Path) -> Labels:
    file = folder / "labels.json"
    try:
        things = json.loads(file.read_text(encoding="utf-8"))["labels"]
        queries = world_queries(things)
        size = max(int(thing["index"]) for thing in things) + 1
        if size > MOST_INDICES:
            raise ValueError
    except _NOT_AS_MEANT as error:
        raise ValueError(
            f"{file} does not explain a world's labels (index, instance, object, object_color and "
            "part of each): render it again."
        ) from error
    inside = folder / "labels" if (folder / "labels").is_dir() else folder
    frames = []
    for picture in sorted(inside.glob("*.png")):
        indices = _picture(picture)
        if indices.ndim != 2 or indices.max() >= size:
            raise ValueError(f"{picture} holds numbers that {file.name} does not explain.")
        frames.append(_world_frame(picture.name, indices, queries, size))
    return Labels(folder.resolve().name, tuple(frames))


def _world_frame(
    name: str, indices: np.ndarray, queries: Mapping[str, Sequence[Sequence[int]]], size: int
) -> LabelledFrame:
    counts = np.bincount(indices.ravel(), minlength=size)
    objects = []
    for query, instances in queries.items():
        if sum(int(counts[list(instance)].sum()) for instance in instances) < MIN_PIXELS:
            continue
        for instance in instances:
            if counts[list(instance)].sum():
                chosen = np.zeros(size, dtype=bool)
                chosen[list(instance)] = True
                objects.append(LabelledObject.of(query, chosen[indices]))
    return LabelledFrame(name, indices.shape[1], indices.shape[0], tuple(objects))


def world_queries(labels: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, ...]]]:
    """The queries for a rendered world, from the entries of its labels.json.

    - Every object by its name: "mug", all of them together.
    - "red mug" if that tells some mugs from others: not every mug is red.
    - Every part by its object: "handle of the mug", those of all mugs together; left out if the
      part is all there is of the object.

    A frame is asked for what it shows at least MIN_PIXELS of (see `read_labels`).

    Args:
        labels: index, instance, object, object_color, part of each (and more, unused). Instance 0
            is the room: its objects of one name count as one.
    Returns:
        The text -> for every instance meant, the label indices of its pixels.
    """
    instances: dict[tuple[str, str, int], dict[str, list[int]]] = {}
    for label in labels:
        key = (str(label["object"]), str(label["object_color"]), int(label["instance"]))
        parts = instances.setdefault(key, {})
        parts.setdefault(str(label["part"]), []).append(int(label["index"]))
    out: dict[str, list[tuple[int, ...]]] = {}
    for name in dict.fromkeys(name for name, _, _ in instances):
        same = {key: parts for key, parts in instances.items() if key[0] == name}
        whole = {
            key: tuple(i for rows in parts.values() for i in rows) for key, parts in same.items()
        }
        out[name] = list(whole.values())
        colors = list(dict.fromkeys(color for _, color, _ in same))
        if len(colors) > 1:
            for color in colors:
                out[f"{color} {name}"] = [rows for key, rows in whole.items() if key[1] == color]
        for part in dict.fromkeys(part for parts in same.values() for part in parts):
            meant = [tuple(parts[part]) for parts in same.values() if part in parts]
            if sum(map(len, meant)) < sum(map(len, whole.values())):
                out[f"{part} of the {name}"] = meant
    return out


def write_lerf_labels(labels: Labels, folder: Path | str) -> list[Path]:
    """Write `labels` in the layout of LERF-OVS, one FRAME.json per frame; returns the files.

    An object whose pixels are not connected, or have holes, becomes several of one group with one
    box. Masks and boxes are the same when read back. An object without pixels is left out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for frame in labels.frames:
        objects = [
            {
                "category": thing.category,
                "group": group,
                "segmentation": (polygon + np.array(thing.corner)).astype(float).tolist(),
                "bbox": list(thing.box),
            }
            for group, thing in enumerate(frame.objects, start=1)
            for polygon in trace_polygons(thing.patch)
        ]
        info = {"name": frame.name, "width": frame.width, "height": frame.height}
        file = folder / f"{Path(frame.name).stem}.json"
        content = json.dumps({"info": info, "objects": objects}, ensure_ascii=False)
        file.write_text(writable(content), encoding="utf-8")
        written.append(file)
    return written


def fill_polygon(corners: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels of a polygon, its outline included, as OpenCV 4.10's fillPoly paints them.

    Corners are truncated to whole pixels, the outline is drawn with Bresenham's lines (8-connected,
    from the left), and rows are filled between every other crossing.

    Args:
        corners: [P, 2] x, y in pixels, P >= 1; parts outside the picture are cut off.
        width, height: of the picture.
    Returns:
        [H, W] bool.
    """
    end = np.asarray(corners, dtype=np.float64).reshape(-1, 2).astype(np.int64)
    start = np.roll(end, 1, axis=0)
    # The ends of the visible part of each edge, and whether any of it is visible.
    first, last, seen = start.copy(), end.copy(), np.ones(len(end), dtype=bool)
    beyond = ((end < 0) | (end >= [width, height])).any(axis=1)
    whole = ~(beyond | np.roll(beyond, 1))
    for cut in np.flatnonzero(~whole):
        first[cut], last[cut], seen[cut] = _inside(start[cut], end[cut], width, height)
    painted = np.zeros((height, width), dtype=bool)
    x, y = _outline(first[seen], last[seen])
    painted[y, x] = True

    # Follow every edge from its upper corner down to the row before its lower one, on the line
    # through the ends of its visible part: those are whole pixels, so this is not quite the edge.
    # An edge that is visible in no more than one row keeps its own line.
    level = first[:, 1] == last[:, 1]
    first[level], last[level] = start[level], end[level]
    slanted = start[:, 1] != end[:, 1]
    down = (start[:, 1] < end[:, 1])[slanted, None]
    top, upper = np.where(down, (start[slanted], first[slanted]), (end[slanted], last[slanted]))
    bottom, lower = np.where(down, (end[slanted], last[slanted]), (start[slanted], first[slanted]))
    run = (lower[:, 0] - upper[:, 0]) << _FRACTION
    slope = np.sign(run) * (np.abs(run) // (lower[:, 1] - upper[:, 1]))
    edge, step = _counted(bottom[:, 1] - top[:, 1])
    y = top[edge, 1] + step
    # Rounded to the nearest pixel or, if the edge was cut, to the one on its left.
    half = whole[slanted][edge].astype(np.int64) << _FRACTION - 1
    x = (upper[edge, 0] << _FRACTION) + (y - upper[edge, 1]) * slope[edge] + half
    order = np.lexsort((x, y))
    y, x = y[order], x[order] >> _FRACTION
    y, left, right = y[::2], x[::2].clip(0), x[1::2].clip(max=width - 1)
    drawn = (y >= 0) & (y < height) & (left <= right)
    ends = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(ends, (y[drawn], left[drawn]), 1)
    np.add.at(ends, (y[drawn], right[drawn] + 1), -1)
    return painted | (ends[:, :-1].cumsum(axis=1) > 0)


def _inside(
    start: np.ndarray, end: np.ndarray, width: int, height: int
) -> tuple[list[int], list[int], bool]:
    """The ends x, y of what a picture shows of an edge, and whether it shows any of it.

    Rounded as by OpenCV's clipLine: cut at the upper and lower border first, then at the others.
    """
    a, b = ([int(v) for v in point] for point in (start, end))
    borders = width - 1, height - 1

    def side(point: list[int], axis: int) -> int:
        return (point[axis] > borders[axis]) - (point[axis] < 0)

    for axis in (1, 0):
        if side(a, axis) * side(b, axis) > 0:
            return a, b, False
        for point, other in ((a, b), (b, a)):
            if outside := side(point, axis):
                border = borders[axis] if outside > 0 else 0
                across = (border - point[axis]) * (other[1 - axis] - point[1 - axis])
                point[1 - axis] += int(across / (other[axis] - point[axis]))
                point[axis] = border
    return a, b, True


def _outline(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y of the pixels on the lines from `start` to `end`, [P, 2] whole numbers each."""
    swapped = (start[:, 0] > end[:, 0])[:, None]
    start, end = np.where(swapped, end, start), np.where(swapped, start, end)
    run = end - start
    length = np.abs(run).max(axis=1)
    edge, step = _counted(length + 1)
    run, length = run[edge], np.maximum(length, 1)[edge, None]
    # One pixel a step along the longer axis, rounded along the shorter, halves towards the start.
    moved = (2 * np.abs(run) * step[:, None] + length - 1) // (2 * length)
    pixels = start[edge] + np.sign(run) * moved
    return pixels[:, 0], pixels[:, 1]


def _counted(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For lengths [2, 3]: the rows 0 0 1 1 1 and the steps within each, 0 1 0 1 2."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - np.repeat(lengths.cumsum() - lengths, lengths)


def trace_polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Polygons through the outermost pixels of `mask` [H, W]: filled and joined, they are the mask.

    One for each region (pixels that meet at a corner are connected); a region with holes is cut
    along rows into pieces that have none.

    Returns:
        [P, 2] x, y each, whole pixels.
    """
    from skimage.measure import find_contours

    polygons: list[NDArray[np.int64]] = []
    waiting = [(np.asarray(mask, dtype=bool), 0, 0)] if np.any(mask) else []
    while waiting:
        area, left, top = waiting.pop()
        regions, _ = ndimage.label(area, _TOUCHING)
        for number, place in enumerate(ndimage.find_objects(regions), start=1):
            region = regions[place] == number
            x, y = left + place[1].start, top + place[0].start
            holes = ndimage.binary_fill_holes(region) & ~region
            if holes.any():
                row = int(np.flatnonzero(holes.any(axis=1))[0])
                waiting += [(region[: row + 1], x, y), (region[row:], x, y + row)]
                continue
            # At a level just below 1 the contour runs through the centres of the outer pixels.
            (contour,) = find_contours(np.pad(region, 1).astype(float), 0.999, "high")
            path = np.rint(contour[:-1, ::-1]).astype(np.int64) - 1 + [x, y]
            path = path[(path != np.roll(path, 1, axis=0)).any(axis=1)]
            polygons.append(_corners(path if len(path) else np.array([[x, y]])))
    return polygons


def _corners(path: NDArray[np.int64]) -> NDArray[np.int64]:
    """A closed path of neighbouring pixels without those at which it does not turn."""
    before, after = path - np.roll(path, 1, axis=0), np.roll(path, -1, axis=0) - path
    turns = (before != after).any(axis=1)
    return path[turns] if turns.any() else path[:1]


def _picture(file: Path) -> np.ndarray:
    problem = ValueError(
        f"{file} is no readable PNG of at most {MAX_IMAGE_PIXELS:,} pixels: replace or remove it."
    )
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_IMAGE_PIXELS:
                raise problem
            return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise problem from error


class Prediction(NamedTuple):
    """What a protocol makes of one query's relevancy."""

    masks: NDArray[np.bool_]  # [L, H, W]
    level: int  # whose mask counts
    spots: NDArray[np.bool_]  # [L, H, W], the brightest pixels of each level, ties and all
    spot_level: int  # whose spots count


@dataclass(frozen=True)
class Profile:
    """A protocol over relevancy maps [L, H, W].

    Args:
        name: of the protocol.
        average: computes the box mean [L, H, W] that maps are mixed with, half and half.
        threshold: of the mask, on relevancy rescaled to [-1, 1] and cut at 0.
        vote: smooths masks [L, H, W] by the majority in a 7x7 window.
        inside: choose the level with the highest mean inside its mask, among all but the first;
            else the one with the highest value, among all.
        at_labels: draw views at the labels' size; else resize labels to the views' size.
    """

    name: str
    average: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    threshold: float
    vote: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
    inside: bool = False
    at_labels: bool = True


def predict(relevancy: ArrayLike, profile: Profile, joined: ArrayLike | None = None) -> Prediction:
    """Masks, brightest spots and chosen levels of one query.

    Args:
        relevancy: [L, H, W] in [0, 1].
        joined: [L, H, W], of a text whose mask, not averaged, is joined before the vote.
    """
    maps = np.asarray(relevancy, np.float64)  # takes tensors, too
    average = profile.average(maps)
    mixed = 0.5 * (average + maps)
    masks = _above(mixed, profile.threshold)
    if joined is not None:
        masks |= _above(np.asarray(joined, np.float64), profile.threshold)
    masks = profile.vote(masks)
    if profile.inside:
        sizes = masks.sum(axis=(1, 2))
        scores = (mixed * masks).sum(axis=(1, 2)) / np.maximum(sizes, 1)
        scores[0] = -1.0  # it may not answer, so even a level with an empty mask, 0, beats it
    else:
        scores = mixed.max(axis=(1, 2))
    peaks = average.max(axis=(1, 2), keepdims=True)
    # argmax takes the first of equals: the lowest level.
    return Prediction(masks, int(scores.argmax()), average == peaks, int(peaks.argmax()))


def _above(maps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Where each level, rescaled to [-1, 1] and cut at 0, exceeds the threshold, which is > 0."""
    stretched = maps - maps.min(axis=(1, 2), keepdims=True)
    stretched /= stretched.max(axis=(1, 2), keepdims=True) + 1e-9
    return 2.0 * stretched - 1.0 > threshold  # so the cut itself changes nothing


def _mean_30_reflected(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """30x30, from 15 before to 14 after the pixel; the picture is mirrored at its border."""
    padded = np.pad(_whole(maps), ((0, 0), (15, 14), (15, 14)), mode="reflect")
    return _window_sums(padded, 15, 14)[:, 15:-14, 15:-14] / (_UNIT * 900)


def _mean_29_cut(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """29x29 around the pixel, without what lies outside the picture."""
    rows, columns = (
        np.minimum(np.arange(n) + 15, n) - np.maximum(np.arange(n) - 14, 0) for n in maps.shape[1:]
    )
    return _window_sums(_whole(maps), 14, 14) / (_UNIT * np.multiply.outer(rows, columns))


def _whole(maps: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(maps * _UNIT).astype(np.int64)


def _vote(masks: NDArray[np.bool_], end: int | None = None) -> NDArray[np.bool_]:
    """7x7 majority, a tie is outside; rows and columns from `end` on have no vote.

    Windows are cut at the border of the picture.
    """
    # The running sums overflow 8 bits, but their differences, at most 49, come out right.
    ballots = np.zeros(masks.shape, dtype=np.int8)
    ballots[:, :end, :end] = np.where(masks[:, :end, :end], np.int8(1), np.int8(-1))
    return _window_sums(ballots, 3, 3) > 0


def _window_sums(values: NDArray[Any], before: int, after: int) -> NDArray[Any]:
    """[L, H, W] integers summed over windows from `before` to `after` the pixel on both axes.

    What lies outside counts as 0.
    """
    size = before + 1 + after
    rows = np.pad(values, ((0, 0), (before + 1, after), (0, 0))).cumsum(axis=1, dtype=values.dtype)
    values = rows[:, size:] - rows[:, :-size]
    columns = np.pad(values, ((0, 0), (0, 0), (before + 1, after)))
    columns = columns.cumsum(axis=2, dtype=values.dtype)
    return columns[:, :, size:] - columns[:, :, :-size]


SELECTION = "3d-selection"
PIXEL_PROFILES = {
    profile.name: profile
    for profile in (
        Profile("langsplat-v1", _mean_30_reflected, 0.4, partial(_vote, end=-1)),
        Profile("langsplat-v2", _mean_29_cut, 0.4, _vote),
        Profile("3dovs-v2", _mean_29_cut, 0.25, _vote, inside=True, at_labels=False),
    )
}
PROFILES = (*PIXEL_PROFILES, SELECTION)


def check_profile(profile: str) -> None:
    """Raise ValueError, listing the names there are, unless this is one of PROFILES."""
    if profile not in PROFILES:
        raise ValueError(f"There is no profile {profile!r}: use {', '.join(PROFILES)}.")


@dataclass(frozen=True)
class Row:
    """One query: a category in a frame.

    Attributes:
        scene, frame, query: which.
        level: the level the protocol chose, whose `iou` (in [0, 1]) counts.
        ious: of every level.
        spot_level, hit: the level chosen for localisation, and whether its brightest spot lies in a
            box; None if the protocol, or the label, has no boxes.
        hits: of every level.
        held_out: whether the scene was built, and described, without this view.
    """

    scene: str
    frame: str
    query: str
    level: str
    iou: float
    ious: tuple[float, ...]
    spot_level: str | None = None
    hit: bool | None = None
    hits: tuple[bool, ...] = ()
    held_out: bool = False

    @property
    def oracle(self) -> float:
        """IoU of the level that would have been best."""
        return max(self.ious)


def _unlike(name: str, known: Container[str]) -> str:
    """`name`, or `name (2)` and so on if that is known already."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(other for other in itertools.chain([name], numbered) if other not in known)


@dataclass(frozen=True)
class Report:
    """Every query's result and their means.

    Args:
        profile: the protocol.
        levels: their names, in the order of `Row.ious`.
        rows: at least one.
        notes: sentences for the user: what did not fit and what was done about it.
    """

    profile: str
    levels: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def joined(cls, reports: Iterable["Report"]) -> "Report":
        """Several scenes' reports of one profile as one; scenes of one name get numbers.

        Raises:
            ValueError: there is none, or their profiles or levels differ.
        """
        reports = list(reports)
        if len({(report.profile, report.levels) for report in reports}) != 1:
            raise ValueError("Only reports of one profile, and of the same levels, can be joined.")
        rows: list[Row] = []
        for report in reports:
            known, names = {row.scene for row in rows}, {}
            for scene in dict.fromkeys(row.scene for row in report.rows):
                names[scene] = _unlike(scene, known)
                known.add(names[scene])
            rows += [replace(row, scene=names[row.scene]) for row in report.rows]
        notes = tuple(dict.fromkeys(note for report in reports for note in report.notes))
        return cls(reports[0].profile, reports[0].levels, tuple(rows), notes)

    @property
    def scenes(self) -> dict[str, dict[str, Any]]:
        """The means of each scene: see `_means`."""
        names = dict.fromkeys(row.scene for row in self.rows)
        return {name: _means([row for row in self.rows if row.scene == name]) for name in names}

    @property
    def macro(self) -> dict[str, Any]:
        """The mean of the scenes' means, each scene weighing the same (LangSplat's "overall")."""
        scenes = list(self.scenes.values())
        means = {key: _mean([scene[key] for scene in scenes]) for key in scenes[0]}
        return means | {"queries": len(self.rows)}

    @property
    def micro(self) -> dict[str, Any]:
        """The mean over all queries, each weighing the same."""
        return _means(self.rows)

    @property
    def held_out(self) -> dict[str, Any] | None:
        """The mean over queries of views that their scene has not seen; None if there are none."""
        rows = [row for row in self.rows if row.held_out]
        return _means(rows) if rows else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON values only."""
        return {
            "profile": self.profile,
            "levels": list(self.levels),
            "scenes": self.scenes,
            "scene_macro": self.macro,
            "query_micro": self.micro,
            "held_out_views": self.held_out,
            "queries": [asdict(row) | {"oracle": row.oracle} for row in self.rows],
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """Two tables, of scenes and of queries (a text over all its frames); in percent."""
        means = {**self.scenes, "**scene macro**": self.macro, "**query micro**": self.micro}
        if self.held_out is not None:
            means["query micro, held-out views"] = self.held_out
        lines = [f"Profile {self.profile}; all in percent; mIoU by level and of the oracle level."]
        lines += ["", *self._table("scene", "queries", means)]
        asked: dict[str, list[Row]] = {}
        several = len(self.scenes) > 1
        for row in self.rows:
            asked.setdefault(f"{row.scene}: {row.query}" if several else row.query, []).append(row)
        by_text = {text: _means(rows) for text, rows in asked.items()}
        lines += ["", *self._table("query", "frames", by_text)]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def _table(self, first: str, counted: str, means: dict[str, dict[str, Any]]) -> list[str]:
        titles = {"iou": "mIoU", "accuracy": "localisation"}
        if self.profile == SELECTION:
            titles = {"iou": "mIoU", "over_25": "Acc@0.25", "over_50": "Acc@0.5"}
        heads = [first, counted, *titles.values(), *self.levels, "oracle"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, mean in means.items():
            shares = [*map(mean.__getitem__, titles), *mean["by_level"], mean["oracle"]]
            cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
            name = name.replace("|", "\\|")
            lines.append(f"| {name} | {mean['queries']} | {' | '.join(cells)} |")
        return lines


def _means(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over queries, in [0, 1]; accuracy is None where no query has a box."""
    hits = [row.hit for row in rows if row.hit is not None]
    return {
        "queries": len(rows),
        "iou": _mean([row.iou for row in rows]),
        "accuracy": _mean(hits) if hits else None,
        "over_25": _mean([row.iou > 0.25 for row in rows]),
        "over_50": _mean([row.iou > 0.5 for row in rows]),
        "by_level": _mean([row.ious for row in rows]),
        "oracle": _mean([row.oracle for row in rows]),
    }


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of equally long lists element by element, ignoring None."""
    known = [value for value in values if value is not None]
    return np.mean(known, axis=0).tolist() if known else None


class Renders(Protocol):
    """What can be evaluated: pictures with names, and the relevancy of texts in them.

    Attributes:
        name: of the scene, for sentences.
        levels: their names.
        names: of the pictures.
        held_out: the numbers of the pictures that building and describing the scene left out.
    """

    @property
    def name(self) -> str: ...
    @property
    def levels(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def held_out(self) -> Collection[int]: ...

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of a picture."""

    def relevancy(
        self, index: int, texts: Sequence[str], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """[T, L, H, W] in [0, 1], in `size` (width, height) where that can be chosen."""


class _SceneRenders:
    """The views of a scene that can be asked."""

    def __init__(self, engine: SceneQuery) -> None:
        self.engine = engine
        self.name = engine.scene.name
        language = engine.scene.language
        assert language is not None  # a SceneQuery has one
        self.levels = language.levels
        self.names = [camera.name for camera in engine.scene.cameras]
        made = engine.scene.provenance
        self.held_out = self._held_out(made)
        if "described" in made:
            self.held_out &= self._held_out(made["described"])

    @property
    def notes(self) -> list[str]:
        """How this differs from what the papers' evaluators compute."""
        differs = []
        if self.engine.near_things:
            differs.append("parts are held to their things (near_things)")
        if not self.engine.as_published:
            differs.append(
                "pixels that described Gaussians paint less than half answer nothing, and blended "
                "latents are decoded at length 1 (as_published)"
            )
        if not differs:
            return []
        return [f"Asked as users ask, not as the papers do: {'; '.join(differs)}."]

    def _held_out(self, stage: Any) -> frozenset[int]:
        """The views that a stage did not see, according to its settings in the provenance."""
        settings = stage.get("settings") if isinstance(stage, Mapping) else None
        every = settings.get("holdout_every") if isinstance(settings, Mapping) else 0
        every = every if isinstance(every, int) else 0
        return frozenset(split_views(len(self.names), every)[1])

    def camera(self, index: int, size: tuple[int, int]) -> Camera:
        return self.engine.scene.cameras[index].resized(*size)

    def size(self, index: int) -> tuple[int, int]:
        camera = self.engine.scene.cameras[index]
        return camera.width, camera.height

    def relevancy(
        self, index: int, texts: Sequence[str], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        return self.engine.relevancy(texts, self.camera(index, size)).cpu().numpy()

    def selections(
        self, index: int, frame: LabelledFrame, size: tuple[int, int]
    ) -> Iterator[tuple[str, Prediction]]:
        """Masks of the selected Gaussians, drawn alone; their mean relevancy picks the level."""
        gaussians = self.engine.scene.gaussians
        camera = self.camera(index, size).to(gaussians.device)
        for query in frame.queries:
            relevancy = self.engine.gaussian_relevancy([query])[0]  # [L, N]
            _check_finite(relevancy.cpu().numpy(), query, frame, self.name)
            selected = relevancy > SELECTED
            means = (relevancy * selected).sum(dim=1) / selected.sum(dim=1).clamp_min(1)
            alphas = [render(gaussians.select(chosen), camera)[1] for chosen in selected]
            masks = (torch.stack(alphas)[..., 0] > SILHOUETTE).cpu().numpy()
            yield query, Prediction(masks, int(means.argmax()), masks[:0], 0)


class OfficialRenders:
    """Renders of the official LangSplat code, decoded by its autoencoder: no scene is needed.

    Its evaluator is reproduced: blended latents are decoded as they are, even if shorter than 1.
    Renders are numbered; here they get the names of their photos, from cameras.json or the folder
    `images`, in the order of names; without every 8th if cfg_args says `eval=True`.

    Args:
        case: what the three runs' folders have in common: `output/teatime` for
            `output/teatime_1`, `_2` and `_3`, each with `train/ours_.../renders_npy/00000.npy` ....
        autoencoder: best_ckpt.pth of that scene.
        encoder: whose embeddings the autoencoder was trained on.
        images: the folder of the photos; None reads cameras.json of the first run.
    Raises:
        ValueError: something is missing or cannot be used, or there are not as many renders as
            photos; the message says what to do.
    """

    levels = LEVELS
    held_out: Collection[int] = ()

    def __init__(
        self,
        case: Path | str,
        autoencoder: Path | str,
        encoder: Encoder,
        *,
        images: Path | str | None = None,
    ) -> None:
        case = Path(case)
        self.name = case.name
        self._codec = read_autoencoder(autoencoder)
        if self._codec.dim != encoder.dim:
            raise ValueError(
                f"The autoencoder {autoencoder} makes embeddings of {self._codec.dim} numbers but "
                f"those of {encoder.name} have {encoder.dim}: choose the encoder it was trained on."
            )
        self._encoder = encoder
        runs = [case.with_name(f"{case.name}_{level}") for level in (1, 2, 3)]
        self._files = [_numbered_renders(run) for run in runs]
        counts = [len(files) for files in self._files]
        if len(set(counts)) > 1:
            raise ValueError(
                f"The runs of {case} have {', '.join(map(str, counts))} renders: render all three "
                "levels again with render.py --include_feature."
            )
        if images is None:
            names = [camera.name for camera in read_cameras(runs[0] / "cameras.json")]
        else:
            photos = (path for path in Path(images).glob("*") if path.suffix.lower() in _PHOTOS)
            # As the official code: "a-2" comes behind "a", though "a-2.jpg" before "a.jpg".
            names = sorted((path.name for path in photos), key=lambda name: (stem_of(name), name))
        settings = runs[0] / "cfg_args"
        if settings.is_file() and read_cfg_args(settings).get("eval"):
            names = [name for number, name in enumerate(names) if number % 8]
        if len(names) != counts[0]:
            raise ValueError(
                f"{case} has {counts[0]} renders of {len(names)} photos, so it is unknown which is "
                "which: give the folder of exactly the photos the runs were trained with."
            )
        self.names = names

    def size(self, index: int) -> tuple[int, int]:
        height, width, _ = self._latents(0, index).shape
        return width, height

    def relevancy(
        self, index: int, texts: Sequence[str], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        embeddings = self._encoder.encode_texts([*texts, *NEGATIVES])
        levels = []
        for level in range(len(self.levels)):
            latents = torch.from_numpy(self._latents(level, index))
            cosines = self._codec.cosines(latents, embeddings, unit=False)  # [H, W, T + negatives]
            margin = cosines[..., : len(texts)] - cosines[..., len(texts) :].amax(-1, keepdim=True)
            levels.append(torch.sigmoid(SHARPNESS * margin).permute(2, 0, 1))
        if len({maps.shape for maps in levels}) > 1:
            raise ValueError(
                f"The levels' renders of {self.names[index]} differ in size: render them again."
            )
        return torch.stack(levels, dim=1).cpu().numpy()

    def _latents(self, level: int, index: int) -> NDArray[np.float32]:
        """The latents [H, W, D] of one render."""
        file = self._files[level][index]
        try:
            latents = read_array(file)
        except ValueError as error:
            raise ValueError(f"{file} is not a readable render: render it again.") from error
        if latents.ndim != 3 or latents.shape[2] != self._codec.latent or not latents.size:
            raise ValueError(
                f"{file} has the shape {list(latents.shape)} but should be [H, W, "
                f"{self._codec.latent}]: render with --include_feature, or give this scene's "
                "autoencoder."
            )
        if not np.isfinite(latents).all():
            raise ValueError(f"{file} has values that are not finite: train that level again.")
        latents = latents.astype(np.float32)
        longest = float(np.linalg.norm(latents, axis=2).max())
        if longest > LONGEST_LATENT:
            raise ValueError(
                f"{file} has a pixel of length {longest:.2f}, and codes blend to 1 at most, so it "
                "seems to hold colors: render that level again with --include_feature."
            )
        return latents


def _numbered_renders(run: Path) -> list[Path]:
    folders = sorted(run.glob("train/ours_*/renders_npy"))
    files = [file for folder in folders[:1] for file in folder.glob("*.npy") if file.stem.isdigit()]
    if len(folders) != 1 or not files:
        raise ValueError(
            f"{run} has {len(folders)} folders train/ours_*/renders_npy with renders and should "
            "have one: run LangSplat's render.py --include_feature, or remove the others."
        )
    return sorted(files, key=lambda file: int(file.stem))


def evaluate(
    source: SceneQuery | Renders,
    labels: Labels,
    profile: str = "langsplat-v1",
    *,
    progress: Progress = silent,
) -> Report:
    """Ask a scene for everything that its labels name, frame by frame, and compare the answers.

    Args:
        source: a scene that can be asked, or renders of one (see `OfficialRenders`).
        labels: of that scene; frames are found by their names.
        profile: one of PROFILES.
        progress: called with the frames done.
    Raises:
        ValueError: an unknown profile; a labelled frame that is no view of the scene; relevancies
            that are not finite; renders without a scene for 3d-selection.
    """
    check_profile(profile)
    renders = _SceneRenders(source) if isinstance(source, SceneQuery) else source
    predictions: Callable[..., Iterable[tuple[str, Prediction]]]
    if profile != SELECTION:
        rules, most = PIXEL_PROFILES[profile], MAX_QUERY_PIXELS
        drawn = rules.at_labels and isinstance(renders, _SceneRenders)
        predictions = partial(_predictions, renders, rules, labels.asked_together or {})
    elif isinstance(renders, _SceneRenders):
        drawn, most, predictions = True, MAX_IMAGE_PIXELS, renders.selections
    else:
        raise ValueError("3d-selection needs the Gaussians: give a scene, or use another profile.")

    places = _match([frame.name for frame in labels.frames], renders.names, renders.name)
    rows: list[Row] = []
    sizes: Counter[tuple[int, ...]] = Counter()
    for number, (frame, index) in enumerate(zip(labels.frames, places, strict=True)):
        progress(STAGE, number, len(labels.frames), frame.name)
        view = renders.size(index)
        size = _size_of_labels(frame, most) if drawn else view
        held_out = index in renders.held_out
        rows += [
            _row(labels.name, frame, query, found, renders.levels, held_out)
            for query, found in predictions(index, frame, size)
        ]
        sizes[*view, frame.width, frame.height, *size] += 1
    progress(STAGE, len(labels.frames), len(labels.frames), "")
    if not rows:
        raise ValueError(
            f"The labels {labels.name!r} name nothing to ask for: add objects to them."
        )
    notes = []
    for (a, b, x, y, w, h), count in sizes.items():
        done = []
        if (a, b) != (w, h):
            done.append(f"the views were drawn in {w}x{h}")
        if (x, y) != (w, h):
            done.append(f"the labels were resized, nearest pixel, to {w}x{h}")
        if done:
            about = f"{count} views of {a}x{b} pixels have labels of {x}x{y}"
            notes.append(f"{labels.name}: {about}; {' and '.join(done)}.")
    if profile != SELECTION and isinstance(renders, _SceneRenders):
        notes = renders.notes + notes
    fitting = sum(row.oracle > 0.25 for row in rows)
    if profile != SELECTION and len(rows) >= 10 and fitting < FEW_FITTING * len(rows):
        notes.append(
            f"{labels.name}: only {fitting} of {len(rows)} queries reach an IoU of 0.25 at any "
            f"level, as with another scene's labels: check that these are of {renders.name!r}."
        )
    return Report(profile, tuple(renders.levels), tuple(rows), tuple(notes))


def _predictions(
    renders: Renders,
    profile: Profile,
    partners: Mapping[str, str],
    index: int,
    frame: LabelledFrame,
    size: tuple[int, int],
) -> Iterator[tuple[str, Prediction]]:
    """A prediction for every query of a frame, by pixel relevancy."""
    queries = frame.queries
    # Only the protocol of 3D-OVS asks for partners.
    partners = {q: partners[q] for q in queries if q in partners} if profile.inside else {}
    texts = list(dict.fromkeys([*queries, *partners.values()]))
    if not texts:
        return
    maps = dict(zip(texts, renders.relevancy(index, texts, size), strict=True))
    for text, relevancy in maps.items():
        _check_finite(relevancy, text, frame, renders.name)
    for query in queries:
        joined = maps[partners[query]] if query in partners else None
        yield query, predict(maps[query], profile, joined)


def _size_of_labels(frame: LabelledFrame, most: int) -> tuple[int, int]:
    """Width and height of a frame's labels, or the largest of their shape with `most` pixels."""
    shrink = min(1.0, math.sqrt(most / (frame.width * frame.height)))
    return max(1, int(frame.width * shrink)), max(1, int(frame.height * shrink))


def _check_finite(relevancy: NDArray[Any], text: str, frame: LabelledFrame, scene: str) -> None:
    if not np.isfinite(relevancy).all():
        raise ValueError(
            f"The relevancy of {text!r} in {frame.name} of {scene!r} is not finite: its language "
            "features are damaged; make them again."
        )


def _row(
    scene: str,
    frame: LabelledFrame,
    query: str,
    found: Prediction,
    levels: Sequence[str],
    held_out: bool,
) -> Row:
    """A prediction compared with the frame's labels."""
    height, width = found.masks.shape[1:]
    truth = _nearest_mask(frame.mask(query), height, width)
    ious = tuple(mask_iou(mask, truth) for mask in found.masks)
    level, iou = levels[found.level], ious[found.level]
    row = Row(scene, frame.name, query, level, iou, ious, held_out=held_out)
    boxes = frame.boxes(query)
    if not (len(boxes) and len(found.spots)):
        return row
    # Areas from the first pixel inside to just past the last: unlike pixels, they can be scaled.
    areas = np.hstack([np.ceil(boxes[:, :2]), np.floor(boxes[:, 2:]) + 1])
    areas *= [width / frame.width, height / frame.height] * 2
    hits = tuple(_hit(spots, areas) for spots in found.spots)
    return replace(row, spot_level=levels[found.spot_level], hit=hits[found.spot_level], hits=hits)


def _hit(spots: NDArray[np.bool_], areas: NDArray[np.float64]) -> bool:
    """Whether the centre of any of the pixels [H, W] lies in any of the areas [B, 4]."""
    y, x = (axis[:, None] + 0.5 for axis in np.nonzero(spots))
    left, top, right, bottom = areas.T
    return bool(((x >= left) & (x <= right) & (y >= top) & (y <= bottom)).any())


def _nearest_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask [h, w] resized to [height, width] by OpenCV's INTER_NEAREST, with its rounding.

    Pixel i comes from i * h // height, but sometimes from one before that if i * h / height is
    whole: this affects 65 columns when 4032 are resized to 1440.
    """
    rows, columns = (
        # A reciprocal of a reciprocal, as OpenCV has it: that may be slightly less than the ratio.
        np.minimum(np.arange(new) * (1 / (new / old)), old - 1).astype(int)
        for new, old in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _match(frames: Sequence[str], names: Sequence[str], scene: str) -> list[int]:
    """The number of the picture of each name: the whole name, else without folder and ending."""
    places: dict[str, set[int]] = {}
    # `writable`, because that is how scenes store names, whatever bytes the photos' names have.
    for index, name in enumerate(map(writable, names)):
        for form in {name, Path(name).name, Path(name).stem}:
            places.setdefault(form, set()).add(index)
    out, absent = [], []
    for frame in map(writable, frames):
        forms = (frame, Path(frame).name, Path(frame).stem)
        found = next((places[form] for form in forms if form in places), None)
        if found is None:
            absent.append(frame)
        elif len(found) > 1:
            several = " and ".join(sorted(names[i] for i in found)[:2])
            raise ValueError(f"The label {frame!r} fits several views, {several}: rename one.")
        else:
            out.append(min(found))
    if absent:
        some = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
        example = f" (its views have names such as {names[0]!r})" if names else ""
        raise ValueError(
            f"{len(absent)} of {len(frames)} labelled frames are not among the views of "
            f"{scene!r}: {some}{example}. Take the labels of this scene, build it from all photos, "
            "or remove the labels of those frames."
        )
    return out
