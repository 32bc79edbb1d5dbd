"""Codecs: how a Gaussian stores an embedding in a few numbers.

A codebook has V embeddings ("codewords") for each of L levels; a Gaussian's code is a short list of
(row, weight) pairs and stands for the weighted sum of those codewords. Everything a query needs is
linear in the weights except one norm, which needs only the V x V Gram matrix: no E-vector per
Gaussian or pixel is ever built (LangSplatV2's sparse code, arXiv 2507.07136).

An autoencoder compresses an embedding to a latent of D numbers, 3 in the paper (LangSplat, arXiv
2312.16084, section 3.3). A Gaussian's code is one latent for each level, and a decoder turns the
latent that the Gaussians blend to in a pixel back into an embedding. The weights have the names and
shapes of the official best_ckpt.pth.

    codec = fit_codebook([embeddings_of_level_0, ...])
    codec, cosine = fit_autoencoder(embeddings)  # or Autoencoder.from_tensors(official state dict)
    table = tabulate(codec, latents)             # cosines without decoding, once latents are 3-d

Letters: L levels, V codewords, E embedding size, M segments, T texts, D entries of a code.
"""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsplat.progress import (
    Checkpoints,
    Progress,
    digest_of,
    hold_python_numbers,
    silent,
    torch_threads,
)

FITTING = "Train autoencoder"
KMEANS_ROUNDS = 25
# V of a codebook. A query needs V x V numbers for each level, 200 MB with this many: a damaged or
# hostile file must not ask for more.
MAX_CODEWORDS = 4096
LONGEST = 1.01  # of an embedding, which should have length 1: half floats are this exact
DECODED_AT_ONCE = 1 << 14  # latents; 34 MB of embeddings of 512 numbers
# Cells along an edge of a table, tried in turn until one is accurate enough. With rows of 150
# numbers the finest table takes 238 MB.
TABLE_SIDES = (32, 64, 96, 128, 192, 256)
TABLE_ERROR = 1.5e-3  # of a cosine, the 99.9th percentile: less than 0.005 of a relevancy
_TABLE_RESIDUAL = 2e-3  # root mean square length of the part of embeddings outside a table's basis
_TABLE_PROBES = 4096  # latents at which a table is compared with the decoder


@dataclass(frozen=True, eq=False)
class Codebook:
    """V embeddings for each of L levels.

    Args:
        codewords: [L, V, E] float32, of unit length as `fit_codebook` makes them (zeros at a level
            without any segment), of any length if they were imported.
    Raises:
        ValueError: they have another shape, there is none, or there are more than 4096.
    """

    codewords: Tensor  # [L, V, E]

    kind = "codebook"

    def __post_init__(self) -> None:
        if self.codewords.ndim != 3 or not self.codewords.shape[1]:
            raise ValueError(
                f"codewords must be [L, V, E], V >= 1, got {list(self.codewords.shape)}: "
                "the scene's language field is damaged; build the scene again."
            )
        if self.size > MAX_CODEWORDS:
            raise ValueError(
                f"A codebook has at most {MAX_CODEWORDS:,} codewords for each level, this one "
                f"{self.size:,}: build the scene again with fewer."
            )

    @property
    def levels(self) -> int:
        return self.codewords.shape[0]

    @property
    def size(self) -> int:
        return self.codewords.shape[1]

    @property
    def dim(self) -> int:
        """E, the size of the embeddings this codebook stands for."""
        return self.codewords.shape[2]

    def similarity(self, texts: Tensor) -> Tensor:
        """Dot product of every codeword with every unit text embedding [T, E] -> [L, V, T]."""
        return self.codewords @ texts.to(self.codewords).T

    def gram(self) -> Tensor:
        """S Sᵀ of every level, [L, V, V]: |Wᵀ S|² = Wᵀ gram W for blended weights W."""
        return self.codewords @ self.codewords.transpose(1, 2)

    def assign(self, level: int, embeddings: Tensor) -> Tensor:
        """The codeword whose direction is nearest to each unit embedding [M, E] -> [M] int64."""
        directions = F.normalize(self.codewords[level], dim=1)
        cosines = embeddings.to(directions) @ directions.T
        # The first of equal codewords: the product may round their cosines differently.
        best = cosines.amax(dim=1, keepdim=True) - 1e-6
        return (cosines >= best).byte().argmax(dim=1)

    def to(self, device: torch.device | str) -> "Codebook":
        return Codebook(self.codewords.to(device))

    def tensors(self) -> dict[str, Tensor]:
        return {"codewords": self.codewords}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Codebook":
        return cls(tensors["codewords"].float())


