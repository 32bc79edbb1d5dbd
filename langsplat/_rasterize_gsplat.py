"""The CUDA backend: gsplat's rasterization, and nothing else of it."""

import torch
from torch import Tensor


def problem() -> str | None:
    """Why gsplat cannot run here, or None."""
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    try:
        import gsplat  # noqa: F401
    except ImportError as error:
        return f"gsplat cannot be imported ({error}): pip install gsplat"
    return None


def rasterize(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D] or [C, N, D]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """Image [C, H, W, D] and alpha [C, H, W, 1], without background; see langsplat.rasterize.

    gsplat has the last three rules (alpha's cut and clamp, the stop) compiled in, equal to ours.
    """
    from gsplat import rasterization

    eps2d, near, far = rules[:3]
    image, alpha, _ = rasterization(
        means.float(),
        quats.float(),
        scales.float(),
        opacities.float(),
        colors.float(),
        viewmats.float(),
        Ks.float(),
        width,
        height,
        near_plane=near,
        far_plane=far,
        eps2d=eps2d,
        packed=False,
    )
    return image.to(colors), alpha.to(colors)
