"""Gaussians in, pictures out: one differentiable rasterizer with two backends.

CUDA tensors go to gsplat, CPU tensors to numba. Checks, background and spherical harmonics are
shared by both. Rendering is linear in colors (image = W colors), so depth, features and weights are
the same call with other colors, and `lift` is its transpose.

Letters: N Gaussians, C cameras, H W pixels, K spherical-harmonics bases, D channels.

    image, alpha = render(scene.gaussians, scene.cameras[0])          # [H, W, 3], [H, W, 1]
    features, _ = render(gaussians, camera, values)                   # values [N, D] -> [H, W, D]
    per_gaussian = lift(gaussians, camera, features)                  # [H, W, D] -> [N, D]
"""

import math
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from langsplat import _rasterize_gsplat
from langsplat.codec import Codebook
from langsplat.scene import (
    MAX_IMAGE_PIXELS,
    NEAR,
    Camera,
    Gaussians,
    LanguageField,
    as_tensor,
    check_shape,
)

if TYPE_CHECKING:
    from langsplat._codes_numba import BlendingWeights, Codes


class Rules(NamedTuple):
    """The constants that decide pixels, equal to gsplat 1.5.3's."""

    eps2d: float = 0.3  # added to the 2D covariance's diagonal, in square pixels
    near: float = NEAR  # nearer than this is not drawn, in world units along the optical axis
    far: float = 1e10
    alpha_min: float = 1 / 255  # a fainter contribution is skipped
    alpha_max: float = 0.999  # a contribution's alpha is clamped to this
    stop: float = 1e-4  # a pixel is done before its transmittance would fall to this


