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
    for name, wanted in (("pad_type", "valid"), ("dilations", [1] * len(strides)), ("groups", 1)):
        given.require(name, wanted)
    windows = _windows(given.tensor("x"), list(weight.shape[2:]), strides)
    count = len(strides)
    # [n, channels, *places, *kernel] x [out, channels, *kernel] -> [n, *places, out]
    kernel = list(range(2 + count, 2 + 2 * count))
    product = torch.tensordot(windows, weight, ([1, *kernel], [1, *range(2, 2 + count)]))
    result = product.movedim(-1, 1)
    return result + given.tensor("bias").reshape(-1, *[1] * count) if given.has("bias") else result


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
