"""The optional parts of a lab whose models answer right or wrong: shares of right answers in cells, and lessons."""

from collections.abc import Iterable

from matplotlib import rc_context
from matplotlib.figure import Figure

from ropewalk.report import lab_cells
from ropewalk.report.lab_cells import Cell, Table
from ropewalk.report.lab_lines import thinned
from ropewalk.report.lab_words import listed
from ropewalk.report.style import RC, Summary

EQUAL = 0.02  # shares that differ by less are called equal
HOLDS, FAILS = 1.05, 0.5  # a ratio of perplexities that holds, and a share of right answers that fails
PHONE = 8  # columns that a phone has room for
WAYS = {"extrapolated": "places counted on", "interpolated": "places fitted in"}


@rc_context(RC)
def strings(summary: Summary, narrow: bool = False) -> Figure:
    """Shares of strings that were answered in full, by task and length."""
    tasks = summary["strings"]["tasks"]
    made = [answers(f"{task}, % right", some, "multiple", 1, "x") for task, some in tasks.items()]
    return lab_cells.figure(made, "length, times the trained one", narrow, across=3)


@rc_context(RC)
def numbers(summary: Summary, narrow: bool = False) -> Figure:
    """Shares of sums that were right to the last digit, by format and digits."""
    return by_format(summary, narrow, "exact", "% of sums right")


@rc_context(RC)
def digits(summary: Summary, narrow: bool = False) -> Figure:
    """Shares of the digits of sums that were right, by format and digits."""
    return by_format(summary, narrow, "digit", "% of digits right")


def by_format(summary: Summary, narrow: bool, field: str, words: str) -> Figure:
    """A table for every format."""
    part = summary["numbers"]
    made = [
        answers(f"{form}, {words}", some, "digits", part["trained_digits"], field=field)
        for form, some in part["formats"].items()
    ]
    return lab_cells.figure([fewer(t) for t in made] if narrow else made, "digits of a number", narrow, across=1)


@rc_context(RC)
def pictures(summary: Summary, narrow: bool = False) -> Figure:
    """Shares of pictures that were recognised, by resolution, for both ways to place their patches."""
    part = summary["pictures"]
    columns, names = [f"{k}x" for k in part["resolutions"]], [e["name"] for e in part["encodings"]]
    tables: list[Table] = []
    for way, words in WAYS.items():
        cells = [[cell(x) for x in e["accuracy"][way]] for e in part["encodings"]]
        tables.append(Table(f"{words}, % right", names, columns, cells, 1))
    return lab_cells.figure(tables, "resolution, times the trained one", narrow)


@rc_context(RC)
def clips(summary: Summary, narrow: bool = False) -> Figure:
    """Shares of marks in clips whose frame, row or column was told, by the size of the clip, above those of a guess."""
    part = summary["clips"]
    names = [*(e["name"] for e in part["encodings"]), "a guess"]
    tables: list[Table] = []
    for asked in part["asked"]:
        rows = [e["accuracy"][asked] for e in part["encodings"]]
        columns = [f"{x['frames']}\n{x['side']}x{x['side']}" for x in rows[0]]
        cells = [[cell(x) for x in row] for row in rows]
        guess = [Cell(f"{100 * x['chance']:.0f}", x["chance"]) for x in rows[0]]
        inside = sum([x["frames"], x["side"]] == part["trained"] for x in rows[0])
        tables.append(Table(f"which {asked}, % right", names, columns, [*cells, guess], inside))
    return lab_cells.figure(tables, "frames, and rows by columns", narrow)


def answers(title: str, encodings: list[dict], by: str, trained: int, unit: str = "", field: str = "exact") -> Table:
    """What was right, by encoding and by "multiple" or "digits", of which those to `trained` are trained.

    `field` is "exact" for whole answers, "digit" for digits of sums.
    """
    columns = sorted({c[by] for e in encodings for c in e["cells"]})
    rows = [{c[by]: c.get(field) for c in e["cells"]} for e in encodings]
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    inside = sum(column <= trained for column in columns)
    return Table(title, [e["name"] for e in encodings], [f"{c}{unit}" for c in columns], cells, inside)


def cell(found: dict | None) -> Cell | None:
    """A share with its interval; nothing where there is none."""
    return lab_cells.share(found["rate"], found["low"], found["high"]) if found and "rate" in found else None


def fewer(table: Table) -> Table:
    """The same with as many columns as a phone has room for, and without intervals."""
    kept = thinned(range(len(table.columns)), PHONE)
    rows = [[c and c._replace(detail="") for c in (row[i] for i in kept)] for row in table.cells]
    inside = sum(i < table.trained for i in kept)
    return table._replace(columns=[table.columns[i] for i in kept], cells=rows, trained=inside)


