"""What the ladder found: a comparison for each stage, tolerances and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_export.text_table import text_table

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The least cosines between the rows of a stage and those of the reference.

    Attributes:
        vision: Mean over the rows, up to the visual tokens.
        language: Mean over the rows from there on.
        worst: Of any single row.
    """

    vision: float
    language: float
    worst: float


EXACT = Tolerance(0.99999, 0.99999, 0.9999)
HALF = Tolerance(0.9999, 0.9999, 0.999)
INT8 = Tolerance(0.99, 0.98, 0.9)
INT4 = Tolerance(0.98, 0.9, 0.7)


@dataclass(frozen=True, slots=True)
class Stage:
    """One rung.

    Attributes:
        name: "patches", "vision.layers.{i}", "visual tokens", "language.layers.{i}" or "vector".
        rows: How many were compared: all of a photo and two texts, but only the pooled ones from the last layer on.
        cosine: Mean over the rows.
        worst_cosine: Of the row that is furthest off.
        largest_error: Largest difference of a number, relative to the root mean square of the reference.
        needed: The mean that the tolerance asks for.
        passes: Whether mean and worst row are within the tolerance.
    """

    name: str
    rows: int
    cosine: float
    worst_cosine: float
    largest_error: float
    needed: float
    passes: bool


@dataclass(frozen=True, slots=True)
class LadderReport:
    """All rungs from the pixels up.

    Attributes:
        tolerance: What was asked for.
        stages: In graph order.
        unnamed: Stages that could not be compared, since the graphs have no value of that name.
    """

    tolerance: Tolerance
    stages: tuple[Stage, ...]
    unnamed: tuple[str, ...]

    @property
    def first_failure(self) -> str | None:
        """The first stage out of tolerance."""
        return next((stage.name for stage in self.stages if not stage.passes), None)

    @property
    def passes(self) -> bool:
        """Whether every stage is within the tolerance."""
        return self.first_failure is None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "first_failure": self.first_failure, "passes": self.passes}

    def table(self) -> str:
        """Return a line for each stage and one for the verdict."""
        rows = [
            (
                stage.name,
                str(stage.rows),
                f"{stage.cosine:.6f}",
                f"{stage.worst_cosine:.6f}",
                f"{stage.largest_error:.2e}",
                "ok" if stage.passes else f"below {stage.needed:g} / {self.tolerance.worst:g}",
            )
            for stage in self.stages
        ]
        lines = [text_table(("stage", "rows", "cosine", "worst row", "max error / rms", ""), rows)]
        if self.unnamed:
            lines.append(f"Not compared, for the graphs do not name them: {', '.join(self.unnamed)}.")
        failure = self.first_failure
        lines.append(f"First out of tolerance: {failure}." if failure else "All stages are within the tolerance.")
        return "\n".join(lines)


def compare(name: str, ours: Rows, reference: Rows, tolerance: Tolerance) -> Stage:
    """Compare the rows [n, width] of a stage.

    Raises:
        MagicError: `model_mismatch` for different shapes.
    """
    if ours.shape != reference.shape:
        raise MagicError(
            ErrorCode.MODEL_MISMATCH,
            f"Stage {name} has the shape {list(ours.shape)} in the bundle and {list(reference.shape)} in the model.",
            "Give the checkpoint that the bundle was made from.",
        )
    left, right = ours.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.einsum("ij,ij->i", left, right) / np.maximum(lengths, 1e-30)
    mean, worst = float(cosines.mean()), float(cosines.min())
    largest = float(np.abs(left - right).max() / max(np.sqrt(np.mean(right**2)), 1e-30))
    needed = tolerance.language if name.startswith("language") or name == "vector" else tolerance.vision
    passes = mean >= needed and worst >= tolerance.worst  # also False for NaN
    return Stage(name, len(ours), mean, worst, largest, needed, passes)
