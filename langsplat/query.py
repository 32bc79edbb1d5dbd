"""Asking a scene: words in, relevancy, mask and selected Gaussians out.

Relevancy (LangSplat, arXiv 2312.16084, and LERF before it): with a unit feature f, a text q and the
negatives n_1..n_P, r = sigmoid(10 (f.q - max f.n)): 0.5 where the text fits as well as the best
negative. Two scores, never mixed: *pixel relevancy* blends features over a pixel and then scores;
*Gaussian relevancy* scores each Gaussian by itself.

With codewords S and the blended weights W(p) of a pixel, f(p) = W S / |W S|: the dot products are
renders of one number per Gaussian, and |W S|² = Wᵀ (S Sᵀ) W does not depend on the text. So the
norms, the best negatives and the blending weights of each view are kept, and a new word costs one
sparse product: no embedding of a pixel is ever built.

On a GPU the blending weights are not kept but computed again: for each word in one render, and for
what all words share in one kernel.

With an autoencoder f(p) is decoded from the latent blended over a pixel. The paper's latents have
three numbers, so the decoder is tabulated once (`langsplat.codec.DecodeTable`). For each view the
pixels' places in the table and their best negatives are kept, and a new word costs one lookup per
pixel and level. Latents of other sizes, exact answers and published ones are decoded pixel by
pixel, a part of the picture at a time.

"The handle of the mug" names a part that other things have as well, and encoders mostly ignore the
order of words. So if the thing itself is found in the view, two rules apply: near it the part's own
word, "handle", counts as much as the whole text, and away from it only a high relevancy counts in
full. How near a pixel is, from 0 to 1, follows from the thing's highest relevancy in a box around
it; a Gaussian is as near as the pixel that its centre falls on, and outside of the picture only the
whole text counts.

The codecs share one interface to the engine: `_Scores` (`ask` texts, `rate` Gaussians, `view` from
a camera) and the `_View` it makes (`relevancy` of pixels, `nbytes`).
"""

import json
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from langsplat.codec import LONGEST, Autoencoder, Codebook, DecodeTable, codec_from, tabulate
from langsplat.encoders import Encoder, check_list
from langsplat.rasterize import RULES, blending_weights, drawable, look, render
from langsplat.scene import LEVELS, Camera, Gaussians, LanguageField, Scene, writable

if TYPE_CHECKING:
    from langsplat._codes_numba import BlendingWeights, Values
    from langsplat._rasterize_gsplat import Frame

NEGATIVES = ("object", "things", "stuff", "texture")
SHARPNESS = 10.0
MAX_QUERY = 200  # characters
# The papers smooth with 29 pixels at 988 pixels of width.
SMOOTHING = 29 / 988
# A pixel answers only where described Gaussians paint most of it.
MIN_SUPPORT = 0.5
_ANY_SUPPORT = -1.0
MAX_QUERY_PIXELS = 10_000_000  # of one view; about 2 GB while it is asked
KEPT_BYTES = 512_000_000  # of views, for each scene
_WORDS_AT_ONCE = 10  # bounds the memory of one product
_KEPT_TEXTS = 1000  # whose embeddings are kept
_WHICH = "(?:the|a|an|this|that|my) "
_PART_OF = re.compile(  # "a photo of a mug" names no part
    f"(?!(?:{_WHICH})?(?:photo|picture|image|kind|sort|type) of )"
    f"(?:{_WHICH})?(?P<part>.+) of {_WHICH}(?P<thing>.+)",
    re.IGNORECASE,
)
# Words that name nothing by themselves, for which encoders find half of a picture. None of them may
# name a thing in another language: "or" is not here because it is French for gold.
_FILLERS = frozenset("a an the of and in on to with my this that these those".split())
ELSEWHERE = 100  # if so many Gaussians are found, it may be out of sight; any text finds a few
NEARBY = 21 / 480  # of the view's width: the side of the box around a pixel
NEAR_ENOUGH = 0.8  # of the thing's best relevancy: if the box has this much, a part counts in full
SURE = 0.9  # with at least this relevancy a part counts in full anywhere

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a text found in a view.

    Attributes:
        text: the query as asked.
        level: the level that answered (subpart, part or whole).
        threshold: of the mask, an absolute relevancy.
        relevancy: [H, W] float32 in [0, 1], the pixel relevancy of `level`, half smoothed.
        by_level: [L, H, W], the same for every level.
        gaussian_relevancy: [N] float32 in [0, 1], of `level`; 0 for Gaussians no view ever saw.
        seconds: how long it took.
    """

    text: str
    level: str
    threshold: float
    relevancy: np.ndarray
    by_level: np.ndarray
    gaussian_relevancy: np.ndarray
    seconds: float

    def __repr__(self) -> str:
        return f"Answer({self.sentence()})"

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
        """The share of the picture that the mask covers, 0 to 1."""
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
        """How many Gaussians score above the threshold."""
        return int((self.gaussian_relevancy > self.threshold).sum())

    @property
    def absent(self) -> bool:
        """Whether it is found at no level, in the picture or out of sight."""
        return bool(self.count < ELSEWHERE and self.by_level.max() < min(self.threshold, 0.5))

    def sentence(self) -> str:
        """The answer in words."""
        sentence = self._what() if self.found else self._why_not()
        if re.search(r",|\band\b|^not\b", self.text, re.IGNORECASE):
            sentence += " Ask for one thing at a time: words are compared as a whole."
        return sentence

    def _what(self) -> str:
        share = f"{100 * self.share:.1f}" if self.share >= 0.001 else "less than 0.1"
        seconds = max(self.seconds, 0.01)  # 0.00 would look like a mistake
        return (
            f"Found “{self.text}”{self._where()} (score {self.score:.2f} of 1, level "
            f"{self.level}): {share} % of the picture, in {seconds:.2f} s."
        )

    def _where(self) -> str:
        """In words, in which ninth of the picture the best pixel is; empty if the mask is large."""
        if self.share > 0.25:
            return ""
        (height, width), (x, y) = self.relevancy.shape, self.peak
        side = (" left", "", " right")[3 * x // width]
        row = ("at the top", "", "at the bottom")[3 * y // height]
        return f" {row}{side}" if row else f" on the{side}" if side else " in the middle"

    def _why_not(self) -> str:
        """Why the mask is empty, and the remedy, if there is one."""
        score = math.floor(100 * self.score) / 100  # 0.4996 is below 0.50
        peaks = self.by_level.max(axis=(1, 2))
        best = int(peaks.argmax())
        if peaks[best] > self.threshold:  # so that the level was chosen
            return (
                f"Nothing here looks like “{self.text}” at the {self.level} level: its best score "
                f"in this view is {score:.2f}. At the {LEVELS[best]} level it is "
                f"{peaks[best]:.2f}: choose that one, or auto."
            )
        if score > 0.5:  # as well as plain words, or better
            return (
                f"Nothing here scores above the threshold of {self.threshold:.2f} for “{self.text}”"
                f": the best score in this view is {score:.2f}."
            )
        sentence = (
            f"Nothing here looks like “{self.text}”: the best score in this view is {score:.2f}, "
            f"below the threshold of {self.threshold:.2f}."
        )
        if self.count < ELSEWHERE:
            return sentence
        return (
            f"{sentence} Of the whole scene {self.count:,} Gaussians score above it by "
            "themselves: another view may show what they are."
        )

    def as_dict(self) -> dict[str, Any]:
        """The answer's numbers and words as JSON values, without its arrays."""
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


