"""Is a config right for an engine: what it will compute, how that differs from what was meant, and what looks wrong.

What was meant is the reading of transformers, exact, with the two things that transformers itself misses: `truncate`
inside a layer type counts, and so does every key whose name is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import readings, sglang, vllm
from ropewalk.formats.compare import comparable, disagreement
from ropewalk.formats.effective import Effective, EngineStops
from ropewalk.formats.gguf_doctor import of_gguf
from ropewalk.formats.layers import Layer, rotary_of
from ropewalk.formats.layout import head_dim, layer_types, length_field, prepared
from ropewalk.formats.lint import RULES, Case, Finding, asked
from ropewalk.formats.losses import measure
from ropewalk.formats.precision import cosine_error
from ropewalk.scalings import Yarn
from ropewalk.scalings.ramps import index_range
from ropewalk.spectrum import Adapts, for_length

OVERRIDDEN = {"vllm": vllm, "sglang": sglang}


class Part(NamedTuple):
    """What the layers that rotate alike compute in a text of the asked length."""

    layers: tuple[int, ...]
    meant: Layer
    got: Layer  # () where the engine has no rotation
    inv_freq: tuple[float, ...] = ()  # radians per position, one per pair, fastest first
    plain: tuple[float, ...] = ()  # the same without any scaling
    wanted: tuple[float, ...] = ()  # the same as meant
    magnitude: float = 1.0  # on rotated queries and on rotated keys
    ramp: tuple[float, float] | None = None  # pair indices between which YaRN goes from kept to slowed


class Diagnosis(NamedTuple):
    """Everything the doctor found. `wrong` findings are those where the engine computes something else, or stops."""

    engine: str
    model_type: str
    head_dim: int
    length: int  # tokens that were asked for
    limits: tuple[tuple[int, str], ...]  # what keeps texts short, in tokens, shortest first; () if the engine stops
    softmax: float
    parts: tuple[Part, ...]
    cosine_error: float  # the largest, at the far end of the text
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether the engine computes what was meant."""
        return not any(found.wrong for found in self.findings)


