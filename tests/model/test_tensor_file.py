"""Our reader of safetensors against the library: the same values, and never laxer about what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from magicmm import ErrorCode, MagicError
from magicmm_model.tensor_file import DTYPES, TensorFile

SMALL = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "none": torch.empty(0, 4)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(path: Path, header: object, body: bytes = b"") -> Path:
    """Write a file with this header: bytes as they are, anything else as JSON."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + body)
    return path


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(path: Path) -> str:
    with pytest.raises(MagicError) as caught:
        TensorFile(path)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    assert str(path) in caught.value.message
    return caught.value.message


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_values_are_those_that_the_library_reads(dtype: torch.dtype, path: Path) -> None:
    torch.manual_seed(1)
    shapes = {"scalar": (), "one": (1,), "empty": (0, 4), "matrix": (3, 5), "cube": (2, 3, 4)}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    tensors["odd"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-30]).to(dtype)
    save_file(tensors, path, metadata={"format": "pt", "书": "😀"})
    file, library = TensorFile(path), load_file(path)
    assert file.tensors.keys() == library.keys()
    for name, expected in library.items():
        read = file.read(name)
        assert (read.shape, read.dtype, raw(read)) == (expected.shape, dtype, raw(expected))
        assert (file.tensors[name].shape, file.tensors[name].dtype) == (tuple(expected.shape), dtype)
        assert file.tensors[name].size == expected.numel() * expected.element_size()


def test_a_tensor_that_was_read_can_be_changed(path: Path) -> None:
    save_file(SMALL, path)
    file = TensorFile(path)
    file.read("a").zero_()
    assert torch.equal(file.read("a"), SMALL["a"])


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_rows_are_those_of_the_whole_tensor(dtype: torch.dtype, path: Path) -> None:
    shapes = {"first": (3,), "vector": (6,), "matrix": (5, 4), "cube": (4, 3, 2), "narrow": (4, 0)}
    save_file({name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}, path)
    file = TensorFile(path)
    for name, shape in shapes.items():
        whole = file.read(name)
        for start in range(shape[0] + 1):
            for stop in range(start, shape[0] + 1):
                rows = file.read_rows(name, start, stop)
                assert (rows.shape, rows.dtype, raw(rows)) == (whole[start:stop].shape, dtype, raw(whole[start:stop]))


def test_rows_are_read_without_the_others(path: Path) -> None:
    save_file({"table": torch.arange(12.0).reshape(6, 2)}, path)
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-16])  # the last two rows are gone meanwhile
    assert file.read_rows("table", 1, 4).tolist() == [[2, 3], [4, 5], [6, 7]]
    with pytest.raises(MagicError) as caught:
        file.read_rows("table", 4, 5)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 4), (2, 1), (4, 4), (-2, -1)])
def test_rows_that_a_tensor_does_not_have_are_refused(start: int, stop: int, path: Path) -> None:
    save_file({"weight.7": torch.ones(3, 2), "scalar": torch.tensor(1.0)}, path)
    for name in ("weight.7", "scalar"):
        with pytest.raises(MagicError, match=f"{name} .* no rows {start} to {stop}") as caught:
            TensorFile(path).read_rows(name, start, stop)
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_every_prefix_of_a_file_is_refused(path: Path) -> None:
    save_file(SMALL, path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path)


def test_a_file_longer_than_announced_is_refused(path: Path) -> None:
    save_file(SMALL, path)
    path.write_bytes(path.read_bytes() + b"!")
    assert "1 bytes too many" in refused(path)


