"""What is made of the classifier's logits and of pixels, as static torch modules: concepts, soft words, colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition.norms import Norms, UnitLength, WeightedSum
from magicmm_export.nano.concepts import CELLS, VIEWS
from magicmm_export.nano.encoder_modules import sum_of_views
from magicmm_export.nano.image import SIDE
from magicmm_export.nano.layers import Layers, parameter
from magicmm_export.nano.stored import VIEW_TOKENS, StoredBank, StoredColours, StoredSoftWords, StoredTable
from magicmm_model.nano.colours import LEVELS, STEP
from magicmm_model.nano.config import CELL_SHARE, GLOBAL_WEIGHT

_LEAST_CHANCE = 1e-9
_LOOKED_AT = SIDE // STEP


class MeanOfCells(nn.Module):
    """[n, 16, classes] -> [n, 1, classes]."""

    def __init__(self, norms: Norms) -> None:
        """Choose the form."""
        super().__init__()
        self.cells = WeightedSum(CELLS, 1 / CELLS) if norms is Norms.PRODUCT else None

    def forward(self, values: Tensor) -> Tensor:
        """Return the mean."""
        if self.cells is None:
            return values.mean(1, keepdim=True)
        mean: Tensor = self.cells(values.transpose(1, 2))
        return mean.transpose(1, 2)


class ConceptBank(nn.Module):
    """The head "local ConSE" (magicmm_export.nano.concepts)."""

    share: Tensor
    rest: Tensor
    overall: Tensor

    def __init__(self, stored: StoredBank, layers: Layers) -> None:
        """Build the table."""
        super().__init__()
        self.kept, self.power = stored.kept, stored.power
        self.mean, self.table = MeanOfCells(layers.norms), layers.table(stored.table)
        self.unit = UnitLength(stored.table.codes.shape[1], layers.norms)
        _add_numbers(self, share=CELL_SHARE, rest=1 - CELL_SHARE, overall=GLOBAL_WEIGHT)

    def forward(self, logits: Tensor, whole: Tensor) -> Tensor:
        """[views, 16, 1000], their means [views, 1, 1000] -> [1, dim], unit length."""
        local = self.mean((logits * self.share + whole * self.rest).softmax(-1))
        chances = local + whole.softmax(-1) * self.overall
        best, concepts = chances.flatten(0, 1).topk(self.kept)
        weights = best.sqrt() if self.power == 0.5 else best.pow(self.power)
        summed = torch.bmm(weights.reshape(VIEWS, 1, self.kept), self.table(concepts)).flatten(0, 1)
        vector: Tensor = self.unit(sum_of_views(self.unit(summed)))
        return vector


class SoftWords(nn.Module):
    """The visual tokens of views (see `magicmm_model.nano.connector.SoftWords`)."""

    share: Tensor
    rest: Tensor

    def __init__(self, stored: StoredSoftWords, layers: Layers) -> None:
        """Build the table."""
        super().__init__()
        self.kept, self.table, self.shift = stored.kept, layers.table(stored.table), parameter(stored.shift)
        self.sum = WeightedSum(stored.kept, 1.0)
        _add_numbers(self, share=stored.share, rest=1 - stored.share)

    def forward(self, logits: Tensor, whole: Tensor) -> Tensor:
        """[views, 16, 1000], their means [views, 1, 1000] -> [views, 17, width]."""
        mixed = logits * self.share + whole * self.rest
        chances = torch.cat([whole, mixed], 1).softmax(-1)
        best, classes = chances.flatten(0, 1).topk(self.kept)
        roots = best.clamp(min=_LEAST_CHANCE).sqrt()
        weights = (roots / self.sum(roots)).unsqueeze(1)
        words = torch.bmm(weights, self.table(classes)).reshape(-1, VIEW_TOKENS, len(self.shift))
        return words + self.shift


class Colours(nn.Module):
    """The colours of a view (see `magicmm_model.nano.colours`)."""

    level: Tensor
    red: Tensor
    green: Tensor

    def __init__(self, stored: StoredColours, layers: Layers) -> None:
        """Build the table: for each cell of the RGB cube a row that is 1 at its colour word."""
        super().__init__()
        vectors = stored.vectors.rows
        marks = np.eye(len(vectors), dtype=np.int8)[stored.nearest]
        self.table = layers.table(StoredTable(marks, np.ones(len(marks), np.float32)))
        self.vectors = parameter(np.ascontiguousarray(vectors.T))
        self.unit = UnitLength(vectors.shape[1], layers.norms)
        _add_numbers(self, level=LEVELS / 256)
        for name, value in (("red", LEVELS**2), ("green", LEVELS)):
            self.register_buffer(name, torch.tensor([value], dtype=torch.int64), persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        """Float, 0 to 255 [1, 256, 256, 3] -> [1, dim], unit length."""
        levels = (view[:, ::STEP, ::STEP] * self.level).long()  # it cuts fractions off
        places = levels[..., 0] * self.red + levels[..., 1] * self.green + levels[..., 2]
        # A mean of means: multiples of 1/64 are exact in float16, too.
        shares = self.table(places.reshape(_LOOKED_AT, _LOOKED_AT)).mean(1).mean(0, keepdim=True)
        vector: Tensor = self.unit(functional.linear(shares.sqrt(), self.vectors))
        return vector


def _add_numbers(module: nn.Module, **numbers: float) -> None:
    for name, value in numbers.items():
        module.register_buffer(name, torch.tensor([value]), persistent=False)
