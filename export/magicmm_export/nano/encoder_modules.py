"""The encoder of the built-in model as static torch modules: a text, a photo's views, or both, of fixed lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from magicmm import ErrorCode, MagicError
from magicmm_export.decomposition.norms import UnitLength
from magicmm_export.nano.layer_modules import Block, Hidden, norm_of
from magicmm_export.nano.layers import Layers
from magicmm_export.nano.stored import VIEW_TOKENS, StoredStudent, StoredText
from magicmm_model.nano.config import CLS, SEP


class TextTower(nn.Module):
    """all-MiniLM-L6-v2 with mean pooling; `bucket` cuts it to a length."""

    positions: Tensor
    ends: Tensor

    def __init__(self, stored: StoredText, layers: Layers) -> None:
        """Build all layers."""
        super().__init__()
        self.words = layers.table(stored.words)
        self.norm = norm_of(stored.norm, layers.norms)
        self.blocks = nn.ModuleList(Block.of(layer, layers) for layer in stored.layers)
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
        self.hidden = Hidden()

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

    each: Tensor

    def __init__(self, tower: TextTower, student: StoredStudent) -> None:
        """Set the adapters beside the tower's layers."""
        super().__init__()
        self.norm, self.unit, self.views = tower.norm, tower.unit, student.views
        pairs = zip(tower.blocks, student.adapters, strict=True)
        self.blocks = nn.ModuleList(block.adapted(adapters) for block, adapters in pairs if isinstance(block, Block))
        self.register_buffer("each", torch.ones(student.views, 1, 1), persistent=False)

    def for_each_view(self, values: Tensor) -> Tensor:
        """[1, s, width] -> [views, s, width]: a product, since XNNPACK takes no copy and the graph would fall apart."""
        return values * self.each

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
        vectors = self.unit(torch.bmm(self.for_each_view(kept), rows).flatten(0, 1))
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
        self.tower, self.encoder, self.weight = tower, AdaptedEncoder(tower, student), student.both_weight

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
    weight: Tensor

    def __init__(self, tower: ComposedTower, length: int) -> None:
        """Share the tower's layers."""
        super().__init__()
        self.words, self.encoder, self.hidden = tower.tower.words, tower.encoder, Hidden()
        self.unit = tower.tower.unit
        self.register_buffer("weight", torch.tensor([tower.weight]), persistent=False)
        self.register_buffer("positions", tower.tower.cut(length, VIEW_TOKENS), persistent=False)
        self.register_buffer("seen", torch.ones(1, VIEW_TOKENS), persistent=False)

    def forward(self, visual: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of one photo with a text.

        Args:
            visual: What the image part says of the photo, float32 [1, views x tokens + 1, width]: its tokens, and its
                vector.
            ids: Whole numbers [1, s]: [CLS], [SEP], the text and [SEP]; what stands behind it is any id.
            mask: Whole numbers [1, s], 1 = token, 0 = fill.

        Returns:
            float32 [1, dim], unit length.
        """
        *_, (_, vector) = self.stages(visual, ids, mask)
        return vector

    def stages(self, visual: Tensor, ids: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage, as `TextBucket.stages` does, `both` before the vector."""
        tokens, photo = visual[:, :-1], visual[:, -1:].flatten(0, 1)  # XNNPACK slices, but picks no row
        words = self.encoder.for_each_view(self.words(ids))
        rows = torch.cat([words[:, :1], tokens.reshape(len(words), VIEW_TOKENS, -1), words[:, 1:]], 1) + self.positions
        # Visual tokens stand behind the first id, and all of both count: it does not matter which comes first here.
        kept = torch.cat([self.seen, mask.to(self.seen.dtype)], 1).unsqueeze(1)
        *inner, (_, both) = self.encoder.stages(rows, kept, self.hidden(kept))
        yield from inner
        yield "both", both
        yield "vector", self.unit(both * self.weight + photo)


def sum_of_views(vectors: Tensor) -> Tensor:
    """[views, width] -> [1, width]."""
    total = vectors[:1]
    for place in range(1, len(vectors)):
        total = total + vectors[place : place + 1]
    return total
