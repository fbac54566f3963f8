"""What the code of each model in MLX-LM 0.32 makes of a config.json."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats.effective import EngineStops
from ropewalk.formats.layers import Layer
from ropewalk.formats.layout import each_layer, frame_of, inner_config, prepared
from ropewalk.formats.overrides import deepseek_magnitude
from ropewalk.formats.read_rope import Frame, factor, factors, number, original
from ropewalk.scalings import DynamicNTK, Linear, Llama3, Proportional, Rescale, Yarn
from ropewalk.spectrum import Adapts, Scaling

ORIGINAL = "original_max_position_embeddings"
YARN = f"factor {ORIGINAL} beta_fast beta_slow mscale mscale_all_dim"
READS = {
    "default": "",
    "mrope": "mrope_section",
    "linear": "factor",
    "dynamic": "factor",
    "llama3": f"factor low_freq_factor high_freq_factor {ORIGINAL}",
    "yarn": YARN,
    "longrope": f"short_factor long_factor {ORIGINAL}",
    "proportional": "factor",
}
BETAS = (("fast", 32.0), ("slow", 1.0))
ALIASES = {"deepseek_yarn": "yarn", "telechat3-yarn": "yarn"}
ALL = frozenset("default linear dynamic yarn longrope llama3 proportional".split())


class Reader(NamedTuple):
    """How the code of one model type finds its rotation."""

    base: float | None = None  # where the config has none; None is an error
    types: frozenset[str] = ALL  # rope types that have an effect
    base_field: str = "rope_theta"
    partial: str = ""  # the field that says which part of a head rotates
    local: bool = False  # sliding layers have a base of their own
    inside: bool = False  # reads `rope_parameters`
    flat: bool = True  # reads the fields of transformers 4
    bare_sliding: bool = False  # sliding layers take the base alone

    @property
    def scaled(self) -> bool:
        return self.types != PLAIN

    def scaling(self, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """The dict of rope parameters that counts."""
        given = (text.get("rope_scaling") if self.flat else None) or (
            text.get("rope_parameters") if self.inside else None
        )
        require(given is None or isinstance(given, Mapping), "rope_scaling", "a JSON object", given)
        return given if given and self.scaled else {}

    def theta(self, text: Mapping[str, Any]) -> float:
        inside = (text.get("rope_parameters") or {}).get("rope_theta") if self.inside else None
        flat = text.get(self.base_field) if self.flat else None
        value = next((v for v in (flat, inside, self.base) if v is not None), None)
        if value is None:
            raise EngineStops(f"MLX-LM stops on a config of {text.get('model_type')!r} without {self.base_field!r}")
        return number({self.base_field: value}, self.base_field)

    def unread(self, text: Mapping[str, Any]) -> list[str]:
        """Fields about rotation that this code passes over."""
        names = ["rope_parameters"] * (not self.inside) + ["rope_scaling"] * (not (self.flat and self.scaled))
        names += [n for n in ("partial_rotary_factor", "rotary_pct") if n != self.partial and text.get(n) != 1]
        names += ["rope_local_base_freq"] * (not self.local)
        return [name for name in names if text.get(name)]


PLAIN = frozenset(["default"])
READERS = {
    **dict.fromkeys("llama mistral olmo2 smollm3".split(), Reader(10000.0)),
    **dict.fromkeys("qwen2 minicpm".split(), Reader(1e6)),
    "qwen3": Reader(inside=True),
    "granite": Reader(),
    "ministral3": Reader(inside=True, flat=False),
    "gemma3_text": Reader(1e6, local=True),
    "olmo3": Reader(bare_sliding=True),
    # given no length, and so neither of the two types that need one
    "gpt_oss": Reader(150000.0, ALL - {"dynamic", "longrope"}),
    "deepseek_v3": Reader(10000.0),
    # it asks for lists even where the type is linear
    "phi3": Reader(10000.0, frozenset(["default", "longrope"]), partial="partial_rotary_factor"),
    **dict.fromkeys("mixtral qwen2_moe".split(), Reader(1e6, PLAIN)),
    **dict.fromkeys("gemma gemma2".split(), Reader(10000.0, PLAIN)),
    **dict.fromkeys("qwen3_moe helium ernie4_5".split(), Reader(None, PLAIN)),
    "starcoder2": Reader(100000.0, PLAIN),
    "cohere": Reader(8e6, PLAIN),
    "cohere2": Reader(50000.0, PLAIN),
    "gpt_neox": Reader(None, PLAIN, "rotary_emb_base", "rotary_pct"),
    "phi": Reader(10000.0, PLAIN, partial="partial_rotary_factor"),
    **dict.fromkeys("glm4 stablelm".split(), Reader(None, PLAIN, partial="partial_rotary_factor")),
}


def reader(text: Mapping[str, Any]) -> Reader:
    """Raises UnsupportedError for a model type that is not in the table."""
    kind = text.get("model_type", "")
    if kind not in READERS:
        raise UnsupportedError(f"MLX-LM's code for model_type {kind!r} is not known here")
    return READERS[kind]


def layers(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """One encoding per layer, as the code of this model type in MLX-LM would rotate."""
    text, given = prepared(config), inner_config(config)
    how = reader(text)

    def one(kind: str, rope: Mapping[str, Any]) -> Rotary:
        sliding = kind == "sliding_attention"
        frame = frame_of(text, kind)
        base = number(text, "rope_local_base_freq", 10000.0) if sliding and how.local else how.theta(given)
        plain = sliding and (how.local or how.bare_sliding)
        scaling = {} if plain else how.scaling(given)
        part = number(text, how.partial, frame.partial) if how.partial else 1.0
        dim = int(frame.head_dim * part)
        forced = kind_of(scaling) == "longrope"
        pairing = "half" if forced else "interleaved" if given.get("rope_traditional") else frame.pairing
        return Rotary(dim, base, rules(scaling, dim, frame, outside(text)), pairing)

    return each_layer(text, one)


def outside(text: Mapping[str, Any]) -> float | None:
    """Phi-3's code takes the original length from beside the dict."""
    return text[ORIGINAL] if text.get("model_type") == "phi3" else None


