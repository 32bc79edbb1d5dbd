"""What the bundled parts understand: the bundled scenes and a held-out world against their labels.

The labelled views were kept out of every training, of the Gaussians and of the language. Writes
the tables to docs/accuracy.md and pictures of the worst queries to docs/misses.jpg.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from langsplat.encoders import Encoder, load_encoder
from langsplat.evaluate import (
    MIN_PIXELS,
    PIXEL_PROFILES,
    LabelledObject,
    Labels,
    Report,
    evaluate,
    predict,
    read_labels,
)
from langsplat.features import embed_segments
from langsplat.hub import bundled_scenes
from langsplat.language import fit_language
from langsplat.query import SceneQuery, half_smoothed, render_rgb
from langsplat.scene import Camera, Scene, load_scene
from tests.benchmarks.markdown import machine, today
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "data"
HELD_OUT = FOLDER / "heldout"
WORDS = FOLDER / "words.json"
REPORT = ROOT / "docs" / "accuracy.md"
MISSES = ROOT / "docs" / "misses.jpg"
WORST = 20
PROFILE = "langsplat-v1"
COLORS = set("red orange yellow green turquoise blue purple pink brown white grey black".split())
# A thing that is asked for and shown at least this large must be found.
EASY_PIXELS = 200
PART_SHARE = 1 / 500  # of the view; smaller parts are not asked for
# Parts that are nearly the thing itself and that nobody asks for.
PLAIN = {"body", "case", "box", "walls", "dough", "top", "boards", "wall", "floor", "rug"}


def run(device: str = "cpu") -> list[Row]:
    encoder = load_encoder("bundled", device=device)
    words = json.loads(WORDS.read_text())
    bundled = {
        name: (SceneQuery(load_scene(folder), encoder), _labels(FOLDER / name))
        for name, folder in bundled_scenes().items()
        if (FOLDER / name / "labels.json").is_file()
    }
    report = Report.joined(evaluate(engine, labels, PROFILE) for engine, labels in bundled.values())
    plain = Report.joined(
        evaluate(SceneQuery(engine.scene, encoder, near_things=False), labels, PROFILE)
        for engine, labels in bundled.values()
    )
    every = {name: read_labels(FOLDER / name) for name in bundled}
    asked_all = Report.joined(
        evaluate(bundled[name][0], labels, PROFILE) for name, labels in every.items()
    )
    published = Report.joined(
        evaluate(
            SceneQuery(bundled[name][0].scene, encoder, as_published=True, near_things=False),
            labels,
            PROFILE,
        )
        for name, labels in every.items()
    )
    scene = load_scene(HELD_OUT / "scene")
    labels = _labels(HELD_OUT)
    world = evaluate(SceneQuery(scene, encoder), labels, PROFILE)
    true = with_true_segments(scene, encoder)
    segments = evaluate(SceneQuery(true, encoder), labels, PROFILE)

    others: list[tuple[str, str, bool]] = []
    absent: list[tuple[str, bool]] = []
    present: list[tuple[str, bool]] = []
    for name, (engine, shown) in {
        **bundled,
        labels.name: (SceneQuery(scene, encoder), labels),
    }.items():
        things = _things(FOLDER / name if name in bundled else HELD_OUT)
        known = {word: kind for word, kind in words["other_names"].items() if kind in things}
        others += [(name, word, hit) for word, hit in _peaks(engine, shown, known)]
        strange = [kind for kind in words["kinds"] if kind not in things]
        absent += _found(engine, shown, dict.fromkeys(strange, ""))
        present += _found(engine, shown, {kind: kind for kind in sorted(things)})
    text, crop = _pace(encoder)
    share = lambda values: 100 * float(np.mean(list(values)))  # noqa: E731
    rows = [
        row("accuracy: bundled scenes, queries", _texts(report), "", bar=90),
        *_rows("bundled scenes", report, 60, 90),
        *_rows("bundled scenes, parts not held to their things", plain, None, None),
        *_rows(f"bundled scenes, all {_texts(asked_all)} texts", asked_all, None, None),
        *_rows("bundled scenes, the same as `langsplat eval` asks", published, None, None),
        *_rows("held-out world", world, 50, 80),
        *_rows("held-out world, true segments", segments, 65, None),
        row(
            f"accuracy: localisation by {len({w for _, w, _ in others})} other names",
            share(hit for _, _, hit in others),
            "%",
            bar=70,
        ),
        row(
            f"accuracy: empty masks for absent things ({len(absent)})",
            share(not found for _, found in absent),
            "%",
            bar=90,
        ),
        row(
            f"accuracy: masks not empty for things of {EASY_PIXELS} pixels ({len(present)})",
            share(found for _, found in present),
            "%",
            bar=85,
        ),
        row("accuracy: a text", text, "ms", bar=10, higher_is_better=False),
        row("accuracy: a crop", crop, "ms", bar=3, higher_is_better=False),
    ]
    engines = {**bundled, labels.name: (SceneQuery(scene, encoder), labels)}
    worst = _worst(Report.joined([report, world]), engines)
    _write(rows, report, plain, world, segments, others, absent, worst)
    return rows


def _rows(name: str, report: Report, iou: float | None, accuracy: float | None) -> list[Row]:
    macro, micro = report.macro, report.micro
    return [
        row(f"accuracy: {name}, mIoU, scene macro", 100 * macro["iou"], "%", bar=iou),
        row(f"accuracy: {name}, mIoU, query micro", 100 * micro["iou"], "%", bar=iou),
        row(f"accuracy: {name}, localisation, macro", 100 * macro["accuracy"], "%", bar=accuracy),
        row(f"accuracy: {name}, localisation, micro", 100 * micro["accuracy"], "%", bar=accuracy),
    ]


def _texts(report: Report) -> int:
    return len({(r.scene, r.query) for r in report.rows})


def _labels(folder: Path) -> Labels:
    """What is asked of a world's views: things, things by their color, parts worth asking for.

    A thing is asked for by its color if most of what is seen of it has that color. A part is left
    out if it is nearly the thing itself, and in views where it is smaller than PART_SHARE.
    """
    labels = read_labels(folder)
    entries = json.loads((folder / "labels.json").read_text())["labels"]
    colored = _colored(entries, folder)
    frames = []
    for frame in labels.frames:
        with Image.open(folder / frame.name) as picture:
            seen = np.asarray(picture)
        asked = []
        for thing in frame.objects:
            part = thing.category.split(" of the ")[0]
            if part == thing.category:
                asked.append(thing)
            elif part not in PLAIN and frame.mask(thing.category).mean() >= PART_SHARE:
                asked.append(thing)
        known = {thing.category for thing in asked}
        for text, meant in colored.items():
            shown = [np.isin(seen, indices) for indices in meant]
            if text not in known and sum(int(mask.sum()) for mask in shown) >= MIN_PIXELS:
                asked += [LabelledObject.of(text, mask) for mask in shown if mask.any()]
        frames.append(replace(frame, objects=tuple(asked)))
    return replace(labels, frames=tuple(frames))


def _colored(entries: list[dict[str, Any]], folder: Path) -> dict[str, list[list[int]]]:
    """ "red mug" -> the label indices of every red mug."""
    area = np.zeros(256)
    for file in folder.glob("*.png"):
        with Image.open(file) as picture:
            area += np.bincount(np.asarray(picture).ravel(), minlength=256)
    things: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        if entry["instance"]:
            things[entry["instance"]].append(entry)
    out: dict[str, list[list[int]]] = defaultdict(list)
    for parts in things.values():
        color, name = parts[0]["object_color"], parts[0]["object"]
        own = sum(area[p["index"]] for p in parts if p["part_color"] == color)
        if own > 0.5 * sum(area[p["index"]] for p in parts) and color != name:
            out[f"{color} {name}"].append([p["index"] for p in parts])
    return out


def _things(folder: Path) -> set[str]:
    """Names of the things in a world, without the room's."""
    entries = json.loads((folder / "labels.json").read_text())["labels"]
    return {str(entry["object"]) for entry in entries if entry["instance"]}


