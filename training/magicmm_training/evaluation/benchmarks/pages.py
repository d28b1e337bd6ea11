"""Visual documents on disk: one table of questions and pages, or queries, corpus and labels apart (BEIR)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.data.files import open_rows, source_files
from magicmm_training.entries import Entry, LazyEntries, image_bytes
from magicmm_training.evaluation.benchmarks.reading import BenchmarkPictures, make_entry
from magicmm_training.evaluation.task import MISSING, Retrieval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magicmm_training.data.rows import Row, Rows
    from magicmm_training.entries import ImageSource

_TASK = INSTRUCTIONS[TaskGroup.TEXT_TO_DOCUMENT]["ColPali"]
_TILES = 4
_ENDINGS = (".parquet", ".jsonl")
_QUERY_IDS = ("query-id", "query_id", "id", "_id")
_CORPUS_IDS = ("corpus-id", "corpus_id", "id", "_id")
_TEXTS = ("query", "text")


def is_beir(folder: Path) -> bool:
    """Return whether a folder has queries, corpus and labels apart."""
    return all((folder / part).is_dir() for part in ("queries", "corpus", "qrels"))


def read_beir(folder: Path, split: str, language: str | None) -> Retrieval:
    """Read queries, corpus and labels; pages stay on disk until they are embedded.

    Args:
        folder: Holds `queries`, `corpus` and `qrels`.
        split: Of the files in each.
        language: Keep only queries of this language.

    Raises:
        MagicError: `argument_invalid` for a label that names no page or an id that comes twice, `text_invalid` for
            broken rows.
    """
    corpus = open_rows(source_files(folder / "corpus", split, _ENDINGS), ("image",), _CORPUS_IDS)
    pages: dict[str, int] = {}
    for place in range(len(corpus)):
        row = corpus[place]
        _unique(pages, _id(row, _CORPUS_IDS), place, row)
    labels, dropped = _labels(folder, split, pages)
    rows = open_rows(source_files(folder / "queries", split, _ENDINGS), (), (*_QUERY_IDS, *_TEXTS, "language"))
    queries: dict[str, str] = {}
    seen: dict[str, int] = {}
    unanswerable = 0
    for place in range(len(rows)):
        row = rows[place]
        query_id = _id(row, _QUERY_IDS)
        _unique(seen, query_id, place, row)
        if language is not None and row.text("language") != language:
            continue
        if query_id not in labels:
            unanswerable += 1
            continue
        queries[query_id] = _text(row)
    return Retrieval(
        query_ids=tuple(queries),
        queries=[make_entry(text, None, _TASK, Side.QUERY) for text in queries.values()],
        candidates=PageEntries(corpus, range(len(corpus)), BenchmarkPictures(folder / "corpus", folder)),
        relevant=tuple(labels[query_id] for query_id in queries),
        facts={"unanswerable_queries": unanswerable, "labels_without_gain": dropped},
    )


def read_questions(files: Sequence[Path], folder: Path) -> Retrieval:
    """Read one table: each row a page, and a question that it answers or none.

    Rows with the same `image_filename` are one document; where their pictures differ, its best one counts. Rows with
    the same question are one query.

    Raises:
        MagicError: `text_invalid` for broken rows.
    """
    rows = open_rows(list(files), ("query", "image", "image_filename"), ())
    pictures = BenchmarkPictures(folder, folder)
    table = _Table()
    for place in range(len(rows)):
        row = rows[place]
        name = row.as_text("image_filename", row.required("image_filename"))
        if name is None:
            raise row.fault("image_filename", "is empty")
        table.add(place, name, _digest(pictures.of(row, "image", row.values.get("image"))), row.text("query"))
    documents = tuple(table.documents[name] for name, _ in table.pages)
    several = len(documents) > len(table.documents)
    places = list(table.pages.values())
    return Retrieval(
        query_ids=tuple(str(number) for number in range(len(table.questions))),
        queries=[make_entry(text, None, _TASK, Side.QUERY) for text in table.questions],
        candidates=PageEntries(rows, places, pictures),
        relevant=tuple(
            {page: 1.0 for page, document in enumerate(documents) if document in answers}
            for answers in table.questions.values()
        ),
        documents=documents if several else None,
        facts={
            "pages_without_question": table.without_question,
            "repeated_questions": table.repeated,
            "documents_with_several_pictures": len(documents) - len(table.documents),
        },
    )


class PageEntries(LazyEntries):
    """Pages as entries."""

    def __init__(self, rows: Rows, places: Sequence[int], pictures: BenchmarkPictures) -> None:
        """Use some rows of a table, in this order."""
        self._rows = rows
        self._places = places
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Entry:
        """Read a page."""
        row = self._rows[self._places[place]]
        picture = self._pictures.of(row, "image", row.values.get("image"))
        return make_entry(None, MISSING if picture is None else picture, _TASK, Side.CANDIDATE, _TILES)


@dataclass
class _Table:
    """Questions and pages of one table."""

    pages: dict[tuple[str, str], int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    questions: dict[str, set[int]] = field(default_factory=dict)
    without_question: int = 0
    repeated: int = 0

    def add(self, place: int, name: str, digest: str, question: str | None) -> None:
        self.pages.setdefault((name, digest), place)
        document = self.documents.setdefault(name, len(self.documents))
        text = (question or "").strip()
        if not text:
            self.without_question += 1
            return
        self.repeated += text in self.questions
        self.questions.setdefault(text, set()).add(document)


def _labels(folder: Path, split: str, pages: dict[str, int]) -> tuple[dict[str, dict[int, float]], int]:
    """Return query id -> page -> gain, and how many labels have no gain."""
    columns = ("query-id", "query_id", "corpus-id", "corpus_id", "score")
    rows = open_rows(source_files(folder / "qrels", split, _ENDINGS), (), columns)
    labels: dict[str, dict[int, float]] = defaultdict(dict)
    dropped = 0
    for place in range(len(rows)):
        row = rows[place]
        query, page = _id(row, columns[:2]), _id(row, columns[2:4])
        gain = row.values.get("score", 1)
        if not isinstance(gain, (int, float)) or isinstance(gain, bool) or gain != gain:
            raise row.fault("score", f"is no number but {gain!r}")
        if page not in pages:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{row.file}, row {row.number}: the label names page {page!r}, which is not in the corpus.",
                "Download corpus and labels of the same version.",
            )
        if gain > 0:
            labels[query][pages[page]] = float(gain)
        else:
            dropped += 1
    return dict(labels), dropped


def _id(row: Row, names: Sequence[str]) -> str:
    for name in names:
        value = row.values.get(name)
        if value is not None:
            return str(value)
    raise row.fault(names[0], f"is missing, as are {', '.join(names[1:])}")


def _unique(seen: dict[str, int], name: str, place: int, row: Row) -> None:
    if seen.setdefault(name, place) != place:
        raise row.fault("id", f"{name!r} comes twice")


def _text(row: Row) -> str:
    text = next((found for name in _TEXTS if (found := row.text(name)) is not None), None)
    if text is None or not text.strip():
        raise row.fault("query", "is empty")
    return text


def _digest(picture: ImageSource | None) -> str:
    return hashlib.sha256(image_bytes(MISSING if picture is None else picture)).hexdigest()
