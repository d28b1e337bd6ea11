"""Is `Results.confidence` honest? How well does it tell searches whose subject is there from others?

Judges the bundle's calibration on `held_out` photos: for each query, libraries of 50 to 400 photos that have photos
that fit it, and as many that lack them. A confidence is right when the first photo of a library fits in that share of
cases. Absent queries and present ones weigh the same.

    python benchmarks/confidence.py --fit --write sdk/python/magicmm/bundles/nano.magicmm

compares ways to tell on development data alone, fits the constants of the one in use, writes them for the exporter
(export/magicmm_export/nano/confidence.json) and into the manifest of a bundle. To be run for every new model.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confidence_cases import SIZES, Case, World, crowded, development, draw, held_out
from magicmm.bundle import MANIFEST_NAME
from magicmm.confidence import confidence
from magicmm.embedder import Embedder
from magicmm.manifest import ConfidenceSpec
from report import ROOT, Report, parser

CONSTANTS = ROOT / "export" / "magicmm_export" / "nano" / "confidence.json"
QUANTILE = 0.7
"""Chosen on development data: a higher one tells a little better where few photos fit, and fails where many do."""
WRONG_WARNINGS = 0.1
"""The threshold warns of at most this share of the searches whose first photo fits."""
THRESHOLDS = (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)
CROWDS = (0.05, 0.1, 0.2)
"""Shares of a library that fit a query."""
FOLDS = 5
ROUNDS = 4
BOOTSTRAPS = 500
BINS = 10

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cases:
    """Drawn cases, side by side.

    Attributes:
        cases: What was drawn.
        right: bool [n]: the first photo fits.
        present: bool [n]: photos that fit are in the library.
        photos: int [n]: size of the library.
        group: int [n]: the query; cases of one query are never in two folds.
        weight: float [n], mean 1: every world counts the same, and in it present and absent queries.
    """

    cases: Sequence[Case]
    right: NDArray[np.bool_]
    present: NDArray[np.bool_]
    photos: NDArray[np.int64]
    group: NDArray[np.int64]
    weight: Array

    @classmethod
    def of(cls, worlds: Sequence[World], rounds: int, crowd: float = 0) -> Cases:
        """Draw."""
        rng = np.random.default_rng(0)
        drawn = [list(draw(world, rounds, rng, crowd)) for world in worlds]
        # Worlds with the same queries share their groups.
        offsets = {len(world.queries): 1000 * place for place, world in enumerate(worlds)}
        cases = [case for some in drawn for case in some]
        present = np.array([case.is_present for case in cases])
        group = [offsets[len(w.queries)] + case.query for w, some in zip(worlds, drawn, strict=True) for case in some]
        world = np.repeat(np.arange(len(drawn)), [len(some) for some in drawn])
        counts = np.bincount(2 * world + present, minlength=2 * len(drawn))
        return cls(
            cases,
            np.array([case.is_right for case in cases]),
            present,
            np.array([len(case.scores) for case in cases]),
            np.array(group),
            len(cases) / (2 * len(drawn)) / counts[2 * world + present],
        )


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    embedder = Embedder.open(options.bundle, threads=2)
    report = Report("confidence_fit" if options.fit else "confidence", options)
    rounds = 1 if options.quick else ROUNDS
    if options.fit:
        spec = fit(report, embedder, rounds, 0 if options.quick else 8)
        if not options.quick:
            write_section(CONSTANTS, lambda _: asdict(spec))
        if options.write is not None:
            write_section(options.write / MANIFEST_NAME, lambda manifest: with_confidence(manifest, spec))
    else:
        judge(report, embedder, rounds)
    report.finish()
    return 0


def build_parser() -> Any:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    found.add_argument("--fit", action="store_true", help="fit the constants on development data")
    found.add_argument(
        "--write", type=Path, metavar="BUNDLE", help="with --fit: write them into this bundle's manifest"
    )
    return found


# -- choosing and fitting ------------------------------------------------------------------------------------------


def excess(quantile: float) -> Callable[[Case], float]:
    """Return the feature in use: the best score above a quantile of all scores."""
    return lambda case: float(case.scores.max() - np.quantile(case.scores, quantile))


def deviations(case: Case) -> float:
    """Return the best score in standard deviations above the mean."""
    return float((case.scores.max() - case.scores.mean()) / case.scores.std())


def gap(case: Case) -> float:
    """Return the distance of the first from the fifth."""
    best = np.partition(case.scores, -5)[-5:]
    return float(best.max() - best.min())


CANDIDATES: dict[str, Callable[[Case], float]] = {
    "cosine of the first": lambda case: float(case.scores.max()),
    "deviations above the mean": deviations,
    "gap to the fifth": gap,
    **{f"excess over the {share:.0%} quantile": excess(share) for share in (0.5, 0.6, 0.7, 0.8, 0.9)},
}


def fit(report: Report, embedder: Embedder, rounds: int, crops: int) -> ConfidenceSpec:
    """Compare candidates and fit the one in use; all on development data."""
    worlds = development(embedder)
    few = Cases.of(worlds, rounds)
    crowds = [Cases.of([crowded(embedder, crops)], rounds, share) for share in CROWDS] if crops else []
    rows: list[list[object]] = []
    for name, feature in CANDIDATES.items():
        seen = features(few, feature)
        guess = cross_validated(few, seen)
        whole = logistic(seen, few.right, few.weight)
        many = [logits(features(some, feature), whole) for some in crowds]
        cells = [auc(some.right, guessed, some.weight) for some, guessed in zip(crowds, many, strict=True)]
        rows.append([name, *spreads(few, guess, (weighted_auc, log_loss)), *cells])
    crowded_columns = [f"{share:.0%} fit" for share in CROWDS[: len(crowds)]]
    columns = ["besides the logarithm of the photos", "AUC", "log-loss", *crowded_columns]
    report.table("development, cross-validated by query; AUC where many photos fit (crops)", columns, rows)
    seen = features(few, excess(QUANTILE))
    guess = cross_validated(few, seen)
    report_sizes(report, few, guess)
    report_thresholds(report, "development, cross-validated", few, guess)
    intercept, slope, log_photos = (round(float(number), 4) for number in logistic(seen, few.right, few.weight))
    steps = np.arange(101) / 100
    warned = [_rate(guess[few.right] < step, few.weight[few.right]) for step in steps]
    threshold = float(steps[np.flatnonzero(np.array(warned) <= WRONG_WARNINGS).max()])
    spec = ConfidenceSpec(QUANTILE, intercept, slope, log_photos, min(SIZES), threshold)
    report.table("constants", list(asdict(spec)), [[str(value) for value in asdict(spec).values()]])
    return spec


def features(cases: Cases, feature: Callable[[Case], float]) -> Array:
    """Return [n, 3]: one, the feature, and the logarithm of the photos."""
    return np.stack([np.ones(len(cases.cases)), [feature(case) for case in cases.cases], np.log(cases.photos)], axis=1)


def logistic(seen: Array, right: NDArray[np.bool_], weight: Array) -> Array:
    """Return the weighted maximum-likelihood coefficients [m], by Newton's method."""
    found = np.zeros(seen.shape[1])
    for _ in range(50):
        guess = logits(seen, found)
        slope = seen.T @ (weight * (right - guess))
        curve = (seen * (weight * guess * (1 - guess))[:, None]).T @ seen
        step = np.linalg.solve(curve + 1e-6 * np.eye(len(found)), slope)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    return found


