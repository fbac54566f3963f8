"""x-transformers 2.31 and rotary-embedding-torch 0.9, where they are right: float32, from position 0, small rows.

They are not compared where they are known to be off: both count positions in the dtype of a buffer or of what is
rotated, so that positions merge in bfloat16, and rotary-embedding-torch keeps a table whose key leaves the base out.
Both make float32 angles, which are off by up to eps * position; every tolerance here is that bound.
Letters: B batch, H heads, T tokens, D channels.
"""

from typing import Any

import pytest
import rotary_embedding_torch as ret
import torch
import x_transformers.x_transformers as xt
from torch import Tensor

import ropewalk as rw

HEADS, LENGTH, DIM = 6, 200, 32
EPS = torch.finfo(torch.float32).eps
ANGLES = 4 * LENGTH * EPS  # radians by which float32 angles may be off, four units at the last position


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor, unit: float = ANGLES) -> None:
    found, expected = found.detach(), expected.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=unit * float(expected.abs().max()))


RULES = [
    ({}, {}, ()),
    ({"interpolation_factor": 4.0}, {"interpolate_factor": 4.0}, (rw.Linear(4.0),)),
    ({"base_rescale_factor": 4.0}, {"theta_rescale_factor": 4.0}, (rw.NTK(4.0),)),
]


@pytest.mark.parametrize(("theirs", "_", "scaling"), RULES)
def test_rotary_of_x_transformers(theirs: dict[str, float], _: Any, scaling: tuple[Any, ...]) -> None:
    x = draws(1, HEADS, LENGTH, DIM + 8)
    angles, scale = xt.RotaryEmbedding(DIM, **theirs).forward_from_seq_len(LENGTH)
    ours = rw.Rotary(DIM, scaling=scaling, pairing="interleaved").rotation({}, rw.contiguous(LENGTH)).query(x)
    near(ours, xt.apply_rotary_pos_emb(x, angles, scale))


@pytest.mark.parametrize(("_", "theirs", "scaling"), RULES)
def test_rotary_of_rotary_embedding_torch(_: Any, theirs: dict[str, float], scaling: tuple[Any, ...]) -> None:
    x = draws(1, HEADS, LENGTH, DIM + 8)
    ours = rw.Rotary(DIM, scaling=scaling, pairing="interleaved").rotation({}, rw.contiguous(LENGTH)).query(x)
    near(ours, ret.RotaryEmbedding(DIM, **theirs).rotate_queries_or_keys(x).detach())


def test_axial_rotary_of_rotary_embedding_torch() -> None:
    x, (height, width) = draws(1, HEADS, 5 * 7, DIM), (5, 7)
    angles = ret.RotaryEmbedding(DIM // 2).get_axial_freqs(height, width).flatten(0, 1)
    encoding = rw.Rotary(DIM, pairing="interleaved", sections=(DIM // 4, DIM // 4), rates="own")
    where = torch.cartesian_prod(rw.contiguous(height).order[0], rw.contiguous(width).order[0])[None]
    at = rw.contiguous(height * width)._replace(position=where)
    near(encoding.rotation({}, at).query(x), ret.apply_rotary_emb(angles, x).detach())


@pytest.mark.parametrize("library", ["x-transformers", "rotary-embedding-torch"])
def test_xpos_scores(library: str) -> None:
    q, k = draws(2, 1, HEADS, LENGTH, DIM).unbind()
    if library == "x-transformers":
        angles, scale = xt.RotaryEmbedding(DIM, use_xpos=True).forward_from_seq_len(LENGTH)
        theirs = xt.apply_rotary_pos_emb(q, angles, scale) @ xt.apply_rotary_pos_emb(k, angles, scale**-1).mT
    else:
        turned = ret.RotaryEmbedding(DIM, use_xpos=True).rotate_queries_and_keys(q, k)
        theirs = (turned[0] @ turned[1].mT).detach()
    at, encoding = rw.contiguous(LENGTH), rw.XPos(DIM, pairing="interleaved")
    seen = rw.masks.causal(at, at)[0]
    near(rw.logits(q, k, encoding, {}, at, at, 1.0)[..., seen], theirs[..., seen])


@pytest.mark.parametrize("heads", [8, 12, 6, 5])
def test_alibi_of_x_transformers(heads: int) -> None:
    at = rw.contiguous(LENGTH)
    # slopes are powers that Python rounds once; the product with the distance is rounded again
    near(rw.Alibi(heads).bias({}, at, at)[0], xt.AlibiPositionalBias(heads)(LENGTH, LENGTH), 4 * EPS)


@pytest.mark.parametrize("causal", [True, False])
def test_t5_of_x_transformers(causal: bool) -> None:
    theirs = xt.RelativePositionBias(scale=1.0, causal=causal, heads=HEADS)
    at, w = rw.contiguous(LENGTH), {"t5_bias": theirs.relative_attention_bias.weight}
    assert torch.equal(rw.T5(HEADS, bidirectional=not causal).bias(w, at, at)[0], theirs(LENGTH, LENGTH))


def test_cope_of_x_transformers() -> None:
    q, k = draws(2, 1, HEADS, LENGTH, DIM).unbind()
    theirs = xt.CoPE(DIM, HEADS, max_pos=16)
    theirs.pos_emb.data = draws(16, DIM, seed=1)
    at = rw.contiguous(LENGTH)
    ahead = ~rw.masks.causal(at, at)
    plain = (q @ k.mT * DIM**-0.5).masked_fill(ahead, -torch.finfo(torch.float32).max)
    found = rw.Cope(DIM, positions=16).logits({"cope": theirs.pos_emb}, q, k, at, at)
    # counts are sums of up to T gates, and the interpolation has the slope of neighbouring rows
    near(found[..., ~ahead[0]], (plain + theirs(q, plain))[..., ~ahead[0]], LENGTH * EPS)
