"""`ropewalk export MODEL --engine NAME`: positions as what one engine is given, to paste or to serve."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from ropewalk.models.export import Export

WIDTH = 160  # characters of an encoding that are shown
EXAMPLES = """
Examples, each a line:

  ropewalk export ./my-model --engine vllm --encoding "Yarn(factor=4.0, trained_length=32768)"

  vllm serve ./my-model --hf-overrides "$(ropewalk export ./my-model --engine vllm --encoding "NTK(4.0)")"

  ropewalk export demo --engine gguf --encoding "Yarn(factor=2.0, trained_length=8192)" --out long.gguf

  ropewalk export ./my-model --engine hf --encoding "Linear(2.0)" --to 16384 --out ./my-model-16k

A scaling takes the place of the model's own; sliding layers with a rope of their own keep it. No weights are loaded,
nothing that exists is changed, and what is written is first read back as the engine would read it. Where an engine
cannot do exactly what was asked for, that is said and nothing is written, unless --allow-loss is given.
"""


def export_command(
    model: Annotated[str, typer.Argument(help="A folder, a config.json, a .gguf file, a hub name, or demo.")],
    engine: Annotated[str, typer.Option(help="hf, vllm, sglang, llamacpp (flags), gguf (a new file) or mlx.")],
    encoding: Annotated[
        str | None,
        typer.Option(help="A scaling, a Rotary or a list, one per layer; the model's own if not given."),
    ] = None,
    to: Annotated[
        int | None, typer.Option(help="Tokens to be served; what the scaling's factor reaches, or the model's window.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder, for gguf a new file; standard output if not given.")
    ] = None,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="Write the nearest, and say what is lost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print files, command and losses as JSON.")] = False,
) -> None:
    """Write what an engine needs to run MODEL with its own positions or with others."""
    from ropewalk.formats.engines import known_engine
    from ropewalk.models.describe import describe
    from ropewalk.models.export import check_place, prepare, serving, write
    from ropewalk.notation import parse

    known_engine(engine)
    if out is not None:
        check_place(out)
    value = None if encoding is None else parse(encoding)
    made = prepare(describe(model, say), engine, value, to, say)
    refuse(made, out, allow_loss)
    paths = [] if out is None else [str(path) for path in write(made, out)]
    line = serving(made, out, again(made, encoding, allow_loss))
    tell(made, paths, line)
    if as_json:
        print(json.dumps(summary(made, paths, line)))
    elif out is None:
        print(next(iter(made.files.values())), end="")


def refuse(made: "Export", out: Path | None, allow_loss: bool) -> None:
    """Say what is lost; raise RopewalkError if that is not allowed, or if there is no place for what was made."""
    for loss in made.losses:
        say(f"lost: {loss}.")
    if made.losses and not allow_loss:
        divisors = made.engine == "llamacpp" and made.source.gguf and made.payload["tensors"]
        other = ", and --engine gguf a GGUF that has them" if divisors else ""
        raise UnsupportedError(f"{made.engine} cannot carry all of it; --allow-loss writes what is nearest{other}")
    if out is None and not made.files:
        raise ConfigError("--out must name the new GGUF")
    if out is None and len(made.files) > 1:
        raise ConfigError(f"--out must name a folder for the {len(made.files)} files {', '.join(made.files)}")


def again(made: "Export", encoding: str | None, allow_loss: bool) -> str:
    """This command, without a place to write to."""
    words = ["ropewalk", "export", made.source.name, "--engine", made.engine]
    words += ["--encoding", encoding] if encoding else []
    return shlex.join([*words, "--to", str(made.length), *(["--allow-loss"] if allow_loss else [])])


def tell(made: "Export", paths: list[str], line: str) -> None:
    """What was made and how it is used, on standard error."""
    from ropewalk.written import short

    kinds = [f"{made.encodings.count(e)} x {shorten(short(e))}" for e in dict.fromkeys(made.encodings)]
    say(f"{made.source.name}, {len(made.encodings)} layers for {made.length:,} tokens: {'; '.join(kinds)}")
    for path in paths:
        say(f"written: {path}")
    say(line)


def shorten(text: str) -> str:
    """Lists of divisors are longer than anyone reads."""
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."


def summary(made: "Export", paths: list[str], line: str) -> dict[str, Any]:
    """Contents by file name, null for what was copied or linked; where they lie; the command; and every loss."""
    from ropewalk.written import short

    names = [Path(path).name for path in paths] or list(made.files)
    return {
        "engine": made.engine,
        "length": made.length,
        "encodings": [short(e) for e in made.encodings],
        "files": {name: made.files.get(name) for name in names},
        "paths": paths,
        "command": line,
        "losses": [{**loss._asdict(), "text": str(loss)} for loss in made.losses],
    }


def say(line: str) -> None:
    print(line, file=sys.stderr)


export_command.__doc__ = f"{export_command.__doc__}\n{EXAMPLES}"
