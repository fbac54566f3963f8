"""The two figures of a lab, and what belongs to them, each a function of its summary; `narrow` is for a phone.

Losses come in nats per token and are drawn as perplexities on a log scale, on which a difference in nats is a distance.
"""

import math
import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from ropewalk.lab.estimates import student
from ropewalk.report import lab_lines, style
from ropewalk.report.lab_lines import End, Look, looks
from ropewalk.report.style import RC, Summary, colour
from ropewalk.report.tables import signed

TITLES = {"nonoverlapping": "Texts that do not overlap", "sliding": "Sliding texts", "fixed target": "Fixed targets"}
TOP = 20.0  # percent of growth beyond which a line leaves the figure of changes
GAP = 0.062  # of an axis, between names


def everyone(summary: Summary) -> dict[str, Look]:
    """All encodings of a lab, as they are drawn."""
    return looks(e["name"] for e in summary["encodings"])


def beside(heights: float, count: int, narrow: bool) -> tuple[Figure, list[Axes]]:
    """Panels of one y axis: side by side, or one above the other on a phone."""
    figure = style.canvas(heights * count + 1.0 if narrow else heights + 1.3, narrow)
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.08)
    grid = figure.subplots(*((count, 1) if narrow else (1, count)), sharey=True, squeeze=False)
    return figure, list(grid.flat)


@rc_context(RC)
def perplexity(summary: Summary, narrow: bool = False) -> Figure:
    """Perplexity against length under every protocol, with 95% intervals over seeds where there are several."""
    figure, panels = beside(3.0, len(summary["protocols"]), narrow)
    shown = everyone(summary)
    for ax, protocol in zip(panels, summary["protocols"], strict=True):
        for e in summary["encodings"]:
            read = [x for x in e["losses"][protocol] if "loss" in x]
            x = [r["length"] for r in read]
            lab_lines.draw(ax, x, [r["perplexity"] for r in read], shown[e["name"]], e["name"])
            sure = [(r["loss"], student(r["seeds"] - 1) * r["seed_se"]) for r in read if r["seed_se"] is not None]
            low, high = ([math.exp(loss + sign * half) for loss, half in sure] for sign in (-1, 1))
            lab_lines.band(ax, x[: len(sure)], low, high, shown[e["name"]])
        ax.set_title(TITLES[protocol], fontsize=9)
    style.logarithmic(panels[0], "perplexity (log scale)")
    for ax, protocol in zip(panels, summary["protocols"], strict=True):
        lab_lines.lengths(ax, summary, narrow)
        lab_lines.ends(ax, last(summary, protocol, "perplexity"), GAP)
        trained(ax, summary, protocol)
    label(panels, "length of the text (tokens, and trained lengths)", "perplexity (log scale)", narrow)
    lab_lines.key(figure, shown, narrow)
    return figure


def label(panels: Sequence[Axes], x: str, y: str, narrow: bool) -> None:
    """Name the axes: x under the middle panel or the last, y at the first or at all."""
    panels[-1 if narrow else len(panels) // 2].set_xlabel(x)
    for ax in panels if narrow else panels[:1]:
        ax.set_ylabel(y)


def trained(ax: Axes, summary: Summary, protocol: str | None = None) -> None:
    """Say at the top what the line at the left is, and who has no place for longer texts."""
    edge = summary["settings"]["train_length"]
    said = {edge: ["trained length"]}
    for e in summary["encodings"] if protocol else []:
        read = [x["length"] for x in e["losses"][protocol] if "loss" in x]
        if read and read[-1] < summary["lengths"][-1]:
            said.setdefault(read[-1], []).append(f"{e['name']} ends here")
    place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "va": "top"}
    for length, words in said.items():
        right = length**2 > edge * summary["lengths"][-1]
        place |= {"ha": "right" if right else "left", "fontsize": 7.3, "color": colour("muted")}
        corner = (length, 0.985 if length == edge else 0.87), (-4 if right else 4, 0)
        ax.annotate("\n".join(words), *corner, **place)


def last(summary: Summary, protocol: str, field: str) -> list[End]:
    """The ends of the lines that reach the longest texts."""
    shown = everyone(summary)
    found = [(e["name"], e["losses"][protocol][-1]) for e in summary["encodings"]]
    return [End(x["length"], x[field], name, shown[name]) for name, x in found if x.get(field) is not None]


