"""Whether what a recipe needs is there, and what a person must decide: files, licences, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_training.plan_report import Finding
from magicmm_training.recipe import Evaluation, Judge

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_model.config import ModelConfig
    from magicmm_training.plan_report import StagePlan
    from magicmm_training.recipe import Assumptions, Hardware, Recipe, Source, TrainingStage

_UNKNOWN = "unknown"


def missing_data(recipe: Recipe, root: Path) -> list[Finding]:
    """Return which folders and files are not there, and which licences nobody has looked up; each once."""
    findings = []
    if not (root / recipe.model.base).is_dir():
        findings.append(Finding("missing", "model.base", f"{root / recipe.model.base} is no folder", blocks=True))
    seen: set[tuple[str, str]] = set()
    for stage in recipe.stages:
        sources: tuple[Source, ...] = getattr(stage, "data", ())
        for source in sources:
            if (source.name, source.path) in seen:
                continue
            seen.add((source.name, source.path))
            if not (root / source.path).exists():
                findings.append(Finding("missing", source.name, f"{root / source.path} is not there", blocks=True))
            if source.licence == _UNKNOWN:
                findings.append(Finding("licence", source.name, "its licence is unknown to the recipe", blocks=False))
        findings += _missing_tools(stage, root, {one.name for one in recipe.stages})
    return findings


def too_long(stage: TrainingStage, config: ModelConfig, assumed: Assumptions) -> list[Finding]:
    """Return sources whose largest pictures leave no room for words: such samples are skipped as broken, or cut."""
    findings = []
    for source in stage.data:
        tiles = source.max_tiles + (source.max_tiles > 1)  # and a thumbnail
        needed = tiles * config.tile_tokens + assumed.prompt_tokens
        if needed > stage.max_tokens:
            findings.append(
                Finding(
                    "length",
                    f"{stage.name}, {source.name}",
                    f"a picture of {tiles} tiles needs {needed:,} tokens with its prompt; max_tokens is"
                    f" {stage.max_tokens:,}",
                    blocks=True,
                )
            )
    return findings


def stage_findings(planned: StagePlan, hardware: Hardware) -> list[Finding]:
    """Return what is wrong with a stage on this hardware."""
    if planned.fits is not False or planned.memory is None:
        return []
    need = planned.memory.total / 1e9
    return [
        Finding(
            "memory",
            planned.name,
            f"needs about {need:.0f} GB of a device, which has {hardware.memory_gb:g}; lower batch.micro, or recompute",
            blocks=True,
        )
    ]


def _missing_tools(stage: object, root: Path, names: set[str]) -> list[Finding]:
    findings = []
    if isinstance(stage, Judge):
        model = stage.judge
        is_stage = model.kind == "own" and model.path in names
        if model.kind != "endpoint" and not is_stage and not (root / model.path).is_dir():
            findings.append(Finding("missing", stage.name, f"the judge {root / model.path} is no folder", blocks=True))
    if isinstance(stage, Evaluation):
        for benchmark in stage.benchmarks:
            if not (root / benchmark.path).exists():
                findings.append(
                    Finding("missing", benchmark.name, f"{root / benchmark.path} is not there", blocks=True)
                )
    return findings
