"""Problems of growing length with one right answer, and the worked examples that go before them.

Every answer is worked out in whole numbers or letter by letter, and every problem has a right rationale in the manner
of its exemplars, which are shorter than the longest problems: what is measured is how far the manner carries.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ropewalk.errors import require
from ropewalk.evaluate.tasks.names import FIRST
from ropewalk.lab.addition import Sum, chance, held_out
from ropewalk.reason.exemplars import Exemplar

SHOWN_SUMS = ((17, 25), (38, 61), (54, 78), (86, 47), (120, 364), (258, 137), (475, 368), (596, 804))
SHOWN_WORDS = ("Amber Misty", "Jolly Cedar", "Vivid Topaz", "Lucky Iron", "Maple Rapid", "Happy Quartz")
MOST_WORDS = 8


@dataclass(frozen=True)
class Problem:
    """One question and its right answer in normal form."""

    length: int  # in the unit of its task
    index: int  # among those of its length
    question: str
    rationale: str
    answer: str
    about: dict[str, Any]

    def exemplar(self) -> Exemplar:
        return Exemplar(self.question, self.rationale, self.answer)


class Task(NamedTuple):
    """Problems of one kind."""

    name: str
    unit: str  # of a length
    kind: str  # of an answer: "number", "words" or "choice"
    lengths: tuple[int, ...]  # where nothing is said
    exemplars: list[Exemplar]
    shown: int  # the length of the longest exemplar
    chance: Callable[[int], float]  # how often a guess among all possible answers of a length is right
    make: Callable[[int, int, int], list[Problem]]  # of a length, so many, with a seed: different ones


def problems(task: Task, lengths: Sequence[int], count: int, seed: int) -> list[Problem]:
    """So many problems of every length, or fewer where there are no more; the same whatever else is asked for."""
    return [problem for length in lengths for problem in task.make(length, count, seed)]


def addition() -> Task:
    """Sums of two numbers of n digits, worked out from the right."""
    shown = [added(Sum(a, b, len(str(a))), 0).exemplar() for a, b in SHOWN_SUMS]
    return Task("addition", "digits", "number", (2, 4, 6), shown, 3, chance, sums)


def sums(digits: int, count: int, seed: int) -> list[Problem]:
    """Different sums, none of them shown; of one digit there are but 20."""
    require(1 <= digits <= 100, "--lengths of addition", "from 1 to 100 digits", digits)
    found = [s for s in held_out(digits, count + len(SHOWN_SUMS), seed) if (s.a, s.b) not in SHOWN_SUMS]
    return [added(s, i) for i, s in enumerate(found[:count])]


def added(asked: Sum, index: int) -> Problem:
    """A sum with its steps."""
    steps, columns = list[str](), asked.columns
    for i, (one, other, carry) in enumerate(columns):
        total, last = one + other + carry, i + 1 == len(columns)
        said = f"{one} + {other}{f' + {carry}' if carry else ''} = {total}"
        kept = f"write {total}" if last else f"write {total % 10}" + (", carry 1" if total > 9 else "")
        steps.append(f"{said}, {kept}.")
    rationale = f"Add digit by digit from the right. {' '.join(steps)} That makes {asked.answer}."
    about = {"a": asked.a, "b": asked.b, "chain": asked.chain}
    return Problem(asked.digits, index, f"What is {asked.a} + {asked.b}?", rationale, str(asked.answer), about)


def last_letter() -> Task:
    """The last letters of n words, put together."""
    shown = [lettered(words.split(), 0).exemplar() for words in SHOWN_WORDS]
    return Task("last-letter", "words", "words", (2, 4, 8), shown, 2, lambda n: 26.0**-n, letters)


def letters(count_of_words: int, count: int, seed: int) -> list[Problem]:
    """Different words in every problem, none of which an exemplar shows."""
    require(2 <= count_of_words <= MOST_WORDS, "--lengths of last-letter", f"from 2 to {MOST_WORDS}", count_of_words)
    fresh = [word for word in FIRST if word not in " ".join(SHOWN_WORDS).split()]
    draw, found = random.Random(f"{seed} {count_of_words}"), dict[tuple[str, ...], None]()
    while len(found) < count:
        found[tuple(draw.sample(fresh, count_of_words))] = None
    return [lettered(words, i) for i, words in enumerate(found)]


def lettered(words: Sequence[str], index: int) -> Problem:
    """Words with their last letters."""
    joined = "".join(word[-1] for word in words)
    steps = " ".join(f'"{word}" ends in "{word[-1]}".' for word in words)
    question = f'Which letters do the words "{" ".join(words)}" end in? Put them together.'
    return Problem(len(words), index, question, f'{steps} Together that is "{joined}".', joined, {})
