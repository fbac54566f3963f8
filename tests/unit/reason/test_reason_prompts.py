import json
from pathlib import Path

import pytest

from ropewalk.errors import ConfigError
from ropewalk.evaluate.text import Document
from ropewalk.reason.answers import EXTRACT
from ropewalk.reason.exemplars import Exemplar, read_exemplars
from ropewalk.reason.needle import SENTENCE, needle
from ropewalk.reason.problems import SHOWN_SUMS, SHOWN_WORDS, Task, addition, last_letter, problems
from ropewalk.reason.prompts import conclusion, direct, few_shot, zero_shot, zero_shot_direct

SHOWN = [Exemplar("1 + 1?", "One and one.", "2"), Exemplar("2 + 2?", "Two and two.", "4")]


def count(text: str) -> int:
    return len(text.split())


def haystack() -> Task:
    sentences = " ".join(f"Sentence number {i} says nothing of interest to anybody." for i in range(400))
    return needle([Document("d", sentences)], count)


TASKS = {"addition": addition, "last-letter": last_letter, "needle": haystack}


def test_prompts_are_those_of_the_papers() -> None:
    assert few_shot(SHOWN, "3 + 3?").text == (
        "Q: 1 + 1?\nA: One and one. The answer is 2.\n\nQ: 2 + 2?\nA: Two and two. The answer is 4.\n\nQ: 3 + 3?\nA:"
    )
    assert direct(SHOWN[:1], "3 + 3?").text == "Q: 1 + 1?\nA: The answer is 2.\n\nQ: 3 + 3?\nA:"
    first = zero_shot("3 + 3?")
    assert first.text == "Q: 3 + 3?\nA: Let's think step by step."
    assert conclusion(first, " Three twice.", "The answer (arabic numerals) is").text == (
        "Q: 3 + 3?\nA: Let's think step by step. Three twice.\nTherefore, the answer (arabic numerals) is"
    )
    assert zero_shot_direct("3 + 3?", "The answer is").text == "Q: 3 + 3?\nA: The answer is"


def test_what_problems_share_is_the_part_before_the_question() -> None:
    for make in (few_shot, direct):
        one, other = make(SHOWN, "3 + 3?"), make(SHOWN, "4 + 4?")
        assert one.shared == other.shared
        assert one.own == "Q: 3 + 3?\nA:"


@pytest.mark.parametrize("name", TASKS)
def test_a_right_rationale_leads_to_the_right_answer(name: str) -> None:
    """Read by the rules for completions; the answer itself is worked out anew from the question."""
    task = TASKS[name]()
    made = problems(task, task.lengths, 5, seed=3)
    assert [p.length for p in made] == [n for n in task.lengths for _ in range(5)]
    assert [p.index for p in made] == [*range(5)] * 3
    assert len({p.question for p in made}) == len(made)
    for p in made:
        assert EXTRACT[task.kind](f" {p.rationale} The answer is {p.answer}.\n") == p.answer
        assert EXTRACT[task.kind](f" The answer is {worked_out(name, p.question)}.") == p.answer
    for e in task.exemplars:
        assert worked_out(name, e.question) == e.answer
        assert e.question not in {p.question for p in made}


def worked_out(name: str, question: str) -> str:
    words = question.replace('"', " ").replace("?", " ?").split()
    if name == "addition":
        return str(int(words[2]) + int(words[4]))
    if name == "last-letter":
        return "".join(w[-1] for w in question.split('"')[1].split())
    asked = question.split("How many windows do the ")[1].removesuffix(" have together?").split(" and the ")
    return str(sum(int(question.split(f"The {place} has ")[1].split()[0]) for place in asked))


def test_steps_of_a_sum_carry() -> None:
    found = {e.answer: e.rationale for e in addition().exemplars}
    assert len(found) == len(SHOWN_SUMS) == 8
    assert found["1400"] == (
        "Add digit by digit from the right. 6 + 4 = 10, write 0, carry 1. 9 + 0 + 1 = 10, write 0, carry 1. "
        "5 + 8 + 1 = 14, write 14. That makes 1400."
    )


