"""What ships works as shipped: the bundled scenes' examples land on what they name."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from langsplat.encoders import load_encoder
from langsplat.evaluate import Labels, evaluate, read_labels
from langsplat.hub import bundled_scenes
from langsplat.query import SceneQuery
from langsplat.scene import load_scene
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
HELD_OUT = DATA / "heldout"

# For each scene: example query -> the text in the labels that means the same.
MEANT: dict[str, dict[str, str]] = {
    "teatable": {
        "red mug": "red mug",
        "banana": "banana",
        "leaves of the plant": "leaves of the plant",
        "pink donut": "donut",
        "teddy bear": "teddy bear",
        "shade of the lamp": "shade of the lamp",
        "blue teapot": "teapot",
    },
    "desk": {
        "red telephone": "telephone",
        "globe": "globe",
        "shade of the lamp": "shade of the lamp",
        "cactus": "cactus",
        "scissors": "scissors",
        "keys of the keyboard": "keys of the keyboard",
        "headphones": "headphones",
    },
    "toyshelf": {
        "rocket": "rocket",
        "pink bunny": "bunny",
        "guitar": "guitar",
        "drum": "drum",
        "stacking rings": "stacking rings",
        "nose cone of the rocket": "nose cone of the rocket",
        "belly of the penguin": "belly of the penguin",
    },
}
EXAMPLES = [(scene, text) for scene, texts in MEANT.items() for text in texts]


@cache
def engine(scene: str) -> SceneQuery:
    folder = HELD_OUT / "scene" if scene == "heldout" else bundled_scenes()[scene]
    loaded = load_scene(folder)
    assert loaded.language is not None
    return SceneQuery(loaded, load_encoder(loaded.language.encoder))


@cache
def labels(scene: str) -> Labels:
    return read_labels(DATA / scene)


@pytest.mark.parametrize("scene", MEANT)
def test_every_example_of_a_bundled_scene_has_a_known_meaning(scene: str) -> None:
    assert set(engine(scene).scene.examples) == set(MEANT[scene]) and len(MEANT[scene]) >= 6
    known = {query for frame in labels(scene).frames for query in frame.queries}
    assert set(MEANT[scene].values()) <= known
    assert sum(" of the " in meant for meant in MEANT[scene].values()) >= 2, "parts are shown too"


@pytest.mark.parametrize(("scene", "text"), EXAMPLES)
def test_an_examples_best_pixel_lies_on_what_it_names(scene: str, text: str) -> None:
    cameras = {Path(camera.name).stem: camera for camera in engine(scene).scene.cameras}
    hits: list[bool] = []
    for frame in labels(scene).frames:
        mask = frame.mask(MEANT[scene][text])
        if mask.sum() >= 100:
            x, y = engine(scene).ask(text, cameras[Path(frame.name).stem]).peak
            hits.append(bool(mask[y, x]))
    assert sum(hits) >= 3 and np.mean(hits) >= 0.5, f"{text}: {sum(hits)} of {len(hits)} views"


@pytest.mark.parametrize("scene", MEANT)
def test_the_first_example_is_answered_in_the_view_the_page_opens_at(scene: str) -> None:
    shown = engine(scene).scene
    answer = engine(scene).ask(shown.examples[0], shown.cameras[shown.start_view])
    assert answer.found and 0.001 < answer.share < 0.3


@pytest.mark.parametrize("scene", MEANT)
def test_the_view_the_page_opens_at_shows_every_example_whole(scene: str) -> None:
    shown = engine(scene).scene
    for answer in engine(scene).ask_all(shown.examples, shown.cameras[shown.start_view]):
        inner = answer.mask[1:-1, 1:-1]
        assert 0 < inner.sum() == answer.mask.sum(), f"{answer.text} is cut off, or not found"


@pytest.mark.parametrize("scene", MEANT)
def test_a_bundled_scene_looks_like_its_photos(scene: str) -> None:
    assert engine(scene).scene.provenance["psnr"]["mean"] >= 30


def test_things_of_a_world_never_trained_on_are_found() -> None:
    frames = labels("heldout").frames[:1]
    report = evaluate(engine("heldout"), Labels("heldout", frames), "langsplat-v1")
    things = [row for row in report.rows if " of the " not in row.query]
    # The benchmark `accuracy` has the figures; this only notices when they fall apart.
    assert len(things) >= 15
    assert np.mean([row.hit for row in things]) >= 0.7
    assert np.mean([row.iou for row in things]) >= 0.4


def test_nothing_bundled_is_large_or_private() -> None:
    for file in (ROOT / "checkpoints").rglob("*"):
        if file.is_file():
            assert file.stat().st_size <= 10_000_000, f"{file.name} is over 10 MB"
    for folder in bundled_scenes().values():
        assert (folder / "preview.jpg").is_file()
        assert "/" not in json.dumps(dict(load_scene(folder).provenance)).replace("open_clip:", "")
