"""Metrics of pictures: PSNR, SSIM and the overlap of masks.

Pictures are float [H, W, C], values in [0, 1]; masks are boolean [H, W]. PSNR and SSIM are
differentiable, so that training and evaluation use the same formula.

    psnr(render, photo)             # 20 log10(1 / rms error), in dB
    1 - ssim(render, photo)         # a loss
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def psnr(image: ArrayLike | Tensor, target: ArrayLike | Tensor) -> Tensor:
    """Peak signal-to-noise ratio of values in [0, 1], in dB; infinite if the two are equal.

    Args:
        image, target: tensors or arrays of one shape, any shape.
    Returns:
        A scalar, 10 log10(1 / mean squared error).
    Raises:
        ValueError: the shapes differ, or the values are not floats.
    """
    image, target = _pair(image, target)
    return -10.0 * torch.log10(torch.mean((image - target) ** 2))


def ssim(image: ArrayLike | Tensor, target: ArrayLike | Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004, equation 13), values in [0, 1].

    A Gaussian window of 11 x 11 pixels with sigma 1.5, population covariances, K1 = 0.01 and
    K2 = 0.03, each channel separately. Only windows that lie wholly inside the picture count
    ("valid" padding), as in scikit-image.

    Args:
        image, target: [H, W, C], tensors or arrays, H and W >= 11.
    Returns:
        A scalar in [-1, 1], 1 if the two are equal.
    Raises:
        ValueError: the shapes differ or are not [H, W, C], the pictures are too small, or the
            values are not floats.
    """
    image, target = _pair(image, target)
    if image.ndim != 3 or min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs pictures [H, W, C] of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"got {list(image.shape)}: use larger ones."
        )
    if image.device.type != "cpu":
        return _ssim_by_torch(image, target)
    from langsplat._rasterize_numba import similarity

    kind = torch.float64 if torch.float64 in (image.dtype, target.dtype) else torch.float32
    return similarity(image.to(kind), target.to(kind), _window().numpy(), (SSIM_C1, SSIM_C2))


def _ssim_by_torch(image: Tensor, target: Tensor) -> Tensor:
    """The same in torch's operations, on any device."""
    maps = [image, target, image * image + target * target, image * target]
    blurred = _Blur.apply(torch.cat(maps, dim=2))
    mean_x, mean_y, mean_squares, mean_product = blurred.split(image.shape[2], dim=2)
    # These give the sum of both variances and the covariance: var(x) = E[x²] - E[x]².
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    likeness = (2 * product + SSIM_C1) * (2 * (mean_product - product) + SSIM_C2)
    return (likeness / ((squares + SSIM_C1) * (mean_squares - squares + SSIM_C2))).mean()


def mask_iou(mask: ArrayLike | Tensor, truth: ArrayLike | Tensor) -> float:
    """Intersection over union of two masks of one shape (non-zero = inside), in [0, 1].

    Two empty masks score 0, as in the evaluators the published numbers come from.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = np.asarray(mask).astype(bool), np.asarray(truth).astype(bool)
    if a.shape != b.shape:
        raise ValueError(f"The masks differ in size, {a.shape} and {b.shape}: resize one first.")
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


class _Blur(torch.autograd.Function):
    """[H, W, D] -> [H - 10, W - 10, D], the window's mean wherever it fits.

    The window is symmetric, so the backward pass is the same convolution, padded with zeros.
    """

    @staticmethod
    def forward(ctx, maps):  # type: ignore[no-untyped-def]
        return _convolved(maps, 0)

    @staticmethod
    def backward(ctx, v_blurred):  # type: ignore[no-untyped-def]
        return _convolved(v_blurred.contiguous(), SSIM_WINDOW - 1)


def _convolved(maps: Tensor, border: int) -> Tensor:
    """Maps [H, W, D] with a border of zeros around them, each convolved with SSIM's window."""
    count, weights = maps.shape[2], _window(maps.device).to(maps.dtype)
    planes = maps[None].permute(0, 3, 1, 2).contiguous()
    column = weights.view(1, 1, -1, 1).expand(count, 1, -1, 1)
    row = weights.view(1, 1, 1, -1).expand(count, 1, 1, -1)
    planes = F.conv2d(planes, column, padding=(border, 0), groups=count)
    planes = F.conv2d(planes, row, padding=(0, border), groups=count)
    return planes.permute(0, 2, 3, 1)[0]


def _window(device: torch.device | str = "cpu") -> Tensor:
    """[11] float64, the weights of SSIM's window along one axis."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=device) - SSIM_WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return weights / weights.sum()


def _pair(*pictures: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    """Both pictures as tensors, after checking them."""
    # Arrays are copied: torch takes no negative strides.
    image, target = (
        p if isinstance(p, Tensor) else torch.from_numpy(np.array(p)) for p in pictures
    )
    if image.shape != target.shape:
        raise ValueError(
            f"The pictures differ in size, {list(image.shape)} and {list(target.shape)}: "
            "resize one first."
        )
    if not (image.is_floating_point() and target.is_floating_point()):
        raise ValueError(
            f"The pictures must have floats in [0, 1], got {image.dtype} and {target.dtype}: "
            "divide values up to 255 by 255."
        )
    return image, target.to(image.device)  # arrays are on the CPU