def fit_codebook(embeddings: Sequence[Tensor], *, size: int = 256, seed: int = 0) -> Codebook:
    """Fit a codebook to the segments' embeddings by spherical k-means, level by level.

    Args:
        embeddings: for each level, [M, E] unit rows (M may be 0 and may differ between levels).
        size: the most codewords V; fewer if no level has that many segments.
        seed: of the k-means++ start; nothing else is random.
    Returns:
        A codebook. A level with fewer than V segments repeats codewords; `assign` uses the
        first copy.
    Raises:
        ValueError: no level has a segment, embeddings are not finite or longer than 1, size is not
            positive, or V would be more than 4096.
    """
    for rows in embeddings:
        check_unit(rows)
    if size < 1:
        raise ValueError(f"A codebook needs at least one codeword, got size={size}.")
    most = max((len(rows) for rows in embeddings), default=0)
    if most == 0:
        raise ValueError(
            "No view has a single segment, so there is nothing to describe in words: "
            "check the photos, or choose another segmenter."
        )
    size = min(size, most)
    if size > MAX_CODEWORDS:
        raise ValueError(f"A codebook has at most {MAX_CODEWORDS:,} codewords, got size={size:,}.")
    dim = next(rows.shape[1] for rows in embeddings if len(rows))
    codewords = torch.zeros(len(embeddings), size, dim)
    for level, rows in enumerate(embeddings):
        if len(rows) == 0:
            continue
        generator = torch.Generator().manual_seed(int(seed) + level)
        words = _spherical_kmeans(rows.float().cpu(), min(size, len(rows)), generator)
        codewords[level] = words[torch.arange(size) % len(words)]
    return Codebook(codewords)


def check_unit(rows: Tensor) -> None:
    """Raise ValueError unless these are embeddings [M, E], finite and none longer than 1."""
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        got = list(rows.shape) if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
        raise ValueError(f"Embeddings must be a torch tensor [M, E] for every level, got {got}.")
    _check_finite(rows)
    longest = float(rows.detach().float().norm(dim=1).max()) if len(rows) else 0.0
    if longest > LONGEST:
        raise ValueError(
            f"Embeddings must have length 1, got one of {longest:.3g}: divide them by their "
            "lengths, torch.nn.functional.normalize(embeddings, dim=1)."
        )


def _check_finite(embeddings: Tensor) -> None:
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError(
            "An embedding has a value that is not finite: describe the views again and, if that "
            "does not help, download the weights again."
        )


