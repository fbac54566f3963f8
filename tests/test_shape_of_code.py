"""The shape that source files keep: short, narrow, layered. Every check is seen to fail on a bad snippet first."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ropewalk"
FILE_LINES, FUNCTION_LINES, PARAMETERS = 300, 40, 6
ENCODING_LINES = 80
# what one reads to know how an encoding works
READERS_PATH = ("tokens.py", "sites.py", "encodings/bias/sandwich.py", "attention/reference.py")
# a file imports from its own layer and from those before it
LAYERS = """
errors written kernels tokens media masks spectrum rotation sites scalings encodings remaps notation attention probe
formats models evaluate extend generate bench lab reason report cli
""".split()
TORCHLESS = ("scalings", "formats")
# the places where positions are made: of plain rows, of patches between texts, and as engines count them; everything
# else is given them
COUNTING = ("tokens.py", "media.py", "formats/precision.py")

Check = Callable[[str, ast.Module], Iterator[str]]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, at any depth."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported(tree: ast.Module) -> Iterator[str]:
    """The dotted name of everything that is imported, at any depth of the file; relative imports start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def layer(path: str) -> str:
    """The layer of a file, given relative to the package: the folder or the module at the top."""
    return path.split("/")[0].removesuffix(".py")


def too_long(path: str, text: str) -> bool:
    return len(text.splitlines()) > (ENCODING_LINES if layer(path) == "encodings" else FILE_LINES)


