"""Write the image graph: two views of each photo in; one vector out, and the visual tokens where there is a student."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from magicmm_export.graph import GraphWriter
from magicmm_export.nano.colours import add_colours
from magicmm_export.nano.concepts import VIEWS, Bank, Logits, add_bank, add_logits
from magicmm_export.nano.efficientnet import Network, float_backbone
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.normalise import unit_length
from magicmm_export.nano.quantise import Calibration, int8_backbone
from magicmm_export.nano.student import Student, add_photo, add_soft_words, add_visual, read_views

SIDE = 256
GIVEN_VIEWS = 2
"""Of each photo; the graph makes the third itself."""
BANK_GRAPH, IMAGE_GRAPH = "local-conse", "magic-image"
"""Names of the graph of the concept bank alone, and of that with a student."""


def image_graph(network: Network, bank: Bank, seen: Calibration | None, student: Student | None = None) -> ModelProto:
    """Return the model `pixels` uint8 [2 n, 256, 256, 3] -> `vector` float32 [n, 384].

    With a student there is a second output, `visual` float32 [n, v, 384]: what `composed_graph` reads.

    Args:
        network: The convolutions and the classifier.
        bank: The concept bank.
        seen: What calibration saw of the backbone: the graph is int8. None: it is float32.
        student: What reads soft words; None = the concept bank alone says the vector.
    """
    graph = GraphWriter(BANK_GRAPH if student is None else IMAGE_GRAPH, is_terse=student is not None)
    pixels = graph.input("pixels", TensorProto.UINT8, ("views", SIDE, SIDE, 3))
    pictures = _add_mirrored_view(graph, pixels)
    if seen is None:
        precision, maps = Precision.FP32, float_backbone(graph, network, pictures)
    else:
        precision, maps = Precision.INT8, int8_backbone(graph, network, pictures, seen)
    logits = add_logits(graph, maps, network, precision)
    if student is None:
        vector = add_bank(graph, logits, bank, precision, name="vector")
        graph.output(vector, TensorProto.FLOAT, ("photos", bank.vectors.shape[1]))
        return graph.model()
    words = add_soft_words(graph, read_views(graph, logits, student), student)
    vector = add_indexed(graph, pixels, SIDE, logits, words, bank, student)
    graph.output(vector, TensorProto.FLOAT, ("photos", bank.vectors.shape[1]))
    graph.output(
        add_visual(graph, words, vector, student), TensorProto.FLOAT, ("photos", student.handed, student.config.width)
    )
    return graph.model()


def add_indexed(
    graph: GraphWriter, pixels: str, side: int, logits: Logits, words: str, bank: Bank, student: Student
) -> str:
    """Add `vector`, what an index holds of photos (see `NanoModel.indexed`): [photos, width].

    Args:
        graph: Where the nodes go.
        pixels: uint8 [2 n, side, side, 3].
        side: Of a view.
        logits: Of all views.
        words: Visual tokens of the views that are read.
        bank: The concept bank.
        student: The rest.
    """
    colours = add_colours(graph, pixels, GIVEN_VIEWS, side, student.colours, student.precision)
    terms = (
        graph.node("Mul", add_photo(graph, words, student), graph.scalar(student.config.encoder_weight)),
        add_bank(graph, logits, bank, student.precision),
        graph.node("Mul", colours, graph.scalar(student.config.colour_weight)),
    )
    return unit_length(graph, graph.node("Sum", *terms), name="vector")


def _add_mirrored_view(graph: GraphWriter, pixels: str) -> str:
    """Add the mirrored crop as third view of each photo; return [3 n, 3, 256, 256]."""
    pairs = graph.node("Reshape", pixels, graph.ints(-1, GIVEN_VIEWS, SIDE, SIDE, 3))
    crop = graph.node("Slice", pairs, graph.ints(0), graph.ints(1), graph.ints(1))
    mirrored = graph.node("Slice", crop, graph.ints(SIDE - 1), graph.ints(-SIDE - 1), graph.ints(3), graph.ints(-1))
    views = graph.node("Concat", pairs, mirrored, axis=1)
    flat = graph.node("Reshape", views, graph.ints(-1, SIDE, SIDE, 3))
    return graph.node("Transpose", flat, perm=[0, 3, 1, 2], name=f"pictures_of_{VIEWS}_views")
