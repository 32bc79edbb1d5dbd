"""Files as the official LangSplat code writes them, made without it.

The scene is a red ball of Gaussians on the left and a blue one on the right, seen by eight cameras
on an arc in front of them; their latents are +x and +y.
"""

import json
import math
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

SIZE = (64, 48)  # width and height of the pictures
FOCAL = 60.0
VIEWS = 8
LATENTS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def balls(n: int = 200, seed: int = 0) -> dict[str, torch.Tensor]:
    """n Gaussians as training stores them: logs, logits, and quaternions of any length."""
    generator = torch.Generator().manual_seed(seed)
    side = (torch.arange(n) % 2).float()
    means = 0.3 * torch.randn(n, 3, generator=generator).clamp(-1.5, 1.5)
    means[:, 0] += 2 * side - 1
    dc = torch.full((n, 1, 3), -1.5)
    dc[:, 0, 0], dc[:, 0, 2] = 1.5 - 3 * side, 3 * side - 1.5
    return {
        "xyz": means,
        "dc": dc,
        "rest": 0.05 * torch.randn(n, 15, 3, generator=generator),
        "scaling": torch.full((n, 3), math.log(0.15)),
        "rotation": 2.0
        * torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1),
        "opacity": torch.full((n, 1), 3.0),
        "side": side.long(),
    }


def elements(
    stage: str,
    n: int = 200,
    *,
    latents: torch.Tensor | None = None,
    scalar: type = np.float64,
    codebook: torch.Tensor | None = None,
) -> tuple:
    """The tuple of a stage's checkpoint: 12, 13 or 14 elements."""
    parts = balls(n)
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(n, 3)}},
        "param_groups": [{"lr": scalar(0.00016), "name": "xyz", "params": [0]}],
    }
    geometry = [
        torch.nn.Parameter(parts[name])
        for name in ("xyz", "dc", "rest", "scaling", "rotation", "opacity")
    ]
    middle: list[torch.Tensor] = []
    if stage == "language":
        latents = LATENTS if latents is None else latents
        middle = [torch.nn.Parameter(latents[parts["side"]] * 0.4)]
    if stage == "LangSplatV2":
        assert codebook is not None
        logits = torch.zeros(n, codebook.shape[0] * codebook.shape[1])
        logits[torch.arange(n), parts["side"]] = 20.0
        middle = [torch.nn.Parameter(logits), torch.nn.Parameter(codebook)]
    counters = [torch.zeros(n), torch.zeros(n, 1), torch.zeros(n, 1)]
    return (3, *geometry, *middle, *counters, optimizer, scalar(4.2))


def write_checkpoint(path: Path, stage: str, n: int = 200, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save((elements(stage, n, **options), 30000), path)  # type: ignore[arg-type]
    return path


def as_numpy_1(path: Path) -> None:
    """Give numpy's scalars in a checkpoint the names that they had before numpy 2."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            if info.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            archive.writestr(info.filename, data)


def write_ply(path: Path, n: int = 200) -> Path:
    """point_cloud.ply with all 62 properties."""
    parts = balls(n)
    rest = [f"f_rest_{i}" for i in range(45)]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    rows = torch.cat(
        [
            parts["xyz"],
            torch.zeros(n, 3),
            parts["dc"].flatten(1),
            parts["rest"].transpose(1, 2).flatten(1),
            parts["opacity"],
            parts["scaling"],
            parts["rotation"],
        ],
        dim=1,
    )
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
    lines += [f"property float {name}" for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + rows.numpy().tobytes())
    return path


def pose(index: int) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotation and position of a camera that looks at the origin."""
    angle = math.radians(-60 + 120 * index / (VIEWS - 1))
    position = np.array([5 * math.sin(angle), -0.5, -5 * math.cos(angle)])
    forward = -position / np.linalg.norm(position)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]), position


def names() -> list[str]:
    return [f"frame_{index + 1:05d}.jpg" for index in range(VIEWS)]


def write_colmap(folder: Path, *, cx: float = SIZE[0] / 2) -> None:
    """sparse/0 with cameras.bin, images.bin and points3D.bin: PINHOLE, no photos."""
    from scipy.spatial.transform import Rotation

    folder.mkdir(parents=True, exist_ok=True)
    camera = struct.pack("<QiiQQ4d", 1, 1, 1, *SIZE, FOCAL, FOCAL, cx, SIZE[1] / 2)
    (folder / "cameras.bin").write_bytes(camera)
    images = [struct.pack("<Q", VIEWS)]
    for index, name in enumerate(names()):
        rotation, position = pose(index)
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        t = -rotation @ position
        images.append(struct.pack("<i7di", index + 1, w, x, y, z, *t, 1))
        images.append(name.encode() + b"\0" + struct.pack("<Q", 0))
    (folder / "images.bin").write_bytes(b"".join(images))
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def write_cameras_json(path: Path) -> None:
    entries = []
    for index, name in enumerate(names()):
        rotation, position = pose(index)
        entries.append(
            {
                "id": index,
                "img_name": name.split(".")[0],
                "width": SIZE[0],
                "height": SIZE[1],
                "position": position.tolist(),
                "rotation": rotation.T.tolist(),
                "fy": FOCAL,
                "fx": FOCAL,
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


def write_cfg_args(path: Path, **settings: object) -> None:
    values = {"sh_degree": 3, "source_path": "/data/teatime", "resolution": -1, **settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Namespace({', '.join(f'{key}={value!r}' for key, value in values.items())})")


def write_features(
    folder: Path, embeddings: torch.Tensor, *, size: tuple[int, int] = SIZE, pooled: int = 3
) -> None:
    """_s.npy and _f.npy of every view: row 0 in the left half and row 1 in the right, per level.

    Args:
        embeddings: [2, E]. pooled: rows of the first channel, which precede all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    for name in names():
        maps = np.full((4, height, width), -1, np.float32)
        maps[0] = 0
        for level in range(1, 4):
            offset = pooled + 2 * (level - 1)
            maps[level, 2:, : width // 2] = offset
            maps[level, 2:, width // 2 :] = offset + 1
        stem = name.split(".")[0]
        first = embeddings[:1].expand(pooled, -1)
        np.save(folder / f"{stem}_s.npy", maps)
        np.save(folder / f"{stem}_f.npy", torch.cat([first, *[embeddings] * 3]).numpy())


def autoencoder_state(latent: int = 3, embedding: int = 512, seed: int = 0) -> dict:
    """best_ckpt.pth of autoencoder/train.py, with random weights."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    down = [embedding, 256, 128, 64, 32, latent]
    for layer in range(5):
        linear(f"encoder.{3 * layer}", down[layer], down[layer + 1])
        if layer < 4:
            size = down[layer + 1]
            norm = f"encoder.{3 * layer + 1}"
            state[f"{norm}.weight"] = torch.ones(size)
            state[f"{norm}.bias"] = torch.zeros(size)
            state[f"{norm}.running_mean"] = 0.1 * torch.randn(size, generator=generator)
            state[f"{norm}.running_var"] = 0.5 + torch.rand(size, generator=generator)
            state[f"{norm}.num_batches_tracked"] = torch.tensor(9)
    up = [latent, 16, 32, 64, 128, 256, 256, embedding]
    for layer in range(7):
        linear(f"decoder.{2 * layer}", up[layer], up[layer + 1])
    return state
