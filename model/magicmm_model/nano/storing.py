"""Checkpoints of the built-in model: `config.json`, `model.safetensors`, `tokenizer.json`, `concepts.json`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint_folder import whole_checkpoint
from magicmm_model.nano.config import NanoConfig
from magicmm_model.nano.model import NanoModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CONFIG, WEIGHTS, TOKENIZER, CONCEPTS = "config.json", "model.safetensors", "tokenizer.json", "concepts.json"
COMPANIONS = (TOKENIZER, CONCEPTS)
"""Files that follow a checkpoint."""
_REMEDY = "Write it again: python -m magicmm_export.nano.base FOLDER."


def is_nano(folder: Path) -> bool:
    """Say whether a folder holds a checkpoint of the built-in model, as far as its configuration tells."""
    try:
        return "magicmm_nano" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_nano(folder: Path | str) -> NanoModel:
    """Load a checkpoint, float32.

    Raises:
        MagicError: `checkpoint_invalid` when it is missing, broken, or its tensors do not fit its configuration.
    """
    folder = Path(folder)
    try:
        config = NanoConfig.from_json(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{folder} cannot be read: {error}.", _REMEDY) from None
    with torch.device("meta"):
        model = NanoModel(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise MagicError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{folder / WEIGHTS} does not fit its configuration: {', '.join(differing[:5])}"
            f"{' and more' if len(differing) > 5 else ''}.",
            _REMEDY,
        )
    model.load_state_dict(tensors, assign=True)
    return model.float()


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Open a `tokenizer.json`, with padding and truncation off: lengths are the caller's business.

    Raises:
        MagicError: `checkpoint_invalid`.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{path} cannot be read: {error}.", _REMEDY) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@dataclass(frozen=True, slots=True)
class Words:
    """Words that a checkpoint knows.

    Attributes:
        classes: For each class: its names, and a description where there is one.
        scenes: A place or something else that many classes have in common, and the places of these classes.
    """

    classes: tuple[tuple[str, ...], ...]
    scenes: dict[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return what `concepts.json` says."""
        return {"classes": self.classes, "scenes": self.scenes}


def load_words(folder: Path | str) -> Words:
    """Return the words of a checkpoint.

    Raises:
        MagicError: `checkpoint_invalid`.
    """
    path = Path(folder) / CONCEPTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(tuple(map(str, texts)) for texts in content["classes"])
        scenes = {str(name): tuple(map(int, places)) for name, places in content["scenes"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{path} cannot be read: {error}.", _REMEDY) from None
    if not all(0 <= place < len(classes) for places in scenes.values() for place in places):
        raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{path} names classes that there are not.", _REMEDY)
    return Words(classes, scenes)


def save_nano(tensors: Mapping[str, Tensor], config: NanoConfig, target: Path | str, companions: Path) -> None:
    """Write a checkpoint; the folder appears complete or not at all.

    Args:
        tensors: The state of a `NanoModel`.
        config: Its shapes.
        target: A folder that does not exist yet.
        companions: A folder whose `COMPANIONS` are copied.

    Raises:
        MagicError: `argument_invalid` when the target exists; `storage_failed` when it cannot be written.
    """
    with whole_checkpoint(Path(target)) as staged:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staged / WEIGHTS)
        (staged / CONFIG).write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
        for name in COMPANIONS:
            shutil.copyfile(companions / name, staged / name)
