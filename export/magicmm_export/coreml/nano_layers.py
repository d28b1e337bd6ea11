"""The parts of the built-in model as Core ML stores them in 8 bits: with the codes that the bundle has.

coremltools' own rounding takes the largest weight of a channel for 127. The builder's convolutions have 7 bits, up to
64 (docs/decisions/0003), and to round them once more loses as much again. Modules may bring their scales instead.
"""

from __future__ import annotations

import torch
from torch import nn

from magicmm_export.decomposition import Norms
from magicmm_export.nano.layers import FloatConv, Layers, float_layers, float_linear, float_table
from magicmm_export.nano.stored import Floats, StoredConv, StoredLinear, StoredTable

_NOTES = "_COREML_/weight/"
"""What names of buffers begin with that tell coremltools how a weight is stored."""
_QUANTISED = 3
"""coremltools' number for scales without a palette."""


def coded_layers() -> Layers:
    """Return layers in float16 whose weights keep their codes."""
    plain = float_layers(Norms.HALF)
    return Layers(_conv, plain.stored, plain.loaded, _linear, _table, plain.norms)


def _conv(stored: StoredConv) -> nn.Module:
    return _noted(FloatConv(stored), stored.scales, 4)


def _linear(stored: StoredLinear) -> nn.Module:
    return _noted(float_linear(stored), stored.scales, 2)


def _table(stored: StoredTable) -> nn.Module:
    return _noted(float_table(stored), stored.scales, 2)


def _noted(module: nn.Module, scales: Floats, rank: int) -> nn.Module:
    """Note that `weight`, of a rank, is codes times one scale for each of its slices."""
    notes = {
        "compression_type": torch.tensor([_QUANTISED]),
        "quantization_n_bits": torch.tensor(8),
        "quantization_scale": torch.from_numpy(scales.copy()).reshape(-1, *[1] * (rank - 1)),
    }
    for name, value in notes.items():
        module.register_buffer(_NOTES + name, value)
    return module
