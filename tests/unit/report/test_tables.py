import math

import pytest

from ropewalk.report import tables
from ropewalk.report.tables import Cell, markdown, perplexity, rows


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.876, "9.88"), (11.74, "11.7"), (248.4, "248"), (1234.5, "1,230"), (268337.3, "268,000"), (1.0, "1.00")],
)
def test_perplexities_keep_three_figures(value: float, text: str) -> None:
    assert perplexity(value) == text


@pytest.mark.parametrize(
    ("percent", "text"),
    [
        (1.84, "+1.8%"),
        (-8.2, "\u22128.2%"),
        (0.01, "0.0%"),
        (-0.01, "0.0%"),
        (1234.5, "+1,234%"),
        (-99.97, "\u2212100%"),
    ],
)
def test_changes_show_their_sign(percent: float, text: str) -> None:
    assert tables.signed(percent) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.3, "12 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (545, "9 min 5 s"), (7385, "2 h 3 min")],
)
def test_durations_read_as_said(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_cells_carry_their_intervals() -> None:
    loss = {"loss": 2.5, "low": 2.4, "high": 2.6, "perplexity": math.exp(2.5), "tokens": 9}
    gap = {"nats": -0.1, "low": -0.2, "high": 0.1, "percent": 100 * math.expm1(-0.1), "tokens": 9}
    assert tables.mean(loss) == Cell("12.2", "11.0 to 13.5")
    assert tables.change(gap) == Cell("\u22129.5%", "\u221218.1% to +10.5%")
    assert tables.share({"found": 7, "asked": 8, "low": 0.529, "high": 0.978}) == Cell("7 of 8", "53% to 98%")
    assert {tables.mean(None), tables.change(None), tables.share(None)} == {Cell("\u2013")}


def test_shares_add_up() -> None:
    cells = [{"found": 3, "asked": 8, "low": 0, "high": 1}, {"found": 8, "asked": 8, "low": 0, "high": 1}]
    whole = tables.pooled(cells)
    assert (whole["found"], whole["asked"]) == (11, 16)
    assert 0 < whole["low"] < 11 / 16 < whole["high"] < 1


def test_the_chosen_comes_first_then_the_baselines_then_those_that_came_far(made_up: dict) -> None:
    table = rows(made_up)
    assert [row.role for row in table[:4]] == ["chosen", "unmodified", "truncated", "candidate"]
    assert sorted(row.name for row in table) == sorted(c["name"] for c in made_up["candidates"])
    tokens = {c["name"]: (c["search"] or {"tokens": 0})["tokens"] for c in made_up["candidates"]}
    read = [tokens[row.name] for row in table[4:]]
    assert read == sorted(read, reverse=True)
    assert table[-1].outcome == "not raced"


def test_a_named_method_is_measured_without_a_race(made_up: dict) -> None:
    for c in made_up["candidates"]:
        c["search"] = None
    outcomes = {row.name: row.outcome for row in rows(made_up)}
    assert outcomes[made_up["chosen_name"]] == "chosen"
    assert outcomes["unmodified"] == "measured"


def test_in_vain_nobody_is_chosen(in_vain: dict) -> None:
    assert "chosen" not in {row.role for row in rows(in_vain)}
    assert tables.chosen(in_vain) is None
    assert tables.subject(in_vain)["name"] == "Yarn(factor=2.0, trained_length=8192)"


def test_markdown_has_what_held_out_text_measured(made_up: dict) -> None:
    lines = markdown(made_up).splitlines()
    assert len(lines) == 2 + sum(bool(c["held_out"]) for c in made_up["candidates"])
    assert {line.count("|") for line in lines} == {6}
    assert lines[2].startswith("| **Yarn(factor=2.0, trained\\_length=8192)** |")
    assert "503 of 512 (97% to 99%)" in lines[2]
    assert "+1.8% (+1.4% to +2.2%)" in lines[2]


def test_markdown_falls_back_to_the_search_text(made_up: dict) -> None:
    for c in made_up["candidates"]:
        c["held_out"] = None
    lines = markdown(made_up).splitlines()
    assert len(lines) == 2 + sum(bool(c["search"]) for c in made_up["candidates"])
    assert "Linear(factor=2.0)" in "".join(lines)


def test_markdown_shows_every_sign(made_up: dict) -> None:
    made_up["candidates"][0]["name"] = "a|b*c`d"
    assert "a\\|b\\*c\\`d" in markdown(made_up)
