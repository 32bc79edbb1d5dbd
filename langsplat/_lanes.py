"""Sixteen numbers at once in numba kernels: a vector type that LLVM maps onto any CPU's registers.

    a = load(array, at)                # Lanes: array[at : at + 16], of a flat array
    s = min(a * a + 0.5, reach)        # lane by lane; a plain number is on all lanes
    store(array, at, where(s > 1, s, 0.0))

Lanes take + += - * / abs min max math.sqrt math.floor math.ceil, the comparisons < <= == >= >, &
between the results of those, and the functions below, which also make arrays for them (`room`,
`flattened`). A loop that LLVM vectorises needs no lanes: they are for rows of constant length,
which LLVM unrolls and leaves scalar.

numba keeps compiled kernels by the content of their own file, not of this one: after a change here,
or in the rasterizer's kernels, remove the kept kernels of the files that import them
(`rm langsplat/__pycache__/*.nb?`).
"""

import builtins
import math
import operator
import struct
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils, errors
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.np.arrayobj import populate_array

LANES = 16
LINE = 64  # bytes of a line of the cache
_ROOT_HALF = int.from_bytes(struct.pack(">d", math.sqrt(0.5)))  # the bits of a number
# No "nnan", "ninf": masked lanes may hold infinities.
FAST = ("contract", "nsz", "arcp", "afn")
_INT = ir.IntType(32)
_LONG = ir.IntType(64)


class Lanes(types.Type):
    """LANES numbers of a dtype, float32 or float64; or of booleans, a mask."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


_MASK = Lanes(types.boolean)
_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: ir.IntType(1),
}


def _vector(dtype: types.Type) -> ir.VectorType:
    return ir.VectorType(_ELEMENTS[dtype], LANES)


@extending.register_model(Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _vector(lanes.dtype))


def _spread(context: Any, builder: Any, value: Any, source: types.Type, dtype: types.Type) -> Any:
    """A number on all lanes; lanes stay as they are."""
    if isinstance(source, Lanes):
        return value
    empty = ir.Constant(_vector(dtype), ir.Undefined)
    one = builder.insert_element(empty, context.cast(builder, value, source, dtype), _INT(0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def instruction(builder: Any, name: str, result: Any, *args: Any, **options: Any) -> Any:
    """A call of the intrinsic function llvm.NAME."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    called = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")
    return builder.call(called, args, **options)


def _operation(
    function: Any, arity: int, emit: Callable[..., Any], *, compares: bool = False
) -> None:
    """Let an operator or function take lanes, also together with numbers."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            lanes = next((t for t in args if isinstance(t, Lanes)), None)
            if lanes is None or len(args) != arity:
                return None
            return signature(_MASK if compares else lanes, *map(types.unliteral, args))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype = next(t.dtype for t in sig.args if isinstance(t, Lanes))
        kinds = zip(args, sig.args, strict=True)
        return emit(builder, *(_spread(context, builder, v, t, dtype) for v, t in kinds))

    infer_global(function)(Template)
    for mix in (
        [(Lanes,)] if arity == 1 else [(Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)]
    ):
        extending.lower_builtin(function, *mix)(lower)


def _named(name: str) -> Callable[..., Any]:
    """Code for an intrinsic function over lanes of either precision."""

    def emit(builder: Any, a: Any) -> Any:
        size = 32 if a.type.element == ir.FloatType() else 64
        return instruction(builder, f"{name}.v{LANES}f{size}", a.type, a)

    return emit


for plus in (operator.add, operator.iadd):
    _operation(plus, 2, lambda b, x, y: b.fadd(x, y, flags=FAST))
_operation(operator.sub, 2, lambda b, x, y: b.fsub(x, y, flags=FAST))
_operation(operator.mul, 2, lambda b, x, y: b.fmul(x, y, flags=FAST))
_operation(operator.truediv, 2, lambda b, x, y: b.fdiv(x, y, flags=FAST))
_operation(operator.neg, 1, lambda b, x: b.fneg(x))
_operation(operator.and_, 2, lambda b, x, y: b.and_(x, y))
_operation(operator.lt, 2, lambda b, x, y: b.fcmp_ordered("<", x, y), compares=True)
_operation(operator.le, 2, lambda b, x, y: b.fcmp_ordered("<=", x, y), compares=True)
_operation(operator.eq, 2, lambda b, x, y: b.fcmp_ordered("==", x, y), compares=True)
_operation(operator.gt, 2, lambda b, x, y: b.fcmp_ordered(">", x, y), compares=True)
_operation(operator.ge, 2, lambda b, x, y: b.fcmp_ordered(">=", x, y), compares=True)
_operation(builtins.min, 2, lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
_operation(builtins.max, 2, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
_operation(builtins.abs, 1, _named("fabs"))
_operation(math.sqrt, 1, _named("sqrt"))
_operation(math.floor, 1, _named("floor"))
_operation(math.ceil, 1, _named("ceil"))


def intrinsic(code: Callable[..., Any]) -> Callable[..., Any]:
    """numba's decorator, which has no type hints."""
    return extending.intrinsic(code)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """The address where LANES neighbours begin in a flat array."""
    view = context.make_array(kind)(context, builder, array)
    pointer = builder.gep(view.data, [at])
    return builder.bitcast(pointer, _vector(kind.dtype).as_pointer())


