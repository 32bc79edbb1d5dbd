"""What is kept of a view on the CPU, so that a new word costs one sparse product or one lookup.

With a codebook:

    weigh      one view and a codebook's codes -> its blending weights, a sparse matrix of pixels by
               Gaussians or codewords, and what does not depend on the words: 1 / |W S| and the best
               negative, at every level and pixel
    score      codes and a number per codeword, level and word -> one per Gaussian, level and word
    answer     weights and those numbers -> the words' relevancies at every level and pixel
    rate       those numbers -> the words' relevancies on the Gaussians themselves

With a table of an autoencoder's embeddings, by the same names as in `_query_triton`:

    Table.score  words -> their cosines at the corners of the table
    place        latents of pixels or of Gaussians -> where each is looked up; its best negative
    placed       these and the words' cosines -> the words' relevancies

And with either:

    hold, hold_inside  scores of pixels and of Gaussians -> the same, held to a thing of the text
    half_smooth  relevancies averaged with their box means

A tile has 16 blocks of 4 x 4 pixels. A row of weights is kept if a pixel of the block sees the
owner: 16 numbers, the square roots of the weights in 16 bits (rounded by 1.5e-5 at weight 1, less
below), and the owner's number. The owners in a block are its Gaussians or, if there are fewer of
them, the codewords in which the Gaussians' weights add up: neighbours mostly share their codewords.
The rows of a block are stored together, so that sums over them stay in registers. Nothing as wide
as a picture and as deep as a codebook is ever built: `weigh` goes block by block, adds what it
draws to the block's weights of codewords, and measures those that occur there.

The inner loops run over whole rows and are written as vectors of 16 for LLVM, which splits them if
the machine's are shorter.

Letters: N Gaussians, L levels, V codewords of a level, T words, E entries of a code over all
levels, R rows of weights. A place is a codeword's number over all levels, level * V + codeword; as
an owner it comes after the Gaussians, N + place. A channel is a level's number over all words,
level * T + word.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numpy.typing import NDArray
from torch import Tensor

from langsplat._lanes import (
    LANES,
    Lanes,
    append_bits,
    bit_count,
    bits,
    column_bits,
    fetch,
    flattened,
    instruction,
    intrinsic,
    load,
    load_until,
    lowest_bit,
    prefetch,
    room,
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
    START,
    TILE,
    X,
    Y,
    _approach,
    _corners,
    _grown,
    _half_to,
    _in_threads,
    _inner,
    _kernel,
    _next_tile,
    _pixel,
    _shade,
    _start_tile,
    _workspace,
    empty,
    see,
)

Array = NDArray[Any]

ONE = 65_535.0  # the square root of weight 1, as stored
HALF = 32_700.0  # stands for 1 in 16 bits with a sign; above it is room for rounding
EMBEDDED = 32_767.0  # stands for 1 in a table's rows, no number of which is larger
GROUP = 4  # negatives compared at once
QUADRATIC = 4  # lines of a Gram matrix multiplied at once
# Channels whose sums stay in registers at once. AVX-512 has enough of them for ten words on three
# levels (BROAD), or on one (WIDE); AVX2 for six. The rest is done by fours (THIN): an owner's
# channels are padded to a multiple of that. Sums of a few lines are made in two SETS if there are
# registers for them.
BROAD, WIDE, SETS = (30, 10, 2) if "+avx512f" in get_host_cpu_features() else (6, 6, 1)
THIN = 4
ROWS_A_PAIR = 8  # per pair of a Gaussian and a tile; scenes have 3 to 8 of at most 16
# Half, minus what a running sum may add to it: where a word scores the same as a negative, 0.5, the
# smoothed score must not be above that.
ROUNDED_DOWN = 0.5 * (1 - 2e-6)
PACKED_AT_ONCE = 32768  # Gaussians, whose records stay in the cache
_LATER = 24  # rows; the data of the Gaussian that far ahead is fetched into the cache

_ROW = ir.VectorType(ir.FloatType(), LANES)
_ROOTS = ir.VectorType(ir.IntType(16), LANES)
_WHOLE = ir.VectorType(ir.IntType(32), LANES)
_LONG = ir.IntType(64)
_LANES = Lanes(types.float32)


# ----------------------------------------------------------------- blocks of 16 pixels as vectors


# In the following, an array is a pair of its type and its value.


def _address(context, builder, array, offset):  # type: ignore[no-untyped-def]
    view = context.make_array(array[0])(context, builder, array[1])
    return builder.gep(view.data, [offset])


def _number(context, builder, array, offset):  # type: ignore[no-untyped-def]
    """An element of an integer array, as a 64-bit index."""
    value = builder.load(_address(context, builder, array, offset))
    if value.type.width == 64:
        return value
    return builder.sext(value, _LONG) if array[0].dtype.signed else builder.zext(value, _LONG)


def _row(context, builder, array, offset):  # type: ignore[no-untyped-def]
    """16 floats, 16 integers with a sign as floats, or the squares of 16 kept roots."""
    pointer = _address(context, builder, array, offset)
    if array[0].dtype == types.float32:
        return builder.load(builder.bitcast(pointer, _ROW.as_pointer()), align=4)
    roots = builder.load(builder.bitcast(pointer, _ROOTS.as_pointer()), align=2)
    if array[0].dtype.signed:
        return builder.sitofp(roots, _ROW)
    roots = builder.uitofp(roots, _ROW)
    return builder.fmul(roots, roots)


def _fma(builder, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c of rows, rounded once if the machine can: else "fma" is a call for every lane."""
    return instruction(builder, f"fmuladd.v{a.type.count}f32", a.type, a, b, c)


def _all_lanes(context, builder, array, offset, lanes=LANES):  # type: ignore[no-untyped-def]
    """One element of an array, on all lanes."""
    value = builder.load(_address(context, builder, array, offset))
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    one = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, first)


def _sums(builder, count, first, end, factors, sets=1):  # type: ignore[no-untyped-def]
    """`count` rows, in registers: sums over k = first ... end - 1 of the products of factors(k).

    Each sum is made in `sets` parts that take turns, so that a product need not wait for the last.
    """
    sums = [[cgutils.alloca_once(builder, _ROW) for _ in range(count)] for _ in range(sets)]
    for register in itertools.chain(*sums):
        builder.store(ir.Constant(_ROW, [0.0] * LANES), register)

    def add(k, registers):  # type: ignore[no-untyped-def]
        for register, pair in zip(registers, factors(k), strict=True):
            builder.store(_fma(builder, pair[0], pair[1], builder.load(register)), register)

    rest = builder.srem(builder.sub(end, first), _LONG(sets))
    turns = builder.sub(end, rest)
    with cgutils.for_range_slice(builder, first, turns, _LONG(sets)) as (k, _):
        for number, registers in enumerate(sums):
            add(builder.add(k, _LONG(number)), registers)
    if sets > 1:
        with cgutils.for_range_slice(builder, turns, end, _LONG(1)) as (k, _):
            add(k, sums[0])
    return [_in_all(builder, builder.fadd, registers) for registers in zip(*sums, strict=True)]


