"""The format "mmeb-eval": MMEB's evaluation sets as pairs whose negatives are the other candidates.

It serves `check_data`, which looks for evaluation data among training data; scores come from the evaluation's reader.
Columns: `qry_text`, `qry_img_path`, and the lists `tgt_text` and `tgt_img_path`, of which the first entry is the
positive. In the form with `qry_inst`, instructions are columns of their own.
"""

from __future__ import annotations

from magicmm_training.data.mmeb_habits import query_words, subset_habit, subset_task, target_words, without_marker
from magicmm_training.data.reader import PairContext, PairFormat
from magicmm_training.data.rows import Row, shown
from magicmm_training.entries import Entry, Pair


def read_mmeb_eval(row: Row, context: PairContext) -> Pair:
    """Make a pair of a row.

    Raises:
        MagicError: For a field of another kind, lists of unequal length, or no candidates.
    """
    habit = subset_habit(context.source)
    own = without_marker(row.text("qry_inst"))
    text = row.text("qry_text")
    words = without_marker(text) if own or habit is None else query_words(row, "qry_text", text, habit)
    image = context.pictures.of(row, "qry_img_path", row.text("qry_img_path"))
    target = without_marker(row.text("tgt_inst"))
    # The paper's instruction goes first, as in training.
    ours = context.prompts.task is not None
    candidates = _candidates(row, context, None if ours else target)
    return Pair(
        row.place,
        context.source.name,
        context.prompts.query(row, "qry_text", words, image, None if ours else own),
        candidates[0],
        tuple(candidates[1:]),
    )


def _candidates(row: Row, context: PairContext, instruction: str | None) -> list[Entry]:
    texts, paths = row.required("tgt_text"), row.required("tgt_img_path")
    for field, value in (("tgt_text", texts), ("tgt_img_path", paths)):
        if not isinstance(value, list) or not value:
            raise row.fault(field, f"is no list of candidates but {shown(value)}")
    if len(texts) != len(paths):
        raise row.fault("tgt_text", f"has {len(texts)} entries, but tgt_img_path has {len(paths)}")
    return [
        context.prompts.candidate(
            row,
            f"tgt_text[{place}]",
            target_words(row.as_text(f"tgt_text[{place}]", text)),
            context.pictures.of(row, f"tgt_img_path[{place}]", path),
            instruction,
        )
        for place, (text, path) in enumerate(zip(texts, paths, strict=True))
    ]


MMEB_EVAL = PairFormat(
    read_mmeb_eval,
    subset_task,
    (".parquet", ".jsonl", ".json"),
    required=("qry_text", "qry_img_path", "tgt_text", "tgt_img_path"),
    optional=("qry_inst", "tgt_inst"),
)
