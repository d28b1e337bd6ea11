"""The built-in model, as the loop trains it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.nano.storing import save_nano

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from magicmm_model.nano.model import NanoModel
    from magicmm_training.recipe import TrainingStage


class NanoTrainee:
    """Its adapters and the output layer of its connector; they stay apart from the pretrained weights."""

    def __init__(self, model: NanoModel, companions: Path) -> None:
        """Take a model, and the folder whose small files go with the result."""
        self.model = model
        self._companions = companions

    def prepare(self, stage: TrainingStage) -> nn.Module:
        """See `Trainee`.

        Raises:
            MagicError: `argument_invalid` for options that this model does not have.
        """
        foreign = {
            "lora": stage.lora is not None,
            "quantised_forward": stage.quantised_forward is not None,
            "gradient_checkpointing": stage.gradient_checkpointing,
            "dtype": stage.dtype != "float32",
        }
        asked = [name for name, is_set in foreign.items() if is_set]
        if asked:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"Stage {stage.name!r} asks for {', '.join(asked)}, which the built-in model does not have.",
                "Its adapters are part of it; train it in float32, without these options.",
            )
        self.model.train_adapters()
        return self.model

    def shard(self, module: nn.Module, device: torch.device) -> None:
        """See `Trainee`."""
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, "The built-in model is too small to be sharded.", "Leave --shard out."
        )

    def write(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """See `Trainee`."""
        save_nano({**self.model.state_dict(), **tensors}, self.model.config, folder, self._companions)
