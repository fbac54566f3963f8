"""From rows made by hand to the verdict: every figure worked out a second time, from the losses themselves."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ropewalk import NTK, Rotary
from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.evaluate.run import Ledger
from ropewalk.extend import summary as numbers
from ropewalk.extend.candidates import field
from ropewalk.extend.job import Run, Subject, Watch
from ropewalk.extend.outcome import summarise
from ropewalk.extend.plan import ExtendRequest, Pace, Progress
from ropewalk.extend.race import Reading, Track
from ropewalk.report.page import page

TRACK = Track(window=1024, target=2048, price=0.04)
UNMODIFIED, LAST, CHOSEN = "unmodified", "last 1024 tokens", "NTK(factor=2.0)"
Floats = NDArray[np.float32]


def shape(
    inside: float, beyond: float, since: int = TRACK.window, noise: int = 0, tokens: int = TRACK.target
) -> Floats:
    """Losses of tokens 1, 2, ... of one text: `inside` nats more up to token `since`, `beyond` more from there on."""
    text = np.random.default_rng(0).gamma(2.0, size=tokens - 1)
    extra = np.where(np.r_[1:tokens] < since, inside, beyond)
    return (text + extra + np.random.default_rng(noise + 1).normal(size=len(text)) * 0.01).astype(np.float32)


UNTOUCHED = shape(0.0, 2.0)
TAIL = shape(0.1, 0.1)


def run_of(folder: Path, held_out: Mapping[str, Floats], **request: Any) -> Run:
    """A finished run with these readings of the held-out text; CHOSEN was chosen if it is among them."""
    asked = ExtendRequest("tiny", TRACK.target, str(folder), **request)
    config = SimpleNamespace(model_type="llama")
    loaded = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)))
    text = SimpleNamespace(source="somewhere")
    own = (Rotary(64, 1e5),) * 2
    subject = Subject(loaded, TRACK, text, field(own, 1024, 2048, [True] * 2, None), list)  # type: ignore[arg-type]
    ledger = Ledger(folder, {})
    for name, losses in held_out.items():
        first = TRACK.tail if name == LAST else 1
        kept = ledger.keep_losses(f"held-out-{len(ledger.rows)}", losses[first - 1 :])
        row = {"kind": "held-out-text", "name": name, "first": first, "losses": kept, "tokens": 2048, "seconds": 2.0}
        ledger.add(row | {"outcome": "", "reason": ""})
    ledger.add({"kind": "chosen", "name": "", "chosen": CHOSEN if CHOSEN in held_out else None})
    return Run(asked, subject, ledger, Watch(), Progress([], Pace(1.0, 0.0)))


def summary_of(folder: Path, chosen: Floats | None, last: Floats = TAIL, **request: Any) -> dict[str, Any]:
    readings = {UNMODIFIED: UNTOUCHED, LAST: last} | ({} if chosen is None else {CHOSEN: chosen})
    return summarise(run_of(folder, readings, **request), started=0.0)


def entry(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in summary["candidates"] if c["name"] == name)


def of_tokens(losses: Floats, start: int, end: int) -> NDArray[np.float64]:
    return losses[max(start - 1, 0) : end - 1].astype(np.float64)


def test_a_gain_is_one_sentence_with_what_it_costs(tmp_path: Path) -> None:
    good = shape(0.012, 0.05, noise=1)
    s = summary_of(tmp_path, good)
    before, after = (math.exp(of_tokens(x, 1024, 2048).mean()) for x in (UNTOUCHED, good))
    price = 100 * math.expm1((of_tokens(good, 1, 1024) - of_tokens(UNTOUCHED, 1, 1024)).mean())
    rival = 100 * math.expm1((of_tokens(good, TRACK.tail, 2048) - of_tokens(TAIL, TRACK.tail, 2048)).mean())
    assert s["verdict"] == (
        f"{CHOSEN} reads 2,048 tokens: beyond the trained 1,024 its perplexity on held-out text is {after:.1f} where "
        f"the unmodified model has {before:.1f} ({rival:+.1f} % against reading only the last 1,024 tokens); no cliff "
        f"up to 2,048 tokens; text within the trained window costs {price:+.1f} % perplexity."
    )
    assert s["gained"] is True
    assert s["chosen_name"] == CHOSEN
    assert s["chosen"] == repr(Rotary(64, 1e5, (NTK(2.0),)))


def test_a_cliff_that_is_left_is_named(tmp_path: Path) -> None:
    falls = shape(0.012, 1.5, since=1940, noise=1)
    s = summary_of(tmp_path, falls)
    assert s["gained"] is True
    # the blocks are a sixteenth of the target: the fall is in the one from 1,920 on
    assert s["cliff"] == {"unmodified": 1024, "chosen": 1920}
    assert "; its cliff is at 1,920 tokens; " in s["verdict"]


def test_no_candidate_is_a_verdict_of_its_own(tmp_path: Path) -> None:
    s = summary_of(tmp_path, None)
    assert s["verdict"] == (
        "Nothing helped: no candidate read 2,048 tokens within the price limit inside 1,024 tokens."
    )
    assert (s["gained"], s["chosen"], s["chosen_name"]) == (False, None, None)


def test_worse_than_the_last_window_alone_is_no_gain(tmp_path: Path) -> None:
    poor = shape(0.0, 0.5, noise=1)
    s = summary_of(tmp_path, poor)
    gap = of_tokens(poor, TRACK.tail, 2048) - of_tokens(TAIL, TRACK.tail, 2048)
    worse = 100 * math.expm1(gap.mean())
    assert s["verdict"] == (
        f"Nothing helped: {CHOSEN} reads {worse:.1f} % worse than the unmodified model on its last 1,024 tokens."
    )
    assert (s["gained"], s["chosen"]) == (False, None)


def test_no_better_than_the_unmodified_model_is_no_gain(tmp_path: Path) -> None:
    s = summary_of(tmp_path, shape(0.0, 2.001, noise=1), last=shape(0.0, 3.0, noise=2))
    assert s["verdict"] == (
        f"Nothing helped: {CHOSEN} is not clearly better than the unmodified model beyond 1,024 tokens."
    )


def interval(low: float, high: float) -> dict[str, float]:
    return {"nats": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("gain", "rival", "expected"),
    [
        (interval(-0.3, -0.1), None, True),
        (interval(-0.3, -0.1), interval(-0.1, 0.1), True),
        (interval(-0.3, -0.1), interval(0.1, 0.2), False),
        (interval(-0.3, 0.1), interval(-0.2, -0.1), False),
        (interval(0.1, 0.3), None, False),
        (None, None, False),
    ],
)
def test_what_helps_is_clear_on_one_side_and_not_refuted_on_the_other(gain: Any, rival: Any, expected: bool) -> None:
    assert numbers.helped({"gain": gain, "against_truncated": rival}, None, None) is expected
    assert numbers.helped(None, None, None) is False


@pytest.mark.parametrize(("found", "before", "expected"), [(6, 0, True), (0, 0, False), (6, 3, False), (30, 3, True)])
def test_keys_further_back_than_the_window_outweigh_truncation(found: int, before: int, expected: bool) -> None:
    losing = {"gain": interval(-0.3, -0.1), "against_truncated": interval(0.1, 0.2)}
    far, unmodified = (wilson(n, 36)._asdict() for n in (found, before))
    assert numbers.helped(losing, far, unmodified) is expected
    useless = {"gain": interval(0.1, 0.3), "against_truncated": None}
    assert numbers.helped(useless, far, unmodified) is False


def test_the_figures_of_a_candidate_are_those_of_its_losses(tmp_path: Path) -> None:
    good = shape(0.012, 0.05, noise=1)
    s = summary_of(tmp_path, good)
    got = entry(s, CHOSEN)["held_out"]
    for side, (start, end) in {"native": (1, 1024), "beyond": (1024, 2048)}.items():
        here = of_tokens(good, start, end)
        assert got[side]["tokens"] == len(here)
        assert got[side]["loss"] == pytest.approx(here.mean(), abs=1e-6)
        assert got[side]["perplexity"] == pytest.approx(math.exp(here.mean()), rel=1e-5)
        assert got[side]["low"] < got[side]["loss"] < got[side]["high"]
    gain = of_tokens(good, 1024, 2048) - of_tokens(UNTOUCHED, 1024, 2048)
    late = of_tokens(good, TRACK.tail, 2048) - of_tokens(TAIL, TRACK.tail, 2048)
    for name, difference in {"gain": gain, "against_truncated": late}.items():
        assert got[name]["tokens"] == len(difference)
        assert got[name]["nats"] == pytest.approx(difference.mean(), abs=1e-6)
        assert got[name]["percent"] == pytest.approx(100 * math.expm1(difference.mean()), abs=1e-4)
    assert [b["start"] for b in got["blocks"]] == list(range(0, 2048, 128))
    for block in got["blocks"]:
        assert block["loss"] == pytest.approx(of_tokens(good, block["start"], block["end"]).mean(), abs=1e-6)
    # the tail begins in the middle of its window: its blocks are whole ones
    assert [b["start"] for b in entry(s, LAST)["held_out"]["blocks"]] == list(range(1536, 2048, 128))
    assert entry(s, UNMODIFIED)["held_out"]["price"] is None
    assert entry(s, LAST)["held_out"]["native"] is None


def test_a_cliff_needs_another_reading_that_does_clearly_better() -> None:
    track = Track(window=8192, target=16384, price=0.04)

    def made(inside: float, beyond: float, since: int = 8192, noise: int = 0) -> Floats:
        return shape(inside, beyond, since, noise, tokens=16384)

    def cliff(name: str, **losses: Floats) -> int | None:
        firsts = {n: track.tail if n == "last" else 1 for n in losses}
        return numbers.cliff({n: Reading(x[firsts[n] - 1 :], firsts[n]) for n, x in losses.items()}, name, track)

    flat, fifth, twentieth = made(0.0, 0.0), made(0.0, math.log(1.2), noise=1), made(0.0, math.log(1.05), noise=1)
    assert cliff("a", a=fifth, b=flat) == 8192
    assert cliff("b", a=fifth, b=flat) is None
    assert cliff("a", a=twentieth, b=flat) is None
    assert cliff("a", a=flat) is None
    # losses that rise for all of them are a harder text, not a cliff
    hard = made(0.0, 2.0, since=12288, noise=1)
    assert cliff("a", a=hard, b=made(0.0, 2.0, since=12288, noise=2)) is None
    assert cliff("a", a=hard, last=flat) == 12288
    # the loss of the one that is compared may begin later than the fall
    assert cliff("a", a=fifth, last=flat) == 12288
    # a few tokens that are missed by far are noise, although they cost as much in the mean
    missed = np.random.default_rng(7).random(len(flat)) < 0.003
    rough = flat + np.where(missed, 50.0, 0.0).astype(np.float32)
    assert (rough - flat).mean() > math.log(1.1)
    assert cliff("a", a=rough, b=flat) is None


def test_retrieval_is_counted_by_cell(tmp_path: Path) -> None:
    run = run_of(tmp_path, {UNMODIFIED: UNTOUCHED, LAST: TAIL})
    rng = np.random.default_rng(0)
    depths = [(i + 0.5) / 8 for i in range(8)]
    asked = [[n, d, int(n * d), bool(rng.random() < 0.5)] for n in (256, 512) for d in depths for _ in range(3)]
    for n in (256, 512):
        given = [a for a in asked if a[0] == n]
        run.ledger.add({"kind": "retrieval named-keys", "name": UNMODIFIED, "at": n, "answers": given, "seconds": 1.0})
    s = summarise(run, started=0.0)
    found = s["retrieval"]
    assert (found["task"], found["lengths"], found["depths"]) == ("named keys", [256, 512], depths)
    for n, row in zip(found["lengths"], found["grids"][UNMODIFIED], strict=True):
        for d, cell in zip(depths, row, strict=True):
            hits = [a[3] for a in asked if a[:2] == [n, d]]
            assert (cell["found"], cell["asked"]) == (sum(hits), 3)
            assert cell["low"] <= sum(hits) / 3 <= cell["high"]
    total = entry(s, UNMODIFIED)["retrieval"]
    assert (total["found"], total["asked"]) == (sum(a[3] for a in asked), 48)
    assert entry(s, LAST)["retrieval"] is None


def test_a_grid_without_questions_is_none(tmp_path: Path) -> None:
    run = run_of(tmp_path, {UNMODIFIED: UNTOUCHED, LAST: TAIL})
    run.ledger.add({"kind": "retrieval named-keys", "name": UNMODIFIED, "at": 48, "answers": [], "seconds": 1.0})
    assert summarise(run, started=0.0)["retrieval"] is None


def test_stages_say_what_they_took(tmp_path: Path) -> None:
    s = summary_of(tmp_path, shape(0.0, 0.1, noise=1))
    assert s["stages"] == [{"name": "held-out text", "seconds": 6.0}]


def test_the_report_of_such_a_run_can_be_drawn(tmp_path: Path) -> None:
    for name, chosen in {"gained": shape(0.012, 0.05, noise=1), "none": None, "poor": shape(0.0, 0.5, noise=1)}.items():
        s = summary_of(tmp_path / name, chosen)
        assert s["verdict"].split(":")[0] in page(s | {"deploy": []})
