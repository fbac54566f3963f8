"""The figures of a reasoning run, each a function of its summary; `narrow` draws the same for a phone."""

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ropewalk.evaluate.metrics.accuracy import Z95
from ropewalk.report import lab_lines, style
from ropewalk.report.lab_lines import Look
from ropewalk.report.reason_tables import METHODS
from ropewalk.report.style import DASHES, RC, Summary, colour

LOOKS = {
    "direct": Look("truncated", "s", DASHES[1]),
    "cot": Look("other-0", "D", DASHES[0], 1.8),
    "vote": Look("chosen", "o", DASHES[0], 2.4),
}


def panels(tasks: list[dict[str, Any]], narrow: bool) -> tuple[Figure, list[Axes]]:
    """One panel for each task: side by side, or one above the other on a phone."""
    count = len(tasks)
    figure = style.canvas(2.9 * count + 0.9 if narrow else 4.0, narrow)
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.08)
    grid = figure.subplots(*((count, 1) if narrow else (1, count)), sharey=True, squeeze=False)
    axes = list(grid.flat)
    for ax, task in zip(axes, tasks, strict=True):
        ax.set_ylim(-4, 104)
        ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f}%"))
        ax.set_title(task["name"], fontsize=9)
    for ax in axes if narrow else axes[:1]:
        ax.set_ylabel("right answers")
    return figure, axes


@rc_context(RC)
def lengths(summary: Summary, narrow: bool = False) -> Figure:
    """Right answers by the length of the problem, with 95% Wilson intervals."""
    figure, axes = panels(summary["tasks"], narrow)
    for ax, task in zip(axes, summary["tasks"], strict=True):
        places = list(range(len(task["lengths"])))
        for shift, (name, x) in zip((-0.06, 0.0, 0.06), task["methods"].items(), strict=True):
            at = [p + shift for p in places]
            y = [100 * s["found"] / s["asked"] for s in x["by_length"]]
            low = [value - 100 * s["low"] for value, s in zip(y, x["by_length"], strict=True)]
            high = [100 * s["high"] - value for value, s in zip(y, x["by_length"], strict=True)]
            ax.errorbar(at, y, (low, high), fmt="none", ecolor=colour(LOOKS[name].shade), elinewidth=1, alpha=0.6)
            lab_lines.draw(ax, at, y, LOOKS[name], METHODS[name])
        ax.set_xticks(places, [f"{n:,}" for n in task["lengths"]])
        ax.set_xlim(-0.35, len(places) - 0.65)
        beyond = [p for p, n in zip(places, task["lengths"], strict=True) if n > task["shown"]]
        if beyond:
            ax.axvspan(
                beyond[0] - 0.35 if beyond[0] == 0 else beyond[0] - 0.5,
                len(places),
                color=colour("zone"),
                lw=0,
                zorder=0,
            )
        ax.set_xlabel(task["unit"])
    key(figure, narrow)
    return figure


@rc_context(RC)
def votes(summary: Summary, narrow: bool = False) -> Figure:
    """Right answers by the number of chains that vote, beside the other methods; bands are 95% over problems."""
    shown = [task for task in summary["tasks"] if task["curve"]]
    figure, axes = panels(shown, narrow)
    for ax, task in zip(axes, shown, strict=True):
        x, y = [p["n"] for p in task["curve"]], [100 * p["accuracy"] for p in task["curve"]]
        half = [100 * Z95 * (p["problems_se"] or 0.0) for p in task["curve"]]
        low, high = ([max(0.0, min(100.0, a + s * b)) for a, b in zip(y, half, strict=True)] for s in (-1, 1))
        lab_lines.band(ax, x, low, high, LOOKS["vote"])
        lab_lines.draw(ax, x, y, LOOKS["vote"], METHODS["vote"])
        for name in ("direct", "cot"):
            total = task["methods"][name]["total"]
            ax.axhline(100 * total["found"] / total["asked"], **LOOKS[name].line())
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(x))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(x, [str(n) for n in x])
        ax.set_xlabel("chains that vote")
    key(figure, narrow)
    return figure


def key(figure: Figure, narrow: bool) -> None:
    lab_lines.key(figure, {METHODS[name]: look for name, look in LOOKS.items()}, narrow)