def function_lengths(path: str, tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        lines = (f.end_lineno or f.lineno) - f.lineno + 1
        if lines > FUNCTION_LINES:
            yield f"{f.name} has {lines} lines"


def parameters(path: str, tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        named = [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
        count = len(named) - (named[:1] in (["self"], ["cls"]))
        # the parameters of a command are its options, and those are the fields of its request
        command = path.startswith("cli/") and f.name.endswith("_command")
        # attention takes three tensors, whose they are, and the encoding with its weights
        wide = ("attend", "attend_linear", "choose", "logits", "forward")
        attention = path.startswith("attention/") and f.name in wide
        # a kernel takes tensors, and each as an address with its strides
        kernel = path.startswith("kernels/")
        if count > PARAMETERS and not command and not attention and not kernel:
            yield f"{f.name} has {count} parameters"


def open_signatures(path: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"{f.name} takes **{f.args.kwarg.arg}" for f in functions(tree) if f.args.kwarg and f.name[0] != "_")


def upward_imports(path: str, tree: ast.Module) -> Iterator[str]:
    if path in ("__init__.py", "api.py"):
        return
    if layer(path) not in LAYERS:
        yield "is in no layer"
        return
    allowed = LAYERS[: LAYERS.index(layer(path)) + 1]
    for name in imported(tree):
        package, _, inside = name.partition(".")
        if package == "" or (package == "ropewalk" and inside.split(".")[0] not in allowed):
            yield f"imports {name}"


def torch_imports(path: str, tree: ast.Module) -> Iterator[str]:
    if layer(path) in TORCHLESS:
        yield from (f"imports {name}" for name in imported(tree) if name.split(".")[0] == "torch")


def prints(path: str, tree: ast.Module) -> Iterator[str]:
    if layer(path) != "cli":
        calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
        yield from (f"line {n.lineno} prints" for n in calls if ast.unparse(n.func) == "print")


def counted_positions(path: str, tree: ast.Module) -> Iterator[str]:
    # a kernel counts the lanes of a block, and knows of no Tokens
    if path not in COUNTING and layer(path) != "kernels":
        named = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute | ast.Name | ast.alias))
        words = ((n, getattr(n, "attr", None) or getattr(n, "id", None) or getattr(n, "name", "")) for n in named)
        yield from (f"line {n.lineno} uses arange" for n, word in words if word.split(".")[-1] == "arange")


CHECKS: tuple[Check, ...] = (
    function_lengths,
    parameters,
    open_signatures,
    upward_imports,
    torch_imports,
    prints,
    counted_positions,
)
FILES = sorted(p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py"))


def test_there_is_something_to_check() -> None:
    assert {"tokens.py", "scalings/yarn.py"} <= set(FILES)


@pytest.mark.parametrize("path", FILES)
def test_shape(path: str) -> None:
    text = (SOURCE / path).read_text()
    assert not too_long(path, text)
    tree = ast.parse(text)
    assert [fault for check in CHECKS for fault in check(path, tree)] == []


LONG = "def f():\n" + "    pass\n" * FUNCTION_LINES
BAD = [
    (function_lengths, "cli/x.py", LONG),
    (function_lengths, "cli/x.py", "class A:\n" + "".join(f"  {line}\n" for line in LONG.splitlines())),
    (parameters, "cli/x.py", "def f(a, b, c, /, d, *, e, f, g): ..."),
    (parameters, "cli/x.py", "class A:\n  async def f(self, a, b, c, d, e, f, g): ..."),
    (open_signatures, "cli/x.py", "def f(a, **kwargs): ..."),
    (open_signatures, "cli/x.py", "class A:\n  def f(self, **options): ..."),
    (upward_imports, "tokens.py", "from ropewalk.sites import turn"),
    (upward_imports, "scalings/x.py", "import ropewalk.encodings"),
    (upward_imports, "formats/x.py", "def f():\n  from ropewalk import models"),
    (upward_imports, "cli/x.py", "from ropewalk import Rotary"),
    (upward_imports, "cli/x.py", "import ropewalk"),
    (upward_imports, "elsewhere/x.py", ""),
    (upward_imports, "kernels/x.py", "from ropewalk.tokens import Tokens"),
    (upward_imports, "scalings/x.py", "from . import yarn"),
    (upward_imports, "scalings/x.py", "from .yarn import Yarn"),
    (torch_imports, "scalings/x.py", "def f():\n  import torch.nn"),
    (torch_imports, "formats/x.py", "from torch import Tensor"),
    (prints, "models/x.py", "print(1)"),
    (counted_positions, "sites.py", "import torch\ntorch.arange(3)"),
    (counted_positions, "sites.py", "from torch import arange as count"),
]
GOOD = [
    (function_lengths, "cli/x.py", LONG.removesuffix("    pass\n")),
    (parameters, "cli/x.py", "class A:\n  def f(self, a, b, c, d, e, f, *rest): ..."),
    (open_signatures, "cli/x.py", "def _f(**kwargs): ..."),
    (
        upward_imports,
        "encodings/x.py",
        "import torch\nfrom ropewalk import scalings, errors\nimport ropewalk.encodings.y",
    ),
    (upward_imports, "__init__.py", "from ropewalk.cli import main"),
    (torch_imports, "sites.py", "import torch"),
    (parameters, "kernels/x.py", "def f(a, b, c, d, e, f, g, h): ..."),
    (counted_positions, "kernels/x.py", "import triton.language as tl\ntl.arange(0, 4)"),
    (prints, "cli/x.py", "print(1)"),
    (counted_positions, "tokens.py", "import torch\ntorch.arange(3)"),
    (counted_positions, "media.py", "import torch\ntorch.arange(3)"),
]


@pytest.mark.parametrize(("check", "path", "text"), BAD)
def test_a_check_sees_what_it_is_for(check: Check, path: str, text: str) -> None:
    assert list(check(path, ast.parse(text)))


@pytest.mark.parametrize(("check", "path", "text"), GOOD)
def test_a_check_lets_pass_what_is_allowed(check: Check, path: str, text: str) -> None:
    assert list(check(path, ast.parse(text))) == []


def test_a_long_file_is_seen() -> None:
    assert too_long("cli/x.py", "#\n" * 301)
    assert not too_long("cli/x.py", "#\n" * 300)
    assert too_long("encodings/bias/x.py", "#\n" * 81)
    assert not too_long("encodings/bias/x.py", "#\n" * 80)


def test_the_path_of_a_reader_is_short() -> None:
    assert sum(len((SOURCE / path).read_text().splitlines()) for path in READERS_PATH) < 300


def test_every_check_is_seen_to_fail() -> None:
    assert {check for check, _, _ in BAD} == set(CHECKS)


ADDED = """
import sys, torch
before = set(sys.modules)
import {module}
added = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
sys.stdout.write(" ".join(sorted(added)))
"""


def added_by(module: str) -> list[str]:
    """The packages that importing a module loads, beyond the standard library and what torch loads itself."""
    code = [sys.executable, "-c", ADDED.format(module=module)]
    return subprocess.run(code, capture_output=True, text=True, check=True).stdout.split()


def test_the_package_imports_torch_alone() -> None:
    assert added_by("ropewalk") == ["ropewalk"]


def test_an_import_of_more_would_be_noticed() -> None:
    assert "pytest" in added_by("pytest, ropewalk")
