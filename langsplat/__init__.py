"""LangSplat made usable: find words in a 3D scene of Gaussians."""

from pathlib import Path

__version__ = "0.1.0"

SCENE_FILE = "scene.safetensors"
"""The file that makes a folder, or a Hub repository, a scene."""

PREVIEW_FILE = "preview.jpg"
"""A picture of the scene, which may lie beside that file."""

WORK_SUFFIX = ".build"
"""The folder of an unfinished build is named like its scene's folder, with this appended."""

WORK_MARK = "of.txt"
"""The file in that folder that identifies the photos it was made from."""

CAPTURE_FILE = "capture.npz"
"""The photos and their cameras in that folder; once it exists, a stopped build can resume."""

_CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
BUNDLED_SCENES, BUNDLED_ENCODER = _CHECKPOINTS / "scenes", _CHECKPOINTS / "encoder"
"""What ships with a checkout and needs no network."""
