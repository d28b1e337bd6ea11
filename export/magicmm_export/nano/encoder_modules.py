"""The encoder of the built-in model as static torch modules: a text, a photo's views, or both, of fixed lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_export.decomposition.norms import LayerNorm, Norms, UnitLength
from magicmm_export.nano.concepts import CELLS
from magicmm_export.nano.layers import Layers, parameter
from magicmm_export.nano.minilm import HEAD_WIDTH, HEADS
from magicmm_export.nano.stored import (
    StoredAdapter,
    StoredAdapters,
    StoredLayer,
    StoredLinear,
    StoredNorm,
    StoredStudent,
    StoredText,
)
from magicmm_model.nano.config import CLS, SEP

BLOCKED = -1e4
"""Added to the score of a place that is filled: its share becomes zero in float32 and in float16."""
VIEW_TOKENS = 1 + CELLS
"""Visual tokens of a view."""


class TextTower(nn.Module):
    """all-MiniLM-L6-v2 with mean pooling; `bucket` cuts it to a length."""

    positions: Tensor
    ends: Tensor

    def __init__(self, stored: StoredText, layers: Layers) -> None:
        """Build all layers."""
        super().__init__()
        self.words = layers.table(stored.words)
        self.norm = _norm(stored.norm, layers.norms)
        self.blocks = nn.ModuleList(_Block.of(layer, layers) for layer in stored.layers)
        self.unit = UnitLength(stored.positions.shape[1], layers.norms)
        self.register_buffer("positions", torch.from_numpy(stored.positions.copy()), persistent=False)
        self.register_buffer("ends", torch.from_numpy(stored.words.rows[[CLS, SEP]]), persistent=False)

    def bucket(self, length: int) -> TextBucket:
        """Return the tower for texts of up to `length` tokens; it shares all weights.

        Raises:
            MagicError: As `cut`.
        """
        return TextBucket(self, length)

    def cut(self, length: int, before: int = 0) -> Tensor:
        """Return the positions of so many ids, and of visual tokens before them: [before + length, width].

        Raises:
            MagicError: `argument_invalid` for a length that there are no positions for.
        """
        most = len(self.positions) - before
        if not 1 <= length <= most:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"A bucket of {length} tokens does not fit the model's 1 to {most}.",
                "Give lengths such as 16,64,256.",
            )
        return self.positions[: before + length].clone()


class TextBucket(nn.Module):
    """The text tower for one text of a fixed length, filled up on the right."""

    positions: Tensor

    def __init__(self, tower: TextTower, length: int) -> None:
        """Share the tower's layers."""
        super().__init__()
        self.words, self.norm, self.blocks, self.unit = tower.words, tower.norm, tower.blocks, tower.unit
        self.register_buffer("positions", tower.cut(length), persistent=False)
        self.hidden = _Hidden()

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
        kept = mask.to(self.positions.dtype).unsqueeze(1)
        hidden = self.hidden(kept)
        rows = self.norm(self.words(ids) + self.positions)
        yield "embedded", rows
        for place, block in enumerate(self.blocks):
            rows = block(rows, hidden)
            yield f"layers.{place}", rows
        # The sum instead of the mean: the length becomes 1 anyway.
        yield "vector", self.unit(torch.bmm(kept, rows).flatten(0, 1))


