"""The RoPE model of a lab made to read further: rescaled as it is, and after a few steps of tuning.

What is drawn are ratios: perplexities over that of the untouched model at the trained length, on a log scale.
"""

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ropewalk.report import lab_lines, style
from ropewalk.report.lab_figures import GAP, beside, label
from ropewalk.report.lab_lines import End, Look
from ropewalk.report.style import DASHES, OTHERS, RC, Summary, colour

LOOKS = {
    "none": Look("unmodified", "s", DASHES[0]),
    "PI": Look(OTHERS[0], "D", DASHES[1], 1.8),
    "NTK": Look(OTHERS[2], "^", DASHES[2], 1.8),
    "YaRN": Look("chosen", "o", DASHES[0], 2.4),
}
NAMES = {"none": "RoPE as it is", "PI": "PI", "NTK": "NTK", "YaRN": "YaRN"}
TUNINGS = {
    "untuned": "Rescaled, untuned",
    "full": "Tuned on long texts",
    "PoSE": "Tuned with PoSE",
    "native": "Trained on, not rescaled",
}
UNIT = "perplexity, untouched model = 1x"
PROTOCOL = "nonoverlapping"


def groups(part: dict) -> dict[str, list[dict]]:
    """The variants that were read, by what they were tuned on."""
    read = [v for v in part["variants"] if ends(v)]
    found = {tuning: [v for v in read if v["tuning"] == tuning] for tuning in TUNINGS}
    return {tuning: some for tuning, some in found.items() if some}


def ends(variant: dict) -> list[dict]:
    """Its readings in the end, of all lengths."""
    last = variant["stages"][-1]["losses"][PROTOCOL] if variant["stages"] else []
    return [x for x in last if x["ratio"] is not None]


def at(variant: dict, multiple: int) -> list[tuple[int, dict]]:
    """What it has at a multiple of the trained length, by the step of its tuning."""
    some = [(stage["step"], x) for stage in variant["stages"] for x in stage["losses"][PROTOCOL]]
    return [(step, x) for step, x in some if x["multiple"] == multiple and x["ratio"] is not None]


@rc_context(RC)
def scaling(summary: Summary, narrow: bool = False) -> Figure:
    """Ratio against length for every method, untuned and tuned, with intervals."""
    part = summary["scaling"]
    told = groups(part)
    figure, panels = beside(2.7, len(told), narrow)
    for ax, (tuning, some) in zip(panels, told.items(), strict=True):
        for v in some:
            line(ax, [x["length"] for x in ends(v)], ends(v), v["method"])
        ax.set_title(TUNINGS[tuning], fontsize=9)
        ax.axhline(1, color=colour("muted"), lw=0.9, zorder=1)
    ratios(panels[0])
    for ax, some in zip(panels, told.values(), strict=True):
        lab_lines.lengths(ax, {"settings": {"train_length": part["lengths"][0]}, "lengths": part["lengths"]}, narrow)
        reach = part["lengths"][0] * part["factor"]
        ax.axvline(reach, color=colour("muted"), lw=1, ls=(0, (3, 2)), zorder=1)
        final = [End(ends(v)[-1]["length"], ends(v)[-1]["ratio"], v["method"], LOOKS[v["method"]]) for v in some]
        lab_lines.ends(ax, final, GAP)
    label(panels, "length of the text (tokens, and trained lengths)", UNIT, narrow)
    key(figure, part, narrow)
    return figure


@rc_context(RC)
def scaling_steps(summary: Summary, narrow: bool = False) -> Figure:
    """Ratio at the length that the model is stretched to, against the steps of tuning."""
    part = summary["scaling"]
    told = {t: some for t, some in groups(part).items() if t in ("full", "PoSE")}
    untuned = {v["method"]: at(v, part["factor"]) for v in groups(part).get("untuned", [])}
    finals: list[list[End]] = []
    figure, panels = beside(2.5, len(told), narrow)
    for ax, (tuning, some) in zip(panels, told.items(), strict=True):
        final: list[End] = []
        for v in some:
            read = [*untuned.get(v["method"], []), *at(v, part["factor"])]
            line(ax, [step for step, _ in read], [x for _, x in read], v["method"])
            final += [End(read[-1][0], read[-1][1]["ratio"], v["method"], LOOKS[v["method"]])] if read else []
        ax.set_title(TUNINGS[tuning], fontsize=9)
        ax.set_xticks([0, *part["stages"]])
        ax.set_xlim(-0.04 * part["stages"][-1], 1.04 * part["stages"][-1])
        ax.axhline(1, color=colour("muted"), lw=0.9, zorder=1)
        finals.append(final)
    ratios(panels[0])
    for ax, final in zip(panels, finals, strict=True):
        lab_lines.ends(ax, final, GAP)
    label(panels, f"steps of tuning; texts of {part['factor']} trained lengths", UNIT, narrow)
    key(figure, part, narrow)
    return figure


def line(ax: Axes, x: list[int], read: list[dict], method: str) -> None:
    """One method, with the intervals that are known."""
    lab_lines.draw(ax, x, [r["ratio"] for r in read], LOOKS[method], NAMES[method])
    sure = [(place, r) for place, r in zip(x, read, strict=True) if r["low"] is not None]
    low, high = ([r[side] for _, r in sure] for side in ("low", "high"))
    lab_lines.band(ax, [place for place, _ in sure], low, high, LOOKS[method])


def ratios(ax: Axes) -> None:
    """A log axis of ratios."""
    style.logarithmic(ax, UNIT)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))


def key(figure: Figure, part: dict, narrow: bool) -> None:
    """All methods under the axes."""
    methods = dict.fromkeys(v["method"] for some in groups(part).values() for v in some)
    lab_lines.key(figure, {NAMES[m]: LOOKS[m] for m in methods}, narrow)


def lesson(part: dict) -> str:
    """What rescaling does at once and what a few steps of tuning add, at the length that the model is stretched to."""
    k = part["factor"]
    found: dict[tuple[str, str], float] = {}
    for v in part["variants"]:
        read = at(v, k)
        if read:
            found[v["tuning"], v["method"]] = read[-1][1]["ratio"]
    said = [
        f"{TUNINGS[tuning]}: {', '.join(f'{NAMES[m]} {r:.3g}x' for (t, m), r in found.items() if t == tuning)}."
        for tuning in TUNINGS
        if any(t == tuning for t, _ in found)
    ]
    if not said:
        return "Nothing was read at the length that the model is stretched to."
    gains = {m: (found["untuned", m], found["full", m]) for t, m in found if t == "full" and ("untuned", m) in found}
    most = max(gains, key=lambda m: gains[m][0] / gains[m][1], default=None)
    head = f"At {k} times the trained length, perplexity over that of the untouched model on short texts. "
    tail = ""
    if most and gains[most][0] > gains[most][1]:
        before, after = gains[most]
        tail = f" Tuning on long texts helps {NAMES[most]} most, from {before:.3g}x to {after:.3g}x."
    return head + " ".join(said) + tail
