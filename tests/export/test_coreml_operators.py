"""Every operator of the interpreter against coremltools' own value inference, or against numpy where it has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm import MagicError
from magicmm_export.coreml.interpreter import MilFunction
from magicmm_export.coreml.interpreter.registry import OPERATORS
from magicmm_export.coreml.package import coremltools, quiet

Array = NDArray[Any]
Build = Callable[[Any, Any], Any]

ct = coremltools()
with quiet():
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def function_of(build: Build, shape: tuple[int, ...], kind: Any = None) -> Any:
    """Return a function with the input `x` whose operations `build` makes."""
    with Function({"x": mb.placeholder(shape, kind or types.fp32)}, opset_version=ct.target.iOS18) as function:
        result = build(mb, function.inputs["x"])
        function.set_outputs(list(result) if isinstance(result, (list, tuple)) else [result])
    return function


def interpreted(build: Build, x: Array, kind: Any = None) -> list[Array]:
    """Run what `build` makes of an input that is known only at run time."""
    function = MilFunction(function_of(build, x.shape, kind))
    run = function.run({"x": x})
    return [run.values[name] for name in function.outputs]


def inferred(build: Build, x: Array) -> list[Array]:
    """Return what coremltools itself computes when it folds constants."""
    with Function({"unused": mb.placeholder((1,))}, opset_version=ct.target.iOS18):
        result = build(mb, mb.const(val=x))
    results = result if isinstance(result, (list, tuple)) else [result]
    assert all(one.val is not None for one in results), "coremltools has no value inference for it"
    return [np.asarray(one.val) for one in results]


Y = numbers(3, 5, seed=1)
FOLDED: dict[str, tuple[Build, Array]] = {
    "add": (lambda m, x: m.add(x=x, y=Y), numbers(3, 5)),
    "sub": (lambda m, x: m.sub(x=x, y=Y), numbers(3, 5)),
    "mul": (lambda m, x: m.mul(x=x, y=numbers(5, seed=3)), numbers(3, 5)),
    "real_div": (lambda m, x: m.real_div(x=x, y=Y), numbers(3, 5)),
    "maximum": (lambda m, x: m.maximum(x=x, y=Y), numbers(3, 5)),
    "pow": (lambda m, x: m.pow(x=m.abs(x=x), y=np.float32(0.7)), numbers(3, 5)),
    "clip": (lambda m, x: m.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(np.inf)), numbers(3, 5)),
    "clip from above": (lambda m, x: m.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.25)), numbers(3, 5)),
    "relu6": (lambda m, x: m.relu6(x=x), numbers(3, 50, scale=6)),
    "topk": (lambda m, x: m.topk(x=x, k=3, axis=-1), numbers(3, 20)),
    "topk of another axis": (lambda m, x: m.topk(x=x, k=2, axis=0), numbers(5, 4)),
    "abs": (lambda m, x: m.abs(x=x), numbers(3, 5)),
    "rsqrt": (lambda m, x: m.rsqrt(x=x, epsilon=1e-3), np.abs(numbers(3, 5)) + 0.01),
    "gelu": (lambda m, x: m.gelu(x=x, mode="EXACT"), numbers(3, 50, scale=3)),
    "square": (lambda m, x: m.square(x=x), numbers(3, 5)),
    "sqrt": (lambda m, x: m.sqrt(x=x), np.abs(numbers(3, 5))),
    "reduce_l2_norm": (lambda m, x: m.reduce_l2_norm(x=x, axes=[-1], keep_dims=True), numbers(2, 3, 7)),
    "tile": (lambda m, x: m.tile(x=x, reps=[1, 3]), numbers(2, 3)),
    "softmax": (lambda m, x: m.softmax(x=x, axis=-1), numbers(2, 3, 7, scale=20)),
    "softmax over another axis": (lambda m, x: m.softmax(x=x, axis=1), numbers(2, 3, 7)),
    "reduce_mean": (lambda m, x: m.reduce_mean(x=x, axes=[1, 2], keep_dims=True), numbers(2, 3, 7)),
    "reduce_mean without the axis": (lambda m, x: m.reduce_mean(x=x, axes=[-1], keep_dims=False), numbers(2, 3, 7)),
    "reduce_sum": (lambda m, x: m.reduce_sum(x=x, axes=[-1], keep_dims=True), numbers(2, 3, 7)),
    "reduce_max": (lambda m, x: m.reduce_max(x=x, axes=[-1], keep_dims=True), numbers(2, 3, 7)),
    "layer_norm": (
        lambda m, x: m.layer_norm(x=x, axes=[-1], gamma=numbers(7), beta=numbers(7, seed=2), epsilon=1e-3),
        numbers(2, 3, 7),
    ),
    "layer_norm over two axes": (lambda m, x: m.layer_norm(x=x, axes=[1, 2], epsilon=1e-6), numbers(2, 3, 7)),
    "linear": (lambda m, x: m.linear(x=x, weight=numbers(4, 7), bias=numbers(4, seed=2)), numbers(2, 3, 7)),
    "matmul": (lambda m, x: m.matmul(x=x, y=numbers(2, 4, 7, seed=3), transpose_y=True), numbers(2, 3, 7)),
    "matmul of a transposed": (lambda m, x: m.matmul(x=x, y=numbers(3, 4, seed=3), transpose_x=True), numbers(3, 7)),
    "reshape": (lambda m, x: m.reshape(x=x, shape=[3, -1, 2]), numbers(2, 3, 4)),
    "transpose": (lambda m, x: m.transpose(x=x, perm=[2, 0, 1]), numbers(2, 3, 4)),
    "expand_dims": (lambda m, x: m.expand_dims(x=x, axes=[1, -1]), numbers(2, 3)),
    "concat": (lambda m, x: m.concat(values=[x, numbers(3, 2, seed=4)], axis=-1), numbers(3, 5)),
    "split": (lambda m, x: m.split(x=x, num_splits=2, axis=-1), numbers(3, 4)),
    "split in sizes": (lambda m, x: m.split(x=x, split_sizes=[1, 3], axis=1), numbers(3, 4)),
    "slice_by_index": (
        lambda m, x: m.slice_by_index(
            x=x, begin=[1, 0, 1], end=[2, 9, 7], stride=[1, 1, 2], end_mask=[False, True, False]
        ),
        numbers(3, 4, 8),
    ),
    "slice_by_index from behind": (
        lambda m, x: m.slice_by_index(x=x, begin=[0, -3], end=[2, 0], end_mask=[False, True]),
        numbers(3, 8),
    ),
    "gather": (lambda m, x: m.gather(x=x, indices=np.array([2, 0], np.int32), axis=1), numbers(2, 3, 4)),
    "greater_equal": (lambda m, x: m.greater_equal(x=x, y=Y), np.where(numbers(3, 5) > 0, Y, 0)),
    "select": (
        lambda m, x: m.select(cond=m.greater_equal(x=x, y=np.float32(0)), a=x, b=np.float32(-1)),
        numbers(3, 5),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_operators_give_what_coremltools_computes_itself(name: str) -> None:
    build, x = FOLDED[name]
    found, wanted = interpreted(build, x), inferred(build, x)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def test_silu_is_x_times_its_sigmoid() -> None:
    x = numbers(3, 50, scale=30)
    (found,) = interpreted(lambda m, given: m.silu(x=given), x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found, exact / (1 + np.exp(-exact)), rtol=2e-6, atol=1e-12)


def test_patches_are_sums_over_windows() -> None:
    x, weight, bias = numbers(1, 3, 8, 6), numbers(5, 3, 4, 2, seed=1), numbers(5, seed=2)
    (found,) = interpreted(
        lambda m, given: m.conv(x=given, weight=weight, bias=bias, strides=[4, 2], pad_type="valid"), x
    )
    wanted = np.empty((1, 5, 2, 3), np.float64)
    for out in range(5):
        for row in range(2):
            for column in range(3):
                window = x[0, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2].astype(np.float64)
                wanted[0, out, row, column] = (window * weight[out]).sum() + bias[out]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by_channel", [False, True])
def test_convolutions_with_padding_are_sums_over_windows(by_channel: bool) -> None:
    x, weight, bias = numbers(2, 3, 7, 6), numbers(3, 1 if by_channel else 3, 3, 2, seed=1), numbers(3, seed=2)
    (found,) = interpreted(
        lambda m, given: m.conv(
            x=given,
            weight=weight,
            bias=bias,
            strides=[2, 1],
            pad_type="custom",
            pad=[1, 2, 0, 1],
            groups=3 if by_channel else 1,
        ),
        x,
    )
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1))).astype(np.float64)
    wanted = np.empty((2, 3, 4, 6), np.float64)
    for item, out, row, column in np.ndindex(wanted.shape):
        channels = slice(out, out + 1) if by_channel else slice(None)
        window = padded[item, channels, 2 * row : 2 * row + 3, column : column + 2]
        wanted[item, out, row, column] = (window * weight[out]).sum() + bias[out]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_pooling_is_the_mean_of_windows() -> None:
    x = numbers(1, 2, 4, 6)
    (found,) = interpreted(
        lambda m, given: m.avg_pool(x=given, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"), x
    )
    np.testing.assert_allclose(found, x.reshape(1, 2, 2, 2, 3, 2).mean((3, 5)), rtol=1e-6, atol=1e-6)


def test_half_precision_is_rounded_after_every_operator() -> None:
    """The trap: a type that is told by its text never matches, and nothing is rounded."""
    x = np.array([[1.0, 2.0**-11, 3.0]], np.float32)

    def build(m: Any, given: Any) -> Any:
        half = m.cast(x=given, dtype="fp16")
        return m.cast(x=m.add(x=half, y=np.float16(1)), dtype="fp32")

    (found,) = interpreted(build, x)
    assert found.tolist() == [[2.0, 1.0, 4.0]], "1 + 2^-11 rounds to 1 in float16"
    run = MilFunction(function_of(lambda m, given: m.add(x=given, y=np.float16(1)), (1, 3), types.fp16)).run({"x": x})
    assert {values.dtype for values in run.values.values()} == {np.dtype(np.float16)}


def test_overflow_becomes_infinite_and_is_reported() -> None:
    def build(m: Any, given: Any) -> Any:
        return m.reduce_mean(x=m.mul(x=given, y=given, name="squares"), axes=[-1], keep_dims=True)

    run = MilFunction(function_of(build, (1, 2), types.fp16)).run({"x": np.array([[300.0, 1.0]], np.float32)})
    (found,) = run.values.values()
    assert math.isinf(found.item())
    assert run.overflowed == ("squares",), "what only passes infinity on is not to blame"


@pytest.mark.parametrize(("kind", "value"), [("int32", -3), ("int16", -3), ("uint16", 7), ("bool", True)])
def test_casts_cut_fractions_off(kind: str, value: int) -> None:
    x = np.array([value + (0.7 if value > 0 else -0.7)], np.float32)
    (found,) = interpreted(lambda m, given: m.cast(x=m.cast(x=given, dtype=kind), dtype="fp32"), x)
    assert found.tolist() == [float(value)]


def test_integers_are_told_apart() -> None:
    """All of them are called "int" by the class that MIL has for them."""
    x = np.array([70000.0], np.float32)
    (found,) = interpreted(lambda m, given: m.cast(x=given, dtype="int32"), x)
    assert found.tolist() == [70000] and found.dtype == np.int32


def test_looking_up_beyond_the_end_is_an_error() -> None:
    def build(m: Any, given: Any) -> Any:
        return m.gather(x=numbers(4, 2), indices=m.cast(x=given, dtype="int32"), axis=0, validate_indices=False)

    for place in (4.0, -1.0):
        with pytest.raises(MagicError, match="an axis of 4"):
            interpreted(build, np.array([place], np.float32))


def test_an_operator_that_no_graph_of_ours_has_is_named() -> None:
    with pytest.raises(MagicError, match=r"operator cumsum \(sums\)"):
        MilFunction(function_of(lambda m, x: m.cumsum(x=x, axis=0, name="sums"), (3,)))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda m, x: m.gelu(x=x, mode="TANH_APPROXIMATION", name="g"), "gelu .* mode is TANH"),
        (lambda m, x: m.conv(x=x, weight=numbers(4, 1, 1, 1), groups=2, pad_type="valid"), "groups is 2"),
        (lambda m, x: m.topk(x=x, k=1, axis=1, ascending=True), "ascending is True"),
        (lambda m, x: m.conv(x=x, weight=numbers(2, 2, 3, 3), pad_type="same"), "pad_type is same"),
        (lambda m, x: m.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="same"), "pad_type is same"),
        (lambda m, x: m.concat(values=[x, x], axis=1, interleave=True), "interleave is True"),
    ],
)
def test_forms_that_are_not_implemented_are_named(build: Build, said: str) -> None:
    with pytest.raises(MagicError, match=said):
        interpreted(build, numbers(1, 2, 4, 4))


@pytest.mark.parametrize("bits", [4, 8])
def test_scaled_weights_are_codes_times_scales(bits: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (4, 6)).astype(np.int8)
    scales = rng.uniform(0.5, 2, (4, 3)).astype(np.float32)
    kind = types.np_int4_dtype if bits == 4 else np.int8
    x = numbers(2, 6)

    def build(m: Any, given: Any) -> Any:
        return m.linear(x=given, weight=m.constexpr_blockwise_shift_scale(data=codes.astype(kind), scale=scales))

    (found,) = interpreted(build, x)
    np.testing.assert_allclose(found, x @ (codes * np.repeat(scales, 2, axis=1)).T, rtol=1e-5, atol=1e-5)


def test_palettes_are_looked_up_by_group_of_channels() -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(0, 16, (4, 6)).astype(np.uint8)
    palettes = rng.standard_normal((2, 1, 16, 1)).astype(np.float32)
    x = numbers(2, 6)

    def build(m: Any, given: Any) -> Any:
        weight = m.constexpr_lut_to_dense(indices=places.astype(types.np_uint4_dtype), lut=palettes)
        return m.linear(x=given, weight=weight)

    (found,) = interpreted(build, x)
    wanted = np.stack([palettes[row // 2, 0, places[row], 0] for row in range(4)])
    np.testing.assert_allclose(found, x @ wanted.T, rtol=1e-5, atol=1e-5)


def test_every_operator_is_tested_here() -> None:
    tested = {name.split(" ")[0] for name in FOLDED} | {"conv", "avg_pool", "cast", "silu"}
    assert set(OPERATORS) == tested
