"""The page: its layout, and the handlers that its events call. Computes nothing itself."""

import contextlib
import html
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import plotly
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from demo.handlers import (
    AUTO,
    DISTANCES,
    HIGHEST,
    MAX_UPLOAD,
    MIN_PHOTOS,
    MOST_PHOTOS,
    PHOTO_SUFFIXES,
    Builder,
    BuildStatus,
    Room,
    Shelf,
    View,
    Visit,
    address_of,
    list_scenes,
    orbit_of,
    start_of,
    visit_at,
)
from demo.viewer import legend, point_payload, status
from langsplat.query import MAX_QUERY, Answer, heat, overlay
from langsplat.scene import LEVELS

TITLE = "LangSplat - ask a 3D scene"
THRESHOLD = 0.5
MOST_PAGES = 500  # whose visits are kept; each takes some 370 kB, and gradio would keep them all
OVERLAY, HEAT, MASK = "Overlay", "Heat", "Mask"

_KEPT_SECONDS = 3600  # how long the files that visitors upload and see are kept
_HERE = Path(__file__).parent
_PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
# Everything that renders shares one queue: two renders at once would only slow each other down.
_LANE: dict[str, Any] = {"concurrency_id": "render", "concurrency_limit": 1}
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_LAST: dict[str, Any] = {"trigger_mode": "always_last"}

# Shown in the browser at once, before the server can answer.
_WAITING = """() => [
    {__type__: "update", value: "LABEL", interactive: false},
    {text: "LABEL", kind: "busy"}
]"""
_BUSY, _FETCHING, _STARTING = (
    _WAITING.replace("LABEL", label) for label in ("Looking ...", "Fetching ...", "Starting ...")
)
_OPENING = """() => [
    {text: "Opening the scene ...", kind: "busy"},
    ...Array(3).fill({__type__: "update", interactive: false})
]"""
# Shown if a step has failed, or the server was too busy to take it, so that nothing waits for ever.
_FAILED = """() => [
    {__type__: "update", value: "LABEL", interactive: true},
    {text: "That did not work: try again.", kind: "error"}
]"""
_OPENS = "(...given) => (window.leaveView(), window.sceneOpens(), given)"  # of inputs.js
_ASKS = f"""(visit, text, ...given) =>
    (window.keepWords?.(text, {MAX_QUERY}), [visit, text, ...given])"""
_VIEW = "(visit, ...shown) => [visit, ...window.viewAsked(shown)]"
_ADDRESS = "(address) => window.showAddress(address)"
# If a scene could not be opened, the list shows the open one again.
_STAYS = """(address) => [
    new URLSearchParams(address).get("scene") ?? {__type__: "update"}
]"""
# gradio reloads a page that has lost its server: chosen photos stay if the server still has them.
_KEEP_PHOTOS = """(photos) => {
    try { sessionStorage.setItem("langsplat-photos", JSON.stringify(photos ?? [])); } catch {}
}"""
_KEPT_PHOTOS = """async () => {
    const same = {__type__: "update"};
    let kept = [];
    try { kept = JSON.parse(sessionStorage.getItem("langsplat-photos")) ?? []; } catch {}
    if (!kept.length) return [same, same];
    const {ok} = await fetch(kept[0].url, {method: "HEAD"}).catch(() => ({}));
    if (ok) return [kept, same];
    sessionStorage.removeItem("langsplat-photos");
    const lost = "The photos chosen before are no longer on the server: choose them again.";
    return [same, {text: lost, kind: "none"}];
}"""
# The offer is cleared once it is taken, since steps that open no other scene end here, too.
_TEXT = "(offered, now) => [window.textToShow(offered, now), null]"
_NO_BUILD = "none"  # in place of a key: the browser does not store empty values
_FORGOTTEN = (
    "The build you had started is over, and how it ended is no longer known here: if its scene is "
    "not in the list, start it again."
)
_STOPPING = """() => [{__type__: "update", value: "Stopping ...", interactive: false}]"""

_ABOUT = """
### What you see

A scene made of 3D Gaussians: thousands of soft, colored blobs in space, placed so that together
they look like the photos. Every Gaussian also carries what the image regions it belongs to *mean*.
Words are mapped to the same space, so a scene can be asked for things nobody labelled
([LangSplat, CVPR 2024](https://arxiv.org/abs/2312.16084)).

- **Picture**: the scene rendered from the viewpoint you chose: that of a photo (*View*), or any
  around the middle of the scene. *Yaw* goes around it, *pitch* up and down.
- **Relevancy**: how well your words fit every pixel, from 0 to 1. At 0.5 they fit as well as plain
  words such as "object" or "texture" do; the mask is where the relevancy exceeds the threshold. The
  scale is absolute: something that is not there nearly always gives an empty mask. Ask for one
  thing at a time.
- **Points**: the same answer in 3D, each Gaussian scored by itself. Drag or press arrow keys to
  turn, scroll or press + and - to zoom.

Each answer comes from one of three levels: *subpart*, *part* or *whole*. "auto" takes the one that
fits best.

### Where the words come from

The bundled scenes and the bundled encoder need no download and no network. The bundled encoder is
small: it knows some 80 kinds of things, their parts and colors, in English only. Scenes built with
a larger encoder need its weights on this machine.

### From a script

`/scenes`, `/render` and `/query` are named endpoints: see *Use via API* at the foot of this page
(shown on wide screens).
"""


