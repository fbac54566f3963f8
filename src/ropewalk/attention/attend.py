"""Softmax attention with positions: the fastest way that serves a call, and why it is that one.

Letters: B batch, Q queries, K keys, H query heads, G key heads, D head channels, V value channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention import reference
from ropewalk.attention.call import Call
from ropewalk.attention.documents import by_document, side_by_side
from ropewalk.attention.fit import check_fit
from ropewalk.attention.flex import attend_flex, compact, refusal
from ropewalk.attention.fold import attend_folded, folds
from ropewalk.attention.sdpa import in_blocks, in_order, of_distance
from ropewalk.attention.step import Step
from ropewalk.attention.strips import attend_strips
from ropewalk.encodings.mix.adaptive import Adaptive
from ropewalk.encodings.mix.branches import Branches
from ropewalk.encodings.rotary.log_n import LogN
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import UnsupportedError
from ropewalk.masks import Mask, causal
from ropewalk.sites import Biases, Mixes, Rotates, Weights, parts
from ropewalk.tokens import Tokens

BACKENDS: dict[str, Callable[[Call], Tensor]] = {
    "reference": lambda call: reference.attend(*call),
    "empty": lambda call: empty(call),
    "sdpa": in_order,
    "documents": by_document,
    "blocks": in_blocks,
    "strips": attend_strips,
    "folded": attend_folded,
    "flex": lambda call: by_flex(call),
    "runs": lambda call: by_runs(call),
}
MANY = 128  # queries, from which on what is prepared for all keys pays


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
    """Softmax attention with positions, [B, H, Q, V] in q's dtype; a query that sees no key gets zeros.

    q [B, H, Q, D], k [B, G, K, D] and v [B, G, K, V] with H a multiple of G, not yet mapped. `scale` is D ** -0.5
    unless given (T5 takes 1); a part that replaces the dot product brings its own. Arithmetic is in float32, or wider
    where q is; on a GPU narrow tensors are multiplied as they are, with sums in float32: mapped queries and keys and
    the weights of the softmax are then rounded to their dtype once. `choose` tells what computes it.
    """
    call = Call(q, k, v, encoding, w, q_at, k_at, mask, scale)
    check_fit(q, encoding)
    return BACKENDS[select_backend(call)[0]](call)


def choose(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    encoding: Any,
    w: Weights,
    q_at: Tokens,
    k_at: Tokens,
    mask: Mask = causal,
    scale: float | None = None,
) -> tuple[str, str]:
    """What `attend` computes the same arguments with, and why it is that; nothing is computed.

    "sdpa" is torch's fused product at once, "strips" the same under a view of a table of distances, "folded" the same
    with ALiBi in a few channels more, "documents" one document after the other, "blocks" some queries at a time under
    a mask, "runs" the rotations of a distance rule as fused products that are merged, "flex" torch's FlexAttention,
    "reference" plain torch, "empty" no work at all.
    """
    return select_backend(Call(q, k, v, encoding, w, q_at, k_at, mask, scale))


def select_backend(c: Call) -> tuple[str, str]:
    """The name of a backend, and why it is that."""
    if torch.compiler.is_compiling():
        return "reference", "inside torch.compile plain torch is traced whole"
    if c.q.numel() == 0 or c.k.numel() == 0 or c.v.numel() == 0:
        return "empty", "there is no query or no key"
    for e in parts(c.encoding, Mixes):
        if in_steps(c.encoding):
            return "runs", f"{type(e).__name__} turns queries and keys in a few ways, each for runs of keys"
        return "reference", f"{type(e).__name__} replaces the dot product, pair by pair"
    biases = parts(c.encoding, Biases)
    for e in biases:
        if not of_distance(e):
            return "blocks", f"the bias of {type(e).__name__} is not a function of distance alone; it is made in blocks"
    for e in parts(c.encoding, Rotates):
        if hasattr(e, "nearby"):
            return "blocks", f"{type(e).__name__} grows with position, so each block of queries is rotated by itself"
    if biases and c.accelerated and c.q.shape[2] >= MANY:
        found = on_accelerator(c)
        if found:
            return found
    what = "each head's bias is one number per distance" if biases else "nothing is added to the logits"
    if not c.plain:
        return "blocks", f"{what}; the mask is neither causal nor bidirectional, so it is looked up pair by pair"
    ranked = "in line" if biases else "in order"
    equal = c.q.shape[-1] == c.v.shape[-1]
    if c.in_line() if biases else c.in_order():
        if biases:
            return "strips", f"{what}; the tokens are one document in line: those of all pairs are a view of one table"
        if equal and (c.mask is not causal or c.q.shape[2] in (1, c.k.shape[2]) or mergeable(c)):
            return "sdpa", f"{what}; the tokens are one document in order"
        return "blocks", f"{what}; no product of torch serves these shapes at once"
    if (biases or equal) and side_by_side(c):
        return "documents", f"{what}; the tokens are documents side by side, each {ranked}"
    return "blocks", f"{what}; the tokens are not one document {ranked}, so they are looked at pair by pair"


def on_accelerator(c: Call) -> tuple[str, str] | None:
    """The same for biases of distance where narrow products are the fast ones; None where it is as on a CPU."""
    if c.kept.itemsize == 2 and folds(c) and c.in_line():
        return "folded", "ALiBi is a few channels more, which the fused causal product takes without a mask"
    if c.kept.itemsize <= 4 and refusal(c) is None and compact(c):
        return "flex", "each head's bias is one number per distance, which FlexAttention looks up inside its kernel"
    return None


def by_flex(c: Call) -> Tensor:
    """What FlexAttention gives, or where it cannot be compiled what is chosen then."""
    try:
        return attend_flex(c)
    except UnsupportedError:
        return BACKENDS[select_backend(c)[0]](c)


def mergeable(c: Call) -> bool:
    """Whether the keys before the first query and those after it may be worked on apart, in float32."""
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (c.q, c.k, c.v, *c.w.values()))
    return c.q.device.type == "cpu" and c.wide == torch.float32 and not learning


def empty(c: Call) -> Tensor:
    """Zeros [B, H, Q, V] that hang together with q."""
    return c.q.new_zeros(*c.q.shape[:3], c.v.shape[-1]) + c.q[..., :0].sum()


def in_steps(encoding: Any) -> bool:
    """Whether all parts are those that a `Step` knows."""
    members = encoding if isinstance(encoding, tuple) else (encoding,)
    return all(isinstance(e, Branches | Adaptive | LogN | Temperature) for e in members)


def by_runs(c: Call) -> Tensor:
    """A distance rule, or one that follows the length."""
    step = Step(c.q_at, c.k_at, [c.encoding])
    q, k = step.query(0, c.q.to(c.kept)), step.key(0, c.k.to(c.kept), c.k_at, "keys")
    return step.attend(0, q, k, c.v.to(c.kept), c.mask, c.q.shape[-1] ** -0.5).to(c.q.dtype)
