"""What the page does, without its layout: scenes to choose from, views, answers, files, builds.

Plain functions and classes over `langsplat`; nothing here imports gradio, so the tests can call all
of it directly. Errors for visitors are ValueErrors of one sentence.
"""

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
import torch.nn.functional as F

from demo.viewer import Cloud, cloud_of, cloud_payload
from langsplat import SCENE_FILE, WORK_SUFFIX
from langsplat.build import STAGES
from langsplat.cameras import orbit_camera, yaw_pitch_of
from langsplat.capture import MIN_PHOTOS, PHOTO_SUFFIXES, is_clutter, zip_members
from langsplat.encoders import Encoder, check_portable, load_encoder
from langsplat.hub import bundled_scenes, fetch_scene, find_scene, is_repo_id
from langsplat.progress import Progress, silent
from langsplat.query import (
    Answer,
    Recent,
    SceneQuery,
    check_mask,
    check_text,
    render_rgb,
    save_answer,
)
from langsplat.scene import LEVELS, Camera, Scene, load_scene

ROOT = Path(__file__).resolve().parent.parent
LONG_SIDE = 640  # pixels of a rendered view
HIGHEST = 85  # degrees of an orbit's pitch: nearer to the pole it would flip
DISTANCES = 0.2, 3.0  # of an orbit, in radii
AUTO = "auto"
MOST_PHOTOS = 200
MAX_UPLOAD = 500_000_000  # bytes of photos, unpacked
MAX_NAME = 100  # characters of a new scene's

_KEPT_SCENES = 3
_KEPT_ANSWERS = 16
_KEPT_FILES = 64
_LOG_LINES = 8


# --------------------------------------------------------------------------- views and visits


@dataclass(frozen=True)
class View:
    """Where a visitor looks from: a training view by its number, or an orbit.

    Args:
        index: of the training view; None for an orbit.
        yaw, pitch: degrees around the scene's up, and above its horizon.
        distance: from the scene's center, in radii (1 = where the photos were taken).
    """

    index: int | None = 0
    yaw: float = 0.0
    pitch: float = 0.0
    distance: float = 1.0


@dataclass(frozen=True)
class Visit:
    """All that is kept for one visitor.

    Args:
        scene: the name of the open scene; empty if none is open yet.
        view: where the visitor looks from.
        text: the last words asked, as typed.
        asked: whether the visitor asked them, rather than the page itself.
        points: the key of the cloud that the page has; empty for none.
    """

    scene: str = ""
    view: View = View()
    text: str = ""
    asked: bool = False
    points: str = field(default="", compare=False)


