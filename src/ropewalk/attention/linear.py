"""Linear attention with rotations. Su et al. 2021, arXiv:2104.09864, section 3.3.

Features of queries and keys stand in for the softmax. They are rotated in the sum of the values alone: the weights
that divide it stay positive, while a rotated one may be negative and is no probability.
Letters: B batch, T tokens, Q queries, K keys, H query heads, G key heads, D head channels, V value channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.attention import reference
from ropewalk.errors import UnsupportedError
from ropewalk.masks import Mask, causal
from ropewalk.sites import Biases, Mixes, Weights, parts
from ropewalk.tokens import Tokens

Feature = Callable[[Tensor], Tensor]


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1."""
    return torch.nn.functional.elu(x) + 1


def attend_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    encoding: Any,
    w: Weights,
    q_at: Tokens,
    k_at: Tokens,
    mask: Mask = causal,
    feature: Feature = positive,
) -> Tensor:
    """[B, H, Q, V] in q's dtype, in the quadratic form that says what is meant; a query that sees no key gets zeros.

    q [B, H, Q, D], k [B, G, K, D] and v [B, G, K, V], not yet mapped; `feature` maps them to nothing below 0. Raises
    UnsupportedError for an encoding that looks at pairs of tokens.
    """
    features = widened(q, k, v, encoding, feature)
    seen = mask(q_at, k_at)[:, None]
    turned = reference.logits(features.q, features.k, encoding, w, q_at, k_at, 1.0).masked_fill(~seen, 0)
    total = (features.q @ features.k.mT).masked_fill(~seen, 0).sum(-1, keepdim=True)
    return divided(turned @ features.v, total).to(q.dtype)


class State(NamedTuple):
    """All that is remembered of a document's tokens so far, for each row of a batch."""

    values: Tensor  # [B, H, D, V]: the sum of rotated key features times values
    total: Tensor  # [B, H, D]: the sum of key features
    document: Tensor  # Int[B]: whose tokens these were


def recur_linear(
    qkv: tuple[Tensor, Tensor, Tensor],
    encoding: Any,
    w: Weights,
    at: Tokens,
    state: State | None = None,
    feature: Feature = positive,
) -> tuple[Tensor, State]:
    """What causal `attend_linear` gives, [B, H, T, V], token after token, and the state that the next tokens need.

    Each row holds its tokens in their order and each document in one run, as `packed` and `ragged` do: a token of
    another document starts anew. The positions of an encoding that grows (XPos) must stay where float32 holds it.
    """
    features = widened(*qkv, encoding, feature)
    q, k = reference.rotate(features.q, features.k, encoding, at, w)
    if state is None:
        state = State(0 * k[:, :, 0, :, None] * features.v[:, :, 0, None], 0 * features.k[:, :, 0], at.document[:, 0])
    out = []
    for t, document in enumerate(at.document.unbind(1)):
        same = (document == state.document)[:, None, None]
        values = state.values * same[..., None] + k[:, :, t, :, None] * features.v[:, :, t, None]
        state = State(values, state.total * same + features.k[:, :, t], document)
        total = (features.q[:, :, t] * state.total).sum(-1, keepdim=True)
        out.append(divided((q[:, :, t, None] @ state.values)[:, :, 0], total))
    return torch.stack(out, dim=2).to(qkv[0].dtype), state


class Features(NamedTuple):
    """Features of queries and keys, and the values, all with H heads and in float32 or wider."""

    q: Tensor
    k: Tensor
    v: Tensor


def widened(q: Tensor, k: Tensor, v: Tensor, encoding: Any, feature: Feature) -> Features:
    """The features. Raises UnsupportedError for an encoding that looks at pairs of tokens."""
    pairs = [*parts(encoding, Biases), *parts(encoding, Mixes)]
    if pairs:
        raise UnsupportedError(f"linear attention carries encodings that map each token alone, got {pairs[0]!r}")
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).to(wide) for x in (k, v))
    return Features(feature(q.to(wide)), feature(k), v)


def divided(values: Tensor, total: Tensor) -> Tensor:
    """values / total, and zeros where nothing was seen."""
    return values / total.masked_fill(total == 0, 1)
