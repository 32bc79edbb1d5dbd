"""Captures: every format read right, on real and synthetic data, and bad input said in words."""

import errno
import json
import math
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from langsplat.cameras import Lens
from langsplat.capture import (
    COLMAP_MODELS,
    COLMAP_NUMBERS,
    _folders,
    _gather,
    load_capture,
    read_colmap,
)
from langsplat.scene import Camera
from langsplat.sfm import PhotoGroup, Placement, pairs_to_match, place_cameras
from tests.conftest import real_data
from tests.test_cameras import LENSES

RNG = np.random.default_rng


def photo(path: Path, size=(64, 48), seed=0, **save) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = RNG(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, **save)


def opengl_pose(k: int) -> list[list[float]]:
    """Camera to world, OpenGL axes: level, at the height 1.5, turned by k * 0.3 about z."""
    c, s = math.cos(0.3 * k), math.sin(0.3 * k)
    return [[c, 0, s, 3 * s], [s, 0, -c, -3 * c], [0, 1, 0, 1.5], [0, 0, 0, 1]]


def transforms(folder: Path, count=4, write=True, **extra) -> Path:
    frames = []
    for k in range(count):
        name = f"images/{k:02d}.png"
        frames.append({"file_path": name, "transform_matrix": opengl_pose(k)})
        if write:
            photo(folder / name, seed=k)
    content = {"fl_x": 60.0, "fl_y": 61.0, "cx": 31.0, "cy": 25.0, "w": 64, "h": 48}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": frames, **extra}))
    return folder


