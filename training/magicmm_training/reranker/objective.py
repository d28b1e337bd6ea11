"""The reranker's objective: pointwise yes and no, and the number of the best of a list, weighed as the recipe says.

Per query: w1 * [-log P("yes" | q, c+) - log P("no" | q, c-)] + w2 * [-log P(k | q, list with c+ at place k)].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from magicmm.errors import MagicError
from magicmm_training.loop.collate import join_tiles
from magicmm_training.loop.objective import StepResult
from magicmm_training.loop.packing import Chat, packed_rows
from magicmm_training.reranker.data import Drawn, JudgedQueries
from magicmm_training.reranker.prompts import NO, YES, index_answer
from magicmm_training.reranker.reading import RankReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import PairSet
    from magicmm_training.loop.objective import Engine, SourceSpan
    from magicmm_training.recipe import Reranker, Source
    from magicmm_training.reranker.data import Judged
    from magicmm_training.reranker.reading import Asked, Shown


@dataclass(frozen=True, slots=True)
class RankSample:
    """The questions about one query, with their answers.

    Attributes:
        dataset: Its data set.
        id: Of its pair.
        right: About a candidate that fits.
        wrong: About one that does not.
        listed: About several.
    """

    dataset: str
    id: str
    right: Chat
    wrong: Chat
    listed: Chat


class RerankerObjective:
    """Mean loss of the queries of the batch of all processes; `batch.micro` of them go through the model at once.

    Attributes:
        fingerprint: Of data and judgement.
    """

    def __init__(
        self,
        stage: Reranker,
        data: Sequence[tuple[Source, PairSet]],
        config: ModelConfig,
        tokenizer: PromptTokenizer,
        judged: Judged,
    ) -> None:
        """Put the parts together.

        Args:
            stage: Settings.
            data: Each data set with its source.
            config: Of the model that is trained.
            tokenizer: Its tokenizer.
            judged: Output of the judge stage.

        Raises:
            MagicError: `argument_invalid` when no query of the data has a rejected candidate.
        """
        self._stage = stage
        self._queries = JudgedQueries(data, judged)
        self._reader = RankReader(config, tokenizer, stage.max_tokens)
        self._tokenizer = tokenizer
        self.fingerprint = self._queries.fingerprint

    @property
    def spans(self) -> Sequence[SourceSpan]:
        """The data sets, without queries that have no rejected candidate."""
        return self._queries.spans

    def __len__(self) -> int:
        """Return how many queries there are."""
        return len(self._queries)

    def sample(self, place: int, seed: int) -> RankSample:
        """Draw candidates of a query and read the three questions.

        A list that is too long for the model loses its last negatives.

        Raises:
            MagicError: For anything that cannot be used.
        """
        drawn = self._queries.draw(place, self._stage.listwise, seed)
        query, positive = self._reader.show(drawn.query), self._reader.show(drawn.positive)
        negatives = [self._reader.show(entry) for entry in drawn.negatives]
        yes, no = self._tokenizer.encode(YES), self._tokenizer.encode(NO)
        return RankSample(
            drawn.dataset,
            drawn.id,
            self._chat(drawn, self._reader.pointwise(query, positive, len(yes)), yes),
            self._chat(drawn, self._reader.pointwise(query, negatives[0], len(no)), no),
            self._listed(drawn, query, positive, negatives),
        )

    def step(self, model: nn.Module, samples: Sequence[RankSample], engine: Engine) -> StepResult:
        """Run micro batches and accumulate gradients."""
        device = next(model.parameters()).device
        size = self._stage.batch.micro or len(samples)
        micros = [samples[start : start + size] for start in range(0, len(samples), size)]
        total = int(engine.gather(torch.tensor([len(samples)], device=device)).sum())
        sums = torch.zeros(3, device=device)
        for number, micro in enumerate(micros):
            kinds = (
                [chat for sample in micro for chat in (sample.right, sample.wrong)],
                [sample.listed for sample in micro],
            )
            for kind, (chats, weight) in enumerate(zip(kinds, self._stage.weights, strict=True)):
                loss = self._loss(model, chats, device)
                sums[kind] += loss.detach()
                last = number == len(micros) - 1 and kind == len(kinds) - 1
                engine.backward(loss * (weight * engine.processes / total), last=last)
            sums[2] += sum(len(chat.ids) for chats in kinds for chat in chats)
        pointwise, listwise, tokens = engine.gather(sums[None]).sum(0).tolist()
        weights = self._stage.weights
        return StepResult(
            (weights[0] * pointwise + weights[1] * listwise) / total,
            {"pointwise": pointwise / total, "listwise": listwise / total, "tokens": tokens},
        )

    def _loss(self, model: nn.Module, chats: Sequence[Chat], device: torch.device) -> Tensor:
        """Return the summed cross entropy of the answers."""
        packed = packed_rows([[chat] for chat in chats], self._tokenizer.special.end)
        loss: Tensor = model(
            packed.ids.to(device),
            join_tiles([chat.tiles for chat in chats], device),
            targets=packed.targets.to(device),
        )
        return loss

    def _listed(self, drawn: Drawn, query: Shown, positive: Shown, negatives: Sequence[Shown]) -> Chat:
        place = min(drawn.place, len(negatives))
        answer = self._tokenizer.encode(index_answer(place))
        candidates = [*negatives[:place], positive, *negatives[place:]]
        try:
            asked = self._reader.listwise(query, candidates, len(answer))
        except MagicError:
            if len(negatives) == 1:
                raise
            return self._listed(drawn, query, positive, negatives[:-1])
        return self._chat(drawn, asked, answer)

    @staticmethod
    def _chat(drawn: Drawn, asked: Asked, answer: Sequence[int]) -> Chat:
        ids = (*asked.ids, *answer)
        marks = (*[False] * len(asked.ids), *[True] * len(answer))
        return Chat(drawn.dataset, drawn.id, ids, marks, join_tiles(asked.tiles), (asked.text,))
