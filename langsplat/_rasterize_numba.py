"""The CPU backend: a tiled rasterizer in numba, forward and backward.

In: activated Gaussians and one pinhole camera. Out: image [H, W, D] and alpha [H, W, 1] before any
background. The stages, each run by a few Python threads over disjoint parts of the work:

    project    Gaussian -> splat: centre, conic, opacity, reach, in pixels (float64 inside)
               and the tiles it touches; all in the order of memory
    sort       the visible ones by depth, once, ties by index
    scatter    for every tile its splats, front to back
    blend      tile by tile; a splat's rows within the tile are one flat loop that LLVM vectorises

The kernels release the GIL and run in plain threads: numba's own parallel layer takes longer to
compile, and aborts the process when two Python threads enter it. Results do not depend on timing:
every thread sums into its own buffer, and buffers are added in a fixed order.

The kernels take their element type from the tensors, so the code that gradient checks see in
float64 is the code that runs in float32.

Letters: N Gaussians, M visible splats, D channels, P parts (threads).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 16  # pixels along a side
AREA = TILE * TILE
ROW = np.uint64(0xFFFFFFFF)  # the part of a key that is a row number
AHEAD = 6  # rows are fetched into the cache this many before their turn
MX, MY, P, Q, R, OPACITY, REACH, EX, EY, C0, C1, C2 = range(12)
COLUMNS = 16  # in float32 one line of the cache
# Columns of a splat. At (dx, dy) from the centre (MX, MY), with a = P dx + Q dy and b = R dy,
# alpha = OPACITY exp(-8 (a² + b²)), above the cut while a² + b² <= REACH: a sum of squares takes
# few multiplications, and rounding never makes it negative. EX, EY are half the sides of the box
# around that ellipse; C0, C1, C2 the color, if it has at most three channels (NARROW).
NARROW = 3

# No "nnan", "ninf": masked lanes may hold infinities.
_FAST = {"contract", "nsz", "arcp", "afn"}


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)(function)


def _summing_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel whose sums may run in any order, so that they vectorise."""
    fast = {*_FAST, "reassoc"}
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(function)


