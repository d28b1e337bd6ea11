"""Queries to bundles that both languages answer: texts in many scripts, pictures of many shapes, and pairs of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools import image_cases, text_cases

Json = dict[str, Any]

QUERIES = (
    "a dog running on the beach at sunset",
    "two people drinking coffee",
    "a red car in front of a house",
    "snowy mountains under a blue sky",
    "a page of printed text",
    "birthday cake with candles",
    "a cat",
    "fireworks at night",
)


class Queries:
    """Cases of an `embed.json`."""

    def __init__(self) -> None:
        """Begin without any."""
        self.cases: list[Json] = []

    def add(self, name: str, **given: Any) -> None:
        """Add one query."""
        self.cases.append({"name": name, "input": given})

    def add_bundle(self, label: str, path: Path, texts: dict[str, str]) -> None:
        """Add every text, every picture, and pairs of both, to a bundle."""
        bundle = str(path)
        images = {name: image_cases.picture(rgb) for name, rgb in pictures().items()}
        for name, text in texts.items():
            self.add(f"{label}: text {name}", operation="query", bundle=bundle, text=text)
        for name, image in images.items():
            self.add(f"{label}: photo {name}", operation="query", bundle=bundle, image=image)
        for (name, image), text in zip(images.items(), texts.values(), strict=False):
            self.add(f"{label}: composed {name}", operation="query", bundle=bundle, image=image, text=text)
        self.add(f"{label}: many photos", operation="photos", bundle=bundle, images=[*images.values()] * 3)

    def write(self, folder: Path) -> Path:
        """Write the file that the runners read."""
        path = folder / "embed.json"
        path.write_text(json.dumps({"schema": 1, "cases": self.cases}), encoding="utf-8")
        return path


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Return pictures of several shapes, with edges, noise and smooth colours."""
    rows, columns = np.mgrid[0:300, 0:420]
    smooth = np.stack([rows % 256, columns % 256, (rows + columns) // 3 % 256], axis=2).astype(np.uint8)
    return {
        "smooth": smooth,
        "portrait": smooth[:, :97],
        "panorama": smooth[:40],
        "edges": image_cases.edges(320, 200),
        "noise": image_cases.noise("photo", 333, 255),
        "small": image_cases.noise("small", 31, 17),
        "one pixel": image_cases.noise("pixel", 1, 1),
        "bands": np.repeat(image_cases.noise("bands", 1, 64), 200, axis=1),
    }


def texts() -> dict[str, str]:
    """Return texts for a bundle with a vocabulary of its own: scripts, accents, queries, one too long and one empty."""
    return {
        **{name: text for name, text in text_cases.SCRIPTS.items() if name in ("arabic", "chinese", "greek", "thai")},
        **{name: text for name, text in text_cases.TEXTS.items() if "longest" in name or "accents" in name},
        **{f"query {number}": text for number, text in enumerate(QUERIES)},
        "long": "a dog on the beach " * 200,
        "empty": " ",
    }
