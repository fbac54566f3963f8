"""What llama.cpp's converter makes of a config.json, as far as positions go."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.families import with_defaults
from ropewalk.formats.gguf_rules import FREQS, LONG, SHORT, Payload, hold, layers
from ropewalk.formats.write_rope import per_pair
from ropewalk.scalings import Linear, Llama3, LongRope, Yarn

SAME_NAME = "qwen2 qwen3 gemma gemma2 falcon starcoder2 stablelm granite exaone4 phi3 phimoe".split()
ARCHITECTURES: dict[str, str] = {
    **{kind: kind for kind in [*SAME_NAME, *"cohere2 olmo2 glm4 smollm3".split()]},
    **dict.fromkeys("llama mistral mixtral".split(), "llama"),
    **dict.fromkeys("deepseek_v2 deepseek_v3".split(), "deepseek2"),
    "olmo3": "olmo2",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss",
    "phi": "phi2",
    "cohere": "command-r",
    **dict.fromkeys("qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text".split(), "qwen2vl"),
    "qwen3_vl_text": "qwen3vl",
    "qwen3_vl_moe_text": "qwen3vlmoe",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
FALCON_WINDOW = 2048


def converted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata and divisors of the GGUF. Raises UnsupportedError for a model type that is not known here."""
    text = with_defaults(hf.text_part(config))
    kind = text.get("model_type", "")
    if kind not in ARCHITECTURES:
        raise UnsupportedError(f"llama.cpp's architecture for model_type {kind!r} is not known here")
    each, kinds = hf.read(config), hf.layer_types(text)
    marks = [name == "sliding_attention" for name in kinds]
    whole, other = first(each, marks, False), first(each, marks, True)
    own = whole or other
    if own is None:
        raise UnsupportedError(f"no layer of this {kind} rotates")
    # its converter never looks for Falcon's window
    window: Any = FALCON_WINDOW if kind == "falcon" else text.get(hf.length_field(text))
    require(window is not None, hf.length_field(text), f"given for the GGUF of a {kind}", window)
    said, tensors = scaling(own, window, "qk_rope_head_dim" in text)
    about: dict[str, Any] = {
        "block_count": len(each),
        "context_length": window,
        "rope.dimension_count": own.dim,
        "rope.freq_base": own.base,
        "attention.sliding_window": (text.get("sliding_window") or 1) if any(marks) else 0,
        "attention.sliding_window_pattern": marks,
        **said,
    }
    if own.sections:
        about["rope.dimension_sections"] = [*own.sections, 0, 0, 0][:4]
    if whole and other and whole.base != other.base:
        about["rope.freq_base_swa"] = other.base
    arch = ARCHITECTURES[kind]
    metadata = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in about.items()}}
    return {"metadata": metadata, "tensors": tensors}


def origin(config: Mapping[str, Any]) -> tuple[Payload, tuple[hf.Layer, ...]]:
    """The GGUF that a change or flags are for, and the encodings of the model that is in it.

    `config` is the payload of that GGUF, or a config.json, for the GGUF that llama.cpp's converter makes of it.
    """
    if is_payload(config):
        held = hold(config)
        return config, layers(held, held.run)
    return converted(config), hf.read(config)


def is_payload(config: Mapping[str, Any]) -> bool:
    """Whether this is the payload of a GGUF, and not a config.json."""
    return "metadata" in config and "model_type" not in config


def first(each: tuple[hf.Layer, ...], sliding: list[bool], wanted: bool) -> Rotary | None:
    """The first rotating layer that slides, or the first that does not."""
    found = (e for e, slides in zip(each, sliding, strict=True) if slides == wanted and isinstance(e, Rotary))
    return next(found, None)


def scaling(own: Rotary, window: int, deepseek: bool) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What the converter says about the one rule that a config can have, and its divisors.

    It does not read `attention_factor`, `truncate` and dynamic scaling; ends of a ramp it writes where few read them.
    """
    match own.scaling:
        case (Linear(factor),):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}, {}
        case (Yarn() as rule,):
            weight = (rule.mscale_all_dim or 0.0) if deepseek else 0.0
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": rule.factor,
                "rope.scaling.original_context_length": rule.trained_length,
                "rope.scaling.yarn_beta_fast": rule.beta_fast,
                "rope.scaling.yarn_beta_slow": rule.beta_slow,
                **({"rope.scaling.yarn_log_multiplier": 0.1 * weight} if weight else {}),
            }, {}
        case (LongRope() as rule,):
            stretch = max(window / rule.trained_length, 1.0)
            said = {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": rule.trained_length,
                "rope.scaling.attn_factor": math.sqrt(1 + math.log(stretch) / math.log(rule.trained_length)),
            }
            return said, {SHORT: list(rule.short_factor), LONG: list(rule.long_factor)}
        case (Llama3() as rule,):
            return {}, {FREQS: list(per_pair(replace(own, scaling=(rule,))))}
        case _:
            return {}, {}
