"""Sines and cosines of the position. Vaswani et al. 2017, arXiv:1706.03762.

Paper and code: the paper alternates sine and cosine; RoFormer and Marian put all sines first; tensor2tensor and
fairseq do so with other rates. `layout` says which, the paper's unless told.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.absolute.learned import INJECTS
from ropewalk.encodings.rotary.turning import angles, coordinates
from ropewalk.errors import require, require_choice, require_even, require_number
from ropewalk.sites import Weights
from ropewalk.spectrum import Spectrum
from ropewalk.tokens import Tokens

LAYOUTS = ("interleaved", "concat", "t2t")


@dataclass(frozen=True)
class Sinusoidal:
    """Adds to the token embeddings, two channels per rate, the sine and cosine of position times rate.

    Vectors of two tokens have an inner product that sees only how far apart they stand; projected to queries and keys
    they lose that. Positions may be negative or lie between whole numbers.
    """

    dim: int
    base: float = 10000.0
    # the paper's sine, cosine, sine ...; "concat": all sines first (RoFormer, Marian); "t2t": so too, and the slowest
    # rate is 1 / base exactly (tensor2tensor, fairseq)
    layout: str = "interleaved"
    axes: int = 1  # coordinates of a token; each has an equal run of the channels, with rates of its own
    inject: str = "input"  # or "pre_head": only before the output head

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "base", above=1)
        require_number(self, "axes", at_least=1, whole=True)
        require_choice(self, "layout", LAYOUTS)
        require_choice(self, "inject", INJECTS)
        require(self.dim % (2 * self.axes) == 0, "Sinusoidal.dim", f"divisible by {2 * self.axes}", self.dim)

    @property
    def pairs(self) -> int:
        """How many rates one axis has."""
        return self.dim // (2 * self.axes)

    def spectrum(self) -> Spectrum:
        """The rate of each sine and its cosine in radians per position, axis by axis."""
        last = max(self.pairs - 1, 1) if self.layout == "t2t" else self.pairs
        return Spectrum(tuple(self.base ** (-i / last) for i in range(self.pairs)) * self.axes)

    def angle(self, at: Tokens) -> Tensor:
        """Float64[B, T, dim / 2]: what the sines and cosines are taken of, axis by axis."""
        axis_of_pair = tuple(axis for axis in range(self.axes) for _ in range(self.pairs))
        return angles(coordinates(at, axis_of_pair), self.spectrum())

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """Float32[B, T, dim]: float64 angles, narrowed once. Raises ConfigError for tokens on other axes."""
        angle = self.angle(at).unflatten(-1, (self.axes, self.pairs))
        both = torch.stack((angle.sin(), angle.cos()), dim=-1 if self.layout == "interleaved" else -2)
        return both.flatten(2).float()
