"""The paper's ablation on ground truth: levels, and how a Gaussian stores what it means.

The scenes are rendered worlds of this project, with labels in the layout of LERF-OVS for frames
that no training saw; the profile is langsplat-v1. Every row makes a field from the same segments
and is evaluated as in the paper: render, decode, score. Writes docs/ablation.md.

There are two sources of segments: the bundled segmenter and encoder, on the scene's own renders;
and, for the held-out world, its true segments, described by an ideal encoder that knows all names.
The latter excludes all that the bundled parts misunderstand, and does not change when they do.

The paper's 30,000 steps are run on the ideal source, on pictures of TRAINED_WIDTH pixels, since at
full size they take hours; checkpoints in results/ablation let a stopped run be resumed.
"""

import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from langsplat.build import _describe
from langsplat.codec import Autoencoder, AutoencoderConfig, Codebook, fit_autoencoder
from langsplat.encoders import Encoder, load_encoder
from langsplat.evaluate import (
    MIN_PIXELS,
    Labels,
    Renders,
    evaluate,
    read_labels,
    world_queries,
    write_lerf_labels,
)
from langsplat.features import SegmentFeatures
from langsplat.hub import bundled_scenes
from langsplat.language import (
    KEPT,
    LanguageTraining,
    fit_language,
    lift_language,
    train_language,
)
from langsplat.masks import load_segmenter
from langsplat.progress import Progress, digest_of, terminal_progress
from langsplat.query import MIN_SUPPORT, NEGATIVES, SHARPNESS, SceneQuery, render_rgb
from langsplat.rasterize import lift_labels, render
from langsplat.scene import LEVELS, Camera, Gaussians, LanguageField, Scene, load_scene
from tests.benchmarks.accuracy import HELD_OUT, PROFILE, _colored, _labels
from tests.benchmarks.markdown import machine, today
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

REPORT = ROOT / "docs" / "ablation.md"
WORK = ROOT / "results" / "ablation"
CODEWORDS = 256  # as in the bundled scenes
SHORT = 1000  # steps
PAPER = 30_000
TRAINED_WIDTH = 100  # pixels, for the paper's schedule
SMALLEST = 24  # pixels of a true part, at least
RAW_CHANNELS = 128  # of the raw embeddings that are drawn at once
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Source:
    """Segments of a scene's training views, and labels of the others."""

    name: str
    scene: Scene
    cameras: Sequence[Camera]
    features: Sequence[SegmentFeatures]
    labels: Labels
    encoder: Encoder

    @property
    def gaussians(self) -> Gaussians:
        return self.scene.gaussians

    def at_width(self, width: int) -> "Source":
        """The same with smaller pictures, their segments by nearest neighbour."""
        cameras = [camera.resized(width) for camera in self.cameras]
        features = [
            SegmentFeatures(_nearest(view.segments, camera), view.embeddings)
            for view, camera in zip(self.features, cameras, strict=True)
        ]
        return replace(self, cameras=cameras, features=features)

    def level(self, level: int) -> list[SegmentFeatures]:
        """One level alone."""
        return [
            SegmentFeatures(view.segments[level : level + 1], [view.embeddings[level]])
            for view in self.features
        ]


def _nearest(maps: np.ndarray, camera: Camera) -> np.ndarray:
    height, width = maps.shape[1:]
    rows = ((np.arange(camera.height) + 0.5) * height / camera.height).astype(int)
    columns = ((np.arange(camera.width) + 0.5) * width / camera.width).astype(int)
    return maps[:, rows[:, None], columns]


# ---------------------------------------------------------------------------- sources


class Ideal:
    """Gives every text a direction of its own, nearly orthogonal to all others.

    It cannot look at pictures: what a segment is must be said in words.
    """

    name = "ideal"
    dim = 512  # as in the paper
    image_size = 1

    def encode_images(self, images: np.ndarray) -> Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), self.dim)
        for direction, text in zip(rows, texts, strict=True):
            seed = int(digest_of(text)[:15], 16)
            torch.randn(self.dim, generator=torch.Generator().manual_seed(seed), out=direction)
        return F.normalize(rows, dim=1)


