"""Distances bent by any warp; the warps themselves are in `remaps/warps.py`."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import require_rotary, standing
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance


@runtime_checkable
class Warp(Protocol):
    """A function of one coordinate."""

    def warp(self, m: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class WarpedDistance:
    """Gives a key at some distance the logit of the distance that the warp makes of it.

    On positions a warp breaks the rule that only distances count; on distances it keeps it. No product of two matrices
    does this: every query is turned anew for every key, so memory grows with Q K D.
    """

    rotary: Rotary
    warp: Warp

    def __post_init__(self) -> None:
        require_rotary(self)
        known = isinstance(self.warp, Warp) and not isinstance(self.warp, type)
        require(known, "WarpedDistance.warp", "a warp, such as Piecewise(trained_length=4096)", self.warp)

    def effective(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Float64[B, Q, K]: the distance that each logit is computed for."""
        return self.warp.warp(distance(q_at, k_at))

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: queries at the warped distance from keys at 0, scaled by D ** -0.5."""
        d = self.effective(q_at, k_at)
        turned = self.rotary.rotation(w, standing(d.flatten(1))).query(q.repeat_interleave(d.shape[2], dim=2))
        keys = self.rotary.rotation(w, standing(torch.zeros_like(d[:, 0]))).key(k)
        return torch.einsum("bhqkd,bhkd->bhqk", turned.unflatten(2, d.shape[1:]), keys) * q.shape[-1] ** -0.5
