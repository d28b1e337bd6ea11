"""What a mining stage found, counted for each data set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from magicmm_training.storage import write_aside

if TYPE_CHECKING:
    from pathlib import Path

REPORT_NAME = "report.json"


@dataclass(slots=True)
class MinedSet:
    """Counts of one data set.

    Attributes:
        dataset: Its name.
        pairs: In it.
        broken: Pairs that could not be read or embedded; they get no negatives.
        candidates: Different contents among positives and explicit negatives.
        negatives: Chosen, over all queries.
        fewer: Queries with fewer than wanted.
        none: Queries without any.
        small_pool: Queries whose pool ended before the window.
        above_margin: Candidates left out as closer than the margin allows.
        first: Queries whose own positive scores above everything that is not true: recall@1 on the training data.
    """

    dataset: str
    pairs: int
    broken: int = 0
    candidates: int = 0
    negatives: int = 0
    fewer: int = 0
    none: int = 0
    small_pool: int = 0
    above_margin: int = 0
    first: int = 0


@dataclass(frozen=True, slots=True)
class MiningReport:
    """Counts of all data sets.

    Attributes:
        embedder: Name of the model that ranked.
        sets: In the order of the stage.
    """

    embedder: str
    sets: tuple[MinedSet, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"embedder": self.embedder, "sets": [asdict(mined) for mined in self.sets]}

    def table(self) -> str:
        """Return the counts as a Markdown table."""
        names = [field.name for field in fields(MinedSet)]
        rows = [" | ".join(_shown(getattr(mined, name)) for name in names) for mined in self.sets]
        titles = " | ".join(name.replace("_", " ") for name in names)
        return "\n".join(f"| {row} |" for row in (titles, " | ".join(["---", *["---:"] * (len(names) - 1)]), *rows))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write a stage's report beside its negatives.

    Raises:
        MagicError: `storage_failed`.
    """
    with write_aside(folder / REPORT_NAME) as file:
        file.write(json.dumps(report, indent=2, allow_nan=False).encode() + b"\n")


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
