"""Official LangSplat files: what is read, what is refused, and in which words."""

import json
import os
import pickle  # noqa: TID251  what a stranger may have written
import re
import shutil
import struct
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langsplat.__main__ import main
from langsplat.codec import Autoencoder, AutoencoderConfig, fit_autoencoder
from langsplat.official import (
    ENCODER,
    colmap_cameras,
    export_official,
    find_official,
    import_official,
    load_untrusted,
    read_autoencoder,
    read_cameras,
    read_cfg_args,
    read_checkpoint,
    read_features,
    read_ply,
    trained_size,
    usable,
    write_features,
    write_ply,
)
from langsplat.query import MIN_SUPPORT, SceneQuery
from langsplat.rasterize import _heaviest_drawn, heaviest, render
from langsplat.scene import SCENE_FILE, Camera, load_scene
from tests import official_files as files

EMBEDDINGS = F.normalize(torch.randn(2, 512, generator=torch.Generator().manual_seed(5)), dim=1)


# ---------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("stage", ["RGB", "language", "LangSplatV2"])
@pytest.mark.parametrize("scalar", [np.float64, np.float32])
@pytest.mark.parametrize("numpy_1", [False, True])
def test_checkpoints_of_every_stage_are_read_under_both_names_of_numpy(
    tmp_path, stage, scalar, numpy_1
):
    codebook = EMBEDDINGS[None] if stage == "LangSplatV2" else None
    path = files.write_checkpoint(tmp_path / "c.pth", stage, scalar=scalar, codebook=codebook)
    if numpy_1:
        files.as_numpy_1(path)
    checkpoint = read_checkpoint(path, stage=stage)
    assert (checkpoint.stage, checkpoint.iteration, len(checkpoint)) == (stage, 30000, 200)
    raw, g = files.balls(), checkpoint.gaussians()
    assert torch.equal(g.means, raw["xyz"]) and g.near == 0.2
    assert torch.allclose(g.scales, torch.full((200, 3), 0.15))
    assert torch.allclose(g.opacities, torch.full((200,), 1 / (1 + np.exp(-3.0))).float())
    assert torch.allclose(g.quats, raw["rotation"] / 2, atol=1e-6)
    assert torch.equal(g.sh, torch.cat([raw["dc"], raw["rest"]], dim=1))
    if stage == "language":
        assert torch.allclose(checkpoint.language, 0.4 * files.LATENTS[raw["side"]])
    if stage == "LangSplatV2":
        assert torch.equal(checkpoint.codebooks, codebook)
        assert torch.equal(checkpoint.logits.argmax(1), raw["side"])


def test_the_wrong_stage_is_called_by_its_name(tmp_path):
    path = files.write_checkpoint(tmp_path / "chkpnt30000.pth", "RGB")
    with pytest.raises(
        ValueError, match=r"RGB stage \(12 elements\).*language stage.*--feature_le"
    ):
        read_checkpoint(path, stage="language")


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    paths = [tmp_path / name for name in ("chkpnt1.pth", "chkpnt2.pth", "chkpnt3.pth")]
    torch.save(((3, Trap()), 1), paths[0])
    torch.save(((3, Trap()), 1), paths[1], _use_new_zipfile_serialization=False)
    paths[2].write_bytes(pickle.dumps(((3, Trap()), 1)))
    for path in paths:
        for opened in (read_checkpoint, read_autoencoder, load_untrusted):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with pytest.raises(ValueError, match="could run code, so it was not opened: get"):
                    opened(path)
            assert not told
        assert not trap.exists() and b"touch" in path.read_bytes()


def test_a_checkpoint_that_would_fill_the_memory_is_not_unpacked(tmp_path, monkeypatch):
    """torch reads a whole entry of the archive at once, a tightly packed one too."""
    path = tmp_path / "chkpnt1.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data.pkl", bytes(1_000_000))
    monkeypatch.setattr(torch, "load", None)
    for opened in (read_checkpoint, read_autoencoder, load_untrusted):
        with pytest.raises(ValueError, match=r"unpack to more than its own size, .*get the"):
            opened(path)


@pytest.mark.parametrize(
    "damage",
    [
        "half",
        "text",
        "empty",
        "disks",
        "other",
        "short",
        "nan",
        "degree",
        "nested",
        "harmonics",
        "logits",
    ],
)
def test_damaged_checkpoints_are_refused_in_a_sentence(tmp_path, damage):
    path = files.write_checkpoint(tmp_path / "c.pth", "language")
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage in ("text", "empty"):
        path.write_text("hello" if damage == "text" else "")
    elif damage == "disks":  # an archive that says it goes on in another file
        start = path.read_bytes().rindex(b"PK\x05\x06")
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, start, 2)
        path.write_bytes(path.read_bytes()[: start - 20] + locator + path.read_bytes()[start:])
    elif damage == "other":
        torch.save({"a": torch.ones(2)}, path)
    else:
        stage = "LangSplatV2" if damage == "logits" else "language"
        params = list(files.elements(stage, codebook=EMBEDDINGS[None]))
        if damage == "short":
            params[4] = params[4][:100]
        elif damage == "degree":
            params[0] = 4
        elif damage == "nested":
            params[0] = [[3], [3]]
        elif damage == "harmonics":
            params[3] = params[3][:, :8]
        elif damage == "logits":
            params[7] = params[7][:, :1]
        else:
            params[7] = params[7].detach().clone()
            params[7][3, 1] = float("nan")
        torch.save((tuple(params), 1), path)
    says = {
        "other": "is not a checkpoint of a LangSplat training: give",
        "short": r"its scales must be numbers \[200, 3\], got \[100, 3\]",
        "nan": "not finite in 1 of 200 rows: train",
        "degree": "its SH degree is 4, not 0 to 3: copy",
        "nested": "its SH degree is a list, not 0 to 3: copy",
        "harmonics": "it has too few harmonics for degree 3: copy",
        "logits": r"1 logits a Gaussian do not fit codebooks of \[1, 2, 512\]: copy",
    }
    with pytest.raises(ValueError, match=says.get(damage, "is damaged or incomplete: copy")):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="There is no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pth")


