"""Asking a scene: words in, relevancy, mask and selected Gaussians out.

Relevancy (LangSplat, arXiv 2312.16084, and LERF before it): with a unit feature f, a text q and the
negatives n_1..n_P, r = sigmoid(10 (f.q - max f.n)): 0.5 where the text fits as well as the best
negative. Two scores, never mixed: *pixel relevancy* blends features over a pixel and then scores;
*Gaussian relevancy* scores each Gaussian by itself.

With codewords S and the blended weights W(p) of a pixel, f(p) = W S / |W S|: the dot products are
renders of one number per Gaussian and |W S|² = Wᵀ (S Sᵀ) W does not depend on the text. So each
view keeps its norms and its best negative, and a new word costs one render of L channels.

With an autoencoder f(p) is decoded from the latents blended over a pixel, a part of the picture at
a time. Each view keeps its latents and its best negative; a new word decodes the latents again.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from langsplat.codec import Autoencoder, Codebook
from langsplat.encoders import Encoder
from langsplat.rasterize import render
from langsplat.scene import Camera, LanguageField, Scene

NEGATIVES = ("object", "things", "stuff", "texture")
SHARPNESS = 10.0
MAX_QUERY = 200  # characters
# The papers smooth with 29 pixels at 988 pixels of width.
SMOOTHING = 29 / 988
# A pixel answers only where described Gaussians paint most of it.
MIN_SUPPORT = 0.5
_KEPT_VIEWS = 16
_TEXTS_AT_ONCE = 8  # bounds the channels of one render


@dataclass(frozen=True, eq=False)
class Answer:
    """What a text found in a view.

    Attributes:
        text: the query as asked.
        level: the level that answered (subpart, part or whole).
        threshold: absolute, on the relevancy.
        relevancy: [H, W] float32 in [0, 1], the pixel relevancy of `level`, half smoothed.
        by_level: [L, H, W] the same for every level.
        gaussian_relevancy: [N] float32 in [0, 1], of `level`; 0 for Gaussians no view ever saw.
        seconds: it took.
    """

    text: str
    level: str
    threshold: float
    relevancy: np.ndarray
    by_level: np.ndarray
    gaussian_relevancy: np.ndarray
    seconds: float

    @property
    def mask(self) -> np.ndarray:
        """[H, W] bool: where the relevancy exceeds the threshold."""
        return self.relevancy > self.threshold

    @property
    def found(self) -> bool:
        return bool(self.mask.any())

    @property
    def score(self) -> float:
        """The highest pixel relevancy."""
        return float(self.relevancy.max())

    @property
    def peak(self) -> tuple[int, int]:
        """(x, y) of the pixel with the highest relevancy."""
        y, x = np.unravel_index(int(self.relevancy.argmax()), self.relevancy.shape)
        return int(x), int(y)

    @property
    def share(self) -> float:
        """Part of the picture the mask covers, 0 to 1."""
        return float(self.mask.mean())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) pixels around the mask, right and bottom exclusive."""
        mask = self.mask
        if not mask.any():
            return None
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def count(self) -> int:
        """How many Gaussians score above the threshold by themselves."""
        return int((self.gaussian_relevancy > self.threshold).sum())

    def sentence(self) -> str:
        """The answer in words."""
        if not self.found:
            return (
                f'Nothing here looks like "{self.text}": the best score in this view is '
                f"{self.score:.2f}, below the threshold of {self.threshold:.2f}."
            )
        left, top, right, bottom = self.box or (0, 0, 0, 0)
        return (
            f'"{self.text}": best score {self.score:.2f} at the {self.level} level; the mask '
            f"covers {100 * self.share:.1f} % of the picture, from ({left}, {top}) to "
            f"({right}, {bottom}); {self.count:,} Gaussians; {self.seconds:.2f} s."
        )

    def as_dict(self) -> dict[str, Any]:
        """Numbers and words for JSON; the maps are left out."""
        return {
            "text": self.text,
            "found": self.found,
            "score": round(self.score, 4),
            "level": self.level,
            "threshold": self.threshold,
            "share": round(self.share, 6),
            "box": self.box,
            "peak": self.peak,
            "gaussians": self.count,
            "relevancy": "pixel",
            "gaussians_by": "gaussian relevancy",
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, eq=False)
class _View:
    """What a view keeps between words."""

    kept: Tensor  # of a codebook the norms [H, W, L], of an autoencoder the latents [H, W, L, D]
    negatives: Tensor  # [H, W, L], highest cosine with a negative
    seen: Tensor  # [H, W, L] bool


