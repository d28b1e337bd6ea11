"""What a model is calibrated and judged on: the user's own photos and captions, read from a folder, offline."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError, PhotoSkipped, SkipReason
from magicmm.image import decode_photo
from magicmm.reading import read_photo
from magicmm.sources import EXTENSIONS
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tiling import photo_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer

CAPTION_FILES = ("captions.txt", "captions.jsonl")
"""In the folder itself: one caption a line; or objects with `caption` and, if it belongs to a photo, `image`."""
_MOST_CAPTION_BYTES = 16 << 20
_CHECKED_SIDE = 896
"""Photos are decoded no larger than this needs when they are checked."""
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Samples:
    """Photos and captions.

    Attributes:
        photos: Paths, or uint8 [h, w, 3] of synthetic ones.
        captions: Texts, those of `pairs` first.
        skipped: What was not taken, and why; duplicates are named `duplicate`.
        pairs: (place in `captions`, place in `photos`) of captions that belong to a photo.
        synthetic: Made here, so that they say nothing of anyone's photos.
    """

    photos: tuple[Path | NDArray[np.uint8], ...]
    captions: tuple[str, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    synthetic: bool = False

    def describe(self) -> str:
        """Return one line for reports."""
        what = f"{len(self.photos)} photos and {len(self.captions)} captions"
        return f"{what}, SYNTHETIC: say nothing of real photos" if self.synthetic else f"{what} of the user"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Samples as the model reads them.

    Attributes:
        tiles: For each photo, uint8 [tiles, side, side, 3].
        prompts: Token ids of each sequence: those of the photos (role `photo`), then of the captions (role `query`).
        context: The id that stands where a visual token belongs.
    """

    tiles: tuple[Tensor, ...]
    prompts: tuple[tuple[int, ...], ...]
    context: int


def read_samples(folder: Path | str, limit: int, seed: int = 0) -> Samples:
    """Choose photos and captions from a folder and its subfolders; hidden files are left out.

    Args:
        folder: Photos; captions in `NAME.txt` beside `NAME.jpg`, one a line, or in `captions.txt` / `captions.jsonl`.
        limit: Most photos, and most captions.
        seed: Of the choice, when there are more.

    Raises:
        MagicError: `source_unavailable` when no photo can be read, with what was wrong with how many files;
            `argument_invalid` for a limit below 1.
    """
    folder = Path(folder)
    if limit < 1:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{limit} samples are none.", "Take at least 1.")
    if not folder.is_dir():
        raise _unavailable(f"{folder} is no folder.")
    skipped: list[tuple[Path, str]] = []
    files = sorted(_files(folder, skipped))
    photos: list[Path] = []
    hashes: set[bytes] = set()
    # Bits of the generator itself, whose stream numpy keeps the same for ever.
    keys = np.random.PCG64(seed).random_raw(len(files)) if files else ()
    for _, path in sorted(zip(keys, files, strict=True)):
        if len(photos) == limit:
            break
        if path.suffix.lower() in EXTENSIONS and (reason := _check(path, hashes)):
            skipped.append((path, reason))
        elif path.suffix.lower() in EXTENSIONS:
            photos.append(path)
        elif path.suffix.lower() not in (".txt", ".jsonl"):
            skipped.append((path, SkipReason.NOT_AN_IMAGE.value))
    if not photos:
        raise _unavailable(f"{folder} holds no photo that can be read; {_count(skipped)}.")
    photos.sort()
    paired, free = _captions(folder, photos, skipped)
    paired = paired[:limit]
    return Samples(
        tuple(photos),
        (*(text for text, _ in paired), *free[: limit - len(paired)]),
        tuple(skipped),
        tuple((place, photo) for place, (_, photo) in enumerate(paired)),
    )


def synthetic_samples(count: int = 8, side: int = 448, seed: int = 0) -> Samples:
    """Make pictures (gradients, noise of several grains, lines as of text) and sentences, the same on every machine.

    They stand in where no photos are given; `Samples.synthetic` says so, and every report repeats it.
    """
    stream = np.random.PCG64(seed)
    makers = (_gradient, _noise, _lines)
    photos = tuple(makers[place % len(makers)](stream, side, place) for place in range(count))
    captions = tuple(_SENTENCES[place % len(_SENTENCES)] for place in range(count))
    return Samples(photos, captions, synthetic=True)


def prepare(samples: Samples, config: ModelConfig, tokenizer: PromptTokenizer) -> Inputs:
    """Cut photos into tiles and texts into tokens, as the roles `photo` and `query` do.

    Raises:
        MagicError: When a photo cannot be read any more, or a caption is empty.
    """
    builder = PromptBuilder(config, tokenizer)
    tiles = tuple(photo_tiles(photo, config.vision.image_size) for photo in samples.photos)
    prompts = [builder.build(ROLES["photo"], tiles=len(part)).ids for part in tiles]
    prompts += [builder.build(ROLES["query"], caption).ids for caption in samples.captions]
    return Inputs(tiles, tuple(prompts), tokenizer.special.context)


