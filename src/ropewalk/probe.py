"""What an encoding can do, found out by trying: nothing here is declared, so nothing can disagree with the code.

Letters: B batch, T tokens, Q queries, K keys, H heads, D head channels, C model channels.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.attention import reference
from ropewalk.attention.attend import choose
from ropewalk.attention.module import initial
from ropewalk.attention.trial import Trial, at_places, members, reach
from ropewalk.encodings.mix.branches import Branches
from ropewalk.errors import ConfigError
from ropewalk.rotation import Rotation
from ropewalk.sites import Biases, Embeds, Mixes, Rotates, parts
from ropewalk.spectrum import for_length
from ropewalk.tokens import Tokens, contiguous, select

SITES = {"embed": Embeds, "rotation": Rotates, "bias": Biases, "mix": Mixes}
# primes: a shift by a round number is a multiple of most groups and chunks, and hides them; the first is a cheap one
SHIFTS = (13, 1009, 100_003)
STEPS, CONTENTS = 256, 4  # neighbours in a row of equal tokens, and how many contents they are given
# tables are float32; a logit is a sum of products with them
ROUNDING = 64 * torch.finfo(torch.float32).eps


class Properties(NamedTuple):
    """What was found. Weights are the initial ones moved at random, so that zeros and ones hide nothing."""

    sites: tuple[str, ...]  # of "embed", "rotation", "bias", "mix"
    relative: bool  # a shift of all tokens changes no logit and no value
    norm: str | None  # of rotated vectors: "kept", "scaled" (all alike) or "changed"; None where nothing rotates
    trend: str  # of the logit between equal contents as distance grows: "falls", "flat", "rises" or "mixed"
    keys: str  # in a cache: "mapped" where that is safe (by every branch), "raw" where each query needs them afresh
    learned: int  # how many numbers
    limit: int | None  # the last position that it can be evaluated at; None where the formula has no end
    linear: bool  # usable in linear attention: it maps single tokens only
    kernel: str  # what computes it
    why: str  # the reason, in words
    constant: bool  # equal tokens leave attention equal, whatever their positions (Su's probe, kexue.fm/archives/9105)

    @property
    def monotone(self) -> bool:
        """Whether a logit never rises with distance."""
        return self.trend in ("falls", "flat")


def probe(encoding: Any) -> Properties:
    """The properties of one encoding, of a tuple of them, or of () in some milliseconds; the same at every call.

    Rules that depend on the served length are settled for one beyond the trained window. Raises ConfigError where the
    parts do not fit into one attention layer.
    """
    settled = for_length(encoding, 2 * reach(encoding))
    try:
        trial = Trial(settled, limit(settled))
        traces(trial, 0)
    except RuntimeError as error:
        line = f"encoding must be of parts that fit one attention layer, got {encoding!r}: {error}".split("\n")[0]
        raise ConfigError(line) from error
    kernel, why = fused_by(settled)
    return Properties(
        sites=tuple(name for name, site in SITES.items() if parts(encoding, site)),
        relative=relative(trial),
        norm=norm(trial),
        trend=trend(trial),
        keys="mapped" if leaves_keys_mapped(encoding) else "raw",
        learned=sum(x.numel() for x in initial(encoding).values()),
        limit=trial.limit,
        linear=not parts(encoding, Biases) and not parts(encoding, Mixes),
        kernel=kernel,
        why=why,
        constant=constant(trial),
    )


def leaves_keys_mapped(encoding: Any) -> bool:
    """Whether the length and the query are nothing to a key: it is mapped once, or once for each branch of a rule."""
    alone = all(isinstance(part, Branches) for part in parts(encoding, Mixes))
    return alone and for_length(encoding, 10**9) == encoding


@functools.lru_cache(maxsize=256)
def limit(encoding: Any) -> int | None:
    """The last position that every part takes, or None where none of them ends within the square of its reach."""
    ends = (end(Trial(e), reach(e) ** 2 + SHIFTS[1]) for e in members(encoding))
    return min((n for n in ends if n is not None), default=None)


def end(trial: Trial, far: int) -> int | None:
    """The last position below `far` that can be evaluated beside position 0; None if `far` can be."""
    if evaluates(trial, far):
        return None
    low, high = 0, far
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if evaluates(trial, middle) else (low, middle)
    return low


def evaluates(trial: Trial, place: int) -> bool:
    """Whether a query at `place` gets finite logits with itself and with a key at 0."""
    at = at_places([(0,) * trial.axes, (place,) * trial.axes])
    try:
        q, k, _ = trial.qkv(trial.words(at), at)
        late = reference.embed(trial.words(at), trial.encoding, trial.w, at, "pre_head")
        return bool(trial.logits(q, k, at, 1).isfinite().all() and late.isfinite().all())
    except ConfigError:
        return False


def relative(trial: Trial, shifts: Sequence[int] = SHIFTS) -> bool:
    """Whether a text gets the same logits and values anywhere; a position outside a table counts against it."""
    here = traces(trial, 0)
    for shift in shifts:
        try:
            there = traces(trial, shift)
        except ConfigError:
            return False
        if not all(map(same, here, there)):
            return False
    return True


def traces(trial: Trial, shift: int) -> list[Tensor]:
    """All that positions can change: embeddings before the head, logits, and what equal weights make of the values.

    One foreign token stands before the shifted text, so that what leaks from the edge of a row counts as position.
    """
    at, x = trial.tokens, trial.words(trial.tokens)
    first = int(shift > 0)
    if first:
        where = torch.cat([at.position[:, :1], at.position], dim=1) + shift
        at = contiguous(where.shape[1], start=shift - 1)._replace(position=where)
        x = torch.cat([-x[:, :1], x], dim=1)
    q, k, v = trial.qkv(x, at)
    found = [reference.embed(x, trial.encoding, trial.w, at, "pre_head")[:, first:], v[:, :, first:]]
    for query in some(trial.tokens):
        s = trial.logits(q, k, at, query + first)[..., first:]
        text = select(at, slice(first, first + query + 1))
        found += hidden(trial, text)
        mixed = valued(trial, torch.full_like(s, 1 / s.shape[-1]), v[:, :, first : first + query + 1], text)
        found += [s, *mixed]
    return found


def some(at: Tokens) -> list[int]:
    """Four of the tokens, by index: the first, the last and two between."""
    return [(at.order.shape[1] - 1) * part // 3 for part in range(4)]


def hidden(trial: Trial, at: Tokens) -> list[Tensor]:
    """Which tokens a part with a mask of its own keeps from the last one."""
    new = select(at, slice(-1, None))
    return [(~e.visible(new, at)).double() for e in parts(trial.encoding, Mixes) if hasattr(e, "visible")]


def valued(trial: Trial, a: Tensor, v: Tensor, at: Tokens) -> list[Tensor]:
    """What parts with a way of their own to weigh values make of them for the last token."""
    new = select(at, slice(-1, None))
    return [e.values(trial.w, a, v, new, at) for e in parts(trial.encoding, Mixes) if hasattr(e, "values")]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal within the rounding of float32 tables."""
    return bool((a - b).abs().max() <= ROUNDING * max(1.0, float(a.abs().max())))