RULES = Rules()
BACKENDS = ("numba", "gsplat")
# Up to this many channels the CPU draws three at a time if more than colors needs a gradient, since
# that backward kernel keeps three in registers: nine take a quarter of the time that way.
FEW_CHANNELS = 24
# Pixels x channels of a one-hot picture on the GPU: 128 MB of float32.
MAX_ONE_HOT = 1 << 25

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic: RGB = 0.5 + SH_C0 * sh[:, 0]."""


def available_backends() -> dict[str, str]:
    """The name of every backend -> "ok", or the reason why it cannot be used here."""
    return {"numba": "ok", "gsplat": _rasterize_gsplat.problem() or "ok"}


def quickest_device() -> str:
    """The device to draw a scene on now: "cuda" if gsplat is ready, else "cpu".

    gsplat is ready once its kernels are compiled, which happens at their first use and takes some
    minutes.
    """
    ready = _rasterize_gsplat.problem() is None and _rasterize_gsplat.compiled()
    return "cuda" if ready else "cpu"


def drawing_device(wanted: str) -> str:
    """The device for a program's --device: cpu, cuda, or auto for `quickest_device`.

    Raises:
        ValueError: `wanted` is none of these, or it is cuda, which cannot be used here.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"The device must be auto, cpu or cuda, got {wanted!r}.")
    if wanted == "auto":
        return quickest_device()
    if wanted == "cuda" and (why := _rasterize_gsplat.problem()):
        raise ValueError(f"The GPU cannot be used, {why}. Use --device cpu.")
    return wanted


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
    *,
    background: ArrayLike | None = None,  # [D] or [C, D]
    near: float = NEAR,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw Gaussians from C cameras (3D Gaussian Splatting, Kerbl et al. 2023, section 4).

    Differentiable in means, quats, scales, opacities, colors and background. Gaussians with numbers
    that are not finite are left out and get no gradient. On a GPU it is differentiable in viewmats,
    too. Cameras that ask for another gradient are refused.

    Args:
        means: [N, 3] world units.
        quats: [N, 4] wxyz, any non-zero length.
        scales: [N, 3] > 0, world units.
        opacities: [N] in [0, 1].
        colors: [N, D], or [C, N, D] if they differ between cameras; any values, any D >= 1.
        viewmats: [C, 4, 4] world to camera, OpenCV axes.
        Ks: [C, 3, 3] in pixels; pixel centres at +0.5.
        width, height: of the pictures, in pixels.
        background: [D] or [C, D], what shows where alpha < 1, a tensor, an array or a tuple; None
            is 0.
        near: Gaussians nearer than this along the optical axis are not drawn; world units.
        backend: "auto" (gsplat for CUDA tensors, numba for CPU tensors), "numba" or "gsplat".
    Returns:
        image [C, H, W, D] and alpha [C, H, W, 1] in [0, 1].
    Raises:
        ValueError: shapes or types do not fit each other, the picture is empty or too large, the
            backend cannot be used, or a camera asks for a gradient that it does not get.
    """
    n, cameras, channels = means.shape[0] if means.ndim else 0, len(viewmats), colors.shape[-1:]
    if viewmats.ndim == Ks.ndim == 2:
        raise ValueError("viewmats and Ks are [C, ..]: give viewmats[None] and Ks[None] for one.")
    if cameras == 0:
        raise ValueError("There is no camera to draw from: give at least one viewmat and K.")
    _check("means", means, (n, 3))
    _check("quats", quats, (n, 4))
    _check("scales", scales, (n, 3))
    _check("opacities", opacities, (n,))
    _check("viewmats", viewmats, (cameras, 4, 4))
    _check("Ks", Ks, (cameras, 3, 3))
    if colors.ndim not in (2, 3):
        raise ValueError(f"colors must be [N, D] or [C, N, D], got {list(colors.shape)}.")
    per_camera = (cameras,) if colors.ndim == 3 else ()
    _check("colors", colors, (*per_camera, n, *channels))
    floats = means, quats, scales, opacities, colors
    _check_floats("means, quats, scales, opacities and colors", *floats)
    if colors.shape[-1] == 0:
        raise ValueError("colors must have at least one channel.")
    if width < 1 or height < 1 or width * height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"A picture must have between 1 and {MAX_IMAGE_PIXELS:,} pixels, "
            f"got {width} x {height}: choose another size."
        )
    behind = None
    if background is not None:
        behind = as_tensor(background).to(colors)
        if behind.ndim == 1:
            behind = behind.expand(cameras, *behind.shape)
        _check("background", behind, (cameras, *channels))
    draw = _backend(backend, means.device)
    # gsplat gives viewmats their gradient and Ks none; the CPU would give what colors alone do, a
    # small and wrong part of it.
    asking = Ks.requires_grad or (viewmats.requires_grad and not means.is_cuda)
    if asking and torch.is_grad_enabled():
        raise ValueError(
            "On the CPU a camera gets no gradient: give viewmats and Ks without requires_grad, as "
            "Camera.detached() has them, or optimise viewmats on a GPU; Ks get none there, either."
        )
    gaussians = _finite(means, quats, scales, opacities, colors)
    if len(gaussians[0]) == 0:
        # Empty sums: zeros that are still part of the graph.
        nothing = sum(t.sum() for t in (means[:0], quats[:0], scales[:0], opacities[:0]))
        image = colors[..., :0, :].sum(-2).expand(cameras, -1)[:, None, None] + nothing
        image = image.expand(-1, height, width, -1)
        alpha = image[..., :1]
    else:
        *geometry, colors = gaussians
        moves = torch.is_grad_enabled() and any(t.requires_grad for t in geometry)
        few = moves and not means.is_cuda and 3 < colors.shape[-1] <= FEW_CHANNELS
        drawn = [
            draw(*geometry, part, viewmats, Ks, width, height, RULES._replace(near=near))
            for part in (colors.split(3, dim=-1) if few else [colors])
        ]
        image, alpha = drawn[0]
        if few:
            image = torch.cat([part for part, _ in drawn], dim=-1)
    if behind is not None:
        image = image + (1 - alpha) * behind[:, None, None]
    return image, alpha


def render(
    gaussians: Gaussians,
    camera: Camera,
    values: Tensor | None = None,
    *,
    background: ArrayLike | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw a scene from one camera; differentiable as `rasterize` is.

    Args:
        gaussians: on the device to draw on.
        camera: the view and its size.
        values: [N, D] to draw; None: RGB from the spherical harmonics, clamped at >= 0.
        background: [D], a tensor, an array or a tuple; None is 0.
    Returns:
        image [H, W, D] and alpha [H, W, 1].
    """
    camera = camera.to(gaussians.device)
    if values is None:
        values = sh_to_rgb(gaussians.sh, gaussians.means - camera.position).clamp_min(0)
    image, alpha = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        values,
        camera.viewmat[None],
        camera.K[None],
        camera.width,
        camera.height,
        background=background,
        near=gaussians.near,
        backend=backend,
    )
    return image[0], alpha[0]


