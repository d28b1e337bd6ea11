"""A checkpoint to a verified vision-language bundle for onnxruntime, in the memory of its largest tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from magicmm import Bundle
from magicmm.openvino_runtime import require_openvino
from magicmm_export.graph import DataFile, GraphWriter
from magicmm_export.onnx.language import write_language
from magicmm_export.onnx.linear import LinearWriter
from magicmm_export.onnx.source import unit_source
from magicmm_export.onnx.static import check_static, no_ranges, static_vision
from magicmm_export.onnx.vision import write_vision
from magicmm_export.options import ExportOptions, Progress
from magicmm_export.packed_file import PackedFile
from magicmm_export.vision_language import Quality, VisionLanguageExport, write_staged
from magicmm_model.checkpoint import Checkpoint

OPENVINO_VISION = "onnx/vision.openvino.onnx"
"""In the folder of the data file that it shares with the `vision` graph."""


@dataclass(frozen=True)
class OnnxOptions(ExportOptions):
    """How a checkpoint is lowered to ONNX.

    Attributes:
        low_memory: Keep 4-bit weights 4 bits wide at run time: less memory, slower.
        openvino: Write a second vision graph for OpenVINO; needs calibration and a vision tower without 4-bit weights.
    """

    low_memory: bool = False
    openvino: bool = False


def export_onnx(
    checkpoint: Checkpoint,
    target: Path,
    options: OnnxOptions | None = None,
    quality: Quality | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    Args:
        checkpoint: The model.
        target: `NAME.magicmm`.
        options: How to lower it.
        quality: Called with the staged bundle and what its manifest will say; its answer goes into the manifest as
            `quality`, and an error that it raises stops the export.
        progress: Called after each step.

    Raises:
        MagicError: `checkpoint_invalid` for NaN or infinity in a tensor, `storage_failed` for a full disk,
            `bundle_invalid` when the finished bundle does not verify.
    """
    given = options or OnnxOptions()
    return write_staged(target, lambda staged: _OnnxExport(checkpoint, staged, given, progress, target.name), quality)


class _OnnxExport(VisionLanguageExport):
    """Adds the graphs of onnxruntime, and of OpenVINO where the options ask for it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        staged: Path,
        options: OnnxOptions,
        progress: Callable[[Progress], None] | None,
        name: str,
    ) -> None:
        super().__init__(checkpoint, staged, options, progress, name)
        self._lowering = options
        self._packed: dict[str, str] = {}
        if options.openvino:
            require_openvino()
            check_static(options.recipe, self.weights)

    def write_graphs(self, roles: Mapping[str, Any]) -> dict[str, Any]:
        (self.staged / "onnx").mkdir()
        vision = self._graph("vision", write_vision)
        if self._lowering.openvino:
            self._openvino_graph(vision)
        self._graph("language", write_language)
        return {
            "graphs": {"onnx": {part: f"onnx/{part}.onnx" for part in ("vision", "language")}},
            **({"packed": {"onnx": self._packed}} if self._packed else {}),
            **({"alternatives": {"openvino": {"vision": OPENVINO_VISION}}} if self._lowering.openvino else {}),
        }

    def weight_files(self) -> list[Path]:
        """Leave out the second graph, which has no weights of its own."""
        return [path for path in super().weight_files() if path != self.staged / OPENVINO_VISION]

    def _graph(self, part: str, write: Callable[..., None]) -> ModelProto:
        source = unit_source(
            self.checkpoint, self.weights, self.config, self._lowering, lambda unit, size: self.step(size, unit)
        )
        path = self.staged / "onnx" / f"{part}.onnx"
        data, packed = DataFile(path.with_name(f"{path.name}.data")), PackedFile(path.with_name(f"{part}.q4"))
        graph = GraphWriter(part, data, packed)
        write(graph, LinearWriter(graph, source, self._lowering.low_memory), self.weights, self.config)
        data.close()
        if not data.path.stat().st_size:
            data.path.unlink()
        if packed.close():
            self._packed[part] = f"onnx/{part}.q4"
        model = graph.model()
        path.write_bytes(model.SerializeToString(deterministic=True))
        return model

    def _openvino_graph(self, vision: ModelProto) -> None:
        scales = self._lowering.static_scales
        if scales is None:
            raise no_ranges()
        model = static_vision(vision, scales, self.weights, self.config)
        (self.staged / OPENVINO_VISION).write_bytes(model.SerializeToString(deterministic=True))
