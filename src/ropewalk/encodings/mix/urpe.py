"""Attention weights scaled by distance. Luo et al. 2022, arXiv:2205.13401 (URPE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance


@dataclass(frozen=True)
class Urpe:
    """Leaves the logits alone and multiplies each weight after the softmax by a learned factor of the distance.

    Weights then need not sum to one, so that even equal tokens can tell where they stand. Each head has its factors,
    one per distance up to `reach` on either side. The logits may come from rotations and biases beside it.
    """

    heads: int
    reach: int = 128

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_number(self, "reach", at_least=0, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The factors, Float32[heads, 2 * reach + 1], the farthest key ahead first: ones."""
        return {"urpe": torch.ones(self.heads, 2 * self.reach + 1)}

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """q . k / sqrt(D)."""
        return q @ k.mT * q.shape[-1] ** -0.5

    def values(self, w: Weights, a: Tensor, v: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, D]: the sum of v, each times its weight and its factor."""
        row = distance(q_at, k_at).clamp(-self.reach, self.reach) + self.reach
        return (a * w["urpe"][:, row].transpose(0, 1)) @ v
