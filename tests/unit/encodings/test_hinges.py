"""A line between any two hinges is the network itself, in value and in gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ropewalk as rw
from ropewalk.encodings.bias.hinges import rectified
from tolerance import tolerance


def network(x: Tensor, rise: Tensor, shift: Tensor, out: Tensor, base: Tensor) -> Tensor:
    """The definition, with a number per input and unit."""
    return (((x[..., None] * rise + shift).relu() @ out.T) + base).movedim(-1, 0)


def drawn(units: int, outputs: int = 3, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=draw, dtype=torch.float64) for s in (units, units, (outputs, units), outputs)]


def at_hinges(rise: Tensor, shift: Tensor) -> Tensor:
    """Every hinge, the numbers next to it, and some far out."""
    hinge = (-shift / rise)[(rise != 0) & (-shift / rise).isfinite()]
    far = torch.tensor([-1e6, -1.0, 0.0, 0.5, 1.0, 1e6], dtype=rise.dtype)
    sides = [torch.nextafter(hinge, torch.full_like(hinge, to)) for to in (-torch.inf, torch.inf)]
    return torch.cat((hinge, *sides, far))


CASES = {f"{n} units": drawn(n) for n in (1, 2, 32, 300)}
CASES["zero rise"] = [x.clone() for x in drawn(9)]
CASES["zero rise"][0][::2] = 0
CASES["zero shift"] = [x.clone() for x in drawn(9)]
CASES["zero shift"][1][:] = 0
CASES["nothing"] = [torch.zeros_like(x) for x in drawn(4)]
# powers of two, so that a hinge times a rise is exact: several units of either kind share one
CASES["shared hinges"] = [
    torch.tensor([2.0, -4.0, 0.5, 1.0, -1.0, 0.0, 0.0, 0.0]).double(),
    torch.tensor([-1.0, 2.0, -0.25, -0.5, 0.5, 1.0, -1.0, 0.0]).double(),
    drawn(8)[2],
    drawn(8)[3],
]
CASES["nearly flat"] = [x.clone() for x in drawn(6)]
CASES["nearly flat"][0][:4] = torch.tensor([1e-300, -1e-300, 5e-324, -5e-324], dtype=torch.float64)
cases = pytest.mark.parametrize("weights", CASES.values(), ids=CASES)


@cases
def test_values_are_those_of_the_network(weights: list[Tensor]) -> None:
    rise, shift, out, base = weights
    x = at_hinges(rise, shift)
    found = rectified(x, *weights)
    exact = network(x, *weights)
    # each unit rounds its product and its sum, and then the units are summed
    size = (rise * x[:, None]).abs() + shift.abs()
    room = torch.finfo(x.dtype).eps * (len(rise) + 4) * (size @ out.abs().T + base.abs()).T
    assert ((found - exact).abs() <= room).all()
    assert torch.equal(rectified(x.view(1, 2, -1) if len(x) % 2 == 0 else x.view(1, 1, -1), *weights).flatten(1), found)


@pytest.mark.parametrize("name", ["shared hinges", "zero shift", "zero rise", "nothing", "1 units", "32 units"])
def test_gradients_are_those_of_the_network_at_a_hinge_too(name: str) -> None:
    leaves = [x.clone().requires_grad_() for x in CASES[name]]
    inside = name in ("zero rise", "1 units", "32 units")
    # a hinge that is no number of float64 has no right side: there, points between the hinges are taken
    points = torch.linspace(-3, 3, 301, dtype=torch.float64) if inside else at_hinges(*CASES[name][:2])
    # times a rise below 1, the least number of all is nothing
    x = points[(points == 0) | (points.abs() > 1e-300)].requires_grad_()
    seed = torch.randn(3, len(x), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    exact = torch.autograd.grad(network(x, *leaves), [x, *leaves], seed)
    found = torch.autograd.grad(rectified(x, *leaves), [x, *leaves], seed)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, len(x)))
    assert name == "nothing" or max(float(g.abs().max()) for g in exact[1:4]) > 0


def test_gradients_by_differences() -> None:
    leaves = [x.clone().requires_grad_() for x in drawn(5)]
    x = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rectified, (x, *leaves))
    assert torch.autograd.gradgradcheck(rectified, (x, *leaves))


def test_a_unit_that_is_not_active_leaves_no_rounding_behind() -> None:
    # a rising unit of great weight starts at 10, a falling one ends at -10
    rise, shift = (torch.tensor(x) for x in ([1.0, 3e7, -3e7], [0.5, -3e8, -3e8]))
    x = torch.linspace(-1, 1, 101)
    out, base = torch.tensor([[1.0, 1e9, 1e9]]), torch.zeros(1)
    assert torch.equal(rectified(x, rise, shift, out, base)[0], (x + 0.5).relu())


class Largest(TorchDispatchMode):
    """Of all tensors that an operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            self.numbers = max(self.numbers, x.numel() if isinstance(x, Tensor) else 0)
        return out


def test_memory_does_not_grow_with_the_units() -> None:
    heads, at = 3, rw.contiguous(60)
    for hidden in (4, 400):
        encoding = rw.Fire(heads, hidden=hidden)
        w = {name: x.requires_grad_() for name, x in rw.initial(encoding).items()}
        with Largest() as seen:
            encoding.bias(w, at, at).square().sum().backward()
        assert seen.numbers == heads * 60 * 60
    with Largest() as seen:
        network(torch.rand(60, 60, dtype=torch.float64), *drawn(400))
    assert seen.numbers == 400 * 60 * 60
