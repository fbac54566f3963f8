"""The second figure of a lab: what an encoding costs, in tokens per second beside NoPE and in peak memory.

Encodings are too alike in this for lines to be told apart, so every figure stands in a cell; its colour says how much
better or worse than NoPE it is, white for the same.
"""

from matplotlib import rc_context
from matplotlib.figure import Figure

from ropewalk.report import lab_cells
from ropewalk.report.lab_cells import Cell, Table
from ropewalk.report.lab_lines import thinned
from ropewalk.report.style import RC, Summary

STAGES = {"train": "Training", "evaluate": "Evaluation"}
SHARE, RATE, MEMORY = "of_nope", "tokens_per_second", "peak_bytes"
TITLES = {SHARE: "tokens per second, NoPE = 1", RATE: "thousand tokens per second", MEMORY: "peak memory, MiB"}
MIB = 2**20


@rc_context(RC)
def speed(summary: Summary, narrow: bool = False) -> Figure:
    """Tokens per second, over those of NoPE where it took part, and peak memory, of both stages, against length."""
    relative = any(x[SHARE] is not None for e in summary["encodings"] for x in e["speed"])
    told = [table(summary, stage, field) for field in (SHARE if relative else RATE, MEMORY) for stage in STAGES]
    told = [t for t in told if any(cell for row in t.cells for cell in row)]
    return lab_cells.figure(told, "length of the text (tokens)", narrow)


def table(summary: Summary, stage: str, field: str) -> Table:
    """One figure at one stage."""
    lengths, everyone = thinned(summary["lengths"], 6), summary["encodings"]
    base = next((e for e in everyone if e["name"] == "NoPE"), None)
    cells: list[list[Cell | None]] = []
    for e in everyone:
        found = [(figure(e, stage, field, n), figure(base, stage, field, n) if base else None) for n in lengths]
        cells.append([None if x is None else Cell(text(x, field), level(x, nope, field)) for x, nope in found])
    title = f"{STAGES[stage]}: {TITLES[field]}"
    return Table(title, [e["name"] for e in everyone], [f"{n:,}" for n in lengths], cells)


def figure(encoding: dict, stage: str, field: str, length: int) -> float | None:
    """What an encoding has at a length."""
    return next((x[field] for x in encoding["speed"] if x["stage"] == stage and x["length"] == length), None)


def level(value: float, nope: float | None, field: str) -> float:
    """How it compares with NoPE, as a place on the ramp."""
    if not value or not nope:
        return 0.5
    return lab_cells.beside(nope / value if field == MEMORY else value / nope)


def text(value: float, field: str) -> str:
    """A figure as it stands in a cell."""
    if field == SHARE:
        return f"{value:.2f}"
    scaled = value / (MIB if field == MEMORY else 1000)
    return f"{scaled:,.0f}" if scaled >= 99.5 else f"{scaled:.1f}"
