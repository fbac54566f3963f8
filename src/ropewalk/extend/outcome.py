"""What a finished run leaves behind: the summary with its verdict, the checkpoint, engine files and the report."""

import json
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ropewalk.attention.step import parted, rotation_of
from ropewalk.encodings import Rotary
from ropewalk.errors import RopewalkError
from ropewalk.evaluate.run import put_json, unwritable
from ropewalk.extend import summary as numbers
from ropewalk.extend.candidates import Candidate
from ropewalk.extend.job import Run
from ropewalk.extend.summary import Figures, Names
from ropewalk.extend.verdict import verdict
from ropewalk.formats.engines import ENGINES, SERVERS, command, engine_files
from ropewalk.models.attach import is_table
from ropewalk.models.save import save_extended
from ropewalk.spectrum import for_length

NO_ENGINE = (
    "No engine's config can express the chosen rule, so no checkpoint and no engine files were written: it needs "
    "`ropewalk generate`, or `attach` in Python."
)
MEASURED = {"race": "race", "held-out text": "held-out-text"}


def summarise(run: Run, started: float) -> Figures:
    """Everything the report shows, from the rows of the run."""
    subject, request, track = run.subject, run.request, run.subject.track
    row = run.ledger.find("chosen", "")
    name = row["chosen"] if row else None
    candidates = [entry(run, c, name) for c in subject.field]
    names = Names(subject.field)
    far = {n: numbers.far_keys(run.ledger, request.retrieval, n, track.window) for n in (names.unmodified, name) if n}
    proof = next((c["held_out"] for c in candidates if c["name"] == name), None)
    helps = numbers.helped(proof, far.get(name or ""), far[names.unmodified])
    held_out = numbers.readings(run.ledger, "held-out-text")
    cliffs = {"unmodified": numbers.cliff(held_out, names.unmodified, track)}
    cliffs["chosen"] = numbers.cliff(held_out, name, track) if name else None
    summary: Figures = {
        "tool": f"ropewalk {version('ropewalk')}",
        "model": request.model,
        "architecture": subject.loaded.model.config.get_text_config().model_type,
        "trained_length": track.window,
        "target_length": track.target,
        "gained": helps,
        "chosen": repr(extended_layer(subject.entrant(name))) if helps and name else None,
        "chosen_name": name if helps else None,
        "candidates": candidates,
        "retrieval": numbers.grids(run.ledger, request.retrieval),
        "spectrum": spectra(subject.field[1], subject.entrant(name) if name else None, track.target),
        "far_keys": {"unmodified": far[names.unmodified], "chosen": far.get(name or "")},
        "cliff": cliffs,
        "race_passes": sum(c["search"]["passes"] for c in candidates if c["search"]),
        "protocol": protocol(run),
        "text": {"search": subject.text.source, "held_out": subject.text.source},
        "notes": run.notes,
        "stages": stages(run),
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("ropewalk", "torch", "transformers")},
        "seed": request.seed,
        "request": repr(request),
    }
    return summary | {"verdict": verdict(summary, name)}


def entry(run: Run, c: Candidate, chosen: str | None) -> Figures:
    """One candidate with all that was measured of it."""
    track, ledger = run.subject.track, run.ledger
    names = Names(run.subject.field)
    race, held_out = (numbers.readings(ledger, kind) for kind in MEASURED.values())
    row = ledger.find("race", c.name)
    search = None
    if row:
        whole = [r["seconds"] for r in ledger.of("race") if r["tokens"] == track.target]
        passes = row["seconds"] * len(whole) / sum(whole) if whole else row["tokens"] / track.target
        dear = c.role == "candidate" and numbers.is_dearer(race[c.name], race[names.unmodified], track)
        ended = numbers.outcome(race[c.name], c.role, c.name, [n for n in held_out if n != names.unmodified], dear)
        search = numbers.race_figures(race[c.name], row, track, passes, ended)
    return {
        "name": c.name,
        "encoding": repr(extended_layer(c)),
        "role": c.role,
        "search": search,
        "held_out": numbers.held_out_figures(held_out, c.name, chosen, names, track) if c.name in held_out else None,
        "retrieval": numbers.total(ledger, run.request.retrieval, c.name),
    }


def extended_layer(c: Candidate) -> Any:
    """The encoding of the layers that reach furthest: a rule where there is one, else the most scaled rotation."""
    rule = next((e for e in c.encodings if not is_table(e)), None)
    rotaries = [e for e in c.encodings if isinstance(e, Rotary)]
    return rule or (max(rotaries, key=lambda e: len(e.scaling)) if rotaries else ())


