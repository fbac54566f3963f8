"""What a completion answers, in a normal form in which equal answers are equal strings.  Nothing here ever raises.

The order of the rules is that of few-shot chain of thought (Wei et al. 2022, arXiv:2201.11903) and of the data sets
that it is measured on: after the last "the answer is", after "####", in "\\boxed{}", else the last number.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MARKER = re.compile(r"the answer is:?", re.IGNORECASE)
LETTER = re.compile(r"\(([A-E])\)|\b([A-E])\b")
MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d", "-"))
QUOTES = "\"'`*\u2018\u2019\u201c\u201d"


def number(completion: str, fallback_last_number: bool = True) -> str | None:
    """The number that a completion answers with, as `plain_number` writes it, or None.

    Without any of the marks the last number of the text counts, if `fallback_last_number`.
    """
    text = completion.translate(MINUS)
    for place in marked(text):
        if found := NUMBER.search(place):
            return plain_number(found[0])
    last = NUMBER.findall(text)[-1:] if fallback_last_number else []
    return plain_number(last[0]) if last else None


def words(completion: str) -> str | None:
    """The words that a completion answers with, as `plain_words` writes them, or None if nothing is marked."""
    return next(filter(None, map(plain_words, marked(completion))), None)


def choice(completion: str) -> str | None:
    """The letter from A to E that a completion chooses, one in parentheses before any other; else None.

    It is looked for after the marks first, then in the whole text.
    """
    for place in (*marked(completion), completion):
        found = list(LETTER.finditer(place))
        best = next((m for m in found if m[1]), found[0] if found else None)
        if best:
            return best[1] or best[2]
    return None


EXTRACT: dict[str, Callable[[str], str | None]] = {"number": number, "words": words, "choice": choice}


def marked(text: str) -> Iterator[str]:
    """The places where an answer is marked as one, the most telling first."""
    if len(parts := MARKER.split(text)) > 1:
        yield first_line(parts[-1])
    if "####" in text:
        yield first_line(text.rpartition("####")[2])
    if "\\boxed{" in text:
        yield braced(text.rpartition("\\boxed{")[2])


def first_line(text: str) -> str:
    """Up to the end of the line."""
    return text.partition("\n")[0]


def braced(text: str) -> str:
    """Up to the brace that closes what was opened before the text, or to its end."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:i]
    return text


def plain_number(text: str) -> str:
    """A number without signs of money, grouping and needless zeros, exact at any length: "007" is "7", "-0.50" "-0.5".

    What is no number comes back as `plain_words`.
    """
    said = plain_words(text.translate(MINUS))
    bare = re.sub(r"[$%,\s]", "", said)
    if not re.fullmatch(r"-?\d+(\.\d+)?", bare):
        return said
    # digits of other scripts are digits
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in bare.lstrip("-"))
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    written = f"{whole}.{part}" if part else whole
    return f"-{written}" if bare.startswith("-") and written != "0" else written


def plain_words(text: str) -> str:
    """Words without case, quotation marks around them and punctuation after them."""
    before = None
    while text != before:
        before = text
        text = unicodedata.normalize("NFC", text.casefold()).strip().lstrip(QUOTES).strip()
        while text and (unicodedata.category(text[-1])[0] == "P" or text[-1] in QUOTES):
            text = text[:-1]
    return text