def project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P, 3] -> pixels [P, 2], depth [P]."""
    viewmat, K = camera.viewmat.double().numpy(), camera.K.double().numpy()
    inside = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = inside @ K.T
    return pixels[:, :2] / pixels[:, 2:], inside[:, 2]


# ------------------------------------------------------------------ real captures


def test_snowmiku_points_have_the_colors_of_the_pixels_they_project_to():
    capture = load_capture(real_data("snowmiku_small"), max_side=504)
    assert len(capture.images) == len(capture.cameras) == 97
    assert capture.points.shape == (25784, 3) and capture.point_colors.dtype == np.uint8
    assert not capture.notes

    def error(zoom: float) -> float:
        """Median difference of colors if the focal length were `zoom` times what it is."""
        errors = []
        for image, camera in zip(capture.images[::8], capture.cameras[::8], strict=True):
            assert image.shape == (camera.height, camera.width, 3) and image.dtype == np.uint8
            assert max(image.shape) == 504
            pixels, depth = project(camera, capture.points)
            center = camera.K[:2, 2].numpy()
            pixels = (pixels - center) * zoom + center
            inside = (depth > 0.1) & (pixels > 0).all(1) & (pixels < image.shape[1::-1]).all(1)
            x, y = pixels[inside].astype(int).T
            seen, colors = image[y, x].astype(int), capture.point_colors[inside]
            errors.append(np.abs(seen - colors).mean(1))
        return float(np.median(np.concatenate(errors)))

    # Many points are hidden in any one view, so only the comparison is sharp: at the largest
    # distance from the centre 1 % of the focal length is 3 pixels.
    assert error(1.0) < 30
    assert error(1.0) < min(error(0.99), error(1.01)) - 1


def lund_model() -> tuple[Path, dict[str, np.ndarray], dict[int, np.ndarray]]:
    folder = real_data("gtsfm_lund_door")
    model = folder / "colmap_ground_truth"
    lines = [line for line in (model / "images.txt").read_text().splitlines() if line[:1] != "#"]
    tracks = {
        lines[i].split()[9]: np.array(lines[i + 1].split(), float).reshape(-1, 3)
        for i in range(0, len(lines) - 1, 2)
    }
    points = {}
    for line in (model / "points3D.txt").read_text().splitlines():
        if line[:1] != "#":
            words = line.split()
            points[int(words[0])] = np.array(words[1:4], float)
    return folder, tracks, points


def test_lund_door_tracks_reproject_onto_the_undistorted_cameras():
    folder, tracks, points = lund_model()
    capture = load_capture(folder)
    lens = Lens(1296, 1936, 2435.38, 2435.38, 648, 968, (-0.0336422,))
    assert [camera.name for camera in capture.cameras] == sorted(tracks)
    for camera in capture.cameras:
        seen = tracks[camera.name]
        seen = seen[seen[:, 2] >= 0]
        goal = (seen[:, :2] - [lens.cx, lens.cy]) / [lens.fx, lens.fy]
        straight = goal.copy()
        for _ in range(20):
            straight += goal - lens.distort(straight)
        observed = straight * [camera.K[0, 0], camera.K[1, 1]] + camera.K[:2, 2].numpy()
        expected, depth = project(camera, np.stack([points[int(i)] for i in seen[:, 2]]))
        assert (depth > 0).all()
        assert np.linalg.norm(observed - expected, axis=1).mean() < 1.5


def test_buddha_cameras_look_at_the_head_from_all_sides():
    capture = load_capture(real_data("buddha_small"), max_side=256)
    assert len(capture.images) == 13 and capture.images[0].shape == (144, 256, 3)
    positions = torch.stack([camera.position for camera in capture.cameras]).double()
    forward = torch.stack([camera.camtoworld[:3, 2] for camera in capture.cameras]).double()
    flat = torch.eye(3).double() - forward[:, :, None] * forward[:, None, :]
    meeting = torch.linalg.solve(flat.sum(0), (flat @ positions[:, :, None]).sum(0)[:, 0])
    assert (((meeting - positions) * forward).sum(1) > 0).all()  # OpenGL axes were turned


def test_max_side_shrinks_picture_and_intrinsics_alike():
    folder = real_data("gtsfm_lund_door")
    full, small = load_capture(folder), load_capture(folder, max_side=242)
    for a, b in zip(full.cameras, small.cameras, strict=True):
        assert max(b.width, b.height) == 242
        torch.testing.assert_close(a.resized(b.width, b.height).K, b.K, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(a.viewmat, b.viewmat)
    reference = Image.fromarray(full.images[0]).resize(small.images[0].shape[1::-1], 1)
    assert np.abs(np.asarray(reference).astype(int) - small.images[0]).mean() < 3


# ------------------------------------------------------------------ COLMAP models


def as_binary(text: Path, binary: Path) -> None:
    """Write a text model in COLMAP's binary form, as its documentation lays it out."""
    binary.mkdir(parents=True)

    def lines(name: str) -> list[str]:
        return [line for line in (text / name).read_text().splitlines() if line[:1] != "#"]

    cameras = [line.split() for line in lines("cameras.txt")]
    out = bytearray(struct.pack("<Q", len(cameras)))
    for camera, model, width, height, *parameters in cameras:
        out += struct.pack(
            "<iiQQ", int(camera), COLMAP_NUMBERS[model], int(width), int(height)
        ) + struct.pack(f"<{len(parameters)}d", *map(float, parameters))
    (binary / "cameras.bin").write_bytes(out)

    images = lines("images.txt")
    out = bytearray(struct.pack("<Q", len(images) // 2))
    for head, tail in zip(images[::2], images[1::2], strict=False):
        number, *pose, camera, name = head.split()
        out += struct.pack("<i7di", int(number), *map(float, pose), int(camera))
        observed = tail.split()
        out += name.encode() + b"\0" + struct.pack("<Q", len(observed) // 3)
        for k in range(0, len(observed), 3):
            out += struct.pack("<ddq", *map(float, observed[k : k + 2]), int(observed[k + 2]))
    (binary / "images.bin").write_bytes(out)

    points = [line.split() for line in lines("points3D.txt")]
    out = bytearray(struct.pack("<Q", len(points)))
    for number, x, y, z, r, g, b, error, *track in points:
        out += struct.pack("<Q3d", int(number), float(x), float(y), float(z))
        out += struct.pack("<3BdQ", int(r), int(g), int(b), float(error), len(track) // 2)
        out += struct.pack(f"<{len(track)}i", *map(int, track))
    (binary / "points3D.bin").write_bytes(out)


def colmap(folder: Path, model="SIMPLE_PINHOLE", parameters="60 32 24", count=3, suffix="") -> Path:
    """A small text model with its photos in `folder`."""
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text(f"# list\n7 {model} 64 48 {parameters}\n")
    lines = [f"# Number of images: {count}"]
    for k in range(count):
        photo(folder / "images" / f"photo{k}{suffix}.png", seed=k)
        lines += [f"{k + 1} 1 0 0 0 {k} 0 4 7 photo{k}{suffix}.png", "1.5 2.5 -1" if k else ""]
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    (sparse / "points3D.txt").write_text(
        "# Number of points: 2\n1 0 0 1 10 20 30 0.5 1 0\n5 1 2 3 255 0 9 1.5\n"
    )
    return folder


@pytest.mark.parametrize("source", ["gtsfm_lund_door", "synthetic"])
def test_text_and_binary_models_read_the_same(tmp_path, source):
    if source == "synthetic":
        folder = colmap(tmp_path / "text", "OPENCV", "60 61 32 24 -0.1 0.01 0.001 0.002")
        model, images = folder / "sparse" / "0", folder / "images"
    else:
        folder = real_data(source)
        model, images = folder / "colmap_ground_truth", folder / "images"
    other = tmp_path / "binary"
    as_binary(model, other / "sparse" / "0")
    (other / "images").symlink_to(images)
    a, b = load_capture(folder, max_side=64), load_capture(other, max_side=64)
    np.testing.assert_array_equal(a.points, b.points)
    np.testing.assert_array_equal(a.point_colors, b.point_colors)
    for left, right in zip(a.cameras, b.cameras, strict=True):
        assert left.name == right.name
        assert torch.equal(left.viewmat, right.viewmat) and torch.equal(left.K, right.K)
    for one, two in zip(a.images, b.images, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("layout", ["sparse/0", "sparse", "colmap/sparse/0", "my model", "."])
def test_a_model_is_found_in_any_usual_layout(tmp_path, layout):
    folder = colmap(tmp_path / "capture")
    for file in list((folder / "sparse" / "0").iterdir()):
        target = folder / layout / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    capture = load_capture(folder)
    assert [camera.name for camera in capture.cameras] == [f"photo{k}.png" for k in range(3)]
    assert capture.points.tolist() == [[0, 0, 1], [1, 2, 3]]
    assert capture.point_colors.tolist() == [[10, 20, 30], [255, 0, 9]]


def test_a_zip_of_a_capture_reads_like_its_folder(tmp_path):
    folder = colmap(tmp_path / "capture")
    archive = tmp_path / "capture.ZIP"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        for file in folder.rglob("*"):
            if file.is_file():
                handle.write(file, Path("wrapped") / file.relative_to(folder))
        handle.writestr("__MACOSX/wrapped/images/._photo0.png", b"clutter")
        handle.writestr("wrapped/images/.DS_Store", b"clutter")
        handle.writestr("__MACOSX/wrapped/images/other.png", b"clutter")
        handle.writestr("wrapped/program.exe", b"of no use")
        handle.writestr("wrapped/small.txt", b" " * 9000)  # compresses well, but does no harm
        handle.writestr("wrapped/a folder.zip/", b"")
    unpacked = set()

    def look(*_) -> None:
        assert not [path for path in tmp_path.iterdir() if path not in (folder, archive, work)]
        unpacked.update(path.name for path in work.rglob("*.*") if path.is_file())

    work = tmp_path / "work"
    a, b = load_capture(folder), load_capture(archive, workdir=work, progress=look)
    assert b.name == "capture" and not b.notes
    assert unpacked == {file.name for file in folder.rglob("*.*")} | {"small.txt"}
    assert list(work.iterdir()) == []
    for one, two in zip(a.images, b.images, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_for_larger_photos_is_scaled_to_the_photos_that_are_there(tmp_path):
    folder = colmap(tmp_path / "capture")
    for k in range(3):
        photo(folder / "images" / f"photo{k}.png", size=(32, 24), seed=k)
    camera = load_capture(folder).cameras[0]
    torch.testing.assert_close(camera.K, torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]))


def test_a_camera_of_any_size_serves_small_photos(tmp_path):
    folder = colmap(tmp_path)
    (folder / "sparse/0/cameras.txt").write_text("7 SIMPLE_PINHOLE 9600 7200 9000 4800 3600\n")
    camera = load_capture(folder).cameras[0]
    torch.testing.assert_close(camera.K, torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]))


def test_a_text_model_is_read_in_less_memory_than_its_file_takes(tmp_path):
    folder = colmap(tmp_path)
    file = folder / "sparse/0/points3D.txt"
    load_capture(folder)  # so that the memory of imports is not counted
    file.write_text("# Number of points: 2000\n" + f"1 0 0 1 1 2 3 0.5{' 123' * 1000}\n" * 2000)
    tracemalloc.start()
    try:
        assert load_capture(folder).points.shape == (2000, 3)
        assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 4
    finally:
        tracemalloc.stop()


def test_a_text_model_that_never_ends_is_refused_in_a_sentence(tmp_path, monkeypatch):
    folder = colmap(tmp_path)
    monkeypatch.setattr("langsplat.capture.MAX_VIEWS", 2)
    with pytest.raises(ValueError, match=r"images\.txt lists more than 2 images: export a smaller"):
        load_capture(folder)
    monkeypatch.setattr("langsplat.capture.MAX_LINE", 30)
    with pytest.raises(ValueError, match=r"a line of cameras\.txt does not end"):
        load_capture(folder)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    folder = colmap(tmp_path / "colmap")
    files = list((folder / "sparse" / "0").iterdir())
    files.append(transforms(tmp_path / "json") / "transforms.json")
    for file in files:
        text = file.read_text().removeprefix("# list\n")
        file.write_text(text, encoding="utf-8-sig")
    assert len(load_capture(folder).images) == 3
    assert len(load_capture(tmp_path / "json").images) == 4


@pytest.mark.parametrize("form", ["text", "binary"])
@pytest.mark.parametrize("file", ["cameras", "images", "points3D"])
def test_a_truncated_model_says_so(tmp_path, form, file):
    folder = colmap(tmp_path / "capture")
    model = folder / "sparse" / "0"
    suffix = ".txt"
    if form == "binary":
        as_binary(model, folder / "binary")
        shutil.rmtree(model)
        model, suffix = folder / "binary", ".bin"
    whole = (model / f"{file}{suffix}").read_bytes()
    (model / f"{file}{suffix}").write_bytes(whole[: int(0.8 * len(whole))])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_capture(folder)


def test_a_model_that_claims_endless_records_is_refused_at_once(tmp_path):
    folder = colmap(tmp_path / "capture")
    model = folder / "sparse" / "0"
    as_binary(model, folder / "binary")
    shutil.rmtree(model)
    (folder / "binary" / "points3D.bin").write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(ValueError, match=r"points3D\.bin ends too early"):
        load_capture(folder)


def test_an_unsupported_lens_is_named(tmp_path):
    with pytest.raises(ValueError, match="FOV is not supported: undistort"):
        load_capture(colmap(tmp_path / "text", "FOV", "60 60 32 24 0.5"))
    as_binary(colmap(tmp_path / "plain") / "sparse/0", tmp_path / "binary")
    file = tmp_path / "binary/cameras.bin"
    file.write_bytes(file.read_bytes()[:12] + struct.pack("<i", 7) + file.read_bytes()[16:])
    with pytest.raises(ValueError, match="number 7 is not supported: undistort"):
        read_colmap(tmp_path / "binary")


@pytest.mark.parametrize("name", LENSES)
def test_the_parameters_of_every_lens_are_in_colmaps_order(tmp_path, name):
    lens, parameters = LENSES[name]
    folder = colmap(tmp_path, name, " ".join(map(str, parameters))) / "sparse/0"
    text = (folder / "cameras.txt").read_text().replace("64 48", "640 480")
    (folder / "cameras.txt").write_text(text)
    ((_, read, _), *_), _, _ = read_colmap(folder)
    assert (read.width, read.height, read.fx, read.fy) == (640, 480, lens.fx, lens.fy)
    assert (read.cx, read.cy, read.fisheye) == (lens.cx, lens.cy, lens.fisheye)
    points = RNG(0).uniform(-0.6, 0.6, (50, 2))
    np.testing.assert_allclose(read.distort(points), lens.distort(points), atol=1e-12)


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("cameras", "60 32 24", "60 32 24 1", "a SIMPLE_PINHOLE camera has 3 parameters, not 4"),
        ("cameras", "64 48 60 32 24", "64", r"a line of cameras\.txt is cut short"),
        ("cameras", "60 32 24", "inf 32 24", "a camera that is not a number"),
        ("cameras", "7 S", "nan S", "a camera that is not a number"),
        ("images", "4 7 photo1", "4 8 photo1", "camera 8 is missing"),
        ("images", "1 0 0 0 1", "0 0 0 0 1", "a pose is not a number"),
        ("images", "1 0 0 0 1", "1e-200 0 0 0 1", "a pose is not a number"),
        ("images", "1 0 0 0 1", "1 0 0 0 1e30", "a pose is not a number"),
        ("images", "1 0 0 0 1", "1 0 0 0 one", "a pose that is not a number"),
        ("images", "images: 3", "images: 4", "3 of 4 images"),
        ("images", "photo0.png\n", "photo0.png", r"lacks the second line, which may be empty, of"),
        ("images", "\n\n2 1 0 0 0 1 0 4 7 p", "\n2 1 0 0 0 1 0 4 7 p ", "lacks the second line"),
        ("points3D", " 9 1.5", "", r"a line of points3D\.txt is cut short"),
        ("points3D", "255", "red", "a point that is not a number"),
    ],
)
def test_what_is_wrong_in_a_text_model_is_told(tmp_path, file, old, new, message):
    path = colmap(tmp_path) / "sparse/0" / f"{file}.txt"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(
        ValueError, match=rf"^The COLMAP model in 0 is .*{message}.*export it again"
    ):
        load_capture(tmp_path)


