"""params.json: YaRN as Mistral spells it, and the two magnitudes that it has."""

import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, every

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats import hf, mistral

# the positions of Ministral 3 in both formats
PARAMS = {
    "n_layers": 2,
    "head_dim": 128,
    "rope_theta": 1e6,
    "yarn": {
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta": 32.0,
        "alpha": 1.0,
        "apply_scale": False,
    },
    "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
}
CONFIG = {
    "model_type": "ministral3",
    "num_hidden_layers": 2,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def test_one_model_in_both_formats() -> None:
    ours, theirs = mistral.read(PARAMS, CONFIG), hf.read(CONFIG)
    for (turn, sharper), (other, same) in zip(ours, theirs, strict=True):
        assert (turn.spectrum(), turn.pairing, sharper) == (other.spectrum(), other.pairing, same)
    assert ours[0][0].spectrum().magnitude == 1.0
    assert ours[0][1] == Temperature(16384, 0.1, start=0)
    payload, losses = mistral.write(theirs, CONFIG, 262144)
    assert losses == ()
    assert payload == {**PARAMS, "max_position_embeddings": 262144}


def test_the_format_itself_pairs_neighbours() -> None:
    assert mistral.read(PARAMS)[0][0].pairing == "interleaved"


def test_beta_is_fast_and_alpha_is_slow() -> None:
    payload, losses = mistral.write(every(rw.Yarn(4.0, 8192, 20.0, 2.0)), LLAMA, LENGTH)
    assert losses == ()
    names = {"factor": 4.0, "original_max_position_embeddings": 8192, "beta": 20.0, "alpha": 2.0, "apply_scale": True}
    assert payload["yarn"] == names
    assert mistral.read(payload, LLAMA) == every(rw.Yarn(4.0, 8192, 20.0, 2.0))
    # the defaults, the scale among them
    plain = mistral.read({**payload, "yarn": {"factor": 4.0, "original_max_position_embeddings": 8192}}, LLAMA)
    assert plain == every(rw.Yarn(4.0, 8192))


def test_the_nearer_magnitude_is_written_and_told() -> None:
    own = 1 + 0.1 * math.log(4)
    for magnitude, scaled in ((1.02, False), (own - 0.02, True), (0.5, False), (2.0, True)):
        payload, losses = mistral.write(every(rw.Yarn(4.0, 8192, magnitude=magnitude)), LLAMA, LENGTH)
        assert payload["yarn"]["apply_scale"] is scaled
        assert losses[0].magnitude == pytest.approx((own if scaled else 1.0) / magnitude, rel=1e-12)


def test_a_ramp_between_pairs_is_told() -> None:
    rule = rw.Yarn(4.0, 8192, truncate=False)
    _, losses = mistral.write(every(rule), LLAMA, LENGTH)
    rates = [every(r)[0].spectrum().inv_freq for r in (rule, rw.Yarn(4.0, 8192))]
    assert losses[0].frequency == pytest.approx(max(abs(g / f - 1) for f, g in zip(*rates, strict=True)), rel=1e-12)
    assert losses[0].frequency > 0.003


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        (every(rw.Linear(2.0)), "params.json knows YaRN alone"),
        ((*every()[1:], ()), "one rotation for all layers"),
        ((Rotary(64, 5e5),) * 32, "whole heads of 128 channels, not 64"),
        ((Rotary(128, 5e5, unscaled=4),) * 32, "by one coordinate"),
        (((Rotary(128, 5e5), Temperature()),) * 32, "no word for"),
    ],
    ids=["linear", "rest", "part", "unscaled", "sharper"],
)
def test_what_it_cannot_say_is_refused(encodings: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        mistral.write(encodings, LLAMA, LENGTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 0}, "n_layers must be a positive whole number, got 0"),
        ({"yarn": {**PARAMS["yarn"], "mscale": 1.0}}, "yarn parameter 'mscale' must be one of factor"),
        ({"yarn": {**PARAMS["yarn"], "apply_scale": 1}}, "apply_scale must be true or false, got 1"),
        ({"yarn": {**PARAMS["yarn"], "factor": 0.5}}, "factor must be a number of at least 1, got 0.5"),
        ({"yarn": [1]}, r"yarn must be a JSON object, got \[1\]"),
        ({"head_dim": "128"}, "head_dim must be a positive whole number, got '128'"),
    ],
    ids=["layers", "key", "flag", "factor", "list", "text"],
)
def test_a_bad_value_is_named(change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mistral.read({**PARAMS, **change})
