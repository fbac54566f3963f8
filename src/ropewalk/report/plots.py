"""Figures of a run, each a function of its summary; `narrow` draws the same for a phone's width.

Losses come in nats per token and are drawn as perplexities on a log scale, on which a difference in nats is a
distance.  Bands are 95% intervals of a block's mean loss.  Labels leave out the trained length, the same in all.
"""

import math
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ropewalk.evaluate.metrics.accuracy import Z95
from ropewalk.report import style
from ropewalk.report.style import RC, Summary, colour
from ropewalk.report.tables import baseline, chosen, contenders, perplexity, pooled, role, subject

STOPPED = ("priced out", "behind", "no better")


@rc_context(RC)
def held_out_loss(summary: Summary, narrow: bool = False) -> Figure:
    """Perplexity by position on held-out text: the chosen, the baselines and the best other candidate."""
    others = contenders(summary)[: 1 if chosen(summary) else 2]
    known = [*reversed(others), baseline(summary, "truncated"), baseline(summary, "unmodified"), chosen(summary)]
    shown = [c for c in known if c and c["held_out"]]
    figure = style.canvas(4.4 if narrow else 4.3, narrow)
    ax = figure.add_subplot()
    for c in shown:
        curve(ax, c["held_out"]["blocks"], look(c, summary), label(c, summary, 34 if narrow else 48), band=True)
    style.logarithmic(ax, "perplexity (log scale)")
    window(ax, summary, narrow)
    ends(ax, [(c["held_out"]["blocks"][-1], look(c, summary)["color"]) for c in shown])
    for c in shown:
        cliff(ax, c, summary, narrow)
    model = summary["model"].rstrip("/").rsplit("/", 1)[-1][:32]
    title = f"{model}, trained on {summary['trained_length']:,} tokens, reading {summary['target_length']:,}"
    ax.set_title("Held-out text" if narrow else f"{title} (held-out text)")
    legend(figure, ax, narrow)
    return figure


@rc_context(RC)
def race(summary: Summary, narrow: bool = False) -> Figure:
    """Perplexity by position on the search text: every candidate, up to where it was stopped; below, the same
    relative to the chosen one (or the best, or the unmodified), which takes out what the text itself does."""
    order = ["candidate", "truncated", "unmodified", "chosen"]
    raced = [c for c in reversed(summary["candidates"]) if c["search"] and c["search"]["blocks"]]
    raced.sort(key=lambda c: order.index(role(c, summary)))
    reference = next((c for c in raced if c is subject(summary)), raced[-1])
    name = "the chosen" if reference is chosen(summary) else label(reference, summary, 24)
    figure = style.canvas(7.4 if narrow else 6.2, narrow)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
    for c in raced:
        blocks, how = c["search"]["blocks"], look(c, summary)
        curve(above, blocks, how, label(c, summary, 34 if narrow else 48))
        surplus(below, blocks, reference["search"]["blocks"], how)
        if c["search"]["outcome"] in STOPPED:
            for ax in (above, below):
                ax.plot(*ax.lines[-1].get_xydata()[-1], "X", ms=7.5, color=how["color"], mec=colour("card"), zorder=9)
    style.logarithmic(above, "perplexity (log scale)")
    window(above, summary, narrow)
    window(below, summary, narrow, words=False)
    above.set_xlabel("")
    below.set(ylim=(-8, 40), ylabel=f"% above {name}")
    above.set_title("Search text" if narrow else "Search text: a cross marks where a candidate was stopped")
    figure.align_ylabels([above, below])
    legend(figure, above, narrow)
    return figure


@rc_context(RC)
def retrieval(summary: Summary, narrow: bool = False) -> Figure:
    """Keys found by depth and length, the chosen beside the unmodified model; margins with 95% Wilson intervals."""
    grids = summary["retrieval"]["grids"]
    first = [c["name"] for c in (chosen(summary), baseline(summary, "unmodified")) if c]
    names = [n for n in dict.fromkeys([*first, *grids]) if n in grids][:2]
    figure = style.canvas(3.7 * len(names) if narrow else 4.1, narrow)
    shape = (len(names), 1) if narrow else (1, len(names))
    figure.set_layout_engine("constrained", h_pad=0.1)
    panels = list(figure.subplots(*shape, squeeze=False).flat)
    for ax, name in zip(panels, names, strict=True):
        heat(ax, summary["retrieval"], grids[name])
        edge = sum(n <= summary["trained_length"] for n in summary["retrieval"]["lengths"])
        ax.plot([edge, edge], [0, len(summary["retrieval"]["depths"])], color=colour("ink"), lw=1.6)
        c = next(c for c in summary["candidates"] if c["name"] == name)
        ax.set_title(label(c, summary, 26), fontsize=9)
    for ax in panels if narrow else panels[:1]:
        ax.set_ylabel("depth of the key (0% = start of the text)")
    return figure


