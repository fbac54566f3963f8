"""Samples of a model in this process: what prompts share is read once, and samples of one go on from it together."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import Tensor

from ropewalk.generate.sampling import Sampling as Dice
from ropewalk.generate.session import Session
from ropewalk.generate.write import Step, Stop, end_of_text, write
from ropewalk.models.attach import Encoding
from ropewalk.models.load import Loaded
from ropewalk.reason.prompts import Prompt
from ropewalk.reason.sampler import Sample, Sampling


class Local:
    """Draws sample i of a prompt with the seed of the sampling plus i, alone or beside others.

    The part that prompts share stays read until another one comes, and so does the prompt that was sampled last.
    """

    def __init__(self, loaded: Loaded, encodings: Sequence[Encoding] | None = None) -> None:
        self.loaded = loaded
        self.trunk = Session(loaded, encodings)
        # the last prompt, its length, what it did not share, and what follows it
        self.last: tuple[str, Session, int, Tensor] | None = None

    def close(self) -> None:
        """Forget everything and give the model its own positions back."""
        self.trunk.close()
        self.last = None

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokens(text))

    def tokens(self, text: str) -> list[int]:
        return self.loaded.tokenizer(text, add_special_tokens=False).input_ids

    def sample(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Sample]]:
        """Each of the samples `wanted` as soon as it is at its end."""
        session, own, logits = self.read(prompt)
        # rows side by side have dice of seeds side by side
        for _, group in groupby(enumerate(wanted), lambda pair: pair[1] - pair[0]):
            rows = [i for _, i in group]
            for i, written in self.written(session.branch(len(rows)), logits, rows, sampling):
                yield i, written._replace(prompt_tokens=session.length, read_tokens=own)

    def read(self, prompt: Prompt) -> tuple[Session, int, Tensor]:
        """A session that has read the prompt, how many tokens it did not share, and the logits [1, V] after it."""
        if self.last is None or self.last[0] != prompt.text:
            ids = self.tokens(prompt.text)
            same = common(self.tokens(prompt.shared), ids[:-1])
            self.share(ids[:same])
            session = self.trunk.branch()
            self.last = prompt.text, session, len(ids) - same, session.read(ids[same:])
        return self.last[1:]

    def share(self, ids: list[int]) -> None:
        """Let the trunk have read these tokens and no others."""
        same = common(self.trunk.ids[0].tolist(), ids)
        self.trunk.rewind(same)
        if ids[same:]:
            self.trunk.read(ids[same:])

    def written(
        self, session: Session, logits: Tensor, rows: list[int], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """Write on in every row; a row is told when it ends."""
        dice = Dice(sampling.temperature, sampling.top_k or None, sampling.top_p, seed=sampling.seed + rows[0])
        stop = Stop(sampling.stop, end_of_text(self.loaded))
        drafts = [Draft() for _ in rows]
        for step in write(session, logits.expand(len(rows), -1), dice, stop, sampling.max_tokens):
            for at, draft in enumerate(drafts):
                if draft.add(step, at):
                    yield rows[at], draft.sample("stop")
        yield from ((i, d.sample("length")) for i, d in zip(rows, drafts, strict=True) if not d.finished)


class Draft:
    """A row that is being written."""

    def __init__(self) -> None:
        self.text, self.logprobs, self.finished = "", list[float](), False

    def add(self, step: Step, at: int) -> bool:
        """Take what a step wrote in row `at`; whether the row has come to its end with it."""
        if not step.written[at]:
            return False
        self.text += step.text[at]
        self.logprobs.append(float(step.logprobs[at]))
        self.finished = bool(step.finished[at])
        return self.finished

    def sample(self, finish: str) -> Sample:
        total = sum(self.logprobs)
        return Sample(self.text, len(self.logprobs), finish, total / len(self.logprobs), total)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    same = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        same += 1
    return same
