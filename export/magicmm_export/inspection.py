"""What a bundle is made of: operators, types, bytes and schemes, and which execution providers know the operators."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from magicmm import Bundle, MagicError
from magicmm.runtime import open_session
from magicmm_export.graph_files import external, graph_file, load_graph, packed_tensors
from magicmm_export.planner import Plan, read_plans
from magicmm_export.providers import ProviderCheck, check_providers
from magicmm_export.text_table import size_text, text_table

_UNIT = re.compile(r"(vision|language)\.layers\.\d+\.(\w+)|(connector)\.(\w+)|(vision|language|rotary)\.(\w+)")
_NUMBER = re.compile(r"_\d+$")
_WEIGHT_INPUTS = {
    "Conv": 1,
    "DynamicQuantizeMatMul": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "MatMulNBits": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
_LEAST_SHOWN = 1000
"""Bytes of a kind of constants that has a line of its own in the table."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: name, element type, and shape with names for free dimensions."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph.

    Attributes:
        part: "vision", "language", "image" or "text".
        runtime: What it is for: "onnx", or that of an alternative, which keeps its large constants in the same files.
        opset: Version by domain ("" is ONNX itself).
        operators: Nodes by operator, "com.microsoft.X" for contrib ones.
        types: Bytes of constants by element type, as they lie on disk ("packed int8" has 4 bits a weight).
        kinds: Bytes of constants by kind of unit: "vision fc1", "language qkv", or "read by" an operator.
        schemes: Matrix products and convolutions with constant weights, by the type of these.
        inputs: In order.
        outputs: In order.
        providers: What is known of accelerators.
        load: "not tried", "loads", or what the runtime said against it on this machine's CPU.
    """

    part: str
    runtime: str
    opset: dict[str, int]
    operators: dict[str, int]
    types: dict[str, int]
    kinds: dict[str, int]
    schemes: dict[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    providers: tuple[ProviderCheck, ...]
    load: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A bundle.

    Attributes:
        id: Its name.
        architecture: "vision_language" or "dual_encoder".
        bytes: By what files are for: each graph, "tokens", "prefixes", "tokenizer", "golden", "other".
        quantisation: What the manifest says.
        graphs: By part, those of onnxruntime first.
        plans: Of programs for other runtimes: who computes what.
    """

    id: str
    architecture: str
    bytes: dict[str, int]
    quantisation: dict[str, str]
    graphs: tuple[Graph, ...]
    plans: tuple[Plan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "plans": [plan.to_json() for plan in self.plans]}

    def table(self) -> str:
        """Return the whole as text."""
        total = sum(self.bytes.values())
        sizes = [(name, size_text(count), f"{count / total:.1%}") for name, count in self.bytes.items()]
        blocks = [
            f"{self.id}, {self.architecture}, {size_text(total)}",
            text_table(("files", "bytes", ""), sizes),
            "\n".join(f"{part}: {said}" for part, said in self.quantisation.items()),
        ]
        return "\n\n".join([*blocks, *map(_graph_text, self.graphs), *(plan.table() for plan in self.plans)])


def inspect_bundle(path: Path, load: bool = False) -> Inspection:
    """Read graphs and manifest; no weights, unless `load` asks for sessions.

    Args:
        path: A bundle of either architecture.
        load: Also open every graph with its runtime, one at a time.

    Raises:
        MagicError: `bundle_invalid`.
    """
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    parts = ("image", "text") if manifest.architecture == "dual_encoder" else ("vision", "language")
    given = [("onnx", part) for part in parts if "onnx" in manifest.graphs]
    given += [(runtime, part) for runtime, owned in manifest.alternatives.items() for part in owned]
    graphs = {(runtime, part): load_graph(graph_file(bundle, part, runtime)) for runtime, part in given}
    return Inspection(
        manifest.id,
        manifest.architecture,
        _file_bytes(bundle, graphs),
        dict(manifest.quantisation),
        tuple(_graph(bundle, part, runtime, model, load) for (runtime, part), model in graphs.items()),
        read_plans(bundle),
    )


def _graph(bundle: Bundle, part: str, runtime: str, model: onnx.ModelProto, load: bool) -> Graph:
    operators = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node)
    packed = {tensor.name for tensor in packed_tensors(bundle, part, model)}
    readers = {name: node.op_type for node in reversed(model.graph.node) for name in node.input}
    types: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        size = _stored_bytes(tensor, tensor.name in packed, bundle, part)
        name = _type_name(tensor.data_type)
        types[f"packed {name}" if tensor.name in packed else name] += size
        kinds[_kind(tensor.name, readers.get(tensor.name, "nothing"))] += size
    inputs = tuple(map(_value, model.graph.input))
    is_dynamic = any(not isinstance(side, int) for value in inputs for side in value.shape)
    return Graph(
        part=part,
        runtime=runtime,
        opset={entry.domain: entry.version for entry in model.opset_import},
        operators=dict(operators.most_common()),
        types=dict(types.most_common()),
        kinds=dict(kinds.most_common()),
        schemes=_schemes(model, packed),
        inputs=inputs,
        outputs=tuple(map(_value, model.graph.output)),
        providers=check_providers(operators, is_dynamic),
        load=_load(bundle, part, runtime) if load else "not tried",
    )


