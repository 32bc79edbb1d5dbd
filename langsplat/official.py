"""The files of the official LangSplat code, in and out.

In: its checkpoints of all three stages, the point clouds of Inria's code, cfg_args, cameras.json,
and the features of its preprocessing. `find_official` says what some folders hold,
`import_official` turns that into one scene, and `export_official` writes what the official code
reads.

    checkpoint = read_checkpoint("output/teatime_1/chkpnt30000.pth", stage="language")
    checkpoint.gaussians(), checkpoint.language  # N Gaussians, [N, D] latents
    features = read_features("teatime/language_features", "frame_00001")

A checkpoint from a stranger is opened without running any code in it: tensors, containers and
numpy's scalars are accepted, every other object is refused by name. Checkpoints and point clouds
are memory-mapped, so only what is used is read.

Letters: N Gaussians, L levels, D latent size, E embedding size, M segments, V codewords,
H W pixels.
"""

import ast
import json
import math
import os
import re
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import langsplat
from langsplat.build import SAVING, central_view, jpeg, scene_card
from langsplat.cameras import world_frame
from langsplat.capture import holds_colmap, ply_vertices, read_colmap
from langsplat.codec import Autoencoder, Codebook
from langsplat.encoders import check_spec, load_encoder
from langsplat.features import SegmentFeatures
from langsplat.language import fit_language, level_notes
from langsplat.progress import Progress, replacing, silent
from langsplat.query import MIN_SUPPORT, render_rgb
from langsplat.rasterize import heaviest, render
from langsplat.scene import (
    LEVELS,
    MAX_IMAGE_PIXELS,
    Camera,
    Gaussians,
    LanguageField,
    Scene,
    beside,
    check_destination,
    check_name,
    check_not_here,
    save_scene,
)

INRIA_NEAR = 0.2  # the near plane Inria's rasterizer draws and trains with
SH_BASES = 16  # of Inria's models: degree 3
ENCODER = "open_clip:ViT-B-16/laion2b_s34b_b88k"  # whose embeddings the official files hold
ENCODER_DIM = 512
RGB, LANGUAGE, SPARSE = "RGB", "language", "LangSplatV2"
# Checkpoints of the three stages differ only in their number of elements.
STAGES: Mapping[int, str] = {12: RGB, 13: LANGUAGE, 14: SPARSE}
HOW: Mapping[str, str] = {
    RGB: "Inria's train.py with --checkpoint_iterations writes",
    LANGUAGE: "LangSplat's train.py with --start_checkpoint and --feature_level writes",
    SPARSE: "LangSplatV2's train.py with --feature_level writes",
}
TOP = 4  # codewords a Gaussian of LangSplatV2 keeps
MAX_CFG_BYTES = 1_000_000
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
LATENT_STEP = 1 / 16  # latents this near, about 4 degrees, are written as one feature
PREVIEW_WIDTH = 640  # pixels
LIFTING_SIDE = 480  # pixels of the label maps' long side when language is lifted from them


def _allowed() -> list[Any]:
    """numpy's scalars (learning rates and lengths in a checkpoint), under both names of numpy."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    ]


_LOADING = threading.Lock()  # torch's list of allowed objects is shared by all threads


def load_untrusted(path: Path | str, what: str = "checkpoint") -> Any:
    """Load what torch.save wrote: tensors, numbers and containers, memory-mapped on the CPU.

    No file can run code here, but torch's reader lets a hostile one take memory while it is read.

    Args:
        what: what the file should be, for error messages.
    Raises:
        ValueError: there is no such file, its path is not UTF-8, it is damaged, it would unpack to
            more than its own size, or it holds objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no {what} at {path}: check the path.")
    check_name(str(path), "rename the file, or the folder it is in")  # torch opens no others
    with path.open("rb") as file:
        head = file.read(4)
    zipped = head == b"PK\x03\x04"  # as torch tells its two formats apart
    grows = False
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                grows = sum(m.file_size for m in archive.infolist()) > path.stat().st_size
        if not grows:
            with _LOADING, torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of pickles that it did not write
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch's reader raises nearly anything for a damaged file
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked or head.startswith(b"\x80"):
            holds = f"more than numbers ({asked[1]})" if asked else "a pickle of unknown content"
            raise ValueError(
                f"{path} holds {holds}, which could run code, so it was not opened: get the "
                f"{what} from a source you trust, as the official code writes it."
            ) from None
        raise ValueError(
            f"{path} is not a readable {what}, it is damaged or incomplete: copy or download it "
            "again."
        ) from error
    # torch.save does not compress, but torch.load would decompress: a megabyte may hold a gigabyte.
    raise ValueError(
        f"{path} would unpack to more than its own size, so it was not opened: get the {what} from "
        "a source you trust, as the official code writes it."
    )


