"""Retrieval on a trunk of cached keys from which questions branch: named keys, and the classical passkey.

The classical form is Mohtashami & Jaggi 2023, arXiv:2305.16300; many named keys in one document follow the line
retrieval of long-context suites (RULER's multi-key needles, arXiv:2404.06654).  Answers are teacher-forced: right if
the model's first choice is the answer's token at each of its tokens, which is greedy decoding with an exact match.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.evaluate.forward import Trunk
from ropewalk.evaluate.tasks.names import key_names

Tokenize = Callable[[str], list[int]]
GRID = 8  # lengths and depths of a grid
BATCH = 512  # tokens of questions in one call
SPARSE = 48  # tokens that a key line and a little text around it need


class Question(NamedTuple):
    """What is asked after a prefix of `length` tokens, and what counts as right."""

    length: int
    depth: float  # where the key lies, as a share of the length
    ask: Tensor  # Int[t]
    answer: Tensor  # Int[t]


class Answer(NamedTuple):
    """One question and whether the model found the key."""

    length: int
    depth: float
    position: int  # of the key, in tokens
    found: bool


class Key(NamedTuple):
    """A key line in a document."""

    position: int
    line: list[int]
    ask: list[int]
    answer: list[int]


@dataclass(frozen=True)
class NamedKeys:
    """Many keys in one document, each under a name of its own; at each of eight lengths, each depth is asked for.

    One pass over the document fills the whole grid.
    """

    length: int
    per_cell: int = 3  # questions in a cell of the grid, where its stretch of text holds as many keys
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.length >= GRID * SPARSE, "NamedKeys.length", f"at least {GRID * SPARSE}", self.length)
        require(self.per_cell > 0, "NamedKeys.per_cell", "positive", self.per_cell)

    @property
    def spacing(self) -> int:
        """Tokens from one key to the next: eight keys in the shortest length, or as many as there is room for."""
        return max(self.length // GRID**2, SPARSE)

    def lengths(self) -> list[int]:
        """The lengths at which questions branch."""
        return [self.length * (i + 1) // GRID for i in range(GRID)]

    def keys(self, tokenize: Tokenize) -> list[Key]:
        """The key lines in the order of the text, each said twice."""
        rng = random.Random(self.seed)
        count = self.length // self.spacing
        keys: list[Key] = []
        end = 0
        for i, name in enumerate(key_names(count, rng)):
            value = str(rng.randrange(10000, 100000))
            line = tokenize(f"\n{name}: {value}. {name}: {value}.\n")
            # a tokenizer of characters makes lines that are longer than the space between two
            place = max(i * self.spacing + self.spacing // 2, end)
            end = place + len(line)
            keys.append(Key(place, line, tokenize(f"\n{name}:"), tokenize(f" {value}")))
        return keys

    def document(self, keys: Sequence[Key], haystack: Sequence[int]) -> Tensor:
        """The haystack with the key lines laid in, Int[length]."""
        out: list[int] = []
        used = 0
        for key in keys:
            take = key.position - len(out)
            out += [*haystack[used : used + take], *key.line]
            used += take
        out += haystack[used : used + self.length - len(out)]
        require(len(out) >= self.length, "NamedKeys.haystack", f"at least {self.length} tokens", len(haystack))
        return torch.tensor(out[: self.length])

    def questions(self, keys: Sequence[Key], length: int) -> list[tuple[Key, Question]]:
        """Up to `per_cell` keys from each eighth of the first `length` tokens."""
        rng = random.Random(self.seed + length)
        chosen = []
        for cell in range(GRID):
            start, end = length * cell // GRID, length * (cell + 1) // GRID
            here = [k for k in keys if start <= k.position and k.position + len(k.line) <= end]
            for key in sorted(rng.sample(here, min(self.per_cell, len(here)))):
                depth = (cell + 0.5) / GRID
                chosen.append((key, Question(length, depth, torch.tensor(key.ask), torch.tensor(key.answer))))
        return chosen


def ask_named_keys(
    trunk: Trunk, task: NamedKeys, tokenize: Tokenize, haystack: Sequence[int], skip: Sequence[int] = ()
) -> Iterator[list[Answer]]:
    """Read the document once, on an empty trunk, and yield the answers of each length that is not in `skip`."""
    keys = task.keys(tokenize)
    document = task.document(keys, haystack)
    for length in task.lengths():
        if length in skip:
            continue
        for _ in trunk.read(document[trunk.length : length], scored=False):
            pass
        asked = task.questions(keys, length)
        found = answers(trunk, [q for _, q in asked])
        yield [Answer(length, q.depth, k.position, hit) for (k, q), hit in zip(asked, found, strict=True)]


def answers(trunk: Trunk, questions: Sequence[Question]) -> list[bool]:
    """Whether the model answers each question rightly after the trunk, in calls of bounded size."""
    found: list[bool] = []
    for group in batches(questions):
        kept = [len(q.answer) + 1 for q in group]
        read = [torch.cat((q.ask, q.answer)) for q in group]
        for question, logits in zip(group, trunk.branch(read, kept), strict=True):
            found.append(logits[:-1].argmax(-1).cpu().equal(question.answer))
    return found


def batches(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions in their order, in groups of bounded size; one that is longer is alone."""
    group: list[Question] = []
    for question in questions:
        if group and sum(len(q.ask) + len(q.answer) for q in [*group, question]) > BATCH:
            yield group
            group = []
        group.append(question)
    if group:
        yield group


