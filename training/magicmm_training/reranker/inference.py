"""Scores of a query's first candidates by a model that reads query and candidate together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from magicmm_model.embedder import TorchEmbedder, pad_prompts
from magicmm_model.templates import Prompt
from magicmm_training.judge.verdict import AnswerTokens
from magicmm_training.reranker.reading import RankReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from magicmm_training.entries import Entry, Floats
    from magicmm_training.reranker.reading import Asked


@dataclass(slots=True)
class RerankCost:
    """What reranking has cost so far.

    Attributes:
        queries: Reranked.
        pairs: Of query and candidate.
        tokens: That the language model read, padding left out.
        tiles: That the vision tower saw: a query's picture counts once for all candidates of a batch.
        seconds: From decoding to scores.
    """

    queries: int = 0
    pairs: int = 0
    tokens: int = 0
    tiles: int = 0
    seconds: float = 0.0

    def per_query(self) -> dict[str, float]:
        """Return the means over queries; empty before the first."""
        names = ("pairs", "tokens", "tiles", "seconds")
        return {name: getattr(self, name) / self.queries for name in names} if self.queries else {}


class Reranker:
    """A trained reranker: the log-odds of yes over no are a candidate's score.

    Attributes:
        cost: What it has cost so far.
    """

    def __init__(self, embedder: TorchEmbedder, batch: int = 8, max_tokens: int | None = None) -> None:
        """Take a model with a head.

        Args:
            embedder: Opened with `head=True`.
            batch: Candidates that are read at once.
            max_tokens: Longest question; None = what the model can read.

        Raises:
            MagicError: `model_mismatch` when yes and no cannot be told apart by their first token.
        """
        self._embedder = embedder
        self._batch = batch
        config = embedder.model.config
        self._reader = RankReader(config, embedder.tokenizer, max_tokens or config.language.max_positions)
        self._tokens = AnswerTokens.of(embedder.tokenizer.encode)
        self.cost = RerankCost()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        batch: int = 8,
        compression: int | None = None,
        image_size: int | None = None,
        max_tokens: int | None = None,
    ) -> Reranker:
        """Load a checkpoint folder; see `load_model` for the options and errors."""
        embedder = TorchEmbedder.open(
            folder, dtype=dtype, compression=compression, image_size=image_size, head=True, device=device
        )
        return cls(embedder, batch, max_tokens)

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> Floats:
        """Return log P(yes) - log P(no) of each candidate, float32 [n], higher is better.

        Raises:
            MagicError: `image_invalid`; `argument_invalid` when pictures alone are longer than the model reads.
        """
        began = time.perf_counter()
        shown = self._reader.show(query)
        asked = [self._reader.pointwise(shown, self._reader.show(candidate)) for candidate in candidates]
        scores = np.zeros(len(asked), np.float32)
        for start in range(0, len(asked), self._batch):
            part = asked[start : start + self._batch]
            scores[start : start + len(part)] = self._tokens.margins(self._logits(part)).cpu().numpy()
        self.cost.queries += 1
        self.cost.pairs += len(asked)
        self.cost.tokens += sum(len(question.ids) for question in asked)
        self.cost.seconds += time.perf_counter() - began
        return scores

    @torch.inference_mode()
    def _logits(self, asked: Sequence[Asked]) -> Tensor:
        """Return what follows each question, [b, vocab]."""
        model, special = self._embedder.model, self._embedder.tokenizer.special
        device = model.language.norm.weight.device
        ids, last = pad_prompts([Prompt(question.ids) for question in asked], special.end)
        embeds = model.embed_sequence(ids.to(device), self._visual(asked, device), special.context)
        hidden, _ = model.language(embeds)
        return model.logits(hidden[torch.arange(len(ids), device=device), last.to(device)])

    def _visual(self, asked: Sequence[Asked], device: torch.device) -> Tensor | None:
        """Return the visual tokens of all pictures in order; the same tiles are seen once."""
        pictures = [tiles for question in asked for tiles in question.tiles]
        if not pictures:
            return None
        # The query's tiles are one tensor in all of its questions.
        seen = {id(tiles): tiles for tiles in pictures}
        pixels = torch.cat(list(seen.values())).to(device)
        self.cost.tiles += len(pixels)
        parts = torch.split(self._embedder.model.visual_tokens(pixels), [len(tiles) for tiles in seen.values()])
        found = dict(zip(seen, parts, strict=True))
        return torch.cat([found[id(tiles)] for tiles in pictures])
