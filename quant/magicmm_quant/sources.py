"""Where the layers of a streamed model take their values from: the checkpoint as it is, or its rewritten weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from magicmm_model.vision import normalise, resize_positions
from magicmm_quant.units import PATCHES, unit_plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_quant.weights import Linear, RewrittenWeights


class Source(Protocol):
    """Values of a model, in float32, read when they are asked for."""

    def fill(self, module: nn.Module, name: str) -> None:
        """Give a layer or the connector its values."""
        ...

    def patches(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        """Each uint8 [side, side, 3] -> [1, 1 + grid x grid, hidden], positions and class token there."""
        ...

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Return rows of the token table: [s, dim]."""
        ...

    def close(self, normed: Tensor) -> Tensor:
        """Take last hidden states, normed without a gain, to the model's own space: [n, dim] -> [n, dim]."""
        ...


class CheckpointSource:
    """The values that the checkpoint holds."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        """Remember what to read; `config` may be another variant of the checkpoint's."""
        self._checkpoint = checkpoint
        self._vision = config.vision

    def fill(self, module: nn.Module, name: str) -> None:
        """See `Source`."""
        module.load_state_dict({key: self._read(f"{name}.{key}") for key in module.state_dict()}, assign=True)

    def patches(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        """See `Source`."""
        weight, bias = (self._read(f"vision.patch_embedding.{part}") for part in ("weight", "bias"))
        table = resize_positions(self._read("vision.position_embedding"), self._vision.grid)
        first = self._read("vision.class_embedding")
        states = []
        for tile in tiles:
            cells = nn.functional.conv2d(normalise(tile[None]), weight, bias, stride=self._vision.patch_size)
            states.append(torch.cat([first, cells.flatten(2).transpose(1, 2)], dim=1) + table)
        return states

    def rows(self, ids: Sequence[int]) -> Tensor:
        """See `Source`."""
        name = "language.embed_tokens.weight"
        return torch.cat([self._checkpoint.read_rows(name, token, token + 1) for token in ids]).float()

    def close(self, normed: Tensor) -> Tensor:
        """See `Source`."""
        return normed * self._read("language.norm.weight")

    def _read(self, name: str) -> Tensor:
        return self._checkpoint.read(name).float()


class RewrittenSource:
    """The values after the exact rewrites: what is observed is what the exported matrices will read."""

    def __init__(self, weights: RewrittenWeights, config: ModelConfig) -> None:
        """Remember what to read; `config` is that of the weights."""
        self._weights = weights
        self._config = config
        self._plans = unit_plans(config)

    def fill(self, module: nn.Module, name: str) -> None:
        """See `Source`."""
        for unit, plan in self._plans.items():
            if not unit.startswith(f"{name}."):
                continue
            put_unit(module, name, plan.parts, self._weights.linear(unit))
            if plan.norm:
                gain, bias = self._weights.norm(plan.norm)
                norm = module.get_submodule(_below(name, plan.norm))
                norm.weight = _parameter(torch.from_numpy(gain))
                if bias is not None:
                    norm.bias = _parameter(torch.from_numpy(bias))
            if plan.layer_scale:
                scale = _below(name, plan.layer_scale)
                setattr(module, scale, _parameter(torch.ones(self._config.vision.hidden_size)))

    def patches(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        """See `Source`."""
        size, grid = self._config.vision.patch_size, self._config.vision.grid
        weight = torch.from_numpy(self._weights.linear(PATCHES).weight)
        table = torch.from_numpy(self._weights.positions())
        states = []
        for tile in tiles:
            cells = tile.float().reshape(grid, size, grid, size, 3).transpose(1, 2).reshape(grid * grid, -1)
            states.append(torch.cat([table[:1], cells @ weight.T + table[1:]])[None])
        return states

    def rows(self, ids: Sequence[int]) -> Tensor:
        """See `Source`."""
        return torch.cat([torch.from_numpy(self._weights.tokens(token, token + 1)) for token in ids])

    def close(self, normed: Tensor) -> Tensor:
        """See `Source`."""
        closing = torch.from_numpy(self._weights.closing())
        return normed * closing if closing.ndim == 1 else normed @ closing


def put_unit(module: nn.Module, name: str, parts: Sequence[str], linear: Linear) -> None:
    """Give the linears that a unit merges their rows of it; nothing is copied.

    Args:
        module: The layer that holds them.
        name: Its name.
        parts: Their names, in the order of the rows.
        linear: The unit.
    """
    start = 0
    for part in parts:
        one = module.get_submodule(_below(name, part))
        stop = start + len(cast("Tensor", one.weight))
        rows, start = slice(start, stop), stop
        one.weight = _parameter(torch.from_numpy(linear.weight[rows]))
        if linear.bias is not None:
            one.bias = _parameter(torch.from_numpy(linear.bias[rows]))


def _below(name: str, path: str) -> str:
    return path[len(name) + 1 :]


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
