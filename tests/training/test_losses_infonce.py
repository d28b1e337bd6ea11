"""InfoNCE against numbers worked out by hand, finite differences and torch's cross entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_training.losses import infonce
from magicmm_training.losses.infonce import info_nce
from one_thread import one_thread as one_thread

QUERIES = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
CANDIDATES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=torch.float64)
TARGETS = torch.tensor([0, 1])


def random_batch(queries: int, candidates: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(queries, 6, generator=generator, dtype=torch.float64)
    right = torch.randn(candidates, 6, generator=generator, dtype=torch.float64)
    targets = torch.randperm(candidates, generator=generator)[:queries]
    return functional.normalize(left, dim=1), functional.normalize(right, dim=1), targets


def test_by_hand() -> None:
    # Scores: [1, 0, 0.8] and [0.6, 0.8, 0.96]. Divided by 0.5: [2, 0, 1.6] and [1.2, 1.6, 1.92].
    # First query:  ln(e^2 + 1 + e^1.6) - 2 = ln(7.389056 + 1 + 4.953032) - 2 = 2.590923 - 2 = 0.590923.
    # Second query: ln(e^1.2 + e^1.6 + e^1.92) - 1.6 = ln(3.320117 + 4.953032 + 6.820958) - 1.6 = 1.114305.
    assert float(info_nce(QUERIES, CANDIDATES, TARGETS, 0.5)) == pytest.approx((0.590923 + 1.114305) / 2, abs=1e-6)


def test_symmetric_by_hand() -> None:
    # Candidate 0 sees the queries at 1 and 0.6: ln(e^2 + e^1.2) - 2 = ln(10.709173) - 2 = 0.371101.
    # Candidate 1 sees them at 0 and 0.8: ln(1 + e^1.6) - 1.6 = ln(5.953032) - 1.6 = 0.183901.
    found = info_nce(QUERIES, CANDIDATES, TARGETS, 0.5, symmetric=True)
    assert float(found) == pytest.approx(((0.590923 + 1.114305) / 2 + (0.371101 + 0.183901) / 2) / 2, abs=1e-6)


def test_mask_by_hand() -> None:
    # Without candidate 2, the first query has ln(e^2 + 1) - 2 = 0.126928; the second is as before.
    mask = torch.tensor([[False, False, True], [False, False, False]])
    found = info_nce(QUERIES, CANDIDATES, TARGETS, 0.5, mask)
    assert float(found) == pytest.approx((0.126928 + 1.114305) / 2, abs=1e-6)


def test_a_masked_pair_is_masked_in_both_directions() -> None:
    # Query 0 may not push candidate 1 away, so candidate 1 has no other query: its part is ln(1) = 0.
    # First query: ln(e^2 + e^1.6) - 2 = ln(12.342088) - 2 = 0.513015.
    mask = torch.tensor([[False, True, False], [False, False, False]])
    found = info_nce(QUERIES, CANDIDATES, TARGETS, 0.5, mask, symmetric=True)
    assert float(found) == pytest.approx(((0.513015 + 1.114305) / 2 + (0.371101 + 0) / 2) / 2, abs=1e-6)


def test_queries_of_one_target_do_not_compete() -> None:
    # Both queries want candidate 0, so in the other direction neither is a negative: that part is 0.
    both = torch.tensor([0, 0])
    one_way = info_nce(QUERIES, CANDIDATES, both, 0.5)
    assert float(info_nce(QUERIES, CANDIDATES, both, 0.5, symmetric=True)) == pytest.approx(float(one_way) / 2)


def test_gradient_by_hand() -> None:
    # dL/dscores = (softmax - one-hot) / (temperature x queries); dL/dqueries = dL/dscores @ candidates.
    queries = QUERIES.clone().requires_grad_()
    info_nce(queries, CANDIDATES, TARGETS, 0.5).backward()  # type: ignore[no-untyped-call]
    first = torch.tensor([math.exp(2), 1, math.exp(1.6)], dtype=torch.float64) / 13.342088
    second = torch.tensor([math.exp(1.2), math.exp(1.6), math.exp(1.92)], dtype=torch.float64) / 15.094107
    first[0] -= 1
    second[1] -= 1
    wanted = torch.stack([first, second]) / (0.5 * 2) @ CANDIDATES
    torch.testing.assert_close(queries.grad, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_agree_with_finite_differences(symmetric: bool, masked: bool) -> None:
    queries, candidates, targets = random_batch(4, 7)
    mask = None
    if masked:
        mask = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) < 0.4
        mask.scatter_(1, targets[:, None], False)
        assert mask.any()

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return info_nce(left, right, targets, 0.3, mask, symmetric)

    inputs = (queries.requires_grad_(), candidates.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_change_nothing(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, candidates, targets = random_batch(7, 12)
    mask = torch.rand(7, 12, generator=torch.Generator().manual_seed(3)) < 0.3
    mask.scatter_(1, targets[:, None], False)
    results = []
    for block in (1 << 25, 30, 1):  # all rows at once, 2 or 4 at a time, one at a time
        monkeypatch.setattr(infonce, "_BLOCK", block)
        inputs = queries.clone().requires_grad_(), candidates.clone().requires_grad_()
        loss = info_nce(*inputs, targets, 0.03, mask, symmetric)
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    for other in results[1:]:
        for found, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_blocks_keep_no_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, candidates, targets = random_batch(7, 12)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    def most_kept(block: int) -> int:
        kept.clear()
        monkeypatch.setattr(infonce, "_BLOCK", block)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            info_nce(queries.requires_grad_(), candidates.requires_grad_(), targets, 0.03)
        return max(kept, default=0)

    assert most_kept(1 << 25) >= 7 * 12
    assert most_kept(24) <= candidates.numel() < 7 * 12


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 99), st.booleans())
def test_the_order_of_candidates_does_not_matter(count: int, more: int, seed: int, symmetric: bool) -> None:
    queries, candidates, targets = random_batch(count, count + more, seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, count + more, generator=generator) < 0.3
    mask.scatter_(1, targets[:, None], False)
    order = torch.randperm(count + more, generator=generator)
    places = torch.argsort(order)  # where each candidate went
    found = info_nce(queries, candidates[order], places[targets], 0.05, mask[:, order], symmetric)
    torch.testing.assert_close(found, info_nce(queries, candidates, targets, 0.05, mask, symmetric))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_masking_a_candidate_is_leaving_it_out(count: int, more: int, seed: int) -> None:
    queries, candidates, _ = random_batch(count, count + more, seed)
    targets = torch.arange(count)
    mask = torch.zeros(count, count + more, dtype=torch.bool)
    mask[:, count:] = True
    found = info_nce(queries, candidates, targets, 0.05, mask)
    torch.testing.assert_close(found, info_nce(queries, candidates[:count], targets, 0.05))


def test_equal_scores_cost_the_logarithm_of_their_number() -> None:
    # Eight candidates that all score the same: the target has probability 1/8.
    same = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    assert float(info_nce(same[:3], same, torch.tensor([0, 5, 7]), 0.03)) == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERIES, CANDIDATES, torch.tensor([0, 3]), 0.5), "outside the 3 candidates"),
        ((QUERIES, CANDIDATES, torch.tensor([0, -1]), 0.5), "outside the 3 candidates"),
        ((QUERIES, CANDIDATES, torch.tensor([0]), 0.5), "do not fit"),
        ((QUERIES, CANDIDATES[:, :1], TARGETS, 0.5), "do not fit"),
        ((QUERIES[:0], CANDIDATES, TARGETS[:0], 0.5), "do not fit"),
        ((QUERIES, CANDIDATES, TARGETS, 0.5, torch.zeros(2, 2, dtype=torch.bool)), "mask is"),
        ((QUERIES, CANDIDATES, TARGETS, 0.5, torch.eye(2, 3, dtype=torch.bool)), "own target"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(MagicError, match=message) as error:
        info_nce(*arguments)  # type: ignore[arg-type]
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
