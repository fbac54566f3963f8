"""`ropewalk list` and `ropewalk show`: what stands where, exit codes, and what is left behind."""

import json
import math
from pathlib import Path

import pytest

from conftest import Command, Done
from ropewalk import remaps, scalings
from ropewalk.encodings import registry as encodings
from ropewalk.notation import classes
from ropewalk.written import short

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(done: Done) -> str:
    """The one line that says what is wrong."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ropewalk: ")
    assert done.err.count("\n") == 1
    return done.err


def test_the_list_names_everything_for_eyes_alone(ropewalk: Command) -> None:
    done = ropewalk("list")
    assert (done.code, done.out) == (0, "")
    first = {line.split()[0] for line in done.err.splitlines() if line.strip()}
    assert {kind.__name__ for registry in (encodings, scalings, remaps) for kind in classes(registry)} <= first
    assert "()" in first
    assert max(map(len, done.err.splitlines())) <= 120
    (alibi,) = [line.split() for line in done.err.splitlines() if line.startswith("Alibi ")]
    assert alibi[1:7] == ["bias", "yes", "\u2013", "falls", "mapped", "\u2013"]


def test_the_list_as_one_document(ropewalk: Command) -> None:
    done = ropewalk("list", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    for name, registry in (("encodings", encodings), ("scalings", scalings), ("remaps", remaps)):
        rows = {row["name"]: row for row in found[name]}
        assert set(rows) - {"()"} == {kind.__name__ for kind in classes(registry)}
        assert all(row["does"].endswith(".") and row["example"] for row in rows.values())
    rows = {row["name"]: row for row in found["encodings"]}
    assert (rows["Learned"]["limit"], rows["Learned"]["extrapolates"]) == (63, False)
    assert (rows["Alibi"]["limit"], rows["Alibi"]["extrapolates"]) == (None, True)
    assert rows["Rotary"]["kernel"] == "rotary + sdpa"
    adapting = {row["name"] for row in found["scalings"] if row["keys"] == "raw"}
    assert {"DynamicNTK", "LongRope", "DynamicYarn"} <= adapting
    assert not adapting & {"Linear", "NTK", "Yarn", "Llama3"}


def test_one_encoding_in_words_and_numbers(ropewalk: Command) -> None:
    done = ropewalk("show", "Alibi(heads=8)")
    assert (done.code, done.out) == (0, "")
    said = " ".join(done.err.split())
    for word in ("arXiv:2108.12409", "max_exponent", "only falls", "strips", "head 8", "-0.0039062"):
        assert word in said


def test_one_encoding_as_one_document(ropewalk: Command) -> None:
    done = ropewalk("show", "(Rotary(32), Alibi(2))", "--trained-length", 512, "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert [p["name"] for p in told["parts"]] == ["Rotary", "Alibi"]
    assert (told["kind"], told["trained_length"], told["settled_for"]) == ("encoding", 512, None)
    rates, biases, logits = told["numbers"]
    assert rates["columns"] == ["pair", "radians per token", "wavelength (tokens)", "turns in 512 tokens"]
    assert rates["rows"][0] == pytest.approx([0, 1.0, math.tau, 512 / math.tau])
    assert biases["rows"][3] == [4, -4 * 2**-4, -4 * 2**-8]
    assert logits["rows"][0] == pytest.approx([0, 32**0.5, 32**0.5])


@pytest.mark.parametrize(
    ("given", "settled", "length"),
    [
        (("DynamicNTK(2, 1000)",), "Rotary(dim=64, scaling=(NTK(factor=3.0),))", 2000),
        (("DynamicNTK(2, 1000)", "--trained-length", 2000), "Rotary(dim=64, scaling=(NTK(factor=7.0),))", 4000),
        (("Yarn(2, 1000)",), "Rotary(dim=64, scaling=(Yarn(factor=2.0, trained_length=1000),))", None),
        (
            ("(Linear(2), NTK(3))", "--dim", 32, "--base", "1e6"),
            "Rotary(dim=32, base=1000000.0, scaling=(Linear(factor=2.0), NTK(factor=3.0)))",
            None,
        ),
    ],
)
def test_a_scaling_is_shown_on_a_rotary(
    given: tuple[object, ...], settled: str, length: int | None, ropewalk: Command
) -> None:
    told = json.loads(ropewalk("show", *given, "--json").out)
    assert (told["kind"], told["settled"], told["settled_for"]) == ("scaling", settled, length)


def test_a_remap_and_no_positions_at_all(ropewalk: Command) -> None:
    told = json.loads(ropewalk("show", "Grouped(group=8)", "--json").out)
    assert told["kind"] == "remap"
    assert [place // 8 for place, _ in told["numbers"][0]["rows"]] == [p for _, p in told["numbers"][0]["rows"]]
    done = ropewalk("show", "()")
    assert done.code == 0
    assert "NoPE" in done.err


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("text", ["Yarn(4, 2048)", "(Learned(16, 40), T5(12))", "Streaming()"])
def test_a_plot_is_one_file(text: str, suffix: str, ropewalk: Command, here: Path) -> None:
    done = ropewalk("show", text, "--plot", f"drawn{suffix}", "--json")
    assert done.code == 0
    assert json.loads(done.out)["plot"] == f"drawn{suffix}"
    assert [p.name for p in here.iterdir()] == [f"drawn{suffix}"]
    first = (here / f"drawn{suffix}").read_bytes()
    assert first.startswith(MAGIC[suffix])
    ropewalk("show", text, "--plot", f"drawn{suffix}")
    assert (here / f"drawn{suffix}").read_bytes() == first


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "misspelt": (("Fyre(heads=4)",), "unknown name 'Fyre'; did you mean 'Fire'?"),
    "misspelt field": (("Fire(haeds=4)",), "did you mean 'heads'?"),
    "field left out": (("Fire()",), "Fire needs heads"),
    "bad value": (("Alibi(heads=0)",), "Alibi.heads must be"),
    "broken": (("Alibi(",), "notation must be one value"),
    "number": (("7",), "show must be given an encoding, a scaling"),
    "list": (("[Rotary(64)]",), "show must be given an encoding, a scaling"),
    "mixed tuple": (("(Rotary(64), Linear(2))",), "show must be given an encoding, a scaling"),
    "tuple of remaps": (("(Grouped(), Grouped())",), "show must be given an encoding, a scaling"),
    "parts that do not fit": (("(Shaw(16), Rotary(32))",), "Shaw.dim must be 32, the channels of a head, got 16"),
    "different heads": (("(Alibi(4), T5(8))",), "encoding must be of parts with the same number of heads, got [4, 8]"),
    "odd dim": (("Linear(2)", "--dim", 7), "Rotary.dim must be even, got 7"),
    "negative base": (("Linear(2)", "--base", -1), "Rotary.base must be"),
    "wrong count": (("Rescale((1.0, 2.0))",), "Rescale.factors must be 32 numbers"),
    "no window": (("Linear(2)", "--trained-length", 0), "--trained-length must be a positive number of tokens, got 0"),
    "window in words": (("Linear(2)", "--trained-length", "many"), "--trained-length"),
    "nothing": ((), "Missing argument"),
    "unknown format": (("Linear(2)", "--plot", "x.gif"), "--plot must be a name that ends in .png, .svg, .pdf"),
    "no format": (("Linear(2)", "--plot", "x"), "--plot must be a name that ends in .png, .svg, .pdf, got 'x'"),
    "no folder": (("Linear(2)", "--plot", "none/x.png"), "cannot write none/x.png: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shown_is_one_line_and_leaves_nothing(case: str, ropewalk: Command, here: Path) -> None:
    given, words = REFUSED[case]
    plot = () if "--plot" in given else ("--plot", "x.png")
    assert words in refused(ropewalk("show", *given, *plot))
    assert list(here.iterdir()) == []


def test_a_folder_of_the_name_stays_and_a_file_that_was_there_too(ropewalk: Command, here: Path) -> None:
    (here / "x.png").mkdir()
    assert "cannot write x.png: " in refused(ropewalk("show", "Linear(2)", "--plot", "x.png"))
    (here / "y.png").write_text("mine")
    refused(ropewalk("show", "Linear(0)", "--plot", "y.png"))
    assert (here / "y.png").read_text() == "mine"
    assert sorted(p.name for p in here.iterdir()) == ["x.png", "y.png"]


@pytest.mark.parametrize("command", ["list", "show"])
def test_help_has_examples(command: str, ropewalk: Command) -> None:
    done = ropewalk(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"ropewalk {command}" in done.out
    assert "Examples" in done.out
    assert short(encodings.Fire(4)) in done.out or command == "list"
