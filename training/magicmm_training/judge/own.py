"""A generative checkpoint of ours as judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magicmm_model.embedder import TorchEmbedder
from magicmm_model.generate import next_token_logits
from magicmm_training.judge.message import MessageReader
from magicmm_training.judge.verdict import AnswerTokens, Verdict
from magicmm_training.loop.fingerprint import model_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magicmm_training.judge.message import Message


class OwnJudge:
    """Answers with the logits of `magicmm_model.generate.next_token_logits`.

    Attributes:
        name: For reports.
        fingerprint: Of configuration, weights and their type.
    """

    def __init__(self, embedder: TorchEmbedder, name: str = "own") -> None:
        """Take a model with a head.

        Raises:
            MagicError: `model_mismatch` when yes and no cannot be told apart by their first token.
        """
        self.name = name
        self.fingerprint = f"own-{model_fingerprint(embedder.model)}"
        self._embedder = embedder
        self._reader = MessageReader(embedder.prompts, embedder.model.config.vision.image_size)
        self._tokens = AnswerTokens.of(embedder.tokenizer.encode)

    @classmethod
    def open(cls, folder: Path, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu") -> OwnJudge:
        """Load a checkpoint folder; see `load_model` for the errors."""
        return cls(TorchEmbedder.open(folder, dtype=dtype, head=True, device=device), folder.name)

    def answer(self, messages: Sequence[Message]) -> list[Verdict]:
        """Return a verdict on each message; see `Backend`."""
        if not messages:
            return []
        read = [self._reader.read(message) for message in messages]
        tiles = [part for _, pictures in read for part in pictures]
        pixels = torch.cat(tiles) if tiles else None
        logits = next_token_logits(self._embedder, [prompt for prompt, _ in read], pixels)
        return self._tokens.verdicts(logits)
