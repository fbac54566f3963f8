"""What compiled loops do with plain addresses.

numba does not see a change here in what it keeps on disk: loops.py has to change as well.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I64 = ir.IntType(64)


@intrinsic
def copy(_: Any, p_out: Any, p_x: Any, n_bytes: Any):
    """Copy memory."""

    def generate(context: Any, b: ir.IRBuilder, _: Any, args: Any) -> ir.Value:
        p_out, p_x = (b.inttoptr(p, cgutils.voidptr_t) for p in args[:2])
        cgutils.raw_memcpy(b, p_out, p_x, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def take(_: Any, p_counter: Any):
    """The next number of a counter that threads share."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> ir.Value:
        return b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), I64(1), "monotonic")

    return types.int64(types.int64), generate


@intrinsic
def number(_: Any, p: Any, i: Any):
    """The i-th of some integers."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> ir.Value:
        return b.load(b.inttoptr(b.add(args[0], b.mul(args[1], I64(8))), I64.as_pointer()))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def publish(_: Any):
    """Wait until what was written past the caches can be read by all."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, _a: Any) -> ir.Value:
        b.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
