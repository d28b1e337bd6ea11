"""Norms in three forms of the same numbers: as torch has them, through a product, and for float16."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST_SQUARE = 1e-24
"""Of a vector's length: `functional.normalize` takes 1e-12 for the length itself."""
_LEAST_PEAK = 1e-4
"""The largest number of a vector whose direction counts, in float16; smaller ones round to 0 there soon."""


class Norms(str, Enum):
    """How means along the last axis are written."""

    NATIVE = "native"
    """`layer_norm`, `rms_norm`: what a runtime makes of them is its own affair."""
    PRODUCT = "product"
    """A matrix product with 1 / n: in float32 only. Back ends without a mean keep the graph in one piece."""
    HALF = "half"
    """Squares of numbers divided by their largest: nothing leaves float16, and rows of zeros stay zeros.

    Core ML's own form of `rms_norm` divides by the largest number, too, but without a lower bound: rows of zeros, which
    fill up a bucket, become NaN, and through attention every other row with them.
    """


class WeightedSum(nn.Module):
    """Sum along the last axis, times a number, as a product."""

    share: Tensor

    def __init__(self, size: int, share: float) -> None:
        """Store the number once for every element."""
        super().__init__()
        self.register_buffer("share", torch.full((1, size), share), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., size] -> [..., 1]."""
        return functional.linear(rows, self.share)


class LayerNorm(nn.Module):
    """A LayerNorm that shares gain and bias with one of torch's."""

    eps: Tensor

    def __init__(self, norm: nn.LayerNorm, form: Norms) -> None:
        """Take the parameters over."""
        super().__init__()
        self.norm = norm
        size = norm.normalized_shape[0]
        self.mean = WeightedSum(size, 1 / size) if form is Norms.PRODUCT else None
        self.is_plain = bool((norm.weight == 1).all() and (norm.bias == 0).all())  # folded: magicmm_quant.weights
        self.register_buffer("eps", torch.tensor([norm.eps]), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        if self.mean is None:
            normed: Tensor = self.norm(rows)
            return normed
        centred = rows - self.mean(rows)
        scaled = centred * torch.rsqrt(self.mean(centred * centred) + self.eps)
        return scaled if self.is_plain else scaled * self.norm.weight + self.norm.bias


class RmsNorm(nn.Module):
    """An RMSNorm with a given gain."""

    eps: Tensor
    root: Tensor

    def __init__(self, gain: nn.Parameter, eps: float, form: Norms) -> None:
        """Take the gain [size] over."""
        super().__init__()
        self.gain = gain
        self.least = eps
        self.is_half = form is Norms.HALF
        self.mean = WeightedSum(len(gain), 1 / len(gain)) if form is Norms.PRODUCT else None
        self.is_plain = bool((gain == 1).all())  # folded, as above
        self.register_buffer("eps", torch.tensor([eps]), persistent=False)
        self.register_buffer("root", torch.tensor([eps**0.5]), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        if self.is_half:
            peak = _peak(rows, self.root)
            scaled, least = rows / peak, self.root / peak
            square = (scaled * scaled).mean(-1, keepdim=True)
            normed = scaled * torch.rsqrt(square + least * least)
            return normed if self.is_plain else normed * self.gain
        if self.mean is None:
            return functional.rms_norm(rows, self.gain.shape, self.gain, self.least)
        scaled = rows * torch.rsqrt(self.mean(rows * rows) + self.eps)
        return scaled if self.is_plain else scaled * self.gain


class UnitLength(nn.Module):
    """Divide rows by their length."""

    least: Tensor

    def __init__(self, size: int, form: Norms) -> None:
        """Prepare for rows of a size."""
        super().__init__()
        self.is_half = form is Norms.HALF
        self.sum = WeightedSum(size, 1.0) if form is Norms.PRODUCT else None
        self.register_buffer("least", torch.tensor([_LEAST_PEAK]), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[n, size] -> [n, size]; a row of zeros stays one."""
        if self.is_half:
            scaled = rows / _peak(rows, self.least)
            square = (scaled * scaled).sum(-1, keepdim=True)
            return scaled * torch.rsqrt(torch.maximum(square, self.least))  # it is at least 1, but for zeros
        if self.sum is None:
            return functional.normalize(rows, dim=-1)
        return rows * torch.rsqrt(self.sum(rows * rows).clamp(min=_LEAST_SQUARE))


def _peak(rows: Tensor, least: Tensor) -> Tensor:
    """Largest magnitude along the last axis, or `least` [1]: [..., size] -> [..., 1]."""
    return torch.maximum(rows.abs().amax(-1, keepdim=True), least)
