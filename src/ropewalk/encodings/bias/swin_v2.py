"""Cosine attention in windows of an image, biased by offset. Liu et al. 2021, arXiv:2111.09883 (Swin v2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from ropewalk.encodings.bias.swin import offset_row
from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens

STEEPEST = 100.0  # what a cosine is multiplied by, at most
HIGHEST = 16.0  # the bias lies between 0 and this
NAMES = ("swin_v2_scale", "swin_v2_in", "swin_v2_in_shift", "swin_v2_out")


@dataclass(frozen=True)
class SwinV2:
    """The cosine of query and key, times a learned scale per head, plus a bias that a small network gives the offset.

    The network sees rows and columns on a logarithmic scale, as fractions of the window it was trained on, so that it
    can serve a larger one. Reads two coordinates, as Swin does.
    """

    heads: int
    height: int
    width: int
    trained: tuple[int, ...] = ()  # height and width of the window it was trained on, where that was another
    hidden: int = 512

    def __post_init__(self) -> None:
        for field in ("heads", "height", "width", "hidden"):
            require_number(self, field, at_least=1, whole=True)
        ok = isinstance(self.trained, tuple) and all(type(n) is int and n > 0 for n in self.trained)
        ok = ok and len(self.trained) in (0, 2)
        require(ok, "SwinV2.trained", "() or the height and width of a window", self.trained)

    @property
    def axes(self) -> int:
        """How many coordinates of a token are read."""
        return 2

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Float32: log 10 [heads], and the network [hidden, 2], [hidden], [heads, hidden] from N(0, 0.02) and 0."""
        rise, out = (0.02 * torch.randn(s, generator=draw) for s in ((self.hidden, 2), (self.heads, self.hidden)))
        return dict(
            zip(NAMES, (torch.full((self.heads,), 10.0).log(), rise, torch.zeros(self.hidden), out), strict=True)
        )

    def offsets(self) -> Tensor:
        """Float64[2 height - 1, 2 width - 1, 2]: every offset as the network sees it."""
        sides = zip((self.height, self.width), self.trained or (self.height, self.width), strict=True)
        fractions = [[8 * n / max(of - 1, 1) for n in range(1 - side, side)] for side, of in sides]
        down, right = (torch.tensor(f, dtype=torch.float64) for f in fractions)
        both = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1)
        return both.sign() * both.abs().log1p() / math.log(8)

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]. Raises ConfigError for an offset that no window holds."""
        wide = torch.promote_types(w[NAMES[0]].dtype, torch.float32)
        scale, rise, rise_shift, out = (w[name].to(wide) for name in NAMES)
        seen = self.offsets().flatten(0, 1).to(rise)
        table = HIGHEST * linear(linear(seen, rise, rise_shift).relu(), out).sigmoid()
        cosine = normalize(q, dim=-1) @ normalize(k, dim=-1).mT
        steep = scale.clamp(max=math.log(STEEPEST)).exp()[:, None, None]
        return cosine * steep + table[offset_row(self, q_at, k_at)].permute(0, 3, 1, 2)
