# pyright: reportMissingParameterType=false, reportUnknownVariableType=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# loops are compiled, not called: their parameters have no types that a checker could read, nor has what llvmlite builds
"""The compiled loops that turn pairs of channels on a CPU.  In one file with all that shapes them: numba recompiles
what it keeps on disk when the file with the loop changes, and not when another one does.

float16 is widened and rounded by the processor, bfloat16 by integers: to nearest, ties to even, NaN stays NaN.  No
product is fused with a sum, so float32 and float64 results are those of `naive` to the last bit.
Names: p_ address, s_ strides in elements, n_ count, i_ index; B batch, T tokens, H heads, D head channels, P pairs.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ropewalk.kernels.cpu.addresses import copy, number, publish, take

AHEAD = 4096  # bytes that are fetched ahead of those being turned
LINE = 64  # bytes of a cache line

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
BYTES = {I16: 2, I32: 4, F16: 2, F32: 4, F64: 8}
# the loops are specialised by a sample; integers stand for the types that numba lacks
BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = types.uint16, types.int16, types.float32, types.float64
STORED = {BFLOAT16: I16, FLOAT16: F16, FLOAT32: F32, FLOAT64: F64}


def vector(kind: ir.Type, lanes: int) -> ir.Type:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def constant(kind: ir.Type, lanes: int, value: int) -> ir.Constant:
    return ir.Constant(vector(kind, lanes), value if lanes == 1 else [value] * lanes)


def shuffle(b: ir.IRBuilder, x: ir.Value, y: ir.Value, order: Sequence[int]) -> ir.Value:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def load(b: ir.IRBuilder, p: ir.Value, kind: ir.Type, lanes: int, ahead: bool = False) -> ir.Value:
    if ahead:
        signature = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, I32, I32, I32])
        prefetch = cgutils.get_or_insert_function(b.module, signature, "llvm.prefetch.p0")
        for line in range(0, lanes * BYTES[kind], LINE):
            # to read, used once, data
            flags = I32(0), I32(0), I32(1)
            b.call(prefetch, [b.inttoptr(b.add(p, I64(AHEAD + line)), cgutils.voidptr_t), *flags])
    return b.load(b.inttoptr(p, vector(kind, lanes).as_pointer()), align=BYTES[kind])


def store(b: ir.IRBuilder, x: ir.Value, p: ir.Value, kind: ir.Type, lanes: int, past_caches: bool) -> None:
    align = LINE if past_caches else BYTES[kind]
    instruction = b.store(x, b.inttoptr(p, vector(kind, lanes).as_pointer()), align=align)
    if past_caches:
        instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))


def widen(b: ir.IRBuilder, x: ir.Value, stored: types.Type, wide: ir.Type, lanes: int) -> ir.Value:
    """Stored values as float32 or float64, exactly."""
    kind = STORED[stored]
    if stored == BFLOAT16:
        x = b.shl(b.zext(x, vector(I32, lanes)), constant(I32, lanes, 16))
        x, kind = b.bitcast(x, vector(F32, lanes)), F32
    return x if kind == wide else b.fpext(x, vector(wide, lanes))


def narrow(b: ir.IRBuilder, x: ir.Value, stored: types.Type, wide: ir.Type, lanes: int) -> ir.Value:
    """float32 or float64 rounded to what is stored."""
    if stored != BFLOAT16:
        return x if STORED[stored] == wide else b.fptrunc(x, vector(STORED[stored], lanes))
    bits = rounded(b, x, wide, lanes)
    if lanes == 1:
        return b.trunc(b.lshr(bits, I32(16)), I16)
    halves = b.bitcast(bits, vector(I16, 2 * lanes))
    return shuffle(b, halves, halves, range(1, 2 * lanes, 2))


def rounded(b: ir.IRBuilder, x: ir.Value, wide: ir.Type, lanes: int) -> ir.Value:
    """Bits of float32 whose upper half is the nearest bfloat16; the lower half is arbitrary."""
    x = x if wide == F32 else b.fptrunc(x, vector(F32, lanes))
    bits = b.bitcast(x, vector(I32, lanes))
    odd = b.and_(b.lshr(bits, constant(I32, lanes, 16)), constant(I32, lanes, 1))
    near = b.add(bits, b.add(odd, constant(I32, lanes, 0x7FFF)))
    # a carry could make a number of NaN, whose upper half says what it is after any sum
    return b.select(b.fcmp_unordered("uno", x, x), bits, near)


def load_tables(b: ir.IRBuilder, args: Any, table: types.Type, wide: ir.Type, lanes: int) -> list[ir.Value]:
    """Cosines and sines; args are their addresses, and 1.0 or -1.0 for the direction."""
    cos, sin = (widen(b, load(b, p, STORED[table], lanes), table, wide, lanes) for p in args[:2])
    sign = b.fptrunc(args[2], F32) if wide == F32 else args[2]
    if lanes > 1:
        sign = b.insert_element(ir.Constant(vector(wide, lanes), ir.Undefined), sign, I32(0))
        sign = shuffle(b, sign, sign, [0] * lanes)
    return [cos, b.fmul(sin, sign)]


def turned(b: ir.IRBuilder, pair: Sequence[ir.Value], tables: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
    (first, second), (cos, sin) = pair, tables
    return b.fsub(b.fmul(first, cos), b.fmul(second, sin)), b.fadd(b.fmul(first, sin), b.fmul(second, cos))


def lanes_of(stored: types.Type, many: bool) -> int:
    """How many pairs go together: the first members, or the second ones, fill a cache line."""
    return LINE // BYTES[STORED[stored]] if many else 1


def apart(many: bool, large: bool) -> Any:
    """Turns pairs of some heads: the first members lie together, and the second ones do, `gap` bytes after."""

    @intrinsic
    def turn(_, n_heads, p_out, s_out, gap_out, p_x, s_x, gap, p_cos, p_sin, sign, x, table):
        wide, lanes, kind = F64 if FLOAT64 in (x, table) else F32, lanes_of(x, many), STORED[x]

        def generate(context: Any, b: ir.IRBuilder, _: Any, args: Any) -> ir.Value:
            n_heads, p_out, s_out, gap_out, p_x, s_x, gap = args[:7]
            tables = load_tables(b, args[7:10], table, wide, lanes)
            with cgutils.for_range(b, n_heads) as heads:
                p_first, p_out = (b.add(p, b.mul(heads.index, s)) for p, s in ((p_x, s_x), (p_out, s_out)))
                ins, outs = (p_first, b.add(p_first, gap)), (p_out, b.add(p_out, gap_out))
                pair = [widen(b, load(b, p, kind, lanes, ahead=large), x, wide, lanes) for p in ins]
                for p, value in zip(outs, turned(b, pair, tables), strict=True):
                    store(b, narrow(b, value, x, wide, lanes), p, kind, lanes, past_caches=large)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float64, x, table), generate

    return turn


def alternating(large: bool) -> Any:
    """Turns pairs of some heads whose members lie side by side; bfloat16 ones are the halves of an integer."""

    @intrinsic
    def turn(_, n_heads, p_out, s_out, p_x, s_x, p_cos, p_sin, sign, x, table):
        wide, lanes = F64 if FLOAT64 in (x, table) else F32, lanes_of(x, True)
        kind, n_loaded = (I32, lanes) if x == BFLOAT16 else (STORED[x], 2 * lanes)

        def generate(context: Any, b: ir.IRBuilder, _: Any, args: Any) -> ir.Value:
            n_heads, p_out, s_out, p_x, s_x = args[:5]
            tables = load_tables(b, args[5:8], table, wide, lanes)
            with cgutils.for_range(b, n_heads) as heads:
                both = load(b, b.add(p_x, b.mul(heads.index, s_x)), kind, n_loaded, ahead=large)
                pair = turned(b, parted(b, both, x, wide, lanes), tables)
                both = joined(b, pair, x, wide, lanes)
                store(b, both, b.add(p_out, b.mul(heads.index, s_out)), kind, n_loaded, past_caches=large)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, types.float64, x, table), generate

    return turn


def parted(b: ir.IRBuilder, both: ir.Value, x: types.Type, wide: ir.Type, lanes: int) -> list[ir.Value]:
    """First and second members of alternating ones."""
    if x != BFLOAT16:
        return [widen(b, shuffle(b, both, both, range(i, 2 * lanes, 2)), x, wide, lanes) for i in (0, 1)]
    bits = b.shl(both, constant(I32, lanes, 16)), b.and_(both, constant(I32, lanes, 0xFFFF0000))
    return [widen(b, b.bitcast(v, vector(F32, lanes)), FLOAT32, wide, lanes) for v in bits]


def joined(b: ir.IRBuilder, pair: Sequence[ir.Value], x: types.Type, wide: ir.Type, lanes: int) -> ir.Value:
    """The inverse of `parted`, rounded."""
    if x != BFLOAT16:
        first, second = (narrow(b, v, x, wide, lanes) for v in pair)
        return shuffle(b, first, second, [i // 2 + lanes * (i % 2) for i in range(2 * lanes)])
    first, second = (rounded(b, v, wide, lanes) for v in pair)
    return b.or_(b.lshr(first, constant(I32, lanes, 16)), b.and_(second, constant(I32, lanes, 0xFFFF0000)))


@intrinsic
def bytes_of(_: Any, x: Any):
    """Bytes of an element."""
    return types.int64(x), lambda _c, _b, _s, _a: I64(BYTES[STORED[x]])


@intrinsic
def pairs_of(_: Any, x: Any):
    """Pairs that go together."""
    return types.int64(x), lambda _c, _b, _s, _a: I64(lanes_of(x, True))


apart_one, apart_many, apart_large = apart(many=False, large=False), apart(many=True, large=False), apart(True, True)
alternating_many, alternating_large = alternating(large=False), alternating(large=True)


@njit
def turn_heads(n_heads, p_out, s_out, p_x, s_x, p_cos, p_sin, sign, n_pairs, alternate, together, large, x, table):
    """The pairs of some heads of one token, which share tables; `together`: channels lie side by side."""
    size, table_size, n_lanes = bytes_of(x), bytes_of(table), pairs_of(x)
    h_out, h_x, gap, i_pair = s_out[1] * size, s_x[1] * size, n_pairs * size, 0
    while together and i_pair + n_lanes <= n_pairs:
        o_t, o = i_pair * table_size, i_pair * size
        p_c, p_s = p_cos + o_t, p_sin + o_t
        if alternate and large:
            alternating_large(n_heads, p_out + 2 * o, h_out, p_x + 2 * o, h_x, p_c, p_s, sign, x, table)
        elif alternate:
            alternating_many(n_heads, p_out + 2 * o, h_out, p_x + 2 * o, h_x, p_c, p_s, sign, x, table)
        elif large:
            apart_large(n_heads, p_out + o, h_out, gap, p_x + o, h_x, gap, p_c, p_s, sign, x, table)
        else:
            apart_many(n_heads, p_out + o, h_out, gap, p_x + o, h_x, gap, p_c, p_s, sign, x, table)
        i_pair += n_lanes
    step, gap = (2, 1) if alternate else (1, n_pairs)
    c_out, c_x = s_out[3] * size, s_x[3] * size
    while i_pair < n_pairs:
        o_t, o = i_pair * table_size, i_pair * step
        p_c, p_s = p_cos + o_t, p_sin + o_t
        apart_one(
            n_heads, p_out + o * c_out, h_out, gap * c_out, p_x + o * c_x, h_x, gap * c_x, p_c, p_s, sign, x, table
        )
        i_pair += 1


@njit
def pass_channels(p_out, s_out, p_x, s_x, first, last, together, size):
    """Copy channels that do not turn."""
    if together:
        copy(p_out + first * size, p_x + first * size, (last - first) * size)
    else:
        for i in range(first, last):
            copy(p_out + i * s_out[3] * size, p_x + i * s_x[3] * size, size)


def turn_tiles(p_counter, p_out, p_x, p_cos, p_sin, sign, large, p_sizes, x, table):
    """Turn tiles of tokens of a batch row: all, or (p_counter not 0) those that no other thread took."""
    n_tiles, n_tile, n_group, alternate = number(p_sizes, 0), number(p_sizes, 1), number(p_sizes, 2), number(p_sizes, 3)
    n_heads, n_tokens, n_channels = number(p_sizes, 4), number(p_sizes, 5), number(p_sizes, 6)
    offset, n_pairs = number(p_sizes, 7), number(p_sizes, 8)
    s_x = number(p_sizes, 9), number(p_sizes, 10), number(p_sizes, 11), number(p_sizes, 12)
    s_out = number(p_sizes, 13), number(p_sizes, 14), number(p_sizes, 15), number(p_sizes, 16)
    s_table = number(p_sizes, 17), number(p_sizes, 18), number(p_sizes, 19)
    size, table_size, end = bytes_of(x), bytes_of(table), offset + 2 * n_pairs
    together = s_out[3] == 1 and s_x[3] == 1
    n_row, n_groups = (n_tokens + n_tile - 1) // n_tile, (n_heads + n_group - 1) // n_group
    i_tile = take(p_counter) if p_counter else 0
    while i_tile < n_tiles:
        i_b, i_first = i_tile // n_row, i_tile % n_row * n_tile
        n_here = min(n_tile, n_tokens - i_first)
        for i in range(n_groups * n_here):
            i_h, i_t = i // n_here * n_group, i_first + i % n_here
            n_now = min(n_group, n_heads - i_h)
            p_row = p_x + (i_b * s_x[0] + i_h * s_x[1] + i_t * s_x[2]) * size
            p_row_out = p_out + (i_b * s_out[0] + i_h * s_out[1] + i_t * s_out[2]) * size
            o_table = (i_b * s_table[0] + i_h * s_table[1] + i_t * s_table[2]) * table_size
            if p_x != p_out and 2 * n_pairs < n_channels:
                for h in range(n_now):
                    p, p_o = p_row + h * s_x[1] * size, p_row_out + h * s_out[1] * size
                    pass_channels(p_o, s_out, p, s_x, 0, offset, together, size)
                    pass_channels(p_o, s_out, p, s_x, end, n_channels, together, size)
            turn_heads(
                n_now, p_row_out + offset * s_out[3] * size, s_out, p_row + offset * s_x[3] * size, s_x,
                p_cos + o_table, p_sin + o_table, sign, n_pairs, alternate != 0, together, large, x, table,
            )  # fmt: skip
        i_tile = take(p_counter) if p_counter else i_tile + 1
    if large:
        publish()


def kept(function: Any) -> Any:
    """Compiled on first use, then kept on disk where there is a place to write."""
    try:
        return njit(function, nogil=True, cache=True)
    except RuntimeError:
        return njit(function, nogil=True)


turn_tiles = kept(turn_tiles)