def test_blank_lines_odd_bytes_and_points_out_of_all_bounds_do_no_harm(tmp_path):
    model = colmap(tmp_path) / "sparse/0"
    for file in ("cameras.txt", "images.txt", "points3D.txt"):
        text = (model / file).read_bytes().replace(b"points: 2", b"points: 5")
        (model / file).write_bytes(b"# caf\xe9\n\n" + text)
    with (model / "points3D.txt").open("a") as handle:
        handle.write("\n6 nan 0 0 1 2 3 0.5\n7 0 1e30 0 1 2 3 0.5\n8 0 0 1 nan 2 3 0.5\n\n")
    for file, old, new in (
        ("points3D.txt", b"255 0 9", b"300 -4 9"),
        ("images.txt", b"2 1 0 0 0 1", b"2 0 0 2 0 1"),  # a quaternion of any length
    ):
        (model / file).write_bytes((model / file).read_bytes().replace(old, new))
    capture = load_capture(tmp_path)
    assert len(capture.images) == 3
    assert capture.cameras[1].viewmat.diag().tolist() == [-1, 1, -1, 1]
    assert capture.points.tolist() == [[0, 0, 1], [1, 2, 3]]
    assert capture.point_colors.tolist() == [[10, 20, 30], [255, 0, 9]]
    json_file = transforms(tmp_path / "json", author="caf?") / "transforms.json"
    json_file.write_bytes(json_file.read_bytes().replace(b"caf?", b"caf\xe9"))
    assert len(load_capture(tmp_path / "json").images) == 4


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_model_may_come_without_points(tmp_path, form):
    model = colmap(tmp_path) / "sparse/0"
    if form == "binary":
        as_binary(model, tmp_path / "binary")
        shutil.rmtree(model)
        model = tmp_path / "binary"
    next(model.glob("points3D.*")).unlink()
    capture = load_capture(tmp_path)
    assert len(capture.images) == 3
    assert capture.points.shape == capture.point_colors.shape == (0, 3)


def test_a_photo_whose_name_is_in_odd_bytes_is_missing_from_a_binary_model(tmp_path):
    as_binary(colmap(tmp_path) / "sparse/0", tmp_path / "binary")
    shutil.rmtree(tmp_path / "sparse")
    file = tmp_path / "binary/images.bin"
    file.write_bytes(file.read_bytes().replace(b"photo1", b"phot\xff1"))
    assert load_capture(tmp_path).notes[0].startswith("1 of the 3 photos listed in the COLMAP")


def test_more_cameras_than_any_capture_needs_are_refused(tmp_path, monkeypatch):
    as_binary(colmap(tmp_path / "text") / "sparse/0", tmp_path / "binary")
    transforms(tmp_path / "json")
    monkeypatch.setattr("langsplat.capture.MAX_VIEWS", 2)
    with pytest.raises(ValueError, match="has 3 photos: at most 2 are allowed"):
        read_colmap(tmp_path / "binary")
    with pytest.raises(ValueError, match=r"transforms\.json lists 4 photos: at most 2"):
        load_capture(tmp_path / "json")


def test_a_model_of_one_photo_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There are 1 photos in the COLMAP model: at least 2"):
        load_capture(colmap(tmp_path, count=1))


def test_photos_come_in_the_order_in_which_people_count(tmp_path):
    listing = colmap(tmp_path) / "sparse/0/images.txt"
    text = listing.read_text()
    for old, new in (("photo0", "day 10"), ("photo1", "Day 9"), ("photo2", "day 010 b")):
        (tmp_path / f"images/{old}.png").rename(tmp_path / f"images/{new}.png")
        text = text.replace(old, new)
    listing.write_text(text)
    names = [camera.name for camera in load_capture(tmp_path).cameras]
    assert names == ["Day 9.png", "day 010 b.png", "day 10.png"]


def test_the_photos_of_a_model_are_sought_where_most_of_them_are_but_never_above(tmp_path):
    folder = colmap(tmp_path / "capture")
    shutil.copytree(folder / "images", folder / "my photos")
    (folder / "images/photo1.png").unlink()
    (folder / "cameras.txt").touch()  # on its own this is no model
    capture = load_capture(folder)
    assert len(capture.images) == 3 and not capture.notes
    shutil.rmtree(folder / "images")
    for file in (folder / "my photos").iterdir():
        photo(folder / "masks" / file.name, size=(8, 6))
    shown = load_capture(folder)
    assert shown.images[0].shape == capture.images[0].shape and len(shown.images) == 3
    shutil.rmtree(folder / "masks")
    (folder / "my photos").rename(tmp_path / "images")
    with pytest.raises(ValueError, match=r"3 of the 3 photos .* missing .* put the photos beside"):
        load_capture(folder)


def test_a_model_cannot_name_files_outside_of_its_folder(tmp_path):
    folder = colmap(tmp_path / "capture")
    photo(tmp_path / "secret.png")
    listing = folder / "sparse" / "0" / "images.txt"
    listing.write_text(listing.read_text().replace("photo1.png", "../../secret.png"))
    with pytest.raises(ValueError, match="outside its own folder"):
        load_capture(folder)


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_capture_in_map_coordinates_is_moved_to_where_numbers_are_exact(tmp_path, form):
    plain = load_capture(colmap(tmp_path / "plain", count=5))
    far, middle = colmap(tmp_path / "far", count=5), np.array([4e6 + 0.1, -5e5, 5e6])
    images, points = (far / "sparse/0" / name for name in ("images.txt", "points3D.txt"))
    away = np.array([2, 0, 4])
    place = middle + away  # these cameras are not rotated: they stand at minus what is written
    for k in range(5):
        x, y, z = np.array([k, 0, 4]) - place
        text = images.read_text().replace(f"0 0 0 {k} 0 4 7", f"0 0 0 {x} {y} {z} 7")
        images.write_text(text)
    near, far_off = (" ".join(map(str, place + point)) for point in plain.points)
    points.write_text(f"1 {near} 10 20 30 0.5\n5 {far_off} 255 0 9 1.5\n")
    if form == "binary":
        as_binary(far / "sparse/0", tmp_path / "binary/sparse/0")
        (tmp_path / "binary/images").symlink_to(far / "images")
        far = tmp_path / "binary"
    moved = load_capture(far)
    assert moved.notes == [
        "The capture's coordinates are too large to be kept exactly: the scene's are less by "
        "(4000000.1, -500000, 5000000)."
    ]
    assert plain.notes == []
    np.testing.assert_allclose(moved.points, plain.points + away, atol=1e-6)
    for here, there in zip(plain.cameras, moved.cameras, strict=True):
        torch.testing.assert_close(there.position, here.position + torch.tensor([2.0, 0, 4]))


def test_the_numbers_of_camera_models_are_colmaps():
    assert COLMAP_MODELS[5][0] == "OPENCV_FISHEYE" and COLMAP_MODELS[6][0] == "FULL_OPENCV"
    assert COLMAP_NUMBERS["SIMPLE_RADIAL_FISHEYE"] == 8


# ------------------------------------------------------------------ transforms.json