def kind_of(rope: Mapping[str, Any]) -> str:
    """The older name of the type wins."""
    kind = rope.get("type") or rope.get("rope_type", "default")
    kind = ALIASES.get(kind, "longrope" if kind == "su" else kind)
    if kind not in READS:
        raise EngineStops(f"MLX-LM stops on rope_type {kind!r}")
    return kind


def rules(rope: Mapping[str, Any], dim: int, frame: Frame, first: float | None) -> tuple[Scaling | Adapts, ...]:
    """The scaling that MLX-LM's rope_utils build from one dict."""
    match kind_of(rope):
        case "linear":
            return (Linear(factor(rope)),)
        case "dynamic":
            return (DynamicNTK(factor(rope), original({}, frame._replace(original=None))),)
        case "llama3":
            low, high = number(rope, "low_freq_factor", 1.0), number(rope, "high_freq_factor", 4.0)
            return (Llama3(factor(rope), int(number(rope, ORIGINAL, 8192)), low, high),)
        case "yarn":
            trained, fast, slow = number(rope, ORIGINAL, 4096), *(number(rope, f"beta_{n}", d) for n, d in BETAS)
            over = number(rope, "mscale_all_dim", 0.0) or None
            magnitude = deepseek_magnitude({**rope, "factor": factor(rope)})
            return (Yarn(factor(rope), int(trained), fast, slow, magnitude=magnitude, mscale_all_dim=over),)
        case "longrope":
            trained = first or number(rope, ORIGINAL)
            stretch = (frame.length or trained) / trained
            magnitude = math.sqrt(1 + math.log(stretch) / math.log(trained)) if stretch > 1 else 1.0
            # whatever the length of the text
            return (Rescale(factors(rope, "long_factor"), magnitude),)
        case "proportional":
            turning = (int(dim * number(rope, "partial_rotary_factor", 1.0)) + 1) // 2
            return (Proportional(min((2 * turning + 1) / dim, 1.0), number(rope, "factor", 1.0)),)
        case _:
            return ()
