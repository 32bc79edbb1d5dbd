"""Labels are read as the evaluators of the papers read them, and written so that they come back."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from langsplat.evaluate import (
    LabelledFrame,
    LabelledObject,
    Labels,
    fill_polygon,
    read_labels,
    trace_polygons,
    world_queries,
    write_lerf_labels,
)
from tests.conftest import ROOT

TEATABLE = ROOT / "tests" / "data" / "teatable"


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Islands, holes, lines one pixel thin, single pixels, the border touched."""
    shape = tuple(rng.integers(1, 40, 2))
    smooth = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0, 2.5))
    return smooth >= np.quantile(smooth, rng.uniform(0.1, 0.9))


def test_traced_polygons_give_back_any_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = random_mask(rng)
        filled = np.zeros_like(mask)
        for polygon in trace_polygons(mask):
            filled |= fill_polygon(polygon, mask.shape[1], mask.shape[0])
        np.testing.assert_array_equal(filled, mask)
    assert trace_polygons(np.zeros((4, 5), dtype=bool)) == []


def test_a_polygon_paints_what_opencv_4_paints() -> None:
    # Written down from cv2.fillPoly of OpenCV 4.10.
    drawn = """
        ..#.........
        ..##.....#..
        ..###...##..
        ..###.####..
        .#########..
        .####.###...
        .###..###...
        .#.....##...
        ........#..."""
    want = np.array([[c == "#" for c in line.strip()] for line in drawn.split()])
    corners = [[1.9, 7.2], [9, 1], [8, 8], [2, 0]]
    np.testing.assert_array_equal(fill_polygon(corners, 12, 9), want)
    one = fill_polygon([[3, 2]], 5, 4)
    assert one[2, 3] and one.sum() == 1
    assert fill_polygon([[-9, -9], [20, -9], [20, 20], [-9, 20]], 5, 4).all()


def test_a_polygon_that_leaves_the_picture_paints_what_opencv_4_paints() -> None:
    # Also from cv2.fillPoly of OpenCV 4.10, which cuts edges to whole pixels at the border first.
    drawn = """
        .##########.
        ###########.
        ############
        ...#########
        ....########
        ....########
        ....########
        ....########
        ....#######."""
    want = np.array([[c == "#" for c in line.strip()] for line in drawn.split()])
    corners = [[-3, 2.5], [8, -4], [15, 6], [12, 7.9], [4, 13], [5, 3]]
    np.testing.assert_array_equal(fill_polygon(corners, 12, 9), want)
    # Of one edge a single pixel is in the picture, and nothing of another.
    corner = fill_polygon([[1, 14], [5, 17], [21, 1]], 14, 10)
    assert corner.sum(axis=1).tolist() == [0, 0, 0, 0, 0, 1, 3, 4, 5, 6]
    assert np.array_equal(corner, np.sort(corner, axis=1)), "all of them at the right border"


def test_the_labels_of_a_rendered_world_come_back_from_the_lerf_layout(tmp_path: Path) -> None:
    world = read_labels(TEATABLE)
    some = Labels("teatable", world.frames[::3])
    write_lerf_labels(some, tmp_path / "teatable")
    again = read_labels(tmp_path / "teatable")
    assert again.name == "teatable" and len(again.frames) == len(some.frames) >= 3
    for before, after in zip(some.frames, again.frames, strict=True):
        assert (before.name, before.width, before.height) == (after.name, after.width, after.height)
        assert before.queries == after.queries and len(before.queries) > 30
        for query in before.queries:
            np.testing.assert_array_equal(before.mask(query), after.mask(query))
            np.testing.assert_array_equal(before.boxes(query), after.boxes(query))


def test_an_object_is_where_its_mask_is_not_zero_whatever_the_masks_type() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:7] = True
    for given in (mask, 255 * mask.astype(np.uint8), mask.astype(int), torch.from_numpy(mask)):
        frame = LabelledFrame("a", 8, 6, (LabelledObject.of("cup", given),))
        assert np.array_equal(frame.mask("cup"), mask)
        assert frame.boxes("cup").tolist() == [[2, 1, 6, 2]]


@pytest.mark.parametrize("inside", ["", "segmentations"])
def test_labels_given_from_where_they_are_have_their_scenes_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    frame = tmp_path / "room" / "segmentations" / "00"
    frame.mkdir(parents=True)
    Image.new("L", (6, 4), 255).save(frame / "wood wall.png")
    monkeypatch.chdir(tmp_path / "room" / inside)
    labels = read_labels(".")
    assert labels.name == "room" and labels.asked_together == {"wood wall": "wood table"}
    monkeypatch.chdir(TEATABLE)
    assert read_labels(".").name == "teatable"


def test_a_world_is_asked_for_what_its_pictures_show() -> None:
    entries = json.loads((TEATABLE / "labels.json").read_text())["labels"]
    queries = world_queries(entries)
    frame = read_labels(TEATABLE).frames[0]
    indices = np.asarray(Image.open(TEATABLE / frame.name))
    mugs = [entry["index"] for entry in entries if entry["object"] == "mug"]
    np.testing.assert_array_equal(frame.mask("mug"), np.isin(indices, mugs))
    assert len(frame.boxes("mug")) == 2 and len(frame.boxes("red mug")) == 1
    ys, xs = np.nonzero(frame.mask("red mug"))
    assert frame.boxes("red mug").tolist() == [[xs.min(), ys.min(), xs.max(), ys.max()]]
    for frame in read_labels(TEATABLE).frames:
        assert all(frame.mask(query).sum() >= 60 for query in frame.queries)
    assert "handle of the mug" in queries and "white mug" in queries
    assert "red apple" not in queries, "there is only one apple"
    assert "brown cookie" not in queries, "both cookies are brown"
    assert "rug of the rug" not in queries, "the part is all there is"
    assert len(queries["cookie"]) == 2 and len(queries["wall"]) == 1