def build_app(shelf: Shelf, builder: Builder) -> gr.Blocks:
    """The page over the scenes of `shelf`; `builder` makes new ones."""
    gr.set_static_paths([_PLOTLY_JS])
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS), fill_width=True
    ) as page:
        gr.Markdown(f"# {TITLE}\nType words, see where they are.", elem_id="head")
        # Outside of the tabs: inside one it would be inactive while that is hidden. The secret is
        # fixed because with gradio's, new at each start, an earlier server's key could not be read.
        key = gr.BrowserState("", storage_key="langsplat-build", secret="langsplat")
        with gr.Tabs(selected="explore") as tabs:
            with gr.Tab("Explore", id="explore"):
                explore = Explore(shelf)
            with gr.Tab("New scene", id="new"):
                new_scene = NewScene(builder, explore)
            with gr.Tab("About", id="about"):
                gr.Markdown(_ABOUT, elem_id="about")
        _endpoints(shelf)
        explore.wire(page)
        new_scene.wire(page, tabs, key)
    return page


def serve(page: gr.Blocks, shelf: Shelf, *, host: str, port: int | None) -> str:
    """Start serving the page in the background; returns its address.

    Raises:
        OSError: the port is taken.
    """
    _, address, _ = page.queue(max_size=32).launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        state_session_capacity=MOST_PAGES,
        ssr_mode=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(shelf.downloads)],
        app_kwargs={"middleware": [Middleware(_Zipped)]},
        # Before gradio's first request.
        head=f"<script>{_script('storage.js')}</script><script>{_script('order.js')}</script>",
        footer_links=["api", "settings"],
        i18n=gr.I18n(en={"common.upload": "Add files"}),  # gradio shows the key: it has no words
        theme=gr.themes.Default(
            primary_hue="indigo",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(  # the defaults are too faint for some readers
            body_text_color_subdued="*neutral_500",
            input_placeholder_color="*neutral_500",
            input_placeholder_color_dark="*neutral_400",
            input_border_color_focus="*primary_600",
            input_border_color_focus_dark="*primary_400",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
        ),
        css_paths=_HERE / "style.css",
    )
    # A browser opens six connections to a host at most, and gradio's heartbeat would hold one for
    # each page: with six pages open nothing would be answered. All it does is forget the visits
    # of pages that were closed.
    page.config["connect_heartbeat"] = False
    return address


