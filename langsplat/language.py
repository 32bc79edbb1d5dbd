"""Language on Gaussians: codes lifted from the 2D segments of all views, which can then be trained.

Lifting takes no training. A Gaussian's code at a level is the mean of what the segments that it
helps to paint stand for, weighted by how much it contributes to their pixels (as in LUDVIG and the
Splat Feature Solver). Rendering is linear in colors, image = W colors, so the sums over pixels are
one vector-Jacobian product per view, Wᵀ image, on any backend. With a codebook the image is
one_hot(codeword of each pixel), which is never built, and the few codewords with the most weight
are kept; with an autoencoder it is the latent of each pixel's segment.

Training starts from there: it renders the codes and moves each pixel towards its segment. With an
autoencoder this is LangSplat's training (arXiv 2312.16084, section 3.3), with a codebook
LangSplatV2's (arXiv 2507.07136). Geometry never changes, and all levels are trained in one run.

Letters: N Gaussians, L levels, H W pixels, V codewords, D numbers of a code, M segments.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.codec import (
    CODECS,
    Autoencoder,
    AutoencoderConfig,
    Codebook,
    Codec,
    fit_autoencoder,
    fit_codebook,
)
from langsplat.features import SegmentFeatures
from langsplat.progress import (
    Checkpoints,
    Progress,
    check_whole,
    digest_of,
    hold_python_numbers,
    silent,
    torch_threads,
)
from langsplat.rasterize import lift, lift_labels, painting, render
from langsplat.scene import MAX_CODE, Camera, Gaussians, LanguageField

LIFTING, REFINING = "Lift language", "Train language"
# How many codewords a Gaussian keeps after lifting, and if it is trained. The third and fourth that
# lifting finds mostly belong to neighbours or are mistakes; training can still choose among them.
KEPT, KEPT_TRAINED = 2, 4
# The most memory for summing up the weights of all codewords. If there are more Gaussians than fit
# (700,000 with 256 codewords at three levels), they are lifted in blocks, each from all views:
# drawing a view costs less than adding up its weights.
_MAX_SUPPORT_BYTES = 1 << 31
# The most memory for views' targets in training; those that do not fit are read again each time.
_MAX_TARGET_BYTES = 1 << 30


@dataclass(frozen=True)
class LanguageTraining:
    """How codes are trained after lifting; the learning rate is the papers'."""

    steps: int = 500
    """Training steps, one view each."""
    learning_rate: float = 2.5e-3
    seed: int = 0
    """Of the order of the views."""

    def __post_init__(self) -> None:
        hold_python_numbers(self)
        check_whole("steps", self.steps)
        check_whole("seed", self.seed)
        if self.steps < 1 or self.learning_rate <= 0:
            raise ValueError("Training language takes steps >= 1 and learning_rate > 0.")

    @classmethod
    def preset(cls, name: str) -> "LanguageTraining | None":
        """`lift`: no training (None); `quick`: 500 steps; `paper`: LangSplat's 30 000 steps."""
        presets = {"lift": None, "quick": cls(), "paper": cls(steps=30_000)}
        if name not in presets:
            raise ValueError(f"Language is made by one of {', '.join(presets)}, not {name!r}.")
        return presets[name]


