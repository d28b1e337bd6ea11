"""The formats by name, and how a source of a recipe is opened."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.conversation_rows import INSTRUCTIONS
from magicmm_training.data.document_rows import COLPALI, VISRAG
from magicmm_training.data.mmeb_eval_rows import MMEB_EVAL
from magicmm_training.data.mmeb_train_rows import MMEB_TRAIN
from magicmm_training.data.pair_rows import PAIRS
from magicmm_training.data.pictures import Pictures
from magicmm_training.data.prompts import Prompts
from magicmm_training.data.reader import ConversationFormat, PairContext, PairFormat, open_read_rows
from magicmm_training.data.webdataset_rows import WEBDATASET

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_model.instructions import TaskInstruction
    from magicmm_training.data.rows import Row
    from magicmm_training.entries import Conversation, ConversationSet, Pair, PairSet
    from magicmm_training.recipe import Source

PAIR_FORMATS: dict[str, PairFormat] = {
    "pairs": PAIRS,
    "mmeb-train": MMEB_TRAIN,
    "mmeb-eval": MMEB_EVAL,
    "colpali": COLPALI,
    "visrag": VISRAG,
    "webdataset": WEBDATASET,
}
CONVERSATION_FORMATS = {"instructions": INSTRUCTIONS}


def open_pairs(source: Source, root: Path, seed: int = 0, task: TaskInstruction | None = None) -> PairSet:
    """Open a source of pairs.

    Args:
        source: What to open; a relative `path` starts at `root`.
        root: Folder of all data. Pictures lie below it (for an absolute `path`: below the parent of its folder).
        seed: Of the choice of rows under `limit`.
        task: Instructions that take the place of the paper's; rows' own go before them.

    Raises:
        MagicError: `argument_invalid` for an unknown format or task group; `source_unavailable` when files are missing
            or unreadable; `text_invalid` when they lack a column.
    """
    layout = PAIR_FORMATS.get(source.format)
    if layout is None:
        raise _unknown(source, "pairs", list(PAIR_FORMATS))
    path = root / source.path
    task = task or layout.task(source)
    context = PairContext(source, _pictures(path, root), Prompts(task, source.max_tiles))
    told = {
        "query_instruction": task and task.query,
        "target_instruction": task and task.target,
        "group": source.group,
        "max_tiles": source.max_tiles,
    }
    return open_read_rows(source, path, seed, layout, told, partial(_pair, layout, context))


def open_conversations(source: Source, root: Path, seed: int = 0) -> ConversationSet:
    """Open a source of instruction samples; arguments and errors as for `open_pairs`."""
    layout = CONVERSATION_FORMATS.get(source.format)
    if layout is None:
        raise _unknown(source, "instruction samples", list(CONVERSATION_FORMATS))
    path = root / source.path
    read = partial(_conversation, layout, source, _pictures(path, root))
    return open_read_rows(source, path, seed, layout, {}, read)


# Functions of the module, unlike those made on the spot, can be sent to worker processes.
def _pair(layout: PairFormat, context: PairContext, row: Row) -> Pair:
    return layout.read(row, context)


def _conversation(layout: ConversationFormat, source: Source, pictures: Pictures, row: Row) -> Conversation:
    return layout.read(row, source, pictures)


def _pictures(path: Path, root: Path) -> Pictures:
    return Pictures(path if path.is_dir() else path.parent, root)


def _unknown(source: Source, what: str, formats: list[str]) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"Source {source.name!r}: there is no format {source.format!r} of {what}.",
        f"Formats are {', '.join(formats)}.",
    )