def camera_of(scene: Scene, view: View) -> Camera:
    """The camera of a view, with a picture of 640 pixels on the long side.

    Raises:
        ValueError: there is no training view of that number.
    """
    if view.index is None:
        lens = scene.cameras[0] if scene.cameras else None
        width, height = (lens.width, lens.height) if lens else (LONG_SIDE, LONG_SIDE * 3 // 4)
        focal = float(lens.K[0, 0]) if lens else float(LONG_SIDE)
        camera = orbit_camera(
            scene.center,
            scene.up,
            scene.radius,
            view.yaw,
            view.pitch,
            view.distance,
            width,
            height,
            math.degrees(2 * math.atan2(max(width, height) / 2, focal)),
        )
    elif 0 <= view.index < len(scene.cameras):
        camera = scene.cameras[view.index]
    else:
        raise ValueError(
            f"There is no view {view.index}: this scene has views 0 to {len(scene.cameras) - 1}."
        )
    scale = LONG_SIDE / max(camera.width, camera.height)
    return camera.resized(round(camera.width * scale), round(camera.height * scale))


def start_of(scene: Scene) -> View:
    """Where a visit begins: the scene's start view, or an orbit if it has no views."""
    return View(scene.start_view) if scene.cameras else View(None, yaw=30.0, pitch=20.0)


def orbit_of(scene: Scene, view: View) -> View:
    """The orbit nearest to a view, so that the sliders continue from there."""
    if view.index is None or not scene.cameras:
        return replace(view, index=None)
    camera = scene.cameras[view.index]
    yaw, pitch = yaw_pitch_of(camera, scene.center, scene.up)
    distance = float((camera.position - scene.center).norm()) / scene.radius
    return View(None, yaw, pitch, distance)


def lowest_pitch(scene: Scene) -> int:
    """The least pitch of an orbit: level, or as low as photos were taken. Below is the floor."""
    if not scene.cameras:
        return 0
    # All at once: one camera after the other a scene with many views would keep everyone waiting.
    positions = torch.stack([camera.position for camera in scene.cameras])
    heights = F.normalize(positions - scene.center, dim=1) @ F.normalize(scene.up, dim=0)
    lowest = math.degrees(math.asin(min(max(float(heights.min()), -1.0), 1.0)))
    return max(min(0, math.floor(lowest)), -HIGHEST)


# --------------------------------------------------------------------------- scenes and answers


@dataclass(frozen=True, eq=False)
class Room:
    """An open scene. If it cannot be asked, `engine` is None and `why_silent` says why.

    Its `number` is of this opening: by the next one the scene's files may be others.
    """

    number: int
    scene: Scene
    cloud: Cloud
    engine: SceneQuery | None
    why_silent: str = ""

    @cached_property
    def low(self) -> int:
        return lowest_pitch(self.scene)

    @cached_property
    def points(self) -> dict[str, Any]:
        """The `cloud_payload`; one for all, because gradio keeps what it has sent to each page."""
        return cloud_payload(self.cloud)


class Shelf:
    """The scenes a visitor may choose from, shared by all visitors; thread-safe.

    Scenes, pictures and answers are kept in small bounded caches. Only names in the list can be
    opened: a name is looked up, never used as a path.

    Args:
        results: folder for what visitors make (scenes they build, files to download).
        bundled: name -> folder of the scenes listed from the start; None: those that ship.
        load: loads the encoder that a scene names.
        device: where scenes are drawn and asked, "cpu" or "cuda".
    """

    def __init__(
        self,
        results: Path,
        bundled: Mapping[str, Path] | None = None,
        load: Callable[[str], Encoder] = load_encoder,
        device: str = "cpu",
    ) -> None:
        self.results = results = results.resolve()  # builds run in another working folder
        self.device = device
        self.downloads = results / "downloads"
        self._load = load
        self._lock = threading.Lock()  # of the lists below; held only for moments
        self._numbers = itertools.count()  # of openings
        self._folders: dict[str, Path] = {}
        self._encoders: Recent[Encoder] = Recent(math.inf)
        self._rooms: Recent[Room] = Recent(_KEPT_SCENES)
        self._pictures: Recent[np.ndarray] = Recent(_KEPT_ANSWERS)
        self._answers: Recent[Answer] = Recent(_KEPT_ANSWERS)
        self._ready: Recent[None] = Recent(_KEPT_SCENES)  # the scenes that are warmed up
        self._entries: Recent[dict[str, Any]] = Recent(math.inf)
        self.downloads.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.downloads).close()  # fails now rather than at each answer
        # Folders of an earlier start are removed as new ones are added.
        self._files = sorted(self.downloads.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for name, folder in (bundled_scenes() if bundled is None else bundled).items():
            self.add(folder, name)
        # Hidden ones were not finished when an earlier server ended.
        for file in sorted(results.glob(f"scenes/[!.]*/{SCENE_FILE}")):
            self.add(file.parent)

    @property
    def names(self) -> list[str]:
        return list(self._folders)

    @property
    def default(self) -> str:
        """The scene to open first; empty where there is none."""
        return next(iter(self._folders), "")

    def add(self, folder: Path, name: str = "", *, first: bool = False) -> str:
        """List the scene in `folder`; returns the name it is listed under."""
        with self._lock:
            folder = folder.resolve()
            known = {path: listed for listed, path in self._folders.items()}
            name = known.get(folder) or _unused(name or folder.name, self._folders)
            self._folders[name] = folder
            if first:
                self._folders = {name: folder} | self._folders
            return name

    def add_first(self, spec: str, progress: Progress = silent) -> str:
        """List and open the scene of `--scene`: a listed name, a scene's folder, or user/name.

        Raises:
            ValueError: it is none of these, or cannot be opened.
        """
        if spec in self._folders:
            folder, name = self._folders[spec], spec
        else:
            folder = find_scene(spec, progress=progress)
            name = spec if is_repo_id(spec) and not Path(spec).exists() else folder.resolve().name
        name = self.add(folder, name, first=True)
        self.room(name)
        return name

    def fetch(self, repo_id: str, progress: Progress = silent) -> str:
        """Fetch a scene from the Hub and list it under its repository's name.

        Raises:
            ValueError: it is not a repository's name or not a scene, or cannot be fetched.
        """
        repo_id = repo_id.strip().removeprefix("https://huggingface.co/").strip("/")
        if not is_repo_id(repo_id):
            raise ValueError("Type a Hub repository as user/name, for example someone/my-scene.")
        folder = fetch_scene(repo_id, progress=progress).resolve()
        _load_listed(repo_id, folder)
        # A newer commit is listed beside the one that others are looking at.
        with self._lock:
            newer = self._folders.get(repo_id, folder) != folder
        return self.add(folder, f"{repo_id}@{folder.name[:7]}" if newer else repo_id)

    def room(self, name: str) -> Room:
        """The listed scene of that name, opened.

        Raises:
            ValueError: the name is not in the list, or the scene cannot be read.
        """
        folder = self._folder(name)
        return self._rooms.get(name, lambda: self._open(name, folder))

    def entry(self, name: str) -> dict[str, Any]:
        """The listed scene's name, number of views and Gaussians, and example queries.

        The scene is not opened for it: a list of all scenes would close those that are in use.

        Raises:
            ValueError: the name is not in the list, or the scene cannot be read.
        """
        folder = self._folder(name)

        def read() -> dict[str, Any]:
            scene = _load_listed(name, folder)
            views, gaussians = len(scene.cameras), len(scene.gaussians)
            return dict(name=name, views=views, gaussians=gaussians, examples=scene.examples)

        return self._entries.get(name, read)

    def _folder(self, name: str) -> Path:
        with self._lock:
            folder = self._folders.get(name)
        if folder is None:
            raise ValueError(f"There is no scene {str(name)[:100]!r} in the list.")
        return folder

    def picture(self, name: str, view: View) -> np.ndarray:
        """The scene from a view, uint8 [H, W, 3]."""
        room = self.room(name)
        return self._draw(room.number, room.scene, view)

    def _draw(self, number: int, scene: Scene, view: View) -> np.ndarray:
        camera = camera_of(scene, view)
        return self._pictures.get((number, view), lambda: render_rgb(scene, camera))

    def answer(
        self, name: str, view: View, text: str, *, level: str = AUTO, threshold: float = 0.5
    ) -> Answer:
        """What `text` finds in a view; another threshold on the same question costs nothing.

        Raises:
            ValueError: the query, the level or the threshold cannot be used, or the scene
                cannot be asked.
        """
        text = check_text(text)
        if level not in (AUTO, *LEVELS):
            raise ValueError(f"The level must be one of {', '.join((AUTO, *LEVELS))}.")
        check_mask(threshold, None)
        room = self.room(name)
        camera = camera_of(room.scene, view)
        if room.engine is None:
            raise ValueError(room.why_silent)
        engine, chosen = room.engine, None if level == AUTO else level

        def ask() -> Answer:
            self._ready.get(room.number, lambda: engine.warm_up(camera))
            return engine.ask(text, camera, level=chosen)

        found = self._answers.get((room.number, view, text, level), ask)
        return replace(found, threshold=threshold)

    def files(self, answer: Answer, rgb: np.ndarray, where: str = "") -> dict[str, Path]:
        """Write an answer's files and return them by name; if there are many, old ones are removed.

        If `where` is given their names begin with it and with what was asked, so that they can be
        told apart in a folder of downloads.

        Raises:
            ValueError: they cannot be written, for example because the disk is full.
        """
        try:
            self.downloads.mkdir(parents=True, exist_ok=True)  # systems clean up temporary folders
            folder = Path(tempfile.mkdtemp(dir=self.downloads))
            with self._lock:
                self._files.append(folder)
                while len(self._files) > _KEPT_FILES:
                    shutil.rmtree(self._files.pop(0), ignore_errors=True)
            paths = save_answer(answer, rgb, folder)
            if not where:
                return {path.name: path for path in paths}
            stem = re.sub(r"[\W_]+", "-", f"{where} {answer.text}").strip("-")
            stem = stem.encode()[:80].decode(errors="ignore")  # a name may have 255 bytes
            return {path.name: path.rename(folder / f"{stem}-{path.name}") for path in paths}
        except OSError as error:
            raise ValueError(
                f"The files of this answer cannot be stored here now ({error.strerror or error}): "
                "try again later."
            ) from error

    def warm_up(self) -> None:
        """Open the first scene and answer its first example before a visitor comes."""
        try:
            scene = self.room(self.default).scene  # which draws its first picture
            if scene.examples:
                first = scene.examples[0]
                self.answer(self.default, start_of(scene), first)
                # What holds parts to their things is compiled, too, but no visitor waits for it.
                self.answer(self.default, start_of(scene), f"part of the {first}")
        except ValueError:
            pass  # the page reports it to whoever opens the scene

    def _open(self, name: str, folder: Path) -> Room:
        scene = _load_listed(name, folder)
        cloud = cloud_of(scene)
        try:
            return self._furnish(name, scene.to(self.device), cloud)
        except torch.OutOfMemoryError:  # on the GPU: use the CPU
            return self._furnish(name, scene, cloud)

    def _furnish(self, name: str, scene: Scene, cloud: Cloud) -> Room:
        number = next(self._numbers)

        def draw() -> None:
            with contextlib.suppress(ValueError):  # reported to whoever asks for the picture
                self._draw(number, scene, start_of(scene))

        # The first picture needs no encoder, so it is drawn while that is loaded.
        threading.Thread(target=draw, daemon=True).start()
        if scene.language is None:
            why_silent = "This scene has no words in it yet: build it again to ask it questions."
            return Room(number, scene, cloud, None, why_silent)
        spec = scene.language.encoder
        try:
            if is_repo_id(name.partition("@")[0]):
                check_portable(spec)
            engine = SceneQuery(scene, self._encoders.get(spec, lambda: self._load(spec)))
        except ValueError as error:
            # The pictures still work; only the words are missing.
            return Room(number, scene, cloud, None, f"This scene cannot be asked here. {error}")
        return Room(number, scene, cloud, engine)


def _load_listed(name: str, folder: Path) -> Scene:
    """The scene in `folder`; errors give its name, not where the server keeps it."""
    try:
        return load_scene(folder)
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), name)) from None


