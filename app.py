"""The page's entry point, here and on a Space: `python app.py [--scene NAME] [--port 7860]`."""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from langsplat.progress import prepare_process


def main(argv: list[str] | None = None) -> int:
    """Serve the page until interrupted; the exit code is 2 after a mistake in the arguments."""
    args = _parser().parse_args(argv)
    print("LangSplat is starting ...", flush=True)
    prepare_process()
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, WithoutStubs())
    # Imported here so that --help and mistyped flags answer at once.
    from demo.handlers import Builder, Shelf
    from demo.page import build_app, serve
    from langsplat.progress import terminal_progress
    from langsplat.rasterize import available_backends, quickest_device

    why = available_backends()["gsplat"]
    if args.device == "cuda" and why != "ok":
        print(f"app.py: The GPU cannot be used, {why}. Use --device cpu.", file=sys.stderr)
        return 2
    device = quickest_device() if args.device == "auto" else args.device
    if device == "cpu" and args.device == "auto" and why == "ok":
        print("The GPU is left alone: gsplat's kernels are not compiled yet, which takes minutes.")
        print("Compile them once with --device cuda.", flush=True)
    with tempfile.TemporaryDirectory(prefix="langsplat-") as scratch:
        shelf = Shelf(args.results or Path(scratch), device=device)
        try:
            if args.scene:
                shelf.add_first(args.scene, terminal_progress())
        except ValueError as error:
            print(f"app.py: {error}", file=sys.stderr)
            return 2
        builder = Builder(shelf)
        # The renderer compiles itself at the very first start: begin before a visitor asks.
        threading.Thread(target=shelf.warm_up, daemon=True).start()
        page = build_app(shelf, builder)
        try:
            address = serve(page, shelf, host=args.host, port=args.port)
        except OSError as error:
            print(f"app.py: {error} Choose another --port.", file=sys.stderr)
            return 2
        print(f"LangSplat is ready at {address}", flush=True)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            page.block_thread()
        finally:
            builder.stop()
    return 0


class WithoutStubs(MetaPathFinder):
    """Leaves out the type stubs that gradio compares, and writes, whenever it is imported.

    They are for editors, and take half of the import: 2 of 4 seconds.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            load = loader.exec_module

            def load_without(module: Any) -> None:
                load(module)
                module.create_or_modify_pyi = lambda *args: None

            loader.exec_module = load_without
        return spec


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    # As Ctrl-C does it: a running build and the scratch folder go, too.
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="Ask a 3D scene.")
    parser.add_argument("--scene", help="a bundled scene's name, a scene's folder, or user/name")
    parser.add_argument("--port", type=int, help="default: 7860, or the next free one")
    parser.add_argument(
        "--host",
        # A Space is reached from outside its container; a laptop should not be.
        default="0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1",
        help="address to listen on (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where scenes are drawn; auto: on a GPU if gsplat's kernels are compiled already",
    )
    parser.add_argument("--results", type=Path, help="keep built scenes in this folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
