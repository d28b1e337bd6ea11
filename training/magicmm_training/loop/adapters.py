"""LoRA by peft on the linear layers of a model's parts, and merging it into the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from magicmm_model.model import MagicModel
    from magicmm_training.recipe import Lora

_ADAPTER = "default"
_BASE, _DOWN, _UP = ".base_layer.", f".lora_A.{_ADAPTER}.", f".lora_B.{_ADAPTER}."


def add_adapters(model: MagicModel, lora: Lora) -> list[str]:
    """Put adapters on the linear layers of the parts; everything else is frozen.

    The first matrix of an adapter is drawn from torch's generator, the second is zero: the model computes what it did.
    The output matrix of next-token logits gets none: vectors do not pass through it.

    Returns:
        The names of the layers that got one.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in lora.parts and not name.endswith("lm_head")
    ]
    alpha: Any = lora.alpha  # only divided by the rank; peft's annotation wants whole numbers
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=names, bias="none")
    inject_adapter_in_model(config, model, _ADAPTER)
    for name, parameter in model.named_parameters():
        adapter = _DOWN in name or _UP in name
        parameter.requires_grad_(adapter)
        if adapter:
            parameter.data = parameter.data.float()
    return names


def merged_tensors(tensors: Mapping[str, Tensor], lora: Lora | None) -> Mapping[str, Tensor]:
    """Return the parameters of the model without adapters: each adapted weight plus alpha / rank x up @ down.

    Args:
        tensors: All parameters by name, adapters among them; float32 or bfloat16.
        lora: The adapters' settings; without them nothing is merged.

    Returns:
        Parameters by their names in `MagicModel`. Adapted weights are float32: rounding them to bfloat16 would lose
        most of what was learnt.
    """
    if lora is None:
        return tensors
    merged = {}
    for name, tensor in tensors.items():
        if _DOWN in name or _UP in name:
            continue
        down = tensors.get(name.replace(_BASE, _DOWN)) if name.endswith(f"{_BASE}weight") else None
        if down is not None:
            up = tensors[name.replace(_BASE, _UP)]
            tensor = tensor.float() + up.float() @ down.float() * (lora.alpha / lora.rank)
        merged[name.replace(_BASE, ".")] = tensor
    return merged


def count_trained(model: nn.Module) -> tuple[int, int]:
    """Return how many numbers are trained, and how many there are."""
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return trained, sum(one.numel() for one in model.parameters())


def train_parameters(model: MagicModel, lora: Lora | None, dtype: torch.dtype) -> None:
    """Choose what is trained, and the types of parameters.

    What is trained is float32. What is frozen stays as it was loaded under bfloat16, to save memory, and becomes
    float32 otherwise.

    Args:
        model: Changed in place.
        lora: Adapters; None trains all parameters.
        dtype: Of the forward pass.
    """
    if lora is None:
        model.requires_grad_(True)
        model.float()
    else:
        if dtype == torch.float32:
            model.float()
        add_adapters(model, lora)
