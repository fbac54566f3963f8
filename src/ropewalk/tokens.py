"""Where, when and whose: the three integers of every token.

A cache, a packed row, a padded row and a shard differ in nothing else.  This is the only file that counts positions.
Letters: B batch, T tokens, A axes, Q queries, K keys.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import require

PADDING = -1  # the document that padding belongs to


class Tokens(NamedTuple):
    """Three int64 tensors that travel with the tokens through caches, packing and sharding."""

    position: Tensor  # Int[B, T, A]: where, for encodings; Float64 where tokens stand between places
    order: Tensor  # Int[B, T]: when, for causality; equals position for plain text
    document: Tensor  # Int[B, T]: whose


def contiguous(length: int, start: int = 0, batch: int = 1) -> Tokens:
    """`length` consecutive tokens of one document, the first at position `start`; the same in each of `batch` rows."""
    require(length >= 0, "contiguous.length", "at least 0", length)
    where = torch.arange(start, start + length).expand(batch, length)
    return Tokens(where[..., None], where, torch.zeros_like(where))


def packed(*lengths: int) -> Tokens:
    """Several documents in one row: positions restart at 0, order runs on, the document number grows by one."""
    require(all(n > 0 for n in lengths), "packed.lengths", "positive", lengths)
    where = torch.cat([torch.arange(n) for n in lengths])
    whose = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    return Tokens(where[None, :, None], torch.arange(sum(lengths))[None], whose[None])


def ragged(*lengths: int) -> Tokens:
    """One document per row, left-padded to the longest; padding is a document of its own, at position 0."""
    require(all(n > 0 for n in lengths), "ragged.lengths", "positive", lengths)
    column = torch.arange(max(lengths))[None]
    where = column - torch.tensor([[max(lengths) - n] for n in lengths])
    return Tokens(where.clamp(min=0)[..., None], column.expand(len(lengths), -1), torch.where(where < 0, PADDING, 0))


def select(at: Tokens, index: Tensor | slice) -> Tokens:
    """The tokens at `index` (Int[N], along T), with everything they carry: a shard, a crop or a reordering."""
    return Tokens(at.position[:, index], at.order[:, index], at.document[:, index])


def shard(at: Tokens, rank: int, world: int, layout: str = "zigzag") -> Tokens:
    """The tokens that one rank of a context-parallel group holds.

    "contiguous" cuts the row into `world` blocks; "zigzag" into 2 * `world`, of which a rank holds one from either
    end, so that causal work is equal.  T must be divisible by the number of blocks.
    """
    require(layout in ("zigzag", "contiguous"), "shard.layout", "'zigzag' or 'contiguous'", layout)
    require(0 <= rank < world, "shard.rank", f"from 0 to {world - 1}", rank)
    blocks = world if layout == "contiguous" else 2 * world
    length = at.order.shape[1]
    require(length % blocks == 0, "shard.length", f"divisible by {blocks}", length)
    mine = [rank] if layout == "contiguous" else [rank, blocks - 1 - rank]
    return select(at, torch.arange(length).view(blocks, -1)[mine].flatten())


def append(at: Tokens, count: int) -> Tokens:
    """The `count` tokens that continue the last document of each row, after its largest coordinate on any axis."""
    require(count >= 0, "append.count", "at least 0", count)
    require(at.order.shape[1] > 0, "append.at", "tokens to go on after", "none")
    step = torch.arange(1, count + 1, device=at.order.device)
    newest = torch.where(at.document == PADDING, -1, at.order).argmax(dim=1, keepdim=True)
    document = at.document.gather(1, newest)
    own = torch.where((at.document == document)[..., None], at.position, at.position.amin())
    where = own.amax(dim=(1, 2))[:, None, None] + step[None, :, None]
    order = at.order.amax(dim=1, keepdim=True) + step
    return Tokens(where.expand(-1, -1, at.position.shape[-1]), order, document.expand(-1, count))


def line(at: Tokens, owner: str) -> Tensor:
    """Int[B, T]: the positions along the only axis. Raises ConfigError, naming `owner`, where there are several."""
    axes = at.position.shape[-1]
    require(axes == 1, f"the position that {owner} reads", "along one axis", f"{axes} axes")
    return at.position[..., 0]


def rows(at: Tokens, length: int, owner: str) -> Tensor:
    """Int[B, T]: the positions as row numbers of a table of `length` rows. Raises ConfigError beyond either end."""
    where = whole(line(at, owner), owner)
    # a compiled lookup checks its bounds itself
    if where.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in where.aminmax())
        rule = f"a row of its table, from 0 to {length - 1}"
        require(low >= 0, f"the position that {owner} reads", rule, low)
        require(high < length, f"the position that {owner} reads", rule, high)
    return where


def whole(where: Tensor, owner: str) -> Tensor:
    """The same positions or distances. Raises ConfigError, naming `owner`, unless they are whole numbers."""
    require(not where.is_floating_point(), f"the position that {owner} reads", "a whole number", where.dtype)
    return where


def distance(q_at: Tokens, k_at: Tokens) -> Tensor:
    """Int[B, Q, K]: how far each key lies behind each query; negative where it lies ahead."""
    return line(q_at, "a distance")[:, :, None] - line(k_at, "a distance")[:, None, :]
