"""The whole model, from the compressed feature map on; the vision network before it stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.nano.concepts import ConceptBank
from magicmm_model.nano.config import CLS, PAD, SEP
from magicmm_model.nano.connector import SoftWords
from magicmm_model.nano.encoder import Adapted, Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.nano.config import NanoConfig


def filled(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return ids of different lengths as one int64 tensor, filled up on the right, and the mask of what counts."""
    ids = torch.full((len(rows), max(map(len, rows))), PAD, device=device)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask


class NanoModel(nn.Module):
    """Compressed feature maps and token ids to unit vectors of one space."""

    def __init__(self, config: NanoConfig) -> None:
        """Allocate; `load_nano` fills it."""
        super().__init__()
        self.config = config
        self.connector = SoftWords(config)
        self.encoder = Encoder(config)
        self.bank = ConceptBank(config.classes, config.width)

    def forward(self, ids: Tensor, mask: Tensor, cells: Tensor | None = None) -> Tensor:
        """Encode texts (`cells` None), or photos with or without text; see `Encoder.forward`.

        Args:
            ids: int64 [b, s].
            mask: [b, s].
            cells: [b, cells, channels], one view a row.

        Returns:
            [b, width], unit rows.
        """
        visual = None if cells is None else self.connector(cells)
        vectors: Tensor = self.encoder(ids, mask, visual)
        return vectors

    def photos(self, cells: Tensor) -> Tensor:
        """Encode photos of several views without text: [b, views, cells, channels] -> unit rows [b, width]."""
        flat = cells.flatten(0, 1)
        ids = torch.tensor([[CLS, SEP]], device=cells.device).expand(len(flat), -1)
        return self._mean(self(ids, torch.ones_like(ids), flat), cells.shape[1])

    def composed(self, ids: Tensor, mask: Tensor, cells: Tensor) -> Tensor:
        """Encode photos of several views, each with a text whose ids begin with [CLS], [SEP]."""
        views = cells.shape[1]
        vectors = self(ids.repeat_interleave(views, 0), mask.repeat_interleave(views, 0), cells.flatten(0, 1))
        return self._mean(vectors, views)

    def indexed(self, cells: Tensor, read: int | None = None) -> Tensor:
        """Return what an index holds of photos: what the encoder says of their views, and what the concept bank does.

        Args:
            cells: [b, views, cells, channels].
            read: The encoder reads this many views, the first ones; None = all. The bank always sees all.

        Returns:
            [b, width], unit rows.
        """
        bank = self._mean(self.teacher(cells.flatten(0, 1)), cells.shape[1])
        return functional.normalize(self.photos(cells[:, :read]) + bank, dim=-1)

    def teacher(self, cells: Tensor) -> Tensor:
        """Return what the concept bank says of views: [b, cells, channels] -> unit rows [b, width]."""
        vectors: Tensor = self.bank(self.connector.classifier(cells))
        return vectors

    def train_adapters(self) -> None:
        """Train the adapters and the connector's output layer; freeze the rest."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Adapted):
                module.down.requires_grad_(True)
                module.up.requires_grad_(True)
        for parameter in (self.connector.table, self.connector.shift, self.connector.log_scale):
            parameter.requires_grad_(True)

    @staticmethod
    def _mean(vectors: Tensor, views: int) -> Tensor:
        return functional.normalize(vectors.view(-1, views, vectors.shape[-1]).sum(1), dim=-1)
