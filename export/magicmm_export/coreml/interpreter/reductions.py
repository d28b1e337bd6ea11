"""Operators that reduce along axes, from their formulas in the MIL specification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicmm_export.coreml.interpreter.registry import Arguments, implements


@implements("reduce_mean")
def _reduce_mean(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), given.ints("axes")
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return x.sum(axes, keepdim=given.flag("keep_dims")) / count


@implements("reduce_sum")
def _reduce_sum(given: Arguments) -> Tensor:
    return given.tensor("x").sum(given.ints("axes"), keepdim=given.flag("keep_dims"))


@implements("reduce_max")
def _reduce_max(given: Arguments) -> Tensor:
    return given.tensor("x").amax(given.ints("axes"), keepdim=given.flag("keep_dims"))


@implements("reduce_l2_norm")
def _reduce_l2_norm(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return (x * x).sum(given.ints("axes"), keepdim=given.flag("keep_dims")) ** 0.5


@implements("softmax")
def _softmax(given: Arguments) -> Tensor:
    x, axis = given.tensor("x"), given.integer("axis")
    powers = torch.exp(x - x.amax(axis, keepdim=True))
    return powers / powers.sum(axis, keepdim=True)


@implements("topk")
def _topk(given: Arguments) -> Sequence[Tensor]:
    """Return values and places; where values are equal, which place comes first is left to the device."""
    for name, wanted in (("ascending", False), ("return_indices", True), ("sort", True)):
        given.require(name, wanted)
    x, axis, count = given.tensor("x"), given.integer("axis"), given.integer("k")
    found = torch.sort(x, dim=axis, descending=True, stable=True)
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)


@implements("layer_norm")
def _layer_norm(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), given.ints("axes")
    shape = [side if place in {axis % x.ndim for axis in axes} else 1 for place, side in enumerate(x.shape)]
    centred = x - x.mean(axes, keepdim=True)
    normed = centred / ((centred * centred).mean(axes, keepdim=True) + given.number("epsilon")) ** 0.5
    if given.has("gamma"):
        normed = normed * given.tensor("gamma").reshape(shape)
    if given.has("beta"):
        normed = normed + given.tensor("beta").reshape(shape)
    return normed