def test_a_frame_is_asked_for_what_it_shows_at_least_sixty_pixels_of(tmp_path: Path) -> None:
    entries = [
        {"index": index, "instance": index, "object": name, "object_color": "red", "part": name}
        for index, name in enumerate(("floor", "cup", "pea"))
    ]
    (tmp_path / "labels.json").write_text(json.dumps({"labels": entries}))
    indices = np.zeros((20, 20), dtype=np.uint8)
    indices[:6, :10], indices[10:16, :10], indices[15, 9] = 1, 2, 0
    Image.fromarray(indices).save(tmp_path / "a.png")
    (frame,) = read_labels(tmp_path).frames
    assert frame.queries == ["floor", "cup"], "the cup has 60, the pea 59"


def test_3d_ovs_masks_are_read_by_folder_and_file(tmp_path: Path) -> None:
    place = tmp_path / "room" / "segmentations"
    (place / "04").mkdir(parents=True)
    (place / "classes.txt").write_text("wood wall\nrabbit\n")
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[2:4, 3:6] = 255
    Image.fromarray(mask).save(place / "04" / "rabbit.png")
    rgb = np.stack([255 - mask] * 3, axis=2)
    Image.fromarray(rgb).save(place / "04" / "wood wall.png")
    for path in (place, place.parent):
        labels = read_labels(path)
        assert labels.name == "room" and [frame.name for frame in labels.frames] == ["04"]
        frame = labels.frames[0]
        assert frame.queries == ["rabbit", "wood wall"]
        np.testing.assert_array_equal(frame.mask("rabbit"), mask > 0)
        np.testing.assert_array_equal(frame.mask("wood wall"), mask == 0)
        assert labels.asked_together == {"wood wall": "wood table"}
    bench = place.parent.rename(tmp_path / "bench")
    assert read_labels(bench).asked_together is None, "the room's wall alone"
    bench.rename(place.parent)
    Image.fromarray(mask[:3]).save(place / "04" / "cup.png")
    with pytest.raises(ValueError, match="differ in size: correct or remove the frame"):
        read_labels(place)
    png = (place / "04" / "rabbit.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + png[24:29]
    huge = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    for content in (b"", huge):
        (place / "04" / "cup.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"cup\.png is no readable PNG .*: replace or remove"):
            read_labels(place)


def lerf_file(folder: Path, **changes: object) -> Path:
    thing = {"category": "cup", "segmentation": [[1, 1], [3, 1], [3, 3]], "bbox": [3, 3, 1, 1]}
    content = {"info": {"name": "a.jpg", "width": 9, "height": 7}, "objects": [thing | changes]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def test_corners_of_boxes_are_put_in_order_and_objects_of_a_category_joined(tmp_path: Path) -> None:
    folder = lerf_file(tmp_path)
    content = json.loads((folder / "a.json").read_text())
    content["objects"].append({**content["objects"][0], "segmentation": [[6.9, 5.2]]})
    (folder / "a.json").write_text(json.dumps(content))
    frame = read_labels(folder).frames[0]
    assert frame.boxes("cup").tolist() == [[1, 1, 3, 3]]
    assert frame.mask("cup").sum() == 7 and frame.mask("cup")[5, 6]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bbox": [1, 2]}, "lacks its category, outline or box"),
        ({"segmentation": []}, "lacks its category, outline or box"),
        ({"category": " "}, "lacks its category, outline or box"),
        ({"segmentation": [[1, float("nan")]]}, "'cup' is not finite"),
        ({"segmentation": [[1, 1e9]]}, "far outside"),
        ({"segmentation": "here"}, "a.json is not a LERF-OVS label, which has info"),
        ({"segmentation": [[1, 10**400]]}, "a.json is not a LERF-OVS label, which has info"),
        ({"bbox": None}, r"objects \(category, segmentation, bbox\): correct or remove"),
    ],
)
def test_a_damaged_label_is_named_in_a_sentence(
    tmp_path: Path, changes: dict, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_labels(lerf_file(tmp_path, **changes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        "[" * 100_000,
        '{"info": {"width": Infinity, "height": 7}, "objects": []}',
        '{"labels": [{"index": Infinity, "object": "a", "instance": 1, "part": "b"}]}',
    ],
)
@pytest.mark.parametrize("name", ["a.json", "labels.json"])
def test_a_file_that_is_no_label_is_refused_in_a_sentence(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} .*(correct or remove the file|render it)"):
        read_labels(tmp_path)


def test_folders_without_labels_and_doubled_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a folder"):
        read_labels(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no labels"):
        read_labels(tmp_path)
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(ValueError, match="does not explain"):
        read_labels(tmp_path)
    thing = LabelledObject.of("cup", np.eye(4, dtype=bool))
    frames = tuple(LabelledFrame(name, 4, 4, (thing,)) for name in ("a.png", "b/a.jpg"))
    with pytest.raises(ValueError, match="both called 'a'"):
        Labels("scene", frames)
    with pytest.raises(ValueError, match="hold no frame"):
        Labels("scene", ())
