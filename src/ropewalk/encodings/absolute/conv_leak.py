"""Position that leaks from zero padding. Islam et al. 2020, arXiv:2001.08248."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require, require_choice, require_flag, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class ConvLeak:
    """Replaces each token embedding by a learned weighting of itself and its neighbours, channel by channel.

    Where a document ends its neighbours count as zero, so that one convolution tells how near the border is, within
    its reach. Neighbours are those beside the token in its row, so tokens must stand in order; positions are not read.
    """

    dim: int
    kernel: int = 3  # tokens that each sum reads
    causal: bool = True  # the token and those before it; otherwise as many on either side
    padding: str = "zero"  # or "circular": the row's ends meet, and nothing leaks

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "kernel", at_least=1, whole=True)
        require_flag(self, "causal")
        require_choice(self, "padding", ("zero", "circular"))
        require(self.causal or self.kernel % 2 == 1, "ConvLeak.kernel", "odd unless causal", self.kernel)
        require(not self.causal or self.padding == "zero", "ConvLeak.padding", "'zero' where causal", self.padding)

    @property
    def context(self) -> int:
        """How many earlier tokens are read with each: a cache keeps their embeddings."""
        return self.kernel - 1 if self.causal else self.kernel // 2

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Weights of the neighbours, the earliest first, Float32[kernel, dim]: 1 for the token itself, 0 for others."""
        taps = torch.zeros(self.kernel, self.dim)
        taps[self.context] = 1
        return {"conv_leak": taps}

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, dim]: what becomes of embeddings that are 1 throughout, which is the position that leaks."""
        return self.onto(w, w["conv_leak"].new_ones(*at.order.shape, self.dim), at)

    def onto(self, w: Weights, x: Tensor, at: Tokens) -> Tensor:
        """[B, T, dim] in x's dtype: the weighted neighbours of each token of x, from its own document alone."""
        place = torch.ones_like(at.document).cumsum(dim=1)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = torch.zeros_like(wide)
        for tap, weight in enumerate(w["conv_leak"]):
            back = self.context - tap
            far = at.document.roll(back, dims=1) != at.document
            if self.padding == "zero":
                far = far | (place.roll(back, dims=1) != place - back)
            total = total + weight * wide.roll(back, dims=1).masked_fill(far[..., None], 0)
        return total.to(x.dtype)
