"""Element types of MIL as torch has them: values are kept in their own type and computed in a wide one."""

from __future__ import annotations

import torch
from torch import Tensor

from magicmm import ErrorCode, MagicError

# By the name that MIL writes into programs. uint16 has few operators in torch; int32 holds every value of it.
_STORED = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "bool": torch.bool,
}


def stored_type(name: str) -> torch.dtype:
    """Return the type that values of a MIL type are kept in.

    Raises:
        MagicError: `runtime_failed` for a type that no graph of ours has.
    """
    found = _STORED.get(name)
    if found is None:
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"The interpreter has no element type {name!r}.",
            f"It knows {', '.join(_STORED)}; keep the graph to these.",
        )
    return found


def stored(value: Tensor, name: str) -> Tensor:
    """Round a value to its declared type; beyond the range of float16 it becomes infinite, as on a device."""
    return value.to(stored_type(name))


def wide(value: Tensor) -> Tensor:
    """Return numbers in the type that operators compute in: float32, int64, or bool as it is."""
    if value.dtype == torch.bool:
        return value
    return value.float() if value.is_floating_point() else value.long()
