"""The page of a reasoning run: figures, tables and a few problems with what was made of them."""

import shlex
from pathlib import Path
from typing import Any

from ropewalk.report import reason_tables
from ropewalk.report.page import Draws, pictures, render, write
from ropewalk.report.reason_figures import lengths, votes
from ropewalk.report.style import Summary
from ropewalk.report.tables import duration


def reason_page(summary: Summary) -> str:
    """The report as HTML that needs no other file and makes no request."""
    told = reason_tables.lessons(summary)
    context = {
        "s": summary,
        "tool": summary["tool"],
        "verdict": summary["verdict"],
        "facts": facts(summary),
        "lessons": told,
        "pictures": pictures(drawn(summary), summary, told),
        "numbers": reason_tables.numbers(summary),
        "tables": {task["name"]: reason_tables.all_tables(task) for task in summary["tasks"]},
        "command": command(summary["request"]),
    }
    return render("reason.html.jinja", context)


def facts(summary: Summary) -> list[str]:
    """What was measured, in a line."""
    request, source = summary["request"], summary["source"]
    chains = f"{request['samples']} chains drawn at temperature {request['temperature']:g} for a vote"
    found = [f"{source['model']}{' on ' + source['server'] if source['server'] else ''}"]
    found += [source["encoding"]] if request["encoding"] else []
    found += ["no exemplars" if request["zero_shot"] else "worked examples in the prompt", chains]
    return [*found, f"{request['problems']} problems of each length", duration(summary["seconds"])]


def command(request: dict[str, Any]) -> str:
    """The command that measures the same."""
    from ropewalk.reason.request import ReasonRequest

    words, usual = ["ropewalk", "reason", request["model"]], ReasonRequest(request["model"])
    for name, value in request.items():
        if name == "model" or value == getattr(usual, name):
            continue
        option = f"--{name.replace('_', '-')}"
        listed = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [option] if value is True else [option, listed]
    return shlex.join(words)


def drawn(summary: Summary) -> Draws:
    """The figures that there are measurements for."""
    return {"lengths": lengths} | ({"votes": votes} if any(task["curve"] for task in summary["tasks"]) else {})


def write_reason_report(summary: Summary, folder: Path) -> list[Path]:
    """Write report.html and figures/*.png into `folder`, each whole or not at all; their paths."""
    return write(reason_page(summary), drawn(summary), summary, folder)
