"""The sheet on curves that are known: published ones hold, each line fails where its finding does."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

import ropewalk as rw
from ropewalk.lab import judgement, published
from ropewalk.lab.estimates import Estimate
from ropewalk.lab.judgement import Evidence, Line, role_of, sheet

RATIOS: dict[str, dict[int, float]] = {
    "sinusoidal": {1: 1.0, 2: 2.2, 4: 5.7, 8: 8.0, 16: 9.8},
    "RoPE": {1: 1.0, 2: 1.4, 4: 2.7, 8: 4.6, 16: 7.0},
    "T5": {1: 1.0, 2: 0.96, 4: 1.05, 8: 1.5, 16: 2.2},
    "ALiBi": {1: 1.0, 2: 0.98, 4: 0.974, 8: 0.97, 16: 0.969},
    "KERPLE": {1: 1.0, 2: 0.98, 4: 0.98, 8: 0.99, 16: 1.0},
    "FIRE": {1: 1.0, 2: 0.98, 4: 0.99, 8: 1.0, 16: 1.02},
    "NoPE": {1: 1.0, 2: 1.1, 4: 2.0, 8: 3.0, 16: 4.0},
    "learned": {1: 1.0},
}
COUNT = 16


def evidence(
    changed: Mapping[str, Mapping[int, float]] | None = None, per_byte: float = 1.4, half: float = 0.02, seeds: int = 1
) -> Evidence:
    ratios = {role: {**row, **(changed or {}).get(role, {})} for role, row in RATIOS.items()}
    losses = {role: {k: 1.4 + math.log(r) for k, r in row.items()} for role, row in ratios.items()}

    def difference(a: str, b: str, k: int) -> Estimate:
        d = losses[a][k] - losses[b][k]
        return Estimate(d, half / 2, None, d - half, d + half, 65_536, seeds)

    fixed = {"ALiBi": {k: 1.4 + x for k, x in {1: 0.0, 2: -0.01, 4: -0.02, 8: 0.0, 16: 0.01}.items()}}
    refused = {"learned": [2, 4, 8, 16]}
    return Evidence(ratios, losses, fixed, dict.fromkeys(ratios, per_byte), refused, difference)


def by_name(e: Evidence) -> dict[str, Line]:
    return {line.name: line for line in sheet(e)}


def test_what_was_published_holds() -> None:
    lines = sheet(evidence())
    assert len(lines) == COUNT
    assert [line.name for line in lines if line.passed is not True] == []
    assert [line.name for line in lines if not line.gated] == ["NoPE lies in between"]
    assert by_name(evidence())["the order is the published one"].values["correlation"] > 0.9


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({"sinusoidal": {2: 1.1}}, "sinusoidal explodes at once"),
        ({"sinusoidal": {8: 5.0}}, "sinusoidal explodes at once"),
        ({"learned": {2: 1.0}}, "learned has nothing beyond its table"),
        ({"RoPE": {4: 1.04}}, "RoPE climbs, later and less"),
        ({"RoPE": {16: 9.9}}, "RoPE climbs, later and less"),
        ({"T5": {2: 1.01, 4: 1.02}}, "T5 gains, then climbs"),
        ({"T5": {16: 7.1}}, "T5 gains, then climbs"),
        ({"T5": {16: 0.96}}, "T5 gains, then climbs"),
        ({"ALiBi": {2: 1.001}}, "ALiBi falls, then is flat"),
        ({"ALiBi": {16: 0.96}}, "ALiBi falls, then is flat"),
        ({"KERPLE": {16: 1.06}}, "KERPLE stays near ALiBi"),
        ({"FIRE": {16: 1.06}}, "FIRE stays near ALiBi"),
        ({"NoPE": {2: 2.3}}, "NoPE lies in between"),
        ({"ALiBi": {4: 6.0}, "T5": {4: 0.9}}, "the order is the published one"),
        ({"T5": {4: 0.98}}, "ALiBi below T5 at 4 times"),
        ({"RoPE": {16: 2.0}}, "T5 below RoPE at 16 times"),
    ],
)
def test_a_line_fails_where_its_finding_does(changed: Any, fails: str) -> None:
    assert by_name(evidence(changed))[fails].passed is False


def test_a_fixed_target_that_gains_fails() -> None:
    e = evidence()
    e = e._replace(fixed={"ALiBi": {**e.fixed["ALiBi"], 8: 1.4 - 0.031}})
    line = by_name(e)["ALiBi's gain vanishes for fixed targets"]
    assert line.passed is False
    assert line.values["change(8)"] == pytest.approx(-0.031)


@pytest.mark.parametrize(
    ("ratio", "half", "seeds", "passed"),
    [(1.02, 0.01, 1, False), (1.02, 0.01, 3, True), (1.02, 0.03, 3, False), (1.05, 0.01, 1, True)],
)
def test_a_small_difference_needs_three_seeds(ratio: float, half: float, seeds: int, passed: bool) -> None:
    e = evidence({"T5": {4: RATIOS["ALiBi"][4] * ratio}}, half=half, seeds=seeds)
    assert by_name(e)["ALiBi below T5 at 4 times"].passed is passed


def test_too_little_learned_has_no_verdict() -> None:
    assert {line.passed for line in sheet(evidence(per_byte=2.3))} == {True}
    for line in sheet(evidence(per_byte=2.31)):
        assert line.passed is None
        assert "2.31 nats per byte" in line.reason
    poor = evidence()
    poor = poor._replace(per_byte={**poor.per_byte, "KERPLE": 3.0})
    lines = by_name(poor)
    assert [name for name, line in lines.items() if line.passed is None] == ["KERPLE stays near ALiBi"]
    assert "KERPLE" not in lines["the order is the published one"].values


def test_what_was_not_read_has_no_verdict() -> None:
    e = evidence()
    short = e._replace(
        **{
            f: {r: {k: x for k, x in row.items() if k < 16} for r, row in getattr(e, f).items()}
            for f in ("ratios", "losses", "fixed")
        }
    )
    told = by_name(short)
    assert told["RoPE climbs, later and less"].reason == "RoPE was not read at 16 times the trained length"
    assert told["ALiBi below T5 at 4 times"].passed is True
    gone = e._replace(per_byte={r: x for r, x in e.per_byte.items() if r != "T5"})
    assert by_name(gone)["T5 gains, then climbs"].reason == "T5 is not among those that were trained to the end"
    unknown = e._replace(difference=lambda a, b, k: None)
    assert by_name(unknown)["ALiBi below T5 at 4 times"].passed is None


def test_roles_are_told_from_the_encoding() -> None:
    found = [
        role_of(e)
        for e in (
            rw.Sinusoidal(8),
            rw.Learned(8, 8),
            rw.Rotary(8),
            rw.T5(4),
            rw.Alibi(4),
            rw.KerpleLog(4),
            rw.Fire(4),
            (),
        )
    ]
    assert found == ["sinusoidal", "learned", "RoPE", "T5", "ALiBi", "KERPLE", "FIRE", "NoPE"]
    others = (rw.Rotary(8, scaling=(rw.Linear(2.0),)), rw.XPos(8), (rw.Rotary(8), rw.Alibi(4)), [rw.Alibi(4)] * 4)
    assert [role_of(e) for e in others] == [None] * 4


def test_published_ratios_are_those_of_the_table() -> None:
    assert published.ratios("ALiBi") == pytest.approx({"r(2)": 0.949, "r(5)": 0.933, "r(16)": 0.930}, abs=5e-4)
    assert published.ratios("sinusoidal") == pytest.approx({"r(2)": 2.17, "r(5)": 6.60, "r(16)": 15.2}, abs=0.05)
    assert published.ratios("FIRE") == {}
    assert all(len(row) == len(published.LENGTHS) for row in published.PERPLEXITY.values())
    assert {rule.name for rule in judgement.RULES} == set(by_name(evidence()))
