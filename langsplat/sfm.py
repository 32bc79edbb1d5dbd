"""Camera positions from bare photos: COLMAP's incremental mapper, in a child process.

In: a folder of prepared JPEGs and a job. Out: a COLMAP model folder. pycolmap is imported in the
child only: loaded before zlib it makes the whole process abort, some of its errors abort, too, and
a child can be stopped at any moment. The parent reads one pipe of JSON lines (ours) and log lines
(COLMAP's).

    result = place_cameras(workdir, [PhotoGroup(["0000.jpg", ...], 1600, 1200, None)])

The child, `python -m langsplat.sfm WORKDIR`, ends when its stdin closes, which happens however the
parent dies.
"""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langsplat.progress import Progress, silent

FEATURES, MATCHING, PLACING = "Find features", "Match photos", "Place cameras"
JOB_FILE, PHOTOS, MODEL = "job.json", "photos", "model"
# Up to this many photos, all pairs are matched; beyond, neighbours in order, plus all pairs among a
# sparse subset.
EXHAUSTIVE_LIMIT = 60
NEIGHBOURS = 10
LOOP_SUBSET = 40
MAX_FEATURES = 2048  # matching a pair takes about 25 ms; twice as many take four times as long
_SEED = 0  # the same photos give the same cameras
PAIRS_PER_BLOCK = 64  # how often the matcher reports; blocks of 8 x 8 photos
_FULL_DISK = ("database or disk is full", os.strerror(errno.ENOSPC))  # SQLite's words, and others'


@dataclass(frozen=True)
class PhotoGroup:
    """Photos that share one camera.

    Args:
        names: files in WORKDIR/photos.
        width, height: of each, in pixels.
        focal: in pixels, from EXIF; None if unknown.
    """

    names: Sequence[str]
    width: int
    height: int
    focal: float | None


@dataclass(frozen=True)
class Placement:
    """How many photos could be placed, and how far the result can be trusted.

    Args:
        model: folder of the COLMAP model (binary), None if no two photos could be placed.
        placed: number of photos in it.
        other: number of photos in the next largest separate model, 0 if there is none.
        poor: number of photos in which hardly any details were found.
        turning: whether no pair of photos shows that the camera moved sideways.
        angle: median over points of the largest angle between two views of the point, degrees.
        focal_ratio: the focal length over the long side, of the camera where it is farthest from 1.
    """

    model: Path | None
    placed: int
    other: int
    poor: int
    turning: bool
    angle: float
    focal_ratio: float


def pairs_to_match(count: int) -> list[tuple[int, int]]:
    """The pairs of `count` photos, in their order, to match: all, or a chain with loops."""
    if count <= EXHAUSTIVE_LIMIT:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs = {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + NEIGHBOURS, count))}
    subset = sorted({round(k * (count - 1) / (LOOP_SUBSET - 1)) for k in range(LOOP_SUBSET)})
    pairs |= {(i, j) for at, i in enumerate(subset) for j in subset[at + 1 :]}
    return sorted(pairs)


def place_cameras(
    workdir: Path,
    groups: Sequence[PhotoGroup],
    *,
    progress: Progress = silent,
) -> Placement:
    """Run SfM over WORKDIR/photos in a child process, which never outlives this call.

    Args:
        workdir: holds `photos`; the database and the model are written beside them.
        groups: every photo once, in shooting order; at least two photos in all.
        progress: stages "Find features", "Match photos", "Place cameras".
    Raises:
        ValueError: the child crashed; the message has the last line it wrote.
        OSError: the disk that holds `workdir` is full.
    """
    job = {"groups": [asdict(group) for group in groups]}
    (workdir / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
    package = Path(__file__).resolve().parent.parent
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, "-m", "langsplat.sfm", str(workdir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    ) as child:
        try:
            result, words = _listen(child, sum(len(group.names) for group in groups), progress)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
    if result is None or code != 0:
        if any(sign in line for line in words for sign in _FULL_DISK):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(workdir))
        last = next((line for line in reversed(words) if line.strip()), "nothing").strip()
        raise ValueError(
            f"Working out the camera positions stopped unexpectedly (exit code {code}). "
            f"Try again with fewer or smaller photos. Its last words: {last[:300]}"
        )
    model = result.pop("model")
    return Placement(model=None if model is None else Path(model), **result)


def _listen(
    child: "subprocess.Popen[str]", photos: int, progress: Progress
) -> tuple[dict[str, Any] | None, deque[str]]:
    """Turn the child's lines into progress until it closes its pipe; its result and last lines."""
    words: deque[str] = deque(maxlen=20)
    result = None
    earlier = 0  # photos of the groups before the one at work
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith('{"'):
            event = json.loads(line)
            if "result" in event:
                result = event["result"]
            elif "earlier" in event:
                earlier = event["earlier"]
            else:
                progress(event["stage"], event["done"], event["total"], event["note"])
        elif found := re.search(r"Processed file \[(\d+)/\d+\]", line):
            progress(FEATURES, min(earlier + int(found[1]), photos), photos, "")
        elif found := re.search(r"Processing block \[(\d+)/(\d+)\]", line):
            progress(MATCHING, int(found[1]) - 1, int(found[2]), "")
        elif not re.match(r"\*\*\* |(PC: |\s+)@ ", line):  # the stack after COLMAP has aborted
            words.append(line)
    return result, words


