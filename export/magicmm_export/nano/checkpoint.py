"""A checkpoint of the built-in model as its builder takes it: what was trained, once the rest is what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file

from magicmm.errors import ErrorCode, MagicError
from magicmm_export.graph import Array
from magicmm_export.nano.base import read_encoder
from magicmm_export.nano.efficientnet import Network
from magicmm_export.nano.student import READ_VIEWS, Student
from magicmm_model.nano.model import NanoModel
from magicmm_model.nano.storing import load_nano

_ADAPTERS = (".down", ".up")
_REMEDY = "Give a checkpoint that was trained from `python -m magicmm_export.nano.base` with the pinned packages."


@dataclass(frozen=True)
class Checkpoint:
    """A model whose frozen parts are those of the pinned packages.

    Attributes:
        model: In torch, the truth that graphs are checked against.
        encoder: The pretrained encoder, by the names of BERT.
    """

    model: NanoModel
    encoder: Mapping[str, Array]

    @property
    def bank(self) -> Array:
        """The concept bank [classes, width]."""
        vectors: Array = self.model.bank.vectors.numpy()
        return vectors

    def student(self, peaks: Mapping[str, Array] | None, views: int = READ_VIEWS) -> Student:
        """Return what graphs are written from; with peaks they are int8."""
        connector, layers = self.model.connector, self.model.encoder.layers.state_dict()
        scale = connector.log_scale.detach().exp()
        return Student(
            self.model.config,
            self.encoder,
            peaks,
            {name: tensor.numpy() for name, tensor in layers.items() if name.endswith(_ADAPTERS)},
            (connector.table.detach() * scale).numpy(),
            connector.shift.detach().numpy(),
            views,
        )


def read_checkpoint(folder: Path, network: Network, weights: Path) -> Checkpoint:
    """Load a checkpoint and compare its frozen parts with the packages, number by number.

    Args:
        folder: The checkpoint.
        network: The vision network, whose classifier the connector begins with.
        weights: The safetensors file of the pretrained encoder.

    Raises:
        MagicError: `checkpoint_invalid` when it cannot be read, or was trained from something else.
    """
    model = load_nano(folder).eval()
    pretrained = NanoModel(model.config)
    read_encoder(pretrained, weights)
    wanted = {
        f"encoder.{name}": tensor
        for name, tensor in pretrained.encoder.state_dict().items()
        if not name.endswith(_ADAPTERS)
    }
    wanted["connector.classifier.weight"] = torch.from_numpy(network.classes)
    wanted["connector.classifier.bias"] = torch.from_numpy(network.class_bias)
    state = model.state_dict()
    differing = sorted(name for name, tensor in wanted.items() if not torch.equal(state[name], tensor))
    if differing:
        raise MagicError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{folder} changes what is frozen: {', '.join(differing[:5])}{' and more' if len(differing) > 5 else ''}.",
            _REMEDY,
        )
    return Checkpoint(model, load_file(weights))
