"""What a view keeps on the CPU, so that a new word costs one sparse product.

    weigh      one view -> its blending weights, a sparse matrix of pixels by Gaussians
    measure    weights and a codebook's codes -> what does not depend on the words: 1 / |W S| and
               the best negative, at every level and pixel
    answer     weights and one number a Gaussian, level and word -> the words' relevancies
    score      codes and one number a codeword, level and word -> one a Gaussian
    half_smooth  relevancies averaged with their box means

A tile has 16 rows of 16 pixels. A row of weights is kept where one of its pixels sees the
Gaussian: 16 numbers, as the square roots of the weights in 16 bits (a rounding of 1.5e-5 at
weight 1, less below), and the owner: the Gaussian's number times 16 plus the number of the row.
Nothing is as wide as a picture and as deep as a codebook: `measure` adds up one tile's weights
of codewords at a time, in the cache, and only for codewords that occur there.

The inner loops run over whole rows and are written as vectors of 16 for LLVM, which splits them
where the machine's are shorter.

Letters: N Gaussians, L levels, V codewords of a level, T words, E entries of a code over all
levels, R rows of weights. A place is a codeword's number over all levels, level * V + codeword.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numpy.typing import NDArray

from langsplat._lanes import LANES, prefetch, store
from langsplat._rasterize_numba import (
    BATCH,
    BLOCKS,
    COLUMNS,
    FIELDS,
    SIDE,
    TILE,
    _alive,
    _corners,
    _half_to,
    _in_threads,
    _kernel,
    _lines,
    _pass,
    _plan,
    _prepare,
    _start_tile,
    _summing_kernel,
    _tile_of,
    _workspace,
)

Array = NDArray[Any]

ONE = 65_535.0  # the square root of weight 1, as kept
# A tile's pixels are numbered block by block, 16 blocks of 4 x 4: TILE numbers are a block's.
AREA = TILE * TILE
STEPS = 4  # blocks in a strip; a plane is one codeword's weights in a strip
STRIP = STEPS * TILE
BLOCK = 5  # lines multiplied at once with the planes of a strip; STEPS x BLOCK sums in registers
_LATER = 24  # rows; the codes of the Gaussian that far ahead are fetched into the cache

_ROW = ir.VectorType(ir.FloatType(), TILE)
_ZEROS = ir.Constant(_ROW, [0.0] * TILE)
_INT = ir.IntType(64)


# ----------------------------------------------------------------- blocks of 16 pixels as vectors


def _address(context, builder, kind, array, offset):  # type: ignore[no-untyped-def]
    view = context.make_array(kind)(context, builder, array)
    return builder.gep(view.data, [offset])


def _number(context, builder, kind, array, offset):  # type: ignore[no-untyped-def]
    """An element of an integer array, as a 64-bit index."""
    value = builder.load(_address(context, builder, kind, array, offset))
    if value.type.width == 64:
        return value
    return builder.sext(value, _INT) if kind.dtype.signed else builder.zext(value, _INT)


def _load_row(context, builder, kind, array, offset):  # type: ignore[no-untyped-def]
    """16 floats, or the squares of 16 kept roots."""
    pointer = _address(context, builder, kind, array, offset)
    if kind.dtype != types.uint16:
        return builder.load(builder.bitcast(pointer, _ROW.as_pointer()), align=4)
    kept = ir.VectorType(ir.IntType(16), TILE).as_pointer()
    roots = builder.uitofp(builder.load(builder.bitcast(pointer, kept), align=2), _ROW)
    return builder.fmul(roots, roots)


def _store_row(context, builder, kind, array, offset, row):  # type: ignore[no-untyped-def]
    pointer = _address(context, builder, kind, array, offset)
    builder.store(row, builder.bitcast(pointer, row.type.as_pointer()), align=2)


def _call(builder, name, *rows):  # type: ignore[no-untyped-def]
    function = ir.FunctionType(_ROW, [_ROW] * len(rows))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.v{TILE}f32"), rows
    )


def _spread(context, builder, kind, array, offset):  # type: ignore[no-untyped-def]
    """One element of a float array, 16 times."""
    value = builder.load(_address(context, builder, kind, array, offset))
    nothing = ir.Constant(_ROW, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), TILE), [0] * TILE)
    one = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, first)


def _any_code(typingctx, source, j):  # type: ignore[no-untyped-def]
    """Whether a row has a number other than 0."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        row = _load_row(context, builder, signature.args[0], *args)
        bits = builder.bitcast(builder.fcmp_ordered("!=", row, _ZEROS), ir.IntType(TILE))
        return builder.icmp_unsigned("!=", bits, ir.IntType(TILE)(0))

    return types.boolean(source, types.int64), generate


