"""What can be said of Triton's kernels without a GPU: the interpreter runs them, and they compile for GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
INTERPRETED = "test_rotate_triton.py"
compiled_only = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def test_under_the_interpreter() -> None:
    # in a process of its own: the choice is made when triton is imported, and holds for all that is compiled there
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not gpu", str(HERE / INTERPRETED)]
    ran = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert "skipped" not in ran.stdout


class Recorded:
    """Stands in for a kernel and keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> "Recorded":
        self.grid = grid
        return self

    def __call__(self, *values: Any, **named: Any) -> None:
        self.values, self.named = values, named


def specialise(value: Any, at: tuple[int, ...], constants: dict, aligned: dict) -> Any:
    """The type of one argument, as a launch finds it: ones are constants, multiples of 16 are known to be such."""
    if isinstance(value, tuple):
        return tuple(specialise(v, (*at, i), constants, aligned) for i, v in enumerate(value))
    if isinstance(value, int) and value == 1:
        constants[at] = 1
        return "constexpr"
    if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
        aligned[at] = [["tt.divisibility", 16]]
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"


def compile_for(arch: int, kernel: Any, launched: Recorded) -> Any:
    """A kernel as a launch would compile it on a GPU of that compute capability."""
    names = kernel.arg_names
    constants = {(names.index(n),): v for n, v in launched.named.items() if n in names}
    options = {n: v for n, v in launched.named.items() if n not in names}
    aligned: dict[tuple[int, ...], list] = {}
    types = [specialise(v, (i,), constants, aligned) for i, v in enumerate(launched.values)]
    signature = dict.fromkeys(names, "constexpr") | dict(zip(names, types, strict=False))
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    target = triton.backends.compiler.GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=options)


def narrow(assembly: str) -> list[str]:
    """The accesses to global memory that move less than 16 bytes."""
    found = re.findall(r"\b(?:ld|st)\.global\S*", assembly)
    assert found
    return [access for access in found if not access.endswith(".v4.b32")]


@compiled_only
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotate_compiles_to_wide_accesses(
    arch: int, pairing: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ropewalk.kernels.triton import rotate

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, launched = rotate.rotate_kernel, Recorded()
    monkeypatch.setattr(rotate, "rotate_kernel", launched)
    q, k = (torch.empty(1, 64, n, 128, dtype=dtype).transpose(1, 2) for n in (32, 8))
    cos, sin = torch.empty(2, 1, 64, 64)
    rotate.launch([(q, q, cos, sin), (k, k, cos, sin)], pairing)
    found = compile_for(arch, kernel, launched)
    assert found.asm["cubin"]
    assert narrow(found.asm["ptx"]) == []
    # rows that start anywhere cannot be read so, and are seen not to be
    rest = q[..., 1:101]
    rotate.launch([(rest, rest.clone(), cos[..., :40], sin[..., :40])], pairing, 3)
    assert narrow(compile_for(arch, kernel, launched).asm["ptx"])
