"""Matrix products and convolutions: sums in float32, from their formulas in the MIL specification.

Convolution and pooling are written as windows and one product, not as torch's operators that the converter began with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicmm_export.coreml.interpreter.registry import Arguments, implements


@implements("linear")
def _linear(given: Arguments) -> Tensor:
    product = given.tensor("x") @ given.tensor("weight").T
    return product + given.tensor("bias") if given.has("bias") else product


@implements("matmul")
def _matmul(given: Arguments) -> Tensor:
    x, y = given.tensor("x"), given.tensor("y")
    if given.flag("transpose_x"):
        x = x.transpose(-1, -2)
    if given.flag("transpose_y"):
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@implements("conv")
def _conv(given: Arguments) -> Tensor:
    weight, strides = given.tensor("weight"), given.ints("strides")
    given.require("dilations", [1] * len(strides))
    windows = _windows(_padded(given, len(strides)), list(weight.shape[2:]), strides)
    groups = given.integer("groups") if given.has("groups") else 1
    if groups == 1:
        result = _dense(windows, weight)
    elif groups == windows.shape[1] == len(weight) and len(strides) == 2:
        result = _by_channel(windows, weight)
    else:
        raise given.unsupported(f"groups is {groups} with {windows.shape[1]} channels in and {len(weight)} out")
    return result + given.tensor("bias").reshape(-1, *[1] * len(strides)) if given.has("bias") else result


def _dense(windows: Tensor, weight: Tensor) -> Tensor:
    """[n, channels, *places, *kernel] x [out, channels, *kernel] -> [n, out, *places]."""
    count = weight.ndim - 2
    kernel = list(range(2 + count, 2 + 2 * count))
    return torch.tensordot(windows, weight, ([1, *kernel], [1, *range(2, 2 + count)])).movedim(-1, 1)


def _by_channel(windows: Tensor, weight: Tensor) -> Tensor:
    """[n, channels, h, w, *kernel] x [channels, 1, *kernel] -> [n, channels, h, w]."""
    result = torch.zeros(windows.shape[:4])
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            result.addcmul_(windows[..., row, column], weight[:, 0, row, column].reshape(-1, 1, 1))
    return result


def _padded(given: Arguments, count: int) -> Tensor:
    """Return what a convolution reads, with zeros around it."""
    x, kind = given.tensor("x"), given.text("pad_type") if given.has("pad_type") else "valid"
    if kind == "valid":
        return x
    if kind != "custom":
        raise given.unsupported(f"pad_type is {kind}")
    pads = given.ints("pad")  # before and after, axis by axis
    sides = list(x.shape)
    for axis in range(count):
        sides[2 + axis] += pads[2 * axis] + pads[2 * axis + 1]
    padded = x.new_zeros(sides)
    inner = (slice(pads[2 * axis], pads[2 * axis] + x.shape[2 + axis]) for axis in range(count))
    padded[(slice(None), slice(None), *inner)] = x
    return padded


@implements("avg_pool")
def _avg_pool(given: Arguments) -> Tensor:
    sizes, strides = given.ints("kernel_sizes"), given.ints("strides")
    given.require("ceil_mode", False)
    if given.has("pad") and any(given.ints("pad")):
        raise given.unsupported(f"pad is {given.ints('pad')}")
    if given.text("pad_type") not in ("valid", "custom"):
        raise given.unsupported(f"pad_type is {given.text('pad_type')}")
    windows = _windows(given.tensor("x"), sizes, strides)
    return windows.mean(list(range(2 + len(sizes), 2 + 2 * len(sizes))))


def _windows(x: Tensor, sizes: list[int], strides: list[int]) -> Tensor:
    """[n, c, *sides] -> [n, c, *places, *sizes]: every full window."""
    for place, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        x = x.unfold(2 + place, size, stride)
    return x
