"""A checkpoint's weights, rewritten so that they round better: the same function, proven in float32 by the tests.

Everything that only scales, shifts or rotates goes into a matrix beside it (issue 4): pixel normalisation, LayerScale,
norm gains and biases, a Hadamard rotation of the language model's residual stream, and smoothing scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.naming import tensor_shapes
from magicmm_model.vision import IMAGE_MEAN, IMAGE_STD, resize_positions
from magicmm_quant.units import PATCHES, unit_plans, unit_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_quant.hadamard import Rotation
    from magicmm_quant.units import Feed, Plan

    Floats = NDArray[np.float32]

_NO_SMOOTHING: Mapping[str, Floats] = MappingProxyType({})
_STEP = 512
"""Rows or columns that are rotated at a time: a transposed copy of a whole matrix would double the peak."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`.

    Attributes:
        weight: float32 [out, in].
        bias: float32 [out], or None.
    """

    weight: Floats
    bias: Floats | None


class RewrittenWeights:
    """Reads a unit when it is asked for and keeps nothing of it, so that 2B needs the memory of its largest unit."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        rotation: Rotation | None,
        smoothing: Mapping[str, Floats] = _NO_SMOOTHING,
    ) -> None:
        """Check that rotation and smoothing fit the model; no values are read yet.

        Args:
            checkpoint: Where the tensors lie.
            config: The variant that is exported; its tile side decides the position table.
            rotation: Of the language model's residual stream, or None.
            smoothing: By unit: a positive vector [in] that the columns are multiplied by and the producer is divided
                by. Query heads that share a value head must share its numbers (unit `language.layers.{i}.o`).

        Raises:
            MagicError: `argument_invalid`, which lists everything that does not fit.
        """
        self._checkpoint = checkpoint
        self._config = config
        self._rotation = rotation
        self._plans = unit_plans(config)
        self._shapes = unit_shapes(config)
        self._tensors = tensor_shapes(config).keys()
        self._readers = {plan.norm: unit for unit, plan in self._plans.items() if plan.norm}
        self._smoothing = {unit: np.asarray(scales, np.float32) for unit, scales in smoothing.items()}
        problems = [problem for unit in self._smoothing for problem in self._smoothing_problems(unit)]
        if rotation and rotation.size != config.dim:
            problems.insert(0, f"the rotation has the size {rotation.size}, the residual stream {config.dim}")
        if problems:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The rewrites do not fit the model: {'; '.join(problems)}.",
                "Compute rotation and smoothing from the config of this model.",
            )

    def unit_names(self) -> list[str]:
        """Return all units in graph order, without the token table."""
        return [PATCHES, *self._plans]

    def linear(self, unit: str) -> Linear:
        """Return a unit, merged and rewritten.

        `vision.patches` reads raw pixel values 0 to 255, one patch after the other in the order (row, column, channel).
        It has no bias: `positions` holds it.

        Raises:
            MagicError: `checkpoint_invalid` when a tensor holds NaN or infinity; `argument_invalid` for another name.
        """
        if unit == PATCHES:
            return Linear(self._patches()[0], None)
        plan = self._plans.get(unit)
        if plan is None:
            raise _unknown("unit", unit)
        weight, bias = self._merged(plan, self._shapes[unit])
        if plan.norm:
            shift = self._read(f"{plan.norm}.bias") if f"{plan.norm}.bias" in self._tensors else None
            if shift is not None:
                bias = weight @ shift if bias is None else bias + weight @ shift
            weight *= self._read(f"{plan.norm}.weight")
        if plan.reads_stream and self._rotation:
            _rotate_rows(weight, self._rotation)
        if unit in self._smoothing:
            weight *= self._smoothing[unit]
        if plan.layer_scale:
            scale = self._read(plan.layer_scale)
            weight *= scale[:, None]
            bias = None if bias is None else bias * scale
        if plan.writes_stream and self._rotation:
            _rotate_columns(weight, self._rotation)
            bias = None if bias is None else self._rotation.apply(bias)
        if plan.feed and plan.feed.unit in self._smoothing:
            _divide_rows(weight, bias, plan.feed, self._smoothing[plan.feed.unit])
        return Linear(weight, bias)

    def norm(self, name: str) -> tuple[Floats, Floats | None]:
        """Return what is left of a norm after its gain and bias went into the unit behind it.

        Args:
            name: `vision.layers.{i}.norm1` or `.norm2`, `connector.layer_norm`, `language.layers.{i}.input_layernorm`
                or `.post_attention_layernorm`.

        Returns:
            The gain [in] (ones, or one over the smoothing scales), and the bias: zeros [in], or None for an RMSNorm.
        """
        unit = self._readers.get(name)
        if unit is None:
            raise _unknown("norm", name)
        gain = np.ones(self._shapes[unit][1], np.float32)
        if unit in self._smoothing:
            gain /= self._smoothing[unit]
        return gain, np.zeros_like(gain) if f"{name}.bias" in self._tensors else None

    def positions(self) -> Floats:
        """Return what is added to the patches: [1 + grid x grid, hidden].

        Row 0 is the class token, embedding and position; the others hold the bias of the patches, too.
        """
        table = torch.from_numpy(self._read("vision.position_embedding"))
        if self._config.vision.grid != self._checkpoint.config.vision.grid:
            table = resize_positions(table, self._config.vision.grid)
        rows: Floats = table[0].numpy()
        rows[0] += self._read("vision.class_embedding").reshape(-1)
        rows[1:] += self._patches()[1]
        return rows

    def tokens(self, start: int, stop: int) -> Floats:
        """Return rows of the token table, rotated: [stop - start, dim]. Only these are read."""
        name = "language.embed_tokens.weight"
        rows = _finite(name, self._checkpoint.read_rows(name, start, stop))
        if self._rotation:
            _rotate_rows(rows, self._rotation)
        return rows

    def closing(self) -> Floats:
        """Return what comes after the language model's last norm, which itself keeps no gain.

        Returns:
            The gain [dim], to multiply by; or, with a rotation, a matrix [dim, dim] for `hidden @ closing`, which
            takes the rotation out and multiplies by the gain.
        """
        gain = self._read("language.norm.weight")
        if self._rotation is None:
            return gain
        return self._rotation.undo(np.eye(self._config.dim, dtype=np.float32)) * gain

    def _merged(self, plan: Plan, shape: tuple[int, int]) -> tuple[Floats, Floats | None]:
        weight = np.empty(shape, np.float32)
        biases: list[Floats] = []
        start = 0
        for part in plan.parts:
            values = self._read(f"{part}.weight")
            weight[start : start + len(values)] = values
            start += len(values)
            if f"{part}.bias" in self._tensors:
                biases.append(self._read(f"{part}.bias"))
        return weight, np.concatenate(biases) if biases else None

    def _patches(self) -> tuple[Floats, Floats]:
        """Return weight [hidden, patch x patch x 3] and bias [hidden] for raw pixel values."""
        kernel = self._read("vision.patch_embedding.weight").transpose(0, 2, 3, 1)
        mean, deviation = np.array(IMAGE_MEAN), np.array(IMAGE_STD)
        shift = kernel.sum(axis=(1, 2), dtype=np.float64) @ (mean / deviation)
        bias = self._read("vision.patch_embedding.bias") - shift
        weight = kernel * (1 / (255 * deviation)).astype(np.float32)
        return weight.reshape(len(weight), -1), bias.astype(np.float32)

    def _read(self, name: str) -> Floats:
        return _finite(name, self._checkpoint.read(name))

    def _smoothing_problems(self, unit: str) -> list[str]:
        plan, scales = self._plans.get(unit), self._smoothing[unit]
        feed = next((other.feed for other in self._plans.values() if other.feed and other.feed.unit == unit), None)
        if plan is None or not (plan.norm or feed):
            return [f"{unit} cannot be smoothed, for nothing in front of it can be divided"]
        if scales.shape != self._shapes[unit][1:]:
            return [f"the smoothing of {unit} has the shape {list(scales.shape)}, not [{self._shapes[unit][1]}]"]
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            return [f"the smoothing of {unit} is not positive and finite"]
        if feed and np.ptp(scales.reshape(-1, feed.copies, feed.width), axis=1).any():
            return [f"the smoothing of {unit} differs between heads that share a value head"]
        return []