def look(gaussians: Gaussians, camera: Camera, tile: int) -> _rasterize_gsplat.Frame:
    """What a view sees, as a frame that can be drawn with one set of values after another.

    On a GPU only, without gradient.

    Args:
        gaussians: as `drawable` gives them.
        tile: pixels along a side of gsplat's tiles. Small tiles are faster to draw if splats are
            small, but take longer to list if they are large.
    """
    _backend("gsplat", gaussians.device)
    with torch.no_grad():
        g, camera = gaussians, camera.to(gaussians.device)
        geometry = g.means, g.quats, g.scales, g.opacities
        view = camera.viewmat[None], camera.K[None], camera.width, camera.height
        return _rasterize_gsplat.see(*geometry, *view, RULES._replace(near=g.near), tile)


def drawable(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians without gradient, with opacity 0 for those that are not finite."""
    g = gaussians
    return replace(g, opacities=_opacities(g.means, g.quats, g.scales, g.opacities).detach())


def rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [N, 3] turned by unit quaternions wxyz [N, 4]."""
    w, axis = quats[:, :1], quats[:, 1:]
    twice = 2 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)


def render_surface(gaussians: Gaussians, camera: Camera) -> Tensor:
    """The surface behind each pixel: its normal, and its inverse depth.

    A flat Gaussian lies in the surface that it represents, so its shortest axis is the normal.
    Inverse depths are blended because in a mean of depths a few far Gaussians would outweigh all
    others.

    Returns:
        [H, W, 4]: the normal in camera axes, toward the camera, of length up to 1 (shorter where
        the Gaussians disagree); and 1 / depth, depth along the optical axis in world units. All 0
        where there is nothing. No gradient.
    """
    with torch.no_grad():
        camera = camera.to(gaussians.device)
        viewmat = camera.viewmat.to(gaussians.means)
        rotation, shift = viewmat[:3, :3], viewmat[:3, 3]
        places = gaussians.means @ rotation.T + shift
        quats = F.normalize(gaussians.quats, dim=1)
        shortest = F.one_hot(gaussians.scales.argmin(dim=1), 3).to(quats)
        normals = rotate(quats, shortest) @ rotation.T
        away = (normals * places).sum(dim=1, keepdim=True) > 0
        normals = torch.where(away, -normals, normals)
        nearness = 1 / places[:, 2:].clamp_min(gaussians.near)
        values = torch.cat([normals, nearness], dim=1)
        image, alpha = render(gaussians, camera, values)
        return image / alpha.clamp_min(1e-6)


