"""config.json as MLX-LM 0.32 reads it <-> encodings, with periods per pair (`freqs`) where no config does.

A payload is {"config": {...}, "ropes": [...]}. Each of the ropes is {"layers", "freqs", "scale", "dims",
"traditional"}: what `mx.fast.rope` is given in these layers, in place of what the config leads to, with queries and
keys multiplied by `scale` first. `freqs` are periods over 2 pi, the reciprocals of rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf, mlx_models
from ropewalk.formats.compare import disagreement
from ropewalk.formats.effective import Effective, ignored_keys
from ropewalk.formats.layers import Layer, rotary_of, with_rotary
from ropewalk.formats.layout import inner_config, layer_types, length_field, prepared
from ropewalk.formats.layout import rope_of as rope_of_config
from ropewalk.formats.losses import Loss, loss
from ropewalk.formats.overrides import two_lists, weight_for
from ropewalk.formats.read_rope import Frame, factors, number, read_yarn
from ropewalk.formats.write_rope import STILL, Place, settle, trained_length, write_rope
from ropewalk.scalings import Rescale
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import for_length

NEVER = 1e20  # the period of a pair that does not turn: float32 holds it, and no text is as long


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The config.json for MLX-LM, ropes for the layers that it does not reach, and what is lost.

    Raises UnsupportedError for a model type whose code in MLX-LM is not known here.
    """
    hf.check_fits(encodings, hf.read(config))
    text = prepared(config)
    reader = mlx_models.reader(text)
    settled = {e: settle(e, length, reader.types) for layer in encodings if (e := rotary_of(layer))}
    wanted = [with_rotary(layer, settled[e][0]) if (e := rotary_of(layer)) else layer for layer in encodings]
    inner = {**inner_config(config), **fields(wanted, text, reader, length)}
    written = {**config, "text_config": inner} if inner_config(config) is not config else inner
    written = {k: v for k, v in written.items() if v is not None}
    got = read({"config": written}, config)
    ropes = [rope_of(a, i, length) for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if differ(a, b, length)]
    payload = {"config": written, "ropes": joined(ropes)}
    lost = [found for _, found in settled.values() if found] + list_losses(encodings, read(payload, config), length)
    if ropes:
        what = f"MLX-LM's code of {text['model_type']} reads another rotation from config.json in {len(ropes)} layers"
        lost.append(loss(what, "periods per pair for mx.fast.rope (freqs)", wanted, got, length))
    return payload, tuple(dict.fromkeys(lost))


def differ(wanted: Layer, got: Layer, length: int) -> bool:
    """Whether a rope must take the place of what the config leads to."""
    return rotary_of(wanted) is not None and disagreement([wanted], [got], length) is not None


def fields(
    encodings: Sequence[Layer], text: Mapping[str, Any], reader: mlx_models.Reader, length: int
) -> dict[str, Any]:
    """The fields from which MLX-LM makes its angles; None for one that must go."""
    found = {kind: e for kind, layer in zip(layer_types(text), encodings, strict=True) if (e := rotary_of(layer))}
    lead = found.get("full_attention") or next(iter(found.values()))
    names = ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq")
    made: dict[str, Any] = {**{n: None for n in names if n in text}, length_field(text): length}
    place = Place(length, trained_length(lead) or length, lead.dim, reader.types)
    try:
        rope = adapt(write_rope(lead, place), text, length)
    except UnsupportedError:
        rope = {"rope_type": "default", "rope_theta": lead.base}
    made[reader.base_field] = rope["rope_theta"]
    rope = {**hf.kept(rope_of_config(text, "full_attention") or {}), **rope}
    if local := found.get("sliding_attention"):
        made |= {"rope_local_base_freq": local.base} if reader.local else {}
    if rope["rope_type"] != "default" and reader.scaled:
        made["rope_scaling"] = {**rope, "type": rope["rope_type"]}
        if "original_max_position_embeddings" in text and "original_max_position_embeddings" in rope:
            made["original_max_position_embeddings"] = round(number(rope, "original_max_position_embeddings"))
    if reader.inside:
        made["rope_parameters"] = rope
    return made


