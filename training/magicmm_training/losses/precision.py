"""Vectors as they will be stored, with gradients as if they had not been rounded (straight-through)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-30
"""Keeps a row of zeros at zero; no row of a trained model comes near."""


def stored(vectors: Tensor, precision: Literal["int8", "binary"]) -> Tensor:
    """Return what comes back from storage; the gradient reaches `vectors` unchanged.

    "int8" is `magicmm.quantise` (the index of every SDK): whole multiples of the row's largest number / 127, scaled to
    length 1. "binary" keeps signs, 1 / sqrt(d) where a number is positive and -1 / sqrt(d) elsewhere, so that scores
    are 1 - 2 x (bits that differ) / d.

    Args:
        vectors: Unit rows [n, d].
        precision: How they are stored.

    Returns:
        Unit rows [n, d].
    """
    return _StraightThrough.apply(vectors, precision)  # type: ignore[no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, precision: Literal["int8", "binary"]) -> Tensor:
        return _int8(vectors) if precision == "int8" else _binary(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def _int8(vectors: Tensor) -> Tensor:
    peaks = vectors.abs().amax(1, keepdim=True).clamp_min(_TINY)
    codes = torch.round(vectors * (127 / peaks))  # half to even, as in the contract
    return codes * torch.rsqrt(codes.square().sum(1, keepdim=True).clamp_min(_TINY))


def _binary(vectors: Tensor) -> Tensor:
    size = vectors.shape[1] ** -0.5
    signs = torch.where(vectors > 0, size, -size).to(vectors.dtype)
    return torch.where(vectors.isnan(), vectors, signs)  # NaN has no sign, and must stop the run
