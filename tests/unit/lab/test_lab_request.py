"""What is compared where nothing is said, and what is refused."""

from typing import Any

import pytest

import ropewalk as rw
from ropewalk.lab.presets import entrants, named
from ropewalk.lab.request import LabRequest
from ropewalk.written import short

NINE = ["sinusoidal", "learned", "RoPE", "xPos", "T5", "ALiBi", "KERPLE", "FIRE", "NoPE"]


def test_nine_and_five() -> None:
    assert [e.name for e in entrants(128)] == NINE
    assert [e.name for e in LabRequest(quick=True).entrants()] == ["sinusoidal", "RoPE", "T5", "ALiBi", "NoPE"]
    found = {e.name: e.encoding for e in LabRequest(train_length=64).entrants()}
    assert found["T5"] == rw.T5(4, max_distance=64, width=128)
    assert found["learned"] == rw.Learned(128, 64)
    assert found["NoPE"] == ()


def test_a_list_is_read_as_it_is_written() -> None:
    found = named("[Alibi(4), (Rotary(32), T5(4)), [Rotary(32), (), (), ()], ()]", 128)
    assert [e.name for e in found] == ["ALiBi", "(Rotary(dim=32), T5(heads=4))", "[Rotary(dim=32), (), (), ()]", "NoPE"]
    assert [e.encoding for e in found][2] == [rw.Rotary(32), (), (), ()]
    assert [e.encoding for e in named("Rotary(32, base=1e6)", 128)] == [rw.Rotary(32, base=1e6)]
    again = named(f"[{', '.join(short(e.encoding) for e in entrants(128))}]", 128)
    assert again == entrants(128)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Alibbi(4)]", "did you mean 'Alibi'"),
        ("[]", "at least one encoding"),
        ("[Alibi(4), Alibi(4)]", "given once, got 'ALiBi'"),
        ("[[Alibi(4), ()]]", "one encoding per layer, 4, got 2"),
        ("[Alibi(4)", "notation must be one value"),
        ("[3]", "--encodings must be a list of encodings"),
        ("[(Alibi(4), 3)]", "--encodings must be a list of encodings"),
        ("[Yarn(factor=2.0, trained_length=8)]", "--encodings must be a list of encodings"),
    ],
)
def test_what_is_no_encoding_is_one_line(text: str, says: str) -> None:
    with pytest.raises(rw.ConfigError) as found:
        LabRequest(encodings=text).entrants()
    assert says in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_length": 3}, "--train-length must be at least 4"),
        ({"times": 3}, "--times must be a power of two"),
        ({"times": 0}, "--times must be a power of two"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every must be at least 1"),
        ({"bpe": 256}, "--bpe must be at least 257"),
        ({"bpe": 40_000}, "--bpe must be at most 32768"),
        ({"rate": 0.0}, "--rate must be above 0"),
        ({"dtype": "float16"}, "--dtype must be float32 or bfloat16"),
        ({"held_out": 2047}, "--held-out must be at least 2048, the longest text"),
    ],
)
def test_bad_options_are_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(rw.ConfigError, match=says):
        LabRequest(**given)


def test_recipe_and_plan() -> None:
    whole, quick = LabRequest(), LabRequest(quick=True)
    assert (whole.recipe().steps, whole.recipe().warmup, whole.plan().tokens) == (1220, 60, 65_536)
    assert (quick.recipe().steps, quick.plan().tokens) == (390, 32_768)
    assert LabRequest(steps=20).recipe().warmup == 4
    assert LabRequest(held_out=5000).plan().tokens == 4096
    assert LabRequest(dtype="float32").recipe().dtype == "float32"
