"""`ropewalk extend MODEL --to N`: candidates raced, the best one proven, exported and reported."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
Examples, each a line:

  ropewalk extend demo --to 16384

  ropewalk extend ./my-model --to 65536 --text book.txt

  ropewalk extend demo --to 16384 --method "Yarn(factor=2.0, trained_length=8192)"

  ropewalk extend demo --to 16384 --methods all

  ropewalk extend demo --to 16384 --method "ReRope(window=4096)"

A run that was interrupted goes on where it stopped when the same command is given again.
"""


def extend_command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub name, a .gguf file, or demo.")],
    to: Annotated[int, typer.Option(help="Tokens that the model shall read.")],
    out: Annotated[str | None, typer.Option(help="Folder for all results; out/MODEL-N if not given.")] = None,
    text: Annotated[str | None, typer.Option(help="Your own text: a file or a folder of text files.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A Hugging Face data set with a column text.")] = None,
    method: Annotated[str | None, typer.Option(help="Measure this one scaling instead of choosing.")] = None,
    methods: Annotated[str, typer.Option(help="What competes: scalings, or all (rules too).")] = "scalings",
    price: Annotated[float, typer.Option(help="Accepted rise of perplexity inside the window, in percent.")] = 4.0,
    finalists: Annotated[int, typer.Option(help="Candidates that go on to held-out text.")] = 2,
    retrieval: Annotated[str, typer.Option(help="named-keys, passkey or none.")] = "named-keys",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    chunk: Annotated[int, typer.Option(help="Tokens of a forward call; less takes less memory.")] = 1024,
    seed: Annotated[int, typer.Option(help="For keys and their names.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Find the position scaling that lets MODEL read N tokens, prove it, and write what engines need."""
    from ropewalk.cli.watch import Screen
    from ropewalk.extend.job import extend
    from ropewalk.extend.outcome import deliver, summarise
    from ropewalk.extend.plan import ExtendRequest

    folder = out or f"out/{model.rstrip('/').rsplit('/', 1)[-1]}-{to}"
    request = ExtendRequest(
        model, to, folder, text, dataset, method, methods, price / 100, finalists, retrieval, dtype, chunk, seed
    )
    started = time.perf_counter()
    with Screen() as screen:
        run = extend(request, screen)
        summary = deliver(run, summarise(run, started))
        draw(summary, Path(folder))
    screen.result(summary, folder)
    if as_json:
        print(json.dumps(summary))
    raise typer.Exit(0 if summary["gained"] else 1)


def draw(summary: dict[str, Any], folder: Path) -> None:
    """Write the page; matplotlib is loaded last, since it may want to say something when it first looks for fonts."""
    from ropewalk.report.page import write_report

    write_report(summary, folder)


extend_command.__doc__ = f"{extend_command.__doc__}\n{EXAMPLES}"