def _schemes(model: onnx.ModelProto, packed: set[str]) -> dict[str, int]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    unpacked = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        place = _WEIGHT_INPUTS.get(node.op_type)
        name = node.input[place] if place else ""
        weight = constants.get(unpacked.get(name, name))
        if weight is None:
            continue
        if node.op_type == "MatMulNBits":
            bits = next(onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == "bits")
            counts[f"{bits} bits in blocks"] += 1
        else:
            counts["4 bits, packed" if weight.name in packed else _type_name(weight.data_type)] += 1
    return dict(counts.most_common())


def _stored_bytes(tensor: onnx.TensorProto, is_packed: bool, bundle: Bundle, part: str) -> int:
    """Return the bytes of a constant on disk, without the padding between constants."""
    if is_packed:
        from safetensors import safe_open

        with safe_open(bundle.file(bundle.manifest.packed["onnx"][part]), "np") as file:
            return sum(prod(file.get_slice(f"{tensor.name}.{kind}").get_shape()) for kind in ("codes", "multipliers"))
    length = external(tensor, "length")
    if length is not None:
        return int(length)
    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return len(tensor.raw_data) or prod(tensor.dims) * width


def _file_bytes(bundle: Bundle, graphs: dict[tuple[str, str], onnx.ModelProto]) -> dict[str, int]:
    """Sort every listed file into what it is for."""
    manifest = bundle.manifest
    purposes: dict[str, str] = {manifest.text.tokenizer: "tokenizer", manifest.golden: "golden"}
    purposes |= {role.prefix: "prefixes" for role in manifest.roles.values() if role.prefix}
    if manifest.tokens:
        purposes[manifest.tokens.file] = "tokens"
    for (runtime, part), model in reversed(graphs.items()):  # shared files count for the first that names them
        first = runtime == "onnx"
        name = manifest.graphs["onnx"][part] if first else manifest.alternatives[runtime][part]
        places = {external(tensor, "location") for tensor in model.graph.initializer} - {None}
        beside = [(Path(name).parent / str(place)).as_posix() for place in places]
        purposes |= dict.fromkeys([name, *beside], f"{part} graph" if first else f"{part} graph for {runtime}")
    for runtime, parts in manifest.graphs.items():
        if runtime != "onnx":
            purposes |= dict.fromkeys(parts.values(), f"program for {runtime}")
    for runtime, name in (manifest.raw.get("lowered") or {}).items():
        purposes[str(name)] = f"program for {runtime}, not run"
    sizes: Counter[str] = Counter()
    for name, entry in manifest.files.items():
        golden = Path(name).parent == Path(manifest.golden).parent and name not in purposes
        sizes["golden" if golden and len(Path(name).parts) > 1 else purposes.get(name, "other")] += entry.bytes
    return {purpose: count for purpose, count in sizes.most_common() if count}


def _load(bundle: Bundle, part: str, runtime: str) -> str:
    try:
        open_session(bundle, part, threads=1, runtime=runtime)
    except MagicError as error:
        return error.message
    return "loads"


def _kind(name: str, reader: str) -> str:
    unit = _UNIT.match(name)
    return " ".join(filter(None, unit.groups())) if unit else f"read by {reader}"


def _type_name(kind: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(kind)).lower()
    return "float32" if name == "float" else name


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    sides = (side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in tensor.shape.dim)
    return Value(info.name, _type_name(tensor.elem_type), tuple(sides))


def _graph_text(graph: Graph) -> str:
    def sizes(counts: dict[str, int]) -> list[tuple[str, str]]:
        return [(name, size_text(count)) for name, count in counts.items() if count >= _LEAST_SHOWN]

    def values(some: tuple[Value, ...]) -> str:
        texts = (
            f"{_NUMBER.sub('_{i}', value.name)} {value.type} [{', '.join(map(str, value.shape))}]" for value in some
        )
        return ", ".join(dict.fromkeys(texts))  # those of all layers as one

    opset = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in graph.opset.items())
    blocks = [
        f"{graph.part} for {graph.runtime}: opset {opset}; on this machine's CPU: {graph.load}",
        f"in:  {values(graph.inputs)}\nout: {values(graph.outputs)}",
        "products: " + ", ".join(f"{count} x {name}" for name, count in graph.schemes.items()),
        text_table(("operator", "nodes"), [(name, str(count)) for name, count in graph.operators.items()]),
        text_table(("constants by type", "bytes"), sizes(graph.types)),
        text_table(("constants by use", "bytes"), sizes(graph.kinds)),
        "\n".join(map(_provider_text, graph.providers)),
    ]
    return "\n\n".join(blocks)


def _provider_text(check: ProviderCheck) -> str:
    if check.unsupported is None:
        found = "operators not known."
    elif check.unsupported:
        found = f"without {', '.join(check.unsupported)}."
    else:
        found = "no operator is known to be missing."
    return " ".join((f"{check.provider}:", found, *check.notes))