def _keep_code(typingctx, target, i, source, j):  # type: ignore[no-untyped-def]
    """target[i ... + 16] = the roots of source[j ... + 16], 0 to 1 as 0 to ONE."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, i, source, j = args
        into, _, of, _ = signature.args
        row = _call(builder, "sqrt", _load_row(context, builder, of, source, j))
        scale, half = (ir.Constant(_ROW, [value] * TILE) for value in (ONE, 0.5))
        row = builder.fptosi(
            _call(builder, "fma", row, scale, half), ir.VectorType(ir.IntType(32), TILE)
        )
        row = builder.trunc(row, ir.VectorType(ir.IntType(16), TILE))
        _store_row(context, builder, into, target, i, row)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


def _add_code(typingctx, target, i, pitch, places, p, factors, f, count, source, j):  # type: ignore[no-untyped-def]
    """16 numbers, e < count: target[i + places[p + e] pitch ...] += factors[f + e] source[j ...]"""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, i, pitch, places, p, factors, f, count, source, j = args
        into, _, _, named, _, given, _, _, of, _ = signature.args
        row = _load_row(context, builder, of, source, j)
        with cgutils.for_range_slice(builder, _INT(0), count, _INT(1)) as (e, _):
            place = _number(context, builder, named, places, builder.add(p, e))
            at = builder.add(i, builder.mul(place, pitch))
            factor = _spread(context, builder, given, factors, builder.add(f, e))
            before = _load_row(context, builder, into, target, at)
            row_now = _call(builder, "fma", factor, row, before)
            _store_row(context, builder, into, target, at, row_now)
        return context.get_dummy_value()

    at = types.int64
    return types.void(target, at, at, places, at, factors, at, at, source, at), generate


def _products(context, builder, matrix, lines, planes, first, present, count):  # type: ignore[no-untyped-def]
    """Lines of a matrix times the planes present of a strip: [lines][STEPS] rows.

    Line r begins at matrix[lines[r]] and is indexed by codeword; the plane of codeword v begins at
    planes[first + v * STRIP]. All sums stay in registers.
    """
    sums = [[cgutils.alloca_once(builder, _ROW) for _ in range(STEPS)] for _ in lines]
    for line in sums:
        for register in line:
            builder.store(_ZEROS, register)
    with cgutils.for_range_slice(builder, _INT(0), count, _INT(1)) as (k, _):
        word = _number(context, builder, present[0], present[1], k)
        at = builder.add(first, builder.mul(word, _INT(STRIP)))
        rows = [
            _load_row(context, builder, planes[0], planes[1], builder.add(at, _INT(TILE * step)))
            for step in range(STEPS)
        ]
        for start, line in zip(lines, sums, strict=True):
            factor = _spread(context, builder, matrix[0], matrix[1], builder.add(start, word))
            for row, register in zip(rows, line, strict=True):
                builder.store(_call(builder, "fma", factor, row, builder.load(register)), register)
    return [[builder.load(register) for register in line] for line in sums]


def _linear_code(typingctx, out, o, matrix, lines, planes, first, present, count):  # type: ignore[no-untyped-def]
    """out[o ...]: BLOCK lines of a matrix times the planes present, STRIP numbers each."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        out, o, matrix, lines, planes, first, present, count = zip(
            signature.args, args, strict=True
        )
        starts = [builder.extract_value(lines[1], i) for i in range(lines[0].count)]
        sums = _products(context, builder, matrix, starts, planes, first[1], present, count[1])
        for i, line in enumerate(sums):
            for step, row in enumerate(line):
                at = builder.add(o[1], _INT(i * STRIP + step * TILE))
                _store_row(context, builder, *out, at, row)
        return context.get_dummy_value()

    at = types.int64
    return types.void(out, at, matrix, lines, planes, at, present, at), generate


