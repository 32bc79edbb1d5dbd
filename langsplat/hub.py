"""Scenes by name: bundled ones, folders, and Hub repositories `user/name` with scene.safetensors.

    folder = fetch_scene("user/name")  # .../snapshots/<commit>, with scene.safetensors
    scene = load_scene(folder)

Files are kept in the Hub's own cache (HF_HOME, HF_HUB_CACHE), so a scene that was fetched once
opens without a network. HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the proxy variables have their
usual effects.
"""

import io
import re
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from langsplat import BUNDLED_SCENES, PREVIEW_FILE, SCENE_FILE
from langsplat.progress import Progress, silent

DOWNLOADING = "Download"
MAX_SCENE_BYTES = 2_000_000_000
MAX_PREVIEW_BYTES = 20 * 1024**2
REACH_SECONDS = 1.2  # to open a connection; huggingface_hub would try for 23 s
ANSWER_SECONDS = 5.0  # for the first answer, once connected

_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_REPO_ID = re.compile(f"{_NAME}/{_NAME}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


def bundled_scenes() -> dict[str, Path]:
    """The scenes that ship with the code: name -> folder, sorted by name."""
    return {
        file.parent.name: file.parent for file in sorted(BUNDLED_SCENES.glob(f"*/{SCENE_FILE}"))
    }


def find_scene(spec: Path | str, *, progress: Progress = silent) -> Path:
    """The folder of the scene that `spec` names, fetched from the Hub if necessary.

    Args:
        spec: a bundled scene's name, a scene's folder (or the file in it), or user/name.
        progress: of a download.
    Raises:
        ValueError: it is none of them, or cannot be fetched.
    """
    spec, bundled = str(spec), bundled_scenes()
    if spec in bundled:
        return bundled[spec]
    path = Path(spec)
    if path.is_file() and path.name == SCENE_FILE:
        return path.parent
    if path.is_file():
        raise ValueError(f"{spec} is not a scene: give a scene's folder, or its {SCENE_FILE}.")
    if path.is_dir():
        return path
    if is_repo_id(spec):
        return fetch_scene(spec, progress=progress)
    raise ValueError(
        f"There is no scene {spec!r}: give a scene's folder, a Hub repository as user/name, or a "
        f"bundled scene ({', '.join(bundled) or 'none here: run this in a whole checkout'})."
    )


def is_repo_id(text: str) -> bool:
    """Whether `text` is a Hub repository's name, user/name (it need not exist)."""
    return (
        _REPO_ID.fullmatch(text) is not None
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )


def fetch_scene(repo_id: str, *, revision: str | None = None, progress: Progress = silent) -> Path:
    """The folder of a scene from the Hub, downloaded unless the newest copy is here already.

    The Hub is asked whether `revision` has moved. If it cannot be reached, or refuses, the copy
    fetched earlier is used. A full commit hash that is in the cache needs no network at all.

    Args:
        repo_id: user/name, of a model repository.
        revision: branch, tag or full commit hash; None = main.
        progress: bytes of the download; the note says so if an earlier copy is used instead.
    Returns:
        A folder with scene.safetensors, and preview.jpg if the repository has one. The folder's
        name is the hash of the commit that was fetched.
    Raises:
        ValueError: the name is malformed; the repository or revision is unknown, closed, or holds
            no scene; the scene is over 2 GB; the Hub cannot be reached and no copy is here; the
            download broke off or could not be stored.
    """
    from huggingface_hub import try_to_load_from_cache

    if not is_repo_id(repo_id):
        raise ValueError(
            f"{repo_id!r} is not the name of a Hub repository: write it as user/name, for example "
            "jane/garden-scene."
        )
    found = try_to_load_from_cache(repo_id, SCENE_FILE, revision=revision)
    cached = Path(found).parent if isinstance(found, str) else None
    if cached is not None and revision is not None and _COMMIT.fullmatch(revision):
        return cached
    try:
        return _download(repo_id, revision, progress)
    except ValueError as error:
        if cached is None:
            raise
        progress(DOWNLOADING, 1, 1, f"{error} The copy fetched earlier is used.")
        return cached


def fetch_file(repo: str, files: Sequence[str], *, wanted_by: str, instead: str) -> Path:
    """The first of `files` of a Hub repository: from the cache, else downloaded.

    Args:
        repo: user/name.
        files: names in it, in order of preference.
        wanted_by: who needs it; begins the error message.
        instead: what to do without a network; ends the error message.
    Raises:
        ValueError: it is not in the cache and cannot be fetched now, or not stored; without a
            network this takes at most two seconds.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError

    for file in files:
        cached = try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise ValueError(
            f"{wanted_by} needs {repo} from {constants.ENDPOINT}, which is not in the cache and "
            f"cannot be reached now: connect to the network once, {instead}."
        )
    for file in files:
        try:
            _remote_size(repo, file, None)  # raises if refused; the download would hide that
            return Path(hf_hub_download(repo, file, etag_timeout=ANSWER_SECONDS))
        except RemoteEntryNotFoundError:
            continue
        except (HTTPError, OSError, RuntimeError) as error:
            raise ValueError(_explain(error, repo, None)) from error
    raise ValueError(f"{repo} on the Hub has none of the files {', '.join(files)}.")


def _download(repo_id: str, revision: str | None, progress: Progress) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HTTPError

    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"HF_HUB_OFFLINE is set, so {repo_id} cannot be fetched: unset it, or open a scene "
            "that is here."
        )
    if not reachable(constants.ENDPOINT):
        raise ValueError(
            f"The Hub at {constants.ENDPOINT} cannot be reached, so {repo_id} cannot be fetched: "
            "check the network, or open a scene that is here."
        )
    try:
        size = _remote_size(repo_id, SCENE_FILE, revision)
        if size > MAX_SCENE_BYTES:
            raise ValueError(
                f"The scene in {repo_id} has {size / 1e9:.1f} GB, more than the "
                f"{MAX_SCENE_BYTES / 1e9:.1f} GB this program opens: choose a smaller one."
            )
        file = hf_hub_download(
            repo_id,
            SCENE_FILE,
            revision=revision,
            etag_timeout=ANSWER_SECONDS,
            tqdm_class=_bar_class(progress),
        )
    except (HTTPError, OSError, RuntimeError) as error:
        raise ValueError(_explain(error, repo_id, revision)) from error
    folder = Path(file).parent
    _fetch_preview(repo_id, folder.name)
    return folder


def _fetch_preview(repo_id: str, commit: str) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    if try_to_load_from_cache(repo_id, PREVIEW_FILE, revision=commit) is not None:
        return  # here, or known to be absent from that commit
    try:
        if _remote_size(repo_id, PREVIEW_FILE, commit) <= MAX_PREVIEW_BYTES:
            hf_hub_download(
                repo_id,
                PREVIEW_FILE,
                revision=commit,
                etag_timeout=ANSWER_SECONDS,
                tqdm_class=_bar_class(silent),
            )
    except (HTTPError, OSError, RuntimeError):
        pass  # a scene without its picture is still the scene


def _remote_size(repo_id: str, filename: str, revision: str | None) -> int:
    """Size in bytes of a file on the Hub, by one request without retries."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError

    url = hf_hub_url(repo_id, filename, revision=revision)
    metadata = get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    if metadata.commit_hash is None or metadata.etag is None or metadata.size is None:
        raise FileMetadataError(f"{url} does not tell its commit, tag or size")
    return metadata.size


def reachable(endpoint: str) -> bool:
    """Whether a connection to `endpoint`, or to the proxy before it, opens within 1.2 s."""
    url = urlsplit(endpoint)
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    if not proxy_bypass(f"{host}:{port}"):
        proxies = getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        if proxy:
            via = urlsplit(proxy if "://" in proxy else f"//{proxy}")
            host, port = via.hostname or "", via.port or (443 if via.scheme == "https" else 80)
    opened = threading.Event()

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=REACH_SECONDS).close()
        except OSError:
            return
        opened.set()

    # In a thread, because looking up a host name has no timeout of its own.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return opened.is_set()


