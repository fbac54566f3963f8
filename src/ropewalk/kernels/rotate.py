"""Pairs of channels turned: the public ops, which check, choose a kernel and carry gradients.

Letters: B batch, T tokens, H heads of queries, G heads of keys, D head channels, P pairs.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.kernels import PAIRINGS, naive

Tables = tuple[Tensor, Tensor]  # cos and sin, Float32 or Float64 [B or 1, T, P] or [B or 1, H or 1, T, P]
Job = tuple[Tensor, Tensor, Tensor, Tensor]  # x, out, cos, sin
Kernel = Callable[[Sequence[Job], str, int, bool], None]

PLAIN = (Tensor, torch.nn.Parameter)
WIDE = (torch.float32, torch.float64)
NAIVE, OP, KERNEL = "naive", "op", "kernel"


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "half", offset: int = 0) -> Tensor:
    """x [B, H, T, D], of any strides, with channels offset .. offset + 2P turned; the others pass.

    Arithmetic is in float32, or float64 where x or the tables are; the result has x's dtype and memory of its own.
    "half" pairs channel i with i + P, "interleaved" pairs 2i with 2i + 1.  Gradients flow to x and to the tables.
    """
    cos, sin = checked(x, cos, sin, pairing, offset)
    way = route((x,), (cos, sin))
    if way == KERNEL:
        return turn([(x, cos, sin)], pairing, offset, inverse=False)[0]
    if way == NAIVE:
        return naive.rotate(x, cos, sin, pairing, offset)
    return rotate_op(x, cos, sin, pairing, offset, False)


def rotate_pair(
    q: Tensor, k: Tensor, q_tables: Tables, k_tables: Tables, pairing: str = "half", offset: int = 0
) -> tuple[Tensor, Tensor]:
    """Queries [B, H, T, D] and keys [B, G, T, D] in one launch; otherwise as `rotate`."""
    a, b = q.shape, k.shape
    alike = len(a) == len(b) == 4 and a[0] == b[0] and a[2] == b[2] and a[3] == b[3] and q.dtype == k.dtype
    if not alike:
        return rotate(q, *q_tables, pairing, offset), rotate(k, *k_tables, pairing, offset)
    shared = k_tables[0] is q_tables[0] and k_tables[1] is q_tables[1] and q_tables[0].dim() == 3
    shared = shared and q.device == k.device
    q_tables = checked(q, *q_tables, pairing, offset)
    # what fits the queries fits the keys, but for the number of heads
    k_tables = q_tables if shared else checked(k, *k_tables, pairing, offset)
    way = route((q, k), q_tables if shared else (*q_tables, *k_tables))
    if way == KERNEL:
        q, k = turn([(q, *q_tables), (k, *k_tables)], pairing, offset, inverse=False)
        return q, k
    if way == NAIVE:
        return naive.rotate(q, *q_tables, pairing, offset), naive.rotate(k, *k_tables, pairing, offset)
    return rotate_pair_op(q, k, *q_tables, *k_tables, pairing, offset, False)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "half", offset: int = 0) -> Tensor:
    """x itself, turned where it lies; without gradients."""
    cos, sin = checked(x, cos, sin, pairing, offset)
    tracked = torch.is_grad_enabled() and (x.requires_grad or cos.requires_grad or sin.requires_grad)
    require(not tracked, "what is turned in place", "without gradients", "a tensor that requires them")
    require(not overlaps(x), "what is turned in place", "of elements of its own", f"strides {x.stride()}")
    way = route((x,), (cos, sin))
    if way == NAIVE:
        return x.copy_(naive.rotate(x, cos, sin, pairing, offset))
    if way == OP:
        rotate_in_place_op(x, cos, sin, pairing, offset)
        return x
    turn([(x, cos, sin)], pairing, offset, inverse=False, in_place=True)
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return x


def checked(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int) -> Tables:
    """The tables, of one dtype that is at least float32. Raises ConfigError where shapes do not fit."""
    shape, table = x.shape, cos.shape
    fits = len(shape) == 4 and len(table) in (3, 4) and sin.shape == table and table[-2] == shape[2]
    fits = fits and table[0] in (1, shape[0]) and (len(table) == 3 or table[1] in (1, shape[1]))
    fits = fits and pairing in PAIRINGS and 0 <= offset <= shape[3] - 2 * table[-1]
    fits = fits and x.is_floating_point() and x.device == cos.device == sin.device
    if not fits:
        explain(x, cos, sin, pairing, offset)
    if cos.dtype == sin.dtype and cos.dtype in WIDE:
        return cos, sin
    wide = torch.promote_types(torch.promote_types(cos.dtype, sin.dtype), torch.float32)
    return cos.to(wide), sin.to(wide)


def explain(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int) -> None:
    """Raise ConfigError for the first thing that does not fit."""
    require(x.dim() == 4, "what is turned", "[B, H, T, D]", tuple(x.shape))
    require(x.is_floating_point(), "what is turned", "of floating point", x.dtype)
    require(pairing in PAIRINGS, "pairing", " or ".join(map(repr, PAIRINGS)), pairing)
    require(cos.dim() in (3, 4), "cos", "[B, T, P] or [B, H, T, P]", tuple(cos.shape))
    require(cos.shape == sin.shape, "sin", f"of the shape of cos, {tuple(cos.shape)}", tuple(sin.shape))
    batch, heads, tokens, channels = x.shape
    by_head = cos.dim() == 4 and cos.shape[1] not in (1, heads)
    require(not by_head, "a rotation that differs by head", f"for as many heads as it turns, {heads}", cos.shape[1])
    require(cos.shape[0] in (1, batch), "cos", f"for as many rows as it turns, {batch}, or one", cos.shape[0])
    require(cos.shape[-2] == tokens, "cos", f"for as many tokens as it turns, {tokens}", cos.shape[-2])
    room = channels - 2 * cos.shape[-1]
    require(0 <= offset <= room, "offset", f"at least 0 and at most {room}: pairs lie in {channels} channels", offset)
    devices = {t.device for t in (x, cos, sin)}
    require(len(devices) == 1, "x, cos and sin", "on one device", " and ".join(sorted(map(str, devices))))


def overlaps(x: Tensor) -> bool:
    """Whether two elements of x may share memory."""
    if x.is_contiguous():
        return False
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def route(xs: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> str:
    """How to turn: plain torch, the op that is registered with torch, or the kernel without a detour."""
    compiling = torch.compiler.is_compiling()
    if not compiling and transformed():
        return NAIVE
    learning = torch.is_grad_enabled()
    # a table that learns needs more than the inverse rotation; other kinds of tensors have rules for torch's ops alone
    if learning and any(t.requires_grad for t in tables):
        return NAIVE
    direct = not compiling
    for t in (*xs, *tables):
        if type(t) not in PLAIN:
            return NAIVE
        # a view may stand for the negative of its memory: the op resolves it
        if (learning and t.requires_grad) or (direct and t.is_neg()):
            direct = False
    return KERNEL if direct else OP


def transformed() -> bool:
    """Whether something follows each op: torch.func, forward-mode gradients or a trace."""
    dual = torch.autograd.forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    return dual or torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None  # pyright: ignore


def turn(
    inputs: Sequence[tuple[Tensor, Tensor, Tensor]], pairing: str, offset: int, inverse: bool, in_place: bool = False
) -> list[Tensor]:
    """Each (x, cos, sin) turned, with x's strides where x is dense."""
    x = inputs[0][0]
    found = kernel_of("cpu" if x.is_cpu else x.device.type, x.dtype)
    if found:
        kernel, fresh_like = found
        jobs = [(x, x if in_place else fresh_like(x), cos, sin) for x, cos, sin in inputs]
        kernel(jobs, pairing, offset, inverse)
        return [out for _, out, _, _ in jobs]
    outs = [x if in_place else torch.empty_like(x) for x, _, _ in inputs]
    for out, (x, cos, sin) in zip(outs, inputs, strict=True):
        out.copy_(naive.rotate(x, cos, -sin if inverse else sin, pairing, offset))
    return outs


