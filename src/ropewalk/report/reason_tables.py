"""The numbers of a reasoning run as text: cards, tables and sentences, for the page and for the command line."""

from typing import Any, NamedTuple

from ropewalk.report.findings import Number
from ropewalk.report.style import Summary
from ropewalk.report.tables import MINUS, NOTHING, Cell, share

METHODS = {"direct": "at once", "cot": "chain of thought", "vote": "vote over chains"}


class Told(NamedTuple):
    """One table: a row is a name and its cells."""

    title: str
    heads: list[str]
    rows: list[tuple[str, list[Cell]]]


def percent(value: float | None) -> str:
    """A share in percent."""
    return NOTHING if value is None else f"{100 * value:.0f}%"


def points(value: float) -> str:
    """A difference of shares in points of percent, with its sign."""
    text = f"{abs(100 * value):.0f}"
    return f"{'' if text == '0' else '+' if value > 0 else MINUS}{text}"


def length_table(task: dict[str, Any]) -> Told:
    """What is right by length and method."""
    heads = [task["name"], "in all", *(f"{n:,} {task['unit']}" for n in task["lengths"])]
    rows = [(METHODS[m], [share(x["total"]), *(share(s) for s in x["by_length"])]) for m, x in task["methods"].items()]
    return Told(f"{task['name']}: right answers", heads, rows)


def curve_table(task: dict[str, Any]) -> Told | None:
    """What is right by the number of votes, and the other ways to count them."""
    if task["curve"] is None:
        return None
    heads = [f"{task['name']}, chains", *(str(x["n"]) for x in task["curve"])]
    cells = [Cell(percent(x["accuracy"]), error(x["problems_se"])) for x in task["curve"]]
    chosen = [Cell(f"{100 * x['se']:.1f}") for x in task["curve"]]
    return Told(
        f"{task['name']}: right answers by the number of chains that vote",
        heads,
        [("right", cells), ("± of the choice of chains", chosen)],
    )


def error(se: float | None) -> str:
    return "" if se is None else f"± {100 * se:.0f}"


def paired_table(task: dict[str, Any]) -> Told:
    """Differences on the same problems."""
    rows = list[tuple[str, list[Cell]]]()
    for p in task["paired"]:
        first, second = (METHODS[m] for m in p["name"].split(" - "))
        gap = Cell(f"{points(p['difference'])} points", f"{points(p['low'])} to {points(p['high'])}")
        rows.append((f"{first} against {second}", [gap, Cell(f"{p['gained']}"), Cell(f"{p['lost']}")]))
    heads = [task["name"], "difference", "only the first right", "only the second right"]
    return Told(f"{task['name']}: differences on the same problems", heads, rows)


def cost_table(task: dict[str, Any]) -> Told:
    """Tokens, and completions that end without an answer."""
    heads = [task["name"], "tokens a problem", "a completion", "a prompt", "of it not shared"]
    heads += ["without an answer", "cut off"]
    rows = list[tuple[str, list[Cell]]]()
    for m, x in task["methods"].items():
        counts = [x["tokens_per_problem"], x["tokens_per_completion"], x["prompt_tokens"], x["read_tokens"]]
        cells = [Cell(NOTHING if n is None else f"{n:,.0f}") for n in counts]
        rows.append((METHODS[m], [*cells, share(x["unanswered"]), Cell(f"{x['cut']:,}")]))
    return Told(f"{task['name']}: what it costs", heads, rows)


def weight_table(task: dict[str, Any]) -> Told | None:
    """Votes by weight."""
    if task["weighted"] is None:
        return None
    names = {
        "equal": "every chain alike",
        "mean": "by its mean log-probability",
        "sum": "by its whole log-probability",
    }
    rows = [(names[name], [share(x)]) for name, x in task["weighted"].items()]
    return Told(f"{task['name']}: how votes are weighted", [task["name"], "right"], rows)


def digit_tables(task: dict[str, Any]) -> list[Told]:
    """Of sums: digits by length, and whole sums by their longest chain of carries."""
    if task["digits"] is None:
        return []
    of = task["digits"]
    lengths = [f"{x['length']} digits" for x in of["direct"]["by_length"]]
    chains = [str(x["chain"]) for x in of["direct"]["by_chain"]]
    first = [(METHODS[m], [share(x) for x in found["by_length"]]) for m, found in of.items()]
    second = [(METHODS[m], [share(x) for x in found["by_chain"]]) for m, found in of.items()]
    return [
        Told("addition: right digits, the last ones one below the other", ["addition", *lengths], first),
        Told("addition: right sums by the longest chain of carries", ["places", *chains], second),
    ]


def all_tables(task: dict[str, Any]) -> list[Told]:
    """Everything that is told of a task."""
    found = [length_table(task), paired_table(task), curve_table(task), weight_table(task), cost_table(task)]
    return [told for told in found if told] + digit_tables(task)


def numbers(summary: Summary) -> list[Number]:
    """The vote of every task, beside the other methods."""
    found = list[Number]()
    for task in summary["tasks"]:
        beside = [(METHODS[m], share(task["methods"][m]["total"])) for m in ("direct", "cot")]
        beside += [(f"agreement where {k}", Cell(percent(task["agreement"][k]))) for k in ("right", "wrong")]
        value = share(task["methods"]["vote"]["total"])
        found.append(Number(f"{task['name']}: {METHODS['vote']}", value, beside))
    return found


def lessons(summary: Summary) -> dict[str, str]:
    """Both figures in words."""
    ends, votes = list[str](), list[str]()
    for task in summary["tasks"]:
        last = {m: x["by_length"][-1] for m, x in task["methods"].items()}
        told = ", ".join(f"{METHODS[m]} {x['found']} of {x['asked']}" for m, x in last.items())
        ends.append(f"{task['name']} at {task['lengths'][-1]:,} {task['unit']}: {told}.")
        if task["curve"]:
            first, final = task["curve"][0], task["curve"][-1]
            votes.append(
                f"{task['name']}: {percent(first['accuracy'])} with one chain, {percent(final['accuracy'])} by a vote "
                f"over {final['n']}."
            )
    return {"lengths": " ".join(ends), "votes": " ".join(votes)}