class _View(Protocol):
    """What is kept of a view between words."""

    @property
    def nbytes(self) -> int: ...

    def relevancy(self, asked: Any, out: Tensor) -> None:
        """Write the texts' pixel relevancy to `out` [T, L, H, W] float32; 0 without support."""


class _Scores(Protocol):
    """A codec's side of the engine."""

    def ask(self, texts: Tensor) -> Any:
        """Prepare text embeddings [T, E] once, for comparing Gaussians and pixels with them."""

    def rate(self, asked: Any, levels: Tensor) -> Tensor:
        """Gaussian relevancy [T, N] of the texts asked, each at its own level, of `levels` [T]."""

    def view(self, camera: Camera) -> _View:
        """What is kept of this view; the camera is on the scene's device."""


class _CodebookScores:
    """The scores on the CPU, for codes that weigh codewords.

    `ask` returns the dot products of texts with codewords and with Gaussians.
    """

    def __init__(
        self, gaussians: Gaussians, field: LanguageField, negatives: Tensor, support: float
    ) -> None:
        from langsplat._codes_numba import LANES, pack

        assert isinstance(field.codec, Codebook) and field.rows is not None
        self._gaussians, self._codec = gaussians, field.codec
        self._support = support
        similarity = self._codec.similarity(negatives)  # [L, V, P]
        compared = self._codec.gram().numpy(), similarity.numpy()
        self._packed = pack(field.rows.numpy(), field.codes.numpy(), *compared)
        inverse = _inverse_norms(field)
        best = field.score(similarity).amax(2) * inverse
        inverse, best = (F.pad(t, (0, -t.shape[1] % LANES)) for t in (inverse, best))
        self._inverse, self._best = inverse.numpy(), best.numpy()  # [L, N], padded to whole lanes

    def ask(self, texts: Tensor) -> "Values":
        return self._packed.score(self._codec.similarity(texts).numpy())

    def rate(self, asked: "Values", levels: Tensor) -> Tensor:
        from langsplat._codes_numba import rate

        return torch.from_numpy(rate(asked, levels.numpy(), self._inverse, self._best, SHARPNESS))

    def view(self, camera: Camera) -> _View:
        return _SparseView(*blending_weights(self._gaussians, camera, self._packed, self._support))


class _SparseView:
    """On the CPU: blending weights, norms and best negatives; a word takes one sparse product."""

    def __init__(self, weights: "BlendingWeights", inverse: np.ndarray, best: np.ndarray) -> None:
        self._weights, self._inverse, self._best = weights, inverse, best

    @property
    def nbytes(self) -> int:
        return self._weights.nbytes + self._inverse.nbytes + self._best.nbytes

    def relevancy(self, asked: "Values", out: Tensor) -> None:
        from langsplat._codes_numba import answer

        answer(self._weights, asked, self._inverse, self._best, SHARPNESS, out.numpy())


