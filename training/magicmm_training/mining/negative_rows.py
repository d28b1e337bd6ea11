"""Hard negatives of one query: places in its data set, what a judge said, and both as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.candidates import POSITIVE, part_of

if TYPE_CHECKING:
    from magicmm_training.entries import Entry, Pair


class NegativeRef(NamedTuple):
    """Where a candidate stands in its query's data set.

    Attributes:
        place: Of its pair in the `PairSet`.
        pair_id: Of that pair; a check that the data is still the same.
        part: "positive", or "negative:K" for one of the pair's explicit negatives, from 0.
    """

    place: int
    pair_id: str
    part: str = POSITIVE

    def entry(self, pair: Pair) -> Entry:
        """Return the candidate out of its pair.

        Raises:
            MagicError: `argument_invalid` when the pair is another one, or has fewer negatives.
        """
        if pair.id != self.pair_id:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{pair.dataset}: row {self.place} is pair {pair.id!r}, expected was {self.pair_id!r}.",
                "Run the mining or judge stage again on this data.",
            )
        return part_of(pair, self.part)


@dataclass(frozen=True, slots=True)
class Margins:
    """The judge's log-odds of yes over no, float32, parallel to the candidates of a query; NaN where it gave none.

    Attributes:
        positive: Of the true target.
        negatives: Of the rejected candidates.
        approved: Of the approved ones.
    """

    positive: float
    negatives: tuple[float, ...]
    approved: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class NegativesRow:
    """What is known about one query.

    Attributes:
        dataset: Its data set, which the candidates come from too.
        place: Of its pair in the `PairSet`.
        query_id: Id of that pair.
        negatives: Best-ranked first.
        approved: Further true targets in the judge's eyes; only the reranker may use them.
        margins: None where nobody judged.
    """

    dataset: str
    place: int
    query_id: str
    negatives: tuple[NegativeRef, ...]
    approved: tuple[NegativeRef, ...] = ()
    margins: Margins | None = None


def row_json(row: NegativesRow) -> dict[str, Any]:
    """Return a row as it is written."""
    margins = row.margins
    return {
        "dataset": row.dataset,
        "place": row.place,
        "query_id": row.query_id,
        "negatives": [_ref_json(ref) for ref in row.negatives],
        "approved": [_ref_json(ref) for ref in row.approved],
        "scores": None
        if margins is None
        else {
            "positive": _number(margins.positive),
            "negatives": [_number(margin) for margin in margins.negatives],
            "approved": [_number(margin) for margin in margins.approved],
        },
    }


def row_from_json(value: dict[str, Any]) -> NegativesRow:
    """Return a row as it was read.

    Raises:
        ValueError: When a part is missing, of another type, or scores and candidates differ in number.
    """
    try:
        negatives, approved = (tuple(_ref(ref) for ref in value[part]) for part in ("negatives", "approved"))
        margins = None if value["scores"] is None else _margins(value["scores"])
        row = NegativesRow(
            str(value["dataset"]), int(value["place"]), str(value["query_id"]), negatives, approved, margins
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None
    counts = (len(negatives), len(approved))
    if margins is not None and counts != (len(margins.negatives), len(margins.approved)):
        raise ValueError("it has not one score for each candidate")
    return row


def _ref_json(ref: NegativeRef) -> dict[str, Any]:
    return ref._asdict()


def _ref(value: dict[str, Any]) -> NegativeRef:
    return NegativeRef(int(value["place"]), str(value["pair_id"]), str(value["part"]))


def _margins(value: dict[str, Any]) -> Margins:
    negatives, approved = (tuple(map(_margin, value[name])) for name in ("negatives", "approved"))
    return Margins(_margin(value["positive"]), negatives, approved)


def _number(margin: float) -> float | None:
    return None if math.isnan(margin) else margin


def _margin(number: float | None) -> float:
    return math.nan if number is None else float(number)