@intrinsic
def load(typingctx, array, at):  # type: ignore[no-untyped-def]
    """array[at : at + LANES] of a contiguous array."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.load(_place(context, builder, array, *args), align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, types.int64), generate


@intrinsic
def store(typingctx, array, at, lanes):  # type: ignore[no-untyped-def]
    """array[at : at + LANES] = lanes, rounded to the array's dtype."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value = args[2]
        if lanes.dtype == types.float64 and array.dtype == types.float32:
            value = builder.fptrunc(value, _vector(types.float32))
        place = _place(context, builder, array, *args[:2])
        builder.store(value, place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


def _before(builder: Any, at: Any, end: Any) -> Any:
    """A mask of the lanes k with at + k < end."""
    left = builder.trunc(builder.sub(end, at), _INT)
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    left = builder.shuffle_vector(builder.insert_element(zeros, left, _INT(0)), zeros, zeros)
    return builder.icmp_signed("<", ir.Constant(zeros.type, [*range(LANES)]), left)


@intrinsic
def load_until(typingctx, array, at, end):  # type: ignore[no-untyped-def]
    """array[at : min(at + LANES, end)] of a contiguous array, then zeros."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        place = _place(context, builder, array, *args[:2])
        kind, size = _vector(array.dtype), array.dtype.bitwidth
        with builder.if_else(_all_before(builder, *args[1:])) as (then, otherwise):
            with then:
                whole = builder.load(builder.bitcast(place, kind.as_pointer()), align=size // 8)
                one = builder.block
            with otherwise:
                given = (place, _INT(size // 8), _before(builder, *args[1:]), kind(None))
                some = instruction(builder, f"masked.load.v{LANES}f{size}.p0", kind, *given)
                other = builder.block
        lanes = builder.phi(kind)
        lanes.add_incoming(whole, one)
        lanes.add_incoming(some, other)
        return lanes

    return Lanes(array.dtype)(array, types.int64, types.int64), generate


@intrinsic
def store_until(typingctx, array, at, end, lanes):  # type: ignore[no-untyped-def]
    """array[at : min(at + LANES, end)] = lanes."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        place = _place(context, builder, array, *args[:2])
        kind, size = _vector(array.dtype), array.dtype.bitwidth
        # Some processors are slow with a mask (Zen 3; tests/benchmarks/NOTES.md, Rasterizer).
        with builder.if_else(_all_before(builder, *args[1:3])) as (then, otherwise):
            with then:
                pointer = builder.bitcast(place, kind.as_pointer())
                builder.store(args[3], pointer, align=size // 8)
            with otherwise:
                given = (args[3], place, _INT(size // 8), _before(builder, *args[1:3]))
                instruction(builder, f"masked.store.v{LANES}f{size}.p0", ir.VoidType(), *given)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, lanes), generate


def _all_before(builder: Any, at: Any, end: Any) -> Any:
    """Whether all of a place's lanes lie before the end."""
    return builder.icmp_signed("<=", builder.add(at, _LONG(LANES)), end)


def _picked(builder: Any, rows: list[Any], places: list[int]) -> Any:
    """Lanes of the numbers at some places of rows [LANES] that are put one after the other."""
    picked = rows[0]
    for k, row in enumerate(rows):
        mask = [
            LANES + place % LANES if place // LANES == k else lane
            for lane, place in enumerate(places)
        ]
        mask = ir.Constant(ir.VectorType(_INT, LANES), mask)
        picked = builder.shuffle_vector(picked, row, mask)
    return picked


def _rearranging(places: list[list[int]]) -> Callable[..., Any]:
    """Code for a tuple of lanes made of the numbers at some places of another."""

    def code(typingctx, rows):  # type: ignore[no-untyped-def]
        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            given = cgutils.unpack_tuple(builder, args[0])
            made = [_picked(builder, given, row) for row in places]
            return context.make_tuple(builder, sig.return_type, made)

        return rows(rows), generate

    return code


# LANES pixels of three channels, as three lanes: pixel by pixel to channel by channel, and back.
to_planes = intrinsic(_rearranging([[3 * lane + c for lane in range(LANES)] for c in range(3)]))
to_pixels = intrinsic(
    _rearranging(
        [[n % 3 * LANES + n // 3 for n in range(k * LANES, (k + 1) * LANES)] for k in range(3)]
    )
)


@intrinsic
def room(typingctx, count, dtype):  # type: ignore[no-untyped-def]
    """An array for `count` numbers that begins at a line of the cache: lanes never straddle two.

    Nothing is written to it. Unlike numpy's `empty`, this and `flattened` compile in no time.
    """
    kind = types.Array(dtype.dtype, 1, "C")

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        size = _LONG(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        memory = context.nrt.meminfo_alloc_aligned(builder, builder.mul(args[0], size), LINE)
        data = context.nrt.meminfo_data(builder, memory)
        return _array(context, builder, kind, data, args[0], size, memory)

    return kind(types.int64, dtype), generate


@intrinsic
def flattened(typingctx, array, dtype=None):  # type: ignore[no-untyped-def]
    """The numbers of a contiguous array one after the other, read as those of a dtype, if given."""
    kind = types.Array((dtype or array).dtype, 1, "C")

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        given = context.make_array(array)(context, builder, args[0])
        size = _LONG(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        count = builder.sdiv(builder.mul(given.nitems, given.itemsize), size)
        made = _array(context, builder, kind, given.data, count, size, given.meminfo)
        return impl_ret_borrowed(context, builder, kind, made)

    if array.layout != "C":
        raise errors.TypingError("Only an array without gaps can be flattened.")
    return kind(array, dtype or types.Omitted(None)), generate


def _array(
    context: Any, builder: Any, kind: types.Array, data: Any, count: Any, size: Any, memory: Any
) -> Any:
    view = context.make_array(kind)(context, builder)
    data = builder.bitcast(data, context.get_data_type(kind.dtype).as_pointer())
    populate_array(view, data, [count], [size], size, memory)
    return view._getvalue()


@intrinsic
def load_fours(typingctx, array, at, step):  # type: ignore[no-untyped-def]
    """Four numbers each from array[at], array[at + step], ..., as lanes."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        parts = []
        for k in range(LANES // 4):
            parts.append(builder.load(_four(context, builder, array, k, *args), align=4))
        while len(parts) > 1:
            both = ir.Constant(
                ir.VectorType(_INT, 2 * parts[0].type.count), [*range(2 * parts[0].type.count)]
            )
            parts = [
                builder.shuffle_vector(x, y, both)
                for x, y in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    return Lanes(array.dtype)(array, types.int64, types.int64), generate


@intrinsic
def store_fours(typingctx, array, at, step, lanes):  # type: ignore[no-untyped-def]
    """array[at ...], array[at + step ...] ... = four lanes each."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        for k in range(LANES // 4):
            own = ir.Constant(ir.VectorType(_INT, 4), [4 * k + lane for lane in range(4)])
            four = builder.shuffle_vector(args[3], args[3], own)
            builder.store(four, _four(context, builder, array, k, *args[:3]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, lanes), generate


def _four(context: Any, builder: Any, kind: Any, k: int, array: Any, at: Any, step: Any) -> Any:
    """The address where four numbers of a flat array begin, k steps after a place."""
    at = builder.add(at, builder.mul(step, _LONG(k)))
    place = _place(context, builder, kind, array, at)
    return builder.bitcast(place, ir.VectorType(_ELEMENTS[kind.dtype], 4).as_pointer())


@intrinsic
def gather(typingctx, table, rows, at, column):  # type: ignore[no-untyped-def]
    """table[rows[at : at + LANES], column] as float64, of a table [.., ..] and integers [..]."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        view = context.make_array(table)(context, builder, args[0])
        index = context.make_array(rows)(context, builder, args[1])
        row_stride, column_stride = cgutils.unpack_tuple(builder, view.strides, 2)
        start = builder.bitcast(view.data, ir.IntType(8).as_pointer())
        start = builder.gep(start, [builder.mul(args[3], column_stride)])
        element = _ELEMENTS[table.dtype]
        lanes = ir.Constant(_vector(table.dtype), ir.Undefined)
        for lane in range(LANES):
            row = builder.load(builder.gep(index.data, [builder.add(args[2], _LONG(lane))]))
            row = context.cast(builder, row, rows.dtype, types.int64)
            place = builder.gep(start, [builder.mul(row, row_stride)])
            number = builder.load(builder.bitcast(place, element.as_pointer()))
            lanes = builder.insert_element(lanes, number, _INT(lane))
        if table.dtype == types.float64:
            return lanes
        return builder.fpext(lanes, _vector(types.float64))

    return Lanes(types.float64)(table, rows, types.int64, types.int64), generate


@intrinsic
def spread(typingctx, number):  # type: ignore[no-untyped-def]
    """A float on all lanes."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _spread(context, builder, args[0], number, number)

    return Lanes(number)(number), generate


@intrinsic
def times_power(typingctx, number, power):  # type: ignore[no-untyped-def]
    """number * 2^n, for floats or lanes; n is in the last bits of `power`, which is as wide."""
    width, digits = {32: (32, 23), 64: (64, 52)}[getattr(number, "dtype", number).bitwidth]
    whole = ir.IntType(width)
    places = ir.Constant(whole, digits)
    if isinstance(number, Lanes):
        places = ir.Constant(ir.VectorType(whole, LANES), [digits] * LANES)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        number, power = (builder.bitcast(arg, places.type) for arg in args)
        scaled = builder.add(number, builder.shl(power, places))
        return builder.bitcast(scaled, args[0].type)

    return number(number, power), generate


@intrinsic
def doubled(typingctx, lanes):  # type: ignore[no-untyped-def]
    """Lanes as float64."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        if lanes.dtype == types.float64:
            return args[0]
        return builder.fpext(args[0], _vector(types.float64))

    return Lanes(types.float64)(lanes), generate


@intrinsic
def log2(typingctx, lanes):  # type: ignore[no-untyped-def]
    """The base-2 logarithm of positive normal numbers, lanes of float64: an integer, plus the rest
    to 1e-15.

    Libraries have one for single numbers only: sixteen calls take ten times as long.
    """
    whole = ir.VectorType(_LONG, LANES)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = args[0].type

        def all_of(value):  # type: ignore[no-untyped-def]
            return ir.Constant(kind, [value] * LANES)

        def bits_of(value):  # type: ignore[no-untyped-def]
            return ir.Constant(whole, [value] * LANES)

        # The number is 2^n m with m from root 1/2 to root 2.
        number = builder.bitcast(args[0], whole)
        shifted = builder.sub(number, bits_of(_ROOT_HALF))
        n = builder.ashr(shifted, bits_of(52))
        m = builder.bitcast(builder.sub(number, builder.shl(n, bits_of(52))), kind)
        # log m = 2 artanh t with t = (m - 1) / (m + 1), at most 0.172
        t = builder.fdiv(builder.fsub(m, all_of(1.0)), builder.fadd(m, all_of(1.0)))
        square = builder.fmul(t, t)
        sum_ = all_of(1 / 19)
        for k in range(17, 0, -2):
            sum_ = builder.fadd(builder.fmul(sum_, square, flags=FAST), all_of(1 / k), flags=FAST)
        log = builder.fmul(builder.fmul(sum_, t, flags=FAST), all_of(2 / math.log(2)), flags=FAST)
        return builder.fadd(builder.sitofp(n, kind), log)

    return lanes(lanes), generate


@intrinsic
def where(typingctx, mask, yes, no):  # type: ignore[no-untyped-def]
    """`yes` where the mask is set, else `no`, lane by lane; one of the two may be a number."""
    lanes = yes if isinstance(yes, Lanes) else no

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        sides = zip(args[1:], (yes, no), strict=True)
        return builder.select(
            args[0], *(_spread(context, builder, v, t, lanes.dtype) for v, t in sides)
        )

    return lanes(mask, yes, no), generate


@intrinsic
def bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """A mask as an integer, lane 0 its lowest bit."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), _LONG)

    return types.int64(mask), generate


def _places(byte: int) -> list[int]:
    """The places of the bits that are set, then those of the others."""
    return sorted(range(8), key=lambda place: not byte >> place & 1)


_BYTE = ir.VectorType(ir.IntType(16), 8)
_PLACES = ir.Constant(
    ir.ArrayType(_BYTE, 256), [ir.Constant(_BYTE, _places(byte)) for byte in range(256)]
)


def _listed(builder: Any, mask: Any, part: int) -> tuple[Any, Any]:
    """The places of the bits set in one byte of a mask, then of the others; how many are set."""
    table = cgutils.global_constant(builder, "places_of_bits", _PLACES)
    byte = builder.and_(builder.lshr(mask, _LONG(8 * part)), _LONG(255))
    places = builder.load(builder.gep(table, [_LONG(0), byte]), align=2)
    return places, builder.ctpop(byte)


@intrinsic
def append_bits(typingctx, numbers, used, mask, base):  # type: ignore[no-untyped-def]
    """numbers[used ...] = base + each place of a bit that is set in the LANES bits of mask.

    Returns how many numbers [..] uint16 are used then; LANES more are overwritten. By table, as no
    processor foresees where a loop over the bits ends, which costs more than the work.
    """

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        view = context.make_array(numbers)(context, builder, args[0])
        used, mask = args[1], args[2]
        for part in range(2):
            places, count = _listed(builder, mask, part)
            offset = builder.trunc(builder.add(args[3], _LONG(8 * part)), ir.IntType(16))
            one = builder.insert_element(ir.Constant(_BYTE, ir.Undefined), offset, _INT(0))
            zeros = ir.Constant(ir.VectorType(_INT, LANES // 2), [0] * (LANES // 2))
            offsets = builder.shuffle_vector(one, ir.Constant(_BYTE, ir.Undefined), zeros)
            place = builder.bitcast(builder.gep(view.data, [used]), _BYTE.as_pointer())
            builder.store(builder.add(places, offsets), place, align=2)
            used = builder.add(used, count)
        return used

    return types.int64(numbers, types.int64, types.int64, types.int64), generate


@intrinsic
def append_squares(typingctx, numbers, owners, used, mask, first, columns, owner):  # type: ignore[no-untyped-def]
    """The same for bits that are the squares of a 4 x 4 part of a grid with `columns` columns.

    numbers[used ...] int32 = the numbers in the grid of the squares that are set, where `first` is
    that of the part's first square; and owners[used ...] int32 = the owner.
    """

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        target, names = (
            context.make_array(kind)(context, builder, array)
            for kind, array in zip(sig.args[:2], args[:2], strict=True)
        )
        kind = ir.VectorType(_INT, LANES // 2)
        zeros = ir.Constant(kind, [0] * (LANES // 2))

        def everywhere(value):  # type: ignore[no-untyped-def]
            one = builder.insert_element(zeros, builder.trunc(value, _INT), _INT(0))
            return builder.shuffle_vector(one, zeros, zeros)

        used, mask = args[2:4]
        first, columns, owner = map(everywhere, args[4:])
        twice = builder.add(columns, columns)
        for part in range(2):
            places, count = _listed(builder, mask, part)
            places = builder.zext(places, kind)
            across = builder.and_(places, ir.Constant(kind, [3] * (LANES // 2)))
            lower = builder.icmp_unsigned(">", places, across)  # the second of two rows
            found = builder.add(builder.select(lower, columns, zeros), builder.add(across, first))
            if part:
                found = builder.add(found, twice)
            for array, value in ((target, found), (names, owner)):
                pointer = builder.bitcast(builder.gep(array.data, [used]), kind.as_pointer())
                builder.store(value, pointer, align=4)
            used = builder.add(used, count)
        return used

    long = types.int64
    return long(numbers, owners, long, long, long, long, long), generate


@intrinsic
def column_bits(typingctx, numbers, at, place):  # type: ignore[no-untyped-def]
    """The bits at a place of numbers[at : at + LANES] uint16, as an integer."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        view = context.make_array(numbers)(context, builder, args[0])
        kind = ir.VectorType(ir.IntType(16), LANES)
        pointer = builder.bitcast(builder.gep(view.data, [args[1]]), kind.as_pointer())
        zeros = ir.Constant(kind, [0] * LANES)
        bit = builder.shl(ir.IntType(16)(1), builder.trunc(args[2], ir.IntType(16)))
        one = builder.insert_element(zeros, bit, _INT(0))
        first = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
        chosen = builder.and_(
            builder.load(pointer, align=2), builder.shuffle_vector(one, zeros, first)
        )
        found = builder.icmp_unsigned("!=", chosen, zeros)
        return builder.zext(builder.bitcast(found, ir.IntType(LANES)), _LONG)

    return types.int64(numbers, types.int64, types.int64), generate


@intrinsic
def take(typingctx, counter):  # type: ignore[no-untyped-def]
    """counter[0] of int64, which is then increased by one: no two threads get the same number."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        view = context.make_array(counter)(context, builder, args[0])
        return builder.atomic_rmw("add", view.data, _LONG(1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def lowest_bit(typingctx, number):  # type: ignore[no-untyped-def]
    """The place of the lowest bit that is set in an integer other than 0."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


@intrinsic
def bit_count(typingctx, number):  # type: ignore[no-untyped-def]
    """How many bits of an integer are set."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


@intrinsic
def totals(typingctx, several):  # type: ignore[no-untyped-def]
    """The sums over each of up to LANES lanes, a tuple: lane k is the k-th's sum, the rest are 0.

    Two become one that holds sums of two neighbours from both, so the work halves from step to
    step: this costs a third of summing one after the other.
    """

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        rows = cgutils.unpack_tuple(builder, args[0])
        rows += [ir.Constant(rows[0].type, [0.0] * LANES)] * (LANES - len(rows))
        for unit in (1, 1, 4, 4):  # neighbours within four lanes, then fours: cheap to shuffle
            even = [
                source + four + half + k
                for four in range(0, LANES, 4 * unit)
                for source in (0, LANES)
                for half in (0, 2 * unit)
                for k in range(unit)
            ]
            masks = [
                ir.Constant(ir.VectorType(_INT, LANES), [place + odd for place in even])
                for odd in (0, unit)
            ]
            rows = [
                builder.fadd(*(builder.shuffle_vector(x, y, mask) for mask in masks), flags=FAST)
                for x, y in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return several[0](several), generate


@intrinsic
def prefetch(typingctx, array, row):  # type: ignore[no-untyped-def]
    """Begin to load a row into the cache, as rows are read in no order and memory is slow."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        fetch(context, builder, array, *args)
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def fetch(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> None:
    """The code of `prefetch`."""
    view = context.make_array(kind)(context, builder, array)
    stride = builder.extract_value(view.strides, 0)
    pointer = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    pointer = builder.gep(pointer, [builder.mul(stride, row)])
    instruction(builder, "prefetch.p0", ir.VoidType(), pointer, _INT(0), _INT(3), _INT(1))
