"""The nouns: Camera, Gaussians, LanguageField and Scene, and the file a scene is stored in.

Letters used everywhere: N Gaussians, C cameras, H W pixels, K spherical-harmonics bases, L levels
(subpart, part, whole), D code size, V codewords, E embedding size, M segments.

Conventions: world-to-camera matrices with OpenCV axes (x right, y down, z forward); pixel centres
at +0.5; quaternions wxyz; scales and opacities always *activated* (logs and logits exist only
inside training and at the PLY border). Pictures are RGB: numpy arrays [H, W, 3] of uint8 at the
borders, torch tensors of float32 inside.

A scene on disk is a folder, which is also what a Hub repository of a scene holds:

    scene.safetensors   tensors named by field path; everything else as JSON strings in its metadata
    preview.jpg         a picture of the scene
    README.md           the card

Opening a scene reads tensors and JSON only: it can never run code.
"""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike
from safetensors import SafetensorError, safe_open
from torch import Tensor

from langsplat import PREVIEW_FILE, SCENE_FILE
from langsplat.codec import Autoencoder, Codebook, Codec, codec_from
from langsplat.progress import write_tensors

LEVELS = ("subpart", "part", "whole")
FORMAT = "langsplat-scene"
FORMAT_VERSION = 1
# Phones take photos of 8192 x 6144. gsplat indexes with 31 bits, which is enough for this many
# pixels with 32 channels each, the most that it draws at once (_rasterize_gsplat.AT_ONCE).
MAX_IMAGE_PIXELS = 64_000_000
NEAR = 0.01  # the near plane, as gsplat's
# D of a codebook's codes: what a query needs first grows with D x D, and a damaged or hostile file
# must not ask for more.
MAX_CODE = 64
_MOST_EXAMPLES = 100
_PAIRS_AT_ONCE = 1 << 24  # of codewords; 67 MB


