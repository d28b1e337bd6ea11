"""The models that can be scored, by what lies at a path: a checkpoint, a bundle, a sentence-transformers folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.bundle import MANIFEST_NAME
from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import PromptBuilder
from magicmm_model.tiling import photo_tiles
from magicmm_training.evaluation.bundle_embedder import BundleEntryEmbedder
from magicmm_training.evaluation.sentence_embedder import SentenceEntryEmbedder
from magicmm_training.loop.embedding import TorchEntryEmbedder

if TYPE_CHECKING:
    import torch

    from magicmm_model.model import MagicModel
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import Entry, EntryEmbedder


class TorchEvaluationEmbedder(TorchEntryEmbedder):
    """The model in torch; also says which texts it cuts."""

    def __init__(
        self,
        model: MagicModel,
        tokenizer: PromptTokenizer,
        *,
        name: str = "torch",
        batch: int = 32,
        dtype: torch.dtype | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Take a model that is in memory; see `TorchEntryEmbedder`."""
        kind = next(model.parameters()).dtype if dtype is None else dtype
        super().__init__(model, tokenizer, name=name, batch=batch, dtype=kind, max_tokens=max_tokens)
        config = model.config if max_tokens is None else replace(model.config, max_tokens=max_tokens)
        self._prompts = PromptBuilder(config, tokenizer)

    def truncates(self, entry: Entry) -> bool:
        """Return whether an entry's text is longer than what the model reads."""
        tiles = 0
        if entry.image is not None:
            side = self.model.config.vision.image_size
            tiles = 1 if entry.max_tiles == 1 else len(photo_tiles(entry.image, side, entry.max_tiles))
        return self._prompts.build(entry.role, entry.text, tiles).truncated


def open_embedder(path: Path | str, *, batch: int = 32, device: str = "cpu", stored: bool = False) -> EntryEmbedder:
    """Open whatever model lies at a path.

    Args:
        path: Folder of a bundle (`manifest.json`), of a sentence-transformers model (`modules.json`), or of a
            checkpoint.
        batch: Entries that a checkpoint runs together.
        device: Of a checkpoint or a sentence-transformers model.
        stored: Of a bundle: round vectors to int8, as the index keeps them.

    Raises:
        MagicError: `checkpoint_invalid` or `bundle_invalid` when it cannot be loaded; `argument_invalid` for `stored`
            without a bundle.
    """
    folder = Path(path)
    if (folder / MANIFEST_NAME).is_file():
        return BundleEntryEmbedder(folder, stored=stored)
    if stored:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{folder} is no bundle, so no index keeps its vectors.", "Leave `stored` off."
        )
    if (folder / "modules.json").is_file():
        return SentenceEntryEmbedder.open(folder, device=device)
    return TorchEvaluationEmbedder.open(folder, batch=batch, device=device)
