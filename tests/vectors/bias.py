"""Vectors of encodings that add to the logits by where two tokens stand."""

import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.masks import causal
from vectors.reading import FLOAT32, FLOAT64, Handlers, Read

SIGNS = {"key-query": 1, "query-key": -1}


def t5_bucket(p: Read, i: Read, bidirectional: bool) -> Tensor:
    encoding = rw.T5(1, p["num_buckets"], p["max_distance"], bidirectional)
    return encoding.bucket(SIGNS[i["convention"]] * torch.tensor(i["relative_position"]))


def slopes(p: Read, i: Read) -> list[float]:
    return list(rw.Alibi(p["heads"]).slopes())


def slopes_mpt(p: Read, i: Read) -> list[float]:
    return list(rw.Alibi(p["heads"], p["alibi_bias_max"]).slopes())


def alibi(p: Read) -> tuple[Tensor, rw.Tokens]:
    """The bias [H, T, T] of a row and the row."""
    at = rw.contiguous(p["T"])
    return rw.Alibi(p["heads"]).bias({}, at, at)[0], at


def alibi_causal(p: Read, i: Read) -> Tensor:
    bias, at = alibi(p)
    return bias.masked_fill(~causal(at, at), float("-inf"))


def alibi_not(p: Read, i: Read) -> list[float]:
    """1 / 2 ** (8 / k), a formula that is in circulation; with more than one head it is none of ours."""
    found = [0.5 ** (8 / k) for k in range(1, p["heads"] + 1)]
    ours = slopes(p, i)
    assert p["heads"] == 1 or max(abs(a - b) for a, b in zip(found, ours, strict=True)) > 0.01
    return found


def kerple_log(p: Read, i: Read) -> Tensor:
    rates = torch.tensor([[p["r1"]], [p["r2"]]], dtype=torch.float64).log()
    w = dict(zip(("kerple_log_rate", "kerple_log_sharpness"), rates, strict=True))
    return rw.KerpleLog(1).of_distance(w, torch.tensor(i["distance"]))[0]


def kerple_power(p: Read, i: Read) -> Tensor:
    rate, exponent = torch.tensor([[p["r1"]], [p["r2"]]], dtype=torch.float64)
    w = {"kerple_power_rate": rate.log(), "kerple_power_exponent": (exponent / 2).logit()}
    return rw.KerplePower(1).of_distance(w, torch.tensor(i["distance"]))[0]


def sandwich(p: Read, i: Read) -> Tensor:
    return rw.Sandwich(p["heads"], p["d_bar"]).of_distance({}, torch.tensor(i["distance"]))


def fire(p: Read, i: Read) -> list[list[list[float]]]:
    encoding, at = rw.Fire(p["heads"], p["width"], p["L"], p["eps"]), rw.contiguous(p["T"])
    w = {
        "fire_c": torch.tensor([p["c"]], dtype=torch.float64),
        "fire_reach": torch.ones(1, dtype=torch.float64),
        "fire_in": i["W1"],
        "fire_in_shift": i["b1"],
        "fire_out": i["W2"],
        "fire_out_shift": i["b2"],
    }
    # the file has the part below the diagonal
    return [[row[: n + 1] for n, row in enumerate(head)] for head in encoding.bias(w, at, at)[0].tolist()]


def swin_index(p: Read, i: Read) -> Tensor:
    height, width = p["window"]
    count, columns = (2 * height - 1) * (2 * width - 1), torch.tensor(range(width)).repeat(height)
    lines, order = torch.tensor(range(height)).repeat_interleave(width), torch.zeros(1, height * width).long()
    at = rw.Tokens(torch.stack((lines, columns), dim=-1)[None], order, order)
    # a table that holds its own row numbers
    table = torch.tensor(range(count))[:, None]
    return rw.Swin(1, height, width).bias({"swin_bias": table}, at, at)[0, 0]


def swin_v2_offsets(p: Read, i: Read) -> Tensor:
    trained = (p["pretrained_window"],) * 2 if p["pretrained_window"] else ()
    return rw.SwinV2(1, p["window"], p["window"], trained).offsets()


HANDLERS: Handlers = {
    "t5_bucket_bidirectional": (lambda p, i: t5_bucket(p, i, True), 0),
    "t5_bucket_causal": (lambda p, i: t5_bucket(p, i, False), 0),
    "alibi_slopes_": (slopes, FLOAT64),
    "alibi_slopes_mpt_": (slopes_mpt, FLOAT64),
    "alibi_bias_causal": (alibi_causal, FLOAT32),
    "alibi_bias_symmetric": (lambda p, i: alibi(p)[0], FLOAT32),
    "alibi_wrong_source_formula": (alibi_not, FLOAT64),
    "kerple_log": (kerple_log, FLOAT64),
    "kerple_power": (kerple_power, FLOAT64),
    "sandwich": (sandwich, FLOAT32),
    "fire_bias": (fire, FLOAT64),
    "swin_relative_position_index": (swin_index, 0),
    "swinv2_log_cpb_coords": (swin_v2_offsets, FLOAT64),
}
