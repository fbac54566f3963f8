"""One chunked pass that gives every token's loss, against one forward call of the stock model.

First, in a process of its own on a short text: in float32 each loss must be the stock model's within rounding; in
bfloat16 the losses may be no further from the float32 ones than the stock model's own are.  Then both read --length
tokens in bfloat16, in turn (goal: 1.05).  The stock call makes all logits and no loss.  Peak memory is the process's
after our first pass and after all; ours comes first, so the first figure is ours alone.

    python benchmarks/pass_time.py --length 16384 --runs 3
"""

import torch
from torch import Tensor

from common import WARM, Subject, apart, demand, in_turn, losses_of, options, show, stock_logits, subject, tolerance
from ropewalk.evaluate.document import document_losses
from ropewalk.extend.outcome import peak_memory

CHECKED = 640  # tokens
ODD_CHUNK = 150
# attention over two parts rounds twice more in a layer that rounds 17 times or more, so errors grow by 6 % at most;
# the rest is chance: three standard errors of a root mean square over 640 tokens with heavy tails
NO_WORSE = 1.25


def main() -> None:
    args = options(__doc__, length=2048, runs=3).parse_args()
    for ok, what in apart(check, args.model):
        demand(ok, what)
    measure(subject(args.model, "bfloat16", args.length), args.runs)


def check(model: str) -> list[tuple[bool, str]]:
    exact, ours, allowed = both(subject(model, "float32", CHECKED))
    apart_by = float((exact - ours).abs().max())
    stock, halved, _ = both(subject(model, "bfloat16", CHECKED))
    theirs, own = (float((x - exact).square().mean().sqrt()) for x in (stock, halved))
    return [
        (apart_by <= allowed, f"float32: a loss differs by at most {apart_by:.1e} nats ({allowed:.1e} may)"),
        (own <= NO_WORSE * theirs, f"bfloat16: {own:.4f} nats from float32, the stock model {theirs:.4f}"),
    ]


def both(s: Subject) -> tuple[Tensor, Tensor, float]:
    """The losses of the stock call and of our pass, and how far they may lie apart."""
    model = s.loaded.model
    logits = stock_logits(model, s.ids)
    ours = torch.from_numpy(document_losses(model, s.loaded.encodings, s.ids, ODD_CHUNK))
    return losses_of(logits, s.ids), ours, tolerance(logits, model.config.get_text_config().hidden_size)


def measure(s: Subject, runs: int) -> None:
    model, encodings, peaks = s.loaded.model, s.loaded.encodings, list[float]()

    def ours() -> None:
        document_losses(model, encodings, s.ids)
        peaks.append(peak_memory() / 2**30)

    def stock() -> None:
        stock_logits(model, s.ids)

    document_losses(model, encodings, s.ids[:WARM])
    stock_logits(model, s.ids[:WARM])
    chunked, whole, ratio = in_turn(ours, stock, runs)
    print(f"{len(s.ids)} tokens, {runs} runs each, medians: ours {chunked:.2f} s, stock {whole:.2f} s")
    show("our pass / stock pass", ratio, 1.05)
    print(f"peak memory: {peaks[0]:.2f} GiB after ours alone, {peak_memory() / 2**30:.2f} GiB after both")


if __name__ == "__main__":
    main()
