"""COCO and Flickr30K in Karpathy's split: R@1, R@5 and R@10 in both directions.

Read are `dataset_coco.json` and `dataset_flickr30k.json` as he published them, or parquet with a picture and its list
of captions a row (`image`, `text`). COCO is searched whole ("5k") and in five parts of 1,000 pictures in the order of
the file ("1k": mean over the parts). The first five captions of a picture count; COCO has a few with more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.files import open_rows, source_files
from magicmm_training.data.rows import Row
from magicmm_training.evaluation.benchmarks.reading import BenchmarkPictures, Options, read_json
from magicmm_training.evaluation.benchmarks.two_way import Captioned, two_way_tasks
from magicmm_training.evaluation.task import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magicmm_training.entries import ImageSource
    from magicmm_training.evaluation.task import EvaluationTask
    from magicmm_training.recipe import Benchmark

CAPTIONS = 5
"""Of each picture."""
FOLDS = 5
_SIZES = {"coco": (5000, 25000), "flickr30k": (1000, 5000)}
"""Pictures and captions of the test split."""
_ROWS = {"coco": "MSCOCO", "flickr30k": "Flickr30K"}
"""Of the paper's table."""


def open_karpathy(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open one of the two data sets.

    Options: `dataset` ("coco" or "flickr30k"), `split`, `images` (folder of the pictures below the benchmark's),
    `partial` (accept other numbers of pictures than the published ones).

    Raises:
        MagicError: `argument_invalid` for an unknown option or data set, `source_unavailable` without files.
    """
    options = Options(benchmark, {"dataset": "coco", "split": "test", "images": "", "partial": False})
    dataset = options.choice("dataset", tuple(_SIZES))
    path = root / benchmark.path
    folder = path if path.is_dir() else path.parent
    file = folder / f"dataset_{dataset}.json" if path.is_dir() else path
    pictures = BenchmarkPictures(folder / options.text("images"), folder)
    split = options.text("split")
    load: Callable[[], Captioned]
    if file.suffix == ".json" and file.is_file():
        load = partial(_from_json, file, split, pictures)
    else:
        load = partial(_from_rows, source_files(path, split, (".parquet", ".jsonl")), pictures)
    partly = options.flag("partial")
    expected = None if partly else _SIZES[dataset]
    if dataset != "coco":
        return two_way_tasks(benchmark.name, "", load, _ROWS[dataset], expected=expected)
    # Of fewer pictures, neither name would be true.
    whole, parts = ("whole", "five parts") if partly else ("5k", "1k")
    return (
        *two_way_tasks(benchmark.name, whole, load, _ROWS[dataset], expected=expected),
        *two_way_tasks(benchmark.name, parts, load, _ROWS[dataset], FOLDS, expected),
    )


def _from_json(file: Path, split: str, pictures: BenchmarkPictures) -> Captioned:
    value = read_json(file)
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        raise MagicError(ErrorCode.TEXT_INVALID, f"{file} has no list of images.", "Give Karpathy's dataset_*.json.")
    reading = _Reading(pictures)
    for number, image in enumerate(images, 1):
        row = Row(image if isinstance(image, dict) else {}, file.name, number)
        if row.required("split") != split:
            continue
        name = row.required("filename")
        path = f"{image['filepath']}/{name}" if image.get("filepath") else name
        sentences = row.required("sentences")
        if not isinstance(sentences, list) or not all(isinstance(each, dict) for each in sentences):
            raise row.fault("sentences", "is no list of objects")
        reading.add(row, str(row.required("imgid")), path, [each.get("raw") for each in sentences])
    return reading.captioned(file, split)


def _from_rows(files: list[Path], pictures: BenchmarkPictures) -> Captioned:
    rows = open_rows(files, ("image", "text"), ())
    reading = _Reading(pictures)
    for place in range(len(rows)):
        row = rows[place]
        texts = row.required("text")
        if not isinstance(texts, list):
            raise row.fault("text", "is no list of captions")
        reading.add(row, str(place), row.values.get("image"), texts)
    return reading.captioned(files[0], "test")


class _Reading:
    """Pictures and captions as they come in; captions point to their picture's place."""

    def __init__(self, pictures: BenchmarkPictures) -> None:
        self._pictures = pictures
        self._images: dict[str, ImageSource] = {}
        self._captions: list[tuple[str, int]] = []
        self._dropped = 0

    def add(self, row: Row, image_id: str, image: Any, captions: list[Any]) -> None:
        if image_id in self._images:
            raise row.fault("imgid", f"{image_id} is there twice")
        place = len(self._images)
        self._images[image_id] = self._pictures.of(row, "image", image) or MISSING
        self._dropped += max(len(captions) - CAPTIONS, 0)
        for number, caption in enumerate(captions[:CAPTIONS]):
            text = row.as_text(f"captions[{number}]", caption)
            if text is None or not text.strip():
                raise row.fault(f"captions[{number}]", "is empty")
            self._captions.append((text, place))

    def captioned(self, file: Path, split: str) -> Captioned:
        """Return all of it.

        Raises:
            MagicError: `argument_invalid` when the split is empty.
        """
        if not self._images:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{file} has no pictures of split {split!r}.", "Name another.")
        return Captioned(
            tuple(self._images),
            tuple(self._images.values()),
            tuple(self._captions),
            {"captions_beyond_the_fifth": self._dropped},
        )
