"""A batch that made the loss not finite, written down so that it can be looked at and run again."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def save_offending(folder: Path, rank: int, facts: Mapping[str, Any], samples: Sequence[Any]) -> str:
    """Write samples of any objective: ids and texts as JSON, pixels as safetensors.

    The run is about to stop with an error of its own, which a full disk must not hide.

    Args:
        folder: Gets `rank-N.json` and `rank-N.safetensors`.
        rank: Of this process.
        facts: Step, loss, places and the like.
        samples: Dataclasses of plain values and tensors.

    Returns:
        Where the batch is, or why it could not be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = {
        **_plain(dict(facts), "", tensors),
        "samples": [_plain(one, str(n), tensors) for n, one in enumerate(samples)],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{rank}.json").write_text(
            json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        save_file(tensors, folder / f"rank-{rank}.safetensors")
    except (OSError, SafetensorError) as error:
        return f"it could not be saved ({error})"
    return f"it is saved in {folder}"


def _plain(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a value as JSON; tensors are put aside under the name of their place."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), f"{name}.{field.name}", tensors) for field in fields(value)
        }
    if isinstance(value, dict):
        return {str(key): _plain(one, f"{name}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, f"{name}.{number}", tensors) for number, one in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)
