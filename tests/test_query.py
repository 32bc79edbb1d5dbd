"""Answers agree with the slow definition: render E-dimensional features, then score."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from llvmlite import binding as llvm
from llvmlite import ir
from PIL import Image
from scipy import ndimage

from langsplat import _codes_numba
from langsplat.codec import Autoencoder, Codebook, codec_from, tabulate
from langsplat.query import (
    NEAR_ENOUGH,
    NEGATIVES,
    SURE,
    Answer,
    Recent,
    SceneQuery,
    _CodebookScores,
    _half_smooth,
    _near,
    _SparseView,
    check_text,
    half_smoothed,
    heat,
    overlay,
    part_of,
    render_rgb,
    save_answer,
)
from langsplat.rasterize import render
from langsplat.scene import Camera, Gaussians, LanguageField, Scene
from tests.test_language import HEIGHT, WIDTH, front_camera, two_balls

E = 8


on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


class TableEncoder:
    """Texts with known embeddings: what each word means is part of the test."""

    name = "table"
    dim = E
    image_size = 8

    def encode_images(self, crops: np.ndarray) -> torch.Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        axes = torch.eye(E)
        known = {"left ball": axes[0], "right ball": axes[1], "both": axes[0] + axes[1]}
        known["lid of the left ball"] = known["handle"] = known["both"]
        for thing in ("left ball", "unicorn"):  # relevancy 0.9 on the left, 0.7 on the right
            known[f"knob of the {thing}"] = 0.5 * axes[0] + 0.085 * axes[1] + 0.862 * axes[3]
        known |= {name: axes[4 + i] + 0.3 * axes[0] for i, name in enumerate(NEGATIVES)}
        return F.normalize(torch.stack([known.get(text, axes[3]) for text in texts]), dim=1)


def asked_scene() -> Scene:
    """Level 0 is random codes; level 1 knows the left ball from the right one; level 2 is blank."""
    gaussians = two_balls()
    n = len(gaussians)
    generator = torch.Generator().manual_seed(1)
    codewords = F.normalize(torch.randn(3, 6, E, generator=generator), dim=2)
    codewords[1, 0], codewords[1, 1] = torch.eye(E)[0], torch.eye(E)[1]
    rows = torch.randint(0, 3, (3, n, 2), generator=generator)
    rows[..., 1] += 3
    codes = torch.rand(3, n, 2, generator=generator)
    codes = codes / codes.sum(2, keepdim=True)
    rows[1, :60], rows[1, 60:120] = torch.tensor([0, 2]), torch.tensor([1, 2])
    codes[1] = torch.tensor([1.0, 0.0])
    mass = torch.ones(3, n)
    mass[:, 120] = 0
    mass[2] = 0
    codes = codes * (mass > 0)[..., None]
    return Scene(
        gaussians=gaussians,
        cameras=(front_camera(),),
        up=torch.tensor([0.0, -1, 0]),
        center=torch.tensor([0.0, 0, 4]),
        radius=4.0,
        language=LanguageField(rows, codes, mass, Codebook(codewords), "table"),
    )


def slow_relevancy(scene: Scene, text: str, camera: Camera | None = None) -> torch.Tensor:
    """[L, H, W]: features of every pixel in full, the softmax over pairs as the paper writes it."""
    field, encoder = scene.language, TableEncoder()
    assert field is not None
    query, negatives = encoder.encode_texts([text]), encoder.encode_texts(list(NEGATIVES))
    out = []
    for level in range(3):
        values = torch.cat(
            [field.dense(level) @ field.codec.codewords[level], field.codes[level].float()], 1
        )
        image, _ = render(scene.gaussians, camera or scene.cameras[0], values=values)
        features = F.normalize(image[..., :E], dim=2)
        positive = (10 * features @ query.T).exp()
        pairs = positive / (positive + (10 * features @ negatives.T).exp())
        out.append(pairs.amin(2) * (image[..., E:].sum(2) > 0.5))
    return torch.stack(out)


@pytest.fixture(scope="module")
def engine() -> SceneQuery:
    return SceneQuery(asked_scene(), TableEncoder())


@pytest.mark.parametrize("text", ["left ball", "right ball", "both", "something else"])
def test_pixel_relevancy_agrees_with_scoring_full_features(engine: SceneQuery, text: str) -> None:
    answer = engine.ask(text, engine.scene.cameras[0])
    want = half_smoothed(slow_relevancy(engine.scene, text))
    np.testing.assert_allclose(answer.by_level, want.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["codebook", "autoencoder"])
def test_a_scene_in_training_answers_as_it_is(kind: str) -> None:
    scene = asked_scene() if kind == "codebook" else latent_scene()
    assert scene.language is not None
    scene = replace(scene, gaussians=replace(scene.gaussians, near=4.0))  # amid the balls
    want = SceneQuery(scene, TableEncoder()).ask("left ball", scene.cameras[0])
    names = ("means", "quats", "scales", "opacities", "sh")
    leaves = {name: getattr(scene.gaussians, name).clone().requires_grad_() for name in names}
    codes, codec = scene.language.codes.clone().requires_grad_(), scene.language.codec
    weights = {name: tensor.clone().requires_grad_() for name, tensor in codec.tensors().items()}
    language = replace(scene.language, codes=codes, codec=codec_from(codec.kind, weights))
    trained = replace(scene, gaussians=replace(scene.gaussians, **leaves), language=language)
    camera = scene.cameras[0]
    posed = replace(camera, viewmat=camera.viewmat.clone().requires_grad_())  # poses, too
    engine = SceneQuery(trained, TableEncoder())
    for got in (engine.ask("left ball", posed), engine.ask("left ball", camera)):
        np.testing.assert_array_equal(got.by_level, want.by_level)
        np.testing.assert_array_equal(got.gaussian_relevancy, want.gaussian_relevancy)
    np.testing.assert_array_equal(engine.render(posed), render_rgb(scene, camera))


@pytest.mark.parametrize("names", [("means", "quats", "scales", "opacities", "sh"), ("sh",)])
def test_a_scene_of_half_floats_is_asked_and_drawn(names: tuple[str, ...]) -> None:
    scene = asked_scene()
    halves = {name: getattr(scene.gaussians, name).half() for name in names}
    field = scene.language
    assert field is not None and isinstance(field.codec, Codebook)
    codec = Codebook(field.codec.codewords.half())
    field = replace(field, codes=field.codes.bfloat16(), codec=codec)
    gaussians = replace(scene.gaussians, **halves)
    engine = SceneQuery(replace(scene, gaussians=gaussians, language=field), TableEncoder())
    answer = engine.ask("left ball", scene.cameras[0])
    assert answer.found and engine.render(scene.cameras[0]).shape == (*answer.mask.shape, 3)


@on_devices
def test_codewords_may_be_of_any_length(device: str) -> None:
    """As in LangSplatV2, differently for each level; one that no Gaussian has must not matter."""
    scene = asked_scene()
    assert scene.language is not None and isinstance(scene.language.codec, Codebook)
    rows, codewords = scene.language.rows.clone(), scene.language.codec.codewords.clone()
    rows[0] = rows[0].clamp(1, 4)
    codewords[0] *= torch.tensor([1000, 1, 2, 3, 4, 1000])[:, None]
    codewords[1] *= 0.01
    scene = replace(scene, language=replace(scene.language, rows=rows, codec=Codebook(codewords)))
    want = half_smoothed(slow_relevancy(scene, "both")).numpy()
    engine = SceneQuery(scene.to(device), TableEncoder())
    answer = engine.ask("both", engine.scene.cameras[0])
    np.testing.assert_allclose(answer.by_level, want, atol=1e-4 if device == "cpu" else 1e-3)


def latent_scene() -> Scene:
    """The same balls with latents: level 1 knows left from right, level 2 is blank."""
    scene = asked_scene()
    assert scene.language is not None
    n, codec = len(scene.gaussians), latent_codec()
    codes = F.normalize(torch.randn(3, n, 3, generator=torch.Generator().manual_seed(2)), dim=2)
    left, right = codec.encode(torch.eye(E)[:2])  # the decoder nearly returns the axes
    codes[1, :60], codes[1, 60:120] = left, right
    field = LanguageField(None, codes, scene.language.mass, codec, "table")
    return replace(scene, language=field)


def latent_codec() -> Autoencoder:
    """Its decoder bends a little, as trained ones do."""
    bend = torch.rand(16, 3, generator=torch.Generator().manual_seed(3))
    return Autoencoder(
        {
            "encoder.0.weight": torch.eye(E)[:3],
            "encoder.0.bias": torch.zeros(3),
            "decoder.0.weight": torch.cat([torch.eye(3), -torch.eye(3), bend - 0.5]),
            "decoder.0.bias": torch.zeros(22),
            "decoder.2.weight": torch.cat(
                [torch.eye(E)[:, :3], -torch.eye(E)[:, :3], torch.zeros(E, 16)], dim=1
            ),
            "decoder.2.bias": 0.01 * torch.ones(E),
        }
    )


@pytest.mark.parametrize("text", ["left ball", "right ball", "something else"])
def test_latents_are_scored_as_if_every_pixel_were_decoded(text: str) -> None:
    scene, encoder = latent_scene(), TableEncoder()
    field = scene.language
    assert field is not None
    engine = SceneQuery(scene, encoder, exact=True)
    answer = engine.ask(text, scene.cameras[0], level="part")
    query, negatives = encoder.encode_texts([text]), encoder.encode_texts(list(NEGATIVES))

    def score(features: torch.Tensor) -> torch.Tensor:
        best = (features @ negatives.T).amax(-1)
        return torch.sigmoid(10 * ((features @ query.T)[..., 0] - best))

    for level in range(3):
        described = (field.mass[level] > 0).float()[:, None]
        values = torch.cat([field.codes[level] * described, described], 1)
        image, _ = render(scene.gaussians, scene.cameras[0], values=values)
        want = score(field.codec.decode(image[..., :3])) * (image[..., 3] > 0.5)
        want = half_smoothed(want[None])[0].numpy()
        np.testing.assert_allclose(answer.by_level[level], want, atol=1e-4)
    of_gaussians = score(field.codec.decode(field.codes[1])) * (field.mass[1] > 0)
    np.testing.assert_allclose(answer.gaussian_relevancy, of_gaussians.numpy(), atol=1e-5)


def test_a_table_answers_as_the_decoder_does(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, camera = latent_scene(), front_camera()
    exact = SceneQuery(scene, TableEncoder(), exact=True)
    want, want_3d = exact.relevancy(["both"], camera), exact.gaussian_relevancy(["both"])
    engine = SceneQuery(scene, TableEncoder())
    monkeypatch.setattr(Autoencoder, "decode", None)  # with a table nothing is decoded any more
    for got, wanted in (
        (engine.relevancy(["both"], camera), want),
        (engine.gaussian_relevancy(["both"]), want_3d),
    ):
        assert float((got - wanted).abs().flatten().quantile(0.999)) <= 0.005
        assert (got[wanted == 0] == 0).all()
    assert float(want.max()) > 0.5


@pytest.mark.parametrize("texts", [1, 3, 6, 11])
def test_the_cpu_looks_latents_up_as_the_table_does(texts: int) -> None:
    table = tabulate(latent_codec(), F.normalize(torch.eye(3) + 0.5, dim=1))
    assert table is not None and len(table.rows) % _codes_numba.LANES, "the last row is not full"
    generator = torch.Generator().manual_seed(4)
    asked = F.normalize(torch.randn(4 + texts, E, generator=generator), dim=1)
    packed = _codes_numba.Table.of(table.rows, table.basis, table.side)
    negatives, corners = packed.score(asked[:4]), packed.score(asked[4:])
    want = table.of_texts(asked)
    got = np.concatenate([negatives, corners], axis=2).transpose(2, 0, 1)
    np.testing.assert_allclose(got, want.numpy(), atol=4e-5)

    image = torch.randn(7, 9, 12, generator=generator)  # 189 places, not a multiple of 16
    image[0, 0, :9] = torch.tensor([0.5, -0.5, 0.5]).repeat(3)  # where three faces meet
    image[0, 1], image[0, :2, 9:] = 0, 1  # seen, and so is a latent without length
    image[1, 0, 9:] = 0.5  # not more than half
    latents, seen = image[..., :9].unflatten(2, (3, 3)).permute(2, 0, 1, 3), image[..., 9:] > 0.5
    seen = seen.permute(2, 0, 1)
    at = table.places(latents)
    cosines = table.cosines(at, want)
    best = cosines[..., :4].amax(3)
    places, found = _codes_numba.place(image, negatives, 3, 0.5)
    cells = (at + 1) * torch.tensor([table.side / 2, 3 * table.side + 2.5])
    torch.testing.assert_close(places[seen], cells[seen], atol=2e-4, rtol=0)
    torch.testing.assert_close(found, best * seen, atol=1e-4, rtol=0)
    out = torch.full((texts, 3, 7, 9), torch.nan)
    _codes_numba.placed(places, found, corners, 10.0, out)
    wanted = torch.sigmoid(10 * (cosines[..., 4:] - best[..., None])) * seen[..., None]
    torch.testing.assert_close(out, wanted.permute(3, 0, 1, 2), atol=5e-4, rtol=0)
    last = torch.full((1, 1, 7, 9), torch.nan)
    # Behind its places lies anything, which is not taken for places.
    own = torch.cat([places[2].flatten(), torch.full((30,), 1e12)])[:-30].view(1, 7, 9, 2)
    _codes_numba.placed(own, found[2:], corners, 10.0, last, texts - 1)
    torch.testing.assert_close(last[0, 0], out[-1, 2], atol=0, rtol=0)

    image[..., :9] = torch.nan
    places, _ = _codes_numba.place(image, negatives, 3, 0.5)
    assert places.isfinite().all(), "it would be looked up anywhere in memory"


def test_latents_of_more_than_three_numbers_are_decoded_pixel_by_pixel() -> None:
    scene = latent_scene()
    assert scene.language is not None
    old, codes = scene.language.codec.tensors(), scene.language.codes
    wider = {  # a fourth number that changes nothing
        "encoder.0.weight": torch.eye(E)[:4],
        "encoder.0.bias": torch.zeros(4),
        "decoder.0.weight": F.pad(old["decoder.0.weight"], (0, 1)),
    }
    field = replace(scene.language, codec=Autoencoder({**old, **wider}), codes=F.pad(codes, (0, 1)))
    camera, texts = front_camera(), ["left ball", "both"]
    got = SceneQuery(replace(scene, language=field), TableEncoder()).relevancy(texts, camera)
    want = SceneQuery(scene, TableEncoder(), exact=True).relevancy(texts, camera)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_published_latents_are_decoded_at_their_blended_length_in_every_pixel() -> None:
    scene, encoder, camera = latent_scene(), TableEncoder(), front_camera()
    field = scene.language
    assert field is not None and isinstance(field.codec, Autoencoder)
    query, negatives = encoder.encode_texts(["both"]), encoder.encode_texts(list(NEGATIVES))
    got = SceneQuery(scene, encoder, as_published=True).relevancy(["both"], camera)
    for level in range(3):
        values = field.codes[level] * (field.mass[level] > 0).float()[:, None]
        image, _ = render(scene.gaussians, camera, values=values)
        features = field.codec.decode(image, unit=False)
        margin = (features @ query.T)[..., 0] - (features @ negatives.T).amax(-1)
        torch.testing.assert_close(got[0, level], torch.sigmoid(10 * margin), atol=1e-5, rtol=0)


def test_published_codes_answer_in_every_pixel_and_say_nothing_where_nothing_is() -> None:
    scene, encoder, camera = asked_scene(), TableEncoder(), front_camera()
    asked = ["left ball", "right ball"]
    plain = SceneQuery(scene, encoder).relevancy(asked, camera)
    got = SceneQuery(scene, encoder, as_published=True).relevancy(asked, camera)
    silent = plain == 0
    torch.testing.assert_close(got[~silent], plain[~silent], atol=1e-6, rtol=0)
    _, alpha = render(scene.gaussians, camera)
    empty = (alpha[..., 0] == 0).expand(got.shape)
    assert empty.any() and (got[empty] == 0.5).all()
    faint = got[silent & ~empty]
    assert (faint > 0).all() and (faint != 0.5).any()


def test_words_find_their_balls_through_latents_too() -> None:
    engine = SceneQuery(latent_scene(), TableEncoder())
    camera = engine.scene.cameras[0]
    left, right = (engine.ask(text, camera, level="part") for text in ("left ball", "right ball"))
    assert left.found and left.peak[0] < WIDTH // 2 and left.count == 60
    assert right.found and right.peak[0] > WIDTH // 2 and right.count == 60
    assert engine.ask("left ball", camera, level="whole").score == 0, "no view ever saw that level"


@pytest.mark.parametrize("texts", [1, 2, 7, 10, 12, 17, 21])
def test_any_number_of_words_sums_all_its_channels(texts: int) -> None:
    """Asked of the scores directly, because queries ask for at most ten words at a time."""
    scene = random_scene(n=40)
    scores = SceneQuery(scene, TableEncoder())._scores
    assert isinstance(scores, _CodebookScores)
    embeddings = F.normalize(torch.randn(texts, E, generator=torch.Generator().manual_seed(6)))
    camera = scene.cameras[0].resized(33, 21)
    together = torch.full((texts, 3, 21, 33), torch.nan)
    view = scores.view(camera)
    view.relevancy(scores.ask(embeddings), together)
    for text, found in zip(embeddings, together, strict=True):
        alone = torch.full((1, 3, 21, 33), torch.nan)
        view.relevancy(scores.ask(text[None]), alone)
        torch.testing.assert_close(found, alone[0], atol=1e-6, rtol=0)


def test_several_texts_at_once_score_as_they_do_alone(engine: SceneQuery) -> None:
    camera, texts = engine.scene.cameras[0], ["left ball", "both", "x"] * 4
    for asked in (engine, SceneQuery(latent_scene(), TableEncoder())):
        together = asked.relevancy(texts, camera)
        assert together.shape == (12, 3, HEIGHT, WIDTH)
        of_gaussians = asked.gaussian_relevancy(texts)
        for index in (0, 10):
            answer = asked.ask(texts[index], camera, level="part")
            np.testing.assert_allclose(
                half_smoothed(together[index]).numpy(), answer.by_level, atol=1e-5
            )
            np.testing.assert_allclose(
                of_gaussians[index, 1].numpy(), answer.gaussian_relevancy, atol=1e-5
            )


def test_each_word_finds_its_ball(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    left, right = engine.ask("left ball", camera), engine.ask("right ball", camera)
    assert left.found and left.level == "part" and left.peak[0] < WIDTH // 2
    assert right.found and right.level == "part" and right.peak[0] > WIDTH // 2
    assert left.box is not None and left.box[2] <= WIDTH // 2 + 1
    assert left.count == 60 and (left.gaussian_relevancy[60:120] <= 0.5).all()
    assert left.gaussian_relevancy[120] == 0, "a Gaussian no view saw has no score"
    assert 0 < left.share < 0.5
    left_mask = left.mask
    assert not (left_mask & right.mask).any()


def test_what_was_found_is_told_in_words(engine: SceneQuery) -> None:
    answer = replace(engine.ask("left ball", engine.scene.cameras[0]), seconds=0.123)
    score, share = f"{answer.score:.2f}", f"{100 * answer.share:.1f}"
    assert answer.sentence() == (
        f"Found “left ball” on the left (score {score} of 1, level part): "
        f"{share} % of the picture, in 0.12 s."
    )
    relevancy = np.zeros((100, 100), np.float32)
    for y, x, where in (
        (5, 95, "at the top right"),
        (99, 50, "at the bottom"),
        (50, 50, "in the middle"),
    ):
        relevancy[:] = 0
        relevancy[y, x] = 0.9
        said = replace(answer, relevancy=relevancy, seconds=1e-4).sentence()
        assert said.startswith(f"Found “left ball” {where} (score 0.90")
        assert said.endswith(": less than 0.1 % of the picture, in 0.01 s.")
    everywhere = replace(answer, relevancy=np.full((4, 4), 0.9, np.float32)).sentence()
    assert everywhere.startswith("Found “left ball” (score 0.90")


def test_an_absent_thing_gives_an_empty_mask_in_words(engine: SceneQuery) -> None:
    answer = engine.ask("submarine", engine.scene.cameras[0], level="part")
    assert not answer.found and answer.box is None and answer.share == 0
    assert "Nothing here looks like “submarine”" in answer.sentence()
    nearly = replace(answer, relevancy=np.full((4, 4), 0.4996, np.float32))
    assert "view is 0.49, below the threshold of 0.50" in nearly.sentence()
    elsewhere = replace(answer, gaussian_relevancy=np.full(121, 0.9, np.float32))
    assert "Of the whole scene 121 Gaussians score above it" in elsewhere.sentence()


@pytest.mark.parametrize(
    ("best", "elsewhere", "threshold", "absent"),
    [
        (0.49, 99, 0.5, True),
        (0.49, 100, 0.5, False),  # it may be out of sight
        (0.5, 0, 0.5, False),
        (0.6, 0, 0.9, False),  # below the threshold, but as good as plain words
        (0.35, 0, 0.3, False),
    ],
)
def test_a_thing_is_absent_if_it_is_found_neither_in_the_picture_nor_out_of_sight(
    best: float, elsewhere: int, threshold: float, absent: bool
) -> None:
    by_level = np.full((3, 4, 4), 0.1, np.float32)
    by_level[2, 1, 1] = best  # at another level than the one that answers
    scores = np.zeros(200, np.float32)
    scores[:elsewhere] = 0.95
    answer = Answer("cup", "part", threshold, by_level[1], by_level, scores, 0.1)
    assert answer.absent == absent


def test_an_empty_mask_says_when_a_level_or_the_threshold_is_the_reason(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    strict = engine.ask("left ball", camera, threshold=1.0)
    assert "Nothing here scores above the threshold of 1.00" in strict.sentence()
    chosen = engine.ask("left ball", camera, level="whole")
    assert not chosen.found and engine.ask("left ball", camera).level == "part"
    assert "Nothing here looks like “left ball” at the whole level" in chosen.sentence()
    assert f"At the part level it is {chosen.by_level[1].max():.2f}" in chosen.sentence()


@pytest.mark.parametrize(
    ("text", "several"),
    [
        *[("left ball, right ball", True), ("left ball and mug", True), ("Not the ball", True)],
        *[("knot", False), ("sand ball", False), ("left ball", False)],
    ],
)
def test_questions_about_several_things_are_told_to_be(
    engine: SceneQuery, text: str, several: bool
) -> None:
    said = replace(engine.ask("left ball", engine.scene.cameras[0]), text=text).sentence()
    assert ("Ask for one thing at a time" in said) == several


def test_a_view_that_sees_nothing_scores_zero_everywhere(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    away = torch.eye(4)
    away[2, 3] = -1000  # the whole scene lies behind
    answer = engine.ask("left ball", replace(camera, viewmat=away))
    assert np.isfinite(answer.by_level).all() and answer.score == 0


def test_a_level_can_be_asked_for(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    assert engine.ask("left ball", camera, level="whole").score == 0
    with pytest.raises(ValueError, match="subpart, part, whole"):
        engine.ask("left ball", camera, level="galaxy")


def test_the_threshold_is_absolute(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    wide, narrow = (engine.ask("left ball", camera, threshold=t) for t in (0.3, 0.9))
    assert wide.mask.sum() > narrow.mask.sum()
    np.testing.assert_array_equal(wide.relevancy, narrow.relevancy)
    numpys = engine.ask("left ball", camera, threshold=np.float32(0.5))
    assert json.loads(json.dumps(numpys.as_dict()))["threshold"] == 0.5
    assert not replace(wide, threshold=wide.score).found, "what is no higher is outside"
    highest = float(wide.gaussian_relevancy.max())
    assert replace(wide, threshold=highest).count == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        engine.ask("left ball", camera, threshold=7)


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_an_empty_query_is_answered_with_advice(engine: SceneQuery, text: str) -> None:
    with pytest.raises(ValueError, match="Type what to look for"):
        engine.ask(text, engine.scene.cameras[0])


@pytest.mark.parametrize("text", ["a", "Of the", "the, and a...", "?!", "42", "\N{BEAR FACE}"])
def test_words_that_name_nothing_are_refused(engine: SceneQuery, text: str) -> None:
    with pytest.raises(ValueError, match="names no thing: type what to look for"):
        engine.ask(text, engine.scene.cameras[0])


@pytest.mark.parametrize("text", ["A4", "it", "or", "x", "the who", "letter a", "熊", "वह"])
def test_short_words_that_may_name_something_are_asked(text: str) -> None:
    assert check_text(text) == text


def test_an_endless_query_is_refused_with_its_length(engine: SceneQuery) -> None:
    with pytest.raises(ValueError, match="10,000"):
        engine.ask("x" * 10_000, engine.scene.cameras[0])
    with pytest.raises(ValueError, match="at most 200 characters, this one has 201"):
        check_text("x" * 201)
    assert check_text("x" * 200) == "x" * 200
    assert check_text("  the   red\nmug ") == "the red mug"
    assert check_text("la\udcffmp") == "la?mp", "bytes of a terminal that are no text"
    assert check_text("red \u202e mug\u2066") == "red mug", "no marks that turn sentences around"


def test_a_notebook_shows_what_was_found_and_no_numbers_by_the_thousand(engine: SceneQuery) -> None:
    answer = engine.ask("left ball", engine.scene.cameras[0])
    assert repr(answer) == f"Answer({answer.sentence()})"
    assert repr(engine.scene) == "Scene('scene': 121 Gaussians, cameras 1, encoder 'table')"


def test_a_slip_in_python_is_told_in_a_sentence(engine: SceneQuery, tmp_path: Path) -> None:
    camera = engine.scene.cameras[0]
    for ask in (
        lambda: engine.ask_all("mug", camera),
        lambda: engine.relevancy("mug", camera),
        lambda: engine.gaussian_relevancy("mug"),
    ):
        with pytest.raises(ValueError, match="Give a list of texts, not a string"):
            ask()
    for ask in (
        lambda: engine.relevancy([3], camera),  # type: ignore[list-item]
        lambda: engine.gaussian_relevancy(["mug", 3]),  # type: ignore[list-item]
    ):
        with pytest.raises(ValueError, match="one of them is of type int"):
            ask()
    with pytest.raises(ValueError, match="is a text, not a Camera"):
        engine.ask(camera, "mug")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        engine.ask("mug", replace(camera, viewmat=camera.viewmat * torch.nan))
    answer = engine.ask("left ball", camera)
    with pytest.raises(ValueError, match="draw it by the same camera"):
        save_answer(answer, engine.render(camera.resized(20)), tmp_path)
    drawn, _ = render(engine.scene.gaussians, camera)
    for picture in (drawn, drawn.numpy(), engine.render(camera)[..., 0]):
        with pytest.raises(ValueError, match=r"must be an array .* of uint8: take the one"):
            save_answer(answer, picture, tmp_path)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.numpy(),
        lambda rows: rows[:, :3],
        lambda rows: rows[:1],
        lambda rows: 5 * rows,
        lambda rows: rows * torch.nan,
    ],
)
def test_an_encoder_of_ones_own_that_makes_other_things_of_texts_is_refused(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[torch.Tensor], object]
) -> None:
    encode = TableEncoder.encode_texts
    monkeypatch.setattr(TableEncoder, "encode_texts", lambda *given: spoil(encode(*given)))
    with pytest.raises(ValueError, match=r"'table' must make of T texts a tensor \[T, 8\]"):
        SceneQuery(asked_scene(), TableEncoder())


@pytest.mark.parametrize("kind", ["codebook", "autoencoder"])
def test_an_encoder_of_ones_own_may_leave_gradients_on(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    scene, encode = (
        asked_scene() if kind == "codebook" else latent_scene(),
        TableEncoder.encode_texts,
    )
    want = SceneQuery(scene, TableEncoder()).ask("left ball", scene.cameras[0])
    leaves = lambda *given: encode(*given).requires_grad_()  # noqa: E731
    monkeypatch.setattr(TableEncoder, "encode_texts", leaves)
    got = SceneQuery(scene, TableEncoder()).ask("left ball", scene.cameras[0])
    np.testing.assert_array_equal(got.by_level, want.by_level)


def test_another_encoders_scene_and_a_scene_without_words_are_refused() -> None:
    scene = asked_scene()
    assert scene.language is not None
    with pytest.raises(ValueError, match=r"'other'.*'table'"):
        SceneQuery(
            replace(scene, language=replace(scene.language, encoder="other")), TableEncoder()
        )
    with pytest.raises(ValueError, match="no language field"):
        SceneQuery(replace(scene, language=None), TableEncoder())
    short = replace(scene.language, codec=Codebook(torch.ones(3, 6, E - 1)))
    with pytest.raises(ValueError, match=f"have {E - 1} numbers, those of its encoder 'table' {E}"):
        SceneQuery(replace(scene, language=short), TableEncoder())


def random_scene(n: int = 300, words: int = 100) -> Scene:
    """A cloud in front of the camera with random codes; every seventh Gaussian was never seen."""
    generator = torch.Generator().manual_seed(5)

    def rand(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    gaussians = Gaussians(
        means=(rand(n, 3) - 0.5) * torch.tensor([3.0, 2.0, 2.0]) + torch.tensor([0.0, 0, 4]),
        quats=torch.randn(n, 4, generator=generator),
        scales=0.02 + 0.2 * rand(n, 3),
        opacities=0.05 + 0.95 * rand(n),
        sh=rand(n, 1, 3),
    )
    # Like encoders' embeddings they share a direction, so that sums of any do not cancel.
    codewords = F.normalize(torch.randn(3, words, E, generator=generator) + 1, dim=2)
    codes = rand(3, n, 4)
    codes[:, ::3, 2:] = 0
    mass = torch.ones(3, n)
    mass[:, ::7] = 0
    codes = codes / codes.sum(2, keepdim=True) * (mass > 0)[..., None]
    rows = rand(3, n, words).argsort(2)[..., :4]
    field = LanguageField(rows, codes, mass, Codebook(codewords), "table")
    return replace(asked_scene(), gaussians=gaussians, language=field)


@on_devices
def test_a_part_is_looked_for_near_its_thing_where_that_is_found(device: str) -> None:
    """Both balls have a knob; the text says which one's is meant."""
    scene = asked_scene().to(device)
    assert scene.language is not None
    scene.language.mass[0] = 0  # at this level codes are random
    camera, encoder = scene.cameras[0], TableEncoder()
    engine, plain = SceneQuery(scene, encoder), SceneQuery(scene, encoder, near_things=False)
    middle = camera.width // 2
    for asked, both in ((plain, True), (engine, False)):
        answer = asked.ask("knob of the left ball", camera, level="part")
        assert answer.mask[:, :middle].any() and answer.mask[:, middle:].any() == both
        selected = answer.gaussian_relevancy > 0.5
        assert selected[:60].all() and selected[60:120].any() == both
    texts = ["left ball", "knob of the unicorn", "lid of the left ball", "knob of the left ball"]
    held, free = engine.relevancy(texts, camera), plain.relevancy(texts, camera)
    assert torch.equal(held[:2], free[:2]), "no part, or of nothing that is here: as it is"
    shown = free[2, 1] > SURE
    assert torch.equal(held[2, 1][shown], free[2, 1][shown]), "sure, so it stands by itself"
    of_left, of_right = (free[3, 1, :, half] for half in (slice(middle), slice(middle, None)))
    near = of_left > 0.6
    torch.testing.assert_close(held[3, 1, :, :middle][near], of_left[near])
    # The right ball fits "left ball" as well as a negative does: 0.5.
    worth = 0.5 / (NEAR_ENOUGH * float(free[0].max()))
    want = worth * of_right[of_right > 0.6]
    torch.testing.assert_close(
        held[3, 1, :, middle:][of_right > 0.6], want, atol=1e-3, rtol=0, check_stride=False
    )


