"""What `ropewalk reason` can be told."""

from dataclasses import dataclass

from ropewalk.errors import ConfigError, require, require_choice, require_flag, require_number
from ropewalk.reason.http import address
from ropewalk.reason.sampler import Sampling
from ropewalk.reason.vote import TIES

TASKS = ("addition", "last-letter", "needle")
MOST_SAMPLES = 1000


@dataclass(frozen=True)
class ReasonRequest:
    """Everything that a run depends on but its folder."""

    model: str
    server: str | None = None  # None: the model is loaded here
    chat: bool = False  # send prompts as messages
    task: str = "addition"  # or a list, or "all"
    lengths: tuple[int, ...] | None = None  # of the one task; None: its own
    problems: int = 10  # of every length
    samples: int = 10  # that vote
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 1.0
    max_tokens: int | None = None  # of a completion; None: by the length of a right one
    exemplars: str | None = None  # a file; None: those of the task
    zero_shot: bool = False
    early_stop: bool = False
    tie: str = "first"
    encoding: str | None = None  # a scaling or an encoding; None: the model's own
    text: str | None = None  # where needles are hidden
    dtype: str = "bfloat16"
    batch: int = 20  # samples at a time
    timeout: float = 300.0  # seconds that a server has for an answer
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("problems", "samples", "batch"):
            require_number(self, name, at_least=1, at_most=MOST_SAMPLES, whole=True)
        require_number(self, "timeout", above=0.0)
        require_choice(self, "tie", TIES)
        for name in ("chat", "zero_shot", "early_stop"):
            require_flag(self, name)
        self.sampling(1 if self.max_tokens is None else self.max_tokens)
        names = self.tasks()
        self.check_together(len(names) == 1)

    def check_together(self, single: bool) -> None:
        """Raise ConfigError for options that make no sense with each other."""
        require(self.lengths is None or single, "--lengths", "given with one --task", self.lengths)
        require(self.lengths is None or len(self.lengths) > 0, "--lengths", "a list of whole numbers", self.lengths)
        require(self.exemplars is None or single, "--exemplars", "given with one --task", self.exemplars)
        require(
            self.exemplars is None or not self.zero_shot, "--exemplars", "given without --zero-shot", self.exemplars
        )
        if self.server is None:
            require(not self.chat, "--chat", "given with --server", self.chat)
        else:
            address(self.server)
            require(self.encoding is None, "--encoding", "left out: a server has its own positions", self.encoding)

    def tasks(self) -> list[str]:
        """The tasks by name."""
        names = list(TASKS) if self.task == "all" else self.task.split(",")
        for name in names:
            require(name in TASKS, "--task", f"all or some of {', '.join(TASKS)}", name)
        return list(dict.fromkeys(names))

    def sampling(self, max_tokens: int) -> Sampling:
        """How votes are drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed, max_tokens)


def lengths_from(words: str | None) -> tuple[int, ...] | None:
    """ "2,4,6" as numbers."""
    if words is None:
        return None
    try:
        return tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError:
        raise ConfigError(f"--lengths must be whole numbers such as 2,4,6, got {words!r}") from None
