"""Write the image graph: two views of each photo in; one vector out, and the visual tokens where there is a student."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.concepts import VIEWS, add_bank, add_logits
from magicmm_export.nano.efficientnet import Network, float_backbone
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.normalise import unit_length
from magicmm_export.nano.quantise import Observation, int8_backbone
from magicmm_export.nano.student import Student, add_photo, add_soft_words, read_views

SIDE = 256
BANK_GRAPH, IMAGE_GRAPH = "local-conse", "magic-image"
"""Names of the graph of the concept bank alone, and of that with a student."""


def image_graph(
    network: Network, bank: Array, seen: Mapping[str, Observation] | None, student: Student | None = None
) -> ModelProto:
    """Return the model `pixels` uint8 [2 n, 256, 256, 3] -> `vector` float32 [n, 384].

    With a student there is a second output, `visual` float32 [n, v, 384]: what `composed_graph` reads.

    Args:
        network: The convolutions and the classifier.
        bank: The concept bank [1000, 384].
        seen: What calibration saw of the backbone's values: the graph is int8. None: it is float32.
        student: What reads soft words; None = the concept bank alone says the vector.
    """
    graph = GraphWriter(BANK_GRAPH if student is None else IMAGE_GRAPH)
    pictures = _add_mirrored_view(graph, graph.input("pixels", TensorProto.UINT8, ("views", SIDE, SIDE, 3)))
    if seen is None:
        precision, maps = Precision.FP32, float_backbone(graph, network, pictures)
    else:
        precision, maps = Precision.INT8, int8_backbone(graph, network, pictures, seen)
    logits = add_logits(graph, maps, network, precision)
    if student is None:
        vector = add_bank(graph, logits, bank, precision, name="vector")
        graph.output(vector, TensorProto.FLOAT, ("photos", bank.shape[1]))
        return graph.model()
    words = add_soft_words(graph, read_views(graph, logits, student), student)
    terms = (add_photo(graph, words, student), add_bank(graph, logits, bank, precision))
    vector = unit_length(graph, graph.node("Sum", *terms), name="vector")
    graph.output(vector, TensorProto.FLOAT, ("photos", bank.shape[1]))
    visual = graph.node("Reshape", words, graph.ints(-1, student.tokens, student.config.width), name="visual")
    graph.output(visual, TensorProto.FLOAT, ("photos", student.tokens, student.config.width))
    return graph.model()


def _add_mirrored_view(graph: GraphWriter, pixels: str) -> str:
    """Add the mirrored crop as third view of each photo; return [3 n, 3, 256, 256]."""
    pairs = graph.node("Reshape", pixels, graph.ints(-1, 2, SIDE, SIDE, 3))
    crop = graph.node("Slice", pairs, graph.ints(0), graph.ints(1), graph.ints(1))
    mirrored = graph.node("Slice", crop, graph.ints(SIDE - 1), graph.ints(-SIDE - 1), graph.ints(3), graph.ints(-1))
    views = graph.node("Concat", pairs, mirrored, axis=1)
    flat = graph.node("Reshape", views, graph.ints(-1, SIDE, SIDE, 3))
    return graph.node("Transpose", flat, perm=[0, 3, 1, 2], name=f"pictures_of_{VIEWS}_views")
