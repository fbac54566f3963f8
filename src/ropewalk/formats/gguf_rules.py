"""How llama.cpp turns the metadata of a GGUF file into rotations: read in its sources of 2026 (commit 0c1e570)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, did_you_mean, require
from ropewalk.formats import hf
from ropewalk.formats.effective import EngineStops
from ropewalk.scalings import Linear, LongRope, Rescale, Yarn
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import Adapts, Scaling

Payload = Mapping[str, Any]
TYPES = ("none", "linear", "yarn", "longrope")
STEP = 256  # a context is allocated in multiples of so many tokens
FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


class Arch(NamedTuple):
    """What the code of an architecture does by itself, beyond what the metadata say (src/models)."""

    # of the model before conversion: the converter reorders rows of some models paired in halves
    pairing: str = "half"
    layout: str = ""  # of the axes of M-RoPE over the pairs
    freqs: bool = False  # takes divisors per pair from rope_freqs.weight
    lists: str = ""  # takes two lists of them: "always", or only where the scaling type is "longrope"
    # every so many layers the last attends to everything, and the others slide
    period: int = 0
    slides_always: bool = False  # also where the metadata give no window
    # base and factor of sliding layers: "same" as elsewhere, those of the "file" whatever the flags say, an "own" base
    # and no factor, or a "plain" rope without magnitude
    sliding: str = "same"
    bare: str = ""  # layers without positions: "full" where others slide, every "fourth", or none
    betas: bool = False  # reads the ends of YaRN's ramp from the metadata
    log_unit: float = 0.0  # yarn_log_multiplier counts in this unit; 0 if it is not read
    softmax: bool = False  # magnitudes also act on the softmax (DeepSeek)
    switch: bool = False  # rope.scaling.finetuned = false turns positions off


LLAMA = Arch(freqs=True, lists="longrope")
ARCHS: dict[str, Arch] = {
    **dict.fromkeys("qwen2 qwen3 qwen2moe qwen3moe gemma falcon starcoder2 stablelm gptneox phi2".split(), Arch()),
    "qwen2vl": Arch(layout="chunked"),
    **dict.fromkeys("qwen3vl qwen3vlmoe".split(), Arch(layout="interleaved")),
    **dict.fromkeys("command-r glm4".split(), Arch("interleaved")),
    "llama": LLAMA,
    "granite": LLAMA._replace(switch=True),
    "mistral3": LLAMA._replace(betas=True, log_unit=1.0),
    "phi3": Arch(lists="always"),
    "phimoe": Arch(lists="always"),
    "smollm3": Arch(bare="fourth"),
    "deepseek2": Arch("interleaved", log_unit=0.1, softmax=True),
    "gemma2": Arch(period=2, slides_always=True, sliding="file"),
    "gpt-oss": Arch(period=2, slides_always=True, sliding="file"),
    "gemma3": Arch(period=6, sliding="own"),
    "olmo2": Arch(period=4, sliding="plain"),
    "cohere2": Arch("interleaved", period=4, slides_always=True, bare="full"),
    "exaone4": Arch(freqs=True, period=4, bare="full"),
}


class Run(NamedTuple):
    """What llama.cpp goes by once it has settled file and flags."""

    base: float
    kind: str  # scaling type
    factor: float
    original: int
    attn_factor: float = 1.0  # rope.scaling.attn_factor
    attn_flag: float = 1.0  # --yarn-attn-factor
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def stretch(self) -> float:
        """What positions are divided by."""
        return 1.0 if self.kind == "none" else self.factor


class Held(NamedTuple):
    """A GGUF without its weights."""

    name: str
    arch: Arch
    sliding: tuple[bool, ...]
    bare: tuple[bool, ...]  # layers without positions
    dim: int
    sections: tuple[int, ...]
    base_swa: float | None
    window: int
    log_weight: float  # mscale_all_dim
    run: Run
    freqs: tuple[float, ...]
    short: tuple[float, ...]
    long: tuple[float, ...]


def changed(old: Payload, change: Payload) -> Payload:
    """`change` over `old`."""
    both = {part: {**old.get(part, {}), **change.get(part, {})} for part in ("metadata", "tensors")}
    return {part: {k: v for k, v in values.items() if v is not None} for part, values in both.items()}


def allocated(length: int) -> int:
    """The context that llama.cpp makes room for when it is asked for `length` tokens."""
    return length + -length % STEP


def hold(payload: Payload) -> Held:
    """The settings in a payload, checked. Raises ConfigError or UnsupportedError."""
    metadata, tensors = payload["metadata"], payload.get("tensors", {})
    name = metadata.get("general.architecture")
    require(isinstance(name, str), "general.architecture", "given as a text", name)
    if name not in ARCHS:
        near = did_you_mean(name, ARCHS)
        raise UnsupportedError(f"llama.cpp's rules for architecture {name!r} are not known here{near}")
    arch, about = ARCHS[name], Metadata(name, metadata)
    count = about.whole("block_count") - about.whole("nextn_predict_layers", 0)
    require(0 < count <= 10000, f"{name}.block_count", "from 1 to 10000", count)
    window = about.whole("context_length")
    width = about.whole("embedding_length", 0) // max(about.whole("attention.head_count", 1), 1)
    dim = about.whole("rope.dimension_count", about.whole("attention.key_length", width))
    dim_swa = about.whole("rope.dimension_count_swa", dim)
    require(dim_swa == dim, f"{name}.rope.dimension_count_swa", f"rope.dimension_count = {dim}", dim_swa)
    sliding, run = sliding_layers(about, arch, count), run_of(about, arch, window)
    log_weight = about.number("rope.scaling.yarn_log_multiplier", 0.0) / arch.log_unit if arch.log_unit else 0.0
    base_swa = about.number("rope.freq_base_swa", 0.0) or None
    if about.number("attention.temperature_scale", 0.0):
        raise UnsupportedError(f"{name}.attention.temperature_scale sharpens later queries, which is not read here")
    divisors = divisors_of(tensors, name, run, dim)
    bare, sections = bare_layers(about, arch, sliding), sections_of(about, arch, dim)
    return Held(name, arch, sliding, bare, dim, sections, base_swa, window, log_weight, run, *divisors)


def divisors_of(tensors: Mapping[str, Any], name: str, run: Run, dim: int) -> tuple[tuple[float, ...], ...]:
    """The three lists of divisors, () for one that is not there, if this architecture loads those that are."""
    named = {given: tensors[given] for given in (FREQS, SHORT, LONG) if given in tensors}
    listed = ARCHS[name].lists == "always" or (ARCHS[name].lists == "longrope" and run.kind == "longrope")
    for given, values in named.items():
        listed_right = isinstance(values, list | tuple) and len(values) == dim // 2
        good = listed_right and all(type(v) in (int, float) and 0 < v < math.inf for v in values)
        require(good, f"tensor {given}", f"{dim // 2} positive numbers", values)
        # a tensor that no code asks for is an error
        if not (ARCHS[name].freqs and not listed if given == FREQS else listed):
            raise EngineStops(f"llama.cpp refuses a {name} file of scaling type {run.kind} that holds {given}")
    return tuple(tuple(named.get(given, ())) for given in (FREQS, SHORT, LONG))


class Metadata(NamedTuple):
    """Metadata under the prefix of an architecture, with their types checked."""

    arch: str
    values: Mapping[str, Any]

    def get(self, key: str) -> Any:
        return self.values.get(f"{self.arch}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        require(type(value) is int and value >= 0, f"{self.arch}.{key}", "a whole number", value)
        return int(value)  # pyright: ignore[reportArgumentType]

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        value = default if value is None else value
        good = type(value) in (int, float) and math.isfinite(value) and value >= 0
        require(good, f"{self.arch}.{key}", "a number of at least 0", value)
        return float(value)


def sections_of(about: Metadata, arch: Arch, dim: int) -> tuple[int, ...]:
    """Pairs of each axis of M-RoPE; the fourth one is of no use to text, rows and columns."""
    given = about.get("rope.dimension_sections")
    if not arch.layout or given is None:
        return ()
    good = isinstance(given, list) and all(type(n) is int and n >= 0 for n in given) and sum(given) == dim // 2
    require(
        good and not any(given[3:]), f"{about.arch}.rope.dimension_sections", f"{dim // 2} pairs on three axes", given
    )
    return tuple(given[:3])


def run_of(about: Metadata, arch: Arch, window: int) -> Run:
    """What the file says by itself. An absent type is linear; a factor of 0 or none is 1."""
    kind = about.get("rope.scaling.type")
    kind = "linear" if kind is None else kind
    require(kind in TYPES, f"{about.arch}.rope.scaling.type", f"one of {', '.join(TYPES)}", kind)
    # the name of earlier releases counts where the new one is missing
    factor = about.number("rope.scaling.factor", about.number("rope.scale_linear", 0.0)) or 1.0
    betas = {"beta_fast": 32.0, "beta_slow": 1.0}
    if arch.betas:
        betas = {end: about.number(f"rope.scaling.yarn_{end}", default) for end, default in betas.items()}
    return Run(
        about.number("rope.freq_base", 10000.0),
        kind,
        factor,
        about.whole("rope.scaling.original_context_length", window) or window,
        about.number("rope.scaling.attn_factor", 1.0),
        **betas,
    )


def sliding_layers(about: Metadata, arch: Arch, count: int) -> tuple[bool, ...]:
    given = about.get("attention.sliding_window")
    if not arch.period or given == 0 or (given is None and not arch.slides_always):
        return (False,) * count
    pattern = about.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        good = len(pattern) == count and all(mark in (0, 1) for mark in pattern)
        require(good, f"{about.arch}.attention.sliding_window_pattern", f"{count} marks", pattern)
        return tuple(map(bool, pattern))
    period = about.whole("attention.sliding_window_pattern", arch.period)
    return tuple(period == 0 or i % period < period - 1 for i in range(count))


def bare_layers(about: Metadata, arch: Arch, sliding: Sequence[bool]) -> tuple[bool, ...]:
    if arch.switch and about.get("rope.scaling.finetuned") is False:
        return (True,) * len(sliding)
    if arch.bare == "fourth":
        return tuple(i % 4 == 3 for i in range(len(sliding)))
    return tuple(arch.bare == "full" and any(sliding) and not slides for slides in sliding)


def layers(held: Held, run: Run) -> tuple[hf.Layer, ...]:
    """The encodings under these settings, which flags may have changed since the file was read."""
    whole = turning(held, run, run.base, run.stretch)
    match held.arch.sliding:
        case "file":
            other = turning(held, run, held.base_swa or held.run.base, held.run.factor)
        case "own":
            other = turning(held, run, held.base_swa or 10000.0, 1.0)
        case "plain":
            other = rotary(held, run.base, ())
        case _:
            other = whole
    sides = zip(held.sliding, held.bare, strict=True)
    return tuple(() if bare else other if slides else whole for slides, bare in sides)


def turning(held: Held, run: Run, base: float, stretch: float) -> Rotary:
    """The encoding of layers with this base, whose positions are divided by `stretch`."""
    magnitude = magnitude_of(held, run, stretch)
    rules: tuple[Scaling | Adapts, ...] = () if stretch == 1 else (Linear(stretch),)
    if run.kind == "yarn" and stretch != 1:
        # the recommended one goes without saying
        own = None if math.isclose(magnitude, mscale(stretch), rel_tol=1e-12) else magnitude
        rules = (Yarn(stretch, run.original, run.beta_fast, run.beta_slow, magnitude=own),)
        magnitude = 1.0
    if held.short or held.long:
        one = (1.0,) * (held.dim // 2)
        rules = (*rules, LongRope(held.short or one, held.long or one, run.original, magnitude=magnitude))
    elif held.freqs or magnitude != 1:
        # divisors act after the ramp and do not move it
        rules = (*rules, Rescale(held.freqs or (1.0,) * (held.dim // 2), magnitude))
    return rotary(held, base, rules)


def rotary(held: Held, base: float, rules: tuple[Scaling | Adapts, ...]) -> Rotary:
    layout = held.arch.layout if held.sections else "chunked"
    return Rotary(held.dim, base, rules, held.arch.pairing, sections=held.sections, layout=layout)


def magnitude_of(held: Held, run: Run, stretch: float) -> float:
    """The factor on rotated vectors.  YaRN computes its own, and forgets --yarn-attn-factor."""
    if run.kind != "yarn":
        return run.attn_flag * run.attn_factor
    # the kernel multiplies by 1 + 0.1 ln(stretch), which is taken out for the factor of layers that do not slide
    kernel = mscale(stretch) / mscale(run.stretch)
    return yarn_magnitude(held, run.stretch) * kernel * run.attn_factor


def yarn_magnitude(held: Held, factor: float) -> float:
    """What llama.cpp makes of a factor by itself."""
    if not held.log_weight:
        return mscale(factor)
    # DeepSeek's own pair of weights are taken to be equal, others' first one to be 1
    return 1.0 if held.arch.softmax else mscale(factor) / mscale(factor, held.log_weight)


def softmax_factor(held: Held, run: Run) -> float:
    """DeepSeek's factor on the softmax scale: the square of all magnitudes there are, in every kind of scaling."""
    if not held.arch.softmax:
        return 1.0
    magnitude = magnitude_of(held, run, run.stretch)
    # the code takes every scaling for YaRN
    misread = 1.0 if run.kind == "yarn" else mscale(run.stretch)
    return (magnitude * misread * mscale(run.stretch, held.log_weight)) ** 2
