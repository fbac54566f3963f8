"""A made-up run: every number comes from a formula below, none from a model."""

import math

import pytest

from ropewalk.report.page import page

TRAINED, TARGET, STEP = 8192, 16384, 512


def mean(loss: float, tokens: int = 8192) -> dict:
    return {
        "loss": loss,
        "low": loss - 0.03,
        "high": loss + 0.03,
        "perplexity": math.exp(loss),
        "tokens": tokens,
    }


def difference(nats: float, width: float = 0.004) -> dict:
    percent = 100 * math.expm1(nats)
    return {"nats": nats, "low": nats - width, "high": nats + width, "percent": percent, "tokens": 8192}


def share(found: int, asked: int) -> dict:
    p, z = found / asked, 1.96
    centre, half = p + z * z / (2 * asked), z * math.sqrt(p * (1 - p) / asked + z * z / (4 * asked * asked))
    low, high = (centre - half) / (1 + z * z / asked), (centre + half) / (1 + z * z / asked)
    return {"found": found, "asked": asked, "low": max(low, 0.0), "high": min(high, 1.0)}


def native_level(position: int, seed: float) -> float:
    """The loss of easy and hard passages: falls with context, wavers with the text."""
    return 2.3 + 0.35 * math.exp(-position / 700) + 0.16 * math.sin(position / 610 + seed) * math.cos(position / 1730)


def blocks(end: int, price: float, seed: float, growth: float = 0.0) -> list[dict]:
    """Losses `price` above the native level, and `growth` nats per trained window more beyond it."""
    starts = range(0, end, STEP)
    late = [max(s + STEP / 2 - TRAINED, 0) / TRAINED for s in starts]
    losses = [native_level(s, seed) + price + growth * x * (1.6 - 0.6 * x) for s, x in zip(starts, late, strict=True)]
    return [{"start": s, "end": s + STEP, "loss": x, "se": 0.035} for s, x in zip(starts, losses, strict=True)]


def level(parts: list[dict], beyond: bool) -> dict | None:
    losses = [b["loss"] for b in parts if (b["start"] >= TRAINED) == beyond]
    return mean(sum(losses) / len(losses)) if losses else None


def search(end: int, price: float, outcome: str, reason: str, growth: float = 0.0) -> dict:
    parts = blocks(end, price, 0.0, growth)
    return {
        "native": level(parts, False),
        "beyond": level(parts, True),
        "tokens": end,
        "passes": end / TARGET,
        "outcome": outcome,
        "reason": reason,
        "blocks": parts,
    }


def held_out(price: float, growth: float = 0.0, reference: bool = False) -> dict:
    parts = blocks(TARGET, price, 1.7, growth)
    return {
        "native": level(parts, False),
        "beyond": level(parts, True),
        "price": None if reference else difference(price),
        "gain": None if reference else difference(price + growth / 2 - 3.0, 0.05),
        "against_truncated": None if reference else difference(price - 0.085, 0.012),
        "against_chosen": None,
        "blocks": parts,
    }


def candidate(name: str, raced: dict | None, proven: dict | None = None, role: str = "candidate") -> dict:
    encoding = None if role == "truncated" else f"Rotary(dim=64, base=100000.0, scaling=({name},))"
    return {
        "name": name,
        "encoding": encoding,
        "role": role,
        "search": raced,
        "held_out": proven,
        "retrieval": None,
    }


def candidates() -> list[dict]:
    dear = "inside the trained window its perplexity is {}% above the unmodified model's; the limit is 4%"
    behind = "beyond the trained window {} nats per token behind the leader, {} standard errors"
    last = "the last 8192 tokens"
    return [
        candidate("unmodified", search(TARGET, 0, "baseline", "", 4.5), held_out(0, 4.5, True), "unmodified"),
        candidate(last, search(TARGET, 0, "baseline", "", 0.12), held_out(0, 0.17, True), "truncated"),
        candidate("Yarn(factor=2.0, trained_length=8192)", search(TARGET, 0.018, "finalist", ""), held_out(0.018)),
        candidate(
            "Yarn(factor=2.0, trained_length=8192, magnitude=1.0)",
            search(TARGET, 0.021, "finalist", "", 0.03),
            held_out(0.021, 0.03),
        ),
        candidate("NTK(factor=2.0)", search(12800, 0.04, "behind", behind.format(0.061, 3.4), 0.14)),
        candidate("NTK(factor=4.0)", search(6144, 0.081, "priced out", dear.format(8.4))),
        candidate("Linear(factor=2.0)", search(1024, 1.05, "priced out", dear.format(186))),
        candidate(
            "NTKByParts(factor=2.0, trained_length=8192)",
            search(11264, 0.035, "behind", behind.format(0.072, 3.1), 0.2),
        ),
        candidate("Yarn(factor=4.0, trained_length=8192)", search(4096, 0.11, "priced out", dear.format(11.6))),
        candidate("BaseChange(base=500000.0)", search(9728, 0.045, "behind", behind.format(0.08, 3.3), 0.6)),
        candidate("Llama3(factor=2.0, low=1.0, high=4.0, trained_length=8192)", None),
    ]


