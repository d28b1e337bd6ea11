"""The formats of benchmarks by name, and how a benchmark of a recipe is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.benchmarks.karpathy import open_karpathy
from magicmm_training.evaluation.benchmarks.mmeb import open_mmeb
from magicmm_training.evaluation.benchmarks.pairs import open_pair_files
from magicmm_training.evaluation.benchmarks.sharegpt4v import open_sharegpt4v
from magicmm_training.evaluation.benchmarks.sugarcrepe import open_sugarcrepe
from magicmm_training.evaluation.benchmarks.urban1k import open_urban1k
from magicmm_training.evaluation.benchmarks.vidore import open_vidore
from magicmm_training.evaluation.benchmarks.visdoc import open_visdoc
from magicmm_training.evaluation.task import EvaluationTask
from magicmm_training.recipe import Benchmark

FORMATS: Mapping[str, Callable[[Benchmark, Path], tuple[EvaluationTask, ...]]] = {
    "karpathy": open_karpathy,
    "mmeb": open_mmeb,
    "pairs": open_pair_files,
    "sharegpt4v": open_sharegpt4v,
    "sugarcrepe": open_sugarcrepe,
    "urban1k": open_urban1k,
    "vidore": open_vidore,
    "visdoc": open_visdoc,
}


def open_benchmark(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the tasks of a benchmark; their content is read when `EvaluationTask.open` is called.

    Args:
        benchmark: What to open; a relative `path` starts at `root`.
        root: Folder of all data.

    Raises:
        MagicError: `argument_invalid` for an unknown format or option; `source_unavailable` when files are missing.
    """
    reader = FORMATS.get(benchmark.format)
    if reader is None:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Benchmark {benchmark.name!r}: there is no format {benchmark.format!r}.",
            f"Formats are {', '.join(FORMATS)}.",
        )
    return reader(benchmark, root)
