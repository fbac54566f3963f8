"""Tokens as text while they come: whole characters only, and nothing of what a text ends before."""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # what a decoder puts where bytes make no character
BEFORE = 6  # tokens of what was read before that decide how the first new one is spelt


class TextStream:
    """The text of tokens that come one by one, whose pieces make up what decoding them all at once gives.

    `before` are tokens that stand in front of them. Special tokens have no text.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.ids = tokenizer, list(before[-BEFORE:])
        self.told = len(self.ids)  # tokens whose text is out
        self.special = frozenset[int](tokenizer.all_special_ids)

    def add(self, token: int) -> str:
        """The text that is certain with one more token; empty inside a character of several tokens."""
        if token in self.special:
            return ""
        self.ids.append(token)
        text = self.text()
        if not text or text.endswith(BROKEN):
            return ""
        self.ids = self.ids[self.told :]
        self.told = len(self.ids)
        return text

    def end(self) -> str:
        """What is left at the end, without a character that was begun."""
        return self.text().rstrip(BROKEN)

    def text(self) -> str:
        """The text of the tokens that are not out, in the spelling that those before them ask for."""
        before, whole = self.decode(self.ids[: self.told]), self.decode(self.ids)
        return whole[len(before) :]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopText:
    """Text as it comes, up to the first of some strings; what may be the beginning of one is held back."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings, self.held, self.found = tuple(strings), "", False

    def add(self, text: str) -> str:
        """The text that is certain with this piece; nothing any more once `found`."""
        if self.found:
            return ""
        text = self.held + text
        places = [at for at in (text.find(s) for s in self.strings) if at >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        open_from = min((n for n in range(len(text)) if self.may_begin(text[n:])), default=len(text))
        self.held = text[open_from:]
        return text[:open_from]

    def may_begin(self, text: str) -> bool:
        return any(s.startswith(text) for s in self.strings)

    def end(self) -> str:
        """What was held back."""
        held, self.held = self.held, ""
        return held