def norm(trial: Trial) -> str | None:
    """What mapping does to the lengths of vectors at all of the tokens."""
    rotating = parts(trial.encoding, Rotates)
    if not rotating:
        return None
    q, k, _ = trial.qkv(trial.words(trial.tokens), trial.tokens)
    mapped = reference.rotate(q, k, tuple(rotating), trial.tokens, trial.w)
    ratio = torch.stack([new.norm(dim=-1) / old.norm(dim=-1) for new, old in zip(mapped, (q, k), strict=True)])
    if same(ratio, torch.ones_like(ratio)):
        return "kept"
    return "scaled" if same(ratio, ratio.mean().expand_as(ratio)) else "changed"


def trend(trial: Trial) -> str:
    """How the logit between tokens of equal content changes as the key moves away, along all axes at once."""
    at = at_places([(i,) * trial.axes for i in range(min(STEPS, trial.span + 1))])
    steps: list[Tensor] = []
    for content in range(CONTENTS):
        q, k, _ = trial.qkv(equal(trial, at, content), at)
        s = trial.logits(q, k, at, at.order.shape[1] - 1).flip(-1)
        steps.append(s.diff() / max(1.0, float(s.abs().max())))
    rises, falls = (any(bool((sign * s > ROUNDING).any()) for s in steps) for sign in (1, -1))
    return {(True, True): "mixed", (True, False): "rises", (False, True): "falls"}.get((rises, falls), "flat")


def constant(trial: Trial) -> bool:
    """Whether a row of equal tokens leaves causal attention as it came, to float64's last places (and so cannot count).

    A softmax over values that are all alike returns that value, however it weighs them.
    """
    at = trial.tokens
    q, k, v = trial.qkv(equal(trial, at, 0), at)
    chosen = ((q[:, :, i : i + 1], select(at, slice(i, i + 1))) for i in some(at))
    out = torch.cat([reference.attend(one, k, v, trial.encoding, trial.w, new, at) for one, new in chosen], dim=2)
    return bool((out - out[:, :, :1]).abs().max() <= 1e-12 * max(1.0, float(out.abs().max())))


def equal(trial: Trial, at: Tokens, content: int) -> Tensor:
    """[B, T, C]: the same embedding for every token."""
    return trial.words(at)[:, content : content + 1].expand(-1, at.order.shape[1], -1)


def fused_by(encoding: Any) -> tuple[str, str]:
    """What computes attention with this encoding over a plain text, and why it is that."""
    trial = Trial(encoding, limit(encoding))
    at = contiguous(2) if trial.axes == 1 else trial.tokens
    backend, why = choose(*trial.qkv(trial.words(at), at), encoding, trial.w, at, at)
    rotating = parts(encoding, Rotates)
    if backend == "reference" or not rotating:
        return backend, why
    alone = Trial(tuple(rotating))
    own = [e for e in rotating if not isinstance(e.rotation(alone.w, alone.tokens), Rotation)]
    if own:
        return f"torch + {backend}", f"{type(own[0]).__name__} is not a table of cosines and sines; {why}"
    return f"rotary + {backend}", f"pairs of channels turn by a table of cosines and sines; {why}"