def _spherical_kmeans(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means on the sphere, k-means++ start; [M, E] unit rows -> [size, E] unit centres."""
    first = int(torch.randint(len(rows), (1,), generator=generator))
    centres = rows[first : first + 1]
    distance = 1 - rows @ centres[0]
    for _ in range(size - 1):
        weights = distance.clamp_min(0)
        if float(weights.sum()) <= 1e-9:  # fewer distinct embeddings than codewords
            break
        pick = int(torch.multinomial(weights, 1, generator=generator))
        centres = torch.cat([centres, rows[pick : pick + 1]])
        distance = torch.minimum(distance, 1 - rows @ rows[pick])
    for _ in range(KMEANS_ROUNDS):
        nearest = (rows @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        # A centre that lost all its rows stays where it was.
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, sums, centres)
        moved = F.normalize(moved, dim=1)
        if torch.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Two small networks, embeddings [M, E] -> unit latents [M, D] and back, shared by all levels.

    The encoder is linear layers with batch normalisation and ReLU between them, the decoder linear
    layers with ReLU between them; both normalise their output to unit length.

    Args:
        weights: named as in the official best_ckpt.pth (`encoder.0.weight` ...); the sizes of the
            layers are read from their shapes.
    Raises:
        ValueError: a tensor is missing, does not fit its neighbours, or has a value that is not
            finite.
    """

    weights: Mapping[str, Tensor]

    kind = "autoencoder"

    def __post_init__(self) -> None:
        encoder, decoder = self._sizes("encoder", 3), self._sizes("decoder", 2)
        if encoder[-1] != decoder[0] or encoder[0] != decoder[-1]:
            raise ValueError(
                f"The encoder makes {encoder[0]} numbers into {encoder[-1]} and the decoder "
                f"{decoder[0]} into {decoder[-1]}, so they are not one autoencoder: take both "
                "from the same training."
            )
        with torch.device("meta"):
            expected = _Network(encoder[0], encoder[1:], decoder[1:-1]).state_dict()
        for name, like in expected.items():
            found = self.weights.get(name)
            if found is None or found.shape != like.shape:
                have = "is missing" if found is None else f"is {list(found.shape)}"
                raise ValueError(
                    f"{name} of the autoencoder {have} but should be {list(like.shape)}: "
                    "take the weights as best_ckpt.pth holds them."
                )
            if not bool(torch.isfinite(found).all()):
                raise ValueError(
                    f"{name} of the autoencoder has values that are not finite: train it again."
                )

    def _layers(self, part: str) -> list[int]:
        """The numbers of a part's linear layers, in order."""
        found = (re.fullmatch(rf"{part}\.(\d+)\.weight", name) for name in self.weights)
        return sorted(int(m[1]) for m in found if m and self.weights[m[0]].ndim == 2)

    def _sizes(self, part: str, step: int) -> list[int]:
        """The input size of a part's first layer, and the output size of each of its layers."""
        layers = self._layers(part)
        if not layers or layers != list(range(0, step * len(layers), step)):
            raise ValueError(
                f"The autoencoder's {part} has its layers at {layers or 'no place'}: take the "
                "weights as LangSplat's autoencoder/train.py writes best_ckpt.pth."
            )
        shapes = [self.weights[f"{part}.{index}.weight"].shape for index in layers]
        return [shapes[0][1], *(shape[0] for shape in shapes)]

    @property
    def dim(self) -> int:
        """E, the size of the embeddings."""
        return self.weights["encoder.0.weight"].shape[1]

    @property
    def latent(self) -> int:
        """D, the size of a latent."""
        return self.weights["decoder.0.weight"].shape[1]

    def encode(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings [M, E] -> unit latents [M, D] float32.

        Raises:
            ValueError: embeddings of another size, or with a value that is not finite.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"The embeddings must be [M, {self.dim}], got {list(embeddings.shape)}: use the "
                "encoder that the autoencoder was trained for."
            )
        _check_finite(embeddings)
        layers = self._layers("encoder")
        out = []
        for part in embeddings.to(self.weights["encoder.0.weight"]).split(DECODED_AT_ONCE):
            for index in layers:
                part = self._linear("encoder", index, part)
                if index != layers[-1]:
                    norm = f"encoder.{index + 1}"
                    part = F.batch_norm(
                        part,
                        self.weights[f"{norm}.running_mean"],
                        self.weights[f"{norm}.running_var"],
                        self.weights[f"{norm}.weight"],
                        self.weights[f"{norm}.bias"],
                    ).relu()
            out.append(F.normalize(part, dim=1))
        return torch.cat(out)

    def decode(self, latents: Tensor, *, unit: bool = True) -> Tensor:
        """Latents [..., D] -> unit embeddings [..., E] float32.

        Args:
            unit: normalise the latents first: blended ones are shorter than 1, and the decoder was
                trained on unit ones only. The official evaluation does not (False).
        Raises:
            ValueError: the latents have another size.
        """
        if latents.shape[-1] != self.latent:
            raise ValueError(
                f"A latent of {latents.shape[-1]} numbers cannot be decoded: this autoencoder's "
                f"have {self.latent}; take the autoencoder they were made with."
            )
        latents = latents.to(self.weights["decoder.0.weight"])
        hidden = self._hidden(F.normalize(latents, dim=-1) if unit else latents)
        return F.normalize(self._linear("decoder", self._layers("decoder")[-1], hidden), dim=-1)

    def _hidden(self, latents: Tensor) -> Tensor:
        """The input of the decoder's last layer."""
        for index in self._layers("decoder")[:-1]:
            latents = self._linear("decoder", index, latents).relu_()
        return latents

    def _decode_along(self, latents: Tensor, basis: Tensor) -> Tensor:
        """`decode` in a basis [K, E] that nearly spans the decoded embeddings: [M, D] -> [M, K].

        The last layer, which is most of the work, gives these K numbers directly. They are divided
        by their own length instead of the embedding's, which is longer by half the square of what
        the basis leaves out.
        """
        last = f"decoder.{self._layers('decoder')[-1]}"
        hidden = self._hidden(F.normalize(latents, dim=1))
        weight, bias = self.weights[f"{last}.weight"], self.weights[f"{last}.bias"]
        return F.normalize(F.linear(hidden, basis @ weight, basis @ bias), dim=1)

    def cosines(self, latents: Tensor, texts: Tensor, *, unit: bool = True) -> Tensor:
        """Cosines of the decoded latents [..., D] with unit texts [T, E] -> [..., T].

        Latents are decoded in parts, so a picture's [H, W, E] never exists.
        """
        texts = texts.to(self.weights["decoder.0.weight"])
        flat = latents.reshape(-1, latents.shape[-1])
        parts = [self.decode(part, unit=unit) @ texts.T for part in flat.split(DECODED_AT_ONCE)]
        return torch.cat(parts).reshape(*latents.shape[:-1], len(texts))

    def _linear(self, part: str, index: int, values: Tensor) -> Tensor:
        name = f"{part}.{index}"
        return F.linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def to(self, device: torch.device | str) -> "Autoencoder":
        return Autoencoder({name: tensor.to(device) for name, tensor in self.weights.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The official state dict: `torch.save(codec.tensors(), "best_ckpt.pth")`."""
        return dict(self.weights)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Autoencoder":
        """From the official state dict, or from what `tensors` returned."""
        counts = "num_batches_tracked"  # an integer, not needed after training
        return cls({k: v.long() if k.endswith(counts) else v.float() for k, v in tensors.items()})


@dataclass(frozen=True, eq=False)
class DecodeTable:
    """An autoencoder's embeddings, decoded in advance, so that comparing a text is a lookup.

    `Autoencoder.decode` normalises latents, so only their direction counts, and the surface of the
    cube [-1, 1]³ has all of them: six faces of R x R cells, decoded at their corners and
    interpolated bilinearly. The whole surface is tabulated, since the blended latents in a scene's
    views lie in about four fifths of the cells. A text takes one product with the rows; then every
    pixel reads four numbers. The embeddings of a scene span few directions, so that K numbers
    instead of E suffice for a row.

    Args:
        rows: [6 (R + 1)², K], the embeddings at the corners, in the basis.
        basis: [K, E], orthonormal.
        side: R.
        error: 99.9th percentile of the error of a cosine, as `tabulate` measured it.
    """

    rows: Tensor
    basis: Tensor
    side: int
    error: float

    def places(self, latents: Tensor) -> Tensor:
        """The places [..., 2] in [-1, 1] where latents [..., 3] of any length are looked up."""
        axis = latents.abs().argmax(dim=-1, keepdim=True)
        longest = latents.gather(-1, axis)
        across = torch.cat([(axis == 0).long(), 2 - (axis == 2).long()], dim=-1)
        on_face = latents.gather(-1, across) / longest.abs().clamp_min(1e-12)
        # Slightly off the border: otherwise rounding would mix in the next face of the table.
        x, y = ((on_face + 1) * (self.side / 2)).clamp(1e-3, self.side - 1e-3).unbind(-1)
        face = (2 * axis + (longest < 0))[..., 0]
        y = y + face * (self.side + 1)
        return torch.stack([x * (2 / self.side), y * (2 / (6 * self.side + 5))], dim=-1) - 1

    def rows_at(self, places: Tensor) -> Tensor:
        """The rows that are read at places [..., 2], each once."""
        size = places.new_tensor([self.side, 6 * self.side + 5])
        x, y = ((places.reshape(-1, 2) + 1) * (size / 2)).long().unbind(1)
        row, below = y * (self.side + 1) + x, self.side + 1
        return torch.cat([row, row + 1, row + below, row + below + 1]).unique()

    def of_texts(self, texts: Tensor) -> Tensor:
        """Cosines of unit texts [T, E] at the corners -> [T, 6 (R + 1), R + 1]."""
        along = texts.to(self.basis) @ self.basis.T
        # Face by face and with transposed texts, one text is four times as fast as in one product.
        cosines = torch.bmm(self.rows.unflatten(0, (6, -1)), along.T.expand(6, -1, -1))
        return cosines.permute(2, 0, 1).reshape(len(texts), 6 * (self.side + 1), self.side + 1)

    def cosines(self, places: Tensor, corners: Tensor) -> Tensor:
        """Cosines at places [..., 2] with the texts that `of_texts` was given -> [..., T]."""
        grid = places.reshape(1, 1, -1, 2)
        found = F.grid_sample(corners[None], grid, align_corners=True, padding_mode="border")
        return found[0, :, 0].T.reshape(*places.shape[:-1], len(corners))


def tabulate(
    codec: Autoencoder, latents: Tensor, *, error: float = TABLE_ERROR
) -> DecodeTable | None:
    """The coarsest table that is accurate enough for a scene's latents.

    The error is measured against the decoder at latents of the scene and at blends of two, as
    pixels have them. Embeddings of the scene itself serve as texts, since none can be nearer.

    Args:
        latents: [N, D], of the Gaussians.
        error: the largest allowed 99.9th percentile of a cosine's error.
    Returns:
        The table, or None if there is none: D is not 3, there are no latents, or the decoder
        changes too fast even for the finest table.
    """
    if codec.latent != 3 or len(latents) == 0:
        return None
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(len(latents), (2, _TABLE_PROBES), generator=generator)
    share = torch.rand(_TABLE_PROBES, 1, generator=generator)
    share[::2] = 1
    share, first, second = (t.to(latents.device) for t in (share, first, second))
    probes = share * latents[first].float() + (1 - share) * latents[second].float()
    decoded = codec.decode(probes)
    texts = decoded[:32]
    wanted = decoded @ texts.T

    # The basis fits the whole surface, since anything may be blended, but the scene most closely.
    shown = torch.cat([codec.decode(_cube_surface(24).to(decoded)), decoded])
    spread, directions = torch.linalg.eigh(shown.T @ shown / len(shown))  # ascending
    left_out = spread.clamp_min(0).cumsum(0) <= _TABLE_RESIDUAL**2
    basis = directions[:, int(left_out.sum()) :].T.flip(0).contiguous()
    for side in TABLE_SIDES:
        corners = _cube_surface(side).to(basis)
        table = DecodeTable(basis.new_zeros(len(corners), len(basis)), basis, side, 0.0)
        places = table.places(probes)
        asked = table.rows_at(places)  # the others are decoded only if the table is fine enough
        table.rows[asked] = codec._decode_along(corners[asked], basis)
        wrong = (table.cosines(places, table.of_texts(texts)) - wanted).abs().flatten()
        worst = float(wrong.kthvalue(math.ceil(0.999 * len(wrong))).values)
        if worst <= error:
            parts = (whole.split(DECODED_AT_ONCE) for whole in (table.rows, corners))
            for rows, part in zip(*parts, strict=True):
                rows[:] = codec._decode_along(part, basis)
            return replace(table, error=worst)
    return None


def _cube_surface(side: int) -> Tensor:
    """Corners of side x side cells on the faces +x, -x, +y, -y, +z, -z of the cube [-1, 1]³.

    [6 (side + 1)², 3]; the first of a face's two axes runs along the rows.
    """
    steps = torch.linspace(-1, 1, side + 1)
    second, first = torch.meshgrid(steps, steps, indexing="ij")
    faces = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            others = [first, second]
            others.insert(axis, torch.full_like(first, sign))
            faces.append(torch.stack(others, dim=-1))
    return torch.stack(faces).reshape(-1, 3)


Codec = Codebook | Autoencoder
CODECS = (Codebook.kind, Autoencoder.kind)


def codec_from(kind: str, tensors: Mapping[str, Tensor]) -> Codec:
    """The codec of that kind, from its tensors.

    Raises:
        ValueError: the kind is unknown, or the tensors do not make one.
    """
    for codec in (Codebook, Autoencoder):
        if codec.kind == kind:
            return codec.from_tensors(tensors)
    raise ValueError(f"Its codec {kind!r} is unknown here: update langsplat.")


class _Network(nn.Module):
    """The autoencoder as it is trained; its state dict is the official one."""

    def __init__(self, dim: int, encoder: Sequence[int], decoder: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise((dim, *encoder))):
            layers += [nn.BatchNorm1d(before), nn.ReLU()] if index else []
            layers.append(nn.Linear(before, after))
        self.encoder = nn.ModuleList(layers)
        layers = []
        for index, (before, after) in enumerate(itertools.pairwise((encoder[-1], *decoder, dim))):
            layers += [nn.ReLU()] if index else []
            layers.append(nn.Linear(before, after))
        self.decoder = nn.ModuleList(layers)

    def forward(self, rows: Tensor) -> Tensor:
        for part in (self.encoder, self.decoder):
            for layer in part:
                rows = layer(rows)
            rows = F.normalize(rows, dim=1)
        return rows


@dataclass(frozen=True)
class AutoencoderConfig:
    """How an autoencoder is made and trained; the defaults are the paper's."""

    encoder: tuple[int, ...] = (256, 128, 64, 32, 3)
    """Output size of each layer of the encoder; the last is D, the size of a latent."""
    decoder: tuple[int, ...] = (16, 32, 64, 128, 256, 256)
    """Output size of each layer of the decoder except the last, which gives E."""
    rounds: int = 100
    """The most rounds: in each, all embeddings are shown and the held-out ones are measured."""
    patience: int = 20
    """Training ends after this many rounds in a row without a better held-out cosine."""
    batch: int = 64
    learning_rate: float = 7e-4
    holdout_every: int = 10
    """Every n-th embedding, in random order, is kept out of training."""
    least_batches: int = 20
    """The fewest batches in a round: if there are few embeddings, each is shown more than once."""
    seed: int = 0

    def __post_init__(self) -> None:
        hold_python_numbers(self)
        if not self.encoder or min((*self.encoder, *self.decoder)) < 1:
            raise ValueError(
                "An autoencoder needs at least one size for its encoder, and sizes of at least 1; "
                f"got {self.encoder} and {self.decoder}."
            )
        if min(self.rounds, self.patience) < 1 or min(self.batch, self.holdout_every) < 2:
            raise ValueError(
                "Training an autoencoder takes rounds and patience of at least 1, and batch and "
                "holdout_every of at least 2."
            )


@torch.enable_grad()
def fit_autoencoder(
    embeddings: Tensor,
    config: AutoencoderConfig = AutoencoderConfig(),
    *,
    device: torch.device | str = "cpu",
    state: Path | str | None = None,
    progress: Progress = silent,
) -> tuple[Autoencoder, float]:
    """Train an autoencoder on the embeddings of one scene's segments (LangSplat, section 3.3).

    The loss is 1 - cosine, row by row. (Between unit vectors the mean square that the official code
    adds is the same up to a factor; its cosine runs along the batch by mistake.) The weights of the
    round with the best held-out cosine are kept.

    Args:
        embeddings: [M, E] unit rows of all levels and views; with fewer than
            `config.holdout_every` nothing is held out.
        device: where to train.
        state: a checkpoint file, written between rounds, about every 20 s, and at the end. If it
            holds a run on the same embeddings with the same config, that run continues, with the
            same result as if it had never stopped.
        progress: called after each round; the note has the held-out cosine.
    Returns:
        The autoencoder, on the CPU, and the mean cosine between held-out embeddings and what they
        are decoded to.
    Raises:
        ValueError: there is no row, or one that is longer than 1 or not finite.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(
            "No view has a single segment, so there is nothing to train an autoencoder on: "
            "check the photos, or choose another segmenter."
        )
    check_unit(embeddings)
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(embeddings), generator=generator)
    rows = embeddings.detach()[order].to(device, torch.float32)
    held = torch.arange(len(rows)) % config.holdout_every == config.holdout_every - 1
    held_out, shown = (rows[held], rows[~held]) if bool(held.any()) else (rows, rows)
    if len(shown) == 1:
        shown = shown.expand(2, -1)  # batch normalisation needs two
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _Network(embeddings.shape[1], config.encoder, config.decoder).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    best, best_round, done = -2.0, 0, 0
    kept = _copy(network)
    identity = {
        "format": "langsplat-autoencoder-2",
        "config": json.dumps(asdict(config), sort_keys=True),
        "embeddings": digest_of(embeddings),
    }
    checkpoints = Checkpoints(state, identity)
    earlier = checkpoints.load(FITTING, config.rounds, progress, unit="round")
    if earlier is not None:
        done, best = earlier.done, earlier.values["best"]
        best_round = int(earlier.values["best_round"])
        _restore(earlier.tensors, network, optimizer, generator, kept)
    while not _is_over(done, best_round, config):
        with torch_threads(1):  # the batches are small
            _show_all(shown, network, optimizer, generator, config)
        with torch.no_grad():
            cosine = float((network(held_out) * held_out).sum(dim=1).mean())
        if cosine > best:
            best, best_round, kept = cosine, done, _copy(network)
        done += 1
        over = _is_over(done, best_round, config)
        if over or checkpoints.due:
            tensors = _stored(network, optimizer, generator, kept)
            checkpoints.save(tensors, done, best=best, best_round=best_round)
        note = f"held-out cosine {best:.4f}"
        progress(FITTING, config.rounds if over else done, config.rounds, note)
    return Autoencoder(kept), best


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}


def _show_all(
    rows: Tensor,
    network: _Network,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: AutoencoderConfig,
) -> None:
    """One round: all rows in batches, repeated until there are enough batches."""
    network.train()
    batches = 0
    while batches == 0 or batches < config.least_batches:
        for picks in torch.randperm(len(rows), generator=generator).split(config.batch):
            if len(picks) < 2:
                continue
            batch = rows[picks.to(rows.device)]
            loss = 1 - (network(batch) * batch).sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            batches += 1
    network.eval()


def _is_over(rounds: int, best_round: int, config: AutoencoderConfig) -> bool:
    """Whether to stop after this many rounds; `best_round` is the index of the best one."""
    return rounds >= config.rounds or rounds - 1 - best_round >= config.patience


def _stored(
    network: _Network,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Everything the next round depends on, as tensors by name."""
    tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
    tensors |= {f"kept.{name}": t for name, t in kept.items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors | {"generator": generator.get_state()}


def _restore(
    tensors: Mapping[str, Tensor],
    network: _Network,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    kept: dict[str, Tensor],
) -> None:
    """Restore what `_stored` returned."""
    network.load_state_dict({name: tensors[f"network.{name}"] for name in kept})
    kept |= {name: tensors[f"kept.{name}"] for name in kept}
    for name, parameter in network.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"optimizer.{key}.{name}"]
            optimizer.state[parameter][key] = value.to(parameter.device)
    generator.set_state(tensors["generator"])
