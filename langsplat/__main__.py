"""`python -m langsplat build | describe | query | render | eval | import | export | doctor`.

torch takes seconds to import, so every command imports only what it needs; `doctor` needs no torch.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import langsplat
from langsplat import BUNDLED_ENCODER, CAPTURE_FILE, SCENE_FILE, WORK_SUFFIX
from langsplat.progress import Progress, end_tidily, plain, prepare_process, terminal_progress

if TYPE_CHECKING:
    from langsplat.query import SceneQuery
    from langsplat.scene import Camera, Scene

_bar_drawn = threading.Event()  # the terminal's current line has a progress bar


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    The exit code is 0, or 1 after an error reported in a sentence, 2 after a mistyped option, 130
    after an interruption.
    """
    args = _parser().parse_args(argv)
    _bar_drawn.clear()
    prepare_process()
    end_tidily()
    for stream in (sys.stdout, sys.stderr):  # a terminal may be unable to show some file names
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        sentence = str(error)
    except OSError as error:  # a full disk, a folder without access, or a file in its place
        sentence = (
            f"{error.filename or 'A file'} cannot be used ({error.strerror or error}): choose "
            "another path, or check its permissions and the space left on the disk."
        )
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError, on a GPU or not
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        whose, remedy = "The machine", "close other programs"
        if "CUDA" in str(error):
            whose, remedy = "The GPU", "use --device cpu"
        sentence = (
            f"{whose} does not have enough memory for this: take fewer or smaller pictures, fewer "
            f"Gaussians, or {remedy}."
        )
    except KeyboardInterrupt:
        if getattr(args, "progress", "") == "json":  # whoever stopped it knows
            return 130
        goes_on = "; the same command goes on from here" if _left_something(args) else ""
        print(f"\nlangsplat: stopped{goes_on}.", file=sys.stderr)
        return 130
    if getattr(args, "progress", "") == "json":
        print(json.dumps({"error": sentence}), flush=True)
    else:
        lead = "\n" if _bar_drawn.is_set() else ""
        print(f"{lead}langsplat: {plain(sentence)}", file=sys.stderr)
    return 1


def _bar() -> Progress:
    """Progress as a bar; `main` must start a new line before it prints an error."""
    show = terminal_progress()

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        show(stage, done, total, note)
        if sys.stderr.isatty():
            _bar_drawn.set()

    return tell


