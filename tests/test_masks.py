"""The bundled segmenter, with the picture alone and with the surface behind it; the registry."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from langsplat.masks import SCALES, load_segmenter
from tests.conftest import real_data

SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (33, 57), (120, 160), (700, 500)]


def still_life(height: int = 180, width: int = 240) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A shaded table with a shaded ball and a two-tone box, with noise; masks of each."""
    y, x = np.mgrid[:height, :width] / height
    ball = (x - 0.4) ** 2 + (y - 0.45) ** 2 < 0.2**2
    box = (abs(x - 0.95) < 0.18) & (abs(y - 0.6) < 0.25)
    lid = box & (y < 0.45)
    image = np.empty((height, width, 3))
    image[:] = (170, 165, 150)
    image *= (0.75 + 0.35 * x / x.max())[..., None]
    image[ball] = (200, 30, 35)
    image[ball] *= (1.25 - 1.5 * (y - 0.25))[ball][:, None]
    image[box] = (40, 70, 190)
    image[lid] = (60, 110, 200)
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    masks = {"ball": ball, "body": box & ~lid, "lid": lid}
    return np.clip(image, 0, 255).astype(np.uint8), masks


def best_overlap(segments: np.ndarray, mask: np.ndarray) -> float:
    """The highest intersection over union of any one segment of a level with `mask`."""
    return max(
        float((mask & (segments == i)).sum() / (mask | (segments == i)).sum())
        for i in range(segments.max() + 1)
    )


def check_partition(segments: np.ndarray, shape: tuple[int, int]) -> None:
    assert segments.shape == (3, *shape) and segments.dtype == np.int32
    for ids in segments:
        assert np.array_equal(np.unique(ids), np.arange(ids.max() + 1))


@pytest.mark.parametrize("shape", SIZES)
def test_any_size_is_cut_into_three_nested_partitions(shape):
    image = np.random.default_rng(2).integers(0, 256, (*shape, 3)).astype(np.uint8)
    segments = load_segmenter()(image)
    check_partition(segments, shape)
    for fine, coarse in ((0, 1), (1, 2)):
        pairs = np.unique(segments[fine].ravel() * 10**6 + segments[coarse].ravel())
        assert len(pairs) == segments[fine].max() + 1, "a coarse segment is a union of fine ones"


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_constant_picture_is_one_segment(value):
    segments = load_segmenter()(np.full((30, 50, 3), value, np.uint8))
    assert not segments.any()


def test_a_grey_picture_is_cut_at_its_edges():
    image = np.full((60, 80, 3), 60, np.uint8)
    image[:, 40:] = 190
    whole = load_segmenter()(image)[2]
    assert whole.max() == 1 and len(np.unique(whole[:, :38])) == 1


def test_shaded_objects_come_out_whole_and_their_parts_apart():
    image, masks = still_life()
    segments = load_segmenter()(image)
    assert best_overlap(segments[2], masks["ball"]) > 0.9
    for part in ("body", "lid"):
        assert max(best_overlap(ids, masks[part]) for ids in segments) > 0.9


def test_a_busy_picture_has_no_tiny_segments_and_not_too_many():
    tiles = np.random.default_rng(3).integers(0, 256, (24, 32, 3))
    image = np.kron(tiles, np.ones((10, 10, 1))).astype(np.uint8)
    image[::17, ::13] = 255  # specks
    for ids, scale in zip(load_segmenter()(image), SCALES, strict=True):
        areas = np.bincount(ids.ravel())
        assert len(areas) <= scale.most
        assert areas.min() >= scale.smallest * ids.size


def test_every_segment_is_one_connected_piece():
    image, _ = still_life()
    for ids in load_segmenter()(image):
        for i in range(ids.max() + 1):
            assert ndimage.label(ids == i)[1] == 1


def test_the_same_picture_gives_the_same_segments():
    image, _ = still_life()
    segmenter = load_segmenter("bundled")
    assert np.array_equal(segmenter(image), segmenter(image.copy()))


