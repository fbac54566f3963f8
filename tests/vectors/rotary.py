"""Vectors of rotary encodings with several axes, learned rates, decay or dense generators, and of linear attention."""

from typing import Any

import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.attention import linear
from ropewalk.encodings.rotary.axes import axis_of_pair
from ropewalk.scalings import bounds
from vectors.reading import FLOAT32, FLOAT64, Handler, Handlers, Read

Weights = dict[str, Tensor]


def spot(*coordinates: float) -> rw.Tokens:
    """One token at these coordinates."""
    order = torch.zeros(1, 1, dtype=torch.int64)
    return rw.Tokens(torch.tensor([[coordinates]], dtype=torch.float64), order, order)


def turned(x: Tensor, encoding: Any, w: Weights, at: rw.Tokens) -> Tensor:
    """Each row of x [..., D] as it is at that one token."""
    return encoding.rotation(w, at).query(x.reshape(1, -1, 1, x.shape[-1])).reshape(x.shape)


def matrix(encoding: Any, w: Weights, at: rw.Tokens) -> Tensor:
    """[D, D]: what multiplies a column at that token."""
    return turned(torch.eye(encoding.dim, dtype=torch.float64), encoding, w, at).T


def axial(axes: int, **fields: Any) -> Handler:
    """The rotation of `x` at `pos`, the axes sharing the pairs evenly."""

    def compute(p: Read, i: Read) -> Tensor:
        shares = tuple(len(range(axis, p["d"] // 2, axes)) for axis in range(axes))
        return turned(i["x"], rw.Rotary(p["d"], p["base"], sections=shares, **fields), {}, spot(*p["pos"]))

    return compute


def mrope(layout: str) -> Handler:
    def compute(p: Read, i: Read) -> Tensor:
        e = rw.Rotary(p["d"], p["base"], sections=tuple(p["mrope_section"]), layout=layout)
        return turned(i["x"], e, {}, spot(*p["pos"]))

    return compute


def axes(layout: str) -> Handler:
    def compute(p: Read, i: Read) -> tuple[int, ...]:
        sections = tuple(p["mrope_section"])
        return axis_of_pair(rw.Rotary(2 * sum(sections), sections=sections, layout=layout))

    return compute


def mixed_rates(p: Read, encoding: rw.RotaryMixed) -> Tensor:
    return encoding.rates(torch.tensor([[p["angle"]]], dtype=torch.float64))


def mixed_init(p: Read, i: Read) -> Tensor:
    return mixed_rates(p, rw.RotaryMixed(p["d"], 1, p["theta"]))[:, 0]


def mixed_apply(p: Read, i: Read) -> Tensor:
    encoding = rw.RotaryMixed(p["d"], 1, p["theta"])
    w = {"mixed_rates": mixed_rates(p, encoding)}
    return encoding.rotation(w, spot(*p["pos"])).query(i["x"][None, None, None])[0, 0, 0]


def above(*generators: Tensor) -> Tensor:
    """What stands above the diagonals."""
    row, column = torch.triu_indices(*generators[0].shape, offset=1)
    return torch.stack([g[row, column] for g in generators])


def lie_expm(p: Read, i: Read) -> Tensor:
    return matrix(rw.LieRotary(p["n"], axes=1), {"lie_generators": above(i["A"])[:, None, None]}, spot(1.0))


def lie_defect(p: Read, i: Read) -> list[float]:
    encoding = rw.LieRotary(len(i["A1"]))
    w = {"lie_generators": above(i["A1"], i["A2"])[:, None, None]}
    here, there = (torch.tensor(p[name], dtype=torch.float64) for name in ("x", "y"))
    x, y, apart = (matrix(encoding, w, spot(*at.tolist())) for at in (here, there, there - here))
    first, second = encoding.generators(w)[:, 0, 0]
    return [float((x.T @ y - apart).norm()), float((first @ second - second @ first).norm())]


def cayley(p: Read, i: Read) -> Tensor:
    rates = torch.tensor(p["freqs"], dtype=torch.float64)
    encoding = rw.CayleyString(len(i["S"]), axes=len(rates))
    w = {"cayley_skew": above(i["S"])[0], "cayley_rates": rates}
    # what multiplies a column, in the basis, is the rotation after the basis; the way back is not applied
    return encoding.basis(w) @ matrix(encoding, w, spot(*p["pos"]))


def xpos_score(p: Read, i: Read) -> list[float]:
    encoding, q, k = rw.XPos(p["d"], scale_base=p["scale_base"], pairing="interleaved"), i["q"], i["k"]
    here, there = ((p["m"] + shift, p["n"] + shift) for shift in (0, 500))
    q, k = q[None, None, None], k[None, None, None]
    return [float(rw.logits(q, k, encoding, {}, spot(m), spot(n), 1.0)) for m, n in (here, there)]


def linear_attention(p: Read, i: Read) -> Tensor:
    encoding = rw.Rotary(p["d"], p["base"], pairing="interleaved")
    qkv, at = [i[name][None, None] for name in ("q", "k", "v")], rw.contiguous(p["T"])
    feature = {"elu+1": linear.positive}[p["phi"]]
    quadratic = rw.attend_linear(*qkv, encoding, {}, at, at, feature=feature)[0, 0]
    recurrent, _ = rw.recur_linear((qkv[0], qkv[1], qkv[2]), encoding, {}, at, feature=feature)
    torch.testing.assert_close(recurrent[0, 0], quadratic, rtol=0, atol=1e-12)
    return quadratic


def hope(p: Read, i: Read) -> list[int]:
    rule = {"keep period<=train_len": rw.Hope(p["train_len"])}[p["rule"]]
    return [sum(f > 0 for f in rw.Rotary(p["d"], p["base"], (rule,)).spectrum().inv_freq)]


def decay(p: Read, i: Read) -> list[float]:
    rates = rw.Rotary(p["d"], p["base"]).spectrum().inv_freq
    return [bounds.long_term_decay(rates, distance) for distance in i["distance"]]


def clex(p: Read, i: Read) -> Tensor:
    encoding = rw.Clex(p["d"], p["base"], trained_length=1, time=p["t"])
    return encoding.rates(rw.initial(encoding))


PAIRS = {"pairing": "interleaved"}
HANDLERS: Handlers = {
    "rope_linear_attention_causal": (linear_attention, FLOAT32),
    "rope2d_halves_interleaved": (axial(2, rates="own", **PAIRS), FLOAT32),
    "rope2d_groups4": (axial(2, rates="own", layout="interleaved", **PAIRS), FLOAT32),
    "rope2d_vision_half": (axial(2, rates="own"), FLOAT32),
    "rope2d_pixtral": (axial(2, rates="dealt"), FLOAT32),
    "rope3d_thirds_interleaved": (axial(3, rates="own", **PAIRS), FLOAT32),
    "rope3d_groups6": (axial(3, rates="own", layout="interleaved", **PAIRS), FLOAT32),
    "rope_tie_apply": (axial(2, layout="interleaved", **PAIRS), FLOAT32),
    "rope_mixed_init": (mixed_init, FLOAT64),
    "rope_mixed_apply": (mixed_apply, FLOAT64),
    "mrope_axis_qwen2vl": (axes("chunked"), 0),
    "mrope_axis_qwen3vl": (axes("interleaved"), 0),
    "mrope_apply_qwen2vl": (mrope("chunked"), FLOAT32),
    "mrope_apply_qwen3vl": (mrope("interleaved"), FLOAT32),
    "lie_expm": (lie_expm, FLOAT64),
    "lie_noncommuting_defect": (lie_defect, FLOAT64),
    "string_cayley": (cayley, FLOAT64),
    "hope_highfreq_mask": (hope, 0),
    "xpos_scale_zeta": (lambda p, i: rw.XPos(p["d"], gamma=p["gamma"]).zeta(), FLOAT64),
    "xpos_score": (xpos_score, FLOAT32),
    "rope_longterm_decay": (decay, FLOAT64),
    "clex_zero_init_inv_freq": (clex, FLOAT64),
}
