import matplotlib
import numpy as np
import pytest

from ropewalk.bench.run import Row
from ropewalk.report.speed import HEADS, by_case, cells, figure, seconds, times
from ropewalk.report.style import png

MACHINE = {"device": "a processor", "threads": 2, "torch": "2", "python": "3", "date": "2026-01-01"}


def row(who: str, ratio: float | None, length: int = 64, dtype: str = "float32", status: str = "timed") -> Row:
    found = Row("rotate", "forward", "", 4, 2, length, 8, dtype, "bthd", "cpu", who, "", who == "copy", status)
    if ratio is None:
        return found
    return found._replace(seconds=ratio / 1000, low=ratio / 1100, high=ratio / 900, ratio=ratio, gb_per_s=1 / ratio)


ROWS = [
    row("copy", 1.0),
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


def test_a_table_for_every_case() -> None:
    (head, table), (other, _) = by_case([*ROWS, row("copy", 1.0, length=1)]).items()
    assert "64 tokens" in head
    assert "1 token," in other
    assert "a copy of the same tensors" in head
    assert [line[0] for line in table] == ["copy", "ropewalk", "slow", "bad", "gone"]
    assert {len(line) for line in table} == {len(HEADS)}
    assert table[1][1:5] == ["1.02 ms", "927 \u00b5s to 1.13 ms", "1.02x", "0.98"]
    assert table[3][1:] == ["\u2013"] * 5 + ["1.5e+00 of 1.0e-06", "wrong"]
    assert cells(ROWS[4])[-1] == "absent: not installed"


def test_bars_end_at_the_ratios() -> None:
    (ax,) = figure([*ROWS, row("slow", 40.0, dtype="bfloat16"), row("ropewalk", 0.9, dtype="bfloat16")], MACHINE).axes
    ends = sorted(bar.get_x() + bar.get_width() for bar in ax.patches if isinstance(bar, matplotlib.patches.Rectangle))
    assert ends == pytest.approx([0.9, 1.02, 23.0, 40.0])
    assert {bar.get_x() for bar in ax.patches} == {1.0}
    names = [label.get_text() for label in ax.get_yticklabels()]
    # the fastest on top, who has no ratio below, and no line for the limit or for who is absent
    assert names == ["bad", "slow", "ropewalk"]
    said = {text.get_text() for text in ax.texts}
    assert said == {"0.90x", "1.02x", "23x", "40x", "wrong"}
    assert ax.get_legend() is not None


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
    assert [ax.get_title("left").split(" (")[0] for ax in made.axes] == [
        "Rotate, forward",
        "Attend with KERPLE, forward",
        "Rotate, backward",
    ]
    assert png(made).startswith(b"\x89PNG")


def test_nobody_but_the_limit_was_timed() -> None:
    assert png(figure([ROWS[0], *ROWS[3:]], MACHINE)).startswith(b"\x89PNG")
