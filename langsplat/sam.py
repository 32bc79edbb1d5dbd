"""Segment Anything as a segmenter: the masks LangSplat was published with, at three levels.

SAM (Kirillov et al. 2023) answers a point with three masks, and LangSplat (arXiv 2312.16084,
section 3.2) uses them as three levels: subpart, part and whole. The stock package puts all three
into one list; here each mask keeps the number of the output it came from, and each level passes
first SAM's own filters and then LangSplat's three rules separately: no near duplicates, no doubtful
masks, no small mask inside a large one.

    segmenter = load_segmenter("sam_vit_h")                   # the paper's settings
    segmenter = load_segmenter("sam_vit_h:fast")              # 16 x 16 points, no crops
    segmenter = load_segmenter("sam_vit_b:cpu/weights.pth")   # a file of your own

Letters: H W pixels, M masks of one level, B points of a batch, L = 3 levels.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langsplat.hub import fetch_file

HUB_REPO = "ybelkada/segment-anything"
# The official files: name (which begins its MD5) and SHA-256.
WEIGHTS = {
    "sam_vit_h": (
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "sam_vit_l": (
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam_vit_b": (
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
}
LEVEL_COUNT = 3  # outputs of SAM's mask decoder


def check_picture(image: np.ndarray) -> None:
    """Raise ValueError unless an image is [H, W, 3] uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            "A picture to segment must be [H, W, 3] uint8 with at least one pixel, got "
            f"{list(image.shape)} {image.dtype}."
        )


@dataclass(frozen=True)
class SamSettings:
    """What decides which masks a picture gets; the defaults are the paper's."""

    points_per_side: int = 32
    """Prompts are a grid of this many by this many points, in the picture and in every crop."""
    crop_layers: int = 1
    """0: the picture alone; 1: also its four overlapping quarters, magnified."""
    points_per_batch: int = 64
    """Decoded together; affects only memory (13 MB per point)."""
    predicted_iou: float = 0.7
    """SAM's own estimate of a mask's quality must exceed this; 0 lets all pass."""
    stability: float = 0.85
    """The least IoU of the mask cut one logit higher and one lower; 0 lets all pass."""
    box_overlap: float = 0.7
    """Of two masks whose boxes have a higher IoU, the worse is dropped."""
    smallest: int = 100
    """Holes of fewer pixels are filled, islands removed."""
    mask_overlap: float = 0.8
    """Of two masks with a higher IoU, the one with the lower score is dropped."""
    score: float = 0.7
    """Predicted IoU times stability must exceed this."""
    inside: float = 0.85
    """A mask is dropped if at least this much of it lies in another one ..."""
    fills: float = 0.5
    """... and it fills less than this much of that other one."""


PRESETS = {
    "paper": SamSettings(),
    "fast": SamSettings(points_per_side=16, crop_layers=0),
    "cpu": SamSettings(points_per_side=16, crop_layers=0, points_per_batch=8),
}
# Without a preset: the paper's, except for the model that is meant for machines without a GPU.
_DEFAULT_PRESET = {"sam_vit_h": "paper", "sam_vit_l": "paper", "sam_vit_b": "cpu"}


