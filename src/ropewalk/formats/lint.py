"""What looks wrong in a config, beside what an engine computes from it: one function per mistake that people make."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import did_you_mean, require
from ropewalk.formats import readings
from ropewalk.formats.checked import MOST_TOKENS
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer, rotary_of
from ropewalk.formats.layout import first, head_dim, inner_config, is_nested, layer_types, length_field
from ropewalk.formats.losses import measure
from ropewalk.formats.precision import cosine_error
from ropewalk.formats.read_rope import HARMLESS, KNOWN, LENGTHS, SHARED, rope_type
from ropewalk.scalings import DynamicNTK, Linear, LongRope, Yarn
from ropewalk.spectrum import Adapts, for_length

Rope = Mapping[str, Any]
ORIGINAL = "original_max_position_embeddings"
# names that some engine or remote code has for a multiplier on the magnitude or the ramp; 1 changes nothing
MULTIPLIERS = frozenset(["attn_factor", "extrapolation_factor"])
ABOUT_ROTATION = frozenset(["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"])
UNKNOWN = 4096  # tokens, where neither the config nor the user says how many
PLAINEST = 10000.0  # the base of the first rotary models, and what is taken where none is given
ROUND = 2  # significant digits of a base that somebody chose rather than computed
INEXACT = 0.01  # error of a cosine from which on it is worth a word


class Finding(NamedTuple):
    """Something to know. `wrong`: the engine computes something else than what is written, or does not start."""

    wrong: bool
    about: str  # a short name for it
    text: str


class Case(NamedTuple):
    """What the rules look at."""

    engine: str
    config: Mapping[str, Any]
    override: Mapping[str, Any]
    text: dict[str, Any]  # the language model's part, with the override and what its model type takes for granted
    length: int
    meant: tuple[Layer, ...]
    got: Effective
    weights: str | None = None  # the order of queries and keys, where a conversion has noted it
    differs: bool = False  # whether the engine computes something else than what is meant

    def ropes(self) -> list[dict[str, Any]]:
        """Each dict of rope parameters once, with the override in it."""
        found: list[dict[str, Any]] = []
        for rope in readings.ropes_of(readings.overridden(self.config, self.override)):
            found += [] if rope in found else [rope]
        return found

    @property
    def title(self) -> str:
        """The engine as its makers write it."""
        return readings.TITLES[self.engine]

    def reads(self, key: str) -> bool:
        """Whether the engine makes something of a rope parameter."""
        return not any(repr(key) in line for line in self.got.ignored)


def asked(length: int | None, text: Mapping[str, Any]) -> int:
    """How many tokens a text has: as many as somebody says, or as the config is made for."""
    length = int(text.get(length_field(text), UNKNOWN)) if length is None else length
    require(type(length) is int and 0 < length <= MOST_TOKENS, "length", f"from 1 to {MOST_TOKENS}", length)
    return length


def wrong_keys(case: Case) -> Iterator[Finding]:
    """Keys that this engine, or every one, passes over."""
    for rope in case.ropes():
        for key, value in rope.items():
            if key in KNOWN or value is None or case.reads(key):
                continue
            idle = value == 1 and key in MULTIPLIERS
            other = "; attention_factor is the final magnitude" if key == "attn_factor" else did_you_mean(key, KNOWN)
            yield Finding(not idle, "unknown key", f"{case.title} does not read {key!r} = {value!r}{other}")
    for line in case.got.ignored:
        if not any(repr(key) in line for rope in case.ropes() for key in rope if key not in KNOWN):
            yield Finding(case.differs, "ignored key", line)


def two_magnitudes(case: Case) -> Iterator[Finding]:
    """attn_factor multiplies the recommended magnitude, attention_factor takes its place."""
    for rope in case.ropes():
        if {"attn_factor", "attention_factor"} <= rope.keys():
            what = (
                "attn_factor (a multiplier) and attention_factor (the final magnitude) are both given: engines read one"
            )
            yield Finding(rope["attn_factor"] != 1, "two magnitudes", what)


def two_types(case: Case) -> Iterator[Finding]:
    for rope in case.ropes():
        old, new = rope.get("type"), rope.get("rope_type")
        if old is not None and new is not None and rope_type({"type": old}) != rope_type({"rope_type": new}):
            # MLX-LM and remote code of 2024 look for the older name first
            yield Finding(True, "two types", f"type = {old!r} and rope_type = {new!r} contradict each other")
        elif new is None and old is None and any(key not in SHARED | HARMLESS | LENGTHS for key in rope):
            keys = ", ".join(key for key in rope if key not in SHARED | HARMLESS | LENGTHS)
            yield Finding(True, "no type", f"rope_type is missing, so {keys} has no effect")


def two_dicts(case: Case) -> Iterator[Finding]:
    """transformers 5.23 takes rope_scaling where both are given."""
    new, old = (readings.given_in(case.config, field) for field in readings.FIELDS)
    differ = [key for key in sorted({*new} & {*old}) if new[key] != old[key]]
    differ += [key for key in sorted({*old} - {*new}) if new and not is_nested(new) and key != "type"]
    if new and old and differ:
        what = f"rope_parameters and rope_scaling differ in {', '.join(differ)}: engines choose differently"
        yield Finding(True, "two dicts", what)


def lengths(case: Case) -> Iterator[Finding]:
    """The factor is the ratio of two lengths, and one of the three is often forgotten."""
    window = case.text.get(length_field(case.text))
    for rope in case.ropes():
        if rope_type(rope) not in ("yarn", "longrope", "linear", "dynamic"):
            continue
        start, factor = first({**rope, **case.text}, ORIGINAL), rope.get("factor")
        start = rope.get(ORIGINAL) if start is None else start
        if start is None and rope_type(rope) in ("yarn", "longrope"):
            what = f"{ORIGINAL} is missing, so {window} ({length_field(case.text)}) counts as the trained length"
            yield Finding(False, "no original length", what)
        if start and factor and window and not math.isclose(factor * start, window, rel_tol=0.01):
            reach = f"{factor:g} x {start:,} = {factor * start:,.0f} tokens"
            twice = f"; if {start:,} is a scaled window already, it is scaled twice" if start == window else ""
            yield Finding(False, "factor and lengths", f"{reach}, but {length_field(case.text)} says {window:,}{twice}")


def theta_and_factor(case: Case) -> Iterator[Finding]:
    """A raised base is a scaling by itself."""
    old = next(readings.ropes_of(case.config), {}).get("rope_theta", inner_config(case.config).get("rope_theta"))
    for e in rotaries(case):
        bent = [type(rule).__name__ for rule in e.scaling]
        digits = f"{e.base:.12g}".replace(".", "").strip("0")
        chosen = "e" in f"{e.base:g}" or len(digits) <= ROUND
        if bent and case.override and old is not None and old != e.base:
            what = f"the override changes rope_theta from {old:g} to {e.base:g} and scales by {', '.join(bent)} as well"
            yield Finding(False, "double scaling", what)
        elif bent and not chosen:
            factor = (e.base / PLAINEST) ** ((e.dim - 2) / e.dim)
            what = f"rope_theta = {e.base:g} looks raised already (NTK by {factor:.3g} from 10000)"
            yield Finding(False, "double scaling", f"{what}, and {', '.join(bent)} bends its rates once more")


def no_theta(case: Case) -> Iterator[Finding]:
    """Engines have different ideas of what a base is that nobody gives."""
    names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "global_rope_theta")
    inside = [rope for rope in case.ropes() if "rope_theta" not in rope]
    if first(case.text, *names) is None and (inside or not case.ropes()):
        e = next(rotaries(case))
        yield Finding(False, "no rope_theta", f"rope_theta is missing; {e.base:g} is taken")


def misplaced(case: Case) -> Iterator[Finding]:
    """In a config of several models the language model's part counts."""
    if "text_config" not in case.config:
        return
    outside = [key for key in case.config if key in ABOUT_ROTATION and case.config[key] is not None]
    inner = inner_config(case.config)
    for key in outside:
        if inner.get(key) != case.config[key]:
            yield Finding(
                True, "wrong object", f"{key} stands beside text_config, where nothing reads it: put it inside"
            )
    if case.override and "text_config" not in case.override:
        yield Finding(True, "wrong object", 'the override has no effect on text_config: {"text_config": {...}} has')


