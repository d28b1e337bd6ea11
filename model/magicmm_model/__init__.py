"""Magic-MM-Embedding in torch: InternVL3 with 2x2 visual token compression (arXiv 2602.05275).

Example:
    >>> embedder = TorchEmbedder.open("InternVL3-2B")
    >>> photo = embedder.embed_image("beach.jpg").vector
    >>> query = embedder.embed_text("a dog on the beach").vector
    >>> score = float(query @ photo)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import FAMILY, ModelConfig
    from magicmm_model.embedder import Embedding, TorchEmbedder
    from magicmm_model.loading import load_model
    from magicmm_model.model import MagicModel
    from magicmm_model.saving import convert_checkpoint, save_model

__all__ = [
    "FAMILY",
    "Checkpoint",
    "Embedding",
    "MagicModel",
    "ModelConfig",
    "TorchEmbedder",
    "convert_checkpoint",
    "load_model",
    "save_model",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "FAMILY": "config",
    "ModelConfig": "config",
    "Embedding": "embedder",
    "TorchEmbedder": "embedder",
    "load_model": "loading",
    "MagicModel": "model",
    "convert_checkpoint": "saving",
    "save_model": "saving",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `--help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'magicmm_model' has no attribute {name!r}")
    from importlib import import_module, util

    if util.find_spec("torch") is None:
        raise ImportError("magicmm_model needs torch: pip install 'magicmm[model]'")
    return getattr(import_module(f"magicmm_model.{_HOMES[name]}"), name)
