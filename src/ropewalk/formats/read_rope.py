"""One dict of rope parameters -> one Rotary, under the reading rules of transformers 5.23.

L is max_position_embeddings, L0 the length of the original training.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, did_you_mean, require
from ropewalk.formats.checked import MOST, MOST_TOKENS
from ropewalk.scalings import NTK, DynamicNTK, Linear, Llama3, LongRope, Proportional, Yarn
from ropewalk.spectrum import Adapts, Scaling

SHARED = frozenset("rope_type type rope_theta partial_rotary_factor".split())
# said about the model, without influence on the angles of text
HARMLESS = frozenset("mrope_section mrope_interleaved finetuned llama_4_scaling_beta".split())
LENGTHS = frozenset("original_max_position_embeddings max_position_embeddings".split())
KEYS = {
    "default": frozenset(),
    "linear": frozenset(["factor"]),
    "dynamic": frozenset("factor original_max_position_embeddings".split()),
    "yarn": frozenset(
        "factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim "
        "truncate".split()
    ),
    "longrope": frozenset(
        "short_factor long_factor original_max_position_embeddings factor attention_factor short_mscale "
        "long_mscale".split()
    ),
    "llama3": frozenset("factor original_max_position_embeddings low_freq_factor high_freq_factor".split()),
    "proportional": frozenset(["factor"]),
}
# names of earlier releases and of remote code for the same rules
ALIASES = {"su": "longrope", "mrope": "default"}
KNOWN = SHARED | HARMLESS | LENGTHS | frozenset(["alpha"]) | frozenset().union(*KEYS.values())


class Frame(NamedTuple):
    """What a dict of rope parameters does not say itself."""

    head_dim: int
    partial: float = 1.0  # fraction of the head that rotates
    rotary_dim: int | None = None  # given directly (GPT-J)
    base: float = 10000.0
    length: int | None = None  # L
    original: int | None = None  # L0 beside the dict; wins over the one inside
    pairing: str = "half"
    alpha: bool = False  # the model's code reads `alpha` (Hunyuan)
    sections: tuple[int, ...] = ()  # pairs of each axis (M-RoPE)
    layout: str = "chunked"  # of the axes over the pairs


def read_rope(rope: Mapping[str, Any], frame: Frame) -> Rotary:
    """The encoding that transformers would build from this dict."""
    rope = {k: v for k, v in rope.items() if v is not None or k == "factor"}
    kind = rope_type(rope)
    check_keys(rope, kind)
    partial = number(rope, "partial_rotary_factor", frame.partial)
    base = number(rope, "rope_theta", frame.base)
    dim = int(frame.head_dim * partial)
    if frame.rotary_dim and "partial_rotary_factor" not in rope:
        dim = frame.rotary_dim
    # proportional keeps the exponents of the whole head and zeroes the slow pairs
    dim = frame.head_dim if kind == "proportional" else dim
    require(0 < dim <= frame.head_dim, "the rotary dimension", f"from 1 to head_dim = {frame.head_dim}", dim)
    for name in ("short_factor", "long_factor") if kind == "longrope" else ():
        require(len(factors(rope, name)) == dim // 2, f"rope parameter {name}", f"{dim // 2} numbers", rope[name])
    if frame.sections:
        require(sum(frame.sections) == dim // 2, "mrope_section", f"{dim // 2} pairs in all", list(frame.sections))
    scaling = read_scaling(rope, kind, frame._replace(partial=partial))
    return Rotary(dim, base, scaling, frame.pairing, sections=frame.sections, layout=frame.layout)


def rope_type(rope: Mapping[str, Any]) -> str:
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(isinstance(kind, str), "rope_type", "a string", kind)
    require(isinstance(rope.get("type", ""), str | None), "rope parameter type", "a string", rope.get("type"))
    kind = ALIASES.get(kind, kind)
    if kind not in KEYS:
        raise ConfigError(f"rope_type {kind!r} is not one of {', '.join(KEYS)}{did_you_mean(str(kind), KEYS)}")
    return kind


def check_keys(rope: Mapping[str, Any], kind: str) -> None:
    """Every key must be one that some rope type reads; a plain rope must not carry a scaling that nobody asked for."""
    for key in rope:
        if key not in KNOWN:
            raise ConfigError(f"rope parameter {key!r} is not known{did_you_mean(key, KNOWN)}")
    idle = [k for k in rope if k not in SHARED | HARMLESS | LENGTHS and rope[k] is not None]
    if kind == "default" and idle and "mrope" not in (rope.get("rope_type"), rope.get("type")):
        raise ConfigError(f"rope_type must be given for {idle[0]!r} to act, got {rope.get('rope_type', 'none')!r}")


def read_scaling(rope: Mapping[str, Any], kind: str, frame: Frame) -> tuple[Scaling | Adapts, ...]:
    match kind:
        case "linear":
            return (Linear(factor(rope)),)
        case "dynamic" if frame.alpha and rope.get("alpha"):
            return (NTK(number(rope, "alpha")),)
        case "dynamic":
            return (DynamicNTK(factor(rope), trained_length=served(frame)),)
        case "yarn":
            return (read_yarn(rope, frame),)
        case "longrope":
            return (read_longrope(rope, frame),)
        case "llama3":
            low, high = number(rope, "low_freq_factor"), number(rope, "high_freq_factor")
            # Llama 4 has a step in the place of a ramp
            high = math.nextafter(low, math.inf) if high == low else high
            return (Llama3(factor(rope), original(rope, frame), low, high),)
        case "proportional":
            return (Proportional(frame.partial, factor(rope, 1.0)),)
        case _:
            return ()


def read_yarn(rope: Mapping[str, Any], frame: Frame) -> Yarn:
    length = original(rope, frame)
    # a factor spelled as null is the ratio of the lengths
    stretch = served(frame) / length if "factor" in rope and rope["factor"] is None else factor(rope)
    require(isinstance(rope.get("truncate", True), bool), "truncate", "true or false", rope.get("truncate"))
    return Yarn(
        stretch,
        length,
        # zero counts as missing
        beta_fast=number(rope, "beta_fast", 32.0) or 32.0,
        beta_slow=number(rope, "beta_slow", 1.0) or 1.0,
        # transformers 5.23 looks for it in the outer dict, and so misses a nested one; here the nested one counts
        truncate=rope.get("truncate", True),
        magnitude=optional(rope, "attention_factor"),
        mscale=optional(rope, "mscale"),
        mscale_all_dim=optional(rope, "mscale_all_dim"),
    )


def read_longrope(rope: Mapping[str, Any], frame: Frame) -> LongRope:
    length = original(rope, frame)
    stretch = number(rope, "factor") if rope.get("factor") is not None else served(frame) / length
    short, long = factors(rope, "short_factor"), factors(rope, "long_factor")
    magnitude = optional(rope, "attention_factor")
    if magnitude is None and "short_mscale" in rope:
        # Phi-3.5-MoE; its two values are equal
        require(rope["short_mscale"] == rope.get("long_mscale"), "long_mscale", "equal to short_mscale", rope)
        magnitude = number(rope, "short_mscale")
    return LongRope(short, long, length, factor=max(stretch, 1.0), magnitude=magnitude)


def number(rope: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """0, or a number from 1 / MOST to MOST; ConfigError if it is missing without a default."""
    value = rope.get(key, default)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    good = plain and (value == 0 or 1 / MOST <= value <= MOST)
    require(good, f"rope parameter {key}", f"0 or a number from {1 / MOST:g} to {MOST:g}", value)
    return float(value)  # pyright: ignore[reportArgumentType]


def optional(rope: Mapping[str, Any], key: str) -> float | None:
    return number(rope, key) if key in rope else None


def factor(rope: Mapping[str, Any], default: float | None = None) -> float:
    value = number(rope, "factor", default) if rope.get("factor", default) is not None else None
    require(value is not None and value >= 1, "rope parameter factor", "a number of at least 1", value)
    return float(value)  # pyright: ignore[reportArgumentType]


def factors(rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """A list of divisors, one per pair."""
    values = rope.get(key)
    require(isinstance(values, list | tuple) and len(values) > 0, f"rope parameter {key}", "a list of numbers", values)
    found = tuple(number({key: v}, key) for v in values)  # pyright: ignore[reportOptionalIterable]
    require(min(found) > 0, f"rope parameter {key}", "a list of positive numbers", values)
    return found


def served(frame: Frame) -> int:
    require(frame.length is not None, "max_position_embeddings", "given for this rope_type", frame.length)
    return int(frame.length)  # pyright: ignore[reportArgumentType]


def original(rope: Mapping[str, Any], frame: Frame) -> int:
    """L0: the one beside the dict (Phi-3), else the one inside, else L."""
    inside = rope.get("original_max_position_embeddings")
    value = next((n for n in (frame.original, inside) if n is not None), None)
    value = served(frame) if value is None else value
    good = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS
    require(good, "original_max_position_embeddings", f"positive and at most {MOST_TOKENS}", value)
    return int(value)
