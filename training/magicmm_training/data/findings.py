"""What a check of data found, as a report for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

_EXAMPLES = 5
"""Of each kind; the count says how many there were."""


class Severity(str, Enum):
    """How bad a finding is: an error should stop a run, a warning should be read."""

    ERROR = "error"
    WARNING = "warning"


class Kind(str, Enum):
    """What can be found."""

    UNREADABLE = "unreadable source"
    EMPTY = "empty source"
    SAME_NAME = "two sources of one name"
    BROKEN_ROW = "broken row"
    MISSING_IMAGE = "missing image"
    CORRUPT_IMAGE = "corrupt image"
    DUPLICATE_ID = "duplicate id"
    DUPLICATE_QUERY = "duplicate query"
    DUPLICATE_PAIR = "duplicate pair"
    DUPLICATE_NEGATIVE = "duplicate negative"
    POSITIVE_AS_NEGATIVE = "positive among negatives"
    FEW_TARGETS = "few distinct targets"
    ONE_TILE = "documents in one tile"
    LEAKAGE = "evaluation entry in training data"
    SHARED_IMAGE = "evaluation image in training data"
    SHARED_TEXT = "evaluation text in training data"
    UNCHECKED = "unchecked benchmark"
    LICENCE = "unknown licence"


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of finding.

    Attributes:
        kind: Which.
        severity: How bad.
        count: How often.
        examples: The first few, each naming where.
    """

    kind: Kind
    severity: Severity
    count: int
    examples: tuple[str, ...]


@dataclass(slots=True)
class Findings:
    """Collects findings while a check runs."""

    _counts: dict[Kind, int] = field(default_factory=dict)
    _examples: dict[Kind, list[str]] = field(default_factory=dict)
    _severities: dict[Kind, Severity] = field(default_factory=dict)

    def add(self, kind: Kind, severity: Severity, example: str) -> None:
        """Count one; the first few examples are kept, and the last severity."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._severities[kind] = severity
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def error(self, kind: Kind, example: str) -> None:
        """Count an error."""
        self.add(kind, Severity.ERROR, example)

    def warning(self, kind: Kind, example: str) -> None:
        """Count a warning."""
        self.add(kind, Severity.WARNING, example)

    def soften(self, *kinds: Kind) -> None:
        """Turn errors of these kinds into warnings."""
        for kind in kinds:
            if kind in self._severities:
                self._severities[kind] = Severity.WARNING

    def all(self) -> tuple[Finding, ...]:
        """Return what was found, errors first, in the order of `Kind`."""
        found = [
            Finding(kind, self._severities[kind], count, tuple(self._examples[kind]))
            for kind, count in self._counts.items()
        ]
        order = {kind: place for place, kind in enumerate(Kind)}
        return tuple(sorted(found, key=lambda one: (one.severity is not Severity.ERROR, order[one.kind])))


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One data set.

    Attributes:
        name: Of the source.
        stages: Which read it.
        format: Of its files.
        licence: As the recipe says.
        rows: How many it has (after its `limit`); 0 when it cannot be opened.
        checked: How many were looked at.
        images: Distinct pictures among them.
        targets: Distinct positives among them; None for instruction samples.
        findings: What is wrong with it.
    """

    name: str
    stages: tuple[str, ...]
    format: str
    licence: str
    rows: int
    checked: int
    images: int
    targets: int | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """One benchmark, as far as the search for its entries among training data goes.

    Attributes:
        name: Of the benchmark.
        format: Of its files.
        entries: How many of its entries were compared; 0 when it was not read.
        findings: What is wrong with it.
    """

    name: str
    format: str
    entries: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class DataReport:
    """Everything that was checked.

    Attributes:
        recipe: Its name.
        sources: The training data.
        benchmarks: The evaluation data.
    """

    recipe: str
    sources: tuple[SourceReport, ...]
    benchmarks: tuple[BenchmarkReport, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a run should not be started."""
        parts: tuple[SourceReport | BenchmarkReport, ...] = (*self.sources, *self.benchmarks)
        return any(finding.severity is Severity.ERROR for part in parts for finding in part.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers."""
        return {**asdict(self), "has_errors": self.has_errors}

    def table(self) -> str:
        """Return the report as text: a line a data set, and below it what was found."""
        heads = ("data set", "rows", "checked", "images", "targets", "licence")
        rows = [
            (
                source.name,
                str(source.rows),
                str(source.checked),
                str(source.images),
                "-" if source.targets is None else str(source.targets),
                source.licence,
            )
            for source in self.sources
        ]
        rows += [(f"{one.name} (benchmark)", str(one.entries), "-", "-", "-", "-") for one in self.benchmarks]
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        lines = [_line(heads, widths)]
        found = [*(source.findings for source in self.sources), *(one.findings for one in self.benchmarks)]
        for row, findings in zip(rows, found, strict=True):
            lines.append(_line(row, widths))
            for finding in findings:
                lines.append(f"  {finding.severity.value}: {finding.kind.value}, {finding.count} x")
                lines += [f"    {example}" for example in finding.examples]
        return "\n".join(lines)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
