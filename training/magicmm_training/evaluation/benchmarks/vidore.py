"""ViDoRe: pages of documents that answer a question; nDCG@5 (v1, v2) or nDCG@10 (v3), gain linear.

The path is one data set or a folder of them, each either one table (`query`, `image`, `image_filename`: v1) or
`queries/`, `corpus/` and `qrels/` (v2, v3, and v1 as mteb has it).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.files import source_files
from magicmm_training.evaluation.benchmarks.pages import is_beir, read_beir, read_questions
from magicmm_training.evaluation.benchmarks.reading import Options
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.task import Average, EvaluationTask

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.recipe import Benchmark

METRICS = (Metric("ndcg", 5), Metric("ndcg", 10), Metric("hit", 1), Metric("recall", 5))


def open_vidore(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open one data set, or all below the path; the mean is over data sets.

    Options: `split`, `language` (only queries of this language; empty = all), `main` ("ndcg@5" or "ndcg@10").

    Raises:
        MagicError: `argument_invalid` for an unknown option, `source_unavailable` when there is no data set.
    """
    options = Options(benchmark, {"split": "test", "language": "", "main": "ndcg@5"})
    main = Metric.parse(options.choice("main", ("ndcg@5", "ndcg@10")))
    split, language = options.text("split"), options.text("language") or None
    path = root / benchmark.path
    folders = [path] if _is_set(path, split) else sorted(each for each in _folders(path) if _is_set(each, split))
    if not folders:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{path} holds no data set of split {split!r}.",
            "Give a folder with queries, corpus and qrels, or with one table of questions and pages.",
        )
    average = (Average("all", len(folders)),)
    return tuple(
        EvaluationTask(
            folder.name,
            benchmark.name,
            METRICS,
            main,
            partial(read_beir, folder, split, language)
            if is_beir(folder)
            else partial(read_questions, source_files(folder, split, (".parquet",)), folder),
            average,
        )
        for folder in folders
    )


def _folders(path: Path) -> list[Path]:
    return [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []


def _is_set(folder: Path, split: str) -> bool:
    if is_beir(folder):
        return True
    try:
        return folder.is_dir() and bool(source_files(folder, split, (".parquet",)))
    except MagicError:
        return False