@dataclass(frozen=True)
class Passkey:
    """One key per document of repeated filler, eight lengths that double and eight depths.

    A depth is an eighth of the length, so keys of different lengths lie at the same places: the filler before a key
    is read once for all, and a document once for all lengths that cut it.  A length counts the filler.
    """

    length: int  # the longest
    seed: int = 0

    def __post_init__(self) -> None:
        shortest = self.length >> (GRID - 1)
        require(shortest >= 128, "Passkey.length", f"at least {128 << (GRID - 1)}", self.length)
        require(shortest % GRID == 0, "Passkey.length", f"divisible by {GRID << (GRID - 1)}", self.length)

    def cells(self) -> dict[int, list[int]]:
        """The lengths asked for at each position of the key."""
        lengths = [self.length >> k for k in reversed(range(GRID))]
        places: dict[int, list[int]] = {}
        for length in lengths:
            for depth in range(GRID):
                places.setdefault(length * depth // GRID, []).append(length)
        return dict(sorted(places.items()))

    def key(self, position: int, tokenize: Tokenize) -> Key:
        """The key of the document whose key lies at `position`."""
        value = random.Random(f"{self.seed} {position}").randrange(1, 50001)
        line = tokenize(f"\nThe pass key is {value}. Remember it. {value} is the pass key.\n")
        return Key(position, line, tokenize("\nWhat is the pass key? The pass key is"), tokenize(f" {value}"))

    def tokens(self) -> tuple[int, int]:
        """Tokens read on the shared trunk, and one document at a time; questions are left out of both."""
        cells = self.cells()
        shared = max(cells) + sum(max(lengths) - position for position, lengths in cells.items())
        return shared, sum(sum(lengths) for lengths in cells.values())


def filler(tokenize: Tokenize, length: int) -> list[int]:
    """`length` tokens of the sentences that the classical task repeats."""
    line = tokenize(" The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.")
    return (line * (length // len(line) + 1))[:length]


def passkey_prompt(key: Key, hay: Sequence[int], length: int) -> list[int]:
    """One document of `length` tokens of filler with the key line laid in, before the question."""
    return [*hay[: key.position], *key.line, *hay[key.position : length]]


def ask_passkey(trunk: Trunk, task: Passkey, tokenize: Tokenize, skip: Sequence[int] = ()) -> Iterator[list[Answer]]:
    """Yield the answers of each key position that is not in `skip`, all lengths on one empty trunk of filler."""
    intro = tokenize("There is an important piece of information hidden in a lot of irrelevant text. Find it.\n")
    hay = [*intro, *filler(tokenize, task.length)][: task.length]
    for position, lengths in task.cells().items():
        if position in skip:
            continue
        for _ in trunk.read(torch.tensor(hay[trunk.length : position]), scored=False):
            pass
        key = task.key(position, tokenize)
        out = []
        for length in lengths:
            whole = torch.tensor(passkey_prompt(key, hay, length))
            for _ in trunk.read(whole[trunk.length :], scored=False):
                pass
            question = Question(length, position / length, torch.tensor(key.ask), torch.tensor(key.answer))
            out.append(Answer(length, position / length, position, answers(trunk, [question])[0]))
        trunk.rewind(position)
        yield out
