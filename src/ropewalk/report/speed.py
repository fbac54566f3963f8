"""What `ropewalk bench` found, as cells of tables and as a figure: times as ratios to what cannot be beaten by much."""

from collections.abc import Iterable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ropewalk.bench.run import OURS, Row
from ropewalk.report import style
from ropewalk.report.style import RC, colour

HEADS = ["contestant", "median", "range", "ratio", "GB/s", "peak memory", "error", "note"]
NOTHING = "\u2013"
NAMES = {"alibi": "ALiBi", "t5": "T5", "kerple": "KERPLE"}
LIMITS = {"rotate": "a copy of the same tensors", "attend": "causal SDPA without a bias"}
STRENGTH = [1.0, 0.5, 0.25]  # of the bars of one contestant, a dtype each
MARKS = ["o", "s", "^", "D", "v", "P"]

Key = tuple[Any, ...]


def grouped(rows: Iterable[Row], *fields: str) -> dict[Key, list[Row]]:
    """Rows with the same values in some fields, in the order of the rows."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    return found


def by_case(rows: Iterable[Row]) -> dict[str, list[list[str]]]:
    """For every case its name and its table: the limit first, then the fastest, then those that were not timed."""
    fields = ("what", "stage", "bias", "length", "dim", "dtype")
    tables: dict[str, list[list[str]]] = {}
    for (what, stage, bias, length, dim, dtype), some in grouped(rows, *fields).items():
        sizes = f"{some[0].heads} + {some[0].kv_heads} heads of {dim}, {count(length, 'token')}, {dtype}"
        name = f"{named(what, stage, bias)}: {sizes}; ratios to {LIMITS[what]}"
        timed = sorted((r for r in some if r.seconds is not None), key=lambda r: (not r.limit, r.seconds))
        tables[name] = [cells(r) for r in (*timed, *(r for r in some if r.seconds is None))]
    return tables


def named(what: str, stage: str, bias: str) -> str:
    """What is compared, in words."""
    return f"{what.capitalize()}{f' with {NAMES[bias]}' if bias else ''}, {stage}"


def count(number: int, what: str) -> str:
    """So many of something."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def cells(row: Row) -> list[str]:
    """One row of a table, as HEADS name it."""
    note = f"{row.status}{f': {row.note}' if row.note else ''}" if row.status != "timed" else row.note
    spread = None if row.low is None or row.high is None else f"{seconds(row.low)} to {seconds(row.high)}"
    error = None if row.error is None else f"{row.error:.1e} of {row.allowed:.1e}"
    who = f"{row.contestant} {row.version}".strip()
    ratio = None if row.ratio is None else times(row.ratio)
    gb = None if row.gb_per_s is None else f"{row.gb_per_s:.3g}"
    peak = None if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.1f} MB"
    median = None if row.seconds is None else seconds(row.seconds)
    return [who, *(cell or NOTHING for cell in (median, spread, ratio, gb, peak, error)), note]


def seconds(value: float) -> str:
    """Three figures, in the unit that suits: 12.3 ms."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 999.5 else f"{value / size:,.0f} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(ratio: float) -> str:
    """A ratio with the figures that carry information: 0.98x, 1.04x, 12.3x, 191x."""
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.3g}x" if ratio < 999.5 else f"{ratio:,.0f}x"


@rc_context(RC)
def figure(rows: list[Row], machine: dict[str, Any]) -> Figure:
    """A panel for each comparison: bars for one length, and lines over the length where there are several."""
    several = len({row.length for row in rows}) > 1
    fields = ("what", "stage", "bias", "dim", *(("dtype",) if several else ()))
    panels = grouped(rows, *fields)
    shown = [[r for r in some if r.status != "absent"] for some in panels.values()]
    heights = [3.2 if several else 0.9 + 0.34 * len({r.contestant for r in some}) for some in shown]
    made = style.canvas(sum(heights) + 0.6)
    made.set_layout_engine("constrained", h_pad=0.09)
    of = rows[0]
    others = list(dict.fromkeys(r.contestant for r in rows if not r.limit and not r.contestant.startswith(OURS)))
    about = [machine["device"], count(machine["threads"], "thread"), f"torch {machine['torch']}", machine["date"]]
    made.suptitle(", ".join(about), x=0.01, ha="left", fontsize=8.5, color=colour("muted"))
    axes = made.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, key, some in zip(axes, panels, shown, strict=True):
        what, stage, bias, dim, *dtype = key
        sizes = [
            f"{of.heads} + {of.kv_heads} heads of {dim}",
            *([] if several else [count(of.length, "token")]),
            *dtype,
        ]
        ax.set_title(f"{named(what, stage, bias)} ({', '.join(sizes)})")
        if several:
            lines(ax, some, LIMITS[what], others)
        else:
            bars(ax, some, LIMITS[what])
    return made


def bars(ax: Axes, rows: list[Row], limit: str) -> None:
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
        place: dict[str, Any] = {"va": "center", "textcoords": "offset points", "fontsize": 7.5}
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
    ratios = [r.ratio for r in rows if r.ratio]
    ax.set_xscale("log")
    ax.set_xlim(min([*ratios, 1]) / 1.08, max([*ratios, 2]) * 1.35)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ratios_on(ax.xaxis, ax.get_xlim())
    ax.set_xlabel(f"time / {limit} (1 is as fast)")
    if len(dtypes) > 1:
        shades = [Patch(color=colour("truncated"), alpha=STRENGTH[i % len(STRENGTH)], lw=0) for i in range(len(dtypes))]
        ax.legend(shades, dtypes, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(dtypes))


def lines(ax: Axes, rows: list[Row], limit: str, others: list[str]) -> None:
    """The ratio over the length, a line for each contestant; where one was not timed its line has a gap."""
    for (name,), some in grouped((r for r in rows if not r.limit), "contestant").items():
        if all(r.ratio is None for r in some):
            continue
        mine = name.startswith(OURS)
        shade = colour("chosen" if mine else style.OTHERS[others.index(name) % len(style.OTHERS)])
        dash = style.DASHES[1 if mine and name != OURS else 0]
        mark = MARKS[0 if mine else others.index(name) % len(MARKS)]
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
    ratios_on(ax.yaxis, ax.get_ylim())
    ax.set(xlabel="length (tokens)", ylabel=f"time / {limit}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def ratios_on(axis: Any, ends: tuple[float, float]) -> None:
    """Plain ratios on a log axis, as many as there is room for."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] / ends[0] < 500 else (1,), numticks=99))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axis.set_minor_formatter(NullFormatter())
