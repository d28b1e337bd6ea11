"""The files of a checkpoint folder: JSON read with errors that name the file, weights only as safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from magicmm.errors import ErrorCode, MagicError

COPY_AGAIN = "Copy the checkpoint again."
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def checkpoint_invalid(message: str, remedy: str) -> MagicError:
    """Return the error for a checkpoint that cannot be exported."""
    return MagicError(ErrorCode.CHECKPOINT_INVALID, message, remedy)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        MagicError: `source_unavailable` with `remedy` when there is no such file; `checkpoint_invalid` when it holds
            something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MagicError(ErrorCode.SOURCE_UNAVAILABLE, f"{path} does not exist.", remedy) from None
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint_invalid(f"{path} cannot be read: {error}.", COPY_AGAIN) from None
    if not isinstance(content, dict):
        raise checkpoint_invalid(f"{path} holds no JSON object.", COPY_AGAIN)
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers will read: `model.safetensors`, or the shards of its index.

    Raises:
        MagicError: `source_unavailable` when there are none; `checkpoint_invalid` for a broken index, and for a shard
            that is missing or outside the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        found = f", only {pickled[0]}" if pickled else ""
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{folder} holds no model.safetensors{found}.",
            "Only safetensors are read: pickled weights (*.bin, *.pt) can run code. "
            "Take the checkpoint's safetensors file, or convert it with save_pretrained where you trust it.",
        )
    places = read_json(index, COPY_AGAIN).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    files = [folder / name for name in names if _SHARD_NAME.fullmatch(name)]
    if not files or len(files) < len(names) or not all(file.is_file() for file in files):
        raise checkpoint_invalid(f"{index} names no shards, or some that are not beside it.", COPY_AGAIN)
    return files
