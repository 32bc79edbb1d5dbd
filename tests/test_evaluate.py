"""The evaluator agrees, to the last pixel, with a slow transcription of the papers' protocols."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langsplat.__main__ import main
from langsplat.codec import Codebook
from langsplat.evaluate import (
    PIXEL_PROFILES,
    LabelledFrame,
    LabelledObject,
    Labels,
    OfficialRenders,
    Report,
    Row,
    evaluate,
    predict,
    read_labels,
    write_lerf_labels,
)
from langsplat.hub import bundled_scenes
from langsplat.metrics import mask_iou
from langsplat.query import NEGATIVES, SceneQuery
from langsplat.rasterize import render
from tests.conftest import ROOT
from tests.official_files import autoencoder_state
from tests.test_query import TableEncoder, asked_scene

WIDTH, HEIGHT = 46, 33
TEATABLE = ROOT / "tests" / "data" / "teatable"


class Maps:
    """Relevancy maps under names, as `evaluate` takes them."""

    levels = ("subpart", "part", "whole")
    held_out = ()

    def __init__(self, names: list[str], maps: list[dict[str, np.ndarray]]) -> None:
        self.name, self.names, self.maps = "maps", names, maps

    def size(self, index: int) -> tuple[int, int]:
        height, width = next(iter(self.maps[index].values())).shape[1:]
        return width, height

    def relevancy(self, index: int, texts: list[str], size: tuple[int, int]) -> np.ndarray:
        return np.stack([self.maps[index][text] for text in texts])


def random_map(rng: np.random.Generator) -> np.ndarray:
    """[3, H, W]: hills and a lone bright pixel; some rounded to few values, for ties."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    out = np.zeros((3, HEIGHT, WIDTH))
    for level in range(3):
        for _ in range(5):
            y, x, size = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(2, 14)
            out[level] += rng.uniform(0.1, 0.5) * np.exp(
                -((ys - y) ** 2 + (xs - x) ** 2) / (2 * size**2)
            )
    out[rng.integers(3), rng.integers(HEIGHT), rng.integers(WIDTH)] += 0.6
    out = np.clip(out + rng.uniform(0, 0.05, out.shape), 0, 1)
    if rng.random() < 0.4:
        out = np.round(2 * out) / 2
    return out.astype(np.float32)


def random_labels(
    folder: Path, names: list[str], rng: np.random.Generator
) -> list[dict[str, np.ndarray]]:
    """LERF-OVS files with polygons of every kind, and random maps for what they ask."""
    folder.mkdir()
    maps = []
    for name in names:
        objects = []
        for thing in range(5):
            count = int(rng.integers(3, 9))
            corners = rng.uniform(0, 1, (count, 2)) * [WIDTH - 0.01, HEIGHT - 0.01]
            if thing % 2:  # a compact one
                corners = corners * 0.3 + rng.uniform(0, 0.7, 2) * [WIDTH, HEIGHT]
            low, high = corners.min(axis=0), corners.max(axis=0)
            box = [*high, *low] if thing % 3 == 0 else [*low, *high]
            objects.append(
                {
                    "category": f"thing {thing % 3}",
                    "group": 1,
                    "segmentation": corners.tolist(),
                    "bbox": [float(value) for value in box],
                }
            )
        info = {"name": name, "width": WIDTH, "height": HEIGHT}
        content = {"info": info, "objects": objects}
        (folder / f"{Path(name).stem}.json").write_text(json.dumps(content))
        maps.append({f"thing {k}": random_map(rng) for k in range(3)})
    return maps


# --- The slow transcription: one pixel at a time, straight from the description. ---


def slow_line(image: np.ndarray, a: tuple[int, int], b: tuple[int, int]) -> None:
    """Bresenham with an error term, from the left end."""
    (x0, y0), (x1, y1) = (a, b) if a[0] <= b[0] else (b, a)
    dx, dy, step = x1 - x0, abs(y1 - y0), 1 if y1 >= y0 else -1
    long, short = max(dx, dy), min(dx, dy)
    x, y, error = x0, y0, long - 2 * short
    for _ in range(long + 1):
        if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
            image[y, x] = True
        both = error < 0
        error += -2 * short + (2 * long if both else 0)
        if dx >= dy:
            x, y = x + 1, y + (step if both else 0)
        else:
            x, y = x + (1 if both else 0), y + step


def slow_polygon(corners: list[list[float]], width: int, height: int) -> np.ndarray:
    image = np.zeros((height, width), dtype=bool)
    points = [(int(x), int(y)) for x, y in corners]
    edges = list(zip(points[-1:] + points[:-1], points, strict=True))
    for a, b in edges:
        slow_line(image, a, b)
    for y in range(height):
        crossings = []
        for a, b in edges:
            (x0, y0), (x1, y1) = sorted((a, b), key=lambda point: point[1])
            if y0 <= y < y1:
                slope = int(((x1 - x0) << 16) / (y1 - y0))  # towards 0
                crossings.append((x0 << 16) + (y - y0) * slope)
        crossings.sort()
        for left, right in zip(crossings[::2], crossings[1::2], strict=True):
            for x in range((left + 32768) >> 16, ((right + 32768) >> 16) + 1):
                if 0 <= x < width:
                    image[y, x] = True
    return image


def mirrored(index: int, count: int) -> int:
    """Reflect-101: -1 is 1, count is count - 2."""
    while not 0 <= index < count:
        index = -index if index < 0 else 2 * count - 2 - index
    return index


