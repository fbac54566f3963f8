"""What is written: as transformers writes it, row by row as if alone, and ended where a text ends."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ropewalk.errors import ConfigError
from ropewalk.generate.sampling import Sampling
from ropewalk.generate.session import Session
from ropewalk.generate.write import Step, Stop, end_of_text, write
from ropewalk.models.load import Loaded

NEW = 40
EOS = 1
PROMPT = [50, 60, 70, 80, 90, 33, 44]


def ours(loaded: Loaded, sampling: Sampling, rows: int = 1, stop: Stop | None = None) -> list[Step]:
    with Session(loaded) as session:
        session.read(PROMPT[:-1])
        branch = session.branch(rows)
        return list(write(branch, branch.read(PROMPT[-1:]), sampling, stop or Stop(), NEW))


def theirs(loaded: Loaded, seed: int, **given: Any) -> list[int]:
    """What transformers' own `generate` writes."""
    torch.manual_seed(seed)
    told = {"max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0, "attention_mask": torch.ones(1, 7)}
    return loaded.model.generate(torch.tensor([PROMPT]), **told, **given)[0, len(PROMPT) :].tolist()


def drawn(steps: list[Step], row: int = 0) -> list[int]:
    return [int(s.ids[row]) for s in steps]


def test_the_likeliest_tokens_are_those_of_transformers(loaded: Loaded) -> None:
    for penalty in (1.0, 1.3):
        wanted = theirs(loaded, 0, do_sample=False, repetition_penalty=penalty)
        assert drawn(ours(loaded, Sampling(repetition_penalty=penalty))) == wanted
    # the penalty did something, so both were really compared
    assert wanted != theirs(loaded, 0, do_sample=False)


@pytest.mark.parametrize("seed", [0, 5])
def test_draws_are_those_of_transformers(loaded: Loaded, seed: int) -> None:
    given = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
    wanted = theirs(loaded, seed, do_sample=True, **given)
    assert drawn(ours(loaded, Sampling(**given, seed=seed))) == wanted
    assert wanted != theirs(loaded, seed + 1, do_sample=True, **given)


def test_a_row_writes_what_it_would_write_alone(loaded: Loaded) -> None:
    sampling = Sampling(1.0, top_p=0.95, seed=3)
    batch = ours(loaded, sampling, rows=4)
    for i in range(4):
        alone = ours(loaded, Sampling(1.0, top_p=0.95, seed=3 + i))
        assert drawn(batch, i) == drawn(alone)
        assert "".join(s.text[i] for s in batch) == "".join(s.text[0] for s in alone)
        torch.testing.assert_close(
            torch.stack([s.logprobs[i] for s in batch]),
            torch.stack([s.logprobs[0] for s in alone]),
            rtol=1e-4,
            atol=1e-5,
        )


def test_text_and_log_probabilities_are_those_of_the_tokens(loaded: Loaded) -> None:
    steps = ours(loaded, Sampling(1.0, seed=11))
    ids = drawn(steps)
    whole = PROMPT + ids
    said = loaded.tokenizer.decode(whole, skip_special_tokens=True)
    before = loaded.tokenizer.decode(PROMPT, skip_special_tokens=True)
    assert before + "".join(s.text[0] for s in steps) == said.rstrip("\ufffd")
    with torch.inference_mode():
        logprobs = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    wanted = torch.stack([logprobs[len(PROMPT) - 1 + i, token] for i, token in enumerate(ids)])
    torch.testing.assert_close(torch.cat([s.logprobs for s in steps]), wanted, rtol=1e-4, atol=1e-5)
    assert len(steps) == NEW
    assert not any(s.finished.any() for s in steps)
    assert all(s.written.all() for s in steps)


class Scripted:
    """A session whose rows say what is written down for them, and then one token for ever."""

    def __init__(self, loaded: Loaded, *scripts: list[int]) -> None:
        self.loaded, self.scripts = loaded, scripts
        self.rows, self.length, self.fed = len(scripts), 0, list[list[int]]()
        self.ids = torch.empty(self.rows, 0, dtype=torch.long)

    def read(self, ids: Tensor) -> Tensor:
        self.fed.append(ids[:, 0].tolist())
        return self.logits()

    def logits(self) -> Tensor:
        at = len(self.fed)
        said = torch.tensor([script[at] if at < len(script) else 99 for script in self.scripts])
        return torch.nn.functional.one_hot(said, 320).float() * 5

    def write(self, stop: Stop, most: int | None) -> list[Step]:
        return list(write(self, self.logits(), Sampling(), stop, most))  # type: ignore[arg-type]


def letters(loaded: Loaded, text: str) -> list[int]:
    """One token for each byte."""
    return [loaded.tokenizer.convert_tokens_to_ids(c) for c in text]


def texts(steps: list[Step]) -> list[str]:
    return ["".join(pieces) for pieces in zip(*(s.text for s in steps), strict=True)]


def test_each_row_ends_where_its_text_does(loaded: Loaded) -> None:
    script = [[*letters(loaded, "ab"), EOS], letters(loaded, "abcdefgh"), letters(loaded, "xQ:yzabc")]
    session = Scripted(loaded, *script)
    steps = session.write(Stop(("fg", "Q:"), (EOS,)), 50)
    assert texts(steps) == ["ab", "abcde", "x"]
    assert [s.finished.tolist() for s in steps] == [
        *([[False] * 3] * 2),
        *([[True, False, True]] * 4),
        [True, True, True],
    ]
    assert [s.written.tolist() for s in steps] == [*([[True] * 3] * 3), *([[False, True, False]] * 4)]
    assert all((s.logprobs != 0).equal(s.written) for s in steps)
    # the last token is not read
    assert len(session.fed) == len(steps) - 1


def test_text_is_held_back_while_it_may_be_the_end(loaded: Loaded) -> None:
    steps = Scripted(loaded, letters(loaded, "aQQ:b")).write(Stop(("Q:",)), 50)
    assert [s.text[0] for s in steps] == ["a", "", "Q", ""]
    # what was held back comes with the last token
    steps = Scripted(loaded, letters(loaded, "aQ")).write(Stop(("Q:",)), 2)
    assert [s.text[0] for s in steps] == ["a", "Q"]
    assert not steps[-1].finished[0]
    steps = Scripted(loaded, [*letters(loaded, "aQ"), EOS]).write(Stop(("Q:",), (EOS,)), 50)
    assert [s.text[0] for s in steps] == ["a", "", "Q"]


def test_a_limit_ends_all_rows(loaded: Loaded) -> None:
    steps = Scripted(loaded, letters(loaded, "abcd"), [EOS]).write(Stop((), (EOS,)), 3)
    assert texts(steps) == ["abc", ""]
    assert steps[-1].finished.tolist() == [False, True]


def test_an_end_of_text_may_be_passed(loaded: Loaded) -> None:
    steps = Scripted(loaded, [*letters(loaded, "a"), EOS, *letters(loaded, "b")]).write(Stop(), 3)
    assert texts(steps) == ["ab"]


def test_what_ends_a_text_is_told_by_the_model(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of_text(loaded) == (EOS,)
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [7, 5])
    assert end_of_text(loaded) == (1, 5, 7)
    monkeypatch.setattr(loaded.model, "generation_config", None)
    assert end_of_text(loaded) == (EOS,)


def test_what_cannot_be_written(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1, or None, got 0"):
        Scripted(loaded, [3]).write(Stop(), 0)
    with pytest.raises(ConfigError, match=r"Stop\.strings must be strings with at least one character"):
        Stop(("",))