def _cameras(engine: SceneQuery) -> dict[str, Camera]:
    return {Path(camera.name).stem: camera for camera in engine.scene.cameras}


def _answers(engine: SceneQuery, camera: Camera, texts: Sequence[str]) -> Iterable[np.ndarray]:
    """For each text the relevancy [H, W] with which `SceneQuery.ask` would answer."""
    for start in range(0, len(texts), 8):
        for maps in engine.relevancy(texts[start : start + 8], camera):
            smooth = half_smoothed(maps)
            yield smooth[int(smooth.flatten(1).amax(1).argmax())].numpy()


def _peaks(
    engine: SceneQuery, labels: Labels, words: Mapping[str, str]
) -> Iterable[tuple[str, bool]]:
    """(word, whether the best pixel lies on what it means), per labelled view that shows it."""
    cameras = _cameras(engine)
    for frame in labels.frames:
        shown = [w for w, kind in words.items() if frame.mask(kind).sum() >= MIN_PIXELS]
        answers = _answers(engine, cameras[Path(frame.name).stem], shown)
        for word, relevancy in zip(shown, answers, strict=True):
            yield word, bool(frame.mask(words[word]).flat[int(relevancy.argmax())])


def _found(
    engine: SceneQuery, labels: Labels, words: Mapping[str, str]
) -> Iterable[tuple[str, bool]]:
    """(word, whether its mask has any pixel), per labelled view that shows its meaning, if any."""
    cameras = _cameras(engine)
    for frame in labels.frames:
        asked = [w for w, k in words.items() if not k or frame.mask(k).sum() >= EASY_PIXELS]
        answers = _answers(engine, cameras[Path(frame.name).stem], asked)
        for word, relevancy in zip(asked, answers, strict=True):
            yield word, bool(relevancy.max() > 0.5)


