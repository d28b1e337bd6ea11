"""Divergence from the judge: by hand, against torch's kl_div, and lists of different lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_training.losses.distillation import MISSING, judge_divergence
from one_thread import one_thread as one_thread

QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
CANDIDATES = torch.tensor([[0.8, 0.6], [0.6, 0.8], [1.0, 0.0]], dtype=torch.float64)


def test_by_hand() -> None:
    # Judge: softmax(2 / 2, 0) = (0.731059, 0.268941). Model, scores 0.8 and 0.6 at 0.5: softmax(1.6, 1.2), which is
    # softmax(0.4, 0) = (0.598688, 0.401312).
    # KL = 0.731059 ln(0.731059 / 0.598688) + 0.268941 ln(0.268941 / 0.401312) = 0.146032 - 0.107643 = 0.038389.
    own, margins = torch.tensor([[0, 1]]), torch.tensor([[2.0, 0.0]])
    found, judged = judge_divergence(QUERIES[:1], CANDIDATES, own, margins, 0.5, 2.0)
    assert judged == 1
    assert float(found) == pytest.approx(0.038389, abs=1e-6)


def test_agreement_costs_nothing() -> None:
    # Scores 0.8, 0.6, 1.0 at 0.1 are 8, 6, 10; margins shifted by a constant say the same.
    own, margins = torch.tensor([[0, 1, 2]]), torch.tensor([[18.0, 16.0, 20.0]])
    found, _ = judge_divergence(QUERIES[:1], CANDIDATES, own, margins, 0.1, 1.0)
    assert float(found) == pytest.approx(0, abs=1e-12)


def ragged() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = functional.normalize(torch.randn(4, 3, generator=generator, dtype=torch.float64), dim=1)
    candidates = functional.normalize(torch.randn(9, 3, generator=generator, dtype=torch.float64), dim=1)
    own = torch.tensor([[3, 1, 4], [5, 0, MISSING], [2, 6, 5], [8, MISSING, MISSING]])
    nan = torch.nan
    margins = torch.tensor([[1.5, -2.0, 0.3], [0.5, 1.0, nan], [2.0, nan, -1.0], [3.0, nan, nan]])
    return queries, candidates, own, margins.double()


def test_short_lists_and_unjudged_candidates_against_torch() -> None:
    queries, candidates, own, margins = ragged()
    wanted = []
    for query, places in enumerate([[0, 1, 2], [0, 1], [0, 2]]):  # the last query has one candidate: not counted
        scores = candidates[own[query, places]] @ queries[query] / 0.2
        judge = functional.log_softmax(margins[query, places] / 1.7, dim=0)
        model = functional.log_softmax(scores, dim=0)
        wanted.append(functional.kl_div(model, judge, reduction="sum", log_target=True))
    found, judged = judge_divergence(queries, candidates, own, margins, 0.2, 1.7)
    assert judged == 3
    torch.testing.assert_close(found, torch.stack(wanted).mean())


def test_gradients() -> None:
    queries, candidates, own, margins = ragged()

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return judge_divergence(left, right, own, margins, 0.2, 1.7)[0]

    assert torch.autograd.gradcheck(loss, (queries.requires_grad_(), candidates.requires_grad_()))


def test_padding_changes_nothing() -> None:
    queries, candidates, own, margins = ragged()
    wider = functional.pad(own, [0, 2], value=MISSING), functional.pad(margins, [0, 2], value=torch.nan)
    found = judge_divergence(queries, candidates, *wider, 0.2, 1.7)
    assert found == judge_divergence(queries, candidates, own, margins, 0.2, 1.7)


def test_nobody_judged_is_zero_with_a_gradient() -> None:
    queries = QUERIES.clone().requires_grad_()
    margins = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    found, judged = judge_divergence(queries, CANDIDATES, torch.tensor([[0, 1], [1, 2]]), margins, 0.1, 1.0)
    assert (float(found.detach()), judged) == (0, 0)
    found.backward()  # type: ignore[no-untyped-call]
    assert queries.grad is not None
    assert not queries.grad.any()


@pytest.mark.parametrize(
    ("own", "margins", "message"),
    [
        (torch.tensor([[0, 1]]), torch.zeros(1, 2), "do not fit 2 queries"),
        (torch.tensor([[0, 1], [1, 2]]), torch.zeros(2, 3), "do not fit"),
        (torch.tensor([0, 1]), torch.zeros(2), "do not fit"),
        (torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), "infinity"),
    ],
)
def test_bad_lists(own: Tensor, margins: Tensor, message: str) -> None:
    with pytest.raises(MagicError, match=message) as error:
        judge_divergence(QUERIES, CANDIDATES, own, margins, 0.1, 1.0)
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
