"""What readers of benchmarks share: options, pictures that may be missing, entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import Side
from magicmm_training.data.json_rows import unreadable
from magicmm_training.data.pictures import Pictures
from magicmm_training.entries import Entry
from magicmm_training.evaluation.task import MISSING

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_model.instructions import TaskInstruction
    from magicmm_training.data.rows import Row
    from magicmm_training.entries import ImageSource
    from magicmm_training.recipe import Benchmark

Option = str | int | float | bool


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        MagicError: `source_unavailable` when it cannot be read, `text_invalid` when it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise MagicError(ErrorCode.TEXT_INVALID, f"{path} is no JSON ({error}).", "Download it again.") from None


class Options:
    """The options of a benchmark, all known and of the right kind."""

    def __init__(self, benchmark: Benchmark, defaults: Mapping[str, Option]) -> None:
        """Take what the recipe says, and defaults for the rest.

        Raises:
            MagicError: `argument_invalid` for an unknown option, or a value of another kind than its default.
        """
        for name, value in benchmark.options.items():
            if name not in defaults or type(value) is not type(defaults[name]):
                known = ", ".join(f"{option} ({type(default).__name__})" for option, default in defaults.items())
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    f"Benchmark {benchmark.name!r} has the option {name} = {value!r}.",
                    f"Options of {benchmark.format} are: {known or 'none'}.",
                )
        self._values = {**defaults, **benchmark.options}
        self._name = benchmark.name

    def text(self, name: str) -> str:
        """Return an option that is a text."""
        return str(self._values[name])

    def whole(self, name: str) -> int:
        """Return an option that is a whole number."""
        return int(self._values[name])

    def flag(self, name: str) -> bool:
        """Return an option that is true or false."""
        return bool(self._values[name])

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return an option that is one of a few words.

        Raises:
            MagicError: `argument_invalid` for another word.
        """
        value = self.text(name)
        if value not in choices:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"Benchmark {self._name!r} has the option {name} = {value!r}.",
                f"Choose one of {', '.join(choices)}.",
            )
        return value


class BenchmarkPictures:
    """The pictures that rows name; one that is not there becomes `MISSING` and is counted by the evaluation."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Look in `folder` and above it up to `root`; see `Pictures`."""
        self._pictures = Pictures(folder, root)

    def of(self, row: Row, field: str, value: object) -> ImageSource | None:
        """Return a picture, `MISSING`, or None when the row names none.

        Raises:
            MagicError: `text_invalid` when the value is neither path nor bytes.
        """
        try:
            return self._pictures.of(row, field, value)
        except MagicError as error:
            if error.code is not ErrorCode.IMAGE_INVALID:
                raise
            return MISSING


def make_entry(
    text: str | None,
    image: ImageSource | None,
    task: TaskInstruction,
    side: Side,
    max_tiles: int = 1,
) -> Entry:
    """Return an entry under the instruction of its side; a text of white space alone is none.

    Raises:
        MagicError: `text_invalid` when nothing is left.
    """
    instruction = task.query if side is Side.QUERY else task.target
    return Entry((text or "").strip() or None, image, instruction, side, max_tiles)