def test_a_checkpoint_whose_path_torch_cannot_open_is_to_be_renamed(tmp_path):
    path = files.write_checkpoint(tmp_path / "c.pth", "RGB", 1)
    path = path.rename(tmp_path / os.fsdecode(b"caf\xe9.pth"))
    with pytest.raises(ValueError, match=r"caf\?.pth is not a name in UTF-8: rename the file"):
        read_checkpoint(path)


def test_gaussians_that_are_not_finite_can_be_told_apart(tmp_path):
    params = list(files.elements("RGB", 6))
    for index, (element, value) in enumerate([(1, np.nan), (3, np.inf), (4, 999.0), (5, 0.0)]):
        params[element].data[index] = value
    params[4].data[4] = -999.0  # a scale of exactly 0
    torch.save((tuple(params), 1), tmp_path / "c.pth")
    good = usable(read_checkpoint(tmp_path / "c.pth").gaussians())
    assert good.tolist() == [False] * 5 + [True]


def test_gaussians_too_large_for_the_file_of_a_scene_are_left_out(tmp_path):
    params = list(files.elements("LangSplatV2", codebook=EMBEDDINGS[None]))
    params[2].data[0, 0, 1], params[3].data[1, 4, 2] = 7e4, -7e4
    params[2].data[2, 0, 1], params[2].data[2, 0, 2] = 6e4, -6e4  # large, but they fit
    run = tmp_path / "project/output/teatime_1"
    files.write_cameras_json(run / "cameras.json")
    torch.save((tuple(params), 1), run / "chkpnt1.pth")
    scene = load_scene(import_official(find_official([tmp_path / "project"]), tmp_path / "scene"))
    assert len(scene.gaussians) == 198 and scene.gaussians.sh.max() == 6e4


@pytest.mark.parametrize(
    "form", ["float8", "meta", "sparse", "a number", "no dimension", "claimed", "complex"]
)
def test_tensors_that_hold_no_numbers_are_refused_in_a_sentence(tmp_path, form):
    claimed = torch.zeros(1).as_strided((300_000_000, 3), (0, 0))
    params = list(files.elements("language"))
    state = files.autoencoder_state()
    made = {
        "float8": lambda t: t.to(torch.float8_e4m3fn),
        "meta": lambda t: t.to("meta"),
        "sparse": lambda t: t.to_sparse(),
        "a number": lambda t: 3.0,
        "no dimension": lambda t: torch.tensor(1.0),
        "claimed": lambda t: claimed,
        "complex": lambda t: t.to(torch.complex64),
    }[form]
    params[1] = made(params[1].detach())
    torch.save((tuple(params), 1), tmp_path / "c.pth")
    assert (tmp_path / "c.pth").stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"its positions must be numbers \[\d+, 3\], got .*: copy"):
        read_checkpoint(tmp_path / "c.pth")
    state["decoder.0.weight"] = made(state["decoder.0.weight"])
    torch.save(state, tmp_path / "best_ckpt.pth")
    with pytest.raises(ValueError, match=r"best_ckpt\.pth (is not an autoencoder|cannot be used)"):
        read_autoencoder(tmp_path / "best_ckpt.pth")


def test_features_that_are_finite_only_in_the_file_are_refused(tmp_path):
    params = list(files.elements("language"))
    params[7] = params[7].detach().double()
    params[7][3, 1] = 1e300
    torch.save((tuple(params), 1), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="not finite in 1 of 200 rows: train"):
        read_checkpoint(tmp_path / "c.pth")


def test_threads_open_checkpoints_at_the_same_time(tmp_path):
    path = files.write_checkpoint(tmp_path / "c.pth", "language", 4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads meet where they rarely would
    try:
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(read_checkpoint, [path] * 60))
    finally:
        sys.setswitchinterval(interval)
    assert {len(checkpoint) for checkpoint in opened} == {4}


def test_a_checkpoint_in_its_first_degrees_keeps_only_the_harmonics_in_use(tmp_path):
    torch.save(((1, *files.elements("RGB")[1:]), 1), tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth").gaussians().sh.shape == (200, 4, 3)


# ---------------------------------------------------------------------------- point clouds


def test_a_point_cloud_equals_the_checkpoint_it_was_saved_with(tmp_path):
    g = read_ply(files.write_ply(tmp_path / "point_cloud.ply"))
    same = read_checkpoint(files.write_checkpoint(tmp_path / "c.pth", "RGB")).gaussians()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(g, name), getattr(same, name)), name
    assert g.near == 0.2


def test_a_written_point_cloud_has_the_official_bytes_and_reads_back(tmp_path):
    official = files.write_ply(tmp_path / "official.ply")
    written = write_ply(read_ply(official), tmp_path / "ours.ply")
    head = official.read_bytes().index(b"end_header")
    assert written.read_bytes()[:head] == official.read_bytes()[:head]
    table = []
    for path in (official, written):
        table.append(np.frombuffer(path.read_bytes()[head + 11 :], "<f4").reshape(200, 62).copy())
    table[0][:, -4:] /= 2  # quaternions are written with unit length
    assert np.allclose(*table, atol=2e-5)


def test_low_degrees_are_filled_up_and_certain_opacities_stay_finite(tmp_path):
    g = read_ply(files.write_ply(tmp_path / "a.ply", 4))
    flat = type(g)(g.means, g.quats, g.scales, torch.tensor([0.0, 1.0, 0.5, 0.2]), g.sh[:, :4])
    back = read_ply(write_ply(flat, tmp_path / "b.ply"))
    assert back.sh.shape == (4, 16, 3) and bool(usable(back).all())
    assert torch.equal(back.sh[:, :4], flat.sh) and not back.sh[:, 4:].any()
    assert torch.allclose(back.opacities, flat.opacities, atol=1e-5)
    leaves = {name: getattr(flat, name).clone().requires_grad_() for name in ("means", "sh")}
    halves = {name: getattr(flat, name).half() for name in ("scales", "opacities")}
    trained = replace(flat, **leaves, **halves)
    back = read_ply(write_ply(trained, tmp_path / "c.ply"))
    assert torch.equal(back.means, flat.means) and bool((back.opacities < 1).all())
    torch.testing.assert_close(back.scales, trained.scales.float())


