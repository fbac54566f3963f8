"""What draws completions: a model in this process, a server, or in tests a script."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from ropewalk.errors import require, require_number
from ropewalk.reason.prompts import STOP, Prompt


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Sample i of a prompt has a seed of its own, so that any of them can be drawn again."""

    temperature: float = 0.7  # 0: the likeliest token, always
    top_k: int = 40  # of the likeliest tokens; 0: all
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = STOP

    def __post_init__(self) -> None:
        require_number(self, "temperature", at_least=0.0)
        require_number(self, "top_k", at_least=0, whole=True)
        require_number(self, "top_p", above=0.0, at_most=1.0)
        require_number(self, "seed", at_least=0, whole=True)
        require_number(self, "max_tokens", at_least=1, whole=True)
        require(all(self.stop), "Sampling.stop", "texts with something in them", self.stop)

    def greedy(self) -> "Sampling":
        """The same with the likeliest token, always."""
        return replace(self, temperature=0.0, top_k=0, top_p=1.0)


class Sample(NamedTuple):
    """One completion, cut off before a stop, and what it cost."""

    text: str
    tokens: int  # that were written
    finish: str  # "stop" or "length"
    mean_logprob: float | None = None  # per written token, in nats; None where nobody says
    sum_logprob: float | None = None
    prompt_tokens: int | None = None  # of the whole prompt
    read_tokens: int | None = None  # of them, those that this sample did not share with others


class Sampler(Protocol):
    """Draws samples by number, so that a run can go on with those that are missing."""

    def sample(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Sample]]:
        """Each of the samples `wanted`, with its number, as soon as it is there; in any order."""
        ...


class Scripted:
    """A sampler of what `script` says of a prompt, a number and a sampling: for tests, and to try a run out."""

    def __init__(self, script: Callable[[Prompt, int, Sampling], Sample | str]) -> None:
        self.script = script

    def sample(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Sample]]:
        for i in wanted:
            said = self.script(prompt, i, sampling)
            yield i, Sample(said, len(said.split()), "stop") if isinstance(said, str) else said


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop in it, and whether there is one."""
    places = [at for word in stop if (at := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
