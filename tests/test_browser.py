"""The page in Debian's Chromium: a query, a download, and no request that leaves the machine."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from demo.handlers import Builder, Shelf, View
from demo.page import build_app, serve
from langsplat.hub import bundled_scenes
from langsplat.scene import save_scene
from tests.test_demo import photos, shelf_of_balls, three_balls

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
# WebGL on the CPU; the sandbox needs privileges that containers lack.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 60_000  # milliseconds; a busy machine may be compiling the renderer
EYE = "Object.values(document.querySelector('.points-plot').layout.scene.camera.eye)"
TEXT = "#text textarea, #text input"
ROWS = "new Set([...document.querySelectorAll('#display label')].map(e => e.offsetTop)).size"
FOUND = '.status-text[data-kind="found"]'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("browser")
    return Shelf(folder) if bundled_scenes() else shelf_of_balls(folder)


@pytest.fixture(scope="module")
def address(shelf: Shelf) -> Iterator[str]:
    page = build_app(shelf, Builder(shelf))
    yield serve(page, shelf, host="127.0.0.1", port=None)
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def visit(
    browser: "playwright.Browser", address: str, width: int, **device: bool
) -> tuple["playwright.Page", list[str], list[str]]:
    """The page with its first example answered; the outside requests and script errors so far."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **device)
    page.set_default_timeout(PATIENCE)
    outside: list[str] = []
    errors: list[str] = []
    inside = (address, "data:", "blob:")
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(inside) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(FOUND)
    page.wait_for_selector(".points-plot canvas")
    return page, outside, errors


# The least contrast of the visible words, of a field's placeholder, of its border while it has the
# focus, and of the buttons over the points.
FAINTEST = """theme => {
  document.body.classList.toggle("dark", theme === "dark");
  const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
    const part = rgb[i] / 255;
    return sum + share * (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = (e) => {
    const rgba = numbers(getComputedStyle(e).backgroundColor);
    return rgba.length < 4 || !e.parentElement ? rgba : behind(e.parentElement);
  };
  const contrast = (e, part, drawn = "color") => {
    const both = [numbers(getComputedStyle(e, part)[drawn]), behind(e)].map(light);
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  };
  const words = document.querySelectorAll("h1, h3, p, button, label, span, option");
  const seen = [...words].filter((e) => e.checkVisibility() && e.innerText.trim() && !e.disabled);
  const field = document.querySelector("#text input, #text textarea");
  field.focus();
  const icon = document.querySelector(".modebar-btn path");
  const others = [[field, "::placeholder"], [field, null, "borderTopColor"], [icon, null, "fill"]];
  return Math.min(...seen.map((e) => contrast(e)), ...others.map((one) => contrast(...one)));
}"""


