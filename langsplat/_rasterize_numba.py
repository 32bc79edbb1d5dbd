"""The CPU backend: a tiled rasterizer in numba, forward and backward.

In: activated Gaussians and one pinhole camera. Out: image [H, W, D] and alpha [H, W, 1], without
background. There are also colors from spherical harmonics (`sh_to_rgb`), lifting of pixels' labels
to the Gaussians that paint them (`lift_labels`), the heaviest of many channels (`find_heaviest`),
and how similar two pictures are (`similarity`). The stages of drawing, each run by a few Python
threads over disjoint parts of the work:

    project    Gaussian -> splat: centre, conic, opacity, reach, in pixels (float64 inside),
               sixteen Gaussians at once
    sort       the visible ones by depth, once, ties by index
    list       the tiles each splat touches
    scatter    for every tile its splats, front to back
    blend      tile by tile; for a few splats at a time a list of the blocks of 4 x 4 pixels they
               touch, then block by block, sixteen pixels at once

The kernels release the GIL and run in plain threads: numba's own parallel layer takes longer to
compile, and aborts the process when two Python threads enter it. Results do not depend on timing:
every thread sums into its own buffer, and buffers are added in a fixed order.

The kernels take their element type from the tensors, so the code that gradient checks see in
float64 is the code that runs in float32.

Letters: N Gaussians, M visible splats, D channels, P parts (threads).
"""

import contextlib
import math
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import extending, njit, types
from numpy.typing import DTypeLike
from torch import Tensor
from torch.autograd.function import once_differentiable

from langsplat._lanes import (
    FAST,
    LANES,
    LINE,
    append_bits,
    append_squares,
    bits,
    column_bits,
    doubled,
    flattened,
    gather,
    load,
    load_fours,
    load_until,
    log2,
    lowest_bit,
    prefetch,
    room,
    spread,
    store,
    store_fours,
    store_until,
    take,
    times_power,
    to_pixels,
    to_planes,
    totals,
    where,
)

TILE = 16  # pixels along a side
SIDE = 4  # of a block: SIDE x SIDE pixels fill the lanes
BLOCKS = (TILE // SIDE) ** 2
RUN = 4  # tiles in sequence, which share splats
BATCH = 32  # splats whose blocks are listed before they are blended
ROW = np.uint64(0xFFFFFFFF)  # the part of a key that is a row number
FARTHEST = 1e30  # pixels from the picture, or across
AHEAD = 16  # rows are fetched into the cache this many before their turn
START = np.int64(0)  # to numba a plain 0 has another type: what takes both is compiled twice
LARGE, SPARE_BYTES = 1 << 20, 512_000_000  # bytes: recycled from LARGE on, up to SPARE_BYTES
HUGE = 1 << 22  # bytes; from there on in large pages, as numpy asks for
MX, MY, P, Q, R, FAINT, REACH, LEAN, SLOPE, C0, C1, C2, WEST, EAST, NORTH, SOUTH = range(16)
COLUMNS = 16  # in float32 one line of the cache
# Columns of a splat. At (dx, dy) from the centre (MX, MY), with a = P dx + Q dy and b = R dy,
# alpha = 2^-(a² + b² + FAINT), above the cut while a² + b² <= REACH: a sum of squares takes
# few multiplications, and rounding never makes it negative. On a horizontal line it is least at
# dx = LEAN dy, on a vertical one at dy = SLOPE dx. C0, C1, C2 are the color, if it has at most
# three channels (NARROW). The box around the ellipse touches the columns WEST to EAST and the rows
# NORTH to SOUTH of tiles.
NARROW, FOUR = 3, 4  # other colors are drawn four channels at a time
AT_A, AT_B = MX, MY  # in a tile's copy of a splat: a = P x + Q y + AT_A, b = R y + AT_B,
CUT = REACH  # and alpha is above the cut while a² + b² + FAINT <= CUT
STEEP = 2 * math.log(2)  # Σ⁻¹ = STEEP LᵀL with L = [P Q; 0 R], as alpha ~ exp(-d Σ⁻¹ d / 2)

_HOW: Any = {"error_model": "numpy", "fastmath": set(FAST), "no_cfunc_wrapper": True}


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Python calls."""
    try:
        return njit(cache=True, nogil=True, **_HOW)(function)
    except RuntimeError:  # neither the checkout nor a home is writable: nothing is kept
        return njit(nogil=True, **_HOW)(function)


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """What kernels call: compiled only into them, in four fifths of the time."""
    return extending.register_jitable(**_HOW)(function)


def _summing_inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with sums that may run in any order, so that they vectorise."""
    return extending.register_jitable(**_HOW | {"fastmath": {*FAST, "reassoc"}})(function)


def _power_coefficients(degree: int) -> np.ndarray:
    """Those of a polynomial near 2^x for |x| <= 0.5, with an even relative error."""
    x = np.cos(np.linspace(0, np.pi, 1001)) / 2
    half = (-0.5, 0.5)
    fit = np.polynomial.Polynomial.fit(x, 2**x, degree, w=2**-x, domain=half, window=half)
    return fit.coef


_POWER_SINGLE = tuple(_power_coefficients(4).astype(np.float32))
_POWER_DOUBLE = tuple(_power_coefficients(11))


def _half_to(s: float) -> float:
    """2^-s for 0 <= s < 100, of a number or of lanes."""
    return 0.5**s


@extending.overload(_half_to, jit_options=_HOW)
def _half_to_overload(s):  # type: ignore[no-untyped-def]
    # A number of this size has no fractional bits: adding it rounds, and the integer is left in
    # the last bits. Relative error below 3e-6 in float32 (checked in the tests).
    if getattr(s, "dtype", s) == types.float32:
        c0, c1, c2, c3, c4 = _POWER_SINGLE
        rounding = np.float32(1.5 * 2**23)

        def single(s):  # type: ignore[no-untyped-def]
            power = rounding - s
            x = (rounding - power) - s
            return times_power(c0 + x * (c1 + x * (c2 + x * (c3 + x * c4))), power)

        return single
    d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11 = _POWER_DOUBLE
    far_rounding = 1.5 * 2**52

    def double(s):  # type: ignore[no-untyped-def]
        power = far_rounding - s
        x = (far_rounding - power) - s
        e = d6 + x * (d7 + x * (d8 + x * (d9 + x * (d10 + x * d11))))
        return times_power(d0 + x * (d1 + x * (d2 + x * (d3 + x * (d4 + x * (d5 + x * e))))), power)

    return double


@_inner
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_inner
def _tile_range(low, high, pixels):
    """Tiles that hold a pixel centre in [low, high], of lanes; a hair is added for rounding."""
    first, last = math.ceil(max(low - 0.51, 0.0)), math.floor(min(high - 0.49, pixels - 1.0))
    return math.floor(first / TILE), where(last >= first, math.floor(last / TILE), -1.0)


@_inner
def _vector(table, rows, at):
    """The three columns of a table's rows."""
    return gather(table, rows, at, 0), gather(table, rows, at, 1), gather(table, rows, at, 2)


@_inner
def _quat(table, rows, at):
    """The four columns of a table's rows."""
    return (*_vector(table, rows, at), gather(table, rows, at, 3))


@_inner
def _doubles(table, first, end):
    """The three columns of the rows first ... end, zeros behind them, of a flat table."""
    x, y, z = _load_pixels(table, first, end)
    return doubled(x), doubled(y), doubled(z)


@_inner
def _to_camera(mean, view):
    """x / z, y / z and the depth z."""
    z = mean[0] * view[2, 0] + mean[1] * view[2, 1] + mean[2] * view[2, 2] + view[2, 3]
    x = mean[0] * view[0, 0] + mean[1] * view[0, 1] + mean[2] * view[0, 2] + view[0, 3]
    y = mean[0] * view[1, 0] + mean[1] * view[1, 1] + mean[2] * view[1, 2] + view[1, 3]
    return x / z, y / z, z


@_inner
def _may_touch(mx, my, xx, yy, size):
    """Whether a box around a centre reaches into the picture, by the squares of its half sides."""
    # NaN is nowhere: `max` then gives its second argument.
    x, y = max(0.0, max(-mx, mx - size[0])), max(0.0, max(-my, my - size[1]))
    return (x * x < xx) & (y * y < yy)


@_inner
def _candidates(begin, end, means, scales, opacities, view, K, size, rules):
    """Those of the Gaussians begin ... end that pass a cheap bound, and how many they are.

    The list is padded to whole lanes.
    """
    near, far, alpha_min = rules[1], rules[2], rules[3]
    found, used = room(end - begin + LANES, np.int32), 0
    means, scales, opacities = flattened(means), flattened(scales), flattened(opacities)
    for first in range(begin, end, LANES):
        x, y, z = _to_camera(_doubles(means, first, end), view)
        opacity = doubled(load_until(opacities, first, end))
        tx, ty = _tangents(x, y, K, size)
        u, v = _jacobian(tx, ty, z, view, K)
        # No Gaussian reaches farther than a ball of its largest scale.
        s0, s1, s2 = _doubles(scales, first, end)
        largest = max(s0, max(s1, s2))
        bound = max(opacity, 1.0) * (2 * math.log(1 / alpha_min))
        xx = bound * (largest * largest * _dot(u, u) + rules[0])
        yy = bound * (largest * largest * _dot(v, v) + rules[0])
        seen = _may_touch(x * K[0, 0] + K[0, 2], y * K[1, 1] + K[1, 2], xx, yy, size)
        seen = seen & (z >= near) & (z <= far) & (opacity >= alpha_min)
        todo = bits(seen) & ((1 << min(end - first, LANES)) - 1)
        while todo != 0:
            found[used] = first + lowest_bit(todo)
            todo &= todo - 1
            used += 1
    for lane in range(LANES):
        found[used + lane] = 0
    return found, used


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
):
    """Splats of the Gaussians this view may see (EWA splatting, as gsplat).

    Those with a number that is not finite are left out; colors are checked if they are NARROW.

    A part's splats, and the Gaussians they come from (index), lie packed at the start of its
    share of the rows. Returns its keys for sorting: depth above row number.
    """
    eps2d, alpha_min, unit = rules[0], rules[3], math.sqrt(1 / STEEP)
    begin, end = means.shape[0] * part // parts, means.shape[0] * (part + 1) // parts
    found, count = _candidates(begin, end, means, scales, opacities, view, K, size, rules)
    row = begin
    keys = room(count, np.uint64)
    flat = flattened(splats)
    fields = room(LANES * COLUMNS, splats.dtype)  # of the splats at hand, field by field
    numbers = room(LANES, np.float64)
    for first in range(0, count, LANES):
        x, y, z = _to_camera(_vector(means, found, first), view)
        mx, my = x * K[0, 0] + K[0, 2], y * K[1, 1] + K[1, 2]
        tx, ty = _tangents(x, y, K, size)
        u, v = _jacobian(tx, ty, z, view, K)
        g, h = _footprint(_quat(quats, found, first), _vector(scales, found, first), u, v)
        xx, xy, yy = _dot(g, g) + eps2d, _dot(g, h), _dot(h, h) + eps2d
        det = xx * yy - xy * xy
        opacity = gather(opacities, found, first, 0)
        faint = -log2(opacity)
        reach = math.log2(1 / alpha_min) - faint
        ex, ey = math.sqrt(STEEP * reach * xx), math.sqrt(STEEP * reach * yy)
        # The determinant shows quaternions of length 0, and what is NaN or beyond float64; the
        # opacity must be finite; the others leave out what float32 could not hold.
        seen = (det > 0) & (det < math.inf) & (opacity < math.inf)
        seen = seen & (max(abs(mx), abs(my)) < FARTHEST) & (max(ex, ey) < FARTHEST)
        seen = seen & _may_touch(mx, my, ex * ex, ey * ey, size)
        by_root, by_corner = 1 / math.sqrt(yy), 1 / math.sqrt(det)
        store(fields, MX * LANES, mx)
        store(fields, MY * LANES, my)
        store(fields, P * LANES, yy * by_root * by_corner * unit)
        store(fields, Q * LANES, -xy * by_root * by_corner * unit)
        store(fields, R * LANES, by_root * unit)
        store(fields, FAINT * LANES, faint)
        store(fields, REACH * LANES, reach)
        store(fields, LEAN * LANES, xy * by_root * by_root)
        store(fields, SLOPE * LANES, xy / xx)
        west, east = _tile_range(mx - ex, mx + ex, size[0])
        north, south = _tile_range(my - ey, my + ey, size[1])
        store(fields, WEST * LANES, west)
        store(fields, EAST * LANES, east)
        store(fields, NORTH * LANES, north)
        store(fields, SOUTH * LANES, south)
        store(numbers, 0, z)
        todo = bits(seen) & ((1 << min(count - first, LANES)) - 1)
        while todo != 0:
            lane = lowest_bit(todo)
            todo &= todo - 1
            i, at = found[first + lane], row * COLUMNS
            for field in range(C0):
                flat[at + field] = fields[field * LANES + lane]
            for field in range(WEST, COLUMNS):
                flat[at + field] = fields[field * LANES + lane]
            if colors.shape[1] == NARROW:
                c0, c1, c2 = colors[i, 0], colors[i, 1], colors[i, 2]
                if not (abs(c0) < math.inf and abs(c1) < math.inf and abs(c2) < math.inf):
                    continue
                flat[at + C0] = c0
                flat[at + C1] = c1
                flat[at + C2] = c2
            index[row] = i
            # Depths are positive, so their bits sort like the numbers; the row breaks ties.
            depth = np.float32(numbers[lane]).view(np.uint32)
            keys[row - begin] = (np.uint64(depth) << np.uint64(32)) | np.uint64(row)
            row += 1
    return keys[: row - begin]


