"""Which layer takes which encoding, where they differ from layer to layer."""

from typing import Any

from ropewalk.errors import require


def alternate(regular: Any, every: int, nth: Any, layers: int) -> list[Any]:
    """One encoding per layer: `nth` for each layer whose number, counted from 1, `every` divides, else `regular`.

    Gemma 3 takes Rotary(dim, 1e4) and for every sixth layer Rotary(dim, 1e6, (Linear(8.0),)); Llama 4 takes a Rotary
    and for every fourth layer (), which is no position at all. Which keys a layer sees is for its mask to say.
    """
    require(every >= 1, "alternate.every", "at least 1", every)
    require(layers >= 0, "alternate.layers", "at least 0", layers)
    return [regular if n % every else nth for n in range(1, layers + 1)]
