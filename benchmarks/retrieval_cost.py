"""Two retrieval grids of 8 lengths x 8 depths, against a plain pass over the longest and against naive reading.

First, in float32: a grid of named keys over a short document, and those cells of the classical passkey grid that are
short, must be what greedy generation from each whole prompt gives, cell by cell.  Then the named-keys grid is timed
against a pass that only reads the same document (goal: 1.2), and both grids are run on a trunk that counts tokens,
against reading every prompt anew (goal for passkey: half).  The number of questions hardly grows with the document, so
the shorter it is, the more they weigh: a short run misses the goal.

    python benchmarks/retrieval_cost.py --length 16384
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from common import WARM, Subject, demand, in_turn, options, show, subject
from ropewalk.evaluate.document import attached
from ropewalk.evaluate.forward import Trunk
from ropewalk.evaluate.tasks.passkey import GRID, SPARSE, Answer, NamedKeys, Passkey, ask_named_keys, ask_passkey
from ropewalk.extend.candidates import reaching_layers, with_rule
from ropewalk.models.attach import attach, detach
from ropewalk.models.quiet import quiet
from ropewalk.scalings import Yarn

SHORTEST = GRID * SPARSE  # tokens of the smallest named-keys grid
PASSKEY = 128 << (GRID - 1)  # tokens of the smallest passkey grid
CHECKED = 256  # tokens up to which passkey cells are checked
ODD_CHUNK = 100
TOO_STRONG = 16.0  # the factor of a scaling under which the demo model misses some of the short cells


def main() -> None:
    args = options(__doc__, length=2048, runs=1).parse_args()
    exact = subject(args.model, "float32", PASSKEY)
    check_named_keys(exact)
    check_passkey(exact)
    del exact
    measure(subject(args.model, "bfloat16", args.length), args.runs)


class Recorder(Trunk):
    """A trunk that keeps what it read and was asked, so that the same can be asked naively."""

    def __init__(self, model: Any, chunk: int) -> None:
        super().__init__(model, chunk)
        self.text: tuple[int, ...] = ()
        # prompts that end in the right answer, and the tokens of that answer; each prompt once
        self.asked: dict[tuple[int, ...], int] = {}

    def read(self, ids: Tensor, scored: bool = True) -> Iterator[Tensor]:
        self.text = (*self.text[: self.length], *ids.tolist())
        return super().read(ids, scored)

    def branch(self, questions: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        for question, n in zip(questions, keep, strict=True):
            self.asked[(*self.text, *question.tolist())] = n - 1
        return super().branch(questions, keep)


class Counter(Trunk):
    """A trunk without a model: it counts the tokens that a task reads, and those of reading every prompt anew."""

    shared = naive = 0

    def read(self, ids: Tensor, scored: bool = True) -> Iterator[Tensor]:
        self.shared += len(ids)
        self.length += len(ids)
        yield from ()

    def branch(self, questions: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        self.shared += sum(map(len, questions))
        self.naive += sum(self.length + len(q) for q in questions)
        return [torch.zeros(n, 1) for n in keep]


def check_named_keys(s: Subject) -> None:
    task, trunk = NamedKeys(SHORTEST, per_cell=1), Recorder(s.loaded.model, ODD_CHUNK)
    compare("named keys", s, trunk, ask_named_keys(trunk, task, s.tokenize, s.ids.tolist()))


def check_passkey(s: Subject) -> None:
    task, trunk = Passkey(PASSKEY), Recorder(s.loaded.model, ODD_CHUNK)
    long = [position for position, lengths in task.cells().items() if max(lengths) > CHECKED]
    compare("passkey", s, trunk, ask_passkey(trunk, task, s.tokenize, skip=long))


def compare(name: str, s: Subject, trunk: Recorder, groups: Iterator[list[Answer]]) -> None:
    """Every cell against greedy generation with stock attention; a model that finds nothing would prove nothing.

    Under a scaling that is far too strong, so that some cells are missed as well.
    """
    model, config = s.loaded.model, s.loaded.model.config.get_text_config()
    strong = Yarn(TOO_STRONG, s.loaded.trained_length)
    encodings = with_rule(s.loaded.encodings, strong, reaching_layers(config, s.loaded.trained_length))
    with attached(model, encodings):
        cells = [answer.found for group in groups for answer in group]
    attach(model, encodings)
    naive = [generates(model, prompt, n) for prompt, n in trunk.asked.items()]
    detach(model)
    demand(cells == naive, f"{name}: {len(cells)} cells equal naive generation, {sum(naive)} of them found")
    demand(any(naive), f"{name}: there is something to find")


@torch.inference_mode()
def generates(model: Any, prompt: tuple[int, ...], n: int) -> bool:
    """Whether greedy decoding continues all but the last n tokens of the prompt with these."""
    start = torch.tensor(prompt[:-n])[None]
    with quiet():
        out = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=n, do_sample=False)
    return tuple(out[0].tolist()) == prompt


def measure(s: Subject, runs: int) -> None:
    model, task, hay = s.loaded.model, NamedKeys(len(s.ids)), s.ids.tolist()
    document = task.document(task.keys(s.tokenize), hay)

    def grid() -> None:
        list(ask_named_keys(Trunk(model), task, s.tokenize, hay))

    def plain() -> None:
        list(Trunk(model).read(document, scored=False))

    with attached(model, s.loaded.encodings):
        list(Trunk(model).read(document[:WARM]))
        asked, read, ratio = in_turn(grid, plain, runs)
    print(f"{len(document)} tokens: plain pass {read:.2f} s, named-keys grid {asked:.2f} s")
    show("named-keys grid / plain pass", ratio, 1.2)
    counter = Counter(None)
    list(ask_named_keys(counter, task, s.tokenize, hay))
    print(f"named keys, tokens read / tokens of every prompt anew: {counter.shared / counter.naive:.3f}")
    counter, passkey = Counter(None), Passkey(max(len(s.ids), PASSKEY))
    list(ask_passkey(counter, passkey, s.tokenize))
    show(f"passkey to {passkey.length}, tokens read / tokens of every prompt anew", counter.shared / counter.naive, 0.5)


if __name__ == "__main__":
    main()
