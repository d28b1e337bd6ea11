"""Climb a bundle stage by stage beside its checkpoint in float32, to find the first one that goes wrong.

Everything above a stage comes from the bundle, too: errors accumulate, as they do for a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.runtime import COREML, EXECUTORCH, check_runtime
from magicmm_export.graph_files import graph_file, load_graph, packed_tensors, value_names
from magicmm_export.ladder_report import EXACT, HALF, INT4, INT8, LadderReport, Tolerance, compare
from magicmm_export.observed import OUTPUTS, Item, ObservedEncoder
from magicmm_export.options import SEED
from magicmm_export.scenes import sample_scene
from magicmm_quant.hadamard import Rotation
from magicmm_quant.streaming import CONNECTOR, LANGUAGE, VISION, StreamedModel

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from magicmm.manifest import Manifest, Role
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig

    Rows = NDArray[np.float32]

__all__ = ["EXACT", "INT4", "INT8", "TEXTS", "LadderReport", "Tolerance", "check_bundle"]

TEXTS = ("a dog", "two people walking along the beach at sunset")
"""What is embedded as queries beside one photo."""

PACKAGES = {"float32": EXACT, "float16": HALF, "int8": INT8}
"""Tolerances of Core ML packages by scheme; `INT4` for all others."""

_EMBEDDED, _VISUAL, _VECTOR = "vision.embedded", "visual", "vector"


def check_bundle(
    checkpoint: Checkpoint,
    bundle: Path,
    tolerance: Tolerance | None = None,
    progress: Callable[[str], None] | None = None,
    threads: int = 0,
    runtime: str = "onnx",
) -> LadderReport:
    """Compare a bundle with the checkpoint that it was made from, on a photo and two texts.

    The reference starts from the same pixels and from the same rounded rows of the token table; only prefixes are its
    own. One piece of a graph, then one layer of the reference, is in memory at a time.

    Args:
        checkpoint: The model in its own precision.
        bundle: A vision-language bundle.
        tolerance: None = by the narrowest weights that the graphs hold: `EXACT`, `INT8` or `INT4`.
        progress: Called with the name of each stage once it is compared, and with those of the graphs before.
        threads: Of the graphs; 0 takes all physical cores.
        runtime: What runs the graphs, as for `Embedder.open`; "coreml": the interpreter, for Core ML's packages.

    Raises:
        MagicError: `argument_invalid` for a dual encoder, `model_mismatch` for a bundle of another model,
            `bundle_invalid` and `runtime_failed` as the SDK does.
    """
    opened = Bundle.load(bundle)
    if runtime != COREML:  # which no SDK of this machine runs: the interpreter does
        check_runtime(opened, runtime)
    if opened.manifest.architecture != "vision_language":
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{opened.manifest.id} is a {opened.manifest.architecture} bundle.",
            "The ladder compares vision-language bundles with their checkpoints.",
        )
    config = _matching_config(checkpoint, opened)
    if runtime == COREML:
        from magicmm_export.coreml.encoder import CoremlEncoder, package_facts  # it needs coremltools

        facts = {part: package_facts(opened, part) for part in (VISION, LANGUAGE)}
        stages = _Stages(config, {}, {part: one.stages for part, one in facts.items()})
        encoder: ObservedEncoder = CoremlEncoder(opened, stages.watched())
        limits = tolerance or PACKAGES.get(facts[LANGUAGE].scheme, INT4)
    else:
        parts = () if runtime == EXECUTORCH else (VISION, LANGUAGE)
        graphs = {part: load_graph(graph_file(opened, part, runtime)) for part in parts}
        stages = _Stages(config, graphs)
        encoder = ObservedEncoder(opened, stages.watched(), threads, runtime=runtime)
        limits = tolerance or _tolerance_of(opened, graphs)
    climber = _Climber(encoder, stages, progress or (lambda _: None))
    compared = tuple(compare(name, ours, reference, limits) for name, ours, reference in climber.climb(checkpoint))
    return LadderReport(limits, compared, stages.unnamed)


class _Stages:
    """Which value of which graph holds a stage."""

    def __init__(
        self,
        config: ModelConfig,
        graphs: Mapping[str, onnx.ModelProto],
        noted: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Find the stages by the names of ONNX graphs, or as packages note them by part."""
        self.config = config
        places = range(config.language.layers - 1)
        values = {
            "patches": (VISION, _EMBEDDED),
            **{f"vision.layers.{place}": (VISION, f"vision.layers.{place}") for place in range(config.vision.layers)},
            "visual tokens": (VISION, _VISUAL),
            **{
                f"language.layers.{place}": (LANGUAGE, f"language.layers.{place + 1}.input_layernorm.sum")
                for place in places
            },
            f"language.layers.{len(places)}": (LANGUAGE, _last_sum(graphs.get(LANGUAGE), len(places))),
            "vector": (LANGUAGE, _VECTOR),
        }
        given = {part: {output} for part, output in OUTPUTS.items()}  # all that a program shows
        given |= {part: value_names(model) for part, model in graphs.items()}
        for part, own in (noted or {}).items():
            values |= {name: (part, value) for name, value in own.items() if name in values}
            given[part] |= set(own.values())
        self.values = {name: (part, value) for name, (part, value) in values.items() if value in given[part]}
        self.unnamed = tuple(name for name in values if name not in self.values)

    def watched(self) -> dict[str, list[str]]:
        """Return the values that are no outputs, by part."""
        return {
            part: [value for home, value in self.values.values() if home == part and value not in (_VISUAL, _VECTOR)]
            for part in (VISION, LANGUAGE)
        }