def _files(folder: Path, skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skipped.append((Path(error.filename), SkipReason.PERMISSION_DENIED.value))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _check(path: Path, hashes: set[bytes]) -> str | None:
    """Return why a photo is not taken, or note its content and return None."""
    try:
        data, _ = read_photo(path)
        content = hashlib.sha256(data).digest()
        if content in hashes:
            return "duplicate"
        decode_photo(data, _CHECKED_SIDE)
    except PhotoSkipped as error:
        return error.reason.value
    hashes.add(content)
    return None


def _captions(
    folder: Path, photos: list[Path], skipped: list[tuple[Path, str]]
) -> tuple[list[tuple[str, int]], list[str]]:
    """Return captions with the place of their photo, and captions without one; each text once."""
    places = {path.relative_to(folder).as_posix(): place for place, path in enumerate(photos)}
    paired: dict[tuple[str, int], None] = {}
    free: dict[str, None] = {}
    for place, photo in enumerate(photos):
        paired |= dict.fromkeys((line, place) for line in _lines_of(photo.with_suffix(".txt"), skipped))
    plain, objects = (folder / name for name in CAPTION_FILES)
    free |= dict.fromkeys(_lines_of(plain, skipped))
    for line in _lines_of(objects, skipped):
        caption, image = _parse(line)
        if not caption:
            skipped.append((objects, "caption_invalid"))
        elif image in places:
            paired[caption, places[image]] = None
        else:
            free[caption] = None
    return list(paired), [text for text in free if text not in {caption for caption, _ in paired}]


def _lines_of(path: Path, skipped: list[tuple[Path, str]]) -> list[str]:
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > _MOST_CAPTION_BYTES:
            skipped.append((path, SkipReason.FILE_TOO_LARGE.value))
            return []
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else SkipReason.READ_FAILED.value
        skipped.append((path, reason))
        return []
    return [line.strip() for line in text.split("\n") if line.strip()]


def _parse(line: str) -> tuple[str, str]:
    """Return caption and image of a line of JSON; empty where there is none."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return "", ""
    fields = {"caption": data} if isinstance(data, str) else data if isinstance(data, dict) else {}
    caption, image = fields.get("caption"), fields.get("image")
    return caption.strip() if isinstance(caption, str) else "", image if isinstance(image, str) else ""


def _count(skipped: list[tuple[Path, str]]) -> str:
    reasons = [reason for _, reason in skipped]
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
    return f"{len(skipped)} files were skipped ({counts})" if skipped else "it is empty"


def _unavailable(message: str) -> MagicError:
    return MagicError(
        ErrorCode.SOURCE_UNAVAILABLE,
        message,
        "Give a folder with some of your photos, or none: synthetic pictures are taken then, and the report says so.",
    )


def _uniform(stream: np.random.PCG64, *shape: int) -> NDArray[np.float64]:
    """Return numbers from 0 to 1 made of the generator's own bits."""
    return (stream.random_raw(int(np.prod(shape))).reshape(shape) >> np.uint64(11)).astype(np.float64) / 2**53


def _gradient(stream: np.random.PCG64, side: int, place: int) -> NDArray[np.uint8]:
    """Four corner colours, mixed in between."""
    corners = _uniform(stream, 2, 2, _CHANNELS)
    across = np.linspace(0, 1, side)[:, None]
    top, bottom = (row[0] * (1 - across) + row[1] * across for row in corners)
    down = across[:, :, None]
    return _pixels(top * (1 - down) + bottom * down)


def _noise(stream: np.random.PCG64, side: int, place: int) -> NDArray[np.uint8]:
    """Colours in squares, finer in each further picture."""
    cells = min(side, 4 << (place // 3 % 5))
    rows = np.arange(side) * cells // side
    return _pixels(_uniform(stream, cells, cells, _CHANNELS)[rows][:, rows])


def _lines(stream: np.random.PCG64, side: int, place: int) -> NDArray[np.uint8]:
    """Dark dashes in rows on light paper."""
    rows = np.arange(side) // max(1, side // 28)
    inked = _uniform(stream, 28, 56)[np.minimum(rows, 27)][:, np.arange(side) * 56 // side] > 0.45
    sheet = np.where((inked & (rows % 2 == 1)[:, None])[..., None], 0.1, 0.93)
    return _pixels(np.broadcast_to(sheet, (side, side, _CHANNELS)))


def _pixels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(values * 255).astype(np.uint8)


_SENTENCES = (
    "a dog on the beach at sunset",
    "a receipt from the supermarket",
    "two children blowing out candles on a birthday cake",
    "snowy mountains behind a lake",
    "a screenshot of a train ticket",
    "grandmother laughing in the garden",
    "a red bicycle against a brick wall",
    "a plate of pasta with basil",
    "the city at night from above",
    "a page of handwritten notes",
)
