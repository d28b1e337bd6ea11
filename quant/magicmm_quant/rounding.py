"""Calibrated rounding: GPTQ (Frantar et al. 2023) with block-diagonal Hessians, into the formats of `schemes`.

Scales are fixed first. Codes are then chosen input by input, and what rounding missed is made up for by the inputs of
the same block that are still to come, as far as the Hessian says that they carry the same signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_quant.schemes import LEVELS_4, LEVELS_8, Int4Weights, Int8Weights, quantise_int4, quantise_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magicmm_quant.calibration import Hessian

    Floats = NDArray[np.float32]

DAMPING = 0.01
"""What is added to the diagonal of a block, as a share of its mean."""
_CHUNK = 32
"""Inputs that are rounded one by one before a matrix product brings the rest of the block up to date."""
_ROWS = 1024
"""Outputs that are rounded at a time: a chunk of them stays in the cache."""


def round_int4(weight: Floats, group: int, hessian: Hessian, damping: float = DAMPING) -> Int4Weights:
    """Round to int4 so that the outputs change little.

    Args:
        weight: float32 [out, in].
        group: Inputs that share a multiplier.
        hessian: Of the unit's inputs.
        damping: See `DAMPING`.

    Raises:
        MagicError: `argument_invalid` when the Hessian is of another unit, holds NaN or cannot be factored, and as
            `quantise_int4`.
    """
    factors = _factors(hessian, weight, damping)
    plain = quantise_int4(weight, group, hessian.mean_square())
    steps = torch.from_numpy(plain.group_scales)
    codes = _feed_errors(weight, steps, factors, LEVELS_4)
    return Int4Weights(codes, plain.multipliers, plain.scales)


def round_int8(weight: Floats, hessian: Hessian, damping: float = DAMPING) -> Int8Weights:
    """Round to int8 so that the outputs change little; arguments and errors as `round_int4`."""
    plain = quantise_int8(weight)
    return Int8Weights(round_codes(weight, plain.scales, LEVELS_8, hessian, damping), plain.scales)


def round_codes(
    weight: Floats, scales: Floats, levels: int, hessian: Hessian, damping: float = DAMPING
) -> NDArray[np.int8]:
    """Return codes int8 [out, in] of given scales whose outputs change little.

    Args:
        weight: float32 [out, in].
        scales: float32 [out], what a code is worth.
        levels: Largest code, at most 127.
        hessian: Of what the rows read.
        damping: See `DAMPING`.

    Raises:
        MagicError: As `round_int8`.
    """
    factors = _factors(hessian, weight, damping)
    return _feed_errors(weight, torch.from_numpy(scales)[:, None], factors, levels)


@torch.inference_mode()
def round_depthwise(
    weight: Floats, scales: Floats, levels: int, hessians: Tensor, damping: float = DAMPING
) -> NDArray[np.int8]:
    """Return the same for rows that read inputs of their own, as those of depthwise convolutions do.

    Args:
        weight: float32 [out, in].
        scales: float32 [out].
        levels: As for `round_codes`.
        hessians: [out, in, in], of what each row reads.
        damping: See `DAMPING`.

    Raises:
        MagicError: As `round_int8`.
    """
    if hessians.shape != (*weight.shape, weight.shape[1]):
        raise _invalid(f"The Hessians are {tuple(hessians.shape)}, the weights {weight.shape}.")
    factors = _factor(hessians, damping)
    values, steps = torch.from_numpy(weight).double(), torch.from_numpy(scales).double()
    codes = torch.empty_like(values)
    for place in range(weight.shape[1]):
        codes[:, place] = (values[:, place] / steps).round().clamp(-levels, levels)
        missed = values[:, place] - codes[:, place] * steps
        values -= missed[:, None] * factors[:, place]  # what was rounded before has no share in this row
    return codes.to(torch.int8).numpy()


def _factors(hessian: Hessian, weight: Floats, damping: float) -> list[Tensor]:
    """Return `_factor` of each block."""
    inputs = sum(len(block) for block in hessian.blocks)
    if inputs != weight.shape[1]:
        raise _invalid(f"The Hessian has {inputs} inputs, the weights {weight.shape[1]}.")
    return [_factor(block, damping).float() for block in hessian.blocks]


def _factor(hessians: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor U of the inverse (U^T U), rows divided by their diagonal: [..., in, in]."""
    if not bool(torch.isfinite(hessians).all()):
        raise _invalid("The Hessian holds NaN or infinity.")
    share = damping * hessians.diagonal(dim1=-2, dim2=-1).mean(-1).double()
    # Inputs that were never anything but zero carry no errors on.
    share = torch.where(share == 0, 1.0, share)[..., None, None]
    damped = hessians.double() + share * torch.eye(hessians.shape[-1], dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if bool(failed.any()):
        raise _invalid("The Hessian cannot be factored, for it is not positive.")
    upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper / upper.diagonal(dim1=-2, dim2=-1)[..., None]


@torch.inference_mode()
def _feed_errors(weight: Floats, steps: Tensor, factors: list[Tensor], levels: int) -> NDArray[np.int8]:
    """Return codes int8 [out, in].

    Args:
        weight: [out, in].
        steps: [out, groups], what a code of a group is worth.
        factors: See `_factors`.
        levels: Largest code.
    """
    codes = np.empty(weight.shape, np.int8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps this small spend more time waiting for each other than they save
    try:
        _round_rows(weight, steps, factors, levels, codes)
    finally:
        torch.set_num_threads(threads)
    return codes


def _round_rows(weight: Floats, steps: Tensor, factors: list[Tensor], levels: int, codes: NDArray[np.int8]) -> None:
    width = weight.shape[1] // steps.shape[1]
    for first in range(0, len(weight), _ROWS):
        rows = slice(first, first + _ROWS)
        # Inputs first: one input of all outputs lies in one piece.
        values = torch.from_numpy(np.ascontiguousarray(weight[rows].T))
        worth = steps[rows].T.contiguous()
        start = 0
        for factor in factors:
            _round_block(values[start : start + len(factor)], worth, start, width, factor, levels)
            start += len(factor)
        codes[rows] = values.T.numpy()


def _round_block(values: Tensor, worth: Tensor, offset: int, width: int, factor: Tensor, levels: int) -> None:
    """Replace the values [b, rows] of one block by their codes."""
    size = len(values)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        missed = torch.empty(stop - start, values.shape[1])
        for place in range(start, stop):
            step, error = worth[(offset + place) // width], missed[place - start]
            value = values[place]
            code = torch.div(value, step).round_().clamp_(-levels, levels)
            torch.addcmul(value, code, step, value=-1, out=error)
            value.copy_(code)
            if place + 1 < stop:
                values[place + 1 : stop].addr_(factor[place, place + 1 : stop], error, alpha=-1)
        if stop < size:
            values[stop:].addmm_(factor[start:stop, stop:].T, missed, alpha=-1)


def _invalid(message: str) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID, message, "Collect it from the inputs of this unit, with these rewrites."
    )
