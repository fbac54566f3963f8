"""What the authors of ALiBi measured, to stand beside what the lab measures. Press et al. 2022, arXiv:2108.12409v2.

A language model of 247M parameters on WikiText-103, texts that do not overlap, one V100.
"""

from typing import Any

SOURCE = "Press et al. 2022, arXiv:2108.12409v2"
TRAINED = 512
LENGTHS = (512, 532, 612, 712, 1012, 1112, 1512, 2512, 3512, 5512, 8512, 12512, 15512)
# Table 2: perplexity of the validation set; None where memory ran out
PERPLEXITY: dict[str, tuple[float | None, ...]] = {
    "sinusoidal": (20.05, 19.91, 20.59, 24.86, 43.54, 50.36, 76.23, 132.41, 178.97, 240.44, 305.65, 373.17, 406.01),
    "RoPE": (20.07, 19.98, 19.81, 19.79, 21.37, 22.01, 25.99, 31.58, 35.54, 43.14, 54.98, 69.70, 79.25),
    "T5": (19.65, 19.53, 19.27, 19.10, 18.79, 18.77, 18.91, 20.41, 22.91, 29.54, 43.08, 64.94, None),
    "ALiBi": (19.73, 19.61, 19.38, 19.14, 18.73, 18.68, 18.52, 18.41, 18.40, 18.36, 18.34, 18.31, 18.31),
}
SPEED_LENGTHS = (512, 1024, 3072)
# Table 1: words a second in training, words a second in evaluation, gigabytes in training
SPEED: dict[str, tuple[tuple[float, float, float], ...]] = {
    "sinusoidal": ((28500, 82100, 15.3), (26000, 77800, 19.2), (15300, 42400, 15.1)),
    "RoPE": ((20000, 43400, 17.8), (17700, 39400, 22.8), (11500, 29500, 17.8)),
    "T5": ((14400, 21800, 16.9), (13000, 20200, 20.9), (4300, 4900, 15.9)),
    "ALiBi": ((28300, 85800, 15.3), (25800, 76400, 19.3), (15500, 42200, 15.2)),
}


def ratios(name: str) -> dict[str, float]:
    """Perplexity at about 2, 5 and 16 times the trained length over that at it: {"r(2)": 0.949, ...}; {} if unknown."""
    row = PERPLEXITY.get(name)
    if row is None:
        return {}
    told = {"r(2)": 1012, "r(5)": 2512, "r(16)": 8512}
    known = {k: row[LENGTHS.index(n)] for k, n in told.items()}
    return {k: x / row[0] for k, x in known.items() if x is not None and row[0] is not None}


def tables() -> dict[str, Any]:
    """Both tables, as a summary carries them."""
    speed = {
        name: [
            {"length": n, "train": a, "evaluate": b, "gigabytes": c}
            for n, (a, b, c) in zip(SPEED_LENGTHS, rows, strict=True)
        ]
        for name, rows in SPEED.items()
    }
    perplexity = {name: list(row) for name, row in PERPLEXITY.items()}
    return {
        "source": SOURCE,
        "trained_length": TRAINED,
        "lengths": list(LENGTHS),
        "perplexity": perplexity,
        "speed": speed,
    }
