"""Segmenters: a picture cut into disjoint segments at three scales (subpart, part, whole).

The bundled segmenter needs no weights. It floods the edges of the picture into small basins, keeps
the graph of basins that touch, and merges neighbours round by round, the most alike first; the
three levels are three moments of that one process, so every part is a union of subparts and every
whole a union of parts.

With the picture alone, edges and likeness are those of color. Trained Gaussians also give the
surface behind each pixel, which separates things better than color does: what stands on a table is
not in the table's plane, one thing in front of another makes a jump in depth, and two things that
touch meet in a concave crease, while the outside of one thing is mostly convex (the argument of
Stein et al. 2014, "Object partitioning using local convexity").

    segments = load_segmenter("bundled")(image)  # uint8 [H, W, 3] -> int32 [3, H, W]
    segments = load_segmenter("bundled")(image, render_surface(gaussians, camera).numpy())

Letters: H W pixels, R regions, P pairs of regions that touch, F features of a region, S supports.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from langsplat.sam import WEIGHTS as SAM_WEIGHTS
from langsplat.sam import check_picture, load_sam

WORK_PIXELS = 480 * 360  # larger pictures are shrunk to this: fine texture is not a segment

# Features of a pixel: Lab, and the logarithm of the lightness's local spread. Lightness counts less
# than hue because shading changes it within one object; hue is amplified in the shade.
LIGHTNESS_WEIGHT = 0.65
SHADE_LIGHTNESS = 25.0
SHADE_POWER = 0.5
TEXTURE_WEIGHT = 4.8
TEXTURE_RADIUS = 3.0
GRADIENT_RADIUS = 1.0
BOUNDARY_GAIN = 2.5  # brings the gradient along a boundary to the size of a difference of regions
FULL_CONTRAST = 27.0  # spread of the colors; a picture with less is stretched to this,
MOST_STRETCH = 2.25  # but by at most this factor, or noise would look like color
# Small regions merge more easily: cost grows with (area / (SIZE_SHARE of the picture))^power.
SIZE_SHARE = 0.02
SIZE_POWER = 0.35
FIRST_SHARE = 0.25  # of a level's cost: its first threshold
STEP = 1.15  # from one threshold to the next; smaller is closer to strictly cheapest-first

# The surface. Radii in pixels, distances as a share of that to the camera.
JUMP_RADIUS = 1.0
NORMAL_RADIUS = 1.5
MOST_JUMP = 3.0
JUMP_STRENGTH, BEND_STRENGTH = 6.0, 12.0  # beside the color gradient, when basins are flooded
LEAST_COSINE = 0.15  # of a surface seen at a grazing angle
LEAST_INVERSE = 1e-6  # of a depth; with less there is no surface
STRONG_GRADIENT, SHARP_JUMP = 4.0, 1.0
NO_TRUST, FULL_TRUST = 0.25, 0.4  # share of the strong color edges that are sharp jumps
FEW_EDGES = 0.002
SAME_WAY = 0.6  # cosine of normals that may belong to one plane
FLAT = 0.03  # a pixel this near to a plane lies on it
LEAST_SUPPORT = 0.08  # of the picture: a smaller plane is no support
MOST_BEHIND = 0.35  # pixels just behind a support's plane, as a share of those on it
SUPPORTS = 3
TRIALS = 200
GRID = 6  # pixels between those that planes are fitted to


@dataclass(frozen=True)
class BoundaryCosts:
    """What a boundary between two regions costs, in Lab units of color.

    From a logistic regression of "two different things" on the regions of rendered scenes, with
    the labels of the bundled tea table.
    """

    color: float = 1.0  # geometric mean of the difference of colors and the gradient between
    difference: float = 0.0  # the difference alone
    gradient: float = 0.0  # the gradient alone
    support: float = 0.0  # one lies on a table, floor or wall, the other does not
    jump: float = 0.0  # of depth
    color_jump: float = 0.0  # the same, of regions that differ in color
    crease: float = 0.0  # concave, of regions that differ in color
    ridge: float = 0.0  # convex; taken off
    pattern: float = 0.0  # the gradient off the supports; taken off: things are many-colored


@dataclass(frozen=True)
class Scale:
    """When a level's merging stops, and how it weighs boundaries."""

    cost: float  # of the cheapest pair
    most: int  # regions; merging continues while there are more
    smallest: float  # share of the picture; smaller regions join their nearest neighbour
    weights: BoundaryCosts = BoundaryCosts()


