"""Attention in two parts against a plain softmax in float64, element by element."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ropewalk.attention.prefix import attend_prefix, visible
from tolerance import tolerance

CPU = torch.device("cpu")
# query heads, key heads, channels of keys, channels of values
SHAPES = [(4, 4, 16, 16), (4, 2, 16, 16), (9, 3, 64, 64), (3, 1, 8, 8), (4, 2, 24, 16), (2, 1, 16, 40)]
PASTS, CHUNKS = (0, 1, 7, 33, 130), (1, 5, 17)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs(shape: tuple[int, ...], past: int, chunk: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """q [1, H, Q, D], k [1, G, K, D] and v [1, G, K, D'] of standard normals."""
    heads, groups, wide, out = shape
    q = drawn(1, heads, chunk, wide, dtype=dtype, seed=1)
    k = drawn(1, groups, past + chunk, wide, dtype=dtype, seed=2)
    return q, k, drawn(1, groups, past + chunk, out, dtype=dtype, seed=3)


def seen_by(chunk: int, past: int, blocks: tuple[int, ...] = (), window: int = 10**9) -> Tensor:
    """Bool[Q, K] pair by pair: which key a query sees; each of `blocks` follows the prefix as if it were alone."""
    edges = [0, *torch.tensor(blocks or (chunk,)).cumsum(0).tolist()]
    block = [i for i, (a, b) in enumerate(pairwise(edges)) for _ in range(a, b)]
    place = [past + n for a, b in pairwise(edges) for n in range(b - a)]
    out = torch.zeros(chunk, past + chunk, dtype=torch.bool)
    for i in range(chunk):
        for j in range(past + chunk):
            at = j if j < past else place[j - past]
            mine = j < past or block[j - past] == block[i]
            out[i, j] = mine and 0 <= place[i] - at < window
    return out


def softmax(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor) -> Tensor:
    """The definition, in float64."""
    k, v = (x.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    logits = q.double() @ k.transpose(-1, -2) * scale
    return logits.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def own_of(*sizes: int) -> Tensor:
    return torch.block_diag(*(torch.ones(n, n).tril() for n in sizes)).bool()


def deviation(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return (found.double() - exact).abs().max().item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_every_element_is_that_of_the_softmax(shape: tuple[int, ...], past: int, chunk: int) -> None:
    q, k, v = inputs(shape, past, chunk)
    found = attend_prefix(q, k, v, 0.3)
    assert found.dtype == torch.float32
    assert deviation(found, softmax(q, k, v, 0.3, seen_by(chunk, past))) <= tolerance(v, terms=shape[2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("blocks", [(3, 1, 5), (1, 1), (2, 9, 4, 1)])
def test_blocks_of_the_chunk_see_the_prefix_and_themselves(
    shape: tuple[int, ...], past: int, blocks: tuple[int, ...]
) -> None:
    q, k, v = inputs(shape, past, sum(blocks))
    found = attend_prefix(q, k, v, 0.3, own_of(*blocks))
    exact = softmax(q, k, v, 0.3, seen_by(sum(blocks), past, blocks))
    assert deviation(found, exact) <= tolerance(v, terms=shape[2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("blocks", [(), (3, 1, 13)])
def test_bfloat16_is_within_its_rounding(shape: tuple[int, ...], past: int, blocks: tuple[int, ...]) -> None:
    """Weights, either part and the result are rounded once each, half a unit of the largest value every time."""
    q, k, v = inputs(shape, past, 17, torch.bfloat16)
    found = attend_prefix(q, k, v, 0.3, own_of(*blocks) if blocks else None)
    assert found.dtype == torch.bfloat16
    assert deviation(found, softmax(q, k, v, 0.3, seen_by(17, past, blocks))) <= tolerance(v) / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_mask_or_scale_would_show(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(shape, 7, 5)
    found = attend_prefix(q, k, v, 0.3)
    future = softmax(q, k, v, 0.3, seen_by(5, 7).roll(1, dims=1) | seen_by(5, 7))
    for wrong in (future, softmax(q, k, v, 0.3, seen_by(5, 7, (2, 3))), softmax(q, k, v, 0.31, seen_by(5, 7))):
        assert deviation(found, wrong) > 100 * tolerance(v, terms=shape[2])


def test_one_part_may_outweigh_the_other_by_far() -> None:
    """The merge of the parts neither overflows nor loses the lighter one."""
    q, k, v = inputs((2, 2, 16, 16), 20, 6)
    for near, far in ((1.0, 40.0), (40.0, 1.0), (60.0, 60.0)):
        scaled = torch.cat((k[:, :, :20] * far, k[:, :, 20:] * near), dim=2)
        exact = softmax(q, scaled, v, 0.3, seen_by(6, 20))
        # logits of this size are themselves rounded: that moves every weight by a share
        logits = (q @ scaled.transpose(-1, -2)) * 0.3
        assert deviation(attend_prefix(q, scaled, v, 0.3), exact) <= tolerance(logits) * v.abs().max().item()


def test_a_view_of_a_larger_cache_gives_the_same_bits() -> None:
    q, k, v = inputs((4, 2, 16, 16), 33, 5)
    expected = attend_prefix(q, k, v, 0.3)
    cache_k, cache_v = (torch.full((1, 2, 64, 16), torch.nan) for _ in range(2))
    cache_k[:, :, 9:47], cache_v[:, :, 9:47] = k, v
    assert torch.equal(attend_prefix(q, cache_k[:, :, 9:47], cache_v[:, :, 9:47], 0.3), expected)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(attend_prefix(*swapped, 0.3), expected)


def test_rows_of_a_batch_are_apart() -> None:
    q, k, v = drawn(3, 4, 5, 16, seed=1), drawn(3, 2, 12, 16, seed=2), drawn(3, 2, 12, 16, seed=3)
    both = attend_prefix(q, k, v, 0.3)
    for i in range(3):
        alone = attend_prefix(q[i : i + 1], k[i : i + 1], v[i : i + 1], 0.3)
        assert deviation(both[i : i + 1], alone.double()) <= tolerance(v)


@pytest.mark.parametrize("past", [0, 1, 5, 12])
@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("blocks", [(), (4, 1, 3), (1, 7)])
def test_visible_pair_by_pair(past: int, window: int | None, blocks: tuple[int, ...]) -> None:
    found = visible(8, past, own_of(*blocks) if blocks else None, CPU, window)
    assert torch.equal(found, seen_by(8, past, blocks, window or 10**9))
