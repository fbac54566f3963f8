import math
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ropewalk.report import lab_cells
from ropewalk.report.lab_cells import Table, share
from ropewalk.report.lab_figures import TOP, change, merged, perplexity, positions, published
from ropewalk.report.lab_lines import KNOWN, Look, apart, looks, thinned
from ropewalk.report.lab_scaling import LOOKS, lesson, scaling, scaling_steps
from ropewalk.report.lab_speed import speed
from ropewalk.report.lab_tasks import (
    clips,
    clips_lesson,
    digits,
    numbers,
    numbers_lesson,
    pictures,
    pictures_lesson,
    strings,
    strings_lesson,
)
from ropewalk.report.style import THEME

FIGURES = [
    perplexity,
    change,
    positions,
    published,
    speed,
    scaling,
    scaling_steps,
    strings,
    numbers,
    digits,
    pictures,
    clips,
]


def lines(ax: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """What is drawn, by label."""
    found = {str(line.get_label()): line for line in ax.lines if not str(line.get_label()).startswith("_")}
    return {
        name: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for name, line in found.items()
    }


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_every_line_differs_in_more_than_its_colour() -> None:
    for names in (list(KNOWN), [f"Rotary({n})" for n in range(9)], ["ALiBi", "a", "b", "c"]):
        shown = looks(names)
        assert list(shown) == names
        assert len({look.mark for look in shown.values()}) == len(names)
        assert {look.shade for look in shown.values()} <= set(THEME)
    many = looks(f"Rotary({n})" for n in range(36))
    assert len(set(many.values())) == 36


def test_the_nine_look_alike_in_every_lab() -> None:
    assert looks(["T5", "mine"])["T5"] == looks(KNOWN)["T5"]
    assert looks(["T5", "mine"])["mine"] != KNOWN["T5"]


def test_names_are_moved_apart_and_no_farther() -> None:
    assert apart([0.1, 0.5], 0.1) == [0.1, 0.5]
    assert apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    # three of them push a fourth away, and all share the shift
    found = apart([0.5, 0.5, 0.5, 0.61], 0.1)
    assert np.diff(found) == pytest.approx([0.1] * 3)
    assert np.mean(found) == pytest.approx(np.mean([0.5, 0.5, 0.5, 0.61]))
    assert apart([], 0.1) == []


def test_lengths_are_thinned_from_the_last() -> None:
    assert thinned([1, 2, 4], 6) == [1, 2, 4]
    assert thinned([1, 2, 4, 8, 16, 32, 64], 6) == [1, 4, 16, 64]
    assert thinned([1, 2, 4, 8, 16, 32, 64, 128], 6) == [2, 8, 32, 128]


@pytest.mark.parametrize("narrow", [False, True])
def test_perplexity_is_drawn_as_it_was_read(lab: dict, narrow: bool) -> None:
    panels = perplexity(lab, narrow).axes
    assert [ax.get_title("left") for ax in panels] == ["Texts that do not overlap", "Sliding texts", "Fixed targets"]
    for ax, protocol in zip(panels, lab["protocols"], strict=True):
        drawn = lines(ax)
        for e in lab["encodings"]:
            read = [x for x in e["losses"][protocol] if "loss" in x]
            expected = [x["length"] for x in read], pytest.approx([math.exp(x["loss"]) for x in read])
            assert drawn[e["name"]] == expected
        # an interval each, even where only one point is left
        assert len(ax.collections) == 9
        assert "trained length\nlearned ends here" in words(ax)
        assert [n for n in words(ax) if n in drawn] == [
            "KERPLE",
            "ALiBi",
            "FIRE",
            "T5",
            "xPos",
            "NoPE",
            "RoPE",
            "sinusoidal",
        ]
    heights = panels[0].collections[0].get_paths()[0].get_extents()
    first = lab["encodings"][0]["losses"]["nonoverlapping"]
    # Student's t of two degrees of freedom times 0.004
    half = 4.303 * 0.004
    expected = math.exp(first[0]["loss"] - half), math.exp(first[-1]["loss"] + half)
    assert (heights.y0, heights.y1) == pytest.approx(expected)


def test_who_ends_farther_out_is_marked_there(lab: dict) -> None:
    for some in lab["encodings"][0]["losses"].values():
        some[3:] = [{"length": x["length"], "multiple": x["multiple"], "reason": "no place"} for x in some[3:]]
    for ax in perplexity(lab).axes:
        (mark,) = [text for text in ax.texts if text.get_text() == "sinusoidal ends here"]
        assert mark.xy[0] == 512


def test_without_intervals_lines_remain(lab: dict) -> None:
    for e in lab["encodings"]:
        for some in e["losses"].values():
            for x in some:
                x.update({"low": None, "high": None, "seed_se": None} if "loss" in x else {})
    assert len(lines(perplexity(lab).axes[0])) == 9


def test_the_gain_is_seen_to_vanish(lab: dict) -> None:
    first, _, last = change(lab).axes
    assert lines(first)["ALiBi"][1] == pytest.approx([0, -1.640, -2.449, -2.852, -3.053], abs=1e-3)
    assert lines(last)["ALiBi"][1] == pytest.approx([0] * 5)
    low, high = first.get_ylim()
    assert high == TOP
    assert low < -3.053
    # who leaves at the top is named there, and only there
    assert words(first)[-1].replace("\n", " ") == "beyond +20%: sinusoidal, RoPE, xPos, T5, NoPE"
    assert [n for n in words(first) if n in KNOWN] == ["ALiBi", "KERPLE", "FIRE"]


def test_blocks_are_merged_by_whole_blocks() -> None:
    blocks = {"edges": [0, 32, 64, 96, 128, 160, 192, 224, 256, 288], "loss": [9.0, 1, 2, 3, 4, 5, 6, 7, 8]}
    x, loss = merged(blocks)
    # up to 192 a block is more than a sixth of an octave
    assert x == [16, 48, 80, 112, 144, 176, 208, 240, 272]
    assert loss == blocks["loss"]
    far = {"edges": list(range(0, 2049, 32)), "loss": [float(n) for n in range(64)]}
    x, loss = merged(far)
    assert len(x) < 30
    # of 1,024 to 1,152: four blocks, 32 to 35
    assert sorted(zip(x, loss, strict=True))[-1][0] < 2048
    for middle, value in zip(x, loss, strict=True):
        assert value == pytest.approx(middle / 32 - 0.5)


def test_positions_leave_out_who_has_none(lab: dict) -> None:
    (ax,) = positions(lab).axes
    drawn = lines(ax)
    assert set(drawn) == set(KNOWN) - {"learned"}
    e = next(e for e in lab["encodings"] if e["name"] == "T5")
    assert drawn["T5"][1][0] == pytest.approx(math.exp(e["by_position"]["loss"][0]))


def test_published_stands_beside_ours(lab: dict) -> None:
    theirs, ours = published(lab).axes
    assert lines(theirs)["ALiBi"][1][-1] == pytest.approx(18.34 / 19.73)
    assert lines(theirs)["T5"][0][0] == 1
    # nothing farther than what is compared
    assert max(lines(theirs)["T5"][0]) == pytest.approx(8512 / 512)
    assert lines(ours)["RoPE"][1][-1] == pytest.approx(math.exp(1.95))
    assert set(lines(ours)) == set(lines(theirs)) == {"sinusoidal", "RoPE", "T5", "ALiBi"}


def cells(figure: Figure) -> list[list[str]]:
    return [words(ax) for ax in figure.axes]


def test_speed_and_memory_stand_in_cells(lab: dict) -> None:
    training, evaluation, memory, other = cells(speed(lab))
    # by encoding, then by length
    assert training[:6] == ["0.99", "0.99", "0.99", "0.99", "0.98", "0.99"]
    assert evaluation[4::5] == ["0.99", "\u2013", "0.94", "0.91", "0.66", "0.93", "0.67", "0.55", "1.00"]
    assert memory[0] == f"{16e6 * 1.125 / 2**20:.1f}"
    assert other[39::5] == [f"{4e6 * 3 * 1.6 / 2**20:.1f}", f"{4e6 * 3 / 2**20:.1f}"]
    titles = [ax.get_title("left") for ax in speed(lab).axes]
    assert titles[0] == "Training: tokens per second, NoPE = 1"
    assert titles[3] == "Evaluation: peak memory, MiB"


def test_colour_says_how_much_better_than_nope(lab: dict) -> None:
    _, evaluation, _, memory = speed(lab).axes
    fire, nope = evaluation.patches[-6], evaluation.patches[-1]
    for cell in (fire, memory.patches[-6]):
        assert cell.get_facecolor()[0] > cell.get_facecolor()[2] + 0.3  # orange
    assert nope.get_facecolor()[:3] == pytest.approx((0xF5 / 255, 0xF0 / 255, 0xEA / 255), abs=0.01)


def test_what_is_trained_is_parted_from_what_is_not() -> None:
    cells = [[share(0.875, 0.8, 0.915), share(0.0, 0.0, 0.03), None]]
    (ax,) = lab_cells.figure([Table("copying", ["mine"], ["1x", "2x", "4x"], cells, trained=1)], "length", False).axes
    assert words(ax) == ["88", "80\u201392", "0", "0\u20133", "\u2013"]
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 1]
    assert ax.patches[0].get_facecolor()[2] > ax.patches[1].get_facecolor()[2]  # bluer