def _in_all(builder, add, registers):  # type: ignore[no-untyped-def]
    """The contents of some registers, combined by `add`."""
    return functools.reduce(add, (builder.load(register) for register in registers))


@intrinsic
def _keep(typingctx, target, at, row):  # type: ignore[no-untyped-def]
    """target[at ... + 16] = a row, 0 to 1 as 0 to ONE."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        scale, half = (ir.Constant(_ROW, [value] * LANES) for value in (ONE, 0.5))
        row = _fma(builder, args[2], scale, half)
        row = builder.trunc(builder.fptosi(row, _WHOLE), _ROOTS)
        pointer = _address(context, builder, (target, args[0]), args[1])
        builder.store(row, builder.bitcast(pointer, _ROOTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(target, types.int64, row), generate


@intrinsic
def _add(typingctx, planes, places, codes, first, apart, end, row):  # type: ignore[no-untyped-def]
    """For entries first ... end - 1 of a code: plane += code (`apart` further on) * row."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        planes, places, codes, first, apart, end, row = zip(signature.args, args, strict=True)
        with cgutils.for_range_slice(builder, first[1], end[1], _LONG(1)) as (e, _):
            place = builder.mul(_number(context, builder, places, e), _LONG(LANES))
            at = builder.bitcast(_address(context, builder, planes, place), _ROW.as_pointer())
            code = _all_lanes(context, builder, codes, builder.add(e, apart[1]))
            now = _fma(builder, code, row[1], builder.load(at, align=4))
            builder.store(now, at, align=4)
        return context.get_dummy_value()

    at = types.int64
    return types.void(planes, places, codes, at, at, at, row), generate


def _plane(context, builder, planes, first, word):  # type: ignore[no-untyped-def]
    return _row(context, builder, planes, builder.mul(builder.add(first, word), _LONG(LANES)))


@intrinsic
def _linear(typingctx, lines, line, words, planes, first, present, end):  # type: ignore[no-untyped-def]
    """GROUP lines [.., V], from `line` on, times the planes present; and the planes' sum."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lines, _, _, planes, _, present, _ = zip(signature.args, args, strict=True)
        _, line, words, _, first, _, end = args
        starts = [builder.mul(builder.add(line, _LONG(i)), words) for i in range(GROUP)]

        def factors(k):  # type: ignore[no-untyped-def]
            word = _number(context, builder, present, k)
            plane = _plane(context, builder, planes, first, word)
            places = (builder.add(start, word) for start in starts)
            of_lines = [_all_lanes(context, builder, lines, place) for place in places]
            # A product with 1 and a sum is a sum to LLVM.
            return [(factor, plane) for factor in (*of_lines, ir.Constant(_ROW, [1.0] * LANES))]

        rows = _sums(builder, GROUP + 1, _LONG(0), end, factors, SETS)
        return context.make_tuple(builder, signature.return_type, rows)

    at, rows = types.int64, types.UniTuple(_LANES, GROUP + 1)
    return rows(lines, at, at, planes, at, present, at), generate


@intrinsic
def _union(typingctx, found, marks, which, count, pitch):  # type: ignore[no-untyped-def]
    """found[:] = the bits that are set in marks[k * pitch ...] of any k in which[:count]."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        found, marks, which, count, pitch = zip(signature.args, args, strict=True)
        shape = context.make_array(found[0])(context, builder, found[1]).shape
        size = builder.extract_value(shape, 0)
        with cgutils.for_range_slice(builder, _LONG(0), size, _LONG(LANES)) as (at, _):
            register = cgutils.alloca_once(builder, _WHOLE)
            builder.store(ir.Constant(_WHOLE, [0] * LANES), register)
            with cgutils.for_range_slice(builder, _LONG(0), count[1], _LONG(1)) as (k, _):
                place = builder.mul(_number(context, builder, which, k), pitch[1])
                pointer = _address(context, builder, marks, builder.add(place, at))
                row = builder.load(builder.bitcast(pointer, _WHOLE.as_pointer()), align=4)
                builder.store(builder.or_(builder.load(register), row), register)
            pointer = _address(context, builder, found, at)
            pointer = builder.bitcast(pointer, _WHOLE.as_pointer())
            builder.store(builder.load(register), pointer, align=4)
        return context.get_dummy_value()

    return types.void(found, marks, which, types.int64, types.int64), generate


