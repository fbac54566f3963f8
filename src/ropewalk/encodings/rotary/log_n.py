"""Sharper attention the more keys there are. Su 2021, kexue.fm/archives/8823.

Paper and code: log n is taken per query, counting its own key, as in ReRoPE's and Qwen's code; Attention-E takes it
once, of the whole length.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ropewalk.errors import require_number
from ropewalk.sites import Weights

if TYPE_CHECKING:
    from ropewalk.tokens import Tensor, Tokens


class Sharpening(NamedTuple):
    """Multiplies queries and leaves keys alone, so that mapped keys may be cached."""

    scale: "Tensor"  # Float32[B, T]

    def query(self, x: "Tensor") -> "Tensor":
        """The scaled queries, [B, H, T, D] like x."""
        return (x * self.scale[:, None, :, None]).to(x.dtype)

    def key(self, x: "Tensor") -> "Tensor":
        """x itself."""
        return x


@dataclass(frozen=True)
class LogN:
    """Multiplies the logits of a query by ln(number of keys up to it) / ln(trained length), and by 1 before that.

    Attention over more keys than in training stays as concentrated as it was. Goes with any rotation.
    """

    trained_length: int

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=2, whole=True)

    def scale(self, at: "Tokens") -> "Tensor":
        """Float64[B, T]: the factor of each query."""
        from ropewalk.tokens import line

        seen = line(at, "LogN").double() + 1
        return seen.clamp(min=self.trained_length).log() / math.log(self.trained_length)

    def rotation(self, w: Weights, at: "Tokens") -> Sharpening:
        """The factors, rounded once to float32."""
        return Sharpening(self.scale(at).float())
