"""Codecs: how a Gaussian stores an embedding in a few numbers.

A codebook keeps, for each of L levels, V unit embeddings ("codewords"); a Gaussian's code is a
short list of (row, weight) pairs and stands for the weighted sum of those codewords. Everything a
query needs is linear in the weights except one norm, which needs only the V x V Gram matrix: no
E-vector per Gaussian or pixel is ever built (LangSplatV2's sparse code, arXiv 2507.07136).

Letters: L levels, V codewords, E embedding size, M segments, T texts, D entries of a code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Codebook:
    """V unit embeddings for each of L levels.

    Args:
        codewords: [L, V, E] float32, unit length (a level no segment ever had: zeros).
    """

    codewords: Tensor  # [L, V, E]

    kind = "codebook"

    def __post_init__(self) -> None:
        if self.codewords.ndim != 3:
            raise ValueError(
                f"codewords must be [L, V, E], got {list(self.codewords.shape)}: "
                "the scene's language field is damaged; build the scene again."
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
        """The codeword nearest to each unit embedding [M, E] -> rows [M] int64."""
        return (embeddings.to(self.codewords) @ self.codewords[level].T).argmax(dim=1)

    def tensors(self) -> dict[str, Tensor]:
        return {"codewords": self.codewords}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Codebook":
        return cls(tensors["codewords"].float())


def fit_codebook(
    embeddings: Sequence[Tensor], *, size: int = 64, seed: int = 0, iterations: int = 25
) -> Codebook:
    """Spherical k-means of the segments' embeddings, level by level.

    Args:
        embeddings: for each level, [M, E] unit rows (M may be 0 and may differ between levels).
        size: V, at most; fewer when no level has that many segments.
        seed: of the k-means++ start; the result depends on nothing else.
    Returns:
        A codebook. A level with fewer than V segments repeats codewords; `assign` uses the
        first copy.
    Raises:
        ValueError: no level has a segment.
    """
    most = max((len(rows) for rows in embeddings), default=0)
    if most == 0:
        raise ValueError(
            "No view has a single segment, so there is nothing to describe in words: "
            "check the photos, or choose another segmenter."
        )
    size = min(size, most)
    dim = next(rows.shape[1] for rows in embeddings if len(rows))
    codewords = torch.zeros(len(embeddings), size, dim)
    for level, rows in enumerate(embeddings):
        if len(rows) == 0:
            continue
        generator = torch.Generator().manual_seed(seed + level)
        words = _spherical_kmeans(rows.float().cpu(), min(size, len(rows)), iterations, generator)
        codewords[level] = words[torch.arange(size) % len(words)]
    return Codebook(codewords)


def _spherical_kmeans(
    rows: Tensor, size: int, iterations: int, generator: torch.Generator
) -> Tensor:
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
    for _ in range(iterations):
        nearest = (rows @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        # A centre that lost all its rows stays where it was.
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, sums, centres)
        moved = F.normalize(moved, dim=1)
        if torch.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres
