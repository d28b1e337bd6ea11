"""The format "pairs": our own, one pair a row, in JSONL or parquet (docs/TRAINING.md).

    {"id": "a1", "query": {"text": "a dog"}, "positive": {"image": "dogs/1.jpg"}, "negatives": [{"image": "cat.jpg"}],
     "query_instruction": "...", "target_instruction": "..."}

Only `query` and `positive` are needed. Pictures are paths below the data set's folder; in parquet also bytes, or the
Hub's {"bytes", "path"}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicmm_training.data.prompts import task_instruction
from magicmm_training.data.reader import PairContext, PairFormat
from magicmm_training.data.rows import Row, shown
from magicmm_training.entries import Pair

if TYPE_CHECKING:
    from magicmm_training.entries import ImageSource

_PARTS = {"text", "image"}


def read_pair(row: Row, context: PairContext) -> Pair:
    """Make a pair of a row.

    Raises:
        MagicError: For a field that is missing, of another kind, or unknown.
    """
    target = row.text("target_instruction")
    negatives = row.values.get("negatives")
    if negatives is None:
        negatives = []
    if not isinstance(negatives, list):
        raise row.fault("negatives", f"is no list but {shown(negatives)}")
    query = _content(row, "query", row.required("query"), context)
    positive = _content(row, "positive", row.required("positive"), context)
    prompts = context.prompts
    return Pair(
        row.id(),
        context.source.name,
        prompts.query(row, "query", *query, row.text("query_instruction")),
        prompts.candidate(row, "positive", *positive, target),
        tuple(
            prompts.candidate(row, f"negatives[{place}]", *_content(row, f"negatives[{place}]", value, context), target)
            for place, value in enumerate(negatives)
        ),
    )


def _content(row: Row, field: str, value: Any, context: PairContext) -> tuple[str | None, ImageSource | None]:
    if not isinstance(value, dict) or not value.keys() <= _PARTS:
        raise row.fault(field, f"is no object of text and image but {shown(value)}")
    text = row.as_text(f"{field}.text", value.get("text"))
    return text, context.pictures.of(row, f"{field}.image", value.get("image"))


PAIRS = PairFormat(
    read_pair,
    task_instruction,
    (".parquet", ".jsonl", ".json"),
    required=("query", "positive"),
    optional=("id", "negatives", "query_instruction", "target_instruction"),
)
