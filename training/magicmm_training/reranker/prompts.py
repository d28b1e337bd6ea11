"""What the reranker is asked: whether one candidate fits (pointwise), and which of several fits best (listwise)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_training.judge.message import Message, said
from magicmm_training.judge.prompts import judge_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.entries import Entry
    from magicmm_training.judge.message import Part

YES, NO = "yes", "no"
"""The answers of the pointwise question."""


def pointwise_message(query: Entry, candidate: Entry) -> Message:
    """Return the question whether a candidate fits: the judge's own, which says what fitting means for the task."""
    return judge_message(query, candidate)


def listwise_message(query: Entry, candidates: Sequence[Entry]) -> Message:
    """Return the question which candidate fits best; the answer is `index_answer` of its place."""
    parts: list[Part] = ["Which candidate fits the query best?\nQuery: ", *said(query)]
    for place, candidate in enumerate(candidates):
        parts += [f"\n({index_answer(place)}) ", *said(candidate)]
    return Message((*parts, "\nAnswer its number."))


def index_answer(place: int) -> str:
    """Return the number of a candidate, counted from 1."""
    return str(place + 1)
