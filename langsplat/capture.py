"""Captures: a COLMAP model, a transforms.json or bare photos, made into pictures with pinhole
cameras.

In: a folder or a zip. Out: `Capture`: undistorted pictures, their cameras, the sparse points, and
`notes`: sentences for the user about what had to be left out.

    capture = load_capture("photos.zip", max_side=800)

Every file name in a capture is confined to the capture's folder: a stranger's files cannot make us
read anything else. Letters: P points, H W pixels.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import stat
import struct
import tempfile
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from langsplat import PREVIEW_FILE, SCENE_FILE, WORK_MARK, WORK_SUFFIX
from langsplat.cameras import Lens
from langsplat.progress import Progress, silent
from langsplat.scene import MAX_IMAGE_PIXELS, Camera, writable
from langsplat.sfm import PHOTOS, PhotoGroup, Placement, place_cameras

PHOTO_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP")
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif", ".bmp"}
# Photos that cannot be read are reported to the user.
UNREADABLE_SUFFIXES = {".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".gif", ".jp2"}
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mts", ".3gp"}
OTHER_SUFFIXES = {".json", ".ply", ".txt", ".bin"}
ARCHIVE_SUFFIXES = {".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz"}
MIN_PHOTOS, MAX_PHOTOS = 8, 300
MAX_VIEWS = 5000  # of a capture that comes with its cameras
MAX_MEMBERS, MAX_ZIP_BYTES, MAX_RATIO = 2000, 500_000_000, 100
MAX_LISTING_BYTES = 1000 * MAX_MEMBERS  # of a zip's own list of its files
MAX_TEXT_BYTES, MAX_POINTS = 1_000_000_000, 20_000_000
MAX_JSON_BYTES = 20_000_000  # parsed, it takes thirty times as much memory
MAX_LINE = 10_000_000  # characters
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# Long side of the photos in which features are sought. Measured against 1600 pixels with 4096
# features: as many photos placed and the same focal length, in a quarter of the time.
SFM_SIDE = 1024
DIAGONAL_35MM = math.hypot(36, 24)  # what EXIF's "35 mm equivalent" refers to
READING, LOADING = "Read photos", "Load pictures"
FAR_OFF = 1000  # times the cameras' reach away from 0, float32 errs by a twentieth of a pixel
FARTHEST = 1e9  # larger coordinates or focal lengths are damage; squares still fit float32
# A model below this angle between views (degrees, median) has no depth to speak of.
MIN_ANGLE = 1.0

# EXIF orientation -> the turn that makes the photo upright; 1 is upright already.
TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

# COLMAP's camera models by number: the name, and the parameters in their order.
COLMAP_MODELS: Mapping[int, tuple[str, str]] = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    8: ("SIMPLE_RADIAL_FISHEYE", "f cx cy k1"),
    9: ("RADIAL_FISHEYE", "f cx cy k1 k2"),
}
COLMAP_NUMBERS = {name: number for number, (name, _) in COLMAP_MODELS.items()}


@dataclass
class Capture:
    """Pictures with pinhole cameras.

    Args:
        images: uint8 [H, W, 3] each, undistorted.
        cameras: one for each image, of the same size.
        points: [P, 3] float32 in the world; P may be 0.
        point_colors: [P, 3] uint8.
        name: of the folder or zip.
        notes: sentences for the user: what was left out and why.
    """

    images: list[NDArray[np.uint8]]
    cameras: tuple[Camera, ...]
    points: NDArray[np.float32]
    point_colors: NDArray[np.uint8]
    name: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _View:
    """One photo of a capture as the capture describes it."""

    path: Path
    name: str
    lens: Lens
    viewmat: NDArray[np.float64]  # [4, 4] world to camera, OpenCV axes


@dataclass
class _Model:
    """What a reader returns: photos with cameras, and points."""

    views: list[_View]
    points: NDArray[np.float64]  # [P, 3]
    colors: NDArray[np.uint8]  # [P, 3]
    notes: list[str]
    upright: bool = False  # the cameras describe the photos as turned by their EXIF


def load_capture(
    path: Path | str,
    *,
    max_side: int | None = None,
    workdir: Path | str | None = None,
    progress: Progress = silent,
) -> Capture:
    """Read a capture; bare photos go through SfM first, in a child process that never outlives us.

    A COLMAP model (`sparse/0`, `sparse`, or any folder with cameras, images and points3D as .bin or
    .txt) is looked for first, then a transforms.json (nerfstudio, instant-ngp), then photos. Photos
    are undistorted to a pinhole of the same focal length, and cropped so that no border is black.
    The world is the capture's, moved to 0 only if it lies too far from there for float32.

    Args:
        path: a folder, a zip of one, or a transforms.json.
        max_side: pictures are shrunk so that the long side is at most this; >= 16.
        workdir: where to unpack a zip and run SfM, in a new folder that is removed afterwards;
            None = the system's folder for temporary files.
        progress: stages "Read photos", "Find features", "Match photos", "Place cameras" (the four
            for bare photos only) and "Load pictures".
    Raises:
        ValueError: the message says what is wrong with the capture and what to do.
        OSError: the disk that holds `workdir` is full.
    """
    path = Path(path)
    if not path.exists():
        with contextlib.suppress(RuntimeError):  # there is no such user
            path = path.expanduser()
    if max_side is not None and max_side < 16:
        raise ValueError(f"The pictures' long side must be at least 16 pixels, got {max_side}.")
    if not path.exists():
        raise ValueError(f"There is nothing at {path}: check the path of the photos.")
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    name = path.stem if path.suffix.lower() == ".zip" else folder.name
    if workdir is not None:
        Path(workdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="capture-", dir=workdir) as work:
        try:
            model = _moved_near(_find_model(path, Path(work), progress))
            return _load_pictures(model, name or "capture", max_side, progress)
        except OSError as error:
            if error.errno in FULL_DISK:  # not the photos' fault
                raise
            raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _find_model(path: Path, work: Path, progress: Progress) -> _Model:
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _read_transforms(path)
        if _is_video(path):
            raise ValueError(_of_video(path))
        if path.suffix.lower() != ".zip":
            raise ValueError(
                f"{path.name} is a single file: give the folder or a zip of the photos, at least "
                f"{MIN_PHOTOS}."
            )
        root = work / "unpacked" / path.name  # messages name the capture's folder
        root.mkdir(parents=True, exist_ok=True)
        _unpack(path, root)
    else:
        root = path.resolve()  # "." has no name for messages
    folders = list(_folders(root))
    if models := _colmap_folders(folders):
        model = _read_colmap(models[0], _photo_roots(root, models[0], folders))
        model.notes.extend(_unused(models, root))
        return model
    names = ("transforms.json", "transforms_train.json")
    files = [folder / name for folder in folders for name in names if (folder / name).is_file()]
    if files:
        model = _read_transforms(files[0])
        model.notes.extend(_unused(list(dict.fromkeys(file.parent for file in files)), root))
        return model
    return _place_photos(folders, work, progress)


def _unused(folders: Sequence[Path], root: Path) -> list[str]:
    """A note that only the first of several folders with cameras is used."""
    used, *others = (folder.relative_to(root).as_posix() for folder in folders)
    if not others:
        return []
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    where = "this very folder" if used == "." else used
    return [f"The cameras in {where} are used, those in {named} are not."]


# ---------------------------------------------------------------------------- folders and zips


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def may_be_read(name: str) -> bool:
    """Whether a capture may read a file of this name."""
    suffix = Path(name).suffix.lower()
    known = PHOTO_SUFFIXES | UNREADABLE_SUFFIXES | OTHER_SUFFIXES
    return not is_clutter(name) and suffix in known


def is_made_here(file: Path) -> bool:
    """Whether it is a scene's preview or a build's unfinished work, which are not photos."""
    if file.name == PREVIEW_FILE:
        return (file.parent / SCENE_FILE).is_file()
    return file.name.endswith(WORK_SUFFIX) and (file / WORK_MARK).is_file()


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts photo2 before photo10."""
    parts = re.split(r"(\d+)", text.lower())
    digits = (part.lstrip("0") if part.isdecimal() else None for part in parts)
    return [
        (1, 0, part) if number is None else (0, len(number), number)
        for part, number in zip(parts, digits, strict=True)
        if part
    ]


