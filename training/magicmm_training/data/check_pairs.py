"""The check of one data set: each row is read once, each distinct picture decoded once."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

from magicmm.errors import ErrorCode, MagicError, PhotoSkipped
from magicmm.image import decode_photo
from magicmm_training.data.candidates import parts_of
from magicmm_training.data.findings import Kind
from magicmm_training.data.leakage import Content
from magicmm_training.entries import image_bytes

if TYPE_CHECKING:
    from magicmm_training.data.findings import Findings
    from magicmm_training.data.leakage import BenchmarkIndex
    from magicmm_training.entries import Conversation, Entry, Pair

Sample = TypeVar("Sample")

FALSE_NEGATIVES = 0.1
"""In-batch candidates, on average, that equal a query's own target: above it the data set is reported."""
_SIDE = 2 * 448 * 4
"""What training decodes documents at: JPEG may be reduced to no less, though all of it is read."""
_BAD_ROWS = (Kind.BROKEN_ROW, Kind.MISSING_IMAGE, Kind.CORRUPT_IMAGE)


class RowCheck(ABC, Generic[Sample]):
    """What the checks of pairs and of instruction samples share: counts, pictures, rows that cannot be used.

    Attributes:
        checked: Rows looked at.
    """

    def __init__(self, findings: Findings, benchmarks: BenchmarkIndex) -> None:
        """Start with nothing seen."""
        self.checked = 0
        self._findings = findings
        self._benchmarks = benchmarks
        self._ids: set[str] = set()
        self._bad = 0
        self._pictures: dict[int, PhotoSkipped | None] = {}

    @abstractmethod
    def take(self, sample: Sample) -> None:
        """Check a sample that could be read."""

    @property
    def images(self) -> int:
        """Distinct pictures seen."""
        return len(self._pictures)

    def unusable(self, error: MagicError, where: str = "") -> None:
        """Note a row that training would skip."""
        self.checked += 1
        self._bad += 1
        self._findings.error(kind_of(error), f"{where}: {error.message}" if where else error.message)

    def tolerate(self, share: float) -> None:
        """Turn the errors of unusable rows into warnings when they are no more than a share of all."""
        if self._bad <= share * self.checked:
            self._findings.soften(*_BAD_ROWS)

    def _take_id(self, own_id: str, where: str) -> None:
        if own_id in self._ids:
            self._findings.error(Kind.DUPLICATE_ID, where)
        self._ids.add(own_id)

    def _decode(self, data: bytes) -> None:
        """Decode a picture in full, unless its bytes were seen before.

        Raises:
            PhotoSkipped: When it cannot be decoded.
        """
        digest = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        if digest not in self._pictures:
            self._pictures[digest] = _fault(data)
        if fault := self._pictures[digest]:
            raise fault


class PairCheck(RowCheck["Pair"]):
    """Checks the pairs of one source, one after another."""

    def __init__(self, findings: Findings, benchmarks: BenchmarkIndex) -> None:
        """Start with nothing seen."""
        super().__init__(findings, benchmarks)
        self._pairs: set[tuple[int, int]] = set()
        self._queries: set[int] = set()
        self._targets: Counter[int] = Counter()

    @property
    def targets(self) -> int:
        """Distinct positives seen."""
        return len(self._targets)

    def take(self, sample: Pair) -> None:
        """Check a pair that could be read."""
        where = f"{sample.dataset} {sample.id}"
        parts = [("query", sample.query), *parts_of(sample)]
        try:
            query, positive, *negatives = (self._content(entry, f"{where} {part}") for part, entry in parts)
        except MagicError as error:
            self.unusable(error, where)
            return
        self.checked += 1
        self._take_id(sample.id, where)
        if (query, positive) in self._pairs:
            self._findings.warning(Kind.DUPLICATE_PAIR, where)
        elif query in self._queries:
            self._findings.warning(Kind.DUPLICATE_QUERY, f"{where}, with another target")
        if positive in negatives:
            self._findings.error(Kind.POSITIVE_AS_NEGATIVE, where)
        if len(set(negatives)) < len(negatives):
            self._findings.warning(Kind.DUPLICATE_NEGATIVE, where)
        self._pairs.add((query, positive))
        self._queries.add(query)
        self._targets[positive] += 1

    def contrast(self, batch: int) -> None:
        """Report targets that repeat so often that other rows of a batch hold them.

        Args:
            batch: Pairs that are contrasted with one another.
        """
        rows = sum(self._targets.values())
        if rows < 2:
            return
        same = sum(count * (count - 1) for count in self._targets.values()) / (rows * (rows - 1))
        expected = same * (batch - 1)
        if expected > FALSE_NEGATIVES:
            self._findings.warning(
                Kind.FEW_TARGETS,
                f"{len(self._targets)} targets in {rows} rows: a batch of {batch} holds {expected:.3g} false negatives "
                "a query (keep false_negatives.same_content)",
            )

    def _content(self, entry: Entry, where: str) -> int:
        content, data = Content.of(entry)
        if data is not None:
            self._decode(data)
        self._benchmarks.compare(content, where, self._findings)
        return content.entry


class ConversationCheck(RowCheck["Conversation"]):
    """Checks the instruction samples of one source, one after another."""

    def take(self, sample: Conversation) -> None:
        """Check a sample that could be read."""
        where = f"{sample.dataset} {sample.id}"
        try:
            pictures = [image_bytes(image) for image in sample.images]
            for data in pictures:
                self._decode(data)
        except MagicError as error:
            self.unusable(error, where)
            return
        self.checked += 1
        self._take_id(sample.id, where)
        for data in pictures:
            self._benchmarks.compare_image(data, where, self._findings)


def kind_of(error: MagicError) -> Kind:
    """Return what an error of reading a row or a picture counts as."""
    if isinstance(error, PhotoSkipped):
        return Kind.CORRUPT_IMAGE
    return Kind.MISSING_IMAGE if error.code is ErrorCode.IMAGE_INVALID else Kind.BROKEN_ROW


def _fault(data: bytes) -> PhotoSkipped | None:
    try:
        decode_photo(data, _SIDE)
    except PhotoSkipped as error:
        return error
    return None
