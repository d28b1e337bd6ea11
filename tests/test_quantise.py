"""int8 vectors: exact against integer and fraction arithmetic, close to the cosine they stand for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from magicmm.quantise import quantise


def test_codes_and_scale_by_hand() -> None:
    codes, scales = quantise(np.array([[0.5, -0.25, 0.0, 0.125]], np.float32))
    assert codes.tolist() == [[127, -64, 0, 32]]  # 63.5 and 31.75 round to even and up
    assert scales[0] == np.float32(1 / np.sqrt(127**2 + 64**2 + 32**2))
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32


def test_halves_round_to_even() -> None:
    codes, _ = quantise(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32))
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


@pytest.mark.parametrize("dim", [1, 2, 7, 384, 1536, 16384])
def test_every_row_equals_what_it_is_alone(dim: int) -> None:
    vectors = np.random.default_rng(dim).normal(size=(9, dim)).astype(np.float32)
    codes, scales = quantise(vectors)
    for row in range(9):
        one, scale = quantise(vectors[row : row + 1])
        assert np.array_equal(one[0], codes[row])
        assert scale[0] == scales[row]


@pytest.mark.parametrize("dim", [2, 8, 384, 16384])
def test_codes_times_scale_have_length_one(dim: int) -> None:
    codes, scales = quantise(np.random.default_rng(dim).normal(size=(20, dim)).astype(np.float32))
    lengths = [
        float(np.float64(scale) * np.sqrt((row.astype(np.int64) ** 2).sum()))
        for row, scale in zip(codes, scales, strict=True)
    ]
    assert lengths == pytest.approx([1.0] * 20, abs=1e-7)


def test_codes_agree_with_fractions() -> None:
    vectors = np.random.default_rng(4).normal(size=(30, 16)).astype(np.float32)
    codes, _ = quantise(vectors)
    for row, found in zip(vectors, codes, strict=True):
        peak = max(abs(Fraction(float(value))) for value in row)
        exact = [Fraction(float(value)) * 127 / peak for value in row]
        assert max(abs(value - int(code)) for value, code in zip(exact, found, strict=True)) <= Fraction(50001, 100000)


def test_codes_use_the_whole_range_and_never_minus_128() -> None:
    codes, _ = quantise(np.random.default_rng(4).normal(size=(500, 24)).astype(np.float32))
    assert np.abs(codes.astype(int)).max(axis=1).tolist() == [127] * 500


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_length_of_the_input_does_not_matter(factor: float) -> None:
    vector = np.array([[1.0, -0.5, 0.25, 0.75]], np.float32)
    codes, scales = quantise(vector * np.float32(factor))
    assert codes.tolist() == [[127, -64, 32, 95]]
    assert scales[0] == quantise(vector)[1][0]


def test_cosines_survive() -> None:
    vectors = np.random.default_rng(5).normal(size=(200, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes, scales = quantise(vectors)
    restored = codes.astype(np.float32) * scales[:, None]
    assert np.abs(restored @ restored.T - vectors @ vectors.T).max() < 0.003
