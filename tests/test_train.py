"""Training on tiny renders of a known scene: it learns, follows its schedule, repeats, resumes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langsplat import train
from langsplat.capture import Capture
from langsplat.rasterize import render
from langsplat.scene import Camera, Gaussians
from langsplat.train import TrainConfig, fit_gaussians, mean_psnr, split_views

SMALL = TrainConfig(
    iterations=40,
    max_gaussians=160,
    sh_degree=1,
    refine_every=5,
    means_lr=1e-3,
    means_lr_end=1e-4,
    sh_dc_lr=2e-2,
)


def looking_at_origin(angle: float, width: int, height: int, name: str) -> Camera:
    c, s = math.cos(angle), math.sin(angle)
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    viewmat[2, 3] = 3.0
    focal = 1.1 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Camera(viewmat, K, width, height, name)


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Six 28 x 24 renders of 40 colored blobs, and the blobs' centres as points."""
    generator = torch.Generator().manual_seed(7)
    n = 40
    truth = Gaussians(
        means=torch.rand(n, 3, generator=generator) * 2 - 1,
        quats=torch.randn(n, 4, generator=generator),
        scales=torch.rand(n, 3, generator=generator) * 0.25 + 0.08,
        opacities=torch.rand(n, generator=generator) * 0.5 + 0.5,
        sh=torch.randn(n, 1, 3, generator=generator) * 1.2,
    )
    cameras = tuple(looking_at_origin(0.25 * i - 0.6, 28, 24, f"{i}.png") for i in range(6))
    pictures = [render(truth, camera)[0].clamp(0, 1) for camera in cameras]
    images = [(255 * picture).round().to(torch.uint8).numpy() for picture in pictures]
    colors = (255 * (0.5 + train.SH_C0 * truth.sh[:, 0]).clamp(0, 1)).to(torch.uint8)
    return Capture(
        images=images,
        cameras=cameras,
        points=truth.means.numpy(),
        point_colors=colors.numpy(),
        name="blobs",
        notes=[],
    )


def without_points(capture: Capture) -> Capture:
    return replace(
        capture, points=np.zeros((0, 3), np.float32), point_colors=np.zeros((0, 3), np.uint8)
    )


def replace_views(capture: Capture, count: int) -> Capture:
    return replace(capture, images=capture.images[:count], cameras=capture.cameras[:count])


def same(a: Gaussians, b: Gaussians) -> bool:
    names = ("means", "quats", "scales", "opacities", "sh")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_training_raises_the_held_out_psnr(capture: Capture) -> None:
    config = replace(SMALL, iterations=100, holdout_every=3)
    held_out = split_views(6, 3)[1]
    before = mean_psnr(fit_gaussians(capture, replace(config, iterations=1)), capture, held_out)
    after = mean_psnr(fit_gaussians(capture, config), capture, held_out)
    assert held_out == [0, 3]
    assert after > before + 4


