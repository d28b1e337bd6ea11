"""What a recipe will cost, before anything is run: steps, tokens, operations, memory, hours, disk, and what is missing.

Everything is an estimate from shapes and counts; the report names what each number rests on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.config import FAMILY, Head
from magicmm_training.plan_checks import missing_data, stage_findings, too_long
from magicmm_training.plan_costs import Flops, Passes, connector_flops, language_flops, step_flops, vision_flops
from magicmm_training.plan_memory import FLOAT, parameter_counts, stage_memory
from magicmm_training.plan_report import Plan, StagePlan
from magicmm_training.plan_samples import (
    Length,
    SourceSize,
    conversation_length,
    padded,
    query_length,
    source_size,
    stage_steps,
    target_length,
)
from magicmm_training.recipe import (
    Contrastive,
    Distillation,
    Evaluation,
    Judge,
    Mining,
    Reranker,
    Restoration,
    TrainingStage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.config import ModelConfig
    from magicmm_training.recipe import Recipe, Source, Stage

_VECTOR_KEY = 16
"""Bytes beside each vector that mining keeps."""
_JUDGE_TILE_TOKENS = 256
"""Visual tokens of a picture in a foreign judge; InternVL3's number, for want of a better one."""


def make_plan(recipe: Recipe) -> Plan:
    """Plan a recipe; nothing is written, and of the data only rows without stated number are counted.

    Raises:
        MagicError: When shapes are not known (no checkpoint, no `model.size`), or the samples of a stage;
            `argument_invalid` for the built-in model.
    """
    if any(isinstance(stage, Distillation) for stage in recipe.stages):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{recipe.name} trains the built-in model, which takes minutes on a CPU; plans count the paper's models.",
            f"Run it: magicmm-train run {recipe.name} --out RUN.",
        )
    root = Path(recipe.data_root)
    config, model = _config(recipe, root)
    planner = _Planner(recipe, root, config)
    findings = missing_data(recipe, root)
    stages = []
    for stage in recipe.stages:
        planned = planner.stage(stage)
        stages.append(planned)
        findings += stage_findings(planned, recipe.hardware)
        if isinstance(stage, TrainingStage):
            findings += too_long(stage, config, recipe.assumptions)
    return Plan(
        recipe=recipe.name,
        model=model,
        parameters=sum(parameter_counts(config).values()),
        tile_tokens=config.tile_tokens,
        stages=tuple(stages),
        findings=tuple(findings),
        assumptions=_assumptions(recipe),
    )