def _quadratic_code(typingctx, out, matrix, lines, planes, first, own, present, count):  # type: ignore[no-untyped-def]
    """out[... STRIP] += the sum over BLOCK lines of the plane at own[r] times (line r . planes)."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        out, matrix, lines, planes, first, own, present, count = zip(
            signature.args, args, strict=True
        )
        starts, planes_at = (
            [builder.extract_value(of[1], i) for i in range(lines[0].count)] for of in (lines, own)
        )
        sums = _products(context, builder, matrix, starts, planes, first[1], present, count[1])
        for step in range(STEPS):
            total = _load_row(context, builder, *out, _INT(step * TILE))
            for line, at in zip(sums, planes_at, strict=True):
                row = _load_row(context, builder, *planes, builder.add(at, _INT(step * TILE)))
                total = _call(builder, "fma", row, line[step], total)
            _store_row(context, builder, *out, _INT(step * TILE), total)
        return context.get_dummy_value()

    at = types.int64
    return types.void(out, matrix, lines, planes, at, own, present, at), generate


def _clear_code(typingctx, target, i):  # type: ignore[no-untyped-def]
    """target[i ... + STRIP] = 0."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        for step in range(STEPS):
            at = builder.add(args[1], _INT(step * TILE))
            _store_row(context, builder, signature.args[0], args[0], at, _ZEROS)
        return context.get_dummy_value()

    return types.void(target, types.int64), generate


_any: Callable[..., bool] = extending.intrinsic(_any_code)
_keep: Callable[..., None] = extending.intrinsic(_keep_code)
_add: Callable[..., None] = extending.intrinsic(_add_code)
_linear: Callable[..., None] = extending.intrinsic(_linear_code)
_quadratic: Callable[..., None] = extending.intrinsic(_quadratic_code)
_clear: Callable[..., None] = extending.intrinsic(_clear_code)


# ----------------------------------------------------------------- kernels


