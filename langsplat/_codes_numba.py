"""What a view keeps on the CPU, so that a new word costs one sparse product.

    weigh      one view -> its blending weights, a sparse matrix of pixels by Gaussians
    measure    weights and a codebook's codes -> what does not depend on the words: 1 / |W S| and
               the best negative, at every level and pixel
    score      codes and one number a codeword, level and word -> one a Gaussian, level and word
    answer     weights and those numbers -> the words' relevancies at every level and pixel
    rate       those numbers -> the words' relevancies on the Gaussians themselves
    half_smooth  relevancies averaged with their box means

A tile has 16 blocks of 4 x 4 pixels. A row of weights is kept where one pixel of a block sees the
Gaussian: 16 numbers, as the square roots of the weights in 16 bits (a rounding of 1.5e-5 at
weight 1, less below), and its owner, the Gaussian's number. The rows of a block lie together, so
that sums over them stay in registers. Nothing is as wide as a picture and as deep as a codebook:
`measure` adds up one block's weights of codewords at a time, in the cache, and only for codewords
that occur there.

The inner loops run over whole rows and are written as vectors of 16 for LLVM, which splits them
where the machine's are shorter.

Letters: N Gaussians, L levels, V codewords of a level, T words, E entries of a code over all
levels, R rows of weights. A place is a codeword's number over all levels, level * V + codeword; a
channel is a level's number over all words, word * L + level.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numpy.typing import NDArray

from langsplat._lanes import (
    LANES,
    Lanes,
    append_bits,
    bits,
    column_bits,
    fetch,
    load,
    load_until,
    lowest_bit,
    prefetch,
    spread,
    store,
    store_fours,
    store_until,
    where,
)
from langsplat._rasterize_numba import (
    BATCH,
    BLOCKS,
    COLUMNS,
    FIELDS,
    LIGHT,
    SIDE,
    TILE,
    X,
    Y,
    _alive,
    _approach,
    _corners,
    _empty_lines,
    _half_to,
    _in_threads,
    _kernel,
    _lines,
    _pixel,
    _prepare,
    _shade,
    _start_tile,
    _tile_of,
    _workspace,
)

Array = NDArray[Any]

ONE = 65_535.0  # the square root of weight 1, as kept
NEGATIVES = 4  # compared at once
QUADRATIC = 8  # lines of a Gram matrix multiplied at once
WIDE, THIN = 16, 4  # channels summed at once; a Gaussian's are padded to whole THINs
ROWS_A_PAIR = 8  # of a Gaussian and a tile; scenes have 3 to 7 of at most 16
# Half, less what a running sum may add to it: where a word scores just as a negative does, 0.5, the
# smoothed score must not be above it.
ROUNDED_DOWN = 0.5 * (1 - 2e-6)
_LATER = 24  # rows; what belongs to the Gaussian that far ahead is fetched into the cache

_ROW = ir.VectorType(ir.FloatType(), LANES)
_ROOTS = ir.VectorType(ir.IntType(16), LANES)
_INT = ir.IntType(64)
_LANES = Lanes(types.float32)


# ----------------------------------------------------------------- blocks of 16 pixels as vectors


# In what follows an array is a pair of its type and its value.


def _address(context, builder, array, offset):  # type: ignore[no-untyped-def]
    view = context.make_array(array[0])(context, builder, array[1])
    return builder.gep(view.data, [offset])


def _number(context, builder, array, offset):  # type: ignore[no-untyped-def]
    """An element of an integer array, as a 64-bit index."""
    value = builder.load(_address(context, builder, array, offset))
    if value.type.width == 64:
        return value
    return builder.sext(value, _INT) if array[0].dtype.signed else builder.zext(value, _INT)


def _row(context, builder, array, offset):  # type: ignore[no-untyped-def]
    """16 floats, or the squares of 16 kept roots."""
    pointer = _address(context, builder, array, offset)
    if array[0].dtype != types.uint16:
        return builder.load(builder.bitcast(pointer, _ROW.as_pointer()), align=4)
    roots = builder.load(builder.bitcast(pointer, _ROOTS.as_pointer()), align=2)
    roots = builder.uitofp(roots, _ROW)
    return builder.fmul(roots, roots)


def _call(builder, name, *rows):  # type: ignore[no-untyped-def]
    function = ir.FunctionType(_ROW, [_ROW] * len(rows))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.v{LANES}f32"), rows
    )


def _all_lanes(context, builder, array, offset):  # type: ignore[no-untyped-def]
    """One element of a float array, 16 times."""
    value = builder.load(_address(context, builder, array, offset))
    nothing = ir.Constant(_ROW, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    one = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, first)


def _sums(builder, count, first, end, factors):  # type: ignore[no-untyped-def]
    """`count` rows, in registers: sums over k = first ... end - 1 of the pairs factors(k) gives."""
    sums = [cgutils.alloca_once(builder, _ROW) for _ in range(count)]
    for register in sums:
        builder.store(ir.Constant(_ROW, [0.0] * LANES), register)
    with cgutils.for_range_slice(builder, first, end, _INT(1)) as (k, _):
        for register, pair in zip(sums, factors(k), strict=True):
            builder.store(_call(builder, "fma", *pair, builder.load(register)), register)
    return [builder.load(register) for register in sums]


def _keep_code(typingctx, target, i, source, j):  # type: ignore[no-untyped-def]
    """target[i ... + 16] = the roots of source[j ... + 16], 0 to 1 as 0 to ONE."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, i, source, j = zip(signature.args, args, strict=True)
        row = _call(builder, "sqrt", _row(context, builder, source, j[1]))
        scale, half = (ir.Constant(_ROW, [value] * LANES) for value in (ONE, 0.5))
        row = _call(builder, "fma", row, scale, half)
        row = builder.trunc(builder.fptosi(row, ir.VectorType(ir.IntType(32), LANES)), _ROOTS)
        pointer = _address(context, builder, target, i[1])
        builder.store(row, builder.bitcast(pointer, _ROOTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


def _add_code(typingctx, planes, places, codes, first, end, source, j):  # type: ignore[no-untyped-def]
    """Entries of a code, first ... end - 1: each one's plane += its code * source[j ... + 16]."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        planes, places, codes, first, end, source, j = zip(signature.args, args, strict=True)
        row = _row(context, builder, source, j[1])
        with cgutils.for_range_slice(builder, first[1], end[1], _INT(1)) as (e, _):
            place = builder.mul(_number(context, builder, places, e), _INT(LANES))
            at = builder.bitcast(_address(context, builder, planes, place), _ROW.as_pointer())
            code = _all_lanes(context, builder, codes, e)
            now = _call(builder, "fma", code, row, builder.load(at, align=4))
            builder.store(now, at, align=4)
        return context.get_dummy_value()

    at = types.int64
    return types.void(planes, places, codes, at, at, source, at), generate


def _products(context, builder, matrix, lines, words, planes, first, present, end):  # type: ignore[no-untyped-def]
    """Some lines of a matrix [.., V] times the planes of the codewords present[:end].

    The plane of codeword v is planes[(first + v) * 16 ...].
    """
    starts = [builder.mul(line, words) for line in lines]

    def factors(k):  # type: ignore[no-untyped-def]
        word = _number(context, builder, present, k)
        plane = _plane(context, builder, planes, first, word)
        of_lines = (builder.add(start, word) for start in starts)
        return [(_all_lanes(context, builder, matrix, at), plane) for at in of_lines]

    return _sums(builder, len(lines), _INT(0), end, factors)


def _plane(context, builder, planes, first, word):  # type: ignore[no-untyped-def]
    return _row(context, builder, planes, builder.mul(builder.add(first, word), _INT(LANES)))


def _linear_code(typingctx, matrix, line, words, planes, first, present, end):  # type: ignore[no-untyped-def]
    """Lines of a matrix [.., V], from `line` on NEGATIVES + 1, times the planes present."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = list(zip(signature.args, args, strict=True))
        _, line, words, _, first, _, end = args
        lines = [builder.add(line, _INT(i)) for i in range(NEGATIVES + 1)]
        rows = _products(
            context, builder, arrays[0], lines, words, arrays[3], first, arrays[5], end
        )
        return context.make_tuple(builder, signature.return_type, rows)

    at, rows = types.int64, types.UniTuple(_LANES, NEGATIVES + 1)
    return rows(matrix, at, at, planes, at, present, at), generate


def _quadratic_code(typingctx, gram, line, words, planes, first, present, begin, end):  # type: ignore[no-untyped-def]
    """For QUADRATIC codewords, from present[begin] on: sum of plane * (line of gram . planes).

    The lines of this level begin at `line`.
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = list(zip(signature.args, args, strict=True))
        _, line, words, _, first, _, begin, end = args
        gram, planes, present = arrays[0], arrays[3], arrays[5]
        own = [
            _number(context, builder, present, builder.add(begin, _INT(i)))
            for i in range(QUADRATIC)
        ]
        lines = [builder.add(line, word) for word in own]
        rows = _products(context, builder, gram, lines, words, planes, first, present, end)
        total = ir.Constant(_ROW, [0.0] * LANES)
        for word, row in zip(own, rows, strict=True):
            total = _call(builder, "fma", _plane(context, builder, planes, first, word), row, total)
        return total

    at = types.int64
    return _LANES(gram, at, at, planes, at, present, at, at), generate


def _sum_of(count):  # type: ignore[no-untyped-def]
    def code(typingctx, weights, owners, first, end, values, pitch, channel, sums):  # type: ignore[no-untyped-def]
        """Rows first ... end - 1 of weights times `count` channels of their owners' values.

        Written to sums[channel * 16 ...]. Values are [N, pitch].
        """

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            weights, owners, first, end, values, pitch, channel, sums = zip(
                signature.args, args, strict=True
            )

            last = builder.sub(end[1], _INT(1))

            def place(k):  # type: ignore[no-untyped-def]
                owner = _number(context, builder, owners, k)
                return builder.add(builder.mul(owner, pitch[1]), channel[1])

            def factors(k):  # type: ignore[no-untyped-def]
                later = builder.add(k, _INT(_LATER))
                later = builder.select(builder.icmp_signed("<", later, last), later, last)
                fetch(context, builder, *values, place(later))
                row = _row(context, builder, weights, builder.mul(k, _INT(LANES)))
                at = place(k)
                places = (builder.add(at, _INT(i)) for i in range(count))
                return [(_all_lanes(context, builder, values, place), row) for place in places]

            rows = _sums(builder, count, first[1], end[1], factors)
            for i, row in enumerate(rows):
                at = builder.mul(builder.add(channel[1], _INT(i)), _INT(LANES))
                pointer = _address(context, builder, sums, at)
                builder.store(row, builder.bitcast(pointer, _ROW.as_pointer()), align=4)
            return context.get_dummy_value()

        at = types.int64
        return types.void(weights, owners, at, at, values, at, at, sums), generate

    return code


_keep: Callable[..., None] = extending.intrinsic(_keep_code)
_add: Callable[..., None] = extending.intrinsic(_add_code)
_linear: Callable[..., Any] = extending.intrinsic(_linear_code)
_quadratic: Callable[..., Any] = extending.intrinsic(_quadratic_code)
_sum_wide: Callable[..., None] = extending.intrinsic(_sum_of(WIDE))
_sum_thin: Callable[..., None] = extending.intrinsic(_sum_of(THIN))


# ----------------------------------------------------------------- kernels


@_kernel
def _weigh(
    part, parts, weights, owners, splats, index, starts, members, columns, size, rules, spans
):
    """A part's rows of weights and their owners; those of a block lie in spans[tile, block].

    They are put into weights and owners, and into larger copies if these are too short.
    """
    alpha_max, stop = np.float32(rules[4]), np.float32(rules[5])
    state, near, items, _ = _workspace(splats.dtype)
    masks, flat = np.empty(BATCH, np.uint16), splats.reshape(-1)
    left, top = _corners(splats.dtype, SIDE)
    tiles = starts.shape[0] - 1
    most = 1
    for tile in range(tiles):
        most = max(most, (starts[tile + 1] - starts[tile]) * BLOCKS)
    # Of one tile, as they come: some splats at a time, of these block by block.
    drawn = _lines(most * LANES, splats.dtype)
    owned, blocks = np.empty(most, np.uint32), np.empty(most, np.uint8)
    cursors = np.empty(BLOCKS, np.int64)
    room, used = owners.shape[0], 0
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= tiles:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        count = 0
        cursors[:] = 0
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            masks[:] = 0
            for j in range(min(BATCH, starts[tile + 1] - first)):
                touched = _approach(flat, members, first + j, x0, y0, left, top, near, j * COLUMNS)
                masks[j] = touched & alive
            for block in range(BLOCKS):
                todo, p = 0, block * FIELDS
                for j in range(0, BATCH, LANES):
                    todo = append_bits(items, todo, column_bits(masks, j, block), j)
                x, y, light = load(state, X + p), load(state, Y + p), load(state, LIGHT + p)
                for k in range(todo):
                    number = np.int64(items[k])
                    row = number * COLUMNS
                    _, _, light, _, weight, _ = _shade(x, y, light, near, row, alpha_max, stop)
                    store(drawn, count * LANES, weight)
                    owned[count] = index[members[first + number]]
                    blocks[count] = block
                    count += 1
                store(state, LIGHT + p, light)
                cursors[block] += todo
        if used + count > room:
            room += room // 2 + count
            more, names = np.empty(room * LANES, np.uint16), np.empty(room, np.uint32)
            more[: used * LANES] = weights[: used * LANES]
            names[:used] = owners[:used]
            weights, owners = more, names
        for block in range(BLOCKS):
            spans[tile, block, 0] = spans[tile, block, 1] = used
            used += cursors[block]
        for k in range(count):
            block = blocks[k]
            at = spans[tile, block, 1]
            # Written first and kept if anything is in it: a branch would be mispredicted.
            _keep(weights, at * LANES, drawn, k * LANES)
            owners[at] = owned[k]
            spans[tile, block, 1] += bits(load(drawn, k * LANES) > 0) != 0
    return weights[: used * LANES], owners[:used]


@_kernel
def _measure(
    part, parts, weights, owners, spans, columns, places, codes, counts, marks, gram, lines,
    enough, inverse, best,
):  # fmt: skip
    """Write inverse and best [tiles, BLOCKS, L, 16] of a part's tiles.

    gram [L, V + 1, V] is the lower triangle of S Sᵀ with all but its diagonal doubled, and a line
    of zeros; lines [L, groups, NEGATIVES + 1, V] the negatives, and at last of each group ones.
    """
    levels, words, groups = gram.shape[0], gram.shape[2], lines.shape[1]
    entries, total = places.shape[1], levels * words
    places, codes = places.reshape(-1), codes.reshape(-1)
    gram, lines = gram.reshape(-1), lines.reshape(-1)
    inverse, best = inverse.reshape(-1), best.reshape(-1)
    # The last one is that of codeword V of the last level, which stands for none.
    planes = _lines((total + 1) * LANES, np.float32)
    planes[:] = 0
    marked, found = marks.shape[1], np.zeros(marks.shape[1], np.int64)
    marks = marks.reshape(-1)
    present = np.empty(words + QUADRATIC, np.int64)
    zero = spread(np.float32(0))
    for turn in range(spans.shape[0] + 1):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= spans.shape[0]:
            break
        last = spans[tile, BLOCKS - 1, 1] - 1
        for block in range(BLOCKS):
            for k in range(spans[tile, block, 0], spans[tile, block, 1]):
                soon = np.int64(owners[min(k + _LATER, last)])
                prefetch(places, soon * entries)
                prefetch(codes, soon * entries)
                i = np.int64(owners[k])
                first = i * entries
                for j in range(marked):
                    found[j] |= marks[i * marked + j]
                _add(planes, places, codes, first, first + counts[i], weights, k * LANES)
            for level in range(levels):
                first, n = level * words, 0
                for j in range(level * marked // levels, (level + 1) * marked // levels):
                    while found[j] != 0:
                        present[n] = (j - level * marked // levels) * 64 + lowest_bit(found[j])
                        n += 1
                        found[j] &= found[j] - 1
                present[n : n + QUADRATIC] = words
                line, square = level * (words + 1), zero
                for b in range(0, n, QUADRATIC):
                    end = min(b + QUADRATIC, n)
                    square += _quadratic(gram, line, words, planes, first, present, b, end)
                high, support = zero - np.float32(np.inf), zero
                for group in range(groups):
                    line = (level * groups + group) * (NEGATIVES + 1)
                    a, b, c, d, support = _linear(lines, line, words, planes, first, present, n)
                    high = max(high, max(max(a, b), max(c, d)))
                scale = np.float32(1) / math.sqrt(square + np.float32(1e-12))
                at = ((tile * BLOCKS + block) * levels + level) * LANES
                store(inverse, at, where(support > enough, scale, np.float32(0)))
                store(best, at, high * scale)
                for j in range(n):
                    store(planes, (first + present[j]) * LANES, zero)


@_kernel
def _relevancy(dot, inverse, best, steep):
    """1 / (1 + 2^-margin) of lanes, margin = steep (dot * inverse - best); 0 where inverse is."""
    zero = np.float32(0)
    margin = (dot * inverse - best) * steep
    e = _half_to(min(abs(margin), np.float32(36)))
    unit = _half_to(spread(zero))  # near 1, so that a margin of 0 gives 0.5
    return where(inverse > zero, where(margin >= zero, unit, e) / (unit + e), zero)


@_kernel
def _answer(part, parts, weights, owners, spans, columns, values, inverse, best, sharpness, out):
    """Write the relevancies [T L, H, W] of a part's tiles, from values [N, T L padded]."""
    pitch, levels = values.shape[1], inverse.shape[2]
    channels, height, width = out.shape
    values, picture = values.reshape(-1), out.reshape(-1)
    inverse, best = inverse.reshape(-1), best.reshape(-1)
    sums, steep = _lines(pitch * LANES, np.float32), np.float32(sharpness / math.log(2))
    for turn in range(spans.shape[0] + 1):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= spans.shape[0]:
            break
        for block in range(BLOCKS):
            u, v = _pixel(block, 0)
            x0, y0 = tile % columns * TILE + u, tile // columns * TILE + v
            if x0 >= width or y0 >= height:
                continue
            first, end = spans[tile, block]
            channel = 0
            while channel + WIDE <= pitch:
                _sum_wide(weights, owners, first, end, values, pitch, channel, sums)
                channel += WIDE
            while channel < pitch:
                _sum_thin(weights, owners, first, end, values, pitch, channel, sums)
                channel += THIN
            whole = x0 + SIDE <= width and y0 + SIDE <= height
            for channel in range(channels):
                at = ((tile * BLOCKS + block) * levels + channel % levels) * LANES
                dot = load(sums, channel * LANES)
                share = _relevancy(dot, load(inverse, at), load(best, at), steep)
                if whole:
                    store_fours(picture, (channel * height + y0) * width + x0, width, share)
                else:
                    store(sums, channel * LANES, share)
                    for y in range(min(SIDE, height - y0)):
                        for x in range(min(SIDE, width - x0)):
                            pixel = sums[channel * LANES + y * SIDE + x]
                            out[channel, y0 + y, x0 + x] = pixel


@_kernel
def _score(part, parts, places, codes, counts, table, out):
    """Write out [N, T L padded] of a part's Gaussians: the codes times table [places, ..].

    The table's lines are padded to whole lanes; each is zero in the channels of other levels.
    """
    n, entries, pitch, width = places.shape[0], places.shape[1], out.shape[1], table.shape[1]
    places, codes, table = places.reshape(-1), codes.reshape(-1), table.reshape(-1)
    out = out.reshape(-1)
    for i in range(n * part // parts, n * (part + 1) // parts):
        for channel in range(0, width, LANES):
            value = spread(np.float32(0))
            for e in range(i * entries, i * entries + counts[i]):
                value += load(table, np.int64(places[e]) * width + channel) * codes[e]
            store_until(out, i * pitch + channel, (i + 1) * pitch, value)


@_kernel
def _rate(part, parts, values, levels, inverse, best, sharpness, out):
    """Write the relevancies out [T, N padded] of a part's Gaussians, of text t at levels[t].

    inverse and best are [L, N padded] to whole lanes.
    """
    n, pitch, size = values.shape[0], values.shape[1], out.shape[1]
    values, inverse, best = values.reshape(-1), inverse.reshape(-1), best.reshape(-1)
    rated, dots = out.reshape(-1), _lines(LANES, np.float32)
    steep, groups = np.float32(sharpness / math.log(2)), size // LANES
    for first in range(groups * part // parts * LANES, groups * (part + 1) // parts * LANES, LANES):
        for t in range(levels.shape[0]):
            channel = t * (inverse.shape[0] // size) + levels[t]
            for lane in range(LANES):
                dots[lane] = values[min(first + lane, n - 1) * pitch + channel]
            at = levels[t] * size + first
            share = _relevancy(load(dots, 0), load(inverse, at), load(best, at), steep)
            store(rated, t * size + first, share)


@_kernel
def _half_smooth(part, parts, maps, half, peaks):
    """Average each pixel of a part's maps [M, H, W] with the box around it, in place.

    The box reaches `half` pixels each way and is cut at the border. Down a column the sum runs: a
    row enters it and another leaves, which in float32 adds less than 1e-6 to a mean. Along a row it
    is added up from the sums of four neighbours.
    """
    number, height, width = maps.shape
    maps = maps.reshape(-1)
    size, whole, left = 2 * half + 1, -(-width // LANES) * LANES, -(-half // LANES) * LANES
    kept = _lines(size * whole, np.float32)  # the rows of the box, as they were
    sums, share = _lines(whole, np.float32), _lines(whole, np.float32)
    # Zeros, the sums of the columns, zeros; and the sums of four of these.
    runs = _lines(left + whole + 2 * size + 4 * LANES, np.float32)
    fours = _lines(left + whole + 2 * size + 4 * LANES, np.float32)
    runs[:] = 0
    fours[:] = 0
    share[:] = 0
    for x in range(width):
        share[x] = ROUNDED_DOWN / (min(x + half, width - 1) - max(x - half, 0) + 1)
    for m in range(number * part // parts, number * (part + 1) // parts):
        peak = spread(np.float32(0))
        kept[:] = 0
        sums[:] = 0
        for y in range(-half, height):
            at, slot = (m * height + y + half) * width, (y + half) % size * whole
            end = at + width if y + half < height else at
            for x in range(0, width, LANES):
                enters = load_until(maps, at + x, end)
                total = load(sums, x) + (enters - load(kept, slot + x))
                store(kept, slot + x, enters)
                store(sums, x, total)
                store(runs, left + x, total)
            if y < 0:
                continue
            for x in range(0, width + 2 * half, LANES):
                first = left - half + x
                two = load(runs, first) + load(runs, first + 1)
                store(fours, x, two + (load(runs, first + 2) + load(runs, first + 3)))
            rows = min(y + half, height - 1) - max(y - half, 0) + 1
            part_of_rows, slot, at = (
                np.float32(1 / rows),
                y % size * whole,
                (m * height + y) * width,
            )
            for x in range(0, width, LANES):
                total = spread(np.float32(0))
                for place in range(x, x + size - 3, 4):
                    total += load(fours, place)
                for place in range(x + size // 4 * 4, x + size):
                    total += load(runs, left - half + place)
                mean = max(total, np.float32(0)) * load(share, x) * part_of_rows
                smooth = load(kept, slot + x) * np.float32(0.5) + mean
                peak = max(peak, smooth)
                store_until(maps, at + x, at + width, smooth)
        store(sums, 0, peak)
        peaks[m] = sums[:LANES].max()


# ----------------------------------------------------------------- for langsplat.query


@dataclass(frozen=True, eq=False)
class Weights:
    """The blending weights of one view: how much of each pixel each Gaussian paints."""

    rows: list[Array]  # for each part [R * 16] uint16, roots of the weights
    owners: list[Array]  # for each part [R] uint32, which Gaussian
    spans: Array  # [tiles, BLOCKS, 2], where the rows of each block begin and end
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.rows, *self.owners, self.spans))

    def run(self, kernel: Callable[..., Any], *args: Any) -> None:
        columns = -(-self.width // TILE)
        _in_threads(kernel, len(self.rows), self.rows, self.owners, self.spans, columns, *args)


def weigh(
    gaussians: tuple[Array, ...],  # means, quats, scales, opacities; float32
    view: Array,  # [4, 4] float64
    K: Array,  # [3, 3] float64
    width: int,
    height: int,
    rules: tuple[float, ...],
) -> Weights:
    """The blending weights of a view, as the rasterizer has them."""
    n = len(gaussians[0])
    frame = _prepare(gaussians, np.empty((n, 0), np.float32), view, K, width, height, rules)
    spans = np.zeros((len(frame.starts) - 1, BLOCKS, 2), np.int64)
    # More than enough, as what is not used is never there. By numpy: its pages are large, and a
    # kernel's own arrays cost more in page faults than all the rest.
    room = ROWS_A_PAIR * len(frame.members) // frame.parts + BLOCKS
    parts = range(frame.parts)
    empty = [np.empty(room * LANES, np.uint16) for _ in parts]
    nobody = [np.empty(room, np.uint32) for _ in parts]
    world = frame.splats, frame.index, frame.starts, frame.members
    screen = frame.columns, frame.size, frame.rules
    found = _in_threads(_weigh, frame.parts, empty, nobody, *world, *screen, spans)
    rows, owners = zip(*found, strict=True)
    return Weights(list(rows), list(owners), spans, width, height)


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a codebook, all levels of a Gaussian together.

    Args:
        places: [N, E] unsigned, level after level; codes: [N, E] float32, of both the first
            counts[n] columns.
        counts: [N] uint8 or wider.
        marks: [N, L ceil(V / 64)] int64, which codewords these are: bit v % 64 of number v // 64 of
            a level.
        levels, words: L and V.
    """

    places: Array
    codes: Array
    counts: Array
    marks: Array
    levels: int
    words: int

    def score(self, per_codeword: Array) -> "Values":
        """One number a codeword [L, V, T] -> one a Gaussian."""
        channels = per_codeword.shape[2] * self.levels
        pitch, whole = (-(-channels // size) * size for size in (THIN, LANES))
        table = np.zeros((self.levels, self.words, whole), np.float32)
        for level, numbers in enumerate(per_codeword):
            table[level, :, level : channels : self.levels] = numbers
        # A Gaussian's values in as few lines of the cache as can be: they are read in no order.
        lines = _empty_lines(-(-len(self.codes) * pitch // COLUMNS), table.dtype)
        out = lines.reshape(-1)[: len(self.codes) * pitch].reshape(-1, pitch)
        packed = self.places, self.codes, self.counts
        _in_threads(_score, torch.get_num_threads(), *packed, table.reshape(-1, whole), out)
        return Values(out, per_codeword.shape[2])


@dataclass(frozen=True, eq=False)
class Values:
    """What every Gaussian scores for some words, at every level."""

    numbers: Array  # [N, T L padded] float32, the levels of a word side by side
    texts: int  # T


def pack(rows: Array, codes: Array, words: int) -> Codes:
    """rows [L, N, D], codes [L, N, D] >= 0 (0: nothing) -> the same, packed."""
    levels, n, entries = rows.shape
    kind = np.min_scalar_type(max(levels * words - 1, 0))
    first = np.arange(0, levels * words, words)[:, None, None]
    places = (rows + first).transpose(1, 0, 2).reshape(n, levels * entries).astype(kind)
    weights = codes.astype(np.float32).transpose(1, 0, 2).reshape(n, levels * entries)
    order = np.argsort(weights == 0, axis=1, kind="stable")
    places, weights = (np.take_along_axis(array, order, 1) for array in (places, weights))
    counts = (weights != 0).sum(1, dtype=np.min_scalar_type(levels * entries))
    marks = np.zeros((n, levels, -(-words // 64)), np.int64)
    for level, some in enumerate(rows):
        for column, kept in zip(some.T, codes[level].T != 0, strict=True):
            one = np.left_shift(kept.astype(np.int64), column % 64)
            marks[np.arange(n), level, column // 64] |= one
    return Codes(places, weights, counts, marks.reshape(n, levels * marks.shape[2]), levels, words)


def measure(
    weights: Weights, codes: Codes, gram: Array, negatives: Array, support: float
) -> tuple[Array, Array]:
    """What of a pixel's relevancy does not depend on the words.

    Args:
        gram: [L, V, V] float32, S Sᵀ of every level.
        negatives: [L, V, P] float32, the codewords' dot products with P >= 1 negatives.
        support: the share of a pixel that coded Gaussians must paint.
    Returns:
        1 / |W S|, 0 without support, and the highest cosine with a negative: [tiles, 16, L, 16]
        float32, of the pixels of each block, in the scale in which `weights` keeps W.
    """
    levels, words = codes.levels, codes.words
    lower = np.zeros((levels, words + 1, words), np.float32)
    lower[:, :words] = np.tril(gram) + np.tril(gram, -1)
    groups = -(-negatives.shape[2] // NEGATIVES)
    lines = np.ones((levels, groups, NEGATIVES + 1, words), np.float32)
    numbers = np.arange(groups * NEGATIVES).reshape(groups, NEGATIVES) % negatives.shape[2]
    lines[:, :, :NEGATIVES] = negatives.transpose(0, 2, 1)[:, numbers]
    shape = (len(weights.spans), BLOCKS, levels, LANES)
    inverse, best = np.empty(shape, np.float32), np.empty(shape, np.float32)
    packed = codes.places, codes.codes, codes.counts, codes.marks
    enough = np.float32(support * ONE * ONE)
    weights.run(_measure, *packed, lower, lines, enough, inverse, best)
    return inverse, best


def answer(
    weights: Weights, values: Values, inverse: Array, best: Array, sharpness: float, out: Array
) -> None:
    """Write to `out` [T, L, H, W] float32 the relevancies of words in a view; 0 without support."""
    maps = out.reshape(-1, *out.shape[2:])
    weights.run(_answer, values.numbers, inverse, best, sharpness, maps)


def rate(
    values: Values, levels: Sequence[int], inverse: Array, best: Array, sharpness: float
) -> Array:
    """Relevancies [T, N] float32 of the Gaussians, of each word at its own level.

    Args:
        inverse, best: [L, N padded to whole LANES] float32, 1 / the length of a Gaussian's
            embedding, 0 for no answer, and its highest cosine with a negative.
    """
    out = np.empty((values.texts, inverse.shape[1]), np.float32)
    parts, chosen = torch.get_num_threads(), np.array(levels, np.int64)
    _in_threads(_rate, parts, values.numbers, chosen, inverse, best, sharpness, out)
    return out[:, : len(values.numbers)]


def half_smooth(maps: Array, half: int) -> Array:
    """Average each pixel of maps [M, H, W] float32 >= 0, in place, with the mean of the box around.

    The box reaches `half` away. Returns the highest of each map, [M].
    """
    peaks = np.empty(len(maps), np.float32)
    _in_threads(_half_smooth, torch.get_num_threads(), maps, half, peaks)
    return peaks