class _Zipped(GZipMiddleware):
    """Compresses the page itself, some 210 kB: gradio compresses only what has a file's name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = super().__call__ if scope.get("path") == "/" else self.app
        await answer(scope, receive, send)


Updates = dict[Any, Any]


class Explore:
    """The first tab: its components, and the handlers that fill them."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.visit = gr.State(Visit())
        with gr.Row(elem_id="ask"):
            self.scene = gr.Dropdown(
                shelf.names,
                value=shelf.default or None,
                label="Scene",
                filterable=False,  # else a phone shows its keyboard, and what is typed is appended
                scale=2,
                min_width=200,
            )
            self.text = gr.Textbox(
                label="Find",
                placeholder="a thing you can see, for example: the shade of the lamp",
                scale=5,
                min_width=240,
                max_lines=1,
                elem_id="text",
            )
            self.find = gr.Button("Find", variant="primary", scale=1, min_width=110, elem_id="find")
        # Not in the row, where even hidden components take up width.
        self.offered = gr.Textbox(visible=False)  # a text for the field, unless it was edited
        self.address = gr.Textbox(visible=False)  # the visit's part of the browser's address
        self.left = gr.Checkbox(visible=False)  # whether a slider's value came too late to count
        self.examples = gr.Dataset(
            components=[self.text], samples=[["..."]], label="Try", elem_id="examples"
        )
        self.line = status_line(
            "Opening the scene. At the very first start the renderer is compiled: half a minute.",
            elem_id="line",
        )
        with gr.Row(elem_id="panels"):
            with gr.Column(min_width=300):
                self._picture_panel()
            with gr.Column(min_width=300):
                self._relevancy_panel()
            with gr.Column(min_width=300):
                gr.Markdown("### Points in 3D", elem_classes="panel-title")
                self.points = point_view()
        with gr.Accordion("Open a scene from the Hugging Face Hub", open=False):
            with gr.Row(elem_id="hub"):
                self.repo = gr.Textbox(
                    label="Repository",
                    placeholder="user/name",
                    max_lines=1,
                    scale=4,
                    elem_id="repo",
                )
                self.fetch = gr.Button("Open", scale=1, min_width=110, elem_id="fetch")
            self.hub_line = status_line("")

    def _picture_panel(self) -> None:
        gr.Markdown("### Picture", elem_classes="panel-title")
        self.picture = _image("picture", "The scene from the chosen viewpoint")
        with gr.Row(elem_classes="stepper"):
            self.before = gr.Button("‹", min_width=44, scale=0, elem_id="before")
            self.photo = gr.Slider(
                0, 1, value=0, step=1, label="View of the photos", elem_id="photo"
            )
            self.after = gr.Button("›", min_width=44, scale=0, elem_id="after")
        with gr.Row(elem_classes="orbit"):
            self.yaw = _slider(-180, 180, 0, 1, "Yaw °")
            self.pitch = _slider(-HIGHEST, HIGHEST, 0, 1, "Pitch °")
            self.distance = _slider(*DISTANCES, 1, 0.05, "Distance")
        self.reset = gr.Button("Reset the view", size="sm", elem_id="reset")

    def _relevancy_panel(self) -> None:
        gr.Markdown("### Relevancy", elem_classes="panel-title")
        self.found = _image("found", "Where the words are")
        self.legend = gr.HTML(legend(THRESHOLD), elem_id="legend")
        self.threshold = _slider(0, 1, THRESHOLD, 0.01, "Threshold of the mask", "threshold")
        with gr.Row():
            self.display = gr.Radio(
                [OVERLAY, HEAT, MASK],
                value=OVERLAY,
                label="Show",
                scale=2,
                min_width=290,  # else they wrap; where that is too wide the level is below
                elem_id="display",
            )
            self.level = gr.Dropdown(
                [AUTO, *LEVELS],
                value=AUTO,
                label="Level",
                filterable=False,
                scale=1,
                min_width=110,
            )
        with gr.Row(elem_classes="downloads"):
            self.mask_file = _download("Mask PNG", "mask-file")
            self.overlay_file = _download("Overlay PNG", "overlay-file")
            self.scores_file = _download("Scores NPZ", "scores-file")
        self.again = gr.Button(visible="hidden", elem_id="again")  # pressed by inputs.js

    # ------------------------------------------------------------------ events
    # Every action is a chain of plain functions: move (a new visit and its picture), answer, offer
    # (the files). Not one generator, because the browser drops updates of generators that yield
    # faster than it draws. Words do not move the visit, so they are taken and answered in one step:
    # every step costs two requests, which take longer than the answer.
    #
    # Every action of a visitor counts, even while an earlier one is in progress; only the last of a
    # slider's values, of answers and of files does. gradio's default, `once`, would drop actions
    # until the browser has seen the end of the one before.

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events: each moves the visit, then answers, then offers the files."""
        on = self._move_on

        def on_words(trigger: Callable[..., Any], ask: Callable[..., Updates], words: Any) -> None:
            given = [self.visit, words, *self._judging]
            changed = [self.visit, self.offered, *self._answered]
            js = _ASKS if words is self.text else None
            each = {"trigger_mode": "multiple", "js": js} | self._shown | _LANE
            asked = trigger(ask, given, changed, **each)
            _say_if_failed(asked, self.find, self.line)
            if ask == self.try_example:
                self._offer_text_after(asked)
            self._offer_after(asked)

        asking = [self.find.click, self.text.submit, self.examples.click]
        gr.on(asking, None, None, [self.find, self.line], js=_BUSY, **_PRIVATE)
        opening = [self.line, *self._files]
        # Not `input`: lists also send that when the focus only passes them, and twice per choice.
        self.scene.select(None, None, opening, js=_OPENING, **_PRIVATE)
        on(page.load, self.arrive)
        on(self.scene.select, self.open, self.scene, js=_OPENS)
        on_words(self.find.click, self.ask, self.text)
        on_words(self.text.submit, self.ask, self.text)
        on_words(self.examples.click, self.try_example, self.examples)
        page.load(None, None, None, js=_script("inputs.js"), **_PRIVATE)
        sliding: dict[str, Any] = {"mode": "always_last", "js": _VIEW}
        on(self.photo.release, self.slide_to, self.photo, self.left, **sliding)
        on(self.before.click, self.go_before, self.photo)
        on(self.after.click, self.go_after, self.photo)
        on(self.reset.click, self.go_back)
        orbit = self.yaw, self.pitch, self.distance
        for slider in orbit:
            on(slider.release, self.orbit, *orbit, self.left, **sliding)
        judged: dict[str, Any] = _LAST | _LANE | _PRIVATE
        for trigger in (self.threshold.release, self.level.select, self.display.input):
            self._answer_after(trigger(legend, self.threshold, self.legend, **judged))

        looking = self.again.click(None, None, [self.find, self.line], js=_BUSY, **_PRIVATE)
        again = self._answer_after(looking)
        again.then(None, None, None, js="() => window.download()", **_PRIVATE)

        fetching = [self.fetch.click, self.repo.submit]
        gr.on(fetching, None, None, [self.fetch, self.hub_line], js=_FETCHING, **_PRIVATE)
        fetched = gr.on(
            fetching,
            self.fetch_scene,
            self.repo,
            [self.scene, self.fetch, self.hub_line],
            show_progress_on=[self.hub_line],
            concurrency_id="hub",
            concurrency_limit=1,
            **_PRIVATE,
        )
        _say_if_failed(fetched, self.fetch, self.hub_line)
        self.open_after(fetched.then, self.scene)

    def open_after(self, trigger: Callable[..., Any], name: Any) -> None:
        """On `trigger`, open the scene that the component `name` names, if it is another one."""
        self._move_on(trigger, self.open_if_new, name, mode="always_last", js=_OPENS)

    def _move_on(
        self,
        trigger: Callable[..., Any],
        move: Callable[..., Updates],
        *inputs: Any,
        mode: str = "multiple",
        js: str | None = None,
    ) -> None:
        """On `trigger`, move the visit, and answer from there; show the text of an opened scene."""
        shown = {"trigger_mode": mode, "js": js} | self._shown | _LANE
        moved = trigger(move, [self.visit, *inputs], self.moved, **shown)
        _say_if_failed(moved, self.find, self.line)
        if move in (self.arrive, self.open, self.open_if_new):
            moved.failure(None, self.address, self.scene, js=_STAYS, **_PRIVATE)
            self._offer_text_after(moved)
        self._answer_after(moved)

    def _offer_text_after(self, opened: Any) -> None:
        """Put the text that was asked into the field, unless the visitor has typed in it since."""
        given, shown = [self.offered, self.text], [self.text, self.offered]
        opened.then(None, given, shown, js=_TEXT, **_PRIVATE)

    def _answer_after(self, event: Any) -> Any:
        judging = [self.visit, *self._judging]
        shown = self._shown | _LAST | _LANE
        answered = event.then(self.answer, judging, self._answered, **shown)
        _say_if_failed(answered, self.find, self.line)
        return self._offer_after(answered)

    def _offer_after(self, event: Any) -> Any:
        event.then(None, self.address, None, js=_ADDRESS, **_PRIVATE)
        judging, hidden = [self.visit, *self._judging], {"show_progress": "hidden"}
        shown = hidden | _LAST | _LANE | _PRIVATE
        return event.then(self.offer, judging, self._files, **shown)

    @property
    def _judging(self) -> list[Any]:
        """What an answer depends on besides the visit."""
        return [self.level, self.threshold, self.display]

    @property
    def _answered(self) -> list[Any]:
        """What an answer may change."""
        return [self.find, self.line, self.found, self.points, self.address, *self._files]

    @property
    def _files(self) -> list[gr.DownloadButton]:
        return [self.mask_file, self.overlay_file, self.scores_file]

    @property
    def _shown(self) -> dict[str, Any]:
        # Minimal, because the full animation uses cores that a small machine renders with.
        shown = [self.picture, self.found]
        return {"show_progress": "minimal", "show_progress_on": shown, **_PRIVATE}

    @property
    def moved(self) -> list[Any]:
        """What a move may change."""
        return [
            *(self.visit, self.scene, self.offered, self.examples, self.line, self.points),
            *(self.picture, self.photo, self.yaw, self.pitch, self.distance),
        ]

    def arrive(self, visit: Visit, request: gr.Request | None = None) -> Updates:
        """A visitor arrives: show what the address asks for, or the first scene."""
        if not self.shelf.default:
            return self._said("There is no scene here yet: build one in New scene.", "none")
        return self._open(visit, dict(request.query_params) if request else {})

    def open(self, visit: Visit, name: str) -> Updates:
        """Open a scene at its first view, and ask its first example."""
        return self._open(visit, {"scene": name})

    def _open(self, earlier: Visit, given: dict[str, str]) -> Updates:
        try:
            visit, note = visit_at(self.shelf, given)
            room = self.shelf.room(visit.scene)
            examples = room.scene.examples
            looked = self._looked(visit)
        except ValueError as error:
            said = self._refused(earlier, error)
            if earlier.scene:
                return said | {self.scene: earlier.scene}  # it stays open, and is answered
            name = given.get("scene", "")
            name = name if name in self.shelf.names else self.shelf.default
            return said | {self.visit: Visit(name)}  # the answer will report the same error
        if note:
            gr.Warning(html.escape(note), duration=20)
        return looked | {
            self.scene: gr.Dropdown(choices=self.shelf.names, value=visit.scene),
            self.offered: visit.text,
            self.points: gr.HTML(cloud=room.points),
            self.examples: gr.Dataset(
                samples=[[text] for text in examples], visible=bool(examples)
            ),
        }

    def open_if_new(self, visit: Visit, name: str) -> Updates:
        if not name or name == visit.scene:
            return {self.visit: visit}
        return self.open(visit, name)

    def ask(self, visit: Visit, text: str, level: str, threshold: float, display: str) -> Updates:
        """Make a question the visit's, and answer it or say why it cannot be asked."""
        visit = replace(visit, text=text, asked=True)
        return {self.visit: visit} | self.answer(visit, level, threshold, display)

    def try_example(self, visit: Visit, sample: list[str], *judging: Any) -> Updates:
        return self.ask(visit, sample[0], *judging) | {self.offered: sample[0]}

    def go_to(self, visit: Visit, index: float) -> Updates:
        """Look from the training view of this number; numbers wrap around."""
        try:
            count = len(self.shelf.room(visit.scene).scene.cameras)
            return self._looked(replace(visit, view=View(int(index) % count)) if count else visit)
        except ValueError as error:
            return self._refused(visit, error)

    def slide_to(self, visit: Visit, index: float, left: bool = False) -> Updates:
        """The same for the slider, which stays as the visitor set it."""
        if left:
            return {self.visit: visit}
        moved = self.go_to(visit, index)
        if self.photo in moved:
            moved[self.photo] = self._named(moved[self.visit])
        return moved

    def go_before(self, visit: Visit, shown: float = 0) -> Updates:
        """Look from the previous view; from an orbit, the one before the slider's."""
        return self.go_to(visit, (shown if visit.view.index is None else visit.view.index) - 1)

    def go_after(self, visit: Visit, shown: float = 0) -> Updates:
        return self.go_to(visit, (shown if visit.view.index is None else visit.view.index) + 1)

    def go_back(self, visit: Visit) -> Updates:
        """Look from where the visit began."""
        try:
            scene = self.shelf.room(visit.scene).scene
            return self._looked(replace(visit, view=start_of(scene)))
        except ValueError as error:
            return self._refused(visit, error)

    def orbit(
        self, visit: Visit, yaw: float, pitch: float, distance: float, left: bool = False
    ) -> Updates:
        """Look from an orbit; the sliders stay as the visitor set them."""
        if left:
            return {self.visit: visit}
        visit = replace(visit, view=View(None, yaw, pitch, distance))
        try:
            looked = self._looked(visit)
        except ValueError as error:
            return self._refused(visit, error)
        seen = {key: looked[key] for key in (self.visit, self.picture)}
        return seen | {self.photo: self._named(visit)}

    def answer(self, visit: Visit, level: str, threshold: float, display: str) -> Updates:
        """The answer to the visit's question, from where it stands."""
        idle: Updates = {self.find: gr.Button("Find", interactive=True)}
        # The previous question's files must not be mistaken for this one's.
        idle |= dict.fromkeys(self._files, _offer(None))
        if not visit.scene:
            # A restarted server does not know the pages that were open before, and one that serves
            # many forgets the least recently used.
            lost = "The server no longer knows this page, it may have been restarted: reload it."
            return idle | (self._said(lost, "error") if self.shelf.names else {})
        try:
            room = self.shelf.room(visit.scene)
            rgb = self.shelf.picture(visit.scene, visit.view)
        except ValueError as error:
            return idle | self._said(str(error), "error")
        idle[self.address] = address_of(room.scene, visit)
        try:
            answer = self.shelf.answer(
                visit.scene, visit.view, visit.text, level=level, threshold=threshold
            )
        except ValueError as error:
            return idle | {
                self.line: status(str(error), "error" if visit.asked else "plain"),
                self.found: gr.Image(rgb, alt_text="The picture, without an answer"),
                self.points: self._pointed(visit, room, None),
            }
        language = room.scene.language
        assert language is not None  # else there would be no answer
        sentence = language.why_silent(level) or answer.sentence()
        if answer.absent and language.encoder.startswith("bundled"):
            sentence += " The bundled encoder knows some 80 kinds of everyday things, in English."
        return idle | {
            self.line: status(sentence, "found" if answer.found else "none"),
            self.found: gr.Image(_drawn(display, rgb, answer), alt_text=f"{display}: {sentence}"),
            self.points: self._pointed(visit, room, answer),
        }

    def _pointed(self, visit: Visit, room: Room, answer: Answer | None) -> Any:
        """An answer on the points, with these if the page has none, or those of earlier files."""
        value = point_payload(room.cloud, answer)
        return value if visit.points == room.cloud.key else gr.HTML(value, cloud=room.points)

    def offer(self, visit: Visit, level: str, threshold: float, display: str) -> Updates:
        """Offer the answer's files; the mask only if it is not empty."""
        try:
            rgb = self.shelf.picture(visit.scene, visit.view)
            answer = self.shelf.answer(
                visit.scene, visit.view, visit.text, level=level, threshold=threshold
            )
            place = "orbit" if visit.view.index is None else f"view {visit.view.index}"
            files = self.shelf.files(answer, rgb, f"{visit.scene} {place}")
        except ValueError:  # no answer, or no room for its files
            return dict.fromkeys(self._files, _offer(None))
        return {
            self.mask_file: _offer(files["mask.png"] if answer.found else None),
            self.overlay_file: _offer(files["overlay.png"]),
            self.scores_file: _offer(files["relevancy.npz"]),
        }

    def _looked(self, visit: Visit) -> Updates:
        """The picture of a visit, and the sliders set to its view, to continue from there."""
        room = self.shelf.room(visit.scene)
        orbit, last = orbit_of(room.scene, visit.view), len(room.scene.cameras) - 1
        return {
            self.visit: visit,
            self.picture: gr.Image(
                self.shelf.picture(visit.scene, visit.view),
                alt_text=f"{visit.scene}, {_place(visit.view)}",
            ),
            self.photo: self._named(
                visit,
                value=visit.view.index or 0,
                maximum=max(last, 1),
                interactive=last > 0,
                buttons=[],
            ),
            self.yaw: round(orbit.yaw),
            self.pitch: gr.Slider(
                value=round(min(max(orbit.pitch, room.low), HIGHEST)), minimum=room.low, buttons=[]
            ),
            self.distance: round(min(max(orbit.distance, DISTANCES[0]), DISTANCES[1]), 2),
        }

    def _named(self, visit: Visit, **changes: Any) -> gr.Slider:
        """The photos' slider, labelled with the name of the one seen unless that is its number."""
        index = visit.view.index
        cameras = self.shelf.room(visit.scene).scene.cameras
        name = Path(cameras[index].name).stem if index is not None and cameras else ""
        if re.search(rf"(?<![0-9])0*{index}$", name):
            name = ""
        return gr.Slider(label=f"View: {name}" if name else "View", **changes)

    def _refused(self, visit: Visit, error: ValueError) -> Updates:
        """Say why a move failed, in a toast as well: the line will answer from the old view."""
        if visit.scene:
            gr.Warning(html.escape(str(error)), duration=20)
        return self._said(str(error), "error")

    def _said(self, text: str, kind: str) -> Updates:
        return {self.line: status(text, kind)}

    def fetch_scene(
        self,
        repo: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it by its default
    ) -> Updates:
        """Fetch a scene from the Hub, and select it in the list."""
        idle: Updates = {self.fetch: gr.Button("Open", interactive=True)}
        try:
            name = self.shelf.fetch(
                repo, lambda stage, done, total, note: progress((done, total), desc=note or stage)
            )
        except ValueError as error:
            return idle | {self.hub_line: status(str(error), "error")}
        return idle | {
            self.hub_line: status(f"{name} is in the list of scenes.", "found"),
            self.scene: gr.Dropdown(choices=self.shelf.names, value=name),
        }


