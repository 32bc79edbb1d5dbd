"""PSNR, SSIM and mask overlap against closed forms and an independent slow version."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from langsplat.metrics import _ssim_by_torch, mask_iou, psnr, ssim
from langsplat.progress import torch_threads


def noise(seed: int, height: int = 23, width: int = 31) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_constant_error_is_the_closed_form() -> None:
    image = torch.full((5, 7, 3), 0.5)
    assert psnr(image, image + 0.1).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image).item() == math.inf


def test_ssim_of_a_picture_with_itself_is_one() -> None:
    assert ssim(noise(0), noise(0)).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("amount", [0.02, 0.3, 1.0])
def test_ssim_equals_scikit_image(amount: float) -> None:
    from skimage.metrics import structural_similarity

    image = noise(0)
    other = (1 - amount) * image + amount * noise(1)
    slow = structural_similarity(
        image.double().numpy(),
        other.double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=2,
    )
    assert ssim(image, other).item() == pytest.approx(slow, abs=1e-5)


def test_ssim_gradient_equals_finite_differences() -> None:
    pictures = [noise(seed, 12, 13).double().requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(ssim, pictures)
    torch.testing.assert_close(_ssim_by_torch(*pictures), ssim(*pictures))
    assert torch.autograd.gradcheck(_ssim_by_torch, pictures), "which a GPU takes"


@pytest.mark.parametrize("threads", [1, 3])
def test_ssim_and_its_gradient_are_the_same_by_kernel_and_by_torch(threads: int) -> None:
    image, target = noise(0, 37, 41), noise(1, 37, 41)
    found = []
    for measure in (ssim, _ssim_by_torch):
        leaf = image.clone().requires_grad_()
        with torch_threads(threads):
            value = measure(leaf, 0.5 * image + 0.5 * target)
            (gradient,) = torch.autograd.grad(value, leaf)
        found += [(value, gradient)]
    torch.testing.assert_close(*found)


def test_mask_iou_counts_pixels() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert mask_iou(a, b) == 0.0
    a[:2], b[1:3] = True, True
    assert mask_iou(a, b) == pytest.approx(1 / 3)
    assert mask_iou(torch.from_numpy(a), a) == 1.0
    assert mask_iou([[2, 0]], [[1, 0]]) == 1.0, "whatever is not zero is inside"


def test_pictures_of_different_or_tiny_size_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        psnr(noise(0), noise(0)[1:])
    with pytest.raises(ValueError, match="differ in size"):
        mask_iou(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(noise(0, 10, 20), noise(1, 10, 20))
    with pytest.raises(ValueError, match=r"\[H, W, C\] of at least"):
        ssim(noise(0)[..., 0], noise(1)[..., 0])
    with pytest.raises(ValueError, match="differ in size"):
        ssim(noise(0), noise(0)[1:])


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_may_be_arrays_of_floats(measure: Callable[..., torch.Tensor]) -> None:
    image, other = noise(0).numpy()[:, ::-1], noise(1)
    assert measure(image, other) == measure(torch.from_numpy(image.copy()), other.numpy())
    assert measure(noise(0).to("meta"), image).device.type == "meta", "as for a GPU's renders"
    for bytes_ in (np.zeros((20, 20, 3), np.uint8), torch.zeros(20, 20, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"floats in \[0, 1\], got torch.uint8 .* by 255"):
            measure(bytes_, bytes_)
