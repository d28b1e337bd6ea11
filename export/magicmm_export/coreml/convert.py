"""Torch modules to ML programs, through `torch.export` and coremltools; works on any machine, nothing is compiled."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.package import MAIN, coremltools, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.export import ExportedProgram

    from magicmm_export.coreml.schemes import CoremlScheme, Target

_REFUSED = re.compile(r"fx node (?P<node>[\w.]+)")
_HALF = "_cast_fp16"
"""What coremltools appends to the name of a value that it computes in float16."""


class StagedModule(Protocol):
    """A module of the decomposition: it gives its result, and can give every stage of the parity ladder."""

    def stages(self, *inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage, the result last."""
        ...


@dataclass(frozen=True, slots=True)
class Converted:
    """An ML program in memory.

    Attributes:
        model: coremltools' `MLModel`.
        stages: By stage of the parity ladder, the value of the program that holds it.
    """

    model: Any
    stages: Mapping[str, str]


def convert_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    scheme: CoremlScheme,
    target: Target,
    inner: Collection[str] = (),
    also: Sequence[str] = (),
) -> Converted:
    """Convert a module for inputs of fixed shapes.

    Args:
        module: One of the decomposition, in evaluation mode.
        inputs: An example for each argument in order, by the name that the package shall give it; numbers with
            fractions become float32, whole ones int32.
        output: Name of the result; float32.
        scheme: Decides the precision of arithmetic; weights are compressed later (`compress`).
        target: The oldest system that shall read it.
        inner: Inputs and outputs that only other pieces of the same function see: in the precision of arithmetic.
        also: What the module gives behind its result: stages of these names, float32.

    Raises:
        MagicError: `runtime_failed`, which names operator and module, when something does not lower.
    """
    ct = coremltools()
    example = tuple(inputs.values())
    program = _traced(module, example)
    stages = _stage_nodes(module, example)
    precision = ct.precision.FLOAT16 if scheme.precision == "float16" else ct.precision.FLOAT32
    narrow = np.float16 if scheme.precision == "float16" else np.float32
    kinds = {
        name: (narrow if name in inner else np.float32) if value.is_floating_point() else np.int32
        for name, value in inputs.items()
    }
    try:
        with quiet():
            model = ct.convert(
                program,
                convert_to="mlprogram",
                compute_precision=precision,
                minimum_deployment_target=ct.target[target.value],
                skip_model_load=True,
                inputs=[
                    ct.TensorType(name=name, shape=tuple(value.shape), dtype=kinds[name])
                    for name, value in inputs.items()
                ],
                outputs=[
                    ct.TensorType(name=name, dtype=narrow if name in inner else np.float32) for name in (output, *also)
                ],
            )
    except Exception as error:  # of every kind, from any of its passes
        raise _not_lowered(program, error) from None
    values = {var.name for operation in model._mil_program.functions[MAIN].operations for var in operation.outputs}
    *others, result = stages
    found = {name: next((one for one in (f"{node}{_HALF}", node) if one in values), "") for name, node in others}
    found |= {name: name for name in also}
    return Converted(model, {**{name: value for name, value in found.items() if value}, result[0]: output})


def _traced(module: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, example, strict=False).run_decompositions({})
    except Exception as error:  # torch's own, of many kinds
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"torch.export does not take {type(module).__name__}: {_said(error)}.",
            "Write what the message names with operators of fixed shapes.",
        ) from None


class _Stages(nn.Module):
    """Gives every stage instead of the result; the nodes in between keep their names."""

    def __init__(self, module: nn.Module, note: Callable[[list[str]], None]) -> None:
        super().__init__()
        self.module = module
        self.note = note

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        pairs = list(self.module.stages(*inputs))  # type: ignore[operator]
        self.note([name for name, _ in pairs])
        return tuple(value for _, value in pairs)


def _stage_nodes(module: nn.Module, example: tuple[Tensor, ...]) -> list[tuple[str, str]]:
    """Return each stage with the node that computes it."""
    noted: list[list[str]] = []  # outside of the module: what tracing changes in there is undone
    program = _traced(_Stages(module, noted.append).eval(), example)
    outputs = program.graph_signature.user_outputs
    return list(zip(noted[0], map(str, outputs), strict=True))


def _not_lowered(program: ExportedProgram, error: Exception) -> MagicError:
    """Return an error that names the operator and the module whose code it comes from."""
    found = _REFUSED.search(str(error))
    nodes = {node.name: node for node in program.graph.nodes}
    node = nodes.get(found["node"]) if found else None
    if node is None:
        operator, place = next((one for one in _targets(program) if one in str(error)), "An operator"), ""
    else:
        operator = str(node.target)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        place = f" in {stack[-1][0] or 'the module itself'}" if stack else ""
    return MagicError(
        ErrorCode.RUNTIME_FAILED,
        f"{operator}{place} does not lower to Core ML: {_said(error)}.",
        "Write it with operators that coremltools converts.",
    )


def _targets(program: ExportedProgram) -> Iterator[str]:
    """Yield the short name of every operator: coremltools names what it does not know by it."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            yield str(node.target).split(".")[1 if str(node.target).startswith("aten.") else 0]


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
