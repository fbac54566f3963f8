"""Whether what an engine will compute is what was meant."""

import math
from collections.abc import Sequence

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.formats.hf import Layer
from ropewalk.spectrum import for_length

CLOSE = 1e-6  # relative; float32, in which every engine computes, keeps 6e-8 and loses some of it in powers
STILL_RATE = 1e-15  # radians per position that count as none


def disagreement(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> str | None:
    """The first layer at which two lists of encodings rotate differently in texts of `length` tokens, in words."""
    if len(wanted) != len(got):
        return f"{len(got)} layers instead of {len(wanted)}"
    pairs = list(zip(wanted, got, strict=True))
    for mine, theirs in dict.fromkeys(pairs):
        i = pairs.index((mine, theirs))
        if not (isinstance(mine, Rotary) and isinstance(theirs, Rotary)):
            if mine != theirs:
                return f"layer {i} is {theirs!r} instead of {mine!r}"
            continue
        a, b = for_length(mine, length).spectrum(), for_length(theirs, length).spectrum()
        if mine.pairing != theirs.pairing or len(a.inv_freq) != len(b.inv_freq):
            return f"layer {i} turns {2 * len(b.inv_freq)} channels paired {theirs.pairing}"
        if not math.isclose(a.magnitude, b.magnitude, rel_tol=CLOSE):
            return f"layer {i} has a magnitude of {b.magnitude:.6g} instead of {a.magnitude:.6g}"
        for pair, (f, g) in enumerate(zip(a.inv_freq, b.inv_freq, strict=True)):
            if not math.isclose(f, g, rel_tol=CLOSE, abs_tol=STILL_RATE):
                return f"layer {i}, pair {pair} turns by {g:.6g} instead of {f:.6g} radians per position"
    return None
