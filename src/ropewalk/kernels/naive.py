"""What the kernels compute, in plain torch: the definition that fast ones are held against.

Letters: B batch, T tokens, H heads, D head channels, P pairs.
"""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "half", offset: int = 0) -> Tensor:
    """Turn 2P channels of x [B, H, T, D] from `offset` on, in float32 or wider; the others pass; x's dtype stays.

    cos and sin are [B or 1, T, P] or [B or 1, H or 1, T, P].  "half" pairs channel i with i + P, "interleaved" pairs
    2i with 2i + 1.
    """
    pairs = cos.shape[-1]
    before, turned, after = x[..., :offset], x[..., offset : offset + 2 * pairs], x[..., offset + 2 * pairs :]
    turned = turned.to(torch.promote_types(x.dtype, torch.float32))
    parted = turned.unflatten(-1, (2, pairs) if pairing == "half" else (pairs, 2))
    first, second = parted.unbind(-2 if pairing == "half" else -1)
    cos, sin = (t[:, None] if t.dim() == 3 else t for t in (cos, sin))
    both = (first * cos - second * sin, first * sin + second * cos)
    out = torch.stack(both, dim=-2 if pairing == "half" else -1).flatten(-2)
    return torch.cat((before, out.to(x.dtype), after), dim=-1)
