"""`ropewalk show ENCODING`: one encoding, scaling or remap explained, and drawn."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

EXAMPLES = """
Examples, each a line:

  ropewalk show "Fire(heads=4)"

  ropewalk show "Yarn(factor=4, trained_length=8192)" --base 1e6 --dim 128 --plot yarn.png

  ropewalk show "(Rotary(64), Alibi(8))" --trained-length 2048 --plot both.svg

A scaling is shown on a Rotary. `ropewalk list` names everything that there is.
"""


def show_command(
    encoding: Annotated[str, typer.Argument(help='As it is written in a configuration: "Alibi(heads=8)".')],
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file: .png, .svg or .pdf.")] = None,
    trained_length: Annotated[int | None, typer.Option(help="Tokens of the trained window, to be marked.")] = None,
    dim: Annotated[int, typer.Option(help="Rotated channels of the Rotary that a scaling is shown on.")] = 64,
    base: Annotated[float, typer.Option(help="Base of the Rotary that a scaling is shown on.")] = 10000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON on standard output.")] = False,
) -> None:
    """Explain one encoding, scaling or remap: what it does, its paper, its parameters, properties and numbers."""
    from ropewalk.notation import parse
    from ropewalk.report.entry import entry
    from ropewalk.report.explain import explain

    told = explain(parse(encoding), trained_length, dim, base)
    if plot:
        from ropewalk.report.encodings import draw

        draw(told, plot)
        told["plot"] = str(plot)
    if as_json:
        print(json.dumps(told))
        return
    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=120)
    console.print(Markdown(entry(told)))
    if plot:
        console.print(f"drawn: {plot}", markup=False, highlight=False, soft_wrap=True)


show_command.__doc__ = f"{show_command.__doc__}\n{EXAMPLES}"
