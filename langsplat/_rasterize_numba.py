"""The CPU backend: a tiled rasterizer in numba, forward and backward.

In: activated Gaussians and one pinhole camera. Out: image [H, W, D] and alpha [H, W, 1] before any
background. The stages, each run by a few Python threads over disjoint parts of the work:

    project    Gaussian -> splat: centre, conic, opacity, reach, in pixels (float64 inside)
    sort       by depth, once, ties by index
    bin        for every tile the splats that touch it, front to back
    blend      tile by tile; a splat's rows within the tile are one flat loop that LLVM vectorises

The kernels release the GIL and run in plain threads: numba's own parallel layer takes longer to
compile, and aborts the process when two Python threads enter it. Results do not depend on timing: every
thread sums into its own buffer, and buffers are added in a fixed order.

The kernels take their element type from the tensors, so the code that gradient checks see in
float64 is the code that runs in float32.

Letters: N Gaussians, M splats (the visible ones, by depth), D channels, P parts (threads).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import extending, njit, types
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 16  # pixels along a side
AREA = TILE * TILE
MX, MY, A, B, C, OPACITY, REACH, EX, EY = range(9)
COLUMNS = 9
# Columns of a splat. With (dx, dy) from the centre (MX, MY), the exponent is
# s = A dx² + B dx dy + C dy² and alpha = OPACITY exp(-s), above the cut while s <= REACH;
# EX, EY are half the sides of the box around that ellipse.

# No "nnan", "ninf": masked lanes may hold infinities.
_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)(function)


def _exp_minus(s: float) -> float:
    """exp(-s) for 0 <= s <= 6."""
    return math.exp(-s)


@extending.overload(_exp_minus, jit_options={"fastmath": _FAST, "cache": True})
def _exp_minus_overload(s):  # type: ignore[no-untyped-def]
    if s != types.float32:
        return lambda s: math.exp(-s)
    # Degree 6 around the middle of [-0.75, 0] for exp(-s / 8), then three squarings: one short
    # chain of multiply-adds, no bit tricks. Relative error below 1e-6 (checked in the tests).
    scale = np.float32(-1 / 8)
    middle = np.float32(3 / 8)
    c0, c1, c2, c3, c4, c5, c6 = (
        np.float32(math.exp(-3 / 8) / math.factorial(power)) for power in range(7)
    )

    def polynomial(s):  # type: ignore[no-untyped-def]
        x = s * scale + middle
        e = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * (c5 + x * c6)))))
        e = e * e
        e = e * e
        return e * e

    return polynomial


@_kernel
def _project(part, parts, means, quats, scales, opacities, view, K, size, rules, splats, depths):
    """Gaussians part::parts -> splats and depths (inf: not visible). EWA splatting, as gsplat."""
    eps2d, near, far, alpha_min = rules[0], rules[1], rules[2], rules[3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    width, height = size[0], size[1]
    n = means.shape[0]
    for i in range(n * part // parts, n * (part + 1) // parts):
        depths[i] = np.inf
        m0, m1, m2 = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        opacity = np.float64(opacities[i])
        if not (near <= z <= far and opacity >= alpha_min):
            continue
        x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
        y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
        mx = fx * x / z + cx
        my = fy * y / z + cy
        xx, xy, yy = _covariance2d(quats[i], scales[i], x, y, z, view, K, size)
        xx += eps2d
        yy += eps2d
        det = xx * yy - xy * xy
        if not det > 0:
            continue
        reach = math.log(opacity / alpha_min)
        ex = math.sqrt(2 * reach * xx)
        ey = math.sqrt(2 * reach * yy)
        if not (
            mx + ex > 0.5 and mx - ex < width - 0.5 and my + ey > 0.5 and my - ey < height - 0.5
        ):
            # No pixel centre lies within the box, except for a box smaller than a pixel at the rim.
            if not (mx + ex >= 0.5 and mx - ex <= width - 0.5):
                continue
            if not (my + ey >= 0.5 and my - ey <= height - 0.5):
                continue
        depths[i] = z
        splats[i, MX] = mx
        splats[i, MY] = my
        splats[i, A] = 0.5 * yy / det
        splats[i, B] = -xy / det
        splats[i, C] = 0.5 * xx / det
        splats[i, OPACITY] = opacity
        splats[i, REACH] = reach
        splats[i, EX] = ex
        splats[i, EY] = ey


@_kernel
def _rotation(quat):
    """Rotation matrix of a wxyz quaternion of any length, and 1 / its length."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    inverse = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        (w, x, y, z),
        inverse,
    )


