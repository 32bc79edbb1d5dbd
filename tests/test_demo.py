"""The page without a browser: every handler called directly, then its endpoints over HTTP."""

import base64
import errno
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
import gradio_client
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import app
from demo import handlers
from demo.handlers import (
    AUTO,
    MOST_PHOTOS,
    Builder,
    BuildStatus,
    Shelf,
    View,
    Visit,
    address_of,
    camera_of,
    check_photos,
    list_scenes,
    lowest_pitch,
    orbit_of,
    start_of,
    visit_at,
)
from demo.page import MOST_PAGES, Explore, NewScene, build_app, forget_broken_uploads, serve
from demo.viewer import MAX_POINTS, cloud_of, cloud_payload, legend, point_payload
from langsplat import CAPTURE_FILE
from langsplat.cameras import orbit_camera
from langsplat.codec import Codebook
from langsplat.progress import interrupt
from langsplat.query import NEGATIVES, Answer, SceneQuery, heat, overlay, render_rgb
from langsplat.scene import Camera, Gaussians, LanguageField, Scene, load_scene, save_scene
from tests import hub_server
from tests.conftest import ROOT

BALLS = ("red ball", "blue ball", "yellow ball")


class TableEncoder:
    """Knows the three balls and the negatives, each its own axis."""

    name = "table"
    dim = 8
    image_size = 8

    def encode_images(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        known = {text: axis for text, axis in zip((*BALLS, *NEGATIVES), torch.eye(8), strict=False)}
        return torch.stack([known.get(text, torch.eye(8)[7]) for text in texts])


def three_balls(width: int = 160, height: int = 120) -> Scene:
    """A red, a blue and a yellow ball on a grey floor, seen from twelve sides."""
    generator = torch.Generator().manual_seed(0)
    up, center, radius = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, 0.2]), 2.6
    means, colors, owners = [], [], []
    balls = zip(
        [(0.6, 0.0, 0.3), (-0.5, 0.4, 0.3), (0.0, -0.6, 0.3)],
        [(0.9, 0.1, 0.1), (0.1, 0.3, 0.9), (0.9, 0.8, 0.1)],
        strict=True,
    )
    for owner, (middle, color) in enumerate(balls):
        shell = F.normalize(torch.randn(400, 3, generator=generator), dim=1)
        means.append(0.3 * shell + torch.tensor(middle))
        colors.append(torch.tensor([color]).expand(400, 3))
        owners.append(torch.full((400,), owner))
    floor = torch.rand(800, 3, generator=generator) * torch.tensor([3.0, 3, 0])
    means.append(floor - torch.tensor([1.5, 1.5, 0]))
    colors.append(torch.full((800, 3), 0.4))
    owners.append(torch.full((800,), 3))
    n = 2000
    gaussians = Gaussians(
        means=torch.cat(means),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(),
        scales=torch.full((n, 3), 0.04),
        opacities=torch.full((n,), 0.95),
        sh=((torch.cat(colors) - 0.5) / 0.28209479)[:, None],
    )
    words = TableEncoder().encode_texts([*BALLS, "object"])
    language = LanguageField(
        rows=torch.cat(owners)[None, :, None].expand(3, n, 1).clone(),
        codes=torch.ones(3, n, 1),
        mass=torch.ones(3, n),
        codec=Codebook(words[None].expand(3, 4, 8).clone()),
        encoder="table",
    )
    cameras: list[Camera] = []
    for yaw in range(0, 360, 30):
        camera = orbit_camera(center, up, radius, yaw, 28.0, 1.0, width, height, 50.0)
        cameras.append(replace(camera, name=f"photo_{yaw:03d}.jpg"))
    return Scene(
        gaussians=gaussians,
        cameras=tuple(cameras),
        up=up,
        center=center,
        radius=radius,
        language=language,
        name="three balls",
        provenance={"examples": list(BALLS)},
    )


def shelf_of_balls(folder: Path, device: str = "cpu") -> Shelf:
    save_scene(three_balls(), folder / "balls")
    scenes = {"balls": folder / "balls"}
    return Shelf(folder / "results", scenes, lambda spec: TableEncoder(), device)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return shelf_of_balls(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def explore(shelf: Shelf) -> Explore:
    with gr.Blocks():
        return Explore(shelf)


@pytest.fixture(scope="module")
def served(shelf: Shelf) -> Iterator[gr.Blocks]:
    page = build_app(shelf, Builder(shelf))
    serve(page, shelf, host="127.0.0.1", port=None)
    yield page
    page.close()


@pytest.fixture(scope="module")
def address(served: gr.Blocks) -> str:
    assert served.local_url is not None
    return served.local_url


# --------------------------------------------------------------------------- views and the shelf


def test_views_are_rendered_with_640_pixels_on_the_long_side() -> None:
    camera = camera_of(three_balls(), View(3))
    assert (camera.width, camera.height) == (640, 480)
    tall = camera_of(three_balls(90, 120), View(None, 10, 20, 1))
    assert (tall.width, tall.height) == (480, 640)


def test_a_view_that_does_not_exist_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="views 0 to 11"):
        camera_of(three_balls(), View(12))


@pytest.mark.parametrize("size", [(160, 120), (90, 120)])
def test_the_orbit_nearest_to_a_view_sees_what_the_view_sees(size: tuple[int, int]) -> None:
    scene = three_balls(*size)
    orbit = orbit_of(scene, View(4))
    assert orbit.index is None
    assert orbit.distance == pytest.approx(1, abs=1e-4)
    view, nearest = camera_of(scene, View(4)), camera_of(scene, orbit)
    assert torch.allclose(nearest.position, view.position, atol=1e-3)
    assert torch.allclose(nearest.K, view.K, rtol=1e-4), "neither nearer nor farther"


def test_a_scene_without_cameras_can_still_be_orbited() -> None:
    camera = camera_of(replace(three_balls(), cameras=()), View(None, 30, 20, 1))
    assert (camera.width, camera.height) == (640, 480)


def test_only_listed_names_are_ever_opened(shelf: Shelf) -> None:
    for name in ("/etc/passwd", "../balls", str(shelf.results.parent / "balls"), ""):
        with pytest.raises(ValueError, match="in the list"):
            shelf.room(name)


def test_another_threshold_does_not_ask_again(shelf: Shelf) -> None:
    first = shelf.answer("balls", View(0), "red ball", threshold=0.5)
    second = shelf.answer("balls", View(0), "  red   ball ", threshold=0.9)
    assert second.relevancy is first.relevancy
    assert second.share <= first.share


def test_what_is_kept_of_one_scene_view_or_level_is_not_taken_for_another(tmp_path: Path) -> None:
    shelf, scene = shelf_of_balls(tmp_path), three_balls()
    assert scene.language is not None
    scene.language.mass[2] = 0  # nothing was described at the level "whole"
    mirrored = scene.gaussians.means * torch.tensor([-1.0, 1, 1])
    scene = replace(scene, gaussians=replace(scene.gaussians, means=mirrored))
    shelf.add(save_scene(scene, tmp_path / "mirrored"), "mirrored")
    looks = [("balls", View(0)), ("mirrored", View(0)), ("balls", View(6))]
    pictures = [shelf.picture(*look) for look in looks]
    masks = [shelf.answer(*look, "red ball").mask for look in looks]
    for kept in (pictures, masks):
        assert len({np.asarray(one).tobytes() for one in kept}) == len(looks)
    found = [shelf.answer(*looks[1], "red ball", level=level).found for level in ("whole", "part")]
    assert found == [False, True]


def test_a_visitor_does_not_wait_for_the_answer_of_another(tmp_path: Path) -> None:
    began, go = threading.Event(), threading.Event()

    class Slow(TableEncoder):
        def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
            if "red ball" in texts:
                began.set()
                assert go.wait(30)
            return super().encode_texts(texts)

    shelf_of_balls(tmp_path)
    shelf = Shelf(tmp_path / "more", {"balls": tmp_path / "balls"}, lambda spec: Slow())
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shelf.answer, "balls", View(0), "red ball")
        assert began.wait(30)
        assert shelf.picture("balls", View(3)).any()
        assert shelf.answer("balls", View(0), "blue ball").found
        assert not slow.done()
        go.set()
        assert slow.result().found


