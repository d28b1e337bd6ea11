"""Pieces of a graph to one function, and functions to one package, without ever loading their weights.

A model is converted in pieces, because coremltools holds everything that it converts in float32. Here only the
protocol buffers are in memory: operations are set one after the other under names of their own, and constants are
copied from file to file, equal ones once. coremltools' own way (`save_multifunction`) holds the weights of all
functions at once.
"""

from __future__ import annotations

import copy
import hashlib
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.package import MAIN, coremltools, load_spec, quiet, weights_folder

TAKES, GIVES = "rows_in", "rows_out"
"""What a piece reads of the piece in front, and what it gives to the one behind."""

# The file format of coremltools' MILBlob/Blob/StorageFormat.hpp: a header, then an entry before the bytes of each
# constant, everything at multiples of 64 bytes. A reference gives the place of the entry.
_HEADER = struct.Struct("<II56x")
_ENTRY = struct.Struct("<IIQQQ32x")
_SENTINEL, _VERSION, _ALIGNMENT = 0xDEADBEEF, 2, 64
_WEIGHTS = "weight.bin"
_COPIED = 1 << 22
"""Bytes of a constant in memory at a time."""


def join_functions(functions: Mapping[str, Sequence[Path]], target: Path) -> None:
    """Write one package.

    Args:
        functions: By the name of the function, the packages of its pieces in order, each with the one function `main`;
            all but the first read `TAKES`, all but the last give `GIVES`. The first function is the default one.
        target: The new package.

    Raises:
        MagicError: `bundle_invalid` for a piece that cannot be read.
    """
    ct = coremltools()
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        joined = None
        with (folder / _WEIGHTS).open("wb") as file:
            blobs = _Blobs(file)
            for function, pieces in functions.items():
                own = _joined_pieces(pieces, blobs)
                joined = _with_function(joined, own, function, only=len(functions) == 1)
            blobs.close()
        with quiet():
            ct.models.MLModel(joined, weights_dir=str(folder), skip_model_load=True).save(str(target))


def value_name(place: int, name: str) -> str:
    """Return what a value inside of the piece at a place is called once several are joined."""
    return f"piece{place}_{name}"


def _joined_pieces(pieces: Sequence[Path], blobs: _Blobs) -> Any:
    """Return the specification of one function `main` that runs pieces one after the other."""
    specs = [load_spec(piece) for piece in pieces]
    for place, (spec, piece) in enumerate(zip(specs, pieces, strict=True)):
        _drop_unread(_block(spec))
        _copy_weights(spec, piece, blobs)
        if len(pieces) > 1:
            _rename(spec, place, is_last=place == len(pieces) - 1)
    whole = specs[0]
    block, function = _block(whole), whole.mlProgram.functions[MAIN]
    inputs = {one.name: one for one in function.inputs}
    described = {one.name: one for one in whole.description.input}
    for spec in specs[1:]:
        block.operations.extend(_block(spec).operations)
        for one in spec.mlProgram.functions[MAIN].inputs:
            if one.name not in inputs and one.name != TAKES:
                inputs[one.name] = function.inputs.add()
                inputs[one.name].CopyFrom(one)
        for entry in spec.description.input:
            if entry.name not in described and entry.name != TAKES:
                described[entry.name] = whole.description.input.add()
                described[entry.name].CopyFrom(entry)
    last = specs[-1]
    if last is not whole:
        block.outputs[:] = list(_block(last).outputs)
        del whole.description.output[:]
        whole.description.output.extend(last.description.output)
    return whole


def _drop_unread(block: Any) -> None:
    """Drop the identities that coremltools sets behind inputs which nothing reads: a later piece may read them."""
    read = set(block.outputs)
    for operation in block.operations:
        for argument in operation.inputs.values():
            read |= {binding.name for binding in argument.arguments if binding.WhichOneof("binding") == "name"}
    for place in reversed(range(len(block.operations))):
        operation = block.operations[place]
        if operation.type == "identity" and not read & {one.name for one in operation.outputs}:
            del block.operations[place]


