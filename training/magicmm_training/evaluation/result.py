"""What an evaluation found, as data and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from magicmm.errors import ErrorCode, MagicError

FORMAT = "magicmm-evaluation"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Value:
    """A metric over the queries of a task, or a mean of such; 0 to 1.

    Attributes:
        score: What is reported: `expected`, or `pessimistic` where ties count as wrong.
        expected: Mean over all orders of equal scores.
        pessimistic: Right candidates last among equal scores.
        low: Of the 95 % interval of `score`.
        high: Of that interval.
    """

    score: float
    expected: float
    pessimistic: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task.

    Attributes:
        benchmark: Name of the benchmark.
        name: Of the task.
        main: Name of the metric that means are taken of.
        values: Metric -> value.
        queries: How many the files have.
        scored: How many of them the values are over; the others were unreadable, or a right candidate of theirs.
        candidates: How many there are in all.
        mean_pool: How many competed for a query, on average.
        unreadable_queries: Queries whose picture could not be read.
        unreadable_candidates: Candidates whose picture could not be read.
        truncated: Entries whose text was cut; None = the model does not say.
        tied: Queries whose main metric depends on the order of equal scores.
        facts: What the reader counted.
        warnings: What a reader of the values must know.
        reranked: Metric -> value after reranking; None without reranker.
    """

    benchmark: str
    name: str
    main: str
    values: Mapping[str, Value]
    queries: int
    scored: int
    candidates: int
    mean_pool: float
    unreadable_queries: int = 0
    unreadable_candidates: int = 0
    truncated: int | None = None
    tied: int = 0
    facts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reranked: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class MeanResult:
    """A plain mean over tasks.

    Attributes:
        benchmark: Name of the benchmark.
        name: Of the mean, such as "IND".
        tasks: Over how many tasks it is.
        of: Over how many the published mean is.
        value: The mean of the tasks' main metrics.
        reranked: The same after reranking.
    """

    benchmark: str
    name: str
    tasks: int
    of: int
    value: Value
    reranked: Value | None = None

    @property
    def partial(self) -> bool:
        """Whether tasks are missing, so that the mean compares with no published one."""
        return self.tasks != self.of


@dataclass(frozen=True, slots=True)
class GridCell:
    """The mean main metric when vectors are cut to their first numbers and stored more coarsely.

    Attributes:
        dim: How many numbers are kept.
        precision: "float32", "int8" or "binary".
        bytes: Of one stored vector.
        score: Mean over all tasks.
        scores: "BENCHMARK/TASK" -> main metric.
    """

    dim: int
    precision: str
    bytes: int
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RerankCost:
    """What reranking took.

    Attributes:
        top: Candidates of each query that were reordered.
        pairs: Pairs read in all.
        seconds: Time in the reranker.
    """

    top: int
    pairs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One model on some benchmarks.

    Attributes:
        model: Its name.
        fingerprint: Names its weights.
        dim: Length of its vectors.
        tasks: Every task.
        means: Means over tasks.
        grid: Dimensions x precisions; empty unless asked for.
        rerank: Cost of the reranker; None without one.
        embedded: Entries that went through the model; others came from the store.
        seconds: Time in the embedder and in reading.
        notes: What is to be said of the model, such as instructions that it could not be given.
    """

    model: str
    fingerprint: str
    dim: int
    tasks: tuple[TaskResult, ...]
    means: tuple[MeanResult, ...] = ()
    grid: tuple[GridCell, ...] = ()
    rerank: RerankCost | None = None
    embedded: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return all of it as JSON that `from_json` reads."""
        facts = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvaluationResult:
        """Read what `to_json` wrote.

        Raises:
            MagicError: `argument_invalid` for anything else.
        """
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT or raw.pop("format_version") != FORMAT_VERSION:
                raise ValueError("another format or version")
            return cls(
                **raw
                | {
                    "tasks": tuple(_task(task) for task in raw["tasks"]),
                    "means": tuple(_mean(mean) for mean in raw["means"]),
                    "grid": tuple(GridCell(**cell) for cell in raw["grid"]),
                    "rerank": None if raw["rerank"] is None else RerankCost(**raw["rerank"]),
                    "notes": tuple(raw["notes"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"This is no result of an evaluation ({type(error).__name__}: {error}).",
                "Give a JSON file that magicmm-train eval wrote.",
            ) from None


def _task(raw: dict[str, Any]) -> TaskResult:
    reranked = raw["reranked"]
    return TaskResult(
        **raw
        | {
            "values": _values(raw["values"]),
            "warnings": tuple(raw["warnings"]),
            "reranked": None if reranked is None else _values(reranked),
        }
    )


def _mean(raw: dict[str, Any]) -> MeanResult:
    reranked = raw["reranked"]
    return MeanResult(
        **raw | {"value": Value(**raw["value"]), "reranked": None if reranked is None else Value(**reranked)}
    )


def _values(raw: Mapping[str, Any]) -> dict[str, Value]:
    return {name: Value(**value) for name, value in raw.items()}
