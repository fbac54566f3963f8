"""Flags of llama.cpp <-> encodings, under llama.cpp's own reading rules.

A payload is {"flags": [...], "tensors": {name: divisors}}.  Flags reach every number but the divisors per pair, which
only the GGUF file can hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, UnsupportedError, did_you_mean, require
from ropewalk.formats import gguf, hf
from ropewalk.formats.compare import CLOSE, disagreement
from ropewalk.formats.converted import origin
from ropewalk.formats.gguf import Wanted
from ropewalk.formats.gguf_rules import Held, Run, allocated, changed, hold, layers
from ropewalk.formats.losses import Loss, frozen
from ropewalk.formats.write_rope import per_pair
from ropewalk.spectrum import for_length
from ropewalk.written import short

KV = "--override-kv"
# flags with a number, and the setting that each of them replaces
NUMBERS = {
    "--rope-scale": "factor",
    "--rope-freq-base": "base",
    "--yarn-orig-ctx": "original",
    "--yarn-beta-fast": "beta_fast",
    "--yarn-beta-slow": "beta_slow",
    "--yarn-attn-factor": "attn_flag",
}
FLAGS = (*NUMBERS, "--rope-scaling", "--rope-freq-scale", KV, "-c")
KINDS = ("none", "linear", "yarn")


def write(
    encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """Flags, tensors that the GGUF must hold where flags do not reach, and what is lost.

    `config` is the payload of the GGUF that the flags are for, or a config.json, for the one that llama.cpp's converter
    makes of it. Raises UnsupportedError for what this architecture cannot express even so.
    """
    require(type(length) is int and 0 < length < 2**31, "length", "a whole number from 1 to 2147483647", length)
    source, own = origin(config)
    held = hold(source)
    hf.check_fits(encodings, own)
    e = gguf.lead(encodings, held)
    fixed = for_length(e, length)
    # where the GGUF holds both lists they stay, and follow the context
    keeps = e in own and bool(held.short)
    wanted = Wanted(held.run._replace(attn_factor=fixed.spectrum().magnitude), {}) if keeps else express(fixed, held)
    flags = [] if keeps else flags_of(wanted)
    if wanted.run.attn_factor != held.run.attn_factor:
        flags += [KV, f"{held.name}.rope.scaling.attn_factor=float:{wanted.run.attn_factor!r}"]
    tensors = {name: list(values) for name, values in wanted.divisors.items()}
    payload = {"flags": [*flags, "-c", str(length)], "tensors": tensors}
    if differs := disagreement(encodings, read(payload, config), length):
        layers_left = "sliding layers" if any(held.sliding) else "layers"
        raise UnsupportedError(f"llama.cpp's flags do not reach all {layers_left} of {held.name}: {differs}")
    moving = [frozen(x, for_length(x, length), length) for x in dict.fromkeys(encodings) if isinstance(x, Rotary)]
    losses = [lost for lost in moving if lost and not keeps]
    if tensors:
        what = f"flags cannot hold divisors per pair, and do something else without {', '.join(tensors)} in the GGUF"
        losses.append(Loss(what, "flags for a GGUF that has them"))
    return payload, (*losses, *gguf.side_effects(e, as_run(payload, config), length))


def express(e: Rotary, held: Held) -> Wanted:
    """Settings and divisors that mean this encoding, given what the file holds already."""
    acts = bool(held.freqs) and divides(e, held)
    # divisors in the file go on acting
    rest = replace(e, scaling=e.scaling[1:]) if acts else e
    reach = held.arch._replace(betas=True, freqs=False, lists="")
    wanted = gguf.express(rest, held._replace(arch=reach))
    if wanted and not held.short and (acts or not held.freqs) and not (acts and wanted.run.kind == "yarn"):
        return wanted
    lists = held.arch.lists if held.short or not held.arch.freqs else ""
    wanted = gguf.baked(e, lists, held.arch.freqs and not lists)
    if wanted is None:
        raise UnsupportedError(f"llama.cpp's {held.name} has no tensor for divisors per pair, which {short(e)} needs")
    return wanted._replace(run=wanted.run._replace(kind="none"))


def divides(e: Rotary, held: Held) -> bool:
    """Whether the first rule is what the divisors in the file do."""
    if e.base != held.run.base or not e.scaling:
        return False
    pairs = zip(per_pair(replace(e, scaling=e.scaling[:1])), held.freqs, strict=True)
    return all(abs(a - b) <= CLOSE * b for a, b in pairs)


def flags_of(wanted: Wanted) -> list[str]:
    run = wanted.run
    numbers = {"--rope-scale": run.factor} if run.kind != "none" else {}
    if run.kind == "yarn":
        numbers |= {"--yarn-orig-ctx": run.original}
        numbers |= {"--yarn-beta-fast": run.beta_fast, "--yarn-beta-slow": run.beta_slow}
    numbers |= {"--rope-freq-base": run.base}
    return ["--rope-scaling", run.kind, *(text for name, n in numbers.items() for text in (name, f"{n:.17g}"))]


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[hf.Layer, ...]:
    """The encodings that llama.cpp would run with the GGUF made from `config`, these tensors and these flags."""
    held = file_of(payload, config)
    # lists are chosen by the context that is allocated, not by the text
    length = allocated(int(number("-c", given(payload).get("-c", str(held.window)))))
    return tuple(for_length(e, length) for e in layers(held, settings(payload, held)))


def as_run(payload: Mapping[str, Any], config: Mapping[str, Any]) -> Held:
    """The file under these flags."""
    held = file_of(payload, config)
    return held._replace(run=settings(payload, held))


def file_of(payload: Mapping[str, Any], config: Mapping[str, Any]) -> Held:
    """The file with these tensors and overridden metadata."""
    flags = payload["flags"]
    over = (value.partition("=") for name, value in zip(flags[::2], flags[1::2], strict=False) if name == KV)
    kinds = {"float": float, "int": int, "str": str}
    metadata = {key: kinds.get(text.partition(":")[0], str)(text.partition(":")[2]) for key, _, text in over}
    # where divisors are given, they are all that the file holds
    tensors = payload.get("tensors") or {}
    old, _ = origin(config)
    gone = dict.fromkeys(old["tensors"]) if tensors else {}
    return hold(changed(old, {"metadata": metadata, "tensors": {**gone, **tensors}}))


def given(payload: Mapping[str, Any]) -> dict[str, str]:
    """Flag -> value."""
    flags = payload["flags"]
    require(len(flags) % 2 == 0, "flags", "names and values in turn", flags)
    found = dict(zip(flags[::2], flags[1::2], strict=True))
    for name in found:
        if name not in FLAGS:
            raise ConfigError(f"flag {name!r} is not known here{did_you_mean(name, FLAGS)}")
    return found


def number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"flag {name} must be a number, got {value!r}") from None


def settings(payload: Mapping[str, Any], held: Held) -> Run:
    """What the flags leave of the settings in the file."""
    flags = given(payload)
    kind = flags.get("--rope-scaling", held.run.kind)
    require(kind in KINDS or "--rope-scaling" not in flags, "flag --rope-scaling", f"one of {', '.join(KINDS)}", kind)
    changes: dict[str, Any] = {NUMBERS[name]: number(name, value) for name, value in flags.items() if name in NUMBERS}
    if "--rope-freq-scale" in flags and "factor" not in changes:
        changes["factor"] = 1 / number("--rope-freq-scale", flags["--rope-freq-scale"])
    # 0 stands for what the file says
    changes = {field: value for field, value in changes.items() if value or field not in ("factor", "base", "original")}
    if "original" in changes:
        changes["original"] = int(changes["original"])
    return held.run._replace(kind=kind, **changes)
