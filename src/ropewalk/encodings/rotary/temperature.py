"""Sharper attention for later queries. Meta 2025 (Llama 4), Mistral 2025 (Ministral 3)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.encodings.rotary.log_n import Sharpening
from ropewalk.errors import require_number
from ropewalk.sites import Weights

if TYPE_CHECKING:
    from ropewalk.tokens import Tensor, Tokens


@dataclass(frozen=True)
class Temperature:
    """Multiplies the logits of a query by 1 + strength * ln(1 + number of whole spans of `floor` tokens up to it).

    Llama 4 has it in layers without positions and counts the query itself; Ministral 3 has it in every layer, with the
    trained length for a span, and counts the tokens before the query: `start=0`.
    """

    floor: int = 8192
    strength: float = 0.1
    start: int = 1  # the number of the first token

    def __post_init__(self) -> None:
        require_number(self, "floor", at_least=1, whole=True)
        require_number(self, "strength", at_least=0)
        require_number(self, "start", at_least=0, at_most=1, whole=True)

    def scale(self, at: "Tokens") -> "Tensor":
        """Float64[B, T]: the factor of each query."""
        from ropewalk.tokens import line

        spans = ((line(at, "Temperature").double() + self.start) / self.floor).floor()
        return 1 + self.strength * spans.clamp(min=0).log1p()

    def rotation(self, w: Weights, at: "Tokens") -> Sharpening:
        """The factors, rounded once to float32."""
        return Sharpening(self.scale(at).float())
