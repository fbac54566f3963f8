"""Content and distance, each with a bias of its own. Dai et al. 2019, arXiv:1901.02860 (Transformer-XL)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.absolute.sinusoidal import Sinusoidal
from ropewalk.encodings.mix.lookup import pick, rel_shift
from ropewalk.encodings.rotary.turning import angles
from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance, line, whole


@dataclass(frozen=True)
class TransformerXL:
    """Adds to q . k what the query makes of the distance: ((q + u) . k + (q + v) . W R(distance)) / sqrt(dim).

    R is a sinusoid of `width` channels; W, u and v are learned for each head. Memory is keys at earlier positions.
    """

    dim: int
    heads: int
    width: int | None = None  # None is heads * dim
    base: float = 10000.0
    clamp: int | None = None  # the distance, behind and ahead, from which on all count alike

    def __post_init__(self) -> None:
        for field in ("dim", "heads", *(f for f in ("width", "clamp") if getattr(self, f) is not None)):
            require_number(self, field, at_least=1, whole=True)
        require_number(self, "base", above=1)
        require(self.channels() % 2 == 0, f"{type(self).__name__}.width", "even", self.channels())

    def channels(self) -> int:
        """Of the sinusoid."""
        return self.width or self.heads * self.dim

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """W, Float32[heads * dim, width], u and v, Float32[heads, dim], drawn from N(0, 0.02)."""
        biases, project = (self.heads, self.dim), (self.heads * self.dim, self.channels())
        shapes = {"xl_project": project, "xl_u": biases, "xl_v": biases}
        return {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K], scaled. Raises ConfigError for positions that are not whole where `clamp` is given."""
        content = (q + w["xl_u"].to(q.dtype)[:, None]) @ k.mT
        return (content + self.by_position(w, q, q_at, k_at)) * self.dim**-0.5

    def by_position(self, w: Weights, q: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: (q + v) . W R(distance), for tokens anywhere."""
        if self.clamp is not None:
            d = whole(distance(q_at, k_at), type(self).__name__).clamp(-self.clamp, self.clamp)
            every = torch.tensor(range(-self.clamp, self.clamp + 1), device=d.device)
            return pick(self.by_distance(w, q, every), d + self.clamp)
        # waves of a difference are products of waves of both positions, so that no pair needs a vector of its own
        sin, cos = self.waves(line(q_at, "a distance"), q)[:, None].chunk(2, dim=-1)
        project = w["xl_project"].to(q.dtype).unflatten(0, (self.heads, self.dim))
        s, c = ((q + w["xl_v"].to(q.dtype)[:, None]) @ project).chunk(2, dim=-1)
        turned = torch.cat((c * sin - s * cos, s * sin + c * cos), dim=-1)
        return turned @ self.waves(line(k_at, "a distance"), q)[:, None].mT

    def by_shift(self, w: Weights, q: Tensor, keys: int) -> Tensor:
        """The same, `heads` times cheaper, where the queries are the last of `keys` consecutive tokens."""
        d = torch.tensor(range(keys, -q.shape[2], -1), device=q.device)
        return rel_shift(self.by_distance(w, q, d if self.clamp is None else d.clamp(-self.clamp, self.clamp)), keys)

    def by_distance(self, w: Weights, q: Tensor, d: Tensor) -> Tensor:
        """[B, H, Q, N]: (q + v) . W R(d) for every query with every distance d [N]."""
        vectors = (self.waves(d, q) @ w["xl_project"].to(q.dtype).T).unflatten(-1, (self.heads, self.dim))
        return (q + w["xl_v"].to(q.dtype)[:, None]) @ vectors.permute(1, 2, 0)

    def waves(self, where: Tensor, like: Tensor) -> Tensor:
        """[..., width] in the dtype of `like`: R."""
        angle = angles(where[..., None], Sinusoidal(self.channels(), self.base).spectrum())
        return torch.cat((angle.sin(), angle.cos()), dim=-1).to(like.dtype)
