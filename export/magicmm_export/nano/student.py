"""The trained part of the built-in model as nodes: soft words, and the encoder that reads them with or without text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.adapters import AdapterWriter
from magicmm_export.nano.concepts import VIEWS, Logits, mean_of_views
from magicmm_export.nano.encoder import EncoderWriter
from magicmm_export.nano.linear import Precision, Store, quantise_rows
from magicmm_export.nano.normalise import unit_length
from magicmm_model.nano.config import CLS, SEP, NanoConfig

READ_VIEWS = VIEWS
"""Views of a photo that the encoder reads, the first ones; the concept bank sees all."""
COMPOSED_GRAPH = "magic-composed"
_LEAST_CHANCE = 1e-9
_TO_THE_END = 2**31 - 1


@dataclass(frozen=True)
class Student:
    """What was trained, beside the pretrained encoder.

    Attributes:
        config: Shapes.
        encoder: The pretrained tensors, by the names of BERT.
        peaks: As `EncoderWriter` takes them; None: everything is float32.
        adapters: As `AdapterWriter` takes them.
        table: The rows that soft words are mixed from [classes, width].
        shift: Added to each soft word [width].
        colours: Vectors of the colour words [11, width].
        views: How many views of a photo are read.
    """

    config: NanoConfig
    encoder: Mapping[str, Array]
    peaks: Mapping[str, Array] | None
    adapters: Mapping[str, Array]
    table: Array
    shift: Array
    colours: Array
    views: int = READ_VIEWS

    @property
    def precision(self) -> Precision:
        """How weights are stored and multiplied."""
        return Precision.FP32 if self.peaks is None else Precision.INT8

    @property
    def tokens(self) -> int:
        """Visual tokens of a photo."""
        return self.views * (1 + self.config.cells)

    @property
    def handed(self) -> int:
        """Rows of `visual`: the visual tokens of a photo, and its vector."""
        return self.tokens + 1


def add_soft_words(graph: GraphWriter, logits: Logits, student: Student) -> str:
    """Add the visual tokens of views [views, 1 + cells, width] (see `magicmm_model.nano.connector.SoftWords`)."""
    config = student.config
    share = config.local_share
    own = graph.node("Mul", logits.cells, graph.scalar(share))
    mixed = graph.node("Add", own, graph.node("Mul", logits.whole, graph.scalar(1 - share)))
    chances = graph.node("Softmax", graph.node("Concat", logits.whole, mixed, axis=1), axis=-1)
    best, classes = graph.nodes("TopK", chances, graph.ints(config.kept), names=("likely", "likely_classes"), axis=-1)
    roots = graph.node("Sqrt", graph.node("Max", best, graph.scalar(_LEAST_CHANCE)))
    weights = graph.node("Div", roots, graph.node("ReduceSum", roots, graph.ints(-1), keepdims=1))
    if student.precision is Precision.FP32:
        rows = graph.node("Gather", graph.constant("soft_words", student.table), classes)
    else:
        codes, scale = quantise_rows(student.table)
        picked = graph.node("Gather", graph.constant("soft_words", codes), classes)
        rows = graph.node("Cast", picked, to=TensorProto.FLOAT)
        weights = graph.node("Mul", weights, graph.node("Gather", graph.constant("soft_words.scale", scale), classes))
    mixture = graph.node("MatMul", graph.node("Unsqueeze", weights, graph.ints(2)), rows)
    words = graph.node("Squeeze", mixture, graph.ints(2))
    return graph.node("Add", words, graph.constant("soft_words.shift", student.shift))


def read_views(graph: GraphWriter, logits: Logits, student: Student) -> Logits:
    """Return the logits of the views that the encoder reads."""
    if student.views == VIEWS:
        return logits

    def first(value: str, cells: int) -> str:
        by_photo = graph.node("Reshape", value, graph.ints(-1, VIEWS, cells, student.config.classes))
        kept = graph.node("Slice", by_photo, graph.ints(0), graph.ints(student.views), graph.ints(1))
        return graph.node("Reshape", kept, graph.ints(-1, cells, student.config.classes))

    return Logits(first(logits.cells, student.config.cells), first(logits.whole, 1))


def add_photo(graph: GraphWriter, visual: str, student: Student) -> str:
    """Add what the encoder says of photos alone: visual [views, tokens, width] -> unit rows [photos, width]."""
    views = graph.node("Shape", visual, start=0, end=1)
    shape = graph.node("Concat", views, graph.ints(2), axis=0)
    ids = graph.node("Expand", graph.shared(np.array([[CLS, SEP]], np.int64)), shape)
    mask = graph.node("Expand", graph.scalar(1), shape)
    return mean_of_views(graph, _read(graph, visual, ids, mask, student), student.views, student.config.width)


def composed_graph(student: Student) -> ModelProto:
    """Return the model `visual` float32 [n, v, width], `ids`, `mask` int64 [n, s] -> `vector` float32 [n, width]."""
    graph, config = GraphWriter(COMPOSED_GRAPH, is_terse=True), student.config
    given = graph.input("visual", TensorProto.FLOAT, ("n", student.handed, config.width))
    ids = graph.input("ids", TensorProto.INT64, ("n", "s"))
    mask = graph.node("Cast", graph.input("mask", TensorProto.INT64, ("n", "s")), to=TensorProto.FLOAT)
    sizes = graph.ints(student.tokens, 1)
    tokens, photo = graph.nodes("Split", given, sizes, names=("tokens", "photo"), axis=1)
    visual = graph.node("Reshape", tokens, graph.ints(-1, 1 + config.cells, config.width))
    shape = graph.node("Concat", graph.ints(-1), graph.node("Shape", ids, start=1, end=2), axis=0)

    def each_view(value: str) -> str:
        repeated = graph.node("Expand", graph.node("Unsqueeze", value, graph.ints(1)), graph.ints(1, student.views, 1))
        return graph.node("Reshape", repeated, shape)

    vectors = _read(graph, visual, each_view(ids), each_view(mask), student)
    both = graph.node(
        "Mul", mean_of_views(graph, vectors, student.views, config.width), graph.scalar(config.both_weight)
    )
    vector = unit_length(graph, graph.node("Add", both, graph.node("Squeeze", photo, graph.ints(1))), name="vector")
    graph.output(vector, TensorProto.FLOAT, ("n", config.width))
    return graph.model()


def add_visual(graph: GraphWriter, words: str, vector: str, student: Student) -> str:
    """Add `visual` [photos, handed, width] for `composed_graph`: soft words [views, tokens, width], `vector`."""
    tokens = graph.node("Reshape", words, graph.ints(-1, student.tokens, student.config.width))
    return graph.node("Concat", tokens, graph.node("Unsqueeze", vector, graph.ints(1)), axis=1, name="visual")


def _read(graph: GraphWriter, visual: str, ids: str, mask: str, student: Student) -> str:
    """Add the encoder for [CLS], the visual tokens, and the other ids: one unit row a view."""
    adapt = AdapterWriter(graph, student.adapters, student.config, student.precision)
    store = graph.constant if student.precision is Precision.FP32 else _stored_small(graph, student)
    encoder = EncoderWriter(graph, student.encoder, student.peaks, student.config, adapt, store)
    return _encode(encoder, graph, visual, ids, mask)


def _encode(encoder: EncoderWriter, graph: GraphWriter, visual: str, ids: str, mask: str) -> str:
    words = encoder.words(ids)
    first = graph.node("Slice", words, graph.ints(0), graph.ints(1), graph.ints(1))
    others = graph.node("Slice", words, graph.ints(1), graph.ints(_TO_THE_END), graph.ints(1))
    sequence = graph.node("Concat", first, visual, others, axis=1)
    seen = graph.node("Expand", graph.scalar(1), graph.node("Shape", visual, start=0, end=2))
    places = graph.node("Concat", seen, mask, axis=1)
    rows = encoder.layers(encoder.enter(sequence, places), encoder.hidden(places), places)
    vectors = encoder.pool(rows, places, places)
    encoder.check_used()
    return vectors


def _small_constants(student: Student) -> dict[str, Array]:
    """Return the small constants that the encoder stores, in order: what a graph that nobody keeps asks for."""
    graph = GraphWriter("sketch")
    found: dict[str, Array] = {}

    def store(name: str, array: Array) -> str:
        found[name] = array
        return graph.constant(name, array)

    visual = graph.input("visual", TensorProto.FLOAT, ("n", 1 + student.config.cells, student.config.width))
    ids, mask = (
        graph.input(name, kind, ("n", "s")) for name, kind in (("ids", TensorProto.INT64), ("mask", TensorProto.FLOAT))
    )
    _encode(EncoderWriter(graph, student.encoder, student.peaks, student.config, None, store), graph, visual, ids, mask)
    return found


def _stored_small(graph: GraphWriter, student: Student) -> Store:
    """Store the encoder's small constants in one float16 row; return what finds the float32 value of each.

    The text graph holds their float32 inside its file, where no other graph finds it. They are rounded by 2^-12 at
    most, far less than the codes of the weights that they belong to.
    """
    arrays = _small_constants(student)
    joined = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.float16)
    sizes = graph.constant("encoder.small.sizes", np.array([array.size for array in arrays.values()], np.int64))
    whole = graph.node("Cast", graph.constant("encoder.small", joined), to=TensorProto.FLOAT)
    names = dict(zip(arrays, graph.nodes("Split", whole, sizes, names=tuple(arrays), axis=0), strict=True))
    return lambda name, array: names[name]