@rc_context(RC)
def spectrum(summary: Summary, narrow: bool = False) -> Figure:
    """Wavelength of every pair, trained and chosen, against the trained window; below, how much slower each turns."""
    trained, bent = summary["spectrum"]["trained"], summary["spectrum"].get("chosen")
    figure = style.canvas(4.9 if narrow else 4.5, narrow)
    panels = list(figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])) if bent else [figure.add_subplot()]
    waves(panels[0], trained, "unmodified", "as trained")
    if bent:
        waves(panels[0], bent, "chosen", f"chosen (queries and keys times {bent['magnitude']:.4g})")
        slower = [a / b if a and b else math.nan for a, b in zip(trained["inv_freq"], bent["inv_freq"], strict=True)]
        panels[1].plot(slower, color=colour("chosen"), lw=1.6, marker="D", ms=2.8)
        panels[1].set_ylabel("times slower")
        panels[1].yaxis.set_major_locator(MaxNLocator(nbins=3))
    style.logarithmic(panels[0], "wavelength (tokens)")
    unfinished(panels[0], summary)
    panels[0].set_title("Tokens per full turn" if narrow else "Tokens that each rotated pair needs for a full turn")
    panels[-1].set_xlabel("rotated pair, fastest first")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if narrow else 12))
    figure.align_ylabels(panels)
    legend(figure, panels[0], narrow)
    return figure


def look(candidate: dict, summary: Summary) -> dict:
    """How a candidate is drawn, in every figure alike: colour by role, or by its place among the other candidates."""
    mine = role(candidate, summary)
    if mine != "candidate":
        dash = (0, (4, 1.8)) if mine == "truncated" else "-"
        return {"color": colour(mine), "linestyle": dash, "linewidth": 1.6 if mine == "truncated" else 2.4}
    place = [c["name"] for c in summary["candidates"] if role(c, summary) == mine].index(candidate["name"])
    dash = style.DASHES[place // len(style.OTHERS) % len(style.DASHES)]
    return {"color": colour(style.OTHERS[place % len(style.OTHERS)]), "linestyle": dash, "linewidth": 1.4}


def label(candidate: dict, summary: Summary, room: int = 48) -> str:
    """The candidate's name without the trained length, cut in the middle if long, and marked if chosen."""
    name = re.sub(rf"(, )?trained_length={summary['trained_length']}(?!\d)(?(1)|(, )?)", "", candidate["name"])
    name = name if len(name) <= room else f"{name[: room - 14]}\u2026{name[-13:]}"
    return f"{name} \u2013 chosen" if role(candidate, summary) == "chosen" else name


def middle(block: dict) -> float:
    return (block["start"] + block["end"]) / 2


def curve(ax: Axes, blocks: list[dict], how: dict, name: str, band: bool = False) -> None:
    """Perplexity at the middle of every block, and a band of 1.96 standard errors."""
    x = [middle(b) for b in blocks]
    ax.plot(x, [math.exp(b["loss"]) for b in blocks], label=name, **how)
    if band:
        low, high = ([math.exp(b["loss"] + sign * Z95 * b["se"]) for b in blocks] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=how["color"], alpha=0.16, lw=0)


def surplus(ax: Axes, blocks: list[dict], reference: list[dict], how: dict) -> None:
    """Percent of perplexity above the same block of the reference."""
    level = {b["start"]: b["loss"] for b in reference}
    shared = [b for b in blocks if b["start"] in level]
    ax.plot([middle(b) for b in shared], [100 * math.expm1(b["loss"] - level[b["start"]]) for b in shared], **how)


def window(ax: Axes, summary: Summary, narrow: bool, words: bool = True) -> None:
    """Dress the x axis, mark where the trained window ends and tint what lies beyond."""
    trained, target = summary["trained_length"], summary["target_length"]
    style.positions(ax, target, narrow)
    ax.axvspan(trained, target, color=colour("zone"), lw=0, zorder=0)
    ax.axvline(trained, color=colour("ink"), lw=1, zorder=1)
    place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
    look: dict[str, Any] = {"va": "top", "fontsize": 8, "color": colour("muted")}
    left = trained > 0.4 * target
    if words:
        text = f"trained window: {trained:,}"
        ax.annotate(text, (trained, 0.97), (-5 if left else 5, 0), ha="right" if left else "left", **look, **place)
    if words and left:
        ax.annotate("beyond", (trained, 0.97), (5, 0), ha="left", **look, **place)


def ends(ax: Axes, last: list[tuple[dict, str]]) -> None:
    """Print every curve's last perplexity at the right edge, moved apart where they would touch."""
    low, high = (math.log(y) for y in ax.get_ylim())
    floor, right = low, ax.get_xlim()[1]
    for block, shade in sorted(last, key=lambda pair: pair[0]["loss"]):
        y = max(block["loss"], floor)
        floor = y + 0.05 * (high - low)
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        text = perplexity(math.exp(block["loss"]))
        ax.annotate(text, (right, math.exp(y)), (5, 0), color=shade, weight="bold", fontsize=9, **place)


def cliff(ax: Axes, candidate: dict, summary: Summary, narrow: bool) -> None:
    """Point at the block where the loss of the chosen or the unmodified model leaves its native level."""
    mine = role(candidate, summary)
    start = summary["cliff"].get(mine)
    if start is None:
        return
    block = min(candidate["held_out"]["blocks"], key=lambda b: abs(b["start"] - start))
    point = middle(block), math.exp(block["loss"])
    low, high = ax.get_ylim()
    trained, target = summary["trained_length"], summary["target_length"]
    # the room above the trained window is free, where it is wide enough; else beside the point, towards the middle
    if mine == "unmodified" and trained > 0.4 * target:
        corner, align = (0.98 * min(point[0], trained), point[1] * (high / low) ** 0.16), "right"
    else:
        align = "left" if point[0] < target / 2 else "right"
        side = 0.07 if align == "left" else -0.07
        corner = point[0] + side * target, point[1] * (high / low) ** 0.1
    text = f"worse from {start:,}" if narrow else f"{mine}: clearly worse from {start:,}"
    bow = {"arrowstyle": "-|>", "color": colour(mine), "lw": 1, "connectionstyle": "arc3,rad=-0.2"}
    ax.annotate(text, point, corner, ha=align, fontsize=8, color=colour(mine), arrowprops=bow)


def legend(figure: Figure, ax: Axes, narrow: bool) -> None:
    """One entry per curve under the axes, the most important first."""
    handles, names = ax.get_legend_handles_labels()
    columns = 1 if narrow else 2
    figure.legend(handles[::-1], names[::-1], loc="outside lower left", ncols=columns)


def waves(ax: Axes, rates: dict, who: str, name: str) -> None:
    turn = [math.tau / f if f else math.nan for f in rates["inv_freq"]]
    ax.plot(turn, lw=1.6, marker="D" if who == "chosen" else "o", ms=3, color=colour(who), label=name)


def unfinished(ax: Axes, summary: Summary) -> None:
    """Mark the trained window, and tint the pairs too slow to complete a turn in it."""
    trained, rates = summary["trained_length"], summary["spectrum"]["trained"]["inv_freq"]
    slow = [i for i, f in enumerate(rates) if f * trained < math.tau]
    ax.set_xlim(-0.5, len(rates) - 0.5)
    ax.axhline(trained, color=colour("ink"), lw=1, zorder=1)
    place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": colour("muted")}
    ax.annotate(f"trained window: {trained:,}", (0, trained), (0, 3), **place)
    if slow:
        ax.axvspan(slow[0] - 0.5, len(rates) - 0.5, color=colour("zone"), lw=0, zorder=0)
        transform: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "ha": "right"}
        ax.annotate("never completed a turn", (len(rates) - 0.5, 0), (-4, 6), **transform, **place)


