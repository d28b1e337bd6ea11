"""Groups of photos that look alike: all pairs above a cosine, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simsimd

if TYPE_CHECKING:
    from magicmm.topk import Rows, Segment

_BLOCK = 256


def look_alikes(rows: Segment, min_score: float) -> list[list[tuple[int, float]]]:
    """Join photos whose cosine is at least `min_score`, directly or through others.

    Compares every pair: seconds for 10,000 photos, minutes for 100,000.

    Returns:
        Groups of (photo id, cosine to the group's first), ids ascending, larger groups first.
    """
    order = np.argsort(rows.ids)
    codes, scales, ids = rows.codes[order], rows.scales[order], rows.ids[order]
    first = np.arange(len(ids))  # each row's group, named by the smallest row in it
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        dots = np.asarray(simsimd.cdist(codes[start:], codes[block], metric="inner", out_dtype="float32"))
        near = np.ascontiguousarray((dots * scales[start:, None] * scales[block][None] >= min_score).T)
        for place, row in enumerate(near):
            _join(first, start + place, start + np.flatnonzero(row[place + 1 :]) + place + 1)
    groups: dict[int, list[int]] = {}
    for row, name in enumerate(first.tolist()):
        groups.setdefault(name, []).append(row)
    found = [group for group in groups.values() if len(group) > 1]
    found.sort(key=lambda group: (-len(group), group[0]))
    return [[(int(ids[row]), _cosine(codes, scales, group[0], row)) for row in group] for group in found]


def _join(first: Rows, row: int, others: Rows) -> None:
    names = first[others]
    if (names != first[row]).any():
        joined = np.append(names, first[row])
        first[np.isin(first, joined)] = joined.min()


def _cosine(codes: np.ndarray, scales: np.ndarray, one: int, other: int) -> float:
    dot = int(codes[one].astype(np.int32) @ codes[other].astype(np.int32))
    return float(np.float32(dot) * (scales[one] * scales[other]))