def load_sam(spec: str, *, device: torch.device | str = "cpu") -> "SamSegmenter":
    """A SAM segmenter with its weights.

    Args:
        spec: `sam_vit_h`, `sam_vit_l` or `sam_vit_b`, optionally with `:<preset>`, `:<file>` or
            `:<preset>/<file>`. Presets are paper, fast and cpu; the default is cpu for sam_vit_b
            and paper for the others. Without a file the official weights come from the Hub's cache,
            else from the Hub.
        device: where the model runs.
    Raises:
        ValueError: the model or preset is unknown; the weights are missing, damaged, another
            model's, or not the official ones although they have their name.
    """
    model, _, rest = spec.partition(":")
    if model not in WEIGHTS:
        raise ValueError(f"There is no model {model!r}: choose {', '.join(WEIGHTS)}.")
    preset, _, file = rest.partition("/")
    if preset not in PRESETS:
        preset, file = _DEFAULT_PRESET[model], rest
    name, digest = WEIGHTS[model]
    if file:
        path = Path(file)
        if not path.is_file():
            raise ValueError(
                f"{file!r} is neither a preset ({', '.join(PRESETS)}) nor a file: write "
                f"{model}:<preset> or {model}:<path of {name}>."
            )
    else:
        path = fetch_file(
            HUB_REPO,
            (f"checkpoints/{name}",),
            wanted_by=f"The segmenter {model}",
            instead=f"give {model}:<path of {name}>, or use the bundled segmenter",
        )
    found = _sha256(path)
    if found != digest and (not file or path.name == name):
        raise ValueError(
            f"{path} is not the official {name} (its SHA-256 is {found[:12]}..., not "
            f"{digest[:12]}...): download it again."
        )
    label = f"{model}:{preset}" if found == digest else f"{model}:{preset}/{found[:8]}"
    return SamSegmenter(label, _predictor(model, path, device), PRESETS[preset])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _predictor(model: str, path: Path, device: torch.device | str) -> Any:
    try:
        from segment_anything import SamPredictor, sam_model_registry
    except ImportError as error:
        raise ValueError(
            f"{model} needs the package segment-anything: `pip install segment-anything`."
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises nearly anything for a damaged file
        raise ValueError(
            f"The weights in {path} are damaged or hold more than tensors: download them again."
        ) from error
    network = sam_model_registry[model.removeprefix("sam_")]()
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The weights in {path} do not fit {model}: choose the weights of this model, or the "
            "model of these weights."
        ) from error
    return SamPredictor(network.to(device).eval().requires_grad_(False))