def grid(cliff: int | None) -> list[list[dict]]:
    """Eight questions in every cell; none is answered far beyond `cliff`, and early keys suffer first."""
    lengths, depths = axes()
    reach = [[8 if not cliff else 8 - 6 * max(n / cliff - 1, 0) ** 0.5 * (1.4 - d) for d in depths] for n in lengths]
    wobble = [[(3 * i + 5 * j) % 7 // 6 for j in range(len(depths))] for i in range(len(lengths))]
    return [
        [share(max(0, min(8, round(x)) - w), 8) for x, w in zip(a, b, strict=True)]
        for a, b in zip(reach, wobble, strict=True)
    ]


def axes() -> tuple[list[int], list[float]]:
    return list(range(2048, TARGET + 1, 2048)), [(2 * i + 1) / 16 for i in range(8)]


def total(cells: list[list[dict]]) -> dict:
    flat = [cell for line in cells for cell in line]
    return share(sum(c["found"] for c in flat), sum(c["asked"] for c in flat))


def spectrum() -> dict:
    """Thirty-two pairs; a ramp over the pairs halves the slow ones."""
    trained = [100000.0 ** (-i / 32) for i in range(32)]
    keep = [min(max((22 - i) / 12, 0), 1) for i in range(32)]
    bent = [f * (k + (1 - k) / 2) for f, k in zip(trained, keep, strict=True)]
    return {"trained": {"inv_freq": trained, "magnitude": 1.0}, "chosen": {"inv_freq": bent, "magnitude": 1.0693}}


def deploy() -> list[dict]:
    serve = "vllm serve extended/ --max-model-len 16384"
    load = 'AutoModelForCausalLM.from_pretrained("extended/")'
    flags = "llama-server -m demo.gguf -c 16384 --rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 8192"
    override = 'vllm serve demo --hf-overrides "$(cat engines/vllm.json)" --max-model-len 16384'
    return [
        {"title": "Transformers", "path": "extended/", "command": load},
        {"title": "vLLM, from the folder", "path": "extended/", "command": serve},
        {"title": "vLLM, original weights", "path": "engines/vllm.json", "command": override},
        {"title": "llama.cpp", "path": "engines/llamacpp.txt", "command": flags},
    ]


def made_up() -> dict:
    everyone, (lengths, depths) = candidates(), axes()
    grids = {"unmodified": grid(9000), everyone[2]["name"]: grid(None)}
    for c in everyone:
        c["retrieval"] = total(grids[c["name"]]) if c["name"] in grids else None
    everyone[3]["held_out"]["against_chosen"] = difference(0.018)
    return {
        "tool": "ropewalk 0.1.0",
        "model": "demo",
        "architecture": "llama",
        "trained_length": TRAINED,
        "target_length": TARGET,
        "gained": True,
        "verdict": "demo now reads 16,384 tokens: beyond 8,192 its perplexity on held-out text is 9.99 instead of 146, "
        "for 1.8% more on short text.",
        "chosen": everyone[2]["encoding"],
        "chosen_name": everyone[2]["name"],
        "candidates": everyone,
        "retrieval": {"task": "named keys", "lengths": lengths, "depths": depths, "grids": grids},
        "spectrum": spectrum(),
        "cliff": {"unmodified": 9728, "chosen": None},
        "deploy": deploy(),
        "notes": ["llama.cpp computes the magnitude itself; the flags reproduce it within 1e-6."],
        "protocol": [
            "Every candidate reads the same search document in chunks of 512 tokens and stops when it is clearly out.",
            "Held-out documents were never seen by the search; differences are paired token by token.",
            "Intervals are 95%: of paired differences for losses, Wilson's for retrieval.",
        ],
        "text": {"search": "pydoc_data.topics, tokens 0 to 16,384", "held_out": "pydoc_data.topics, from 40,000"},
        "stages": [
            {"name": "load", "seconds": 2.4},
            {"name": "race", "seconds": 262.0},
            {"name": "held-out text", "seconds": 301.5},
            {"name": "retrieval", "seconds": 96.2},
            {"name": "export", "seconds": 0.8},
        ],
        "seconds": 662.9,
        "peak_memory_bytes": 3_150_000_000,
        "versions": {"python": "3.11.14", "torch": "2.13.0", "transformers": "5.23.0", "ropewalk": "0.1.0"},
        "seed": 0,
        "request": 'ExtendRequest(model="demo", to=16384, seed=0)',
    }


def nothing_helped() -> dict:
    summary = made_up()
    summary.update(gained=False, chosen=None, chosen_name=None, deploy=[], notes=[])
    summary["verdict"] = "Nothing helped: no candidate reads 16,384 tokens at an acceptable price."
    summary["spectrum"]["chosen"] = None
    summary["retrieval"]["grids"] = {"unmodified": grid(9000)}
    return summary


@pytest.fixture(name="made_up")
def fresh() -> dict:
    """A run in which YaRN is chosen; a test may change it."""
    return made_up()


@pytest.fixture
def in_vain() -> dict:
    """The same run, had nothing helped: no candidate chosen, nothing to deploy."""
    return nothing_helped()


@pytest.fixture(scope="session")
def gained_page() -> str:
    return page(made_up())


@pytest.fixture(scope="session")
def vain_page() -> str:
    return page(nothing_helped())
