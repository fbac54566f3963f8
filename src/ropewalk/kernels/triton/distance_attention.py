# pyright: reportMissingParameterType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# kernels are compiled, not called: their parameters and triton's functions have no types that a checker could read
"""Attention with a bias that is a function of distance, on a GPU: the bias is read from a table of all distances.

Forward only; gradients are FlexAttention's, which gathers from the same table.
Letters: B batch, H query heads, G key heads, Q queries, K keys, D channels of queries and keys, V of values.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

LOG2E = tl.constexpr(1.4426950408889634)  # exp2 is what a GPU has
BLOCK_BYTES = 16384
DOTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def load_rows(p, s, o_row, rows, C: tl.constexpr, BC: tl.constexpr, DOT: tl.constexpr):
    """Rows o_row of a matrix with C columns, as DOT: [BQ or BK, BC], zeros where there is none."""
    o_c = tl.arange(0, BC).to(tl.int64)
    m = (o_row < rows)[:, None] & (o_c < C)[None, :]
    return tl.load(p + (o_row * s[2])[:, None] + (o_c * s[3])[None, :], mask=m, other=0.0).to(DOT)


@triton.jit
def add_keys(b_q, b_k, b_v, b_bias, seen, state, scale):
    """The running maximum and sum [BQ] and values [BQ, BV], with a block of keys added that `seen` lets through."""
    b_max, b_sum, b_out = state
    # "ieee": the default cuts float32 to ten bits of mantissa
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale + b_bias * LOG2E
    b_s = tl.where(seen, b_s, float("-inf"))
    b_top = tl.maximum(b_max, tl.max(b_s, 1))
    # a query that has seen no key yet has a maximum of minus infinity, which must not be taken from itself
    b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_p = tl.exp2(b_s - b_base[:, None])
    b_keep = tl.exp2(b_max - b_base)
    b_new = tl.dot(b_p.to(b_v.dtype), b_v, input_precision="ieee")
    return b_top, b_sum * b_keep + tl.sum(b_p, 1), b_out * b_keep[:, None] + b_new


@triton.jit
def attend_kernel(
    p_q, p_k, p_v, p_table, p_out, s_q, s_k, s_v, s_table, s_out, heads, share, Q, K, centre, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, V: tl.constexpr, DOT: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One block of BQ queries of one head; a head's last block, which sees the most keys, comes first."""
    tiles = tl.cdiv(Q, BQ)
    i_q = tiles - 1 - tl.program_id(0) % tiles
    i_b = (tl.program_id(0) // tiles // heads).to(tl.int64)
    i_h = (tl.program_id(0) // tiles % heads).to(tl.int64)
    o_row = i_q.to(tl.int64) * BQ + tl.arange(0, BQ)
    o_q = o_row + K - Q  # the queries are the last of the keys' tokens
    b_q = load_rows(p_q + i_b * s_q[0] + i_h * s_q[1], s_q, o_row, Q, D, BD, DOT)
    p_k += i_b * s_k[0] + i_h // share * s_k[1]
    p_v += i_b * s_v[0] + i_h // share * s_v[1]
    b_max = tl.full((BQ,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BQ,), tl.float32)
    b_out = tl.zeros((BQ, BV), tl.float32)
    end = tl.minimum(K, (i_q + 1) * BQ + K - Q) if CAUSAL else K
    for start in range(0, end, BK):
        o_k = start + tl.arange(0, BK).to(tl.int64)
        o_d = o_q[:, None] - o_k[None, :]
        seen = (o_k < K)[None, :] & (o_row < Q)[:, None] & ((o_d >= 0) | (not CAUSAL))
        o_d = i_h * s_table[0] + (o_d + centre) * s_table[1]
        b_bias = tl.load(p_table + o_d, mask=seen, other=0.0).to(tl.float32)
        b_k = load_rows(p_k, s_k, o_k, K, D, BD, DOT)
        b_v = load_rows(p_v, s_v, o_k, K, V, BV, DOT)
        b_max, b_sum, b_out = add_keys(b_q, b_k, b_v, b_bias, seen, (b_max, b_sum, b_out), scale)
    b_out = b_out / tl.where(b_sum > 0, b_sum, 1.0)[:, None]
    o_v = tl.arange(0, BV).to(tl.int64)
    p_out += i_b * s_out[0] + i_h * s_out[1]
    m = (o_row < Q)[:, None] & (o_v < V)[None, :]
    tl.store(p_out + (o_row * s_out[2])[:, None] + (o_v * s_out[3])[None, :], b_out, mask=m)


def attend_table_into(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, out: Tensor, causal: bool = True, scale: float | None = None
) -> None:
    """Softmax attention of q [B, H, Q, D], k [B, G, K, D], v [B, G, K, V] into out [B, H, Q, V]; any strides.

    The queries are the last Q of K tokens that stand side by side in one document.  table [H or 1, 2N - 1] with N at
    least Q and K holds at column N - 1 + d what is added to the logit of a key d tokens before the query, -inf to hide
    it.  Before that, logits are multiplied by `scale`, D ** -0.5 unless given.  A query that sees no key gets zeros.
    """
    B, H, Q, D = q.shape
    K, V = v.shape[2:]
    if out.numel() == 0:
        return
    BD, BV = (max(16, triton.next_power_of_2(n)) for n in (D, V))
    # a block of keys takes 16 KB of shared memory at most, which leaves room for several blocks on every GPU
    BK = min(64, max(16, BLOCK_BYTES // (q.element_size() * max(BD, BV))))
    BQ = min(BK, max(16, triton.next_power_of_2(Q)))
    # the interpreter cannot multiply matrices of bfloat16
    dot = torch.float32 if knobs.runtime.interpret else q.dtype
    s_table = (table.stride(0) if table.shape[0] > 1 else 0, table.stride(1))
    scale = (D**-0.5 if scale is None else scale) * LOG2E.value
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        attend_kernel[(B * H * triton.cdiv(Q, BQ),)](
            q, k, v, table, out, q.stride(), k.stride(), v.stride(), s_table, out.stride(),
            H, H // k.shape[1], Q, K, table.shape[1] // 2, scale,
            CAUSAL=causal, D=D, V=V, DOT=DOTS[dot], BQ=BQ, BK=BK, BD=BD, BV=BV, num_stages=2,
        )  # fmt: skip
