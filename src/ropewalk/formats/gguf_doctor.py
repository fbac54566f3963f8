"""A GGUF file as a case for the doctor: what llama.cpp runs, against what all of its metadata say."""

from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.errors import require
from ropewalk.formats.effective import Effective
from ropewalk.formats.gguf_rules import Held, Metadata, hold, layers, softmax_factor
from ropewalk.formats.layers import rotary_of
from ropewalk.formats.lint import Case, Finding, asked

# keys that the converter writes for every architecture and few architectures read: what each is by default
WRITTEN = {"yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": -1.0}


def of_gguf(payload: Mapping[str, Any], length: int | None) -> tuple[Case, list[Finding]]:
    """The case, and findings about metadata alone."""
    held = hold(payload)
    about = Metadata(held.name, payload["metadata"])
    given = {key: value for key in WRITTEN if (value := about.get(f"rope.scaling.{key}")) is not None}
    for key, value in given.items():
        require(type(value) in (int, float), f"{held.name}.rope.scaling.{key}", "a number", value)
    idle = [key for key in given if not (held.arch.betas and "beta" in key) and given[key] != WRITTEN[key]]
    text = {
        "model_type": held.name,
        "num_hidden_layers": len(held.sliding),
        "head_dim": about.whole("attention.key_length", held.dim),
        "max_position_embeddings": held.window,
        "rope_theta": held.run.base,
    }
    ignored = tuple(f"llama.cpp's {held.name} does not read rope.scaling.{key} = {given[key]:g}" for key in idle)
    got = Effective(layers(held, held.run), ignored, softmax=softmax_factor(held, held.run))
    meant = layers(held, all_counted(held, given))
    case = Case("llamacpp", text, {}, text, asked(length, text), meant, got)
    return case, list(notes(held, about))


def all_counted(held: Held, given: Mapping[str, Any]) -> Any:
    """The run, if every key counted that is written; YaRN's own magnitude goes with yarn_ext_factor."""
    betas = {"beta_fast": given.get("yarn_beta_fast", 32.0), "beta_slow": given.get("yarn_beta_slow", 1.0)}
    extra = given.get("yarn_attn_factor", 1.0)
    if held.run.kind != "yarn":
        return held.run._replace(attn_factor=held.run.attn_factor * extra)
    return held.run._replace(attn_factor=held.run.attn_factor * extra, **betas)


def notes(held: Held, about: Metadata) -> Iterator[Finding]:
    if about.get("rope.scaling.type") is None and held.run.factor != 1:
        yield Finding(False, "no type", f"rope.scaling.type is missing, so the factor {held.run.factor:g} is linear")
    if held.freqs and held.run.stretch != 1:
        what = f"the file's own divisors (rope_freqs.weight) and {held.run.kind} by {held.run.factor:g} multiply"
        yield Finding(False, "double scaling", what)
    if about.get("rope.scaling.original_context_length") is None and held.run.kind == "yarn":
        what = f"rope.scaling.original_context_length is missing, so context_length = {held.window:,} counts as trained"
        yield Finding(False, "no original length", what)
    e = next((e for layer in layers(held, held.run) if (e := rotary_of(layer))), None)
    reach = held.run.original * held.run.stretch
    if e and held.run.kind == "yarn" and held.run.original < held.window and reach < 0.99 * held.window:
        what = f"{held.run.factor:g} x {held.run.original:,} tokens are less than context_length = {held.window:,}"
        yield Finding(False, "factor and lengths", what)
