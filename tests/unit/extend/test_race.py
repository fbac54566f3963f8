"""Who stops where, who leads and who goes on, on losses made by hand; and what a reader really reads."""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from parity.tiny_models import tiny, words
from ropewalk import Linear, Rotary
from ropewalk.extend import job
from ropewalk.extend.candidates import Candidate
from ropewalk.extend.race import LEAST, Reader, Reading, Standing, Track, gap_to, judge, price_of, ranking

# windows of whole runs of 64 losses: 16 runs inside, 16 beyond
TRACK = Track(window=1025, target=2049, price=0.04)
LIMIT, EVEN = math.log1p(0.04), math.log1p(0.01)
CLEAR = 3.0  # standard errors
Floats = NDArray[np.float64]


def text_losses(tokens: int = TRACK.target) -> Floats:
    """Losses of tokens 1 .. tokens - 1, each far from its neighbours."""
    return np.random.default_rng(0).gamma(2.0, size=tokens - 1)


def wavering(difference: float, wave: float) -> Floats:
    """A difference of exactly this mean inside and beyond the window, in runs of 64 that lie `wave` above or below."""
    return difference + wave * np.repeat(np.resize([1.0, -1.0], 32), 64)


# the standard error that such a wave has over 16 runs
WAVE, ERROR = 0.05, 0.05 / math.sqrt(15)


def reading(extra: float | Floats, upto: int = TRACK.target) -> Reading:
    return Reading((text_losses() + extra)[: upto - 1])


def test_a_reading_knows_its_tokens() -> None:
    whole, tail = Reading(np.r_[1.0:100.0]), Reading(np.r_[40.0:100.0], first=40)
    assert whole.between(1, 4).tolist() == [1, 2, 3]
    assert whole.between(0, 2).tolist() == [1]
    for start, end in ((40, 44), (35, 44), (90, 200)):
        assert tail.between(start, end).tolist() == list(range(max(start, 40), min(end, 100)))
    assert tail.between(3, 30).tolist() == []


def test_price_and_gap_are_of_their_own_side_of_the_window() -> None:
    extra = np.concatenate((np.full(1024, 0.5), np.full(1024, -0.25)))
    price, gap = price_of(reading(extra), reading(0.0), TRACK), gap_to(reading(extra), reading(0.0), TRACK)
    assert price
    assert gap
    assert (price.tokens, gap.tokens) == (1024, 1024)
    assert (price.loss, gap.loss) == pytest.approx((0.5, -0.25))


@pytest.mark.parametrize("upto", [LEAST, LEAST + 1, 1025])
def test_nothing_is_judged_before_enough_was_read(upto: int) -> None:
    standing = Standing(unmodified=reading(0.0))
    ended = judge(reading(1.0, upto), standing, TRACK, "candidate")
    assert (ended is None) == (upto - 1 < LEAST)
    ahead = Standing(unmodified=reading(1.0), leader=reading(0.0))
    ended = judge(reading(1.0, 1024 + upto), ahead, TRACK, "candidate")
    assert (ended is None) == (upto - 1 < LEAST)


@pytest.mark.parametrize(("errors", "out"), [(CLEAR - 0.01, False), (CLEAR + 0.01, True), (-5.0, False)])
def test_a_candidate_is_out_inside_when_it_is_clearly_over_the_price(errors: float, out: bool) -> None:
    dear = reading(wavering(LIMIT + errors * ERROR, WAVE), upto=1025)
    found = judge(dear, Standing(unmodified=reading(0.0)), TRACK, "candidate")
    assert (found is not None) == out
    if found:
        assert found.outcome == "priced out"
        assert found.reason == f"{100 * math.expm1(LIMIT + errors * ERROR):.1f} % dearer inside the window"
        assert found.losses is dear.losses


@pytest.mark.parametrize("role", ["candidate", "unmodified", "truncated"])
@pytest.mark.parametrize(
    ("difference", "outcomes"),
    [
        ((CLEAR + 0.01) * ERROR, {"candidate": "behind", "unmodified": "behind", "truncated": "behind"}),
        ((CLEAR - 0.01) * ERROR, {"candidate": "no better"}),
        (CLEAR * ERROR - EVEN + 1e-4, {"candidate": "no better"}),
        (CLEAR * ERROR - EVEN - 1e-4, {}),
        (-5.0 * ERROR, {}),
    ],
)
def test_beyond_the_window_it_is_the_leader_that_counts(difference: float, outcomes: dict[str, str], role: str) -> None:
    """Clearly behind, everyone is out; a candidate also when it clearly cannot win by a hundredth."""
    late = reading(wavering(difference, WAVE))
    found = judge(late, Standing(unmodified=late, leader=reading(0.0)), TRACK, role)
    assert (found.outcome if found else None) == outcomes.get(role)
    if found and found.outcome == "behind":
        assert found.reason == f"{100 * math.expm1(difference):.1f} % behind the leader beyond the window"
    elif found:
        assert found.reason == "cannot beat the leader by 1.0 %"


