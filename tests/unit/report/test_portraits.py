import math

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import ropewalk as rw
from ropewalk.report.encodings import DEEPEST, displacement, portrait

PANELS = {
    "Rotary(16)": ["full turn", "Logit"],
    "Rotary(16, sections=(4, 4))": ["full turn", "Logit"],
    "Alibi(4)": ["Bias"],
    "Swin(4, 8, 8)": ["along all axes at once"],
    "(Rotary(16), Fire(4))": ["full turn", "Bias", "without the bias"],
    "Shaw(16)": ["Logit"],
    "ReRope(Rotary(16))": ["full turn", "Logit"],
    "Learned(16, 20)": ["Likeness"],
    "Sinusoidal(16)": ["Likeness", "full turn"],
    "(Learned(16, 20), Shaw(16))": ["Likeness", "Logit"],
    "()": ["Logit"],
}


def drawn(text: str, trained_length: int | None = None) -> list[Axes]:
    return portrait(rw.parse(text), trained_length).axes


def lines(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.lines}


@pytest.mark.parametrize("text", PANELS)
def test_panels_follow_the_sites_and_their_axes_say_what_they_measure(text: str) -> None:
    panels = drawn(text)
    assert len(panels) == len(PANELS[text])
    for ax, words in zip(panels, PANELS[text], strict=True):
        assert words in ax.get_title("left")
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    units = [label for ax in panels for label in (ax.get_xlabel(), ax.get_ylabel())]
    assert any("(tokens)" in label for label in units)


def test_the_kernel_is_drawn_at_its_distances() -> None:
    mean = lines(drawn("Rotary(64)", 50)[1])["as it is"]
    near = mean[mean[:, 0] < 20]
    rates = [10000 ** (-i / 32) for i in range(32)]
    assert near[:, 0].tolist() == list(range(1, 20))
    expected = [8 * sum(math.cos(d * f) for f in rates) / 32 for d in near[:, 0]]
    assert near[:, 1] == pytest.approx(expected, abs=1e-5)


def test_a_scaling_is_drawn_beside_what_it_changes() -> None:
    turns, logits = drawn("Rotary(64, scaling=(Yarn(4, 512),))", 512)
    assert set(lines(turns)) >= {"as it is", "without the scaling"}
    assert "vectors times 1.139" in turns.get_title("left")
    assert {text.get_text() for text in logits.get_legend().get_texts()} == {"as it is", "without the scaling"}
    ratio = lines(turns)["as it is"][:, 1] / lines(turns)["without the scaling"][:, 1]
    assert (ratio[0], ratio[-1]) == pytest.approx((1, 4))


def test_the_trained_window_is_marked_and_only_if_it_is_in_the_picture() -> None:
    for ax in drawn("(Rotary(16), Alibi(4))", 512)[1:]:
        assert [512, 512] in [list(line.get_xdata()) for line in ax.lines]
        assert "trained window: 512" in [text.get_text() for text in ax.texts]
        assert ax.get_xlim()[1] == 1024
    (ax,) = drawn("Swin(4, 8, 8)", 512)
    assert list(ax.texts) == []
    assert ax.get_xlim() == (0, 7)


def test_each_head_has_its_line_and_a_cut_is_told() -> None:
    (ax,) = drawn("Alibi(8)")
    slopes = [line.get_ydata()[-1] / line.get_xdata()[-1] for line in ax.lines]
    assert slopes == pytest.approx([-(2.0**-k) for k in range(1, 9)])
    assert ax.get_ylim()[0] == DEEPEST
    assert f"cut at {DEEPEST}" in ax.get_ylabel()
    assert "cut" not in drawn("T5(4)")[0].get_ylabel()


def test_learned_numbers_are_said_to_be_untrained() -> None:
    heading = {text: portrait(rw.parse(text))._suptitle.get_text() for text in ("T5(4)", "Alibi(4)")}
    assert heading["T5(4)"].endswith("learned numbers as before training")
    assert heading["Alibi(4)"] == "Alibi(heads=4)"


def test_likeness_is_symmetric_and_one_on_the_diagonal() -> None:
    image = drawn("Learned(16, 20)")[0].images[0].get_array()
    assert np.allclose(image, image.T)
    assert np.allclose(np.diag(image), 1)
    assert image.shape == (20, 20)


def test_a_remap_is_drawn_beside_the_text() -> None:
    figure = displacement(rw.Piecewise(100), 200, 100)
    (ax,) = figure.axes
    where = lines(ax)["Piecewise(trained_length=100)"]
    assert where[150].tolist() == [150, 100 + rw.Piecewise(100).alpha * 50]
    assert "trained window: 100" in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("text", ["Yarn(4, 64)", "Alibi(4)"])
def test_drawing_changes_no_global_setting(text: str) -> None:
    before = dict(matplotlib.rcParams)
    value = rw.parse(text)
    assert isinstance(portrait(rw.Rotary(16, scaling=(value,)) if text[0] == "Y" else value), Figure)
    assert dict(matplotlib.rcParams) == before
