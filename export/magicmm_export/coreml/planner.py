"""Which operators of a package the Neural Engine or the GPU would take, by published rules; nothing here asks a device.

| rule | published in |
| --- | --- |
| float16 runs on all units, float32 on GPU and CPU only | Apple, coremltools guide, "Typed Execution" |
| whole numbers and what is looked up by them stay on the CPU | hollance/neural-engine, unsupported-layers.md; |
| | the compute plans of roboflow/rf-detr PR 1495 show the same |
| scales by block of inputs fall back to the CPU | apple/coremltools #2510: "per-cout/per-tensor" only |
| an axis longer than 16384 is not taken | microsoft/onnxruntime #19543, apple/coremltools #1003 |
| fused attention gives wrong numbers on the engine of iOS 26 | pytorch/executorch #15833 |

Reports disagree on int8 weights: one compute plan (kasper0406/stablehlo-coreml PR 110) left such products to the CPU of
a Mac. Only `MLComputePlan` on the device says what it does; a plan of ours says what to expect.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from magicmm_export.coreml.interpreter.function import type_name
from magicmm_export.coreml.package import function_names, load_function, load_spec
from magicmm_export.coreml.schemes import Units
from magicmm_export.planner import NOT_RUN, PartPlan, Plan, PlannedOperator, gather_operators

if TYPE_CHECKING:
    from pathlib import Path

ENGINE, GPU = "ane", "gpu"
LONGEST_AXIS = 16384
_FLOATS = ("fp16", "fp32")
_LOOKED_UP = ("gather", "gather_along_axis")
_FUSED = "scaled_dot_product_attention"
_KNOWN = frozenset(
    (
        *(
            "abs",
            "add",
            "avg_pool",
            "concat",
            "conv",
            "expand_dims",
            "gelu",
            "layer_norm",
            "linear",
            "matmul",
            "maximum",
        ),
        *("mul", "real_div", "reduce_l2_norm", "reduce_max", "reduce_mean", "reduce_sum", "reshape", "rsqrt", "silu"),
        *("slice_by_index", "softmax", "split", "sqrt", "square", "squeeze", "sub", "tile", "transpose"),
    )
)
"""Operators on float16 that no source above leaves out."""


def plan_packages(packages: dict[str, Path], units: Units) -> Plan:
    """Return the plan of a model.

    Args:
        packages: By part.
        units: Where an app lets it run; decides the accelerator that counts.

    Raises:
        MagicError: `bundle_invalid` for what is no package.
    """
    target = ENGINE if units is Units.ALL else GPU
    parts = []
    for part, path in packages.items():
        names = function_names(load_spec(path))
        for name in names:
            parts.append(plan_function(part if len(names) == 1 else name, load_function(path, name), target))
    return Plan("coreml", target, f"{NOT_RUN}; by published rules, not verified here", tuple(parts))


def plan_function(name: str, function: Any, target: str) -> PartPlan:
    """Return the plan of one pymil function for an accelerator."""
    nodes = []
    pieces, inside = 0, False
    for operation in function.operations:
        if operation.op_type == "const" or operation.op_type.startswith("constexpr_"):
            continue
        place, why = _place(operation, target)
        nodes.append(PlannedOperator(operation.op_type, 1, place, why, _work(operation)))
        pieces += place is not None and not inside
        inside = place is not None
    return PartPlan(name, pieces, gather_operators(nodes))


def _place(operation: Any, target: str) -> tuple[str | None, str]:
    """Return where an operation runs, and why."""
    types = [type_name(var) for var in (*operation.outputs, *_variables(operation))]
    if operation.op_type in _LOOKED_UP or any(one not in _FLOATS for one in types):
        return None, "CPU: whole numbers, or looked up by them"
    if target == GPU:
        return GPU, ""
    if operation.op_type == "cast" or "fp32" in types:
        return None, "GPU or CPU: float32"
    longest = max((side for var in operation.outputs for side in var.shape), default=0)
    if longest > LONGEST_AXIS:
        return None, f"CPU or GPU: an axis of {longest}"
    if _has_blocks(operation):
        return None, "CPU: scales by block of inputs"
    if operation.op_type == _FUSED:
        return None, "wrong on iOS 26"
    if operation.op_type not in _KNOWN:
        return None, "no published rule"
    return ENGINE, ""


def _variables(operation: Any) -> list[Any]:
    """Return the tensors that an operation reads and that are no constants."""
    found = []
    for value in operation.inputs.values():
        for var in value if isinstance(value, (tuple, list)) else (value,):
            if var is not None and (var.op is None or var.op.op_type != "const"):
                found.append(var)
    return found


def _has_blocks(operation: Any) -> bool:
    """Say whether a weight has more than one scale along its inputs."""
    sources = [var.op for var in _variables(operation) if var.op is not None]
    scaled = (one for one in sources if one.op_type == "constexpr_blockwise_shift_scale")
    return any(prod(one.scale.shape[1:]) > 1 for one in scaled)


def _work(operation: Any) -> int:
    """Return the arithmetic operations: 2 m k n of a product, else one for each number that comes out."""
    count = sum(prod(var.shape) for var in operation.outputs)
    kind = operation.op_type
    if kind == "linear":
        return int(2 * count * operation.weight.shape[1])
    if kind == "matmul":
        turned = bool(operation.transpose_x is not None and operation.transpose_x.val)
        return int(2 * count * operation.x.shape[-2 if turned else -1])
    if kind == "conv":
        return int(2 * count * prod(operation.weight.shape[1:]))
    return int(count)
