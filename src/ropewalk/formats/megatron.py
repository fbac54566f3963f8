"""Command-line arguments of Megatron-LM (core 0.16) <-> encodings.

A payload is {"args": [...]}, a flat list of words. One rotation serves every layer that rotates.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.compare import is_plain
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.layout import head_dim, prepared
from ropewalk.formats.losses import Loss, frozen, loss, measure
from ropewalk.formats.overrides import deepseek_magnitude, weight_for
from ropewalk.formats.read_rope import number
from ropewalk.formats.write_rope import fold, fraction_of
from ropewalk.scalings import Linear, Llama3, Yarn
from ropewalk.spectrum import Scaling, for_length

LLAMA3 = Llama3(8.0, 8192)  # all but its factor is built in
FLAGS = ("--rotary-interleaved", "--use-rope-scaling", "--no-yarn-correction-range-round-to-int")
# argument -> what it is where it is not given
NUMBERS = {
    "--rotary-base": 10000,
    "--rotary-percent": 1.0,
    "--rotary-seq-len-interpolation-factor": 1,
    "--rope-scaling-factor": 8.0,
    "--rotary-scaling-factor": 1.0,
    "--yarn-original-max-position-embeddings": 4096,
    "--yarn-beta-fast": 32.0,
    "--yarn-beta-slow": 1.0,
    "--mscale": 1.0,
    "--mscale-all-dim": 0.0,
}
WORDS = (*NUMBERS, "--position-embedding-type", "--kv-channels", "--no-rope-freq", "--max-position-embeddings")


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """Arguments for a model that is made for `length` tokens, and what is lost.

    The base and the factor of linear scaling are whole numbers there, and the nearest one is written. Raises
    UnsupportedError for what no arguments say.
    """
    text = prepared(config)
    turning = list(dict.fromkeys(e for layer in encodings if (e := rotary_of(layer))))
    if len(turning) != 1 or any(others_of(layer) for layer in encodings):
        raise UnsupportedError("Megatron has one rotation for every layer that rotates, and nothing beside it")
    e = turning[0]
    fixed = for_length(e, length)
    args = ["--kv-channels", str(head_dim(text, "full_attention")), *arguments(fixed, text)]
    still = [int(rotary_of(layer) is None) for layer in encodings]
    args += ["--no-rope-freq", json.dumps(still).replace(" ", "")] if any(still) else []
    payload = {"args": [*args, "--max-position-embeddings", str(length)]}
    settled = [fixed if rotary_of(layer) else layer for layer in encodings]
    lost = [frozen(e, fixed, length), rounding_loss(settled, read(payload, config), length)]
    return payload, tuple(found for found in lost if found)


def arguments(e: Rotary, text: Mapping[str, Any]) -> list[str]:
    """The arguments of one rotation whose rules are settled."""
    if not is_plain(e):
        raise UnsupportedError(f"Megatron's arguments turn the first channels by one coordinate alone, not {e!r}")
    base, rules = fold(e)
    width = head_dim(text, "full_attention")
    part = [] if e.dim == width else ["--rotary-percent", f"{fraction_of(e.dim, width):.17g}"]
    common = ["--rotary-base", str(max(round(base), 2)), *part]
    common += ["--rotary-interleaved"] if e.pairing == "interleaved" else []
    rope = ["--position-embedding-type", "rope", *common]
    match rules:
        case ():
            return rope
        case (Linear(factor),):
            return [*rope, *interpolation(factor)]
        case (Llama3() as rule,) if built_in(rule):
            return [*rope, *llama3(rule)]
        case (Llama3() as rule, Linear(factor)) if built_in(rule):
            return [*rope, *llama3(rule), *interpolation(factor)]
        case (Yarn(ramp="index") as yarn,) if e.pairing == "half" and not part:
            return ["--position-embedding-type", "yarn", *common, *yarn_words(yarn)]
        case (Yarn(),):
            raise UnsupportedError(f"Megatron's YaRN turns whole heads paired in halves, by pair index, not {e!r}")
        case _:
            raise UnsupportedError(f"no arguments of Megatron say {rules!r}")


def built_in(rule: Llama3) -> bool:
    return replace(rule, factor=LLAMA3.factor) == LLAMA3


def interpolation(factor: float) -> list[str]:
    return ["--rotary-seq-len-interpolation-factor", str(max(round(factor), 1))]


def llama3(rule: Llama3) -> list[str]:
    return ["--use-rope-scaling", "--rope-scaling-factor", f"{rule.factor:.17g}"]


def yarn_words(yarn: Yarn) -> list[str]:
    numbers = {
        "--rotary-scaling-factor": yarn.factor,
        "--yarn-original-max-position-embeddings": yarn.trained_length,
        "--yarn-beta-fast": yarn.beta_fast,
        "--yarn-beta-slow": yarn.beta_slow,
        # with a second weight of 0 the first one alone is the magnitude
        "--mscale": weight_for(yarn.effective_magnitude(), yarn.factor, "Megatron"),
        "--mscale-all-dim": 0.0,
    }
    flags = [] if yarn.truncate else ["--no-yarn-correction-range-round-to-int"]
    return [*(text for name, n in numbers.items() for text in (name, f"{n:.17g}")), *flags]


def rounding_loss(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> Loss | None:
    if measure(wanted, got, length).frequency <= 1e-12:
        return None
    what = "Megatron takes whole numbers for --rotary-base and --rotary-seq-len-interpolation-factor"
    return loss(what, "the nearest whole numbers", wanted, got, length)


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encodings that Megatron would run with these arguments, for a model with as many layers as `config` says.

    Raises UnsupportedError for positions of another kind and where Megatron would stop.
    """
    given = parsed(payload["args"])
    kind = given.get("--position-embedding-type", "learned_absolute")
    if kind == "none":
        return ((),) * len(hf.read(config))
    if kind not in ("rope", "yarn"):
        raise UnsupportedError(f"--position-embedding-type {kind} is not a rotation that is read here")
    width = int(number(given, "--kv-channels")) if "--kv-channels" in given else head_dim(prepared(config), "")
    e = rotation(given, width, yarn=kind == "yarn")
    still = bare(given, len(hf.read(config)))
    return tuple(() if bare else e for bare in still)


