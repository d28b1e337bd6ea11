"""How a runtime computes the parts of the built-in model; and all of them in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition.norms import Norms
from magicmm_export.nano.quantise import Grid
from magicmm_export.nano.stored import Floats, StoredConv, StoredLinear, StoredTable


@dataclass(frozen=True, slots=True)
class Layers:
    """How a runtime computes the parts of the towers.

    Attributes:
        conv: [n, in, h, w] -> [n, out, h', w'], clipped where the stored one says so.
        stored: Values as they are kept between convolutions: codes of a grid, or the values themselves.
        loaded: The values of what was kept. Every reader has a node of its own, or XNNPACK finds no whole.
        linear: [..., in] -> [..., out]; the balance is not its business.
        table: Whole numbers [n, s] -> [n, s, width].
        norms: The form of norms.
    """

    conv: Callable[[StoredConv], nn.Module]
    stored: Callable[[Grid], nn.Module]
    loaded: Callable[[Grid], nn.Module]
    linear: Callable[[StoredLinear], nn.Module]
    table: Callable[[StoredTable], nn.Module]
    norms: Norms


class FloatConv(nn.Module):
    """A convolution in float32, with the weights that int8 has left."""

    def __init__(self, stored: StoredConv) -> None:
        """Keep the weights as floats."""
        super().__init__()
        self.weight, self.bias = parameter(stored.weight), parameter(stored.bias)
        self.stride, self.padding, self.groups = stored.stride, stored.padding, stored.groups
        self.clips = stored.clips

    def forward(self, values: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h', w']."""
        found = functional.conv2d(values, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return functional.relu6(found) if self.clips else found


def float_linear(stored: StoredLinear) -> nn.Module:
    """Return a product in float32."""
    return linear_of(parameter(stored.weight), stored)


def linear_of(weight: nn.Parameter, stored: StoredLinear) -> nn.Linear:
    """Return a linear layer with a weight [out, in] of any kind, and the stored bias."""
    with torch.device("meta"):
        layer = nn.Linear(stored.codes.shape[1], len(stored.codes))
    layer.weight, layer.bias = weight, parameter(stored.bias)
    return layer


def float_table(stored: StoredTable) -> nn.Module:
    """Return rows in float32."""
    with torch.device("meta"):
        table = nn.Embedding(*stored.codes.shape)
    table.weight = parameter(stored.rows)
    return table


def float_layers(norms: Norms) -> Layers:
    """Return layers that round nothing."""
    return Layers(FloatConv, _as_it_is, _as_it_is, float_linear, float_table, norms)


def _as_it_is(_: Grid) -> nn.Module:
    return nn.Identity()


def parameter(values: Floats) -> nn.Parameter:
    """Return constant weights."""
    return nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)
