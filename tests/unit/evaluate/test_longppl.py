import math

import numpy as np
import pytest

from ropewalk.errors import ConfigError
from ropewalk.evaluate.metrics.longppl import key_tokens, long_perplexity, short_readings, training_weights

LONG = np.array([0.1, 0.1, 1.9, 2.1, 3.0])
SHORT = np.array([2.0, 2.2, 4.0, 9.0, 3.0])


def test_a_key_token_gains_much_and_is_well_predicted_in_the_end() -> None:
    assert key_tokens(LONG, SHORT).tolist() == [False, True, True, False, False]
    assert key_tokens(LONG, SHORT, beta=-2.2).tolist() == [False, True, True, True, False]
    assert key_tokens(LONG, SHORT, alpha=1.8).tolist() == [True, True, True, False, False]


def test_both_bounds_are_strict() -> None:
    assert not key_tokens(np.array([0.5]), np.array([2.5])).any()
    assert not key_tokens(np.array([2.0]), np.array([9.0])).any()


def test_only_key_tokens_count_in_the_evaluated_models_perplexity() -> None:
    keys = key_tokens(LONG, SHORT)
    losses = np.array([9.0, 1.0, 2.0, 9.0, 9.0])
    assert long_perplexity(losses, keys) == pytest.approx(math.exp(1.5))
    assert long_perplexity(losses, np.zeros(5, dtype=bool)) is None


def test_weights_are_bounded_and_do_not_overflow() -> None:
    found = training_weights(np.array([1.0, 1.0, 2.0, 0.0]), np.array([1.0, 1.5, 1.0, 1e4]))
    assert found.tolist() == pytest.approx([1.0, math.exp(0.5), math.exp(-1), 5.0])


@pytest.mark.parametrize(("tokens", "context", "stride"), [(20, 8, 4), (21, 8, 4), (19, 8, 4), (9, 8, 4), (30, 3, 7)])
def test_short_readings_score_every_later_token_once_with_little_context(
    tokens: int, context: int, stride: int
) -> None:
    plan = list(short_readings(tokens, context, stride))
    scored = [t for w in plan for t in range(w.scored, w.end)]
    assert scored == list(range(context, tokens))
    assert {w.scored - w.begin for w in plan} == {context}
    assert all(w.end - w.begin <= context + stride for w in plan)


def test_a_text_within_the_short_context_has_no_such_token() -> None:
    assert list(short_readings(8, 8, 4)) == []
    assert list(short_readings(5, 8, 4)) == []


def test_readings_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="readings must be equally long"):
        key_tokens(LONG, SHORT[:-1])
    with pytest.raises(ConfigError, match="losses must be as many"):
        long_perplexity(LONG[:-1], key_tokens(LONG, SHORT))
