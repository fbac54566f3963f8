"""One Rotary -> one dict of rope parameters that stock transformers turns into the same angles."""

from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats.losses import Loss, frozen
from ropewalk.scalings import DynamicNTK, Linear, Llama3, LongRope, Proportional, Yarn
from ropewalk.scalings.base_change import base_of
from ropewalk.spectrum import Adapts, Scaling, for_length
from ropewalk.written import short

TYPES = frozenset("default linear dynamic yarn longrope llama3 proportional".split())
# stands for "never": a pair so slowed turns by less than 1e-10 radians in a text of 10 billion tokens
STILL = 1e20


class Place(NamedTuple):
    """What bounds the ways to write an encoding down."""

    length: int  # tokens to be served
    original: int  # length of the original training, where the encoding does not know it
    head_dim: int
    types: frozenset[str] = TYPES  # rope types that the reader follows
    nested: bool = False  # the dict will stand inside another, one per layer type


def write_rope(e: Rotary, place: Place) -> dict[str, Any]:
    """`rope_type` and its parameters; a rule without a type of its own becomes two equal lists of divisors."""
    base, rules = fold(e)
    rope = native(base, rules, place, e)
    if rope is None or rope["rope_type"] not in place.types:
        base, rope = e.base, baked(e, place)
    partial = {} if e.dim == place.head_dim else {"partial_rotary_factor": fraction_of(e.dim, place.head_dim)}
    return {"rope_theta": base, **partial, **rope}


def fraction_of(dim: int, head_dim: int) -> float:
    """The number that int(head_dim * number) turns into `dim`."""
    fraction = dim / head_dim
    return fraction if int(head_dim * fraction) == dim else (dim + 0.5) / head_dim


def fold(e: Rotary) -> tuple[float, tuple[Scaling | Adapts, ...]]:
    """The base and the rules still to apply, after leading rules that only amount to another base."""
    base, spectrum, rules = e.base, e.unbent(), e.scaling
    while rules and isinstance(rules[0], Scaling):
        spectrum = rules[0](spectrum)
        new = base_of(spectrum)
        if new is None or spectrum.magnitude != 1 or spectrum.inv_freq[0] != 1:
            break
        base, rules = new, rules[1:]
    return base, rules


def native(base: float, rules: tuple[Scaling | Adapts, ...], place: Place, e: Rotary) -> dict[str, Any] | None:
    """The rope type made for these rules, None if there is none."""
    match rules:
        case ():
            return {"rope_type": "default"}
        case (Linear(factor),):
            return {"rope_type": "linear", "factor": factor}
        case (DynamicNTK(factor),):
            return {"rope_type": "dynamic", "factor": factor}
        # transformers 5.23 overlooks a nested `truncate`
        case (Yarn(ramp="index") as yarn,) if yarn.truncate or not place.nested:
            return write_yarn(yarn)
        case (Llama3(factor, trained, low, high),):
            turns = {"low_freq_factor": low, "high_freq_factor": high}
            return {"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": trained, **turns}
        case (LongRope() as rule,):
            return write_longrope(rule.short_factor, rule.long_factor, rule.effective_magnitude(), rule.trained_length)
        case (Proportional(fraction, factor),) if e.dim == place.head_dim:
            slowed = {} if factor == 1 else {"factor": factor}
            return {"rope_type": "proportional", "partial_rotary_factor": fraction, **slowed}
        case _:
            return None


def write_yarn(yarn: Yarn) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.trained_length,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }
    if not yarn.truncate:
        rope["truncate"] = False
    given = {"attention_factor": yarn.magnitude, "mscale": yarn.mscale, "mscale_all_dim": yarn.mscale_all_dim}
    return rope | {key: float(value) for key, value in given.items() if value is not None}


def write_longrope(
    short: tuple[float, ...], long: tuple[float, ...], magnitude: float, original: int
) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": list(short),
        "long_factor": list(long),
        "original_max_position_embeddings": original,
        "attention_factor": magnitude,
    }


def baked(e: Rotary, place: Place) -> dict[str, Any]:
    """The same divisors for short and for long texts, and the magnitude spelled out."""
    if "longrope" not in place.types:
        raise UnsupportedError(f"{short(e)} needs divisors per pair (longrope), which this reader does not take")
    divisors = per_pair(e)
    return write_longrope(divisors, divisors, e.spectrum().magnitude, trained_length(e) or place.original)


def per_pair(e: Rotary) -> tuple[float, ...]:
    """By how much each pair is slower than without scaling; `STILL` for one that does not turn."""
    pairs = zip(e.unbent().inv_freq, e.spectrum().inv_freq, strict=True)
    return tuple(plain / bent if bent else STILL for plain, bent in pairs)


def trained_length(e: Rotary) -> int | None:
    """The training length of the first rule that has one."""
    lengths = (getattr(rule, "trained_length", None) for rule in e.scaling)
    return next((length for length in lengths if length is not None), None)


def settle(e: Rotary, length: int, types: frozenset[str]) -> tuple[Rotary, Loss | None]:
    """The encoding without rules that follow the length, as it is at `length`, and what that costs.

    What a config can leave to the reader stays: LongRope alone, and DynamicNTK where `length` is its trained length,
    for which transformers takes max_position_embeddings.
    """
    fixed = for_length(e, length)
    match e.scaling:
        case (LongRope(),):
            return e, None
        case (DynamicNTK(_, trained),) if trained == length and "dynamic" in types:
            return e, None
        case _:
            return fixed, frozen(e, fixed, length)