class _CodebookScores:
    """Cosines of what Gaussians and pixels stand for, when codes weigh codewords."""

    def __init__(self, scene: Scene, field: LanguageField, negatives: Tensor) -> None:
        assert isinstance(field.codec, Codebook)
        self._gaussians, self._field, self._codec = scene.gaussians, field, field.codec
        self._negatives = self._codec.similarity(negatives)  # [L, V, P]
        self._norms = field.norms().clamp_min(1e-6)  # [L, N]
        self._gaussian_negatives = (field.score(self._negatives) / self._norms[..., None]).amax(2)

    def margins(self, level: int, texts: Tensor) -> Tensor:
        """[N, T], by how much each Gaussian is nearer to a text than to any negative."""
        dots = self._field.score(self._codec.similarity(texts))[level]
        return dots / self._norms[level][:, None] - self._gaussian_negatives[level][:, None]

    def cosines(self, view: _View, camera: Camera, texts: Tensor) -> Tensor:
        """[H, W, L, T], of the pixels: one render of L x T channels."""
        scores = self._field.score(self._codec.similarity(texts))  # [L, N, T]
        values = scores.transpose(0, 1).flatten(1).contiguous()
        dots, _ = render(self._gaussians, camera, values=values)
        return dots.unflatten(2, scores.shape[::2]) / view.kept[..., None]

    def view(self, camera: Camera) -> _View:
        """Norms and best negatives: one render of V channels a level."""
        gram = self._codec.gram()
        norms, negatives, seen = [], [], []
        for level in range(len(self._field.levels)):
            weights, _ = render(self._gaussians, camera, values=self._field.values(level))
            norm = torch.empty(weights.shape[:2], device=weights.device)
            best = torch.empty_like(norm)
            for row in range(0, camera.height, 64):  # bounds the temporaries of large pictures
                part = weights[row : row + 64]
                norm[row : row + 64] = ((part @ gram[level]) * part).sum(-1).clamp_min(0).sqrt()
                best[row : row + 64] = (part @ self._negatives[level]).amax(-1)
            # Codes sum to 1 where a Gaussian was ever described, so this is its share of the pixel.
            seen.append(weights.sum(-1) > MIN_SUPPORT)
            norms.append(norm.clamp_min(1e-6))
            negatives.append(best / norms[-1])
        return _View(torch.stack(norms, 2), torch.stack(negatives, 2), torch.stack(seen, 2))


class _LatentScores:
    """The same when codes are latents of an autoencoder."""

    def __init__(self, scene: Scene, field: LanguageField, negatives: Tensor) -> None:
        assert isinstance(field.codec, Autoencoder)
        self._gaussians, self._field, self._codec = scene.gaussians, field, field.codec
        self._negatives = negatives  # [P, E]
        self._gaussian_negatives: dict[int, Tensor] = {}  # level: [N]

    def margins(self, level: int, texts: Tensor) -> Tensor:
        latents = self._field.values(level)
        if level not in self._gaussian_negatives:
            self._gaussian_negatives[level] = self._codec.cosines(latents, self._negatives).amax(1)
        return self._codec.cosines(latents, texts) - self._gaussian_negatives[level][:, None]

    def cosines(self, view: _View, camera: Camera, texts: Tensor) -> Tensor:
        return self._decoded(view.kept, view.seen, texts)

    def view(self, camera: Camera) -> _View:
        """Latents and best negatives: one render of L (D + 1) channels."""
        levels = range(len(self._field.levels))
        values = [self._field.values(level) for level in levels]
        # What is rendered beside the latents is the described Gaussians' share of the pixel.
        described = (self._field.mass.T > 0).float()
        image, _ = render(self._gaussians, camera, values=torch.cat([*values, described], 1))
        latents = image[..., : -len(levels)].unflatten(2, (len(levels), -1)).contiguous()
        seen = image[..., -len(levels) :] > MIN_SUPPORT
        return _View(latents, self._decoded(latents, seen, self._negatives).amax(3), seen)

    def _decoded(self, latents: Tensor, seen: Tensor, texts: Tensor) -> Tensor:
        """Cosines [H, W, L, T] of latents [H, W, L, D] where seen; 0 elsewhere."""
        out = torch.zeros(*seen.shape, len(texts), device=latents.device)
        out[seen] = self._codec.cosines(latents[seen], texts)
        return out


