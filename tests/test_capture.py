"""Captures: every format read right, on real and synthetic data, and bad input said in words."""

import errno
import json
import math
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from langsplat.cameras import Lens
from langsplat.capture import COLMAP_MODELS, COLMAP_NUMBERS, load_capture
from langsplat.scene import Camera
from langsplat.sfm import pairs_to_match
from tests.conftest import real_data

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
        """Median difference of colors, were the focal length `zoom` times what it is."""
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
    out = struct.pack("<Q", len(cameras))
    for camera, model, width, height, *parameters in cameras:
        out += struct.pack(
            "<iiQQ", int(camera), COLMAP_NUMBERS[model], int(width), int(height)
        ) + struct.pack(f"<{len(parameters)}d", *map(float, parameters))
    (binary / "cameras.bin").write_bytes(out)

    images = lines("images.txt")
    out = struct.pack("<Q", len(images) // 2)
    for head, tail in zip(images[::2], images[1::2], strict=False):
        number, *pose, camera, name = head.split()
        out += struct.pack("<i7di", int(number), *map(float, pose), int(camera))
        observed = tail.split()
        out += name.encode() + b"\0" + struct.pack("<Q", len(observed) // 3)
        for k in range(0, len(observed), 3):
            out += struct.pack("<ddq", *map(float, observed[k : k + 2]), int(observed[k + 2]))
    (binary / "images.bin").write_bytes(out)

    points = [line.split() for line in lines("points3D.txt")]
    out = struct.pack("<Q", len(points))
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
    archive = tmp_path / "capture.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        for file in folder.rglob("*"):
            if file.is_file():
                handle.write(file, Path("wrapped") / file.relative_to(folder))
        handle.writestr("__MACOSX/wrapped/images/._photo0.png", b"clutter")
        handle.writestr("wrapped/images/.DS_Store", b"clutter")
    a, b = load_capture(folder), load_capture(archive)
    assert b.name == "capture" and not b.notes
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
        load_capture(colmap(tmp_path, "FOV", "60 60 32 24 0.5"))


def test_a_model_cannot_name_files_outside_of_its_folder(tmp_path):
    folder = colmap(tmp_path / "capture")
    photo(tmp_path / "secret.png")
    listing = folder / "sparse" / "0" / "images.txt"
    listing.write_text(listing.read_text().replace("photo1.png", "../../secret.png"))
    with pytest.raises(ValueError, match="outside its own folder"):
        load_capture(folder)


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


def test_blender_names_without_suffix_and_see_through_pictures_are_read(tmp_path):
    folder = transforms(tmp_path)
    for k in range(4):
        clear = Image.new("RGBA", (64, 48), (200, 0, 0, 0))
        clear.paste((0, 0, 255, 255), (0, 0, 32, 48))
        clear.save(folder / "images" / f"{k:02d}.png")
    text = (folder / "transforms.json").read_text().replace(".png", "")
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
    "name", ["/etc/passwd", "../secret.png", "a/../../secret.png", "C:\\x.png"]
)
@pytest.mark.parametrize("field", ["file_path", "ply_file_path"])
def test_transforms_json_cannot_read_outside_of_its_folder(tmp_path, name, field):
    photo(tmp_path / "secret.png")
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
        ({"fl_x": 10**400}, '"fl_x" must be a number'),
        ({"fl_x": -3.0}, "focal length"),
        ({"w": 1e8, "h": 1e8}, "size"),
        ({"w": 0}, "size"),
        ({"camera_model": "EQUIRECTANGULAR"}, "not supported"),
        ({"frames": []}, "lists no photos"),
        ({"frames": "x"}, "lists no photos"),
        ({"frames": [{"file_path": 3}] * 2}, "file_path"),
        ({"frames": [{"transform_matrix": opengl_pose(0)}] * 2}, "file_path"),
        ({"matrix": None}, "transform_matrix"),
        ({"matrix": [[1, 2], [3]]}, "transform_matrix"),
        ({"matrix": [[math.inf] * 4] * 4}, "finite"),
        ({"matrix": [[0.0] * 4] * 4}, "not a rotation"),
        ({"matrix": np.diag([1.0, 1.0, -1.0, 1.0]).tolist()}, "not a rotation"),
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


def test_a_transforms_json_larger_than_any_capture_needs_is_refused_unread(tmp_path):
    os.truncate(transforms(tmp_path) / "transforms.json", 20_000_001)
    with pytest.raises(ValueError, match=r"^transforms\.json is larger than 20 MB"):
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
    assert "The photo images/01.png is " in str(caught.value)
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
    folder = transforms(tmp_path, count=5)
    whole = (folder / "images" / "02.png").read_bytes()
    (folder / "images" / "02.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "04.png").write_text("not a picture")
    capture = load_capture(folder)
    assert [camera.name for camera in capture.cameras] == [f"images/0{k}.png" for k in (0, 1, 3)]
    assert any("images/02.png is damaged" in note for note in capture.notes)
    assert any("images/04.png is not a picture" in note for note in capture.notes)


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
        assert one.shape == two.shape and np.abs(one - two).mean() < 8  # what JPEG costs


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


def test_exif_that_cannot_be_read_is_as_none(tmp_path, monkeypatch):
    for k in range(8):
        photo(tmp_path / f"{k}.png", seed=k, exif=b"Exif\0\0no such thing")
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
    for name in ("a room", "b hall"):
        colmap(tmp_path / name)
    notes = load_capture(tmp_path).notes
    assert notes == ["The cameras in a room/sparse/0 are used, those in b hall/sparse/0 are not."]
    assert load_capture(tmp_path / "a room").notes == []


def test_of_several_transforms_json_the_one_used_is_told(tmp_path):
    for name in (".", "b", "c", "d", "e"):
        transforms(tmp_path / name)
    assert load_capture(tmp_path).notes == [
        "The cameras in this very folder are used, those in b, c, d and 1 more are not."
    ]


def test_photos_in_other_folders_are_counted_in_a_note(tmp_path):
    for k in range(10):
        photo(tmp_path / ("images" if k < 7 else "more") / f"{k}.jpg", seed=k)
    with pytest.raises(
        ValueError, match=r"7 can be used\. Only the photos in images \(7\) were used: 3"
    ):
        load_capture(tmp_path)


def test_a_path_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="nothing at"):
        load_capture(tmp_path / "none")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_photos_are_counted_before_anything_is_computed(tmp_path, count):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(count):
        photo(folder / f"{k}.jpg", seed=k)
    (folder / "notes.md").write_text("hello")
    message = f"You added {count}" if count else "No photos were found in photos"
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
    with pytest.raises(ValueError, match="not a readable zip"):
        load_capture(tmp_path / "fake.zip")


def attack(kind: str, handle: zipfile.ZipFile) -> None:
    if kind == "link":
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        handle.writestr(info, "/etc/passwd")
    elif kind == "bomb":
        handle.writestr("a.jpg", b"\0" * 20_000_000, zipfile.ZIP_DEFLATED)
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
        ("inner.zip", "another archive"),
        ("link", "holds a link"),
        ("bomb", "suspiciously tight"),
        ("crowd", "2,001 files"),
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


def test_a_zip_that_declares_too_much_is_refused_unread(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        handle.writestr("a.jpg", b"x" * 1000)
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\1\2")
    data[at + 20 : at + 28] = struct.pack("<II", 400_000_000, 600_000_000)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="600 MB"):
        load_capture(archive)


def test_a_damaged_zip_is_one_sentence(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("a.jpg", RNG(0).bytes(5000))
    data = bytearray(archive.read_bytes())
    data[1000:1200] = bytes(200)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="not a readable zip"):
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
    with pytest.raises(ValueError, match=r"^a\.zip is not a readable zip: pack the photos again"):
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


def test_a_zip_may_name_its_files_from_a_dot(tmp_path):
    folder = transforms(tmp_path / "capture")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        for file in folder.rglob("*.*"):
            handle.writestr(f"./{file.relative_to(folder)}", file.read_bytes())
    assert len(load_capture(tmp_path / "a.zip").images) == 4


def test_a_zip_without_photos_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        handle.writestr("notes.md", "hello")
    with pytest.raises(ValueError, match=r"No photos were found in a\.zip: add"):
        load_capture(tmp_path / "a.zip")


def test_pairs_are_all_up_to_sixty_photos_and_a_connected_few_beyond():
    assert len(pairs_to_match(60)) == 60 * 59 // 2
    for count in (61, 300):
        pairs = pairs_to_match(count)
        assert len(pairs) < 15 * count + 800
        assert {(k, k + 1) for k in range(count - 1)} <= set(pairs)
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
    assert len(capture.points) > 500

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


def test_photos_that_cannot_be_placed_end_in_a_sentence():
    with pytest.raises(ValueError, match="of 8 photos"):
        load_capture(real_data("raydiffusion_examples") / "robot", max_side=64)


WATCHED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
from langsplat.capture import load_capture
load_capture(sys.argv[1], progress=lambda stage, done, total, note: print(stage, flush=True))
"""


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_sfm_child_dies_with_its_parent(tmp_path, how):
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
    parent.send_signal(how)
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