def as_tensor(values: ArrayLike, dtype: DTypeLike | None = None) -> Tensor:
    """Tensors as they are, arrays and lists as a copy.

    The caller may write the next values into the same array. Also, torch takes no negative strides
    and, if no dtype is given, no other byte order, and it warns of arrays that are read-only.
    """
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype))


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None], why: str = "") -> None:
    """Raise ValueError unless it is a tensor of this shape; None is any number."""
    if not isinstance(tensor, Tensor):
        raise ValueError(
            f"{name} must be a torch tensor, got {type(tensor).__name__}: convert it with "
            "torch.as_tensor(..., dtype=torch.float32)."
        )
    good = tensor.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not good:
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must be [{wanted}]{why}, got {list(tensor.shape)}.")


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: where it stands and how it maps the world to pixels.

    Args:
        viewmat: [4, 4] float32, world to camera, OpenCV axes.
        K: [3, 3] float32, in pixels; pixel centres at +0.5. Arrays (copied) and lists will do.
        width, height: of the picture, in pixels.
        name: the picture it came from, if any.
    """

    viewmat: Tensor
    K: Tensor
    width: int
    height: int
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("viewmat", "K"):
            given = as_tensor(getattr(self, name), np.float32)
            object.__setattr__(self, name, given.to(torch.float32))
        check_shape("viewmat", self.viewmat, (4, 4), " (world to camera)")
        check_shape("K", self.K, (3, 3), " (pixels)")
        if not (isinstance(self.width, Integral) and isinstance(self.height, Integral)):
            raise ValueError(
                f"width and height must be whole numbers, got {self.width} and {self.height}."
            )
        if self.width < 1 or self.height < 1 or self.width * self.height > MAX_IMAGE_PIXELS:
            raise ValueError(
                f"A picture must have between 1 and {MAX_IMAGE_PIXELS:,} pixels, "
                f"got {self.width} x {self.height}: choose another size."
            )
        object.__setattr__(self, "width", int(self.width))  # JSON takes no numpy integers
        object.__setattr__(self, "height", int(self.height))

    @property
    def camtoworld(self) -> Tensor:
        """[4, 4], camera to world."""
        rotation, translation = self.viewmat[:3, :3], self.viewmat[:3, 3]
        matrix = torch.eye(4, dtype=self.viewmat.dtype, device=self.viewmat.device)
        matrix[:3, :3] = rotation.T
        matrix[:3, 3] = -rotation.T @ translation
        return matrix

    @property
    def position(self) -> Tensor:
        """[3], the centre of projection in the world."""
        return self.camtoworld[:3, 3]

    def resized(self, width: int, height: int | None = None) -> "Camera":
        """The same view in another size; without a height the aspect ratio is kept."""
        if height is None:
            height = max(1, round(self.height * width / self.width))
        scale = torch.tensor([[width / self.width], [height / self.height], [1.0]])
        return replace(self, K=self.K * scale.to(self.K), width=width, height=height)

    def to(self, device: torch.device | str) -> "Camera":
        # Copies to a GPU are queued behind its other work; nothing waits for them here.
        later = torch.device(device).type == "cuda"
        viewmat, K = (t.to(device, non_blocking=later) for t in (self.viewmat, self.K))
        return replace(self, viewmat=viewmat, K=K)

    def detached(self) -> "Camera":
        """The same numbers, detached from any autograd graph."""
        return replace(self, viewmat=self.viewmat.detach(), K=self.K.detach())


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N activated 3D Gaussians.

    Args:
        means: [N, 3] world units.
        quats: [N, 4] wxyz, any non-zero length.
        scales: [N, 3] > 0, world units (standard deviations along the axes).
        opacities: [N] in [0, 1].
        sh: [N, K, 3], K = (degree + 1)^2, real spherical harmonics of the color; RGB is 0.5 plus
            their sum.
        near: Gaussians nearer to the camera than this, along the optical axis, are not drawn; world
            units, > 0. Models of Inria's code were trained with 0.2.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    near: float = NEAR

    def __post_init__(self) -> None:
        check_shape("means", self.means, (None, 3))
        n = len(self.means)
        as_means = f" with N = {n} as in means"
        check_shape("quats", self.quats, (n, 4), f" (wxyz){as_means}")
        check_shape("scales", self.scales, (n, 3), as_means)
        check_shape("opacities", self.opacities, (n,), as_means)
        check_shape("sh", self.sh, (n, None, 3), as_means)
        if math.isqrt(self.sh.shape[1]) ** 2 != self.sh.shape[1] or not 1 <= self.sh.shape[1] <= 16:
            raise ValueError(f"sh must have 1, 4, 9 or 16 bases, got {self.sh.shape[1]}.")
        if not (math.isfinite(self.near) and self.near > 0):
            raise ValueError(f"near must be a positive length, got {self.near}.")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        return math.isqrt(self.sh.shape[1]) - 1

    @property
    def device(self) -> torch.device:
        return self.means.device

    def to(self, device: torch.device | str) -> "Gaussians":
        return self._each(lambda tensor: tensor.to(device))

    def detached(self) -> "Gaussians":
        """The same numbers, detached from any autograd graph and usable in another."""
        return self._each(lambda t: t.clone() if t.is_inference() else t.detach())

    def select(self, mask: Tensor) -> "Gaussians":
        """The Gaussians where `mask` [N] bool (or an index tensor) says so."""
        return self._each(lambda tensor: tensor[mask])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Gaussians":
        return Gaussians(
            change(self.means),
            change(self.quats),
            change(self.scales),
            change(self.opacities),
            change(self.sh),
            self.near,
        )


@dataclass(frozen=True, eq=False)
class LanguageField:
    """What each Gaussian means at each level, as codes of a few numbers.

    With a Codebook, a Gaussian's code is D pairs of a codeword (`rows`) and its weight (`codes`);
    with an Autoencoder, it is a latent of D numbers (`codes`).

    Args:
        rows: [L, N, D] integer, the codeword that each weight belongs to; None for latents.
        codes: [L, N, D] float. With a codebook, weights >= 0 whose sum is 1 where mass > 0; with
            an autoencoder, latents of length 1 where mass > 0. D <= 64 with a codebook.
        mass: [L, N] float, the blending weight that supports the code; 0 = seen in no view.
        codec: turns codes into embeddings.
        encoder: name of the encoder whose space the embeddings live in.
    Raises:
        ValueError: the shapes do not fit each other or the codec.
    """

    rows: Tensor | None
    codes: Tensor
    mass: Tensor
    codec: Codec
    encoder: str

    def __post_init__(self) -> None:
        check_shape("codes", self.codes, (None, None, None))
        levels = self.codes.shape[0]
        if not 1 <= levels <= len(LEVELS):
            raise ValueError(f"A language field has 1 to {len(LEVELS)} levels, got {levels}.")
        check_shape("mass", self.mass, tuple(self.codes.shape[:2]), " like codes")
        if isinstance(self.codec, Autoencoder):
            if self.rows is not None:
                raise ValueError("Latents name no codewords: give rows=None with an autoencoder.")
            if self.codes.shape[2] != self.codec.latent:
                raise ValueError(
                    f"The codes have {self.codes.shape[2]} numbers but the autoencoder's latent "
                    f"has {self.codec.latent}: take the autoencoder that these codes were made "
                    "with."
                )
            return
        if self.rows is None:
            raise ValueError("A codebook's codes need rows, the codewords they weigh.")
        check_shape("rows", self.rows, (self.codec.levels, None, None))
        check_shape("codes", self.codes, tuple(self.rows.shape), " like rows")
        if self.codes.shape[2] > MAX_CODE:
            raise ValueError(
                f"A Gaussian's code weighs at most {MAX_CODE} codewords, these weigh "
                f"{self.codes.shape[2]}: build the scene again with fewer."
            )
        if self.rows.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
            raise ValueError(
                f"rows must be whole numbers, got {self.rows.dtype}: the scene's language field is "
                "damaged; build it again."
            )
        if self.rows.numel() and (
            int(self.rows.min()) < 0 or int(self.rows.max()) >= self.codec.size
        ):
            raise ValueError(
                f"rows must lie in [0, {self.codec.size}), got {int(self.rows.min())} to "
                f"{int(self.rows.max())}: the scene's language field is damaged; build it again."
            )
        if bool((self.codes < 0).any()):
            raise ValueError(
                f"Codewords' weights must not be negative, got {float(self.codes.min()):.3g}: the "
                "scene's language field is damaged; build it again."
            )

    def to(self, device: torch.device | str) -> "LanguageField":
        rows = None if self.rows is None else self.rows.to(device)
        codes, mass, codec = self.codes.to(device), self.mass.to(device), self.codec.to(device)
        return LanguageField(rows, codes, mass, codec, self.encoder)

    def select(self, mask: Tensor) -> "LanguageField":
        """The codes of the Gaussians where `mask` [N] bool (or an index tensor) says so."""
        rows = None if self.rows is None else self.rows[:, mask]
        return replace(self, rows=rows, codes=self.codes[:, mask], mass=self.mass[:, mask])

    @property
    def levels(self) -> tuple[str, ...]:
        return LEVELS[: self.codes.shape[0]]

    @property
    def described(self) -> tuple[str, ...]:
        """The levels at which some Gaussian was described, so that words can be found."""
        found = (self.mass > 0).any(dim=1).tolist()
        return tuple(name for name, some in zip(self.levels, found, strict=True) if some)

    def why_silent(self, level: str | None) -> str:
        """Why nothing can be found at `level`; empty if something can, or if it is not a level."""
        if level not in self.levels or level in self.described:
            return ""
        return (
            f"Nothing can be found at the level {level}, because no part of this scene was ever "
            f"described there: ask at another one ({', '.join(self.described) or 'there is none'})."
        )

    def values(self, level: int) -> Tensor:
        """The values [N, D'] float32 to render to get the blended codes of pixels.

        The weights of all codewords (D' = V), or the latents (D' = D); 0 for Gaussians that no
        view ever saw.
        """
        if self.rows is not None:
            return self.dense(level)
        return self.codes[level].float() * (self.mass[level] > 0)[:, None]

    def dense(self, level: int) -> Tensor:
        """The codes of one level as a full [N, V] float32 matrix of codeword weights."""
        rows, codec = self._sparse()
        weights = torch.zeros(rows.shape[1], codec.size, device=self.codes.device)
        return weights.scatter_add_(1, rows[level].long(), self.codes[level].float())

    def score(self, per_codeword: Tensor) -> Tensor:
        """Blend values of codewords [L, V, T] by the codes -> [L, N, T] float32."""
        rows, _ = self._sparse()
        out = []
        for level in range(len(rows)):
            picked = per_codeword[level][rows[level].long()]  # [N, D, T]
            out.append((picked * self.codes[level].float()[..., None]).sum(dim=1))
        return torch.stack(out)

    def _sparse(self) -> tuple[Tensor, Codebook]:
        if self.rows is None or not isinstance(self.codec, Codebook):
            raise ValueError("These codes are latents, not weights of codewords: decode them.")
        return self.rows, self.codec

    def norms(self) -> Tensor:
        """Length of every Gaussian's blended embedding, [L, N] float32."""
        all_rows, codec = self._sparse()
        gram = codec.gram()
        out = torch.empty(self.mass.shape, device=self.codes.device)
        at_once = max(1, _PAIRS_AT_ONCE // max(1, all_rows.shape[2] ** 2))
        for level, first in itertools.product(
            range(len(all_rows)), range(0, all_rows.shape[1], at_once)
        ):
            some = level, slice(first, first + at_once)
            rows, codes = all_rows[some].long(), self.codes[some].float()
            pairs = gram[level][rows[:, :, None], rows[:, None, :]]  # [N, D, D]
            out[some] = torch.einsum("nd,nde,ne->n", codes, pairs, codes).clamp_min(0).sqrt()
        return out


@dataclass(frozen=True, eq=False)
class Scene:
    """Gaussians, the cameras that saw them, how to orbit them, and what they mean.

    Args:
        gaussians, cameras: the scene and the views it was made from.
        up: [3] unit, the world's up, for the orbit camera.
        center: [3], the point to orbit around.
        radius: distance from `center` at which the cameras stand, in world units, > 0.
        language: None for a scene without words.
        name: short, for lists.
        provenance: how it was made, as JSON values: capture, settings, seconds, examples ...
    """

    gaussians: Gaussians
    cameras: tuple[Camera, ...]
    up: Tensor
    center: Tensor
    radius: float
    language: LanguageField | None = None
    name: str = "scene"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_shape("up", self.up, (3,))
        check_shape("center", self.center, (3,))
        if not bool(self.up.any()):
            raise ValueError("up must not be zero: langsplat.cameras.world_frame finds it.")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius must be a positive length, got {self.radius}.")
        if self.language is not None and self.language.mass.shape[1] != len(self.gaussians):
            raise ValueError(
                f"The language field describes {self.language.mass.shape[1]} Gaussians but the "
                f"scene has {len(self.gaussians)}: build the scene again."
            )

    def __repr__(self) -> str:
        words = f"encoder {self.language.encoder!r}" if self.language else "no words"
        count = f"{len(self.gaussians):,} Gaussians"
        return f"Scene({self.name!r}: {count}, cameras {len(self.cameras)}, {words})"

    def to(self, device: torch.device | str) -> "Scene":
        """The Gaussians and language on `device`; the cameras stay: they are read on the CPU."""
        language = None if self.language is None else self.language.to(device)
        return replace(self, gaussians=self.gaussians.to(device), language=language)

    @property
    def start_view(self) -> int:
        """Number of the view to open the scene at."""
        start = self.provenance.get("start_view", 0)
        return start if isinstance(start, int) and 0 <= start < len(self.cameras) else 0

    @property
    def examples(self) -> list[str]:
        """Example queries that came with the scene: at most 100, made safe as names are."""
        examples = self.provenance.get("examples", [])
        if not isinstance(examples, list):
            return []
        return [_printable(text) for text in examples[:_MOST_EXAMPLES] if isinstance(text, str)]


def save_scene(
    scene: Scene, folder: Path | str, *, preview: bytes | None = None, card: str | None = None
) -> Path:
    """Write `scene` as a folder; the folder appears whole or not at all.

    Means, scales and masses keep float32; quats, opacities, SH and codes are stored in float16.

    Args:
        folder: an earlier scene there is replaced; other content is never touched.
        preview: the bytes of preview.jpg.
        card: the text of README.md.
    Returns:
        The folder.
    Raises:
        ValueError: `folder` exists and holds something other than a scene; the scene has numbers
            that are not finite, or too large for half floats, or scales that are not positive.
        OSError: it cannot be written, for example because the disk is full. An earlier scene is
            kept.
    """
    folder = Path(folder).resolve()  # a link stays a link: its target is replaced
    check_destination(folder)
    tensors, metadata = _tensors_of(scene), _metadata_of(scene)
    try:
        _scene_of(tensors, metadata)
    except ValueError as error:  # a good scene must not be replaced by this
        raise ValueError(
            f"Once saved, the scene could not be opened again. {error} Or, if Gaussians "
            "are the reason, leave some out: langsplat.official.usable says which can be saved."
        ) from None
    with beside(folder) as partial:
        write_tensors(tensors, partial / SCENE_FILE, metadata)
        if preview is not None:
            (partial / PREVIEW_FILE).write_bytes(preview)
        if card is not None:
            (partial / "README.md").write_text(writable(card), encoding="utf-8")
        for file in partial.iterdir():  # safetensors makes its files private
            file.chmod(partial.stat().st_mode & 0o666)
        if folder.exists():
            retired = partial.with_name(partial.name + ".old")
            os.rename(folder, retired)
            try:
                os.rename(partial, folder)
            except BaseException:
                os.rename(retired, folder)
                raise
            shutil.rmtree(retired)
        else:
            os.rename(partial, folder)
    return folder


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new hidden folder beside `folder`, for the caller to rename; an error removes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
    partial.mkdir()  # with the usual permissions; tempfile's would be private
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_destination(folder: Path) -> None:
    """Raise ValueError unless a scene may be written to `folder`: new, empty, or an older scene.

    Its path must also be valid UTF-8: the libraries that read weights cannot open other files.
    """
    check_name(str(folder), "choose another folder")
    check_not_here(folder)
    if folder.is_dir():
        ours = (SCENE_FILE, PREVIEW_FILE, "README.md")
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
        if foreign:
            raise ValueError(
                f"{folder} holds other files ({foreign[0]} ...), which would be lost: "
                "choose a new folder for the scene."
            )
    elif folder.exists():
        raise ValueError(f"{folder} is a file: choose a new folder for the scene.")


def check_not_here(folder: Path) -> None:
    """Raise ValueError if `folder`, which will be replaced, is the current working folder."""
    if folder.resolve() == Path.cwd():
        raise ValueError(
            "The folder that you are in would be replaced: write to a folder of its own instead."
        )


def load_scene(path: Path | str) -> Scene:
    """Read a scene from its folder, or from the scene.safetensors in it.

    Raises:
        ValueError: there is none, or it is damaged, not a scene, of a newer version, or it may not
            be read.
    """
    path = Path(path)
    try:
        file = path / SCENE_FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"There is no scene at {path}: {SCENE_FILE} was not found.")
        file.open("rb").close()  # safetensors does not say why it cannot open a file
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not a LangSplat scene: build one with `python -m langsplat build`."
                )
            _check_version(path, metadata)
            # Copies: the file's own memory changes, or is gone, when the file is written anew, and
            # Windows replaces no file that is mapped.
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable scene: the file is damaged or incomplete. "
            "Copy or download it again."
        ) from error
    except OSError as error:
        raise ValueError(
            f"The scene at {path} cannot be read ({error.strerror or error}): check the "
            "permissions of its folder and file."
        ) from error
    try:
        return _scene_of(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"The scene at {path} cannot be used. {error}") from None
    except (LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"The scene at {path} lacks {error} or holds it in another form: build it again."
        ) from error