@on_devices
def test_a_parts_own_word_counts_near_the_thing_that_a_text_names_it_of(device: str) -> None:
    """The encoder knows handles, but does not understand "the handle of the left ball"."""
    scene = asked_scene().to(device)
    assert scene.language is not None
    scene.language.mass[0] = 0
    camera, encoder = scene.cameras[0], TableEncoder()
    text, middle = "the handle of the left ball", camera.width // 2
    assert not SceneQuery(scene, encoder, near_things=False).ask(text, camera).found
    for texts in ([text], ["right ball", *[text] * 11]):
        answer = SceneQuery(scene, encoder).ask_all(texts, camera)[-1]
        assert answer.mask[:, :middle].any() and not answer.mask[:, middle:].any()
        selected = answer.gaussian_relevancy > 0.5
        assert selected[:60].any() and not selected[60:].any()
    # In a scene so wide that everything visible is close together, the picture still decides.
    gaussians = scene.gaussians
    means = gaussians.means.clone()
    means[110:115] = torch.tensor([-1000.0, -1000, -1000])
    means[115] = torch.tensor([-0.09, 0, 0.3])  # before the left ball, but before the near plane
    beside = [[-1.2, -2.3, 4], [-1.2, 2.3, 4], [-3.3, 0, 4], [3.3, 0, 4]]  # on all four sides
    means[116:120] = torch.tensor(beside)
    wide = replace(scene, gaussians=replace(gaussians, means=means, near=0.5))
    held, free = (
        SceneQuery(wide, encoder, near_things=near).ask(text, camera, level="part")
        for near in (True, False)
    )
    selected = held.gaussian_relevancy > 0.5
    assert selected[:60].any() and not selected[60:].any()
    # Outside the picture they score as for the whole text.
    np.testing.assert_array_equal(held.gaussian_relevancy[110:], free.gaussian_relevancy[110:])
    numbers = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
    fine = Gaussians(*(t.double() for t in (*numbers, gaussians.sh)))
    assert SceneQuery(replace(scene, gaussians=fine), encoder).ask(text, camera).found
    absent = SceneQuery(scene, encoder).ask("the handle of the unicorn", camera)
    assert not absent.found, "of a thing that is not here no part is looked for"


