"""How keys are mapped for a cache, and how mapped keys are turned on to where they stand now.

A turn on is the difference of two angles and the ratio of two magnitudes, in float64, narrowed once.
Letters: B batch, T tokens, G key heads, D head channels, P pairs, N views.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches, standing
from ropewalk.encodings.rotary.log_n import LogN
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import ConfigError, UnsupportedError, require
from ropewalk.kernels.rotate import rotate
from ropewalk.sites import Biases, Embeds, Mixes, Rotates
from ropewalk.tokens import Tokens, contiguous


def mapped(encoding: Any, k: Tensor, at: Tokens) -> Tensor:
    """Raw keys k [B, G, T, D] as a layer's encoding maps them at `at`: [B, G, T, N D] in k's dtype, rounded once.

    View n in channels n D to (n + 1) D, one for each place where the branches of a distance rule let keys stand; a
    plain rotation has one view, and () and parts that leave keys alone return k itself. Tables are float32, float64 for
    float64 keys. Raises as `turning`.
    """
    e = turning(encoding)
    if e is None:
        return k
    views = [turned(k, rotary_of(e), angle, magnitude) for angle, magnitude in states(e, at)]
    return views[0] if len(views) == 1 else torch.cat(views, dim=-1)


def turning(encoding: Any) -> Rotary | Branches | None:
    """The part of a layer's encoding that maps keys; None where they stay raw.

    Raises UnsupportedError where mapped keys could not be turned on (xPos, learned rotations, scalings that depend on
    the length), ConfigError for more than one part that maps keys.
    """
    members = encoding if isinstance(encoding, tuple) else (encoding,)
    found = [e for e in members if isinstance(e, Rotary | Branches)]
    for e in members:
        if not isinstance(e, Rotary | Branches) and not leaves_keys(e):
            raise UnsupportedError(f"keys that {e!r} maps cannot be cached so: cache them raw, with () as encoding")
    require(len(found) < 2, "a layer's encoding", "of at most one part that maps keys", encoding)
    for e in found:
        try:
            rotary_of(e).spectrum()
        except ConfigError:
            why = "for it depends on the length: settle it, or cache them raw, with () as encoding"
            raise UnsupportedError(f"keys that {e!r} maps cannot be cached so, {why}") from None
    return found[0] if found else None


def leaves_keys(e: Any) -> bool:
    """Whether a part of an encoding has nothing to do with what a key is."""
    return isinstance(e, LogN | Temperature) or (
        isinstance(e, Biases) and not isinstance(e, Rotates | Mixes) and not isinstance(e, Embeds)
    )


def rotary_of(e: Rotary | Branches) -> Rotary:
    """The rotation of a distance rule, or the rotation itself."""
    return e.rotary if isinstance(e, Branches) else e


def states(e: Rotary | Branches | None, at: Tokens) -> list[tuple[Tensor, float]]:
    """Of each view: how far its keys at `at` are turned, Float64[B, T, P] (or [B, T, 1]), and their magnitude."""
    if e is None:
        return [(torch.zeros_like(at.order, dtype=torch.float64)[..., None], 1.0)]
    rotary = rotary_of(e)
    return [(rotary.angle(place), rotary.spectrum().magnitude) for place in key_places(e, at)]


def key_places(e: Rotary | Branches, at: Tokens) -> list[Tokens]:
    """Where keys stand, once for each place that is another: the views that are cached."""
    # where two branches let keys stand alike it is the same tensor
    return [standing(x) for x in {id(x): x for x in e.keys(at)}.values()] if isinstance(e, Branches) else [at]


def views(encoding: Any) -> int:
    """How many times a key is stored, each time as another branch turns it."""
    return len(states(turning(encoding), contiguous(1)))


def turned(x: Tensor, rotary: Rotary, angle: Tensor, magnitude: float | Tensor) -> Tensor:
    """x [B, G, T, D] turned by Float64 angles, and longer by `magnitude` (a number, or Float64[B, T, 1])."""
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = ((table * magnitude).to(x.device, wide) for table in (angle.cos(), angle.sin()))
    return rotate(x, cos, sin, rotary.pairing, rotary.offset)


def turned_on(k: Tensor, was: Tokens, at: Tokens, written: Sequence[tuple[Any, Tensor]], encoding: Any) -> Tensor:
    """Stored keys k [B, G, T, N D] as `encoding` maps them at `at`, turned once from how they were written at `was`.

    `written` lists encodings, each with Bool[B, T]: which tokens it mapped. Keys that have not moved stay bit for bit.
    """
    now, olds = turning(encoding), [(turning(old), mine) for old, mine in written]
    rotary = next((rotary_of(e) for e in (now, *(old for old, _ in olds)) if e is not None), None)
    if rotary is None:
        return k
    ends, starts = states(now, at), [(states(old, was), mine[..., None]) for old, mine in olds]
    out: list[Tensor] = []
    for n, (view, (angle, magnitude)) in enumerate(zip(k.chunk(len(ends), dim=-1), ends, strict=True)):
        start, length = torch.zeros_like(angle), torch.ones_like(angle[..., :1])
        for old, mine in starts:
            start = torch.where(mine, old[n][0], start)
            length = torch.where(mine, old[n][1], length)
        apart, ratio = angle - start, magnitude / length
        same = not bool(apart.any()) and bool((ratio == 1).all())
        out.append(view if same else turned(view, rotary, apart, ratio))
    return out[0] if len(out) == 1 else torch.cat(out, dim=-1)


def check_retune(layer: int, old: Any, new: Any) -> None:
    """Raise ConfigError, naming the layer, unless keys that `old` mapped can be turned to what `new` makes of them."""
    one, two = turning(old), turning(new)
    require(
        views(old) == views(new),
        f"encodings[{layer}]",
        f"one that stores keys as often as the former, in {views(old)} views",
        f"{new!r}, which takes {views(new)}",
    )
    if one is None or two is None:
        return
    for name in ("dim", "offset", "pairing"):
        known, wanted = (getattr(rotary_of(e), name) for e in (one, two))
        require(known == wanted, f"encodings[{layer}]", f"one that turns the same channels, {name} {known!r}", wanted)


def check_channels(encoding: Any, layer: int, channels: int) -> None:
    """Raise ConfigError, naming the layer, unless keys of so many channels can be what the encoding maps."""
    e, count = turning(encoding), views(encoding)
    least = 1 if e is None else rotary_of(e).offset + rotary_of(e).dim
    fits = channels % count == 0 and channels // count >= least
    rule = f"{count} views of at least {least} channels" if count > 1 else f"of at least {least} channels"
    require(fits, f"the keys of layer {layer}", rule, channels)
