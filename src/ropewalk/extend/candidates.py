"""What a search tries: static scalings over factors and magnitudes, rules without training, the honest baselines."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ropewalk.attention.step import parted
from ropewalk.encodings import (
    Adaptive,
    DualChunk,
    LeakyReRope,
    LMInfinite,
    LogN,
    ReRope,
    Rotary,
    SelfExtend,
    StreamingLLM,
    Temperature,
)
from ropewalk.encodings.mix.branches import Branches
from ropewalk.errors import require
from ropewalk.models.attach import Encoding
from ropewalk.models.load import Loaded
from ropewalk.notation import parse
from ropewalk.scalings import (
    NTK,
    DynamicNTK,
    DynamicYarn,
    Linear,
    Llama3,
    NTKByParts,
    Proportional,
    RadixNTK,
    Yarn,
)
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


def training_free(own: Rotary, window: int, target: int) -> list[Encoding]:
    """Rules that need no training, each with the sizes that its authors recommend for a window and a target.

    ReRoPE and its leaky form keep true distances over half of the window, Self-Extend over an eighth, so that no
    distance is beyond two thirds of it; DCA takes its own sizes; the sinks are 10 in LM-Infinite and 4 in StreamingLLM.
    """
    half, near = window // 2, window // 8
    group = math.ceil((target - near) / (2 * window // 3 - near))
    leak = float(math.ceil((target - half) / (window - half)))
    yarn = replace(own, scaling=(*own.scaling, Yarn(target / window, window)))
    moving = [replace(own, scaling=(*own.scaling, rule)) for rule in (DynamicYarn(window), DynamicNTK(1.0, window))]
    return [
        SelfExtend(own, near, group),
        DualChunk.trained_on(own, window),
        DualChunk.trained_on(own, window, "code"),
        DualChunk.trained_on(yarn, window),
        ReRope(own, half),
        (ReRope(own, half), LogN(window)),
        LeakyReRope(own, half, leak),
        LMInfinite(own, window),
        StreamingLLM(own, 4, window - 4),
        (yarn, LogN(window)),
        *map(Adaptive, moving),
    ]


def with_encoding(value: Any, encodings: Sequence[Encoding], reaching: Sequence[bool]) -> tuple[Encoding, ...]:
    """`encodings` with `value` in every rotating layer that reaches beyond the window."""
    return tuple(value if isinstance(e, Rotary) and far else e for e, far in zip(encodings, reaching, strict=True))


def extended(encodings: Sequence[Encoding], reaching: Sequence[bool]) -> Rotary | None:
    """The rotation of the layers that reach beyond the window, the first of them."""
    return next((e for e, far in zip(encodings, reaching, strict=True) if isinstance(e, Rotary) and far), None)


def told(value: Any, own: Rotary | None) -> str:
    """How an encoding is written for a model whose rotation is `own`, which need not be said."""
    text, known = short(value), short(own)
    return text.replace(f"rotary={known}, ", "").replace(f"encoding={known}, ", "") if own else text


def named(text: str, encodings: Sequence[Encoding], reaching: Sequence[bool], option: str = "--method") -> Candidate:
    """The candidate that a user writes: a scaling, or an encoding for all layers that reach beyond the window.

    A rule over a rotation may leave out the rotation, which is then the model's own: "ReRope(window=4096)". Raises
    ConfigError, naming the option and what is known, for anything else.
    """
    own = extended(encodings, reaching)
    value = parse(text, own)
    if isinstance(value, (Scaling, Adapts)):
        return Candidate(short(value), with_rule(encodings, value, reaching))
    kinds = Rotary | Branches | Adaptive | LogN | Temperature
    known = all(isinstance(e, kinds) for e in (value if isinstance(value, tuple) else (value,)))
    rule = "a scaling such as Yarn(factor=2.0, trained_length=8192), or an encoding such as ReRope(window=4096)"
    require(known, option, rule, text)
    if isinstance(value, LogN | Temperature) and own is not None:
        value = (own, value)
    parted(value)
    return Candidate(told(value, own), with_encoding(value, encodings, reaching))


def for_model(text: str, loaded: Loaded, length: int, option: str = "--encoding") -> Candidate:
    """`named` for a model that is loaded. Raises ConfigError too for groups that cannot hold `length` tokens."""
    window = loaded.trained_length
    reaching = reaching_layers(loaded.model.config.get_text_config(), window)
    found = named(text, loaded.encodings, reaching, option)
    check_capacity(found, window, length)
    return found


def field(
    encodings: tuple[Encoding, ...],
    window: int,
    target: int,
    reaching: Sequence[bool],
    method: str | None,
    methods: str = "scalings",
) -> list[Candidate]:
    """All that race to `target` tokens: the candidates, best guess first, with the baselines behind the first.

    That is `method` alone if given; otherwise the scalings, and with methods="all" what needs no training.
    """
    require(target > window, "--to", f"beyond the trained window of {window} tokens", target)
    if method is not None:
        entrants = [named(method, encodings, reaching)]
        check_capacity(entrants[0], window, target)
    else:
        made = [(short(rule), with_rule(encodings, rule, reaching)) for rule in rules(target / window, window)]
        entrants = [Candidate(name, each) for name, each in made]
        own = extended(encodings, reaching)
        if methods == "all" and own is not None:
            free = training_free(own, window, target)
            entrants += [Candidate(told(e, own), with_encoding(e, encodings, reaching)) for e in free]
    baselines = [
        Candidate(UNMODIFIED, tuple(encodings), "unmodified"),
        Candidate(truncated_name(window), tuple(encodings), "truncated"),
    ]
    return [entrants[0], *baselines, *entrants[1:]]


def check_capacity(candidate: Candidate, window: int, target: int) -> None:
    """Raise ConfigError where groups of a size cannot keep distances of `target` tokens inside the trained window."""
    for e in candidate.encodings:
        if isinstance(e, SelfExtend):
            most = e.capacity(window)
            rule = f"at least so large that {target} tokens fit: with window={e.window} they hold {most}"
            require(target <= most, "SelfExtend.group", rule, e.group)
