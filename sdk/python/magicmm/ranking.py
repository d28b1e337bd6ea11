"""Exact ranking by cosine plus a bonus that few values share.

All photos with the same bonus keep their order, so the k best of each such group and the k best of all hold the k best
of the sum: k asked is k given, and no photo is overlooked for standing too low by its cosine alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from magicmm.results import Results
from magicmm.signals import STRENGTH, judge, signals_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm.index import Index
    from magicmm.records import ExifColumns
    from magicmm.scan import ScanMatrix
    from magicmm.signals import Fired
    from magicmm.topk import Best, Ids, Query


def ranked_by_signals(
    index: Index,
    matrix: ScanMatrix,
    query: Query,
    selected: Ids | None,
    fired: Sequence[Fired],
    photos: ExifColumns,
) -> Results:
    """Return the k best by cosine and by what the words of a query say of time and place.

    Args:
        index: Where the matches are described.
        matrix: The vectors.
        query: What to find; its `min_score` is a cosine.
        selected: Ids that pass the filter (None = all).
        fired: The signals, one or more.
        photos: What EXIF says.
    """
    judged = judge(fired, photos)
    weight = STRENGTH * float(matrix.background(query).std(dtype=np.float64)) if len(matrix) else 0.0
    bonus = weight * np.nan_to_num(np.stack(list(judged.values()))).sum(0)
    (scores, ids), searched = ranked_with_bonus(matrix, query, selected, photos.ids, bonus)
    matches = index.matches(ids.tolist(), scores.tolist())
    told = tuple(replace(match, signals=signals_of(judged, photos, match.id)) for match in matches)
    return Results(told, searched, signals=tuple(one.signal for one in fired), signal_weight=weight)


def ranked_with_bonus(
    matrix: ScanMatrix, query: Query, selected: Ids | None, ids: Ids, bonus: NDArray[np.float64]
) -> tuple[Best, int]:
    """Return the k best by cosine + bonus (their cosines, and ids), and how many rows took part.

    Args:
        matrix: The vectors.
        query: What to find; its `min_score` is a cosine.
        selected: Ids that pass the filter (None = all).
        ids: Photos with a bonus, int64 [n]; all others have none.
        bonus: float64 [n], from 0 on.
    """
    (scores, found), searched = matrix.search(query, selected)
    parts = [(scores, found, np.zeros(len(found)))]
    may = np.ones(len(ids), np.bool_) if selected is None else np.isin(ids, selected)
    for value in np.unique(bonus[may & (bonus > 0)]):
        (scores, found), _ = matrix.search(query, ids[may & (bonus == value)])
        parts.append((scores, found, np.full(len(found), value)))
    scores, found, extra = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((found, -(scores.astype(np.float64) + extra)))
    # A photo with a bonus may also be among the best of all, without it: its first place counts.
    _, first = np.unique(found[order], return_index=True)
    best = order[np.sort(first)][: query.k]
    return (scores[best], found[best]), searched
