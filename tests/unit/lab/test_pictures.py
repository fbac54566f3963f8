"""Pictures: where patches stand at other resolutions, and rows that a killed run finds again."""

import pytest
import torch

import ropewalk as rw
from ropewalk.errors import ConfigError
from ropewalk.lab.jobs import Wanted
from ropewalk.lab.model import Shape
from ropewalk.lab.pictures import HELD_OUT, SHAPE, SIDE, batches, candidates, digits, enlarged, jobs, summarise
from ropewalk.lab.train import Recipe
from ropewalk.lab.vit import GRID, ROW, TEXT, TIE, Vit, placed, resized

pytest.importorskip("sklearn")
TINY = Shape(TEXT + 3, width=16, layers=2, heads=2, hidden=16)

UNLIKE = {"seconds": 0, "checkpoint": ""}  # of two trainings of the same model


def test_patches_of_training_stand_on_whole_numbers():
    assert placed(ROW, 2, 2).position[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert placed(GRID, 2, 2).position[0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [1, 1]]
    # three places from one text to the next patch, and nine to the next text
    assert placed(TIE, 2, 2).position[0].tolist() == [[0, 0], [9, 9], [3, 3], [3, 6], [6, 3], [6, 6]]
    for places in (ROW, GRID, TIE):
        assert placed(places, 2, 2).order.unique().tolist() == [0]


def test_interpolated_patches_stand_in_the_middle_of_what_they_show():
    at = placed(GRID, 4, 2).position[0].unflatten(0, (-1, 1))
    assert at[:TEXT].flatten().tolist() == [0] * 2 * TEXT
    # two patches for each of training: a quarter before and a quarter after its middle
    assert at[TEXT : TEXT + 4, 0, 1].tolist() == [-0.25, 0.25, 0.75, 1.25]
    assert at[TEXT::4, 0, 0].tolist() == [-0.25, 0.25, 0.75, 1.25]


def test_interpolated_ties_leave_both_texts_where_they_were():
    at = placed(TIE, 5, 2).position[0]
    assert at[0].tolist() == [0, 0]
    assert at[1].tolist() == [9, 9]
    torch.testing.assert_close(at[TEXT : TEXT + 5, 1], torch.tensor([1.5, 3, 4.5, 6, 7.5], dtype=torch.float64))


def test_a_resized_table_keeps_rows_of_text_and_what_is_the_same_everywhere():
    table = torch.cat((torch.randn(TEXT, 3), torch.tensor([1.0, 2.0, 3.0]).expand(16, 3)))
    encoding, w = resized(rw.Learned(3, TEXT + 16), {"table": table}, 4, 8)
    assert encoding == rw.Learned(3, TEXT + 64)
    assert w["table"][:TEXT].equal(table[:TEXT])
    torch.testing.assert_close(w["table"][TEXT:], table[TEXT:][:1].expand(64, 3))


def test_a_resized_table_keeps_rows_and_columns_apart():
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat_interleave(4)[:, None]
    _, w = resized(rw.Learned(1, TEXT + 16), {"table": torch.cat((torch.zeros(TEXT, 1), rows))}, 4, 8)
    grid = w["table"][TEXT:, 0].view(8, 8)
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 8))
    assert (grid[1:, 0] > grid[:-1, 0]).all()


@pytest.mark.parametrize("candidate", candidates(), ids=lambda c: c.name)
def test_at_the_trained_size_both_ways_are_one(candidate):
    model = Vit(SHAPE, candidate.encoding, candidate.places, side=SIDE)
    pictures = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    trained = model(pictures)
    assert trained.shape == (3, 1, SHAPE.vocabulary)
    assert model.shown(pictures, interpolated=True).equal(trained)


@pytest.mark.parametrize("candidate", candidates(), ids=lambda c: c.name)
def test_positions_tell_where_patches_are(candidate):
    model = Vit(SHAPE, candidate.encoding, candidate.places, side=SIDE)
    if candidate.name == "learned":
        torch.nn.init.normal_(model.positions[0].weights["table"])
    picture = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    same = torch.allclose(model(picture), model(picture.mT.contiguous()), rtol=0, atol=1e-5)
    assert same == (candidate.name == "NoPE")


def test_the_text_sees_every_patch():
    model = Vit(TINY, rw.Rotary(8, sections=(2, 2), rates="own"), GRID, side=4)
    picture = torch.zeros(1, 4, 4, requires_grad=True)
    model(picture)[0, 0, 0].backward()
    assert picture.grad is not None
    assert bool((picture.grad != 0).all())


