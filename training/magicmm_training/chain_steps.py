"""What each kind of stage does, in terms of the packages that do it; one function a kind."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magicmm_training.chain_training import Job, launch_command, launch_job, run_job, torchrun, training_facts
from magicmm_training.loop.loop import CHECKPOINT
from magicmm_training.recipe import Contrastive, Evaluation, Judge, Mining, Reranker, TrainingStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicmm_training.chain_keys import OpenData
    from magicmm_training.evaluation.embedders import TorchEvaluationEmbedder
    from magicmm_training.evaluation.rerank import PairScorer
    from magicmm_training.recipe import Recipe, Stage

Facts = dict[str, Any]
Report = Callable[[str, str, int, int, float | None], None]
"""Called with stage, what it is doing, how much of it is done, of how much, and a loss where there is one."""
RESULT = "result.json"
REPORTS = ("report.html", "report.md")
VECTORS = "vectors"
VERDICTS = "verdicts.sqlite"


@dataclass(frozen=True)
class Workshop:
    """What stages share.

    Attributes:
        recipe: What is run.
        out: Folder of the run; vectors and verdicts in it serve all stages.
        data: Of the recipe.
        folders: Output of each stage by name.
        report: For progress.
        processes: That train together.
        launcher: Command that starts them; None = this process alone, or torchrun on this machine.
        shard: Whether parameters are sharded over them.
    """

    recipe: Recipe
    out: Path
    data: OpenData
    folders: Mapping[str, Path]
    report: Report
    processes: int = 1
    launcher: tuple[str, ...] | None = None
    shard: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def checkpoint(self, stage: str | None) -> Path:
        """Return the checkpoint of a training stage; None = the recipe's base."""
        if stage is None:
            return self.data.root / self.recipe.model.base
        return self.folders[stage] / CHECKPOINT

    def embedder(self, stage: str, batch: int) -> TorchEvaluationEmbedder:
        """Load the model of a stage for inference, as it was trained: type, longest sequence, tiles."""
        from magicmm_model.checkpoint import Checkpoint
        from magicmm_model.loading import load_model
        from magicmm_model.tokenizer import PromptTokenizer
        from magicmm_training.evaluation.embedders import TorchEvaluationEmbedder

        options = self.recipe.stage(stage)
        assert isinstance(options, TrainingStage)  # noqa: S101 - the recipe demands it
        dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
        folder = self.checkpoint(stage)
        checkpoint = Checkpoint.open(folder)
        model = load_model(
            checkpoint,
            dtype=dtype,
            compression=self.recipe.model.compression,
            image_size=self.recipe.model.image_size,
            device=self.device,
        )
        tokenizer = PromptTokenizer(folder / "tokenizer.json", model.config.language.vocab_size)
        return TorchEvaluationEmbedder(
            model, tokenizer, name=stage, batch=batch, dtype=dtype, max_tokens=options.max_tokens
        )

    def told(self, stage: Stage) -> Callable[[str, int, int], None]:
        """Return a progress callback of a stage without losses."""

        def tell(what: str, done: int, total: int) -> None:
            self.report(stage.name, what, done, total, None)

        return tell


def run_stage(stage: Stage, shop: Workshop) -> Facts:
    """Run a stage into its folder; what a killed run left there is used.

    Returns:
        What the record says of it.

    Raises:
        MagicError: See the packages that do the work.
    """
    try:
        if isinstance(stage, TrainingStage):
            return run_training(stage, shop)
        if isinstance(stage, Mining):
            return run_mining(stage, shop)
        return run_judge(stage, shop) if isinstance(stage, Judge) else run_evaluation(stage, shop)
    finally:
        gc.collect()


def run_training(stage: TrainingStage, shop: Workshop) -> Facts:
    """Train, here or in processes that a launcher starts."""
    negatives = None
    if isinstance(stage, Contrastive) and stage.negatives is not None:
        negatives = shop.folders[stage.negatives]
    elif isinstance(stage, Reranker):
        negatives = shop.folders[stage.judged]
    folder = shop.folders[stage.name]
    job = Job(shop.recipe, stage.name, folder, shop.checkpoint(stage.init), negatives, shop.shard)
    if shop.processes == 1 and shop.launcher is None:

        def tell(done: int, total: int, loss: float) -> None:
            shop.report(stage.name, "steps", done, total, loss)

        run_job(job, shop.data, tell)
    else:
        launcher = shop.launcher or torchrun(shop.processes)
        shop.report(stage.name, shlex.join(launch_command(job, launcher)), 0, 0, None)
        launch_job(job, launcher)
    return training_facts(folder)


