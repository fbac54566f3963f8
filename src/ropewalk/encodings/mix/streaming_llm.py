"""The first tokens and the last ones, numbered as they lie in the cache. Xiao et al. 2024, arXiv:2309.17453."""

from dataclasses import dataclass

from torch import Tensor

from ropewalk.encodings.mix.branches import Branches, require_rotary
from ropewalk.encodings.mix.near import parted_at
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_number
from ropewalk.tokens import Tokens, distance, line


@dataclass(frozen=True)
class StreamingLLM(Branches):
    """Hides all keys but the first `sinks` and the last `recent`, and counts as if nothing had stood between the two.

    The logits of a cache of sinks + recent keys whose positions are its slots: a text may go on for ever, and what is
    hidden is gone. `Streaming` gives the tokens of such a cache.
    """

    rotary: Rotary
    sinks: int = 4
    recent: int = 1020

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "sinks", at_least=0, whole=True)
        require_number(self, "recent", at_least=1, whole=True)

    def queries(self, at: Tokens) -> list[Tensor]:
        """As they stand; for the sinks in the cache's last slot once it is full."""
        i = line(at, "StreamingLLM")
        return [i, i.clamp(max=self.sinks + self.recent - 1)]

    def keys(self, at: Tokens) -> list[Tensor]:
        """As they stand, which is the slot of every sink."""
        return [line(at, "StreamingLLM")] * 2

    def takes(self, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
        """The last tokens, and the sinks."""
        return parted_at(self.recent, q_at, k_at)

    def visible(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Bool[B, Q, K]: the keys of the last `recent` tokens and the first `sinks` of the document."""
        return (distance(q_at, k_at) < self.recent) | (line(k_at, "StreamingLLM") < self.sinks)[:, None, :]

    def kept(self) -> tuple[int, int]:
        """How many of the first and of the last tokens a cache has to keep."""
        return self.sinks, self.recent
