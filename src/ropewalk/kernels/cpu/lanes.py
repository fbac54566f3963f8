# pyright: reportAssignmentType=false, reportArgumentType=false, reportReturnType=false
# what llvmlite builds has no types that a checker could read
"""Some numbers at once, as compiled loops load, widen, round and store them.

float16 is widened and rounded by the processor, and so is bfloat16 where it can (AVX512_BF16), which makes zeros of
results below 2 ** -126; else integers round it.  To nearest, ties to even, NaN stays NaN.

numba does not see a change here in what it keeps on disk: loops.py has to change as well.
"""

from collections.abc import Sequence

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils

AHEAD = 1024  # bytes that are fetched ahead of those being turned
LINE = 64  # bytes of a cache line

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class BFloat16(ir.Type):
    """LLVM's type of that name, which llvmlite leaves out."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


BF16 = BFloat16()
# whether the processor rounds to bfloat16 by itself
ROUNDS = get_host_cpu_features().get("avx512bf16", False)
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
            # to read, into all caches, data
            flags = I32(0), I32(3), I32(1)
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
    if ROUNDS:
        x = x if wide == F32 else b.fptrunc(x, vector(F32, lanes))
        return b.bitcast(b.fptrunc(x, vector(BF16, lanes)), vector(I16, lanes))
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
