"""One row of a data file, read so that whatever is wrong with it is named by file, row and field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        values: Field -> value.
        file: Name of the file, for messages and ids.
        number: Line of a JSONL file, otherwise row or sample; from 1.
    """

    values: Mapping[str, Any]
    file: str
    number: int

    @property
    def place(self) -> str:
        """Where the row stands; its id when it brings none."""
        return f"{self.file}:{self.number}"

    def fault(
        self, field: str, what: str, code: ErrorCode = ErrorCode.TEXT_INVALID, remedy: str = "Mend or remove the row."
    ) -> MagicError:
        """Return the error that says what is wrong with a field."""
        return MagicError(code, f"{self.file}, row {self.number}, field {field!r}: {what}.", remedy)

    def required(self, field: str) -> Any:
        """Return a value that must be there.

        Raises:
            MagicError: `text_invalid` when it is absent or null.
        """
        value = self.values.get(field)
        if value is None:
            raise self.fault(field, "is missing")
        return value

    def text(self, field: str) -> str | None:
        """Return a text; null and "" mean that there is none.

        Raises:
            MagicError: `text_invalid` when it is something else.
        """
        return self.as_text(field, self.values.get(field))

    def as_text(self, field: str, value: object) -> str | None:
        """Return a value of the row as a text; null and "" mean that there is none.

        Raises:
            MagicError: `text_invalid` when it is something else, or no valid Unicode.
        """
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.fault(field, f"is no text but {shown(value)}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise self.fault(field, "holds half of a surrogate pair, which is no Unicode text")
        return value

    def id(self, field: str = "id") -> str:
        """Return the row's own id (a text or a whole number), or its place.

        Raises:
            MagicError: `text_invalid` for an id of another kind.
        """
        value = self.values.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.as_text(field, value) or self.place


class Rows(Protocol):
    """Rows of one or more files, by place."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def __getitem__(self, place: int) -> Row:
        """Return a row.

        Raises:
            MagicError: When it cannot be read.
        """
        ...


def shown(value: object) -> str:
    """Return a value as messages show it: type and beginning."""
    text = repr(value[:_LONGEST_SHOWN]) if isinstance(value, (str, bytes)) else repr(value)
    cut = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
    return f"{type(value).__name__} {cut}"
