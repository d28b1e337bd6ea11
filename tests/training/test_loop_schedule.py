"""The learning rate over time, and what decays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from magicmm_training.loop.optimiser import build_optimiser, clip_gradients
from magicmm_training.loop.schedule import learning_rate, total_steps
from magicmm_training.recipe import Batch, Optimiser, TrainingStage
from one_thread import one_thread as one_thread


def stage(**options: object) -> TrainingStage:
    return TrainingStage(name="a", batch=Batch(per_device=1), optimiser=Optimiser(lr=1), **options)  # type: ignore[arg-type]


def test_steps_are_given_or_follow_from_epochs() -> None:
    assert total_steps(stage(steps=7), 100) == 7
    assert total_steps(stage(epochs=2), 100) == 200
    assert total_steps(stage(epochs=0.25), 10) == 2
    assert total_steps(stage(epochs=0.01), 10) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_in_the_warm_up_and_falls_as_named(schedule: str) -> None:
    settings = Optimiser(lr=2.0, schedule=schedule, warmup_share=0.2)  # type: ignore[arg-type]
    rates = [learning_rate(settings, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    expected = {
        "cosine": [1 + math.cos(math.pi * done / 16) for done in range(16)],
        "linear": [2 - done / 8 for done in range(16)],
        "constant": [2.0] * 16,
    }
    assert rates[4:] == pytest.approx(expected[schedule])


def test_the_cosine_is_that_of_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=11)
    for step in range(11):
        ours = learning_rate(Optimiser(lr=0.3, warmup_share=0), step, 11)
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_a_run_that_is_all_warm_up_never_divides_by_zero() -> None:
    assert learning_rate(Optimiser(lr=1, warmup_share=1), 0, 1) == pytest.approx(0.5)


def test_vectors_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    model[2].requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimiser = build_optimiser(model, Optimiser(lr=0.1, weight_decay=0.5, betas=(0.8, 0.9)))
    assert [group["betas"] for group in optimiser.param_groups] == [(0.8, 0.9)] * 2
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"}
    assert torch.allclose(model.get_parameter("0.weight"), before["0.weight"] * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_that_of_torch(most: float) -> None:
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    for module in (ours, theirs):
        module.weight.grad, module.bias.grad = torch.full((3, 4), 2.0), None
    norm = clip_gradients(ours, most)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), most)))
    assert ours.weight.grad is not None and theirs.weight.grad is not None
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, rtol=1e-5)


def test_clipping_without_gradients_does_nothing() -> None:
    assert clip_gradients(nn.Linear(2, 2), 1.0) == 0.0


def test_a_norm_that_is_not_finite_is_reported_and_scales_nothing() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.grad = torch.tensor([[math.nan, 1.0], [5.0, 7.0]])
    assert math.isnan(clip_gradients(model, 1.0))
    assert model.weight.grad[1].tolist() == [5.0, 7.0]
