"""Smoothing scales even out hot channels, and keep to what the rewrite allows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.calibration import Statistics, UnitStatistics
from magicmm_quant.schemes import dequantise, quantise_int8
from magicmm_quant.smoothing import LIMIT, smoothable_units, smoothing_scales, unit_scales
from magicmm_quant.units import Feed, unit_shapes
from magicmm_quant.weights import RewrittenWeights

Floats = NDArray[np.float32]


def rounded_rows(rows: Floats) -> Floats:
    """Per row to 8 bits, as the graph does."""
    steps = np.abs(rows).max(axis=1, keepdims=True) / 127
    rounded: Floats = np.rint(rows / steps) * steps
    return rounded


def output_error(rows: Floats, weight: Floats, scales: Floats) -> float:
    found = rounded_rows(rows / scales) @ dequantise(quantise_int8(weight * scales)).T
    return float(np.square(found - rows @ weight.T).mean())


def test_two_hot_channels_cost_a_tenth_after_smoothing() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((64, 128), np.float32)
    rows[:, [3, 77]] *= 100
    weight = generator.standard_normal((96, 128), np.float32)
    scales = unit_scales(np.abs(rows).max(axis=0), np.abs(weight).max(axis=0))
    assert output_error(rows, weight, scales) <= 0.1 * output_error(rows, weight, np.ones(128, np.float32))


def test_scales_are_those_of_the_formula_up_to_their_mean() -> None:
    inputs, weights = np.array([1, 4, 16, 0.25]), np.array([1, 1, 0.5, 2])
    for alpha in (0.3, 0.5, 1.0):
        expected = inputs**alpha / weights ** (1 - alpha)
        expected /= np.prod(expected) ** 0.25
        np.testing.assert_allclose(unit_scales(inputs, weights, alpha), expected, rtol=1e-5)


@pytest.mark.parametrize("loudest", [10.0, 1e4, 1e30])
def test_scales_stay_within_the_limits_and_have_the_geometric_mean_one(loudest: float) -> None:
    inputs = np.ones(256, np.float32)
    inputs[5], inputs[9] = loudest, 0.0
    scales = unit_scales(inputs, np.full(256, 0.02, np.float32))
    assert np.isfinite(scales).all()
    assert 1 / LIMIT * 0.999 <= scales.min() <= scales.max() <= LIMIT * 1.001
    assert np.exp(np.log(scales.astype(np.float64)).mean()) == pytest.approx(1, abs=0.01)


def test_silent_inputs_are_left_alone() -> None:
    np.testing.assert_array_equal(unit_scales(np.zeros(8, np.float32), np.ones(8, np.float32)), np.ones(8))


def test_heads_of_a_group_share_the_scales_of_the_loudest() -> None:
    inputs = np.ones(12, np.float32)
    inputs[4] = 9  # group 0, copy 2, channel 0
    scales = unit_scales(inputs, np.ones(12, np.float32), feed=Feed("x", 0, copies=3, width=2)).reshape(2, 3, 2)
    assert np.ptp(scales, axis=1).max() == 0
    assert scales[0, 0, 0] == pytest.approx(3 * scales[0, 0, 1])
    assert scales[1, 0, 0] == scales[1, 0, 1] == scales[0, 0, 1]


def statistics(checkpoint: Checkpoint) -> Statistics:
    generator = np.random.default_rng(1)
    units = {
        unit: UnitStatistics(9, generator.uniform(0.1, 20, inputs).astype(np.float32), np.ones(inputs))
        for unit, (_, inputs) in unit_shapes(checkpoint.config).items()
    }
    return Statistics(units, "test")


def test_the_scales_of_a_model_are_accepted_by_the_rewrite(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    scales = smoothing_scales(statistics(checkpoint), RewrittenWeights(checkpoint, config, None), config)
    kinds = {unit.rpartition(".")[2] for unit in scales}
    assert kinds == {"qkv", "proj", "fc1", "linear_1", "o", "gate_up", "down"}
    assert set(scales) == set(smoothable_units(config))
    plain, smooth = (RewrittenWeights(checkpoint, config, None, given) for given in ({}, scales))
    unit = "language.layers.1.gate_up"
    gate = slice(0, 80)  # the rows of up are divided for down
    np.testing.assert_allclose(
        smooth.linear(unit).weight[gate], plain.linear(unit).weight[gate] * scales[unit], rtol=1e-6
    )


def test_only_the_named_units_are_smoothed(checkpoint: Checkpoint) -> None:
    weights = RewrittenWeights(checkpoint, checkpoint.config, None)
    only = ["language.layers.0.down", "vision.layers.1.proj"]
    found = smoothing_scales(statistics(checkpoint), weights, checkpoint.config, only=only)
    assert sorted(found) == only


@pytest.mark.parametrize(
    ("alpha", "only", "named"),
    [(1.5, None, "1.5"), (0.5, ["vision.layers.0.fc2"], "fc2"), (0.5, ["language.layers.9.o"], "9.o")],
)
def test_what_cannot_be_smoothed_is_refused(
    checkpoint: Checkpoint, alpha: float, only: list[str] | None, named: str
) -> None:
    weights = RewrittenWeights(checkpoint, checkpoint.config, None)
    with pytest.raises(MagicError, match=named) as caught:
        smoothing_scales(statistics(checkpoint), weights, checkpoint.config, alpha, only)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_unit_that_was_not_observed_is_refused(checkpoint: Checkpoint) -> None:
    weights = RewrittenWeights(checkpoint, checkpoint.config, None)
    with pytest.raises(MagicError, match="not observed"):
        smoothing_scales(Statistics({}, "test"), weights, checkpoint.config)
