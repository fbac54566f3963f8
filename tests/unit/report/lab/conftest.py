"""A made-up lab: every number comes from a formula below, none from a model; the sheet is judged as a real one is."""

import math

import pytest

from ropewalk.lab import published
from ropewalk.lab.estimates import Estimate
from ropewalk.lab.judgement import Evidence, sheet
from ropewalk.lab.summary import verdict
from ropewalk.report.lab_tasks import WAYS

TRAINED, TIMES = 128, 16
MULTIPLES = [1, 2, 4, 8, 16]
PROTOCOLS = {"nonoverlapping": 0.0, "sliding": 0.35, "fixed target": 1.0}  # how much of the gain is missing
WORDS = {
    "nonoverlapping": "65,536 tokens cut into texts that do not overlap; all tokens of a text count",
    "sliding": "2,048 tokens, each in the last 64 of a text that moves by 64",
    "fixed target": "the same 2,048 tokens at every length: the last 64 of every 2,048, after ever more context",
}
# name: role, nats at the trained length, growth by 16 times, evaluation and training speeds over those of NoPE
MADE = {
    "sinusoidal": ("sinusoidal", 1.416, 2.28, 0.99, 0.985),
    "learned": ("learned", 1.43, None, 0.995, 0.99),
    "RoPE": ("RoPE", 1.295, 1.95, 0.94, 0.955),
    "xPos": (None, 1.31, 1.2, 0.91, 0.93),
    "T5": ("T5", 1.56, 0.92, 0.66, 0.94),
    "ALiBi": ("ALiBi", 1.449, -0.031, 0.93, 0.97),
    "KERPLE": ("KERPLE", 1.43, -0.02, 0.67, 0.935),
    "FIRE": ("FIRE", 1.45, 0.012, 0.55, 0.88),
    "NoPE": ("NoPE", 1.6, 1.4, 1.0, 1.0),
}
ENCODINGS = {
    "sinusoidal": "Sinusoidal(128)",
    "learned": "Learned(128, 128)",
    "RoPE": "Rotary(32)",
    "xPos": "XPos(32, scale_base=64.0)",
    "T5": "T5(4, width=128)",
    "ALiBi": "Alibi(4)",
    "KERPLE": "KerpleLog(4)",
    "FIRE": "Fire(4, threshold=32.0)",
    "NoPE": "()",
}


def grown(name: str, k: int, protocol: str) -> float:
    """The loss at k times the trained length: steep at once or late, and T5 a little better at first."""
    _, home, growth, *_ = MADE[name]
    steep = {"sinusoidal": 0.5, "RoPE": 1.0, "T5": 1.6, "NoPE": 0.8}.get(name, 1.0)
    missing = PROTOCOLS[protocol]
    if growth < 0.02:
        # all that longer texts give is fewer tokens that come early
        return home - 0.03 * missing + growth * (1 - missing) * (1 - 1 / k) * 16 / 15
    dip = -0.1 * (k == 2) if name == "T5" else 0.0
    return home - 0.03 * missing + (1 + 0.25 * missing) * growth * (math.log2(k) / 4) ** steep + dip


def entry(name: str, k: int, protocol: str) -> dict:
    told = {"length": TRAINED * k, "multiple": k}
    if MADE[name][2] is None and k > 1:
        return told | {
            "reason": f"Learned: position {TRAINED * k - 1} is beyond its table, which ends at {TRAINED - 1}"
        }
    home = grown(name, 1, protocol) if MADE[name][2] is not None else MADE[name][1]
    loss = grown(name, k, protocol) if MADE[name][2] is not None else home
    told |= {"loss": loss, "se": 0.012, "seed_se": 0.004, "low": loss - 0.03, "high": loss + 0.03, "tokens": 65536}
    return told | {"seeds": 3, "perplexity": math.exp(loss), "ratio": math.exp(loss - home)}