def _left_something(args: argparse.Namespace) -> bool:
    """Whether a stopped command has left work that the same command can resume from."""
    if args.run not in (_build, _describe):
        return False
    out = args.out.absolute()
    work: Path = out.with_name(out.name + WORK_SUFFIX)
    return (work / CAPTURE_FILE).is_file() if args.run is _build else work.is_dir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langsplat", description="Type words, see where they are in a 3D scene."
    )
    version = f"langsplat {langsplat.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="photos or a posed capture become a scene")
    build.add_argument("path", metavar="PHOTOS_OR_CAPTURE", help="folder or zip")
    _add_out(build, "SCENE_DIR", "folder of the new scene")
    build.add_argument("--name", help="name of the scene; default: that of the photos' folder")
    build.add_argument("--iterations", type=int, help="training steps; default: 3000")
    build.add_argument("--max-gaussians", type=int, help="the most Gaussians; default: 30000")
    build.add_argument("--max-side", type=int, help="pixels of the photos' long side; default: 480")
    build.add_argument(
        "--segmenter", help="bundled, or sam_vit_h|l|b, then :<preset>, :<file> or :<preset>/<file>"
    )
    build.add_argument("--encoder", help="bundled, or open_clip:<model>/<tag or weights file>")
    build.add_argument("--codec", help="codebook (default), or the paper's autoencoder")
    build.add_argument("--language", help="lift (default), or train it as well: quick, paper")
    build.add_argument("--codewords", type=int, help="size of each level's codebook; default: 256")
    build.add_argument("--holdout-every", type=int, help="hold out every n-th photo, to measure")
    build.add_argument("--seed", type=int, help="the same seed gives the same scene; default: 0")
    _add_making(build)
    build.set_defaults(run=_build)

    describe = commands.add_parser(
        "describe", help="give a scene a new language field, from its own renders"
    )
    _add_scene(describe)
    _add_out(describe, "SCENE_DIR", "may be the scene itself")
    for option in ("--segmenter", "--encoder", "--codec", "--language"):
        describe.add_argument(option, help="as in build")
    for option in ("--codewords", "--holdout-every", "--seed"):
        describe.add_argument(option, type=int, help="as in build")
    _add_making(describe)
    describe.set_defaults(run=_describe)

    query = commands.add_parser("query", help="find words in a view of a scene")
    _add_scene(query)
    query.add_argument("text", nargs="+", metavar="WORDS", help="what to look for")
    _add_view(query)
    _add_out(query, "DIR", "folder for pictures and scores")
    query.add_argument(
        "--threshold", type=float, default=0.5, help="of the mask, 0 to 1; default: %(default)s"
    )
    query.add_argument("--level", help="subpart, part or whole; default: the one that scores best")
    _add_device(query)
    query.set_defaults(run=_query)

    render = commands.add_parser("render", help="draw a view of a scene")
    _add_scene(render)
    _add_view(render)
    _add_out(render, "IMAGE", "file: .png, .jpg or .webp")
    _add_device(render)
    render.set_defaults(run=_render)

    take = commands.add_parser("import", help="make a scene from the official code's files")
    take.add_argument(
        "folders", nargs="+", type=Path, metavar="OFFICIAL_DIR", help="runs, data, autoencoder"
    )
    _add_out(take, "SCENE_DIR", "folder of the new scene")
    take.add_argument("--name", default="", help="name of the scene")
    take.add_argument("--encoder", help="the one that made the features; default: the paper's")
    take.set_defaults(run=_import)

    give = commands.add_parser("export", help="write a scene as the official code's files")
    _add_scene(give)
    _add_out(give, "DIR", "a new folder")
    _add_device(give)
    give.set_defaults(run=_export)

    evaluation = commands.add_parser("eval", help="compare a scene's answers with labels")
    evaluation.add_argument(
        "pairs", nargs="+", metavar="SCENE LABELS", help="scenes, each with its folder of labels"
    )
    evaluation.add_argument(
        "--profile",
        default="langsplat-v1",
        help="langsplat-v1, langsplat-v2, 3dovs-v2 or 3d-selection",
    )
    evaluation.add_argument("--out", type=Path, metavar="DIR", help="for report.md, report.json")
    evaluation.add_argument(
        "--near-things",
        action="store_true",
        help="hold parts to their things, as `query` does and the papers do not",
    )
    evaluation.add_argument(
        "--autoencoder",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="best_ckpt.pth of each SCENE, then CASE of the official renders in CASE_1, _2, _3",
    )
    evaluation.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="photos of each official SCENE; default: cameras.json names them",
    )
    evaluation.add_argument("--encoder", help="of the official renders; default: the paper's")
    _add_device(evaluation)
    evaluation.set_defaults(run=_eval)

    doctor = commands.add_parser("doctor", help="say what is installed and what each stage uses")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_scene(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", metavar="SCENE", help="folder, bundled name, or user/name")


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--view", default="0", help="number or name of a training view; default: 0")
    parser.add_argument("--width", type=int, help="pixels; default: those of the view")


def _add_out(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar=metavar, help=text)


def _add_device(
    parser: argparse.ArgumentParser,
    text: str = "where to draw; default: a GPU whose kernels are compiled, or the CPU",
) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help=text)


