"""`ropewalk list`: every encoding, scaling and remap, with properties that are found out by trying."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

EXAMPLES = """
Examples, each a line:

  ropewalk list

  ropewalk list --json | jq -r '.encodings[] | select(.relative and .learned == 0) | .name'

Each property is that of the example, a small instance (16 channels, 4 heads, a window of 64 tokens).
"""
WIDTH = 120  # where no terminal says how wide it is


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON on standard output.")] = False,
) -> None:
    """List every encoding with its properties, every scaling and every remap."""
    from ropewalk.report.catalogue import COLUMNS, catalogue, cells

    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=WIDTH)
    with console.status("trying every encoding"):
        found = catalogue()
    if as_json:
        print(json.dumps(found))
        return
    console.print(table(["encoding", *COLUMNS], [[r["name"], *cells(r)] for r in found["encodings"]]))
    for column, meaning in COLUMNS.items():
        console.print(f"  [bold]{column}[/]: {meaning}", highlight=False)
    kept = ("norm", "keys")
    rows = [[r["name"], *(r[k] for k in kept), r["does"]] for r in found["scalings"]]
    console.print(table(["scaling", *kept, "what it does to the rates of a Rotary"], rows))
    console.print(table(["remap", "what it does to positions"], [[r["name"], r["does"]] for r in found["remaps"]]))
    console.print('One of them in full: ropewalk show "Yarn(factor=4, trained_length=8192)"', highlight=False)


def table(head: list[str], rows: list[list[str]]) -> Table:
    """Rows under bold heads; words wrap in the last column alone."""
    made = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False, title_justify="left")
    for i, name in enumerate(head):
        made.add_column(name, no_wrap=i + 1 < len(head), style="bold" if i == 0 else "")
    for cells in rows:
        made.add_row(*cells)
    return made


list_command.__doc__ = f"{list_command.__doc__}\n{EXAMPLES}"