@rc_context(RC)
def change(summary: Summary, narrow: bool = False) -> Figure:
    """The same as changes against the trained length, near zero: what is lost and won by those that hold."""
    figure, panels = beside(2.6, len(summary["protocols"]), narrow)
    shown = everyone(summary)
    ratios = [x.get("ratio") for e in summary["encodings"] for some in e["losses"].values() for x in some]
    least = min([100 * (r - 1) for r in ratios if r], default=0.0)
    panels[0].set_ylim(min(1.35 * least, -5.0), TOP)
    for ax, protocol in zip(panels, summary["protocols"], strict=True):
        left: list[str] = []
        for e in summary["encodings"]:
            read = [x for x in e["losses"][protocol] if x.get("ratio")]
            percent = [100 * (x["ratio"] - 1) for x in read]
            lab_lines.draw(ax, [x["length"] for x in read], percent, shown[e["name"]], e["name"])
            left += [e["name"]] if percent and percent[-1] > TOP else []
        lab_lines.lengths(ax, summary, narrow)
        ax.axhline(0, color=colour("muted"), lw=0.9, zorder=1)
        inside = [end._replace(y=100 * (end.y - 1)) for end in last(summary, protocol, "ratio")]
        lab_lines.ends(ax, inside, GAP * 1.15)
        gone(ax, left, TITLES[protocol], narrow)
    panels[0].yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: signed(y).replace(".0%", "%")))
    label(panels, "length of the text (tokens, and trained lengths)", "change of perplexity", narrow)
    lab_lines.key(figure, shown, narrow)
    return figure


def gone(ax: Axes, names: list[str], title: str, narrow: bool) -> None:
    """A title, and under it who is beyond the top at the end."""
    text = f"beyond +{TOP:.0f}%: {', '.join(names) or 'nobody'}"
    lines = textwrap.wrap(text, 48 if narrow else 36)
    ax.set_title(title, fontsize=9, pad=6 + 10.5 * len(lines))
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 7.5}
    ax.annotate("\n".join(lines), (0, 1), (0, 4), va="bottom", color=colour("muted"), **place)


@rc_context(RC)
def positions(summary: Summary, narrow: bool = False) -> Figure:
    """Perplexity by position in the longest texts."""
    figure = style.canvas(4.6, narrow)
    ax, shown, final = figure.add_subplot(), everyone(summary), list[End]()
    for e in summary["encodings"]:
        if e["by_position"] is None:
            continue
        look, (x, loss) = shown[e["name"]], merged(e["by_position"])
        y = [math.exp(value) for value in loss]
        lab_lines.draw(ax, x, y, look, e["name"])
        final.append(End(x[-1], y[-1], e["name"], look))
    style.logarithmic(ax, "perplexity (log scale)")
    lab_lines.lengths(ax, summary, narrow)
    edge = summary["settings"]["train_length"]
    ax.set_xlim(edge / 10, summary["lengths"][-1] * 1.05)
    ticks = [n for n in (edge // 8, edge // 4, edge // 2) if n > 0] + summary["lengths"]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks], rotation=45 if narrow else 0)
    trained(ax, summary)
    lab_lines.ends(ax, final, 0.045)
    ax.set_xlabel("position in the text (tokens, log scale)")
    ax.set_title(f"Texts of {summary['lengths'][-1]:,} tokens, by position")
    lab_lines.key(figure, {end.name: end.look for end in final}, narrow)
    return figure


def merged(blocks: dict) -> tuple[list[float], list[float]]:
    """Middle and mean loss of runs of blocks that take about a sixth of an octave each; blocks have one size."""
    found: list[tuple[float, float]] = []
    begin, edges = 0, blocks["edges"]
    for end in range(1, len(edges)):
        if end == len(edges) - 1 or edges[end] >= 2 ** (1 / 6) * edges[begin]:
            found.append(((edges[begin] + edges[end]) / 2, fmean(blocks["loss"][begin:end])))
            begin = end
    x, loss = (list(column) for column in zip(*found, strict=True))
    return x, loss


@rc_context(RC)
def published(summary: Summary, narrow: bool = False) -> Figure:
    """Growth of perplexity against multiples of the trained length: as published, and as measured here."""
    figure, panels = beside(3.0, 2, narrow)
    paper, farthest = summary["published"], summary["multiples"][-1]
    shown, final = everyone(summary), ([], [])
    for role, row in paper["perplexity"].items():
        e = next((e for e in summary["encodings"] if e["role"] == role), None)
        if e is None:
            continue
        look = shown[e["name"]]
        there = [(n / paper["trained_length"], y / row[0]) for n, y in zip(paper["lengths"], row, strict=True) if y]
        here = [(x["multiple"], x["ratio"]) for x in e["losses"]["nonoverlapping"] if x.get("ratio")]
        for ax, some, names in zip(panels, ([p for p in there if p[0] <= farthest * 1.1], here), final, strict=True):
            if some:
                lab_lines.draw(ax, [x for x, _ in some], [y for _, y in some], look, e["name"])
                names.append(End(*some[-1], role, look))
    style.logarithmic(panels[0], "perplexity, times that at 1x")
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))
    ours = f"Here, trained on {summary['settings']['train_length']:,}"
    for ax, names, title in zip(panels, final, (f"Published, trained on {paper['trained_length']}", ours), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xlim(0.9, farthest * 1.15)
        ax.set_xticks(summary["multiples"], [f"{k}x" for k in summary["multiples"]])
        ax.axvspan(1, farthest * 1.15, color=colour("zone"), lw=0, zorder=0)
        ax.axvline(1, color=colour("ink"), lw=1, zorder=1)
        ax.set_title(title, fontsize=9)
        lab_lines.ends(ax, names, GAP)
        ax.set_xlabel("length of the text, in trained lengths")
    return figure