def logits(seen: Array, found: Array) -> Array:
    """Return probabilities [n]."""
    probability: Array = 0.5 * (1 + np.tanh(0.5 * (seen @ found)))
    return probability


def cross_validated(cases: Cases, seen: Array) -> Array:
    """Return probabilities [n], each from queries of other folds."""
    folds = np.random.default_rng(1).integers(0, FOLDS, cases.group.max() + 1)[cases.group]
    guess = np.empty(len(folds))
    for fold in range(FOLDS):
        out = folds == fold
        guess[out] = logits(seen[out], logistic(seen[~out], cases.right[~out], cases.weight[~out]))
    return guess


# -- judging -------------------------------------------------------------------------------------------------------


def judge(report: Report, embedder: Embedder, rounds: int) -> None:
    """Judge the constants that a bundle ships, on photos that nothing was chosen on."""
    spec = embedder.bundle.manifest.confidence
    if spec is None:
        raise SystemExit("This bundle has no calibration: run with --fit first.")
    cases = Cases.of(held_out(embedder), rounds)
    guess = np.array([_confidence(spec, case) for case in cases.cases])
    names = ("AUC", "Brier score", "Brier score of the base rate", "calibration error", "log-loss")
    cells = spreads(cases, guess, (weighted_auc, brier, base_brier, calibration_error, log_loss))
    title = f"held out: {len(cases.cases):,} searches; the first photo fits in {_rate(cases.right, cases.weight):.3f}"
    report.table(title, ["", "value (95 %)"], [list(row) for row in zip(names, cells, strict=True)])
    report_bins(report, cases, guess)
    report_sizes(report, cases, guess)
    report_thresholds(report, "held out", cases, guess, spec.threshold)


def _confidence(spec: ConfidenceSpec, case: Case) -> float:
    photos = len(case.scores)
    found = confidence(spec, float(case.scores.max()), case.scores, photos, photos)
    if found is None:
        raise ValueError(f"{photos} photos are fewer than the bundle's least library")
    return found


