# pyright: reportMissingParameterType=false, reportUnknownVariableType=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# loops are compiled, not called: their parameters have no types that a checker could read, nor has what llvmlite builds
"""The compiled loops that turn pairs of channels on a CPU.

No product is fused with a sum, so float32 and float64 results are those of `naive` to the last bit.
Names: p_ address, s_ strides in elements, n_ count, i_ index; B batch, T tokens, H heads, D head channels, P pairs.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ropewalk.kernels.cpu.addresses import copy, number, publish, take
from ropewalk.kernels.cpu.lanes import (
    BFLOAT16,
    BYTES,
    F32,
    F64,
    FLOAT32,
    FLOAT64,
    I32,
    I64,
    LINE,
    ROUNDS,
    STORED,
    constant,
    load,
    narrow,
    rounded,
    shuffle,
    store,
    vector,
    widen,
)

FEW = 16  # bytes of pairs that go together where a cache line of them is too many
TOGETHER = 4  # heads far from each other that a thread goes through at once
ARGUMENTS = 8  # of `turn_tiles`, before the samples


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


def lanes_of(stored: types.Type, n_bytes: int) -> int:
    """How many pairs go together: the first members, or the second ones, fill that many bytes; at least one."""
    return max(1, n_bytes // BYTES[STORED[stored]])


def each_head(b: ir.IRBuilder, n_heads: ir.Value, one: Callable[[ir.Value], None]) -> None:
    """`one` for every head, written out for TOGETHER of them."""
    with cgutils.for_range(b, b.udiv(n_heads, I64(TOGETHER))) as loop:
        for i in range(TOGETHER):
            one(b.add(b.mul(loop.index, I64(TOGETHER)), I64(i)))
    rest = b.urem(n_heads, I64(TOGETHER))
    with cgutils.for_range(b, rest) as loop:
        one(b.add(b.sub(n_heads, rest), loop.index))


def apart(n_bytes: int, large: bool = False) -> Any:
    """Turns pairs of some heads: the first members lie together, and the second ones do, `gap` bytes after."""

    @intrinsic
    def turn(_, n_heads, p_out, s_out, gap_out, p_x, s_x, gap, p_cos, p_sin, sign, x, table):
        wide, lanes, kind = F64 if FLOAT64 in (x, table) else F32, lanes_of(x, n_bytes), STORED[x]

        def generate(context: Any, b: ir.IRBuilder, _: Any, args: Any) -> ir.Value:
            n_heads, p_out, s_out, gap_out, p_x, s_x, gap = args[:7]
            tables = load_tables(b, args[7:10], table, wide, lanes)

            def one(head: ir.Value) -> None:
                p, p_o = b.add(p_x, b.mul(head, s_x)), b.add(p_out, b.mul(head, s_out))
                ins, outs = (p, b.add(p, gap)), (p_o, b.add(p_o, gap_out))
                pair = [widen(b, load(b, p, kind, lanes, ahead=True), x, wide, lanes) for p in ins]
                for p, value in zip(outs, turned(b, pair, tables), strict=True):
                    store(b, narrow(b, value, x, wide, lanes), p, kind, lanes, past_caches=large)

            each_head(b, n_heads, one)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float64, x, table), generate

    return turn


def alternating(n_bytes: int, large: bool = False) -> Any:
    """Turns pairs of some heads whose members lie side by side; bfloat16 ones are the halves of an integer."""

    @intrinsic
    def turn(_, n_heads, p_out, s_out, p_x, s_x, p_cos, p_sin, sign, x, table):
        wide, lanes = F64 if FLOAT64 in (x, table) else F32, lanes_of(x, n_bytes)
        kind, n_loaded = (I32, lanes) if x == BFLOAT16 else (STORED[x], 2 * lanes)

        def generate(context: Any, b: ir.IRBuilder, _: Any, args: Any) -> ir.Value:
            n_heads, p_out, s_out, p_x, s_x = args[:5]
            tables = load_tables(b, args[5:8], table, wide, lanes)

            def one(head: ir.Value) -> None:
                both = load(b, b.add(p_x, b.mul(head, s_x)), kind, n_loaded, ahead=True)
                pair = turned(b, parted(b, both, x, wide, lanes), tables)
                both = joined(b, pair, x, wide, lanes)
                store(b, both, b.add(p_out, b.mul(head, s_out)), kind, n_loaded, past_caches=large)

            each_head(b, n_heads, one)
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
    if ROUNDS:
        first, second = (b.zext(narrow(b, v, x, wide, lanes), vector(I32, lanes)) for v in pair)
        return b.or_(first, b.shl(second, constant(I32, lanes, 16)))
    first, second = (rounded(b, v, wide, lanes) for v in pair)
    return b.or_(b.lshr(first, constant(I32, lanes, 16)), b.and_(second, constant(I32, lanes, 0xFFFF0000)))


@intrinsic
def bytes_of(_: Any, x: Any):
    """Bytes of an element."""
    return types.int64(x), lambda _c, _b, _s, _a: I64(BYTES[STORED[x]])


apart_one, apart_few, apart_many, apart_large = apart(0), apart(FEW), apart(LINE), apart(LINE, large=True)
alternating_few, alternating_many, alternating_large = alternating(FEW), alternating(LINE), alternating(LINE, True)


@njit
def turn_heads(n_heads, p_out, s_out, p_x, s_x, p_cos, p_sin, sign, n_pairs, alternate, together, large, x, table):
    """The pairs of some heads of one token, which share tables; `together`: channels lie side by side."""
    size, table_size = bytes_of(x), bytes_of(table)
    n_many, n_few = LINE // size, FEW // size
    h_out, h_x, gap, i_pair = s_out[1] * size, s_x[1] * size, n_pairs * size, 0
    while together and i_pair + n_few <= n_pairs:
        o_t, o, many = i_pair * table_size, i_pair * size, i_pair + n_many <= n_pairs
        p_c, p_s = p_cos + o_t, p_sin + o_t
        if alternate and not many:
            alternating_few(n_heads, p_out + 2 * o, h_out, p_x + 2 * o, h_x, p_c, p_s, sign, x, table)
        elif alternate and large:
            alternating_large(n_heads, p_out + 2 * o, h_out, p_x + 2 * o, h_x, p_c, p_s, sign, x, table)
        elif alternate:
            alternating_many(n_heads, p_out + 2 * o, h_out, p_x + 2 * o, h_x, p_c, p_s, sign, x, table)
        elif not many:
            apart_few(n_heads, p_out + o, h_out, gap, p_x + o, h_x, gap, p_c, p_s, sign, x, table)
        elif large:
            apart_large(n_heads, p_out + o, h_out, gap, p_x + o, h_x, gap, p_c, p_s, sign, x, table)
        else:
            apart_many(n_heads, p_out + o, h_out, gap, p_x + o, h_x, gap, p_c, p_s, sign, x, table)
        i_pair += n_many if many else n_few
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
    n_row, n_groups, n_run = (n_tokens + n_tile - 1) // n_tile, (n_heads + n_group - 1) // n_group, number(p_sizes, 20)
    i_tile = take(p_counter) if p_counter else 0
    while i_tile < n_tiles:
        i_b, i_first = i_tile // n_row, i_tile % n_row * n_tile
        n_here = min(n_tile, n_tokens - i_first)
        for i in range((n_here + n_run - 1) // n_run * n_groups):
            i_h, i_t = i % n_groups * n_group, i_first + i // n_groups * n_run
            n_now = min(n_group, n_heads - i_h)
            p_row = p_x + (i_b * s_x[0] + i_h * s_x[1] + i_t * s_x[2]) * size
            p_row_out = p_out + (i_b * s_out[0] + i_h * s_out[1] + i_t * s_out[2]) * size
            o_table = (i_b * s_table[0] + i_h * s_table[1] + i_t * s_table[2]) * table_size
            for _ in range(min(n_run, i_first + n_here - i_t)):
                if p_x != p_out and 2 * n_pairs < n_channels:
                    for h in range(n_now):
                        p, p_o = p_row + h * s_x[1] * size, p_row_out + h * s_out[1] * size
                        pass_channels(p_o, s_out, p, s_x, 0, offset, together, size)
                        pass_channels(p_o, s_out, p, s_x, end, n_channels, together, size)
                turn_heads(
                    n_now, p_row_out + offset * s_out[3] * size, s_out, p_row + offset * s_x[3] * size, s_x,
                    p_cos + o_table, p_sin + o_table, sign, n_pairs, alternate != 0, together, large, x, table,
                )  # fmt: skip
                p_row, p_row_out = p_row + s_x[2] * size, p_row_out + s_out[2] * size
                o_table += s_table[2] * table_size
        i_tile = take(p_counter) if p_counter else i_tile + 1
    if large:
        publish()


def kept(compiler: Callable[..., Any], function: Any) -> Any:
    """Compiled, and kept on disk where there is a place to write."""
    try:
        return compiler(cache=True)(function)
    except RuntimeError:
        return compiler()(function)


turn_tiles = kept(partial(njit, nogil=True), turn_tiles)


@lru_cache(typed=True)
def share_of(x: np.generic, table: np.generic) -> int:
    """Address of a function that turns tiles of some calls of `turn_tiles`, until none is left that no thread took.

    It is given the address of integers: how many calls there are, then for each the arguments but the samples.
    """

    def work(p_calls):
        for i in range(number(p_calls, 0)):
            a = p_calls + 8 * (1 + ARGUMENTS * i)
            p_counter, p_out, p_x, p_cos = number(a, 0), number(a, 1), number(a, 2), number(a, 3)
            p_sin, sign, large, p_sizes = number(a, 4), number(a, 5), number(a, 6), number(a, 7)
            turn_tiles(p_counter, p_out, p_x, p_cos, p_sin, float(sign), large != 0, p_sizes, x, table)

    return kept(partial(cfunc, types.void(types.int64)), work).address