def _copy_weights(spec: Any, piece: Path, blobs: _Blobs) -> None:
    """Copy the large constants of a piece, and refer to where they lie now."""
    with (weights_folder(piece) / _WEIGHTS).open("rb") as file:
        for value in _values(_block(spec)):
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.offset = blobs.copy(file, value.blobFileValue.offset)


def _with_function(joined: Any | None, spec: Any, name: str, only: bool) -> Any:
    """Add the function `main` of a specification to what there is, under its name."""
    if only:
        return spec
    if joined is None:
        joined = copy.deepcopy(spec)
        joined.mlProgram.functions.clear()
        del joined.description.input[:], joined.description.output[:]
        joined.description.defaultFunctionName = name
    joined.specificationVersion = max(joined.specificationVersion, spec.specificationVersion)
    joined.mlProgram.functions[name].CopyFrom(spec.mlProgram.functions[MAIN])
    described = joined.description.functions.add()
    described.name = name
    described.input.extend(spec.description.input)
    described.output.extend(spec.description.output)
    return joined


def _rename(spec: Any, place: int, is_last: bool) -> None:
    """Give all values of a piece names of their own, but for inputs and the result of the whole."""
    function, block = spec.mlProgram.functions[MAIN], _block(spec)
    kept = {one.name for one in function.inputs if one.name != TAKES}
    if is_last:
        kept |= set(block.outputs)

    def new(name: str) -> str:
        return name if name in kept else value_name(place, name)

    taken = {TAKES: value_name(place - 1, GIVES)} if place else {}
    for operation in block.operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = taken.get(binding.name) or new(binding.name)
        for output in operation.outputs:
            output.name = new(output.name)
        if "name" in operation.attributes:
            texts = operation.attributes["name"].immediateValue.tensor.strings.values
            texts[:] = [value_name(place, text) for text in texts]
    block.outputs[:] = [new(name) for name in block.outputs]


def _block(spec: Any) -> Any:
    """Return the operations of the function `main`."""
    function = spec.mlProgram.functions[MAIN]
    return function.block_specializations[function.opset]


def _values(block: Any) -> Iterator[Any]:
    """Yield every constant that operations hold."""
    for operation in block.operations:
        yield from operation.attributes.values()
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    yield binding.value


class _Blobs:
    """A new file of constants, each of which lies in there once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[tuple[int, int, bytes], int] = {}
        file.write(bytes(_HEADER.size))

    def copy(self, source: BinaryIO, place: int) -> int:
        """Copy a constant and return the place of its entry.

        Args:
            source: The file of another package.
            place: Of its entry there.

        Raises:
            MagicError: `bundle_invalid` when there is none.
        """
        source.seek(place)
        head = source.read(_ENTRY.size)
        sentinel, kind, size, start, padding = _ENTRY.unpack(head) if len(head) == _ENTRY.size else (0, 0, 0, 0, 0)
        if sentinel != _SENTINEL:
            raise MagicError(
                ErrorCode.BUNDLE_INVALID, f"The file of weights holds no constant at {place}.", "Export anew."
            )
        digest = hashlib.blake2b(digest_size=20)
        for piece in _pieces(source, start, size):
            digest.update(piece)
        key = (kind, size, digest.digest())
        if key not in self._places:
            self._align()
            self._places[key] = self._file.tell()
            self._file.write(_ENTRY.pack(_SENTINEL, kind, size, self._file.tell() + _ENTRY.size, padding))
            for piece in _pieces(source, start, size):
                self._file.write(piece)
        return self._places[key]

    def close(self) -> None:
        """Write the header, now that the number of constants is known."""
        self._align()
        self._file.seek(0)
        self._file.write(_HEADER.pack(len(self._places), _VERSION))

    def _align(self) -> None:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))


def _pieces(source: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    source.seek(start)
    while size > 0:
        piece = source.read(min(size, _COPIED))
        if not piece:
            raise MagicError(ErrorCode.BUNDLE_INVALID, "The file of weights ends too early.", "Export anew.")
        size -= len(piece)
        yield piece
