"""What ships works as shipped: the bundled scene's examples land on what they name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from langsplat.encoders import load_encoder
from langsplat.hub import bundled_scenes
from langsplat.query import SceneQuery
from langsplat.scene import load_scene
from tests.conftest import ROOT

LABELS = ROOT / "tests" / "data" / "teatable"

# Example query -> what it names: object, its color or None, its part or None.
MEANT = {
    "red mug": ("mug", "red", None),
    "teddy bear": ("teddy bear", None, None),
    "lampshade": ("lamp", None, "shade"),
    "banana": ("banana", None, None),
    "leaves": ("plant", None, "leaves"),
    "pink donut": ("donut", "pink", None),
    "red apple": ("apple", "red", None),
    "beak": ("rubber duck", None, "beak"),
    "lemon": ("lemon", None, None),
    "cookie": ("cookie", None, None),
}


def label_indices(thing: str, color: str | None, part: str | None) -> list[int]:
    labels = json.loads((LABELS / "labels.json").read_text())["labels"]
    return [
        label["index"]
        for label in labels
        if label["object"] == thing
        and color in (None, label["object_color"])
        and part in (None, label["part"])
    ]


@pytest.fixture(scope="module")
def engine() -> SceneQuery:
    scene = load_scene(bundled_scenes()["teatable"])
    assert scene.language is not None
    return SceneQuery(scene, load_encoder(scene.language.encoder))


def test_every_example_has_a_known_meaning(engine: SceneQuery) -> None:
    assert set(engine.scene.examples) == set(MEANT) and len(MEANT) >= 8
    assert sum(part is not None for _, _, part in MEANT.values()) >= 2
    for meant in MEANT.values():
        assert label_indices(*meant), f"no label is {meant}"


@pytest.fixture(scope="module")
def views(engine: SceneQuery) -> list[tuple[int, np.ndarray]]:
    """(number of the view, its label image [H, W]) of the labelled views."""
    by_stem = {Path(camera.name).stem: i for i, camera in enumerate(engine.scene.cameras)}
    files = sorted(LABELS.glob("*.png"))
    return [(by_stem[file.stem], np.asarray(Image.open(file))) for file in files]


def hits(engine: SceneQuery, views: list[tuple[int, np.ndarray]], text: str) -> tuple[int, int]:
    """In how many views the best pixel lies on what is meant, of those that show it."""
    right = shown = 0
    for number, labels in views:
        mask = np.isin(labels, label_indices(*MEANT[text]))
        if mask.sum() < 100:
            continue
        shown += 1
        camera = engine.scene.cameras[number]
        assert (camera.height, camera.width) == labels.shape
        x, y = engine.ask(text, camera).peak
        right += bool(mask[y, x])
    return right, shown


@pytest.mark.parametrize("text", MEANT)
def test_an_examples_best_pixel_lies_on_what_it_names(
    engine: SceneQuery, views: list[tuple[int, np.ndarray]], text: str
) -> None:
    right, shown = hits(engine, views[1::2], text)
    assert right >= 3, f"{text}: {right} of {shown} views"


def test_the_first_example_is_answered_in_the_view_the_page_opens_at(engine: SceneQuery) -> None:
    answer = engine.ask(engine.scene.examples[0], engine.scene.cameras[engine.scene.start_view])
    assert answer.found and 0.001 < answer.share < 0.2


def test_nothing_bundled_is_large_or_private() -> None:
    for file in (ROOT / "checkpoints").rglob("*"):
        if file.is_file():
            assert file.stat().st_size <= 10_000_000, f"{file.name} is over 10 MB"
    for folder in bundled_scenes().values():
        assert (folder / "preview.jpg").is_file()
        assert "/" not in json.dumps(dict(load_scene(folder).provenance)).replace("open_clip:", "")
