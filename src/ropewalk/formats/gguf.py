"""Metadata and divisors of a GGUF file <-> one encoding per layer, under the reading rules of llama.cpp.

A payload is {"metadata": {key: value}, "tensors": {name: divisors}}.  As a change of another one, None takes away.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.compare import disagreement
from ropewalk.formats.converted import origin
from ropewalk.formats.gguf_rules import (
    FREQS,
    LONG,
    SHORT,
    Held,
    Payload,
    Run,
    allocated,
    changed,
    hold,
    layers,
    softmax_factor,
    yarn_magnitude,
)
from ropewalk.formats.losses import Loss, frozen, loss
from ropewalk.formats.write_rope import fold, per_pair
from ropewalk.scalings import Linear, LongRope, Yarn
from ropewalk.spectrum import for_length
from ropewalk.written import short

Divisors = dict[str, tuple[float, ...]]


class Wanted(NamedTuple):
    """What llama.cpp has to be told about an encoding."""

    run: Run
    divisors: Divisors


def read(payload: Payload, config: Mapping[str, Any] | None = None) -> tuple[hf.Layer, ...]:
    """The encodings that llama.cpp runs with this metadata and these divisors, `()` where a layer has no positions.

    With `config` the payload is a change: of the payload of another GGUF, or of the GGUF that llama.cpp's converter
    makes of a config.json.  Channels are paired as in the model before conversion.  Raises ConfigError for a bad value,
    UnsupportedError for an architecture whose rules are not known here.
    """
    held = hold(payload if config is None else changed(origin(config)[0], payload))
    return layers(held, held.run)


def write(
    encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """Changes to the metadata and divisors of a GGUF, None for what must go, and what is lost.

    `config` is the payload of a GGUF (`gguf_file.open(path).payload()`) or a config.json, for the GGUF that llama.cpp's
    converter makes of it.  The window becomes `length` tokens.  Raises UnsupportedError for what the architecture
    cannot run.
    """
    require(type(length) is int and 0 < length < 2**32, "length", "a whole number from 1 to 4294967295", length)
    source, own = origin(config)
    held = hold(source)
    hf.check_fits(encodings, own)
    settled = [settle(e, length, held) for e in encodings]
    main = lead(settled, held)
    held = held._replace(log_weight=weight_of(main, held))
    wanted = express(main, held)
    costs = (cost(e, fixed, length) for e, fixed in dict.fromkeys(zip(encodings, settled, strict=True)))
    lost = [found for found in costs if found]
    if wanted is None:
        nearest = rounded(main, held)
        what = f"llama.cpp's {held.name} has no setting for the ramp of {short(main.scaling[-1])}"
        lost.append(loss(what, short(nearest.scaling[-1]), [main], [nearest], length))
        settled = [nearest if e == main else e for e in settled]
        wanted = express(nearest, held) or Wanted(held.run, {})
    payload = render(wanted, source, held, length, settled)
    after = hold(changed(source, payload))
    if differs := disagreement(settled, layers(after, after.run), length):
        raise UnsupportedError(f"llama.cpp's {held.name} cannot run that: {differs}")
    return payload, (*lost, *side_effects(main, after, length))


def weight_of(e: Rotary, held: Held) -> float:
    """The mscale_all_dim to write: DeepSeek's follows the encoding."""
    weights = [rule.mscale_all_dim or 0.0 for rule in e.scaling if isinstance(rule, Yarn)]
    return next(iter(weights), 0.0) if held.arch.softmax else held.log_weight


def settle(e: hf.Layer, length: int, held: Held) -> hf.Layer:
    """The encoding without rules that llama.cpp cannot let follow the length: all but LongRope alone, in some code."""
    own = held.arch.lists and isinstance(e, Rotary) and len(e.scaling) == 1 and isinstance(e.scaling[0], LongRope)
    return e if own else for_length(e, length)


def cost(e: hf.Layer, fixed: hf.Layer, length: int) -> Loss | None:
    return frozen(e, fixed, length) if isinstance(e, Rotary) and isinstance(fixed, Rotary) else None


def lead(encodings: Sequence[hf.Layer], held: Held) -> Rotary:
    """The encoding that the settings speak about: that of the first rotating layer that does not slide."""
    sides = list(zip(encodings, held.sliding, strict=True))
    rotating = [e for slides in (False, True) for e, slid in sides if slid == slides and isinstance(e, Rotary)]
    if not rotating:
        raise UnsupportedError("no layer of this model rotates: there is nothing to write")
    return rotating[0]


