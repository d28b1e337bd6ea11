"""The built-in model as static torch modules: one photo of two views, or one text of a fixed length.

What a runtime does in its own way - convolutions, products, tables, rounding - comes from `Layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_export.decomposition.norms import LayerNorm, Norms, UnitLength, WeightedSum
from magicmm_export.nano.concepts import CELLS, KEPT, VIEWS
from magicmm_export.nano.image import SIDE
from magicmm_export.nano.layers import Layers, parameter
from magicmm_export.nano.minilm import HEAD_WIDTH, HEADS
from magicmm_export.nano.quantise import PIXELS, Grid
from magicmm_export.nano.stored import (
    StoredConv,
    StoredImage,
    StoredLayer,
    StoredLinear,
    StoredNorm,
    StoredText,
)
from magicmm_model.nano.config import CELL_SHARE, GLOBAL_WEIGHT

BLOCKED = -1e4
"""Added to the score of a place that is filled: its share becomes zero in float32 and in float16."""


class ImageTower(nn.Module):
    """EfficientNet-Lite2 and the head "local ConSE" (magicmm_export.nano.concepts)."""

    mirror: Tensor
    middle: Tensor
    step: Tensor
    share: Tensor
    rest: Tensor
    overall: Tensor

    def __init__(self, stored: StoredImage, layers: Layers) -> None:
        """Build all layers."""
        super().__init__()
        grids = {conv.name: conv.total for conv in stored.convs}
        self.entry = layers.stored(PIXELS)
        self.convs = [(conv.name, conv.other) for conv in stored.convs]
        self.steps = nn.ModuleList(_Step(conv, grids, layers) for conv in stored.convs)
        self.loaded = layers.loaded(stored.convs[-1].total)
        self.classifier = layers.linear(stored.classifier)
        self.bank = layers.table(stored.bank)
        self.cells = WeightedSum(CELLS, 1 / CELLS) if layers.norms is Norms.PRODUCT else None
        self.unit = UnitLength(stored.bank.codes.shape[1], layers.norms)
        numbers = {
            "middle": PIXELS.zero,
            "step": PIXELS.scale,
            "share": CELL_SHARE,
            "rest": 1 - CELL_SHARE,
            "overall": GLOBAL_WEIGHT,
        }
        for name, value in numbers.items():
            self.register_buffer(name, torch.tensor([float(value)]), persistent=False)
        self.register_buffer("mirror", torch.arange(SIDE - 1, -1, -1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the vector of one photo.

        Args:
            pixels: uint8 (or float, 0 to 255) [2, 256, 256, 3], RGB: the views crop and squash.

        Returns:
            float32 [1, dim], unit length.
        """
        *_, (_, vector) = self.stages(pixels)
        return vector

    def stages(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage: features [3, 1280, 8, 8], logits [3, 16, 1000], vector [1, dim]."""
        # The third view is the mirrored crop: columns by number, which takes a third of the time of ExecuTorch's flip.
        mirrored = pixels[:1].index_select(2, self.mirror)
        views = torch.cat([pixels.to(self.middle.dtype), mirrored.to(self.middle.dtype)])
        planes = (views - self.middle) * self.step
        features = self._features(planes.permute(0, 3, 1, 2))
        yield "features", features
        cells = functional.avg_pool2d(features, 2).flatten(2).transpose(1, 2)
        logits = self.classifier(cells.flatten(0, 1)).reshape(VIEWS, CELLS, -1)
        yield "logits", logits
        yield "vector", self._vector(logits)

    def _features(self, planes: Tensor) -> Tensor:
        """[3, 3, 256, 256] -> [3, 1280, 8, 8]."""
        kept = self.entry(planes)
        made: dict[str, Tensor] = {}
        for step, (name, other) in zip(self.steps, self.convs, strict=True):
            kept = step(kept, None if other is None else made[other])
            made[name] = kept
        features: Tensor = self.loaded(kept)
        return features

    def _vector(self, logits: Tensor) -> Tensor:
        """[3, 16, 1000] -> [1, dim]."""
        whole = self._mean_of_cells(logits)
        local = self._mean_of_cells((logits * self.share + whole * self.rest).softmax(-1))
        chances = local + whole.softmax(-1) * self.overall
        best, concepts = chances.flatten(0, 1).topk(KEPT)
        summed = torch.bmm(best.sqrt().reshape(VIEWS, 1, KEPT), self.bank(concepts)).flatten(0, 1)
        views = self.unit(summed)
        vector: Tensor = self.unit(views[:1] + views[1:2] + views[2:])
        return vector

    def _mean_of_cells(self, values: Tensor) -> Tensor:
        """[3, 16, n] -> [3, 1, n]."""
        if self.cells is None:
            return values.mean(1, keepdim=True)
        mean: Tensor = self.cells(values.transpose(1, 2))
        return mean.transpose(1, 2)


class _Step(nn.Module):
    """A convolution and, where there is one, the sum behind it: from what was kept to what is kept."""

    def __init__(self, stored: StoredConv, grids: Mapping[str, Grid], layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv(stored)
        self.entry, self.result = layers.loaded(stored.entry), layers.stored(stored.result)
        if stored.other is not None:
            self.own, self.theirs = layers.loaded(stored.result), layers.loaded(grids[stored.other])
            self.total = layers.stored(stored.total)

    def forward(self, kept: Tensor, other: Tensor | None) -> Tensor:
        """[n, in, h, w], what is added [n, out, h', w'] -> [n, out, h', w']."""
        result: Tensor = self.result(self.conv(self.entry(kept)))
        if other is None:
            return result
        total: Tensor = self.total(self.own(result) + self.theirs(other))
        return total


class TextTower(nn.Module):
    """all-MiniLM-L6-v2 with mean pooling; `bucket` cuts it to a length."""

    positions: Tensor

    def __init__(self, stored: StoredText, layers: Layers) -> None:
        """Build all layers."""
        super().__init__()
        self.words = layers.table(stored.words)
        self.norm = _norm(stored.norm, layers.norms)
        self.blocks = nn.ModuleList(_Block(layer, layers) for layer in stored.layers)
        self.unit = UnitLength(stored.positions.shape[1], layers.norms)
        self.register_buffer("positions", torch.from_numpy(stored.positions.copy()), persistent=False)

    def bucket(self, length: int) -> TextBucket:
        """Return the tower for texts of up to `length` tokens; it shares all weights.

        Raises:
            MagicError: `argument_invalid` for a length that there are no positions for.
        """
        if not 1 <= length <= len(self.positions):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"A bucket of {length} tokens does not fit the model's 1 to {len(self.positions)}.",
                "Give lengths such as 16,64,256.",
            )
        return TextBucket(self, length)


class TextBucket(nn.Module):
    """The text tower for one text of a fixed length, filled up on the right."""

    positions: Tensor
    one: Tensor
    blocked: Tensor

    def __init__(self, tower: TextTower, length: int) -> None:
        """Share the tower's layers."""
        super().__init__()
        self.words, self.norm, self.blocks, self.unit = tower.words, tower.norm, tower.blocks, tower.unit
        self.register_buffer("positions", tower.positions[:length].clone(), persistent=False)
        for name, value in (("one", 1.0), ("blocked", -BLOCKED)):
            self.register_buffer(name, torch.tensor([value]), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of one text.

        Args:
            ids: Whole numbers [1, s]; what stands behind the text is any id.
            mask: Whole numbers [1, s], 1 = token, 0 = fill.

        Returns:
            float32 [1, dim], unit length.
        """
        *_, (_, vector) = self.stages(ids, mask)
        return vector

    def stages(self, ids: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage: rows [1, s, width] after the sum and each layer, the vector [1, dim]."""
        kept = mask.to(self.one.dtype).unsqueeze(1)
        hidden = (kept - self.one) * self.blocked
        rows = self.norm(self.words(ids) + self.positions)
        yield "embedded", rows
        for place, block in enumerate(self.blocks):
            rows = block(rows, hidden)
            yield f"layers.{place}", rows
        # The sum instead of the mean: the length becomes 1 anyway.
        yield "vector", self.unit(torch.bmm(kept, rows).flatten(0, 1))


class _Block(nn.Module):
    """One layer: attention and feed-forward, each followed by its norm."""

    scale: Tensor

    def __init__(self, stored: StoredLayer, layers: Layers) -> None:
        super().__init__()
        self.attention, self.mixed = _Balanced(stored.attention, layers), _Balanced(stored.mixed, layers)
        self.inner, self.outer = _Balanced(stored.inner, layers), _Balanced(stored.outer, layers)
        self.attention_norm, self.norm = _norm(stored.attention_norm, layers.norms), _norm(stored.norm, layers.norms)
        self.register_buffer("scale", torch.tensor([HEAD_WIDTH**-0.5]), persistent=False)

    def forward(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """[1, s, width], what is added to scores [1, 1, s] -> [1, s, width]."""
        rows = self.attention_norm(rows + self.mixed(self._attend(self.attention(rows), hidden)))
        normed: Tensor = self.norm(rows + self.outer(functional.gelu(self.inner(rows))))
        return normed

    def _attend(self, joined: Tensor, hidden: Tensor) -> Tensor:
        """Queries, keys and values side by side [1, s, 3 x width] -> [1, s, width]."""
        length, width = joined.shape[1], HEADS * HEAD_WIDTH
        query, key, value = (
            joined[..., start : start + width].reshape(length, HEADS, HEAD_WIDTH).permute(1, 0, 2)
            for start in (0, width, 2 * width)
        )
        # Scaled before the product: scores stay within float16.
        shares = (torch.bmm(query * self.scale, key.transpose(1, 2)) + hidden).softmax(-1)
        return torch.bmm(shares, value).permute(1, 0, 2).reshape(1, length, width)


class _Balanced(nn.Module):
    """A product whose channels are evened out first, where the builder did so."""

    balance: Tensor | None

    def __init__(self, stored: StoredLinear, layers: Layers) -> None:
        super().__init__()
        self.linear = layers.linear(stored)
        balance = None if stored.balance is None else torch.from_numpy(stored.balance.copy())
        self.register_buffer("balance", balance, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        found: Tensor = self.linear(rows if self.balance is None else rows * self.balance)
        return found


def _norm(stored: StoredNorm, form: Norms) -> LayerNorm:
    norm = nn.LayerNorm(len(stored.gain), stored.eps)
    norm.weight, norm.bias = parameter(stored.gain), parameter(stored.shift)
    return LayerNorm(norm, form)