def test_a_gaussian_is_held_as_the_pixel_is_that_its_centre_is_in() -> None:
    """By a camera that is turned and moved, with a picture that is not square or centred."""
    generator = torch.Generator().manual_seed(8)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    viewmat, K = torch.eye(4), torch.tensor([[20.0, 0.5, 9.0], [0, 15.0, 3.0], [0, 0, 1]])
    viewmat[:3, :3], viewmat[:3, 3] = turn, torch.tensor([0.3, -0.2, 1.5])
    means = 2 * torch.randn(2000, 3, generator=generator)
    scores, by_part = torch.rand(2, 2000, generator=generator)
    near = torch.rand(7, 20, generator=generator)
    across, down, depth = (K @ (turn @ means.T + viewmat[:3, 3:])).numpy()
    columns, rows = (np.floor(along / depth).astype(int) for along in (across, down))
    inside = (depth > 0.5) & (columns >= 0) & (columns < 20) & (rows >= 0) & (rows < 7)
    assert 100 < inside.sum() < 1900
    around = torch.ones(2000)  # nothing is held elsewhere, nor is anything found by its own word
    around[inside] = near[rows[inside], columns[inside]]
    want = torch.maximum(scores, by_part * around * torch.from_numpy(inside))
    want *= torch.maximum(around, ((want - 0.5) / (SURE - 0.5)).clamp(max=1))
    given = scores.numpy(), by_part.numpy(), near.numpy(), SURE, means, viewmat, K, 0.5
    _codes_numba.hold_inside(*given)
    torch.testing.assert_close(scores, want, atol=1e-6, rtol=0)


