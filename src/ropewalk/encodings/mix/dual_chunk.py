"""Distances inside a chunk, to the chunk before and to all others. An et al. 2024, arXiv:2402.17463 (DCA).

Paper and code: the farthest distance is window - 1 in the paper and window in the code, whose chunks are smaller too.
We follow the paper; form="code" is the other.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches, require_rotary
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require, require_choice, require_number
from ropewalk.tokens import Tokens, line

FORMS = ("paper", "code")


@dataclass(frozen=True)
class DualChunk(Branches):
    """Every key gets the logit of a distance below `window`: positions restart with each chunk of `chunk` tokens.

    In the query's own chunk distances are true; to the chunk before they are true for the first `local` queries of a
    chunk, and all others are as far as can be, seen from the start of the key's chunk: window - 1, and `window` in the
    released code ("code"), which lets distances to the chunk before grow up to it. That code also makes queries and
    keys longer by 0.05 ln(length / trained length): a `Rescale` of the rotary with a magnitude does.
    """

    rotary: Rotary
    window: int = 4096  # the trained length; three quarters of it in the released code
    chunk: int = 3072
    local: int = 1024
    form: str = "paper"  # or "code", the released one

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=2, whole=True)
        require_number(self, "chunk", at_least=1, at_most=self.window - 1, whole=True)
        require_choice(self, "form", FORMS)
        require_number(self, "local", at_least=0, at_most=self.window - self.chunk, whole=True)
        known = self.form == "paper" or self.local == self.window - self.chunk
        require(known, "DualChunk.local", "window - chunk where form is 'code'", self.local)

    @classmethod
    def trained_on(cls, rotary: Rotary, trained_length: int, form: str = "paper") -> Self:
        """The sizes that go with a trained length: chunks of three quarters of it; of five eighths in the code."""
        eighths, local = (8, 2) if form == "paper" else (6, 1)
        window, local = trained_length * eighths // 8, trained_length * local // 8
        return cls(rotary, window, window - local, local, form)

    def queries(self, at: Tokens) -> list[Tensor]:
        """By the place in the chunk, the same a chunk later, and at the end."""
        place = line(at, "DualChunk") % self.chunk
        last = self.window - 1 if self.form == "paper" else min(self.window, 2 * self.chunk - 1)
        end = torch.full_like(place, last)
        return [place, torch.where(place < self.local, place + self.chunk, end), end]

    def keys(self, at: Tokens) -> list[Tensor]:
        """By the place in the chunk."""
        return [line(at, "DualChunk") % self.chunk] * 3

    def takes(self, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
        """The query's own chunk, the one before it, and all others."""
        i, j = line(q_at, "DualChunk"), line(k_at, "DualChunk")
        apart = (i // self.chunk)[:, :, None] - (j // self.chunk)[:, None, :]
        return [apart == 0, apart == 1, apart > 1]