def test_the_first_picture_is_drawn_while_the_encoder_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, loaded = threading.Event(), threading.Event()

    def draw(scene: Scene, camera: Camera) -> np.ndarray:
        picture = render_rgb(scene, camera)
        drawn.set()
        return picture

    def load(spec: str) -> TableEncoder:
        assert drawn.wait(60)
        loaded.set()
        return TableEncoder()

    monkeypatch.setattr("demo.handlers.render_rgb", draw)
    scene = three_balls()
    save_scene(scene, tmp_path / "balls")
    shelf = Shelf(tmp_path / "results", {"balls": tmp_path / "balls"}, load)
    assert shelf.room("balls").engine is not None and loaded.is_set()
    drawn.clear()
    shelf.picture("balls", start_of(scene))
    assert not drawn.is_set(), "it is there already"


def test_the_seconds_of_a_first_answer_are_not_those_of_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def ask(engine: SceneQuery, text: str, camera: Camera, **given: Any) -> Answer:
        asked.append((text, camera.width))
        return engine.ask_all([text], camera, **given)[0]

    monkeypatch.setattr(SceneQuery, "ask", ask)
    shelf = shelf_of_balls(tmp_path)
    shelf.warm_up()
    shelf.answer("balls", start_of(shelf.room("balls").scene), "red ball")
    warm = [(NEGATIVES[0], 40), ("red ball", 640), ("part of the red ball", 640)]
    assert asked == warm, "small first, and once"


