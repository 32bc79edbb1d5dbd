"""The rasterizer: each backend against the reference, and what must hold for any numbers."""

import os
import signal
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsplat import _rasterize_gsplat
from langsplat._rasterize_numba import _in_threads, _kernel
from langsplat.progress import torch_threads
from langsplat.rasterize import (
    RULES,
    SH_C0,
    available_backends,
    drawing_device,
    lift,
    lift_labels,
    painting,
    quickest_device,
    rasterize,
    render,
    render_surface,
    sh_to_rgb,
)
from langsplat.scene import NEAR, Camera, Gaussians
from tests import reference
from tests.conftest import real_data

WIDTH, HEIGHT = 50, 37
Inputs = tuple[Tensor, ...]  # means, quats, scales, opacities, colors, viewmats, Ks


@pytest.fixture(params=["numba", pytest.param("gsplat", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> str:
    why = available_backends()[request.param]
    if why != "ok":
        pytest.skip(why)
    return request.param


def draw(inputs: Inputs, backend: str, width: int = WIDTH, height: int = HEIGHT, **options):
    """rasterize on the backend's device, results on the CPU."""
    device = "cuda" if backend == "gsplat" else "cpu"
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    image, alpha = rasterize(
        *(t.to(device) for t in inputs), width, height, backend=backend, **options
    )
    return image.cpu(), alpha.cpu()


def scene(n: int = 40, channels: int = 3, cameras: int = 1, seed: int = 1) -> Inputs:
    """A cloud of soft Gaussians in front of the cameras."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    views = torch.eye(4).repeat(cameras, 1, 1)
    views[:, :3, :3] = reference.rotation_of(torch.tensor([[1, 0.1, 0.2, -0.1]]))
    views[:, 2, 3] = 3 + torch.arange(cameras) * 0.5
    K = torch.tensor([[50.0, 0, 25], [0, 52, 18], [0, 0, 1]]).repeat(cameras, 1, 1)
    return (
        (rand(n, 3) - 0.5) * 2,
        rand(n, 4) - 0.5,
        0.05 + 0.25 * rand(n, 3),
        0.1 + 0.6 * rand(n),
        rand(n, channels),
        views,
        K,
    )


def as_scene(inputs: Inputs) -> tuple[Gaussians, Camera]:
    means, quats, scales, opacities, colors, views, Ks = inputs
    sh = (colors[:, None, :3] - 0.5) / 0.28209479177387814
    return Gaussians(means, quats, scales, opacities, sh), Camera(views[0], Ks[0], WIDTH, HEIGHT)


def assert_same_picture(ours: Tensor, truth: Tensor, flipped: float = 0.0) -> None:
    """Within 1e-5 + 1e-3 |x|, except a share of values at a cut-off (alpha_min, stop)."""
    off = (ours - truth).abs() > 1e-5 + 1e-3 * truth.abs()
    assert off.double().mean() <= flipped
    # A contribution on the other side of alpha_min changes a value only a little.
    torch.testing.assert_close(ours.double(), truth.double(), atol=2e-2, rtol=0)


def assert_same_gradient(name: str, ours: Tensor, truth: Tensor) -> None:
    ours, truth = ours.double().flatten(), truth.double().flatten()
    assert (ours @ truth) / (ours.norm() * truth.norm()) > 0.9999, name
    assert (ours - truth).norm() / truth.norm() < 1e-3, name


@pytest.mark.parametrize("channels", [1, 3, 4, 70])
def test_picture_equals_the_reference(backend: str, channels: int) -> None:
    inputs = scene(channels=channels, cameras=2)
    background = torch.linspace(0, 1, channels)
    image, alpha = draw(inputs, backend, background=background)
    truth, truth_alpha = reference.rasterize(*inputs, WIDTH, HEIGHT, background.double())
    assert image.shape == (2, HEIGHT, WIDTH, channels)
    assert alpha.shape == (2, HEIGHT, WIDTH, 1)
    assert_same_picture(image, truth, flipped=1e-3)
    assert_same_picture(alpha, truth_alpha, flipped=1e-3)


def test_one_gaussian_is_the_bell_of_its_formula(backend: str) -> None:
    """By hand: blurred by 0.3 square pixels, at most 0.999, and nothing below 1 / 255."""
    K = torch.tensor([[[40, 0, 16.5], [0, 40, 16.5], [0, 0, 1]]])
    world = torch.tensor([[0.0, 0, 4]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.3)
    y, x = torch.meshgrid(torch.arange(HEIGHT) - 16.0, torch.arange(WIDTH) - 16.0, indexing="ij")
    bell = torch.exp(-(x * x + y * y) / 2 / ((40 * 0.3 / 4) ** 2 + 0.3))
    for opacity in (1.0, 1 / 254.9, 1 / 255.1):
        one = torch.tensor([opacity]), torch.ones(1, 1), torch.eye(4)[None], K
        _, alpha = draw((*world, *one), backend)
        want = (opacity * bell).clamp_max(0.999)
        want = torch.where(want < 1 / 255, 0, want)
        torch.testing.assert_close(alpha[0, ..., 0], want, atol=1e-5, rtol=0)


def test_opaque_thin_and_off_screen_gaussians_equal_the_reference(backend: str) -> None:
    means, quats, scales, opacities, *rest = scene(300, seed=4)
    generator = torch.Generator().manual_seed(0)
    scales = scales * 10 ** (2 * torch.rand(300, 3, generator=generator) - 1.5)
    means = means * torch.tensor([3.0, 3.0, 1.0])
    opacities = torch.linspace(0, 1, 300)
    inputs = (means, quats, scales, opacities, *rest)
    image, alpha = draw(inputs, backend)
    truth, truth_alpha = reference.rasterize(*inputs, WIDTH, HEIGHT)
    assert_same_picture(image, truth, flipped=5e-3)
    assert_same_picture(alpha, truth_alpha, flipped=5e-3)


def gradients(inputs: Inputs, background: Tensor, rasterizer) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (*inputs[:5], background)]
    image, alpha = rasterizer(leaves[:5], leaves[5])
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(image.shape, generator=generator) - 0.3
    weights_alpha = torch.rand(alpha.shape, generator=generator)
    loss = (image * weights.to(image)).sum() + (alpha * weights_alpha.to(alpha)).sum()
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("channels", [3, 7, 30])
def test_gradients_equal_the_reference(backend: str, channels: int) -> None:
    inputs = scene(channels=channels, cameras=2)
    background = torch.linspace(0, 1, channels)
    ours = gradients(
        inputs,
        background,
        lambda leaves, back: draw((*leaves, *inputs[5:]), backend, background=back),
    )
    exact = tuple(t.double() for t in inputs)
    truth = gradients(
        exact,
        background.double(),
        lambda leaves, back: reference.rasterize(*leaves, *exact[5:], WIDTH, HEIGHT, back),
    )
    names = ("means", "quats", "scales", "opacities", "colors", "background")
    for name, mine, true in zip(names, ours, truth, strict=True):
        assert_same_gradient(name, mine, true)


def test_gradients_far_outside_the_picture_equal_the_reference(backend: str) -> None:
    """Where the Jacobian's x / z is held, it has no gradient."""
    means, quats, scales, opacities, *rest = scene(20)
    means = means + torch.tensor([3.0, 2.5, 0.0])
    inputs = (means, quats, scales * 6, opacities, *rest)
    black = torch.zeros(3)
    ours = gradients(
        inputs, black, lambda leaves, back: draw((*leaves, *inputs[5:]), backend, background=back)
    )
    exact = tuple(t.double() for t in inputs)
    truth = gradients(
        exact,
        black.double(),
        lambda leaves, back: reference.rasterize(*leaves, *exact[5:], WIDTH, HEIGHT, back),
    )
    for name, mine, true in zip(("means", "quats", "scales"), ours, truth, strict=False):
        assert_same_gradient(name, mine, true)


def test_gradients_of_what_lies_behind_opaque_gaussians_equal_the_reference() -> None:
    """Alpha has no gradient where it is clamped, nor where a pixel was done before."""
    means, quats, scales, _, *rest = scene(20)
    opacities = torch.linspace(0.7, 1.3, 20).clamp_max(1)
    exact = tuple(t.double() for t in (means, quats, 4 * scales, opacities, *rest))
    black = torch.zeros(3, dtype=torch.float64)
    _, alpha = draw(exact, "numba")
    assert (alpha > 1 - 20 * RULES.stop).any(), "pixels are done"
    ours, truth = (
        gradients(
            exact,
            black,
            lambda leaves, back, drawn=drawn: drawn(
                *leaves, *exact[5:], WIDTH, HEIGHT, background=back
            ),
        )
        for drawn in (rasterize, reference.rasterize)
    )
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-7, rtol=1e-6)


def test_float64_runs_the_same_code_and_passes_gradcheck() -> None:
    inputs = tuple(t.double() for t in scene(6))
    leaves = [t.clone().requires_grad_() for t in inputs[:5]]

    def picture(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return rasterize(*leaves, *inputs[5:], 9, 7)

    assert torch.autograd.gradcheck(picture, leaves, eps=1e-7, atol=1e-4, nondet_tol=0.0)


def test_image_is_linear_in_colors(backend: str) -> None:
    inputs = scene()
    more = torch.rand(inputs[4].shape, generator=torch.Generator().manual_seed(5))
    one, _ = draw(inputs, backend)
    other, _ = draw((*inputs[:4], more, *inputs[5:]), backend)
    both, _ = draw((*inputs[:4], 2 * inputs[4] - 3 * more, *inputs[5:]), backend)
    torch.testing.assert_close(both, 2 * one - 3 * other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [2, 3, 13, 33])
def test_lift_is_the_transpose_of_render(backend: str, channels: int) -> None:
    device = "cuda" if backend == "gsplat" else "cpu"
    gaussians, camera = as_scene(scene(channels=3))
    gaussians = gaussians.to(device)
    generator = torch.Generator().manual_seed(6)
    values = torch.rand(len(gaussians), channels, generator=generator).to(device)
    picture = torch.rand(HEIGHT, WIDTH, channels, generator=generator).to(device)
    rendered, alpha = render(gaussians, camera, values, backend=backend)
    lifted = lift(gaussians, camera, picture, backend=backend)
    assert lifted.shape == values.shape
    # <W values, picture> = <values, Wᵀ picture>
    torch.testing.assert_close((rendered * picture).sum(), (values * lifted).sum())
    image, _ = render(gaussians, camera, values.requires_grad_(), backend=backend)
    (gradient,) = torch.autograd.grad(image, values, picture)
    torch.testing.assert_close(gradient, lifted)
    ones = torch.ones(HEIGHT, WIDTH, 1, device=device)
    weights = lift(gaussians, camera, ones, backend=backend)
    torch.testing.assert_close(weights.sum(), alpha.sum())


@pytest.mark.parametrize("asks", ["viewmat", "K"])
def test_a_camera_that_asks_the_cpu_for_a_gradient_gets_no_wrong_one(asks: str) -> None:
    gaussians, camera = as_scene(scene())
    posed = replace(camera, **{asks: getattr(camera, asks).clone().requires_grad_()})
    for values in (None, torch.rand(len(gaussians), 5)):
        with pytest.raises(ValueError, match=r"a camera gets no gradient: .*Camera\.detached\(\)"):
            render(gaussians, posed, values)
    image, _ = render(gaussians, camera)
    with torch.no_grad():
        assert torch.equal(render(gaussians, posed)[0], image)
    assert torch.equal(render(gaussians, posed.detached())[0], image)
    assert torch.equal(lift(gaussians, posed, image), lift(gaussians, camera, image))


@pytest.mark.gpu
def test_a_lens_that_asks_a_gpu_for_a_gradient_is_refused_too() -> None:
    gaussians, camera = as_scene(scene())
    with pytest.raises(ValueError, match="Ks get none there, either"):
        render(gaussians.to("cuda"), replace(camera, K=camera.K.clone().requires_grad_()))


def test_lifting_needs_no_gradients_around_it() -> None:
    gaussians, camera = as_scene(scene())
    picture = torch.rand(HEIGHT, WIDTH, 2)
    want = lift(gaussians, camera, picture)
    with torch.inference_mode():
        assert torch.equal(lift(gaussians, camera, picture), want)
        made = as_scene(scene())[0]
    assert torch.equal(lift(made, camera, picture), want)
    with torch.no_grad():
        assert torch.equal(lift(gaussians, camera, picture), want)
    assert not lift(gaussians, camera, picture.requires_grad_()).requires_grad


def test_a_picture_that_is_not_finite_somewhere_is_lifted_as_it_is_elsewhere() -> None:
    gaussians, camera = as_scene(scene(100))
    picture = torch.rand(HEIGHT, WIDTH, 5)
    there = torch.zeros(HEIGHT, WIDTH, 1)
    there[:, 32:36] = 1  # a block before the one at the border, of which two columns are shown
    broken = picture.clone()
    broken[:, 34:36] = torch.nan
    with torch_threads(1):  # so that the tile at the border comes next
        elsewhere = lift(gaussians, camera, there)[:, 0] == 0
        lifted = lift(gaussians, camera, broken)[elsewhere]
        assert torch.equal(lifted, lift(gaussians, camera, picture)[elsewhere])


def test_lifted_labels_are_the_lifted_one_hot_picture(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaussians, camera = as_scene(scene(60))
    gaussians.means[7, 1] = torch.nan  # it is left out
    gaussians = replace(gaussians, near=2.8)  # as are those before the plane
    gaussians = gaussians.to("cuda" if backend == "gsplat" else "cpu")
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(-1, 6, (HEIGHT, WIDTH, 3), generator=generator)
    labels[:, 25:, 1] = labels[:, 25:, 0]  # twice the same counts twice
    one_hot = (labels[..., None] == torch.arange(6)).sum(dim=2).float()
    monkeypatch.setattr("langsplat.rasterize.MAX_ONE_HOT", 4 * WIDTH * HEIGHT)
    lifted = lift_labels(gaussians, camera, labels, 6, backend=backend).cpu()
    want = lift(gaussians, camera, one_hot, backend=backend).cpu()
    torch.testing.assert_close(lifted, want, atol=1e-4, rtol=1e-4)
    assert (lifted[7] == 0).all() and float(lifted.min(dim=0).values.max()) >= 0 < lifted.sum()
    sums = torch.ones(20, 6, device=gaussians.device)
    added = lift_labels(gaussians, camera, labels, 6, sums=sums, first=30, backend=backend)
    assert added is sums
    torch.testing.assert_close(sums.cpu(), 1 + lifted[30:50])
    nothing = torch.full((HEIGHT, WIDTH, 1), -1)
    assert lift_labels(gaussians, camera, nothing, 0, backend=backend).shape == (60, 0)
    assert not lift_labels(gaussians, camera, nothing, 2, backend=backend).any()


def test_the_gaussians_that_a_view_shows_make_all_of_its_picture(backend: str) -> None:
    gaussians, camera = as_scene(scene(300))
    gaussians.means[:5] = camera.position - camera.viewmat[2, :3]  # behind the camera
    gaussians.means[5:10] += 50 * camera.viewmat[0, :3]  # beside the picture
    gaussians.opacities[10:15] = 0.001  # too faint
    gaussians = gaussians.to("cuda" if backend == "gsplat" else "cpu")
    shown = painting(gaussians, camera)
    assert not shown[:15].any() and shown.sum() > 100
    whole, some = (render(g, camera)[0] for g in (gaussians, gaussians.select(shown)))
    torch.testing.assert_close(some, whole, atol=1e-6, rtol=0)


def test_order_of_gaussians_does_not_matter(backend: str) -> None:
    inputs = scene(200)
    shuffle = torch.randperm(200, generator=torch.Generator().manual_seed(7))
    shuffled = (*(t[shuffle] for t in inputs[:5]), *inputs[5:])
    torch.testing.assert_close(draw(inputs, backend), draw(shuffled, backend))


def test_moving_world_and_camera_together_changes_nothing(backend: str) -> None:
    means, quats, scales, opacities, colors, views, Ks = scene()
    turn = torch.tensor([[0.3, -0.5, 0.7, 0.2]])
    rotation, shift = reference.rotation_of(turn)[0], torch.tensor([0.5, -2.0, 1.0])
    w, x, y, z = (turn / turn.norm())[0]
    left = torch.stack(
        [
            torch.stack([w, -x, -y, -z]),
            torch.stack([x, w, -z, y]),
            torch.stack([y, z, w, -x]),
            torch.stack([z, -y, x, w]),
        ]
    )
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, shift
    moved = (
        means @ rotation.T + shift,
        quats @ left.T,
        scales,
        opacities,
        colors,
        views @ torch.linalg.inv(motion),
        Ks,
    )
    here, there = draw(scene(), backend), draw(moved, backend)
    for ours, theirs in zip(here, there, strict=True):
        assert_same_picture(ours, theirs, flipped=2e-3)


def test_several_cameras_are_each_drawn_as_if_alone(backend: str) -> None:
    inputs = scene(cameras=3)
    own = torch.rand(3, 40, 5, generator=torch.Generator().manual_seed(8))
    image, alpha = draw((*inputs[:4], own, *inputs[5:]), backend)
    for c in range(3):
        alone = (*inputs[:4], own[c], inputs[5][c : c + 1], inputs[6][c : c + 1])
        torch.testing.assert_close((image[c : c + 1], alpha[c : c + 1]), draw(alone, backend))


def test_a_color_that_is_not_finite_for_one_camera_hides_its_gaussian_from_all(
    backend: str,
) -> None:
    *geometry, _, views, Ks = scene(cameras=2)
    own = torch.rand(2, 40, 3)
    poisoned = own.clone()
    poisoned[1, 0, 2] = torch.nan
    pictures = draw((*geometry, poisoned, views, Ks), backend)
    healthy = *(t[1:] for t in geometry), own[:, 1:], views, Ks
    torch.testing.assert_close(pictures, draw(healthy, backend))


def test_nothing_to_see_is_background(backend: str) -> None:
    inputs = scene()
    background = torch.tensor([0.2, 0.4, 0.6])
    nothing = (*(t[:0] for t in inputs[:5]), *inputs[5:])
    behind = (inputs[0] - torch.tensor([0.0, 0.0, 50.0]), *inputs[1:])
    faint = (*inputs[:3], torch.full((40,), RULES.alpha_min / 2), *inputs[4:])
    for case in (nothing, behind, faint):
        leaves = [t.clone().requires_grad_() for t in case[:5]]
        image, alpha = draw((*leaves, *case[5:]), backend, background=background)
        assert torch.equal(image, background.expand(1, HEIGHT, WIDTH, 3))
        assert not alpha.any()
        if backend == "numba":
            for gradient in torch.autograd.grad(image.sum(), leaves):
                assert not gradient.any()


def test_light_stops_before_one_ten_thousandth(backend: str) -> None:
    """Behind opaque Gaussians a pixel is done: nothing more is drawn and alpha stays as it was."""
    n = 6
    means = torch.zeros(n, 3)
    means[:, 2] = torch.arange(n)
    opacities = torch.tensor([0.9, 0.95, 0.979, 0.2, 0.2, 0.5])
    inputs = (
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        torch.full((n, 3), 50.0),
        opacities,
        torch.eye(n),
        *scene()[5:],
    )
    image, alpha = draw(inputs, backend)
    truth, truth_alpha = reference.rasterize(*inputs, WIDTH, HEIGHT)
    # 0.1 * 0.05 * 0.021 = 1.05e-4, a little more at the corners: the fourth would leave less than
    # 9e-5 and is not drawn, nor is any after it.
    assert not image[..., 3:].any() and image[..., 2].all()
    torch.testing.assert_close(alpha.double(), truth_alpha, atol=1e-6, rtol=0)
    torch.testing.assert_close(image.double(), truth, atol=1e-5, rtol=1e-3)


def test_what_lies_on_the_near_or_the_far_plane_is_drawn(backend: str) -> None:
    *_, Ks = scene()
    depths = torch.tensor([0.5, RULES.far, 0.5, RULES.far])
    depths[2:] = depths[2:].nextafter(torch.tensor([0.0, torch.inf]))  # a hair beyond
    means = torch.zeros(4, 3)
    means[:, 2] = depths
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(4, 1)
    world = means, quats, depths[:, None].expand(-1, 3), torch.full((4,), 0.5), torch.eye(4)
    image, _ = draw((*world, torch.eye(4)[None], Ks), backend, near=0.5)
    assert image.flatten(0, 2).any(dim=0).tolist() == [True, True, False, False]


def test_gaussians_are_sorted_however_close_and_by_index_where_equal(backend: str) -> None:
    *_, Ks = scene()
    near = torch.tensor(3.0)
    means = torch.zeros(4, 3)
    means[:, 2] = torch.stack([near.nextafter(torch.tensor(4.0)), near, near, near])
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(4, 1)
    world = means, quats, torch.ones(4, 3), torch.full((4,), 0.5), torch.eye(4)
    image, _ = draw((*world, torch.eye(4)[None], Ks), backend)
    assert image[0, HEIGHT // 2, WIDTH // 2].argsort(descending=True).tolist() == [1, 2, 3, 0]


def test_gaussians_beyond_the_first_65536_are_drawn(backend: str) -> None:
    inputs = scene()
    hidden = torch.tensor([0.0, 0.0, -50.0]).repeat(140_000, 1)
    first = scene(1)[1:5]
    many = (
        torch.cat([hidden, inputs[0]]),
        *(
            torch.cat([one.expand(140_000, *one.shape[1:]), own])
            for one, own in zip(first, inputs[1:5], strict=True)
        ),
        *inputs[5:],
    )
    assert torch.equal(draw(many, backend)[0], draw(inputs, backend)[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 18), (16, 32), (31, 5), (33, 17)])
def test_a_picture_of_any_size(backend: str, size: tuple[int, int]) -> None:
    inputs = scene()
    width, height = size
    image, alpha = draw(inputs, backend, width, height)
    truth, truth_alpha = reference.rasterize(*inputs, width, height)
    assert image.shape == (1, height, width, 3) and alpha.shape == (1, height, width, 1)
    assert_same_picture(image, truth)
    assert_same_picture(alpha, truth_alpha)


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("distance", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("length", [1e-10, 1e10])
def test_extreme_inputs_stay_finite(
    backend: str, size: float, distance: float, length: float
) -> None:
    means, quats, scales, opacities, colors, views, Ks = scene(10)
    extreme = torch.tensor([size, 1.0, 1.0])
    case = (means * distance, quats * length, scales * extreme, opacities, colors)
    leaves = [t.clone().requires_grad_() for t in case]
    image, alpha = draw((*leaves, views, Ks), backend)
    assert image.isfinite().all() and alpha.isfinite().all()
    assert alpha.min() >= 0 and alpha.max() <= 1
    for gradient in torch.autograd.grad(image.sum(), leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_gaussians_that_are_not_finite_are_left_out(backend: str, channels: int) -> None:
    """The CPU's kernels find them all, except among colors of more than three channels."""
    inputs = scene(channels=channels)
    poisoned = [t.clone() for t in inputs]
    poisons = [(0, np.nan), (1, np.inf), (2, -np.inf), (3, np.nan), (3, np.inf)]
    poisons += [(4, np.nan), (4, -np.inf)]  # of colors, the last channel
    for index, (tensor, value) in enumerate(poisons):
        poisoned[tensor][index].view(-1)[-1:] = value
    leaves = [t.requires_grad_() for t in poisoned[:5]]
    image, alpha = draw((*leaves, *inputs[5:]), backend)
    healthy = (*(t[len(poisons) :] for t in inputs[:5]), *inputs[5:])
    torch.testing.assert_close((image, alpha), draw(healthy, backend))
    for gradient in torch.autograd.grad(image.sum(), leaves):
        assert gradient.isfinite().all() and not gradient[: len(poisons)].any()


@pytest.mark.parametrize("mean", [[3e38, 0, 4], [3e38, -3e38, 3e38], [0, 0, 4]])
@pytest.mark.parametrize("size", [1e-3, 3e38])
def test_gaussians_beyond_float32_are_left_out(mean: list[float], size: float) -> None:
    inputs = scene()
    means, scales = inputs[0].clone(), inputs[2].clone()
    means[0], scales[0] = torch.tensor(mean), size
    far = max(mean) > 1e30 or size > 1e30
    alone = (*(t[1:] if far else t for t in (means, inputs[1], scales, *inputs[3:5])), *inputs[5:])
    image = draw((means, inputs[1], scales, *inputs[3:]), "numba")
    torch.testing.assert_close(image, draw(alone, "numba"))


def test_a_quaternion_without_length_is_left_out() -> None:
    inputs = scene()
    quats = inputs[1].clone()
    quats[0] = 0
    image = draw((inputs[0], quats, *inputs[2:]), "numba")
    alone = (*(t[1:] for t in inputs[:5]), *inputs[5:])
    torch.testing.assert_close(image, draw(alone, "numba"))


def test_picture_and_gradients_are_the_same_bits_every_time() -> None:
    inputs = scene(500)
    black = torch.zeros(3)

    def picture(leaves: list[Tensor], back: Tensor) -> tuple[Tensor, Tensor]:
        return draw((*leaves, *inputs[5:]), "numba", background=back)

    first = gradients(inputs, black, picture)
    for again in range(3):
        for one, other in zip(first, gradients(inputs, black, picture), strict=True):
            assert torch.equal(one, other), again


def test_two_python_threads_may_draw_at_once(backend: str) -> None:
    inputs = scene(500)
    alone, _ = draw(inputs, backend)
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda _: draw(inputs, backend)[0], range(20)))
    for picture in pictures:
        assert torch.equal(picture, alone)


@pytest.mark.parametrize("channels", [3, 30])
def test_number_of_torch_threads_does_not_change_what_is_drawn_or_lifted(channels: int) -> None:
    inputs = scene(200, channels=channels)
    gaussians, camera = as_scene(inputs)
    labels = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 5
    picture = torch.rand(HEIGHT, WIDTH, channels)

    def drawn(leaves: list[Tensor], back: Tensor) -> tuple[Tensor, Tensor]:
        return draw((*leaves, *inputs[5:]), "numba", background=back)

    def found() -> list[Tensor]:
        lifted = lift(gaussians, camera, picture), lift_labels(gaussians, camera, labels, 5)
        black = torch.zeros(channels)
        return [*drawn(inputs[:5], black), *gradients(inputs, black, drawn), *lifted]

    with torch_threads(1):
        want = found()
    for count in (2, 5):
        with torch_threads(count):
            got = found()
        assert all(map(torch.equal, got[:2], want[:2]))
        for ours, alone in zip(got[2:], want[2:], strict=True):  # sums in another order
            torch.testing.assert_close(ours, alone, atol=1e-4, rtol=1e-4)


def test_what_is_lifted_keeps_no_memory_of_other_threads() -> None:
    gaussians, camera = as_scene(scene(500))
    picture = torch.rand(HEIGHT, WIDTH, 30)
    with torch_threads(4):
        lift(gaussians, camera, picture)
        tracemalloc.start()
        try:
            lifted = [lift(gaussians, camera, picture) for _ in range(20)]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held < 2 * sum(each.nbytes for each in lifted)


def test_many_large_gaussians_fill_every_tile() -> None:
    """More tiles touched than the first guess of the buffers."""
    inputs = scene(200)
    wide = (*inputs[:2], inputs[2] * 20, *inputs[3:5], inputs[5], inputs[6] * 4)
    image, _ = draw(wide, "numba", 200, 148)
    truth, _ = reference.rasterize(*wide, 200, 148)
    assert_same_picture(image, truth, flipped=5e-3)


@pytest.mark.parametrize(
    ("columns", "rows", "parts"), [(41, 27, 2), (7, 5, 3), (1, 4, 2), (2, 3, 8)]
)
def test_parts_take_every_tile_once_and_about_as_many_each(
    columns: int, rows: int, parts: int
) -> None:
    from langsplat._rasterize_numba import _tile_of

    tiles = columns * rows
    taken = []
    for part in range(parts):
        own: list[int] = []
        while (tile := _tile_of(part, parts, len(own), columns)) < tiles:
            own.append(tile)
        taken.append(own)
    assert sorted(tile for own in taken for tile in own) == list(range(tiles))
    assert max(map(len, taken)) - min(map(len, taken)) <= max(1, columns // parts + 1)


def test_whichever_part_is_free_takes_the_next_tiles_and_each_is_taken_once() -> None:
    from numba import njit

    from langsplat._rasterize_numba import RUN, _in_threads, _next_tile

    @njit
    def next_tile(tile, taken):
        return _next_tile(tile, taken)

    tiles, taken = 50 * RUN + 1, np.zeros(1, np.int64)
    began, done = threading.Event(), threading.Event()

    def draw(part: int, parts: int) -> list[int]:
        own, tile = [], next_tile(-1, taken)
        while tile < tiles:
            own.append(tile)
            if part == 1:  # busy with its first tile until all others are taken
                began.set()
                assert done.wait(60)
            else:
                assert began.wait(60)
            tile = next_tile(tile, taken)
        if part == 0:
            done.set()
        return own

    fast, slow, other = _in_threads(draw, 3)
    assert sorted([*fast, *slow, *other]) == list(range(tiles))
    assert len(slow) == RUN and len(fast) + len(other) == tiles - RUN


def test_memory_is_used_again_only_when_the_last_array_in_it_is_gone() -> None:
    from langsplat._rasterize_numba import empty

    first = empty((1000, 1000), np.float32)
    place, view = first.ctypes.data, torch.from_numpy(first[500:])
    assert place % 64 == 0 and first.shape == (1000, 1000)
    del first
    second = empty((1000, 1000), np.float32)
    second[:] = 1
    view[:] = 2
    assert (second == 1).all(), "what is still in use was given away"
    del view
    assert empty((990, 1000), np.float32).ctypes.data == place


def test_memory_that_was_released_is_kept_in_bounds() -> None:
    from langsplat._rasterize_numba import SPARE_BYTES, _spare, empty

    blocks = [empty(SPARE_BYTES // 3, np.uint8) for _ in range(4)]  # nothing is written to them
    blocks.append(empty(2 * SPARE_BYTES, np.uint8))
    blocks.clear()
    kept = sum(memory.nbytes for memory in _spare.values())
    assert SPARE_BYTES // 2 < kept <= SPARE_BYTES


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one whenever the CPU's rasterizer projects, sorts and lists anew."""
    from langsplat import _rasterize_numba as numba_backend

    found: list[object] = []
    prepare = numba_backend._prepare
    monkeypatch.setattr(numba_backend, "_prepare", lambda *args: found.append(0) or prepare(*args))
    monkeypatch.setattr(numba_backend, "_known", None)
    return found


def test_a_view_is_sorted_once_however_often_it_is_drawn(looks: list[object]) -> None:
    *geometry, colors, views, Ks = scene(channels=9)
    all_shown = [colors[:, 3:6], colors[:, :2], colors, colors[:, 4:7].flip(0)]

    def drawn(own: list[Tensor], shown: Tensor) -> tuple[Tensor, ...]:
        leaf = shown.clone().requires_grad_()
        image, alpha = draw((*own, leaf, views, Ks), "numba")
        return image, alpha, *torch.autograd.grad((image * image).sum(), leaf)

    truths = [drawn([t.clone() for t in geometry], shown) for shown in all_shown]
    looks.clear()
    for shown, truth in zip(all_shown, truths, strict=True):
        assert all(map(torch.equal, drawn(geometry, shown), truth))
    lift(*as_scene((*geometry, colors, views, Ks)), torch.ones(HEIGHT, WIDTH, 1))
    assert len(looks) == 1
    draw((*(t.clone() for t in geometry), colors, views, Ks), "numba")
    assert len(looks) == 2, "the same numbers in other tensors may be others tomorrow"


@pytest.mark.parametrize(
    "changed", ["means", "quats", "scales", "opacities", "view", "K", "size", "near"]
)
def test_whatever_changes_is_seen(looks: list[object], changed: str) -> None:
    inputs = scene()
    draw(inputs, "numba")
    size = (WIDTH + 1, HEIGHT) if changed == "size" else (WIDTH, HEIGHT)
    near = 3.0 if changed == "near" else NEAR
    if changed not in ("size", "near"):
        names = ["means", "quats", "scales", "opacities", "colors", "view", "K"]
        inputs[names.index(changed)].view(-1)[0] += 0.25  # in place
    image, alpha = draw(inputs, "numba", *size, near=near)
    assert len(looks) == 2
    truth = draw(tuple(t.clone() for t in inputs), "numba", *size, near=near)
    assert torch.equal(image, truth[0]) and torch.equal(alpha, truth[1])


@pytest.mark.parametrize("changed", range(4))
def test_changes_that_torch_does_not_count_are_seen(looks: list[object], changed: int) -> None:
    inputs = scene(n=41)
    tensor = inputs[changed].view(-1)
    for change in (tensor.data.mul_, tensor.numpy()[-1:].__imul__):
        draw(inputs, "numba")
        looks.clear()
        change(0.75)
        image, _ = draw(inputs, "numba")
        assert len(looks) == 1
        assert torch.equal(image, draw(tuple(t.clone() for t in inputs), "numba")[0])


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 0, 3, 2]])
def test_gaussians_that_change_places_are_seen(order: list[int]) -> None:
    inputs = scene(n=41)
    draw(inputs, "numba")
    for tensor in inputs[:4]:
        tensor[: len(order)] = tensor[order].clone()
    assert torch.equal(draw(inputs, "numba")[0], draw([t.clone() for t in inputs], "numba")[0])


def test_a_color_that_is_not_finite_hides_a_gaussian_only_while_it_has_it() -> None:
    *geometry, colors, views, Ks = scene()
    poisoned = colors.clone()
    poisoned[3, 1], poisoned[5, 0] = np.nan, np.inf
    all_shown = [poisoned, colors, poisoned, colors]
    truths = [draw((*(t.clone() for t in geometry), c, views, Ks), "numba") for c in all_shown]
    assert not torch.equal(truths[0][0], truths[1][0])
    for shown, truth in zip(all_shown, truths, strict=True):
        assert all(map(torch.equal, draw((*geometry, shown, views, Ks), "numba"), truth))


def test_trained_gaussians_are_seen_anew_and_not_kept(looks: list[object]) -> None:
    *geometry, colors, views, Ks = scene()
    leaves = [t.requires_grad_() for t in geometry]
    for count in (1, 2):
        draw((*leaves, colors, views, Ks), "numba")
        assert len(looks) == count


def test_a_frame_of_far_more_tiles_than_the_one_before_is_drawn_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from langsplat import _rasterize_numba as numba_backend

    *geometry, colors, views, Ks = scene(n=400)
    pictures = []
    for each in (100.0, 0.0):  # far too much memory for the lists of tiles, and far too little
        monkeypatch.setattr(numba_backend, "_tiles_each", each)
        monkeypatch.setattr(numba_backend, "_known", None)
        pictures.append(draw((*geometry, colors, views, Ks), "numba"))
        assert 1 < numba_backend._tiles_each < 12
    assert all(map(torch.equal, *pictures))


def test_a_kernels_memory_begins_at_a_line_and_lives_as_long_as_it_is_seen() -> None:
    from numba import errors, njit

    from langsplat._lanes import LINE, flattened, room

    @njit
    def made(count):
        given = room(count, np.float32)
        for k in range(count):
            given[k] = k
        return flattened(given, np.int32), flattened(given, np.int64)

    @njit
    def flat(array):
        return flattened(array)

    for count in (0, 1, 2, 1000):
        words, pairs = made(count)
        gone = [made(count) for _ in range(100)]  # would be given what was let go too early
        assert words.ctypes.data == pairs.ctypes.data and words.ctypes.data % LINE == 0
        assert len(words) == count and len(pairs) == count // 2 and len(gone) == 100
        np.testing.assert_array_equal(words.view(np.float32), np.arange(count))
    table = np.arange(12.0).reshape(3, 4)
    flat(table)[5] = -1
    assert table[1, 1] == -1 and flat(table).shape == (12,)
    with pytest.raises(errors.TypingError, match="without gaps"):
        flat(table[:, :2])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    def numbers() -> list[int]:
        return _in_threads(lambda part, parts: 10 * parts + part, 2)

    assert numbers() == [20, 21]
    time.sleep(0.1)  # its threads then wait for more
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # it would wait without end for threads that only its parent has
        os._exit(0 if numbers() == [20, 21] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_kernels_are_compiled_anew_where_none_can_be_kept() -> None:
    names: dict[str, Any] = {}  # as in a checkout that is only read, without a home
    exec(compile("def double(x): return 2 * x", "/nowhere/kernels.py", "exec"), names)
    assert _kernel(names["double"])(21) == 42


def test_fast_exponential_is_accurate() -> None:
    from numba import njit

    from langsplat._rasterize_numba import _half_to

    @njit
    def over(values, out):
        for i in range(len(values)):
            out[i] = _half_to(values[i])

    values = np.linspace(0, 12, 10_000, dtype=np.float32)
    out = np.empty_like(values)
    over(values, out)
    truth = 0.5 ** values.astype(np.float64)
    assert np.abs(out / truth - 1).max() < 3e-6


def test_logarithm_is_exact_to_the_last_bits_and_zero_at_one() -> None:
    from numba import njit

    from langsplat._lanes import LANES, load, log2, store

    @njit
    def over(values, out):
        for at in range(0, len(values), LANES):
            store(out, at, log2(load(values, at)))

    near_one = 1 + np.linspace(-1e-6, 1e-6, 1_000)
    edges = [1.0, 0.5, 2.0, 0.5**0.5, 2.0**0.5, 1 / 255, np.finfo(np.float32).max]
    values = np.concatenate([np.geomspace(1e-30, 1e30, 10_001), near_one, edges])
    values = np.append(values, np.ones(-len(values) % LANES))
    out = np.empty_like(values)
    over(values, out)
    truth = np.log2(values)
    assert (out[values == 1] == 0).all()
    assert (np.abs(out - truth) <= 2e-15 + 3e-16 * np.abs(truth)).all()


def test_sh_to_rgb_agrees_with_closed_forms() -> None:
    """Against the bases written out by m, l for the z axis, and by orthonormality on the sphere."""
    generator = torch.Generator().manual_seed(9)
    dirs = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    bases = []
    for k in range(16):
        sh = torch.zeros(1, 16, 3, dtype=torch.float64)
        sh[0, k] = 1
        bases.append(sh_to_rgb(sh.expand(len(dirs), -1, -1), dirs)[:, 0] - 0.5)
    basis = torch.stack(bases)
    gram = 4 * torch.pi * basis @ basis.T / len(dirs)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.03, rtol=0)
    # The signs of 3DGS: first band -y, z, -x.
    axes = torch.eye(3)
    sh = torch.zeros(3, 4, 3)
    sh[:, 1], sh[:, 2], sh[:, 3] = 1.0, 2.0, 4.0
    expected = 0.5 + 0.4886025 * torch.tensor([-4.0, -1.0, 2.0])
    torch.testing.assert_close(sh_to_rgb(sh, axes * 7)[:, 0], expected)
    torch.testing.assert_close(sh_to_rgb(sh, axes, degree=0), torch.full((3, 3), 0.5))
    with pytest.raises(ValueError, match=r"dirs must be \[3, 3\]"):
        sh_to_rgb(sh, axes[:1])
    with pytest.raises(ValueError, match=r"sh must be \[3, 4, 3\]"):
        sh_to_rgb(sh[..., 0], axes)
    for degree in (-1, 2, 4):
        with pytest.raises(ValueError, match=f"got degree {degree} and 4 bases"):
            sh_to_rgb(sh, axes, degree=degree)
    for dtype in (torch.float16, torch.bfloat16):  # as a scene's file has them
        with pytest.raises(ValueError, match=f"got {dtype}: convert them with .float"):
            sh_to_rgb(sh.to(dtype), axes)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_colors_and_their_gradient_do_not_depend_on_whether_directions_are_learned(
    degree: int,
) -> None:
    """The CPU's kernel against the same bands in torch; sh has more bases than are used."""
    generator = torch.Generator().manual_seed(degree)
    sh = torch.randn(300, 16, 3, generator=generator, dtype=torch.float64)
    dirs = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    dirs[7] = 0
    v_rgb = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    found = []
    for learned in (False, True):
        leaf, given = sh.clone().requires_grad_(), dirs.clone().requires_grad_(learned)
        rgb = sh_to_rgb(leaf, given, degree)
        rgb.backward(v_rgb)
        assert (given.grad is not None) == learned
        found.append((rgb.detach(), leaf.grad))
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)
    single = sh_to_rgb(sh.float(), dirs.float(), degree)
    torch.testing.assert_close(single, found[0][0].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_gpu_makes_of_harmonics_what_the_cpu_makes_of_them(degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)
    sh, dirs = (torch.randn(300, *size, generator=generator) for size in ((16, 3), (3,)))
    v_rgb, found = torch.randn(300, 3, generator=generator), []
    for device in ("cpu", "cuda"):
        leaf, given = (one.detach().to(device).requires_grad_() for one in (sh, dirs))
        rgb = sh_to_rgb(leaf, given, degree)
        rgb.backward(v_rgb.to(device))
        assert leaf.grad is not None
        learned = torch.zeros(300, 3) if given.grad is None else given.grad.cpu()
        found.append((rgb.detach().cpu(), leaf.grad.cpu(), learned))
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)
    assert sh_to_rgb(sh[:0].cuda(), dirs[:0].cuda(), degree).shape == (0, 3)


def test_render_draws_rgb_from_sh(backend: str) -> None:
    inputs = scene()
    gaussians, camera = as_scene(inputs)
    image, _ = render(gaussians.to("cuda" if backend == "gsplat" else "cpu"), camera)
    torch.testing.assert_close(image.cpu(), draw(inputs, backend)[0][0], atol=1e-5, rtol=1e-4)
    # With the first degree, in directions from the camera, and no less than black.
    sh = torch.randn(len(gaussians), 4, 3, generator=torch.Generator().manual_seed(2))
    x, y, z = torch.nn.functional.normalize(gaussians.means - camera.position, dim=1).T[..., None]
    colors = 0.5 + SH_C0 * sh[:, 0] + 0.4886025 * (z * sh[:, 2] - y * sh[:, 1] - x * sh[:, 3])
    assert bool((colors < 0).any())
    seen, _ = render(replace(gaussians, sh=sh).to(image.device), camera)
    want, _ = draw((*inputs[:4], colors.clamp_min(0), *inputs[5:]), backend)
    torch.testing.assert_close(seen.cpu(), want[0], atol=1e-5, rtol=1e-4)


def test_real_points_equal_the_reference(backend: str) -> None:
    data = np.load(real_data("gsplat_test_garden") / "test_garden.npz")
    means = torch.from_numpy(data["means3d"])[::200]
    n = len(means)
    inputs = (
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        torch.full((n, 3), 0.05),
        torch.full((n,), 0.8),
        torch.from_numpy(data["colors"])[::200].float() / 255,
        torch.from_numpy(data["viewmats"]).float(),
        torch.from_numpy(data["Ks"]).float() * torch.tensor([[0.1], [0.1], [1.0]]),
    )
    image, _ = draw(inputs, backend, 64, 42)
    truth, _ = reference.rasterize(*inputs, 64, 42)
    assert_same_picture(image, truth, flipped=5e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quats": torch.ones(3, 4)}, "quats must be"),
        ({"colors": torch.ones(39, 3)}, "colors must be"),
        ({"colors": torch.ones(40, 0)}, "at least one channel"),
        ({"colors": torch.ones(40)}, r"colors must be \[N, D\] or"),
        ({"viewmats": torch.eye(4), "Ks": torch.eye(3)}, r"give viewmats\[None\]"),
        ({"colors": torch.ones(40, 3).long()}, "got torch.float32, torch.int64: convert"),
        ({"means": torch.ones(40, 3).double()}, "must be float32, or all float64"),
        ({"Ks": torch.eye(3)[None].repeat(2, 1, 1)}, "Ks must be"),
        ({"viewmats": torch.ones(0, 4, 4)}, "no camera"),
        ({"width": 0}, "choose another size"),
        ({"height": 0}, "choose another size"),
        ({"width": 10_000, "height": 10_000}, "choose another size"),
        ({"background": torch.ones(4)}, "background must be"),
        ({"backend": "opengl"}, "backend must be"),
    ],
)
def test_bad_input_is_told_in_words(change: dict, words: str) -> None:
    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")
    arguments = dict(zip(names, scene(), strict=True)) | {"width": WIDTH, "height": HEIGHT}
    with pytest.raises(ValueError, match=words):
        rasterize(**(arguments | change))


def test_a_background_may_be_a_tuple_and_of_any_number_type() -> None:
    gaussians, camera = as_scene(scene())
    want, _ = render(gaussians, camera, background=torch.tensor([1.0, 0.5, 0]))
    for given in ((1, 0.5, 0), np.array([1, 0.5, 0]), torch.tensor([1, 0.5, 0]).double()):
        image, alpha = render(gaussians, camera, background=given)
        assert torch.equal(image, want) and image.dtype == alpha.dtype == torch.float32


@pytest.mark.filterwarnings("error")
def test_arrays_that_torch_cannot_share_are_taken() -> None:
    """As Pillow's, which are read-only, and those that were mirrored, or turned from BGR to RGB."""
    gaussians, camera = as_scene(scene())
    rng = np.random.default_rng(0)
    image, labels = rng.random((HEIGHT, WIDTH, 3)), rng.integers(-1, 3, (HEIGHT, WIDTH, 1))
    image.flags.writeable = labels.flags.writeable = False
    for step in (1, -1):
        given = image[..., ::step], labels[:, ::step], np.arange(3.0)[::step]
        tensors = [torch.from_numpy(array.copy()) for array in given]
        one, two = (
            (
                lift(gaussians, camera, colors),
                lift_labels(gaussians, camera, ids, 3),
                render(gaussians, camera, background=behind)[0],
            )
            for colors, ids, behind in (given, tensors)
        )
        assert all(map(torch.equal, one, two))


def test_arrays_are_lifted_as_tensors_are() -> None:
    gaussians, camera = as_scene(scene())
    image, labels = torch.rand(HEIGHT, WIDTH, 2), torch.randint(-1, 3, (HEIGHT, WIDTH, 1))
    assert torch.equal(lift(gaussians, camera, image.numpy()), lift(gaussians, camera, image))
    for kind in (torch.uint8, torch.float64):
        other = (200 * image).to(kind)
        assert torch.equal(lift(gaussians, camera, other), lift(gaussians, camera, other.float()))
    labels[labels < 0] = 2  # unsigned numbers have no -1
    for kind in (np.int32, np.uint8, np.uint16, np.uint32):
        lifted = lift_labels(gaussians, camera, labels.numpy().astype(kind), 3)
        assert torch.equal(lifted, lift_labels(gaussians, camera, labels, 3))
    with pytest.raises(ValueError, match="colors must be a torch tensor, got ndarray: convert it"):
        render(gaussians, camera, np.ones((len(gaussians), 2), np.float32))


def test_lift_refuses_a_picture_of_another_size() -> None:
    gaussians, camera = as_scene(scene())
    for size in ((HEIGHT, WIDTH + 1, 3), (HEIGHT, WIDTH)):
        with pytest.raises(ValueError, match="resize"):
            lift(gaussians, camera, torch.ones(size))
        with pytest.raises(ValueError, match="resize"):
            lift_labels(gaussians, camera, torch.zeros(size).long(), 1)
    with pytest.raises(ValueError, match=r"-1 \.\. 1, got 0 \.\. 2: renumber"):
        lift_labels(gaussians, camera, torch.arange(3).expand(HEIGHT, WIDTH, 3), 2)
    with pytest.raises(ValueError, match=r"-1 \.\. 1, got -2 \.\. -2: renumber"):
        lift_labels(gaussians, camera, torch.full((HEIGHT, WIDTH, 1), -2), 2)
    with pytest.raises(ValueError, match=r"sums must be \[4, 2\]"):
        labels = torch.zeros(HEIGHT, WIDTH, 1).long()
        lift_labels(gaussians, camera, labels, 2, sums=torch.zeros(4, 1))
    half = gaussians._each(lambda tensor: tensor.half())
    with pytest.raises(ValueError, match=r"got torch.float16: convert them with .float"):
        lift_labels(half, camera, labels, 2)


@pytest.mark.parametrize("upside_down", [False, True])
def test_the_surface_of_a_flat_gaussian_is_its_plane_turned_to_the_camera(
    upside_down: bool,
) -> None:
    turn, shift = reference.rotation_of(torch.tensor([[1, 0.3, -0.2, 0.4]]))[0], torch.ones(3)
    view, K = torch.eye(4), torch.tensor([[40, 0, 16.5], [0, 40, 16.5], [0, 0, 1]])
    view[:3, :3], view[:3, 3] = turn, shift
    quats = 3 * torch.tensor([[0.0, 0.9, 0.2, 0.1]] if upside_down else [[0.9, 0, -0.1, 0.2]])
    gaussians = Gaussians(
        means=((torch.tensor([0.0, 0, 4]) - shift) @ turn)[None],  # 4 before the camera
        quats=quats,
        scales=torch.tensor([[0.5, 0.01, 0.4]]),
        opacities=torch.tensor([0.6]),
        sh=torch.zeros(1, 1, 3),
    )
    normal = turn @ reference.rotation_of(quats)[0, :, 1]
    assert (normal[2] > 0) != upside_down, "one looks away from the camera, the other to it"
    surface = render_surface(gaussians, Camera(view, K, WIDTH, HEIGHT))
    toward = normal if upside_down else -normal
    torch.testing.assert_close(surface[16, 16], torch.cat([toward, torch.tensor([1 / 4])]))
    assert not surface[-1, -1].any()


def test_a_wall_at_the_side_is_turned_to_where_the_camera_is() -> None:
    """It stands along the optical axis, so the direction of the view says nothing."""
    wall = Gaussians(
        means=torch.tensor([[2.0, 0, 4]], requires_grad=True),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.tensor([[0.01, 0.5, 0.5]]),
        opacities=torch.tensor([0.6]),
        sh=torch.zeros(1, 1, 3),
    )
    K = torch.tensor([[40, 0, 16.5], [0, 40, 16.5], [0, 0, 1]])
    surface = render_surface(wall, Camera(torch.eye(4), K, WIDTH, HEIGHT))
    torch.testing.assert_close(surface[16, 36], torch.tensor([-1.0, 0, 0, 1 / 4]))
    assert not surface.requires_grad


def test_the_surface_of_float64_gaussians_is_that_of_float32() -> None:
    gaussians, camera = as_scene(scene())
    surface = render_surface(gaussians._each(lambda tensor: tensor.double()), camera)
    assert surface.dtype == torch.float64
    torch.testing.assert_close(
        surface.float(), render_surface(gaussians, camera), atol=1e-3, rtol=0
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gsplat_without_cuda_says_so_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        rasterize(*scene(), WIDTH, HEIGHT, backend="gsplat")
    assert available_backends() == {"numba": "ok", "gsplat": "no CUDA device was found"}


@pytest.mark.parametrize("missing", ["gsplat", "triton"])
def test_the_package_that_a_gpu_needs_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def import_module(name: str) -> None:
        if name == missing:
            raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_rasterize_gsplat, "import_module", import_module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = f"{missing} cannot be imported (No module named '{missing}'): pip install {missing}"
    assert _rasterize_gsplat.problem() == said


@pytest.mark.skipif(find_spec("gsplat.csrc") is not None, reason="gsplat came with its kernels")
def test_a_gpu_is_drawn_on_once_gsplats_kernels_are_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_rasterize_gsplat, "problem", lambda: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "gsplat_cuda").mkdir()
    (tmp_path / "gsplat_cuda" / "build.ninja").touch()  # left behind by one that was stopped
    assert quickest_device() == drawing_device("auto") == "cpu" != drawing_device("cuda")
    (tmp_path / "gsplat_cuda" / "gsplat_cuda.so").touch()
    assert quickest_device() == drawing_device("auto") == "cuda" != drawing_device("cpu")
    (tmp_path / "py311_cu130").mkdir()  # where torch compiles unless it is told a folder
    (tmp_path / "gsplat_cuda").rename(tmp_path / "py311_cu130" / "gsplat_cuda")
    assert quickest_device() == "cuda"
    monkeypatch.setattr(_rasterize_gsplat, "problem", lambda: "no CUDA device was found")
    assert quickest_device() == "cpu" == drawing_device("auto")
    for device, words in (("cuda", "no CUDA device was found. Use"), ("tpu", "cpu or cuda, got")):
        with pytest.raises(ValueError, match=words):
            drawing_device(device)
