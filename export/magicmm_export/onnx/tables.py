"""What stands beside the graphs of a vision-language bundle: the token table and the prefixes of the roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

_ROWS = 4096
"""Rows of the token table in memory at a time (25 MB of float32 at 2B)."""
_ALIGNMENT = 64


def write_tokens(path: Path, weights: RewrittenWeights, rows: int, done: Callable[[int], None] | None = None) -> None:
    """Write `tokens.bin` (docs/FORMAT.md): int8 codes row by row, zeros up to 64 bytes, float32 scales.

    Args:
        path: The file.
        weights: Gives the rows.
        rows: How many there are.
        done: Called with the number of rows after each piece.
    """
    scales = []
    with path.open("wb") as file:
        for start in range(0, rows, _ROWS):
            values = weights.tokens(start, min(start + _ROWS, rows))
            scale = np.maximum(np.abs(values).max(1), 1e-12) / np.float32(127)
            file.write(np.rint(values / scale[:, None]).astype(np.int8).data)
            scales.append(scale.astype("<f4"))
            if done:
                done(len(values))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        file.write(np.concatenate(scales).data)


def write_prefixes(
    folder: Path, model: StreamedModel, heads: Mapping[str, Sequence[int]], done: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Run the constant head of every role once and keep its keys and values.

    Args:
        folder: The bundle; files go to `prefix/`.
        model: The checkpoint in float32.
        heads: Constant ids by role.
        done: Called with the name of each layer.

    Returns:
        By role, the name of its file. Roles with the same head share one.
    """
    (folder / "prefix").mkdir()
    distinct = list(dict.fromkeys(tuple(head) for head in heads.values()))
    names = {}
    for place, (head, kept) in enumerate(zip(distinct, model.prefixes(distinct, done), strict=True)):
        names[head] = f"prefix/{place}.safetensors"
        tensors = {}
        for layer, (key, value) in enumerate(kept):
            tensors[f"past_key_{layer}"] = key.contiguous().numpy()
            tensors[f"past_value_{layer}"] = value.contiguous().numpy()
        save_file(tensors, folder / names[head])
    return {role: names[tuple(head)] for role, head in heads.items()}
