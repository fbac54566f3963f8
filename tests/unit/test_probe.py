"""Derived properties against a table written by hand, and encodings that are broken on purpose."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.attention.trial import Trial, held, reach, spread
from ropewalk.probe import SHIFTS, probe, relative
from ropewalk.sites import OfDistance, Weights

# encoding | site | relative | norm | keys | learned | last position | linear | kernel | constant on equal tokens
TABLE = """
Sinusoidal(16)               | embed    | no  | -       | mapped | 0     | any  | yes | sdpa           | no
Learned(16, 64)              | embed    | no  | -       | mapped | 1024  | 63   | yes | sdpa           | no
Learned(16, 64, inject="pre_head") | embed | no | -     | mapped | 1024  | 63   | yes | sdpa           | yes
Hierarchical(16, 64)         | embed    | no  | -       | mapped | 1024  | 4095 | yes | sdpa           | no
Recurrent(16)                | embed    | no  | -       | mapped | 288   | any  | yes | sdpa           | no
Floater(16, solver="euler", substeps=1) | embed | no | - | mapped | 304  | any  | yes | sdpa           | no
Floater(16, solver="euler", substeps=1, inject="qkv") | embed | no | - | mapped | 336 | any | yes | sdpa | no
Multiplicative(Learned(16, 64)) | embed | no  | -       | mapped | 1024  | 63   | yes | sdpa           | no
Multiplicative(Sinusoidal(16))  | embed | no  | -       | mapped | 0     | any  | yes | sdpa           | no
ComplexOrder(16)             | embed    | no  | -       | mapped | 32    | any  | yes | sdpa           | no
ConvLeak(16)                 | embed    | no  | -       | mapped | 48    | any  | yes | sdpa           | no
()                           | -        | yes | -       | mapped | 0     | any  | yes | sdpa           | yes
Shaw(16)                     | mix      | yes | -       | raw    | 1056  | any  | no  | reference      | no
TransformerXL(16, 4)         | mix      | yes | -       | raw    | 4224  | any  | no  | reference      | yes
XLNet(16, 4)                 | mix      | yes | -       | raw    | 4416  | any  | no  | reference      | yes
Deberta(16, 4)               | mix      | yes | -       | raw    | 73792 | any  | no  | reference      | yes
Tupe(16, 4, 64)              | mix      | no  | -       | raw    | 12480 | 63   | no  | reference      | yes
Cope(16)                     | mix      | yes | -       | raw    | 1024  | any  | no  | reference      | yes
Urpe(4)                      | mix      | yes | -       | raw    | 1028  | any  | no  | reference      | no
T5(4)                        | bias     | yes | -       | mapped | 128   | any  | no  | strips         | yes
Alibi(4)                     | bias     | yes | -       | mapped | 0     | any  | no  | strips         | yes
KerpleLog(4)                 | bias     | yes | -       | mapped | 8     | any  | no  | strips         | yes
KerplePower(4)               | bias     | yes | -       | mapped | 8     | any  | no  | strips         | yes
Sandwich(4)                  | bias     | yes | -       | mapped | 0     | any  | no  | strips         | yes
Fire(4)                      | bias     | no  | -       | mapped | 198   | any  | no  | blocks         | yes
Swin(4, 8, 8)                | bias     | yes | -       | mapped | 900   | 7    | no  | blocks         | yes
Rotary(16)                   | rotation | yes | kept    | mapped | 0     | any  | yes | rotary + sdpa  | yes
Rotary(8, offset=8)          | rotation | yes | kept    | mapped | 0     | any  | yes | rotary + sdpa  | yes
Rotary(16, sections=(2, 3, 3)) | rotation | yes | kept  | mapped | 0     | any  | yes | rotary + sdpa  | yes
Rotary(16, scaling=(Linear(4),)) | rotation | yes | kept | mapped | 0    | any  | yes | rotary + sdpa  | yes
Rotary(16, scaling=(Yarn(4, 64),)) | rotation | yes | scaled | mapped | 0 | any | yes | rotary + sdpa  | yes
Rotary(8, scaling=(Yarn(4, 64),), offset=8) | rotation | yes | changed | mapped | 0 | any | yes | rotary + sdpa | yes
Rotary(16, scaling=(DynamicNTK(4, 64),)) | rotation | yes | kept | raw | 0 | any | yes | rotary + sdpa | yes
Rotary(16, scaling=(DynamicYarn(64),)) | rotation | yes | scaled | raw | 0 | any | yes | rotary + sdpa | yes
Rotary(16, scaling=(Linear(4),), unscaled=9) | rotation | no | kept | mapped | 0 | any | yes | rotary + sdpa | yes
XPos(16)                     | rotation | yes | changed | mapped | 0     | any  | yes | rotary + blocks| yes
RotaryMixed(16, 4)           | rotation | yes | kept    | mapped | 64    | any  | yes | rotary + sdpa  | yes
LieRotary(16)                | rotation | no  | kept    | mapped | 240   | any  | yes | torch + sdpa   | yes
LieRotary(16, axes=1)        | rotation | yes | kept    | mapped | 120   | any  | yes | torch + sdpa   | yes
CayleyString(16)             | rotation | yes | kept    | mapped | 136   | any  | yes | torch + sdpa   | yes
Clex(16, 5e5, 64)            | rotation | yes | kept    | raw    | 256   | any  | yes | rotary + sdpa  | yes
LogN(64)                     | rotation | no  | changed | mapped | 0     | any  | yes | torch + sdpa   | yes
ReRope(Rotary(16))           | mix      | yes | -       | mapped | 0     | any  | no  | runs           | yes
LeakyReRope(Rotary(16))      | mix      | yes | -       | mapped | 0     | any  | no  | runs           | yes
SelfExtend(Rotary(16), 16)   | mix      | no  | -       | mapped | 0     | any  | no  | runs           | yes
DualChunk(Rotary(16))        | mix      | no  | -       | mapped | 0     | any  | no  | runs           | yes
LMInfinite(Rotary(16), 16)   | mix      | no  | -       | mapped | 0     | any  | no  | runs           | yes
StreamingLLM(Rotary(16), 4, 16) | mix   | no  | -       | mapped | 0     | any  | no  | runs           | yes
ReRope(Rotary(16, scaling=(DynamicNTK(4, 64),))) | mix | yes | - | raw  | 0     | any  | no  | runs           | yes
Adaptive(Rotary(16, scaling=(DynamicNTK(4, 64),))) | mix | no | - | raw | 0    | any  | no  | runs           | yes
(Rotary(16), Alibi(4))       | rotation bias | yes | kept | mapped | 0   | any  | no  | rotary + strips         | yes
(Learned(16, 64), Shaw(16))  | embed mix | no | -       | raw    | 2080  | 63   | no  | reference      | no
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]


