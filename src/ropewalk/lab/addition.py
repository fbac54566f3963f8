"""Sums of two numbers of the same length, written in several formats, with their exact answers.

Numbers have exactly n digits: their first digit is at least 1, and for n = 1 they go from 0 to 9. All arithmetic is
that of Python's whole numbers. The places of a number are counted from its last digit, which is at place 0.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from ropewalk.errors import require
from ropewalk.lab.answers import Problem

END = "."


class Sum(NamedTuple):
    """Two numbers of n digits that are to be added."""

    a: int
    b: int
    digits: int

    @property
    def answer(self) -> int:
        return self.a + self.b

    @property
    def columns(self) -> list[tuple[int, int, int]]:
        """The digits of both and the carry that comes in, place by place."""
        carry, found = 0, list[tuple[int, int, int]]()
        for one, other in zip(reversed(str(self.a)), reversed(str(self.b)), strict=True):
            found.append((int(one), int(other), carry))
            carry = (int(one) + int(other) + carry) // 10
        return found

    @property
    def chain(self) -> int:
        """The most places that one carry goes into: 1 where it ends at the next place, one more for each sum of nine.

        0 without any carry. A place whose digits make ten or more sends a carry of its own.
        """
        longest = running = 0
        for one, other, _ in self.columns:
            if one + other > 9:
                running = 1
            elif one + other == 9 and running:
                running += 1
            else:
                running = 0
            longest = max(longest, running)
        return longest


class Written(NamedTuple):
    """A sum as a model meets it."""

    problem: Problem
    places: list[int]  # where in the problem's answer the digits of the sum stand, place 0 first


Format = Callable[[Sum, int], Written]


def plain(asked: Sum, longest: int) -> Written:
    """ "57+68=125."""
    answer = str(asked.answer)
    return Written(Problem(f"{asked.a}+{asked.b}=", answer + END), list(reversed(range(len(answer)))))


def backwards(asked: Sum, longest: int) -> Written:
    """ "57+68=521.": the answer begins with its last digit."""
    answer = str(asked.answer)[::-1]
    return Written(Problem(f"{asked.a}+{asked.b}=", answer + END), list(range(len(answer))))


def all_backwards(asked: Sum, longest: int) -> Written:
    """ "75+86=521.": every number begins with its last digit."""
    a, b, answer = (str(x)[::-1] for x in (asked.a, asked.b, asked.answer))
    return Written(Problem(f"{a}+{b}=", answer + END), list(range(len(answer))))


def padded(asked: Sum, longest: int) -> Written:
    """ "0057+0068=00125." for longest = 4: zeros in front up to `longest` digits, and one more in the answer."""
    problem = Problem(f"{asked.a:0{longest}}+{asked.b:0{longest}}=", f"{asked.answer:0{longest + 1}}" + END)
    return Written(problem, list(reversed(range(longest + 1))))


def cot(asked: Sum, longest: int) -> Written:
    """ "57+68=7+8+0=15,5+6+1=12,125.": each place with the carry into it and its sum, then the answer."""
    steps = "".join(f"{one}+{other}+{carry}={one + other + carry}," for one, other, carry in asked.columns)
    answer, start = str(asked.answer), len(steps)
    return Written(
        Problem(f"{asked.a}+{asked.b}=", steps + answer + END), list(reversed(range(start, start + len(answer))))
    )


FORMATS: dict[str, Format] = {
    "plain": plain,
    "reversed": backwards,
    "all reversed": all_backwards,
    "padded": padded,
    "cot": cot,
}


def drawn(digits: int, draw: random.Random) -> Sum:
    """Every pair of numbers of so many digits is equally likely."""
    low, high = bounds(digits)
    return Sum(draw.randint(low, high), draw.randint(low, high), digits)


def bounds(digits: int) -> tuple[int, int]:
    """The least and the largest number of so many digits."""
    require(digits >= 1, "digits", "at least 1", digits)
    return (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1


def held_out(digits: int, wanted: int, seed: int = 0) -> list[Sum]:
    """Different sums for a test, the same whatever else is drawn: so many, but at most a fifth of all there are.

    Of one digit there are but 100, so 20.
    """
    low, high = bounds(digits)
    draw, found = random.Random(f"{seed} {digits}"), dict[Sum, None]()
    while len(found) < min(wanted, (high - low + 1) ** 2 // 5):
        found[drawn(digits, draw)] = None
    return list(found)


def chance(digits: int) -> float:
    """How often a guess among all possible sums of two numbers of so many digits is right; of a digit, 0.1."""
    low, high = bounds(digits)
    return 1 / (2 * (high - low) + 1)