def test_problems_are_the_same_for_a_seed_and_whatever_else_is_asked() -> None:
    for make in TASKS.values():
        task = make()
        few, many = (task.make(task.lengths[0], n, 0) for n in (3, 9))
        assert many[:3] == few
        assert task.make(task.lengths[0], 3, 1) != few
    assert len(addition().make(1, 50, 0)) == 20


def test_no_problem_is_an_exemplar(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = addition().make(2, 5, 0)
    monkeypatch.setattr("ropewalk.reason.problems.SHOWN_SUMS", ((first.about["a"], first.about["b"]),))
    assert [p.question for p in addition().make(2, 4, 0)] == [p.question for p in rest]


def test_words_are_none_that_an_exemplar_shows() -> None:
    shown = set(" ".join(SHOWN_WORDS).split())
    for p in last_letter().make(8, 40, 0):
        assert not shown & set(p.question.replace('"', " ").split())


@pytest.mark.parametrize("length", [96, 300, 1500])
def test_a_text_is_as_long_as_asked_and_holds_both_facts(length: int) -> None:
    depths = list[float]()
    for p in haystack().make(length, 8, 0):
        text = p.question.partition(" How many windows")[0]
        assert length - 9 <= count(text) <= length
        for fact, depth in zip(p.about["facts"], p.about["depths"], strict=True):
            assert text.count(fact) == 1
            place = count(text[: text.index(fact)]) / count(text)
            # it stands before the sentence into which its depth falls; facts are 6 words, sentences 9
            assert abs(place - depth) <= 16 / length
            depths.append(depth)
        # facts part no sentence
        assert all(s.endswith(".") for s in SENTENCE.split(text))
    assert min(depths) < 0.3
    assert max(depths) > 0.7


TASK_REFUSED = {
    "--lengths of addition must be from 1 to 100 digits, got 0": lambda: addition().make(0, 1, 0),
    "--lengths of last-letter must be from 2 to 8, got 9": lambda: last_letter().make(9, 1, 0),
    "--lengths of needle must be at least 96 tokens, got 95": lambda: haystack().make(95, 1, 0),
    "--lengths of needle must be at most the 3,600 tokens of prose": lambda: haystack().make(4000, 1, 0),
    "text must be prose of at least 96 tokens": lambda: needle([Document("d", "x = 1")], count),
}


@pytest.mark.parametrize("says", TASK_REFUSED)
def test_lengths_that_a_task_does_not_have(says: str) -> None:
    with pytest.raises(ConfigError) as error:
        TASK_REFUSED[says]()
    assert says in str(error.value)


GOOD = [{"question": " 1 + 1? ", "rationale": "One and one.", "answer": 2}, SHOWN[1]._asdict()]


def test_exemplars_of_a_file(tmp_path: Path) -> None:
    lines = tmp_path / "e.jsonl"
    lines.write_text("\n".join(map(json.dumps, GOOD)) + "\n\n")
    whole = tmp_path / "e.json"
    whole.write_text(json.dumps(GOOD, indent=1))
    assert read_exemplars(str(lines)) == read_exemplars(str(whole)) == SHOWN


FILE_REFUSED = {
    "": "must be a file with at least one exemplar",
    "[1, {}]": "exemplar 1), got 1",
    '{"question": "q", "answer": "1"}': "exemplar 1), each with 'rationale', got ['answer', 'question']",
    '{"question": "q", "rationale": " ", "answer": "1"}': "field 'rationale' of {}, exemplar 1, must be text with",
    '{"question": "q", "rationale": "r", "answer": "1"}\n{"question": 7, "rationale": "r", "answer": true}': (
        "field 'question' of {}, exemplar 2, must be text with something in it, got 7"
    ),
    '{"question": "q", "rationale": "r", "answer": true}': "field 'answer' of {}, exemplar 1, must be text",
    '{"question": "q"': "must be JSON or JSONL, got {}, line 1: ",
    "[{]": "must be JSON or JSONL, got {}: ",
    "\ud800": "must be readable UTF-8",
}


@pytest.mark.parametrize("content", FILE_REFUSED)
def test_a_file_of_the_wrong_form(content: str, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as error:
        read_exemplars(str(file))
    told = str(error.value)
    assert told.startswith("--exemplars")
    assert "\n" not in told
    assert FILE_REFUSED[content].replace("{}", str(file)) in told


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--exemplars must be a file that exists"):
        read_exemplars(str(tmp_path))
