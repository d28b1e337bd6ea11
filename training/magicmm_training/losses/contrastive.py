"""The loss of the contrastive stages: InfoNCE, and whatever a recipe adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.losses.distillation import judge_divergence
from magicmm_training.losses.false_negatives import false_negative_mask
from magicmm_training.losses.infonce import info_nce
from magicmm_training.losses.matryoshka import leading, trained_dims
from magicmm_training.losses.precision import stored

if TYPE_CHECKING:
    from torch import Tensor

    from magicmm_training.recipe import Loss


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """Vectors of a batch, and what is known of them; `gather.gather_batch` joins those of all processes.

    Every query is compared with every candidate, so that other queries' hard negatives count too.

    Attributes:
        queries: Unit rows [b, d].
        candidates: Unit rows [m, d]: positives and hard negatives in any order.
        targets: int64 [b], each query's row of `candidates`.
        query_ids: int64 [b] from `false_negatives.id_tensor`, each query's pair (data set and id).
        candidate_ids: int64 [m], the pair that a candidate is the positive of; `NO_ID` for hard negatives.
        candidate_contents: int64 [m] from `id_tensor`, of `Entry.content_id()`.
        own: int64 [b, k], rows of each query's positive and hard negatives, `distillation.MISSING` where a list is
            shorter; None without judge scores.
        margins: float [b, k], the judge's margins of `own`, NaN where there is none; None without judge scores.
    """

    queries: Tensor
    candidates: Tensor
    targets: Tensor
    query_ids: Tensor
    candidate_ids: Tensor
    candidate_contents: Tensor
    own: Tensor | None = None
    margins: Tensor | None = None


class ContrastiveLoss:
    """InfoNCE with false negatives masked, as a mean over the forms that vectors are to be good in.

    The forms are the vectors themselves, their leading dimensions (`matryoshka`), and each of these as stored
    (`precision`). All weigh the same. The mask comes from the full vectors and holds for all forms. The judge's
    divergence, of the full vectors, is added with its weight.
    """

    def __init__(self, config: Loss) -> None:
        """Keep the settings."""
        self.config = config

    def __call__(self, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and what to log.

        Scores are computed in float32 at least, under autocast too: bfloat16 tells scores near 1 apart by 0.004, which
        a temperature of 0.03 makes 0.13 of a logit.

        Returns:
            A scalar, and the counters `negatives` (of all queries, after the mask), `queries_without_negatives`, those
            of `false_negative_mask`, and with judge scores `judged_queries` and `judge_divergence`.

        Raises:
            MagicError: `argument_invalid` for a batch without negatives, shapes that do not fit, dimensions that the
                vectors lack, or missing judge scores.
        """
        with torch.autocast(batch.queries.device.type, enabled=False):
            return self._loss(batch, _wide(batch.queries), _wide(batch.candidates))

    def _loss(self, batch: ContrastiveBatch, queries: Tensor, candidates: Tensor) -> tuple[Tensor, dict[str, float]]:
        mask, counters = self._mask(batch, queries, candidates)
        dims = trained_dims(self.config.matryoshka, queries.shape[1])
        losses = []
        for dim in dims:
            forms = [(leading(queries, dim), leading(candidates, dim))]
            if self.config.precision is not None:
                kind = self.config.precision
                forms.append((stored(forms[0][0], kind), stored(forms[0][1], kind)))
            losses += [
                info_nce(left, right, batch.targets, self.config.temperature, mask, self.config.symmetric)
                for left, right in forms
            ]
        loss = torch.stack(losses).mean()
        if self.config.judge_weight:
            divergence, judged = self._divergence(batch, queries, candidates)
            loss = loss + self.config.judge_weight * divergence
            counters |= {"judged_queries": float(judged), "judge_divergence": float(divergence.detach())}
        return loss, counters

    def _mask(self, batch: ContrastiveBatch, queries: Tensor, candidates: Tensor) -> tuple[Tensor, dict[str, float]]:
        rules = self.config.false_negatives
        scores = None if rules.margin is None else queries.detach() @ candidates.detach().T
        mask, counters = false_negative_mask(
            scores,
            batch.targets,
            batch.query_ids,
            batch.candidate_ids,
            batch.candidate_contents,
            batch.candidate_contents[batch.targets],
            rules,
        )
        left = (~mask).sum(1) - 1
        if not bool(left.any()):
            masked = int(sum(counters.values()))
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"A batch of {len(queries)} queries and {len(candidates)} candidates has no negative: {masked} were "
                "masked as false negatives.",
                "Make batches larger, add hard negatives, or check that the data set has different targets.",
            )
        counters |= {"negatives": float(left.sum()), "queries_without_negatives": float((left == 0).sum())}
        return mask, counters

    def _divergence(self, batch: ContrastiveBatch, queries: Tensor, candidates: Tensor) -> tuple[Tensor, int]:
        if batch.own is None or batch.margins is None:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "The loss learns from judge scores, and the batch has none.",
                "Give the stage the negatives of a judge stage, or set loss.judge_weight to 0.",
            )
        return judge_divergence(
            queries,
            candidates,
            batch.own,
            batch.margins,
            self.config.temperature,
            self.config.judge_temperature,
        )


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()
