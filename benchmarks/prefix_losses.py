"""The loss at 64 prefix lengths, against one pass over the longest and against 64 passes.

First, in float32 on a short text, every prefix is read on its own by the stock model; each of its losses, and their
mean within 1e-5 relative, must be what one chunked pass gives.  Then two times are compared: all 64 prefix losses, and
one pass (goal: 1.15).  The cost of 64 passes is given in tokens, and in seconds too with --naive.

    python benchmarks/prefix_losses.py --length 16384
"""

import numpy as np

from common import WARM, Subject, demand, in_turn, losses_of, options, seconds, show, stock_logits, subject, tolerance
from ropewalk.evaluate.document import document_losses, losses_at
from ropewalk.evaluate.metrics.perplexity import by_prefix

PREFIXES = 64
CHECKED = 192  # tokens
ODD_CHUNK = 77  # so that chunks end inside prefixes
EQUAL = 1e-5


def main() -> None:
    parser = options(__doc__, length=1024, runs=1)
    parser.add_argument("--naive", action="store_true", help="also time the 64 passes")
    args = parser.parse_args()
    check(subject(args.model, "float32", CHECKED))
    measure(subject(args.model, "bfloat16", args.length), args.runs, args.naive)


def evenly(length: int, count: int) -> list[int]:
    return [length * (i + 1) // count for i in range(count)]


def check(s: Subject) -> None:
    model = s.loaded.model
    ours, lengths = document_losses(model, s.loaded.encodings, s.ids, ODD_CHUNK), evenly(CHECKED, PREFIXES)
    token = prefix = 0.0
    allowed = 0.0
    for n, mean in zip(lengths, by_prefix(ours, lengths), strict=True):
        logits = stock_logits(model, s.ids[:n])
        alone = losses_of(logits, s.ids[:n]).numpy()
        token = max(token, float(np.abs(alone - ours[: n - 1]).max()))
        prefix = max(prefix, abs(mean / alone.mean(dtype=np.float64) - 1))
        allowed = tolerance(logits, model.config.get_text_config().hidden_size)
    demand(token <= allowed, f"a loss differs by at most {token:.1e} nats from a prefix read alone ({allowed:.1e} may)")
    demand(prefix <= EQUAL, f"a prefix's mean loss differs by at most {prefix:.1e} relative ({EQUAL:.0e} may)")


def measure(s: Subject, runs: int, naive: bool) -> None:
    model, encodings, lengths = s.loaded.model, s.loaded.encodings, evenly(len(s.ids), PREFIXES)

    def all_prefixes() -> list[float]:
        return [float(losses.mean(dtype=np.float64)) for losses in losses_at(model, encodings, s.ids, lengths).values()]

    def one_pass() -> float:
        return float(document_losses(model, encodings, s.ids).mean(dtype=np.float64))

    document_losses(model, encodings, s.ids[:WARM])
    together, single, ratio = in_turn(all_prefixes, one_pass, runs)
    print(f"{len(s.ids)} tokens: one pass {single:.2f} s, {PREFIXES} prefix losses {together:.2f} s")
    show(f"{PREFIXES} prefix losses / one pass", ratio, 1.15)
    print(f"{PREFIXES} passes / one pass, in tokens: {sum(lengths) / len(s.ids):.1f}")
    if naive:
        each = seconds(lambda: [document_losses(model, encodings, s.ids[:n]) for n in lengths])
        print(f"{PREFIXES} passes / one pass, in seconds: {each / single:.1f}")


if __name__ == "__main__":
    main()
