"""Prompts of chain of thought: with exemplars (Wei et al. 2022, arXiv:2201.11903) and without (Kojima et al. 2022,
arXiv:2205.11916), and of the direct answers that both are compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.reason.exemplars import Exemplar

STOP = ("\nQ:",)


class Prompt(NamedTuple):
    """What is read: first a part that is the same for many problems, then what is of this one alone."""

    shared: str
    own: str

    @property
    def text(self) -> str:
        return self.shared + self.own


def few_shot(exemplars: Sequence[Exemplar], question: str) -> Prompt:
    """Worked examples, each with its rationale, then the question."""
    return Prompt(
        "".join(f"Q: {e.question}\nA: {e.rationale} The answer is {e.answer}.\n\n" for e in exemplars), asked(question)
    )


def direct(exemplars: Sequence[Exemplar], question: str) -> Prompt:
    """The same examples without their rationales."""
    return Prompt("".join(f"Q: {e.question}\nA: The answer is {e.answer}.\n\n" for e in exemplars), asked(question))


def zero_shot(question: str) -> Prompt:
    """No example, only the invitation to think."""
    return Prompt("", f"{asked(question)} Let's think step by step.")


def zero_shot_direct(question: str, trigger: str) -> Prompt:
    """No example, and the answer at once."""
    return Prompt("", f"{asked(question)} {trigger}")


def conclusion(first: Prompt, rationale: str, trigger: str) -> Prompt:
    """The second call after `zero_shot`: what was thought, and the words that ask for an answer alone."""
    return Prompt(first.text, f"{rationale}\nTherefore, {trigger[0].lower()}{trigger[1:]}")


def asked(question: str) -> str:
    """The question, and where the answer begins."""
    return f"Q: {question}\nA:"


TRIGGERS = {
    "number": "The answer (arabic numerals) is",
    "words": "The answer is",
    "choice": "Among A through E, the answer is",
}
