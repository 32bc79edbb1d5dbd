"""The language features of one view: its segments, and an embedding of each.

A segment is shown to the encoder by itself: cut out, on black, padded to a square and resized (the
LangSplat recipe, arXiv 2312.16084, section 3.2). Letters: L levels, H W pixels, B crops,
M segments of a level, E embedding size.

    features = embed_segments(image, load_segmenter()(image), load_encoder())
    features.embeddings[2]  # [M, E], row i describes the pixels where features.segments[2] == i
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langsplat.codec import check_unit
from langsplat.encoders import Encoder
from langsplat.scene import as_tensor

CROPS_PER_BATCH = 64  # of 224 pixels; fewer if they are larger, to bound a batch's memory


@dataclass(frozen=True, eq=False)
class SegmentFeatures:
    """The segments of one view and their embeddings.

    Args:
        segments: [L, H, W] int32, for each level the row of `embeddings` that describes the
            pixel; -1 = no segment.
        embeddings: for each level, [M, E] float32, unit length (M differs between levels and may
            be 0).
    Raises:
        ValueError: the two do not fit each other, or an embedding is not finite or longer than 1.
    """

    segments: np.ndarray
    embeddings: Sequence[Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", np.asarray(self.segments))  # tensors will do
        given = [as_tensor(rows).detach() for rows in self.embeddings]  # arrays will do
        object.__setattr__(self, "embeddings", given)
        if self.segments.ndim != 3 or len(self.segments) != len(self.embeddings):
            raise ValueError(
                f"segments must be [{len(self.embeddings)}, H, W], one map for each list of "
                f"embeddings, got {list(self.segments.shape)}."
            )
        for rows in self.embeddings:
            check_unit(rows)
        if len({rows.shape[1] for rows in self.embeddings}) > 1:
            raise ValueError("embeddings must have the same size E at every level.")
        for level, (ids, rows) in enumerate(zip(self.segments, self.embeddings, strict=True)):
            if ids.size and not (-1 <= ids.min() and ids.max() < len(rows)):
                raise ValueError(
                    f"The segment ids of level {level} must lie in -1 .. {len(rows) - 1}, one "
                    f"embedding for each, got {ids.min()} .. {ids.max()}."
                )


def crop_segments(
    image: np.ndarray, segments: np.ndarray, size: int, masks: np.ndarray | None = None
) -> np.ndarray:
    """Every segment of one level as a small square picture of itself on black.

    Args:
        image: [H, W, 3] uint8 RGB.
        segments: [H, W] integer, ids 0 .. B-1 without gaps; -1 = no segment.
        size: side of the crops in pixels, >= 1.
        masks: [B, H, W] bool, the pixels to show of each segment, which may be more than the map
            has of it (where masks overlap, the map keeps only the top one); None: those of the map.
    Returns:
        [B, size, size, 3] uint8: what lies outside the segment is black, the segment's bounding
        box is padded with black to a square with the content centred, and resized (bilinear,
        averaging when it shrinks).
    Raises:
        ValueError: the shapes or types do not fit, or an id between 0 and the largest is absent.
    """
    from scipy import ndimage

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}.")
    if segments.shape != image.shape[:2]:
        raise ValueError(
            f"segments must be {list(image.shape[:2])} like the image, got {list(segments.shape)}."
        )
    if not np.issubdtype(segments.dtype, np.integer):
        raise ValueError(f"segments must hold integers, got {segments.dtype}.")
    if size < 1:
        raise ValueError(f"The size of a crop must be at least 1 pixel, got {size}.")
    count = int(segments.max()) + 1 if segments.size else 0
    boxes = ndimage.find_objects(segments.astype(np.int32) + 1) if count else []
    if None in boxes:
        raise ValueError(
            f"Segment ids must run from 0 to {count - 1} without gaps, but id "
            f"{boxes.index(None)} has no pixel: number the segments anew."
        )
    if masks is not None and masks.shape != (count, *segments.shape):
        raise ValueError(
            f"masks must be {[count, *segments.shape]}, one for each segment, got "
            f"{list(masks.shape)}."
        )
    if masks is not None and (masks.dtype != bool or not masks.any(axis=(1, 2)).all()):
        raise ValueError(
            f"masks must be bool and show something of every segment, got {masks.dtype}."
        )
    crops = np.empty((count, size, size, 3), np.uint8)
    for index, box in enumerate(boxes):
        if masks is None:
            shown = segments[box] == index
        else:
            box = ndimage.find_objects(masks[index].astype(np.int8))[0]
            shown = masks[index][box]
        crops[index] = _on_black(image[box], shown, size)
    return crops


def _on_black(image: np.ndarray, shown: np.ndarray, size: int) -> np.ndarray:
    """[h, w, 3] uint8 and which pixels to show [h, w] bool -> [size, size, 3] uint8."""
    from PIL import Image

    height, width = shown.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 3), np.uint8)
    np.multiply(image, shown[..., None], out=square[top : top + height, left : left + width])
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))


def embed_segments(
    image: np.ndarray,
    segments: np.ndarray,
    encoder: Encoder,
    masks: Sequence[np.ndarray] | None = None,
) -> SegmentFeatures:
    """Encode every segment of every level of one view.

    Args:
        image: [H, W, 3] uint8 RGB.
        segments: [L, H, W] integer, ids 0 .. M-1 of each level without gaps; -1 = no segment.
        encoder: turns crops into unit embeddings, a few dozen at a time.
        masks: for each level [M, H, W] bool, as `crop_segments` takes them; None: the segments.
    Returns:
        The segments with their embeddings, on the CPU.
    Raises:
        ValueError: the sizes do not match, ids have gaps, or the encoder does not make of crops
            what `Encoder` says.
    """
    segments = np.asarray(segments)
    if segments.ndim != 3:
        raise ValueError(f"segments must be [L, H, W], got {list(segments.shape)}.")
    wholes: Sequence[np.ndarray | None] = [None] * len(segments) if masks is None else masks
    if len(wholes) != len(segments):
        raise ValueError(f"masks must have {len(segments)} levels, got {len(wholes)}.")
    # The crops that levels have in common are encoded once: where a whole thing has no parts, say.
    # And levels share batches: three half-empty batches cost more than one full one.
    size = encoder.image_size
    known: dict[bytes, int] = {}
    places = []  # of each level's crops, among those that differ
    for ids, whole in zip(segments, wholes, strict=True):
        crops = crop_segments(image, ids, size, whole)
        places.append([known.setdefault(crop.tobytes(), len(known)) for crop in crops])
    distinct, batches = list(known), [torch.zeros(0, encoder.dim)]
    batch = min(CROPS_PER_BATCH, max(1, CROPS_PER_BATCH * 224**2 // size**2))
    for start in range(0, len(distinct), batch):
        joined = bytearray().join(distinct[start : start + batch])  # unlike bytes, may be written
        some = np.frombuffer(joined, np.uint8).reshape(-1, size, size, 3)
        rows = encoder.encode_images(some)
        if not isinstance(rows, Tensor) or rows.shape != (len(some), encoder.dim):
            raise ValueError(
                f"The encoder {encoder.name!r} must make of B crops a tensor [B, {encoder.dim}] of "
                "vectors of length 1: correct its encode_images."
            )
        batches.append(rows.detach().float().cpu())
    encoded = torch.cat(batches)
    embeddings = [encoded[of_level] for of_level in places]
    return SegmentFeatures(np.ascontiguousarray(segments, np.int32), embeddings)
