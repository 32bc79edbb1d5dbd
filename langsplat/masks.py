"""Segmenters: a picture cut into disjoint segments at three scales (subpart, part, whole).

The bundled segmenter needs no weights. It floods the color gradient of the picture into small
basins, keeps the graph of basins that touch, and merges neighbours round by round, the most alike
first; the three levels are three moments of that one process, so every part is a union of
subparts and every whole a union of parts.

    segments = load_segmenter("bundled")(image)  # uint8 [H, W, 3] -> int32 [3, H, W]

Letters: H W pixels, R regions, P pairs of regions that touch, F features of a region.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from langsplat.sam import WEIGHTS as SAM_WEIGHTS
from langsplat.sam import load_sam

WORK_PIXELS = 480 * 360  # larger pictures are cut in this size: fine texture is no segment

# Features of a pixel: Lab and the logarithm of the lightness's local spread. Lightness counts less
# than hue because shading changes it within one object, and hue is made up for the shade it is in.
LIGHTNESS_WEIGHT = 0.65
SHADE_LIGHTNESS = 25.0
SHADE_POWER = 0.5
TEXTURE_WEIGHT = 4.8
TEXTURE_RADIUS = 3.0
GRADIENT_RADIUS = 1.0
BOUNDARY_GAIN = 2.5  # brings the gradient along a boundary to the size of a difference of regions
# Small regions merge more easily: cost grows with (area / (SIZE_SHARE of the picture))^power.
SIZE_SHARE = 0.02
SIZE_POWER = 0.35


@dataclass(frozen=True)
class Scale:
    """When a level's merging stops."""

    cost: float  # of the cheapest pair, about in Lab units; less in a picture of low contrast
    most: int  # regions; with more than that it goes on
    smallest: float  # share of the picture; smaller regions join their nearest neighbour


SCALES = (Scale(4.5, 150, 0.0004), Scale(7.5, 90, 0.001), Scale(11.0, 50, 0.002))
FULL_CONTRAST = 27.0  # spread of the colors at and above which costs count as they stand
NOISE = 2.0  # a lower cost is no difference, whatever the contrast
STEP = 1.15  # from one threshold to the next; smaller comes closer to strictly cheapest-first


class Segmenter(Protocol):
    """Cuts a picture into segments.

    Called with an image [H, W, 3] uint8 RGB, it returns [3, H, W] int32: for each level (subpart,
    part, whole) ids 0 .. n-1 without gaps; -1 = no segment.
    """

    name: str

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


def load_segmenter(spec: str = "bundled", *, device: str = "cpu") -> Segmenter:
    """The segmenter of that name.

    Args:
        spec: "bundled"; `sam_vit_h`, `sam_vit_l` or `sam_vit_b`, with `:<preset>` (paper, fast or
            cpu), `:<weights file>` or `:<preset>/<weights file>` after it (see langsplat.sam).
        device: where a network runs; the bundled segmenter has none and ignores it.
    Raises:
        ValueError: the name is unknown, or the segmenter is not available.
    """
    if spec == "bundled":
        return RegionSegmenter()
    if spec.partition(":")[0] in SAM_WEIGHTS:
        return load_sam(spec, device=device)
    raise ValueError(
        f"There is no segmenter {spec!r}: choose bundled, {', '.join(SAM_WEIGHTS)}, or one of "
        "these with a preset, for example sam_vit_h:fast."
    )


class RegionSegmenter:
    """The bundled segmenter: regions merged at three scales, no weights, same input same output."""

    name = "bundled"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 RGB, at least one pixel -> [3, H, W] int32, every pixel in a segment."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                "A picture to segment must be [H, W, 3] uint8 with at least one pixel, got "
                f"{list(image.shape)} {image.dtype}."
            )
        small = _shrink(image)
        features, gradient = _describe(small)
        basins = _flood(gradient)
        levels = _merge(basins, features, gradient)
        height, width = image.shape[:2]
        rows = np.arange(height) * small.shape[0] // height
        columns = np.arange(width) * small.shape[1] // width
        return np.ascontiguousarray(levels[:, rows[:, None], columns])