class _Planner:
    """Plans stage by stage."""

    def __init__(self, recipe: Recipe, root: Path, config: ModelConfig) -> None:
        self._recipe, self._root, self._config = recipe, root, config
        self._assumed = recipe.assumptions
        self._sizes: dict[str, SourceSize] = {}

    def stage(self, stage: Stage) -> StagePlan:
        assert not isinstance(stage, Distillation)  # noqa: S101 - make_plan refuses them
        if isinstance(stage, TrainingStage):
            return self._training(stage)
        if isinstance(stage, Mining):
            return self._mining(stage)
        return self._judge(stage) if isinstance(stage, Judge) else self._evaluation(stage)

    def _training(self, stage: Restoration | Contrastive | Reranker) -> StagePlan:
        hardware = self._recipe.hardware
        devices = hardware.devices
        sizes = self._of(stage.data)
        steps = stage_steps(stage, sizes, devices)
        batch = stage.batch.per_device * devices
        sequences, head, notes = self._sequences(stage, stage.data, sizes)
        keeps_head = isinstance(stage, Restoration | Reranker)
        config = self._config if keeps_head else self._config.variant(head=Head.NONE)
        micro = stage.batch.micro or stage.batch.per_device
        gradcache = isinstance(stage, Contrastive) and micro < stage.batch.per_device
        passes = Passes.of(stage, cached=gradcache)
        lengths = [(padded(length.tokens(config), self._assumed), length.tiles) for length in sequences]
        flops = step_flops(config, passes, lengths, head) * batch * steps
        tokens, tiles = self._largest(stage, micro)
        memory = stage_memory(config, stage, passes, tokens, tiles, hardware.memory_gb * 1e9)
        return StagePlan(
            name=stage.name,
            kind=stage.kind,
            devices=devices,
            steps=steps,
            batch=batch,
            samples=batch * steps,
            text_tokens=sum(length.text for length in sequences) * batch * steps,
            visual_tokens=sum(length.tiles for length in sequences) * config.tile_tokens * batch * steps,
            flops=flops,
            hours=self._hours(flops),
            known_hours=stage.known_hours,
            implied_utilisation=self._implied(flops, stage.known_hours),
            memory=memory,
            fits=memory.total <= hardware.memory_gb * 1e9 if hardware.memory_gb else None,
            disk=(sum(parameter_counts(config).values()) * FLOAT, 2 * (memory.gradients + memory.optimiser)),
            notes=(
                *notes,
                *(("GradCache runs every forward pass twice",) if gradcache else ()),
                *(("rounding weights in every pass is not counted",) if stage.quantised_forward else ()),
            ),
        )

    def _largest(self, stage: TrainingStage, micro: int) -> tuple[float, float]:
        """Return tokens and tiles of the micro batch that needs most: one of the source with the longest samples."""
        if isinstance(stage, Restoration) and stage.packing:
            # Rows are as long as they may be; samples share them.
            length = conversation_length(self._assumed)
            tokens = float(micro * stage.max_tokens)
            return tokens, length.tiles * tokens / length.tokens(self._config)
        sources = stage.data if stage.batch.single_source else ()
        samples = [self._sequences(stage, [source], self._of([source]))[0] for source in sources]
        samples = samples or [self._sequences(stage, stage.data, self._of(stage.data))[0]]
        return max(
            (
                sum(padded(length.tokens(self._config), self._assumed) for length in sample) * micro,
                sum(length.tiles for length in sample) * micro,
            )
            for sample in samples
        )

    def _sequences(
        self, stage: TrainingStage, sources: Sequence[Source], sizes: Sequence[SourceSize]
    ) -> tuple[list[Length], float, tuple[str, ...]]:
        """Return the mean sequences of a sample, places of next-token logits, and notes."""
        if isinstance(stage, Restoration):
            length = conversation_length(self._assumed)
            note = "attention is counted within samples, and all their text as answers"
            return [length], self._assumed.conversation_tokens, (note,)
        query = self._mean(sources, sizes, query_length)
        target = self._mean(sources, sizes, target_length)
        if isinstance(stage, Contrastive):
            notes = ("negatives that the data bring are not counted",) if stage.use_explicit else ()
            return [query, *[target] * (1 + stage.negatives_each)], 0.0, notes
        assert isinstance(stage, Reranker)  # noqa: S101 - the last of the kinds with gradients
        listed = 1 + sum(stage.listwise) / 2
        pair, whole = query + target, query + target * listed
        note = "one pair with Yes, one with No and one list of mean length for each query"
        return [pair, pair, whole], 3.0, (note,)

    def _mining(self, stage: Mining) -> StagePlan:
        sizes = self._of(stage.data)
        rows = sum(size.rows or 0 for size in sizes)
        lengths = [self._mean(stage.data, sizes, of) for of in (query_length, target_length)]
        config = self._config
        passes = sum(self._forward(length).forward for length in lengths) * rows
        ranking = sum(2.0 * (size.rows or 0) ** 2 * config.dim for size in sizes)
        return StagePlan(
            name=stage.name,
            kind=stage.kind,
            devices=1,
            samples=rows,
            text_tokens=sum(length.text for length in lengths) * rows,
            visual_tokens=sum(length.tiles for length in lengths) * config.tile_tokens * rows,
            flops=passes + ranking,
            hours=self._hours(passes + ranking),
            disk=(2.0 * rows * (config.dim * FLOAT + _VECTOR_KEY), 0.0),
            notes=("one process; every query and every target is embedded once, and its vector kept",),
        )

    def _judge(self, stage: Judge) -> StagePlan:
        judged = [source for source in stage.data if source.judged]
        sizes = self._of(judged)
        pairs = sum(size.rows or 0 for size in sizes) * stage.top
        length = self._mean(judged, sizes, query_length) + self._mean(judged, sizes, target_length)
        facts: dict[str, Any] = {}
        if stage.judge.kind == "own":
            facts["flops"] = self._forward(length).forward * pairs
            note = "one process"
        else:
            parameters = _stated_parameters(stage.judge.model or stage.judge.path)
            note = f"{stage.judge.path} is run by others' code; its cost is not known"
            if parameters:
                tokens = length.text + length.tiles * _JUDGE_TILE_TOKENS
                facts["flops"] = 2 * parameters * tokens * pairs
                note = f"{parameters / 1e9:g} B parameters by its name, {_JUDGE_TILE_TOKENS} tokens a tile; one process"
        return StagePlan(
            name=stage.name,
            kind=stage.kind,
            devices=1,
            samples=pairs,
            text_tokens=length.text * pairs,
            visual_tokens=length.tiles * self._config.tile_tokens * pairs,
            hours=self._hours(facts["flops"]) if facts else None,
            notes=(note,),
            **facts,
        )

    def _evaluation(self, stage: Evaluation) -> StagePlan:
        return StagePlan(stage.name, stage.kind, 1, notes=("depends on the benchmarks; not estimated",))

    def _of(self, sources: Sequence[Source]) -> list[SourceSize]:
        """Return the sizes of sources, each counted once in a plan."""
        for source in sources:
            key = source.model_dump_json()
            if key not in self._sizes:
                self._sizes[key] = source_size(source, self._root)
        return [self._sizes[source.model_dump_json()] for source in sources]

    def _mean(self, sources: Sequence[Source], sizes: Sequence[SourceSize], of: Any) -> Length:
        """Return the mean length over samples."""
        rows = [float(size.rows or 0) for size in sizes]
        if not sum(rows):
            rows = [1.0] * len(rows)
        total = Length(0.0, 0.0)
        for source, count in zip(sources, rows, strict=True):
            total += of(source, self._assumed) * (count / sum(rows))
        return total

    def _forward(self, length: Length) -> Flops:
        tokens = padded(length.tokens(self._config), self._assumed)
        tiles = vision_flops(self._config) + connector_flops(self._config)
        return tiles * length.tiles + language_flops(self._config, tokens)

    def _hours(self, flops: float) -> float:
        hardware = self._recipe.hardware
        return flops / (hardware.tflops * 1e12 * hardware.utilisation) / 3600

    def _implied(self, flops: float, hours: float | None) -> float | None:
        return flops / (hours * 3600 * self._recipe.hardware.tflops * 1e12) if hours else None


