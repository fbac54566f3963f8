"""`ropewalk bench`: ways to rotate and to attend side by side, checked first, then timed in turns."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ropewalk.cli.bar import Bar
from ropewalk.cli.list import table

if TYPE_CHECKING:
    from ropewalk.bench.run import Row

EXAMPLES = """
Examples, each a line:

  ropewalk bench

  ropewalk bench attend --bias alibi --length 1024,4096

  ropewalk bench rotate --length 1 --only ropewalk,transformers

  ropewalk bench all --gradients --plot bench.png --json > bench.json

Everybody is first checked against float64. Who is off is called wrong, not timed.

Exit code 1: ropewalk itself was wrong or failed. Exit code 2: bad input.
"""


def bench_command(
    what: Annotated[str, typer.Argument(help="rotate (a minute or so), attend (some minutes) or all.")] = "rotate",
    heads: Annotated[int | None, typer.Option(help="Query heads; if not given 32 to rotate, 8 to attend.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Key heads; if not given 8, or as --heads.")] = None,
    length: Annotated[str, typer.Option(help="Tokens; several, as in 512,4096, are drawn as lines.")] = "4096",
    dim: Annotated[str | None, typer.Option(help="Channels of a head; if not given 128 and 64.")] = None,
    dtype: Annotated[str, typer.Option(help="Of float32, bfloat16, float16.")] = "float32,bfloat16",
    bias: Annotated[str, typer.Option(help="What attend adds: of alibi, t5, kerple.")] = "alibi,t5,kerple",
    gradients: Annotated[bool, typer.Option("--gradients", help="Time the way back as well.")] = False,
    layout: Annotated[str, typer.Option(help="Memory: bthd, as projections leave it, or bhtd.")] = "bthd",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="Contestants, as the tables name them; everybody if not given.")] = "",
    repeats: Annotated[int, typer.Option(help="Rounds, in each of which everybody is timed once.")] = 7,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios into this file: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON on standard output.")] = False,
) -> None:
    """Time ways to rotate queries and keys, and to attend with a bias, side by side on what is installed."""
    from ropewalk.bench.request import BenchRequest, listed
    from ropewalk.bench.run import bench, machine, ours_fails
    from ropewalk.report.encodings import check_place, save
    from ropewalk.report.speed_figure import figure

    dims = listed("--dim", dim, int) if dim is not None else None
    lists = listed("--length", length, int), dims, listed("--dtype", dtype), listed("--bias", bias)
    names = listed("--only", only) if only else ()
    request = BenchRequest(what, heads, kv_heads, *lists, gradients, layout, device, names, repeats)
    if plot:
        check_place(plot)
    # standard output is for the document alone, whatever somebody else's code prints
    with Bar() as bar, redirect_stdout(sys.stderr):
        rows, where = bench(request, bar.tell), machine(request)
    show(bar.console, rows, where)
    if plot:
        save(figure(rows, where), plot)
    if as_json:
        print(json.dumps({"request": asdict(request), "machine": where, "rows": [r._asdict() for r in rows]}))
    raise typer.Exit(1 if ours_fails(rows) else 0)


def show(console: Console, rows: list["Row"], where: dict[str, Any]) -> None:
    """A table for every case, as wide as the terminal, between where it was measured and what the two copies are."""
    from ropewalk.report.speed import LEGEND, about, tables

    console.print(f"\n{about(where)}", markup=False, highlight=False)
    for found in tables(rows):
        told = found.within(console.width)
        console.print(f"\n{told.title}", style="bold", markup=False, highlight=False)
        console.print(table(told.heads, told.cells))
        for line in told.remarks:
            console.print(line, markup=False, highlight=False)
    if any(row.what == "rotate" for row in rows):
        console.print(f"\n{LEGEND}", markup=False, highlight=False)


bench_command.__doc__ = f"{bench_command.__doc__}\n{EXAMPLES}"
