"""The loop that writes: draw a token in every row, read it, until each row has come to its end.

Letters: B rows, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.generate.sampling import Sampler, Sampling
from ropewalk.generate.session import Session
from ropewalk.generate.text import BEFORE, StopText, TextStream
from ropewalk.models.load import Loaded


@dataclass(frozen=True)
class Stop:
    """What ends a text: one of these tokens, or one of these strings, which is cut off."""

    strings: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(all(self.strings), "Stop.strings", "strings with at least one character", self.strings)


def end_of_text(loaded: Loaded) -> tuple[int, ...]:
    """The tokens with which a model says that it is done, as its tokenizer and its generation config have them."""
    config: Any = loaded.model.generation_config
    said = None if config is None else config.eos_token_id
    tokenizer: Any = loaded.tokenizer
    ids = [tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])]
    return tuple(sorted({i for i in ids if i is not None}))


class Step(NamedTuple):
    """One token in every row that was not at its end before, and the text that is certain with it."""

    ids: Tensor  # Int[B]
    logprobs: Tensor  # Float32[B]: in nats, under the model itself at temperature 1; 0 where nothing was written
    written: Tensor  # Bool[B]: rows that were still writing; the ids of others mean nothing
    finished: Tensor  # Bool[B]: rows at their end, by a token or a string that ends a text
    text: tuple[str, ...]  # of each row; all steps together give its whole text


class Row:
    """The text of one row."""

    def __init__(self, loaded: Loaded, before: list[int], stop: Stop) -> None:
        self.stream, self.strings, self.ids = TextStream(loaded.tokenizer, before), StopText(stop.strings), stop.ids
        self.finished = False

    def add(self, token: int, last: bool) -> str:
        """The text that is certain with one more token, or all that is left if it is the last."""
        if self.finished:
            return ""
        ended = token in self.ids
        text = "" if ended else self.strings.add(self.stream.add(token))
        if ended or last:
            text += self.strings.add(self.stream.end()) + self.strings.end()
        self.finished = ended or self.strings.found
        return text


def write(
    session: Session, logits: Tensor, sampling: Sampling, stop: Stop, max_new_tokens: int | None = None
) -> Iterator[Step]:
    """Write on from `logits` (Float32[B, V]), the result of the session's last `read`, one step at a time.

    Ends when every row is at its end, or after `max_new_tokens`; None is without limit. A row that has ended stays as
    it is while others go on. The last token drawn is not read any more. Row i of a batch draws with seed + i.
    """
    require(max_new_tokens is None or max_new_tokens >= 1, "max_new_tokens", "at least 1, or None", max_new_tokens)
    sampler = Sampler(sampling, session.rows)
    rows = [Row(session.loaded, ids.tolist(), stop) for ids in session.ids[:, -BEFORE:]]
    count = 0
    while True:
        count += 1
        last = count == max_new_tokens
        written = torch.tensor([not row.finished for row in rows])
        ids, logprobs = sampler.draw(logits, session.ids)
        text = tuple(row.add(token, last) for row, token in zip(rows, ids.tolist(), strict=True))
        finished = torch.tensor([row.finished for row in rows])
        yield Step(ids, torch.where(written, logprobs, 0.0), written, finished, text)
        if last or bool(finished.all()):
            return
        logits = session.read(ids[:, None])