SCALES = (Scale(4.5, 150, 0.0004), Scale(7.5, 90, 0.001), Scale(11.0, 50, 0.002))
_FINE = BoundaryCosts(
    color=1.0,
    difference=0.4,
    gradient=1.35,
    support=14.5,
    jump=7.0,
    color_jump=18.0,
    crease=290.0,
    ridge=74.0,
)
_WHOLE = BoundaryCosts(
    color=0.92,
    support=53.0,
    jump=18.5,
    color_jump=13.0,
    crease=220.0,
    ridge=180.0,
    pattern=3.1,
)
SURFACE_SCALES = (
    Scale(12.0, 150, 0.0004, _FINE),
    Scale(24.0, 90, 0.001, _FINE),
    Scale(26.0, 50, 0.002, _WHOLE),
)


class Segmenter(Protocol):
    """Cuts a picture into segments.

    Called with an image [H, W, 3] uint8 RGB, it returns [3, H, W] int32: for each level (subpart,
    part, whole) ids 0 .. n-1 without gaps; -1 = no segment.

    `uses_surface` says whether it benefits from `rasterize.render_surface` of the same view as
    second argument: [H, W, 4] float32, the normal toward the camera and the inverse depth.
    """

    name: str
    uses_surface: bool

    def __call__(self, image: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray: ...


def load_segmenter(spec: str = "bundled", *, device: str = "cpu") -> Segmenter:
    """The segmenter of that name.

    Args:
        spec: "bundled"; or `sam_vit_h`, `sam_vit_l` or `sam_vit_b`, optionally with `:<preset>`
            (paper, fast or cpu), `:<weights file>` or `:<preset>/<weights file>` (see
            langsplat.sam).
        device: where the network runs; the bundled segmenter has none.
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
    """The bundled segmenter: regions merged at three scales; no weights, nothing random."""

    name = "bundled"
    uses_surface = True

    def __call__(self, image: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        """Cut one picture.

        Args:
            image: [H, W, 3] uint8 RGB, at least one pixel.
            surface: [H, W, 4] as `render_surface` draws it: the normal in camera axes, of length up
                to 1 (shorter where uncertain), and 1 / depth (0 where there is nothing).
        Returns:
            [3, H, W] int32, every pixel in a segment.
        Raises:
            ValueError: wrong shape or type.
        """
        check_picture(image)
        surface = None if surface is None else np.asarray(surface)  # `render_surface` has a tensor
        height, width = image.shape[:2]
        if surface is not None and surface.shape != (height, width, 4):
            raise ValueError(
                f"The surface must be [{height}, {width}, 4] like the picture, "
                f"got {list(surface.shape)}."
            )
        small = _shrink(image)
        rows = np.arange(height) * small.shape[0] // height
        columns = np.arange(width) * small.shape[1] // width
        features, gradient = _describe(small)
        if surface is None:
            basins = _flood(gradient)
            edges = np.zeros((*gradient.shape, 4), np.float32)
            edges[..., 0] = gradient
            levels = _merge(basins, features, edges, SCALES)
        else:
            nearest_rows = np.arange(small.shape[0]) * height // small.shape[0]
            nearest_columns = np.arange(small.shape[1]) * width // small.shape[1]
            surface = surface[nearest_rows[:, None], nearest_columns]
            bends, strength = _bends(surface)
            trust = _trust(gradient, bends[..., 0])
            basins = _flood(np.sqrt(gradient**2 + (trust * strength) ** 2))
            features = np.concatenate([features, _supports(surface)], axis=2)
            edges = np.concatenate([gradient[..., None], bends], axis=2)
            scales = (_blend(*pair, trust) for pair in zip(SCALES, SURFACE_SCALES, strict=True))
            levels = _merge(basins, features, edges, tuple(scales))
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
    middle = 60 + SHADE_LIGHTNESS  # at medium lightness the hue stays as it is
    color[..., 1:] *= ((middle / (lightness + SHADE_LIGHTNESS)) ** SHADE_POWER)[..., None]
    squared = np.zeros_like(lightness)
    for channel in range(3):
        for order in ((0, 1), (1, 0)):
            squared += ndimage.gaussian_filter(color[..., channel], GRADIENT_RADIUS, order) ** 2
    features = np.concatenate([color, TEXTURE_WEIGHT * np.log1p(spread)[..., None]], axis=2)
    contrast = float(np.sqrt(color.var(axis=(0, 1)).sum()))
    stretch = max(1.0, min(MOST_STRETCH, FULL_CONTRAST / max(contrast, 1e-3)))
    return features * np.float32(stretch), np.sqrt(squared) * np.float32(stretch)


def _bends(surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of a surface [H, W, 4]: its jumps, concave and convex bends [H, W, 3], and the
    strength of all of them together, in Lab units per pixel, for flooding [H, W]."""
    from scipy import ndimage

    normals, nearness = surface[..., :3], np.log(np.maximum(surface[..., 3], LEAST_INVERSE))
    # The slope of log(1 / depth) is tan(slant) / focal length: times the cosine, and the focal
    # length (about the picture's side), it is at most 1 within a surface, however slanted.
    slope = np.hypot(
        ndimage.gaussian_filter(nearness, JUMP_RADIUS, (0, 1)),
        ndimage.gaussian_filter(nearness, JUMP_RADIUS, (1, 0)),
    )
    slope *= np.maximum(np.abs(normals[..., 2]), LEAST_COSINE) * max(nearness.shape)
    jump = np.log1p(np.maximum(slope - 1, 0))
    # Going right, the normal turns right at a convex edge and left at a concave one; likewise down.
    bend = np.zeros_like(nearness)
    squared = np.zeros_like(nearness)
    for channel in range(3):
        for direction, order in enumerate(((0, 1), (1, 0))):
            turn = ndimage.gaussian_filter(normals[..., channel], NORMAL_RADIUS, order)
            squared += turn * turn
            if channel == direction:
                bend += turn
    strength = np.sqrt(BEND_STRENGTH**2 * squared + JUMP_STRENGTH**2 * jump**2)
    edges = [np.minimum(jump, MOST_JUMP), np.maximum(-bend, 0), np.maximum(bend, 0)]
    return np.stack(edges, axis=2), strength


def _trust(gradient: np.ndarray, jump: np.ndarray) -> float:
    """How far the surface can be trusted, 0 .. 1, by how many strong color edges are depth jumps.

    With few views or plain walls depth is blurred, and things without a jump between them may still
    be separate.
    """
    edge = gradient > STRONG_GRADIENT
    few = FEW_EDGES * gradient.size  # if there are no edges, trust the surface
    share = (np.count_nonzero(edge & (jump > SHARP_JUMP)) + few) / (np.count_nonzero(edge) + few)
    return float(np.clip((share - NO_TRUST) / (FULL_TRUST - NO_TRUST), 0, 1))


def _blend(alone: Scale, both: Scale, trust: float) -> Scale:
    """A scale between that for color alone (trust 0) and that with the surface (trust 1)."""
    weights = {
        field.name: (1 - trust) * getattr(alone.weights, field.name)
        + trust * getattr(both.weights, field.name)
        for field in fields(BoundaryCosts)
    }
    cost = (1 - trust) * alone.cost + trust * both.cost
    return replace(both, cost=cost, weights=BoundaryCosts(**weights))


def _supports(surface: np.ndarray) -> np.ndarray:
    """The large planes that things stand on or in front of: [H, W, S] in 0 .. 1, S <= SUPPORTS."""
    normals, inverse = surface[..., :3], np.maximum(surface[..., 3], LEAST_INVERSE)
    height, width = inverse.shape
    x, y = np.arange(width) / width - 0.5, (np.arange(height) / height - 0.5)[:, None]
    rows, columns = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID].reshape(2, -1)
    toward = normals[rows, columns]
    toward = toward / np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-6)
    # On a plane, 1 / depth is affine in the pixel's coordinates. So a plane is a vector, and its
    # product with `place` is 1 on the plane, less in front of it and more behind it.
    place = np.stack([x[columns], y[rows, 0], np.ones(len(rows))], axis=1)
    place /= inverse[rows, columns, None].astype(float)
    random = np.random.default_rng(0)  # the same picture gives the same planes
    left = np.arange(len(rows))
    found: list[np.ndarray] = []
    while len(found) < SUPPORTS:
        fit = _largest_plane(place, toward, left, random)
        if fit is None:
            break
        plane, normal = fit
        above = inverse / np.maximum(plane[0] * x + plane[1] * y + plane[2], LEAST_INVERSE) - 1
        facing = np.clip((normals @ normal - 0.2) / 0.3, 0, 1)
        found.append(np.clip(2 - np.abs(above) / FLAT, 0, 1) * facing)
        left = left[np.abs(1 / (place[left] @ plane) - 1) > 1.5 * FLAT]
    return np.stack(found, axis=2) if found else np.zeros((height, width, 0))