def fit_language(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    features: Sequence[SegmentFeatures],
    encoder: str,
    *,
    codec: Codec | str = Codebook.kind,
    codewords: int = 256,
    keep: int | None = None,
    autoencoder: AutoencoderConfig | None = None,
    training: LanguageTraining | None = None,
    seed: int = 0,
    state: Path | str | None = None,
    progress: Progress = silent,
) -> LanguageField:
    """Give every Gaussian a code at every level: fit a codec, lift, and train if asked to.

    Args:
        gaussians: N Gaussians; the work is done on their device.
        cameras: C views, of the same size as the features' label maps.
        features: for each camera, segments [L, H, W] and their embeddings; a sequence that reads
            them from disk is read once for each pass.
        encoder: name of the encoder that made the embeddings.
        codec: "codebook" or "autoencoder", fitted to these segments; or one that is ready.
        codewords: the most codewords V in each level's codebook.
        keep: how many codewords a Gaussian keeps; None: KEPT, or KEPT_TRAINED, as in LangSplatV2,
            if they are trained.
        autoencoder: its layers and training; None: the paper's, with this seed.
        training: None = lifting alone.
        seed: of the codec.
        state: a folder for checkpoints of the autoencoder and of training, so that the same call
            can resume after it was killed; None: no checkpoints.
    Returns:
        The field; a Gaussian that no segment of a level ever touched has mass 0 there.
    Raises:
        ValueError: a view's label map has another size than its camera, there is no segment, or
            the codec is of another encoder.
    """
    rows = _check_views(cameras, features)
    state = None if state is None else Path(state)
    if isinstance(codec, str):
        if codec not in CODECS:
            raise ValueError(f"The codec must be {' or '.join(CODECS)}, got {codec!r}.")
        if codec == Codebook.kind:
            codec = fit_codebook(rows, size=codewords, seed=seed)
        else:
            config = autoencoder or AutoencoderConfig(seed=seed)
            codec, _ = fit_autoencoder(
                torch.cat(rows),
                config,
                device=gaussians.device,
                state=state and state / "autoencoder.state",
                progress=progress,
            )
    if keep is None:
        keep = KEPT if training is None else KEPT_TRAINED
    field = lift_language(
        gaussians, cameras, features, encoder, codec, keep=keep, progress=progress
    )
    if notes := level_notes(field):
        progress(LIFTING, len(cameras), len(cameras), " ".join(notes))
    if training is not None:
        field = train_language(
            field,
            gaussians,
            cameras,
            features,
            training,
            state=state and state / "language.state",
            progress=progress,
        )
    return field