def spectra(unmodified: Candidate, chosen: Candidate | None, length: int) -> Figures:
    """Rates and magnitude before and after."""
    pair = {"trained": unmodified, "chosen": chosen or unmodified}
    rotaries = {name: rotation_of(parted(extended_layer(c)).rule) for name, c in pair.items()}
    settled = {name: for_length(e, length).spectrum() for name, e in rotaries.items() if e is not None}
    return {name: {"inv_freq": list(s.inv_freq), "magnitude": s.magnitude} for name, s in settled.items()}


def stages(run: Run) -> list[Figures]:
    """Seconds of measurement by stage, over all rows: those of an interrupted run that was continued count as well."""
    kinds = MEASURED | {"retrieval": f"retrieval {run.request.retrieval}"}
    seconds = {name: sum(r["seconds"] for r in run.ledger.of(kind)) for name, kind in kinds.items()}
    return [{"name": name, "seconds": spent} for name, spent in seconds.items() if spent]


def protocol(run: Run) -> list[str]:
    """How everything was measured, in sentences."""
    track, request = run.subject.track, run.request
    lines = [
        f"Search and held-out text are {track.target:,} tokens each and share no document, "
        "unless the text is too short for that, which its source then says.",
        "Each reading is one pass; every token's loss is kept, and all figures are views on those losses.",
        f"The unmodified model that sees its last {track.window:,} tokens alone reads them at positions from 0 and is "
        f"scored on the last {track.window // 2:,}, with {track.window // 2:,} to {track.window:,} tokens of context.",
        "Differences are paired by token; standard errors come from means over runs of 64 tokens; "
        "intervals are 95 %, of shares by Wilson.",
    ]
    if not request.method:
        lines.append(
            f"A candidate left the race once it was clearly, by 3 standard errors, over {request.price:.1%} dearer "
            "inside the window or behind the leader beyond it, or could not be 1 % better; at most "
            f"{request.finalists} met on held-out text, where the best was chosen."
        )
    if request.retrieval == "named-keys":
        lines.append(
            "Named keys: one document of search text with a named five-digit key in every stretch, asked for at eight "
            "lengths; right means that greedy decoding gives all digits."
        )
    elif request.retrieval == "passkey":
        lines.append(
            "Passkey: one key per document of repeated filler; right means that greedy decoding gives the key."
        )
    return lines


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def deliver(run: Run, summary: Figures) -> Figures:
    """Write the checkpoint and engine files if something was gained, then the summary; it is complete when returned."""
    out = Path(run.request.out)
    try:
        summary = summary | (ship(run, summary, out) if summary["gained"] else {"deploy": []})
        put_json(out / "summary.json", summary)
    except OSError as error:
        raise unwritable(Path(error.filename or out), error) from None
    return summary


def ship(run: Run, summary: Figures, out: Path) -> Figures:
    """extended/ and engines/, and what to run with them."""
    loaded, target = run.subject.loaded, run.subject.track.target
    encodings = for_length(run.subject.entrant(summary["chosen_name"]).encodings, target)
    if not all(map(is_table, encodings)):
        return {
            "deploy": [in_python(run.request.model, summary["chosen_name"])],
            "notes": [*summary["notes"], NO_ENGINE],
        }
    lost = save_extended(loaded.folder, encodings, target, out / "extended")
    files = engine_files(encodings, json.loads((loaded.folder / "config.json").read_text(encoding="utf-8")), target)
    folder = out / "engines"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    notes = [line for name in files if name.endswith(".notes.txt") for line in files[name].splitlines()]
    if not files:
        raise RopewalkError("no engine file could be written")
    return {"deploy": commands(out, target, files), "notes": [*summary["notes"], *lost, *notes]}


def in_python(model: str, name: str) -> Figures:
    """How a rule is used that no config can tell an engine."""
    return {"title": "Ropewalk", "path": "", "command": f'ropewalk generate {model} --encoding "{name}" "..."'}


def commands(out: Path, target: int, files: dict[str, str]) -> list[Figures]:
    """How each engine is told, as command lines that can be copied."""
    stock = command("hf", target, f"{out}/extended")
    rows = [{"title": ENGINES["hf"].title, "path": "extended/", "command": stock}]
    for name in SERVERS:
        told = ENGINES[name]
        if told.file in files:
            line = command(name, target, f"{out}/engines")
            rows.append({"title": told.title, "path": f"engines/{told.file}", "command": line})
    return rows
