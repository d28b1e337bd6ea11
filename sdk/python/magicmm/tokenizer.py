"""Text to token ids by the bundle's `tokenizer.json`, with limits and without surprises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from pathlib import Path

MAX_CHARACTERS = 200_000
"""More than any caption; tokenizing time and memory stay bounded."""


def check_text(text: object) -> str:
    """Return `text` when it can be embedded.

    Raises:
        MagicError: `text_invalid` for no string, nothing but white space, lone surrogates, or a whole book.
    """
    if not isinstance(text, str):
        raise _invalid(f"The text must be a str, got {type(text).__name__}.", "Pass a str.")
    if not text.strip():
        raise _invalid("The text is empty.", "Say in a few words what the photo shows.")
    if len(text) > MAX_CHARACTERS:
        raise _invalid(f"The text has {len(text):,} characters; at most {MAX_CHARACTERS:,}.", "Shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _invalid("The text holds bytes that are not UTF-8.", "Check the encoding of your input.") from None
    return text


class Tokenizer:
    """The `tokenizers` library reading one `tokenizer.json`.

    Special tokens written in a user's text are treated as plain text: a query cannot close its own prompt.
    """

    def __init__(self, path: Path) -> None:
        """Load `tokenizer.json`.

        Raises:
            MagicError: `bundle_invalid` when the file is no tokenizer.
        """
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise MagicError(
                ErrorCode.BUNDLE_INVALID, f"{path} is not a tokenizer: {error}.", "Install the bundle again."
            ) from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a checked `text`, without the special tokens around it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def fit_tokens(ids: list[int], most: int, truncate: bool) -> list[int]:
    """Return `ids`, cut from the right when `truncate` allows it.

    Raises:
        MagicError: `text_invalid` when there is none, or more than `most` and `truncate` is off;
            `bundle_invalid` when the role leaves no room at all.
    """
    if most < 1:
        raise MagicError(
            ErrorCode.BUNDLE_INVALID, "The role's own tokens leave no room for a text.", "Export the bundle anew."
        )
    if not ids:  # characters that the tokenizer drops, such as zero-width spaces
        raise _invalid("The text holds nothing that the model reads.", "Say in a few words what the photo shows.")
    if len(ids) <= most or truncate:
        return ids[:most]
    raise _invalid(
        f"The text has {len(ids):,} tokens; the model reads {most:,}.",
        "Shorten it (a sentence works best), or pass truncate=True to use its beginning.",
    )


def _invalid(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.TEXT_INVALID, message, remedy)