def _say_if_failed(event: Any, button: gr.Button, line: Any) -> None:
    """If a step fails, say so in its line, and enable its button again."""
    failed = _FAILED.replace("LABEL", str(button.value))
    event.failure(None, None, [button, line], js=failed, **_PRIVATE)


class NewScene:
    """The second tab: photos in, a scene out.

    A build continues without this page. The browser keeps its key, so that the page finds it again
    when it is reloaded, which gradio does by itself after a lost connection.
    """

    def __init__(self, builder: Builder, explore: Explore) -> None:
        self.builder, self.explore = builder, explore
        # The scene that was built. Not a gr.State: the first time one is an output, whether set or
        # not, the browser takes it for changed.
        self.built = gr.Textbox(visible=False)
        gr.Markdown(
            f"Walk around one subject and take {MIN_PHOTOS} to {MOST_PHOTOS} photos; 20 to 60 "
            "sharp ones with plenty of overlap work best (HEIC: save them as JPEG first). On two "
            "processor cores a build takes 10 to 20 minutes. It continues if you leave this page: "
            "come back with the same browser to see its progress. The new scene can be asked for "
            "what the bundled encoder knows: some 80 kinds of household things. Everyone who can "
            "open this page can see the scenes built on it.",
            elem_id="new-intro",
        )
        with gr.Row():
            with gr.Column(min_width=300):
                self.photos = gr.File(
                    label="Photos, or one zip of photos",
                    file_count="multiple",
                    file_types=[*sorted(PHOTO_SUFFIXES), ".zip"],
                    height=260,
                    elem_id="photos",
                )
            with gr.Column(min_width=300):
                self.name = gr.Textbox(
                    label="Name of the scene", placeholder="my scene", max_lines=1
                )
                with gr.Row():
                    self.start = gr.Button("Start", variant="primary", elem_id="start")
                    self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop")
                self.monitor = build_monitor()

    def wire(self, page: gr.Blocks, tabs: gr.Tabs, key: gr.BrowserState) -> None:
        """Connect the events; `key` is of the build this browser has started."""
        self.tabs, self.key = tabs, key
        followed: dict[str, Any] = {
            "outputs": [
                *(key, self.built, self.explore.scene, tabs),
                *(self.monitor, self.start, self.stop),
            ],
            "show_progress": "hidden",
            # Not on the tabs: from then on the browser would copy all that they contain whenever
            # any event begins or ends.
            "show_progress_on": self.monitor,
            # Its own queue: a second visitor is told at once that a build is running.
            "concurrency_id": "build",
            "concurrency_limit": 8,
            **_PRIVATE,
        }
        shown = [self.start, self.monitor]
        self.start.click(None, None, shown, js=_STARTING, **_PRIVATE)  # disabled at once
        begun = self.start.click(self.begin, [self.photos, self.name], **followed)
        _say_if_failed(begun, self.start, self.monitor)
        page.load(self.come_back, key, **followed)
        self.explore.open_after(self.built.change, self.built)
        # What is shown about earlier photos is not true of these.
        chosen = [self.photos.upload, self.photos.delete, self.photos.clear]
        gr.on(chosen, None, None, self.monitor, js="() => ({})", **_PRIVATE)
        self.photos.change(None, self.photos, None, js=_KEEP_PHOTOS, **_PRIVATE)
        page.load(None, None, [self.photos, self.monitor], js=_KEPT_PHOTOS, **_PRIVATE)
        self.stop.click(None, None, self.stop, js=_STOPPING, **_PRIVATE)
        self.stop.click(
            self.builder.stop, key, None, show_progress="hidden", queue=False, **_PRIVATE
        )

    def begin(self, photos: list[str] | None, name: str) -> Iterator[Updates]:
        """Start a build, and show its progress until it is over."""
        try:
            key = self.builder.start(photos or [], name)
        except ValueError as error:
            refused = BuildStatus(str(error), "error")
            yield self._buttons(refused) | {self.monitor: _monitored(refused)}
            return
        yield from self._watch(key)

    def come_back(self, key: str) -> Iterator[Updates]:
        """Show the progress of a build that this browser started earlier, if there is one."""
        forget_broken_uploads()
        report = next(self.builder.follow(key), None)
        if report is None:
            shown: Updates = {self.key: _NO_BUILD}
            if key not in ("", _NO_BUILD):  # another build, or the server, has started since
                gr.Info(_FORGOTTEN, duration=20)
                shown[self.monitor] = _monitored(BuildStatus(_FORGOTTEN, "none"))
            yield shown
            return
        if report.kind == "busy":
            gr.Info("Your scene is still being built: see New scene.", duration=20)
        yield from self._watch(key)

    def _watch(self, key: str) -> Iterator[Updates]:
        # Every update is complete: of a quick succession the browser may show only the last.
        for report in self.builder.follow(key):
            over = report.kind != "busy"
            shown = self._buttons(report) | {
                self.key: _NO_BUILD if over else key,  # its end is reported only once
                self.monitor: _monitored(report),
            }
            if report.kind == "error":
                shown[self.tabs] = gr.Tabs(selected="new")
            elif report.scene:
                if report.note:  # as a toast, because the tab changes
                    gr.Info(html.escape(report.text), duration=20)
                shown |= {
                    self.built: report.scene,
                    self.explore.scene: gr.Dropdown(
                        choices=self.explore.shelf.names, value=report.scene
                    ),
                    self.tabs: gr.Tabs(selected="explore"),
                }
            yield shown

    def _buttons(self, report: BuildStatus) -> Updates:
        busy, stopping = report.kind == "busy", report.stopping
        return {
            self.start: gr.Button("Building ..." if busy else "Start", interactive=not busy),
            self.stop: gr.Button(
                "Stopping ..." if stopping else "Stop", interactive=busy and not stopping
            ),
        }