def test_a_larger_picture_gives_the_same_objects():
    image, masks = still_life(720, 960)
    segments = load_segmenter()(image)
    check_partition(segments, (720, 960))
    assert best_overlap(segments[2], masks["ball"]) > 0.9


def test_photos_are_cut_into_a_sensible_number_of_segments():
    photos = sorted((real_data("snowmiku_small") / "images").iterdir())[::40]
    for photo in photos:
        image = np.asarray(Image.open(photo).convert("RGB"))
        segments = load_segmenter()(image)
        check_partition(segments, image.shape[:2])
        counts = [int(ids.max()) + 1 for ids in segments]
        assert 40 <= counts[0] <= 150 and 8 <= counts[2] <= 50
        assert counts[0] > counts[1] > counts[2]


FOCAL = 240.0
UP = np.array([0.0, -0.8, -0.6])  # of a table, in camera axes: the camera looks down on it


class Room:
    """A grey table seen at a slant; things are put on it and hide what is behind them."""

    def __init__(self, height: int = 180, width: int = 240) -> None:
        y, x = np.mgrid[:height, :width] + 0.5
        self.rays = np.stack([(x - width / 2) / FOCAL, (y - height / 2) / FOCAL, 1 + 0 * x], axis=2)
        self.image = np.full((height, width, 3), (150.0, 150.0, 150.0))
        self.inverse = np.maximum(self.rays @ UP / (10 * UP[2]), 0.02)  # a wall far behind it
        wall = (self.inverse <= 0.02)[..., None]
        self.normals = np.where(wall, (0.0, 0.0, -1.0), UP)

    def add(self, mask, depth, normals, color) -> np.ndarray:
        """Paint `mask` where it is nearer than what is there; -> [H, W] bool, where it is seen."""
        mask = mask & (1 / depth > self.inverse)
        self.inverse[mask] = 1 / np.broadcast_to(depth, mask.shape)[mask]
        self.normals[mask] = np.broadcast_to(normals, self.normals.shape)[mask]
        self.image[mask] = np.broadcast_to(color, self.image.shape)[mask]
        return mask

    def ball(self, center, radius: float, color) -> np.ndarray:
        along = (self.rays @ center) / (self.rays**2).sum(axis=2)
        middle = self.rays * along[..., None] - center
        off = radius**2 - (middle**2).sum(axis=2)
        depth = along - np.sqrt(np.maximum(off, 0) / (self.rays**2).sum(axis=2))
        normals = (self.rays * depth[..., None] - center) / radius
        return self.add(off > 0, depth, normals, color)

    def front(self, left, top, right, bottom, depth: float, color) -> np.ndarray:
        """A board that faces the camera, its corners in pixels."""
        mask = np.zeros(self.inverse.shape, bool)
        mask[top:bottom, left:right] = True
        return self.add(mask, np.full(mask.shape, depth), (0.0, 0.0, -1.0), color)

    def segments(self, surface: bool = True, times: int = 1) -> np.ndarray:
        """Segments in the room's size, even if picture and surface are enlarged first."""
        noise = np.random.default_rng(0).normal(0, 3, self.image.shape)
        image = np.clip(self.image + noise, 0, 255).astype(np.uint8)
        behind = np.concatenate([self.normals, self.inverse[..., None]], axis=2)
        image, behind = (
            each.repeat(times, axis=0).repeat(times, axis=1) for each in (image, behind)
        )
        segments = load_segmenter()(image, behind.astype(np.float32) if surface else None)
        return segments[:, times // 2 :: times, times // 2 :: times]


def test_neighbours_of_one_color_are_told_apart_by_their_depth():
    room = Room()
    far = room.front(60, 60, 130, 110, 8.0, (60, 90, 180))
    near = room.front(100, 80, 170, 140, 6.0, (60, 90, 180))
    far &= ~near
    for times in (1, 3):  # 3: so large that pictures are shrunk first
        whole = room.segments(times=times)[2]
        assert best_overlap(whole, far) > 0.85 and best_overlap(whole, near) > 0.9
    assert all(best_overlap(ids, far) < 0.7 for ids in room.segments(surface=False))


def test_a_ball_of_two_colors_on_a_table_is_one_whole_of_two_parts():
    room = Room()
    x = np.arange(240)[None, :, None]
    colors = np.where(x < 120, (200.0, 40.0, 40.0), (40.0, 60.0, 190.0))
    ball = room.ball((0.0, 0.0, 8.0), 1.5, colors)
    segments = room.segments()
    assert best_overlap(segments[2], ball) > 0.9
    left = ball & (np.arange(240) < 120)
    assert best_overlap(segments[1], left) > 0.85 and best_overlap(segments[2], left) < 0.6
    assert best_overlap(room.segments(surface=False)[2], ball) < 0.6


def test_two_faces_of_a_box_are_one_thing_and_two_that_meet_in_a_crease_are_two():
    for away in (1, -1):  # the faces go away from the camera, or toward it
        room = Room()
        x, y = room.rays[..., 0], room.rays[..., 1]
        normals = np.stack([away * np.sign(x), 0 * x, 0 * x - 1], axis=2) / 2**0.5
        colors = np.where(x[..., None] < 0, (60.0, 90.0, 180.0), (80.0, 115.0, 215.0))
        both = room.add((abs(x) < 0.25) & (abs(y) < 0.2), 5 / (1 - away * abs(x)), normals, colors)
        one = both if away > 0 else both & (x < 0)
        assert best_overlap(room.segments()[2], one) > 0.9
        assert best_overlap(room.segments(surface=False)[2], both) > 0.9


@pytest.mark.parametrize("size", [(180, 240), (240, 120)])
def test_what_has_the_tables_color_is_not_the_table(size):
    room = Room(*size)
    ball = room.ball((0.0, 0.3, 8.0), 1.5, (150.0, 150.0, 150.0))
    table = (room.inverse > 0.02) & ~ball
    whole = room.segments()[2]
    assert best_overlap(whole, ball) > 0.9 and best_overlap(whole, table) > 0.9


def test_a_table_of_two_colors_stays_two():
    room = Room()
    cloth = np.zeros((180, 240), bool)
    cloth[100:160, 60:180] = True
    room.image[cloth] = (170, 40, 40)
    assert best_overlap(room.segments()[2], cloth) > 0.9


def test_a_surface_without_edges_where_colors_have_them_is_not_believed():
    room = Room()
    board = room.front(60, 60, 130, 110, 8.0, (150, 157, 166))
    room.inverse[:] = ndimage.gaussian_filter(room.inverse, 40)
    room.normals[:] = (0.0, 0.0, -1.0)
    assert best_overlap(room.segments()[2], board) > 0.9


@pytest.mark.parametrize("shape", SIZES)
def test_any_surface_gives_three_nested_partitions(shape):
    random = np.random.default_rng(4)
    image = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    surface = random.normal(0, 0.5, (*shape, 4)).astype(np.float32)
    for behind in (surface, np.zeros_like(surface)):
        segments = load_segmenter()(image, behind)
        check_partition(segments, shape)
        pairs = np.unique(segments[0].ravel() * 10**6 + segments[2].ravel())
        assert len(pairs) == segments[0].max() + 1


def test_a_surface_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"surface must be \[30, 40, 4\]"):
        load_segmenter()(np.zeros((30, 40, 3), np.uint8), np.zeros((40, 30, 4), np.float32))


def test_a_surface_is_taken_as_it_is_rendered():
    image, _ = still_life(30, 40)
    surface = torch.zeros(30, 40, 4)
    surface[..., 2], surface[..., 3] = -1, 0.5
    segments = load_segmenter()(image, surface)
    assert np.array_equal(segments, load_segmenter()(image, surface.numpy()))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_not_a_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8"):
        load_segmenter()(image)


def test_an_unknown_segmenter_is_refused_in_words():
    with pytest.raises(ValueError, match=r"no segmenter 'magic'.*bundled.*sam_vit_h"):
        load_segmenter("magic")