def report_bins(report: Report, cases: Cases, guess: Array) -> None:
    """Compare what was said with what was so."""
    rows: list[list[object]] = []
    for low in np.arange(BINS) / BINS:
        inside = (guess >= low) & (guess < low + 1 / BINS)
        if inside.any():
            said, so = _rate(guess[inside], cases.weight[inside]), _rate(cases.right[inside], cases.weight[inside])
            rows.append([f"{low:.1f} to {low + 1 / BINS:.1f}", int(inside.sum()), said, so])
    report.table("confidence and truth", ["confidence", "searches", "said", "true"], rows)


def report_sizes(report: Report, cases: Cases, guess: Array) -> None:
    """Say whether confidence drifts with the size of the library."""
    rows: list[list[object]] = []
    for low, high in zip((0, *SIZES[:-1]), SIZES, strict=True):
        inside = (cases.photos > low) & (cases.photos <= high)
        if inside.any():
            said, so = _rate(guess[inside], cases.weight[inside]), _rate(cases.right[inside], cases.weight[inside])
            tells = auc(cases.right[inside], guess[inside], cases.weight[inside])
            rows.append([f"{low + 1} to {high}", int(inside.sum()), said, so, tells])
    report.table("by photos in the library", ["photos", "searches", "said", "true", "AUC"], rows)


def report_thresholds(report: Report, title: str, cases: Cases, guess: Array, shipped: float | None = None) -> None:
    """Say what a warning below each threshold gets right and wrong."""
    groups = {"absent": ~cases.present, "present": cases.present, "first photo fits": cases.right}
    rows = []
    for threshold in sorted({*THRESHOLDS, *([] if shipped is None else [shipped])}):
        cells = [_rate(guess[some] < threshold, cases.weight[some]) for some in groups.values()]
        rows.append([f"{threshold:.2f}{' (shipped)' if threshold == shipped else ''}", *cells])
    report.table(f"{title}: share warned of below a threshold", ["threshold", *groups], rows)


# -- measures ------------------------------------------------------------------------------------------------------

Measure = Callable[[NDArray[np.bool_], Array, Array], float]
"""Takes what was true, what was said, and weights."""


def auc(right: NDArray[np.bool_], guess: Array, weight: Array) -> float:
    """Return the weighted probability that a right case was given more than a wrong one; equal ones count half."""
    values, place = np.unique(guess, return_inverse=True)
    of_right = np.bincount(place, weight * right, len(values))
    of_wrong = np.bincount(place, weight * ~right, len(values))
    below = np.cumsum(of_wrong) - of_wrong / 2
    return float(of_right @ below / (of_right.sum() * of_wrong.sum()))


weighted_auc: Measure = auc


def log_loss(right: NDArray[np.bool_], guess: Array, weight: Array) -> float:
    """Return the mean negative log-likelihood."""
    return _rate(-np.log(np.where(right, guess, 1 - guess)), weight)


def brier(right: NDArray[np.bool_], guess: Array, weight: Array) -> float:
    """Return the mean squared error."""
    return _rate((guess - right) ** 2, weight)


def base_brier(right: NDArray[np.bool_], guess: Array, weight: Array) -> float:
    """Return the squared error of always saying the base rate."""
    return brier(right, np.full(len(guess), _rate(right, weight)), weight)


def calibration_error(right: NDArray[np.bool_], guess: Array, weight: Array) -> float:
    """Return the expected difference between what was said and what was true, in ten bins of equal width."""
    place = np.minimum((guess * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, weight * (guess - right), BINS)).sum() / weight.sum())


def spreads(cases: Cases, guess: Array, measures: Sequence[Measure]) -> list[str]:
    """Return each measure with its 95 % spread over queries (bootstrap)."""
    rng = np.random.default_rng(0)
    _, group = np.unique(cases.group, return_inverse=True)
    groups = int(group.max()) + 1
    drawn = []
    for _ in range(BOOTSTRAPS):
        weight = cases.weight * np.bincount(rng.integers(groups, size=groups), minlength=groups)[group]
        drawn.append([measure(cases.right, guess, weight) for measure in measures])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    values = [measure(cases.right, guess, cases.weight) for measure in measures]
    return [f"{value:.3f} ({a:.3f} to {b:.3f})" for value, a, b in zip(values, low, high, strict=True)]


def _rate(values: NDArray[Any], weight: Array) -> float:
    return float(np.average(values, weights=weight))


# -- writing -------------------------------------------------------------------------------------------------------


def with_confidence(manifest: dict[str, Any], spec: ConfidenceSpec) -> dict[str, Any]:
    """Return a manifest with the section, before the list of files."""
    rest = {key: value for key, value in manifest.items() if key != "confidence"}
    golden = {key: rest.pop(key) for key in ("golden", "files")}
    return {**rest, "confidence": asdict(spec), **golden}


def write_section(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a JSON file anew, aside first."""
    content = change(json.loads(path.read_text("utf-8")) if path.exists() else {})
    aside = path.with_name(path.name + ".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