def _unused(name: str, taken: Iterable[str]) -> str:
    """The name, with a number if it is taken: by "A", too, which some systems take for "a"."""
    known = {other.casefold() for other in taken}
    number, candidate = 2, name
    while candidate.casefold() in known:
        candidate, number = f"{name}-{number}", number + 1
    return candidate


# --------------------------------------------------------------------------- the address


def visit_at(shelf: Shelf, given: Mapping[str, str]) -> tuple[Visit, str]:
    """The visit that an address asks for, and a note if it asks for something that does not exist.

    `given` are the fields of the address: `scene`, `from` (see `address_of`) and `q`, the words.
    They are untrusted: scenes are looked up in the list, words are checked when they are asked.

    Raises:
        ValueError: the scene cannot be read, or there is none.
    """
    name = given.get("scene", "")
    if name and name not in shelf.names:
        visit, _ = visit_at(shelf, {})
        return visit, f"There is no scene “{name[:100]}” here: choose one from the list."
    name = name or shelf.default
    room = shelf.room(name)
    example = next(iter(room.scene.examples), "")
    words, place, note = given.get("q", ""), given.get("from", ""), ""
    view = _view_at(room, place) if place else start_of(room.scene)
    if view is None:
        view = start_of(room.scene)
        note = f"There is no view “{place[:100]}” of {name}: choose one below the picture."
    visit = Visit(name, view, words or example, asked=bool(words), points=room.cloud.key)
    return visit, note