def test_near_a_thing_is_within_ten_pixels_of_it_in_a_view_of_480() -> None:
    scene = asked_scene()
    assert scene.language is not None
    scene.language.mass[0] = 0
    engine, camera = SceneQuery(scene, TableEncoder()), scene.cameras[0].resized(480)
    found = engine.relevancy(["left ball"], camera)[0]
    highest = ndimage.maximum_filter(found.amax(dim=0).numpy(), size=21, mode="constant")
    want = np.minimum(highest / (0.8 * float(found.max())), 1)
    np.testing.assert_allclose(_near(found, camera), want, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("the handle of the mug", ("handle", "mug")),
        ("The Handle Of My Mug", ("Handle", "Mug")),
        ("Lid of a blue teapot", ("Lid", "blue teapot")),
        ("wheel of the back of the car", ("wheel of the back", "car")),
        ("a photo of a mug", None),
        *((f"{which} of mug", None) for which in ("picture", "An image", "this kind", "sort")),
        ("type of the mug", None),
        ("glass of water", None),
        ("of the mug", None),
        ("handle of the ", None),
        ("mug", None),
    ],
)
def test_the_part_that_a_text_names_and_its_thing(text: str, named: tuple[str, str] | None) -> None:
    assert part_of(text) == named


@pytest.mark.parametrize("words", [5, 64, 300])
def test_codebooks_of_any_size_are_scored_as_full_features(words: int) -> None:
    scene = random_scene(words=words)
    assert scene.language is not None
    # Rounded as in saved scenes; a Gaussian's weights need not sum to 1.
    rounded = replace(scene.language, codes=(1.25 * scene.language.codes).half())
    gaussians = replace(scene.gaussians, near=3.1)  # amid them
    scene = replace(scene, gaussians=gaussians, language=rounded)
    engine = SceneQuery(scene, TableEncoder())
    camera = scene.cameras[0].resized(77, 53)  # no whole number of tiles
    nearer = torch.tensor([[1.4, 1, 1], [1, 1.4, 1], [1, 1, 1]])
    camera = replace(camera, K=camera.K * nearer)
    texts = ["left ball", "both", "x"]
    view = engine._view(camera)
    assert isinstance(view, _SparseView)
    codewords = np.concatenate(view._weights.owners) >= len(scene.gaussians)
    assert not codewords.all() and codewords.any() == (words == 5), "where they are fewer"
    sparse = engine.relevancy(texts, camera)
    dense = torch.stack([slow_relevancy(scene, text, camera) for text in texts])
    assert 0.1 < float((dense > 0).float().mean()) < 0.9, "seen and unseen pixels are compared"
    for border in (dense[..., 0], dense[..., -1], dense[..., 0, :], dense[..., -1, :]):
        assert (border > 0).any()
    np.testing.assert_allclose(sparse.numpy(), dense.numpy(), atol=1e-4)


