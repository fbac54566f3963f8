"""The `ropewalk` command: one file per command, each a thin skin over one library function."""

import os
import sys
from itertools import pairwise

import typer

from ropewalk.cli.bench import bench_command
from ropewalk.cli.convert import convert_command
from ropewalk.cli.doctor import doctor_command
from ropewalk.cli.evaluate import evaluate_command
from ropewalk.cli.export import export_command
from ropewalk.cli.extend import extend_command
from ropewalk.cli.generate import generate_command
from ropewalk.cli.lab import lab_command
from ropewalk.cli.list import list_command
from ropewalk.cli.reason import reason_command
from ropewalk.cli.show import show_command
from ropewalk.errors import RopewalkError

INTERRUPTED = 130  # what typer makes of control-C
FIRST = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks

app = typer.Typer(
    name="ropewalk",
    help="Position encodings for Transformers: extend a pretrained model's context window, and prove it.",
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback()
def ropewalk() -> None:
    """Position encodings for Transformers: extend a pretrained model's context window, and prove it."""


app.command("bench")(bench_command)
app.command("convert")(convert_command)
app.command("doctor")(doctor_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("extend")(extend_command)
app.command("generate")(generate_command)
app.command("lab")(lab_command)
app.command("list")(list_command)
app.command("reason")(reason_command)
app.command("show")(show_command)


def main() -> None:
    """Run the command line: exit code 0 done, 1 the answer is no, 2 bad input with one clear line."""
    try:
        # outside this mode typer draws a box around what is wrong, over several lines
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except RopewalkError as error:
        if FIRST:
            print(f"ropewalk: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:
        if FIRST:
            print(f"ropewalk: {error.format_message()}{given(error)}", file=sys.stderr)
        sys.exit(2)
    if code == INTERRUPTED:
        print("ropewalk: stopped; run the same command again to go on", file=sys.stderr)
    sys.exit(code)


def given(error: typer.TyperException) -> str:
    """The word that an error is about, where it stands after an option."""
    names: list[str] = getattr(getattr(error, "param", None), "opts", [])
    words = [word for name, word in pairwise(sys.argv) if name in names]
    return f", got {words[-1]!r}" if words else ""


if __name__ == "__main__":
    main()
