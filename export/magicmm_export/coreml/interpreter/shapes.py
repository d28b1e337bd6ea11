"""Operators that move values and change none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.interpreter.registry import Arguments, implements


@implements("reshape")
def _reshape(given: Arguments) -> Tensor:
    shape = given.ints("shape")
    if 0 in shape:
        raise given.unsupported(f"shape is {shape}")
    return given.tensor("x").reshape(shape)


@implements("transpose")
def _transpose(given: Arguments) -> Tensor:
    return given.tensor("x").permute(given.ints("perm"))


@implements("expand_dims")
def _expand_dims(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), given.ints("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@implements("concat")
def _concat(given: Arguments) -> Tensor:
    given.require("interleave", False)
    return torch.cat(given.tensors("values"), given.integer("axis"))


@implements("split")
def _split(given: Arguments) -> Sequence[Tensor]:
    x, axis = given.tensor("x"), given.integer("axis")
    if given.has("split_sizes"):
        return torch.split(x, given.ints("split_sizes"), axis)
    return torch.split(x, x.shape[axis] // given.integer("num_splits"), axis)


@implements("tile")
def _tile(given: Arguments) -> Tensor:
    return given.tensor("x").repeat(given.ints("reps"))


@implements("slice_by_index")
def _slice_by_index(given: Arguments) -> Tensor:
    x, begin, end = given.tensor("x"), given.ints("begin"), given.ints("end")
    steps = given.ints("stride") if given.has("stride") else [1] * x.ndim
    open_begin, open_end, single = (
        given.ints(name) if given.has(name) else [0] * x.ndim for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    if min(steps) < 1:
        raise given.unsupported(f"stride is {steps}")
    places = tuple(
        begin[axis]
        if single[axis]
        else slice(None if open_begin[axis] else begin[axis], None if open_end[axis] else end[axis], steps[axis])
        for axis in range(x.ndim)
    )
    return x[places]


@implements("gather")
def _gather(given: Arguments) -> Tensor:
    given.require("batch_dims", 0)
    x, places = given.tensor("x"), given.tensor("indices")
    axis = given.integer("axis") % x.ndim
    # Since iOS 17 negative places are out of bounds, and what a device then reads is undefined.
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < x.shape[axis]:
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"gather ({given.name}) reads place {places.tolist()} of an axis of {x.shape[axis]}.",
            "Give `last` and `before` within the bucket.",
        )
    return x[(slice(None),) * axis + (places,)]
