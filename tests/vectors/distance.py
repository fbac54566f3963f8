"""Vectors of contextual counts, of factors after the softmax, of temperatures, distance rules and position warps."""

from typing import Any

import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.masks import bidirectional, causal
from vectors.reading import FLOAT32, FLOAT64, Handlers, Read, tokens

Rows = list[list[Any]]


def triangle(x: Tensor) -> Rows:
    """Each row of [T, T] up to the diagonal."""
    return [row[: t + 1] for t, row in enumerate(x.tolist())]


def distances(e: Any, p: Read) -> Rows:
    """The effective distance of every key that is not later, -1 where the encoding hides it."""
    at = rw.contiguous(p["T"])
    d = e.effective(at, at)
    return triangle((torch.where(e.visible(at, at), d, -1) if hasattr(e, "visible") else d)[0])


def effective(e: Any, i: Read) -> Tensor:
    """The effective distances of a list of distances."""
    return e.effective(tokens(*i["distance"]), tokens(0))[0, :, 0]


def cope(p: Read, i: Read) -> tuple[rw.Cope, Tensor, Tensor, rw.Tokens]:
    """The encoding, its queries, its counts, and where they stand."""
    e, at = rw.Cope(p["d"], p["npos_max"]), rw.contiguous(p["T"])
    q, k = i["q"][None, None], i["k"][None, None]
    return e, q, e.counts(rw.logits(q, k, (), {}, at, at), at, at), at


def cope_positions(p: Read, i: Read) -> Rows:
    return triangle(cope(p, i)[2][0, 0])


def cope_bias(p: Read, i: Read) -> Rows:
    e, q, count, at = cope(p, i)
    w, k = {"cope": i["e"]}, i["k"][None, None]
    added = e.of_count(w, q, count)
    torch.testing.assert_close(rw.logits(q, k, e, w, at, at), rw.logits(q, k, (), {}, at, at) + added)
    return triangle(added[0, 0])


def urpe(p: Read, i: Read) -> Tensor:
    factors, reach, at = p["g"], max(map(int, p["g"])), rw.contiguous(p["T"])
    # nobody looks ahead here: a factor for keys ahead would show
    table = [99.0] * reach + [factors[str(d)] for d in range(reach + 1)]
    s = i["logits"][None, None].masked_fill(~causal(at, at)[:, None], -torch.inf)
    w = {"urpe": torch.tensor([table], dtype=torch.float64)}
    return rw.Urpe(1, reach).values(w, s.softmax(-1), i["v"][None, None], at, at)[0, 0]


def uniform(e: Any, w: dict[str, Tensor], length: int, mask: Any) -> Tensor:
    """What attention makes of tokens that are all 0 and whose values are all 1."""
    at, same = rw.contiguous(length), torch.zeros(1, 1, length, 2, dtype=torch.float64)
    return rw.attend(same, same, same[..., :1] + 1, e, w, at, at, mask)[0, 0, :, 0]


def constant_input(p: Read, i: Read) -> Tensor:
    assert i["x"].startswith("all tokens equal")
    at, same = rw.contiguous(p["T"]), torch.ones(1, 1, p["T"], 16, dtype=torch.float64)
    e = (rw.Rotary(16), rw.Alibi(1))
    return rw.attend(same, same, same[..., :1], e, {}, at, at, bidirectional)[0, 0, :, 0]


def step_factors(p: Read, i: Read) -> Tensor:
    """The factors are text such as "n for i-j>=0 else 0"."""
    n = p["n"]
    rule = compile(p["g"].replace(" for ", " if "), "g", "eval")
    factors = [float(eval(rule, {"n": n, "i": d, "j": 0})) for d in range(1 - n, n)]
    w = {"urpe": torch.tensor([factors], dtype=torch.float64)}
    return uniform(rw.Urpe(1, n - 1), w, n, bidirectional)