def _check_version(path: Path, metadata: Mapping[str, str]) -> None:
    text = metadata.get("format_version", "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{path} does not say which version of the scene format it has.")
    if int(text) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has scene format {int(text)}, newer than the {FORMAT_VERSION} this program "
            "reads: update langsplat."
        )


def _tensors_of(scene: Scene) -> dict[str, Tensor]:
    g = scene.gaussians
    tensors = {
        "gaussians.means": g.means.float(),
        "gaussians.quats": torch.nn.functional.normalize(g.quats.float(), dim=1).half(),
        "gaussians.scales": g.scales.float(),
        "gaussians.opacities": g.opacities.half(),
        "gaussians.sh": g.sh.half(),
        "up": scene.up.float(),
        "center": scene.center.float(),
    }
    if scene.cameras:
        tensors["cameras.viewmats"] = torch.stack([c.viewmat for c in scene.cameras]).float()
        tensors["cameras.Ks"] = torch.stack([c.K for c in scene.cameras]).float()
        sizes = [[c.width, c.height] for c in scene.cameras]
        tensors["cameras.sizes"] = torch.tensor(sizes, dtype=torch.int32)
    if scene.language is not None:
        language = scene.language
        if language.rows is not None:
            small = isinstance(language.codec, Codebook) and language.codec.size <= 256
            tensors["language.rows"] = language.rows.to(torch.uint8 if small else torch.int32)
        tensors["language.codes"] = language.codes.half()
        tensors["language.mass"] = language.mass.float()
        for name, tensor in language.codec.tensors().items():
            tensors[f"language.codec.{name}"] = tensor.float()
    # Copies, because safetensors refuses tensors that share memory.
    dense = torch.contiguous_format
    return {n: t.detach().cpu().clone(memory_format=dense) for n, t in tensors.items()}