class SamSegmenter:
    """Segment Anything over a grid of points, sorted into subparts, parts and wholes.

    Args:
        name: the model, its preset and, for weights of your own, the beginning of their SHA-256.
        predictor: a `segment_anything.SamPredictor`, with its model.
        settings: thresholds and how many points.
    """

    uses_surface = False  # the network sees the picture only

    def __init__(self, name: str, predictor: Any, settings: SamSettings) -> None:
        self.name = name
        self.settings = settings
        self._generator = _generator_class()(predictor, settings)

    def __call__(self, image: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB -> [3, H, W] int32, ids 0 .. n-1 of each level; -1 = no mask."""
        return self.segments_and_masks(image)[0]

    def segments_and_masks(self, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """The label maps, and the whole mask of every segment, even where another one hides it.

        Args:
            image: [H, W, 3] uint8 RGB, at least one pixel.
        Returns:
            [3, H, W] int32 as from `__call__`, and for each level [M, H, W] bool (M may be 0); row
            i of a level is the mask of its segment i.
        Raises:
            ValueError: the image has another shape or type.
        """
        check_picture(image)
        maps, masks = [], []
        for candidates, scores in self._generator.levels_of(image):
            kept = candidates[keep_masks(candidates, scores, self.settings)]
            ids, visible = paint(kept)
            maps.append(ids)
            masks.append(kept[visible])
        return np.stack(maps), masks


def keep_masks(masks: np.ndarray, scores: np.ndarray, settings: SamSettings) -> np.ndarray:
    """LangSplat's non-maximum suppression of the masks of one level.

    A mask is dropped if a mask of higher score covers about the same pixels (IoU above
    `settings.mask_overlap`), if its score is not above `settings.score`, or if it lies in another
    mask and fills little of it. Dropped masks still suppress others, as in the paper's code.

    Args:
        masks: [M, H, W] bool.
        scores: [M], predicted IoU times stability.
    Returns:
        [M] bool, True = kept.
    """
    shared = intersections(masks)
    area = shared.diagonal()
    union = area[:, None] + area[None] - shared
    iou = shared / np.maximum(union, 1)
    rank = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
    better = rank[:, None] < rank[None]  # [i, j]: i ranks before j
    duplicate = (better & (iou > settings.mask_overlap)).any(axis=0)
    part = shared / np.maximum(area, 1)[:, None]  # [i, j]: how much of i lies in j
    contained = ((part >= settings.inside) & (part.T < settings.fills)).any(axis=1)
    return ~duplicate & ~contained & (scores > settings.score) & (area > 0)


def intersections(masks: np.ndarray) -> np.ndarray:
    """How many pixels each pair of masks shares: [M, H, W] bool -> [M, M] float64, exact.

    In a picture of a million pixels under 300 masks, pixels have only some thousand different sets
    of masks. So pixels are grouped by their set (identified by a 64-bit sum of one random number
    per mask), and one matrix product over the groups, weighted with their sizes, counts all pairs.
    """
    keys = np.random.default_rng(0).integers(0, 2**63, len(masks), dtype=np.uint64)
    sets = np.zeros(masks.shape[1:], np.uint64)
    for mask, key in zip(masks, keys, strict=True):
        box = _box(mask)
        sets[box] += mask[box] * key
    _, first, counts = np.unique(sets, return_index=True, return_counts=True)
    flat = masks.reshape(len(masks), sets.size)
    shared = np.zeros((len(masks), len(masks)))
    for start in range(0, len(first), 65536):
        members = flat[:, first[start : start + 65536]].astype(np.float64)
        shared += (members * counts[start : start + 65536]) @ members.T
    return shared


def _box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns that a mask lies in, with a margin (cut at the picture's border)."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return np.s_[:0, :0]
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    return np.s_[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]


def paint(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint masks [M, H, W] (non-zero = inside) over each other, later ones on top.

    Returns:
        The label map [H, W] int32, with ids without gaps for the masks that are still visible, -1
        where there is none; and the rows of `masks` that these ids stand for.
    """
    masks = np.asarray(masks, bool)  # other numbers would be taken for rows
    top = np.full(masks.shape[1:], -1, np.int32)
    for row, mask in enumerate(masks):
        box = _box(mask)
        top[box][mask[box]] = row
    visible = np.unique(top)
    visible = visible[visible >= 0]
    new = np.full(len(masks) + 1, -1, np.int32)  # the extra last entry is where -1 points to
    new[visible] = np.arange(len(visible))
    return new[top], visible


def without_specks(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, bool]:
    """Fill the holes and remove the islands of fewer than `smallest` pixels (diagonals connect).

    If all islands are that small the largest one is kept.

    Returns:
        The mask, [H, W] bool, and whether it had any. A mask that is a single small island counts,
        too, as in SAM's own code, which ranks such masks last.
    """
    from scipy import ndimage

    # With this margin a region that extends beyond the box is never mistaken for a small one.
    box = _box(mask, margin=int(np.ceil(np.sqrt(smallest))))
    inner, specks = mask[box], False
    for holes in (True, False):
        labels, count = ndimage.label(inner ^ holes, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        small = areas < smallest
        small[0] = False
        if not small.any():
            continue
        specks = True
        if not holes and small[1:].all():
            small[1 + int(areas[1:].argmax())] = False
        speckled = small[labels]
        inner = inner | speckled if holes else inner & ~speckled
    if not specks:
        return mask, False
    out = mask.copy()
    out[box] = inner
    return out, True


@cache
def _generator_class() -> type:
    """SAM's automatic mask generator with levels; defined on first use, as the import is slow."""
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.utils import amg
    from torchvision.ops import box_area, nms

    # Boxes of different levels are moved this far apart, so that they never overlap in the stock
    # filters, which compare all boxes with each other.
    apart = 1 << 20

    class LevelGenerator(SamAutomaticMaskGenerator):
        def __init__(self, predictor: Any, settings: SamSettings) -> None:
            super().__init__(
                predictor.model,
                points_per_side=settings.points_per_side,
                points_per_batch=settings.points_per_batch,
                pred_iou_thresh=settings.predicted_iou,
                stability_score_thresh=settings.stability,
                stability_score_offset=1.0,
                box_nms_thresh=settings.box_overlap,
                crop_n_layers=settings.crop_layers,
                crop_nms_thresh=settings.box_overlap,
                crop_overlap_ratio=512 / 1500,
                crop_n_points_downscale_factor=1,
            )
            self.predictor = predictor
            self.smallest = settings.smallest

        @torch.no_grad()
        def levels_of(self, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
            """For each level: masks [M, H, W] bool and scores [M], in the generator's order."""
            data = self._of_all_crops(image)
            out = []
            for level in range(LEVEL_COUNT):
                rows = np.flatnonzero(np.asarray(data["levels"]) == level)
                masks = np.zeros((len(rows), *image.shape[:2]), bool)
                tidy = np.zeros(len(rows), bool)
                for k, row in enumerate(rows):
                    cleaned, specks = without_specks(
                        amg.rle_to_mask(data["rles"][row]), self.smallest
                    )
                    masks[k], tidy[k] = cleaned, not specks
                # Multiplied in double precision, as the published code does.
                quality, stability = (
                    np.asarray(data[key])[rows].astype(np.float64)
                    for key in ("iou_preds", "stability_score")
                )
                scores = quality * stability  # that of a mask without pixels may be NaN
                # Cleaning may have made two masks alike: prefer those that needed none.
                boxes = amg.batched_mask_to_box(torch.from_numpy(masks)).float().reshape(-1, 4)
                order = nms(boxes, torch.from_numpy(tidy).float(), self.box_nms_thresh).numpy()
                out.append((masks[order], scores[order]))
            return out

        def _of_all_crops(self, image: np.ndarray) -> Any:
            """What all crops found; of masks alike those of smaller crops.

            The stock code's batched_nms returns more than 1000 boxes on a CPU with those of equal
            score, which are all of one size of crops, in no order. Masks are painted in this order.
            """
            size = image.shape[:2]
            data = amg.MaskData()
            crops = amg.generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
            for crop_box, layer in zip(*crops, strict=True):
                data.cat(self._process_crop(image, crop_box, layer, size))
            boxes = data["boxes"].float()
            scores = (1 / box_area(data["crop_boxes"])).to(boxes)
            data.filter(nms(boxes, scores, self.crop_nms_thresh))
            data.to_numpy()
            return data

        def _process_crop(self, *args: Any) -> Any:
            data = super()._process_crop(*args)
            # The stock code fails where no crop has a mask: its list of boxes then has no columns.
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

        def _process_batch(
            self,
            points: np.ndarray,  # [B, 2]
            im_size: tuple[int, ...],
            crop_box: list[int],
            orig_size: tuple[int, ...],
        ) -> Any:
            """The stock filters, in their order, on masks that keep the number of their output."""
            device, cut = self.predictor.device, self.predictor.model.mask_threshold
            prompts = torch.as_tensor(
                self.predictor.transform.apply_coords(points, im_size), device=device
            )
            logits, quality, _ = self.predictor.predict_torch(
                prompts[:, None],
                torch.ones(len(prompts), 1, dtype=torch.int, device=device),
                multimask_output=True,
                return_logits=True,
            )
            data = amg.MaskData(
                masks=logits.flatten(0, 1),
                iou_preds=quality.flatten(),
                points=torch.as_tensor(points).repeat_interleave(LEVEL_COUNT, dim=0),
                levels=torch.arange(LEVEL_COUNT, device=device).repeat(len(prompts)),
            )
            if self.pred_iou_thresh > 0:
                data.filter(data["iou_preds"] > self.pred_iou_thresh)
            data["stability_score"] = amg.calculate_stability_score(
                data["masks"], cut, self.stability_score_offset
            )
            if self.stability_score_thresh > 0:
                data.filter(data["stability_score"] >= self.stability_score_thresh)
            data["masks"] = data["masks"] > cut
            data["boxes"] = amg.batched_mask_to_box(data["masks"]).reshape(-1, 4)
            height, width = orig_size
            data.filter(~amg.is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height]))
            data["boxes"] = data["boxes"] + apart * data["levels"][:, None]
            data["rles"] = amg.mask_to_rle_pytorch(
                amg.uncrop_masks(data["masks"], crop_box, height, width)
            )
            del data["masks"]
            return data

    return LevelGenerator
