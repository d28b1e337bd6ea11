"""The model in torch as an `EntryEmbedder`, for mining, judging and evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.loop.collate import EntryReader, collate
from magicmm_training.loop.fingerprint import model_fingerprint
from magicmm_training.loop.forward import TrainableModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.model import MagicModel
    from magicmm_training.entries import Entry, Floats
    from magicmm_training.loop.collate import ReadEntry

_WINDOW = 16
"""Batches that are read and sorted by length at a time: little padding, and pixels of these only in memory."""
_THREADS = 4


class TorchEntryEmbedder:
    """Embeds entries in batches of similar length; vectors come back in the order of the entries.

    A vector does not depend on what else is in its batch: within 1e-6 in float32, within bfloat16's own error there.

    Attributes:
        name: For reports.
        dim: Length of a vector.
        fingerprint: Of weights, configuration and type of the forward pass.
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(
        self,
        model: MagicModel,
        tokenizer: PromptTokenizer,
        *,
        name: str = "torch",
        batch: int = 32,
        dtype: torch.dtype = torch.float32,
        max_tokens: int | None = None,
    ) -> None:
        """Take a model that is in memory; `open` loads one.

        Args:
            model: On the device where it shall run.
            tokenizer: Its tokenizer.
            name: For reports.
            batch: Entries that run together.
            dtype: Of the forward pass; bfloat16 runs under autocast.
            max_tokens: Longest prompt; None = the model's.
        """
        self.name, self.dim = name, model.config.dim
        self.model, self.tokenizer = model, tokenizer
        self.fingerprint = f"{model_fingerprint(model)}-{str(dtype).removeprefix('torch.')}-{max_tokens or 0}"
        self._reader = EntryReader(model.config, tokenizer, max_tokens)
        self._batch, self._fill = batch, tokenizer.special.end
        cast = None if dtype == torch.float32 else dtype
        self._forward = TrainableModel(model, tokenizer.special.context, cast)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        batch: int = 32,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        compression: int | None = None,
        image_size: int | None = None,
        head: bool = False,
    ) -> TorchEntryEmbedder:
        """Load a checkpoint folder; see `load_model` for the options and errors. Weights are in `dtype`."""
        folder = Path(folder)
        checkpoint = Checkpoint.open(folder)
        tokenizer = PromptTokenizer(folder / "tokenizer.json", checkpoint.config.language.vocab_size)
        model = load_model(
            checkpoint, dtype=dtype, compression=compression, image_size=image_size, head=head, device=device
        )
        return cls(model, tokenizer, name=folder.name, batch=batch, dtype=dtype)

    def embed(self, entries: Sequence[Entry]) -> Floats:
        """Return float32 [n, dim], unit rows, each as if its entry were alone.

        Raises:
            MagicError: `image_invalid` or `text_invalid` for an entry that cannot be read; `runtime_failed` for a
                vector that is not finite.
        """
        vectors = np.zeros((len(entries), self.dim), np.float32)
        step = self._batch * _WINDOW
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(entries), step):
                read = list(pool.map(self._reader.read, entries[start : start + step]))
                order = sorted(range(len(read)), key=lambda place: len(read[place].ids))
                for first in range(0, len(order), self._batch):
                    places = order[first : first + self._batch]
                    found = self._embed([read[place] for place in places])
                    vectors[[start + place for place in places]] = found
        if not np.isfinite(vectors).all():
            broken = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"The vector of entry {broken} of {len(entries)} is not finite.",
                "Embed in float32, or train with a lower learning rate.",
            )
        return vectors

    @torch.inference_mode()
    def _embed(self, entries: Sequence[ReadEntry]) -> Floats:
        training = self.model.training
        self.model.eval()
        try:
            device = self.model.language.norm.weight.device
            vectors: Floats = self._forward(**collate(entries, self._fill, device)).cpu().numpy()
        finally:
            self.model.train(training)
        return vectors
