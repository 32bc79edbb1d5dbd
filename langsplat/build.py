"""From photos to a scene: capture, train, describe, lift, save; a stopped build can be resumed.

Finished work stays in a folder beside the result (`SCENE.build/`) until the scene is written: after
an interruption the same command goes on where it stopped, and a changed setting repeats only what
depends on it. The scene itself appears whole or not at all.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO, overload

import numpy as np
import torch
from PIL import Image

import langsplat
from langsplat import CAPTURE_FILE, PREVIEW_FILE, SCENE_FILE, WORK_MARK, WORK_SUFFIX
from langsplat.cameras import world_frame
from langsplat.capture import LOADING, READING, Capture, is_made_here, load_capture, may_be_read
from langsplat.codec import CODECS, MAX_CODEWORDS
from langsplat.encoders import Encoder, bundled_name, check_list, is_file, load_encoder
from langsplat.features import SegmentFeatures, embed_segments
from langsplat.language import LIFTING, LanguageTraining, fit_language, level_notes
from langsplat.masks import Segmenter, load_segmenter
from langsplat.progress import (
    Progress,
    check_whole,
    hold_python_numbers,
    replacing,
    silent,
    torch_threads,
)
from langsplat.query import render_rgb
from langsplat.rasterize import render_surface
from langsplat.sam import SamSegmenter
from langsplat.scene import (
    Camera,
    Gaussians,
    LanguageField,
    Scene,
    check_destination,
    check_name,
    load_scene,
    save_scene,
    writable,
)
from langsplat.sfm import FEATURES, MATCHING, PLACING
from langsplat.train import (
    TRAINING,
    TrainConfig,
    fit_gaussians,
    mean_psnr,
    split_views,
)

DESCRIBING, SAVING = "Describe segments", "Save the scene"
STAGES = (READING, FEATURES, MATCHING, PLACING, LOADING, TRAINING, DESCRIBING, LIFTING, SAVING)
"""The stages of a build from photos with the default settings, in order."""
AT_ONCE = 8  # views described at the same time, at most
_FEATURES = "features-"


@dataclass(frozen=True)
class BuildConfig:
    """Every choice of a build; the defaults suit two CPU cores."""

    name: str = ""
    """Name of the scene; if empty, that of the capture."""
    max_side: int = 480
    """Photos are shrunk to at most this many pixels on the long side."""
    iterations: int = 3000
    """Training steps of the Gaussians."""
    max_gaussians: int = 30_000
    """The most Gaussians the scene may have."""
    sh_degree: int = 2
    """Degree of the spherical harmonics for view-dependent color: 0 to 3."""
    segmenter: str = "bundled"
    """Cuts the photos into segments; see `load_segmenter`."""
    encoder: str = "bundled"
    """Describes the segments; see `load_encoder`. Queries need the same one."""
    codec: str = "codebook"
    """How a Gaussian stores what it means: codebook, or the paper's autoencoder."""
    codewords: int = 256
    """Size of each level's codebook."""
    language: str = "lift"
    """lift: no training; quick: 500 training steps after lifting; paper: 30 000."""
    holdout_every: int = 0
    """Every n-th photo is held out of training and used to measure; 0 trains on all."""
    seed: int = 0
    """The same seed, photos and settings give the same scene."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is a CUDA device."""
    examples: tuple[str, ...] = ()
    """Example queries kept with the scene."""

    def __post_init__(self) -> None:
        hold_python_numbers(self)
        object.__setattr__(self, "name", writable(self.name))
        object.__setattr__(self, "examples", tuple(map(writable, check_list(self.examples))))
        for spec in (self.segmenter, self.encoder):
            check_name(spec, "rename the file")
        for name in ("max_side", "codewords", "seed"):
            check_whole(name, getattr(self, name))
        if not 64 <= self.max_side <= 4096:
            raise ValueError(f"max_side must lie between 64 and 4096 pixels, got {self.max_side}.")
        if not 1 <= self.codewords <= MAX_CODEWORDS:
            raise ValueError(
                f"codewords must lie between 1 and {MAX_CODEWORDS}, got {self.codewords}."
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"The seed must lie between 0 and 2^63 - 1, got {self.seed}.")
        if self.codec not in CODECS:
            raise ValueError(f"The codec must be {' or '.join(CODECS)}, got {self.codec!r}.")
        LanguageTraining.preset(self.language)
        _ = self.training
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"The device must be auto, cpu or cuda, got {self.device!r}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("There is no CUDA device here: use the device cpu.")

    @property
    def training(self) -> TrainConfig:
        """How the Gaussians are trained."""
        return TrainConfig(
            iterations=self.iterations,
            max_gaussians=self.max_gaussians,
            sh_degree=self.sh_degree,
            holdout_every=self.holdout_every,
            seed=self.seed,
        )

    @property
    def torch_device(self) -> str:
        """The device to work on: cpu or cuda."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def build_scene(
    path: Path | str,
    out: Path | str,
    config: BuildConfig = BuildConfig(),
    *,
    progress: Progress = silent,
) -> Path:
    """Build a scene from photos or a posed capture.

    Nothing is done if `out` is already the scene that the same call made of the same files.

    Args:
        path: a folder or zip of photos, a COLMAP model with its images, or a transforms.json.
        out: the scene's folder; new, empty, or an older scene, which is replaced.
        config: every choice of the build.
        progress: called with the stages in order.
    Returns:
        The scene's folder.
    Raises:
        ValueError: the photos, the capture or the settings cannot be used; the message says why.
    """
    path, out = Path(path), Path(out).absolute()
    check_destination(out)
    if not path.exists():
        raise ValueError(f"There is nothing at {path}: give a folder or a zip of photos.")
    call = _digest(path, _all_settings(config))
    if _is_made(out, call):
        _tidy_up(path, out, config.max_side)
        note = "The scene of these photos and settings is there: remove it to build it again."
        progress(SAVING, 1, 1, note)
        return out
    # Before any work: a mistyped name must not cost ten minutes of training.
    segmenter = load_segmenter(config.segmenter, device=config.torch_device)
    encoder = load_encoder(config.encoder, device=config.torch_device)
    with _Work(path, out, config.max_side) as working:
        work = working.folder
        seconds: dict[str, float] = {}
        with _timed(seconds, "capture"):
            capture = _captured(path, config.max_side, work, progress)
        with _timed(seconds, "train"):
            gaussians = fit_gaussians(
                capture,
                config.training,
                device=config.torch_device,
                state=work / "train.state",
                progress=progress,
            )
        language = _make_language(
            gaussians,
            capture.cameras,
            capture.images.__getitem__,
            segmenter,
            encoder,
            config,
            work,
            seconds,
            progress,
        )

        progress(SAVING, 0, 1, "")
        notes = [*capture.notes, *level_notes(language)]
        center, up, radius = world_frame(capture.cameras, capture.points)
        scene = Scene(
            gaussians=gaussians,
            cameras=capture.cameras,
            up=up,
            center=center,
            radius=radius,
            language=language,
            name=config.name or capture.name,
            provenance={
                "langsplat": langsplat.__version__,
                "photos": len(capture.images),
                "notes": notes,
                "settings": _settings(config),
                "call": call,
                "seconds": seconds,
                "psnr": _psnr(gaussians, capture, config.holdout_every),
                "examples": list(config.examples),
                "start_view": central_view(capture.cameras),
            },
        )
        _save(scene, out, working, notes, progress)
    return out


def describe_scene(
    folder: Path | str,
    out: Path | str,
    config: BuildConfig = BuildConfig(),
    *,
    progress: Progress = silent,
) -> Path:
    """Give a scene a new language field, made from its own renders: no photos are needed.

    Args:
        folder: of a scene; its Gaussians, cameras and provenance are kept.
        out: the described scene's folder; may be the same.
        config: segmenter, encoder, codec, codewords, language, holdout_every, seed, device and,
            if given, examples; the rest is not used.
    Returns:
        The described scene's folder.
    Raises:
        ValueError: the scene or the settings cannot be used; the message says why.
    """
    folder, out = Path(folder), Path(out).absolute()
    check_destination(out)
    scene = load_scene(folder).to(config.torch_device)
    if not scene.cameras:
        raise ValueError(f"The scene {scene.name!r} has no cameras: build it from photos instead.")
    segmenter = load_segmenter(config.segmenter, device=config.torch_device)
    encoder = load_encoder(config.encoder, device=config.torch_device)
    with _Work(folder / SCENE_FILE, out) as working:
        seconds: dict[str, float] = {}
        language = _make_language(
            scene.gaussians,
            scene.cameras,
            lambda view: render_rgb(scene, scene.cameras[view]),
            segmenter,
            encoder,
            config,
            working.folder,
            seconds,
            progress,
        )
        progress(SAVING, 0, 1, "")
        used = ("segmenter", "encoder", "codec", "codewords", "language", "holdout_every", "seed")
        settings = {key: value for key, value in _settings(config).items() if key in used}
        made = dict(scene.provenance)
        earlier = made.get("notes")  # a stranger's scene may have anything there
        if scene.language is not None and isinstance(earlier, list):
            of_levels = level_notes(scene.language)  # about the field that is replaced
            made["notes"] = [note for note in earlier if note not in of_levels]
        made["described"] = {
            "from": "its own renders",
            "settings": settings,
            "notes": level_notes(language),
            "seconds": seconds,
        }
        if config.examples:
            made["examples"] = list(config.examples)
        scene = replace(scene, language=language, provenance=made)
        _save(scene, out, working, level_notes(language), progress)
    return out


def _save(
    scene: Scene, out: Path, working: "_Work", notes: Sequence[str], progress: Progress
) -> None:
    """Write a finished scene and remove its working folder."""
    preview = jpeg(render_rgb(scene, scene.cameras[scene.start_view]))
    save_scene(scene.to("cpu"), out, preview=preview, card=scene_card(scene))
    working.remove()
    progress(SAVING, 1, 1, " ".join(notes))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Record in `seconds` how long a stage took."""
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 1)


