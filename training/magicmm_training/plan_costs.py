"""Floating-point operations of a stage, from the shapes of the model.

A multiplication with its addition counts as two operations. Counted are matrix products; norms, activation functions,
the rotation of positions and the optimiser are left out (a few per cent). Attention is counted over the whole square,
also where a causal kernel saves half of it.

Backward passes: a trained matrix costs two more products, a frozen one that a gradient passes through costs one;
attention costs five products where the forward pass has two, because flash kernels compute the scores again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from magicmm_model.config import LanguageConfig, ModelConfig, VisionConfig
    from magicmm_training.recipe import TrainingStage

PARTS = ("vision", "connector", "language")
"""In the order in which data flow."""
RECOMPUTED = ("vision", "language")
"""Parts whose layers gradient checkpointing runs again."""
ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of a forward pass.

    Attributes:
        linear: In products with weights.
        attention: In products of tokens with tokens.
    """

    linear: float = 0.0
    attention: float = 0.0

    @property
    def forward(self) -> float:
        """All of them."""
        return self.linear + self.attention

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.linear * times, self.attention * times)


@dataclass(frozen=True, slots=True)
class Passes:
    """How the parts of the model take part in a step.

    Attributes:
        trained: Parts that a gradient passes through.
        adapted: Those of them that have adapters.
        recompute: Whether parts with a gradient run forward once more (gradient checkpointing).
        cached: Whether everything runs once more without gradient beforehand (GradCache).
        rank: Of adapters; 0 = whole matrices.
    """

    trained: frozenset[str]
    adapted: frozenset[str]
    recompute: bool
    cached: bool
    rank: int

    @classmethod
    def of(cls, stage: TrainingStage, cached: bool) -> Passes:
        """Return the passes of a stage."""
        if stage.lora is None:
            return cls(frozenset(PARTS), frozenset(), stage.gradient_checkpointing, cached, 0)
        first = min(PARTS.index(part) for part in stage.lora.parts)
        # What lies behind a trained part passes gradients on.
        trained, adapted = frozenset(PARTS[first:]), frozenset(stage.lora.parts)
        return cls(trained, adapted, stage.gradient_checkpointing, cached, stage.lora.rank)

    def total(self, part: str, work: Flops, adapters: float = 0.0, not_again: float = 0.0) -> float:
        """Return the operations of a part in a step.

        Args:
            part: Of the model.
            work: Its forward pass.
            adapters: Operations of the forward pass through its adapters.
            not_again: Operations of the forward pass that recomputation stops before.
        """
        forward = work.forward + adapters
        runs = (1 + int(self.cached)) * forward
        if part not in self.trained:
            return runs
        again = forward - not_again if self.recompute and part in RECOMPUTED else 0.0
        matrices = work.linear * (1 if self.rank else 2)
        return runs + again + matrices + 2 * adapters + work.attention * ATTENTION_BACKWARD


def vision_matrices(vision: VisionConfig) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of the matrices of one vision layer."""
    size, wide = vision.hidden_size, vision.intermediate_size
    yield from ((size, 3 * size), (size, size), (size, wide), (wide, size))


def connector_matrices(config: ModelConfig) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of the connector's matrices."""
    yield from ((config.connector_size, config.dim), (config.dim, config.dim))


def language_matrices(language: LanguageConfig) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of the matrices of one language layer."""
    size, wide = language.hidden_size, language.intermediate_size
    shared = language.kv_heads * language.head_dim
    yield from ((size, size), (size, shared), (size, shared), (size, size), (size, wide), (size, wide), (wide, size))


def vision_flops(config: ModelConfig) -> Flops:
    """Return the operations of the vision tower for one tile."""
    vision = config.vision
    patches = vision.grid**2
    tokens = patches + 1
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    linear = 2 * tokens * weights(vision_matrices(vision)) * vision.layers
    return Flops(embedding + linear, 4 * tokens**2 * vision.hidden_size * vision.layers)


def connector_flops(config: ModelConfig) -> Flops:
    """Return the operations of the connector for one tile."""
    return Flops(2 * config.tile_tokens * weights(connector_matrices(config)))


def language_flops(config: ModelConfig, tokens: float) -> Flops:
    """Return the operations of the language model, without head, for a sequence."""
    language = config.language
    linear = 2 * tokens * weights(language_matrices(language)) * language.layers
    return Flops(linear, 4 * tokens**2 * language.hidden_size * language.layers)


def head_flops(config: ModelConfig, tokens: float) -> Flops:
    """Return the operations of next-token logits at so many places."""
    return Flops(2 * tokens * config.dim * config.language.vocab_size)


def adapter_size(config: ModelConfig, part: str, rank: int) -> int:
    """Return how many numbers the adapters of a part hold."""
    matrices, layers = {
        "vision": (vision_matrices(config.vision), config.vision.layers),
        "connector": (connector_matrices(config), 1),
        "language": (language_matrices(config.language), config.language.layers),
    }[part]
    return rank * sum(inputs + outputs for inputs, outputs in matrices) * layers


def weights(matrices: Iterable[tuple[int, int]]) -> int:
    """Return how many numbers matrices hold."""
    return sum(inputs * outputs for inputs, outputs in matrices)


_LOGITS_AGAIN = 1
"""The loss makes logits again in its backward pass, with or without gradient checkpointing."""


def step_flops(
    config: ModelConfig, passes: Passes, sequences: Iterable[tuple[float, float]], head: float = 0.0
) -> float:
    """Return the operations of forward and backward passes.

    Args:
        config: Shapes.
        passes: What is trained, and what runs again.
        sequences: Tokens (visual ones too) and tiles of each sequence.
        head: Places at which next-token logits are made.
    """
    lengths = list(sequences)
    tiles = sum(tiles for _, tiles in lengths)
    tokens = sum(tokens for tokens, _ in lengths)
    work = {
        "vision": vision_flops(config) * tiles,
        "connector": connector_flops(config) * tiles,
        "language": sum((language_flops(config, tokens) for tokens, _ in lengths), Flops()),
    }
    rows = {
        "vision": tiles * (config.vision.grid**2 + 1),
        "connector": tiles * config.tile_tokens,
        "language": tokens,
    }
    total = 0.0
    for part, flops in work.items():
        adapters = 2.0 * rows[part] * adapter_size(config, part, passes.rank) if part in passes.adapted else 0.0
        # The last matrix of a layer is not run again: nothing but its input is needed. Adapters come after it.
        last = 0.0 if adapters or part != "language" else 2.0 * tokens * _last_matrix(config.language)
        total += passes.total(part, flops, adapters, last)
    logits = head_flops(config, head).forward
    return total + logits * (1 + _LOGITS_AGAIN + (1 if passes.rank else 2))


def _last_matrix(language: LanguageConfig) -> int:
    return language.intermediate_size * language.hidden_size * language.layers
