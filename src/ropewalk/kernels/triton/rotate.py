# pyright: reportMissingParameterType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# kernels are compiled, not called: their parameters and triton's functions have no types that a checker could read
"""Pairs of channels turned on a GPU: queries and keys in one launch, any strides, out of place or in place.

Letters: B batch, T tokens, H heads, D head channels, P pairs.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

Job = tuple[Tensor, Tensor, Tensor, Tensor]  # x [B, H, T, D], out like x, cos and sin [B or 1, (H or 1,) T, P]

TILE = 1024  # pairs that a program turns at once
BUSY = 2048  # programs that keep a GPU's processors occupied; below it no heads are put together
TOGETHER = 4  # heads for which a program reads its tables once


@triton.jit
def load_tables(job, i_b, i_h, o_t, m, P, INVERSE: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr):
    """The cosines and sines of tokens o_t: two [BT, BP]."""
    _, _, p_cos, p_sin, _, _, _, s = job
    o_p = tl.arange(0, BP)
    o = i_b * s[0] + i_h * s[1] + (o_t * s[2])[:, None] + o_p[None, :]
    m = m[:, None] & (o_p < P)[None, :]
    b_cos = tl.load(p_cos + o, mask=m, other=0.0).to(WIDE)
    b_sin = tl.load(p_sin + o, mask=m, other=0.0).to(WIDE)
    if INVERSE:
        b_sin = -b_sin
    return b_cos, b_sin


@triton.jit
def turn_half(p_x, p_out, s_x, s_out, b_cos, b_sin, m, OFFSET, P, BP: tl.constexpr):
    """Channel i with i + P, for tokens whose first channels p_x and p_out [BT, 1] point to."""
    o_p = tl.arange(0, BP).to(tl.int64)[None, :]
    m = m[:, None] & (o_p < P)
    o_first, o_second = OFFSET + o_p, OFFSET + P + o_p
    b_first = tl.load(p_x + o_first * s_x, mask=m, other=0.0).to(b_cos.dtype)
    b_second = tl.load(p_x + o_second * s_x, mask=m, other=0.0).to(b_cos.dtype)
    tl.store(p_out + o_first * s_out, b_first * b_cos - b_second * b_sin, mask=m)
    tl.store(p_out + o_second * s_out, b_first * b_sin + b_second * b_cos, mask=m)


@triton.jit
def turn_interleaved(p_x, p_out, s_x, s_out, b_cos, b_sin, m, OFFSET, P, BP: tl.constexpr):
    """Channel 2i with 2i + 1; a row is read and written in one piece and parted in registers."""
    o_c = tl.arange(0, 2 * BP).to(tl.int64)[None, :]
    m = m[:, None] & (o_c < 2 * P)
    o_c += OFFSET
    b_x = tl.load(p_x + o_c * s_x, mask=m, other=0.0).to(b_cos.dtype)
    b_first, b_second = tl.split(tl.reshape(b_x, (b_cos.shape[0], BP, 2)))
    b_out = tl.join(b_first * b_cos - b_second * b_sin, b_first * b_sin + b_second * b_cos)
    tl.store(p_out + o_c * s_out, tl.reshape(b_out, (b_cos.shape[0], 2 * BP)), mask=m)


@triton.jit
def pass_rest(p_x, p_out, s_x, s_out, m, OFFSET, P, REST, BR: tl.constexpr):
    """Copy the REST channels before OFFSET and from OFFSET + 2P on."""
    o_r = tl.arange(0, BR).to(tl.int64)[None, :]
    m = m[:, None] & (o_r < REST)
    o_c = tl.where(o_r < OFFSET, o_r, o_r + 2 * P)
    tl.store(p_out + o_c * s_out, tl.load(p_x + o_c * s_x, mask=m, other=0.0), mask=m)


@triton.jit
def turn_heads(
    job, i_b, i_chunk, o_t, m, OFFSET, P, REST,
    HALF: tl.constexpr, INVERSE: tl.constexpr, WIDE: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Tokens o_t of up to BH heads, from head i_chunk * BH on."""
    p_x, p_out, _, _, n_heads, s_x, s_out, _ = job
    b_cos, b_sin = load_tables(job, i_b, i_chunk * BH, o_t, m, P, INVERSE, WIDE, BP)
    for i in range(BH):
        i_h = i_chunk * BH + i
        m_h = m & (i_h < n_heads)
        p_row = p_x + i_b * s_x[0] + i_h * s_x[1] + (o_t * s_x[2])[:, None]
        p_row_out = p_out + i_b * s_out[0] + i_h * s_out[1] + (o_t * s_out[2])[:, None]
        if HALF:
            turn_half(p_row, p_row_out, s_x[3], s_out[3], b_cos, b_sin, m_h, OFFSET, P, BP)
        else:
            turn_interleaved(p_row, p_row_out, s_x[3], s_out[3], b_cos, b_sin, m_h, OFFSET, P, BP)
        if BR > 0:
            pass_rest(p_row, p_row_out, s_x[3], s_out[3], m_h, OFFSET, P, REST, BR)


