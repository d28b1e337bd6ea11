"""Run a recipe: its stages in order, each into a folder named by its key.

    OUT/
      record.json                      what was run, and what came out
      stages/warmup-3f6c09d2a1b4e875/  one folder for each stage and key: `key.json` says what the key is a
                                       hash of, `done.json` marks the folder as complete
      vectors/, verdicts.sqlite        what stages share: nothing is embedded or judged twice

A stage whose folder is complete is not run again. A changed option changes the keys of its stage and of all that read
it, and of nothing else; results under old keys stay until somebody deletes them. A killed run goes on where it was.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.chain_keys import OpenData, stage_inputs, stage_keys
from magicmm_training.chain_record import RunRecord, StageRecord, read_done, write_done, write_key
from magicmm_training.chain_steps import Workshop, embed_stage, run_stage
from magicmm_training.recipe import Judge, Mining

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from magicmm_training.chain_keys import StageKey
    from magicmm_training.chain_steps import Report
    from magicmm_training.recipe import Recipe, Stage

STAGES = "stages"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """How a recipe is run.

    Attributes:
        until: Last stage; None = all.
        only: Run this stage and what it needs.
        from_scratch: Delete the results of these stages first.
        processes: That train together.
        launcher: Command that starts them; None = torchrun on this machine.
        shard: Shard parameters over them (FSDP2).
    """

    until: str | None = None
    only: str | None = None
    from_scratch: bool = False
    processes: int = 1
    launcher: tuple[str, ...] | None = None
    shard: bool = False


def run_chain(
    recipe: Recipe, out: Path, options: ChainOptions | None = None, report: Report | None = None
) -> RunRecord:
    """Run the stages of a recipe that are not done.

    Args:
        recipe: As `load_recipe` gives it.
        out: Folder of the run; several recipes may share one, each stage then runs once for all that agree on it.
        options: How.
        report: For progress.

    Returns:
        The record, also written to `out`.

    Raises:
        MagicError: `index_locked` when another process runs in `out`; `argument_invalid` for an unknown stage; and
            whatever a stage raises. Stages that were done stay done.
    """
    options = options or ChainOptions()
    stages = _wanted(recipe, options)
    with _locked(out):
        shop, keys = _open(recipe, stages, out, options, report)
        if options.from_scratch:
            for folder in shop.folders.values():
                shutil.rmtree(folder, ignore_errors=True)
        done: list[StageRecord] = []
        for stage in stages:
            done.append(read_done(shop.folders[stage.name]) or _run(stage, keys[stage.name], shop))
            record = RunRecord(recipe, options.processes, tuple(done))
            record.write(out)
    return record


def embed_for(
    recipe: Recipe,
    out: Path,
    stage: str,
    share: int,
    shares: int,
    options: ChainOptions | None = None,
    report: Report | None = None,
) -> int:
    """Embed a share of what a mining or judge stage will rank; many processes may do this at once, on any machines.

    Args:
        recipe: As `load_recipe` gives it.
        out: Folder of the run, on a disk that all see; stages before must be done.
        stage: Name of the stage.
        share: Which share, from 0.
        shares: How many there are.
        options: As `run_chain` gets them; the number of processes that trained counts.
        report: For progress.

    Returns:
        How many vectors the folder holds afterwards, as far as this process knows.

    Raises:
        MagicError: `argument_invalid` for another stage, a share that there is not, or a model that is not trained yet.
    """
    options = replace(options or ChainOptions(), only=stage)
    stages = _wanted(recipe, options)
    wanted = recipe.stage(stage)
    if not isinstance(wanted, (Mining, Judge)):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"Stage {stage!r} embeds nothing.", "Name a mining or a judge stage."
        )
    shop, _ = _open(recipe, stages, out, options, report)
    if read_done(shop.folders[wanted.init]) is None:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Stage {wanted.init!r}, whose model embeds for {stage!r}, is not done in {out}.",
            f"Run the recipe with --until {wanted.init} first.",
        )
    return embed_stage(wanted, shop, share, shares)


def _open(
    recipe: Recipe, stages: Sequence[Stage], out: Path, options: ChainOptions, report: Report | None
) -> tuple[Workshop, Mapping[str, StageKey]]:
    """Return what stages share, and their keys."""
    data = OpenData(recipe)
    keys = stage_keys(recipe, stages, data, options.processes)
    shop = Workshop(
        recipe,
        out,
        data,
        {name: out / STAGES / f"{name}-{key.digits}" for name, key in keys.items()},
        report or (lambda *_: None),
        processes=options.processes,
        launcher=options.launcher,
        shard=options.shard,
    )
    return shop, keys


def _run(stage: Stage, key: StageKey, shop: Workshop) -> StageRecord:
    folder = shop.folders[stage.name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED, f"{folder} cannot be made: {error.strerror or error}.", "Choose another --out."
        ) from None
    write_key(folder, key)
    began = time.monotonic()
    facts = run_stage(stage, shop)
    seconds = round(time.monotonic() - began, 3)
    record = StageRecord(stage.name, stage.kind, key.digits, str(folder.relative_to(shop.out)), seconds, facts)
    write_done(folder, record)
    return record


def _wanted(recipe: Recipe, options: ChainOptions) -> list[Stage]:
    """Return the stages to run, in order."""
    names = [stage.name for stage in recipe.stages]
    for asked in (options.until, options.only):
        if asked is not None and asked not in names:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The recipe {recipe.name!r} has no stage {asked!r}.",
                f"Its stages are {', '.join(names)}.",
            )
    stages = list(recipe.stages)
    if options.until is not None:
        stages = stages[: names.index(options.until) + 1]
    if options.only is not None:
        needed = {options.only}
        for stage in reversed(stages):
            if stage.name in needed:
                needed.update(stage_inputs(stage), _judge_stage(stage))
        stages = [stage for stage in stages if stage.name in needed]
    return stages


def _judge_stage(stage: Stage) -> set[str]:
    """Return the stage whose model judges, if it is one."""
    return {stage.judge.path} if stage.kind == "judge" and stage.judge.kind == "own" else set()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system frees the lock when its holder dies."""
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise MagicError(
            ErrorCode.INDEX_LOCKED, f"Another process runs in {out}.", "Wait for it, or choose another --out."
        ) from None
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED, f"{out} cannot be used: {error.strerror or error}.", "Choose another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()
