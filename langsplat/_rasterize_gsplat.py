"""The CUDA backend: gsplat's kernels, called one after the other.

A `Frame` holds what a view sees; it is made once and can be drawn with any number of colors.

Letters: N Gaussians, C cameras, D channels.
"""

import math
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

TILE = 16  # pixels along a side
AT_ONCE = 32  # channels: gsplat's kernel holds them in registers, and runs out of them with more


def problem() -> str | None:
    """Why this backend cannot run here, or None."""
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    for package in ("gsplat", "triton"):
        try:
            import_module(package)
        except ImportError as error:
            return f"{package} cannot be imported ({error}): pip install {package}"
    return None


def compiled() -> bool:
    """Whether gsplat's kernels exist: they came with it, or were compiled here before."""
    if find_spec("gsplat.csrc") is not None:
        return True
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    found = (root.glob(f"{folder}gsplat_cuda/gsplat_cuda.*") for folder in ("", "*/"))
    return any(file.suffix in (".so", ".pyd") for files in found for file in files)


@dataclass(frozen=True, eq=False)
class Frame:
    """What C cameras see: splats, and for every tile its splats from front to back."""

    width: int
    height: int
    tile: int  # pixels along a side
    means2d: Tensor  # [C, N, 2] pixels; arbitrary where a camera does not see the Gaussian
    conics: Tensor  # [C, N, 3]
    opacities: Tensor  # [C, N]
    offsets: Tensor  # [C, rows, columns] of tiles: where the members of each begin
    members: Tensor  # numbers of splats, tile after tile

    @property
    def nbytes(self) -> int:
        own = self.means2d, self.conics, self.offsets, self.members
        return sum(tensor.nbytes for tensor in own)

    def draw(self, colors: Tensor) -> tuple[Tensor, Tensor]:
        """Image [C, H, W, D] and alpha [C, H, W, 1] of colors [C, N, D], without background."""
        from gsplat import rasterize_to_pixels

        if self.means2d.shape[1] == 0:
            blank = colors.new_zeros(len(colors), self.height, self.width, colors.shape[2])
            return blank, blank[..., :1]
        parts = [
            rasterize_to_pixels(
                self.means2d,
                self.conics,
                part,
                self.opacities,
                self.width,
                self.height,
                self.tile,
                self.offsets,
                self.members,
            )
            for part in colors.split(AT_ONCE, dim=-1)
        ]
        images = [image for image, _ in parts]
        return images[0] if len(images) == 1 else torch.cat(images, dim=-1), parts[0][1]


def see(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
    tile: int = TILE,
) -> Frame:
    """Project the Gaussians and list the splats of each tile, sorted by depth; differentiable.

    The last three rules (alpha's cut and clamp, the stop) are compiled into gsplat, equal to ours.
    """
    from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles

    eps2d, near, far = rules[:3]
    columns, rows = math.ceil(width / tile), math.ceil(height / tile)
    if len(means) == 0:  # gsplat would divide by zero, which ends the process
        none, offsets = opacities.expand(len(viewmats), 0), Ks.new_zeros(len(Ks), rows, columns)
        splats = means.expand(len(viewmats), 0, 3)
        members = torch.zeros(0, dtype=torch.int32, device=means.device)
        return Frame(width, height, tile, splats[..., :2], splats, none, offsets.int(), members)
    radii, means2d, depths, conics, _ = fully_fused_projection(
        means.float(),
        None,
        quats.float(),
        scales.float(),
        viewmats.float(),
        Ks.float(),
        width,
        height,
        eps2d=eps2d,
        near_plane=near,
        far_plane=far,
        opacities=opacities.float(),  # faint ones reach less far
    )
    _, keys, members = isect_tiles(means2d, radii, depths, tile, columns, rows)
    offsets = isect_offset_encode(keys, len(viewmats), columns, rows)
    opacities = opacities.float().expand(len(viewmats), -1)
    return Frame(width, height, tile, means2d, conics, opacities, offsets, members)


def rasterize(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D] or [C, N, D]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """Image [C, H, W, D] and alpha [C, H, W, 1], without background; see langsplat.rasterize."""
    frame = see(means, quats, scales, opacities, viewmats, Ks, width, height, rules)
    each = colors.float().expand(len(viewmats), *colors.shape[-2:])
    image, alpha = frame.draw(each)
    return image.to(colors), alpha.to(colors)


def sh_to_rgb(sh: Tensor, dirs: Tensor, degree: int) -> Tensor:
    """[N, 3]; see langsplat.rasterize."""
    from gsplat import spherical_harmonics

    return 0.5 + spherical_harmonics(degree, dirs.float(), sh.float()).to(sh)