@_kernel
def _tangents(x, y, z, K, size):
    """x / z and y / z held within 1.3 times the picture (as gsplat), and whether they were held."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x = 0.15 * size[0] / fx
    margin_y = 0.15 * size[1] / fy
    tx = min(max(x / z, -cx / fx - margin_x), (size[0] - cx) / fx + margin_x)
    ty = min(max(y / z, -cy / fy - margin_y), (size[1] - cy) / fy + margin_y)
    return tx, ty, tx != x / z, ty != y / z


@_kernel
def _footprint(quat, scale, x, y, z, view, K, size):
    """The 2 x 3 matrix G = J V R S, with covariance2d = G Gᵀ, and J V."""
    tx, ty, _, _ = _tangents(x, y, z, K, size)
    jx, jy = K[0, 0] / z, K[1, 1] / z
    u0 = jx * (view[0, 0] - tx * view[2, 0])
    u1 = jx * (view[0, 1] - tx * view[2, 1])
    u2 = jx * (view[0, 2] - tx * view[2, 2])
    v0 = jy * (view[1, 0] - ty * view[2, 0])
    v1 = jy * (view[1, 1] - ty * view[2, 1])
    v2 = jy * (view[1, 2] - ty * view[2, 2])
    r0, r1, r2, _, _ = _rotation(quat)
    s0, s1, s2 = np.float64(scale[0]), np.float64(scale[1]), np.float64(scale[2])
    g = (
        (u0 * r0[0] + u1 * r1[0] + u2 * r2[0]) * s0,
        (u0 * r0[1] + u1 * r1[1] + u2 * r2[1]) * s1,
        (u0 * r0[2] + u1 * r1[2] + u2 * r2[2]) * s2,
    )
    h = (
        (v0 * r0[0] + v1 * r1[0] + v2 * r2[0]) * s0,
        (v0 * r0[1] + v1 * r1[1] + v2 * r2[1]) * s1,
        (v0 * r0[2] + v1 * r1[2] + v2 * r2[2]) * s2,
    )
    return g, h, (u0, u1, u2), (v0, v1, v2)


@_kernel
def _covariance2d(quat, scale, x, y, z, view, K, size):
    g, h, _, _ = _footprint(quat, scale, x, y, z, view, K, size)
    return (
        g[0] * g[0] + g[1] * g[1] + g[2] * g[2],
        g[0] * h[0] + g[1] * h[1] + g[2] * h[2],
        h[0] * h[0] + h[1] * h[1] + h[2] * h[2],
    )


@_kernel
def _tile_range(low, high, tiles):
    """Tiles that hold a pixel centre in [low, high]; a hair is added for rounding."""
    first = math.ceil(max(low - 0.51, 0.0))
    last = math.floor(min(high - 0.49, tiles * TILE - 1.0))
    return int(first) // TILE, int(last) // TILE if last >= first else -1


@_kernel
def _band(splat, y):
    """Extent in x of the ellipse within the rows of pixels y .. y + TILE - 1."""
    mx, my = np.float64(splat[MX]), np.float64(splat[MY])
    a, b, c = np.float64(splat[A]), np.float64(splat[B]), np.float64(splat[C])
    ex, ey, reach = np.float64(splat[EX]), np.float64(splat[EY]), np.float64(splat[REACH])
    top = max(y + 0.5 - my, -ey)
    bottom = min(y + TILE - 0.5 - my, ey)
    det = max(4 * a * c - b * b, 0.0)
    # The ellipse's rightmost point is at height `tip`, its leftmost at -tip.
    tip = -0.5 * b / c * ex
    right, left = ex, ex
    if not top <= tip <= bottom:
        dy = top if tip < top else bottom
        right = min(ex, (-b * dy + math.sqrt(max(4 * a * reach - det * dy * dy, 0.0))) / (2 * a))
    if not top <= -tip <= bottom:
        dy = top if -tip < top else bottom
        left = min(ex, (b * dy + math.sqrt(max(4 * a * reach - det * dy * dy, 0.0))) / (2 * a))
    return mx - left, mx + right


@_kernel
def _bin(part, parts, splats, columns, rows, fill, cursors, members):
    """Count every tile's splats in cursors [P, tiles]; with `fill`, write them at the cursors."""
    m = splats.shape[0]
    for i in range(m * part // parts, m * (part + 1) // parts):
        splat = splats[i]
        low, high = _tile_range(splat[MY] - splat[EY], splat[MY] + splat[EY], rows)
        for row in range(low, high + 1):
            left, right = _band(splat, row * TILE)
            first, last = _tile_range(left, right, columns)
            for tile in range(row * columns + first, row * columns + last + 1):
                if fill:
                    members[cursors[part, tile]] = i
                cursors[part, tile] += 1


@_kernel
def _rows_of(splat, y0):
    """The rows of a tile at y0 that the splat's box touches, as first and count."""
    first = max(math.ceil(splat[MY] - splat[EY] - y0 - 0.51), 0.0)
    last = min(math.floor(splat[MY] + splat[EY] - y0 - 0.49), TILE - 1.0)
    return int(first), int(max(last - first + 1, 0.0))


@_kernel
def _start_tile(tile, columns, size, state):
    """Fill state: pixel centres (rows 0, 1) and transmittance (row 2; -1 outside the picture)."""
    one = state.dtype.type(1)
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    for p in range(AREA):
        x, y = p % TILE, p // TILE
        state[0, p] = x + 0.5
        state[1, p] = y + 0.5
        state[2, p] = one if x0 + x < size[0] and y0 + y < size[1] else -one
    return x0, y0


@_kernel
def _blend(part, parts, splats, order, starts, members, colors, columns, size, rules, image, trans):
    """Tiles part::parts: image [H, W, D] and the final transmittance [H, W]."""
    dtype = image.dtype.type
    zero = dtype(0)
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    channels = colors.shape[1]
    # One block of memory, planes at fixed distances: LLVM then needs no overlap checks.
    # 0, 1 pixel centres; 2 transmittance, negative once the pixel is done; 3 weights; 4 ... colors.
    state = np.empty((4 + channels, AREA), image.dtype)
    for tile in range(part, starts.shape[0] - 1, parts):
        x0, y0 = _start_tile(tile, columns, size, state)
        for p in range(AREA):
            for d in range(channels):
                state[4 + d, p] = zero
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            splat = splats[i]
            row, count = _rows_of(splat, y0)
            mx, my = splat[MX] - dtype(x0), splat[MY] - dtype(y0)
            a, b, c = splat[A], splat[B], splat[C]
            opacity, reach = splat[OPACITY], splat[REACH]
            p0 = (row & (TILE - 1)) * TILE
            n = count * TILE
            for j in range(n):
                p = p0 + j
                dx = state[0, p] - mx
                dy = state[1, p] - my
                s = dx * (a * dx + b * dy) + c * dy * dy
                inside = (s <= reach) & (s >= zero)
                alpha = min(opacity * _exp_minus(min(s, reach)), alpha_max)
                before = state[2, p]
                weight = before * alpha
                after = before - weight
                go = inside & (after > stop)
                state[3, p] = weight if go else zero
                state[2, p] = after if go else (-abs(before) if inside else before)
            color = colors[order[i]]
            for d in range(channels):
                value = color[d]
                for j in range(n):
                    p = p0 + j
                    state[4 + d, p] += state[3, p] * value
            if k % 16 == 0 and _all_done(state):
                break
        for y in range(y0, min(y0 + TILE, size[1])):
            for x in range(x0, min(x0 + TILE, size[0])):
                p = (y - y0) * TILE + x - x0
                trans[y, x] = abs(state[2, p])
                for d in range(channels):
                    image[y, x, d] = state[4 + d, p]


@_kernel
def _blend_colors_backward(
    part, parts, splats, order, starts, members, columns, size, rules, v_image, v_colors
):
    """Add Wᵀ v_image of the tiles part::parts to v_colors[part]: all that linear colors need."""
    dtype = v_image.dtype.type
    zero = dtype(0)
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    channels = v_image.shape[2]
    state = np.empty((4 + channels, AREA), v_image.dtype)
    for tile in range(part, starts.shape[0] - 1, parts):
        x0, y0 = _start_tile(tile, columns, size, state)
        _load_planes(x0, y0, size, v_image, state)
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            splat = splats[i]
            row, count = _rows_of(splat, y0)
            mx, my = splat[MX] - dtype(x0), splat[MY] - dtype(y0)
            a, b, c = splat[A], splat[B], splat[C]
            opacity, reach = splat[OPACITY], splat[REACH]
            p0 = (row & (TILE - 1)) * TILE
            n = count * TILE
            for j in range(n):
                p = p0 + j
                dx = state[0, p] - mx
                dy = state[1, p] - my
                s = dx * (a * dx + b * dy) + c * dy * dy
                inside = (s <= reach) & (s >= zero)
                alpha = min(opacity * _exp_minus(min(s, reach)), alpha_max)
                before = state[2, p]
                weight = before * alpha
                after = before - weight
                go = inside & (after > stop)
                state[3, p] = weight if go else zero
                state[2, p] = after if go else (-abs(before) if inside else before)
            target = v_colors[part, order[i]]
            for d in range(channels):
                total = zero
                for j in range(n):
                    p = p0 + j
                    total += state[3, p] * state[4 + d, p]
                target[d] += total
            if k % 16 == 0 and _all_done(state):
                break


@_kernel
def _blend_backward(
    part,
    parts,
    splats,
    order,
    starts,
    members,
    colors,
    columns,
    size,
    rules,
    image,
    trans,
    v_image,
    v_alpha,
    v_splats,
    v_colors,
):
    """Gradients of the tiles part::parts, added to v_splats[part] [M, 6] and v_colors[part] [N, D].

    Runs front to back like the forward pass. What lies behind a splat is the whole minus what has
    been passed: d image·v / d alpha = T c·v - rest / (1 - alpha), with T the light that arrives.
    v_splats holds sums of v_s {1, dx, dy, dx², dx dy, dy²}, v_s the gradient of the exponent.
    """
    dtype = v_image.dtype.type
    zero, one = dtype(0), dtype(1)
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    channels = v_image.shape[2]
    # 0, 1 pixel centres; 2 transmittance; 3 weights; 4 ... image gradient; then rest and c·v
    state = np.empty((6 + channels, AREA), v_image.dtype)
    rest, dot = 4 + channels, 5 + channels
    for tile in range(part, starts.shape[0] - 1, parts):
        x0, y0 = _start_tile(tile, columns, size, state)
        _load_planes(x0, y0, size, v_image, state)
        for y in range(y0, min(y0 + TILE, size[1])):
            for x in range(x0, min(x0 + TILE, size[0])):
                total = -v_alpha[y, x] * trans[y, x]
                for d in range(channels):
                    total += image[y, x, d] * v_image[y, x, d]
                state[rest, (y - y0) * TILE + x - x0] = total
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            splat = splats[i]
            row, count = _rows_of(splat, y0)
            mx, my = splat[MX] - dtype(x0), splat[MY] - dtype(y0)
            a, b, c = splat[A], splat[B], splat[C]
            opacity, reach = splat[OPACITY], splat[REACH]
            p0 = (row & (TILE - 1)) * TILE
            n = count * TILE
            color = colors[order[i]]
            for j in range(n):
                state[dot, p0 + j] = zero
            for d in range(channels):
                value = color[d]
                for j in range(n):
                    p = p0 + j
                    state[dot, p] += state[4 + d, p] * value
            v0, vx, vy, vxx, vxy, vyy = zero, zero, zero, zero, zero, zero
            for j in range(n):
                p = p0 + j
                dx = state[0, p] - mx
                dy = state[1, p] - my
                s = dx * (a * dx + b * dy) + c * dy * dy
                inside = (s <= reach) & (s >= zero)
                free = opacity * _exp_minus(min(s, reach))
                alpha = min(free, alpha_max)
                before = state[2, p]
                weight = before * alpha
                after = before - weight
                go = inside & (after > stop)
                weight = weight if go else zero
                state[3, p] = weight
                state[2, p] = after if go else (-abs(before) if inside else before)
                cv = state[dot, p]
                behind = state[rest, p] - weight * cv
                state[rest, p] = behind
                v_s = alpha * (behind / (one - alpha) - before * cv)
                v_s = v_s if go & (free <= alpha_max) else zero
                v0 += v_s
                vx += v_s * dx
                vy += v_s * dy
                vxx += v_s * dx * dx
                vxy += v_s * dx * dy
                vyy += v_s * dy * dy
            sums = v_splats[part, i]
            sums[0] += v0
            sums[1] += vx
            sums[2] += vy
            sums[3] += vxx
            sums[4] += vxy
            sums[5] += vyy
            target = v_colors[part, order[i]]
            for d in range(channels):
                total = zero
                for j in range(n):
                    p = p0 + j
                    total += state[3, p] * state[4 + d, p]
                target[d] += total
            if k % 16 == 0 and _all_done(state):
                break


@_kernel
def _project_backward(
    part,
    parts,
    means,
    quats,
    scales,
    opacities,
    view,
    K,
    size,
    rules,
    splats,
    order,
    v_splats,
    v_means,
    v_quats,
    v_scales,
    v_opacities,
):
    """From sums over pixels (see _blend_backward) to the gradients of the Gaussians."""
    fx, fy = K[0, 0], K[1, 1]
    m = order.shape[0]
    for k in range(m * part // parts, m * (part + 1) // parts):
        i = order[k]
        v0, vx, vy, vxx, vxy, vyy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for q in range(v_splats.shape[0]):
            v0 += v_splats[q, k, 0]
            vx += v_splats[q, k, 1]
            vy += v_splats[q, k, 2]
            vxx += v_splats[q, k, 3]
            vxy += v_splats[q, k, 4]
            vyy += v_splats[q, k, 5]
        # s = A dx² + B dx dy + C dy² with dx = pixel - centre; alpha = opacity exp(-s)
        a, b, c = np.float64(splats[k, A]), np.float64(splats[k, B]), np.float64(splats[k, C])
        v_mx = -(2 * a * vx + b * vy)
        v_my = -(b * vx + 2 * c * vy)
        v_opacities[i] = -v0 / opacities[i]
        # Through the inverse: with P = cov⁻¹ and s = ½ dᵀ P d, v_cov = -P (½ Σ v_s d dᵀ) P.
        a, c = 2 * a, 2 * c
        e0, e1 = a * vxx + b * vxy, a * vxy + b * vyy
        f0, f1 = b * vxx + c * vxy, b * vxy + c * vyy
        v_xx = -0.5 * (e0 * a + e1 * b)
        v_xy = -0.5 * (e0 * b + e1 * c)
        v_yy = -0.5 * (f0 * b + f1 * c)
        m0, m1, m2 = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
        y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        g, h, u, v = _footprint(quats[i], scales[i], x, y, z, view, K, size)
        r0, r1, r2, q, inverse = _rotation(quats[i])
        # cov2d = [g; h] [g; h]ᵀ
        v_g = (
            2 * (v_xx * g[0] + v_xy * h[0]),
            2 * (v_xx * g[1] + v_xy * h[1]),
            2 * (v_xx * g[2] + v_xy * h[2]),
        )
        v_h = (
            2 * (v_xy * g[0] + v_yy * h[0]),
            2 * (v_xy * g[1] + v_yy * h[1]),
            2 * (v_xy * g[2] + v_yy * h[2]),
        )
        s = (np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2]))
        # g = (uᵀ R) S, h = (vᵀ R) S
        v_scales[i, 0] = v_g[0] * (u[0] * r0[0] + u[1] * r1[0] + u[2] * r2[0]) + v_h[0] * (
            v[0] * r0[0] + v[1] * r1[0] + v[2] * r2[0]
        )
        v_scales[i, 1] = v_g[1] * (u[0] * r0[1] + u[1] * r1[1] + u[2] * r2[1]) + v_h[1] * (
            v[0] * r0[1] + v[1] * r1[1] + v[2] * r2[1]
        )
        v_scales[i, 2] = v_g[2] * (u[0] * r0[2] + u[1] * r1[2] + u[2] * r2[2]) + v_h[2] * (
            v[0] * r0[2] + v[1] * r1[2] + v[2] * r2[2]
        )
        gs0, gs1, gs2 = v_g[0] * s[0], v_g[1] * s[1], v_g[2] * s[2]
        hs0, hs1, hs2 = v_h[0] * s[0], v_h[1] * s[1], v_h[2] * s[2]
        # Rotation matrix entries v_R[row, column] = u[row] gs[column] + v[row] hs[column]
        n00, n01, n02 = u[0] * gs0 + v[0] * hs0, u[0] * gs1 + v[0] * hs1, u[0] * gs2 + v[0] * hs2
        n10, n11, n12 = u[1] * gs0 + v[1] * hs0, u[1] * gs1 + v[1] * hs1, u[1] * gs2 + v[1] * hs2
        n20, n21, n22 = u[2] * gs0 + v[2] * hs0, u[2] * gs1 + v[2] * hs1, u[2] * gs2 + v[2] * hs2
        qw, qx, qy, qz = q
        v_w = 2 * (qx * (n21 - n12) + qy * (n02 - n20) + qz * (n10 - n01))
        v_x = 2 * (-2 * qx * (n11 + n22) + qy * (n01 + n10) + qz * (n02 + n20) + qw * (n21 - n12))
        v_y = 2 * (qx * (n01 + n10) - 2 * qy * (n00 + n22) + qz * (n12 + n21) + qw * (n02 - n20))
        v_z = 2 * (qx * (n02 + n20) + qy * (n12 + n21) - 2 * qz * (n00 + n11) + qw * (n10 - n01))
        along = v_w * qw + v_x * qx + v_y * qy + v_z * qz
        v_quats[i, 0] = (v_w - along * qw) * inverse
        v_quats[i, 1] = (v_x - along * qx) * inverse
        v_quats[i, 2] = (v_y - along * qy) * inverse
        v_quats[i, 3] = (v_z - along * qz) * inverse
        # u = jx (V0 - tx V2), jx = fx / z, and so for v: gradients of jx, tx, jy, ty
        w_u0 = r0[0] * gs0 + r0[1] * gs1 + r0[2] * gs2
        w_u1 = r1[0] * gs0 + r1[1] * gs1 + r1[2] * gs2
        w_u2 = r2[0] * gs0 + r2[1] * gs1 + r2[2] * gs2
        w_v0 = r0[0] * hs0 + r0[1] * hs1 + r0[2] * hs2
        w_v1 = r1[0] * hs0 + r1[1] * hs1 + r1[2] * hs2
        w_v2 = r2[0] * hs0 + r2[1] * hs1 + r2[2] * hs2
        jx, jy = fx / z, fy / z
        v_tx = -jx * (w_u0 * view[2, 0] + w_u1 * view[2, 1] + w_u2 * view[2, 2])
        v_ty = -jy * (w_v0 * view[2, 0] + w_v1 * view[2, 1] + w_v2 * view[2, 2])
        v_cz = -(u[0] * w_u0 + u[1] * w_u1 + u[2] * w_u2) / z
        v_cz -= (v[0] * w_v0 + v[1] * w_v1 + v[2] * w_v2) / z
        tx, ty, held_x, held_y = _tangents(x, y, z, K, size)
        v_cx = fx / z * v_mx
        v_cy = fy / z * v_my
        v_cz -= (v_mx * fx * x + v_my * fy * y) / (z * z)
        if not held_x:
            v_cx += v_tx / z
            v_cz -= v_tx * tx / z
        if not held_y:
            v_cy += v_ty / z
            v_cz -= v_ty * ty / z
        v_means[i, 0] = view[0, 0] * v_cx + view[1, 0] * v_cy + view[2, 0] * v_cz
        v_means[i, 1] = view[0, 1] * v_cx + view[1, 1] * v_cy + view[2, 1] * v_cz
        v_means[i, 2] = view[0, 2] * v_cx + view[1, 2] * v_cy + view[2, 2] * v_cz