def test_what_was_lost_inside_the_window_does_not_count_beyond() -> None:
    """Within the price there, and better than the leader here."""
    mixed = np.concatenate((np.full(1024, 0.03), np.full(1024, -0.02)))
    assert judge(reading(mixed), Standing(reading(0.0), reading(0.0)), TRACK, "candidate") is None


@pytest.mark.parametrize("role", ["unmodified", "truncated"])
def test_a_baseline_has_no_price(role: str) -> None:
    assert judge(reading(1.0, upto=1025), Standing(unmodified=reading(0.0)), TRACK, role) is None
    assert judge(reading(1.0), Standing(), TRACK, "candidate") is None


@pytest.mark.parametrize("target", [1200, 1300, 1600, 2049, 5000])
def test_the_truncated_reading_is_compared_token_by_token(target: int) -> None:
    """A reading that starts at another token would differ by far more than this difference."""
    track = Track(1025, target, 0.04)
    leader = Reading(text_losses(target))
    late = text_losses(target)[track.tail - 1 :]
    assert judge(Reading(late, track.tail), Standing(leader=leader), track, "truncated") is None
    found = judge(Reading(late + 0.01, track.tail), Standing(leader=leader), track, "truncated")
    enough = target - max(track.window, track.tail) >= LEAST
    assert (found is not None) == enough
    if found:
        assert found.reason.startswith("1.0 % behind")
    # while it is being read, the leader's tokens beyond its last one are left out
    part = gap_to(Reading(late[: LEAST + 9] + 0.01, track.tail), leader, track)
    if track.tail >= track.window:
        assert part
        assert (part.loss, part.tokens) == pytest.approx((0.01, LEAST + 9))


def beyond(extra: float) -> Floats:
    return np.concatenate((np.zeros(1024), np.full(1024, extra)))


def test_the_ranking_is_of_those_that_are_affordable() -> None:
    finished = {"b": reading(beyond(-0.2)), "a": reading(beyond(-0.5)), "dear": reading(LIMIT * 1.1 + beyond(-2.0))}
    finished |= {"just": reading(LIMIT * 0.99 + beyond(-0.3))}
    assert ranking(finished, reading(0.0), TRACK) == ["a", "just", "b"]
    assert ranking(finished, None, TRACK) == ["dear", "a", "just", "b"]
    assert ranking({}, reading(0.0), TRACK) == []


NAMES = ["first", "unmodified", "truncated", "second", "third", "fourth"]


class Course:
    """A run whose readings are made by hand and judged every 64 tokens, as a real one is."""

    def __init__(self, extra: Mapping[str, float | Floats], finalists: int = 2) -> None:
        roles = {"unmodified": "unmodified", "truncated": "truncated"}
        self.extra, self.read_to, self.outcomes = extra, dict[str, int](), dict[str, str]()
        field = [Candidate(n, (), roles.get(n, "candidate")) for n in NAMES if n in extra]
        by_name = {c.name: c for c in field}
        text = SimpleNamespace(search=None, held_out=None)
        self.subject = SimpleNamespace(track=TRACK, field=field, text=text, entrant=by_name.__getitem__)
        self.request = SimpleNamespace(finalists=finalists, method=None)

    def read(self, stage: str, entrant: Candidate, ids: Any, standing: Standing | None) -> Reading:
        first = TRACK.tail if entrant.role == "truncated" else 1
        whole = (text_losses() + self.extra[entrant.name])[first - 1 :]
        found = Reading(whole, first)
        for tokens in range(64, len(whole) + 1, 64):
            found = Reading(whole[:tokens], first)
            ended = judge(found, standing, TRACK, entrant.role) if standing else None
            if ended:
                found = ended
                break
        self.read_to[entrant.name], self.outcomes[entrant.name] = len(found.losses), found.outcome
        return found


def raced(finalists: int = 2, **extra: float | Floats) -> tuple[Course, list[str]]:
    course = Course({"unmodified": beyond(3.0), "truncated": 0.1} | extra, finalists)
    return course, [c.name for c in job.race(course)]  # type: ignore[arg-type]


def test_the_best_go_on_in_order_and_the_others_stop_early() -> None:
    course, order = raced(first=0.0, second=1.0, third=beyond(0.5), fourth=wavering(-0.01, 0.1))
    assert order == ["fourth", "first"]
    assert course.outcomes == {
        "first": "",
        "unmodified": "behind",
        "truncated": "behind",
        "second": "priced out",
        "third": "behind",
        "fourth": "",
    }
    assert course.read_to["second"] == LEAST
    assert course.read_to["third"] == course.read_to["unmodified"] == 1024 + LEAST


def test_a_new_leader_is_what_later_ones_are_held_against() -> None:
    course, order = raced(first=0.0, second=beyond(-0.5), third=beyond(-0.25))
    assert order == ["second", "first"]
    assert course.outcomes["third"] == "behind"


