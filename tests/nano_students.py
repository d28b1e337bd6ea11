"""The built-in model's weights written anew with the builder's own nodes: in float32, or in int8 with a student.

What is shipped may have been trained or not: its student, or a random one, is what tests read, lower and run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from magicmm import Bundle
from magicmm_export.bundle_writer import GoldenInput, write_bundle
from magicmm_export.nano.adapters import PRODUCTS
from magicmm_export.nano.concepts import Bank
from magicmm_export.nano.efficientnet import NORMALISED, Conv, Network
from magicmm_export.nano.encoder import block_inputs
from magicmm_export.nano.files import GraphFiles
from magicmm_export.nano.image import image_graph
from magicmm_export.nano.linear import MIGRATION
from magicmm_export.nano.minilm import text_graph
from magicmm_export.nano.quantise import Calibration, Grid, Observation
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.rounding import ConvInputs
from magicmm_export.nano.stored import StoredImage, StoredLinear, StoredNorm, StoredStudent, StoredText
from magicmm_export.nano.student import Student, composed_graph
from magicmm_export.scenes import sample_scene
from magicmm_model.nano.config import CLS, SEP, NanoConfig

Floats = NDArray[np.float32]
CONFIG = NanoConfig(local_share=0.8)
_PARTS = ("attention.self.query", "attention.self.key", "attention.self.value")
_FILES = ("image.onnx", "text.onnx", "composed.onnx")


def network_of(stored: StoredImage) -> Network:
    """Return what int8 has left of the convolutions and the classifier."""
    convs = tuple(
        Conv(one.name, one.weight, one.bias, one.stride, (one.padding,) * 4, relu6=one.clips, residual=one.other)
        for one in stored.convs
    )
    return Network(convs, stored.classifier.weight, stored.classifier.bias)


def bank_of(stored: StoredImage) -> Bank:
    return Bank(stored.bank.table.rows, stored.bank.kept, stored.bank.power)


def encoder_of(stored: StoredText) -> dict[str, Floats]:
    """Return the encoder by the names of BERT, as the builder reads it from a checkpoint."""
    tensors = {
        "embeddings.word_embeddings.weight": stored.words.rows,
        "embeddings.position_embeddings.weight": stored.positions,
        "embeddings.token_type_embeddings.weight": np.zeros((2, 384), np.float32),
    }

    def add_norm(name: str, norm: StoredNorm) -> None:
        tensors.update({f"{name}.weight": norm.gain, f"{name}.bias": norm.shift})

    def add_linear(names: tuple[str, ...], linear: StoredLinear) -> None:
        pairs = zip(np.split(_weight(linear), len(names)), np.split(linear.bias, len(names)), strict=True)
        for name, (own, bias) in zip(names, pairs, strict=True):
            tensors.update({f"{name}.weight": np.ascontiguousarray(own), f"{name}.bias": bias.copy()})

    add_norm("embeddings.LayerNorm", stored.norm)
    for place, layer in enumerate(stored.layers):
        name = f"encoder.layer.{place}"
        add_linear(tuple(f"{name}.{part}" for part in _PARTS), layer.attention)
        add_linear((f"{name}.attention.output.dense",), layer.mixed)
        add_norm(f"{name}.attention.output.LayerNorm", layer.attention_norm)
        add_linear((f"{name}.intermediate.dense",), layer.inner)
        add_linear((f"{name}.output.dense",), layer.outer)
        add_norm(f"{name}.output.LayerNorm", layer.norm)
    return tensors


def student_of(text: StoredText, stored: StoredStudent) -> Student:
    """Return a float32 student of the weights that were read."""
    adapters: dict[str, Floats] = {}
    for place, layer in enumerate(stored.adapters):
        given = (layer.attention, layer.mixed, layer.inner, layer.outer)
        for parts, adapter in zip(PRODUCTS, given, strict=True):
            downs = np.split(adapter.down, len(parts))
            for part, down, up in zip(parts, downs, adapter.ups, strict=True):
                adapters |= {f"{place}.{part}.down": down, f"{place}.{part}.up": up}
    words, colours = stored.words, stored.colours
    config = replace(
        CONFIG,
        kept=words.kept,
        local_share=words.share,
        encoder_weight=stored.encoder_weight,
        colour_weight=colours.weight,
        both_weight=stored.both_weight,
    )
    table, vectors = words.table.rows, colours.vectors.rows
    return Student(config, encoder_of(text), None, adapters, table, words.shift, vectors, stored.views)


def random_student(text: StoredText) -> Student:
    """Return an int8 student beside an encoder."""
    rng = np.random.default_rng(8)
    inner = {"inner": (384, 1536), "outer": (1536, 384)}
    adapters: dict[str, Floats] = {}
    for layer in range(len(text.layers)):
        for part in (part for parts in PRODUCTS for part in parts):
            entering, leaving = inner.get(part, (384, 384))
            down = rng.standard_normal((CONFIG.rank, entering), np.float32) * np.float32(entering**-0.5)
            up = rng.standard_normal((leaving, CONFIG.rank), np.float32) * np.float32(0.03)
            adapters |= {f"{layer}.{part}.down": down, f"{layer}.{part}.up": up}
    table = text.words.rows[rng.integers(2000, 20000, 1000)]
    shift = rng.standard_normal(384, np.float32) * np.float32(0.01)
    colours = rng.standard_normal((11, 384), np.float32) * np.float32(384**-0.5)
    return Student(CONFIG, encoder_of(text), _peaks(text), adapters, table, shift, colours)


def student_bundle(folder: Path) -> Bundle:
    """Write the shipped weights with a random student as an int8 bundle."""
    source, target = Bundle.default(), folder / "student.magicmm"
    image, text = read_image(source), read_text(source)
    staged = folder / "student.magicmm.new"
    staged.mkdir()
    save_file(encoder_of(text), folder / "bert.safetensors")
    student = random_student(text)
    bank = Bank(image.bank.table.rows, CONFIG.bank_kept, CONFIG.bank_power)
    composed = composed_graph(student)
    files = GraphFiles(staged)
    files.add("text.onnx", text_graph(folder / "bert.safetensors", student.peaks))
    shared = {tensor.name for tensor in composed.graph.initializer}
    files.add("image.onnx", image_graph(network_of(image), bank, _seen(image), student), shared, 64)
    files.add("composed.onnx", composed, is_anonymous=True)
    (staged / "tokenizer.json").write_bytes(source.file(source.manifest.text.tokenizer).read_bytes())
    raw = {key: value for key, value in source.manifest.raw.items() if key not in ("files", "golden")}
    role = {**raw["roles"]["photo"], "image_before": [CLS], "image_after": [SEP], "tail": [SEP]}
    manifest = {
        **raw,
        "id": "student",
        "composed": {"text_weight": 1.1},
        "roles": {**raw["roles"], "composed": role},
        "graphs": {"onnx": {name.partition(".")[0]: name for name in _FILES}},
    }
    golden = [GoldenInput("dog", text="a dog"), GoldenInput("composed", text="at night", rgb=sample_scene())]
    return write_bundle(staged, target, manifest, golden, threads=1)


def bank_graph(source: Bundle) -> onnx.ModelProto:
    """Return an int8 image graph of the concept bank alone, with the weights of a bundle."""
    image = read_image(source)
    return image_graph(network_of(image), bank_of(image), _seen(image))


def float_text_graph(stored: StoredText, folder: Path) -> onnx.ModelProto:
    """Write what int8 has left of the encoder with the builder's own float32 nodes."""
    save_file(encoder_of(stored), folder / "weights.safetensors")
    return text_graph(folder / "weights.safetensors", None)


