"""Encoders: real open_clip models, with weights made here and with the bundled ones."""

import errno
import itertools
import json
import os
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from langsplat import BUNDLED_ENCODER, encoders
from langsplat.encoders import (
    TOWER_FILES,
    WEIGHTS_FILE,
    Encoder,
    OpenClipEncoder,
    check_portable,
    load_encoder,
)
from langsplat.features import embed_segments
from langsplat.progress import torch_threads

OPENAI_DATASET_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_DATASET_STD = (0.26862954, 0.26130258, 0.27577711)

SMALL = "ViT-S-32-alt"  # the smallest architecture that open_clip ships


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model's weights as open_clip's own file."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(SMALL, load_weights=False, pretrained_text=False)
    file = tmp_path_factory.mktemp("weights") / WEIGHTS_FILE
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return load_encoder(f"open_clip:{SMALL}/{weights}")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


def test_embeddings_are_unit_vectors(encoder: Encoder, crops: np.ndarray) -> None:
    rows, words = encoder.encode_images(crops), encoder.encode_texts(["mug", "a red mug"])
    assert rows.shape == (5, encoder.dim) and words.shape == (2, encoder.dim)
    assert rows.dtype == words.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(words.norm(dim=1), torch.ones(2))
    assert not rows.requires_grad and not words.requires_grad


