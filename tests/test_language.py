"""Lifting gives each Gaussian the words of the segments it paints; training brings them nearer."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from langsplat.codec import Autoencoder, AutoencoderConfig, Codebook
from langsplat.features import SegmentFeatures
from langsplat.language import (
    LanguageTraining,
    fit_language,
    level_notes,
    lift_language,
    train_language,
)
from langsplat.rasterize import heaviest, render
from langsplat.scene import MAX_CODE, Camera, Gaussians, LanguageField

WIDTH, HEIGHT = 40, 24


def front_camera(name: str = "front") -> Camera:
    K = torch.tensor([[30.0, 0, WIDTH / 2], [0, 30, HEIGHT / 2], [0, 0, 1]])
    return Camera(torch.eye(4), K, WIDTH, HEIGHT, name)


def two_balls() -> Gaussians:
    """60 Gaussians in a ball on the left, 60 in one on the right, and one behind the camera."""
    generator = torch.Generator().manual_seed(0)
    cloud = 0.3 * torch.randn(60, 3, generator=generator).clamp(-1.2, 1.2)
    left, right = cloud + torch.tensor([-1.2, 0, 4]), cloud + torch.tensor([1.2, 0, 4])
    means = torch.cat([left, right, torch.tensor([[0.0, 0, -3]])])
    n = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        scales=torch.full((n, 3), 0.12),
        opacities=torch.full((n,), 0.7),
        sh=torch.zeros(n, 1, 3),
    )


def halves(e: int = 8) -> SegmentFeatures:
    """Level 0: left and right. Level 1: one segment, nothing in the top rows. Level 2: none."""
    segments = np.full((3, HEIGHT, WIDTH), -1, dtype=np.int32)
    segments[0, :, : WIDTH // 2] = 0
    segments[0, :, WIDTH // 2 :] = 1
    segments[1, HEIGHT // 2 :] = 0
    axes = torch.eye(e)
    return SegmentFeatures(segments, [axes[:2], axes[2:3], axes[:0]])


def test_each_ball_gets_its_own_codeword_and_the_unseen_get_none() -> None:
    field = fit_language(two_balls(), [front_camera()], [halves()], "test")
    decoded = field.dense(0) @ field.codec.codewords[0]
    assert (decoded[:60, 0] > 0.99).all() and (decoded[60:120, 1] > 0.99).all()
    assert (field.mass[0, :120] > 0).all()
    assert (field.mass[:, 120] == 0).all(), "no view sees what is behind the camera"
    assert (field.codes[:, 120] == 0).all()
    torch.testing.assert_close(field.codes[0, :120].sum(1), torch.ones(120))


def test_mass_is_the_blending_weight_over_the_segmented_pixels() -> None:
    gaussians, camera = two_balls(), front_camera()
    backwards = replace(halves(), segments=halves().segments[:, ::-1].copy()[:, ::-1])
    field = fit_language(gaussians, [camera, camera], [halves(), backwards], "test")
    # The identity lets the renderer itself spell out W, pixel by Gaussian.
    weights, _ = render(gaussians, camera, values=torch.eye(len(gaussians)))
    torch.testing.assert_close(field.mass[0], 2 * weights.sum((0, 1)), atol=1e-4, rtol=1e-4)
    below = weights[HEIGHT // 2 :].sum((0, 1))
    torch.testing.assert_close(field.mass[1], 2 * below, atol=1e-4, rtol=1e-4)
    assert (field.mass[2] == 0).all()


def test_segments_of_another_size_are_refused_by_name() -> None:
    small = front_camera("IMG_7.jpg").resized(20)
    with pytest.raises(ValueError, match=r"IMG_7.jpg are 40 x 24 but its picture is 20 x 12"):
        fit_language(two_balls(), [small], [halves()], "test")
    with pytest.raises(ValueError, match="1 cameras and 0 records"):
        fit_language(two_balls(), [front_camera()], [], "test")
    with pytest.raises(ValueError, match="at least one codeword, got keep=0"):
        fit_language(two_balls(), [front_camera()], [halves()], "test", keep=0)
    many = Codebook(torch.eye(8)[:1].expand(3, MAX_CODE + 1, 8))
    with pytest.raises(ValueError, match=f"at most {MAX_CODE} codewords, got keep={MAX_CODE + 1}"):
        lift_language(two_balls(), [front_camera()], [halves()], "test", many, keep=MAX_CODE + 1)


def test_settings_may_be_numbers_of_numpy_and_the_folder_a_string(tmp_path: Path) -> None:
    given = two_balls(), [front_camera()], [halves()], "test"
    config = AutoencoderConfig(encoder=(4, 3), decoder=(), rounds=2)
    for codec in ("codebook", "autoencoder"):
        plain, same = (
            fit_language(
                *given,
                codec=codec,
                codewords=whole(4),
                autoencoder=replace(
                    config, encoder=(whole(4), whole(3)), rounds=whole(2), seed=whole(1)
                ),
                training=LanguageTraining(steps=whole(2), seed=whole(1)),
                seed=whole(1),
                state=folder,
            )
            for whole, folder in ((int, None), (np.int64, str(tmp_path / codec)))
        )
        assert torch.equal(plain.codes, same.codes)
        assert (tmp_path / codec / "language.state").is_file()
    for name in ("steps", "seed"):
        with pytest.raises(ValueError, match=rf"{name} must be a whole number, got 2\.5"):
            LanguageTraining(**{name: 2.5})  # type: ignore[arg-type]
    for bad in ({"steps": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match="takes steps >= 1 and learning_rate > 0"):
            LanguageTraining(**bad)  # type: ignore[arg-type]


def test_segments_of_several_encoders_or_segmenters_are_refused() -> None:
    view, cameras = halves(), [front_camera(), front_camera()]
    other = replace(view, embeddings=[rows[:, :4] for rows in view.embeddings])
    flat = replace(view, segments=view.segments[:2], embeddings=view.embeddings[:2])
    for odd in (other, flat):
        with pytest.raises(ValueError, match="describe all views with one segmenter and one enc"):
            fit_language(two_balls(), cameras, [view, odd], "test")
        with pytest.raises(ValueError, match=r"the segments \d and \d: fit one to these segments"):
            lift_language(two_balls(), cameras, [odd, odd], "test", Codebook(torch.ones(3, 5, 8)))


def axes_codec(e: int = 8) -> Autoencoder:
    """An autoencoder that can be computed by hand: the first three axes are kept."""
    return Autoencoder(
        {
            "encoder.0.weight": torch.eye(e)[:3],
            "encoder.0.bias": torch.zeros(3),
            "decoder.0.weight": torch.eye(e)[:, :3].contiguous(),
            "decoder.0.bias": torch.zeros(e),
        }
    )


def lifted(codec: Autoencoder | Codebook | None = None) -> LanguageField:
    codec = codec or axes_codec()
    return lift_language(two_balls(), [front_camera()], [halves()], "test", codec)


def test_lifted_latents_are_the_weighted_mean_of_the_segments_latents() -> None:
    field = lifted()
    weights, _ = render(two_balls(), front_camera(), values=torch.eye(121))
    view, codec = halves(), axes_codec()
    for level in range(2):
        latents = codec.encode(view.embeddings[level])
        segments = torch.from_numpy(view.segments[level])
        seen = (segments >= 0).float()
        sums = torch.einsum(
            "hwn,hwd->nd", weights * seen[..., None], latents[segments.clamp_min(0).long()]
        )
        want = torch.nn.functional.normalize(sums, dim=1)
        torch.testing.assert_close(field.codes[level], want, atol=1e-4, rtol=0)
        mass = (weights * seen[..., None]).sum((0, 1))
        torch.testing.assert_close(field.mass[level], mass, atol=1e-4, rtol=1e-4)
    assert (field.codes[2] == 0).all() and (field.mass[2] == 0).all()
    with pytest.raises(ValueError, match="Latents name no codewords"):
        heaviest(two_balls(), front_camera(), field, 0.5)


def test_lifted_weights_are_the_shares_of_the_segments_codewords() -> None:
    axes, segments = torch.eye(8), halves().segments
    segments[1, :, WIDTH // 2 :] = 1
    view = SegmentFeatures(segments, [axes[:2], axes[1:3], axes[:0]])
    words = torch.stack([axes, axes.roll(3, 0), axes])  # a codeword has another row at each level
    field = lift_language(two_balls(), [front_camera()], [view], "test", Codebook(words), keep=8)
    weights, _ = render(two_balls(), front_camera(), values=torch.eye(121))
    for level in range(2):
        ids = torch.from_numpy(segments[level]).long()
        shown = weights[ids >= 0]  # [pixels, N]
        shares = shown.T @ view.embeddings[level][ids[ids >= 0]]
        shares /= shown.sum(0)[:, None].clamp_min(1e-12)
        torch.testing.assert_close(field.dense(level) @ words[level], shares, atol=1e-4, rtol=0)


@pytest.mark.parametrize("codec", [axes_codec(), Codebook(torch.eye(8).expand(3, 8, 8))])
def test_gaussians_that_do_not_fit_at_once_are_lifted_in_blocks_to_the_same_codes(
    codec: Autoencoder | Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = [front_camera(), replace(front_camera(), viewmat=moved(0.2))]
    told: list[tuple[int, int]] = []

    def lift_all() -> LanguageField:
        return lift_language(
            two_balls(),
            cameras,
            [halves(), halves()],
            "test",
            codec,
            progress=lambda stage, done, total, note: told.append((done, total)),
        )

    whole = lift_all()
    numbers = codec.size if isinstance(codec, Codebook) else codec.latent + 1
    monkeypatch.setattr("langsplat.language._MAX_SUPPORT_BYTES", 50 * 3 * numbers * 4)
    field = lift_all()
    assert torch.equal(field.codes, whole.codes) and torch.equal(field.mass, whole.mass)
    assert field.rows is whole.rows is None or torch.equal(field.rows, whole.rows)
    assert told == [(1, 2), (2, 2), *((done, 6) for done in range(1, 7))], "50 + 50 + 21"


def test_an_autoencoder_is_fitted_and_lifted_in_one_go() -> None:
    notes: list[tuple[str, str]] = []
    field = fit_language(
        two_balls(),
        [front_camera()],
        [halves()],
        "test",
        codec="autoencoder",
        autoencoder=AutoencoderConfig(encoder=(5, 3), decoder=(), rounds=2, least_batches=2),
        progress=lambda stage, done, total, note: notes.append((stage, note)),
    )
    assert isinstance(field.codec, Autoencoder) and field.codes.shape == (3, 121, 3)
    assert field.codec.tensors()["encoder.0.weight"].shape == (5, 8)
    assert any(stage == "Train autoencoder" and "held-out cosine" in note for stage, note in notes)
    assert any("at the level whole, so queries are not" in note for _, note in notes)


def mixed(steps: int = 60, seed: int = 0) -> tuple[LanguageField, LanguageTraining]:
    """Latents that start wrong: lifted ones turned by 45 degrees."""
    field = lifted()
    turned = field.codes + field.codes.roll(1, dims=2)
    codes = torch.nn.functional.normalize(turned, dim=2) * (field.mass > 0)[..., None]
    return replace(field, codes=codes), LanguageTraining(steps, 0.05, seed)


def test_training_brings_latents_to_those_of_the_segments() -> None:
    field, training = mixed()
    losses: list[float] = []
    trained = train_language(
        field,
        two_balls(),
        [front_camera()],
        [halves()],
        training,
        progress=lambda stage, done, total, note: losses.append(float(note.split()[1])),
    )
    assert len(losses) == 60 and losses[-1] < losses[0] - 0.04  # most pixels show no Gaussian
    solid = lifted().mass[0] > 5
    near = (trained.codes[0] * lifted().codes[0]).sum(1)[solid]
    assert (
        float(near.min()) > 0.95 and float((field.codes[0] * lifted().codes[0]).sum(1).max()) < 0.8
    )
    seen = field.mass > 0
    torch.testing.assert_close(trained.codes.norm(dim=2), seen.float())
    assert torch.equal(trained.mass, field.mass) and (trained.codes[:, 120] == 0).all()


def test_levels_trained_together_are_as_if_trained_alone() -> None:
    field, training = mixed(steps=8)
    view, gaussians, cameras = halves(), two_balls(), [front_camera()]
    together = train_language(field, gaussians, cameras, [view], training)
    for level in range(2):
        alone = np.full_like(view.segments, -1)
        alone[level] = view.segments[level]
        only = train_language(
            field, gaussians, cameras, [SegmentFeatures(alone, view.embeddings)], training
        )
        torch.testing.assert_close(only.codes[level], together.codes[level], atol=1e-4, rtol=0)


def test_the_loss_does_not_depend_on_how_much_is_covered() -> None:
    """Nothing is drawn, so every pixel with a segment is equally far from it."""
    away = replace(front_camera(), viewmat=torch.diag(torch.tensor([1.0, -1, -1, 1])))
    losses = []
    for rows in (1, 24):
        segments = np.full((3, HEIGHT, WIDTH), -1, np.int32)
        segments[0, :rows] = 0
        view = SegmentFeatures(segments, [torch.eye(8)[:1], torch.zeros(0, 8), torch.zeros(0, 8)])
        losses.append(loss_of(away, view))
    assert losses[0] == pytest.approx(losses[1]) and losses[0] == pytest.approx(1 / 3, abs=1e-4)


def loss_of(camera: Camera, view: SegmentFeatures) -> float:
    notes: list[str] = []
    train_language(
        lifted(),
        two_balls(),
        [camera],
        [view],
        LanguageTraining(steps=1),
        progress=lambda *report: notes.append(report[3]),
    )
    return float(notes[0].split()[1])


def test_a_view_may_have_more_segments_than_16_bits_count() -> None:
    none = [torch.zeros(0, 8)] * 2
    segments = np.full((3, HEIGHT, WIDTH), -1, np.int32)
    segments[0] = 0
    one = SegmentFeatures(segments, [torch.eye(8)[:1], *none])
    rows = torch.zeros(40_000, 8)
    rows[-1, 0] = 1
    segments = segments.copy()
    segments[0] = len(rows) - 1
    many = SegmentFeatures(segments, [rows, *none])
    assert loss_of(front_camera(), many) == pytest.approx(loss_of(front_camera(), one)) != 0


def test_a_view_without_any_segment_teaches_nothing() -> None:
    view = SegmentFeatures(np.full((3, HEIGHT, WIDTH), -1, np.int32), [torch.zeros(0, 8)] * 3)
    field = lifted()
    trained = train_language(
        field, two_balls(), [front_camera()], [view], LanguageTraining(steps=2)
    )
    torch.testing.assert_close(trained.codes, field.codes)


def test_training_refines_codeword_weights_and_keeps_their_codewords() -> None:
    words = torch.eye(8)[None].repeat(3, 1, 1)
    field = lift_language(
        two_balls(), [front_camera()], [halves()], "test", Codebook(words), keep=4
    )
    assert field.rows is not None
    codes = torch.full_like(field.codes, 0.25) * (field.mass > 0)[..., None]
    start = replace(field, codes=codes)
    losses: list[float] = []
    trained = train_language(
        start,
        two_balls(),
        [front_camera()],
        [halves()],
        LanguageTraining(steps=80, learning_rate=0.1),
        progress=lambda stage, done, total, note: losses.append(float(note.split()[1])),
    )
    assert losses[-1] < losses[0] - 0.1
    assert torch.equal(trained.rows, field.rows)
    torch.testing.assert_close(trained.codes.sum(2), (field.mass > 0).float())
    solid = field.mass[0] > 5
    assert float(trained.codes[0, solid, 0].min()) > 0.8, "the codeword of its own segment"


def test_weights_of_all_codewords_are_made_for_the_gaussians_that_a_view_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def counted(gaussians: Gaussians, camera: Camera, values: torch.Tensor):  # type: ignore[no-untyped-def]
        drawn.append(len(values))
        return render(gaussians, camera, values)

    monkeypatch.setattr("langsplat.language.render", counted)
    field = lifted(Codebook(torch.eye(8).expand(3, 8, 8)))
    aside = replace(front_camera(), viewmat=moved(3.0))  # the right ball is outside
    train_language(field, two_balls(), [aside], [halves()], LanguageTraining(steps=1))
    assert len(drawn) == 2 and 50 < drawn[0] == drawn[1] < 70


def test_lifted_codes_keep_two_codewords_and_trained_ones_four() -> None:
    words = Codebook(torch.eye(8)[None].repeat(3, 1, 1))
    scene = two_balls(), [front_camera()], [halves()], "test"
    trained = fit_language(*scene, codec=words, training=LanguageTraining(steps=1))
    assert fit_language(*scene, codec=words).codes.shape[2] == 2
    assert trained.codes.shape[2] == 4
    assert fit_language(*scene, codec=words, keep=3).codes.shape[2] == 3


def test_the_same_seed_trains_the_same_codes_whether_or_not_gradients_are_on_outside() -> None:
    field, training = mixed(steps=5)
    scene = two_balls(), [front_camera(), front_camera()], [halves(), halves()]
    one = train_language(field, *scene, training)
    with torch.no_grad():
        same = train_language(field, *scene, training)
    assert torch.equal(one.codes, same.codes) and not torch.equal(one.codes, field.codes)


def test_another_seed_takes_the_views_in_another_order() -> None:
    field, training = mixed(steps=3)
    views = [halves() for _ in range(6)]
    cameras = [replace(front_camera(), viewmat=moved(0.1 * k)) for k in range(6)]
    one, other = (
        train_language(field, two_balls(), cameras, views, replace(training, seed=seed))
        for seed in (0, 1)
    )
    assert not torch.equal(one.codes, other.codes)


def moved(right: float) -> torch.Tensor:
    viewmat = torch.eye(4)
    viewmat[0, 3] = right
    return viewmat


class Remembered(list[SegmentFeatures]):
    """Features that remember in which order they were asked for."""

    def __init__(self, views: list[SegmentFeatures]) -> None:
        super().__init__(views)
        self.asked: list[int] = []

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.asked.append(index)
        return super().__getitem__(index)


def test_every_view_has_its_turn_before_any_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langsplat.language._MAX_TARGET_BYTES", 0)
    views = Remembered([halves() for _ in range(5)])
    train_language(lifted(), two_balls(), [front_camera()] * 5, views, LanguageTraining(steps=10))
    first, second = views.asked[:5], views.asked[5:]
    assert sorted(first) == sorted(second) == list(range(5)) and first != second


def test_the_first_loss_is_that_of_what_was_lifted_where_there_are_segments() -> None:
    """By hand: the mean over a level's segmented pixels, then over the levels that have any."""
    gaussians, camera, segments = two_balls(), front_camera(), halves().segments
    segments[0, :, 5:12] = -1  # Gaussians are drawn there too
    segments[1, HEIGHT // 2 + 1 :] = 1
    axes = torch.eye(8)
    view = SegmentFeatures(segments, [axes[:2], axes[2:4], axes[:0]])
    words = torch.nn.functional.normalize(torch.randn(3, 8, 8), dim=2)  # neither axes nor alike
    for codec in (axes_codec(), Codebook(words)):
        field = lift_language(gaussians, [camera], [view], "test", codec)
        by_level = []
        for level in range(2):
            segments = torch.from_numpy(view.segments[level]).long()
            shown, _ = render(gaussians, camera, values=field.values(level))
            shown, meant = shown[segments >= 0], segments[segments >= 0]
            if isinstance(codec, Autoencoder):
                wanted = codec.encode(view.embeddings[level])[meant]
                by_level.append((shown - wanted).abs().mean())
            else:
                decoded = torch.nn.functional.normalize(shown @ codec.codewords[level], dim=1)
                by_level.append(1 - (decoded * view.embeddings[level][meant]).sum(1).mean())
        losses: list[float] = []
        train_language(
            field,
            gaussians,
            [camera],
            [view],
            LanguageTraining(steps=1),
            progress=lambda *report, to=losses: to.append(float(report[3].split()[1])),
        )
        assert losses == [pytest.approx(float(sum(by_level)) / 2, abs=2e-3)]


def test_the_codec_is_made_with_the_seed_and_keeps_as_many_codewords_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    segments = np.arange(WIDTH, dtype=np.int32).repeat(HEIGHT).reshape(WIDTH, HEIGHT).T
    view = SegmentFeatures(np.ascontiguousarray(segments)[None], [rows])
    one, other = (
        fit_language(two_balls(), [front_camera()], [view], "test", codewords=5, keep=2, seed=seed)
        for seed in (0, 1)
    )
    assert isinstance(one.codec, Codebook) and isinstance(other.codec, Codebook)
    assert one.codes.shape == (1, 121, 2) and one.codec.codewords.shape == (1, 5, 8)
    assert not torch.equal(one.codec.codewords, other.codec.codewords)
    monkeypatch.setattr(
        "langsplat.language.AutoencoderConfig",
        partial(AutoencoderConfig, rounds=1, least_batches=1),
    )
    first, second = (
        fit_language(
            two_balls(), [front_camera()], [view], "test", codec="autoencoder", seed=seed
        ).codec.tensors()
        for seed in (0, 1)
    )
    assert not torch.equal(first["decoder.0.weight"], second["decoder.0.weight"])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("codec", ["autoencoder", "codebook"])
def test_stopped_training_ends_as_training_that_was_not(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsplat.progress.CHECKPOINT_SECONDS", 0.0)
    field = lifted(
        axes_codec() if codec == "autoencoder" else Codebook(torch.eye(8)[None].repeat(3, 1, 1))
    )
    cameras = [replace(front_camera(), viewmat=moved(0.1 * k)) for k in range(4)]
    views, training = [halves() for _ in range(4)], LanguageTraining(steps=12, learning_rate=0.05)
    state = tmp_path / "work" / "language.state"
    notes: list[tuple[int, str]] = []

    def stopping(stage: str, done: int, total: int, note: str) -> None:
        if done == 7:
            raise Stopped

    def run(training: LanguageTraining, state: Path | None, **options) -> LanguageField:  # type: ignore[no-untyped-def]
        return train_language(field, two_balls(), cameras, views, training, state=state, **options)

    def told(stage: str, done: int, total: int, note: str) -> None:
        notes.append((done, note))

    with pytest.raises(Stopped):
        run(training, state, progress=stopping)
    whole = run(training, None, progress=told)
    alone = notes.copy()
    notes.clear()
    resumed = run(training, state, progress=told)
    assert notes == [(7, "continuing at step 7"), *alone[7:]], "with the same losses, too"
    assert torch.equal(resumed.codes, whole.codes)
    assert [path.name for path in state.parent.iterdir()] == [state.name]
    notes.clear()
    assert torch.equal(run(training, state, progress=told).codes, whole.codes)
    assert notes == [(12, "continuing at step 12")], "what is finished is not done again"
    notes.clear()
    run(replace(training, seed=4), state, progress=told)
    assert "other photos or settings" in notes[0][1] and notes[1][0] == 1
    state.write_bytes(b"torn")
    assert torch.equal(run(training, state).codes, whole.codes)


def test_a_level_without_a_segment_is_told_and_the_others_work() -> None:
    for codec in ("codebook", "autoencoder"):
        field = fit_language(
            two_balls(),
            [front_camera()],
            [halves()],
            "test",
            codec=codec,
            autoencoder=AutoencoderConfig(rounds=2, least_batches=2),
            training=LanguageTraining(steps=2),
        )
        assert level_notes(field) == [
            "No view has a segment at the level whole, so queries are not answered at it: choose "
            "another segmenter if you need it."
        ]
        assert (field.codes[2] == 0).all() and (field.mass[:2].amax(1) > 0).all()


def test_targets_that_are_not_kept_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    field, training = mixed(steps=5)
    kept = train_language(field, two_balls(), [front_camera()], [halves()], training)
    monkeypatch.setattr("langsplat.language._MAX_TARGET_BYTES", 0)
    read = train_language(field, two_balls(), [front_camera()], [halves()], training)
    assert torch.equal(kept.codes, read.codes)


def test_only_as_many_targets_are_kept_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langsplat.language._MAX_TARGET_BYTES", 14_000)  # one takes 5,832
    views = Remembered([halves() for _ in range(5)])
    train_language(lifted(), two_balls(), [front_camera()] * 5, views, LanguageTraining(steps=10))
    again = views.asked[5:]
    assert sorted([*views.asked[:2], *again]) == list(range(5)), "the first two are kept"


def test_training_of_other_codes_or_with_another_codec_is_not_continued(tmp_path: Path) -> None:
    words, notes = torch.eye(8)[None].repeat(3, 1, 1), []
    field = lifted(Codebook(words))
    assert field.rows is not None
    runs = [field, field]  # and then one thing after the other is changed
    runs.append(replace(runs[-1], codec=Codebook(words.roll(1, dims=2))))
    runs.append(replace(runs[-1], codes=field.codes.flip(2)))
    runs.append(replace(runs[-1], rows=field.rows.flip(2)))
    runs.append(replace(runs[-1], mass=2 * field.mass))
    for each in runs:
        train_language(
            each,
            two_balls(),
            [front_camera()],
            [halves()],
            LanguageTraining(steps=1),
            state=tmp_path / "language.state",
            progress=lambda *report: notes.append(report[3]),
        )
    assert notes[1] == "continuing at step 1"
    assert sum("other photos or settings" in note for note in notes) == 4


@pytest.mark.parametrize("codec", [None, Codebook(torch.eye(8)[:5].expand(3, 5, 8))])
def test_training_what_was_lifted_elsewhere_is_refused(codec: Codebook | None) -> None:
    field, view, cameras = lifted(codec), halves(), [front_camera()]
    flat = replace(view, segments=view.segments[:2], embeddings=view.embeddings[:2])
    other = replace(view, embeddings=[rows[:, :4] for rows in view.embeddings])
    for odd in (flat, other):
        with pytest.raises(ValueError, match=r"fit one to these segments|use the encoder"):
            train_language(field, two_balls(), cameras, [odd])
    some = two_balls().select(torch.arange(121) < 5)
    with pytest.raises(ValueError, match="codes of 121 Gaussians but there are 5: lift it on"):
        train_language(field, some, cameras, [view])


def test_presets_of_training() -> None:
    assert LanguageTraining.preset("lift") is None
    assert LanguageTraining.preset("quick") == LanguageTraining(steps=500, learning_rate=0.0025)
    paper = LanguageTraining.preset("paper")
    assert paper is not None and (paper.steps, paper.learning_rate) == (30_000, 0.0025)
    with pytest.raises(ValueError, match=r"lift, quick, paper, not 'fast'"):
        LanguageTraining.preset("fast")


def test_an_autoencoder_of_another_encoder_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="use the encoder that the autoencoder was trained for"):
        lifted(axes_codec(16))
    with pytest.raises(ValueError, match=r"codebook or autoencoder, got 'pq'"):
        fit_language(two_balls(), [front_camera()], [halves()], "test", codec="pq")
