"""Flags, metadata and tensors of llama.cpp <-> encodings, under llama.cpp's own reading rules.

A payload is {"flags": [...], "tensors": {name: divisors}}.  Flags reach every number but the divisors per pair, which
only the GGUF file can hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.converted import Converted, converted
from ropewalk.formats.write_rope import fold, per_pair, settle
from ropewalk.scalings import Linear, Llama3, LongRope, Rescale, Yarn
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import for_length

ATTN_FACTOR = "rope.scaling.attn_factor"
Divisors = tuple[float, ...] | None


def write(
    encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Flags, tensors that the GGUF must hold where flags do not reach, and what is lost.

    Raises UnsupportedError for what this architecture cannot express even so.
    """
    model = converted(config)
    e = reached(encodings, model)
    fixed, note = settle(e, length, frozenset())
    notes = [note] if note else []
    if e == model.own and isinstance(model.rule, LongRope):
        # the GGUF holds both lists
        flags, attn_factor, divisors = [], model.rule.effective_magnitude(), None
    else:
        flags, attn_factor, divisors = express(for_length(fixed, length), model)
    if attn_factor != 1 and any(model.sliding):
        raise UnsupportedError("llama.cpp would apply the magnitude to the sliding layers too")
    if attn_factor != metadata_factor({}, model):
        flags += ["--override-kv", f"{model.arch}.{ATTN_FACTOR}=float:{attn_factor!r}"]
    if divisors:
        notes.append(f"flags cannot hold divisors per pair: the GGUF must have them as {', '.join(model.tensors)}")
    if any(isinstance(rule, LongRope) and rule.short_factor != rule.long_factor for rule in e.scaling):
        notes.append("llama.cpp takes the long divisors for texts of every length once -c exceeds the original")
    notes += softmax_notes(e, flags, model)
    tensors = {name: list(divisors) for name in model.tensors} if divisors else {}
    return {"flags": [*flags, "-c", str(length)], "tensors": tensors}, tuple(notes)


def softmax_notes(e: Rotary, flags: list[str], model: Converted) -> list[str]:
    """DeepSeek's factor on the softmax scale follows --rope-scale and a weight in the GGUF: say so if it is not that
    of the encoding."""
    stretch = float(flags[flags.index("--rope-scale") + 1]) if "--rope-scale" in flags else 1.0
    wanted, got = hf.softmax_factor(e), mscale(stretch, model.log_weight) ** 2
    if math.isclose(wanted, got, rel_tol=1e-9):
        return []
    return [f"llama.cpp's factor on the softmax scale (mscale_all_dim) is {got:.6g} instead of {wanted:.6g}"]


def reached(encodings: Sequence[hf.Layer], model: Converted) -> Rotary:
    """The one encoding of all layers that flags reach; UnsupportedError unless the others stay as they are."""
    hf.check_fits(encodings, model.layers)
    found: dict[Rotary, int] = {}
    for i, (new, old) in enumerate(zip(encodings, model.layers, strict=True)):
        if model.sliding[i] and new != old:
            raise UnsupportedError(f"llama.cpp's flags do not reach layer {i}, a sliding one: it stays {old!r}")
        if isinstance(new, Rotary) and not model.sliding[i]:
            found[new] = i
    if len(found) > 1:
        raise UnsupportedError(f"llama.cpp's flags reach all layers alike, layers {list(found.values())} differ")
    return next(iter(found))


def express(e: Rotary, model: Converted) -> tuple[list[str], float, Divisors]:
    """Flags, the factor on llama.cpp's own magnitude, and divisors per pair where flags do not do."""
    base, rules = fold(e)
    held = model.rule if isinstance(model.rule, Llama3 | LongRope) else None
    if isinstance(held, Llama3) and e.base == model.own.base and e.scaling[:1] == (held,):
        # the tensor in the GGUF goes on acting
        base, rules, held = e.base, e.scaling[1:], None
    common = ["--rope-freq-base", f"{base:.17g}"]
    match rules:
        case () if not held:
            return ["--rope-scaling", "none", *common], 1.0, None
        case (Linear(factor),) if not held:
            return ["--rope-scaling", "linear", "--rope-scale", f"{factor:.17g}", *common], 1.0, None
        case (Yarn(ramp="index", truncate=True) as yarn,) if not isinstance(model.rule, Llama3 | LongRope):
            extra = yarn.effective_magnitude() / model.yarn_magnitude(yarn.factor)
            return [*yarn_flags(yarn), *common], extra, None
        case _:
            pass
    if not model.tensors:
        raise UnsupportedError(f"llama.cpp's {model.arch} has no tensor for divisors per pair, which {e!r} needs")
    flags = ["--rope-scaling", "none", "--rope-freq-base", f"{e.base:.17g}"]
    return flags, e.spectrum().magnitude, per_pair(e)


