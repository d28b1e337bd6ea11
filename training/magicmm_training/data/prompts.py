"""The instructions that a source's entries are read under: the row's own, the paper's, or a target's by what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_model import instructions
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup, TaskInstruction
from magicmm_model.templates import Side
from magicmm_training.entries import Entry

if TYPE_CHECKING:
    from magicmm_training.data.rows import Row
    from magicmm_training.entries import ImageSource
    from magicmm_training.recipe import Source


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes entries.

    Attributes:
        task: The paper's two instructions, or None when the data set is not in its table.
        max_tiles: Of pictures.
    """

    task: TaskInstruction | None
    max_tiles: int

    def query(self, row: Row, field: str, text: str | None, image: ImageSource | None, own: str | None = None) -> Entry:
        """Return what is searched with.

        Args:
            row: For messages.
            field: For messages.
            text: Words, or None.
            image: A picture, or None.
            own: The row's instruction, which goes before the table's.

        Raises:
            MagicError: `text_invalid` without content, or when there is no instruction for it.
        """
        instruction = own or (self.task and self.task.query)
        if not instruction:
            raise row.fault(
                "query_instruction",
                "is missing, and the data set is not in the paper's table",
                remedy="Give rows an instruction, or set the source's group and instructions.",
            )
        return self._entry(row, field, text, image, instruction, Side.QUERY)

    def candidate(
        self, row: Row, field: str, text: str | None, image: ImageSource | None, own: str | None = None
    ) -> Entry:
        """Return what is found; without an instruction, that of the paper for entries of this kind is taken.

        Raises:
            MagicError: `text_invalid` without content.
        """
        instruction = own or (self.task.target if self.task else self._general(text, image))
        return self._entry(row, field, text, image, instruction, Side.CANDIDATE)

    def _general(self, text: str | None, image: ImageSource | None) -> str:
        if image is None:
            return instructions.TEXT
        if text and text.strip():
            return instructions.IMAGE_WITH_TEXT
        return instructions.DOCUMENT if self.max_tiles > 1 else instructions.IMAGE

    def _entry(
        self, row: Row, field: str, text: str | None, image: ImageSource | None, instruction: str, side: Side
    ) -> Entry:
        words = text if text and text.strip() else None
        try:
            return Entry(words, image, instruction, side, self.max_tiles)
        except MagicError:
            raise row.fault(field, "has neither text nor picture") from None


def task_instruction(source: Source, group: str | None = None, name: str | None = None) -> TaskInstruction | None:
    """Return a row of the paper's table, or None when the data set is not in it.

    Args:
        source: Its `group` and `instructions` decide.
        group: Task group that the format implies; the source's goes first.
        name: Row that the format implies; the source's `instructions` go first, its name last.

    Raises:
        MagicError: `argument_invalid` for an unknown group; when `instructions` names no row of the group; or when the
            name is in several groups and none is said.
    """
    wanted = source.instructions or name or source.name
    said = source.group or group
    if said is not None and said not in {known.value for known in TaskGroup}:
        known_groups = ", ".join(known.value for known in TaskGroup)
        raise _wrong(source, f"there is no task group {said!r}", f"Groups are {known_groups}.")
    groups = [TaskGroup(said)] if said else list(TaskGroup)
    found = [INSTRUCTIONS[each][wanted] for each in groups if wanted in INSTRUCTIONS.get(each, {})]
    if len(found) > 1:
        raise _wrong(source, f"instructions of {wanted!r} are in several task groups", "Set the source's group.")
    if not found and source.instructions:
        names = sorted({row for each in groups for row in INSTRUCTIONS.get(each, {})})
        raise _wrong(source, f"there are no instructions {wanted!r}", f"Known here: {', '.join(names)}.")
    return found[0] if found else None


def _wrong(source: Source, what: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, f"Source {source.name!r}: {what}.", remedy)