def test_transforms_json_turns_opengl_cameras_into_opencv_ones(tmp_path):
    capture = load_capture(transforms(tmp_path))
    camera = capture.cameras[0]
    torch.testing.assert_close(camera.position, torch.tensor([0.0, -3.0, 1.5]))
    # This camera looks along its -z, which is +y of the world; the world's z is up in the picture.
    torch.testing.assert_close(camera.camtoworld[:3, 2], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(camera.camtoworld[:3, 1], torch.tensor([0.0, 0.0, -1.0]))
    expected = torch.tensor([[60.0, 0, 31], [0, 61, 25], [0, 0, 1]])
    torch.testing.assert_close(camera.K, expected)
    assert camera.name == "images/00.png" and capture.points.shape == (0, 3)


def test_intrinsics_may_be_per_frame_or_only_an_angle(tmp_path):
    folder = transforms(tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][1] |= {"fl_x": 70.0, "fl_y": 71.0}
    (folder / "transforms.json").write_text(json.dumps(content))
    focal = [float(camera.K[0, 0]) for camera in load_capture(folder).cameras]
    assert focal == pytest.approx([60, 70, 60, 60])
    only = {"camera_angle_x": 2 * math.atan(0.5), "frames": content["frames"][2:]}
    (folder / "transforms.json").write_text(json.dumps(only))
    K = load_capture(folder).cameras[0].K
    torch.testing.assert_close(K, torch.tensor([[64.0, 0, 32], [0, 64, 24], [0, 0, 1]]))


def test_an_angle_of_the_height_and_a_size_other_than_the_photos_are_heard(tmp_path):
    sizes = {"w": 128, "h": 96, "cx": None, "cy": None, "fl_x": None, "fl_y": None}
    angles = {"camera_angle_x": 2 * math.atan(0.5), "camera_angle_y": 2 * math.atan(0.4)}
    K = load_capture(transforms(tmp_path, **sizes, **angles)).cameras[0].K
    torch.testing.assert_close(K, torch.tensor([[64.0, 0, 32], [0, 60, 24], [0, 0, 1]]))


def test_masks_beside_photos_are_said_to_be_unused(tmp_path):
    content = json.loads((transforms(tmp_path) / "transforms.json").read_text())
    for frame in content["frames"][:3]:
        frame["mask_path"] = frame["file_path"]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    notes = ["The masks of 3 photos are not used: what they hide is built as well."]
    assert load_capture(tmp_path).notes == notes


def test_matrices_of_three_rows_or_with_a_scale_are_the_same_cameras(tmp_path):
    folder = transforms(tmp_path)
    plain = load_capture(folder).cameras
    content = json.loads((folder / "transforms.json").read_text())
    for k, frame in enumerate(content["frames"]):
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] *= k + 1
        frame["transform_matrix"] = matrix[: 3 + k % 2].tolist()
    (folder / "transforms.json").write_text(json.dumps(content))
    for a, b in zip(load_capture(folder).cameras, plain, strict=True):
        torch.testing.assert_close(a.viewmat, b.viewmat)


def test_blender_names_without_suffix_and_see_through_pictures_are_read(tmp_path):
    folder = transforms(tmp_path)
    for k in range(4):
        clear = Image.new("RGBA", (64, 48), (200, 0, 0, 0))
        clear.paste((0, 0, 255, 255), (0, 0, 32, 48))
        clear.save(folder / "images" / f"{k:02d}.5.png")
    text = (folder / "transforms.json").read_text().replace(".png", ".5")
    (folder / "transforms.json").unlink()
    (folder / "transforms_train.json").write_text(text)
    image = load_capture(folder).images[0]
    assert image[24, 50].tolist() == [255, 255, 255] and image[24, 10].tolist() == [0, 0, 255]


def test_distortion_in_transforms_json_is_undone(tmp_path):
    plain = load_capture(transforms(tmp_path / "plain"))
    bent = load_capture(transforms(tmp_path / "bent", camera_model="OPENCV", k1=-0.2, p1=0.01))
    fish = load_capture(transforms(tmp_path / "fish", camera_model="OPENCV_FISHEYE", k1=0.01))
    assert not np.array_equal(plain.images[0], bent.images[0][:48, :64])
    assert float(bent.cameras[0].K[0, 0]) == pytest.approx(60, rel=0.01)
    assert fish.images[0].shape[0] == fish.cameras[0].height


POLYNOMIAL = {"k1": -0.2, "k2": 0.1, "p1": 0.02, "p2": -0.03}


@pytest.mark.parametrize(
    "settings, bend",
    [
        (POLYNOMIAL | {"camera_model": "opencv"}, ((-0.2, 0.1), (), (0.02, -0.03))),
        (POLYNOMIAL | {"k3": 0.3, "k4": -0.1}, ((-0.2, 0.1, 0.3, -0.1), (), (0.02, -0.03))),
        (
            POLYNOMIAL
            | {"camera_model": "FULL_OPENCV", "k3": 0.3, "k4": 0.1, "k5": 0.5, "k6": -0.3},
            ((-0.2, 0.1, 0.3), (0.1, 0.5, -0.3), (0.02, -0.03)),
        ),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": -0.1, "k4": 0.2},
            ((-0.1, 0.0, 0.0, 0.2), (), (0.0, 0.0), True),
        ),
        ({"is_fisheye": True, "k1": -0.1}, ((-0.1,), (), (0.0, 0.0), True)),
        ({"camera_model": "PERSPECTIVE"}, ()),
    ],
)
def test_the_coefficients_in_transforms_json_bend_as_their_model_says(tmp_path, settings, bend):
    capture = load_capture(transforms(tmp_path, **settings))
    lens = Lens(64, 48, 60, 61, 31, 25, *bend)
    K, width, height = lens.pinhole()
    np.testing.assert_allclose(capture.cameras[0].K.numpy(), K, rtol=1e-5)
    with Image.open(tmp_path / "images/00.png") as stored:
        expected = lens.straighten(np.array(stored), K, width, height)
    assert np.abs(capture.images[0].astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("colored", [True, False])
def test_points_are_read_from_the_ply_beside_transforms_json(tmp_path, form, colored):
    header = f"ply\nformat {form} 1.0\ncomment c\nelement vertex 2\nproperty double x\n"
    header += "property float y\nproperty float z\nproperty uchar label\n"
    rows = [(1.5, 2.0, 3.0, 4), (-1.0, 0.5, 0.25, 5)]
    colors = [(255, 1, 2), (3, 4, 5)] if colored else []
    if colored:
        header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    body = b""
    for k, row in enumerate(rows):
        values = [*row, *(colors[k] if colored else ())]
        if form == "ascii":
            body += (" ".join(map(str, values)) + "\n").encode()
        else:
            body += struct.pack(f"<dffB{3 * colored}B", *values)
    folder = transforms(tmp_path, ply_file_path="cloud.ply")
    (folder / "cloud.ply").write_bytes(header.encode() + body)
    capture = load_capture(folder)
    assert capture.points.tolist() == [[1.5, 2.0, 3.0], [-1.0, 0.5, 0.25]]
    assert capture.point_colors.tolist() == (
        [[255, 1, 2], [3, 4, 5]] if colored else [[128] * 3] * 2
    )
    (folder / "cloud.ply").write_bytes((header.encode() + body)[:-6])
    if form != "ascii":
        with pytest.raises(ValueError, match=r"cloud\.ply cannot be read"):
            load_capture(folder)
    (folder / "cloud.ply").unlink()
    assert "cloud.ply are missing" in load_capture(folder).notes[0]


GOOD_PLY = """ply
format ascii 1.0
element vertex 2
property float x
property float y
property float z
property uchar red
end_header
1 2 3 9
4 5 6 9
"""


@pytest.mark.parametrize(
    "old, new, points",
    [
        ("\n", "\r\n", [[1, 2, 3], [4, 5, 6]]),
        ("6 9", "6 9 7 7", [[1, 2, 3], [4, 5, 6]]),
        ("vertex 2", "vertex 0", []),
        ("", "", [[1, 2, 3], [4, 5, 6]]),
        ("ply\n", "plain\n", None),
        ("ascii 1.0\nelement vertex 2", "binary_big_endian 1.0\nelement vertex 1", None),
        ("vertex 2", "vertex 3", None),
        ("vertex 2", "vertex two", None),
        ("vertex 2", f"vertex {'9' * 5000}", None),
        ("element", "element face 0\nelement", None),
        ("uchar red", "uchar z", None),
        ("float z", "float w", None),
        ("float z", "half z", None),
        ("6 9", "6", None),
        ("\n4 5 6 9\n", "", None),
        ("6 9", "six 9", None),
    ],
)
def test_a_ply_is_read_whole_or_refused_in_a_sentence(tmp_path, old, new, points):
    folder = transforms(tmp_path, ply_file_path="cloud.ply")
    (folder / "cloud.ply").write_bytes(GOOD_PLY.replace(old, new).encode())
    if points is None:
        as_what = r"export it again as a PLY that is binary \(little-endian\) and not compressed"
        with pytest.raises(ValueError, match=rf"^cloud\.ply cannot be read as points: {as_what}"):
            load_capture(folder)
    else:
        assert load_capture(folder).points.tolist() == points


def test_missing_photos_are_noted_while_two_remain(tmp_path):
    folder = transforms(tmp_path, count=5)
    (folder / "images" / "01.png").unlink()
    (folder / "images" / "03.png").unlink()
    capture = load_capture(folder)
    assert len(capture.images) == 3
    assert capture.notes == [
        "2 of the 5 photos listed in transforms.json are missing (the first is images/01.png) "
        "and were left out."
    ]
    for name in ("02.png", "04.png"):
        (folder / "images" / name).unlink()
    with pytest.raises(ValueError, match=r"first is images/01\.png"):
        load_capture(folder)


def test_a_json_whose_photos_are_all_missing_names_the_first(tmp_path):
    with pytest.raises(ValueError, match=r"4 of the 4 photos .* images/00\.png"):
        load_capture(transforms(tmp_path, write=False))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "a/../../secret.png", "C:\\x.png", "."]
)
@pytest.mark.parametrize("field", ["file_path", "ply_file_path"])
def test_transforms_json_cannot_read_outside_of_its_folder(tmp_path, name, field):
    photo(tmp_path / "secret.png")
    photo(tmp_path / "capture.png")
    folder = transforms(tmp_path / "capture")
    content = json.loads((folder / "transforms.json").read_text())
    if field == "file_path":
        content["frames"][0]["file_path"] = name
    else:
        content[field] = name
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="outside its own folder"):
        load_capture(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fl_x": math.nan}, '"fl_x" must be a number'),
        ({"fl_x": "60"}, '"fl_x" must be a number'),
        ({"fl_x": True}, '"fl_x" must be a number'),
        ({"fl_x": 10**400}, '"fl_x" must be a number'),
        ({"fl_x": -3.0}, "focal length"),
        ({"fl_x": None, "camera_angle_x": 7.0}, "focal length"),
        ({"w": 1e8, "h": 1e8}, "size"),
        ({"w": 0}, "size"),
        ({"camera_model": "EQUIRECTANGULAR"}, "not supported"),
        ({"frames": []}, "lists no photos"),
        ({"frames": "x"}, "lists no photos"),
        ({"frames": [{"file_path": 3}] * 2}, "file_path"),
        ({"frames": [{"transform_matrix": opengl_pose(0)}] * 2}, "file_path"),
        ({"matrix": None}, "transform_matrix"),
        ({"matrix": [[1, 2], [3]]}, "transform_matrix"),
        ({"matrix": np.eye(3).tolist()}, "not a 4 x 4 matrix"),
        ({"matrix": [[math.inf] * 4] * 4}, "finite"),
        ({"matrix": [[0.0] * 4] * 4}, "not a rotation"),
        ({"matrix": np.diag([1.0, 1.0, -1.0, 1.0]).tolist()}, "not a rotation"),
        ({"matrix": np.diag([1.0, 1.0, 1.5, 1.0]).tolist()}, "not a rotation"),
    ],
)
def test_a_bad_transforms_json_is_one_sentence(tmp_path, change, message):
    folder = transforms(tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    if "matrix" in change:
        content["frames"][0]["transform_matrix"] = change["matrix"]
    else:
        content |= change
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_capture(folder)


def test_broken_json_is_one_sentence(tmp_path):
    folder = transforms(tmp_path)
    text = (folder / "transforms.json").read_text()
    for broken in (text[:200], "", "[" * 100_000, "[1, 2]", "null"):
        (folder / "transforms.json").write_text(broken)
        with pytest.raises(ValueError, match=r"^transforms\.json "):
            load_capture(folder)


def test_a_text_larger_than_any_capture_needs_is_refused_unread(tmp_path):
    os.truncate(transforms(tmp_path) / "transforms.json", 20_000_001)
    with pytest.raises(ValueError, match=r"^transforms\.json is larger than 20 MB"):
        load_capture(tmp_path)
    os.truncate(colmap(tmp_path) / "sparse/0/images.txt", 1_000_000_001)
    with pytest.raises(ValueError, match=r"^images\.txt is larger than 1000 MB"):
        load_capture(tmp_path)


@pytest.mark.parametrize("keep", [0, 300])  # bytes: the header is damaged, or only the pixels
def test_when_most_photos_are_damaged_the_count_and_the_reasons_are_told(tmp_path, keep):
    folder = transforms(tmp_path, count=10)
    for k in range(1, 10):
        file = folder / "images" / f"{k:02d}.png"
        file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError) as caught:
        load_capture(folder)
    assert str(caught.value).startswith(
        "Only 1 of the 10 photos listed in transforms.json can be used, at least 2 are needed."
        if keep == 0
        else "Only 1 of the capture's photos can be used, at least 2 are needed."
    )
    assert "5 photos were left out, as each is " in str(caught.value)
    assert re.search(r": images/01\.png, .*, images/05\.png\. ", str(caught.value))
    assert str(caught.value).endswith(" 4 more photos could not be used either.")
    (folder / "images" / "09.png").unlink()
    with pytest.raises(ValueError, match=r"1 of the 10 photos listed .* are missing"):
        load_capture(folder)


