"""Packed weights: 4-bit codes times whole multipliers are exactly the int8 weights, and nothing else is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from magicmm import ErrorCode, MagicError
from magicmm.packed import pack, read_packed, unpack


def random_weights(rows: int, columns: int, group: int, seed: int = 0) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-7, 8, (rows, columns), dtype=np.int8)
    return codes, rng.integers(1, 19, (rows // group, columns), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(1, 2, 1), (6, 4, 3), (64, 10, 32), (96, 96, 32), (4096, 2048, 128), (3, 2 << 20, 1)]
)
def test_values_are_codes_times_multipliers(rows: int, columns: int, group: int) -> None:
    codes, multipliers = random_weights(rows, columns, group)
    stored = pack(codes, multipliers)
    assert stored["codes"].shape == (rows, columns // 2)
    assert stored["codes"].dtype == np.uint8
    values = unpack(stored["codes"], stored["multipliers"])
    assert values.dtype == np.int8
    assert np.array_equal(values, codes.astype(int) * multipliers.astype(int).repeat(group, axis=0))


def test_the_left_half_of_a_row_is_in_the_low_nibbles() -> None:
    codes = np.array([[1, -2, 3, -7]], np.int8)
    assert pack(codes, np.ones((1, 4), np.uint8))["codes"].tolist() == [[0x31, 0x9E]]


def test_codes_that_are_a_view_of_something_else() -> None:
    codes, multipliers = random_weights(8, 6, 4)
    assert np.array_equal(pack(codes.T.copy().T, multipliers)["codes"], pack(codes, multipliers)["codes"])


CODES, MULTIPLIERS = random_weights(4, 6, 2)


@pytest.mark.parametrize(
    ("codes", "multipliers"),
    [
        (CODES.astype(np.int16), MULTIPLIERS),
        (CODES[:, :5], MULTIPLIERS[:, :5]),
        (CODES[0], MULTIPLIERS),
        (CODES[:0], MULTIPLIERS),
        (CODES[:3], MULTIPLIERS),
        (CODES, MULTIPLIERS[:, :4]),
        (CODES, MULTIPLIERS[:0]),
        (CODES, MULTIPLIERS.astype(np.int8)),
        (CODES, MULTIPLIERS * 0),
        (CODES, MULTIPLIERS * 0 + 19),
        (np.full_like(CODES, 8), MULTIPLIERS),
        (np.full_like(CODES, -8), MULTIPLIERS),
    ],
    ids=[
        *(
            "wide codes",
            "odd",
            "one axis",
            "no rows",
            "rows left over",
            "few columns",
            "no groups",
            "signed",
            "0",
            "19",
        ),
        *("code 8", "code -8"),
    ],
)
def test_what_cannot_be_packed(codes: NDArray[Any], multipliers: NDArray[Any]) -> None:
    with pytest.raises(MagicError) as caught:
        pack(codes, multipliers)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert caught.value.remedy


@pytest.mark.parametrize("row", [0, 4095])
def test_a_broken_code_is_found_in_any_block(row: int) -> None:
    stored = pack(*random_weights(4096, 2048, 32))
    stored["codes"][row, 1000] = 0x83
    with pytest.raises(MagicError, match="code is -8"):
        unpack(stored["codes"], stored["multipliers"])


@pytest.fixture
def stored() -> dict[str, NDArray[Any]]:
    """Return the content of a packed file with two tensors."""
    found: dict[str, NDArray[Any]] = {}
    for name, rows in (("a.weight", 4), ("b", 2)):
        tensors = pack(*random_weights(rows, 6, 2))
        found |= {f"{name}.{kind}": array for kind, array in tensors.items()}
    return found


SHAPES: dict[str, tuple[int, ...]] = {"b": (2, 6), "a.weight": (4, 6)}


def test_a_packed_file_gives_every_tensor_that_the_graph_declares(
    stored: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    save_file(stored, tmp_path / "x.q4")
    found = read_packed(tmp_path / "x.q4", SHAPES)
    assert set(found) == set(SHAPES)
    for name, values in found.items():
        assert np.array_equal(values, unpack(stored[f"{name}.codes"], stored[f"{name}.multipliers"]))


def error_of(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES) -> MagicError:
    with pytest.raises(MagicError) as caught:
        read_packed(path, shapes)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
    return caught.value


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (SHAPES | {"c": (2, 6)}, "lack c.codes"),
        ({"b": (2, 6)}, "hold a.weight.codes"),
        ({}, "hold a.weight.codes"),
        (SHAPES | {"b": (6, 2)}, r"holds b as \[2, 3\], the graph declares \[6, 2\]"),
        (SHAPES | {"b": (2, 6, 1)}, "the graph declares"),
    ],
)
def test_names_and_shapes_are_those_of_the_graph(
    shapes: dict[str, tuple[int, ...]], said: str, stored: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    save_file(stored, tmp_path / "x.q4")
    with pytest.raises(MagicError, match=said):
        read_packed(tmp_path / "x.q4", shapes)
    error_of(tmp_path / "x.q4", shapes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.codes", np.ones((2, 3), np.int8)),
        ("b.codes", np.ones((2, 3, 1), np.uint8)),
        ("b.codes", np.full((2, 3), 0x88, np.uint8)),
        ("b.multipliers", np.ones((1, 6), np.int8)),
        ("b.multipliers", np.ones((1, 3), np.uint8)),
        ("b.multipliers", np.ones((3, 6), np.uint8)),
        ("b.multipliers", np.ones(6, np.uint8)),
        ("b.multipliers", np.zeros((1, 6), np.uint8)),
        ("b.multipliers", np.full((1, 6), 19, np.uint8)),
        ("b.multipliers", np.empty((0, 6), np.uint8)),
        ("b.offsets", np.ones(1, np.uint8)),
    ],
)
def test_broken_content_is_refused_by_name(
    name: str, content: NDArray[Any], stored: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    save_file(stored | {name: content}, tmp_path / "x.q4")
    assert "b" in error_of(tmp_path / "x.q4").message.replace("x.q4", "").split(" ", 1)[1]


def test_a_tensor_without_multipliers(stored: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    del stored["b.multipliers"]
    save_file(stored, tmp_path / "x.q4")
    assert "b.multipliers" in error_of(tmp_path / "x.q4").message


@pytest.mark.parametrize("data", [b"", b"no tensors at all", None], ids=["empty", "text", "cut off"])
def test_a_file_that_is_no_safetensors(data: bytes | None, stored: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    path = tmp_path / "x.q4"
    save_file(stored, path)
    path.write_bytes(path.read_bytes()[:-1] if data is None else data)
    assert "cannot be read" in error_of(path).message