class _Climber:
    """Runs both sides; the bundle first, since its values take less memory than a layer of the reference."""

    def __init__(self, encoder: ObservedEncoder, stages: _Stages, progress: Callable[[str], None]) -> None:
        self.encoder = encoder
        self.manifest = encoder.manifest
        self.stages = stages
        self.progress = progress
        rotated = bool(_source(self.manifest).get("rotation"))
        self.rotation = Rotation(self.manifest.dim, SEED) if rotated else None
        self.pixels = self.encoder.prepare(sample_scene(), self.manifest.roles["photo"])

    def climb(self, checkpoint: Checkpoint) -> Iterator[tuple[str, Rows, Rows]]:
        """Yield name, rows of the bundle and rows of the reference of each stage."""
        self._run_bundle()
        with torch.inference_mode():
            for name, rows in self._reference(StreamedModel(checkpoint, self.stages.config)):
                if name in self.stages.values:
                    reference = rows.reshape(-1, rows.shape[-1]).numpy()
                    yield name, self._ours(name, reference.shape[1]), reference
                    self.progress(name)

    def _run_bundle(self) -> None:
        roles = self.manifest.roles
        self.progress("graphs of the bundle")
        photo = Item(roles["photo"], pixels=self.pixels)
        self.encoder.vectors([photo, *(Item(roles["query"], text) for text in TEXTS)])

    def _ours(self, stage: str, width: int) -> Rows:
        part, value = self.stages.values[stage]
        rows = np.concatenate([run.values[value].reshape(-1, width) for run in self.encoder.runs[part]])
        rotated = stage == "visual tokens" or (part == LANGUAGE and stage != "vector")
        return self.rotation.undo(rows) if self.rotation and rotated else rows

    def _reference(self, model: StreamedModel) -> Iterator[tuple[str, Tensor]]:
        states = model.patches(list(torch.from_numpy(self.pixels)))
        yield "patches", torch.cat(states)
        for part in (VISION, CONNECTOR):
            for name, layer in model.layers(part):
                states = [model.advance(part, layer, state)[0] for state in states]
                yield name if part == VISION else "visual tokens", torch.cat(states)
        sequences = self._sequences(model, torch.cat([state[0] for state in states]))
        states = [sequence[None] for sequence in sequences]
        runs = self.encoder.runs[LANGUAGE]
        skipped = [len(sequence) - run.inputs["embeds"].shape[1] for sequence, run in zip(sequences, runs, strict=True)]
        last = f"{LANGUAGE}.layers.{model.config.language.layers - 1}"
        for name, layer in model.layers(LANGUAGE):
            states = [model.advance(LANGUAGE, layer, state)[0] for state in states]
            first = [-1] * len(states) if name == last else skipped
            yield name, torch.cat([state[0, start:] for state, start in zip(states, first, strict=True)])
        yield "vector", model.pool(states)

    def _sequences(self, model: StreamedModel, visual: Tensor) -> list[Tensor]:
        """Return whole prompts: the bundle's rows in the model's own space, but for prefixes and visual tokens."""
        roles = [self.manifest.roles[name] for name in ("photo", *["query"] * len(TEXTS))]
        sequences = []
        for place, (role, run) in enumerate(zip(roles, self.encoder.runs[LANGUAGE], strict=True)):
            rows = run.inputs["embeds"][0]
            own = torch.from_numpy(self.rotation.undo(rows) if self.rotation else rows.copy())
            if place == 0:
                start = _visual_start(role)
                own[start : start + len(visual)] = visual
            sequences.append(torch.cat([model.rows(role.head), own]) if role.prefix else own)
        return sequences