def test_gaussians_are_scored_as_the_embeddings_they_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langsplat._codes_numba.PACKED_AT_ONCE", 128)
    scene = random_scene()
    field, texts = scene.language, ["left ball", "both", "x"]
    assert field is not None and isinstance(field.codec, Codebook)
    got = SceneQuery(scene, TableEncoder()).gaussian_relevancy(texts)
    assert got.shape == (3, 3, len(scene.gaussians))
    for level in range(3):
        meant = F.normalize(field.dense(level) @ field.codec.codewords[level], dim=1)
        cosines = meant @ TableEncoder().encode_texts([*texts, *NEGATIVES]).T
        margin = cosines[:, :3] - cosines[:, 3:].amax(dim=1, keepdim=True)
        want = torch.sigmoid(10 * margin) * (field.mass[level] > 0)[:, None]
        np.testing.assert_allclose(got[:, level], want.T, atol=1e-5)


def test_a_view_that_needs_more_room_than_was_set_aside_keeps_all_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = random_scene()
    camera = scene.cameras[0].resized(77, 53)
    want = SceneQuery(scene, TableEncoder()).relevancy(["both"], camera)
    monkeypatch.setattr("langsplat._codes_numba.ROWS_A_PAIR", 0)
    got = SceneQuery(scene, TableEncoder()).relevancy(["both"], camera)
    np.testing.assert_array_equal(got, want)