def _listing(folder: Path) -> list[Path]:
    items = (item for item in folder.iterdir() if not is_clutter(item.name))
    found = (item for item in items if not is_made_here(item))
    return sorted(found, key=lambda item: _natural(item.name))


def _folders(root: Path) -> Iterator[Path]:
    """`root` and the folders in it, up to three deep, nearest first, in natural order."""
    level = [root]
    for _ in range(4):
        yield from level
        items = (item for folder in level for item in _listing(folder) if item.is_dir())
        level = [item for item in items if os.access(item, os.R_OK | os.X_OK)]  # not lost+found


def _inside(root: Path, name: str) -> Path:
    """The file `name` of a capture in `root`; names that lead out of it are refused."""
    tidy = name.replace("\\", "/")
    parts = [part for part in tidy.split("/") if part not in ("", ".")]
    absolute = tidy.startswith("/") or bool(PureWindowsPath(name).drive)
    if absolute or ".." in parts or not parts or "\0" in name:
        raise ValueError(
            f"The capture names the file {name[:100]!r}, which is outside its own folder: "
            "use paths relative to the capture, without '..'."
        )
    return root.joinpath(*parts)


class _ToList(io.BufferedReader):
    """A zip that zipfile may list: it reads the list at once, and takes ten times its memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_LISTING_BYTES:
            raise ValueError(
                f"{Path(self.name).name} holds more than the {MAX_MEMBERS:,} files allowed: pack "
                "only the photos."
            )
        return super().read(size)


def zip_members(archive: Path) -> list[zipfile.ZipInfo]:
    """The files of a zip that may be hostile, as it lists them; nothing is unpacked.

    Raises:
        ValueError: not a zip, damaged, or the list is too long.
    """
    with _zip_errors(archive), _ToList(io.FileIO(archive)) as file, zipfile.ZipFile(file) as handle:
        return [info for info in handle.infolist() if not info.is_dir()]


def _unpack(archive: Path, root: Path) -> None:
    """Unpack what a capture needs from a zip that may be hostile.

    Raises:
        ValueError: not a zip, damaged, locked, too large, or with names, links or zips that a
            capture has no need for.
    """
    needed = _needed(archive.name, zip_members(archive))
    with _zip_errors(archive), zipfile.ZipFile(archive) as handle:
        for info in needed:
            target = _inside(root, info.filename)
            if target.exists():  # some systems take A.jpg for a.jpg
                raise ValueError(
                    f"{archive.name} holds two files of one name ({info.filename[:100]}): rename "
                    "one and pack the photos again."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(handle.read(info))


def _is_unpacked(info: zipfile.ZipInfo) -> bool:
    """Whether a capture may read this file of a zip: videos and the like stay packed.

    Raises:
        ValueError: its name leads out of the capture's folder.
    """
    path = _inside(Path(), info.filename)
    return may_be_read(path.name) and not any(map(is_clutter, path.parts))


@contextlib.contextmanager
def _zip_errors(archive: Path) -> Iterator[None]:
    """Tell what zipfile and its decompressors raise, which is nearly anything, in a sentence."""
    try:
        yield
    except Exception as error:
        # Our own refusals and errors of the machine keep their messages. In a damaged zip, seeking
        # is invalid (EINVAL), and bzip2 raises an OSError without a number.
        machine = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if machine or isinstance(error, MemoryError) or type(error) is ValueError:
            raise
        raise ValueError(
            f"{archive.name} is damaged or not a zip: pack the photos again."
        ) from error


def _needed(name: str, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files to unpack; ValueError if there is something that no zip of photos should have."""
    if len(members) > MAX_MEMBERS:
        raise ValueError(
            f"{name} holds {len(members):,} files, more than the {MAX_MEMBERS:,} allowed: "
            "pack only the photos."
        )
    unpacked = [info for info in members if _is_unpacked(info)]
    # zipfile never unpacks more than a zip declares.
    total = sum(info.file_size for info in unpacked)
    if total > MAX_ZIP_BYTES:
        raise ValueError(
            f"{name} would unpack to {total / 1e6:,.0f} MB, more than the "
            f"{MAX_ZIP_BYTES // 1_000_000} allowed: pack fewer or smaller photos."
        )
    for info in members:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(
                f"{name} holds a link ({info.filename[:100]}): pack the files instead."
            )
        if Path(info.filename).suffix.lower() in ARCHIVE_SUFFIXES:
            raise ValueError(
                f"{name} holds another archive ({info.filename[:100]}): unpack it first and pack "
                "the photos themselves."
            )
        if info.flag_bits & 0x1:
            raise ValueError(f"{name} is locked with a password: pack the photos without one.")
    for info in unpacked:
        if info.file_size > MAX_RATIO * max(info.compress_size, 1) and info.file_size > 10_000:
            raise ValueError(
                f"{name} is packed suspiciously tightly ({info.filename[:100]} grows more than "
                f"{MAX_RATIO} times): pack the photos again with an ordinary zip program."
            )
    return unpacked


