"""The optional parts of a lab: a section of the page for each that the summary has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from ropewalk.report import lab_scaling, lab_tasks
from ropewalk.report.lab_tables import Finding, sheet
from ropewalk.report.style import Summary


class Part(NamedTuple):
    """A section: its figures, and by the name of a figure a lesson in plain words and what to know to read it."""

    name: str
    title: str
    draws: tuple[Callable[..., Figure], ...]
    lessons: Mapping[str, str]
    captions: Mapping[str, str]
    sheet: Sequence[Finding] = ()
    note: str = ""


def parts(summary: Summary) -> Iterator[Part]:
    """All sections, in the order of the page."""
    for name, part in PARTS.items():
        if summary.get(name):
            yield part(summary)


def strings(summary: Summary) -> Part:
    """Copying, recall and passkeys on strings longer than those of training."""
    trained = summary["strings"]["trained_length"]
    caption = (
        f"Shares of whole answers that are right, in percent, by greedy decoding, with 95% intervals. One model per "
        f"encoding was trained on all tasks at once, on strings of at most {trained} tokens; what is right of the line "
        "is longer than any in training. A dash: no place for so many tokens."
    )
    lesson = {"strings": lab_tasks.strings_lesson(summary)}
    return Part("strings", "Retrieval beside perplexity", (lab_tasks.strings,), lesson, {"strings": caption})


def numbers(summary: Summary) -> Part:
    """Sums of longer numbers than those of training."""
    caption = (
        "Shares of sums that are right to the last digit, in percent, with 95% intervals, by how they are written and "
        "by the digits of both numbers; what is right of the line is longer than any in training."
    )
    lessons = {
        "numbers": lab_tasks.numbers_lesson(summary),
        "digits": "The same answers digit by digit: a sum with one digit wrong counts for nothing above.",
    }
    captions = {"numbers": caption, "digits": "Each digit is predicted after the right ones before it; a guess has 10."}
    draws = (lab_tasks.numbers, lab_tasks.digits)
    return Part("numbers", "Numbers past the trained range", draws, lessons, captions)


def pictures(summary: Summary) -> Part:
    """Digits past the trained resolution."""
    part = summary["pictures"]
    seeds = max((x.get("seeds", 0) for e in part["encodings"] for x in e["accuracy"]["extrapolated"]), default=0)
    caption = (
        f"Shares of {part['n']:,} held-out handwritten digits that a small vision transformer recognises, as they are "
        f"and enlarged, in percent: means over {seeds} seed{'s' * (seeds != 1)} with 95% intervals of one test. Places "
        "counted on: rows and columns go on past those of training. Places fitted in: they are squeezed into those of "
        "training, and a table is resized. A dash: no such place."
    )
    lesson = {"pictures": lab_tasks.pictures_lesson(summary)}
    return Part(
        "pictures", "Pictures past the trained resolution", (lab_tasks.pictures,), lesson, {"pictures": caption}
    )


def clips(summary: Summary) -> Part:
    """Frames and places in clips longer and larger than those of training."""
    frames, side = summary["clips"]["trained"]
    caption = (
        f"Marks in clips ask for the frame, the row or the column that they are in; shares that are right, in percent, "
        f"means over seeds with 95% intervals of one test. Trained on {frames} frames of {side} by {side}, left of the "
        "line. M-RoPE gives a token its time, row and column, the others one number."
    )
    lesson = {"clips": lab_tasks.clips_lesson(summary)}
    return Part("clips", "Clips longer than those of training", (lab_tasks.clips,), lesson, {"clips": caption})


def scaling(summary: Summary) -> Part:
    """PI, NTK and YaRN, untuned and tuned."""
    part = summary["scaling"]
    trained, reach = part["lengths"][0], part["lengths"][0] * part["factor"]
    untouched = (
        "Perplexity over that of the untouched model on texts of the trained length; bands are paired 95% intervals."
    )
    lessons = {
        "scaling": lab_scaling.lesson(part),
        "scaling_steps": "How soon tuning pays: the first point is the model as it was rescaled, before any step.",
    }
    captions = {
        "scaling": f"{untouched} The broken line is the length that the model was stretched to, {reach:,} tokens; "
        f"it was trained on {trained:,}.",
        "scaling_steps": untouched,
    }
    draws = (lab_scaling.scaling, lab_scaling.scaling_steps)
    read = draws if any(v["tuning"] in ("full", "PoSE") for v in part["variants"]) else draws[:1]
    title = f"Stretching a trained {part['name']} model {part['factor']} times"
    return Part(
        "scaling", title, read, lessons, captions, sheet(part["sheet"]), f"Published: {part['published']['source']}."
    )


PARTS = {"strings": strings, "numbers": numbers, "pictures": pictures, "clips": clips, "scaling": scaling}
