"""Colours, type and canvas of every figure and of the page: the one place that decides how a report looks.

A colour has a name and two values, for light and for dark.  Figures are drawn in the light ones; on the page each
becomes a CSS variable of the same name, so that an inlined figure follows the reader's scheme.
"""

import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter, NullLocator

Summary = dict  # what `ropewalk extend` writes to summary.json

THEME = {  # name: (light, dark)
    "ink": ("#1b2027", "#e9ebee"),
    "muted": ("#59616d", "#a4acb7"),
    "line": ("#dde1e7", "#323943"),
    "card": ("#ffffff", "#181c22"),
    "ground": ("#f6f7f9", "#0e1115"),
    "zone": ("#f2f4f7", "#20252d"),
    # blue against vermilion, and lightness apart, so that no kind of colour vision confuses chosen and unmodified
    "chosen": ("#0a5db4", "#6ab2ff"),
    "unmodified": ("#bb4208", "#ff9263"),
    "truncated": ("#4b5360", "#bcc4ce"),
    "other-0": ("#00806b", "#3fc8ad"),
    "other-1": ("#a8437f", "#ea8dc2"),
    "other-2": ("#8c6800", "#dcb33f"),
    "other-3": ("#2f8fc4", "#7fd0fa"),
    "other-4": ("#6a57b8", "#b3a4f7"),
}
OTHERS = [name for name in THEME if name.startswith("other-")]
DASHES = ["-", (0, (5, 1.6)), (0, (1.4, 1.2))]
SHARES = ["#b83d06", "#f0a57e", "#f5f0ea", "#8dbbe6", "#0a5cb3"]  # none found to all found; the same in both schemes
ON_DARK, ON_LIGHT = "#fffffe", "#000000"

RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlecolor": THEME["ink"][0],
    "axes.labelsize": 8.5,
    "axes.labelcolor": THEME["muted"][0],
    "axes.edgecolor": THEME["line"][0],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": False,
    "figure.facecolor": THEME["card"][0],
    "grid.color": THEME["line"][0],
    "grid.linewidth": 0.7,
    "text.color": THEME["ink"][0],
    "xtick.color": THEME["line"][0],
    "ytick.color": THEME["line"][0],
    "xtick.labelcolor": THEME["muted"][0],
    "ytick.labelcolor": THEME["muted"][0],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.0,
    "legend.columnspacing": 1.6,
    "legend.borderaxespad": 0.2,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "ropewalk",
}


def colour(name: str) -> str:
    """The light value of a named colour, which is what figures are drawn in."""
    return THEME[name][0]


def ink_on(fill: tuple[float, ...]) -> str:
    """White or black, whichever stands out more from an RGB colour: the contrasts of WCAG 2 are equal at 0.179."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill[:3])
    return ON_LIGHT if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else ON_DARK


def canvas(height: float, narrow: bool = False) -> Figure:
    """An empty figure for a desktop column (8 inches wide) or a phone's (3.7 inches)."""
    return Figure(figsize=(3.7 if narrow else 8.0, height), layout="constrained")


def positions(ax: Axes, target: int, narrow: bool = False) -> None:
    """Dress the x axis as positions from 0 to `target` tokens."""
    ax.set_xlim(0, target)
    ax.set_xlabel("position in context (tokens)")
    ax.xaxis.set_major_locator(MultipleLocator(target / (8 if not narrow else 4 if target < 100_000 else 2)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def logarithmic(ax: Axes, label: str) -> None:
    """Dress the y axis as a log scale that prints plain numbers, as many as its decades leave room for."""
    ax.set_yscale("log")
    ax.set_ylabel(label)
    low, high = ax.get_ylim()
    subs = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 3e3 else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=99))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 150 dots per inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


@rc_context(RC)
def svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element for an HTML page: colours are the page's variables, every id starts with `prefix`,
    text stays text in the page's own font."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", facecolor="none", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"'DejaVu Sans'(, [-\w]+)*", "var(--sans)", text)
    for name, (light, _) in THEME.items():
        text = text.replace(light, f"var(--{name})")
    return text
