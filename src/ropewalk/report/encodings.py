"""Figures of one encoding, each panel a function of values: what `ropewalk show --plot` draws.

Learned numbers are drawn as they are before training; beyond a trained window that is known, panels are tinted.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from ropewalk.attention.module import initial
from ropewalk.attention.trial import Trial, members
from ropewalk.errors import RopewalkError, require
from ropewalk.notation import parse
from ropewalk.report import curves, style
from ropewalk.report.catalogue import Row
from ropewalk.report.explain import text_of
from ropewalk.report.plots import unfinished, waves
from ropewalk.report.style import RC, colour
from ropewalk.sites import Biases, Embeds, Mixes, Rotates, parts
from ropewalk.written import short

FORMATS = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}  # and what would say who or when
SIDE = 256  # tokens of a matrix
NEAR, FAR = 256, 4096  # distances drawn for a bias and for a logit where no trained window is known
MOST = 16384  # keys beside which contents are mixed
SHOWN = 6  # heads that are named
DEEPEST = -12  # a bias that leaves less than a 100,000th of a weight
SHADES = ["chosen", "unmodified", "other-0"]  # of lines that are compared
DIVERGING = ["#b83d06", "#f0a57e", "#f7f5f2", "#8dbbe6", "#0a5cb3"]  # -1 to 1


@rc_context(RC)
def portrait(encoding: Any, trained_length: int | None = None) -> Figure:
    """Everything that can be drawn of an encoding that is settled for one length, panel under panel."""
    panels = []
    if parts(encoding, Embeds):
        panels.append((4.6, likeness))
    if any(curves.spectra(encoding)):
        panels.append((2.9, wavelengths))
    if parts(encoding, Biases):
        panels.append((3.0, biases))
    if parts(encoding, Rotates) or parts(encoding, Mixes) or not panels:
        panels.append((3.0, logits))
    heights = [height for height, _ in panels]
    figure = style.canvas(sum(heights) + 0.5)
    figure.set_layout_engine("constrained", h_pad=0.09)
    fresh = "; learned numbers as before training" if initial(encoding) else ""
    figure.suptitle(wrapped(short(encoding)) + fresh, x=0.01, ha="left", fontsize=8.5, color=colour("muted"))
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (_, draw) in zip(axes, panels, strict=True):
        draw(ax, encoding, trained_length)
    return figure


@rc_context(RC)
def displacement(remap: Any, tokens: int, trained_length: int | None = None) -> Figure:
    """Where a remap puts each token of a text, beside where it stands."""
    found = curves.moved(remap, tokens)
    figure = style.canvas(3.6)
    ax = figure.add_subplot()
    places, positions = zip(*found, strict=True)
    ax.plot([0, max(places)], [0, max(places)], color=colour("unmodified"), lw=1.2, label="where it stands")
    ax.plot(places, positions, ".", ms=2.4, color=colour("chosen"), label=wrapped(short(remap)))
    ax.set(xlabel="place in the text (tokens)", ylabel="position (tokens)", xlim=(0, max(places)))
    ax.set_title(f"Positions of {len(found):,} tokens")
    if trained_length and trained_length < max(places):
        mark(ax, trained_length, max(places))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    figure.legend(loc="outside lower left", ncols=2, markerscale=4)
    return figure


def likeness(ax: Axes, encoding: Any, trained_length: int | None) -> None:
    """Cosine between the position vectors of every two tokens."""
    at, cosines = curves.similarity(encoding, SIDE)
    ramp = LinearSegmentedColormap.from_list("cosines", DIVERGING)
    image = ax.imshow(cosines.numpy(), cmap=ramp, vmin=-1, vmax=1, interpolation="nearest")
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.04, 0.1, 0.03, 0.8)), label="cosine")
    bar.outline.set_visible(False)
    ax.set_anchor("W")
    sides = at.position.shape[-1]
    what = "position (tokens)" if sides == 1 else f"token of a grid of {sides} axes, row by row"
    ax.set(xlabel=what, ylabel=what, title="Likeness of position vectors")
    ax.grid(visible=False)


def wavelengths(ax: Axes, encoding: Any, trained_length: int | None) -> None:
    """Tokens that each pair needs for a full turn, with and without the scalings."""
    name, plain, bent = next(curves.spectra(encoding))
    times = f"; vectors times {bent.magnitude:.4g}" if bent.magnitude != 1 else ""
    if bent.inv_freq != plain.inv_freq:
        waves(ax, {"inv_freq": plain.inv_freq}, "unmodified", "without the scaling")
    waves(ax, {"inv_freq": bent.inv_freq}, "chosen", "as it is")
    style.logarithmic(ax, "wavelength (tokens)")
    if trained_length:
        unfinished(ax, {"trained_length": trained_length, "spectrum": {"trained": {"inv_freq": plain.inv_freq}}})
    ax.set_xlabel("pair of channels, in order")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.set_title(f"Tokens that each pair needs for a full turn ({name}{times})")
    named(ax, 2)


def biases(ax: Axes, encoding: Any, trained_length: int | None) -> None:
    """What is added to a logit, a line for each head; on several axes the key moves away along all at once."""
    far = curves.farthest(encoding, 2 * trained_length if trained_length else NEAR)
    distances = [0, *(d for some in curves.sampled(far, each=2) for d in some)] if far > NEAR else [*range(far + 1)]
    values = curves.bias(encoding, distances)
    shown = curves.few(range(len(values)), SHOWN)
    ramp = LinearSegmentedColormap.from_list("heads", [colour("chosen"), colour("other-1"), colour("unmodified")])
    for head, line in enumerate(values):
        label = f"head {head + 1}" if len(values) > 1 else "every head"
        shade = ramp(head / max(len(values) - 1, 1))
        ax.plot(distances, line, color=shade, lw=1.5, label=label if head in shown else None)
    cut = float(values.min()) < DEEPEST
    title = "Bias by distance" + (" along all axes at once" if Trial(encoding).axes > 1 else "")
    ax.set(ylabel=f"bias, added to the logit{f' (cut at {DEEPEST})' if cut else ''}", title=title)
    if cut:
        ax.set_ylim(DEEPEST, max(float(values.max()), 0) - 0.04 * DEEPEST)
    behind(ax, 1 if far > NEAR else 0, far, trained_length)
    named(ax, SHOWN)


def logits(ax: Axes, encoding: Any, trained_length: int | None) -> None:
    """The logit between equal tokens by distance on a log scale, biases apart; along each axis alone where several."""
    inner = tuple(e for e in members(encoding) if not isinstance(e, Biases))
    wanted = 2 * trained_length if trained_length else FAR
    far = curves.farthest(encoding, min(wanted, MOST) if parts(inner, Mixes) else wanted)
    axes, plain = Trial(inner).axes, curves.plain(inner)
    tracks = [(f"along axis {a + 1}", inner, a) for a in range(axes)] if axes > 1 else [("as it is", inner, None)]
    tracks += [("without the scaling", plain, None)] if plain != inner and axes == 1 else []
    bins = curves.sampled(far)
    for (label, what, axis), shade, dash in zip(tracks, SHADES, style.DASHES, strict=False):
        values = curves.kernel(what, [0, *(d for some in bins for d in some)], axis)
        spread_over(ax, bins, values, {"label": label, "color": colour(shade), "ls": dash})
    without = ", without the bias" if inner != members(encoding) else ""
    ax.set(ylabel="logit (every channel is 1)", title=f"Logit between equal tokens{without} (dotted: at distance 0)")
    behind(ax, 1, far, trained_length)
    named(ax, 3)


def spread_over(ax: Axes, bins: list[list[int]], values: Tensor, how: dict[str, Any]) -> None:
    """Mean in every bin, over its distances and over heads, and a band from the least to the largest value."""
    where = [sum(some) / len(some) for some in bins]
    cuts = np.cumsum([len(some) for some in bins])[:-1]
    groups = np.split(values[:, 1:].numpy(), cuts, axis=1)
    ax.fill_between(where, [g.min() for g in groups], [g.max() for g in groups], color=how["color"], alpha=0.2, lw=0)
    heads = f", mean of {len(values)} heads" if len(values) > 1 else ""
    ax.plot(where, [g.mean() for g in groups], lw=1.5, **how | {"label": how["label"] + heads})
    ax.axhline(float(values[:, 0].mean()), color=how["color"], lw=0.9, ls=(0, (1.4, 1.6)))


def behind(ax: Axes, nearest: int, far: int, trained_length: int | None) -> None:
    """Dress the x axis as distances, on a log scale if they start at 1, and tint those beyond the trained window."""
    if nearest:
        ax.set_xscale("log")
    ax.set_xlim(nearest, max(far, nearest + 1))
    ax.set_xlabel(f"distance back from a query at position {far:,} (tokens)")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if trained_length and trained_length < far:
        mark(ax, trained_length, far)


def mark(ax: Axes, trained_length: int, far: int) -> None:
    """A line where the trained window ends, its name below the curves, and a tint beyond."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.1 * (high - low), high)
    ax.axvspan(trained_length, far, color=colour("zone"), lw=0, zorder=0)
    ax.axvline(trained_length, color=colour("ink"), lw=1, zorder=1)
    place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
    text, corner = f"trained window: {trained_length:,}", (trained_length, 0.03)
    ax.annotate(text, corner, (-5, 0), ha="right", fontsize=8, color=colour("muted"), **place)


