"""The numeric vectors: every parameter and every input comes from the file, none of the numbers stands here.

ROPEWALK_VECTORS names another file of the same form to run instead.
"""

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from vectors.reading import Handler, Handlers, Read

FILE = Path(os.environ.get("ROPEWALK_VECTORS") or Path(__file__).parent / "fixtures" / "vectors.json")
VECTORS = json.loads(FILE.read_text())
FAMILIES = sorted(p.stem for p in (Path(__file__).parent / "vectors").glob("*.py") if p.stem != "reading")
HANDLERS: Handlers = {
    k: v for family in FAMILIES for k, v in importlib.import_module(f"vectors.{family}").HANDLERS.items()
}


def handler(name: str) -> tuple[Handler, float] | None:
    """What computes the vector: the longest name in HANDLERS that it starts with."""
    matches = [known for known in HANDLERS if name.startswith(known)]
    return HANDLERS[max(matches, key=len)] if matches else None


def deviation(found: Any, expected: Any) -> float:
    """The largest difference, relative where a number is above 1; infinite where the shapes or words differ."""
    if isinstance(found, Tensor | np.ndarray):
        found = found.tolist()
    if isinstance(expected, list):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return math.inf
        return max((deviation(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
    if isinstance(expected, str) and expected.endswith("inf"):
        expected = float(expected)
    if found == expected:
        return 0.0
    if not isinstance(found, int | float) or not isinstance(expected, int | float):
        return math.inf
    apart = abs(found - expected) / max(abs(expected), 1)
    return math.inf if math.isnan(apart) else apart


@pytest.mark.parametrize("name", list(VECTORS))
def test_vector(name: str) -> None:
    compute, within = handler(name) or pytest.fail("nothing computes this vector")
    params, inputs = Read(VECTORS[name]["params"]), Read(VECTORS[name]["inputs"])
    found = compute(params, inputs)
    assert deviation(found, VECTORS[name]["expected"]) <= within
    assert (params.seen, inputs.seen) == (set(params), set(inputs)), "a parameter or an input was not used"


def test_the_comparison_notices_a_difference_and_a_missing_number() -> None:
    assert deviation([1.0, 2.0], [1.0, 2.0]) == 0
    assert deviation([1.0, 2.0], [1.0, 2.5]) == pytest.approx(0.2)
    assert deviation([1.0, math.nan], [1.0, 2.0]) == math.inf
    assert deviation([-math.inf, 0.0], ["-inf", "-inf"]) == math.inf
    assert deviation(["7", None], ["7", None]) == 0
    assert deviation(["7", None], ["8", None]) == math.inf
    assert deviation([1.0], [1.0, 2.0]) == math.inf