def slow_mean(relevancy: np.ndarray, profile: str) -> np.ndarray:
    def window(k: int, count: int) -> list[int]:
        if profile == "langsplat-v1":
            return [mirrored(k + step, count) for step in range(-15, 15)]
        return [other for other in range(k - 14, k + 15) if 0 <= other < count]

    r = relevancy.astype(np.float64)
    rows, columns = ([window(k, count) for k in range(count)] for count in r.shape)
    return np.array([[r[np.ix_(ys, xs)].mean() for xs in columns] for ys in rows])


def slow_vote(mask: np.ndarray, profile: str) -> np.ndarray:
    h, w = mask.shape
    out = np.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            if profile == "langsplat-v1":
                square = mask[max(0, y - 3) : min(y + 4, h - 1), max(0, x - 3) : min(x + 4, w - 1)]
            else:
                square = mask[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
            out[y, x] = square.sum() > square.size - square.sum()
    return out


def slow_query(
    maps: np.ndarray, things: list[dict], profile: str
) -> tuple[list[float], int, list[bool], int]:
    """IoU of every level, the level for masks, hits of every level, the level for spots."""
    truth = np.zeros(maps.shape[1:], dtype=bool)
    for thing in things:
        truth |= slow_polygon(thing["segmentation"], maps.shape[2], maps.shape[1])
    threshold = 0.25 if profile == "3dovs-v2" else 0.4
    ious, scores, hits, peaks = [], [], [], []
    for level in range(3):
        average = slow_mean(maps[level], profile)
        mixed = 0.5 * (average + maps[level].astype(np.float64))
        o = mixed - mixed.min()
        o = o / (o.max() + 1e-9)
        o = np.clip(o * (1.0 - (-1.0)) + (-1.0), 0, 1)
        mask = slow_vote(o > threshold, profile)
        union = (mask | truth).sum()
        ious.append(float((mask & truth).sum() / union) if union else 0.0)
        if profile != "3dovs-v2":
            scores.append(mixed.max())
        elif level == 0:
            scores.append(-1.0)
        else:
            scores.append(mixed[mask].mean() if mask.any() else 0.0)
        peaks.append(average.max())
        hit = False
        for y, x in np.argwhere(average == average.max()):
            for thing in things:
                x1, y1, x2, y2 = thing["bbox"]
                hit |= min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2)
        hits.append(bool(hit))
    return ious, int(np.argmax(scores)), hits, int(np.argmax(peaks))


def slow_evaluation(
    folder: Path, maps: list[dict[str, np.ndarray]], profile: str
) -> dict[tuple[str, str], tuple[list[float], int, list[bool], int]]:
    """As published: the number in a frame's name, minus one, is its place among the renders."""
    out = {}
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        name = content["info"]["name"]
        of_frame = maps[int("".join(c for c in name if c.isdigit())) - 1]
        for query in dict.fromkeys(thing["category"] for thing in content["objects"]):
            things = [thing for thing in content["objects"] if thing["category"] == query]
            out[name, query] = slow_query(of_frame[query], things, profile)
    return out


def in_slow_form(report: Report) -> dict[tuple[str, str], tuple[list[float], int, list[bool], int]]:
    number = report.levels.index
    return {
        (row.frame, row.query): (
            list(row.ious),
            number(row.level),
            list(row.hits),
            number(row.spot_level or ""),
        )
        for row in report.rows
    }


NAMES = ["frame_00001.jpg", "frame_00002.jpg", "frame_00003.jpg"]


@pytest.mark.parametrize("profile", list(PIXEL_PROFILES))
def test_the_evaluator_agrees_with_the_slow_one_to_the_last_pixel(
    tmp_path: Path, profile: str
) -> None:
    maps = random_labels(tmp_path / "scene", NAMES, np.random.default_rng(4))
    report = evaluate(Maps(NAMES, maps), read_labels(tmp_path / "scene"), profile)
    slow = slow_evaluation(tmp_path / "scene", maps, profile)
    assert in_slow_form(report) == slow
    chosen = [row.iou for row in report.rows]
    assert chosen == [of_levels[level] for of_levels, level, _, _ in slow.values()]
    ious = {iou for row in report.rows for iou in row.ious}
    assert len(ious) > 10 and {row.hit for row in report.rows} == {True, False}, "it is a test"
    assert {row.level for row in report.rows} != {report.levels[0]}
    if profile != "3dovs-v2":
        assert any(row.level != row.spot_level for row in report.rows), "two different choices"


def test_a_shifted_frame_number_changes_the_slow_one_and_not_ours(tmp_path: Path) -> None:
    maps = random_labels(tmp_path / "scene", NAMES[1:], np.random.default_rng(5))
    filler, last = random_map(np.random.default_rng(6)), random_map(np.random.default_rng(7))
    first, after = ({f"thing {k}": m for k in range(3)} for m in (filler, last))
    labels = read_labels(tmp_path / "scene")
    whole = evaluate(Maps(NAMES, [first, *maps]), labels)
    slow = slow_evaluation(tmp_path / "scene", [first, *maps], "langsplat-v1")
    assert in_slow_form(whole) == slow
    # Without the first photo, which was not placed, all renders after it move up by one.
    shifted = evaluate(Maps([*NAMES[1:], "frame_00004.jpg"], [*maps, after]), labels)
    assert shifted.rows == whole.rows
    assert slow_evaluation(tmp_path / "scene", [*maps, after], "langsplat-v1") != slow


