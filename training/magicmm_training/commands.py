"""What each verb of `magicmm-train` does. Every one returns an answer (`to_json`, `table`) and an exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.recipe_file import load_recipe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from magicmm_training.chain import ChainOptions
    from magicmm_training.chain_record import RunRecord
    from magicmm_training.data.findings import DataReport
    from magicmm_training.entries import Entry
    from magicmm_training.eval_command import Scores
    from magicmm_training.plan_report import Plan
    from magicmm_training.recipe import Benchmark, Recipe

_SECONDS = {True: 0.1, False: 30.0}
"""Between two updates of a bar: on a terminal, and in the log of a batch job."""


@dataclass(frozen=True)
class Facts:
    """A small answer."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        return self.facts

    def table(self) -> str:
        """Return the text."""
        return self.text


def run_plan(options: argparse.Namespace) -> tuple[Plan, int]:
    """Plan a recipe."""
    from magicmm_training.plan import make_plan

    return make_plan(load_recipe(options.recipe, options.overrides)), 0


def run_run(options: argparse.Namespace) -> tuple[RunRecord, int]:
    """Run a recipe."""
    recipe = load_recipe(options.recipe, options.overrides)
    return _chain(recipe, options, until=options.until, from_scratch=options.from_scratch), 0


def run_mine(options: argparse.Namespace) -> tuple[RunRecord, int]:
    """Run a mining stage."""
    return _single(options, "mining"), 0


def run_judge(options: argparse.Namespace) -> tuple[RunRecord, int]:
    """Run a judge stage."""
    return _single(options, "judge"), 0


def run_data_check(options: argparse.Namespace) -> tuple[DataReport, int]:
    """Check all data of a recipe; exit code 1 when it has errors."""
    from magicmm_training.data.check import check_data
    from magicmm_training.data.registry import PAIR_FORMATS
    from magicmm_training.recipe import Evaluation

    recipe = load_recipe(options.recipe, options.overrides)
    root = Path(recipe.data_root)
    entries = {
        benchmark.name: _entries(benchmark, root)
        for stage in recipe.stages
        if isinstance(stage, Evaluation)
        for benchmark in stage.benchmarks
        if benchmark.format not in PAIR_FORMATS
    }
    with Bar() as bar:
        report = check_data(
            recipe, root, entries, lambda name, done, total: bar.show(name, "", done, total), options.limit
        )
    return report, int(report.has_errors)


def run_eval(options: argparse.Namespace) -> tuple[Scores, int]:
    """Score a model on benchmarks."""
    from magicmm_training.eval_command import run_eval as scores_of

    with Bar() as bar:
        return scores_of(options, lambda task, done, total: bar.show(task, "", done, total)), 0


def run_embed(options: argparse.Namespace) -> tuple[Facts, int]:
    """Embed a share of what a stage ranks."""
    from magicmm_training.chain import embed_for

    recipe = load_recipe(options.recipe, options.overrides)
    share, shares = options.share
    with Bar() as bar:
        vectors = embed_for(recipe, options.out, options.stage, share, shares, _chosen(options), bar.show)
    return Facts(f"{vectors:,} vectors for {options.stage}", {"stage": options.stage, "vectors": vectors}), 0


def run_scenes(options: argparse.Namespace) -> tuple[Facts, int]:
    """Write synthetic data and a checkpoint."""
    from magicmm_training.scenes import Sizes, write_base, write_scenes

    out: Path = options.out
    if out.exists():
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{out} exists already.", "Choose a new folder.")
    sizes = Sizes(options.captions, options.changes, options.samples, options.test)
    write_scenes(out / "scenes", sizes, options.seed)
    write_base(out / "base", out / "scenes", width=options.width, layers=options.layers, seed=options.seed)
    text = f"{out}: scenes/ and base/. Next: magicmm-train run tiny --data_root {out} --out {out}-run"
    return Facts(text, {"data_root": str(out)}), 0


def run_stage(options: argparse.Namespace) -> tuple[Facts, int]:
    """Train as one of several processes."""
    from magicmm_training.chain_training import Job, run_job
    from magicmm_training.loop.engine import leave_processes

    job = Job.read(options.job)
    with Bar() as bar:
        checkpoint = run_job(job, progress=lambda done, total, loss: bar.show(job.stage, "steps", done, total, loss))
    leave_processes()
    return Facts(str(checkpoint), {"checkpoint": str(checkpoint)}), 0


def _single(options: argparse.Namespace, kind: str) -> RunRecord:
    recipe = load_recipe(options.recipe, options.overrides)
    names = [stage.name for stage in recipe.stages if stage.kind == kind]
    if options.stage is None and len(names) != 1:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The recipe {recipe.name!r} has {len(names)} stages of kind {kind}.",
            f"Name one with --stage: {', '.join(names)}." if names else "Choose another recipe.",
        )
    if options.stage is not None and options.stage not in names:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{options.stage!r} is no stage of kind {kind}.",
            f"Choose one of {', '.join(names) or 'none; the recipe has no such stage'}.",
        )
    return _chain(recipe, options, only=options.stage or names[0])


def _chain(recipe: Recipe, options: argparse.Namespace, **more: Any) -> RunRecord:
    from magicmm_training.chain import run_chain

    with Bar() as bar:
        return run_chain(recipe, options.out, _chosen(options, **more), bar.show)


def _chosen(options: argparse.Namespace, **more: Any) -> ChainOptions:
    from magicmm_training.chain import ChainOptions

    return ChainOptions(
        processes=options.processes,
        launcher=tuple(options.launcher) if options.launcher else None,
        shard=options.shard,
        **more,
    )


def _entries(benchmark: Benchmark, root: Path) -> Iterator[Entry]:
    """Yield all queries and candidates of a benchmark."""
    from magicmm_training.evaluation.benchmarks.registry import open_benchmark
    from magicmm_training.evaluation.task import entries_of

    for task in open_benchmark(benchmark, root):
        yield from entries_of(task)


class Bar:
    """Progress on stderr: a bar for what is being done; in a file, a line now and then."""

    def __enter__(self) -> Bar:
        self._what: tuple[str, str] | None = None
        self._bar: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, stage: str, what: str, done: int, total: int, loss: float | None = None) -> None:
        """Show how much is done; a total of 0 is one that nobody knows."""
        if self._what != (stage, what):
            self._close()
            self._what = (stage, what)
            interval = _SECONDS[sys.stderr.isatty()]
            self._bar = tqdm(
                total=total or None,
                desc=f"{stage} {what}".strip(),
                file=sys.stderr,
                mininterval=interval,
                dynamic_ncols=True,
            )
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
