"""What a judge decided, counted for each data set, and how far it agrees with the data's own labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class JudgedSet:
    """Counts of one data set.

    Attributes:
        dataset: Its name.
        judged: False where all top candidates count as negatives, unasked.
        pairs: In it.
        broken: Pairs that could not be read or embedded; they get no negatives.
        candidates: Different contents among positives and explicit negatives.
        asked: Questions with an answer, about candidates and positives.
        cached: Of these, answered before.
        approved: Candidates with a yes.
        rejected: Candidates with a no.
        unclear: Answers that were neither, about candidates or positives.
        failed: Questions that could not be asked, for example for a picture that cannot be decoded.
        positives: True targets that the judge was asked about.
        positives_approved: Of these, with a yes.
        negatives: Chosen, over all queries.
        fewer: Queries with fewer than wanted.
        none: Queries without any.
    """

    dataset: str
    judged: bool
    pairs: int
    broken: int = 0
    candidates: int = 0
    asked: int = 0
    cached: int = 0
    approved: int = 0
    rejected: int = 0
    unclear: int = 0
    failed: int = 0
    positives: int = 0
    positives_approved: int = 0
    negatives: int = 0
    fewer: int = 0
    none: int = 0

    @property
    def approved_share(self) -> float:
        """Share of decided candidates with a yes: known as negatives to the data, as truths to the judge."""
        return _share(self.approved, self.approved + self.rejected)

    @property
    def agreement(self) -> float:
        """Share of true targets with a yes: a judge that misses many of them knows little about this data."""
        return _share(self.positives_approved, self.positives)

    @property
    def unclear_share(self) -> float:
        """Share of answers that were neither yes nor no."""
        return _share(self.unclear, self.asked)


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """Counts of all data sets.

    Attributes:
        embedder: Name of the model that ranked.
        judge: Name of the model that judged.
        sets: In the order of the stage.
    """

    embedder: str
    judge: str
    sets: tuple[JudgedSet, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        sets = [
            asdict(counts) | {name: getattr(counts, name) for name in ("approved_share", "agreement", "unclear_share")}
            for counts in self.sets
        ]
        return {"embedder": self.embedder, "judge": self.judge, "sets": sets}

    def table(self) -> str:
        """Return the main counts as a Markdown table."""
        lines = [
            "| data set | pairs | broken | asked | approved | true targets approved | unclear | negatives | fewer |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for counts in self.sets:
            approved, agreement = (
                f"{share:.1%}" if counts.judged else "not judged" for share in (counts.approved_share, counts.agreement)
            )
            lines.append(
                f"| {counts.dataset} | {counts.pairs:,} | {counts.broken:,} | {counts.asked:,} | {approved} "
                f"| {agreement} | {counts.unclear_share:.1%} | {counts.negatives:,} | {counts.fewer:,} |"
            )
        return "\n".join(lines)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