def test_the_app_does_without_gradios_type_stubs() -> None:
    code = (
        "import sys, app; sys.meta_path.insert(0, app.WithoutStubs()); import gradio\n"
        "print(sys.modules['gradio.component_meta'].create_or_modify_pyi.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "app"


def test_caches_and_download_folders_stay_bounded(tmp_path: Path) -> None:
    shelf = shelf_of_balls(tmp_path)
    answer = shelf.answer("balls", View(0), "red ball")
    rgb = shelf.picture("balls", View(0))[:8, :8]
    corner = replace(
        answer, relevancy=answer.relevancy[:8, :8], by_level=answer.by_level[:, :8, :8]
    )
    for _ in range(66):
        shelf.files(corner, rgb)
    assert len(list(shelf.downloads.iterdir())) == 64
    for index in range(20):
        shelf.picture("balls", View(index % 12, distance=float(index)))
    assert len(shelf._pictures) == 16


def test_an_answer_whose_files_find_no_room_is_told_in_words(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    visit = explore.arrive(Visit())[explore.visit]
    shelf = explore.shelf
    answer, rgb = shelf.answer("balls", visit.view, "red ball"), shelf.picture("balls", visit.view)
    for what, step in ((handlers, "save_answer"), (Path, "rename")):
        with monkeypatch.context() as patched:
            patched.setattr(what, step, full)
            with pytest.raises(ValueError, match=r"cannot be stored here now \(No space left"):
                shelf.files(answer, rgb, "balls view 0")
            offered = explore.offer(visit, AUTO, 0.5, "Overlay")
        assert not any(button.interactive for button in offered.values())


def test_a_list_of_many_scenes_closes_none_of_those_in_use(tmp_path: Path) -> None:
    shelf = shelf_of_balls(tmp_path)
    for name in "abc":
        shelf.add(Path(shutil.copytree(tmp_path / "balls", tmp_path / name)))
    room = shelf.room("balls")
    assert [entry["views"] for entry in list_scenes(shelf)] == [12] * 4
    assert shelf.room("balls") is room


def test_what_an_earlier_start_left_is_neither_listed_nor_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_KEPT_FILES", 4)
    scene = save_scene(three_balls(), tmp_path / "results" / "scenes" / ".mug.x7k2")  # killed there
    shelf = Shelf(tmp_path / "results", {"balls": scene}, lambda spec: TableEncoder())
    assert shelf.names == ["balls"]
    answer = shelf.answer("balls", View(0), "red ball")
    before = {folder for _ in range(3) for folder in [tempfile.mkdtemp(dir=shelf.downloads)]}
    shelf = Shelf(tmp_path / "results", {"balls": scene}, lambda spec: TableEncoder())
    assert shelf.names == ["balls"]
    for _ in range(4):
        shelf.files(answer, np.zeros((480, 640, 3), np.uint8))
    left = {str(folder) for folder in shelf.downloads.iterdir()}
    assert len(left) == 4 and not left & before
    shutil.rmtree(shelf.results)  # as some systems delete temporary folders
    assert shelf.files(answer, np.zeros((480, 640, 3), np.uint8))["mask.png"].is_file()


def test_built_scenes_are_listed_again_at_the_next_start(tmp_path: Path) -> None:
    save_scene(three_balls(), tmp_path / "results" / "scenes" / "mine")
    shelf = shelf_of_balls(tmp_path)
    assert shelf.names == ["balls", "mine"]
    assert shelf.add(tmp_path / "balls") == "balls", "the same folder keeps its name"
    assert shelf.add_first("mine") == "mine"
    assert shelf.default == "mine"


def test_a_damaged_scene_is_named_but_the_servers_path_is_not(tmp_path: Path) -> None:
    shelf = shelf_of_balls(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "scene.safetensors").write_bytes(b"\x00" * 100)
    shelf.add(tmp_path / "bad")
    with pytest.raises(ValueError, match="bad is not a readable scene") as error:
        shelf.room("bad")
    assert str(tmp_path) not in str(error.value)
    assert [entry["name"] for entry in list_scenes(shelf)] == ["balls", "bad"]


def test_a_scene_whose_files_were_replaced_is_not_mixed_with_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_KEPT_SCENES", 1)
    shelf, scene = shelf_of_balls(tmp_path), three_balls()
    shelf.add(save_scene(scene, tmp_path / "other"))
    with gr.Blocks():
        explore = Explore(shelf)
    visit = explore.arrive(Visit())[explore.visit]
    before = explore.answer(visit, AUTO, 0.5, "Overlay")[explore.points]
    picture = shelf.picture("balls", visit.view)
    fewer = Gaussians(*(t[800:] for t in vars(scene.gaussians).values() if torch.is_tensor(t)))
    assert scene.language is not None
    known = {name: getattr(scene.language, name)[:, 800:] for name in ("rows", "codes", "mass")}
    language = replace(scene.language, **known)
    save_scene(replace(scene, gaussians=fewer, language=language), tmp_path / "balls")
    shelf.room("other")  # closes it
    shown = explore.answer(visit, AUTO, 0.5, "Overlay")[explore.points]
    assert shown.props["cloud"]["key"] == shown.constructor_args["value"]["key"] != before["key"]
    assert (shelf.picture("balls", visit.view) != picture).any()


def test_a_scene_whose_encoder_is_missing_shows_its_pictures(tmp_path: Path) -> None:
    def refuse(spec: str) -> TableEncoder:
        raise ValueError(f"The weights of {spec} are not here.")

    save_scene(three_balls(), tmp_path / "balls")
    shelf = Shelf(tmp_path / "results", {"balls": tmp_path / "balls"}, refuse)
    assert shelf.picture("balls", View(0)).shape == (480, 640, 3)
    with pytest.raises(ValueError, match=r"cannot be asked here\. The weights of table"):
        shelf.answer("balls", View(0), "red ball")


def test_a_strangers_scene_does_not_choose_a_file_of_the_server(tmp_path: Path) -> None:
    scene = three_balls()
    assert scene.language is not None
    weights = f"open_clip:ViT-B-16/{tmp_path}/weights.bin"
    save_scene(replace(scene, language=replace(scene.language, encoder=weights)), tmp_path / "s")

    def load(spec: str) -> TableEncoder:
        raise AssertionError("it was opened")

    for name in ("jane/balls", "jane/balls@bbbbbbb"):
        room = Shelf(tmp_path / "results", {name: tmp_path / "s"}, load).room(name)
        assert room.engine is None and "on its author's machine" in room.why_silent
    with pytest.raises(AssertionError):  # a scene built here may name files that are here
        Shelf(tmp_path / "results", {"balls": tmp_path / "s"}, load).room("balls")


def test_a_newer_commit_of_a_repository_is_not_listed_as_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (save_scene(three_balls(), tmp_path / (commit * 40)) for commit in "ab")
    now = [first]
    monkeypatch.setattr(handlers, "fetch_scene", lambda repo_id, progress: now[0])
    shelf = Shelf(tmp_path / "results", {}, lambda spec: TableEncoder())
    for _ in range(2):
        assert shelf.fetch("jane/balls") == "jane/balls"
    now[0] = second
    for _ in range(2):
        assert shelf.fetch("https://huggingface.co/jane/balls") == "jane/balls@bbbbbbb"
    assert shelf.names == ["jane/balls", "jane/balls@bbbbbbb"]


def test_a_scene_without_words_says_so(tmp_path: Path) -> None:
    save_scene(replace(three_balls(), language=None), tmp_path / "mute")
    shelf = Shelf(tmp_path / "results", {"mute": tmp_path / "mute"})
    with pytest.raises(ValueError, match="no words in it"):
        shelf.answer("mute", View(0), "red ball")


# --------------------------------------------------------------------------- what is drawn


def test_points_have_the_colors_of_their_gaussians() -> None:
    scene = three_balls()
    cloud = cloud_of(scene)
    shades = np.frombuffer(base64.b64decode(cloud_payload(cloud)["shades"]), np.uint8)
    shown = np.stack([shades // 36, shades // 6 % 6, shades % 6], axis=1) / 5
    truth = 0.5 + 0.28209479 * scene.gaussians.sh[:, 0].numpy()[cloud.rows]
    assert np.abs(shown - truth).max() < 0.101, "half a step of the palette"


def test_the_point_view_is_seen_from_where_the_visit_starts() -> None:
    scene = replace(three_balls(), provenance={"start_view": 3})
    cloud = cloud_of(scene)
    ray = scene.cameras[3].position.numpy() - (cloud.low + cloud.size / 2)
    np.testing.assert_allclose(cloud.eye, 1.1 * ray / np.linalg.norm(ray), atol=1e-6)


def test_the_point_view_leaves_out_what_is_faint_or_far_away() -> None:
    gaussians = three_balls().gaussians
    gaussians.means[1200:1400, 0] += 20  # too many to be strays
    gaussians.opacities[1400:1600] = 0.2
    cloud = cloud_of(replace(three_balls(), gaussians=gaussians))
    assert cloud.size < 4
    assert cloud.total == 2000 and not set(cloud.rows) & set(range(1200, 1600))


def test_the_point_view_goes_where_a_scene_is() -> None:
    scene, shift = three_balls(), torch.tensor([50.0, 0.0, -20.0])
    gaussians = replace(scene.gaussians, means=scene.gaussians.means + shift)
    there = cloud_of(replace(scene, gaussians=gaussians, center=scene.center + shift))
    here = cloud_of(scene)
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_allclose(there.low, here.low + shift.numpy(), atol=1e-4)
    assert there.size == pytest.approx(here.size, abs=1e-4)


def test_the_point_view_gets_places_within_a_step_of_the_truth() -> None:
    scene = three_balls()
    cloud = cloud_of(scene)
    assert 0 < len(cloud.rows) <= MAX_POINTS
    sent = base64.b64decode(cloud_payload(cloud)["places"])
    places = cloud.low + np.frombuffer(sent, np.uint16).reshape(-1, 3) / 65_535 * cloud.size
    truth = scene.gaussians.means.numpy()[cloud.rows]
    assert np.abs(places - truth).max() <= cloud.size / 65_535


def test_the_point_view_of_many_gaussians_stays_small() -> None:
    scene = three_balls()
    many = scene.gaussians.select(torch.arange(60_000) % 2000)
    cloud = cloud_of(replace(scene, gaussians=many, language=None))
    assert len(cloud.rows) <= MAX_POINTS
    assert len(json.dumps(cloud_payload(cloud))) < 250_000


def test_the_point_view_speaks(shelf: Shelf) -> None:
    cloud = shelf.room("balls").cloud
    assert "No query yet" in point_payload(cloud, None)["twin"]
    red = point_payload(cloud, shelf.answer("balls", View(0), "red ball"))
    assert "400 of them score above 0.50: they have the colors of the scale" in red["twin"]
    answer = shelf.answer("balls", View(0), "giraffe")
    assert "None scores above" in point_payload(cloud, answer)["twin"]
    scores = np.zeros_like(answer.gaussian_relevancy)
    scores[cloud.rows[0]] = 0.9
    one = point_payload(cloud, replace(answer, gaussian_relevancy=scores))
    for threshold in (0.2, 0.5, 0.6, 0.8, 1.0):  # points and words agree, whatever is rounded
        near = replace(
            answer,
            threshold=threshold,
            gaussian_relevancy=scores + threshold * np.linspace(0.98, 1.02, len(scores)),
        )
        payload = point_payload(cloud, near)
        shown = np.frombuffer(base64.b64decode(payload["scores"]), np.uint8) >= payload["cut"]
        found = near.gaussian_relevancy[cloud.rows].clip(0, 1) > threshold
        np.testing.assert_array_equal(shown, found)
    assert "1 of them scores above 0.50: it has the colors of the scale" in one["twin"]


def test_the_legend_marks_the_threshold() -> None:
    assert "left: 62.0%" in legend(0.62)


# --------------------------------------------------------------------------- the Explore tab


def test_a_visitor_finds_the_first_scene_answered(explore: Explore) -> None:
    moved = explore.arrive(Visit())
    visit = moved[explore.visit]
    assert (visit.scene, visit.text) == ("balls", "red ball")
    shown = explore.answer(visit, AUTO, 0.5, "Overlay")
    assert shown[explore.line]["kind"] == "found"
    assert "scores" in shown[explore.points]
    files = explore.offer(visit, AUTO, 0.5, "Overlay")
    with Image.open(files[explore.mask_file].value["path"]) as mask:
        assert mask.size == (640, 480)
        assert mask.getextrema() == (0, 255)


def test_the_points_are_sent_once_and_their_scores_with_each_answer(explore: Explore) -> None:
    moved = explore.arrive(Visit())
    visit, cloud = moved[explore.visit], explore.shelf.room("balls").cloud
    assert explore.points in explore.moved
    assert moved[explore.points].props["cloud"] == cloud_payload(cloud)
    opened = explore.open(visit, "balls")
    sent = [shown[explore.points].props["cloud"] for shown in (moved, opened)]
    assert sent[0] is sent[1], "gradio keeps it for each of hundreds of pages"
    for shown in (
        explore.ask(visit, "blue ball", AUTO, 0.5, "Overlay"),
        explore.orbit(visit, 90, 20, 1),
        explore.answer(replace(visit, text=""), AUTO, 0.5, "Mask"),
    ):
        sent = shown.get(explore.points, {})
        assert len(json.dumps(sent)) < 2 * len(cloud.rows) + 2000, "bytes"


@pytest.mark.parametrize("display", ["Overlay", "Heat", "Mask"])
def test_each_display_shows_its_own_picture(explore: Explore, display: str) -> None:
    shown = explore.ask(Visit("balls"), "red ball", AUTO, 0.5, display)[explore.found]
    assert shown.constructor_args["alt_text"].startswith(f"{display}: ")
    answer = explore.shelf.answer("balls", View(0), "red ball")
    rgb = explore.shelf.picture("balls", View(0))
    truth = {
        "Picture": rgb,
        "Overlay": overlay(rgb, answer.relevancy, answer.mask),
        "Heat": heat(answer.relevancy),
        "Mask": np.where(answer.mask[..., None], 255, 0).repeat(3, axis=2),
    }
    with Image.open(shown.value["path"]) as picture:  # which was compressed
        seen = np.asarray(picture.convert("RGB")).astype(int)
    assert min(truth, key=lambda name: np.abs(seen - truth[name]).mean()) == display


def test_the_files_of_the_question_before_are_not_offered_with_a_new_one(explore: Explore) -> None:
    files = [explore.mask_file, explore.overlay_file, explore.scores_file]
    visit = Visit("balls", text="red ball")
    assert all(explore.offer(visit, AUTO, 0.5, "Overlay")[file].interactive for file in files)
    for text in ("blue ball", "giraffe", ""):
        shown = explore.ask(visit, text, AUTO, 0.5, "Overlay")
        assert not any(shown[file].interactive or shown[file].value for file in files)


@pytest.mark.parametrize("letter", ["x", "熊", "\N{MATHEMATICAL BOLD SCRIPT SMALL A}"])
def test_the_files_of_a_long_question_can_be_had(explore: Explore, letter: str) -> None:
    visit = explore.ask(Visit("balls"), 200 * letter, AUTO, 0.5, "Overlay")[explore.visit]
    file = explore.offer(visit, AUTO, 0.5, "Overlay")[explore.scores_file]
    name = Path(file.value["path"]).name
    assert re.fullmatch(f"balls-view-0-{letter}{{16,}}-relevancy.npz", name)


def test_nothing_like_it_gives_words_an_empty_mask_and_no_download(explore: Explore) -> None:
    shown = explore.ask(Visit("balls"), "giraffe", AUTO, 0.5, "Mask")
    visit = shown[explore.visit]
    assert shown[explore.line]["kind"] == "none"
    assert "Nothing here looks like “giraffe”" in shown[explore.line]["text"]
    files = explore.offer(visit, AUTO, 0.5, "Mask")
    assert not files[explore.mask_file].interactive
    assert files[explore.scores_file].interactive


def test_what_the_bundled_encoder_knows_is_said_where_nothing_is_found(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(text: str) -> bool:
        shown = explore.ask(Visit("balls"), text, AUTO, 0.5, "Mask")
        return "knows some 80 kinds" in shown[explore.line]["text"]

    assert not said("giraffe"), "another encoder knows other things"
    field = explore.shelf.room("balls").scene.language
    monkeypatch.setitem(vars(field), "encoder", "bundled:01234567")
    assert said("giraffe") and not said("red ball")


def test_a_level_at_which_nothing_was_described_says_so(tmp_path: Path) -> None:
    scene = three_balls()
    assert scene.language is not None
    scene.language.mass[2] = 0
    save_scene(scene, tmp_path / "balls")
    shelf = Shelf(tmp_path / "results", {"balls": tmp_path / "balls"}, lambda spec: TableEncoder())
    with gr.Blocks():
        explore = Explore(shelf)
    shown = explore.ask(Visit("balls"), "red ball", "whole", 0.5, "Overlay")
    visit, line = shown[explore.visit], shown[explore.line]
    assert line["kind"] == "none" and "ask at another one (subpart, part)" in line["text"]
    for level in ("part", AUTO):
        assert explore.answer(visit, level, 0.5, "Overlay")[explore.line]["kind"] == "found"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "Type what to look for"), ("of the", "no thing"), ("x" * 10_000, "200 characters")],
)
def test_a_query_that_cannot_be_asked_is_answered_in_words(
    explore: Explore, text: str, words: str
) -> None:
    shown = explore.ask(Visit("balls"), text, AUTO, 0.5, "Overlay")
    visit = shown[explore.visit]
    assert shown[explore.line]["kind"] == "error"
    assert words in shown[explore.line]["text"]
    assert shown[explore.find].interactive
    assert not explore.offer(visit, AUTO, 0.5, "Overlay")[explore.scores_file].interactive


def test_an_example_is_put_into_the_field_and_answered(explore: Explore) -> None:
    shown = explore.try_example(Visit("balls"), ["blue ball"], AUTO, 0.5, "Overlay")
    assert shown[explore.offered] == shown[explore.visit].text == "blue ball"
    assert "blue ball" in shown[explore.line]["text"]


def test_what_opens_no_other_scene_leaves_the_text_that_is_on_its_way(explore: Explore) -> None:
    for name in ("balls", ""):
        assert explore.offered not in explore.open_if_new(Visit("balls", text="red ball"), name)
    assert explore.open_if_new(Visit(), "balls")[explore.offered] == "red ball"


def test_views_step_around_and_sliders_follow(explore: Explore) -> None:
    moved = explore.go_before(Visit("balls"))
    assert moved[explore.visit].view == View(11)
    assert moved[explore.photo].value == moved[explore.photo].maximum == 11
    assert explore.go_after(moved[explore.visit])[explore.visit].view == View(0)
    orbit = explore.orbit(Visit("balls"), 40, 10, 1.5)
    assert orbit[explore.visit].view == View(None, 40, 10, 1.5)
    assert explore.yaw not in orbit, "a slider under the visitor's hand stays"
    assert explore.go_after(orbit[explore.visit], 7)[explore.visit].view == View(8)
    assert explore.go_before(orbit[explore.visit], 0)[explore.visit].view == View(11)
    slid = explore.slide_to(orbit[explore.visit], 5)
    assert slid[explore.visit].view == View(5) and slid[explore.photo].label == "View: photo_150"
    assert "value" not in slid[explore.photo].constructor_args, "nor is what comes next overwritten"
    assert explore.go_back(orbit[explore.visit])[explore.visit].view == View(0)


def test_the_sliders_of_a_view_beyond_their_ends_stay_at_them(tmp_path: Path) -> None:
    scene = three_balls()
    cameras = [
        orbit_camera(scene.center, scene.up, scene.radius, 30, pitch, distance, 16, 12, 50)
        for pitch, distance in ((89, 4), (-89, 0.1))
    ]
    save_scene(replace(scene, cameras=tuple(cameras)), tmp_path / "balls")
    with gr.Blocks():
        explore = Explore(Shelf(tmp_path / "results", {"balls": tmp_path / "balls"}))
    for index, ends in enumerate([(30, 85, 3), (30, -85, 0.2)]):
        moved = explore.go_to(Visit("balls"), index)
        shown = moved[explore.yaw], moved[explore.pitch].value, moved[explore.distance]
        assert shown == ends


@pytest.mark.parametrize(("name", "label"), [("in/view_013.png", "View"), ("103.png", "View: 103")])
def test_a_view_is_named_only_where_its_number_does_not_say_it(
    explore: Explore, monkeypatch: pytest.MonkeyPatch, name: str, label: str
) -> None:
    scene = explore.shelf.room("balls").scene
    cameras = tuple(replace(camera, name=name) for camera in scene.cameras) * 2
    monkeypatch.setitem(vars(scene), "cameras", cameras)
    assert explore._named(Visit("balls", View(13))).label == label


def test_an_orbit_stays_above_the_floor_unless_photos_were_taken_from_lower(
    explore: Explore,
) -> None:
    scene = three_balls()
    assert lowest_pitch(scene) == lowest_pitch(replace(scene, cameras=())) == 0
    below = orbit_camera(scene.center, scene.up, scene.radius, 30, -12.5, 1, 16, 12, 50)
    assert lowest_pitch(replace(scene, cameras=(*scene.cameras, below))) == -13
    assert explore.go_to(Visit("balls"), 0)[explore.pitch].minimum == 0


# --------------------------------------------------------------------------- the address


@pytest.mark.parametrize(
    ("visit", "address"),
    [
        (Visit("balls", View(0), "red ball"), "scene=balls"),
        (Visit("balls", View(7), "blue & ball", True), "scene=balls&from=7&q=blue+%26+ball"),
        (Visit("balls", View(None, -30, 20, 1.25), "red ball"), "scene=balls&from=-30,20,1.25"),
    ],
)
def test_an_address_leads_back_to_the_visit_it_was_made_of(
    explore: Explore, visit: Visit, address: str
) -> None:
    assert address_of(explore.shelf.room("balls").scene, visit) == address
    asked = explore.arrive(Visit(), gr.Request(query_params=dict(parse_qsl(address))))
    assert asked[explore.visit] == visit and asked[explore.offered] == visit.text
    assert explore.answer(visit, AUTO, 0.5, "Overlay")[explore.address] == address


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scene": "/etc/passwd", "q": "mug", "from": "3"}, "no scene “/etc/passwd” here: choose"),
        ({"scene": "<i>" + 500 * "x"}, f"no scene “&lt;i&gt;{97 * 'x'}” here"),
        *[
            ({"from": place}, f"no view “{place}” of balls: choose one below")
            for place in ("12", "-1", "9" * 30, "photo_000.jpg", "1,2", "nan,nan,nan", "0,-5,1")
        ],
    ],
)
def test_an_address_of_what_is_not_here_opens_the_first_scene_and_says_so(
    explore: Explore, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, duration: told.append(text))
    visit = explore.arrive(Visit(), gr.Request(query_params=given))[explore.visit]
    assert visit == Visit("balls", View(0), "red ball")
    assert len(told) == 1 and said in told[0]


