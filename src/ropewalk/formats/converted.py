"""What llama.cpp's converter makes of a config.json, as far as positions go."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.families import with_defaults
from ropewalk.scalings import Yarn
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import Adapts, Scaling

FREQS = ("rope_freqs.weight",)
LISTS = ("rope_factors_long.weight", "rope_factors_short.weight")
SAME_NAME = "qwen2 qwen3 gemma gemma2 falcon starcoder2 stablelm cohere2 olmo2 glm4 smollm3".split()
# the architecture of a model type, and the tensors in which it looks for divisors per pair
ARCHITECTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{kind: (kind, ()) for kind in SAME_NAME},
    **dict.fromkeys("llama mistral mixtral".split(), ("llama", FREQS)),
    **{kind: (kind, FREQS) for kind in ("granite", "exaone4")},
    **{kind: (kind, LISTS) for kind in ("phi3", "phimoe")},
    **dict.fromkeys("deepseek_v2 deepseek_v3".split(), ("deepseek2", ())),
    "gemma3_text": ("gemma3", ()),
    "gpt_neox": ("gptneox", ()),
    "gpt_oss": ("gpt-oss", ()),
    "phi": ("phi2", ()),
    "cohere": ("command-r", ()),
    "qwen2_moe": ("qwen2moe", ()),
    "qwen3_moe": ("qwen3moe", ()),
}


class Converted(NamedTuple):
    """A GGUF without its weights."""

    layers: tuple[hf.Layer, ...]
    sliding: tuple[bool, ...]  # layers that keep their rates under every flag
    own: Rotary  # the encoding of the others
    arch: str
    tensors: tuple[str, ...]  # names under which this architecture finds divisors per pair
    window: int  # {arch}.context_length
    log_weight: float  # DeepSeek's mscale_all_dim, kept as yarn_log_multiplier

    @property
    def rule(self) -> Scaling | Adapts | None:
        """The one scaling that a config can have."""
        return next(iter(self.own.scaling), None)

    def yarn_magnitude(self, factor: float) -> float:
        """What llama.cpp makes of a factor by itself, whatever --yarn-attn-factor says."""
        return 1.0 if self.log_weight else mscale(factor)


def converted(config: Mapping[str, Any]) -> Converted:
    """The GGUF of a config. Raises UnsupportedError for a model type whose architecture is not known here."""
    text = with_defaults(hf.text_part(config))
    kind = text.get("model_type", "")
    if kind not in ARCHITECTURES:
        raise UnsupportedError(f"llama.cpp's architecture for model_type {kind!r} is not known here")
    layers, kinds = hf.read(config), hf.layer_types(text)
    sliding = tuple(e != () and k == "sliding_attention" for e, k in zip(layers, kinds, strict=True))
    turning = [(e, slides) for e, slides in zip(layers, sliding, strict=True) if isinstance(e, Rotary)]
    own = next((e for e, slides in turning if not slides), None)
    if own is None or any(e.scaling for e, slides in turning if slides):
        raise UnsupportedError(f"llama.cpp's flags do not reach the sliding layers of {kind}, whose positions matter")
    weights = [rule.mscale_all_dim or 0.0 for rule in own.scaling if isinstance(rule, Yarn)]
    log_weight = weights[0] if weights and "qk_rope_head_dim" in text else 0.0
    return Converted(layers, sliding, own, *ARCHITECTURES[kind], text[hf.length_field(text)], log_weight)