def test_a_ply_without_gaussians_is_refused(tmp_path):
    path = files.write_ply(tmp_path / "p.ply", 3)
    path.write_bytes(path.read_bytes().replace(b"float rot_3", b"float rot_9"))
    with pytest.raises(
        ValueError, match=r"not a point cloud of Gaussians \(it has no rot_3\): give"
    ):
        read_ply(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read as points: export"):
        read_ply(path)


def test_gaussians_of_inrias_code_are_not_drawn_nearer_than_its_near_plane(tmp_path):
    g = read_checkpoint(files.write_checkpoint(tmp_path / "c.pth", "RGB")).gaussians()
    nearest = g.select(g.means[:, 2].argmin()[None])
    back = torch.eye(4)
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    drawn = []
    for depth in (0.15, 0.25):
        back[:3, 3] = -nearest.means[0]
        back[2, 3] += depth
        _, alpha = render(nearest, Camera(back.clone(), K, 64, 48))
        drawn.append(float(alpha.max()) > 0.5)
    assert drawn == [False, True]


# ---------------------------------------------------------------------------- cfg_args, cameras


def test_cfg_args_is_parsed_and_never_evaluated(tmp_path):
    path = tmp_path / "cfg_args"
    ran = tmp_path / "ran"
    path.write_text(
        f"Namespace(sh_degree=3, eval=False, model_path='out', x=open({str(ran)!r}, 'w'), lr=1e-3)"
    )
    assert read_cfg_args(path) == {"sh_degree": 3, "eval": False, "model_path": "out", "lr": 1e-3}
    assert not ran.exists()


@pytest.mark.parametrize("text", ["", "{}", "open('x')", "Namespace(", "(" * 5000, "a" * 2_000_000])
def test_what_is_no_cfg_args_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "cfg_args").write_text(text)
    with pytest.raises(
        ValueError, match=r"is not a cfg_args of the official code .* copy it again"
    ):
        read_cfg_args(tmp_path / "cfg_args")


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(-1, (1440, 1080)), (2, (960, 720)), (640, (640, 480)), (None, (1440, 1080))],
)
def test_pictures_have_the_size_the_official_code_trains_on(resolution, size):
    assert trained_size(1920, 1440, resolution) == size
    assert trained_size(640, 480) == (640, 480)


@pytest.mark.parametrize("resolution", [100_000, 10**400, 1e308], ids=["1e5", "1e400", "1e308"])
def test_pictures_too_large_to_be_drawn_are_laid_to_the_resolution(tmp_path, resolution):
    files.write_cameras_json(tmp_path / "cameras.json")
    files.write_colmap(tmp_path / "sparse/0")
    says = r"Photos of 64 x 48 pixels .* more than 64,000,000: set a smaller width as the resolu"
    with pytest.raises(ValueError, match=says):
        read_cameras(tmp_path / "cameras.json", resolution=resolution)
    with pytest.raises(ValueError, match=says):
        colmap_cameras(tmp_path / "sparse/0", resolution=resolution)


def test_cameras_of_colmap_and_of_cameras_json_agree_and_look_through_the_middle(tmp_path):
    files.write_colmap(tmp_path / "sparse/0", cx=20.0)
    files.write_cameras_json(tmp_path / "cameras.json")
    ours, points = colmap_cameras(tmp_path / "sparse/0", resolution=32)
    others = read_cameras(tmp_path / "cameras.json", resolution=32)
    assert len(ours) == len(others) == files.VIEWS and points.shape == (0, 3)
    for a, b in zip(ours, others, strict=True):
        assert a.name.split(".")[0] == b.name and (a.width, a.height) == (32, 24)
        assert torch.allclose(a.viewmat, b.viewmat, atol=1e-5)
        assert torch.allclose(a.K, torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]))
        assert torch.equal(a.K, b.K)
    with pytest.raises(ValueError, match=r"no COLMAP model in .* usually sparse/0"):
        colmap_cameras(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", '[{"img_name": "a"}]', "[" * 9000])
def test_what_is_no_cameras_json_is_refused_in_a_sentence(tmp_path, text):
    with pytest.raises(ValueError, match=r"not a cameras\.json of Inria's code: copy"):
        read_cameras(tmp_path / "cameras.json")  # nor is a file that does not exist
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(ValueError, match=r"not a cameras\.json of Inria's code: copy"):
        read_cameras(tmp_path / "cameras.json")


@pytest.mark.parametrize("x", [2, -1], ids=["stretched", "mirrored"])
def test_a_camera_that_is_not_merely_turned_is_refused_in_a_sentence(tmp_path, x):
    files.write_cameras_json(tmp_path / "cameras.json")
    entries = json.loads((tmp_path / "cameras.json").read_text())
    entries[0]["rotation"] = [[x, 0, 0], [0, 1, 0], [0, 0, 1]]
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"not a cameras\.json of Inria's code: copy"):
        read_cameras(tmp_path / "cameras.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 0), ("height", 0), ("width", 10**400), ("position", [1e200, 0, 0]), ("fx", "nan")],
    ids=["no width", "no height", "huge width", "far away", "no focal length"],
)
@pytest.mark.parametrize("resolution", [-1, 2, 64])
def test_cameras_with_impossible_numbers_are_refused_in_a_sentence(
    tmp_path, key, value, resolution
):
    path = tmp_path / "cameras.json"
    files.write_cameras_json(path)
    entries = json.loads(path.read_text())
    entries[1][key] = value
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"not a cameras\.json of Inria's code: copy"):
        read_cameras(path, resolution=resolution)