def with_true_segments(scene: Scene, encoder: Encoder) -> Scene:
    """The held-out world described again, from its own pictures and the labels' segments."""
    labelled = {file.stem for file in HELD_OUT.glob("*.png")}
    entries = json.loads((HELD_OUT / "labels.json").read_text())["labels"]
    owner = np.full(256, -1)
    room = {name: k for k, name in enumerate(sorted({str(e["object"]) for e in entries}))}
    for entry in entries:
        owner[entry["index"]] = entry["instance"] or 500 + room[str(entry["object"])]
    cameras, features = [], []
    for camera in scene.cameras:
        if Path(camera.name).stem in labelled:
            continue
        file = HELD_OUT / "others" / f"{Path(camera.name).stem}.png"
        with Image.open(file) as picture:
            labels = np.asarray(picture).astype(np.int64)
        parts = _numbered(np.where(labels > 0, labels, -1), 24)
        segments = np.stack([parts, parts, _numbered(owner[labels], MIN_PIXELS)])
        cameras.append(camera)
        features.append(embed_segments(render_rgb(scene, camera), segments, encoder))
    return replace(
        scene,
        language=fit_language(scene.gaussians, cameras, features, encoder.name),
    )


def _numbered(ids: np.ndarray, smallest: int) -> np.ndarray:
    """Ids renumbered from 0 without gaps; negative and small ones become -1."""
    old, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    keep = (old >= 0) & (counts >= smallest)
    return np.where(keep, np.cumsum(keep) - 1, -1)[inverse].reshape(ids.shape).astype(np.int32)


def _sort(query: str) -> str:
    if " of the " in query:
        return "parts"
    return "colour + thing" if query.split()[0] in COLORS else "things"


def _worst(report: Report, engines: Mapping[str, tuple[SceneQuery, Labels]]) -> list[str]:
    """A table of the texts with the lowest mean IoU; their pictures go to MISSES."""
    asked: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for result in report.rows:
        asked[result.scene, result.query].append(result)
    mean = {key: float(np.mean([r.iou for r in results])) for key, results in asked.items()}
    hit = {key: float(np.mean([bool(r.hit) for r in results])) for key, results in asked.items()}
    worst = sorted(mean, key=lambda key: (mean[key], hit[key]))[:WORST]
    lines = ["| | scene | query | views | mIoU | localisation |", "|---|---|---|---|---|---|"]
    tiles = []
    for number, key in enumerate(worst, start=1):
        scene, query = key
        lines.append(
            f"| {number} | {scene} | {query} | {len(asked[key])} | {100 * mean[key]:.0f} "
            f"| {100 * hit[key]:.0f} |"
        )
        engine, labels = engines[scene]
        frame = max(labels.frames, key=lambda frame: frame.mask(query).sum())
        camera = _cameras(engine)[Path(frame.name).stem]
        maps = engine.relevancy([query], camera)[0].numpy()
        found = predict(maps, PIXEL_PROFILES[PROFILE])
        tiles.append(_tile(engine.render(camera), found.masks[found.level], frame.mask(query)))
        ImageDraw.Draw(tiles[-1]).text((4, 2), f"{number} {query}", fill="white")
    columns = 5
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * width, k // columns * height))
    MISSES.parent.mkdir(exist_ok=True)
    sheet.save(MISSES, quality=82)
    return lines