def test_names_in_other_bytes_than_utf_8_end_as_text_that_can_be_written(tmp_path):
    folder = transforms(tmp_path / os.fsdecode(b"caf\xe9"), count=5)
    name, missing = (f"images/{os.fsdecode(b'caf' + byte)}.png" for byte in (b"\xe9", b"\xe8"))
    (folder / "images" / "00.png").rename(folder / name)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][0]["file_path"], content["frames"][1]["file_path"] = name, missing
    (folder / "transforms.json").write_text(json.dumps(content))
    capture = load_capture(folder)
    assert capture.name == "caf?" and capture.cameras[0].name == "images/caf?.png"
    assert "images/caf?.png" in capture.notes[0]


def test_a_photo_that_does_not_decode_is_left_out_and_named(tmp_path):
    folder = transforms(tmp_path, count=8)
    files = [folder / "images" / f"{k:02d}.png" for k in range(8)]
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: len(whole) // 2])
    files[3].write_bytes(whole[:2000] + b"\xff" * 100 + whole[2100:])
    files[4].write_text("not a picture")
    Image.new("P", (64, 48)).save(files[5], "GIF")
    files[6].unlink()
    capture = load_capture(folder)
    assert [camera.name for camera in capture.cameras] == [f"images/0{k}.png" for k in (0, 1, 7)]
    foreign = "is not a picture that can be read here (save it as JPEG)"
    assert capture.notes == [
        "1 of the 8 photos listed in transforms.json are missing (the first is images/06.png) "
        "and were left out.",
        f"2 photos were left out, as each {foreign}: images/04.png, images/05.png.",
        "2 photos were left out, as each is damaged: images/02.png, images/03.png.",
    ]


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims this size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\r" + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"
    )


def test_a_photo_of_more_pixels_than_allowed_is_left_out_unread(tmp_path):
    folder = transforms(tmp_path, count=5)
    for k, size in ((1, (8100, 8100)), (2, (8192, 6144)), (3, (20_000, 20_000))):
        (folder / "images" / f"0{k}.png").write_bytes(claiming(*size))
    assert load_capture(folder).notes == [
        "The photo images/01.png has 8100 x 8100 pixels, more than the 64 million allowed and was "
        "left out.",
        "The photo images/03.png has more than the 64 million pixels allowed and was left out.",
        "The photo images/02.png is damaged and was left out.",  # so it was read
    ]


def test_photos_of_another_shape_than_their_camera_are_left_out(tmp_path):
    folder = transforms(tmp_path)
    photo(folder / "images" / "02.png", size=(64, 44))
    capture = load_capture(folder)
    assert len(capture.images) == 3 and capture.notes == [
        "The photo images/02.png has 64 x 44 pixels but its camera is for 64 x 48 and was left out."
    ]


def test_a_photo_whose_lens_cannot_be_straightened_is_left_out(tmp_path):
    folder = transforms(tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][1]["k1"] = -100.0
    (folder / "transforms.json").write_text(json.dumps(content))
    capture = load_capture(folder)
    assert [camera.name for camera in capture.cameras] == [f"images/0{k}.png" for k in (0, 2, 3)]
    assert "images/01.png has a distortion that cannot be undone" in capture.notes[0]


def test_pictures_of_sixteen_bits_and_of_any_range_become_eight_bits(tmp_path):
    folder = transforms(tmp_path, count=2)
    Image.fromarray(np.full((48, 64), 32768, np.uint16)).save(folder / "images" / "00.png")
    ramp = np.tile(np.linspace(0, 2, 64, dtype=np.float32), (48, 1))
    Image.fromarray(ramp).save(folder / "images" / "01.png", "TIFF")
    grey, slope = load_capture(folder).images
    assert (grey == 127).all()
    assert slope[5, ::63].tolist() == [[0] * 3, [255] * 3] and slope[5, 31, 0] == 125


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_of_any_size_is_shrunk_as_any_other_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    strips = []
    for suffix in ("png", "jpg"):
        folder = transforms(tmp_path / suffix, count=2, w=401, h=301)
        text = (folder / "transforms.json").read_text().replace(".png", f".{suffix}")
        (folder / "transforms.json").write_text(text)
        for k in range(2):  # a quarter of these sides is no whole number
            photo(folder / f"images/0{k}.{suffix}", size=(401, 301), exif=exif)
        image = load_capture(folder, max_side=48).images[0].astype(int)
        strips.append(np.concatenate([image[:, -8:].ravel(), image[-8:].ravel()]))
    assert np.abs(strips[0] - strips[1]).mean() < 1.5