def _bar_class(progress: Progress) -> type:
    """A progress bar class for huggingface_hub that reports the bytes to `progress` instead."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread that redraws

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            total = max(int(self.total or 0), int(self.n), 1)
            note = f"{self.n / 1e6:.1f} of {total / 1e6:.1f} MB"
            progress(DOWNLOADING, max(0, int(self.n)), total, note)
            return drawn

        # Xet downloads report transferred and assembled bytes to one bar that has these two, or
        # to two bars; the assembled bytes, through `update`, are the ones that count.
        def update_transfer(self, n: float) -> None: ...

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None: ...

    return Bar


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    """A sentence, with the remedy, for an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"The repository {repo_id} is gated: ask for access at {page}, then log in with "
            "`hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: choose one listed at {page}."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return (
            f"{repo_id} is on the Hub but holds no {SCENE_FILE}: choose a repository made with "
            "`python -m langsplat build`."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"There is no public repository {repo_id} on the Hub: check the spelling, or log in "
            "with `hf auth login` if it is private."
        )
    if status == 403:
        return f"The Hub does not let you read {repo_id}: ask its owner for access at {page}."
    if status is not None:
        return f"The Hub answered {repo_id} with an error ({status}): try again in a few minutes."
    if isinstance(error, errors.FileMetadataError):
        return (
            f"What answers at {constants.ENDPOINT} is not the Hub: check HF_ENDPOINT, the proxy, "
            "and whether the network wants you to log in first."
        )
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return (
            f"{repo_id} could not be stored in {constants.HF_HUB_CACHE} ({error.strerror}): make "
            "room there, or set HF_HUB_CACHE to another folder."
        )
    return f"The download of {repo_id} broke off: check the network and try again."