def _view_at(room: Room, place: str) -> View | None:
    """The view that `address_of` writes as `place`; None if there is none."""
    if re.fullmatch(r"[0-9]{1,9}", place):
        return View(int(place)) if int(place) < len(room.scene.cameras) else None
    try:
        yaw, pitch, distance = map(float, place.split(","))
    except ValueError:
        return None
    within = room.low <= pitch <= HIGHEST and DISTANCES[0] <= distance <= DISTANCES[1]
    return View(None, yaw, pitch, distance) if within and -180 <= yaw <= 180 else None


def address_of(scene: Scene, visit: Visit) -> str:
    """The fields of a visit in the page's address, after its "?".

    `from` is the number of a training view, or an orbit's yaw, pitch and distance; what the page
    shows by default is left out.
    """
    view, given = visit.view, {"scene": visit.scene}
    if view != start_of(scene):
        orbit = f"{view.yaw:g},{view.pitch:g},{view.distance:g}"
        given["from"] = orbit if view.index is None else str(view.index)
    if visit.asked:
        with contextlib.suppress(ValueError):  # words that cannot be asked are left out
            given["q"] = check_text(visit.text)
    return urlencode(given, safe=",/")


# --------------------------------------------------------------------------- named endpoints


def list_scenes(shelf: Shelf) -> list[dict[str, Any]]:
    """The scenes that can be asked: name, number of views and Gaussians, example queries."""
    listed: list[dict[str, Any]] = []
    for name in shelf.names:
        try:
            listed.append(shelf.entry(name))
        except ValueError as error:
            listed.append({"name": name, "error": str(error)})
    return listed