def _is_made(out: Path, call: str) -> bool:
    """Whether the scene in `out` is what this call makes."""
    try:
        made = load_scene(out).provenance
    except ValueError:
        return False
    return made.get("call") == call and "described" not in made


def _tidy_up(path: Path, out: Path, max_side: int) -> None:
    """Remove the work of a build that was killed between saving its scene and tidying up.

    Work newer than the scene belongs to a build with other settings, which may still be resumed.
    """
    # Errors: the folder is somebody else's, or another process has just begun or tidies up, too.
    with contextlib.suppress(ValueError, OSError):
        saved, work = (out / SCENE_FILE).stat().st_mtime_ns, _work_folder(out)
        files = (file.stat() for file in work.rglob("*") if file.is_file())
        if work.is_dir() and all(file.st_mtime_ns <= saved for file in files):
            with _Work(path, out, max_side) as working:
                working.remove()


def _captured(path: Path, max_side: int, work: Path, progress: Progress) -> Capture:
    """The capture, from an earlier run if there was one."""
    if _is_whole(work / CAPTURE_FILE):
        capture = _read_capture(work / CAPTURE_FILE)
    else:
        capture = load_capture(path, max_side=max_side, workdir=work, progress=progress)
        _write_capture(work / CAPTURE_FILE, capture)
    if capture.notes:  # at once, while the user can still do something about it
        count = len(capture.images)
        progress("Photos in use", count, count, " ".join(capture.notes))
    return capture


