"""What a report says, as tables of text: one column a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from magicmm_training.evaluation.result import EvaluationResult, TaskResult, Value

ABSENT = "–"  # noqa: RUF001 -- a dash is meant


class Row(NamedTuple):
    """One line of values.

    Attributes:
        label: What was measured.
        values: Of each model; None = it was not measured there.
    """

    label: str
    values: tuple[Value | None, ...]


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: What it shows.
        head: Names of columns.
        rows: Cells.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def model_names(results: Sequence[EvaluationResult]) -> tuple[str, ...]:
    """Return a name for each column; models of one name are numbered.

    Raises:
        MagicError: `argument_invalid` without results.
    """
    if not results:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "There is no result to report.", "Name at least one.")
    names: list[str] = []
    for place, result in enumerate(results):
        before = sum(other.model == result.model for other in results[:place])
        names.append(f"{result.model} ({before + 1})" if before else result.model)
    return tuple(names)


def mean_rows(results: Sequence[EvaluationResult]) -> list[Row]:
    """Return the means; those after reranking follow in rows of their own."""
    return _rows(
        [{f"{mean.benchmark} {mean.name}": (mean.value, mean.reranked) for mean in result.means} for result in results]
    )


def task_rows(results: Sequence[EvaluationResult]) -> list[Row]:
    """Return the main metric of every task; those after reranking follow in rows of their own."""
    return _rows([{_task_label(task): _main_values(task) for task in result.tasks} for result in results])


def warnings_of(results: Sequence[EvaluationResult]) -> list[str]:
    """Return what must be known before a number is read, a line or two a model."""
    found = []
    for name, result in zip(model_names(results), results, strict=True):
        warned = [task for task in result.tasks if task.warnings]
        if warned:
            first = warned[0]
            found.append(
                f"{name}: {len(warned)} of {len(result.tasks)} tasks have warnings, first {first.benchmark} "
                f"{first.name}: {'; '.join(first.warnings)}"
            )
        found += [f"{name}: {note}" for note in result.notes]
        partial = [f"{mean.benchmark} {mean.name} ({mean.tasks} of {mean.of})" for mean in result.means if mean.partial]
        if partial:
            found.append(f"{name}: means over fewer tasks than the published ones: {', '.join(partial)}")
    return found


def value_table(title: str, rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return values in percent with their ranges."""
    return Table(title, ("", *names), tuple((row.label, *map(cell, row.values)) for row in rows))


def metric_table(results: Sequence[EvaluationResult]) -> Table:
    """Return every metric of every task: expected, and pessimistic where it differs."""
    rows = []
    for name, result in zip(model_names(results), results, strict=True):
        for task in result.tasks:
            for metric, value in task.values.items():
                tied = value.expected - value.pessimistic > 5e-5
                low = f"{100 * value.pessimistic:.1f}" if tied else "the same"
                rows.append((name, f"{task.benchmark} {task.name}", metric, f"{100 * value.expected:.1f}", low))
    return Table("All metrics", ("model", "task", "metric", "expected", "pessimistic"), tuple(rows))


def count_table(results: Sequence[EvaluationResult]) -> Table:
    """Return what was counted: how many queries a number is over, and what was left out."""
    rows = []
    for name, result in zip(model_names(results), results, strict=True):
        for task in result.tasks:
            said = [f"{fact.replace('_', ' ')} {count:,}" for fact, count in task.facts.items() if count]
            facts = "; ".join([*task.warnings, *said])
            cut = ABSENT if task.truncated is None else f"{task.truncated:,}"
            unreadable = task.unreadable_queries + task.unreadable_candidates
            rows.append(
                (
                    name,
                    f"{task.benchmark} {task.name}",
                    f"{task.scored:,} of {task.queries:,}",
                    f"{task.candidates:,}",
                    f"{task.mean_pool:,.1f}",
                    f"{unreadable:,}",
                    cut,
                    f"{task.tied:,}",
                    facts or ABSENT,
                )
            )
    head = ("model", "task", "queries", "candidates", "mean pool", "unreadable", "cut texts", "ties", "remarks")
    return Table("What was counted", head, tuple(rows))


def model_table(results: Sequence[EvaluationResult]) -> Table:
    """Return what the models are, and what reranking took."""
    rows = []
    for name, result in zip(model_names(results), results, strict=True):
        cost = ABSENT
        if result.rerank is not None:
            cost = f"top {result.rerank.top}: {result.rerank.pairs:,} pairs, {result.rerank.seconds:,.1f} s"
        embedded = f"{result.embedded:,} in {result.seconds:,.1f} s"
        rows.append((name, f"{result.dim:,}", embedded, cost, result.fingerprint[:24]))
    return Table("Models", ("model", "dimensions", "embedded", "reranking", "fingerprint"), tuple(rows))


def grid_table(name: str, result: EvaluationResult) -> Table:
    """Return quality by size of a stored vector."""
    rows = tuple(
        (f"{cell.dim:,}", cell.precision, f"{cell.bytes:,}", f"{100 * cell.score:.1f}") for cell in result.grid
    )
    return Table(f"Size and quality of {name}", ("dimensions", "precision", "bytes", "mean"), rows)


def cell(value: Value | None) -> str:
    """Return a value in percent with its range."""
    if value is None:
        return ABSENT
    return f"{100 * value.score:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def best_places(row: Row) -> set[int]:
    """Return where the highest value of a row stands; nowhere with a single one."""
    scores = [-1.0 if value is None else value.score for value in row.values]
    if sum(score >= 0 for score in scores) < 2:
        return set()
    return {place for place, score in enumerate(scores) if score == max(scores)}


def _rows(by_result: Sequence[Mapping[str, tuple[Value, Value | None]]]) -> list[Row]:
    rows = []
    for label in dict.fromkeys(label for found in by_result for label in found):
        pairs = [found.get(label, (None, None)) for found in by_result]
        rows.append(Row(label, tuple(first for first, _ in pairs)))
        if any(second is not None for _, second in pairs):
            rows.append(Row(f"{label}, reranked", tuple(second for _, second in pairs)))
    return rows


def _task_label(task: TaskResult) -> str:
    return f"{task.benchmark} {task.name}, {task.main}"


def _main_values(task: TaskResult) -> tuple[Value, Value | None]:
    return task.values[task.main], None if task.reranked is None else task.reranked[task.main]
