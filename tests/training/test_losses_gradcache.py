"""GradCache in one process: the plain gradient with dropout, memory for one micro batch, and what is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magicmm import ErrorCode, MagicError
from magicmm_training.losses.contrastive import ContrastiveLoss
from magicmm_training.losses.gradcache import cached_backward
from magicmm_training.recipe import Loss
from one_thread import one_thread as one_thread
from training_engines import LocalEngine
from two_process_losses import CASES, Embedder, Share, shares


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(found) == 4
    assert all(value.abs().max() > 1e-4 for value in found.values())
    return found


def plain(loss: ContrastiveLoss, share: Share, model: Embedder) -> float:
    torch.manual_seed(share.seed)
    found, _ = loss(share.batch(torch.cat([model(micro.to(dtype_of(model))) for micro in share.micros()])))
    found.backward()  # type: ignore[no-untyped-call]
    return float(found.detach())


def dtype_of(model: Embedder) -> torch.dtype:
    return next(model.parameters()).dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_the_plain_loss(name: str, dtype: torch.dtype) -> None:
    loss = ContrastiveLoss(Loss.model_validate(CASES[name]))
    share = shares()[1]
    model, other, engine = Embedder().to(dtype), Embedder().to(dtype), LocalEngine()
    wanted = plain(loss, share, model)
    torch.manual_seed(share.seed)
    micros = [micro.to(dtype) for micro in share.micros()]
    result = cached_backward(other, micros, lambda rows: loss(share.batch(rows)), engine)
    assert result.loss == pytest.approx(wanted, abs=1e-6)
    assert engine.flags == [False, False, True]
    for name, value in gradients(model).items():
        torch.testing.assert_close(
            gradients(other)[name], value, rtol=0, atol=1e-6 if dtype is torch.float32 else 1e-12
        )


def test_dropout_is_active() -> None:
    """The test above would also pass without dropout; here is the proof that its models drop."""
    model, share = Embedder(), shares()[1]
    torch.manual_seed(0)
    assert not torch.equal(model(share.inputs), model(share.inputs))


def test_accumulates_onto_what_is_there() -> None:
    loss, share, model = ContrastiveLoss(Loss()), shares()[1], Embedder()
    plain(loss, share, model)
    once = {name: value.clone() for name, value in gradients(model).items()}
    torch.manual_seed(share.seed)
    cached_backward(model, share.micros(), lambda rows: loss(share.batch(rows)), LocalEngine())
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, 2 * once[name])


def test_one_micro_batch_goes_through_once() -> None:
    loss, share, model, engine = ContrastiveLoss(Loss()), shares()[1], Embedder(), LocalEngine()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    cached_backward(model, [share.inputs], lambda rows: loss(share.batch(rows)), engine)
    assert passes == [True]
    assert engine.flags == [True]


def test_only_one_micro_batch_keeps_activations() -> None:
    """Graphs that are alive are counted by the tensors that autograd has saved and not yet let go."""
    share, model = shares()[1], Embedder()
    alive = most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, most
            self.tensor = tensor
            alive += tensor.numel()
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.tensor.numel()

    def peak(micros: list[Tensor]) -> int:
        nonlocal most
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            cached_backward(model, micros, lambda rows: (rows.sum(), {}), LocalEngine())
        return most

    whole = share.inputs.repeat(8, 1)
    weights = sum(value.numel() for value in model.parameters())
    assert peak([whole]) > 4 * weights  # activations dominate
    assert peak(list(whole.chunk(8))) < peak([whole]) / 4


def test_random_numbers_go_on_as_after_one_pass() -> None:
    share, model = shares()[1], Embedder()

    def noisy(rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        return rows.sum() * torch.rand(()), {}  # a loss may draw numbers too

    torch.manual_seed(5)
    noisy(torch.cat([model(micro) for micro in share.micros()]))
    wanted = torch.rand(3)
    torch.manual_seed(5)
    cached_backward(model, share.micros(), noisy, LocalEngine())
    assert torch.equal(torch.rand(3), wanted)


def test_together_with_gradient_checkpointing_and_autocast() -> None:
    share = shares()[1]
    loss = ContrastiveLoss(Loss())
    model, other = Embedder().float(), Embedder().float()

    def recomputed(inputs: Tensor) -> Any:
        return checkpoint(other, inputs, use_reentrant=False)

    micros = [micro.float() for micro in share.micros()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(share.seed)
        found, _ = loss(share.batch(torch.cat([model(micro) for micro in micros])))
        found.backward()  # type: ignore[no-untyped-call]
        torch.manual_seed(share.seed)
        result = cached_backward(recomputed, micros, lambda rows: loss(share.batch(rows)), LocalEngine())
    assert result.loss == pytest.approx(float(found.detach()), abs=1e-6)
    for name, value in gradients(model).items():
        # Sums over micro batches are rounded to bfloat16 in another order.
        difference = (gradients(other)[name] - value).norm() / value.norm()
        assert difference < 0.02


def test_counters_come_back() -> None:
    share = shares()[1]
    said: Mapping[str, Any] = {"negatives": 3.0}
    assert cached_backward(Embedder(), share.micros(), lambda rows: (rows.sum(), said), LocalEngine()).counters == said


def test_no_micro_batch_is_refused() -> None:
    with pytest.raises(MagicError, match="0 micro batches") as error:
        cached_backward(Embedder(), [], lambda rows: (rows.sum(), {}), LocalEngine())
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
