"""The files of the official LangSplat code, in and out.

In: its checkpoints of all three stages, the point clouds of Inria's code, cfg_args, cameras.json,
and the features of its preprocessing. `import_official` finds what a folder holds and makes one
scene of the three level runs; `export_official` writes what the official code reads.

    checkpoint = read_checkpoint("output/teatime_1/chkpnt30000.pth", stage="language")
    checkpoint.gaussians(), checkpoint.language  # N Gaussians, [N, D] latents
    features = read_features("teatime/language_features", "frame_00001")

A stranger's checkpoint is opened without running anything it asks for: tensors, containers and
numpy's scalars are let in, every other object is refused by name. Checkpoints and point clouds are
mapped, not read: only what is used comes into memory.

Letters: N Gaussians, L levels, D latent size, E embedding size, M segments, V codewords,
H W pixels.
"""

import ast
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from langsplat.capture import ply_vertices, read_colmap
from langsplat.features import SegmentFeatures
from langsplat.scene import LEVELS, Camera, Gaussians

INRIA_NEAR = 0.2  # the near plane Inria's rasterizer draws and trains with
SH_BASES = 16  # of Inria's models: degree 3
ENCODER = "open_clip:ViT-B-16/laion2b_s34b_b88k"  # whose embeddings the official files hold
RGB, LANGUAGE, SPARSE = "RGB", "language", "LangSplatV2"
# The number of elements is all that tells the stages' checkpoints apart.
STAGES: Mapping[int, str] = {12: RGB, 13: LANGUAGE, 14: SPARSE}
HOW: Mapping[str, str] = {
    RGB: "Inria's train.py with --checkpoint_iterations writes",
    LANGUAGE: "LangSplat's train.py with --start_checkpoint and --feature_level writes",
    SPARSE: "LangSplatV2's train.py with --feature_level writes",
}
TOP = 4  # codewords a Gaussian of LangSplatV2 keeps
MAX_CFG_BYTES = 1_000_000


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


def load_untrusted(path: Path | str, what: str = "checkpoint") -> Any:
    """What torch.save wrote: tensors, numbers and containers; mapped, on the CPU.

    Args:
        what: the file should be, for the error.
    Raises:
        ValueError: there is no such file, it is damaged, or it holds objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no {what} at {path}: check the path.")
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # torch's reader raises nearly anything for a damaged file
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(
                f"{path} holds more than numbers ({asked[1]}), which could run code, so it was "
                f"not opened: get the {what} from a source you trust, as the official code "
                "writes it."
            ) from None
        raise ValueError(
            f"{path} is not a readable {what}, it is damaged or incomplete: copy or download it "
            "again."
        ) from error


# ---------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A chkpntNNNNN.pth of any stage; its tensors stay in the file until they are used.

    Attributes:
        path: of the file.
        stage: "RGB" (12 elements), "language" (13) or "LangSplatV2" (14).
        iteration: of the training.
        language: [N, D], as trained (not unit length); only of the stage "language".
        logits: [N, layers x V] and
        codebooks: [layers, V, E]; only of the stage "LangSplatV2".
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
        raise ValueError(
            f"{path} is a checkpoint of the {found} stage ({len(params)} elements), but one of the "
            f"{stage} stage is needed: give the one that {HOW[stage]}."
        )
    degree, means, dc, rest, log_scales, quats, logit_opacities = params[:7]
    n = len(means) if isinstance(means, Tensor) else 0
    if not isinstance(degree, int) or not 0 <= degree <= 3:
        raise ValueError(f"{path} is damaged: its SH degree is {degree!r:.40}, not 0 to 3.")
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
        raise ValueError(f"{path} is damaged: it has too few harmonics for degree {degree}.")
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
                f"{list(codebooks.shape)}."
            )
    return Checkpoint(path, found, iteration, raw, language, logits, codebooks)


def _part(path: Path, name: str, value: Any, shape: Sequence[int | None]) -> Tensor:
    good = (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim == len(shape)
        and all(want is None or want == have for want, have in zip(shape, value.shape, strict=True))
    )
    if not good:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise ValueError(
            f"{path} is damaged: its {name} must be [{wanted}], got {got}: copy or download it "
            "again."
        )
    return value.detach()


def _finite(path: Path, features: Tensor) -> Tensor:
    bad = ~features.flatten(1).isfinite().all(dim=1)
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
    """Gaussians from what training stores; copies, so that the file can be closed."""
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
    """[N] bool: finite everywhere, with a rotation and a size."""
    g = gaussians
    # A sum is finite only if its terms are, and needs no [N, K, 3] of its own.
    total = g.means.sum(1) + g.scales.sum(1) + g.opacities + g.sh.sum((1, 2))
    return total.isfinite() & (g.quats.norm(dim=1) > 0.5) & (g.scales > 0).all(dim=1)


# ---------------------------------------------------------------------------- point clouds


def read_ply(path: Path | str) -> Gaussians:
    """A point_cloud.ply of Inria's code: N activated Gaussians, not all of which need be finite.

    Raises:
        ValueError: it is no PLY, it ends too early, or it has other properties.
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

    Lower degrees are filled up with zeros, because Inria's loader insists on 45 f_rest properties.
    """
    path = Path(path)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * (SH_BASES - 1))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    g = gaussians.to("cpu")
    try:
        with partial.open("wb") as file:
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
                    # 0 and 1 have no logit.
                    part.opacities.clamp(1e-6, 1 - 1e-6).logit()[:, None],
                    part.scales.log(),
                    F.normalize(part.quats, dim=1),
                ]
                file.write(torch.cat(columns, dim=1).float().numpy().astype("<f4").tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


# ---------------------------------------------------------------------------- cfg_args, cameras


def read_cfg_args(path: Path | str) -> dict[str, Any]:
    """The settings in a cfg_args, parsed and never evaluated; what is no plain value is left out.

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
    """The size of the pictures the official code trains on, from a photo's.

    Args:
        resolution: of cfg_args: 1, 2, 4 or 8 divide; another positive number is the width; -1
            keeps the height at or below 1080 pixels.
    """
    good = isinstance(resolution, int | float) and math.isfinite(resolution)
    if good and resolution in (1, 2, 4, 8):
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    scale = width / resolution if good and resolution > 0 else max(1.0, height / 1080)
    return max(1, int(width / scale)), max(1, int(height / scale))


