"""What a search tries: every static scaling, over factors and magnitudes, and the two honest baselines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ropewalk.encodings import Rotary
from ropewalk.errors import ConfigError, require
from ropewalk.models.attach import Encoding
from ropewalk.notation import parse
from ropewalk.scalings import NTK, Linear, Llama3, NTKByParts, Proportional, RadixNTK, Yarn
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import Adapts, Scaling
from ropewalk.written import short

Rule = Scaling | Adapts
UNMODIFIED = "unmodified"


class Candidate(NamedTuple):
    """Positions for every layer, under the name that rows, tables and figures use."""

    name: str
    encodings: tuple[Encoding, ...]
    role: str = "candidate"  # or "unmodified", "truncated"


def truncated_name(window: int) -> str:
    return f"last {window} tokens"


def rules(factor: float, window: int) -> list[Rule]:
    """Method x factor x magnitude for a window that grows by `factor`, the usually best first.

    The first is read to the end and is the leader that others are measured against, so a good guess saves time.
    BaseChange and the other radix rules come close to NTK; LongRope and Rescale need factor lists.
    """
    gentle = round((1 + mscale(factor)) / 2, 4)
    return [
        Yarn(factor, window, magnitude=gentle),
        Yarn(factor, window),
        NTKByParts(factor, window),
        Llama3(factor, window),
        NTK(factor),
        Yarn(2 * factor, window),
        NTK(2 * factor),
        RadixNTK(factor, "mixed"),
        Linear(factor),
        Proportional(0.75),
    ]


def with_rule(encodings: Sequence[Encoding], rule: Rule, reaching: Sequence[bool]) -> tuple[Encoding, ...]:
    """`encodings` with one more scaling in every rotating layer that reaches beyond the window."""
    return tuple(
        replace(e, scaling=(*e.scaling, rule)) if isinstance(e, Rotary) and far else e
        for e, far in zip(encodings, reaching, strict=True)
    )


def reaching_layers(config: Any, window: int) -> list[bool]:
    """Which layers attend beyond `window`: not those that slide over less."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    sliding = getattr(config, "sliding_window", None)
    near = sliding is not None and sliding <= window
    return [not (near and kind == "sliding_attention") for kind in kinds]


def named(text: str, encodings: Sequence[Encoding], reaching: Sequence[bool], option: str = "--method") -> Candidate:
    """The candidate that a user writes: a scaling, or a whole Rotary for all layers.

    Raises ConfigError, naming the option and what is known, for anything else.
    """
    value = parse(text)
    if isinstance(value, Rotary):
        each = tuple(value if isinstance(e, Rotary) and far else e for e, far in zip(encodings, reaching, strict=True))
        return Candidate(short(value), each)
    if not isinstance(value, (Scaling, Adapts)):
        raise ConfigError(f"{option} must be a scaling such as Yarn(factor=2.0, trained_length=8192), got {text!r}")
    return Candidate(short(value), with_rule(encodings, value, reaching))


def field(
    encodings: tuple[Encoding, ...], window: int, target: int, reaching: Sequence[bool], method: str | None
) -> list[Candidate]:
    """All that race to `target` tokens: the candidates, best guess first, with the baselines behind the first."""
    require(target > window, "--to", f"beyond the trained window of {window} tokens", target)
    if method is None:
        made = [(short(rule), with_rule(encodings, rule, reaching)) for rule in rules(target / window, window)]
        entrants = [Candidate(name, each) for name, each in made]
    else:
        entrants = [named(method, encodings, reaching)]
    baselines = [
        Candidate(UNMODIFIED, tuple(encodings), "unmodified"),
        Candidate(truncated_name(window), tuple(encodings), "truncated"),
    ]
    return [entrants[0], *baselines, *entrants[1:]]
