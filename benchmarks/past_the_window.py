"""Every way past the trained window without training, on one model and one text: losses, keys, time and memory.

    python benchmarks/past_the_window.py --model demo --to 16384 --out out/past_the_window

Each method is a process of its own, so that its memory can be told. Whatever is finished is kept in the folder: the same
command goes on where it was stopped. The table and the figure are made of what is there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.evaluate.document import fixed_target_losses
from ropewalk.evaluate.metrics.perplexity import mean
from ropewalk.evaluate.run import Ledger
from ropewalk.evaluate.text import documents_from, split_text
from ropewalk.extend.candidates import UNMODIFIED, named, reaching_layers
from ropewalk.models.load import load

STAGES = ("reading", "keys", "fixed-target")
LAST = 4096  # tokens that are scored with more and more text before them (Su, kexue.fm/archives/9708)


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
    """Losses of the last tokens of the text with every context up to the whole of what stands before them."""
    loaded = load(given.model, given.dtype)
    config = loaded.model.config.get_text_config()
    window = loaded.trained_length
    reaching = reaching_layers(config, window)
    each = named(encoding, loaded.encodings, reaching, "--encoding").encodings if encoding else loaded.encodings

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    ids = split_text(*documents_from(None, None), tokenize, given.to).held_out
    contexts = [n for n in (LAST, 2 * LAST) if n < given.to - LAST]
    begun = time.perf_counter()
    losses = fixed_target_losses(loaded.model, each, ids, LAST, contexts)
    kept = {n: given.out / f"fixed-{abs(hash(encoding))}-{n}.npy" for n in contexts}
    for n, file in kept.items():
        np.save(file, losses[n])
    found = {str(n): mean(losses[n])._asdict() for n in contexts}
    return {"kind": "fixed-target", "name": encoding, "found": found, "seconds": time.perf_counter() - begun}


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


if __name__ == "__main__":
    main()