def test_the_stretched_model_is_drawn_by_tuning(whole: dict) -> None:
    untuned, full, pose, native = scaling(whole).axes
    assert [ax.get_title("left") for ax in (untuned, native)] == ["Rescaled, untuned", "Trained on, not rescaled"]
    assert set(lines(untuned)) == set(lines(full)) == {"RoPE as it is", "PI", "NTK", "YaRN"}
    assert (set(lines(pose)), set(lines(native))) == ({"PI", "NTK", "YaRN"}, {"RoPE as it is"})
    assert lines(untuned)["PI"] == ([128, 256, 512, 1024], pytest.approx([math.exp(x) for x in (0.9, 1.4, 1.9, 2.7)]))
    assert lines(full)["PI"][1][2] < 1


def test_steps_of_tuning_begin_at_the_untuned_model(whole: dict) -> None:
    full, pose = scaling_steps(whole).axes
    steps, ratios = lines(full)["PI"]
    assert steps == lines(pose)["PI"][0] == [0, 50, 100, 200]
    assert ratios[0] == lines(pose)["PI"][1][0] == pytest.approx(math.exp(1.9))
    assert lines(pose)["PI"][1][1] == pytest.approx(math.exp(1.9 * math.exp(-50 / 30) - 0.04))


def test_what_tuning_does_is_told(whole: dict) -> None:
    said = lesson(whole["scaling"])
    assert "Rescaled, untuned: RoPE as it is 11x, PI 6.69x, NTK 1.43x, YaRN 1.27x." in said
    assert "Tuning on long texts helps RoPE as it is most, from 11x to 0.976x." in said
    whole["scaling"]["variants"] = []
    assert lesson(whole["scaling"]) == "Nothing was read at the length that the model is stretched to."


