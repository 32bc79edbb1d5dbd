"""Fit Gaussians to posed photos: L1 + SSIM, Adam, and densification as Markov-chain Monte Carlo.

In: a capture. Out: activated `Gaussians`; logs and logits of parameters exist only here, as
`log_scales` and `logit_opacities`. Densification follows "3D Gaussian Splatting as Markov Chain
Monte Carlo" (Kheradmand et al. 2024, arXiv 2404.09591): noise on the means, dead Gaussians moved
onto living ones, growth up to a ceiling; all it needs from the rasterizer is gradients. Schedules
are given as fractions of the run, so a short run has the shape of a long one.

Letters: N Gaussians, K SH bases, P points, H W pixels.

    gaussians = fit_gaussians(capture, TrainConfig(), state=Path("train.safetensors"))
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.capture import Capture
from langsplat.metrics import SSIM_WINDOW, psnr, ssim
from langsplat.progress import (
    Checkpoints,
    Progress,
    Saved,
    check_whole,
    digest_of,
    hold_python_numbers,
    silent,
    torch_threads,
)
from langsplat.rasterize import SH_C0, rasterize, render, rotate, sh_to_rgb
from langsplat.scene import NEAR, Camera, Gaussians

DEAD_OPACITY = 0.005
"""At or below this a Gaussian counts as dead (arXiv 2404.09591)."""

FEW_POINTS = 500
"""With fewer SfM points than this, random ones are added."""

USUAL_EXTENT = 20.0
"""World units: COLMAP's models and the bundled scenes are of this size or smaller."""

TRAINING = "Train Gaussians"
REPORT_SECONDS = 0.5
MAX_BAD_STEPS = 20
MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch.optim.Adam names them
STATE_FORMAT = "langsplat-training-3"