class AdaptedEncoder(nn.Module):
    """The text tower's layers with adapters; they share all other weights, and read all views of one photo together."""

    def __init__(self, tower: TextTower, student: StoredStudent) -> None:
        """Set the adapters beside the tower's layers."""
        super().__init__()
        self.norm, self.unit, self.views = tower.norm, tower.unit, student.views
        pairs = zip(tower.blocks, student.adapters, strict=True)
        self.blocks = nn.ModuleList(block.adapted(adapters) for block, adapters in pairs if isinstance(block, _Block))

    def stages(self, rows: Tensor, kept: Tensor, hidden: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage, as `TextBucket.stages` does.

        Args:
            rows: Words and visual tokens of each view, positions added [views, s, width].
            kept: 1 = token, 0 = fill [1, 1, s].
            hidden: What is added to scores [1, 1, s]; None = nothing is filled.
        """
        rows = self.norm(rows)
        yield "embedded", rows
        for place, block in enumerate(self.blocks):
            rows = block(rows, hidden)
            yield f"layers.{place}", rows
        vectors = self.unit(torch.bmm(torch.cat([kept] * self.views), rows).flatten(0, 1))
        yield "vector", self.unit(sum_of_views(vectors))


class PhotoReader(nn.Module):
    """Visual tokens of one photo alone, each view between [CLS] and [SEP]."""

    positions: Tensor
    first: Tensor
    last: Tensor
    kept: Tensor

    def __init__(self, tower: TextTower, student: StoredStudent) -> None:
        """Look the two ids up once and for all."""
        super().__init__()
        self.encoder, length = AdaptedEncoder(tower, student), VIEW_TOKENS + 2
        first, last = (row.expand(student.views, 1, -1).clone() for row in tower.ends)
        kept = torch.ones(1, 1, length)
        constants = {"first": first, "last": last, "kept": kept, "positions": tower.cut(length)}
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, visual: Tensor) -> Tensor:
        """[views, tokens, width] -> [1, width], unit length."""
        rows = torch.cat([self.first, visual, self.last], 1) + self.positions
        *_, (_, vector) = self.encoder.stages(rows, self.kept, None)
        return vector


class ComposedTower(nn.Module):
    """What reads photos with texts; `bucket` cuts it to a length."""

    def __init__(self, tower: TextTower, student: StoredStudent) -> None:
        """Share the text tower's weights."""
        super().__init__()
        self.tower, self.encoder = tower, AdaptedEncoder(tower, student)

    def bucket(self, length: int) -> ComposedBucket:
        """Return the tower for a photo with up to `length` ids; it shares all weights.

        Raises:
            MagicError: As `TextTower.cut`.
        """
        return ComposedBucket(self, length)


class ComposedBucket(nn.Module):
    """A photo with one text of a fixed length, filled up on the right."""

    positions: Tensor
    seen: Tensor

    def __init__(self, tower: ComposedTower, length: int) -> None:
        """Share the tower's layers."""
        super().__init__()
        self.words, self.encoder, self.hidden = tower.tower.words, tower.encoder, _Hidden()
        self.register_buffer("positions", tower.tower.cut(length, VIEW_TOKENS), persistent=False)
        self.register_buffer("seen", torch.ones(1, VIEW_TOKENS), persistent=False)

    def forward(self, visual: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of one photo with a text.

        Args:
            visual: What the image part says of the photo, float32 [1, views x tokens, width].
            ids: Whole numbers [1, s]: [CLS], [SEP], the text and [SEP]; what stands behind it is any id.
            mask: Whole numbers [1, s], 1 = token, 0 = fill.

        Returns:
            float32 [1, dim], unit length.
        """
        *_, (_, vector) = self.stages(visual, ids, mask)
        return vector

    def stages(self, visual: Tensor, ids: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage, as `TextBucket.stages` does."""
        views, words = self.encoder.views, self.words(ids)
        first, others = (torch.cat([part] * views) for part in (words[:, :1], words[:, 1:]))
        rows = torch.cat([first, visual.reshape(views, VIEW_TOKENS, -1), others], 1) + self.positions
        # Visual tokens stand behind the first id, and all of both count: it does not matter which comes first here.
        kept = torch.cat([self.seen, mask.to(self.seen.dtype)], 1).unsqueeze(1)
        yield from self.encoder.stages(rows, kept, self.hidden(kept))


def sum_of_views(vectors: Tensor) -> Tensor:
    """[views, width] -> [1, width]."""
    total = vectors[:1]
    for place in range(1, len(vectors)):
        total = total + vectors[place : place + 1]
    return total


class _Hidden(nn.Module):
    """What is added to scores of places, by whether they count: 1 or 0, [1, 1, s] -> [1, 1, s]."""

    one: Tensor
    blocked: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("one", 1.0), ("blocked", -BLOCKED)):
            self.register_buffer(name, torch.tensor([value]), persistent=False)

    def forward(self, kept: Tensor) -> Tensor:
        return (kept - self.one) * self.blocked


class _Block(nn.Module):
    """One layer: attention and feed-forward, each followed by its norm."""

    scale: Tensor

    def __init__(self, products: Sequence[nn.Module], norms: Sequence[LayerNorm]) -> None:
        super().__init__()
        self.attention, self.mixed, self.inner, self.outer = products
        self.attention_norm, self.norm = norms
        self.register_buffer("scale", torch.tensor([HEAD_WIDTH**-0.5]), persistent=False)

    @classmethod
    def of(cls, stored: StoredLayer, layers: Layers) -> _Block:
        """Build all parts."""
        products = (stored.attention, stored.mixed, stored.inner, stored.outer)
        norms = (stored.attention_norm, stored.norm)
        return cls([_Balanced(one, layers) for one in products], [_norm(one, layers.norms) for one in norms])

    def adapted(self, adapters: StoredAdapters) -> _Block:
        """Return a layer that has adapters and shares the rest."""
        given = (adapters.attention, adapters.mixed, adapters.inner, adapters.outer)
        pairs = zip((self.attention, self.mixed, self.inner, self.outer), given, strict=True)
        return _Block([_Adapted(product, adapter) for product, adapter in pairs], [self.attention_norm, self.norm])

    def forward(self, rows: Tensor, hidden: Tensor | None) -> Tensor:
        """[n, s, width], what is added to scores [1, 1, s] -> [n, s, width]."""
        rows = self.attention_norm(rows + self.mixed(self._attend(self.attention(rows), hidden)))
        normed: Tensor = self.norm(rows + self.outer(functional.gelu(self.inner(rows))))
        return normed

    def _attend(self, joined: Tensor, hidden: Tensor | None) -> Tensor:
        """Queries, keys and values side by side [n, s, 3 x width] -> [n, s, width]."""
        count, length, width = *joined.shape[:2], HEADS * HEAD_WIDTH
        query, key, value = (
            joined[..., start : start + width]
            .reshape(count, length, HEADS, HEAD_WIDTH)
            .permute(0, 2, 1, 3)
            .reshape(count * HEADS, length, HEAD_WIDTH)
            for start in (0, width, 2 * width)
        )
        # Scaled before the product: scores stay within float16.
        scores = torch.bmm(query * self.scale, key.transpose(1, 2))
        shares = (scores if hidden is None else scores + hidden).softmax(-1)
        heads = torch.bmm(shares, value).reshape(count, HEADS, length, HEAD_WIDTH)
        return heads.permute(0, 2, 1, 3).reshape(count, length, width)


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


class _Adapted(nn.Module):
    """A product and the adapter beside it, in floats: it is small, and what it reads is not rounded, as in ONNX."""

    def __init__(self, product: nn.Module, stored: StoredAdapter) -> None:
        super().__init__()
        self.product, self.down = product, parameter(stored.down)
        self.ups = nn.ParameterList(parameter(up) for up in stored.ups)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        narrow = functional.linear(rows, self.down)
        rank = narrow.shape[-1] // len(self.ups)
        wide = [
            functional.linear(narrow[..., place * rank : (place + 1) * rank], up) for place, up in enumerate(self.ups)
        ]
        found: Tensor = self.product(rows) + (wide[0] if len(wide) == 1 else torch.cat(wide, -1))
        return found


def _norm(stored: StoredNorm, form: Norms) -> LayerNorm:
    norm = nn.LayerNorm(len(stored.gain), stored.eps)
    norm.weight, norm.bias = parameter(stored.gain), parameter(stored.shift)
    return LayerNorm(norm, form)
