"""Lifting: 2D segments of every view become language codes on the Gaussians, without training.

A Gaussian's code at a level is the blending-weighted mean of the codewords of the segments it
helps to paint: the weighted average of LUDVIG and of the Splat Feature Solver, over a codebook.
Rendering is linear in colors, image = W colors, so the sums over pixels are one vector-Jacobian
product a view, Wᵀ one_hot(codeword of each pixel), on any backend.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from langsplat.codec import Codebook, fit_codebook
from langsplat.features import SegmentFeatures
from langsplat.progress import Progress, silent
from langsplat.rasterize import lift
from langsplat.scene import Camera, Gaussians, LanguageField

# Pixels x channels of one lifting call: bounds the one-hot image to 128 MB of float32.
_MAX_ONE_HOT = 1 << 25


def fit_language(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    features: Sequence[SegmentFeatures],
    encoder_name: str,
    *,
    codewords: int = 64,
    keep: int = 4,
    seed: int = 0,
    progress: Progress = silent,
) -> LanguageField:
    """Give every Gaussian a sparse code at every level, all levels in one pass over the views.

    Args:
        gaussians: N Gaussians; on whichever device they are, there the lifting happens.
        cameras: C views, at the size of the features' label maps.
        features: C records of segments [L, H, W] and their embeddings, in the cameras' order.
        encoder_name: whose space the embeddings live in.
        codewords: V, at most, of each level's codebook.
        keep: D, how many codewords a Gaussian keeps.
        seed: of the codebook's k-means.
    Returns:
        The field; a Gaussian that no segment of a level ever touched has mass 0 there.
    Raises:
        ValueError: a view's label map has another size than its camera, or there is no segment.
    """
    if not cameras or len(cameras) != len(features):
        raise ValueError(
            f"Every view needs its segments: got {len(cameras)} cameras and {len(features)} "
            "records of segments."
        )
    for camera, view in zip(cameras, features, strict=True):
        if view.segments.shape[1:] != (camera.height, camera.width):
            height, width = view.segments.shape[1:]
            raise ValueError(
                f"The segments of {camera.name or 'a view'} are {width} x {height} but its picture "
                f"is {camera.width} x {camera.height}: segment the picture at its own size."
            )
    levels = len(features[0].embeddings)
    codec = fit_codebook(
        [torch.cat([view.embeddings[level] for view in features]) for level in range(levels)],
        size=codewords,
        seed=seed,
    )
    support = torch.zeros(levels, len(gaussians), codec.size, device=gaussians.device)
    for index, (camera, view) in enumerate(zip(cameras, features, strict=True)):
        _add_view(support, gaussians, camera, view, codec)
        progress("Lift language", index + 1, len(cameras), "")
    mass = support.sum(dim=2)
    codes, rows = support.topk(min(keep, codec.size), dim=2)
    codes = codes / codes.sum(dim=2, keepdim=True).clamp_min(1e-12)
    return LanguageField(rows=rows, codes=codes, mass=mass, codec=codec, encoder=encoder_name)


def _add_view(
    support: Tensor,  # [L, N, V], added to
    gaussians: Gaussians,
    camera: Camera,
    view: SegmentFeatures,
    codec: Codebook,
) -> None:
    """Add Wᵀ one_hot of one view, over the codewords that occur in it."""
    channels: list[tuple[int, int]] = []  # (level, row) of each channel
    maps: list[Tensor] = []  # [H, W] bool of each channel
    for level, embeddings in enumerate(view.embeddings):
        if len(embeddings) == 0:
            continue
        segments = torch.from_numpy(view.segments[level]).long()
        # The extra last row catches -1: pixels of no segment belong to no codeword.
        rows = torch.cat([codec.assign(level, embeddings), torch.tensor([-1])])
        row_of_pixel = rows[segments]
        for row in rows[:-1].unique().tolist():
            channels.append((level, row))
            maps.append(row_of_pixel == row)
    step = max(1, _MAX_ONE_HOT // (camera.width * camera.height))
    camera = camera.to(gaussians.device)
    for start in range(0, len(channels), step):
        image = torch.stack(maps[start : start + step], dim=2).to(gaussians.device).float()
        weights = lift(gaussians, camera, image)  # [N, channels]
        for column, (level, row) in enumerate(channels[start : start + step]):
            support[level, :, row] += weights[:, column]