@_kernel
def _load_planes(x0, y0, size, picture, state):
    """Copy a tile of picture [H, W, D] into the planes 4 ... of state; zero outside."""
    zero = state.dtype.type(0)
    for p in range(AREA):
        for d in range(state.shape[0] - 4):
            state[4 + d, p] = zero
    for y in range(y0, min(y0 + TILE, size[1])):
        for x in range(x0, min(x0 + TILE, size[0])):
            for d in range(picture.shape[2]):
                state[4 + d, (y - y0) * TILE + x - x0] = picture[y, x, d]


@_kernel
def _all_done(state):
    most = state[2, 0]
    for p in range(AREA):
        most = max(most, state[2, p])
    return most < state.dtype.type(0)


def _in_threads(kernel: Callable[..., None], parts: int, *args: Any) -> None:
    """kernel(part, parts, *args) for every part at once."""
    if parts == 1:
        kernel(0, 1, *args)
        return
    with ThreadPoolExecutor(parts - 1) as pool:
        others = [pool.submit(kernel, part, parts, *args) for part in range(1, parts)]
        kernel(0, parts, *args)
        for other in others:
            other.result()


@dataclass(frozen=True, eq=False)
class _Frame:
    """What one view sees: splats by depth, and the members of every tile, front to back."""

    parts: int
    view: np.ndarray  # [4, 4] float64
    K: np.ndarray  # [3, 3] float64
    size: np.ndarray  # width, height
    rules: np.ndarray
    splats: np.ndarray  # [M, COLUMNS]
    order: np.ndarray  # [M], which Gaussian a splat is
    columns: int  # tiles in a row
    starts: np.ndarray  # [tiles + 1]
    members: np.ndarray  # splats of tile t: members[starts[t] : starts[t + 1]]


