"""Quality against size: vectors cut to their first dimensions and stored more coarsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm.quantise import quantise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PRECISIONS = ("float32", "int8", "binary")


@dataclass(frozen=True, slots=True)
class Storage:
    """One way to keep a vector.

    Attributes:
        dim: How many of the first numbers are kept.
        precision: Of `PRECISIONS`: "int8" as the index stores it, "binary" one sign bit a number.
    """

    dim: int
    precision: str

    @property
    def bytes(self) -> int:
        """Of one vector; int8 has a float32 scale beside it."""
        return {"float32": 4 * self.dim, "int8": self.dim + 4, "binary": -(-self.dim // 8)}[self.precision]

    def stored(self, vectors: Floats) -> Floats:
        """Return unit vectors [n, dim] that have the cosines which the stored form gives.

        Raises:
            MagicError: `runtime_failed` for a vector whose first numbers are all 0.
        """
        cut = vectors[:, : self.dim]
        lengths = np.linalg.norm(cut, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise MagicError(
                ErrorCode.RUNTIME_FAILED, f"A vector is 0 in its first {self.dim} numbers.", "Use more dimensions."
            )
        if self.precision == "int8":
            codes, scales = quantise(cut)
            return codes.astype(np.float32) * scales[:, None]
        if self.precision == "binary":
            signs: Floats = np.where(cut >= 0, 1, -1).astype(np.float32)
            return signs / np.float32(np.sqrt(self.dim))
        unit: Floats = cut / lengths
        return unit


def storages(dims: Sequence[int], precisions: Sequence[str], full: int) -> list[Storage]:
    """Return every combination.

    Args:
        dims: Numbers kept; empty = all of them.
        precisions: Of `PRECISIONS`; empty = float32.
        full: Length of the model's vectors.

    Raises:
        MagicError: `argument_invalid` for an unknown precision or a dimension outside 1 to `full`.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"There is no precision {precision!r}.", f"Use {', '.join(PRECISIONS)}."
            )
    for dim in dims:
        if not 1 <= dim <= full:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"The model's vectors have {full} numbers, not {dim}.", "Use fewer."
            )
    return [Storage(dim, precision) for dim in dims or [full] for precision in precisions or ["float32"]]
