"""A checkpoint folder to a model in memory, one tensor at a time."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head
from magicmm_model.model import MagicModel
from magicmm_model.vision import resize_positions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_POSITIONS = "vision.position_embedding"


def load_model(
    checkpoint: Checkpoint | Path | str,
    *,
    dtype: torch.dtype | None = None,
    compression: int | None = None,
    image_size: int | None = None,
    head: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> MagicModel:
    """Load a model for inference (`eval`, no gradients until asked for).

    Args:
        checkpoint: A folder of either layout, or an open `Checkpoint`.
        dtype: Type of the weights in memory; None = as stored, or the widest when the checkpoint mixes types.
        compression: 2 = 64 visual tokens a tile, 1 = vanilla 256; None = what the checkpoint says, else 2.
        image_size: Side of a tile, for example 224; position embeddings are interpolated as InternVL does. None = as
            stored.
        head: Also load what next-token logits need.
        device: Where to put the weights.
        progress: Called with (tensors loaded, tensors in all).

    Returns:
        The model. Beside it, memory holds at most one tensor and its conversion.

    Raises:
        MagicError: See `Checkpoint.open`; `argument_invalid` for `head=True` without a stored head, or a variant whose
            sizes do not divide.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    stored = checkpoint.config
    if head and stored.head is Head.NONE:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{checkpoint.folder} is a pure embedder without a head for next-token logits.",
            "Load the checkpoint of the restoration stage, or pass head=False.",
        )
    kept = stored.head if head else Head.NONE
    config = stored.variant(compression=compression, image_size=image_size, head=kept)
    with torch.device("meta"):
        model = MagicModel(config)
    names = [name for name, _ in model.named_parameters()]
    dtype = dtype or reduce(torch.promote_types, map(checkpoint.dtype, names))
    for count, name in enumerate(names, start=1):
        tensor = checkpoint.read(name)
        if name == _POSITIONS and config.vision.grid != stored.vision.grid:
            tensor = resize_positions(tensor, config.vision.grid)
        _put(model, name, tensor.to(device=device, dtype=dtype))
        if progress:
            progress(count, len(names))
    return model.requires_grad_(False).eval()


def _put(model: MagicModel, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter without memory by one with values."""
    module_name, _, own_name = name.rpartition(".")
    module = model.get_submodule(module_name)
    setattr(module, own_name, torch.nn.Parameter(tensor, requires_grad=False))
