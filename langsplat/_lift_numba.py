"""Lifting of labels on the CPU: the rasterizer's backward pass for a one-hot picture never built.

A splat's weight at a pixel is added to the sums of the pixel's own labels. With many labels this
is as fast as with one: a one-hot picture of 150 channels costs ten times as much.

Letters: N Gaussians, L labels of a pixel, H W pixels, P parts (threads).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from langsplat._rasterize_numba import (
    AHEAD,
    AREA,
    LIGHT,
    STATE,
    TILE,
    WEIGHT,
    X,
    Y,
    _all_done,
    _in_threads,
    _kernel,
    _load,
    _pass,
    _prefetch,
    _prepare,
    _rows_of,
    _start_tile,
    _tile_of,
)


@_kernel
def _add_weights(part, parts, splats, index, starts, members, columns, size, rules, labels, sums):
    """Add the weights of a part's tiles to sums[part] [N, count + 1]; labels are [H, W, L]."""
    dtype = splats.dtype.type
    alpha_max, stop, zero = dtype(rules[4]), dtype(rules[5]), dtype(0)
    each = labels.shape[2]
    state = np.empty(STATE, splats.dtype)
    own = np.empty((AREA, each), labels.dtype)
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        for y in range(y0, min(y0 + TILE, size[1])):
            for x in range(x0, min(x0 + TILE, size[0])):
                for k in range(each):
                    own[(y - y0) * TILE + x - x0, k] = labels[y, x, k]
        last = starts[tile + 1] - 1
        for k in range(starts[tile], starts[tile + 1]):
            i = members[k]
            _prefetch(splats, np.int64(members[min(k + AHEAD, last)]))
            splat = splats[i]
            px, py, qy, opacity, reach, at_a, at_b = _load(splat, dtype(x0), dtype(y0))
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
                state[WEIGHT + p] = weight
            target = sums[part, index[i]]
            for p in range(p0, p0 + n):
                weight = state[WEIGHT + p]
                if weight != 0:
                    for j in range(each):
                        target[own[p, j]] += weight
            if k % 16 == 0 and _all_done(state):
                break


def lift_labels(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    labels: Tensor,  # [H, W, L]
    count: int,
    rules: tuple[float, ...],
) -> Tensor:
    """[N, count]; see langsplat.rasterize."""
    arrays = tuple(t.detach().contiguous().numpy() for t in gaussians)
    height, width = labels.shape[:2]
    view, intrinsics = (t.detach().double().contiguous().numpy() for t in (viewmat, K))
    colors = np.zeros((len(arrays[0]), 3), arrays[0].dtype)  # none is drawn
    frame = _prepare(arrays, colors, view, intrinsics, width, height, rules)
    # The extra last sum is where -1, no label, points to.
    own = labels.numpy().astype(np.int32)
    own[own < 0] = count
    sums = np.zeros((frame.parts, len(colors), count + 1), colors.dtype)
    _in_threads(
        _add_weights,
        frame.parts,
        frame.splats,
        frame.index,
        frame.starts,
        frame.members,
        frame.columns,
        frame.size,
        frame.rules,
        own,
        sums,
    )
    total = sums[0] if frame.parts == 1 else sums.sum(0)
    return torch.from_numpy(total[:, :count])
