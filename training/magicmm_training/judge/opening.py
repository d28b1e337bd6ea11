"""The judge that a recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.endpoint import EndpointJudge
from magicmm_training.judge.own import OwnJudge
from magicmm_training.judge.transformers_folder import TransformersJudge

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.judge.verdict import Backend
    from magicmm_training.recipe import JudgeModel


def open_judge(model: JudgeModel, folder: Path, device: torch.device | str = "cpu") -> Backend:
    """Open a judge.

    Args:
        model: What the recipe says.
        folder: What `model.path` stands for: the output of a stage, or a folder; not looked at for an endpoint.
        device: Where a local model runs.

    Raises:
        MagicError: `argument_invalid` for an endpoint without a model's name; see the judges for others.
    """
    if model.kind == "endpoint":
        if not model.model:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The judge at {model.path} has no model.",
                "Set `model` to the name under which the server knows it.",
            )
        return EndpointJudge(model.path, model.model)
    dtype = torch.float32 if model.dtype == "float32" else torch.bfloat16
    kind = OwnJudge.open if model.kind == "own" else TransformersJudge
    return kind(folder, dtype=dtype, device=device)
