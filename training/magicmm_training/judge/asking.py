"""Asks a judge what is not known yet, batch by batch, and keeps what it said."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.cache import verdict_key
from magicmm_training.judge.prompts import judge_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.entries import Entry
    from magicmm_training.judge.cache import VerdictCache
    from magicmm_training.judge.verdict import Backend, Verdict

_BAD_MESSAGE = {ErrorCode.IMAGE_INVALID, ErrorCode.TEXT_INVALID, ErrorCode.ARGUMENT_INVALID}
"""What a judge raises for a message rather than for itself."""


class Question(NamedTuple):
    """Does a target fit a query?

    Attributes:
        query: The query.
        query_id: Its content id.
        target: The target.
        target_id: Its content id.
    """

    query: Entry
    query_id: str
    target: Entry
    target_id: str


class Answers(NamedTuple):
    """What became of some questions.

    Attributes:
        verdicts: On each question, in order; None where it could not be asked.
        cached: Whether each one had been answered before.
    """

    verdicts: list[Verdict | None]
    cached: list[bool]


class Asking:
    """A judge with a memory."""

    def __init__(self, backend: Backend, cache: VerdictCache, batch: int) -> None:
        """Keep the judge, its memory, and how many questions it gets at once."""
        self._backend = backend
        self._cache = cache
        self._batch = batch

    def answers(self, questions: Sequence[Question]) -> Answers:
        """Return verdicts on some questions; the same question is asked once.

        Raises:
            MagicError: When the judge fails; what it said before is kept.
        """
        keys = [verdict_key(self._backend.fingerprint, *question) for question in questions]
        known = self._cache.known(keys)
        cached = [key in known for key in keys]
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        waiting = list(new)
        for start in range(0, len(waiting), self._batch):
            batch = waiting[start : start + self._batch]
            given = self._ask(batch, [new[key] for key in batch])
            self._cache.keep(given.items())
            known |= given
        return Answers([known.get(key) for key in keys], cached)

    def _ask(self, keys: Sequence[bytes], questions: Sequence[Question]) -> dict[bytes, Verdict]:
        """Return the verdicts of a batch; a question that fails leaves the others alone."""
        messages = [judge_message(question.query, question.target) for question in questions]
        try:
            return dict(zip(keys, self._backend.answer(messages), strict=True))
        except MagicError as error:
            if error.code not in _BAD_MESSAGE:
                raise
        given: dict[bytes, Verdict] = {}
        if len(keys) > 1:
            for key, question in zip(keys, questions, strict=True):
                given |= self._ask([key], [question])
        return given
