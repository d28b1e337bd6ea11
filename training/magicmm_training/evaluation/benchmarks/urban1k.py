"""Urban1K: 1,000 street scenes with long captions, `image/NAME.jpg` and `caption/NAME.txt`, searched both ways."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicmm_training.evaluation.benchmarks.captions import captioned_files
from magicmm_training.evaluation.benchmarks.reading import Options
from magicmm_training.evaluation.benchmarks.two_way import two_way_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.evaluation.task import EvaluationTask
    from magicmm_training.recipe import Benchmark

PAIRS = 1000


def open_urban1k(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the folder.

    Options: `first_line` (read one line of each caption, as UniME-V2 does, instead of the whole file), `partial`
    (accept other numbers of pairs).

    Raises:
        MagicError: `argument_invalid` for an unknown option.
    """
    options = Options(benchmark, {"first_line": False, "partial": False})
    folder = root / benchmark.path
    load = partial(captioned_files, folder / "image", folder / "caption", options.flag("first_line"), complete=True)
    expected = None if options.flag("partial") else (PAIRS, PAIRS)
    return two_way_tasks(benchmark.name, "", load, "Urban1K", expected=expected)
