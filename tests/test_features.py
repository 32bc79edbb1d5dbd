"""Crops of segments, and their embeddings."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langsplat.features import SegmentFeatures, crop_segments, embed_segments


class MeanColor:
    """An encoder that can be computed by hand: the direction of a crop's summed color."""

    name, dim, image_size = "mean color", 3, 8

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        self.batches.append(len(images))
        return F.normalize(torch.from_numpy(images.astype(np.float32)).sum(dim=(1, 2)), dim=1)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        raise NotImplementedError


def picture(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3)).astype(np.uint8)


def test_a_crop_of_its_own_size_is_the_segment_on_black_and_centred():
    image = picture()
    segments = np.full((12, 16), -1, np.int32)
    segments[3:5, 4:12] = 0  # 2 high, 8 wide: 3 black rows above and below
    segments[3, 4] = -1
    crop = crop_segments(image, segments, 8)[0]
    expected = np.zeros((8, 8, 3), np.uint8)
    expected[3:5] = image[3:5, 4:12]
    expected[3, 0] = 0
    assert np.array_equal(crop, expected)


def test_an_odd_margin_leaves_the_content_one_pixel_to_the_top_left():
    image = picture()
    segments = np.full((12, 16), -1, np.int64)
    segments[0:4, 0:1] = 0  # margin 3: 1 to the left, 2 to the right
    crop = crop_segments(image, segments, 4)[0]
    assert np.array_equal(crop[:, 1], image[0:4, 0]) and not crop[:, [0, 2, 3]].any()
    turned = crop_segments(image.swapaxes(0, 1), segments.T, 4)[0]
    assert np.array_equal(turned, crop.swapaxes(0, 1))


def test_shrinking_averages_instead_of_picking_pixels():
    checker = ((np.indices((64, 64)).sum(0) % 2) * 254).astype(np.uint8)
    crop = crop_segments(np.repeat(checker[..., None], 3, 2), np.zeros((64, 64), np.int32), 8)
    assert np.abs(crop.astype(int) - 127).max() <= 3


def test_growing_is_bilinear():
    edge = np.array([[0, 200], [0, 200]], np.uint8)[..., None].repeat(3, 2)
    crop = crop_segments(edge, np.zeros((2, 2), np.int32), 4)[0]
    assert (crop == np.array([0, 50, 150, 200])[None, :, None]).all()


def test_each_segment_shows_only_its_own_pixels():
    image = np.zeros((10, 10, 3), np.uint8)
    image[:, :5], image[:, 5:] = (255, 0, 0), (0, 0, 255)
    image[2:4, 2:4] = (0, 0, 255)  # inside the box around the red ones
    crops = crop_segments(image, (image[..., 2] > 0).astype(np.int32), 20)
    assert crops.shape == (2, 20, 20, 3)
    assert not crops[0, ..., 2].any() and not crops[1, ..., 0].any()


def test_no_segment_gives_no_crop():
    assert crop_segments(picture(), np.full((12, 16), -1, np.int32), 8).shape == (0, 8, 8, 3)


def test_one_pixel_is_a_segment():
    image = picture(1, 1)
    crop = crop_segments(image, np.zeros((1, 1), np.int32), 5)
    assert np.array_equal(crop[0], np.broadcast_to(image[0, 0], (5, 5, 3)))
    image, ids = picture(16, 16), np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(crop_segments(image, ids, 1), image.reshape(256, 1, 1, 3))


@pytest.mark.parametrize(
    ("image", "segments", "size", "words"),
    [
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), int), 8, r"\[H, W, 3\] uint8"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4), int), 8, r"\[H, W, 3\] uint8"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), int), 8, r"\[H, W, 3\] uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), int), 8, "like the image"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), 8, "integers"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int), 0, "at least 1 pixel"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 1), 8, "id 0 has no pixel"),
        (np.zeros((2, 2, 3), np.uint8), np.array([[0, 3], [2, -1]]), 8, "id 1 has no pixel"),
    ],
)
def test_crops_of_misfits_are_refused_in_words(image, segments, size, words):
    with pytest.raises(ValueError, match=words):
        crop_segments(image, segments, size)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (np.ones((2, 4, 4), bool), r"masks must be \[1, 4, 4\], one for each segment"),
        (np.ones((1, 4, 4), np.uint8), "masks must be bool .* got uint8"),
        (np.zeros((1, 4, 4), bool), "show something of every segment"),
    ],
)
def test_masks_that_do_not_show_each_segment_are_refused(masks, words):
    with pytest.raises(ValueError, match=words):
        crop_segments(picture(4, 4), np.zeros((4, 4), int), 8, masks)