@pytest.mark.parametrize("focal", [0.0, -100.0])
def test_a_view_that_cannot_be_drawn_is_told_wherever_it_is_asked_for(
    explore: Explore, monkeypatch: pytest.MonkeyPatch, focal: float
) -> None:
    """A stranger's scene may have such cameras; in the page nothing would happen at all."""
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, duration: warned.append(text))
    scene = explore.shelf.room("balls").scene
    lens = torch.tensor([[focal, 0, 80], [0, 100, 60], [0, 0, 1]])
    broken = replace(scene.cameras[0], K=lens, width=20_000, height=1)
    monkeypatch.setitem(vars(scene), "cameras", (broken, *scene.cameras[1:]))
    for told in (
        explore.arrive(Visit(), gr.Request(query_params={"from": "0,20,1"})),
        explore.orbit(Visit("balls"), 0, 20, 1),
        explore.open(Visit(), "balls"),
        explore.go_to(Visit("balls", View(3)), 0),
        explore.go_back(Visit("balls", View(3))),
    ):
        assert explore.picture not in told and told[explore.line]["kind"] == "error"
    assert len(warned) == 3, "where an answer from another view covers the line"


@pytest.mark.parametrize("words", [10_000 * "x", "of the", " "])
def test_words_of_an_address_are_refused_as_typed_ones_are(explore: Explore, words: str) -> None:
    visit, note = visit_at(explore.shelf, {"q": words})
    assert (visit.text, visit.asked, note) == (words, True, "")
    shown = explore.answer(visit, AUTO, 0.5, "Overlay")
    assert shown[explore.line]["kind"] == "error" and shown[explore.address] == "scene=balls"


