"""Clips: what they hold, where their tokens stand, and rows that a killed run finds again."""

import pytest
import torch

from ropewalk.lab.clips import ASKED, LABEL, LABELS, LEGEND, MARK, MARKS, candidates, clips, jobs, placed, summarise
from ropewalk.lab.jobs import Wanted
from ropewalk.lab.train import IGNORED, Recipe

UNLIKE = {"seconds": 0, "checkpoint": ""}  # of two trainings of the same model


@pytest.fixture
def made():
    return clips(20, 5, 4, torch.Generator().manual_seed(3))


def kind(ids):
    """0, 1 or 2 for labels of frames, rows and columns."""
    return (ids - LABEL) // LABELS


def test_every_frame_row_and_column_has_one_label_of_its_own(made):
    cells = made.ids
    assert cells.shape == (20, LEGEND + 5, 4, 4)
    for clip in cells:
        found = [clip[LEGEND:].flatten(1), clip[0], clip[1].mT]
        for number, lines in enumerate(found):
            labels = [line[kind(line) == number].tolist() for line in lines]
            assert all(len(some) == 1 for some in labels)
            assert len({some[0] for some in labels}) == len(labels)


def test_marks_ask_for_the_label_that_shares_their_coordinate(made):
    for clip, targets in zip(*made[:2], strict=True):
        asking = (targets != IGNORED).nonzero().tolist()
        assert len(asking) == len(ASKED) * MARKS
        for frame, row, column in asking:
            asked = int(clip[frame, row, column]) - MARK
            line = (clip[frame], clip[0, row], clip[1, :, column])[asked]
            assert targets[frame, row, column] in line
            assert kind(targets[frame, row, column]) == asked
        for number in range(len(ASKED)):
            assert (clip == MARK + number).sum() == MARKS


def test_marks_are_not_always_in_the_same_places(made):
    where = {tuple(map(tuple, (targets != IGNORED).nonzero().tolist())) for targets in made[1]}
    assert len(where) == 20


def test_m_rope_stands_on_three_axes_and_the_flattened_row_on_one():
    flat, _, m_rope, interleaved = candidates().values()
    shape = (3, 2, 2)
    assert placed(flat, shape).position[0, :, 0].tolist() == list(range(14))
    at = placed(m_rope, shape)
    assert at.position.tolist() == placed(interleaved, shape).position.tolist()
    # text at 0; then time, row and column from 1 on; then text after the largest of them
    inside = [[1 + t, 1 + r, 1 + c] for t in range(3) for r in range(2) for c in range(2)]
    assert at.position[0].tolist() == [[0, 0, 0], *inside, [4, 4, 4]]
    assert at.order.unique().tolist() == [0]


def small(folder, monkeypatch):
    monkeypatch.setattr("ropewalk.lab.clips.SIZES", ((4, 3), (5, 4)))
    monkeypatch.setattr("ropewalk.lab.clips.TESTED", 16)
    job = jobs(Wanted(folder, None, 1, False, "float32"))[2]
    recipe = Recipe(2, 2, 54, 3e-3, 1)
    return job._replace(task=job.task._replace(recipe=recipe))


def test_a_job_gives_the_same_row_whether_or_not_it_is_run_again(tmp_path, monkeypatch):
    job, told = small(tmp_path, monkeypatch), []
    row = job.run(told.append)
    assert sum(told) == pytest.approx(job.cost)
    again = job.run(lambda _: None)
    fresh = job._replace(task=job.task._replace(file=tmp_path / "other.safetensors")).run(lambda _: None)
    for other in (again, fresh):
        assert row | UNLIKE == other | UNLIKE
    assert [(t["frames"], t["side"], t["asked"], t["n"]) for t in row["tests"][2:4]] == [
        (4, 3, "column", 64),
        (5, 4, "frame", 64),
    ]


def test_summary_takes_seeds_together_and_says_why_one_is_missing():
    test = {"frames": 4, "side": 3, "asked": "frame", "n": 256}
    row = {"kind": "clips", "entrant": "a", "encoding": "A", "reason": ""}
    rows = [row | {"tests": [test | {"right": right}]} for right in (256, 128)]
    rows += [row | {"entrant": "b", "encoding": "B", "reason": "a loss that is nan", "tests": []}, {"kind": "other"}]
    first, second = summarise(rows)["encodings"]
    found = first["accuracy"]["frame"][0]
    assert (found["rate"], found["n"], found["each"], found["chance"]) == (0.75, 256, [1.0, 0.5], 0.25)
    # two seeds that far apart tell nothing
    assert (found["low"], found["high"]) == (0.0, 1.0)
    assert first["accuracy"]["row"][0]["reason"] == "not tested"
    assert second["accuracy"]["frame"][0]["reason"] == "training stopped: a loss that is nan"
