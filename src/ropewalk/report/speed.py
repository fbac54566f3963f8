"""What `ropewalk bench` found, as tables: times as ratios to what cannot be beaten by much."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ropewalk.bench.run import FRESH, OURS, Row

NOTHING = "\u2013"
NAMES = {"alibi": "ALiBi", "t5": "T5", "kerple": "KERPLE"}
LEGEND = (
    "clone copies the same queries and keys into fresh memory, new pages included; copy_ copies them into memory that "
    "is there already. A ratio in brackets is to the one of the two that writes to another kind of memory."
)
WHO, WRITES, RANGE, GB, PEAK, ERROR = "contestant", "writes to", "range", "GB/s", "peak memory", "error / allowed"
NARROW = (RANGE, ERROR, WRITES, PEAK, GB)  # what is left out first where a line has too little room
GAP, SOME = 2, 24  # characters between columns, and those that a note needs
RESTLESS = 1.5  # how far a limit's slowest round may be from its median

Key = tuple[Any, ...]


class Table(NamedTuple):
    """One comparison."""

    title: str
    heads: list[str]
    cells: list[list[str]]
    remarks: list[str]  # sentences

    def within(self, width: int) -> "Table":
        """The table without the columns that it can best do without, until its lines fit."""
        table = self
        for head in NARROW:
            columns = list(zip(table.heads, *table.cells, strict=True))
            needed = sum(max(map(len, cells)) + GAP for cells in columns[:-1])
            needed += min(max(map(len, columns[-1])), SOME)
            if needed <= width:
                break
            heads, *cells = zip(*(c for c in columns if c[0] != head), strict=True)
            table = table._replace(heads=list(heads), cells=[list(c) for c in cells])
        return table


def grouped(rows: Iterable[Row], *fields: str) -> dict[Key, list[Row]]:
    """Rows with the same values in some fields, in the order of the rows."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    return found


def tables(rows: Iterable[Row]) -> list[Table]:
    """A table for every case: by what is written to, each with its limit first and then the fastest; then the rest."""
    cases = grouped(rows, "what", "stage", "bias", "length", "dim", "dtype")
    return [table(named(*key[:3]), some) for key, some in cases.items()]


def table(name: str, rows: list[Row]) -> Table:
    """The table of one case; a column that has nothing to say is left out."""
    of = rows[0]
    timed = [r for r in rows if r.seconds is not None]
    timed.sort(key=lambda r: (r.writes != FRESH, not r.limit, r.seconds))
    ordered = [*timed, *(r for r in rows if r.seconds is None)]
    limits = [r.contestant for r in timed if r.limit]
    columns: dict[str, Callable[[Row], str]] = {WHO: lambda r: f"{r.contestant} {r.version}".strip()}
    if len({r.writes for r in timed}) > 1:
        columns[WRITES] = lambda r: r.writes if r.seconds is not None else ""
    columns["median"] = lambda r: told(r.seconds, seconds)
    columns[RANGE] = lambda r: f"{seconds(r.low)} to {seconds(r.high)}" if r.low and r.high else ""
    for limit in limits:
        columns[f"/ {limit}"] = lambda r, limit=limit: ratio_to(limit, r)
    columns[GB] = lambda r: told(r.gb_per_s, lambda x: f"{x:.3g}")
    columns[PEAK] = lambda r: told(r.peak_bytes, lambda x: f"{x / 1e6:,.1f} MB")
    columns[ERROR] = lambda r: f"{r.error:.1e} / {r.allowed:.1e}" if r.seconds is not None else ""
    columns["note"] = note
    found = {head: [cell(r) for r in ordered] for head, cell in columns.items()}
    found = {head: cells for head, cells in found.items() if any(cells)}
    lines = [
        [cell or ("" if head == "note" else NOTHING) for head, cell in zip(found, line, strict=True)]
        for line in zip(*found.values(), strict=True)
    ]
    sizes = f"{of.heads} + {of.kv_heads} heads of {of.dim}, {count(of.length, 'token')}, {of.dtype}"
    return Table(f"{name}: {sizes}", list(found), lines, remarks(ordered))


def told(value: Any, how: Callable[[Any], str]) -> str:
    """A value in words, nothing where there is none."""
    return "" if value is None else how(value)


def ratio_to(limit: str, row: Row) -> str:
    """A ratio, in brackets where the limit writes to another kind of memory."""
    if not row.ratios or limit not in row.ratios:
        return ""
    text = times(row.ratios[limit])
    return text if row.against == limit else f"({text})"


def note(row: Row) -> str:
    """Why a contestant was not timed."""
    if row.status == "wrong":
        return "wrong, not timed"
    return row.note if row.status in ("timed", "absent") else f"{row.status}: {row.note}"


def remarks(rows: list[Row]) -> list[str]:
    """How ours stands against the fastest of the others, who is wrong, and whether the machine was restless."""
    timed = [r for r in rows if r.seconds is not None]
    said: list[str] = []
    ours = next((r for r in timed if r.contestant == OURS), None)
    others = [r for r in timed if not r.limit and not r.contestant.startswith(OURS)]
    if ours and others and ours.seconds:
        best = min(others, key=lambda r: r.seconds or 0)
        share = (best.seconds or 0) / ours.seconds
        said.append(f"{OURS} is {times(share)} as fast as {best.contestant}, the fastest of the others.")
    for r in rows:
        if r.status == "wrong":
            why = f"off by {r.error:.2g}, rounding explains {r.allowed:.2g}" if r.error is not None else r.note
            said.append(f"{r.contestant} is wrong here and was not timed: {why}.")
    for r in timed:
        if r.limit and r.low and r.high and r.seconds and max(r.high / r.seconds, r.seconds / r.low) > RESTLESS:
            said.append(
                f"{r.contestant} itself took {seconds(r.low)} to {seconds(r.high)}: the machine did other things "
                "as well, so repeat this before relying on it."
            )
            break
    return said


def named(what: str, stage: str, bias: str) -> str:
    """What is compared, in words."""
    return f"{what.capitalize()}{f' with {NAMES[bias]}' if bias else ''}, {stage}"


def count(number: int, what: str) -> str:
    """So many of something."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def seconds(value: float) -> str:
    """Three figures, in the unit that suits: 12.3 ms."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 999.5 else f"{value / size:,.0f} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(ratio: float) -> str:
    """A ratio with the figures that carry information: 0.98x, 1.04x, 12.3x, 191x."""
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.3g}x" if ratio < 999.5 else f"{ratio:,.0f}x"


def about(machine: dict[str, Any]) -> str:
    """Where and when, in a line."""
    return f"{machine['device']}, {count(machine['threads'], 'thread')}, torch {machine['torch']}, {machine['date']}"