def told(p: Any) -> list[str]:
    """Properties in the words of the table."""
    words = {True: "yes", False: "no"}
    last = "any" if p.limit is None else str(p.limit)
    return [
        " ".join(p.sites) or "-",
        words[p.relative],
        p.norm or "-",
        p.keys,
        str(p.learned),
        last,
        words[p.linear],
        p.kernel,
        words[p.constant],
    ]


@pytest.mark.parametrize(("text", "expected"), [(row[0], row[1:]) for row in ROWS], ids=[row[0] for row in ROWS])
def test_properties_are_those_of_the_papers(text: str, expected: list[str]) -> None:
    assert told(probe(rw.parse(text))) == expected


TRENDS = {
    "falls": "Alibi(4) Alibi(12) Alibi(8,max_exponent=4) KerpleLog(4) KerplePower(4) (Alibi(4),KerpleLog(4))",
    "flat": "() Urpe(4) LogN(64) Learned(16,64,inject='pre_head')",
    "mixed": "Rotary(16) XPos(16) Sandwich(4) T5(4) Shaw(16) Sinusoidal(16) ReRope(Rotary(16),4) (Rotary(16),Alibi(4))",
}


@pytest.mark.parametrize(("trend", "text"), [(t, e) for t, line in TRENDS.items() for e in line.split()])
def test_only_penalties_fall_with_distance(trend: str, text: str) -> None:
    p = probe(rw.parse(text))
    assert p.trend == trend
    assert p.monotone == (trend in ("falls", "flat"))


def test_everything_exported_can_be_probed_and_is_the_same_twice() -> None:
    before = torch.random.get_rng_state()
    for encoding in rw.exported():
        found = probe(encoding)
        assert found.sites
        assert found.why
        assert probe(encoding) == found
    assert torch.equal(torch.random.get_rng_state(), before)


@dataclass(frozen=True)
class Rewarding(OfDistance):
    """ALiBi with the sign reversed."""

    heads: int

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        return 0.1 * d.abs().expand(self.heads, -1).float()


@dataclass(frozen=True)
class Stretching:
    """A rotation whose sines are too large."""

    dim: int

    def rotation(self, w: Weights, at: rw.Tokens) -> rw.Rotation:
        turned = rw.Rotary(self.dim).rotation(w, at)
        return turned._replace(sin=1.001 * turned.sin)


