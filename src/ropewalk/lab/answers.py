"""Problems with one right answer: batches of them, and how much of a test is right.

Letters: B batch, T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ropewalk.evaluate.run import Row
from ropewalk.lab.model import Decoder
from ropewalk.lab.train import IGNORED, Batch, Recipe

VOCABULARY = 128  # one token per character of ASCII
CALL = 8192  # tokens of a call in a test, where a text is not longer
STEP, TOKEN, TEST = 5e-3, 16e-6, 12e-6  # about how many seconds: for a step, and for a token in training and in a test


class Problem(NamedTuple):
    """What is read, and what has to follow it, in ASCII."""

    prompt: str
    answer: str
    stride: int = 1  # of the answer the characters 0, stride, 2 * stride, ... are asked for, and the others given

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


def batch(problems: Sequence[Problem]) -> Batch:
    """Int64[B, T] each: the texts from the left, and the tokens to be predicted, which are those of answers alone."""
    width = max(p.tokens for p in problems) - 1
    ids, targets = torch.zeros(len(problems), width, dtype=torch.int64), torch.full((len(problems), width), IGNORED)
    for row, asked, (prompt, answer, stride) in zip(ids, targets, problems, strict=True):
        text = torch.tensor(list((prompt + answer).encode("ascii")))
        row[: len(text) - 1] = text[:-1]
        asked[len(prompt) - 1 : len(text) - 1 : stride] = text[len(prompt) :: stride]
    return Batch(ids, targets)


def seconds(recipe: Recipe) -> float:
    """About how many a training takes."""
    return recipe.steps * (STEP + recipe.batch * recipe.length * TOKEN)


@torch.inference_mode()
def marks(model: Decoder, problems: Sequence[Problem]) -> Iterator[list[bool]]:
    """Of each problem, which asked tokens are the model's first choice after the right ones before them.

    All of them are right exactly if greedy decoding gives the whole answer. Raises ConfigError where an encoding has
    no place for so many tokens.
    """
    size = max(1, CALL // max(p.tokens for p in problems))
    for start in range(0, len(problems), size):
        some = problems[start : start + size]
        given = batch(some)
        right = model(given.ids).argmax(-1) == given.targets
        for row, asked in zip(right, given.targets, strict=True):
            yield row[asked != IGNORED].tolist()


def trainings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How each training went, without what the summary says elsewhere."""
    fields = ("name", "seed", "outcome", "reason", "steps", "curve", "seconds")
    return [{field: row[field] for field in fields} for row in rows]
