import matplotlib
import numpy as np
import pytest

from ropewalk.bench.run import FRESH, GIVEN, Row
from ropewalk.report.speed import NARROW, Table, seconds, tables, times
from ropewalk.report.speed_figure import figure
from ropewalk.report.style import png

MACHINE = {"device": "a processor", "threads": 2, "torch": "2", "python": "3", "date": "2026-01-01"}


def row(who: str, ratio: float | None, length: int = 64, dtype: str = "float32", status: str = "timed") -> Row:
    """Of somebody who is held against `clone`, which takes a millisecond."""
    found = Row("rotate", "forward", "", 4, 2, length, 8, dtype, "bthd", "cpu", who, "", who == "clone", FRESH, status)
    if ratio is None:
        return found
    found = found._replace(seconds=ratio / 1000, low=ratio / 1100, high=ratio / 900, gb_per_s=1 / ratio)
    return found._replace(error=1e-7, allowed=4e-7, against="clone", ratio=ratio, ratios={"clone": ratio})


def over(who: str, time: float) -> Row:
    """Of somebody who writes over memory, held against `copy_`, which takes half a millisecond."""
    found = row(who, time)._replace(writes=GIVEN, limit=who == "copy_", against="copy_", ratio=time / 0.5)
    return found._replace(ratios={"clone": time, "copy_": time / 0.5})


ROWS = [
    row("clone", 1.0),
    row("ropewalk", 1.02),
    row("slow", 23.0),
    row("bad", None, status="wrong")._replace(error=1.5, allowed=1e-6),
    row("gone", None, status="absent")._replace(note="not installed"),
]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.567e-5, "45.7 \u00b5s"), (0.99999, "1,000 ms"), (5e-8, "50 ns")],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.849, "0.85x"), (1.0, "1.00x"), (23.04, "23x"), (1234.0, "1,234x")])
def test_times(value: float, text: str) -> None:
    assert times(value) == text


def columns(table: Table) -> dict[str, list[str]]:
    return {head: [line[i] for line in table.cells] for i, head in enumerate(table.heads)}


def test_a_table_for_every_case() -> None:
    first, second = tables([*ROWS, row("clone", 1.0, length=1)])
    assert first.title == "Rotate, forward: 4 + 2 heads of 8, 64 tokens, float32"
    assert "1 token," in second.title
    assert columns(first) == {
        "contestant": ["clone", "ropewalk", "slow", "bad", "gone"],
        "median": ["1 ms", "1.02 ms", "23 ms", "\u2013", "\u2013"],
        "range": ["909 \u00b5s to 1.11 ms", "927 \u00b5s to 1.13 ms", "20.9 ms to 25.6 ms", "\u2013", "\u2013"],
        "/ clone": ["1.00x", "1.02x", "23x", "\u2013", "\u2013"],
        "GB/s": ["1", "0.98", "0.0435", "\u2013", "\u2013"],
        "error / allowed": ["1.0e-07 / 4.0e-07"] * 3 + ["\u2013"] * 2,
        "note": ["", "", "", "wrong, not timed", "not installed"],
    }
    assert first.remarks == [
        "ropewalk is 22.5x as fast as slow, the fastest of the others.",
        "bad is wrong here and was not timed: off by 1.5, rounding explains 1e-06.",
    ]
    assert second.remarks == []


def test_a_ratio_to_another_kind_of_copy_is_in_brackets() -> None:
    both = [ROWS[0]._replace(ratios={"clone": 1.0, "copy_": 2.0}), over("ropewalk in place", 0.4), over("copy_", 0.5)]
    (found,) = tables([*both, ROWS[1]._replace(ratios={"clone": 1.02, "copy_": 2.04}), ROWS[3]])
    told = columns(found)
    # by what is written to, the limit first
    assert told["contestant"] == ["clone", "ropewalk", "copy_", "ropewalk in place", "bad"]
    assert told["writes to"] == ["fresh memory"] * 2 + ["what it is given"] * 2 + ["\u2013"]
    assert told["/ clone"] == ["1.00x", "1.02x", "(0.50x)", "(0.40x)", "\u2013"]
    assert told["/ copy_"] == ["(2.00x)", "(2.04x)", "1.00x", "0.80x", "\u2013"]


def test_a_restless_machine_is_told() -> None:
    for calm, shaken in ((0.001, 0.0016), (0.0006, 0.001)):
        found = row("clone", 1.0)._replace(low=calm, high=shaken)
        (remark,) = tables([found])[0].remarks
        assert remark.startswith(f"clone itself took {seconds(calm)} to {seconds(shaken)}: ")
    # others may vary as they like
    assert tables([row("clone", 1.0), row("slow", 23.0)._replace(high=1.0)])[0].remarks == []