def _shrink(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = image.shape[:2]
    factor = (WORK_PIXELS / (height * width)) ** 0.5
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[H, W, 3] uint8 -> features [H, W, 4] and the length of their color gradient [H, W]."""
    from scipy import ndimage
    from skimage.color import rgb2lab

    lab = rgb2lab(image).astype(np.float32)
    lightness = lab[..., 0]
    mean = ndimage.gaussian_filter(lightness, TEXTURE_RADIUS)
    square = ndimage.gaussian_filter(lightness * lightness, TEXTURE_RADIUS)
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    color = lab * np.array([LIGHTNESS_WEIGHT, 1, 1], np.float32)
    middle = 60 + SHADE_LIGHTNESS  # a medium light keeps its hue as it is
    color[..., 1:] *= ((middle / (lightness + SHADE_LIGHTNESS)) ** SHADE_POWER)[..., None]
    squared = np.zeros_like(lightness)
    for channel in range(3):
        for order in ((0, 1), (1, 0)):
            squared += ndimage.gaussian_filter(color[..., channel], GRADIENT_RADIUS, order) ** 2
    texture = TEXTURE_WEIGHT * np.log1p(spread)
    return np.concatenate([color, texture[..., None]], axis=2), np.sqrt(squared)


def _flood(gradient: np.ndarray) -> np.ndarray:
    """Basins of the gradient, [H, W] ids 0 .. R-1: boundaries lie where the color changes most."""
    from scipy import ndimage
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(gradient, GRADIENT_RADIUS)
    seeds, _ = ndimage.label(ndimage.minimum_filter(smooth, 5) == smooth)
    return watershed(gradient, seeds).astype(np.int64) - 1


def _merge(basins: np.ndarray, features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Merge touching regions, cheapest first -> [3, H, W] int32."""
    regions = _Regions(basins, features, gradient)
    spread = float(np.sqrt(features[..., :3].var(axis=(0, 1)).sum()))
    contrast = min(1.0, spread / FULL_CONTRAST)
    levels = []
    threshold = NOISE
    for scale in SCALES:
        smallest = scale.smallest * basins.size
        regions.merge_below(threshold, smallest)
        while len(regions.area) > scale.most or threshold < scale.cost * contrast:
            threshold *= STEP
            regions.merge_below(threshold, smallest)
        levels.append(regions.of_basin[basins].astype(np.int32))
    return np.stack(levels)


class _Regions:
    """The graph of regions that touch: sums over the pixels of each, and along each boundary."""

    def __init__(self, basins: np.ndarray, features: np.ndarray, gradient: np.ndarray) -> None:
        ids = basins.ravel()
        count = int(ids.max()) + 1
        self.of_basin = np.arange(count)  # [basins] region each basin belongs to
        self.area = np.bincount(ids, np.ones(len(ids)), count)  # [R] pixels
        self.sums = _grouped(features.reshape(len(ids), -1), ids, count)  # [R, F]
        firsts, seconds, jumps = [], [], []
        for before, after in (
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[:-1], np.s_[1:]),
        ):
            differ = basins[before] != basins[after]
            firsts.append(basins[before][differ])
            seconds.append(basins[after][differ])
            jumps.append(np.maximum(gradient[before], gradient[after])[differ])
        jump = np.concatenate(jumps)
        boundary = np.stack([np.ones_like(jump), jump], axis=1)
        self._set_pairs(np.concatenate(firsts), np.concatenate(seconds), boundary)

    def _set_pairs(self, first: np.ndarray, second: np.ndarray, boundary: np.ndarray) -> None:
        """Keep each pair of different regions once, with its boundary sums."""
        count = len(self.area)
        apart = first != second
        codes = (np.minimum(first, second) * count + np.maximum(first, second))[apart]
        pairs, index = np.unique(codes, return_inverse=True)
        self.first, self.second = pairs // count, pairs % count  # [P]
        self.boundary = _grouped(boundary[apart], index, len(pairs))  # [P, 2] length, gradient

    def _costs(self, smallest: float, total: float) -> np.ndarray:
        """[P], how unlike the two regions of each pair are."""
        means = self.sums / self.area[:, None]
        apart = means[self.first] - means[self.second]
        between = np.linalg.norm(apart[:, :3], axis=1) + np.abs(apart[:, 3])
        across = BOUNDARY_GAIN * self.boundary[:, 1] / self.boundary[:, 0]
        area = np.minimum(self.area[self.first], self.area[self.second])
        resist = np.minimum(area / (SIZE_SHARE * total), 1) ** SIZE_POWER
        # Both must speak for a boundary: shading makes one object's regions differ without an
        # edge, and a crease or highlight draws an edge between regions that are alike. Their
        # minimum would let a blurred edge join anything; the geometric mean does not.
        cost = np.sqrt(between * across) * resist
        return np.where(area < smallest, cost * 1e-3, cost)

    def merge_below(self, threshold: float, smallest: float) -> None:
        """Merge until every pair costs more than `threshold`."""
        while self._merge_agreed(threshold, smallest):
            pass

    def _merge_agreed(self, threshold: float, smallest: float) -> bool:
        """One round: merge the pairs that are each other's cheapest, if any is below."""
        count = len(self.area)
        cost = self._costs(smallest, self.area.sum())
        cheapest = np.full(count, np.inf)
        np.minimum.at(cheapest, self.first, cost)
        np.minimum.at(cheapest, self.second, cost)
        agreed = (
            (cost <= threshold) & (cost <= cheapest[self.first]) & (cost <= cheapest[self.second])
        )
        if not agreed.any():
            return False
        target = np.arange(count)
        target[self.second[agreed]] = self.first[agreed]
        while (target != target[target]).any():  # ties make chains
            target = target[target]
        kept, new = np.unique(target, return_inverse=True)
        self.of_basin = new[self.of_basin]
        self.area = np.bincount(new, self.area, len(kept))
        self.sums = _grouped(self.sums, new, len(kept))
        self._set_pairs(new[self.first], new[self.second], self.boundary)
        return True


def _grouped(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Sums of the rows of `values` [X, F] over groups [X] -> [count, F] float64."""
    return np.stack([np.bincount(groups, column, count) for column in values.T], axis=1)
