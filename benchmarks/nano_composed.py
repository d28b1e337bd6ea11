"""Does one pass over photo and words find better than adding both vectors, as the concept bank did?

Written queries and rendered pairs of `composed_sets.py`; nothing was chosen on the held-out ones. The concept bank adds
the vector of the words, times a weight, to that of the photo (late fusion). It shipped with weight 1, and gets the
weight that is best for it on each set, too. The photo of a query does not count as an answer.

    make nano-references      # the concept bank and other seeds, in build/
    python benchmarks/nano_composed.py
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from composed_sets import ComposedSet, real_queries, rendered_pairs
from magicmm.embedder import Embedder
from nano_quality import METRICS, fetch_stamps, hits, spread, useful_stamps
from nano_vectors import bundle_parser, bundles, photo_vectors, text_vectors
from report import Report

Array = NDArray[np.float32]
WEIGHTS = (0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
SHIPPED = 1.0
GAIN = 0.08
"""By which R@1 shall exceed that of the concept bank."""


def main() -> int:
    """Run the benchmark."""
    options = bundle_parser(__doc__).parse_args()
    report = Report("nano_composed", options)
    models = bundles(options.bundle)
    stamps = [path for path, _ in useful_stamps(fetch_stamps())]
    for name in ("development",) if options.quick else ("held_out", "development"):
        for found in (real_queries(name), rendered_pairs(name, stamps)):
            measure(report, found, models)
    report.finish()
    return 0


def measure(report: Report, found: ComposedSet, models: dict[str, Embedder]) -> None:
    """Rank all photos for every query, by every bundle and way to ask."""
    rows: dict[str, Array] = {}
    for name in ("concept bank", "nano", *(key for key in models if "seed" in key or "float" in key)):
        if name not in models:
            continue
        model = models[name]
        held, asked = photo_vectors(model, found.photos), photo_vectors(model, found.asked)
        words = text_vectors(model, found.words)
        if name in ("concept bank", "nano"):
            for weight in WEIGHTS:
                rows[f"{name}, late fusion, words x {weight}"] = answered(asked + weight * words, held, found)
        if "composed" in model.bundle.manifest.graphs["onnx"]:
            both = np.stack(
                [model.embed_query(text, path) for text, path in zip(found.words, found.asked, strict=True)]
            )
            rows[f"{name}, one pass"] = answered(both, held, found)
    title = f"{found.name.replace('_', ' ')}: {len(found.words)} queries, {len(found.photos)} photos"
    table = [[name, *(spread(column) for column in values.T)] for name, values in rows.items()]
    report.table(f"{title}; mean (95 % by bootstrap over queries)", ["query", *METRICS], table)
    late = {weight: rows.get(f"concept bank, late fusion, words x {weight}") for weight in WEIGHTS}
    one_pass, shipped = rows.get("nano, one pass"), late[SHIPPED]
    if one_pass is None or shipped is None:
        return
    best = max(
        (values for values in late.values() if values is not None), key=lambda values: float(values[:, 0].mean())
    )
    paired = {"its shipped weight": one_pass - shipped, "its best weight": one_pass - best}
    table = [
        [f"nano less concept bank, {name}", *(spread(column, True) for column in gain.T)]
        for name, gain in paired.items()
    ]
    report.table(f"{title}: paired difference", ["", *METRICS], table)
    for name, gain in paired.items():
        better = float(gain[:, 0].mean())
        title = f"{found.name.replace('_', ' ')}, R@1 against late fusion of the concept bank, {name}"
        report.goal(title, f"+{GAIN}", f"{better:+.3f}", better >= GAIN)


def answered(queries: Array, held: Array, found: ComposedSet) -> Array:
    """Return hits [queries, 4] of queries of any length."""
    scores = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ held.T
    for row, place in enumerate(found.itself):
        if place >= 0:
            scores[row, place] = -2
    return hits(scores, found.right)


if __name__ == "__main__":
    sys.exit(main())
