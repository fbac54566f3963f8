import math
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from ropewalk import report
from ropewalk.report import plots
from ropewalk.report.tables import baseline, chosen, contenders, pooled

FIGURES = [plots.held_out_loss, plots.race, plots.retrieval, plots.spectrum]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def candidate(summary: dict, start: str) -> dict:
    return next(c for c in summary["candidates"] if c["name"].startswith(start))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("narrow", [False, True])
def test_axes_say_what_they_measure(made_up: dict, draw: object, narrow: bool) -> None:
    figure = draw(made_up, narrow)
    assert figure.get_figwidth() == (3.7 if narrow else 8.0)
    last = figure.axes[-1]
    assert any(unit in last.get_xlabel() for unit in ("tokens", "pair"))
    assert all(ax.get_ylabel() for ax in (figure.axes if draw is not plots.retrieval or narrow else figure.axes[:1]))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
def test_drawing_changes_no_global_setting(made_up: dict, draw: object) -> None:
    before = dict(matplotlib.rcParams)
    draw(made_up)
    assert dict(matplotlib.rcParams) == before


def test_no_global_figures() -> None:
    sources = [p.read_text() for p in Path(report.__path__[0]).glob("*.py")]
    assert len(sources) > 4
    assert not any("pyplot" in text for text in sources)


def test_held_out_curves_are_the_measured_perplexities(made_up: dict) -> None:
    figure = plots.held_out_loss(made_up)
    shown = [chosen(made_up), baseline(made_up, "unmodified"), baseline(made_up, "truncated"), contenders(made_up)[0]]
    names = [plots.label(c, made_up) for c in shown]
    assert legend(figure) == names
    assert figure.axes[0].get_yscale() == "log"
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name, c in zip(names, shown, strict=True):
        blocks = c["held_out"]["blocks"]
        assert list(lines[name].get_xdata()) == [(b["start"] + b["end"]) / 2 for b in blocks]
        assert list(lines[name].get_ydata()) == [math.exp(b["loss"]) for b in blocks]


@pytest.mark.parametrize("draw", [plots.held_out_loss, plots.race], ids=lambda f: f.__name__)
def test_the_trained_window_is_marked(made_up: dict, draw: object) -> None:
    ax = draw(made_up).axes[0]
    assert [8192, 8192] in [list(line.get_xdata()) for line in ax.lines]
    assert "trained window: 8,192" in [text.get_text() for text in ax.texts]


def test_the_cliff_is_pointed_at(made_up: dict) -> None:
    made_up["cliff"] = {"unmodified": 9728, "chosen": 15360}
    said = words(plots.held_out_loss(made_up))
    assert "unmodified: clearly worse from 9,728" in said
    assert "chosen: clearly worse from 15,360" in said
    made_up["cliff"] = {"unmodified": None, "chosen": None}
    assert not [text for text in words(plots.held_out_loss(made_up)) if "worse" in text]


def test_a_wide_extension_keeps_its_labels_inside(made_up: dict) -> None:
    made_up["trained_length"] = 512
    made_up["cliff"] = {"unmodified": 512, "chosen": None}
    figure = plots.held_out_loss(made_up)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    left = ax.get_window_extent().x0
    marks = [t for t in ax.texts if t.get_text().startswith(("trained", "unmodified"))]
    assert len(marks) == 2
    assert all(t.get_window_extent().x0 >= left for t in marks)


def test_the_race_ends_where_candidates_were_stopped(made_up: dict) -> None:
    figure = plots.race(made_up)
    raced = [c for c in made_up["candidates"] if c["search"]]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert sorted(legend(figure)) == sorted(plots.label(c, made_up) for c in raced)
    for c in raced:
        assert lines[plots.label(c, made_up)].get_xdata()[-1] == c["search"]["tokens"] - 256
    crosses = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "X"]
    stopped = [c["search"]["tokens"] - 256 for c in raced if c["search"]["outcome"] in ("priced out", "behind")]
    assert sorted(crosses) == sorted(stopped)


def test_the_race_is_also_told_against_the_chosen(made_up: dict) -> None:
    ax = plots.race(made_up).axes[1]
    flat = [line for line in ax.lines if len(line.get_ydata()) == 32 and not any(line.get_ydata())]
    assert [line.get_color() for line in flat] == [plots.look(chosen(made_up), made_up)["color"]]


def test_a_candidate_keeps_its_colour(made_up: dict) -> None:
    name = plots.label(contenders(made_up)[0], made_up)
    colours = {
        line.get_color()
        for draw in (plots.held_out_loss, plots.race)
        for line in draw(made_up).axes[0].lines
        if line.get_label() == name
    }
    assert len(colours) == 1


def test_every_cell_and_margin_is_printed(made_up: dict) -> None:
    figure = plots.retrieval(made_up)
    names = [made_up["chosen_name"], "unmodified"]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [plots.label(candidate(made_up, name), made_up) for name in names]
    for ax, name in zip(figure.axes, names, strict=True):
        grid = made_up["retrieval"]["grids"][name]
        at = {text.get_position(): text.get_text() for text in ax.texts}
        for i, column in enumerate(grid):
            for j, cell in enumerate(column):
                assert at[i + 0.5, j + 0.5] == f"{cell['found']}/{cell['asked']}"
            whole = pooled(column)
            assert f"{whole['found']}/{whole['asked']}" in [t for (x, y), t in at.items() if x == i + 0.5 and y > 8]


def test_wavelengths_are_full_turns(made_up: dict) -> None:
    above, below = plots.spectrum(made_up).axes
    for line, which in zip(above.lines, ("trained", "chosen"), strict=False):
        rates = made_up["spectrum"][which]["inv_freq"]
        assert list(line.get_ydata()) == [2 * math.pi / f for f in rates]
    assert below.lines[0].get_ydata()[0] == 1
    assert below.lines[0].get_ydata()[-1] == pytest.approx(2, rel=4e-16)


def test_pairs_that_never_turn_are_left_out(made_up: dict) -> None:
    for which in ("trained", "chosen"):
        made_up["spectrum"][which]["inv_freq"][-2:] = [0.0, 0.0]
    above, below = plots.spectrum(made_up).axes
    assert all(math.isnan(y) for y in above.lines[0].get_ydata()[-2:])
    assert all(math.isnan(y) for y in below.lines[0].get_ydata()[-2:])


@pytest.mark.parametrize("narrow", [False, True])
def test_one_grid_with_an_unasked_cell_is_drawn(made_up: dict, narrow: bool) -> None:
    del made_up["retrieval"]["grids"]["unmodified"]
    made_up["retrieval"]["grids"][made_up["chosen_name"]][0][0] = {"found": 0, "asked": 0, "low": 0.0, "high": 1.0}
    figure = plots.retrieval(made_up, narrow)
    figure.draw_without_rendering()
    assert len(figure.axes[0].patches) == 63


def test_labels_are_names(made_up: dict) -> None:
    assert plots.label(chosen(made_up), made_up) == "Yarn(factor=2.0) \u2013 chosen"
    first = {**made_up["candidates"][3], "name": "Made(trained_length=8192, factor=2.0)"}
    assert plots.label(first, made_up) == "Made(factor=2.0)"
    other = {**first, "name": "Made(trained_length=81920, factor=2.0)"}
    assert plots.label(other, made_up) == other["name"]
    long = {**first, "name": "LongRope(factors=(" + "1.25, " * 32 + "), magnitude=1.2)"}
    assert len(plots.label(long, made_up)) == 48
    assert len(plots.label(long, made_up, room=26)) == 26
    assert plots.label(long, made_up).startswith("LongRope(factors=")
