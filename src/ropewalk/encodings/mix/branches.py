"""Distance rules: where two tokens stand decides which of a few rotations their logit is computed with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, line


class Branch(NamedTuple):
    """Queries and keys as if they stood elsewhere, and the pairs of tokens that this holds for."""

    query: Tensor  # Int or Float64[B, Q]
    key: Tensor  # Int or Float64[B, K]
    where: Tensor  # Bool[B, Q, K]

    def distance(self) -> Tensor:
        """[B, Q, K]: how far apart the two then are."""
        return self.query[:, :, None] - self.key[:, None, :]


class Branches:
    """Gives `logits` and `effective` to an encoding that says its branches; a pair takes the last one that holds.

    They are rules for causal attention: a key ahead of the query is treated like a near one.
    """

    rotary: Rotary

    def branches(self, q_at: Tokens, k_at: Tokens) -> list[Branch]:
        raise NotImplementedError

    def effective(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Int or Float64[B, Q, K]: the distance that each logit is computed for."""
        return chosen(self.branches(q_at, k_at), lambda b: b.distance()[:, None])[:, 0]

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: dot products of rotated queries and keys, one matrix of them per branch, times D ** -0.5."""

        def product(b: Branch) -> Tensor:
            turned = self.rotary.rotation(w, standing(b.query)).query(q)
            return turned @ self.rotary.rotation(w, standing(b.key)).key(k).mT

        return chosen(self.branches(q_at, k_at), product) * q.shape[-1] ** -0.5


def chosen(branches: list[Branch], found: Callable[[Branch], Tensor]) -> Tensor:
    """[B, H, Q, K]: for each pair what its branch finds; the first branch serves whatever no other holds for."""
    out = found(branches[0])
    for branch in branches[1:]:
        out = torch.where(branch.where[:, None], found(branch), out)
    return out


def standing(where: Tensor) -> Tokens:
    """Tokens at these positions [B, T]; of anything else a rotation takes no notice."""
    nothing = torch.zeros_like(where, dtype=torch.int64)
    return Tokens(where[..., None], nothing, nothing)


def capped(q_at: Tokens, k_at: Tokens, window: int) -> list[Branch]:
    """True distances below `window`, and `window` for all beyond."""
    i, j = line(q_at, "a distance rule"), line(k_at, "a distance rule")
    far = i[:, :, None] - j[:, None, :] >= window
    return [Branch(i, j, ~far), Branch(torch.full_like(i, window), torch.zeros_like(j), far)]


def require_rotary(owner: object) -> None:
    """Raise ConfigError unless `owner.rotary` is a Rotary."""
    rotary = getattr(owner, "rotary", None)
    require(isinstance(rotary, Rotary), f"{type(owner).__name__}.rotary", "a Rotary", rotary)
