"""Calibrated rounding: less error at the outputs, in the same formats as plain rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_quant.calibration import Hessian
from magicmm_quant.rounding import round_codes, round_depthwise, round_int4, round_int8
from magicmm_quant.schemes import Int4Weights, Int8Weights, dequantise, quantise_int4, quantise_int8

Floats = NDArray[np.float32]


def matrix(outputs: int, inputs: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((outputs, inputs), np.float32)


def correlated(count: int, inputs: int) -> Floats:
    """A few hidden causes and a little noise, as activations are."""
    generator = np.random.default_rng(1)
    causes = generator.standard_normal((count, 16), np.float32) @ generator.standard_normal((16, inputs), np.float32)
    return causes + generator.standard_normal((count, inputs), np.float32)


def hessian_of(rows: Floats, block: int = 512) -> Hessian:
    hessian = Hessian()
    hessian.add(torch.from_numpy(rows), block)
    return hessian


def output_error(rows: Floats, weight: Floats, rounded: Int4Weights | Int8Weights) -> float:
    return float(np.square(rows @ (dequantise(rounded) - weight).T).sum())


@pytest.mark.parametrize(("group", "inputs"), [(32, 256), (128, 256), (32, 224)])
def test_int4_outputs_miss_less_than_seven_tenths_of_plain_roundings(group: int, inputs: int) -> None:
    rows, weight = correlated(400, inputs), matrix(70, inputs)
    hessian = hessian_of(rows, block=128)  # 224 inputs: the last block is smaller
    plain = quantise_int4(weight, group, hessian.mean_square())
    found = round_int4(weight, group, hessian)
    assert output_error(rows, weight, found) <= 0.7 * output_error(rows, weight, plain)
    assert np.array_equal(found.multipliers, plain.multipliers)
    assert np.array_equal(found.scales, plain.scales)
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes).max() == 7


def test_int8_outputs_miss_less_than_seven_tenths_of_plain_roundings() -> None:
    rows, weight = correlated(400, 256), matrix(70, 256)
    found, plain = round_int8(weight, hessian_of(rows)), quantise_int8(weight)
    assert output_error(rows, weight, found) <= 0.7 * output_error(rows, weight, plain)
    assert np.array_equal(found.scales, plain.scales)
    assert np.abs(found.codes.astype(int)).max() <= 127


def test_independent_inputs_are_rounded_to_the_nearest_code() -> None:
    weight = matrix(1030, 96)  # more outputs than are rounded at a time
    hessian = Hessian(1, [torch.eye(64), torch.eye(32)])
    for found, steps, most in (
        (found4 := round_int4(weight, 32, hessian), found4.group_scales.repeat(32, axis=1), 7),
        (found8 := round_int8(weight, hessian), found8.scales[:, None], 127),
    ):
        nearest = np.clip(np.rint(weight / steps), -most, most)
        assert np.array_equal(found.codes, nearest)


def test_codes_are_those_of_the_textbook_algorithm() -> None:
    """Column by column in float64, the inverse Hessian updated after each (Frantar et al. 2023, section 3.1)."""
    rows, weight = correlated(200, 80), matrix(9, 80)
    found = round_int4(weight, 16, hessian_of(rows), damping=0.05)
    steps = found.group_scales.repeat(16, axis=1).astype(np.float64)
    hessian = rows.T.astype(np.float64) @ rows
    hessian += 0.05 * np.mean(np.diag(hessian)) * np.eye(80)
    left, expected = weight.astype(np.float64), np.empty((9, 80))
    for place in range(80):
        inverse = np.linalg.inv(hessian[place:, place:])
        expected[:, place] = np.clip(np.rint(left[:, place] / steps[:, place]), -7, 7)
        missed = (left[:, place] - expected[:, place] * steps[:, place]) / inverse[0, 0]
        left[:, place:] -= missed[:, None] * inverse[0]
    # float32 sums may turn a code that lies on the edge between two.
    assert (found.codes != expected).mean() < 0.01


def test_errors_do_not_leave_their_block() -> None:
    rows, weight = correlated(300, 128), matrix(5, 128)
    hessian = hessian_of(rows, block=64)
    changed = weight.copy()
    changed[:, :64] = 0.3 * matrix(5, 64, seed=9)
    changed[:, 70] = weight[:, 70] = 0
    changed[:, 127] = weight[:, 127] = 9  # keeps the scales
    first, second = round_int8(weight, hessian), round_int8(changed, hessian)
    assert np.array_equal(first.codes[:, 64:], second.codes[:, 64:])
    assert not np.array_equal(first.codes[:, :64], second.codes[:, :64])


def test_inputs_that_were_never_anything_but_zero_are_rounded_plainly() -> None:
    weight = matrix(6, 64)
    found = round_int8(weight, hessian_of(np.zeros((10, 64), np.float32)))
    assert np.array_equal(found.codes, quantise_int8(weight).codes)


def test_the_weights_and_the_number_of_threads_stay_as_they_were() -> None:
    weight, before = matrix(6, 64), torch.get_num_threads()
    kept = weight.copy()
    torch.set_num_threads(2)
    try:
        round_int4(weight, 32, hessian_of(correlated(100, 64)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(weight, kept)


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ([torch.eye(32)], "32 inputs"),
        ([torch.eye(64) * float("nan")], "NaN"),
        ([-torch.eye(64)], "not positive"),
    ],
)
def test_a_hessian_that_does_not_fit_is_refused(blocks: list[torch.Tensor], named: str) -> None:
    with pytest.raises(MagicError, match=named) as caught:
        round_int4(matrix(3, 64), 32, Hessian(1, blocks))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_hessian_is_the_sum_of_outer_products_of_its_blocks() -> None:
    rows = correlated(50, 80)
    hessian = Hessian()
    hessian.add(torch.from_numpy(rows[:20]), 64)
    hessian.add(torch.from_numpy(rows[20:]), 64)
    assert hessian.rows == 50
    assert [tuple(block.shape) for block in hessian.blocks] == [(64, 64), (16, 16)]
    full = rows.T @ rows
    np.testing.assert_allclose(hessian.blocks[1].numpy(), full[64:, 64:], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(hessian.mean_square(), np.square(rows).mean(axis=0), rtol=1e-4)


def test_codes_of_given_scales_stay_within_their_levels_and_miss_less() -> None:
    rows, weight = correlated(400, 96), matrix(20, 96)
    scales = (np.abs(weight).max(1) / 20).astype(np.float32)
    codes = round_codes(weight, scales, 16, hessian_of(rows))  # what is large does not fit
    assert np.abs(codes.astype(int)).max() == 16
    nearest = np.clip(np.rint(weight / scales[:, None]), -16, 16)
    missed, plain = (np.square(rows @ (found * scales[:, None] - weight).T).sum() for found in (codes, nearest))
    assert missed <= 0.7 * plain


def test_rows_with_inputs_of_their_own_are_rounded_like_a_matrix_each() -> None:
    weight = matrix(30, 25)
    scales = (np.abs(weight).max(1) / 64).astype(np.float32)
    inputs = [torch.from_numpy(correlated(100, 25) * np.float32(1 + place)) for place in range(30)]
    together = round_depthwise(weight, scales, 64, torch.stack([rows.T @ rows for rows in inputs]))
    assert together.dtype == np.int8
    for place, rows in enumerate(inputs):
        alone = round_codes(weight[[place]], scales[[place]], 64, hessian_of(rows.numpy()))
        assert np.array_equal(together[[place]], alone)


def test_rows_that_read_nothing_are_rounded_to_the_nearest_code() -> None:
    weight = matrix(4, 9)
    scales = (np.abs(weight).max(1) / 64).astype(np.float32)
    codes = round_depthwise(weight, scales, 64, torch.zeros(4, 9, 9))
    assert np.array_equal(codes, np.rint(weight / scales[:, None]))


@pytest.mark.parametrize("hessians", [torch.zeros(4, 9), torch.zeros(3, 9, 9), torch.full((4, 9, 9), torch.nan)])
def test_hessians_that_do_not_fit_are_refused(hessians: torch.Tensor) -> None:
    with pytest.raises(MagicError) as caught:
        round_depthwise(matrix(4, 9), np.ones(4, np.float32), 64, hessians)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
