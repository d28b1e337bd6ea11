"""Pairs of our own: a file in the format "pairs", or a folder of pictures, each with a caption in NAME.txt."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Reads, Side
from magicmm_training.data.files import source_files
from magicmm_training.data.pair_rows import PAIRS
from magicmm_training.data.registry import open_pairs
from magicmm_training.entries import Entry, Pair
from magicmm_training.evaluation.benchmarks.captions import captioned_files
from magicmm_training.evaluation.benchmarks.reading import Option, Options
from magicmm_training.evaluation.benchmarks.two_way import RECALLS, two_way_tasks
from magicmm_training.evaluation.task import MISSING, EvaluationTask, Retrieval
from magicmm_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magicmm_training.entries import PairSet
    from magicmm_training.recipe import Benchmark

_ROW = "Flickr30K"
"""Of the paper's table, for pictures and captions of any kind."""


def open_pair_files(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open pairs; R@1, R@5 and R@10 over all targets, and over all queries the other way.

    Options: `split` (beginning of the file's name), `group` and `instructions` (row of the paper's table, for rows that
    bring no instruction), `max_tiles`, `negatives` (explicit negatives are candidates too), `backward` (where pairs are
    of a text and a picture, also search queries with targets).

    Raises:
        MagicError: `source_unavailable` when there are neither pairs nor captioned pictures, and as `open_pairs`.
    """
    defaults: dict[str, Option] = {
        "split": "test",
        "group": "",
        "instructions": "",
        "max_tiles": 1,
        "negatives": True,
        "backward": True,
    }
    options = Options(benchmark, defaults)
    folder = root / benchmark.path
    if not _has_pairs(folder, options.text("split")) and any(folder.glob("*.txt")):
        return two_way_tasks(benchmark.name, "", partial(captioned_files, folder, folder), _ROW)
    source = Source(
        name=benchmark.name,
        format="pairs",
        path=benchmark.path,
        split=options.text("split"),
        group=options.text("group") or None,
        instructions=options.text("instructions") or None,
        max_tiles=options.whole("max_tiles"),
    )
    pairs = open_pairs(source, root)
    forward = EvaluationTask(
        "query to target", benchmark.name, RECALLS, RECALLS[0], partial(_forward, pairs, options.flag("negatives"))
    )
    if not options.flag("backward") or not _turnable(pairs):
        return (forward,)
    backward = EvaluationTask("target to query", benchmark.name, RECALLS, RECALLS[0], partial(_backward, pairs))
    return forward, backward


def _has_pairs(path: Path, split: str) -> bool:
    """Return whether there is a file of pairs, which goes before captions: a text beside it may be a note."""
    try:
        return bool(source_files(path, split, PAIRS.endings))
    except MagicError:
        return False


def _turnable(pairs: PairSet) -> bool:
    """Return whether the first readable pair has a text on one side and a picture on the other."""
    for place in range(len(pairs)):
        try:
            pair = pairs[place]
        except MagicError:
            continue
        return {pair.query.role.reads, pair.positive.role.reads} == {Reads.TEXT, Reads.IMAGE}
    return False


def _forward(pairs: PairSet, negatives: bool) -> Retrieval:
    rows = _read(pairs)
    return _search(
        [(pair.query, pair.positive) for pair in rows],
        [negative for pair in rows for negative in pair.negatives] if negatives else [],
        len(pairs),
    )


def _backward(pairs: PairSet) -> Retrieval:
    """Turn pairs round: what was found asks, under the instruction that the paper has for it."""
    return _search([(_asking(pair.positive), _found(pair.query)) for pair in _read(pairs)], [], len(pairs))


def _read(pairs: PairSet) -> list[Pair]:
    """Read all pairs; one whose picture is missing keeps its place, so that it is counted."""
    rows = []
    for place in range(len(pairs)):
        try:
            rows.append(pairs[place])
        except MagicError as error:
            if error.code is not ErrorCode.IMAGE_INVALID:
                raise
            lost = Entry(None, MISSING, "", Side.QUERY)
            rows.append(Pair(f"missing {place}", pairs.name, lost, lost))
    return rows


def _search(pairs: Sequence[tuple[Entry, Entry]], others: Sequence[Entry], rows: int) -> Retrieval:
    """Return a search in which equal contents are one query or one candidate."""
    queries: dict[str, Entry] = {}
    candidates: dict[str, Entry] = {}
    right: dict[str, dict[str, float]] = defaultdict(dict)
    for row, (query, target) in enumerate(pairs):
        asks, found = _name(query, row), _name(target, row)
        queries.setdefault(asks, query)
        candidates.setdefault(found, target)
        right[asks][found] = 1.0
    for row, entry in enumerate(others):
        candidates.setdefault(_name(entry, -1 - row), entry)
    places = {name: place for place, name in enumerate(candidates)}
    return Retrieval(
        query_ids=tuple(queries),
        queries=list(queries.values()),
        candidates=list(candidates.values()),
        relevant=tuple({places[name]: gain for name, gain in right[asks].items()} for asks in queries),
        facts={"rows": rows, "repeated_queries": rows - len(queries)},
    )


def _name(entry: Entry, row: int) -> str:
    """Return the content id, or for an unreadable entry a name of its own."""
    if isinstance(entry.image, bytes) and entry.image == MISSING:
        return f"missing {row}"
    try:
        return entry.content_id()
    except MagicError:
        return f"unreadable {row}"


def _asking(entry: Entry) -> Entry:
    group = _direction(entry)
    return Entry(entry.text, entry.image, INSTRUCTIONS[group][_ROW].query, Side.QUERY, entry.max_tiles)


def _found(entry: Entry) -> Entry:
    # A text is found by pictures, a picture by texts.
    group = TaskGroup.IMAGE_TO_TEXT if _direction(entry) is TaskGroup.TEXT_TO_IMAGE else TaskGroup.TEXT_TO_IMAGE
    return Entry(entry.text, entry.image, INSTRUCTIONS[group][_ROW].target, Side.CANDIDATE, entry.max_tiles)


def _direction(entry: Entry) -> TaskGroup:
    reads = entry.role.reads
    if reads is Reads.IMAGE_AND_TEXT:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "Pairs with a picture and a text on one side have no search backward.",
            "Set the benchmark's option `backward: false`.",
        )
    return TaskGroup.TEXT_TO_IMAGE if reads is Reads.TEXT else TaskGroup.IMAGE_TO_TEXT
