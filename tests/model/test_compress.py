"""Compression of the patch grid, held against torch's own resampling and transformers' pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from magicmm_model.compress import halve_grid, unshuffle

SHAPES = [(1, 2, 2, 3), (2, 32, 32, 8), (1, 6, 10, 5), (3, 16, 4, 1)]
WHOLE = torch.randint(-1000, 1001, (2, 32, 32, 8), generator=torch.Generator().manual_seed(1)).float()
NORMAL = torch.randn(2, 32, 32, 8, generator=torch.Generator().manual_seed(2))


def on_planes(resample: Callable[..., Tensor], grid: Tensor, *args: Any, **options: Any) -> Tensor:
    """Call a function that wants channels before rows."""
    return resample(grid.permute(0, 3, 1, 2), *args, **options).permute(0, 2, 3, 1)


def bilinear(grid: Tensor, **options: Any) -> Tensor:
    return on_planes(functional.interpolate, grid, scale_factor=0.5, mode="bilinear", **options)


def mean_2x2(grid: Tensor) -> Tensor:
    return on_planes(functional.avg_pool2d, grid, 2)


def adaptive_mean(grid: Tensor) -> Tensor:
    return on_planes(functional.adaptive_avg_pool2d, grid, (grid.shape[1] // 2, grid.shape[2] // 2))


class Dimensions(TorchDispatchMode):
    """Notes the most dimensions of any tensor that any operator gives."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, *(value.ndim for value in tree_iter(result) if isinstance(value, Tensor)))
        return result


@pytest.mark.parametrize("resample", [bilinear, mean_2x2, adaptive_mean])
def test_halving_equals_torch_bit_for_bit_where_no_sum_is_rounded(resample: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(halve_grid(WHOLE), resample(WHOLE))


@pytest.mark.parametrize("resample", [bilinear, mean_2x2, adaptive_mean])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2**-22), (torch.float64, 2**-51)])
def test_halving_equals_torch_within_rounding(
    resample: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, rounding: float
) -> None:
    grid = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    # Two units in the last place of the largest number that goes in.
    torch.testing.assert_close(halve_grid(grid), resample(grid), atol=rounding * float(grid.abs().max()), rtol=0)


def test_halving_in_bfloat16_is_rounded_no_worse_than_torch() -> None:
    exact = halve_grid(NORMAL.bfloat16().double())
    ours, theirs = ((half(NORMAL.bfloat16()).double() - exact).abs().max() for half in (halve_grid, bilinear))
    assert ours <= 2 * theirs


@pytest.mark.parametrize("flag", ["align_corners", "antialias"])
def test_the_other_flags_of_interpolate_mean_something_else(flag: str) -> None:
    assert (halve_grid(NORMAL) - bilinear(NORMAL, **{flag: True})).abs().max() > 0.5


def test_antialias_weighs_four_by_four_cells() -> None:
    # At factor 2 the triangle of antialias is 4 cells wide: weights 1, 3, 3, 1 of 8 in each direction.
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps).expand(8, 1, 4, 4)
    inside = on_planes(functional.conv2d, NORMAL[:, 1:-1, 1:-1], kernel, stride=2, groups=8)
    torch.testing.assert_close(bilinear(NORMAL, antialias=True)[:, 1:-1, 1:-1], inside, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_unshuffle_equals_transformers(hf: Any, shape: tuple[int, ...]) -> None:
    grid = torch.randn(shape)
    assert torch.equal(unshuffle(grid), hf.model.pixel_shuffle(grid, scale_factor=0.5).flatten(1, 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_unshuffle_is_that_of_torch_with_cells_before_channels(shape: tuple[int, ...]) -> None:
    grid = torch.randn(shape)
    n, height, width, channels = shape
    planes = functional.pixel_unshuffle(grid.permute(0, 3, 1, 2), 2)  # channel by channel, its four cells together
    tokens = planes.reshape(n, channels, 4, height // 2 * width // 2).permute(0, 3, 2, 1).flatten(2)
    assert torch.equal(unshuffle(grid), tokens)


def test_a_token_holds_its_cells_in_reading_order() -> None:
    cells = torch.arange(16).reshape(1, 4, 4, 1)
    assert unshuffle(cells).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_a_plane_of_one_colour_stays_it() -> None:
    assert torch.equal(halve_grid(torch.full((1, 8, 8, 2), 0.1)), torch.full((1, 4, 4, 2), 0.1))


@pytest.mark.parametrize("step", [halve_grid, unshuffle])
def test_no_tensor_has_more_dimensions_than_core_ml_takes(step: Callable[[Tensor], Tensor]) -> None:
    with Dimensions() as seen:
        step(NORMAL)
    assert 4 <= seen.most <= 5


@pytest.mark.parametrize("step", [halve_grid, unshuffle])
def test_gradients_flow(step: Callable[[Tensor], Tensor]) -> None:
    grid = torch.randn(1, 4, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step, (grid,))
