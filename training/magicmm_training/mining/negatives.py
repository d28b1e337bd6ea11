"""The file that mining and the judge write and training reads: hard negatives by place, one JSON line a query.

`negatives.jsonl` begins with a line that says what follows:

    {"format": "magicmm-negatives", "version": 1, "kind": "judge", "datasets": {"MSCOCO": "<fingerprint>"}}

and then holds one line a query, in the order of its data set:

    {"dataset": "MSCOCO", "place": 16, "query_id": "17",
     "negatives": [{"place": 3, "pair_id": "4", "part": "positive"}, ...], "approved": [...],
     "scores": {"positive": 2.5, "negatives": [-1.0, ...], "approved": [...]}}

Candidates are places in a `PairSet`, so the file holds no content. Scores are the judge's margins (log-odds of
yes over no); null where nobody judged, or an answer came without a margin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections import defaultdict
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.mining.negative_rows import Margins, NegativeRef, NegativesRow, row_from_json, row_json
from magicmm_training.storage import storage_errors, write_aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry, PairSet

FILE_NAME = "negatives.jsonl"
FORMAT = "magicmm-negatives"
VERSION = 1

Kind = Literal["mining", "judge"]


class NegativesWriter:
    """Writes the file row by row, aside; it gets its name when all rows are on disk.

    Example:
        >>> with NegativesWriter(folder, "mining", pair_sets) as writer:
        ...     writer.write(row)
    """

    def __init__(self, folder: Path, kind: Kind, pair_sets: Iterable[PairSet]) -> None:
        """Keep what the first line says."""
        self._path = folder / FILE_NAME
        datasets = {pair_set.name: pair_set.fingerprint for pair_set in pair_sets}
        self._header = {"format": FORMAT, "version": VERSION, "kind": kind, "datasets": datasets}
        self._aside = write_aside(self._path)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> NegativesWriter:
        """Open the file aside.

        Raises:
            MagicError: `storage_failed`.
        """
        self._file = self._aside.__enter__()
        self._put(self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file its name, or remove it after an error.

        Raises:
            MagicError: `storage_failed`.
        """
        self._file = None
        self._aside.__exit__(kind, error, trace)

    def write(self, row: NegativesRow) -> None:
        """Append a row.

        Raises:
            MagicError: `storage_failed`.
        """
        self._put(row_json(row))

    def _put(self, value: dict[str, Any]) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        with storage_errors(self._path):
            self._file.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")


