"""How the encodings of a lab are drawn, in every figure alike: colour, marker and dash together, and a name at the end.

No figure needs its colours to be read: every line also has a marker of its own and is named where it ends.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ropewalk.report.style import DASHES, OTHERS, Summary, colour

DOTTED = (0, (3.2, 1.3, 1.0, 1.3))
MARKS = ["o", "s", "^", "D", "v", "P", "X", "p", "h"]
ROOM = 13  # letters of a name at the end of a line


class Look(NamedTuple):
    """How an encoding is drawn."""

    shade: str  # a name in style.THEME
    mark: str
    dash: Any
    width: float = 1.5

    def line(self) -> dict[str, Any]:
        """What matplotlib is told of the line."""
        return {"color": colour(self.shade), "ls": self.dash, "lw": self.width}

    def points(self) -> dict[str, Any]:
        """What it is told of the points: what is not solid gets no rim, or little would be left of it."""
        solid = self.mark not in "PX"
        return {"marker": self.mark, "ms": 4.4 if solid else 5, "mec": colour("card"), "mew": 0.6 if solid else 0.1}


KNOWN = {
    "ALiBi": Look("chosen", "o", DASHES[0], 2.4),
    "sinusoidal": Look("unmodified", "s", DASHES[0]),
    "RoPE": Look(OTHERS[0], "D", DASHES[0], 1.8),
    "T5": Look(OTHERS[2], "^", DASHES[1], 1.8),
    "KERPLE": Look(OTHERS[3], "v", DASHES[1]),
    "FIRE": Look(OTHERS[4], "P", DASHES[2]),
    "xPos": Look(OTHERS[1], "X", DOTTED),
    "NoPE": Look("truncated", "p", DASHES[2]),
    "learned": Look("ink", "h", DASHES[0]),
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Everybody's look: that of the nine is fixed, and others take what is left, then the same with other dashes."""
    names = list(names)
    left = [look for name, look in KNOWN.items() if name not in names] or list(KNOWN.values())
    dashes = [*DASHES, DOTTED]
    found: dict[str, Look] = {}
    for i, name in enumerate(n for n in names if n not in KNOWN):
        turn, look = i // len(left), left[i % len(left)]
        again = {"dash": dashes[(dashes.index(look.dash) + turn) % len(dashes)]}
        mark = MARKS[(MARKS.index(look.mark) + turn) % len(MARKS)]
        found[name] = look._replace(mark=mark, **again)
    return {name: KNOWN.get(name) or found[name] for name in names}


def draw(ax: Axes, x: Sequence[float], y: Sequence[float], look: Look, name: str) -> None:
    """One line with a marker at every point; the broadest lies below, so that no other hides behind it."""
    ax.plot(x, y, label=name, zorder=5 - look.width, **look.line(), **look.points())


def band(ax: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], look: Look) -> None:
    """An interval around a line."""
    ax.fill_between(x, low, high, color=colour(look.shade), alpha=0.15, lw=0)


def lengths(ax: Axes, summary: Summary, narrow: bool = False) -> None:
    """Dress the x axis as lengths of texts, each with its multiple; mark the trained one and tint what is longer."""
    trained, last = summary["settings"]["train_length"], summary["lengths"][-1]
    ax.set_xscale("log", base=2)
    ax.set_xlim(trained / 1.25, last * 1.12)
    shown = thinned(summary["lengths"], 7 if narrow else 6)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(shown, [f"{n:,}\n{n // trained}x" for n in shown])
    ax.axvspan(trained, last * 1.12, color=colour("zone"), lw=0, zorder=0)
    ax.axvline(trained, color=colour("ink"), lw=1, zorder=1)


def thinned(values: Sequence[int], room: int) -> list[int]:
    """At most `room` of the lengths, evenly spaced, the last among them."""
    step = math.ceil(len(values) / room)
    return list(values[::-step][::-1])


class End(NamedTuple):
    """Where a line ends, and whose it is."""

    x: float
    y: float
    name: str
    look: Look


def ends(ax: Axes, last: Iterable[End], gap: float) -> None:
    """Name every line beside its end: names stand at least `gap` of the axis apart, each tied to its point."""
    low, high = ax.get_ylim()
    scale = math.log if ax.get_yscale() == "log" else float
    inside = [end for end in last if low <= end.y <= high]
    inside.sort(key=lambda end: end.y)
    heights = [(scale(end.y) - scale(low)) / (scale(high) - scale(low)) for end in inside]
    for end, height in zip(inside, apart(heights, gap), strict=True):
        tie: dict[str, Any] = {"arrowstyle": "-", "lw": 0.9, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        tie["color"] = colour(end.look.shade)
        place: dict[str, Any] = {"textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        word = end.name if len(end.name) <= ROOM else f"{end.name[: ROOM - 1]}\u2026"
        ax.annotate(word, (end.x, end.y), (1.06, height), fontsize=7.8, arrowprops=tie, **place)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as possible, in squares, so that neighbours are at least `gap` apart."""
    pools: list[tuple[float, int]] = []  # of heights less what they must rise by: mean and count
    for i, height in enumerate(heights):
        mean, count = height - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (mean * count + before * many) / (count + many), count + many
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + i * gap for i, mean in enumerate(flat)]


def key(figure: Figure, shown: dict[str, Look], narrow: bool) -> None:
    """All lines under the axes, in full, for who wants to look one up."""
    lines = [Line2D([], [], **look.line(), **look.points()) for look in shown.values()]
    longest = max(map(len, shown), default=1)
    columns = max(1, min(9, (38 if narrow else 92) // (longest + 6)))
    figure.legend(lines, list(shown), loc="outside lower left", ncols=columns, handlelength=3)