# ---------------------------------------------------------------------------- features


def test_official_features_become_levels_with_their_own_rows(tmp_path):
    files.write_features(tmp_path, EMBEDDINGS)
    view = read_features(tmp_path, "frame_00003", size=files.SIZE)
    assert view.segments.shape == (3, 48, 64)
    for ids, rows in zip(view.segments, view.embeddings, strict=True):
        assert torch.allclose(rows, EMBEDDINGS, atol=1e-6)
        assert (ids[:2] == -1).all() and (ids[2:, :32] == 0).all() and (ids[2:, 32:] == 1).all()


def test_written_features_read_back_and_number_their_rows_through_all_levels(tmp_path):
    files.write_features(tmp_path / "a", EMBEDDINGS)
    view = read_features(tmp_path / "a", "frame_00001")
    write_features(tmp_path / "b", "frame_00001", view)
    maps, rows = (np.load(tmp_path / f"b/frame_00001_{kind}.npy") for kind in "sf")
    assert maps.dtype == rows.dtype == np.float32
    assert maps.shape == (4, 48, 64) and rows.shape == (6, 512)
    assert [sorted(np.unique(channel)) for channel in maps] == [[-1], [-1, 0, 1], [-1, 2, 3],
                                                                [-1, 4, 5]]  # fmt: skip
    again = read_features(tmp_path / "b", "frame_00001")
    assert (again.segments == view.segments).all()
    assert all(torch.allclose(a, b) for a, b in zip(again.embeddings, view.embeddings, strict=True))
    halves = replace(view, embeddings=[rows.bfloat16() for rows in view.embeddings])
    write_features(tmp_path / "c", "frame_00001", halves)
    rounded = np.load(tmp_path / "c/frame_00001_f.npy")
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, rows, atol=4e-3)


def test_label_maps_of_another_size_are_resized_with_a_warning_that_names_both(tmp_path):
    files.write_features(tmp_path, EMBEDDINGS, size=(128, 96))
    with pytest.warns(UserWarning, match="_s.npy is 128 x 96 but its picture is 64 x 48: the near"):
        view = read_features(tmp_path, "frame_00001", size=files.SIZE)
    assert view.segments.shape == (3, 48, 64)
    assert (view.segments[:, 1:, :32] == 0).all() and (view.segments[:, 1:, 32:] == 1).all()


