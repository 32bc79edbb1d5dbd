"""Codecs: a codebook finds the clusters that are there; an autoencoder keeps what matters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from langsplat.codec import (
    TABLE_ERROR,
    Autoencoder,
    AutoencoderConfig,
    Codebook,
    fit_autoencoder,
    fit_codebook,
    tabulate,
)
from langsplat.scene import LanguageField


def clusters(count: int, each: int, dim: int = 16, noise: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    centres = torch.linalg.qr(torch.randn(dim, count, generator=generator))[0].T
    rows = centres.repeat_interleave(each, dim=0)
    return F.normalize(rows + noise * torch.randn(len(rows), dim, generator=generator), dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_separate_clusters_get_a_codeword_each(seed: int) -> None:
    rows = clusters(6, 20)
    codec = fit_codebook([rows], size=6, seed=seed)
    assigned = codec.assign(0, rows).reshape(6, 20)
    assert (assigned == assigned[:, :1]).all()
    assert len(assigned[:, 0].unique()) == 6
    assert float((codec.codewords[0][codec.assign(0, rows)] * rows).sum(1).min()) > 0.95


def test_a_codeword_is_the_mean_direction_of_the_embeddings_nearest_to_it() -> None:
    rows = clusters(4, 20, noise=0.3)
    codec = fit_codebook([rows], size=4)
    nearest = codec.assign(0, rows)
    means = torch.stack([rows[nearest == word].sum(0) for word in range(4)])
    torch.testing.assert_close(codec.codewords[0], F.normalize(means, dim=1), atol=1e-5, rtol=0)


def test_codewords_that_are_long_attract_no_more_than_short_ones() -> None:
    """In an imported codebook they have any length; only their directions mean something."""
    rows = clusters(6, 20)
    codec = fit_codebook([rows], size=6)
    imported = Codebook(codec.codewords * torch.tensor([0.1, 1, 10, 2, 5, 0.01])[:, None])
    assert torch.equal(imported.assign(0, rows), codec.assign(0, rows))


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


def test_of_copies_of_a_codeword_the_first_is_assigned() -> None:
    """Also in a view with one segment, where the product with each copy is rounded differently."""
    generator = torch.Generator().manual_seed(0)
    for dim in (3, 32, 512):
        words = F.normalize(torch.randn(5, dim, generator=generator), dim=1)
        codec = Codebook(words.repeat(27, 1)[None, :131])
        for one in F.normalize(torch.randn(50, dim, generator=generator), dim=1):
            assert int(codec.assign(0, one[None])) == int((words @ one).argmax())


def test_identical_embeddings_do_not_break_the_start() -> None:
    codec = fit_codebook([clusters(1, 1).expand(10, 16)], size=5)
    torch.testing.assert_close(codec.codewords.norm(dim=2), torch.ones(1, 5))


def test_more_codewords_than_a_scene_may_have_are_refused_before_they_are_fitted() -> None:
    with pytest.raises(ValueError, match=r"at most 4,096 codewords, got size=5,000"):
        fit_codebook([torch.ones(5000, 1), torch.ones(2, 1)], size=6000)


def test_embeddings_that_are_not_of_length_1_are_refused() -> None:
    """k-means on the sphere would take all of them for one and the same."""
    rows = 30 * clusters(6, 20)
    with pytest.raises(ValueError, match="must have length 1, got one of 30: divide them"):
        fit_codebook([rows[:0], rows])
    with pytest.raises(ValueError, match="must have length 1, got one of 30: divide them"):
        fit_autoencoder(rows)
    with pytest.raises(ValueError, match=r"tensor \[M, E\] for every level, got \[16\]"):
        fit_codebook(clusters(6, 20))  # one level's rows in place of a list of them


def test_nothing_to_describe_is_said() -> None:
    with pytest.raises(ValueError, match="single segment"):
        fit_codebook([torch.zeros(0, 16)], size=4)
    for shape in ((3, 0, 16), (4, 16)):
        with pytest.raises(ValueError, match=r"codewords must be \[L, V, E\], V >= 1, got"):
            Codebook(torch.zeros(shape))


def test_norms_and_scores_agree_with_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langsplat.scene._PAIRS_AT_ONCE", 30)  # three Gaussians
    generator = torch.Generator().manual_seed(0)
    codec = Codebook(F.normalize(torch.randn(2, 7, 16, generator=generator), dim=2))
    rows = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(20)])
    codes = torch.rand(2, 10, 3, generator=generator)
    field = LanguageField(rows.reshape(2, 10, 3), codes, torch.ones(2, 10), codec, "e")
    decoded = torch.stack([field.dense(level) @ codec.codewords[level] for level in range(2)])
    torch.testing.assert_close(field.norms(), decoded.norm(dim=2))
    texts = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    torch.testing.assert_close(field.score(codec.similarity(texts)), decoded @ texts.T)


class Official(nn.Module):
    """The official autoencoder as its checkpoint describes it: two lists of layers."""

    def __init__(self, encoder: list[int], decoder: list[int]) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for index in range(len(encoder) - 1):
            if index:
                self.encoder.extend([nn.BatchNorm1d(encoder[index]), nn.ReLU()])
            self.encoder.append(nn.Linear(encoder[index], encoder[index + 1]))
        for index in range(len(decoder) - 1):
            if index:
                self.decoder.append(nn.ReLU())
            self.decoder.append(nn.Linear(decoder[index], decoder[index + 1]))

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder:
            rows = layer(rows)
        return rows / rows.norm(dim=-1, keepdim=True)

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.decoder:
            rows = layer(rows)
        return rows / rows.norm(dim=-1, keepdim=True)


OFFICIAL = ([512, 256, 128, 64, 32, 3], [3, 16, 32, 64, 128, 256, 256, 512])


def official(
    encoder: list[int] = OFFICIAL[0], decoder: list[int] = OFFICIAL[1], seed: int = 0
) -> Official:
    """With random weights and batch norms that have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Official(encoder, decoder)
        for layer in network.encoder:
            if isinstance(layer, nn.BatchNorm1d):
                nn.init.uniform_(layer.running_mean, -0.1, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 2)
    return network.eval()


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("sizes", [OFFICIAL, ([10, 8, 2], [2, 10]), ([10, 5], [5, 7, 7, 10])])
def test_an_official_file_codes_as_the_official_network_does(sizes, tmp_path: Path) -> None:
    network = official(*sizes)
    torch.save(network.state_dict(), tmp_path / "best_ckpt.pth")
    codec = Autoencoder.from_tensors(torch.load(tmp_path / "best_ckpt.pth", weights_only=True))
    assert (codec.dim, codec.latent) == (sizes[0][0], sizes[1][0])
    rows = unit(20, codec.dim)
    with torch.no_grad():
        latents = network.encode(rows)
        torch.testing.assert_close(codec.encode(rows), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(codec.decode(latents), network.decode(latents))
        short = 0.4 * latents  # as at a border; the official evaluation decodes it unscaled
        torch.testing.assert_close(codec.decode(short, unit=False), network.decode(short))
    torch.testing.assert_close(codec.decode(short), codec.decode(latents))


def test_the_weights_that_are_written_are_the_official_ones() -> None:
    trained, _ = fit_autoencoder(unit(40, 512), AutoencoderConfig(rounds=1, least_batches=1))
    network = official()
    network.load_state_dict(trained.tensors())  # strict: every name and shape
    rows = unit(5, 512, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(trained.encode(rows), network.encode(rows), atol=1e-5, rtol=0)


def test_training_an_autoencoder_keeps_apart_what_was_apart() -> None:
    rows = clusters(6, 30, dim=24)
    config = AutoencoderConfig(encoder=(16, 3), decoder=(16,), rounds=30)
    notes: list[str] = []
    codec, cosine = fit_autoencoder(rows, config, progress=lambda *report: notes.append(report[3]))
    assert codec.latent == 3 and cosine > 0.95
    assert len(notes) == 30 and notes[-1] == max(notes) == f"held-out cosine {cosine:.4f}"
    back = codec.decode(codec.encode(rows))
    assert float((back * rows).sum(1).mean()) > 0.95
    torch.testing.assert_close(codec.encode(rows).norm(dim=1), torch.ones(len(rows)))


def test_the_weights_of_the_best_round_are_kept_and_not_the_last() -> None:
    rows, told = clusters(6, 30, dim=24), []
    # A rate so high that some rounds make it worse.
    config = AutoencoderConfig(encoder=(16, 3), decoder=(16,), rounds=12, learning_rate=0.1)
    codec, best = fit_autoencoder(rows, config, progress=lambda *report: told.append(report[3]))
    assert told[-2] == told[-1], "the last round was not the best"
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    held_out = rows[order][config.holdout_every - 1 :: config.holdout_every]
    cosines = (codec.decode(codec.encode(held_out)) * held_out).sum(1)
    assert float(cosines.mean()) == pytest.approx(best, abs=1e-5)


def test_held_out_embeddings_are_measured_and_teach_nothing() -> None:
    rows, config = clusters(4, 10), AutoencoderConfig(encoder=(8, 3), decoder=(8,), rounds=1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    held_out, others = order[config.holdout_every - 1 :: config.holdout_every], rows.clone()
    others[held_out] = unit(len(held_out), 16)
    (one, cosine), (same, another) = (fit_autoencoder(each, config) for each in (rows, others))
    assert cosine != another
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, same.tensors()[name]), name


@pytest.mark.parametrize("patience", [1, 3])
def test_training_ends_after_as_many_rounds_as_patience_without_a_better_one(
    patience: int,
) -> None:
    # Nothing is learned, so the first round stays the best.
    config = AutoencoderConfig(encoder=(3,), decoder=(), patience=patience, learning_rate=0.0)
    rounds: list[int] = []
    fit_autoencoder(clusters(4, 10), config, progress=lambda *report: rounds.append(report[1]))
    assert rounds == [*range(1, 1 + patience), config.rounds]


def test_the_same_seed_gives_the_same_autoencoder() -> None:
    rows, config = clusters(4, 10), AutoencoderConfig(encoder=(8, 3), decoder=(8,), rounds=2)
    torch.manual_seed(1)
    (one, first), (same, again) = (fit_autoencoder(rows, config) for _ in range(2))
    assert first == again
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, same.tensors()[name]), name
    _, other = fit_autoencoder(rows, replace(config, seed=1))
    assert other != first


class Stopped(Exception):
    pass


def test_a_stopped_autoencoder_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsplat.progress.CHECKPOINT_SECONDS", 0.0)
    rows, state = clusters(4, 10, noise=0.3), tmp_path / "work" / "autoencoder.state"
    config = AutoencoderConfig(encoder=(8, 3), decoder=(8,), rounds=9, least_batches=3)
    notes: list[tuple[int, str]] = []

    def stopping(stage: str, done: int, total: int, note: str) -> None:
        if done == 4:
            raise Stopped

    def told(stage: str, done: int, total: int, note: str) -> None:
        notes.append((done, note))

    with pytest.raises(Stopped):
        fit_autoencoder(rows, config, state=state, progress=stopping)
    whole, cosine = fit_autoencoder(rows, config)
    for begin in ((4, "continuing at round 4"), (9, "continuing at round 9")):
        notes.clear()
        again, same = fit_autoencoder(rows, config, state=state, progress=told)
        assert notes[0] == begin and len(notes) == 10 - begin[0]
        assert same == cosine
        for name, tensor in whole.tensors().items():
            assert torch.equal(tensor, again.tensors()[name]), name
    assert [path.name for path in state.parent.iterdir()] == [state.name]
    for changed in ((rows.flip(0), config), (rows, replace(config, seed=1))):
        fit_autoencoder(*changed, state=state, progress=told)
        assert "other photos or settings" in notes[-10][1]
    state.write_bytes(b"torn")
    assert fit_autoencoder(rows, config, state=state)[1] == cosine


@pytest.mark.parametrize("count", [1, 2, 9, 11, 12])  # of 12, batches of 10 and of 1 are shown
def test_few_embeddings_train_an_autoencoder_too(count: int) -> None:
    config = AutoencoderConfig(encoder=(8, 3), decoder=(8,), rounds=2, batch=10)
    codec, cosine = fit_autoencoder(unit(count, 16), config)
    assert torch.isfinite(codec.decode(codec.encode(unit(count, 16)))).all() and cosine > -1


def test_a_zero_row_does_not_become_nan() -> None:
    codec = Autoencoder.from_tensors(official([6, 3], [3, 6]).state_dict())
    zeros = {name: torch.zeros_like(t) for name, t in codec.tensors().items()}
    blank = Autoencoder(zeros)
    assert torch.isfinite(blank.decode(blank.encode(torch.zeros(2, 6)))).all()
    whole = Autoencoder.from_tensors(official().state_dict())
    assert whole.encode(torch.zeros(0, 512)).shape == (0, 3), "a level without segments"


def test_cosines_of_a_picture_are_those_of_its_decoded_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = Autoencoder.from_tensors(official().state_dict())
    latents, texts = unit(5, 7, 3), unit(4, 512)
    want = codec.decode(latents) @ texts.T
    monkeypatch.setattr("langsplat.codec.DECODED_AT_ONCE", 8)
    torch.testing.assert_close(codec.cosines(latents, texts), want, atol=1e-6, rtol=0)
    assert codec.cosines(latents[:0], texts).shape == (0, 7, 4)


def sharp(decoder: float = 3.0) -> Autoencoder:
    """A decoder whose embeddings change as fast as a trained one's."""
    state = official().state_dict()
    return Autoencoder.from_tensors(
        {k: decoder * v if k.startswith("decoder") else v for k, v in state.items()}
    )


def test_a_table_gives_the_cosines_of_the_decoder_in_every_direction() -> None:
    codec, texts = sharp(), unit(5, 512)
    table = tabulate(codec, unit(500, 3))
    assert table is not None
    edges = torch.tensor([[1.0, 1, 0], [1, -1, 0.5], [-1, -1, -1], [0, 0, -1], [0.3, 1, 1]])
    latents = torch.cat([unit(20_000, 3, seed=1), edges])
    latents = latents * torch.linspace(0.01, 3, len(latents))[:, None]  # only directions count
    texts = torch.cat([texts, codec.decode(latents[:5])])
    corners = table.of_texts(texts)
    wrong = (table.cosines(table.places(latents), corners) - codec.cosines(latents, texts)).abs()
    assert float(codec.cosines(latents, texts).std(0).amax()) > 0.05, "there is something to get"
    assert float(wrong.flatten().kthvalue(int(0.999 * wrong.numel())).values) <= TABLE_ERROR
    assert float(wrong.max()) <= 5 * TABLE_ERROR
    grid = latents[:6].reshape(2, 3, 3)
    assert table.cosines(table.places(grid), corners).shape == (2, 3, 10)
    assert table.cosines(table.places(grid[:0]), corners).shape == (0, 3, 10)
    assert torch.isfinite(table.cosines(table.places(torch.zeros(1, 3)), corners)).all()


def test_a_table_is_as_fine_as_its_measured_error_asks() -> None:
    codec, latents = sharp(), unit(500, 3)
    coarse, fine = (tabulate(codec, latents, error=error) for error in (1e-2, 1e-3))
    assert coarse is not None and fine is not None
    assert coarse.side < fine.side and fine.error <= 1e-3 < coarse.error <= 1e-2
    assert len(fine.rows) == 6 * (fine.side + 1) ** 2 and fine.rows.shape[1] < 256
    torch.testing.assert_close(fine.basis @ fine.basis.T, torch.eye(len(fine.basis)))


def test_without_a_table_that_is_exact_enough_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langsplat.codec.TABLE_SIDES", (8, 16))
    assert tabulate(sharp(), unit(500, 3), error=1e-6) is None
    assert tabulate(sharp(), unit(0, 3)) is None
    four = Autoencoder.from_tensors(official([8, 4], [4, 8]).state_dict())
    assert tabulate(four, unit(500, 4)) is None, "a table has three axes"


def test_weights_that_are_no_autoencoder_are_refused_in_words() -> None:
    state = official().state_dict()
    cases = {
        "decoder.4.bias of the autoencoder is missing": {"decoder.4.bias": None},
        r"encoder.1.running_var of the autoencoder is \[3\]": {
            "encoder.1.running_var": torch.ones(3)
        },
        "not finite: train it again": {"decoder.0.bias": torch.full((16,), torch.nan)},
        "not one autoencoder": {"decoder.12.weight": torch.zeros(99, 256)},
        "encoder has its layers at": {
            "encoder.0.weight": None,
        },
    }
    for words, change in cases.items():
        broken = {k: v for k, v in (state | change).items() if v is not None}
        with pytest.raises(ValueError, match=words):
            Autoencoder.from_tensors(broken)


def test_embeddings_and_latents_that_do_not_fit_are_refused_in_words() -> None:
    codec = Autoencoder.from_tensors(official().state_dict())
    with pytest.raises(ValueError, match=r"\[M, 512\], got \[2, 64\]: use the encoder"):
        codec.encode(torch.zeros(2, 64))
    with pytest.raises(ValueError, match=r"A latent of 4 numbers .* have 3"):
        codec.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="not finite: describe the views again"):
        fit_autoencoder(torch.full((3, 8), torch.nan))
    with pytest.raises(ValueError, match="not finite: describe the views again"):
        fit_codebook([torch.full((3, 8), torch.nan)])
    with pytest.raises(ValueError, match="single segment"):
        fit_autoencoder(torch.zeros(0, 8))
    with pytest.raises(ValueError, match=r"The codes have 4 numbers .* latent has 3"):
        LanguageField(None, torch.zeros(3, 5, 4), torch.zeros(3, 5), codec, "e")
    with pytest.raises(ValueError, match="latents, not weights"):
        LanguageField(None, torch.zeros(3, 5, 3), torch.zeros(3, 5), codec, "e").norms()
