"""Vectors of the encodings that enter with the embeddings, and of none at all."""

import torch
from torch import Tensor

import ropewalk as rw
from vectors.reading import FLOAT32, FLOAT64, Handlers, Read, tokens


def sines(p: Read, i: Read, layout: str) -> Tensor:
    return rw.Sinusoidal(p["d"], p["base"], layout).embed({}, tokens(*i["positions"]))[0]


def angle(encoding: rw.Sinusoidal, *positions: float) -> Tensor:
    """Float64[position, pair]."""
    return encoding.angle(tokens(*positions))[0]


def inner_product(p: Read, i: Read) -> Tensor:
    here, *there = angle(rw.Sinusoidal(p["d"], p["base"]), p["t"], *(p["t"] + k for k in i["k"]))
    return sum(f(torch.stack(there)) @ f(here) for f in (torch.cos, torch.sin))


def rises(p: Read, i: Read) -> list[float]:
    """Where the inner product first grows with distance, how often it does, and its values there."""
    first, last = i["k_range"]
    # the vector at place 0 has every sine 0 and every cosine 1
    g = angle(rw.Sinusoidal(p["d"], p["base"]), *range(first, last + 1)).cos().sum(-1)
    up = (g[1:] > g[:-1]).nonzero()[:, 0]
    at = int(up[0])
    return [first + at, len(up), float(g[at]), float(g[at + 1])]


def shift(p: Read, i: Read) -> Tensor:
    """The matrix that takes a block's sine and cosine at any place to those `k` places on."""
    here = (0, 1, 2, 5)
    turned = angle(rw.Sinusoidal(p["d"]), *here, *(n + p["k"] for n in here))[:, i["block"]]
    before, after = torch.stack((turned.sin(), turned.cos()), dim=-1).chunk(2)
    return torch.linalg.lstsq(before, after).solution.mT


def hierarchical(p: Read, i: Read) -> Tensor:
    encoding = rw.Hierarchical(p["d"], p["n"], p["alpha"])
    return encoding.embed({"table": i["p"]}, rw.contiguous(p["n"] ** 2))[0]


def recurrent(p: Read, i: Read) -> Tensor:
    w = {"recurrent_start": i["p0"], "recurrent_matrix": i["W"], "recurrent_bias": i["b"]}
    return rw.Recurrent(len(i["p0"])).embed(w, rw.contiguous(p["K"] + 1))[0]


def floater(p: Read, i: Read, solver: str) -> Tensor:
    w = {"floater_start": i["p0"], "floater_matrix": i["W"], "floater_bias": i["b"], "floater_time": i["c"]}
    encoding = rw.Floater(len(i["p0"]), p["dt"], solver, p["substeps"])
    return encoding.embed(w, rw.contiguous(p["K"] + 1))[0]


def multiplied(p: Read, i: Read) -> Tensor:
    encoding = rw.Multiplicative(rw.Sinusoidal(p["d"], p["base"]))
    return encoding.onto({}, i["x"][None], tokens(*i["positions"]))[0]


def waves(p: Read, i: Read) -> Tensor:
    """[position, channel, real and imaginary part]."""
    w = {"complex_frequency": i["omega"], "complex_phase": i["theta"]}
    at = tokens(*i["positions"])
    found = rw.ComplexOrder(p["d"]).onto(w, i["r"].expand(*at.order.shape, -1), at)
    return found[0].unflatten(-1, (2, p["d"])).mT


def leak(p: Read, i: Read) -> Tensor:
    """[layer, place] of one channel."""
    taps = torch.tensor(p["kernel"], dtype=torch.float64)[:, None]
    encoding = rw.ConvLeak(1, len(taps), causal=False, padding=p["padding"])
    x, out = torch.tensor(i["x"], dtype=torch.float64)[None, :, None], []
    for _ in range(p["layers"]):
        x = rw.embed(x, encoding, {"conv_leak": taps}, rw.contiguous(x.shape[1]))
        out.append(x[0, :, 0])
    return torch.stack(out)


def uniform(p: Read, i: Read) -> Tensor:
    v = torch.tensor(i["v"], dtype=torch.float64)[None, None, :, None]
    same, at = torch.zeros_like(v), rw.contiguous(p["T"])
    return rw.attend(same, same, v, (), {}, at, at)[0, 0, :, 0]


HANDLERS: Handlers = {
    "sinusoidal_interleaved": (lambda p, i: sines(p, i, "interleaved"), FLOAT32),
    "sinusoidal_concat": (lambda p, i: sines(p, i, "concat"), FLOAT32),
    "sinusoidal_t2t": (lambda p, i: sines(p, i, "t2t"), FLOAT32),
    "sinusoidal_inner_product": (inner_product, FLOAT64),
    "sinusoidal_inner_product_not_monotone": (rises, FLOAT64),
    "sinusoidal_shift_matrix": (shift, FLOAT64),
    "hierarchical": (hierarchical, FLOAT64),
    "recurrent_rnn": (recurrent, FLOAT64),
    "floater_euler": (lambda p, i: floater(p, i, "euler"), FLOAT64),
    "floater_rk4": (lambda p, i: floater(p, i, "rk4"), FLOAT64),
    "multiplicative_sinusoidal": (multiplied, FLOAT32),
    "complex_order": (waves, FLOAT64),
    "cnn_zero_padding_leak": (leak, FLOAT64),
    "nope_causal_uniform": (uniform, FLOAT64),
}