def turn_points(page: "playwright.Page") -> list[float]:
    """Drag the 3D view and return where its camera is afterwards."""
    before = page.evaluate(EYE)
    box = page.locator(".points-plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 10, steps=5)
    page.mouse.up()
    page.wait_for_function(f"before => {EYE}[0] !== before[0]", arg=before)
    return page.evaluate(EYE)


def wait_for_text(page: "playwright.Page", text: str) -> None:
    """Until the field holds it."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(where).value === text", arg=[TEXT, text]
    )


def test_a_visitor_asks_once_and_downloads_the_mask(
    browser: "playwright.Browser", address: str, shelf: Shelf, tmp_path: Path
) -> None:
    page, outside, errors = visit(browser, address, 1400)
    first, second = shelf.room(shelf.default).scene.examples[:2]
    assert f"“{first}”" in page.inner_text(FOUND)

    turned = turn_points(page)
    page.fill("#text textarea, #text input", second)
    page.click("#find")
    page.wait_for_selector(f"{FOUND}:has-text('“{second}”')")
    page.wait_for_selector("#mask-file:not([disabled])")
    with page.expect_download() as download:
        page.click("#mask-file")
    stem = f"{shelf.default} view ".replace(" ", "-")
    assert download.value.suggested_filename.startswith(stem)
    assert download.value.suggested_filename.endswith(f"-{second.replace(' ', '-')}-mask.png")
    path = tmp_path / "mask.png"
    download.value.save_as(path)
    with Image.open(path) as mask:
        assert mask.format == "PNG"
        assert max(mask.size) == 640
        inside = np.asarray(mask.convert("L")) > 127
    assert 0 < inside.mean() < 1
    name = download.value.suggested_filename

    def remove_files() -> None:  # as gradio does after an hour
        for kept in Path(get_upload_folder()).rglob(name.replace("mask", "*")):
            kept.unlink()

    remove_files()
    page.focus("#mask-file")
    with page.expect_download() as again:
        page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "mask-file"
    assert Path(again.value.path()).read_bytes() == path.read_bytes()
    remove_files()
    with (
        page.expect_download(lambda file: file.suggested_filename == name),
        page.expect_download(lambda file: file.suggested_filename.endswith("-overlay.png")),
    ):
        page.evaluate("for (const one of ['mask', 'overlay']) window[`${one}-file`].click()")

    assert page.evaluate(EYE) == pytest.approx(turned, abs=1e-6), "new colors keep the camera"
    turned = turn_points(page)
    page.mouse.wheel(0, 3)  # a step, where the drag has ended
    page.wait_for_function(f"turned => Math.abs({EYE}[0] - turned[0]) > 1e-4", arg=turned)
    turned = page.evaluate(EYE)
    page.fill(TEXT, first)
    page.click("#find")
    page.wait_for_selector('.status-text[data-kind="found"]:has-text("' + first + '")')
    assert page.evaluate(EYE) == pytest.approx(turned, abs=1e-6), "however often it is turned"

    page.fill("#text textarea, #text input", "")
    page.click("#find")
    page.wait_for_selector('.status-text[data-kind="error"]:has-text("Type what to look for")')
    page.fill(TEXT, 70_000 * "x")  # too long for any address
    page.click("#find")
    page.wait_for_selector('.status-text[data-kind="error"]:has-text("at most 200 characters")')
    page.set_viewport_size({"width": 1250, "height": 900})
    assert page.evaluate(ROWS) == 1, "the displays to choose from stand in one row"
    assert errors == []
    assert outside == []
    page.close()


def test_what_is_typed_while_a_scene_opens_stays(
    browser: "playwright.Browser", address: str, shelf: Shelf
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(address)
    page.locator(TEXT).fill("own words")  # before the first scene and its example have arrived
    page.wait_for_selector(FOUND)
    page.wait_for_timeout(500)
    assert page.input_value(TEXT) == "own words"
    page.click("#find")
    page.wait_for_selector('.status-text:has-text("own words")')

    other = next(name for name in shelf.names if name != shelf.default)
    page.locator('[role="combobox"], input[aria-label="Scene"]').first.click()
    page.locator(f'[role="option"]:has-text("{other}")').click()
    example = shelf.room(other).scene.examples[0]
    page.wait_for_selector(f"{FOUND}:has-text('“{example}”')")
    wait_for_text(page, example)
    page.locator(TEXT).fill("not asked yet")
    page.locator('[role="combobox"], input[aria-label="Scene"]').first.click()
    page.locator(f'[role="option"]:has-text("{shelf.default}")').click()
    example = shelf.room(shelf.default).scene.examples[0]
    page.wait_for_selector(f"{FOUND}:has-text('“{example}”')")
    page.wait_for_timeout(500)
    assert page.input_value(TEXT) == "not asked yet"

    page.locator("#find").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector('.status-text:has-text("not asked yet")')
    page.wait_for_function("document.activeElement.id === 'find'")  # Tab goes on from there
    page.close()


def test_the_address_follows_the_visitor_and_brings_others_to_the_same_place(
    browser: "playwright.Browser", address: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = next(name for name in shelf.names if name != shelf.default)
    text = shelf.room(other).scene.examples[1]
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE)

    def stands(view: int) -> None:
        page.wait_for_selector(f"{FOUND}:has-text('“{text}”')")
        page.wait_for_selector(f'#picture img[alt="{other}, view {view}"]', state="attached")
        wait_for_text(page, text)

    def draw_slowly(name: str, view: View) -> np.ndarray:
        time.sleep(1)  # all else that a page requests while loading is done earlier
        return draw(name, view)

    draw = shelf.picture
    monkeypatch.setattr(shelf, "picture", draw_slowly)
    page.route("**/plotly.min.js", lambda route: route.abort())  # not looked at here, and slow
    page.goto(f"{address}?scene={other}&from=3&q={quote(text)}&__theme=dark")
    stands(3)
    page.wait_for_selector("#mask-file:not([disabled])")  # the last that follows
    stands(3)
    monkeypatch.undo()
    entries = page.evaluate("history.length")
    page.click("#after")
    page.wait_for_url(lambda url: "from=4" in url)
    assert f"scene={other}&from=4&q={quote_plus(text)}&__theme=dark" in page.url
    assert page.evaluate("history.length") == entries, "Back leaves the page"
    page.close()


def test_a_phone_shows_one_column_without_sideways_scrolling_for_fingers(
    browser: "playwright.Browser", address: str
) -> None:
    page, outside, _ = visit(browser, address, 390, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = page.evaluate(
        "['#found', '#picture', '#points'].map(s => document.querySelector(s)"
        ".getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert len(set(tops)) == 3, "the three panels lie under each other, the answer first"
    pressed = "#find, #examples button, #display label, #photo input[type=range], #text input"
    boxes = page.evaluate(
        f"[...document.querySelectorAll('{pressed}')].map(e => e.getBoundingClientRect().height)"
    )
    assert len(boxes) >= 8 and min(boxes) >= 44, "what a finger presses is large enough"
    assert page.evaluate(ROWS) == 1, "the displays to choose from stand in one row"
    assert page.locator("footer .divider:visible").count() == 0
    for theme in ("light", "dark"):
        page.wait_for_function(f"theme => ({FAINTEST})(theme) >= 4.5", arg=theme)  # colors fade in
    assert outside == []
    page.close()


def test_views_and_thresholds_follow_keys_numbers_and_quick_clicks(
    browser: "playwright.Browser", address: str, shelf: Shelf
) -> None:
    page, _, errors = visit(browser, address, 1400)
    count = len(shelf.room(shelf.default).scene.cameras)

    def stands(place: str) -> None:
        page.wait_for_selector(f'#picture img[alt^="{shelf.default}, {place}"]', state="attached")

    def field(label: str) -> "playwright.Locator":
        return page.get_by_label(f"number input for {label}")

    number = page.locator("#photo").get_by_test_id("number-input")
    number.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("2", delay=150)
    page.keyboard.press("Enter")
    stands("view 2")
    for typed, place in (("999", f"view {count - 1}"), ("", f"view {count - 1}"), ("4", "view 4")):
        number.fill(typed)
        number.press("Enter")
        stands(place)
    for _ in range(6):
        page.locator("#photo").get_by_test_id("range-input").press("ArrowRight")
        page.wait_for_timeout(60)
    stands("view 10")
    for _ in range(4):
        page.locator("#after").click()
    stands("view 14")
    for _ in range(3):
        number.press("ArrowDown")
    stands("view 11")

    yaw = page.get_by_label("range slider for Yaw °")
    yaw.press("Home")
    for _ in range(3):
        yaw.press("ArrowRight")
    stands("orbit at yaw -177°")
    field("Yaw °").fill("90")
    field("Yaw °").press("Tab")
    stands("orbit at yaw 90°")
    number.focus()  # then past the other sliders, without a change
    for _ in range(12):
        page.keyboard.press("Tab")

    field("Threshold of the mask").fill("")
    field("Threshold of the mask").press("Tab")
    field("Threshold of the mask").fill("1")
    field("Threshold of the mask").press("Enter")
    page.wait_for_selector('.status-text:has-text("above the threshold of 1.00")')
    page.get_by_label("range slider for Threshold of the mask").press("Home")
    page.wait_for_selector('.status-text:has-text("Found “")')
    stands("orbit at yaw 90°")
    page.locator("#after").click()
    stands("view 12")  # the one after the view that the slider shows
    page.locator("#reset").click()
    stands(f"view {shelf.room(shelf.default).scene.start_view}")

    page.focus(".points-plot")
    start = np.array(page.evaluate(EYE))
    for key, turned in (("ArrowRight", True), ("ArrowLeft", False), ("ArrowUp", True)):
        page.keyboard.press(key)
        eye = np.array(page.evaluate(EYE))
        assert np.linalg.norm(eye) == pytest.approx(np.linalg.norm(start)), "turning keeps away"
        assert (np.abs(eye - start).max() > 0.05) == turned
    page.keyboard.press("+")
    assert page.evaluate(EYE) == pytest.approx(eye / 1.1)
    page.hover(".points-plot")
    page.locator('.modebar-btn[data-title^="Reset the view"]').click()
    page.wait_for_function(f"start => Math.abs({EYE}[0] - start[0]) < 1e-6", arg=start.tolist())
    assert page.evaluate(EYE) == pytest.approx(start)
    page.focus(".points-plot")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(EYE) != pytest.approx(start), "keys turn from there"
    assert errors == []
    page.close()


def test_what_is_done_while_the_server_is_busy_counts_in_its_order(
    browser: "playwright.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_of_balls(tmp_path)
    monkeypatch.setattr("demo.handlers.LONG_SIDE", 160)  # quick to draw
    shelf.add(save_scene(three_balls(), tmp_path / "other"))
    served = build_app(shelf, Builder(shelf))
    address = serve(served, shelf, host="127.0.0.1", port=None)
    draw, go = shelf.picture, threading.Event()
    go.set()

    def draw_later(name: str, view: View) -> np.ndarray:
        assert go.wait(60)
        return draw(name, view)

    monkeypatch.setattr(shelf, "picture", draw_later)
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.route("**/plotly.min.js", lambda route: route.abort())  # not looked at here, and slow
    page.goto(address)
    page.wait_for_selector(FOUND)
    scene = page.get_by_role("combobox").first
    number = page.locator("#photo").get_by_test_id("number-input")
    yaw = page.get_by_label("range slider for Yaw °")

    def choose(name: str) -> None:
        scene.click()
        page.locator(f'[role="option"]:has-text("{name}")').click()

    def ask(text: str) -> None:
        page.locator(TEXT).fill(f"{text} ball")
        page.locator(TEXT).press("Enter")

    def stands(place: str, text: str) -> None:
        """Let all that was asked finish, then compare the page."""
        go.set()
        page.wait_for_selector(f'#found img[alt*="“{text} ball”"]', state="attached")
        assert page.locator("#picture img").get_attribute("alt") == f"balls, {place}"
        assert page.input_value(TEXT) == f"{text} ball"
        assert scene.input_value() == "balls"

    go.clear()
    page.click("#after")
    number.fill("8")
    number.press("Enter")
    ask("yellow")
    page.wait_for_url("**q=yellow+ball*")  # which the page would load after a lost connection
    stands("view 8", "yellow")
    assert number.input_value() == "8"

    scene.focus()  # passed by without a choice
    page.keyboard.press("Tab")
    scene.click()
    scene.press("Escape")
    page.click("#head")
    ask("blue")
    stands("view 8", "blue")

    go.clear()
    yaw.press("Home")
    yaw.press("ArrowRight")  # waits for the one before
    page.click("#reset")
    go.set()
    page.wait_for_selector('#picture img[alt="balls, view 0"]', state="attached")
    ask("red")
    stands("view 0", "red")

    go.clear()
    page.locator("#examples button").nth(1).click()
    ask("red")
    ask("yellow")
    stands("view 0", "yellow")

    go.clear()
    choose("other")
    choose("balls")
    ask("blue")
    stands("view 0", "blue")

    page.focus("#after")
    for _ in range(3):
        page.keyboard.down("Enter")  # held
    page.keyboard.up("Enter")
    ask("red")
    stands("view 1", "red")
    page.locator("#examples button").nth(1).click()
    wait_for_text(page, shelf.room("balls").scene.examples[1])

    scene.focus()
    page.keyboard.press("End")
    page.wait_for_selector('[role="option"].active:has-text("other")')
    page.keyboard.press("Enter")
    page.wait_for_selector('#picture img[alt="other, view 0"]', state="attached")
    page.wait_for_selector(FOUND)
    assert scene.evaluate("list => list === document.activeElement"), "the choice keeps the focus"
    page.wait_for_selector('[role="option"]', state="detached")  # they fade out

    monkeypatch.setattr(shelf, "answer", None)  # stands for any failure that nobody thought of
    ask("yellow")
    page.wait_for_selector('#line .status-text[data-kind="error"]:has-text("did not work")')
    page.wait_for_selector("#find:enabled")
    monkeypatch.setattr(shelf, "picture", None)
    choose("balls")
    page.wait_for_function("scene => scene.value === 'other'", arg=scene.element_handle())
    page.close()
    served.close()


LATE_END = """
const plain = window.fetch, end = 'data: {"msg":"close_stream"';
window.fetch = async (place, ...how) => {
  const response = await plain(place, ...how);
  if (!new URL(place.url ?? place, location.href).pathname.endsWith("/queue/data")) return response;
  const late = new TransformStream({
    async transform(text, to) {
      const [before, after] = text.split(end);
      to.enqueue(before);
      if (after) await new Promise((resolve) => setTimeout(resolve, 300));
      if (after) to.enqueue(end + after);
    },
  });
  const body = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(late);
  return new Response(body.pipeThrough(new TextEncoderStream()), response);
};
"""


def test_what_is_asked_as_the_stream_of_answers_ends_is_answered(
    browser: "playwright.Browser", address: str
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.route("**/plotly.min.js", lambda route: route.abort())
    page.add_init_script(LATE_END)
    page.goto(address)
    page.wait_for_selector(FOUND)
    page.locator(TEXT).fill("globe")
    page.locator(TEXT).press("Enter")
    page.wait_for_selector('#found img[alt*="“globe”"]', state="attached")
    page.wait_for_selector(".points-twin:has-text('could not be loaded: reload the page')")
    page.close()


NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, {configurable: true, get() { throw Error("denied"); }});
"""


def test_a_page_in_a_folder_of_a_host_works_though_nothing_may_be_stored(
    browser: "playwright.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/folder")
    monkeypatch.setattr("demo.handlers.LONG_SIDE", 160)  # quick to draw
    shelf = shelf_of_balls(tmp_path)
    served = build_app(shelf, Builder(shelf))
    address = serve(served, shelf, host="127.0.0.1", port=None)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    outside: list[str] = []
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def proxy(route: "playwright.Route") -> None:
        url = route.request.url
        if not url.startswith(f"{address}folder/"):
            outside.append(url)
        route.continue_(url=url.replace("/folder/", "/"))

    page.route(f"{address}**", proxy)
    page.add_init_script(NO_STORAGE)
    page.goto(f"{address}folder/")
    page.wait_for_selector(FOUND)
    page.wait_for_selector(".points-plot canvas")
    assert outside == []
    assert errors == []
    page.close()
    served.close()


# What a screen reader would say of a line within two seconds.
HEARD = """line => new Promise((resolve) => {
  const heard = [];
  const watch = new MutationObserver(() => line.ariaLive !== "off" && heard.push(line.textContent));
  watch.observe(line, {childList: true});
  setTimeout(resolve, 2000, heard);
})"""
BUILD = """
import json, pathlib, shutil, sys, time
scene, go, out = *sys.argv[1:3], sys.argv[sys.argv.index("--out") + 1]
left = 1
while not pathlib.Path(go).exists():
    left += 1
    print(json.dumps({"stage": "Train", "done": 1, "total": 4, "left": left}), flush=True)
    time.sleep(0.1)
shutil.copytree(scene, out)
print(json.dumps({"scene": out}))
"""


def test_a_build_goes_on_while_its_page_is_gone_and_opens_at_its_end(
    browser: "playwright.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_of_balls(tmp_path)
    (tmp_path / "build.py").write_text(BUILD)
    go = tmp_path / "go"
    command = [sys.executable, str(tmp_path / "build.py"), str(tmp_path / "balls"), str(go)]
    builder = Builder(shelf, command)
    served = build_app(shelf, builder)
    address = serve(served, shelf, host="127.0.0.1", port=None)
    page, _, errors = visit(browser, address, 1400)

    def look(page: "playwright.Page") -> None:
        page.get_by_role("tab", name="New scene").click()
        page.wait_for_selector('#build .status-text:has-text("Train, 1 of 4")')

    page.get_by_role("tab", name="New scene").click()
    page.set_input_files("#photos input[type=file]", photos(tmp_path / "in", 8))
    page.locator("#photos tr").nth(7).wait_for()
    begin, begun = builder.start, []
    monkeypatch.setattr(builder, "start", lambda *given: begun.append(given) or begin(*given))
    page.dblclick("#start")
    page.wait_for_selector('#build .status-text:has-text("Train, 1 of 4")')
    assert len(begun) == 1, "the second click is none"
    said = page.locator("#build .status-text").evaluate(HEARD)
    assert said == [], "progress is announced once a stage, not twice a second"
    assert page.locator("#photos").get_by_role("button", name="Add files").count() == 1
    page.reload()  # as gradio does after a lost connection
    page.wait_for_selector(FOUND)
    look(page)
    assert page.locator("#photos tr").count() == 8
    assert page.inner_text("#start") == "Building ..."

    stranger = browser.new_context().new_page()
    stranger.set_default_timeout(PATIENCE)
    stranger.goto(address)
    stranger.wait_for_selector(FOUND)
    stranger.get_by_role("tab", name="New scene").click()
    assert stranger.inner_text("#start") == "Start"
    assert stranger.is_disabled("#stop"), "only who started a build can stop it"
    stranger.context.close()

    go.touch()
    page.wait_for_function("document.querySelector('#picture img')?.alt.startsWith('my-scene')")
    page.goto(address)  # not what the page's own address says by now
    page.wait_for_function("document.querySelector('#picture img')?.alt.startsWith('balls')")
    page.wait_for_timeout(1500)  # time enough to bring it back by the key that the browser keeps
    assert page.locator("#picture img").get_attribute("alt").startswith("balls")
    assert errors == []
    page.close()
    builder.close()
    served.close()
