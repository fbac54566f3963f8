"""ONNX: tables that hold any static scaling, and what can be recovered from them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stock import LLAMA, every, published, scalings, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats import hf, onnx
from ropewalk.formats.compare import disagreement

ROWS = 4096


def tables(*scaling: Any, rows: int = ROWS) -> dict[str, Any]:
    payload, losses = onnx.write(every(*scaling), LLAMA, rows)
    assert losses == ()
    (table,) = payload["tables"]
    assert table["layers"] == list(range(32))
    return table


def test_tables_are_cosines_and_sines_rounded_once() -> None:
    rule = rw.Yarn(2.0, 4096, magnitude=1.25)
    table = tables(rule, rows=64)
    assert table["attributes"] == {"interleaved": 0, "rotary_embedding_dim": 0, "num_heads": 32}
    rates = every(rule)[0].spectrum().inv_freq
    for name, f in (("cos_cache", math.cos), ("sin_cache", math.sin)):
        assert (table[name].dtype, table[name].shape) == (np.float32, (64, 64))
        for row in (0, 1, 63):
            want = [1.25 * f(row * rate) for rate in rates]
            # half a unit in the last place of float32, and a rounding of the reference in float64
            np.testing.assert_allclose(table[name][row], want, rtol=2**-24 + 1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "cohere-r7b", "pythia-160m", "gemma-3-1b", "deepseek-v3"])
def test_every_scaling_is_recovered(name: str) -> None:
    config = published(name)
    pairs = next(e for e in hf.read(config) if e != ()).dim // 2
    for scaling in scalings(pairs, 4096):
        encodings = with_scaling(config, scaling)
        payload, losses = onnx.write(encodings, config, ROWS)
        assert losses == ()
        assert disagreement(encodings, onnx.read(payload, config), ROWS) is None, scaling


def test_a_part_of_a_head_is_an_attribute() -> None:
    config = published("pythia-160m")
    payload, _ = onnx.write(hf.read(config), config, 16)
    assert payload["tables"][0]["attributes"] == {"interleaved": 0, "rotary_embedding_dim": 16, "num_heads": 12}
    cohere = published("cohere-r7b")
    assert onnx.write(hf.read(cohere), cohere, 16)[0]["tables"][0]["attributes"]["interleaved"] == 1


def test_what_is_as_it_was_stays_itself() -> None:
    payload, _ = onnx.write(every(), LLAMA, ROWS)
    assert onnx.read(payload, LLAMA) == every()
    slower, _ = onnx.write(every(rw.Rescale((1 + 2e-6,) * 64)), LLAMA, ROWS)
    assert onnx.read(slower, LLAMA) != every()


def test_lists_of_numbers_are_tables_too() -> None:
    payload, _ = onnx.write(every(rw.Linear(2.0)), LLAMA, 64)
    (table,) = payload["tables"]
    plain = {**table, "cos_cache": table["cos_cache"].tolist(), "sin_cache": table["sin_cache"].tolist()}
    assert disagreement(every(rw.Linear(2.0)), onnx.read({"tables": [plain]}, LLAMA), 64) is None


def test_two_lists_are_frozen_and_told() -> None:
    rule = rw.LongRope((1.0,) * 64, (2.0,) * 64, 32)
    payload, losses = onnx.write(every(rule), LLAMA, 64)
    assert disagreement(every(rw.Linear(2.0)), onnx.read(payload, LLAMA), 64) is None
    assert losses[0].frequency == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "sin_cache": t["sin_cache"][:-1]}, "two tables of one size"),
        (lambda t: {**t, "cos_cache": np.r_[t["cos_cache"][:32], t["cos_cache"][:32]]}, "no rotation by equal steps"),
        (lambda t: {**t, "cos_cache": -t["cos_cache"]}, "positive in its first row"),
        (
            lambda t: {**t, "attributes": {**t["attributes"], "rotary_embedding_dim": 64}},
            "the 64 columns, got 64",
        ),
        (lambda t: {**t, "layers": [32]}, "layers must be below 32, got 32"),
    ],
    ids=["sizes", "rows", "sign", "dim", "layers"],
)
def test_tables_that_are_no_rotation_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onnx.read({"tables": [change(tables(rows=64))]}, LLAMA)


def test_what_tables_do_not_hold_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="turn the first channels"):
        onnx.write((replace(Rotary(128, 5e5), unscaled=4),) * 32, LLAMA, 64)
    for length in (1, 2**25, 1e30):
        with pytest.raises(ConfigError, match="length must be from 2 to"):
            onnx.write(every(), LLAMA, length)  # type: ignore[arg-type]
