"""Which encodings the lab compares where nothing is said, and how an encoding that is asked for is read."""

from typing import Any, NamedTuple

from ropewalk.encodings import T5, Alibi, Fire, KerpleLog, Learned, Rotary, Sinusoidal, XPos
from ropewalk.errors import require
from ropewalk.notation import parse
from ropewalk.sites import Biases, Embeds, Mixes, Rotates
from ropewalk.written import short

WIDTH, LAYERS, HEADS, HIDDEN = 128, 4, 4, 512  # of the model that every encoding is put into
QUICK = ("sinusoidal", "RoPE", "T5", "ALiBi", "NoPE")


class Entrant(NamedTuple):
    """One that takes part: its name in tables, and one encoding for all layers or a list with one per layer."""

    name: str
    encoding: Any


def entrants(length: int, quick: bool = False) -> tuple[Entrant, ...]:
    """The nine of the comparison, or the five of a quick one, as they are trained on texts of `length` tokens.

    Distances that a rule is made for are those of training: T5's last bucket begins there, so that every bucket is
    trained; xPos halves over half of it and FIRE's threshold is a quarter, as in their papers.
    """
    head = WIDTH // HEADS
    found = {
        "sinusoidal": Sinusoidal(WIDTH),
        "learned": Learned(WIDTH, length),
        "RoPE": Rotary(head),
        "xPos": XPos(head, scale_base=length / 2),
        "T5": T5(HEADS, max_distance=max(length, 17), width=WIDTH),
        "ALiBi": Alibi(HEADS),
        "KERPLE": KerpleLog(HEADS),
        "FIRE": Fire(HEADS, threshold=length / 4),
        "NoPE": (),
    }
    return tuple(Entrant(name, e) for name, e in found.items() if not quick or name in QUICK)


def named(text: str, length: int) -> tuple[Entrant, ...]:
    """The entrants that a list like "[Alibi(4), (Rotary(32), T5(4)), [Rotary(32), (), (), ()]]" writes.

    One encoding is a list of one. Those of the default nine keep their short names, others are called as they are
    written. Raises ConfigError, in one line, for what is no encoding.
    """
    value = parse(text)
    members: list[Any] = value if isinstance(value, list) else [value]
    require(len(members) > 0, "--encodings", "a list of at least one encoding, such as [Alibi(4), ()]", text)
    known = {short(e.encoding): e.name for e in entrants(length)}
    found = tuple(Entrant(known.get(short(e), short(e)), e) for e in members)
    twice = sorted({e.name for e in found if sum(e.name == other.name for other in found) > 1})
    require(not twice, "--encodings", "each given once", ", ".join(twice))
    for member in members:
        check_member(member)
    return found


def check_member(member: Any) -> None:
    """Raise ConfigError unless it is an encoding, or a list with one per layer."""
    each: list[Any] = member if isinstance(member, list) else [member]
    if isinstance(member, list):
        require(len(each) == LAYERS, "a list inside --encodings", f"one encoding per layer, {LAYERS}", len(each))
    for e in (part for one in each for part in (one if isinstance(one, tuple) else (one,))):
        known = isinstance(e, (Embeds, Rotates, Biases, Mixes))
        require(known, "--encodings", "a list of encodings (`ropewalk list`)", short(e))
