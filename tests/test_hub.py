"""Scenes from the Hub, fetched by the real client from a small server on this machine.

The client reads its settings when it is imported, so every visit is a process of its own.
"""

import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HTTPError

from langsplat import encoders, hub
from langsplat.hub import (
    DOWNLOADING,
    MAX_PREVIEW_BYTES,
    bundled_scenes,
    fetch_scene,
    find_scene,
    is_repo_id,
    reachable,
)
from langsplat.scene import SCENE_FILE, Gaussians, Scene, load_scene, save_scene
from tests.hub_server import Repo, black_hole, closed_port, serve

VISITS = """
import json, sys, time
from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache
from langsplat.hub import fetch_scene

for repo_id, revision in json.loads(sys.argv[1]):
    seen = []
    began = time.monotonic()
    try:
        folder, error = str(fetch_scene(
            repo_id,
            revision=revision,
            progress=lambda stage, done, total, note: seen.append([stage, done, total, note]),
        )), ""
    except ValueError as problem:
        folder, error = "", str(problem)
    print(json.dumps([folder, error, time.monotonic() - began, seen]))
"""
FILES = """
import json, sys
from langsplat.hub import fetch_file

for repo in json.loads(sys.argv[1]):
    try:
        said = fetch_file(repo, ("best", "second"), wanted_by="The encoder", instead="or draw it")
    except ValueError as problem:
        said = problem
    print(json.dumps(str(said)))
"""


@dataclass
class Visit:
    folder: Path
    error: str
    seconds: float
    progress: list[list]