def _prepare(
    gaussians: tuple[np.ndarray, ...],
    view: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> _Frame:
    """Project, sort, bin."""
    means = gaussians[0]
    parts = torch.get_num_threads()
    size = np.array([width, height])
    constants = np.array(rules, np.float64)
    n = len(means)
    splats = np.empty((n, COLUMNS), means.dtype)
    depths = np.empty(n, np.float32)
    _in_threads(_project, parts, *gaussians, view, K, size, constants, splats, depths)
    seen = np.flatnonzero(depths < np.inf)
    # Depths are positive, so their bits sort like the numbers; the index below them breaks ties.
    keys = depths[seen].view(np.uint32).astype(np.uint64) << np.uint64(32) | seen.astype(np.uint64)
    keys.sort()
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int32)
    splats = splats[order]
    columns, rows = -(-width // TILE), -(-height // TILE)
    counts = np.zeros((parts, columns * rows), np.int64)
    _in_threads(_bin, parts, splats, columns, rows, False, counts, np.empty(0, np.int32))
    ends = np.cumsum(counts.T.ravel()).reshape(-1, parts)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:, -1]])
    members = np.empty(starts[-1], np.int32)
    cursors = np.ascontiguousarray((ends - counts.T).T)
    _in_threads(_bin, parts, splats, columns, rows, True, cursors, members)
    return _Frame(parts, view, K, size, constants, splats, order, columns, starts, members)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, view, K, width, height, rules):  # type: ignore[no-untyped-def]
        tensors = [t.detach().contiguous() for t in (means, quats, scales, opacities, colors)]
        arrays = tuple(t.numpy() for t in tensors)
        view, K = (t.detach().double().contiguous().numpy() for t in (view, K))
        frame = _prepare(arrays[:4], view, K, width, height, rules)
        image = means.new_empty(height, width, colors.shape[1])
        trans = means.new_empty(height, width)
        _in_threads(
            _blend,
            frame.parts,
            frame.splats,
            frame.order,
            frame.starts,
            frame.members,
            arrays[4],
            frame.columns,
            frame.size,
            frame.rules,
            image.numpy(),
            trans.numpy(),
        )
        ctx.frame = frame
        ctx.save_for_backward(*tensors, image, trans)
        return image, 1 - trans[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_alpha):  # type: ignore[no-untyped-def]
        frame = ctx.frame
        *tensors, image, trans = (t.numpy() for t in ctx.saved_tensors)
        colors = tensors[4]
        v_image = v_image.contiguous().numpy()
        v_colors = np.zeros((frame.parts, *colors.shape), colors.dtype)
        if not any(ctx.needs_input_grad[:4]):
            _in_threads(
                _blend_colors_backward,
                frame.parts,
                frame.splats,
                frame.order,
                frame.starts,
                frame.members,
                frame.columns,
                frame.size,
                frame.rules,
                v_image,
                v_colors,
            )
            return None, None, None, None, torch.from_numpy(v_colors.sum(0)), *[None] * 5
        v_splats = np.zeros((frame.parts, len(frame.splats), 6), colors.dtype)
        _in_threads(
            _blend_backward,
            frame.parts,
            frame.splats,
            frame.order,
            frame.starts,
            frame.members,
            colors,
            frame.columns,
            frame.size,
            frame.rules,
            image,
            trans,
            v_image,
            v_alpha[..., 0].contiguous().numpy(),
            v_splats,
            v_colors,
        )
        grads = [np.zeros_like(t) for t in tensors[:4]]
        _in_threads(
            _project_backward,
            frame.parts,
            *tensors[:4],
            frame.view,
            frame.K,
            frame.size,
            frame.rules,
            frame.splats,
            frame.order,
            v_splats,
            *grads,
        )
        return *map(torch.from_numpy, grads), torch.from_numpy(v_colors.sum(0)), *[None] * 5


def rasterize(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [C, N, D]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """Image [C, H, W, D] and alpha [C, H, W, 1], without background; see langsplat.rasterize."""
    views = [
        _Rasterize.apply(means, quats, scales, opacities, color, view, K, width, height, rules)
        for color, view, K in zip(colors, viewmats, Ks, strict=True)
    ]
    image, alpha = zip(*views, strict=True)
    if len(views) == 1:
        return image[0][None], alpha[0][None]
    return torch.stack(image), torch.stack(alpha)
