"""Megatron: arguments as its parser takes them, and the formulas of its two rotary classes."""

import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, every, published

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats import hf, megatron
from ropewalk.formats.compare import disagreement
from ropewalk.scalings.yarn import mscale


def args(*scaling: Any) -> str:
    payload, losses = megatron.write(every(*scaling), LLAMA, LENGTH)
    assert losses == ()
    assert disagreement(every(*scaling), megatron.read(payload, LLAMA), LENGTH) is None
    return " ".join(payload["args"])


def read(line: str) -> Any:
    return megatron.read({"args": line.split()}, LLAMA)[0]


def test_arguments() -> None:
    start, end = "--kv-channels 128 --position-embedding-type", "--max-position-embeddings 16384"
    assert args() == f"{start} rope --rotary-base 500000 {end}"
    assert args(rw.Linear(4.0)) == f"{start} rope --rotary-base 500000 --rotary-seq-len-interpolation-factor 4 {end}"
    llama3 = "--use-rope-scaling --rope-scaling-factor 32"
    assert args(rw.Llama3(32.0, 8192)) == f"{start} rope --rotary-base 500000 {llama3} {end}"
    both = args(rw.Llama3(32.0, 8192), rw.Linear(2.0))
    assert both == f"{start} rope --rotary-base 500000 {llama3} --rotary-seq-len-interpolation-factor 2 {end}"
    assert args(rw.BaseChange(1e6)) == f"{start} rope --rotary-base 1000000 {end}"
    yarn = args(rw.Yarn(2.0, 4096, truncate=False)).split()
    assert yarn[3:5] == ["yarn", "--rotary-base"]
    assert yarn[-3:] == ["--no-yarn-correction-range-round-to-int", "--max-position-embeddings", "16384"]


def test_a_magnitude_is_imposed_by_the_first_weight() -> None:
    words = args(rw.Yarn(4.0, 4096, magnitude=1.3)).split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert float(given["--mscale"]) == pytest.approx(0.3 / (0.1 * math.log(4)), rel=1e-14)
    assert float(given["--mscale-all-dim"]) == 0
    with pytest.raises(UnsupportedError, match=r"Megatron keeps a magnitude of 1 at a factor of 1, not 1\.3"):
        megatron.write(every(rw.Yarn(1.0, 4096, magnitude=1.3)), LLAMA, LENGTH)


def test_reading_rules() -> None:
    rope = "--position-embedding-type rope"
    assert read(rope) == Rotary(128, 10000.0)
    assert read(f"{rope} --use-rope-scaling").scaling == (rw.Llama3(8.0, 8192),)
    # without the flag the factor is idle
    assert read(f"{rope} --rope-scaling-factor 4").scaling == ()
    assert read(f"{rope} --rotary-percent 0.25 --rotary-interleaved") == Rotary(32, 10000.0, (), "interleaved")
    yarn = "--position-embedding-type yarn --rotary-scaling-factor 4"
    assert read(yarn).spectrum() == Rotary(128, 10000.0, (rw.Yarn(4.0, 4096),)).spectrum()
    # YaRN's class passes over the part of the head and over the other scalings
    assert read(f"{yarn} --rotary-percent 0.5 --rotary-seq-len-interpolation-factor 2 --use-rope-scaling") == read(yarn)
    ratio = read(f"{yarn} --mscale 0.5 --mscale-all-dim 0.7").spectrum().magnitude
    assert math.isclose(ratio, mscale(4.0, 0.5) / mscale(4.0, 0.7), rel_tol=1e-15)
    assert read(f"{yarn} --mscale 0").spectrum().magnitude == 1.0
    assert read("--position-embedding-type none") == ()
    with pytest.raises(UnsupportedError, match="stops on --rotary-interleaved with YaRN"):
        read(f"{yarn} --rotary-interleaved")
    with pytest.raises(UnsupportedError, match="learned_absolute"):
        read("")
    with pytest.raises(ConfigError, match="--rotary-base must be a number, got 'many'"):
        read(f"{rope} --rotary-base many")


def test_layers_without_positions() -> None:
    config = published("smollm3-3b")
    payload, losses = megatron.write(hf.read(config), config, LENGTH)
    assert losses == ()
    pattern = payload["args"][payload["args"].index("--no-rope-freq") + 1]
    assert pattern == "[" + ",".join(["0,0,0,1"] * 9) + "]"
    assert megatron.read(payload, config) == hf.read(config)
    every_fourth = megatron.read({"args": ["--position-embedding-type", "rope", "--no-rope-freq", "4"]}, config)
    assert [e == () for e in every_fourth] == [e == () for e in hf.read(config)]


def test_whole_numbers_are_told() -> None:
    payload, losses = megatron.write(every(rw.Linear(2.5)), LLAMA, LENGTH)
    assert "whole numbers" in losses[0].what
    # 2.5 becomes 2: rates a quarter too fast
    assert losses[0].frequency == pytest.approx(0.25, rel=1e-14)
    base = 5e5 * 4.0 ** (128 / 126)
    payload, losses = megatron.write(every(rw.NTK(4.0)), LLAMA, LENGTH)
    assert payload["args"][5] == str(round(base))
    assert losses[0].frequency == pytest.approx(abs((base / round(base)) ** (126 / 128) - 1), rel=1e-6)


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        (every(rw.NTKByParts(2.0, 8192)), "no arguments of Megatron say"),
        (every(rw.Llama3(8.0, 4096)), "no arguments of Megatron say"),
        (every(rw.Yarn(2.0, 8192, ramp="rotations")), "no arguments of Megatron say|by pair index"),
        ((Rotary(128, 5e5, (rw.Yarn(2.0, 8192),), "interleaved"),) * 32, "paired in halves"),
        ((*every()[1:], Rotary(128, 1e4)), "one rotation for every layer"),
        ((Rotary(128, 5e5, unscaled=4),) * 32, "first channels by one coordinate"),
    ],
    ids=["by parts", "llama 3", "turns", "pairs", "layers", "unscaled"],
)
def test_what_no_arguments_say_is_refused(encodings: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        megatron.write(encodings, LLAMA, LENGTH)
