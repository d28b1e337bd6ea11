"""One function of a saved package, run operation by operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.interpreter import elementwise, products, reductions, shapes
from magicmm_export.coreml.interpreter.dtypes import stored, wide
from magicmm_export.coreml.interpreter.registry import OPERATORS, Arguments, operator_for
from magicmm_export.coreml.package import load_function

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MilFunction", "Run"]

_FAMILIES = (elementwise, products, reductions, shapes)
"""Imported for the operators that they register."""
_CONSTANT = "const"
_COMPRESSED = "constexpr_"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave.

    Attributes:
        values: Outputs and watched values by name, each in its own type (float16 as such).
        overflowed: Operations whose float16 result became infinite although they read finite numbers, in order.
    """

    values: Mapping[str, NDArray[Any]]
    overflowed: tuple[str, ...]


@dataclass(slots=True)
class _State:
    """Values that a later operation still reads, or that the caller wants."""

    kept: set[str]
    uses: Counter[str]
    values: dict[str, Tensor] = field(default_factory=dict)
    overflowed: list[str] = field(default_factory=list)


class MilFunction:
    """A function as coremltools' own loader reads it; constants are unpacked when an operation reads them.

    Attributes:
        inputs: Shape and MIL element type by name.
        outputs: MIL element type by name.
    """

    def __init__(self, function: Any) -> None:
        """Take a pymil function; `MilFunction.load` reads one from a package.

        Raises:
            MagicError: `runtime_failed`, which names an operator that is not known.
        """
        self.operations = list(function.operations)
        self.inputs = {
            name: (tuple(int(side) for side in var.shape), type_name(var)) for name, var in function.inputs.items()
        }
        self.outputs = {var.name: type_name(var) for var in function.outputs}
        for operation in self.operations:
            kind = operation.op_type
            if kind != _CONSTANT and not kind.startswith(_COMPRESSED):
                operator_for(kind, operation.name)

    @classmethod
    def load(cls, package: Path, function: str | None = None) -> MilFunction:
        """Read a function of a saved package.

        Args:
            package: The `.mlpackage` folder.
            function: Its name; None = the default one.

        Raises:
            MagicError: `bundle_invalid` for what is no package, `argument_invalid` for another name.
        """
        return cls(load_function(package, function))

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, NDArray[Any]], watched: Iterable[str] = ()) -> Run:
        """Run the function.

        Args:
            inputs: By name, in the declared shapes; numbers are rounded to the declared types.
            watched: Names of values inside to return beside the outputs.

        Raises:
            MagicError: `argument_invalid` for inputs of other names or shapes (a length outside of the bucket), and for
                watched values that do not exist; `runtime_failed` for an operator in a form that is not known.
        """
        self._check(inputs)
        kept = {*self.outputs, *watched}
        uses = Counter(var.name for operation in self.operations for var in _read_by(operation))
        state = _State(kept, uses)
        for name, (_, kind) in self.inputs.items():
            state.values[name] = stored(torch.from_numpy(np.array(inputs[name])), kind)
        for operation in self.operations:
            if not _is_constant(operation):
                self._step(operation, state)
        if missing := kept - state.values.keys():
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The function has no value {', '.join(sorted(missing))}.",
                "Take the names that the package's metadata lists as stages.",
            )
        return Run({name: state.values[name].numpy() for name in kept}, tuple(state.overflowed))

    def _step(self, operation: Any, state: _State) -> None:
        given = {name: _argument(value, state.values) for name, value in operation.inputs.items()}
        arguments = Arguments(operation.op_type, operation.name, given)
        result = OPERATORS[operation.op_type](arguments)
        results = [result] if isinstance(result, Tensor) else list(result)
        for var, value in zip(operation.outputs, results, strict=True):
            narrow = stored(value, type_name(var)).contiguous()
            if tuple(narrow.shape) != tuple(var.shape):
                raise arguments.unsupported(f"it gives {list(narrow.shape)}, declared is {list(var.shape)}")
            if narrow.dtype == torch.float16 and _overflowed(narrow, given):
                state.overflowed.append(operation.name)
            if state.uses[var.name] or var.name in state.kept:
                state.values[var.name] = narrow
        for var in _read_by(operation):
            state.uses[var.name] -= 1
            if not state.uses[var.name] and var.name not in state.kept:
                state.values.pop(var.name, None)

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        if inputs.keys() != self.inputs.keys():
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The function reads {', '.join(sorted(self.inputs))}, given were {', '.join(sorted(inputs))}.",
                "Give exactly its inputs.",
            )
        for name, (shape, _) in self.inputs.items():
            if inputs[name].shape != shape:
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    f"{name} has the shape {list(inputs[name].shape)}; this function of the package is for "
                    f"{list(shape)}.",
                    "Take the function of a bucket that fits, and fill its rows up on the right.",
                )


def _argument(value: Any, values: Mapping[str, Tensor]) -> Any:
    """Return what an operator gets for a variable or for a tuple of them."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return [_argument(one, values) for one in value]
    if value.name in values:
        return wide(values[value.name])
    constant = value.op.materialized_val_inference() if value.op.op_type.startswith(_COMPRESSED) else value.val
    if isinstance(constant, (np.ndarray, np.generic)):
        return wide(stored(torch.from_numpy(np.array(constant)), type_name(value)))
    return constant


def _read_by(operation: Any) -> Iterator[Any]:
    for value in operation.inputs.values():
        for var in value if isinstance(value, (tuple, list)) else (value,):
            if var is not None:
                yield var


def _is_constant(operation: Any) -> bool:
    return bool(operation.op_type == _CONSTANT or operation.op_type.startswith(_COMPRESSED))


def _overflowed(result: Tensor, given: Mapping[str, Any]) -> bool:
    if not bool(result.isinf().any()):
        return False
    tensors = [value for one in given.values() for value in (one if isinstance(one, list) else [one])]
    return not any(isinstance(value, Tensor) and bool(value.isinf().any()) for value in tensors)


def type_name(var: Any) -> str:
    """Return the type as MIL spells it. The class itself is no help: all whole numbers are called "int" there."""
    from coremltools.converters.mil.mil.types import builtin_to_string

    return str(builtin_to_string(var.dtype))
