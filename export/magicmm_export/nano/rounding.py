"""Calibrated rounding of convolutions: what each of them reads, and codes that keep what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from magicmm_export.graph import Array
from magicmm_export.nano.efficientnet import Conv
from magicmm_quant.calibration import Hessian
from magicmm_quant.rounding import round_codes, round_depthwise

DAMPING = 0.03
"""Least error of the map of .003, .01, .03 and .1 (docs/decisions/0003-nano-graphs.md)."""


@dataclass(slots=True)
class ConvInputs:
    """What the weights of a convolution were multiplied by, zeros of the padding too.

    Depthwise convolutions have a group for each channel, all others one.

    Attributes:
        rows: How many places were looked at.
        totals: float64 [groups, k], k = channels of a group x kernel x kernel.
        products: float64 [groups, k, k].
    """

    rows: int = 0
    totals: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    products: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, conv: Conv, values: Array) -> None:
        """Count what the convolution reads of maps [n, channels, h, w]."""
        for picture in torch.split(torch.from_numpy(values), 1):  # places of all at once would need gigabytes
            places = _places(conv, picture)
            self.rows += places.shape[2]
            self.totals = self.totals + places.sum(2, dtype=torch.float64)
            self.products = self.products + (places @ places.mT).double()

    @property
    def means(self) -> NDArray[np.float32]:
        """float32 [groups, k]."""
        found: NDArray[np.float32] = (self.totals / self.rows).float().numpy()
        return found

    def round(self, conv: Conv, scales: Array, levels: int) -> Array:
        """Return codes int8 of the convolution's weights, as they are shaped.

        Args:
            conv: The one that read all this.
            scales: float32 [out].
            levels: Largest code.
        """
        means = self.totals / self.rows
        # Of what varies: the mean of the error goes into the bias.
        spread = self.products / self.rows - means[:, :, None] * means[:, None]
        weight = conv.weight.reshape(len(conv.weight), -1)
        if conv.groups > 1:
            codes = round_depthwise(weight, scales, levels, spread, DAMPING)
        else:
            # What says most is rounded first: more is left that can make up for it.
            order = spread[0].diagonal().argsort(descending=True, stable=True)
            codes = np.empty(weight.shape, np.int8)
            hessian = Hessian(self.rows, [spread[0][order][:, order].float()])
            codes[:, order] = round_codes(weight[:, order], scales, levels, hessian, DAMPING)
        return codes.reshape(conv.weight.shape)


def _places(conv: Conv, picture: Tensor) -> Tensor:
    """Return what the weights are multiplied by at each place of a map: [1, c, h, w] -> [groups, k, places]."""
    top, left, bottom, right = conv.pads
    padded = functional.pad(picture, (left, right, top, bottom))
    columns = functional.unfold(padded, conv.weight.shape[-1], stride=conv.stride)
    return columns.view(conv.groups, -1, columns.shape[-1])
