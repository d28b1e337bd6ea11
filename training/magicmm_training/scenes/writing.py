"""The data set on disk: pictures, pairs and instruction samples, for training and for test."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.scenes.drawing import png
from magicmm_training.scenes.samples import LOOK_SHARE, looking_samples, matching_samples
from magicmm_training.scenes.splits import Sizes, shown_scenes
from magicmm_training.scenes.truth import FACTS, Truth, pair_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.scenes.questions import Sample
    from magicmm_training.scenes.splits import Split
    from magicmm_training.scenes.world import Scene

    Row = dict[str, Any]

TASKS = {"t2i": "T->I", "i2t": "I->T", "it2i": "IT->I"}
"""Names of the tasks in file names, and their task groups."""


def write_scenes(out: Path | str, sizes: Sizes | None = None, seed: int = 0) -> None:
    """Write the data set.

    Layout of the folder, whose files name pictures relative to it:

    * `train-t2i.jsonl`, `train-i2t.jsonl`, `train-it2i.jsonl`: pairs (format "pairs")
    * `train-look.jsonl`, `train-match.jsonl`: instruction samples (format "instructions")
    * `test-*.jsonl`: pairs of scenes that training does not show, half of them with unseen combinations
    * `scenes.json`: how the scenes were made, for `Truth.open`
    * `pictures/`: PNG files

    Args:
        out: A folder that does not exist yet; written beside it under another name first.
        sizes: How much; by default what the benchmark uses.
        seed: Decides everything.

    Raises:
        MagicError: `argument_invalid` when the folder exists; `storage_failed` when it cannot be written.
    """
    out, sizes = Path(out), sizes or Sizes()
    if out.exists():
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{out} exists already.", "Choose a new folder.")
    staged = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        _Writer(staged, seed).write(sizes)
        staged.rename(out)
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED,
            f"{out} cannot be written: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


class _Writer:
    """Files of one data set."""

    def __init__(self, folder: Path, seed: int) -> None:
        (folder / "pictures").mkdir(parents=True)
        self._folder = folder
        self._seed = seed
        self._pictures = 0

    def write(self, sizes: Sizes) -> None:
        truth = Truth(sizes, self._seed)
        for name in ("train", "test"):
            self._split(name, truth.split(name))
        kept_back = shown_scenes(truth.split("test"))
        random = Random(f"samples {self._seed}")  # noqa: S311, no secrets here

        def allowed(scene: Scene) -> bool:
            return not scene.is_held_out and scene not in kept_back

        looks = round(sizes.samples * LOOK_SHARE)
        for name, samples in (
            ("train-look", looking_samples(looks, random, allowed)),
            ("train-match", matching_samples(sizes.samples - looks, random, allowed)),
        ):
            self._rows(name, [self._conversation(place, one) for place, one in enumerate(samples)])
        facts = json.dumps(truth.facts(sizes, self._seed), indent=1)
        (self._folder / FACTS).write_text(facts + "\n", encoding="utf-8")

    def _split(self, name: str, split: Split) -> None:
        both = [({"text": pair.words}, {"image": self._picture(pair.scene)}) for pair in split.captions]
        self._pairs(f"{name}-t2i", both)
        self._pairs(f"{name}-i2t", [(picture, words) for words, picture in both])
        before = {scene: self._picture(scene) for scene in dict.fromkeys(edit.before for edit in split.changes)}
        self._pairs(
            f"{name}-it2i",
            [
                ({"text": edit.words, "image": before[edit.before]}, {"image": self._picture(edit.after)})
                for edit in split.changes
            ],
        )

    def _pairs(self, name: str, sides: Sequence[tuple[Row, Row]]) -> None:
        rows = [
            {"id": pair_id(place), "query": query, "positive": positive}
            for place, (query, positive) in enumerate(sides)
        ]
        self._rows(name, rows)

    def _conversation(self, place: int, sample: Sample) -> Row:
        images = [self._picture(scene) for scene in sample.scenes]
        turns = [
            {"from": speaker, "value": words}
            for exchange in sample.exchanges
            for speaker, words in zip(("human", "gpt"), exchange, strict=True)
        ]
        return {"id": f"{place:06}", "images": images, "conversations": turns}

    def _picture(self, scene: Scene) -> str:
        """Write a new picture of a scene; no two pictures look the same."""
        name = f"pictures/{self._pictures:06}.png"
        (self._folder / name).write_bytes(png(scene, f"{self._seed} {self._pictures}"))
        self._pictures += 1
        return name

    def _rows(self, name: str, rows: Sequence[Row]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self._folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