def test_an_empty_shelf_says_what_to_do(tmp_path: Path) -> None:
    with gr.Blocks():
        explore = Explore(Shelf(tmp_path, {}))
    address = gr.Request(query_params={"scene": "balls", "q": "red ball"})
    assert "build one" in explore.arrive(Visit(), address)[explore.line]["text"]
    assert explore.open(Visit(), "balls")[explore.line]["kind"] == "error"
    assert explore.line not in explore.answer(Visit(), AUTO, 0.5, "Overlay")


def test_a_scene_that_cannot_be_read_leaves_the_one_that_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, duration: told.append(text))
    shelf = shelf_of_balls(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "scene.safetensors").write_bytes(b"\x00" * 100)
    shelf.add(tmp_path / "bad", first=True)
    with gr.Blocks():
        explore = Explore(shelf)
    shown = explore.open(Visit("balls"), "bad")
    assert explore.visit not in shown and shown[explore.scene] == "balls"
    assert len(told) == 1 and "bad is not a readable scene" in told[0]
    # No scene is open yet: the answer that follows must not hide the message.
    visit = explore.arrive(Visit())[explore.visit]
    said = explore.answer(visit, AUTO, 0.5, "Overlay")[explore.line]
    assert said["kind"] == "error" and "bad is not a readable scene" in said["text"]


def test_a_sliders_value_that_comes_after_the_visitor_has_left_moves_nothing(
    explore: Explore,
) -> None:
    visit = Visit("balls", View(3))
    assert explore.slide_to(visit, 5, True) == {explore.visit: visit}
    assert explore.orbit(visit, 10, 20, 1, True) == {explore.visit: visit}


def test_no_step_of_the_page_is_dropped_while_an_earlier_one_is_on_its_way(shelf: Shelf) -> None:
    steps = build_app(shelf, Builder(shelf)).config["dependencies"]
    steps = [step for step in steps if step["backend_fn"] and step["queue"]]
    once = {step["api_name"] for step in steps if step["trigger_mode"] == "once"}
    # The endpoints for scripts; and builds and scenes from the Hub, which come one at a time.
    assert once == {"scenes", "render", "query", "begin", "come_back", "fetch_scene"}


def test_no_event_shows_progress_on_what_contains_others(shelf: Shelf) -> None:
    # The browser copies a component, and all in it, whenever any event begins or ends, once it has
    # shown progress on it, even hidden. With the tabs that is every component, for each question.
    config = build_app(shelf, Builder(shelf)).config
    boxes, todo = set(), [config["layout"]]
    while todo:
        part = todo.pop()
        if children := part.get("children"):
            boxes.add(part.get("id"))
            todo += children
    assert len(boxes) > 10
    for event in config["dependencies"]:
        if event["backend_fn"]:
            assert boxes.isdisjoint(event["show_progress_on"] or event["outputs"]), event


def test_a_page_from_before_a_new_start_of_the_server_says_so(explore: Explore) -> None:
    for change in (
        explore.ask(Visit(), "red ball", AUTO, 0.5, "Overlay"),
        explore.go_after(Visit()),
    ):
        assert explore.line in change
    said = explore.answer(Visit(), AUTO, 0.5, "Overlay")
    assert said[explore.line]["kind"] == "error" and "reload it" in said[explore.line]["text"]
    assert said[explore.find].interactive


def test_a_repository_that_is_none_is_refused_in_words(explore: Explore) -> None:
    said = explore.fetch_scene("../../etc")[explore.hub_line]
    assert said["kind"] == "error"
    assert "user/name" in said["text"]


# --------------------------------------------------------------------------- builds


def photos(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        path = folder / f"{index}.jpg"
        Image.new("RGB", (64, 48), (20 * index % 255, 90, 60)).save(path)
        paths.append(str(path))
    return paths


def zip_of(path: Path, names: Sequence[str]) -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"not decoded here")
    return [str(path)]


def test_uploads_that_cannot_become_a_scene_are_refused_at_once(tmp_path: Path) -> None:
    def refused(paths: list[str]) -> str:
        with pytest.raises(ValueError) as error:
            check_photos(paths)
        return str(error.value)

    assert "none so far" in refused([])
    assert "there is 1 so far" in refused(photos(tmp_path / "one", 1))
    assert "201 photos" in refused(photos(tmp_path / "many", MOST_PHOTOS + 1))
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is not a photo" in refused([str(tmp_path / "notes.txt")])
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    assert "damaged" in refused([str(tmp_path / "broken.zip")])
    heic = [f"{index}.HEIC" for index in range(20)]
    (tmp_path / "20.HEIC").touch()
    assert "20.HEIC is not a photo" in refused(
        [*photos(tmp_path / "some", 8), f"{tmp_path}/20.HEIC"]
    )
    assert "no longer on the server" in refused([*photos(tmp_path / "some", 8), "gone.jpg"])
    assert "none so far that can be read" in refused(zip_of(tmp_path / "phone.zip", heic))
    junk = [f"__MACOSX/._{index}.jpg" for index in range(20)]
    assert "none so far" in refused(zip_of(tmp_path / "junk.zip", junk))
    assert "one zip" in refused([*zip_of(tmp_path / "a.zip", []), *photos(tmp_path / "b", 8)])
    # Its list takes ten times as much memory while it is read.
    crowd = zip_of(tmp_path / "crowd.zip", [f"{index:01000}.jpg" for index in range(2000)])
    assert "more than the 2,000 files allowed: pack only the photos" in refused(crowd)
    check_photos(zip_of(tmp_path / "good.zip", [f"in/{index}.jpg" for index in range(8)]))