def forget_broken_uploads() -> None:
    """Remove the parts of uploads that broke off, which gradio would keep for ever."""
    folder = Path(get_upload_folder())
    if folder.name != "gradio":  # chosen by the user: it may hold the files of other programs
        return
    for part in folder.glob("tmp*"):  # complete uploads lie in folders
        with contextlib.suppress(OSError):
            if part.is_file() and time.time() - part.stat().st_mtime > _KEPT_SECONDS:
                part.unlink()


def _endpoints(shelf: Shelf) -> None:
    """`/scenes`, `/render` and `/query` for gradio_client, on hidden components."""

    def number(value: float | None, of: str) -> float:
        if value is None:
            raise ValueError(f"The {of} must be a number.")
        return value

    def render(scene: str, view: float | None) -> np.ndarray:
        with _told():
            return shelf.picture(scene, View(int(number(view, "view"))))

    def query(
        text: str, scene: str, view: float | None, threshold: float | None, level: str
    ) -> tuple[dict[str, Any], str, str]:
        with _told():
            look, cut = View(int(number(view, "view"))), number(threshold, "threshold")
            answer = shelf.answer(scene, look, text, level=level, threshold=cut)
            files = shelf.files(answer, shelf.picture(scene, look))
            result = answer.as_dict() | {"scene": scene, "view": look.index}
            return result, str(files["overlay.png"]), str(files["mask.png"])

    with gr.Column(visible=False):
        words = gr.Textbox(label="text")
        scene = gr.Textbox(shelf.default, label="name of the scene, as /scenes lists it")
        view = gr.Number(0, precision=0, label="number of the view, from 0")
        threshold = gr.Number(THRESHOLD, label="threshold of the mask, 0 to 1")
        level = gr.Textbox(AUTO, label="auto, subpart, part or whole")
        result = gr.JSON(label="result")
        first, second = gr.Image(format="png"), gr.Image(format="png")
        gr.Button().click(
            lambda: list_scenes(shelf),
            None,
            result,
            api_name="scenes",
            api_description="The scenes that can be asked: name, views, Gaussians, examples.",
            **_LANE,
        )
        gr.Button().click(
            render,
            [scene, view],
            first,
            api_name="render",
            api_description="A picture of a scene from one of its training views.",
            **_LANE,
        )
        gr.Button().click(
            query,
            [words, scene, view, threshold, level],
            [result, first, second],
            api_name="query",
            api_description=(
                "Where in a view is this? Returns the result, the overlay and the mask."
            ),
            **_LANE,
        )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Pass on the library's errors: they are sentences for the user."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