def by_position(name: str) -> dict | None:
    """Blocks of a quarter of the trained length: a fall with context, then the growth."""
    if MADE[name][2] is None:
        return None
    edges = list(range(0, TRAINED * TIMES + 1, TRAINED // 4))
    found: list[float] = []
    for i, start in enumerate(edges[:-1]):
        k = max((start + TRAINED / 8) / TRAINED, 1)
        late = MADE[name][2] * 1.2 * math.log2(k) / 4 if MADE[name][2] > 0.02 else 0.0
        found.append(MADE[name][1] - 0.1 + 0.5 * math.exp(-start / 40) + late + 0.05 * math.sin(1.9 * i))
    return {"edges": edges, "loss": found, "se": [0.05] * len(found)}


def speed(name: str) -> list[dict]:
    """Shares of NoPE's tokens per second that fall as texts grow."""
    told: list[dict] = []
    for stage, share, base in (("train", MADE[name][4], 13000), ("evaluate", MADE[name][3], 40000)):
        for k in MULTIPLES:
            if MADE[name][2] is None and k > 1:
                continue
            of_nope = 1 - (1 - share) * (0.6 + 0.1 * math.log2(k))
            rate = base * of_nope / (1 + k / 12)
            peak = int(4e6 * (4 if stage == "train" else 1) * (1 + k / 8) * (1.6 if share < 0.7 and k > 4 else 1))
            told.append({"stage": stage, "length": TRAINED * k, "tokens_per_second": rate, "low": 0.97 * rate})
            told[-1] |= {"high": 1.02 * rate, "peak_bytes": peak, "of_nope": of_nope}
    return told


def encoding(name: str) -> dict:
    role, home, growth, *_ = MADE[name]
    curve = [[step, home + 4 * math.exp(-step / 150)] for step in range(0, 1221, 61)]
    kept = [f"checkpoints/{name}-seed{seed}.safetensors" for seed in range(3)]
    trainings = [
        {
            "seed": seed,
            "outcome": "finished",
            "reason": "",
            "steps": 1220,
            "curve": curve,
            "checkpoint": c,
            "seconds": 200,
        }
        for seed, c in enumerate(kept)
    ]
    losses = {p: [entry(name, k, p) for k in MULTIPLES] for p in PROTOCOLS}
    learned = 16384 if growth is None else 128 if name == "T5" else 0
    return {
        "name": name,
        "encoding": ENCODINGS[name],
        "role": role,
        "parameters": 823_552 + learned,
        "of_positions": learned,
        "trainings": trainings,
        "losses": losses,
        "by_position": by_position(name),
        "per_byte": home,
        "speed": speed(name),
    }


def evidence(encodings: list[dict]) -> Evidence:
    by_role = {e["role"]: e for e in encodings if e["role"]}

    def read(protocol: str, field: str) -> dict:
        return {
            role: {x["multiple"]: x[field] for x in e["losses"][protocol] if field in x} for role, e in by_role.items()
        }

    losses = read("nonoverlapping", "loss")

    def difference(first: str, second: str, k: int) -> Estimate:
        d = losses[first][k] - losses[second][k]
        return Estimate(d, 0.005, 0.004, d - 0.02, d + 0.02, 65536, 3)

    refused = {
        role: [x["multiple"] for x in e["losses"]["nonoverlapping"] if "reason" in x] for role, e in by_role.items()
    }
    per_byte = {role: e["per_byte"] for role, e in by_role.items()}
    fixed = read("fixed target", "loss")
    return Evidence(read("nonoverlapping", "ratio"), losses, fixed, per_byte, refused, difference)


def lab_summary() -> dict:
    encodings = [encoding(name) for name in MADE]
    lines = sheet(evidence(encodings))
    return {
        "request": {
            "out": "out/lab",
            "seeds": 3,
            "quick": False,
            "text": None,
            "train_length": TRAINED,
            "times": TIMES,
        },
        "settings": {
            "text": "the sources of Python's standard library, 694 files to train on and 40 held out e0b1d38ecf7ed160",
            "bpe": None,
            "bytes_per_token": 1.0,
            "train_length": TRAINED,
            "times": TIMES,
            "held_out": 65536,
            "recipe": {"steps": 1220, "batch": 16, "length": TRAINED, "rate": 0.003, "warmup": 60, "dtype": "bfloat16"},
            "shape": {"vocabulary": 256, "width": 128, "layers": 4, "heads": 4, "hidden": 512},
        },
        "machine": {
            "date": "2026-01-31",
            "device": "a processor of two cores",
            "ropewalk": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.14",
            "threads": 1,
            "processes": 2,
        },
        "lengths": [TRAINED * k for k in MULTIPLES],
        "multiples": MULTIPLES,
        "seeds": 3,
        "protocols": WORDS,
        "encodings": encodings,
        "paired": [],
        "sheet": [line._asdict() for line in lines],
        "verdict": verdict(lines),
        "published": published.tables(),
    }


def stretched(method: str, tuning: str, k: int, step: int) -> dict:
    """Ratios: PI is poor untuned at every length, the others beyond the factor; tuning takes most away at once."""
    far = {"none": 1.2, "PI": 0.5, "NTK": 0.18, "YaRN": 0.12}[method] * math.log2(k) + 0.9 * (method == "PI")
    left = {"untuned": 1.0, "full": math.exp(-step / 40), "PoSE": math.exp(-step / 30), "native": 1.0}[tuning]
    loss = far * left + 0.3 * (k > 4) - 0.02 * math.log2(k) * (tuning != "untuned")
    told = {"length": TRAINED * k, "multiple": k, "loss": 1.3 + loss, "se": 0.01, "perplexity": math.exp(1.3 + loss)}
    return told | {"ratio": math.exp(loss), "low": math.exp(loss - 0.02), "high": math.exp(loss + 0.02)}


def variant(method: str, tuning: str) -> dict:
    steps = {0: [1, 2, 4, 8]} if tuning == "untuned" else {50: [1, 4], 100: [1, 4], 200: [1, 2, 4, 8]}
    stages = [
        {"step": s, "losses": {p: [stretched(method, tuning, k, s) for k in some] for p in ("nonoverlapping",)}}
        for s, some in steps.items()
    ]
    told = {"method": method, "tuning": tuning, "encoding": "Rotary(32)", "recipe": None, "outcome": None}
    return told | {"reason": None, "curve": None, "stages": stages}


def scaling_part() -> dict:
    tunings = {"untuned": ("none", "PI", "NTK", "YaRN"), "full": ("none", "PI", "NTK", "YaRN"), "native": ("none",)}
    tunings["PoSE"] = ("PI", "NTK", "YaRN")
    line = {"passed": True, "reason": "", "gated": True}
    poor = {"values": {"r(1)": 2.46, "r(4)": 6.7}, "published": {"r(1)": 9.24, "r(4)": 9.68, "what": "PoSE, Table 6"}}
    near = {"values": {"difference": -0.01, "seeds": 1.0}, "published": {"difference": -0.002, "what": "nats, Table 6"}}
    soon = {"values": {"share": 0.93, "steps": 50.0}, "published": {"share": 0.98, "what": "200 of 1,000 steps"}}
    lines = {
        "PI is poor untuned": poor,
        "skipped positions do what long texts do": near,
        "the first steps do most": soon,
    }
    return {
        "name": "RoPE",
        "encoding": "Rotary(32)",
        "factor": 4,
        "lengths": [128, 256, 512, 1024],
        "multiples": [1, 2, 4, 8],
        "stages": [50, 100, 200],
        "protocols": {"nonoverlapping": WORDS["nonoverlapping"]},
        "native": {"nonoverlapping": {"loss": 1.3, "se": 0.01, "perplexity": math.exp(1.3), "tokens": 32768}},
        "variants": [variant(method, tuning) for tuning, some in tunings.items() for method in some],
        "sheet": [{"name": name, "condition": "as published", **line, **said} for name, said in lines.items()],
        "published": {"source": "those who stretched models before"},
    }


def seen(share: float | None, k: int) -> dict:
    if share is None:
        return {"resolution": k, "reason": "no such place"}
    found = {"rate": share, "low": share - 0.02, "high": share + 0.02, "n": 360, "seeds": 3, "each": [share] * 3}
    return {"resolution": k, **found}


def pictures_part() -> dict:
    shares = {
        "learned": ([0.95, None, None], [0.95, 0.81, 0.52]),
        "2-D sinusoidal": ([0.96, 0.5, 0.3], [0.96, 0.7, 0.5]),
        "axial RoPE": ([0.97, 0.62, 0.33], [0.97, 0.85, 0.61]),
        "mixed RoPE": ([0.97, 0.71, 0.4], [0.97, 0.86, 0.66]),
    }
    told = [
        {
            "name": name,
            "encoding": "()",
            "places": "grid",
            "of_positions": 0,
            "accuracy": {
                way: [seen(x, k + 1) for k, x in enumerate(some)] for way, some in zip(WAYS, both, strict=True)
            },
        }
        for name, both in shares.items()
    ]
    return {"resolutions": [1, 2, 3], "n": 360, "encodings": told}


def clips_part() -> dict:
    """M-RoPE goes on, and one number per token is lost in larger clips."""
    sizes = [(4, 3), (8, 3), (16, 3), (4, 6), (4, 9)]
    keep = {"M-RoPE": 0.9, "1-D RoPE": 0.4}
    told: list[dict] = []
    for name, kept in keep.items():
        accuracy: dict[str, list[dict]] = {}
        for asked in ("frame", "row", "column"):
            accuracy[asked] = []
            for i, (frames, side) in enumerate(sizes):
                right = 0.95 * kept**i
                entry = {"frames": frames, "side": side, "chance": 1 / (frames if asked == "frame" else side)}
                entry |= {
                    "rate": right,
                    "low": max(right - 0.03, 0.0),
                    "high": right + 0.03,
                    "n": 256,
                    "seeds": 3,
                    "each": [right] * 3,
                }
                accuracy[asked].append(entry)
        told.append({"name": name, "encoding": "()", "accuracy": accuracy})
    return {"trained": [4, 3], "asked": ["frame", "row", "column"], "encodings": told}


def rate(value: float) -> dict:
    low, high = max(value - 0.04, 0.0), min(value + 0.04, 1.0)
    return {"rate": value, "low": low, "high": high, "n": 128, "seeds": 3, "each": [value] * 3}


def strings_part() -> dict:
    """Everybody is right at home; by 8 times only NoPE still copies."""
    tasks: dict[str, list[dict]] = {}
    for i, task in enumerate(("copying", "recall", "passkey")):
        tasks[task] = []
        for name in ("learned", "RoPE", "ALiBi", "NoPE"):
            keep = {"RoPE": 0.3, "ALiBi": 0.4, "NoPE": 0.8}.get(name, 0.0)
            cells: list[dict] = []
            for j, k in enumerate((1, 2, 4, 8)):
                told = {"multiple": k, "length": 32 * k}
                right = rate((0.99 - 0.02 * i) * keep**j)
                cells.append(told | ({"reason": "no place"} if name == "learned" and k > 1 else {"exact": right}))
            tasks[task].append({"name": name, "encoding": ENCODINGS[name], "cells": cells})
    return {"trained_length": 32, "chance": {}, "tasks": tasks, "trainings": []}


def numbers_part() -> dict:
    """Five digits are learned; reversed numbers carry NoPE to eight, and those with digit places to twelve."""
    reach = {"plain": {"NoPE": 5, "digits": 5}, "reversed": {"NoPE": 8, "digits": 12}}
    formats = {
        form: [
            {
                "name": name,
                "encoding": "()",
                "cells": [
                    {"digits": d, "exact": rate(0.97 if d <= far else 0.0), "digit": rate(0.99 if d <= far else 0.4)}
                    for d in range(1, 17)
                ],
            }
            for name, far in some.items()
        ]
        for form, some in reach.items()
    }
    return {"trained_digits": 5, "chance": {}, "formats": formats, "trainings": []}


def optional() -> dict:
    return {
        "strings": strings_part(),
        "numbers": numbers_part(),
        "pictures": pictures_part(),
        "clips": clips_part(),
        "scaling": scaling_part(),
    }


@pytest.fixture
def whole(lab: dict) -> dict:
    """The same lab with its optional parts."""
    return lab | optional()


@pytest.fixture(name="lab")
def fresh() -> dict:
    """A lab of nine encodings over three seeds; a test may change it."""
    return lab_summary()
