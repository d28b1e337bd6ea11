"""How many cases of tests/vectors/, the contract between languages, come out alike in Python and in Kotlin?

Python writes the vectors; its column counts the cases that come out the same when they are generated again. Embeddings
have no vectors: the same queries go to the built-in model and to tiny bundles in both languages, on one release of
onnxruntime, and their cosines are compared. Rewrites a section of docs/PARITY.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kotlin_build import BuildError, runner_command
from kotlin_cases import Line, in_kotlin, in_python, runtime_version
from parity_page import markdown_table, write_section
from report import ROOT, Report, parser

sys.path.insert(0, str(ROOT / "tests"))

from magicmm import Bundle
from tiny_bundles import (
    adding_bundle,
    composing_bundle,
    dual_bundle,
    packed_dual_bundle,
    sharing_bundle,
    vision_language_bundle,
)
from tools import embed_queries, generate_vectors, index_cases
from tools.embed_queries import Queries

LEAST_COSINE = 0.99999
VECTORS = generate_vectors.VECTORS
WHAT = {
    "tokenizer.json": "token ids: WordPiece and byte-level BPE",
    "resize.json": "pixels after a resize",
    "views.json": "pixels of the views of a photo",
    "tiling.json": "tiles of a page",
    "quantise.json": "vectors in 8 bits",
    "packed.json": "graphs with packed weights",
    "bundle.json": "bundles, whole and broken",
    "errors.json": "codes and reasons",
    "signals.json": "words of time and place, and what EXIF says to that",
    "search.json": "searches: ties and filters (Kotlin: with 1 and 2 threads)",
    "index_v1.json": "a committed index (Kotlin: with its scan file and without)",
}
"""What the cases of a file are about."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came out alike: cases of one file, by language."""

    what: str
    python: tuple[int, int]
    kotlin: tuple[int, int]
    least_cosine: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether all cases came out alike."""
        return all(same == cases for same, cases in (self.python, self.kotlin))


def main() -> int:
    """Run the program."""
    options = parser(__doc__).parse_args()
    report = Report("conformance", options)
    try:
        command = runner_command()
        with tempfile.TemporaryDirectory() as folder:
            rows = [*vector_rows(command), *embedding_rows(command, Path(folder), options.quick)]
    except BuildError as error:
        sys.stderr.write(f"There is no Kotlin here: {error}\n")
        return 1
    columns = ("cases", "Python", "Kotlin", "least cosine")
    cells = [[row.what, _counted(row.python), _counted(row.kotlin), _cosine(row)] for row in rows]
    report.table("Cases that come out alike", columns, cells)
    for row in rows:
        report.goal(row.what, "all", _counted(row.kotlin), row.is_met)
    if not options.quick:
        write_section("languages", _INTRODUCTION.format(version=runtime_version()) + markdown_table(columns, cells))
    report.finish()
    return 0


def vector_rows(command: list[str]) -> list[Row]:
    """Compare every file of the contract; cases without a result of their own (api.json) belong to no runner."""
    said = Counter[str]()
    same = Counter[str]()
    searches = ("search.json", "index_v1.json")
    lines = in_kotlin(command, "cases", [VECTORS / name for name in WHAT if name not in searches])
    for line in [*lines, *in_kotlin(command, "vectors", [VECTORS])]:
        said[line["file"]] += 1
        same[line["file"]] += is_expected(line, _cases(line["file"])[line["case"]])
    generated = {name: json.loads(text) for name, text in generate_vectors.build().items()}
    generated["index_v1.json"] = index_cases.describe(VECTORS / "index_v1.db")
    rows = []
    for name, what in WHAT.items():
        wanted = _cases(name)
        python = sum(wanted.get(case["name"]) == case for case in generated[name]["cases"])
        rows.append(Row(f"{what} (`{name}`)", (python, len(wanted)), (same[name], said[name])))
    return rows


def is_expected(line: Line, case: dict[str, Any]) -> bool:
    """Whether Kotlin gave a case's result, or failed with its code."""
    if line["file"] == "errors.json":  # Kotlin says whether it knows a code, and what becomes of a skipped photo
        transient = case["expect"].get("is_transient")
        return bool(line["result"]["known"] and line["result"].get("is_transient") == transient)
    return "crashed" not in str(line.get("error")) and all(
        line.get(key) == case.get(other) for key, other in (("result", "expect"), ("error", "error"))
    )


@cache
def _cases(name: str) -> dict[str, dict[str, Any]]:
    cases = json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]
    return {case["name"]: case for case in cases}


def embedding_rows(command: list[str], folder: Path, quick: bool) -> list[Row]:
    """Compare vectors of the built-in model (full runs) and of tiny bundles of every architecture."""
    texts = {"plain": "a red dog", "colon": "photo: blue", "long": "red " * 60, "empty": ""}
    groups: dict[str, Queries] = {}
    if not quick:
        nano = groups["vectors of the built-in model"] = Queries()
        nano.add_bundle("nano", Bundle.default().path, embed_queries.texts())
    tiny = {
        "dual encoder, packed, vision-language": (dual_bundle, packed_dual_bundle, vision_language_bundle),
        "photo and text in one pass, weights shared or not, words added": (
            composing_bundle,
            sharing_bundle,
            adding_bundle,
        ),
    }
    for kinds, makers in tiny.items():
        queries = groups[f"vectors of tiny bundles: {kinds}"] = Queries()
        for make in makers:
            queries.add_bundle(make.__name__, make(folder / f"{make.__name__}.magicmm"), texts)
    return [compared(command, what, queries, folder) for what, queries in groups.items()]


def compared(command: list[str], what: str, queries: Queries, folder: Path) -> Row:
    """Ask both languages; a failure counts as alike when its code is the same."""
    path = queries.write(folder)
    python = {line["case"]: line for line in in_python(path)}
    kotlin = {line["case"]: line for line in in_kotlin(command, "cases", [path])}
    cosines = [
        least_cosine(line["result"], kotlin[name]["result"])
        for name, line in python.items()
        if "result" in line and "result" in kotlin[name]
    ]
    failed = sum("error" in line and line["error"] == kotlin[name].get("error") for name, line in python.items())
    same = sum(cosine >= LEAST_COSINE for cosine in cosines) + failed
    return Row(what, (len(python), len(queries.cases)), (same, len(kotlin)), min(cosines))


def least_cosine(ours: list[Any], theirs: list[Any]) -> float:
    """Return the least cosine between the vectors of one case."""
    a, b = (np.atleast_2d(np.array(vectors)) for vectors in (ours, theirs))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def _counted(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} of {counts[1]:,}"


def _cosine(row: Row) -> str:
    return "exact" if row.least_cosine is None else f"{row.least_cosine:.7f}"


_INTRODUCTION = """## Languages

`python benchmarks/conformance.py` writes this section. The files of `tests/vectors/` are the contract: Python's column
counts the cases that come out the same when they are generated again, Kotlin's those that its runner answers with the
same numbers, bytes and codes. Vectors of bundles are compared by cosine, with both languages on onnxruntime {version},
the newest for the JVM; alike is {least} and more.

""".replace("{least}", str(LEAST_COSINE))


if __name__ == "__main__":
    sys.exit(main())