def test_a_first_candidate_that_is_too_dear_loses_the_lead_once_its_price_is_known() -> None:
    course, order = raced(first=0.2 + beyond(-1.0), second=beyond(0.5), third=beyond(-0.9))
    assert "first" not in order
    assert course.outcomes["second"] == ""
    assert order == ["third", "second"]


def test_only_so_many_go_on() -> None:
    _, order = raced(1, first=0.0, second=beyond(-0.1), third=beyond(-0.2))
    assert order == ["third"]


def test_one_that_is_as_good_as_the_leader_is_not_read_to_the_end() -> None:
    course, order = raced(first=0.0, second=beyond(-0.001), third=wavering(-0.002, 0.1))
    assert course.outcomes["second"] == "no better"
    assert course.read_to["second"] == 1024 + LEAST
    assert order == ["third", "first"]


def test_baselines_never_go_on_and_nobody_may_be_left() -> None:
    course = Course({"first": 0.5, "unmodified": 0.0, "truncated": -0.1, "second": 0.6})
    assert job.race(course) == []  # type: ignore[arg-type]
    assert course.outcomes["unmodified"] == ""


def test_an_unmodified_model_that_reads_on_leads() -> None:
    course, order = raced(first=beyond(0.5), unmodified=0.0, second=beyond(0.2))
    assert course.outcomes["second"] == "behind"
    assert order == ["first"]


@pytest.mark.parametrize("method", [None, "given"])
def test_on_held_out_text_the_affordable_one_that_reads_best_is_chosen(method: str | None) -> None:
    course = Course({"first": beyond(-0.1), "unmodified": 0.0, "truncated": 0.0, "second": 0.2 + beyond(-1.0)})
    course.request.method = method
    finalists = [course.subject.entrant(n) for n in ("second", "first")]
    chosen = job.prove(course, finalists)  # type: ignore[arg-type]
    # a named one is measured, whatever comes out
    assert chosen is not None
    assert chosen.name == ("second" if method else "first")
    assert set(course.read_to) == {"first", "unmodified", "truncated", "second"}
    assert set(course.outcomes.values()) == {""}


def test_nobody_is_chosen_where_all_are_too_dear() -> None:
    course = Course({"first": 0.2, "unmodified": 0.0, "truncated": 0.0})
    assert job.prove(course, [course.subject.entrant("first")]) is None  # type: ignore[arg-type]


SMALL = Track(window=32, target=80, price=0.04)


def naive(scaling: tuple[Any, ...], ids: torch.Tensor) -> torch.Tensor:
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4} if scaling else None
    model = tiny("llama", **({"rope_parameters": parameters} if parameters else {}))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none")


@pytest.mark.parametrize("scaling", [(), (Linear(4.0),)])
def test_a_reader_reads_the_document_under_the_candidate(scaling: tuple[Any, ...]) -> None:
    model, ids, seen, stops = tiny("llama"), words(1, 80)[0], list[int](), list[int]()
    entrant = Candidate("x", (Rotary(16, scaling=scaling),) * 3)
    got = Reader(model, SMALL, lambda line: None, 32).read(
        entrant, ids, lambda r: stops.append(len(r.losses)), seen.append
    )
    assert got[1:] == (1, "", "")
    assert np.abs(got.losses - naive(scaling, ids).numpy()).max() < 1e-5
    assert (seen, stops) == ([32, 64, 80], [32, 64, 79])


def test_the_truncated_reading_is_the_last_window_at_positions_from_zero() -> None:
    model, ids, stops = tiny("llama"), words(1, 80)[0], list[int]()
    entrant = Candidate("last 32 tokens", (Rotary(16),) * 3, "truncated")
    got = Reader(model, SMALL, lambda line: None, 20).read(
        entrant, ids, lambda r: stops.append(len(r.losses)), lambda tokens: None
    )
    assert got.first == 80 - 16
    # tokens 64 .. 79, of which each has 16 to 31 tokens of context
    assert np.abs(got.losses - naive((), ids[48:]).numpy()[15:]).max() < 1e-5
    assert stops == [5, 16]


def test_a_reading_that_is_out_stops_where_it_stands_and_leaves_the_model_as_it_was() -> None:
    model, ids = tiny("llama"), words(1, 80)[0]
    before = model(input_ids=ids[None]).logits
    entrant = Candidate("x", (Rotary(16, scaling=(Linear(4.0),)),) * 3)
    seen: list[int] = []
    got = Reader(model, SMALL, lambda line: None, 20).read(
        entrant, ids, lambda r: r._replace(outcome="behind") if len(r.losses) >= 40 else None, seen.append
    )
    assert got.outcome == "behind"
    assert (seen, len(got.losses)) == ([20, 40], 40)
    assert torch.equal(model(input_ids=ids[None]).logits, before)