@dataclass(frozen=True)
class TrainConfig:
    """Everything besides the photos that decides the result.

    Learning rates are 3 to 6 times those of the 30,000-step recipes (Kerbl et al. 2023): a run of
    a few thousand steps must cover the same distance (measured: tests/benchmarks/NOTES.md).
    """

    iterations: int = 3000
    """Steps, one photo each."""
    max_gaussians: int = 30_000
    """N never exceeds this."""
    sh_degree: int = 2
    """Highest degree of the view-dependent color, 0 to 3."""
    sh_step: float = 0.1
    """The SH degree goes up by one each time this share of the run has passed."""
    half_resolution_until: float = 0.4
    """Share of the run that uses the photos at half size, which is four times as fast."""
    refine_every: int = 100
    """Steps between two rounds of relocation and growth."""
    refine_from: float = 0.05
    """Share of the run before the first such round."""
    refine_until: float = 0.85
    """Share of the run after which there is no relocation, growth or noise."""
    grow_until: float = 0.5
    """Share of the run at which N reaches its ceiling; until then it grows exponentially."""
    noise: float = 5e5
    """Strength of the noise on the means, times their learning rate (paper: 5e5); a world larger
    than USUAL_EXTENT gets the noise of one of that size."""
    ssim_weight: float = 0.2
    """The loss is (1 - this) L1 + this (1 - SSIM)."""
    opacity_reg: float = 0.01
    """Weight of the mean opacity in the loss (paper: 0.01)."""
    scale_reg: float = 0.01
    """Weight of the mean scale, in units of the scene's extent (paper: 0.01)."""
    init_opacity: float = 0.3
    """Opacity of the first Gaussians."""
    means_lr: float = 6.4e-4
    """Initial learning rate of the means, times the scene's extent."""
    means_lr_end: float = 6.4e-6
    """The final one; in between it falls exponentially."""
    log_scales_lr: float = 1.5e-2
    """Learning rate of the log-scales."""
    quats_lr: float = 3e-3
    """Learning rate of the rotations."""
    logit_opacities_lr: float = 5e-2
    """Learning rate of the opacities' logits."""
    sh_dc_lr: float = 7.5e-3
    """Learning rate of the constant part of the color."""
    sh_rest_lr: float = 7.5e-4
    """Learning rate of the view-dependent part of the color."""
    lr_end: float = 0.3
    """Factor on all other rates at the end of the run; it falls exponentially from 1."""
    holdout_every: int = 0
    """Keep every n-th photo (the first included) out of training; 0 = train on all."""
    time_limit: float | None = None
    """Seconds; schedules then follow the clock where it is ahead of the steps, and results vary."""
    seed: int = 0
    """Of the initialisation, the order of photos, the noise and the sampling."""

    def __post_init__(self) -> None:
        hold_python_numbers(self)
        for name, low, high in (
            ("iterations", 1, 1_000_000),
            ("max_gaussians", 1, 50_000_000),
            ("sh_degree", 0, 3),
            ("refine_every", 1, 1_000_000),
            ("holdout_every", 0, 1_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            check_whole(name, getattr(self, name))
            _check_range(name, getattr(self, name), low, high)
        for name in (
            "sh_step",
            "half_resolution_until",
            "refine_from",
            "refine_until",
            "grow_until",
            "ssim_weight",
            "lr_end",
        ):
            _check_range(name, getattr(self, name), 0, 1)
        for name in (
            "noise",
            "opacity_reg",
            "scale_reg",
            "means_lr",
            "means_lr_end",
            "log_scales_lr",
            "quats_lr",
            "logit_opacities_lr",
            "sh_dc_lr",
            "sh_rest_lr",
        ):
            _check_range(name, getattr(self, name), 0, math.inf)
        _check_range("init_opacity", self.init_opacity, 0.01, 0.99)
        if self.holdout_every == 1:
            raise ValueError("holdout_every = 1 leaves no photo to train on: use 0 or 2 and more.")
        if self.time_limit is not None:
            _check_range("time_limit", self.time_limit, 1e-3, math.inf)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}.")


def split_views(count: int, holdout_every: int) -> tuple[list[int], list[int]]:
    """Indices of the views to train on and of those held out (every n-th, the first included)."""
    held_out = range(0, count, holdout_every) if holdout_every > 1 else range(0)
    return [i for i in range(count) if i not in held_out], list(held_out)


def mean_psnr(gaussians: Gaussians, capture: Capture, views: Sequence[int]) -> float:
    """Mean PSNR in dB of the renders of these views against their photos.

    Raises:
        ValueError: there is no view.
    """
    if not views:
        raise ValueError("No view to measure: hold some photos out of training (holdout_every).")
    values = []
    with torch.no_grad():
        for i in views:
            image, _ = render(gaussians, capture.cameras[i].to(gaussians.device))
            photo = _tensor(capture.images[i]).to(gaussians.device).float() / 255
            values.append(float(psnr(image.clamp(0, 1), photo)))
    return sum(values) / len(values)


@torch.enable_grad()
def fit_gaussians(
    capture: Capture,
    config: TrainConfig = TrainConfig(),
    *,
    device: torch.device | str = "cpu",
    state: Path | str | None = None,
    progress: Progress = silent,
) -> Gaussians:
    """Train Gaussians on a capture.

    On the CPU the same capture, config and number of threads give the same result bit for bit,
    even if a run is interrupted and continues from `state`, unless there is a time limit.

    Args:
        capture: photos, their cameras, and SfM points (possibly none).
        device: where to train and where the result lives, "cpu" or "cuda".
        state: a checkpoint file, written every 20 s and at the end. If it is of the same capture
            and config, that run continues; otherwise it is overwritten.
        progress: called as ("Train Gaussians", step, steps, "loss ..., PSNR ..., N Gaussians").
    Returns:
        N <= config.max_gaussians activated Gaussians, K = (sh_degree + 1)^2, unit quaternions.
    Raises:
        ValueError: there are no photos to train on, photos are too small or not uint8, a photo and
            its camera differ in size, or training breaks down.
    """
    train_views, _ = split_views(len(capture.images), config.holdout_every)
    _check_capture(capture, train_views)
    trainer = _Trainer(capture, train_views, config, torch.device(device), torch.get_num_threads())
    checkpoints = Checkpoints(state, trainer.identity())
    with torch_threads(1):
        earlier = checkpoints.load(TRAINING, config.iterations, progress)
        if earlier is not None:
            trainer.resume(earlier)
        reported, finished = -math.inf, trainer.share >= 1
        while not finished:
            trainer.step()
            finished, now = trainer.share >= 1, time.monotonic()
            if finished or now - reported >= REPORT_SECONDS:
                reported = now
                done = config.iterations if finished else trainer.iteration
                progress(TRAINING, done, config.iterations, trainer.note())
            if finished or checkpoints.due:
                trainer.save(checkpoints)
        return trainer.gaussians()


def _check_capture(capture: Capture, train_views: Sequence[int]) -> None:
    if not train_views:
        raise ValueError("There is no photo to train on: add photos of the scene.")
    photos, cameras = len(capture.images), len(capture.cameras)
    if photos != cameras:
        raise ValueError(f"Every photo needs its camera, got {photos} photos, {cameras} cameras.")
    kinds = {str(array.dtype) for array in (*capture.images, capture.point_colors)}
    if not kinds <= {"uint8", "torch.uint8"}:  # in [0, 1] they would all be black
        raise ValueError(
            f"Photos and the points' colors must be uint8, 0 to 255, got {', '.join(sorted(kinds))}"
            ": convert them."
        )
    for image, camera in zip(capture.images, capture.cameras, strict=True):
        if image.shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"Photo {camera.name} has shape {list(image.shape)} but its camera is for "
                f"{camera.width} x {camera.height} RGB pixels: load the capture again."
            )
        if not bool(torch.isfinite(camera.viewmat).all() and torch.isfinite(camera.K).all()):
            raise ValueError(
                f"The camera of photo {camera.name} is not finite: leave the photo out."
            )
        if min(camera.width, camera.height) < SSIM_WINDOW:
            raise ValueError(
                f"Photo {camera.name} is {camera.width} x {camera.height} pixels; training needs "
                f"at least {SSIM_WINDOW} on each side: use larger photos."
            )


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))  # torch takes no negative strides


