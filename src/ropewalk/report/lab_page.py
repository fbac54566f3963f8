"""The page of a lab: both figures, the sheet, and a panel for every optional part that the summary has."""

from pathlib import Path

from ropewalk.report import lab_parts, lab_tables
from ropewalk.report.lab_figures import TITLES, change, perplexity, positions, published
from ropewalk.report.lab_speed import speed
from ropewalk.report.lab_words import lessons, verdict
from ropewalk.report.page import Draws, pictures, render, write
from ropewalk.report.style import Summary


def lab_page(summary: Summary) -> str:
    """The report as HTML that needs no other file and makes no request."""
    parts = list(lab_parts.parts(summary))
    told = lessons(summary) | {figure: words for part in parts for figure, words in part.lessons.items()}
    context = {
        "s": summary,
        "tool": f"ropewalk {summary['machine']['ropewalk']}",
        "verdict": verdict(summary),
        "titles": {p: TITLES[p] for p in summary["protocols"]},
        "lessons": told,
        "pictures": pictures(drawn(summary), summary, told),
        "numbers": lab_tables.numbers(summary),
        "shortfalls": lab_tables.shortfalls(summary),
        "sheet": lab_tables.sheet(summary["sheet"]),
        "losses": lab_tables.losses(summary),
        "speeds": lab_tables.speeds(summary),
        "blur": lab_tables.blur(summary),
        "models": lab_tables.models(summary),
        "command": lab_tables.command(summary["request"]),
        "parts": parts,
    }
    return render("lab.html.jinja", context)


def drawn(summary: Summary) -> Draws:
    """The figures that this lab has measurements for, by file name."""
    everyone = summary["encodings"]
    paper = summary["published"]["perplexity"]
    measured = {
        perplexity: any("loss" in e["losses"][p][0] for e in everyone for p in e["losses"]),
        change: any(x.get("ratio") for e in everyone for p in e["losses"] for x in e["losses"][p][1:]),
        positions: any(e["by_position"] for e in everyone),
        published: any(e["role"] in paper and e["losses"]["nonoverlapping"][0].get("ratio") for e in everyone),
        speed: any(e["speed"] for e in everyone),
    }
    draws = [draw for draw, there in measured.items() if there]
    return {draw.__name__: draw for draw in (*draws, *(d for part in lab_parts.parts(summary) for d in part.draws))}


def write_lab_report(summary: Summary, folder: Path) -> list[Path]:
    """Write report.html and figures/*.png into `folder`, each whole or not at all; their paths."""
    return write(lab_page(summary), drawn(summary), summary, folder)
