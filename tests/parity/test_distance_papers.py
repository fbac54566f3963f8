"""Distance rules against loops over pairs of tokens, and temperatures against transformers.

The loops are written from the papers in plain Python: they turn one query and one key at a time, with angles of their
own, by the positions that the paper gives them.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextAttention
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

import ropewalk as rw
from tolerance import tolerance

DIM, BASE, LENGTH = 8, 100.0, 23
Places = Callable[[int, int], tuple[float, float]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(x: list[float], position: float) -> list[float]:
    """x with each of its halves' pairs turned by position / base ** (2 c / d)."""
    out = list(x)
    for c in range(DIM // 2):
        angle = position / BASE ** (2 * c / DIM)
        first, second = x[c], x[c + DIM // 2]
        out[c] = first * math.cos(angle) - second * math.sin(angle)
        out[c + DIM // 2] = first * math.sin(angle) + second * math.cos(angle)
    return out


def looped(places: Places, q: Tensor, k: Tensor) -> Tensor:
    """[T, T]: the logits of all keys that are not later, 0 for the others."""
    s = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    for i in range(LENGTH):
        for j in range(i + 1):
            at_i, at_j = places(i, j)
            pairs = zip(turned(q[i].tolist(), at_i), turned(k[j].tolist(), at_j), strict=True)
            s[i, j] = sum(a * b for a, b in pairs) / math.sqrt(DIM)
    return s


def rerope(i: int, j: int) -> tuple[float, float]:
    return (i, j) if i - j < 5 else (5, 0)


def leaky(i: int, j: int) -> tuple[float, float]:
    return (i, j) if i - j < 5 else ((i - 5) / 3 + 5, j / 3)


def self_extend(i: int, j: int) -> tuple[float, float]:
    return (i, j) if i - j < 7 else (math.floor(i / 3) + 7 - math.floor(7 / 3), math.floor(j / 3))


def self_extend_released(i: int, j: int) -> tuple[float, float]:
    return (i, j) if i - j < 7 else (i // 3 + (7 - 7 / 3), j // 3)


def lm_infinite(i: int, j: int) -> tuple[float, float]:
    return (i, j) if i - j <= 6 else (6, 0)


def dual_chunk(i: int, j: int) -> tuple[float, float]:
    """Equations 2, 5 and 7 with s = 6, c = 11, w = 3."""
    s, c, w = 6, 11, 3
    chunks_apart, key = i // s - j // s, j % s
    if chunks_apart == 0:
        return i % s, key
    if chunks_apart == 1:
        return (s + i % s if i % s < w else c - 1), key
    return c - 1, key


def dual_chunk_released(i: int, j: int) -> tuple[float, float]:
    """Tables of positions, as the released code lays them out for a trained length of 16."""
    window, local = 12, 2
    chunk = window - local
    own = list(range(chunk))
    before = [min(place + chunk, window) for place in own]
    table = {0: own, 1: before}.get(i // chunk - j // chunk, [before[-1]] * chunk)
    return table[i % chunk], j % chunk


def dual_chunk_of_small_chunks(i: int, j: int) -> tuple[float, float]:
    """The same tables where two chunks do not fill the window."""
    own, before = range(4), [min(place + 4, 11) for place in range(4)]
    table = {0: own, 1: before}.get(i // 4 - j // 4, [before[-1]] * 4)
    return table[i % 4], j % 4


ROTARY = rw.Rotary(DIM, BASE)
RULES = [
    (rw.ReRope(ROTARY, 5), rerope),
    (rw.LeakyReRope(ROTARY, 5, 3.0), leaky),
    (rw.SelfExtend(ROTARY, 7, 3), self_extend),
    (rw.SelfExtend(ROTARY, 7, 3, "code"), self_extend_released),
    (rw.LMInfinite(ROTARY, 6), lm_infinite),
    (rw.DualChunk(ROTARY, 11, 6, 3), dual_chunk),
    (rw.DualChunk.trained_on(ROTARY, 16, "code"), dual_chunk_released),
    (rw.DualChunk(ROTARY, 11, 4, 7, "code"), dual_chunk_of_small_chunks),
]


@pytest.mark.parametrize(("encoding", "places"), RULES, ids=lambda x: getattr(x, "__name__", ""))
def test_logits_equal_a_loop_over_pairs(encoding: rw.ReRope, places: Places) -> None:
    q, k = drawn(2, LENGTH, DIM)
    at = rw.contiguous(LENGTH)
    found = encoding.logits({}, q[None, None], k[None, None], at, at)[0, 0].tril()
    expected = looped(places, q, k)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected.float(), DIM))
    # a rule that did nothing would be seen
    assert (found - looped(lambda i, j: (i, j), q, k)).abs().max() > 0.1


@pytest.mark.parametrize(("encoding", "places"), RULES[5:], ids=lambda x: getattr(x, "__name__", ""))
def test_dual_chunks_equal_the_three_partial_softmaxes_of_the_paper_merged(
    encoding: rw.DualChunk, places: Places
) -> None:
    q, k, v = drawn(3, 1, 1, LENGTH, DIM, seed=1)
    at = rw.contiguous(LENGTH)
    s = looped(places, q[0, 0], k[0, 0])
    outputs, weights = [], []
    chunk = torch.tensor([t // encoding.chunk for t in range(LENGTH)])
    apart = chunk[:, None] - chunk
    for part in (apart == 0, apart == 1, apart > 1):
        exp = s.exp() * part.tril()
        outputs.append(exp @ v[0, 0])
        weights.append(exp.sum(-1, keepdim=True))
    expected = sum(outputs) / sum(weights)
    found = rw.attend(q, k, v, encoding, {}, at, at)[0, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(v.float(), DIM))


@pytest.mark.parametrize(("floor", "strength"), [(8192, 0.1), (7, 0.25)])
def test_temperature_of_ministral(floor: int, strength: float) -> None:
    at = rw.contiguous(20 * floor if floor < 100 else 40_000)
    scale = get_llama_4_attn_scale(at.position[..., 0], strength, floor)[:, 0, :, 0]
    found = rw.Temperature(floor, strength, start=0).rotation({}, at).scale
    torch.testing.assert_close(found, scale, rtol=0, atol=4 * torch.finfo(torch.float32).eps)


def test_temperature_in_a_layer_of_llama_4() -> None:
    config = Llama4TextConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=DIM,
        num_hidden_layers=4,
        floor_scale=4,
        attn_scale=0.5,
        attn_temperature_tuning=True,
        attn_implementation="eager",
    )
    layer = Llama4TextAttention(config, layer_idx=3).double().eval()
    assert not layer.use_rope
    torch.nn.init.normal_(layer.q_proj.weight, generator=torch.Generator().manual_seed(0))
    x, at = drawn(2, LENGTH, 32, seed=2), rw.contiguous(LENGTH, batch=2)
    hidden = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        expected, weights = layer(x, None, hidden)
        q, k, v = (p(x).unflatten(-1, (-1, DIM)).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        found = rw.attend(q, k, v, rw.Temperature(4, 0.5), {}, at, at)
        found = layer.o_proj(found.transpose(1, 2).flatten(2))
    # both sides hold the factors in float32
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected.float(), LENGTH))
    assert (found - layer.o_proj(plain(q, k, v, at))).abs().max() > 1e-3
    assert weights is not None


def plain(q: Tensor, k: Tensor, v: Tensor, at: rw.Tokens) -> Tensor:
    return rw.attend(q, k, v, (), {}, at, at).transpose(1, 2).flatten(2)