def test_row_i_describes_segment_i_at_every_level_across_batches():
    rng = np.random.default_rng(1)
    fine = np.arange(100, dtype=np.int32).reshape(10, 10)
    segments = np.stack([fine, fine // 50, np.full_like(fine, -1)])
    colors = rng.integers(1, 256, (100, 3)).astype(np.uint8)
    encoder = MeanColor()
    features = embed_segments(colors[fine], segments, encoder)
    assert [len(rows) for rows in features.embeddings] == [100, 2, 0]
    assert features.embeddings[2].shape == (0, 3)
    expected = F.normalize(torch.from_numpy(colors.astype(np.float32)), dim=1)
    torch.testing.assert_close(features.embeddings[0], expected, atol=1e-5, rtol=0)
    assert encoder.batches == [64, 38]
    assert features.segments.dtype == np.int32 and np.array_equal(features.segments, segments)


def test_a_segment_of_several_levels_is_encoded_once():
    fine = np.arange(12, dtype=np.int32).reshape(3, 4)
    segments = np.stack([fine, np.maximum(fine - 6, 0), fine * 0])  # 0 to 6 as one, then all
    image, encoder = picture(3, 4), MeanColor()
    of_pixels, joined, of_all = embed_segments(image, segments, encoder).embeddings
    assert encoder.batches == [12 + 1 + 1]
    torch.testing.assert_close(joined[1:], of_pixels[7:], atol=0, rtol=0)
    assert len(torch.cat([of_pixels, joined[:1], of_all]).unique(dim=0)) == 14


def test_crops_are_held_only_once_while_they_are_encoded():
    fine = np.arange(400, dtype=np.int32).reshape(20, 20)
    segments, encoder = np.stack([fine, fine // 2]), MeanColor()
    encoder.image_size = 32
    embed_segments(picture(), np.zeros((1, 12, 16), int), encoder)  # imports what it needs
    encoder.batches.clear()
    tracemalloc.start()
    try:
        embed_segments(picture(20, 20), segments, encoder)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(encoder.batches) == 600
    assert held < 2.5 * 600 * 32 * 32 * 3, "all crops, those of a level, and a batch as numbers"


def test_a_view_without_any_segment_has_an_empty_table_of_embeddings_at_every_level():
    segments = np.full((3, 12, 16), -1, np.int32)
    features = embed_segments(picture(), segments, MeanColor())
    assert [rows.shape for rows in features.embeddings] == [(0, 3)] * 3


def test_larger_crops_come_in_smaller_batches():
    encoder = MeanColor()
    encoder.image_size = 448
    segments = np.stack([np.arange(40, dtype=np.int32).reshape(5, 8)])
    embed_segments(picture(5, 8), segments, encoder)
    assert encoder.batches == [16, 16, 8]


def test_a_whole_mask_describes_what_another_segment_hides():
    image = np.zeros((6, 6, 3), np.uint8)
    image[:, :3], image[:, 3:] = (200, 0, 0), (0, 200, 0)
    segments = np.zeros((1, 6, 6), np.int32)
    segments[0, :, 3:] = 1
    masks = np.stack([np.ones((6, 6), bool), segments[0] == 1])
    seen = embed_segments(image, segments, MeanColor()).embeddings[0]
    whole = embed_segments(image, segments, MeanColor(), [masks]).embeddings[0]
    assert seen[0].tolist() == [1, 0, 0]
    torch.testing.assert_close(whole[0], torch.tensor([0.5**0.5, 0.5**0.5, 0]))
    with pytest.raises(ValueError, match="masks must have 1 levels"):
        embed_segments(image, segments, MeanColor(), [masks, masks])


def test_an_embedding_that_is_not_finite_is_refused_in_words():
    rows = torch.tensor([[1.0, 0], [torch.nan, 0]])
    with pytest.raises(ValueError, match=r"not finite: .* download the weights again"):
        SegmentFeatures(np.ones((1, 4, 4), np.int32), [rows])


def test_segments_and_embeddings_may_be_tensors_or_arrays():
    segments = torch.zeros(1, 12, 16, dtype=torch.int64)
    features = embed_segments(picture(), segments, MeanColor())
    assert isinstance(features.segments, np.ndarray) and features.segments.dtype == np.int32
    given = SegmentFeatures(segments, [features.embeddings[0].numpy()])
    assert isinstance(given.segments, np.ndarray) and isinstance(given.embeddings[0], torch.Tensor)
    mirrored = np.eye(3, dtype=np.float32)[::-1]
    given = SegmentFeatures(segments, [mirrored])
    assert torch.equal(given.embeddings[0], torch.eye(3).flip(0))
    learned = SegmentFeatures(segments, [features.embeddings[0].requires_grad_()])
    assert not learned.embeddings[0].requires_grad


def test_embeddings_of_another_precision_are_kept_as_float32(monkeypatch: pytest.MonkeyPatch):
    as_usual = MeanColor.encode_images
    monkeypatch.setattr(
        MeanColor, "encode_images", lambda self, images: as_usual(self, images).double()
    )
    features = embed_segments(picture(), np.zeros((1, 12, 16), np.int32), MeanColor())
    assert features.embeddings[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda count: torch.ones(count, 3), "must have length 1, got one of 1.73: divide them"),
        (lambda count: torch.ones(count, 2), r"a tensor \[B, 3\] .* correct its encode_images"),
        (lambda count: torch.ones(1, 3), r"a tensor \[B, 3\] .* correct its encode_images"),
        (lambda count: np.ones((count, 3)), r"a tensor \[B, 3\] .* correct its encode_images"),
    ],
)
def test_an_encoder_of_ones_own_that_makes_other_things_of_crops_is_refused(
    made, words, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MeanColor, "encode_images", lambda self, images: made(len(images)))
    with pytest.raises(ValueError, match=words):
        embed_segments(picture(), np.arange(192).reshape(1, 12, 16), MeanColor())


def test_embedding_segments_of_another_size_is_refused():
    with pytest.raises(ValueError, match="like the image"):
        embed_segments(picture(), np.zeros((3, 6, 8), np.int32), MeanColor())
    with pytest.raises(ValueError, match=r"\[L, H, W\]"):
        embed_segments(picture(), np.zeros((12, 16), np.int32), MeanColor())


@pytest.mark.parametrize(
    ("segments", "embeddings", "words"),
    [
        (np.zeros((2, 4, 4), np.int32), [torch.zeros(1, 3)], r"\[1, H, W\]"),
        (np.zeros((1, 4), np.int32), [torch.zeros(1, 3)], r"\[1, H, W\]"),
        (np.ones((1, 4, 4), np.int32), [torch.zeros(1, 3)], r"-1 \.\. 0"),
        (np.full((1, 4, 4), -2), [torch.zeros(1, 3)], r"-1 \.\. 0"),
        (np.ones((2, 4, 4), int), [torch.zeros(2, 3), torch.zeros(1, 3)], r"level 1 .* -1 \.\. 0"),
        (np.zeros((2, 4, 4), np.int32), [torch.zeros(1, 3), torch.zeros(1, 4)], "same size"),
        (np.zeros((1, 4, 4), np.int32), [torch.zeros(3)], r"\[M, E\]"),
    ],
)
def test_features_whose_parts_do_not_fit_are_refused(segments, embeddings, words):
    with pytest.raises(ValueError, match=words):
        SegmentFeatures(segments, embeddings)