def heat(ax: Axes, axes: dict, columns: list[list[dict]]) -> None:
    """Found of asked in every cell, depths down, lengths across; pooled margins at the right and below."""
    lengths, depths = axes["lengths"], axes["depths"]
    ramp = LinearSegmentedColormap.from_list("shares", style.SHARES)
    for i, column in enumerate(columns):
        for j, cell in enumerate(column):
            if not cell["asked"]:
                continue
            fill = ramp(cell["found"] / cell["asked"])
            ax.add_patch(Rectangle((i + 0.03, j + 0.03), 0.94, 0.94, color=fill, lw=0))
            count(ax, (i + 0.5, j + 0.5), f"{cell['found']}/{cell['asked']}", 7.6, style.ink_on(fill))
        margin(ax, i + 0.5, len(depths) + 0.45, column)
    for j in range(len(depths)):
        margin(ax, len(lengths) + 0.65, j + 0.28, [column[j] for column in columns])
    ax.set(xlim=(0, len(lengths) + 1.2), ylim=(len(depths) + 1.1, 0))
    ax.set_xticks([i + 0.5 for i in range(len(lengths))], [thousands(n) for n in lengths])
    ax.set_yticks([j + 0.5 for j in range(len(depths))], [f"{100 * d:.0f}%" for d in depths])
    ax.set_xlabel("tokens of text (1k = 1,024)")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def margin(ax: Axes, x: float, y: float, shares: list[dict]) -> None:
    """Found of asked over a row or a column, with its interval in percent."""
    whole = pooled(shares)
    count(ax, (x, y), f"{whole['found']}/{whole['asked']}", 7.2, colour("ink"))
    count(ax, (x, y + 0.44), f"{100 * whole['low']:.0f}\u2013{100 * whole['high']:.0f}", 6.6, colour("muted"))


def count(ax: Axes, place: tuple[float, float], text: str, size: float, ink: str) -> None:
    """Small centred text that stays within a cell."""
    ax.text(*place, text, ha="center", va="center", fontsize=min(size, 38 / len(text)), color=ink)


def thousands(tokens: int) -> str:
    """A length in units of 1,024 where it is a multiple."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"
