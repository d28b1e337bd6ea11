"""The image part of the built-in model as a static torch module: one photo of two views.

What a runtime does in its own way - convolutions, products, tables, rounding - comes from `Layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition.norms import UnitLength
from magicmm_export.nano.concepts import CELLS, VIEWS
from magicmm_export.nano.encoder_modules import PhotoReader, TextTower
from magicmm_export.nano.head_modules import Colours, ConceptBank, MeanOfCells, SoftWords
from magicmm_export.nano.image import SIDE
from magicmm_export.nano.layers import Layers
from magicmm_export.nano.quantise import PIXELS, Grid
from magicmm_export.nano.stored import StoredConv, StoredImage, StoredStudent

VECTOR, VISUAL = "vector", "visual"
"""What the part gives; `visual` only with a student."""


class ImageTower(nn.Module):
    """EfficientNet-Lite2, the concept bank, and what reads soft words where there is a student."""

    mirror: Tensor
    middle: Tensor
    step: Tensor

    def __init__(self, stored: StoredImage, tower: TextTower, layers: Layers) -> None:
        """Build all layers; those of the text tower are shared."""
        super().__init__()
        grids = {conv.name: conv.total for conv in stored.convs}
        self.entry = layers.stored(PIXELS)
        self.convs = [(conv.name, conv.other) for conv in stored.convs]
        self.steps = nn.ModuleList(_Step(conv, grids, layers) for conv in stored.convs)
        self.loaded = layers.loaded(stored.convs[-1].total)
        self.classifier = layers.linear(stored.classifier)
        self.mean, self.bank = MeanOfCells(layers.norms), ConceptBank(stored.bank, layers)
        self.student = None if stored.student is None else _Student(stored.student, tower, layers)
        for name, value in (("middle", PIXELS.zero), ("step", PIXELS.scale)):
            self.register_buffer(name, torch.tensor([float(value)]), persistent=False)
        self.register_buffer("mirror", torch.arange(SIDE - 1, -1, -1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the vector of one photo, and its visual tokens where there is a student.

        Args:
            pixels: uint8 (or float, 0 to 255) [2, 256, 256, 3], RGB: the views crop and squash.

        Returns:
            float32 [1, dim], unit length, and float32 [1, tokens + 1, dim]: the tokens, and the vector once more.
        """
        found = dict(self.stages(pixels))
        return found[VECTOR] if self.student is None else (found[VECTOR], found[VISUAL])

    def vector(self, pixels: Tensor) -> Tensor:
        """Return the vector alone."""
        return dict(self.stages(pixels))[VECTOR]

    def stages(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage.

        features [3, 1280, 8, 8], logits [3, 16, 1000], with a student visual [1, tokens + 1, dim], vector [1, dim].
        """
        # The third view is the mirrored crop: columns by number, which takes a third of the time of ExecuTorch's flip.
        mirrored = pixels[:1].index_select(2, self.mirror)
        views = torch.cat([pixels.to(self.middle.dtype), mirrored.to(self.middle.dtype)])
        planes = (views - self.middle) * self.step
        features = self._features(planes.permute(0, 3, 1, 2))
        yield "features", features
        cells = functional.avg_pool2d(features, 2).flatten(2).transpose(1, 2)
        logits = self.classifier(cells.flatten(0, 1)).reshape(VIEWS, CELLS, -1)
        yield "logits", logits
        whole = self.mean(logits)
        concepts = self.bank(logits, whole)
        if self.student is None:
            yield VECTOR, concepts
        else:
            tokens = self.student.tokens(logits, whole)
            vector = self.student(tokens, concepts, views[:1])
            yield VISUAL, torch.cat([tokens.flatten(0, 1), vector]).unsqueeze(0)
            yield VECTOR, vector

    def _features(self, planes: Tensor) -> Tensor:
        """[3, 3, 256, 256] -> [3, 1280, 8, 8]."""
        kept = self.entry(planes)
        made: dict[str, Tensor] = {}
        for step, (name, other) in zip(self.steps, self.convs, strict=True):
            kept = step(kept, None if other is None else made[other])
            made[name] = kept
        features: Tensor = self.loaded(kept)
        return features


class _Student(nn.Module):
    """What was trained: soft words, and the encoder that reads them; with colours."""

    encoder_weight: Tensor
    colour_weight: Tensor

    def __init__(self, stored: StoredStudent, tower: TextTower, layers: Layers) -> None:
        super().__init__()
        self.views, self.words = stored.views, SoftWords(stored.words, layers)
        self.reader = PhotoReader(tower, stored)
        self.colours, self.unit = Colours(stored.colours, layers), UnitLength(len(stored.words.shift), layers.norms)
        for name, weight in (("encoder_weight", stored.encoder_weight), ("colour_weight", stored.colours.weight)):
            self.register_buffer(name, torch.tensor([weight]), persistent=False)

    def tokens(self, logits: Tensor, whole: Tensor) -> Tensor:
        """[3, 16, 1000], [3, 1, 1000] -> [views, tokens, dim]."""
        words: Tensor = self.words(logits[: self.views], whole[: self.views])
        return words

    def forward(self, tokens: Tensor, concepts: Tensor, view: Tensor) -> Tensor:
        """Visual tokens of each view, what the bank says [1, dim], float pixels [1, 256, 256, 3] -> [1, dim]."""
        read, colours = self.reader(tokens) * self.encoder_weight, self.colours(view) * self.colour_weight
        vector: Tensor = self.unit(read + concepts + colours)
        return vector


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
