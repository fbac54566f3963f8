"""One self-contained HTML page from a run's summary, and the files it is written to."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ropewalk.report import findings, plots, style, tables
from ropewalk.report.style import Summary


class Picture(NamedTuple):
    """A figure drawn for a desktop and for a phone, as SVG, and what it shows in words."""

    wide: Markup
    narrow: Markup
    words: str


def page(summary: Summary) -> str:
    """The report as HTML that needs no other file and makes no request."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = tables.duration
    template = environment.from_string(files("ropewalk.report").joinpath("page.html.jinja").read_text("utf-8"))
    words = findings.in_words(summary)
    return template.render(
        s=summary,
        theme=style.THEME,
        subject=tables.subject(summary),
        numbers=findings.numbers(summary),
        failures=findings.failures(summary),
        fallback=findings.fallback(summary),
        pictures={name: picture(name, draw, summary, words[name]) for name, draw in drawn(summary).items()},
        rows=tables.rows(summary),
    )


def picture(name: str, draw: Callable[..., Figure], summary: Summary, words: str) -> Picture:
    wide, narrow = style.svg(draw(summary), name), style.svg(draw(summary, narrow=True), f"{name}-narrow")
    return Picture(Markup(wide), Markup(narrow), words)


def drawn(summary: Summary) -> dict[str, Callable[..., Figure]]:
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
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    content = {folder / "report.html": page(summary).encode()}
    for name, draw in drawn(summary).items():
        content[folder / "figures" / f"{name}.png"] = style.png(draw(summary))
    for path, data in content.items():
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    return list(content)