def test_equal_levels_are_answered_by_the_lowest_and_every_tied_spot_counts(
    tmp_path: Path,
) -> None:
    flat = np.full((3, HEIGHT, WIDTH), 0.3, dtype=np.float32)
    corners = [[40, 28], [44, 28], [44, 31], [40, 31]]
    thing = {"category": "it", "segmentation": corners, "bbox": [40, 28, 40, 28]}
    content = {"info": {"width": WIDTH, "height": HEIGHT}, "objects": [thing]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (row,) = evaluate(Maps(["a.png"], [{"it": flat}]), read_labels(tmp_path)).rows
    assert row.level == row.spot_level == "subpart" and row.iou == 0
    assert row.hit, "all pixels are the brightest, and one is the box"


@pytest.mark.parametrize("profile", PIXEL_PROFILES)
def test_a_protocol_takes_relevancies_as_a_scene_gives_them(profile: str) -> None:
    maps, rules = torch.rand(2, 3, HEIGHT, WIDTH), PIXEL_PROFILES[profile]
    tensors, arrays = (predict(given[0], rules, given[1]) for given in (maps, maps.numpy()))
    assert all(np.array_equal(a, b) for a, b in zip(tensors, arrays, strict=True))


def test_3d_ovs_joins_the_table_to_the_rooms_wall_and_never_takes_subparts(tmp_path: Path) -> None:
    place = tmp_path / "room" / "segmentations" / "00"
    place.mkdir(parents=True)
    truth = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    truth[:, :10], truth[:, 36:] = 255, 255
    Image.fromarray(truth).save(place / "wood wall.png")
    left, right = np.zeros((2, 3, HEIGHT, WIDTH), dtype=np.float32)
    left[1:, :, :10], right[1:, :, 36:] = 0.9, 0.6
    left[0] = truth / 255  # a perfect match, but this level may not answer
    maps = Maps(["00.jpg"], [{"wood wall": left, "wood table": right}])
    (tmp_path / "room" / "transforms.json").write_text("{}")  # the scene's folder, as it was built
    labels = read_labels(tmp_path / "room")
    (row,) = evaluate(maps, labels, "3dovs-v2").rows
    assert row.level == "part" and row.ious[0] > 0.8 and row.iou > 0.8
    (alone,) = evaluate(maps, replace(labels, asked_together=None), "3dovs-v2").rows
    assert alone.iou < 0.7
    unjoined = evaluate(maps, replace(labels, asked_together=None), "langsplat-v2")
    assert evaluate(maps, labels, "langsplat-v2").rows == unjoined.rows, "no other protocol joins"
    nothing = Maps(
        ["00.jpg"], [{text: np.zeros_like(left) for text in ("wood wall", "wood table")}]
    )
    (row,) = evaluate(nothing, labels, "3dovs-v2").rows
    assert row.iou == 0 and row.level == "part"


def test_frames_the_scene_has_not_are_named_with_the_remedy(tmp_path: Path) -> None:
    maps = random_labels(tmp_path / "scene", NAMES, np.random.default_rng(0))
    labels = read_labels(tmp_path / "scene")
    with pytest.raises(ValueError, match=r"2 of 3 .*frame_00002.jpg.*Take the labels"):
        evaluate(Maps(["images/frame_00001.png", "b.jpg"], maps[:2]), labels)
    with pytest.raises(ValueError, match="fits several views"):
        evaluate(Maps(["frame_00001.png", "x/frame_00001.JPG", *NAMES[1:]], maps), labels)


@pytest.mark.parametrize(
    ("frame", "names"),
    [("a.jpg", ["sub/a.png", "sub/a.jpg"]), ("sub/a.jpg", ["a.png", "a.jpg"])],
)
def test_of_views_alike_but_for_their_ending_the_one_of_the_same_file_name_is_meant(
    frame: str, names: list[str]
) -> None:
    relevancy = random_map(np.random.default_rng(0))
    thing = LabelledObject.of("it", relevancy[0] > 0.5)
    labels = Labels("one", (LabelledFrame(frame, WIDTH, HEIGHT, (thing,)),))
    maps = Maps(names, [{"it": np.zeros_like(relevancy)}, {"it": relevancy}])
    assert evaluate(maps, labels).rows == evaluate(Maps(["a"], maps.maps[1:]), labels).rows


def test_labels_whose_names_end_differently_may_be_of_one_view() -> None:
    relevancy = random_map(np.random.default_rng(0))
    thing = LabelledObject.of("it", relevancy[0] > 0.5)
    frames = [LabelledFrame(name, WIDTH, HEIGHT, (thing,)) for name in ("a.b.jpg", "a.b")]
    rows = evaluate(Maps(["a.b.png"], [{"it": relevancy}]), Labels("one", tuple(frames))).rows
    assert rows[0].ious == rows[1].ious


def test_relevancies_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    maps = random_labels(tmp_path / "scene", NAMES, np.random.default_rng(0))
    maps[1]["thing 2"][1, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"'thing 2' in frame_00002.jpg .* not finite"):
        evaluate(Maps(NAMES, maps), read_labels(tmp_path / "scene"))


def test_labels_of_another_size_are_resized_and_both_sizes_told(tmp_path: Path) -> None:
    maps = random_labels(tmp_path / "scene", NAMES[:1], np.random.default_rng(1))
    doubled = {text: m.repeat(2, axis=1).repeat(2, axis=2) for text, m in maps[0].items()}
    labels = read_labels(tmp_path / "scene")
    report = evaluate(Maps(NAMES[:1], [doubled]), labels, "langsplat-v2")
    assert any("92x66" in note and "46x33" in note for note in report.notes)
    assert not evaluate(Maps(NAMES[:1], maps), labels).notes


def test_labels_are_resized_with_the_rounding_of_the_published_evaluators() -> None:
    """OpenCV 4.10's cv2.resize(..., INTER_NEAREST) of 28 columns to 18: the tenth shows number 13.

    (And 9 * 28 / 18 = 14.)
    """
    label, answer = np.zeros((20, 28), dtype=bool), np.zeros((3, 20, 18), dtype=np.float32)
    label[:, :14], answer[..., :10] = True, 1
    frame = LabelledFrame("00", 28, 20, (LabelledObject.of("it", label),))
    (row,) = evaluate(Maps(["00.jpg"], [{"it": answer}]), Labels("one", (frame,)), "3dovs-v2").rows
    assert row.iou == 1


@pytest.mark.parametrize(
    ("size", "box", "rows", "columns"),
    [
        ((10, 10), (4, 4, 6, 6), {4, 5, 6}, {4, 5, 6}),
        # As published: the whole pixels between the corners.
        ((10, 10), (3.2, 3.2, 6.9, 6.9), {4, 5, 6}, {4, 5, 6}),
        ((10, 10), (2, 4, 5, 6), {4, 5, 6}, {2, 3, 4, 5}),
        ((5, 5), (4, 4, 4, 4), {2}, {2}),
        ((5, 5), (5, 5, 5, 5), {2}, {2}),
        ((5, 5), (4, 4, 7, 7), {2, 3}, {2, 3}),
        ((20, 20), (4, 4, 6, 6), {8, 9, 10, 11, 12, 13}, {8, 9, 10, 11, 12, 13}),
        ((20, 20), (5, 5, 5, 5), {10, 11}, {10, 11}),
        ((5, 20), (4, 4, 6, 6), {2, 3}, {8, 9, 10, 11, 12, 13}),
        ((20, 5), (4, 4, 6, 6), {8, 9, 10, 11, 12, 13}, {2, 3}),
    ],
)
def test_a_box_is_hit_by_the_pixels_that_cover_it_in_any_size(
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    rows: set[int],
    columns: set[int],
) -> None:
    thing = LabelledObject.of("it", np.ones((10, 10), dtype=bool), box)
    labels = Labels("one", (LabelledFrame("a.png", 10, 10, (thing,)),))
    found = set()
    down = {(y, min(columns)) for y in range(size[0])}
    across = {(min(rows), x) for x in range(size[1])}
    for y, x in down | across:
        spots = np.zeros((3, *size), dtype=np.float32)
        spots[:, y, x] = 1
        rules = replace(PIXEL_PROFILES["3dovs-v2"], average=lambda maps: maps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PIXEL_PROFILES, "3dovs-v2", rules)
            (row,) = evaluate(Maps(["a.png"], [{"it": spots}]), labels, "3dovs-v2").rows
        found |= {(y, x)} if row.hit else set()
    assert {y for y, _ in found & down} == rows and {x for _, x in found & across} == columns


def test_an_object_without_pixels_is_a_miss_and_is_not_written(tmp_path: Path) -> None:
    place = tmp_path / "room" / "segmentations" / "00"
    place.mkdir(parents=True)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(mask).save(place / "gone.png")
    mask[4:9, 5:9] = 255
    Image.fromarray(mask).save(place / "there.png")
    labels = read_labels(tmp_path / "room")
    rng = np.random.default_rng(2)
    maps = Maps(["00.jpg"], [{text: random_map(rng) for text in ("gone", "there")}])
    gone, _ = evaluate(maps, labels, "3dovs-v2").rows
    assert gone.iou == 0 and gone.hit is False
    write_lerf_labels(labels, tmp_path / "written")
    (frame,) = read_labels(tmp_path / "written").frames
    assert frame.queries == ["there"] and (frame.mask("there") == (mask > 0)).all()


def test_labels_that_ask_for_nothing_are_refused(tmp_path: Path) -> None:
    info = {"name": "a.png", "width": WIDTH, "height": HEIGHT}
    (tmp_path / "a.json").write_text(json.dumps({"info": info, "objects": []}))
    with pytest.raises(ValueError, match="name nothing to ask for: add objects"):
        evaluate(
            Maps(["a.png"], [{"it": random_map(np.random.default_rng(0))}]), read_labels(tmp_path)
        )


def a_row(scene: str, iou: float, hit: bool | None, ious: tuple[float, ...] = (0, 0, 0)) -> Row:
    return Row(scene, "f", f"query {iou}", "part", iou, ious, "part", hit, (hit,) * 3)  # type: ignore[arg-type]


def test_scenes_weigh_the_same_in_the_macro_mean_and_queries_in_the_micro_mean() -> None:
    levels = ("subpart", "part", "whole")
    one = Report("langsplat-v1", levels, (a_row("one", 0.9, True, (0.9, 0.5, 0.1)),))
    rows = tuple(a_row("two", iou, hit, (iou, 0, 0.6)) for iou, hit in [(0.1, True), (0.2, False)])
    report = Report.joined([one, Report("langsplat-v1", levels, rows, ("A note.",))])
    assert report.macro["iou"] == pytest.approx((0.9 + 0.15) / 2)
    assert report.micro["iou"] == pytest.approx(0.4)
    assert report.macro["accuracy"] == pytest.approx(0.75)
    assert report.micro["accuracy"] == pytest.approx(2 / 3)
    assert report.micro["oracle"] == pytest.approx((0.9 + 0.6 + 0.6) / 3)
    assert report.micro["by_level"] == pytest.approx([0.4, 0.5 / 3, 1.3 / 3])
    text = report.markdown()
    assert "| **scene macro** | 3 | 52.5 | 75.0 |" in text
    assert "| **query micro** | 3 | 40.0 | 66.7 | 40.0 | 16.7 | 43.3 | 70.0 |" in text
    assert "- A note." in text
    assert json.loads(json.dumps(report.as_dict()))["queries"][0]["oracle"] == 0.9
    with pytest.raises(ValueError, match="one profile"):
        Report.joined([one, Report("langsplat-v2", levels, rows)])
    twice = Report.joined([one, Report("langsplat-v1", levels, (replace(rows[0], scene="one"),))])
    assert list(twice.scenes) == ["one", "one (2)"], "two folders may have one name"
    assert twice.macro["iou"] == pytest.approx((0.9 + 0.1) / 2)
    assert list(Report.joined([one, twice]).scenes) == ["one", "one (2)", "one (2) (2)"]


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[SceneQuery, Path]:
    """A scene of two balls, and labels of the left and the right one, in twice the views' size."""
    engine = SceneQuery(asked_scene(), TableEncoder())
    folder = tmp_path_factory.mktemp("balls")
    camera = engine.scene.cameras[0]
    relevancy = engine.relevancy(["left ball", "right ball"], camera)[:, 1].numpy()
    objects = []
    for text, of_text in zip(("left ball", "right ball"), relevancy, strict=True):
        ys, xs = np.nonzero(of_text > 0.8)
        box = [2 * float(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]
        corners = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]]
        objects.append({"category": text, "segmentation": corners, "bbox": box})
    info = {"name": "front.jpg", "width": 2 * camera.width, "height": 2 * camera.height}
    (folder / "front.json").write_text(json.dumps({"info": info, "objects": objects}))
    return engine, folder