def ideal() -> Source:
    """The held-out world: true segments, each embedded as the mean of the texts that mean it."""
    encoder = Ideal()
    scene = load_scene(HELD_OUT / "scene")
    entries = json.loads((HELD_OUT / "labels.json").read_text())["labels"]
    queries = _colored(entries, HELD_OUT) | world_queries(entries)
    count = max(int(entry["index"]) for entry in entries) + 1
    owner = np.full(count, -1)
    rooms = {name: k for k, name in enumerate(sorted({str(e["object"]) for e in entries}))}
    for entry in entries:
        owner[entry["index"]] = entry["instance"] or 500 + rooms[str(entry["object"])]
    labelled = {file.stem for file in HELD_OUT.glob("*.png")}
    cameras, features = [], []
    said: dict[frozenset[int], Tensor] = {}

    def embedding(indices: frozenset[int]) -> Tensor:
        if indices not in said:
            texts = [q for q, meant in queries.items() if any(indices <= set(m) for m in meant)]
            # A part takes only names of its own; "mug" is left to the whole.
            parts = [text for text in texts if " of the " in text]
            said[indices] = F.normalize(encoder.encode_texts(parts or texts).mean(0), dim=0)
        return said[indices]

    for camera in scene.cameras:
        name = Path(camera.name).stem
        if name in labelled:
            continue
        with Image.open(HELD_OUT / "others" / f"{name}.png") as picture:
            indices = np.asarray(picture).astype(np.int64)
        maps, rows = [], []
        for ids, smallest in (
            (np.where(indices > 0, indices, -1), SMALLEST),
            (owner[indices], MIN_PIXELS),
        ):
            old, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
            keep = (old >= 0) & (sizes >= smallest)
            new = np.where(keep, np.cumsum(keep) - 1, -1)
            maps.append(new[inverse].reshape(ids.shape).astype(np.int32))
            members = [frozenset(np.unique(indices[ids == k]).tolist()) for k in old[keep]]
            whole = [frozenset(np.flatnonzero(owner == k).tolist()) for k in old[keep]]
            groups = members if smallest == SMALLEST else whole
            rows.append(torch.stack([embedding(group) for group in groups]))
        cameras.append(camera)
        order = (0, 0, 1)  # a world has no names for anything smaller than parts
        segments = np.stack([maps[k] for k in order])
        features.append(SegmentFeatures(segments, [rows[k] for k in order]))
    name = "held-out world, true segments, ideal encoder"
    return Source(name, scene, cameras, features, _in_lerf_layout(HELD_OUT), encoder)


def described(name: str, folder: Path, labels: Path, encoder: Encoder, show: Progress) -> Source:
    """A scene's training views as the bundled segmenter and encoder see them, from its renders."""
    scene = load_scene(folder)
    found = _in_lerf_layout(labels)
    held_out = {Path(frame.name).stem for frame in found.frames}
    views = [i for i, c in enumerate(scene.cameras) if Path(c.name).stem not in held_out]
    segmenter = load_segmenter("bundled")
    key = digest_of(segmenter.name, encoder.name, scene.gaussians.means)[:12]
    kept = WORK / f"features-{key}"
    kept.mkdir(parents=True, exist_ok=True)
    features = _describe(
        scene.cameras,
        lambda view: render_rgb(scene, scene.cameras[view]),
        views,
        scene.gaussians,
        segmenter,
        encoder,
        kept,
        show,
    )
    cameras = [scene.cameras[view] for view in views]
    return Source(name, scene, cameras, list(features), found, encoder)


def _in_lerf_layout(folder: Path) -> Labels:
    """Labels written in the layout of LERF-OVS and read again."""
    with tempfile.TemporaryDirectory() as work:
        labels = _labels(folder)
        write_lerf_labels(labels, Path(work) / labels.name)
        return read_labels(Path(work) / labels.name)


