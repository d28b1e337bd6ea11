"""Memory of one device in a training stage: weights, gradients, optimiser, and what the backward pass needs.

Activations are counted from what the layers of `magicmm_model` keep, in bytes a token and layer: the residual stream
and the inputs of norms in float32, inputs of matrices and of attention in the type of the forward pass, and for
adapters a mask of the dropout besides. The reserve stands for what no formula knows: the context of the device, the
pool of its allocator, communication.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING

from magicmm_model.naming import tensor_shapes
from magicmm_training.plan_costs import Passes, adapter_size, language_matrices, vision_matrices
from magicmm_training.recipe import Contrastive

if TYPE_CHECKING:
    from magicmm_model.config import LanguageConfig, ModelConfig, VisionConfig
    from magicmm_training.recipe import TrainingStage

FLOAT, HALF = 4, 2
RESERVE_SHARE = 0.1
"""Of the device's memory."""
_LOGIT_ROWS = 256
"""Places whose logits are there at a time."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device at the worst moment.

    Attributes:
        weights: All parameters, and what the forward pass keeps of them in its own type.
        gradients: Of trained parameters.
        optimiser: Two moments of each.
        activations: Of one micro batch.
        reserve: For what is not counted.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    reserve: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.reserve

    def to_json(self) -> dict[str, float]:
        """Return the parts in GB."""
        parts = asdict(self) | {"total": self.total}
        return {name: round(value / 1e9, 2) for name, value in parts.items()}


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Return how many numbers each part holds; the token table and the head are apart."""
    counts: dict[str, int] = {}
    for name, shape in tensor_shapes(config).items():
        part = name.split(".")[0]
        if name.startswith("language.embed_tokens"):
            part = "tokens"
        elif name.startswith("language.lm_head"):
            part = "head"
        counts[part] = counts.get(part, 0) + prod(shape)
    return counts


def stage_memory(
    config: ModelConfig, stage: TrainingStage, passes: Passes, tokens: float, tiles: float, capacity: float
) -> Memory:
    """Return what a stage needs.

    Args:
        config: Shapes.
        stage: Settings.
        passes: What is trained.
        tokens: Of the language model in one micro batch, padding counted.
        tiles: Of one micro batch.
        capacity: Bytes of the device; 0 = a CPU, which needs no reserve.
    """
    counts = parameter_counts(config)
    everything = sum(counts.values())
    trained = sum(adapter_size(config, part, passes.rank) for part in passes.adapted) if passes.rank else everything
    kept: float = everything * FLOAT + (trained * FLOAT if stage.lora else 0)
    if stage.dtype == "bfloat16":
        kept += _cast_weights(config, counts, passes) * HALF
    return Memory(
        weights=kept,
        gradients=trained * FLOAT,
        optimiser=2 * trained * FLOAT,
        activations=activation_bytes(config, stage, passes, tokens, tiles),
        reserve=RESERVE_SHARE * capacity,
    )


def activation_bytes(config: ModelConfig, stage: TrainingStage, passes: Passes, tokens: float, tiles: float) -> float:
    """Return what is kept for the backward pass of a micro batch, and what one layer needs in it."""
    width = HALF if stage.dtype == "bfloat16" else FLOAT
    dropout = stage.lora is not None and stage.lora.dropout > 0
    total = 0.0
    patches = tiles * (config.vision.grid**2 + 1)
    vision, language = config.vision, config.language
    towers = (
        ("vision", patches, vision, _vision_layer(vision, passes, width, dropout)),
        ("language", tokens, language, _language_layer(language, passes, width, dropout)),
    )
    for part, rows, shape, layer in towers:
        if part not in passes.trained:
            total += rows * shape.hidden_size * FLOAT  # passes through, one layer at a time
        elif passes.recompute:
            # Inputs of all layers; one layer with everything; as much again for its gradients.
            total += rows * (shape.hidden_size * FLOAT * shape.layers + 2 * layer)
        else:
            total += rows * layer * shape.layers
    if not isinstance(stage, Contrastive):
        total += _LOGIT_ROWS * config.language.vocab_size * (2 * FLOAT + width)
    return total


def _language_layer(language: LanguageConfig, passes: Passes, width: int, dropout: bool) -> float:
    """Bytes a token: two norms, attention (query, shared key and value, result), SwiGLU, inputs of matrices."""
    size, wide = language.hidden_size, language.intermediate_size
    attention = 4 * width * size
    if "language" in passes.adapted:
        inputs = sum(inputs for inputs, _ in language_matrices(language))
        return 2 * FLOAT * size + attention + 3 * width * wide + (width + int(dropout)) * inputs
    if passes.rank:
        return 2 * FLOAT * size + attention + 3 * width * wide
    return 4 * FLOAT * size + attention + 3 * width * size + 4 * width * wide


def _vision_layer(vision: VisionConfig, passes: Passes, width: int, dropout: bool) -> float:
    """Bytes a patch: two norms, attention, GELU, inputs of matrices, and results before LayerScale."""
    size, wide = vision.hidden_size, vision.intermediate_size
    attention = 4 * width * size
    if "vision" in passes.adapted:
        inputs = sum(inputs for inputs, _ in vision_matrices(vision))
        return 2 * FLOAT * size + attention + width * wide + (width + int(dropout)) * inputs
    if passes.rank:
        return 2 * FLOAT * size + attention + width * wide
    return 2 * FLOAT * size + attention + 5 * width * size + 2 * width * wide


def _cast_weights(config: ModelConfig, counts: dict[str, int], passes: Passes) -> float:
    """Return how many weights exist a second time, in the type of the forward pass."""
    if not passes.rank:
        return sum(counts[part] for part in ("vision", "connector", "language"))
    layers = {"vision": config.vision.layers, "connector": 1, "language": config.language.layers}
    # Frozen weights are cast when they are used, and kept for the backward pass of what is not run again.
    return sum(counts[part] / (layers[part] if passes.recompute else 1) for part in passes.trained)