def _pinhole(
    name: str, viewmat: NDArray[Any], fx: float, fy: float, size: tuple[int, int], photo: tuple
) -> Camera:
    """A camera as the official code has it: no distortion, its axis through the middle."""
    width, height = size
    K = [
        [fx * width / photo[0], 0.0, width / 2],
        [0.0, fy * height / photo[1], height / 2],
        [0.0, 0.0, 1.0],
    ]
    return Camera(torch.from_numpy(viewmat).float(), torch.tensor(K), width, height, name)


def colmap_cameras(
    folder: Path | str, *, resolution: Any = -1
) -> tuple[tuple[Camera, ...], NDArray[np.float32]]:
    """The cameras the official code sees in a COLMAP model, by name, and the points [P, 3].

    Only the field of view is kept: the official code trains without distortion and with the
    optical axis in the middle of the picture, so its Gaussians must be drawn that way.
    """
    poses, points, _ = read_colmap(Path(folder))
    cameras = [
        _pinhole(
            name,
            viewmat,
            lens.fx,
            lens.fy,
            trained_size(lens.width, lens.height, resolution),
            (lens.width, lens.height),
        )
        for name, lens, viewmat in poses
    ]
    return tuple(sorted(cameras, key=lambda camera: camera.name)), points


def read_cameras(path: Path | str, *, resolution: Any = -1) -> tuple[Camera, ...]:
    """The cameras of a cameras.json, by name.

    Raises:
        ValueError: it is not one, or a number in it is not finite.
    """
    path = Path(path)
    problem = ValueError(
        f"{path} is not a cameras.json of Inria's code: copy it again, or put the COLMAP model "
        "(sparse/0) beside it."
    )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        cameras = []
        for entry in entries:
            rotation = np.array(entry["rotation"], np.float64)  # camera to world
            position = np.array(entry["position"], np.float64)
            photo = int(entry["width"]), int(entry["height"])
            fx, fy = float(entry["fx"]), float(entry["fy"])
            viewmat = np.eye(4)
            viewmat[:3, :3] = rotation.T
            viewmat[:3, 3] = -rotation.T @ position
            turned = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2
            if not (turned and np.isfinite(viewmat).all() and 0 < fx < 1e9 and 0 < fy < 1e9):
                raise problem
            size = trained_size(*photo, resolution)
            cameras.append(_pinhole(str(entry["img_name"]), viewmat, fx, fy, size, photo))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise problem from error
    return tuple(sorted(cameras, key=lambda camera: camera.name))


# ---------------------------------------------------------------------------- features


def stem_of(name: str) -> str:
    """What the official code calls a photo's features: its name up to the first dot."""
    return Path(name).name.split(".")[0]


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
    maps, table = _array(maps_file), _array(rows_file)
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
    picked = _nearest(maps, size, maps_file)
    segments, embeddings = [], []
    for level in picked[1:]:
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


def _array(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: run LangSplat's preprocess.py on that photo, or give the folder "
            "that holds it."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"{path} is not a readable array of numbers: copy it or write it again."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{path} is not an array of numbers: write it again.")
    return array


def _nearest(maps: NDArray[Any], size: tuple[int, int] | None, path: Path) -> NDArray[Any]:
    height, width = maps.shape[1:]
    if size is None or size == (width, height):
        return maps
    warnings.warn(
        f"{path.name} is {width} x {height} but its picture is {size[0]} x {size[1]}: the nearest "
        "labels are taken.",
        stacklevel=3,
    )
    return _resized(maps, size)


def _resized(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest labels of maps [..., H, W] at (width, height)."""
    height, width = maps.shape[-2:]
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    return maps[..., rows[:, None], columns]


def write_features(folder: Path | str, stem: str, features: SegmentFeatures) -> None:
    """Write `<stem>_s.npy` float32 [4, H, W] and `<stem>_f.npy` float32 [M, E].

    Rows are numbered through all levels, as the official code wants them. The first channel, all
    masks pooled, is left empty (-1, no rows): nothing that trains on levels 1 to 3 reads it.
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