def test_columns_leave_until_a_table_fits() -> None:
    (whole,) = tables([*ROWS, over("copy_", 0.5)])
    assert whole.within(999) == whole
    assert [head for head in NARROW if head in whole.heads] == ["range", "error / allowed", "writes to", "GB/s"]
    seen = {width: whole.within(width) for width in range(30, 140)}
    for width, table in seen.items():
        gone = [head for head in whole.heads if head not in table.heads]
        assert sorted(gone, key=NARROW.index) == [head for head in NARROW if head in whole.heads][: len(gone)]
        drawn = sum(
            max(map(len, cells)) + 2 for cells in zip(*(line[:-1] for line in (table.heads, *table.cells)), strict=True)
        )
        assert drawn + len("wrong, not timed") <= width or len(gone) == 4
        assert columns(table).items() <= columns(whole).items()
    assert len({len(table.heads) for table in seen.values()}) == 5


def test_what_failed_says_how() -> None:
    failed = row("odd", None, status="failed")._replace(note="RuntimeError: no")
    shape = row("flat", None, status="wrong")._replace(note="the result must be of shape (1,), got (2,)")
    (table,) = tables([*ROWS, failed, shape])
    assert columns(table)["note"][5:] == ["failed: RuntimeError: no", "wrong, not timed"]
    assert table.remarks[-1] == "flat is wrong here and was not timed: the result must be of shape (1,), got (2,)."


def test_bars_end_at_the_ratios() -> None:
    made = figure([*ROWS, row("slow", 40.0, dtype="bfloat16"), row("ropewalk", 0.9, dtype="bfloat16")], MACHINE)
    (ax,) = made.axes
    ends = sorted(bar.get_x() + bar.get_width() for bar in ax.patches if isinstance(bar, matplotlib.patches.Rectangle))
    assert ends == pytest.approx([0.9, 1.02, 23.0, 40.0])
    assert {bar.get_x() for bar in ax.patches} == {1.0}
    names = [label.get_text() for label in ax.get_yticklabels()]
    # the fastest on top, who has no ratio below, and no line for the limit or for who is absent
    assert names == ["bad", "slow", "ropewalk"]
    said = {text.get_text() for text in ax.texts}
    assert said == {"0.90x", "1.02x", "23x", "40x", "wrong", "4 + 2 heads of 8, 64 tokens"}
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["float32", "bfloat16"]


def test_what_writes_over_memory_has_a_panel_of_its_own() -> None:
    fresh, other = figure([*ROWS, over("copy_", 0.5), over("ropewalk in place", 0.4)], MACHINE).axes
    assert [ax.get_title("left") for ax in (fresh, other)] == [
        "Rotate, forward, into fresh memory",
        "Rotate, forward, over memory that is there",
    ]
    assert [label.get_text() for label in other.get_yticklabels()] == ["ropewalk in place"]
    (bar,) = other.patches
    assert bar.get_x() + bar.get_width() == pytest.approx(0.8)
    assert fresh.get_xlabel() == "times as long as a copy into fresh memory (clone): 1 ms"
    assert other.get_xlabel() == "times as long as a copy into memory that is there (copy_): 500 \u00b5s"


def test_lines_over_the_length_have_gaps_where_nothing_was_timed() -> None:
    rows = [row(r.contestant, r.ratio, length, status=r.status) for length in (8, 64, 512) for r in ROWS]
    rows[7] = row("slow", None, 64, status="failed")
    (ax,) = figure(rows, MACHINE).axes
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines[:-1]}
    assert set(drawn) == {"ropewalk", "slow"}
    assert drawn["ropewalk"].tolist() == [1.02] * 3
    assert np.isnan(drawn["slow"]).tolist() == [False, True, False]
    assert ax.get_xlabel() == "length (tokens)"


def test_panels_for_what_cannot_be_compared_with_each_other() -> None:
    attend = [r._replace(what="attend", bias="kerple") for r in ROWS]
    made = figure([*ROWS, *attend, *(r._replace(stage="backward") for r in ROWS)], MACHINE)
    assert [ax.get_title("left") for ax in made.axes] == [
        "Rotate, forward, into fresh memory",
        "Attend with KERPLE, forward",
        "Rotate, backward, into fresh memory",
    ]
    assert png(made).startswith(b"\x89PNG")


def test_nobody_but_the_limit_was_timed() -> None:
    assert png(figure([ROWS[0], *ROWS[3:]], MACHINE)).startswith(b"\x89PNG")
