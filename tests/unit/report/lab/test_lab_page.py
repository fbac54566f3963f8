import html
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ropewalk.report import style
from ropewalk.report.lab_page import drawn, lab_page, write_lab_report
from ropewalk.report.lab_parts import PARTS
from ropewalk.report.lab_tables import losses, sheet
from ropewalk.report.lab_words import lessons, verdict

FIGURES = ["perplexity", "change", "positions", "published", "speed"]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not turned into SVG or PNG, which takes seconds."""
    monkeypatch.setattr(style, "svg", lambda figure, prefix: "<svg></svg>")
    monkeypatch.setattr(style, "png", lambda figure: b"picture")


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_one_page_that_needs_nothing_else(whole: dict) -> None:
    text = lab_page(whole)
    assert not re.findall(r"https?:|//[a-z]|<link|@import|\bsrc=|<iframe|<object|srcset", text)
    ids = Counter(re.findall(r'\bid="([^"]+)"', text))
    assert [name for name, count in ids.items() if count > 1] == []
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= set(ids)
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not [name for name, (light, _) in style.THEME.items() if light in drawings]
    assert len(text.encode()) < 1_500_000


@pytest.mark.usefixtures("undrawn")
def test_everything_that_was_found_is_said(whole: dict) -> None:
    said = plain(lab_page(whole))
    expected = [verdict(whole), *lessons(whole).values(), *(f"{x}." for x in whole["protocols"].values())]
    expected += [text for f in [*sheet(whole["sheet"]), *sheet(whole["scaling"]["sheet"])] for text in f[:5]]
    expected += [cell for rows in losses(whole).values() for _, cells in rows for c in cells for cell in c]
    expected += [e["encoding"] for e in whole["encodings"]] + ["ropewalk lab --seeds 3", "warmup 60", "28,300"]
    assert [text for text in expected if text not in said] == []
    places = [said.index(f'<section id="{name}">') for name in ("lengths", "speed", "sheet", *PARTS, "models", "run")]
    assert places == sorted(places)


@pytest.mark.usefixtures("undrawn")
def test_seeds_of_the_parts_are_counted(whole: dict) -> None:
    assert "means over 3 seeds with 95% intervals of one test" in lab_page(whole)


@pytest.mark.usefixtures("undrawn")
def test_the_badge_says_how_it_went(lab: dict) -> None:
    assert "Not all of it holds" in lab_page(lab)
    lab["verdict"].update(failed=0)
    assert "Everything that has a verdict holds" in lab_page(lab)
    lab["verdict"].update(passed=0, untold=15)
    assert "No verdict</span>" in lab_page(lab)


def stopped(summary: dict) -> None:
    """Everybody was stopped in training."""
    for e in summary["encodings"]:
        e.update(by_position=None, per_byte=None, speed=[], parameters=None, of_positions=None)
        e["trainings"] = [dict(t, outcome="stopped", reason="no number") for t in e["trainings"]]
        e["losses"] = {
            p: [{"length": x["length"], "multiple": x["multiple"], "reason": "no number"} for x in some]
            for p, some in e["losses"].items()
        }


def untimed(summary: dict) -> None:
    for e in summary["encodings"]:
        e["speed"] = []


def one_length(summary: dict) -> None:
    summary.update(lengths=[128], multiples=[1])
    for e in summary["encodings"]:
        e["losses"] = {p: some[:1] for p, some in e["losses"].items()}
        e["speed"] = [x for x in e["speed"] if x["length"] == 128]
        if e["by_position"]:
            e["by_position"] = {key: some[: 4 + (key == "edges")] for key, some in e["by_position"].items()}


def others_alone(summary: dict) -> None:
    """Two encodings that the paper does not know."""
    summary["encodings"] = [e for e in summary["encodings"] if e["name"] in ("xPos", "FIRE")]
    for e in summary["encodings"]:
        for x in e["speed"]:
            x["of_nope"] = None


def one_encoding(summary: dict) -> None:
    summary["encodings"] = [e for e in summary["encodings"] if e["name"] == "ALiBi"]


def the_table_alone(summary: dict) -> None:
    summary["encodings"] = [e for e in summary["encodings"] if e["name"] == "learned"]


def one_seed(summary: dict) -> None:
    summary["seeds"] = 1
    for e in summary["encodings"]:
        for some in e["losses"].values():
            for x in some:
                x.update({"seed_se": None, "seeds": 1} if "loss" in x else {})


GONE: list[tuple[Callable[[dict], None], set[str]]] = [
    (lambda summary: None, set()),
    (stopped, set(FIGURES)),
    (untimed, {"speed"}),
    (one_length, {"change"}),
    (others_alone, {"published"}),
    (one_encoding, set()),
    (the_table_alone, {"change", "positions", "published"}),
    (one_seed, set()),
]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("change", "gone"), GONE)
def test_what_was_not_measured_is_left_out(lab: dict, change: Callable[[dict], None], gone: set[str]) -> None:
    change(lab)
    text = lab_page(lab)
    assert set(re.findall(r'<figure id="figure-([^"]+)"', text)) == set(FIGURES) - gone
    assert verdict(lab) in plain(text)


@pytest.mark.usefixtures("undrawn")
def test_what_looks_like_markup_is_shown_as_text(lab: dict) -> None:
    evil = '<img onerror="x">&'
    lab["encodings"][0].update(name=evil, encoding=evil)
    lab["encodings"][1]["trainings"][0].update(outcome="stopped", reason=evil)
    lab["settings"]["text"] = lab["request"]["text"] = lab["machine"]["device"] = evil
    text = lab_page(lab)
    assert "<img" not in text
    assert text.count(html.escape(evil, quote=False).replace('"', "&#34;")) > 5


@pytest.mark.usefixtures("undrawn")
def test_files_are_written(whole: dict, tmp_path: Path) -> None:
    written = write_lab_report(whole, tmp_path / "out")
    figures = [*FIGURES, "strings", "numbers", "digits", "pictures", "clips", "scaling", "scaling_steps"]
    assert list(drawn(whole)) == figures
    names = ["report.html", *(f"figures/{name}.png" for name in figures)]
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == names
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(written)
