"""Tables and attributes of ONNX's RotaryEmbedding (opset 23, and com.microsoft) <-> encodings.

A payload is {"tables": [...]}; each has the "layers" that it serves, "cos_cache" and "sin_cache", Float32[length, P]
with a row per position and the magnitude inside, and "attributes": `interleaved`, `rotary_embedding_dim` (0 is the
whole head) and `num_heads`. Layers without a table do not rotate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.compare import is_plain
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.layout import first, head_dim, prepared
from ropewalk.formats.losses import Loss, frozen
from ropewalk.formats.write_rope import STILL
from ropewalk.scalings import Rescale
from ropewalk.spectrum import for_length

MOST_ROWS = 2**24
SAME = 5e-7  # relative; float32 tells rates apart to 1e-7
ROUNDING = float(np.finfo(np.float32).eps)


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """Tables for texts of up to `length` tokens, made in float64 and rounded once, and what is lost.

    Every static scaling fits. Raises UnsupportedError for a layer that does more than turn its first channels.
    """
    require(type(length) is int and 1 < length <= MOST_ROWS, "length", f"from 2 to {MOST_ROWS} tokens", length)
    text = prepared(config)
    heads, width = first(text, "num_attention_heads", "n_head"), head_dim(text, "full_attention")
    found: dict[Rotary, list[int]] = {}
    for i, layer in enumerate(encodings):
        e = rotary_of(layer)
        if others_of(layer) or (e and not is_plain(e)):
            raise UnsupportedError(f"layer {i}: the tables of RotaryEmbedding turn the first channels, not {layer!r}")
        if e:
            found.setdefault(e, []).append(i)
    tables: list[dict[str, Any]] = []
    for e, layers in found.items():
        part = 0 if e.dim == width else e.dim
        attributes = {"interleaved": int(e.pairing == "interleaved"), "rotary_embedding_dim": part, "num_heads": heads}
        tables.append({"layers": layers, **caches(for_length(e, length), length), "attributes": attributes})
    lost = [frozen(e, for_length(e, length), length) for e in found]
    return {"tables": tables}, tuple(x for x in lost if x)


def caches(e: Rotary, length: int) -> dict[str, Any]:
    """Float32[length, P] cosines and sines of a settled rotation, times its magnitude."""
    s = e.spectrum()
    angles = np.r_[:length][:, None].astype(np.float64) * np.array(s.inv_freq)
    return {
        "cos_cache": (np.cos(angles) * s.magnitude).astype(np.float32),
        "sin_cache": (np.sin(angles) * s.magnitude).astype(np.float32),
    }


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encodings that the tables come to, as divisors of the rates that `config` has.

    Rates and magnitudes are those of the tables to about 2e-7. Raises ConfigError for tables that are no rotation by
    equal steps.
    """
    own = hf.read(config)
    layers: list[Layer] = [()] * len(own)
    for table in payload["tables"]:
        for i in table["layers"]:
            require(0 <= i < len(own), "layers", f"below {len(own)}", i)
            layers[i] = recovered(table, rotary_of(own[i]), head_dim(prepared(config), "full_attention"))
    return tuple(layers)


def recovered(table: Mapping[str, Any], own: Rotary | None, width: int) -> Rotary:
    cos, sin = (np.asarray(table[name], dtype=np.float64) for name in ("cos_cache", "sin_cache"))
    good = cos.ndim == 2 and cos.shape == sin.shape and min(cos.shape) > 0
    require(good, "cos_cache and sin_cache", "two tables of one size", (cos.shape, sin.shape))
    attributes = table["attributes"]
    dim = attributes.get("rotary_embedding_dim") or width
    require(dim == 2 * cos.shape[1], "rotary_embedding_dim", f"twice the {cos.shape[1]} columns", dim)
    magnitude, rates = float(cos[0].mean()), rates_of(cos, sin)
    check_rows(cos, sin, rates, magnitude)
    plain = Rotary(
        dim, own.base if own else 10000.0, pairing="interleaved" if attributes.get("interleaved") else "half"
    )
    pairs = zip(plain.unbent().inv_freq, rates, strict=True)
    divisors = tuple(f / r if r > 0 else STILL for f, r in pairs)
    as_they_are = all(math.isclose(n, 1, rel_tol=SAME) for n in (*divisors, magnitude))
    return plain if as_they_are else replace(plain, scaling=(Rescale(divisors, magnitude),))


def rates_of(cos: Any, sin: Any) -> list[float]:
    """Radians per position of each column, first from one step, then from ever longer ones."""
    rates, span = np.zeros(cos.shape[1]), 1
    while span < len(cos):
        turned = np.arctan2(sin[span], cos[span])
        # a span of twice the length fits the rate so far but for whole turns
        turns = np.round((rates * span - turned) / math.tau)
        rates, span = (turned + math.tau * turns) / span, 2 * span
    return [float(rate) for rate in rates]


def check_rows(cos: Any, sin: Any, rates: Sequence[float], magnitude: float) -> None:
    """Raise ConfigError unless every row is its position times the rates."""
    require(magnitude > 0, "cos_cache", "positive in its first row", magnitude)
    angles = np.r_[: len(cos)][:, None].astype(np.float64) * np.array(rates)
    apart = np.maximum(abs(np.cos(angles) * magnitude - cos), abs(np.sin(angles) * magnitude - sin)) / magnitude
    # tables that were made in float32 are off by the rounding of their largest angle
    bound = ROUNDING * (8 + 2 * np.abs(angles))
    bad = np.argwhere(apart > bound)
    if len(bad):
        raise ConfigError(f"cos_cache and sin_cache are no rotation by equal steps: row {bad[0][0]} is off")


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """ONNX models hold their tables: what those of this model come to, for texts of up to `length` tokens."""
    payload, losses = write(hf.read(config), config, length)
    return Effective(read(payload, config), tuple(str(lost) for lost in losses), length)
