import math
from collections.abc import Callable

import pytest

from ropewalk.report import lab_tables
from ropewalk.report.lab_words import described, lessons, listed, verdict
from ropewalk.report.tables import NOTHING, Cell


def named(lab: dict, name: str) -> dict:
    return next(e for e in lab["encodings"] if e["name"] == name)


def test_the_verdict_counts(lab: dict) -> None:
    assert verdict(lab) == "14 of 15 published findings hold on models trained here, 1 does not."
    lab["verdict"].update(passed=9, failed=2, untold=4)
    assert verdict(lab) == "9 of 15 published findings hold on models trained here, 2 do not, 4 have no verdict."
    lab["verdict"].update(passed=0, failed=0, untold=15)
    assert verdict(lab).startswith("None of 15 published findings has a verdict")


def test_names_are_listed_as_they_are_said() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(list("abcde")) == "a, b, c, d and e"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


def test_both_ends_are_told(lab: dict) -> None:
    said = lessons(lab)["perplexity"]
    assert "between 3.65 (RoPE) and 4.95 (NoPE)" in said
    assert "between 4.10 (KERPLE) and 40.3 (sinusoidal), 9.78 times" in said
    # KERPLE, ALiBi, FIRE, T5, xPos, NoPE
    assert "RoPE, the lowest at the trained length, has 6 of 8 below it there." in said
    assert said.endswith("No reading so far out: learned.")


def fixed_gain(lab: dict) -> None:
    for x in named(lab, "ALiBi")["losses"]["fixed target"][1:]:
        x["loss"] -= 0.2
        x["ratio"] *= math.exp(-0.2)


def no_gain(lab: dict) -> None:
    named(lab, "ALiBi")["losses"]["nonoverlapping"][-1]["ratio"] = 1.01


def both_gain_little(lab: dict) -> None:
    x = named(lab, "ALiBi")["losses"]["fixed target"][-1]
    x["loss"] -= 0.02
    x["ratio"] = math.exp(-0.04)


CONCLUSIONS: list[tuple[Callable[[dict], None], str]] = [
    (lambda lab: None, "farther context adds nothing."),
    (fixed_gain, "at least a part of the gain comes from farther context."),
    (no_gain, "So there is no gain to explain."),
    (both_gain_little, "The two agree, so no conclusion is drawn."),
]


@pytest.mark.parametrize(("change", "end"), CONCLUSIONS)
def test_what_the_two_protocols_teach_depends_on_both(lab: dict, change: Callable[[dict], None], end: str) -> None:
    change(lab)
    assert lessons(lab)["change"].endswith(end)


def test_the_gain_is_given_under_both_protocols(lab: dict) -> None:
    fixed_gain(lab)
    assert "by \u22123.1% from 128 to 2,048 tokens" in lessons(lab)["change"]
    assert "before them, by \u221218.1%" in lessons(lab)["change"]


def test_without_alibi_it_is_about_who_gains_most(lab: dict) -> None:
    lab["encodings"] = [e for e in lab["encodings"] if e["name"] != "ALiBi"]
    assert "KERPLE changes its perplexity by \u22122.0%" in lessons(lab)["change"]


def test_who_loses_beyond_what_was_trained(lab: dict) -> None:
    said = lessons(lab)["positions"]
    assert "Clearly worse: sinusoidal, RoPE, NoPE, xPos and T5." in said
    assert "No difference that stands out from chance: ALiBi, KERPLE and FIRE." in said
    for e in lab["encodings"]:
        if e["by_position"]:
            e["by_position"]["se"] = [2.0] * len(e["by_position"]["se"])
    assert "Clearly worse" not in lessons(lab)["positions"]


def test_the_order_stands_beside_the_published_one(lab: dict) -> None:
    assert "ALiBi < T5 < RoPE < sinusoidal; in the paper, at 16.6 times, it is the same" in lessons(lab)["published"]
    named(lab, "RoPE")["losses"]["nonoverlapping"][-1]["ratio"] = 99.0
    said = lessons(lab)["published"]
    assert "ALiBi < T5 < sinusoidal < RoPE; in the paper, at 16.6 times, it is ALiBi < T5 < RoPE < sinusoidal" in said


def test_costs_are_told_at_the_longest_texts(lab: dict) -> None:
    said = lessons(lab)["speed"]
    assert "Evaluation on texts of 2,048 tokens runs at 0.55 (FIRE) to 0.99 (sinusoidal) of NoPE's speed." in said
    assert "It needs up to 1.6 times the least memory" in said
    assert "other things" not in said
    for e in lab["encodings"]:
        for x in e["speed"]:
            x["high"] = 2 * x["low"]
    assert "typically 2.0 times as fast as its slowest" in lessons(lab)["speed"]


