"""Checkpoints of a run in progress: weights in training, optimiser moments, step and counters.

`state/step-00000500/` holds `facts.json` and one safetensors file, or one for each process when parameters are sharded.
A checkpoint is written aside, synced and renamed; the two latest are kept. There is no random state to store: samples,
orders and dropout all follow from (seed, step). Frozen weights come from the start of the stage, whose fingerprint is
among the facts.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.fsdp import local_part
from magicmm_training.storage import sync, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from magicmm_training.loop.engine import ProcessEngine

_FACTS = "facts.json"
_KEPT = 2
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""


class RunState:
    """Saves and restores one run."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        engine: ProcessEngine,
        identity: Mapping[str, Any],
    ) -> None:
        """Name what belongs to the run.

        Args:
            folder: Where checkpoints go; all processes see the same.
            model: Its trained parameters are stored.
            optimiser: AdamW.
            engine: Of the loop.
            identity: Facts, as JSON, that must be the same when the run goes on.
        """
        self._folder, self._optimiser, self._engine = folder, optimiser, engine
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._identity = json.loads(json.dumps({**identity, "processes": engine.processes, "sharded": engine.sharded}))
        self._shards = engine.processes if engine.sharded else 1

    def save(self, step: int, counters: Mapping[str, int]) -> None:
        """Store the state after a number of steps.

        Raises:
            MagicError: `storage_failed`, in all processes; what was stored before stays.
        """
        target = self._folder / f"step-{step:08}"
        aside = self._folder / f"{target.name}.partial"
        problem = None
        if self._engine.rank == 0:
            problem = self._attempt(lambda: _make_empty(aside))
        problem = self._engine.first_says(problem)
        if problem is None and self._engine.rank < self._shards:
            problem = self._attempt(lambda: _write_tensors(aside / self._shard_name(), self._tensors()))
        problem = next((one for one in self._engine.gather_objects([problem]) if one), None)
        if problem is None and self._engine.rank == 0:
            facts = {"step": step, "counters": dict(counters), "run": self._identity}
            problem = self._attempt(lambda: _complete(aside, target, facts))
        problem = self._engine.first_says(problem)
        if problem is not None:
            if self._engine.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise MagicError(
                ErrorCode.STORAGE_FAILED,
                f"The state after step {step:,} cannot be saved in {self._folder}: {problem}.",
                "Free some space and start the run again: it goes on from the state before.",
            )
        if self._engine.rank == 0:
            for old in _stored(self._folder)[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self) -> tuple[int, dict[str, int]]:
        """Bring back the latest state.

        Returns:
            Steps done and counters; 0 and none without a state.

        Raises:
            MagicError: `argument_invalid` when the state is one of another run or number of processes;
                `checkpoint_invalid` for a broken one.
        """
        if self._engine.rank == 0:
            for partial in self._folder.glob("step-*.partial"):
                shutil.rmtree(partial, ignore_errors=True)
        stored = _stored(self._folder)
        name = self._engine.first_says(stored[-1].name if stored else None)
        if name is None:
            return 0, {}
        folder = self._folder / name
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            self._check(folder, facts["run"])
            self._put(load_file(folder / self._shard_name()))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise MagicError(
                ErrorCode.CHECKPOINT_INVALID,
                f"{folder} is broken: {error}.",
                "Delete this folder: the run goes on from the state before it.",
            ) from None
        return int(facts["step"]), dict(facts["counters"])

    def remove(self) -> None:
        """Delete all states, once the run has its result."""
        if self._engine.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _shard_name(self) -> str:
        shard = self._engine.rank if self._shards > 1 else 0
        return f"part-{shard:05}-of-{self._shards:05}.safetensors"

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[f"weight/{name}"] = parameter.detach()
            moments = self._optimiser.state.get(parameter, {})
            tensors |= {f"{moment}/{name}": moments[moment] for moment in _MOMENTS if moments}
        return {name: local_part(tensor).cpu().contiguous() for name, tensor in tensors.items()}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill parameters and moments; a parameter that was never used has no moments."""
        for name, parameter in self._parameters.items():
            local_part(parameter.detach()).copy_(tensors[f"weight/{name}"])
            if f"exp_avg/{name}" not in tensors:
                continue
            moments = {moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS[1:]}
            for moment, whole in moments.items():
                local_part(whole).copy_(tensors[f"{moment}/{name}"])
            self._optimiser.state[parameter] = {"step": tensors[f"step/{name}"].clone(), **moments}

    def _check(self, folder: Path, stored: Mapping[str, Any]) -> None:
        changes = differences(stored, self._identity)
        if changes:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{folder} belongs to another run: {'; '.join(changes)}.",
                "Start the run as it was started first, or in a new folder.",
            )

    @staticmethod
    def _attempt(call: Any) -> str | None:
        """Return what went wrong on the disk, to be told to the other processes."""
        try:
            call()
        except (OSError, SafetensorError) as error:
            return str(getattr(error, "strerror", None) or error)
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what differs between two nested objects, as "path was ..., is ..."."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old!r}, is {new!r}")
    return found


def _stored(folder: Path) -> list[Path]:
    """Return the states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path)
    sync(path)


def _complete(aside: Path, target: Path, facts: Mapping[str, Any]) -> None:
    write_whole(aside / _FACTS, json.dumps(facts, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    sync(target.parent)
