"""Every way past the trained window without training, on one model and one text: losses, keys and memory.

    python benchmarks/past_the_window.py --model demo --to 16384 --out out/past_the_window

Each method is a process of its own, so that its memory can be told. Whatever is finished is kept in the folder: the
same command goes on where it was stopped. table.md and figure.png are made of what is there. A time is that of one pass
over the whole text, in the last stage, and means something on a machine that does nothing else.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from ropewalk.evaluate.document import fixed_target_losses
from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.evaluate.metrics.perplexity import Losses, mean, paired
from ropewalk.evaluate.run import Ledger, Row, put_file
from ropewalk.evaluate.text import documents_from, split_text
from ropewalk.extend.candidates import UNMODIFIED, for_model
from ropewalk.models.load import load
from ropewalk.report import style
from ropewalk.report.style import DASHES, OTHERS, RC

STAGES = ("reading", "keys", "fixed-target")
LAST = 4096  # tokens that are scored with more and more text before them (Su, kexue.fm/archives/9708)
LOADED = 2**30  # bytes: a process that read nothing holds less than this model and its text


def methods(window: int, target: int) -> list[str]:
    """What is compared, as --encoding takes it; "" is the model as it is."""
    factor = target / window
    group = -(-(target - window // 8) // (2 * window // 3 - window // 8))
    leak = -(-(target - window // 2) // (window - window // 2))
    yarn = f"Yarn(factor={factor}, trained_length={window})"
    scaled = f"Rotary(dim=DIM, base=BASE, scaling=({yarn},))"
    moving = "Adaptive(encoding=Rotary(dim=DIM, base=BASE, scaling=({},)))"
    chunks = f"window={window}, chunk={3 * window // 4}, local={window // 4}"
    return [
        "",
        yarn,
        f"ReRope(window={window // 2})",
        f"SelfExtend(window={window // 8}, group={group})",
        f"DualChunk({chunks})",
        f"StreamingLLM(recent={window - 4})",
        moving.format(f"DynamicYarn(trained_length={window})"),
        f"LeakyReRope(window={window // 2}, factor={float(leak)})",
        f"LMInfinite(window={window})",
        f"NTK(factor={factor})",
        f"Linear(factor={factor})",
        f"({scaled}, LogN(trained_length={window}))",
        f"(ReRope(window={window // 2}), LogN(trained_length={window}))",
        f"DualChunk(rotary={scaled}, {chunks})",
        moving.format(f"DynamicNTK(factor=1.0, trained_length={window})"),
        f"DualChunk(window={3 * window // 4}, chunk={5 * window // 8}, local={window // 8}, form='code')",
        f"LogN(trained_length={window})",
        f"SelfExtend(rotary={scaled}, window={window // 2}, group={group // 2 or 1})",
    ]


def ask(encoding: str, stage: str, given: argparse.Namespace) -> dict[str, Any]:
    """One call of `ropewalk evaluate`, with the largest resident set that it had."""
    command = [sys.executable, "-m", "ropewalk.cli", "evaluate", given.model, "--to", str(given.to), "--json"]
    command += ["--out", str(given.out / "evaluate"), "--dtype", given.dtype]
    command += ["--encoding", encoding] if encoding else ["--baselines"]
    command += ["--retrieval", "named-keys"] if stage == "keys" else []
    with (given.out / "last.json").open("w") as found:
        process = subprocess.Popen(command, stdout=found)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}")
    document = json.loads((given.out / "last.json").read_text())
    return {"kind": stage, "name": encoding, "peak_bytes": usage.ru_maxrss * 1024, "found": document}


def fixed_target(encoding: str, given: argparse.Namespace) -> dict[str, Any]:
    """Losses of the last tokens of the text with more and more of it before them, and the time of each pass."""
    loaded = load(given.model, given.dtype)
    each = for_model(encoding, loaded, given.to).encodings if encoding else loaded.encodings

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    ids = split_text(*documents_from(None, None), tokenize, given.to).held_out
    found = {}
    for context in range(LAST, given.to - LAST + 1, LAST):
        start = perf_counter()
        losses = fixed_target_losses(loaded.model, each, ids, LAST, [context])[context]
        found[str(context)] = mean(losses)._asdict() | {"seconds": perf_counter() - start}
    return {"kind": "fixed-target", "name": encoding, "found": found}


def table(ledger: Ledger, window: int, target: int) -> str:
    """Perplexity by position, a line for each method, beside that of the static scaling."""
    middle = (window + target) // 2
    heads = ["", f"0 to {window:,}", f"to {middle:,}", f"to {target:,}", f"beside YaRN, within {window:,}", "beyond"]
    kept = Ledger(ledger.folder / "evaluate", {})
    losses = {row["name"]: kept.losses(row) for row in kept.of("reading")}
    base = losses[named_as(ledger.find("reading", methods(window, target)[1]))]
    rows = []
    for row in ledger.of("reading"):
        blocks = row["found"]["readings"][0]["blocks"]
        means = [mean_of(blocks, *span) for span in ((0, window), (window, middle), (middle, target))]
        own = losses[named_as(row)]
        cells = [beside(own[span], base[span]) for span in (slice(window - 1), slice(window - 1, None))]
        rows.append([labelled(row), *(f"{math.exp(loss):.2f}" for loss in means), *cells])
    return drawn_up(heads, rows)


def costs(ledger: Ledger, window: int) -> str:
    """Keys that are found, the same last tokens with growing context, time and memory, a line for each method."""
    heads = [
        "",
        f"keys within {window:,}",
        "further back",
        f"last {LAST:,} tokens, growing context",
        "time",
        "peak, MiB",
    ]
    readings = ledger.of("reading")
    rows = [[labelled(r), *keys(ledger.find("keys", r["name"]), window), *growing(ledger, r["name"])] for r in readings]
    return drawn_up(heads, [[*cells, told_peak(row)] for cells, row in zip(rows, readings, strict=True)])


def drawn_up(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def labelled(row: Row) -> str:
    """What a method is called in a table."""
    return f"`{shortened(row['name'])}`" if row["name"] else UNMODIFIED


def named_as(row: Row | None) -> str:
    """What a reading is called in the folder of `ropewalk evaluate`."""
    return "" if row is None else row["found"]["readings"][0]["name"]


def mean_of(blocks: list[dict[str, Any]], start: int, end: int) -> float:
    """The mean loss of the blocks between two positions, in nats."""
    return fmean(b["loss"] for b in blocks if start <= b["start"] and b["end"] <= end)


def beside(own: Losses, base: Losses) -> str:
    """The paired change of perplexity with its 95 % interval, in percent."""
    found = paired(own, base)
    change, low, high = (100 * math.expm1(x) for x in (found.loss, found.low, found.high))
    return f"{change:+.1f} % ({low:+.1f} to {high:+.1f})" if abs(change) < 1000 else f"{change:+,.0f} %"


def told_peak(row: Row) -> str:
    """The largest resident set of the process; nothing where it found its reading done."""
    return f"{row['peak_bytes'] / 2**20:,.0f}" if row["peak_bytes"] > LOADED else ""


def keys(row: Row | None, window: int) -> list[str]:
    """How many keys were found within the window and further back, with 95 % intervals of the shares."""
    if row is None:
        return ["", ""]
    cells = []
    for far in (False, True):
        here = [d for d in row["found"]["retrieval"]["by_distance"] if (d["start"] >= window) == far]
        found, asked = (sum(d[name] for d in here) for name in ("found", "asked"))
        share = wilson(found, asked)
        cells.append(f"{found} of {asked} ({100 * share.low:.0f} to {100 * share.high:.0f} %)")
    return cells


def growing(ledger: Ledger, name: str) -> list[str]:
    """Perplexity of the same last tokens with more and more text before them, and the time of a pass over all of it.

    The time is told beside that of the model as it is.
    """
    row, plain = (ledger.find("fixed-target", n) for n in (name, ""))
    if row is None or plain is None:
        return ["", ""]
    *_, whole = row["found"]
    losses = ", ".join(f"{math.exp(found['loss']):.2f}" for found in row["found"].values())
    return [losses, f"{row['found'][whole]['seconds'] / plain['found'][whole]['seconds']:.2f}"]


LIMITS = (-8, 14)  # percent; what is far worse leaves the figure
GROUPS = {
    "Scaled rotations": ("Yarn", "NTK", "Linear", "(Rotary", "LogN"),
    "Two rotations": ("ReRope", "LeakyReRope", "SelfExtend", "DualChunk", "(ReRope"),
    "First and last tokens": ("LMInfinite", "StreamingLLM"),
    "Following the length": ("Adaptive",),
}


@rc_context(RC)
def figure(ledger: Ledger, window: int, target: int) -> Figure:
    """Perplexity beside that of the static scaling on the same tokens, in a panel for each kind of method.

    Beside the model as it is and its last window alone; texts differ more from block to block than methods do.
    """
    drawn = style.canvas(6.6)
    panels = list(drawn.subplots(2, 2, sharex=True, sharey=True).flat)
    rows = {row["name"]: row["found"]["readings"] for row in ledger.of("reading")}
    base = {b["start"]: b["loss"] for b in rows[methods(window, target)[1]][0]["blocks"]}
    for ax, (title, kinds) in zip(panels, GROUPS.items(), strict=True):
        ax.axvspan(0, window, color=style.colour("zone"), zorder=0)
        for reading, name in zip(rows[""], ("unmodified", "truncated"), strict=False):
            line(ax, reading["blocks"], base, (style.colour(name), "-"), reading["name"])
        for i, name in enumerate(n for n in rows if n.startswith(kinds)):
            look = style.colour(OTHERS[i % len(OTHERS)]), DASHES[i // len(OTHERS)]
            line(ax, rows[name][0]["blocks"], base, look, shortened(name))
        ax.set_title(title)
        ax.set_ylim(*LIMITS)
        ax.yaxis.set_major_locator(MultipleLocator(5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.0f} %" if y else "0"))
        ax.legend(fontsize=6.5, loc="upper left")
        style.positions(ax, target, narrow=True)
        ax.label_outer()
    drawn.supylabel("perplexity beside the static YaRN's on the same tokens", fontsize=8.5, color=style.colour("muted"))
    return drawn


def line(ax: Axes, blocks: list[dict[str, Any]], base: dict[int, float], look: tuple[str, Any], label: str) -> None:
    """The change of perplexity by block, in percent."""
    where = [(b["start"] + b["end"]) / 2 for b in blocks]
    change = [100 * math.expm1(b["loss"] - base[b["start"]]) for b in blocks]
    ax.plot(where, change, color=look[0], linestyle=look[1], linewidth=1.3, label=label)


def shortened(name: str) -> str:
    """A name without the rotation and the window that all of them share."""
    name = re.sub(r"Rotary\(dim=\d+, base=[\d.]+, scaling=\((.*?\)),\)\)", r"\1", name)
    return re.sub(r"(, )?trained_length=\d+|encoding=|rotary=", "", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--to", type=int, default=16384)
    parser.add_argument("--out", type=Path, default=Path("out/past_the_window"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    loaded = load(given.model, given.dtype)
    window, rotary = loaded.trained_length, next(e for e in loaded.encodings if e != ())
    del loaded
    ledger = Ledger(given.out, {"model": given.model, "to": given.to, "dtype": given.dtype})
    entrants = [m.replace("DIM", str(rotary.dim)).replace("BASE", str(rotary.base)) for m in methods(window, given.to)]
    for stage in given.stages.split(","):
        for encoding in entrants:
            if ledger.find(stage, encoding) is None:
                print(f"{stage}: {encoding or UNMODIFIED}", file=sys.stderr, flush=True)
                ledger.add(fixed_target(encoding, given) if stage == "fixed-target" else ask(encoding, stage, given))
    if ledger.of("reading"):
        told = f"{table(ledger, window, given.to)}\n\n{costs(ledger, window)}\n"
        put_file(given.out / "table.md", told.encode())
        put_file(given.out / "figure.png", style.png(figure(ledger, window, given.to)))
        print(told)


if __name__ == "__main__":
    main()
