"""How the next token is drawn from the logits of a model.

Letters: B rows, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import RopewalkError, require, require_number


@dataclass(frozen=True)
class Sampling:
    """From which tokens the next one is drawn, and with which dice."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_k: int | None = None  # only the k likeliest
    top_p: float = 1.0  # only the likeliest whose probabilities sum to this
    repetition_penalty: float = 1.0  # logits of tokens that the text has already are that much weaker
    seed: int = 0

    def __post_init__(self) -> None:
        require_number(self, "temperature", at_least=0)
        if self.top_k is not None:
            require_number(self, "top_k", at_least=1, whole=True)
        require_number(self, "top_p", above=0, at_most=1)
        require_number(self, "repetition_penalty", above=0)
        require_number(self, "seed", at_least=0, whole=True)
        require(self.seed < 2**62, "Sampling.seed", "below 2 ** 62", self.seed)


class Sampler:
    """The dice of `rows` texts: row i has those of seed + i, and draws what it would draw alone."""

    def __init__(self, sampling: Sampling, rows: int = 1) -> None:
        self.greedy = sampling.temperature == 0
        self.processors = processors(sampling)
        self.dice = [torch.Generator().manual_seed(sampling.seed + i) for i in range(rows)]

    def draw(self, logits: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token for each row (Int[B]) and its log-probability under the model itself (Float32[B]), in nats.

        The log-probability is of the logits (Float32[B, V]) as they are, at temperature 1. `seen` (Int[B, T]) are the
        tokens so far, for the repetition penalty. Raises RopewalkError for logits that are no numbers.
        """
        if logits.isnan().any():
            raise RopewalkError("the model's logits are not numbers; --dtype float32 may help")
        seen = torch.empty(len(logits), 0, dtype=torch.long) if seen is None else seen
        scores = self.processors(seen.to(logits.device), logits)
        ids = scores.argmax(-1, keepdim=True) if self.greedy else self.roll(scores.softmax(-1))
        return ids[:, 0].cpu(), logits.log_softmax(-1).gather(1, ids.to(logits.device))[:, 0].cpu()

    def roll(self, probabilities: Tensor) -> Tensor:
        """Int[B, 1]: one draw from each row of probabilities [B, V], with that row's dice."""
        rows = zip(probabilities.cpu(), self.dice, strict=True)
        return torch.stack([torch.multinomial(p, 1, generator=g) for p, g in rows])


def processors(sampling: Sampling) -> Any:
    """What transformers does to logits, in the order in which its `generate` does it."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    made = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        made.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.temperature not in (0, 1):
        made.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k is not None:
        made.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        made.append(TopPLogitsWarper(float(sampling.top_p)))
    return made
