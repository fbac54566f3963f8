from ropewalk.report import findings
from ropewalk.report.tables import Cell, change, chosen, mean


def test_the_numbers_are_the_measured_ones(made_up: dict) -> None:
    beyond, keys, price = findings.numbers(made_up)
    held_out = chosen(made_up)["held_out"]
    assert beyond.value == mean(held_out["beyond"])
    last = "the last 8192 tokens, on the final 8,192"
    assert [name for name, _ in beyond.beside] == ["unmodified", last, "against the latter"]
    assert beyond.beside[-1][1] == change(held_out["against_truncated"])
    assert price.value == change(held_out["price"])
    found = sum(s["found"] for column in made_up["retrieval"]["grids"][made_up["chosen_name"]][4:] for s in column)
    assert keys.value.main == f"{found} of 256"
    assert [name for name, _ in keys.beside] == ["unmodified", "in shorter texts"]


def test_in_vain_the_numbers_are_those_of_the_best(in_vain: dict) -> None:
    beyond, price = findings.numbers(in_vain)
    assert beyond.value == mean(in_vain["candidates"][2]["held_out"]["beyond"])
    assert price.value == change(in_vain["candidates"][2]["held_out"]["price"])


def test_a_cliff_is_a_failure(made_up: dict) -> None:
    assert findings.failures(made_up)[-1].endswith("up to there, its loss keeps its native level.")
    made_up["cliff"]["chosen"] = 15360
    assert findings.failures(made_up)[0] == "Its loss clearly leaves its native level at position 15,360."
    assert findings.failures(made_up)[-1] == "Beyond 16,384 tokens nothing was measured."


def test_what_the_last_tokens_alone_do_as_well_is_said(made_up: dict) -> None:
    gap = chosen(made_up)["held_out"]["against_truncated"]
    for low, high, words in ((-0.2, -0.1, None), (-0.1, 0.1, "cannot be told from"), (0.1, 0.2, "clearly above")):
        gap.update(low=low, high=high)
        said = [text for text in findings.failures(made_up) if "on the last 8,192 tokens alone" in text]
        assert [words in text for text in said] == ([True] if words else [])


def test_missed_keys_are_said(made_up: dict) -> None:
    mine = made_up["retrieval"]["grids"][made_up["chosen_name"]]
    for column in mine:
        for cell in column:
            cell["found"] = cell["asked"]
    assert not [text for text in findings.failures(made_up) if "keys" in text]
    mine[6][2]["found"] = 1
    assert "Fewest keys found: 57 of 64 at 14,336 tokens, 57 of 64 at depth 31%." in findings.failures(made_up)


def test_keys_lost_within_the_trained_window_are_said(made_up: dict) -> None:
    assert not [text for text in findings.failures(made_up) if "within the trained window" in text]
    for cell in made_up["retrieval"]["grids"][made_up["chosen_name"]][0]:
        cell["found"] = 0
    said = [text for text in findings.failures(made_up) if "within the trained window" in text]
    assert said == ["In texts within the trained window: 188 of 256 keys; the unmodified model, 251 of 256."]


def test_in_vain_the_unmodified_model_fails(in_vain: dict) -> None:
    assert findings.failures(in_vain)[0] == "The model's loss clearly leaves its native level at position 9,728."
    assert "the last 8,192 tokens alone" in findings.fallback(in_vain)


def test_every_figure_is_told_in_words(made_up: dict) -> None:
    words = findings.in_words(made_up)
    assert all(c["name"] in words["race"] for c in made_up["candidates"] if c["search"])
    assert all(c["name"] in words["held_out_loss"] for c in made_up["candidates"] if c["held_out"])
    assert "503 of 512" in words["retrieval"]
    assert "32 rotated pairs" in words["spectrum"]


def test_numbers_have_intervals(made_up: dict) -> None:
    cells = [cell for n in findings.numbers(made_up) for cell in (n.value, *(c for _, c in n.beside))]
    assert len(cells) == 10
    assert all(isinstance(cell, Cell) and cell.detail for cell in cells)
