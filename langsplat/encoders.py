"""Encoders: open_clip models that turn crops and texts into unit vectors of one space.

    encoder = load_encoder()  # the small one that ships with the code
    encoder = load_encoder("open_clip:ViT-B-16/laion2b_s34b_b88k")
    encoder.encode_images(crops) @ encoder.encode_texts(["mug"]).T  # [B, 1]

Letters: B crops, T texts, S side of a crop in pixels, E embedding size.
"""

import copy
import functools
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from langsplat import BUNDLED_ENCODER
from langsplat.hub import fetch_file
from langsplat.scene import as_tensor

# The bundled model's two towers are files of their own; open_clip reads them as
# pretrained_image_path and pretrained_text_path.
TOWER_FILES = ("image.safetensors", "text.safetensors")
WEIGHTS_FILE = "open_clip_model.safetensors"
CPU_BATCH = 16  # crops; the intermediate results of more do not fit the cache
_FEW_PRODUCTS = 2.5e9  # which one thread of a CPU has as soon as two, or sooner
_HUB_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.bin")
_CONFIG_FILE = "open_clip_config.json"
# How a model was trained, which its weights fit without a complaint even if it is done otherwise:
# the normalisation of pictures, and OpenAI's activation function.
_TRAINED = ("mean", "std", "quick_gelu")


class Encoder(Protocol):
    """Turns crops and texts into unit vectors that can be compared.

    Attributes:
        name: as `load_encoder` takes it; stored with every scene.
        dim: E, the size of an embedding.
        image_size: S, the side of the crops it takes, in pixels.
    """

    name: str
    dim: int
    image_size: int

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        """RGB crops [B, S, S, 3] uint8 -> [B, E] float32, unit length."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> [T, E] float32, unit length."""


def load_encoder(spec: str = "bundled", *, device: torch.device | str = "cpu") -> Encoder:
    """Load an encoder with its weights; there is no fallback to random ones.

    Args:
        spec: "bundled"; "bundled:<8 hex>", the same in exactly this version;
            "open_clip:<model>/<tag>", weights from the Hub's cache, else from the Hub;
            "open_clip:<model>/<path of a weights file>"; how they were trained is taken from the
            open_clip_config.json beside them, else from the model's name, which therefore must end
            in -quickgelu for OpenAI's, DFN's and MetaCLIP's weights.
        device: where the model runs; embeddings are returned on the same device.
    Raises:
        ValueError: the spec is not one of these; the model or tag is unknown; the model reads texts
            with transformers, which is not installed; the weights are not here and cannot be
            downloaded, may not be read, are damaged, or belong to another model.
    """
    check_spec(spec)
    try:
        if spec.startswith("bundled"):
            return _load_bundled(spec, torch.device(device))
        model, _, weights = spec.removeprefix("open_clip:").partition("/")
        return _load_open_clip(spec, model, weights, torch.device(device))
    except OSError as error:
        raise ValueError(
            f"The weights of {spec} cannot be read ({error}): check their permissions."
        ) from error


def check_list(texts: Iterable[str]) -> list[str]:
    """The texts as a list; ValueError for a string instead, or an item that is not a text."""
    if isinstance(texts, str):
        raise ValueError("Give a list of texts, not a string: its letters would be the texts.")
    several = list(texts)
    for text in several:
        if not isinstance(text, str):
            raise ValueError(f"Give a list of texts: one of them is of type {type(text).__name__}.")
    return several


def check_spec(spec: str) -> None:
    """Raise ValueError unless this could name an encoder, whether or not its weights are here."""
    if not re.fullmatch(r"bundled(:.+)?|open_clip:[^/]+/.+", spec):
        raise ValueError(
            f"{spec!r} is not an encoder: write bundled, open_clip:<model>/<tag> (for example "
            "open_clip:ViT-B-16/laion2b_s34b_b88k), or open_clip:<model>/<weights file>."
        )


def check_portable(spec: str) -> None:
    """Raise ValueError if a spec names a file: a stranger's scene must not choose files to open."""
    if not re.fullmatch(r"bundled(:\w+)?|open_clip:[\w.-]+/[\w-]+", spec):
        raise ValueError(
            "It was described by weights in a file on its author's machine: describe it with an "
            "encoder that has a name everywhere."
        )