# ---------------------------------------------------------------------------- fields, evaluated


class Painted:
    """A field's relevancy maps as the paper defines them: render numbers, decode, score."""

    held_out: Collection[int] = ()

    def __init__(
        self,
        source: Source,
        values: Sequence[Tensor],  # for each level [N, D], zeros where no view saw a Gaussian
        decode: Callable[[Tensor, Tensor], Tensor],  # [P, D], texts [T, E] -> cosines [P, T]
    ) -> None:
        self.name, self.levels = source.scene.name, LEVELS[: len(values)]
        self.names = [camera.name for camera in source.scene.cameras]
        self._source, self._values, self._decode = source, values, decode

    def size(self, index: int) -> tuple[int, int]:
        camera = self._source.scene.cameras[index]
        return camera.width, camera.height

    def relevancy(self, index: int, texts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        camera = self._source.scene.cameras[index].resized(*size)
        embeddings = self._source.encoder.encode_texts([*texts, *NEGATIVES])
        out = np.zeros((len(texts), len(self.levels), camera.height, camera.width), np.float32)
        for level, values in enumerate(self._values):
            seen_by = (values != 0).any(dim=1, keepdim=True).float()
            parts = torch.cat([values, seen_by], dim=1).split(RAW_CHANNELS, dim=1)
            drawn = [render(self._source.gaussians, camera, part.contiguous())[0] for part in parts]
            image = torch.cat(drawn, dim=2)
            seen = image[..., -1] > MIN_SUPPORT
            cosines = self._decode(image[seen][:, :-1], embeddings)
            margin = cosines[:, : len(texts)] - cosines[:, len(texts) :].amax(1, keepdim=True)
            out[:, level, seen.numpy()] = torch.sigmoid(SHARPNESS * margin).T.numpy()
        return out


def of_field(source: Source, field: LanguageField) -> Renders | SceneQuery:
    """What `evaluate` asks: latents are decoded, a codebook answers as it does for users."""
    codec = field.codec
    if isinstance(codec, Autoencoder):
        values = [field.values(level) for level in range(len(field.levels))]
        return Painted(source, values, codec.cosines)
    # Parts are not held to things, as in the papers, since this compares fields.
    scene = replace(source.scene, language=field)
    return SceneQuery(scene, source.encoder, near_things=False)


def lift_raw(source: Source) -> list[Tensor]:
    """For each level [N, E], the blending-weighted mean of the embeddings themselves."""
    n, e = len(source.gaussians), source.features[0].embeddings[0].shape[1]
    sums = [torch.zeros(n, e) for _ in LEVELS]
    for camera, view in zip(source.cameras, source.features, strict=True):
        # A segment is a label: its weights times its embedding, without a picture of E channels.
        counts = [len(rows) for rows in view.embeddings]
        firsts = [sum(counts[:level]) for level in range(len(counts))]
        labels = [
            np.where(ids >= 0, ids + first, -1)
            for ids, first in zip(view.segments, firsts, strict=True)
        ]
        together = torch.from_numpy(np.stack(labels, axis=2))
        weights = lift_labels(source.gaussians, camera, together, sum(counts))  # [N, segments]
        for level, part in enumerate(weights.split(counts, dim=1)):
            sums[level].addmm_(part, view.embeddings[level])
    return [F.normalize(total, dim=1) for total in sums]


def _unit_cosines(features: Tensor, texts: Tensor) -> Tensor:
    return F.normalize(features, dim=1) @ texts.T


@dataclass(frozen=True)
class Result:
    """A row of the table: percent, seconds to make the codes, megabytes above those used before."""

    name: str
    iou: float
    accuracy: float
    seconds: float
    memory: float
    numbers: float  # stored per Gaussian
    note: str = ""


def measured(make: Callable[[], Made]) -> tuple[Made, float, float]:
    """What was made, its seconds, and the peak of memory above what was in use before, in MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    began = time.perf_counter()
    made = make()
    seconds = time.perf_counter() - began
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return made, seconds, max(0.0, peak - before) / 1e6


def scored(
    name: str,
    source: Source,
    renders: Renders | SceneQuery,
    seconds: float,
    memory: float,
    numbers: float,
    note: str = "",
) -> Result:
    means = evaluate(renders, source.labels, PROFILE).micro
    return Result(name, 100 * means["iou"], 100 * means["accuracy"], seconds, memory, numbers, note)


def results(source: Source, *, paper: bool, show: Progress) -> Iterator[Result]:
    """Every row for one source of segments; `paper`: also the paper's 30,000 steps."""
    g, name = source.gaussians, source.encoder.name
    alone = [replace(source, features=source.level(level)) for level in range(len(LEVELS))]
    lift_language(g, alone[0].cameras[:1], alone[0].features[:1], name, _any_codebook(source))

    def lifted_codebook(of: Source) -> LanguageField:
        return fit_language(g, of.cameras, of.features, name, codewords=CODEWORDS)

    for level, of in zip(LEVELS, alone, strict=True):
        field, *cost = measured(lambda of=of: lifted_codebook(of))  # type: ignore[misc]
        yield scored(f"codebook, {level} alone", source, of_field(source, field), *cost, 2 * KEPT)
    field, *cost = measured(lambda: lifted_codebook(source))
    yield scored("codebook, three levels", source, of_field(source, field), *cost, 6 * KEPT)

    raw, *cost = measured(lambda: lift_raw(source))
    painted = Painted(source, raw, _unit_cosines)
    yield scored("raw embeddings, lifted", source, painted, *cost, sum(v.shape[1] for v in raw))

    codec, fitting, peak = measured(lambda: fitted_autoencoder(source, show))
    made = f"{fitting:.0f} s of it the autoencoder's"

    def latents(what: str, field: LanguageField, cost: Sequence[float], note: str = "") -> Result:
        seconds, memory = fitting + cost[0], max(peak, cost[1])
        notes = "; ".join(part for part in (made, note) if part)
        return scored(what, source, of_field(source, field), seconds, memory, 9, notes)

    field, *lifting = measured(
        lambda: lift_language(g, source.cameras, source.features, name, codec)
    )
    yield latents("autoencoder, lifted", field, lifting)
    steps = LanguageTraining(steps=SHORT)
    trained, *cost = measured(
        lambda: train_language(field, g, source.cameras, source.features, steps, progress=show)
    )
    cost[0] += lifting[0]
    yield latents(f"autoencoder, lifted and {SHORT:,} steps", trained, cost)
    if paper:
        one, other = by_the_papers_schedule(source, codec, show)
        size = f"pictures of {TRAINED_WIDTH} pixels"
        yield latents("autoencoder, lifted from small pictures", *one, size)
        yield latents(f"autoencoder, {PAPER:,} steps on them", *other, size)


def _any_codebook(source: Source) -> Codebook:
    """A meaningless one, for the first call of the kernels, which compiles them, unmeasured."""
    rows = next(rows for rows in source.features[0].embeddings if len(rows))
    return Codebook(rows[None, :1])


def fitted_autoencoder(source: Source, show: Progress) -> Autoencoder:
    """The paper's autoencoder, fitted to all levels and views."""
    rows = torch.cat([rows for view in source.features for rows in view.embeddings])
    return fit_autoencoder(rows, AutoencoderConfig(), progress=show)[0]


def by_the_papers_schedule(
    source: Source, codec: Autoencoder, show: Progress
) -> list[tuple[LanguageField, list[float]]]:
    """A field lifted from small pictures, and one trained on them, with seconds and megabytes.

    A training that was stopped is resumed. Its seconds are those of all steps, at the pace of the
    steps made now, or at the pace of an earlier run if all were made then.
    """
    small = source.at_width(TRAINED_WIDTH)
    g, name = source.gaussians, source.encoder.name
    field, *lifting = measured(lambda: lift_language(g, small.cameras, small.features, name, codec))
    state = WORK / f"paper-{digest_of(field.codes, field.mass)[:12]}.state"
    paces = state.with_suffix(".json")
    told: list[tuple[int, float]] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        told[1:] = []  # the first report of this run and the last one are enough
        told.append((done, time.perf_counter()))
        show(stage, done, total, note)

    schedule = LanguageTraining(steps=PAPER)
    trained, _, memory = measured(
        lambda: train_language(
            field, g, small.cameras, small.features, schedule, state=state, progress=progress
        )
    )
    if len(told) > 1 and told[-1][0] - told[0][0] > 100:
        pace = (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])
        paces.write_text(json.dumps({"seconds": pace * PAPER, "memory": memory}))
    cost = json.loads(paces.read_text())
    return [(field, lifting), (trained, [lifting[0] + cost["seconds"], cost["memory"]])]


