"""What each engine makes of a model's config.json as it stands: one call for all of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ropewalk.errors import RopewalkError, UnsupportedError, did_you_mean, require
from ropewalk.formats import hf, llamacpp, mlx, sglang, vllm
from ropewalk.formats.checked import checked
from ropewalk.formats.compare import disagreement
from ropewalk.formats.effective import Effective
from ropewalk.formats.gguf_rules import softmax_factor
from ropewalk.formats.layers import Layer, rotary_of
from ropewalk.formats.layout import inner_config, is_nested, length_field, prepared
from ropewalk.formats.read_rope import HARMLESS, KEYS, KNOWN, LENGTHS, SHARED, number, rope_type

FIELDS = ("rope_parameters", "rope_scaling")
Rope = dict[str, Any]
Config = Mapping[str, Any]


def effective(engine: str, config: Config, length: int) -> Effective:
    """What an engine of READINGS computes from this config.json when it serves `length` tokens.

    Raises UnsupportedError for an unknown engine and for a model whose rules there are not known, EngineStops where the
    engine would not start.
    """
    if engine not in READINGS:
        known = ", ".join(READINGS)
        raise UnsupportedError(f"engine {engine!r} is not one of {known}{did_you_mean(engine, READINGS)}")
    return READINGS[engine](config, length)


def meant(config: Config, override: Config | None = None) -> tuple[Layer, ...]:
    """What a config says, exactly: keys that no rope type has do not count, and `truncate` does wherever it stands."""
    known = changed(overridden(config, override or {}), lambda rope: {k: v for k, v in rope.items() if k in KNOWN})
    return hf.read(changed(known, lambda rope: rope if "rope_type" in rope or "type" in rope else plain(rope)))


def overridden(config: Config, override: Config) -> dict[str, Any]:
    """The config that an override means: its fields in the language model's part, in the place of the old ones.

    What the model itself is made of (the base of its angles, the part of a head that rotates, sections) stays where new
    rope parameters do not mention it.
    """
    inside = override.get("text_config", override)
    require(isinstance(inside, Mapping), "text_config of the override", "a JSON object", inside)
    over = dict(checked({field: value for field, value in inside.items() if value is not None}))
    names = [name for name in FIELDS if name in over]
    given = over.pop(names[-1]) if names else None
    text = {**inner_config(config), **over}
    if given is not None:
        old = next((rope for rope in ropes_of(config)), {})
        kept = {} if is_nested(given) else {k: v for k, v in old.items() if k in SHARED | HARMLESS}
        text = {**{k: v for k, v in text.items() if k not in FIELDS}, "rope_parameters": {**kept, **given}}
    return text if inner_config(config) is config else {**config, "text_config": text}


def of_transformers(config: Config, length: int) -> Effective:
    """Transformers warns of keys that it does not know, and goes on without them."""
    unread: list[str] = []
    for rope in ropes_of(config):
        kind = rope_type({**rope, "rope_type": rope.get("rope_type") or rope.get("type") or "default"})
        used = SHARED | HARMLESS | LENGTHS | KEYS[kind] | {"alpha"}
        unread += [f"transformers does not read {k!r} with rope_type {kind!r}" for k in rope if k not in used]
    if any(is_nested(given_in(config, name)) for name in FIELDS):
        if any("truncate" in rope for rope in ropes_of(config)):
            unread.append("transformers does not read 'truncate' inside a layer type, where it looks for it outside")
        config = changed(config, lambda rope: {k: v for k, v in rope.items() if k != "truncate"})
    layers = meant(config)
    return Effective(layers, tuple(dict.fromkeys(unread)), softmax=softmax_of(layers, prepared(config)))


def of_vllm(config: Config, length: int) -> Effective:
    found, text = vllm.effective(config, length), prepared(config)
    # its own rule of how long a text may be takes the factor of these types on top of what the config says
    free = {"linear", "dynamic", "proportional"}
    factors = [factor_of(rope) for rope in ropes_of(config) if rope_type(rope) in free]
    grown = 1.0 if "gemma3" in text.get("model_type", "") else next(iter(factors), 1.0)
    window = text.get(length_field(text))
    return found._replace(
        accepts=window and int(window * grown),
        softmax=softmax_of(found.layers, text),
    )


def of_sglang(config: Config, length: int) -> Effective:
    found, text = sglang.effective(config, length), prepared(config)
    rope = next(ropes_of(config), {})
    kept = "original_max_position_embeddings" in rope or rope_type(rope) == "llama3"
    window, factor = text.get(length_field(text)), 1.0 if kept else factor_of(rope)
    return found._replace(accepts=window and int(window * factor), softmax=softmax_of(found.layers, text))


def of_mlx(config: Config, length: int) -> Effective:
    found = mlx.effective(config, length)
    return found._replace(softmax=softmax_of(found.layers, prepared(config)))


def factor_of(rope: Rope) -> float:
    return 1.0 if rope.get("factor") is None else number(rope, "factor")


def softmax_of(layers: tuple[Layer, ...], text: Config) -> float:
    """DeepSeek's code multiplies the softmax scale by what its YaRN asks for; no other code does."""
    turning = [e for layer in layers if (e := rotary_of(layer))]
    return hf.softmax_factor(turning[0]) if turning and "qk_rope_head_dim" in text else 1.0


def plain(rope: Rope) -> Rope:
    """Parameters without a type, with nothing that would need one."""
    return {key: value for key, value in rope.items() if key in SHARED | HARMLESS | LENGTHS}


def of_llamacpp(config: Config, length: int) -> Effective:
    """The GGUF that llama.cpp's converter makes, served with `-c length`."""
    known = changed(config, lambda rope: {k: v for k, v in rope.items() if k in KNOWN})
    layers = served(known, length)
    names = {key: None for rope in ropes_of(known) for key in rope if key not in SHARED | HARMLESS}
    idle = [name for name in names if is_idle(known, name, layers, length)]
    dropped = [rope_type(rope) for rope in ropes_of(known) if rope_type(rope) == "dynamic" and "alpha" not in rope]
    said = [f"llama.cpp's converter passes over rope_type {kind!r}" for kind in dict.fromkeys(dropped)]
    unread = [line.replace("transformers", "llama.cpp", 1) for line in of_transformers(config, length).ignored]
    held = llamacpp.as_run({"flags": ["-c", str(length)], "tensors": {}}, known)
    softmax = softmax_factor(held, held.run)
    return Effective(layers, (*said, *unread, *(f"llama.cpp does not read {name!r}" for name in idle)), softmax=softmax)


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
    for given in (given_in(config, field) for field in FIELDS):
        each = given.values() if is_nested(given) else [given]
        yield from (dict(rope) for rope in each if isinstance(rope, Mapping) and rope)


def given_in(config: Config, field: str) -> Config:
    given = inner_config(config).get(field)
    return given if isinstance(given, Mapping) else {}


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
    "vllm": of_vllm,
    "sglang": of_sglang,
    "llamacpp": of_llamacpp,
    "mlx": of_mlx,
}
TITLES = {"hf": "transformers", "vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp", "mlx": "MLX-LM"}