# ---------------------------------------------------------------------------- photos


class _BadPhoto(Exception):
    """A photo that cannot be used; the text is the reason, to follow the photo's name."""


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turn what Pillow's decoders raise, which is nearly anything, into _BadPhoto."""
    try:
        yield
    except Image.DecompressionBombError:
        raise _BadPhoto(
            f"has more than the {MAX_IMAGE_PIXELS // 1_000_000} million pixels allowed"
        ) from None
    except UnidentifiedImageError:
        raise _BadPhoto("is not a picture that can be read here (save it as JPEG)") from None
    except MemoryError:
        raise
    except Exception as error:
        raise _BadPhoto("is damaged") from error


def _open(path: Path) -> Image.Image:
    """The photo with its header read; its pixels are decoded by `_shrunk`."""
    with _decoding():
        photo = Image.open(path, formats=PHOTO_FORMATS)
    if photo.width * photo.height > MAX_IMAGE_PIXELS:
        photo.close()
        raise _BadPhoto(
            f"has {photo.width} x {photo.height} pixels, more than the "
            f"{MAX_IMAGE_PIXELS // 1_000_000} million allowed"
        )
    return photo


def _exif(photo: Image.Image, tag: int, ifd: int | None = None) -> Any:
    """A value of the photo's EXIF; None if there is none, or if it cannot be read."""
    if photo.format == "PNG":  # its EXIF may follow the pixels; if those are damaged, say so
        with _decoding():
            photo.load()
    try:
        exif = photo.getexif()
        return (exif if ifd is None else exif.get_ifd(ifd)).get(tag)
    except Exception:  # as in _decoding, but the picture itself may be good
        return None


def _orientation(photo: Image.Image) -> int:
    """EXIF's orientation, a key of TURNS, or 1. Call it before the pixels are decoded."""
    value = _exif(photo, 0x0112)
    return int(value) if value is not None and value in TURNS else 1


def _opens_turned(photo: Image.Image) -> bool:
    """Whether Pillow itself turns a photo as EXIF asks, which it does with TIFFs only."""
    return photo.format == "TIFF"


def _size(photo: Image.Image, *, turn: bool) -> tuple[int, int]:
    """Width and height, of the photo as it is stored or, if `turn`, turned as EXIF asks."""
    on_side = turn != _opens_turned(photo) and _orientation(photo) in SIDEWAYS
    return (photo.height, photo.width) if on_side else photo.size


def _focal_35mm(photo: Image.Image) -> float | None:
    """EXIF's 35 mm equivalent focal length, if it is plausible."""
    try:
        focal = float(_exif(photo, 0xA405, 0x8769) or 0)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return focal if 5 <= focal <= 1000 else None


def _flat_rgb(photo: Image.Image) -> Image.Image:
    """8-bit RGB, on white where it is transparent."""
    if photo.mode.startswith("I") or photo.mode == "F":
        values = np.asarray(photo, dtype=np.float32)
        top = 65535.0 if photo.mode.startswith("I") else max(float(values.max()), 1e-6)
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if photo.has_transparency_data:
        clear = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return photo.convert("RGB")


