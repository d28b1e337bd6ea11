"""SugarCrepe: a picture, its caption, and a fluent caption that is wrong; right when the first scores strictly higher.

Read are the seven files `add_obj.json`, `swap_att.json` and so on, in the folder or its `data/`: id -> `filename`,
`caption`, `negative_caption`. Pictures are those of COCO val2017.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.data.rows import Row
from magicmm_training.evaluation.benchmarks.reading import BenchmarkPictures, Options, make_entry, read_json
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.task import MISSING, Average, EvaluationTask, Pools, Retrieval

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.recipe import Benchmark

SIZES = {
    "add_obj": 2062,
    "add_att": 692,
    "replace_obj": 1652,
    "replace_att": 788,
    "replace_rel": 1406,
    "swap_obj": 245,
    "swap_att": 666,
}
"""Rows of each file."""
_METRIC = Metric("hit", 1)


def open_sugarcrepe(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the seven files; means are over the files of a kind ("add", "replace", "swap") and over all seven.

    Options: `images` (folder of the pictures below the benchmark's), `partial` (accept missing files and other sizes).

    Raises:
        MagicError: `argument_invalid` for an unknown option, `source_unavailable` for a missing file.
    """
    options = Options(benchmark, {"images": "val2017", "partial": False})
    folder = root / benchmark.path
    partly = options.flag("partial")
    pictures = BenchmarkPictures(folder / options.text("images"), folder)
    tasks = []
    for name, size in SIZES.items():
        file = next(
            (path for path in (folder / f"{name}.json", folder / "data" / f"{name}.json") if path.is_file()), None
        )
        if file is None:
            if partly:
                continue
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{folder} has no {name}.json.",
                "Place SugarCrepe's data there, or set `partial: true`.",
            )
        kind = name.split("_")[0]
        averages = Average(kind, sum(other.startswith(kind) for other in SIZES)), Average("all", len(SIZES))
        load = partial(_load, file, pictures)
        tasks.append(
            EvaluationTask(
                name,
                benchmark.name,
                (_METRIC,),
                _METRIC,
                load,
                averages,
                strict=True,
                expected=None if partly else size,
            )
        )
    return tuple(tasks)


def _load(file: Path, pictures: BenchmarkPictures) -> Retrieval:
    value = read_json(file)
    if not isinstance(value, dict):
        raise MagicError(ErrorCode.TEXT_INVALID, f"{file} holds no object of rows.", "Download it again.")
    task = INSTRUCTIONS[TaskGroup.IMAGE_TO_TEXT]["SugarCrepe"]
    queries, candidates = [], []
    for number, fields in enumerate(value.values(), 1):
        row = Row(fields if isinstance(fields, dict) else {}, file.name, number)
        picture = pictures.of(row, "filename", row.required("filename")) or MISSING
        queries.append(make_entry(None, picture, task, Side.QUERY))
        for field in ("caption", "negative_caption"):
            text = row.as_text(field, row.required(field))
            if text is None or not text.strip():
                raise row.fault(field, "is empty")
            candidates.append(make_entry(text, None, task, Side.CANDIDATE))
    return Retrieval(
        query_ids=tuple(value),
        queries=queries,
        candidates=candidates,
        relevant=tuple({2 * place: 1.0} for place in range(len(queries))),
        pools=Pools(
            tuple(np.array([2 * place, 2 * place + 1]) for place in range(len(queries))), tuple(range(len(queries)))
        ),
    )
