"""Leading dimensions as vectors of their own, so that an index may keep the first 64 numbers of 1,536."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def leading(vectors: Tensor, dim: int) -> Tensor:
    """Return the first `dim` numbers of each row, scaled to length 1; all of them are returned as they are.

    Args:
        vectors: Unit rows [n, d].
        dim: How many to keep.

    Returns:
        [n, dim].
    """
    return vectors if dim == vectors.shape[1] else functional.normalize(vectors[:, :dim], dim=1)


def trained_dims(dims: Sequence[int], full: int) -> list[int]:
    """Return the dimensions that the loss is the plain mean over: all of them, then the leading ones, widest first.

    Args:
        dims: Leading dimensions of a recipe; may be empty, may name the full one.
        full: Length of the model's vectors.

    Raises:
        MagicError: `argument_invalid` for a dimension that the vectors do not have.
    """
    wrong = [dim for dim in dims if not 1 <= dim <= full]
    if wrong:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The vectors have {full} dimensions; {wrong[0]} of them cannot be trained.",
            "Correct loss.matryoshka in the recipe.",
        )
    return sorted({full, *dims}, reverse=True)
