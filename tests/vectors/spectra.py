"""Vectors of one-axis rotary encodings, of their scalings, and of the evaluation's definitions."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.evaluate.metrics.perplexity import by_position, mean, windows
from ropewalk.formats.pairing import inverse, permutation
from ropewalk.scalings import bounds
from ropewalk.scalings.base_change import base_of
from ropewalk.scalings.ramps import index_of, index_range
from ropewalk.scalings.yarn import mscale
from vectors.reading import FLOAT32, FLOAT64, Handlers, Read, tokens

GRID = 0.01  # relative: the coarse search for a base


def rates(p: Read, *scaling: Any, dim: str = "d", base: str = "base") -> list[float]:
    """The rates of a rotary encoding with these scalings."""
    return list(rw.Rotary(p[dim], p[base], scaling).spectrum().inv_freq)


def picked(p: Read, i: Read, *scaling: Any) -> list[float]:
    """The rates of the pairs that the file asks for, all of them where it does not."""
    found = rates(p, *scaling)
    return [found[n] for n in i["i"]] if "i" in i else found


def turned(x: Tensor, encoding: rw.Rotary, position: float) -> Tensor:
    """x [D] as it is at that position."""
    return encoding.rotation({}, tokens(position)).query(x[None, None, None])[0, 0, 0]


def rotated(p: Read, i: Read, pairing: str) -> Tensor:
    encoding = rw.Rotary(p["d"], p["base"], pairing=pairing)
    return turned(i["x"], encoding, i["m"])


def score_shift(p: Read, i: Read) -> list[float]:
    encoding, q, k = rw.Rotary(p["d"], p["base"], pairing="interleaved"), i["q"], i["k"]
    return [float(turned(q, encoding, m) @ turned(k, encoding, n)) for m, n in i["pairs"]]


def rotation_identity(p: Read, i: Read) -> Tensor:
    both = rw.Rotary(2).rotation({}, tokens(p["m"], p["n"])).query(torch.eye(2)[:, None, None].expand(2, 1, 2, 2))
    # row e of the result is the image of unit vector e: the transpose of the matrix
    first, second = both[:, 0, 0], both[:, 0, 1]
    at_m = rw.Rotary(2).rotation({}, tokens(p["m"])).query(torch.eye(2)[:, None, None])[:, 0, 0]
    torch.testing.assert_close(at_m, first, rtol=0, atol=0)
    return first @ second.T


def partial(p: Read, i: Read) -> Tensor:
    assert len(i["x"]) == p["d"]
    return turned(i["x"], rw.Rotary(p["rotary_dim"], p["base"]), p["m"])


def gemma3(p: Read, i: Read) -> list[list[float]]:
    local = rates(p, dim="head_dim", base="local_base")
    whole = rates(p, rw.Linear(p["global_linear_factor"]), dim="head_dim", base="global_base")
    return [[r[n] for n in i["i"]] for r in (local, whole)]


def llama3(p: Read, i: Read) -> list[float]:
    return picked(p, i, rw.Llama3(p["factor"], p["old_context"], p["low_freq_factor"], p["high_freq_factor"]))


def base_under(p: Read, scaling: Any, length: int = 1) -> float | None:
    return base_of(rw.for_length(rw.Rotary(p["d"], p["base"], (scaling,)), length).spectrum())


def dynamic_ntk(p: Read, i: Read) -> list[float | None]:
    rule = rw.DynamicNTK(p["factor"], p["max_position"])
    return [base_under(p, rule, n) for n in i["seq_len"]]


def correction_dims(p: Read, i: Read) -> list[float]:
    spectrum = rw.Rotary(p["d"], p["base"]).spectrum()
    return [index_of(spectrum, p["L"], n) for n in i["rotations"]]


def correction_range(p: Read, i: Read) -> tuple[float, float]:
    spectrum = rw.Rotary(p["d"], p["base"]).spectrum()
    return index_range(spectrum, p["L"], p["beta_fast"], p["beta_slow"], truncate=True)


def yarn(p: Read, i: Read) -> list[float]:
    rule = rw.Yarn(p["s"], p["L"], p["beta_fast"], p["beta_slow"], truncate=p["truncate"])
    return picked(p, i, rule)


def yarn_paper(p: Read, i: Read) -> list[float]:
    ends = (p["s"], p["L"], p["beta"], p["alpha"])
    assert rates(p, rw.Yarn(*ends, ramp="rotations")) == rates(p, rw.NTKByParts(*ends))
    return picked(p, i, rw.NTKByParts(*ends))


def by_parts_v1(p: Read, i: Read) -> list[float]:
    return picked(p, i, rw.NTKByParts(p["s"], p["L"], *p["gamma"], ntk_turns=tuple(p["beta"])))


def deepseek(p: Read, i: Read) -> list[float]:
    rule = rw.Yarn(p["s"], 4096, mscale=p["mscale"], mscale_all_dim=p["mscale_all_dim"])
    return [rule.effective_magnitude(), rule.softmax_factor() / math.sqrt(p["head_dim"])]


def dynamic_yarn(p: Read, i: Read) -> list[float]:
    return picked(p, i, rw.DynamicYarn(p["L"]).at(p["seq_len"]))


def longrope(p: Read, i: Read) -> list[list[float]]:
    rule = rw.LongRope(tuple(p["short_factor"]), tuple(p["long_factor"]), p["original"])
    return [rates(p, rule.at(n)) for n in i["seq_len"]]


def longrope_magnitude(p: Read, i: Read) -> list[float]:
    return [rw.LongRope((1.0,), (1.0,), p["original"], s).at(1).magnitude for s in i["factor"]]


def longrope_first(p: Read, i: Read) -> Tensor:
    encoding = rw.Rotary(p["d"], p["base"], (rw.Rescale(tuple(p["long_factor"])),), unscaled=p["n_hat"])
    return encoding.angle(tokens(*i["positions"]))[0]


def first_negative(p: Read, i: Read) -> list[float]:
    at = bounds.first_negative(rates(p), below=10**6)
    assert at is not None
    return [at, bounds.score_gap(rates(p), at)]


def window_plan(p: Read, i: Read) -> list[list[int]]:
    plan = windows(p["N"], p["L"], p["S"] if "S" in p else p["L"])
    return [[w.begin, w.end, w.end - w.scored] for w in plan]


def two_means(p: Read, i: Read) -> list[float]:
    """The perplexity of all tokens, and what the mean of the windows' own means would give instead."""
    losses, plan = i["nll"].numpy(), list(windows(p["N"], p["L"], p["S"]))
    scored = [losses[w.scored : w.end] for w in plan]
    each = [mean(part).loss for part in scored]
    return [mean(np.concatenate(scored)).perplexity, math.exp(sum(each) / len(each))]


