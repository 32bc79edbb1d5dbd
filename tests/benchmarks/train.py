"""Training on a real capture, on two cores: steps per second, held-out PSNR within ten minutes."""

import time
from dataclasses import replace

import torch

from langsplat.capture import load_capture
from langsplat.train import TrainConfig, fit_gaussians, mean_psnr, split_views
from tests.benchmarks.rows import Row, row
from tests.conftest import real_data

LONG_SIDE = 336
MINUTES = 10
SPEED_BAR = 3.5
PSNR_BAR = 25.0


def run(device: str = "cpu") -> list[Row]:
    """snowmiku_small at 336 x 252, every 8th photo held out, 25-30k Gaussians.

    The rate is that of the slowest part of the run, all photos at full size and N at its ceiling,
    and of the whole run beside it.
    """
    torch.set_num_threads(2)
    capture = load_capture(real_data("snowmiku_small"), max_side=LONG_SIDE)
    config = replace(TrainConfig.preset("normal"), holdout_every=8)
    began = time.perf_counter()
    times: list[tuple[int, float]] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        times.append((done, time.perf_counter() - began))

    gaussians = fit_gaussians(capture, config, device=device, progress=progress)
    seconds = time.perf_counter() - began
    late = [entry for entry in times if entry[0] >= 0.6 * config.iterations]
    full_rate = (late[-1][0] - late[0][0]) / (late[-1][1] - late[0][1])
    held_out = mean_psnr(gaussians, capture, split_views(len(capture.images), 8)[1])
    in_time = seconds <= 60 * MINUTES
    name = f"train snowmiku_small {LONG_SIDE} px, {len(gaussians):,} Gaussians"
    return [
        row(f"{name}: full size", full_rate, "iterations/s", bar=SPEED_BAR),
        row(f"{name}: whole run", config.iterations / seconds, "iterations/s"),
        row(f"{name}: time", seconds, "s", bar=60 * MINUTES, higher_is_better=False),
        row(f"{name}: held-out PSNR", held_out if in_time else 0.0, "dB", bar=PSNR_BAR),
    ]
