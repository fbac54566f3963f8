"""Who takes part in attention with a bias: each has its own way to bring a cost per distance into causal attention.

Letters: H query heads, G key heads, T tokens, D head channels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.attention.attend import attend
from ropewalk.bench.case import FORWARD, Problem, memory
from ropewalk.bench.contestants import Absent, Contestant, Op, loaded
from ropewalk.bench.formula import bias, slopes
from ropewalk.encodings.bias.alibi import Alibi
from ropewalk.encodings.bias.kerple import KerpleLog
from ropewalk.encodings.bias.t5 import T5

ENCODINGS: dict[str, Callable[[int], Any]] = {"alibi": Alibi, "t5": T5, "kerple": KerpleLog}
COPIES = 4  # of a dense mask that stand side by side while it is made


def sdpa(given: Problem) -> Op:
    """Causal attention without any bias."""
    grouped = given.case.heads != given.case.kv_heads
    return lambda q, k, v: (F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped),)


def ours(given: Problem) -> Op:
    """The function that users call."""
    encoding, at, w = ENCODINGS[given.case.bias](given.case.heads), given.at, given.weights
    return lambda q, k, v: (attend(q, k, v, encoding, w, at, at),)


def dense(cached: bool) -> Callable[[Problem], Op]:
    """A mask [H, T, T] with the bias in it, made in every call or once before."""

    def prepare(given: Problem) -> Op:
        case = given.case
        if cached and given.weights and case.stage != FORWARD:
            raise Absent("a mask that is kept passes no gradient on to what the bias has learned")
        afford(case.heads * case.length**2 * 4 * COPIES, case.device)
        grouped = case.heads != case.kv_heads
        kept = mask(given).detach() if cached else None

        def masked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
            now = mask(given) if kept is None else kept
            return (F.scaled_dot_product_attention(q, k, v, attn_mask=now, enable_gqa=grouped),)

        return masked

    return prepare


def mask(given: Problem) -> Tensor:
    """[1, H, T, T] in the dtype of the inputs: the bias in float32, minus infinity for keys ahead."""
    where = given.at.position[0, :, 0]
    back = where[:, None] - where
    found = bias(given.case.bias, learned(given), back.float())
    return found.masked_fill(back < 0, -math.inf).to(given.dtype)[None]


def learned(given: Problem) -> dict[str, Tensor]:
    """The numbers of the bias, ALiBi's slopes among them."""
    return {**given.weights, "slopes": slopes(given.case.heads).to(given.case.device)}


def afford(size: int, device: str) -> None:
    """Raise Absent if `size` bytes are more than half of the memory there is."""
    total = memory(device)
    if size > total / 2:
        raise Absent(f"would take {size / 1e9:.0f} GB of {total / 1e9:.0f} GB of memory")


def flex(given: Problem) -> Op:
    """FlexAttention, compiled, with a table [H, T] by distance made in every call, and a block mask made before."""
    module, case = loaded("torch.nn.attention.flex_attention"), given.case
    costs = learned(given)
    back = (given.at.position[0, :, 0] - case.first).float()  # every distance there is
    # keys ahead are read only in the blocks on the diagonal
    seen = module.create_block_mask(lambda b, h, i, j: i >= j, None, None, case.length, case.length, device=case.device)
    grouped = case.heads != case.kv_heads

    def scored(q: Tensor, k: Tensor, v: Tensor, numbers: Tensor) -> tuple[Tensor]:
        def by_slope(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score - numbers[h] * (i - j)

        def by_table(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + numbers[h, (i - j).clamp(min=0)]

        score = by_slope if case.bias == "alibi" else by_table
        return (module.flex_attention(q, k, v, score_mod=score, block_mask=seen, enable_gqa=grouped),)

    compiled = torch.compile(scored, dynamic=False)
    if case.bias == "alibi":
        slope = costs["slopes"].float()
        return lambda q, k, v: compiled(q, k, v, slope)
    # the table is made outside of what is compiled, which on a CPU cannot take it from the same graph
    return lambda q, k, v: compiled(q, k, v, bias(case.bias, costs, back))


ATTEND: tuple[Contestant, ...] = (
    Contestant("causal SDPA", sdpa, limit=True, plain=True),
    Contestant("ropewalk", ours),
    Contestant("dense mask per call", dense(cached=False)),
    Contestant("dense mask cached", dense(cached=True)),
    Contestant("FlexAttention", flex, compiled=True),
)