class _DrawnScores:
    """The same on a GPU, where the texts' dot products [N, L, T] are drawn like colors."""

    def __init__(
        self, gaussians: Gaussians, field: LanguageField, negatives: Tensor, support: float
    ) -> None:
        from langsplat._query_triton import halves, roots, score

        assert isinstance(field.codec, Codebook) and field.rows is not None
        self._gaussians, self._codec = drawable(gaussians), field.codec
        self._codes = field.rows.int(), field.codes
        dots = self.ask(negatives)
        self._inverse = _inverse_norms(field)  # [L, N]
        self._best = dots.amax(2).T * self._inverse
        # What all texts share in a view: lengths, the negatives, and the share of a pixel that
        # described Gaussians paint (from codeword values of 1, since their codes sum to 1).
        self._rows = score(*self._codes, roots(self._codec.gram()), half=True)
        ones = torch.ones_like(self._codec.codewords[..., :1])
        self._plain = halves(torch.cat([dots, score(*self._codes, ones)], dim=2).flatten(1))
        self._negatives, self._support = len(negatives), support

    def ask(self, texts: Tensor) -> Tensor:
        from langsplat._query_triton import score

        return score(*self._codes, self._codec.similarity(texts))

    def rate(self, asked: Tensor, levels: Tensor) -> Tensor:
        texts = torch.arange(len(levels), device=levels.device)  # with a range the GPU would wait
        dots, inverse = asked[:, levels, texts].T, self._inverse[levels]
        return torch.sigmoid(SHARPNESS * (dots * inverse - self._best[levels])) * (inverse > 0)

    def view(self, camera: Camera) -> _View:
        from langsplat._query_triton import VIEW_TILE, view

        frame = look(self._gaussians, camera, VIEW_TILE)
        drawn = self._rows, self._plain, self._negatives
        return _DrawnView(frame, *view(frame, *drawn, self._support, RULES))


class _DrawnView:
    """On a GPU: the view's frame, norms and best negatives; a word takes one render."""

    def __init__(self, frame: "Frame", inverse: Tensor, best: Tensor) -> None:
        self._frame, self._inverse, self._best = frame, inverse, best

    @property
    def nbytes(self) -> int:
        return self._frame.nbytes + self._inverse.nbytes + self._best.nbytes

    def relevancy(self, asked: Tensor, out: Tensor) -> None:
        from langsplat._query_triton import relevancy

        image, _ = self._frame.draw(asked.flatten(1)[None])  # [1, H, W, L T]
        relevancy(image[0], self._inverse, self._best, SHARPNESS, out)


def _inverse_norms(field: LanguageField) -> Tensor:
    """1 / length of each Gaussian's blended embedding [L, N]; 0 where no view saw it."""
    return (field.mass > 0) / field.norms().clamp_min(1e-6)


class _TableScores:
    """The same for latents of an autoencoder that are looked up in a table.

    What is kept of a pixel, or of a Gaussian, is its place in the table and its best negative.
    `ask` returns the texts' cosines at the corners of the table.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        field: LanguageField,
        negatives: Tensor,
        support: float,
        table: DecodeTable,
    ) -> None:
        place: Any
        placed: Any
        if field.codes.is_cuda:
            from langsplat._query_triton import place, placed

            self._corners: Callable[[Tensor], Any] = table.of_texts
        else:
            from langsplat._codes_numba import Table, place, placed

            self._corners = Table.of(table.rows, table.basis, table.side).score
        negative, levels = self._corners(negatives), len(field.levels)
        self._place = lambda image: place(image, negative, levels, support)
        self._placed = placed
        self._gaussians, self._values = gaussians, _shown_latents(field)
        self._of_gaussians = self._place(self._values[None])

    def ask(self, texts: Tensor) -> Any:
        return self._corners(texts)

    def rate(self, asked: Any, levels: Tensor) -> Tensor:
        out = _empty((len(levels), 1, 1, len(self._values)), self._values.device)
        places, best = self._of_gaussians
        for t, k in enumerate(levels.tolist()):
            own, at = slice(t, t + 1), slice(k, k + 1)
            self._placed(places[at], best[at], asked, SHARPNESS, out[own], t)
        return out[:, 0, 0]

    def view(self, camera: Camera) -> _View:
        image, _ = render(self._gaussians, camera, values=self._values)
        places, best = self._place(image)
        return _PlacedView(places, best, self._placed)


class _PlacedView:
    """Places in the table, and best negatives; a word takes one lookup per pixel and level."""

    def __init__(self, places: Tensor, best: Tensor, placed: Callable[..., None]) -> None:
        self._places, self._best, self._placed = places, best, placed

    @property
    def nbytes(self) -> int:
        return self._places.nbytes + self._best.nbytes

    def relevancy(self, asked: Any, out: Tensor) -> None:
        self._placed(self._places, self._best, asked, SHARPNESS, out)


def _shown_latents(field: LanguageField) -> Tensor:
    """What is rendered of each Gaussian, [N, L D + L].

    That is the latents of all levels, then for each level whether any view saw it, which becomes
    the share of a pixel that described Gaussians paint.
    """
    latents = [field.values(level) for level in range(len(field.levels))]
    return torch.cat([*latents, (field.mass.T > 0).float()], dim=1)


class _LatentScores:
    """The same for latents that are decoded, pixel by pixel and Gaussian by Gaussian."""

    def __init__(
        self,
        gaussians: Gaussians,
        field: LanguageField,
        negatives: Tensor,
        support: float,
        decoder: "Autoencoder | _AsBlended",
    ) -> None:
        self._gaussians, self._support, self._decoder = gaussians, support, decoder
        self._levels, self._values = len(field.levels), _shown_latents(field)
        self._negatives = negatives
        self._of_gaussians: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by level

    def ask(self, texts: Tensor) -> Tensor:
        return texts

    def rate(self, asked: Tensor, levels: Tensor) -> Tensor:
        out = _empty((len(asked), len(self._values)), self._values.device)
        level_of_text = levels.tolist()
        for level in set(level_of_text):
            latents, best, seen = self._of_level(level)
            texts = torch.tensor([t for t, k in enumerate(level_of_text) if k == level])
            margins = self._decoder.cosines(latents, asked[texts]).sub_(best[:, None])
            out[texts] = margins.mul_(SHARPNESS).sigmoid_().mul_(seen[:, None]).T
        return out

    def view(self, camera: Camera) -> _View:
        """Latents and best negatives, from one render of L (D + 1) channels."""
        image, _ = render(self._gaussians, camera, values=self._values)
        image = image.permute(2, 0, 1)
        latents = image[: -self._levels].unflatten(0, (self._levels, -1)).permute(0, 2, 3, 1)
        seen = image[-self._levels :] > self._support
        return _LatentView(latents, seen, self._decoder, self._negatives)

    def _of_level(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every Gaussian's latent, its best negative, and whether any view saw it: [N]."""
        if level not in self._of_gaussians:
            size = self._values.shape[1] // self._levels - 1
            latents = self._values[:, size * level : size * (level + 1)]
            best = self._decoder.cosines(latents, self._negatives).amax(1)
            seen = self._values[:, level - self._levels] > 0
            self._of_gaussians[level] = latents, best, seen
        return self._of_gaussians[level]