@cache
def kernel_of(device: str, dtype: torch.dtype) -> tuple[Kernel, Callable[[Tensor], Tensor]] | None:
    """The kernel for a device, and what makes its results; None, which is said once, where there is none."""
    try:
        if device == "cpu":
            from ropewalk.kernels.cpu import rotate as cpu
            from ropewalk.kernels.cpu.memory import fresh_like

            why = cpu.unserved(dtype)
            found = cpu.launch, fresh_like
        elif device == "cuda":
            from ropewalk.kernels.triton import rotate as gpu

            why = None if dtype in (*WIDE, torch.float16, torch.bfloat16) else f"no kernel for {dtype}"
            found = gpu.launch, torch.empty_like
        else:
            return None
    except ImportError as error:
        why, found = str(error), None
    if why:
        logging.getLogger("ropewalk").warning("rotation on %s falls back to plain torch: %s", device, why)
    return None if why else found


@torch.library.custom_op("ropewalk::rotate", mutates_args=())
def rotate_op(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int, inverse: bool) -> Tensor:
    return turn([(x, cos, sin)], pairing, offset, inverse)[0]


@torch.library.custom_op("ropewalk::rotate_pair", mutates_args=())
def rotate_pair_op(
    q: Tensor,
    k: Tensor,
    q_cos: Tensor,
    q_sin: Tensor,
    k_cos: Tensor,
    k_sin: Tensor,
    pairing: str,
    offset: int,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    q, k = turn([(q, q_cos, q_sin), (k, k_cos, k_sin)], pairing, offset, inverse)
    return q, k


@torch.library.custom_op("ropewalk::rotate_", mutates_args=("x",))
def rotate_in_place_op(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int) -> None:
    turn([(x, cos, sin)], pairing, offset, inverse=False, in_place=True)


@rotate_op.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@rotate_pair_op.register_fake
def _(q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tables and options for the way back; what was turned is not needed."""
    *tensors, pairing, offset, inverse = inputs
    # one x and two tables, or two and four
    ctx.save_for_backward(*tensors[len(tensors) // 3 :])
    ctx.options = pairing, offset, inverse


def back(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    pairing, offset, inverse = ctx.options
    return rotate_op(grad, *ctx.saved_tensors, pairing, offset, not inverse), None, None, None, None, None


def back_pair(ctx: Any, q_grad: Tensor, k_grad: Tensor) -> tuple[Any, ...]:
    pairing, offset, inverse = ctx.options
    q_grad, k_grad = rotate_pair_op(q_grad, k_grad, *ctx.saved_tensors, pairing, offset, not inverse)
    return q_grad, k_grad, *[None] * 7


rotate_op.register_autograd(back, setup_context=keep)
rotate_pair_op.register_autograd(back_pair, setup_context=keep)
