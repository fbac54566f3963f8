"""Words as waves over the position. Wang et al. 2020, arXiv:1912.12333 (complex-order embeddings)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, line

NAMES = ("complex_frequency", "complex_phase")


@dataclass(frozen=True)
class ComplexOrder:
    """Makes channel d of an embedding the complex number x_d exp(i (frequency_d * position + phase_d)), two channels.

    The embedding itself is the amplitude, so position never changes the size of a channel. With `words` every word of
    the vocabulary has frequencies and phases of its own, and `lookup` picks those of the tokens at hand. What
    broadcasts over the channels may be shared by them: a frequency of shape [1], a phase of zero.
    """

    dim: int
    words: int = 0  # rows of both tables; 0 is one row for all words
    base: float = 10000.0  # frequencies start at base ** (-d / dim)

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "words", at_least=0, whole=True)
        require_number(self, "base", above=1)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Frequencies that fall by a constant ratio, phases drawn evenly from a turn: Float32[dim], or [words, dim]."""
        shape = (self.words, self.dim) if self.words else (self.dim,)
        frequency = torch.tensor([self.base ** (-d / self.dim) for d in range(self.dim)]).expand(shape).clone()
        return dict(zip(NAMES, (frequency, math.pi * (2 * torch.rand(shape, generator=draw) - 1)), strict=True))

    def lookup(self, w: Weights, ids: Tensor) -> Weights:
        """`w` with each token's rows, [B, T, dim], in place of the tables of all words. ids: Int[B, T]."""
        return {**w, **{name: embedding(ids, w[name]) for name in NAMES}}

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, 2 dim]: real parts, then imaginary parts, of waves with amplitude 1.

        The angle is computed in float64. Raises ConfigError for positions on several axes, and for tables of all words.
        """
        frequency, phase = (w[name] for name in NAMES)
        for name, table in zip(NAMES, (frequency, phase), strict=True):
            require(table.dim() != 2, name, "picked by lookup(w, ids) first", tuple(table.shape))
        where = line(at, "ComplexOrder").double()[..., None]
        angle = (where * frequency + phase).expand(*at.order.shape, self.dim)
        wave = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return wave.to(torch.promote_types(frequency.dtype, torch.float32))

    def onto(self, w: Weights, x: Tensor, at: Tokens) -> Tensor:
        """[B, T, 2 dim] in x's dtype, from the amplitudes x [B, T, dim]. Raises ConfigError as `embed` does."""
        return (torch.cat((x, x), dim=-1) * self.embed(w, at)).to(x.dtype)
