"""`ropewalk evaluate MODEL`: the measurements alone, of a pretrained model or of a checkpoint of the lab."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from ropewalk.cli.bar import Bar
from ropewalk.cli.lab import Told
from ropewalk.cli.list import table
from ropewalk.errors import require

EXAMPLES = """
Examples, each a line:

  ropewalk evaluate demo

  ropewalk evaluate demo --to 16384 --encoding "Yarn(2, 8192)" --baselines --retrieval named-keys

  ropewalk evaluate ./my-model --to 4096 --text book.txt --out out/book --json > book.json

  ropewalk evaluate out/lab/checkpoints/RoPE-828dc5-seed0.safetensors --encoding "Yarn(4, 128)"

A pretrained model reads the text once, and every length is a view of that one pass; a length has a pass of its own only
where positions depend on the length that is served. A checkpoint of the lab reads what its run held out, at every
length and under every protocol, to the figures of that run. A scaling is added to the positions that the model has.

With --out every reading is kept as soon as it is done: the same command goes on where it was stopped, and other
encodings may be added to the folder later. Exit code 2: bad input.
"""
PRETRAINED, LAB = "pretrained models", "checkpoints of the lab"


def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face folder, a hub name, a .gguf file, demo, or a checkpoint of the lab.")
    ],
    encoding: Annotated[
        str | None, typer.Option(help="A scaling or an encoding to read with; the model's own if not given.")
    ] = None,
    to: Annotated[
        int | None,
        typer.Option(help="Tokens to read; the model's window, at most 16,384, or as far as the lab run went."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Your own text: a file or a folder; else what extend or the lab run held out.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A Hugging Face data set with a column text.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Read also as the model is, and its last trained window alone.")
    ] = False,
    retrieval: Annotated[str | None, typer.Option(help="Also ask for keys: named-keys or passkey.")] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Of a lab checkpoint: tokens to predict; as its run if not given.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for rows, losses and the summary; kept nowhere else.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, as if not given, float16 or float32.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Tokens of a forward call; 1,024 if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="For keys and their names; 0 if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Measure how MODEL reads texts of growing length, as it is or with another encoding."""
    shared: dict[str, Any] = {"encoding": encoding, "to": to, "text": text, "dataset": dataset}
    apart = {"--retrieval": retrieval, "--dtype": dtype, "--chunk": chunk, "--seed": seed}
    apart |= {"--baselines": baselines or None}
    with Bar() as bar, results(out) as folder:
        if model.endswith(".safetensors"):
            check_kind(apart, PRETRAINED, model)
            found = of_checkpoint(model, shared | {"held_out": held_out}, folder, bar)
        else:
            check_kind({"--held-out": held_out}, LAB, model)
            given = {name.removeprefix("--"): value for name, value in apart.items() if value is not None}
            found = of_pretrained(model, shared | given, folder, bar)
        if out:
            write(found, folder)
    show(bar.console, found)
    if out:
        bar.say(f"summary: {folder}/summary.json   all rows: {folder}/rows.jsonl")
    if as_json:
        print(json.dumps(found))


@contextmanager
def results(out: str | None) -> Generator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="ropewalk-") as folder:
        yield Path(folder)


def check_kind(options: dict[str, Any], kind: str, model: str) -> None:
    """Raise ConfigError where an option is given that only another kind of model has."""
    for name, value in options.items():
        require(value is None, name, f"left out: it is for {kind}, and {model} is none", value)


def of_checkpoint(model: str, given: dict[str, Any], folder: Path, bar: Bar) -> dict[str, Any]:
    from ropewalk.lab.measurement import RereadRequest, reread

    return reread(RereadRequest(model, **given), folder, Told(bar))


def of_pretrained(model: str, given: dict[str, Any], folder: Path, bar: Bar) -> dict[str, Any]:
    from ropewalk.extend.job import Watch
    from ropewalk.extend.measurement import EvaluateRequest, measure

    class Seen(Watch):
        def say(self, line: str) -> None:
            bar.say(line)

        def at(self, stage: str, name: str, tokens: int, share: float) -> None:
            bar.tell(share, f"{stage}: {name}, {tokens:,} tokens")

    return measure(EvaluateRequest(model, **given), folder, Seen())


def write(found: dict[str, Any], folder: Path) -> None:
    """summary.json, whole or not at all."""
    from ropewalk.evaluate.run import unwritable

    file = folder / "summary.json"
    part = file.with_suffix(".part")
    try:
        part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(file, error) from None


def show(console: Console, found: dict[str, Any]) -> None:
    """What was measured, as tables, and what is to be said of it."""
    from ropewalk.report.measurement import lines, tables

    for told in tables(found):
        console.print(f"\n{told.title}", style="bold", markup=False, highlight=False)
        console.print(table(told.heads, told.rows))
    console.print()
    for line in lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


evaluate_command.__doc__ = f"{evaluate_command.__doc__}\n{EXAMPLES}"