def two_partials(case: Case) -> Iterator[Finding]:
    outer = first(inner_config(case.config), "partial_rotary_factor", "rotary_pct")
    for rope in case.ropes():
        inner = rope.get("partial_rotary_factor")
        if inner is not None and outer is not None and inner != outer:
            what = f"partial_rotary_factor is {inner:g} inside the rope parameters and {outer:g} outside"
            yield Finding(True, "partial rotary", what)


def partial_magnitude(case: Case) -> Iterator[Finding]:
    """A magnitude acts on channels that rotate, a softmax factor on all."""
    for e in rotaries(case):
        head, m = head_dim(case.text, layer_types(case.text)[0]), for_length(e, case.length).spectrum().magnitude
        if e.dim < head and m != 1:
            what = f"the magnitude {m:.6g} scales {e.dim} of {head} channels of a head"
            how = f"code that multiplies the softmax scale by {m * m:.6g} instead scales all"
            yield Finding(False, "partial magnitude", f"{what}; {how}")


def static_price(case: Case) -> Iterator[Finding]:
    """What texts pay that would fit the trained window."""
    for e in (e for layer in dict.fromkeys(case.got.layers) if (e := rotary_of(layer))):
        start = next((rule.trained_length for rule in e.scaling if isinstance(rule, Yarn)), None)
        start = case.text.get(ORIGINAL) if start is None and any(isinstance(r, Linear) for r in e.scaling) else start
        if start:
            plain = Rotary(e.dim, e.base, (), e.pairing, sections=e.sections, layout=e.layout)
            cost = measure([plain], [e], start).logits
            what = f"texts of up to {start:,} tokens are bent too: logits change by up to {cost:.2g} |q||k|"
            yield Finding(False, "static scaling", f"{what}, a price unless the weights were trained so")


