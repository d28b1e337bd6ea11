"""The formats "colpali" and "visrag": a question and the page that answers it, as the Hub stores pictures.

Columns `query` and `image` ({"bytes", "path"}); the others are not read. Pages want `max_tiles: 4` in the recipe.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicmm_model.instructions import TaskGroup
from magicmm_training.data.prompts import task_instruction
from magicmm_training.data.reader import PairContext, PairFormat
from magicmm_training.entries import Pair

if TYPE_CHECKING:
    from magicmm_model.instructions import TaskInstruction
    from magicmm_training.data.rows import Row
    from magicmm_training.recipe import Source


def read_document(row: Row, context: PairContext) -> Pair:
    """Make a pair of a row.

    Raises:
        MagicError: When the question or the page is missing.
    """
    image = context.pictures.of(row, "image", row.required("image"))
    query = row.text("query")
    return Pair(
        row.place,
        context.source.name,
        context.prompts.query(row, "query", query, None),
        context.prompts.candidate(row, "image", None, image),
    )


def _task(source: Source, name: str) -> TaskInstruction | None:
    return task_instruction(source, TaskGroup.TEXT_TO_DOCUMENT.value, name)


COLPALI, VISRAG = (
    PairFormat(read_document, partial(_task, name=name), (".parquet",), required=("query", "image"))
    for name in ("ColPali", "VisRAG")
)
