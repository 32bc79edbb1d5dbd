"""A codebook finds the clusters that are there, the same ones every time."""

import pytest
import torch
import torch.nn.functional as F

from langsplat.codec import Codebook, fit_codebook
from langsplat.scene import LanguageField


def clusters(count: int, each: int, dim: int = 16, noise: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    centres = torch.linalg.qr(torch.randn(dim, count, generator=generator))[0].T
    rows = centres.repeat_interleave(each, dim=0)
    return F.normalize(rows + noise * torch.randn(len(rows), dim, generator=generator), dim=1)


def test_separate_clusters_get_a_codeword_each() -> None:
    rows = clusters(6, 20)
    codec = fit_codebook([rows], size=6)
    assigned = codec.assign(0, rows).reshape(6, 20)
    assert (assigned == assigned[:, :1]).all()
    assert len(assigned[:, 0].unique()) == 6
    assert float((codec.codewords[0][codec.assign(0, rows)] * rows).sum(1).min()) > 0.95


def test_the_same_seed_gives_the_same_codebook() -> None:
    rows = clusters(10, 5, noise=0.3)
    first, second = (fit_codebook([rows], size=4, seed=1).codewords for _ in range(2))
    assert torch.equal(first, second)


def test_levels_may_have_few_or_no_segments() -> None:
    rows = clusters(3, 1)
    codec = fit_codebook([rows, rows[:2], rows[:0]], size=64)
    assert codec.codewords.shape == (3, 3, 16)
    assert codec.assign(1, rows[:2]).max() < 2
    assert (codec.codewords[2] == 0).all()


def test_identical_embeddings_do_not_break_the_start() -> None:
    codec = fit_codebook([clusters(1, 1).expand(10, 16)], size=5)
    assert torch.isfinite(codec.codewords).all()


def test_nothing_to_describe_is_said() -> None:
    with pytest.raises(ValueError, match="single segment"):
        fit_codebook([torch.zeros(0, 16)], size=4)


def test_norms_and_scores_agree_with_decoding() -> None:
    generator = torch.Generator().manual_seed(0)
    codec = Codebook(F.normalize(torch.randn(2, 7, 16, generator=generator), dim=2))
    rows = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(20)])
    codes = torch.rand(2, 10, 3, generator=generator)
    field = LanguageField(rows.reshape(2, 10, 3), codes, torch.ones(2, 10), codec, "e")
    decoded = torch.stack([field.dense(level) @ codec.codewords[level] for level in range(2)])
    torch.testing.assert_close(field.norms(), decoded.norm(dim=2))
    texts = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    torch.testing.assert_close(field.score(codec.similarity(texts)), decoded @ texts.T)
