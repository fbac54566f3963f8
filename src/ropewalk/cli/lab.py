"""`ropewalk lab`: small models trained short and tested long, one per encoding, under protocols that are named."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ropewalk.cli.bar import Bar
from ropewalk.cli.list import table
from ropewalk.errors import require

if TYPE_CHECKING:
    from ropewalk.lab.ranks import Ranks
    from ropewalk.lab.request import LabRequest

ANEW = ("resume", "workers", "cluster", "share", "as_json")  # what may be said when a run is gone on with

EXAMPLES = """
Examples, each a line:

  ropewalk lab

  ropewalk lab --quick --out out/quick

  ropewalk lab --tasks all --seeds 3

  ropewalk lab --text ./books --bpe 1024 --train-length 256

  ropewalk lab --encodings "[Alibi(4), (Rotary(32), T5(4)), [Rotary(32), Rotary(32), Rotary(32), ()]]"

  ropewalk lab --resume out/lab

Tasks: text (perplexity up to 16 times the trained length, speed and memory), strings (copying, recall and passkeys on
longer strings), numbers (sums of longer numbers), pictures (digits at 2 and 3 times the resolution), clips (more frames
and places), scaling (the RoPE model of text stretched by PI, NTK and YaRN, untuned and tuned).

The model of text has 4 layers of width 128 and 4 heads of 32 channels; a list inside the list has one encoding per
layer. A run that was interrupted goes on where it stopped when the same command is given again, or with --resume, to
the same weights bit for bit; tasks, seeds and encodings may be added to a folder later.

With --cluster all models are trained as tasks on Ray, on as many machines as it has; they must share the folder of the
run. "auto" is a cluster that runs here, "local" one that is started for the run.

Exit code 1: no line of the judgement sheet has a verdict, for too little was learned. Exit code 2: bad input.
"""


def lab_command(
    context: typer.Context,
    out: Annotated[str, typer.Option(help="Folder for rows, checkpoints and the report.")] = "out/lab",
    tasks: Annotated[str | None, typer.Option(help="A list, or all; text,strings if not given, text if quick.")] = None,
    encodings: Annotated[str | None, typer.Option(help="A list as in a configuration; nine if not given.")] = None,
    text: Annotated[str | None, typer.Option(help="Your own text: a file or a folder; else Python's sources.")] = None,
    bpe: Annotated[int | None, typer.Option(help="Learn so many pieces; if not given, tokens are bytes.")] = None,
    train_length: Annotated[int, typer.Option(help="Tokens of a text in training.")] = 128,
    times: Annotated[int, typer.Option(help="Test up to so many trained lengths: a power of two.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Of training on text; 1,220 if not given, 390 if quick.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Of every model; 1 if not given, 3 for small ones.")] = None,
    held_out: Annotated[int | None, typer.Option(help="Tokens to predict; 65,536 if not given.")] = None,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-3,
    dtype: Annotated[
        str | None, typer.Option(help="Of products in training: float32, or bfloat16 where fast, as if not given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Five encodings, a third of the steps, half the text.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes of one thread; one per core if not given.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Ray: local, auto, HOST:PORT or ray://HOST:PORT.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    resume: Annotated[str | None, typer.Option(help="Go on with the run in this folder.")] = None,
    share: Annotated[int, typer.Option("--context", help="Of torchrun's processes, so many share a text.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Train a small model with each encoding on short texts, test it on longer ones, and judge what comes out."""
    from ropewalk.lab.request import LabRequest
    from ropewalk.lab.together import follow, joined

    with joined(share) as ranks:
        if ranks and ranks.rank:
            raise typer.Exit(follow(ranks))
        names = {field.name for field in fields(LabRequest)}
        given = {name: value for name, value in context.params.items() if name in names}
        request = LabRequest(**given) if resume is None else gone_on_with(context, Path(resume))
        told = carry_out(request, as_json, ranks)
    raise typer.Exit(0 if told else 1)


def gone_on_with(context: typer.Context, folder: Path) -> "LabRequest":
    """What the run in `folder` was asked for. Raises ConfigError for options that it has settled."""
    from ropewalk.lab.request import stored

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    settled = ", ".join(f"--{name.replace('_', '-')}" for name in given if name not in ANEW)
    require(not settled, "--resume", "without what the run has settled", settled)
    here = {name: context.params[name] for name in ("workers", "cluster") if name in given}
    return replace(stored(folder), **here)


def carry_out(given: "LabRequest", as_json: bool, ranks: "Ranks | None") -> bool:
    """The run, its report, and what is said of both; whether a line of the sheet has a verdict, where it has lines."""
    from ropewalk.lab.run import lab
    from ropewalk.lab.summary import summarise, write
    from ropewalk.report.lab_page import write_lab_report

    with Bar() as bar:
        run = lab(given, Told(bar), ranks)
        summary = summarise(run)
        write(run, summary)
        report = write_lab_report(summary, run.folder)[0]
    show(bar.console, summary)
    bar.say(f"report: {report}   all rows: {run.folder}/rows.jsonl")
    if as_json:
        print(json.dumps(summary))
    return bool(summary["verdict"]["passed"] or summary["verdict"]["failed"] or not summary["sheet"])


class Told:
    """A run drawn by a bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def say(self, line: str) -> None:
        self.bar.say(line)

    def at(self, share: float, what: str) -> None:
        self.bar.tell(share, what)


def show(console: Console, summary: dict[str, Any]) -> None:
    """Perplexity by length under every protocol, the sheet, and what side tasks have found."""
    from ropewalk.report.lab_parts import parts

    if summary["encodings"]:
        show_text(console, summary)
    for part in parts(summary):
        console.print(f"\n{part.title}", style="bold", markup=False, highlight=False)
        for words in part.lessons.values():
            console.print(words, markup=False, highlight=False)


def show_text(console: Console, summary: dict[str, Any]) -> None:
    """What the models of text have read, and the sheet."""
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


lab_command.__doc__ = f"{lab_command.__doc__}\n{EXAMPLES}"