def logn(p: Read, i: Read) -> Tensor:
    # the file counts queries from 1
    return rw.LogN(p["L_train"]).scale(tokens(*(n - 1 for n in i["n"])))[0]


def llama4(p: Read, i: Read) -> Tensor:
    return rw.Temperature(p["floor_scale"], p["attn_scale"]).scale(tokens(*i["pos"]))[0]


def rerope_score(p: Read, i: Read) -> list[float]:
    e, q, k = rw.ReRope(rw.Rotary(p["d"], p["base"]), p["w"]), i["q"], i["k"]
    s = e.logits({}, q[None, None, None], k[None, None, None], tokens(p["i"]), tokens(p["j"]))
    # the file has the score before it is scaled
    return [float(s) * p["d"] ** 0.5]


def dual_chunk_code(p: Read, i: Read) -> Rows:
    window, chunk = p["chunk_size"], p["chunk_len"]
    return distances(rw.DualChunk(rw.Rotary(2), window, chunk, window - chunk, "code"), p)


def streaming(p: Read, i: Read) -> list[Rows]:
    """[the tokens of the text that are in the cache, their slots] as one token after the other arrives."""
    rule, cache, steps = rw.Streaming(p["start_size"], p["recent_size"]), rw.contiguous(0), []
    for step in range(p["steps"]):
        cache = rw.Tokens(*(torch.cat(x, dim=1) for x in zip(cache, rw.contiguous(1, step), strict=True)))
        slots = rule(cache).position[0, :, 0]
        cache = rw.select(cache, rule.kept(cache)[0])
        steps.append([cache.position[0, :, 0].tolist(), slots.tolist()])
    return steps


def not_relative(p: Read, i: Read) -> list[float]:
    rule = rw.Piecewise(p["L"], p["alpha"])
    ends = [rule(tokens(*pair)).position[0, :, 0] for pair in p["pairs"]]
    return [float(last - first) for first, last in ends]


HANDLERS: Handlers = {
    "cope_positions": (cope_positions, FLOAT64),
    "cope_bias": (cope_bias, FLOAT64),
    "urpe": (urpe, FLOAT64),
    "su_probe_constant_input": (constant_input, FLOAT64),
    "su_probe_causal_softmax_only": (lambda p, i: uniform((), {}, p["n"], causal), FLOAT64),
    "su_probe_urpe_toeplitz": (step_factors, FLOAT64),
    "logn_scale": (logn, FLOAT64),
    "llama4_attn_temperature": (llama4, FLOAT64),
    "rerope_distance": (lambda p, i: effective(rw.ReRope(rw.Rotary(2), p["w"]), i), 0),
    "leaky_rerope_distance": (lambda p, i: effective(rw.LeakyReRope(rw.Rotary(2), p["w"], p["k"]), i), FLOAT64),
    "rerope_score": (rerope_score, FLOAT32),
    "self_extend_distance": (lambda p, i: distances(rw.SelfExtend(rw.Rotary(2), p["W"], p["G"]), p), 0),
    "dca_distance_paper": (lambda p, i: distances(rw.DualChunk(rw.Rotary(2), p["c"], p["s"], p["w"]), p), 0),
    "dca_distance_code": (dual_chunk_code, 0),
    "lm_infinite": (lambda p, i: distances(rw.LMInfinite(rw.Rotary(2), p["n_local"], p["n_global"]), p), 0),
    "streaming_llm_cache": (streaming, 0),
    "warp_piecewise": (lambda p, i: rw.Piecewise(p["L"], p["alpha"])(tokens(*i["m"])).position[0, :, 0], FLOAT64),
    "warp_segment_saturating": (
        lambda p, i: rw.Saturating(p["L"], p["alpha"])(tokens(*i["m"])).position[0, :, 0],
        FLOAT64,
    ),
    "warp_power": (lambda p, i: rw.Power(p["L"], p["beta"])(tokens(*i["m"])).position[0, :, 0], FLOAT64),
    "warp_not_relative": (not_relative, FLOAT64),
}