def test_the_schedule_relocates_grows_shakes_raises_the_degree_and_stops(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[tuple[str, int]] = []

    def watch(name: str, note: Callable[..., str]) -> None:
        original = getattr(train._Trainer, name)

        def watched(self: train._Trainer, *args: object, **options: object) -> object:
            happened.append((note(self, *args, **options), self.iteration))
            return original(self, *args, **options)

        monkeypatch.setattr(train._Trainer, name, watched)

    watch("_share_out", lambda self, sources, places: "add" if places is None else "relocate")
    watch("_add_noise", lambda self, rate: "noise")
    watch("_view", lambda self, view, *, half: "half" if half else "full")
    watch("degree", lambda self, share: f"degree {min(int(share / 0.1), 1)}")
    # So strong a pull on opacity that some Gaussians die within the run.
    config = replace(SMALL, opacity_reg=3.0, logit_opacities_lr=0.4, iterations=60)
    gaussians = fit_gaussians(without_points(capture), replace(config, max_gaussians=700))
    last = {name: iteration for name, iteration in happened}
    first = {name: iteration for name, iteration in reversed(happened)}
    assert first["noise"] == 1 and last["noise"] == 51  # refine_until = 0.85
    assert 3 < first["add"] and last["add"] <= 35  # refine_from = 0.05, grow_until = 0.5
    assert last["relocate"] <= 51
    assert first["half"] == 1 and first["full"] == 25  # half_resolution_until = 0.4
    assert first["degree 1"] == 7  # sh_step = 0.1
    assert len(gaussians) == 700 and gaussians.sh_degree == 1


def test_the_ceiling_holds_from_the_first_step_to_the_last(capture: Capture) -> None:
    counts: list[int] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        counts.append(int(note.split(", ")[2].split()[0]))

    few = fit_gaussians(capture, replace(SMALL, max_gaussians=25), progress=progress)
    assert len(few) == 25 and max(counts) == 25
    assert len(fit_gaussians(capture, replace(SMALL, iterations=30))) == 160


def test_splitting_keeps_what_a_ray_through_the_centre_sees() -> None:
    opacities = torch.tensor([0.1, 0.5, 0.9, 0.99])
    for count in (1, 2, 5, 40):
        new, shrink = train._split(opacities, torch.full((4,), count))
        free = new > train.DEAD_OPACITY  # the rest were raised to stay alive
        assert torch.allclose((1 - (1 - new) ** count)[free], opacities[free], atol=1e-5)
        assert bool((shrink > 0).all()) and bool((shrink <= 1 + 1e-6).all())
    assert torch.allclose(train._split(opacities, torch.ones(4))[1], torch.ones(4))


def test_relocation_draws_in_proportion_to_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = train._sample(weights, 4000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert 2800 < int(counts[3]) < 3200


def test_the_same_seed_gives_the_same_gaussians(capture: Capture) -> None:
    first, again = fit_gaussians(capture, SMALL), fit_gaussians(capture, SMALL)
    assert same(first, again)
    assert not same(first, fit_gaussians(capture, replace(SMALL, seed=1)))


class Stopped(Exception):
    pass


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsplat.progress.CHECKPOINT_SECONDS", 0.0)
    state = tmp_path / "state" / "train.safetensors"
    step = train._Trainer.step

    def stopping(self: train._Trainer) -> None:
        if self.iteration == 23:
            raise Stopped
        step(self)

    monkeypatch.setattr(train._Trainer, "step", stopping)
    with pytest.raises(Stopped):
        fit_gaussians(capture, SMALL, state=state)
    monkeypatch.setattr(train._Trainer, "step", step)
    notes: list[tuple[int, str]] = []
    resumed = fit_gaussians(
        capture, SMALL, state=state, progress=lambda *report: notes.append((report[1], report[3]))
    )
    assert notes[0] == (23, "continuing at step 23")
    assert same(resumed, fit_gaussians(capture, SMALL))
    assert [path.name for path in state.parent.iterdir()] == [state.name]
    # A finished run is taken over as it is.
    assert same(resumed, fit_gaussians(capture, SMALL, state=state))


def test_a_checkpoint_of_something_else_is_left_aside_with_a_note(
    capture: Capture, tmp_path: Path
) -> None:
    state = tmp_path / "train.safetensors"
    short = replace(SMALL, iterations=3)
    fit_gaussians(capture, short, state=state)
    notes: list[str] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        notes.append(note)

    for other in (replace(short, seed=5), replace(short, sh_degree=0)):
        fit_gaussians(capture, other, state=state, progress=progress)
        assert "other photos or settings" in notes[0]
        notes.clear()
    state.write_bytes(b"torn")
    assert same(fit_gaussians(capture, short, state=state), fit_gaussians(capture, short))
    recolored = replace(capture, point_colors=255 - capture.point_colors)
    for photos in (without_points(capture), recolored):
        notes.clear()
        fit_gaussians(photos, short, state=state, progress=progress)
        assert "other photos or settings" in notes[0]
        fit_gaussians(capture, short, state=state)


def test_without_points_gaussians_start_inside_the_frustums(capture: Capture) -> None:
    bare = without_points(capture)
    start = fit_gaussians(bare, replace(SMALL, iterations=1, max_gaussians=600, noise=0.0))
    means = torch.cat([start.means, torch.ones(len(start), 1)], dim=1)
    inside = torch.zeros(len(start), dtype=torch.bool)
    for camera in bare.cameras:
        local = (means @ camera.viewmat.T)[:, :3]
        pixels = local @ camera.K.T / local[:, 2:]
        inside |= (
            (local[:, 2] > 0)
            & (pixels[:, :2] > -1).all(dim=1)
            & (pixels[:, 0] < camera.width + 1)
            & (pixels[:, 1] < camera.height + 1)
        )
    assert len(start) >= 500 and bool(inside.all())
    views = range(6)
    trained = fit_gaussians(bare, replace(SMALL, iterations=60, max_gaussians=500))
    assert mean_psnr(trained, bare, views) > mean_psnr(start, bare, views) + 2


def test_a_time_limit_ends_the_run_early(capture: Capture) -> None:
    reports: list[int] = []
    config = replace(SMALL, iterations=100_000, time_limit=1.0)
    fit_gaussians(capture, config, progress=lambda *report: reports.append(report[1]))
    assert reports[-1] == 100_000  # the bar still ends full


def test_a_step_without_a_finite_gradient_changes_nothing(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterize, calls = train.rasterize, [0]

    def failing_once(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        image, alpha = rasterize(*args, **options)
        calls[0] += 1
        return (image * math.nan if calls[0] == 2 else image), alpha

    monkeypatch.setattr(train, "rasterize", failing_once)
    config = replace(SMALL, iterations=2, refine_every=1, noise=0.0)
    two = fit_gaussians(replace_views(capture, 1), config)
    one = fit_gaussians(replace_views(capture, 1), replace(config, iterations=1))
    assert calls == [3] and same(one, two)


def test_a_run_that_breaks_down_says_so(capture: Capture) -> None:
    with pytest.raises(ValueError, match="lower learning rates"):
        fit_gaussians(capture, replace(SMALL, log_scales_lr=1e4))


def test_what_cannot_be_trained_is_refused_with_a_remedy(capture: Capture) -> None:
    with pytest.raises(ValueError, match="add photos"):
        fit_gaussians(replace(capture, images=[], cameras=()), SMALL)
    with pytest.raises(ValueError, match="max_gaussians must be between"):
        replace(SMALL, max_gaussians=0)
    with pytest.raises(ValueError, match="no photo to train on"):
        replace(SMALL, holdout_every=1)
    camera = replace(capture.cameras[0], viewmat=torch.full((4, 4), math.nan))
    with pytest.raises(ValueError, match="not finite"):
        fit_gaussians(replace(capture, cameras=(camera, *capture.cameras[1:])), SMALL)
    tiny = tuple(camera.resized(8, 8) for camera in capture.cameras)
    images = [np.zeros((8, 8, 3), np.uint8)] * 6
    with pytest.raises(ValueError, match="use larger photos"):
        fit_gaussians(replace(capture, images=images, cameras=tiny), SMALL)
