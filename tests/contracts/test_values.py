"""Encodings and scalings are values: frozen, hashable, printed so that they can be read back, and checked."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest

import ropewalk as rw
from ropewalk import remaps, scalings
from ropewalk.encodings import registry as encodings
from ropewalk.notation import classes, sample
from ropewalk.sites import Biases, Embeds, Mixes, Rotates
from ropewalk.written import short

SITES = (Embeds, Rotates, Biases, Mixes)
KINDS = [*classes(encodings), *classes(scalings), *classes(remaps)]
every = pytest.mark.parametrize("encoding", rw.exported(), ids=short)


def inside(value: Any) -> set[type]:
    """The classes of every dataclass that the value contains."""
    if isinstance(value, tuple | list):
        return set().union(*map(inside, value))
    if not is_dataclass(value):
        return set()
    return {type(value)}.union(*(inside(getattr(value, f.name)) for f in fields(value)))


def test_exported_shows_every_encoding_and_every_scaling_and_the_package_names_them() -> None:
    assert KINDS
    assert {*classes(encodings), *classes(scalings)} <= inside(rw.exported())
    assert [k.__name__ for k in KINDS if getattr(rw, k.__name__, None) is not k] == []


@every
def test_the_repr_reads_back(encoding: Any) -> None:
    assert rw.parse(repr(encoding)) == encoding
    assert rw.parse(short(encoding)) == encoding
    assert repr(rw.parse(short(encoding))) == repr(encoding)


@every
def test_the_repr_still_reads_back_once_the_length_is_settled(encoding: Any) -> None:
    settled = rw.for_length(encoding, 1000)
    assert rw.parse(repr(settled)) == settled
    assert rw.for_length(settled, 77) == settled


@every
def test_equal_by_content_hashable_and_frozen(encoding: Any) -> None:
    twin = replace(encoding)
    assert twin == encoding
    assert twin is not encoding
    assert len({encoding, twin}) == 1
    with pytest.raises(FrozenInstanceError):
        setattr(encoding, fields(encoding)[0].name, 1)


@every
def test_has_a_site(encoding: Any) -> None:
    assert any(isinstance(encoding, site) for site in SITES)


@pytest.mark.parametrize("kind", classes(scalings))
def test_a_scaling_bends_a_spectrum_or_settles_to_one_that_does(kind: type) -> None:
    rule = sample(kind)
    assert isinstance(rule, rw.spectrum.Scaling) != isinstance(rule, rw.spectrum.Adapts)
    assert isinstance(rw.for_length(rule, 1000), rw.spectrum.Scaling)


@pytest.mark.parametrize(("kind", "field"), [(k, f.name) for k in KINDS for f in fields(k)])
@pytest.mark.parametrize("wrong", ["x", [1.0], -1, float("nan"), (0,)], ids=repr)
def test_a_wrong_value_is_a_config_error_that_names_the_field(kind: type, field: str, wrong: object) -> None:
    with pytest.raises(rw.ConfigError, match=rf"^{kind.__name__}\.{field} must be .*, got ") as caught:
        replace(sample(kind), **{field: wrong})
    assert "\n" not in str(caught.value)


def test_a_length_dependent_rule_must_be_settled_first() -> None:
    rotary = rw.Rotary(64, scaling=(rw.DynamicNTK(2.0, 2048),))
    with pytest.raises(rw.ConfigError, match=r"Rotary.scaling must be settled by for_length\(encoding, length\) first"):
        rotary.spectrum()
    assert rw.for_length(rotary, 4096).scaling == (rw.NTK(3.0),)


def test_divisors_must_be_as_many_as_the_pairs() -> None:
    with pytest.raises(rw.ConfigError, match=r"Rescale.factors must be 4 numbers, one per pair, got \(1.0, 2.0\)"):
        rw.Rotary(8, scaling=(rw.Rescale((1.0, 2.0)),)).spectrum()
