"""Cases for packed.json: stored bytes of 4-bit weights, and the int8 values that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from magicmm.errors import MagicError
from magicmm.packed import unpack

Json = dict[str, Any]
_ONES = [[1, 1]]


def packed() -> list[Json]:
    """Return the cases of packed.json."""
    nibbles = [[code] for code in range(256) if code % 16 != 8 and code // 16 != 8]
    rng = np.random.default_rng(7)
    sides = [number for number in range(16) if number != 8]
    mixed = rng.choice(sides, (6, 4)) + 16 * rng.choice(sides, (6, 4))
    return [
        _case("every pair of nibbles", nibbles, _ONES),
        _case("every multiplier", [[0x97], [0x79]] * 18, [[number, 19 - number] for number in range(1, 19)]),
        _case("columns of a row, groups of two rows", mixed.tolist(), rng.integers(1, 19, (3, 8)).tolist()),
        _case("groups of one row", mixed.tolist(), rng.integers(1, 19, (6, 8)).tolist()),
        _case("a low nibble of -8", [[0x08]], _ONES),
        _case("a high nibble of -8", [[0x80]], _ONES),
        _case("a multiplier 0", [[0x11]], [[1, 0]]),
        _case("a multiplier 19", [[0x11]], [[19, 1]]),
        _case("groups that do not divide the rows", [[0x11]] * 3, _ONES * 2),
        _case("more groups than rows", [[0x11]], _ONES * 2),
        _case("fewer multipliers than columns", [[0x11, 0x11]], _ONES),
    ]


def values_of(given: Json) -> list[list[int]]:
    """Run a case."""
    codes, multipliers = (np.array(given[name], np.uint8) for name in ("codes", "multipliers"))
    values: list[list[int]] = unpack(codes, multipliers).tolist()
    return values


def _case(name: str, codes: list[list[int]], multipliers: list[list[int]]) -> Json:
    given = {"codes": codes, "multipliers": multipliers}
    try:
        return {"name": name, "input": given, "expect": {"values": values_of(given)}, "tolerance": 0}
    except MagicError as error:
        return {"name": name, "input": given, "error": error.code.value}
