"""Lifting gives each Gaussian the words of the segments it paints."""

import numpy as np
import pytest
import torch

from langsplat.features import SegmentFeatures
from langsplat.language import fit_language
from langsplat.rasterize import render
from langsplat.scene import Camera, Gaussians

WIDTH, HEIGHT = 40, 24


def front_camera(name: str = "front") -> Camera:
    K = torch.tensor([[30.0, 0, WIDTH / 2], [0, 30, HEIGHT / 2], [0, 0, 1]])
    return Camera(torch.eye(4), K, WIDTH, HEIGHT, name)


def two_balls() -> Gaussians:
    """60 Gaussians in a ball on the left, 60 in one on the right, and one behind the camera."""
    generator = torch.Generator().manual_seed(0)
    cloud = 0.3 * torch.randn(60, 3, generator=generator).clamp(-1.2, 1.2)
    left, right = cloud + torch.tensor([-1.2, 0, 4]), cloud + torch.tensor([1.2, 0, 4])
    means = torch.cat([left, right, torch.tensor([[0.0, 0, -3]])])
    n = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        scales=torch.full((n, 3), 0.12),
        opacities=torch.full((n,), 0.7),
        sh=torch.zeros(n, 1, 3),
    )


def halves(e: int = 8) -> SegmentFeatures:
    """Level 0: left and right. Level 1: one segment, nothing in the top rows. Level 2: none."""
    segments = np.full((3, HEIGHT, WIDTH), -1, dtype=np.int32)
    segments[0, :, : WIDTH // 2] = 0
    segments[0, :, WIDTH // 2 :] = 1
    segments[1, HEIGHT // 2 :] = 0
    axes = torch.eye(e)
    return SegmentFeatures(segments, [axes[:2], axes[2:3], axes[:0]])


def test_each_ball_gets_its_own_codeword_and_the_unseen_get_none() -> None:
    field = fit_language(two_balls(), [front_camera()], [halves()], "test")
    decoded = field.dense(0) @ field.codec.codewords[0]
    assert (decoded[:60, 0] > 0.99).all() and (decoded[60:120, 1] > 0.99).all()
    assert (field.mass[0, :120] > 0).all()
    assert (field.mass[:, 120] == 0).all(), "no view sees what is behind the camera"
    assert (field.codes[:, 120] == 0).all()
    torch.testing.assert_close(field.codes[0, :120].sum(1), torch.ones(120))


def test_mass_is_the_blending_weight_over_the_segmented_pixels() -> None:
    gaussians, camera = two_balls(), front_camera()
    field = fit_language(gaussians, [camera, camera], [halves(), halves()], "test")
    # The identity lets the renderer itself spell out W, pixel by Gaussian.
    weights, _ = render(gaussians, camera, values=torch.eye(len(gaussians)))
    torch.testing.assert_close(field.mass[0], 2 * weights.sum((0, 1)), atol=1e-4, rtol=1e-4)
    below = weights[HEIGHT // 2 :].sum((0, 1))
    torch.testing.assert_close(field.mass[1], 2 * below, atol=1e-4, rtol=1e-4)
    assert (field.mass[2] == 0).all()


def test_the_channels_of_a_large_view_are_lifted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_language(two_balls(), [front_camera()], [halves()], "test")
    monkeypatch.setattr("langsplat.language._MAX_ONE_HOT", WIDTH * HEIGHT)
    parts = fit_language(two_balls(), [front_camera()], [halves()], "test")
    torch.testing.assert_close(parts.mass, whole.mass)
    assert torch.equal(parts.rows[0, :120, 0], whole.rows[0, :120, 0])


def test_segments_of_another_size_are_refused_by_name() -> None:
    small = front_camera("IMG_7.jpg").resized(20)
    with pytest.raises(ValueError, match=r"IMG_7.jpg are 40 x 24 but its picture is 20 x 12"):
        fit_language(two_balls(), [small], [halves()], "test")
    with pytest.raises(ValueError, match="1 cameras and 0 records"):
        fit_language(two_balls(), [front_camera()], [], "test")
