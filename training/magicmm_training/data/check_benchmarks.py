"""Takes up the entries of a recipe's benchmarks, so that they can be looked for among training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from magicmm.errors import MagicError
from magicmm_model.instructions import TaskInstruction
from magicmm_training.data.candidates import parts_of
from magicmm_training.data.check_pairs import kind_of
from magicmm_training.data.findings import BenchmarkReport, Findings, Kind
from magicmm_training.data.registry import PAIR_FORMATS, open_pairs
from magicmm_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from magicmm_training.data.leakage import BenchmarkIndex
    from magicmm_training.entries import Entry
    from magicmm_training.recipe import Benchmark

Progress = Callable[[str, int, int], None]
"""Called with the name of a data set or benchmark, how many rows are done, and how many there are (0 = unknown)."""
_UNREAD = TaskInstruction("unread", "unread")
"""Contents are compared without instructions, so that benchmarks need none here."""


def index_benchmark(
    benchmark: Benchmark,
    root: Path,
    given: Mapping[str, Iterable[Entry]],
    index: BenchmarkIndex,
    progress: Progress,
) -> BenchmarkReport:
    """Put all queries and candidates of a benchmark into the index.

    Args:
        benchmark: Of an evaluation stage.
        root: Folder of all data.
        given: Entries by the benchmark's name, from readers of other formats; read lazily, and their errors reported.
        index: Takes up the entries.
        progress: Told how many there were.
    """
    findings = Findings()
    if benchmark.name not in given and benchmark.format not in PAIR_FORMATS:
        findings.warning(Kind.UNCHECKED, f"{benchmark.name}: format {benchmark.format!r} was not looked for")
        return BenchmarkReport(benchmark.name, benchmark.format, 0, findings.all())
    count = 0
    try:
        entries = given[benchmark.name] if benchmark.name in given else _entries_of(benchmark, root, findings)
        for entry in entries:
            if entry.image == b"":  # so readers of benchmarks mark pictures that are not there
                findings.error(Kind.MISSING_IMAGE, f"{benchmark.name} lacks a picture")
                continue
            try:
                index.add(benchmark.name, entry)
            except MagicError as error:
                findings.error(Kind.MISSING_IMAGE, error.message)
                continue
            count += 1
            progress(benchmark.name, count, 0)
    except MagicError as error:
        findings.error(Kind.UNREADABLE, error.message)
    else:
        if not count:
            findings.error(Kind.EMPTY, f"{benchmark.name} has no entries")
    return BenchmarkReport(benchmark.name, benchmark.format, count, findings.all())


def _entries_of(benchmark: Benchmark, root: Path, findings: Findings) -> Iterator[Entry]:
    """Give queries and candidates of a benchmark in a format of pairs; rows that cannot be read are reported.

    Raises:
        MagicError: When it cannot be opened.
    """
    split = str(benchmark.options.get("split", "test"))
    source = Source(name=benchmark.name, format=benchmark.format, path=benchmark.path, split=split)
    pairs = open_pairs(source, root, task=_UNREAD)
    for place in range(len(pairs)):
        try:
            pair = pairs[place]
        except MagicError as error:
            findings.error(kind_of(error), error.message)
            continue
        yield pair.query
        for _, entry in parts_of(pair):
            yield entry
