"""The parts of the built-in model in 8 bits, as XNNPACK and ExecuTorch's own kernels compute them.

Convolutions stand between quantize and dequantize with the bundle's own grids. XNNPACK has signed codes: those of a
grid are 128 less than in the ONNX graph, and so is its zero point.
"""

from __future__ import annotations

import numpy as np
import torch

# Importing it defines torch.ops.quantized_decomposed with everything that ExecuTorch adds.
from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition import Norms
from magicmm_export.executorch.model import linear_weight
from magicmm_export.nano.layers import Layers, linear_of, parameter
from magicmm_export.nano.quantise import Grid
from magicmm_export.nano.stored import StoredConv, StoredLinear, StoredTable
from magicmm_quant.schemes import Int8Weights

_SIGNED = 128
_LEAST, _MOST = -128, 127
_OPERATORS = torch.ops.quantized_decomposed


class QuantisedConv(nn.Module):
    """A convolution whose weights are int8 codes, one scale an output channel; its result is rounded behind it."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, stored: StoredConv) -> None:
        """Keep codes and scales as they are."""
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(stored.codes.copy()), persistent=False)
        self.register_buffer("scales", torch.from_numpy(stored.scales.copy()), persistent=False)
        self.register_buffer("zeros", torch.zeros(len(stored.scales), dtype=torch.int64), persistent=False)
        self.bias = parameter(stored.bias)
        self.stride, self.padding, self.groups = stored.stride, stored.padding, stored.groups

    def forward(self, values: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h', w']; the grid behind it clips."""
        weight = _OPERATORS.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -_MOST, _MOST, torch.int8)
        return functional.conv2d(values, weight, self.bias, self.stride, self.padding, 1, self.groups)


class Quantise(nn.Module):
    """Values to codes of a grid."""

    def __init__(self, grid: Grid) -> None:
        """Take the grid over, with signed codes."""
        super().__init__()
        self.grid = _signed(grid)

    def forward(self, values: Tensor) -> Tensor:
        """float32 [...] -> int8 [...]."""
        codes: Tensor = _OPERATORS.quantize_per_tensor(values, *self.grid)
        return codes


class Dequantise(nn.Module):
    """Codes of a grid to values."""

    def __init__(self, grid: Grid) -> None:
        """Take the grid over, with signed codes."""
        super().__init__()
        self.grid = _signed(grid)

    def forward(self, codes: Tensor) -> Tensor:
        """int8 [...] -> float32 [...]."""
        values: Tensor = _OPERATORS.dequantize_per_tensor(codes, *self.grid)
        return values


def _signed(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    """Return scale, zero point, least and most code and their type."""
    return grid.scale, grid.zero - _SIGNED, _LEAST, _MOST, torch.int8


class QuantisedTable(nn.Module):
    """Rows in int8 with a scale each; only those that are looked up become floats."""

    codes: Tensor
    scales: Tensor

    def __init__(self, stored: StoredTable) -> None:
        """Keep codes and scales as they are."""
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(stored.codes.copy()), persistent=False)
        self.register_buffer("scales", torch.from_numpy(stored.scales.copy()), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Whole numbers [n, s] -> float32 [n, s, width]."""
        found: Tensor = _OPERATORS.embedding_byte(self.codes, self.scales, None, -_MOST, _MOST, places)
        return found


def quantised_linear(stored: StoredLinear) -> nn.Module:
    """Return a product with int8 weights; each row that it reads is rounded as it comes."""
    weight = linear_weight(Int8Weights(stored.codes, np.asarray(stored.scales, np.float32)))
    return linear_of(nn.Parameter(weight, requires_grad=False), stored)


def quantised_layers() -> Layers:
    """Return layers in 8 bits."""
    return Layers(QuantisedConv, Quantise, Dequantise, quantised_linear, QuantisedTable, Norms.PRODUCT)