def _tile(rgb: np.ndarray, answer: np.ndarray, meant: np.ndarray) -> Image.Image:
    """A small picture: what was answered in red, what was meant outlined."""
    out = rgb.astype(np.float32)
    out[answer] = 0.45 * out[answer] + 0.55 * np.array([230, 30, 30])
    out[ndimage.binary_dilation(meant, iterations=2) & ~meant] = 255
    return Image.fromarray(out.astype(np.uint8)).resize((240, 180))


def _pace(encoder: Encoder) -> tuple[float, float]:
    """Milliseconds per text, and per crop in a batch of 64; medians of 9."""
    crops = np.random.default_rng(0).integers(0, 255, (64, *[encoder.image_size] * 2, 3))
    times: dict[str, list[float]] = defaultdict(list)
    for k in range(10):
        began = time.perf_counter()
        encoder.encode_texts([f"the red mug number {k}"])
        times["text"].append(time.perf_counter() - began)
        began = time.perf_counter()
        encoder.encode_images(crops.astype(np.uint8))
        times["crop"].append((time.perf_counter() - began) / len(crops))
    return 1000 * float(np.median(times["text"][1:])), 1000 * float(np.median(times["crop"][1:]))


def _write(
    rows: list[Row],
    report: Report,
    plain: Report,
    world: Report,
    segments: Report,
    others: list[tuple[str, str, bool]],
    absent: list[tuple[str, bool]],
    worst: list[str],
) -> None:
    lines = [
        "# What the bundled parts understand",
        "",
        "Bundled segmenter, bundled encoder, codebook lifting, on views that no training saw.",
        f"Written by `python -m tests.benchmarks accuracy` on {today()}, on",
        f"{machine('cpu')}. If a text names a part of a",
        "thing and the thing is found, the part is held to it, and near it the part's own word",
        "counts as much as the whole text (`langsplat.query`). Other rows have what the papers do:",
        "texts compared with features and nothing else.",
        "",
        "Asked for are things, things by their color if most of what is seen of them has it, and",
        "parts that somebody would ask for: not those that fill less than "
        f"1/{1 / PART_SHARE:.0f} of",
        f"the view, nor a thing's {', '.join(sorted(PLAIN))}. The rows of all",
        "texts include every label, even the tiniest parts; the last of them are what",
        "`python -m langsplat eval` prints.",
        "",
        "| | value | bar |",
        "|---|---|---|",
    ]
    for r in rows:
        bar = "" if r.bar is None else f"{r.bar:g}{'' if r.ok else ' (missed)'}"
        lines.append(f"| {r.name.removeprefix('accuracy: ')} | {r.value:.1f} {r.unit} | {bar} |")
    by_word: dict[str, list[bool]] = defaultdict(list)
    for _, word, hit in others:
        by_word[word].append(hit)
    lines += ["", "## Other names: hits of views", ""]
    lines += [
        "These were written down before training and are in no caption. WordNet, which supplies",
        "words to the training, knows a third of them as names of their kind.",
        "",
    ]
    lines.append(", ".join(f"{w} {sum(h)}/{len(h)}" for w, h in sorted(by_word.items())))
    false: dict[str, int] = defaultdict(int)
    for word, found in absent:
        false[word] += found
    wrong = sorted(((n, w) for w, n in false.items() if n), reverse=True)
    lines += ["", "## Absent things that were found, and in how many views", ""]
    lines.append(", ".join(f"{word} {n}" for n, word in wrong) or "None.")
    lines += ["", f"## The {WORST} worst queries", ""]
    lines += ["Each in its largest view: the labelled outline is white, the answer red.", ""]
    lines += [f"![The worst queries]({MISSES.name})", "", *worst]
    tables = (
        ("Bundled scenes", report),
        ("Bundled scenes, parts not held to their things", plain),
        ("Held-out world", world),
        ("Held-out world, true segments", segments),
    )
    lines += ["", "## By what is asked for", ""]
    lines += ["| | | texts | mIoU | localisation |", "|---|---|---|---|---|"]
    for title, result in tables:
        sorts: dict[str, list[Any]] = defaultdict(list)
        for found in result.rows:
            sorts[_sort(found.query)].append(found)
        for sort, found_rows in sorts.items():
            iou = 100 * float(np.mean([r.iou for r in found_rows]))
            hit = 100 * float(np.mean([bool(r.hit) for r in found_rows]))
            texts = len({(r.scene, r.query) for r in found_rows})
            lines.append(f"| {title} | {sort} | {texts} | {iou:.1f} | {hit:.1f} |")
    for title, result in tables:
        if result is not plain:
            lines += ["", f"## {title}", "", result.markdown().rstrip()]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
