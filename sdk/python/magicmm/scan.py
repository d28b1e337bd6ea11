"""The scan matrix: a file derived from the index, mapped into memory, plus what changed since (docs/FORMAT.md, part 5).

The file is never the truth. When it is missing, damaged or of another index, the same rows come from SQLite.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.schema import corrupt, translated_errors
from magicmm.topk import Query, Segment, merge, scores_of, top_k

if TYPE_CHECKING:
    from magicmm.index import Index
    from magicmm.quantise import Scales
    from magicmm.records import Model
    from magicmm.topk import Best, Ids, Mask

MAGIC = b"MMSCAN01"
HEADER = struct.Struct("<8sIIQ32s32sQQII")
"""magic, header CRC-32 (of what follows it), dim, rows, index id, fingerprint, generation, last seq,
CRC-32 of the columns (seqs, ids, scales; checked at every start), CRC-32 of the codes (checked by `doctor`)."""
HEADER_BYTES = 128
_REWRITE_ROWS = 1000
_REWRITE_SHARE = 0.02
"""The file is written anew when more rows than this came or went; less costs a search next to nothing."""
_CHUNK_ROWS = 8192
_BACKGROUND_ROWS = 2048
"""Enough to know a quantile of the scores to a twentieth of their deviation; little beside a scan of 100,000."""


@dataclass(frozen=True, slots=True)
class ScanHeader:
    """What a scan file says it holds."""

    dim: int
    rows: int
    index_id: bytes
    fingerprint: bytes
    generation: int
    last_seq: int
    columns_crc: int
    codes_crc: int

    def pack(self) -> bytes:
        """Return the 128 bytes at the start of the file."""
        facts = astuple(self)
        body = HEADER.pack(MAGIC, 0, *facts)[12:]
        return HEADER.pack(MAGIC, zlib.crc32(body), *facts).ljust(HEADER_BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> ScanHeader | None:
        """Read the header; None when it is none or damaged."""
        if len(data) < HEADER_BYTES or data[:8] != MAGIC:
            return None
        _, crc, *facts = HEADER.unpack_from(data)
        header = cls(*facts)
        return header if zlib.crc32(data[12 : HEADER.size]) == crc else None

    @property
    def offsets(self) -> tuple[int, int, int, int, int]:
        """Return where seqs, ids, scales and codes begin, and the length of the file."""
        ids = HEADER_BYTES + 8 * self.rows
        scales = ids + 8 * self.rows
        codes = -(-(scales + 4 * self.rows) // 64) * 64
        return HEADER_BYTES, ids, scales, codes, codes + self.rows * self.dim


@dataclass(frozen=True, slots=True)
class ScanFile:
    """A mapped scan file: seqs and ids int64 [n], scales float32 [n], codes int8 [n, dim]."""

    header: ScanHeader
    seqs: Ids
    segment: Segment


class ScanMatrix:
    """All vectors of one model at one generation of the index, ready to be searched."""

    def __init__(self, generation: int, model_id: int, base: ScanFile | None, delta: Segment, dead: int) -> None:
        """Hold a mapped file, the rows written since, and how many of the file's rows are dead."""
        self.generation = generation
        self.model_id = model_id
        self.base_rows = 0 if base is None else len(base.segment)
        self.stale_rows = len(delta) + dead
        self._segments = [delta] if base is None else [base.segment, delta]

    @classmethod
    def load(cls, index: Index, model: Model) -> ScanMatrix:
        """Map the scan file if it belongs to this index and model, and read the rest from SQLite."""
        with index.snapshot():
            generation = index.meta_number("generation")
            base = open_scan_file(scan_path(index.path), index, model)
            last_seq = 0 if base is None else base.header.last_seq
            delta = _read_segment(index, model, last_seq)
            dead = 0
            if base is not None:
                gone = np.array(index.removed_seqs(), dtype=np.int64)
                alive = ~np.isin(base.seqs, gone)
                dead = int(len(alive) - np.count_nonzero(alive))
                if dead:
                    rows = base.segment
                    base = ScanFile(base.header, base.seqs, Segment(rows.codes, rows.scales, rows.ids, alive))
        return cls(generation, model.id, base, delta, dead)

    @property
    def is_worth_rewriting(self) -> bool:
        """Whether enough has changed since the file was written."""
        return self.stale_rows > max(_REWRITE_ROWS, _REWRITE_SHARE * self.base_rows) or (
            self.base_rows == 0 and self.stale_rows > 0
        )

    def search(self, query: Query, selected: Ids | None = None, threads: int = 0) -> tuple[Best, int]:
        """Return the k best (scores and photo ids) among `selected` photo ids, and how many rows took part."""
        masks = [_selection(segment, selected) for segment in self._segments]
        pairs = list(zip(self._segments, masks, strict=True))
        searched = sum(len(rows) if mask is None else int(np.count_nonzero(mask)) for rows, mask in pairs)
        return merge((top_k(rows, query, mask, threads) for rows, mask in pairs), query.k), searched

    def background(self, query: Query) -> Scales:
        """Return what the query scores here as a rule: scores of up to 2,048 living rows, evenly over all of them."""
        living = [np.arange(len(s)) if s.alive is None else np.flatnonzero(s.alive) for s in self._segments]
        step = max(1, -(-sum(map(len, living)) // _BACKGROUND_ROWS))
        pairs = zip(self._segments, living, strict=True)
        parts = [scores_of(segment, rows[::step], query) for segment, rows in pairs if len(rows)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def __len__(self) -> int:
        return sum(len(s) if s.alive is None else int(np.count_nonzero(s.alive)) for s in self._segments)

    def rows(self) -> Segment:
        """Return all living rows as one segment (a copy when there is more than the file)."""
        alive = [s if s.alive is None else _take(s, s.alive) for s in self._segments if len(s)]
        if len(alive) == 1:
            return alive[0]
        if not alive:
            return self._segments[-1]
        return Segment(
            np.concatenate([s.codes for s in alive]),
            np.concatenate([s.scales for s in alive]),
            np.concatenate([s.ids for s in alive]),
        )


def scan_path(index_path: Path) -> Path:
    """Return where the scan file of an index lies."""
    return index_path.with_name(index_path.name + ".scan")


def open_scan_file(path: Path, index: Index, model: Model) -> ScanFile | None:
    """Map a scan file; None when it is missing, damaged, or not of this index, model and time."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    header = ScanHeader.unpack(data[:HEADER_BYTES].tobytes())
    if header is None or not _belongs(header, index, model) or header.offsets[-1] != len(data):
        return None
    seqs_at, ids_at, scales_at, codes_at, end = header.offsets
    if zlib.crc32(data[seqs_at:codes_at].data) != header.columns_crc:
        return None
    segment = Segment(
        data[codes_at:end].view(np.int8).reshape(header.rows, header.dim),
        data[scales_at : scales_at + 4 * header.rows].view("<f4"),
        data[ids_at:scales_at].view("<i8"),
    )
    return ScanFile(header, data[seqs_at:ids_at].view("<i8"), segment)


def _belongs(header: ScanHeader, index: Index, model: Model) -> bool:
    return (
        header.dim == model.dim
        and header.index_id == index.meta("index_id").encode()
        and header.fingerprint.hex() == model.fingerprint
        # Not merely "not newer": a file from beyond a restored backup would pass once the index has caught up.
        and header.generation == index.meta_number("compacted")
    )


def data_is_sound(path: Path) -> bool:
    """Compare a scan file's data with its checksums; reads the whole file."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError):
        return False
    header = ScanHeader.unpack(data[:HEADER_BYTES].tobytes())
    if header is None:
        return False
    codes_at = header.offsets[3]
    columns_crc, codes_crc = zlib.crc32(data[HEADER_BYTES:codes_at].data), zlib.crc32(data[codes_at:].data)
    return (columns_crc, codes_crc) == (header.columns_crc, header.codes_crc)


def discard_useless_files(index: Index) -> None:
    """Delete a half-written scan file, and one that does not fit the index. The caller holds the index's lock."""
    path = scan_path(index.path)
    model = index.active_model()
    with contextlib.suppress(OSError):  # Windows: another process has it mapped; it is renamed over later
        _aside(path).unlink(missing_ok=True)
        if model is None or open_scan_file(path, index, model) is None:
            path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    # A name of its own for each process would leave litter behind a kill; the lock makes one name enough.
    return path.with_name(path.name + ".new")


def write_scan_file(index: Index, model: Model) -> None:
    """Write the scan file anew, beside the old one, and rename. The caller holds the index's lock.

    Raises:
        MagicError: `storage_failed` when the disk is full; the old file stays.
    """
    path = scan_path(index.path)
    aside = _aside(path)
    try:
        with translated_errors(path), aside.open("wb") as file, index.snapshot():
            header = _write_rows(file, index, model)
            file.flush()
            os.fsync(file.fileno())
        with translated_errors(path):
            aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    with index.transaction():
        index.forget_removed(header.last_seq)
        index.set_meta("compacted", header.generation)


def _write_rows(file: Any, index: Index, model: Model) -> ScanHeader:
    """Write codes as they come and the columns in front of them afterwards: every vector is read once."""
    header = ScanHeader(
        dim=model.dim,
        rows=index.count_vectors(model),
        index_id=index.meta("index_id").encode(),
        fingerprint=bytes.fromhex(model.fingerprint),
        generation=index.meta_number("generation"),
        last_seq=0,
        columns_crc=0,
        codes_crc=0,
    )
    codes_at = header.offsets[3]
    file.seek(codes_at)
    seqs: list[int] = []
    ids: list[int] = []
    scales: list[float] = []
    crc = 0
    chunk: list[bytes] = []
    for seq, photo_id, scale, codes in index.vectors_after(0, model):
        seqs.append(seq)
        ids.append(photo_id)
        scales.append(scale)
        chunk.append(codes)
        if len(chunk) == _CHUNK_ROWS:
            crc = _flush(file, chunk, crc)
    crc = _flush(file, chunk, crc)
    if len(seqs) != header.rows:
        raise corrupt(index.path, f"it counts {header.rows} vectors and holds {len(seqs)}")
    columns = (np.array(seqs, "<i8").tobytes(), np.array(ids, "<i8").tobytes(), np.array(scales, "<f4").tobytes())
    head = b"".join(columns).ljust(codes_at - HEADER_BYTES, b"\0")
    header = replace(header, last_seq=max(seqs, default=0), columns_crc=zlib.crc32(head), codes_crc=crc)
    file.seek(0)
    file.write(header.pack() + head)
    return header


def _flush(file: Any, chunk: list[bytes], crc: int) -> int:
    data = b"".join(chunk)
    chunk.clear()
    file.write(data)
    return zlib.crc32(data, crc)


def _read_segment(index: Index, model: Model, after_seq: int) -> Segment:
    ids: list[int] = []
    scales: list[float] = []
    codes: list[bytes] = []
    for _, photo_id, scale, code in index.vectors_after(after_seq, model):
        ids.append(photo_id)
        scales.append(scale)
        codes.append(code)
    rows = np.frombuffer(b"".join(codes), np.int8).reshape(len(codes), model.dim)
    return Segment(rows, np.array(scales, np.float32), np.array(ids, np.int64))


def _selection(segment: Segment, selected: Ids | None) -> Mask | None:
    """Return which rows take part: bool [n], or None for all."""
    if selected is None:
        return segment.alive
    if not len(segment):
        return np.zeros(0, np.bool_)
    # A table of flags by id beats sorting: ids are small numbers given out in order.
    most = int(max(segment.ids.max(), selected.max(initial=0)))
    flags = np.zeros(most + 1, np.bool_)
    flags[selected] = True
    mask: Mask = flags[segment.ids]
    return mask if segment.alive is None else mask & segment.alive


def _take(segment: Segment, rows: Mask) -> Segment:
    return Segment(segment.codes[rows], segment.scales[rows], segment.ids[rows])
