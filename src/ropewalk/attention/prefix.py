"""Attention of a chunk of queries over a cached prefix and over itself, at the speed of an unmasked product.

A mask of [chunk, prefix] would be read by every head of every layer although all of the prefix is visible.  The two
parts are computed apart and merged by their log-sum-exp, which is exact.
Letters: B batch, H query heads, G key heads, Q queries, K keys, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.attention.runs import Partial, flash_cpu, merge
from ropewalk.tokens import contiguous


def attend_prefix(q: Tensor, k: Tensor, v: Tensor, scale: float, own: Tensor | None = None) -> Tensor:
    """Softmax attention where the queries are the last Q of the K tokens.

    q [B, H, Q, D], k and v [B, G, K, D] with H a multiple of G.  Every query sees the K - Q tokens of the prefix;
    within the chunk it sees what `own` (Bool[Q, Q]) allows, by default the tokens not later than itself.
    Returns [B, H, Q, D] in q's dtype.
    """
    past = k.shape[2] - q.shape[2]
    fast = q.device.type == "cpu" and q.shape[-1] == k.shape[-1] == v.shape[-1]
    if not fast:
        mask = None if past == 0 and own is None else visible(q.shape[2], past, own, q.device)
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=True)
    bias = None if own is None else torch.zeros_like(own, dtype=q.dtype).masked_fill(~own, float("-inf"))
    near = Partial(*flash_cpu(q, k[:, :, past:], v[:, :, past:], 0.0, own is None, attn_mask=bias, scale=scale))
    if past == 0:
        return near.out
    far = Partial(*flash_cpu(q, k[:, :, :past], v[:, :, :past], 0.0, False, scale=scale))
    return merge([near, far]).out


def visible(queries: int, past: int, own: Tensor | None, device: torch.device, window: int | None = None) -> Tensor:
    """Bool[Q, past + Q]: all of the prefix, and of the chunk what `own` allows; with `window`, the last so many."""
    own = torch.ones(queries, queries, dtype=torch.bool, device=device).tril() if own is None else own
    seen = torch.cat((torch.ones(queries, past, dtype=torch.bool, device=device), own), dim=1)
    if window is None:
        return seen
    # blocks of `own` stand side by side in the chunk, but each follows the prefix at once
    at = torch.cat((contiguous(past).order[0].to(device), past + own.sum(dim=1) - 1))
    return seen & (at[past:, None] - at < window)
