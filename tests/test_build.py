"""The main job on a tiny world: pictures become a scene that answers on the command line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from langsplat import build
from langsplat.__main__ import main
from langsplat.build import STAGES, BuildConfig
from langsplat.cameras import orbit_camera
from langsplat.capture import LOADING, Capture, _folders, _gather
from langsplat.codec import Autoencoder, AutoencoderConfig
from langsplat.encoders import load_encoder
from langsplat.masks import RegionSegmenter, load_segmenter
from langsplat.progress import Progress, silent, torch_threads
from langsplat.rasterize import render
from langsplat.sam import SamSegmenter
from langsplat.scene import SCENE_FILE, Camera, Gaussians, Scene, load_scene, save_scene
from langsplat.train import TrainConfig
from tests.conftest import ROOT
from tests.test_features import MeanColor

SIZE = (96, 72)
QUICK = ["--iterations", "300", "--max-gaussians", "800", "--max-side", "96"]


def painted_world() -> Gaussians:
    """A grey floor with a red, a green and a blue ball on it."""
    generator = torch.Generator().manual_seed(0)
    floor = torch.rand(600, 3, generator=generator) * torch.tensor([4.0, 4.0, 0.02])
    floor = floor - torch.tensor([2.0, 2.0, 0.5])
    balls, colors = [floor], [torch.full((600, 3), 0.5)]
    for angle, color in ((0.0, [0.9, 0.1, 0.1]), (2.1, [0.1, 0.8, 0.1]), (4.2, [0.1, 0.2, 0.9])):
        place = torch.tensor([np.cos(angle), np.sin(angle), 0.0], dtype=torch.float32)
        ball = torch.nn.functional.normalize(torch.randn(150, 3, generator=generator), dim=1)
        balls.append(place + 0.4 * ball)
        colors.append(torch.tensor(color).expand(150, 3))
    means = torch.cat(balls)
    n = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        scales=torch.full((n, 3), 0.09),
        opacities=torch.full((n,), 0.9),
        sh=((torch.cat(colors) - 0.5) / 0.28209479)[:, None],
    )


def around(count: int) -> list[Camera]:
    """Cameras on a circle around the world."""
    center, up = torch.zeros(3), torch.tensor([0.0, 0, 1])
    return [
        orbit_camera(center, up, 4.0, 360 / count * k, 30.0, 1.0, *SIZE, 50.0) for k in range(count)
    ]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures of the painted world, posed as nerfstudio writes them."""
    folder = tmp_path_factory.mktemp("capture")
    (folder / "images").mkdir()
    world, frames = painted_world(), []
    for index, camera in enumerate(around(16)):
        image, _ = render(world, camera)
        picture = (image.clamp(0, 1) * 255).to(torch.uint8).numpy()
        Image.fromarray(picture).save(folder / "images" / f"{index:02d}.png")
        opengl = camera.camtoworld @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
        frames.append({"file_path": f"images/{index:02d}.png", "transform_matrix": opengl.tolist()})
    K = camera.K
    shared = {
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "w": SIZE[0],
        "h": SIZE[1],
    }
    (folder / "transforms.json").write_text(json.dumps(shared | {"frames": frames}))
    return folder


