"""The page in Chromium: from typing the command to an answered page, a new word, a new view."""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langsplat.hub import bundled_scenes
from langsplat.scene import load_scene
from tests.benchmarks.rows import Row, row
from tests.conftest import ROOT

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FOUND = '.status-text[data-kind="found"]'
APP = (sys.executable, "app.py")
PATIENCE = 180.0  # seconds


def run(device: str = "cpu") -> list[Row]:
    """Time the bundled scene's page; the app chooses its device itself."""
    from playwright.sync_api import sync_playwright

    scenes = bundled_scenes()
    chromium = shutil.which("chromium")
    if not scenes or chromium is None:
        raise SystemExit("The page benchmark needs a bundled scene and Debian's chromium.")
    examples = load_scene(next(iter(scenes.values()))).examples
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        rows = measure(browser, APP, examples)
        browser.close()
    return rows


def measure(browser: Any, command: Sequence[str], examples: Sequence[str]) -> list[Row]:
    """The figures of the page that `command` (plus --port) serves."""
    with tempfile.TemporaryDirectory() as cache:
        with _served(command, cache) as (address, began):
            _open(browser, address).close()
            first = time.perf_counter() - began
        with _served(command, cache) as (address, began):
            page = _open(browser, address)
            later = time.perf_counter() - began
            words = [_ask(page, text) for text in [*examples[1:6], "a zebra", "the moon"]]
            views = [_next_view(page) for _ in range(5)]
            page.close()
    word, view = statistics.median(words), statistics.median(views)

    def bounded(name: str, seconds: float, bar: float) -> Row:
        return row(f"page: {name}", seconds, "s", bar=bar, higher_is_better=False)

    return [
        bounded("very first start to an answered page", first, 40),
        bounded("later start to an answered page", later, 15),
        bounded("new query at the same view (median)", word, 1),
        bounded("new view, rendered and answered (median)", view, 2),
    ]


@contextmanager
def _served(command: Sequence[str], cache: str) -> Iterator[tuple[str, float]]:
    """The app in a process of its own; its address, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    began = time.perf_counter()
    app = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                if app.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise SystemExit("The app did not start.") from None
                time.sleep(0.05)
        yield address, began
    finally:
        app.terminate()
        app.wait()


def _open(browser: Any, address: str) -> Any:
    """The page, once its first example is answered and both pictures are on the screen."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(address)
    page.wait_for_selector(FOUND)
    page.wait_for_function(
        "['#picture img', '#found img'].every(s => document.querySelector(s)?.naturalWidth > 0)"
    )
    return page


def _ask(page: Any, text: str) -> float:
    """Seconds from pressing Find to the answer in words and pictures."""
    page.fill("#text textarea, #text input", text)
    began = time.perf_counter()
    page.click("#find")
    page.wait_for_function(
        "text => { const line = document.querySelector('.status-text');"
        " return line.dataset.kind !== 'busy' && line.textContent.includes(text); }",
        arg=f"“{text}”",
    )
    seconds = time.perf_counter() - began
    page.wait_for_selector("#overlay-file:not([disabled])")
    return seconds


def _next_view(page: Any) -> float:
    """Seconds from pressing the arrow to the new view's picture and answer."""
    before = page.evaluate("document.querySelector('#found img').src")
    began = time.perf_counter()
    page.click("#after")
    page.wait_for_function(
        "before => { const image = document.querySelector('#found img');"
        " return image && image.src !== before && image.complete && image.naturalWidth > 0; }",
        arg=before,
    )
    seconds = time.perf_counter() - began
    page.wait_for_selector("#overlay-file:not([disabled])")
    return seconds