def _prefetch_code(typingctx, array, row):  # type: ignore[no-untyped-def]
    """Begin to load a row of an array into the cache: rows are read in no order, memory is slow."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        view = context.make_array(signature.args[0])(context, builder, args[0])
        stride = builder.extract_value(view.strides, 0)
        pointer = builder.bitcast(view.data, ir.IntType(8).as_pointer())
        pointer = builder.gep(pointer, [builder.mul(stride, args[1])])
        flag = ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        builder.call(prefetch, [pointer, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


_prefetch: Callable[..., None] = extending.intrinsic(_prefetch_code)


_EXP_COEFFICIENTS = tuple(
    np.polynomial.Chebyshev.interpolate(lambda x: np.exp(-x), 5, domain=[0, 0.75])
    .convert(kind=np.polynomial.Polynomial)
    .coef.astype(np.float32)
)


def _exp_minus_8(s: float) -> float:
    """exp(-8 s) for 0 <= s <= 0.75."""
    return math.exp(-8 * s)


@extending.overload(_exp_minus_8, jit_options={"fastmath": _FAST})
def _exp_minus_8_overload(s):  # type: ignore[no-untyped-def]
    if s != types.float32:
        return lambda s: math.exp(-8 * s)
    # exp(-s) by a polynomial, then three squarings: one short chain of multiply-adds, no bit
    # tricks, vectorised anywhere. Relative error below 3e-6 (checked in the tests).
    c0, c1, c2, c3, c4, c5 = _EXP_COEFFICIENTS

    def polynomial(s):  # type: ignore[no-untyped-def]
        e = c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * c5))))
        e = e * e
        e = e * e
        return e * e

    return polynomial


@_kernel
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


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
    p, q, r = np.float64(splat[P]), np.float64(splat[Q]), np.float64(splat[R])
    ex, ey, reach = np.float64(splat[EX]), np.float64(splat[EY]), np.float64(splat[REACH])
    top = max(y + 0.5 - my, -ey)
    bottom = min(y + TILE - 0.5 - my, ey)
    # The ellipse's rightmost point is at height `tip`, its leftmost at -tip.
    tip = -ex * p * q / (q * q + r * r)
    right, left = ex, ex
    if not top <= tip <= bottom:
        dy = top if tip < top else bottom
        right = min(ex, (math.sqrt(max(reach - r * r * dy * dy, 0.0)) - q * dy) / p)
    if not top <= -tip <= bottom:
        dy = top if -tip < top else bottom
        left = min(ex, (math.sqrt(max(reach - r * r * dy * dy, 0.0)) + q * dy) / p)
    return mx - left, mx + right


@_kernel
def _project(
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
    colors,
    index,
    splats,
    spans,
    counts,
):
    """Splats of the Gaussians this view may see (EWA splatting, as gsplat), and their tiles.

    A part's splats, and the Gaussians they come from (index), lie packed at the start of its
    share of the rows. Returns its keys for sorting, depth above row number, and its tiles: those
    of a row are tiles[spans[row, 0] : spans[row, 1]]. counts[part] says how often a tile occurs.
    """
    eps2d, near, far, alpha_min = rules[0], rules[1], rules[2], rules[3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    width, height = size[0], size[1]
    tile_columns, tile_rows = -(-width // TILE), -(-height // TILE)
    n = means.shape[0]
    begin, end = n * part // parts, n * (part + 1) // parts
    row = begin
    keys = np.empty(end - begin, np.uint64)
    tiles = np.empty(4 * (end - begin) + 64, np.int32)
    used = 0
    farthest = 2 * math.log(1 / alpha_min)
    for i in range(begin, end):
        m0, m1, m2 = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        opacity = np.float64(opacities[i])
        if not (near <= z <= far and opacity >= alpha_min):
            continue
        x = (view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]) / z
        y = (view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]) / z
        mx, my = fx * x + cx, fy * y + cy
        tx, ty = _tangents(x, y, K, size)
        u, v = _jacobian(tx, ty, z, view, K)
        # A cheap bound first: no Gaussian reaches farther than a ball of its largest scale.
        largest = np.float64(max(scales[i, 0], scales[i, 1], scales[i, 2]))
        bound = farthest * max(opacity, 1.0)
        rx = math.sqrt(bound * (largest * largest * _dot(u, u) + eps2d))
        ry = math.sqrt(bound * (largest * largest * _dot(v, v) + eps2d))
        if not (mx + rx > 0 and mx - rx < width and my + ry > 0 and my - ry < height):
            continue
        g, h = _footprint(quats[i], scales[i], u, v)
        xx, xy, yy = _dot(g, g) + eps2d, _dot(g, h), _dot(h, h) + eps2d
        det = xx * yy - xy * xy
        if not det > 0:  # a quaternion of length 0, or beyond float64
            continue
        reach = math.log(opacity / alpha_min)
        ex, ey = math.sqrt(2 * reach * xx), math.sqrt(2 * reach * yy)
        if not (mx + ex > 0 and mx - ex < width and my + ey > 0 and my - ey < height):
            continue
        splat = splats[row]
        splat[MX] = mx
        splat[MY] = my
        # The inverse covariance over 16, as the product of a triangular matrix with its transpose.
        splat[P] = math.sqrt(yy / det) / 4
        splat[Q] = -xy / math.sqrt(yy * det) / 4
        splat[R] = 1 / math.sqrt(yy) / 4
        splat[OPACITY] = opacity
        splat[REACH] = reach / 8
        splat[EX] = ex
        splat[EY] = ey
        if colors.shape[1] == NARROW:
            splat[C0] = colors[i, 0]
            splat[C1] = colors[i, 1]
            splat[C2] = colors[i, 2]
        index[row] = i
        spans[row, 0] = used
        low, high = _tile_range(my - ey, my + ey, tile_rows)
        left, right = _tile_range(mx - ex, mx + ex, tile_columns)
        for tile_row in range(low, high + 1):
            first, last = left, right
            if low != high and left != right:  # leave out the corners
                start, stop = _band(splat, tile_row * TILE)
                first, last = _tile_range(start, stop, tile_columns)
            if used + tile_columns > tiles.shape[0]:
                tiles = np.append(tiles, np.empty(tiles.shape[0] + tile_columns, np.int32))
            for column in range(first, last + 1):
                tile = tile_row * tile_columns + column
                tiles[used] = tile
                counts[part, tile] += 1
                used += 1
        spans[row, 1] = used
        # Depths are positive, so their bits sort like the numbers; the row breaks ties.
        bits = np.float32(z).view(np.uint32)
        keys[row - begin] = (np.uint64(bits) << np.uint64(32)) | np.uint64(row)
        row += 1
    return keys[: row - begin], tiles[:used]


@_kernel
def _scatter(part, parts, keys, spans, tiles, starts, cursors, members):
    """Write the splats, in the order of keys, to the places of their tiles, a share per part."""
    total = members.shape[0]
    low = np.searchsorted(starts, total * part // parts)
    high = np.searchsorted(starts, total * (part + 1) // parts)
    if part == parts - 1:
        high = cursors.shape[0]
    last = keys.shape[0] - 1
    for turn in range(keys.shape[0]):
        _prefetch(spans, np.int64(keys[min(turn + 2 * AHEAD, last)] & ROW))
        soon = np.int64(keys[min(turn + AHEAD, last)] & ROW)
        _prefetch(tiles, np.int64(spans[soon, 0]))
        row = np.int64(keys[turn] & ROW)
        for k in range(spans[row, 0], spans[row, 1]):
            tile = tiles[k]
            if low <= tile < high:
                members[cursors[tile]] = row
                cursors[tile] += 1


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
def _tangents(x, y, K, size):
    """x / z and y / z held within 1.3 times the picture, for the Jacobian (as gsplat)."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x = 0.15 * size[0] / fx
    margin_y = 0.15 * size[1] / fy
    tx = min(max(x, -cx / fx - margin_x), (size[0] - cx) / fx + margin_x)
    ty = min(max(y, -cy / fy - margin_y), (size[1] - cy) / fy + margin_y)
    return tx, ty


