"""Rotary embedding with learned directions (RoPE-Mixed). Heo et al. 2024, arXiv:2403.13298."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.rotary.lie import skew
from ropewalk.encodings.rotary.turning import on_axes, turned_by
from ropewalk.errors import require, require_choice, require_even, require_number
from ropewalk.rotation import PAIRINGS, Rotation
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class RotaryMixed:
    """Turns each pair by the sum over the axes of coordinate times rate: a logit sees all differences mixed.

    Every head learns its own rates; train them without weight decay. Angles add up, so logits stay exactly relative.
    """

    dim: int
    heads: int
    base: float = 10.0
    axes: int = 2
    pairing: str = "interleaved"

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "heads", at_least=1, whole=True)
        require_number(self, "base", above=1)
        require_number(self, "axes", at_least=1, whole=True)
        require(self.dim // 2 % self.axes == 0, "RotaryMixed.axes", f"a divisor of {self.dim // 2} pairs", self.axes)
        require_choice(self, "pairing", PAIRINGS)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The rates, Float32[axes, heads, dim / 2], with directions turned at random in each head."""
        planes = math.comb(self.axes, 2)
        angle = math.tau * torch.rand(self.heads, planes, generator=draw, dtype=torch.float64)
        return {"mixed_rates": self.rates(angle).float().contiguous()}

    def rates(self, angle: Tensor) -> Tensor:
        """[axes, heads, dim / 2]: base ** (-2 axes i / dim) along as many perpendicular directions as there are axes.

        `angle` [heads, axes (axes - 1) / 2] turns them; for two axes it is the angle of the first direction.
        """
        each = self.dim // 2 // self.axes
        length = torch.tensor([self.base ** (-i / each) for i in range(each)], dtype=angle.dtype)
        frame = skew(-angle, self.axes).matrix_exp()
        return (frame[..., None] * length).flatten(-2).transpose(0, 1)

    def rotation(self, w: Weights, at: Tokens) -> Rotation:
        """Cosines and sines [B, H, T, dim / 2]: float64 angles, then the dtype of the rates, float32 at least."""
        rates = w["mixed_rates"]
        angle = torch.einsum("bta,ahp->bhtp", on_axes(at, self.axes), rates.double())
        return turned_by(angle, rates, self.pairing)