class SceneQuery:
    """A scene and its encoder, ready to be asked; safe under concurrent callers.

    Args:
        scene: with a language field.
        encoder: the one whose space the field lives in.
    Raises:
        ValueError: the scene has no language field, or it is another encoder's.
    """

    def __init__(self, scene: Scene, encoder: Encoder) -> None:
        if scene.language is None:
            raise ValueError(
                f"The scene {scene.name!r} has no language field: "
                "build one with `python -m langsplat build`."
            )
        if scene.language.encoder != encoder.name:
            raise ValueError(
                f"The scene {scene.name!r} was described with the encoder "
                f"{scene.language.encoder!r} and cannot be asked with {encoder.name!r}: "
                "load that encoder, or build the scene again."
            )
        self.scene = scene
        self.encoder = encoder
        self._field = scene.language
        latent = isinstance(self._field.codec, Autoencoder)
        self._scores = (_LatentScores if latent else _CodebookScores)(
            scene, self._field, self._texts(NEGATIVES)
        )
        self._views: OrderedDict[bytes, _View] = OrderedDict()
        self._lock = threading.Lock()

    def ask(
        self, text: str, camera: Camera, *, threshold: float = 0.5, level: str | None = None
    ) -> Answer:
        """Where in this view, and on which Gaussians, is `text`?

        Args:
            text: 1 to 200 characters.
            camera: the viewpoint.
            threshold: in [0, 1]; the mask is relevancy > threshold.
            level: subpart, part or whole; None takes the level with the highest score.
        Raises:
            ValueError: an empty or endless text, an unknown level, a threshold outside [0, 1].
        """
        began = time.perf_counter()
        text = check_text(text)
        if not 0 <= threshold <= 1:
            raise ValueError(f"The threshold must lie between 0 and 1, got {threshold}.")
        if level is not None and level not in self._field.levels:
            raise ValueError(f"The level must be one of {', '.join(self._field.levels)}.")
        texts = self._texts([text])
        by_level = half_smoothed(self._pixel_relevancy(texts, camera)[0])  # [L, H, W]
        best = by_level.flatten(1).amax(dim=1)
        chosen = int(best.argmax()) if level is None else self._field.levels.index(level)
        of_gaussians = self._gaussian_relevancy(texts, chosen)[0]
        return Answer(
            text=text,
            level=self._field.levels[chosen],
            threshold=threshold,
            relevancy=by_level[chosen].cpu().numpy(),
            by_level=by_level.cpu().numpy(),
            gaussian_relevancy=of_gaussians.cpu().numpy(),
            seconds=time.perf_counter() - began,
        )

    def render(self, camera: Camera) -> np.ndarray:
        """The picture from `camera`, uint8 [H, W, 3]."""
        return render_rgb(self.scene, camera)

    def relevancy(self, texts: Sequence[str], camera: Camera) -> Tensor:
        """The pixel relevancy of several texts in one view, as it is before any smoothing.

        Returns:
            [T, L, H, W] float32 in [0, 1]; 0 where described Gaussians paint less than half.
        """
        parts = self._texts(texts).split(_TEXTS_AT_ONCE)
        return torch.cat([self._pixel_relevancy(part, camera) for part in parts])

    def gaussian_relevancy(self, texts: Sequence[str]) -> Tensor:
        """Every Gaussian scored by itself, [T, L, N] float32 in [0, 1]; 0 where no view saw it."""
        embeddings = self._texts(texts)
        levels = range(len(self._field.levels))
        return torch.stack([self._gaussian_relevancy(embeddings, k) for k in levels], dim=1)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self.encoder.encode_texts(list(texts)).to(self._field.codes.device)

    def _pixel_relevancy(self, texts: Tensor, camera: Camera) -> Tensor:
        """Text embeddings [T, E] -> relevancy [T, L, H, W]."""
        camera = camera.to(self.scene.gaussians.device)
        view = self._view(camera)
        margin = self._scores.cosines(view, camera, texts) - view.negatives[..., None]
        relevancy = torch.sigmoid(SHARPNESS * margin) * view.seen[..., None]
        return relevancy.permute(3, 2, 0, 1)

    def _gaussian_relevancy(self, texts: Tensor, level: int) -> Tensor:
        """Text embeddings [T, E] -> relevancy [T, N] of one level."""
        relevancy = torch.sigmoid(SHARPNESS * self._scores.margins(level, texts))
        return (relevancy * (self._field.mass[level] > 0)[:, None]).T

    def _view(self, camera: Camera) -> _View:
        key = b"".join(
            [
                camera.viewmat.cpu().numpy().tobytes(),
                camera.K.cpu().numpy().tobytes(),
                f"{camera.width}x{camera.height}".encode(),
            ]
        )
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
                return self._views[key]
        view = self._scores.view(camera)
        with self._lock:
            self._views[key] = view
            while len(self._views) > _KEPT_VIEWS:
                self._views.popitem(last=False)
        return view


