"""Folders in which a picture and its caption share a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.benchmarks.two_way import Captioned
from magicmm_training.evaluation.task import MISSING

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"})


def captioned_files(images: Path, captions: Path, first_line: bool = False, complete: bool = False) -> Captioned:
    """Pair pictures with captions by the stem of their names, in the order of the names.

    Args:
        images: Folder of pictures.
        captions: Folder of NAME.txt; may be the same.
        first_line: Read one line of a caption instead of all.
        complete: Every caption belongs to a picture: one that is not there is missing. Without it such a text is left
            out, as it may be a note; both ways they are counted.

    Raises:
        MagicError: `source_unavailable` when a folder cannot be read or holds no pair, `text_invalid` for a caption
            that is empty or not UTF-8, `argument_invalid` for two pictures of one stem.
    """
    pictures = _by_stem(images, IMAGE_ENDINGS)
    texts = _by_stem(captions, frozenset({".txt"}))
    stems = sorted(texts if complete else texts.keys() & pictures.keys())
    if not stems:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{captions} holds no NAME.txt that belongs to a picture in {images}.",
            "Place a caption beside each picture, under the same name.",
        )
    return Captioned(
        tuple(stems),
        tuple(pictures.get(stem, MISSING) for stem in stems),
        tuple((_caption(texts[stem], first_line), place) for place, stem in enumerate(stems)),
        {
            "pictures_without_caption": len(pictures.keys() - texts.keys()),
            "texts_without_picture": len(texts.keys() - pictures.keys()),
        },
    )


def _by_stem(folder: Path, endings: frozenset[str]) -> dict[str, Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    except OSError as error:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE, f"{folder} cannot be read: {error.strerror}.", "Restore the folder."
        ) from None
    outside = next((path for path in files if not path.resolve().is_relative_to(folder.resolve())), None)
    if outside is not None:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{outside} is a link that leaves its folder.", "Copy the file into the folder."
        )
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{path} and {found[path.stem].name} share a caption.",
                "Rename one of them.",
            )
        found[path.stem] = path
    return found


def _caption(path: Path, first_line: bool) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MagicError(ErrorCode.TEXT_INVALID, f"{path} cannot be read ({error}).", "Mend or remove it.") from None
    if not text:
        raise MagicError(ErrorCode.TEXT_INVALID, f"{path} is empty.", "Write the caption, or remove the pair.")
    return text.splitlines()[0].strip() if first_line else " ".join(text.split())