# ---------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A chkpntNNNNN.pth of any stage; its tensors stay in the file until they are used.

    Attributes:
        path: of the file.
        stage: "RGB" (12 elements), "language" (13) or "LangSplatV2" (14).
        iteration: of the training.
        language: [N, D], as trained (not unit length); only in the stage "language".
        logits, codebooks: [N, layers x V] and [layers, V, E]; only in the stage "LangSplatV2".
    """

    path: Path
    stage: str
    iteration: int
    _raw: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    language: Tensor | None = None
    logits: Tensor | None = None
    codebooks: Tensor | None = None

    def __len__(self) -> int:
        return len(self._raw[0])

    @property
    def means(self) -> Tensor:
        """[N, 3] world units."""
        return self._raw[0]

    def gaussians(self) -> Gaussians:
        """All N, activated; a Gaussian may have values that are not finite."""
        return _activated(*self._raw)


def read_checkpoint(path: Path | str, *, stage: str | None = None) -> Checkpoint:
    """Open a checkpoint of the official code.

    Args:
        stage: the one that is needed ("RGB", "language", "LangSplatV2"); None takes any.
    Raises:
        ValueError: it is damaged, could run code, is something else, is of another stage, or its
            features are not finite.
    """
    path = Path(path)
    content = load_untrusted(path)
    params = content[0] if isinstance(content, tuple | list) and len(content) == 2 else None
    if not isinstance(params, tuple | list) or len(params) not in STAGES:
        raise ValueError(
            f"{path} is not a checkpoint of a LangSplat training: give a chkpntNNNNN.pth as "
            f"{HOW[LANGUAGE]} it."
        )
    found = STAGES[len(params)]
    if stage is not None and found != stage:
        raise _of_another_stage(path, found, stage)
    degree, means, dc, rest, log_scales, quats, logit_opacities = params[:7]
    n = means.shape[0] if isinstance(means, Tensor) and means.ndim else 0
    if not isinstance(degree, int) or not 0 <= degree <= 3:
        # Lists that hold one list twice, again and again, are tiny in a file but not as text.
        got = degree if isinstance(degree, int) else f"a {type(degree).__name__}"
        raise ValueError(
            f"{path} is damaged: its SH degree is {got}, not 0 to 3: copy or download it again."
        )
    means = _part(path, "positions", means, (n, 3))
    dc = _part(path, "colors", dc, (n, 1, 3))
    rest = _part(path, "harmonics", rest, (n, None, 3))
    raw = (
        means,
        dc,
        rest[:, : (degree + 1) ** 2 - 1],  # higher bases are not drawn
        _part(path, "scales", log_scales, (n, 3)),
        _part(path, "rotations", quats, (n, 4)),
        _part(path, "opacities", logit_opacities, (n, 1)),
    )
    if 1 + raw[2].shape[1] != (degree + 1) ** 2:
        raise ValueError(
            f"{path} is damaged: it has too few harmonics for degree {degree}: copy or download "
            "it again."
        )
    iteration = content[1] if isinstance(content[1], int) else 0
    language = logits = codebooks = None
    if found == LANGUAGE:
        language = _finite(path, _part(path, "language features", params[7], (n, None)))
    elif found == SPARSE:
        logits = _finite(path, _part(path, "logits", params[7], (n, None)))
        codebooks = _finite(path, _part(path, "codebooks", params[8], (None, None, None)))
        if codebooks.shape[0] * codebooks.shape[1] != logits.shape[1] or not logits.shape[1]:
            raise ValueError(
                f"{path} is damaged: {logits.shape[1]} logits a Gaussian do not fit codebooks of "
                f"{list(codebooks.shape)}: copy or download it again."
            )
    return Checkpoint(path, found, iteration, raw, language, logits, codebooks)


def _of_another_stage(path: Path, found: str, needed: str) -> ValueError:
    elements = next(count for count, stage in STAGES.items() if stage == found)
    return ValueError(
        f"{path} is a checkpoint of the {found} stage ({elements} elements), but one of the "
        f"{needed} stage is needed: give the one that {HOW[needed]}."
    )


def read_autoencoder(path: Path | str) -> Autoencoder:
    """The autoencoder in a best_ckpt.pth.

    Raises:
        ValueError: it is damaged, could run code, or is something else.
    """
    path = Path(path)
    content = load_untrusted(path, "autoencoder")
    if (
        not isinstance(content, Mapping)
        or not all(map(_holds_numbers, content.values()))
        # Tensors may share their numbers in the file, but the copies below do not.
        or sum(t.numel() * t.element_size() for t in content.values()) > path.stat().st_size
    ):
        raise ValueError(
            f"{path} is not an autoencoder: give the best_ckpt.pth that LangSplat's "
            "autoencoder/train.py writes."
        )
    try:
        # Copies, so that the file can be closed.
        return Autoencoder.from_tensors({str(k): t.detach().clone() for k, t in content.items()})
    except ValueError as error:
        raise ValueError(f"{path} cannot be used. {error}") from None


def _holds_numbers(value: Any) -> bool:
    """Whether it is a tensor with all its numbers in the file: a few bytes can claim a huge one."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in NUMBERS
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _part(path: Path, name: str, value: Any, shape: Sequence[int | None]) -> Tensor:
    numbers = _holds_numbers(value)
    good = (
        numbers
        and value.is_floating_point()
        and value.ndim == len(shape)
        and all(want is None or want == have for want, have in zip(shape, value.shape, strict=True))
    )
    if not good:
        got = list(value.shape) if numbers else f"a {type(value).__name__}"
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise ValueError(
            f"{path} is damaged: its {name} must be numbers [{wanted}], got {got}: copy or "
            "download it again."
        )
    return value.detach()


def _finite(path: Path, features: Tensor) -> Tensor:
    bad = ~features.flatten(1).float().isfinite().all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{path} has language features that are not finite in {int(bad.sum()):,} of "
            f"{len(bad):,} rows: train that level again, or use an earlier checkpoint."
        )
    return features


def _activated(
    means: Tensor,  # [N, 3]
    dc: Tensor,  # [N, 1, 3]
    rest: Tensor,  # [N, K-1, 3]
    log_scales: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    logit_opacities: Tensor,  # [N, 1]
) -> Gaussians:
    """Gaussians from the parameters training stores; copies, so that the file can be closed."""
    sh = torch.empty(len(means), 1 + rest.shape[1], 3)
    sh[:, :1], sh[:, 1:] = dc, rest
    return Gaussians(
        means=means.float().clone(),
        quats=F.normalize(quats.float(), dim=1),
        scales=log_scales.float().exp(),
        opacities=logit_opacities[:, 0].float().sigmoid(),
        sh=sh,
        near=INRIA_NEAR,
    )


def usable(gaussians: Gaussians) -> Tensor:
    """[N] bool: the Gaussians that are finite, also as half floats, with a rotation and a size."""
    g = gaussians
    # A sum is finite only if its terms are, and needs no [N, K, 3] of its own.
    total = g.means.sum(1) + g.scales.sum(1) + g.opacities + g.sh.sum((1, 2))
    low, high = g.sh.flatten(1).aminmax(dim=1)
    stored = low.half().isfinite() & high.half().isfinite()
    return total.isfinite() & stored & (g.quats.norm(dim=1) > 0.5) & (g.scales > 0).all(dim=1)


# ---------------------------------------------------------------------------- point clouds