@_kernel
def _paint(part, parts, splats, index, visible, colors, painted):
    """Copy a part's splats to painted with other colors; those not finite are drawn nowhere."""
    old, flat = flattened(splats), flattened(painted)
    begin = splats.shape[0] * part // parts
    for row in range(begin, begin + visible):
        i, at = index[row], row * COLUMNS
        store(flat, at, load(old, at))
        c0, c1, c2 = colors[i, 0], colors[i, 1], colors[i, 2]
        if abs(c0) < math.inf and abs(c1) < math.inf and abs(c2) < math.inf:
            flat[at + C0] = c0
            flat[at + C1] = c1
            flat[at + C2] = c2
        else:
            flat[at + REACH] = -math.inf


@_kernel
def _sort(keys):
    """keys [M] by depth; equal depths stay in their order, by row. Overwrites the given array."""
    last = np.uint64(2047)
    counts = room(3 * 2048, np.int64)
    for value in range(3 * 2048):
        counts[value] = 0
    for key in keys:
        counts[(key >> np.uint64(32)) & last] += 1
        counts[2048 + ((key >> np.uint64(43)) & last)] += 1
        counts[4096 + (key >> np.uint64(54))] += 1
    given, ordered = keys, room(keys.shape[0], keys.dtype)
    for digit in range(3):
        place = 0
        for value in range(2048 * digit, 2048 * digit + 2048):
            place += counts[value]
            counts[value] = place - counts[value]
        for key in given:
            value = 2048 * digit + ((key >> np.uint64(32 + 11 * digit)) & last)
            ordered[counts[value]] = key
            counts[value] += 1
        given, ordered = ordered, given
    return given


@_kernel
def _list_tiles(part, parts, keys, splats, counts, size, tiles, owners):
    """The tiles that a part's share of the sorted splats touch, and which splat each is for.

    They are put into tiles and owners, and into larger copies if these are too short. counts[part]
    says how often each tile occurs.
    """
    turn, end = keys.shape[0] * part // parts, keys.shape[0] * (part + 1) // parts
    columns, rows = -(-size[0] // TILE), -(-size[1] // TILE)
    more = columns * rows + LANES
    counts[part] = 0
    used = START
    while True:
        turn, used = _fill_tiles(turn, end, used, keys, splats, columns, tiles, owners)
        if turn == end:
            break
        space = 2 * tiles.shape[0] + more
        tiles, owners = _grown(tiles, used, space), _grown(owners, used, space)
    own = counts[part]
    for k in range(used):
        own[tiles[k]] += 1
    return tiles[:used], owners[:used]


@_inner
def _fill_tiles(turn, end, used, keys, splats, columns, tiles, owners):
    """_list_tiles from a turn until the end, or until tiles may be too short for the next."""
    dtype = splats.dtype.type
    flat = flattened(splats)
    left, top = _corners(splats.dtype, TILE)
    while turn < end:
        prefetch(splats, np.int64(keys[min(turn + AHEAD, end - 1)] & ROW))
        splat = np.int64(keys[turn] & ROW)
        at = splat * COLUMNS
        west, east = int(flat[at + WEST]), int(flat[at + EAST])
        north, south = int(flat[at + NORTH]), int(flat[at + SOUTH])
        if used + max(east - west + 1, 0) * max(south - north + 1, 0) + LANES > tiles.shape[0]:
            break
        for row in range(north, south + 1, 4):
            for column in range(west, east + 1, 4):
                x0, y0 = dtype(column * TILE), dtype(row * TILE)
                touched = _touched(flat, at, x0, y0, left, top, dtype(TILE - 1))
                wide, high = min(east + 1 - column, 4), min(south + 1 - row, 4)
                touched &= ((1 << wide) - 1) * 0x1111 & ((1 << 4 * high) - 1)
                first = row * columns + column
                used = append_squares(tiles, owners, used, touched, first, columns, splat)
        turn += 1
    return turn, used


@_kernel
def _scatter(part, parts, tiles, owners, cursors, members):
    """Write a part's splats to the places of their tiles."""
    own = cursors[part]
    for k in range(tiles.shape[0]):
        members[own[tiles[k]]] = owners[k]
        own[tiles[k]] += 1


@_inner
def _rotation(quat):
    """Rotation matrix of a wxyz quaternion of any length, the unit quaternion, 1 / its length."""
    w, x, y, z = quat
    inverse = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        (w, x, y, z),
        inverse,
    )