def _metadata_of(scene: Scene) -> dict[str, str]:
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "name": writable(scene.name),
        "radius": repr(float(scene.radius)),
        "near": repr(float(scene.gaussians.near)),
        "cameras": json.dumps([camera.name for camera in scene.cameras]),
        "provenance": _json(scene.provenance),
    }
    if scene.language is not None:
        metadata["codec"] = scene.language.codec.kind
        metadata["encoder"] = scene.language.encoder
    return metadata


def _json(provenance: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(provenance))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The scene's provenance must be what JSON can hold: {error}.") from None


def _scene_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Scene:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has values that are not finite: build the scene again.")
    gaussians = Gaussians(
        **{
            name: tensors[f"gaussians.{name}"].float()
            for name in ("means", "quats", "scales", "opacities", "sh")
        },
        near=_read(metadata, "near", float, str(NEAR)),
    )
    if len(gaussians) and float(gaussians.scales.min()) <= 0:
        raise ValueError("Every scale must be a positive length: build the scene again.")
    provenance = _read(metadata, "provenance", json.loads, "{}")
    if not isinstance(provenance, dict):
        raise ValueError("Its provenance is not a JSON object: build the scene again.")
    language = None
    if "codec" in metadata:
        prefix = "language.codec."
        codec = codec_from(
            metadata["codec"],
            {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)},
        )
        codes = tensors["language.codes"]
        language = LanguageField(
            rows=tensors.get("language.rows"),
            # numpy has no bfloat16
            codes=codes.float() if codes.dtype == torch.bfloat16 else codes,
            mass=tensors["language.mass"],
            codec=codec,
            encoder=metadata["encoder"],
        )
    return Scene(
        gaussians=gaussians,
        cameras=_cameras_of(tensors, metadata),
        up=tensors["up"].float(),
        center=tensors["center"].float(),
        radius=_read(metadata, "radius", float),
        language=language,
        name=_printable(metadata.get("name", "scene")),
        provenance=provenance,
    )


