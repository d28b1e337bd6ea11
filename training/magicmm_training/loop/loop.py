"""One loop for all stages with gradients: the recipe's stage and an objective in, a checkpoint folder out."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.engine import ProcessEngine
from magicmm_training.loop.feed import FedBatch, SampleFeed
from magicmm_training.loop.fingerprint import model_fingerprint
from magicmm_training.loop.fsdp import whole_tensors
from magicmm_training.loop.logs import RunLogs
from magicmm_training.loop.offending import save_offending
from magicmm_training.loop.optimiser import build_optimiser, clip_gradients
from magicmm_training.loop.resume import RunState, differences
from magicmm_training.loop.sampler import BatchSampler, seed_of
from magicmm_training.loop.schedule import learning_rate, total_steps
from magicmm_training.storage import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.loop.objective import Objective, StepResult
    from magicmm_training.loop.trainee import Trainee
    from magicmm_training.recipe import TrainingStage

CHECKPOINT, STATE, RESULT = "checkpoint", "state", "run.json"
"""What a run's folder holds beside its log: the result, states to resume from until then, and what was run."""


class Progress(Protocol):
    """Is told after each step."""

    def __call__(self, done: int, total: int, loss: float) -> None:
        """Steps done, steps in all, loss of the last."""
        ...


def train(
    stage: TrainingStage,
    objective: Objective,
    trainee: Trainee,
    out: Path,
    *,
    seed: int,
    shard: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train a model; start, go on, or return the result, depending on what `out` holds.

    All processes that torchrun or accelerate started call this alike. A step takes `per_device` samples a process.
    Result and log do not depend on kills in between (on a CPU, bit for bit), nor, but for rounding and dropout, on how
    many processes share the same batch.

    Args:
        stage: Settings.
        objective: Data and loss.
        trainee: The start, whole on every process; its model is changed, and of no use afterwards.
        out: Folder of the run: `checkpoint/`, `log.jsonl`, `tensorboard/`, and `state/` until it is done.
        seed: Of everything random.
        shard: Shard parameters over the processes (FSDP2).
        progress: Told after each step, in the first process.

    Returns:
        The checkpoint folder that the trainee wrote.

    Raises:
        MagicError: `argument_invalid` for data that makes no batch, or a folder of another run or number of processes;
            `source_unavailable` for too many broken samples; `runtime_failed` when loss or gradient is not finite;
            `storage_failed` when something cannot be written, with the last state kept.
    """
    run = _Run(stage, objective, trainee, out, seed=seed, shard=shard)
    if not run.is_done():
        run.train(progress)
    return out / CHECKPOINT


class _Run:
    """The parts of a run, put together in the order that they need each other."""

    def __init__(
        self,
        stage: TrainingStage,
        objective: Objective,
        trainee: Trainee,
        out: Path,
        *,
        seed: int,
        shard: bool,
    ) -> None:
        self._stage, self._objective, self._out, self._seed = stage, objective, out, seed
        self._trainee = trainee
        self._identity = {
            "stage": stage.model_dump(mode="json", exclude={"save_every", "max_bad_share"}),
            "seed": seed,
            "data": objective.fingerprint,
            "start": model_fingerprint(trainee.model),
        }
        torch.manual_seed(seed_of(seed, "adapters"))
        self._model = trainee.prepare(stage).train()
        self._engine = ProcessEngine(self._model, sharded=shard)
        self._model.to(self._engine.device)
        self._engine.share_first(self._model)
        if shard:
            trainee.shard(self._model, self._engine.device)
        self._optimiser = build_optimiser(self._model, stage.optimiser)
        batch = stage.batch.per_device * self._engine.processes
        sampler = BatchSampler(objective.spans, batch, single_source=stage.batch.single_source, seed=seed)
        self._total = total_steps(stage, sampler.steps_per_epoch)
        self._feed = SampleFeed(objective, sampler, self._engine, seed=seed, max_bad_share=stage.max_bad_share)
        self._state = RunState(out / STATE, self._model, self._optimiser, self._engine, self._identity)

    def is_done(self) -> bool:
        """Return whether the folder holds the result of this run.

        Raises:
            MagicError: `argument_invalid` when it holds that of another.
        """
        if not self._engine.first_says((self._out / CHECKPOINT).exists()):
            return False
        stored = json.loads((self._out / RESULT).read_text(encoding="utf-8"))
        changes = differences(stored, json.loads(json.dumps(self._identity)))
        if changes:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self._out} holds the result of another run: {'; '.join(changes)}.",
                "Choose a new folder.",
            )
        return True

    def train(self, progress: Progress | None) -> None:
        """Take all steps that are missing, and write the result."""
        done, counters = self._state.restore()
        self._feed.resume(counters)
        logs = RunLogs(self._out, done) if self._engine.rank == 0 else None
        try:
            for step in range(done, self._total):
                began = time.monotonic()
                row = self._step(step)
                if logs is not None:
                    logs.write({**row, "seconds": round(time.monotonic() - began, 3)})
                if (step + 1) % self._stage.save_every == 0 or step + 1 == self._total:
                    self._state.save(step + 1, self._feed.counters())
                if progress is not None and self._engine.rank == 0:
                    progress(step + 1, self._total, row["loss"])
        finally:
            self._feed.close()
            if logs is not None:
                logs.close()
        self._finish()

    def _step(self, step: int) -> dict[str, Any]:
        """Take one step; return its row of the log."""
        batch = self._feed.batch(step, last=step + 1 == self._total)
        torch.manual_seed(seed_of(self._seed, "step", step, self._engine.rank))
        rate = learning_rate(self._stage.optimiser, step, self._total)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        result = self._objective.step(self._model, batch.samples, self._engine)
        norm = clip_gradients(self._model, self._stage.optimiser.clip)
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            self._stop(step, batch, result, norm)
        self._optimiser.step()
        return {
            "step": step + 1,
            "epoch": batch.epoch,
            "dataset": batch.source,
            "loss": result.loss,
            "lr": rate,
            "grad_norm": norm,
            **result.counters,
            **self._feed.counters(),
        }

    def _stop(self, step: int, batch: FedBatch, result: StepResult, norm: float) -> NoReturn:
        facts = {
            "step": step + 1,
            "dataset": batch.source,
            "places": batch.places,
            "loss": result.loss,
            "grad_norm": norm,
        }
        folder = self._out / f"offending-step-{step + 1:08}"
        where = save_offending(folder, self._engine.rank, facts, batch.samples)
        self._engine.wait()
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"Step {step + 1:,} ({batch.source or 'mixed data'}) gave loss {result.loss} and gradient norm {norm}; "
            f"of the batch, {where}.",
            "Look at the batch, lower the learning rate, or use dtype float32; the run goes on from its last state.",
        )

    def _finish(self) -> None:
        """Write the checkpoint; then the states are of no use any more."""
        tensors = whole_tensors(self._trainee.model, keep=self._engine.rank == 0)
        problem = None
        if self._engine.rank == 0:
            try:
                write_whole(self._out / RESULT, json.dumps(self._identity, indent=1) + "\n")
                self._trainee.write(tensors, self._out / CHECKPOINT)
            except MagicError as error:
                problem = error.args
            except OSError as error:
                message = f"{self._out} cannot be written: {error.strerror or error}."
                problem = (ErrorCode.STORAGE_FAILED, message, "Free some space and start the run again.")
        problem = self._engine.first_says(problem)
        if problem is not None:
            raise MagicError(*problem)
        self._state.remove()
        self._engine.wait()