def yarn_flags(yarn: Yarn) -> list[str]:
    numbers = {
        "--rope-scale": yarn.factor,
        "--yarn-orig-ctx": yarn.trained_length,
        "--yarn-beta-fast": yarn.beta_fast,
        "--yarn-beta-slow": yarn.beta_slow,
    }
    return ["--rope-scaling", "yarn", *(text for name, n in numbers.items() for text in (name, f"{n:.17g}"))]


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[hf.Layer, ...]:
    """The encodings that llama.cpp would run with the GGUF made from `config`, these tensors and these flags."""
    model = converted(config)
    given = dict(zip(payload["flags"][::2], payload["flags"][1::2], strict=True))
    length = int(given.get("-c", model.window))
    rules = named_rules(given, model)
    attn_factor = metadata_factor(given, model)
    if not isinstance(next(iter(rules), None), Yarn):
        # with YaRN active the magnitude is computed anew, and this flag is lost
        attn_factor *= float(given.get("--yarn-attn-factor", 1.0))
    divisors = tensor(payload.get("tensors", {}), model, length)
    base = float(given.get("--rope-freq-base", model.own.base))
    ones = (1.0,) * (model.own.dim // 2)
    extra = () if divisors is None and attn_factor == 1 else (Rescale(divisors or ones, attn_factor),)
    e = replace(model.own, base=base, scaling=(*rules, *extra))
    # sliding layers turn at their own rates but share the factor on the magnitude
    shared = () if attn_factor == 1 else (Rescale(ones, attn_factor),)
    return tuple(
        (replace(old, scaling=old.scaling + shared) if slides else e) if isinstance(old, Rotary) else ()
        for old, slides in zip(model.layers, model.sliding, strict=True)
    )


def named_rules(given: Mapping[str, str], model: Converted) -> tuple[Linear | Yarn, ...]:
    """What the scaling type does, by flag or else by metadata; divisors act after it and do not move its ramp."""
    rule = model.rule
    own = "linear" if isinstance(rule, Linear) else "yarn" if isinstance(rule, Yarn) else "none"
    kind = given.get("--rope-scaling", own)
    stored = rule.factor if isinstance(rule, Linear | Yarn) else 1.0
    factor = float(given.get("--rope-scale", 1 / float(given.get("--rope-freq-scale", 1 / stored))))
    if kind == "none" or (kind == "linear" and factor == 1):
        return ()
    if kind == "linear":
        return (Linear(factor),)
    original = given.get("--yarn-orig-ctx", rule.trained_length if isinstance(rule, Yarn) else model.window)
    # betas in the metadata reach few architectures, and the ends of the ramp are always rounded
    fast, slow = (float(given.get(f"--yarn-beta-{end}", default)) for end, default in (("fast", 32), ("slow", 1)))
    return (Yarn(factor, int(original), fast, slow, magnitude=model.yarn_magnitude(factor)),)


def metadata_factor(given: Mapping[str, str], model: Converted) -> float:
    """rope.scaling.attn_factor, overridden or as converted; the converter does not read `attention_factor`."""
    key, _, value = given.get("--override-kv", "").partition("=float:")
    if key == f"{model.arch}.{ATTN_FACTOR}":
        return float(value)
    if not isinstance(model.rule, LongRope):
        return 1.0
    stretch = max(model.window / model.rule.trained_length, 1.0)
    return math.sqrt(1 + math.log(stretch) / math.log(model.rule.trained_length))


def tensor(tensors: Mapping[str, Any], model: Converted, length: int) -> Divisors:
    """The divisors that act: those given, else those that the converter wrote."""
    if any(name in tensors for name in model.tensors):
        return tuple(tensors[model.tensors[0]])
    if isinstance(model.rule, LongRope):
        # by the context that is allocated, not by the text
        return model.rule.long_factor if length > model.rule.trained_length else model.rule.short_factor
    if isinstance(model.rule, Llama3):
        return per_pair(replace(model.own, scaling=(model.rule,)))
    return None