@on_devices
def test_a_gaussian_that_is_not_finite_is_left_out_of_a_view(device: str) -> None:
    scene = random_scene().to(device)
    whole = SceneQuery(scene, TableEncoder()).relevancy(["both"], scene.cameras[0])
    means, opacities = scene.gaussians.means.clone(), scene.gaussians.opacities.clone()
    means[5], opacities[8] = torch.nan, torch.inf
    broken = replace(scene, gaussians=replace(scene.gaussians, means=means, opacities=opacities))
    got = SceneQuery(broken, TableEncoder()).relevancy(["both"], scene.cameras[0])
    opacities = scene.gaussians.opacities.clone()
    opacities[[5, 8]] = 0
    without = replace(scene, gaussians=replace(scene.gaussians, opacities=opacities))
    want = SceneQuery(without, TableEncoder()).relevancy(["both"], scene.cameras[0])
    assert torch.equal(got, want)
    assert not torch.equal(got, whole)


@on_devices
def test_what_no_view_ever_saw_scores_zero_whatever_its_code_holds(device: str) -> None:
    scene = asked_scene().to(device)
    assert scene.language is not None
    codes = torch.where(scene.language.mass[..., None] > 0, scene.language.codes, torch.nan)
    damaged = replace(scene, language=replace(scene.language, codes=codes))
    got = SceneQuery(damaged, TableEncoder()).ask("left ball", scene.cameras[0])
    want = SceneQuery(scene, TableEncoder()).ask("left ball", scene.cameras[0])
    np.testing.assert_array_equal(got.by_level, want.by_level)
    np.testing.assert_array_equal(got.gaussian_relevancy, want.gaussian_relevancy)
    assert got.gaussian_relevancy[120] == 0


def test_a_code_that_stands_for_nothing_scores_as_a_negative_does() -> None:
    scene = asked_scene()
    assert scene.language is not None
    scene.language.codes[:, 5] = 0  # though some views saw it
    engine, text = SceneQuery(scene, TableEncoder()), "left ball"
    assert (engine.gaussian_relevancy([text])[0, :2, 5] == 0.5).all()
    assert np.isfinite(engine.ask(text, scene.cameras[0]).by_level).all()


@on_devices
@pytest.mark.parametrize("made", [asked_scene, latent_scene])
def test_a_scene_without_gaussians_answers_that_nothing_is_there(
    made: Callable[[], Scene], device: str
) -> None:
    scene = made().to(device)
    field = scene.language
    assert field is not None
    rows = None if field.rows is None else field.rows[:, :0]
    nothing = replace(field, rows=rows, codes=field.codes[:, :0], mass=field.mass[:, :0])
    empty = scene.gaussians.select(
        torch.zeros(len(scene.gaussians), dtype=torch.bool, device=device)
    )
    engine = SceneQuery(replace(scene, gaussians=empty, language=nothing), TableEncoder())
    answer = engine.ask("left ball", scene.cameras[0])
    assert answer.score == 0 and not answer.found and answer.gaussian_relevancy.shape == (0,)


def test_a_picture_too_large_to_be_asked_is_refused_with_its_size(engine: SceneQuery) -> None:
    large = engine.scene.cameras[0].resized(5000, 4000)
    with pytest.raises(ValueError, match=r"5000 x 4000 .* at most 10,000,000 pixels: choose"):
        engine.ask("left ball", large)
    with pytest.raises(ValueError, match="between 1 and"):
        engine.scene.cameras[0].resized(0, 10)


def test_words_are_encoded_once_however_often_they_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[list[str]] = []

    class Counting(TableEncoder):
        def encode_texts(self, texts: list[str]) -> torch.Tensor:
            encoded.append(texts)
            return super().encode_texts(texts)

    scene = asked_scene()
    engine = SceneQuery(scene, Counting())
    encoded.clear()
    first = engine.ask("left ball", scene.cameras[0])
    engine.ask_all(["both", "left ball", "both"], scene.cameras[0].resized(40, 30))
    engine.ask("knob of the left ball", scene.cameras[0])
    assert encoded == [["left ball"], ["both"], ["knob of the left ball", "knob"]]
    encoded.clear()
    monkeypatch.setattr("langsplat.query._KEPT_TEXTS", 1)
    engine.ask_all(["both", "left ball", "right ball"], scene.cameras[0])
    again = engine.ask("left ball", scene.cameras[0])
    assert encoded == [["right ball"], ["left ball"]], "kept in bounds"
    np.testing.assert_array_equal(again.by_level, first.by_level)


