"""`--json-model-override-args` of SGLang 0.5.23 <-> encodings, under SGLang's own reading rules."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.effective import Effective, EngineStops
from ropewalk.formats.layers import Layer
from ropewalk.formats.layout import is_nested, length_field, prepared
from ropewalk.formats.losses import Loss, loss
from ropewalk.formats.overrides import (
    ORIGINAL,
    Rope,
    deepseek_magnitude,
    demand,
    each_rope,
    in_memory,
    is_deepseek,
    laid_over,
    longrope_magnitude,
    named,
    override,
    pick,
    read_layers,
    refuse_lists,
    refuse_unrotated,
    softmax_losses,
    two_lists,
    types_for,
    unread,
    with_axes,
)
from ropewalk.formats.read_rope import Frame, number, read_rope, read_yarn
from ropewalk.scalings.yarn import mscale

YARN = f"factor {ORIGINAL} extrapolation_factor attn_factor beta_fast beta_slow"
READS = {
    "default": "",
    "proportional": "",
    "linear": "factor",
    "llama3": f"factor low_freq_factor high_freq_factor {ORIGINAL}",
    "yarn": f"{YARN} mscale mscale_all_dim truncate",
    "longrope": f"short_factor long_factor {ORIGINAL} short_mscale long_mscale",
    "dynamic": "factor",
    "alpha": "alpha",
}
DEEPSEEK = f"{YARN} mscale mscale_all_dim"
# what an override must take back, because it is merged into the parameters that a model has
TAKEN_BACK = {"mscale": None, "mscale_all_dim": None, "extrapolation_factor": 1.0}


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The dict for `--json-model-override-args`, to be served with `--context-length length`, and what is lost.

    Raises UnsupportedError for what SGLang has no class for.
    """
    refuse_unrotated(hf.read(config), "SGLang")
    written, lost = hf.write(encodings, config, length, types_for(encodings, config))
    text, ropes = prepared(written), None
    if "rope_parameters" in text:
        own = in_memory(config)["rope_parameters"] or {}
        ropes = each_rope(text["rope_parameters"], lambda rope: adapt(with_axes(rope, encodings), text, own, length))
        if is_nested(ropes):
            lost += (
                Loss("SGLang reads parameters by layer type in the code of some models alone: try it on this one"),
            )
        elif ropes["rope_type"] == "longrope" and ORIGINAL in text:
            written = {**written, ORIGINAL: ropes[ORIGINAL]}
    lost += softmax_losses(encodings, text, "SGLang")
    payload = override(config, written, "rope_scaling", ropes)
    return payload, (*lost, *losses(encodings, read(payload, config), length))


def adapt(rope: Rope, text: Mapping[str, Any], own: Mapping[str, Any], length: int) -> Rope:
    """What transformers reads, in the terms of SGLang: `attn_factor` multiplies, `attention_factor` is not read.

    A flat override is merged into the model's `own` parameters, so what must not act is taken back.
    """
    if rope["rope_type"] == "longrope":
        refuse_lists(text, rope, "SGLang")
        magnitudes = {"short_mscale": rope["attention_factor"], "long_mscale": rope["attention_factor"]}
        # the table restarts where a text first exceeds the original length: with equal lists no text has to
        same = {ORIGINAL: length} if rope["short_factor"] == rope["long_factor"] else {}
        return {**rope, **magnitudes, **same}
    if rope["rope_type"] != "yarn":
        return rope
    yarn = read_yarn(rope, Frame(head_dim=0))
    known = {k: v for k, v in rope.items() if k not in ("attention_factor", "mscale", "mscale_all_dim")}
    back = {k: v for k, v in TAKEN_BACK.items() if k in own}
    if not is_deepseek(text):
        return {
            **known,
            **back,
            "truncate": yarn.truncate,
            "attn_factor": yarn.effective_magnitude() / mscale(yarn.factor),
        }
    if not yarn.truncate:
        raise UnsupportedError("SGLang's DeepSeek class always rounds the ends of YaRN's ramp (truncate)")
    weights = {"mscale": yarn.mscale or 1.0, "mscale_all_dim": yarn.mscale_all_dim or 0.0}
    extra = yarn.effective_magnitude() / deepseek_magnitude({**rope, **weights})
    return {**known, **back, **weights, "attn_factor": extra}


