"""params.json of Mistral's own format <-> encodings.

Its weights pair channels 2i and 2i + 1. The same model in the format of transformers pairs halves, and encodings are
those of the latter where its config is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.compare import is_plain
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.layout import head_dim, prepared
from ropewalk.formats.losses import Loss, frozen, loss, measure
from ropewalk.formats.read_rope import factor, number
from ropewalk.formats.write_rope import fold
from ropewalk.scalings import Yarn
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import for_length

ORIGINAL = "original_max_position_embeddings"
YARN = ("factor", ORIGINAL, "beta", "alpha", "apply_scale")


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The fields of params.json that are about positions, and what is lost.

    YaRN there rounds its ramp and has one of two magnitudes; the nearer one is written. Raises UnsupportedError for
    what params.json cannot say.
    """
    text = prepared(config)
    first = encodings[0]
    e = rotary_of(first)
    if e is None or any(layer != first for layer in encodings):
        raise UnsupportedError("params.json has one rotation for all layers")
    fixed = for_length(e, length)
    params = {"n_layers": len(encodings), "max_position_embeddings": length, "head_dim": head_dim(text, "")}
    params |= positions(fixed, params["head_dim"]) | sharper(others_of(first))
    settled = [(fixed, *others_of(first)) if others_of(first) else fixed] * len(encodings)
    lost = [frozen(e, fixed, length), yarn_loss(settled, read(params, config), length)]
    return params, tuple(found for found in lost if found)


def positions(e: Rotary, width: int) -> dict[str, Any]:
    base, rules = fold(e)
    if not is_plain(e):
        raise UnsupportedError(f"params.json turns whole heads by one coordinate, not {e!r}")
    if e.dim != width:
        raise UnsupportedError(f"params.json turns whole heads of {width} channels, not {e.dim} of them")
    match rules:
        case ():
            return {"rope_theta": base}
        case (Yarn(ramp="index") as yarn,):
            own = yarn.effective_magnitude()
            given = {
                "beta": yarn.beta_fast,
                "alpha": yarn.beta_slow,
                "apply_scale": own > (1 + mscale(yarn.factor)) / 2,
            }
            return {"rope_theta": base, "yarn": {"factor": yarn.factor, ORIGINAL: yarn.trained_length, **given}}
        case _:
            raise UnsupportedError(f"params.json knows YaRN alone, not {rules!r}")


def sharper(others: tuple[Any, ...]) -> dict[str, Any]:
    match others:
        case ():
            return {}
        case (Temperature(start=0) as rule,):
            return {"llama_4_scaling": {ORIGINAL: rule.floor, "beta": rule.strength}}
        case _:
            raise UnsupportedError(f"params.json has no word for {others!r}")


def yarn_loss(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> Loss | None:
    figures = measure(wanted, got, length)
    if figures.frequency <= 1e-9 and abs(figures.magnitude - 1) <= 1e-9:
        return None
    what = "YaRN in params.json always rounds the ends of its ramp, and its magnitude is 1 or the recommended one"
    return loss(what, "the rounded ramp and the nearer magnitude", wanted, got, length)


def read(payload: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> tuple[Layer, ...]:
    """One encoding per layer from a params.json, paired as in `config` where that is given, else interleaved."""
    require(isinstance(payload, Mapping), "params.json", "a JSON object", payload)
    count = whole(payload, "n_layers")
    width = whole(payload, "head_dim") if "head_dim" in payload else whole(payload, "dim") // whole(payload, "n_heads")
    e = Rotary(width, number(payload, "rope_theta", 10000.0), pairing="interleaved")
    if config and (own := next(filter(None, map(rotary_of, hf.read(config))), None)):
        e = replace(e, pairing=own.pairing)
    if yarn := payload.get("yarn"):
        e = replace(e, scaling=(yarn_of(yarn),))
    if rule := payload.get("llama_4_scaling"):
        return ((e, Temperature(whole(rule, ORIGINAL), number(rule, "beta"), start=0)),) * count
    return (e,) * count


def whole(payload: Mapping[str, Any], field: str) -> int:
    value = payload.get(field)
    require(
        isinstance(value, int) and type(value) is int and 0 < value <= 10**12, field, "a positive whole number", value
    )
    return int(number(payload, field))


def yarn_of(yarn: Mapping[str, Any]) -> Yarn:
    require(isinstance(yarn, Mapping), "yarn", "a JSON object", yarn)
    for key in yarn:
        require(key in YARN, f"yarn parameter {key!r}", f"one of {', '.join(YARN)}", yarn[key])
    scaled = yarn.get("apply_scale", True)
    require(type(scaled) is bool, "apply_scale", "true or false", scaled)
    magnitude = None if scaled else 1.0
    fast, slow = number(yarn, "beta", 32.0), number(yarn, "alpha", 1.0)
    return Yarn(factor(yarn), whole(yarn, ORIGINAL), fast, slow, magnitude=magnitude)


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """No engine reads params.json beside a config.json: what it would say of this model, with what it loses."""
    payload, losses = write(hf.read(config), config, length)
    return Effective(read(payload, config), tuple(str(lost) for lost in losses))
