"""Operators that work number by number, from their formulas in the MIL specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from magicmm_export.coreml.interpreter.registry import Arguments, implements


@implements("add")
def _add(given: Arguments) -> Tensor:
    return given.tensor("x") + given.tensor("y")


@implements("sub")
def _sub(given: Arguments) -> Tensor:
    return given.tensor("x") - given.tensor("y")


@implements("mul")
def _mul(given: Arguments) -> Tensor:
    return given.tensor("x") * given.tensor("y")


@implements("real_div")
def _real_div(given: Arguments) -> Tensor:
    return given.tensor("x") / given.tensor("y")


@implements("maximum")
def _maximum(given: Arguments) -> Tensor:
    x, y = given.tensor("x"), given.tensor("y")
    return torch.where(x > y, x, y)


@implements("greater_equal")
def _greater_equal(given: Arguments) -> Tensor:
    return given.tensor("x") >= given.tensor("y")


@implements("select")
def _select(given: Arguments) -> Tensor:
    return torch.where(given.tensor("cond"), given.tensor("a"), given.tensor("b"))


@implements("clip")
def _clip(given: Arguments) -> Tensor:
    x, least, most = given.tensor("x"), given.number("alpha"), given.number("beta")
    return torch.where(x < least, least, torch.where(x > most, most, x))


@implements("relu6")
def _relu6(given: Arguments) -> Tensor:
    return given.tensor("x").clamp(0, 6)


@implements("abs")
def _abs(given: Arguments) -> Tensor:
    return given.tensor("x").abs()


@implements("square")
def _square(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return x * x


@implements("sqrt")
def _sqrt(given: Arguments) -> Tensor:
    return given.tensor("x") ** 0.5


@implements("pow")
def _pow(given: Arguments) -> Tensor:
    return given.tensor("x") ** given.tensor("y")


@implements("rsqrt")
def _rsqrt(given: Arguments) -> Tensor:
    return 1 / (given.tensor("x") + given.number("epsilon")) ** 0.5


@implements("silu")
def _silu(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return x / (1 + torch.exp(-x))


@implements("gelu")
def _gelu(given: Arguments) -> Tensor:
    given.require("mode", "EXACT")
    x = given.tensor("x")
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


@implements("cast")
def _cast(given: Arguments) -> Tensor:
    """Round to the declared type, which every result is; fractions are cut off towards zero on the way to integers."""
    return given.tensor("x")