def express(e: Rotary, held: Held) -> Wanted | None:
    """Settings that mean this encoding; None if there are none."""
    base, rules = fold(e)
    plain = Run(base, "none", 1.0, 0)
    match rules:
        case ():
            return Wanted(plain, {})
        case (Linear(factor),):
            return Wanted(plain._replace(kind="linear", factor=factor), {})
        case (Yarn(ramp="index", truncate=True) as yarn,) if held.arch.betas or ends(yarn) == (32.0, 1.0):
            extra = yarn.effective_magnitude() / yarn_magnitude(held, yarn.factor)
            return Wanted(Run(base, "yarn", yarn.factor, yarn.trained_length, extra, 1.0, *ends(yarn)), {})
        case (LongRope() as rule,) if held.arch.lists:
            run = plain._replace(kind="longrope", original=rule.trained_length, attn_factor=rule.effective_magnitude())
            return Wanted(run, {SHORT: rule.short_factor, LONG: rule.long_factor})
        case _:
            return baked(e, held.arch.lists, held.arch.freqs)


def baked(e: Rotary, lists: str, freqs: bool) -> Wanted | None:
    """Divisors per pair, which any rule comes to that does not follow the length."""
    run = Run(e.base, "none", 1.0, 0, e.spectrum().magnitude)
    if freqs:
        return Wanted(run, {FREQS: per_pair(e)})
    return Wanted(run._replace(kind="longrope"), dict.fromkeys((SHORT, LONG), per_pair(e))) if lists else None


def ends(rule: Yarn) -> tuple[float, float]:
    return rule.beta_fast, rule.beta_slow


def rounded(e: Rotary, held: Held) -> Rotary:
    """The nearest encoding that can be expressed, of one with an unusual YaRN."""
    _, rules = fold(e)
    match rules:
        case (Yarn() as yarn,):
            fast, slow = (32.0, 1.0) if not held.arch.betas else ends(yarn)
            near = replace(yarn, ramp="index", truncate=True, beta_fast=fast, beta_slow=slow)
            return replace(e, base=fold(e)[0], scaling=(near,))
        case _:
            raise UnsupportedError(f"llama.cpp's {held.name} takes no divisors per pair, which {short(e)} needs")


def render(wanted: Wanted, source: Payload, held: Held, length: int, encodings: Sequence[hf.Layer]) -> dict[str, Any]:
    """The changes: every key that bears on positions is set or taken away."""
    run, stored = wanted.run, source["metadata"]
    rope: dict[str, Any] = {
        "context_length": length,
        "rope.freq_base": run.base,
        "rope.scale_linear": None,
        "rope.scaling.type": run.kind,
        "rope.scaling.factor": run.factor if run.kind != "none" else None,
        "rope.scaling.original_context_length": run.original or None,
        "rope.scaling.attn_factor": run.attn_factor if run.attn_factor != 1 else None,
        "rope.scaling.yarn_log_multiplier": held.arch.log_unit * held.log_weight or None,
        "rope.scaling.yarn_beta_fast": run.beta_fast if run.kind == "yarn" else None,
        "rope.scaling.yarn_beta_slow": run.beta_slow if run.kind == "yarn" else None,
        "rope.scaling.yarn_ext_factor": None,
        "rope.scaling.yarn_attn_factor": None,
        "rope.freq_base_swa": base_of_sliding(encodings, held, run.base),
    }
    metadata = {f"{held.name}.{key}": value for key, value in rope.items()}
    # what is not there need not be taken away
    changes = {key: value for key, value in metadata.items() if value is not None or key in stored}
    gone = dict.fromkeys(source.get("tensors", {}))
    return {"metadata": changes, "tensors": {**gone, **{name: list(d) for name, d in wanted.divisors.items()}}}


def base_of_sliding(encodings: Sequence[hf.Layer], held: Held, base: float) -> float | None:
    """What sliding layers need under their own key."""
    if held.arch.sliding not in ("own", "file"):
        return None
    sides = zip(encodings, held.sliding, strict=True)
    found = next((fold(e)[0] for e, slides in sides if slides and isinstance(e, Rotary)), None)
    return None if found == base and held.arch.sliding == "file" else found


def side_effects(e: Rotary, held: Held, length: int) -> list[Loss]:
    """What no comparison of rotations at one length shows, once the file is `held` and run for `length` tokens."""
    found: list[Loss] = []
    first = min(length, held.run.original)
    if held.short != held.long and allocated(length) > held.run.original:
        what = f"a text of up to {first} tokens should take the short divisors"
        instead = "the long ones for every text, since llama.cpp goes by the context that it allocates"
        found.append(loss(what, instead, [e], [for_length(e, held.run.original + 1)], first))
    want, got = hf.softmax_factor(e), softmax_factor(held, held.run)
    if not math.isclose(want, got, rel_tol=1e-9):
        what = f"a factor of {want:.6g} on the softmax scale (mscale_all_dim)"
        found.append(Loss(what, f"a factor of {got:.6g}", logits=abs(got - want)))
    return found