# --------------------------------------------------------------------------- builds


@dataclass(frozen=True)
class BuildStatus:
    """The state of a build.

    Args:
        text: the sentence to show.
        kind: as for `viewer.status`; "busy" until the build is over.
        share: of the current stage, 0 to 1; None if that is not known.
        log: a line for each of the last stages, the current one included.
        scene: the name of the new scene, once it is done.
        note: the current stage's note; at the end, what was left out.
        stopping: somebody has stopped the build, which takes a moment.
    """

    text: str
    kind: str = "busy"
    share: float | None = None
    log: tuple[str, ...] = ()
    scene: str = ""
    note: str = ""
    stopping: bool = False


def check_photos(paths: Sequence[str]) -> None:
    """Raise ValueError, with the remedy, for uploads that cannot become a scene."""
    files = [Path(path) for path in paths]
    if not all(file.exists() for file in files):  # systems clean up temporary folders
        raise ValueError("Some of the photos are no longer on the server: choose them again.")
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    if zips and len(files) > 1:
        raise ValueError("Give either one zip or the photos themselves, not several together.")
    if zips:
        members = [info for info in zip_members(zips[0]) if _is_photo(info.filename)]
        count, size = len(members), sum(info.file_size for info in members)
    else:
        strangers = [file.name for file in files if not _is_photo(file.name)]
        if strangers:
            raise ValueError(
                f"{strangers[0]} is not a photo that can be read here: add JPEG, PNG or WebP files."
            )
        count, size = len(files), sum(file.stat().st_size for file in files)
    if count < MIN_PHOTOS:
        raise ValueError(
            f"Add at least {MIN_PHOTOS} photos of one scene, taken while walking around it: "
            f"there {'is' if count == 1 else 'are'} {count or 'none'} so far that can be read "
            "(JPEG, PNG, TIFF, WebP, AVIF)."
        )
    if count > MOST_PHOTOS:
        raise ValueError(
            f"{count:,} photos are more than the {MOST_PHOTOS} this page takes: choose 20 to 60 "
            "sharp ones, or use `python -m langsplat build`."
        )
    if size > MAX_UPLOAD:
        raise ValueError(
            f"The photos have {size / 1e6:,.0f} MB, this page takes {MAX_UPLOAD / 1e6:,.0f} MB: "
            "choose fewer or smaller ones."
        )


