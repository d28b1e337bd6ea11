"""How a matrix is rounded: int8 by output channel, or int4 by groups that are exact int8 at run time.

int8    value = code * scale                         code -127..127, one float32 scale an output channel
int4    value = code * multiplier * scale            code -7..7, one whole multiplier 1..18 a group of inputs

In int4, the scale of a group is a whole multiple of the one of the channel, so `code * multiplier` (at most 126) is an
int8 weight: 4 bits on the disk, and the speed of int8 once unpacked. `multiplier * scale` are the block scales of
onnxruntime's MatMulNBits and of a blocked DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FLOAT32, INT8, INT4 = "float32", "int8", "int4"
GROUPS = (32, 128)
"""Inputs that share an int4 multiplier: fewer round better, more take less room."""
LEVELS_8, LEVELS_4 = 127, 7
MOST_MULTIPLIER = 18
"""The largest for which 7 x 18 fits int8."""

_TRIED = 4
"""Multipliers that are tried a group, downwards from the one that clips nothing."""
_BLOCK = 1 << 17
"""Numbers that are rounded at a time: half a megabyte of float32, which stays in the cache of a core."""
_SMALLEST = np.float32(1e-30)
"""Rows without a larger number become zeros of scale 1: their own scale would leave the normal range of float32."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a unit are stored.

    Attributes:
        kind: "float32", "int8" or "int4".
        group: Inputs that share a multiplier, 32 or 128; None for all but int4.

    Raises:
        MagicError: `argument_invalid` for another kind or group.
    """

    kind: str
    group: int | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can store."""
        groups = {FLOAT32: (None,), INT8: (None,), INT4: GROUPS}.get(self.kind)
        if groups is None or self.group not in groups:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"There is no scheme {self.kind!r} with group {self.group}.",
                "Take float32 or int8 without a group, or int4 with a group of 32 or 128.",
            )


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """A matrix in 8 bits.

    Attributes:
        codes: int8 [out, in], -127..127.
        scales: float32 [out], positive.
    """

    codes: NDArray[np.int8]
    scales: Floats


@dataclass(frozen=True, slots=True)
class Int4Weights:
    """A matrix in 4 bits, one code a byte until it is packed.

    Attributes:
        codes: int8 [out, in], -7..7.
        multipliers: uint8 [out, in / group], 1..18.
        scales: float32 [out], positive.
    """

    codes: NDArray[np.int8]
    multipliers: NDArray[np.uint8]
    scales: Floats

    @property
    def group(self) -> int:
        """Inputs that share a multiplier."""
        return self.codes.shape[1] // self.multipliers.shape[1]

    @property
    def group_scales(self) -> Floats:
        """Float32 [out, in / group]: what the codes of a group are multiplied by."""
        return self.multipliers.astype(np.float32) * self.scales[:, None]

    def as_int8(self) -> Int8Weights:
        """Return the same matrix as int8; nothing is rounded."""
        grouped = self.codes.reshape(*self.multipliers.shape, -1)
        codes = grouped * self.multipliers.astype(np.int8)[..., None]
        return Int8Weights(codes.reshape(self.codes.shape), self.scales)


def quantise_int8(weight: Floats) -> Int8Weights:
    """Round each output channel to 255 levels, the largest number to +-127.

    With that many levels, clipping is not worth its time: it saves 1 to 4 % of the squared error on normal weights.

    Args:
        weight: float32 [out, in].

    Raises:
        MagicError: `argument_invalid` for NaN, infinity or another shape.
    """
    _check(weight)
    codes = np.empty(weight.shape, np.int8)
    scales = np.empty(len(weight), np.float32)
    for rows in _row_blocks(weight):
        block = weight[rows]
        peaks = _peaks(block)
        scales[rows] = np.where(peaks > _SMALLEST, peaks / np.float32(LEVELS_8), 1)
        codes[rows] = np.rint(block / scales[rows, None])
    return Int8Weights(codes, scales)


