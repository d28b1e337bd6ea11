"""Statistics of what each unit reads, from samples: one pass through the model, one layer in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_quant.samples import prepare
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_quant.hadamard import Rotation
    from magicmm_quant.samples import Inputs, Samples
    from magicmm_quant.streaming import Progress

    Floats = NDArray[np.float32]

BLOCK = 512
"""Input channels of one block of a Hessian: 8960 inputs need 18 MB instead of 321 MB."""
_NO_SMOOTHING: Mapping[str, Floats] = MappingProxyType({})


@dataclass(slots=True)
class UnitStatistics:
    """What a unit has read so far.

    Attributes:
        rows: How many.
        peak: float32 [in], the largest magnitude of each channel.
        mean_square: float64 [in].
    """

    rows: int
    peak: Floats
    mean_square: NDArray[np.float64]

    @classmethod
    def of(cls, inputs: Tensor) -> UnitStatistics:
        """Look at rows [m, in]."""
        squares = torch.einsum("mi,mi->i", inputs, inputs).double() / len(inputs)
        return cls(len(inputs), inputs.abs().amax(0).numpy(), squares.numpy())

    def add(self, other: UnitStatistics) -> None:
        """Count further rows in."""
        total = self.rows + other.rows
        self.mean_square = (self.mean_square * self.rows + other.mean_square * other.rows) / total
        self.peak = np.maximum(self.peak, other.peak)
        self.rows = total


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of all units but the patches.

    Attributes:
        units: By name of the unit.
        sample: What they were taken from, for reports.
    """

    units: Mapping[str, UnitStatistics]
    sample: str


@dataclass(slots=True)
class Hessian:
    """X^T X of the rows that a unit read, without what lies between blocks of channels.

    Attributes:
        rows: How many rows.
        blocks: float32 [b, b] each, in the order of the channels; b = 512, or what is left for the last one.
    """

    rows: int = 0
    blocks: list[Tensor] = field(default_factory=list)

    def add(self, inputs: Tensor, block: int = BLOCK) -> None:
        """Count rows [m, in] in."""
        parts = torch.split(inputs, block, dim=1)
        if not self.blocks:
            self.blocks = [torch.zeros(part.shape[1], part.shape[1]) for part in parts]
        for total, part in zip(self.blocks, parts, strict=True):
            total.addmm_(part.T, part)
        self.rows += len(inputs)

    def mean_square(self) -> Floats:
        """Return the mean square of each channel: float32 [in]."""
        squares = torch.cat([block.diagonal() for block in self.blocks]) / max(1, self.rows)
        return squares.numpy()


def collect(
    checkpoint: Checkpoint,
    config: ModelConfig,
    samples: Samples,
    tokenizer: PromptTokenizer,
    rotation: Rotation | None = None,
    done: Progress | None = None,
) -> Statistics:
    """Return the statistics of what the rewritten units read, before smoothing.

    Norm gains are folded and the residual stream is rotated, as in `RewrittenWeights`. What a unit reads after
    smoothing by s is the same divided by s.

    Args:
        checkpoint: The model.
        config: The variant that is exported.
        samples: Photos and captions.
        tokenizer: The checkpoint's.
        rotation: Of the residual stream, or None.
        done: Called after each layer.
    """
    units: dict[str, UnitStatistics] = {}

    def note(unit: str, inputs: Tensor) -> None:
        seen = UnitStatistics.of(inputs)
        if unit in units:
            units[unit].add(seen)
        else:
            units[unit] = seen

    weights = RewrittenWeights(checkpoint, config, rotation)
    _run(StreamedModel(checkpoint, config, note, weights), prepare(samples, config, tokenizer), done)
    return Statistics(units, samples.describe())


def collect_hessians(
    checkpoint: Checkpoint,
    config: ModelConfig,
    samples: Samples,
    tokenizer: PromptTokenizer,
    units: Collection[str],
    consume: Callable[[str, Hessian], None],
    rotation: Rotation | None = None,
    smoothing: Mapping[str, Floats] = _NO_SMOOTHING,
    block: int = BLOCK,
) -> None:
    """Hand out the Hessian of each unit as soon as its layer is done; none is kept.

    Args:
        checkpoint: The model.
        config: The variant that is exported.
        samples: Photos and captions.
        tokenizer: The checkpoint's.
        units: Those that are asked for.
        consume: Called in graph order, when no layer's weights are in memory: round and write the unit in it.
        rotation: As in the weights that will be rounded.
        smoothing: As in the weights that will be rounded.
        block: Channels of a block.

    Raises:
        MagicError: `argument_invalid` for a unit that the model does not have, or the patches.
    """
    weights = RewrittenWeights(checkpoint, config, rotation, smoothing)
    known = weights.unit_names()[1:]
    if unknown := sorted(set(units) - set(known)):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"There is no Hessian of {unknown[0]}.", "Name units that read activations."
        )
    open_units: dict[str, Hessian] = {}

    def note(unit: str, inputs: Tensor) -> None:
        if unit in units:
            open_units.setdefault(unit, Hessian()).add(inputs, block)

    def layer_done(_: str) -> None:
        for unit in sorted(open_units, key=known.index):
            consume(unit, open_units.pop(unit))

    _run(StreamedModel(checkpoint, config, note, weights), prepare(samples, config, tokenizer), layer_done)


def place_visual(rows: Tensor, ids: tuple[int, ...], visual: Tensor, context: int) -> Tensor:
    """Put visual tokens [t, dim] where a prompt's placeholders are among its rows [s, dim]."""
    placed = rows.clone()
    placed[torch.tensor(ids) == context] = visual
    return placed


def sequences(model: StreamedModel, inputs: Inputs, visual: list[Tensor]) -> list[Tensor]:
    """Return what the language model reads for each prompt: [s, dim], photos first."""
    rows = [model.rows(ids) for ids in inputs.prompts]
    for place, tokens in enumerate(visual):
        rows[place] = place_visual(rows[place], inputs.prompts[place], tokens, inputs.context)
    return rows


def _run(model: StreamedModel, inputs: Inputs, done: Progress | None) -> None:
    visual = model.visual_tokens(inputs.tiles, done)
    model.vectors(sequences(model, inputs, visual), done)
