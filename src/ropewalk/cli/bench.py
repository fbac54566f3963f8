"""`ropewalk bench`: ways to rotate and to attend side by side, checked first, then timed in turns."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.bar import Bar
from ropewalk.cli.list import table

EXAMPLES = """
Examples, each a line:

  ropewalk bench

  ropewalk bench attend --heads 8 --kv-heads 8 --dim 64 --bias alibi --repeats 5

  ropewalk bench rotate --length 1,512,4096 --dtype bfloat16 --gradients --plot rotate.png --json

What differs from float64 is not timed but called wrong. The exit code is 1 where that is ropewalk itself.
"""


def bench_command(
    what: Annotated[str, typer.Argument(help="rotate, attend or all.")] = "rotate",
    heads: Annotated[int, typer.Option(help="Query heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(help="Key heads, a divisor of the query heads.")] = 8,
    length: Annotated[str, typer.Option(help="Tokens; several, as in 512,4096, are drawn as lines.")] = "4096",
    dim: Annotated[str, typer.Option(help="Channels of a head; several are separated by commas.")] = "128",
    dtype: Annotated[str, typer.Option(help="Of float32, bfloat16, float16.")] = "float32,bfloat16",
    bias: Annotated[str, typer.Option(help="What attend adds: of alibi, t5, kerple.")] = "alibi,t5,kerple",
    gradients: Annotated[bool, typer.Option("--gradients", help="Time the way back as well.")] = False,
    layout: Annotated[str, typer.Option(help="Memory: bthd, as projections leave it, or bhtd.")] = "bthd",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="Names of contestants; everybody if not given.")] = "",
    repeats: Annotated[int, typer.Option(help="Rounds, in each of which everybody is timed once.")] = 7,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios into this file: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON on standard output.")] = False,
) -> None:
    """Time ways to rotate queries and keys, and to attend with a bias, side by side on what is installed."""
    from ropewalk.bench.request import BenchRequest, listed
    from ropewalk.bench.run import bench, machine, ours_fails
    from ropewalk.report.encodings import check_place, save
    from ropewalk.report.speed import HEADS, by_case, figure

    lists = listed("--length", length, int), listed("--dim", dim, int), listed("--dtype", dtype), listed("--bias", bias)
    names = listed("--only", only) if only else ()
    request = BenchRequest(what, heads, kv_heads, *lists, gradients, layout, device, names, repeats)
    if plot:
        check_place(plot)
    with Bar() as bar:
        rows, where = bench(request, bar.tell), machine(request)
    for title, cells in by_case(rows).items():
        bar.console.print(f"\n{title}", style="bold", markup=False, highlight=False)
        bar.console.print(table(HEADS, cells))
    if plot:
        save(figure(rows, where), plot)
    if as_json:
        print(json.dumps({"request": asdict(request), "machine": where, "rows": [r._asdict() for r in rows]}))
    raise typer.Exit(1 if ours_fails(rows) else 0)


bench_command.__doc__ = f"{bench_command.__doc__}\n{EXAMPLES}"
