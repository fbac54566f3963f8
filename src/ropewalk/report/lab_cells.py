"""Tables as pictures: a row for each encoding, a column for each length or size, a figure with its colour in a cell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ropewalk.report import style
from ropewalk.report.plots import count
from ropewalk.report.style import colour
from ropewalk.report.tables import NOTHING

RAMP = LinearSegmentedColormap.from_list("shares", style.SHARES)
NAMES = 20  # letters of a name beside its row
ROW, TALL = 0.25, 0.37  # inches, of a row with a line in each cell or with two


class Cell(NamedTuple):
    """What stands in a cell, where on the ramp of colours it lies (0 is worst, 1 is best), and its interval."""

    text: str
    level: float
    detail: str = ""


class Table(NamedTuple):
    """One panel."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell | None]]  # by row, then by column
    trained: int = 0  # columns that lie within what was trained, where that is to be marked

    @property
    def height(self) -> float:
        """Inches of all rows."""
        tall = any(cell and cell.detail for row in self.cells for cell in row)
        return (TALL if tall else ROW) * len(self.rows)


def figure(tables: Sequence[Table], below: str, narrow: bool, across: int = 2) -> Figure:
    """All tables, `across` of them side by side, or one above the other on a phone."""
    across = 1 if narrow else min(across, len(tables))
    lines = [tables[i : i + across] for i in range(0, len(tables), across)]
    heights = [max(table.height for table in line) + 0.75 for line in lines]
    made = style.canvas(sum(heights) + 0.3, narrow)
    made.set_layout_engine("constrained", w_pad=0.06, h_pad=0.08)
    grid = made.subplots(len(lines), across, height_ratios=heights, squeeze=False)
    for line, axes in zip(lines, grid, strict=True):
        for table, ax in zip(line, axes, strict=False):
            draw(ax, table)
        for ax in axes[len(line) :]:
            ax.remove()
        if line is lines[-1]:
            for ax in axes[: len(line)]:
                ax.set_xlabel(below)
    return made


def draw(ax: Axes, table: Table) -> None:
    """One table."""
    for j, row in enumerate(table.cells):
        for i, cell in enumerate(row):
            if cell is None:
                count(ax, (i + 0.5, j + 0.5), NOTHING, 7.6, colour("muted"))
                continue
            fill = RAMP(min(max(cell.level, 0.0), 1.0))
            ax.add_patch(Rectangle((i + 0.03, j + 0.04), 0.94, 0.92, color=fill, lw=0))
            count(ax, (i + 0.5, j + (0.34 if cell.detail else 0.5)), cell.text, 7.6, style.ink_on(fill))
            if cell.detail:
                count(ax, (i + 0.5, j + 0.71), cell.detail, 6.6, style.ink_on(fill))
    if 0 < table.trained < len(table.columns):
        ax.plot([table.trained] * 2, [0, len(table.rows)], color=colour("ink"), lw=1.6)
    ax.set(xlim=(0, len(table.columns)), ylim=(len(table.rows), 0))
    ax.set_xticks([i + 0.5 for i in range(len(table.columns))], table.columns)
    ax.set_yticks([j + 0.5 for j in range(len(table.rows))], [short(name) for name in table.rows])
    ax.set_title(table.title, fontsize=9)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def short(name: str) -> str:
    return name if len(name) <= NAMES else f"{name[: NAMES - 1]}\u2026"


def beside(better: float) -> float:
    """The place on the ramp of what is so many times as good as something else: a half for the same."""
    return 0.5 + math.log2(better) / 2


def share(value: float, low: float, high: float) -> Cell:
    """A share of what was right, in percent, with its 95% interval."""
    return Cell(f"{100 * value:.0f}", value, f"{100 * low:.0f}\u2013{100 * high:.0f}")
