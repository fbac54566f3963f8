"""Text that comes piece by piece is the text that comes at once, with no character in halves."""

from hypothesis import given
from hypothesis import strategies as st

from ropewalk.generate.text import BROKEN, StopText, TextStream
from ropewalk.models.load import Loaded

TEXT = "naïve façade — 東京と京都, 🙂🙃 (œuvre)"


def streamed(loaded: Loaded, ids: list[int], before: list[int] | None = None) -> list[str]:
    stream = TextStream(loaded.tokenizer, before or [])
    return [*(stream.add(i) for i in ids), stream.end()]


def test_characters_of_several_tokens_come_whole(loaded: Loaded) -> None:
    ids = loaded.tokenizer(TEXT, add_special_tokens=False).input_ids
    # they do fall apart
    assert any(BROKEN in loaded.tokenizer.decode([i]) for i in ids)
    pieces = streamed(loaded, ids)
    assert "".join(pieces) == TEXT
    assert BROKEN not in "".join(pieces)
    assert pieces[-1] == ""
    # each piece as soon as it is certain
    sure = ""
    for i in range(len(ids)):
        whole = loaded.tokenizer.decode(ids[: i + 1])
        sure = sure if whole.endswith(BROKEN) else whole
        assert "".join(pieces[: i + 1]) == sure


@given(cut=st.integers(0, 60))
def test_a_text_that_ends_inside_a_character_ends_before_it(loaded: Loaded, cut: int) -> None:
    ids = loaded.tokenizer(TEXT, add_special_tokens=False).input_ids[:cut]
    text = "".join(streamed(loaded, ids))
    assert TEXT.startswith(text)
    assert text == loaded.tokenizer.decode(ids).rstrip(BROKEN)


@given(ids=st.lists(st.integers(0, 319), max_size=40))
def test_any_tokens_come_as_they_are_decoded_at_once(loaded: Loaded, ids: list[int]) -> None:
    whole = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(streamed(loaded, ids)) == whole.rstrip(BROKEN)


def test_special_tokens_have_no_text_and_are_not_kept(loaded: Loaded) -> None:
    stream = TextStream(loaded.tokenizer)
    end = loaded.tokenizer.eos_token_id
    assert [stream.add(i) for i in [end] * 50] == [""] * 50
    assert stream.ids == []


def test_a_word_is_spelt_as_it_follows_what_was_before() -> None:
    """A tokenizer that puts a space before every word but the first."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "▁a": 1, "▁rope": 2, "s": 3}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    stream = TextStream(fast, [1])
    assert [stream.add(2), stream.add(3), stream.add(1)] == [" rope", "s", " a"]
    assert TextStream(fast).add(2) == "rope"


PIECES = st.lists(st.text("ab\n", max_size=4), max_size=12)
STRINGS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(pieces=PIECES, strings=STRINGS)
def test_text_ends_before_the_first_string_however_it_is_cut(pieces: list[str], strings: list[str]) -> None:
    text, seen, out = StopText(strings), "", ""
    for piece in pieces:
        seen += piece
        out += text.add(piece)
        places = [seen.find(s) for s in strings if s in seen]
        assert text.found == bool(places)
        if places:
            # as soon as one of them is complete, from where the first of those begins
            assert out == seen[: min(places)]
            return
        # all is out before the first place where one of them may have begun
        begun = [at for at in range(len(seen)) if any(s.startswith(seen[at:]) for s in strings)]
        assert out == seen[: min(begun, default=len(seen))]
    assert out + text.end() == seen


def test_nothing_comes_after_the_end() -> None:
    text = StopText(["stop"])
    assert [text.add("now s"), text.add("top, and"), text.add(" then"), text.end()] == ["now ", "", "", ""]
    assert text.found
