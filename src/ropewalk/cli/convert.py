"""`ropewalk convert MODEL --to half|interleaved`: weights for code that pairs channels the other way."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.bar import Bar
from ropewalk.errors import ConfigError, require

EXAMPLES = """
Examples, each a line:

  ropewalk convert ./my-model --to interleaved --out ./my-model-interleaved

  ropewalk convert ./my-lora --base ./my-model --to interleaved --out ./my-lora-interleaved

  ropewalk convert ./my-model --detect

Everything but the rows of queries and keys stays as it is, byte for byte, and nothing is ever unpickled. A conversion
that was interrupted goes on where it stopped when the same command is given again. --detect exits with 1 where the
losses are too close to tell.
"""


def convert_command(
    model: Annotated[str, typer.Argument(help="A Hugging Face or PEFT folder, a hub name, a .gguf file, or demo.")],
    to: Annotated[str | None, typer.Option(help="The order that is wanted: half or interleaved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the result, which must not be there yet.")] = None,
    before: Annotated[str | None, typer.Option("--from", help="The present order, if not that of the code.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="The model that a LoRA belongs to: a folder or config.json.")
    ] = None,
    detect: Annotated[bool, typer.Option("--detect", help="Tell the order from the model's losses on text.")] = False,
    text: Annotated[str | None, typer.Option(help="Your own text for --detect: a file or a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Put query and key weights into the order of the other pairing, or detect which one they are in."""
    if detect:
        require(not (to or out or before or base), "--detect", "given without --to, --out, --from and --base", True)
        return show_detected(model, text, as_json)
    if to is None or out is None or text is not None:
        raise ConfigError("convert takes --to and --out, or --detect which may take --text")
    from ropewalk.models.locate import locate
    from ropewalk.models.reorder import convert_pairing

    with Bar() as bar:
        folder = locate(model, bar.say)
        done = convert_pairing(folder, to, out, before, base, bar.tell)
    bar.say(f"{done.folder}: {done.tensors} tensors of {len(done.shards)} files from {done.before} to {done.pairing}")
    if done.kept:
        bar.say(f"of an earlier run, checked byte for byte and kept: {', '.join(done.kept)}")
    if done.note:
        bar.say(done.note)
    if as_json:
        print(json.dumps(done._asdict() | {"folder": str(done.folder)}))
    return None


def show_detected(model: str, text: str | None, as_json: bool) -> None:
    """Detect, and leave with exit code 1 where there is no answer."""
    from ropewalk.evaluate.pairing import NATS, SIGMAS, detect_pairing, reading
    from ropewalk.models.load import load

    with Bar() as bar:
        loaded = load(model, report=bar.say)
        ids, source = reading(loaded, text)
        found = detect_pairing(loaded, ids)
    losses = ", ".join(f"{pairing} {loss:.3f}" for pairing, loss in found.losses.items())
    margin = f"apart by {found.margin.loss:.3f} with a standard error of {found.margin.se:.3f}"
    bar.say(f"nats per token: {losses}; {margin}, on {found.margin.tokens:,} tokens of {source}")
    bar.say(f"an answer takes {NATS:g} nats and {SIGMAS:g} standard errors")
    bar.say(f"trained for: {found.pairing}" if found.pairing else "too close to tell")
    if as_json:
        print(json.dumps({"model": model, "text": source, **found._asdict(), "margin": found.margin._asdict()}))
    raise typer.Exit(0 if found.pairing else 1)


convert_command.__doc__ = f"{convert_command.__doc__}\n{EXAMPLES}"
