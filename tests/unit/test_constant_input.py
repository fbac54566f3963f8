"""Attention over equal tokens is the same everywhere unless positions meet the embeddings or the values."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ropewalk as rw
from ropewalk.sites import Embeds

FILE = Path(__file__).parents[2] / "examples" / "constant_input.py"
ENDS = 1e-12  # what is left of weights that sum to one in float64


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("constant_input", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLE = example()


@pytest.mark.parametrize("encoding", [(), *rw.exported(), (rw.Rotary(16), rw.Alibi(4), rw.LogN(3))], ids=rw.short)
def test_only_embeddings_and_values_tell_equal_tokens_apart(encoding: Any) -> None:
    escapes = isinstance(encoding, Embeds) or hasattr(encoding, "values")
    apart = EXAMPLE.spread(encoding)
    assert apart > 1e-3 if escapes else apart < ENDS


def test_those_that_act_behind_the_softmax_escape() -> None:
    assert {type(e).__name__ for e in rw.exported() if hasattr(e, "values")} >= {"Shaw", "Urpe"}


def test_the_example_prints_one_verdict_for_each_encoding(capsys: pytest.CaptureFixture[str]) -> None:
    EXAMPLE.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines].count("constant") > 10
    assert [line[20:].strip() for line in lines] == [rw.short(e) for e in rw.exported()]
    urpe = next(line for line in lines if "Urpe" in line)
    assert urpe.startswith("differs by ")
