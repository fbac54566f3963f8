import pytest

from ropewalk.bench.case import BACKWARD, BOTH, FORWARD
from ropewalk.bench.request import BenchRequest, listed
from ropewalk.errors import ConfigError


def test_cases_are_all_that_is_asked_for() -> None:
    request = BenchRequest("all", 4, 2, (5, 7), (8,), ("float32", "bfloat16"), ("t5",), gradients=True)
    found = [(c.what, c.stage, c.bias, c.length, c.dtype) for c in request.cases()]
    sizes = [(n, dtype) for n in (5, 7) for dtype in ("float32", "bfloat16")]
    assert found == [
        *(("rotate", stage, "", *size) for size in sizes for stage in (FORWARD, BACKWARD)),
        *(("attend", stage, "t5", *size) for size in sizes for stage in (FORWARD, BOTH)),
    ]
    assert {c.stage for c in BenchRequest("all").cases()} == {FORWARD}
    assert {c.what for c in BenchRequest("attend").cases()} == {"attend"}


def test_lists() -> None:
    assert listed("--length", "1, 512,4096", int) == (1, 512, 4096)
    assert listed("--dtype", "float32") == ("float32",)
    for text in ("", "1,", "many", "1.5"):
        with pytest.raises(ConfigError, match="--length must be whole numbers separated by commas, got"):
            listed("--length", text, int)


REFUSED = {
    "what": ({"what": "dance"}, "what to compare must be one of rotate, attend, all, got 'dance'"),
    "heads": ({"heads": 0}, "--heads must be at least 1, got 0"),
    "groups": ({"heads": 6, "kv_heads": 4}, "--heads must be a multiple of --kv-heads 4, got 6"),
    "kv heads": ({"kv_heads": 0}, "--kv-heads must be at least 1, got 0"),
    "length": ({"lengths": (4, 0)}, "--length must be positive"),
    "dim": ({"dims": (7,)}, "--dim must be even"),
    "dtype": ({"dtypes": ("float32", "int8")}, "--dtype must be among float32, bfloat16, float16, got 'float32,int8'"),
    "bias": ({"biases": ("fire",)}, "--bias must be among alibi, t5, kerple, got 'fire'"),
    "layout": ({"layout": "thbd"}, "--layout must be one of bthd, bhtd"),
    "device": ({"device": "tpu"}, "--device must be one of cpu, cuda"),
    "repeats": ({"repeats": 0}, "--repeats must be at least 1, got 0"),
    "only": ({"only": ("ropewalk", "nobody")}, "--only must be among copy; copy into ready memory; ropewalk; "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        BenchRequest(**given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device must be cpu where PyTorch finds no GPU, got 'cuda'"):
        BenchRequest(device="cuda")
