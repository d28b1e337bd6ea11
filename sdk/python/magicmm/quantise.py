"""Vectors as int8: what the index stores and scans (docs/FORMAT.md, part 3; the contract of every language).

codes = round_half_even(v * (127 / max|v|))       int8 [dim], float32 arithmetic
scale = 1 / sqrt(sum codes^2)                     float32: codes * scale is a unit vector again
score = float32(dot(codes_q, codes_p)) * (scale_q * scale_p)      the dot in int32, the rest in float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int8]
    Scales = NDArray[np.float32]


def quantise(vectors: NDArray[np.float32]) -> tuple[Codes, Scales]:
    """Quantise finite, non-zero rows.

    Args:
        vectors: float32 [n, dim].

    Returns:
        int8 [n, dim] and float32 [n]; each row's codes times its scale have length 1.
    """
    peaks = np.abs(vectors).max(axis=1, keepdims=True)
    codes = np.rint(vectors * (np.float32(127) / peaks)).astype(np.int8)
    # The sum of squares is an integer below 2^31: the scale is the same in every language.
    squares = np.einsum("nd,nd->n", codes, codes, dtype=np.int64)
    return codes, (1.0 / np.sqrt(squares.astype(np.float64))).astype(np.float32)