def test_pictures_stand_by_resolution_and_way(whole: dict) -> None:
    counted, fitted = pictures(whole).axes
    assert words(counted)[:8] == ["95", "93\u201397", "\u2013", "\u2013", "96", "94\u201398", "50", "48\u201352"]
    assert words(fitted)[-6::2] == ["97", "86", "66"]
    assert [text.get_text() for text in fitted.get_xticklabels()] == ["1x", "2x", "3x"]
    said = pictures_lesson(whole)
    assert said.startswith(
        "At the trained resolution 95% (learned) to 97% (axial RoPE) of the pictures are recognised."
    )
    assert said.endswith("At 3 times it, places fitted in: 50% (2-D sinusoidal) to 66% (mixed RoPE).")


def test_strings_stand_by_task_and_length(whole: dict) -> None:
    copying, recall, passkey = strings(whole).axes
    assert [ax.get_title("left") for ax in (copying, passkey)] == ["copying, % right", "passkey, % right"]
    assert words(copying)[:5] == ["99", "95\u2013100", "\u2013", "\u2013", "\u2013"]
    assert words(recall)[-8::2] == ["97", "78", "62", "50"]
    assert list(recall.lines[0].get_xdata()) == [1, 1]
    said = strings_lesson(whole)
    assert "Copying: about 99% are right at the trained length, 3% (RoPE) to 51% (NoPE) at 8 times it." in said
    # that of RoPE does not hold, and learned has none
    assert "The perplexity of ALiBi holds on long texts, and yet most of its answers on long strings are wrong" in said


def test_nothing_is_concluded_where_answers_hold(whole: dict) -> None:
    for encodings in whole["strings"]["tasks"].values():
        for e in encodings:
            for c in e["cells"]:
                if "exact" in c:
                    c["exact"]["rate"] = 0.9
    assert "holds on long texts" not in strings_lesson(whole)


