"""Which keys a query may see: functions of two Tokens. B batch, Q queries, K keys."""

from collections.abc import Callable

from torch import Tensor

from ropewalk.errors import require
from ropewalk.tokens import Tokens

Mask = Callable[[Tokens, Tokens], Tensor]  # -> Bool[B, Q, K]


def bidirectional(q_at: Tokens, k_at: Tokens) -> Tensor:
    """Every key of the query's own document."""
    return q_at.document[:, :, None] == k_at.document[:, None, :]


def causal(q_at: Tokens, k_at: Tokens) -> Tensor:
    """Keys of the query's own document that are not later."""
    return (q_at.order[:, :, None] >= k_at.order[:, None, :]) & bidirectional(q_at, k_at)


def window(size: int) -> Mask:
    """The last `size` keys that are not later, the query's own among them."""
    require(size >= 1, "window.size", "at least 1", size)
    return lambda q, k: causal(q, k) & (q.order[:, :, None] - k.order[:, None, :] < size)


def prefix(length: int) -> Mask:
    """Keys that are not later, and each of the document's tokens that stands before position `length`."""
    require(length >= 0, "prefix.length", "at least 0", length)
    return lambda q, k: causal(q, k) | bidirectional(q, k) & (k.position[:, None, :, 0] < length)
