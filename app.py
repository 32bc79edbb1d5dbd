"""The page's entry point, here and on a Space: `python app.py [--scene NAME] [--port 7860]`."""

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from langsplat.progress import end_tidily, plain, prepare_process, undisturbed


def main(argv: list[str] | None = None) -> int:
    """Serve the page until interrupted.

    The exit code is 2 after an error in the arguments, 130 after an interruption during start-up.
    """
    args = _parser().parse_args(argv)
    if ":" in args.host:
        return _refuse(f"{args.host} is not an IPv4 address: choose another --host.")
    try:
        _try_address(args.host, args.port or 0)
    except OSError as error:
        where = f"{args.host}, port {args.port}" if args.port else args.host
        return _refuse(
            f"The page cannot be served at {where} ({error.strerror or error}): choose another "
            "--port or --host."
        )
    print("LangSplat is starting ...", flush=True)
    end_tidily()
    try:
        try:
            folder = tempfile.TemporaryDirectory(prefix="langsplat-", ignore_cleanup_errors=True)
        except OSError as error:
            return _refuse(
                f"There is no folder for temporary files ({error.strerror or error}): set TMPDIR "
                "to one that can be written to."
            )
        with folder as scratch:
            return _serve(args, Path(scratch))
    except KeyboardInterrupt:
        return 130


def _serve(args: argparse.Namespace, scratch: Path) -> int:
    prepare_process()
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, WithoutStubs())
        # So that visitors' files are removed at the end: gradio leaves them if a page is open.
        os.environ.setdefault("GRADIO_TEMP_DIR", str(scratch / "gradio"))
    if os.environ.get("SPACES_ZERO_GPU") == "true":
        join_zero_gpu()
        args.device = "cpu"
    # Imported here so that --help and mistyped flags answer at once.
    from demo.handlers import Builder, Shelf
    from demo.page import build_app, serve
    from langsplat.progress import terminal_progress
    from langsplat.rasterize import available_backends, drawing_device

    try:
        device = drawing_device(args.device)
    except ValueError as error:
        return _refuse(str(error))
    if device == "cpu" and args.device == "auto" and available_backends()["gsplat"] == "ok":
        print("The GPU is not used: gsplat's kernels are not compiled yet, which takes minutes.")
        print("Compile them once with --device cuda.", flush=True)
    try:
        shelf = Shelf(args.results or scratch, device=device)
    except OSError as error:
        return _refuse(
            f"{args.results} cannot be used ({error.strerror or error}): choose another folder for "
            "--results."
        )
    try:
        if args.scene:
            shelf.add_first(args.scene, terminal_progress())
    except (ValueError, OSError) as error:
        return _refuse(str(error))
    builder = Builder(shelf)
    # At the very first start the renderer is compiled: begin before a visitor asks.
    threading.Thread(target=shelf.warm_up, daemon=True).start()
    page = build_app(shelf, builder)
    try:
        address = serve(page, shelf, host=args.host, port=args.port)
    except OSError as error:
        return _refuse(f"{error} Choose another --port.")
    print(f"LangSplat is ready at {address}", flush=True)
    try:
        with contextlib.suppress(OSError):  # the terminal is gone, to which gradio says its last
            page.block_thread()
    finally:
        with undisturbed():  # or the photos of a build would stay, and its process for a while
            builder.close()
    return 0


def join_zero_gpu() -> None:
    """Register a function for the GPU of a ZeroGPU Space, which is stopped if it has none.

    Nothing calls it: gsplat's kernels cannot be compiled there, so the page draws on the CPU. Call
    this before anything asks torch for a GPU. Afterwards torch pretends to have one.
    """
    import spaces

    @spaces.GPU
    def unused() -> None: ...


def _refuse(sentence: str) -> int:
    print(f"app.py: {plain(sentence)}", file=sys.stderr)  # names must not steer the terminal
    return 2


class WithoutStubs(MetaPathFinder):
    """Keeps gradio from comparing, and writing, type stubs whenever it is imported.

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


def _try_address(host: str, port: int) -> None:
    """Raise OSError if the port (0: any) is taken, or the host is no address of this machine."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            door.bind((host, port))
        except TypeError:  # it is too long, or has letters that no host's name can have
            raise OSError("that is no name of a host") from None


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError("a port lies between 1 and 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="Ask a 3D scene.")
    parser.add_argument("--scene", help="a bundled scene's name, a scene's folder, or user/name")
    parser.add_argument("--port", type=_port, help="default: 7860, or the next free one")
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
    code = main()
    with contextlib.suppress(OSError):  # the reader has had enough
        print(end="", flush=True)
    # Not sys.exit: Python aborts if a thread that draws or answers is still inside torch.
    os._exit(code)
