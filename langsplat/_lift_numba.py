"""Lifting of labels on the CPU: the rasterizer's backward pass for a one-hot picture never built.

A splat's weight at a pixel is added to the sums of the pixel's own labels. With many labels this
is as fast as with one: a one-hot picture of 150 channels costs ten times as much.

Letters: N Gaussians, L labels of a pixel, H W pixels, P parts (threads).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from langsplat._lanes import LANES, bits, lowest_bit, store
from langsplat._rasterize_numba import (
    BATCH,
    COLUMNS,
    FIELDS,
    SIDE,
    _alive,
    _corners,
    _in_threads,
    _kernel,
    _lines,
    _pass,
    _pixel,
    _plan,
    _start_tile,
    _tile_of,
    _workspace,
    see,
)


@_kernel
def _add_weights(part, parts, splats, index, starts, members, columns, size, rules, labels, sums):
    """Add the weights of a part's tiles to sums[part] [N, count + 1]; labels are [H, W, L]."""
    dtype = splats.dtype.type
    alpha_max, stop = dtype(rules[4]), dtype(rules[5])
    state, near, items, begins = _workspace(splats.dtype)
    left, top = _corners(splats.dtype, SIDE)
    weights = _lines(LANES, splats.dtype)
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
                store(weights, 0, weight)
                target = sums[part, index[members[first + row // COLUMNS]]]
                todo = bits(weight > 0)
                while todo != 0:
                    lane = lowest_bit(todo)
                    todo &= todo - 1
                    x, y = _pixel(p // FIELDS, lane)
                    own, share = labels[y0 + y, x0 + x], weights[lane]
                    for j in range(own.shape[0]):
                        target[own[j]] += share


def lift_labels(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    labels: Tensor,  # [H, W, L]
    count: int,
    rules: tuple[float, ...],
) -> Tensor:
    """[N, count]; see langsplat.rasterize."""
    height, width = labels.shape[:2]
    means = gaussians[0].detach().numpy()
    colors = np.empty((len(means), 0), means.dtype)  # none is drawn
    frame = see(gaussians, colors, viewmat, K, width, height, rules)
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
