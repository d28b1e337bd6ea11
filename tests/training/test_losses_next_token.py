"""Next-token loss of packed answers, against torch and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_training.losses import next_token
from magicmm_training.losses.next_token import IGNORED, next_token_loss, next_token_targets
from one_thread import one_thread as one_thread

X = IGNORED


def same(rows: Tensor) -> Tensor:
    """A head for hidden states that are logits."""
    return rows


def test_targets_by_hand() -> None:
    # Two samples and padding in one sequence: question 1 2, answer 3 4 5; question 6, answer 7 8; padding 0.
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 0, 0]])
    answers = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1, 0, 0]]).bool()
    samples = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]])
    # The last token of the question predicts the first of the answer; the last of an answer predicts nothing.
    assert next_token_targets(ids, answers, samples).tolist() == [[X, 3, 4, 5, X, 7, 8, X, X, X]]


def test_an_answer_at_the_start_of_a_sample_is_not_predicted_from_the_sample_before() -> None:
    ids, answers = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, True, True]])
    assert next_token_targets(ids, answers, torch.tensor([[0, 0, 1, 1]])).tolist() == [[2, X, 4, X]]


def test_one_token_has_nothing_to_predict() -> None:
    one = torch.tensor([[1]])
    assert next_token_targets(one, one.bool(), one).tolist() == [[X]]


def test_by_hand() -> None:
    # Logits (ln 3, 0) give the first token 3/4: -ln(3/4) = 0.287682; (0, 0) give 1/2: 0.693147; one place is ignored.
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0], [5.0, 5.0]]])
    total, count = next_token_loss(logits, torch.tensor([[0, 1, X]]), same)
    assert float(total) == pytest.approx(0.287682 + 0.693147, abs=1e-6)
    assert int(count) == 2


def head_and_hidden(dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(6, 11, bias=False).to(dtype)
    head.weight.data = torch.randn(11, 6, generator=generator).to(dtype)
    hidden = torch.randn(3, 9, 6, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 11, (3, 9), generator=generator)
    targets[torch.rand(3, 9, generator=generator) < 0.4] = X
    return head, hidden, targets


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_chunks_against_torch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_token, "_CHUNK", chunk)
    head, hidden, targets = head_and_hidden()
    assert head.weight is not None
    total, count = next_token_loss(hidden, targets, head)
    wanted = functional.cross_entropy(head(hidden).flatten(0, 1), targets.flatten(), ignore_index=X, reduction="sum")
    assert int(count) == int((targets != X).sum()) > 10
    torch.testing.assert_close(total, wanted)
    inputs = hidden, head.weight
    for found, expected in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients() -> None:
    head, hidden, targets = head_and_hidden()

    def loss(states: Tensor) -> Tensor:
        return next_token_loss(states, targets, head)[0]

    assert torch.autograd.gradcheck(loss, (hidden,))


def test_bfloat16_is_summed_in_float32() -> None:
    head, hidden, targets = head_and_hidden(torch.bfloat16)
    total, _ = next_token_loss(hidden, targets, head)
    logits = head(hidden).float()
    assert total.dtype is torch.float32
    wanted = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=X, reduction="sum")
    torch.testing.assert_close(total, wanted)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 99))
def test_accumulation_over_uneven_parts_is_the_mean_of_all_tokens(lengths: list[int], seed: int) -> None:
    """Micro batches and processes with few target tokens do not weigh more: sum x P / T, averaged over P."""
    head, _, _ = head_and_hidden()
    assert head.weight is not None
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for length in [3, *lengths]:
        hidden = torch.randn(1, length, 6, generator=generator, dtype=torch.float64)
        targets = torch.randint(0, 11, (1, length), generator=generator)
        targets[:, 1:] = torch.where(torch.rand(length - 1, generator=generator) < 0.5, X, targets[:, 1:])
        parts.append((hidden, targets))
    everything = torch.cat([hidden for hidden, _ in parts], 1), torch.cat([targets for _, targets in parts], 1)
    logits = head(everything[0][0])
    mean = functional.cross_entropy(logits, everything[1][0], ignore_index=X)
    (wanted,) = torch.autograd.grad(mean, head.weight)

    tokens = int((everything[1] != X).sum())
    shares = [parts[:1], parts[1:]]  # two processes, the second of which accumulates
    found = torch.zeros_like(wanted)
    for share in shares:
        for hidden, targets in share:
            total, _ = next_token_loss(hidden, targets, head)
            found += torch.autograd.grad(total * len(shares) / tokens, head.weight)[0] / len(shares)
    torch.testing.assert_close(found, wanted)


def test_a_batch_without_targets_still_reaches_every_parameter() -> None:
    head, hidden, targets = head_and_hidden()
    total, count = next_token_loss(hidden, torch.full_like(targets, X), head)
    total.backward()  # type: ignore[no-untyped-call]
    assert (float(total.detach()), int(count)) == (0, 0)
    for gradient in (hidden.grad, head.weight.grad):
        assert gradient is not None
        assert not gradient.any()


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(MagicError, match="do not fit") as error:
        next_token_loss(torch.zeros(1, 3, 2), torch.zeros(1, 4, dtype=torch.int64), same)
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
