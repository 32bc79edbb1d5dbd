"""The definition of the rasterizer: every pixel against every Gaussian, in float64 torch.

Equations of 3D Gaussian Splatting (Kerbl et al. 2023) and EWA splatting (Zwicker et al. 2001),
without tiles, culling only by depth; autograd gives the gradients. Slow and plain on purpose.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.rasterize import RULES


def rotation_of(quats: Tensor) -> Tensor:
    """Quaternions [N, 4] wxyz of any length -> rotation matrices [N, 3, 3]."""
    w, x, y, z = F.normalize(quats, dim=1).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)


def project(
    means: Tensor, quats: Tensor, scales: Tensor, view: Tensor, K: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [N, 2] and covariances [N, 2, 2], in pixels, and depths [N]."""
    camera = means @ view[:3, :3].T + view[:3, 3]
    x, y, z = camera.unbind(1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    centres = torch.stack([fx * x / z + cx, fy * y / z + cy], 1)
    margin_x, margin_y = 0.3 * 0.5 * width / fx, 0.3 * 0.5 * height / fy
    tx = z * (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    ty = z * (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z**2], 1),
            torch.stack([zero, fy / z, -fy * ty / z**2], 1),
        ],
        1,
    )
    spread = jacobian @ view[:3, :3] @ rotation_of(quats) * scales[:, None]
    blur = RULES.eps2d * torch.eye(2, dtype=means.dtype)
    return centres, spread @ spread.transpose(1, 2) + blur, z


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,  # [N, D] or [C, N, D]
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `langsplat.rasterize` must return, in float64."""
    means, quats, scales, opacities, colors = (
        t.double() for t in (means, quats, scales, opacities, colors)
    )
    images, alphas = [], []
    for index, (view, K) in enumerate(zip(viewmats.double(), Ks.double(), strict=True)):
        values = colors[index] if colors.ndim == 3 else colors
        depth = (means @ view[:3, :3].T + view[:3, 3])[:, 2].detach()
        order = depth.argsort(stable=True)
        order = order[(depth[order] >= RULES.near) & (depth[order] <= RULES.far)]
        centres, covariances, _ = project(
            means[order], quats[order], scales[order], view, K, width, height
        )
        inverses = torch.linalg.inv(covariances)
        ys, xs = torch.meshgrid(
            torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij"
        )
        pixels = torch.stack([xs, ys], -1).reshape(-1, 2)
        image = torch.zeros(len(pixels), values.shape[1], dtype=torch.float64)
        light = torch.ones(len(pixels), dtype=torch.float64)
        done = torch.zeros(len(pixels), dtype=torch.bool)
        for centre, inverse, opacity, value in zip(
            centres, inverses, opacities[order], values[order], strict=True
        ):
            d = pixels - centre
            sigma = 0.5 * torch.einsum("pi,ij,pj->p", d, inverse, d)
            alpha = (opacity * torch.exp(-sigma)).clamp_max(RULES.alpha_max)
            touched = (alpha >= RULES.alpha_min) & ~done
            left = light * (1 - alpha)
            done = done | (touched & (left <= RULES.stop))
            drawn = touched & ~done
            image = image + torch.where(drawn, light * alpha, 0)[:, None] * value
            light = torch.where(drawn, left, light)
        image = image.reshape(height, width, -1)
        light = light.reshape(height, width, 1)
        if background is not None:
            image = image + light * (background if background.ndim == 1 else background[index])
        images.append(image)
        alphas.append(1 - light)
    return torch.stack(images), torch.stack(alphas)