class _Trainer:
    """Parameters, optimiser and random state of one run."""

    def __init__(
        self,
        capture: Capture,
        train_views: Sequence[int],
        config: TrainConfig,
        device: torch.device,
        threads: int,
    ) -> None:
        self.config, self.device, self.threads = config, device, threads
        self.generator = torch.Generator().manual_seed(config.seed)
        self.cameras = [capture.cameras[i].to(device) for i in train_views]
        self.images = [_tensor(capture.images[i]).to(device) for i in train_views]
        self.positions = torch.stack([camera.position for camera in self.cameras])
        self.fingerprint = _fingerprint(capture, train_views)
        points = _tensor(capture.points).float().reshape(-1, 3)
        self.extent = _extent(self.positions.cpu(), points)
        self.near = min(NEAR, 0.1 * self.extent)  # else a world in kilometres would not be drawn
        self.order = torch.zeros(len(self.cameras), dtype=torch.int64)
        self.iteration, self.earlier_seconds, self.bad_steps = 0, 0.0, 0
        self.began = time.monotonic()
        self.last_loss = self.last_psnr = torch.tensor(math.nan)
        params = _initial_parameters(capture, train_views, config, self.extent, self.generator)
        self.first_count = len(params["means"])
        self._set_parameters(params)

    # --- where the run stands ---

    @property
    def seconds(self) -> float:
        """How long training has taken, including an interrupted run."""
        return self.earlier_seconds + time.monotonic() - self.began

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1 and beyond; all schedules follow it."""
        share = self.iteration / self.config.iterations
        if self.config.time_limit is not None:
            share = max(share, self.seconds / self.config.time_limit)
        return share

    def note(self) -> str:
        n = len(self.params["means"])
        return f"loss {self.last_loss:.3f}, PSNR {self.last_psnr:.1f} dB, {n:,} Gaussians"

    def gaussians(self) -> Gaussians:
        with torch.no_grad():
            p = {name: tensor.detach().clone() for name, tensor in self.params.items()}
            return Gaussians(
                means=p["means"],
                quats=F.normalize(p["quats"], dim=1),
                scales=p["log_scales"].exp(),
                opacities=p["logit_opacities"].sigmoid(),
                sh=torch.cat([p["sh_dc"], p["sh_rest"]], dim=1),
                near=self.near,
            )

    # --- one step ---

    def step(self) -> None:
        share, config = self.share, self.config
        turn = self.iteration % len(self.cameras)
        if turn == 0:
            self.order = torch.randperm(len(self.cameras), generator=self.generator)
        view = int(self.order[turn])
        self.iteration += 1
        loss = self._loss(view, share)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not self._finite(loss):
            self.bad_steps += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                raise ValueError(
                    f"Training broke down at step {self.iteration}: {MAX_BAD_STEPS} steps in a row "
                    "gave no finite loss. Check the capture's camera poses, or use lower learning "
                    "rates."
                )
            return
        self.bad_steps = 0
        means_lr = self._set_learning_rates(share)
        self.optimizer.step()
        with torch.no_grad():
            if share < config.refine_until:
                if share >= config.refine_from and self.iteration % config.refine_every == 0:
                    self._refine(share)
                self._add_noise(means_lr)

    def _loss(self, view: int, share: float) -> Tensor:
        config, p = self.config, self.params
        camera, photo = self._view(view, half=share < config.half_resolution_until)
        degree = self._degree(share)
        sh = torch.cat([p["sh_dc"], p["sh_rest"][:, : (degree + 1) ** 2 - 1]], dim=1)
        directions = p["means"].detach() - self.positions[view]
        scales, opacities = p["log_scales"].exp(), p["logit_opacities"].sigmoid()
        with torch_threads(self.threads):
            colors = sh_to_rgb(sh, directions, degree)
        colors = colors.clamp_min(0)  # a torch operation, so on its one thread
        with torch_threads(self.threads):
            images, _ = rasterize(
                p["means"],
                p["quats"],
                scales,
                opacities,
                colors,
                camera.viewmat[None],
                camera.K[None],
                camera.width,
                camera.height,
                near=self.near,
            )
        image = images[0]
        with torch.no_grad():
            self.last_psnr = psnr(image, photo)
        l1 = (image - photo).abs().mean()
        with torch_threads(self.threads):
            similarity = ssim(image, photo)
        loss = (1 - config.ssim_weight) * l1 + config.ssim_weight * (1 - similarity)
        self.last_loss = loss.detach()
        return (
            loss
            + config.opacity_reg * opacities.mean()
            + config.scale_reg * scales.mean() / self.extent
        )

    def _view(self, view: int, *, half: bool) -> tuple[Camera, Tensor]:
        camera = self.cameras[view]
        photo = self.images[view].float() / 255
        if half and min(camera.width, camera.height) >= 2 * SSIM_WINDOW:
            camera = camera.resized(camera.width // 2, camera.height // 2)
            planes = photo.permute(2, 0, 1)[None]
            small = F.interpolate(planes, size=(camera.height, camera.width), mode="area")
            photo = small[0].permute(1, 2, 0)
        return camera, photo

    def _degree(self, share: float) -> int:
        """The SH degree at this share of the run."""
        step = self.config.sh_step
        return self.config.sh_degree if step == 0 else min(int(share / step), self.config.sh_degree)

    def _finite(self, loss: Tensor) -> bool:
        # A sum is NaN or infinite as soon as one entry is.
        total = loss.detach() + sum(
            p.grad.sum() for p in self.params.values() if p.grad is not None
        )
        return bool(torch.isfinite(total))

    def _set_learning_rates(self, share: float) -> float:
        """Give every group its rate at this share of the run; returns that of the means."""
        config, share = self.config, min(share, 1.0)
        means_lr = self.extent * config.means_lr ** (1 - share) * config.means_lr_end**share
        for group in self.optimizer.param_groups:
            rate = getattr(config, f"{group['name']}_lr") * config.lr_end**share
            group["lr"] = means_lr if group["name"] == "means" else rate
        return means_lr

    # --- Markov-chain Monte Carlo (arXiv 2404.09591) ---

    def _add_noise(self, means_lr: float) -> None:
        """Shake the means of near-transparent Gaussians within their own shape."""
        p = self.params
        opacities = p["logit_opacities"].sigmoid()
        # A steep sigmoid: solid Gaussians stay, those about to die wander.
        weights = torch.sigmoid(100 * (DEAD_OPACITY - opacities))
        noise = torch.randn(len(opacities), 3, generator=self.generator).to(self.device)
        quats = F.normalize(p["quats"], dim=1)
        local = rotate(quats * quats.new_tensor([1, -1, -1, -1]), noise)
        shaped = rotate(quats, local * (2 * p["log_scales"]).exp())
        # The noise scales with an area: in millimetres it would throw Gaussians a million times as
        # far.
        strength = self.config.noise * means_lr * min(1.0, USUAL_EXTENT / self.extent) ** 2
        p["means"].add_(shaped * (weights * strength)[:, None])

    def _refine(self, share: float) -> None:
        """Move the dead onto the living, then add Gaussians up to the schedule's number."""
        opacities = self.params["logit_opacities"].sigmoid().cpu()
        dead = torch.nonzero(opacities <= DEAD_OPACITY)[:, 0]
        alive = opacities.clone()
        alive[dead] = 0
        if len(dead) and float(alive.sum()) > 0:
            self._share_out(_sample(alive, len(dead), self.generator), dead)
        missing = self._wanted(share) - len(opacities)
        if missing > 0:
            opacities = self.params["logit_opacities"].sigmoid().cpu()
            self._share_out(_sample(opacities, missing, self.generator), None)

    def _wanted(self, share: float) -> int:
        """N by the schedule: exponential growth from the first N to the ceiling."""
        config = self.config
        phase = max(config.grow_until - config.refine_from, 1e-9)
        part = min(max((share - config.refine_from) / phase, 0.0), 1.0)
        wanted = self.first_count ** (1 - part) * config.max_gaussians**part
        return min(round(wanted), config.max_gaussians)

    def _share_out(self, sources: Tensor, places: Tensor | None) -> None:
        """Split each source into itself and copies, put in `places`, or appended if that is None.

        `sources` [M] may repeat. Where one Gaussian becomes n, each gets the opacity and scales
        with which the n together look nearly as the one did (the paper's rule for relocation):
        o' = 1 - (1 - o)^(1/n), s' = s o / sum_j C(n, j) (-1)^(j-1) o'^j / sqrt(j).
        """
        params = {name: tensor.detach() for name, tensor in self.params.items()}
        unique, counts = torch.unique(sources, return_counts=True)
        opacities = params["logit_opacities"][unique].sigmoid().cpu()
        new_opacities, shrink = _split(opacities, counts + 1)
        unique = unique.to(self.device)
        params["logit_opacities"][unique] = torch.logit(new_opacities).to(self.device)
        params["log_scales"][unique] += shrink.log()[:, None].to(self.device)
        sources = sources.to(self.device)
        if places is None:
            grown = {name: torch.cat([t, t[sources]]) for name, t in params.items()}
        else:
            places = places.to(self.device)
            for tensor in params.values():
                tensor[places] = tensor[sources]
            grown = params
        moments = self._moments()
        for per_name in moments.values():
            for name, tensor in per_name.items():
                tensor[unique] = 0
                if places is None:
                    empty = tensor.new_zeros(len(sources), *tensor.shape[1:])
                    per_name[name] = torch.cat([tensor, empty])
                else:
                    tensor[places] = 0
        self._set_parameters(grown, moments, self._steps())

    # --- parameters and optimiser ---

    def _set_parameters(
        self,
        params: dict[str, Tensor],
        moments: dict[str, dict[str, Tensor]] | None = None,
        steps: float = 0.0,
    ) -> None:
        """Make these the parameters, with these Adam moments (None = a fresh optimiser)."""
        self.params = {
            name: tensor.to(self.device).contiguous().requires_grad_()
            for name, tensor in params.items()
        }
        groups = [{"params": [tensor], "name": name} for name, tensor in self.params.items()]
        self.optimizer = torch.optim.Adam(groups, lr=0.0, eps=1e-15, fused=True)
        for name, tensor in self.params.items():
            state = self.optimizer.state[tensor]
            state["step"] = torch.tensor(steps, device=self.device)
            for key in MOMENTS:
                own = torch.zeros_like(tensor) if moments is None else moments[key][name]
                state[key] = own.to(self.device)

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        return {
            key: {name: self.optimizer.state[p][key] for name, p in self.params.items()}
            for key in MOMENTS
        }

    def _steps(self) -> float:
        return float(self.optimizer.state[self.params["means"]]["step"])

    # --- checkpoints ---

    def save(self, checkpoints: Checkpoints) -> None:
        """Save everything the next step depends on."""
        tensors = {f"params.{name}": tensor for name, tensor in self.params.items()}
        for key, per_name in self._moments().items():
            tensors |= {f"{key}.{name}": tensor for name, tensor in per_name.items()}
        tensors |= {"generator": self.generator.get_state(), "order": self.order}
        checkpoints.save(tensors, self.iteration, steps=self._steps(), seconds=self.seconds)

    def resume(self, earlier: Saved) -> None:
        """Continue an earlier run from its checkpoint."""
        tensors, values = earlier.tensors, earlier.values
        groups: dict[str, dict[str, Tensor]] = {key: {} for key in ("params", *MOMENTS)}
        for key, tensor in tensors.items():
            group, _, name = key.partition(".")
            if name:
                groups[group][name] = tensor
        self._set_parameters(groups.pop("params"), groups, values["steps"])
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"]
        self.iteration = earlier.done
        self.earlier_seconds = values["seconds"]
        self.began = time.monotonic()

    def identity(self) -> dict[str, str]:
        """What decides the result."""
        config = json.dumps(asdict(self.config), sort_keys=True)
        return {"format": STATE_FORMAT, "config": config, "capture": self.fingerprint}