def _make_language(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    picture: Callable[[int], np.ndarray],
    segmenter: Segmenter,
    encoder: Encoder,
    config: BuildConfig,
    work: Path,
    seconds: dict[str, float],
    progress: Progress,
) -> LanguageField:
    """Describe the segments of the views' pictures and lift their embeddings to the Gaussians.

    `seconds` receives how long both took.
    """
    by = f"{segmenter.name} {encoder.name} {_weights(config)}"
    described_by = hashlib.sha256(by.encode())
    surface = gaussians if segmenter.uses_surface else None
    if surface is not None:
        described_by.update(surface.means.detach().cpu().numpy().tobytes())
    kept = work / f"{_FEATURES}{described_by.hexdigest()[:8]}"
    # Held-out views are held out here, too, so that they can measure the language.
    seen, _ = split_views(len(cameras), config.holdout_every)
    progress(DESCRIBING, 0, len(seen), "")  # with a large model the first view takes minutes
    with _timed(seconds, "describe"):
        features = _describe(cameras, picture, seen, surface, segmenter, encoder, kept, progress)
    with _timed(seconds, "language"):
        return fit_language(
            gaussians,
            [cameras[view] for view in seen],
            features,
            encoder.name,
            codec=config.codec,
            codewords=config.codewords,
            training=LanguageTraining.preset(config.language),
            seed=config.seed,
            state=work,
            progress=progress,
        )