def frozen_rule(case: Case) -> Iterator[Finding]:
    """A rule that should follow the text, and does not in this engine."""
    for own, served in dict.fromkeys(zip(case.meant, case.got.layers, strict=True)):
        rules = moving(own)
        if rules and rotary_of(served) and not moving(served):
            names = ", ".join(type(rule).__name__ for rule in rules)
            what = f"{names} follows the length of each text, but {case.title} settles it once for all"
            yield Finding(case.differs, "dynamic scaling", what)
        elif any(isinstance(rule, DynamicNTK) for rule in rules):
            what = "cached keys keep the angles of the length at which they were made, and recomputed ones have others"
            yield Finding(False, "dynamic scaling", what)


def zero_weight(case: Case) -> Iterator[Finding]:
    for rope in case.ropes():
        for key in ("mscale", "mscale_all_dim"):
            if rope.get(key) == 0 and type(rope[key]) in (int, float):
                what = f"{key} = 0 is missing for transformers and vLLM, and a weight of 0 for SGLang and Megatron"
                yield Finding(False, "zero weight", what)


def too_long(case: Case) -> Iterator[Finding]:
    """What was asked for, against what the engine has angles for and permits."""
    table, most, window = case.got.table, case.got.accepts, case.text.get(length_field(case.text))
    if table is not None and case.length > table:
        yield Finding(True, "too long", f"{case.title} has angles for {table:,} positions, not for {case.length:,}")
    elif most is not None and case.length > most:
        name = length_field(case.text)
        what = f"{case.title} refuses more than {most:,} tokens unless {name} says {case.length:,}"
        yield Finding(True, "too long", what)
    elif window is not None and case.length > window:
        what = f"{case.length:,} tokens are beyond {length_field(case.text)} = {window:,}"
        yield Finding(False, "too long", what)


def other_pairing(case: Case) -> Iterator[Finding]:
    own = next(rotaries(case)).pairing
    if case.weights and case.weights != own:
        what = f"the weights were put into the {case.weights} order, and {case.title} pairs the {own} way"
        yield Finding(True, "pairing", f"{what}: run `ropewalk convert --to {own}` on them")


def rounding(case: Case) -> Iterator[Finding]:
    turning = {e for layer in case.got.layers if (e := rotary_of(layer))}
    error = max((cosine_error(e, case.length, case.engine == "llamacpp") for e in turning), default=0.0)
    if error > INEXACT:
        what = f"float32 angles: a cosine near token {case.length:,} is off by up to {error:.2g}"
        yield Finding(False, "precision", what)


def moving(layer: Layer) -> list[Any]:
    """The rules that differ from text to text."""
    e = rotary_of(layer)
    rules = [rule for rule in e.scaling if isinstance(rule, Adapts)] if e else []
    return [r for r in rules if not isinstance(r, LongRope) or r.short_factor != r.long_factor]


def rotaries(case: Case) -> Iterator[Rotary]:
    """The different rotations that are meant."""
    yield from dict.fromkeys(e for layer in case.meant if (e := rotary_of(layer)))


RULES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    wrong_keys,
    two_magnitudes,
    two_types,
    two_dicts,
    lengths,
    theta_and_factor,
    no_theta,
    misplaced,
    two_partials,
    partial_magnitude,
    static_price,
    frozen_rule,
    zero_weight,
    too_long,
    other_pairing,
    rounding,
)
