"""Operators by their MIL names, and what an operator is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from magicmm import ErrorCode, MagicError

Argument = Any
"""A tensor in its wide type, a list of these, or a constant as coremltools loads it."""
Operator = Callable[["Arguments"], "Tensor | Sequence[Tensor]"]

OPERATORS: dict[str, Operator] = {}
"""Every operator that the interpreter knows; `implements` adds to it."""


def implements(name: str) -> Callable[[Operator], Operator]:
    """Register a function as the MIL operator of a name."""

    def register(operator: Operator) -> Operator:
        OPERATORS[name] = operator
        return operator

    return register


class Arguments:
    """What one operation reads, by the names of the MIL specification."""

    def __init__(self, operator: str, name: str, values: Mapping[str, Argument]) -> None:
        """Keep the values.

        Args:
            operator: Its MIL name.
            name: That of the operation, for errors.
            values: Tensors, lists of tensors and constants; optional ones that are absent are None or missing.
        """
        self.operator, self.name = operator, name
        self._values = values

    def has(self, name: str) -> bool:
        """Say whether an optional argument is given."""
        return self._values.get(name) is not None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, in its wide type."""
        value = self._values[name]
        if not isinstance(value, Tensor):
            raise self.unsupported(f"{name} is {type(value).__name__}, not a tensor")
        return value

    def tensors(self, name: str) -> list[Tensor]:
        """Return a list of tensors."""
        return list(self._values[name])

    def ints(self, name: str) -> list[int]:
        """Return a constant vector (or number) of whole numbers."""
        return [int(value) for value in np.atleast_1d(self._constant(name))]

    def integer(self, name: str) -> int:
        """Return a constant whole number."""
        (value,) = self.ints(name)
        return value

    def number(self, name: str) -> float:
        """Return a constant number."""
        return float(np.asarray(self._constant(name)).item())

    def flag(self, name: str) -> bool:
        """Return a constant truth value; absent is false."""
        return self.has(name) and bool(np.asarray(self._constant(name)).item())

    def text(self, name: str) -> str:
        """Return a constant text."""
        return str(self._constant(name))

    def require(self, name: str, wanted: object) -> None:
        """Refuse a parameter that no graph of ours sets.

        Raises:
            MagicError: `runtime_failed`, which names operator, operation and parameter.
        """
        value = self._values.get(name)
        given = value if value is None or isinstance(value, str) else np.asarray(value).tolist()
        if given is not None and given != wanted:
            raise self.unsupported(f"{name} is {given}, not {wanted}")

    def unsupported(self, what: str) -> MagicError:
        """Return the error for a form of an operator that is not implemented."""
        return MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"The interpreter does not know this form of {self.operator} ({self.name}): {what}.",
            "Keep the graph to forms that tests/export/test_coreml_operators.py covers, or add this one.",
        )

    def _constant(self, name: str) -> Any:
        value = self._values[name]
        if isinstance(value, Tensor):
            return value.numpy()
        return value


def operator_for(kind: str, name: str) -> Operator:
    """Return the function behind a MIL name.

    Raises:
        MagicError: `runtime_failed`, which names the operator, for one that no graph of ours has.
    """
    found = OPERATORS.get(kind)
    if found is None:
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"The interpreter does not know the operator {kind} ({name}).",
            "Convert the model with operators that it knows, or add this one with a test against coremltools.",
        )
    return found