# ------------------------------------------------------------------ photos and zips


def prepared(folder: Path, monkeypatch) -> list[np.ndarray]:
    """The pictures that SfM would get of bare photos."""
    seen = []

    def look(work, groups, **_):
        for path in sorted((work / "photos").iterdir()):
            with Image.open(path) as picture:
                assert "comment" not in picture.info and not picture.getexif()
                seen.append(np.asarray(picture).astype(int))
        raise ValueError("that will do")

    monkeypatch.setattr("langsplat.capture.place_cameras", look)
    with pytest.raises(ValueError, match="that will do"):
        load_capture(folder)
    return seen


def exif_with(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of entries: tag, type (2 ASCII, 3 SHORT, 7 UNDEFINED), count and 4 bytes of value."""
    head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries))
    return head + b"".join(struct.pack(">HHI4s", *entry) for entry in entries) + bytes(4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_photos_are_turned_as_their_exif_asks(tmp_path, monkeypatch, suffix):
    straight = []
    for k in range(8):
        exif = Image.Exif()
        exif[0x0112] = k + 1
        photo(tmp_path / f"{k}.{suffix}", seed=k, exif=exif)
        photo(tmp_path / "png" / f"{k}.png", seed=k, exif=exif)
        with Image.open(tmp_path / "png" / f"{k}.png") as picture:
            straight.append(np.asarray(ImageOps.exif_transpose(picture)).astype(int))
    shutil.rmtree(tmp_path / "png")
    for one, two in zip(prepared(tmp_path, monkeypatch), straight, strict=True):
        assert one.shape == two.shape and np.abs(one - two).mean() < 8  # JPEG's loss


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 5, 6, 7, 8])
def test_a_camera_sees_the_pixels_as_they_are_stored(tmp_path, suffix, orientation):
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:8, :20], stored[-8:, -20:, 0] = 255, 255
    exif, frames = Image.Exif(), []
    exif[0x0112] = orientation
    for k in range(2):
        Image.fromarray(stored).save(tmp_path / f"{k}.{suffix}", exif=exif)
        frames.append({"file_path": f"{k}.{suffix}", "transform_matrix": np.eye(4).tolist()})
    lens = {"fl_x": 80, "w": 80, "h": 40}
    (tmp_path / "transforms.json").write_text(json.dumps(lens | {"frames": frames}))
    for image in load_capture(tmp_path).images:
        assert image.shape == stored.shape
        assert np.abs(image.astype(int) - stored).mean() < 8


@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 7, 4, b"abcd"),  # XResolution
        (0x011A, 2, 4, b"abc\0"),
        (0x0128, 7, 1, b"\2\0\0\0"),  # ResolutionUnit
        (0x0128, 2, 2, b"a\0\0\0"),
    ],
)
def test_odd_exif_does_not_spoil_a_good_photo(tmp_path, monkeypatch, odd):
    exif = exif_with((0x0112, 3, 1, b"\0\6\0\0"), odd)
    for k in range(8):
        photo(tmp_path / f"{k}.jpg", seed=k, exif=exif)
    assert [picture.shape for picture in prepared(tmp_path, monkeypatch)] == [(64, 48, 3)] * 8


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0no such thing",
        exif_with((0x0112, 2, 4, b"abc\0")),
        exif_with((0x0112, 3, 1, b"\0\x09\0\0")),
    ],
)
def test_exif_that_cannot_be_read_is_as_none(tmp_path, monkeypatch, exif):
    for k in range(8):
        photo(tmp_path / f"{k}.png", seed=k, exif=exif)
    assert [picture.shape for picture in prepared(tmp_path, monkeypatch)] == [(48, 64, 3)] * 8


def test_a_long_comment_is_not_passed_on(tmp_path, monkeypatch):
    comment = PngImagePlugin.PngInfo()
    comment.add_text("comment", "x" * 70_000)
    for k in range(8):
        photo(tmp_path / f"{k}.png", seed=k, pnginfo=comment)
    assert len(prepared(tmp_path, monkeypatch)) == 8


def test_whatever_a_decoder_raises_only_that_photo_is_left_out(tmp_path):
    folder = transforms(tmp_path, count=4)
    broken = folder / "images" / "02.png"
    photo(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    data[data.find(b"mdat") + 4] ^= 0xFF  # Pillow raises RuntimeError
    broken.write_bytes(data)
    capture = load_capture(folder)
    assert len(capture.images) == 3
    assert capture.notes == ["The photo images/02.png is damaged and was left out."]


def test_of_several_models_the_one_used_is_told(tmp_path):
    for name in ("room 002", "Room 10"):
        colmap(tmp_path / name)
    notes = load_capture(tmp_path).notes
    assert notes == [
        "The cameras in room 002/sparse/0 are used, those in Room 10/sparse/0 are not."
    ]
    shutil.copytree(tmp_path / "room 002/sparse/0", tmp_path / "room 002/a model")
    assert load_capture(tmp_path / "room 002").notes == [
        "The cameras in sparse/0 are used, those in a model are not."
    ]
    assert load_capture(tmp_path / "Room 10").notes == []


def test_of_several_transforms_json_the_one_used_is_told(tmp_path):
    for name in (".", "b", "c", "d", "e"):
        transforms(tmp_path / name)
    assert load_capture(tmp_path).notes == [
        "The cameras in this very folder are used, those in b, c, d and 1 more are not."
    ]
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"] = content["frames"][:3]
    (tmp_path / "b/transforms_train.json").write_text(json.dumps(content))
    assert len(load_capture(tmp_path / "b").images) == 4
    assert len(load_capture(tmp_path / "b/transforms_train.json").images) == 3


def test_photos_in_other_folders_are_counted_in_a_note(tmp_path):
    for k in range(10):
        photo(tmp_path / ("images" if k < 7 else "more") / f"{k}.jpg", seed=k)
    with pytest.raises(
        ValueError, match=r"7 can be used\. Only the photos in images \(7\) were used: 3"
    ):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    "counts, used",
    [
        ({"depth": (3, 0), "images": (3, 0)}, "images"),
        ({"depth": (3, 0), "images": (2, 0)}, "depth"),
        ({"a": (3, 2), "b": (4, 0)}, "a"),
    ],
)
def test_the_folder_with_the_most_photos_is_used_or_the_one_named_images(tmp_path, counts, used):
    for folder, (photos, unreadable) in counts.items():
        for k in range(photos):
            photo(tmp_path / folder / f"{k}.jpg", seed=k)
        for k in range(unreadable):
            (tmp_path / folder / f"{k}.heic").touch()
    with pytest.raises(ValueError, match=rf"Only the photos in {used} \({counts[used][0]}\) were"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    "layout, used, notes",
    [
        (["IMG_{}.HEIC", "jpg/IMG_{}.jpg"], "jpg", ["Only the photos in jpg (8) were used: 8 in"]),
        (["raw/{}.NEF", "raw/more{}.NEF", "jpg/{}.jpg"], "jpg", ["Only the photos in jpg (8)"]),
        (["DSC_{}.JPG", "DSC_{}.NEF"], "photos", []),
        (["masks/{}.png", "views/{}.png"], "views", ["Only the photos in views (8) were used: 8"]),
        (["color/{}.jpg", "depth/{}.png"], "color", ["Only the photos in color (8) were used: 8"]),
    ],
)
def test_photos_are_found_beside_what_they_were_converted_from_and_beside_their_masks(
    tmp_path, layout, used, notes
):
    root = tmp_path / "photos"
    for name in layout:
        for k in range(8):
            file = root / name.format(k)
            small = "masks" in name or "color" in name
            photo(file, size=(16, 16) if small else (64, 48), format="PNG")
    photos, foreign, told = _gather(list(_folders(root)))
    assert {file.parent.name for file in photos} == {used} and len(photos) == 8 and not foreign
    assert [note[: len(start)] for note, start in zip(told, notes, strict=True)] == notes


def test_a_folder_that_is_closed_to_us_is_in_nobodys_way(tmp_path, monkeypatch):
    transforms(tmp_path)
    closed, access, iterdir = tmp_path / "lost+found", os.access, Path.iterdir
    closed.mkdir()

    def listed(folder: Path):
        if folder == closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(folder)

    # Patched, because whoever runs the tests may have access to everything.
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and access(path, mode))
    monkeypatch.setattr(Path, "iterdir", listed)
    assert len(load_capture(tmp_path).images) == 4


def test_a_path_that_does_not_exist_is_one_sentence(tmp_path):
    for path in (tmp_path / "none", "~no such user/none"):
        with pytest.raises(ValueError, match="nothing at"):
            load_capture(path)


def test_a_path_may_begin_at_home_or_be_where_we_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_capture("~/" + colmap(tmp_path / "model").name).images) == 3
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(ValueError, match="No photos were found in photos: add"):
        load_capture(".")


def test_pictures_too_small_to_be_of_use_are_refused(tmp_path):
    folder = colmap(tmp_path)
    assert load_capture(folder, max_side=16).images[0].shape == (12, 16, 3)
    with pytest.raises(ValueError, match="at least 16 pixels, got 15"):
        load_capture(folder, max_side=15)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_photos_are_counted_before_anything_is_computed(tmp_path, count):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(count):
        photo(folder / f"{k}.jpg", seed=k)
    (folder / "notes.md").write_text("hello")
    for hidden in ("._0.jpg", ".trash/1.jpg", "__MACOSX/2.jpg"):
        photo(folder / hidden)
    message = rf"^Add .* You added {count}\.$" if count else "No photos were found in photos"
    with pytest.raises(ValueError, match=message):
        load_capture(folder)


def test_photos_that_cannot_be_used_are_named_when_too_few_remain(tmp_path):
    for k in range(7):
        photo(tmp_path / f"{k}.jpg", seed=k)
    (tmp_path / "7.jpg").write_bytes((tmp_path / "6.jpg").read_bytes()[:300])
    (tmp_path / "8.heic").write_bytes(b"heic")
    shutil.copy(tmp_path / "3.jpg", tmp_path / "9.jpg")
    told = r"7 can be used\..*8\.heic.*7\.jpg is damaged.*The photo 9\.jpg is a copy of 3\.jpg and"
    with pytest.raises(ValueError, match=told):
        load_capture(tmp_path)
    for file in tmp_path.glob("*.jpg"):
        file.unlink()
    with pytest.raises(ValueError, match=r"^Add .* 0 can be used\. The photo 8\.heic is in a"):
        load_capture(tmp_path)


def test_a_single_file_that_is_no_zip_is_one_sentence(tmp_path):
    photo(tmp_path / "one.jpg")
    with pytest.raises(ValueError, match=r"single file: give .* at least 8"):
        load_capture(tmp_path / "one.jpg")
    (tmp_path / "walk.MP4").touch()
    for path in (tmp_path, tmp_path / "walk.MP4"):
        with pytest.raises(ValueError, match=r"walk\.MP4 is a video, .* as photos"):
            load_capture(path)
    (tmp_path / "walk.MP4").unlink()
    (tmp_path / "fake.zip").write_bytes(b"PK\3\4 nothing of the kind")
    with pytest.raises(ValueError, match="is damaged or not a zip: pack"):
        load_capture(tmp_path / "fake.zip")


def attack(kind: str, handle: zipfile.ZipFile) -> None:
    if kind == "link":
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        handle.writestr(info, "/etc/passwd")
    elif kind == "bomb":
        handle.writestr("a.jpg", b"\0" * 20_000_000, zipfile.ZIP_DEFLATED)
    elif kind == "list":
        for k in range(40):
            info = zipfile.ZipInfo(f"{k}.jpg")
            info.comment = bytes(65_000)
            handle.writestr(info, b"")
    elif kind == "twice":
        handle.writestr("in/a.jpg", b"one")
        handle.writestr("in/./a.jpg", b"another")
    elif kind == "crowd":
        for k in range(2001):
            handle.writestr(f"{k}.jpg", b"")
    else:
        handle.writestr(kind, b"x")


@pytest.mark.parametrize(
    "kind, message",
    [
        ("/etc/evil.jpg", "outside its own folder"),
        ("../evil.jpg", "outside its own folder"),
        ("a/../../evil.jpg", "outside its own folder"),
        ("C:/evil.jpg", "outside its own folder"),
        ("twice", r"two files of one name \(in/\./a\.jpg\): rename one"),
        ("inner.ZIP", "another archive"),
        ("x" * 300 + ".jpg", r"a\.zip cannot be read: File name too long"),
        ("link", "holds a link"),
        ("bomb", "suspiciously tight"),
        ("crowd", "2,001 files"),
        ("list", "holds more than the 2,000 files allowed"),
    ],
)
def test_a_hostile_zip_is_refused_and_writes_nothing(tmp_path, kind, message):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        attack(kind, handle)
    work = tmp_path / "work" / "deep"
    with pytest.raises(ValueError, match=message):
        load_capture(tmp_path / "a.zip", workdir=work)
    assert [p for p in (tmp_path / "work").rglob("*") if p.is_file()] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "work"]


def test_hidden_folders_of_a_zip_do_not_count_as_they_stay_packed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr(".trash/0.jpg", b"\0" * 20_000_000)
    with pytest.raises(ValueError, match=r"No photos were found in a\.zip: add"):
        load_capture(tmp_path / "a.zip")


def test_a_zip_that_declares_too_much_is_refused_unread(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        handle.writestr("a.jpg", b"x" * 1000)
        handle.writestr("b.jpg", b"x" * 1000)
    data = bytearray(archive.read_bytes())
    for at in (data.find(b"PK\1\2"), data.rfind(b"PK\1\2")):
        data[at + 20 : at + 28] = struct.pack("<II", 200_000_000, 300_000_000)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="600 MB"):
        load_capture(archive)
    # What is not unpacked does not count, however large or tightly packed it is.
    archive.write_bytes(data.replace(b"a.jpg", b"a.mov").replace(b"b.jpg", b"a.dbx"))
    with pytest.raises(ValueError, match="No photos were found"):
        load_capture(archive)


def test_a_damaged_zip_is_one_sentence(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("a.jpg", RNG(0).bytes(5000))
    data = bytearray(archive.read_bytes())
    data[1000:1200] = bytes(200)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged or not a zip: pack"):
        load_capture(archive)


@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA", "name", "front"])
def test_a_zip_with_damage_of_any_kind_is_refused_in_the_same_sentence(tmp_path, method):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", getattr(zipfile, f"ZIP_{method}", 0)) as handle:
        handle.writestr("caf\xe9.jpg", RNG(0).integers(0, 99, 5000, dtype=np.uint8).tobytes())
    data = archive.read_bytes()
    if method == "name":
        data = data.replace(b"\xc3\xa9", b"\xff\xff")
    elif method == "front":
        data = data[200:]
    else:
        data = data[:60] + b"\xff" * 200 + data[260:]
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"^a\.zip is damaged or not a zip: pack the photos again"):
        load_capture(archive)


def test_a_full_disk_is_not_blamed_on_the_zip(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        handle.writestr("a.jpg", b"x")

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        load_capture(archive)


def test_a_zip_may_name_its_files_from_a_dot_and_a_capture_as_windows_does(tmp_path):
    folder = transforms(tmp_path / "capture")
    text = (folder / "transforms.json").read_text().replace("images/", r".\\images\\")
    (folder / "transforms.json").write_text(text)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        for file in folder.rglob("*.*"):
            handle.writestr(f"./{file.relative_to(folder)}", file.read_bytes())
    assert len(load_capture(tmp_path / "a.zip").images) == 4


def test_a_zip_without_photos_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        handle.writestr("notes.md", "hello")
    with pytest.raises(ValueError, match=r"No photos were found in a\.zip: add"):
        load_capture(tmp_path / "a.zip")


def test_a_camera_for_the_turned_photo_gets_the_turned_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to view"
    folder = transforms(tmp_path, w=48, h=64, cx=24, cy=32)
    for file in (folder / "images").iterdir():
        photo(file, exif=exif)
    image = load_capture(folder).images[0]
    with Image.open(folder / "images/00.png") as stored:
        np.testing.assert_array_equal(image, np.rot90(np.asarray(stored), -1))


def in_35mm(value: bytes, kind: int, count: int) -> bytes:
    """EXIF with an equivalent focal length."""
    head = exif_with((0x8769, 4, 1, struct.pack(">I", 26)))
    return head + struct.pack(">HHHI4sI", 1, 0xA405, kind, count, value, 0)


def test_sfm_gets_shrunk_photos_by_camera_with_the_focal_length_that_exif_tells(
    tmp_path, monkeypatch
):
    exif = [
        in_35mm(struct.pack(">HH", 26, 0), 3, 1),
        in_35mm(struct.pack(">HH", 4, 0), 3, 1),
        in_35mm(struct.pack(">HH", 65535, 0), 3, 1),
        in_35mm(b"abc\0", 2, 4),
    ]
    for k in range(8):
        photo(tmp_path / f"{k}.jpg", seed=k, exif=exif[max(0, k - 4)])
    photo(tmp_path / "8.jpg", size=(768, 1536), exif=exif[0])
    seen: list[PhotoGroup] = []

    def look(work, groups, **_):
        seen.extend(groups)
        raise ValueError("that will do")

    monkeypatch.setattr("langsplat.capture.place_cameras", look)
    with pytest.raises(ValueError, match="that will do"):
        load_capture(tmp_path)
    scale = 26 / math.hypot(36, 24)
    assert [(len(group.names), group.width, group.height) for group in seen] == [
        (5, 64, 48),
        (3, 64, 48),
        (1, 512, 1024),
    ]
    assert seen[0].focal == pytest.approx(scale * 80)
    assert seen[1].focal is None
    assert seen[2].focal == pytest.approx(scale * math.hypot(512, 1024))


def test_of_more_photos_than_needed_evenly_spaced_ones_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr("langsplat.capture.MAX_PHOTOS", 12)
    for k in range(23):
        Image.new("RGB", (64, 48), (11 * k, 0, 0)).save(tmp_path / f"{k}.png")
    reds = [picture[..., 0].mean() / 11 for picture in prepared(tmp_path, monkeypatch)]
    assert reds == pytest.approx(range(0, 23, 2), abs=0.2)


TRUSTED = {"placed": 9, "other": 0, "poor": 0, "turning": False, "angle": 5.0, "focal_ratio": 1.0}


def placed(folder: Path, monkeypatch, **verdict):
    """The capture of ten bare photos, the first upside down, for which COLMAP returns `verdict`."""
    exif = Image.Exif()
    exif[0x0112] = 3
    for k in range(10):
        photo(folder / f"{k}.png", seed=k, exif=None if k else exif)

    def place(work, groups, **_):
        names = [name for group in groups for name in group.names][: verdict.get("placed", 9)]
        model = work / "model"
        model.mkdir()
        (model / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 48 60 32 24\n")
        lines = [f"{k} 1 0 0 0 {k} 0 4 1 {name}\n\n" for k, name in enumerate(names)]
        (model / "images.txt").write_text("".join(lines))
        return Placement(model, **TRUSTED | verdict)

    monkeypatch.setattr("langsplat.capture.place_cameras", place)
    return load_capture(folder)


def test_photos_that_were_not_placed_are_counted_and_the_others_stand_upright(
    tmp_path, monkeypatch
):
    capture = placed(tmp_path, monkeypatch, other=3)
    assert [camera.name for camera in capture.cameras] == [f"{k}.png" for k in range(9)]
    assert capture.notes == [
        "9 of 10 photos could be placed; the others were left out.",
        "Your photos seem to show two separate places; the larger one was used.",
    ]
    with Image.open(tmp_path / "0.png") as stored:
        np.testing.assert_array_equal(capture.images[0], np.asarray(stored)[::-1, ::-1])
    assert not placed(tmp_path, monkeypatch, placed=10, other=2, poor=5, focal_ratio=5.9).notes
    assert len(placed(tmp_path, monkeypatch, placed=5, angle=1.0, focal_ratio=0.31).images) == 5


@pytest.mark.parametrize(
    "verdict, message",
    [
        ({"poor": 6}, "enough details in 6 of 10 photos"),
        ({"turning": True}, "from one spot"),
        ({"placed": 4}, "only 4 of 10 photos"),
        ({"angle": 0.9}, "hardly any depth"),
        ({"focal_ratio": 0.3}, "hardly any depth"),
        ({"focal_ratio": 6.0}, "hardly any depth"),
    ],
)
def test_a_model_that_cannot_be_trusted_is_refused_with_the_likely_cause(
    tmp_path, monkeypatch, verdict, message
):
    (tmp_path / "more.heic").touch()
    with pytest.raises(ValueError, match=rf"{message}.* The photo more\.heic is in a format"):
        placed(tmp_path, monkeypatch, **verdict)


def test_pairs_are_all_up_to_sixty_photos_and_a_connected_few_beyond():
    assert len(pairs_to_match(60)) == 60 * 59 // 2
    for count in (61, 300):
        pairs = pairs_to_match(count)
        assert len(pairs) < 15 * count + 800
        near = {(k, k + step) for k in range(count) for step in range(1, 11) if k + step < count}
        assert near <= set(pairs)
        assert (0, count - 1) in pairs  # the loop is closed
        assert all(0 <= i < j < count for i, j in pairs)


# ------------------------------------------------------------------ SfM, the real thing


def door_photos(folder: Path) -> Path:
    """The door's photos, shrunk to two sizes; some lie on their side, with an EXIF turn."""
    folder.mkdir()
    for k, path in enumerate(sorted((real_data("gtsfm_lund_door") / "images").glob("*.JPG"))):
        side = 560 if k % 2 else 640
        with Image.open(path) as image:
            small = image.resize((round(image.width * side / image.height), side), 1)
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0xA405] = image.getexif().get_ifd(0x8769)[0xA405]
        if k % 3 == 0:
            small = small.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6  # "turn clockwise to view"
        small.save(folder / path.name, quality=95, exif=exif)
    (folder / "clip.mov").touch()
    return folder