def _read(
    metadata: Mapping[str, str], key: str, how: Callable[[str], Any], otherwise: str = ""
) -> Any:
    try:
        return how(metadata.get(key, otherwise))
    except (ValueError, RecursionError):
        raise ValueError(f"Its {key} cannot be read: copy or download it again.") from None


def _cameras_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[Camera, ...]:
    names = _read(metadata, "cameras", json.loads)
    if not names:
        return ()
    viewmats, Ks, sizes = (tensors[f"cameras.{name}"] for name in ("viewmats", "Ks", "sizes"))
    if not len(names) == len(viewmats) == len(Ks) == len(sizes) or sizes.shape[1:] != (2,):
        raise ValueError("Its cameras do not fit their names and sizes: copy or download it again.")
    return tuple(
        Camera(viewmat, K, int(size[0]), int(size[1]), _printable(str(name), 1000))
        for viewmat, K, size, name in zip(viewmats.float(), Ks.float(), sizes, names, strict=True)
    )


def writable(text: str) -> str:
    """`text` with "?" for what UTF-8 cannot encode, such as bytes of other encodings in names."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def check_name(name: str, remedy: str) -> None:
    """Raise ValueError, ending with `remedy`, if UTF-8 cannot encode the name of a file."""
    if name != writable(name):
        raise ValueError(f"{writable(name)} is not a name in UTF-8: {remedy}.")


def _printable(text: str, most: int = 200) -> str:
    """A stranger's name made safe for a list: one line, no control characters, at most `most`."""
    controls = ("Cc", "Cs", "Zl", "Zp")
    kept = (ch for ch in text if unicodedata.category(ch) not in controls)
    return "".join(itertools.islice(kept, most))
