"""`--hf-overrides` of vLLM 0.33 <-> encodings, under vLLM's own reading rules."""

import math
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

DEFAULT_THETA = {"qwen2": 1e6, "qwen3": 1e6}
M_ROPE_STRETCH = 4  # M-RoPE's ramp is computed for four times the original length


def write(
    encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The dict for `--hf-overrides`, to be served with `--max-model-len length`, and what is lost.

    Raises UnsupportedError for what vLLM has no class for.
    """
    written, notes = hf.write(encodings, config, length, types_for(encodings, config))
    text = hf.text_part(written)
    inner: dict[str, Any] = {hf.length_field(text): length}
    if "rope_parameters" in text:
        inner |= {"rope_parameters": each_rope(text["rope_parameters"], lambda rope: adapt(rope, text))}
        notes += tuple(dict.fromkeys(losses(inner["rope_parameters"], length)))
    if has_two_lists(encodings):
        notes += ("vLLM takes the long divisors for texts of every length once --max-model-len exceeds the original",)
    return ({"text_config": inner} if "text_config" in config else inner), notes


def adapt(rope: Rope, text: Mapping[str, Any]) -> Rope:
    """What transformers reads, in the terms of vLLM.

    Nothing is left to a default: where a config has several parts, the override is merged into the old parameters.
    """
    if rope["rope_type"] == "longrope":
        refuse_lists(text, rope, "vLLM")
        return {**rope, "short_mscale": rope["attention_factor"], "long_mscale": rope["attention_factor"]}
    if rope["rope_type"] != "yarn":
        return rope
    yarn = read_yarn(rope, Frame(head_dim=0))
    if "qk_rope_head_dim" not in text:
        return {**rope, "truncate": yarn.truncate, "attention_factor": yarn.effective_magnitude()}
    if not yarn.truncate:
        raise UnsupportedError("vLLM's DeepSeek class always rounds the ends of YaRN's ramp (truncate)")
    over = yarn.mscale_all_dim or 0.0
    # solved for: mscale(factor, weight) / mscale(factor, over) is the wanted magnitude
    wanted = yarn.effective_magnitude() * mscale(yarn.factor, over) - 1
    weight = wanted / (0.1 * math.log(yarn.factor)) if yarn.factor > 1 else 1.0
    plain = {k: v for k, v in rope.items() if k != "attention_factor"}
    return {**plain, "mscale": weight, "mscale_all_dim": over}


def losses(ropes: Mapping[str, Any], length: int) -> list[str]:
    """Differences that no spelling avoids."""
    found = []
    for rope in ropes.values() if hf.is_nested(ropes) else [ropes]:
        if rope is None or rope["rope_type"] != "yarn":
            continue
        if "mrope_section" in rope:
            found.append(f"vLLM computes YaRN's ramp for {M_ROPE_STRETCH} times the original length under M-RoPE")
        end = math.ceil(rope["factor"] * rope["original_max_position_embeddings"])
        if end < length:
            found.append(f"vLLM's table for YaRN ends at {end} tokens, before {length}")
    return found


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[hf.Layer, ...]:
    """The encodings that vLLM would run with the model of `config` under this override."""
    text = in_memory(config)
    over = payload.get("text_config", payload)
    ropes = over.get("rope_parameters", {})
    if "text_config" in payload:
        ropes = merged(text["rope_parameters"], ropes)
    ropes = ropes or text["rope_parameters"]
    base = DEFAULT_THETA.get(text.get("model_type", ""), 10000.0)
    text = {**text, **over, "rope_theta": base, "rope_parameters": ropes}
    return read_layers(text, lambda rope, frame: translate(rope, frame, text))


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Rope:
    """`new` over `old`, at every depth."""
    both = dict(old)
    for key, value in new.items():
        deep = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        both[key] = merged(old[key], value) if deep else value
    return both


def translate(rope: Rope, frame: Frame, text: Mapping[str, Any]) -> Rope:
    """vLLM's reading of a dict, spelled for transformers; keys that vLLM drops are dropped."""
    length = frame.length or 0
    original = rope.get("original_max_position_embeddings", length)
    match rope["rope_type"]:
        case "linear":
            return pick(rope, "factor")
        case "llama3":
            return pick(rope, "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        case "yarn" if "qk_rope_head_dim" in text:
            if rope.get("attention_factor") == 1:
                raise UnsupportedError("vLLM takes attention_factor 1 for another rule in a DeepSeek model")
            known = pick(rope, "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale_all_dim")
            return {**known, "attention_factor": deepseek_magnitude(rope)}
        case "yarn":
            known = pick(rope, "factor", *"beta_fast beta_slow mscale mscale_all_dim attention_factor truncate".split())
            stretch = M_ROPE_STRETCH if "mrope_section" in rope else 1
            return {**known, "original_max_position_embeddings": original * stretch}
        case "longrope":
            chosen = rope["long_factor" if length > original else "short_factor"]
            lists = {"short_factor": chosen, "long_factor": chosen, "original_max_position_embeddings": original}
            magnitude = longrope_magnitude(rope, length, original)
            return {**pick(rope), **lists, "attention_factor": magnitude}
        case "dynamic" if "alpha" in rope:
            return pick(rope, "alpha")
        case "dynamic":
            trained = rope.get("max_trained_positions", length)
            # one base for all lengths
            stretch = rope["factor"] * length / trained - (rope["factor"] - 1)
            return {**pick(rope), "alpha": stretch}
        case _:
            # `factor` is not read with "proportional"
            return pick(rope)