@pytest.mark.parametrize("packed", [False, True])
def test_photos_that_a_build_would_pass_over_as_hidden_do_not_count(
    tmp_path: Path, packed: bool
) -> None:
    paths = photos(tmp_path / "in", 8)
    check_photos(paths)
    hidden = Path(paths[0]).rename(tmp_path / "in" / ".trashed.jpg")
    what = f"{hidden.name} is not a photo"
    paths[0] = str(hidden)
    if packed:
        what = "there are 7 so far"
        paths = zip_of(tmp_path / "in.zip", [Path(path).name for path in paths])
    with pytest.raises(ValueError, match=what):
        check_photos(paths)


BUILD = """
import json, shutil, subprocess, sys, time
out, mode = sys.argv[sys.argv.index("--out") + 1], sys.argv[1]
report = {"stage": "Train Gaussians", "done": 1, "total": 4, "note": "", "left": 90.5}
print(json.dumps(report), flush=True)
if mode == "wait":
    time.sleep(60)
if mode.startswith("late:"):
    shutil.copytree(mode.removeprefix("late:"), out)
    time.sleep(60)
if mode == "error":
    print(json.dumps({"error": "Only 3 of 8 photos could be placed."}))
    sys.exit(1)
if mode.startswith("leave:"):
    left = open(mode.removeprefix("leave:"), "w")
    subprocess.Popen("sleep 3; echo outlived", shell=True, stdout=left)
if mode == "crash" or mode.startswith("leave:"):
    sys.exit(139)
time.sleep(1)  # reports that come in one breath are told as one
shutil.copytree(mode, out)
print(json.dumps({"stage": "save", "done": 1, "total": 1, "note": "2 photos were left out."}))
print(json.dumps({"scene": out}))
"""


def builder_of(tmp_path: Path, mode: str) -> tuple[Shelf, Builder]:
    """A builder whose child behaves as `mode` says, to test how it is watched."""
    shelf = shelf_of_balls(tmp_path)
    (tmp_path / "build.py").write_text(BUILD)
    mode = str(tmp_path / "balls") if mode == "copy" else mode
    return shelf, Builder(shelf, [sys.executable, str(tmp_path / "build.py"), mode])


def build(builder: Builder, paths: list[str], name: str = "") -> list[BuildStatus]:
    """All reports of a build."""
    return list(builder.follow(builder.start(paths, name)))


def leftovers(shelf: Shelf) -> list[str]:
    return [path.name for path in shelf.results.iterdir() if path.name.startswith("photos-")]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("\N{SNOWMAN}".encode(), b"\xff\xfe\xff"),  # a name that is no text
        (b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x63"),  # which needs zip version 9.9
    ],
)
def test_a_zip_that_cannot_be_read_is_refused_in_words(
    tmp_path: Path, good: bytes, bad: bytes
) -> None:
    (path,) = zip_of(tmp_path / "odd.zip", [f"\N{SNOWMAN}{index}.jpg" for index in range(8)])
    odd = Path(path).read_bytes()
    assert good in odd
    Path(path).write_bytes(odd.replace(good, bad))
    with pytest.raises(ValueError, match=r"odd.zip is damaged"):
        check_photos([path])


@pytest.mark.parametrize("packed", [False, True])
def test_more_bytes_of_photos_than_the_page_takes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    if packed:
        paths, size = zip_of(tmp_path / "in.zip", [f"{index}.jpg" for index in range(8)]), 8 * 16
    else:
        paths = photos(tmp_path / "in", 8)
        size = sum(Path(path).stat().st_size for path in paths)
    monkeypatch.setattr(handlers, "MAX_UPLOAD", size)
    check_photos(paths)
    monkeypatch.setattr(handlers, "MAX_UPLOAD", size - 1)
    with pytest.raises(ValueError, match="choose fewer or smaller ones"):
        check_photos(paths)


def test_a_build_reports_and_ends_on_the_shelf(tmp_path: Path) -> None:
    shelf, builder = builder_of(tmp_path, "copy")
    reports = build(builder, photos(tmp_path / "in", 8), "My Mug!")
    training = "Stage 6 of 9: Train Gaussians, 1 of 4, about 2 min left in this stage"
    assert BuildStatus(training, share=0.25, log=("Train Gaussians",)) in reports
    assert reports[-1].scene == "my-mug"
    assert reports[-1].text == "Done: my-mug is in the list of scenes. 2 photos were left out."
    assert reports[-1].log[-1] == "save: 2 photos were left out.", "what happened can still be read"
    assert shelf.names == ["balls", "my-mug"]
    assert len(load_scene(shelf.results / "scenes" / "my-mug").cameras) == 12
    assert leftovers(shelf) == []
    assert build(builder, photos(tmp_path / "in", 8), "My Mug!")[-1].scene == "my-mug-2"


ARGUMENTS = """
import json, os, sys
sys.path.insert(0, os.getcwd())
from langsplat.__main__ import _parser
args = _parser().parse_args(["build", *sys.argv[1:]])
with open(sys.argv[0] + ".json", "w") as file:
    json.dump([os.listdir(args.path), args.name], file)
print(json.dumps({"error": "enough"}))
"""


# With ids: pytest puts a test's name into the environment, where 200,000 letters are too many.
@pytest.mark.parametrize(
    "name", ["--help", "-mug", "my\0 \n" + 200_000 * "x"], ids=["help", "option", "endless"]
)
def test_a_build_gets_all_photos_and_the_name_whatever_they_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    third = Path(photos(tmp_path / "third", 1)[0]).rename(tmp_path / "third" / "0-2.jpg")
    paths = [*photos(tmp_path / "in", 8), str(third), *photos(tmp_path / "other", 2)]
    for name_of_photo in ("a.jpg", "A.jpg"):  # one and the same to some systems
        (photo,) = photos(tmp_path / f"of {name_of_photo}", 1)
        paths.append(str(Path(photo).rename(Path(photo).with_name(name_of_photo))))
    (tmp_path / "tell.py").write_text(ARGUMENTS)
    monkeypatch.chdir(tmp_path)
    shelf = Shelf(Path("results"), {}, lambda spec: TableEncoder())
    builder = Builder(shelf, [sys.executable, str(tmp_path / "tell.py")])
    assert build(builder, paths, name)[-1].text == "enough"
    got, title = json.loads((tmp_path / "tell.py.json").read_text())
    assert len({file.casefold() for file in got}) == len(paths)
    assert title in ("--help", "-mug", "my " + 97 * "x")


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("Käse & <b>Kopf</b> 😀/../x", "käse-b-kopf-b-x"),
        ("ぬいぐるみ の へや", "ぬいぐるみ-の-へや"),
        ("😀", "my-scene"),
    ],
)
def test_a_scene_is_listed_under_the_letters_of_its_name(
    tmp_path: Path, name: str, listed: str
) -> None:
    shelf, builder = builder_of(tmp_path, "copy")
    assert build(builder, photos(tmp_path / "in", 8), name)[-1].scene == listed
    assert listed in shelf.names


def test_a_full_disk_ends_a_build_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _, builder = builder_of(tmp_path, "copy")
    for place, function in ((shutil, "copyfile"), (subprocess, "Popen")):
        with monkeypatch.context() as patched:
            patched.setattr(place, function, full)
            last = build(builder, photos(tmp_path / "in", 8))[-1]
        assert last.kind == "error"
        assert "no room for a build here now (No space left" in last.text
    assert build(builder, photos(tmp_path / "in", 8))[-1].scene == "my-scene"


def test_a_build_stopped_after_its_last_step_is_not_kept(tmp_path: Path) -> None:
    shelf, builder = builder_of(tmp_path, f"late:{tmp_path / 'balls'}")
    key = builder.start(photos(tmp_path / "in", 8), "late")
    running = builder.follow(key)
    made = shelf.results / "scenes" / "late"
    while not made.is_dir():
        next(running)
    builder.stop(key)
    assert list(running)[-1].text == "Stopped. Nothing of this build was kept."
    assert not made.exists()


