"""Attention of documents that follow each other in one row: each is worked on as if it were alone.

Letters: B batch, T tokens.
"""

import torch
from torch import Tensor

from ropewalk.attention.call import Call
from ropewalk.attention.sdpa import in_order
from ropewalk.attention.strips import attend_strips
from ropewalk.sites import Biases, parts
from ropewalk.tokens import select


def side_by_side(call: Call) -> bool:
    """Whether queries and keys are the same tokens, of documents in one run each, in order and, for biases, in line."""
    at = call.k_at
    if at.order.shape[0] != 1 or call.q.shape[2] != call.k.shape[2]:
        return False
    if call.q_at is not at and not all(torch.equal(a, b) for a, b in zip(call.q_at, at, strict=True)):
        return False
    same, fields = at.document[:, 1:] == at.document[:, :-1], [at.order]
    if parts(call.encoding, Biases):
        if at.position.shape[-1] != 1 or at.position.is_floating_point():
            return False
        fields.append(at.position[..., 0])
    steady = [((x[:, 1:] - x[:, :-1] == 1) | ~same).all() for x in fields]
    return bool(torch.stack(steady).all()) and len(at.document.unique()) == int((~same).sum()) + 1


def by_document(call: Call) -> Tensor:
    """[B, H, T, V] of documents side by side, under a causal or bidirectional mask."""
    lengths = call.k_at.document[0].unique_consecutive(return_counts=True)[1].tolist()
    attend = attend_strips if parts(call.encoding, Biases) else in_order
    # the gradient of a split is one concatenation, that of many slices as many rows of zeros
    pieces = zip(*(x.split(lengths, dim=2) for x in call[:3]), strict=True)
    out, start = list[Tensor](), 0
    for (q, k, v), length in zip(pieces, lengths, strict=True):
        at = select(call.k_at, slice(start, start + length))
        out.append(attend(call._replace(q=q, k=k, v=v, q_at=at, k_at=at)))
        start += length
    return torch.cat(out, dim=2)