def test_bare_photos_are_placed_where_the_ground_truth_says(tmp_path):
    truth = load_capture(real_data("gtsfm_lund_door"), max_side=64)
    stages = []
    capture = load_capture(
        door_photos(tmp_path / "door"),
        max_side=360,
        progress=lambda stage, done, total, note: stages.append((stage, done, total)),
    )
    assert len(capture.images) == 12
    assert capture.notes == ["Left out, as videos are not read: clip.mov."]
    assert [c.name for c in capture.cameras] == [c.name for c in truth.cameras]
    assert all(image.shape[0] == 360 > image.shape[1] for image in capture.images)
    assert len(capture.points) > 500 and capture.point_colors.max() > 100

    a = torch.stack([c.camtoworld for c in capture.cameras]).double()
    b = torch.stack([c.camtoworld for c in truth.cameras]).double()
    x, y = a[:, :3, 3], b[:, :3, 3]
    x0, y0 = x - x.mean(0), y - y.mean(0)
    # The door's cameras stand nearly on a line, so the rotation is fitted to the orientations.
    u, _, v = torch.linalg.svd((b[:, :3, :3] @ a[:, :3, :3].mT).sum(0))
    rotation = u @ v
    turned = rotation @ a[:, :3, :3]
    cosines = ((turned * b[:, :3, :3]).sum((1, 2)) - 1) / 2
    assert float(torch.rad2deg(torch.arccos(cosines.clamp(-1, 1))).max()) < 0.5
    moved = x0 @ rotation.T
    moved = moved * (y0 * moved).sum() / (moved * moved).sum()
    assert float((moved - y0).norm(dim=1).max()) < 0.02 * float(y0.norm(dim=1).max())
    ratio = [float(c.K[1, 1]) / c.height for c in capture.cameras]
    assert ratio == pytest.approx([2435.38 / 1936] * 12, rel=0.02)

    names = list(dict.fromkeys(stage for stage, _, _ in stages))
    steps = ["Read photos", "Find features", "Match photos", "Place cameras", "Load pictures"]
    assert names == steps
    assert all(0 <= done <= total and total > 0 for _, done, total in stages)
    assert max(done for stage, done, _ in stages if stage == "Find features") == 12