# ---------------------------------------------------------------------------- the report


def sources(encoder: Encoder, show: Progress) -> Iterator[Source]:
    yield ideal()
    yield described("held-out world", HELD_OUT / "scene", HELD_OUT, encoder, show)
    for name, folder in bundled_scenes().items():
        labels = HELD_OUT.parent / name
        if (labels / "labels.json").is_file():
            yield described(name, folder, labels, encoder, show)


def run(device: str = "cpu") -> list[Row]:
    """Takes some minutes per source, and the paper's 30,000 steps for one of them."""
    show = terminal_progress()
    encoder = load_encoder("bundled")
    WORK.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Result]] = {}
    about: dict[str, str] = {}
    for number, source in enumerate(sources(encoder, show)):
        tables[source.name] = []
        width, height = source.cameras[0].width, source.cameras[0].height
        about[source.name] = (
            f"{len(source.cameras)} training views of {width}x{height}, {len(source.gaussians):,} "
            f"Gaussians, embeddings of {source.encoder.dim} numbers, "
            f"{len(source.labels.frames)} labelled frames."
        )
        for result in results(source, paper=number == 0, show=show):
            tables[source.name].append(result)
            write(tables, about)
    return [
        line
        for name, table in tables.items()
        for result in table
        for line in (
            row(f"ablation: {name}: {result.name}, mIoU", result.iou, "%"),
            row(f"ablation: {name}: {result.name}, localisation", result.accuracy, "%"),
            row(f"ablation: {name}: {result.name}, time", result.seconds, "s"),
            row(f"ablation: {name}: {result.name}, memory", result.memory, "MB"),
        )
    ]


