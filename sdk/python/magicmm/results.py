"""What the gallery answers: frozen data, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from magicmm.errors import SkipReason


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
    """

    id: int
    uri: str
    score: float
    taken: float | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Results:
    """Matches, best first, equal scores by id; and out of how many photos they were chosen.

    Attributes:
        matches: At most k; exactly k whenever k photos pass filter and min_score.
        searched: Photos that passed the filter.
        taught: Taught concepts that the text named, as they are written; their photos were part of the query.
    """

    matches: tuple[Match, ...]
    searched: int
    taught: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.matches)


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
