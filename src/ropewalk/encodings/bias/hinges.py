"""A network with one input and one layer of rectified units is a line between any two of its hinges.

Letters: N inputs, U units, H outputs.
"""

import math

import torch
from torch import Tensor


def rectified(x: Tensor, rise: Tensor, shift: Tensor, out: Tensor, base: Tensor) -> Tensor:
    """[H, ...] of x [...]: out [H, U] times relu(rise [U] * x + shift [U]), plus base [H]; no number per x and unit.

    Only which units are active depends on x. Those that rise are so above their hinge, those that fall below it: the
    sum of what either kind adds to the line is kept for each place between two hinges, never a difference of sums, so
    that a unit that is not active leaves no rounding behind. A hinge that rounding puts on the wrong side of x moves
    the outcome by that rounding. All of it is differentiable, at a hinge as relu is: there no unit is active.
    """
    live = (rise != 0) | (shift > 0)
    with torch.no_grad():
        # a unit with neither rise nor fall has its hinge nowhere
        hinge = (-shift / rise).masked_fill(rise == 0, math.inf)
        # the largest number below a hinge is the last at which a falling unit is active
        hinge = torch.where(rise > 0, hinge, torch.nextafter(hinge, torch.full_like(hinge, -math.inf)))
        hinge, order = hinge.sort()
        passed = torch.bucketize(x.flatten(), hinge, out_int32=True)
    terms = torch.stack((out * rise, out * shift)) * live
    rising, falling = (rise > 0)[order], (rise <= 0)[order]
    terms = terms[..., order]
    before, nothing = (terms * rising).cumsum(-1), terms.new_zeros(2, len(out), 1)
    after = (terms * falling).flip(-1).cumsum(-1).flip(-1)
    slope, height = torch.cat((nothing, before), dim=-1) + torch.cat((after, nothing), dim=-1)
    # head by head: that is faster than one lookup of all, and holds less at once
    lines = zip(slope, height + base[:, None], strict=True)
    each = [torch.addcmul(b.index_select(0, passed), a.index_select(0, passed), x.flatten()) for a, b in lines]
    return torch.stack(each).unflatten(1, x.shape)
