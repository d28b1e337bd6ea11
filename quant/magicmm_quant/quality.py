"""How far quantised vectors are from the reference's: cosines, neighbours, recall; as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

NEIGHBOURS = 10
RECALL_AT = (1, 5, 10)
_BINS = 20


@dataclass(frozen=True, slots=True)
class PartQuality:
    """One matrix of vectors against its reference.

    Attributes:
        name: What the vectors are of, for example `photo` or `query`.
        count: How many.
        mean: Mean cosine of a vector to its reference.
        p1: Cosine that 1 % of the vectors fall below.
        least: Smallest cosine.
        overlap: Share of the ten nearest neighbours within the part that stay (fewer where the part is smaller); None
            for a part of one.
        edges: Of the bins of the histogram of cosines, one more than bins.
        counts: Vectors in each bin.
    """

    name: str
    count: int
    mean: float
    p1: float
    least: float
    overlap: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of captions whose photo is among the first `k`.

    Attributes:
        k: How many results are looked at.
        reference: With the reference's vectors.
        candidate: With the quantised ones.
    """

    k: int
    reference: float
    candidate: float

    @property
    def drop(self) -> float:
        """What quantising costs; negative where it happens to help."""
        return self.reference - self.candidate


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What quantising cost.

    Attributes:
        scheme: Name of the recipe.
        sample: What it was measured on; says so when that is synthetic.
        parts: One entry a matrix.
        recall: Empty without pairs.
        pairs: (caption, photo) pairs.
    """

    scheme: str
    sample: str
    parts: tuple[PartQuality, ...]
    recall: tuple[Recall, ...]
    pairs: int

    def check(self, min_mean_cosine: float) -> None:
        """Refuse what is not good enough.

        Raises:
            MagicError: `argument_invalid`, naming every part whose mean cosine is below the gate.
        """
        low = [f"{part.name} {part.mean:.5f}" for part in self.parts if not part.mean >= min_mean_cosine]
        if low:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The recipe {self.scheme} fails the quality gate of {min_mean_cosine}: mean cosine of "
                f"{', '.join(low)} ({self.sample}).",
                "Take a finer recipe, allow more bytes, or give photos to calibrate with.",
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers."""
        return {
            "scheme": self.scheme,
            "sample": self.sample,
            "pairs": self.pairs,
            "parts": {
                part.name: {
                    "count": part.count,
                    "mean": part.mean,
                    "p1": part.p1,
                    "min": part.least,
                    "top10_overlap": part.overlap,
                    "histogram": {"edges": list(part.edges), "counts": list(part.counts)},
                }
                for part in self.parts
            },
            "recall": {
                str(one.k): {"reference": one.reference, "candidate": one.candidate, "drop": one.drop}
                for one in self.recall
            },
        }

    def table(self) -> str:
        """Return a table to read, one line a part and one a recall."""
        width = max([len("part"), *(len(part.name) for part in self.parts)])
        lines = [
            f"{self.scheme}: cosine to float32, {self.sample}",
            f"{'part':<{width}}  {'n':>6}  {'mean':>8}  {'p1':>8}  {'min':>8}  {'top 10':>7}",
        ]
        for part in self.parts:
            overlap = "-" if part.overlap is None else f"{part.overlap:.1%}"
            lines.append(
                f"{part.name:<{width}}  {part.count:>6}  {part.mean:>8.5f}  {part.p1:>8.5f}  {part.least:>8.5f}"
                f"  {overlap:>7}"
            )
        for one in self.recall:
            lines.append(
                f"recall@{one.k:<2} of {self.pairs} pairs: {one.reference:.1%} -> {one.candidate:.1%}"
                f" ({-100 * one.drop:+.1f} points)"
            )
        return "\n".join(lines)


def assess(
    scheme: str,
    sample: str,
    reference: Mapping[str, Floats],
    candidate: Mapping[str, Floats],
    pairs: Sequence[tuple[int, int]] = (),
    captions: str = "query",
    photos: str = "photo",
) -> QualityReport:
    """Compare vectors with their reference.

    Args:
        scheme: Name of the recipe.
        sample: What the vectors are of; see `Samples.describe`.
        reference: By part, unit rows [n, dim].
        candidate: The same of the quantised model.
        pairs: (row of the captions, row of the photos).
        captions: The part that holds the captions.
        photos: The part that holds the photos.

    Raises:
        MagicError: `argument_invalid` when parts or shapes differ, a part is empty or holds NaN, or pairs name rows
            that are not there.
    """
    if not reference or reference.keys() != candidate.keys():
        raise _invalid(f"The parts are {sorted(reference)} and {sorted(candidate)}.")
    for name in reference:
        _check(name, reference[name], candidate[name])
    parts = tuple(_compare(name, reference[name], candidate[name]) for name in reference)
    found: tuple[Recall, ...] = ()
    if pairs:
        if missing := {captions, photos} - reference.keys():
            raise _invalid(f"There are pairs, but no part {sorted(missing)[0]}.")
        before, after = (_ranks(vectors[captions], vectors[photos], pairs) for vectors in (reference, candidate))
        found = tuple(Recall(k, float((before < k).mean()), float((after < k).mean())) for k in RECALL_AT)
    return QualityReport(scheme, sample, parts, found, len(pairs))


def _compare(name: str, reference: Floats, candidate: Floats) -> PartQuality:
    cosines = np.einsum("nd,nd->n", _unit(reference), _unit(candidate))
    least = float(cosines.min())
    # One bin at least has a width, even when all cosines are 1.
    counts, edges = np.histogram(cosines, bins=_BINS, range=(min(least, 1 - 1e-6), max(1.0, float(cosines.max()))))
    return PartQuality(
        name,
        len(cosines),
        float(cosines.mean()),
        float(np.percentile(cosines, 1)),
        least,
        _overlap(reference, candidate),
        tuple(edges.tolist()),
        tuple(counts.tolist()),
    )


def _overlap(reference: Floats, candidate: Floats) -> float | None:
    """Return the share of each row's nearest neighbours, itself left out, that both matrices agree on."""
    count = min(NEIGHBOURS, len(reference) - 1)
    if count < 1:
        return None
    shared = 0
    for row in range(len(reference)):
        near = [set(_nearest(vectors, row, count)) for vectors in (reference, candidate)]
        shared += len(near[0] & near[1])
    return shared / (count * len(reference))


def _nearest(vectors: Floats, row: int, count: int) -> list[int]:
    """Return the nearest rows; ties go to the smaller number, as in the SDK."""
    scores = vectors @ vectors[row]
    scores[row] = -np.inf
    nearest: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return nearest


def _ranks(captions: Floats, photos: Floats, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return how many photos come before the right one of each pair."""
    ranks = np.empty(len(pairs), np.int64)
    for place, (caption, photo) in enumerate(pairs):
        if not (0 <= caption < len(captions) and 0 <= photo < len(photos)):
            raise _invalid(f"The pair {caption}, {photo} names a row that is not there.")
        scores = photos @ captions[caption]
        ranks[place] = (scores > scores[photo]).sum() + (scores[:photo] == scores[photo]).sum()
    return ranks


def _unit(vectors: Floats) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _check(name: str, reference: Floats, candidate: Floats) -> None:
    if reference.ndim != 2 or not reference.size or reference.shape != candidate.shape:
        raise _invalid(f"The vectors of {name} have the shapes {reference.shape} and {candidate.shape}.")
    for vectors in (reference, candidate):
        if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
            raise _invalid(f"The vectors of {name} hold NaN, infinity or a zero vector.")


def _invalid(message: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, message, "Compare vectors of the same items from both models.")
