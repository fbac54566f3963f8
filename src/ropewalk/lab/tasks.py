"""What the lab can be asked for: language models on text, and side tasks with models of their own."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ropewalk.errors import require
from ropewalk.evaluate.run import Row
from ropewalk.lab import clips, numbers, pictures, strings
from ropewalk.lab.jobs import Job, Wanted

TEXT, SCALING, ALL = "text", "scaling", "all"


class Side(NamedTuple):
    """A side task, whose rows are of a kind of its name."""

    jobs: Callable[[Wanted], Sequence[Job]]  # trainings with their tests, in any order
    summarise: Callable[[Sequence[Row]], dict[str, Any]]
    seeds: int  # where nothing is said


SIDES = {
    strings.KIND: Side(strings.jobs, strings.summarise, 1),
    numbers.KIND: Side(numbers.jobs, numbers.summarise, 3),
    pictures.KIND: Side(pictures.jobs, pictures.summarise, 3),
    clips.KIND: Side(clips.jobs, clips.summarise, 3),
}
TASKS = (TEXT, *SIDES, SCALING)


def named(text: str) -> tuple[str, ...]:
    """The tasks of a list like "text,strings", in their order; "all" is all of them."""
    words = {word.strip() for word in text.split(",")}
    for word in sorted(words):
        require(word in (*TASKS, ALL), "--tasks", f"of {', '.join(TASKS)}, or {ALL}", word)
    found = tuple(task for task in TASKS if task in words or ALL in words)
    require(TEXT in found or SCALING not in found, "--tasks", "with text where there is scaling, which needs it", text)
    return found