@dataclass(frozen=True)
class _AsBlended:
    """Decodes blended latents without normalising them, as the official evaluation does."""

    codec: Autoencoder

    def cosines(self, latents: Tensor, texts: Tensor) -> Tensor:
        return self.codec.cosines(latents, texts, unit=False)


class _LatentView:
    """Latents of the pixels [L, H, W, D], which are decoded again for each word."""

    def __init__(
        self, latents: Tensor, seen: Tensor, decoder: Autoencoder | _AsBlended, negatives: Tensor
    ) -> None:
        self._latents, self._seen, self._decoder = latents, seen, decoder
        # [L, H, W], the highest cosine with a negative.
        self._best = torch.zeros(seen.shape, device=seen.device)
        for level, (best, own) in enumerate(zip(self._best, seen, strict=True)):
            best[own] = self._cosines(level, negatives).amax(1)

    @property
    def nbytes(self) -> int:
        return self._latents.nbytes + self._seen.nbytes + self._best.nbytes

    def relevancy(self, asked: Tensor, out: Tensor) -> None:
        out.zero_()
        for level, (best, seen) in enumerate(zip(self._best, self._seen, strict=True)):
            margins = self._cosines(level, asked).sub_(best[seen][:, None])
            out[:, level, seen] = margins.mul_(SHARPNESS).sigmoid_().T

    def _cosines(self, level: int, asked: Tensor) -> Tensor:
        """Those of the pixels of which enough is seen, with each text."""
        return self._decoder.cosines(self._latents[level][self._seen[level]], asked)


