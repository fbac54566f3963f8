"""`--hf-overrides` of vLLM 0.33 <-> encodings, under vLLM's own reading rules."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer
from ropewalk.formats.layout import is_nested, length_field, prepared
from ropewalk.formats.losses import Loss, loss
from ropewalk.formats.overrides import (
    ORIGINAL,
    Rope,
    deepseek_magnitude,
    demand,
    each_rope,
    in_memory,
    is_deepseek,
    laid_over,
    longrope_magnitude,
    named,
    override,
    pick,
    read_layers,
    refuse_lists,
    refuse_unrotated,
    softmax_losses,
    two_lists,
    types_for,
    unread,
    weight_for,
    with_axes,
)
from ropewalk.formats.read_rope import Frame, number, read_yarn
from ropewalk.scalings.yarn import mscale

M_ROPE_STRETCH = 4  # by which M-RoPE's tables, and with them the ends of YaRN's ramp, are made for longer texts
ONE_TO_ONE = frozenset("qwen3_vl_text qwen3_vl_moe_text qwen3_5_text qwen3_5_moe_text".split())  # but not these
READS = {
    "default": "",
    "proportional": "",
    "linear": "factor",
    "llama3": f"factor low_freq_factor high_freq_factor {ORIGINAL}",
    "yarn": f"factor {ORIGINAL} beta_fast beta_slow mscale mscale_all_dim attention_factor truncate",
    "longrope": f"short_factor long_factor {ORIGINAL} short_mscale long_mscale",
    "dynamic": "factor max_trained_positions",
    "alpha": "alpha",
}
DEEPSEEK = f"factor {ORIGINAL} beta_fast beta_slow mscale mscale_all_dim"
GPT_OSS = f"factor {ORIGINAL} beta_fast beta_slow truncate"


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The dict for `--hf-overrides`, to be served with `--max-model-len length`, and what is lost.

    Raises UnsupportedError for what vLLM has no class for.
    """
    refuse_unrotated(hf.read(config), "vLLM")
    written, lost = hf.write(encodings, config, length, types_for(encodings, config))
    text, ropes = prepared(written), None
    if "rope_parameters" in text:
        ropes = each_rope(text["rope_parameters"], lambda rope: adapt(with_axes(rope, encodings), text))
    lost += softmax_losses(encodings, text, "vLLM")
    payload = override(config, written, "rope_parameters", ropes)
    return payload, (*lost, *losses(encodings, read(payload, config), written, length))


def adapt(rope: Rope, text: Mapping[str, Any]) -> Rope:
    """What transformers reads, in the terms of vLLM.

    Nothing is left to a default: where a config has several parts, the override is merged into the old parameters.
    """
    if rope["rope_type"] == "longrope":
        refuse_lists(text, rope, "vLLM")
        return {**rope, "short_mscale": rope["attention_factor"], "long_mscale": rope["attention_factor"]}
    if text.get("model_type") == "gpt_oss":
        return adapt_gpt_oss(rope)
    if rope["rope_type"] != "yarn":
        return rope
    yarn = read_yarn(rope, Frame(head_dim=0))
    if not is_deepseek(text):
        return {**rope, "truncate": yarn.truncate, "attention_factor": yarn.effective_magnitude()}
    if not yarn.truncate:
        raise UnsupportedError("vLLM's DeepSeek class always rounds the ends of YaRN's ramp (truncate)")
    over = yarn.mscale_all_dim or 0.0
    # solved for: mscale(factor, weight) / mscale(factor, over) is the wanted magnitude
    weight = weight_for(yarn.effective_magnitude() * mscale(yarn.factor, over), yarn.factor, "vLLM's DeepSeek class")
    plain = {k: v for k, v in rope.items() if k != "attention_factor"}
    return {**plain, "mscale": weight, "mscale_all_dim": over}


def adapt_gpt_oss(rope: Rope) -> Rope:
    """vLLM's gpt-oss runs YaRN with the recommended magnitude, whatever the config says; a factor of 1 is none."""
    if rope["rope_type"] == "default":
        return {**rope, "rope_type": "yarn", "factor": 1.0, ORIGINAL: 4096, "beta_fast": 32.0, "beta_slow": 1.0}
    yarn = read_yarn(rope, Frame(head_dim=0)) if rope["rope_type"] == "yarn" else None
    if yarn is None or not math.isclose(yarn.effective_magnitude(), mscale(yarn.factor), rel_tol=1e-9):
        raise UnsupportedError(
            "vLLM's code of gpt_oss runs YaRN with a magnitude of 1 + 0.1 ln(factor) and nothing else"
        )
    return {**rope, "truncate": yarn.truncate}