def test_photos_that_cannot_be_placed_end_in_a_sentence_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where COLMAP would keep logs for ever
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(ValueError, match="of 8 photos"):
        load_capture(real_data("raydiffusion_examples") / "robot", max_side=64)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_of_sfm_is_told_with_its_last_words(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "database.db").mkdir()  # in the way of COLMAP's database
    told = r"stopped unexpectedly \(exit code 1\).* last words: RuntimeError: .*database"
    with pytest.raises(ValueError, match=told):
        place_cameras(tmp_path, [PhotoGroup(["a.jpg", "b.jpg"], 64, 48, None)])


WATCHED = """
import sys
from langsplat.capture import load_capture
load_capture(sys.argv[1], progress=lambda stage, done, total, note: print(stage, flush=True))
"""


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_the_sfm_child_dies_with_its_parent_inside_colmap_too(tmp_path):
    folder = tmp_path / "photos"
    for k in range(20):  # noise is full of features, which keeps the child busy
        folder.mkdir(exist_ok=True)
        Image.fromarray(RNG(k).integers(0, 256, (700, 900), dtype=np.uint8)).save(
            folder / f"{k}.png"
        )
    parent = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.startswith("Find features"):
            break
    time.sleep(0.5)  # well inside COLMAP's own code
    (child,) = children_of(parent.pid)
    parent.kill()
    parent.wait(timeout=20)
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().rsplit(")")[-1].split()[0] == "Z":
            return  # dead, not yet collected by init
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the SfM process outlived the process that started it")