def check_text(text: str) -> str:
    """The query, trimmed; ValueError in words when there is nothing, or too much, to look for."""
    text = " ".join(text.split())
    if not text:
        raise ValueError("Type what to look for, for example the name of a thing you can see.")
    if len(text) > MAX_QUERY:
        raise ValueError(
            f"A query may have {MAX_QUERY} characters, this one has {len(text):,}: "
            "describe one thing in a few words."
        )
    return text


def half_smoothed(relevancy: Tensor) -> Tensor:
    """[L, H, W] averaged with its own box mean: single bright pixels do not win (spec of LERF-OVS).

    The box is the papers' 29 pixels at 988 pixels of width, scaled to this width; windows are cut
    at the border.
    """
    size = max(1, round(SMOOTHING * relevancy.shape[2] / 2) * 2 + 1)
    half, mean = size // 2, relevancy[None]
    # A box is a row of columns: two thin windows cost far less than one square one.
    mean = F.avg_pool2d(mean, (size, 1), 1, (half, 0), count_include_pad=False)
    mean = F.avg_pool2d(mean, (1, size), 1, (0, half), count_include_pad=False)[0]
    return 0.5 * (relevancy + mean)


def render_rgb(scene: Scene, camera: Camera) -> np.ndarray:
    """The picture of a scene from `camera`, uint8 [H, W, 3], on black."""
    image, _ = render(scene.gaussians, camera.to(scene.gaussians.device))
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


# Anchors of the Turbo colormap, dark blue over green to dark red, evenly spaced over [0, 1].
_TURBO = np.array(
    [
        (48, 18, 59), (65, 69, 171), (70, 117, 237), (57, 162, 252), (27, 207, 212),
        (36, 236, 166), (97, 252, 108), (164, 252, 59), (209, 232, 52), (243, 198, 58),
        (254, 155, 45), (243, 99, 21), (217, 56, 6), (177, 25, 1), (122, 4, 2),
    ],
    dtype=np.float32,
)  # fmt: skip


def heat(relevancy: np.ndarray) -> np.ndarray:
    """Relevancy [H, W] in [0, 1] as Turbo colors, uint8 [H, W, 3]."""
    position = np.clip(relevancy, 0, 1) * (len(_TURBO) - 1)
    anchors = np.arange(len(_TURBO))
    channels = [np.interp(position, anchors, _TURBO[:, channel]) for channel in range(3)]
    return (np.stack(channels, axis=2) + 0.5).astype(np.uint8)


def overlay(rgb: np.ndarray, relevancy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, quietened, with the relevancy in color over it and the mask outlined.

    Args:
        rgb: uint8 [H, W, 3]. relevancy: [H, W] in [0, 1]. mask: [H, W] bool.
    Returns:
        uint8 [H, W, 3].
    """
    base = rgb.astype(np.float32)
    grey = base.mean(axis=2, keepdims=True)
    quiet = 0.45 * (0.35 * base + 0.65 * grey)
    strength = np.clip((relevancy - 0.25) / 0.4, 0, 1)[..., None] * 0.65
    out = (
        np.where(mask[..., None], base * 0.35, quiet * (1 - strength)) + heat(relevancy) * strength
    )
    out[_outline(mask)] = 255
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels just outside the mask."""
    padded = np.pad(mask, 1)
    grown = padded.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(padded, step, axis=axis)
    return grown[1:-1, 1:-1] & ~mask


def save_answer(answer: Answer, rgb: np.ndarray, folder: Path | str) -> list[Path]:
    """Write render.png, overlay.png, mask.png, relevancy.npz and result.json; the paths written.

    The mask is 255 inside and 0 outside. relevancy.npz holds `relevancy` [H, W] and
    `gaussian_relevancy` [N], both float32 and of the level that answered.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "render.png": rgb,
        "overlay.png": overlay(rgb, answer.relevancy, answer.mask),
        "mask.png": answer.mask.astype(np.uint8) * 255,
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)
    np.savez_compressed(
        folder / "relevancy.npz",
        relevancy=answer.relevancy,
        gaussian_relevancy=answer.gaussian_relevancy,
    )
    (folder / "result.json").write_text(
        json.dumps(answer.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [folder / name for name in (*pictures, "relevancy.npz", "result.json")]