# --------------------------------------------------------------------------- small parts
# The gr.HTML components below have templates without values: JavaScript sets text as text, so
# neither a query nor a stranger's scene can inject markup or code into the page.


def status_line(text: str, elem_id: str | None = None) -> gr.HTML:
    """A sentence that screen readers announce; its value is `viewer.status(...)`."""
    return gr.HTML(
        status(text, "busy"),
        html_template='<p class="status-text" role="status" aria-live="polite"></p>',
        js_on_load=_script("status.js"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="status",
    )


def point_view() -> gr.HTML:
    """A Plotly view that keeps its camera when colors change.

    Its `cloud` is a `cloud_payload`, its value a `point_payload` of the same points: other words
    only need other colors.
    """
    return gr.HTML(
        {},
        html_template=(
            '<div class="points-plot" tabindex="0" role="application" aria-label="Points in 3D: '
            'arrow keys turn them, plus and minus zoom"></div><p class="points-twin"></p>'
        ),
        js_on_load=_script("points.js").replace(
            "PLOTLY_JS", f"/gradio_api/file={_PLOTLY_JS.as_posix()}"
        ),
        apply_default_css=False,
        elem_id="points",
    )


def build_monitor() -> gr.HTML:
    """A build's sentence, progress bar and log; its value is as `_monitored` gives it."""
    return gr.HTML(
        {},
        html_template=(
            '<p class="status-text" role="status" aria-live="polite"></p>'
            '<progress max="1" aria-label="Progress of this stage"></progress>'
            '<ol class="log" aria-label="What happened so far"></ol>'
        ),
        js_on_load=_script("build.js"),
        apply_default_css=False,
        elem_id="build",
    )


def _script(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _monitored(report: BuildStatus) -> dict[str, Any]:
    return {
        "text": report.text,
        "kind": report.kind,
        "share": report.share,
        "log": list(report.log),
    }


def _slider(
    low: float, high: float, value: float, step: float, label: str, elem_id: str | None = None
) -> gr.Slider:
    return gr.Slider(
        low, high, value, step=step, label=label, elem_id=elem_id, min_width=90, buttons=[]
    )


def _image(elem_id: str, alt: str) -> gr.Image:
    return gr.Image(
        format="jpeg",  # gradio's WebP takes 25 ms to write, this 1, for 10 kB more
        show_label=False,
        interactive=False,
        buttons=["fullscreen"],
        alt_text=alt,
        elem_id=elem_id,
        container=False,
    )


def _download(label: str, elem_id: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, size="md", interactive=False, min_width=90, elem_id=elem_id)


def _offer(path: Path | None) -> gr.DownloadButton:
    return gr.DownloadButton(value=str(path) if path else None, interactive=path is not None)


def _drawn(display: str, rgb: np.ndarray, answer: Answer) -> np.ndarray:
    if display == HEAT:
        return heat(answer.relevancy)
    if display == MASK:
        return np.repeat(answer.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    return overlay(rgb, answer.relevancy, answer.mask)


def _place(view: View) -> str:
    if view.index is not None:
        return f"view {view.index}"
    return f"orbit at yaw {view.yaw:.0f}°, pitch {view.pitch:.0f}°, distance {view.distance:.2f}"