def test_answers_to_several_texts_are_those_they_get_alone(engine: SceneQuery) -> None:
    camera, texts = engine.scene.cameras[0], ["left ball", "both", "right ball"] * 4
    for text, answer in zip(texts, engine.ask_all(texts, camera, threshold=0.6), strict=True):
        alone = engine.ask(text, camera, threshold=0.6)
        assert (answer.text, answer.level, answer.threshold) == (text, alone.level, 0.6)
        np.testing.assert_allclose(answer.by_level, alone.by_level, atol=1e-6)
        np.testing.assert_allclose(answer.gaussian_relevancy, alone.gaussian_relevancy, atol=1e-6)
    assert engine.ask_all([], camera) == []
    # Parts, their things and other texts, at levels of their own.
    many = SceneQuery(random_scene(), TableEncoder())
    texts = [
        "both",
        "knob of the left ball",
        "left ball",
        "handle of the right ball",
        "lid of the left ball",
    ]
    answers = many.ask_all(texts, camera)
    assert answers[0].level != answers[1].level
    for text, answer in zip(texts, answers, strict=True):
        alone = many.ask(text, camera)
        assert answer.level == alone.level
        np.testing.assert_allclose(answer.by_level, alone.by_level, atol=1e-5)
        np.testing.assert_allclose(answer.gaussian_relevancy, alone.gaussian_relevancy, atol=1e-5)


def test_at_most_ten_words_are_asked_at_once_with_those_of_parts_and_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, asked, ask = SceneQuery(asked_scene(), TableEncoder()), [], _CodebookScores.ask

    def count(scores: _CodebookScores, texts: torch.Tensor) -> object:
        asked.append(len(texts))
        return ask(scores, texts)

    monkeypatch.setattr(_CodebookScores, "ask", count)
    part = "knob of the left ball"
    engine.relevancy([*["both"] * 7, part, part, part, part, "both"], front_camera())
    assert asked == [10, 8], (
        "7 texts, a part and two words of it; 4 texts, 3 of their parts, a thing"
    )
    asked.clear()
    engine.relevancy([*["both"] * 8, part, *["both"] * 7, "left ball"], front_camera())
    assert asked == [8, 10, 1]


@pytest.mark.parametrize(
    ("made", "exact"), [(asked_scene, False), (latent_scene, False), (latent_scene, True)]
)
def test_views_are_remembered_up_to_a_number_of_bytes(
    made: Callable[[], Scene], exact: bool
) -> None:
    scene = made()
    camera = scene.cameras[0]
    size = SceneQuery(scene, TableEncoder(), exact=exact)._scores.view(camera).nbytes
    engine = SceneQuery(scene, TableEncoder(), exact=exact, kept_bytes=3 * size)
    first = engine.ask("left ball", camera)
    for shift in range(8):
        viewmat = torch.eye(4)
        viewmat[0, 3] = shift / 100
        engine.ask("left ball", replace(camera, viewmat=viewmat))
    assert 2 <= len(engine._views) <= 4
    np.testing.assert_array_equal(engine.ask("left ball", camera).by_level, first.by_level)
    view = engine._view(camera)
    kept = view._weights.nbytes if isinstance(view, _SparseView) else 0
    assert size >= kept + sum(
        part.nbytes for part in vars(view).values() if isinstance(part, np.ndarray | torch.Tensor)
    )
    small = SceneQuery(scene, TableEncoder(), exact=exact, kept_bytes=size - 1)
    np.testing.assert_array_equal(small.ask("left ball", camera).by_level, first.by_level)
    assert len(small._views) == 0, "a view larger than what may be kept is not kept"


