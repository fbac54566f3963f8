"""`ropewalk doctor CONFIG|MODEL --engine NAME`: what an engine makes of a config, and whether that was meant."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ropewalk.errors import ConfigError, UnsupportedError, require

if TYPE_CHECKING:
    from ropewalk.formats.doctor import Diagnosis, Part

EXAMPLES = """
Examples, each a line:

  ropewalk doctor ./my-model --engine vllm

  ropewalk doctor config.json --engine llamacpp --length 131072

  ropewalk doctor model.gguf

  ropewalk doctor ./my-model --engine vllm --override '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}'

Without --engine every engine is asked. Weights are never read. Exit code 1: an engine would compute something else than
the config says, or would not start.
"""
WIDTH = 120
ROWS = 9  # pairs of a spectrum that are shown
CLOSE = 1e-6  # relative difference of rates that is rounding


def doctor_command(
    model: Annotated[str, typer.Argument(help="A folder, a config.json, a .gguf file, a hub name, or demo.")],
    engine: Annotated[str | None, typer.Option(help="hf, vllm, sglang, llamacpp or mlx.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a text; those of the config if not given.")] = None,
    override: Annotated[
        str | None, typer.Option(help="JSON, or a file of it, for --hf-overrides or --json-model-override-args.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Show every pair of the spectrum.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON on standard output.")] = False,
) -> None:
    """Say what an engine computes from a config, what differs from what is meant, and what looks wrong."""
    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=WIDTH)
    found, unknown = examined(model, engine, length, override, console)
    for each in found:
        show(each, console, pairs, whole=len(found) == 1)
    for name, why in unknown.items():
        say(console, f"- {name}: {why}")
    if as_json:
        print(json.dumps([each._asdict() | {"sound": each.sound} | as_objects(each) for each in found]))
    raise typer.Exit(0 if all(each.sound for each in found) else 1)


def examined(
    model: str, engine: str | None, length: int | None, override: str | None, console: Console
) -> tuple[list["Diagnosis"], dict[str, str]]:
    """What was found for each engine that was asked, and why others cannot tell."""
    from ropewalk.formats.doctor import diagnose, diagnose_gguf
    from ropewalk.formats.readings import READINGS
    from ropewalk.models.describe import describe

    told = describe(model, lambda line: say(console, line))
    over = json_of(override) if override else None
    if told.gguf is not None:
        require(engine in (None, "llamacpp", "gguf"), "--engine", "llamacpp for a .gguf file", engine)
        require(over is None, "--override", "left out for a .gguf file", override)
        return [diagnose_gguf(told.gguf.payload(), length)], {}
    if engine is not None or over is not None:
        require(engine is not None, "--engine", "given with --override", None)
        return [diagnose(told.config or {}, str(engine), length, over, told.pairing)], {}
    found, unknown = [], {}
    for name in READINGS:
        try:
            found.append(diagnose(told.config or {}, name, length, None, told.pairing))
        except UnsupportedError as error:
            unknown[name] = str(error)
    if not found:
        raise UnsupportedError(next(iter(unknown.values())))
    return found, unknown


def json_of(text: str) -> Mapping[str, Any]:
    """An override, given as it is or as the name of a file."""
    try:
        given = json.loads(text if text.lstrip()[:1] in "{[" else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--override: {text} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"--override is not JSON: {error}") from None
    require(isinstance(given, Mapping), "--override", "a JSON object", given)
    return given


def show(found: "Diagnosis", console: Console, pairs: bool, whole: bool) -> None:
    """One engine: everything, or a line and what is wrong."""
    from ropewalk.formats.readings import TITLES

    verdict = "computes what the config says" if found.sound else "would compute something else"
    title = f"{TITLES[found.engine]} with this {found.model_type}, texts of {found.length:,} tokens"
    say(console, f"{title}: {verdict}", style="bold green" if found.sound else "bold red")
    if whole:
        for part in found.parts if found.limits else ():
            show_part(found, part, console, pairs)
        facts = {"softmax": f"scale times {found.softmax:.6g}"} if found.softmax != 1 else {}
        if found.limits:
            facts["usable"] = f"{found.limits[0][0]:,} tokens: " + "; ".join(
                f"{name} {n:,}" for n, name in found.limits
            )
            facts["angles"] = f"cosines near the end are off by up to {found.cosine_error:.2g} (float32)"
        show_facts(console, facts)
    for finding in found.findings:
        if finding.wrong or whole:
            mark = "[red]wrong[/red]" if finding.wrong else "[yellow]note[/yellow] "
            console.print(f"  {mark}  ", end="")
            say(console, f"{finding.about}: {finding.text}")


def show_part(found: "Diagnosis", part: "Part", console: Console, pairs: bool) -> None:
    """The layers that rotate alike."""
    from ropewalk.formats.layers import rotary_of
    from ropewalk.written import short

    def written(rule: object) -> str:
        """In full, or the name where a rule holds lists of divisors."""
        return text if len(text := short(rule)) <= WIDTH else f"{type(rule).__name__}(...)"

    e = rotary_of(part.got)
    facts = {"layers": ranges(part.layers)}
    if e is None:
        show_facts(console, facts | {"positions": "none" if part.got == () else short(part.got)})
        return
    facts["rotates"] = f"{e.dim} of {found.head_dim} channels, {e.pairing}, rope_theta {e.base:g}"
    facts["scaling"] = ", ".join(map(written, e.scaling)) or "none"
    facts["magnitude"] = f"{part.magnitude:.6g} on queries and on keys, {part.magnitude**2:.6g} on logits"
    if part.ramp:
        facts["ramp"] = f"pairs {part.ramp[0]:.4g} to {part.ramp[1]:.4g} of {len(part.inv_freq)}"
    show_facts(console, facts)
    console.print(spectrum(part, pairs))


def show_facts(console: Console, facts: dict[str, str]) -> None:
    for name, value in facts.items():
        say(console, f"  {name:<10} {value}")


def spectrum(part: "Part", pairs: bool) -> Table:
    """Rates of a few pairs, or of all."""
    count = len(part.inv_freq)
    shown = range(count) if pairs or count <= ROWS else [round(i * (count - 1) / (ROWS - 1)) for i in range(ROWS)]
    off = [i for i, want in enumerate(part.wanted) if abs(part.inv_freq[i] - want) > CLOSE * want]
    table = Table(box=None, padding=(0, 2, 0, 2))
    for head in (
        "pair",
        "radians per token",
        "tokens per turn",
        "slowed by",
        *(["should be slowed by"] if off else []),
    ):
        table.add_column(head, justify="right")
    for i in shown:
        rate = part.inv_freq[i]
        turn = f"{math.tau / rate:,.1f}" if rate else "never"
        slowed = f"{part.plain[i] / rate:.4g}" if rate else "stopped"
        meant = (f"{part.plain[i] / want:.4g}" if (want := part.wanted[i]) else "stopped") if i in off else ""
        table.add_row(f"{i}", f"{rate:.6g}", turn, slowed, *([meant] if off else []))
    return table


def ranges(layers: tuple[int, ...]) -> str:
    """0-4, 6-10"""
    starts = [i for i in layers if i - 1 not in layers]
    ends = [i for i in layers if i + 1 not in layers]
    runs = [f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True)]
    more = f" and {len(runs) - 8} more runs" if len(runs) > 8 else ""
    return f"{', '.join(runs[:8])}{more} ({len(layers)})"


def as_objects(found: "Diagnosis") -> dict[str, Any]:
    """Parts and findings by name, encodings as they are written."""
    parts = [p._asdict() | {"meant": repr(p.meant), "got": repr(p.got)} for p in found.parts]
    return {"parts": parts, "findings": [f._asdict() for f in found.findings]}


def say(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


doctor_command.__doc__ = f"{doctor_command.__doc__}\n{EXAMPLES}"