def _settings(config: BuildConfig) -> dict[str, Any]:
    """The settings that decide the Gaussians and their language, for the provenance."""
    skip = ("name", "examples", "device")
    return {key: value for key, value in asdict(config).items() if key not in skip}


def _all_settings(config: BuildConfig) -> dict[str, Any]:
    """All that a call is given besides the photos, and the state of the weights that it names."""
    encoder = bundled_name() if config.encoder == "bundled" else config.encoder
    return asdict(replace(config, device="auto", encoder=encoder)) | {"weights": _weights(config)}


def _weights(config: BuildConfig) -> list[list[int]]:
    """Sizes and times of the files of weights that the config names."""
    specs = [spec.partition(":")[2] for spec in (config.segmenter, config.encoder)]
    names = [name for spec in specs for name in (spec, spec.partition("/")[2])]
    files = [Path(name).stat() for name in names if is_file(name)]
    return [[file.st_size, file.st_mtime_ns] for file in files]


class _Work:
    """The folder SCENE.build/, emptied if it is of another source or another size of its photos.

    Stages after the capture check for themselves whether what they find there is theirs. The folder
    is locked against other processes until this is closed.
    """

    def __init__(self, path: Path, out: Path, max_side: int | None = None) -> None:
        self.folder = _work_folder(out)
        digest = _digest(path, {"max_side": max_side})
        marker = self.folder / WORK_MARK
        # An empty one without a marker is ours, too: a program can be killed at any moment.
        if not marker.is_file() and any(self.folder.glob("*")):
            raise ValueError(
                f"{self.folder} is in the way and holds something else: move it, or choose "
                "another name."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._marker = marker.open("a+", encoding="ascii")
        try:
            _lock(self._marker, f"{out} is being built already: wait for that build, or stop it.")
            self._marker.seek(0)
            if self._marker.read() != digest:
                self._empty()
                self._marker.truncate(0)
                self._marker.write(digest)
                self._marker.flush()
        except BaseException:
            self._marker.close()
            raise

    def __enter__(self) -> "_Work":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._marker.close()
        kept = (CAPTURE_FILE, f"{_FEATURES}*")
        if kind is not None and not any(file for name in kept for file in self.folder.glob(name)):
            shutil.rmtree(self.folder, ignore_errors=True)  # it holds nothing to resume from

    def remove(self) -> None:
        """Remove the folder: its files are only needed to resume after a stop."""
        self._empty()
        self._marker.close()
        shutil.rmtree(self.folder)

    def _empty(self) -> None:
        """Remove all but the marker: without it, files left over would not be known as ours."""
        for item in self.folder.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
            elif item.name != WORK_MARK:
                item.unlink()


def _work_folder(out: Path) -> Path:
    return out.with_name(out.name + WORK_SUFFIX)


def _digest(path: Path, settings: dict[str, Any]) -> str:
    """A hash of the settings and of the names, sizes and times of a source's files."""
    key = settings | {
        "langsplat": langsplat.__version__,
        "file": path.name if path.is_file() else "",
        "files": list(_listed(path)),
    }
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _lock(file: TextIO, taken: str) -> None:
    """Lock a file until it is closed; ValueError with `taken` if another process has it."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(taken) from None
    except OSError:  # a file system without locks
        return


def _listed(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file a capture may read (for a transforms.json, in its folder).

    Links are followed, but no folder is visited twice; what a build made is left out.
    """
    root, seen = path.parent if path.suffix.lower() == ".json" else path, set[Path]()
    found = [root]  # if it is a file; folders are left out below
    for folder, below, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen or is_made_here(here):
            below.clear()
            continue
        seen.add(here.resolve())
        files = (here / name for name in names if may_be_read(name))
        found += [file for file in files if not is_made_here(file)]
    for file in sorted(found):
        if file.is_file():
            status = file.stat()
            yield str(file.relative_to(root)), status.st_size, status.st_mtime_ns


def _write_capture(file: Path, capture: Capture) -> None:
    cameras = [
        [camera.viewmat.tolist(), camera.K.tolist(), camera.width, camera.height, camera.name]
        for camera in capture.cameras
    ]
    about = {"cameras": cameras, "name": capture.name, "notes": capture.notes}
    arrays = {
        "about": np.array(json.dumps(about)),
        "points": capture.points,
        "point_colors": capture.point_colors,
    }
    arrays |= {f"image{index}": image for index, image in enumerate(capture.images)}
    _savez(file, arrays)


def _read_capture(file: Path) -> Capture:
    with np.load(file, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        cameras = tuple(Camera(*camera) for camera in about["cameras"])
        return Capture(
            images=[arrays[f"image{index}"] for index in range(len(cameras))],
            cameras=cameras,
            points=arrays["points"],
            point_colors=arrays["point_colors"],
            name=about["name"],
            notes=about["notes"],
        )


def _savez(file: Path, arrays: dict[str, np.ndarray], *, small: bool = False) -> None:
    """Write an .npz whole or not at all; `small` compresses, which shrinks label maps 50 times."""
    with replacing(file) as partial:
        (np.savez_compressed if small else np.savez)(partial, **arrays)  # type: ignore[arg-type]


def _is_whole(file: Path) -> bool:
    """Whether an .npz exists, neither cut short nor with holes, as after a power failure."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile and its decompressors raise nearly anything
        return False


class StoredFeatures(Sequence[SegmentFeatures]):
    """The features of every view, one file per view, read on access and not kept in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> SegmentFeatures: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredFeatures": ...
    def __getitem__(self, index: int | slice) -> "SegmentFeatures | StoredFeatures":
        if isinstance(index, slice):
            return StoredFeatures(self._files[index])
        with np.load(self._files[index], allow_pickle=False) as arrays:
            levels = len(arrays.files) - 1
            rows = [torch.from_numpy(arrays[f"level{i}"]) for i in range(levels)]
            return SegmentFeatures(arrays["segments"].astype(np.int32), rows)


def _describe(
    cameras: Sequence[Camera],
    picture: Callable[[int], np.ndarray],
    views: Sequence[int],
    surface: Gaussians | None,
    segmenter: Segmenter,
    encoder: Encoder,
    folder: Path,
    progress: Progress,
) -> StoredFeatures:
    """Segment and encode these views, one file each: a stopped build loses only those in progress.

    `surface`: the Gaussians whose surface the segmenter uses; None if it uses none.
    """
    folder.mkdir(exist_ok=True)
    files = [folder / f"{view:05d}.npz" for view in views]

    def describe(view: int, file: Path) -> str:
        if _is_whole(file):
            return "from an earlier run"
        began, image = time.perf_counter(), picture(view)
        if isinstance(segmenter, SamSegmenter):
            segments, masks = segmenter.segments_and_masks(image)
            features = embed_segments(image, segments, encoder, masks)
        else:
            seen = None
            if surface is not None:
                seen = render_surface(surface, cameras[view]).cpu().numpy()
            features = embed_segments(image, segmenter(image, seen), encoder)
        _write_features(file, features)
        seconds = time.perf_counter() - began
        count = sum(len(rows) for rows in features.embeddings)
        return f"{count} segments in {cameras[view].name}, {seconds:.1f} s"

    # A second thread makes the bundled encoder only a third faster on the crops of one view, so
    # every thread gets its own view instead. Large models keep all threads busy by themselves, and
    # a stop, which waits for the views in progress, would take too long with several of them.
    small = segmenter.name == encoder.name.split(":")[0] == "bundled"
    workers = min(torch.get_num_threads(), AT_ONCE) if small else 1
    with torch_threads(1 if small else torch.get_num_threads()):
        with ThreadPoolExecutor(workers) as pool:
            try:
                notes = pool.map(describe, views, files) if small else map(describe, views, files)
                for done, note in enumerate(notes, start=1):
                    progress(DESCRIBING, done, len(views), note)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return StoredFeatures(files)


def _write_features(file: Path, features: SegmentFeatures) -> None:
    arrays = {f"level{i}": rows.numpy() for i, rows in enumerate(features.embeddings)}
    _savez(file, arrays | {"segments": features.segments.astype(np.int16)}, small=True)


def _psnr(gaussians: Gaussians, capture: Capture, every: int) -> dict[str, Any]:
    """Mean PSNR in dB over the held-out photos, or over every 8th training photo."""
    _, views = split_views(len(capture.images), every or 8)
    mean = mean_psnr(gaussians, capture, views)
    kind = "held-out" if every else "training"
    return {"mean": round(mean, 2), "views": len(views), "kind": kind}


def central_view(cameras: tuple[Camera, ...]) -> int:
    """Number of the camera nearest to the mean viewing direction: a good first view."""
    forward = torch.stack([camera.viewmat[2, :3] for camera in cameras])
    return int((forward @ forward.mean(dim=0)).argmax())


def jpeg(picture: np.ndarray) -> bytes:
    """A picture [H, W, 3] uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def scene_card(scene: Scene) -> str:
    """The README.md of a scene that was built, imported or described."""
    made = scene.provenance  # a stranger's scene may have anything there
    lines = [
        "---",
        "library_name: langsplat",
        "tags: [gaussian-splatting, langsplat, 3d, open-vocabulary]",
        "---",
        f"# {scene.name}",
        "",
        "A 3D scene of Gaussians with language features: type words, see where they are.",
        "",
        f"![preview]({PREVIEW_FILE})",
        "",
        f"- {len(scene.gaussians):,} Gaussians, {len(scene.cameras)} views",
        f"- encoder `{scene.language.encoder if scene.language else 'none'}`",
    ]
    imported = made.get("imported")
    if isinstance(imported, dict) and isinstance(imported.get("found"), list):
        lines.append(f"- imported by langsplat {made.get('langsplat')} from official files:")
        lines += [f"  - {line}" for line in imported["found"]]
    measured = made.get("psnr")
    if isinstance(measured, dict) and measured.keys() >= {"mean", "views", "kind"}:
        lines.append(
            f"- PSNR {measured['mean']} dB over {measured['views']} {measured['kind']} views"
        )
    if "settings" in made:
        lines.append(
            f"- made by langsplat {made.get('langsplat')} with `{json.dumps(made['settings'])}`"
        )
    notes = made.get("notes")
    lines += [f"- {note}" for note in notes] if isinstance(notes, list) else []
    if "described" in made:
        lines.append(f"- described anew: `{json.dumps(made['described'])}`")
    if scene.examples:
        lines += ["", "Try: " + ", ".join(f"*{text}*" for text in scene.examples)]
    return "\n".join(lines) + "\n"