@triton.jit(do_not_specialize=["T", "q_chunks"])
def rotate_kernel(
    q, k, T, q_chunks,
    OFFSET: tl.constexpr, P: tl.constexpr, REST: tl.constexpr, HALF: tl.constexpr, INVERSE: tl.constexpr,
    WIDE: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """One tile of BT tokens per row of the grid, BH heads per column: first the queries', then the keys'."""
    tiles = tl.cdiv(T, BT)
    i_b = (tl.program_id(0) // tiles).to(tl.int64)
    o_t = (tl.program_id(0) % tiles).to(tl.int64) * BT + tl.arange(0, BT)
    i_chunk = tl.program_id(1).to(tl.int64)
    m = o_t < T
    if i_chunk < q_chunks:
        turn_heads(q, i_b, i_chunk, o_t, m, OFFSET, P, REST, HALF, INVERSE, WIDE, BH, BP, BR)
    else:
        turn_heads(k, i_b, i_chunk - q_chunks, o_t, m, OFFSET, P, REST, HALF, INVERSE, WIDE, BH, BP, BR)


def power_of_2(n: int) -> int:
    """The least one that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def argument(job: Job) -> tuple:
    """A job as the kernel takes it: pointers, the number of heads, strides; tables that are shared have stride 0."""
    x, out, cos, sin = job
    # the two tables go by the same strides, pairs side by side
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:
        cos, sin = cos.contiguous(), sin.contiguous()
    n, s = cos.shape, cos.stride()
    by_head = 0 if cos.dim() == 3 or n[1] == 1 else s[1]
    s_table = (0 if n[0] == 1 else s[0], by_head, 0 if n[-2] == 1 else s[-2])
    return x, out, cos, sin, x.shape[1], x.stride(), out.stride(), s_table


def launch(jobs: Sequence[Job], pairing: str, offset: int = 0, inverse: bool = False) -> None:
    """Turn channels offset .. offset + 2P of one or two x of the same B, T, D and dtype, the others passing to `out`.

    `out` is x itself (in place) or shares no memory with it.  Arithmetic is in float32, or wider where x or the
    tables are.  `inverse` turns by minus the angle.
    """
    x, out, cos, _ = jobs[0]
    other, other_out, other_cos, _ = jobs[-1]
    B, _, T, D = x.shape
    heads = [job[0].shape[1] for job in jobs]
    if B * T * max(heads) == 0:
        return
    pairs = cos.shape[-1]
    rest = 0 if x is out and other is other_out else D - 2 * pairs
    BP, BR = power_of_2(pairs), power_of_2(rest) if rest else 0
    BT = max(1, min(TILE // max(BP, BR // 2), power_of_2(T)))
    rows = B * -(-T // BT)
    by_head = any(t.dim() == 4 and t.shape[1] > 1 for t in (cos, other_cos))
    BH = 1 if by_head or rows * sum(heads) < BUSY * TOGETHER else TOGETHER
    chunks = [-(-n // BH) for n in heads]
    double = torch.float64 in (x.dtype, cos.dtype, other_cos.dtype)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        rotate_kernel[(rows, sum(chunks))](
            argument(jobs[0]), argument(jobs[-1]), T, chunks[0],
            OFFSET=offset, P=pairs, REST=rest, HALF=pairing == "half", INVERSE=inverse,
            WIDE=tl.float64 if double else tl.float32,
            BT=BT, BH=BH, BP=BP, BR=BR, num_warps=min(4, max(1, BT * BP // 256)),
        )  # fmt: skip