def _is_photo(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in PHOTO_SUFFIXES and not any(map(is_clutter, path.parts))


class Builder:
    """Builds scenes from photos, each in a child process, one at a time.

    A build belongs to whoever knows its key, not to the page that started it: it continues if
    nobody follows it, and several pages can follow it, even after its end.

    Args:
        shelf: where new scenes are listed; they are written to its `results` folder.
        command: of a build; PATH --out DIR --name=NAME --progress json are appended.
    """

    def __init__(
        self,
        shelf: Shelf,
        command: Sequence[str] = (sys.executable, "-m", "langsplat", "build"),
    ) -> None:
        self._shelf = shelf
        self._command = list(command)
        self._lock = threading.Lock()  # held to start a build
        self._build: _Build | None = None  # the one that runs, or ran last

    def start(self, paths: Sequence[str], name: str = "") -> str:
        """Start building a scene from uploaded photos or a zip; returns the build's key.

        Raises:
            ValueError: the uploads cannot be used, or another build is running.
        """
        check_photos(paths)
        name = "".join(ch for ch in name if ch.isprintable()).strip()[:MAX_NAME]
        with self._lock:
            if self._build is not None and self._build.report.kind == "busy":
                raise ValueError(
                    "A scene is being built already, and only one can be built at a time: start "
                    "when it is done."
                )
            self._build = build = _Build(lambda build: self._report(build, paths, name))
        return build.key

    def follow(self, key: str) -> Iterator[BuildStatus]:
        """The reports of the build with this key, about twice a second, until it is over.

        There are none if there is no such build. Closing the iterator does not affect the build.
        """
        build = self._of(key)
        report: BuildStatus | None = None
        while build is not None and (report is None or report.kind == "busy"):
            report = build.wait(report)
            yield report

    def stop(self, key: str) -> None:
        """Stop the build with this key, if it runs, and all its processes; its reports say so."""
        build = self._of(key)
        if build is not None:
            build.stop()

    def close(self) -> None:
        """Stop the running build, if any, and wait until its files are removed."""
        if self._build is not None:
            self._build.stop()
            self._build.thread.join()

    def _of(self, key: str) -> "_Build | None":
        build = self._build
        return build if build is not None and build.key == key else None

    def _report(self, build: "_Build", paths: Sequence[str], name: str) -> BuildStatus:
        """Run a build, in its own thread; returns its last report."""
        try:
            scenes = self._shelf.results / "scenes"
            scenes.mkdir(parents=True, exist_ok=True)
            slug = re.sub(r"[\W_]+", "-", name.lower()).strip("-")[:40] or "my-scene"
            # Another server may build in this folder, too.
            taken = {path.name.removesuffix(WORK_SUFFIX) for path in scenes.iterdir()}
            out = scenes / _unused(slug, taken | set(self._shelf.names))
            unfinished = out.with_name(out.name + WORK_SUFFIX)
            unfinished.mkdir()  # from now on the name is taken
            try:
                with tempfile.TemporaryDirectory(prefix="photos-", dir=self._shelf.results) as work:
                    return self._run(build, _gather(paths, Path(work) / "photos"), out, name)
            finally:
                # Builds are not resumed here, so what an unfinished one leaves is of no use.
                shutil.rmtree(unfinished, ignore_errors=True)
        except ValueError as error:
            return replace(build.report, text=str(error), kind="error", share=None)
        except OSError as error:
            return BuildStatus(
                f"There is no room for a build here now ({error.strerror or error}): try again "
                "later, or with fewer photos.",
                "error",
            )

    def _run(self, build: "_Build", source: Path, out: Path, title: str) -> BuildStatus:
        # One argument with its option, because a name may begin with a dash.
        words = [*self._command, str(source), "--out", str(out), f"--name={title or out.name}"]
        with subprocess.Popen(
            [*words, "--progress", "json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that SfM's child can be ended with it
        ) as child:
            try:
                build.begin(child)
                _listen(child, build)
                _wait(child)
            except ValueError as error:
                _wait(child)
                if not build.stopped:
                    raise ValueError(str(error).replace(str(source), "The upload")) from None
                shutil.rmtree(out, ignore_errors=True)  # in case it was just finished
                return BuildStatus("Stopped. Nothing of this build was kept.", "none")
            finally:
                _end(child)
        listed, note = self._shelf.add(out), build.report.note
        text = f"Done: {listed} is in the list of scenes. {note}".strip()
        return replace(build.report, text=text, kind="found", scene=listed)


class _Build:
    """A build that runs in its own thread, or has run.

    Args:
        work: does the build and returns its last report; the others go through `tell`.
    Attributes:
        key: the secret of whoever started it.
        report: the latest.
        stopped: whether somebody has stopped it.
    """

    def __init__(self, work: "Callable[[_Build], BuildStatus]") -> None:
        self.key = secrets.token_urlsafe()
        self.report = BuildStatus("Starting ...")
        self.stopped = False
        self._child: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: "Callable[[_Build], BuildStatus]") -> None:
        last = BuildStatus("The build ended unexpectedly: try again.", "error")
        try:
            last = work(self)
        finally:
            self.tell(last)

    def tell(self, report: BuildStatus) -> None:
        with self._changed:
            self.report = replace(report, stopping=self.stopped and report.kind == "busy")
            self._changed.notify_all()

    def wait(self, seen: BuildStatus | None) -> BuildStatus:
        """The report after `seen`, or `seen` again after half a second.

        The repetition lets the caller notice that its reader has left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.report is not seen, timeout=0.5)
            return self.report

    def begin(self, child: "subprocess.Popen[str]") -> None:
        """Take over the started process, and end it if the build has been stopped already."""
        with self._changed:
            self._child = child
        if self.stopped:
            _end(child)

    def stop(self) -> None:
        with self._changed:
            if self.report.kind != "busy":
                return
            self.stopped, child = True, self._child
            self.tell(self.report)
        if child is not None and child.poll() is None:
            _end(child)


def _gather(paths: Sequence[str], folder: Path) -> Path:
    """The zip itself, or a folder with the photos under distinct names."""
    first = Path(paths[0])
    if first.suffix.lower() == ".zip":
        return first
    folder.mkdir()
    taken: set[str] = set()
    for path in map(Path, paths):
        stem = _unused(path.stem, taken)
        taken.add(stem)
        shutil.copyfile(path, folder / f"{stem}{path.suffix}")
    return folder


def _listen(child: "subprocess.Popen[str]", build: _Build) -> None:
    """Pass on what a build's JSON lines report, until they say where the scene is.

    Raises:
        ValueError: with the build's own error, or if it ended without one.
    """
    assert child.stdout is not None
    log: dict[str, str] = {}  # by stage
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(event, dict):
            continue
        if "error" in event:
            raise ValueError(str(event["error"]))
        if "scene" in event:
            return
        stage, note = str(event.get("stage", "")), str(event.get("note", ""))
        done, total, left = event.get("done", 0), event.get("total", 1), event.get("left")
        log[stage] = f"{stage}: {note}" if note else stage
        text = f"{stage}, {done:,} of {total:,}"
        if stage in STAGES:
            text = f"Stage {STAGES.index(stage) + 1} of {len(STAGES)}: {text}"
        if left:
            span = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
            text += f", about {span} left in this stage"
        share = done / max(total, 1)
        lines = tuple(log.values())[-_LOG_LINES:]
        build.tell(BuildStatus(text, share=share, log=lines, note=note))
    raise ValueError("The build ended unexpectedly, perhaps for lack of memory: try again.")


def _wait(child: "subprocess.Popen[str]") -> None:
    """Give a process five seconds to exit by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5.0)


def _end(child: "subprocess.Popen[str]") -> None:
    """Ask a build to stop, kill it after five seconds, and kill what it may have left running."""
    if child.poll() is None:
        child.terminate()
        _wait(child)
    if hasattr(os, "killpg"):  # Windows has no groups: there SfM ends as its stdin closes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
