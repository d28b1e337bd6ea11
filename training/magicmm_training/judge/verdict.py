"""What a judge said about one target, and how it is read off the scores of its next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from magicmm_training.judge.message import Message


class Verdict(NamedTuple):
    """One answer.

    Attributes:
        approved: True for yes, False for no, None for neither.
        margin: Log-odds of yes over no, float32; None when the judge gave words only.
    """

    approved: bool | None
    margin: float | None


class Backend(Protocol):
    """A judge."""

    name: str
    fingerprint: str
    """Names whatever decides on answers; cached ones of another fingerprint are not used."""

    def answer(self, messages: Sequence[Message]) -> list[Verdict]:
        """Return a verdict on each message, in order.

        Raises:
            MagicError: `image_invalid`, `text_invalid` or `argument_invalid` for a message that cannot be read;
                `runtime_failed` or `source_unavailable` when the judge itself fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """First tokens of the two answers in all their spellings.

    Attributes:
        yes: Ids.
        no: Ids; none of them in `yes`.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @classmethod
    def of(cls, encode: Callable[[str], Sequence[int]]) -> AnswerTokens:
        """Find them with a tokenizer: "yes", "Yes" and "YES", each also after a blank.

        Of spellings that are several tokens, only the plain word counts by its first one: much else begins with the
        "Y" of "YES".

        Args:
            encode: Returns the ids of a text, without special tokens.

        Raises:
            MagicError: `model_mismatch` when the answers begin alike.
        """
        yes, no = (_beginnings(word, encode) for word in ("yes", "no"))
        if not yes - no or not no - yes:
            raise MagicError(
                ErrorCode.MODEL_MISMATCH,
                "This model's tokenizer begins yes and no with the same tokens.",
                "Choose another judge.",
            )
        return cls(tuple(sorted(yes - no)), tuple(sorted(no - yes)))

    def margins(self, logits: Tensor) -> Tensor:
        """Return log P(yes) - log P(no), float32 [b], of next-token logits [b, vocab]."""
        scores = logits.float()
        return scores[:, self.yes].logsumexp(-1) - scores[:, self.no].logsumexp(-1)

    def verdicts(self, logits: Tensor) -> list[Verdict]:
        """Read verdicts off next-token logits.

        Neither yes nor no is said when something else is the most likely token, or both are equally likely.

        Args:
            logits: [b, vocab].

        Raises:
            MagicError: `runtime_failed` for logits that are not finite.
        """
        margins = self.margins(logits)
        if not margins.isfinite().all():
            raise MagicError(
                ErrorCode.RUNTIME_FAILED, "The judge's logits are not finite.", "Use float32, or another judge."
            )
        said = {*self.yes, *self.no}
        best = logits.argmax(-1).tolist()
        return [
            Verdict(margin > 0 if token in said and margin != 0 else None, margin)
            for token, margin in zip(best, margins.tolist(), strict=True)
        ]


def _beginnings(word: str, encode: Callable[[str], Sequence[int]]) -> set[int]:
    spellings = [
        encode(blank + spelling) for blank in ("", " ") for spelling in (word, word.capitalize(), word.upper())
    ]
    whole = {ids[0] for ids in spellings if len(ids) == 1}
    # The plain word is what our own models are trained to say, whole or not.
    return whole | set(encode(word)[:1])
