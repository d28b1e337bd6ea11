"""Write the image graph: two views of each photo in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.concepts import VIEWS, add_head
from magicmm_export.nano.efficientnet import Network, float_backbone
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.quantise import Observation, int8_backbone

SIDE = 256


def image_graph(network: Network, bank: Array, seen: Mapping[str, Observation] | None) -> ModelProto:
    """Return the model `pixels` uint8 [2 n, 256, 256, 3] -> `vector` float32 [n, 384].

    Args:
        network: The convolutions and the classifier.
        bank: The concept bank [1000, 384].
        seen: What calibration saw of the backbone's values: the graph is int8. None: it is float32.
    """
    graph = GraphWriter("local-conse")
    pictures = _add_mirrored_view(graph, graph.input("pixels", TensorProto.UINT8, ("views", SIDE, SIDE, 3)))
    if seen is None:
        vector = add_head(graph, float_backbone(graph, network, pictures), network, bank, Precision.FP32)
    else:
        vector = add_head(graph, int8_backbone(graph, network, pictures, seen), network, bank, Precision.INT8)
    graph.output(vector, TensorProto.FLOAT, ("photos", bank.shape[1]))
    return graph.model()


def _add_mirrored_view(graph: GraphWriter, pixels: str) -> str:
    """Add the mirrored crop as third view of each photo; return [3 n, 3, 256, 256]."""
    pairs = graph.node("Reshape", pixels, graph.ints(-1, 2, SIDE, SIDE, 3))
    crop = graph.node("Slice", pairs, graph.ints(0), graph.ints(1), graph.ints(1))
    mirrored = graph.node("Slice", crop, graph.ints(SIDE - 1), graph.ints(-SIDE - 1), graph.ints(3), graph.ints(-1))
    views = graph.node("Concat", pairs, mirrored, axis=1)
    flat = graph.node("Reshape", views, graph.ints(-1, SIDE, SIDE, 3))
    return graph.node("Transpose", flat, perm=[0, 3, 1, 2], name=f"pictures_of_{VIEWS}_views")
