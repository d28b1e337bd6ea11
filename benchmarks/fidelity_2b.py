"""How far the vectors of a lowered model are from those of its float32 graphs, stage by stage.

The weights are random: noise grows through 28 random layers as it would not through trained ones, and a photo has no
meaning that would hold the vector in place. Figures of trained weights come from the report of an export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from variants_2b import FLOAT32, Floats, Workshop, language_inputs, photo

BEFORE, AFTER, QUERY = 16, 10, 16
"""Tokens of the prompt in front of and behind the visual ones, and of a text query."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosines to the float32 graphs: mean and minimum.

    Attributes:
        visual: Of visual tokens.
        language: Of photo vectors, both language graphs reading the float32 visual tokens.
        text: Of vectors of text queries.
        whole: Of photo vectors, pixels to vector.
    """

    visual: tuple[float, float]
    language: tuple[float, float]
    text: tuple[float, float]
    whole: tuple[float, float]


def fidelities(workshop: Workshop, names: Sequence[str], threads: int, photos: int = 4) -> dict[str, Fidelity]:
    """Run photos and texts through each variant and through float32, one session at a time."""
    side = workshop.config.vision.image_size
    pixels = [photo(side, seed) for seed in range(photos)]
    tables = np.random.default_rng(2).integers(0, workshop.config.language.vocab_size, (photos, BEFORE + AFTER + QUERY))
    rows = _token_rows(workshop, tables)
    visual, language = {}, {}
    for name in (FLOAT32, *names):
        session = workshop.session(name, "vision", threads)
        visual[name] = [session.run({"pixels": one})[0] for one in pixels]
        del session
    for name in (FLOAT32, *names):
        session = workshop.session(name, "language", threads)

        def vectors(sequences: list[Floats], session=session) -> Floats:  # type: ignore[no-untyped-def] # noqa: ANN001
            inputs = (language_inputs(workshop.config, sequence[None]) for sequence in sequences)
            return np.concatenate([session.run(one) for one in inputs])

        texts = vectors([row[BEFORE + AFTER :] for row in rows])
        same = vectors(_around(rows, visual[FLOAT32]))
        language[name] = texts, same, vectors(_around(rows, visual[name])) if name != FLOAT32 else same
        del session, vectors
    found = {}
    for name in names:
        (texts, same, whole), (texts32, same32, _) = language[name], language[FLOAT32]
        seen, seen32 = np.concatenate(visual[name]), np.concatenate(visual[FLOAT32])
        pairs = ((seen, seen32), (same, same32), (texts, texts32), (whole, same32))
        found[name] = Fidelity(*(_cosines(left, right) for left, right in pairs))
    return found


def _around(rows: Floats, visual: Sequence[Floats]) -> list[Floats]:
    return [
        np.concatenate([row[:BEFORE], tokens, row[BEFORE : BEFORE + AFTER]])
        for row, tokens in zip(rows, visual, strict=True)
    ]


def _token_rows(workshop: Workshop, ids: NDArray[np.int64]) -> Floats:
    """Return rows of the token table [..., dim], which all our recipes have in common."""
    count, dim = workshop.config.language.vocab_size, workshop.config.dim
    file = np.memmap(workshop.bundle(FLOAT32) / "tokens.bin", np.uint8, "r")
    codes = file[: count * dim].view(np.int8).reshape(count, dim)
    scales = file[-4 * count :].view("<f4")
    found: Floats = codes[ids].astype(np.float32) * scales[ids][..., None]
    return found


def _cosines(left: Floats, right: Floats) -> tuple[float, float]:
    """Return mean and minimum over rows."""
    both = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    found = (left * right).sum(1, dtype=np.float64) / both
    return float(found.mean()), float(found.min())