def named(ax: Axes, columns: int) -> None:
    """Names of the lines, where there are several, under the label of the x axis."""
    if len(ax.get_legend_handles_labels()[1]) < 2:
        return
    below = ScaledTranslation(0, -0.46, ax.figure.dpi_scale_trans)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=ax.transAxes + below, ncols=columns)


def wrapped(text: str, room: int = 110) -> str:
    """A long notation, cut in the middle."""
    return text if len(text) <= room else f"{text[: room - 30]}\u2026{text[-29:]}"


def draw(told: Row, path: Path) -> None:
    """Draw what `explain` told into a file, as `save` does."""
    check_place(path)
    value = parse(told["notation"])
    if told["kind"] == "remap":
        figure = displacement(value, text_of(value), told["trained_length"])
    else:
        figure = portrait(parse(told["settled"]), told["trained_length"])
    save(figure, path)


def check_place(path: Path) -> None:
    """Raise RopewalkError unless a figure's file is in a format that is known and in a folder that is there."""
    require(path.suffix in FORMATS, "--plot", f"a name that ends in {', '.join(FORMATS)}", str(path))
    if not path.parent.is_dir() or path.is_dir():
        what = "it is a folder" if path.is_dir() else f"no folder {path.parent}"
        raise RopewalkError(f"cannot write {path}: {what}")


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the name ends with.

    Raises RopewalkError where that is unknown or the file cannot be written.
    """
    check_place(path)
    file = io.BytesIO()
    with rc_context(RC):
        figure.savefig(file, format=path.suffix[1:], dpi=150, metadata={FORMATS[path.suffix]: None})
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(file.getvalue())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RopewalkError(f"cannot write {path}: {error.strerror or error}") from None