def losses(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> tuple[Loss, ...]:
    """Differences that no spelling avoids."""
    found: list[Loss] = []
    for e, served in dict.fromkeys(zip(wanted, got, strict=True)):
        if (lists := two_lists(e)) and length > lists.trained_length:
            what = "SGLang chooses the list for a whole batch, and one token later than transformers"
            found.append(loss(what, "", [e], [served], lists.trained_length + 1))
    return tuple(found)


def read(payload: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encodings that SGLang would run with the model of `config` under this override.

    Raises UnsupportedError where SGLang would stop with an error.
    """
    text, over = in_memory(config), laid_over(payload, config)
    own = text["rope_parameters"]
    # the old name is an alias of the new one
    given = over.get("rope_scaling", over.get("rope_parameters"))
    # merged into the parameters of a plain config, put in the place of those of a part
    ropes = own if given is None else given if "text_config" in config else {**(own or {}), **given}
    return layers_of({**text, **{k: v for k, v in over.items() if k != "rope_scaling"}, "rope_parameters": ropes})


def effective(config: Mapping[str, Any], length: int) -> Effective:
    """What `sglang.launch_server --model-path MODEL --context-length length` makes of a model's config.json."""
    text = in_memory(config)
    ropes = text["rope_parameters"] or {}
    lists = not is_nested(ropes) and named(ropes)["rope_type"] == "longrope"
    table = text.get(length_field(text), length) if lists else None
    unused = unread(text, lambda rope: reads(rope, text), "SGLang")
    return Effective(layers_of(text), unused, table)


def layers_of(text: Mapping[str, Any]) -> tuple[Layer, ...]:
    return read_layers(text, lambda rope, frame: translate(rope, frame, text))


def reads(rope: Rope, text: Mapping[str, Any]) -> str:
    """The keys that count in this dict, beside those that every type has."""
    if rope["rope_type"] != "default" and is_deepseek(text):
        return DEEPSEEK
    return READS["alpha" if rope["rope_type"] == "dynamic" and "alpha" in rope else rope["rope_type"]]


def translate(rope: Rope, frame: Frame, text: Mapping[str, Any]) -> Rope:
    """SGLang's reading of a dict, spelled for transformers; keys that SGLang drops are dropped."""
    demand(rope, "rope_theta", "SGLang")
    rope = {"factor": 1.0, **rope}
    kind, known = rope["rope_type"], pick(rope, *reads(rope, text).split())
    if kind == "yarn" or (kind != "default" and is_deepseek(text)):
        return translate_yarn(rope, frame, is_deepseek(text))
    match kind:
        case "llama3":
            return {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **known}
        case "longrope":
            first = rope[ORIGINAL]
            short, long = (
                longrope_magnitude(rope, frame.length or first, first, f"{n}_mscale") for n in ("short", "long")
            )
            if not math.isclose(short, long):
                raise UnsupportedError(f"short_mscale {short} and long_mscale {long} differ, which is not read here")
            # the long table is taken from the first position above the original length, the others by one less
            equal = rope.get("short_factor") == rope.get("long_factor")
            lists = pick(rope, "short_factor", "long_factor")
            return {**lists, ORIGINAL: first if equal else first + 1, "attention_factor": long}
        case "dynamic" if "alpha" not in rope:
            factor = number(rope, "factor")
            # one base for all lengths: that of `factor` times the served one
            return {**pick(rope), "alpha": factor**2 - factor + 1}
        case _:
            return known


def translate_yarn(rope: Rope, frame: Frame, deepseek: bool) -> Rope:
    """Both YaRN classes: magnitudes are multiplied by `attn_factor`, kept rates by `extrapolation_factor`."""
    if not deepseek and "mrope_section" in rope and ("mscale" in rope or "mscale_all_dim" in rope):
        raise EngineStops("SGLang stops on mscale and mscale_all_dim in a model with M-RoPE")
    both = deepseek or ("mscale" in rope and "mscale_all_dim" in rope)
    magnitude = deepseek_magnitude(rope) if both else mscale(number(rope, "factor"))
    names = ("factor", ORIGINAL, "beta_fast", "beta_slow", "mscale_all_dim", *(() if deepseek else ("truncate",)))
    magnitude *= number(rope, "attn_factor", 1.0)
    plain = {**pick(rope, *names), "rope_type": "yarn", ORIGINAL: rope.get(ORIGINAL) or frame.length}
    plain["attention_factor"] = magnitude
    kept = number(rope, "extrapolation_factor", 1.0)
    if kept == 1:
        return plain
    return {**pick(plain), **thinned(plain, frame, kept), "attention_factor": magnitude}


def thinned(rope: Rope, frame: Frame, kept: float) -> Rope:
    """YaRN whose ramp is multiplied by `kept`, as divisors per pair."""
    e, slow = read_rope(rope, frame._replace(original=None)), number(rope, "factor")
    pairs = zip(e.unbent().inv_freq, e.spectrum().inv_freq, strict=True)
    lists = [plain / (plain / slow + (bent - plain / slow) * kept) for plain, bent in pairs]
    return {"rope_type": "longrope", "short_factor": lists, "long_factor": lists, ORIGINAL: rope[ORIGINAL]}
