"""Train the bundled encoder on crops of rendered worlds.

    python train_encoder.py --list texts.json      # the texts for sentences.py to embed; then
    python train_encoder.py --trunk efficientnet-lite0.pth --crops train*.npz \
        --held-out held_out.npz --sentences sentences.npz --out ../encoder

The architecture is an open_clip model, read from open_clip_config.json in the output folder: an
EfficientNet-Lite0 that starts from ImageNet's weights, and a small text transformer whose word
embeddings start from a sentence encoder's. The network's first stages, which detect edges and
textures, stay as they are, so every crop passes them once; only the last ones, which recognise
shapes, are trained. There are two losses: a contrastive one with many right answers on either
side, and one on the relevancy itself, r = sigmoid(10 (crop . text - max over negatives
crop . negative)), so that r = 0.5 separates what is there from what is not. The text side also
learns from the sentence encoder how near everyday words and phrases, which no crop shows, are to
the kinds it knows. Letters: B crops of a batch, T captions of a batch, S side of a crop, K kinds.
"""

import argparse
import copy
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from captions import (
    ABSENT,
    COLOR_IDS,
    GROUP,
    KIND_IDS,
    KIND_NAMES,
    PART_NAMES,
    WHOLE,
    Caption,
    Facts,
    truth,
)
from look import COLORS
from safetensors.torch import load_file, save_file
from things import KINDS
from torch import Tensor
from vocabulary import NEGATIVES, UNSEEN, Vocabulary

from langsplat.encoders import fold_norms

TRUE_MARGIN, FALSE_MARGIN = 2.5, 1.5  # r = 0.92 and 0.18
TEMPERATURE = 10.0  # of the relevancy, as in LERF and LangSplat
FIRST = 5  # stages of the network that are not trained
SHARPNESS = 14.0  # of the softmax with which the sentence encoder chooses a kind
MEAN = STD = 0.5


def load_crops(file: Path) -> tuple[Tensor, Facts]:
    """Crops [B, 3, S, S] uint8 and their facts."""
    with np.load(file) as data:
        images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
        facts = Facts(*(data[name] for name in Facts.__dataclass_fields__))
    return images, facts