def position_blocks(p: Read, i: Read) -> list[float]:
    # a loss of the file stands at the position that predicts, ours at the token that is predicted
    blocks = by_position(i["nll"].numpy(), [edge + 1 for edge in p["edges"]])
    return [block.loss for block in blocks if block]


HANDLERS: Handlers = {
    "rope_inv_freq": (picked, FLOAT64),
    "rope_interleaved_m": (lambda p, i: rotated(p, i, "interleaved"), FLOAT32),
    "rope_half_m": (lambda p, i: rotated(p, i, "half"), FLOAT32),
    "rope_layout_permutation": (lambda p, i: permutation(p["d"]), 0),
    "rope_layout_permutation_inverse": (lambda p, i: inverse(permutation(p["d"])), 0),
    "rope_score_shift": (score_shift, FLOAT32),
    "rotation_identity": (rotation_identity, FLOAT32),
    "rope_partial_half": (partial, FLOAT32),
    "p_rope_inv_freq": (lambda p, i: rates(p, rw.Proportional(p["p"])), FLOAT64),
    "gemma3_dual_base": (gemma3, FLOAT64),
    "llama3_inv_freq": (llama3, FLOAT64),
    "pi_inv_freq": (lambda p, i: rates(p, rw.Linear(p["s"])), FLOAT64),
    "ntk_aware_base": (lambda p, i: [base_under(p, rw.NTK(s)) for s in i["s"]], FLOAT64),
    "ntk_aware_inv_freq": (lambda p, i: rates(p, rw.NTK(p["s"])), FLOAT64),
    "dynamic_ntk_base": (dynamic_ntk, FLOAT64),
    "ntk_su_old_inv_freq": (lambda p, i: rates(p, rw.RadixNTK(p["k"], "old")), FLOAT64),
    "ntk_su_fixed_inv_freq": (lambda p, i: rates(p, rw.RadixNTK(p["k"], "fixed")), FLOAT64),
    "ntk_su_mixed_inv_freq": (lambda p, i: rates(p, rw.RadixNTK(p["k"], exponent=p["b"])), FLOAT64),
    "yarn_correction_dims": (correction_dims, FLOAT64),
    "yarn_correction_range": (correction_range, 0),
    "yarn_inv_freq": (yarn, FLOAT64),
    "yarn_paper_inv_freq": (yarn_paper, FLOAT64),
    "ntk_by_parts_v1_inv_freq": (by_parts_v1, FLOAT64),
    "yarn_mscale": (lambda p, i: [mscale(s) for s in i["s"]], FLOAT64),
    "yarn_mscale_deepseek": (deepseek, FLOAT64),
    "dynamic_yarn_inv_freq": (dynamic_yarn, FLOAT64),
    "longrope_inv_freq": (longrope, FLOAT64),
    "longrope_attention_factor": (longrope_magnitude, FLOAT64),
    "longrope_position_nhat": (longrope_first, FLOAT64),
    "critical_dimension": (lambda p, i: [bounds.critical_dimension(p["d"], p["T_train"], p["base"])], 0),
    "scaling_law_T_extra": (
        lambda p, i: [bounds.extrapolation_length(p["d"], p["d_extra"], b) for b in i["base"]],
        FLOAT64,
    ),
    "scaling_law_critical_base": (
        lambda p, i: [bounds.critical_base(p["T_train"], n) for n in i["T_tune"]],
        FLOAT64,
    ),
    "scaling_law_small_bases": (lambda p, i: [bounds.small_bases(n) for n in i["T_tune"]], FLOAT64),
    "rope_base_Bsum": (lambda p, i: [bounds.score_gap(rates(p), m) for m in i["m"]], FLOAT64),
    "rope_base_first_negative": (first_negative, FLOAT64),
    "ppl_windows_": (window_plan, 0),
    "ppl_token_vs_window_mean": (two_means, FLOAT64),
    "loss_per_position_bucket": (position_blocks, FLOAT64),
    # the note of the vector: three rounds of the scan
    "rope_base_lower_bound_coarse": (
        lambda p, i: [bounds.base_lower_bound(p["d"], n, rounds=3) for n in i["L"]],
        GRID,
    ),
}
