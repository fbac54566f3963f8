"""Retrieval on a trunk against naive greedy generation, cell by cell, and what the two tasks ask for."""

import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.tiny_models import tiny
from ropewalk import ConfigError, Rotary, Yarn
from ropewalk.evaluate.document import attached
from ropewalk.evaluate.forward import Trunk, prefix_attention
from ropewalk.evaluate.tasks import passkey
from ropewalk.evaluate.tasks.names import FIRST, SECOND, key_names
from ropewalk.evaluate.tasks.passkey import (
    BATCH,
    GRID,
    SPARSE,
    Answer,
    Key,
    NamedKeys,
    Passkey,
    Question,
    answers,
    ask_named_keys,
    ask_passkey,
    batches,
    passkey_prompt,
)
from ropewalk.models.attach import attach

VOCABULARY = 211
LENGTH = 1536


def tokenize(text: str) -> list[int]:
    """Words, pairs of digits and other characters as numbers: a key line has 16, few enough for the shortest cells."""
    return [zlib.crc32(part.encode()) % VOCABULARY for part in re.findall(r" ?[A-Za-z]+| ?\d\d?|.|\n", text)]


def characters(text: str) -> list[int]:
    return list(text.encode())


def hay(length: int) -> list[int]:
    return [random.Random(3).randrange(VOCABULARY) for _ in range(length)]


def model_of() -> Any:
    return tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=4096)


class Heard(Trunk):
    """A trunk that remembers what it was given to read."""

    ids: tuple[int, ...] = ()

    def read(self, ids: Tensor, scored: bool = True) -> Iterator[Tensor]:
        self.ids += tuple(ids.tolist())
        return super().read(ids, scored)

    def rewind(self, length: int) -> None:
        self.ids = self.ids[:length]
        super().rewind(length)


class Naive:
    """Stock greedy generation; it replaces half of the answers by what it generates, and half by almost that."""

    def __init__(self, encodings: Any) -> None:
        self.model = model_of()
        attach(self.model, encodings)
        self.model.generation_config.eos_token_id = None
        self.random = random.Random(8)
        self.expected: list[bool] = []
        self.heard: list[tuple[int, ...]] = []

    def generated(self, prompt: Sequence[int], count: int) -> list[int]:
        ids = torch.tensor([list(prompt)])
        mask = torch.ones_like(ids)
        out = self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=count)
        return out[0, ids.shape[1] :].tolist()

    def answers(self, trunk: Heard, questions: Sequence[Question]) -> list[bool]:
        asked = []
        for question in questions:
            prompt = [*trunk.ids, *question.ask.tolist()]
            says = self.generated(prompt, len(question.answer))
            wants = list(says)
            if self.random.random() < 0.5:
                at = self.random.randrange(len(wants))
                wants[at] = (wants[at] + self.random.randrange(1, VOCABULARY)) % VOCABULARY
            asked.append(question._replace(answer=torch.tensor(wants)))
            self.expected.append(says == wants)
            self.heard.append(trunk.ids)
        return answers(trunk, asked)


ENCODINGS = [(Rotary(16),) * 3, (Rotary(16, scaling=(Yarn(4.0, 64),)),) * 3]


