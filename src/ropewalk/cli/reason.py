"""`ropewalk reason MODEL`: chain of thought and self-consistency, against direct answers."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ropewalk.cli.bar import Bar
from ropewalk.cli.lab import Told
from ropewalk.cli.list import table

EXAMPLES = """
Examples, each a line:

  ropewalk reason demo

  ropewalk reason demo --task last-letter --lengths 2,3,4 --problems 20 --samples 5

  ropewalk reason demo --task needle --lengths 4096,8192,16384 --encoding "Yarn(2, 8192)" --text book.txt

  ropewalk reason my-model --server http://127.0.0.1:8080 --task all --problems 100 --samples 40 --early-stop

  ropewalk reason demo --zero-shot

Tasks: addition (of numbers longer than those of the exemplars), last-letter (of more words than those of the exemplars)
and needle (two facts hidden in a text of so many tokens, and their sum asked for). Every problem is answered at once,
after a greedy chain of thought, and by the vote of several drawn chains. A file of exemplars is a JSON list, or an
object a line, each with question, rationale and answer.

The server is any that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp), and MODEL its name there; a key is read from
OPENAI_API_KEY. Without one the model is loaded here, and what prompts share is read once.

Every sample is kept as soon as it is drawn: the same command goes on where it was stopped, and tasks, lengths, problems
and samples may be added to the folder later.

Exit code 1: neither chains nor votes are clearly better than answers at once. Exit code 2: bad input.
"""


def reason_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder, a hub name, a .gguf file, demo; or a name on the server.")],
    server: Annotated[str | None, typer.Option(help="Address of a server, such as http://127.0.0.1:8080.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send prompts to the server as messages of a chat.")] = False,
    task: Annotated[str, typer.Option(help="addition, last-letter, needle, a list of them, or all.")] = "addition",
    lengths: Annotated[str | None, typer.Option(help="Digits, words or tokens, as in 2,4,6.")] = None,
    problems: Annotated[int, typer.Option(help="Of every length.")] = 10,
    samples: Annotated[int, typer.Option(help="Chains that vote.")] = 10,
    temperature: Annotated[float, typer.Option(help="Of those chains.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0: from all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this total probability.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="Of a completion; if not given, enough for it.")] = None,
    exemplars: Annotated[str | None, typer.Option(help="A file of your own worked examples.")] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="No examples: think step by step.")] = False,
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Stop a vote that nothing can turn.")] = False,
    tie: Annotated[str, typer.Option(help="Of equal votes: first, random or max_logprob.")] = "first",
    encoding: Annotated[str | None, typer.Option(help="A scaling or an encoding; else the model's own.")] = None,
    text: Annotated[str | None, typer.Option(help="Where needles are hidden; else Python's reference.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder for all results; out/reason-MODEL if not given.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    batch: Annotated[int, typer.Option(help="Samples that are drawn side by side.")] = 20,
    timeout: Annotated[float, typer.Option(help="Seconds that the server has for an answer.")] = 300.0,
    seed: Annotated[int, typer.Option(help="For problems and samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Measure whether MODEL reasons better step by step, and whether a vote over several chains helps."""
    from ropewalk.reason.request import ReasonRequest, lengths_from

    names = {field.name for field in fields(ReasonRequest)}
    given: dict[str, Any] = {name: value for name, value in context.params.items() if name in names}
    given["lengths"] = lengths_from(lengths)
    request = ReasonRequest(**given)
    summary = carry_out(request, Path(out or f"out/reason-{model.rstrip('/').rsplit('/', 1)[-1]}"))
    if as_json:
        print(json.dumps(summary))
    raise typer.Exit(0 if summary["verdict"]["gained"] else 1)


def carry_out(request: Any, folder: Path) -> dict[str, Any]:
    """The run, its report, and what is said of both."""
    from ropewalk.evaluate.run import put_json
    from ropewalk.reason.run import reason
    from ropewalk.reason.source import opened
    from ropewalk.reason.summary import summarise
    from ropewalk.report.reason import write_reason_report

    with Bar() as bar:
        watch = Told(bar)
        with opened(request, watch) as source:
            summary = summarise(reason(request, folder, source, watch))
        put_json(folder / "summary.json", summary)
        report = write_reason_report(summary, folder)[0]
    show(bar.console, summary)
    bar.say(f"report: {report}   all samples: {folder}/rows.jsonl")
    return summary


def show(console: Console, summary: dict[str, Any]) -> None:
    """Accuracy by length under every method, accuracy by votes, and the verdict."""
    from ropewalk.report.reason_tables import curve_table, length_table

    for task in summary["tasks"]:
        for told in (length_table(task), curve_table(task)):
            if told:
                console.print(f"\n{told.title}", style="bold", markup=False, highlight=False)
                console.print(table(told.heads, [[name, *(c.main for c in cells)] for name, cells in told.rows]))
    console.print()
    console.print(summary["verdict"]["text"], style="bold", markup=False, highlight=False, soft_wrap=True)


reason_command.__doc__ = f"{reason_command.__doc__}\n{EXAMPLES}"