def lift(
    gaussians: Gaussians, camera: Camera, image: ArrayLike, *, backend: str = "auto"
) -> Tensor:
    """Distribute a picture to the Gaussians: Wᵀ image, with W the blending weights of this view.

    With image = 1 everywhere this is the total weight of each Gaussian in the view. It is the
    vector-Jacobian product of `render` with respect to colors, on any backend.

    Args:
        image: [H, W, D], a tensor or an array, as large as the camera's picture.
    Returns:
        [N, D], no gradient.
    Raises:
        ValueError: the picture's size is not the camera's.
    """
    image = as_tensor(image)
    if image.ndim != 3 or tuple(image.shape[:2]) != (camera.height, camera.width):
        raise ValueError(
            f"The picture must be [{camera.height}, {camera.width}, D] like the camera's, "
            f"got {list(image.shape)}: resize one of them."
        )
    draw = _backend(backend, gaussians.device)
    if draw is not _rasterize_gsplat.rasterize:
        from langsplat._rasterize_numba import lift as on_cpu

        g, camera = gaussians, camera.to("cpu")
        geometry, rules = (g.means, g.quats, g.scales, g.opacities), RULES._replace(near=g.near)
        _check_floats("means, quats, scales and opacities", *geometry)
        return on_cpu(geometry, camera.viewmat, camera.K, image.detach().to(g.means), rules)
    with torch.inference_mode(False), torch.enable_grad():
        still = gaussians.detached()
        colors = still.means.new_zeros(len(still), image.shape[2], requires_grad=True)
        rendered, _ = render(still, camera.detached(), colors, backend=backend)
        (lifted,) = torch.autograd.grad(rendered, colors, image.detach().to(rendered))
    return lifted


def painting(gaussians: Gaussians, camera: Camera) -> Tensor:
    """Which Gaussians contribute to some pixel of a view, [N] bool.

    The view looks the same with these alone, up to the 1e-4 of light at which a pixel is done. They
    are few in a view of a large scene, so values that take much memory need not be made for all.
    """
    ones = gaussians.means.new_ones(camera.height, camera.width, 1)
    return lift(gaussians, camera, ones)[:, 0] > 0


def blending_weights(
    gaussians: Gaussians, camera: Camera, codes: "Codes", support: float
) -> "tuple[BlendingWeights, np.ndarray, np.ndarray]":
    """The W of `image = W values` for one view: how much each Gaussian contributes to each pixel.

    Pixels that see fewer codewords than Gaussians keep the codewords' weights instead. On the CPU
    only, without gradient; weights below 1e-9 may be rounded to 0. Gaussians that are not finite
    are left out. `langsplat._codes_numba.weigh` explains `codes`, `support` and the other results.
    """
    from langsplat._codes_numba import weigh

    camera = camera.to("cpu")
    g, rules = gaussians, RULES._replace(near=gaussians.near)
    geometry = tuple(t.float() for t in (g.means, g.quats, g.scales, g.opacities))
    view = camera.viewmat, camera.K, camera.width, camera.height
    return weigh(geometry, *view, rules, codes, support)


