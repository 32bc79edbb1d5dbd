"""The GPU's query kernels against the slow definition; without a GPU Triton interprets them."""

import math
import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat._query_triton import (
    VIEW_TILE,
    half_smooth,
    halves,
    place,
    placed,
    relevancy,
    roots,
    score,
    view,
)
from langsplat._rasterize_gsplat import Frame, see
from langsplat.codec import Codebook, DecodeTable
from langsplat.query import _ANY_SUPPORT, MIN_SUPPORT, _CodebookScores, _DrawnScores
from langsplat.rasterize import RULES, drawable, look, rasterize
from langsplat.scene import Camera, Gaussians, LanguageField
from tests import reference
from tests.conftest import ROOT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WIDTH, HEIGHT, N, KEPT, E = 45, 29, 60, 4, 32
NEGATIVES = 4


def cloud(opacity: float) -> tuple[Gaussians, Camera]:
    """Soft Gaussians before a camera, the last of them out of sight."""
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.rand(N, 3, generator=generator) - 1
    means[-1] = torch.tensor([0.0, 0, -9])
    gaussians = Gaussians(
        means,
        F.normalize(torch.rand(N, 4, generator=generator) - 0.5, dim=1),
        0.05 + 0.25 * torch.rand(N, 3, generator=generator),
        opacity * (0.1 + 0.89 * torch.rand(N, generator=generator)),
        torch.zeros(N, 1, 3),
    )
    view = torch.eye(4)
    view[2, 3] = 3
    K = torch.tensor([[40.0, 0, 22], [0, 42, 14], [0, 0, 1]])
    return gaussians, Camera(view, K, WIDTH, HEIGHT)


def frame_of(gaussians: Gaussians, camera: Camera) -> Frame:
    """A frame as `look` makes it; on the CPU by gsplat's functions in plain torch."""
    if DEVICE == "cuda":
        return look(drawable(gaussians).to(DEVICE), camera, VIEW_TILE)
    from gsplat.cuda import _torch_impl as plain

    covars, _ = plain._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, True, False)
    seen = plain._fully_fused_projection(
        gaussians.means, covars, camera.viewmat[None], camera.K[None], WIDTH, HEIGHT
    )
    radii, means2d, depths, conics, _ = seen
    columns, rows = math.ceil(WIDTH / VIEW_TILE), math.ceil(HEIGHT / VIEW_TILE)
    _, keys, members = plain._isect_tiles(means2d, radii, depths, VIEW_TILE, columns, rows)
    offsets = plain._isect_offset_encode(keys, 1, columns, rows).int()
    opacities = gaussians.opacities[None]
    return Frame(WIDTH, HEIGHT, VIEW_TILE, means2d, conics, opacities, offsets, members)


