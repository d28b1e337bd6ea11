"""What the packages of a bundle are made of, and who would compute what."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from magicmm import Bundle
from magicmm.runtime import COREML
from magicmm_export.coreml.encoder import package_facts, package_path
from magicmm_export.coreml.facts import PackageFacts
from magicmm_export.coreml.interpreter.function import type_name
from magicmm_export.coreml.package import function_names, load_function, load_spec
from magicmm_export.coreml.planner import plan_packages
from magicmm_export.coreml.schemes import Units
from magicmm_export.planner import Plan
from magicmm_export.text_table import size_text, text_table

_CONSTEXPR = "constexpr_"


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """One function.

    Attributes:
        name: What an app calls it by.
        inputs: Shape and element type by name, as text.
        outputs: The same.
        operators: How many of each, constants left out.
        weights: Linears, and convolutions that are not plain, by how their weights are stored: "plain", or a
            `constexpr_` operator.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: dict[str, int]
    weights: dict[str, int]


@dataclass(frozen=True, slots=True)
class PackageInspection:
    """One package: what it says of itself, its size and its functions."""

    part: str
    facts: PackageFacts
    bytes: int
    functions: tuple[FunctionFacts, ...]


@dataclass(frozen=True, slots=True)
class CoremlInspection:
    """A bundle of Core ML packages.

    Attributes:
        id: Its name.
        bytes: By folder or file of the bundle.
        quantisation: What the manifest says.
        packages: By part.
        plan: Who computes what, by published rules.
    """

    id: str
    bytes: dict[str, int]
    quantisation: dict[str, str]
    packages: tuple[PackageInspection, ...]
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "plan": self.plan.to_json()}

    def table(self) -> str:
        """Return the whole as text."""
        total = sum(self.bytes.values())
        sizes = [(name, size_text(count), f"{count / total:.1%}") for name, count in self.bytes.items()]
        blocks = [
            f"{self.id}, Core ML packages, {size_text(total)}",
            text_table(("files", "bytes", ""), sizes),
            "\n".join(f"{part}: {said}" for part, said in self.quantisation.items()),
            *map(_package_text, self.packages),
            self.plan.table(),
        ]
        return "\n\n".join(blocks)


def inspect_packages(bundle: Bundle) -> CoremlInspection:
    """Read packages and manifest.

    Raises:
        MagicError: `bundle_invalid` for packages that cannot be read, `runtime_failed` without coremltools.
    """
    parts_of = tuple(bundle.manifest.graphs[COREML])
    packages = tuple(_package(bundle, part) for part in parts_of)
    sizes: Counter[str] = Counter()
    for name, entry in bundle.manifest.files.items():
        parts = PurePosixPath(name).parts
        sizes["/".join(parts[:2]) if parts[0] == "coreml" else parts[0]] += entry.bytes
    units = Units(packages[0].facts.units)
    paths = {part: package_path(bundle, part) for part in parts_of}
    return CoremlInspection(
        bundle.manifest.id,
        dict(sizes.most_common()),
        dict(bundle.manifest.quantisation),
        packages,
        plan_packages(paths, units),
    )


def _package(bundle: Bundle, part: str) -> PackageInspection:
    path = package_path(bundle, part)
    functions = tuple(_function(path, name) for name in function_names(load_spec(path)))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return PackageInspection(part, package_facts(bundle, part), size, functions)


def _function(path: Path, name: str) -> FunctionFacts:
    function = load_function(path, name)
    kinds: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for operation in function.operations:
        if operation.op_type in ("linear", "conv"):
            source = operation.weight.op.op_type
            is_packed = source.startswith(_CONSTEXPR)
            if is_packed or operation.op_type == "linear":
                weights[source if is_packed else "plain"] += 1
        if operation.op_type != "const" and not operation.op_type.startswith(_CONSTEXPR):
            kinds[operation.op_type] += 1
    return FunctionFacts(
        name,
        {key: _type_text(var) for key, var in function.inputs.items()},
        {var.name: _type_text(var) for var in function.outputs},
        dict(kinds.most_common()),
        dict(weights.most_common()),
    )


def _type_text(var: Any) -> str:
    return f"{type_name(var)} [{', '.join(str(side) for side in var.shape)}]"


def _package_text(package: PackageInspection) -> str:
    facts = package.facts
    lines = [
        f"{package.part}: {facts.scheme} for {facts.target}, {facts.units}; {size_text(package.bytes)}; "
        f"prefixes of up to {facts.prefix} tokens",
    ]
    for one in package.functions:
        own = {name: said for name, said in one.inputs.items() if not name.startswith("past_")}
        past = len(one.inputs) - len(own)
        inputs = ", ".join(f"{name} {said}" for name, said in own.items())
        stored = ", ".join(f"{count} x {kind}" for kind, count in one.weights.items())
        more = f", {past} keys and values" if past else ""
        lines.append(f"  {one.name}: {inputs}{more}; {sum(one.operators.values())} operators; weights: {stored}")
    return "\n".join(lines)
