"""Strings that hold their answers, a training on answers alone, and what is made of their tests."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import ropewalk as rw
from ropewalk.lab import strings
from ropewalk.lab.answers import VOCABULARY, Problem, batch, marks
from ropewalk.lab.checkpoint import read
from ropewalk.lab.estimates import rate
from ropewalk.lab.jobs import Wanted
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.presets import Entrant
from ropewalk.lab.train import IGNORED, Batch, Recipe, Task, train

TINY = Shape(VOCABULARY, width=8, layers=1, heads=2, hidden=8)


def tiny(folder: Path, encoding: Any = (), steps: int = 6) -> Task:
    return Task(encoding, 0, TINY, Recipe(steps, 4, 20, 1e-2, 2), "strings", folder / "x.safetensors")


def drill(folder: Path, encoding: Any = (), steps: int = 6) -> strings.Drill:
    plan = strings.Plan(length=20, multiples=(1, 2), n=3)
    return strings.Drill("a drill", "an entrant", tiny(folder, encoding, steps), plan)


@pytest.mark.parametrize("length", [4, 5, 20, 160])
def test_a_copy_repeats_its_letters(length: int) -> None:
    prompt, answer, _ = strings.copying(length, random.Random(length))
    assert prompt == f"={answer}="
    assert len(prompt + answer) == length - length % 2
    assert set(answer) <= set(strings.LETTERS)


@pytest.mark.parametrize("length", [5, 9, 10, 14, 15, 20, 160])
def test_a_recall_asks_for_what_follows_a_key(length: int) -> None:
    for seed in range(20):
        prompt, answer, stride = strings.recall(length, random.Random(seed))
        assert len(prompt + answer) == length
        text, *asked = (prompt + answer).split("?")
        pairs = re.findall(r"([A-H])([0-7])", text)
        assert len(pairs) == min(3, length // 5)
        assert re.sub(r"[A-H][0-7]|\.", "", text) == ""
        assert sorted(map(tuple, asked)) == sorted(pairs)
        assert len({key for key, _ in pairs}) == len(pairs)
        assert answer[::stride] == "".join(digit for _, digit in asked)
        assert prompt.endswith("?" + asked[0][0])


def test_keys_are_asked_for_in_any_order() -> None:
    texts = [strings.recall(20, random.Random(seed)) for seed in range(40)]
    first = [p.prompt.index(p.prompt[-1]) for p in texts]
    assert len(set(first)) > 3
    assert {p.prompt[-1] == re.findall("[A-H]", p.prompt)[0] for p in texts} == {True, False}


@pytest.mark.parametrize("length", [8, 9, 20, 160])
def test_a_passkey_is_where_it_is_marked(length: int) -> None:
    found = set()
    for seed in range(20):
        prompt, answer, _ = strings.passkey(length, random.Random(seed))
        assert len(prompt + answer) == length
        match = re.fullmatch(r"(\.*)#([0-7]{3})\.*#", prompt)
        assert match is not None
        assert match[2] == answer
        found.add(len(match[1]))
    assert len(found) == 1 if length == 8 else len(found) > 1


def test_a_test_is_the_same_for_all_and_of_its_length() -> None:
    for task, make in strings.TASKS.items():
        first, again = (strings.problems(task, 40, 5) for _ in range(2))
        assert first == again
        assert len(set(first)) == 5
        assert {p.tokens for p in first} == {40}
        assert make(40, random.Random(1)) not in first


def test_a_batch_asks_for_answers_alone() -> None:
    ids, targets, *_ = batch([Problem("=a=", "ab"), Problem("#", "12"), Problem("?A", "1?B", 2)])
    assert ids.tolist() == [list(b"=a=a"), [*b"#1", 0, 0], list(b"?A1?")]
    no = IGNORED
    assert targets.tolist() == [[no, no, *b"ab"], [*b"12", no, no], [no, ord("1"), no, ord("B")]]


def test_training_strings_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    one, other = drill(tmp_path), drill(tmp_path, rw.Alibi(2))
    assert batch_text(one.batch(3)) == batch_text(other.batch(3))
    assert batch_text(one.batch(3)) != batch_text(one.batch(4))
    seeded = one._replace(task=one.task._replace(seed=1))
    assert batch_text(one.batch(3)) != batch_text(seeded.batch(3))
    widths = [one.batch(step)[0].shape[1] + 1 for step in range(50)]
    assert max(widths) == 20
    assert min(widths) < 20


def batch_text(given: Batch) -> list[str]:
    return [bytes(row).decode() for row in given[0].tolist()]


def greedy(model: Decoder, prompt: str, count: int) -> str:
    text = prompt
    for _ in range(count):
        text += chr(int(model(torch.tensor([list(text.encode())]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_all_marks_are_right_exactly_if_greedy_decoding_gives_the_answer() -> None:
    torch.manual_seed(0)
    # an untrained model says its input again, or what it does say is asked for
    model = Decoder(TINY, rw.Alibi(2))
    said = [greedy(model, prompt, 3) for prompt in ("ab", "=", "..#")]
    asked = [
        Problem("ab", said[0]),
        Problem("=", said[1]),
        Problem("..#", said[2][:2] + "!"),
        Problem("ab", "!" + said[0]),
    ]
    found = list(marks(model, asked))
    assert found[:3] == [[True] * 3, [True] * 3, [True, True, False]]
    assert not found[3][0]
    for problem, right in zip(asked, found, strict=True):
        assert all(right) == (greedy(model, problem.prompt, len(problem.answer)) == problem.answer)


def test_tests_in_several_calls_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Decoder(TINY, ())
    asked = [Problem("x" * n, greedy(model, "x" * n, 1) if n % 3 else "\0") for n in range(1, 12)]
    whole = list(marks(model, asked))
    assert len({tuple(x) for x in whole}) == 2
    monkeypatch.setattr("ropewalk.lab.answers.CALL", 24)
    assert list(marks(model, asked)) == whole


def test_the_loss_is_the_mean_over_answers(tmp_path: Path) -> None:
    task, job = tiny(tmp_path, steps=1), drill(tmp_path)
    model, same = (Decoder(TINY, (), 0) for _ in range(2))
    done = train(task, model, job.batch, lambda _: None)
    ids, targets, *_ = job.batch(0)
    logits = same(ids).detach().double()
    each = [-F.log_softmax(x, -1)[t] for x, t in zip(logits.flatten(0, 1), targets.flatten(), strict=True) if t >= 0]
    assert len(each) < targets.numel()
    assert done.curve == [pytest.approx(float(sum(each)) / len(each), rel=1e-5)]


def stopping(at: int) -> Callable[[int], None]:
    def tell(step: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("at", [2, 5])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, at: int) -> None:
    whole, broken = tiny(tmp_path / "a", rw.KerpleLog(2)), tiny(tmp_path / "b", rw.KerpleLog(2))
    job = drill(tmp_path)
    train(whole, Decoder(TINY, whole.encoding), job.batch, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        train(broken, Decoder(TINY, broken.encoding), job.batch, stopping(at), every=1)
    assert read(broken.file).step == at - 1
    steps = list[int]()
    done = train(broken, Decoder(TINY, broken.encoding, 5), job.batch, steps.append)
    assert steps == list(range(at, 7))
    assert not done.reason
    one, other = read(whole.file), read(broken.file)
    assert one.step == other.step == 6
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_a_training_that_diverges_is_told_and_has_no_test(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    job = drill(tmp_path)._replace(task=task._replace(recipe=Recipe(6, 4, 20, 1e38, 0)))
    row = job.run(lambda _: None)
    assert row["outcome"] == "stopped"
    assert row["reason"] == "a loss that is nan in step 2 of 6"
    assert row["cells"] == []
    assert strings.summarise([row])["tasks"]["copying"][0]["cells"] == []


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.inf))
    task, model = tiny(tmp_path), Decoder(TINY, ())
    done = train(task, model, drill(tmp_path).batch, lambda _: None)
    assert (done.reason, done.curve) == ("a gradient that is inf in step 1 of 6", [])
    kept, fresh = read(task.file), Decoder(TINY, ()).state_dict()
    assert kept.step == 0
    assert all(torch.equal(kept.tensors[f"model.{name}"], x) for name, x in fresh.items())


def test_a_row_tells_every_task_at_every_length(tmp_path: Path) -> None:
    heard = list[float]()
    job = drill(tmp_path, rw.Learned(8, 20))
    row = job.run(heard.append)
    assert sum(heard) == pytest.approx(job.cost)
    assert (row["kind"], row["name"], row["seed"], row["outcome"]) == ("strings", "a drill", 0, "finished")
    assert (tmp_path / "x.safetensors").is_file()
    assert [(c["task"], c["length"]) for c in row["cells"]] == [
        (task, length) for length in (20, 40) for task in ("copying", "recall", "passkey")
    ]
    for cell in row["cells"]:
        if cell["multiple"] == 2:
            assert "from 0 to 19" in cell["reason"]
        else:
            assert cell["tokens"] == 3 * {"copying": 9, "recall": 3, "passkey": 3}[cell["task"]]
            assert 3 * cell["right"] <= 3 * cell["right_tokens"] <= 3 * cell["tokens"]


def test_an_answer_counts_whole_and_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [[True, True], [True, False], [False, False], [True, True]]
    monkeypatch.setattr(strings, "marks", lambda model, asked: iter(given))
    assert strings.tested(Decoder(TINY, ()), []) == {"n": 4, "right": 2, "tokens": 8, "right_tokens": 5}


def row_of(seed: int, right: int, right_tokens: int) -> dict[str, Any]:
    cell = {"task": "copying", "multiple": 2, "length": 40, "n": 10, "tokens": 90}
    cells = [
        cell | {"right": right, "right_tokens": right_tokens},
        {"task": "recall", "multiple": 4, "length": 80, "reason": "why"},
    ]
    row = {"entrant": "E", "encoding": "()", "name": f"strings E seed {seed}", "seed": seed, "cells": cells}
    return row | {
        "recipe": {"length": 20},
        "outcome": "finished",
        "reason": "",
        "steps": 1,
        "curve": [],
        "seconds": 1.0,
    }


def test_a_summary_holds_means_over_seeds() -> None:
    found = strings.summarise([row_of(0, 4, 45), row_of(1, 8, 81)])
    assert found["trained_length"] == 20
    assert found["tasks"]["recall"] == [
        {"name": "E", "encoding": "()", "cells": [{"multiple": 4, "length": 80, "reason": "why"}]}
    ]
    (cell,) = found["tasks"]["copying"][0]["cells"]
    assert (cell["multiple"], cell["length"]) == (2, 40)
    assert cell["exact"]["each"] == [0.4, 0.8]
    assert cell["exact"]["rate"] == pytest.approx(0.6)
    assert cell["token"]["each"] == [0.5, 0.9]
    assert [t["seed"] for t in found["trainings"]] == [0, 1]


def test_an_interval_is_the_wider_of_two() -> None:
    # Wilson's interval of 5 of 10 is 0.2366 to 0.7634
    one = rate([0.5], 10)
    assert (one["low"], one["high"]) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert rate([0.5, 0.5], 10) == one | {"seeds": 2, "each": [0.5, 0.5]}
    # 0.5 +- 4.303 * 0.1 / sqrt(3), with ten thousand problems
    three = rate([0.4, 0.5, 0.6], 10_000)
    assert (three["low"], three["high"]) == (pytest.approx(0.25157, abs=1e-4), pytest.approx(0.74843, abs=1e-4))
    assert rate([0.0, 1.0], 10)["low"] == 0.0
    assert rate([0.0, 0.0, 0.0], 100)["high"] == pytest.approx(0.0370, abs=1e-4)


def test_jobs_differ_in_file_and_name(tmp_path: Path) -> None:
    found = strings.jobs(Wanted(tmp_path, None, 2, False, "float32"))
    assert len({job.name for job in found}) == len({job.task.file for job in found}) == len(found) == 18
    quick = strings.jobs(Wanted(tmp_path, None, 2, True, "float32"))
    assert quick[0].task.recipe.steps < found[0].task.recipe.steps
    layers = strings.jobs(Wanted(tmp_path, (Entrant("mixed", [rw.Alibi(4), (), (), ()]),), 1, False, "float32"))
    assert layers[0].task.shape.layers == 4
