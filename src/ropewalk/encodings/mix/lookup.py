"""From a distance to a row of a table, and from a score per row to one per pair of tokens.

Letters: B batch, H heads, Q queries, K keys, N rows.
"""

import math

import torch
from torch import Tensor


def pick(of_row: Tensor, row: Tensor) -> Tensor:
    """[B, H, Q, K]: of the scores of a query with every row, [B, H, Q, N], that of the row which each key takes.

    `row` is Int64[B, Q, K], or [1, Q, K] for all of the batch.
    """
    return of_row.gather(-1, row[:, None].expand(*of_row.shape[:3], -1))


def rel_shift(of_row: Tensor, keys: int) -> Tensor:
    """[..., Q, K]: the same for K consecutive keys, of which the queries are the last, without looking anything up.

    Columns of `of_row` [..., Q, N] are distances that fall by one: K, K - 1 ... in XLNet; K - 1 ... 0, so N is K, in
    Transformer-XL, where what is then left for the keys ahead of a query has no meaning.
    """
    if of_row.shape[-1] == keys:
        of_row = torch.nn.functional.pad(of_row, (1, 0))
    *front, queries, columns = of_row.shape
    # rows one column shorter: each starts one further to the left than the row before
    folded = of_row.reshape(*front, columns, queries)[..., 1:, :]
    return folded.reshape(*front, queries, columns - 1)[..., :keys]


def log_bucket(d: Tensor, middle: int, span: int) -> Tensor:
    """Int64, like d: distances up to `middle` as they are; further ones share buckets that widen up to `span`."""
    turns = (d.abs().clamp(min=middle).double() / middle).log() / math.log((span - 1) / middle)
    # the slack keeps what is a whole number but for rounding out of the next bucket
    shared = (turns * (middle - 1) - 1e-9).ceil().long() + middle
    return torch.where(d.abs() <= middle, d, d.sign() * shared)
