"""Read the built-in model's weights back out of the int8 graphs that its builder wrote into a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.graph_files import graph_file
from magicmm_export.nano.adapters import PRODUCTS
from magicmm_export.nano.image import BANK_GRAPH, IMAGE_GRAPH
from magicmm_export.nano.quantise import Grid
from magicmm_export.nano.stored import (
    VIEW_TOKENS,
    Codes,
    StoredAdapter,
    StoredAdapters,
    StoredBank,
    StoredColours,
    StoredConv,
    StoredImage,
    StoredLayer,
    StoredLinear,
    StoredNorm,
    StoredSoftWords,
    StoredStudent,
    StoredTable,
    StoredText,
)
from magicmm_export.nano.student import COMPOSED_GRAPH

TEXT_GRAPH = "minilm"
"""What the builder calls the text graph."""
_MIDDLE = 128
"""Weights of products are stored unsigned, around this."""


def read_image(bundle: Bundle) -> StoredImage:
    """Read the image graph of a bundle, and of its composed graph what the others do not hold.

    Raises:
        MagicError: `argument_invalid` for a graph that the builder of the built-in model did not write in int8,
            `bundle_invalid` for one that cannot be read.
    """
    graph = _Graph(bundle, "image", (BANK_GRAPH, IMAGE_GRAPH))
    bank = StoredBank(graph.table("bank"), graph.kept("best"), graph.power("best"))
    student = _student(graph, _Graph(bundle, "composed", (COMPOSED_GRAPH,))) if graph.name == IMAGE_GRAPH else None
    return StoredImage(tuple(graph.convs()), graph.linear("classifier"), bank, student)


def read_text(bundle: Bundle) -> StoredText:
    """Read the text graph of a bundle.

    Raises:
        MagicError: As `read_image`.
    """
    graph = _Graph(bundle, "text", (TEXT_GRAPH,))
    words = graph.table("words")
    layers: list[StoredLayer] = []
    while graph.holds(f"encoder.layer.{len(layers)}.output.dense.weight"):
        name = f"encoder.layer.{len(layers)}"
        layers.append(
            StoredLayer(
                attention=graph.linear(f"{name}.attention.self.query"),
                mixed=graph.linear(f"{name}.attention.output.dense"),
                attention_norm=graph.norm(f"{name}.attention.output.LayerNorm"),
                inner=graph.linear(f"{name}.intermediate.dense"),
                outer=graph.linear(f"{name}.output.dense"),
                norm=graph.norm(f"{name}.output.LayerNorm"),
            )
        )
    return StoredText(words, graph.constant("positions"), graph.norm("embeddings.LayerNorm"), tuple(layers))


def _student(graph: _Graph, composed: _Graph) -> StoredStudent:
    """Read what was trained out of an image graph and the composed graph beside it."""
    # chances = Softmax(Concat(whole, share x own + (1 - share) x whole)), and TopK("likely") of them
    own = graph.maker("likely", "TopK", "Softmax", "Concat:1", "Add", "Mul")
    # vector: weight x the encoder, the bank, and weight x the colours
    read, coloured = (graph.maker("vector", "Div", f"Sum:{place}", "Mul") for place in (0, 2))
    # vector: weight x both read together, and the photo
    both = composed.maker("vector", "Div", "Add", "Mul")
    # visual: tokens of each photo, and its vector
    tokens = graph.constant(graph.maker("visual", "Concat", "Reshape").input[1])[1]
    return StoredStudent(
        words=StoredSoftWords(
            graph.table("soft_words"), graph.constant("soft_words.shift"), graph.kept("likely"), graph.number(own, 1)
        ),
        adapters=tuple(graph.adapters()),
        colours=StoredColours(graph.constant("colours.nearest"), graph.table("colours"), graph.number(coloured, 1)),
        views=int(tokens) // VIEW_TOKENS,
        encoder_weight=graph.number(read, 1),
        both_weight=composed.number(both, 1),
    )


class _Graph:
    """One graph with its constants, by the names that the builder gives them.

    Attributes:
        name: Of the graph.
    """

    def __init__(self, bundle: Bundle, part: str, names: Sequence[str]) -> None:
        self._bundle = bundle
        if bundle.manifest.architecture != "dual_encoder":
            raise self._foreign(f"its architecture is {bundle.manifest.architecture}")
        path = graph_file(bundle, part)
        try:
            model = onnx.load(str(path))
            self._constants = {one.name: onnx.numpy_helper.to_array(one).copy() for one in model.graph.initializer}
        except Exception as error:  # protobuf's own, and what onnx says of files beside the graph
            said = " ".join(str(error).split())[:300]
            raise MagicError(
                ErrorCode.BUNDLE_INVALID,
                f"{path} cannot be read: {said}.",
                "Install the bundle again, or build it anew.",
            ) from None
        self.name = model.graph.name
        if self.name not in names:
            raise self._foreign(f"its {part} graph is called {self.name!r}, not {' or '.join(map(repr, names))}")
        self._nodes = list(model.graph.node)
        self._makers = {output: node for node in self._nodes for output in node.output}

    def holds(self, name: str) -> bool:
        """Say whether there is a constant of a name."""
        return name in self._constants

    def constant(self, name: str) -> NDArray[Any]:
        if name not in self._constants:
            raise self._foreign(f"it holds no constant {name}")
        return self._constants[name]

    def maker(self, name: str, *path: str) -> onnx.NodeProto:
        """Return the node behind a value, by the kinds of nodes on the way back to it.

        Args:
            name: Of the value.
            path: Kinds from the value's own maker on, each with the place of the input to follow to it if not 0.
        """
        value, node = name, onnx.NodeProto()
        for step in path:
            kind, _, place = step.partition(":")
            node = self._makers.get(value, onnx.NodeProto())
            if node.op_type != kind:
                raise self._foreign(f"{name} does not come from {', '.join(path)}")
            value = node.input[int(place or 0)]
        return node

    def number(self, node: onnx.NodeProto, place: int) -> float:
        """Return a constant that a node reads."""
        return float(self.constant(node.input[place]).item())

    def table(self, name: str) -> StoredTable:
        return StoredTable(self.constant(name), self.constant(f"{name}.scale").reshape(-1))

    def kept(self, name: str) -> int:
        """Return how many are chosen of what is likely."""
        return int(self.number(self.maker(name, "TopK"), 1))

    def power(self, name: str) -> float:
        """Return the power that chances are raised to."""
        for node in self._nodes:
            if node.op_type in ("Sqrt", "Pow") and node.input[0] == name:
                return 0.5 if node.op_type == "Sqrt" else self.number(node, 1)
        raise self._foreign(f"nothing takes a power of {name}")

    def adapters(self) -> Iterator[StoredAdapters]:
        """Yield the adapters of each layer."""
        split = next((node for node in self._nodes if node.op_type == "Split" and "adapters.sizes" in node.input), None)
        if split is None:
            raise self._foreign("it holds no adapters")
        rows = self.constant("adapters").astype(np.float32) * self.constant("adapters.scale").astype(np.float32)
        ends = np.cumsum(self.constant("adapters.sizes"))[:-1]
        found = dict(zip(split.output, np.split(rows, ends), strict=True))
        rank = len(found["adapter.0.mixed.down"])

        def product(layer: int, parts: tuple[str, ...]) -> StoredAdapter:
            down = found[f"adapter.{layer}.{parts[0]}.down"]
            ups = [found[f"adapter.{layer}.{part}.up"] for part in parts]
            turned = (np.ascontiguousarray(up.reshape(rank, -1).T) for up in ups)
            return StoredAdapter(down.reshape(rank * len(parts), -1), tuple(turned))

        for layer in range(len(found) // sum(1 + len(parts) for parts in PRODUCTS)):
            yield StoredAdapters(*(product(layer, parts) for parts in PRODUCTS))

    def norm(self, name: str) -> StoredNorm:
        node = self._makers.get(name)
        if node is None:
            raise self._foreign(f"it holds no value {name}")
        eps = float(_attributes(node)["epsilon"])
        return StoredNorm(self.constant(f"{name}.weight"), self.constant(f"{name}.bias"), eps)

    def linear(self, name: str) -> StoredLinear:
        node = next(
            (one for one in self._nodes if one.op_type == "MatMulInteger" and one.input[1] == f"{name}.weight"), None
        )
        if node is None:
            raise self._foreign(f"it holds no product in 8 bits with {name}.weight")
        codes = (self.constant(node.input[1]).astype(np.int16) - _MIDDLE).astype(np.int8).T
        scales = self.constant(f"{name}.scale")
        # Codes that count from a floor got it back through the bias; here rows are what they are.
        lifted = self._floor(node) * (codes.astype(np.float32) * scales[:, None]).sum(1)
        bias = (self.constant(f"{name}.bias") - lifted).astype(np.float32)
        return StoredLinear(np.ascontiguousarray(codes), scales, bias, self._constants.get(f"{name}.balance"))

    def convs(self) -> Iterator[StoredConv]:
        """Yield the convolutions in order, each with the sum that follows it."""
        sums = {node.input[0]: node for node in self._nodes if node.op_type == "QLinearAdd"}
        for node in self._nodes:
            if node.op_type == "QLinearConv":
                yield self._conv(node, sums.get(node.output[0]))

    def _conv(self, node: onnx.NodeProto, total: onnx.NodeProto | None) -> StoredConv:
        entry, result = self._grid(node.input[1:3]), self._grid(node.input[6:8])
        scales, given = self.constant(node.input[4]), _attributes(node)
        codes, padding = _evenly_padded(self.constant(node.input[3]), given["pads"])
        steps = self.constant(node.input[8]).astype(np.float32)
        return StoredConv(
            name=node.output[0] if total is None else total.output[0],
            codes=codes,
            scales=scales,
            bias=steps * scales * np.float32(entry.scale),
            stride=int(given["strides"][0]),
            padding=padding,
            groups=int(given["group"]),
            entry=entry,
            result=result,
            other=None if total is None else total.input[3],
            total=result if total is None else self._grid(total.input[6:8]),
        )

    def _grid(self, names: Sequence[str]) -> Grid:
        scale, zero = (self.constant(name).item() for name in names)
        return Grid(float(scale), int(zero))

    def _floor(self, product: onnx.NodeProto) -> np.float32:
        """Return what the codes of a product count from: Sub, Div, Add, Cast, MatMulInteger; 0 where no Sub is."""
        node: onnx.NodeProto | None = product
        for _ in range(4):
            node = self._makers.get(node.input[0]) if node is not None else None
        is_lifted = node is not None and node.op_type == "Sub"
        return np.float32(self.constant(node.input[1]).item() if node is not None and is_lifted else 0)

    def _foreign(self, why: str) -> MagicError:
        return MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{self._bundle.path} is no int8 bundle of the built-in model's builder: {why}.",
            "Give the built-in bundle, or one that `python -m magicmm_export.nano` wrote; no other is lowered again.",
        )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _evenly_padded(codes: Codes, pads: Sequence[int]) -> tuple[Codes, int]:
    """Return weights and one padding for all four sides: zeros in front of the weights stand for padding that is less.

    Runtimes for phones pad both ends alike; a node of its own that pads would be one more that they may leave out.
    """
    first, last = pads[0], pads[2]
    more = last - first
    return np.pad(codes, ((0, 0), (0, 0), (more, 0), (more, 0))), last