def _rotate_rows(weight: Floats, rotation: Rotation) -> None:
    """Inputs x become x @ Q: the weight times Q, in place."""
    for start in range(0, len(weight), _STEP):
        weight[start : start + _STEP] = rotation.apply(weight[start : start + _STEP])


def _rotate_columns(weight: Floats, rotation: Rotation) -> None:
    """Outputs y become y @ Q: Q.T times the weight, in place."""
    for start in range(0, weight.shape[1], _STEP):
        columns = weight[:, start : start + _STEP]
        columns[...] = rotation.apply(np.ascontiguousarray(columns.T)).T


def _divide_rows(weight: Floats, bias: Floats | None, feed: Feed, scales: Floats) -> None:
    """Divide what another unit multiplies; heads that share rows have the same scales."""
    own = scales.reshape(-1, feed.copies, feed.width)[:, 0].reshape(-1)
    rows = slice(feed.start, feed.start + len(own))
    weight[rows] /= own[:, None]
    if bias is not None:
        bias[rows] /= own


def _finite(name: str, tensor: torch.Tensor) -> Floats:
    """Return the values as float32, which they must fit in."""
    values: Floats = tensor.float().numpy()
    # Both carry a NaN on, and neither needs a second array.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise MagicError(
            ErrorCode.CHECKPOINT_INVALID,
            f"The tensor {name} holds NaN or infinity.",
            "Copy the checkpoint again; if it stays so, its training went wrong.",
        )
    return values


def _unknown(what: str, name: str) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID, f"This model has no {what} {name}.", "Take a name that `unit_plans` gives."
    )
