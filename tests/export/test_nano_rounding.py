"""Rounding the convolutions of the built-in model: what they read is what torch multiplies; outputs change little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from magicmm_export.nano.efficientnet import Conv
from magicmm_export.nano.linear import row_scales
from magicmm_export.nano.rounding import ConvInputs

Floats = NDArray[np.float32]
LEVELS = 16

PLAIN = Conv("plain", np.empty((24, 12, 1, 1), np.float32), np.zeros(24, np.float32), 1, (0, 0, 0, 0), relu6=False)
WIDE = Conv("wide", np.empty((24, 12, 3, 3), np.float32), np.zeros(24, np.float32), 2, (0, 0, 1, 1), relu6=True)
DEPTHWISE = Conv(
    "depthwise", np.empty((12, 1, 5, 5), np.float32), np.zeros(12, np.float32), 1, (2, 2, 2, 2), relu6=True
)


def filled(conv: Conv) -> Conv:
    weight = np.random.default_rng(0).standard_normal(conv.weight.shape, np.float32)
    return Conv(conv.name, weight, conv.bias, conv.stride, conv.pads, conv.relu6)


def maps(count: int) -> Floats:
    """Positive, smooth, and alike in all channels, as maps of a network are."""
    noise = torch.rand(count, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    mixed = torch.einsum("nchw,dc->ndhw", noise, torch.rand(12, 4, generator=torch.Generator().manual_seed(2)))
    return functional.avg_pool2d(mixed, 3, 1, 1).numpy()


def given(conv: Conv, weight: Floats, values: Floats) -> Floats:
    """What torch gives for weights of the convolution, before its bias."""
    top, left, bottom, right = conv.pads
    padded = functional.pad(torch.from_numpy(values), (left, right, top, bottom))
    return functional.conv2d(padded, torch.from_numpy(weight), None, conv.stride, groups=conv.groups).numpy()


def read_by(conv: Conv, values: Floats) -> ConvInputs:
    inputs = ConvInputs()
    for part in np.split(values, 2):
        inputs.add(conv, part)
    return inputs


@pytest.mark.parametrize("conv", [PLAIN, WIDE, DEPTHWISE], ids=lambda conv: conv.name)
def test_means_and_products_are_those_of_what_torch_multiplies(conv: Conv) -> None:
    conv, values = filled(conv), maps(6)
    inputs = read_by(conv, values)
    outputs = given(conv, conv.weight, values)
    flat = conv.weight.reshape(len(conv.weight), -1)
    assert inputs.rows == outputs[:, 0].size
    np.testing.assert_allclose((flat * inputs.means).sum(1), outputs.mean((0, 2, 3)), atol=1e-4)
    products = inputs.products.expand(len(flat), -1, -1).numpy()
    squares = np.einsum("oi,oij,oj->o", flat, products, flat) / inputs.rows
    np.testing.assert_allclose(squares, np.square(outputs).mean((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("conv", [PLAIN, WIDE, DEPTHWISE], ids=lambda conv: conv.name)
def test_outputs_vary_less_from_the_true_ones_than_with_the_nearest_codes(conv: Conv) -> None:
    conv, values = filled(conv), maps(8)
    scales = row_scales(conv.weight, LEVELS)
    codes = read_by(conv, values).round(conv, scales, LEVELS)
    assert codes.dtype == np.int8
    assert codes.shape == conv.weight.shape
    assert np.abs(codes).max() <= LEVELS
    worth = scales[:, None, None, None]
    nearest = np.rint(conv.weight / worth)
    fresh = maps(16)[8:]
    missed, plain = (
        given(conv, (found * worth - conv.weight).astype(np.float32), fresh).var((0, 2, 3)).sum()
        for found in (codes, nearest)
    )
    assert missed <= 0.6 * plain
