"""Queries to bundles on this machine, answered by Python as the Kotlin runner answers them: one JSON line a case.

python tests/tools/embed_cases.py embed.json
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from magicmm.embedder import Embedder
from magicmm.errors import MagicError
from tools.image_cases import pixels_of

Json = dict[str, Any]


@cache
def _embedder(bundle: str) -> Embedder:
    return Embedder.open(bundle, threads=1)


def run(given: Json) -> Any:
    """Return the vector of a case, or several of them."""
    embedder = _embedder(given["bundle"])
    if given["operation"] == "query":
        image = pixels_of(given["image"]) if "image" in given else None
        return embedder.embed_query(given.get("text"), image, truncate=True).tolist()
    if given["operation"] == "document":
        return embedder.embed_image(pixels_of(given["image"]), given["role"]).tolist()
    if given["operation"] == "photos":
        return embedder.embed_images([pixels_of(entry) for entry in given["images"]]).tolist()
    raise ValueError(f"unknown operation {given['operation']}")


def lines(path: Path) -> list[Json]:
    """Run all cases of a file."""
    found = []
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        line: Json = {"file": path.name, "case": case["name"]}
        try:
            line["result"] = run(case["input"])
        except MagicError as error:
            line["error"] = error.code.value
        found.append(line)
    return found


if __name__ == "__main__":
    for row in lines(Path(sys.argv[1])):
        sys.stdout.write(json.dumps(row) + "\n")
