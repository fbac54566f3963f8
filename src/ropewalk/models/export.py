"""A model's positions, its own or others, as what one engine is given: files to paste from, a checkpoint or a GGUF."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError, require
from ropewalk.formats import engines, gguf, gguf_copy, gguf_file, hf
from ropewalk.formats.checked import MOST_TOKENS
from ropewalk.formats.converted import is_payload, origin
from ropewalk.formats.gguf_rules import hold
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.layout import length_field, prepared
from ropewalk.formats.losses import Loss
from ropewalk.formats.placed import placed
from ropewalk.models.convert import config_of
from ropewalk.models.describe import Described, refuse_reordered
from ropewalk.models.files import naming
from ropewalk.models.save import appearing, bring_along

CHECKPOINTS = ("hf", "mlx")  # engines that read the folder of a checkpoint


class Export(NamedTuple):
    """What one engine is to be given, not yet written anywhere."""

    engine: str
    source: Described
    encodings: tuple[Layer, ...]  # one per layer
    length: int  # tokens
    payload: Mapping[str, Any]
    files: dict[str, str]  # name -> content, the one that the engine is told with first; {} for a GGUF
    losses: tuple[Loss, ...]


def prepare(
    source: Described,
    engine: str,
    encoding: Any = None,
    length: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Export:
    """Translate the model's own encodings, or `encoding` laid over its layers, for an engine that serves `length`.

    Without a length it is what the encoding's factors stretch the trained window to, or the model's window. Nothing is
    written. Raises RopewalkError for a bad config, and for what the engine cannot serve or would misread.
    """
    engines.known_engine(engine)
    refuse_reordered(source)
    config, own = read(source, engine, report)
    encodings = own if encoding is None else placed(encoding, config, own)
    # an encoding that cannot be is refused before a length is made of it
    if length is None:
        length = stretched(encodings, own, window_of(config, own))
    require(0 < length <= MOST_TOKENS, "--to", f"from 1 to {MOST_TOKENS} tokens", length)
    payload, losses = engines.written(engine, encodings, config, length)
    return Export(engine, source, encodings, length, payload, engines.render(engine, payload), losses)


def read(source: Described, engine: str, report: Callable[[str], None]) -> tuple[Mapping[str, Any], tuple[Layer, ...]]:
    """The config.json that this engine goes by, or the payload of the GGUF, and the encodings in it."""
    if engine == "gguf" and source.gguf is None:
        raise UnsupportedError(f"--engine gguf makes a new GGUF of an old one, and {source.file} is none")
    if source.gguf is not None and engine not in ("gguf", "llamacpp"):
        report(f"{source.name} is a GGUF: its metadata are made into the config.json of the checkpoint (MODEL)")
        config = config_of(source.file)
        return config, hf.read(config)
    with naming(source.file):
        if source.gguf is None:
            config = source.config or {}
            return config, hf.read(config)
        config = source.gguf.payload()
        return config, origin(config)[1]


def window_of(config: Mapping[str, Any], own: tuple[Layer, ...]) -> int | None:
    """Tokens that the model is made for as it stands; None where nothing says so."""
    if is_payload(config):
        return hold(config).window
    rows = [rows for layer in own for e in others_of(layer) if (rows := getattr(e, "length", None))]
    text = prepared(config)
    return rows[0] if rows else text.get(length_field(text))


def stretched(encodings: tuple[Layer, ...], own: tuple[Layer, ...], window: int | None) -> int:
    """The longest text that these encodings are made for."""
    new = [e for layer, old in zip(encodings, own, strict=True) if layer != old and (e := rotary_of(layer))]
    before = [rule for layer in own if (e := rotary_of(layer)) for rule in e.scaling]
    trained = min((n for rule in before if (n := getattr(rule, "trained_length", None))), default=window)
    reached = [
        (getattr(rule, "trained_length", None) or trained or 0) * factor
        for e in dict.fromkeys(new)
        for rule in e.scaling
        if (factor := getattr(rule, "factor", None))
    ]
    longest = max(reached, default=0) or window
    if longest is None:
        raise ConfigError("--to must be given: the config names no window")
    require(longest <= MOST_TOKENS, "the window that factors lead to", f"of at most {MOST_TOKENS} tokens", longest)
    return round(longest)


def write(export: Export, out: Path) -> tuple[Path, ...]:
    """Write a new folder with the files, or a new GGUF; the new paths come back.

    Where an engine reads checkpoints and the model is a folder, weights are linked and the tokenizer is copied beside
    the config.json. `out` appears complete or not at all. Raises ConfigError if it is there already, or has no parent.
    """
    check_place(out)
    if export.engine == "gguf":
        copy_gguf(export, out)
        return (out,)
    with appearing(out) as made:
        for name, content in export.files.items():
            (made / name).write_text(content, encoding="utf-8")
        if export.engine in CHECKPOINTS and holds_weights(export.source):
            bring_along(export.source.file.parent, made, export.length)
    return tuple(sorted(out.iterdir()))


def check_place(out: Path) -> None:
    """Raise ConfigError unless `out` is a new name in a folder that exists."""
    try:
        there, inside = out.exists() or out.is_symlink(), out.parent.is_dir()
    except OSError as error:
        raise ConfigError(f"--out cannot be written: {error.strerror}") from None
    if there:
        raise ConfigError(f"--out {out} is there already; name another one")
    if not inside:
        raise ConfigError(f"--out {out} is in no folder that exists")


def holds_weights(source: Described) -> bool:
    """Whether the model was named as a folder, and not as a config.json alone."""
    return source.gguf is None and Path(source.name).expanduser().is_dir()


def serving(export: Export, out: Path | None, said: str) -> str:
    """The line that serves what was written to `out`, or what the command `said` prints."""
    source = export.source
    if out is not None and export.engine in CHECKPOINTS and holds_weights(source):
        return engines.command(export.engine, export.length, str(out))
    if source.gguf is not None:
        model = str(source.file) if export.engine == "llamacpp" else ""
    else:
        # a config.json cannot be served, and llama.cpp serves nothing but GGUF
        model = "" if export.engine == "llamacpp" or Path(source.name).expanduser().is_file() else source.name
    name = model or engines.placeholder(export.engine)
    return engines.command(export.engine, export.length, str(out or ""), name, "" if out else said)


def copy_gguf(export: Export, out: Path) -> None:
    """The source's GGUF with other metadata, read once more as llama.cpp would."""
    gguf_copy.rewrite(export.source.file, out, export.payload["metadata"], export.payload["tensors"])
    try:
        got = gguf.read(gguf_file.open(out).payload())
        engines.check("the new GGUF", export.encodings, got, export.losses, export.length)
    except RopewalkError:
        out.unlink()
        raise
