"""Rotations: orthogonal, deterministic, and the same by factors as by the whole matrix."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_quant.hadamard import Rotation, hadamard

SIZES = [1, 2, 4, 12, 20, 28, 32, 36, 48, 60, 80, 896, 1536]


def rows(size: int, count: int = 3, dtype: type = np.float64) -> NDArray[np.float64]:
    return np.random.default_rng(size).standard_normal((count, size)).astype(dtype)


@pytest.mark.parametrize("size", [*SIZES, 3584])
def test_hadamard_matrices_have_signs_as_entries_and_orthogonal_rows(size: int) -> None:
    matrix = hadamard(size).astype(np.float32)  # exact: sums of at most 3584 signs
    assert matrix.shape == (size, size)
    assert (np.abs(matrix) == 1).all()
    assert np.array_equal(matrix @ matrix.T, size * np.eye(size, dtype=np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_is_orthogonal_and_all_its_entries_have_the_same_size(size: int) -> None:
    matrix = Rotation(size, seed=3).matrix()
    assert np.allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    assert np.allclose(np.abs(matrix), size**-0.5, rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_apply_is_the_product_with_the_matrix(size: int) -> None:
    rotation = Rotation(size, seed=3)
    assert np.allclose(rotation.apply(rows(size)), rows(size) @ rotation.matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_undo_takes_the_rotation_back(size: int) -> None:
    rotation = Rotation(size, seed=3)
    assert np.allclose(rotation.undo(rows(size)), rows(size) @ rotation.matrix().T, rtol=0, atol=1e-12)
    assert np.allclose(rotation.undo(rotation.apply(rows(size))), rows(size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 3, 48), (0, 48), (7000, 48)])
def test_leading_axes_stay_as_they_are(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).standard_normal(shape)
    rotation = Rotation(48, seed=0)
    rotated = rotation.apply(values)
    assert rotated.shape == shape
    assert np.allclose(rotated, values @ rotation.matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_rows_is_kept_and_they_are_not_changed(dtype: type) -> None:
    values = rows(1536, dtype=dtype)
    before = values.copy()
    rotation = Rotation(1536, seed=0)
    rotated = rotation.apply(values)
    assert rotated.dtype == rotation.undo(rotated).dtype == dtype
    assert np.array_equal(values, before)
    assert np.abs(rotated - before.astype(np.float64) @ rotation.matrix()).max() < 1e-6


def test_the_same_seed_gives_the_same_rotation_for_ever() -> None:
    assert np.array_equal(Rotation(48, 5).matrix(), Rotation(48, 5).matrix())
    assert not np.array_equal(Rotation(48, 5).matrix(), Rotation(48, 6).matrix())
    signs = (Rotation(1536, 0).matrix() > 0).tobytes()
    assert hashlib.sha256(signs).hexdigest()[:16] == "73712f90928769fc"


def test_one_outlier_and_a_row_of_equal_values_are_both_spread() -> None:
    outlier = np.zeros((2, 1536))
    outlier[0, 77] = 1536**0.5
    outlier[1] = 1
    peaks = np.abs(Rotation(1536, seed=0).apply(outlier)).max(axis=1)
    assert np.isclose(peaks[0], 1)
    assert peaks[1] < 5  # without signs it would be 39


@pytest.mark.parametrize("size", [-4, 0, 3, 6, 7, 100, 92, 184])
def test_a_size_without_a_known_matrix_is_named(size: int) -> None:
    with pytest.raises(MagicError) as caught:
        Rotation(size, seed=0)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert f" {size} " in caught.value.message


@pytest.mark.parametrize("shape", [(3, 47), (48, 3), ()])
def test_rows_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MagicError) as caught:
        Rotation(48, seed=0).apply(np.zeros(shape))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert str(list(shape)) in caught.value.message