@pytest.mark.parametrize(
    ("mode", "words"), [("error", "Only 3 of 8 photos"), ("crash", "ended unexpectedly")]
)
def test_a_build_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, mode: str, words: str
) -> None:
    shelf, builder = builder_of(tmp_path, mode)
    last = build(builder, photos(tmp_path / "in", 8))[-1]
    assert last.kind == "error"
    assert words in last.text
    assert last.log == ("Train Gaussians",), "what happened before can still be read"
    assert leftovers(shelf) == []
    assert shelf.names == ["balls"]


def test_what_a_crashed_build_left_running_is_ended(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    _, builder = builder_of(tmp_path, f"leave:{fifo}")
    with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as end:
        assert "ended unexpectedly" in build(builder, photos(tmp_path / "in", 8))[-1].text
        os.set_blocking(end.fileno(), True)
        assert end.read() == ""  # as soon as nobody can write to it any more


def test_a_second_build_is_told_to_wait_and_stop_ends_the_first(tmp_path: Path) -> None:
    shelf, builder = builder_of(tmp_path, "wait")
    paths = photos(tmp_path / "in", 8)
    key = builder.start(paths)
    running = builder.follow(key)
    while next(running).share is None:
        pass
    with pytest.raises(ValueError, match="being built already"):
        builder.start(paths)
    work = shelf.results / "scenes" / "my-scene.build"
    assert work.is_dir(), "another server that builds in this folder sees that the name is taken"
    child = child_of(builder)
    builder.stop("another")
    assert next(running).kind == "busy", "only who started a build can stop it"
    assert child.poll() is None
    builder.stop(key)
    reports = list(running)
    assert reports[-1].text.startswith("Stopped")
    assert all(report.stopping for report in reports[:-1])
    assert child.poll() is not None
    assert leftovers(shelf) == [] and not work.exists()


def test_a_build_leaves_the_unfinished_work_of_another_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, builder = builder_of(tmp_path, "error")
    work = shelf.results / "scenes" / "mug.build"
    work.mkdir(parents=True)
    (work / CAPTURE_FILE).touch()
    assert "Only 3 of 8" in build(builder, photos(tmp_path / "in", 8), "mug")[-1].text
    assert list(shelf.results.glob("scenes/**/*")) == [work, work / CAPTURE_FILE]

    def taken(source: str, copy: Path) -> None:
        assert (work.parent / "mug-2.build").is_dir(), "before the photos are copied"
        Path(copy).touch()

    monkeypatch.setattr(shutil, "copyfile", taken)
    assert "Only 3 of 8" in build(builder, photos(tmp_path / "in", 8), "mug")[-1].text


def test_a_build_ends_where_processes_have_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")  # as on Windows
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        handlers._end(child)
    assert child.returncode == -signal.SIGTERM


def child_of(builder: Builder) -> "subprocess.Popen[str]":
    """The process of the build that runs."""
    assert builder._build is not None
    child = builder._build._child
    assert child is not None
    return child


def test_a_build_goes_on_without_its_page_and_is_found_again(tmp_path: Path) -> None:
    _, builder = builder_of(tmp_path, "copy")
    key = builder.start(photos(tmp_path / "in", 8), "mug")
    page = builder.follow(key)
    next(page)
    page.close()  # as gradio does when a browser is gone
    assert list(builder.follow("another")) == []
    (*_, last) = builder.follow(key)
    assert last.scene == "mug"
    assert list(builder.follow(key)) == [last], "told again to a page that comes after the end"


def test_a_build_that_is_known_no_longer_is_said_to_be_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, forgotten = shelf_of_balls(tmp_path), []
    monkeypatch.setattr("demo.page.forget_broken_uploads", lambda: forgotten.append("uploads"))
    with gr.Blocks() as page:
        key, tabs, explore = gr.BrowserState(""), gr.Tabs(), Explore(shelf)
        new_scene = NewScene(Builder(shelf), explore)
        new_scene.wire(page, tabs, key)
    (told,) = new_scene.come_back("of before the server started again")
    assert "start it again" in told[new_scene.monitor]["text"]
    for nothing in ("", told[key]):
        assert list(new_scene.come_back(nothing)) == [{key: told[key]}]
    assert forgotten == 3 * ["uploads"], "each time a page comes"


def test_what_a_browser_keeps_can_be_read_after_a_new_start(
    served: gr.Blocks, shelf: Shelf
) -> None:
    again = build_app(shelf, Builder(shelf))
    first, second = (
        [part["props"]["secret"] for part in page.config["components"] if "secret" in part["props"]]
        for page in (served, again)
    )
    assert first == second != []


def test_uploads_that_broke_off_are_removed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = time.time() - 4000
    for name in ("tmpold", "gradio/tmpold", "gradio/tmpnew", "gradio/0a1b/tmpold.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        if "old" in name:
            os.utime(tmp_path / name, (long_ago, long_ago))
    for folder in (tmp_path, tmp_path / "gradio"):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        forget_broken_uploads()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    # The new one may be going on, whole ones are gradio's, the first may be another program's.
    assert left == {"tmpold", "gradio/tmpnew", "gradio/0a1b/tmpold.zip"}


@pytest.mark.parametrize("mode", ["wait", "copy"])
def test_closing_the_builder_ends_what_runs(tmp_path: Path, mode: str) -> None:
    shelf, builder = builder_of(tmp_path, mode)
    builder.close()  # nothing has been built yet
    running = builder.follow(builder.start(photos(tmp_path / "in", 8)))
    while next(running).share is None:
        pass
    child = child_of(builder)
    builder.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    assert leftovers(shelf) == []
    assert shelf.names == ["balls"]


def test_a_build_stopped_before_its_process_runs_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, builder = builder_of(tmp_path, "copy")
    copying, stopped, copy = threading.Event(), threading.Event(), shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        copying.set()
        assert stopped.wait(60)
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", slow)
    key = builder.start(photos(tmp_path / "in", 8))
    assert copying.wait(60)
    builder.stop(key)
    stopped.set()
    (*_, last) = builder.follow(key)
    assert last.text.startswith("Stopped")


# --------------------------------------------------------------------------- over HTTP


def test_the_visits_that_are_kept_are_bounded(served: gr.Blocks) -> None:
    assert served.state_holder.capacity == MOST_PAGES


def test_an_open_page_holds_none_of_the_six_connections_of_its_browser(address: str) -> None:
    with urllib.request.urlopen(f"{address}config") as response:
        assert json.load(response)["connect_heartbeat"] is False


def test_the_page_itself_travels_compressed(address: str) -> None:
    with urllib.request.urlopen(address) as response:
        plain = response.read()
    asked = urllib.request.Request(address, headers={"Accept-Encoding": "gzip, deflate, br"})
    with urllib.request.urlopen(asked) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        zipped = response.read()
    assert len(zipped) < len(plain) / 4
    assert b"Points in 3D" in gzip.decompress(zipped)


def test_exactly_three_endpoints_are_public(address: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    api = client.view_api(return_format="dict", print_info=False)
    assert set(api["named_endpoints"]) == {"/scenes", "/render", "/query"}
    assert api["unnamed_endpoints"] == {}


def test_a_script_can_list_render_and_query(address: str, tmp_path: Path) -> None:
    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path))
    scenes = client.predict(api_name="/scenes")
    assert scenes[0]["name"] == "balls"
    assert scenes[0]["views"] == 12
    with Image.open(client.predict(scene="balls", view=2, api_name="/render")) as picture:
        assert picture.size == (640, 480)
    result, overlay, mask = client.predict(
        text="blue ball", scene="balls", view=2, threshold=0.5, api_name="/query"
    )
    assert result["found"] is True
    assert result["gaussians"] == 400
    with Image.open(overlay) as picture:
        assert picture.size == (640, 480)
    with Image.open(mask) as picture:
        inside = np.asarray(picture.convert("L")) > 127
    assert inside.mean() == pytest.approx(result["share"], abs=1e-4)
    left, top, right, bottom = result["box"]
    assert inside[top:bottom, left:right].sum() == inside.sum()
    result, *_ = client.predict(
        text="blue ball", scene="balls", view=2, threshold=1, level="part", api_name="/query"
    )
    assert (result["found"], result["threshold"], result["level"]) == (False, 1, "part")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": " "}, "Type what to look for"),
        ({"text": "x" * 10_000}, "200 characters"),
        ({"text": "mug", "scene": "/etc/passwd"}, "in the list"),
        ({"text": "mug", "scene": None}, "in the list"),
        ({"text": "mug", "view": 99}, "views 0 to 11"),
        ({"text": "mug", "view": None}, "view must be a number"),
        ({"text": "mug", "threshold": None}, "threshold must be a number"),
        ({"text": "mug", "threshold": 7}, "between 0 and 1"),
        ({"text": "mug", "level": "all"}, "level must be one of"),
    ],
)
def test_a_script_gets_a_sentence_and_no_traceback(
    address: str, arguments: dict[str, object], words: str
) -> None:
    client = gradio_client.Client(address, verbose=False)
    with pytest.raises(Exception, match=words) as error:
        client.predict(**arguments, api_name="/query")
    assert "Traceback" not in str(error.value)


