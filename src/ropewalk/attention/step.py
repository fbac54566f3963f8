"""One call of a model's layers over cached keys: what the layers share, and attention as each layer's encoding says.

Queries and keys are mapped before the cache, once for every place that a branch gives them, so that what is cached
never has to be turned again; an encoding that follows the length keeps its keys raw and turns them here.
Letters: B batch, T new tokens, K keys, H query heads, G key heads, D head channels, N views, V value channels.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.attention.cache import Cache
from ropewalk.attention.runs import Block, Partial, attend_runs, merge, plan
from ropewalk.attention.turnings import key_places, rotary_of
from ropewalk.encodings.mix.adaptive import Adaptive
from ropewalk.encodings.mix.branches import Branches, standing
from ropewalk.encodings.rotary.log_n import LogN
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import require
from ropewalk.masks import Mask
from ropewalk.rotation import Rotation
from ropewalk.tokens import Tokens, contiguous, select

Triple = tuple[Tensor, Tensor, Tensor]  # queries, keys and values
Places = Callable[[Any, Tokens], list[Tokens]]  # where a rule lets tokens stand


class Parts(NamedTuple):
    """An encoding by what is done with each of its members."""

    rule: Rotary | Branches | Adaptive | None  # what turns queries and keys, and which pairs by which branch
    sharp: tuple[LogN | Temperature, ...]  # what makes queries longer


@cache
def parted(encoding: Any) -> Parts:
    """The members of an encoding by what they do. Raises ConfigError for one that cached keys do not suit.

    One Rotary, distance rule or Adaptive at most, and any number of LogN and Temperature.
    """
    members = encoding if isinstance(encoding, tuple) else (encoding,)
    rules = [e for e in members if isinstance(e, Rotary | Branches | Adaptive)]
    sharp = tuple(e for e in members if isinstance(e, LogN | Temperature))
    others = [e for e in members if e not in rules and e not in sharp]
    known = "Rotary, a distance rule, Adaptive, LogN, Temperature or () in every layer"
    require(not others, "encodings", known, next(iter(others), None))
    require(len(rules) < 2, "encodings", "of one rotation for each layer", rules)
    rule = rules[0] if rules else None
    rotary = rotation_of(rule)
    if rotary is not None and not isinstance(rule, Adaptive):
        # a scaling that still depends on the length is refused here
        rotary.spectrum()
    return Parts(rule, sharp)


def rotation_of(rule: Rotary | Branches | Adaptive | None) -> Rotary | None:
    """What a rule turns with."""
    inner = rule.encoding if isinstance(rule, Adaptive) else rule
    return None if inner is None else rotary_of(inner)


def query_places(rule: Rotary | Branches, at: Tokens) -> list[Tokens]:
    """Where queries stand for each branch."""
    return [standing(p) for p in rule.queries(at)] if isinstance(rule, Branches) else [at]


@cache
def view_of(rule: Rotary | Branches | None) -> tuple[int, ...]:
    """Which of the cached views each branch reads."""
    if not isinstance(rule, Branches):
        return (0,)
    held = rule.keys(contiguous(1))
    known = list(dict.fromkeys(map(id, held)))
    return tuple(known.index(id(place)) for place in held)


class Step:
    """New tokens, the keys that they meet, and for each layer its encoding; tables and plans are made once for all.

    A `trunk` is a cache of one row that all rows share: what its layers hold comes before their own keys.
    """

    def __init__(self, q_at: Tokens, k_at: Tokens, encodings: Sequence[Any], trunk: Cache | None = None) -> None:
        self.q_at, self.k_at, self.encodings, self.trunk = q_at, k_at, encodings, trunk
        self.made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when the first layer asks for it."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def mapped(self, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, D] and keys [B, G, T, D] of the new tokens, as that layer turns and caches them."""
        return self.query(layer, q), self.key(layer, k, self.q_at, "new")

    def query(self, layer: int, q: Tensor) -> Tensor:
        """Queries [B, H, T, D] of the new tokens, as every branch turns them: [B, H, T, N * D]."""
        rule, sharp = parted(self.encodings[layer])
        for e in sharp:
            q = self.once((e, q.device), lambda e=e: e.rotation({}, self.q_at)).query(q)
        return q if isinstance(rule, Adaptive) else self.turned(rule, q, query_places, self.q_at, "new")

    def key(self, layer: int, k: Tensor, at: Tokens, where: str) -> Tensor:
        """Keys [B, G, K, D] of the tokens `at`, as they are cached: [B, G, K, N * D]."""
        rule = parted(self.encodings[layer]).rule
        return k if isinstance(rule, Adaptive) else self.turned(rule, k, key_places, at, where)

    def turned(self, rule: Rotary | Branches | None, x: Tensor, places: Places, at: Tokens, where: Any) -> Tensor:
        """x [B, H, T, D] at each of its places, side by side; calls that name the same `where` share the tables."""
        rotary = rotation_of(rule)
        if rule is None or rotary is None:
            return x
        tables: list[Rotation] = self.once(
            (rule, places, where), lambda: [rotary.rotation({}, p) for p in places(rule, at)]
        )
        found = [table.query(x) for table in tables]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
        """Attention, [B, H, T, V], of q [B, H, T, N * D], k [B, G, K, N * D] and v [B, G, K, V] from the cache.

        The keys are those of the last K tokens; of them a query sees what `mask` lets through.
        """
        rule = parted(self.encodings[layer]).rule
        k_at = self.once(("keys", k.shape[2]), lambda: last(self.k_at, k.shape[2]))
        if isinstance(rule, Adaptive):
            return self.adapted(rule, (q, k, v), k_at, mask, scale)
        own = self.by_plan(rule, (q, k, v), ("own", self.q_at, k_at), mask, scale)
        if self.trunk is None:
            return own.out
        # all rows are queries of one, so that the keys are looked at once
        rows, at = len(q), self.once("folded", lambda: folded(self.q_at))
        qkv = (q.transpose(0, 1).flatten(1, 2)[None], *self.trunk.read(layer))
        shared = self.by_plan(rule, qkv, ("trunk", at, self.trunk.at), mask, scale)
        out, lse = (x[0].unflatten(1, (rows, -1)).transpose(0, 1) for x in shared)
        return merge([own, Partial(out, lse)]).out

    def by_plan(
        self, rule: Rotary | Branches | None, qkv: Triple, stand: tuple[Any, Tokens, Tokens], mask: Mask, scale: float
    ) -> Partial:
        """Attention of mapped queries and keys; calls that name the same place to `stand` share the plan."""
        (q, k, v), (where, q_at, k_at) = qkv, stand
        branches = rule if isinstance(rule, Branches) else None
        key = ("plan", branches, where, mask, k.shape[2])
        blocks: list[Block] = self.once(key, lambda: plan(branches, q_at, k_at, mask))
        seen = view_of(rule)
        queries, keys = q.chunk(len(seen), dim=-1), k.chunk(max(seen) + 1, dim=-1)
        return attend_runs(queries, [keys[i] for i in seen], v, blocks, scale)

    def adapted(self, rule: Adaptive, qkv: Triple, k_at: Tokens, mask: Mask, scale: float) -> Tensor:
        """Attention where every query has a rule of its own, over raw keys: row by row, rule by rule."""
        q, k, v = qkv
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        for row, some, own in self.once(("settled", rule), lambda: by_row(rule, self.q_at)):
            q_at, at = part(self.q_at, row, some), part(k_at, row, slice(None))
            where = (row.start, row.stop, some.start, k.shape[2])
            queries = self.turned(own, q[row, :, some], query_places, q_at, where)
            keys = self.turned(own, k[row], key_places, at, where)
            out[row, :, some] = self.by_plan(own, (queries, keys, v[row]), (where, q_at, at), mask, scale).out
        return out


