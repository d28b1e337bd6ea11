"""Leading dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_training.losses.matryoshka import leading, trained_dims
from one_thread import one_thread as one_thread


def test_leading_numbers_are_scaled_to_length_one() -> None:
    # (3, 4) of (3, 4, 12) / 13 has length 5 / 13.
    found = leading(torch.tensor([[3.0, 4.0, 12.0]]) / 13, 2)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]]))


def test_all_dimensions_are_taken_as_they_are() -> None:
    vectors = torch.tensor([[0.3, 0.4]])  # no unit row on purpose
    assert leading(vectors, 2) is vectors


def test_gradients() -> None:
    vectors = functional.normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double(), dim=1)

    def cut(rows: Tensor) -> Tensor:
        return leading(rows, 3)

    assert torch.autograd.gradcheck(cut, (vectors.requires_grad_(),))


@pytest.mark.parametrize(
    ("dims", "wanted"), [((), [8]), ((2, 4), [8, 4, 2]), ((8, 2), [8, 2]), ((4, 4), [8, 4]), ((1,), [8, 1])]
)
def test_the_full_vector_is_always_trained_once(dims: tuple[int, ...], wanted: list[int]) -> None:
    assert trained_dims(dims, 8) == wanted


@pytest.mark.parametrize("dim", [9, 0])
def test_a_dimension_that_is_not_there(dim: int) -> None:
    with pytest.raises(MagicError, match=f"have 8 dimensions; {dim}") as error:
        trained_dims((4, dim), 8)
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
