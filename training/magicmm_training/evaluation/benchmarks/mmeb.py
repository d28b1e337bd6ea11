"""MMEB: 36 sets, each query with a list of candidates of its own, of which the first is right; precision@1.

Two public layouts, a folder a set with parquet (or JSONL) of its split "test":

* `TIGER-Lab/MMEB-eval`: `qry_text`, `qry_img_path`, `tgt_text` [..], `tgt_img_path` [..]; texts begin with
  `<|image_1|>` and an instruction.
* `ziyjiang/MMEB_Test_Instruct`: the same, with instructions apart in `qry_inst` and `tgt_inst`.

Pictures lie below the folder, in `images/` or not. Every entry is read under the paper's instruction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS
from magicmm_model.templates import Side
from magicmm_training.data.files import open_rows, source_files
from magicmm_training.data.mmeb_habits import query_words, target_words, without_marker
from magicmm_training.evaluation.benchmarks.mmeb_sets import QUERIES, SETS, MmebSet, means_of
from magicmm_training.evaluation.benchmarks.reading import BenchmarkPictures, Options, make_entry
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.task import Average, EvaluationTask, Pools, Retrieval

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.data.rows import Row
    from magicmm_training.entries import Entry, ImageSource
    from magicmm_training.recipe import Benchmark

_METRICS = (Metric("precision", 1), Metric("hit", 5), Metric("hit", 10))
_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
_OWN_INSTRUCTIONS = ("qry_inst", "tgt_inst")
_DOCUMENT_TILES = 4


def open_mmeb(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the sets.

    Options: `sets` (names with commas between; empty = all 36), `partial` (accept missing sets, and sets with other
    numbers of queries than the published 1,000).

    Raises:
        MagicError: `argument_invalid` for a set or option that does not exist; `source_unavailable` for a set that is
            not there.
    """
    options = Options(benchmark, {"sets": "", "partial": False})
    wanted = {name.strip() for name in options.text("sets").split(",") if name.strip()}
    if unknown := wanted - {each.name for each in SETS}:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"MMEB has no set {', '.join(sorted(unknown))}.",
            f"Sets are {', '.join(each.name for each in SETS)}.",
        )
    folder, partly = root / benchmark.path, options.flag("partial")
    tasks = []
    for each in SETS:
        if each.name not in wanted if wanted else partly and not (folder / each.name).is_dir():
            continue
        files = source_files(folder / each.name, "test", (".parquet", ".jsonl", ".json"))
        averages = tuple(Average(name, count) for name, count in means_of(each).items())
        load = partial(_load, each, files, BenchmarkPictures(folder / each.name, folder))
        expected = None if partly else QUERIES
        tasks.append(
            EvaluationTask(each.name, benchmark.name, _METRICS, _METRICS[0], load, averages, expected=expected)
        )
    return tuple(tasks)


def _load(each: MmebSet, files: list[Path], pictures: BenchmarkPictures) -> Retrieval:
    reading = _Reading(each, pictures)
    rows = open_rows(files, _COLUMNS, _OWN_INSTRUCTIONS)
    for place in range(len(rows)):
        reading.add(rows[place])
    return reading.content()


@dataclass
class _Reading:
    """One set, row by row; candidates that are the same are one."""

    each: MmebSet
    pictures: BenchmarkPictures
    queries: list[Entry] = field(default_factory=list)
    candidates: list[Entry] = field(default_factory=list)
    places: dict[tuple[str | None, str], int] = field(default_factory=dict)
    pools: list[list[int]] = field(default_factory=list)
    facts: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Read one query and its candidates.

        Raises:
            MagicError: `text_invalid` for lists of different lengths, or an entry without content.
        """
        texts, images = row.required("tgt_text"), row.required("tgt_img_path")
        if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images) or not texts:
            raise row.fault("tgt_text", "and tgt_img_path are no lists of one length, or they are empty")
        words = self._query_words(row)
        image = self.pictures.of(row, "qry_img_path", row.values.get("qry_img_path"))
        self.queries.append(self._entry(row, "qry_text", words, image, Side.QUERY))
        pool = [self._place(row, text, image) for text, image in zip(texts, images, strict=True)]
        different = list(dict.fromkeys(pool))
        self.facts["repeated_candidates"] += len(pool) - len(different)
        self.pools.append(different)

    def content(self) -> Retrieval:
        """Return the set."""
        members = tuple(np.array(pool, np.int64) for pool in self.pools)
        return Retrieval(
            query_ids=tuple(str(place) for place in range(len(self.queries))),
            queries=self.queries,
            candidates=self.candidates,
            relevant=tuple({pool[0]: 1.0} for pool in self.pools),
            pools=Pools(members, tuple(range(len(members)))),
            facts=dict(self.facts),
        )

    def _query_words(self, row: Row) -> str | None:
        text = row.text("qry_text")
        if row.text("qry_inst") is not None:
            return without_marker(text)
        try:
            return query_words(row, "qry_text", text, self.each.habit)
        except MagicError:  # a text that does not begin as its set does is all words
            self.facts["queries_without_known_instruction"] += 1
            return without_marker(text)

    def _place(self, row: Row, text: object, image: object) -> int:
        words = row.as_text("tgt_text", text)
        # Crops share a path and differ in text; the same picture may come under two paths.
        key = words, image if isinstance(image, str) else repr(image)
        if key not in self.places:
            self.places[key] = len(self.candidates)
            picture = self.pictures.of(row, "tgt_img_path", image)
            self.candidates.append(self._entry(row, "tgt_text", target_words(words), picture, Side.CANDIDATE))
        return self.places[key]

    def _entry(self, row: Row, text_field: str, words: str | None, picture: ImageSource | None, side: Side) -> Entry:
        document = self.each.document_queries if side is Side.QUERY else self.each.document_targets
        task = INSTRUCTIONS[self.each.habit.group][self.each.habit.name]
        try:
            return make_entry(words, picture, task, side, _DOCUMENT_TILES if document else 1)
        except MagicError:
            raise row.fault(text_field, "leaves neither text nor picture") from None
