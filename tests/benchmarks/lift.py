"""Lifting instead of training: how good, how much faster, and the whole stage's seconds."""

import os
import time

from langsplat.encoders import load_encoder
from langsplat.evaluate import evaluate
from langsplat.hub import bundled_scenes
from langsplat.language import fit_language, lift_language
from langsplat.progress import terminal_progress
from tests.benchmarks.ablation import (
    CODEWORDS,
    PAPER,
    TRAINED_WIDTH,
    WORK,
    by_the_papers_schedule,
    described,
    fitted_autoencoder,
    ideal,
    measured,
    of_field,
)
from tests.benchmarks.accuracy import FOLDER, PROFILE
from tests.benchmarks.rows import Row, row

VIEWS, WIDTH = 90, 336
STAGE_BAR = 60.0  # seconds on two cores
POINTS_BAR = -1.0  # of mIoU, lifted minus trained
SPEED_BAR = 100.0


def run(device: str = "cpu") -> list[Row]:
    """The stage on a bundled scene; lifted latents and 30,000 steps on the held-out world.

    The last two use the ideal source (see the benchmark `ablation`) and one autoencoder, which is
    not counted, on pictures of TRAINED_WIDTH pixels. A training that was stopped is resumed.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    return [*_stage(), *_lifted_and_trained()]


def _stage() -> list[Row]:
    """Codebook and lifting. There are fewer views, so they are repeated: the time is the same."""
    name = next(name for name in bundled_scenes() if (FOLDER / name / "labels.json").is_file())
    encoder, show = load_encoder("bundled"), terminal_progress()
    source = described(name, bundled_scenes()[name], FOLDER / name, encoder, show).at_width(WIDTH)
    views = [k % len(source.cameras) for k in range(VIEWS)]
    cameras = [source.cameras[k] for k in views]
    features = [source.features[k] for k in views]
    g = source.gaussians
    fit_language(g, cameras[:1], features[:1], encoder.name, codewords=2)  # compiles the kernels
    worked, began = time.process_time(), time.perf_counter()
    fit_language(g, cameras, features, encoder.name, codewords=CODEWORDS)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    title = f"language stage, {VIEWS} views {WIDTH} px, {len(g):,} Gaussians, {CODEWORDS} codewords"
    return [
        row(title, seconds, "s", bar=STAGE_BAR, higher_is_better=False),
        row(f"{title}: work", worked, "s of one core"),
        row("other programs' load meanwhile", os.getloadavg()[0], ""),
    ]


def _lifted_and_trained() -> list[Row]:
    source, show = ideal(), terminal_progress()
    codec = fitted_autoencoder(source, show)
    g, name = source.gaussians, source.encoder.name
    whole, *cost = measured(lambda: lift_language(g, source.cameras, source.features, name, codec))
    (lifted, lifting), (trained, training) = by_the_papers_schedule(source, codec, show)
    small = source.at_width(TRAINED_WIDTH)
    codes, *coding = measured(
        lambda: fit_language(g, small.cameras, small.features, name, codewords=CODEWORDS)
    )
    fields = {"large": whole, "lifted": lifted, "trained": trained, "codes": codes}
    iou = {key: _iou(source, field) for key, field in fields.items()}
    steps = training[0] - lifting[0]
    return [
        row("lifted latents, pictures of 400 px: mIoU", iou["large"], "%"),
        row("lifted latents, pictures of 400 px: time", cost[0], "s"),
        row(f"lifted latents, pictures of {TRAINED_WIDTH} px: mIoU", iou["lifted"], "%"),
        row(f"the same, then {PAPER:,} steps: mIoU", iou["trained"], "%"),
        row("lifted latents less trained ones", iou["lifted"] - iou["trained"], "points"),
        row(f"lifted codes of a codebook, {TRAINED_WIDTH} px: mIoU", iou["codes"], "%"),
        row(
            "lifted codes less trained latents",
            iou["codes"] - iou["trained"],
            "points",
            bar=POINTS_BAR,
        ),
        row(f"{PAPER:,} steps on pictures of {TRAINED_WIDTH} px", steps, "s"),
        row("lifting latents is faster", steps / lifting[0], "x"),
        row("codebook and lifting of codes are faster", steps / coding[0], "x", bar=SPEED_BAR),
    ]


def _iou(source, field) -> float:  # type: ignore[no-untyped-def]
    means = evaluate(of_field(source, field), source.labels, PROFILE).micro
    return 100 * float(means["iou"])