def strings_lesson(summary: Summary) -> str:
    """Who answers what far out, and whose perplexity holds while answers fail."""
    said: list[str] = []
    lost: dict[str, None] = {}
    for task, encodings in summary["strings"]["tasks"].items():
        far = max((c["multiple"] for e in encodings for c in e["cells"]), default=1)
        home, out = (exact(encodings, "multiple", k) for k in (1, far))
        if home and out:
            said.append(
                f"{task.capitalize()}: {span(home)} are right at the trained length, {span(out)} at {far} times it."
            )
        lost |= dict.fromkeys(name for name, right in out.items() if right < FAILS <= home.get(name, 0.0))
    if not said:
        return "No model was trained to the end."
    hold = [name for name in lost if holds(summary, name)]
    if hold:
        its = "its" if len(hold) == 1 else "their"
        said.append(
            f"The perplexity of {listed(hold)} holds on long texts, and yet most of {its} answers on long strings are "
            "wrong: a perplexity that holds does not mean that far text is read."
        )
    return " ".join(said)


def holds(summary: Summary, name: str) -> bool:
    """Whether the perplexity of an encoding holds on the longest texts that do not overlap."""
    found = next((e["losses"]["nonoverlapping"][-1] for e in summary["encodings"] if e["name"] == name), {})
    return bool(found.get("ratio")) and found["ratio"] <= HOLDS


def numbers_lesson(summary: Summary) -> str:
    """How far beyond the trained digits each format carries, and with which encoding farthest."""
    part = summary["numbers"]
    trained, said = part["trained_digits"], list[str]()
    for form, encodings in part["formats"].items():
        reach = {e["name"]: reached(e["cells"]) for e in encodings}
        best = max(reach, key=reach.__getitem__, default=None)
        if best:
            names = [name for name, digits in reach.items() if digits == reach[best]]
            far = f"{reach[best]} digits ({listed(names)})" if reach[best] else "no length at all"
            said.append(f"{form.capitalize()}: most sums are right up to {far}.")
    return (
        f"Trained on sums of up to {trained} digits. {' '.join(said)}" if said else "No model was trained to the end."
    )


def reached(cells: list[dict]) -> int:
    """The most digits up to which at least half of the sums are right."""
    last = 0
    for c in sorted(cells, key=lambda c: c["digits"]):
        if "exact" not in c or c["exact"]["rate"] < FAILS:
            break
        last = c["digits"]
    return last


def pictures_lesson(summary: Summary) -> str:
    """How many are right at home, and far out in both ways."""
    part = summary["pictures"]
    far = part["resolutions"][-1]
    home = {e["name"]: x["rate"] for e in part["encodings"] if "rate" in (x := e["accuracy"]["extrapolated"][0])}
    if not home:
        return "No model was trained to the end."
    said = f"At the trained resolution {span(home)} of the pictures are recognised. "
    for way, words in WAYS.items():
        some = {e["name"]: x["rate"] for e in part["encodings"] if "rate" in (x := e["accuracy"][way][-1])}
        said += f"At {far} times it, {words}: {span(some)}. " if some else ""
    return said.strip()


def clips_lesson(summary: Summary) -> str:
    """Who finds frame, row and column in clips as in training, and in those that have most of them."""
    part, said = summary["clips"], list[str]()
    for asked in part["asked"]:
        some = part["encodings"][0]["accuracy"][asked] if part["encodings"] else []
        most = max(range(len(some)), key=lambda i: some[i]["frames" if asked == "frame" else "side"], default=0)
        near, far = (
            {e["name"]: x["rate"] for e in part["encodings"] if "rate" in (x := e["accuracy"][asked][place])}
            for place in (0, most)
        )
        if near and far:
            size = f"{some[most]['frames']} frames of {some[most]['side']} by {some[most]['side']}"
            said.append(f"Which {asked}: {span(near)} right in clips as in training, {span(far)} in {size}.")
    return " ".join(said) or "No model was trained to the end."


def exact(encodings: Iterable[dict], by: str, at: int) -> dict[str, float]:
    """Whole answers that were right at one length, by name."""
    found = ((e["name"], c) for e in encodings for c in e["cells"] if c[by] == at)
    return {name: c["exact"]["rate"] for name, c in found if "exact" in c}


def span(shares: dict[str, float]) -> str:
    """From the least to the most, with whose they are."""
    least, most = (pick(shares, key=shares.__getitem__) for pick in (min, max))
    if shares[most] - shares[least] < EQUAL:
        return f"about {percent(shares[most])}"
    return f"{percent(shares[least])} ({least}) to {percent(shares[most])} ({most})"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"