def _fingerprint(capture: Capture, train_views: Sequence[int]) -> str:
    """A hash of everything in a capture that training reads."""
    arrays = (*(capture.images[i] for i in train_views), capture.points, capture.point_colors)
    views = (t for i in train_views for t in (capture.cameras[i].viewmat, capture.cameras[i].K))
    return digest_of(*map(_tensor, arrays), *views)


def _sample(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` indices with replacement, in proportion to the weights [N] -> [count] int64."""
    # torch.multinomial takes at most 2^24 weights; a search in the cumulative sum takes any number.
    sums = weights.double().cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64) * sums[-1]
    return torch.searchsorted(sums, draws, right=True).clamp_max(len(weights) - 1)


def _split(opacities: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """New opacity [M] and factor on the scales [M] when a Gaussian becomes `counts` of them."""
    n = counts.clamp_max(50).double()
    old = opacities.double().clamp(1e-6, 1 - 1e-6)
    new = 1 - (1 - old) ** (1 / n)
    total = torch.zeros_like(old)
    # Terms alternate in sign and grow to C(50, j) o'^j: float64, binomials through their logs.
    for j in range(1, int(n.max()) + 1):
        binomial = torch.exp(
            torch.lgamma(n + 1) - math.lgamma(j + 1) - torch.lgamma((n - j + 1).clamp_min(1))
        )
        term = (-1) ** (j - 1) * binomial * new**j / math.sqrt(j)
        total += torch.where(n >= j, term, 0.0)
    new = new.clamp(DEAD_OPACITY, 1 - 1e-6)
    return new.float(), (old / total).float()


def _extent(positions: Tensor, points: Tensor) -> float:
    """The scene's size in world units: 1.1 x the reach of the cameras around their middle.

    It is at least a tenth of the median distance to the points, for cameras that hardly move.
    """
    middle = positions.mean(dim=0)
    extent = 1.1 * float((positions - middle).norm(dim=1).max())
    points = points[points.isfinite().all(dim=1)]
    if len(points):
        extent = max(extent, 0.1 * float((points - middle).norm(dim=1).median()))
    return extent if extent > 1e-6 else 1.0


def _initial_parameters(
    capture: Capture,
    train_views: Sequence[int],
    config: TrainConfig,
    extent: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Gaussians at the SfM points and, if these are few, at random in the frustums."""
    points = _tensor(capture.points).float().reshape(-1, 3)
    colors = _tensor(capture.point_colors).reshape(-1, 3).float() / 255
    good = torch.isfinite(points).all(dim=1)
    points, colors = points[good], colors[good]
    if len(points) > config.max_gaussians:
        keep = torch.randperm(len(points), generator=generator)[: config.max_gaussians]
        points, colors = points[keep], colors[keep]
    if len(points) < FEW_POINTS:
        count = min(max(config.max_gaussians // 3, FEW_POINTS), config.max_gaussians - len(points))
        more = _random_points(capture, train_views, count, extent, generator)
        points, colors = torch.cat([points, more[0]]), torch.cat([colors, more[1]])
    n, bases = len(points), (config.sh_degree + 1) ** 2
    spacing = _spacing(points).clamp(1e-4 * extent, extent)
    opacity = torch.logit(torch.tensor(config.init_opacity))
    return {
        "means": points,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        "log_scales": spacing.log()[:, None].repeat(1, 3),
        "logit_opacities": opacity.repeat(n),
        "sh_dc": ((colors - 0.5) / SH_C0)[:, None],
        "sh_rest": torch.zeros(n, bases - 1, 3),
    }


def _spacing(points: Tensor) -> Tensor:
    """Mean distance to the 3 nearest other points, [P]; 1 where there is no other."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return torch.ones(len(points))
    k = min(4, len(points))
    distances, _ = cKDTree(points.numpy()).query(points.numpy(), k=k)
    return torch.from_numpy(distances[:, 1:].mean(axis=1)).float()


def _random_points(
    capture: Capture,
    train_views: Sequence[int],
    count: int,
    extent: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Points [P, 3] in the cameras' frustums and the colors [P, 3] of the pixels they lie behind.

    Depths are log-uniform around that of the point nearest to all optical axes.
    """
    cameras = [capture.cameras[i].to("cpu") for i in train_views]
    positions = torch.stack([camera.position for camera in cameras])
    axes = torch.stack([camera.viewmat[2, :3] for camera in cameras])
    # The squared distance to a line is |P (x - position)|² with P = I - axis axisᵀ. A weak pull
    # to a point in front of the cameras decides if all axes are parallel.
    project = torch.eye(3) - axes[:, :, None] * axes[:, None, :]
    ahead = positions.mean(dim=0) + extent * axes.mean(dim=0)
    matrix = project.mean(dim=0) + 1e-3 * torch.eye(3)
    right = (project @ positions[:, :, None])[:, :, 0].mean(dim=0) + 1e-3 * ahead
    focus = torch.linalg.solve(matrix, right)
    depths = ((focus - positions) * axes).sum(dim=1).clamp_min(0.3 * extent)
    chosen = torch.randint(len(cameras), (count,), generator=generator)
    uniform = torch.rand(count, 3, generator=generator)
    points, colors = torch.empty(count, 3), torch.empty(count, 3)
    for i, camera in enumerate(cameras):
        rows = torch.nonzero(chosen == i)[:, 0]
        pixels = uniform[rows, :2] * torch.tensor([camera.width, camera.height])
        depth = depths[i] * torch.exp(math.log(0.4) + math.log(5.0) * uniform[rows, 2])
        rays = torch.cat([pixels, torch.ones(len(rows), 1)], dim=1) @ torch.linalg.inv(camera.K).T
        local = rays * depth[:, None]
        points[rows] = local @ camera.viewmat[:3, :3] + camera.position
        x, y = pixels.long().unbind(dim=1)
        colors[rows] = _tensor(capture.images[train_views[i]])[y, x].float() / 255
    return points, colors
