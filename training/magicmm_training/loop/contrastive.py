"""The objective of the InfoNCE stages: pairs with in-batch and hard negatives, of any batch size."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from magicmm_training.loop.collate import EntryReader, ReadEntry, collate
from magicmm_training.loop.spans import JoinedSets
from magicmm_training.losses.contrastive import ContrastiveBatch, ContrastiveLoss
from magicmm_training.losses.distillation import MISSING
from magicmm_training.losses.false_negatives import NO_ID, id_tensor
from magicmm_training.losses.gather import gather_batch
from magicmm_training.losses.gradcache import cached_backward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import Entry, Pair, PairSet
    from magicmm_training.loop.objective import Engine, SourceSpan, StepResult
    from magicmm_training.mining.negative_rows import Margins
    from magicmm_training.recipe import Contrastive, Source


class HardNegatives(Protocol):
    """Where hard negatives come from, such as `mining.negatives.Negatives`."""

    fingerprint: str

    def for_query(self, dataset: str, query_id: str) -> tuple[Entry, ...]:
        """Return a query's hard negatives, best first; empty when it has none."""
        ...

    def margins(self, dataset: str, query_id: str) -> Margins | None:
        """Return a judge's margins of positive and negatives; None where nobody judged."""
        ...


@dataclass(frozen=True, slots=True)
class ReadPair:
    """A pair, decoded and tokenized.

    Attributes:
        dataset: Its data set.
        id: Unique in it.
        query: What is searched with.
        positive: The true target.
        negatives: Hard negatives; how many there are differs between pairs.
        margins: The judge's, of the positive and then of each hard negative; NaN where nobody judged.
    """

    dataset: str
    id: str
    query: ReadEntry
    positive: ReadEntry
    negatives: tuple[ReadEntry, ...]
    margins: tuple[float, ...]

    @property
    def candidates(self) -> tuple[ReadEntry, ...]:
        """The positive and the hard negatives."""
        return (self.positive, *self.negatives)


class ContrastiveObjective:
    """InfoNCE over the batch of all processes.

    A query with fewer hard negatives than the stage asks for simply has fewer: its batch holds fewer candidates.
    Repeating some of them to fill up would double their weight in every query's denominator.

    With `batch.micro`, so many pairs go through the model at once (GradCache), each with all its candidates.

    Attributes:
        fingerprint: Of data and hard negatives.
    """

    def __init__(
        self,
        stage: Contrastive,
        data: Sequence[tuple[Source, PairSet]],
        config: ModelConfig,
        tokenizer: PromptTokenizer,
        negatives: HardNegatives | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            stage: Settings.
            data: Each data set with its source.
            config: Of the model that is trained.
            tokenizer: Its tokenizer.
            negatives: Where `stage.negatives_each` hard negatives come from.
        """
        self._stage, self._negatives = stage, negatives
        self._pairs: JoinedSets[Pair] = JoinedSets(data)
        self._reader = EntryReader(config, tokenizer, stage.max_tokens)
        self._fill = tokenizer.special.end
        self._loss = ContrastiveLoss(stage.loss)
        parts = (self._pairs.fingerprint, None if negatives is None else negatives.fingerprint)
        self.fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @property
    def spans(self) -> Sequence[SourceSpan]:
        """The data sets."""
        return self._pairs.spans

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self._pairs)

    def sample(self, place: int, seed: int) -> ReadPair:
        """Read a pair with its hard negatives; nothing about it is random.

        Raises:
            MagicError: For a pair with anything that cannot be used.
        """
        pair = self._pairs[place]
        mined, margins = self._hard_negatives(pair)
        explicit = pair.negatives if self._stage.use_explicit else ()
        return ReadPair(
            pair.dataset,
            pair.id,
            self._reader.read(pair.query),
            self._reader.read(pair.positive),
            tuple(self._reader.read(entry) for entry in (*mined, *explicit)),
            (*margins, *[math.nan] * len(explicit)),
        )

    def step(self, model: nn.Module, samples: Sequence[ReadPair], engine: Engine) -> StepResult:
        """Embed, compare with the candidates of all processes, and accumulate gradients."""
        device = next(model.parameters()).device
        size = self._stage.batch.micro or len(samples)
        micros = [samples[start : start + size] for start in range(0, len(samples), size)]
        layout = _Layout(micros, judged=self._stage.loss.judge_weight > 0)

        def embed(pairs: Sequence[ReadPair]) -> Tensor:
            queries = collate([pair.query for pair in pairs], self._fill, device)
            candidates = collate([entry for pair in pairs for entry in pair.candidates], self._fill, device)
            return torch.cat([model(**queries), model(**candidates)])

        def loss(rows: Tensor) -> tuple[Tensor, dict[str, float]]:
            batch = gather_batch(layout.batch(rows), engine)
            value, counters = self._loss(batch)
            return value, counters | {"hard_negatives": float(len(batch.candidates) - len(batch.queries))}

        return cached_backward(embed, micros, loss, engine)

    def _hard_negatives(self, pair: Pair) -> tuple[tuple[Entry, ...], list[float]]:
        """Return the mined negatives that are used, and the margins of the positive and of them."""
        each = self._stage.negatives_each
        if self._negatives is None or not each:
            return (), [math.nan]
        mined = self._negatives.for_query(pair.dataset, pair.id)[:each]
        margins = self._negatives.margins(pair.dataset, pair.id)
        if margins is None:
            return mined, [math.nan] * (1 + len(mined))
        return mined, [margins.positive, *margins.negatives[:each]]


class _Layout:
    """Which row of the embedded micro batches is what."""

    def __init__(self, micros: Sequence[Sequence[ReadPair]], *, judged: bool) -> None:
        pairs = [pair for micro in micros for pair in micro]
        self._query_rows: list[int] = []
        self._candidate_rows: list[int] = []
        row = 0
        for micro in micros:
            count = sum(len(pair.candidates) for pair in micro)
            self._query_rows += range(row, row + len(micro))
            self._candidate_rows += range(row + len(micro), row + len(micro) + count)
            row += len(micro) + count
        sizes = torch.tensor([len(pair.candidates) for pair in pairs])
        self._targets = sizes.cumsum(0) - sizes
        self._query_ids = id_tensor(f"{pair.dataset}\0{pair.id}" for pair in pairs)
        self._candidate_ids = torch.full((int(sizes.sum()),), NO_ID)
        self._candidate_ids[self._targets] = self._query_ids
        self._contents = id_tensor(entry.content for pair in pairs for entry in pair.candidates)
        self._own = self._margins = None
        if judged:
            places = torch.arange(int(sizes.max()))[None]
            self._own = torch.where(places < sizes[:, None], self._targets[:, None] + places, MISSING)
            self._margins = torch.full(self._own.shape, math.nan)
            for number, pair in enumerate(pairs):
                self._margins[number, : len(pair.margins)] = torch.tensor(pair.margins)

    def batch(self, rows: Tensor) -> ContrastiveBatch:
        """Return the local batch of embedded rows."""

        def on(tensor: Any) -> Any:
            return None if tensor is None else tensor.to(rows.device)

        return ContrastiveBatch(
            queries=rows[self._query_rows],
            candidates=rows[self._candidate_rows],
            targets=on(self._targets),
            query_ids=on(self._query_ids),
            candidate_ids=on(self._candidate_ids),
            candidate_contents=on(self._contents),
            own=on(self._own),
            margins=on(self._margins),
        )
