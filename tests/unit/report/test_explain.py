"""What is said about a class is taken from its source.

Paper and code: the paper says one thing, the released
code another; we follow the code.
"""

from dataclasses import dataclass

import pytest

import ropewalk as rw
from ropewalk import remaps, scalings
from ropewalk.encodings import registry as encodings
from ropewalk.notation import classes, sample
from ropewalk.report.entry import entry, figure, grid
from ropewalk.report.explain import comments, explain, kind_of, meaning, part

EVERY = [sample(kind) for registry in (encodings, scalings, remaps) for kind in classes(registry)]


@dataclass(frozen=True)
class Told:
    """Does something to `second` tokens; the third part keeps still.

    More about it: `first` counts, and nothing more.
    """

    first: int = 1
    second: int = 2
    # paper and code agree here,
    # for once
    fourth: str = "a"  # or "b"
    third_part: int = 3

    def method(self) -> None:
        unrelated: int = 5  # no field
        assert unrelated


@dataclass(frozen=True)
class Heir(Told):
    """Nothing of its own."""

    fifth: float = 0.5  # half


def test_remarks_beside_and_above_a_field_are_its_meaning() -> None:
    assert comments(Told)["fourth"] == 'paper and code agree here, for once or "b"'
    assert comments(Heir) == comments(Told) | {"fifth": "half"}
    assert "unrelated" not in comments(Told)


def test_otherwise_the_docstring_says_it() -> None:
    assert meaning(Told, "second") == "Does something to `second` tokens"
    assert meaning(Told, "first") == "`first` counts, and nothing more"
    assert meaning(Told, "third_part") == "the third part keeps still"
    assert meaning(rw.Yarn, "truncate").startswith("round the ends")
    # said by the class that the rule is built on
    assert "beta_slow" in meaning(rw.DynamicYarn, "beta_slow")
    assert meaning(Told, "nowhere") == ""


def test_disagreements_are_paragraphs_of_the_module() -> None:
    told = part(Told())
    assert told["source"] == "What is said about a class is taken from its source."
    assert told["disagreements"] == ["the paper says one thing, the released code another; we follow the code."]
    assert [p["name"] for p in told["parameters"]] == ["first", "second", "fourth", "third_part"]


@pytest.mark.parametrize("value", [*EVERY, (), (rw.Rotary(16), rw.Alibi(4))], ids=rw.short)
def test_everything_can_be_explained(value: object) -> None:
    told = explain(value, dim=16)
    assert all(p["does"] and p["source"] for p in told["parts"])
    assert told["numbers"] or value == ()
    assert all(len(row) == len(table["columns"]) for table in told["numbers"] for row in table["rows"])
    page = entry(told)
    assert all(f"`{p['name']}`" in page for part in told["parts"] for p in part["parameters"])


def test_the_kind_of_a_value() -> None:
    values = [rw.Alibi(4), (), rw.Yarn(4.0, 64), (rw.Linear(2.0), rw.NTK(2.0)), rw.Grouped(4)]
    assert [kind_of(v) for v in values] == ["encoding", "encoding", "scaling", "scaling", "remap"]


def test_numbers_of_a_scaling() -> None:
    told = explain(rw.Yarn(4.0, 8192))
    rates, logits = told["numbers"]
    assert "32 pairs" in rates["caption"]
    assert f"{0.1 * 1.3862943611198906 + 1:.6g}" in rates["caption"]
    assert (rates["rows"][0][3], rates["rows"][-1][3]) == (1.0, 4.0)
    assert logits["rows"][0][1] == pytest.approx(8 * 1.138629436**2)


def test_a_pair_that_stands_still_has_no_wavelength() -> None:
    (rates, *_) = explain(rw.Proportional(0.5), dim=8)["numbers"]
    assert rates["rows"][-1] == [3, 0.0, None, None]
    assert "| 3 | 0 | \u2013 | \u2013 |" in entry(explain(rw.Proportional(0.5), dim=8))


def test_figures_and_grids() -> None:
    assert [figure(x) for x in (1234, 1234.5678, 6.2832e7, 1e-4, None, "x")] == [
        "1,234",
        "1,234.6",
        "62,832,000",
        "0.0001",
        "\u2013",
        "x",
    ]
    assert grid(["a", "b"], [["x|y", 1]]) == "| a | b |\n| :--- | ---: |\n| x\\|y | 1 |"