def rotation(given: Mapping[str, Any], width: int, yarn: bool) -> Rotary:
    base, pairing = number(given, "--rotary-base"), "interleaved" if given["--rotary-interleaved"] else "half"
    dim = width if yarn else int(width * number(given, "--rotary-percent"))
    if yarn and pairing == "interleaved":
        raise UnsupportedError("Megatron stops on --rotary-interleaved with YaRN")
    rules: tuple[Scaling, ...] = (yarn_of(given),) if yarn else ()
    if not yarn and given["--use-rope-scaling"]:
        rules = (replace(LLAMA3, factor=number(given, "--rope-scaling-factor")),)
    stretch = number(given, "--rotary-seq-len-interpolation-factor")
    # YaRN's class does not look at it
    rules += (Linear(stretch),) if stretch != 1 and not yarn else ()
    return Rotary(dim, base, rules, pairing)


def yarn_of(given: Mapping[str, Any]) -> Yarn:
    factor = number(given, "--rotary-scaling-factor")
    weights = {"mscale": given["--mscale"], "mscale_all_dim": given["--mscale-all-dim"]}
    return Yarn(
        factor,
        int(number(given, "--yarn-original-max-position-embeddings")),
        number(given, "--yarn-beta-fast"),
        number(given, "--yarn-beta-slow"),
        truncate=not given["--no-yarn-correction-range-round-to-int"],
        magnitude=deepseek_magnitude({"factor": factor, **weights}),
    )


def parsed(args: Sequence[str]) -> dict[str, Any]:
    """Argument -> value, with the defaults of those that are numbers or flags; unknown ones are passed by."""
    given: dict[str, Any] = {**NUMBERS, **dict.fromkeys(FLAGS, False)}
    words = list(args)
    for i, word in enumerate(words):
        if word in FLAGS:
            given[word] = True
        elif word in WORDS:
            require(i + 1 < len(words), word, "followed by a value", words)
            given[word] = as_number(word, words[i + 1]) if word in (*NUMBERS, "--kv-channels") else words[i + 1]
    return given


def as_number(name: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    require(math.isfinite(value), name, "a number", word)
    return value


def bare(given: Mapping[str, Any], count: int) -> list[bool]:
    """Which layers do not rotate: a pattern, or one in every so many."""
    pattern = given.get("--no-rope-freq")
    if pattern is None:
        return [False] * count
    if pattern.isdigit() and int(pattern):
        return [(i + 1) % int(pattern) == 0 for i in range(count)]
    marks = [mark == "1" for mark in pattern.strip("[]").split(",")]
    require(len(marks) == count, "--no-rope-freq", f"a number, or 0 or 1 for each of {count} layers", pattern)
    return marks


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """Megatron reads no config.json: what its arguments for this model come to, with what they lose."""
    payload, losses = write(hf.read(config), config, length)
    return Effective(read(payload, config), tuple(str(lost) for lost in losses))
