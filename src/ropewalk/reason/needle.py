"""Two facts hidden in a text of growing length, and a question that needs both: needle-then-reason.

Facts lie between sentences, as in a needle-in-a-haystack test; the sum of both numbers stands nowhere.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from ropewalk.errors import require
from ropewalk.evaluate.tasks.names import key_names
from ropewalk.evaluate.text import Document
from ropewalk.reason.problems import Problem, Task

LEAST = 96  # tokens of a text: both facts and a few sentences
ENOUGH = 40_000  # tokens of sentences to choose from
LONGEST = 60  # tokens of a sentence
NUMBERS = (11, 89)  # what is hidden
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
SHOWN = (
    ("A light rain fell over the hills. Nobody had closed the shutters. The road was empty.", 0),
    ("Trains came late that winter. The baker opened at five. Snow lay on every roof. A dog barked once.", 1),
    ("The river was high in spring. Boats were tied up in pairs. Children counted them from the wall.", 2),
    ("Letters took a week to arrive. The post office kept them in a drawer. Dust settled on the desk.", 3),
)


class Sentence(NamedTuple):
    """A sentence and how many tokens it has."""

    text: str
    tokens: int


def needle(documents: Iterable[Document], count: Callable[[str], int]) -> Task:
    """Texts of n tokens, as `count` counts them, made of the documents' sentences."""
    sentences = list(collected(documents, count))
    require(sum(s.tokens for s in sentences) >= LEAST, "text", f"prose of at least {LEAST} tokens", len(sentences))
    shown = [example(text, number, count) for text, number in SHOWN]
    longest = max(count(p.question) for p in shown)
    chance = 1 / (2 * (NUMBERS[1] - NUMBERS[0]) + 1)
    make = partial(hidden, sentences, count)
    return Task(
        "needle", "tokens", "number", (256, 512, 1024), [p.exemplar() for p in shown], longest, lambda _: chance, make
    )


def collected(documents: Iterable[Document], count: Callable[[str], int]) -> Iterator[Sentence]:
    """Sentences of prose, of bounded length, until there are enough."""
    total = 0
    for document in documents:
        for paragraph in re.split(r"\n\s*\n", document.content):
            for text in SENTENCE.split(" ".join(paragraph.split())):
                # a table or a line of code is no sentence
                if not re.fullmatch(r"[A-Z][^{}<>|=_]{20,}[.!?]", text):
                    continue
                size = count(f" {text}")
                if size <= LONGEST:
                    total += size
                    yield Sentence(text, size)
        if total >= ENOUGH:
            return


def hidden(
    sentences: list[Sentence], count: Callable[[str], int], length: int, wanted: int, seed: int
) -> list[Problem]:
    """So many texts of at most `length` tokens, each short of it by less than a sentence."""
    require(length >= LEAST, "--lengths of needle", f"at least {LEAST} tokens", length)
    have = sum(s.tokens for s in sentences)
    require(length <= have, "--lengths of needle", f"at most the {have:,} tokens of prose that there are", length)
    return [one(sentences, count, length, i, random.Random(f"{seed} {length} {i}")) for i in range(wanted)]


def one(sentences: list[Sentence], count: Callable[[str], int], length: int, index: int, rng: random.Random) -> Problem:
    """A text that begins at any sentence, both facts at any depth."""
    facts = two_facts(rng)
    budget = length - sum(count(f" {fact.line}") for fact in facts)
    text, start = list[Sentence](), rng.randrange(len(sentences))
    for sentence in [*sentences[start:], *sentences[:start]]:
        if sentence.tokens > budget:
            break
        budget -= sentence.tokens
        text.append(sentence)
    depths = sorted(rng.random() for _ in facts)
    return asked(text, facts, depths, (length, index))


class Fact(NamedTuple):
    """How many windows a place has."""

    place: str
    number: int

    @property
    def line(self) -> str:
        return f"The {self.place} has {self.number} windows."


def two_facts(rng: random.Random) -> list[Fact]:
    """Two places with their numbers."""
    return [Fact(name, rng.randint(*NUMBERS)) for name in key_names(2, rng)]


def example(text: str, number: int, count: Callable[[str], int]) -> Problem:
    """A short text of our own with its facts, as a worked example."""
    sentences = [Sentence(s, count(f" {s}")) for s in SENTENCE.split(text)]
    rng = random.Random(f"example {number}")
    return asked(sentences, two_facts(rng), sorted(rng.random() for _ in range(2)), (0, 0))


def asked(text: list[Sentence], facts: list[Fact], depths: list[float], which: tuple[int, int]) -> Problem:
    """The problem: facts go where a sentence ends, at or before their depth."""
    total, lines = sum(s.tokens for s in text), [s.text for s in text]
    for fact, depth in reversed(list(zip(facts, depths, strict=True))):
        passed = place = 0
        while place < len(text) and passed + text[place].tokens <= depth * total:
            passed += text[place].tokens
            place += 1
        lines.insert(place, fact.line)
    first, second = facts
    question = f"{' '.join(lines)} How many windows do the {first.place} and the {second.place} have together?"
    answer = first.number + second.number
    rationale = f"{first.line} {second.line} {first.number} + {second.number} = {answer}."
    about = {"depths": [round(d, 3) for d in depths], "facts": [fact.line for fact in facts]}
    return Problem(*which, question, rationale, str(answer), about)
