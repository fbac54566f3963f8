"""The sheet of what must come out if published findings hold here: conditions, values, and whether they are met.

r(k) is the perplexity at k times the trained length over that at it, under texts that do not overlap.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ropewalk.encodings import T5, Alibi, Fire, KerpleLog, KerplePower, Learned, Rotary, Sinusoidal
from ropewalk.lab import published
from ropewalk.lab.estimates import Estimate, spearman

GATE = 2.3  # nats per byte at the trained length, above which nothing is told
NATS = 0.03  # a difference below this is none without three seeds
SEEDS = 3
FLAT = 0.01  # of ALiBi's perplexities at 4 to 16 times
ORDER = {"ALiBi": 1, "KERPLE": 1, "FIRE": 1, "T5": 2, "RoPE": 3, "sinusoidal": 4}  # from the lowest loss
RANKS = 0.8
KINDS = {"sinusoidal": Sinusoidal, "learned": Learned, "T5": T5, "ALiBi": Alibi, "FIRE": Fire}


class Line(NamedTuple):
    """One line of the sheet."""

    name: str
    condition: str
    values: dict[str, float]
    passed: bool | None  # None: no verdict, and `reason` says why
    reason: str = ""
    published: Mapping[str, float | str] = {}
    gated: bool = True  # False: reported, and counted nowhere


class Missing(Exception):
    """Why there is no verdict."""


class Evidence(NamedTuple):
    """What a sheet is made from, by the role that an encoding plays (`role_of`)."""

    ratios: Mapping[str, Mapping[int, float]]  # role: {k: r(k)}
    losses: Mapping[str, Mapping[int, float]]  # role: {k: nats per token}, texts that do not overlap
    fixed: Mapping[str, Mapping[int, float]]  # role: {k: nats per token}, fixed targets
    per_byte: Mapping[str, float]  # role: nats per byte at the trained length
    refused: Mapping[str, list[int]]  # role: the k that an encoding has no place for
    difference: Callable[[str, str, int], Estimate | None]  # of the losses of two roles at k, where both were read


def role_of(encoding: Any) -> str | None:
    """Which of the encodings of the sheet this is; None where it is of none."""
    if encoding == ():
        return "NoPE"
    if isinstance(encoding, Rotary):
        return None if encoding.scaling else "RoPE"
    if isinstance(encoding, KerpleLog | KerplePower):
        return "KERPLE"
    return next((name for name, kind in KINDS.items() if isinstance(encoding, kind)), None)


def sheet(e: Evidence) -> list[Line]:
    """Every line, those without a verdict with the reason."""
    return [settled(rule, e) for rule in RULES]


class Rule(NamedTuple):
    """A line before it is looked up: `judge` yields values, then a verdict."""

    name: str
    condition: str
    roles: tuple[str, ...]
    judge: Callable[[Evidence], tuple[dict[str, float], bool]]
    published: Mapping[str, float | str] = {}
    gated: bool = True


def settled(rule: Rule, e: Evidence) -> Line:
    try:
        for role in rule.roles:
            if role not in e.per_byte and role not in e.refused:
                raise Missing(f"{role} is not among those that were trained to the end")
            if e.per_byte.get(role, 0.0) > GATE:
                raise Missing(
                    f"{role} is at {e.per_byte[role]:.2f} nats per byte at the trained length; "
                    f"above {GATE:g} longer texts tell nothing"
                )
        values, passed = rule.judge(e)
    except Missing as reason:
        return Line(rule.name, rule.condition, {}, None, str(reason), rule.published, rule.gated)
    return Line(rule.name, rule.condition, values, passed, "", rule.published, rule.gated)


def at(curves: Mapping[str, Mapping[int, float]], role: str, k: int) -> float:
    """What a role has at k. Raises Missing where it was not read."""
    if k not in curves.get(role, {}):
        raise Missing(f"{role} was not read at {k} times the trained length")
    return curves[role][k]


def sinusoidal(e: Evidence) -> tuple[dict[str, float], bool]:
    two, last = at(e.ratios, "sinusoidal", 2), at(e.ratios, "sinusoidal", 16)
    curve = [x for _, x in sorted(e.ratios["sinusoidal"].items())]
    rising = all(a < b for a, b in pairwise(curve))
    return told(e, "sinusoidal"), two > 1.15 and last > 2 and rising


def learned(e: Evidence) -> tuple[dict[str, float], bool]:
    beyond = [k for k in e.ratios.get("learned", {}) if k > 1]
    return {f"r({k})": e.ratios["learned"][k] for k in beyond}, not beyond and bool(e.refused.get("learned"))


def rope(e: Evidence) -> tuple[dict[str, float], bool]:
    four, last = at(e.ratios, "RoPE", 4), at(e.ratios, "RoPE", 16)
    return told(e, "RoPE"), four > 1.05 and last > four and last < at(e.ratios, "sinusoidal", 16)


def t5(e: Evidence) -> tuple[dict[str, float], bool]:
    last, curve = at(e.ratios, "T5", 16), e.ratios["T5"]
    lowest = min(curve, key=curve.__getitem__)
    return told(e, "T5"), lowest in (2, 4) and at(e.ratios, "ALiBi", 16) < last < at(e.ratios, "RoPE", 16)


def alibi(e: Evidence) -> tuple[dict[str, float], bool]:
    falling = all(at(e.ratios, "ALiBi", k) <= 1 for k in (2, 4, 8, 16))
    far = [at(e.ratios, "ALiBi", k) for k in (4, 8, 16)]
    spread = max(far) / min(far) - 1
    return {**told(e, "ALiBi"), "spread": spread}, falling and spread <= FLAT


def alibi_fixed(e: Evidence) -> tuple[dict[str, float], bool]:
    first = at(e.fixed, "ALiBi", 1)
    moved = {f"change({k})": at(e.fixed, "ALiBi", k) - first for k in (2, 4, 8, 16)}
    return moved, max(abs(x) for x in moved.values()) <= NATS


def near(role: str) -> Callable[[Evidence], tuple[dict[str, float], bool]]:
    return lambda e: (told(e, role), at(e.ratios, role, 16) <= 1.05)


def nope(e: Evidence) -> tuple[dict[str, float], bool]:
    return told(e, "NoPE"), at(e.ratios, "NoPE", 2) < at(e.ratios, "sinusoidal", 2)


def ranking(e: Evidence) -> tuple[dict[str, float], bool]:
    there = [role for role in ORDER if 4 in e.losses.get(role, {}) and e.per_byte[role] <= GATE]
    found = spearman([ORDER[r] for r in there], [e.losses[r][4] for r in there])
    return {"correlation": found} | {r: e.losses[r][4] for r in there}, found >= RANKS


def pair(lower: str, upper: str, k: int) -> Callable[[Evidence], tuple[dict[str, float], bool]]:
    """Whether `upper` loses more: beyond the interval, and by 0.03 nats or over three seeds."""

    def judge(e: Evidence) -> tuple[dict[str, float], bool]:
        for role in (lower, upper):
            at(e.losses, role, k)
        d = e.difference(upper, lower, k)
        if d is None or d.low is None or d.high is None:
            raise Missing("no seed, or too few tokens, that both have for an interval")
        values = {"difference": d.loss, "low": d.low, "high": d.high, "seeds": float(d.seeds)}
        return values, d.low > 0 and (d.loss >= NATS or d.seeds >= SEEDS)

    return judge


def told(e: Evidence, role: str) -> dict[str, float]:
    """All ratios of a role."""
    return {f"r({k})": x for k, x in sorted(e.ratios[role].items()) if k > 1}


def rules() -> Iterator[Rule]:
    """The lines, in their order."""
    known = published.ratios
    text = "r(2) > 1.15, r(16) > 2, and every r above the one before"
    yield Rule("sinusoidal explodes at once", text, ("sinusoidal",), sinusoidal, known("sinusoidal"))
    yield Rule("learned has nothing beyond its table", "no reading beyond the trained length", ("learned",), learned)
    text = "r(4) > 1.05, r(16) > r(4), r(16) below that of sinusoidal"
    yield Rule("RoPE climbs, later and less", text, ("RoPE", "sinusoidal"), rope, known("RoPE"))
    text = "lowest at 2 or 4 times, r(16) between those of ALiBi and RoPE"
    yield Rule("T5 gains, then climbs", text, ("T5", "ALiBi", "RoPE"), t5, known("T5"))
    text = f"r(k) <= 1 for k = 2 to 16, and within {100 * FLAT:g} % of each other for k = 4 to 16"
    yield Rule("ALiBi falls, then is flat", text, ("ALiBi",), alibi, known("ALiBi"))
    text = f"within {NATS:g} nats of the trained length, for the same last tokens after ever more context"
    shown = {"512": 17.98, "1024": 17.92, "2048": 18.28, "3072": 18.30, "what": "perplexity, stride 1, Table 13"}
    yield Rule("ALiBi's gain vanishes for fixed targets", text, ("ALiBi",), alibi_fixed, shown)
    for role in ("KERPLE", "FIRE"):
        yield Rule(f"{role} stays near ALiBi", "r(16) <= 1.05", (role,), near(role))
    text = "r(2) below that of sinusoidal"
    yield Rule("NoPE lies in between", text, ("NoPE", "sinusoidal"), nope, gated=False)
    four = ("ALiBi", "T5", "RoPE", "sinusoidal")
    text = f"rank correlation of the losses at 4 times with ALiBi = KERPLE = FIRE < T5 < RoPE < sinusoidal >= {RANKS:g}"
    yield Rule("the order is the published one", text, four, ranking)
    for k in (4, 16):
        for lower, upper in pairwise(four):
            text = f"the difference is above 0 with its 95 % interval, and at least {NATS:g} nats or over {SEEDS} seeds"
            yield Rule(f"{lower} below {upper} at {k} times", text, (lower, upper), pair(lower, upper, k))


RULES = tuple(rules())
