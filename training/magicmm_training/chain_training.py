"""A training stage as a job: run here, or by several processes that a launcher starts.

A job is a file that says everything, so that every process of torchrun, on any machine that sees the folder, does the
same: `torchrun --nproc-per-node 8 -m magicmm_training stage JOB.json`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.chain_keys import OpenData
from magicmm_training.loop.logs import read_log
from magicmm_training.loop.loop import train
from magicmm_training.recipe import Contrastive, Distillation, Recipe, Reranker, Restoration, TrainingStage
from magicmm_training.storage import write_aside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.loop.loop import Progress
    from magicmm_training.loop.objective import Objective

JOB = "job.json"
_TAIL_SHARE = 0.1
"""Of the steps: the loss at the end of a stage is a mean over so many."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training stage.

    Attributes:
        recipe: What it is part of; `data_root` is absolute.
        stage: Its name.
        folder: Of its output.
        start: Checkpoint that it starts from.
        negatives: Output of the mining or judge stage that it reads, or None.
        shard: Whether parameters are sharded over the processes.
    """

    recipe: Recipe
    stage: str
    folder: Path
    start: Path
    negatives: Path | None = None
    shard: bool = False

    def write(self) -> None:
        """Write the job into its folder.

        Raises:
            MagicError: `storage_failed`.
        """
        facts = {
            "recipe": self.recipe.model_dump(mode="json"),
            "stage": self.stage,
            "folder": str(self.folder),
            "start": str(self.start),
            "negatives": None if self.negatives is None else str(self.negatives),
            "shard": self.shard,
        }
        with write_aside(self.folder / JOB) as file:
            file.write(json.dumps(facts, indent=1).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote.

        Raises:
            MagicError: `argument_invalid` for anything else.
        """
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            negatives = facts["negatives"]
            return cls(
                Recipe.model_validate(facts["recipe"]),
                facts["stage"],
                Path(facts["folder"]),
                Path(facts["start"]),
                None if negatives is None else Path(negatives),
                facts["shard"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"{path} is no job: {error}.", "Give a job.json that `run` wrote."
            ) from None

    def options(self) -> TrainingStage:
        """Return the settings of the stage.

        Raises:
            MagicError: `argument_invalid` when the recipe has no such training stage.
        """
        for stage in self.recipe.stages:
            if stage.name == self.stage and isinstance(stage, TrainingStage):
                return stage
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The job's recipe has no training stage {self.stage!r}.",
            "Start it with `run`.",
        )


def run_job(job: Job, data: OpenData | None = None, progress: Progress | None = None) -> Path:
    """Train in this process, together with others when a launcher started them; return the checkpoint.

    Raises:
        MagicError: See `train`.
    """
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.loading import load_model
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.loop.trainee import MagicTrainee

    stage, model = job.options(), job.recipe.model
    if isinstance(stage, Distillation):
        return _distil(job, stage, progress)
    start = Checkpoint.open(job.start)
    loaded = load_model(
        start,
        compression=model.compression,
        image_size=model.image_size,
        head=stage.keep_head if isinstance(stage, Contrastive) else True,
    )
    tokenizer = PromptTokenizer(job.start / "tokenizer.json", loaded.config.language.vocab_size)
    objective = _objective(job, stage, loaded.config, tokenizer, data or OpenData(job.recipe))
    # The objective names the data by content; where they lie is no part of what a run is.
    plain = stage.model_copy(update={"data": (), "known_hours": None})
    checkpoint = train(
        plain,
        objective,
        MagicTrainee(loaded, job.start),
        job.folder,
        seed=job.recipe.seed,
        shard=job.shard,
        progress=progress,
    )
    del loaded, objective
    gc.collect()  # modules and their hooks hold each other
    return checkpoint


def _distil(job: Job, stage: Distillation, progress: Progress | None) -> Path:
    """Train the built-in model."""
    from magicmm_model.nano.storing import TOKENIZER, load_nano, load_tokenizer, load_words
    from magicmm_training.nano.distillation import DistillationObjective
    from magicmm_training.nano.trainee import NanoTrainee

    model = load_nano(job.start)
    tokenizer = load_tokenizer(job.start / TOKENIZER)
    objective = DistillationObjective(stage, model, tokenizer, load_words(job.start))
    plain = stage.model_copy(update={"known_hours": None})
    trainee = NanoTrainee(model, job.start)
    return train(plain, objective, trainee, job.folder, seed=job.recipe.seed, shard=job.shard, progress=progress)


def launch_command(job: Job, launcher: Sequence[str]) -> list[str]:
    """Return the command that trains in processes which a launcher starts."""
    return [*launcher, "-m", "magicmm_training", "stage", str(job.folder / JOB)]


def launch_job(job: Job, launcher: Sequence[str]) -> None:
    """Train in processes that a launcher starts, and wait for them.

    Args:
        job: What to do.
        launcher: Command that starts Python with what is appended, such as `torchrun --nproc-per-node 8`.

    Raises:
        MagicError: `runtime_failed` when they fail; what they said is on stderr.
    """
    command = launch_command(job, launcher)
    job.write()
    try:
        code = subprocess.run(command, stdout=sys.stderr, check=False).returncode  # noqa: S603 - the user's own launcher
    except OSError as error:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{command[0]} cannot be started: {error.strerror}.", "Correct --launcher."
        ) from None
    if code:
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"The processes of stage {job.stage!r} ended with code {code}.",
            "Look at what they wrote above; the same command goes on from the last state.",
        )


def torchrun(processes: int) -> list[str]:
    """Return the launcher for processes on this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def training_facts(folder: Path) -> dict[str, Any]:
    """Return the losses of a finished stage, from its log."""
    losses = [row["loss"] for row in read_log(folder)]
    tail = losses[-max(1, round(_TAIL_SHARE * len(losses))) :]
    return {"steps": len(losses), "first_loss": losses[0], "last_loss": sum(tail) / len(tail)}


def _objective(
    job: Job, stage: TrainingStage, config: ModelConfig, tokenizer: PromptTokenizer, data: OpenData
) -> Objective:
    from magicmm_training.loop.contrastive import ContrastiveObjective
    from magicmm_training.loop.restoration import RestorationObjective
    from magicmm_training.mining.negatives import Negatives

    if isinstance(stage, Restoration):
        return RestorationObjective(stage, data.conversations(stage.data), config, tokenizer)
    pairs = data.pairs(stage.data)
    negatives = None
    if job.negatives is not None:
        negatives = Negatives.load(job.negatives, [pair_set for _, pair_set in pairs])
    if isinstance(stage, Contrastive):
        return ContrastiveObjective(stage, pairs, config, tokenizer, negatives)
    from magicmm_training.reranker.objective import RerankerObjective

    assert isinstance(stage, Reranker) and negatives is not None  # noqa: S101 - the recipe demands it
    return RerankerObjective(stage, pairs, config, tokenizer, negatives)
