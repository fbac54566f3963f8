"""Sums of two numbers: how they are written, which are kept for the test, and what is made of the answers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ropewalk as rw
from ropewalk.lab import numbers
from ropewalk.lab.addition import FORMATS, Sum, chance, drawn, held_out
from ropewalk.lab.answers import VOCABULARY
from ropewalk.lab.checkpoint import read
from ropewalk.lab.digits import DigitDecoder, Digits, digit_places
from ropewalk.lab.jobs import Wanted
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.train import Recipe, Task, train

TINY = Shape(VOCABULARY, width=8, layers=2, heads=2, hidden=8)
LONG = [drawn(digits, random.Random(digits)) for digits in (1, 2, 3, 7, 16, 18, 40)]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("plain", "57+68=125."),
        ("reversed", "57+68=521."),
        ("all reversed", "75+86=521."),
        ("padded", "0057+0068=00125."),
        ("cot", "57+68=7+8+0=15,5+6+1=12,125."),
    ],
)
def test_a_sum_is_written_in_every_format(form: str, text: str) -> None:
    problem, places = FORMATS[form](Sum(57, 68, 2), 4)
    assert problem.prompt + problem.answer == text
    assert problem.prompt == text[: text.index("=") + 1]
    assert "".join(problem.answer[i] for i in reversed(places)).lstrip("0") == "125"


@pytest.mark.parametrize("form", FORMATS)
def test_places_lead_to_the_digits_of_the_sum(form: str) -> None:
    for asked in LONG:
        problem, places = FORMATS[form](asked, 40)
        assert sum(int(problem.answer[where]) * 10**place for place, where in enumerate(places)) == asked.a + asked.b
        assert len(places) == (41 if form == "padded" else len(str(asked.a + asked.b)))


def test_every_step_of_a_scratchpad_is_true() -> None:
    for asked in LONG:
        *steps, answer = FORMATS["cot"](asked, 40).problem.answer.removesuffix(".").split(",")
        assert answer == str(asked.a + asked.b)
        assert len(steps) == asked.digits
        for place, step in enumerate(steps):
            terms, total = step.split("=")
            one, other, carry = map(int, terms.split("+"))
            assert (one, other) == (asked.a // 10**place % 10, asked.b // 10**place % 10)
            assert carry == (asked.a % 10**place + asked.b % 10**place) // 10**place
            assert int(total) == one + other + carry


@pytest.mark.parametrize(
    ("a", "b", "chain"),
    [(12, 34, 0), (44, 55, 0), (5, 5, 1), (455, 545, 3), (95, 15, 1), (1995, 3045, 2), (905, 195, 2)],
)
def test_a_chain_is_how_far_a_carry_goes(a: int, b: int, chain: int) -> None:
    assert Sum(a, b, len(str(a))).chain == chain


def test_chains_are_what_a_search_finds() -> None:
    for seed in range(300):
        asked = drawn(12, random.Random(seed))
        pairs = [asked.a // 10**i % 10 + asked.b // 10**i % 10 for i in range(12)] + [0]
        lengths = [0]
        for start in (i for i in range(12) if pairs[i] > 9):
            end = start + 1
            while pairs[end] == 9:
                end += 1
            lengths.append(end - start)
        assert asked.chain == max(lengths)


@pytest.mark.parametrize("digits", [1, 2, 3, 18])
def test_sums_of_a_test_have_their_digits_and_differ(digits: int) -> None:
    found = held_out(digits, 1000)
    assert found == held_out(digits, 1000)
    assert len(set(found)) == len(found) == (20 if digits == 1 else 1000)
    low = 10 ** (digits - 1) if digits > 1 else 0
    assert all(low <= x < 10**digits for s in found for x in (s.a, s.b))
    assert max(s.a for s in found) > 8 * 10 ** (digits - 1)


def test_all_numbers_of_a_length_are_drawn() -> None:
    draw = random.Random(0)
    assert {drawn(1, draw).a for _ in range(500)} == set(range(10))
    assert {drawn(2, draw).b for _ in range(3000)} == set(range(10, 100))


@pytest.mark.parametrize("digits", [1, 2])
def test_chance_is_one_of_all_sums(digits: int) -> None:
    every = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    assert chance(digits) == 1 / len({a + b for a in every for b in every})


def plan(form: str = "reversed") -> numbers.Plan:
    return numbers.Plan(form, trained=2, longest=4, n=30)


def job(folder: Path, encoding: Any = (), steps: int = 6, form: str = "reversed") -> numbers.Drill:
    task = Task(encoding, 0, TINY, Recipe(steps, 8, 11, 1e-2, 2), "sums", folder / "x.safetensors")
    return numbers.Drill("a drill", "an entrant", task, plan(form))


def test_no_sum_of_a_test_is_trained(tmp_path: Path) -> None:
    small = plan()
    never = {s for digits in (1, 2) for s in small.test(digits)}
    draw = random.Random(0)
    trained = {small.drawn(draw, never) for _ in range(2000)}
    assert not trained & never
    assert {s.digits for s in trained} == {1, 2}
    # every other sum of one digit is
    assert len({s for s in trained if s.digits == 1}) == 80
    texts = {
        bytes(row).decode().split("=")[0] for step in range(300) for row in job(tmp_path).batches()(step)[0].tolist()
    }
    assert not texts & {f"{s.a}+{s.b}" for s in never}
    assert len(texts) > 1000


def test_formats_and_encodings_are_trained_on_the_same_sums(tmp_path: Path) -> None:
    def sums(form: str, encoding: Any) -> list[str]:
        ids, *_ = job(tmp_path, encoding, form=form).batches()(3)
        return [bytes(row).decode().split("=")[0] for row in ids.tolist()]

    assert sums("plain", ()) == sums("cot", rw.Alibi(2)) == sums("reversed", ())
    assert [f"{int(a):04d}+{int(b):04d}" for a, b in (s.split("+") for s in sums("plain", ()))] == sums("padded", ())


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor([list(text.encode()) for text in texts])


def test_digits_are_counted_in_their_number() -> None:
    found = digit_places(ids_of("12+345=6.", "=7,89+0.1"))
    assert found.tolist() == [[1, 2, 0, 1, 2, 3, 0, 1, 0], [0, 1, 0, 1, 2, 0, 1, 0, 1]]


def test_numbers_begin_anywhere_in_training_and_at_one_in_a_test() -> None:
    model = DigitDecoder(TINY, Digits((), longest=9, spread=6))
    ids = ids_of(*["12+345=6."] * 400)
    places, true = model.where(ids).position[..., 0], digit_places(ids)
    shifts = places - true
    assert (shifts[true == 0] == 0).all()
    assert (shifts[:, 0:1].expand(-1, 6) == shifts[:, [0, 1, 3, 4, 5, 7]]).all()
    # the last row of the table is that of the third digit with the largest shift
    assert set(shifts[:, 0].tolist()) == set(range(7))
    assert int(places.max()) == 9
    assert torch.equal(model.eval().where(ids).position[..., 0], true)


def test_a_decoder_told_of_digits_is_a_decoder_with_a_table() -> None:
    ids = ids_of("12+345=753", "99+999=890")
    for encoding in ((), rw.Fire(2), rw.Sinusoidal(8), [rw.Alibi(2), rw.T5(2)]):
        plain = Decoder(TINY, encoding)
        model = DigitDecoder(TINY, Digits(encoding, 9, 0)).eval()
        assert (model(ids) != plain(ids)).any()
        with torch.no_grad():
            model.positions[-1].weights["table"].zero_()
        assert torch.equal(model(ids), plain(ids))
        assert torch.equal(model(ids, 2), plain(ids, 2))


def test_a_number_longer_than_the_table_is_refused(tmp_path: Path) -> None:
    model = DigitDecoder(TINY, Digits((), 3, 0)).eval()
    with pytest.raises(rw.ConfigError, match="from 0 to 3"):
        model(ids_of("1234"))


def stopping(at: int) -> Callable[[int], None]:
    def tell(step: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    return tell


def test_an_interrupted_training_draws_the_same_places(tmp_path: Path) -> None:
    one, other = (job(tmp_path / name, Digits((), 5, 2)) for name in "ab")
    train(one.task, numbers.model_of(one.task), one.batches(), lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        train(other.task, numbers.model_of(other.task), other.batches(), stopping(4), every=1)
    torch.manual_seed(99)
    train(other.task, numbers.model_of(other.task), other.batches(), lambda _: None)
    first, second = read(one.task.file).tensors, read(other.task.file).tensors
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_row_tells_every_number_of_digits(tmp_path: Path) -> None:
    heard = list[float]()
    some = job(tmp_path, rw.Learned(8, 11))
    row = some.run(heard.append)
    assert sum(heard) == pytest.approx(some.cost)
    assert (row["kind"], row["format"], row["seed"], row["outcome"]) == ("numbers", "reversed", 0, "finished")
    assert [cell["digits"] for cell in row["cells"]] == [1, 2, 3, 4]
    assert [cell.get("n") for cell in row["cells"]] == [20, 30, None, None]
    assert "from 0 to 10" in row["cells"][3]["reason"]
    for cell in row["cells"][:2]:
        assert cell["places"][0][0] == cell["n"] == sum(asked for asked, _ in cell["chains"].values())
        assert all(0 <= right <= asked <= cell["n"] for asked, right in cell["places"])


def test_digits_and_chains_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = [Sum(55, 56, 2), Sum(12, 13, 2), Sum(45, 55, 2)]  # 111, 25 and 100, whose carry goes twice

    def given(model: Decoder, asked: Any) -> Any:
        assert [p.answer for p in asked] == ["111.", "52.", "001."]
        yield from ([True, False, True, True], [True, True, True], [False, True, True, True])

    monkeypatch.setattr(numbers, "marks", given)
    assert numbers.tested(Decoder(TINY, ()), sums, plan()) == {
        "n": 3,
        "right": 1,
        "places": [[3, 2], [3, 2], [2, 2]],
        "chains": {"0": [1, 1], "1": [1, 0], "2": [1, 0]},
    }


def row_of(seed: int, right: int) -> dict[str, Any]:
    cell = {
        "digits": 1,
        "n": 20,
        "right": right,
        "places": [[20, right], [5, 5]],
        "chains": {"0": [15, 15], "1": [5, right - 15]},
    }
    row = {"entrant": "E", "encoding": "()", "format": "plain", "name": f"n {seed}", "seed": seed, "trained_digits": 2}
    row |= {"outcome": "finished", "reason": "", "steps": 1, "curve": [], "seconds": 1.0}
    return row | {"cells": [cell, {"digits": 2, "reason": "why"}]}


def test_a_summary_holds_means_over_seeds() -> None:
    found = numbers.summarise([row_of(0, 16), row_of(1, 20)])
    assert found["trained_digits"] == 2
    assert found["chance"] == {"digit": 0.1, "exact": [1 / 19, 1 / 179]}
    (told,) = found["formats"]["plain"]
    assert (told["name"], told["encoding"]) == ("E", "()")
    one, two = told["cells"]
    assert two == {"digits": 2, "reason": "why"}
    assert one["exact"]["each"] == [0.8, 1.0]
    assert one["digit"]["each"] == [21 / 25, 1.0]
    assert one["places"] == [pytest.approx(0.9), 1.0]
    assert [(c["chain"], c["exact"]["each"], c["exact"]["n"]) for c in one["chains"]] == [
        (0, [1, 1], 15),
        (1, [0.2, 1], 5),
    ]


def test_jobs_differ_in_file_and_name(tmp_path: Path) -> None:
    found = numbers.jobs(Wanted(tmp_path, None, 3, False, "float32"))
    assert len({some.name for some in found}) == len({some.task.file for some in found}) == len(found)
    assert {some.plan.format for some in found} == set(FORMATS)
    quick = numbers.jobs(Wanted(tmp_path, None, 1, True, "float32"))
    assert len(quick) < len(found) / 3
    assert {some.entrant for some in quick} == {"RoPE", "NoPE", "digits"}
    assert quick[0].task.recipe.steps < found[0].task.recipe.steps
    # every row of the table of digits is trained: the last one by the longest sum with the largest shift
    told = next(some for some in found if some.entrant == "digits")
    assert told.task.encoding.longest == told.plan.longest + 1 == told.plan.trained + 1 + told.task.encoding.spread