@_kernel
def _weigh(part, parts, splats, index, starts, members, columns, size, rules, spans):
    """A part's blocks of weights and their owners; those of a tile are spans[tile, 0 : 2]."""
    alpha_max, stop = np.float32(rules[4]), np.float32(rules[5])
    state, near, items, begins = _workspace(splats.dtype)
    left, top = _corners(splats.dtype, SIDE)
    block = _lines(LANES, splats.dtype)
    room = 6 * members.shape[0] // parts + 64 * TILE
    weights, owners = np.empty(room * LANES, np.uint16), np.empty(room, np.uint32)
    used = 0
    for turn in range(starts.shape[0]):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= starts.shape[0] - 1:
            break
        x0, y0 = _start_tile(tile, columns, size, state)
        spans[tile, 0] = used
        for first in range(starts[tile], starts[tile + 1], BATCH):
            alive = _alive(state)
            if alive == 0:
                break
            end = min(first + BATCH, starts[tile + 1])
            count = _plan(
                splats, members, first, end, x0, y0, left, top, alive, near, items, begins
            )
            if used + count > room:
                room += room // 2 + count
                more, names = np.empty(room * LANES, np.uint16), np.empty(room, np.uint32)
                more[: used * LANES] = weights[: used * LANES]
                names[:used] = owners[:used]
                weights, owners = more, names
            for k in range(count):
                p, row, _, _, _, _, weight, _ = _pass(
                    state, near, np.int64(items[k]), alpha_max, stop
                )
                store(block, 0, weight)
                owner = np.uint32(index[members[first + row // COLUMNS]]) * np.uint32(BLOCKS)
                # Written first and kept if anything is in it: a branch would be mispredicted.
                _keep(weights, used * LANES, block, 0)
                owners[used] = owner + np.uint32(p // FIELDS)
                used += _any(block, 0)
        spans[tile, 1] = used
    return weights[: used * LANES], owners[:used]


@_summing_kernel
def _finish(sums, lines, square, enough):
    """In place: square becomes 1 / its root, 0 without support; sums[:STRIP] the best negative.

    Line `lines - 1` of sums is the support, the others are the negatives.
    """
    for p in range(STRIP):
        best = sums[p]
        for line in range(1, lines - 1):
            best = max(best, sums[line * STRIP + p])
        inverse = np.float32(1) / np.sqrt(square[p] + np.float32(1e-12))
        sums[p] = best * inverse
        square[p] = inverse if sums[(lines - 1) * STRIP + p] > enough else np.float32(0)


@_kernel
def _measure(
    part,
    parts,
    weights,
    owners,
    spans,
    columns,
    places,
    codes,
    counts,
    gram,
    lines,
    enough,
    inverse,
    best,
):
    """Write inverse and best [tiles, L, AREA] of a part's tiles.

    gram [L, V + 1, V] is the lower triangle of S Sᵀ with all but its diagonal doubled, and a line
    of zeros; lines [L, B, V] the negatives, some repeated, and at last ones.
    """
    levels, words, height = gram.shape[0], gram.shape[2], lines.shape[1]
    entries, total = places.shape[1], levels * words
    places, codes = places.reshape(-1), codes.reshape(-1)
    gram, lines = gram.reshape(-1), lines.reshape(-1)
    inverse, best = inverse.reshape(-1), best.reshape(-1)
    planes = np.zeros(total * AREA, np.float32)
    sums, square = np.empty(height * STRIP, np.float32), np.empty(STRIP, np.float32)
    used, present = np.zeros(total, np.bool_), np.empty(words + 1, np.int64)
    for turn in range(spans.shape[0] + 1):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= spans.shape[0]:
            break
        end = spans[tile, 1]
        before = np.int64(-1)
        for k in range(spans[tile, 0], end):
            owner = np.int64(owners[k])
            i = owner // TILE
            row = owner - i * TILE
            if i != before:
                before = i
                soon = np.int64(owners[min(k + _LATER, end - 1)]) // TILE * entries
                prefetch(places, soon)
                prefetch(codes, soon)
                for e in range(i * entries, i * entries + counts[i]):
                    used[places[e]] = True
            at = row // STEPS * (total * STRIP) + row % STEPS * TILE
            e = i * entries
            _add(planes, at, STRIP, places, e, codes, e, counts[i], weights, k * TILE)
        for level in range(levels):
            n = 0
            for word in range(words):
                present[n] = word
                n += used[level * words + word]
                used[level * words + word] = False
            zeros = (level * (words + 1) + words) * words
            for strip in range(AREA // STRIP):
                first = (strip * total + level * words) * STRIP
                square[:] = 0
                for b in range(0, n, BLOCK):
                    end = min(b + BLOCK, n)
                    l0, p0 = _line(b, n, level, words, zeros, first, present)
                    l1, p1 = _line(b + 1, n, level, words, zeros, first, present)
                    l2, p2 = _line(b + 2, n, level, words, zeros, first, present)
                    l3, p3 = _line(b + 3, n, level, words, zeros, first, present)
                    l4, p4 = _line(b + 4, n, level, words, zeros, first, present)
                    own = (p0, p1, p2, p3, p4)
                    _quadratic(square, gram, (l0, l1, l2, l3, l4), planes, first, own, present, end)
                for b in range(0, height, BLOCK):
                    a = (level * height + b) * words
                    block = (a, a + words, a + 2 * words, a + 3 * words, a + 4 * words)
                    _linear(sums, b * STRIP, lines, block, planes, first, present, n)
                _finish(sums, height, square, enough)
                at = ((tile * levels + level) * (AREA // STRIP) + strip) * STRIP
                inverse[at : at + STRIP] = square
                best[at : at + STRIP] = sums[:STRIP]
                for j in range(n):
                    _clear(planes, first + present[j] * STRIP)


@_kernel
def _line(k, n, level, words, zeros, first, present):
    """Where the k-th codeword present has its line in gram and its plane; past the end, zeros."""
    if k < n:
        return (level * (words + 1) + present[k]) * words, first + present[k] * STRIP
    return zeros, first


@_kernel
def _within(x, y):
    """The number within its tile of the pixel in column x and row y."""
    block = y // SIDE * (TILE // SIDE) + x // SIDE
    return block * LANES + y % SIDE * SIDE + x % SIDE


@_kernel
def _answer(part, parts, weights, owners, spans, columns, values, inverse, best, sharpness, out):
    """Write the relevancies [T L, H, W] of a part's tiles, from values [N, T L]."""
    channels, levels = values.shape[1], inverse.shape[1]
    values = values.reshape(-1)
    sums = np.empty(channels * AREA, np.float32)
    order, steep = np.arange(channels), np.float32(sharpness / math.log(2))
    zero, most = np.float32(0), np.float32(36)
    unit = _half_to(zero)  # type: ignore[arg-type]  # near 1, so that a margin of 0 gives 0.5
    for turn in range(spans.shape[0] + 1):
        tile = _tile_of(part, parts, turn, columns)
        if tile >= spans.shape[0]:
            break
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        sums[:] = 0
        end = spans[tile, 1]
        for k in range(spans[tile, 0], end):
            soon = np.int64(owners[min(k + _LATER, end - 1)]) // TILE
            prefetch(values, soon * channels)
            owner = np.int64(owners[k])
            first = owner // TILE * channels
            row = owner % TILE
            _add(sums, row * TILE, AREA, order, 0, values, first, channels, weights, k * TILE)
        for channel in range(channels):
            level, at = channel % levels, channel * AREA
            for p in range(AREA):
                scale = inverse[tile, level, p]
                margin = steep * (sums[at + p] * scale - best[tile, level, p])
                e = _half_to(min(abs(margin), most))
                share = (unit if margin >= zero else e) / (unit + e)
                sums[at + p] = share if scale > zero else zero
            for y in range(min(TILE, out.shape[1] - y0)):
                for x in range(min(TILE, out.shape[2] - x0)):
                    out[channel, y0 + y, x0 + x] = sums[at + _within(x, y)]


@_kernel
def _score(part, parts, places, codes, counts, table, words, out):
    """Write out [N, T, L] of a part's Gaussians: the codes times table [places, T]."""
    n = places.shape[0]
    for i in range(n * part // parts, n * (part + 1) // parts):
        out[i] = 0
        level, end = 0, words
        for e in range(counts[i]):
            place, code = np.int64(places[i, e]), codes[i, e]
            while place >= end:
                level += 1
                end += words
            for t in range(table.shape[1]):
                out[i, t, level] += code * table[place, t]


@_kernel
def _half_smooth(part, parts, maps, half, out):
    """Write a part's rows of all maps [M, H, W]: the mean of a pixel and of the box around it.

    The box reaches `half` pixels each way and is cut at the border. Sums in float64, so that
    adding and taking away again leaves nothing behind that matters.
    """
    height, width = maps.shape[1:]
    low, high = height * part // parts, height * (part + 1) // parts
    sums, until = np.empty(width), np.zeros(width + 1)
    for m in range(maps.shape[0]):
        sums[:] = 0
        for y in range(max(low - half, 0), min(low + half, height)):
            for x in range(width):
                sums[x] += maps[m, y, x]
        for y in range(low, high):
            if y + half < height:
                for x in range(width):
                    sums[x] += maps[m, y + half, x]
            if y > low and y > half:
                for x in range(width):
                    sums[x] -= maps[m, y - half - 1, x]
            rows = min(y + half, height - 1) - max(y - half, 0) + 1
            for x in range(width):
                until[x + 1] = until[x] + sums[x]
            for x in range(width):
                first, stop = max(x - half, 0), min(x + half + 1, width)
                mean = (until[stop] - until[first]) / (rows * (stop - first))
                out[m, y, x] = 0.5 * (maps[m, y, x] + max(mean, 0.0))


# ----------------------------------------------------------------- for langsplat.query


@dataclass(frozen=True, eq=False)
class Weights:
    """The blending weights of one view: how much of each pixel each Gaussian paints."""

    rows: list[Array]  # for each part [R * 16] uint16, roots of the weights
    owners: list[Array]  # for each part [R] uint32, Gaussian * 16 + block of the tile
    spans: Array  # [tiles, 2], which rows of its part a tile has
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
    spans = np.zeros((len(frame.starts) - 1, 2), np.int64)
    world = frame.splats, frame.index, frame.starts, frame.members
    found = _in_threads(_weigh, frame.parts, *world, frame.columns, frame.size, frame.rules, spans)
    rows, owners = zip(*found, strict=True)
    return Weights(list(rows), list(owners), spans, width, height)


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a codebook, all levels of a Gaussian together.

    Args:
        places: [N, E] unsigned, level after level; codes: [N, E] float32, of both the first
            counts[n] columns.
        counts: [N] uint8 or wider.
        levels, words: L and V.
    """

    places: Array
    codes: Array
    counts: Array
    levels: int
    words: int

    def score(self, per_codeword: Array) -> Array:
        """One number a codeword [L, V, T] -> one a Gaussian [N, T, L] float32."""
        texts = per_codeword.shape[2]
        table = np.ascontiguousarray(per_codeword.reshape(-1, texts), np.float32)
        out = np.empty((len(self.codes), texts, self.levels), np.float32)
        packed = self.places, self.codes, self.counts
        _in_threads(_score, torch.get_num_threads(), *packed, table, self.words, out)
        return out


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
    return Codes(places, weights, counts, levels, words)


def measure(
    weights: Weights, codes: Codes, gram: Array, negatives: Array, support: float
) -> tuple[Array, Array]:
    """What of a pixel's relevancy does not depend on the words.

    Args:
        gram: [L, V, V] float32, S Sᵀ of every level.
        negatives: [L, V, P] float32, the codewords' dot products with P >= 1 negatives.
        support: the share of a pixel that coded Gaussians must paint.
    Returns:
        1 / |W S|, 0 without support, and the highest cosine with a negative: [tiles, L, 256]
        float32, in the scale in which `weights` keeps W.
    """
    levels, words = codes.levels, codes.words
    lower = np.zeros((levels, words + 1, words), np.float32)
    lower[:, :words] = np.tril(gram) + np.tril(gram, -1)
    wanted = -(-(negatives.shape[2] + 1) // BLOCK) * BLOCK - 1
    lines = np.ones((levels, wanted + 1, words), np.float32)
    lines[:, :wanted] = negatives.transpose(0, 2, 1)[:, np.arange(wanted) % negatives.shape[2]]
    shape = (len(weights.spans), levels, AREA)
    inverse, best = np.empty(shape, np.float32), np.empty(shape, np.float32)
    packed = codes.places, codes.codes, codes.counts
    enough = np.float32(support * ONE * ONE)
    weights.run(_measure, *packed, lower, lines, enough, inverse, best)
    return inverse, best


def answer(weights: Weights, values: Array, inverse: Array, best: Array, sharpness: float) -> Array:
    """Relevancies [T, L, H, W] float32 of what scores values [N, T, L]; 0 without support."""
    n, texts, levels = values.shape
    out = np.empty((texts, levels, weights.height, weights.width), np.float32)
    flat = out.reshape(texts * levels, weights.height, weights.width)
    weights.run(_answer, values.reshape(n, texts * levels), inverse, best, sharpness, flat)
    return out


def half_smooth(maps: Array, half: int) -> Array:
    """[M, H, W] float32: each pixel averaged with the mean of the box that reaches `half` away."""
    out = np.empty_like(maps)
    _in_threads(_half_smooth, torch.get_num_threads(), maps, half, out)
    return out