def _work(workdir: Path) -> None:
    """The child's work: features, matches, model, and a verdict on the model."""
    import pycolmap

    from langsplat.progress import json_progress

    pycolmap.logging.logtostderr = True  # not to files too, which would stay in the system's /tmp
    show = json_progress()
    job = json.loads((workdir / JOB_FILE).read_text(encoding="utf-8"))
    photos, database = workdir / PHOTOS, workdir / "database.db"
    names = [name for group in job["groups"] for name in group["names"]]
    pycolmap.set_random_seed(_SEED)

    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = MAX_FEATURES
    show(FEATURES, 0, len(names), "")
    done = 0
    for group in job["groups"]:
        print(json.dumps({"earlier": done}), flush=True)
        reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
        if group["focal"] is not None:
            middle = (group["width"] / 2, group["height"] / 2)
            reader.camera_params = f"{group['focal']},{middle[0]},{middle[1]},0"
        pycolmap.extract_features(
            database,
            photos,
            image_names=group["names"],
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        done += len(group["names"])

    order = sorted(names)
    pairs = workdir / "pairs.txt"
    lines = (f"{order[i]} {order[j]}\n" for i, j in pairs_to_match(len(order)))
    pairs.write_text("".join(lines), encoding="utf-8")
    pycolmap.match_image_pairs(
        database,
        pairing_options=pycolmap.ImportedPairingOptions(
            block_size=PAIRS_PER_BLOCK, match_list_path=pairs
        ),
        device=pycolmap.Device.cpu,
    )

    show(PLACING, 0, len(names), "")
    placed = 2

    def one_more() -> None:
        nonlocal placed
        placed += 1
        show(PLACING, min(placed, len(names)), len(names), "")

    def start_over() -> None:
        nonlocal placed
        placed = 2

    options = pycolmap.IncrementalPipelineOptions(random_seed=_SEED)
    options.min_model_size = 3
    options.extract_colors = True
    output = workdir / "models"
    output.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(
        database,
        photos,
        output,
        options=options,
        initial_image_pair_callback=start_over,
        next_image_callback=one_more,
    )
    print(json.dumps({"result": _verdict(workdir, list(models.values()))}), flush=True)


def _verdict(workdir: Path, models: list[Any]) -> dict[str, Any]:
    """Save the largest model, and measure what distinguishes a false one from a good one."""
    import numpy as np
    import pycolmap

    with pycolmap.Database.open(workdir / "database.db") as database:
        _, geometries = database.read_two_view_geometries()
        counts = [database.num_keypoints_for_image(i.image_id) for i in database.read_all_images()]
    kinds = pycolmap.TwoViewGeometryConfiguration
    turned = {kinds.PLANAR_OR_PANORAMIC, kinds.PANORAMIC}  # a sideways move does not show
    verified = [g.config for g in geometries if len(g.inlier_matches) >= 15]
    verdict: dict[str, Any] = {
        "model": None,
        "placed": 0,
        "other": 0,
        "poor": sum(count < 100 for count in counts),
        "turning": bool(verified) and all(config in turned for config in verified),
        "angle": 0.0,
        "focal_ratio": 1.0,
    }
    models.sort(key=lambda model: model.num_reg_images(), reverse=True)
    if not models:
        return verdict
    best = models[0]
    folder = workdir / MODEL
    folder.mkdir(exist_ok=True)
    best.write_binary(folder)
    centres = {i: best.images[i].projection_center() for i in best.reg_image_ids()}
    angles = []
    for point in best.points3D.values():
        rays = np.stack([centres[e.image_id] for e in point.track.elements]) - point.xyz
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angles.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1, 1))))
    ratios = [c.mean_focal_length() / max(c.width, c.height) for c in best.cameras.values()]
    return verdict | {
        "model": str(folder),
        "placed": best.num_reg_images(),
        "other": models[1].num_reg_images() if len(models) > 1 else 0,
        "angle": float(np.median(angles)) if angles else 0.0,
        "focal_ratio": float(max(ratios, key=lambda ratio: abs(np.log(ratio)))),
    }


def _end_with_parent() -> None:
    """Exit as soon as stdin closes, so that a killed parent leaves no child behind."""

    def wait() -> None:
        # Not sys.stdin: its lock, held here, would make the interpreter abort when it exits.
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _load_libraries() -> None:
    """Import all that is compiled, which must be done before a thread waits for stdin.

    On Windows a library may look at stdin while it is loaded, and the pending read would keep it
    waiting for ever (github.com/numpy/numpy/issues/24290).
    """
    import zlib  # noqa: F401, I001 - before pycolmap, or zlib's first use aborts
    import numpy  # noqa: F401
    import pycolmap  # noqa: F401


if __name__ == "__main__":
    _load_libraries()
    _end_with_parent()
    _work(Path(sys.argv[1]))
