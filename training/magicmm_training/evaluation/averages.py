"""From the metrics of queries to the values of tasks, and from these to the means of a benchmark."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from magicmm_training.evaluation.bootstrap import interval, resampled
from magicmm_training.evaluation.result import MeanResult, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from magicmm_training.evaluation.metrics import Metric
    from magicmm_training.evaluation.scoring import Scored
    from magicmm_training.evaluation.task import EvaluationTask

    Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """A task's values.

    Attributes:
        values: Metric -> value.
        main: The main metric's value.
        replicates: The main metric's score, resampled: float64 [rounds].
    """

    values: Mapping[str, Value]
    main: Value
    replicates: Numbers


def reported(task: EvaluationTask, scored: Scored, metric: Metric) -> Numbers:
    """Return a metric of each query as the task counts ties."""
    return (scored.pessimistic if task.strict else scored.expected)[metric]


def summarise(task: EvaluationTask, scored: Scored, seed: int) -> Summary:
    """Average queries, and say how sure that is."""
    table = np.stack([reported(task, scored, metric) for metric in task.metrics], axis=1)
    # Tasks draw independently; two models on one task draw the same queries.
    own_seed = zlib.crc32(f"{seed}/{task.benchmark}/{task.name}".encode())
    replicates = resampled(table, scored.weights, own_seed)
    values = {}
    for place, metric in enumerate(task.metrics):
        expected = float(np.average(scored.expected[metric], weights=scored.weights))
        pessimistic = float(np.average(scored.pessimistic[metric], weights=scored.weights))
        score = pessimistic if task.strict else expected
        values[str(metric)] = Value(score, expected, pessimistic, *interval(replicates[:, place]))
    return Summary(values, values[str(task.main)], replicates[:, task.metrics.index(task.main)])


@dataclass(slots=True)
class MeanParts:
    """The tasks of one mean, as they come in.

    Attributes:
        of: Over how many tasks the published mean is.
        summaries: Of the embedder alone.
        reranked: After reranking.
    """

    of: int
    summaries: list[Summary] = field(default_factory=list)
    reranked: list[Summary] = field(default_factory=list)

    def result(self, benchmark: str, name: str) -> MeanResult:
        """Return the mean."""
        reranked = _mean(self.reranked) if self.reranked else None
        return MeanResult(benchmark, name, len(self.summaries), self.of, _mean(self.summaries), reranked)


def _mean(parts: Sequence[Summary]) -> Value:
    """Average tasks, and their resampled scores round by round: tasks are fixed, queries are drawn."""
    score, expected, pessimistic = (
        float(np.mean([getattr(part.main, name) for part in parts])) for name in ("score", "expected", "pessimistic")
    )
    return Value(score, expected, pessimistic, *interval(np.mean([part.replicates for part in parts], axis=0)))