def _visual_start(role: Role) -> int:
    """Return the place of the first visual token among the rows that the graph reads."""
    return len(role.image_before) + (0 if role.prefix else len(role.head))


def _last_sum(model: onnx.ModelProto | None, place: int) -> str:
    """Return the value behind the last layer: what is added to the sum in the middle of it."""
    if model is None:
        return ""
    middle = f"language.layers.{place}.post_attention_layernorm.sum"
    nodes = (node for node in model.graph.node if node.op_type == "Add" and middle in node.input)
    return next((str(node.output[0]) for node in nodes), "")


def _tolerance_of(bundle: Bundle, graphs: dict[str, onnx.ModelProto]) -> Tolerance:
    if not graphs:
        said = " ".join(words for part, words in bundle.manifest.quantisation.items() if part != "tokens")
        return INT4 if "int4" in said else INT8 if "int8" in said else EXACT
    operators = {node.op_type for model in graphs.values() for node in model.graph.node}
    if "MatMulNBits" in operators or any(packed_tensors(bundle, part, model) for part, model in graphs.items()):
        return INT4
    return INT8 if operators & {"MatMulIntegerToFloat", "DequantizeLinear"} else EXACT


def _matching_config(checkpoint: Checkpoint, bundle: Bundle) -> ModelConfig:
    """Return the checkpoint's config in the variant that was exported."""
    manifest = bundle.manifest
    compression = _source(manifest).get("compression")
    config = checkpoint.config.variant(compression=compression, image_size=manifest.image.side)
    layers = _prefix_layers(bundle)
    if (config.dim, config.language.layers) != (manifest.dim, layers):
        raise MagicError(
            ErrorCode.MODEL_MISMATCH,
            f"{manifest.id} is {manifest.dim} wide with {layers} language layers, the checkpoint "
            f"{config.dim} wide with {config.language.layers} layers.",
            "Give the checkpoint that the bundle was made from.",
        )
    return config


def _prefix_layers(bundle: Bundle) -> int:
    """Return the layers that the prefixes of a bundle have keys for."""
    prefix = next((role.prefix for role in bundle.manifest.roles.values() if role.prefix), None)
    if prefix is None:
        return 0
    with safe_open(bundle.file(prefix), "np") as file:
        return sum(name.startswith("past_key_") for name in file.keys())  # noqa: SIM118 - it is no mapping


def _source(manifest: Manifest) -> dict[str, Any]:
    """Return what the exporter noted of the checkpoint and its rewriting."""
    noted = manifest.raw.get("source")
    return noted if isinstance(noted, dict) else {}
