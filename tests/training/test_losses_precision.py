"""Stored vectors: the numbers of the index, the bits of sentence-transformers, gradients as if nothing happened."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from sentence_transformers.util import quantize_embeddings
from torch import Tensor
from torch.nn import functional

from magicmm.quantise import quantise
from magicmm_training.losses.precision import stored
from one_thread import one_thread as one_thread


def unit_rows(count: int = 20, dim: int = 48) -> Tensor:
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def test_int8_is_what_the_index_stores() -> None:
    vectors = unit_rows()
    codes, scales = quantise(vectors.numpy())
    wanted = codes.astype(np.float32) * scales[:, None]
    assert np.abs(wanted - vectors.numpy()).max() > 1e-4  # rounding happened
    np.testing.assert_allclose(stored(vectors, "int8").numpy(), wanted, rtol=1e-6, atol=0)


def test_int8_by_hand() -> None:
    # Largest 0.8: codes round(0.6 x 127 / 0.8) = round(95.25) = 95 and 127; length sqrt(95^2 + 127^2) = 158.6001.
    found = stored(torch.tensor([[0.6, -0.8]]), "int8")
    torch.testing.assert_close(found, torch.tensor([[95 / 158.6001, -127 / 158.6001]]), rtol=0, atol=1e-6)


def test_binary_scores_count_bits() -> None:
    vectors = unit_rows()
    found = stored(vectors, "binary")
    bits = np.unpackbits(quantize_embeddings(vectors.numpy(), "ubinary"), axis=1)
    assert bits.shape == (20, 48)
    differ = (bits[:, None] != bits[None]).sum(axis=2)
    np.testing.assert_allclose((found @ found.T).numpy(), 1 - 2 * differ / 48, atol=1e-6)


def test_zero_is_no_positive_number() -> None:
    assert (stored(torch.tensor([[0.0, 1.0, -1.0, 0.5]]), "binary") > 0).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_rows_are_unit_rows(precision: Literal["int8", "binary"]) -> None:
    lengths = stored(unit_rows(), precision).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(20))


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_the_gradient_passes_straight_through(precision: Literal["int8", "binary"]) -> None:
    vectors = unit_rows().requires_grad_()
    weights = torch.randn(20, 48, generator=torch.Generator().manual_seed(1))
    (stored(vectors, precision) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, weights, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_not_a_number_stays_one(precision: Literal["int8", "binary"]) -> None:
    vectors = unit_rows()
    vectors[1, 2] = torch.nan
    assert not torch.isfinite(stored(vectors, precision)[1]).all()


def test_a_row_of_zeros_stays_one() -> None:
    assert (stored(torch.zeros(1, 4), "int8") == 0).all()
