"""LangSplat made usable: words to places in a 3D scene of Gaussians."""

from pathlib import Path

__version__ = "0.1.0"

SCENE_FILE = "scene.safetensors"
"""What makes a folder, or a Hub repository, a scene."""

PREVIEW_FILE = "preview.jpg"
"""A picture of the scene beside it, which a folder or repository may have."""

WORK_SUFFIX = ".build"
"""Ends the name of the folder, beside a scene's, that holds a build's unfinished work."""

WORK_MARK = "of.txt"
"""In that folder: says of which photos it is."""

CAPTURE_FILE = "capture.npz"
"""The photos and their cameras in that folder: from there on a stopped build goes on."""

_CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
BUNDLED_SCENES, BUNDLED_ENCODER = _CHECKPOINTS / "scenes", _CHECKPOINTS / "encoder"
"""What a checkout brings along, which needs no network."""