class OpenClipEncoder:
    """An open_clip model with its tokenizer and its normalisation of pictures."""

    def __init__(
        self, name: str, model: torch.nn.Module, tokenizer: Any, device: torch.device
    ) -> None:
        visual: Any = model.visual
        size = visual.image_size
        mean, std = visual.preprocess_cfg["mean"], visual.preprocess_cfg["std"]
        self.name = name
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        self._model: Any = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self._tower = _tower_of_prefixes(self._model)
        if self._tower is not None:
            self._weights = sum(w.numel() for w in self._tower.transformer.parameters())
        self.dim = int(self.encode_texts(["object"]).shape[1])

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        """RGB crops [B, S, S, 3] uint8 -> [B, E] float32, unit length.

        Raises:
            ValueError: the crops have another shape, size or type.
        """
        crops, side = as_tensor(images), self.image_size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != torch.uint8:
            raise ValueError(
                f"Crops must be [B, {side}, {side}, 3] uint8, got {list(crops.shape)} "
                f"{crops.dtype}: cut them with crop_segments(image, segments, {side})."
            )
        if len(crops) == 0:
            return torch.zeros(0, self.dim, device=self._device)
        with torch.inference_mode():
            pixels = crops.to(self._device).permute(0, 3, 1, 2).float() / 255
            pixels = (pixels - self._mean) / self._std
            if self._device.type == "cpu":
                size = CPU_BATCH
            else:
                # With channels last, as in pictures, cuDNN would compile depthwise convolutions for
                # every thread and every number of crops: 1.7 s each time for the bundled model.
                pixels, size = pixels.contiguous(), len(pixels)
            rows = torch.cat([self._model.encode_image(chunk) for chunk in pixels.split(size)])
            rows = F.normalize(rows, dim=1)
        return rows.clone()  # an inference tensor could not be saved for a later backward pass

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> [T, E] float32, unit length; capitals and extra spaces make no difference.

        Raises:
            ValueError: a string in place of a list of them, or something else in it.
        """
        texts = check_list(texts)
        if len(texts) == 0:
            return torch.zeros(0, self.dim, device=self._device)
        tokens = self._tokenizer([" ".join(text.lower().split()) for text in texts])
        if self._tower is not None:  # the end of a text, the highest token, sees nothing behind it
            tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
            few = tokens.numel() * self._weights <= _FEW_PRODUCTS
            if few and self._device.type == "cpu":
                return _reader(os.getpid()).submit(self._read, tokens).result()
        return self._read(tokens)

    def _read(self, tokens: Tensor) -> Tensor:
        """Tokens [T, any length] -> [T, E] float32, unit length."""
        with torch.inference_mode():
            tokens, tower = tokens.to(self._device), self._tower
            model = self._model if tower is None else _shortened(tower, tokens.shape[1])
            rows = F.normalize(getattr(model, "encode_text", model)(tokens).float(), dim=1)
        return rows.clone()


@functools.cache
def _reader(process: int) -> ThreadPoolExecutor:
    """The thread that reads a few tokens, with one of torch's: to wake others costs more.

    A thread of its own, as the number that a thread sets is also that of threads which begin
    later. One for each process, as a fork has no threads.
    """
    before = torch.get_num_threads()
    reader = ThreadPoolExecutor(1, "texts", torch.set_num_threads, (1,))
    reader.submit(torch.get_num_threads).result()
    torch.set_num_threads(before)
    return reader


def _tower_of_prefixes(model: Any) -> Any:
    """The part of an open_clip model that reads texts, if it can leave out what follows their end.

    That is, if no token sees those behind it, and the embedding is that of the highest token.
    Texts are padded to 77 tokens, of which most are then not computed. None if it cannot.
    """
    tower = getattr(model, "text", model)
    pooled = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    causal = getattr(tower, "attn_mask", None) is not None
    appends = getattr(tower, "cls_emb", None) is not None
    return tower if causal and pooled == "argmax" and not appends else None


def _shortened(tower: Any, length: int) -> Any:
    """`tower` for texts of `length` tokens, with the same weights."""
    short, places = copy.copy(tower), tower.positional_embedding[:length]
    short._parameters = tower._parameters | {"positional_embedding": places}
    short._buffers = tower._buffers | {"attn_mask": tower.attn_mask[:length, :length]}
    return short


def bundled_name() -> str:
    """The bundled encoder's name, with the version of its weights.

    Raises:
        ValueError: they are not here.
    """
    files = [BUNDLED_ENCODER / file for file in TOWER_FILES]
    if not all(file.is_file() for file in files):
        raise ValueError(
            f"The bundled encoder is missing from {BUNDLED_ENCODER}: run this in a whole checkout "
            "(a plain pip install leaves it out), or name another encoder, for example "
            "open_clip:ViT-B-16/laion2b_s34b_b88k."
        )
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"bundled:{digest[:8]}"


def _load_bundled(spec: str, device: torch.device) -> OpenClipEncoder:
    from open_clip import get_tokenizer
    from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg

    name = bundled_name()
    if spec not in ("bundled", name):
        raise ValueError(
            f"The bundled encoder here is {name}, not {spec}: build the scene again with this "
            "version, or use the version of langsplat that the scene was built with."
        )
    settings = json.loads((BUNDLED_ENCODER / _CONFIG_FILE).read_text(encoding="utf-8"))
    sizes = {key: value for key, value in settings["model_cfg"].items() if key != "custom_text"}
    # open_clip.create_model would look for a single file of weights, and warn about random ones.
    built: Any = CustomTextCLIP(**sizes)
    set_model_preprocess_cfg(built, settings["preprocess_cfg"])
    for tower, part in zip((built.visual, built.text), TOWER_FILES, strict=True):
        file = BUNDLED_ENCODER / part
        _check_readable(file)
        tower.load_state_dict(load_file(file))
    fold_norms(built.visual)
    if device.type == "cpu":
        fold_padding(built.visual)
    else:  # see encode_images
        built.to(device, memory_format=torch.contiguous_format)
    tokenizer = get_tokenizer(f"local-dir:{BUNDLED_ENCODER}")
    return OpenClipEncoder(name, built, tokenizer, device)


def fold_norms(module: torch.nn.Module) -> None:
    """Fold every batch norm of one of timm's networks into the convolution before it, in place.

    This halves the time per crop on a CPU and changes embeddings by at most 1e-5. The network can
    no longer be trained.
    """
    convolution = ""
    for name, child in list(module.eval().named_children()):
        if isinstance(child, torch.nn.Conv2d):
            convolution = name
        elif isinstance(child, torch.nn.BatchNorm2d):
            both = fuse_conv_bn_eval(getattr(module, convolution), child)
            setattr(module, convolution, both.to(memory_format=torch.channels_last))
            setattr(module, name, child.act)
        else:
            fold_norms(child)


def fold_padding(module: torch.nn.Module) -> None:
    """Replace TensorFlow's padding in convolutions of stride 2 with torch's, in place.

    For inputs of even size, which the bundled network has at every stage. There TensorFlow pads one
    more pixel on the right and below; with equal padding on all sides, a kernel that begins with a
    column and a row of zeros does the same. The embeddings are the same to the last bit and take a
    seventh less time, because nothing is copied for the padding.
    """
    from timm.layers import Conv2dSame

    for name, child in list(module.named_children()):
        if not isinstance(child, Conv2dSame):
            fold_padding(child)
            continue
        assert child.stride == (2, 2)
        size, bias = child.kernel_size[0], child.bias
        even = torch.nn.Conv2d(
            child.in_channels,
            child.out_channels,
            size + 1,
            stride=2,
            padding=size // 2,
            groups=child.groups,
            bias=bias is not None,
        )
        even.weight.data = F.pad(child.weight.data, (1, 0, 1, 0))
        if bias is not None:
            even.bias = bias
        setattr(module, name, even.to(memory_format=torch.channels_last).eval())


def _load_open_clip(spec: str, model: str, weights: str, device: torch.device) -> OpenClipEncoder:
    from open_clip import get_model_config, list_models, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    # A name with a colon would make open_clip look for a folder, or on the Hub.
    config = None if ":" in model else get_model_config(model)
    if config is None:
        near = get_close_matches(model, list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"open_clip has no model {model!r}; near names: {', '.join(near) or 'none'}. "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists them all."
        )
    text = config["text_cfg"]
    texts_by = [str(text[key]) for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
    if texts_by and find_spec("transformers") is None:  # before gigabytes are fetched
        raise ValueError(f"{model} needs the package transformers: `pip install transformers`.")
    tag, tags = get_pretrained_cfg(model, weights), list_pretrained_tags_by_model(model)
    if tag:
        file = _weights_of_tag(spec, tag)
    elif is_file(weights):
        file = Path(weights)
        # Weights do not say how they were trained, but the file beside them that open_clip's
        # repositories have does. Without it, use what all known tags agree on.
        ways = [get_pretrained_cfg(model, known) for known in tags]
        alike = [key for key in _TRAINED if len({str(way.get(key)) for way in ways}) == 1]
        tag = {key: ways[0][key] for key in alike if key in ways[0]} | _said_beside(file)
    elif "/" in weights or "." in weights:  # as in no tag
        raise ValueError(
            f"There is no file {Path(weights).absolute()}, which {spec} would mean here: give the "
            "path of a weights file, or go to the folder in which the scene was described."
        )
    else:
        near = get_close_matches(weights, tags, n=5, cutoff=0.3) or tags[:5]
        raise ValueError(
            f"{weights!r} is neither a file nor weights that open_clip knows for {model}; "
            f"near names: {', '.join(near) or 'none, give the path of a weights file'}."
        )
    for repo in texts_by:
        _fetch(spec, repo, ("tokenizer.json", "tokenizer_config.json"))
    return _build(spec, model, file, device, tag)


def _said_beside(weights: Path) -> dict[str, Any]:
    """How the weights were trained, from the configuration file beside them, if there is one."""
    file = weights.with_name(_CONFIG_FILE)
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        said = {"quick_gelu": False, **found["model_cfg"], **found.get("preprocess_cfg", {})}
        for key in ("mean", "std"):
            if said.get(key):  # one number is for all three colors, as in open_clip
                said[key] = np.broadcast_to(np.array(said[key], float), 3).tolist()
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ValueError(
            f"{file}, which should say how the weights beside it were trained, cannot be read: "
            "download it again, or remove it."
        ) from error
    return {key: said[key] for key in _TRAINED if key in said}


def _build(
    name: str, model: str, file: Path, device: torch.device, tag: dict[str, Any]
) -> OpenClipEncoder:
    """The model with its weights from `file`."""
    import open_clip

    _check_readable(file)
    normalisation = {key: list(tag[key]) for key in ("mean", "std") if tag.get(key)}
    try:
        built = open_clip.create_model(
            model,
            pretrained=str(file),
            require_pretrained=True,
            weights_only=True,
            force_quick_gelu=bool(tag.get("quick_gelu", False)),
            force_preprocess_cfg=normalisation or None,
            pretrained_text=False,
            device=device,
        )
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # torch's reader raises nearly anything for a damaged file
        raise ValueError(
            f"The weights in {file} do not fit the model {model}: choose the weights of this "
            "model, or the model of these weights."
        ) from error
    return OpenClipEncoder(name, built, tokenizer, device)


def _check_readable(file: Path) -> None:
    """Raise ValueError unless `file` is an intact safetensors file or torch archive.

    OSError if it may not be read.
    """
    file.open("rb").close()  # the readers below do not say why they cannot open a file
    damaged = ValueError(
        f"The weights in {file} are damaged or incomplete: copy or download them again."
    )
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as handle:
                if not list(handle.keys()):
                    raise damaged
        except (SafetensorError, OSError) as error:
            raise damaged from error
    else:
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise damaged from error
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(
                f"{file} is a program with its weights (TorchScript), as OpenAI publishes them, "
                "and programs are not opened here: take the same weights from the Hub, by "
                "open_clip:<model>/openai."
            )


def is_file(name: str) -> bool:
    """Whether there is a file of that name, which may be any text."""
    try:
        return Path(name).is_file()
    except OSError:  # too long to be a name
        return False


def _weights_of_tag(spec: str, tag: dict[str, Any]) -> Path:
    """The file with a tag's weights: from the cache, else from the Hub."""
    hub, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    if not hub:
        raise ValueError(
            f"The weights of {spec} are not on the Hub: download {tag.get('url')} yourself and "
            "give open_clip:<model>/<path of that file>."
        )
    files = (file,) if file else _HUB_FILES
    return _fetch(spec, hub, files)


def _fetch(spec: str, repo: str, files: Sequence[str]) -> Path:
    return fetch_file(
        repo,
        files,
        wanted_by=f"The encoder {spec}",
        instead="give open_clip:<model>/<path of a weights file>, or use the bundled encoder",
    )
