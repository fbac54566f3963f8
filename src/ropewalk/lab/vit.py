"""A small vision transformer, made of the lab's decoder.

Letters: B batch, T tokens, C model channels, S side of a picture in pixels, N patches along a side, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.encodings import Learned
from ropewalk.errors import require
from ropewalk.lab.model import Decoder, Product, Settled, Shape
from ropewalk.media import Image, Text, grid, multimodal
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, contiguous, select

ROW, GRID, TIE = "row", "grid", "tie"
PLACES = (ROW, GRID, TIE)
TEXT = 2  # tokens about a picture: the first two of the vocabulary
STREAM = 2**20  # seeds of what the decoder itself does not draw


class Vit(Decoder):
    """A vision transformer: two tokens of text and the patches of a square picture, all of which see each other.

    The second token tells which word of the vocabulary the picture shows. `places` is where tokens stand: "row" in
    one line, text first and patches row by row; "grid" patches by row and column and text at (0, 0); "tie" as RoPE-Tie
    places a picture between two texts. `side` is that of the pictures that it is trained on, in patches.
    """

    def __init__(self, shape: Shape, encoding: Any, places: str, seed: int = 0, side: int = 8, patch: int = 1) -> None:
        super().__init__(shape, encoding, seed)
        require(places in PLACES, "Vit.places", " or ".join(map(repr, PLACES)), places)
        self.places, self.side, self.patch = places, side, patch
        self.patches = Product(
            patch * patch, shape.width, torch.Generator().manual_seed(STREAM + seed), shape.width**-0.5
        )

    def forward(self, ids: Tensor, last: int = 0, at: Tokens | None = None) -> Tensor:
        """Float32[B, 1, V] of pictures Float32[B, S, S]: the logits of what each shows.

        Raises ConfigError where the encoding has no place for so many patches.
        """
        return self.shown(ids, interpolated=False)

    def shown(self, pictures: Tensor, interpolated: bool) -> Tensor:
        """The same; `interpolated` puts the patches of a larger picture where those stood that it was trained on.

        Rows and columns then count in patches of training, and lie between whole numbers; RoPE-Tie's are scaled until
        both texts stand as in training; a learned table is resized (bicubic).
        """
        n = pictures.shape[-1] // self.patch
        at = placed(self.places, n, self.side if interpolated else n)
        settled = self.settled(at.order.shape[1])
        if interpolated:
            settled = [(resized(*one, self.side, n) if isinstance(one[0], Learned) else one) for one in settled]
        cut = pictures.unflatten(1, (n, self.patch)).unflatten(3, (n, self.patch)).transpose(2, 3)
        text = self.embedding[:TEXT].expand(len(cut), -1, -1)
        x = torch.cat((text, self.patches(cut.flatten(3).flatten(1, 2))), dim=1)
        return self.through(x, settled, at)[:, TEXT - 1 : TEXT] @ self.embedding.T


def placed(places: str, n: int, side: int) -> Tokens:
    """Where two tokens of text and then n x n patches stand, fitted into the places of `side` x `side` patches.

    All have come at once, so that each sees all under a causal mask.
    """
    at = {ROW: in_row, GRID: in_grid, TIE: tied}[places](n, side)
    return at._replace(order=torch.zeros_like(at.order))


def in_row(n: int, side: int) -> Tokens:
    """One line, with nothing to fit."""
    return contiguous(TEXT + n * n)


def in_grid(n: int, side: int) -> Tokens:
    """Text at (0, 0); a patch stands where its middle is."""
    at = grid(n, n, extra=TEXT)
    if n == side:
        return at
    text, patches = at.position.double().split((TEXT, n * n), dim=1)
    return at._replace(position=torch.cat((text, (patches + 0.5) * (side / n) - 0.5), dim=1))


def tied(n: int, side: int) -> Tokens:
    """One text on either side of the picture, and both in front in the row."""
    at = multimodal(Text(1), Image(n, n), Text(1), rule="tie", merge=1)
    at = select(at, torch.tensor([0, n * n + 1, *range(1, n * n + 1)]))
    return at._replace(position=at.position * ((side + 1) / (n + 1)) ** 2)


def resized(encoding: Learned, w: Weights, side: int, n: int) -> Settled:
    """A table of `side` x `side` patches made one of n x n, as DeiT does; the rows of text stay."""
    text, patches = w["table"].split((TEXT, side * side))
    picture = patches.T.unflatten(1, (side, side))[None]
    if n != side:
        picture = F.interpolate(picture, (n, n), mode="bicubic", align_corners=False)
    return replace(encoding, length=TEXT + n * n), {"table": torch.cat((text, picture[0].flatten(1).T))}
