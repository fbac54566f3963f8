"""A model of a few thousand numbers, and a stream that it can learn something from."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ropewalk.lab.model import Shape
from ropewalk.lab.train import Recipe, Task

TINY = Shape(vocabulary=16, width=32, layers=2, heads=2, hidden=32)


@pytest.fixture
def tiny() -> Shape:
    return TINY


@pytest.fixture(scope="session")
def stream() -> Tensor:
    """Words of a small vocabulary, one after the other."""
    draw = random.Random(0)
    words = [[draw.randrange(16) for _ in range(draw.randrange(2, 6))] for _ in range(8)]
    return torch.tensor([n for _ in range(800) for n in draw.choice(words)], dtype=torch.int16)


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    def made(encoding: Any = (), seed: int = 0, corpus: str = "words", **recipe: Any) -> Task:
        settings = {"steps": 8, "batch": 4, "length": 16, "warmup": 2} | recipe
        return Task(encoding, seed, TINY, Recipe(**settings), corpus, tmp_path / f"seed{seed}.safetensors")

    return made
