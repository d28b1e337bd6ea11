"""The whole contrastive loss: how its parts are put together, counted and refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_training.losses.contrastive import ContrastiveBatch, ContrastiveLoss
from magicmm_training.losses.distillation import judge_divergence
from magicmm_training.losses.false_negatives import NO_ID
from magicmm_training.losses.infonce import info_nce
from magicmm_training.losses.matryoshka import leading
from magicmm_training.losses.precision import stored
from magicmm_training.recipe import Loss
from one_thread import one_thread as one_thread


def unit(rows: int, seed: int, dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def sample_batch(queries: int = 4, seed: int = 0) -> ContrastiveBatch:
    """Candidates are positives, then one hard negative each; the judge has seen both."""
    places = torch.arange(queries)
    return ContrastiveBatch(
        queries=unit(queries, 2 * seed),
        candidates=unit(2 * queries, 2 * seed + 1),
        targets=places,
        query_ids=places,
        candidate_ids=torch.cat([places, torch.full((queries,), NO_ID)]),
        candidate_contents=torch.arange(2 * queries),
        own=torch.stack([places, places + queries], dim=1),
        margins=torch.tensor([[2.0, -1.0]]).repeat(queries, 1),
    )


def loss_of(batch: ContrastiveBatch, **options: Any) -> Tensor:
    return ContrastiveLoss(Loss.model_validate(options))(batch)[0]


def test_plain_is_info_nce_at_the_papers_temperature() -> None:
    batch = sample_batch()
    wanted = info_nce(batch.queries, batch.candidates, batch.targets, 0.03)
    torch.testing.assert_close(loss_of(batch), wanted)


def test_all_forms_weigh_the_same() -> None:
    batch = sample_batch()
    options: dict[str, Any] = {"temperature": 0.2, "symmetric": True, "matryoshka": (3, 5), "precision": "int8"}
    forms = []
    for dim in (8, 5, 3):
        left, right = leading(batch.queries, dim), leading(batch.candidates, dim)
        forms += [(left, right), (stored(left, "int8"), stored(right, "int8"))]
    wanted = sum(info_nce(left, right, batch.targets, 0.2, symmetric=True) for left, right in forms) / 6
    torch.testing.assert_close(loss_of(batch, **options), wanted)


def test_the_judge_is_added_with_its_weight() -> None:
    batch = sample_batch()
    assert batch.own is not None and batch.margins is not None
    divergence, _ = judge_divergence(batch.queries, batch.candidates, batch.own, batch.margins, 0.03, 2.0)
    assert divergence > 0.1
    found = loss_of(batch, judge_weight=0.5, judge_temperature=2.0)
    torch.testing.assert_close(found, loss_of(batch) + 0.5 * divergence)


def test_judge_scores_are_not_needed_without_weight() -> None:
    batch = sample_batch()
    torch.testing.assert_close(loss_of(replace(batch, own=None, margins=None)), loss_of(batch))


def test_counters() -> None:
    batch = sample_batch()
    # Query 1 is drawn twice (as query 3); the hard negative of query 0 shows what its target shows.
    ids = torch.tensor([0, 1, 2, 1])
    batch = replace(
        batch,
        query_ids=ids,
        candidate_ids=torch.cat([ids, batch.candidate_ids[4:]]),
        candidate_contents=torch.tensor([0, 1, 2, 3, 0, 5, 6, 7]),
        margins=torch.tensor([[2.0, -1.0], [1.0, torch.nan], [0.0, 0.0], [1.0, 2.0]]),
    )
    _, counters = ContrastiveLoss(Loss(judge_weight=1.0))(batch)
    divergence = counters.pop("judge_divergence")
    assert divergence > 0
    # 4 queries x 7 others = 28, of which 2 have the same id and 1 the same content.
    assert counters == {
        "masked_same_id": 2,
        "masked_same_content": 1,
        "negatives": 25,
        "queries_without_negatives": 0,
        "judged_queries": 3,
    }


def test_the_mask_comes_from_full_vectors() -> None:
    # At 2 dimensions the other candidate equals the query and would pass any margin; at 3 it scores 0.6 < 0.8.
    batch = replace(
        sample_batch(1),
        queries=torch.tensor([[0.6, 0.0, 0.8]]),
        candidates=torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]),
    )
    rules = {"margin": 0.0}
    _, counters = ContrastiveLoss(Loss.model_validate({"matryoshka": (2,), "false_negatives": rules}))(batch)
    assert counters["masked_margin"] == 0
    assert counters["negatives"] == 1


def test_queries_without_negatives_are_counted() -> None:
    # Query 0 scores 1 with everything but its target, so that only its denominator is emptied by the margin.
    batch = replace(
        sample_batch(2),
        queries=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        candidates=torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]),
    )
    loss, counters = ContrastiveLoss(Loss.model_validate({"false_negatives": {"margin": 0.5}}))(batch)
    # Query 1: its target scores 0, candidate 0 scores 1 and is masked; two negatives at 0 stay: ln 3.
    assert counters["queries_without_negatives"] == 1
    assert counters["negatives"] == 2
    assert float(loss) == pytest.approx(torch.log(torch.tensor(3.0)).item() / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_computed_in_float32(dtype: torch.dtype) -> None:
    batch = sample_batch()
    batch = replace(batch, queries=batch.queries.to(dtype), candidates=batch.candidates.to(dtype))
    wide = replace(batch, queries=batch.queries.float(), candidates=batch.candidates.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(batch)
        assert (wide.queries @ wide.queries.T).dtype is torch.bfloat16  # autocast is on
    assert found.dtype is torch.float32
    assert found == info_nce(wide.queries, wide.candidates, wide.targets, 0.03)


def test_gradients_of_everything() -> None:
    batch = sample_batch(3)
    options: dict[str, Any] = {"temperature": 0.3, "symmetric": True, "matryoshka": (3,), "judge_weight": 0.5}

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return loss_of(replace(batch, queries=left, candidates=right), **options)

    assert torch.autograd.gradcheck(loss, (batch.queries.requires_grad_(), batch.candidates.requires_grad_()))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(0, 99), st.booleans(), st.sampled_from([None, "int8", "binary"]))
def test_the_order_of_candidates_does_not_matter(count: int, seed: int, symmetric: bool, precision: str | None) -> None:
    batch = sample_batch(count, seed)
    assert batch.own is not None
    order = torch.randperm(2 * count, generator=torch.Generator().manual_seed(seed))
    places = torch.argsort(order)
    moved = replace(
        batch,
        candidates=batch.candidates[order],
        targets=places[batch.targets],
        candidate_ids=batch.candidate_ids[order],
        candidate_contents=batch.candidate_contents[order],
        own=places[batch.own],
    )
    config = Loss.model_validate(
        {
            "symmetric": symmetric,
            "precision": precision,
            "matryoshka": (4,),
            "judge_weight": 1.0,
            "false_negatives": {"margin": 0.2},
        }
    )
    loss, counters = ContrastiveLoss(config)(batch)
    loss_moved, counters_moved = ContrastiveLoss(config)(moved)
    torch.testing.assert_close(loss_moved, loss)
    assert counters_moved == pytest.approx(counters)


def single(batch: ContrastiveBatch) -> ContrastiveBatch:
    return replace(
        batch,
        candidates=batch.candidates[:1],
        candidate_ids=batch.candidate_ids[:1],
        candidate_contents=batch.candidate_contents[:1],
    )


def test_a_batch_of_one_pair_is_refused() -> None:
    with pytest.raises(MagicError, match="1 queries and 1 candidates has no negative: 0 were masked") as error:
        loss_of(single(sample_batch(1)))
    assert error.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_batch_of_equal_targets_is_refused() -> None:
    batch = sample_batch()
    same = replace(batch, candidate_contents=torch.zeros(8, dtype=torch.int64))
    with pytest.raises(MagicError, match="no negative: 28 were masked"):
        loss_of(same)


def test_a_dimension_too_many_is_refused() -> None:
    with pytest.raises(MagicError, match=r"8 dimensions.*loss\.matryoshka"):
        loss_of(sample_batch(), matryoshka=(9,))


def test_missing_judge_scores_are_refused() -> None:
    with pytest.raises(MagicError, match="judge scores, and the batch has none"):
        loss_of(replace(sample_batch(), own=None, margins=None), judge_weight=1.0)


def test_not_a_number_is_not_hidden() -> None:
    batch = sample_batch()
    batch.queries[1, 2] = torch.nan
    assert torch.isnan(loss_of(batch, precision="binary", false_negatives={"margin": 0.1}))