def test_no_file_of_the_machine_is_served(address: str, shelf: Shelf) -> None:
    for path in ("/etc/passwd", str(ROOT / "app.py"), str(shelf.results.parent / "balls")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert error.value.code in (403, 404)


def test_a_scene_too_large_for_the_gpu_is_opened_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Scene, device: str) -> Scene:
        raise torch.OutOfMemoryError(f"{device} is full")

    monkeypatch.setattr(Scene, "to", full)
    shelf = shelf_of_balls(tmp_path)
    assert shelf.answer("balls", View(), "red ball").found


@pytest.mark.gpu
def test_a_page_on_a_gpu_answers_as_one_on_the_cpu(shelf: Shelf, tmp_path: Path) -> None:
    on_gpu = shelf_of_balls(tmp_path, "cuda")
    assert on_gpu.room("balls").scene.gaussians.means.is_cuda
    np.testing.assert_allclose(
        on_gpu.picture("balls", View()).astype(int), shelf.picture("balls", View()), atol=2
    )
    for text in (BALLS[0], f"top of the {BALLS[0]}"):
        here, there = (one.answer("balls", View(), text) for one in (shelf, on_gpu))
        assert (here.mask != there.mask).mean() < 0.002
        np.testing.assert_allclose(there.gaussian_relevancy, here.gaussian_relevancy, atol=1e-4)


# --------------------------------------------------------------------------- the command line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_ends_the_app_with_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.main(["--device", "cuda"]) == 2
    assert "no CUDA device was found. Use --device cpu." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--results", "{tmp}/file"], "file cannot be used .Not a directory"),
        (["--port", "99999"], "a port lies between 1 and 65535"),
        (["--port", "x"], "a port lies between 1 and 65535"),
        (["--host", "::1"], "::1 is not an IPv4 address: choose another"),
        (["--host", "é" * 70], "é .that is no name of a host.: choose another"),
        (
            ["--host", "203.0.113.9"],
            "The page cannot be served at 203.0.113.9 .Cannot assign requested address",
        ),
        (
            ["--port", "{taken}"],
            "The page cannot be served at 127.0.0.1, port .* .Address already in use.: choose",
        ),
    ],
)
def test_an_argument_that_cannot_be_used_ends_the_app_with_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"tmp": tmp_path, "taken": taken.getsockname()[1]}
        try:
            code = app.main([word.format(**known) for word in words])
        except SystemExit as end:
            code = end.code
    said = capfd.readouterr().err
    assert code == 2 and re.search(sentence, said) and "Traceback" not in said


def test_without_a_folder_for_temporary_files_the_app_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert app.main([]) == 2
    assert "temporary files (No such file or directory): set TMPDIR" in capsys.readouterr().err


def test_a_folder_of_results_that_may_not_be_written_ends_the_app_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that an earlier start has left; simulated, because root may write anywhere."""
    (tmp_path / "downloads").mkdir()

    def refuse(**place: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place["dir"]))

    monkeypatch.setattr(handlers.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("demo.page.serve", lambda *of, **at: pytest.fail("it began to serve"))
    assert app.main(["--results", str(tmp_path)]) == 2
    assert "cannot be used (Permission denied): choose another" in capsys.readouterr().err


def test_a_scene_that_is_not_there_ends_the_app_with_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = app.main(["--scene", "no such scene", "--results", str(tmp_path)])
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "no such scene" in said


def test_on_zero_gpu_the_app_registers_a_function_and_draws_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    devices: list[str] = []
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=registered.append))
    page = SimpleNamespace(block_thread=lambda: interrupt(signal.SIGINT, None))
    monkeypatch.setattr(
        "demo.page.build_app", lambda shelf, _: devices.append(shelf.device) or page
    )
    monkeypatch.setattr("demo.page.serve", lambda *of, **at: "its address")
    monkeypatch.setattr(Shelf, "warm_up", lambda shelf: None)
    monkeypatch.setattr("langsplat.rasterize.quickest_device", lambda: "cuda")
    assert app.main(["--results", str(tmp_path)]) == 130
    assert len(registered) == 1 and devices == ["cpu"]


def test_the_app_ends_while_a_thread_is_inside_torch() -> None:
    """As after Ctrl-C while the first picture is drawn: Python aborted, and said so."""
    program = (
        "import runpy, sys, threading, torch\n"
        "table = torch.ones(200, 200)\n"
        "def work():\n    while True: table @ table\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "sys.argv = ['app.py', '--host', '::1']\n"  # which is refused before anything is loaded
        "runpy.run_path('app.py', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("again", [None, signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_app_ends_the_build_that_runs_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: signal.Signals | None
) -> None:
    closed: list[Builder] = []

    def close(builder: Builder) -> None:
        if again is not None:
            signal.raise_signal(again)
        closed.append(builder)

    page = SimpleNamespace(block_thread=lambda: interrupt(signal.SIGINT, None))
    monkeypatch.setattr("demo.page.build_app", lambda *of: page)
    monkeypatch.setattr("demo.page.serve", lambda *of, **at: "its address")
    monkeypatch.setattr(Shelf, "warm_up", lambda shelf: None)
    monkeypatch.setattr(Builder, "close", close)
    assert app.main(["--results", str(tmp_path)]) == 130
    assert len(closed) == 1


def test_the_app_ends_without_an_error_though_its_terminal_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where gradio says that it was interrupted: after that error Python aborted."""

    def say() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    closed: list[Builder] = []
    monkeypatch.setattr("demo.page.build_app", lambda *of: SimpleNamespace(block_thread=say))
    monkeypatch.setattr("demo.page.serve", lambda *of, **at: "its address")
    monkeypatch.setattr(Shelf, "warm_up", lambda shelf: None)
    monkeypatch.setattr(Builder, "close", lambda builder: closed.append(builder))
    assert app.main(["--results", str(tmp_path)]) == 0
    assert len(closed) == 1


def test_a_damaged_scene_ends_the_app_with_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a\x1b[2Jb"  # which would clear the terminal
    folder.mkdir()
    (folder / "scene.safetensors").write_bytes(b"{}")
    assert app.main(["--scene", str(folder), "--results", str(tmp_path / "r")]) == 2
    assert "app.py: a\\x1b[2Jb is not a readable scene" in capsys.readouterr().err


def test_the_app_opens_a_scene_of_the_hub_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save_scene(three_balls(), tmp_path / "balls")
    files = {"scene.safetensors": (tmp_path / "balls" / "scene.safetensors").read_bytes()}
    (tmp_path / "tmp").mkdir()
    with hub_server.serve({"jane/garden": hub_server.Repo(files)}) as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "TMPDIR": str(tmp_path / "tmp"),
        }
        inherited = {key: value for key, value in os.environ.items() if key != "GRADIO_TEMP_DIR"}
        process = subprocess.Popen(
            [sys.executable, "app.py", "--scene", "jane/garden"],
            cwd=ROOT,
            env=inherited | settings,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            ready = next(line for line in process.stdout if "ready at" in line)
            client = gradio_client.Client(ready.split()[-1], verbose=False)
            assert client.predict(api_name="/scenes")[0]["name"] == "jane/garden"
        finally:
            process.terminate()
            code = process.wait(30)
    assert code == 0
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torch")] == []