class Negatives:
    """An open file of negatives. Memory holds 24 bytes a query; rows are read when asked for.

    Attributes:
        kind: Who wrote it: "mining" or "judge".
        fingerprint: Of all its bytes.
    """

    def __init__(self, path: Path, pair_sets: Iterable[PairSet]) -> None:
        """Read through the file once; use `load`."""
        self._path = path
        self._sets = {pair_set.name: pair_set for pair_set in pair_sets}
        digest, keys, offsets = hashlib.sha256(), array("Q"), array("Q")
        places: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        at = 0
        with _open(path) as file:
            for number, line in enumerate(file):
                digest.update(line)
                if number == 0:
                    self.kind: Kind = self._check_header(_parse(line, path, 1))
                else:
                    row = _parse(line, path, number + 1)
                    keys.append(_key(row.get("dataset"), row.get("query_id")))
                    offsets.append(at)
                    self._note(row, places, number + 1)
                at += len(line)
        if at == 0:
            raise _invalid(path, "it is empty")
        self.fingerprint = digest.hexdigest()[:32]
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.frombuffer(keys, np.uint64)[order] if keys else np.zeros(0, np.uint64)
        self._offsets = np.frombuffer(offsets, np.uint64)[order] if keys else np.zeros(0, np.uint64)

        self._places = {name: np.sort(np.array(found, np.int64)) for name, found in places.items()}

    @classmethod
    def load(cls, path: Path, pair_sets: Iterable[PairSet]) -> Negatives:
        """Open what a mining or judge stage wrote.

        Args:
            path: The output folder of the stage, or the file in it.
            pair_sets: The data that is trained on; sets that the file does not know have no negatives.

        Raises:
            MagicError: `source_unavailable` without the file; `argument_invalid` for a broken one, or one that was
                made from other data under the same name.
        """
        return cls(path / FILE_NAME if path.is_dir() else path, pair_sets)

    def __len__(self) -> int:
        """Return how many queries there are."""
        return len(self._keys)

    def places(self, dataset: str) -> NDArray[np.int64]:
        """Return the places of all queries of a data set that have negatives, rising."""
        return self._places.get(dataset, np.zeros(0, np.int64))

    def row(self, dataset: str, query_id: str) -> NegativesRow | None:
        """Return what is known about a query, or None.

        Raises:
            MagicError: `source_unavailable` or `argument_invalid` for a file that changed meanwhile.
        """
        key = np.uint64(_key(dataset, query_id))
        first, stop = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        with _open(self._path) as file:
            for offset in self._offsets[first:stop].tolist():
                file.seek(offset)
                row = _parse(file.readline(), self._path, None)
                if row.get("dataset") == dataset and row.get("query_id") == query_id:
                    return self._row(row)
        return None

    def for_query(self, dataset: str, query_id: str) -> tuple[Entry, ...]:
        """Return a query's hard negatives, best-ranked first; empty when it has none.

        Raises:
            MagicError: See `row` and `resolve`.
        """
        row = self.row(dataset, query_id)
        return () if row is None else tuple(self.resolve(dataset, ref) for ref in row.negatives)

    def approved(self, dataset: str, query_id: str) -> tuple[Entry, ...]:
        """Return the candidates that the judge takes for further true targets.

        Raises:
            MagicError: See `row` and `resolve`.
        """
        row = self.row(dataset, query_id)
        return () if row is None else tuple(self.resolve(dataset, ref) for ref in row.approved)

    def margins(self, dataset: str, query_id: str) -> Margins | None:
        """Return the judge's margins, parallel to `for_query` and `approved`; None where nobody judged.

        Raises:
            MagicError: See `row`.
        """
        row = self.row(dataset, query_id)
        return None if row is None else row.margins

    def resolve(self, dataset: str, ref: NegativeRef) -> Entry:
        """Return the candidate at a place.

        Raises:
            MagicError: `argument_invalid` when the data is not the one that was mined, or its row is broken.
        """
        pair_set = self._sets.get(dataset)
        if pair_set is None or not 0 <= ref.place < len(pair_set):
            raise _invalid(self._path, f"{dataset} has no row {ref.place}")
        return ref.entry(pair_set[ref.place])

    def _note(self, row: dict[str, Any], places: dict[str, array[int]], number: int) -> None:
        """Keep the place of a query that has negatives."""
        place = row.get("place")
        if not isinstance(place, int) or place < 0:
            raise _invalid(self._path, f"line {number} has no place")
        if row.get("negatives"):
            places[str(row.get("dataset"))].append(place)

    def _row(self, value: dict[str, Any]) -> NegativesRow:
        try:
            return row_from_json(value)
        except ValueError as error:
            raise _invalid(self._path, f"the row of query {value.get('query_id')!r} is broken: {error}") from None

    def _check_header(self, header: dict[str, Any]) -> Kind:
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise _invalid(self._path, f"it is no {FORMAT} file of version {VERSION}")
        kind, datasets = header.get("kind"), header.get("datasets")
        if kind not in ("mining", "judge") or not isinstance(datasets, dict):
            raise _invalid(self._path, "its first line is broken")
        changed = [name for name, known in datasets.items() if self._is_other(name, known)]
        if changed:
            raise _invalid(self._path, f"the data of {', '.join(changed)} has changed since")
        return "mining" if kind == "mining" else "judge"

    def _is_other(self, name: str, fingerprint: object) -> bool:
        return name in self._sets and self._sets[name].fingerprint != fingerprint


def _key(dataset: object, query_id: object) -> int:
    text = json.dumps([dataset, query_id]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _parse(line: bytes, path: Path, number: int | None) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:  # of JSON and of UTF-8
        value = None
    if not isinstance(value, dict) or not line.endswith(b"\n"):
        raise _invalid(path, "a line has changed" if number is None else f"line {number} is no JSON object")
    return value


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{path} cannot be read: {error.strerror or error}.",
            "Run the mining or judge stage first.",
        ) from None


def _invalid(path: Path, what: str) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID, f"{path} cannot be used: {what}.", "Run the mining or judge stage again."
    )
