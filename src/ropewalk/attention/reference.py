"""Every encoding at its site, in plain torch: the truth that faster ways are tested against.

Letters: B batch, T tokens, Q queries, K keys, H query heads, G key heads, D head channels, C model channels.
"""

from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.fit import check_fit
from ropewalk.masks import Mask, causal
from ropewalk.rotation import turn_both
from ropewalk.sites import Biases, Embeds, Mixes, Rotates, Weights, parts
from ropewalk.tokens import Tokens, select

BLOCK = 512  # queries whose logits stand in memory at once


def embed(x: Tensor, encoding: Any, w: Weights, at: Tokens, inject: str = "input") -> Tensor:
    """The token embeddings x [B, T, C] with the positions of every part that enters at `inject`.

    "input" is before the first layer, "pre_head" before the output head, "qkv" the projections: x is then [B, T, 3 C].
    """
    for e in parts(encoding, Embeds):
        if getattr(e, "inject", "input") == inject:
            x = e.onto(w, x, at) if hasattr(e, "onto") else (x + e.embed(w, at)).to(x.dtype)
    return x


def rotate(q: Tensor, k: Tensor, encoding: Any, at: Tokens, w: Weights | None = None) -> tuple[Tensor, Tensor]:
    """The queries [B, H, T, D] and keys [B, G, T, D] of the same tokens, mapped by every part that rotates."""
    check_fit(q, encoding)
    for rotation in [e.rotation(w or {}, at) for e in parts(encoding, Rotates)]:
        q, k = turn_both(rotation, q, k)
    return q, k


def logits(
    q: Tensor, k: Tensor, encoding: Any, w: Weights, q_at: Tokens, k_at: Tokens, scale: float | None = None
) -> Tensor:
    """[B, H, Q, K] before any mask, from q and k that are not yet mapped."""
    check_fit(q, encoding)
    for e in parts(encoding, Rotates):
        # one that grows with position is shift equivariant and asks for positions near zero
        near = e.nearby(q_at, k_at) if hasattr(e, "nearby") else (q_at, k_at)
        q, k = e.rotation(w, near[0]).query(q), e.rotation(w, near[1]).key(k)
    mixer = parts(encoding, Mixes)
    s = mixer[0].logits(w, q, k, q_at, k_at) if mixer else q @ k.mT * (scale or q.shape[-1] ** -0.5)
    for e in parts(encoding, Biases):
        s = s + e.bias(w, q_at, k_at)
    return s


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    encoding: Any,
    w: Weights,
    q_at: Tokens,
    k_at: Tokens,
    mask: Mask = causal,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention with positions, [B, H, Q, D] in q's dtype; a query that sees no key gets zeros.

    q [B, H, Q, D], k and v [B, G, K, D] with H a multiple of G, not yet mapped. `scale` is D ** -0.5 unless given (T5
    takes 1); a part that replaces the dot product brings its own. Arithmetic is in float32, or wider where q is.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).to(wide) for x in (k, v))
    mixer: Any = next(iter(parts(encoding, Mixes)), None)
    out = []
    for start in range(0, q.shape[2], BLOCK):
        some = slice(start, start + BLOCK)
        at = select(q_at, some)
        seen = mask(at, k_at) & (mixer.visible(at, k_at) if hasattr(mixer, "visible") else True)
        s = logits(q[:, :, some].to(wide), k, encoding, w, at, k_at, scale)
        s = s.masked_fill(~seen[:, None], torch.finfo(s.dtype).min)
        a = s.softmax(-1).masked_fill(~seen[:, None], 0).to(wide)
        out.append(mixer.values(w, a, v, at, k_at) if hasattr(mixer, "values") else a @ v)
    return torch.cat(out, dim=2).to(q.dtype)