def test_bad_features_are_refused_in_a_sentence(tmp_path):
    files.write_features(tmp_path, EMBEDDINGS)
    maps_file, rows_file = tmp_path / "frame_00001_s.npy", tmp_path / "frame_00001_f.npy"
    maps, rows = np.load(maps_file), np.load(rows_file)

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            read_features(tmp_path, "frame_00001")
        np.save(maps_file, maps)
        np.save(rows_file, rows)

    np.save(rows_file, rows[:8])
    refused(r"names rows from -1 to 8 but frame_00001_f\.npy has 8: .* write both again")
    for value in (-2, np.nan):
        np.save(maps_file, np.where(maps == 4, value, maps))
        refused(f"names rows from {value:g} to")
    np.save(maps_file, np.where(maps == 4, 4.5, maps))
    refused("not whole: write it again without interpolation")
    np.save(maps_file, maps[1:])
    refused(r"must be \[4, H, W\] .*, got \[3, 48, 64\]: write it")
    np.save(rows_file, np.where(np.arange(len(rows))[:, None] == 2, np.inf, rows))
    refused(r"not finite in 1 of 9 rows \(the first is 2\): run")
    np.save(rows_file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("not a readable array of numbers: copy it")
    rows_file.write_bytes(b"PK\x03\x04 torn")
    refused("not a readable array of numbers: copy it")
    rows_file.unlink()
    refused("f.npy is missing: run")


# ---------------------------------------------------------------------------- whole projects


class Words:
    """An encoder that knows two texts; all others have a cosine of 0 with these."""

    name = ENCODER
    dim = 512
    image_size = 224

    def encode_texts(self, texts):
        known = {"red ball": EMBEDDINGS[0], "blue ball": EMBEDDINGS[1]}
        across = torch.zeros(512)
        return torch.stack([known.get(text, across) for text in texts])


def asked(scene_folder, text: str):
    """How well a text fits each ball's Gaussians, and its pixels in the middle view."""
    scene = load_scene(scene_folder)
    answer = SceneQuery(scene, Words()).ask(text, scene.cameras[files.VIEWS // 2])
    right = scene.gaussians.means[:, 0] > 0
    scores = torch.from_numpy(answer.gaussian_relevancy)
    left_half, right_half = answer.relevancy[:, :32], answer.relevancy[:, 32:]
    return scores[~right].mean(), scores[right].mean(), left_half.max(), right_half.max()


def assert_answers(scene_folder) -> None:
    """Each ball's Gaussians and pixels answer to its own words, and the other ball's do not."""
    left, right, left_pixels, right_pixels = asked(scene_folder, "red ball")
    assert left > 0.9 and right < 0.65 and left_pixels > 0.9 and left_pixels > right_pixels + 0.1
    left, right, left_pixels, right_pixels = asked(scene_folder, "blue ball")
    assert right > 0.9 and left < 0.65 and right_pixels > 0.9 and right_pixels > left_pixels + 0.1


def v2_runs(root):
    """output/teatime_{1,2,3} of LangSplatV2, each level with a codebook of its own."""
    for level in (1, 2, 3):
        run = root / f"output/teatime_{level}"
        other = F.normalize(torch.randn(62, 512, generator=torch.Generator().manual_seed(level)))
        book = torch.cat([2.0 * EMBEDDINGS, other])[None]
        files.write_checkpoint(run / "chkpnt10000.pth", "LangSplatV2", codebook=book)
        files.write_checkpoint(run / "chkpnt2000.pth", "RGB", 10)  # the older one is ignored
        files.write_cfg_args(run / "cfg_args", feature_level=level)
    return root


def test_three_runs_of_langsplat_v2_become_a_scene_that_answers(tmp_path, capsys):
    root = v2_runs(tmp_path / "project")
    files.write_colmap(root / "teatime/sparse/0")
    files.write_features(root / "teatime/language_features", EMBEDDINGS)
    out = tmp_path / "scene"
    assert main(["import", str(root), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "found   level 2 (part): project/output/teatime_2/chkpnt10000.pth, LangSplatV2" in said
    assert "found   COLMAP model: project/teatime/sparse/0" in said
    scene = load_scene(out)
    assert scene.name == "teatime" and scene.gaussians.near == 0.2
    assert [camera.name for camera in scene.cameras] == files.names()
    assert scene.language.encoder == ENCODER and bool((scene.language.mass == 1).all())
    assert {path.name for path in out.iterdir()} == {SCENE_FILE, "preview.jpg", "README.md"}
    assert_answers(out)


def test_residual_codebooks_are_added_up_each_with_the_softmax_of_its_top_four(tmp_path):
    generator = torch.Generator().manual_seed(1)
    books = torch.randn(2, 6, 512, generator=generator)
    params = list(files.elements("LangSplatV2", codebook=books))
    params[7] = 3 * torch.randn(200, 12, generator=generator)
    for level in (1, 2, 3):
        run = tmp_path / f"project/output/teatime_{level}"
        files.write_cameras_json(run / "cameras.json")
        torch.save((tuple(params), 10000), run / "chkpnt10000.pth")
    found = find_official([tmp_path / "project"])
    field = load_scene(import_official(found, tmp_path / "scene")).language
    want = torch.zeros(200, 512)
    for layer in range(2):
        weights = params[7][:, 6 * layer : 6 * layer + 6].softmax(dim=1)
        weights = torch.where(weights >= weights.topk(4).values[:, 3:], weights, 0)
        want += (weights / weights.sum(dim=1, keepdim=True)) @ books[layer]
    for level in range(3):
        got = field.dense(level) @ field.codec.codewords[level]
        # Codes are halved, so that a Gaussian's weights add up to 1; only directions count.
        assert torch.allclose(2 * got, want, atol=2e-2), (2 * got - want).abs().max()
        assert torch.allclose(field.codes[level].float().sum(dim=1), torch.ones(200), atol=1e-3)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """One trained to encode the two balls' embeddings and little else."""
    codec, cosine = fit_autoencoder(EMBEDDINGS.repeat(8, 1), AutoencoderConfig(rounds=20))
    assert cosine > 0.98
    return codec


def v1_project(root, autoencoder: Autoencoder):
    """LangSplat's own: runs of three levels, the scene's autoencoder and another scene's."""
    latents = autoencoder.encode(EMBEDDINGS)
    for level in (1, 2, 3):
        run = root / f"output/teatime_{level}"
        files.write_checkpoint(run / "chkpnt30000.pth", "language", latents=latents)
        files.write_checkpoint(run / "chkpnt7000.pth", "language", 10)
        files.write_cfg_args(run / "cfg_args", feature_level=level)
    files.write_checkpoint(root / "data/teatime/output/teatime/chkpnt30000.pth", "RGB")
    files.write_colmap(root / "data/teatime/sparse/0")
    for name in ("teatime", "ramen"):
        path = root / f"autoencoder/ckpt/{name}/best_ckpt.pth"
        path.parent.mkdir(parents=True)
        state = autoencoder.tensors() if name == "teatime" else files.autoencoder_state()
        torch.save(state, path)
    return root


def test_three_level_runs_and_their_autoencoder_become_a_scene_that_answers(
    tmp_path, capsys, autoencoder
):
    root = v1_project(tmp_path / "project", autoencoder)
    out = tmp_path / "scene"
    assert main(["import", str(root), "--out", str(out), "--name", "tea"]) == 0
    said = capsys.readouterr().out
    assert "found   level 3 (whole): project/output/teatime_3/chkpnt30000.pth, language" in said
    assert "found   autoencoder: project/autoencoder/ckpt/teatime/best_ckpt.pth" in said
    scene = load_scene(out)
    assert scene.name == "tea" and scene.gaussians.near == 0.2
    assert scene.language.codec.kind == "autoencoder" and scene.language.encoder == ENCODER
    lengths = scene.language.codes.float().norm(dim=2)  # unit ones are blended, as in training
    assert torch.allclose(lengths, torch.ones(3, 200), atol=1e-3)
    assert_answers(out)
    assert main(["export", str(out), "--out", str(tmp_path / "files")]) == 0
    view = read_features(tmp_path / "files/language_features", "frame_00005")
    for ids, rows in zip(view.segments, view.embeddings, strict=True):
        assert ids[0, 0] == -1 and len(rows) < 40
        cosines = (rows[[ids[24, 18], ids[24, 45]]] * EMBEDDINGS).sum(1)
        assert cosines.min() > 0.95
    state = torch.load(tmp_path / "files/autoencoder/best_ckpt.pth", weights_only=True)
    assert state.keys() == files.autoencoder_state().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in autoencoder.tensors().items())
    assert_answers(import_official(find_official([tmp_path / "files"]), tmp_path / "again"))


def test_an_autoencoder_of_other_latents_is_refused_in_a_sentence(tmp_path, autoencoder):
    root = v1_project(tmp_path / "project", autoencoder)
    path = root / "autoencoder/ckpt/teatime/best_ckpt.pth"
    torch.save(files.autoencoder_state(latent=8), path)
    with pytest.raises(
        ValueError, match="has codes of 3 numbers but the autoencoder decodes 8: give"
    ):
        import_official(find_official([root]), tmp_path / "scene")
    torch.save(files.autoencoder_state(embedding=768), path)
    with pytest.raises(
        ValueError, match=r"have 768 numbers, those of open_clip:ViT-B-16.* 512: say"
    ):
        import_official(find_official([root]), tmp_path / "scene")
    assert not (tmp_path / "scene").exists()
    shutil.rmtree(root / "autoencoder")
    with pytest.raises(ValueError, match=r"no autoencoder, .*: add the folder with its best_ckpt"):
        find_official([root])


def test_what_is_no_autoencoder_is_refused_in_a_sentence(tmp_path):
    path = files.write_checkpoint(tmp_path / "best_ckpt.pth", "RGB")
    state = files.autoencoder_state()
    for content in (None, dict.fromkeys(state, torch.zeros(64, 64))):  # one tensor for all layers
        if content:
            torch.save(content, path)
        with pytest.raises(
            ValueError, match=r"best_ckpt\.pth is not an autoencoder: give the best"
        ):
            read_autoencoder(path)
    del state["decoder.6.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"best_ckpt\.pth cannot be used\. decoder\.6\.bias"):
        read_autoencoder(path)


def test_official_autoencoders_decode_as_their_layers_say(tmp_path):
    state = files.autoencoder_state()
    weight = torch.nn.Parameter(state["decoder.0.weight"])  # saved with keep_vars
    torch.save({**state, "decoder.0.weight": weight}, tmp_path / "best_ckpt.pth")
    x = latent = torch.tensor([[0.6, -0.8, 0.0]])
    for index in range(0, 13, 2):
        x = x @ state[f"decoder.{index}.weight"].T + state[f"decoder.{index}.bias"]
        x = x.relu() if index < 12 else x / x.norm()
    decoded = read_autoencoder(tmp_path / "best_ckpt.pth").decode(latent)
    assert torch.allclose(decoded, x, atol=1e-5) and not decoded.requires_grad


def test_coded_features_are_lifted_through_their_autoencoder(tmp_path, autoencoder):
    root = v1_project(tmp_path / "project", autoencoder)
    shutil.rmtree(root / "output")
    files.write_features(
        root / "data/teatime/language_features_dim3", autoencoder.encode(EMBEDDINGS)
    )
    found = find_official([root])
    assert found.autoencoder == root / "autoencoder/ckpt/teatime/best_ckpt.pth"
    assert_answers(import_official(found, tmp_path / "scene"))


def test_features_and_a_model_without_language_are_lifted_to_a_scene(tmp_path, capsys):
    root = tmp_path / "teatime"
    files.write_ply(root / "output/rgb/point_cloud/iteration_30000/point_cloud.ply")
    files.write_ply(root / "output/rgb/point_cloud/iteration_7000/point_cloud.ply", 5)
    files.write_checkpoint(root / "output/rgb/chkpnt7000.pth", "RGB", 5)  # of an earlier iteration
    files.write_cameras_json(root / "output/rgb/cameras.json")
    files.write_features(root / "language_feature", EMBEDDINGS, size=(128, 96))
    (root / "language_feature/frame_00002_s.npy").unlink()
    out = tmp_path / "scene"
    assert main(["import", str(root), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "missed  level runs: language is lifted from the features" in said
    scene = load_scene(out)
    assert len(scene.gaussians) == 200 and scene.name == "teatime"
    notes = " ".join(scene.provenance["notes"])
    assert "1 of 8 views have no features." in notes
    assert "_s.npy is 128 x 96 but its picture is 64 x 48" in notes and "in 7 of 7 views" in notes
    assert_answers(out)


def test_features_of_another_encoder_are_refused_before_they_are_lifted(tmp_path, monkeypatch):
    root = tmp_path / "teatime"
    files.write_ply(root / "output/rgb/point_cloud.ply")
    files.write_cameras_json(root / "output/rgb/cameras.json")
    files.write_features(root / "language_features", EMBEDDINGS[:, :128])
    monkeypatch.delattr("langsplat.official.fit_language")
    with pytest.raises(ValueError, match=r"embeddings have 128 numbers, those of .*--encoder"):
        import_official(find_official([root]), tmp_path / "scene")


def test_photos_that_share_a_file_of_features_are_refused(tmp_path, monkeypatch):
    root = tmp_path / "teatime"
    files.write_ply(root / "output/rgb/point_cloud.ply")
    files.write_colmap(root / "sparse/0")
    files.write_features(root / "language_features", EMBEDDINGS)
    monkeypatch.delattr("langsplat.official.fit_language")
    poses = root / "sparse/0/images.bin"
    poses.write_bytes(poses.read_bytes().replace(b"frame_00002.jpg", b"frame_00001.png"))
    with pytest.raises(ValueError, match=r"Two photos are called 'frame_00001' up to the first d"):
        import_official(find_official([root]), tmp_path / "scene")


def test_a_level_without_masks_is_told_and_the_others_answer(tmp_path):
    root = tmp_path / "teatime"
    files.write_ply(root / "output/rgb/point_cloud.ply")
    files.write_cameras_json(root / "output/rgb/cameras.json")
    files.write_features(root / "language_features", EMBEDDINGS)
    for path in (root / "language_features").glob("*_s.npy"):
        maps = np.load(path)
        maps[3] = -1
        np.save(path, maps)
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    assert (scene.language.mass.amax(dim=1) > 0).tolist() == [True, True, False]
    (note,) = scene.provenance["notes"]
    assert note.startswith("No view has a segment at the level whole, so queries are not")
    assert_answers(tmp_path / "scene")


def test_an_exported_scene_is_an_official_project_that_can_be_imported(
    tmp_path, capsys, monkeypatch
):
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    main(["import", str(root), "--out", str(tmp_path / "scene")])
    assert main(["export", str(tmp_path / "scene"), "--out", str(tmp_path / "files")]) == 0
    view = read_features(tmp_path / "files/language_features", "frame_00005")
    assert view.segments.shape == (3, 48, 64)
    for ids, rows in zip(view.segments, view.embeddings, strict=True):
        assert (ids[0] == -1).all() and {ids[24, 18], ids[24, 45]} == {0, 1}
        assert torch.allclose(rows[[ids[24, 18], ids[24, 45]]], EMBEDDINGS, atol=2e-3)
    again = ["import", str(tmp_path / "files"), "--out", str(tmp_path / "again")]
    for encoder, why in (("bundled", "have 512 numbers, those of bundled:.* have 128"), ("x", "x")):
        assert main([*again, "--encoder", encoder]) == 1
        assert re.search(why, capsys.readouterr().err)
    assert main(again) == 0
    first, second = load_scene(tmp_path / "scene"), load_scene(tmp_path / "again")
    assert torch.equal(first.gaussians.means, second.gaussians.means)
    assert torch.allclose(first.gaussians.scales, second.gaussians.scales, rtol=1e-5)
    for a, b in zip(first.cameras, second.cameras, strict=True):
        assert torch.allclose(a.viewmat, b.viewmat, atol=1e-5) and torch.allclose(a.K, b.K)
    assert_answers(tmp_path / "again")
    assert main(["export", str(tmp_path / "scene"), "--out", str(tmp_path / "files")]) == 1
    assert "exists and is not empty: choose a new folder" in capsys.readouterr().err
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["export", str(tmp_path / "scene"), "--out", "."]) == 1
    assert "The folder that you are in" in capsys.readouterr().err


def test_gaussians_that_are_not_finite_are_left_out_with_their_language(tmp_path):
    root = tmp_path / "project"
    params = list(files.elements("LangSplatV2", codebook=EMBEDDINGS[None]))
    params[1].data[0, 0] = params[4].data[6, 1] = float("nan")
    for level in (1, 2, 3):
        run = root / f"output/teatime_{level}"
        files.write_cameras_json(run / "cameras.json")
        torch.save((tuple(params), 7000), run / "chkpnt7000.pth")
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    assert len(scene.gaussians) == scene.language.mass.shape[1] == 198
    assert scene.provenance["notes"] == [
        "2 of 200 Gaussians have values that are not finite, or too large, and were left out."
    ]
    assert_answers(tmp_path / "scene")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("wrong stage", r"teatime_2/chkpnt30000\.pth is a checkpoint of the RGB stage"),
        (
            "two scenes",
            r"There are the runs of 2 scenes \(project/output/ramen, project/output/tea",
        ),
        ("no level", r"runs/chkpnt10000\.pth does not say which level it is of: put its cfg_args"),
        ("other Gaussians", r"not those of .*: give level runs that started from the same RGB"),
        ("no cameras", r"There are no cameras: add the data folder with sparse/0.* Found: level 1"),
        ("RGB alone", r"is of the RGB stage and there is nothing of the language stage: add the"),
        ("nothing", r"There is no checkpoint \(chkpntNNNNN\.pth\) and no point_cloud\.ply: give"),
        (
            "Occam's",
            r"no point_cloud\.ply: give .* project/chkpnt3_langfeat_1\.pth is of Occam's LGS",
        ),
        (
            "two data",
            r"several COLMAP models \(project/a/sparse/0, project/b/sparse/0\): give only",
        ),
        ("no folder", r"There is no folder .*absent: give"),
        ("two stages", r"of different stages \(LangSplat and LangSplatV2\): give the folders of"),
        ("level twice", r"teatime/chk.* and .*teatime_1/.* are both of level 1 \(subpart\): give"),
    ],
)
def test_projects_that_make_no_scene_are_refused_in_a_sentence(tmp_path, spoil, says):
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    run = root / "output/teatime_2"
    if spoil == "wrong stage":
        (run / "chkpnt10000.pth").unlink()
        files.write_checkpoint(run / "chkpnt30000.pth", "RGB")
    elif spoil == "two scenes":
        for level in (1, 2, 3):
            shutil.copytree(root / f"output/teatime_{level}", root / f"output/ramen_{level}")
    elif spoil == "no level":
        (run / "cfg_args").unlink()
        run.rename(root / "output/runs")
    elif spoil == "other Gaussians":
        book = EMBEDDINGS[None]
        files.write_checkpoint(run / "chkpnt10000.pth", "LangSplatV2", 100, codebook=book)
    elif spoil == "no cameras":
        (root / "output/teatime_1/cameras.json").unlink()
    elif spoil == "two stages":
        files.write_checkpoint(run / "chkpnt10000.pth", "language")
        torch.save(files.autoencoder_state(), root / "best_ckpt.pth")
    elif spoil == "level twice":
        files.write_cfg_args(run / "cfg_args", feature_level=1)
        run.rename(root / "output/teatime")
    elif spoil in ("RGB alone", "nothing", "Occam's"):
        shutil.rmtree(root)
        root.mkdir()
        if spoil == "Occam's":
            (root / "chkpnt3_langfeat_1.pth").touch()
        if spoil == "RGB alone":
            files.write_checkpoint(root / "model/chkpnt30000.pth", "RGB")
    elif spoil == "two data":
        files.write_colmap(root / "a/sparse/0")
        files.write_colmap(root / "b/sparse/0")
    with pytest.raises(ValueError, match=says):
        find_official([root / "absent" if spoil == "no folder" else root])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("no camera", r"cameras\.json lists no camera: give the data the model was"),
        ("other photos", r"language_features has no features of frame_00001 .*: give the features"),
        ("not finite", "No Gaussian of teatime has finite values: use an earlier checkpoint"),
        ("sizes", r"embeddings of different sizes \(\[256, 512\]\): give runs of one training"),
    ],
)
def test_projects_whose_parts_do_not_fit_are_refused_in_a_sentence(tmp_path, spoil, says):
    root = tmp_path / "teatime" if spoil == "other photos" else v2_runs(tmp_path / "project")
    run = root / "output/teatime_1"
    files.write_cameras_json(run / "cameras.json")
    if spoil == "no camera":
        (run / "cameras.json").write_text("[]")
    elif spoil == "other photos":
        files.write_ply(run / "point_cloud.ply")
        files.write_features(root / "language_features", EMBEDDINGS)
        for path in sorted((root / "language_features").iterdir()):
            path.rename(path.with_name(f"other_{path.name}"))
    elif spoil == "not finite":
        params = list(files.elements("LangSplatV2", codebook=EMBEDDINGS[None]))
        params[1] = torch.full_like(params[1], float("nan"))
        for level in (1, 2, 3):
            torch.save((tuple(params), 1), root / f"output/teatime_{level}/chkpnt10000.pth")
    else:
        book = EMBEDDINGS[None, :, :256]
        files.write_checkpoint(run / "chkpnt10000.pth", "LangSplatV2", codebook=book)
    with pytest.raises(ValueError, match=says):
        import_official(find_official([root]), tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


def test_views_the_official_code_cannot_tell_apart_are_not_exported(tmp_path):
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    names = ("a.left.png", "a.right.png")
    cameras = tuple(replace(scene.cameras[0], name=name) for name in names)
    with pytest.raises(ValueError, match="Two views are called 'a' up to the first dot"):
        export_official(replace(scene, cameras=cameras), tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_runs_are_found_through_links_and_in_folders_given_one_by_one(tmp_path):
    root = v2_runs(tmp_path / "project")
    files.write_colmap(root / "data/sparse/0")
    files.write_colmap(root / "data/sparse/1")
    files.write_colmap(root / "data/distorted/sparse/0")
    (root / "output/loop").symlink_to(root)
    found = find_official([*(root / f"output/teatime_{k}" for k in (3, 1, 2)), root / "data"])
    assert list(found.runs) == [0, 1, 2] and found.name == "teatime"
    assert found.colmap == root / "data/sparse/0"
    for again in (find_official([root]), find_official(root), find_official(str(root))):
        assert again.runs == found.runs
    with pytest.raises(ValueError, match="at least one folder"):
        find_official([])


def test_a_missing_level_is_said_and_does_not_answer(tmp_path):
    root = v2_runs(tmp_path / "project")
    files.write_colmap(root / "sparse/0")
    (root / "output/teatime_1").rename(root / "output/teatime_0")
    files.write_cfg_args(root / "output/teatime_0/cfg_args", feature_level=0)
    (root / "chkpnt3_langfeat_1.pth").touch()
    # Beside runs of LangSplatV2 coded features need no autoencoder.
    files.write_features(root / "language_features_dim3", torch.ones(2, 3))
    found = find_official([root])
    assert found.missed == [
        "level 1 (subpart): queries will not answer at it",
        "project/chkpnt3_langfeat_1.pth is of Occam's LGS, which is not read here",
        "project/output/teatime_0/chkpnt10000.pth is of level 0 (all masks pooled), which is not "
        "read here",
    ]
    folder = import_official(found, tmp_path / "scene")
    assert load_scene(folder).language.mass.sum(dim=1).tolist() == [0, 200, 200]
    assert_answers(folder)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_exported_features_are_of_the_camera_that_the_files_describe(tmp_path, device):
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    K = scene.cameras[0].K.clone()
    K[0, 2] += 9  # cameras.json cannot store it
    cut = replace(scene, cameras=(replace(scene.cameras[0], K=K),)).to(device)
    said = []
    for name, one in (("plain", replace(scene, cameras=scene.cameras[:1])), ("cut", cut)):
        (segments,) = export_official(one, tmp_path / name).glob("language_features/*_s.npy")
        said.append(np.load(segments))
    assert len(np.unique(said[0])) > 2
    assert (said[0] == said[1]).mean() > (0.999 if device == "cpu" else 0.98)


def test_an_exported_codeword_is_the_heaviest_of_all_whose_weights_are_drawn(tmp_path, monkeypatch):
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    scene.gaussians.means[::2, 1] += 100  # out of sight
    scene.language.mass[0, ::3] = 0
    generator = torch.Generator().manual_seed(0)
    picked = torch.rand(3, 200, 64, generator=generator).topk(4)
    scene.language.rows.copy_(picked.indices)
    scene.language.codes.copy_(torch.rand(3, 200, 4, generator=generator))
    view = scene.cameras[0].resized(37, 29)
    found = heaviest(scene.gaussians, view, scene.language, MIN_SUPPORT)
    assert min(len(words.unique()) for words in found) > 20
    drawn = []

    def counted(gaussians, camera, values, **how):
        if values.shape[1] > 1:
            drawn.append(len(values))
        return render(gaussians, camera, values, **how)

    monkeypatch.setattr("langsplat.rasterize.render", counted)
    # The weights of all are made for Gaussians that are seen, and only on a GPU.
    assert torch.equal(found, _heaviest_drawn(scene.gaussians, view, scene.language, MIN_SUPPORT))
    assert len(drawn) == 3 and 0 < max(drawn) <= 100
    drawn.clear()
    export_official(replace(scene, cameras=(view,)), tmp_path / "files")
    assert not drawn


def test_exported_pictures_keep_their_size_however_high_they_are(tmp_path):
    """Inria's code shrinks those above 1080 pixels, under the label maps, unless it is told not to.

    The maps would then be cut, not resized.
    """
    root = v2_runs(tmp_path / "project")
    files.write_cameras_json(root / "output/teatime_1/cameras.json")
    scene = load_scene(import_official(find_official([root]), tmp_path / "scene"))
    high = tuple(camera.resized(900, 1200) for camera in scene.cameras)
    out = export_official(replace(scene, cameras=high, language=None), tmp_path / "files")
    resolution = read_cfg_args(out / "cfg_args")["resolution"]
    again = read_cameras(out / "cameras.json", resolution=resolution)
    assert {(camera.width, camera.height) for camera in again} == {(900, 1200)}