def lift_labels(
    gaussians: Gaussians,
    camera: Camera,
    labels: ArrayLike,
    count: int,
    *,
    sums: Tensor | None = None,
    first: int = 0,
    backend: str = "auto",
) -> Tensor:
    """The weight of each Gaussian on the pixels of each label: `lift` of one_hot(labels).

    On the CPU the one-hot picture is never built: a Gaussian's weight on a pixel is added to that
    pixel's own labels, however many others there are.

    Args:
        labels: [H, W, L] integer, a tensor or an array, of the size of the camera's picture: L
            labels of each pixel, 0 to count - 1; -1 = none.
        count: number of different labels.
        sums: [R, count], to which the weights of the R Gaussians from number `first` on are added;
            None: zeros, for all Gaussians.
    Returns:
        The sums; [N, count] in the Gaussians' dtype if none were given; no gradient.
    Raises:
        ValueError: the picture's size is not the camera's, a label is out of range, the given sums
            are for another number of labels, or the Gaussians are neither float32 nor float64.
    """
    labels = as_tensor(labels).long()  # torch cannot compare unsigned numbers of 16 bits and more
    if labels.ndim != 3 or tuple(labels.shape[:2]) != (camera.height, camera.width):
        raise ValueError(
            f"The labels must be [{camera.height}, {camera.width}, L] like the camera's picture, "
            f"got {list(labels.shape)}: resize one of them."
        )
    if labels.numel() and not (-1 <= int(labels.min()) and int(labels.max()) < count):
        raise ValueError(
            f"Labels must lie in -1 .. {count - 1}, got {int(labels.min())} .. "
            f"{int(labels.max())}: renumber them."
        )
    g, draw = gaussians, _backend(backend, gaussians.device)
    _check_floats("means, quats, scales and opacities", g.means, g.quats, g.scales, g.opacities)
    if sums is None:
        sums = gaussians.means.new_zeros(len(gaussians), count)
    _check("sums", sums, (len(sums), count))
    if sums.numel() == 0:
        return sums
    if draw is _rasterize_gsplat.rasterize:
        labels = labels.to(sums.device)
        present = labels[labels >= 0].unique()
        step = max(1, MAX_ONE_HOT // (camera.width * camera.height))
        for start in range(0, len(present), step):
            chunk = present[start : start + step]
            one_hot = (labels[..., None] == chunk).sum(dim=2).float()
            lifted = lift(gaussians, camera, one_hot, backend=backend)
            sums.index_add_(1, chunk, lifted[first : first + len(sums)])
        return sums
    from langsplat._rasterize_numba import lift_labels as on_cpu

    rules, geometry = RULES._replace(near=g.near), (g.means, g.quats, g.scales, g.opacities)
    on_cpu(geometry, camera.viewmat, camera.K, labels, rules, sums, first)
    return sums


def heaviest(gaussians: Gaussians, camera: Camera, field: LanguageField, support: float) -> Tensor:
    """The codeword with the most weight at each pixel of a view, at each level.

    That is the first of the highest channels of `render(gaussians, camera, field.values(level))`.
    On the CPU this picture is never built: a Gaussian's weight on a pixel is added only to the few
    codewords in its code.

    Args:
        field: of a codebook, on the Gaussians' device.
        support: the share of a pixel that described Gaussians must paint.
    Returns:
        [L, H, W] int32 on the Gaussians' device; -1 where there is less support. No gradient.
    Raises:
        ValueError: the field is of an autoencoder, or the Gaussians are neither float32 nor
            float64.
    """
    if field.rows is None or not isinstance(field.codec, Codebook):
        raise ValueError("Latents name no codewords, of which one could weigh most: decode them.")
    if _backend("auto", gaussians.device) is _rasterize_gsplat.rasterize:
        return _heaviest_drawn(gaussians, camera, field, support)
    from langsplat._rasterize_numba import find_heaviest

    g, rules = gaussians.detached(), RULES._replace(near=gaussians.near)
    geometry, described = (g.means, g.quats, g.scales, g.opacities), field.mass > 0
    _check_floats("means, quats, scales and opacities", *geometry)
    view = camera.viewmat, camera.K, camera.width, camera.height
    return find_heaviest(
        geometry, *view, rules, field.rows, field.codes, described, field.codec.size, support
    )


def _heaviest_drawn(
    gaussians: Gaussians, camera: Camera, field: LanguageField, support: float
) -> Tensor:
    """The same from the picture of all weights, on any backend."""
    # Dense weights take much memory: only for the Gaussians that this view shows.
    shown = painting(gaussians, camera)
    gaussians, field = gaussians.select(shown), field.select(shown)
    found = []
    for level in range(len(field.levels)):
        described = (field.mass[level] > 0).float()[:, None]
        image, _ = render(gaussians, camera, torch.cat([field.values(level), described], dim=1))
        seen = image[..., -1] >= support
        found.append(torch.where(seen, image[..., :-1].argmax(dim=2), -1).int())
    return torch.stack(found)


def sh_to_rgb(sh: Tensor, dirs: Tensor, degree: int | None = None) -> Tensor:
    """Color seen from a direction: 0.5 plus the sum of sh times the bases, not clamped.

    Args:
        sh: [N, K, 3], K = 1, 4, 9 or 16.
        dirs: [N, 3], from the camera's centre to the Gaussian, world axes, any non-zero length.
        degree: highest degree to use, 0 ... 3; None: all that sh has.
    Returns:
        [N, 3], RGB around [0, 1].
    Raises:
        ValueError: sh has fewer bases than the degree needs, or is neither float32 nor float64;
            dirs differ from sh in number.
    """
    _check("sh", sh, (len(sh), *sh.shape[1:2], 3))
    _check("dirs", dirs, (len(sh), 3))
    _check_floats("sh", sh)
    if degree is None:
        degree = math.isqrt(sh.shape[1]) - 1
    if not 0 <= degree <= 3 or (degree + 1) ** 2 > sh.shape[1]:
        raise ValueError(
            f"degree must be 0 to 3 and sh must have (degree + 1)² bases, "
            f"got degree {degree} and {sh.shape[1]} bases."
        )
    if degree == 0:
        return 0.5 + SH_C0 * sh[:, 0]
    if sh.is_cuda:
        _backend("gsplat", sh.device)  # raises where it is not installed
        return _rasterize_gsplat.sh_to_rgb(sh, dirs, degree)
    from langsplat._rasterize_numba import harmonics
    from langsplat._rasterize_numba import sh_to_rgb as on_cpu

    used = (degree + 1) ** 2
    if not dirs.requires_grad:
        return on_cpu(sh, dirs, used, SH_C0)
    x, y, z = F.normalize(dirs, dim=1).unbind(1)
    bases = torch.stack(harmonics(x, y, z)[: used - 1], dim=1)
    return 0.5 + SH_C0 * sh[:, 0] + torch.einsum("nk,nkc->nc", bases, sh[:, 1:used])


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    check_shape(name, tensor, shape, " to fit the other inputs")


def _check_floats(names: str, *tensors: Tensor) -> None:
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise ValueError(
            f"{names} must be float32, or all float64, got {', '.join(sorted(map(str, kinds)))}: "
            "convert them with .float()."
        )


def _backend(name: str, device: torch.device) -> Any:
    """The backend's rasterize function, imported on first use."""
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {' or '.join(BACKENDS)}, got {name!r}.")
    if name == "auto":
        name = "gsplat" if device.type == "cuda" else "numba"
    if name == "gsplat" and (why := _rasterize_gsplat.problem()):
        raise ValueError(f"The gsplat backend cannot run here, {why}: use backend='numba'.")
    if (name == "gsplat") != (device.type == "cuda"):
        wanted = "CUDA" if name == "gsplat" else "CPU"
        raise ValueError(
            f"The {name} backend draws {wanted} tensors, got {device.type} ones: move them with "
            f".to('{wanted.lower()}') or use backend='auto'."
        )
    return import_module(f"langsplat._rasterize_{name}").rasterize


def _finite(*gaussians: Tensor) -> tuple[Tensor, ...]:
    """Means, quats, scales, opacities, colors [.., N, D] without the Gaussians with NaN or inf.

    On a GPU they get opacity 0 instead, so that nothing has to wait until they are counted.
    """
    *geometry, colors = gaussians
    if colors.is_cuda:
        return *geometry[:3], _opacities(*gaussians), colors
    # The CPU's kernels leave them out while projecting, but check colors only if there is one set
    # for all cameras, of at most three channels.
    if colors.ndim == 2 and colors.shape[1] <= 3:
        return gaussians
    # A sum is finite only if all its terms are, and costs far less than testing each of them. Not
    # summed by torch, whose threads would then spin on the cores that are needed next.
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(colors.detach().numpy().sum())):
            return gaussians
    keep = colors.isfinite().all(-1).reshape(-1, len(geometry[0])).all(0)
    return *(tensor[keep] for tensor in geometry), colors[..., keep, :]


def _opacities(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, *values: Tensor
) -> Tensor:
    """Opacities [N], 0 where a Gaussian has a number that is not finite."""
    with torch.no_grad():
        total = means.sum(1) + quats.sum(1) + scales.sum(1) + opacities
        for each in values:  # [N, D] or [C, N, D]
            own = each.sum(-1)
            total = total + (own.sum(0) if own.ndim > 1 else own)
        known = total.isfinite()
    return torch.where(known, opacities, 0)
