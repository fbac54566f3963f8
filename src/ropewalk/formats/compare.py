"""Whether what an engine will compute is what was meant."""

import math
from collections.abc import Sequence

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.losses import STILL_RATE
from ropewalk.spectrum import for_length

CLOSE = 1e-6  # relative; float32, in which every engine computes, keeps 6e-8 and loses some of it in powers
# the fields of a Rotary that say which channels rotate together, and by which coordinate
CHANNELS = ("dim", "pairing", "offset", "unscaled", "sections", "layout", "rates")


def disagreement(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> str | None:
    """The first layer at which two lists of encodings rotate differently in texts of `length` tokens, in words."""
    if len(wanted) != len(got):
        return f"{len(got)} layers instead of {len(wanted)}"
    pairs = list(zip(wanted, got, strict=True))
    for old, new in dict.fromkeys(pairs):
        i = pairs.index((old, new))
        mine, theirs = rotary_of(old), rotary_of(new)
        if mine is None or theirs is None or others_of(old) != others_of(new):
            if old != new:
                return f"layer {i} is {new!r} instead of {old!r}"
            continue
        if differs := turns_otherwise(mine, theirs, length):
            return f"layer {i}{differs}"
    return None


def comparable(wanted: Sequence[Layer], got: Sequence[Layer]) -> bool:
    """Whether all that can differ are rates and magnitudes: the same channels rotate in the same pairs."""
    return len(wanted) == len(got) and all(map(same_channels, wanted, got))


def same_channels(a: Layer, b: Layer) -> bool:
    mine, theirs = rotary_of(a), rotary_of(b)
    if mine is None or theirs is None or others_of(a) != others_of(b):
        return a == b
    return all(getattr(mine, field) == getattr(theirs, field) for field in CHANNELS)


def is_plain(e: Rotary) -> bool:
    """Whether a rotation turns the first channels of a head, at every position, by one coordinate."""
    return all(getattr(e, field) == Rotary.__dataclass_fields__[field].default for field in CHANNELS[2:])


def turns_otherwise(mine: Rotary, theirs: Rotary, length: int) -> str | None:
    """The first difference between two rotations, to follow the name of what they belong to."""
    a, b = for_length(mine, length).spectrum(), for_length(theirs, length).spectrum()
    for field in CHANNELS:
        if getattr(mine, field) != getattr(theirs, field):
            return f" has {field} {getattr(theirs, field)!r} instead of {getattr(mine, field)!r}"
    if not math.isclose(a.magnitude, b.magnitude, rel_tol=CLOSE):
        return f" has a magnitude of {b.magnitude:.6g} instead of {a.magnitude:.6g}"
    for pair, (f, g) in enumerate(zip(a.inv_freq, b.inv_freq, strict=True)):
        if not math.isclose(f, g, rel_tol=CLOSE, abs_tol=STILL_RATE):
            return f", pair {pair} turns by {g:.6g} instead of {f:.6g} radians per position"
    return None