@dataclass
class Visitor:
    """Someone with a cache of their own who asks for scenes."""

    cache: Path

    def fetch(self, endpoint: str, **settings: str) -> Visit:
        return self.fetch_all(endpoint, [("jane/garden", None)], **settings)[0]

    def fetch_all(
        self, endpoint: str, wanted: list[tuple[str, str | None]], **settings: str
    ) -> list[Visit]:
        """One process that fetches each (repository, revision) in turn."""
        answers = self._run(VISITS, endpoint, wanted, settings)
        return [Visit(Path(folder), *rest) for folder, *rest in answers]

    def files(self, endpoint: str, repos: list[str], **settings: str) -> list[str]:
        """For each repository the path of the best file, or why there is none."""
        return self._run(FILES, endpoint, repos, settings)

    def _run(self, program: str, endpoint: str, wanted: list, settings: dict[str, str]) -> list:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("HF_") and not key.lower().endswith("_proxy")
        }
        result = subprocess.run(
            [sys.executable, "-c", program, json.dumps(wanted)],
            env={**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(self.cache), **settings},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "%|" not in result.stderr, "the client draws no bar of its own"
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def visitor(tmp_path: Path) -> Visitor:
    return Visitor(tmp_path / "cache")


@pytest.fixture(scope="module")
def scene_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    generator = torch.Generator().manual_seed(0)
    n = 20_000  # about 1 MB, so that progress has steps
    gaussians = Gaussians(
        means=torch.randn(n, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator),
        scales=torch.rand(n, 3, generator=generator) + 0.1,
        opacities=torch.rand(n, generator=generator),
        sh=torch.randn(n, 1, 3, generator=generator),
    )
    up = torch.tensor([0.0, 0.0, 1.0])
    scene = Scene(gaussians, (), up=up, center=torch.zeros(3), radius=2.0, name="garden")
    folder = save_scene(scene, tmp_path_factory.mktemp("hub") / "garden", preview=b"a picture")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def fetched(scene_files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Visit]:
    """Visits, in one process, to a whole repository and to odd ones."""
    repos = {
        "jane/garden": Repo(scene_files),
        "jane/bare": Repo({SCENE_FILE: scene_files[SCENE_FILE]}),
        "jane/poster": Repo({**scene_files, "preview.jpg": bytes(MAX_PREVIEW_BYTES + 1)}),
        "jane/cut": Repo(scene_files, cuts=1),
    }
    visitor = Visitor(tmp_path_factory.mktemp("cache"))
    with serve(repos) as hub:
        visits = visitor.fetch_all(hub.url, [(name, None) for name in repos])
    assert repos["jane/cut"].cuts == 0
    return dict(zip(repos, visits, strict=True))


def test_a_scene_is_fetched_with_progress_and_opens(fetched, scene_files):
    visit = fetched["jane/garden"]
    assert visit.error == ""
    assert load_scene(visit.folder).name == "garden"
    assert (visit.folder / "preview.jpg").read_bytes() == b"a picture"
    assert visit.folder.name == "a" * 40, "the folder's name is the commit"
    size = len(scene_files[SCENE_FILE])
    assert {step[0] for step in visit.progress} == {DOWNLOADING}
    assert visit.progress[-1][1:] == [size, size, f"{size / 1e6:.1f} of {size / 1e6:.1f} MB"]
    assert [step[1] for step in visit.progress] == sorted(step[1] for step in visit.progress)


@pytest.mark.parametrize("name", ["jane/bare", "jane/poster"])
def test_a_scene_without_a_preview_or_with_an_endless_one_is_still_a_scene(fetched, name):
    assert [path.name for path in fetched[name].folder.iterdir()] == [SCENE_FILE]


def test_a_transfer_that_breaks_off_once_is_resumed(fetched, scene_files):
    content = (fetched["jane/cut"].folder / SCENE_FILE).read_bytes()
    assert content == scene_files[SCENE_FILE]


def test_a_fetched_scene_opens_again_without_the_hub(visitor, scene_files):
    with serve({"jane/garden": Repo(scene_files)}) as hub:
        first = visitor.fetch(hub.url)
    again, pinned = visitor.fetch_all(hub.url, [("jane/garden", None), ("jane/garden", "a" * 40)])
    assert again.folder == first.folder and again.seconds < 2
    assert "cannot be reached" in again.progress[-1][3]
    assert "fetched earlier" in again.progress[-1][3]
    switched_off = visitor.fetch(hub.url, HF_HUB_OFFLINE="1")
    assert switched_off.folder == first.folder
    assert pinned.folder == first.folder and pinned.progress == []


def test_an_unchanged_scene_is_not_downloaded_twice_but_a_new_revision_is(visitor, scene_files):
    with serve({"jane/garden": Repo(scene_files)}) as hub:
        first = visitor.fetch(hub.url)
        asked = len(hub.requests)
        assert visitor.fetch(hub.url).folder == first.folder
        again = [line for line in hub.requests[asked:] if "/jane/garden/" in line]
        assert {*again} == {f"HEAD /jane/garden/resolve/main/{SCENE_FILE}"}
        newer = {**scene_files, SCENE_FILE: scene_files[SCENE_FILE] + b"\0"}
        hub.repos["jane/garden"] = Repo(newer, commit="b" * 40)
        revisions = "b" * 40, "main"
        pinned, second = visitor.fetch_all(hub.url, [("jane/garden", name) for name in revisions])
        asked = hub.requests.count(f"HEAD /jane/garden/resolve/{'b' * 40}/{SCENE_FILE}")
    assert pinned.folder == second.folder and second.folder.name == "b" * 40
    assert asked == 2, "for its size, and to download it, at that very revision"
    assert (second.folder / SCENE_FILE).read_bytes() == newer[SCENE_FILE]


def test_repositories_that_give_no_scene_are_explained(visitor):
    words = {
        "jane/unknown": "no public repository jane/unknown",
        "jane/gated401": "gated: ask for access",
        "jane/gated403": "gated: ask for access",
        "jane/forbidden": "does not let you read",
        "jane/down": "try again in a few minutes",
        "jane/gone": "no public repository jane/gone",
        "jane/model": "holds no scene.safetensors",
        "jane/huge": "3.2 GB, more than the 2.0 GB",
        "jane/captive": "is not the Hub",
        "jane/old": "no revision 'v9'",
    }
    repos = {
        "jane/gated401": Repo({}, refusal=(401, "GatedRepo")),
        "jane/gated403": Repo({}, refusal=(403, "GatedRepo")),
        "jane/forbidden": Repo({}, refusal=(403, "")),
        "jane/down": Repo({}, refusal=(503, "")),
        "jane/gone": Repo({}, refusal=(404, "")),  # the page of a proxy, say
        "jane/model": Repo({"model.bin": b"x"}),
        "jane/huge": Repo({SCENE_FILE: b"x"}, claimed_size=3 * 1024**3),
        "jane/captive": Repo({}, refusal=(200, "")),  # a login page, say
        "jane/old": Repo({SCENE_FILE: b"x"}),
    }
    wanted = [(name, "v9" if name == "jane/old" else None) for name in words]
    with serve(repos) as hub:
        visits = visitor.fetch_all(hub.url, wanted)
        assert hub.downloads() == []
    for visit, sentence in zip(visits, words.values(), strict=True):
        assert sentence in visit.error and "\n" not in visit.error
        assert visit.seconds < 3


@pytest.mark.parametrize("nowhere", [closed_port, black_hole])
def test_without_a_network_it_says_so_within_two_seconds(visitor, nowhere):
    with nowhere() as endpoint:
        visit = visitor.fetch(endpoint)
    assert "cannot be reached" in visit.error and "check the network" in visit.error
    assert visit.seconds < 2


def test_behind_a_proxy_it_is_the_proxy_that_must_answer(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with closed_port() as nobody, serve({}) as there:
        assert reachable(there.url) and not reachable(nobody)
        monkeypatch.setenv("http_proxy", there.url)
        assert reachable(nobody)
        monkeypatch.setenv("http_proxy", nobody)
        assert not reachable(there.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert reachable(there.url)
        monkeypatch.delenv("http_proxy")
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("all_proxy", there.url.removeprefix("http://"))
        assert reachable(nobody)


@pytest.mark.parametrize(
    ("endpoint", "proxy", "address"),
    [
        ("https://hub.example", "", ("hub.example", 443)),
        ("http://hub.example", "", ("hub.example", 80)),
        ("http://hub.example:8080", "", ("hub.example", 8080)),
        ("https://hub.example", "http://proxy.example", ("proxy.example", 80)),
        ("http://hub.example", "https://proxy.example", ("proxy.example", 443)),
    ],
)
def test_the_port_is_that_of_the_scheme_unless_it_is_named(monkeypatch, endpoint, proxy, address):
    called = []

    def refuse(where: tuple[str, int], timeout: float) -> None:
        called.append(where)
        raise OSError

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(hub, "proxy_bypass", lambda host: False)
    monkeypatch.setattr(hub, "getproxies", lambda: {"all": proxy})
    assert not reachable(endpoint) and called == [address]


def test_a_name_that_is_looked_up_for_too_long_cannot_be_reached(monkeypatch):
    given_up = threading.Event()

    def look_up(*args: object, **options: object) -> object:
        given_up.wait(5)
        return io.BytesIO()  # anything that can be closed

    monkeypatch.setattr("socket.create_connection", look_up)
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.01)
    assert not reachable("https://hub.example")
    given_up.set()


def test_offline_mode_names_itself_and_is_kept_for_files_too(visitor):
    with serve({"jane/encoder": Repo({"best": b"x"})}) as hub:
        visit = visitor.fetch(hub.url, HF_HUB_OFFLINE="1")
        (said,) = visitor.files(hub.url, ["jane/encoder"], HF_HUB_OFFLINE="1")
        assert hub.requests == []
    assert "HF_HUB_OFFLINE is set" in visit.error
    assert said.startswith("The encoder needs jane/encoder from http") and said.endswith(
        "cannot be reached now: connect to the network once, or draw it."
    )


def test_a_transfer_that_never_ends_leaves_nothing_behind(visitor, scene_files):
    with serve({"jane/garden": Repo(scene_files, cuts=100)}) as hub:
        visit = visitor.fetch(hub.url)
    assert "broke off" in visit.error
    assert [path for path in visitor.cache.rglob("*.safetensors")] == []
    assert [path for path in visitor.cache.rglob("*.incomplete")] == []


def test_a_cache_that_cannot_be_written_is_explained(visitor, scene_files):
    visitor.cache.write_text("a file where the folder should be")
    with serve({"jane/garden": Repo(scene_files)}) as hub:
        visit = visitor.fetch(hub.url)
    assert "could not be stored in" in visit.error and "HF_HUB_CACHE" in visit.error


def test_the_best_file_there_is_comes_once_and_what_cannot_be_fetched_is_explained(visitor):
    words = {
        "jane/good": "/second",
        "jane/better": "/best",
        "jane/gated": "The repository jane/gated is gated: ask for access",
        "jane/forbidden": "does not let you read jane/forbidden: ask",
        "jane/unknown": "no public repository jane/unknown",
        "jane/down": "answered jane/down with an error (500): try again",
        "jane/other": "has none of the files best, second",
    }
    repos = {
        "jane/good": Repo({"second": b"x"}),
        "jane/better": Repo({"second": b"x", "best": b"y"}),
        "jane/gated": Repo({}, refusal=(401, "GatedRepo")),
        "jane/forbidden": Repo({}, refusal=(403, "")),
        "jane/down": Repo({}, refusal=(500, "")),
        "jane/other": Repo({"third": b"x"}),
    }
    with serve(repos) as hub:
        answers = visitor.files(hub.url, list(words))
    for answer, sentence in zip(answers, words.values(), strict=True):
        assert sentence in answer and "\n" not in answer
    assert [Path(answer).read_bytes() for answer in answers[:2]] == [b"x", b"y"]
    assert visitor.files(hub.url, ["jane/better", "jane/good"]) == answers[1::-1], "from the cache"


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (HTTPError("the peer closed the connection"), "of jane/model broke off: check the network"),
        (ConnectionResetError(104, "Reset by peer"), "of jane/model broke off: check the network"),
        (
            NotADirectoryError(20, "Not a directory"),
            "jane/model could not be stored in .*: make",
        ),
        (RuntimeError("other bytes than promised"), "of jane/model broke off: check the network"),
    ],
)
def test_downloads_that_fail_are_explained(monkeypatch, problem, sentence):
    def fails(*args: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    monkeypatch.setattr(hub, "_remote_size", lambda *args: 1)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(ValueError, match=sentence):
        hub.fetch_file("jane/model", ("best",), wanted_by="The encoder", instead="or draw it")
    with pytest.raises(ValueError, match=sentence):
        fetch_scene("jane/model")


def test_a_bundled_scene_is_found_by_its_name_though_a_folder_has_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desk").mkdir()
    assert find_scene("desk") == bundled_scenes()["desk"]
    assert find_scene("./desk") == Path("desk")


def test_only_the_file_of_a_scene_stands_for_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("jane/garden", f"f/{SCENE_FILE}", "f/notes.txt", "f/backup.safetensors"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    assert find_scene("f") == find_scene(f"f/{SCENE_FILE}") == find_scene(Path("f")) == Path("f")
    with pytest.raises(ValueError, match="There is no scene 'f/g/h': give a scene's folder"):
        find_scene(Path("f/g/h"))
    for spec in ("f/notes.txt", "f/backup.safetensors", "jane/garden"):
        with pytest.raises(ValueError, match=f"{spec} is not a scene: give a scene's folder"):
            find_scene(spec)


@pytest.mark.parametrize("name", ["jane/garden", "J_1/a.b-c", "x/y", "a" * 96 + "/b"])
def test_names_of_repositories_are_recognised(name):
    assert is_repo_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "garden",
        "jane/",
        "/garden",
        "jane/garden/more",
        "../garden",
        "jane/..",
        "./garden",
        "jane/a--b",
        "jane/a..b",
        "jane/garden.git",
        "jane/garden ",
        "jane/garden\n",
        "jané/garden",
        "-jane/garden",
        "jane/garden?x=1",
        "https://hub/jane",
        "a" * 97 + "/b",
    ],
)
def test_what_is_no_repository_name_is_refused_before_any_network(name):
    assert not is_repo_id(name)
    with pytest.raises(ValueError, match="write it as user/name"):
        fetch_scene(name)


def test_what_only_a_checkout_has_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BUNDLED_SCENES", tmp_path)  # as after a plain `pip install`
    monkeypatch.setattr(encoders, "BUNDLED_ENCODER", tmp_path)
    with pytest.raises(ValueError, match=r"'desk'.*in a whole checkout"):
        find_scene("desk")
    with pytest.raises(ValueError, match=r"in a whole checkout \(a plain pip install"):
        encoders.load_encoder()