def _largest_plane(
    place: np.ndarray, toward: np.ndarray, left: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """The plane and normal of the support that most of the pixels `left` lie on, if there is one.

    Planes through three random pixels are scored by how many pixels lie on them, minus those just
    behind: hardly anything lies behind a table, but a plane through the tops of things has the
    table behind it.
    """
    least = max(3, LEAST_SUPPORT * len(place))
    if len(left) < least:
        return None
    trial = random.choice(left, (TRIALS, 3))
    normals = toward[trial].sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    corners = place[trial] / np.linalg.norm(place[trial], axis=2, keepdims=True)
    good = np.abs(np.linalg.det(corners)) > 1e-3  # not in a line
    good &= np.einsum("tkc,tc->tk", toward[trial], normals).min(axis=1) > SAME_WAY
    if not good.any():
        return None
    planes = np.linalg.solve(place[trial[good]], np.ones((good.sum(), 3, 1)))[..., 0]
    on, behind = _lying(place[left], toward[left], planes, normals[good])
    chosen = left[on[:, (on.sum(axis=0) - 2 * behind.sum(axis=0)).argmax()]]
    for _ in range(2):
        if len(chosen) < least:
            return None
        plane = np.linalg.lstsq(place[chosen], np.ones(len(chosen)), rcond=None)[0]
        normal = toward[chosen].mean(axis=0)
        normal /= np.linalg.norm(normal)
        on, behind = _lying(place, toward, plane[None], normal[None])
        chosen = left[on[left, 0]]
    if len(chosen) < least or behind.sum() > MOST_BEHIND * len(chosen):
        return None
    return plane, normal


def _lying(
    place: np.ndarray, toward: np.ndarray, planes: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which of G pixels lie on each of T planes, and which just behind it: [G, T] bool both."""
    above = 1 / np.maximum(place @ planes.T, 1e-9) - 1
    on = (np.abs(above) < FLAT) & (toward @ normals.T > SAME_WAY)
    return on, (above < -FLAT) & (above > -5 * FLAT)


def _flood(strength: np.ndarray) -> np.ndarray:
    """Basins [H, W], ids 0 .. R-1, by a watershed: boundaries lie where edges are strongest."""
    from scipy import ndimage
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(strength, GRADIENT_RADIUS)
    seeds, _ = ndimage.label(ndimage.minimum_filter(smooth, 5) == smooth)
    return watershed(strength, seeds).astype(np.int64) - 1


def _merge(
    basins: np.ndarray, features: np.ndarray, edges: np.ndarray, scales: tuple[Scale, ...]
) -> np.ndarray:
    """Merge touching regions, cheapest first -> [3, H, W] int32."""
    regions = _Regions(basins, features, edges)
    levels = []
    for scale in scales:
        threshold = scale.cost * FIRST_SHARE
        regions.merge_below(threshold, scale)
        while len(regions.area) > scale.most or threshold < scale.cost:
            threshold *= STEP
            if len(regions.area) <= scale.most:
                threshold = min(threshold, scale.cost)
            regions.merge_below(threshold, scale)
        levels.append(regions.of_basin[basins].astype(np.int32))
    return np.stack(levels)


class _Regions:
    """The graph of touching regions, with sums over the pixels of each and along each boundary.

    Features of a pixel: color (3), texture, then one for each support. Edges of a pixel: color
    gradient, jump, concave, convex.
    """

    def __init__(self, basins: np.ndarray, features: np.ndarray, edges: np.ndarray) -> None:
        ids = basins.ravel()
        count = int(ids.max()) + 1
        self.total = len(ids)
        self.of_basin = np.arange(count)  # [basins] region each basin belongs to
        self.area = np.bincount(ids, np.ones(len(ids)), count)  # [R] pixels
        self.sums = _grouped(features.reshape(len(ids), -1), ids, count)  # [R, F]
        firsts, seconds, boundaries = [], [], []
        for before, after in (
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[:-1], np.s_[1:]),
        ):
            differ = basins[before] != basins[after]
            firsts.append(basins[before][differ])
            seconds.append(basins[after][differ])
            boundaries.append(np.maximum(edges[before][differ], edges[after][differ]))
        boundary = np.concatenate(boundaries)
        boundary = np.concatenate([np.ones((len(boundary), 1)), boundary], axis=1)
        self._set_pairs(np.concatenate(firsts), np.concatenate(seconds), boundary)

    def _set_pairs(self, first: np.ndarray, second: np.ndarray, boundary: np.ndarray) -> None:
        """Keep each pair of different regions once, with its boundary sums."""
        count = len(self.area)
        apart = first != second
        codes = (np.minimum(first, second) * count + np.maximum(first, second))[apart]
        pairs, index = np.unique(codes, return_inverse=True)
        self.first, self.second = pairs // count, pairs % count  # [P]
        self.boundary = _grouped(boundary[apart], index, len(pairs))  # [P, 5] length, edges

    def _costs(self, scale: Scale) -> np.ndarray:
        """How different the two regions of each pair are, [P]."""
        weights = scale.weights
        means = self.sums / self.area[:, None]
        apart = np.abs(means[self.first] - means[self.second])
        difference = np.linalg.norm(apart[:, :3], axis=1) + apart[:, 3]
        gradient, jump, concave, convex = (self.boundary[:, 1:] / self.boundary[:, :1]).T
        # Difference and gradient must both suggest a boundary: shading makes one object's regions
        # differ without an edge, and a crease or highlight makes an edge between like regions. With
        # their minimum a blurred edge would join anything; with the geometric mean it does not.
        cost = weights.color * np.sqrt(difference * BOUNDARY_GAIN * gradient)
        cost += weights.difference * difference
        cost += weights.gradient * gradient
        # Within one support only color counts: the surface there is as uneven as it was trained.
        supported = means[:, 4:].sum(axis=1)
        free = 1 - np.clip(np.minimum(supported[self.first], supported[self.second]), 0, 1)
        cost += weights.support * apart[:, 4:].max(axis=1, initial=0)
        colored = np.sqrt(difference) / 5
        bends = (weights.jump + weights.color_jump * colored) * jump
        bends += weights.crease * colored * concave - weights.ridge * convex
        bends -= weights.pattern * gradient
        cost = np.maximum(cost + free * bends, 0)
        area = np.minimum(self.area[self.first], self.area[self.second])
        cost *= np.minimum(area / (SIZE_SHARE * self.total), 1) ** SIZE_POWER
        return np.where(area < scale.smallest * self.total, cost * 1e-3, cost)

    def merge_below(self, threshold: float, scale: Scale) -> None:
        """Merge until every pair costs more than `threshold`."""
        while self._merge_agreed(threshold, scale):
            pass

    def _merge_agreed(self, threshold: float, scale: Scale) -> bool:
        """One round: merge the pairs below the threshold that are each other's cheapest, if any."""
        count = len(self.area)
        cost = self._costs(scale)
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
