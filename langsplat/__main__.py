"""`python -m langsplat build | query | render`: the library on the command line."""

import argparse
import json
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import NoReturn

from langsplat.scene import LEVELS, Camera, Scene


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 1 after an error that was said in one sentence."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return args.run(args)
    except ValueError as error:
        if getattr(args, "progress", "") == "json":
            print(json.dumps({"error": str(error)}), flush=True)
        else:
            print(f"\nlangsplat: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlangsplat: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that every `finally` runs: children end, partial files go.
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m langsplat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="photos or a posed capture become a scene")
    build.add_argument("path", metavar="PHOTOS_OR_CAPTURE", help="folder or zip")
    build.add_argument("--out", required=True, type=Path, metavar="SCENE_DIR")
    build.add_argument("--name", help="of the scene")
    build.add_argument("--iterations", type=int, help="training steps")
    build.add_argument("--max-gaussians", type=int, help="ceiling on their number")
    build.add_argument("--max-side", type=int, help="pixels of the photos' long side")
    build.add_argument("--segmenter", help="bundled, sam_vit_h, sam_vit_l or sam_vit_b")
    build.add_argument("--encoder", help="bundled, or open_clip:<model>/<tag>")
    build.add_argument("--holdout-every", type=int, help="keep every n-th photo out, and measure")
    build.add_argument("--examples", nargs="*", help="example queries kept with the scene")
    build.add_argument("--seed", type=int)
    build.add_argument("--device", choices=("auto", "cpu", "cuda"))
    build.add_argument("--progress", choices=("bar", "json"), default="bar")
    build.set_defaults(run=_build)

    query = commands.add_parser("query", help="where in a scene is this?")
    query.add_argument("scene", metavar="SCENE", help="folder, bundled name, or user/name")
    query.add_argument("text")
    _add_view(query)
    query.add_argument("--out", required=True, type=Path, metavar="DIR")
    query.add_argument("--threshold", type=float, default=0.5, help="of the mask, 0 to 1")
    query.add_argument("--level", choices=LEVELS, help="default: the one that scores best")
    query.set_defaults(run=_query)

    render = commands.add_parser("render", help="a picture of a scene")
    render.add_argument("scene", metavar="SCENE", help="folder, bundled name, or user/name")
    _add_view(render)
    render.add_argument("--out", required=True, type=Path, metavar="IMAGE")
    render.set_defaults(run=_render)
    return parser


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--view", default="0", help="number or name of a training view")
    parser.add_argument("--width", type=int, help="of the picture in pixels")


def _build(args: argparse.Namespace) -> int:
    from langsplat.build import BuildConfig, build_scene
    from langsplat.progress import json_progress, terminal_progress

    # Only what was typed: the defaults live in BuildConfig alone.
    names = {field.name for field in fields(BuildConfig)}
    typed = {k: v for k, v in vars(args).items() if k in names and v is not None}
    if "examples" in typed:
        typed["examples"] = tuple(typed["examples"])
    progress = json_progress() if args.progress == "json" else terminal_progress()
    folder = build_scene(args.path, args.out, BuildConfig(**typed), progress=progress)
    if args.progress == "json":
        print(json.dumps({"scene": str(folder)}), flush=True)
    else:
        print(f"\n{folder}")
    return 0


def _query(args: argparse.Namespace) -> int:
    from langsplat.encoders import load_encoder
    from langsplat.query import SceneQuery, check_text, save_answer

    text = check_text(args.text)
    scene = _open(args.scene)
    camera = _view_of(scene, args)
    if scene.language is None:
        raise ValueError(f"The scene {scene.name!r} has no language field: build it again.")
    engine = SceneQuery(scene, load_encoder(scene.language.encoder))
    answer = engine.ask(text, camera, threshold=args.threshold, level=args.level)
    save_answer(answer, engine.render(camera), args.out)
    print(answer.sentence())
    return 0


def _render(args: argparse.Namespace) -> int:
    from PIL import Image

    from langsplat.query import render_rgb

    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{args.out} must end in .png, .jpg or .webp.")
    scene = _open(args.scene)
    picture = render_rgb(scene, _view_of(scene, args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(args.out)
    print(args.out)
    return 0


def _open(spec: str) -> Scene:
    from langsplat.hub import find_scene
    from langsplat.progress import terminal_progress
    from langsplat.scene import load_scene

    return load_scene(find_scene(spec, progress=terminal_progress()))


def _view_of(scene: Scene, args: argparse.Namespace) -> Camera:
    """The camera named or numbered by --view, at the width of --width."""
    if not scene.cameras:
        raise ValueError(f"The scene {scene.name!r} has no views.")
    by_name = {Path(camera.name).name: camera for camera in scene.cameras}
    by_name |= {camera.name: camera for camera in scene.cameras}
    if args.view in by_name:
        camera = by_name[args.view]
    elif args.view.isdecimal() and int(args.view) < len(scene.cameras):
        camera = scene.cameras[int(args.view)]
    else:
        raise ValueError(
            f"There is no view {args.view!r}: use a number from 0 to {len(scene.cameras) - 1}, "
            f"or a name such as {scene.cameras[0].name!r}."
        )
    return camera.resized(args.width) if args.width is not None else camera


if __name__ == "__main__":
    sys.exit(main())
