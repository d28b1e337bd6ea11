"""What the loop trains: which numbers of a model change, how it is called, and how it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from magicmm_model.config_json import Layout
from magicmm_model.saving import write_checkpoint
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.loop.adapters import merged_tensors, train_parameters
from magicmm_training.loop.forward import TrainableModel
from magicmm_training.loop.fsdp import shard_model
from magicmm_training.loop.recompute import recompute_layers
from magicmm_training.losses.quantised_forward import quantise_forward

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from magicmm_model.model import MagicModel
    from magicmm_training.recipe import TrainingStage


class Trainee(Protocol):
    """A model and what the loop must know of its kind."""

    @property
    def model(self) -> nn.Module:
        """The model; it has a `config`."""
        ...

    def prepare(self, stage: TrainingStage) -> nn.Module:
        """Choose what is trained, and return the module that objectives call."""
        ...

    def shard(self, module: nn.Module, device: torch.device) -> None:
        """Shard what `prepare` returned over all processes.

        Raises:
            MagicError: `argument_invalid` when that cannot be.
        """
        ...

    def write(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write all parameters of the model as a checkpoint.

        Raises:
            MagicError: `storage_failed`.
        """
        ...


class MagicTrainee:
    """The model of the paper, whole or with adapters by peft."""

    def __init__(self, model: MagicModel, tokenizer_from: Path) -> None:
        """Take a model that `prepare` may change, and the checkpoint folder whose tokenizer goes with the result."""
        self.model = model
        self._config = model.config
        self._tokenizer_from = tokenizer_from

    def prepare(self, stage: TrainingStage) -> nn.Module:
        """See `Trainee`."""
        self._lora = stage.lora
        self._dtype = torch.bfloat16 if stage.dtype == "bfloat16" else torch.float32
        train_parameters(self.model, stage.lora, self._dtype)
        if stage.quantised_forward is not None:
            quantise_forward(self.model, stage.quantised_forward)
        if stage.gradient_checkpointing:
            recompute_layers(self.model)
        context = PromptTokenizer(self._tokenizer_from / "tokenizer.json").special.context
        return TrainableModel(self.model, context, None if self._dtype == torch.float32 else self._dtype)

    def shard(self, module: nn.Module, device: torch.device) -> None:
        """See `Trainee`."""
        assert isinstance(module, TrainableModel)  # noqa: S101 - prepare returned it
        shard_model(module, self._dtype, device)

    def write(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """See `Trainee`; adapters are merged, in transformers' layout, with the head that the model came with."""
        merged = merged_tensors(tensors, self._lora)
        write_checkpoint(
            folder,
            self._config,
            Layout.HF,
            merged.__getitem__,
            lambda name: merged[name].dtype,
            companions=self._tokenizer_from,
        )
