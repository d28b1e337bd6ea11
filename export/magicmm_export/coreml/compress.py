"""Weights of linears in fewer bits: what coremltools' passes do, and the check that they did it everywhere.

Only weights of `linear` are touched. A rule for all constants would also round rotary tables, masks and positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.package import MAIN, coremltools, quiet

if TYPE_CHECKING:
    from magicmm_export.coreml.schemes import CoremlScheme

LINEAR = "linear"


def compress(model: Any, scheme: CoremlScheme) -> Any:
    """Return the same program with weights of linears as a scheme stores them.

    Args:
        model: coremltools' `MLModel` with one function.
        scheme: How.

    Raises:
        MagicError: `argument_invalid`, which names a linear whose width the groups do not divide.
    """
    if scheme.bits >= 16:
        return model
    coremltools()
    with quiet():
        from coremltools.optimize import coreml as optimiser

        if scheme.name.startswith("palette"):
            config = optimiser.OptimizationConfig(
                op_type_configs={
                    LINEAR: optimiser.OpPalettizerConfig(
                        mode="kmeans",
                        nbits=scheme.bits,
                        granularity="per_grouped_channel",
                        group_size=scheme.group,
                        weight_threshold=0,
                    )
                }
            )
            compressed = optimiser.palettize_weights(model, config)
        else:
            blocks = {"granularity": "per_block", "block_size": scheme.group} if scheme.group else {}
            config = optimiser.OptimizationConfig(
                op_type_configs={
                    LINEAR: optimiser.OpLinearQuantizerConfig(
                        mode="linear_symmetric", dtype=f"int{scheme.bits}", weight_threshold=0, **blocks
                    )
                }
            )
            compressed = optimiser.linear_quantize_weights(model, config)
    _check_all(compressed, scheme)
    return compressed


def _check_all(model: Any, scheme: CoremlScheme) -> None:
    """Coremltools leaves out what its groups do not divide, with a warning only."""
    for operation in model._mil_program.functions[MAIN].operations:
        if operation.op_type != LINEAR:
            continue
        source = operation.weight.op
        if source is None or not source.op_type.startswith("constexpr_"):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{scheme.name} does not fit {operation.name}: groups of {scheme.group} do not divide its weight "
                f"{list(operation.weight.shape)}.",
                "Take --recipe int8.",
            )
