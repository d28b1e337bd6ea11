"""What the gallery answers: frozen data, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from magicmm.errors import SkipReason

NOTHING_MATCHES = "Probably nothing in this library matches; here is what comes closest."
"""What people are told of doubtful results."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that the words of a query say of time or place.

    Attributes:
        kind: "time" (of day), "season", "month", "year" or "place".
        words: The words that say so, in small letters and without accents.
    """

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Match:
    """One photo found.

    Attributes:
        id: The photo's id in the index; stays the same when the file moves or is edited.
        uri: Where the photo is, percent-encoded ASCII.
        score: Cosine between the query and the photo, -1 to 1.
        taken: The camera's wall clock in seconds since 1970-01-01 00:00 of that clock, or None.
        width: Pixels of the upright photo.
        height: Pixels of the upright photo.
        signals: By kind of `Results.signals`: 1.0 when the photo's EXIF fits the words, 0.0 when it differs; a kind is
            missing when EXIF does not tell.
    """

    id: int
    uri: str
    score: float
    taken: float | None
    width: int
    height: int
    signals: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Results:
    """Matches, best first, equal scores by id; and out of how many photos they were chosen.

    Best is the highest score + signal_weight x the sum of the photo's signals.

    Attributes:
        matches: At most k; exactly k whenever k photos pass filter and min_score.
        searched: Photos that passed the filter.
        taught: Taught concepts that the text named, as they are written; their photos were part of the query.
        confidence: Probability that the first match fits the words, 0 to 1; None where it is not known.
        is_doubtful: Whether that is so low that probably nothing matches.
        signals: What the words say of time and place.
        signal_weight: What a signal counts in the ranking, as a cosine; 0 without signals.
    """

    matches: tuple[Match, ...]
    searched: int
    taught: tuple[str, ...] = ()
    confidence: float | None = None
    is_doubtful: bool = False
    signals: tuple[Signal, ...] = ()
    signal_weight: float = 0.0

    def __len__(self) -> int:
        return len(self.matches)


def say_signals(results: Results) -> str:
    """Return a sentence for people when photos were lifted for their date or place, "" otherwise."""
    if not any(value > 0 for match in results.matches for value in match.signals.values()):
        return ""
    return f"Lifted for date or place: {', '.join(signal.words for signal in results.signals)}."


@dataclass(frozen=True, slots=True)
class Skip:
    """A photo that is not in the index, and why."""

    uri: str
    reason: SkipReason
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next sync would do; nothing was changed to find out.

    Attributes:
        new: Files not seen before (some may turn out to be moved photos, which need no model).
        changed: Files that differ from what was indexed, or that failed for a passing reason.
        removed: Indexed photos whose file is gone.
        unchanged: Photos that need nothing.
        seconds: Estimate from the last sync's rate; None when there was none.
        unavailable: Folders that cannot be read now; their photos are left alone.
    """

    new: int
    changed: int
    removed: int
    unchanged: int
    seconds: float | None
    unavailable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One committed step of a sync. Everything counted here is already on disk.

    Attributes:
        done: Files dealt with, of `total`.
        total: Files that were new or changed.
        embedded: Photos that went through the model.
        reused: Moved, copied or merely touched photos that kept their vector.
        removed: Photos whose file is gone.
        skipped: Photos that could not be indexed.
        rate: Files a second since the start.
        eta_seconds: Estimated rest; None until there is a rate.
        skips: The skipped photos of this step.
        unavailable: Folders that cannot be read; their photos were left alone.
    """

    done: int
    total: int
    embedded: int
    reused: int
    removed: int
    skipped: int
    rate: float
    eta_seconds: float | None
    skips: tuple[Skip, ...] = ()
    unavailable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """What is in an index."""

    index_path: str
    index_bytes: int
    model: str | None
    fingerprint: str | None
    dim: int | None
    indexed: int
    skipped: tuple[Skip, ...]
    sources: tuple[str, ...]
    rebuilding: str | None = None
    rebuilt: int = 0


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Photos that show the same.

    Attributes:
        kind: "same_bytes" or "look_alike".
        photos: Two or more, by id; `score` is the cosine to the first.
    """

    kind: str
    photos: tuple[Match, ...] = field(default=())