@_inner
def _tangents(x, y, K, size):
    """x / z and y / z held within 1.3 times the picture, for the Jacobian (as gsplat)."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x = 0.15 * size[0] / fx
    margin_y = 0.15 * size[1] / fy
    tx = min(max(x, -cx / fx - margin_x), (size[0] - cx) / fx + margin_x)
    ty = min(max(y, -cy / fy - margin_y), (size[1] - cy) / fy + margin_y)
    return tx, ty


@_inner
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


@_inner
def _footprint(quat, scale, u, v):
    """Rows g, h of Jacobian * rotation * scales: covariance2d = [g; h] [g; h]ᵀ."""
    r0, r1, r2, _, _ = _rotation(quat)
    g = (
        (u[0] * r0[0] + u[1] * r1[0] + u[2] * r2[0]) * scale[0],
        (u[0] * r0[1] + u[1] * r1[1] + u[2] * r2[1]) * scale[1],
        (u[0] * r0[2] + u[1] * r1[2] + u[2] * r2[2]) * scale[2],
    )
    h = (
        (v[0] * r0[0] + v[1] * r1[0] + v[2] * r2[0]) * scale[0],
        (v[0] * r0[1] + v[1] * r1[1] + v[2] * r2[1]) * scale[1],
        (v[0] * r0[2] + v[1] * r1[2] + v[2] * r2[2]) * scale[2],
    )
    return g, h


# A tile's working memory, block by block, a block's fields one after the other:
X, Y, LIGHT, REST, PLANE0, PLANE1, PLANE2, _, FIELDS = (LANES * k for k in range(9))
# X, Y: pixel centres in the tile. LIGHT: transmittance, negative once the pixel is done or outside.
# REST: what lies behind the splat at hand. PLANE0 ...: up to three channels. More have planes of
# their own, except in the backward pass of moving Gaussians, which reads them pixel by pixel in the
# pictures. (Field by field, what is stored of one would lie a multiple of 4096 bytes from what is
# loaded of another, which processors take for the same place.)


@_inner
def _grown(numbers, used, size):
    """The first numbers, with room after them. (A slice's assignment takes seconds to compile.)"""
    grown = room(size, numbers.dtype)
    for k in range(used):
        grown[k] = numbers[k]
    return grown


@_inner
def _pixel(block, lane):
    """Column and row within the tile."""
    across = TILE // SIDE
    return block % across * SIDE + lane % SIDE, block // across * SIDE + lane // SIDE


@_inner
def _place(u, v):
    """Where field 0 of the tile's pixel in column u and row v is."""
    return (v // SIDE * (TILE // SIDE) + u // SIDE) * FIELDS + v % SIDE * SIDE + u % SIDE


@_inner
def _corners(dtype, side):
    """First pixel centres of 4 x 4 squares of a side, row by row: x and y."""
    corners = room(2 * LANES, dtype)
    for k in range(LANES):
        corners[k] = k % 4 * side + 0.5
        corners[LANES + k] = k // 4 * side + 0.5
    return load(corners, 0), load(corners, LANES)


@_inner
def _workspace(dtype):
    """A tile's state, its copies of splats, its list of work (see _plan)."""
    state = room(BLOCKS * FIELDS, dtype)
    for block in range(BLOCKS):
        for lane in range(LANES):
            x, y = _pixel(block, lane)
            state[block * FIELDS + X + lane] = x + 0.5
            state[block * FIELDS + Y + lane] = y + 0.5
    near = room(BATCH * COLUMNS, dtype)
    items, begins = room(BATCH * BLOCKS + LANES, np.uint16), room(BATCH + 1, np.int64)
    begins[0] = 0
    return state, near, items, begins


@_inner
def _tile_of(part, parts, turn, columns):
    """Which tile a part takes in its turn; beyond the last one when it is done.

    A part takes a share of every row of tiles, and in the next row the next share: tiles in
    sequence share splats, and after any number of rows all parts have had about equally many.
    """
    row, left = turn // columns * parts, turn % columns
    for k in range(parts):
        share = (part + k) % parts
        first, end = columns * share // parts, columns * (share + 1) // parts
        if left < end - first:
            return (row + k) * columns + first + left
        left -= end - first
    return 0


@_inner
def _next_tile(tile, taken):
    """The tile a part draws after `tile` (-1: none yet); beyond the last one when it is done.

    Whichever part is free takes the next RUN tiles, as tiles differ, and so do cores. Only for
    results that, unlike sums of gradients, do not depend on which part draws a tile.
    """
    tile += 1
    return take(taken) * RUN if tile % RUN == 0 else tile


@_inner
def _start_tile(tile, columns, size, state):
    """Fill all pixels of the picture with light; returns where the tile is."""
    one = spread(state.dtype.type(1))
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    for p in range(0, BLOCKS * FIELDS, FIELDS):
        within = (load(state, X + p) < size[0] - x0) & (load(state, Y + p) < size[1] - y0)
        store(state, LIGHT + p, where(within, one, -one))
        for field in range(REST, FIELDS, LANES):
            store(state, field + p, one - one)
    return x0, y0


@_inner
def _alive(state):
    """The blocks with pixels that are not done, as bits."""
    alive = 0
    for block in range(BLOCKS):
        if bits(load(state, LIGHT + block * FIELDS) > 0) != 0:
            alive |= 1 << block
    return alive


@_inner
def _touched(fields, at, x0, y0, left, top, span):
    """Which squares the splat at fields[at ...] reaches, as bits.

    The squares' first pixel centres are at (x0 + left, y0 + top), the last `span` further.
    """
    left, top = left + (x0 - fields[at + MX]), top + (y0 - fields[at + MY])
    right, bottom = left + span, top + span
    p, q, r = fields[at + P], fields[at + Q], fields[at + R]
    # The point of a square where a² + b² is least lies on a side that faces the centre.
    x, y = max(left, min(right, 0)), max(top, min(bottom, 0))
    best_x = max(left, min(right, y * fields[at + LEAN]))
    best_y = max(top, min(bottom, x * fields[at + SLOPE]))
    a, b = x * p + best_y * q, best_y * r
    c, d = best_x * p + y * q, y * r
    # A hair for rounding: whether a pixel is drawn is decided for each pixel itself.
    limit = fields[at + REACH] * fields.dtype.type(1.001)
    return bits(min(a * a + b * b, c * c + d * d) <= limit)


@_inner
def _approach(flat, members, k, x0, y0, left, top, near, row):
    """Copy the k-th splat of the members to near[row ...], with AT_A, AT_B and CUT.

    Returns which blocks of the tile at (x0, y0) it touches, as bits.
    """
    dtype = near.dtype.type
    x0, y0 = dtype(x0), dtype(y0)
    ahead = np.int64(members[min(k + AHEAD, members.shape[0] - 1)])
    prefetch(flat, ahead * COLUMNS)
    store(near, row, load(flat, np.int64(members[k]) * COLUMNS))
    touched = _touched(near, row, x0, y0, left, top, dtype(SIDE - 1))
    mx, my = near[row + MX] - x0, near[row + MY] - y0
    near[row + AT_A] = -(near[row + P] * mx + near[row + Q] * my)
    near[row + AT_B] = -near[row + R] * my
    near[row + CUT] += near[row + FAINT]
    return touched


@_inner
def _plan(splats, members, first, end, x0, y0, left, top, alive, near, items, begins):
    """List the work for the splats members[first:end], at most BATCH of them.

    Splat j's blocks are items[begins[j] : begins[j + 1]], each as j * BLOCKS + block. near holds
    the splats' rows with AT_A, AT_B and CUT.
    """
    flat = flattened(splats)
    used = 0
    for j in range(end - first):
        todo = _approach(flat, members, first + j, x0, y0, left, top, near, j * COLUMNS) & alive
        used = append_bits(items, used, todo, j * BLOCKS)
        begins[j + 1] = used
    return used


@_inner
def _shade(x, y, before, near, row, alpha_max, stop):
    """One splat over the pixels of one block, `before` being the light that arrives.

    Returns, of all pixels: a, b, the light after, alpha, the weight, and where a change of the
    exponent changes something.
    """
    a = x * near[row + P] + (y * near[row + Q] + near[row + AT_A])
    b = y * near[row + R] + near[row + AT_B]
    s = a * a + (b * b + near[row + FAINT])
    inside = s <= near[row + CUT]
    free = _half_to(s)
    alpha = where(inside, min(free, alpha_max), 0)
    after = before * (1 - alpha)
    # Where no more than `stop` would be left the pixel is done: its transmittance turns negative.
    # A pixel outside the ellipse keeps its own, above `stop` or negative, either way. From splat to
    # splat of a block this is a chain: one product, one comparison, one choice.
    drawn = after > stop
    weight = where(drawn, before * alpha, 0)
    after = where(drawn, after, -abs(before))
    return a, b, after, alpha, weight, drawn & inside & (free <= alpha_max)


@_inner
def _pass(state, near, item, alpha_max, stop):
    """One splat over one block: updates the light.

    Returns:
        the block's place in the state, the splat's in near, then of all pixels: a, b, the light
        before, alpha, the weight, and where a change of the exponent changes something.
    """
    p, row = item % BLOCKS * FIELDS, item // BLOCKS * COLUMNS
    before = load(state, LIGHT + p)
    a, b, after, alpha, weight, moves = _shade(
        load(state, X + p), load(state, Y + p), before, near, row, alpha_max, stop
    )
    store(state, LIGHT + p, after)
    return p, row, a, b, before, alpha, weight, moves


@_kernel
def _blend(
    part, parts, taken, splats, index, starts, members, colors, columns, size, rules,
    image, trans, alpha,
):  # fmt: skip
    """A part's tiles of image [H, W, D], of trans [H, W] = 1 - alpha, and of alpha.

    colors [N, D] is None where the splats hold them: numba then compiles without the other branch,
    whose presence alone costs registers. Where they are given D is a multiple of FOUR.
    """
    dtype = image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, near, items, _ = _workspace(image.dtype)
    masks = room(BATCH, np.uint16)
    flat = flattened(splats)
    left, top = _corners(image.dtype, SIDE)
    flat_image, flat_trans, flat_alpha = flattened(image), flattened(trans), flattened(alpha)
    if colors is not None:
        depth, flat_colors = colors.shape[1], flattened(colors)
        planes = room(BLOCKS * depth * LANES, image.dtype)
        shares, rows = room(BATCH * LANES, image.dtype), room(BATCH, np.int64)
    tile = _next_tile(np.int64(-1), taken)
    while tile < starts.shape[0] - 1:
        x0, y0 = _start_tile(tile, columns, size, state)
        if colors is not None:
            planes[:] = 0
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            end = min(first + BATCH, starts[tile + 1])
            masks[:] = 0
            for j in range(end - first):
                touched = _approach(flat, members, first + j, x0, y0, left, top, near, j * COLUMNS)
                masks[j] = touched & alive
            # Block by block, so that what changes from splat to splat stays in registers.
            for block in range(BLOCKS):
                used, p = 0, block * FIELDS
                for j in range(0, BATCH, LANES):
                    used = append_bits(items, used, column_bits(masks, j, block), j)
                if used == 0:
                    continue
                x, y, light = load(state, X + p), load(state, Y + p), load(state, LIGHT + p)
                if colors is not None:
                    drawn = 0
                    for k in range(used):
                        row = np.int64(items[k]) * COLUMNS
                        _, _, light, _, weight, _ = _shade(x, y, light, near, row, alpha_max, stop)
                        if bits(weight > 0) != 0:
                            store(shares, drawn * LANES, weight)
                            rows[drawn] = index[members[first + row // COLUMNS]] * np.int64(depth)
                            drawn += 1
                    for d in range(0, depth, FOUR):
                        at = (block * depth + d) * LANES
                        c0, c1 = load(planes, at), load(planes, at + LANES)
                        c2, c3 = load(planes, at + 2 * LANES), load(planes, at + 3 * LANES)
                        for k in range(drawn):
                            weight, color = load(shares, k * LANES), rows[k] + d
                            c0 += weight * flat_colors[color]
                            c1 += weight * flat_colors[color + 1]
                            c2 += weight * flat_colors[color + 2]
                            c3 += weight * flat_colors[color + 3]
                        store(planes, at, c0)
                        store(planes, at + LANES, c1)
                        store(planes, at + 2 * LANES, c2)
                        store(planes, at + 3 * LANES, c3)
                else:
                    c0, c1 = load(state, PLANE0 + p), load(state, PLANE1 + p)
                    c2 = load(state, PLANE2 + p)
                    for k in range(used):
                        row = np.int64(items[k]) * COLUMNS
                        _, _, light, _, weight, _ = _shade(x, y, light, near, row, alpha_max, stop)
                        c0 += weight * near[row + C0]
                        c1 += weight * near[row + C1]
                        c2 += weight * near[row + C2]
                    store(state, PLANE0 + p, c0)
                    store(state, PLANE1 + p, c1)
                    store(state, PLANE2 + p, c2)
                store(state, LIGHT + p, light)
        for v in range(min(TILE, size[1] - y0)):
            p, at, end = _row_of(v, x0, y0, size)
            left_over = abs(load_fours(state, LIGHT + p, FIELDS))
            store_until(flat_trans, at, end, left_over)
            store_until(flat_alpha, at, end, 1 - left_over)
            if colors is None:
                three = (
                    load_fours(state, PLANE0 + p, FIELDS),
                    load_fours(state, PLANE1 + p, FIELDS),
                    load_fours(state, PLANE2 + p, FIELDS),
                )
                _store_pixels(flat_image, at, end, three)
            else:
                for pixel in range(at, end):
                    place = _place_in_planes(pixel - at, v, depth * LANES)
                    for d in range(depth):
                        flat_image[pixel * depth + d] = planes[place + d * LANES]
        tile = _next_tile(tile, taken)


@_inner
def _row_of(v, x0, y0, size):
    """Row v of a tile: its place in field 0 of the state, its first pixel in a picture, its end."""
    at = (y0 + v) * size[0] + x0
    p = v // SIDE * (TILE // SIDE) * FIELDS + v % SIDE * SIDE
    return p, at, at + min(TILE, size[0] - x0)


@_inner
def _load_pixels(picture, at, end):
    """The three channels of the pixels at ... end of a flat picture."""
    at, end = NARROW * at, NARROW * end
    return to_planes(
        (
            load_until(picture, at, end),
            load_until(picture, at + LANES, end),
            load_until(picture, at + 2 * LANES, end),
        )
    )


@_inner
def _store_pixels(picture, at, end, planes):
    """Set the three channels of the pixels at ... end of a flat picture."""
    at, end = NARROW * at, NARROW * end
    first, second, third = to_pixels(planes)
    store_until(picture, at, end, first)
    store_until(picture, at + LANES, end, second)
    store_until(picture, at + 2 * LANES, end, third)


@_inner
def _store_planes(state, p, planes):
    """Set a tile's row of the planes."""
    store_fours(state, PLANE0 + p, FIELDS, planes[0])
    store_fours(state, PLANE1 + p, FIELDS, planes[1])
    store_fours(state, PLANE2 + p, FIELDS, planes[2])


@_summing_inner
def _add_wide_gradient(weight, weights, p, x0, y0, v_image, target):
    """Add the sum of weight * image gradient over a block to target [D]."""
    store(weights, 0, weight)
    todo = bits(weight > 0)
    while todo != 0:
        lane = lowest_bit(todo)
        todo &= todo - 1
        x, y = _pixel(p // FIELDS, lane)
        pixel, share = v_image[y0 + y, x0 + x], weights[lane]
        for d in range(target.shape[0]):
            target[d] += share * pixel[d]


@_kernel
def _blend_colors_backward(
    part, parts, splats, index, starts, members, columns, size, rules, v_image, v_colors
):
    """Write Wᵀ v_image of a part's tiles to its v_colors [N, D]: all that linear colors need."""
    dtype = v_image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, near, items, begins = _workspace(v_image.dtype)
    left, top = _corners(v_image.dtype, SIDE)
    depth, zero = v_colors.shape[1], spread(dtype(0))
    block_size = (depth + -depth % FOUR) * LANES
    planes = room(BLOCKS * block_size, v_image.dtype)
    # Of the blocks that a splat touches: its weights, and where their planes are.
    shares, places = room(BLOCKS * LANES, v_image.dtype), room(BLOCKS, np.int64)
    sums = room(LANES, v_image.dtype)
    flat_v, flat_colors = flattened(v_image), flattened(v_colors)
    flat_colors[:] = 0
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        planes[:] = 0
        for v in range(min(TILE, size[1] - y0)):
            _, first, end = _row_of(v, x0, y0, size)
            for at in range(first, end):
                place = _place_in_planes(at - first, v, block_size)
                for d in range(depth):
                    planes[place + d * LANES] = flat_v[at * depth + d]
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            end = min(first + BATCH, starts[tile + 1])
            _plan(splats, members, first, end, x0, y0, left, top, alive, near, items, begins)
            for j in range(end - first):
                drawn = 0
                for k in range(begins[j], begins[j + 1]):
                    item = np.int64(items[k])
                    _, _, _, _, _, _, weight, _ = _pass(state, near, item, alpha_max, stop)
                    if bits(weight > 0) != 0:
                        store(shares, drawn * LANES, weight)
                        places[drawn] = item % BLOCKS * block_size
                        drawn += 1
                if drawn == 0:
                    continue
                own = index[members[first + j]] * np.int64(depth)
                for d in range(0, depth, FOUR):
                    t0, t1, t2, t3 = zero, zero, zero, zero
                    for k in range(drawn):
                        weight, at = load(shares, k * LANES), places[k] + d * LANES
                        t0 += weight * load(planes, at)
                        t1 += weight * load(planes, at + LANES)
                        t2 += weight * load(planes, at + 2 * LANES)
                        t3 += weight * load(planes, at + 3 * LANES)
                    store(sums, 0, totals((t0, t1, t2, t3)))
                    for i in range(min(FOUR, depth - d)):
                        flat_colors[own + d + i] += sums[i]


@_inner
def _place_in_planes(u, v, block_size):
    """Where the numbers of a tile's pixel begin, LANES apart; those of a block lie together."""
    block, lane = v // SIDE * (TILE // SIDE) + u // SIDE, v % SIDE * SIDE + u % SIDE
    return block * block_size + lane


@_inner
def _wide_dot(state, p, x0, y0, v_image, color, dots):
    """The block's image gradient · color, 0 where a pixel is done."""
    todo = bits(load(state, LIGHT + p) > 0)
    store(dots, 0, load(state, X + p) * 0)
    while todo != 0:
        lane = lowest_bit(todo)
        todo &= todo - 1
        x, y = _pixel(p // FIELDS, lane)
        dots[lane] = _sum_of_products(v_image[y0 + y, x0 + x], color)
    return load(dots, 0)


@_summing_inner
def _sum_of_products(a, b):
    result = a.dtype.type(0)
    for d in range(a.shape[0]):
        result += a[d] * b[d]
    return result


@_kernel
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
    visible,
    v_splats,
):
    """Gradients of a part's tiles, in v_splats[part] [N, COLUMNS], and added to v_colors if D > 3.

    Runs front to back like the forward pass. What lies behind a splat is the whole minus what has
    been passed: d image·v / d alpha = T c·v - rest / (1 - alpha), with T the light that arrives.
    v_splats holds the sums of v_s {1, a, b, a², ab, b²}, with v_s the gradient of the exponent and
    a, b as in the splat, and of three colors' gradients.
    """
    dtype = v_image.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, near, items, begins = _workspace(v_image.dtype)
    left, top = _corners(v_image.dtype, SIDE)
    weights, dots = room(LANES, v_image.dtype), room(LANES, v_image.dtype)
    sums = v_splats[part]
    for share in range(parts):
        begin = splats.shape[0] * share // parts
        sums[begin : begin + visible[share]] = 0
    flat = flattened(sums)
    flat_v, flat_image = flattened(v_image), flattened(image)
    flat_v_alpha, flat_trans = flattened(v_alpha), flattened(trans)
    zero = spread(dtype(0))
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        for v in range(min(TILE, size[1] - y0)):
            p, at, end = _row_of(v, x0, y0, size)
            whole = -load_until(flat_v_alpha, at, end) * load_until(flat_trans, at, end)
            if colors is None:
                planes = _load_pixels(flat_v, at, end)
                whole += _dot(planes, _load_pixels(flat_image, at, end))
                _store_planes(state, p, planes)
            store_fours(state, REST + p, FIELDS, whole)
            if colors is not None:
                for u in range(min(TILE, size[0] - x0)):
                    own = _sum_of_products(image[y0 + v, x0 + u], v_image[y0 + v, x0 + u])
                    state[REST + _place(u, v)] += own
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            end = min(first + BATCH, starts[tile + 1])
            _plan(splats, members, first, end, x0, y0, left, top, alive, near, items, begins)
            for j in range(end - first):
                prefetch(sums, np.int64(members[min(first + j + 4, end - 1)]))
                if begins[j] == begins[j + 1]:
                    continue
                i = members[first + j]
                t0, t1, t2 = zero, zero, zero
                v0, va, vb, vaa, vab, vbb = zero, zero, zero, zero, zero, zero
                for k in range(begins[j], begins[j + 1]):
                    if colors is not None:
                        p = np.int64(items[k] % BLOCKS) * FIELDS
                        color = colors[index[i]]
                        dot = _wide_dot(state, p, x0, y0, v_image, color, dots)
                    p, row, a, b, before, alpha, weight, moves = _pass(
                        state, near, np.int64(items[k]), alpha_max, stop
                    )
                    if colors is not None:
                        target = v_colors[part, index[i]]
                        _add_wide_gradient(weight, weights, p, x0, y0, v_image, target)
                    else:
                        w0, w1 = load(state, PLANE0 + p), load(state, PLANE1 + p)
                        w2 = load(state, PLANE2 + p)
                        dot = w0 * near[row + C0] + w1 * near[row + C1] + w2 * near[row + C2]
                        t0 += weight * w0
                        t1 += weight * w1
                        t2 += weight * w2
                    rest = load(state, REST + p) - weight * dot
                    store(state, REST + p, rest)
                    v_s = where(moves, alpha * (rest / (1 - alpha) - before * dot), 0)
                    v_a, v_b = v_s * a, v_s * b
                    v0 += v_s
                    va += v_a
                    vb += v_b
                    vaa += v_a * a
                    vab += v_a * b
                    vbb += v_b * b
                several = totals((v0, va, vb, vaa, vab, vbb, t0, t1, t2))
                at = np.int64(i) * COLUMNS
                store(flat, at, load(flat, at) + several)


@_inner
def _summed(v_splats, rows, field):
    """A field of v_splats [P, N, COLUMNS] at some rows, summed over the parts."""
    result = gather(v_splats[0], rows, 0, field)
    for part in range(1, v_splats.shape[0]):
        result += gather(v_splats[part], rows, 0, field)
    return result


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
    begin = means.shape[0] * part // parts
    end = begin + visible
    rows = room(LANES, np.int32)
    fields = room(11 * LANES, means.dtype)  # gradients of the Gaussians at hand
    for first in range(begin, end, LANES):
        for lane in range(LANES):
            rows[lane] = min(first + lane, end - 1)
        v0 = _summed(v_splats, rows, 0)
        va, vb = _summed(v_splats, rows, 1), _summed(v_splats, rows, 2)
        vaa, vab = _summed(v_splats, rows, 3), _summed(v_splats, rows, 4)
        vbb = _summed(v_splats, rows, 5)
        # The exponent is STEEP / 2 (a² + b²), a = P dx + Q dy, b = R dy, dx = pixel - centre.
        p, q, r = gather(splats, rows, 0, P), gather(splats, rows, 0, Q), gather(splats, rows, 0, R)
        v_mx = p * va * -STEEP
        v_my = (q * va + r * vb) * -STEEP
        # Through the inverse, v_covariance = -STEEP² / 2 Lᵀ (Σ v_s [a b]ᵀ [a b]) L.
        v_xx = p * p * vaa * (-STEEP * STEEP / 2)
        v_xy = p * (q * vaa + r * vab) * (-STEEP * STEEP / 2)
        v_yy = (q * q * vaa + 2 * q * r * vab + r * r * vbb) * (-STEEP * STEEP / 2)
        for lane in range(LANES):
            rows[lane] = index[rows[lane]]
        x, y, z = _to_camera(_vector(means, rows, START), view)
        tx, ty = _tangents(x, y, K, size)
        u, v = _jacobian(tx, ty, z, view, K)
        quat = _quat(quats, rows, START)
        s = _vector(scales, rows, START)
        g, h = _footprint(quat, s, u, v)
        r0, r1, r2, unit, inverse = _rotation(quat)
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
        # g = (uᵀ R) S, h = (vᵀ R) S
        v_s0 = v_g[0] * (u[0] * r0[0] + u[1] * r1[0] + u[2] * r2[0]) + v_h[0] * (
            v[0] * r0[0] + v[1] * r1[0] + v[2] * r2[0]
        )
        v_s1 = v_g[1] * (u[0] * r0[1] + u[1] * r1[1] + u[2] * r2[1]) + v_h[1] * (
            v[0] * r0[1] + v[1] * r1[1] + v[2] * r2[1]
        )
        v_s2 = v_g[2] * (u[0] * r0[2] + u[1] * r1[2] + u[2] * r2[2]) + v_h[2] * (
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
        v_x = 2 * (qy * (n01 + n10) + qz * (n02 + n20) + qw * (n21 - n12) - 2 * qx * (n11 + n22))
        v_y = 2 * (qx * (n01 + n10) - 2 * qy * (n00 + n22) + qz * (n12 + n21) + qw * (n02 - n20))
        v_z = 2 * (qx * (n02 + n20) + qy * (n12 + n21) - 2 * qz * (n00 + n11) + qw * (n10 - n01))
        along = v_w * qw + v_x * qx + v_y * qy + v_z * qz
        # u = jx (V0 - tx V2), jx = fx / z, and so for v: gradients of jx, tx, jy, ty
        w_u0 = r0[0] * gs0 + r0[1] * gs1 + r0[2] * gs2
        w_u1 = r1[0] * gs0 + r1[1] * gs1 + r1[2] * gs2
        w_u2 = r2[0] * gs0 + r2[1] * gs1 + r2[2] * gs2
        w_v0 = r0[0] * hs0 + r0[1] * hs1 + r0[2] * hs2
        w_v1 = r1[0] * hs0 + r1[1] * hs1 + r1[2] * hs2
        w_v2 = r2[0] * hs0 + r2[1] * hs1 + r2[2] * hs2
        jx, jy = K[0, 0] / z, K[1, 1] / z
        v_tx = -jx * (w_u0 * view[2, 0] + w_u1 * view[2, 1] + w_u2 * view[2, 2])
        v_ty = -jy * (w_v0 * view[2, 0] + w_v1 * view[2, 1] + w_v2 * view[2, 2])
        # Through the centre and, where x / z is not held, through the Jacobian.
        v_px = v_mx * K[0, 0] + where(tx == x, v_tx, 0)
        v_py = v_my * K[1, 1] + where(ty == y, v_ty, 0)
        v_cx, v_cy = v_px / z, v_py / z
        v_cz = (
            -(_dot(u, (w_u0, w_u1, w_u2)) + _dot(v, (w_v0, w_v1, w_v2)) + v_px * x + v_py * y) / z
        )
        store(fields, 0, v_cx * view[0, 0] + v_cy * view[1, 0] + v_cz * view[2, 0])
        store(fields, LANES, v_cx * view[0, 1] + v_cy * view[1, 1] + v_cz * view[2, 1])
        store(fields, 2 * LANES, v_cx * view[0, 2] + v_cy * view[1, 2] + v_cz * view[2, 2])
        store(fields, 3 * LANES, (v_w - along * qw) * inverse)
        store(fields, 4 * LANES, (v_x - along * qx) * inverse)
        store(fields, 5 * LANES, (v_y - along * qy) * inverse)
        store(fields, 6 * LANES, (v_z - along * qz) * inverse)
        store(fields, 7 * LANES, v_s0)
        store(fields, 8 * LANES, v_s1)
        store(fields, 9 * LANES, v_s2)
        store(fields, 10 * LANES, -v0 / gather(opacities, rows, 0, 0))
        for lane in range(min(LANES, end - first)):
            i = rows[lane]
            for k in range(3):
                v_means[i, k] = fields[k * LANES + lane]
                v_scales[i, k] = fields[(7 + k) * LANES + lane]
            for k in range(4):
                v_quats[i, k] = fields[(3 + k) * LANES + lane]
            v_opacities[i, 0] = fields[10 * LANES + lane]
            if v_colors.shape[1] == NARROW:
                for k in range(NARROW):
                    for other in range(v_splats.shape[0]):
                        v_colors[i, k] += v_splats[other, first + lane, 6 + k]


def _in_threads(kernel: Callable[..., Any], parts: int, *args: Any) -> list[Any]:
    """Run kernel(part, parts, *args) for all parts at once; of a list, each part gets one item."""

    def run(part: int) -> Any:
        return kernel(part, parts, *(a[part] if isinstance(a, list) else a for a in args))

    if parts == 1:
        return [run(0)]
    others = [_pool(os.getpid()).submit(run, part) for part in range(1, parts)]
    return [run(0), *(other.result() for other in others)]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The helper threads: kept, because starting them costs a millisecond per frame.

    One pool for each process, as a fork has no threads.
    """
    return ThreadPoolExecutor(thread_name_prefix="rasterize")


_tiles_each = 3.0  # tiles per splat in the frame before, to guess how long the lists will be
# Memory that was released, by its id, oldest first. Only single operations of a dict are used,
# which are atomic: any thread may release any block, in the midst of anything.
_spare: dict[int, np.ndarray] = {}


class _Block:
    """Memory that becomes spare when the last array in it is deleted."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    # Defaults, because at the end of the program a module's names may be gone already.
    def __del__(self, spare: dict[int, np.ndarray] = _spare, most: int = SPARE_BYTES) -> None:
        if self._memory.nbytes <= most:
            spare[id(self._memory)] = self._memory
        while sum(memory.nbytes for memory in list(spare.values())) > most:
            spare.pop(next(iter(list(spare)), 0), None)


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Like `numpy.empty`, but aligned to a line of the cache, and in recycled memory.

    Systems take large blocks back at once, and hand them out again zeroed, page by page: for what
    is kept of a view that costs more than computing it, if large pages must be found first.
    """
    kind, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * kind.itemsize + LINE
    block = np.empty(size, np.uint8) if size < LARGE else np.asarray(_Block(_memory(size)))
    skip = -block.ctypes.data % LINE
    return block[skip : skip + size - LINE].view(kind).reshape(shape)


def _memory(size: int) -> np.ndarray:
    """The smallest spare block of `size` bytes or slightly more, or a new one."""
    sizes = [(memory.nbytes, key) for key, memory in list(_spare.items())]
    for _, key in sorted(one for one in sizes if size <= one[0] <= 1.25 * size):
        memory = _spare.pop(key, None)  # another thread may have been faster
        if memory is not None:
            return memory
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.empty(size, np.uint8)
    # Pages of its own, which return to the system: what malloc gets back between other blocks of a
    # heap that is never trimmed (`prepare_process`) stays, 0.5 MB a view of a long-running page.
    try:
        pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"There is no memory left for {size:,} bytes.") from error
    if size >= HUGE:
        with contextlib.suppress(OSError):  # a system without large pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


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

    @property
    def tiles(self) -> tuple[Any, ...]:
        """What kernels need to go through the splats tile by tile."""
        world = self.splats, self.index, self.starts, self.members
        return *world, self.columns, self.size, self.rules

    def painted(self, colors: np.ndarray) -> "_Frame":
        """The same with other colors; without those, if they are not NARROW."""
        if colors.shape[1] != NARROW:
            return self
        splats = empty(self.splats.shape, self.splats.dtype)
        world = self.splats, self.index, self.visible, colors, splats
        _in_threads(_paint, self.parts, *world)
        return replace(self, splats=splats)


@dataclass(frozen=True, eq=False)
class _Known:
    """A frame and the tensors it was made from; valid while these exist and are unchanged."""

    tensors: tuple[weakref.ref[Tensor], ...]
    content: list[int]
    view: tuple[Any, ...]
    frame: _Frame


@_kernel
def _content_of(part, parts, arrays):
    """A number that changes with any word of a part's arrays [..] uint32, and with their order.

    Tensors count their changes, but not those through `.data` or through numpy.
    """
    total, factor, step = np.uint64(0), np.uint64(0), np.uint64(0x9E3779B1)
    for words in arrays:
        for word in words:
            factor += step  # odd, so that each place has one of its own
            total += np.uint64(word) * (factor & ROW)
    return total


# The last frame: a view is often drawn several times in a row, first its colors, then words, or
# pictures are lifted from it. Threads replace it as a whole, so each sees a consistent one.
_known: _Known | None = None


def see(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    colors: np.ndarray,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> _Frame:
    """What a view sees. If only the colors differ from the last call, the frame is reused."""
    global _known
    arrays = tuple(t.detach().contiguous().numpy() for t in gaussians)
    view, intrinsics = (t.detach().double().contiguous().numpy() for t in (viewmat, K))
    still = not any(t.requires_grad for t in gaussians)  # in training they change every time
    parts, content = torch.get_num_threads(), []
    if still:
        words = [np.array_split(array.reshape(-1).view(np.uint32), parts) for array in arrays]
        content = _in_threads(_content_of, parts, list(zip(*words, strict=True)))
    asked = view.tobytes(), intrinsics.tobytes(), width, height, rules, parts
    known = _known
    if (
        known is not None
        and still
        and known.view == asked
        and known.content == content
        and all(own() is t for own, t in zip(known.tensors, gaussians, strict=True))
    ):
        return known.frame.painted(colors)
    frame = _prepare(arrays, colors, view, intrinsics, width, height, rules)
    # The frame leaves out Gaussians whose color is not finite, which may be finite the next time.
    if still and math.isfinite(float(colors.min(initial=0)) + float(colors.max(initial=0))):
        _known = _Known(tuple(weakref.ref(t) for t in gaussians), content, asked, frame)
    return frame


def _prepare(
    gaussians: tuple[np.ndarray, ...],
    colors: np.ndarray,
    view: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> _Frame:
    """Project the Gaussians, sort the splats, and list those of every tile."""
    global _tiles_each
    parts = torch.get_num_threads()
    columns, rows = -(-width // TILE), -(-height // TILE)
    size, constants = np.array([width, height]), np.array(rules, np.float64)
    *geometry, opacities = gaussians
    world = (*geometry, opacities[:, None], view, K, size, constants)
    n = len(opacities)
    # A splat has a line of the cache to itself: they are read in no order.
    index, splats = empty(n, np.int32), empty((n, COLUMNS), opacities.dtype)
    part_keys = _in_threads(_project, parts, *world, colors, index, splats)
    visible = [len(part) for part in part_keys]
    keys = _sort(np.concatenate(part_keys))
    counts = np.empty((parts, columns * rows), np.int64)
    # Few sizes, so that memory of the frame before fits, and more than enough: pages that a frame
    # does not write to take no memory.
    space = 1 << int(2 * _tiles_each * len(keys) / parts + columns * rows + LANES).bit_length()
    space_for = ([empty(space, np.int32) for _ in range(parts)] for _ in ("tiles", "owners"))
    listed = _in_threads(_list_tiles, parts, keys, splats, counts, size, *space_for)
    tiles, owners = (list(arrays) for arrays in zip(*listed, strict=True))
    # Every part fills its own places of a tile, after those of the parts with nearer splats.
    cursors = counts.T.cumsum().reshape(-1, parts).T - counts
    starts = np.append(cursors[0], counts.sum())
    members = empty(int(starts[-1]), np.int32)
    _tiles_each = len(members) / max(len(keys), 1)
    _in_threads(_scatter, parts, tiles, owners, cursors, members)
    return _Frame(parts, view, K, size, constants, splats, index, visible, columns, starts, members)


def _padded(colors: Tensor) -> Tensor:
    """colors [N, D], contiguous, with zero channels added up to NARROW or a multiple of FOUR."""
    missing = NARROW - colors.shape[1]
    if missing < 0:
        missing = -colors.shape[1] % FOUR
    return F.pad(colors, (0, missing)).contiguous() if missing > 0 else colors.contiguous()


def _gradient(given: Tensor | None, like: np.ndarray) -> np.ndarray:
    """A gradient [H, W, D], contiguous, in the shape of `like`; 0 for None and added channels."""
    if given is not None and given.shape == like.shape:
        return np.ascontiguousarray(given.numpy())
    gradient = np.zeros_like(like)
    if given is not None:
        gradient[..., : given.shape[2]] = given.numpy()
    return gradient


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, view, K, width, height, rules):  # type: ignore[no-untyped-def]
        tensors = [t.detach().contiguous() for t in (means, quats, scales, opacities)]
        tensors.append(_padded(colors.detach()))
        values = tensors[-1].numpy()
        frame = see((means, quats, scales, opacities), values, view, K, width, height, rules)
        # numpy, not torch, whose threads would then spin on our cores for milliseconds.
        wide = values.shape[1] > NARROW
        shape = (height, width, values.shape[1])
        image = empty(shape, values.dtype)
        trans, alpha = empty((2, height, width), values.dtype)
        _in_threads(
            _blend,
            frame.parts,
            np.zeros(1, np.int64),
            frame.splats,
            frame.index,
            frame.starts,
            frame.members,
            values if wide else None,
            frame.columns,
            frame.size,
            frame.rules,
            image,
            trans,
            alpha,
        )
        ctx.frame, ctx.channels = frame, colors.shape[1]
        ctx.set_materialize_grads(False)
        picture = torch.from_numpy(image)
        ctx.save_for_backward(*tensors, picture, torch.from_numpy(trans))
        if colors.shape[1] < values.shape[1]:
            picture = torch.from_numpy(image[..., : colors.shape[1]].copy())
        return picture, torch.from_numpy(alpha)[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_alpha):  # type: ignore[no-untyped-def]
        frame = ctx.frame
        *gaussians, colors, image, trans = (t.numpy() for t in ctx.saved_tensors)
        channels = ctx.channels
        v_image = _gradient(v_image, image)
        grads: list[Any] = [None] * 4
        if any(ctx.needs_input_grad[:4]):
            wide = channels > NARROW  # else the splats' sums have room for the colors' gradients
            v_parts = np.zeros((frame.parts, *colors.shape), colors.dtype) if wide else None
            v_alpha = _gradient(v_alpha, trans[..., None])[..., 0]
            v_splats = empty((frame.parts, *frame.splats.shape), colors.dtype)
            _in_threads(
                _blend_backward,
                frame.parts,
                *frame.tiles,
                v_image,
                v_parts,
                colors if wide else None,
                image,
                trans,
                v_alpha,
                np.array(frame.visible),
                v_splats,
            )
            v_colors = np.zeros_like(colors) if v_parts is None else v_parts.sum(0)
            arrays = [np.zeros_like(t) for t in gaussians]
            *geometry, opacities = gaussians
            *v_geometry, v_opacities = arrays
            _in_threads(
                _project_backward,
                frame.parts,
                *geometry,
                opacities[:, None],
                frame.view,
                frame.K,
                frame.size,
                frame.splats,
                frame.index,
                frame.visible,
                v_splats,
                v_colors,
                *v_geometry,
                v_opacities[:, None],
            )
            grads = [torch.from_numpy(array) for array in arrays]
        else:
            v_colors = _lifted(frame, v_image)
        return *grads, torch.from_numpy(v_colors)[:, :channels], *[None] * 5


def _lifted(frame: _Frame, picture: np.ndarray) -> np.ndarray:
    """Wᵀ picture [H, W, D] -> [N, D]."""
    shape = len(frame.index), picture.shape[2]
    sums = [empty(shape, picture.dtype) for _ in range(frame.parts)]  # only the first stays
    _in_threads(_blend_colors_backward, frame.parts, *frame.tiles, picture, sums)
    for other in sums[1:]:
        sums[0] += other
    return sums[0]


def lift(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    picture: Tensor,  # [H, W, D], of the Gaussians' dtype
    rules: tuple[float, ...],
) -> Tensor:
    """See langsplat.rasterize; [N, D]."""
    array = picture.contiguous().numpy()
    nothing = np.empty((len(gaussians[0]), 0), array.dtype)
    frame = see(gaussians, nothing, viewmat, K, array.shape[1], array.shape[0], rules)
    return torch.from_numpy(_lifted(frame, array))


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
    # Colors [N, D] are passed as they are: gradients of views of them would be torch operations.
    each = colors if colors.ndim == 3 else [colors] * len(viewmats)
    views = [
        _Rasterize.apply(means, quats, scales, opacities, color, view, K, width, height, rules)
        for color, view, K in zip(each, viewmats, Ks, strict=True)
    ]
    image, alpha = zip(*views, strict=True)
    if len(views) == 1:
        return image[0][None], alpha[0][None]
    return torch.stack(image), torch.stack(alpha)


# ----------------------------------------------------------------- spherical harmonics


@_inner
def harmonics(x, y, z):
    """The real spherical harmonics of degrees 1 to 3 in a unit direction, numbers or tensors.

    Their signs are those of the 3DGS reference code.
    """
    xx, yy, zz = x * x, y * y, z * z
    return (
        -0.4886025119029199 * y,
        0.4886025119029199 * z,
        -0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy),
        -0.5900435899266435 * x * (xx - 3 * yy),
    )


@_kernel
def _color(part, parts, sh, dirs, used, constant, out):
    """Write the colors [N, 3] of a part's Gaussians, from the first `used` of their harmonics."""
    n, kind = sh.shape[0], sh.dtype.type
    for i in range(n * part // parts, n * (part + 1) // parts):
        x, y, z = dirs[i, 0], dirs[i, 1], dirs[i, 2]
        scale = 1 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
        bases = harmonics(x * scale, y * scale, z * scale)
        red = kind(0.5 + constant * sh[i, 0, 0])
        green = kind(0.5 + constant * sh[i, 0, 1])
        blue = kind(0.5 + constant * sh[i, 0, 2])
        for k in range(1, used):
            base = kind(bases[k - 1])
            red += base * sh[i, k, 0]
            green += base * sh[i, k, 1]
            blue += base * sh[i, k, 2]
        out[i, 0], out[i, 1], out[i, 2] = red, green, blue


@_kernel
def _color_backward(part, parts, v_rgb, dirs, used, constant, v_sh):
    """Write the gradients [N, K, 3] of a part's harmonics; 0 beyond the first `used`."""
    n, kind = v_sh.shape[0], v_sh.dtype.type
    for i in range(n * part // parts, n * (part + 1) // parts):
        x, y, z = dirs[i, 0], dirs[i, 1], dirs[i, 2]
        scale = 1 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
        bases = harmonics(x * scale, y * scale, z * scale)
        red, green, blue = v_rgb[i, 0], v_rgb[i, 1], v_rgb[i, 2]
        for k in range(v_sh.shape[1]):
            base = kind(constant)
            if k > 0:
                base = kind(bases[k - 1]) if k < used else kind(0)
            v_sh[i, k, 0] = base * red
            v_sh[i, k, 1] = base * green
            v_sh[i, k, 2] = base * blue


class _Color(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sh, dirs, used, constant):  # type: ignore[no-untyped-def]
        values, dirs = (t.detach().contiguous().numpy() for t in (sh, dirs))
        ctx.parts, ctx.shape = torch.get_num_threads(), values.shape
        ctx.given = dirs, used, constant
        out = empty((len(values), 3), values.dtype)
        _in_threads(_color, ctx.parts, values, *ctx.given, out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, v_rgb):  # type: ignore[no-untyped-def]
        v_rgb = v_rgb.contiguous().numpy()
        v_sh = empty(ctx.shape, v_rgb.dtype)
        _in_threads(_color_backward, ctx.parts, v_rgb, *ctx.given, v_sh)
        return torch.from_numpy(v_sh), None, None, None


def sh_to_rgb(sh: Tensor, dirs: Tensor, used: int, constant: float) -> Tensor:
    """See langsplat.rasterize; with the first `used` harmonics. Differentiable in sh only.

    In torch it is forty operations, which all read and write memory: at least five times as slow.
    """
    return _Color.apply(sh, dirs.to(sh.dtype), used, constant)


# ----------------------------------------------------------------- similarity of pictures


@_kernel
def _compare(part, parts, x, y, window, c1, c2, slopes, totals):
    """Write the sum of SSIM over a part's rows of windows to totals[part], and its slopes.

    x and y are [H, W, C], slopes [3, rows, C columns]: the derivatives of each window's SSIM by its
    means of x, of x² + y², and of x y.
    """
    height, width, channels = x.shape
    taps, dtype = window.shape[0], x.dtype.type
    line, rows = width * channels, height - taps + 1
    across = line - (taps - 1) * channels
    x, y, slopes, plane = flattened(x), flattened(y), flattened(slopes), rows * across
    # Of one row of windows: means down the columns, and then zeros for the lanes beyond its end.
    size = line + taps * channels + 2 * LANES
    means_x, means_y = room(size, x.dtype), room(size, x.dtype)
    squares, products = room(size, x.dtype), room(size, x.dtype)
    number, zero, total = room(LANES, x.dtype), spread(dtype(0)), 0.0
    for k in range(LANES):
        number[k] = k
    for j in range(line, size):
        means_x[j] = means_y[j] = squares[j] = products[j] = 0
    for row in range(rows * part // parts, rows * (part + 1) // parts):
        for j in range(0, line, LANES):
            mean_x, mean_y, square, product = zero, zero, zero, zero
            for k in range(taps):
                at, end = (row + k) * line + j, (row + k + 1) * line
                a, b = load_until(x, at, end), load_until(y, at, end)
                share_a, share_b = window[k] * a, window[k] * b
                mean_x += share_a
                mean_y += share_b
                square += share_a * a + share_b * b
                product += share_a * b
            store(means_x, j, mean_x)
            store(means_y, j, mean_y)
            store(squares, j, square)
            store(products, j, product)
        sums = zero
        for j in range(0, across, LANES):
            mean_x, mean_y, square, product = zero, zero, zero, zero
            for k in range(taps):
                at = j + k * channels
                mean_x += window[k] * load(means_x, at)
                mean_y += window[k] * load(means_y, at)
                square += window[k] * load(squares, at)
                product += window[k] * load(products, at)
            # The sum of both variances, and the covariance: var(x) = E[x²] - E[x]².
            both, norms = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
            light, shape = both + both + c1, product + product - both - both + c2
            norms, spreads = norms + c1, square - norms + c2
            share = dtype(1) / (norms * spreads)
            similar = light * shape * share
            by_x = mean_y * (shape - light) - similar * mean_x * (spreads - norms)
            by_square, by_product = similar * norms * share, light * share
            at, end = row * across + j, (row + 1) * across
            store_until(slopes, at, end, (by_x + by_x) * share)
            store_until(slopes, at + plane, end + plane, -by_square)
            store_until(slopes, at + 2 * plane, end + 2 * plane, by_product + by_product)
            sums += where(load(number, 0) < dtype(across - j), similar, zero)
        store(means_x, 0, sums)
        for k in range(LANES):
            total += means_x[k]
    totals[part] = total


@_kernel
def _compare_backward(part, parts, x, y, window, slopes, scale, v_x):
    """Write a part's rows of v_x [H, W, C], `scale` times the gradient of the sum of SSIM by x."""
    height, width, channels = x.shape
    taps, dtype = window.shape[0], x.dtype.type
    line, rows, border = width * channels, height - taps + 1, (taps - 1) * channels
    across = line - border
    x, y, slopes, v_x = flattened(x), flattened(y), flattened(slopes), flattened(v_x)
    # Of one row: sums down the columns of slopes, with zeros on both sides.
    size, plane, zero = border + line + LANES, rows * across, spread(dtype(0))
    first, second, third = room(size, x.dtype), room(size, x.dtype), room(size, x.dtype)
    first[:] = 0
    second[:] = 0
    third[:] = 0
    for row in range(height * part // parts, height * (part + 1) // parts):
        for j in range(0, across, LANES):
            a, b, c = zero, zero, zero
            for k in range(max(0, row - rows + 1), min(taps, row + 1)):
                at, end = (row - k) * across + j, (row - k + 1) * across
                a += window[k] * load_until(slopes, at, end)
                b += window[k] * load_until(slopes, at + plane, end + plane)
                c += window[k] * load_until(slopes, at + 2 * plane, end + 2 * plane)
            store(first, border + j, a)
            store(second, border + j, b)
            store(third, border + j, c)
        for j in range(0, line, LANES):
            a, b, c = zero, zero, zero
            for k in range(taps):
                at = border + j - k * channels
                a += window[k] * load(first, at)
                b += window[k] * load(second, at)
                c += window[k] * load(third, at)
            at, end = row * line + j, (row + 1) * line
            own, other = load_until(x, at, end), load_until(y, at, end)
            store_until(v_x, at, end, (a + (own + own) * b + other * c) * dtype(scale))


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, target, window, constants):  # type: ignore[no-untyped-def]
        ctx.given = window, constants, torch.get_num_threads()
        total, slopes = _compared(image, target, *ctx.given)
        ctx.save_for_backward(image, target, torch.from_numpy(slopes))
        return image.new_tensor(total / slopes[0].size)

    @staticmethod
    @once_differentiable
    def backward(ctx, v_mean):  # type: ignore[no-untyped-def]
        image, target, slopes = ctx.saved_tensors
        window, constants, parts = ctx.given
        grads: list[Any] = [None, None]
        for k, (x, y) in enumerate(((image, target), (target, image))):
            if not ctx.needs_input_grad[k]:
                continue
            own = _compared(x, y, window, constants, parts)[1] if k else slopes.numpy()
            pictures = [t.contiguous().numpy() for t in (x, y)]
            v_x, scale = empty(x.shape, own.dtype), float(v_mean) / own[0].size
            given = window.astype(own.dtype), own, scale, v_x
            _in_threads(_compare_backward, parts, *pictures, *given)
            grads[k] = torch.from_numpy(v_x)
        return *grads, None, None


def _compared(
    image: Tensor, target: Tensor, window: np.ndarray, constants: tuple[float, float], parts: int
) -> tuple[float, np.ndarray]:
    """The sum of SSIM over all windows, and its slopes (`_compare`)."""
    x, y = (t.detach().contiguous().numpy() for t in (image, target))
    (height, width, channels), fewer, kind = x.shape, len(window) - 1, x.dtype.type
    slopes = empty((3, height - fewer, (width - fewer) * channels), x.dtype)
    totals, given = np.empty(parts), (window.astype(kind), *map(kind, constants))
    _in_threads(_compare, parts, x, y, *given, slopes, totals)
    return float(totals.sum()), slopes


def similarity(
    image: Tensor, target: Tensor, window: np.ndarray, constants: tuple[float, float]
) -> Tensor:
    """SSIM of pictures [H, W, C] of one dtype, float32 or float64: see langsplat.metrics.

    In torch it takes five times as long, as each of its forty operations goes through memory.

    Args:
        window: [taps], its weights along one axis.
        constants: C1 and C2.
    """
    return _Similarity.apply(image, target, window, constants)


# ----------------------------------------------------------------- lifting


@_kernel
def _add_weights(
    part, parts, splats, owners, starts, members, columns, size, rules, labels, weights
):
    """Add the weights of a part's tiles to weights[part] [S, P + 1]; labels are [H, W, L].

    The backward pass for a one-hot picture that is never built: a weight is added to the sums of
    the pixel's own labels. A one-hot picture of 150 channels costs ten times as much. owners [N]
    tells which sums are a splat's, -1 for none.
    """
    dtype = splats.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, near, items, begins = _workspace(splats.dtype)
    left, top = _corners(splats.dtype, SIDE)
    kept = room(LANES, splats.dtype)
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            end = min(first + BATCH, starts[tile + 1])
            used = _plan(splats, members, first, end, x0, y0, left, top, alive, near, items, begins)
            for k in range(used):
                p, row, _, _, _, _, weight, _ = _pass(
                    state, near, np.int64(items[k]), alpha_max, stop
                )
                owner = owners[members[first + row // COLUMNS]]
                if owner < 0:
                    continue
                store(kept, 0, weight)
                target = weights[part, owner]
                todo = bits(weight > 0)
                while todo != 0:
                    lane = lowest_bit(todo)
                    todo &= todo - 1
                    x, y = _pixel(p // FIELDS, lane)
                    own, share = labels[y0 + y, x0 + x], kept[lane]
                    for j in range(own.shape[0]):
                        target[own[j]] += share


@_kernel
def _add_labels(part, parts, weights, seen, present, sums):
    """Add weights [parts, S, P + 1] of some Gaussians and labels to sums [R, count].

    Those of a part's Gaussians; seen [S] and present [P] tell where they belong.
    """
    count = seen.shape[0]
    for i in range(count * part // parts, count * (part + 1) // parts):
        target = sums[seen[i]]
        for j in range(present.shape[0]):
            total = weights[0, i, j]
            for other in range(1, weights.shape[0]):
                total += weights[other, i, j]
            target[present[j]] += total


def _listed(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> tuple[_Frame, np.ndarray]:
    """A view without colors, and which of its splats some tile lists, in their order."""
    means = gaussians[0].detach().numpy()
    colors = np.empty((len(means), 0), means.dtype)
    frame = see(gaussians, colors, viewmat, K, width, height, rules)
    listed = np.zeros(len(frame.splats), bool)
    listed[frame.members] = True
    return frame, np.flatnonzero(listed)


def lift_labels(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    labels: Tensor,  # [H, W, L] int64
    rules: tuple[float, ...],
    sums: Tensor,  # [R, count], added to
    first: int,
) -> None:
    """See langsplat.rasterize.

    A view sees few of a large scene's Gaussians and labels, so weights are kept only for these.
    """
    height, width = labels.shape[:2]
    frame, splats = _listed(gaussians, viewmat, K, width, height, rules)
    seen = frame.index[splats].astype(np.int64) - first
    wanted = (seen >= 0) & (seen < len(sums))
    splats, seen = splats[wanted], seen[wanted]
    owners = np.full(len(frame.splats), -1, np.int32)
    owners[splats] = np.arange(len(splats))
    numbers = labels.numpy()
    present = np.flatnonzero(np.bincount(numbers.ravel() + 1, minlength=sums.shape[1] + 1)[1:])
    # No label, -1, points to the extra last place, and through it to the extra last sum.
    columns = np.full(sums.shape[1] + 1, len(present), np.int32)
    columns[present] = np.arange(len(present))
    weights = np.zeros((frame.parts, len(seen), len(present) + 1), frame.splats.dtype)
    tiles = frame.starts, frame.members, frame.columns, frame.size, frame.rules
    _in_threads(_add_weights, frame.parts, frame.splats, owners, *tiles, columns[numbers], weights)
    _in_threads(_add_labels, frame.parts, weights, seen, present, sums.numpy())


# ----------------------------------------------------------------- the heaviest of many channels


@_kernel
def _find_heaviest(
    part, parts, taken, splats, owners, starts, members, columns, size, rules,
    places, codes, words, support, labels,
):  # fmt: skip
    """Of a part's tiles, which of a level's V words weighs most: labels [L, H, W], -1 for none.

    The forward pass for a picture of L (V + 1) channels that is never built, with its roundings: a
    splat's owner has codes [S, E] in the channels places [S, E], and 0 in all others. The last
    channel of a level must reach `support`.
    """
    dtype = splats.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, _, items, _ = _workspace(splats.dtype)
    left, top = _corners(splats.dtype, SIDE)
    longest = np.int64(1)
    for tile in range(starts.shape[0] - 1):
        longest = max(longest, starts[tile + 1] - starts[tile])
    near, masks = room(longest * COLUMNS, splats.dtype), room(longest + BATCH, np.uint16)
    planes = room(labels.shape[0] * (words + 1) * LANES, splats.dtype)
    planes[:] = 0
    found, zero = room(LANES, splats.dtype), spread(dtype(0))
    flat = flattened(splats)
    tile = _next_tile(np.int64(-1), taken)
    while tile < starts.shape[0] - 1:
        x0, y0 = _start_tile(tile, columns, size, state)
        begin, count = starts[tile], starts[tile + 1] - starts[tile]
        masks[:] = 0
        for j in range(count):
            masks[j] = _approach(flat, members, begin + j, x0, y0, left, top, near, j * COLUMNS)
        for block in range(BLOCKS):
            p = block * FIELDS
            x, y, light = load(state, X + p), load(state, Y + p), load(state, LIGHT + p)
            for first in range(0, count, BATCH):
                if bits(light > 0) == 0:
                    break
                todo = 0
                for j in range(0, BATCH, LANES):
                    todo = append_bits(items, todo, column_bits(masks, first + j, block), j)
                for k in range(todo):
                    number = first + np.int64(items[k])
                    _, _, light, _, weight, _ = _shade(
                        x, y, light, near, number * COLUMNS, alpha_max, stop
                    )
                    if bits(weight > 0) == 0:
                        continue
                    owner = owners[members[begin + number]]
                    for e in range(places.shape[1]):
                        at = np.int64(places[owner, e]) * LANES
                        store(planes, at, load(planes, at) + weight * codes[owner, e])
            for level in range(labels.shape[0]):
                most, which = zero - 1, zero
                at = level * (words + 1) * LANES
                for word in range(words):
                    plane = load(planes, at)
                    which = where(plane > most, dtype(word), which)
                    most = max(plane, most)
                    store(planes, at, zero)
                    at += LANES
                store(found, 0, where(load(planes, at) >= dtype(support), which, zero - 1))
                store(planes, at, zero)
                for lane in range(LANES):
                    u, v = _pixel(block, lane)
                    if x0 + u < size[0] and y0 + v < size[1]:
                        labels[level, y0 + v, x0 + u] = found[lane]
        tile = _next_tile(tile, taken)


def find_heaviest(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
    rows: Tensor,  # [L, N, D]
    codes: Tensor,  # [L, N, D]
    described: Tensor,  # [L, N]
    words: int,
    support: float,
) -> Tensor:
    """See langsplat.rasterize.

    A view sees few of a large scene's Gaussians, so only their codes are gathered.
    """
    frame, splats = _listed(gaussians, viewmat, K, width, height, rules)
    owners = np.empty(len(frame.splats), np.int32)
    owners[splats] = np.arange(len(splats))
    seen = torch.from_numpy(frame.index[splats]).long()
    rows, codes, described = rows[:, seen], codes[:, seen], described[:, seen]
    last = torch.full_like(described, words, dtype=torch.int32)
    places = torch.cat([rows.int(), last[..., None]], dim=2)
    places += (words + 1) * torch.arange(len(rows), dtype=torch.int32)[:, None, None]
    values = torch.cat([codes, described.to(codes)[..., None]], dim=2).to(gaussians[0])
    labels = np.empty((len(rows), height, width), np.int32)
    _in_threads(
        _find_heaviest,
        frame.parts,
        np.zeros(1, np.int64),
        frame.splats,
        owners,
        frame.starts,
        frame.members,
        frame.columns,
        frame.size,
        frame.rules,
        places.transpose(0, 1).flatten(1).numpy(),
        values.transpose(0, 1).flatten(1).numpy(),
        words,
        support,
        labels,
    )
    return torch.from_numpy(labels)
