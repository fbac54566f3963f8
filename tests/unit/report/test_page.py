import html
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ropewalk.report import style
from ropewalk.report.page import drawn, page, write_report
from ropewalk.report.tables import rows

VOID = {"meta", "br"}
SECTIONS = ["deploy", "loss", "retrieval", "spectrum", "candidates", "protocol", "run"]


class Nesting(HTMLParser):
    """Collects tags that are closed in the wrong order, or never."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def test_the_nesting_check_sees_a_fault() -> None:
    assert Nesting("<p><b></p></b>").faults
    assert Nesting("<p><b></b>").open == ["p"]


@pytest.fixture(params=["gained_page", "vain_page"])
def text(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def test_no_request_to_any_server(text: str) -> None:
    assert not re.findall(r"https?:|//[a-z]|<link|@import|\bsrc=|<iframe|<object|srcset", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', text))


def test_well_formed_and_small(text: str) -> None:
    nesting = Nesting(text)
    assert (nesting.faults, nesting.open) == ([], [])
    assert len(text.encode()) < 1_500_000


def test_ids_are_unique_and_references_resolve(text: str) -> None:
    ids = Counter(re.findall(r'\bid="([^"]+)"', text))
    assert [name for name, count in ids.items() if count > 1] == []
    assert len(ids) > 200
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= set(ids)


def test_sections_stand_in_the_order_of_reading(text: str) -> None:
    places = [text.index(f'<section id="{name}">') for name in SECTIONS]
    assert text.index("<h1>") < text.index('aria-label="Key numbers"') < places[0]
    assert places == sorted(places)


def test_figures_follow_the_colour_scheme(text: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not [name for name, (light, _) in style.THEME.items() if light in drawings]
    assert set(re.findall(r"var\(--([-\w]+)\)", drawings)) <= {*style.THEME, "sans"}
    assert "DejaVu" not in text


def test_everything_that_was_found_is_said(made_up: dict, gained_page: str) -> None:
    said = html.unescape(re.sub(r"<svg.*?</svg>", "", gained_page, flags=re.DOTALL))
    expected = [made_up[key] for key in ("tool", "model", "architecture", "verdict", "chosen", "request")]
    expected += [c["name"] for c in made_up["candidates"]]
    expected += [c["search"]["reason"] for c in made_up["candidates"] if c["search"]]
    expected += [text for d in made_up["deploy"] for text in d.values()]
    expected += [*made_up["notes"], *made_up["protocol"], *made_up["text"].values(), "8,192", "16,384"]
    expected += [f"{name} {version}" for name, version in made_up["versions"].items()]
    expected += [stage["name"] for stage in made_up["stages"]] + ["11 min 3 s", "4 min 22 s", "2.93 GiB"]
    expected += [text for row in rows(made_up) for cell in row[4:] for text in cell]
    assert [text for text in expected if text not in said] == []


def test_a_gain_says_so(gained_page: str) -> None:
    assert "It worked" in gained_page
    assert "Where it still fails" in gained_page
    assert "Nothing to deploy" not in gained_page


def test_nothing_to_deploy_says_so(in_vain: dict, vain_page: str) -> None:
    deploy = vain_page[vain_page.index('<section id="deploy">') : vain_page.index('<section id="loss">')]
    assert "It worked" not in vain_page
    assert in_vain["verdict"] in vain_page
    assert "Keep the model as it is" in deploy
    assert "Rotary(" not in deploy
    assert "which was not good enough to be chosen" in vain_page


def test_what_looks_like_markup_is_shown_as_text(made_up: dict) -> None:
    evil = '<img onerror="x">&'
    chosen = next(c for c in made_up["candidates"] if c["name"] == made_up["chosen_name"])
    made_up["retrieval"]["grids"][evil] = made_up["retrieval"]["grids"].pop(chosen["name"])
    chosen["name"] = made_up["chosen_name"] = made_up["chosen"] = made_up["model"] = made_up["verdict"] = evil
    made_up["notes"], made_up["protocol"], made_up["request"] = [evil], [evil], evil
    text = page(made_up)
    assert "<img" not in text
    assert html.escape(evil, quote=False) in text.replace("&#34;", '"')


def without(key: str) -> Callable[[dict], None]:
    def remove(summary: dict) -> None:
        for c in summary["candidates"]:
            c[key] = None

    return remove


def no_retrieval(summary: dict) -> None:
    without("retrieval")(summary)
    summary["retrieval"] = None


def one_grid(summary: dict) -> None:
    del summary["retrieval"]["grids"]["unmodified"]


def no_words(summary: dict) -> None:
    summary.update(deploy=[], notes=[], protocol=[], stages=[])


def chosen_alone(summary: dict) -> None:
    summary["candidates"] = [c for c in summary["candidates"] if c["name"] == summary["chosen_name"]]
    summary["retrieval"] = None


def no_differences(summary: dict) -> None:
    for c in summary["candidates"]:
        if c["held_out"]:
            c["held_out"].update(price=None, gain=None, against_truncated=None, against_chosen=None)


def unanswered(summary: dict) -> None:
    for grid in summary["retrieval"]["grids"].values():
        grid[0][0] = {"found": 0, "asked": 0, "low": 0.0, "high": 1.0}


GONE = [
    (without("search"), {"race"}),
    (without("held_out"), {"held_out_loss"}),
    (no_retrieval, {"retrieval"}),
    (one_grid, set()),
    (no_words, set()),
    (chosen_alone, {"retrieval"}),
    (no_differences, set()),
    (unanswered, set()),
]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not turned into SVG, which takes seconds."""
    monkeypatch.setattr(style, "svg", lambda figure, prefix: "<svg></svg>")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("change", "gone"), GONE)
def test_what_was_not_measured_is_left_out(made_up: dict, change: Callable[[dict], None], gone: set[str]) -> None:
    everything = set(drawn(made_up))
    change(made_up)
    text = page(made_up)
    assert set(re.findall(r'<figure id="figure-([^"]+)"', text)) == everything - gone
    assert made_up["verdict"] in text


@pytest.mark.usefixtures("undrawn")
def test_without_any_measurement_in_vain(in_vain: dict) -> None:
    no_retrieval(in_vain)
    for key in ("search", "held_out"):
        without(key)(in_vain)
    assert re.findall(r'<figure id="figure-([^"]+)"', page(in_vain)) == ["spectrum"]


@pytest.mark.usefixtures("undrawn")
def test_files_are_written(made_up: dict, tmp_path: Path) -> None:
    written = write_report(made_up, tmp_path / "out")
    names = ["report.html", *(f"figures/{name}.png" for name in drawn(made_up))]
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == names
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(written)
    for picture in written[1:]:
        pixels = imread(picture)
        assert pixels.shape[1] == 1200
        assert pixels.shape[0] > 500
        assert len(np.unique(pixels[..., :3] @ [1, 300, 90_000])) > 100


@pytest.mark.usefixtures("undrawn")
def test_a_failed_figure_leaves_the_old_report(made_up: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("old")

    def fail(figure: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(style, "png", fail)
    with pytest.raises(MemoryError):
        write_report(made_up, tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"
