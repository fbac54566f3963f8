"""An explanation as Markdown: what `ropewalk show` prints and what a page about an encoding says."""

from typing import Any

from ropewalk.report.catalogue import Row
from ropewalk.report.tables import NOTHING


def entry(told: Row) -> str:
    """The whole entry, from what `explain` found."""
    blocks = [f"# `{told['notation']}`"]
    for part in told["parts"]:
        blocks += [f"## {part['name']}", prose(part["does"]), f"*{part['source']}*"]
        blocks += [f"**Paper and code disagree.** {text}" for text in part["disagreements"]]
        if part["parameters"]:
            blocks.append(
                grid(["parameter", "value", "default", "meaning"], [parameter(p) for p in part["parameters"]])
            )
    if not told["parts"]:
        blocks.append("No positions at all (NoPE, arXiv:2305.19466): only a causal mask tells what came first.")
    if told["kind"] != "remap":
        blocks += ["## Properties, found by trying", settled(told), items(answers(told["properties"]))]
    for table in told["numbers"]:
        blocks += [f"## {table['caption']}", grid(table["columns"], table["rows"])]
    return "\n\n".join(block for block in blocks if block)


def prose(doc: str) -> str:
    """A docstring as Markdown: its paragraphs, with names in code as they are."""
    return "\n\n".join(" ".join(p.split()) for p in doc.split("\n\n"))


def parameter(p: Row) -> list[str]:
    default = "must be given" if p["default"] is None else f"`{p['default']}`"
    return [f"`{p['name']}`", f"`{p['value']}`", default, p["meaning"] or NOTHING]


def settled(told: Row) -> str:
    """What the properties and the numbers are of, where that is not what was asked about."""
    on = f"Shown on `{told['shown_on']}`. " if told["kind"] == "scaling" else ""
    length = told["settled_for"]
    return on + (f"Settled for a text of {length:,} tokens: `{told['settled']}`." if length else "")


def items(found: dict[str, str]) -> str:
    """A list, names in bold."""
    return "\n".join(f"- **{name}**: {text}" for name, text in found.items())


def answers(found: Row) -> dict[str, str]:
    """Every property as a sentence."""
    last, numbers = found["limit"], found["learned"]
    return {
        "site": "; ".join(SITES[s] for s in found["sites"]) or "none",
        "relative": "yes: a shift of all tokens changes nothing" if found["relative"] else "no: a shift changes logits",
        "norm": NORMS[found["norm"]],
        "distance": TRENDS[found["trend"]] + (", with the random weights of the probe" if numbers else ""),
        "keys in a cache": KEYS[found["keys"]],
        "learned": f"{numbers:,} numbers" if numbers else "nothing",
        "positions": "any" if last is None else f"up to {last:,}; beyond that it raises an error",
        "linear attention": "usable: it maps single tokens"
        if found["linear"]
        else "not usable: it needs pairs of tokens",
        "computed by": f"{found['kernel']}: {found['why']}",
        "equal tokens": "come out equal, wherever they stand" if found["constant"] else "can be told apart by place",
    }


SITES = {
    "embed": "the token embeddings",
    "rotation": "queries and keys, each alone",
    "bias": "added to the logits",
    "mix": "logits are made from both contents and both positions",
}
NORMS = {
    None: "nothing maps queries and keys one by one",
    "kept": "rotated vectors keep their length",
    "scaled": "rotated vectors all change their length by one factor",
    "changed": "rotated vectors change their length by different factors",
}
TRENDS = {
    "falls": "the logit between equal tokens only falls as they move apart",
    "flat": "the logit between equal tokens does not depend on it",
    "rises": "the logit between equal tokens only rises as they move apart",
    "mixed": "the logit between equal tokens rises at some steps and falls at others",
}
KEYS = {"mapped": "as a query uses them", "raw": "raw: they are made anew for each query, or for each length"}


def grid(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; figures stand at the right."""
    right = [all(isinstance(r[i], int | float | None) for r in rows) for i in range(len(head))]
    lines = [line(head), line(["---:" if r else ":---" for r in right])]
    return "\n".join([*lines, *(line([figure(cell) for cell in r]) for r in rows)])


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def figure(value: Any) -> str:
    """A number with as many digits as say something; a dash for none."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
