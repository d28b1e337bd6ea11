"""The format "mmeb-train": MMEB-train and its variants with mined negatives, one folder of parquet a subset.

Columns are texts: `qry`, `qry_image_path`, `pos_text`, `pos_image_path`, `neg_text`, `neg_image_path`, where "" means
absent. Negatives are one text, a list, or a list written as a text. The split "train" also takes files named
`original-*`, in which instructions are those of MMEB itself.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from magicmm_training.data.mmeb_habits import query_words, subset_habit, subset_task, target_words, without_marker
from magicmm_training.data.reader import PairContext, PairFormat
from magicmm_training.data.rows import Row, shown
from magicmm_training.entries import Entry, Pair


def read_mmeb_train(row: Row, context: PairContext) -> Pair:
    """Make a pair of a row.

    Raises:
        MagicError: For a field of another kind, a query that does not begin as its subset's do, or lists of unequal
            length.
    """
    image = context.pictures.of(row, "qry_image_path", row.text("qry_image_path"))
    text = row.text("qry")
    habit = subset_habit(context.source)
    own = None
    if habit is not None:
        text = query_words(row, "qry", text, habit)
    elif context.prompts.task is not None:
        text = without_marker(text)
    else:
        own, text = _own_instruction(row, without_marker(text), image is not None)
    return Pair(
        row.place,
        context.source.name,
        context.prompts.query(row, "qry", text, image, own),
        _target(row, "pos_text", row.text("pos_text"), "pos_image_path", row.text("pos_image_path"), context),
        _negatives(row, context),
    )


def _own_instruction(row: Row, text: str | None, image: bool) -> tuple[str, str | None]:
    """Split a query that brings its instruction as its first line (mmE5-synthetic)."""
    first, _, rest = (text or "").partition("\n")
    if not first.strip() or not (rest.strip() or image):
        raise row.fault(
            "qry",
            "has no line of its own for the instruction",
            remedy="Set the source's group and instructions, or mend the row.",
        )
    return first.strip(), rest.strip() or None


def _target(
    row: Row, text_field: str, text: str | None, image_field: str, path: str | None, context: PairContext
) -> Entry:
    image = context.pictures.of(row, image_field, path)
    return context.prompts.candidate(row, text_field, target_words(text), image)


def _negatives(row: Row, context: PairContext) -> tuple[Entry, ...]:
    texts = listed(row, "neg_text", row.values.get("neg_text"))
    paths = listed(row, "neg_image_path", row.values.get("neg_image_path"))
    count = max(len(texts), len(paths))
    if min(len(texts), len(paths)) not in (0, count):
        raise row.fault("neg_text", f"has {len(texts)} entries, but neg_image_path has {len(paths)}")
    pairs = zip(texts or [None] * count, paths or [None] * count, strict=True)
    return tuple(
        _target(row, f"neg_text[{place}]", text, f"neg_image_path[{place}]", path, context)
        for place, (text, path) in enumerate(pairs)
        if text or path  # a negative of "" and "" is absent
    )


def listed(row: Row, field: str, value: Any) -> list[str | None]:
    """Return the entries of a negative column; empty when all are absent.

    A text that begins like a list of texts (`["` or `['`) must be one, as JSON or as Python writes it. Any other text
    is one entry, even in brackets: "[2, 3]" is an answer of ChartQA.

    Raises:
        MagicError: `text_invalid` for a list that cannot be read, or holds anything but texts.
    """
    if isinstance(value, str):
        stripped = value.strip()
        if stripped == "[]":
            value = []
        elif stripped[:2] in ('["', "['"):
            value = _parsed_list(row, field, stripped)
        else:
            value = [value]
    if value is None:
        return []
    if not isinstance(value, list):
        raise row.fault(field, f"is neither text nor list but {shown(value)}")
    entries = [row.as_text(f"{field}[{place}]", entry) for place, entry in enumerate(value)]
    return entries if any(entries) else []


def _parsed_list(row: Row, field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(text)  # literals only: nothing of the data is run
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise row.fault(field, f"begins like a list but cannot be read as one: {shown(text)}") from None


MMEB_TRAIN = PairFormat(
    read_mmeb_train,
    subset_task,
    (".parquet", ".jsonl", ".json"),
    required=("qry", "qry_image_path", "pos_text", "pos_image_path"),
    optional=("neg_text", "neg_image_path"),
    also_train=("original",),
)
