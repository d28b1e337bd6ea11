"""The check before a run: every data set of a recipe, and whether evaluation data is among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from magicmm.errors import MagicError
from magicmm_training.data.check_benchmarks import index_benchmark
from magicmm_training.data.check_pairs import ConversationCheck, PairCheck, RowCheck
from magicmm_training.data.files import chosen_rows
from magicmm_training.data.findings import DataReport, Findings, Kind, SourceReport
from magicmm_training.data.leakage import BenchmarkIndex
from magicmm_training.data.registry import open_conversations, open_pairs
from magicmm_training.recipe import Contrastive, Evaluation, Restoration, Source, TrainingStage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from magicmm_training.data.check_benchmarks import Progress
    from magicmm_training.entries import Entry
    from magicmm_training.recipe import Recipe, Stage

Sample = TypeVar("Sample")
Read = TypeVar("Read", covariant=True)


class _Samples(Protocol[Read]):
    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Read: ...


def check_data(
    recipe: Recipe,
    root: Path,
    benchmark_entries: Mapping[str, Iterable[Entry]] | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
) -> DataReport:
    """Read all data of a recipe, decode its pictures, and report what is wrong; nothing is changed.

    Memory grows with the number of rows and of distinct pictures (some hundred bytes each), not with their size.

    Args:
        recipe: Its stages' sources are checked, each once; its evaluation stages' benchmarks are looked for in them.
        root: Folder of all data.
        benchmark_entries: For a benchmark's name, all its queries and candidates. Benchmarks that are not in it are
            read here when their format is one of pairs, and reported as unchecked otherwise.
        progress: Told how far the check is.
        limit: Look at so many rows of each source only, chosen by the recipe's seed.
    """
    told = progress or (lambda name, done, total: None)
    index = BenchmarkIndex()
    benchmarks = [
        index_benchmark(benchmark, root, benchmark_entries or {}, index, told)
        for stage in recipe.stages
        if isinstance(stage, Evaluation)
        for benchmark in stage.benchmarks
    ]
    run = _Run(recipe, root, index, told, limit)
    return DataReport(recipe.name, tuple(run.check(use) for use in _uses(recipe)), tuple(benchmarks))


@dataclass(frozen=True, slots=True)
class _Use:
    """A source and the stages that read it."""

    source: Source
    stages: list[Stage]

    @property
    def bad_share(self) -> float:
        """The share of unusable rows that every stage lets pass."""
        return min((stage.max_bad_share for stage in self.stages if isinstance(stage, TrainingStage)), default=0.0)

    @property
    def per_device(self) -> int:
        """How many pairs a process contrasts with one another at most; 0 when no stage does."""
        return max((stage.batch.per_device for stage in self.stages if isinstance(stage, Contrastive)), default=0)

    def clash(self) -> str | None:
        """Return a stage in which another source has the same name."""
        for stage in self.stages:
            if [source.name for source in _data_of(stage)].count(self.source.name) > 1:
                return stage.name
        return None


@dataclass(frozen=True, slots=True)
class _Run:
    """What the checks of all sources share."""

    recipe: Recipe
    root: Path
    index: BenchmarkIndex
    progress: Progress
    limit: int | None

    def check(self, use: _Use) -> SourceReport:
        """Check one source."""
        source, findings = use.source, Findings()
        check: ConversationCheck | PairCheck
        if isinstance(use.stages[0], Restoration):
            check = ConversationCheck(findings, self.index)
            rows = self._read(check, partial(open_conversations, source, self.root, self.recipe.seed), use, findings)
            targets = None
        else:
            check = PairCheck(findings, self.index)
            rows = self._read(check, partial(open_pairs, source, self.root, self.recipe.seed), use, findings)
            check.contrast(use.per_device * self.recipe.hardware.devices)
            targets = check.targets
        _check_settings(use, findings)
        return SourceReport(
            source.name,
            tuple(stage.name for stage in use.stages),
            source.format,
            source.licence,
            rows,
            check.checked,
            check.images,
            targets,
            findings.all(),
        )

    def _read(
        self, check: RowCheck[Sample], opening: Callable[[], _Samples[Sample]], use: _Use, findings: Findings
    ) -> int:
        """Check the rows of a source and return how many it has."""
        name = use.source.name
        try:
            samples = opening()
        except MagicError as error:
            findings.error(Kind.UNREADABLE, error.message)
            return 0
        if not len(samples):
            findings.error(Kind.EMPTY, f"{name} has no rows")
        places = chosen_rows(len(samples), self.limit, self.recipe.seed).tolist()
        for done, place in enumerate(places, 1):
            try:
                sample = samples[place]
            except MagicError as error:
                check.unusable(error)
            else:
                check.take(sample)
            self.progress(name, done, len(places))
        check.tolerate(use.bad_share)
        return len(samples)


def _uses(recipe: Recipe) -> list[_Use]:
    """Return every source once, whatever weight stages give it."""
    uses: dict[str, _Use] = {}
    for stage in recipe.stages:
        for source in _data_of(stage):
            same = source.model_dump_json(exclude={"weight", "samples", "judged"})
            key = f"{isinstance(stage, Restoration)} {same}"
            uses.setdefault(key, _Use(source, [])).stages.append(stage)
    return list(uses.values())


def _data_of(stage: Stage) -> tuple[Source, ...]:
    return () if isinstance(stage, Evaluation) else stage.data


def _check_settings(use: _Use, findings: Findings) -> None:
    """Report what the recipe itself says of a source."""
    source = use.source
    if source.licence == "unknown":
        findings.warning(Kind.LICENCE, f"{source.name}: set its licence in the recipe")
    if stage := use.clash():
        findings.error(Kind.SAME_NAME, f"stage {stage} has several sources {source.name!r}")
    documents = source.group == "T->VD" or source.format in ("colpali", "visrag")
    if documents and source.max_tiles == 1:
        findings.warning(Kind.ONE_TILE, f"{source.name}: the paper reads documents in up to 4 tiles (max_tiles)")
