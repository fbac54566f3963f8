"""What `ropewalk bench` found, as a figure: how many times as long as the limit everybody takes."""

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ropewalk.bench.run import FRESH, OURS, Row
from ropewalk.report import style
from ropewalk.report.speed import about, count, grouped, named, seconds, times
from ropewalk.report.style import RC, colour

LIMITS = {
    "clone": "a copy into fresh memory (clone)",
    "copy_": "a copy into memory that is there (copy_)",
    "causal SDPA": "causal SDPA without a bias",
}
STRENGTH = [1.0, 0.5, 0.25]  # of the bars of one contestant, a dtype each
BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5}  # what stands next to a point
MARKS = ["o", "s", "^", "D", "v", "P"]


@rc_context(RC)
def figure(rows: list[Row], machine: dict[str, Any]) -> Figure:
    """A panel for each comparison: bars for one length, and lines over the length where there are several."""
    several = len({row.length for row in rows}) > 1
    cases = grouped(rows, "what", "stage", "bias", "dim", *(("dtype",) if several else ()))
    panels = [(key, some) for key, all_ in cases.items() for some in by_memory(all_)]
    heights = [3.4 if several else 1.15 + 0.36 * len({r.contestant for r in some if not r.limit}) for _, some in panels]
    made = style.canvas(sum(heights) + 0.6)
    made.set_layout_engine("constrained", h_pad=0.09)
    made.suptitle(about(machine), x=0.01, ha="left", fontsize=8.5, color=colour("muted"))
    axes = made.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    others = list(dict.fromkeys(r.contestant for r in rows if not r.limit and not r.contestant.startswith(OURS)))
    for ax, ((what, stage, bias, dim, *dtype), some) in zip(axes, panels, strict=True):
        of = some[0]
        into = (
            "" if what != "rotate" else ", into fresh memory" if of.writes == FRESH else ", over memory that is there"
        )
        sizes = [
            f"{of.heads} + {of.kv_heads} heads of {dim}",
            *([] if several else [count(of.length, "token")]),
            *dtype,
        ]
        ax.set_title(named(what, stage, bias) + into, pad=20)
        ax.annotate(", ".join(sizes), (0, 1), (0, 7), xycoords="axes fraction", color=colour("muted"), **BESIDE)
        if several:
            lines(ax, some, others)
        else:
            bars(ax, some)
    dtypes = list(dict.fromkeys(r.dtype for r in rows))
    if len(dtypes) > 1 and not several:
        shades = [Patch(color=colour("truncated"), alpha=STRENGTH[i % len(STRENGTH)], lw=0) for i in range(len(dtypes))]
        made.legend(shades, dtypes, loc="upper right", ncols=len(dtypes))
    return made


def by_memory(rows: list[Row]) -> list[list[Row]]:
    """The rows of a panel each: of those who write to the same kind of memory; absent ones have no line."""
    present = [r for r in rows if r.status != "absent"]
    parts = [[r for r in present if (r.writes == FRESH) is fresh] for fresh in (True, False)]
    return [p for p in parts if any(not r.limit for r in p)] or [present or rows]


def limit_of(rows: list[Row]) -> str:
    """What all ratios of a panel are to, with the time that it takes where there is one length."""
    limits = [r for r in rows if r.limit and r.seconds is not None]
    if not limits:
        return "a limit that was not timed"
    name = limits[0].contestant
    if len({r.length for r in rows}) > 1:
        return name
    takes = [f"{seconds(r.seconds or 0)}{f' in {r.dtype}' if len(limits) > 1 else ''}" for r in limits]
    return f"{LIMITS.get(name, name)}: {', '.join(takes)}"


def bars(ax: Axes, rows: list[Row]) -> None:
    """How many times the limit each contestant takes, a bar from 1 for each dtype; who was not timed says why."""
    dtypes = list(dict.fromkeys(r.dtype for r in rows))
    contestants = grouped((r for r in rows if not r.limit), "contestant")
    best = {name: min((r.ratio or float("inf")) for r in some) for (name,), some in contestants.items()}
    names = sorted(best, key=lambda name: -best[name])
    height = 0.78 / len(dtypes)
    for row in rows:
        if row.limit:
            continue
        y = names.index(row.contestant) - height * (dtypes.index(row.dtype) - (len(dtypes) - 1) / 2)
        place: dict[str, Any] = {"va": "center", **BESIDE}
        if row.ratio is None:
            ax.annotate(row.status, (1, y), (5, 0), color=colour("unmodified"), **place)
            continue
        shade = colour("chosen" if row.contestant.startswith(OURS) else "truncated")
        strength = STRENGTH[dtypes.index(row.dtype) % len(STRENGTH)]
        ax.barh(y, row.ratio - 1, height * 0.86, left=1, color=shade, alpha=strength, lw=0)
        ax.annotate(times(row.ratio), (max(row.ratio, 1), y), (5, 0), color=colour("ink"), **place)
    ax.axvline(1, color=colour("ink"), lw=1)
    ax.set_yticks(range(len(names)), names)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_color(colour("chosen" if name.startswith(OURS) else "ink"))
    ax.set_ylim(-0.6, max(len(names), 1) - 0.4)
    dress_ratios(ax, [r.ratio for r in rows if r.ratio])
    ax.set_xlabel(f"times as long as {limit_of(rows)}")


def dress_ratios(ax: Axes, ratios: list[float]) -> None:
    """A log axis along x, from below the least ratio to where the number at the end of the longest bar has room."""
    low, high = min([*ratios, 0.8]), max([*ratios, 2])
    ax.set_xscale("log")
    ax.set_xlim(low / 1.08, high * (high / low) ** 0.09)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ratios_on(ax.xaxis, ax.get_xlim())


def lines(ax: Axes, rows: list[Row], others: list[str]) -> None:
    """The ratio over the length, a line for each contestant; where one was not timed its line has a gap."""
    contestants = grouped((r for r in rows if not r.limit), "contestant")
    ours = [name for (name,) in contestants if name.startswith(OURS)]
    for (name,), some in contestants.items():
        if all(r.ratio is None for r in some):
            continue
        mine = name in ours
        place = (ours if mine else others).index(name)
        shade = colour("chosen" if mine else style.OTHERS[place % len(style.OTHERS)])
        dash = style.DASHES[place % len(style.DASHES) if mine else 0]
        mark = MARKS[place % len(MARKS)]
        points = [float("nan") if r.ratio is None else r.ratio for r in some]
        how: dict[str, Any] = {"lw": 2.2 if mine else 1.4, "ls": dash, "marker": mark, "ms": 3.6, "label": name}
        ax.plot([r.length for r in some], points, color=shade, zorder=3 if mine else 2, **how)
    lengths = sorted({r.length for r in rows})
    ax.axhline(1, color=colour("ink"), lw=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.5), max(high, 2))
    ratios_on(ax.yaxis, ax.get_ylim())
    ax.set(xlabel="length (tokens)", ylabel=f"times as long as {limit_of(rows)}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def ratios_on(axis: Any, ends: tuple[float, float]) -> None:
    """Plain ratios on a log axis, as many as there is room for."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] / ends[0] < 500 else (1,), numticks=99))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axis.set_minor_formatter(NullFormatter())