def _shrunk(photo: Image.Image, size: tuple[int, int], *, turn: bool) -> Image.Image:
    """Decode an opened photo at `size` (of the turned photo if `turn`): 8-bit RGB, antialiased."""
    orientation = _orientation(photo) if turn != _opens_turned(photo) else 1
    if not turn:  # undo the turn
        orientation = {6: 8, 8: 6}.get(orientation, orientation)
    # JPEGs can be decoded at a fraction of their size; twice the target still leaves the final
    # filter enough pixels.
    stored = (size[1], size[0]) if orientation in SIDEWAYS else size
    with _decoding():
        drafted = photo.draft(None, (2 * stored[0], 2 * stored[1]))
        box = None if drafted is None else drafted[1]  # its last column may be part of a pixel
        photo.load()
        flat = _flat_rgb(photo)
        if flat.size != stored:
            flat = flat.resize(stored, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        if orientation in TURNS:
            flat = flat.transpose(TURNS[orientation])
    flat.info.clear()  # comments and profiles, which `save` would try to write and might fail at
    return flat


def _moved_near(model: _Model) -> _Model:
    """The model, moved to 0 if it is too far away for float32, as map coordinates are."""
    positions = np.stack([-view.viewmat[:3, :3].T @ view.viewmat[:3, 3] for view in model.views])
    middle = np.median(positions, axis=0)
    reach = np.median(np.linalg.norm(positions - middle, axis=1))
    if not np.linalg.norm(middle) > FAR_OFF * reach > 0:
        return model
    away = np.eye(4)
    away[:3, 3] = middle
    views = [replace(view, viewmat=view.viewmat @ away) for view in model.views]
    told = ", ".join(f"{number:.10g}" for number in middle)
    note = (
        "The capture's coordinates are too large to be kept exactly: the scene's are less by "
        f"({told})."
    )
    return replace(model, views=views, points=model.points - middle, notes=[*model.notes, note])


def _load_pictures(model: _Model, name: str, max_side: int | None, progress: Progress) -> Capture:
    images, cameras = [], []
    lost: list[tuple[str, str]] = []
    progress(LOADING, 0, len(model.views), "")
    for done, view in enumerate(model.views, start=1):
        try:
            image, camera = _picture(view, max_side, model.upright)
            images.append(image)
            cameras.append(camera)
        except _BadPhoto as error:
            lost.append((view.name, str(error)))
        progress(LOADING, done, len(model.views), "")
    notes = model.notes + _left_out(lost)
    if len(images) < 2:
        only = f"Only {len(images)} of the capture's photos can be used, at least 2 are needed."
        raise ValueError(" ".join([only, *notes]))
    notes = [writable(note) for note in notes]
    points = model.points.astype(np.float32)
    return Capture(images, tuple(cameras), points, model.colors, writable(name), notes)


def _left_out(lost: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence per reason, with the names of up to five photos, then a count."""
    names: dict[str, list[str]] = {}
    for name, reason in lost[:5]:
        names.setdefault(reason, []).append(name)
    notes = [
        f"The photo {some[0]} {reason} and was left out."
        if len(some) == 1
        else f"{len(some)} photos were left out, as each {reason}: {', '.join(some)}."
        for reason, some in names.items()
    ]
    if len(lost) > 5:
        notes.append(f"{len(lost) - 5} more photos could not be used either.")
    return notes


def _picture(view: _View, max_side: int | None, upright: bool) -> tuple[NDArray[np.uint8], Camera]:
    """One photo, shrunk and undistorted, and its pinhole camera."""
    with _open(view.path) as photo:
        # A camera describes the stored pixels, as COLMAP and nerfstudio read them, unless only the
        # turned photo fits it.
        turned, stored = _size(photo, turn=True), _size(photo, turn=False)
        turn = upright or (
            _shape_error(view.lens, stored) > 0.01 >= _shape_error(view.lens, turned)
        )
        size = turned if turn else stored
        if _shape_error(view.lens, size) > 0.01:
            raise _BadPhoto(
                f"has {size[0]} x {size[1]} pixels but its camera is for {view.lens.width} x "
                f"{view.lens.height}"
            )
        lens = view.lens.for_size(*size)
        try:
            K, width, height = lens.pinhole(max_side)
        except ValueError:
            raise _BadPhoto(
                "has a distortion that cannot be undone (undistort the photos first, with COLMAP's "
                "image_undistorter)"
            ) from None
        # About the target's resolution on both axes, and never enlarged.
        scale = min(1.0, K[0, 0] / lens.fx)
        if lens.bends:
            source = tuple(max(1, round(side * scale)) for side in size)
            image = np.array(_shrunk(photo, (source[0], source[1]), turn=turn))
            image = lens.straighten(image, K, width, height)
        else:
            image = np.array(_shrunk(photo, (width, height), turn=turn))
    camera = Camera(
        torch.from_numpy(view.viewmat).float(),
        torch.from_numpy(K).float(),
        width,
        height,
        writable(view.name),
    )
    return image, camera


def _shape_error(lens: Lens, size: tuple[int, int]) -> float:
    return abs(size[0] * lens.height / (size[1] * lens.width) - 1)


# ---------------------------------------------------------------------------- COLMAP models


def _colmap_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders with a model: `sparse/0` of the usual layouts first, then the nearest."""
    found = [folder for folder in folders if holds_colmap(folder)]
    return sorted(found, key=lambda folder: "sparse" not in (folder.name, folder.parent.name))


def holds_colmap(folder: Path) -> bool:
    """Whether a COLMAP model (cameras and images, .bin or .txt) lies in this very folder."""
    return _colmap_suffix(folder) != ""


def _colmap_suffix(folder: Path) -> str:
    """The suffix of the COLMAP model's files in this very folder; empty if there is none."""
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return ""


def _photo_roots(root: Path, model: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Folders in which the model's photos may lie, likely ones first."""
    for above in (model, *model.parents):
        yield from (above / "images", above / "input", above)
        if above == root:
            break

    def size(folder: Path) -> int:
        return _bytes_of(photo for below in _folders(folder) for photo in _photos_in(below)[0])

    # Masks may have the photos' names, too.
    yield from sorted(folders, key=size, reverse=True)


Pose = tuple[str, Lens, NDArray[np.float64]]
"""A photo's name in its model, its lens, and [4, 4] world to camera, OpenCV axes."""


def read_colmap(folder: Path) -> tuple[list[Pose], NDArray[np.float64], NDArray[np.uint8]]:
    """A COLMAP model (.bin or .txt) without its photos.

    Returns:
        poses in the natural order of their names, points [P, 3] and their colors [P, 3].
    Raises:
        ValueError: there is none, it is damaged, or has a lens that is not supported.
    """
    suffix = _colmap_suffix(folder)
    if not suffix:
        raise ValueError(
            f"There is no COLMAP model in {folder}: give the folder that holds its cameras and "
            "images (.bin or .txt), usually sparse/0."
        )
    read_cameras, read_images, read_points = _cameras_txt, _images_txt, _points_txt
    if suffix == ".bin":
        read_cameras, read_images, read_points = _cameras_bin, _images_bin, _points_bin
    file = folder / f"points3D{suffix}"
    try:
        lenses = read_cameras(folder / f"cameras{suffix}")
        poses = read_images(folder / f"images{suffix}")
        points, colors = read_points(file) if file.is_file() else _no_points()
        found = [(name, lenses[camera], viewmat) for name, camera, viewmat in poses]
    except _Damaged as error:
        raise ValueError(
            f"The COLMAP model in {folder.name} is damaged or incomplete ({error}): "
            "export it again."
        ) from error
    except KeyError as error:
        raise ValueError(
            f"The COLMAP model in {folder.name} is incomplete (camera {error} is missing): "
            "export it again."
        ) from error
    if len(found) > MAX_VIEWS:
        raise ValueError(f"The model has {len(found):,} photos: at most {MAX_VIEWS:,} are allowed.")
    found.sort(key=lambda item: _natural(item[0]))
    return found, points, colors


def _read_colmap(folder: Path, roots: Iterable[Path]) -> _Model:
    """A COLMAP model and where its photos are: in the root that has most of them.

    Raises:
        ValueError: it is damaged, has a lens that is not supported, or fewer than 2 photos exist.
    """
    found, points, colors = read_colmap(folder)
    best: list[Path] = []
    most = 0
    for candidate in roots:
        paths = [_inside(candidate, name) for name, _, _ in found]
        count = sum(path.is_file() for path in paths)
        if count > most:
            best, most = paths, count
        if most == len(found):
            break
    views = [
        _View(path, name, lens, viewmat)
        for path, (name, lens, viewmat) in zip(best, found, strict=False)
    ]
    present, notes = _existing(views, [name for name, _, _ in found], "the COLMAP model")
    return _Model(present, points, colors, notes)


def _existing(
    views: Sequence[_View],
    names: Sequence[str],
    source: str,
    lost: Sequence[tuple[str, str]] = (),
) -> tuple[list[_View], list[str]]:
    """The views whose photo exists, and notes on the others.

    Args:
        names: of all photos in the source.
        lost: those that exist but cannot be used, with the reasons.
    Raises:
        ValueError: fewer than 2 exist; it names the first missing file, or the lost ones.
    """
    present = [view for view in views if view.path.is_file()]
    if len(names) < 2:
        raise ValueError(f"There are {len(names)} photos in {source}: at least 2 are needed.")
    there = {view.name for view in present} | {name for name, _ in lost}
    missing = [name for name in names if name not in there]
    notes, gone = _left_out(lost), ""
    if missing:
        gone = (
            f"{len(missing)} of the {len(names)} photos listed in {source} are missing "
            f"(the first is {missing[0][:200]})"
        )
        notes.insert(0, f"{gone} and were left out.")
    if len(present) < 2 and lost:
        only = f"Only {len(present)} of the {len(names)} photos listed in {source} can be used"
        raise ValueError(" ".join([f"{only}, at least 2 are needed.", *notes]))
    if len(present) < 2:
        raise ValueError(f"{gone}: put the photos beside it.")
    return present, notes


class _Damaged(Exception):
    """Why a model file cannot be read."""


def _no_points() -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)


def _unsupported(model: str) -> ValueError:
    return ValueError(
        f"The camera model {model} is not supported: undistort the photos first "
        "(COLMAP's image_undistorter)."
    )


def _lens(number: int, width: int, height: int, parameters: Sequence[float]) -> Lens:
    """The lens of a COLMAP camera, of one of COLMAP_MODELS."""
    name, listed = COLMAP_MODELS[number]
    keys = listed.split()
    if len(parameters) != len(keys):
        raise _Damaged(f"a {name} camera has {len(keys)} parameters, not {len(parameters)}")
    p = dict(zip(keys, parameters, strict=True))
    if "f" in p:
        p["fx"] = p["fy"] = p["f"]
    return _distorted_lens(width, height, p, "FISHEYE" in name)


def _distorted_lens(
    width: int, height: int, p: Mapping[str, float], fisheye: bool, rational: bool = True
) -> Lens:
    """A lens from named numbers: fx, fy, cx, cy, and the coefficients that are not 0.

    `rational`: k4 ... k6 divide, as in OpenCV's full model.
    """
    k = tuple(p.get(f"k{power}", 0.0) for power in range(1, 7))
    numerator, denominator = (k[:4], ()) if fisheye or not rational else (k[:3], k[3:])
    tangential = (0.0, 0.0) if fisheye else (p.get("p1", 0.0), p.get("p2", 0.0))
    fx, fy, cx, cy = (p[key] for key in ("fx", "fy", "cx", "cy"))
    return Lens(width, height, fx, fy, cx, cy, numerator, denominator, tangential, fisheye)


def _viewmat(quaternion: Sequence[float], translation: Sequence[float]) -> NDArray[np.float64]:
    """[4, 4] from wxyz and t, world to camera."""
    q = np.asarray(quaternion, dtype=np.float64)
    t = np.asarray(translation, dtype=np.float64)
    small = (np.abs(q) < FARTHEST).all() and (np.abs(t) < FARTHEST).all()
    if not (small and np.linalg.norm(q) > 0):
        raise _Damaged("a pose is not a number")
    w, x, y, z = q / np.linalg.norm(q)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = t
    return matrix


def _check_size(path: Path, most: int) -> None:
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} is larger than {most // 1_000_000} MB.")


def _lines(path: Path) -> Iterator[str]:
    _check_size(path, MAX_TEXT_BYTES)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise _Damaged(f"a line of {path.name} does not end")
            yield line


def _rows(path: Path, kind: str, most: int, *, paired: bool = False) -> Iterator[str]:
    """The data lines of a COLMAP text file, one at a time, so that no file can fill the memory.

    Args:
        kind: what COLMAP's header counts; the count is checked at the end.
        paired: skip the second line of every entry.
    Raises:
        ValueError: there are more than `most`.
    """
    count, stated = 0, None
    lines = _lines(path)
    for line in lines:
        if line.startswith("#"):
            stated = stated or re.match(rf"# Number of {kind}: (\d{{1,20}})", line)
        elif line.strip():
            count += 1
            if count > most:
                raise ValueError(
                    f"{path.name} lists more than {most:,} {kind}: export a smaller model."
                )
            yield line
            # 2D points have three words each; an image has ten, or more if its name has spaces.
            if paired and len(next(lines, "").split(maxsplit=12)) in (10, 11):
                raise _Damaged(f"{path.name} lacks the second line, which may be empty, of {kind}")
    if stated and int(stated[1]) != count:
        raise _Damaged(f"{count} of {stated[1]} {kind}")


def _numbers(words: Sequence[str], what: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise _Damaged(f"{what} that is not a number") from None
    if not all(math.isfinite(number) for number in numbers):
        raise _Damaged(f"{what} that is not a number")
    return numbers


def _cameras_txt(path: Path) -> dict[int, Lens]:
    lenses = {}
    for line in _rows(path, "cameras", 10 * MAX_VIEWS):
        words = line.split(maxsplit=20)
        if len(words) < 5:
            raise _Damaged("a line of cameras.txt is cut short")
        if words[1] not in COLMAP_NUMBERS:
            raise _unsupported(words[1][:40])
        camera, width, height, *parameters = _numbers([words[0], *words[2:]], "a camera")
        number = COLMAP_NUMBERS[words[1]]
        lenses[int(camera)] = _lens(number, int(width), int(height), parameters)
    return lenses


def _images_txt(path: Path) -> list[tuple[str, int, NDArray[np.float64]]]:
    """(photo, camera id, [4, 4]) each; the second line of an image, 2D points, may be empty."""
    poses = []
    for line in _rows(path, "images", MAX_VIEWS, paired=True):
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise _Damaged("a line of images.txt is cut short")
        _, *pose, camera = _numbers(words[:9], "a pose")
        poses.append((words[9].strip(), int(camera), _viewmat(pose[:4], pose[4:])))
    return poses


def _points_txt(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    numbers = array("d")
    for line in _rows(path, "points", MAX_POINTS):
        words = line.split(maxsplit=7)[1:7]
        if len(words) < 6:
            raise _Damaged("a line of points3D.txt is cut short")
        try:
            numbers.extend(map(float, words))
        except ValueError:
            raise _Damaged("a point that is not a number") from None
    return _clean_points(np.asarray(numbers).reshape(-1, 6))


def _clean_points(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Split [P, 6] into positions and colors, without points that are not finite."""
    good = np.isfinite(rows).all(axis=1) & (np.abs(rows[:, :3]) < FARTHEST).all(axis=1)
    return rows[good, :3], rows[good, 3:6].clip(0, 255).astype(np.uint8)


class _Bytes:
    """A cursor over the bytes of a little-endian file; raises if the file ends too early."""

    def __init__(self, path: Path) -> None:
        self._data, self._at, self._name = path.read_bytes(), 0, path.name

    def take(self, form: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from("<" + form, self._data, self._at)
        except struct.error:
            raise _Damaged(f"{self._name} ends too early") from None
        self._at += struct.calcsize("<" + form)
        return values

    def count(self, each: int) -> int:
        """Read a number of records of at least `each` bytes; the file must have room for them."""
        (number,) = self.take("Q")
        if number * each > len(self._data) - self._at:
            raise _Damaged(f"{self._name} ends too early")
        return int(number)

    def skip(self, size: int) -> None:
        self._at += size

    def word(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise _Damaged(f"{self._name} ends too early")
        text = self._data[self._at : end].decode("utf-8", errors="replace")
        self._at = end + 1
        return text


def _cameras_bin(path: Path) -> dict[int, Lens]:
    file = _Bytes(path)
    lenses = {}
    for _ in range(file.count(24)):
        camera, number, width, height = file.take("iiQQ")
        if number not in COLMAP_MODELS:
            raise _unsupported(f"number {number}")
        count = len(COLMAP_MODELS[number][1].split())
        lenses[camera] = _lens(number, width, height, file.take(f"{count}d"))
    return lenses


def _images_bin(path: Path) -> list[tuple[str, int, NDArray[np.float64]]]:
    file = _Bytes(path)
    poses = []
    for _ in range(file.count(73)):
        _, *pose, camera = file.take("i7di")
        name = file.word()
        file.skip(24 * file.count(24))
        poses.append((name, camera, _viewmat(pose[:4], pose[4:])))
    return poses


def _points_bin(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    file = _Bytes(path)
    rows = np.empty((file.count(51), 6))
    for row in rows:
        _, *row[:], _ = file.take("Q3d3Bd")
        file.skip(8 * file.count(8))
    return _clean_points(rows)


# ---------------------------------------------------------------------------- transforms.json


def _read_transforms(path: Path) -> _Model:
    """nerfstudio's and instant-ngp's file: shared or per-frame intrinsics, OpenGL camera axes.

    Raises:
        ValueError: it is not such a file, or fewer than 2 of its photos can be used.
    """
    _check_size(path, MAX_JSON_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of endless length
        raise ValueError(
            f"{path.name} is not valid JSON: it is damaged or incomplete, export it again."
        ) from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise ValueError(f'{path.name} lists no photos: it needs a list "frames".')
    if len(frames) > MAX_VIEWS:
        raise ValueError(f"{path.name} lists {len(frames):,} photos: at most {MAX_VIEWS:,}.")
    views, names, lost = [], [], []
    for frame in frames:
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f'{path.name} is incomplete: every frame needs a "file_path".')
        name = frame["file_path"]
        names.append(name)
        photo = _with_suffix(_inside(path.parent, name))
        if not photo.is_file():
            continue
        try:
            with _open(photo) as opened:
                size = _size(opened, turn=False)
        except _BadPhoto as error:
            lost.append((name, str(error)))
            continue
        settings = {**content, **frame}
        lens = _json_lens(settings, size, path.name)
        views.append(_View(photo, name, lens, _json_pose(frame, path.name)))
    present, notes = _existing(views, names, path.name, lost)
    if masked := sum(bool(frame.get("mask_path")) for frame in frames):
        notes.append(f"The masks of {masked} photos are not used: what they hide is built as well.")
    points, colors = _no_points()
    cloud = content.get("ply_file_path")
    if isinstance(cloud, str):
        file = _inside(path.parent, cloud)
        if file.is_file():
            points, colors = _read_ply(file)
        else:
            notes.append(f"The points in {cloud[:200]} are missing: training starts without them.")
    return _Model(present, points, colors, notes)


def _with_suffix(path: Path) -> Path:
    """Blender sets name their photos without a suffix."""
    if path.is_file():
        return path
    candidates = (path.with_name(path.name + suffix) for suffix in sorted(PHOTO_SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _json_lens(settings: Mapping[str, Any], size: tuple[int, int], source: str) -> Lens:
    def number(key: str, otherwise: float) -> float:
        value = settings.get(key)
        if value is None:
            return otherwise
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not -FARTHEST < value < FARTHEST:  # this also fails for NaN
            raise ValueError(
                f'{source} is damaged: "{key}" must be a number below {FARTHEST:,.0f}, '
                f"got {str(value)[:40]}."
            )
        return float(value)

    model = str(settings.get("camera_model", "OPENCV")).upper()
    if model not in (*COLMAP_NUMBERS, "PERSPECTIVE"):
        raise ValueError(
            f"{source} has cameras of the kind {model[:40]}, which is not supported: "
            "undistort the photos first."
        )
    width, height = number("w", size[0]), number("h", size[1])
    if not (1 <= width <= 1e6 and 1 <= height <= 1e6):
        raise ValueError(f"{source} is damaged: the photos' size is {width:g} x {height:g}.")
    angle_x, angle_y = number("camera_angle_x", 0.0), number("camera_angle_y", 0.0)
    fx = number("fl_x", 0.5 * width / math.tan(angle_x / 2) if 0 < angle_x < math.pi else 0.0)
    fy = number("fl_y", 0.5 * height / math.tan(angle_y / 2) if 0 < angle_y < math.pi else fx)
    if not (fx > 0 and fy > 0):
        raise ValueError(
            f'{source} has no usable focal length: it needs "fl_x" or "camera_angle_x" above 0.'
        )
    p = {"fx": fx, "fy": fy, "cx": number("cx", width / 2), "cy": number("cy", height / 2)}
    p |= {key: number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")}
    fisheye = "FISHEYE" in model or settings.get("is_fisheye") is True
    # Outside of FULL_OPENCV, nerfstudio's k3 and k4 are further powers of the radius.
    rational = model == "FULL_OPENCV"
    return _distorted_lens(round(width), round(height), p, fisheye, rational)


def _json_pose(frame: Mapping[str, Any], source: str) -> NDArray[np.float64]:
    """[4, 4] world to camera, OpenCV axes, from camera to world, OpenGL axes."""
    problem = f"{source} is damaged: the transform_matrix of {str(frame.get('file_path'))[:100]}"
    try:
        matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{problem} is not a matrix of numbers.") from None
    if matrix.shape not in ((3, 4), (4, 4)) or not (np.abs(matrix) < FARTHEST).all():
        raise ValueError(f"{problem} is not a 4 x 4 matrix of finite numbers.")
    left, stretch, right = np.linalg.svd(matrix[:3, :3])
    if not (np.linalg.det(left @ right) > 0 and 0 < stretch[0] < 1.02 * stretch[2]):
        raise ValueError(f"{problem} is not a rotation.")
    rotation = left @ right @ np.diag([1.0, -1.0, -1.0])
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ matrix[:3, 3]
    return viewmat


PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "<i1"),
    **dict.fromkeys(("uchar", "uint8"), "<u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}


def ply_vertices(path: Path) -> dict[str, NDArray[Any]]:
    """The vertices of a PLY, ASCII or binary little-endian: property -> [P] numbers.

    A binary file is memory-mapped: only the properties that are used are read.

    Raises:
        ValueError: it is not such a file, or it ends too early.
    """
    damaged = ValueError(
        f"{path.name} cannot be read as points: export it again as a PLY that is binary "
        "(little-endian) and not compressed."
    )
    with path.open("rb") as file:
        head = file.read(20_000)
    end = re.search(rb"end_header\r?\n", head)
    if not head.startswith(b"ply") or end is None:
        raise damaged
    header = head[: end.start()].decode("ascii", errors="replace").splitlines()
    elements = [line.split() for line in header if line.startswith("element ")]
    if not elements or len(elements[0]) != 3 or elements[0][1] != "vertex":
        raise damaged
    columns: list[tuple[str, str]] = []
    reading = False
    for line in header:
        words = line.split()
        if words[:1] == ["element"]:
            reading = words[1:2] == ["vertex"]
        elif words[:1] == ["property"] and reading:
            if len(words) != 3 or words[1] not in PLY_TYPES:
                raise damaged
            columns.append((words[2], PLY_TYPES[words[1]]))
    names = [name for name, _ in columns]
    # Python refuses to read numbers of thousands of digits.
    count = int(elements[0][2]) if re.fullmatch("[0-9]{1,15}", elements[0][2]) else MAX_POINTS + 1
    if count > MAX_POINTS or len(set(names)) != len(names) or not {"x", "y", "z"} <= set(names):
        raise damaged
    if count == 0:
        return {name: np.zeros(0, form) for name, form in columns}
    if "format ascii 1.0" in header:
        _check_size(path, MAX_TEXT_BYTES)
        body = path.read_bytes()[end.end() :]
        lines = body.decode("ascii", errors="replace").split("\n")[:count]
        try:
            rows = np.array([line.split()[: len(names)] for line in lines], dtype=np.float64)
        except ValueError:
            raise damaged from None
        if rows.shape != (count, len(names)):
            raise damaged
        return {name: rows[:, index] for index, name in enumerate(names)}
    dtype = np.dtype(columns)
    if "format binary_little_endian 1.0" not in header:
        raise damaged
    if path.stat().st_size < end.end() + count * dtype.itemsize:
        raise damaged
    records = np.memmap(path, dtype, mode="r", offset=end.end(), shape=(count,))
    return {name: records[name] for name in names}


def _read_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Points and colors of a PLY; grey if it has no colors."""
    table = ply_vertices(path)
    count = len(table["x"])
    colored = {"red", "green", "blue"} <= set(table)
    grey = np.full(count, 128.0)
    parts = [table[name] for name in "xyz"]
    parts += [table[name] if colored else grey for name in ("red", "green", "blue")]
    return _clean_points(np.stack([part.astype(np.float64) for part in parts], axis=1))


# ---------------------------------------------------------------------------- bare photos


def _place_photos(folders: Sequence[Path], work: Path, progress: Progress) -> _Model:
    """SfM over the photos of the folder that has the most.

    Raises:
        ValueError: too few photos, or too few of them that could be placed.
    """
    photos, lost, notes = _gather(folders)
    if len(photos) > MAX_PHOTOS:
        notes.append(
            f"Of the {len(photos)} photos, {MAX_PHOTOS} evenly spaced ones were used, which is "
            "plenty for one scene."
        )
        photos = [
            photos[round(k * (len(photos) - 1) / (MAX_PHOTOS - 1))] for k in range(MAX_PHOTOS)
        ]
    videos = [item for folder in folders for item in _listing(folder) if _is_video(item)]
    if videos and len(photos) < MIN_PHOTOS:
        raise ValueError(_of_video(videos[0]))
    if videos:
        more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
        notes.append(f"Left out, as videos are not read: {videos[0].name}{more}.")
    if not photos and not lost:
        raise ValueError(
            f"No photos were found in {folders[0].name}: add at least {MIN_PHOTOS} photos "
            "(JPEG, PNG, TIFF, WebP or AVIF)."
        )
    usable, groups = _prepare(photos, work, lost, progress) if photos else ({}, [])
    notes += _left_out(lost)
    if len(usable) < MIN_PHOTOS:
        added = f"{len(usable)} can be used." if notes else f"You added {len(usable)}."
        raise ValueError(" ".join([f"Add at least {MIN_PHOTOS} photos.", added, *notes]))
    placement = place_cameras(work, groups, progress=progress)
    try:
        _judge(placement, len(usable))
    except ValueError as error:  # what was left out may be what is missing
        raise ValueError(" ".join([str(error), *notes])) from None
    assert placement.model is not None
    model = _read_colmap(placement.model, [work / PHOTOS])
    if placement.placed < len(usable):
        notes.append(
            f"{placement.placed} of {len(usable)} photos could be placed; the others were left out."
        )
    if placement.other > max(2, len(usable) // 10):
        notes.append("Your photos seem to show two separate places; the larger one was used.")
    photo_of = ((view, usable[view.name]) for view in model.views)
    views = [replace(view, path=photo, name=photo.name) for view, photo in photo_of]
    return _Model(views, model.points, model.colors, notes, upright=True)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _of_video(path: Path) -> str:
    return (
        f"{path.name} is a video, which is not read: save 20 to 60 sharp frames of it as photos, "
        "for example by `ffmpeg -i VIDEO -r 2 photos/%03d.jpg`, and give their folder."
    )


def _gather(folders: Sequence[Path]) -> tuple[list[Path], list[tuple[str, str]], list[str]]:
    """The photos of the folder with the most, its files in unreadable formats, and notes."""
    found = {folder: _photos_in(folder) for folder in folders}

    def rank(folder: Path) -> tuple[bool, int, bool, int, int]:
        photos, others = found[folder]
        # Photos that were converted lie beside the originals; these count only if nothing else can.
        enough = len(photos) >= MIN_PHOTOS
        count = len(photos) if enough else len(photos) + len(others)
        # Masks, depth maps and small copies lie beside the photos, in equal number.
        named = bool(photos) and folder.name == "images"
        jpegs = sum(photo.suffix.lower() in (".jpg", ".jpeg") for photo in photos)
        return enough, count, named, jpegs, _bytes_of(photos)

    chosen = max(folders, key=rank)
    photos, others = found[chosen]
    left = sum(map(len, itertools.chain(*found.values()))) - len(photos) - len(others)
    notes = []
    if left:
        notes.append(
            f"Only the photos in {chosen.name} ({len(photos)}) were used: {left} in other folders "
            "were left out."
        )
    reason = "is in a format that cannot be read here (save it as JPEG)"
    converted = {photo.stem for photo in photos}  # as cameras do that save both
    foreign = [(item.name, reason) for item in others if item.stem not in converted]
    return photos, foreign, notes


def _photos_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photos of this very folder, and its files in unreadable formats."""
    files = [item for item in _listing(folder) if item.is_file()]
    return (
        [item for item in files if item.suffix.lower() in PHOTO_SUFFIXES],
        [item for item in files if item.suffix.lower() in UNREADABLE_SUFFIXES],
    )


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _prepare(
    photos: Sequence[Path], work: Path, lost: list[tuple[str, str]], progress: Progress
) -> tuple[dict[str, Path], list[PhotoGroup]]:
    """Write turned, flattened, shrunk JPEGs for SfM, grouped by the camera they share.

    Returns:
        The originals by the name of their JPEG, and the groups. Photos that cannot be read, and
        copies of earlier ones, are added to `lost`.
    """
    folder = work / PHOTOS
    folder.mkdir(exist_ok=True)
    usable: dict[str, Path] = {}
    seen: dict[str, str] = {}  # names by pictures
    cameras: dict[tuple[int, int, float | None], list[str]] = {}
    progress(READING, 0, len(photos), "")
    for index, path in enumerate(photos):
        name = f"{index:04d}.jpg"
        try:
            with _open(path) as photo:
                focal = _focal_35mm(photo)
                full = _size(photo, turn=True)
                scale = min(1.0, SFM_SIDE / max(full))
                size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
                small = _shrunk(photo, size, turn=True)
            picture = hashlib.sha256(small.tobytes()).hexdigest()
            if picture in seen:  # a copy adds nothing
                raise _BadPhoto(f"is a copy of {seen[picture]}")
            seen[picture] = path.name
        except _BadPhoto as error:
            lost.append((path.name, str(error)))
        else:
            small.save(folder / name, quality=95)
            usable[name] = path
            cameras.setdefault((*size, focal), []).append(name)
        progress(READING, index + 1, len(photos), "")
    groups = []
    for (width, height, focal), names in cameras.items():
        pixels = None if focal is None else focal / DIAGONAL_35MM * math.hypot(width, height)
        groups.append(PhotoGroup(names, width, height, pixels))
    return usable, groups


def _judge(placement: Placement, photos: int) -> None:
    """Raise ValueError, with the most likely cause, unless the model can be trusted."""
    more = "Take 20 to 60 sharp photos while walking around the subject, each overlapping the last."
    if placement.poor > photos // 2:
        raise ValueError(
            f"We could not find enough details in {placement.poor} of {photos} photos "
            "(plain walls, blur or darkness): take sharper photos of something with texture."
        )
    if placement.turning:
        raise ValueError(
            "All photos seem to be taken from one spot, so depth cannot be worked out: "
            "move sideways between photos."
        )
    if placement.model is None or placement.placed < max(3, 0.5 * photos):
        raise ValueError(
            f"The camera positions of only {placement.placed} of {photos} photos could be "
            f"worked out. {more}"
        )
    # A false model can place all photos with a small error, but not with good angles and focal
    # lengths.
    if placement.angle < MIN_ANGLE or not 0.3 < placement.focal_ratio < 6:
        raise ValueError(f"The camera positions that were worked out show hardly any depth. {more}")
