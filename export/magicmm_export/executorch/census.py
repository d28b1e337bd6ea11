"""Which nodes of a lowered method went to a delegate, which stayed outside and why, and how much work each is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from magicmm_export.planner import PartPlan, PlannedOperator, gather_operators

_DELEGATE = "executorch_call_delegate"
_NO_WORK = ("getitem", "alloc")
_KNOWN = {
    "index_select": "it picks rows by number",
    "_to_dim_order_copy": "whole numbers come in, the backend computes with floats",
}
"""Operators whose reason is the same for every backend."""


def plan_part(name: str, graph: GraphModule, target: str) -> PartPlan:
    """Return the plan of one method.

    Args:
        name: Of the method.
        graph: Its lowered graph.
        target: The backend, as plans name it.
    """
    nodes: list[PlannedOperator] = []
    pieces = 0
    for node in _calls(graph.graph):
        if short_name(node) == _DELEGATE:
            pieces += 1
            inner = getattr(graph, str(node.args[0].target)).original_module  # type: ignore[union-attr]
            nodes.extend(_planned(one, target, "") for one in _calls(inner.graph_module.graph))
        else:
            nodes.append(_planned(node, None, _reason(short_name(node), target)))
    return PartPlan(name, pieces, gather_operators([node for node in nodes if node.operator not in _NO_WORK]))


def _planned(node: Node, place: str | None, why: str) -> PlannedOperator:
    return PlannedOperator(short_name(node), 1, place, why, _work(node))


def _calls(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if node.op == "call_function")


def short_name(node: Node) -> str:
    """Return "bmm" of aten.bmm.default."""
    name = str(getattr(node.target, "_name", None) or getattr(node.target, "__name__", node.target))
    return name.partition("::")[2].partition(".")[0] or name.partition(".")[0]


def _reason(operator: str, target: str) -> str:
    if operator in _KNOWN:
        return _KNOWN[operator]
    if target != "xnnpack":
        return f"the partitioner of {target} left it out"
    if operator in _xnnpack_operators():
        return "XNNPACK has it, but not in this form (type, shape, or an argument that is no constant)"
    return "XNNPACK has no such operator"


@functools.cache
def _xnnpack_operators() -> frozenset[str]:
    """Return the operators that XNNPACK's partitioner has a rule for."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    return frozenset(str(config().target_name).partition(".")[0] for config in ALL_PARTITIONER_CONFIGS)


def _work(node: Node) -> int:
    """Return the arithmetic operations of a node; what depends on constants alone is computed beforehand."""
    shape = _shape(node)
    inputs = node.all_input_nodes
    if shape is None or (inputs and all(_is_constant(one) for one in inputs)):
        return 0
    size, operator = prod(shape), short_name(node)
    if operator == "convolution":
        return 2 * size * prod((_shape(inputs[1]) or (1,))[1:])
    if operator in ("linear", "mm", "bmm"):
        return 2 * size * (_shape(inputs[0]) or (1,))[-1]
    if operator == "addmm":
        return 2 * size * (_shape(inputs[1]) or (1,))[-1]
    return size


def _is_constant(node: Node) -> bool:
    """Return whether a node holds a weight, or something made of weights alone."""
    if node.op == "placeholder":
        return node.name.startswith(("p_", "b_", "c_", "_lifted"))
    inputs = node.all_input_nodes
    return node.op == "get_attr" or (bool(inputs) and all(map(_is_constant, inputs)))


def _shape(node: Node) -> tuple[int, ...] | None:
    value: Any = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = next((one for one in value if isinstance(one, (Tensor, torch.Tensor))), None)
    return tuple(int(side) for side in value.shape) if isinstance(value, Tensor) else None
