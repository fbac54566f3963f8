"""`ropewalk lab`: small models trained short and tested long, one per encoding, under protocols that are named."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ropewalk.cli.bar import Bar
from ropewalk.cli.list import table

EXAMPLES = """
Examples, each a line:

  ropewalk lab

  ropewalk lab --quick --out out/quick

  ropewalk lab --seeds 3 --text ./books --bpe 1024

  ropewalk lab --encodings "[Alibi(4), (Rotary(32), T5(4)), [Rotary(32), Rotary(32), Rotary(32), ()]]"

The model has 4 layers of width 128 and 4 heads of 32 channels; a list inside the list has one encoding per layer. A run
that was interrupted goes on where it stopped when the same command is given again, to the same weights bit for bit, and
seeds or encodings may be added to a folder later.

Exit code 1: no line of the judgement sheet has a verdict, for too little was learned. Exit code 2: bad input.
"""


def lab_command(
    out: Annotated[str, typer.Option(help="Folder for rows, checkpoints and the summary.")] = "out/lab",
    encodings: Annotated[str | None, typer.Option(help="A list as in a configuration; nine if not given.")] = None,
    text: Annotated[str | None, typer.Option(help="Your own text: a file or a folder; else Python's sources.")] = None,
    bpe: Annotated[int | None, typer.Option(help="Learn so many pieces; if not given, tokens are bytes.")] = None,
    train_length: Annotated[int, typer.Option(help="Tokens of a text in training.")] = 128,
    times: Annotated[int, typer.Option(help="Test up to so many trained lengths: a power of two.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Of training; 1,220 if not given, 390 if quick.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each encoding, for intervals.")] = 1,
    held_out: Annotated[int | None, typer.Option(help="Tokens to predict; 65,536 if not given.")] = None,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-3,
    dtype: Annotated[
        str | None, typer.Option(help="Of products in training: float32, or bfloat16 where fast, as if not given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Five encodings, a third of the steps, half the text.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes of one thread; one per core if not given.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Train a small model with each encoding on short texts, test it on longer ones, and judge what comes out."""
    from ropewalk.lab.request import LabRequest
    from ropewalk.lab.run import lab
    from ropewalk.lab.summary import summarise, write

    data = encodings, text, bpe, train_length, times, steps, seeds, held_out
    given = LabRequest(out, *data, rate, dtype, quick, workers, checkpoint_every)
    with Bar() as bar:
        run = lab(given, Told(bar))
        summary = summarise(run)
        write(run, summary)
    show(bar.console, summary, run.folder)
    if as_json:
        print(json.dumps(summary))
    raise typer.Exit(0 if summary["verdict"]["passed"] or summary["verdict"]["failed"] else 1)


class Told:
    """A run drawn by a bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def say(self, line: str) -> None:
        self.bar.say(line)

    def at(self, share: float, what: str) -> None:
        self.bar.tell(share, what)


def show(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """Perplexity by length under every protocol, and the sheet."""
    heads = ["perplexity", *(f"{n:,}" for n in summary["lengths"])]
    for protocol, words in summary["protocols"].items():
        cells = [
            [e["name"], *(f"{x['perplexity']:.2f}" if "loss" in x else "-" for x in e["losses"][protocol])]
            for e in summary["encodings"]
        ]
        console.print(f"\n{protocol}: {words}", markup=False, highlight=False)
        console.print(table(heads, cells))
    words = {True: "holds", False: "fails", None: "untold"}
    lines = [[x["name"], words[x["passed"]], x["reason"] or x["condition"]] for x in summary["sheet"]]
    console.print(table(["published finding", "here", "when"], lines))
    console.print(f"{summary['verdict']['text']}", style="bold", markup=False, highlight=False)
    console.print(f"summary: {folder}/summary.json   all rows: {folder}/rows.jsonl", markup=False, soft_wrap=True)


lab_command.__doc__ = f"{lab_command.__doc__}\n{EXAMPLES}"