def _weight(linear: StoredLinear) -> Floats:
    return linear.weight if linear.balance is None else linear.weight * linear.balance


def _peaks(text: StoredText) -> dict[str, Floats]:
    """Return the peaks that the builder's balances were made of."""
    found: dict[str, Floats] = {}
    linears = (linear for layer in text.layers for linear in (layer.attention, layer.inner))
    for name, linear in zip(block_inputs(len(text.layers)), linears, strict=True):
        assert linear.balance is not None
        spread = np.abs(_weight(linear)).max(0) ** (1 - MIGRATION)
        found[name] = ((spread / linear.balance) ** (1 / MIGRATION)).astype(np.float32)
    return found


def _seen(image: StoredImage) -> Calibration:
    """Return what gives the grids that there are, and the nearest codes: no input says anything of another."""

    def observed(grid: Grid) -> Observation:
        return Observation(-grid.zero * grid.scale, (255 - grid.zero) * grid.scale)

    values = {NORMALISED: observed(Grid(1 / 128, 127))}
    inputs = {}
    for conv in image.convs:
        values[conv.name] = observed(conv.total)
        if conv.other is not None:
            values[f"{conv.name}.conv"] = observed(conv.result)
        inputs[conv.name] = _independent(conv.groups, conv.codes[0].size)
    return Calibration(values, inputs)


def _independent(groups: int, size: int) -> ConvInputs:
    return ConvInputs(1, torch.zeros(groups, size), torch.eye(size).expand(groups, -1, -1))