def lift_language(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    features: Sequence[SegmentFeatures],
    encoder: str,
    codec: Codec,
    *,
    keep: int = KEPT,
    progress: Progress = silent,
) -> LanguageField:
    """Lift codes as blending-weighted means, with a ready codec; arguments as in `fit_language`."""
    _check_counts(cameras, features)
    if keep < 1:
        raise ValueError(f"A Gaussian must keep at least one codeword, got keep={keep}.")
    if isinstance(codec, Codebook) and min(keep, codec.size) > MAX_CODE:
        raise ValueError(f"A Gaussian can keep at most {MAX_CODE} codewords, got keep={keep}.")
    levels = len(codec.codewords if isinstance(codec, Codebook) else features[0].embeddings)
    channels = codec.size if isinstance(codec, Codebook) else codec.latent + 1
    n, device = len(gaussians), gaussians.device
    at_once = min(max(1, _MAX_SUPPORT_BYTES // (4 * levels * channels)), max(1, n))
    firsts = range(0, max(1, n), at_once)  # each block of Gaussians takes all views
    steps, blocks = len(firsts) * len(cameras), []
    for block, first in enumerate(firsts):
        support = torch.zeros(min(at_once, n - first), levels, channels, device=device)
        for index, (camera, view) in enumerate(zip(cameras, features, strict=True)):
            _check_view(camera, view)
            _check_codec(codec, levels, view)
            if isinstance(codec, Codebook):
                _add_codewords(support, first, gaussians, camera, view, codec)
            else:
                _add_latents(support, first, gaussians, camera, view, codec)
            progress(LIFTING, block * len(cameras) + index + 1, steps, "")
        blocks.append(_codes_of(support.transpose(0, 1), codec, keep))
        del support  # before the next block has its own
    rows, codes, mass = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    named = rows if isinstance(codec, Codebook) else None
    return LanguageField(named, codes, mass, codec.to(device), encoder)


def _codes_of(support: Tensor, codec: Codec, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and codes [L, N, D] and mass [L, N] from support [L, N, channels].

    With latents the rows are empty.
    """
    if isinstance(codec, Codebook):
        codes, rows = support.topk(min(keep, codec.size), dim=2)
        codes = codes / codes.sum(dim=2, keepdim=True).clamp_min(1e-12)
        return rows, codes, support.sum(dim=2)
    return support[..., :0], F.normalize(support[..., :-1], dim=2), support[..., -1]


def level_notes(field: LanguageField) -> list[str]:
    """A sentence for the user about every level at which no view had a segment."""
    return [
        f"No view has a segment at the level {name}, so queries are not answered at it: choose "
        "another segmenter if you need it."
        for name in field.levels
        if name not in field.described
    ]


def _check_views(cameras: Sequence[Camera], features: Sequence[SegmentFeatures]) -> list[Tensor]:
    """All embeddings of each level, [M, E], after checking that every view fits its camera."""
    _check_counts(cameras, features)
    views: list[Sequence[Tensor]] = []
    for camera, view in zip(cameras, features, strict=True):
        _check_view(camera, view)
        views.append(view.embeddings)
    levels = {len(view) for view in views}
    sizes = {rows.shape[1] for view in views for rows in view}
    if len(levels) > 1 or len(sizes) > 1:
        raise ValueError(
            "The views' segments differ in their levels or the size of their embeddings: describe "
            "all views with one segmenter and one encoder."
        )
    return [torch.cat(of_level) for of_level in zip(*views, strict=True)]


def _check_counts(cameras: Sequence[Camera], features: Sequence[SegmentFeatures]) -> None:
    if not cameras or len(cameras) != len(features):
        raise ValueError(
            f"Every view needs its segments: got {len(cameras)} cameras and {len(features)} "
            "records of segments."
        )


def _check_codec(codec: Codec, levels: int, view: SegmentFeatures) -> None:
    found = len(view.embeddings), view.embeddings[0].shape[1]
    # An autoencoder checks by itself that it can encode embeddings of this size.
    known = levels, codec.dim if isinstance(codec, Codebook) else found[1]
    if known != found:
        raise ValueError(
            f"The {codec.kind} has {known[0]} levels and embeddings of {known[1]} numbers, the "
            f"segments {found[0]} and {found[1]}: fit one to these segments."
        )


def _check_view(camera: Camera, view: SegmentFeatures) -> None:
    if view.segments.shape[1:] != (camera.height, camera.width):
        height, width = view.segments.shape[1:]
        raise ValueError(
            f"The segments of {camera.name or 'a view'} are {width} x {height} but its picture "
            f"is {camera.width} x {camera.height}: segment the picture at its own size."
        )


def _add_codewords(
    support: Tensor,  # [R, L, V], of the R Gaussians from number `first` on; changed in place
    first: int,
    gaussians: Gaussians,
    camera: Camera,
    view: SegmentFeatures,
    codec: Codebook,
) -> None:
    """Add Wᵀ one_hot of one view, over the codewords that occur in it."""
    labels = []  # for each level [H, W], the column of a pixel's codeword in [R, L V]
    for level, (embeddings, ids) in enumerate(zip(view.embeddings, view.segments, strict=True)):
        columns = codec.assign(level, embeddings).cpu() + level * codec.size
        columns = F.pad(columns, (0, 1), value=-1)  # the extra last row is where -1 points to
        # torch takes no negative strides
        labels.append(columns[torch.from_numpy(np.ascontiguousarray(ids)).long()])
    sums = support.flatten(1)
    lift_labels(
        gaussians, camera, torch.stack(labels, dim=2), sums.shape[1], sums=sums, first=first
    )


def _add_latents(
    support: Tensor,  # [R, L, D + 1], as above; the last column is the mass
    first: int,
    gaussians: Gaussians,
    camera: Camera,
    view: SegmentFeatures,
    codec: Autoencoder,
) -> None:
    """Add Wᵀ of one view's latents, and of 1 where there is a segment."""
    target = _Target.of(view, codec)
    images = [target.picture(level, support.device) for level in range(support.shape[1])]
    image = torch.cat([torch.cat([latents, mask[..., None]], 2) for latents, mask in images], 2)
    support += lift(gaussians, camera, image)[first : first + len(support)].view_as(support)


@dataclass(frozen=True, eq=False)
class _Target:
    """What the pixels of one view should blend to: a number per pixel, and a table of values."""

    segments: np.ndarray  # [L, H, W] int16 or int32
    tables: list[Tensor]  # for each level [M + 1, D']; the last row, zeros, is where -1 points to

    @classmethod
    def of(cls, view: SegmentFeatures, codec: Codec) -> "_Target":
        """The segments' latents or, with a codebook, their similarities to all codewords."""
        tables = []
        for level, embeddings in enumerate(view.embeddings):
            if isinstance(codec, Codebook):
                table = embeddings.to(codec.codewords) @ codec.codewords[level].T
            else:
                table = codec.encode(embeddings)
            tables.append(F.pad(table, (0, 0, 0, 1)))
        small = max(len(table) for table in tables) < 1 << 15
        return cls(view.segments.astype(np.int16 if small else np.int32), tables)

    @property
    def nbytes(self) -> int:
        return self.segments.nbytes + sum(4 * table.numel() for table in self.tables)

    def picture(self, level: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """[H, W, D'] and where there is a segment, [H, W] float32."""
        segments = torch.from_numpy(self.segments[level]).to(device).long()
        return self.tables[level].to(device)[segments], (segments >= 0).float()


@torch.enable_grad()
def train_language(
    field: LanguageField,
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    features: Sequence[SegmentFeatures],
    training: LanguageTraining = LanguageTraining(),
    *,
    state: Path | str | None = None,
    progress: Progress = silent,
) -> LanguageField:
    """Train lifted codes on the views they were lifted from; geometry and codec do not change.

    Latents: unit latents of all levels are rendered as one picture of L x D channels, and the loss
    is the mean absolute difference to the latents of the pixels' segments. Codeword weights: a
    Gaussian keeps its codewords, a softmax makes its weights, and the loss is 1 - cosine between
    what a pixel blends to and its segment's embedding. Both are averaged over the pixels that have
    a segment and then over levels, so that they do not shrink if segments cover little.

    Args:
        field: as `lift_language` makes it, on the Gaussians' device.
        cameras, features: as for lifting.
        training: steps and learning rate.
        state: a checkpoint file, written about every 20 s and at the end. If it holds a run from
            the same lifted codes with the same settings, that run continues, with the same result
            as if it had never stopped.
    Returns:
        The field with trained codes.
    Raises:
        ValueError: field, Gaussians, views and features do not fit each other.
    """
    _check_counts(cameras, features)
    codec = field.codec
    if field.codes.shape[1] != len(gaussians):
        raise ValueError(
            f"The field has codes of {field.codes.shape[1]:,} Gaussians but there are "
            f"{len(gaussians):,}: lift it on these."
        )
    described = (field.mass > 0)[..., None]  # [L, N, 1]: the others never paint a segment
    if isinstance(codec, Codebook):
        start, loss_of = field.codes.float().clamp_min(1e-4).log(), _weights_loss
    else:
        start, loss_of = field.codes.float(), _latents_loss
    codes = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=training.learning_rate, eps=1e-15)
    # The lifted codes depend on all inputs: views, features, Gaussians and codec.
    rows = [] if field.rows is None else [field.rows]
    identity = {
        "format": "langsplat-language-2",
        "training": json.dumps(asdict(training), sort_keys=True),
        "lifted": digest_of(start, *rows, field.mass, *codec.tensors().values()),
    }
    checkpoints = Checkpoints(state, identity)
    done, recent = 0, 0.0
    earlier = checkpoints.load(REFINING, training.steps, progress)
    if earlier is not None:
        done, recent = earlier.done, earlier.values["loss"]
        codes.data.copy_(earlier.tensors.pop("codes"))
        # torch wants the step count on the CPU. Without any gradient so far there is no state.
        optimizer.state[codes] = {
            key: tensor if key == "step" else tensor.to(codes.device)
            for key, tensor in earlier.tensors.items()
        }
    with torch_threads(1):
        for camera, target in _turns(cameras, features, codec, len(codes), training, done):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(codes, described, field, gaussians, camera, target)
            optimizer.step()
            recent = loss if done == 0 else 0.95 * recent + 0.05 * loss
            done += 1
            if done == training.steps or checkpoints.due:
                moments = optimizer.state[codes]
                checkpoints.save({"codes": codes, **moments}, done, loss=recent)
            progress(REFINING, done, training.steps, f"loss {recent:.4f}")
    trained = _unit_codes(codes.detach(), described, codec)
    return replace(field, codes=trained)


def _turns(
    cameras: Sequence[Camera],
    features: Sequence[SegmentFeatures],
    codec: Codec,
    levels: int,
    training: LanguageTraining,
    done: int,
) -> Iterator[tuple[Camera, _Target]]:
    """A view for each step after the first `done`: in random order, all before any is repeated."""
    generator = torch.Generator().manual_seed(training.seed)
    kept: dict[int, _Target] = {}
    room = _MAX_TARGET_BYTES
    order: list[int] = []
    for step in range(training.steps):
        order = order or torch.randperm(len(cameras), generator=generator).tolist()
        view = order.pop()
        if step < done:
            continue
        target = kept.get(view)
        if target is None:
            record = features[view]
            _check_view(cameras[view], record)
            _check_codec(codec, levels, record)
            target = _Target.of(record, codec)
            if target.nbytes <= room:
                kept[view] = target
                room -= target.nbytes
        yield cameras[view], target


def _unit_codes(codes: Tensor, described: Tensor, codec: Codec) -> Tensor:
    """The codes for numbers in training: unit latents, or weights whose sum is 1."""
    if isinstance(codec, Codebook):
        return codes.softmax(dim=2) * described
    return F.normalize(codes, dim=2) * described


def _latents_loss(
    codes: Tensor,  # [L, N, D], gets its gradient
    described: Tensor,
    field: LanguageField,
    gaussians: Gaussians,
    camera: Camera,
    target: _Target,
) -> float:
    values = _unit_codes(codes, described, field.codec).transpose(0, 1).flatten(1)  # [N, L D]
    image, _ = render(gaussians, camera, values=values.contiguous())
    losses = []
    for level, rendered in enumerate(image.unflatten(2, (len(codes), -1)).unbind(2)):
        wanted, mask = target.picture(level, image.device)
        count = mask.sum()
        if count > 0:
            away = (rendered - wanted).abs().mean(dim=2)
            losses.append((away * mask).sum() / count)
    return _backward(losses)


def _weights_loss(
    codes: Tensor,  # [L, N, K] logits, gets its gradient
    described: Tensor,
    field: LanguageField,
    gaussians: Gaussians,
    camera: Camera,
    target: _Target,
) -> float:
    assert isinstance(field.codec, Codebook) and field.rows is not None
    gram = field.codec.gram()
    # Dense weights take much memory: only for the Gaussians that this view shows.
    shown = painting(gaussians, camera)
    gaussians, rows, described = gaussians.select(shown), field.rows[:, shown], described[:, shown]
    losses = []
    for level in range(len(codes)):
        similarity, mask = target.picture(level, codes.device)  # [H, W, V]
        count = mask.sum()
        if count == 0:
            continue
        logits = codes[level : level + 1, shown]
        weights = _unit_codes(logits, described[level : level + 1], field.codec)
        dense = torch.zeros(len(gaussians), field.codec.size, device=codes.device)
        dense = dense.scatter_add(1, rows[level].long(), weights[0])
        blended, _ = render(gaussians, camera, values=dense)  # [H, W, V]
        length = ((blended @ gram[level]) * blended).sum(2).clamp_min(1e-12).sqrt()
        cosine = (blended * similarity).sum(2) / length
        losses.append(((1 - cosine) * mask).sum() / count)
    return _backward(losses)


def _backward(losses: list[Tensor]) -> float:
    """Backpropagate the mean of the levels' losses; 0 if the view has no segment at all."""
    if not losses:
        return 0.0
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach())