def adapt(rope: dict[str, Any], text: Mapping[str, Any], length: int) -> dict[str, Any]:
    """What transformers reads, in the terms of MLX-LM, as far as these reach; `attention_factor` is not read."""
    rope = {key: value for key, value in rope.items() if key != "partial_rotary_factor"} | (
        {"partial_rotary_factor": rope["partial_rotary_factor"]} if rope["rope_type"] == "proportional" else {}
    )
    if rope["rope_type"] == "longrope":
        magnitude = max(rope.pop("attention_factor"), 1.0)
        # the magnitude is sqrt(ln(length) / ln(original)): the original length is what it takes
        return {**rope, "original_max_position_embeddings": length ** (1 / magnitude**2)}
    if rope["rope_type"] != "yarn":
        return rope
    yarn = read_yarn(rope, Frame(head_dim=0))
    over = (yarn.mscale_all_dim or 0.0) if "qk_rope_head_dim" in text else 0.0
    weight = weight_for(yarn.effective_magnitude() * mscale(yarn.factor, over), yarn.factor, "MLX-LM")
    kept = {key: value for key, value in rope.items() if key not in ("attention_factor", "truncate")}
    return {**kept, "mscale": weight, "mscale_all_dim": over}


def list_losses(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> list[Loss]:
    what = "MLX-LM takes the long divisors for texts of every length"
    pairs = dict.fromkeys((e, b) for e, b in zip(wanted, got, strict=True))
    chosen = [(e, b, lists) for e, b in pairs if (lists := two_lists(e))]
    return [loss(what, "", [e], [b], min(lists.trained_length, length)) for e, b, lists in chosen]


def rope_of(layer: Layer, i: int, length: int) -> dict[str, Any]:
    """What `mx.fast.rope` is given in layer i."""
    e = rotary_of(layer)
    if e is None or e.offset or e.unscaled:
        raise UnsupportedError(f"layer {i}: mx.fast.rope turns the first channels at all positions, not {layer!r}")
    inv_freq, magnitude = (s := for_length(e, length).spectrum()).inv_freq, s.magnitude
    periods = [1 / rate if rate > 1 / NEVER else NEVER for rate in inv_freq]
    return {"layers": [i], "freqs": periods, "scale": magnitude, "dims": e.dim, "traditional": e.pairing != "half"}


def joined(ropes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ropes, with the layers that share one together."""
    found: dict[str, dict[str, Any]] = {}
    for rope in ropes:
        same = found.setdefault(repr({**rope, "layers": []}), {**rope, "layers": []})
        same["layers"] += rope["layers"]
    return list(found.values())


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encodings that MLX-LM would run from a payload's config, or from `config` where the payload has none.

    Raises UnsupportedError where MLX-LM would stop with an error.
    """
    layers = list(mlx_models.layers(payload.get("config", config)))
    for rope in payload.get("ropes", []):
        for i in rope["layers"]:
            layers[i] = with_rotary(layers[i], installed(rope, layers[i]))
    return tuple(layers)


def installed(rope: Mapping[str, Any], layer: Layer) -> Rotary:
    """The rotation of a rope that takes the place of a layer's own."""
    base = e.base if (e := rotary_of(layer)) else 10000.0
    plain = Rotary(rope["dims"], base, pairing="interleaved" if rope["traditional"] else "half")
    pairs = zip(plain.unbent().inv_freq, factors(rope, "freqs"), strict=True)
    divisors = tuple(f * period if period < NEVER else STILL for f, period in pairs)
    return replace(plain, scaling=(Rescale(divisors, number(rope, "scale")),))


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """What MLX-LM makes of a model's config.json, in texts of any length."""
    text = inner_config(config)
    reader = mlx_models.reader(prepared(config))
    rope = reader.scaling(text)
    unused = ignored_keys({"": rope}, {"": mlx_models.READS.get(mlx_models.kind_of(rope), "").split()}, "MLX-LM")
    unread = [f"MLX-LM's code of {prepared(config)['model_type']} does not read {n!r}" for n in reader.unread(text)]
    return Effective(mlx_models.layers(config), (*unread, *unused))