class Recent(Generic[T]):
    """A thread-safe cache of the most recently used values.

    If several threads ask for the same value at once it is made only once, and making it blocks
    nobody who asks for another.

    Args:
        limit: on the sum of the sizes of the values kept; a larger value is made but not kept.
        size: of a value; by default 1, so that the limit is a number of values.
    """

    def __init__(self, limit: float, size: Callable[[T], float] = lambda made: 1) -> None:
        self._limit, self._size = limit, size
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value kept under `key`, or else what `make` returns; its errors are not kept."""
        with self._lock:
            known = self._made.get(key)
            if known is None:
                mine = self._made[key] = Future()
            self._made.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._made[key]
            mine.set_exception(error)
            raise
        mine.set_result(made)
        with self._lock:
            if self._size(made) > self._limit:
                self._made.pop(key, None)
                return made
            done = [(k, self._size(f.result())) for k, f in self._made.items() if f.done()]
            total = sum(size for _, size in done)
            for old, size in done:
                if total <= self._limit:
                    break
                del self._made[old]
                total -= size
        return made


class SceneQuery:
    """A scene and its encoder, ready to be asked; safe to call from several threads.

    Args:
        scene: with a language field; later changes to its tensors may not be noticed.
        encoder: the one that the scene was described with.
        kept_bytes: the most memory for views that are kept to answer new words quickly; the least
            recently asked are dropped first. A view that needs more by itself is not kept.
        exact: decode an autoencoder's latents pixel by pixel, instead of looking them up in a
            table, which keeps 99.9 % of the relevancies within 0.005 (`tabulate`).
        near_things: hold "the handle of the mug" to the mug (see above); False compares the text
            with features and nothing else, as the papers do.
        as_published: relevancies as the official evaluators compute them, for comparisons: every
            pixel answers, however little of it described Gaussians paint (where they paint nothing
            codewords give 0.5, an autoencoder what its decoder makes of zeros), and blended latents
            are decoded pixel by pixel, without normalisation.
    Raises:
        ValueError: the scene has no language field, or one that is damaged or of another encoder;
            the encoder does not make of texts what `Encoder` says.
    """

    def __init__(
        self,
        scene: Scene,
        encoder: Encoder,
        *,
        kept_bytes: int = KEPT_BYTES,
        exact: bool = False,
        near_things: bool = True,
        as_published: bool = False,
    ) -> None:
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
        if scene.language.codec.dim != encoder.dim:
            raise ValueError(
                f"The scene {scene.name!r} is damaged: its embeddings have "
                f"{scene.language.codec.dim} numbers, those of its encoder {encoder.name!r} "
                f"{encoder.dim}. Describe it again with `python -m langsplat describe`."
            )
        self.scene = scene
        self.encoder = encoder
        self.near_things, self.as_published = near_things, as_published
        self._drawn = replace(scene, gaussians=_still(scene.gaussians))
        field = scene.language
        # A Gaussian that no view ever saw means nothing, whatever its code is.
        codes = torch.where(field.mass[..., None] > 0, field.codes, 0).detach()
        if codes.dtype == torch.bfloat16:  # numpy has none
            codes = codes.float()
        weights = {name: tensor.detach() for name, tensor in field.codec.tensors().items()}
        codec = codec_from(field.codec.kind, weights)
        self._field = field = replace(field, codes=codes, codec=codec)
        self._embeddings: dict[str, Tensor] = {}
        negatives = self._texts(NEGATIVES)
        if not bool((negatives.float().norm(dim=1) < LONGEST).all()):  # never normalised, or NaN
            raise self._no_embeddings()
        support = _ANY_SUPPORT if as_published else MIN_SUPPORT
        given = self._drawn.gaussians, field, negatives, support
        self._scores: _Scores
        if isinstance(field.codec, Autoencoder):
            table = None if exact or as_published else tabulate(field.codec, codes[field.mass > 0])
            decoder = _AsBlended(field.codec) if as_published else field.codec
            self._scores = _TableScores(*given, table) if table else _LatentScores(*given, decoder)
        else:
            self._scores = (_DrawnScores if codes.is_cuda else _CodebookScores)(*given)
        self._views: Recent[_View] = Recent(kept_bytes, lambda view: view.nbytes)

    def ask(
        self, text: str, camera: Camera, *, threshold: float = 0.5, level: str | None = None
    ) -> Answer:
        """Find `text` in a view and on the Gaussians.

        Args:
            text: 1 to 200 characters.
            camera: the viewpoint.
            threshold: in [0, 1]; the mask is relevancy > threshold.
            level: subpart, part or whole; None takes the level with the highest score.
        Raises:
            ValueError: the text is empty, too long or names no thing, the level is unknown, the
                threshold is outside [0, 1], or the picture has more than 10 million pixels.
        """
        return self.ask_all([check_text(text)], camera, threshold=threshold, level=level)[0]

    def ask_all(
        self,
        texts: Iterable[str],
        camera: Camera,
        *,
        threshold: float = 0.5,
        level: str | None = None,
    ) -> list[Answer]:
        """The answers of `ask` to several texts, at less cost than one by one.

        The `seconds` of each answer are for all of them together.

        Raises:
            ValueError: as `ask` does.
        """
        began = time.perf_counter()
        texts, threshold = [check_text(text) for text in check_list(texts)], float(threshold)
        check_mask(threshold, level, self._field.levels)
        found: list[tuple[str, int, np.ndarray, np.ndarray]] = []
        view = self._view(camera)
        for some in self._few(texts):
            maps = self._maps(len(some), camera)
            of_words, asked, parts = self._score(some, view, camera, maps)
            peaks = _half_smooth(maps.view(-1, *maps.shape[2:]))
            levels = peaks.view(maps.shape[:2]).argmax(dim=1)
            if level is not None:
                levels.fill_(self._field.levels.index(level))
            if len(of_words) == len(some):
                of_gaussians = self._scores.rate(asked, levels)
            else:
                of_gaussians = self._scores.rate(asked, levels[of_words])
                self._hold_gaussians(of_gaussians, parts, camera)
                of_gaussians = of_gaussians[: len(some)].clone()  # without those of other words
            found += zip(some, *_on_host(levels, maps, of_gaussians), strict=True)
        seconds = time.perf_counter() - began
        return [
            Answer(text, self._field.levels[k], threshold, maps[k], maps, scores, seconds)
            for text, k, maps, scores in found
        ]

    def warm_up(self, camera: Camera) -> None:
        """Do what is done only once, mostly compiling, so that the first answer is not slow."""
        self.ask(NEGATIVES[0], camera.resized(40))

    def render(self, camera: Camera) -> np.ndarray:
        """The picture from `camera`, uint8 [H, W, 3]."""
        return render_rgb(self._drawn, camera)

    def relevancy(self, texts: Iterable[str], camera: Camera) -> Tensor:
        """The pixel relevancy of several texts in one view, without smoothing.

        Returns:
            [T, L, H, W] float32 in [0, 1]; 0 where described Gaussians paint less than half (but
            see `as_published`).
        Raises:
            ValueError: a string in place of a list, or an item that is not a text; a picture of
                more than 10 million pixels.
        """
        texts = check_list(texts)
        view, out = self._view(camera), self._maps(len(texts), camera)
        done = 0
        for some in self._few(texts):
            self._score(some, view, camera, out[done : done + len(some)])
            done += len(some)
        return out

    def _see(self, view: _View, asked: Any, out: Tensor) -> Tensor:
        """Write to `out` [T, L, H, W] the pixel relevancy of the texts asked, and return it."""
        view.relevancy(asked, out)
        # No sigmoid is 0, so 0 means that nothing is drawn: there all texts fit equally.
        if self.as_published:
            out[out == 0] = 0.5
        return out

    def gaussian_relevancy(self, texts: Iterable[str]) -> Tensor:
        """The Gaussian relevancy, [T, L, N] float32 in [0, 1]; 0 for those no view ever saw."""
        texts, device = check_list(texts), self._field.codes.device
        out = _empty((len(texts), *self._field.mass.shape), device)
        for start in range(0, len(texts), _WORDS_AT_ONCE):
            some = texts[start : start + _WORDS_AT_ONCE]
            asked = self._scores.ask(self._texts(some))
            for level in range(len(self._field.levels)):
                levels = torch.full((len(some),), level, device=device)
                out[start : start + len(some), level] = self._scores.rate(asked, levels)
        return out

    def _score(
        self, texts: Sequence[str], view: _View, camera: Camera, out: Tensor
    ) -> tuple[list[int], Any, list[tuple[int, int, Tensor]]]:
        """Write to `out` [T, L, H, W] the pixel relevancy of a few texts, held to their things.

        Returns:
            The words that were asked, each as the number of the text that they are of: the texts
            themselves, then words for parts and things. What `_Scores.ask` made of them. And for
            each part of a thing that is found: the numbers of its text and of its own word, and
            how near to the thing every pixel is, [H, W] up to 1.
        """
        named = [(k, self._part_of(text)) for k, text in enumerate(texts)]
        held = [(k, *found) for k, found in named if found]
        things = list(dict.fromkeys(thing for _, _, thing in held))
        # All at once, which takes little longer than one text.
        words = [*texts, *(part for _, part, _ in held), *things]
        asked = self._scores.ask(self._texts(words))
        if not held:
            self._see(view, asked, out)
            return list(range(len(texts))), asked, []
        maps = self._see(view, asked, self._maps(len(words), camera))
        near = {}
        for thing, found in zip(things, maps[-len(things) :], strict=True):
            near[thing] = _near(found, camera)
        parts = []
        for p, (k, _, thing) in enumerate(held, len(texts)):
            around = near[thing]
            if around is not None:
                _hold(maps[k], maps[p], around)
                parts.append((k, p, around))
        out.copy_(maps[: len(texts)])
        return [*range(len(texts)), *(k for k, _, _ in held), *(0 for _ in things)], asked, parts

    def _hold_gaussians(
        self, scores: Tensor, parts: Sequence[tuple[int, int, Tensor]], camera: Camera
    ) -> None:
        """`_hold` for scores of Gaussians [.., N] in place, those inside of the picture."""
        gaussians, camera = self._drawn.gaussians, camera.detached().to(scores.device)
        if not scores.is_cuda:
            from langsplat._codes_numba import hold_inside

            world = gaussians.means, camera.viewmat, camera.K, gaussians.near
            for k, p, around in parts:
                hold_inside(scores[k].numpy(), scores[p].numpy(), around.numpy(), SURE, *world)
            return
        points = gaussians.means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        across, down, depth = (points @ camera.K.T).unbind(1)
        x, y = across / depth, down / depth
        within = (depth > gaussians.near) & (0 <= x) & (x < camera.width)
        rows = (within & (0 <= y) & (y < camera.height)).nonzero()[:, 0]
        pixels = y[rows].long() * camera.width + x[rows].long()
        for k, p, around in parts:
            own = scores[k, rows]
            _hold(own, scores[p, rows], around.flatten()[pixels])
            scores[k, rows] = own

    def _part_of(self, text: str) -> tuple[str, str] | None:
        return part_of(text) if self.near_things else None

    def _few(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """A few texts at a time, by the words that are asked for them."""
        some: list[str] = []
        count = 0
        for text in texts:
            words = 3 if self._part_of(text) else 1
            if count + words > _WORDS_AT_ONCE:
                yield some
                some, count = [], 0
            some.append(text)
            count += words
        if some:
            yield some

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [T, E], kept because the same words are asked in view after view."""
        known = self._embeddings  # replaced, never changed: other threads may be reading it
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            on = self._field.codes.device
            rows = self.encoder.encode_texts(new)
            if not isinstance(rows, Tensor) or rows.shape != (len(new), self.encoder.dim):
                raise self._no_embeddings()
            rows = rows.detach().to(on, non_blocking=on.type == "cuda")
            fresh = dict(zip(new, rows, strict=True))
            known = known | fresh
            self._embeddings = fresh if len(known) > _KEPT_TEXTS else known
        return torch.stack([known[text] for text in texts])

    def _no_embeddings(self) -> ValueError:
        return ValueError(
            f"The encoder {self.encoder.name!r} must make of T texts a tensor [T, "
            f"{self.encoder.dim}] of vectors of length 1: correct its encode_texts."
        )

    def _maps(self, texts: int, camera: Camera) -> Tensor:
        """Uninitialised maps [T, L, H, W]."""
        shape = texts, len(self._field.levels), camera.height, camera.width
        return _empty(shape, self._field.codes.device)

    def _view(self, camera: Camera) -> _View:
        """What is kept of this view."""
        if camera.width * camera.height > MAX_QUERY_PIXELS:
            raise ValueError(
                f"A picture of {camera.width} x {camera.height} is too large to be asked, at most "
                f"{MAX_QUERY_PIXELS:,} pixels: choose a smaller size."
            )
        if not bool(camera.viewmat.isfinite().all() and camera.K.isfinite().all()):
            raise ValueError("The camera's viewmat or K is not finite: correct its numbers.")
        camera = camera.detached()
        numbers = (t.cpu().numpy().tobytes() for t in (camera.viewmat, camera.K))
        key, device = (*numbers, camera.width, camera.height), self.scene.gaussians.device
        return self._views.get(key, lambda: self._scores.view(camera.to(device)))


