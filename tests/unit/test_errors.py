"""errors.py: one line that names field, rule and value."""

from dataclasses import dataclass

import pytest

from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError, did_you_mean, require, require_number


@dataclass(frozen=True)
class Box:
    width: object


def test_a_config_error_is_a_value_error_and_both_kinds_are_ours() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, RopewalkError)
    assert issubclass(UnsupportedError, RopewalkError)


def test_require_says_field_rule_and_value() -> None:
    require(True, "Box.width", "even", 2)
    with pytest.raises(ConfigError, match=r"^Box.width must be even, got 3$"):
        require(False, "Box.width", "even", 3)


@pytest.mark.parametrize("width", [2, 2.0, 3.5, 5])
def test_numbers_inside_the_bounds_pass(width: float) -> None:
    require_number(Box(width), "width", above=1, at_most=5)


@pytest.mark.parametrize(
    "width", [1, 5.01, -2, "2", None, True, [2], float("nan"), float("inf"), -float("inf"), 10**400, 2j]
)
def test_anything_else_is_refused(width: object) -> None:
    with pytest.raises(ConfigError, match=r"^Box.width must be a number above 1 and of at most 5, got "):
        require_number(Box(width), "width", above=1, at_most=5)


def test_a_whole_number_is_an_int() -> None:
    require_number(Box(0), "width", at_least=0, whole=True)
    for width in (1.0, True, -1):
        with pytest.raises(ConfigError, match=r"^Box.width must be a whole number of at least 0, got "):
            require_number(Box(width), "width", at_least=0, whole=True)


def test_the_nearest_word_is_suggested_and_a_far_one_is_not() -> None:
    assert did_you_mean("Yarnn", ["Linear", "Yarn"]) == "; did you mean 'Yarn'?"
    assert did_you_mean("zzz", ["Linear", "Yarn"]) == ""
