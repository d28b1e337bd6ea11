"""The reference model in float32, layer by layer: one layer's weights in memory, however large the model.

Export computes prefixes, reference vectors and calibration statistics with it, on the checkpoint as it is or on its
rewritten weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from magicmm_model.compress import halve_grid, unshuffle
from magicmm_model.config import Head
from magicmm_model.language import rotary_angles
from magicmm_model.model import MagicModel
from magicmm_quant.sources import CheckpointSource, RewrittenSource
from magicmm_quant.units import unit_plans

if TYPE_CHECKING:
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_quant.sources import Source
    from magicmm_quant.weights import RewrittenWeights

KeyValue = tuple[Tensor, Tensor]
"""Keys (rotated by their positions) and values of one layer, each [1, kv_heads, s, head_dim]."""
Observer = Callable[[str, Tensor], None]
"""Called with the name of a unit and the rows [m, in] that its linears read."""
Progress = Callable[[str], None]
"""Called with the name of each layer once it is done and its weights are dropped."""

VISION, CONNECTOR, LANGUAGE = "vision", "connector", "language"


class StreamedModel:
    """Runs a checkpoint in float32 without ever holding it.

    With rewritten weights, token rows, visual tokens and prefixes are those of the exported graph (rotated, values
    divided by the smoothing of `o`); vectors are in the model's own space either way.

    Attributes:
        config: What is run, without a head.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig | None = None,
        observe: Observer | None = None,
        weights: RewrittenWeights | None = None,
    ) -> None:
        """Remember what to read.

        Args:
            checkpoint: Where the values lie.
            config: Another variant of the checkpoint's config, or None.
            observe: Sees what every unit but the patches reads.
            weights: Run these instead; made from the same checkpoint and config.
        """
        self.config = (config or checkpoint.config).variant(head=Head.NONE)
        self._source: Source = (
            RewrittenSource(weights, self.config) if weights else CheckpointSource(checkpoint, self.config)
        )
        self._observe = observe
        self._plans = unit_plans(self.config)
        with torch.device("meta"):
            self._frame = MagicModel(self.config)

    @torch.inference_mode()
    def visual_tokens(self, tiles: Sequence[Tensor], done: Progress | None = None) -> list[Tensor]:
        """Run the vision tower and the connector.

        Args:
            tiles: For each picture, uint8 [tiles, side, side, 3].
            done: Called after each layer and the connector.

        Returns:
            For each picture, float32 [tiles x tile_tokens, dim].
        """
        if not tiles:
            return []
        states = self.patches([tile for picture in tiles for tile in picture])
        for part in (VISION, CONNECTOR):
            for _, layer in self.layers(part, done):
                for place, state in enumerate(states):
                    states[place] = self.advance(part, layer, state)[0]
        rows = iter(states)
        return [torch.cat([next(rows)[0] for _ in picture]) for picture in tiles]

    @torch.inference_mode()
    def vectors(self, sequences: Iterable[Tensor], done: Progress | None = None) -> Tensor:
        """Run the language model on sequences of any length and pool their last tokens.

        Args:
            sequences: Each float32 [s, dim]; see `rows`.
            done: Called after each layer.

        Returns:
            float32 [n, dim], unit rows.
        """
        states = [sequence[None] for sequence in sequences]
        for _, layer in self.layers(LANGUAGE, done):
            for place, state in enumerate(states):
                states[place] = self.advance(LANGUAGE, layer, state)[0]
        return self.pool(states)

    @torch.inference_mode()
    def prefixes(self, heads: Sequence[Sequence[int]], done: Progress | None = None) -> list[list[KeyValue]]:
        """Return keys and values of every layer for each constant head of a prompt: [1, kv_heads, p, head_dim] each."""
        states = [self.rows(head)[None] for head in heads]
        kept: list[list[KeyValue]] = [[] for _ in states]
        for _, layer in self.layers(LANGUAGE, done):
            for place, state in enumerate(states):
                states[place], key_value = self.advance(LANGUAGE, layer, state)
                kept[place].append(key_value)
        return kept

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Return rows of the token table, float32 [s, dim], reading only those."""
        return self._source.rows(ids)

    def patches(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        """Return what the first vision layer reads: uint8 [side, side, 3] -> [1, 1 + grid x grid, hidden] each."""
        return self._source.patches(tiles)

    def layers(self, part: str, done: Progress | None = None) -> Iterator[tuple[str, nn.Module]]:
        """Yield the layers of a part ("vision", "connector", "language"), filled and observed.

        The weights of a layer are dropped before `done` is called and before the next one is read.
        """
        count = len(self._frame.get_submodule(f"{part}.layers")) if part != CONNECTOR else 0  # type: ignore[arg-type]
        for name in [f"{part}.layers.{place}" for place in range(count)] or [CONNECTOR]:
            layer = self._frame.get_submodule(name)
            self._source.fill(layer, name)
            try:
                with self._observed(layer, name):
                    yield name, layer.requires_grad_(False).eval()
            finally:
                layer.to("meta")
            if done:
                done(name)

    def advance(self, part: str, layer: nn.Module, state: Tensor) -> tuple[Tensor, KeyValue]:
        """Run one layer of a part on one state: [1, s, width] -> the next state, and keys and values (language only).

        The connector takes the state of a whole tile and gives its visual tokens: [1, tile_tokens, dim].
        """
        if part == LANGUAGE:
            language, places = self.config.language, torch.arange(state.shape[1])[None]
            return layer(state, *rotary_angles(places, language.head_dim, language.rope_theta, state.dtype), None, None)
        if part == CONNECTOR:
            grid = self.config.vision.grid
            cells = state[:, 1:].reshape(1, grid, grid, -1)
            state = unshuffle(halve_grid(cells) if self.config.compression == 2 else cells)
        return layer(state), (state[:0], state[:0])

    def pool(self, states: Sequence[Tensor]) -> Tensor:
        """Return the unit vectors [n, dim] of states [1, s, dim] after the last language layer."""
        if not states:
            return torch.empty(0, self.config.dim)
        last = torch.cat([state[:, -1] for state in states])
        eps = self.config.language.norm_eps
        normed = last * torch.rsqrt(last.pow(2).mean(-1, keepdim=True) + eps)
        return nn.functional.normalize(self._source.close(normed), dim=-1)

    @contextmanager
    def _observed(self, layer: nn.Module, name: str) -> Iterator[None]:
        """Report the inputs of a layer's units for as long as it lasts; linears of one unit all read the same."""
        hooks = []
        if observe := self._observe:
            for unit, plan in self._plans.items():
                if unit.startswith(f"{name}."):

                    def note(_: nn.Module, given: tuple[Tensor, ...], unit: str = unit) -> None:
                        observe(unit, given[0].reshape(-1, given[0].shape[-1]))

                    linear = layer.get_submodule(plan.parts[0][len(name) + 1 :])
                    hooks.append(linear.register_forward_pre_hook(note))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
