"""Several samples in one row: which go together, and what each token may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from magicmm_training.losses.next_token import next_token_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chat:
    """An instruction sample, decoded and tokenized.

    Attributes:
        dataset: Its data set.
        id: Unique in it.
        ids: Of the whole chat.
        answers: For each token, whether the assistant writes it.
        tiles: uint8 [n, side, side, 3] of all its pictures, or None.
        texts: What was said, for messages.
    """

    dataset: str
    id: str
    ids: tuple[int, ...]
    answers: tuple[bool, ...]
    tiles: Tensor | None
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of samples.

    Attributes:
        ids: int64 [b, s], padded on the right.
        targets: int64 [b, s], what each place predicts, `IGNORED` elsewhere.
        positions: int64 [b, s], from 0 in every sample.
        mask: bool [b, 1, s, s], True where a token may be seen: its own sample, up to itself; None when no row holds
            two samples, where causal attention does the same in less time.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor | None


def pack(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Put samples into rows, longest first, each into the first row that has room (first-fit decreasing).

    Args:
        lengths: In tokens.
        most: Tokens of a row; a longer sample gets a row of its own.

    Returns:
        The samples of each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        row = next((place for place, left in enumerate(room) if left >= lengths[sample]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(most)
        rows[row].append(sample)
        room[row] -= lengths[sample]
    return rows


def packed_rows(rows: Sequence[Sequence[Chat]], fill: int) -> PackedRows:
    """Lay samples side by side.

    Args:
        rows: The samples of each row.
        fill: Id that pads short rows.
    """
    width = max(1, *(sum(len(chat.ids) for chat in row) for row in rows))
    ids = torch.full((len(rows), width), fill)
    answers = torch.zeros(len(rows), width, dtype=torch.bool)
    samples = torch.full((len(rows), width), -1)
    positions = torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        start = 0
        for sample, chat in enumerate(row):
            part = slice(start, start + len(chat.ids))
            ids[number, part] = torch.tensor(chat.ids)
            answers[number, part] = torch.tensor(chat.answers)
            samples[number, part] = sample
            positions[number, part] = torch.arange(len(chat.ids))
            start = part.stop
    mask = None
    if any(len(row) > 1 for row in rows):
        # Padding is one more sample, so that each of its tokens sees something: itself at least.
        same = samples[:, :, None] == samples[:, None]
        mask = (same & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
    return PackedRows(ids, next_token_targets(ids, answers, samples), positions, mask)
