"""Concepts that a user has taught: what they are called, and where a text names one (docs/FORMAT.md, part 4)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from magicmm.errors import ErrorCode, MagicError

Key = tuple[str, ...]
"""The folded words of a name: what makes two names one."""

MAX_NAME = 100
"""Characters of a name."""
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a all an and at find from image images in me my of on or our photo photos pic pics picture pictures please"
        " search show some that the these this those to with",
    )
)
"""Words that, alone beside a name, say nothing of the photo: "show me all photos of Momo"."""
_APOSTROPHES = ("'", "\u2019")


@dataclass(frozen=True, slots=True)
class Concept:
    """Something of the user's own that was taught by photos.

    Attributes:
        name: What searches call it.
        noun: What it is in words that the model knows ("a dog"), or None.
        examples: Photos it was taught by, whose vectors are of the index's model: what searches use.
        stale: Photos it was taught by, whose vectors are of another model; they count again when the photos are found.
        uris: Where the photos lay when they were taught; photos given as bytes have no place.
    """

    name: str
    noun: str | None
    examples: int
    stale: int
    uris: tuple[str, ...]


class Word(NamedTuple):
    """One word of a text: its place and its folded form."""

    start: int
    stop: int
    folded: str


def words_of(text: str) -> list[Word]:
    """Split a text into words: runs of letters, numbers, marks and underscores."""
    found: list[Word] = []
    start = None
    for place, char in enumerate(text + " "):
        if char == "_" or unicodedata.category(char)[0] in "LNM":
            start = place if start is None else start
        elif start is not None:
            found.append(Word(start, place, _fold(text[start:place])))
            start = None
    return found


def key_of(name: str) -> Key:
    """Return the folded words of a name."""
    return tuple(word.folded for word in words_of(name))


def may_be_name(text: str) -> bool:
    """Tell a name from a path or a URI, which `Gallery.forget` takes, too."""
    return "/" not in text and "\\" not in text


def tidy_name(name: str) -> str:
    """Return a name as it is kept: NFC, single spaces.

    Raises:
        MagicError: `argument_invalid` for what no text could name.
    """
    tidy = " ".join(unicodedata.normalize("NFC", name).split())
    key = key_of(tidy)
    why = None
    if not key:
        why = "has no letters"
    elif set(key) <= _FILLERS:
        why = "is a word of too many searches"
    elif len(tidy) > MAX_NAME:
        why = f"has more than {MAX_NAME} characters"
    elif not may_be_name(tidy) or not tidy.isprintable():
        why = "holds a slash or a character that cannot be shown"
    if why is not None:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"The name {tidy!r} {why}.", 'Give a name such as "our dog".')
    return tidy


def split_names(text: str, keys: Iterable[Key]) -> tuple[list[Key], str | None]:
    """Find names in a text as whole words, names of more words first.

    Returns:
        The names in the order of the text, each once, and the text without them; None when no word is left that
        says anything of the photo.
    """
    words = words_of(text)
    folded = tuple(word.folded for word in words)
    by_length: dict[int, set[Key]] = {}
    for key in keys:
        by_length.setdefault(len(key), set()).add(key)
    owner: list[int | None] = [None] * len(words)  # the first word of the name that has taken this one
    found: dict[int, Key] = {}
    for length in sorted(by_length, reverse=True):
        for first in range(len(words) - length + 1):
            span = slice(first, first + length)
            if folded[span] in by_length[length] and all(taken is None for taken in owner[span]):
                owner[span] = [first] * length
                found[first] = folded[span]
    if not found:
        return [], text
    return list(dict.fromkeys(found[first] for first in sorted(found))), _without(text, words, found)


def _without(text: str, words: list[Word], found: dict[int, Key]) -> str | None:
    """Return the pieces between the names, but for those of fillers alone ("photos of", "and")."""
    pieces: list[str] = []
    end = 0
    for first in sorted(found):
        pieces.append(text[end : words[first].start])
        behind = first + len(found[first])
        end = words[behind - 1].stop
        if behind < len(words) and text[end] in _APOSTROPHES and words[behind][::2] == (end + 1, "s"):
            end = words[behind].stop  # the "'s" of "Momo's ball"
    pieces.append(text[end:])
    kept = []
    for piece in pieces:
        said = words_of(piece)
        if any(word.folded not in _FILLERS for word in said):
            kept.append(" ".join(piece[said[0].start :].split()))  # without the comma of "Momo, in the park"
    return " ".join(kept) or None


def _fold(word: str) -> str:
    """Drop letter case and accents, by steps that every language can take."""
    plain = unicodedata.normalize("NFKD", _one_case(word))
    return _one_case("".join(char for char in plain if not "\u0300" <= char <= "\u036f"))


def _one_case(word: str) -> str:
    # Upper case first makes one of "ß" and "SS", of the two lower-case sigmas, and of the dotless i and I.
    return "".join(char.upper().lower() for char in word)