@_kernel
def _jacobian(tx, ty, z, view, K):
    """The two rows of d pixel / d world."""
    jx, jy = K[0, 0] / z, K[1, 1] / z
    u = (
        jx * (view[0, 0] - tx * view[2, 0]),
        jx * (view[0, 1] - tx * view[2, 1]),
        jx * (view[0, 2] - tx * view[2, 2]),
    )
    v = (
        jy * (view[1, 0] - ty * view[2, 0]),
        jy * (view[1, 1] - ty * view[2, 1]),
        jy * (view[1, 2] - ty * view[2, 2]),
    )
    return u, v


@_kernel
def _footprint(quat, scale, u, v):
    """Rows g, h of Jacobian * rotation * scales: covariance2d = [g; h] [g; h]ᵀ."""
    r0, r1, r2, _, _ = _rotation(quat)
    s0, s1, s2 = np.float64(scale[0]), np.float64(scale[1]), np.float64(scale[2])
    g = (
        (u[0] * r0[0] + u[1] * r1[0] + u[2] * r2[0]) * s0,
        (u[0] * r0[1] + u[1] * r1[1] + u[2] * r2[1]) * s1,
        (u[0] * r0[2] + u[1] * r1[2] + u[2] * r2[2]) * s2,
    )
    h = (
        (v[0] * r0[0] + v[1] * r1[0] + v[2] * r2[0]) * s0,
        (v[0] * r0[1] + v[1] * r1[1] + v[2] * r2[1]) * s1,
        (v[0] * r0[2] + v[1] * r1[2] + v[2] * r2[2]) * s2,
    )
    return g, h