def test_numbers_stand_by_format_and_digits(whole: dict) -> None:
    plain, backwards = numbers(whole).axes
    assert list(plain.lines[0].get_xdata()) == [5, 5]
    assert [text.get_text() for text in plain.get_xticklabels()] == [str(n) for n in range(1, 17)]
    assert words(backwards)[::2] == ["97"] * 8 + ["0"] * 8 + ["97"] * 12 + ["0"] * 4
    assert words(digits(whole).axes[1])[::2] == ["99"] * 8 + ["40"] * 8 + ["99"] * 12 + ["40"] * 4
    said = numbers_lesson(whole)
    assert "Plain: most sums are right up to 5 digits (NoPE and digits)." in said
    assert "Reversed: most sums are right up to 12 digits (digits)." in said
    # a phone has every other column, and no intervals
    (small, _) = numbers(whole, narrow=True).axes
    assert [text.get_text() for text in small.get_xticklabels()] == [str(n) for n in range(2, 17, 2)]
    assert words(small) == ["97"] * 2 + ["0"] * 6 + ["97"] * 2 + ["0"] * 6
    assert list(small.lines[0].get_xdata()) == [2, 2]


def test_clips_stand_by_what_is_asked_beside_a_guess(whole: dict) -> None:
    frame, row, _ = clips(whole).axes
    assert words(frame)[:6] == ["95", "92\u201398", "86", "82\u201388", "77", "74\u201380"]
    assert words(frame)[-5:] == ["25", "12", "6", "25", "25"]
    assert words(row)[-5:] == ["33", "33", "33", "17", "11"]
    assert [text.get_text() for text in row.get_xticklabels()] == ["4\n3x3", "8\n3x3", "16\n3x3", "4\n6x6", "4\n9x9"]
    assert list(row.lines[0].get_xdata()) == [1, 1]
    said = clips_lesson(whole)
    near = "about 95% right in clips as in training"
    assert f"Which frame: {near}, 15% (1-D RoPE) to 77% (M-RoPE) in 16 frames of 3 by 3." in said
    assert f"Which row: {near}, 2% (1-D RoPE) to 62% (M-RoPE) in 4 frames of 9 by 9." in said


def test_speed_without_nope_is_in_tokens(lab: dict) -> None:
    for e in lab["encodings"]:
        for x in e["speed"]:
            x["of_nope"] = None
    made = speed(lab)
    assert made.axes[0].get_title("left") == "Training: thousand tokens per second"
    assert words(made.axes[0])[0] == f"{lab['encodings'][0]['speed'][0]['tokens_per_second'] / 1000:.1f}"


def test_memory_that_nobody_knows_has_no_panel(lab: dict) -> None:
    for e in lab["encodings"]:
        for x in e["speed"]:
            x["peak_bytes"] = None
    assert [ax.get_title("left") for ax in speed(lab).axes] == [
        "Training: tokens per second, NoPE = 1",
        "Evaluation: tokens per second, NoPE = 1",
    ]


def written(ax: Axes) -> list[Text]:
    """Titles, notes, and the labels of axes and of ticks in view."""
    found = [x for x in ax.get_children() if isinstance(x, Text)]
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, sorted(ax.get_ylim()))):
        found += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    return [text for text in found if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("draw", FIGURES)
def test_names_keep_apart_and_nothing_is_cut_off(whole: dict, draw: Callable[..., Figure], narrow: bool) -> None:
    """Everything that is written lies inside the figure, and no two names beside a panel touch."""
    made = draw(whole, narrow)
    made.draw_without_rendering()
    frame = made.bbox
    for ax in made.axes:
        for text in written(ax):
            box = text.get_window_extent()
            assert frame.x0 - 1 <= box.x0, text.get_text()
            assert box.x1 <= frame.x1 + 1, text.get_text()
            assert frame.y0 - 1 <= box.y0, text.get_text()
            assert box.y1 <= frame.y1 + 1, text.get_text()
        names = [Text.get_window_extent(t) for t in ax.texts if t.get_text() in {*KNOWN, *LOOKS}]
        touching = [(a, b) for i, a in enumerate(names) for b in names[:i] if a.overlaps(b)]
        assert not touching


def test_long_names_are_cut_beside_a_line_and_whole_below(lab: dict) -> None:
    long = "(Rotary(32), T5(4, buckets=64, max_distance=512))"
    lab["encodings"][2]["name"] = long
    made = perplexity(lab)
    assert f"{long[:12]}\u2026" in words(made.axes[0])
    assert long in [text.get_text() for text in made.legends[0].get_texts()]


def test_a_look_is_what_is_drawn(lab: dict) -> None:
    drawn = next(line for line in perplexity(lab).axes[0].lines if line.get_label() == "xPos")
    look: Look = KNOWN["xPos"]
    assert (drawn.get_marker(), drawn.get_color()) == (look.mark, THEME[look.shade][0])