@intrinsic
def _pair(typingctx, pairs, at, one, other, scale):  # type: ignore[no-untyped-def]
    """pairs[at ... + 16] = rows one and other times scale, as the halves of 16 integers."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        half = ir.Constant(_ROW, [0.5] * LANES)
        low, high = (builder.fptosi(_fma(builder, row, args[4], half), _WHOLE) for row in args[2:4])
        both = builder.or_(low, builder.shl(high, ir.Constant(_WHOLE, [16] * LANES)))
        pointer = _address(context, builder, (pairs, args[0]), args[1])
        builder.store(both, builder.bitcast(pointer, _WHOLE.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(pairs, types.int64, one, other, scale), generate


@intrinsic
def _quadratic(typingctx, gram, line, pairs, planes, first, present, begin, end):  # type: ignore[no-untyped-def]
    """For QUADRATIC codewords, in pairs from present[begin] on: sum of plane * (gram . planes).

    The lines of this level begin at `line`. Codewords come in pairs, as two numbers of 16 bits in
    an integer: in gram [.., V / 2], and for the planes of present[k] in pairs[k * 16 ...].
    One instruction makes two products and both sums, for which floats need two. `end` is even, as
    each turn of the loop takes two pairs.
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        gram, _, pairs, planes, _, present, _, _ = zip(signature.args, args, strict=True)
        _, line, _, _, first, _, begin, end = args
        shape = context.make_array(gram[0])(context, builder, gram[1]).shape
        pitch = builder.extract_value(shape, gram[0].ndim - 1)
        halves = ir.VectorType(ir.IntType(16), 2 * LANES)
        products = ir.VectorType(ir.IntType(32), 2 * LANES)
        even, odd = (ir.Constant(_WHOLE, [2 * lane + k for lane in range(LANES)]) for k in range(2))
        own = []
        for i in range(QUADRATIC // 2):
            pair = _number(context, builder, present, builder.add(begin, _LONG(i)))
            own += [builder.shl(pair, _LONG(1)), builder.add(builder.shl(pair, _LONG(1)), _LONG(1))]
        starts = [builder.mul(builder.add(line, word), pitch) for word in own]
        sums = [[cgutils.alloca_once(builder, _WHOLE) for _ in own] for _ in range(SETS)]
        for register in itertools.chain(*sums):
            builder.store(ir.Constant(_WHOLE, [0] * LANES), register)

        def multiply(k, registers):  # type: ignore[no-untyped-def]
            pointer = _address(context, builder, pairs, builder.mul(k, _LONG(LANES)))
            row = builder.load(builder.bitcast(pointer, _WHOLE.as_pointer()), align=4)
            row = builder.sext(builder.bitcast(row, halves), products)
            pair = _number(context, builder, present, k)
            for register, start in zip(registers, starts, strict=True):
                factor = _all_lanes(context, builder, gram, builder.add(start, pair))
                both = builder.mul(row, builder.sext(builder.bitcast(factor, halves), products))
                both = builder.add(*(builder.shuffle_vector(both, both, m) for m in (even, odd)))
                builder.store(builder.add(builder.load(register), both), register)

        with cgutils.for_range_slice(builder, _LONG(0), end, _LONG(2)) as (k, _):
            multiply(k, sums[0])
            multiply(builder.add(k, _LONG(1)), sums[-1])
        total = ir.Constant(_ROW, [0.0] * LANES)
        for word, *registers in zip(own, *sums, strict=True):
            row = builder.sitofp(_in_all(builder, builder.add, registers), _ROW)
            total = _fma(builder, _plane(context, builder, planes, first, word), row, total)
        return total

    at = types.int64
    return _LANES(gram, at, pairs, planes, at, present, at, at), generate


def _sum_of(count):  # type: ignore[no-untyped-def]
    def code(typingctx, weights, owners, first, end, values, pitch, channel, sums):  # type: ignore[no-untyped-def]
        """Rows first ... end - 1 of weights times `count` channels of their owners' values.

        Written to sums[channel * 16 ...]. Values are [N, pitch].
        """

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            weights, owners, first, end, values, pitch, channel, sums = zip(
                signature.args, args, strict=True
            )

            last = builder.sub(end[1], _LONG(1))

            def place(k):  # type: ignore[no-untyped-def]
                owner = _number(context, builder, owners, k)
                return builder.add(builder.mul(owner, pitch[1]), channel[1])

            def factors(k):  # type: ignore[no-untyped-def]
                later = builder.add(k, _LONG(_LATER))
                later = builder.select(builder.icmp_signed("<", later, last), later, last)
                fetch(context, builder, *values, place(later))
                row = _row(context, builder, weights, builder.mul(k, _LONG(LANES)))
                at = place(k)
                places = (builder.add(at, _LONG(i)) for i in range(count))
                return [(_all_lanes(context, builder, values, place), row) for place in places]

            rows = _sums(builder, count, first[1], end[1], factors)
            for i, row in enumerate(rows):
                at = builder.mul(builder.add(channel[1], _LONG(i)), _LONG(LANES))
                pointer = _address(context, builder, sums, at)
                builder.store(row, builder.bitcast(pointer, _ROW.as_pointer()), align=4)
            return context.get_dummy_value()

        at = types.int64
        return types.void(weights, owners, at, at, values, at, at, sums), generate

    return code


def _total_of(count):  # type: ignore[no-untyped-def]
    kind = ir.VectorType(ir.FloatType(), count)

    def code(typingctx, places, codes, first, apart, end, table, pitch, channel, out, at):  # type: ignore[no-untyped-def]
        """Entries of a code, first ... end - 1, times `count` channels of table [places, pitch].

        The sum is written to out[at + channel ...]. A place's code is `apart` further on.
        """

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            places, codes, _, _, _, table, _, _, out, _ = zip(signature.args, args, strict=True)
            _, _, first, apart, end, _, pitch, channel, _, at = args

            def pointer(array, at):  # type: ignore[no-untyped-def]
                address = _address(context, builder, array, builder.add(at, channel))
                return builder.bitcast(address, kind.as_pointer())

            total = cgutils.alloca_once_value(builder, ir.Constant(kind, [0.0] * count))
            with cgutils.for_range_slice(builder, first, end, _LONG(1)) as (e, _):
                place = builder.mul(_number(context, builder, places, e), pitch)
                row = builder.load(pointer(table, place), align=4)
                code = _all_lanes(context, builder, codes, builder.add(e, apart), count)
                builder.store(_fma(builder, code, row, builder.load(total)), total)
            builder.store(builder.load(total), pointer(out, at), align=4)
            return context.get_dummy_value()

        at = types.int64
        return types.void(places, codes, at, at, at, table, at, at, out, at), generate

    return code


@intrinsic
def _look_up(typingctx, corners, channel, at, right, below, u, v, out):  # type: ignore[no-untyped-def]
    """out[THIN, 16] = THIN channels, interpolated between the four corners of 16 cells.

    Those of lane k are from corners[at[k] + channel] on, and `right`, `below` and both further on.
    """
    kind = ir.VectorType(ir.FloatType(), THIN)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        corners, _, at, _, _, u, v, out = zip(signature.args, args, strict=True)
        _, channel, _, right, below, _, _, _ = args

        def between(one, other, share):  # type: ignore[no-untyped-def]
            return _fma(builder, builder.fsub(other, one), share, one)

        found = []
        for lane in range(LANES):
            start = builder.add(_number(context, builder, at, _LONG(lane)), channel)
            own = []
            for offset in (_LONG(0), right, below, builder.add(right, below)):
                pointer = _address(context, builder, corners, builder.add(start, offset))
                own.append(builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4))
            share = _all_lanes(context, builder, u, _LONG(lane), THIN)
            near, far = between(own[0], own[1], share), between(own[2], own[3], share)
            share = _all_lanes(context, builder, v, _LONG(lane), THIN)
            found.append(between(near, far, share))
        while len(found) > 1:
            both = ir.Constant(
                ir.VectorType(ir.IntType(32), 2 * found[0].type.count),
                [*range(2 * found[0].type.count)],
            )
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [builder.shuffle_vector(*pair, both) for pair in pairs]
        for k in range(THIN):
            own = ir.Constant(_WHOLE, [k + THIN * lane for lane in range(LANES)])
            row = builder.shuffle_vector(found[0], found[0], own)
            pointer = _address(context, builder, out, _LONG(k * LANES))
            builder.store(row, builder.bitcast(pointer, _ROW.as_pointer()), align=4)
        return context.get_dummy_value()

    i = types.int64
    return types.void(corners, i, at, i, i, u, v, out), generate


_sum_broad, _sum_wide, _sum_thin = (intrinsic(_sum_of(count)) for count in (BROAD, WIDE, THIN))
_total_broad, _total_thin = (intrinsic(_total_of(count)) for count in (LANES, THIN))


# ----------------------------------------------------------------- kernels