@dataclass(frozen=True)
class Floored:
    """A rotary of groups of eight positions."""

    dim: int

    def rotation(self, w: Weights, at: rw.Tokens) -> rw.Rotation:
        return rw.Rotary(self.dim).rotation(w, at._replace(position=at.position // 8))


@dataclass(frozen=True)
class Imprecise:
    """A rotary whose angles are computed in bfloat16."""

    dim: int

    def rotation(self, w: Weights, at: rw.Tokens) -> rw.Rotation:
        angle = rw.Rotary(self.dim).angle(at).bfloat16().float()
        return rw.Rotation(angle.cos(), angle.sin())


@dataclass(frozen=True)
class WeighedByPlace:
    """Leaves logits alone, but weighs values by where they stand."""

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
        return q @ k.mT * q.shape[-1] ** -0.5

    def values(self, w: Weights, a: Tensor, v: Tensor, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
        return (a * (1 + k_at.position[:, None, None, :, 0])) @ v


@dataclass(frozen=True)
class Overflowing(OfDistance):
    """A bias that leaves float32 at some distance."""

    heads: int
    window: int = 100

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        return -(2.0 ** d.double()).expand(self.heads, -1).float()


@dataclass(frozen=True)
class FromTheQuery(OfDistance):
    """Says what distances cost, but asks the query's position as well."""

    heads: int

    def bias(self, w: Weights, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
        return super().bias(w, q_at, k_at) / (1 + q_at.position[:, None])

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        return -d.abs().expand(self.heads, -1).float()


def test_a_penalty_with_the_wrong_sign_is_seen() -> None:
    assert probe(Rewarding(4)).trend == "rises"
    assert not probe(Rewarding(4)).monotone
    assert probe((rw.Rotary(16), Rewarding(4))).trend == "mixed"


def test_a_rotation_that_changes_lengths_is_seen() -> None:
    assert probe(Stretching(16)).norm == "changed"


def test_groups_that_a_round_shift_hides_are_seen() -> None:
    trial = Trial(Floored(16))
    assert relative(trial, (1000,))
    assert not relative(trial, (1009,))
    assert not probe(Floored(16)).relative
    assert relative(Trial(rw.SelfExtend(rw.Rotary(16), 16, 8)), (1000,))


def test_too_few_digits_far_out_are_seen() -> None:
    assert not probe(Imprecise(16)).relative


def test_values_count_as_well_as_logits() -> None:
    found = probe(WeighedByPlace())
    assert (found.relative, found.constant, found.trend) == (False, False, "flat")


def test_a_formula_that_overflows_ends_there() -> None:
    assert probe(Overflowing(4)).limit == 127
    assert probe(rw.Alibi(4)).limit is None


def test_a_bias_that_asks_for_more_than_distance_has_no_table() -> None:
    found = probe(FromTheQuery(4))
    assert (found.kernel, found.relative) == ("blocks", False)
    assert found.why == "the bias of FromTheQuery is not a function of distance alone; it is made in blocks"


@pytest.mark.parametrize("text", ["(Alibi(4), Fire(8))", "(Shaw(16), Rotary(32))", "(Shaw(16), TransformerXL(16, 4))"])
def test_parts_that_do_not_fit_together_are_one_clear_error(text: str) -> None:
    with pytest.raises(rw.ConfigError, match=r"^(encoding|Shaw\.dim) must be ") as caught:
        probe(rw.parse(text))
    assert "\n" not in str(caught.value)


def test_real_sizes_are_tried_at_distances_of_their_own_size() -> None:
    """What happens only beyond a window of thousands of tokens is seen without so many tokens."""
    assert not probe(rw.DualChunk(rw.Rotary(64), 8192, 6144)).relative
    assert not probe(rw.SelfExtend(rw.Rotary(64), 1024, 8)).relative
    assert probe(rw.LeakyReRope(rw.Rotary(64), 2048)).relative
    assert probe(rw.Hierarchical(32, 512)).limit == 512**2 - 1
    assert Trial(rw.ReRope(rw.Rotary(64), 2048)).tokens.position.max() == 4 * 2048


def test_the_reach_is_the_largest_length_and_no_size_of_the_model() -> None:
    assert reach(rw.Rotary(4096, scaling=(rw.Linear(2.0), rw.Yarn(4.0, 2048)))) == 2048
    assert list(held((rw.Rotary(32), rw.Shaw(16)), "dim")) == [32, 16]
    assert reach(()) == 1


@pytest.mark.parametrize(("count", "last"), [(64, 63), (64, 10), (64, 5000), (8, 127), (4, 127), (4, 4), (64, 70)])
def test_places_begin_together_and_end_far_apart(count: int, last: int) -> None:
    places = spread(count, last)
    assert (places[0], places[-1]) == (0, last)
    assert len(places) <= count
    gaps = [b - a for a, b in pairwise(places)]
    assert gaps[0] == 1
    assert min(gaps) == 1
    assert gaps[-1] == max(gaps)


def test_shifts_are_primes() -> None:
    assert {1009, 100_003} <= set(SHIFTS)
    assert all(n % d for n in SHIFTS for d in range(2, int(n**0.5) + 1))