def diagnose(
    config: Mapping[str, Any],
    engine: str,
    length: int | None = None,
    override: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> Diagnosis:
    """What `engine` makes of a model's config.json when it serves `length` tokens; its own window if None.

    `override` is what vLLM's --hf-overrides or SGLang's --json-model-override-args is given. `weights` is the order
    that a conversion has put queries and keys into, "half" or "interleaved". Raises ConfigError for a config that
    cannot be read at all, UnsupportedError for an engine or model whose rules are not known here.
    """
    prepared(config)  # refuses what is no config before anything is laid over it
    text = prepared(readings.overridden(config, override or {}))
    length = asked(length, text)
    meant = readings.meant(config, override or {})
    if not any(map(rotary_of, meant)):
        raise UnsupportedError(
            f"{meant[0]!r} is no rotation: positions are in the code of this model, not in its config"
        )
    case = Case(engine, config, override or {}, text, length, meant, Effective(meant), weights)
    try:
        return judged(case._replace(got=under(engine, config, override, length)))
    except EngineStops as stop:
        return judged(case._replace(got=Effective(tuple(() for _ in meant))), str(stop))


def diagnose_gguf(payload: Mapping[str, Any], length: int | None = None) -> Diagnosis:
    """What llama.cpp makes of the metadata and divisors of a GGUF file, by itself, in texts of `length` tokens.

    What was meant is that every key counts which the converter writes. Raises as `gguf.read`.
    """
    case, notes = of_gguf(payload, length)
    found = judged(case)
    return found._replace(findings=(*found.findings, *notes))


def judged(case: Case, stops: str = "") -> Diagnosis:
    """Everything there is to say of a case."""
    found = (Finding(True, "stops", stops),) if stops else tuple(differences(case))
    case = case._replace(differs=bool(found))
    parts = tuple(parts_of(case.meant, case.got.layers, case.length))
    turning = [e for part in parts if (e := rotary_of(part.got))]
    return Diagnosis(
        engine=case.engine,
        model_type=case.text.get("model_type", "a model"),
        head_dim=head_dim(case.text, layer_types(case.text)[0]),
        length=case.length,
        limits=() if stops else limits(case, case.text.get(length_field(case.text))),
        softmax=case.got.softmax,
        parts=parts,
        cosine_error=max((cosine_error(e, case.length, case.engine == "llamacpp") for e in turning), default=0.0),
        findings=(*found, *(finding for rule in RULES for finding in rule(case))),
    )


def limits(case: Case, window: int | None) -> tuple[tuple[int, str], ...]:
    """How long a text may be, and by what."""
    each = {
        length_field(case.text): window,
        f"{case.title} accepts": case.got.accepts,
        f"tables of {case.title} end at": case.got.table,
    }
    return tuple(sorted((n, name) for name, n in each.items() if n))


def under(engine: str, config: Mapping[str, Any], override: Mapping[str, Any] | None, length: int) -> Effective:
    """What the engine computes."""
    if not override:
        return readings.effective(engine, config, length)
    if engine not in OVERRIDDEN:
        raise UnsupportedError(f"engine {engine!r} takes no override: {' and '.join(OVERRIDDEN)} do")
    plain = readings.effective(engine, readings.overridden(config, override), length)
    return plain._replace(layers=OVERRIDDEN[engine].read(override, config))


def differences(case: Case) -> Iterator[Finding]:
    """Where the engine computes something else, in texts of the lengths at which rules change and of the asked one."""
    told = [(n, said) for n in probes(case) if (said := disagreement(case.meant, case.got.layers, n))]
    if told:
        n, said = max(told, key=lambda found: badness(case, found[0]))
        all_of_them = len(told) == len(probes(case))
        lengths = "any length" if all_of_them else " or ".join(f"{n:,}" for n, _ in told) + " tokens"
        yield Finding(True, "differs", f"in texts of {lengths} {said}{figures(case, n)}")
    want = readings.softmax_of(case.meant, case.text)
    if abs(case.got.softmax / want - 1) > 1e-6:
        what = f"the softmax scale is multiplied by {case.got.softmax:.6g} instead of {want:.6g} (mscale_all_dim)"
        yield Finding(True, "softmax", what)


def probes(case: Case) -> list[int]:
    """Lengths to look at: where rules start to bend, one token more, and the asked one."""
    rules = [rule for layer in (*case.meant, *case.got.layers) if (e := rotary_of(layer)) for rule in e.scaling]
    starts = [n for rule in rules if isinstance(rule, Adapts) and (n := getattr(rule, "trained_length", None))]
    return sorted({n for start in starts for n in (start, start + 1) if n < case.length} | {case.length})


def badness(case: Case, length: int) -> float:
    fits = comparable(case.meant, case.got.layers)
    return measure(case.meant, case.got.layers, length).logits if fits else float("inf")


def figures(case: Case, length: int) -> str:
    """How far the engine is off, in words that follow a sentence; nothing where other channels rotate."""
    if not comparable(case.meant, case.got.layers):
        return ""
    found = measure(case.meant, case.got.layers, length)
    rates = f"rates are off by up to {100 * found.frequency:.3g} %, " if found.frequency else ""
    return f"; {rates}logits by up to {found.logits:.2g} |q||k|"


def parts_of(meant: Sequence[Layer], got: Sequence[Layer], length: int) -> Iterator[Part]:
    """One entry for all layers that are alike, in the order of their first."""
    pairs = list(zip(meant, got, strict=True))
    for pair in dict.fromkeys(pairs):
        same = tuple(i for i, other in enumerate(pairs) if other == pair)
        own, e = (for_length(rotary_of(layer), length) for layer in pair)
        if e is None or own is None:
            yield Part(same, *pair)
            continue
        s = e.spectrum()
        wanted = own.spectrum().inv_freq if own.dim == e.dim else ()
        yield Part(same, *pair, s.inv_freq, e.unbent().inv_freq, wanted, s.magnitude, ramp_of(e))


def ramp_of(e: Rotary) -> tuple[float, float] | None:
    """The ends of YaRN's ramp over pair indices, where there is one."""
    rule = next((rule for rule in e.scaling if isinstance(rule, Yarn) and rule.ramp == "index"), None)
    if rule is None:
        return None
    before = replace(e, scaling=e.scaling[: e.scaling.index(rule)]).spectrum()
    return index_range(before, rule.trained_length, rule.beta_fast, rule.beta_slow, rule.truncate)
