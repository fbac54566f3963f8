"""Which encodings can count the tokens of a text that repeats one token?

Equal tokens have equal values, and softmax weights sum to one: whatever an encoding does to the logits, attention gives
the same vector everywhere. Only what adds positions to the embeddings, or acts behind the softmax, escapes (Su 2022,
kexue.fm/archives/9105).

    python examples/constant_input.py
"""

from typing import Any

import torch

import ropewalk as rw
from ropewalk.notation import SAMPLES

LENGTH, DIM, HEADS = 8, SAMPLES["dim"], SAMPLES["heads"]


def spread(encoding: Any) -> float:
    """How far the outputs of attention lie apart over the positions of a text of equal tokens."""
    encoding = rw.for_length(encoding, LENGTH)
    draw = torch.Generator().manual_seed(0)
    # learned tensors are moved away from where they start: zeros and ones would act like no positions
    w = {n: (x + 0.1 * torch.randn(x.shape, generator=draw)).double() for n, x in rw.initial(encoding).items()}
    at = rw.contiguous(LENGTH)
    at = at._replace(position=at.position.expand(-1, -1, getattr(encoding, "axes", 1)))
    token = torch.randn(1, 1, DIM, generator=draw, dtype=torch.float64)
    states = rw.embed(token.expand(1, LENGTH, DIM), encoding, w, at)
    heads = states[:, None].expand(-1, HEADS, -1, -1)
    out = rw.attend(heads, heads, heads, encoding, w, at, at)
    return float((out - out[:, :, :1]).abs().max())


def main() -> None:
    """Print, for each exported encoding, whether its output is constant."""
    for encoding in rw.exported():
        apart = spread(encoding)
        verdict = "constant" if apart < 1e-12 else f"differs by {apart:.2g}"
        print(f"{verdict:20} {rw.short(encoding)}")


if __name__ == "__main__":
    main()