def test_a_view_of_another_size_or_lens_is_another_view(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    first = engine.ask("left ball", camera)
    turned = replace(camera, width=camera.height, height=camera.width)  # K and pose are the same
    aside = replace(camera, K=camera.K + torch.tensor([[0.0, 0, 3], [0, 0, 0], [0, 0, 0]]))
    for other in (turned, aside):
        want = SceneQuery(engine.scene, TableEncoder()).ask("left ball", other)
        np.testing.assert_array_equal(engine.ask("left ball", other).by_level, want.by_level)
        assert not np.array_equal(want.by_level, first.by_level)


def test_what_two_threads_want_is_made_once_and_keeps_nobody_else_waiting() -> None:
    recent: Recent[str] = Recent(2)
    began, go = threading.Event(), threading.Event()
    made: list[str] = []

    def slow() -> str:
        made.append("slow")
        began.set()
        assert go.wait(10)
        return "slow"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(recent.get, 1, slow)
        assert began.wait(10)
        two = pool.submit(recent.get, 1, slow)
        assert recent.get(2, lambda: "quick") == "quick", "made while the other is being made"
        go.set()
        assert one.result() == two.result() == "slow" and made == ["slow"]
    recent.get(2, lambda: "again")
    recent.get(3, lambda: "third")
    assert recent.get(2, lambda: "again") == "quick" and len(recent) == 2
    assert recent.get(1, lambda: "anew") == "anew", "the one used least recently went first"


def test_what_is_too_large_to_be_kept_drives_nothing_else_out() -> None:
    recent: Recent[int] = Recent(10, float)
    for size in (4, 5, 20):
        assert recent.get(size, lambda size=size: size) == size  # type: ignore[misc]
    assert (len(recent), recent.get(4, lambda: 0), recent.get(20, lambda: 7)) == (2, 4, 7)


def test_what_was_used_again_stays_before_what_is_newer() -> None:
    recent: Recent[str] = Recent(2)
    for key, made in ((1, "one"), (2, "two"), (1, "anew"), (3, "three")):
        recent.get(key, lambda made=made: made)  # type: ignore[misc]
    assert recent.get(1, lambda: "anew") == "one" and recent.get(2, lambda: "anew") == "anew"


def test_texts_may_come_one_after_the_other(engine: SceneQuery) -> None:
    camera, texts = engine.scene.cameras[0], ["left ball", "both"]
    assert torch.equal(engine.relevancy(iter(texts), camera), engine.relevancy(texts, camera))
    assert torch.equal(engine.gaussian_relevancy(iter(texts)), engine.gaussian_relevancy(texts))


def test_no_texts_have_no_scores(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    assert engine.ask_all([], camera) == []
    assert engine.gaussian_relevancy([]).shape == (0, 3, 121)
    assert engine.relevancy([], camera).shape == (0, 3, camera.height, camera.width)


def test_an_error_is_told_to_all_who_wait_and_not_remembered() -> None:
    recent: Recent[str] = Recent(2)
    began, go = threading.Event(), threading.Event()

    def fail() -> str:
        began.set()
        assert go.wait(10)
        raise ValueError("no such view")

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(recent.get, 1, fail)
        assert began.wait(10)
        two = pool.submit(recent.get, 1, fail)
        go.set()
        for waiting in (one, two):
            with pytest.raises(ValueError, match="no such view"):
                waiting.result()
    assert recent.get(1, lambda: "now") == "now"


def test_visitors_may_ask_at_the_same_time(engine: SceneQuery) -> None:
    camera = engine.scene.cameras[0]
    want = {text: engine.ask(text, camera).score for text in ("left ball", "both")}
    got: list[tuple[str, float]] = []

    def visit(text: str) -> None:
        for _ in range(5):
            got.append((text, engine.ask(text, camera).score))

    threads = [threading.Thread(target=visit, args=(text,)) for text in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 10 and all(score == want[text] for text, score in got)


@pytest.mark.parametrize("size", [(30, 100), (3, 993), (41, 47), (1, 1)])
def test_half_smoothing_averages_with_a_box_cut_at_the_border(size: tuple[int, int]) -> None:
    relevancy = torch.rand(20, *size)
    relevancy[:, size[0] * 2 // 3 + 1 :] = 0  # remainders of running sums must not show there
    before = relevancy.clone()
    got = half_smoothed(relevancy)
    assert torch.equal(relevancy, before), "what is smoothed stays as it is"
    half = max(0, round(29 / 988 * size[1] / 2))
    mean = F.avg_pool2d(relevancy[None], 2 * half + 1, 1, half, count_include_pad=False)[0]
    torch.testing.assert_close(got, (relevancy + mean) / 2, atol=1e-6, rtol=0)
    assert float(got.min()) >= 0
    assert torch.equal(_half_smooth(before), got.amax(dim=(1, 2)))


def an_answer() -> Answer:
    relevancy = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    relevancy[5:10, 20:30] = 0.8
    return Answer("cup", "part", 0.5, relevancy, relevancy[None], np.float32([0.9, 0.1]), 0.1)


def test_what_is_saved_is_what_was_answered(tmp_path: Path) -> None:
    answer, rgb = an_answer(), np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    written = save_answer(answer, rgb, tmp_path / "out")
    assert sorted(path.name for path in written) == sorted(
        ["render.png", "overlay.png", "mask.png", "relevancy.npz", "result.json"]
    )
    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png"))
    np.testing.assert_array_equal(mask, answer.mask * 255)
    with np.load(tmp_path / "out" / "relevancy.npz") as arrays:
        for name in ("relevancy", "gaussian_relevancy"):
            np.testing.assert_array_equal(arrays[name], getattr(answer, name))
            assert arrays[name].dtype == np.float32
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["box"] == [20, 5, 30, 10] and result["peak"] == [20, 5]
    assert result["found"] and result["level"] == "part" and result["gaussians"] == 1
    assert result["share"] == pytest.approx(50 / (WIDTH * HEIGHT), abs=1e-6)


def test_the_overlay_outlines_the_mask_and_dims_the_rest() -> None:
    answer, rgb = an_answer(), np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
    picture = overlay(rgb, answer.relevancy, answer.mask)
    line = ndimage.binary_dilation(answer.mask) & ~answer.mask
    np.testing.assert_array_equal((picture == 255).all(axis=2), line, "just outside the mask")
    assert picture[20, 5].max() < 90
    red, _, blue = picture[7, 25].astype(int)
    assert red > blue + 50, "high relevancy is warm"
    whole = overlay(rgb, answer.relevancy, answer.mask.astype(np.uint8))
    np.testing.assert_array_equal(whole, picture, "a mask of 0 and 1")
    assert heat(np.array([[0.0, 1.0]]))[0, 0, 2] > heat(np.array([[0.0, 1.0]]))[0, 1, 2]


def test_the_outline_of_a_mask_at_the_border_is_not_drawn_at_the_other() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :3], mask[:4] = True, True
    picture = overlay(np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask.astype(np.float32), mask)
    line = ndimage.binary_dilation(mask) & ~mask
    np.testing.assert_array_equal((picture == 255).all(axis=2), line)


def test_a_mask_at_a_low_threshold_has_the_colors_of_its_scores() -> None:
    """Else a red thing in it would look like a high score."""
    rgb = np.full((20, 20, 3), (220, 30, 30), np.uint8)
    relevancy = np.full((20, 20), 0.1, np.float32)
    picture = overlay(rgb, relevancy, np.ones((20, 20), bool)).astype(int)
    assert np.abs(picture - (0.65 * heat(relevancy) + 0.35 * rgb)).max() <= 1


def test_colors_of_a_picture_are_rounded_to_the_nearest() -> None:
    scene = asked_scene()
    image, _ = render(scene.gaussians, scene.cameras[0])
    away = render_rgb(scene, scene.cameras[0]) - 255 * image.numpy()
    assert np.abs(away).max() < 0.501 and away.min() < -0.4 and away.max() > 0.4
    bright = replace(scene.gaussians, sh=torch.full((121, 1, 3), 20.0))
    image, _ = render(bright, scene.cameras[0])
    picture = render_rgb(replace(scene, gaussians=bright), scene.cameras[0])
    assert image.max() > 2 and (picture[image.numpy() >= 1] == 255).all()


@pytest.mark.gpu
@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("scene", [asked_scene(), latent_scene()], ids=["codebook", "latents"])
def test_a_gpu_answers_as_the_cpu_does(scene: Scene, as_published: bool) -> None:
    here, there_too = (
        SceneQuery(scene.to(on), TableEncoder(), as_published=as_published)
        for on in ("cpu", "cuda")
    )
    texts, camera = ["left ball", "both", "x"], scene.cameras[0]
    for got, want in (
        (there_too.relevancy(texts, camera), here.relevancy(texts, camera)),
        (there_too.gaussian_relevancy(texts), here.gaussian_relevancy(texts)),
    ):
        assert got.is_cuda
        # A pixel on the edge of what is seen may fall on either side of it.
        differs = (got.cpu() - want).abs() > 0.005
        assert float(differs.float().mean()) < 0.002
    answer = there_too.ask("left ball", camera, level="part")
    assert answer.found and answer.peak[0] < WIDTH // 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_relevancies_of_any_type_are_smoothed_as_float32(dtype: torch.dtype) -> None:
    relevancy = torch.rand(3, 20, 90, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(half_smoothed(relevancy), half_smoothed(relevancy.float()))


@pytest.mark.parametrize("shape", [(20, 90), (2, 3, 20, 90), (0, 3, 20, 90)])
def test_maps_of_any_number_of_texts_and_levels_are_smoothed_each_alone(shape: tuple) -> None:
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    smooth = half_smoothed(maps)
    assert smooth.shape == maps.shape
    alone = zip(smooth.view(-1, 1, 20, 90), maps.view(-1, 1, 20, 90), strict=True)
    assert all(torch.equal(one, half_smoothed(of)) for one, of in alone)


@pytest.mark.parametrize("value", [0.5, 0.7, 0.9])
def test_smoothing_lifts_no_score_above_the_highest(value: float) -> None:
    smooth = half_smoothed(torch.full((3, 240, 320), value))
    assert float(smooth.max()) <= np.float32(value)
    torch.testing.assert_close(smooth, torch.full_like(smooth, value), atol=5e-6, rtol=0)


@pytest.mark.parametrize("cpu, fused", [("x86-64", False), ("haswell", True)])
def test_products_and_sums_are_never_function_calls(cpu: str, fused: bool) -> None:
    """Without such an instruction the intrinsic "fma" calls the C library, once for every lane."""
    module = ir.Module()
    rows = ir.FunctionType(_codes_numba._ROW, [_codes_numba._ROW] * 3)
    function = ir.Function(module, rows, "product_and_sum")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(_codes_numba._fma(builder, *function.args))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(cpu=cpu)
    code = machine.emit_assembly(llvm.parse_assembly(str(module)))
    assert "fmaf" not in code and ("vfmadd" in code) == fused
