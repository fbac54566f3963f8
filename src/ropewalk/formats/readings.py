"""What each engine makes of a model's config.json as it stands: one call for all of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ropewalk.errors import RopewalkError, UnsupportedError, did_you_mean
from ropewalk.formats import hf, llamacpp, mlx, sglang, vllm
from ropewalk.formats.compare import disagreement
from ropewalk.formats.effective import Effective
from ropewalk.formats.layers import Layer
from ropewalk.formats.layout import inner_config, is_nested
from ropewalk.formats.read_rope import HARMLESS, KEYS, KNOWN, LENGTHS, SHARED, rope_type

FIELDS = ("rope_parameters", "rope_scaling")
Rope = dict[str, Any]
Config = Mapping[str, Any]


def effective(engine: str, config: Config, length: int) -> Effective:
    """What an engine of READINGS computes from this config.json when it serves `length` tokens.

    Raises UnsupportedError for an unknown engine, for a model that it does not run and where it would stop.
    """
    if engine not in READINGS:
        known = ", ".join(READINGS)
        raise UnsupportedError(f"engine {engine!r} is not one of {known}{did_you_mean(engine, READINGS)}")
    return READINGS[engine](config, length)


def of_transformers(config: Config, length: int) -> Effective:
    """Transformers warns of keys that it does not know, and goes on without them."""
    known = changed(config, lambda rope: {k: v for k, v in rope.items() if k in KNOWN})
    unread: list[str] = []
    for rope in ropes_of(config):
        kind = rope_type({**rope, "rope_type": rope.get("rope_type") or rope.get("type") or "default"})
        used = SHARED | HARMLESS | LENGTHS | KEYS[kind] | {"alpha"}
        unread += [f"transformers does not read {k!r} with rope_type {kind!r}" for k in rope if k not in used]
    idle = changed(known, lambda rope: rope if "rope_type" in rope or "type" in rope else plain(rope))
    return Effective(hf.read(idle), tuple(dict.fromkeys(unread)))


def plain(rope: Rope) -> Rope:
    """Parameters without a type, with nothing that would need one."""
    return {key: value for key, value in rope.items() if key in SHARED | HARMLESS | LENGTHS}


def of_llamacpp(config: Config, length: int) -> Effective:
    """The GGUF that llama.cpp's converter makes, served with `-c length`."""
    meant = of_transformers(config, length)
    known = changed(config, lambda rope: {k: v for k, v in rope.items() if k in KNOWN})
    layers = served(known, length)
    names = {key: None for rope in ropes_of(known) for key in rope if key not in SHARED | HARMLESS}
    idle = [name for name in names if is_idle(known, name, layers, length)]
    dropped = [rope_type(rope) for rope in ropes_of(known) if rope_type(rope) == "dynamic" and "alpha" not in rope]
    said = [f"llama.cpp's converter passes over rope_type {kind!r}" for kind in dict.fromkeys(dropped)]
    unread = [line.replace("transformers", "llama.cpp", 1) for line in meant.ignored]
    return Effective(layers, (*said, *unread, *(f"llama.cpp does not read {name!r}" for name in idle)))


def served(config: Config, length: int) -> tuple[Layer, ...]:
    return llamacpp.read({"flags": ["-c", str(length)], "tensors": {}}, config)


def is_idle(config: Config, name: str, layers: tuple[Layer, ...], length: int) -> bool:
    """Whether a parameter that counts in transformers could as well be missing."""
    without = changed(config, lambda rope: {k: v for k, v in rope.items() if k != name})
    try:
        counts = disagreement(hf.read(config), hf.read(without), length) is not None
        return counts and served(without, length) == layers
    except RopewalkError:
        return False


def ropes_of(config: Config) -> Iterator[Rope]:
    """Each dict of rope parameters, those nested in another one by one."""
    text = inner_config(config)
    for field in FIELDS:
        given = text.get(field)
        if isinstance(given, Mapping):
            yield from (dict(rope) for rope in (given.values() if is_nested(given) else [given]) if rope)


def changed(config: Config, change: Callable[[Rope], Rope]) -> dict[str, Any]:
    """The config with `change` applied to each dict of rope parameters."""
    text = dict(inner_config(config))
    for field in FIELDS:
        given = text.get(field)
        if isinstance(given, Mapping) and is_nested(given):
            text[field] = {k: change(dict(rope)) if isinstance(rope, Mapping) else rope for k, rope in given.items()}
        elif isinstance(given, Mapping):
            text[field] = change(dict(given))
    return text if inner_config(config) is config else {**config, "text_config": text}


READINGS: dict[str, Callable[[Config, int], Effective]] = {
    "hf": of_transformers,
    "vllm": vllm.effective,
    "sglang": sglang.effective,
    "llamacpp": of_llamacpp,
    "mlx": mlx.effective,
}