def test_a_crop_does_not_depend_on_its_batch(encoder: Encoder, crops: np.ndarray) -> None:
    alone = torch.cat([encoder.encode_images(crops[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(encoder.encode_images(crops), alone, atol=1e-5, rtol=0)


def test_no_crops_and_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode_images(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, encoder.dim)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_pictures_are_prepared_as_open_clip_does(
    encoder: Encoder, weights: Path, crops: np.ndarray
) -> None:
    import open_clip

    model, _, prepare = open_clip.create_model_and_transforms(SMALL, pretrained=str(weights))
    with torch.no_grad():
        pixels = torch.stack([prepare(Image.fromarray(crop)) for crop in crops])
        theirs = model.eval().encode_image(pixels, normalize=True)
        words = model.encode_text(open_clip.tokenize(["a red mug"]), normalize=True)
    torch.testing.assert_close(encoder.encode_images(crops), theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_texts(["a red mug"]), words, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "tower"),
    [
        *itertools.product(
            ["CLIP", "CustomTextCLIP"], [{}, {"no_causal_mask": True}, {"pool_type": "last"}]
        ),
        ("CustomTextCLIP", {"embed_cls": True}),
    ],
)
def test_texts_are_embedded_as_open_clip_does_whatever_their_length(
    kind: str, tower: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    picture = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 2, **tower}
    model = getattr(open_clip.model, kind)(24, picture, text).eval()
    for weights in model.parameters():
        weights.data.normal_(std=0.2)
    way = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    open_clip.model.set_model_preprocess_cfg(model, way)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    encoder = OpenClipEncoder("small", model, tokenizer, torch.device("cpu"))
    longer = "the small red handle of the old tea pot on the round wooden table by the window"
    for texts in (["mug"], ["a red mug", "mug"], [longer, "mug"], [f"mug {k}" for k in range(40)]):
        with torch.no_grad():
            theirs = model.encode_text(tokenizer(texts), normalize=True)
        for few in (0.0, 1e9):  # all at once on every core, or in the thread for a few
            monkeypatch.setattr(encoders, "_FEW_PRODUCTS", few)
            torch.testing.assert_close(encoder.encode_texts(texts), theirs, atol=1e-5, rtol=0)


def test_reading_texts_leaves_other_threads_their_number_of_torchs(encoder: Encoder) -> None:
    encoders._reader.cache_clear()
    with torch_threads(3), ThreadPoolExecutor(1) as later:
        encoder.encode_texts(["mug"])
        assert torch.get_num_threads() == 3
        assert later.submit(torch.get_num_threads).result() == 3


@pytest.mark.parametrize(
    ("model", "way"),
    [
        ("MobileCLIP2-S0", {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        ("ViT-L-14", {}),  # its known weights differ, so CLIP's way is taken
        ("RN101", {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "quick_gelu": True}),
        (SMALL, {}),
    ],
)
def test_a_file_is_used_as_all_known_weights_of_its_model_are(
    model: str, way: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").touch()
    monkeypatch.setattr("langsplat.encoders._build", lambda *given: given[-1])
    assert load_encoder(f"open_clip:{model}/{tmp_path / 'weights.pt'}") == way


def test_a_file_is_used_as_the_configuration_beside_it_says(
    encoder: Encoder, weights: Path, crops: np.ndarray, tmp_path: Path
) -> None:
    import open_clip

    file, config = tmp_path / weights.name, tmp_path / "open_clip_config.json"
    file.symlink_to(weights)
    settings: dict = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {}}
    config.write_text(json.dumps(settings))
    quick = load_encoder(f"open_clip:{SMALL}/{file}")
    theirs = open_clip.create_model(SMALL, pretrained=str(weights), force_quick_gelu=True).eval()
    words = theirs.encode_text(open_clip.tokenize(["mug"]), normalize=True).detach()
    torch.testing.assert_close(quick.encode_texts(["mug"]), words, atol=1e-5, rtol=0)
    assert (quick.encode_texts(["mug"]) - encoder.encode_texts(["mug"])).abs().max() > 1e-4
    settings["preprocess_cfg"] = {"mean": [0.9, 0.9, 0.9]}
    config.write_text(json.dumps(settings))
    other = load_encoder(f"open_clip:{SMALL}/{file}")
    torch.testing.assert_close(other.encode_texts(["mug"]), quick.encode_texts(["mug"]))
    assert (other.encode_images(crops) - quick.encode_images(crops)).abs().max() > 0.01
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json, .* cannot be read: download it again"):
        load_encoder(f"open_clip:{SMALL}/{file}")


def test_a_configuration_that_names_no_activation_means_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all known weights of the model were trained with OpenAI's."""
    (tmp_path / "weights.pt").touch()
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    monkeypatch.setattr("langsplat.encoders._build", lambda *given: given[-1])
    assert load_encoder(f"open_clip:RN101/{tmp_path / 'weights.pt'}")["quick_gelu"] is False


def test_a_configuration_may_name_one_number_for_all_colors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").touch()
    spec, config = f"open_clip:RN50/{tmp_path / 'weights.pt'}", tmp_path / "open_clip_config.json"
    monkeypatch.setattr("langsplat.encoders._build", lambda *given: given[-1])
    config.write_text('{"model_cfg": {}, "preprocess_cfg": {"mean": 0.5, "std": [0.1, 0.2, 0.3]}}')
    assert load_encoder(spec)["mean"] == [0.5] * 3 and load_encoder(spec)["std"] == [0.1, 0.2, 0.3]
    config.write_text('{"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5]}}')
    with pytest.raises(ValueError, match=r"config\.json, .* cannot be read: download it again"):
        load_encoder(spec)


def test_the_papers_model_describes_segments_as_the_paper_does(tmp_path: Path) -> None:
    """A whole ViT-B-16 with random weights in the official file's layout, and LangSplat's recipe:
    black outside the mask, the box padded to a square, 224 pixels, CLIP's normalisation, unit."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", load_weights=False, pretrained_text=False).eval()
    file = tmp_path / WEIGHTS_FILE
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    encoder = load_encoder(f"open_clip:ViT-B-16/{file}")
    file.unlink()  # 600 MB
    assert (encoder.dim, encoder.image_size) == (512, 224)

    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    segments = np.full((1, 300, 400), -1, np.int32)
    segments[0, 20:141, 30:254] = 0  # 121 x 224, so nothing is resized
    segments[0, 60:80, 100:150] = -1
    features = embed_segments(image, segments, encoder)

    square = np.zeros((224, 224, 3), np.float32)
    square[51 : 51 + 121] = (image * (segments[0] == 0)[..., None])[20:141, 30:254]
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.from_numpy(((square / 255 - mean) / std).astype(np.float32))
    with torch.no_grad():
        row = model.encode_image(pixels.permute(2, 0, 1)[None])
    want = torch.nn.functional.normalize(row, dim=1)
    torch.testing.assert_close(features.embeddings[0], want, atol=1e-5, rtol=0)


def test_capitals_and_spaces_make_no_difference(encoder: Encoder) -> None:
    one, other = encoder.encode_texts(["red mug", "  Red \n MUG "])
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "crops", [np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32)]
)
def test_crops_of_another_size_or_type_are_refused(encoder: Encoder, crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match="crop_segments"):
        encoder.encode_images(crops)


def test_truncated_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_encoder(f"open_clip:{SMALL}/{broken}")


@pytest.mark.parametrize("spec", ["bundled", f"open_clip:{SMALL}/FILE"])
def test_weights_that_may_not_be_read_are_not_said_to_be_damaged(
    spec: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, because root may read anything."""
    really = Path.open

    def refuse(path: Path, *how: Any, **options: Any) -> Any:
        if path.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really(path, *how, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(.*Permission denied.*\): check their"):
        load_encoder(spec.replace("FILE", str(weights)))


def test_truncated_torch_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    torch.save(load_file(weights), whole)
    assert load_encoder(f"open_clip:{SMALL}/{whole}").dim == 256
    end = whole.read_bytes().rindex(b"PK\x05\x06")
    other_disk = struct.pack("<4sLQL", b"PK\x06\x07", 1, end, 2)
    for content in (
        whole.read_bytes()[:-5000],
        whole.read_bytes()[: end - 20] + other_disk + whole.read_bytes()[end:],
    ):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or incomplete"):
            load_encoder(f"open_clip:{SMALL}/{broken}")
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("broken/data.pkl", b"\x80\x02s.")  # an IndexError of torch's reader
        archive.writestr("broken/version", b"3\n")
    with pytest.raises(ValueError, match="do not fit the model"):
        load_encoder(f"open_clip:{SMALL}/{broken}")


def test_openais_own_files_are_programs_and_are_refused_with_where_else_to_look(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ViT-S-32.pt"
    with zipfile.ZipFile(file, "w") as archive:  # what tells them from weights
        archive.writestr("ViT-S-32/constants.pkl", b"\x80\x02).")
    with pytest.raises(ValueError, match=r"TorchScript.* by open_clip:<model>/openai"):
        load_encoder(f"open_clip:{SMALL}/{file}")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"trap": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="do not fit"):
        load_encoder(f"open_clip:{SMALL}/{tmp_path / 'trap.pt'}")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}, other)
    with pytest.raises(ValueError, match="do not fit the model"):
        load_encoder(f"open_clip:{SMALL}/{other}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("siglip", "is not an encoder"),
        ("open_clip:ViT-B-16", "is not an encoder"),
        ("open_clip:ViT-B-61/laion2b_s34b_b88k", "near names: .*ViT-B-16"),
        ("open_clip:ViT-B-16/laion2b_s34b_b89k", "near names: .*laion2b_s34b_b88k"),
        ("bundled:00000000", "build the scene again"),
        ("open_clip:local-dir:x/y", "no model 'local-dir:x'"),
        ("open_clip:hf-hub:someone/x", "no model 'hf-hub:someone'"),
        (f"open_clip:ViT-B-16/{300 * 'x'}", "neither a file nor weights"),
        (
            "open_clip:ViT-B-16/w/clip.pt",
            r"There is no file /.*/w/clip\.pt, .* scene was described",
        ),
        ("open_clip:ViT-B-16/x\0", "neither a file nor weights"),
    ],
)
def test_an_unknown_encoder_is_named_with_its_neighbours(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_encoder(spec)


def test_a_model_that_reads_texts_with_transformers_says_so_before_it_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("langsplat.encoders.fetch_file", None)
    with pytest.raises(ValueError, match=r"ViT-B-16-SigLIP needs .*`pip install transformers`"):
        load_encoder("open_clip:ViT-B-16-SigLIP/webli")


def test_an_encoder_is_portable_if_it_names_no_file() -> None:
    import open_clip

    for model, tag in open_clip.list_pretrained():
        check_portable(f"open_clip:{model}/{tag}")
    check_portable("bundled")
    check_portable("bundled:0123abcd")
    files = ("x.bin", "/etc/passwd", "../x", "a/b", "a\\b", "~", "", "x\n")
    for spec in (*(f"open_clip:ViT-B-16/{file}" for file in files), "open_clip:local-dir:x/y"):
        with pytest.raises(ValueError, match="on its author's machine"):
            check_portable(spec)


def test_offline_it_says_so_within_two_seconds(tmp_path: Path) -> None:
    """In a process of its own: the Hub's client reads its settings when it is imported."""
    program = (
        "import time, open_clip, huggingface_hub.utils\n"
        "from langsplat.encoders import load_encoder\n"
        "began = time.monotonic()\n"
        "try:\n    load_encoder('open_clip:ViT-B-16/laion2b_s34b_b88k')\n"
        "except ValueError as error:\n    print(time.monotonic() - began, error, sep='|')\n"
    )
    # An address that is reserved for documentation: packets to it go nowhere.
    env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://192.0.2.1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    seconds, message = run.stdout.split("|", 1)
    assert float(seconds) < 4  # 1.5 s of waiting, and some slack for a busy machine
    assert "cannot be reached" in message and "bundled" in message


def test_weights_in_the_hubs_cache_need_no_network(weights: Path, tmp_path: Path) -> None:
    """The cache as the Hub's client lays it out, and no way out."""
    repo = tmp_path / "hub" / "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K"
    commit = "a" * 40
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / WEIGHTS_FILE).write_bytes(b"too short")
    program = (
        "from langsplat.encoders import load_encoder\n"
        "try:\n    load_encoder('open_clip:ViT-B-16/laion2b_s34b_b88k')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "damaged or incomplete" in run.stdout and commit in run.stdout


def test_the_bundled_encoder_knows_a_drawn_apple_from_a_table() -> None:
    encoder = load_encoder()
    assert encoder.name.startswith("bundled:") and load_encoder(encoder.name).dim == encoder.dim
    side = encoder.image_size
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = np.zeros((2, side, side, 3), np.uint8)
    for image, color in zip(disc, ((200, 30, 30), (30, 60, 190)), strict=True):
        image[np.hypot(x, y) < 0.48 * side] = color
    scores = encoder.encode_images(disc) @ encoder.encode_texts(["red", "blue"]).T
    assert scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]


@pytest.mark.gpu
def test_a_gpu_embeds_as_the_cpu_does(crops: np.ndarray) -> None:
    there, here = load_encoder(device="cuda"), load_encoder()
    small = crops[:, :128, :128]
    for count in (5, 3):
        got, want = (encoder.encode_images(small[:count]) for encoder in (there, here))
        # A GPU rounds the inputs of convolutions to TensorFloat-32.
        torch.testing.assert_close(got.cpu(), want, atol=3e-3, rtol=0)
    got, want = (encoder.encode_texts(["mug", "a red mug"]) for encoder in (there, here))
    torch.testing.assert_close(got.cpu(), want, atol=1e-4, rtol=0)


def test_crops_on_a_gpu_are_laid_out_so_that_nothing_is_compiled_for_their_number() -> None:
    # For depthwise convolutions with channels last, cuDNN compiles one for each number of crops.
    # "meta" is a device with layouts but no values.
    encoder, seen = load_encoder(device="meta"), []
    for layer in encoder._model.visual.modules():  # type: ignore[attr-defined]
        if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1:
            weight = layer.weight.stride()
            layer.register_forward_pre_hook(
                lambda _, given, weight=weight: seen.append((given[0].is_contiguous(), weight[:2]))
            )
    encoder.encode_images(np.zeros((3, 128, 128, 3), np.uint8))
    assert len(seen) == 16
    assert all(contiguous and weight[0] == weight[1] for contiguous, weight in seen)


def test_the_bundled_encoder_says_what_open_clip_makes_of_its_files() -> None:
    import open_clip

    image, text = (str(BUNDLED_ENCODER / file) for file in TOWER_FILES)
    model, _, prepare = open_clip.create_model_and_transforms(
        f"local-dir:{BUNDLED_ENCODER}",
        load_weights=False,
        pretrained_text=False,
        pretrained_image_path=image,
        pretrained_text_path=text,
    )
    encoder = load_encoder()
    side = encoder.image_size
    crops = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    pixels = torch.stack([prepare(Image.fromarray(crop)) for crop in crops])
    tokens = open_clip.get_tokenizer(f"local-dir:{BUNDLED_ENCODER}")(["a red mug"])
    with torch.no_grad():
        rows = model.eval().encode_image(pixels, normalize=True)
        words = model.encode_text(tokens, normalize=True)
    # The norms are folded into the convolutions, which rounds differently.
    torch.testing.assert_close(encoder.encode_images(crops), rows, atol=1e-4, rtol=0)
    torch.testing.assert_close(encoder.encode_texts(["a red mug"]), words, atol=1e-5, rtol=0)


def test_bundled_files_are_small_and_in_open_clips_layout() -> None:
    config = json.loads((BUNDLED_ENCODER / "open_clip_config.json").read_text(encoding="utf-8"))
    assert set(config) == {"model_cfg", "preprocess_cfg"}
    sizes = [file.stat().st_size for file in BUNDLED_ENCODER.iterdir()]
    assert max(sizes) < 10_000_000 and sum(sizes) < 25_000_000