def test_who_learned_too_little_teaches_nothing(lab: dict) -> None:
    named(lab, "sinusoidal")["per_byte"] = 2.4
    said = lessons(lab)
    assert "sinusoidal, above 2.3 nats per byte at the trained length or not read there." in said["perplexity"]
    assert "sinusoidal" not in said["positions"] + said["published"]
    for e in lab["encodings"]:
        e["per_byte"] = None
    for name in ("perplexity", "change", "positions", "published"):
        assert lessons(lab)[name].startswith(
            "Nothing can be said: sinusoidal, learned, RoPE, xPos and 5 more, above 2.3"
        )
    assert "NoPE's speed" in lessons(lab)["speed"]


def test_values_of_a_line_have_units() -> None:
    assert described({"r(2)": 0.949, "r(16)": 15.24}) == "r(2) 0.949, r(16) 15.24"
    assert described({"spread": 0.0062}) == "spread 0.62%"
    assert described({"change(2)": -0.01}) == "change(2) \u22120.010 nats"
    paired = {"difference": -0.2, "low": -0.25, "high": -0.15, "seeds": 1.0}
    assert described(paired) == "\u22120.200 nats per token (\u22120.250 to \u22120.150), 1 seed"
    assert described({"difference": 0.1, "seeds": 3.0}) == "+0.100 nats per token, 3 seeds"
    assert described({"512": 17.98, "1024": 17.92, "what": "stride-1"}) == "at 512: 17.98, at 1,024: 17.92 (stride-1)"
    assert described({"share": 0.93, "steps": 50.0}) == "share 93%, steps 50"
    assert described({"seeds": 3.0}) == "seeds 3"
    assert described({}) == ""


def test_what_fails_comes_first_and_what_is_untold_last(lab: dict) -> None:
    lab["sheet"][0].update(passed=None, values={}, reason="not trained")
    found = lab_tables.sheet(lab["sheet"])
    assert [f.state for f in found] == ["does not hold", *["holds"] * 14, "no verdict"]
    assert [f.sign for f in (found[0], found[1], found[-1])] == ["\u2717", "\u2713", NOTHING]
    assert found[0].name == "T5 gains, then climbs"
    assert found[0].published == "r(2) 0.956, r(5) 1.039, r(16) 2.19"
    assert found[-1].here == "not trained"
    assert [f.name for f in found if not f.counted] == ["NoPE lies in between"]


def test_the_cards_say_who_is_best_where(lab: dict) -> None:
    home, far, gain = lab_tables.numbers(lab)
    assert home.value == Cell("3.65", "perplexity of RoPE")
    assert [name for name, _ in home.beside] == ["xPos", "sinusoidal", "learned", "NoPE"]
    assert far.value == Cell("4.10", "perplexity of KERPLE")
    assert far.beside[-1] == ("sinusoidal", Cell("40.3"))
    assert gain.label == "ALiBi from 128 to 2,048 tokens"
    assert [gain.value.main, *(c.main for _, c in gain.beside)] == ["\u22123.1%", "\u22122.0%", "0.0%"]


def test_what_is_missing_is_told(lab: dict) -> None:
    named(lab, "FIRE")["trainings"][1].update(outcome="stopped", reason="a loss that is no number", steps=77)
    lab["seeds"] = 1
    lab["sheet"][1]["passed"] = None
    said = lab_tables.shortfalls(lab)
    assert said == [
        "T5 gains, then climbs: r(2) 1.000, r(4) 1.355, r(8) 1.787, r(16) 2.51.",
        "FIRE, seed 1, was stopped after 77 steps: a loss that is no number.",
        "learned could not be read at every length: Learned: position 255 is beyond its table, which ends at 127.",
        "1 line of the sheet without a verdict; the reason stands there.",
        "There is one seed: nothing here tells what another would do.",
    ]


def test_tables_have_a_dash_where_nothing_was_read(lab: dict) -> None:
    rows = dict(lab_tables.losses(lab)["sliding"])
    assert rows["learned"][1:] == [Cell(NOTHING)] * 4
    loss = named(lab, "T5")["losses"]["sliding"][2]["loss"]
    assert rows["T5"][2].main == f"{math.exp(loss):.2f}"
    paces = dict(lab_tables.speeds(lab)["evaluate"])
    assert paces["learned"][1] == Cell(NOTHING)
    first = named(lab, "RoPE")["speed"][5]
    assert first["stage"] == "evaluate"
    assert paces["RoPE"][0] == Cell(
        f"{first['tokens_per_second']:,.0f}", f"{first['low']:,.0f} to {first['high']:,.0f}"
    )


def test_models_tell_what_they_learned(lab: dict) -> None:
    rows = {row[0]: row[1:] for row in lab_tables.models(lab)}
    assert rows["learned"] == ("Learned(128, 128)", "839,936", "16,384", "1.430", "3 of 3 to the end")


def test_the_command_has_what_is_not_usual() -> None:
    request = {"out": "out/lab", "encodings": "[Alibi(4), ()]", "seeds": 3, "quick": True, "bpe": None, "rate": 3e-3}
    assert lab_tables.command(request) == "ropewalk lab --encodings '[Alibi(4), ()]' --seeds 3 --quick"


def test_the_usual_blur_of_a_block(lab: dict) -> None:
    assert lab_tables.blur(lab) == "10%"  # exp(1.96 * 0.05) - 1