def losses(wanted: Sequence[Layer], got: Sequence[Layer], written: Mapping[str, Any], length: int) -> tuple[Loss, ...]:
    """Differences that no spelling avoids."""
    found: list[Loss] = []
    text = in_memory(written)
    ropes = text["rope_parameters"]
    for rope in ropes.values() if is_nested(ropes) else [ropes]:
        end = table_end(rope or {}, text, length)
        if rope and rope.get("rope_type") == "yarn" and stretch_of(rope, text) > 1:
            what = f"vLLM computes YaRN's ramp for {stretch_of(rope, text)} times the original length under M-RoPE"
            found.append(loss(what, "", wanted, got, length))
        if end < length:
            found.append(Loss(f"vLLM's table for YaRN ends at {end} tokens, before {length}"))
    for e, served in dict.fromkeys(zip(wanted, got, strict=True)):
        if (lists := two_lists(e)) and length > lists.trained_length:
            what = "vLLM takes the long divisors for texts of every length once --max-model-len exceeds the original"
            found.append(loss(what, "", [e], [served], lists.trained_length))
    return tuple(dict.fromkeys(found))


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encodings that vLLM would run with the model of `config` under this override.

    Raises UnsupportedError where vLLM would stop with an error.
    """
    own, over = in_memory(config), laid_over(payload, config)
    ropes = own["rope_parameters"]
    if given := over.get("rope_parameters"):
        ropes = merged(ropes, given) if "text_config" in config else given
    text: dict[str, Any] = {**own, **over, "rope_parameters": ropes}
    return layers_of(text, text.get(length_field(text)))


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """What `vllm serve MODEL --max-model-len length` makes of a model's config.json."""
    text = in_memory(config)
    ropes = text["rope_parameters"]
    each = [rope for rope in (ropes.values() if is_nested(ropes) else [ropes]) if rope]
    window = text.get(length_field(text)) or length
    ends = [table_end(rope, text, window) for rope in each]
    unused = unread(text, lambda rope: reads(rope, text), "vLLM")
    return Effective(layers_of(text, length), unused, min(ends, default=None))


def layers_of(text: Mapping[str, Any], served: int | None) -> tuple[Layer, ...]:
    return read_layers(text, lambda rope, frame: translate(rope, frame, text, served))


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Rope:
    """`new` over `old`, at every depth."""
    both = dict(old)
    for key, value in new.items():
        deep = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        both[key] = merged(old[key], value) if deep else value
    return both


def reads(rope: Rope, text: Mapping[str, Any]) -> str:
    """The keys that count in this dict, beside those that every type has."""
    if rope["rope_type"] != "default" and is_deepseek(text):
        # 1 switches DeepSeek's factor on the softmax off, and no other value does anything
        return f"{DEEPSEEK} attention_factor" if rope.get("attention_factor") == 1 else DEEPSEEK
    if text.get("model_type") == "gpt_oss":
        return GPT_OSS
    return READS["alpha" if rope["rope_type"] == "dynamic" and "alpha" in rope else rope["rope_type"]]


def stretch_of(rope: Rope, text: Mapping[str, Any]) -> int:
    return M_ROPE_STRETCH if "mrope_section" in rope and text.get("model_type") not in ONE_TO_ONE else 1


def table_end(rope: Rope, text: Mapping[str, Any], window: int) -> int:
    """Positions that vLLM has angles for, in a model whose config says `window`."""
    rope = named(rope)
    kind = "yarn" if rope["rope_type"] != "default" and is_deepseek(text) else rope["rope_type"]
    stretch = number(rope, "factor", 1.0) if kind in ("yarn", "linear") else 1.0
    tokens = number(rope, ORIGINAL, window) if kind == "yarn" else window
    return math.ceil(tokens * stretch) * stretch_of(rope, text)


def translate(rope: Rope, frame: Frame, text: Mapping[str, Any], served: int | None) -> Rope:
    """vLLM's reading of a dict, spelled for transformers; keys that vLLM drops are dropped."""
    demand(rope, "rope_theta", "vLLM")
    kind, known = rope["rope_type"], pick(rope, *reads(rope, text).split())
    if text.get("model_type") == "gpt_oss":
        demand(rope, "factor beta_fast beta_slow", "vLLM's code of gpt_oss")
        return {**known, "rope_type": "yarn"}
    if kind != "default" and is_deepseek(text):
        return translate_deepseek(known, rope)
    match kind:
        case "yarn":
            demand(rope, "factor", "vLLM")
            return {**known, ORIGINAL: rope[ORIGINAL] * stretch_of(rope, text)}
        case "longrope":
            first = rope[ORIGINAL]
            name = "long" if (served or 0) > first else "short"
            lists = dict.fromkeys(("short_factor", "long_factor"), rope.get(f"{name}_factor"))
            magnitude = longrope_magnitude(rope, frame.length or first, first, f"{name}_mscale")
            return {**pick(rope), **lists, ORIGINAL: first, "attention_factor": magnitude}
        case "dynamic" if "alpha" not in rope:
            length = number({"length": frame.length}, "length")
            trained, factor = number(rope, "max_trained_positions", length), number(rope, "factor")
            # one base for all lengths
            return {**pick(rope), "alpha": factor * length / trained - (factor - 1)}
        case _:
            return known


def translate_deepseek(known: Rope, rope: Rope) -> Rope:
    """DeepSeek's class: every type is YaRN, rounded, and an attention_factor of 1 takes the softmax factor away."""
    demand(rope, "factor", "vLLM's DeepSeek class")
    magnitude = deepseek_magnitude(rope)
    dropped = ("mscale", "mscale_all_dim") if rope.get("attention_factor") == 1 else ("mscale",)
    plain = {k: v for k, v in known.items() if k not in dropped}
    return {**plain, "rope_type": "yarn", "attention_factor": magnitude}
