"""Draws: from the tokens that are allowed, as often as they should be, and each row with its own dice."""

import math
from typing import Any

import pytest
import torch

from ropewalk.errors import ConfigError, RopewalkError
from ropewalk.generate.sampling import Sampler, Sampling

LOGITS = torch.tensor([[2.0, -1.0, 1.0, 0.5, -3.0, 1.5]])
DRAWS = 4000


def often(sampling: Sampling, seen: list[int] | None = None) -> list[float]:
    """How often each token is drawn."""
    told = torch.tensor([seen or []], dtype=torch.long).expand(DRAWS, -1)
    drawn = Sampler(sampling, DRAWS).draw(LOGITS.expand(DRAWS, -1), told)[0]
    return (drawn.bincount(minlength=6) / DRAWS).tolist()


def shares(logits: list[float]) -> list[float]:
    """The softmax, by hand."""
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


GONE = -math.inf
RULES: dict[str, tuple[dict[str, Any], list[int], list[float]]] = {
    "as they are": ({"temperature": 1.0}, [], [2.0, -1.0, 1.0, 0.5, -3.0, 1.5]),
    "colder": ({"temperature": 0.5}, [], [4.0, -2.0, 2.0, 1.0, -6.0, 3.0]),
    "of three": ({"temperature": 1.0, "top_k": 3}, [], [2.0, GONE, 1.0, GONE, GONE, 1.5]),
    # 0.44, 0.27 and 0.16 are the likeliest: two of them do not come to 0.8
    "of the likeliest": ({"temperature": 1.0, "top_p": 0.8}, [], [2.0, GONE, 1.0, GONE, GONE, 1.5]),
    "with a penalty": ({"temperature": 1.0, "repetition_penalty": 2.0}, [0, 1, 0], [1.0, -2.0, 1.0, 0.5, -3.0, 1.5]),
}


@pytest.mark.parametrize("case", RULES)
def test_tokens_come_as_often_as_they_should(case: str) -> None:
    given, seen, bent = RULES[case]
    for found, share in zip(often(Sampling(**given), seen), shares(bent), strict=True):
        # four standard errors of a count
        assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / DRAWS)


def test_the_log_probability_is_the_models_own() -> None:
    for sampling in (Sampling(), Sampling(0.3, top_k=2, top_p=0.9, repetition_penalty=3.0)):
        ids, logprobs = Sampler(sampling).draw(LOGITS, torch.tensor([[0, 2]]))
        assert math.isclose(float(logprobs[0]), math.log(shares(LOGITS[0].tolist())[int(ids[0])]), rel_tol=1e-6)
    assert LOGITS.tolist() == [[2.0, -1.0, 1.0, 0.5, -3.0, 1.5]]


def test_without_temperature_the_likeliest_comes() -> None:
    rows = torch.stack((LOGITS[0], -LOGITS[0], LOGITS[0].roll(2)))
    for seed in range(5):
        assert Sampler(Sampling(seed=seed), 3).draw(rows)[0].tolist() == [0, 4, 2]


def test_a_row_draws_what_it_would_draw_alone() -> None:
    logits = torch.randn(4, 20, 300, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(0.9, top_k=100, top_p=0.95, seed=7)
    together = Sampler(sampling, 4)
    batch = torch.stack([together.draw(logits[:, t])[0] for t in range(20)], dim=1)
    for i in range(4):
        alone = Sampler(Sampling(0.9, top_k=100, top_p=0.95, seed=7 + i))
        assert [int(alone.draw(logits[i : i + 1, t])[0]) for t in range(20)] == batch[i].tolist()
    # and the dice differ
    same = Sampler(sampling, 4)
    drawn = torch.stack([same.draw(logits[0, :1].expand(4, -1))[0] for _ in range(20)])
    assert len({tuple(column) for column in drawn.T.tolist()}) == 4


def test_logits_that_are_no_numbers() -> None:
    with pytest.raises(RopewalkError, match="the model's logits are not numbers; --dtype float32 may help"):
        Sampler(Sampling(1.0)).draw(torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperature": -0.1}, "Sampling.temperature must be a number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "Sampling.temperature must be a number of at least 0, got nan"),
        ({"top_k": 0}, "Sampling.top_k must be a whole number of at least 1, got 0"),
        ({"top_p": 0.0}, "Sampling.top_p must be a number above 0 and of at most 1, got 0.0"),
        ({"top_p": 1.1}, "Sampling.top_p must be a number above 0 and of at most 1, got 1.1"),
        ({"repetition_penalty": 0}, "Sampling.repetition_penalty must be a number above 0, got 0"),
        ({"seed": -1}, "Sampling.seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**62}, "Sampling.seed must be below 2 ** 62, got 4611686018427387904"),
    ],
)
def test_what_no_sampling_can_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Sampling(**given)
    assert str(refused.value) == says