def _still(gaussians: Gaussians) -> Gaussians:
    """The Gaussians in float32 and without gradients.

    Tensors that are so already stay the same, because frames of them can be reused.
    """
    g = gaussians
    means, quats, scales, opacities, sh = (
        (t.detach() if t.requires_grad else t).float()
        for t in (g.means, g.quats, g.scales, g.opacities, g.sh)
    )
    return Gaussians(means, quats, scales, opacities, sh, g.near)


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An uninitialised tensor; on the CPU in recycled memory."""
    if device.type == "cuda":
        return torch.empty(shape, device=device)
    from langsplat._rasterize_numba import empty

    return torch.from_numpy(empty(shape, np.float32))


def _on_host(*values: Tensor) -> list[np.ndarray]:
    """The tensors as arrays; from a GPU through pinned memory, to which copies are fast."""
    if not values[0].is_cuda:
        return [tensor.numpy() for tensor in values]
    pinned = [torch.empty(v.shape, dtype=v.dtype, pin_memory=True) for v in values]
    for own, tensor in zip(pinned, values, strict=True):
        own.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(values[0].device).synchronize()
    return [own.numpy() for own in pinned]


def check_text(text: str) -> str:
    """The query with tidy spaces; ValueError if it is empty, too long, or names no thing."""
    if not isinstance(text, str):
        raise ValueError(f"A query is a text, not a {type(text).__name__}.")
    # Marks of direction would turn the sentences that quote the text around, too.
    text = re.sub("[\u202a-\u202e\u2066-\u2069]", "", text)
    text = writable(" ".join(text.split()))
    if not text:
        raise ValueError("Type what to look for, for example the name of a thing you can see.")
    if len(text) > MAX_QUERY:
        raise ValueError(
            f"A query may have at most {MAX_QUERY} characters, this one has {len(text):,}: "
            "describe one thing in a few words."
        )
    names_nothing = _FILLERS.issuperset(re.findall(r"\w+", text.lower()))
    if names_nothing or not any(letter.isalpha() for letter in text):
        raise ValueError(f"“{text}” names no thing: type what to look for, for example “red mug”.")
    return text


def check_mask(threshold: float, level: str | None, levels: Sequence[str] = LEVELS) -> None:
    """Raise ValueError for a threshold outside [0, 1], or a level that is none of `levels`."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold must lie between 0 and 1, got {threshold}.")
    if level is not None and level not in levels:
        raise ValueError(f"The level must be one of {', '.join(levels)}.")