def coded(levels: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codewords [L, V, E]; of every Gaussian rows and codes [L, N, KEPT], as scenes have them."""
    generator = torch.Generator().manual_seed(1)
    codewords = F.normalize(torch.randn(levels, words, E, generator=generator), dim=2)
    rows = torch.randint(words, (levels, N, KEPT), generator=generator, dtype=torch.int16)
    codes = F.normalize(torch.rand(levels, N, KEPT, generator=generator), p=1, dim=2).half()
    return codewords, rows, codes


def dense(rows: Tensor, codes: Tensor, words: int) -> Tensor:
    """Weights of all codewords, [L, N, V]."""
    empty = torch.zeros(*rows.shape[:2], words)
    return empty.scatter_add_(2, rows.long(), codes.float())


@pytest.mark.parametrize(
    ("levels", "words", "opacity"), [(3, 64, 0.5), (3, 64, 1.0), (1, 5, 0.5), (2, 100, 0.5)]
)
def test_what_texts_share_of_a_view_is_that_of_full_features(
    levels: int, words: int, opacity: float
) -> None:
    gaussians, camera = cloud(opacity)
    codewords, rows, codes = coded(levels, words)
    negatives = F.normalize(torch.randn(NEGATIVES, E), dim=1)
    codes[:, 5] = 0  # no view ever saw it
    on = [t.to(DEVICE) for t in (rows, codes)]
    ones = torch.ones(levels, words, 1)
    similarity = torch.cat([codewords @ negatives.T, ones], dim=2).to(DEVICE)
    gram = (codewords @ codewords.transpose(1, 2)).to(DEVICE)
    blended = score(*on, roots(gram), half=True)
    plain = halves(score(*on, similarity).flatten(1))
    frame = frame_of(gaussians, camera)
    inverse, best = (t.cpu() for t in view(frame, blended, plain, NEGATIVES, 0.5, RULES))

    weights = dense(rows, codes, words)
    values = torch.cat([weights @ codewords, weights.sum(2, keepdim=True)], dim=2)
    g = gaussians
    image, _ = reference.rasterize(
        g.means, g.quats, g.scales, g.opacities, values.transpose(0, 1).flatten(1),
        camera.viewmat[None], camera.K[None], WIDTH, HEIGHT,
    )  # fmt: skip
    image = image[0].float().unflatten(2, (levels, E + 1)).permute(2, 0, 1, 3)
    features, seen = image[..., :-1], image[..., -1] > 0.5
    assert 0.1 < seen.float().mean() < 0.95
    assert torch.equal(inverse > 0, seen)
    lengths = features.norm(dim=3)
    assert float(((inverse * lengths - 1).abs() * seen).max()) < 2e-4
    cosines = (F.normalize(features, dim=3) @ negatives.T).amax(3)
    torch.testing.assert_close(best, cosines * seen, atol=5e-5, rtol=0)
    # Over the same length: rows of embeddings are in half precision, sums of negatives are not.
    highest = (features @ negatives.T).amax(3)
    torch.testing.assert_close(best, highest * inverse, atol=2e-5, rtol=0)


def test_an_empty_frame_shows_nothing() -> None:
    gaussians, camera = cloud(0.5)
    gaussians.means[:, 2] = -9
    codewords, rows, codes = coded(3, 16)
    on = [t.to(DEVICE) for t in (rows, codes)]
    blended = score(*on, codewords[..., :16].to(DEVICE), half=True)
    plain = halves(score(*on, torch.ones(3, 16, NEGATIVES + 1).to(DEVICE)).flatten(1))
    frame = frame_of(gaussians, camera)
    for found in view(frame, blended, plain, NEGATIVES, 0.5, RULES):
        assert torch.equal(found.cpu(), torch.zeros(3, HEIGHT, WIDTH))


def test_no_gaussians_at_all_show_nothing() -> None:
    gaussians, camera = cloud(0.5)
    g = gaussians.select(torch.zeros(N, dtype=torch.bool)).to(DEVICE)
    camera = camera.to(DEVICE)
    frame = see(
        g.means, g.quats, g.scales, g.opacities, camera.viewmat[None], camera.K[None],
        WIDTH, HEIGHT, RULES, VIEW_TILE,
    )  # fmt: skip
    image, alpha = frame.draw(torch.zeros(1, 0, 5, device=DEVICE))
    assert image.shape == (1, HEIGHT, WIDTH, 5) and alpha.shape == (1, HEIGHT, WIDTH, 1)
    rows, codes = (torch.zeros(3, 0, KEPT, dtype=dtype) for dtype in (torch.int32, torch.float32))
    on = [t.to(DEVICE) for t in (rows, codes)]
    blended = score(*on, torch.ones(3, 16, 64).to(DEVICE), half=True)
    plain = halves(score(*on, torch.ones(3, 16, NEGATIVES + 1).to(DEVICE)).flatten(1))
    for found in (image, alpha, *view(frame, blended, plain, NEGATIVES, 0.5, RULES)):
        assert not found.any()


@pytest.mark.parametrize("texts", [1, 3, 40])
def test_gaussians_are_scored_by_their_codes(texts: int) -> None:
    _, rows, codes = coded(3, 20)
    values = torch.randn(3, 20, texts)
    found = score(rows.to(DEVICE), codes.to(DEVICE), values.to(DEVICE))
    wanted = (dense(rows, codes, 20) @ values).transpose(0, 1)
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("texts", [1, 3])
def test_what_is_drawn_of_texts_becomes_their_relevancy(texts: int) -> None:
    dots, levels = torch.randn(HEIGHT, WIDTH, 3 * texts), 3
    inverse, best = torch.rand(2, levels, HEIGHT, WIDTH)
    inverse[:, :9] = 0
    out = torch.full((texts, levels, HEIGHT, WIDTH), torch.nan, device=DEVICE)
    wide = F.pad(dots, (0, 2))[..., : 3 * texts].to(DEVICE)  # as gsplat gives it
    relevancy(wide, inverse.to(DEVICE), best.to(DEVICE), 10.0, out)
    cosines = dots.unflatten(2, (levels, texts)).permute(3, 2, 0, 1) * inverse
    wanted = torch.sigmoid(10 * (cosines - best)) * (inverse > 0)
    torch.testing.assert_close(out.cpu(), wanted, atol=1e-5, rtol=0)


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU's own test is in test_query")
@pytest.mark.parametrize("support", [MIN_SUPPORT, _ANY_SUPPORT])
def test_what_a_gpu_scores_is_what_the_cpu_scores(
    monkeypatch: pytest.MonkeyPatch, support: float
) -> None:
    """The whole way, except gsplat's own functions, whose pictures the CPU draws here."""
    gaussians, camera = cloud(0.9)
    codewords, rows, codes = coded(3, 24)
    mass = torch.ones(3, N)
    mass[1, 7], codes[1, 7] = 0, 0
    field = LanguageField(rows, codes, mass, Codebook(codewords), "none")
    g, view = gaussians, (camera.viewmat[None], camera.K[None], WIDTH, HEIGHT)

    def draw(frame: Frame, colors: Tensor) -> tuple[Tensor, Tensor]:
        return rasterize(g.means, g.quats, g.scales, g.opacities, colors, *view)

    monkeypatch.setattr(Frame, "draw", draw)
    monkeypatch.setattr("langsplat.query.look", lambda *asked: frame_of(gaussians, camera))
    generator = torch.Generator().manual_seed(3)
    texts = F.normalize(torch.randn(NEGATIVES + 3, E, generator=generator), dim=1)
    found, rated = [], []
    for scores in (
        kind(gaussians, field, texts[:NEGATIVES], support)
        for kind in (_CodebookScores, _DrawnScores)
    ):
        asked, out = scores.ask(texts[NEGATIVES:]), torch.full((3, 3, HEIGHT, WIDTH), torch.nan)
        scores.view(camera).relevancy(asked, out)
        found.append(out if support > 0 else out.where(out > 0, 0.5))  # as `as_published` has it
        rated.append(scores.rate(asked, torch.tensor([2, 0, 1])))
    assert (found[0] == (0 if support > 0 else 0.5)).any() and (found[0] > 0.5).any()
    torch.testing.assert_close(found[1], found[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(rated[1], rated[0], atol=1e-5, rtol=0)
    assert rated[1][2, 7] == 0


def test_latents_are_looked_up_as_the_table_does() -> None:
    side, generator = 16, torch.Generator().manual_seed(2)
    table = DecodeTable(torch.empty(0, 4), torch.empty(4, 8), side, 0.0)
    smooth = torch.rand(NEGATIVES + 2, 6, 4, 4, generator=generator)  # as a decoder's answers are
    smooth = F.interpolate(smooth, (side + 1, side + 1), mode="bicubic").flatten(1, 2)
    image = torch.randn(HEIGHT, WIDTH, 12, generator=generator)
    image[0, 0, :3] = torch.tensor([0.5, -0.5, 0.5])  # where three faces meet
    image[0, 1] = 0
    latents, seen = image[..., :9].unflatten(2, (3, 3)), image[..., 9:] > 0.5
    latents, seen = latents.permute(2, 0, 1, 3), seen.permute(2, 0, 1)
    cosines = table.cosines(table.places(latents), smooth)
    best = cosines[..., :NEGATIVES].amax(3)

    wide = F.pad(image, (0, 4))[..., :12].to(DEVICE)  # as gsplat gives it
    negatives, texts = smooth[:NEGATIVES].to(DEVICE), smooth[NEGATIVES:].to(DEVICE)
    places, found = place(wide, negatives, 3, 0.5)
    torch.testing.assert_close(found.cpu(), best, atol=1e-5, rtol=0)
    out = torch.full((2, 3, HEIGHT, WIDTH), torch.nan, device=DEVICE)
    placed(places, found, texts, 10.0, out)
    wanted = torch.sigmoid(10 * (cosines[..., NEGATIVES:] - best[..., None])) * seen[..., None]
    torch.testing.assert_close(out.cpu(), wanted.permute(3, 0, 1, 2), atol=1e-4, rtol=0)
    last = torch.full((1, 1, HEIGHT, WIDTH), torch.nan, device=DEVICE)
    placed(places[2:], found[2:], texts, 10.0, last, 1)
    assert torch.equal(last[0, 0], out[1, 2])


@pytest.mark.parametrize("half", [0, 3, 60])
def test_maps_are_averaged_with_the_means_of_boxes(half: int) -> None:
    maps = torch.rand(2, HEIGHT, WIDTH)
    size = 2 * half + 1
    mean = F.avg_pool2d(maps.double(), (size, 1), 1, (half, 0), count_include_pad=False)
    mean = F.avg_pool2d(mean, (1, size), 1, (0, half), count_include_pad=False)
    found = maps.clone().to(DEVICE)
    half_smooth(found, half)
    torch.testing.assert_close(found.cpu(), 0.5 * (maps + mean.float()), atol=1e-6, rtol=0)


def test_a_gpu_that_is_not_here_could_run_the_kernels() -> None:
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compile_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = dict(line.split() for line in done.stdout.splitlines())
    written = (ROOT / "langsplat" / "_query_triton.py").read_text()
    assert set(compiled) == set(re.findall(r"^def (_\w+_kernel)", written, re.MULTILINE))
    assert all(int(size) > 1000 for size in compiled.values())