def read_ply(path: Path | str) -> Gaussians:
    """The N activated Gaussians of a point_cloud.ply of Inria's code; some may not be finite.

    They are drawn with the near plane of that code, 0.2; what nerfstudio or gsplat wrote was
    trained with 0.01: dataclasses.replace(gaussians, near=0.01).

    Raises:
        ValueError: it is not a PLY, ends too early, or has other properties.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no point cloud at {path}: check the path.")
    table = ply_vertices(path)
    rest = sum(name.startswith("f_rest_") for name in table)
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    missing = [name for name in names if name not in table]
    if missing or rest not in (0, 9, 24, 45):
        what = f"no {missing[0]}" if missing else f"{rest} f_rest properties"
        raise ValueError(
            f"{path} is not a point cloud of Gaussians (it has {what}): give the point_cloud.ply "
            "that Inria's train.py writes."
        )

    def columns(*picked: str) -> Tensor:
        out = np.empty((len(table["x"]), len(picked)), np.float32)
        for index, name in enumerate(picked):
            out[:, index] = table[name]
        return torch.from_numpy(out)

    # All red harmonics come first, then green, then blue.
    harmonics = columns(*(f"f_rest_{i}" for i in range(rest)))
    return _activated(
        columns("x", "y", "z"),
        columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        harmonics.reshape(len(harmonics), 3, rest // 3).transpose(1, 2),
        columns("scale_0", "scale_1", "scale_2"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        columns("opacity"),
    )


def write_ply(gaussians: Gaussians, path: Path | str) -> Path:
    """Write a point_cloud.ply as Inria's code reads it: logs, logits, harmonics of degree 3.

    Lower degrees are padded with zeros, because Inria's loader insists on 45 f_rest properties.
    """
    path = Path(path)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * (SH_BASES - 1))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in names]
    g = gaussians.detached().to("cpu")
    with replacing(path) as partial, partial.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        for start in range(0, len(g), 1 << 16):
            part = g.select(torch.arange(start, min(start + (1 << 16), len(g))))
            harmonics = part.sh.new_zeros(len(part), SH_BASES, 3)
            harmonics[:, : part.sh.shape[1]] = part.sh
            columns = [
                part.means,
                torch.zeros_like(part.means),
                harmonics[:, 0],
                harmonics[:, 1:].transpose(1, 2).flatten(1),
                # 0 and 1 have no logit, and a half float next to 1 is 1.
                part.opacities.float().clamp(1e-6, 1 - 1e-6).logit()[:, None],
                part.scales.float().log(),
                F.normalize(part.quats, dim=1),
            ]
            file.write(torch.cat(columns, dim=1).float().numpy().astype("<f4").tobytes())
    return path


# ---------------------------------------------------------------------------- cfg_args, cameras


def read_cfg_args(path: Path | str) -> dict[str, Any]:
    """The settings in a cfg_args, parsed but never evaluated; only literal values are kept.

    Raises:
        ValueError: it is not the text of a Namespace(...).
    """
    path = Path(path)
    problem = ValueError(
        f"{path} is not a cfg_args of the official code (the text Namespace(...)): copy it again, "
        "or remove it, it is not needed."
    )
    if path.stat().st_size > MAX_CFG_BYTES:
        raise problem
    try:
        call = ast.parse(path.read_text(encoding="utf-8"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise problem from None
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id != "Namespace"
    ):
        raise problem
    settings = {}
    for keyword in call.keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if keyword.arg is not None:
            settings[keyword.arg] = value
    return settings


def trained_size(width: int, height: int, resolution: Any = -1) -> tuple[int, int]:
    """The size of the pictures that the official code trains on, from the size of a photo.

    Args:
        resolution: of cfg_args: 1, 2, 4 or 8 divide; another positive number is the width; -1
            keeps the height at or below 1080 pixels.
    Raises:
        ValueError: the pictures would be too large.
    """
    good = isinstance(resolution, int | float) and 0 < resolution < math.inf
    if good and resolution in (1, 2, 4, 8):
        size = max(1, round(width / resolution)), max(1, round(height / resolution))
    else:
        # A width too large for a float becomes one that is merely larger than any picture's.
        scale = width / min(resolution, 2 * MAX_IMAGE_PIXELS) if good else max(1.0, height / 1080)
        size = max(1, int(width / scale)), max(1, int(height / scale))
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"Photos of {width} x {height} pixels would become pictures of more than "
            f"{MAX_IMAGE_PIXELS:,}: set a smaller width as the resolution in cfg_args."
        )
    return size


def _pinhole(
    name: str, viewmat: NDArray[Any], fx: float, fy: float, photo: tuple[int, int], resolution: Any
) -> Camera:
    """A camera as the official code has it: no distortion, its axis through the middle.

    Args:
        fx, fy: in pixels of the `photo`, (width, height).
        resolution: as for `trained_size`.
    """
    width, height = trained_size(*photo, resolution)
    K = [
        [fx * width / photo[0], 0.0, width / 2],
        [0.0, fy * height / photo[1], height / 2],
        [0.0, 0.0, 1.0],
    ]
    return Camera(torch.from_numpy(viewmat).float(), torch.tensor(K), width, height, name)


def colmap_cameras(
    folder: Path | str, *, resolution: Any = -1
) -> tuple[tuple[Camera, ...], NDArray[np.float64]]:
    """The cameras the official code makes of a COLMAP model, sorted by name; the points [P, 3].

    Only the field of view is kept: the official code trains without distortion and with the
    optical axis in the middle of the picture, so its Gaussians must be drawn that way.
    """
    poses, points, _ = read_colmap(Path(folder))
    cameras = [
        _pinhole(name, viewmat, lens.fx, lens.fy, (lens.width, lens.height), resolution)
        for name, lens, viewmat in poses
    ]
    return tuple(sorted(cameras, key=lambda camera: camera.name)), points


def read_cameras(path: Path | str, *, resolution: Any = -1) -> tuple[Camera, ...]:
    """The cameras of a cameras.json, sorted by name.

    Raises:
        ValueError: it is not one, a number in it is not finite, a camera is mirrored, or the
            pictures are too large.
    """
    path = Path(path)
    problem = ValueError(
        f"{path} is not a cameras.json of Inria's code: copy it again, or put the COLMAP model "
        "(sparse/0) beside it."
    )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = []
        for entry in entries:
            rotation = np.array(entry["rotation"], np.float64)  # camera to world
            position = np.array(entry["position"], np.float64)
            photo = int(entry["width"]), int(entry["height"])
            fx, fy = float(entry["fx"]), float(entry["fy"])
            viewmat = np.eye(4)
            viewmat[:3, :3] = rotation.T
            viewmat[:3, 3] = -rotation.T @ position
            turned = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2
            turned &= np.linalg.det(rotation) > 0  # not mirrored
            bounded = np.abs(viewmat).max() < 1e9  # false where one is NaN
            if not (turned and bounded and all(0 < v < 1e9 for v in (fx, fy, *photo))):
                raise problem
            found.append((str(entry["img_name"]), viewmat, fx, fy, photo))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise problem from error
    cameras = [_pinhole(*camera, resolution) for camera in found]
    return tuple(sorted(cameras, key=lambda camera: camera.name))


# ---------------------------------------------------------------------------- features


def stem_of(name: str) -> str:
    """The name the official code gives a photo's features: the photo's, up to the first dot."""
    return Path(name).name.split(".")[0]


def repeated(stems: Sequence[str]) -> str | None:
    """The first that is there more than once."""
    return next((stem for stem, count in Counter(stems).items() if count > 1), None)


def read_features(
    folder: Path | str, stem: str, *, size: tuple[int, int] | None = None
) -> SegmentFeatures:
    """One view of `language_features` or `language_features_dim3`: subpart, part and whole.

    The official maps have four channels whose values are rows of all embeddings together; the
    first channel (all masks pooled) is not used.

    Args:
        folder: with `<stem>_s.npy` [4, H, W] and `<stem>_f.npy` [M, E].
        size: (width, height) of the picture; maps of another size are resized to it, nearest
            label, with a warning that names both.
    Returns:
        segments [3, H, W] and three embeddings [M, E], unit length; E is 3 for dim3.
    Raises:
        ValueError: a file is missing, damaged or has another shape; a row is out of range; an
            embedding is not finite.
    """
    folder = Path(folder)
    maps_file, rows_file = folder / f"{stem}_s.npy", folder / f"{stem}_f.npy"
    maps, table = read_array(maps_file), read_array(rows_file)
    if maps.ndim != 3 or maps.shape[0] != 4 or not maps.size:
        raise ValueError(
            f"{maps_file} must be [4, H, W] (default, subpart, part, whole), got "
            f"{list(maps.shape)}: write it with LangSplat's preprocess.py."
        )
    if table.ndim != 2 or table.shape[1] < 1:
        raise ValueError(
            f"{rows_file} must be [M, E], one embedding a row, got {list(table.shape)}: write it "
            "with LangSplat's preprocess.py."
        )
    rows = np.array(table, np.float32)
    bad = np.asarray(~np.isfinite(rows).all(axis=1))
    if bad.any():
        raise ValueError(
            f"{rows_file} has features that are not finite in {int(bad.sum())} of {len(bad)} rows "
            f"(the first is {int(bad.argmax())}): run the preprocessing of that photo again."
        )
    height, width = maps.shape[1:]
    if size is not None and size != (width, height):
        warnings.warn(
            f"{maps_file.name} is {width} x {height} but its picture is {size[0]} x {size[1]}: "
            "the nearest labels are taken.",
            stacklevel=2,
        )
        maps = _nearest_labels(maps, size)
    segments, embeddings = [], []
    for level in maps[1:]:
        low, high = level.min(), level.max()
        if not (low >= -1 and high < len(rows)):  # also where they are not numbers
            raise ValueError(
                f"{maps_file} names rows from {low:g} to {high:g} but {rows_file.name} has "
                f"{len(rows)}: the two files are not of one run, so write both again."
            )
        ids = level.astype(np.int32)
        if (ids != level).any():
            raise ValueError(
                f"{maps_file} has row numbers that are not whole: write it again without "
                "interpolation."
            )
        present = np.bincount(ids[ids >= 0], minlength=len(rows)) > 0
        # The extra last entry is where -1, no segment, points to.
        local = np.append(np.cumsum(present) - 1, -1).astype(np.int32)
        segments.append(local[ids])
        embeddings.append(F.normalize(torch.from_numpy(rows[present]), dim=1))
    return SegmentFeatures(np.stack(segments), embeddings)


def read_array(path: Path) -> NDArray[Any]:
    """The numbers in a .npy, memory-mapped.

    Raises:
        ValueError: it is missing, or holds something else.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: run LangSplat's preprocess.py on that photo, or give the folder "
            "that holds it."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's reader raises nearly anything for a damaged file
        raise ValueError(
            f"{path} is not a readable array of numbers: copy it or write it again."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{path} is not an array of numbers: write it again.")
    return array


def _nearest_labels(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest labels of maps [..., H, W] at (width, height)."""
    height, width = maps.shape[-2:]
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    return maps[..., rows[:, None], columns]


def write_features(folder: Path | str, stem: str, features: SegmentFeatures) -> None:
    """Write `<stem>_s.npy` float32 [4, H, W] and `<stem>_f.npy` float32 [M, E].

    Rows are numbered across all levels, as the official code expects. The first channel, all masks
    pooled, is left empty (-1, no rows): nothing that trains on levels 1 to 3 reads it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if len(features.embeddings) != len(LEVELS):
        raise ValueError(
            f"The official features have the levels {', '.join(LEVELS)}: got "
            f"{len(features.embeddings)} levels."
        )
    maps = np.full((1 + len(LEVELS), *features.segments.shape[1:]), -1, np.float32)
    offset = 0
    for channel, ids, rows in zip(maps[1:], features.segments, features.embeddings, strict=True):
        channel[...] = np.where(ids >= 0, ids + offset, -1)
        offset += len(rows)
    table = torch.cat([rows.float().cpu() for rows in features.embeddings])
    np.save(folder / f"{stem}_s.npy", maps)
    np.save(folder / f"{stem}_f.npy", table.numpy())


# ---------------------------------------------------------------------------- finding

SUFFIX = re.compile(r"(.+)_([123])")  # <case>_1, <case>_2, <case>_3: one folder a level
FEATURES = ("language_features", "language_feature")  # the code's spelling, the README's
PICTURES = {"images", "input", "renders", "gt", "renders_npy", "gt_npy", "label"}
DEPTH = 6  # folders deep


@dataclass
class Found:
    """What the folders of an official project hold.

    Attributes:
        name: of the scene.
        runs: level (0 subpart, 1 part, 2 whole) -> its checkpoint.
        stage: of the runs, language or LangSplatV2; RGB if there are none.
        rgb: if there are no runs, the model without language: a checkpoint or a point cloud.
        autoencoder: best_ckpt.pth.
        colmap: the folder of the COLMAP model.
        cameras_json: if there is no COLMAP model, the cameras.json of the model folder.
        features: the folder of 512-number features.
        latents: the folder of their 3-number codes.
        resolution: as in cfg_args.
        found, missed: lines for the user, on what is there and what is not.
    """

    name: str
    runs: dict[int, Path]
    stage: str
    rgb: Path | None
    autoencoder: Path | None
    colmap: Path | None
    cameras_json: Path | None
    features: Path | None
    latents: Path | None
    resolution: Any
    found: list[str]
    missed: list[str]


class _Files:
    """Everything of interest in some folders, sorted by kind."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self.checkpoints: dict[Path, Path] = {}  # model folder -> its newest
        self.clouds: dict[Path, Path] = {}  # model folder -> its newest
        self.trained: dict[Path, int] = {}  # checkpoint or cloud -> its iteration
        self.autoencoders: list[Path] = []
        self.colmap: list[Path] = []
        self.cameras: dict[Path, Path] = {}  # model folder -> cameras.json
        self.features: list[Path] = []
        self.latents: list[Path] = []
        self.foreign: list[Path] = []
        self.pooled: list[Path] = []
        self.cfgs: dict[Path, dict[str, Any]] = {}
        self.notes: list[str] = []
        for folder, names in self._walk():
            if holds_colmap(folder):
                self.colmap.append(folder)
            plain = folder.name.removesuffix("_dim3")
            if plain in FEATURES and any(name.endswith("_s.npy") for name in names):
                (self.features if plain == folder.name else self.latents).append(folder)
            for name in names:
                path = folder / name
                if number := re.fullmatch(r"chkpnt(\d+)\.pth", name):
                    self._add(self.checkpoints, folder, path, int(number[1]))
                elif re.fullmatch(r"chkpnt\d+_langfeat_\d\.pth", name):
                    self.foreign.append(path)
                elif name == "best_ckpt.pth":
                    self.autoencoders.append(path)
                elif name == "cameras.json":
                    self.cameras[folder] = path
                elif name == "cfg_args":
                    self._read_cfg(folder, path)
                elif name == "point_cloud.ply":
                    number = re.fullmatch(r"iteration_(\d+)", folder.name)
                    model = folder.parents[1] if number else folder
                    self._add(self.clouds, model, path, int(number[1]) if number else 0)

    def _add(self, newest: dict[Path, Path], model: Path, path: Path, iteration: int) -> None:
        self.trained[path] = iteration
        if iteration >= self.trained[newest.get(model, path)]:
            newest[model] = path

    def _walk(self) -> Iterator[tuple[Path, list[str]]]:
        seen = set()
        for root in self.roots:
            for at, folders, names in os.walk(root, followlinks=True):
                folder = Path(at)
                real = folder.resolve()
                again = real in seen  # a link back, or a folder given twice
                seen.add(real)
                deep = again or len(folder.relative_to(root).parts) >= DEPTH
                folders[:] = sorted(
                    name
                    for name in folders
                    if not (deep or name.startswith(".") or name in PICTURES)
                )
                if not again:
                    yield folder, sorted(names)

    def newest(self, model: Path) -> Path:
        """The checkpoint in a model's folder or, if that was trained longer, the point cloud."""
        checkpoint = self.checkpoints[model]
        return max(checkpoint, self.clouds.get(model, checkpoint), key=self.trained.__getitem__)

    def _read_cfg(self, folder: Path, path: Path) -> None:
        try:
            self.cfgs[folder] = read_cfg_args(path)
        except ValueError as error:
            self.notes.append(str(error).replace(str(path), self.short(path)))

    def short(self, path: Path) -> str:
        """The path, starting at the folder the user gave."""
        for root in self.roots:
            if path.is_relative_to(root):
                return str(path.relative_to(root.parent) if root.name else path)
        return path.name

    @property
    def not_read(self) -> list[str]:
        """A line for the user on each kind of checkpoint that is there but not read."""
        kinds = ("Occam's LGS", self.foreign), ("level 0 (all masks pooled)", self.pooled)
        return [
            f"{self.short(path)} is of {kind}, which is not read here"
            for kind, paths in kinds
            for path in paths[:1]
        ]

    def level_of(self, folder: Path) -> int | None:
        """0 to 2, from cfg_args or the folder's name; None if neither says."""
        level = self.cfgs.get(folder, {}).get("feature_level")
        if level in (1, 2, 3):
            return int(level) - 1
        suffix = SUFFIX.fullmatch(folder.name)
        return int(suffix[2]) - 1 if suffix else None

    def choose(self, what: str, paths: Sequence[Path], name: str) -> Path | None:
        """The only one, or the only one whose path contains the scene's `name`.

        Raises:
            ValueError: several fit.
        """
        if len(paths) <= 1:
            return paths[0] if paths else None
        named = [path for path in paths if any(_same(part, name) for part in path.parts)]
        if len(named) == 1:
            return named[0]
        listed = ", ".join(self.short(path) for path in (named or paths)[:4])
        raise ValueError(
            f"There are several {what} ({listed}): give only the folders of one scene, for example "
            f"`python -m langsplat import {name}_1 {name}_2 {name}_3 DATA AUTOENCODER`."
        )


def _same(part: str, name: str) -> bool:
    return bool(part) and (
        part == name or part.startswith(f"{name}_") or name.startswith(f"{part}_")
    )


def find_official(folders: Path | str | Sequence[Path | str]) -> Found:
    """Look through the folders of an official project: model folders, data, autoencoder.

    A scene is made from the level runs (with their autoencoder, or with LangSplatV2's codebooks).
    If there are none, it is made from a model without language and the features of the
    preprocessing.

    Args:
        folders: one or several, each searched six folders deep, except in folders of pictures and
            hidden ones.
    Raises:
        ValueError: no folder is given, or one does not exist; there are several scenes; a
            checkpoint is damaged, or of another stage than its folder suggests; or there is not
            enough for a scene.
    """
    several = [folders] if isinstance(folders, Path | str) else folders
    roots = [Path(folder).absolute() for folder in several]
    if not roots:
        raise ValueError("Give at least one folder of the official files.")
    for root in roots:
        if not root.is_dir():
            what = f"{root} is a file" if root.exists() else f"There is no folder {root}"
            raise ValueError(f"{what}: give the folder of the official files.")
    files = _Files(roots)
    opened = {folder: read_checkpoint(path) for folder, path in files.checkpoints.items()}
    for folder, checkpoint in list(opened.items()):
        if checkpoint.stage != RGB and files.cfgs.get(folder, {}).get("feature_level") == 0:
            files.pooled.append(opened.pop(folder).path)
    name, runs = _runs(files, opened)
    lifted = bool(files.features or (files.latents and files.autoencoders))
    rgb = None
    if not runs:
        for folder, checkpoint in opened.items():
            if files.level_of(folder) is not None and not lifted:
                raise _of_another_stage(checkpoint.path, checkpoint.stage, LANGUAGE)
        name = (files.features or files.latents or roots)[0].parent.name if lifted else name
        rgbs = [files.newest(folder) for folder in opened] or list(files.clouds.values())
        rgb = files.choose("models without language", rgbs, name)
    of_cloud = {path: folder for folder, path in files.clouds.items()}
    models = [run.path.parent for run in runs.values()]
    if rgb is not None:
        models = [of_cloud.get(rgb, rgb.parent)]
    features = files.choose("folders of features", files.features, name)
    latents = files.choose("folders of coded features", files.latents, name)
    autoencoder = files.choose("autoencoders", files.autoencoders, name)
    colmap = files.choose("COLMAP models", _one_a_project(files.colmap), name)
    cameras_json = next((files.cameras[model] for model in models if model in files.cameras), None)
    settings = files.cfgs.get(models[0], {}) if models else {}
    found = Found(
        name=name or roots[0].name,
        runs={level: run.path for level, run in runs.items()},
        stage=next((run.stage for run in runs.values()), RGB),
        rgb=rgb,
        autoencoder=autoencoder,
        colmap=colmap,
        cameras_json=None if colmap else cameras_json,
        features=features,
        latents=latents,
        resolution=settings.get("resolution", -1),
        found=[],
        missed=list(files.notes),
    )
    _tell(found, files, runs)
    _check(found, files)
    _check_runs(list(runs.values()))
    return found


def _one_a_project(models: Sequence[Path]) -> list[Path]:
    """The first COLMAP model of each data folder (sparse/0 before sparse/1).

    Models in a folder "distorted" count only if there are no others.
    """
    plain = [path for path in models if "distorted" not in path.parts] or list(models)
    first: dict[Path, Path] = {}
    for path in sorted(plain):
        above = [parent for parent in path.parents if parent.name == "sparse"]
        first.setdefault(above[-1] if above else path, path)
    return list(first.values())


def _runs(files: _Files, opened: Mapping[Path, Checkpoint]) -> tuple[str, dict[int, Checkpoint]]:
    """The scene's name and its runs by level; ("", {}) if there are none.

    Raises:
        ValueError: there are several scenes, a level is unknown or there twice, or an RGB
            checkpoint lies where a level's should be.
    """
    cases: dict[Path, dict[int, Checkpoint]] = {}
    for folder, checkpoint in opened.items():
        if checkpoint.stage == RGB:
            continue
        level = files.level_of(folder)
        if level is None:
            raise ValueError(
                f"{files.short(checkpoint.path)} does not say which level it is of: put its "
                "cfg_args beside it, or let its folder's name end in _1 (subpart), _2 (part) or "
                "_3 (whole)."
            )
        suffix = SUFFIX.fullmatch(folder.name)
        base = suffix[1] if suffix and int(suffix[2]) == level + 1 else folder.name
        case = cases.setdefault(folder.parent / base, {})
        if level in case:
            raise ValueError(
                f"{files.short(case[level].path)} and {files.short(checkpoint.path)} are both of "
                f"level {level + 1} ({LEVELS[level]}): give the folders of one of them only."
            )
        case[level] = checkpoint
    # Runs in folders of any name are one scene if no level occurs twice; `_check_runs` compares
    # their Gaussians.
    merged = {level: run for case in cases.values() for level, run in case.items()}
    if len(merged) < sum(len(case) for case in cases.values()):
        listed = ", ".join(files.short(case) for case in list(cases)[:4])
        raise ValueError(
            f"There are the runs of {len(cases)} scenes ({listed} ...): give the folders of one."
        )
    if not merged:
        return "", {}
    base = next(iter(cases))
    for folder, checkpoint in opened.items():
        level = files.level_of(folder)
        beside = SUFFIX.sub(r"\1", folder.name) == base.name
        if checkpoint.stage == RGB and level is not None and level not in merged and beside:
            raise _of_another_stage(checkpoint.path, RGB, next(iter(merged.values())).stage)
    return base.name, dict(sorted(merged.items()))


def _tell(found: Found, files: _Files, runs: Mapping[int, Checkpoint]) -> None:
    """Fill in `found.found` and `found.missed`, the lines for the user."""
    for level, name in enumerate(LEVELS):
        run = runs.get(level)
        if run is not None:
            found.found.append(
                f"level {level + 1} ({name}): {files.short(run.path)}, {run.stage} stage, "
                f"iteration {run.iteration:,}, {len(run):,} Gaussians"
            )
        elif runs:
            found.missed.append(f"level {level + 1} ({name}): queries will not answer at it")
    if not runs:
        found.missed.append("level runs: language is lifted from the features")
    for what, path in (
        ("model without language", found.rgb),
        ("autoencoder", found.autoencoder),
        ("COLMAP model", found.colmap),
        ("cameras", found.cameras_json),
        ("features", found.features),
        ("coded features", found.latents),
    ):
        if path is not None:
            found.found.append(f"{what}: {files.short(path)}")
    if found.colmap is None:
        found.missed.append("COLMAP model: cameras.json is used instead")
    found.missed += files.not_read


def _check(found: Found, files: _Files) -> None:
    """Raise ValueError, listing what was found, unless that is enough for a scene."""
    have = f" Found: {'; '.join(found.found)}." if found.found else ""
    have += "".join(f" {line}." for line in files.not_read)
    if not found.runs and found.rgb is None:
        raise ValueError(
            "There is no checkpoint (chkpntNNNNN.pth) and no point_cloud.ply: give the model "
            f"folders that train.py wrote, output/<case>_1, _2 and _3.{have}"
        )
    if not found.runs and found.features is None and found.latents is None:
        raise ValueError(
            f"{found.rgb} is of the RGB stage and there is nothing of the language stage: add the "
            "level runs output/<case>_1, _2 and _3, or the data folder with language_features."
            + have
        )
    if found.cameras_json is None and found.colmap is None:
        raise ValueError(
            "There are no cameras: add the data folder with sparse/0, or the cameras.json of the "
            f"model folder.{have}"
        )
    coded = found.stage == LANGUAGE or (not found.runs and found.features is None)
    if found.autoencoder is None and coded:
        raise ValueError(
            "There is no autoencoder, without which the 3-number codes mean nothing: add the "
            f"folder with its best_ckpt.pth (autoencoder/ckpt/<name>).{have}"
        )


def _check_runs(runs: Sequence[Checkpoint]) -> None:
    """Raise ValueError unless the runs are of one training."""
    if len({run.stage for run in runs}) > 1:
        raise ValueError(
            "The level runs are of different stages (LangSplat and LangSplatV2): give the folders "
            "of one of them only."
        )
    for run in runs[1:]:
        if not _same_gaussians(runs[0], run):
            raise ValueError(
                f"The Gaussians of {run.path} ({len(run):,}) are not those of {runs[0].path} "
                f"({len(runs[0]):,}): give level runs that started from the same RGB checkpoint."
            )


def _same_gaussians(a: Checkpoint, b: Checkpoint) -> bool:
    # Compared as bits, so that a NaN equals itself.
    return a.means.shape == b.means.shape and torch.equal(
        a.means.float().view(torch.int32), b.means.float().view(torch.int32)
    )


# ---------------------------------------------------------------------------- importing


def import_official(
    found: Found,
    out: Path | str,
    *,
    name: str = "",
    encoder: str = ENCODER,
    progress: Progress = silent,
) -> Path:
    """Make one scene from what `find_official` found.

    Args:
        out: the scene's folder; new, empty, or an older scene, which is replaced.
        name: of the scene; empty takes the runs' name.
        encoder: the one that made the features, as `load_encoder` takes it; the official code
            uses only the default. Its weights are not needed.
        progress: "Read the model", "Lift language" (if there are no runs), "Save the scene".
    Returns:
        The scene's folder.
    Raises:
        ValueError: the parts do not fit each other, or cannot be read; there is no such encoder.
    """
    out = Path(out)
    check_destination(out)
    encoder, dim = _named(encoder)
    progress("Read the model", 0, 1, "")
    cameras, points = _cameras(found)
    notes: list[str] = []
    gaussians, language = _model(found, encoder, notes)
    progress("Read the model", 1, 1, "")
    if language is None:
        language = _lifted(found, gaussians, cameras, encoder, dim, notes, progress)
    _check_size(encoder, dim, language.codec.dim)
    if len(points) == 0:
        points = gaussians.means[:: max(1, len(gaussians) // 10_000)].numpy()
    center, up, radius = world_frame(cameras, points)
    start = central_view(cameras)
    scene = Scene(
        gaussians=gaussians,
        cameras=cameras,
        up=up,
        center=center,
        radius=radius,
        language=language,
        name=name or found.name,
        provenance={
            "langsplat": langsplat.__version__,
            "imported": {"found": found.found, "missed": found.missed},
            "notes": notes,
            "start_view": start,
        },
    )
    progress(SAVING, 0, 1, "")
    view = cameras[start]
    preview = jpeg(render_rgb(scene, view.resized(min(view.width, PREVIEW_WIDTH))))
    save_scene(scene, out, preview=preview, card=scene_card(scene))
    progress(SAVING, 1, 1, " ".join(notes))
    return out


def _cameras(found: Found) -> tuple[tuple[Camera, ...], NDArray[np.float64]]:
    points = np.zeros((0, 3))
    if found.colmap is not None:
        cameras, points = colmap_cameras(found.colmap, resolution=found.resolution)
    else:
        assert found.cameras_json is not None
        cameras = read_cameras(found.cameras_json, resolution=found.resolution)
    if not cameras:
        raise ValueError(
            f"{found.colmap or found.cameras_json} lists no camera: give the data the model was "
            "trained on."
        )
    return cameras, points


def _model(found: Found, encoder: str, notes: list[str]) -> tuple[Gaussians, LanguageField | None]:
    """The usable Gaussians, and the language of the runs if there are any.

    The checkpoints are open only in this function: mapped pages count as memory.
    """
    runs = {level: read_checkpoint(path) for level, path in found.runs.items()}
    if runs:
        gaussians = next(iter(runs.values())).gaussians()
    else:
        assert found.rgb is not None
        cloud = found.rgb.suffix == ".ply"
        gaussians = read_ply(found.rgb) if cloud else read_checkpoint(found.rgb).gaussians()
    keep = usable(gaussians)
    if not bool(keep.all()):
        notes.append(
            f"{int((~keep).sum()):,} of {len(keep):,} Gaussians have values that are not finite, "
            "or too large, and were left out."
        )
        gaussians = gaussians.select(keep)
    if len(gaussians) == 0:
        raise ValueError(
            f"No Gaussian of {found.name} has finite values: use an earlier checkpoint, or train "
            "again."
        )
    if not runs:
        return gaussians, None
    if found.stage == SPARSE:
        return gaussians, _sparse_field(runs, keep, encoder)
    assert found.autoencoder is not None
    return gaussians, _latent_field(runs, keep, read_autoencoder(found.autoencoder), encoder)


def _latent_field(
    runs: Mapping[int, Checkpoint], keep: Tensor, codec: Autoencoder, encoder: str
) -> LanguageField:
    """LangSplat's field: latents, which are blended with unit length."""
    n = int(keep.sum())
    codes, mass = torch.zeros(len(LEVELS), n, codec.latent), torch.zeros(len(LEVELS), n)
    for level, run in runs.items():
        assert run.language is not None
        if run.language.shape[1] != codec.latent:
            raise ValueError(
                f"{run.path} has codes of {run.language.shape[1]} numbers but the autoencoder "
                f"decodes {codec.latent}: give the autoencoder that the run was trained with."
            )
        latents = run.language[keep].float()
        # Training starts them at zero, and only views that see the Gaussian move them.
        mass[level] = (latents != 0).any(dim=1)
        codes[level] = F.normalize(latents, dim=1)
    return LanguageField(None, codes, mass, codec, encoder)


def _sparse_field(runs: Mapping[int, Checkpoint], keep: Tensor, encoder: str) -> LanguageField:
    """LangSplatV2's field: each level has codebooks, and a Gaussian the softmax of its top 4.

    A level's residual codebooks become one codebook here, since their codewords are simply added.
    """
    shapes = [run.codebooks.shape for run in runs.values() if run.codebooks is not None]
    sizes = {shape[2] for shape in shapes}
    if len(sizes) > 1:
        raise ValueError(
            f"The level runs have embeddings of different sizes ({sorted(sizes)}): give runs of "
            "one training."
        )
    n = int(keep.sum())
    size = max(layers * words for layers, words, _ in shapes)
    entries = max(layers * min(TOP, words) for layers, words, _ in shapes)
    codewords = torch.zeros(len(LEVELS), size, sizes.pop())
    rows = torch.zeros(len(LEVELS), n, entries, dtype=torch.int32)
    codes, mass = torch.zeros(len(LEVELS), n, entries), torch.zeros(len(LEVELS), n)
    for level, run in runs.items():
        assert run.codebooks is not None and run.logits is not None
        layers, words, _ = run.codebooks.shape
        codewords[level, : layers * words] = run.codebooks.flatten(0, 1)
        logits = run.logits[keep].float()
        # As with latents: zero until a view sees the Gaussian.
        mass[level] = (logits != 0).any(dim=1)
        for layer in range(layers):
            part = logits[:, layer * words : (layer + 1) * words]
            top, picked = part.topk(min(TOP, words), dim=1)
            at = slice(layer * top.shape[1], (layer + 1) * top.shape[1])
            # The softmax of the top logits is that of all of them, cut off and normalised again.
            codes[level, :, at] = top.softmax(dim=1) / layers
            rows[level, :, at] = picked + layer * words
    codes *= (mass > 0)[..., None]
    return LanguageField(rows, codes, mass, Codebook(codewords), encoder)


def _lifted(
    found: Found,
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    encoder: str,
    dim: int | None,
    notes: list[str],
    progress: Progress,
) -> LanguageField:
    """The field lifted from the features of the preprocessing, without any training."""
    folder = found.features or found.latents
    assert folder is not None
    coded = found.features is None
    codec = read_autoencoder(found.autoencoder) if coded and found.autoencoder else None
    seen = [camera for camera in cameras if (folder / f"{stem_of(camera.name)}_s.npy").is_file()]
    if not seen:
        raise ValueError(
            f"{folder} has no features of {cameras[0].name or 'the cameras'} ({len(cameras)} "
            "views): give the features of the same photos."
        )
    if (twice := repeated([stem_of(camera.name) for camera in seen])) is not None:
        raise ValueError(
            f"Two photos are called {twice!r} up to the first dot, so {folder} has the features of "
            "one of them only: rename them, and run COLMAP and LangSplat's preprocess.py again."
        )
    if len(seen) < len(cameras):
        notes.append(f"{len(cameras) - len(seen)} of {len(cameras)} views have no features.")
    views, small = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for camera in seen:
            size = (camera.width, camera.height)
            view = read_features(folder, stem_of(camera.name), size=size)
            shrunk = camera.resized(round(camera.width * min(1.0, LIFTING_SIDE / max(size))))
            segments = _nearest_labels(view.segments, (shrunk.width, shrunk.height))
            rows = [codec.decode(part) if codec else part for part in view.embeddings]
            views.append(SegmentFeatures(segments, rows))
            small.append(shrunk)
    told = [warning.message for warning in caught if warning.category is UserWarning]  # our own
    if told:
        notes.append(f"{told[0]} So it is in {len(told)} of {len(seen)} views.")
    for numbers in {rows.shape[1] for view in views for rows in view.embeddings if len(rows)}:
        _check_size(encoder, dim, numbers)  # before lifting, which takes a while
    field = fit_language(gaussians, small, views, encoder, progress=progress)
    notes += level_notes(field)
    return field


def _named(encoder: str) -> tuple[str, int | None]:
    """The encoder's name as scenes store it, and the size of its embeddings if that is known."""
    if encoder.partition(":")[0] == "bundled":
        bundled = load_encoder(encoder)
        return bundled.name, bundled.dim
    check_spec(encoder)
    return encoder, ENCODER_DIM if encoder == ENCODER else None


def _check_size(encoder: str, dim: int | None, found: int) -> None:
    if dim is not None and found != dim:
        raise ValueError(
            f"The embeddings have {found} numbers, those of {encoder} have {dim}: say which "
            "encoder made them with --encoder (bundled, or open_clip:<model>/<tag>)."
        )


# ---------------------------------------------------------------------------- exporting


def export_official(scene: Scene, out: Path | str, *, progress: Progress = silent) -> Path:
    """Write a scene as the official code's files.

    `point_cloud/iteration_30000/point_cloud.ply`, `cameras.json` and `cfg_args` are a model folder
    of Inria's code. For a scene with language, `language_features/<stem>_{s,f}.npy` hold its
    embedding at each pixel of each of its views: the codeword that weighs most there, or the
    decoded latent; -1 where described Gaussians do not paint most of the pixel. These formats
    place the principal point in the middle of the picture, so the views are drawn that way. The
    scene's autoencoder, if it has one, becomes `autoencoder/best_ckpt.pth`.

    Args:
        out: a new or empty folder; it appears whole or not at all.
        progress: "Write features", one step per view.
    Raises:
        ValueError: `out` is in use, or two views' names are the same up to the first dot.
    """
    out = Path(out).resolve()  # if it is a link, what it leads to
    check_not_here(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "exists and is not empty" if out.is_dir() else "is a file"
        raise ValueError(f"{out} {what}: choose a new folder for the files.")
    stems = [stem_of(camera.name) or f"{index:05d}" for index, camera in enumerate(scene.cameras)]
    if (twice := repeated(stems)) is not None:
        raise ValueError(
            f"Two views are called {twice!r} up to the first dot, which is all the official code "
            "looks at: rename the photos and build the scene again."
        )
    with beside(out) as partial:
        write_ply(scene.gaussians, partial / "point_cloud/iteration_30000/point_cloud.ply")
        _write_cameras(scene.cameras, stems, partial / "cameras.json")
        settings = "sh_degree=3, source_path='', model_path='', images='images', resolution=1"
        (partial / "cfg_args").write_text(
            f"Namespace({settings}, white_background=False, data_device='cpu', eval=False)"
        )
        if scene.language is not None and isinstance(scene.language.codec, Autoencoder):
            (partial / "autoencoder").mkdir()
            layers = {name: t.cpu() for name, t in scene.language.codec.tensors().items()}
            torch.save(layers, partial / "autoencoder/best_ckpt.pth")
        if scene.language is not None:
            for index, (stem, camera) in enumerate(zip(stems, scene.cameras, strict=True)):
                write_features(partial / FEATURES[0], stem, _segments_of(scene, camera))
                progress("Write features", index + 1, len(stems), "")
        if out.exists():
            out.rmdir()
        os.rename(partial, out)
    return out


def _write_cameras(cameras: Sequence[Camera], stems: Sequence[str], path: Path) -> None:
    entries = []
    for index, (camera, stem) in enumerate(zip(cameras, stems, strict=True)):
        to_world = camera.camtoworld.double()
        entry = {
            "id": index,
            "img_name": stem,
            "width": camera.width,
            "height": camera.height,
            "position": to_world[:3, 3].tolist(),
            "rotation": to_world[:3, :3].tolist(),
            "fy": float(camera.K[1, 1]),
            "fx": float(camera.K[0, 0]),
        }
        entries.append(entry)
    path.write_text(json.dumps(entries))


def _segments_of(scene: Scene, camera: Camera) -> SegmentFeatures:
    """The field's embedding at each pixel of a view whose principal point is moved to the middle.

    Segments [L, H, W], -1 where nothing is described, and the embeddings of each level.
    """
    language = scene.language
    assert language is not None
    K = camera.K.clone()
    K[0, 2], K[1, 2] = camera.width / 2, camera.height / 2
    camera = replace(camera, K=K)
    codec, segments, embeddings = language.codec, [], []
    if isinstance(codec, Codebook):
        found = heaviest(scene.gaussians, camera, language, MIN_SUPPORT).long()
        for level, words in enumerate(found):
            present = words[words >= 0].unique()
            # The extra last entry is where -1 points to.
            numbers = torch.full((codec.size + 1,), -1, dtype=torch.int32, device=words.device)
            numbers[present] = torch.arange(len(present)).to(numbers)
            segments.append(numbers[words].cpu().numpy())
            rows = codec.codewords[level][present]
            embeddings.append(F.normalize(rows.float(), dim=1).cpu())
        return SegmentFeatures(np.stack(segments), embeddings)
    for level in range(len(language.levels)):
        described = (language.mass[level] > 0).float()[:, None]
        values = torch.cat([language.values(level), described], dim=1)
        image, _ = render(scene.gaussians, camera, values)
        seen = image[..., -1] >= MIN_SUPPORT
        # Latents vary smoothly: all in one cell of a lattice share an embedding.
        latents = F.normalize(image[..., :-1][seen], dim=1)  # [pixels, D]
        cells, ids = (latents / LATENT_STEP).round().unique(dim=0, return_inverse=True)
        sums = torch.zeros_like(cells).index_add_(0, ids, latents)
        labels = torch.full(seen.shape, -1, dtype=torch.int32, device=seen.device)
        labels[seen] = ids.int()
        segments.append(labels.cpu().numpy())
        embeddings.append(F.normalize(codec.decode(sums).float(), dim=1).cpu())
    return SegmentFeatures(np.stack(segments), embeddings)