def _config(recipe: Recipe, root: Path) -> tuple[ModelConfig, str]:
    """Return shapes from the checkpoint, or those of the family before it is there."""
    base = root / recipe.model.base
    if base.is_dir():
        from magicmm_model.checkpoint import Checkpoint

        stored, name = Checkpoint.open(base).config, base.name
    elif recipe.model.size is not None:
        stored, name = FAMILY[recipe.model.size], f"InternVL3-{recipe.model.size} (published shapes)"
    else:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"There is no checkpoint {base}, and the recipe states no model.size.",
            "Put the checkpoint there, or set model.size to 1B, 2B or 8B.",
        )
    return stored.variant(compression=recipe.model.compression, image_size=recipe.model.image_size), name


def _stated_parameters(name: str) -> float | None:
    """Return the number of parameters that a name such as Qwen3-VL-8B-Instruct says."""
    found = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[Bb](?![a-zA-Z])", name)
    return float(found[1]) * 1e9 if found else None


def _assumptions(recipe: Recipe) -> tuple[str, ...]:
    hardware, assumed = recipe.hardware, recipe.assumptions
    return (
        f"hours = operations / ({hardware.tflops:g} TFLOPS x {hardware.utilisation:.0%} utilisation); the share is the"
        " recipe's assumption, hardware.utilisation",
        "operations: matrix products only, attention over the whole square; recomputation counts as work",
        f"tokens: {assumed.prompt_tokens} of the prompt, {assumed.query_text_tokens} of a query's text,"
        f" {assumed.target_text_tokens} of a target's, {assumed.conversation_tokens} of an instruction sample;"
        f" {assumed.document_tiles:g} tiles a document, {assumed.conversation_tiles:g} an instruction sample;"
        f" {assumed.padding_share:.0%} padding",
        "samples: the recipe's numbers, or counted in the data where it states none",
        "memory: mean lengths in the source with the longest samples, nothing sharded",
        "disk: one float32 checkpoint that stays, two states to resume from until a stage is done; for mining, vectors",
    )
