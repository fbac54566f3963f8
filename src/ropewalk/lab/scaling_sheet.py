"""The sheet of rescaled models: what is published of PI, NTK, YaRN and PoSE, and whether it is seen here.

r(k) is the perplexity at k trained lengths over that of the untouched model at one, on the same tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ropewalk.evaluate.metrics.perplexity import Losses
from ropewalk.lab.estimates import Estimate, estimate
from ropewalk.lab.evaluation import FIXED, NONOVERLAPPING, WINDOWS, Plan, view
from ropewalk.lab.judgement import GATE, NATS, Line, Missing
from ropewalk.lab.scaling import CONTROL, FACTOR, FULL, METHODS, NONE, NTK_AWARE, PI, POSE, UNTUNED, YARN, Variant


class Read(NamedTuple):
    """A model, the step after which it was read, and the length of the texts."""

    variant: Variant
    step: int
    length: int


class Found(NamedTuple):
    """All losses that are known."""

    plan: Plan
    first: int  # step of a tuning after which it is read
    last: int  # and its last one
    losses: dict[Read, Losses]

    def of(self, method: str, tuning: str, times: int, step: int | None = None) -> Read:
        """The reading of a variant at so many trained lengths, in the end unless a step is given."""
        at = 0 if tuning == UNTUNED else self.last if step is None else step
        return Read(Variant(method, tuning), at, times * self.plan.train_length)

    def difference(self, first: Read, second: Read, protocol: str = NONOVERLAPPING) -> Estimate:
        """First minus second, token by token. Raises Missing where one was not read."""
        for one in (first, second):
            if one not in self.losses:
                times = one.length // self.plan.train_length
                after = f" after {one.step} steps" if one.step else ""
                raise Missing(f"{one.variant.name}, was not read at {times} times the trained length{after}")
        a, b = (view({WINDOWS: self.losses[one]}, protocol, self.plan) for one in (first, second))
        assert a is not None
        assert b is not None
        return estimate([a.astype(np.float64) - b], self.plan, protocol)

    def ratio(self, one: Read, protocol: str = NONOVERLAPPING) -> float:
        """Over the untouched model at the trained length."""
        return math.exp(self.difference(one, self.of(NONE, UNTUNED, 1), protocol).loss)


# perplexities of LLaMA 7B, stretched from 2,048 tokens to 4 times as many unless another is named
SOURCE = "PI: Chen et al. 2023, arXiv:2306.15595; YaRN: Peng et al. 2023, arXiv:2309.00071; PoSE: arXiv:2309.10400"
PUBLISHED: dict[str, dict[str, float | str]] = {
    "window": {"r(2)": "above 139", "what": "PI, Table 1: above 1,000 from 7.20"},
    "poor": {"r(1)": 43.80 / 4.74, "r(4)": 45.89 / 4.74, "what": "PoSE, Table 6; 2.24 at 4 times in PI, Table 3"},
    "falls": {
        "r(2)/r(1)": 5.80 / 5.62,
        "r(4)/r(1)": 550 / 5.62,
        "r(1)": 5.62 / 4.74,
        "what": "at 4 and 8 of 8 times; PoSE, Table 6",
    },
    "flat": {"r(4)/r(1)": 5.83 / 5.57, "r(1)": 5.57 / 4.74, "what": "at 8 of 8 times; PoSE, Table 6"},
    PI + FULL: {"untuned": 16.10 / 7.20, "r(4)": 7.12 / 7.20, "what": "200 steps; PI, Table 3"},
    PI + POSE: {"r(4)": 4.60 / 4.74, "r(1)": 4.84 / 4.74, "what": "1,000 steps for 8 times; PoSE, Table 6"},
    YARN + POSE: {"r(4)": 4.55 / 4.74, "r(1)": 4.79 / 4.74, "what": "1,000 steps for 8 times; PoSE, Table 6"},
    "near": {"difference": math.log(4.60 / 4.61), "what": "nats, PI at 4 times, made for 8; PoSE, Table 6"},
    "soon": {"share": math.log(16.10 / 7.12) / math.log(16.10 / 6.95), "what": "200 of 1,000 steps; PI, Table 3"},
    "direct": {"difference": math.log(7.69 / 6.95), "what": "10,000 steps against 1,000; PI, Table 1"},
    "beyond": {"growth": 102.74 / 3.34, "what": "made for 2 times, read at 4; YaRN, Table 1"},
}
BEFORE, AFTER, TAX = 1.5, 1.03, 1.01  # ratios: at four trained lengths before and after, at one after
FLAT, FALLEN = 1.05, 1.25  # perplexities untuned, over those of the same model at the trained length
SOON = 0.9  # of the gain


class Rule(NamedTuple):
    """A line before it is looked up: `judge` yields values, then a verdict."""

    name: str
    condition: str
    judge: Callable[[Found], tuple[dict[str, float], bool]]
    published: Mapping[str, float | str] = {}


def sheet(found: Found, bytes_per_token: float) -> list[Line]:
    """Every line, those without a verdict with the reason."""
    home = found.losses.get(found.of(NONE, UNTUNED, 1))
    per_byte = None if home is None else float(home.mean(dtype=np.float64)) / bytes_per_token
    return [settled(rule, found, per_byte) for rule in rules()]


def settled(rule: Rule, found: Found, per_byte: float | None) -> Line:
    try:
        if per_byte is not None and per_byte > GATE:
            told = f"the model is at {per_byte:.2f} nats per byte at the trained length"
            raise Missing(f"{told}; above {GATE:g} longer texts tell nothing")
        values, passed = rule.judge(found)
    except Missing as reason:
        return Line(rule.name, rule.condition, {}, None, str(reason), rule.published)
    return Line(rule.name, rule.condition, values, passed, "", rule.published)


def rules() -> Iterator[Rule]:
    """The lines, in their order."""
    yield Rule("RoPE as it is ends with its window", f"r({FACTOR}) >= {BEFORE}", window, PUBLISHED["window"])
    text = f"r(1) and r({FACTOR}) >= {BEFORE}, and above NTK and YaRN at {FACTOR} times with 95 % intervals"
    yield Rule("PI is poor untuned", text, poor, PUBLISHED["poor"])
    text = f"r({FACTOR // 2}) <= {FLAT} r(1) and r({FACTOR}) >= {FALLEN} r(1)"
    yield Rule("NTK untuned falls off before its factor", text, falls, PUBLISHED["falls"])
    yield Rule("YaRN untuned is flat to its factor", f"r({FACTOR}) <= {FLAT} r(1)", flat, PUBLISHED["flat"])
    text = f"r({FACTOR}) <= {AFTER} and r(1) <= {TAX}, where RoPE as it is has r({FACTOR}) >= {BEFORE}"
    for method in METHODS[1:]:
        for tuning, words in ((FULL, "long texts"), (POSE, "skipped positions")):
            name = f"{method} reads {FACTOR} times as far after a few steps on {words}"
            yield Rule(name, text, served(method, tuning), PUBLISHED.get(method + tuning, {}))
    text = f"the difference at {FACTOR} times is at most {NATS:g} nats"
    for method in METHODS[1:]:
        yield Rule(f"skipped positions do for {method} what long texts do", text, near(method), PUBLISHED["near"])
    text = f"the first stage has {100 * SOON:.0f} % of the gain at {FACTOR} times, in nats"
    yield Rule("the first steps do most of it", text, soon, PUBLISHED["soon"])
    text = f"the difference to PI at {FACTOR} times is above 0 with its 95 % interval, and at least {NATS:g} nats"
    yield Rule("tuning RoPE as it is falls behind", text, direct, PUBLISHED["direct"])
    text = f"perplexity of PI at {2 * FACTOR} times over that at {FACTOR} >= {FALLEN}"
    yield Rule("nothing is won beyond the factor", text, beyond, PUBLISHED["beyond"])


Judged = tuple[dict[str, float], bool]


def window(f: Found) -> Judged:
    far = f.ratio(f.of(NONE, UNTUNED, FACTOR))
    return {"r(2)": f.ratio(f.of(NONE, UNTUNED, 2)), f"r({FACTOR})": far}, far >= BEFORE


def poor(f: Found) -> Judged:
    near, far = (f.of(PI, UNTUNED, k) for k in (1, FACTOR))
    values = {"r(1)": f.ratio(near), f"r({FACTOR})": f.ratio(far)}
    above = [f.difference(far, f.of(m, UNTUNED, FACTOR)).low for m in (NTK_AWARE, YARN)]
    return values, min(values.values()) >= BEFORE and all(low is not None and low > 0 for low in above)


def falls(f: Found) -> Judged:
    home, half, end = (f.ratio(f.of(NTK_AWARE, UNTUNED, k)) for k in (1, FACTOR // 2, FACTOR))
    values = {f"r({FACTOR // 2})/r(1)": half / home, f"r({FACTOR})/r(1)": end / home, "r(1)": home}
    return values, half <= FLAT * home and end >= FALLEN * home


def flat(f: Found) -> Judged:
    home, end = (f.ratio(f.of(YARN, UNTUNED, k)) for k in (1, FACTOR))
    return {f"r({FACTOR})/r(1)": end / home, "r(1)": home}, end <= FLAT * home


def served(method: str, tuning: str) -> Callable[[Found], Judged]:
    def judge(f: Found) -> Judged:
        near, far = (f.of(method, tuning, k) for k in (1, FACTOR))
        before = f.ratio(f.of(NONE, UNTUNED, FACTOR))
        values = {
            "untuned": f.ratio(f.of(method, UNTUNED, FACTOR)),
            f"r({FACTOR})": f.ratio(far),
            "r(1)": f.ratio(near),
        }
        values["last tokens"] = f.ratio(far, FIXED)
        if f.of(*CONTROL, 1) in f.losses:
            values["trained on"] = f.ratio(f.of(*CONTROL, 1))
        return values, before >= BEFORE and values[f"r({FACTOR})"] <= AFTER and values["r(1)"] <= TAX

    return judge


def near(method: str) -> Callable[[Found], Judged]:
    def judge(f: Found) -> Judged:
        found = f.difference(f.of(method, POSE, FACTOR), f.of(method, FULL, FACTOR))
        return interval(found), found.loss <= NATS

    return judge


def soon(f: Found) -> Judged:
    start, end = f.of(PI, UNTUNED, FACTOR), f.of(PI, FULL, FACTOR)
    gain = f.difference(start, end).loss
    share = f.difference(start, f.of(PI, FULL, FACTOR, f.first)).loss / gain
    return {"share": share, "steps": float(f.first)}, gain > 0 and share >= SOON


def direct(f: Found) -> Judged:
    found = f.difference(f.of(NONE, FULL, FACTOR), f.of(PI, FULL, FACTOR))
    return interval(found), found.low is not None and found.low > 0 and found.loss >= NATS


def beyond(f: Found) -> Judged:
    growth = math.exp(f.difference(f.of(PI, FULL, 2 * FACTOR), f.of(PI, FULL, FACTOR)).loss)
    return {"growth": growth}, growth >= FALLEN


def interval(found: Estimate) -> dict[str, float]:
    """A difference as the values of a line."""
    values = {"difference": found.loss, "seeds": float(found.seeds)}
    return values if found.low is None or found.high is None else values | {"low": found.low, "high": found.high}
