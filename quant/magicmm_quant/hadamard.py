"""Rotations by Hadamard matrices: they spread outliers over all channels, and cost little to apply.

A Hadamard matrix of order n has entries +-1 and orthogonal rows. Orders 1, 2 and, after Paley (1933), p + 1 for a
prime p = 3 mod 4 and 2 (p + 1) for a prime p = 1 mod 4 give all others here, by Kronecker products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    Real = TypeVar("Real", np.float32, np.float64)

_BLOCK = 1 << 18
"""Numbers that are rotated at a time: the copies between the two products stay in the cache."""


def hadamard(size: int) -> NDArray[np.int8]:
    """Return a Hadamard matrix of this order: int8 [size, size] of +-1.

    Raises:
        MagicError: `argument_invalid` when no construction here gives one.
    """
    odd_part, doublings = _decompose(size)
    return np.kron(_paley(odd_part), _sylvester(doublings)).astype(np.int8)


class Rotation:
    """The orthogonal matrix Q = diag(signs) H / sqrt(size), with signs drawn from a seed.

    The signs come first: without them, a row of equal values would be rotated into a single huge one.

    Attributes:
        size: Rows and columns of Q.
        seed: Of the signs; the same seed gives the same Q on every machine.
    """

    def __init__(self, size: int, seed: int) -> None:
        """Find the factors of H.

        Raises:
            MagicError: `argument_invalid` when there is no known Hadamard matrix of this order.
        """
        self.size = size
        self.seed = seed
        odd_part, doublings = _decompose(size)
        # Two factors of about the same size need the fewest multiplications.
        right = min(doublings, round(math.log2(size) / 2))
        self._left = np.kron(_paley(odd_part), _sylvester(doublings - right)).astype(np.float32)
        self._right = _sylvester(right).astype(np.float32)
        # Bits of the generator itself, whose stream numpy keeps the same for ever.
        bits = np.random.PCG64(seed).random_raw(size) >> np.uint64(63)
        self._signs = (1 - 2 * bits.astype(np.int8)).astype(np.int8)

    def apply(self, rows: NDArray[Real]) -> NDArray[Real]:
        """Return `rows @ Q`, in the type of `rows`: [..., size] -> [..., size]."""
        signs = (self._signs / math.sqrt(self.size)).astype(rows.dtype)
        return self._by_blocks(rows, self._left.T, self._right, before=signs, after=None)

    def undo(self, rows: NDArray[Real]) -> NDArray[Real]:
        """Return `rows @ Q.T`, in the type of `rows`: [..., size] -> [..., size]."""
        signs = (self._signs / math.sqrt(self.size)).astype(rows.dtype)
        return self._by_blocks(rows, self._left, self._right.T, before=None, after=signs)

    def matrix(self) -> NDArray[np.float64]:
        """Return Q: float64 [size, size]."""
        return self._signs[:, None] * np.kron(self._left, self._right).astype(np.float64) / math.sqrt(self.size)

    def _by_blocks(
        self,
        rows: NDArray[Real],
        left: NDArray[np.float32],
        right: NDArray[np.float32],
        before: NDArray[Real] | None,
        after: NDArray[Real] | None,
    ) -> NDArray[Real]:
        """Read each row as a matrix X and return left @ X @ right, with signs put on before or after."""
        if rows.shape[-1:] != (self.size,):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"Rows of shape {list(rows.shape)} do not end in {self.size} channels.",
                f"Make a rotation of the size of the rows, or give rows of {self.size}.",
            )
        left, right = left.astype(rows.dtype), right.astype(rows.dtype)
        flat = rows.reshape(-1, self.size)
        result = np.empty(flat.shape, flat.dtype)
        step = max(1, _BLOCK // self.size)
        for start in range(0, len(flat), step):
            block = flat[start : start + step]
            if before is not None:
                block = block * before
            product = block.reshape(-1, len(right)) @ right
            turned = left @ product.reshape(len(block), len(left), len(right))
            flattened = turned.reshape(block.shape)
            result[start : start + step] = flattened if after is None else flattened * after
        return result.reshape(rows.shape)


def _decompose(size: int) -> tuple[int, int]:
    """Return (order of a Paley matrix or 1, doublings) whose product is `size`, with the smallest Paley matrix."""
    if size > 0:
        for doublings in range(size.bit_length() - 1, -1, -1):
            order, rest = divmod(size, 1 << doublings)
            if not rest and (order == 1 or _paley_prime(order)):
                return order, doublings
    raise MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"No Hadamard matrix of order {size} is known here.",
        "Rotate a hidden size that is a power of two times 1, 12, 20, 28 or another order of Paley's.",
    )


def _paley_prime(order: int) -> int:
    """Return the prime that Paley's construction needs for a matrix of this order, or 0."""
    for prime, remainder in ((order - 1, 3), (order // 2 - 1, 1)):
        if order % 4 == 0 and prime % 4 == remainder and _is_prime(prime):
            return prime
    return 0


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _sylvester(doublings: int) -> NDArray[np.int8]:
    matrix = np.ones((1, 1), np.int8)
    for _ in range(doublings):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(order: int) -> NDArray[np.int8]:
    """Return Paley's matrix: of the first kind for p = 3 mod 4, of the second for p = 1 mod 4."""
    if order == 1:
        return np.ones((1, 1), np.int8)
    prime = _paley_prime(order)
    character = np.full(prime, -1, np.int8)
    character[[place * place % prime for place in range(prime)]] = 1
    character[0] = 0
    places = np.arange(prime)
    core = np.zeros((prime + 1, prime + 1), np.int8)
    core[0, 1:] = 1
    core[1:, 1:] = character[(places[:, None] - places) % prime]
    if prime % 4 == 3:
        core[1:, 0] = -1
        return core + np.eye(prime + 1, dtype=np.int8)
    core[1:, 0] = 1
    off_diagonal = np.array([[1, 1], [1, -1]], np.int8)
    diagonal = np.array([[1, -1], [-1, -1]], np.int8)
    return np.kron(core, off_diagonal) + np.kron(np.eye(prime + 1, dtype=np.int8), diagonal)
