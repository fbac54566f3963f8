from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.reason.answers import choice, number, plain_number, plain_words, words

NUMBERS = {
    "The answer is 12. So THE ANSWER IS: 1,234 apples and 7 pears.": "1234",
    "The answer is 5.\nThen 99 more.": "5",
    "so the answer is $-0.50.": "-0.5",
    "the answer is about\n5 or #### 6 of 7": "6",
    "Working 1 + 2\n#### 3,000\n4": "3000",
    "#### none \\boxed{\\frac{14}{2}} or 9": "14",
    "Therefore \\boxed{x = {42}} and 7": "42",
    "3 plus 4 makes 7": "7",
    "it is \u221212": "-12",
    "007": "7",
    "-0": "0",
    "-0.00": "0",
    "1.50": "1.5",
    "The answer is \u0664\u0662.": "42",
    "The answer is unclear, out of 8.": "8",
    "9" * 60: "9" * 60,
}


@pytest.mark.parametrize("text", NUMBERS)
def test_the_number_that_is_meant(text: str) -> None:
    assert number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", ["no number", "", "the answer is", "####", "\\boxed{", "\\boxed{}}{"])
def test_no_number(text: str) -> None:
    assert number(text) is None


def test_the_last_number_counts_only_where_it_may() -> None:
    assert number("3 plus 4 makes 7", fallback_last_number=False) is None
    assert number("#### 7 of 8", fallback_last_number=False) == "7"


WORDS = {
    'The answer is "NK".': "nk",
    "The answer is: ry\nand so on": "ry",
    "The answer is **Ry**!": "ry",
    "The answer is wrong. The answer is right?!": "right",
    "#### Paris.": "paris",
    "\\boxed{Rome}": "rome",
    "ry": None,
    "The answer is ...": None,
}


@pytest.mark.parametrize("text", WORDS)
def test_the_words_that_are_meant(text: str) -> None:
    assert words(text) == WORDS[text]


CHOICES = {
    "A or B, but the answer is (C).": "C",
    "The answer is D": "D",
    "the answer is A, not (B)": "B",
    "(E) I think": "E",
    "Bananas and CABS": None,
    "F": None,
    "the answer is unclear: B": "B",
    "the answer is 5\nB": "B",
}


@pytest.mark.parametrize("text", CHOICES)
def test_the_choice_that_is_meant(text: str) -> None:
    assert choice(text) == CHOICES[text]


PIECES = ["the answer is", "The Answer Is:", "####", "\\boxed{", "}", "{", "\n", " ", "-", "\u2212", "$", "%", ",", "."]
texts = st.lists(st.sampled_from([*PIECES, "0", "07", "12", "1,0", "A", "(B)", '"', "x"]), max_size=14).map("".join)


@given(st.one_of(st.text(), texts))
def test_any_text_has_at_most_an_answer_in_normal_form(text: str) -> None:
    found = number(text)
    if found is not None:
        assert plain_number(found) == found
        assert Decimal(found).is_finite()
    said = words(text)
    assert said is None or (said and plain_words(said) == said)
    assert choice(text) in (None, "A", "B", "C", "D", "E")
    # nothing depends on earlier calls
    assert (number(text), words(text)) == (found, said)


@given(st.one_of(st.text(), texts))
def test_normal_forms_are_their_own(text: str) -> None:
    for plain in (plain_number, plain_words):
        assert plain(plain(text)) == plain(text)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=6), st.sampled_from(["{}", "${}", "{} %", "{}.", "-{}"])
)
def test_a_number_keeps_its_value_exactly(value: Decimal, dress: str) -> None:
    text = dress.format(f"{abs(value):,f}")
    wanted = -abs(value) if text.startswith("-") else abs(value)
    assert Decimal(plain_number(text)) == wanted
    found = plain_number(text)
    assert not found.endswith(".")
    assert "." not in found or not found.endswith("0")
    assert found != "-0"


@given(st.integers(), st.integers(0, 30))
def test_leading_zeros_and_groups_change_nothing(value: int, zeros: int) -> None:
    written = f"{'-' if value < 0 else ''}{'0' * zeros}{abs(value)}"
    assert plain_number(written) == str(value) == plain_number(f"{value:,}")
    assert number(f"The answer is {value:,}.") == str(value)


def test_thousands_of_digits_are_exact() -> None:
    assert number(f"The answer is 00{'7' * 9000}.") == "7" * 9000