def quantise_int4(weight: Floats, group: int, importance: Floats | None = None) -> Int4Weights:
    """Round each group to 15 levels, with the multipliers and scales of the smallest squared error that is found.

    Args:
        weight: float32 [out, in].
        group: Inputs that share a multiplier.
        importance: float32 [in], not negative: what the squared error of an input counts, for example its mean
            square; None = all the same.

    Raises:
        MagicError: `argument_invalid` for groups that do not divide the inputs, NaN, infinity or other shapes.
    """
    _check(weight)
    outputs, inputs = weight.shape
    if group < 1 or inputs % group:
        raise _invalid(f"Groups of {group} do not divide {inputs} inputs.", "Take another group, or int8.")
    if importance is not None and (importance.shape != (inputs,) or not (importance >= 0).all()):
        raise _invalid(f"The importance is no vector of {inputs} numbers >= 0.", "Give one number an input.")
    counts = None if importance is None else importance.astype(np.float32).reshape(-1, group)
    result = Int4Weights(
        np.empty(weight.shape, np.int8),
        np.empty((outputs, inputs // group), np.uint8),
        np.empty(outputs, np.float32),
    )
    for rows in _row_blocks(weight):
        grouped = weight[rows].reshape(-1, inputs // group, group)
        codes, multipliers, scales = _round_groups(grouped, counts)
        result.codes[rows] = codes.reshape(-1, inputs)
        result.multipliers[rows] = multipliers
        result.scales[rows] = scales
    return result


def dequantise(weights: Int8Weights | Int4Weights) -> Floats:
    """Return what the codes stand for: float32 [out, in]."""
    exact = weights.as_int8() if isinstance(weights, Int4Weights) else weights
    return exact.codes * exact.scales[:, None]


def _round_groups(grouped: Floats, counts: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Return codes [out, groups, group], multipliers [out, groups] and scales [out]."""
    peaks = np.maximum(grouped.max(axis=2), -grouped.min(axis=2))
    largest = peaks.max(axis=1)
    scales = np.where(largest > _SMALLEST, largest / np.float32(LEVELS_4 * MOST_MULTIPLIER), 1).astype(np.float32)
    multiples = grouped / scales[:, None, None]
    first = np.clip(np.ceil(peaks / (scales[:, None] * LEVELS_4)), 1, MOST_MULTIPLIER)
    codes, best, errors = np.empty_like(grouped), first, np.full(first.shape, np.inf, np.float32)
    for step in range(_TRIED):
        tried = np.maximum(first - np.float32(step), 1)
        rounded = _round_to(multiples, tried)
        found = _squared_error(multiples, rounded, tried, counts)
        better = found < errors
        errors = np.where(better, found, errors)
        best = np.where(better, tried, best)
        np.copyto(codes, rounded, where=better[..., None])
    return codes, best, scales * _refit(multiples, codes * best[..., None], counts)


def _round_to(multiples: Floats, multipliers: Floats) -> Floats:
    rounded = multiples * np.reciprocal(multipliers)[..., None]
    np.rint(rounded, out=rounded)
    return np.clip(rounded, -LEVELS_4, LEVELS_4, out=rounded)


def _squared_error(multiples: Floats, codes: Floats, multipliers: Floats, counts: Floats | None) -> Floats:
    """Return the error of each group: [out, groups]."""
    missed = codes * multipliers[..., None]
    missed -= multiples
    if counts is None:
        return np.einsum("ogi,ogi->og", missed, missed)
    return np.einsum("ogi,ogi,gi->og", missed, missed, counts)


def _refit(multiples: Floats, rounded: Floats, counts: Floats | None) -> Floats:
    """Return the factor of each channel that brings what was rounded closest to what it was (least squares)."""
    weighted = rounded if counts is None else rounded * counts
    product = np.einsum("ogi,ogi->o", weighted, multiples)
    square = np.einsum("ogi,ogi->o", weighted, rounded)
    return np.divide(product, square, out=np.ones_like(square), where=square > 0)


def _peaks(block: Floats) -> Floats:
    return np.maximum(block.max(axis=1), -block.min(axis=1))


def _row_blocks(weight: Floats) -> Iterator[slice]:
    step = max(1, _BLOCK // weight.shape[1])
    for start in range(0, len(weight), step):
        yield slice(start, start + step)


def _check(weight: Floats) -> None:
    if weight.ndim != 2 or not weight.size or weight.dtype != np.float32:
        raise _invalid(f"{weight.dtype} of shape {list(weight.shape)} is no float32 matrix.", "Give one [out, in].")
    # Both carry a NaN on, and neither needs a second array.
    if not (np.isfinite(weight.min()) and np.isfinite(weight.max())):
        raise _invalid("The weights hold NaN or infinity.", "Check the checkpoint, and the rewrites before.")


def _invalid(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, message, remedy)
