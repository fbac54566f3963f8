import pytest

from ropewalk.bench.case import BACKWARD, BOTH, FORWARD
from ropewalk.bench.request import TIMES, BenchRequest, listed
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


SHAPES = {
    "nothing said": ({}, (32, 8, 128), (8, 8, 64)),
    "heads": ({"heads": 6}, (6, 6, 128), (6, 6, 64)),
    "key heads": ({"kv_heads": 2}, (32, 2, 128), (8, 2, 64)),
    "all": ({"heads": 4, "kv_heads": 1, "dims": (32,)}, (4, 1, 32), (4, 1, 32)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_sizes_that_are_not_given_are_those_of_what_is_compared(case: str) -> None:
    given, rotate, attend = SHAPES[case]
    found = {c.what: (c.heads, c.kv_heads, c.dim) for c in BenchRequest("all", **given).cases()}
    assert found == {"rotate": rotate, "attend": attend}


@pytest.mark.parametrize(("what", "tensors"), [("rotate", 5), ("attend", 6)])
def test_what_memory_cannot_hold_is_refused_and_what_it_can_is_not(
    what: str, tensors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 1_000_000}[name])
    # float32 of 4 + 1 heads of 8 channels, and values beside them in attention: 1 GB is room for eight times that
    most = 10**9 // (TIMES * tensors * 8 * 4)
    sizes = {"heads": 4, "kv_heads": 1, "dims": (8,), "dtypes": ("float32",)}
    BenchRequest(what, lengths=(1, most - 1), **sizes)
    with pytest.raises(ConfigError) as refused:
        BenchRequest(what, lengths=(1, most + 1), **sizes)
    words = "--length must be less: the comparison takes up to 1 GB and there are 1 GB of memory, got "
    assert str(refused.value) == f"{words}{most + 1}"


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
    "length": ({"lengths": (4, 0)}, "--length must be at least 1 each, got '4,0'"),
    "dim": ({"dims": (8, 7)}, "--dim must be even, got '8,7'"),
    "no dim": ({"dims": (0,)}, "--dim must be at least 1 each, got '0'"),
    "dtype": ({"dtypes": ("float32", "int8")}, "--dtype must be among float32, bfloat16, float16, got 'float32,int8'"),
    "bias": ({"biases": ("fire",)}, "--bias must be among alibi, t5, kerple, got 'fire'"),
    "layout": ({"layout": "thbd"}, "--layout must be one of bthd, bhtd"),
    "device": ({"device": "tpu"}, "--device must be one of cpu, cuda"),
    "repeats": ({"repeats": 0}, "--repeats must be at least 1, got 0"),
    "only": ({"only": ("ropewalk", "nobody")}, "--only must be among clone, copy_, ropewalk, "),
    "not there": ({"only": ("FlexAttention",)}, "flash-attn, got 'FlexAttention'"),
    "memory": ({"lengths": (10**12,)}, "--length must be less: the comparison takes up to "),
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
