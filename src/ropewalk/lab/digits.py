"""A decoder that is told which digit of its number each digit is. McLeish et al. 2024, arXiv:2405.17399 (Abacus)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.module import Positions
from ropewalk.encodings import Learned
from ropewalk.errors import require_number
from ropewalk.lab.model import Decoder, Settled, Shape
from ropewalk.tokens import Tokens, contiguous

ZERO, NINE = b"09"


@dataclass(frozen=True)
class Digits:
    """A learned vector per place in a number, added to the embeddings of digits; and an encoding of places in texts.

    In training the first digit of all numbers of a text is at a place drawn from 1 to 1 + spread, so that all of
    `longest` places are learned from shorter numbers.
    """

    encoding: Any
    longest: int  # digits of a number
    spread: int

    def __post_init__(self) -> None:
        require_number(self, "longest", at_least=1, whole=True)
        require_number(self, "spread", at_least=0, whole=True)


class DigitDecoder(Decoder):
    """A `Decoder` under `Digits`, for texts in ASCII. Row 0 of the table is of what is no digit."""

    def __init__(self, shape: Shape, digits: Digits, seed: int = 0) -> None:
        super().__init__(shape, digits.encoding, seed)
        self.digits = digits
        own = Positions(Learned(shape.width, 1 + digits.longest), seed)
        # as large as the embeddings of tokens, as in the paper's code; Learned begins at 0.02
        torch.nn.init.normal_(own.weights["table"], generator=torch.Generator().manual_seed(seed))
        self.positions.append(own)

    def settled(self, length: int) -> list[Settled]:
        """As of every decoder: the table of digits is no encoding of places in a text."""
        return super().settled(length)[:-1]

    def embedded(self, ids: Tensor) -> Tensor:
        """With the places of digits. Raises ConfigError for a number of more digits than there are places."""
        own = self.positions[-1]
        assert isinstance(own, Positions)
        return own.embed(super().embedded(ids), self.where(ids))

    def where(self, ids: Tensor) -> Tokens:
        """The places of digits in their numbers, which in training begin anywhere up to `spread`."""
        place = digit_places(ids)
        if self.training:
            start = torch.randint(self.digits.spread + 1, (len(ids), 1))
            place = torch.where(place > 0, place + start, 0)
        return contiguous(ids.shape[1], batch=len(ids))._replace(position=place[..., None])


def digit_places(ids: Tensor) -> Tensor:
    """Int[B, T]: 1 for the first digit of every run of digits, 2 for the next and so on; 0 for all other characters."""
    digit = (ids >= ZERO) & (ids <= NINE)
    count = digit.cumsum(dim=1)
    return count - count.masked_fill(digit, 0).cummax(dim=1).values
