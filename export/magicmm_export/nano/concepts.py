"""The concept bank and the head that turns a feature map into a vector of the text space.

Both follow ConSE: class probabilities weigh the text vectors of the classes. Here the probabilities come from the
places of the map as well as from the whole picture ("local ConSE").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.efficientnet import CHANNELS, Network
from magicmm_export.nano.linear import Precision, float_linear, int8_linear, quantise_rows
from magicmm_export.nano.normalise import unit_length
from magicmm_export.nano.packages import CLEAN_NAMES, DESCRIPTIONS, LABELS, locate
from magicmm_model.nano.config import CELL_SHARE, GLOBAL_WEIGHT, KEPT

CLASSES = 1000
VIEWS = 3
CELLS = 16
DESCRIPTION_WEIGHT = 0.5


@dataclass(frozen=True)
class Concept:
    """The words for one class: its names without repetition, and a description that a few classes lack."""

    names: tuple[str, ...]
    description: str | None


def read_concepts() -> list[Concept]:
    """Return the concepts of the 1000 classes in the order of the classifier."""
    clean, labels, written = (
        json.loads(locate(pinned).read_text("utf-8")) for pinned in (CLEAN_NAMES, LABELS, DESCRIPTIONS)
    )
    concepts = []
    for index in range(CLASSES):
        entry = written.get(str(index), {})
        names = [clean[index], *(name.strip() for name in labels[str(index)].split(",")), *entry.get("name", [])]
        concepts.append(Concept(tuple(dict.fromkeys(names)), entry.get("description") or None))
    return concepts


def concept_bank(concepts: list[Concept], encode: Callable[[list[str]], Array]) -> Array:
    """Return a unit vector per concept: the mean of its names' vectors plus half of its description's."""
    texts = list(dict.fromkeys(text for concept in concepts for text in _texts(concept)))
    vectors = dict(zip(texts, encode(texts), strict=True))
    rows = []
    for concept in concepts:
        row = np.mean([vectors[name] for name in concept.names], axis=0)
        if concept.description:
            row = row + DESCRIPTION_WEIGHT * vectors[concept.description]
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows).astype(np.float32)


@dataclass(frozen=True)
class Logits:
    """What the classifier says of views: of each cell [views, 16, 1000], and of the whole view [views, 1, 1000]."""

    cells: str
    whole: str


def add_logits(graph: GraphWriter, feature_map: str, network: Network, precision: Precision) -> Logits:
    """Add the classifier for the cells of a map [views, 1280, 8, 8]."""
    cells = graph.node("AveragePool", feature_map, kernel_shape=[2, 2], strides=[2, 2])
    cells = graph.node("Transpose", graph.node("Reshape", cells, graph.ints(0, CHANNELS, CELLS)), perm=[0, 2, 1])
    rows = graph.node("Reshape", cells, graph.ints(-1, CHANNELS))
    if precision is Precision.FP32:
        logits = float_linear(graph, rows, network.classes, network.class_bias, "classifier")
    else:
        logits = int8_linear(graph, rows, network.classes, network.class_bias, "classifier", floor=0.0)
    logits = graph.node("Reshape", logits, graph.ints(-1, CELLS, CLASSES), name="logits")
    # The classifier is linear: the logits of a mixture of features are the mixture of their logits.
    return Logits(logits, graph.node("ReduceMean", logits, graph.ints(1), keepdims=1))


def add_bank(graph: GraphWriter, logits: Logits, bank: Array, precision: Precision, name: str = "") -> str:
    """Add what the concept bank says of photos of `VIEWS` views each: [photos, 384], unit length."""
    mixed = graph.node(
        "Add",
        graph.node("Mul", logits.cells, graph.scalar(CELL_SHARE)),
        graph.node("Mul", logits.whole, graph.scalar(1 - CELL_SHARE)),
    )
    local = graph.node("ReduceMean", graph.node("Softmax", mixed, axis=-1), graph.ints(1), keepdims=0)
    overall = graph.node("Squeeze", graph.node("Softmax", logits.whole, axis=-1), graph.ints(1))
    chances = graph.node("Add", local, graph.node("Mul", overall, graph.scalar(GLOBAL_WEIGHT)))
    return mean_of_views(graph, _embed(graph, chances, bank, precision), VIEWS, bank.shape[1], name)


def _embed(graph: GraphWriter, chances: str, bank: Array, precision: Precision) -> str:
    """Add the sum of the likeliest concepts' vectors, weighed by the roots of their chances, at unit length.

    The specification also normalises the roots; the unit length of the sum makes that void.
    """
    best, classes = graph.nodes("TopK", chances, graph.ints(KEPT), names=("best", "classes"), axis=-1)
    weights = graph.node("Sqrt", best)
    if precision is Precision.FP32:
        vectors = graph.node("Gather", graph.constant("bank", bank), classes)
    else:
        codes, scale = quantise_rows(bank)
        picked = graph.node("Gather", graph.constant("bank", codes), classes)
        vectors = graph.node("Cast", picked, to=TensorProto.FLOAT)
        weights = graph.node("Mul", weights, graph.node("Gather", graph.constant("bank.scale", scale), classes))
    weighed = graph.node("Mul", vectors, graph.node("Unsqueeze", weights, graph.ints(2)))
    return unit_length(graph, graph.node("ReduceSum", weighed, graph.ints(1), keepdims=0))


def mean_of_views(graph: GraphWriter, vectors: str, views: int, width: int, name: str = "") -> str:
    """Add the mean of a photo's views at unit length; the sum does, since the length becomes 1."""
    by_photo = graph.node("Reshape", vectors, graph.shared(np.array([-1, views, width], np.int64)))
    return unit_length(graph, graph.node("ReduceSum", by_photo, graph.ints(1), keepdims=0), name=name)


def _texts(concept: Concept) -> tuple[str, ...]:
    return (*concept.names, concept.description) if concept.description else concept.names