def write(tables: Mapping[str, Sequence[Result]], about: Mapping[str, str]) -> None:
    """docs/ablation.md."""
    lines = [
        "# The paper's ablation, repeated",
        "",
        "Compared are the three levels, and ways to store what a Gaussian means, on rendered",
        "worlds with exact labels in the layout of LERF-OVS, on frames that no training saw;",
        f"profile `{PROFILE}`, means over queries. Every row renders, decodes and scores. Written",
        f"by `python -m tests.benchmarks ablation` on {today()}, on",
        f"{machine('cpu')}.",
        "",
        "The *ideal encoder* gives every text a direction of its own, and a true segment the mean",
        "of the texts that mean it, so all errors are the language field's. The other tables use",
        "the bundled segmenter and encoder, on the scene's own renders.",
        "",
        "Seconds and memory are for making codes from ready segments (codec, lifting, training);",
        "memory is the peak above what was in use before. *Numbers* is how many a Gaussian stores",
        f"at all levels together. A codebook has {CODEWORDS} codewords per level; a Gaussian",
        f"keeps {KEPT} of them.",
    ]
    for name, table in tables.items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", about[name], ""]
        lines += ["| | mIoU | localisation | seconds | memory, MB | numbers | |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r.name} | {r.iou:.1f} | {r.accuracy:.1f} | {r.seconds:,.1f} | {r.memory:,.0f} "
            f"| {r.numbers:.0f} | {r.note} |"
            for r in table
        ]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
