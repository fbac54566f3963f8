"""Vectors of positions in rows of text, images and videos."""

import re
from dataclasses import replace

from torch import Tensor

import ropewalk as rw
from vectors.reading import FLOAT64, Handlers, Read

PICTURE = re.compile(r"(image|video|frame)\((\d+),(\d+),(\d+)\)")
WORDS = re.compile(r"text(\d+)(\(\w+\))?")
SECONDS = re.compile(r"second_per_grid_t=([\d.]+)")
Segments = list[rw.Text | rw.Image | rw.Video]


def segments(text: str) -> Segments:
    """What "text3,image(1,4,6),video(3,4,4),second_per_grid_t=1.0" writes; the seconds are of the video before."""
    found: Segments = []
    for item in re.split(r",(?![^()]*\))", text):
        if words := WORDS.fullmatch(item):
            found.append(rw.Text(int(words[1])))
        elif picture := PICTURE.fullmatch(item):
            time, height, width = map(int, picture.groups()[1:])
            still = picture[1] != "video"
            assert time == 1 or not still
            found.append(rw.Image(height, width) if still else rw.Video(time, height, width))
        else:
            seconds = SECONDS.fullmatch(item)
            assert seconds, f"unknown segment {item!r}"
            last = max(n for n, segment in enumerate(found) if isinstance(segment, rw.Video))
            found[last] = replace(found[last], seconds=float(seconds[1]))
    return found


def mrope(p: Read, i: Read, rule: str) -> list[list[int]]:
    """The coordinates axis by axis, then the delta alone."""
    options = {
        ours: p[theirs] for theirs, ours in (("advance", "advance"), ("tps", "tokens_per_second")) if theirs in p
    }
    at = rw.multimodal(*segments(i["segments"]), rule=rule, merge=p["spatial_merge_size"], **options)
    return [*at.position[0].T.tolist(), rw.position_delta(at).tolist()]


def tie(p: Read, rule: str) -> Tensor:
    """(x, y) of the patches and of the token of text after them."""
    before = rw.Text(p["L"] + 1)
    at = rw.multimodal(before, rw.Image(p["h"], p["w"]), rw.Text(1), rule=rule, merge=1)
    return at.position[0, before.length :]


HANDLERS: Handlers = {
    "mrope_index_qwen2vl": (lambda p, i: mrope(p, i, "qwen2_vl"), 0),
    "mrope_index_qwen25vl": (lambda p, i: mrope(p, i, "qwen2_5_vl"), 0),
    "mrope_index_qwen3vl": (lambda p, i: mrope(p, i, "qwen3_vl"), 0),
    "rope_tie_positions": (lambda p, i: tie(p, "tie"), FLOAT64),
    "rope_tie_wh_positions": (lambda p, i: tie(p, "tie_wh"), FLOAT64),
    "rope_tv_positions": (lambda p, i: tie(p, "tv"), FLOAT64),
}
