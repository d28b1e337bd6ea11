"""int8 weights kept as 4-bit codes and small whole multipliers (docs/FORMAT.md, part 1, "Packed weights").

value[k, n] = codes[k, n] * multipliers[k // group, n], exact in int8: half the bytes on disk, int8 speed at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int8]
    Multipliers = NDArray[np.uint8]

MAX_CODE = 7
MAX_MULTIPLIER = 18
UNSTORED_OFFSET = 1 << 40
"""Where an ONNX graph says that a packed tensor lies: beyond any file, so a runtime without the weights must fail."""
_BLOCK_BYTES = 1 << 20  # stays in the processor's cache between the two steps


def pack(codes: Codes, multipliers: Multipliers) -> dict[str, NDArray[np.uint8]]:
    """Return what a packed file stores for one tensor, to be named TENSOR.codes and TENSOR.multipliers there.

    Args:
        codes: int8 [K, N], -7 to 7, N even.
        multipliers: uint8 [K / group, N], 1 to 18.

    Returns:
        `codes` uint8 [K, N / 2] and `multipliers` as given.

    Raises:
        MagicError: `argument_invalid` for other types, shapes or values.
    """
    if not (codes.dtype == np.int8 and codes.ndim == 2 and codes.shape[-1] % 2 == 0):
        raise _unpackable(f"Codes must be int8 [K, N] with an even N, got {codes.dtype} {list(codes.shape)}")
    if problem := _shape_problem(codes.shape, multipliers) or _multiplier_problem(multipliers):
        raise _unpackable(problem)
    if codes.min() < -MAX_CODE or codes.max() > MAX_CODE:
        raise _unpackable("A code lies outside -7 to 7")
    left, right = np.hsplit(codes.view(np.uint8), 2)
    return {"codes": np.bitwise_or(left & 15, right << 4, dtype=np.uint8), "multipliers": multipliers}


def unpack(codes: NDArray[np.uint8], multipliers: Multipliers) -> Codes:
    """Return the int8 [K, N] weights of a stored tensor; `pack` the other way round.

    Args:
        codes: uint8 [K, N / 2] as stored.
        multipliers: uint8 [K / group, N].

    Raises:
        MagicError: `bundle_invalid` when shapes do not divide, for codes of -8 and multipliers outside 1 to 18.
    """
    rows, half = codes.shape
    if problem := _shape_problem((rows, 2 * half), multipliers) or _multiplier_problem(multipliers):
        raise _invalid(problem)
    group = rows // len(multipliers)
    factors = multipliers.view(np.int8)[:, None]
    values = np.empty((rows, 2 * half), np.int8)
    groups = max(1, _BLOCK_BYTES // (group * 2 * half))
    for first in range(0, len(multipliers), groups):
        block = values[first * group : (first + groups) * group]
        stored = codes[first * group : (first + groups) * group]
        # An arithmetic shift of the byte, as a signed one, brings the nibble down with its sign.
        np.right_shift((stored << 4).view(np.int8), 4, out=block[:, :half])
        np.right_shift(stored.view(np.int8), 4, out=block[:, half:])
        if block.min() < -MAX_CODE:
            raise _invalid("A code is -8")
        grouped = block.reshape(-1, group, 2 * half)
        np.multiply(grouped, factors[first : first + groups], out=grouped)
    return values


def read_packed(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Codes]:
    """Return the weights of a packed file by name, int8 [K, N] each.

    The file is opened anew for every tensor: `safetensors` maps it, and touched pages would count as memory.

    Args:
        path: A `safetensors` file.
        shapes: The tensors that the graph declares, all of them and no others.

    Raises:
        MagicError: `bundle_invalid` for an unreadable file, other names, types or shapes, or values out of range.
    """
    _check_names({key for key, _ in _read(path, None)}, shapes)
    return {name: read_packed_tensor(path, name, shape) for name, shape in shapes.items()}


def read_packed_tensor(path: Path, name: str, shape: tuple[int, ...]) -> Codes:
    """Return one weight of a packed file, int8 [K, N]; no other is read.

    Raises:
        MagicError: As `read_packed`.
    """
    stored = dict(_read(path, name))
    codes, multipliers = stored[f"{name}.codes"], stored[f"{name}.multipliers"]
    if not (codes.dtype == multipliers.dtype == np.uint8 and codes.ndim == 2):
        raise _invalid(f"{path.name} holds {name} as {codes.dtype} and {multipliers.dtype}, not uint8")
    if (codes.shape[0], 2 * codes.shape[1]) != shape:
        raise _invalid(f"{path.name} holds {name} as {list(codes.shape)}, the graph declares {list(shape)}")
    try:
        return unpack(codes, multipliers)
    except MagicError as error:
        raise _invalid(f"{path.name}, {name}: {error.message.rstrip('.')}") from None


def _read(path: Path, name: str | None) -> list[tuple[str, Any]]:
    """Return the two arrays of one tensor, or, without a name, all names of the file without content."""
    from safetensors import safe_open  # only bundles with packed weights need it

    try:
        with safe_open(path, "np") as file:
            if name is None:
                return [(key, None) for key in file.keys()]  # noqa: SIM118 - no mapping
            return [(key, file.get_tensor(key)) for key in (f"{name}.codes", f"{name}.multipliers")]
    except Exception as error:  # safetensors raises its own and OSError
        raise _invalid(f"{path.name} cannot be read: {error}") from None


def _check_names(keys: set[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    expected = {f"{name}.{kind}" for name in shapes for kind in ("codes", "multipliers")}
    if lacking := sorted(expected - keys):
        raise _invalid(f"The packed weights lack {lacking[0]}, which the graph declares")
    if unknown := sorted(keys - expected):
        raise _invalid(f"The packed weights hold {unknown[0]}, which the graph does not declare")


def _shape_problem(shape: tuple[int, ...], multipliers: NDArray[Any]) -> str | None:
    """Say why multipliers do not fit weights of the shape [K, N]."""
    sizes = multipliers.shape
    if len(shape) == len(sizes) == 2 and all(sizes) and all(shape) and sizes[1] == shape[1] and not shape[0] % sizes[0]:
        return None
    return f"Multipliers {list(sizes)} do not divide weights {list(shape)} into groups of rows"


def _multiplier_problem(multipliers: NDArray[Any]) -> str | None:
    if multipliers.dtype == np.uint8 and multipliers.min() >= 1 and multipliers.max() <= MAX_MULTIPLIER:
        return None
    return f"Multipliers must be uint8 1 to {MAX_MULTIPLIER}, got {multipliers.dtype} up to {multipliers.max()}"


def _unpackable(message: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, f"{message}.", "Quantise to 4-bit codes and multipliers first.")


def _invalid(message: str) -> MagicError:
    return MagicError(ErrorCode.BUNDLE_INVALID, f"{message}.", "Install the bundle again, or export it anew.")
