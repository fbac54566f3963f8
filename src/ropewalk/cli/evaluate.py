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
GIVEN = "COMMANDLINE"  # where the parser says that an option comes from
PRETRAINED_ONLY, LAB_ONLY = ("baselines", "retrieval", "dtype", "chunk", "seed"), ("held_out",)


def evaluate_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder, a hub name, a .gguf file, demo, or a checkpoint of the lab.")],
    encoding: Annotated[
        str | None, typer.Option(help="A scaling or an encoding; the model's own if not given.")
    ] = None,
    to: Annotated[
        int | None, typer.Option(help="Tokens; if not given the model's window, at most 16,384, or as the lab run.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A file or a folder; if not given what extend or the lab run holds out.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A Hugging Face data set with a column text.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Read also as the model is, and the last trained window alone.")
    ] = False,
    retrieval: Annotated[str, typer.Option(help="Ask for keys as well: named-keys, passkey or none.")] = "none",
    held_out: Annotated[
        int | None, typer.Option(help="Of a lab checkpoint: tokens to predict; as its run if not given.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for rows, losses and summary; else nothing is kept.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    chunk: Annotated[int, typer.Option(help="Tokens of a forward call; less takes less memory.")] = 1024,
    seed: Annotated[int, typer.Option(help="For keys and their names.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Measure how MODEL reads texts of growing length, as it is or with another encoding."""
    carry_out(context, model, out, as_json)


def carry_out(context: typer.Context, model: str, out: str | None, as_json: bool) -> None:
    """The measurements, and what is said of them."""
    from ropewalk.evaluate.run import put_json

    with Bar() as bar, results(out) as folder:
        found = measured(context, model, folder, bar)
        if out:
            put_json(folder / "summary.json", found)
    show(bar.console, found)
    if out:
        bar.say(f"summary: {folder}/summary.json   all rows: {folder}/rows.jsonl")
    if as_json:
        print(json.dumps(found))


def measured(context: typer.Context, model: str, folder: Path, bar: Bar) -> dict[str, Any]:
    """What is measured of either kind of model, with the options that it has."""
    of_lab = model.endswith(".safetensors")
    barred, kind = (PRETRAINED_ONLY, "pretrained models") if of_lab else (LAB_ONLY, "checkpoints of the lab")
    for name in barred:
        source = context.get_parameter_source(name)
        rule = f"left out: it is for {kind}, and {model} is none"
        require(source is None or source.name != GIVEN, f"--{name.replace('_', '-')}", rule, context.params[name])
    given = {name: value for name, value in context.params.items() if name not in (*barred, "model", "out", "as_json")}
    return (of_checkpoint if of_lab else of_pretrained)(model, given, folder, bar)


@contextmanager
def results(out: str | None) -> Generator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="ropewalk-") as folder:
        yield Path(folder)


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
