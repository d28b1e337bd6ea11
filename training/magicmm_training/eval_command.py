"""What `magicmm-train eval` does: any model on any benchmarks, without a run around it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.embedders import open_embedder
from magicmm_training.evaluation.evaluate import EvaluationOptions, evaluate
from magicmm_training.evaluation.report import write_report
from magicmm_training.evaluation.result import EvaluationResult
from magicmm_training.loop.loop import CHECKPOINT
from magicmm_training.recipe import Benchmark, Evaluation
from magicmm_training.recipe_file import load_recipe
from magicmm_training.storage import write_aside

if TYPE_CHECKING:
    import argparse

    from magicmm_training.evaluation.evaluate import Progress
    from magicmm_training.evaluation.rerank import PairScorer

RESULT = "result.json"
REPORTS = ("report.html", "report.md")


@dataclass(frozen=True)
class Scores:
    """The answer: a result as JSON, or as lines."""

    result: EvaluationResult

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        facts: dict[str, Any] = json.loads(self.result.to_json())
        return facts

    def table(self) -> str:
        """Return one line for each task and mean: main metric, its 95 % interval, after reranking, queries."""
        rows = [("task", "metric", "score", "95 %", "reranked", "queries")]
        for task in self.result.tasks:
            value = task.values[task.main]
            again = "" if task.reranked is None else _percent(task.reranked[task.main].score)
            rows.append(
                (
                    f"{task.benchmark}/{task.name}",
                    task.main,
                    _percent(value.score),
                    f"{_percent(value.low)}-{_percent(value.high)}",
                    again,
                    f"{task.scored:,}",
                )
            )
        for mean in self.result.means:
            again = "" if mean.reranked is None else _percent(mean.reranked.score)
            of = f"{mean.tasks} of {mean.of}" if mean.partial else f"{mean.tasks}"
            name = f"{mean.benchmark}: {mean.name}"
            interval = f"{_percent(mean.value.low)}-{_percent(mean.value.high)}"
            rows.append((name, "mean", _percent(mean.value.score), interval, again, f"{of} tasks"))
        for cell in self.result.grid:
            label = f"{cell.dim} x {cell.precision}, {cell.bytes} bytes"
            rows.append((label, "mean", _percent(cell.score), "", "", f"{len(cell.scores)} tasks"))
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        warnings = [f"{task.benchmark}/{task.name}: {text}" for task in self.result.tasks for text in task.warnings]
        return "\n".join([f"{self.result.model}, {self.result.dim} dimensions", *lines, *self.result.notes, *warnings])


def run_eval(options: argparse.Namespace, progress: Progress) -> Scores:
    """Score a model.

    Raises:
        MagicError: See `open_embedder` and `evaluate`; `argument_invalid` without benchmarks.
    """
    benchmarks, root = _benchmarks(options)
    embedder = open_embedder(options.model, batch=options.batch, device=_device(), stored=options.stored)
    if options.model.name == CHECKPOINT:
        embedder.name = options.model.resolve().parent.name  # of the stage, which says more
    result = evaluate(
        embedder,
        benchmarks,
        root,
        _reranker(options.reranker),
        replace(
            EvaluationOptions(),
            batch=options.batch,
            rerank_top=options.rerank_top,
            dims=options.dims,
            precisions=options.precisions,
        ),
        options.vectors,
        progress,
    )
    if options.report is not None:
        with write_aside(options.report / RESULT) as file:
            file.write(result.to_json().encode())
        compared = [EvaluationResult.from_json(_text(path)) for path in options.compare]
        for name in REPORTS:
            write_report(options.report / name, [*compared, result])
    return Scores(result)


def _benchmarks(options: argparse.Namespace) -> tuple[list[Benchmark], Path]:
    """Return the benchmarks of the recipe and of the command line, and where relative paths begin."""
    found: list[Benchmark] = []
    root = Path()
    if options.recipe is not None:
        recipe = load_recipe(options.recipe, options.overrides)
        root = Path(recipe.data_root)
        for stage in recipe.stages:
            if isinstance(stage, Evaluation):
                found += [one for one in stage.benchmarks if one not in found]
    elif options.overrides:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{options.overrides[0]} changes a recipe, and there is none.", "Add --recipe."
        )
    for text in options.benchmark:
        format_, equals, path = text.partition("=")
        if not equals or not path:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"{text!r} is no benchmark.", "Write FORMAT=PATH, such as mmeb=MMEB-eval."
            )
        found.append(Benchmark(name=Path(path).stem, format=format_, path=str(Path(path).resolve())))
    if not found:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, "There is nothing to score on.", "Name a --recipe, or a --benchmark."
        )
    return found, root


def _reranker(folder: Path | None) -> PairScorer | None:
    if folder is None:
        return None
    import torch

    from magicmm_training.reranker.inference import Reranker

    device = _device()
    return Reranker.open(folder, dtype=torch.float32 if device == "cpu" else torch.bfloat16, device=device)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{path} cannot be read: {error}.", "Give a result.json of another evaluation."
        ) from None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