def part_of(text: str) -> tuple[str, str] | None:
    """ "the handle of the mug" -> "handle", "mug"; None for a text that names no part."""
    match = _PART_OF.fullmatch(text)
    return (match["part"], match["thing"]) if match else None


def _near(found: Tensor, camera: Camera) -> Tensor | None:
    """How near to a thing every pixel is, [H, W] up to 1, by its relevancy [L, H, W].

    None if it is not found.
    """
    found = found.amax(dim=0)
    best = float(found.max())
    if best <= 0.5:
        return None
    around = _highest_around(found, round(NEARBY * camera.width / 2))
    return around.div_(NEAR_ENOUGH * best).clamp_(max=1)


def _hold(scores: Tensor, by_part: Tensor, near: Tensor) -> None:
    """Hold a text's scores, in place, to the thing that it names a part of.

    A high score stands by itself: the words for a thing do not find all of it.

    Args:
        by_part: the scores of the part's own word; changed.
        near: how near to the thing everything scored is, up to 1.
    """
    if not scores.is_cuda:
        from langsplat._codes_numba import hold

        hold(scores.numpy(), by_part.numpy(), near.numpy(), SURE)
        return
    torch.maximum(scores, by_part.mul_(near), out=scores)
    sure = scores.sub(0.5).div_(SURE - 0.5).clamp_(max=1)
    scores *= torch.maximum(near, sure, out=sure)


def _highest_around(values: Tensor, half: int) -> Tensor:
    """The maximum of `values` >= 0 in the box around each, which reaches `half` on every axis."""
    size = 2 * half + 1
    for axis in range(values.ndim):
        length = values.shape[axis]
        values = F.pad(values.movedim(axis, -1), (half, half))
        reach = 1  # how many are compared so far
        while 2 * reach <= size:
            values = torch.maximum(values[..., :-reach], values[..., reach:])
            reach *= 2
        rest = size - reach
        values = torch.maximum(values[..., :length], values[..., rest : rest + length])
        values = values.movedim(-1, axis)
    return values.contiguous()