def run_mining(stage: Mining, shop: Workshop) -> Facts:
    """Mine hard negatives with the model of another stage."""
    from magicmm_training.mining.mine import mine

    report = mine(
        stage,
        [pairs for _, pairs in shop.data.pairs(stage.data)],
        shop.embedder(stage.init, stage.batch),
        shop.folders[stage.name],
        shop.recipe.seed,
        shop.told(stage),
        vectors=shop.out / VECTORS,
        device=shop.device,
    )
    return {
        "pairs": sum(counts.pairs for counts in report.sets),
        "negatives": sum(counts.negatives for counts in report.sets),
        "sets": report.to_json()["sets"],
    }


def embed_stage(stage: Mining | Judge, shop: Workshop, share: int, shares: int) -> int:
    """Embed a share of what a stage ranks; return how many vectors there are then."""
    from magicmm_training.mining.share import embed_share

    pair_sets = [pairs for _, pairs in shop.data.pairs(stage.data)]
    embedder = shop.embedder(stage.init, stage.batch)
    return embed_share(pair_sets, embedder, shop.out / VECTORS, share, shares, stage.batch, shop.told(stage))


def run_judge(stage: Judge, shop: Workshop) -> Facts:
    """Judge the top candidates of another stage's model."""
    from magicmm_training.judge.judge import judge
    from magicmm_training.judge.opening import open_judge

    model = stage.judge
    is_stage = model.kind == "own" and model.path in shop.folders
    folder = shop.checkpoint(model.path) if is_stage else shop.data.root / model.path
    report = judge(
        stage,
        [pairs for _, pairs in shop.data.pairs(stage.data)],
        shop.embedder(stage.init, stage.batch),
        open_judge(model, folder, shop.device),
        shop.folders[stage.name],
        shop.told(stage),
        vectors=shop.out / VECTORS,
        verdicts=shop.out / VERDICTS,
        device=shop.device,
    )
    sets = report.sets
    return {
        "asked": sum(counts.asked for counts in sets),
        "approved": sum(counts.approved for counts in sets),
        "rejected": sum(counts.rejected for counts in sets),
        "negatives": sum(counts.negatives for counts in sets),
        "sets": report.to_json()["sets"],
    }


def run_evaluation(stage: Evaluation, shop: Workshop) -> Facts:
    """Score a model on the benchmarks, with its reranker if the recipe names one."""
    from magicmm_training.evaluation.evaluate import EvaluationOptions, evaluate
    from magicmm_training.evaluation.report import write_report
    from magicmm_training.storage import write_aside

    result = evaluate(
        shop.embedder(stage.init, stage.batch),
        stage.benchmarks,
        shop.data.root,
        _reranker(stage, shop),
        EvaluationOptions(batch=stage.batch, rerank_top=stage.rerank_top, seed=shop.recipe.seed),
        shop.out / VECTORS,
        shop.told(stage),
    )
    folder = shop.folders[stage.name]
    with write_aside(folder / RESULT) as file:
        file.write(result.to_json().encode())
    for name in REPORTS:
        write_report(folder / name, [result], f"{shop.recipe.name}: {stage.name}")
    facts: Facts = {}
    for task in result.tasks:
        name = f"{task.benchmark}/{task.name}"
        facts[name] = task.values[task.main].score
        if task.reranked is not None:
            facts[f"{name} reranked"] = task.reranked[task.main].score
    return facts


def _reranker(stage: Evaluation, shop: Workshop) -> PairScorer | None:
    if stage.reranker is None:
        return None
    from magicmm_training.reranker.inference import Reranker as Scorer

    options = shop.recipe.stage(stage.reranker)
    assert isinstance(options, TrainingStage)  # noqa: S101 - the recipe demands it
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    return Scorer.open(
        shop.checkpoint(stage.reranker),
        dtype=dtype,
        device=shop.device,
        compression=shop.recipe.model.compression,
        image_size=shop.recipe.model.image_size,
        max_tokens=options.max_tokens,
    )