# A tile's working memory is one flat block of planes of AREA numbers, at fixed distances so that
# LLVM needs no overlap checks:
X, Y, LIGHT, WEIGHT, DOT, REST, PLANE0, PLANE1, PLANE2, STATE = (AREA * k for k in range(10))
# X, Y: pixel centres in the tile. LIGHT: transmittance, negative once the pixel is done or outside.
# WEIGHT: of the splat at hand. DOT: its color · image gradient. REST: what lies behind it.
# PLANE0 ...: up to three channels. More are kept pixel by pixel in the picture itself, where the
# channels of a pixel are neighbours, and cost time only where a weight is not zero.


@_kernel
def _rows_of(splat, y0):
    """The pixels of the tile rows at y0 that the splat's box touches, as first and count."""
    my, ey = splat[MY] - y0, splat[EY]
    first = int(max(math.ceil(my - ey - 0.51), 0.0))
    last = int(min(math.floor(my + ey - 0.49), TILE - 1.0))
    return (first & (TILE - 1)) * TILE, max(last - first + 1, 0) * TILE


@_kernel
def _tile_of(part, parts, turn, columns):
    """Parts take the rows of tiles in turns: neighbours share splats, rows share the work."""
    return (turn // columns * parts + part) * columns + turn % columns


@_kernel
def _start_tile(tile, columns, size, state):
    one = state.dtype.type(1)
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    state[:] = 0
    for p in range(AREA):
        x, y = p % TILE, p // TILE
        state[X + p] = x + 0.5
        state[Y + p] = y + 0.5
        state[LIGHT + p] = one if x0 + x < size[0] and y0 + y < size[1] else -one
    return x0, y0


@_kernel
def _load_planes(x0, y0, size, picture, state):
    """Copy a tile of picture [H, W, D <= 3] into the channels' planes."""
    for y in range(y0, min(y0 + TILE, size[1])):
        for x in range(x0, min(x0 + TILE, size[0])):
            for d in range(picture.shape[2]):
                state[PLANE0 + d * AREA + (y - y0) * TILE + x - x0] = picture[y, x, d]


@_summing_kernel
def _all_done(state):
    zero = state.dtype.type(0)
    light = zero
    for p in range(AREA):
        light += max(state[LIGHT + p], zero)
    return light == zero


@_kernel
def _pass(s, before, opacity, reach, alpha_max, stop, zero):
    """One splat over one pixel: unclamped alpha, alpha, weight, transmittance after it, if drawn.

    A pixel where it would not leave more than `stop` is done: its transmittance turns negative.
    """
    inside = s <= reach
    free = opacity * _exp_minus_8(s)
    alpha = min(free, alpha_max)
    weight = before * alpha
    after = before - weight
    drawn = inside & (after > stop)
    weight = weight if drawn else zero
    after = after if drawn else (-abs(before) if inside else before)
    return free, alpha, weight, after, drawn


@_kernel
def _load(splat, x0, y0):
    """P, Q, R, opacity, reach, and the constants of a = P x + Q y + at_a, b = R y + at_b."""
    p, q, r = splat[P], splat[Q], splat[R]
    mx, my = splat[MX] - x0, splat[MY] - y0
    return p, q, r, splat[OPACITY], splat[REACH], -(p * mx + q * my), -r * my


@_kernel
def _blend(
    part, parts, splats, index, starts, members, colors, columns, size, rules, image, alphas, trans
):
    """A part's tiles of image [H, W, D], zeros before, alphas [H, W] and 1 - alphas."""
    dtype = image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    channels = colors.shape[1]
    wide = channels > NARROW
    state = np.empty(STATE, image.dtype)
    zero = dtype(0)
    c0, c1, c2 = zero, zero, zero
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        last = starts[tile + 1] - 1
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            _prefetch(splats, np.int64(members[min(k + AHEAD, last)]))
            splat = splats[i]
            px, py, qy, opacity, reach, at_a, at_b = _load(splat, dtype(x0), dtype(y0))
            if not wide:
                c0, c1, c2 = splat[C0], splat[C1], splat[C2]
            p0, n = _rows_of(splat, dtype(y0))
            for j in range(n):
                p = p0 + j
                a = px * state[X + p] + py * state[Y + p] + at_a
                b = qy * state[Y + p] + at_b
                s = a * a + b * b
                _, _, weight, after, _ = _pass(
                    s, state[LIGHT + p], opacity, reach, alpha_max, stop, zero
                )
                state[LIGHT + p] = after
                if wide:
                    state[WEIGHT + p] = weight
                state[PLANE0 + p] += weight * c0
                state[PLANE1 + p] += weight * c1
                state[PLANE2 + p] += weight * c2
            if wide:
                color = colors[index[i]]
                for p in range(p0, p0 + n):
                    weight = state[WEIGHT + p]
                    if weight != 0:
                        pixel = image[y0 + p // TILE, x0 + p % TILE]
                        for d in range(channels):
                            pixel[d] += weight * color[d]
            if k % 16 == 0 and _all_done(state):
                break
        for y in range(y0, min(y0 + TILE, size[1])):
            for x in range(x0, min(x0 + TILE, size[0])):
                p = (y - y0) * TILE + x - x0
                trans[y, x] = abs(state[LIGHT + p])
                alphas[y, x] = 1 - trans[y, x]
                if not wide:
                    for d in range(image.shape[2]):
                        image[y, x, d] = state[PLANE0 + d * AREA + p]


@_summing_kernel
def _add_wide_gradient(state, p0, n, x0, y0, v_image, target):
    """Add the sum of weight * image gradient to target [D]."""
    for p in range(p0, p0 + n):
        weight = state[WEIGHT + p]
        if weight != 0:
            pixel = v_image[y0 + p // TILE, x0 + p % TILE]
            for d in range(target.shape[0]):
                target[d] += weight * pixel[d]


@_summing_kernel
def _blend_colors_backward(
    part, parts, splats, index, starts, members, columns, size, rules, v_image, v_colors
):
    """Add Wᵀ v_image of a part's tiles to v_colors[part]: all that linear colors need."""
    dtype = v_image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    zero = dtype(0)
    wide = v_colors.shape[2] > NARROW
    state = np.empty(STATE, v_image.dtype)
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        if not wide:
            _load_planes(x0, y0, size, v_image, state)
        last = starts[tile + 1] - 1
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            _prefetch(splats, np.int64(members[min(k + AHEAD, last)]))
            splat = splats[i]
            px, py, qy, opacity, reach, at_a, at_b = _load(splat, dtype(x0), dtype(y0))
            p0, n = _rows_of(splat, dtype(y0))
            t0, t1, t2 = zero, zero, zero
            for j in range(n):
                p = p0 + j
                a = px * state[X + p] + py * state[Y + p] + at_a
                b = qy * state[Y + p] + at_b
                s = a * a + b * b
                _, _, weight, after, _ = _pass(
                    s, state[LIGHT + p], opacity, reach, alpha_max, stop, zero
                )
                state[LIGHT + p] = after
                if wide:
                    state[WEIGHT + p] = weight
                t0 += weight * state[PLANE0 + p]
                t1 += weight * state[PLANE1 + p]
                t2 += weight * state[PLANE2 + p]
            target = v_colors[part, index[i]]
            if wide:
                _add_wide_gradient(state, p0, n, x0, y0, v_image, target)
            else:
                target[0] += t0
                target[1] += t1
                target[2] += t2
            if k % 16 == 0 and _all_done(state):
                break


@_summing_kernel
def _blend_backward(
    part,
    parts,
    splats,
    index,
    starts,
    members,
    columns,
    size,
    rules,
    v_image,
    v_colors,
    colors,
    image,
    trans,
    v_alpha,
    v_splats,
):
    """Gradients of a part's tiles, added to v_splats[part] [N, 9] and, if D > 3, v_colors.

    Runs front to back like the forward pass. What lies behind a splat is the whole minus what has
    been passed: d image·v / d alpha = T c·v - rest / (1 - alpha), with T the light that arrives.
    v_splats holds the sums of v_s {1, a, b, a², ab, b²}, with v_s the gradient of the exponent and
    a, b as in the splat, and of three colors' gradients.
    """
    dtype = v_image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    zero, one = dtype(0), dtype(1)
    channels = colors.shape[1]
    wide = channels > NARROW
    state = np.empty(STATE, v_image.dtype)
    c0, c1, c2 = zero, zero, zero
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        if not wide:
            _load_planes(x0, y0, size, v_image, state)
        for y in range(y0, min(y0 + TILE, size[1])):
            for x in range(x0, min(x0 + TILE, size[0])):
                total = -v_alpha[y, x] * trans[y, x]
                for d in range(v_image.shape[2]):
                    total += image[y, x, d] * v_image[y, x, d]
                state[REST + (y - y0) * TILE + x - x0] = total
        last = starts[tile + 1] - 1
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            _prefetch(splats, np.int64(members[min(k + AHEAD, last)]))
            _prefetch(v_splats[part], np.int64(members[min(k + AHEAD, last)]))
            splat = splats[i]
            px, py, qy, opacity, reach, at_a, at_b = _load(splat, dtype(x0), dtype(y0))
            p0, n = _rows_of(splat, dtype(y0))
            if wide:
                color = colors[index[i]]
                for p in range(p0, p0 + n):
                    dot = zero
                    if state[LIGHT + p] > zero:
                        pixel = v_image[y0 + p // TILE, x0 + p % TILE]
                        for d in range(channels):
                            dot += pixel[d] * color[d]
                    state[DOT + p] = dot
            else:
                c0, c1, c2 = splat[C0], splat[C1], splat[C2]
            t0, t1, t2 = zero, zero, zero
            v0, va, vb, vaa, vab, vbb = zero, zero, zero, zero, zero, zero
            for j in range(n):
                p = p0 + j
                a = px * state[X + p] + py * state[Y + p] + at_a
                b = qy * state[Y + p] + at_b
                s = a * a + b * b
                before = state[LIGHT + p]
                free, alpha, weight, after, drawn = _pass(
                    s, before, opacity, reach, alpha_max, stop, zero
                )
                state[LIGHT + p] = after
                state[WEIGHT + p] = weight
                w0, w1, w2 = state[PLANE0 + p], state[PLANE1 + p], state[PLANE2 + p]
                dot = state[DOT + p] + c0 * w0 + c1 * w1 + c2 * w2
                rest = state[REST + p] - weight * dot
                state[REST + p] = rest
                t0 += weight * w0
                t1 += weight * w1
                t2 += weight * w2
                v_s = alpha * (rest / (one - alpha) - before * dot)
                v_s = v_s if drawn & (free <= alpha_max) else zero
                v0 += v_s
                va += v_s * a
                vb += v_s * b
                vaa += v_s * a * a
                vab += v_s * a * b
                vbb += v_s * b * b
            sums = v_splats[part, i]
            sums[0] += v0
            sums[1] += va
            sums[2] += vb
            sums[3] += vaa
            sums[4] += vab
            sums[5] += vbb
            if wide:
                target = v_colors[part, index[i]]
                _add_wide_gradient(state, p0, n, x0, y0, v_image, target)
            else:
                sums[6] += t0
                sums[7] += t1
                sums[8] += t2
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
    splats,
    index,
    visible,
    v_splats,
    v_colors,
    v_means,
    v_quats,
    v_scales,
    v_opacities,
):
    """From sums over pixels (see _blend_backward) to the gradients of the Gaussians."""
    fx, fy = K[0, 0], K[1, 1]
    begin = means.shape[0] * part // parts
    for k in range(begin, begin + visible):
        i = index[k]
        v0, va, vb, vaa, vab, vbb = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for other in range(v_splats.shape[0]):
            sums = v_splats[other, k]
            v0 += sums[0]
            va += sums[1]
            vb += sums[2]
            vaa += sums[3]
            vab += sums[4]
            vbb += sums[5]
            if v_colors.shape[1] == NARROW:
                v_colors[i, 0] += sums[6]
                v_colors[i, 1] += sums[7]
                v_colors[i, 2] += sums[8]
        # The exponent is 8 (a² + b²), a = P dx + Q dy, b = R dy, dx = pixel - centre.
        p, q, r = np.float64(splats[k, P]), np.float64(splats[k, Q]), np.float64(splats[k, R])
        v_mx = -16 * p * va
        v_my = -16 * (q * va + r * vb)
        v_opacities[i] = -v0 / opacities[i]
        # With L = [P Q; 0 R] the inverse covariance is 16 LᵀL, and through the inverse
        # v_covariance = -128 Lᵀ (Σ v_s [a b]ᵀ [a b]) L.
        v_xx = -128 * p * p * vaa
        v_xy = -128 * p * (q * vaa + r * vab)
        v_yy = -128 * (q * q * vaa + 2 * q * r * vab + r * r * vbb)
        m0, m1, m2 = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
        y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        tx, ty = _tangents(x / z, y / z, K, size)
        u, v = _jacobian(tx, ty, z, view, K)
        g, h = _footprint(quats[i], scales[i], u, v)
        r0, r1, r2, unit, inverse = _rotation(quats[i])
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
        qw, qx, qy, qz = unit
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
        v_cx = fx / z * v_mx
        v_cy = fy / z * v_my
        v_cz -= (v_mx * fx * x + v_my * fy * y) / (z * z)
        if tx == x / z:  # not held
            v_cx += v_tx / z
            v_cz -= v_tx * tx / z
        if ty == y / z:
            v_cy += v_ty / z
            v_cz -= v_ty * ty / z
        v_means[i, 0] = view[0, 0] * v_cx + view[1, 0] * v_cy + view[2, 0] * v_cz
        v_means[i, 1] = view[0, 1] * v_cx + view[1, 1] * v_cy + view[2, 1] * v_cz
        v_means[i, 2] = view[0, 2] * v_cx + view[1, 2] * v_cy + view[2, 2] * v_cz


def _in_threads(kernel: Callable[..., Any], parts: int, *args: Any) -> list[Any]:
    """Run kernel(part, parts, *args) for all parts at once; of a list each part gets its item."""

    def run(part: int) -> Any:
        return kernel(part, parts, *(a[part] if isinstance(a, list) else a for a in args))

    if parts == 1:
        return [run(0)]
    others = [_pool().submit(run, part) for part in range(1, parts)]
    return [run(0), *(other.result() for other in others)]


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads that help: kept, since starting them anew costs a millisecond a frame."""
    return ThreadPoolExecutor(thread_name_prefix="rasterize")


@dataclass(frozen=True, eq=False)
class _Frame:
    """What one view sees: splats, and the members of every tile, front to back."""

    parts: int
    view: np.ndarray  # [4, 4] float64
    K: np.ndarray  # [3, 3] float64
    size: np.ndarray  # width, height
    rules: np.ndarray
    splats: np.ndarray  # [N, COLUMNS], the rows of a part's visible splats first in its share
    index: np.ndarray  # [N], which Gaussian a splat is
    visible: list[int]  # for each part, how many splats it has
    columns: int  # tiles in a row
    starts: np.ndarray  # [tiles + 1]
    members: np.ndarray  # splats of tile t: members[starts[t] : starts[t + 1]]


def _prepare(
    gaussians: tuple[np.ndarray, ...],
    colors: np.ndarray,
    view: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> _Frame:
    """Project, sort, scatter."""
    parts = torch.get_num_threads()
    columns, rows = -(-width // TILE), -(-height // TILE)
    size, constants = np.array([width, height]), np.array(rules, np.float64)
    world = (*gaussians, view, K, size, constants)
    n = len(gaussians[0])
    index, spans = np.empty(n, np.int32), np.empty((n, 2), np.int32)
    splats = _empty_lines(n, gaussians[0].dtype)
    counts = np.zeros((parts, columns * rows), np.int64)
    seen = _in_threads(_project, parts, *world, colors, index, splats, spans, counts)
    sorted_parts, tiles = zip(*seen, strict=True)
    _in_threads(lambda part, parts, keys: keys.sort(), parts, list(sorted_parts))
    keys = np.concatenate(sorted_parts)
    keys.sort(kind="stable")  # merges what is sorted already
    visible = [len(part) for part in sorted_parts]
    for part in range(1, parts):  # from places in the part's tiles to places in all tiles
        begin = n * part // parts
        spans[begin : begin + visible[part]] += sum(map(len, tiles[:part]))
    starts = np.zeros(columns * rows + 1, np.int64)
    np.cumsum(counts.sum(0), out=starts[1:])
    members = np.empty(starts[-1], np.int32)
    every = np.concatenate(tiles)
    _in_threads(_scatter, parts, keys, spans, every, starts, starts[:-1].copy(), members)
    return _Frame(parts, view, K, size, constants, splats, index, visible, columns, starts, members)


def _empty_lines(n: int, dtype: np.dtype) -> np.ndarray:
    """[n, COLUMNS], every row in a cache line of its own: they are read in no order."""
    block = np.empty((n + 1) * COLUMNS, dtype)
    skip = -block.ctypes.data % 64 // dtype.itemsize
    return block[skip : skip + n * COLUMNS].reshape(n, COLUMNS)


def _padded(colors: Tensor) -> Tensor:
    """colors [N, D], contiguous, with zero channels added up to NARROW."""
    missing = NARROW - colors.shape[1]
    return F.pad(colors, (0, missing)).contiguous() if missing > 0 else colors.contiguous()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, view, K, width, height, rules):  # type: ignore[no-untyped-def]
        tensors = [t.detach().contiguous() for t in (means, quats, scales, opacities)]
        tensors.append(_padded(colors.detach()))
        *gaussians, values = (t.numpy() for t in tensors)
        view, K = (t.detach().double().contiguous().numpy() for t in (view, K))
        frame = _prepare(tuple(gaussians), values, view, K, width, height, rules)
        # numpy, not torch: torch's own threads would spin for work, for milliseconds, on our cores.
        image = np.zeros((height, width, colors.shape[1]), values.dtype)
        alpha, trans = (np.empty((height, width), values.dtype) for _ in range(2))
        _in_threads(
            _blend,
            frame.parts,
            frame.splats,
            frame.index,
            frame.starts,
            frame.members,
            values,
            frame.columns,
            frame.size,
            frame.rules,
            image,
            alpha,
            trans,
        )
        ctx.frame = frame
        picture = torch.from_numpy(image)
        ctx.save_for_backward(*tensors, picture, torch.from_numpy(trans))
        return picture, torch.from_numpy(alpha)[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_alpha):  # type: ignore[no-untyped-def]
        frame = ctx.frame
        *gaussians, colors, image, trans = (t.numpy() for t in ctx.saved_tensors)
        channels = v_image.shape[2]
        shared = (
            frame.splats,
            frame.index,
            frame.starts,
            frame.members,
            frame.columns,
            frame.size,
            frame.rules,
            v_image.contiguous().numpy(),
        )
        wide_or_alone = channels > NARROW or not any(ctx.needs_input_grad[:4])
        v_parts = np.zeros(
            (frame.parts, *colors.shape) if wide_or_alone else (1, 1, 1), colors.dtype
        )
        grads: list[Any] = [None] * 4
        if any(ctx.needs_input_grad[:4]):
            v_alpha = v_alpha[..., 0].contiguous().numpy()
            v_splats = np.zeros((frame.parts, len(frame.splats), 9), colors.dtype)
            _in_threads(
                _blend_backward,
                frame.parts,
                *shared,
                v_parts,
                colors,
                image,
                trans,
                v_alpha,
                v_splats,
            )
            v_colors = v_parts.sum(0) if wide_or_alone else np.zeros_like(colors)
            arrays = [np.zeros_like(t) for t in gaussians]
            _in_threads(
                _project_backward,
                frame.parts,
                *gaussians,
                frame.view,
                frame.K,
                frame.size,
                frame.splats,
                frame.index,
                frame.visible,
                v_splats,
                v_colors,
                *arrays,
            )
            grads = [torch.from_numpy(array) for array in arrays]
        else:
            _in_threads(_blend_colors_backward, frame.parts, *shared, v_parts)
            v_colors = v_parts.sum(0)
        return *grads, torch.from_numpy(v_colors)[:, :channels], *[None] * 5


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
