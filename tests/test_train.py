"""Training on tiny renders of a known scene: it learns, follows its schedule, repeats, resumes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from langsplat import train
from langsplat.capture import Capture
from langsplat.metrics import ssim
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
# Nothing moves but by the rates that a test sets.
STILL = replace(
    SMALL,
    iterations=1,
    half_resolution_until=0.0,
    noise=0.0,
    means_lr=0.0,
    means_lr_end=0.0,
    log_scales_lr=0.0,
    quats_lr=0.0,
    logit_opacities_lr=0.0,
    sh_dc_lr=0.0,
    sh_rest_lr=0.0,
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


def trainer_of(capture: Capture, config: TrainConfig) -> train._Trainer:
    return train._Trainer(capture, range(len(capture.images)), config, torch.device("cpu"), 1)


def same(a: Gaussians, b: Gaussians) -> bool:
    names = ("means", "quats", "scales", "opacities", "sh")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_training_raises_the_held_out_psnr(capture: Capture) -> None:
    config = replace(SMALL, iterations=100, holdout_every=3)
    held_out = split_views(6, 3)[1]
    before = mean_psnr(fit_gaussians(capture, replace(config, iterations=1)), capture, held_out)
    backwards = [image[..., ::-1].copy()[..., ::-1] for image in capture.images]  # as from BGR
    points, colors = capture.points[::-1], capture.point_colors[::-1]
    turned = replace(capture, images=backwards, points=points, point_colors=colors)
    after = mean_psnr(fit_gaussians(turned, config), capture, held_out)
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
    watch("_degree", lambda self, share: f"degree {min(int(share / 0.1), 1)}")
    # Opacities are pulled down so strongly that some Gaussians die within the run.
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


def test_what_a_gaussian_is_split_into_hides_as_much_as_it_did() -> None:
    """A ray through the centre sees the same, and so do all rays across it together."""
    opacities = torch.tensor([0.1, 0.5, 0.9, 0.99])
    across = torch.linspace(-20, 20, 8001, dtype=torch.float64)[:, None]
    hidden = (opacities * torch.exp(-(across**2) / 2)).sum(dim=0)
    for count in (1, 2, 5, 40):
        new, shrink = train._split(opacities, torch.full((4,), count))
        free = new > train.DEAD_OPACITY
        assert bool((new >= train.DEAD_OPACITY).all()), "the rest were raised to stay alive"
        assert torch.allclose((1 - (1 - new) ** count)[free], opacities[free], atol=1e-5)
        assert bool((shrink > 0).all()) and bool((shrink <= 1 + 1e-6).all())
        together = 1 - (1 - new * torch.exp(-((across / shrink) ** 2) / 2)) ** count
        torch.testing.assert_close(together.sum(dim=0)[free], hidden[free], rtol=1e-4, atol=0)


def test_a_gaussian_becomes_at_most_fifty_at_once() -> None:
    """Of more, the sum that gives their size would be lost in rounding."""
    opacities = torch.tensor([0.1, 0.9, 0.999999])
    many, fifty = (train._split(opacities, torch.full((3,), count)) for count in (5000, 50))
    torch.testing.assert_close(many, fifty)


def test_gaussians_grow_exponentially_from_their_first_number_to_the_ceiling(
    capture: Capture,
) -> None:
    trainer = trainer_of(capture, replace(SMALL, max_gaussians=2160))
    assert trainer.first_count == 40 + 2160 // 3
    wanted = [trainer._wanted(share) for share in (0.0, 0.05, 0.275, 0.5, 0.7)]
    assert wanted == [760, 760, round(math.sqrt(760 * 2160)), 2160, 2160]


def test_the_dead_are_moved_onto_the_living_alone(capture: Capture) -> None:
    trainer = trainer_of(capture, SMALL)
    logits, living = trainer.params["logit_opacities"], [3, 7]
    with torch.no_grad():
        logits.fill_(train.DEAD_OPACITY / 1.01).logit_()  # together they weigh nearly as much
        logits[living] = torch.tensor([0.5, 0.5]).logit()
        trainer._refine(1.0)
    means = trainer.params["means"]
    assert len(means) == 160
    assert torch.equal(means.unique(dim=0), means[living].unique(dim=0))


def test_relocation_draws_in_proportion_to_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = train._sample(weights, 4000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert 2800 < int(counts[3]) < 3200


def test_a_gaussian_starts_as_large_as_its_neighbours_are_far(capture: Capture) -> None:
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    corners = replace(capture, points=square, point_colors=np.zeros((4, 3), np.uint8))
    start = fit_gaussians(corners, replace(STILL, max_gaussians=4))
    torch.testing.assert_close(start.scales, torch.full((4, 3), (2 + math.sqrt(2)) / 3))


def test_a_point_that_is_not_finite_is_no_gaussian(capture: Capture) -> None:
    broken, rest = capture.points.copy(), np.arange(40) != 5
    broken[5, 1] = math.nan
    without = replace(capture, points=capture.points[rest], point_colors=capture.point_colors[rest])
    assert same(
        fit_gaussians(replace(capture, points=broken), STILL), fit_gaussians(without, STILL)
    )


def test_of_more_points_than_gaussians_some_are_taken_from_all_of_them(capture: Capture) -> None:
    start = fit_gaussians(capture, replace(STILL, max_gaussians=20))
    chosen = (start.means[:, None] == torch.from_numpy(capture.points)).all(dim=2).nonzero()[:, 1]
    assert len(chosen.unique()) == 20 and chosen.min() < 10 and chosen.max() >= 30


def test_points_that_coincide_and_points_far_away_have_a_size_too(capture: Capture) -> None:
    points = np.array([[0.5, 0, 0]] * 4 + [[1e4, 0, 0]], np.float32)
    odd = replace(capture, points=points, point_colors=np.zeros((5, 3), np.uint8))
    extent = trainer_of(odd, STILL).extent
    start = fit_gaussians(odd, replace(STILL, max_gaussians=5))
    wanted = torch.tensor([[1e-4 * extent]] * 4 + [[extent]]).expand(5, 3)
    torch.testing.assert_close(start.scales, wanted)


@pytest.mark.parametrize(
    ("positions", "points", "extent"),
    [
        ([[-2, 0, 1], [2, 0, 1]], [], 2.2),
        ([[-2, 0, 0], [2, 0, 0]], [[0, 0, 30], [0, 0, 30], [math.nan, 0, 0], [0, 9, 0]], 3.0),
        ([[5, 0, 0]], [[5, 0, 40]], 4.0),
        ([[5, 0, 0]], [], 1.0),
    ],
)
def test_a_world_is_as_large_as_its_cameras_reach_or_a_tenth_of_how_far_they_look(
    positions: list[list[float]], points: list[list[float]], extent: float
) -> None:
    found = train._extent(torch.tensor(positions).float(), torch.tensor(points).reshape(-1, 3))
    assert found == pytest.approx(extent)


def test_what_is_held_out_colors_no_gaussian(capture: Capture) -> None:
    pictures = [np.full((24, 28, 3), 255 * (view % 2), np.uint8) for view in range(6)]
    black_held_out = replace(without_points(capture), images=pictures)
    start = fit_gaussians(black_held_out, replace(STILL, holdout_every=2))
    torch.testing.assert_close(0.5 + train.SH_C0 * start.sh[:, 0], torch.ones(160, 3))


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_loss_is_the_share_of_l1_and_the_share_of_ssim(capture: Capture, weight: float) -> None:
    trainer = trainer_of(replace_views(capture, 1), replace(STILL, ssim_weight=weight))
    image, _ = render(trainer.gaussians(), capture.cameras[0])
    photo = torch.from_numpy(capture.images[0]) / 255
    l1, unlike = (image - photo).abs().mean(), 1 - ssim(image, photo)
    trainer.step()
    torch.testing.assert_close(trainer.last_loss, (1 - weight) * l1 + weight * unlike)
    assert abs(l1 - unlike) > 0.05, "else either could be the other"


def test_a_photo_at_half_size_has_the_means_of_four_pixels(capture: Capture) -> None:
    trainer = trainer_of(capture, SMALL)
    camera, photo = trainer._view(2, half=True)
    assert (camera.width, camera.height) == (14, 12)
    fours = torch.from_numpy(capture.images[2]).float().reshape(12, 2, 14, 2, 3) / 255
    torch.testing.assert_close(photo, fours.mean(dim=(1, 3)))


def test_photos_too_small_to_be_halved_are_trained_on_as_they_are(capture: Capture) -> None:
    cameras = tuple(camera.resized(16, 14) for camera in capture.cameras)
    small = replace(capture, cameras=cameras, images=[i[:14, :16] for i in capture.images])
    assert len(fit_gaussians(small, replace(SMALL, iterations=2, half_resolution_until=1.0)))


def test_every_photo_has_its_turn_before_any_comes_again(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[int] = []
    look = train._Trainer._view

    def watched(self: train._Trainer, view: int, **options: bool) -> tuple[Camera, torch.Tensor]:
        views.append(view)
        return look(self, view, **options)

    monkeypatch.setattr(train._Trainer, "_view", watched)
    fit_gaussians(capture, replace(SMALL, iterations=12))
    first, second = views[:6], views[6:]
    assert sorted(first) == sorted(second) == list(range(6)) and first != second


def test_brighter_than_white_is_white(capture: Capture) -> None:
    one = replace_views(capture, 1)
    white = replace(one, images=[np.full_like(one.images[0], 255)])
    wall = replace(
        trainer_of(one, STILL).gaussians().select(torch.tensor([0])),
        means=torch.zeros(1, 3),
        scales=torch.full((1, 3), 50.0),
        opacities=torch.ones(1),
        sh=torch.full((1, 1, 3), 20.0),
    )
    assert mean_psnr(wall, white, [0]) == math.inf


def test_opacities_and_scales_are_held_down(capture: Capture) -> None:
    start = fit_gaussians(capture, STILL)
    faint = fit_gaussians(capture, replace(STILL, logit_opacities_lr=0.1, opacity_reg=1e3))
    small = fit_gaussians(capture, replace(STILL, log_scales_lr=0.1, scale_reg=1e3))
    assert bool((faint.opacities < start.opacities).all())
    assert bool((small.scales < start.scales).all())


def test_color_is_learned_for_the_direction_it_is_seen_from(capture: Capture) -> None:
    config = replace(STILL, iterations=12, sh_step=0.0, refine_until=0.0, sh_rest_lr=0.1)
    before, after = (
        mean_psnr(fit_gaussians(capture, c), capture, range(6)) for c in (STILL, config)
    )
    assert after > before + 0.5


def test_rates_fall_exponentially_to_their_ends(capture: Capture) -> None:
    config = replace(SMALL, means_lr=1e-2, means_lr_end=1e-4, quats_lr=8e-3, lr_end=0.25)
    trainer = trainer_of(capture, config)
    rates = []
    for done in (0, 20, 40):
        trainer.iteration = done
        trainer.step()
        rates.append({group["name"]: group["lr"] for group in trainer.optimizer.param_groups})
    for name, falling in (
        ("means", [trainer.extent * rate for rate in (1e-2, 1e-3, 1e-4)]),
        ("quats", [8e-3, 4e-3, 2e-3]),
        ("sh_dc", [2e-2, 1e-2, 5e-3]),
    ):
        assert [rate[name] for rate in rates] == pytest.approx(falling)


def test_noise_is_shaped_by_the_covariance_of_the_gaussian(capture: Capture) -> None:
    trainer = trainer_of(capture, replace(SMALL, noise=10.0))
    p, random = trainer.params, torch.Generator().manual_seed(3)
    with torch.no_grad():
        p["quats"].copy_(torch.randn(p["quats"].shape, generator=random))
        p["log_scales"].copy_(torch.randn(p["log_scales"].shape, generator=random))
        p["logit_opacities"].fill_(math.log(train.DEAD_OPACITY / (1 - train.DEAD_OPACITY)))
    before, start = p["means"].detach().clone(), trainer.generator.get_state()
    with torch.no_grad():
        trainer._add_noise(0.1)
    noise = torch.randn(before.shape, generator=trainer.generator.set_state(start))
    axes = Rotation.from_quat(p["quats"].detach().numpy()[:, [1, 2, 3, 0]]).as_matrix()
    turned = torch.from_numpy(axes).float()
    covariances = turned @ torch.diag_embed((2 * p["log_scales"].detach()).exp()) @ turned.mT
    # At the opacity of a dead Gaussian, half of the noise is left.
    expected = before + 0.5 * 10 * 0.1 * (covariances @ noise[:, :, None])[:, :, 0]
    torch.testing.assert_close(p["means"].detach(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_a_world_in_other_units_is_trained_as_well(capture: Capture, unit: float) -> None:
    def resized(camera: Camera) -> Camera:
        viewmat = camera.viewmat.clone()
        viewmat[:3, 3] *= unit
        return replace(camera, viewmat=viewmat)

    cameras, points = tuple(map(resized, capture.cameras)), capture.points * np.float32(unit)
    scaled = replace(capture, cameras=cameras, points=points)
    views = range(len(cameras))
    usual, other = fit_gaussians(capture, SMALL), fit_gaussians(scaled, SMALL)
    assert float(other.means.abs().max()) < 2 * unit * float(usual.means.abs().max())
    assert mean_psnr(other, scaled, views) > mean_psnr(usual, capture, views) - 1


@pytest.mark.parametrize("places", [[0, 1, 3], None])
def test_what_is_split_shares_its_opacity_and_momentum_is_kept_by_the_rest_alone(
    capture: Capture, places: list[int] | None
) -> None:
    trainer = trainer_of(capture, replace(SMALL, sh_step=0.0))

    def adam(name: str) -> dict[str, torch.Tensor]:
        state = trainer.optimizer.state[trainer.params[name]]
        return {key: tensor.clone() for key, tensor in state.items()}

    for _ in range(3):
        trainer.step()
    n = len(trainer.params["means"])
    before = {name: adam(name) for name in trainer.params}
    p = {name: tensor.detach().clone() for name, tensor in trainer.params.items()}
    opacities, shrink = train._split(p["logit_opacities"].sigmoid()[[2, 5]], torch.tensor([3, 2]))
    sources, targets = torch.tensor([2, 2, 5]), None if places is None else torch.tensor(places)
    with torch.no_grad():
        trainer._share_out(sources, targets)
    begun = [2, 5, *(range(n, n + 3) if places is None else places)]
    others = [row for row in range(n) if row not in begun]
    for name, old in before.items():
        state = adam(name)
        assert state["step"] == 3
        for key in train.MOMENTS:
            assert len(state[key]) == len(begun) + len(others)
            assert not state[key][begun].any()
            assert torch.equal(state[key][others], old[key][others]) and old[key][others].any()
    now = {name: tensor.detach() for name, tensor in trainer.params.items()}
    for source, copies, opacity, factor in zip(
        (2, 5), (begun[2:4], begun[4:]), opacities, shrink, strict=True
    ):
        one = {name: values[source] for name, values in p.items()}
        one |= {"logit_opacities": opacity.logit(), "log_scales": one["log_scales"] + factor.log()}
        for row in (source, *copies):
            for name, values in one.items():
                torch.testing.assert_close(now[name][row], values, msg=name)
    for name, values in p.items():
        assert torch.equal(now[name][others], values[others])


def test_the_same_seed_gives_the_same_gaussians(capture: Capture) -> None:
    first, again = fit_gaussians(capture, SMALL), fit_gaussians(capture, SMALL)
    assert same(first, again)
    assert not same(first, fit_gaussians(capture, replace(SMALL, seed=1)))


class Stopped(Exception):
    pass


def stop_after(steps: int, capture: Capture, config: TrainConfig, state: Path) -> None:
    """Train up to this step and no further."""
    step = train._Trainer.step

    def stopping(self: train._Trainer) -> None:
        if self.iteration == steps:
            raise Stopped
        step(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("langsplat.progress.CHECKPOINT_SECONDS", 0.0)
        patch.setattr(train._Trainer, "step", stopping)
        fit_gaussians(capture, config, state=state)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(capture: Capture, tmp_path: Path) -> None:
    state = tmp_path / "state" / "train.safetensors"
    stop_after(23, capture, SMALL, state)
    notes: list[tuple[int, str]] = []
    resumed = fit_gaussians(
        capture, SMALL, state=state, progress=lambda *report: notes.append((report[1], report[3]))
    )
    assert notes[0] == (23, "continuing at step 23")
    assert same(resumed, fit_gaussians(capture, SMALL))
    assert [path.name for path in state.parent.iterdir()] == [state.name]
    # A finished run is taken as it is.
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
    first, *rest = capture.cameras
    shift, zoom = torch.eye(4), torch.diag(torch.tensor([1.1, 1.1, 1.0]))
    shift[0, 3] = 0.1
    moved = replace(capture, cameras=(replace(first, viewmat=shift @ first.viewmat), *rest))
    zoomed = replace(capture, cameras=(replace(first, K=first.K @ zoom), *rest))
    for photos in (without_points(capture), recolored, moved, zoomed):
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
    depths = torch.stack([(means @ camera.viewmat.T)[:, 2] for camera in bare.cameras])
    # All look at one point, 3 away: depths are 0.4 to 2 times that.
    assert float(depths.amin(dim=0).max()) < 6.01 and float(depths.amax(dim=0).min()) > 1.19
    views = range(6)
    trained = fit_gaussians(bare, replace(SMALL, iterations=60, max_gaussians=500))
    assert mean_psnr(trained, bare, views) > mean_psnr(start, bare, views) + 2


def test_a_time_limit_ends_the_run_early(capture: Capture) -> None:
    reports: list[int] = []
    config = replace(SMALL, iterations=100_000, time_limit=1.0)
    fit_gaussians(capture, config, progress=lambda *report: reports.append(report[1]))
    assert reports[-1] == 100_000  # the bar still ends full


def test_a_time_limit_counts_what_an_earlier_run_took(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, step = 0, train._Trainer.step

    def second(self: train._Trainer) -> None:
        nonlocal seconds
        seconds += 1
        step(self)

    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: seconds))
    monkeypatch.setattr(train._Trainer, "step", second)
    config = replace(SMALL, iterations=100_000, time_limit=10.0)
    stop_after(6, capture, config, tmp_path / "state")
    assert seconds == 6
    seconds = 1_000
    fit_gaussians(capture, config, state=tmp_path / "state")
    assert seconds == 1_004
    fit_gaussians(capture, replace(config, iterations=3))
    assert seconds == 1_007, "and no run has more steps than it was asked for"


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


def test_a_run_goes_on_after_steps_without_a_finite_gradient_that_are_no_row(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    finite, steps = train._Trainer._finite, 0

    def every_other(self: train._Trainer, loss: torch.Tensor) -> bool:
        nonlocal steps
        steps += 1
        return steps % 2 == 1 and finite(self, loss)

    monkeypatch.setattr(train._Trainer, "_finite", every_other)
    monkeypatch.setattr(train, "MAX_BAD_STEPS", 2)
    fit_gaussians(capture, replace(SMALL, iterations=6))
    assert steps == 6


def test_numbers_of_numpy_train_the_same(capture: Capture, tmp_path: Path) -> None:
    config = replace(SMALL, iterations=2, seed=3)
    given = replace(config, iterations=np.int64(2), seed=np.int64(3), noise=np.float32(5e5))
    assert same(fit_gaussians(capture, given, state=tmp_path / "s"), fit_gaussians(capture, config))


def test_gaussians_are_trained_where_gradients_are_off(capture: Capture, tmp_path: Path) -> None:
    config, state = replace(SMALL, iterations=2), tmp_path / "s"
    with torch.no_grad():
        trained = fit_gaussians(capture, config, state=str(state))
    assert same(trained, fit_gaussians(capture, config)) and state.is_file()


def test_a_run_that_breaks_down_says_so(capture: Capture) -> None:
    with pytest.raises(ValueError, match="lower learning rates"):
        fit_gaussians(capture, replace(SMALL, log_scales_lr=1e4))


def test_what_cannot_be_trained_is_refused_with_a_remedy(capture: Capture) -> None:
    with pytest.raises(ValueError, match="add photos"):
        fit_gaussians(replace(capture, images=[], cameras=()), SMALL)
    with pytest.raises(ValueError, match="max_gaussians must be between"):
        replace(SMALL, max_gaussians=0)
    with pytest.raises(ValueError, match=r"max_gaussians must be a whole number, got 300\.0"):
        replace(SMALL, max_gaussians=3e2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed must be a whole number, got 300\.0"):
        replace(SMALL, seed=3e2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no photo to train on"):
        replace(SMALL, holdout_every=1)
    camera = replace(capture.cameras[0], viewmat=torch.full((4, 4), math.nan))
    with pytest.raises(ValueError, match="not finite"):
        fit_gaussians(replace(capture, cameras=(camera, *capture.cameras[1:])), SMALL)
    cut = [capture.images[0][:-1], *capture.images[1:]]
    with pytest.raises(
        ValueError, match=r"0.png has shape \[23, 28, 3\] .* load the capture again"
    ):
        fit_gaussians(replace(capture, images=cut), SMALL)
    with pytest.raises(ValueError, match="Every photo needs its camera, got 5 photos, 6 cameras"):
        fit_gaussians(replace(capture, images=capture.images[1:]), SMALL)
    floats = [image / 255 for image in capture.images]
    with pytest.raises(ValueError, match=r"must be uint8, 0 to 255, got float64, uint8: convert"):
        fit_gaussians(replace(capture, images=floats), SMALL)
    with pytest.raises(ValueError, match=r"must be uint8, 0 to 255, got float64, uint8: convert"):
        fit_gaussians(replace(capture, point_colors=capture.point_colors / 255), SMALL)
    tiny = tuple(camera.resized(8, 8) for camera in capture.cameras)
    images = [np.zeros((8, 8, 3), np.uint8)] * 6
    with pytest.raises(ValueError, match="use larger photos"):
        fit_gaussians(replace(capture, images=images, cameras=tiny), SMALL)
