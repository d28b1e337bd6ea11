"""The MLP between vision and language, held against transformers' projector on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from magicmm_model.loading import load_model


# The smallest inputs have a variance below the norm's epsilon, so that another epsilon would show.
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_connector_equals_transformers(
    folder: Path, hf: Any, scale: float, agree: Callable[[Tensor, Tensor], None]
) -> None:
    tokens = torch.randn(2, 64, 4 * 32, generator=torch.Generator().manual_seed(4)) * scale
    ours = load_model(folder).connector(tokens)
    assert ours.shape == (2, 64, 48)
    agree(ours, hf.model.multi_modal_projector(tokens))
