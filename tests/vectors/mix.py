"""Vectors of encodings that mix what two tokens hold with where they stand."""

import torch
from torch import Tensor
from torch.nn.functional import linear

import ropewalk as rw
from ropewalk.encodings.mix.lookup import rel_shift
from ropewalk.masks import bidirectional, causal
from vectors.reading import FLOAT64, Handlers, Read

SIGNS = {"query-key": 1, "key-query": -1}
TERMS = {"1/sqrt(3d)": "c2p|p2c"}


def shaw(p: Read, i: Read) -> tuple[rw.Shaw, Tensor, Tensor, rw.Tokens]:
    """The encoding, queries and keys [1, 1, T, d], and where they stand."""
    encoding = rw.Shaw(p["d"], behind=p["clip_k"], ahead=p["clip_k"])
    return encoding, i["q"][None, None], i["k"][None, None], rw.contiguous(p["T"])


def shaw_scores(p: Read, i: Read) -> Tensor:
    encoding, q, k, at = shaw(p, i)
    return rw.logits(q, k, encoding, {"shaw_key": i["aK"]}, at, at)[0, 0]


def shaw_output(p: Read, i: Read) -> Tensor:
    encoding, q, k, at = shaw(p, i)
    w = {"shaw_key": i["aK"], "shaw_value": i["aV"]}
    return rw.attend(q, k, i["v"][None, None], encoding, w, at, at, bidirectional)[0, 0]


def transformer_xl_scores(p: Read, i: Read) -> Tensor:
    encoding = rw.TransformerXL(p["d"], heads=1, width=i["W_R"].shape[1], base=p["base"])
    w = {"xl_project": i["W_R"], "xl_u": i["u"][None], "xl_v": i["v"][None]}
    at = rw.contiguous(p["T"], start=p["mem"]), rw.contiguous(p["mem"] + p["T"])
    s = rw.logits(i["q"][None, None], i["k"][None, None], encoding, w, *at)[0, 0]
    return s.masked_fill(~causal(*at)[0], float("-inf"))


def rel_shift_txl(p: Read, i: Read) -> Tensor:
    x = torch.tensor(i["x"])
    return rel_shift(x, keys=x.shape[-1])


def rel_shift_xlnet(p: Read, i: Read) -> Tensor:
    return rel_shift(torch.tensor(i["x"]), p["klen"])


def xlnet_pos_emb(p: Read, i: Read) -> Tensor:
    nearest = {"bi": -p["qlen"], "uni": -1}[p["attn_type"]]
    distances = torch.tensor(range(p["klen"], nearest, -1))
    return rw.XLNet(p["d"], heads=1).waves(distances, like=torch.empty(0, dtype=torch.float64))


def log_bucket(p: Read, i: Read) -> Tensor:
    encoding = rw.Deberta(1, 1, span=p["max_position"], buckets=p["position_buckets"])
    sign = SIGNS[i["convention"]]
    return sign * encoding.bucket(sign * torch.tensor(i["rel"]))


def disentangled(p: Read, i: Read, index: str) -> Tensor:
    rows = 2 * p["att_span"]
    encoding = rw.Deberta(p["d"], 1, width=rows, span=p["att_span"], terms=TERMS[p["scale"]], index=index)
    # the file has the rows after projection: those of an identity
    w = {"deberta_table": torch.eye(rows).double(), "deberta_query_bias": torch.zeros(p["d"])}
    w |= {"deberta_key": i["Kr"].T, "deberta_query": i["Qr"].T}
    at = rw.contiguous(p["T"])
    return rw.logits(i["Qc"][None, None], i["Kc"][None, None], encoding, w, at, at)[0, 0]


def tupe_a_scores(p: Read, i: Read) -> Tensor:
    heads, table, at = p["heads"], i["P"], rw.contiguous(p["T"])
    encoding = rw.Tupe(p["d"], heads, length=len(table) - 1, width=table.shape[1], norm=False)
    w = {"tupe_table": table, "tupe_query": i["UQ"], "tupe_key": i["UK"]}
    x = i["x"][None]
    q, k = (linear(x, i[name]).unflatten(-1, (heads, p["d"])).transpose(1, 2) for name in ("WQ", "WK"))
    s = rw.logits(q, k, encoding, w, at, at)[0]
    return s[0] if heads == 1 else s


HANDLERS: Handlers = {
    "shaw_scores": (shaw_scores, FLOAT64),
    "shaw_output": (shaw_output, FLOAT64),
    "transformer_xl_scores": (transformer_xl_scores, FLOAT64),
    "rel_shift_txl": (rel_shift_txl, 0),
    "rel_shift_xlnet": (rel_shift_xlnet, 0),
    "xlnet_pos_emb": (xlnet_pos_emb, FLOAT64),
    "deberta_v2_log_bucket": (log_bucket, 0),
    "deberta_disentangled_code": (lambda p, i: disentangled(p, i, "code"), FLOAT64),
    "deberta_disentangled_paper": (lambda p, i: disentangled(p, i, "paper"), FLOAT64),
    "tupe_a_scores": (tupe_a_scores, FLOAT64),
}
