"""Segment Anything: a real network with random weights, and a scripted one with known masks."""

import hashlib
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage

from langsplat.encoders import WEIGHTS_FILE, Encoder, load_encoder
from langsplat.features import crop_segments, embed_segments
from langsplat.masks import load_segmenter
from langsplat.sam import (
    PRESETS,
    WEIGHTS,
    SamSegmenter,
    SamSettings,
    intersections,
    keep_masks,
    paint,
    without_specks,
)
from tests.conftest import real_data

pytest.importorskip("segment_anything")
HEIGHT, WIDTH = 60, 80


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


class Scripted:
    """A predictor that knows the answer: a point on an object gets that object's three masks.

    `objects` are (subpart, part, whole) masks of the picture, each with a predicted IoU. The last
    object under a point wins. Masks may be logits, where it is not sure of every pixel. Crops are
    found by their size and the picture's content, and enlarged twofold.
    """

    device = torch.device("cpu")

    def __init__(self, objects: list[tuple[list[np.ndarray], list[float]]]) -> None:
        self.model = SimpleNamespace(mask_threshold=0.0, image_encoder=SimpleNamespace(img_size=64))
        self.transform = SimpleNamespace(apply_coords=self.enlarged)
        self.objects = objects
        self.offset = (0, 0)
        self.at_once: list[int] = []  # how many points were asked for

    def set_image(self, image: np.ndarray) -> None:
        self.size = image.shape[:2]
        self.offset = (int(image[0, 0, 0]), int(image[0, 0, 1]))  # the picture names its pixels

    def reset_image(self) -> None:
        pass

    def enlarged(self, points: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        assert size == self.size
        return 2 * points

    def predict_torch(
        self, points: torch.Tensor, labels: torch.Tensor, **options: bool
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        assert options == {"multimask_output": True, "return_logits": True}
        assert labels.eq(1).all(), "1: the point is on the thing; 0: beside it"
        self.at_once.append(len(points))
        left, top = self.offset
        height, width = self.size
        logits = torch.full((len(points), 3, height, width), -9.0)
        quality = torch.zeros(len(points), 3)
        for row, (x, y) in enumerate((points[:, 0] / 2).tolist()):
            for masks, ious in self.objects:
                if masks[0][int(y) + top, int(x) + left] > 0:
                    for level in range(3):
                        seen = masks[level][top : top + height, left : left + width]
                        seen = np.where(seen, 9.0, -9.0) if seen.dtype == bool else seen
                        logits[row, level] = torch.from_numpy(seen)
                    quality[row] = torch.tensor(ious)
        return logits, quality, None


def coordinates() -> np.ndarray:
    """A picture whose pixel says where it is, so that the scripted predictor knows a crop."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y, x * 0], axis=2).astype(np.uint8)


PLAIN = SamSettings(points_per_side=8, crop_layers=0, points_per_batch=7, smallest=0)


def segment(
    objects: list, settings: SamSettings = PLAIN
) -> tuple[np.ndarray, list[np.ndarray], SamSegmenter]:
    segmenter = SamSegmenter("scripted", Scripted(objects), settings)
    return *segmenter.segments_and_masks(coordinates()), segmenter


KNOB, DOOR, SHELF = box(12, 12, 22, 22), box(10, 10, 30, 40), box(6, 6, 44, 54)
MUG, TABLE = box(52, 20, 66, 40), box(48, 10, 78, 56)


def test_the_three_outputs_become_three_levels():
    furniture = ([KNOB, DOOR, SHELF], [0.9, 0.95, 0.99])
    crockery = ([MUG, MUG, TABLE], [0.9, 0.9, 0.9])
    segments, masks, segmenter = segment([furniture, crockery])
    assert segments.shape == (3, HEIGHT, WIDTH) and segments.dtype == np.int32
    for level, wanted in enumerate([[KNOB, MUG], [DOOR, MUG], [SHELF, TABLE]]):
        assert segments[level].max() == 1
        for mask in wanted:
            (row,) = [k for k in range(2) if np.array_equal(masks[level][k], mask)]
            assert np.array_equal(segments[level] == row, mask)
    assert np.array_equal(segmenter(coordinates()), segments)


def test_a_level_without_masks_is_empty_and_the_others_stand():
    doubtful = ([KNOB, DOOR, SHELF], [0.69, 0.95, 0.95])
    segments, masks, _ = segment([doubtful])
    assert (segments[0] == -1).all() and masks[0].shape == (0, HEIGHT, WIDTH)
    assert np.array_equal(segments[1] == 0, DOOR) and np.array_equal(segments[2] == 0, SHELF)


def test_points_are_asked_for_in_batches_which_change_nothing():
    found = []
    for batch, sizes in ((7, [*[7] * 9, 1]), (40, [40, 24])):
        predictor = Scripted([([KNOB, DOOR, SHELF], [0.9] * 3)])
        settings = replace(PLAIN, points_per_batch=batch)
        found.append(SamSegmenter("scripted", predictor, settings)(coordinates()))
        assert predictor.at_once == sizes
    assert np.array_equal(*found) and found[0].max() == 0


@pytest.mark.parametrize("crop_layers", [0, 1])
def test_nothing_found_gives_three_empty_levels(crop_layers):
    segments, masks, _ = segment([], replace(PLAIN, crop_layers=crop_layers))
    assert (segments == -1).all() and [len(of_level) for of_level in masks] == [0, 0, 0]


def test_levels_do_not_suppress_each_other():
    """The stock filters would keep one of three equal boxes."""
    same = ([MUG, MUG, MUG], [0.8, 0.9, 0.95])
    segments, _, _ = segment([same])
    assert all(np.array_equal(ids == 0, MUG) for ids in segments)


class Dots(Scripted):
    """Every point gets a small square of its own, at all levels or only at the first."""

    def __init__(self, levels: list[float]) -> None:
        super().__init__([])
        self.levels = torch.tensor(levels)

    def predict_torch(
        self, points: torch.Tensor, labels: torch.Tensor, **options: bool
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, y = (points[:, 0] / 2).T[..., None]
        columns, rows = (torch.arange(length) for length in self.size[::-1])
        square = ((y - rows).abs() < 2)[..., None] & ((x - columns).abs() < 2)[:, None]
        logits = torch.where(square, 9.0, -9.0)[:, None].expand(-1, 3, -1, -1)
        quality = 0.8 + 0.002 * ((37 * x + 91 * y) % 100)
        return logits, quality.float() * self.levels, None


def test_masks_of_other_levels_do_not_change_the_order_in_which_one_is_painted():
    """From more than 1000 boxes torchvision's batched_nms returns equal scores in any order."""
    settings = replace(PLAIN, points_per_side=14, points_per_batch=196, crop_layers=1)
    alone, together = (
        SamSegmenter("dots", Dots(levels), settings).segments_and_masks(coordinates())
        for levels in ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    )
    assert 334 < len(alone[1][0]) <= 1000
    assert np.array_equal(together[0][0], alone[0][0])
    assert np.array_equal(together[1][0], alone[1][0])


def test_crops_of_the_picture_find_things_and_stay_in_place():
    tiny = box(60, 42, 66, 48)  # the grid of the whole picture has no point on it
    objects = [([DOOR] * 3, [0.9] * 3), ([tiny] * 3, [0.9] * 3)]
    coarse = replace(PLAIN, points_per_side=4)
    missed, _, _ = segment(objects, coarse)
    assert not any(np.array_equal(missed[0] == k, tiny) for k in range(2))
    found, _, _ = segment(objects, replace(coarse, crop_layers=1))
    assert any(np.array_equal(found[0] == k, tiny) for k in range(2))
    assert any(np.array_equal(found[0] == k, DOOR) for k in range(2))


def test_specks_go_before_the_masks_are_compared():
    speckled = MUG.copy()
    speckled[28:30, 58:60] = False
    speckled[2:4, 2:4] = True
    settings = replace(PLAIN, smallest=10)
    segments, _, _ = segment([([speckled] * 3, [0.9] * 3)], settings)
    assert np.array_equal(segments[0] == 0, MUG)


def test_a_mask_that_is_one_speck_is_painted_over_the_tidy_ones():
    """SAM's code counts it as one that needed cleaning, and ranks those last."""
    badge = box(64, 28, 70, 32)  # 24 pixels, two thirds of them beside the mug
    objects = [([MUG] * 3, [0.9] * 3), ([badge] * 3, [0.99] * 3)]
    for smallest, hidden in ((24, 8), (25, 0)):
        segments, masks, _ = segment(objects, replace(PLAIN, points_per_side=20, smallest=smallest))
        (row,) = [k for k in range(2) if np.array_equal(masks[0][k], badge)]
        assert np.count_nonzero(segments[0] == row) == 24 - hidden


def unsure(core: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Logits: certain of `core`, undecided about the rest of `around`."""
    return np.where(core, 9.0, np.where(around, 0.5, -9.0))


def test_masks_that_are_unsure_of_their_pixels_or_of_themselves_go():
    core = box(20, 14, 40, 34)  # 400 pixels
    wide, narrow = (unsure(core, box(20, 14, 40, bottom)) for bottom in (38, 37))  # 80, 60 more
    for logits, quality, score, stays in (
        (wide, 1.0, 0.7, False),  # stability 400 / 480
        (narrow, 1.0, 0.7, True),  # 400 / 460 = 0.87
        (narrow, 0.8, 0.7, False),  # times 0.8 = 0.696
        (narrow, 0.81, 0.7, True),
        (core, 0.9, 0.89999997, True),  # scores of single precision would be equal to it
        (core, 0.7, 0.0, False),
        (core, 0.71, 0.0, True),
    ):
        segments, _, _ = segment([([logits] * 3, [quality] * 3)], replace(PLAIN, score=score))
        assert bool((segments[0] == 0).any()) == stays, (quality, score)


def test_of_masks_that_cleaning_made_alike_the_one_it_did_not_touch_stays():
    clean, other = box(20, 14, 40, 34), box(20, 14, 40, 32) | box(60, 50, 62, 52)
    objects = [([clean] * 3, [0.9] * 3), ([other] * 3, [0.95] * 3)]
    segments, _, _ = segment(objects, replace(PLAIN, smallest=10))
    assert np.array_equal(segments[0] == 0, clean)


def naive_keep(masks: np.ndarray, scores: np.ndarray, settings: SamSettings) -> list[bool]:
    """The three rules, one pair of masks at a time."""
    keep = [bool(score > settings.score) for score in scores]
    order = sorted(range(len(masks)), key=lambda k: -scores[k])
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            both = np.logical_and(masks[i], masks[j]).sum()
            if both / np.logical_or(masks[i], masks[j]).sum() > settings.mask_overlap:
                keep[j] = False
            in_i, in_j = both / masks[j].sum(), both / masks[i].sum()
            if in_i >= settings.inside and in_j < settings.fills:
                keep[j] = False
            if in_j >= settings.inside and in_i < settings.fills:
                keep[i] = False
    return keep


def test_the_worse_of_two_masks_alike_goes():
    masks = np.stack([box(10, 10, 40, 40), box(10, 10, 40, 38), box(10, 10, 40, 28)])
    scores = np.array([0.8, 0.9, 0.85])
    assert keep_masks(masks, scores, PLAIN).tolist() == [False, True, True]
    assert keep_masks(masks, scores[[1, 0, 2]], PLAIN).tolist() == [True, False, True]


def test_of_two_masks_alike_with_the_same_score_the_first_stays():
    masks = np.stack([box(10, 10, 40, 40), box(10, 10, 40, 38)])
    assert keep_masks(masks, np.full(2, 0.9), PLAIN).tolist() == [True, False]


def test_a_mask_that_goes_still_drives_out_its_double():
    masks = np.stack([box(0, 0, 40, 40), box(0, 0, 40, 34), box(0, 0, 40, 29)])
    scores = np.array([0.9, 0.85, 0.8])  # second is like the first, third like the second only
    assert keep_masks(masks, scores, PLAIN).tolist() == [True, False, False]


def test_the_score_must_exceed_its_limit():
    masks = np.stack([KNOB, MUG, box(70, 50, 79, 59)])
    assert keep_masks(masks, np.array([0.7, 0.7001, np.nan]), PLAIN).tolist() == [
        False,
        True,
        False,
    ]


def test_a_small_mask_inside_a_large_one_goes_whichever_scores_better():
    masks = np.stack([KNOB, SHELF, box(40, 8, 50, 18)])  # the last is half outside
    for scores in ([0.99, 0.8, 0.9], [0.8, 0.99, 0.9]):
        assert keep_masks(masks, np.array(scores), PLAIN).tolist() == [False, True, True]


def test_a_part_that_fills_half_of_the_whole_stays():
    masks = np.stack([box(0, 0, 40, 40), box(0, 0, 40, 20), box(0, 20, 40, 39)])
    assert keep_masks(masks, np.full(3, 0.9), PLAIN).tolist() == [True, True, False]


def test_masks_exactly_at_a_limit_are_alike_not_yet_but_inside_already():
    alike = np.stack([box(0, 0, 10, 10), box(0, 0, 10, 8)])  # IoU 0.8
    assert keep_masks(alike, np.full(2, 0.9), PLAIN).all()
    inside = np.stack([box(0, 0, 20, 20), box(3, 0, 23, 1)])  # 17 pixels of 20
    assert keep_masks(inside, np.full(2, 0.9), PLAIN).tolist() == [True, False]


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Random smooth blobs, some of them alike, some nested."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = []
    for _ in range(count):
        cx, cy, a, b = *rng.uniform(0, [WIDTH, HEIGHT]), *rng.uniform(3, 20, 2)
        masks.append(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1)
        masks.append(((x - cx) / (a + 1)) ** 2 + ((y - cy) / b) ** 2 < rng.uniform(0.2, 1))
    return np.stack([mask for mask in masks if mask.any()])


def test_the_rules_as_matrices_agree_with_the_rules_one_by_one():
    masks = blobs(40)
    scores = np.random.default_rng(1).uniform(0.6, 1, len(masks))
    wanted = naive_keep(masks, scores, PLAIN)
    assert 0 < sum(wanted) < len(wanted)
    assert keep_masks(masks, scores, PLAIN).tolist() == wanted


def test_intersections_are_exact_where_nearly_every_pixel_lies_in_other_masks():
    flat = np.random.default_rng(0).random((20, 300 * 300)) < 0.5
    counts = flat.astype(np.float64)
    assert np.array_equal(intersections(flat.reshape(20, 300, 300)), counts @ counts.T)


def test_intersections_are_exact_and_empty_masks_share_nothing():
    masks = np.concatenate([blobs(20), np.zeros((1, HEIGHT, WIDTH), bool)])
    flat = masks.reshape(len(masks), -1).astype(int)
    assert np.array_equal(intersections(masks), flat @ flat.T)
    assert intersections(masks[:0]).shape == (0, 0)
    assert not keep_masks(masks, np.ones(len(masks)), PLAIN)[-1]


def test_later_masks_are_painted_over_earlier_ones():
    masks = np.stack(
        [box(0, 0, 20, 20), box(30, 30, 40, 40), box(10, 0, 30, 20), box(28, 28, 42, 42)]
    )
    ids, visible = paint(masks)
    assert visible.tolist() == [0, 2, 3], "the second is hidden and gets no number"
    assert ids[5, 5] == 0 and ids[5, 15] == 1 and ids[35, 35] == 2 and ids[50, 70] == -1
    assert ids.dtype == np.int32 and set(np.unique(ids)) == {-1, 0, 1, 2}
    assert np.array_equal(paint(masks.astype(np.uint8))[0], ids), "as pictures of masks are"


def test_a_crop_may_show_the_whole_mask_though_another_hides_part_of_it():
    masks = np.stack([box(0, 0, 20, 10), box(10, 0, 30, 10)])
    ids, _ = paint(masks)
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    seen = crop_segments(image, ids, 20)[0]
    whole = crop_segments(image, ids, 20, masks)[0]
    assert (seen == 200).all(), "what is left is a full square"
    assert (whole[5:15] == 200).all() and not whole[:5].any() and not whole[15:].any()
    with pytest.raises(ValueError, match=r"masks must be \[2, 60, 80\]"):
        crop_segments(image, ids, 20, masks[:1])
    for odd in (masks.astype(np.uint8), masks & ~masks[:1]):
        with pytest.raises(ValueError, match="masks must be bool and show something of every"):
            crop_segments(image, ids, 20, odd)


def test_specks_are_judged_by_their_size_alone():
    mask = box(20, 20, 40, 40)
    mask[25:28, 25:28] = False  # a hole of 9
    mask[30, 30] = mask[31, 31] = False  # a hole of 2, joined over a corner
    mask[5:8, 5:8] = True  # an island of 9
    mask[50, 50] = True
    clean, changed = without_specks(mask, 9)
    assert changed and not clean[26, 26] and clean[30, 30] and clean[6, 6] and not clean[50, 50]
    same, changed = without_specks(box(20, 20, 40, 40), 100)
    assert not changed and np.array_equal(same, box(20, 20, 40, 40))
    assert without_specks(box(10, 10, 13, 13), 10)[1], "the whole mask is one speck"
    slope = np.tril(box(40, 40, 48, 48))  # the other half of its box is no hole
    assert np.array_equal(without_specks(slope, 30)[0], slope)
    two = box(0, 0, 2, 2) | box(10, 10, 13, 13)
    assert np.array_equal(without_specks(two, 50)[0], box(10, 10, 13, 13)), "one always stays"
    assert not without_specks(np.zeros((9, 9), bool), 50)[0].any()


def test_specks_at_the_pictures_border_agree_with_the_whole_picture():
    for mask in blobs(30, seed=3):
        mask = mask ^ (np.random.default_rng(0).random(mask.shape) < 0.01)
        for smallest in (4, 30, 100):
            filled = ~mask
            labels, count = ndimage.label(filled, np.ones((3, 3)))
            sizes = ndimage.sum_labels(filled, labels, range(count + 1))
            wanted = mask | np.isin(labels, [k for k in range(1, count + 1) if sizes[k] < smallest])
            labels, count = ndimage.label(wanted, np.ones((3, 3)))
            sizes = ndimage.sum_labels(wanted, labels, range(count + 1))
            large = [k for k in range(1, count + 1) if sizes[k] >= smallest]
            wanted &= np.isin(labels, large or [1 + int(np.argmax(sizes[1:]))])
            assert np.array_equal(without_specks(mask, smallest)[0], wanted)


def test_the_papers_settings_are_the_default():
    paper = PRESETS["paper"]
    assert (paper.points_per_side, paper.crop_layers) == (32, 1)
    assert (paper.predicted_iou, paper.stability, paper.box_overlap) == (0.7, 0.85, 0.7)
    assert (paper.smallest, paper.mask_overlap, paper.score) == (100, 0.8, 0.7)
    assert (paper.inside, paper.fills, paper.points_per_batch) == (0.85, 0.5, 64)
    stock = SamSegmenter("scripted", Scripted([]), paper)._generator
    assert [len(grid) for grid in stock.point_grids] == [32**2, 32**2], "in the crops too"
    assert (stock.stability_score_offset, stock.crop_overlap_ratio) == (1.0, 512 / 1500)
    assert (stock.pred_iou_thresh, stock.stability_score_thresh) == (0.7, 0.85)
    assert (stock.box_nms_thresh, stock.crop_nms_thresh, stock.crop_n_layers) == (0.7, 0.7, 1)
    for name in ("fast", "cpu"):
        assert (PRESETS[name].points_per_side, PRESETS[name].crop_layers) == (16, 0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random sam_vit_b as the official file lays it out."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("sam") / "mine.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), file)
    yield file
    file.unlink()  # 375 MB


@pytest.fixture
def paper_encoder(tmp_path: Path) -> Encoder:
    """A random ViT-B-16 as the official file lays it out."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", load_weights=False, pretrained_text=False)
    file = tmp_path / WEIGHTS_FILE
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    encoder = load_encoder(f"open_clip:ViT-B-16/{file}")
    file.unlink()  # 600 MB
    return encoder


def peak_memory() -> int:
    """The most bytes that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def test_real_networks_run_the_whole_path_on_a_photo(weights: Path, paper_encoder: Encoder):
    segmenter = load_segmenter(f"sam_vit_b:cpu/{weights}")
    assert isinstance(segmenter, SamSegmenter) and segmenter.settings == PRESETS["cpu"]
    assert re.fullmatch(r"sam_vit_b:cpu/[0-9a-f]{8}", segmenter.name)
    predictor = segmenter._generator.predictor
    # The other nine blocks do the same again; whole, the encoder takes half a minute of a core.
    del predictor.model.image_encoder.blocks[3:]
    # Random weights score nothing well, so every filter is off; the code that runs is the same.
    lenient = replace(
        segmenter.settings,
        points_per_side=3,
        predicted_iou=0.0,
        stability=0.0,
        score=-1.0,
        smallest=5,
    )
    segmenter = SamSegmenter(segmenter.name, predictor, lenient)
    photo = sorted((real_data("gtsfm_lund_door") / "images").iterdir())[0]
    image = np.asarray(Image.open(photo).convert("RGB").resize((160, 120)))
    before = peak_memory()
    segments, masks = segmenter.segments_and_masks(image)
    assert segments.shape == (3, 120, 160) and segments.dtype == np.int32
    assert segments.max() >= 0, "some mask came through"
    for ids, of_level in zip(segments, masks, strict=True):
        assert of_level.dtype == bool and of_level.shape == (ids.max() + 1, 120, 160)
        assert np.array_equal(np.unique(ids[ids >= 0]), np.arange(len(of_level)))
    features = embed_segments(image, segments, paper_encoder, masks)
    for rows, of_level in zip(features.embeddings, masks, strict=True):
        assert rows.shape == (len(of_level), 512) and rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    one = peak_memory()
    again, whole = segmenter.segments_and_masks(image[:, ::-1].copy())
    embed_segments(image[:, ::-1].copy(), again, paper_encoder, whole)
    assert one - before < 3e9, "the attention of one block of the encoder takes two"
    assert peak_memory() - one < 3e8, "another view takes no more"


def test_weights_by_name_come_from_the_hub_and_must_have_the_official_checksum(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repo: str, files: list[str], *, wanted_by: str, instead: str) -> Path:
        asked.append((repo, *files))
        return weights

    monkeypatch.setattr("langsplat.sam.fetch_file", fetch)
    with pytest.raises(ValueError, match=r"not the official sam_vit_b_01ec64.pth .* download it"):
        load_segmenter("sam_vit_b")
    name, _ = WEIGHTS["sam_vit_b"]
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setitem(WEIGHTS, "sam_vit_b", (name, found))
    for spec, preset in (("sam_vit_b", "cpu"), ("sam_vit_b:paper", "paper")):
        segmenter = load_segmenter(spec, device="meta")
        assert isinstance(segmenter, SamSegmenter) and segmenter.name == f"sam_vit_b:{preset}"
        assert segmenter._generator.predictor.device == torch.device("meta")
        assert segmenter.settings == PRESETS[preset]
    assert asked == [("ybelkada/segment-anything", f"checkpoints/{name}")] * 3


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_not_a_picture_is_refused(image):
    segmenter = SamSegmenter("scripted", Scripted([]), PLAIN)
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8"):
        segmenter(image)


def test_weights_that_cannot_be_used_are_refused_in_words(weights: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"neither a preset .* nor a file"):
        load_segmenter("sam_vit_b:quick")
    posing = tmp_path / WEIGHTS["sam_vit_b"][0]
    torch.save({"a": torch.zeros(1)}, posing)
    with pytest.raises(ValueError, match=r"not the official sam_vit_b_01ec64.pth .* download it"):
        load_segmenter(f"sam_vit_b:{posing}")
    with pytest.raises(ValueError, match="do not fit sam_vit_b"):
        load_segmenter(f"sam_vit_b:{posing.rename(tmp_path / 'other.pth')}")
    cut = tmp_path / "cut.pth"
    with weights.open("rb") as file:
        cut.write_bytes(file.read(100_000))
    for content in (cut.read_bytes(), b"", b"\x80\x02h\x05.", b"\x80\x02X\x01\x00\x00\x00\xff."):
        cut.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or hold more than tensors: download them"):
            load_segmenter(f"sam_vit_b:{cut}")


def test_weights_that_would_run_code_are_refused(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        load_segmenter(f"sam_vit_b:{tmp_path / 'trap.pth'}")
    assert not (tmp_path / "sprung").exists()
