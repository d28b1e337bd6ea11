"""Training against rounded weights, so that int8 or int4 loses less afterwards.

A linear layer computes y = x W'. Here it computes y = x round(W)', while gradients treat the rounding as if it were not
there (straight-through). Written as y = x W' + x E' with the constant E = round(W) - W, this is one product added to
the layer's own result, so a hook does it: names and types of parameters stay, optimisers, sharding and checkpoints see
nothing, and what is saved are the weights before rounding.

With LoRA, W is what the adapters will be merged to: E = round(W0 + s B A) - (W0 + s B A). Rounding W0 alone would train
the adapters against an error that merging replaces by another one. Adapter dropout acts on the adapters' own product;
the error sees the whole input.

Rounding is plain: no rotation, smoothing or calibration, which exporters apply to the finished model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.hooks import RemovableHandle

_GROUP = 128
"""Inputs that share an int4 multiplier, or fewer: the largest number up to this that divides them all."""
_LEVELS_8, _LEVELS_4, _MOST_MULTIPLIER = 127, 7, 18
_TINY = 1e-30
_UNTOUCHED = ("lm_head",)
"""Linear layers that no bundle holds: the head speaks only in training, to the judge and to the reranker."""


class QuantisedForward:
    """The hooks of a model that trains against rounded weights.

    Attributes:
        layers: Names of the layers that are rounded.
    """

    def __init__(self, layers: Sequence[str], handles: Sequence[RemovableHandle]) -> None:
        """Hold on to what `remove` takes away."""
        self.layers = tuple(layers)
        self._handles = tuple(handles)

    def remove(self) -> None:
        """Let the model compute with its own weights again; calling it twice is fine."""
        for handle in self._handles:
            handle.remove()


def quantise_forward(model: nn.Module, kind: Literal["int8", "int4"]) -> QuantisedForward:
    """Make all linear layers but the head compute with rounded weights; in place.

    Call it after adapters are in place, before the model is wrapped for many processes.

    Args:
        model: With or without LoRA by peft.
        kind: "int8" = one scale an output channel; "int4" = groups of at most 128 inputs.

    Raises:
        MagicError: `argument_invalid` when the model has no linear layer.
    """
    found = list(_layers(model))
    if not found:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "The model has no linear layer that could be trained against rounded weights.",
            "Leave quantised_forward out of the recipe.",
        )
    hook = _ErrorHook(kind)
    return QuantisedForward([name for name, _ in found], [layer.register_forward_hook(hook) for _, layer in found])


def rounded(weight: Tensor, kind: Literal["int8", "int4"]) -> Tensor:
    """Return a matrix as it comes back from storage.

    int8 is the export's rounding. int4 has its grid (whole multipliers 1 to 18 of the channel's scale for each group,
    codes -7 to 7), with the smallest multiplier that clips nothing where the export also tries smaller ones.

    Args:
        weight: [out, in].
        kind: As for `quantise_forward`.

    Returns:
        float32 [out, in].
    """
    wide = weight.detach().float()
    if kind == "int8":
        peaks = wide.abs().amax(1, keepdim=True)
        scales = torch.where(peaks > _TINY, peaks / _LEVELS_8, 1)
        return torch.round(wide / scales) * scales
    grouped = wide.view(len(wide), -1, group_size(wide.shape[1]))
    peaks = grouped.abs().amax(2, keepdim=True)
    largest = peaks.amax(1, keepdim=True)
    scales = torch.where(largest > _TINY, largest / (_LEVELS_4 * _MOST_MULTIPLIER), 1)
    steps = scales * torch.ceil(peaks / (scales * _LEVELS_4)).clamp(1, _MOST_MULTIPLIER)
    return (torch.round(grouped / steps).clamp(-_LEVELS_4, _LEVELS_4) * steps).view_as(wide)


def group_size(inputs: int) -> int:
    """Return the largest divisor of `inputs` up to 128."""
    return next(size for size in range(min(_GROUP, inputs), 0, -1) if inputs % size == 0)


class _ErrorHook:
    """Adds x E' to what a layer returned."""

    def __init__(self, kind: Literal["int8", "int4"]) -> None:
        self.kind = kind

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        given: Tensor = inputs[0]
        with torch.no_grad(), torch.autocast(given.device.type, enabled=False):
            weight = _merged(layer)
            error = rounded(weight, self.kind) - weight.float()
        return output + functional.linear(given, error.to(weight.dtype))


def _merged(layer: Any) -> Tensor:
    """Return the weight that a layer stands for once its adapters are merged."""
    base = getattr(layer, "base_layer", layer)
    weight: Tensor = base.weight
    if base is layer or layer.merged or layer.disable_adapters:
        return weight
    wide = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            wide = wide + layer.get_delta_weight(adapter).float()
    return wide


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield linear layers; those with adapters as a whole."""
    if isinstance(getattr(module, "base_layer", module), nn.Linear):
        yield name, module
    elif not hasattr(module, "base_layer"):
        for child_name, child in module.named_children():
            if child_name not in _UNTOUCHED:
                yield from _layers(child, f"{name}.{child_name}" if name else child_name)