@_kernel
def _weigh(
    part, parts, weights, owners, taken, splats, index, starts, members, columns, size, rules,
    records, entries, largest, gram, unit, lines, support, spans, inverse, best,
):  # fmt: skip
    """A part's rows of weights and their owners; spans tells where a block's are (BlendingWeights).

    They are put into weights and owners, or into larger copies if these are too short. Then what
    does not depend on words is written to inverse and best [tiles, BLOCKS, L, 16]. Also returned is
    which tiles are the part's.
    """
    alpha_max, stop = np.float32(rules[4]), np.float32(rules[5])
    state, _, items, _ = _workspace(splats.dtype)
    left, top = _corners(splats.dtype, SIDE)
    splats, tiles, largest_tile = flattened(splats), starts.shape[0] - 1, 1
    for tile in range(tiles):
        largest_tile = max(largest_tile, starts[tile + 1] - starts[tile])
    levels, groups, _, words = lines.shape
    gaussians, pitch = records.shape
    # Flat before the loops: each view of an array counts references, which is an atomic operation.
    lines, inverse, best = flattened(lines), flattened(inverse), flattened(best)
    spans = flattened(spans)
    records, marked = flattened(records, np.float32), levels * words // 32
    # Of a tile's splats: their rows, the blocks they touch, their Gaussians and their records.
    near = room(largest_tile * COLUMNS, splats.dtype)
    masks, names = room(largest_tile + BATCH, np.uint16), room(largest_tile, np.int64)
    near_codes = room(largest_tile * pitch, np.float32)
    near_places = flattened(near_codes, np.int32)
    # Of a block's rows: for each its splat's number in the tile, and the weights.
    drawers = room(largest_tile + 1, np.int64)
    drawn = room((largest_tile + 1) * LANES, np.float32)
    found = room(-(-marked // LANES) * LANES, np.int32)
    twos = flattened(found, np.int64)
    planes = room((levels * words + 2) * LANES, np.float32)
    planes[:] = 0
    present = room(words + LANES, np.uint16)
    doubles = room(words // 2 + LANES, np.uint16)
    pairs = room((words // 2 + 1) * LANES, np.int32)
    space, used, done = owners.shape[0], START, START
    own = room(tiles, np.int32)
    tile = _next_tile(np.int64(-1), taken)
    while tile < tiles:
        x0, y0 = _start_tile(tile, columns, size, state)
        begin, count, known = starts[tile], starts[tile + 1] - starts[tile], 0
        most = BLOCKS * min(count, levels * words)  # rows that may be added
        if used + most > space:
            space += space // 2 + most
            weights = _grown(weights, used * LANES, space * LANES)
            owners = _grown(owners, used, space)
        for block in range(BLOCKS):
            p, rows = block * FIELDS, 0
            x, y, light = load(state, X + p), load(state, Y + p), load(state, LIGHT + p)
            # A row is added to the planes while the next one is drawn: the processor is free for
            # the additions until the weights of that one are known.
            at, end, before = np.int64(0), np.int64(0), light
            for first in range(0, count, BATCH):
                if bits(light > 0) == 0:
                    break
                if first == known:  # no block before had light for these
                    known, last = first + BATCH, min(first + BATCH, count)
                    masks[first:known] = 0
                    for j in range(first, last):
                        masks[j] = _approach(
                            splats, members, begin + j, x0, y0, left, top, near, j * COLUMNS
                        )
                    _approach_codes(first, last, begin, members, index, records, names, near_codes)
                todo = 0
                for j in range(0, BATCH, LANES):
                    todo = append_bits(items, todo, column_bits(masks, first + j, block), j)
                for k in range(todo):
                    number = first + np.int64(items[k])
                    row = number * COLUMNS
                    _, _, light, _, weight, _ = _shade(x, y, light, near, row, alpha_max, stop)
                    _add(planes, near_places, near_codes, at, entries, end, before)
                    end = at
                    if bits(weight > 0) == 0:
                        continue
                    drawers[rows] = number
                    store(drawn, rows * LANES, weight)
                    rows += 1
                    at = number * pitch + marked + 1
                    end, before = at + near_places[at - 1], weight
            _add(planes, near_places, near_codes, at, entries, end, before)
            _union(found, near_places, drawers, rows, pitch)
            occurring = 0
            for k in range(marked // 2):
                occurring += bit_count(twos[k])
            span = (tile * BLOCKS + block) * (levels + 1)
            spans[span] = used
            for level in range(1, levels):
                spans[span + level] = -1
            _measure(
                planes, twos, present, doubles, pairs, gram, unit, lines, groups, support,
                inverse, best, (tile * BLOCKS + block) * levels * LANES,
                weights, owners, used if occurring < rows else -1, largest, gaussians, spans, span,
            )  # fmt: skip
            if occurring >= rows:
                for k in range(rows):
                    _keep(weights, (used + k) * LANES, _root(load(drawn, k * LANES)))
                    owners[used + k] = names[drawers[k]]
            used += min(occurring, rows)
            spans[span + levels] = used
        own[done] = tile
        done += 1
        tile = _next_tile(tile, taken)
    return weights[: used * LANES], owners[:used], own[:done]


@_inner
def _approach_codes(first, end, begin, members, index, records, names, near):
    """Copy records of a tile's splats to near, all at once, so that memory is waited for once."""
    pitch = near.shape[0] // names.shape[0]
    for j in range(first, end):
        names[j] = index[members[begin + j]]
        prefetch(records, names[j] * pitch)
        prefetch(records, names[j] * pitch + pitch - 1)
    for j in range(first, end):
        for e in range(0, pitch, LANES):
            store(near, j * pitch + e, load(records, names[j] * pitch + e))


@_inner
def _root(row):
    """The square root of lanes in [0, 1], by an estimate of its inverse, which takes less time."""
    row = max(row, np.float32(1e-12))
    return row * (np.float32(1) / math.sqrt(row))


@_inner
def _even_bits(number):
    """Every other one of 16 bits, as 8 bits."""
    number &= 0x5555
    number = (number | (number >> 1)) & 0x3333
    number = (number | (number >> 2)) & 0x0F0F
    return (number | (number >> 4)) & 0x00FF


@_inner
def _measure(
    planes, found, present, doubles, pairs, gram, unit, lines, groups, support, inverse, best, at,
    weights, owners, row, largest, gaussians, spans, span,
):  # fmt: skip
    """Write inverse and best [L, 16] of a block, from `at` on, and clear its planes.

    Before that the planes become rows of weights, from `row` on, unless that is negative, and where
    those of each level end is written to spans, from `span` + 1 on. found holds a bit for every
    place that occurs. gram, unit, lines and largest are those of Codes. present [V + 16], doubles
    [V / 2 + 16] and pairs [(V / 2 + 1) * 16] are working memory.
    """
    levels, words = gram.shape[0], 2 * gram.shape[2]
    zero = spread(np.float32(0))
    for level in range(levels):
        first, n, m = level * words, 0, 0
        for word in range(0, words, 64):
            some = found[(first + word) // 64]
            both = some | (some >> 1)
            if bit_count(some) > 16:  # by table
                for place in range(0, 64, LANES):
                    n = append_bits(present, n, some >> place, word + place)
                    m = append_bits(doubles, m, _even_bits(both >> place), (word + place) // 2)
                continue
            both &= 0x5555555555555555
            while some != 0:
                present[n] = word + lowest_bit(some)
                n += 1
                some &= some - 1
            while both != 0:
                doubles[m] = (word + lowest_bit(both)) // 2
                m += 1
                both &= both - 1
        doubles[m : m + QUADRATIC // 2] = words // 2
        high, share, square = zero - np.float32(np.inf), zero, zero
        for group in range(groups):
            line = (level * groups + group) * GROUP
            a, b, c, d, share = _linear(lines, line, words, planes, first, present, n)
            high = max(high, max(max(a, b), max(c, d)))
        # As shares of all that is described in a pixel they fit 15 bits, and no sum overflows.
        scale = np.float32(HALF) / max(share, np.float32(1e-12))
        for k in range(m):
            two = (first + 2 * doubles[k]) * LANES
            _pair(pairs, k * LANES, load(planes, two), load(planes, two + LANES), scale)
        _pair(pairs, m * LANES, zero, zero, zero)
        line = level * (words + 2)
        for b in range(0, m, QUADRATIC // 2):
            end = b + QUADRATIC // 2
            square += _quadratic(gram, line, pairs, planes, first, doubles, b, end)
        one = np.float32(1) / math.sqrt(max(square * unit[level] / scale, np.float32(1e-12)))
        kept = one * np.float32(1 / (ONE * ONE))
        store(inverse, at + level * LANES, where(share > support, kept, np.float32(0)))
        store(best, at + level * LANES, high * one)
        if row >= 0:
            for j in range(n):
                place = first + present[j]
                _keep(weights, row * LANES, _root(load(planes, place * LANES) / largest))
                owners[row] = gaussians + place
                row += 1
            spans[span + level + 1] = row
        if 2 * n > words:
            for place in range(first, first + words):
                store(planes, place * LANES, zero)
        else:
            for j in range(n):
                store(planes, (first + present[j]) * LANES, zero)


@_inner
def _relevancy(dot, inverse, best, steep):
    """1 / (1 + 2^-margin) of lanes, margin = steep (dot * inverse - best); 0 where inverse is."""
    zero = np.float32(0)
    margin = (dot * inverse - best) * steep
    e = _half_to(min(abs(margin), np.float32(36)))
    unit = _half_to(spread(zero))  # near 1, so that a margin of 0 gives 0.5
    return where(inverse > zero, where(margin >= zero, unit, e) / (unit + e), zero)


@_kernel
def _answer(
    part, parts, weights, owners, tiles, spans, columns, values, inverse, best, sharpness, out
):
    """Write the relevancies [T L, H, W] of a part's tiles, from values [owners, L T padded]."""
    pitch, levels = values.shape[1], inverse.shape[2]
    channels, height, width = out.shape
    texts = channels // levels
    values, picture = flattened(values), flattened(out)
    inverse, best = flattened(inverse), flattened(best)
    sums, steep = room(pitch * LANES, np.float32), np.float32(sharpness / math.log(2))
    for tile in tiles:
        for block in range(BLOCKS):
            u, v = _pixel(block, START)
            x0, y0 = tile % columns * TILE + u, tile // columns * TILE + v
            if x0 >= width or y0 >= height:
                continue
            first, end = spans[tile, block, 0], spans[tile, block, levels]
            # Rows of codewords are sorted by level, and have nothing for the other levels.
            apart = spans[tile, block, 1] >= 0 and texts >= THIN
            for level in range(levels if apart else 1):
                channel, stop, last = START, channels, pitch - THIN
                if apart:
                    first, end = spans[tile, block, level], spans[tile, block, level + 1]
                    channel = level * texts
                    stop, last = channel + texts, channel + texts - THIN
                while channel + BROAD <= stop:
                    _sum_broad(weights, owners, first, end, values, pitch, channel, sums)
                    channel += BROAD
                while channel + WIDE <= stop:
                    _sum_wide(weights, owners, first, end, values, pitch, channel, sums)
                    channel += WIDE
                while channel < stop:
                    channel = min(channel, last)  # some for a second time, but none beyond the row
                    _sum_thin(weights, owners, first, end, values, pitch, channel, sums)
                    channel += THIN
            whole = x0 + SIDE <= width and y0 + SIDE <= height
            for level in range(levels):
                at = ((tile * BLOCKS + block) * levels + level) * LANES
                length, negative = load(inverse, at), load(best, at)
                for text in range(texts):
                    channel, shown = (level * texts + text) * LANES, text * levels + level
                    share = _relevancy(load(sums, channel), length, negative, steep)
                    if whole:
                        store_fours(picture, (shown * height + y0) * width + x0, width, share)
                        continue
                    store(sums, channel, share)
                    for y in range(min(SIDE, height - y0)):
                        for x in range(min(SIDE, width - x0)):
                            out[shown, y0 + y, x0 + x] = sums[channel + y * SIDE + x]


@_kernel
def _score(part, parts, records, entries, table, out):
    """Write out [.., L T padded] of a part's Gaussians: the codes times table [places, ..].

    The table is as wide as out, and zero in the channels of other levels than the place's.
    """
    n, size, pitch = records.shape[0], records.shape[1], out.shape[1]
    marked = table.shape[0] // 32
    places, codes = flattened(records), flattened(records, np.float32)
    table, out = flattened(table), flattened(out)
    for i in range(n * part // parts, n * (part + 1) // parts):
        first, at, channel = i * size + marked + 1, i * pitch, 0
        end = first + places[first - 1]
        while channel + LANES <= pitch:
            _total_broad(places, codes, first, entries, end, table, pitch, channel, out, at)
            channel += LANES
        while channel < pitch:
            _total_thin(places, codes, first, entries, end, table, pitch, channel, out, at)
            channel += THIN


@_kernel
def _rate(part, parts, values, levels, inverse, best, sharpness, out):
    """Write the relevancies out [T, N padded] of a part's Gaussians, of text t at levels[t].

    inverse and best are [L, N padded] to whole lanes.
    """
    n, pitch, size = values.shape[0], values.shape[1], out.shape[1]
    values, inverse, best = flattened(values), flattened(inverse), flattened(best)
    rated, dots = flattened(out), room(LANES, np.float32)
    steep, groups = np.float32(sharpness / math.log(2)), size // LANES
    for first in range(groups * part // parts * LANES, groups * (part + 1) // parts * LANES, LANES):
        for t in range(levels.shape[0]):
            channel = levels[t] * levels.shape[0] + t
            for lane in range(LANES):
                dots[lane] = values[min(first + lane, n - 1) * pitch + channel]
            at = levels[t] * size + first
            share = _relevancy(load(dots, 0), load(inverse, at), load(best, at), steep)
            store(rated, t * size + first, share)


@_kernel
def _pack_table(part, parts, rows, packed):
    """Write a part of packed [groups, K, 16], the rows [corners, K] of a table in 16 bits."""
    corners, size = rows.shape
    groups = packed.shape[0]
    rows, packed = flattened(rows), flattened(packed)
    for group in range(groups * part // parts, groups * (part + 1) // parts):
        for lane in range(LANES):
            first = min(group * LANES + lane, corners - 1) * size
            at = group * size * LANES + lane
            for k in range(size):
                packed[at + k * LANES] = np.int16(np.rint(rows[first + k] * np.float32(EMBEDDED)))


@_kernel
def _score_table(part, parts, packed, along, owners, out):
    """Write a part of out [corners, T], the rows packed times the texts along [K, T padded].

    owners are the numbers 0 ... K - 1.
    """
    (groups, size, _), (corners, texts), pitch = packed.shape, out.shape, along.shape[1]
    packed, along, out = flattened(packed), flattened(along), flattened(out)
    sums = room(pitch * LANES, np.float32)
    for group in range(groups * part // parts, groups * (part + 1) // parts):
        rows, channel = packed[group * size * LANES :], 0
        while channel + WIDE <= pitch:
            _sum_wide(rows, owners, 0, size, along, pitch, channel, sums)
            channel += WIDE
        while channel < pitch:
            channel = min(channel, pitch - THIN)  # some for a second time
            _sum_thin(rows, owners, 0, size, along, pitch, channel, sums)
            channel += THIN
        for corner in range(group * LANES, min((group + 1) * LANES, corners)):
            for text in range(texts):
                out[corner * texts + text] = sums[text * LANES + corner % LANES]


@_kernel
def _place(part, parts, image, corners, support, places, best):
    """Write a part of places [L, P, 2] and best [L, P] (`place`)."""
    pixels, size = image.shape
    levels, (_, width, pitch) = best.shape[0], corners.shape
    image, corners = flattened(image), flattened(corners)
    places, best = flattened(places), flattened(best)
    below = np.uint64(width * pitch)
    zero, half = np.float32(0), np.float32(0.5 * (width - 1))
    # Off the border by a hair, as rounding could mix in the neighbour in the table.
    low, high = np.float32(1e-3), np.float32(width - 1 - 1e-3)
    for i in range(pixels * part // parts, pixels * (part + 1) // parts):
        for level in range(levels):
            own, plane = i * size + 3 * level, level * pixels + i
            if not image[i * size + 3 * levels + level] > support:
                places[2 * plane], places[2 * plane + 1] = np.float32(-1), zero
                best[plane] = zero
                continue
            x, y, z = image[own], image[own + 1], image[own + 2]
            face, longest, across, down = 0, x, y, z
            if not (abs(x) >= abs(y) and abs(x) >= abs(z)):
                face, longest, across = 2, y, x
                if not abs(y) >= abs(z):
                    face, longest, down = 4, z, y
            face += longest < zero
            scale = half / max(abs(longest), np.float32(1e-12))
            # What is not a number is looked up at `low`: a comparison with it is false.
            u = min(max(low, across * scale + half), high)
            v = min(max(low, down * scale + half), high) + np.float32(face * width)
            places[2 * plane], places[2 * plane + 1] = u, v
            column, row = np.uint64(u), np.uint64(v)
            u, v = u - np.float32(column), v - np.float32(row)
            at, highest = (row * np.uint64(width) + column) * np.uint64(pitch), np.float32(-np.inf)
            for k in range(at, at + np.uint64(pitch)):
                next = k + np.uint64(pitch)
                near = corners[k] + (corners[next] - corners[k]) * u
                far = corners[k + below] + (corners[next + below] - corners[k + below]) * u
                highest = max(highest, near + (far - near) * v)
            best[plane] = highest


@_kernel
def _placed(part, parts, places, best, corners, text, sharpness, out):
    """Write a part of the relevancies out [T, P], of places [P, 2] with best [P]."""
    (texts, count), (_, width, pitch) = out.shape, corners.shape
    places, corners, out = flattened(places), flattened(corners), flattened(out)
    u, v, at = room(LANES, np.float32), room(LANES, np.float32), room(LANES, np.int64)
    seen, dots = room(LANES, np.float32), room(THIN * LANES, np.float32)
    steep, groups = np.float32(sharpness / math.log(2)), -(-count // LANES)
    for first in range(groups * part // parts * LANES, groups * (part + 1) // parts * LANES, LANES):
        for lane in range(LANES):
            i = min(first + lane, count - 1)
            x, y = places[2 * i], places[2 * i + 1]
            seen[lane] = x >= 0
            column, row = np.int64(max(x, np.float32(0))), np.int64(y)
            at[lane] = (row * width + column) * pitch
            u[lane], v[lane] = x - np.float32(column), y - np.float32(row)
        found, highest = load(seen, 0), load_until(best, first, count)
        for own in range(0, texts, THIN):
            _look_up(corners, text + own, at, pitch, width * pitch, u, v, dots)
            for k in range(min(THIN, texts - own)):
                share = _relevancy(load(dots, k * LANES), found, highest, steep)
                begin = (own + k) * count
                store_until(out, begin + first, begin + count, share)


@_inner
def _held(own, by_part, near, steep):
    """A score, of a number or of lanes, held to a thing (`hold`)."""
    own = max(own, by_part * near)
    return own * max(near, min((own - np.float32(0.5)) * steep, np.float32(1)))


@_kernel
def _hold(part, parts, scores, by_part, near, steep):
    """Hold a part's pixels of scores [L, P], in place."""
    levels, count = scores.shape
    scores, by_part, groups = flattened(scores), flattened(by_part), -(-count // LANES)
    for level in range(levels):
        end = (level + 1) * count
        for group in range(groups * part // parts, groups * (part + 1) // parts):
            at = level * count + group * LANES
            own, other = load_until(scores, at, end), load_until(by_part, at, end)
            around = load_until(near, group * LANES, count)
            store_until(scores, at, end, _held(own, other, around, steep))


@_kernel
def _hold_inside(part, parts, scores, by_part, near, means, matrix, nearest, steep):
    """Hold a part's Gaussians of scores [N] that the picture shows, in place.

    matrix [3, 4] takes means [N, 3] to x and y in pixels times the depth, and the depth.
    """
    n, (height, width) = means.shape[0], near.shape
    means, near, m = flattened(means), flattened(near), flattened(matrix)
    for i in range(n * part // parts, n * (part + 1) // parts):
        x, y, z = means[3 * i], means[3 * i + 1], means[3 * i + 2]
        depth = m[8] * x + m[9] * y + m[10] * z + m[11]
        if not depth > nearest:
            continue
        across = (m[0] * x + m[1] * y + m[2] * z + m[3]) / depth
        down = (m[4] * x + m[5] * y + m[6] * z + m[7]) / depth
        if 0 <= across < width and 0 <= down < height:
            around = near[np.int64(down) * width + np.int64(across)]
            scores[i] = _held(scores[i], by_part[i], around, steep)


@_kernel
def _half_smooth(part, parts, maps, half, peaks):
    """Average each pixel of a part's maps [M, H, W] with the box around it, in place.

    The box reaches `half` pixels each way and is cut at the border. Down a column it is a running
    sum: a row enters and another leaves, which in float32 adds less than 1e-6 to a mean. Along a
    row it is added up from the sums of four neighbours.
    """
    number, height, width = maps.shape
    maps = flattened(maps)
    size, whole, left = 2 * half + 1, -(-width // LANES) * LANES, -(-half // LANES) * LANES
    kept = room(size * whole, np.float32)  # the rows of the box, as they were
    sums, share = room(whole, np.float32), room(whole, np.float32)
    # Zeros, the sums of the columns, zeros; and the sums of four of these.
    runs = room(left + whole + 2 * size + 4 * LANES, np.float32)
    fours = room(left + whole + 2 * size + 4 * LANES, np.float32)
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
            part_of_rows = np.float32(1 / rows)
            slot, at = y % size * whole, (m * height + y) * width
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
        peaks[m] = sums[0]
        for lane in range(1, LANES):
            peaks[m] = max(peaks[m], sums[lane])


# ----------------------------------------------------------------- for langsplat.query


@dataclass(frozen=True, eq=False)
class BlendingWeights:
    """The blending weights of one view: how much each owner contributes to each pixel."""

    rows: list[Array]  # for each part [R * 16] uint16, roots of the weights
    owners: list[Array]  # for each part [R] uint32: a Gaussian, or N + a codeword's place
    tiles: list[Array]  # for each part, which tiles its rows are of
    # [tiles, BLOCKS, L + 1]: where the rows of each block begin and end, and in between where those
    # of each level but the first begin, or -1 for rows of Gaussians, which are of all levels.
    spans: Array
    columns: int  # of tiles

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.rows, *self.owners, *self.tiles, self.spans))


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a codebook, all levels of a Gaussian together, and how codewords compare.

    Args:
        records: [N, ..] int32, rows of whole LANES: a bit for every place at which the Gaussian has
            a weight, how many these are, E places, and E weights as the bits of float32.
        entries: E.
        largest: the highest sum of a Gaussian's weights on a level, about 1.
        gram: [L, V + 2, V / 2] int32, the lower triangle of S Sᵀ with all but its diagonal doubled,
            in pairs of numbers of 16 bits; and two lines of zeros. V is a multiple of 64: the last
            codewords may never occur.
        unit: [L], what 1 stands for in gram.
        lines: [L, groups, GROUP, V], the codewords' dot products with negatives.
    """

    records: Array
    entries: int
    largest: np.float32
    gram: Array
    unit: Array
    lines: Array

    def score(self, per_codeword: Array) -> "Values":
        """One number per codeword [L, V, T] -> one per owner of weights."""
        (levels, _, _, words), texts = self.lines.shape, per_codeword.shape[2]
        pitch = texts * levels + -texts * levels % THIN
        table = np.zeros((levels, words, pitch), np.float32)
        for level, numbers in enumerate(per_codeword):
            table[level, : len(numbers), level * texts : (level + 1) * texts] = numbers
        table, gaussians = table.reshape(-1, pitch), len(self.records)
        # An owner's values take as few lines of the cache as possible: they are read in no order.
        out = empty((gaussians + len(table), pitch), np.float32)
        _in_threads(_score, torch.get_num_threads(), self.records, self.entries, table, out)
        np.multiply(table, self.largest, out=out[gaussians:])
        return Values(out, gaussians, texts)


@dataclass(frozen=True, eq=False)
class Values:
    """The score of every owner of weights for some words, at every level."""

    numbers: Array  # [N + L V, L T padded] float32, the words of a level side by side
    gaussians: int  # N
    texts: int  # T


def pack(rows: Array, codes: Array, gram: Array, negatives: Array) -> Codes:
    """The codes of all levels, packed.

    Args:
        rows, codes: [L, N, D], codes >= 0 (0: nothing).
        gram: [L, V, V] float32, S Sᵀ of every level.
        negatives: [L, V, P] float32, the codewords' dot products with P >= 1 negatives.
    """
    levels, n, each = rows.shape
    known, entries = gram.shape[1], levels * each
    words = known + -known % 64
    marked = levels * words // 32
    pitch = marked + 1 + 2 * entries
    pitch += -pitch % LANES
    records = empty((n, pitch), np.int32)
    records[:] = 0
    for start in range(0, n, PACKED_AT_ONCE):
        # Entry by entry; those that are not zero are stored one after the other.
        flat = records[start : start + PACKED_AT_ONCE].reshape(-1)
        for level, k in np.ndindex(levels, each):
            weights = codes[level, start : start + PACKED_AT_ONCE, k].astype(np.float32)
            some = np.flatnonzero(weights)
            places = rows[level, start + some, k].astype(np.int32) + level * words
            own = some * pitch
            used = flat[own + marked]
            flat[own + marked + 1 + used] = places
            flat[own + marked + 1 + used + entries] = weights[some].view(np.int32)
            flat[own + marked] = used + 1
            flat[own + places // 32] |= np.left_shift(np.int32(1), places % 32)
    lower = np.zeros((levels, words + 2, words), np.float32)
    lower[:, :known, :known] = np.tril(gram) + np.tril(gram, -1)
    # Imported codewords have any length: those of other levels, and those that no Gaussian has,
    # must not cost these any bits.
    used = np.zeros((levels, words), bool)
    for level in range(levels):
        used[level, rows[level][codes[level] > 0]] = True
    lower[:, :words] *= used[:, :, None] & used[:, None]
    widest = np.abs(lower).max(axis=(1, 2), initial=1e-12)
    pairs = np.round(lower * (HALF / widest)[:, None, None]).astype(np.int16).view(np.int32)
    # After an odd number of pairs one more is read, times zero: the memory goes on behind the last.
    pairs = np.append(pairs, np.int32(0))[:-1].reshape(pairs.shape)
    groups = -(-negatives.shape[2] // GROUP)
    lines = np.zeros((levels, groups, GROUP, words), np.float32)
    numbers = np.arange(groups * GROUP).reshape(groups, GROUP) % negatives.shape[2]
    lines[..., :known] = negatives.transpose(0, 2, 1)[:, numbers]
    unit = (widest / HALF).astype(np.float32)
    largest = np.float32(codes.sum(2, dtype=np.float32).max(initial=1e-6))
    return Codes(records, entries, largest, pairs, unit, lines)


def weigh(
    gaussians: Sequence[Tensor],  # means, quats, scales, opacities; float32
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    rules: tuple[float, ...],
    codes: Codes,
    support: float,
) -> tuple[BlendingWeights, Array, Array]:
    """The blending weights of a view, as in the rasterizer, and what its pixels need for any words.

    Args:
        support: the share of a pixel that Gaussians with codes must paint.
    Returns:
        The weights; 1 / |W S|, 0 without support; and the highest cosine with a negative. The last
        two are [tiles, 16, L, 16] float32, for the pixels of each block, with W in the scale in
        which the weights are kept.
    """
    nothing = np.empty((len(gaussians[0]), 0), np.float32)
    frame = see(gaussians, nothing, viewmat, K, width, height, rules)
    tiles, levels = len(frame.starts) - 1, len(codes.lines)
    spans = np.zeros((tiles, BLOCKS, levels + 1), np.int64)
    shape = (tiles, BLOCKS, levels, LANES)
    inverse, best = empty(shape, np.float32), empty(shape, np.float32)
    # More than enough, as pages that are not used take no memory.
    space = ROWS_A_PAIR * len(frame.members) // frame.parts + BLOCKS
    rows = [empty(space * LANES, np.uint16) for _ in range(frame.parts)]
    owners = [empty(space, np.uint32) for _ in range(frame.parts)]
    world = frame.splats, frame.index, frame.starts, frame.members
    screen = frame.columns, frame.size, frame.rules
    known = codes.records, codes.entries, codes.largest, codes.gram, codes.unit, codes.lines
    given = np.zeros(1, np.int64), *world, *screen, *known, np.float32(support)
    found = _in_threads(_weigh, frame.parts, rows, owners, *given, spans, inverse, best)
    rows, owners, own = (list(arrays) for arrays in zip(*found, strict=True))
    return BlendingWeights(rows, owners, own, spans, frame.columns), inverse, best


def answer(
    weights: BlendingWeights,
    values: Values,
    inverse: Array,
    best: Array,
    sharpness: float,
    out: Array,
) -> None:
    """Write to `out` [T, L, H, W] float32 the relevancies of words in a view; 0 without support."""
    w, maps = weights, out.reshape(-1, *out.shape[2:])
    kept = w.rows, w.owners, w.tiles, w.spans, w.columns
    _in_threads(_answer, len(w.rows), *kept, values.numbers, inverse, best, sharpness, maps)


def rate(values: Values, levels: Array, inverse: Array, best: Array, sharpness: float) -> Array:
    """Relevancies [T, N] float32 of the Gaussians, of each word at its own level.

    Args:
        levels: [T] int64.
        inverse, best: [L, N padded to whole LANES] float32, 1 / the length of a Gaussian's
            embedding, 0 for no answer, and its highest cosine with a negative.
    """
    out = empty((values.texts, inverse.shape[1]), np.float32)
    parts, scores = torch.get_num_threads(), values.numbers[: values.gaussians]
    _in_threads(_rate, parts, scores, levels, inverse, best, sharpness, out)
    return out[:, : values.gaussians]


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a `langsplat.codec.DecodeTable` in 16 bits: half the memory to read for a word.

    Args:
        packed: [groups of 16 corners, K, 16] int16, 1 as EMBEDDED.
        basis: [K, E].
        side: R.
    """

    packed: Array
    basis: Tensor
    side: int

    @classmethod
    def of(cls, rows: Tensor, basis: Tensor, side: int) -> "Table":
        corners, size = rows.shape
        packed = empty((-(-corners // LANES), size, LANES), np.int16)
        _in_threads(_pack_table, torch.get_num_threads(), rows.numpy(), packed)
        return cls(packed, basis, side)

    def score(self, texts: Tensor) -> Array:
        """Cosines of unit texts [T, E] at the corners -> [6 (R + 1), R + 1, T].

        Behind them is room for THIN more, since so many are read at once.
        """
        along = (texts.to(self.basis) @ self.basis.T).numpy().T / np.float32(EMBEDDED)
        padded = np.zeros((len(along), len(texts) + -len(texts) % THIN), np.float32)
        padded[:, : len(texts)] = along
        count = 6 * (self.side + 1) ** 2 * len(texts)
        out = empty(count + THIN, np.float32)[:count].reshape(-1, len(texts))
        owners, parts = np.arange(len(along), dtype=np.uint32), torch.get_num_threads()
        _in_threads(_score_table, parts, self.packed, padded, owners, out)
        return out.reshape(-1, self.side + 1, len(texts))


def place(image: Tensor, corners: Array, levels: int, support: float) -> tuple[Tensor, Tensor]:
    """Where latents are looked up in a table, and the highest cosine with a negative there.

    Args:
        image: [H, W, 3 L + L] float32, latents of each level and what is seen of it.
        corners: of the negatives, from `Table.score`.
    Returns:
        [L, H, W, 2], places in cells, the first number -1 where not more than `support` is seen;
        and [L, H, W].
    """
    shape = levels, *image.shape[:2]
    places, best = empty((*shape, 2), np.float32), empty(shape, np.float32)
    flat = places.reshape(levels, -1, 2), best.reshape(levels, -1)
    given = image.flatten(0, 1).numpy(), corners, np.float32(support)
    _in_threads(_place, torch.get_num_threads(), *given, *flat)
    return torch.from_numpy(places), torch.from_numpy(best)


def placed(
    places: Tensor, best: Tensor, corners: Array, sharpness: float, out: Tensor, text: int = 0
) -> None:
    """Write to `out` [T, L, H, W] the relevancy of T texts, from number `text` of `corners` on."""
    flat = places.view(-1, 2).numpy(), best.view(-1).numpy()
    maps = out.view(len(out), -1).numpy()
    _in_threads(_placed, torch.get_num_threads(), *flat, corners, text, sharpness, maps)


def hold(scores: Array, by_part: Array, near: Array, sure: float) -> None:
    """Hold a text's scores [L, H, W] float32, in place, to the thing that it names a part of.

    Args:
        by_part: [L, H, W] float32, the scores of the part's own word.
        near: [H, W] float32, how near to the thing every pixel is, up to 1.
        sure: a score that stands by itself.
    """
    flat = scores.reshape(len(scores), -1), by_part.reshape(len(by_part), -1), near.reshape(-1)
    _in_threads(_hold, torch.get_num_threads(), *flat, np.float32(1 / (sure - 0.5)))


def hold_inside(
    scores: Array,
    by_part: Array,
    near: Array,
    sure: float,
    means: Tensor,  # [N, 3]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    nearest: float,
) -> None:
    """The same for scores of Gaussians [N]: each is as near as the pixel that its centre is in.

    Those outside of the picture, or not more than `nearest` before the camera, stay as they are.
    """
    world = means.contiguous().numpy(), (K.double() @ viewmat[:3].double()).numpy(), nearest
    given = scores, by_part, near, *world, np.float32(1 / (sure - 0.5))
    _in_threads(_hold_inside, torch.get_num_threads(), *given)


def half_smooth(maps: Array, half: int) -> Array:
    """Average each pixel of maps [M, H, W] float32 >= 0, in place, with the mean of the box around.

    The box reaches `half` pixels away. Returns the highest value of each map, [M].
    """
    peaks = np.empty(len(maps), np.float32)
    _in_threads(_half_smooth, torch.get_num_threads(), maps, half, peaks)
    return peaks