def half_smoothed(relevancy: Tensor) -> Tensor:
    """Average maps [..., H, W] with their box means, so that no single bright pixel wins (LERF).

    The box is the papers' 29 pixels at 988 pixels of width, scaled to this width; windows are cut
    at the border. The result is float32.
    """
    maps = relevancy.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    _half_smooth(maps.view(-1, *maps.shape[-2:]))  # in place
    return maps


def _half_smooth(maps: Tensor) -> Tensor:
    """Half smooth maps [M, H, W] float32, in place; returns the maximum of each, [M]."""
    half = max(0, round(SMOOTHING * maps.shape[2] / 2))
    if maps.is_cuda:
        from langsplat._query_triton import half_smooth as on_gpu

        on_gpu(maps, half)
        return maps.amax(dim=(1, 2))
    from langsplat._codes_numba import half_smooth

    return torch.from_numpy(half_smooth(maps.numpy(), half))


def render_rgb(scene: Scene, camera: Camera) -> np.ndarray:
    """The picture of a scene from `camera`, uint8 [H, W, 3], on black."""
    image, _ = render(scene.gaussians, camera.detached())
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


_PNG_LEVEL = 1  # of 9; the usual 6 takes three times as long for a fifth less

# Anchors of the Turbo colormap, dark blue over green to dark red, evenly spaced over [0, 1].
_ANCHORS = np.array(
    [
        (48, 18, 59), (65, 69, 171), (70, 117, 237), (57, 162, 252), (27, 207, 212),
        (36, 236, 166), (97, 252, 108), (164, 252, 59), (209, 232, 52), (243, 198, 58),
        (254, 155, 45), (243, 99, 21), (217, 56, 6), (177, 25, 1), (122, 4, 2),
    ],
    dtype=np.float32,
)  # fmt: skip
_STEPS = np.linspace(0, len(_ANCHORS) - 1, 1024)
_TURBO = np.stack([np.interp(_STEPS, range(len(_ANCHORS)), of) for of in _ANCHORS.T], axis=1)
_TURBO = (_TURBO + 0.5).astype(np.uint8)


def heat(relevancy: np.ndarray) -> np.ndarray:
    """Relevancy [H, W] in [0, 1] as Turbo colors, uint8 [H, W, 3]."""
    places = np.rint(np.clip(relevancy, 0, 1) * (len(_TURBO) - 1)).astype(np.int16)
    return np.take(_TURBO, places, axis=0)


def overlay(rgb: np.ndarray, relevancy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, muted, with the relevancy in color over it and the mask outlined.

    Args:
        rgb: uint8 [H, W, 3]. relevancy: [H, W] in [0, 1]. mask: [H, W] bool.
    Returns:
        uint8 [H, W, 3].
    """
    mask = np.asarray(mask, bool)  # other numbers would be taken for rows
    # Channel by channel: numpy is slow if the last axis has only three numbers.
    base = np.moveaxis(rgb, 2, 0).astype(np.float32, order="C")
    colors = np.moveaxis(heat(relevancy), 2, 0)
    strength = np.clip((relevancy - 0.25) / 0.4, 0, 1) * 0.65
    strength[mask] = 0.65  # even at a low threshold: a red thing must not look like a high score
    quiet = 0.45 * (1 - strength)
    own = np.where(mask, 0.35, 0.35 * quiet)
    grey = (base[0] + base[1] + base[2]) * np.where(mask, 0, 0.65 / 3 * quiet)
    out = np.empty(rgb.shape, np.uint8)
    for channel in range(3):
        out[..., channel] = base[channel] * own + grey + colors[channel] * strength + 0.5
    out[_outline(mask)] = 255
    return out


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels just outside the mask."""
    padded = np.pad(mask, 1)
    grown = padded.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(padded, step, axis=axis)
    return grown[1:-1, 1:-1] & ~mask


def save_answer(answer: Answer, rgb: np.ndarray, folder: Path | str) -> list[Path]:
    """Write render.png, overlay.png, mask.png, relevancy.npz and result.json; returns their paths.

    The mask is 255 inside and 0 outside. relevancy.npz holds `relevancy` [H, W] and
    `gaussian_relevancy` [N], both float32 and of the level that answered.

    Args:
        rgb: uint8 [H, W, 3], the picture that `SceneQuery.render` draws by the same camera.
    Raises:
        ValueError: the picture is of another size, or no such array.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.shape[2:] != (3,):
        raise ValueError(
            "The picture must be an array [H, W, 3] of uint8: take the one that SceneQuery.render "
            "or render_rgb draws."
        )
    if rgb.shape[:2] != answer.relevancy.shape:
        raise ValueError(
            f"The picture has {rgb.shape[1]}x{rgb.shape[0]} pixels, the answer "
            f"{answer.relevancy.shape[1]}x{answer.relevancy.shape[0]}: draw it by the same camera."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "render.png": rgb,
        "overlay.png": overlay(rgb, answer.relevancy, answer.mask),
        "mask.png": answer.mask.astype(np.uint8) * 255,
    }
    # The page writes them after every answer: smaller files would take several times as long.
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name, compress_level=_PNG_LEVEL)
    np.savez(
        folder / "relevancy.npz",
        relevancy=answer.relevancy,
        gaussian_relevancy=answer.gaussian_relevancy,
    )
    (folder / "result.json").write_text(
        json.dumps(answer.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [folder / name for name in (*pictures, "relevancy.npz", "result.json")]