@pytest.mark.parametrize(("encodings", "batch"), [(ENCODINGS[0], BATCH), (ENCODINGS[1], 40)], ids=["plain", "yarn"])
def test_every_named_key_is_found_exactly_where_greedy_generation_finds_it(
    encodings: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive, task, model = Naive(encodings), NamedKeys(LENGTH, per_cell=1), model_of()
    monkeypatch.setattr(passkey, "answers", naive.answers)
    monkeypatch.setattr(passkey, "BATCH", batch)
    with attached(model, encodings):
        groups = list(ask_named_keys(Heard(model, 100), task, tokenize, hay(LENGTH)))
    assert [a.found for group in groups for a in group] == naive.expected
    assert 0.2 < sum(naive.expected) / len(naive.expected) < 0.8
    document = task.document(task.keys(tokenize), hay(LENGTH)).tolist()
    asked = [a.length for group in groups for a in group]
    assert [list(heard) for heard in naive.heard] == [document[:n] for n in asked]
    assert set(asked) == set(task.lengths())


def small(length: int) -> Passkey:
    """The grid at lengths that a test can generate after, shorter than the class allows."""
    task = object.__new__(Passkey)
    vars(task).update(length=length, seed=0)
    return task


@pytest.mark.parametrize("encodings", ENCODINGS, ids=["plain", "yarn"])
def test_every_passkey_is_found_exactly_where_greedy_generation_finds_it(
    encodings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive, task, model = Naive(encodings), small(1024), model_of()
    monkeypatch.setattr(passkey, "answers", naive.answers)
    with attached(model, encodings):
        groups = list(ask_passkey(Heard(model, 100), task, tokenize))
    cells = [a for group in groups for a in group]
    assert [a.found for a in cells] == naive.expected
    assert 0.2 < sum(naive.expected) / len(naive.expected) < 0.8
    # the whole grid, each cell after a document of its own
    assert {(a.length, a.position) for a in cells} == {(n, n * d // 8) for n in lengths(1024) for d in range(8)}
    assert len(cells) == GRID * GRID
    for cell, heard in zip(cells, naive.heard, strict=True):
        line = task.key(cell.position, tokenize).line
        assert heard[cell.position : cell.position + len(line)] == tuple(line)
        assert len(heard) == cell.length + len(line)
        assert cell.depth == cell.position / cell.length
    # without their key lines, all documents are beginnings of one filler
    rest = [h[: c.position] + h[c.position - c.length :] for c, h in zip(cells, naive.heard, strict=True)]
    assert all(r == max(rest, key=len)[: len(r)] for r in rest)


def lengths(longest: int) -> list[int]:
    return [longest // 2**k for k in range(8)]


def test_the_longest_passkey_grid_costs_less_than_half_of_its_documents() -> None:
    """Tokens are the same if they stand at the same place behind the same key, or before any."""
    cells = [(n, n * depth // 8) for n in lengths(16384) for depth in range(8)]
    shared = {place: 0 for _, place in cells}
    for n, place in cells:
        shared[place] = max(shared[place], n - place)
    once = max(shared) + sum(shared.values())
    assert Passkey(16384).tokens() == (once, 8 * sum(lengths(16384)))
    assert [round(t / 16384, 1) for t in Passkey(16384).tokens()] == [7.4, 15.9]


def test_the_tokens_that_are_read_are_those_that_were_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        length, tokens = 0, 0

        def read(self, ids: Tensor, scored: bool) -> Iterator[Tensor]:
            self.length += len(ids)
            self.tokens += len(ids)
            return iter(())

        def rewind(self, length: int) -> None:
            self.length = length

    monkeypatch.setattr(passkey, "answers", lambda trunk, questions: [True for _ in questions])
    trunk, task = Counting(), Passkey(16384)
    positions = [group[0].position for group in ask_passkey(trunk, task, tokenize)]  # type: ignore[arg-type]
    key_lines = sum(len(task.key(p, tokenize).line) for p in positions)
    assert trunk.tokens - key_lines == task.tokens()[0]
    trunk, named = Counting(), NamedKeys(16384)
    list(ask_named_keys(trunk, named, tokenize, hay(16384)))  # type: ignore[arg-type]
    assert trunk.tokens == 16384


def test_questions_are_asked_in_calls_of_bounded_size() -> None:
    rng = random.Random(0)
    asked = [Question(9, 0.5, torch.zeros(rng.randrange(1, 200)), torch.zeros(rng.randrange(1, 9))) for _ in range(60)]
    asked.insert(7, Question(9, 0.5, torch.zeros(BATCH + 50), torch.zeros(3)))
    groups = list(batches(asked))
    assert [q for group in groups for q in group] == asked
    sizes = [sum(len(q.ask) + len(q.answer) for q in group) for group in groups]
    assert all(size <= BATCH or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    # none is closed before it is full
    firsts = [len(group[0].ask) + len(group[0].answer) for group in groups[1:]]
    assert all(size + first > BATCH for size, first in zip(sizes, firsts, strict=False))
    assert list(batches([])) == []


def test_a_call_for_all_answers_as_a_call_for_each() -> None:
    model, rng = model_of(), random.Random(1)
    with prefix_attention(model):
        trunk = Trunk(model, 64)
        list(trunk.read(torch.tensor(hay(150))))
        asked = []
        for i in range(24):
            ask = torch.tensor(tokenize(f"\nname {rng.randrange(99)}:"))
            first = trunk.branch([ask], [1])[0].argmax(-1)
            asked.append(Question(150, 0.5, ask, first if i % 2 else (first + 1) % VOCABULARY))
        assert answers(trunk, asked) == [answers(trunk, [q])[0] for q in asked] == [False, True] * 12


def test_what_is_done_already_is_skipped() -> None:
    model = model_of()
    task, grid = NamedKeys(LENGTH), small(512)
    with prefix_attention(model):
        named = list(ask_named_keys(Trunk(model, 90), task, tokenize, hay(LENGTH)))
        rest = list(ask_named_keys(Trunk(model, 90), task, tokenize, hay(LENGTH), skip=task.lengths()[:3]))
        keys = list(ask_passkey(Trunk(model, 90), grid, tokenize))
        places = list(grid.cells())
        later = list(ask_passkey(Trunk(model, 90), grid, tokenize, skip=[*places[:2], *places[5:9]]))
    assert rest == named[3:]
    assert later == [*keys[2:5], *keys[9:]]


def test_a_document_holds_its_keys_where_they_say() -> None:
    task = NamedKeys(16384)
    keys = task.keys(tokenize)
    straw = hay(16384)
    document = task.document(keys, straw)
    assert document.shape == (16384,)
    assert document.dtype == torch.int64
    assert [k.position for k in keys] == [128 + 256 * i for i in range(64)]
    left = document.tolist()
    for key in reversed(keys):
        assert left[key.position : key.position + len(key.line)] == key.line
        del left[key.position : key.position + len(key.line)]
    # what is not a key is the haystack, without a gap
    assert left == straw[: len(left)]


def test_a_key_says_its_name_and_value_twice_and_its_question_fits_the_answer() -> None:
    said: list[str] = []

    def listen(text: str) -> list[int]:
        said.append(text)
        return tokenize(text)

    NamedKeys(16384).keys(listen)
    values = []
    for line, ask, answer in zip(said[::3], said[1::3], said[2::3], strict=True):
        assert line == f"{ask}{answer}. {ask.strip()}{answer}.\n"
        values.append(answer.strip())
    assert all(re.fullmatch(r"[1-9]\d{4}", v) for v in values)
    assert len(values) == len({*said[1::3]}) == 64
    said.clear()
    Passkey(16384).key(512, listen)
    line, ask, answer = said
    assert line.count(answer.strip()) == 2
    assert line.strip().startswith(f"{ask.rpartition('?')[2].strip()}{answer}.")


@pytest.mark.parametrize("length", [GRID * SPARSE, 1000, 4096, 16384, 50000])
@pytest.mark.parametrize("per_cell", [1, 3])
def test_a_key_is_asked_for_once_its_line_is_over(length: int, per_cell: int) -> None:
    task = NamedKeys(length, per_cell)
    keys = task.keys(tokenize)
    document = task.document(keys, hay(length)).tolist()
    assert task.lengths()[-1] == length
    for n in task.lengths():
        asked = task.questions(keys, n)
        assert [k for k, _ in asked] == sorted((k for k, _ in asked), key=lambda k: k.position)
        for key, question in asked:
            assert document[key.position : key.position + len(key.line)] == key.line
            assert key.position + len(key.line) <= n
            assert question.length == n
            assert (question.ask.tolist(), question.answer.tolist()) == (key.ask, key.answer)
            # the whole line lies in the eighth whose middle the depth names
            cell = int(question.depth * GRID)
            assert n * cell // GRID <= key.position
            assert key.position + len(key.line) <= n * (cell + 1) // GRID
        count = Counter(question.depth for _, question in asked)
        assert all(c <= per_cell for c in count.values())
        assert len({key.position for key, _ in asked}) == len(asked)


def test_the_default_grid_asks_in_every_cell() -> None:
    task = NamedKeys(16384)
    keys = task.keys(tokenize)
    depths = {(i + 0.5) / 8 for i in range(8)}
    assert all({q.depth for _, q in task.questions(keys, n)} == depths for n in task.lengths())
    assert [Counter(q.depth for _, q in task.questions(keys, 16384))[d] for d in sorted(depths)] == [3] * 8


def test_long_lines_move_the_keys_instead_of_running_into_each_other() -> None:
    task = NamedKeys(1024)
    keys = task.keys(characters)
    assert min(len(k.line) for k in keys) > task.spacing - 10
    document = task.document(keys, hay(1024)).tolist()
    assert len(document) == 1024
    fits = [k for k in keys if k.position + len(k.line) <= 1024]
    assert len(fits) > 12
    for key in fits:
        assert document[key.position : key.position + len(key.line)] == key.line
    asked = {key.position for n in task.lengths() for key, _ in task.questions(keys, n)}
    assert asked
    assert asked <= {k.position for k in fits}


def test_the_seed_decides() -> None:
    def everything(seed: int) -> tuple[list[Key], list[Any]]:
        task = NamedKeys(4096, per_cell=2, seed=seed)
        keys = task.keys(tokenize)
        asked = [task.questions(keys, n) for n in task.lengths()]
        return keys, [[(k.position, q.depth) for k, q in group] for group in asked]

    assert everything(4) == everything(4)
    assert everything(4)[0] != everything(5)[0]
    assert Passkey(16384, 1).key(7, tokenize) == Passkey(16384, 1).key(7, tokenize)
    assert Passkey(16384, 1).key(7, tokenize) != Passkey(16384, 2).key(7, tokenize)
    assert Passkey(16384, 1).key(7, tokenize).answer != Passkey(16384, 1).key(8, tokenize).answer


def test_no_name_is_given_twice() -> None:
    for word in (*FIRST, *SECOND):
        assert word.isalpha()
    assert len({*FIRST}) == len(FIRST)
    assert len({*SECOND}) == len(SECOND)
    most = len(FIRST) * len(SECOND)
    names = key_names(most, random.Random(0))
    assert len({*names}) == most
    assert key_names(100, random.Random(0)) == names[:100]
    first = [n.split()[0] for n in names[: len(FIRST)]]
    second = [n.split()[1] for n in names[: min(len(FIRST), len(SECOND))]]
    assert len({*first}) == len(first)
    assert len({*second}) == len(second)


def test_a_prompt_is_filler_with_the_line_laid_in() -> None:
    key = Passkey(16384).key(5, tokenize)
    straw = hay(40)
    prompt = passkey_prompt(key, straw, 12)
    assert prompt == [*straw[:5], *key.line, *straw[5:12]]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NamedKeys(GRID * SPARSE - 1), r"NamedKeys\.length must be at least 384, got 383"),
        (lambda: NamedKeys(4096, per_cell=0), r"NamedKeys\.per_cell must be positive, got 0"),
        (lambda: Passkey(16383), r"Passkey\.length must be at least 16384, got 16383"),
        (lambda: Passkey(16384 + 128 * 4), r"Passkey\.length must be divisible by 1024, got 16896"),
        (
            lambda: NamedKeys(1024).document([], hay(1000)),
            r"NamedKeys\.haystack must be at least 1024 tokens, got 1000",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_an_answer_is_a_plain_tuple() -> None:
    """Rows keep answers as lists and make them anew."""
    answer = Answer(1024, 0.5, 512, True)
    assert Answer(*list(answer)) == answer
