"""A checkpoint to a verified vision-language bundle for ExecuTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magicmm import Bundle
from magicmm.executorch_runtime import method_name
from magicmm_export.decomposition import LanguageBlocks, VisionEncoder
from magicmm_export.executorch.lowering import Method, lower
from magicmm_export.executorch.model import quantised_model
from magicmm_export.executorch.targets import XNNPACK, Target, find_target
from magicmm_export.onnx.source import unit_source
from magicmm_export.options import ExportOptions, Progress
from magicmm_export.planner import Plan, write_plans
from magicmm_export.vision_language import Quality, VisionLanguageExport, write_staged
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.model import MagicModel
from magicmm_quant.units import PATCHES, unit_plans

PROGRAM = "executorch/model.pte"
PLAN = "executorch/plan.json"


@dataclass(frozen=True)
class ExecutorchOptions(ExportOptions):
    """How a checkpoint is lowered to ExecuTorch.

    Attributes:
        buckets: Lengths of the language model's methods; None = `BUCKETS` and the longest prompt.
        most_outside: The largest share of a part's work that the backend may leave out.
        also: Other targets to lower for; nothing here runs what comes out.
    """

    buckets: tuple[int, ...] | None = None
    most_outside: float = 0.05
    also: tuple[str, ...] = ()


def export_executorch(
    checkpoint: Checkpoint,
    target: Path,
    options: ExecutorchOptions | None = None,
    quality: Quality | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    Args:
        checkpoint: The model.
        target: `NAME.magicmm`.
        options: How to lower it.
        quality: As for `export_onnx`.
        progress: Called after each step.

    Raises:
        MagicError: `runtime_failed` for a missing package, a part that does not lower, or more work outside of the
            backend than allowed; `argument_invalid` for a scheme that a target does not multiply, and for buckets that
            a role does not fit into; `checkpoint_invalid`, `storage_failed` and `bundle_invalid` as `export_onnx`.
    """
    given = options or ExecutorchOptions()
    return write_staged(
        target, lambda staged: _ExecutorchExport(checkpoint, staged, given, progress, target.name), quality
    )


class _ExecutorchExport(VisionLanguageExport):
    """Adds one program for XNNPACK, and one for each other target."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        staged: Path,
        options: ExecutorchOptions,
        progress: Callable[[Progress], None] | None,
        name: str,
    ) -> None:
        super().__init__(checkpoint, staged, options, progress, name)
        self._lowering = options
        self._targets = check_targets(options, self.config)

    def write_graphs(self, roles: Mapping[str, Any]) -> dict[str, Any]:
        prefix = max(len(role["head"]) for role in roles.values())
        buckets = self.fit_buckets(roles, self._lowering.buckets)
        source = unit_source(
            self.checkpoint, self.weights, self.config, self._lowering, lambda unit, size: self.step(size, unit)
        )
        model, closing = quantised_model(self.checkpoint, self.config, self.weights, source)
        (self.staged / "executorch").mkdir()
        plans: list[Plan] = []
        others: dict[str, str] = {}
        for each in self._targets:
            name = PROGRAM if each is XNNPACK else f"executorch/model.{each.name}.pte"
            plans.append(self._write_program(model, closing, each, name, buckets, prefix))
            others |= {} if each is XNNPACK else {f"executorch-{each.name}": name}
        write_plans(self.staged / PLAN, plans)
        return {
            "graphs": {"executorch": {"vision": PROGRAM, "language": PROGRAM}},
            "plans": PLAN,
            **({"lowered": others} if others else {}),
        }

    def weight_files(self) -> list[Path]:
        """Leave out the plan, and the programs for other targets."""
        own = {self.staged / PROGRAM}
        return [path for path in super().weight_files() if path.parent.name != "executorch" or path in own]

    def _write_program(
        self, model: MagicModel, closing: Tensor | None, target: Target, name: str, buckets: Sequence[int], prefix: int
    ) -> Plan:
        methods = program_methods(model, closing, target, buckets, prefix)
        lowered = lower(methods, target, lambda what: self.step(0, what))
        lowered.plan.check(self._lowering.most_outside)
        lowered.write(self.staged / name)
        return lowered.plan


def check_targets(options: ExecutorchOptions, config: ModelConfig) -> tuple[Target, ...]:
    """Return what a model is lowered for, XNNPACK first.

    Raises:
        MagicError: As `find_target` and `Target.check`.
    """
    others = dict.fromkeys(name for name in options.also if name != XNNPACK.name)
    targets = (XNNPACK, *map(find_target, others))
    for target in targets:
        target.check(options.recipe, [PATCHES, *unit_plans(config)])
    return targets


def program_methods(
    model: MagicModel, closing: Tensor | None, target: Target, buckets: Sequence[int], prefix: int
) -> dict[str, Method]:
    """Return the methods of a program: `vision`, and `language_S` for each bucket S.

    Args:
        model: With its weights as they are to be stored.
        closing: As for `LanguageBlocks`.
        target: Decides the form of norms.
        buckets: Lengths.
        prefix: Longest prefix; 0 = the methods take none.
    """
    side, language = model.config.vision.image_size, model.config.language
    pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    shape = (1, language.kv_heads, prefix, language.head_dim)
    # A tensor each: torch.export makes one input of two that are the same tensor.
    behind = (torch.tensor([0]), *(torch.zeros(shape) for _ in range(2 * language.layers))) if prefix else ()
    methods = {"vision": Method(VisionEncoder(model, target.norms), (pixels,))}
    for length in buckets:
        blocks = LanguageBlocks(model, length, prefix, target.norms, closing)
        inputs = (torch.zeros(1, length, model.config.dim), torch.tensor([0]), *behind)
        methods[method_name("language", length)] = Method(blocks, inputs)
    return methods
