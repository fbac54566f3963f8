"""The inner product of sinusoids as a bias. Chi et al. 2022, arXiv:2212.10356 (Sandwich)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_even, require_number
from ropewalk.sites import OfDistance, Weights


@dataclass(frozen=True)
class Sandwich(OfDistance):
    """Lowers a logit by what the inner product of two sinusoidal encodings has lost at that distance.

    The loss is that of `dim` channels, whatever the head's; head h of H, counted from 1, divides it by 8 h / H.
    """

    heads: int
    dim: int = 128
    base: float = 10000.0

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_even(self, "dim")
        require_number(self, "base", above=1)

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        """Float32[heads, N]: 0 at distance 0, even in it, and falling on the whole though not at every step."""
        far = d.double()
        lost = torch.zeros_like(far)
        # one pair of channels at a time: all at once would take dim / 2 times the memory
        for i in range(1, self.dim // 2 + 1):
            lost = lost + 1 - (far * self.base ** (-2 * i / self.dim)).cos()
        divisor = torch.tensor([8 * h / self.heads for h in range(1, self.heads + 1)], dtype=far.dtype, device=d.device)
        return (-lost / divisor[:, None]).float()