def _add_making(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", nargs="*", help="example queries stored with the scene")
    _add_device(parser, "where to work; default: a GPU if there is one")
    parser.add_argument(
        "--progress", choices=("bar", "json"), default="bar", help="json: JSON lines, for programs"
    )


def _build(args: argparse.Namespace) -> int:
    from langsplat.build import build_scene

    return _make(build_scene, args.path, args)


def _describe(args: argparse.Namespace) -> int:
    from langsplat.build import describe_scene
    from langsplat.hub import find_scene

    return _make(describe_scene, find_scene(args.scene), args)


def _make(make: Callable[..., Path], source: Path | str, args: argparse.Namespace) -> int:
    from langsplat.build import BuildConfig
    from langsplat.progress import json_progress

    # Only what was typed, because BuildConfig has the defaults.
    names = {field.name for field in fields(BuildConfig)}
    typed = {k: v for k, v in vars(args).items() if k in names and v is not None}
    if "examples" in typed:
        typed["examples"] = tuple(typed["examples"])
    progress = json_progress() if args.progress == "json" else _bar()
    if args.progress != "json" and (args.out / SCENE_FILE).is_file():
        print(f"The scene in {args.out} stays until a new one is done.", file=sys.stderr)
    folder = make(source, args.out, BuildConfig(**typed), progress=progress)
    if args.progress == "json":
        print(json.dumps({"scene": str(folder)}), flush=True)
    else:
        print(f"\n{folder}")
    return 0


def _query(args: argparse.Namespace) -> int:
    from langsplat.query import check_mask, check_text, save_answer

    text = check_text(" ".join(args.text))
    check_mask(args.threshold, args.level)
    scene = _open(args.scene, args.device)
    camera = _view_of(scene, args)
    engine = _engine(args.scene, scene)
    with _said_if_slow(
        "Getting ready: the very first time takes half a minute, as kernels are compiled."
    ):
        engine.warm_up(camera)
    answer = engine.ask(text, camera, threshold=args.threshold, level=args.level)
    files = save_answer(answer, engine.render(camera), args.out)
    assert scene.language is not None  # `_engine` has checked it
    print(scene.language.why_silent(args.level) or answer.sentence())
    print(f"In {args.out}: {', '.join(file.name for file in files)}")
    return 0


def _render(args: argparse.Namespace) -> int:
    from PIL import Image

    from langsplat.query import render_rgb

    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"The picture's name must end in .png, .jpg or .webp, got {args.out}.")
    scene = _open(args.scene, args.device)
    picture = render_rgb(scene, _view_of(scene, args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(args.out)
    print(args.out)
    return 0


def _import(args: argparse.Namespace) -> int:
    from langsplat.official import ENCODER, find_official, import_official
    from langsplat.scene import check_destination

    check_destination(args.out)
    found = find_official(args.folders)
    for line in found.found:
        print(f"found   {plain(line)}")
    for line in found.missed:
        print(f"missed  {plain(line)}")
    folder = import_official(
        found, args.out, name=args.name, encoder=args.encoder or ENCODER, progress=_bar()
    )
    print(f"\n{folder}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from langsplat.official import export_official

    scene = _open(args.scene, args.device)
    print(export_official(scene, args.out, progress=_bar()))
    return 0


def _eval(args: argparse.Namespace) -> int:
    from langsplat.encoders import load_encoder
    from langsplat.evaluate import (
        PIXEL_PROFILES,
        OfficialRenders,
        Renders,
        Report,
        check_profile,
        evaluate,
        read_labels,
    )
    from langsplat.hub import bundled_scenes
    from langsplat.official import ENCODER
    from langsplat.query import SceneQuery
    from langsplat.scene import writable

    scenes, folders = args.pairs[::2], args.pairs[1::2]
    if len(scenes) != len(folders):
        raise ValueError(f"The scene {scenes[-1]!r} has no labels: give SCENE and LABELS in turn.")
    for given, what in ((args.autoencoder, "--autoencoder"), (args.images, "--images")):
        if given and len(given) != len(scenes):
            raise ValueError(f"Give {what} once for every scene, in their order.")
    if (args.images or args.encoder) and not args.autoencoder:
        raise ValueError("--images and --encoder are for official renders: give --autoencoder too.")
    check_profile(args.profile)
    if args.near_things and (args.autoencoder or args.profile not in PIXEL_PROFILES):
        raise ValueError(
            "--near-things is for pixels of scenes, not for 3d-selection or official renders: "
            "leave it out."
        )
    labels = [read_labels(folder) for folder in folders]  # errors in these before loading models
    if args.autoencoder:
        encoder = load_encoder(args.encoder or ENCODER)
    reports, progress = [], _bar()
    for number, scene in enumerate(scenes):
        source: SceneQuery | Renders
        known = scene in bundled_scenes() or Path(scene).exists()
        if args.autoencoder:
            images = args.images[number] if args.images else None
            source = OfficialRenders(scene, args.autoencoder[number], encoder, images=images)
        elif not known and Path(f"{scene}_1").is_dir():
            raise ValueError(
                f"{scene}_1 is a run of the official code, and its renders mean nothing without "
                "their autoencoder: give its best_ckpt.pth with --autoencoder."
            )
        else:
            opened = _open(scene, args.device)
            source = _engine(scene, opened, as_published=True, near_things=args.near_things)
        reports.append(evaluate(source, labels[number], args.profile, progress=progress))
    report = Report.joined(reports)
    print(report.markdown(), end="")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
        for name, text in (("report.md", report.markdown()), ("report.json", content)):
            (args.out / name).write_text(writable(text), encoding="utf-8")
    return 0


@contextlib.contextmanager
def _said_if_slow(sentence: str) -> Iterator[None]:
    """Print the sentence if the `with` block takes more than two seconds."""
    timer = threading.Timer(2.0, print, [sentence], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _engine(
    spec: str, scene: "Scene", *, as_published: bool = False, near_things: bool = True
) -> "SceneQuery":
    from langsplat.encoders import check_portable, load_encoder
    from langsplat.hub import is_repo_id
    from langsplat.query import SceneQuery

    if scene.language is None:
        raise ValueError(f"The scene {scene.name!r} has no language field: build it again.")
    if is_repo_id(spec) and not Path(spec).exists():
        check_portable(scene.language.encoder)
    encoder = load_encoder(scene.language.encoder)
    return SceneQuery(scene, encoder, as_published=as_published, near_things=near_things)


def _open(spec: str, device: str | None) -> "Scene":
    from langsplat.hub import find_scene
    from langsplat.rasterize import drawing_device
    from langsplat.scene import load_scene

    device = drawing_device(device or "auto")
    return load_scene(find_scene(spec, progress=_bar())).to(device)


def _view_of(scene: "Scene", args: argparse.Namespace) -> "Camera":
    """The camera named or numbered by --view, at the width of --width."""
    views, wanted = scene.cameras, args.view
    if not views:
        raise ValueError(f"The scene {scene.name!r} has no views.")
    found = [camera for camera in views if camera.name == wanted]
    found = found or [camera for camera in views if Path(camera.name).name == wanted]
    if not found and wanted.isdecimal():
        found = list(views[int(wanted) :][:1])
    if len(found) != 1:
        what = "There are several views" if found else "There is no view"
        raise ValueError(
            f"{what} {wanted!r}: use a number from 0 to {len(views) - 1}, or a name such as "
            f"{(found or views)[0].name!r}."
        )
    camera = found[0]
    return camera.resized(args.width) if args.width is not None else camera


# ---------------------------------------------------------------------------- doctor

# The paper's encoder, and the repository of its weights. langsplat.official has the name, too, but
# importing it would load torch.
PAPER_ENCODER = ("open_clip:ViT-B-16/laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K")


def _doctor(args: argparse.Namespace) -> int:
    """Print what is here and what each stage will use, within two seconds and without raising."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        network = pool.submit(_said, _network)  # the only part that has to wait
        print(f"langsplat {langsplat.__version__}, Python {sys.version.split()[0]}")
        print(f"\n{'Devices':<20} {_said(_processor)}")
        print(f"{'':<20} {_said(_cuda)}")
        print(f"\n{'Bundled encoder':<20} {_said(_bundled_encoder)}")
        print(f"{'OpenCLIP weights':<20} {_said(_open_clip)}")
        print(f"{'SAM weights':<20} {_said(_sam)}")
        print(f"{'Network':<20} {network.result()}")
        print("\nWhat each stage will use")
        for stage, check in (
            ("Camera positions", lambda: _package("pycolmap", "on the CPU")),
            ("Training, rendering", _rasterizer),
            ("Segments", lambda: _package("scikit-image", "for the bundled segmenter; or SAM")),
            ("Descriptions", lambda: _package("open_clip_torch", _describing())),
            ("Queries", lambda: "the encoder that the scene was described with"),
        ):
            print(f"  {stage:<20} {_said(check)}")
    return 0


def _said(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # what is broken is what the user wants to read about
        return f"could not be checked ({type(error).__name__}: {error})"


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _package(package: str, how: str) -> str:
    version = _version(package)
    return f"{package} {version} {how}" if version else f"{package} is missing: pip install it"


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else cores or 1


def _processor() -> str:
    memory = ""
    if hasattr(os, "sysconf"):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f", {size / 2**30:.0f} GiB of memory"
    return f"CPU: {os.cpu_count()} cores, {_threads()} threads used{memory}"


def _gpus() -> list[str]:
    """Names of the CUDA devices, from the driver: importing torch would take seconds."""
    import ctypes

    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for index in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 100, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        names.append(f"{name.value.decode(errors='replace')}, {size.value / 2**30:.0f} GiB")
    return names


def _torch_cuda() -> str | None:
    """The CUDA version torch was built for; None for a build without CUDA."""
    import re
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def _cuda() -> str:
    version, built = _version("torch"), _torch_cuda()
    torch = f"torch {version or 'is missing'}, " + (f"for CUDA {built}" if built else "CPU only")
    return f"CUDA: {'; '.join(_gpus()) or 'no device or no driver'} ({torch})"


def _rasterizer() -> str:
    import shutil

    on_cpu = _package("numba", f"on {_threads()} CPU threads")
    gpus = _gpus()
    if not gpus:
        return on_cpu
    if _torch_cuda() is None:
        return f"{on_cpu}; for the GPU install a torch with CUDA"
    for package in ("gsplat", "triton"):
        if _version(package) is None:
            return f"{on_cpu}; for the GPU: pip install {package}"
    note = "" if shutil.which("nvcc") else "; its kernels need nvcc, which is not on the PATH"
    return f"gsplat {_version('gsplat')} on {gpus[0]}{note}"


def _size(*paths: Path) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB"


def _hub_cache(pattern: str) -> list[Path]:
    """Files in the Hub's cache, sorted by path."""
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*--*/snapshots/*/{pattern}"))


def _bundled_encoder() -> str:
    from langsplat.hub import bundled_scenes

    files = _bundled_files()
    scenes = ", ".join(bundled_scenes()) or "none"
    if not files:
        return f"missing from {BUNDLED_ENCODER}: use a whole checkout. Bundled scenes: {scenes}"
    return f"{_size(*files)}. Bundled scenes: {scenes}"


def _bundled_files() -> list[Path]:
    """The bundled encoder's weights, one file for pictures and one for texts; empty without it."""
    files = list(BUNDLED_ENCODER.glob("*.safetensors"))
    return files if len(files) > 1 else []


def _describing() -> str:
    return "with the bundled encoder" if _bundled_files() else "with an encoder named by --encoder"


def _open_clip() -> str:
    name, repo = PAPER_ENCODER
    found = {}
    for file in [*_hub_cache("open_clip_model.safetensors"), *_hub_cache("open_clip_pytorch*.bin")]:
        found[file.parents[2].name.removeprefix("models--").replace("--", "/")] = _size(file)
    here = ", ".join(f"{key} ({size})" for key, size in found.items()) or "none in the Hub's cache"
    paper = "ready" if repo in found else "fetched from the Hub when it is first asked for"
    return f"{here}; {name} is {paper}"


def _sam() -> str:
    if _version("segment_anything") is None:
        return "segment-anything is missing: pip install segment-anything"
    found = {file.name: file for file in _hub_cache("**/sam_vit_?_*.pth")}
    here = [f"{name[:9]} ({_size(file)}, Hub's cache)" for name, file in found.items()]
    for folder in (".", "ckpts", "checkpoints"):
        local = Path(folder).glob("sam_vit_?_*.pth")
        here += [f"{file.name[:9]}:{file} ({_size(file)})" for file in local]
    if here:
        return "build --segmenter " + ", or ".join(here)
    return "none here; build --segmenter sam_vit_b fetches its own from the Hub"


def _network() -> str:
    from huggingface_hub import constants

    from langsplat.hub import reachable

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: only what is here can be used"
    if reachable(constants.ENDPOINT):
        return f"{constants.ENDPOINT} can be reached"
    return f"{constants.ENDPOINT} cannot be reached: only what is here can be used"


if __name__ == "__main__":
    sys.exit(main())
