"""What random positions have in common: each document of each row has its own draw."""

from collections.abc import Callable

import torch
from torch import Tensor

from ropewalk.tokens import PADDING, Tokens, line


def drawn(at: Tokens, seed: int, owner: str, places: Callable[[int, torch.Generator], Tensor]) -> Tokens:
    """Tokens moved, within their document, to the places that are drawn for as many as have a position of their own.

    `places(count, draw)` gives Int[count], rising. Tokens keep their order, tokens at one position stay together, and
    padding stays where it is. Documents draw row by row, in the order of their numbers.
    """
    draw = torch.Generator().manual_seed(seed)
    where = line(at, owner).clone()
    for row, document in zip(where, at.document, strict=True):
        for number in document.unique().tolist():
            if number != PADDING:
                held, rank = row[document == number].unique(return_inverse=True)
                row[document == number] = places(len(held), draw).to(row)[rank]
    return at._replace(position=where[..., None])