def by_row(rule: Adaptive, at: Tokens) -> list[tuple[slice, slice, Any]]:
    """Rows, queries and the rule that serves them: all rows at once where they are alike."""
    found, rows = list[tuple[slice, slice, Any]](), len(at.order)
    together = rows == 1 or bool((at.position == at.position[:1]).all())
    for row in [slice(0, rows)] if together else [slice(i, i + 1) for i in range(rows)]:
        for own, mine in rule.settled(part(at, row, slice(None))).items():
            columns = mine[0].nonzero().flatten()
            cuts = [0, *((columns[1:] - columns[:-1] > 1).nonzero().flatten() + 1).tolist(), len(columns)]
            spans = [columns[a:b] for a, b in pairwise(cuts)]
            found += [(row, slice(int(span[0]), int(span[-1]) + 1), own) for span in spans]
    return found


def part(at: Tokens, rows: slice, columns: slice) -> Tokens:
    """The tokens of some rows and columns."""
    return select(Tokens(at.position[rows], at.order[rows], at.document[rows]), columns)


def folded(at: Tokens) -> Tokens:
    """The tokens of all rows in one."""
    return Tokens(at.position.flatten(0, 1)[None], at.order.flatten()[None], at.document.flatten()[None])


def last(at: Tokens, count: int) -> Tokens:
    """The last `count` tokens."""
    length = at.order.shape[1]
    return at if count == length else select(at, slice(length - count, length))
