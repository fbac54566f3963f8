"""The `ropewalk` command: one file per command, each a thin skin over one library function."""

import sys

import typer

from ropewalk.cli.extend import extend_command
from ropewalk.errors import RopewalkError

app = typer.Typer(
    name="ropewalk",
    help="Position encodings for Transformers: extend a pretrained model's context window, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback()
def ropewalk() -> None:
    """Position encodings for Transformers: extend a pretrained model's context window, and prove it."""


app.command("extend")(extend_command)


def main() -> None:
    """Run the command line: exit code 0 done, 1 the answer is no, 2 bad input with one clear line."""
    try:
        app()
    except RopewalkError as error:
        print(f"ropewalk: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("ropewalk: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
