"""Which units lose least when they are rounded coarsely: measured in one pass, then spent under a size limit.

For each unit there is a branch of the model in which only that unit is rounded. All branches advance together, layer by
layer, so that every weight is read once; a branch begins where its unit is. States of branches lie in a temporary
file: a vision state of a 448 px tile has 4 MB, and there are a hundred of them a photo.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import torch
from torch import nn

from magicmm.errors import ErrorCode, MagicError
from magicmm_quant.calibration import place_visual
from magicmm_quant.samples import prepare
from magicmm_quant.schemes import FLOAT32, INT4, INT8, Scheme, dequantise, quantise_int4, quantise_int8
from magicmm_quant.streaming import CONNECTOR, LANGUAGE, VISION, StreamedModel
from magicmm_quant.units import unit_plans

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_quant.samples import Inputs, Samples
    from magicmm_quant.streaming import Progress
    from magicmm_quant.weights import RewrittenWeights

CHEAP, DEAR = Scheme(INT4, 32), Scheme(INT8)
_BASE = ""
"""The branch in which nothing is rounded."""


def sensitivity(
    checkpoint: Checkpoint,
    weights: RewrittenWeights,
    config: ModelConfig,
    samples: Samples,
    tokenizer: PromptTokenizer,
    units: Collection[str],
    scheme: Scheme = CHEAP,
    done: Progress | None = None,
) -> dict[str, float]:
    """Return what each unit costs: 1 - cosine to the unrounded vector, mean over photos and captions.

    The time is about half a forward pass of all samples for each unit, so a handful of samples is right.

    Args:
        checkpoint: The model.
        weights: Its rewritten weights, as they will be rounded.
        config: Of the weights.
        samples: Photos and captions. A unit of the vision tower costs captions nothing.
        tokenizer: The checkpoint's.
        units: Those whose cost is wanted.
        scheme: To which each is rounded.
        done: Called after each layer.

    Raises:
        MagicError: `argument_invalid` for units that the model does not have, or without samples.
    """
    if unknown := sorted(set(units) - set(unit_plans(config))):
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"There is no unit {unknown[0]}.", "Name units of this model.")
    inputs = prepare(samples, config, tokenizer)
    tiles = [tile for picture in inputs.tiles for tile in picture]
    if not tiles and (not inputs.prompts or any(not unit.startswith(LANGUAGE) for unit in units)):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "There are no photos to measure the vision tower by." if inputs.prompts else "There are no samples.",
            "Give a folder with photos and captions.",
        )
    model = StreamedModel(checkpoint, config, weights=weights)
    search = _Search(model, config, units, scheme)
    with torch.inference_mode(), tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        pictures = _States(first, model.patches(tiles))
        for part in (VISION, CONNECTOR) if tiles else ():
            search.run(part, pictures, done)
        sequences = _States(second, [model.rows(ids)[None] for ids in inputs.prompts])
        _place_pictures(pictures, sequences, inputs)
        search.run(LANGUAGE, sequences, done)
        return search.scores(sequences)


def plan_bits(
    scores: Mapping[str, float],
    bytes_cheap: Mapping[str, int],
    bytes_dear: Mapping[str, int],
    max_size: int,
    *,
    fixed: int = 0,
    cheap: Scheme = CHEAP,
    dear: Scheme = DEAR,
) -> dict[str, Scheme]:
    """Choose the scheme of each unit so that all fit: those that lose least a byte saved are rounded coarsely first.

    A larger limit never takes a unit back to the cheap scheme, and with room for all none is cheap.

    Args:
        scores: What each unit costs in the cheap scheme; see `sensitivity`.
        bytes_cheap: Bytes of each unit in the cheap scheme.
        bytes_dear: In the dear one.
        max_size: Bytes of everything.
        fixed: Bytes of what has no choice.
        cheap: The coarse scheme.
        dear: The fine one.

    Raises:
        MagicError: `argument_invalid` when even the cheapest plan is larger, with its size; when the three mappings
            hold different units.
    """
    if not scores.keys() == bytes_cheap.keys() == bytes_dear.keys():
        odd = sorted(scores.keys() ^ bytes_cheap.keys() | scores.keys() ^ bytes_dear.keys())
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{odd[0]} lacks a score or a size.", "Give both for every unit.")
    saved = {unit: bytes_dear[unit] - bytes_cheap[unit] for unit in scores}
    able = [unit for unit in scores if saved[unit] > 0]
    size = fixed + sum(bytes_dear.values())
    plan = dict.fromkeys(scores, dear)
    # A score below zero is noise of the measurement, no gain.
    for unit in sorted(able, key=lambda unit: max(scores[unit], 0.0) / saved[unit]):
        if size <= max_size:
            break
        plan[unit] = cheap
        size -= saved[unit]
    if size > max_size:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Nothing fits {max_size:,} bytes: the smallest bundle of this model has {size:,} bytes "
            f"({-(-size // 10**6) / 1000:.3f} GB).",
            f"Allow at least {size:,} bytes.",
        )
    return plan


class _States:
    """Hidden states of every branch and sample, in a file; a branch without its own has those of the base."""

    def __init__(self, file: IO[bytes], base: Sequence[Tensor]) -> None:
        self._file = file
        # Layers keep the size of a state or, as the connector does, make it smaller: the first one fits them all.
        self._slot = 4 * max((state.numel() for state in base), default=0)
        self._kept: dict[tuple[str, int], tuple[int, torch.Size]] = {}
        self.samples = range(len(base))
        for place, state in enumerate(base):
            self.write(_BASE, place, state)

    def owned(self) -> list[tuple[str, int]]:
        """Return all (branch, sample) with a state of their own."""
        return list(self._kept)

    def read(self, branch: str, place: int) -> Tensor:
        offset, shape = self._kept.get((branch, place)) or self._kept[_BASE, place]
        self._file.seek(offset)
        return torch.frombuffer(bytearray(self._file.read(4 * shape.numel())), dtype=torch.float32).view(shape)

    def write(self, branch: str, place: int, state: Tensor) -> None:
        offset, _ = self._kept.get((branch, place)) or (len(self._kept) * self._slot, None)
        self._kept[branch, place] = offset, state.shape
        self._file.seek(offset)
        self._file.write(state.contiguous().numpy().data)


class _Search:
    """Advances all branches through the parts of a model."""

    def __init__(self, model: StreamedModel, config: ModelConfig, units: Collection[str], scheme: Scheme) -> None:
        self._model = model
        self._plans = {unit: plan for unit, plan in unit_plans(config).items() if unit in units}
        self._scheme = scheme

    def run(self, part: str, states: _States, done: Progress | None) -> None:
        """Run a part on every branch; branches of its own units begin on the way."""
        for name, layer in self._model.layers(part, done):
            before = [states.read(_BASE, place) for place in states.samples]
            for branch, place in states.owned():
                state = states.read(branch, place)
                states.write(branch, place, self._model.advance(part, layer, state)[0])
            for unit, plan in self._plans.items():
                if unit.startswith(f"{name}."):
                    linears = [layer.get_submodule(path[len(name) + 1 :]) for path in plan.parts]
                    with _rounded(linears, self._scheme):
                        for place, state in enumerate(before):
                            states.write(unit, place, self._model.advance(part, layer, state)[0])

    def scores(self, states: _States) -> dict[str, float]:
        """Return the cosine that each branch lost, mean over all samples."""
        owned = states.owned()
        pooled = self._model.pool([states.read(*key)[:, -1:] for key in owned]).double()
        vectors = dict(zip(owned, nn.functional.normalize(pooled, dim=-1), strict=True))
        scores = dict.fromkeys(self._plans, 0.0)
        for (branch, place), vector in vectors.items():
            if branch != _BASE:
                # For unit vectors this is 1 - cosine, and exact for tiny ones.
                lost = (vector - vectors[_BASE, place]).pow(2).sum().item() / 2
                scores[branch] += lost / len(states.samples)
        return scores


def _place_pictures(pictures: _States, sequences: _States, inputs: Inputs) -> None:
    """Put the visual tokens of every branch into the prompts of the photos."""
    branches = dict.fromkeys(branch for branch, _ in pictures.owned())
    blank = [sequences.read(_BASE, photo)[0] for photo in range(len(inputs.tiles))]
    for branch in branches:
        start = 0
        for photo, picture in enumerate(inputs.tiles):
            own = torch.cat([pictures.read(branch, start + tile)[0] for tile in range(len(picture))])
            start += len(picture)
            placed = place_visual(blank[photo], inputs.prompts[photo], own, inputs.context)
            sequences.write(branch, photo, placed[None])


@contextmanager
def _rounded(linears: Sequence[nn.Module], scheme: Scheme) -> Iterator[None]:
    """Round some linears for as long as it lasts; their rows are rounded each by itself, so need no merging."""
    exact = [linear.weight for linear in linears]
    for linear in linears:
        linear.weight = nn.Parameter(_round_trip(cast("Tensor", linear.weight), scheme), requires_grad=False)
    try:
        yield
    finally:
        for linear, weight in zip(linears, exact, strict=True):
            linear.weight = weight


def _round_trip(weight: Tensor, scheme: Scheme) -> Tensor:
    if scheme.kind == FLOAT32:
        return weight
    values = weight.numpy()
    rounded = quantise_int8(values) if scheme.group is None else quantise_int4(values, scheme.group)
    return torch.from_numpy(dequantise(rounded))