def test_a_scene_is_asked_in_the_size_of_its_labels(balls: tuple[SceneQuery, Path]) -> None:
    engine, folder = balls
    labels = read_labels(folder)
    frame = labels.frames[0]
    report = evaluate(engine, labels)
    assert [row.hit for row in report.rows] == [True, True]
    assert [row.spot_level for row in report.rows] == ["part", "part"]
    assert min(row.oracle for row in report.rows) > 0.3
    asked, sizes = report.notes
    assert "held to their things" in asked and "as_published" in asked
    assert "40x24" in sizes and "80x48" in sizes
    published = SceneQuery(engine.scene, engine.encoder, as_published=True, near_things=False)
    assert evaluate(published, labels).notes == (sizes,)
    camera = engine.scene.cameras[0].resized(frame.width, frame.height)
    maps = engine.relevancy(["left ball"], camera)[0].numpy()
    things = json.loads((folder / "front.json").read_text())["objects"][:1]
    ious, level, hits, spot_level = slow_query(maps, things, "langsplat-v1")
    assert report.rows[0].ious == tuple(ious) and report.rows[0].hits == tuple(hits)
    assert report.levels.index(report.rows[0].level) == level
    assert report.levels.index(report.rows[0].spot_level or "") == spot_level


def test_views_with_labels_too_large_to_be_asked_are_drawn_smaller(
    balls: tuple[SceneQuery, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, folder = balls
    for module in ("query", "evaluate"):
        monkeypatch.setattr(f"langsplat.{module}.MAX_QUERY_PIXELS", 3000)
    report = evaluate(engine, read_labels(folder))
    assert report.notes[1].endswith(
        "1 views of 40x24 pixels have labels of 80x48; the views were drawn in 70x42 and the "
        "labels were resized, nearest pixel, to 70x42."
    )
    assert [row.hit for row in report.rows] == [True, True]
    assert min(row.oracle for row in report.rows) > 0.3


def test_3d_selection_draws_the_selected_gaussians_alone(balls: tuple[SceneQuery, Path]) -> None:
    engine, folder = balls
    report = evaluate(engine, read_labels(folder), "3d-selection")
    frame = read_labels(folder).frames[0]
    camera = engine.scene.cameras[0].resized(frame.width, frame.height)
    for row, ball in zip(report.rows, (slice(0, 60), slice(60, 120)), strict=True):
        _, alpha = render(engine.scene.gaussians.select(ball), camera)
        silhouette = (alpha[..., 0] > 0.7).numpy()
        assert row.ious[1] == mask_iou(silhouette, frame.mask(row.query)) > 0.4
        assert row.ious[2] == 0, "the level no view described selects nothing"
        assert row.hit is None and not row.hits
    assert "Acc@0.25" in report.markdown() and "localisation" not in report.markdown()
    with pytest.raises(ValueError, match="needs the Gaussians"):
        evaluate(Maps(["front"], [{}]), read_labels(folder), "3d-selection")
    with pytest.raises(ValueError, match="langsplat-v1, langsplat-v2"):
        evaluate(engine, read_labels(folder), "lerf")


def test_3d_selection_takes_the_level_of_the_highest_mean_not_of_the_most_gaussians() -> None:
    scene = asked_scene()
    field = scene.language
    assert field is not None and isinstance(field.codec, Codebook)
    # At level 0 all of both balls fit "left ball" a little: relevancy 0.7.
    field.codec.codewords[0, 0] = torch.tensor([0.6, 0, 0.7155, 0, 0.358, 0, 0, 0])
    field.rows[0], field.codes[0, :120] = torch.tensor([0, 3]), torch.tensor([1.0, 0])
    engine, camera = SceneQuery(scene, TableEncoder()), scene.cameras[0]
    chosen = engine.gaussian_relevancy(["left ball"])[0] > 0.5
    assert chosen.sum(dim=1).tolist() == [120, 60, 0]
    thing = LabelledObject.of("left ball", np.eye(camera.height, camera.width, dtype=bool))
    frame = LabelledFrame(camera.name, camera.width, camera.height, (thing,))
    (row,) = evaluate(engine, Labels("balls", (frame,)), "3d-selection").rows
    assert row.level == "part"


def official_run(folder: Path, names: list[str], seed: int) -> tuple[Path, Path]:
    """Renders of three levels under their official names, cameras.json, and an autoencoder."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for level in (1, 2, 3):
        renders = folder / f"case_{level}" / "train" / "ours_None" / "renders_npy"
        renders.mkdir(parents=True)
        for index in range(len(names)):
            coarse = rng.normal(size=(4, 5, 3)).repeat(9, axis=0).repeat(10, axis=1)
            latents = (coarse + rng.normal(0, 0.3, coarse.shape))[:HEIGHT, :WIDTH]
            np.save(renders / f"{index:05d}.npy", (latents / 6).astype(np.float32))
    cameras = [
        {"id": id, "img_name": name, "width": WIDTH, "height": HEIGHT, "position": [0, 0, 0],
         "rotation": np.eye(3).tolist(), "fx": 40.0, "fy": 40.0}
        for id, name in enumerate(names)
    ]  # fmt: skip
    (folder / "case_1" / "cameras.json").write_text(json.dumps(cameras[::-1]))
    weights = {}
    for part, sizes, step in (("encoder", (8, 6, 3), 3), ("decoder", (3, 6, 8), 2)):
        for layer in (0, 1):
            shape = (sizes[layer + 1], sizes[layer])
            key = f"{part}.{step * layer}"
            weights[f"{key}.weight"] = torch.randn(shape, generator=generator)
            weights[f"{key}.bias"] = torch.randn(shape[0], generator=generator)
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        weights[f"encoder.1.{name}"] = torch.full((6,), float(value))
    weights["encoder.1.num_batches_tracked"] = torch.tensor(1)
    torch.save(weights, folder / "best_ckpt.pth")
    return folder / "case", folder / "best_ckpt.pth"


TEXTS = ["left ball", "right ball", "something"]


def slow_official(case: Path, autoencoder: Path, count: int) -> list[dict[str, np.ndarray]]:
    """For every render, text -> relevancy [3, H, W], decoded and scored as published."""
    weights, encoder = torch.load(autoencoder, weights_only=True), TableEncoder()
    out: list[dict[str, np.ndarray]] = []
    for index in range(count):
        levels: dict[str, list[np.ndarray]] = {text: [] for text in TEXTS}
        for level in (1, 2, 3):
            run = case.with_name(f"case_{level}") / "train" / "ours_None" / "renders_npy"
            x = torch.from_numpy(np.load(run / f"{index:05d}.npy"))
            x = (x @ weights["decoder.0.weight"].T + weights["decoder.0.bias"]).relu()
            x = x @ weights["decoder.2.weight"].T + weights["decoder.2.bias"]
            x = x / x.norm(dim=-1, keepdim=True)
            negatives = (10 * x @ encoder.encode_texts(list(NEGATIVES)).T).exp()
            for text in TEXTS:
                positive = (10 * x @ encoder.encode_texts([text]).T).exp()
                levels[text].append((positive / (positive + negatives)).amin(-1).numpy())
        out.append({text: np.stack(maps) for text, maps in levels.items()})
    return out


def official_labels(folder: Path, names: list[str], rng: np.random.Generator) -> Labels:
    random_labels(folder, names, rng)
    for file in folder.glob("*.json"):
        text = file.read_text()
        for number, name in enumerate(TEXTS):
            text = text.replace(f"thing {number}", name)
        file.write_text(text)
    return read_labels(folder)


def test_official_renders_are_decoded_and_scored_as_published(tmp_path: Path) -> None:
    names = [Path(name).stem for name in NAMES]
    case, autoencoder = official_run(tmp_path, names, 2)
    labels = official_labels(tmp_path / "labels", NAMES, np.random.default_rng(9))
    renders = OfficialRenders(case, autoencoder, TableEncoder())
    maps = slow_official(case, autoencoder, len(names))
    for index in range(len(names)):
        got = renders.relevancy(index, TEXTS, (0, 0))
        want = np.stack([maps[index][text] for text in TEXTS])
        np.testing.assert_allclose(got, want, atol=2e-6)
    # Rounding must not decide: the slow evaluation gets the very same numbers.
    same = [dict(zip(TEXTS, renders.relevancy(k, TEXTS, (0, 0)), strict=True)) for k in range(3)]
    report = evaluate(renders, labels)
    assert in_slow_form(report) == slow_evaluation(tmp_path / "labels", same, "langsplat-v1")
    assert any(row.iou > 0 for row in report.rows) and not report.notes


def test_official_renders_without_every_8th_photo_keep_their_names(tmp_path: Path) -> None:
    names = [f"frame_{number:05d}" for number in range(1, 10)]
    kept = [name for number, name in enumerate(names) if number % 8]
    case, autoencoder = official_run(tmp_path, names, 3)
    for run in tmp_path.glob("case_*"):
        for number in (7, 8):
            (run / "train" / "ours_None" / "renders_npy" / f"{number:05d}.npy").unlink()
    with pytest.raises(ValueError, match="7 renders of 9 photos"):
        OfficialRenders(case, autoencoder, TableEncoder())
    (tmp_path / "case_1" / "cfg_args").write_text("Namespace(eval=True, sh_degree=3)")
    assert OfficialRenders(case, autoencoder, TableEncoder()).names == kept
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in names:
        (photos / f"{name}.JPG").touch()
    renders = OfficialRenders(case, autoencoder, TableEncoder(), images=photos)
    assert renders.names == [f"{name}.JPG" for name in kept]


def test_photos_are_in_the_order_of_their_names_without_endings_as_the_renders_are(
    tmp_path: Path,
) -> None:
    case, autoencoder = official_run(tmp_path, ["IMG_1-2", "IMG_1"], 3)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("IMG_1-2.jpg", "IMG_1.jpg"):
        (photos / name).touch()
    names = OfficialRenders(case, autoencoder, TableEncoder()).names
    assert names == ["IMG_1", "IMG_1-2"]
    by_photo = OfficialRenders(case, autoencoder, TableEncoder(), images=photos).names
    assert by_photo == ["IMG_1.jpg", "IMG_1-2.jpg"]


def test_official_renders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    case, autoencoder = official_run(tmp_path, ["a"], 4)
    file = tmp_path / "case_2" / "train" / "ours_None" / "renders_npy" / "00000.npy"
    labels = official_labels(tmp_path / "labels", ["a1.jpg"], np.random.default_rng(0))
    frame = replace(labels.frames[0], name="a.png")
    labels = replace(labels, frames=(frame,))
    renders = OfficialRenders(case, autoencoder, TableEncoder())
    good = np.load(file)
    for array, sentence in (
        (good[..., :2], r"case_2.*should be \[H, W, 3\]"),
        (np.where(good == good.max(), np.nan, good), "not finite"),
        (good[:-1], "differ in size"),
        (np.abs(good) / np.abs(good).max(), "case_2.* length 1.*seems to hold colors: render that"),
    ):
        np.save(file, array)
        with pytest.raises(ValueError, match=sentence):
            evaluate(renders, labels)
    np.savez(tmp_path / "a.npz", good)
    with (tmp_path / "endless.npy").open("wb") as endless:
        head = {"descr": "<f4", "fortran_order": False, "shape": (4 * 10**12, 4, 3)}
        np.lib.format.write_array_header_1_0(endless, head)
    np.save(tmp_path / "words.npy", np.full((4, 4, 3), "word"))
    np.save(tmp_path / "empty.npy", good[:0])
    (tmp_path / "torn.npy").write_bytes(b"torn")
    for name, sentence in (
        ("torn.npy", "is not a readable render: render it again"),
        ("a.npz", "is not a readable render: render it again"),
        ("words.npy", "is not a readable render: render it again"),
        ("endless.npy", "is not a readable render: render it again"),
        ("empty.npy", r"has the shape \[0, 46, 3\] but should be"),
    ):
        file.write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(ValueError, match=f"case_2.* {sentence}"):
            evaluate(renders, labels)
    np.save(file.with_name("00001.npy"), good)
    with pytest.raises(ValueError, match=r"The runs of .*case have 1, 2, 1 renders: render all"):
        OfficialRenders(case, autoencoder, TableEncoder())
    file.with_name("00001.npy").unlink()
    file.unlink()
    with pytest.raises(ValueError, match=r"case_2 .*render.py --include_feature"):
        OfficialRenders(case, autoencoder, TableEncoder())
    torch.save(autoencoder_state(embedding=9), autoencoder)
    with pytest.raises(ValueError, match=r"embeddings of 9 numbers but those of table have 8: ch"):
        OfficialRenders(case, autoencoder, TableEncoder())
    for content in ({"epoch": 3}, {1: torch.zeros(2)}, (torch.zeros(2), 30000)):
        torch.save(content, autoencoder)
        with pytest.raises(ValueError, match=r"best_ckpt\.pth (is not an autoencoder|cannot be)"):
            OfficialRenders(case, autoencoder, TableEncoder())


def test_the_command_evaluates_official_renders_without_a_scene(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsplat.encoders.load_encoder", lambda spec: TableEncoder())
    case, autoencoder = official_run(tmp_path, [Path(name).stem for name in NAMES], 2)
    labels = official_labels(tmp_path / "labels", NAMES, np.random.default_rng(9))
    command = ["eval", str(case), str(tmp_path / "labels"), "--autoencoder", str(autoencoder)]
    assert main(command) == 0
    want = evaluate(OfficialRenders(case, autoencoder, TableEncoder()), labels)
    assert capsys.readouterr().out == want.markdown()
    assert main(command[:3]) == 1
    assert "case_1 is a run of the official code" in capsys.readouterr().err
    assert main([*command, "--profile", "3d-selection"]) == 1
    assert "needs the Gaussians: give a scene" in capsys.readouterr().err
    assert main([*command, str(case), str(tmp_path / "labels")]) == 1
    assert "Give --autoencoder once for every scene" in capsys.readouterr().err


def test_official_renders_of_several_scenes_share_one_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        "langsplat.encoders.load_encoder", lambda spec: loaded.append(spec) or TableEncoder()
    )
    case, autoencoder = official_run(tmp_path, [Path(name).stem for name in NAMES], 2)
    official_labels(tmp_path / "labels", NAMES, np.random.default_rng(9))
    pair = [str(case), str(tmp_path / "labels")]
    assert main(["eval", *pair, *pair, "--autoencoder", str(autoencoder), str(autoencoder)]) == 0
    assert loaded == ["open_clip:ViT-B-16/laion2b_s34b_b88k"]


def test_a_bundled_scenes_name_comes_before_a_run_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def find_scene(spec: str, **options: object) -> Path:
        opened.append(spec)
        raise ValueError("Far enough.")

    monkeypatch.setattr("langsplat.hub.find_scene", find_scene)
    monkeypatch.chdir(tmp_path)
    for name in ("desk_1", "other_1"):
        (tmp_path / name).mkdir()
    assert main(["eval", "desk", str(TEATABLE)]) == main(["eval", "other", str(TEATABLE)]) == 1
    assert opened == ["desk"]
    assert "other_1 is a run of the official code" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "fitting", "doubted"), [(10, 0, 1), (10, 1, 0), (9, 0, 0)])
def test_labels_that_fit_hardly_anywhere_are_doubted(
    count: int, fitting: int, doubted: int
) -> None:
    """`count` things on the left, and answers of which `fitting` are on the left too."""
    left = np.zeros((40, 40), dtype=bool)
    left[:, :20] = True
    things = tuple(LabelledObject.of(f"thing {k}", left) for k in range(count))
    labels = Labels("desk", (LabelledFrame("a.png", 40, 40, things),))
    maps = {f"thing {k}": (left == (k < fitting)) * np.ones((3, 1, 1)) for k in range(count)}
    notes = evaluate(Maps(["a.png"], [maps]), labels).notes
    assert list(notes) == doubted * [
        "desk: only 0 of 10 queries reach an IoU of 0.25 at any level, as with another scene's "
        "labels: check that these are of 'maps'."
    ]


def test_views_the_scene_was_built_without_are_reported_by_themselves(tmp_path: Path) -> None:
    camera = asked_scene().cameras[0]
    cameras = tuple(replace(camera, name=f"{name}.jpg") for name in "abc")
    scene = replace(asked_scene(), cameras=cameras, provenance={"settings": {"holdout_every": 2}})
    thing = {
        "category": "left ball",
        "segmentation": [[5, 5], [9, 9], [5, 9]],
        "bbox": [5, 5, 9, 9],
    }
    for name in "ab":
        info = {"name": f"{name}.jpg", "width": camera.width, "height": camera.height}
        (tmp_path / f"{name}.json").write_text(json.dumps({"info": info, "objects": [thing]}))
    report = evaluate(SceneQuery(scene, TableEncoder()), read_labels(tmp_path))
    assert [row.held_out for row in report.rows] == [True, False]
    assert report.held_out is not None and report.held_out["queries"] == 1
    assert "| query micro, held-out views | 1 |" in report.markdown()


@pytest.mark.parametrize(
    ("described", "held_out"),
    [
        ({"settings": {"holdout_every": 0}}, set()),
        ({"settings": {"holdout_every": 2}}, {0, 2, 4, 6}),
        ({"settings": {"holdout_every": 3}}, {0, 6}),
        ({}, set()),
        (None, set()),
    ],
)
def test_views_from_which_the_scene_was_described_later_are_not_held_out(
    described: object, held_out: set[int]
) -> None:
    camera = asked_scene().cameras[0]
    cameras = tuple(replace(camera, name=f"{name}.jpg") for name in "abcdefg")
    made = {"settings": {"holdout_every": 2}, "described": described}
    scene = replace(asked_scene(), cameras=cameras, provenance=made)
    thing = LabelledObject.of("left ball", np.ones((camera.height, camera.width), dtype=bool))
    frames = [LabelledFrame(name, camera.width, camera.height, (thing,)) for name in "abcdefg"]
    rows = evaluate(SceneQuery(scene, TableEncoder()), Labels("balls", tuple(frames))).rows
    assert {number for number, row in enumerate(rows) if row.held_out} == held_out


def test_names_of_any_bytes_find_their_views_and_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9")  # as archives of old programs unpack it
    thing = LabelledObject.of(name, np.ones((HEIGHT, WIDTH), dtype=bool))
    labels = Labels(name, (LabelledFrame(f"{name}.jpg", WIDTH, HEIGHT, (thing,)),))
    answers = [{name: random_map(np.random.default_rng(0))}]
    evaluate(Maps([f"images/{name}.jpg"], answers), labels)
    report = evaluate(Maps(["images/caf?.jpg"], answers), labels)  # as scenes have it
    write_lerf_labels(labels, tmp_path / "labels")
    assert read_labels(tmp_path / "labels").frames[0].queries == ["caf?"]
    monkeypatch.setattr("langsplat.evaluate.evaluate", lambda *args, **options: report)
    monkeypatch.setattr("langsplat.__main__._open", lambda *args: None)
    monkeypatch.setattr("langsplat.__main__._engine", lambda *args, **options: None)
    out = tmp_path / "out"
    assert main(["eval", "desk", str(tmp_path / "labels"), "--out", str(out)]) == 0
    assert "| caf? | 1 |" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["queries"][0]["query"] == "caf?"


def test_the_command_prints_and_writes_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = read_labels(TEATABLE)
    things = [t for t in labels.frames[2].objects if t.category in ("red mug", "banana", "table")]
    few = Labels("tea", (replace(labels.frames[2], objects=tuple(things)),))
    write_lerf_labels(few, tmp_path / "tea")
    pair = [str(bundled_scenes()["teatable"]), str(tmp_path / "tea")]
    assert main(["eval", *pair, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| tea | 3 |" in printed and "**scene macro**" in printed and "| red mug |" in printed
    assert (tmp_path / "out" / "report.md").read_text() == printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["profile"] == "langsplat-v1" and len(report["queries"]) == 3
    mug = next(row for row in report["queries"] if row["query"] == "red mug")
    assert mug["hit"] and mug["oracle"] > 0.5
    assert main(["eval", pair[0]]) == 1
    assert "has no labels: give SCENE and LABELS in turn" in capsys.readouterr().err
    for options, words in (
        (["--profile", "lerf"], "langsplat-v2"),
        (["--encoder", "bundled"], "give --autoencoder too"),
        (["--images", "photos"], "give --autoencoder too"),
        (["--near-things", "--profile", "3d-selection"], "leave it out"),
        (["--near-things", "--autoencoder", "best_ckpt.pth"], "leave it out"),
    ):
        assert main(["eval", *pair, *options]) == 1
        assert words in capsys.readouterr().err
