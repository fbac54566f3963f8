"""`--json-model-override-args` of SGLang 0.5.23 <-> encodings, under SGLang's own reading rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.overrides import (
    Rope,
    deepseek_magnitude,
    each_rope,
    has_two_lists,
    in_memory,
    longrope_magnitude,
    pick,
    read_layers,
    refuse_lists,
    types_for,
)
from ropewalk.formats.read_rope import Frame, read_yarn
from ropewalk.scalings.yarn import mscale


def write(
    encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The dict for `--json-model-override-args`, to be served with `--context-length length`, and what is lost.

    Raises UnsupportedError for what SGLang has no class for.
    """
    written, notes = hf.write(encodings, config, length, types_for(encodings, config))
    text = hf.text_part(written)
    inner: dict[str, Any] = {hf.length_field(text): length}
    if "rope_parameters" in text:
        inner |= {"rope_scaling": each_rope(text["rope_parameters"], lambda rope: adapt(rope, text, length))}
        if hf.is_nested(inner["rope_scaling"]):
            notes += ("SGLang reads parameters by layer type in the code of some models alone: try it on this one",)
    if has_two_lists(encodings):
        notes += ("SGLang chooses the list for a whole batch, and one token later than transformers",)
    return ({"text_config": inner} if "text_config" in config else inner), notes


def adapt(rope: Rope, text: Mapping[str, Any], length: int) -> Rope:
    """What transformers reads, in the terms of SGLang: `attn_factor` multiplies, `attention_factor` is not read."""
    if rope["rope_type"] == "longrope":
        refuse_lists(text, rope, "SGLang")
        magnitudes = {"short_mscale": rope["attention_factor"], "long_mscale": rope["attention_factor"]}
        # the table restarts where a text first exceeds the original length: with equal lists no text has to
        same = {"original_max_position_embeddings": length} if rope["short_factor"] == rope["long_factor"] else {}
        return {**rope, **magnitudes, **same}
    if rope["rope_type"] != "yarn":
        return rope
    yarn = read_yarn(rope, Frame(head_dim=0))
    known = {k: v for k, v in rope.items() if k not in ("attention_factor", "mscale", "mscale_all_dim")}
    if "qk_rope_head_dim" not in text:
        return {**known, "attn_factor": yarn.effective_magnitude() / mscale(yarn.factor)}
    if not yarn.truncate:
        raise UnsupportedError("SGLang's DeepSeek class always rounds the ends of YaRN's ramp (truncate)")
    weights = {"mscale": yarn.mscale or 1.0, "mscale_all_dim": yarn.mscale_all_dim or 0.0}
    return {**known, **weights, "attn_factor": yarn.effective_magnitude() / deepseek_magnitude({**rope, **weights})}


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[hf.Layer, ...]:
    """The encodings that SGLang would run with the model of `config` under this override."""
    text = in_memory(config)
    over = payload.get("text_config", payload)
    # the old name is an alias that replaces the whole dict
    ropes = over.get("rope_scaling", over.get("rope_parameters", text["rope_parameters"]))
    text = {**text, **{k: v for k, v in over.items() if k != "rope_scaling"}, "rope_parameters": ropes}
    return read_layers(text, lambda rope, frame: translate(rope, frame, text))


def translate(rope: Rope, frame: Frame, text: Mapping[str, Any]) -> Rope:
    """SGLang's reading of a dict, spelled for transformers; keys that SGLang drops are dropped."""
    if "rope_theta" not in rope:
        raise UnsupportedError("SGLang needs rope_theta inside the dict, which replaces the model's own")
    length = frame.length or 0
    stretch, original = rope.get("factor", 1.0), rope.get("original_max_position_embeddings", length)
    lengths = {"original_max_position_embeddings": original, "factor": stretch}
    match rope["rope_type"]:
        case "linear":
            return {**pick(rope), "factor": stretch}
        case "llama3":
            turns = {"low_freq_factor": rope.get("low_freq_factor", 1.0)}
            return {**pick(rope), **lengths, **turns, "high_freq_factor": rope.get("high_freq_factor", 4.0)}
        case "yarn":
            deepseek = "qk_rope_head_dim" in text
            known = pick(rope, "beta_fast", "beta_slow", "mscale_all_dim", *(() if deepseek else ("truncate",)))
            magnitude = yarn_magnitude({**rope, "factor": stretch}, deepseek) * rope.get("attn_factor", 1.0)
            return {**known, **lengths, "attention_factor": magnitude}
        case "longrope":
            short, long = rope["short_factor"], rope["long_factor"]
            magnitude = longrope_magnitude(rope, length, original)
            lists = {"short_factor": short, "long_factor": long, "original_max_position_embeddings": original}
            return {**pick(rope), **lists, "attention_factor": magnitude}
        case "dynamic":
            # one base for all lengths: that of `factor` times the served one
            return {**pick(rope), "alpha": rope.get("alpha", stretch**2 - stretch + 1)}
        case "proportional":
            return pick(rope, "factor")
        case _:
            return pick(rope)


def yarn_magnitude(rope: Rope, deepseek: bool) -> float:
    """The magnitude before `attn_factor`: a ratio if both weights are given, even as 0."""
    if deepseek or ("mscale" in rope and "mscale_all_dim" in rope):
        return deepseek_magnitude(rope)
    return mscale(rope["factor"])
