"""What llama.cpp's converter makes of a config.json, as far as positions go."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.families import with_defaults
from ropewalk.formats.gguf_rules import FREQS, LONG, SHORT
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
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}


def converted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata and divisors of the GGUF. Raises UnsupportedError for a model type that is not known here."""
    text = with_defaults(hf.text_part(config))
    kind = text.get("model_type", "")
    if kind not in ARCHITECTURES:
        raise UnsupportedError(f"llama.cpp's architecture for model_type {kind!r} is not known here")
    layers, kinds = hf.read(config), hf.layer_types(text)
    marks = [name == "sliding_attention" for name in kinds]
    whole, other = first(layers, marks, False), first(layers, marks, True)
    own = whole or other
    if own is None:
        raise UnsupportedError(f"no layer of this {kind} rotates")
    window = text[hf.length_field(text)]
    said, tensors = scaling(own, window, "qk_rope_head_dim" in text)
    about: dict[str, Any] = {
        "block_count": len(layers),
        "context_length": window,
        "rope.dimension_count": own.dim,
        "rope.freq_base": own.base,
        "attention.sliding_window": (text.get("sliding_window") or 1) if any(marks) else 0,
        "attention.sliding_window_pattern": marks,
        **said,
    }
    if whole and other and whole.base != other.base:
        about["rope.freq_base_swa"] = other.base
    arch = ARCHITECTURES[kind]
    metadata = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in about.items()}}
    return {"metadata": metadata, "tensors": tensors}


def first(layers: tuple[hf.Layer, ...], sliding: list[bool], wanted: bool) -> Rotary | None:
    """The first rotating layer that slides, or the first that does not."""
    found = (e for e, slides in zip(layers, sliding, strict=True) if slides == wanted and isinstance(e, Rotary))
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
