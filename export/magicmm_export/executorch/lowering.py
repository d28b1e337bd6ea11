"""Modules to one program with a method for each, and the plan of who computes what."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from torch import Tensor, nn

from magicmm import ErrorCode, MagicError
from magicmm.executorch_runtime import quiet
from magicmm_export.executorch.census import plan_part, short_name
from magicmm_export.executorch.targets import Target
from magicmm_export.planner import RUN_HERE, Plan


@dataclass(frozen=True)
class Method:
    """One entry of a program: a module and inputs of the only shapes that it takes."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Lowered:
    """A program, ready to be written.

    Attributes:
        plan: Who computes what.
    """

    plan: Plan
    _program: Any

    def write(self, path: Path) -> None:
        """Write the .pte file."""
        with path.open("wb") as file:
            self._program.write_to_file(file)


def lower(methods: Mapping[str, Method], target: Target, done: Callable[[str], None] | None = None) -> Lowered:
    """Lower all methods together: weights that they share are stored once.

    Args:
        methods: By name.
        target: For which backend.
        done: Called with the name of each step.

    Raises:
        MagicError: `runtime_failed`, naming method, module and operator, where one of them does not lower.
    """
    say = done or (lambda _: None)
    with quiet():
        # Quantised operators outside of delegates: their forms in a program, and their kernels, as the SDK has them.
        importlib.import_module("executorch.kernels.quantized")
        programs = {}
        for name, method in methods.items():
            with _named(f"{name} for {target.name}"), torch.no_grad():
                programs[name] = torch.export.export(method.module.eval(), method.inputs, strict=False)
            say(f"{name}: traced")
        traced = {name: program.graph_module for name, program in programs.items()}
        with _named(f"The model for {target.name}", traced):
            edge = to_edge_transform_and_lower(
                programs, partitioner={name: [target.partitioner()] for name in programs}
            )
        say(f"lowered for {target.name}")
        graphs = {name: edge.exported_program(name).graph_module for name in methods}
        plan = Plan(
            "executorch",
            target.name,
            target.status,
            tuple(plan_part(name, graph, target.name) for name, graph in graphs.items()),
        )
        with _named(f"The model for {target.name}", graphs):
            # Without fusion, quantised operators outside of delegates have no kernels.
            program = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True))
        if target.status == RUN_HERE:
            _check_kernels(program.executorch_program, graphs)
    say(f"laid out for {target.name}")
    return Lowered(plan, program)


def _check_kernels(program: Any, graphs: Mapping[str, torch.fx.GraphModule]) -> None:
    """Refuse operators outside of delegates that the runtime has no kernel for.

    Raises:
        MagicError: `runtime_failed`, naming operator and module.
    """
    from executorch.runtime import Runtime

    known = Runtime.get().operator_registry.operator_names
    for entry in program.execution_plan:
        for operator in entry.operators:
            name = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
            if name not in known:
                module = _module_of(graphs[entry.name], operator.name.partition("::")[2])
                raise MagicError(
                    ErrorCode.RUNTIME_FAILED,
                    f"{entry.name} needs {name} in {module}, which neither the backend nor ExecuTorch itself has.",
                    "Write the module with other operators (magicmm_export.decomposition), or take another target.",
                )


def _module_of(graph: torch.fx.GraphModule, operator: str) -> str:
    """Return the path of the first module that holds an operator, such as "bmm"."""
    found = (node for node in graph.graph.nodes if node.op == "call_function" and short_name(node) == operator)
    stacks = (node.meta.get("nn_module_stack") or {} for node in found)
    return next((path for stack in stacks for path, _ in reversed(list(stack.values())) if path), "the model")


def _named_in(said: str, graphs: Mapping[str, torch.fx.GraphModule]) -> str:
    """Return where the first operator that a message names is, as the beginning of a sentence, or nothing."""
    for name, graph in graphs.items():
        for operator in {short_name(node) for node in graph.graph.nodes if node.op == "call_function"}:
            if re.search(rf"aten(\.|::){re.escape(operator)}\b", said):
                return f"{operator} in {name}, {_module_of(graph, operator)}: "
    return ""


@contextmanager
def _named(what: str, graphs: Mapping[str, torch.fx.GraphModule] | None = None) -> Iterator[None]:
    """Turn whatever a lowering raises into an error that says what did not lower."""
    try:
        yield
    except MagicError:
        raise
    except Exception as error:  # torch.export, the passes and the backends share no base class
        said = " ".join(str(error).split())
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"{what} does not lower: {_named_in(said, graphs or {})}{type(error).__name__}: {said[:400]}.",
            "Leave this target out, or write the named module with other operators.",
        ) from error
