"""One self-contained HTML page from a run's summary, and the files it is written to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ropewalk.evaluate.run import put_file
from ropewalk.report import findings, plots, style, tables
from ropewalk.report.style import Summary

Draws = Mapping[str, Callable[..., Figure]]  # by file name, functions of a summary that `narrow` draws for a phone


class Picture(NamedTuple):
    """A figure drawn for a desktop and for a phone, as SVG, and what it shows in words."""

    wide: Markup
    narrow: Markup
    words: str


def page(summary: Summary) -> str:
    """The report as HTML that needs no other file and makes no request."""
    context = {
        "s": summary,
        "tool": summary["tool"],
        "subject": tables.subject(summary),
        "numbers": findings.numbers(summary),
        "failures": findings.failures(summary),
        "fallback": findings.fallback(summary),
        "pictures": pictures(drawn(summary), summary, findings.in_words(summary)),
        "rows": tables.rows(summary),
    }
    return render("page.html.jinja", context)


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled in."""
    loader = PackageLoader("ropewalk.report", ".")
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = tables.duration
    return environment.get_template(template).render(context, theme=style.THEME)


def pictures(draws: Draws, summary: Summary, words: Mapping[str, str]) -> dict[str, Picture]:
    """Every figure for both widths."""
    return {name: picture(name, draw, summary, words[name]) for name, draw in draws.items()}


def picture(name: str, draw: Callable[..., Figure], summary: Summary, words: str) -> Picture:
    wide, narrow = style.svg(draw(summary), name), style.svg(draw(summary, narrow=True), f"{name}-narrow")
    return Picture(Markup(wide), Markup(narrow), words)


def drawn(summary: Summary) -> Draws:
    """The figures that this run has measurements for, by file name."""
    everyone = summary["candidates"]
    measured = {
        plots.held_out_loss: any(c["held_out"] for c in everyone),
        plots.race: any(c["search"] and c["search"]["blocks"] for c in everyone),
        plots.retrieval: summary["retrieval"] and summary["retrieval"]["grids"],
        plots.spectrum: summary["spectrum"],
    }
    return {draw.__name__: draw for draw, there in measured.items() if there}


def write_report(summary: Summary, folder: Path) -> list[Path]:
    """Write report.html and figures/*.png into `folder`, each whole or not at all; their paths."""
    return write(page(summary), drawn(summary), summary, folder)


def write(html: str, draws: Draws, summary: Summary, folder: Path) -> list[Path]:
    """Write a page and its figures once all are there, each whole or not at all; their paths."""
    content = {folder / "report.html": html.encode()}
    for name, draw in draws.items():
        content[folder / "figures" / f"{name}.png"] = style.png(draw(summary))
    for path, data in content.items():
        put_file(path, data)
    return list(content)
