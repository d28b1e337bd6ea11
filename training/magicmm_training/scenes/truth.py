"""What truly fits what, by construction: for measuring a judge and graded metrics, never for training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.scenes.splits import Sizes, Split, make_splits

FACTS = "scenes.json"
"""File of a data set that tells how to make its scenes again."""


class Truth:
    """The scenes behind a data set's pairs."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        """Make the scenes again."""
        self._splits = dict(zip(("train", "test"), make_splits(sizes, seed), strict=True))

    @classmethod
    def open(cls, folder: Path | str) -> Truth:
        """Return the truth about a folder of `write_scenes`.

        Raises:
            MagicError: `source_unavailable` when the folder does not say how it was made; `argument_invalid` when this
                program would make other scenes.
        """
        path = Path(folder) / FACTS
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            truth = cls(Sizes(**facts["sizes"]), facts["seed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE, f"{path} cannot be read: {error}.", "Write the scenes again."
            ) from None
        if truth.facts(Sizes(**facts["sizes"]), facts["seed"]) != facts:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"{path} comes from another version.", "Write the scenes again."
            )
        return truth

    def split(self, name: str) -> Split:
        """Return "train" or "test"."""
        return self._splits[name]

    def facts(self, sizes: Sizes, seed: int) -> dict[str, object]:
        """Return what `FACTS` holds: enough to make the scenes again, and to see whether that gave the same."""
        words = [pair.words for split in self._splits.values() for pair in split.captions]
        edits = [edit.words for split in self._splits.values() for edit in split.changes]
        return {"sizes": asdict(sizes), "seed": seed, "last_words": [*words[-1:], *edits[-1:]]}

    def fits(self, data: str, query: str, target: str) -> bool:
        """Whether the positive of a pair fits the query of another (or the same).

        Args:
            data: Name of the pair file without ending, such as "train-t2i".
            query: Id of the pair whose query is meant.
            target: Id of the pair whose positive is meant.
        """
        name, task = data.split("-")
        split, asked, given = self._splits[name], int(query), int(target)
        if task == "t2i":
            return split.captions[asked].statement.holds(split.captions[given].scene)
        if task == "i2t":
            return split.captions[given].statement.holds(split.captions[asked].scene)
        return split.changes[asked].after == split.changes[given].after

    def matrix(self, data: str) -> NDArray[np.bool_]:
        """Return bool [pairs, pairs]: whether the query of a row is fit by the positive of a column."""
        name, task = data.split("-")
        count = len(self._splits[name].changes if task == "it2i" else self._splits[name].captions)
        ids = [pair_id(place) for place in range(count)]
        return np.array([[self.fits(data, query, target) for target in ids] for query in ids])


def pair_id(place: int) -> str:
    """Return the id of a pair by its place in the file."""
    return f"{place:06}"
