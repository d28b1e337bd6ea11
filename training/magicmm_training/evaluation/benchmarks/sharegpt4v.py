"""ShareGPT4V-1K: the first 1,000 rows of its captions, searched in both directions; long texts."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.json_rows import unreadable
from magicmm_training.data.rows import Row
from magicmm_training.evaluation.benchmarks.reading import BenchmarkPictures, Options
from magicmm_training.evaluation.benchmarks.two_way import Captioned, two_way_tasks
from magicmm_training.evaluation.task import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magicmm_training.entries import ImageSource
    from magicmm_training.evaluation.task import EvaluationTask
    from magicmm_training.recipe import Benchmark

FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
ROWS = 1000
_CHUNK = 1 << 20


def open_sharegpt4v(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the rows; the path is the file or its folder, pictures lie below the folder.

    Options: `partial` (accept a file of fewer rows).

    Raises:
        MagicError: `argument_invalid` for an unknown option.
    """
    options = Options(benchmark, {"partial": False})
    path = root / benchmark.path
    file = path / FILE if path.is_dir() else path
    pictures = BenchmarkPictures(file.parent, file.parent)
    expected = None if options.flag("partial") else (ROWS, ROWS)
    return two_way_tasks(benchmark.name, "", partial(_load, file, pictures), "ShareGPT4V", expected=expected)


def first_values(file: Path, count: int) -> Iterator[Any]:
    """Give the first values of a JSON list without reading the rest: the whole has more than a gigabyte.

    Raises:
        MagicError: `source_unavailable` when the file cannot be read, `text_invalid` when it holds no list.
    """
    decoder = json.JSONDecoder()
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_CHUNK).lstrip()
            if not text.startswith("["):
                raise _no_list(file)
            text = text[1:]
            for _ in range(count):
                text = text.lstrip(" \t\r\n,")
                while True:
                    try:
                        value, end = decoder.raw_decode(text)
                        break
                    except ValueError:
                        more = stream.read(_CHUNK)
                        if not more:
                            if text.lstrip(" \t\r\n,").startswith("]"):
                                return
                            raise _no_list(file) from None
                        text = (text + more).lstrip(" \t\r\n,")
                yield value
                text = text[end:]
    except OSError as error:
        raise unreadable(file, error) from None
    except UnicodeDecodeError:
        raise _no_list(file) from None


def _load(file: Path, pictures: BenchmarkPictures) -> Captioned:
    ids: list[str] = []
    images: list[ImageSource] = []
    captions: list[tuple[str, int]] = []
    for number, value in enumerate(first_values(file, ROWS), 1):
        row = Row(value if isinstance(value, dict) else {}, file.name, number)
        turns = row.required("conversations")
        if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[1], dict):
            raise row.fault("conversations", "has no second turn")
        caption = row.as_text("conversations[1].value", turns[1].get("value"))
        if caption is None or not caption.strip():
            raise row.fault("conversations[1].value", "is empty")
        captions.append((" ".join(caption.split("\n")), len(ids)))
        images.append(pictures.of(row, "image", row.required("image")) or MISSING)
        ids.append(f"{number}:{row.required('image')}")
    return Captioned(tuple(ids), tuple(images), tuple(captions))


def _no_list(file: Path) -> MagicError:
    return MagicError(ErrorCode.TEXT_INVALID, f"{file} holds no JSON list of rows.", "Download it again.")
