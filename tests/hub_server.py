"""A small HTTP server that answers a Hub client: /{user}/{name}/resolve/{revision}/{file}.

Like the real Hub it redirects requests for a large file to another host, which serves the bytes
and understands ranges. It can also refuse, be gated, break off in the middle, or stay silent.
"""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repo:
    """One repository: the files of its only commit, and how it misbehaves."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    refusal: tuple[int, str] | None = None  # status and X-Error-Code for every request
    claimed_size: int | None = None  # instead of the true one
    cuts: int = 0  # how many more transfers break off halfway


@dataclass
class Hub:
    """The running server: its repositories and the requests it got."""

    url: str
    repos: dict[str, Repo]
    requests: list[str] = field(default_factory=list)  # "GET /user/name/resolve/main/file"

    def downloads(self) -> list[str]:
        return [line for line in self.requests if line.startswith("GET /blobs/")]


@contextmanager
def serve(repos: dict[str, Repo]) -> Iterator[Hub]:
    """A server on a free port of this machine, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            parts = self.path.strip("/").split("/")
            if parts[0] == "blobs":
                self.blob("/".join(parts[1:3]), parts[3])
            elif len(parts) >= 5 and parts[2] == "resolve":
                self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self.reply(404, {})

        def resolve(self, name: str, revision: str, filename: str) -> None:
            repo = hub.repos.get(name)
            if repo is None:  # without a login, unknown and private repositories look the same
                return self.reply(401, {"X-Error-Code": "RepoNotFound"})
            if repo.refusal is not None:
                status, code = repo.refusal
                return self.reply(status, {"X-Error-Code": code} if code else {})
            if revision not in ("main", repo.commit):
                return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
            headers = {"X-Repo-Commit": repo.commit}
            if filename not in repo.files:
                return self.reply(404, {**headers, "X-Error-Code": "EntryNotFound"})
            content = repo.files[filename]
            digest = hashlib.sha256(content).hexdigest()
            size = len(content) if repo.claimed_size is None else repo.claimed_size
            elsewhere = f"http://localhost:{self.server.server_address[1]}/blobs/{name}/{digest}"
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
            self.reply(302, {**headers, "Location": elsewhere})

        def blob(self, name: str, digest: str) -> None:
            repo = hub.repos[name]
            for content in repo.files.values():
                if hashlib.sha256(content).hexdigest() == digest:
                    return self.send(repo, content)
            self.reply(404, {})

        def send(self, repo: Repo, content: bytes) -> None:
            start = 0
            if wanted := self.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            status = 206 if start else 200
            self.send_response(status)
            if start:
                whole = len(content)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            content = content[start:]
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if repo.cuts > 0:
                repo.cuts -= 1
                # A resumed transfer breaks off before its first byte, so that it never ends.
                content = content[: 0 if start else len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

        def reply(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", repos)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def closed_port() -> Iterator[str]:
    """An endpoint that refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening, so nothing else gets the port
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An endpoint whose packets vanish: connections neither open nor fail (Linux)."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = []
        try:
            for _ in range(4):  # fill the queue of connections, which are never accepted
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
                fillers.append(filler)
            yield f"http://127.0.0.1:{deaf.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()