def test_patches_are_cut_row_by_row():
    model = Vit(TINY, (), GRID, side=2, patch=2)
    seen = []
    model.patches.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(torch.tensor(range(16), dtype=torch.float32).view(1, 4, 4))
    assert seen[0][0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_a_learned_table_has_no_rows_for_more_patches():
    model = Vit(TINY, rw.Learned(16, TEXT + 16), ROW, side=4)
    with pytest.raises(ConfigError, match="Learned reads must be a row of its table, from 0 to 17, got 65"):
        model(torch.zeros(1, 8, 8))
    assert model.shown(torch.zeros(1, 8, 8), interpolated=True).shape == (1, 1, TINY.vocabulary)


def test_places_that_nobody_knows_are_refused():
    with pytest.raises(ConfigError, match=r"Vit\.places must be 'row' or 'grid' or 'tie', got 'line'"):
        Vit(TINY, (), "line")


def test_held_out_digits_are_not_trained_on_and_enlarging_keeps_the_mean():
    known = digits()
    assert len(known.held_out[0]) == HELD_OUT
    assert len(known.train[0]) == 1797 - HELD_OUT
    held_out = {x.numpy().tobytes() for x in known.held_out[0]}
    assert not held_out & {x.numpy().tobytes() for x in known.train[0]}
    large = enlarged(known.held_out[0][:4], 2)
    assert large.shape == (4, 16, 16)
    # bilinear weights of inner pixels add up to four quarters; a border of digits is nearly empty
    torch.testing.assert_close(large.mean((1, 2)), known.held_out[0][:4].mean((1, 2)), rtol=0, atol=0.02)


def test_every_picture_is_with_the_digit_that_it_shows():
    recipe = Recipe(20, 64, 66, 3e-3, 1)
    drawn = [batches(digits().train, recipe, 0)(step) for step in range(20)]
    pictures, shown = torch.cat([b.ids for b in drawn]), torch.cat([b.targets[:, 0] for b in drawn])
    assert len({x.numpy().tobytes() for x in pictures}) > 1270
    means = torch.stack([pictures[shown == TEXT + n].mean(0) for n in range(10)])
    held_out, wanted = digits().held_out
    nearest = TEXT + torch.cdist(held_out.flatten(1), means.flatten(1)).argmin(1)
    # chance is a tenth
    assert (nearest == wanted).float().mean() > 0.8


def test_a_job_gives_the_same_row_whether_or_not_it_is_run_again(tmp_path, monkeypatch):
    known = digits()
    few = known._replace(held_out=tuple(x[:12] for x in known.held_out))
    monkeypatch.setattr("ropewalk.lab.pictures.RESOLUTIONS", (1, 2))
    monkeypatch.setattr("ropewalk.lab.pictures.digits", lambda: few)
    job = next(j for j in jobs(Wanted(tmp_path, None, 1, False, "float32")) if j.entrant == "learned")
    job = job._replace(task=job.task._replace(recipe=Recipe(2, 2, 66, 3e-3, 1)))
    row = job.run(lambda _: None)
    fresh = job._replace(task=job.task._replace(file=tmp_path / "other.safetensors")).run(lambda _: None)
    for other in (job.run(lambda _: None), fresh):
        assert row | UNLIKE == other | UNLIKE
    assert [(t["resolution"], t["way"], "right" in t) for t in row["tests"]] == [
        (1, "trained", True),
        (2, "extrapolated", False),
        (2, "interpolated", True),
    ]
    curves = summarise([row])["encodings"][0]["accuracy"]
    assert curves["extrapolated"][0] == curves["interpolated"][0]
    assert curves["interpolated"][0]["rate"] == row["tests"][0]["right"] / 12
    assert "a row of its table" in curves["extrapolated"][1]["reason"]


def test_a_model_with_learned_directions_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("ropewalk.lab.pictures.RESOLUTIONS", ())
    job = next(j for j in jobs(Wanted(tmp_path, None, 1, False, "float32")) if j.entrant == "mixed RoPE")
    task = job.task._replace(recipe=Recipe(1, 2, 66, 3e-3, 1))
    assert job._replace(task=task).run(lambda _: None)["outcome"] == "finished"
    assert task.file.is_file()
