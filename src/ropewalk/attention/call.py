"""One call of `attend`, and what its ways share: whether tokens stand in line, rotated queries and keys, dtypes.

Letters: B batch, T tokens, Q queries, K keys, H query heads, G key heads, D head channels, V value channels.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.masks import Mask, bidirectional, causal
from ropewalk.rotation import turn_both
from ropewalk.sites import Rotates, Weights, parts
from ropewalk.tokens import Tokens


class Call(NamedTuple):
    """The arguments of `attend`."""

    q: Tensor  # [B, H, Q, D]
    k: Tensor  # [B, G, K, D]
    v: Tensor  # [B, G, K, V]
    encoding: Any
    w: Weights
    q_at: Tokens
    k_at: Tokens
    mask: Mask = causal
    scale: float | None = None

    @property
    def wide(self) -> torch.dtype:
        """Of the arithmetic: float32, or wider where q is."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def accelerated(self) -> bool:
        """Whether its tensors lie where narrow products are the fast ones."""
        return accelerated(self.q.device)

    @property
    def kept(self) -> torch.dtype:
        """Of what torch's fused products are given: their own, widest, where the products add up in float32 inside."""
        if not self.accelerated:
            return self.wide
        return torch.promote_types(torch.promote_types(self.q.dtype, self.k.dtype), self.v.dtype)

    @property
    def factor(self) -> float:
        """What dot products are multiplied with."""
        return self.scale or self.q.shape[-1] ** -0.5

    @property
    def plain(self) -> bool:
        """Whether the mask is one that asks for nothing but the order of tokens inside a document."""
        return self.mask is causal or self.mask is bidirectional

    def in_order(self) -> bool:
        """Whether all tokens are one document, without a gap, and the queries are its last ones."""
        first, last = self.q_at, self.k_at
        same = (first.document[:, -1:] == last.document).all() & consecutive(last.order)
        same = same & (first.order[:, -1] == last.order[:, -1]).all()
        if first is not last:
            same = same & (first.document == last.document[:, -1:]).all() & consecutive(first.order)
        return self.q.shape[2] <= self.k.shape[2] and bool(same)

    def in_line(self) -> bool:
        """Whether they are in order, each one place after the one before it: a distance is a difference of indices."""
        first, last = self.q_at.position, self.k_at.position
        whole = not first.is_floating_point() and not last.is_floating_point()
        if first.shape[-1] != 1 or last.shape[-1] != 1 or not whole or not self.in_order():
            return False
        same = consecutive(last[..., 0]) & (first[:, -1] == last[:, -1]).all()
        return bool(same if first is last else same & consecutive(first[..., 0]))

    def rotated(self) -> "Call":
        """The same call with queries and keys mapped in wide arithmetic, then rounded to what is kept; v stays."""
        rotations = parts(self.encoding, Rotates)
        if not rotations:
            return self
        # a single rotation rounds once by itself
        inside = self.wide if len(rotations) > 1 else self.kept
        q, k = self.q.to(inside), self.k.to(inside)
        for e in rotations:
            # one that grows with position is shift equivariant and asks for positions near zero
            near = e.nearby(self.q_at, self.k_at) if hasattr(e, "nearby") else (self.q_at, self.k_at)
            if near[0] is near[1]:
                q, k = turn_both(e.rotation(self.w, near[0]), q, k)
            else:
                q, k = e.rotation(self.w, near[0]).query(q), e.rotation(self.w, near[1]).key(k)
        rest = tuple(e for e in self.members() if not isinstance(e, Rotates))
        return self._replace(q=q.to(self.kept), k=k.to(self.kept), encoding=rest)

    def members(self) -> tuple[Any, ...]:
        """The parts of the encoding, in order."""
        return self.encoding if isinstance(self.encoding, tuple) else (self.encoding,)


def accelerated(device: torch.device) -> bool:
    """Whether fused products of narrow numbers are the fast ones there; on a CPU those of float32 are."""
    return device.type == "cuda"


def consecutive(x: Tensor) -> Tensor:
    """Bool[]: whether each number of x [B, T] is one more than the one before it."""
    return (x[:, 1:] - x[:, :-1] == 1).all()


def together(biases: Iterable[Tensor]) -> Tensor:
    """Their sum, at least one."""
    return reduce(torch.add, biases)