def test_a_missing_file_is_no_source(path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        TensorFile(path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    path.mkdir()
    with pytest.raises(MagicError) as caught:
        TensorFile(path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


HUGE = 2**63 - 1
TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
BROKEN: dict[str, tuple[object, bytes]] = {
    "overlap": ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "the same place twice": ({"a": entry(), "b": entry()}, bytes(4)),
    "gap": ({"a": entry(), "b": entry(offsets=(5, 9))}, bytes(9)),
    "gap at the start": ({"a": entry(offsets=(4, 8))}, bytes(8)),
    "negative offset": ({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "offsets backwards": ({"a": entry(offsets=(4, 0))}, bytes(4)),
    "huge offset": ({"a": entry(offsets=(2**64, 2**64 + 4))}, bytes(4)),
    "fractional offset": ({"a": entry(offsets=(0, 4.0))}, bytes(4)),
    "boolean offset": ({"a": entry(shape=(1,), dtype="F16", offsets=(False, 2))}, bytes(2)),
    "one offset": ({"a": entry(offsets=(4,))}, bytes(4)),
    "three offsets": ({"a": entry(offsets=(0, 4, 4))}, bytes(4)),
    "offsets no list": ({"a": entry(offsets="04")}, bytes(4)),
    "shape too large for the bytes": ({"a": entry(shape=(2,))}, bytes(4)),
    "shape too small for the bytes": ({"a": entry(shape=(1,), offsets=(0, 8))}, bytes(8)),
    "negative sides": ({"a": entry(shape=(-1, -1))}, bytes(4)),
    "minus zero": (b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""),
    "shape null": ({"a": entry(shape=None)}, bytes(4)),
    "shape an empty text": ({"a": entry(shape="")}, bytes(4)),
    "shape an object": ({"a": entry(shape={})}, bytes(4)),
    "side beyond 64 bits": ({"a": entry(shape=(0, 2**64), offsets=(0, 0))}, b""),
    "sides whose product overflows": ({"a": entry(shape=(HUGE, HUGE, 0), offsets=(0, 0))}, b""),
    "sides that torch cannot stride": ({"a": entry(shape=(0, HUGE, HUGE), offsets=(0, 0))}, b""),
    "integer type": ({"a": entry("I8", (4,))}, bytes(4)),
    "unknown type": ({"a": entry("F33")}, bytes(4)),
    "type no text": ({"a": entry(["F32"])}, bytes(4)),
    "no type": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "entry no object": ({"a": 3}, b""),
    "entry a list of pairs": ({"a": [["dtype", "F32"], ["shape", [1]], ["data_offsets", [0, 4]]]}, bytes(4)),
    "a name twice": (TWICE, bytes(4)),
    "a key twice": (b'{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "metadata no object": ({"__metadata__": []}, b""),
    "metadata not of texts": ({"__metadata__": {"format": 1}}, b""),
    "metadata twice": (b'{"__metadata__":{},"__metadata__":{}}', b""),
    "a list": (b"[]", b""),
    "a list of pairs": (json.dumps([["a", entry()]]).encode(), bytes(4)),
    "null": (b"null", b""),
    "no JSON": (b"{'a': 1}", b""),
    "something after the end": (b"{}x", b""),
    "NaN": (b'{"a":NaN}', b""),
    "a byte order mark": (b"\xef\xbb\xbf{}", b""),
    "UTF-16": ("{}".encode("utf-16-le"), b""),
    "no UTF-8": (b'{"__metadata__":{"a":"\xff"}}', b""),
    "a surrogate in UTF-8": (b'{"__metadata__":{"a":"\xed\xa0\x80"}}', b""),
    "half a surrogate pair": (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "half a surrogate pair in metadata": (b'{"__metadata__":{"a":"\\udc00"}}', b""),
    "nested deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, b""),
    "nested deeper than Python reads": (b"[" * 200_000, b""),
    "a number of 10,000 digits": (b'{"a":' + b"1" * 10_000 + b"}", b""),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_broken_headers_are_refused(what: str, path: Path) -> None:
    refused(write(path, *BROKEN[what]))


@pytest.mark.parametrize("what", ["a name twice", "integer type", "shape too large for the bytes", "gap"])
def test_the_message_names_the_tensor(what: str, path: Path) -> None:
    header, body = BROKEN[what]
    renamed = json.dumps(header).encode() if isinstance(header, dict) else header
    assert isinstance(renamed, bytes)
    assert "weight.7" in refused(write(path, renamed.replace(b'"b"', b'"a2"').replace(b'"a', b'"weight.7'), body))


@pytest.mark.parametrize("announced", [0, 1, 50_000_000, 2**63, 2**64 - 1])
def test_an_impossible_header_length_is_refused_before_memory_is_taken(announced: int, path: Path) -> None:
    path.write_bytes(announced.to_bytes(8, "little") + b"{}" + bytes(100))
    assert "cut off" in refused(path)


def test_a_header_longer_than_the_library_reads_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_009)  # a hole: no bytes on the disk
    assert not library_reads(path)
    assert "cut off" in refused(path)


def test_blanks_after_the_header_are_what_the_library_writes(path: Path) -> None:
    file = TensorFile(write(path, json.dumps({"a": entry()}).encode() + b"   ", bytes(4)))
    assert file.read("a").tolist() == [0.0]


def library_reads(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except SafetensorError:
        return False
    return True


def compare_with_library(path: Path) -> None:
    """What we open, the library opens, too, with the same tensors in it."""
    try:
        file = TensorFile(path)
    except MagicError as error:
        assert error.code is ErrorCode.CHECKPOINT_INVALID
        return
    assert library_reads(path)
    theirs = load_file(path)
    assert file.tensors.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert raw(file.read(name)) == raw(expected)


# The reader has no state, so that the file may be written anew for each example.
fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_in_the_header_are_refused_or_harmless(path: Path, flips: list[tuple[int, int]]) -> None:
    save_file(SMALL, path, metadata={"format": "pt"})
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for place, value in flips:
        data[place % header] = value
    path.write_bytes(data)
    compare_with_library(path)


NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 12, 2**31, 2**63, 2**64, 1.0, None, True, "1"])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "f32", None, 1]),
        "shape": st.lists(NUMBERS, max_size=3) | st.none(),
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | NUMBERS,
        "more": NUMBERS,
    },
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "", "__metadata__"]), ENTRIES | NUMBERS, max_size=3)


@fuzzing
@given(HEADERS, st.integers(0, 16))
def test_invented_headers_are_refused_or_read_as_the_library_reads_them(
    path: Path, header: dict[str, Any], body: int
) -> None:
    compare_with_library(write(path, header, bytes(range(body))))


@fuzzing
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.integers(-1, 1)), min_size=1, max_size=4))
def test_shifted_tensors_are_refused_as_the_library_refuses_them(path: Path, places: list[tuple[int, int]]) -> None:
    header, begin = {}, 0
    for number, (count, shift) in enumerate(places):
        header[f"t{number}"] = entry("F16", [count], [begin + shift, begin + shift + 2 * count])
        begin += 2 * count
    write(path, header, bytes(begin))
    compare_with_library(path)
    if library_reads(path):
        TensorFile(path)  # nothing here that only we refuse


@pytest.mark.parametrize("what", ["shorter", "gone"])
def test_a_file_that_shrinks_after_opening_is_no_source(what: str, path: Path) -> None:
    save_file(SMALL, path)
    file = TensorFile(path)
    if what == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(MagicError) as caught:
        for name in file.tensors:
            file.read(name)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert str(path) in caught.value.message
