"""What a program can be lowered for, which weights each target multiplies, and whether this machine can run it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicmm import ErrorCode, MagicError
from magicmm.executorch_runtime import require_executorch
from magicmm_export.decomposition import Norms
from magicmm_export.planner import NOT_RUN, RUN_HERE
from magicmm_quant.schemes import FLOAT32, INT4, INT8

if TYPE_CHECKING:
    from magicmm_quant.recipe import Recipe

_COREML_TARGET = "iOS17"


@dataclass(frozen=True, slots=True)
class Target:
    """One backend of ExecuTorch.

    Attributes:
        name: As `--also` takes it.
        norms: The form of norms that the backend keeps in one piece.
        kinds: Kinds of weights that it multiplies.
        status: `RUN_HERE` or `NOT_RUN`.
        partitioner: Gives a new partitioner; imports the backend.
        package: What a lowering needs beside executorch, or None.
    """

    name: str
    norms: Norms
    kinds: frozenset[str]
    status: str
    partitioner: Callable[[], Any]
    package: str | None = None

    def check(self, recipe: Recipe, units: Iterable[str]) -> None:
        """Check that the packages are there and that the backend multiplies all weights of a recipe.

        Raises:
            MagicError: `runtime_failed` for a missing package, `argument_invalid` for a scheme, naming the first unit.
        """
        require_executorch()
        if self.package and importlib.util.find_spec(self.package) is None:
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"Lowering for {self.name} needs {self.package}, which is not installed.",
                f"Run: pip install {self.package}",
            )
        for unit in units:
            kind = recipe.scheme_for(unit).kind
            if kind not in self.kinds:
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    f"The recipe {recipe.name} stores {unit} as {kind}, which {self.name} does not multiply with rows "
                    "that are rounded as they come.",
                    f"Take a recipe of {', '.join(sorted(self.kinds))}, or leave {self.name} out.",
                )


def find_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        MagicError: `argument_invalid` for an unknown name; `runtime_failed` for one that cannot be lowered for here.
    """
    if name == "qnn":
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            "Lowering for qnn needs Qualcomm's SDK, which executorch's package lacks; nobody has tried it with it.",
            f"Choose {', '.join(TARGETS)}.",
        )
    if name not in TARGETS:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"ExecuTorch has no target {name!r} here.", f"Choose {', '.join(TARGETS)}."
        )
    return TARGETS[name]


def _xnnpack() -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner()


def _vulkan() -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner()


def _coreml() -> Any:
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=coremltools.precision.FLOAT16,
        minimum_deployment_target=getattr(coremltools.target, _COREML_TARGET),
        compute_unit=coremltools.ComputeUnit.ALL,
    )
    return CoreMLPartitioner(compile_specs=specs)


XNNPACK = Target("xnnpack", Norms.PRODUCT, frozenset({FLOAT32, INT8, INT4}), RUN_HERE, _xnnpack)
TARGETS = {
    target.name: target
    for target in (
        XNNPACK,
        Target("vulkan", Norms.PRODUCT, frozenset({FLOAT32}), NOT_RUN, _vulkan),
        Target("coreml", Norms.NATIVE, frozenset({FLOAT32}), NOT_RUN, _coreml, "coremltools"),
    )
}
"""All but xnnpack are lowered ahead of time for devices that are not here."""
