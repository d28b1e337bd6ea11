"""Rows of JSON files, read by offset: one object a line, or one list of objects."""

from __future__ import annotations

import json
import re
from array import array
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.rows import Row, shown

if TYPE_CHECKING:
    from pathlib import Path

_MARK = b"\xef\xbb\xbf"
"""Some programs begin UTF-8 files with it."""
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonRows:
    """Objects at known places of a file. Only offsets are kept, 24 bytes a row, however long the rows are.

    The file is opened anew for every row, so that a set may be shared by threads and worker processes.
    """

    def __init__(self, path: Path) -> None:
        """Start without rows."""
        self._path = path
        self._starts = array("q")
        self._stops = array("q")
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, place: int) -> Row:
        """Return a row.

        Raises:
            MagicError: `text_invalid` when it is no JSON object; `source_unavailable` when the file is gone.
        """
        start, number = self._starts[place], self._numbers[place]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = file.read(self._stops[place] - start)
        except OSError as error:
            raise unreadable(self._path, error) from None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            raise _fault(self._path, number, f"is no JSON ({_said(error)})") from None
        if not isinstance(value, dict):
            raise _fault(self._path, number, f"is no object but {shown(value)}")
        return Row(value, self._path.name, number)

    def _add(self, start: int, stop: int, number: int) -> None:
        self._starts.append(start)
        self._stops.append(stop)
        self._numbers.append(number)


class JsonLines(JsonRows):
    """A JSONL file; rows have the numbers of their lines."""

    def __init__(self, path: Path) -> None:
        """Find the lines; those of white space alone are no rows.

        Raises:
            MagicError: `source_unavailable` when the file cannot be read.
        """
        super().__init__(path)
        try:
            with path.open("rb") as file:
                start = 0
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._add(start, start + len(line), number)
                    start += len(line)
        except OSError as error:
            raise unreadable(path, error) from None


class JsonList(JsonRows):
    """A JSON file that holds one list. It is read as a whole once, to find where its objects lie."""

    def __init__(self, path: Path) -> None:
        """Find the objects.

        Raises:
            MagicError: `source_unavailable` when the file cannot be read; `text_invalid` when it holds no list, naming
                the row where it breaks off.
        """
        super().__init__(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from None
        # One character for each byte, so that places in the text are offsets; all of JSON's own characters are ASCII.
        self._index(data.decode("latin-1"), len(_MARK) if data.startswith(_MARK) else 0)

    def _index(self, text: str, start: int) -> None:
        decoder = json.JSONDecoder()
        place = _after_space(text, start)
        if text[place : place + 1] != "[":
            raise MagicError(
                ErrorCode.TEXT_INVALID,
                f"{self._path.name} holds no list of rows.",
                "Give a JSON list, or one object a line in a file that ends in .jsonl.",
            )
        place = _after_space(text, place + 1)
        closed = text[place : place + 1] == "]"
        while not closed:
            number = len(self) + 1
            try:
                _, stop = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                raise _fault(self._path, number, f"is no JSON ({_said(error)})") from None
            self._add(place, stop, number)
            place = _after_space(text, stop)
            following = text[place : place + 1]
            if following not in ("]", ","):
                raise _fault(self._path, number, "is followed by neither a comma nor the end of the list")
            closed = following == "]"
            place = _after_space(text, place + 1)


def unreadable(path: Path, error: Exception) -> MagicError:
    """Return the error for a data file that cannot be read."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else _said(error)
    return MagicError(ErrorCode.SOURCE_UNAVAILABLE, f"{path} cannot be read: {said}.", "Restore the file.")


def _after_space(text: str, place: int) -> int:
    found: Any = _SPACE.match(text, place)
    return int(found.end())


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _fault(path: Path, number: int, what: str) -> MagicError:
    return MagicError(
        ErrorCode.TEXT_INVALID, f"{path.name}, row {number}: {what}.", "Mend or remove it, or download the file again."
    )