@pytest.fixture(scope="module")
def built(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "balls"
    assert main(["build", str(capture), "--out", str(out), "--examples", "red ball", *QUICK]) == 0
    return out


def test_a_build_writes_a_whole_scene_and_nothing_beside_it(built: Path, capture: Path) -> None:
    scene = load_scene(built)
    assert len(scene.cameras) == 16 and 0 < len(scene.gaussians) <= 800
    assert scene.language is not None and scene.language.encoder.startswith("bundled:")
    assert float((scene.language.mass[2] > 0).float().mean()) > 0.5
    assert scene.provenance["photos"] == 16 and scene.examples == ["red ball"]
    assert scene.provenance["psnr"]["mean"] > 18
    assert scene.provenance["psnr"]["kind"] == "training" and scene.name == capture.name
    assert {path.name for path in built.iterdir()} == {SCENE_FILE, "preview.jpg", "README.md"}
    assert [path.name for path in built.parent.iterdir()] == ["balls"]
    assert Image.open(built / "preview.jpg").size == SIZE
    card = (built / "README.md").read_text(encoding="utf-8")
    assert f"- {len(scene.gaussians)} Gaussians, 16 views\n- encoder `bundled:" in card
    assert re.search(
        r"- PSNR [\d.]+ dB over 2 training views\n- made by .*\"iterations\": 300", card
    )
    assert card.endswith("\nTry: *red ball*\n")


def test_what_is_built_already_is_built_again_only_if_something_has_changed(
    built: Path,
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def begin(*args: object, **options: object) -> None:
        raise ValueError("It begins.")

    monkeypatch.setattr("langsplat.build.load_segmenter", begin)
    copied, moved = tmp_path / "copied", tmp_path / "scene"
    shutil.copytree(built, moved)
    shutil.copytree(capture, copied)  # the copies of the photos get other times
    for file in copied.rglob("*"):
        os.utime(file, (1, 1))
    command, as_before = ["build", str(capture), "--out"], ["--examples", "red ball", *QUICK]
    assert main([*command, str(moved), *as_before]) == 0
    assert "is there: remove it to build it again." in capsys.readouterr().err
    for other in (
        [*command, str(moved), *as_before, "--seed", "1"],
        [*command, str(moved), "--examples", "blue ball", *QUICK],
        [*command, str(moved), *as_before, "--name", "balls"],
        [*command, str(tmp_path / "new"), *as_before],
        ["build", str(copied), "--out", str(moved), *as_before],
    ):
        assert main(other) == 1
        assert "It begins." in capsys.readouterr().err
    described = replace(
        load_scene(moved), provenance=load_scene(moved).provenance | {"described": {}}
    )
    save_scene(described, moved)
    assert main([*command, str(moved), *as_before]) == 1
    assert load_scene(moved).language is not None, "what was there stays"


def test_other_weights_of_the_same_name_are_another_build(
    built: Path, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built, tmp_path / "scene")
    monkeypatch.setattr("langsplat.build.load_segmenter", lambda *args, **options: 1 / 0)
    command = ["build", str(capture), "--out", str(tmp_path / "scene"), "--examples", "red ball"]
    assert main([*command, *QUICK]) == 0
    monkeypatch.setattr("langsplat.build.bundled_name", lambda: "bundled:0123abcd")
    with pytest.raises(ZeroDivisionError):  # raised when a build begins
        main([*command, *QUICK])
    file = tmp_path / "weights.pt"
    for config in (
        BuildConfig(encoder=f"open_clip:ViT-B-32/{file}"),
        BuildConfig(segmenter=f"sam_vit_b:{file}"),
        BuildConfig(segmenter=f"sam_vit_b:fast/{file}"),
    ):
        settings = []
        for content in (b"1", b"22"):
            file.write_bytes(content)
            settings += [build._all_settings(config), build._all_settings(config)]
        assert settings[0] == settings[1] != settings[2] == settings[3]


def test_what_a_build_left_that_was_killed_after_saving_goes_with_the_next(
    built: Path, capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scene"
    shutil.copytree(built, out)
    command = ["build", str(capture), "--out", str(out), "--examples", "red ball", *QUICK]
    with build._Work(capture, out, 96) as work:
        (work.folder / "train.state").touch()
        assert main(command) == 0
        assert work.folder.exists(), "somebody works there"
    for name in ("train.state", "of.txt"):
        os.utime(work.folder / name, (1, 1))
    (work.folder / "features").mkdir()
    (work.folder / "features" / "0.npz").touch()
    os.utime(out / SCENE_FILE, (2, 2))
    assert main(command) == 0
    assert (work.folder / "train.state").exists(), "newer: of another build, which may go on"
    os.utime(work.folder / "features" / "0.npz", (2, 2))
    assert main(command) == 0
    assert not work.folder.exists() and load_scene(out).language is not None


def test_a_query_on_the_command_line_writes_five_files(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer"
    command = ["query", str(built), "red", "ball", "--view", "3", "--out", str(out)]
    assert main([*command, "--threshold", "0.75", "--level", "part"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "render.png",
        "overlay.png",
        "mask.png",
        "relevancy.npz",
        "result.json",
    }
    result = json.loads((out / "result.json").read_text())
    assert (result["text"], result["threshold"], result["level"]) == ("red ball", 0.75, "part")


def test_a_scene_of_latents_is_built_and_asked(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(AutoencoderConfig, rounds=2)  # instead of a hundred
    monkeypatch.setattr("langsplat.language.AutoencoderConfig", few)
    out = tmp_path / "scene"
    command = ["build", str(capture), "--out", str(out), "--codec", "autoencoder", *QUICK]
    assert main([*command, "--iterations", "30"]) == 0
    field = load_scene(out).language
    assert field is not None and isinstance(field.codec, Autoencoder) and field.rows is None
    assert field.codes.shape[2] == 3 and float((field.mass[2] > 0).float().mean()) > 0.5
    answer = tmp_path / "answer"
    assert main(["query", str(out), "red ball", "--view", "3", "--out", str(answer)]) == 0
    assert json.loads((answer / "result.json").read_text())["text"] == "red ball"


class NoWholes(RegionSegmenter):
    """The bundled segmenter, but without the level whole."""

    name = "no wholes"

    def __call__(self, image: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        levels = super().__call__(image, surface)
        levels[2] = -1
        return levels


def test_a_level_without_segments_is_told_by_the_build_and_by_a_query_at_it(
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("langsplat.build.load_segmenter", lambda spec, *, device: NoWholes())
    out = tmp_path / "scene"
    assert main(["build", str(capture), "--out", str(out), *QUICK, "--iterations", "30"]) == 0
    note = "No view has a segment at the level whole, so queries are not answered at it: choose"
    assert note in capsys.readouterr().err
    assert [line.startswith(note) for line in load_scene(out).provenance["notes"]] == [True]
    query = ["query", str(out), "red ball", "--out", str(tmp_path / "answer"), "--level"]
    assert main([*query, "whole"]) == 0
    said, files = capsys.readouterr().out.splitlines()
    assert said == (
        "Nothing can be found at the level whole, because no part of this scene was ever "
        "described there: ask at another one (subpart, part)."
    )
    assert files.startswith(f"In {tmp_path / 'answer'}: ") and "mask.png" in files
    assert not np.asarray(Image.open(tmp_path / "answer" / "mask.png")).any()
    assert main([*query, "part"]) == 0
    assert "red ball" in capsys.readouterr().out
    monkeypatch.setattr("langsplat.build.load_segmenter", lambda spec, *, device: Sides(False))
    save_scene(replace(load_scene(out), cameras=load_scene(out).cameras[:1]), out)
    assert main(["describe", str(out), "--out", str(out)]) == 0
    assert load_scene(out).provenance["notes"] == [] and note not in (out / "README.md").read_text()


class Sides:
    """Stands in for a segmenter: left and right at every level; remembers the surfaces."""

    def __init__(self, uses_surface: bool) -> None:
        self.name, self.uses_surface = "sides", uses_surface
        self.surfaces: list[np.ndarray | None] = []

    def __call__(self, image: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        self.surfaces.append(surface)
        half = np.zeros((3, *image.shape[:2]), np.int32)
        half[:, :, half.shape[2] // 2 :] = 1
        return half


@pytest.mark.parametrize("uses_surface", [True, False])
def test_views_are_described_again_when_what_describes_them_has_changed(
    tmp_path: Path, uses_surface: bool
) -> None:
    world, cameras = painted_world(), around(4)
    moved = replace(world, means=world.means + 0.01)
    pictures = [(render(world, c)[0].clamp(0, 1) * 255).byte().numpy() for c in cameras]
    told: list[tuple[int, int]] = []
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1")

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage == "Describe segments":
            told.append((done, total))

    def encoded(encoder_name: str, gaussians: Gaussians, segmenter_name: str = "sides") -> int:
        """How many views the encoder was shown: two segments, the same at every level."""
        segmenter, encoder = Sides(uses_surface), MeanColor()
        encoder.name, segmenter.name = encoder_name, segmenter_name
        field = build._make_language(
            gaussians,
            cameras,
            pictures.__getitem__,
            segmenter,
            encoder,
            BuildConfig(holdout_every=2, encoder=f"open_clip:ViT-B-32/{weights}"),
            tmp_path,
            {},
            progress,
        )
        assert field.encoder == encoder_name and set(encoder.batches) <= {2}
        for surface in segmenter.surfaces:
            if uses_surface:
                assert surface is not None and surface.shape == (72, 96, 4) and surface.any()
            else:
                assert surface is None
        return len(encoder.batches)

    assert [encoded("one", world), encoded("one", world)] == [2, 0]
    assert [encoded("other", world), encoded("one", world)] == [2, 0]
    assert encoded("one", moved) == (2 if uses_surface else 0)
    assert encoded("one", world, "other sides") == 2
    weights.write_bytes(b"22")  # downloaded again
    assert encoded("one", world) == 2
    assert told == [(0, 2), (1, 2), (2, 2)] * 7, "two of the four are kept out"


def test_the_stage_that_describes_views_is_told_before_the_first_view(tmp_path: Path) -> None:
    """With a large model a view takes minutes: nobody should wait for the stage before."""
    told: list[tuple[str, int, int, str]] = []

    def segmenter(*given: object) -> np.ndarray:
        raise ValueError(str(told))

    segmenter.name, segmenter.uses_surface = "any", False
    given = [painted_world(), around(4), lambda view: None, segmenter, MeanColor(), BuildConfig()]
    with pytest.raises(ValueError, match=r"^\[\('Describe segments', 0, 4, ''\)\]$"):
        build._make_language(*given, tmp_path, {}, lambda *now: told.append(now))


def test_what_a_build_is_told_reaches_its_stages_and_the_scene(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, asked = tmp_path / "photos", {}
    shutil.copytree(capture, photos)
    (photos / "images" / "05.png").unlink()

    def recorded(stage: str) -> None:
        work = getattr(build, stage)

        def recording(*args: Any, **options: Any) -> Any:
            asked[stage] = (args, options)
            return work(*args, **options)

        monkeypatch.setattr(build, stage, recording)

    recorded("fit_gaussians")
    recorded("fit_language")
    recorded("render_rgb")
    monkeypatch.setattr(build, "central_view", lambda cameras: 3)
    monkeypatch.setattr(build, "load_segmenter", lambda spec, *, device: Sides(False))
    monkeypatch.setattr(build, "load_encoder", lambda spec, *, device: MeanColor())
    config = BuildConfig(
        name="Three balls",
        max_side=96,
        iterations=2,
        max_gaussians=600,
        sh_degree=1,
        codewords=4,
        holdout_every=4,
        seed=7,
    )
    told: list[str] = []
    out = build.build_scene(
        photos, tmp_path / "scene", config, progress=lambda *now: told.append(now[3])
    )
    scene = load_scene(out)
    assert asked["fit_gaussians"][0][1] == TrainConfig(
        iterations=2, max_gaussians=600, sh_degree=1, holdout_every=4, seed=7
    )
    chosen = {name: asked["fit_language"][1][name] for name in ("codec", "codewords", "seed")}
    assert chosen == {"codec": "codebook", "codewords": 4, "seed": 7}
    assert scene.name == "Three balls" and scene.gaussians.sh_degree == 1
    assert scene.provenance["psnr"].items() >= {"views": 4, "kind": "held-out"}.items()
    (note,) = scene.provenance["notes"]
    assert note.startswith("1 of the 16 photos listed in transforms.json are missing")
    assert f"- {note}" in (out / "README.md").read_text(encoding="utf-8")
    assert told.index(note) < len(told) - 1 and told[-1] == note, "before training, and at the end"
    torch.testing.assert_close(scene.up, torch.tensor([0.0, 0, 1]), atol=0.05, rtol=0)
    assert float(scene.center.norm()) < 0.3 and abs(scene.radius - 4) < 0.5
    shown = asked["render_rgb"][0][1]
    assert scene.start_view == 3 and shown.name == scene.cameras[3].name, "the preview"


def test_a_scene_is_first_shown_from_the_middle_of_its_views() -> None:
    assert build.central_view(tuple(around(12)[:5])) == 2


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "view.npz").mkdir()
    with pytest.raises(OSError):
        build._savez(tmp_path / "view.npz", {"rows": np.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["view.npz"]


class Halves(SamSegmenter):
    """Stands in for SAM: two halves at every level; remembers what it handed out."""

    def __init__(self, stop_after: int) -> None:
        self.name, self.left, self.handed = "sam_vit_b:cpu", stop_after, list[weakref.ref]()

    def segments_and_masks(self, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        assert sum(ref() is not None for ref in self.handed) <= 2, "the view before, no more"
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        half = np.zeros(image.shape[:2], np.int32)
        half[:, half.shape[1] // 2 :] = 1
        segments, masks = np.stack([half] * 3), np.stack([half == 0, half == 1])
        self.handed += [weakref.ref(segments), weakref.ref(masks)]
        return segments, [masks] * 3


def test_masks_of_sam_are_made_view_by_view_and_go_on_where_they_stopped(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["describe", str(built), "--out", str(tmp_path / "out"), "--progress", "json"]
    notes, asked = [], []
    for stop_after, code in ((5, 130), (99, 0)):
        sam = Halves(stop_after)
        monkeypatch.setattr("langsplat.build.load_segmenter", lambda spec, *, device, sam=sam: sam)
        assert main(command) == code
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        told = [k for k in lines if k.get("stage") == "Describe segments" and k["done"]]
        notes.append([k["note"] for k in told])
        asked.append(len(sam.handed) // 2)
    assert asked == [5, 11] and len(notes[0]) == 5
    assert load_scene(tmp_path / "out").examples == ["red ball"], "as no others were given"
    assert notes[1][:5] == ["from an earlier run"] * 5
    for done, note in enumerate(notes[0] + notes[1][5:]):
        assert re.fullmatch(rf"6 segments in images/{done:02d}\.png, \d+\.\d s", note), note


def test_a_render_has_the_size_asked_for(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "image.png"
    command = ["render", str(built), "--view", "02.png", "--width", "48", "--out", str(file)]
    assert main(command) == 0
    picture = np.asarray(Image.open(file))
    assert picture.shape == (36, 48, 3) and picture.std() > 10


def test_a_view_of_a_name_that_several_have_is_asked_for_by_its_folder_or_number(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a rig whose cameras each number their photos from 0."""
    scene = load_scene(built)
    names = ("left/0.png", "right/0.png")
    views = [replace(view, name=name) for view, name in zip(scene.cameras, names, strict=False)]
    save_scene(replace(scene, cameras=tuple(views)), tmp_path / "rig")
    command = ["render", str(tmp_path / "rig"), "--width", "16", "--out", str(tmp_path / "x.png")]
    assert main([*command, "--view", "0.png"]) == 1
    assert "several views '0.png': use a number from 0 to 1, or a name such as 'left/0.png'" in (
        capsys.readouterr().err
    )
    for view in ("left/0.png", "1"):
        assert main([*command, "--view", view]) == 0
    assert main([*command, "--view", "2"]) == 1
    assert "There is no view '2'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["query", "{scene}", " ", "--out", "{tmp}/x"], "Type what to look for"),
        (["query", "{scene}", "y" * 10_000, "--out", "{tmp}/x"], "10,000"),
        (["query", "{scene}", "cup", "--view", "99", "--out", "{tmp}/x"], "number from 0 to 15"),
        (["query", "{tmp}/none", "cup", "--level", "all", "--out", "{tmp}/x"], "The level must be"),
        (["build", "{tmp}/a\x1b[2Jb", "--out", "{tmp}/x"], "/a\\x1b[2Jb"),
        (["query", "{scene}", "cup", "--out", "{scene}/README.md"], "README.md cannot be used (Fi"),
        (["render", "{scene}", "--out", "{tmp}/x.exe"], "must end in"),
        (["render", "{scene}", "--width", "0", "--out", "{tmp}/x.png"], "pixels"),
        (["render", "{tmp}/nowhere", "--out", "{tmp}/x.png"], "nowhere"),
        (["build", "{tmp}/nowhere", "--out", "{tmp}/x"], "nothing at"),
        (["build", "{capture}", "--out", "{capture}"], "holds other files"),
        (["build", "{capture}", "--out", "{tmp}/x", "--segmenter", "eyes"], "bundled"),
        (["build", "{capture}", "--out", "{tmp}/x", "--max-side", "1"], "max_side"),
        (["build", "{capture}", "--out", "{tmp}/x", "--codec", "pq"], "autoencoder"),
        (
            ["describe", "{scene}", "--out", "{tmp}/x", "--holdout-every", "1"],
            "use 0 or 2 and more",
        ),
        (["query", "{scene}", "cup", "--out", "{tmp}/x", "--device", "cuda"], "Use --device cpu."),
        (["build", "{tmp}/nowhere", "--out", "{tmp}/x", "--iterations", "0"], "iterations must be"),
        (["build", "{capture}", "--out", "{tmp}/x", "--seed", str(2**64)], "between 0 and 2^63"),
        (["build", "{capture}", "--out", "{tmp}/x", "--seed", "-1"], "between 0 and 2^63"),
        (["build", "{capture}", "--out", "{tmp}/x", "--codewords", "0"], "codewords must lie"),
        (["build", "{capture}", "--out", "{tmp}/x", "--encoder", "a\udcff"], "rename the file"),
        (["build", "{capture}", "--out", "{tmp}/x", "--language", "slow"], "quick, paper"),
    ],
)
def test_mistakes_are_one_sentence(
    built: Path,
    capture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    words: str,
) -> None:
    filled = [part.format(scene=built, capture=capture, tmp=tmp_path) for part in command]
    assert main(filled) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and "\x1b" not in said
    assert list(tmp_path.iterdir()) == []


def start(capture: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "langsplat", "build", str(capture), "--out", str(out)]
    return subprocess.Popen(
        [*command, *QUICK, "--progress", "json", *more],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def test_a_stopped_build_leaves_no_scene_and_the_next_one_goes_on(
    capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scene"
    process = start(capture, out)
    assert process.stdout is not None
    stages: list[str] = []
    for line in process.stdout:
        event = json.loads(line)
        stages.append(event["stage"])
        if stages[-1] == "Describe segments" and event["done"]:  # training is done, this is not
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert not out.exists()
    described = len(list((tmp_path / "scene.build").glob("features-*/0*.npz")))
    assert 0 < described < 16

    lines = [json.loads(line) for line in start(capture, out).communicate()[0].splitlines()]
    assert lines[-1] == {"scene": str(out)}
    stages += [line["stage"] for line in lines[:-1] if line["stage"] not in stages]
    posed = STAGES[STAGES.index(LOADING) :]
    assert tuple(dict.fromkeys(stages)) == posed, "as the page counts them"
    trained = [line for line in lines if line.get("stage") == "Train Gaussians"]
    assert all(line["done"] == line["total"] for line in trained), "training was not done again"
    assert load_scene(out).language is not None
    assert not (tmp_path / "scene.build").exists()


def described(folder: Path, progress: Progress, threads: int) -> list[dict[str, np.ndarray]]:
    """Twelve views of the painted world as a build describes them."""
    world, cameras = painted_world(), around(12)

    def picture(view: int) -> np.ndarray:
        image, _ = render(world, cameras[view])
        return (image.clamp(0, 1) * 255).to(torch.uint8).numpy()

    with torch_threads(threads):
        build._describe(
            cameras, picture, range(12), world, load_segmenter(), load_encoder(), folder, progress
        )
    return [dict(np.load(file)) for file in sorted(folder.glob("*.npz"))]


def test_a_working_folder_knows_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos" / "scene"
    (photos / "more").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (photos / "far").symlink_to(tmp_path / "linked")
    (photos / "round").symlink_to(photos)
    for file in (photos / "a.jpg", photos / "more" / "b.jpg", tmp_path / "linked" / "c.jpg"):
        file.write_bytes(b"1")
    (photos / "transforms.json").write_text("{}")

    def goes_on(path: Path, max_side: int = 480) -> bool:
        """Whether a program that starts now finds what the one before left."""
        work = build._Work(path, out, max_side)
        kept = (work.folder / "capture.npz").is_file()
        (work.folder / "capture.npz").write_bytes(b"")
        (work.folder / "features").mkdir(exist_ok=True)
        return kept

    for path in (photos, photos / "transforms.json"):
        assert not goes_on(path)
        assert goes_on(path)  # its own files are not taken for photos, though inside the capture
        for file in (photos / "more" / "b.jpg", tmp_path / "linked" / "c.jpg"):
            file.write_bytes(file.read_bytes() + b"2")
            assert not goes_on(path)
        assert not goes_on(path, 320) and goes_on(path, 320) and not goes_on(path)
    with build._Work(photos, out, 480) as work:
        (work.folder / "capture.npz").touch()
        with pytest.raises(ValueError, match=r"is being built already: wait for that build"):
            build._Work(photos, out, 480)
    for other in ("build.log", ".DS_Store", "more/Thumbs.db"):  # nothing that a capture reads
        (photos / other).touch()
    with build._Work(photos, out, 480) as work:
        assert (work.folder / "capture.npz").is_file()
    del work
    monkeypatch.setattr("langsplat.__version__", "another")
    assert not goes_on(photos) and goes_on(photos)
    with build._Work(photos, out, 480) as work:
        work.remove()
    assert not work.folder.exists()


def test_where_files_cannot_be_locked_builds_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*args: object) -> None:
        raise OSError(37, "No locks available")  # as some network drives say

    monkeypatch.setattr(fcntl, "flock", refuse)
    with build._Work(tmp_path, tmp_path / "scene") as work:
        assert work.folder.is_dir()


def test_a_capture_is_read_again_as_it_was(tmp_path: Path) -> None:
    images = [np.full((72, 96, 3), shade, np.uint8) for shade in (10, 20)]
    cameras = tuple(replace(view, name=f"{k}.png") for k, view in enumerate(around(2)))
    points = np.arange(6, dtype=np.float32).reshape(2, 3)
    capture = Capture(
        images, cameras, points, points + 0.5, name="balls", notes=["One is blurred."]
    )
    build._write_capture(tmp_path / "capture.npz", capture)
    back = build._read_capture(tmp_path / "capture.npz")
    assert all(map(np.array_equal, back.images, images)) and len(back.images) == 2
    for have, want in zip(back.cameras, cameras, strict=True):
        assert torch.equal(have.viewmat, want.viewmat) and torch.equal(have.K, want.K)
        assert (have.width, have.height, have.name) == (*SIZE, want.name)
    assert np.array_equal(back.points, points) and np.array_equal(back.point_colors, points + 0.5)
    assert back.name == "balls" and list(back.notes) == ["One is blurred."]


def test_a_scene_without_views_or_words_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, up = painted_world(), torch.tensor([0.0, 0, 1])
    bare = Scene(world, (), up=up, center=torch.zeros(3), radius=4.0, name="bare")
    folder = str(save_scene(bare, tmp_path / "s"))
    for command, words in (
        (["describe", folder], "'bare' has no cameras: build it from photos"),
        (["render", folder], "'bare' has no views."),
    ):
        assert main([*command, "--out", str(tmp_path / "x.png")]) == 1
        assert words in capsys.readouterr().err
    save_scene(replace(bare, cameras=tuple(around(1))), folder)
    assert main(["query", folder, "ball", "--out", str(tmp_path / "x")]) == 1
    assert "'bare' has no language field: build it again" in capsys.readouterr().err


def test_what_was_built_among_the_photos_is_none_of_them(tmp_path: Path) -> None:
    """A scene's preview, and what is left of a build that was killed while it placed cameras."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    before = build._digest(tmp_path, {}), _gather(list(_folders(tmp_path)))
    for file in ("other/scene.safetensors", "other/preview.jpg", ".scene.x/scene.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / ".scene.x" / "preview.jpg").touch()
    for scene in ("scene", "more"):
        work = build._Work(tmp_path, tmp_path / scene).folder / "capture-x" / "photos"
        work.mkdir(parents=True)
        (work / "0000.jpg").touch()

    def now() -> tuple[object, ...]:
        return build._digest(tmp_path, {}), _gather(list(_folders(tmp_path)))

    assert now() == before and before[1][2] == []
    (tmp_path / "other" / "d.jpg").touch()
    assert now()[0] != before[0] and "1 in other folders were left out" in now()[1][2][0]


def test_after_a_build_that_failed_the_next_may_begin(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError, match="No photos were found in photos") as _kept:
            build.build_scene(tmp_path / "photos", tmp_path / "scene")
        assert not (tmp_path / "scene.build").exists()
    for end in (KeyboardInterrupt, OSError):  # stopped, or a full disk, before there is a capture
        with pytest.raises(end), build._Work(tmp_path / "photos", tmp_path / "scene") as work:
            raise end
        assert not work.folder.exists()


def test_a_build_refused_late_keeps_what_the_next_goes_on_with(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError), build._Work(tmp_path / "a.jpg", tmp_path / "s", 480) as work:
        (work.folder / "capture.npz").touch()
        raise ValueError
    assert (work.folder / "capture.npz").is_file()


def test_one_example_is_not_taken_for_its_letters() -> None:
    with pytest.raises(ValueError, match="Give a list of texts, not a string"):
        BuildConfig(examples="red mug")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_side", "codewords", "seed", "iterations", "max_gaussians"])
def test_numbers_that_are_not_whole_are_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, got 200\.0"):
        BuildConfig(**{name: 2e2})


def test_numbers_of_numpy_are_settings_as_good_as_pythons() -> None:
    config = BuildConfig(seed=np.int64(3), max_side=np.int32(96), sh_degree=np.uint8(1))
    assert json.loads(json.dumps(config.__dict__))["seed"] == 3
    assert config == BuildConfig(seed=3, max_side=96, sh_degree=1)


def test_the_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    defaults = build.BuildConfig()
    for option in ("iterations", "max-gaussians", "max-side", "codewords", "seed"):
        default = getattr(defaults, option.replace("-", "_"))
        assert re.search(rf"--{option} [A-Z_]+ [^;]+; default: {default}\b", said), option


@pytest.mark.parametrize("done", range(4))
def test_a_build_killed_while_it_tidies_up_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    work = build._Work(tmp_path / "a.jpg", tmp_path / "scene", 480)
    for name in ("0", "train.state", "z"):
        (work.folder / name).touch()
    unlink, deleted = os.unlink, 0

    def stop(*args: Any, **kwargs: Any) -> None:
        nonlocal deleted
        if deleted == done:
            raise KeyboardInterrupt
        deleted += 1
        unlink(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "unlink", stop)
        work.remove()
    del work
    build._Work(tmp_path / "a.jpg", tmp_path / "scene", 480)


def test_a_working_folder_without_a_mark_is_ours_only_if_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "scene.build").mkdir()  # killed before the mark was written, or just after it went
    build._Work(tmp_path / "a.jpg", tmp_path / "scene", 480)
    (tmp_path / "other.build").mkdir()
    (tmp_path / "other.build" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is in the way"):
        build._Work(tmp_path / "a.jpg", tmp_path / "other", 480)


def test_views_described_at_once_are_described_as_one_by_one(tmp_path: Path) -> None:
    told: list[int] = []
    at_once, alone = (
        described(tmp_path / str(threads), lambda *now: told.append(now[1]), threads)
        for threads in (8, 1)
    )
    assert told == [*range(1, 13)] * 2
    assert len(at_once) == 12
    for one, other in zip(at_once, alone, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("damage", ["empty", "short", "hole"])
def test_files_of_unfinished_work_that_are_damaged_are_made_again(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """As after a power failure; else every further build would fail at them."""
    monkeypatch.delattr(os, "rename")  # which on Windows does not replace a file

    def work() -> tuple[list[np.ndarray], list[torch.Tensor]]:
        made = build._captured(capture / "transforms.json", 64, tmp_path, silent)
        given = made.cameras, made.images.__getitem__, range(2), None, Sides(False), MeanColor()
        features = build._describe(*given, tmp_path / "features", silent)
        return made.images, [view.embeddings[0] for view in features]

    images, embeddings = work()
    for file in (tmp_path / "capture.npz", tmp_path / "features" / "00001.npz"):
        whole = file.read_bytes()
        start, rest = whole[:100], whole[200:]
        left = {"empty": b"", "short": start, "hole": start + bytes(100) + rest}
        file.write_bytes(left[damage])
    again = work()
    assert all(map(np.array_equal, again[0], images)) and len(images) == 16
    assert all(map(torch.equal, again[1], embeddings)) and len(embeddings) == 2


def test_a_stop_leaves_the_views_that_were_not_begun(tmp_path: Path) -> None:
    def stop(*now: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        described(tmp_path / "features", stop, 2)
    assert 1 <= len(list((tmp_path / "features").glob("*.npz"))) < 12


# The command line, with a checkpoint after every step and an autoencoder of few rounds.
HASTY = """
import sys
import weakref
from functools import partial
import langsplat.progress
from langsplat import language
from langsplat.__main__ import main
langsplat.progress.CHECKPOINT_SECONDS = 0
language.AutoencoderConfig = partial(language.AutoencoderConfig, rounds=3)
language.LanguageTraining.preset = lambda name: language.LanguageTraining(steps=40)
sys.exit(main(sys.argv[1:]))
"""


def test_a_build_killed_while_it_trains_language_goes_on_inside_that_stage(
    capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scene"
    command = [sys.executable, "-c", HASTY, "build", str(capture), "--out", str(out), *QUICK]
    command += ["--iterations", "30", "--codec", "autoencoder", "--language", "paper"]
    command += ["--progress", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    killed = 0
    for line in process.stdout:
        told = json.loads(line)
        if told["stage"] == "Train language" and told["done"] >= 5:
            killed = told["done"]
            process.kill()
            break
    process.wait(30)
    process.stdout.close()
    assert 5 <= killed < 40 and not out.exists()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    notes = {
        stage: [line for line in lines if line.get("stage") == stage]
        for stage in ("Train autoencoder", "Train language")
    }
    assert [line["note"] for line in notes["Train autoencoder"]] == ["continuing at round 3"]
    first = notes["Train language"][0]
    assert first["done"] >= killed and first["note"] == f"continuing at step {first['done']}"
    assert len(notes["Train language"]) == 41 - first["done"]
    field = load_scene(out).language
    assert field is not None and isinstance(field.codec, Autoencoder)
    assert not (tmp_path / "scene.build").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "machine does not have enough memory for this: .* close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "The machine does not have"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "--device cpu"),
    ],
)
def test_too_little_memory_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(build, "build_scene", fail)
    assert main(["build", str(tmp_path), "--out", str(tmp_path / "s")]) == 1
    assert re.search(rf"^langsplat: .*{said}", capsys.readouterr().err)
    error.args = ("a mistake of ours",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            main(["build", str(tmp_path), "--out", str(tmp_path / "s")])


def test_an_error_of_a_build_reaches_the_parent_process_as_json(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    process = start(tmp_path / "empty", tmp_path / "scene")
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 1
    assert "photo" in json.loads(lines[-1])["error"]
    assert not (tmp_path / "scene").exists()


def test_a_scene_that_was_imported_and_described_anew_says_both_on_its_card(built: Path) -> None:
    made = {"imported": {"found": ["level 1"]}, "described": {"seconds": {}}, "langsplat": "0.1"}
    card = build.scene_card(replace(load_scene(built), provenance=made))
    assert "- imported by langsplat 0.1 from official files:\n  - level 1\n" in card
    assert "- described anew: " in card
    for wrong in ("files", {}, {"found": 1}):  # of a stranger's scene
        assert build.scene_card(replace(load_scene(built), provenance={"imported": wrong}))


def test_a_scene_is_given_other_words_from_its_own_renders(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "described"
    options = ["--codewords", "8", "--holdout-every", "4", "--examples", "red"]
    assert main(["describe", str(built), "--out", str(out), *options]) == 0
    assert re.search(r"Save the scene +\[\.+\] +0 %", capsys.readouterr().err)
    before, after = load_scene(built), load_scene(out)
    assert torch.equal(before.gaussians.means, after.gaussians.means)
    assert after.language is not None and after.language.codec.tensors()["codewords"].shape[1] == 8
    assert after.examples == ["red"] and after.provenance["psnr"] == before.provenance["psnr"]
    assert after.provenance["described"]["settings"]["holdout_every"] == 4
    assert after.provenance["described"]["notes"] == [], "every level has segments"
    assert "described anew" in (out / "README.md").read_text()
    assert main(["query", str(out), "something red", "--out", str(tmp_path / "answer")]) == 0