def joined(parts: Sequence[Facts]) -> Facts:
    names = Facts.__dataclass_fields__
    return Facts(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def is_unseen(facts: Facts) -> np.ndarray:
    pairs = {(KIND_IDS[k], COLOR_IDS[c]) for k, c in UNSEEN}
    both = zip(facts.kind.tolist(), facts.object_color.tolist(), strict=True)
    return np.array([pair in pairs for pair in both])


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Crops [B, 3, S, S] uint8 -> float in [0, 1].

    Flipped, turned, rescaled, re-lit, blurred, and some with a side cut off.
    """
    b, _, side, _ = images.shape
    x = images.float() / 255

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(b, *shape).uniform_(low, high, generator=rng)

    inside = (x.amax(1, keepdim=True) > 0).float()
    # Colour names must stay true: change brightness, gamma and white balance a little, not the hue.
    x = (x + 1e-4) ** uniform(0.85, 1.18, 1, 1, 1) * uniform(0.75, 1.2, 1, 1, 1)
    x = x * uniform(0.95, 1.05, 3, 1, 1)
    x = x + torch.randn(x.shape, generator=rng) * uniform(0, 0.035, 1, 1, 1)
    x = x.clamp(0, 1) * inside
    angle, zoom = uniform(-0.22, 0.22), uniform(0.95, 1.22)
    stretch, flip = uniform(0.85, 1.18), uniform(-1, 1).sign()
    c, s = angle.cos() * zoom, angle.sin() * zoom
    rows = [torch.stack([c * flip * stretch, -s, uniform(-0.08, 0.08)], 1)]
    rows += [torch.stack([s * flip * stretch, c, uniform(-0.08, 0.08)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [b, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    # As if something in front of the thing hid a side of it.
    toward, least = uniform(-np.pi, np.pi, 1, 1), uniform(-0.9, -0.25, 1, 1)
    y, across = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    kept = across * toward.cos() + y * toward.sin() > least
    x = x * (kept | (uniform(0, 1, 1, 1) > 0.25))[:, None]
    small = int(torch.randint(12, side, (1,), generator=rng))
    some = torch.rand(b, generator=rng) < 0.35
    if bool(some.any()):
        low = F.interpolate(x[some], size=small, mode="area")
        x[some] = F.interpolate(low, size=side, mode="bilinear", align_corners=False)
    return x


def normalised(images: Tensor) -> Tensor:
    return ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def first_stages(visual: torch.nn.Module, crops: Tensor) -> Tensor:
    """Normalised crops [B, 3, S, S] -> [B, C, S / 16, S / 16]."""
    trunk = visual.trunk
    return trunk.blocks[:FIRST](trunk.bn1(trunk.conv_stem(crops)))


def last_stages(visual: torch.nn.Module, maps: Tensor) -> Tensor:
    """The output of `first_stages` -> embeddings [B, E], not of unit length."""
    trunk = visual.trunk
    maps = trunk.bn2(trunk.conv_head(trunk.blocks[FIRST:](maps)))
    return visual.head(trunk.forward_head(maps, pre_logits=True))


def fused(visual: torch.nn.Module) -> torch.nn.Module:
    """A copy that is twice as fast and cannot be trained."""
    visual = copy.deepcopy(visual)
    fold_norms(visual)
    return visual


def read_trunk(visual: torch.nn.Module, file: Path) -> None:
    """Load ImageNet's weights, which have the same tensors in the same order under other names."""
    weights = torch.load(file, weights_only=True)
    given = [value for name, value in weights.items() if "num_batches" not in name]
    own = {name: v for name, v in visual.trunk.state_dict().items() if "num_batches" not in name}
    for (name, value), new in zip(own.items(), given, strict=False):
        if value.shape != new.shape:
            raise ValueError(f"{file} is not EfficientNet-Lite0: {name} is {list(new.shape)}.")
        value.copy_(new)


@torch.no_grad()
def recalibrate(visual: torch.nn.Module, images: Tensor, rng: torch.Generator) -> None:
    """Set the norms' statistics to those of crops: black around, things larger than in ImageNet."""
    norms = [m for m in visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all crops
    visual.train()
    for chunk in images.split(128):
        visual(normalised(augment(chunk, rng)))
    for norm in norms:
        norm.momentum = 0.02
    visual.eval()


@torch.inference_mode()
def maps_of(visual: torch.nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    """[B, C, S / 16, S / 16] float16 of the crops, each augmented at random, once."""
    visual = fused(visual)
    out = []
    for chunk in images.split(16):  # small enough for the cache
        crops = normalised(augment(chunk, rng))
        with torch.autocast("cpu", torch.bfloat16):
            out.append(first_stages(visual, crops).half())
    return torch.cat(out).clone()


def contrastive(similarity: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Both ways, with several right answers per row; pairs with target -1 do not count."""
    logits = (scale * similarity).masked_fill(target < 0, -1e4)
    total = similarity.new_zeros(())
    for rows, right in ((logits, target > 0), (logits.T, target.T > 0)):
        some = right.any(1)
        log_p = rows[some].log_softmax(1)
        right = right[some].float()
        total = total - ((log_p * right).sum(1) / right.sum(1)).mean()
    return total / 2


def relevancy_loss(margin: Tensor, target: Tensor, own: Tensor) -> Tensor:
    """Pushes r well above 0.5 where a caption is true, well below where it is false.

    Two sorts of false captions count again: the worst, and those about other pieces of the crop's
    own thing (`own` [B, T]), since among the levels at a pixel the one with the highest r answers,
    and a small part never reaches the r of a whole. For true captions higher is always better:
    masks are cut at a share of the highest r of a view.
    """
    true, false = target == 1, target == 0
    wrong_low = F.softplus(TRUE_MARGIN - margin)[true]
    wrong = F.softplus(margin + FALSE_MARGIN)
    wrong_high, of_own = wrong[false], wrong[false & own]
    hard = wrong_high.topk(max(1, len(wrong_high) // 25)).values
    loss = wrong_low.mean() + 0.5 * wrong_high.mean() + 0.5 * hard.mean()
    return loss + 0.5 * of_own.sum() / max(1, len(of_own))


class Tutor(torch.nn.Module):
    """Linear classifiers of kind, part and colours from an embedding; used only in training.

    Captions name one fact at a time: shapes would be learned slowly from them alone.
    """

    READS = (
        ("kind", len(KIND_NAMES)),
        ("part", len(PART_NAMES) + 1),
        ("color", len(COLORS)),
        ("object_color", len(COLORS)),
    )

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(dim, count) for _, count in self.READS)

    def loss(self, rows: Tensor, facts: Facts) -> Tensor:
        """Mean cross entropy over those embeddings [B, E] that are not of groups."""
        keep = torch.from_numpy(facts.part != GROUP)
        total = rows.new_zeros(())
        for head, (name, count) in zip(self.heads, self.READS, strict=True):
            right = getattr(facts, name)
            right = np.where(facts.part < 0, count - 1, right) if name == "part" else right
            total = total + F.cross_entropy(head(rows[keep]), torch.from_numpy(right)[keep])
        return total / len(self.READS)


def margins(images: Tensor, texts: Tensor, negatives: Tensor) -> Tensor:
    """[B, T], the margin whose sigmoid is r."""
    return TEMPERATURE * (images @ texts.T - (images @ negatives.T).amax(1, keepdim=True))


class Talk:
    """The texts for a batch of crops: true and false captions, strange words, negatives.

    Args:
        captions: how many captions of every group of the vocabulary, per step.
        pool: how many everyday words and phrases, per step.
    """

    def __init__(
        self, model: torch.nn.Module, vocabulary: Vocabulary, captions: int, pool: int
    ) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._captions, self._pool = captions, pool
        self._claims = [_by_claim(group) for group in vocabulary.groups]
        self._kinds = [names[0] for names in KIND_NAMES.values()]
        self._fixed = vocabulary.tokens([*NEGATIVES, *self._kinds])

    def __call__(
        self, facts: Facts, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Texts [T, E], negatives [., E], what is true of the crops [B, T] (see `truth`), which
        texts name the crop's own kind [B, T], and how much the pool's words differ from the
        sentence encoder in the kinds they choose."""
        vocabulary = self._vocabulary
        captions = _draw_captions(self._claims, facts, self._captions, rng)
        strange = [vocabulary.strange(rng) for _ in range(24)]
        target = torch.from_numpy(truth(facts, captions))
        own = torch.from_numpy(facts.kind[:, None] == np.array([c.kind for c in captions]))
        target, own = (F.pad(told, (0, len(strange))) for told in (target, own))
        said = vocabulary.tokens([*(vocabulary.said(c, rng) for c in captions), *strange])
        pool = torch.from_numpy(rng.integers(len(vocabulary.pool), size=self._pool))
        tokens = torch.cat([said, self._fixed, vocabulary.pool_tokens[pool]])
        rows = F.normalize(self._model.encode_text(tokens), dim=1)
        texts, negative, kinds, pooled = rows.split(
            [len(said), len(NEGATIVES), len(self._kinds), len(pool)]
        )
        goal = (SHARPNESS * vocabulary.pool_kinds[pool]).softmax(1)
        chosen = (10 * pooled @ kinds.T).log_softmax(1)
        return texts, negative, target, own, F.kl_div(chosen, goal, reduction="batchmean")


def draw_crops(facts: Facts, rng: np.random.Generator) -> np.ndarray:
    """The probability of each crop: all kinds and parts about equal, groups and rooms less."""
    key = facts.kind * 1000 + np.where(facts.part >= 0, facts.part + 1, 0)
    key = np.where(facts.part == GROUP, -1, key)
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    weight = counts[inverse].astype(float) ** -0.6
    weight *= np.where(facts.part == WHOLE, 1.6, 1.0)
    weight[facts.part == GROUP] = 0.06 * weight.sum() / max((facts.part == GROUP).sum(), 1)
    return weight / weight.sum()


class Draws:
    """Which crops make a batch.

    Half of them show anything. The others show a few kinds, several crops each: how a
    handle differs from its mug is learned from both in one batch.
    """

    KINDS = 8

    def __init__(self, facts: Facts, rng: np.random.Generator) -> None:
        self._rng = rng
        self._weight = draw_crops(facts, rng).cumsum()
        alone = np.where(facts.part == GROUP, -1, facts.kind)
        weight = np.diff(self._weight, prepend=0)
        self._of_kind = []
        for kind in np.unique(alone[alone >= 0]):
            rows = np.flatnonzero(alone == kind)
            self._of_kind.append((rows, weight[rows].cumsum()))

    def __call__(self, batch: int) -> np.ndarray:
        """The numbers [B] of the crops, in ascending order."""
        each = batch // 2 // self.KINDS
        chosen = self._rng.choice(len(self._of_kind), self.KINDS, replace=False)
        kinds = [self._of_kind[k] for k in chosen]
        drawn = [rows[self._drawn(weight, each)] for rows, weight in kinds]
        drawn.append(self._drawn(self._weight, batch - each * self.KINDS))
        return np.sort(np.concatenate(drawn))

    def _drawn(self, weight: np.ndarray, count: int) -> np.ndarray:
        """`count` random positions; `weight` is the running sum of their weights."""
        return np.searchsorted(weight[:-1], self._rng.random(count) * weight[-1], side="right")


def train(
    model: torch.nn.Module,
    vocabulary: Vocabulary,
    maps: Tensor,
    facts: Facts,
    out: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    lr: float,
) -> None:
    """`steps` steps of AdamW, with warm-up and cosine decay; the result is a mean of the weights.

    This running mean is saved to `out` now and then. maps [N, C, h, w] float16 are the output of
    `first_stages` for the crops.
    """
    rng = np.random.default_rng(seed)
    tutor = Tutor(model.text.output_dim)
    trunk = model.visual.trunk
    learned = [*trunk.blocks[FIRST:].parameters(), *trunk.conv_head.parameters()]
    learned += list(trunk.bn2.parameters())
    fresh = [*model.visual.head.parameters(), *tutor.parameters(), model.logit_scale]
    words = [model.text.token_embedding.weight, model.text.positional_embedding]
    words += [p for n, p in model.text.named_parameters() if "embedding" not in n]
    model.visual.trunk.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    groups = [
        {"params": learned, "weight_decay": 0.05},
        {"params": fresh, "weight_decay": 0.02},
        {"params": words, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    rates = [0.5 * lr, lr, lr]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps, pct_start=0.08
    )
    model.text.token_embedding.weight.register_hook(lambda grad: grad * vocabulary.trained)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    draws = Draws(facts, rng)
    talk = Talk(model, vocabulary, captions=18, pool=96)
    model.eval()
    for part in (*trunk.blocks[FIRST:], trunk.bn2, model.text):
        part.train()
    began = time.perf_counter()
    mean_loss = np.zeros(4)
    for step in range(steps):
        rows = draws(batch)
        texts, negative, target, own, nearness = talk(facts.rows(rows), rng)
        crop_rows = last_stages(model.visual, maps[rows].float())
        taught = tutor.loss(crop_rows, facts.rows(rows))
        crop_rows = F.normalize(crop_rows, dim=1)
        scale = model.logit_scale.exp().clamp(max=30)
        first = contrastive(crop_rows @ texts.T, target, scale)
        second = relevancy_loss(margins(crop_rows, texts, negative), target, own)
        loss = first + second + taught + 0.5 * nearness
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        values = [float(v.detach()) for v in (first, second, taught, nearness)]
        mean_loss = 0.98 * mean_loss + 0.02 * np.array(values)
        if (step + 1) % 300 == 0:
            save(average.module, out)
        if (step + 1) % 50 == 0:
            pace = (time.perf_counter() - began) / (step + 1)
            print(
                f"step {step + 1}/{steps} loss {mean_loss.round(3)} {pace:.3f} s/step", flush=True
            )
    model.load_state_dict(average.module.state_dict())
    model.eval()


def polish(
    model: torch.nn.Module,
    vocabulary: Vocabulary,
    rows: Tensor,
    facts: Facts,
    *,
    steps: int,
    seed: int,
    lr: float,
) -> None:
    """Train the text side alone against the finished embeddings [N, E] of crops.

    A step costs a fraction of one with pictures, so many more words and phrases can be seen.
    """
    rng = np.random.default_rng(seed + 1)
    model.visual.requires_grad_(False)
    parameters = list(model.text.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    scale = model.logit_scale.detach().exp().clamp(max=30)
    talk = Talk(model, vocabulary, captions=24, pool=256)
    model.text.train()
    mean_loss = np.zeros(3)
    for step in range(steps):
        drawn = rng.integers(len(rows), size=256)
        texts, negative, target, own, nearness = talk(facts.rows(drawn), rng)
        first = contrastive(rows[drawn] @ texts.T, target, scale)
        second = relevancy_loss(margins(rows[drawn], texts, negative), target, own)
        loss = first + second + 0.5 * nearness
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        values = [float(v.detach()) for v in (first, second, nearness)]
        mean_loss = 0.98 * mean_loss + 0.02 * np.array(values)
        if (step + 1) % 100 == 0:
            print(f"texts {step + 1}/{steps} loss {mean_loss.round(3)}", flush=True)
    model.eval()


CLAIMS = ("kind", "part", "color", "object_color", "material")


def _by_claim(captions: list[Caption]) -> dict[tuple[int, ...], list[Caption]]:
    """Captions grouped by what they claim."""
    index = defaultdict(list)
    for caption in captions:
        index[tuple(getattr(caption, name) for name in CLAIMS)].append(caption)
    return dict(index)


def _draw_captions(
    groups: list[dict[tuple[int, ...], list[Caption]]],
    facts: Facts,
    count: int,
    rng: np.random.Generator,
) -> list[Caption]:
    """`count` captions of every group: half of them fit crops of the batch, half are random.

    The claim is drawn first, then its wording: things with many names do not come more often.
    """
    known = np.stack([getattr(facts, name) for name in CLAIMS], 1).tolist()
    out = []
    for index in groups:
        keys = list(index)
        chosen = [keys[k] for k in rng.integers(len(keys), size=count // 2)]
        while len(chosen) < count:
            shape = keys[int(rng.integers(len(keys)))]
            crop = known[int(rng.integers(len(known)))]
            key = tuple(v if s >= 0 else -1 for v, s in zip(crop, shape, strict=True))
            chosen.append(key if key in index else shape)
        for key in dict.fromkeys(chosen):
            out.append(index[key][int(rng.integers(len(index[key])))])
    return out


@torch.inference_mode()
def embed(model: torch.nn.Module, images: Tensor) -> Tensor:
    visual = fused(model.visual)
    rows = [visual(normalised(chunk.float() / 255)) for chunk in images.split(16)]
    return F.normalize(torch.cat(rows), dim=1)


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module, vocabulary: Vocabulary, images: Tensor, facts: Facts
) -> dict[str, float]:
    """Accuracies on crops the training never saw, in per cent."""
    rows = embed(model, images)

    def say(texts: Iterable[str | list[int]]) -> Tensor:
        return F.normalize(model.encode_text(vocabulary.tokens(texts)), dim=1)

    negatives = say(NEGATIVES)
    out: dict[str, float] = {"crops": float(len(images))}

    def best(keep: np.ndarray, captions: list[Caption], name: str) -> None:
        target = truth(facts.rows(keep), captions)
        asked = (target == 1).any(1)
        scores = rows[keep][asked] @ say([c.text for c in captions]).T
        scores[torch.from_numpy(target[asked] < 0)] = -2
        hit = target[asked][np.arange(len(scores)), scores.argmax(1).numpy()] == 1
        out[name] = 100 * float(hit.mean()) if len(hit) else float("nan")

    whole = np.flatnonzero((facts.part == WHOLE) & (facts.kind < len(KINDS)))
    part = np.flatnonzero(facts.part >= 0)
    kinds = [Caption(names[0], kind=KIND_IDS[k]) for k, names in KIND_NAMES.items() if k in KINDS]
    others = [Caption(n, kind=KIND_IDS[k]) for k, v in KIND_NAMES.items() if k in KINDS for n in v]
    colored = [
        Caption(f"{color} {k}", kind=KIND_IDS[k], color=COLOR_IDS[color])
        for k, kind in KINDS.items()
        for color in sorted(set(kind.colors))
    ]
    parts = [c for c in vocabulary.groups[4] if c.text.split(" of the ")[0] in PART_NAMES]
    parts = [c for c in parts if any(c.text.endswith(f" of the {k}") for k in KINDS)]
    best(whole, kinds, f"kind of {len(kinds)}")
    best(whole, others, "kind by any of its names")
    best(whole, colored, f"colour and kind of {len(colored)}")
    unseen = whole[is_unseen(facts)[whole]]
    best(unseen, colored, "colour and kind, pair never trained")
    best(part, parts, f"part of its kind of {len(parts)}")
    colors = [Caption(c, color=i) for c, i in COLOR_IDS.items()]
    best(np.concatenate([whole, part]), colors, "colour of 12")

    for name, captions in (("kinds", kinds), ("colour and kind", colored), ("parts", parts)):
        keep = part if name == "parts" else whole
        target = truth(facts.rows(keep), captions)
        found = margins(rows[keep], say([c.text for c in captions]), negatives).numpy() > 0
        out[f"true {name} with r > 0.5"] = 100 * float(found[target == 1].mean())
        out[f"false {name} with r > 0.5"] = 100 * float(found[target == 0].mean())
    absent = margins(rows, say(ABSENT), negatives) > 0
    out["absent things with r > 0.5"] = 100 * float(absent.float().mean())
    rng = np.random.default_rng(1)
    foreign = rng.choice(vocabulary.foreign, 300).tolist()
    out["foreign words with r > 0.5"] = 100 * float(
        (margins(rows, say(foreign), negatives) > 0).float().mean()
    )
    # Names that were in no caption, each against the own names of all other kinds.
    own = say([c.text for c in kinds])
    hits, found = [], []
    for kind, entry in enumerate(kinds):
        heard = whole[facts.kind[whole] == entry.kind]
        for name in KINDS[entry.text].unheard if len(heard) else ():
            texts = own.clone()
            texts[kind] = say([name])[0]
            hits.append(float(((rows[heard] @ texts.T).argmax(1) == kind).float().mean()))
            found.append(float((margins(rows[heard], say([name]), negatives) > 0).float().mean()))
    out[f"kind by {len(hits)} names never heard"] = 100 * float(np.mean(hits))
    out["names never heard with r > 0.5"] = 100 * float(np.mean(found))
    return out


def new_model(config: dict, seed: int, vocabulary: Vocabulary) -> torch.nn.Module:
    """The architecture with fresh weights, except for the word embeddings.

    Whole words start from the sentence encoder's rows, reduced to the width by principal axes;
    words that are in no text are zero, not noise.
    """
    torch.manual_seed(seed)
    model = open_clip.model.CustomTextCLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        text_cfg=open_clip.CLIPTextCfg(**config["text_cfg"]),
        init_logit_scale=float(np.log(10.0)),
    )
    embedding = model.text.token_embedding.weight.data
    embedding.mul_(2.0)
    tokens, rows = vocabulary.word_rows()
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, : embedding.shape[1]]
    rows = rows @ axes
    embedding[tokens] = rows * (0.05 / rows.std())
    embedding.mul_(vocabulary.trained)
    return model


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the two towers in float16, each file completely or not at all."""
    for name, tower in (("image", model.visual), ("text", model.text)):
        half = {
            key: (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in tower.state_dict().items()
        }
        partial = folder / f".{name}.safetensors"
        save_file(half, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        partial.rename(folder / f"{name}.safetensors")


def load(model: torch.nn.Module, folder: Path) -> None:
    """Read what `save` wrote, rounded as in the files."""
    for name, tower in (("image", model.visual), ("text", model.text)):
        tower.load_state_dict(load_file(folder / f"{name}.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", type=Path, help="only write the texts there, as JSON")
    parser.add_argument(
        "--trunk",
        type=Path,
        help="ImageNet's weights of EfficientNet-Lite0; without them training goes on from --out",
    )
    parser.add_argument("--crops", type=Path, nargs="+")
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--sentences", type=Path)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent.parent / "encoder",
        help="has open_clip_config.json",
    )
    parser.add_argument("--lexicon", type=Path, required=True, help="what lexicon.py wrote")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--texts-steps", type=int, default=1500, help="then, with texts alone")
    parser.add_argument(
        "--looks",
        type=float,
        default=2,
        help="at every crop, each another way; less than 1: at that share of them",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = json.loads((args.out / "open_clip_config.json").read_text())["model_cfg"]
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    if args.list:
        args.list.write_text(json.dumps(Vocabulary(tokenizer, args.lexicon).texts()))
        return
    vocabulary = Vocabulary(tokenizer, args.lexicon, args.sentences)
    model = new_model(config, args.seed, vocabulary)
    model.visual.to(memory_format=torch.channels_last).eval()
    generator = torch.Generator().manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    began = time.perf_counter()
    if args.steps:
        if args.trunk:
            read_trunk(model.visual, args.trunk)
        else:
            load(model, args.out)
        maps, known = [], []
        for number, file in enumerate(args.crops):
            images, facts = load_crops(file)
            keep = np.flatnonzero(~is_unseen(facts))
            if number == 0 and args.trunk:
                recalibrate(model.visual, images[rng.choice(keep, 3000)], generator)
            for _ in range(math.ceil(args.looks)):
                keep = rng.permutation(keep)[: math.ceil(args.looks * len(keep))]
                maps.append(maps_of(model.visual, images[keep], generator))
                known.append(facts.rows(keep))
            minutes = (time.perf_counter() - began) / 60
            print(f"{file.name}: {len(keep)} crops, {minutes:.1f} minutes", flush=True)
        train(
            model,
            vocabulary,
            torch.cat(maps),
            joined(known),
            args.out,
            steps=args.steps,
            batch=args.batch,
            seed=args.seed,
            lr=args.lr,
        )
        save(model, args.out)
    load(model, args.out)
    if args.texts_steps:
        rows, known = [], []
        for file in args.crops:
            images, facts = load_crops(file)
            weight = draw_crops(facts, rng) * ~is_unseen(facts)
            keep = rng.choice(len(images), 5000, p=weight / weight.sum())
            rows.append(embed(model, images[keep]))
            known.append(facts.rows(keep))
        polish(
            model,
            vocabulary,
            torch.cat(rows).clone(),
            joined(known),
            steps=args.texts_steps,
            seed=args.seed,
            lr=args.lr,
        )
    minutes = (time.perf_counter() - began) / 60
    save(model, args.out)
    load(model, args.out)
    held_out, held_facts = load_crops(args.held_out)
    results = evaluate(model, vocabulary, held_out, held_facts)
    print(f"trained in {minutes:.1f} minutes")
    for name, value in results.items():
        print(f"| {name} | {value:.1f} |")


if __name__ == "__main__":
    main()
