"""Packed files: what our writer streams, the safetensors library and the SDK read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from magicmm import ErrorCode, MagicError
from magicmm.packed import UNSTORED_OFFSET, pack, read_packed
from magicmm_export.packed_file import PackedFile


def weights(rows: int, columns: int, group: int, seed: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-7, 8, (columns, rows), dtype=np.int8).T  # not contiguous, as the writer gives them
    return codes, rng.integers(1, 19, (columns, rows // group), dtype=np.uint8).T


def test_the_library_and_the_sdk_read_what_was_written(tmp_path: Path) -> None:
    given = {"a": weights(64, 10, 32, 0), "layer.b": weights(96, 6, 96, 1), "c": weights(32, 2, 1, 2)}
    file = PackedFile(tmp_path / "language.q4")
    tensors = [file.append(name, *arrays) for name, arrays in given.items()]
    assert file.close() is True
    loaded = load_file(file.path)
    assert loaded.keys() == {f"{name}.{kind}" for name in given for kind in ("codes", "multipliers")}
    for name, (codes, multipliers) in given.items():
        for kind, array in pack(codes, np.ascontiguousarray(multipliers)).items():
            assert loaded[f"{name}.{kind}"].dtype == np.uint8
            assert np.array_equal(loaded[f"{name}.{kind}"], array)
    values = read_packed(file.path, {tensor.name: tuple(tensor.dims) for tensor in tensors})
    for name, (codes, multipliers) in given.items():
        wanted = codes.astype(int) * np.repeat(multipliers.astype(int), len(codes) // len(multipliers), axis=0)
        assert np.array_equal(values[name], wanted)


def test_a_declared_tensor_points_at_nothing_that_is_stored(tmp_path: Path) -> None:
    file = PackedFile(tmp_path / "language.q4")
    tensor = file.append("a", *weights(64, 10, 32, 0))
    facts = {entry.key: entry.value for entry in tensor.external_data}
    assert facts == {"location": "language.q4", "offset": str(UNSTORED_OFFSET), "length": "640"}
    assert list(tensor.dims) == [64, 10]
    file.close()


def test_the_header_keeps_values_aligned_and_nothing_else_is_left(tmp_path: Path) -> None:
    for place in range(4):  # names of several lengths, so that the header needs padding somewhere
        file = PackedFile(tmp_path / f"{place}.q4")
        file.append("a" * (place + 1), *weights(32, 2, 32, 0))
        file.close()
        assert int.from_bytes(file.path.read_bytes()[:8], "little") % 8 == 0
        assert len(load_file(file.path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{place}.q4" for place in range(4)]


def test_without_weights_there_is_no_file(tmp_path: Path) -> None:
    assert PackedFile(tmp_path / "vision.q4").close() is False
    assert list(tmp_path.iterdir()) == []


def test_codes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    codes, multipliers = weights(32, 2, 32, 0)
    codes[3, 1] = 8
    with pytest.raises(MagicError) as caught:
        PackedFile(tmp_path / "a.q4").append("a", codes, multipliers)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
