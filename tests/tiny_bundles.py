"""Tiny bundles of both architectures, written with onnx in milliseconds: real graphs, random weights.

Their vectors mean little, but photos of one colour land near the word for it (`dual_bundle`), which is enough to
tell a right ranking from a wrong one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
DIM = 8
WORDS = ("red", "green", "blue", "white", "black", "yellow", "a", "photo", "of", "dog", "query", ":", "text")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "yellow": (255, 255, 0),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tokenizer_json() -> str:
    """Return a WordPiece tokenizer of a dozen words."""
    vocab = {token: place for place, token in enumerate(SPECIAL + WORDS)}
    added = [
        {
            "id": vocab[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
        }
    )


def word_vectors(dim: int = DIM) -> np.ndarray:
    """Return one row a token id: colours as their RGB (centred), other words small and random."""
    rows = np.random.default_rng(0).normal(0, 0.05, (len(SPECIAL) + len(WORDS), dim)).astype(np.float32)
    for word, rgb in COLOURS.items():
        rows[len(SPECIAL) + WORDS.index(word)] = 0
        rows[len(SPECIAL) + WORDS.index(word), :4] = [*(np.array(rgb) / 127.5 - 1), 0.2]
    return rows


def _graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Mapping[str, Any]) -> bytes:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def image_graph(views: int, dim: int = DIM) -> bytes:
    """uint8 pixels [n * views, side, side, 3] -> mean colour, centred, in the first three dimensions."""
    lift = np.zeros((3, dim), np.float32)
    lift[:3, :3] = np.eye(3)
    bias = np.zeros(dim, np.float32)
    bias[3] = 0.2
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["views"]),
        helper.make_node("ReduceMean", ["views"], ["colour"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["colour", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["unit"]),
        helper.make_node("MatMul", ["unit", "lift"], ["lifted"]),
        helper.make_node("Add", ["lifted", "bias"], ["vector"]),
    ]
    weights = {
        "shape": np.array([-1, views, 3], np.int64),
        "half": np.array(127.5, np.float32),
        "lift": lift,
        "bias": bias,
    }
    return _graph(
        nodes,
        [_value("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [_value("vector", TensorProto.FLOAT, ["b", dim])],
        weights,
    )


def seeing_graph(dim: int = DIM) -> bytes:
    """Return `image_graph(2)` with the second output "visual" [n, 2, dim]: the mean colour of each view."""
    model = onnx.load_from_string(image_graph(2, dim))
    graph = model.graph
    graph.node.append(helper.make_node("Sub", ["views", "half"], ["view_centred"]))
    graph.node.append(helper.make_node("Div", ["view_centred", "half"], ["view_unit"]))
    graph.node.append(helper.make_node("MatMul", ["view_unit", "lift"], ["view_lifted"]))
    graph.node.append(helper.make_node("Add", ["view_lifted", "bias"], ["visual"]))
    graph.output.append(_value("visual", TensorProto.FLOAT, ["b", 2, dim]))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def composed_graph(dim: int = DIM) -> bytes:
    """Visual [n, v, D], ids, mask [n, s] -> twice the sum of the visual tokens, and the words under the mask."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("Concat", ["visual", "visual", "kept"], ["sequence"], axis=1),
        helper.make_node("ReduceSum", ["sequence", "second"], ["vector"], keepdims=0),
    ]
    weights = {"words": word_vectors(dim), "last": np.array([2], np.int64), "second": np.array([1], np.int64)}
    ids, mask = (_value(name, TensorProto.INT64, ["b", "s"]) for name in ("ids", "mask"))
    visual, vector = (
        _value("visual", TensorProto.FLOAT, ["b", "v", dim]),
        _value("vector", TensorProto.FLOAT, ["b", dim]),
    )
    return _graph(nodes, [visual, ids, mask], [vector], weights)


def unstored(name: str, shape: tuple[int, ...], location: str, offset: int = 1 << 40) -> TensorProto:
    """Return an int8 tensor as graphs declare packed weights: in a file, at a place where nothing is."""
    tensor = TensorProto(name=name, data_type=TensorProto.INT8, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value=str(offset))
    tensor.external_data.add(key="length", value=str(int(np.prod(shape))))
    return tensor


def packed_image_graph(location: str) -> onnx.ModelProto:
    """Return `image_graph(2)` with the int8 weights "lift8" [3, DIM], 126 times "lift", packed in a file."""
    model = onnx.load_from_string(image_graph(2))
    graph = model.graph
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == "lift"))
    graph.initializer.append(unstored("lift8", (3, DIM), location))
    graph.initializer.append(numpy_helper.from_array(np.array(126, np.float32), "lift_scale"))
    graph.node.insert(0, helper.make_node("Cast", ["lift8"], ["lift_whole"], to=TensorProto.FLOAT))
    graph.node.insert(1, helper.make_node("Div", ["lift_whole", "lift_scale"], ["lift"]))
    return model


def text_graph(dim: int = DIM) -> bytes:
    """ids, mask [b, s] -> mean of the word vectors under the mask."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["vector"], keepdims=0),
    ]
    weights = {
        "words": word_vectors(dim),
        "last": np.array([2], np.int64),
        "second": np.array([1], np.int64),
    }
    shape = ["b", "s"]
    return _graph(
        nodes,
        [_value("ids", TensorProto.INT64, shape), _value("mask", TensorProto.INT64, shape)],
        [_value("vector", TensorProto.FLOAT, ["b", dim])],
        weights,
    )


def vision_graph(dim: int = DIM) -> bytes:
    """uint8 pixels [n, side, side, 3] -> four visual tokens, the mean colours of the quadrants."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["quadrants"]),
        helper.make_node("ReduceMean", ["quadrants"], ["mean"], axes=[2, 4], keepdims=0),
        helper.make_node("Reshape", ["mean", "flat"], ["tokens"]),
        helper.make_node("Sub", ["tokens", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["unit"]),
        helper.make_node("MatMul", ["unit", "lift"], ["visual"]),
    ]
    weights = {
        "shape": np.array([-1, 2, SIDE // 2, 2, SIDE // 2, 3], np.int64),
        "flat": np.array([-1, 4, 3], np.int64),
        "half": np.array(127.5, np.float32),
        "lift": np.eye(3, dim, dtype=np.float32),
    }
    return _graph(
        nodes,
        [_value("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [_value("visual", TensorProto.FLOAT, ["n", 4, dim])],
        weights,
    )


def language_graph(dim: int = DIM) -> bytes:
    """Embeds [b, s, D], last [b], prefix_k [1, 1, p, D] -> mean of prefix and live rows (order-free "attention")."""
    nodes = [
        helper.make_node("ReduceSum", ["embeds", "second"], ["live"], keepdims=0),
        helper.make_node("ReduceSum", ["prefix_k", "all_but_last"], ["head"], keepdims=0),
        helper.make_node("Add", ["live", "head"], ["sum"]),
        helper.make_node("Cast", ["last"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "second"], ["column"]),
        helper.make_node("Add", ["column", "one"], ["length"]),
        helper.make_node("Div", ["sum", "length"], ["mean"]),
        helper.make_node("LpNormalization", ["mean"], ["vector"], axis=-1, p=2),
    ]
    weights = {
        "second": np.array([1], np.int64),
        "all_but_last": np.array([0, 1, 2], np.int64),
        "one": np.array(1, np.float32),
    }
    return _graph(
        nodes,
        [
            _value("embeds", TensorProto.FLOAT, ["b", "s", dim]),
            _value("last", TensorProto.INT64, ["b"]),
            _value("prefix_k", TensorProto.FLOAT, [1, 1, "p", dim]),
        ],
        [_value("vector", TensorProto.FLOAT, ["b", dim])],
        weights,
    )


def role(head: list[int], tail: list[int], text: str = "{text}", **changes: Any) -> dict[str, Any]:
    """Return one entry of `roles`."""
    base = {"head": head, "image_before": [], "image_after": [], "text": text, "tail": tail, "prefix": None}
    return base | {"max_tiles": 1} | changes


def common_manifest() -> dict[str, Any]:
    """Return what both architectures share."""
    return {
        "dim": DIM,
        "image": {"side": SIDE, "views": ["crop", "squash"], "resample": "bicubic"},
        "text": {"tokenizer": "tokenizer.json", "max_tokens": 32, "pad_id": 0},
        "quantisation": {"all": "float32"},
        "licence": "Apache-2.0",
    }


def dual_bundle(folder: Path, name: str = "tiny-dual", seed: int = 0) -> Path:
    """Write a dual encoder; another `seed` makes it another model (same graphs, another fingerprint)."""
    graphs = {"image.onnx": image_graph(2), "text.onnx": text_graph()}
    manifest = common_manifest() | {
        "id": name,
        "architecture": "dual_encoder",
        "weights": sha256(b"".join(graphs.values()) + bytes([seed])),
        "roles": {"photo": role([], []), "query": role([2], [3])},
        "composed": {"text_weight": 1.0},
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx"}},
    }
    return finish_bundle(folder, manifest, graphs | {"tokenizer.json": tokenizer_json().encode()})


def composing_bundle(folder: Path, name: str = "tiny-composing") -> Path:
    """Write a dual encoder whose `composed` graph reads photo and text together."""
    return _composing_bundle(folder, name, {})


def adding_bundle(folder: Path) -> Path:
    """Write `composing_bundle` with a weight of the words, which are added to what the graph says."""
    return _composing_bundle(folder, "tiny-adding", {}, text_weight=1.1)


def sharing_bundle(folder: Path) -> Path:
    """Write `composing_bundle` with weights of the image and the composed graph in `text.onnx.data`, each once."""
    model = onnx.load_from_string(image_graph(2))
    (bias,) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "bias")
    words = word_vectors().tobytes()
    data = words + bytes(-len(words) % 64) + bias.tobytes()
    return _composing_bundle(folder, "tiny-sharing", {"words": 0, "bias": len(data) - bias.nbytes}, data)


def _composing_bundle(
    folder: Path, name: str, places: Mapping[str, int], data: bytes = b"", text_weight: float | None = None
) -> Path:
    """Write a dual encoder; tensors with a place lie there in `data`, which is the file `text.onnx.data`."""
    graphs = {"image.onnx": seeing_graph(), "text.onnx": text_graph(), "composed.onnx": composed_graph()}
    graphs = {file: _outside(graph, "text.onnx.data", places) for file, graph in graphs.items()}
    files = graphs | ({"text.onnx.data": data} if data else {}) | {"tokenizer.json": tokenizer_json().encode()}
    manifest = common_manifest() | {
        "id": name,
        "architecture": "dual_encoder",
        "weights": sha256(b"".join(graphs.values())),
        "roles": {
            "photo": role([], []),
            "query": role([2], [3]),
            "composed": role([14], [3], "a {text}", image_before=[2], image_after=[15]),
        },
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx", "composed": "composed.onnx"}},
    }
    if text_weight is not None:
        manifest["composed"] = {"text_weight": text_weight}
    return finish_bundle(folder, manifest, files)


def _outside(graph: bytes, location: str, places: Mapping[str, int]) -> bytes:
    """Return a graph whose tensors with a place lie there in another file."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name in places:
            entries = {"location": location, "offset": places[tensor.name], "length": len(tensor.raw_data)}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    data: bytes = model.SerializeToString()
    return data


def packed_dual_bundle(folder: Path) -> Path:
    """Write `dual_bundle` with packed weights in the image graph."""
    from safetensors.numpy import save

    stored = {
        "lift8.codes": 7 * np.eye(3, DIM // 2, dtype=np.uint8),
        "lift8.multipliers": np.full((1, DIM), 18, np.uint8),
    }
    files = {
        "onnx/image.onnx": packed_image_graph("image.q4").SerializeToString(),
        "onnx/image.q4": save(stored),
        "onnx/text.onnx": text_graph(),
    }
    manifest = common_manifest() | {
        "id": "tiny-packed",
        "architecture": "dual_encoder",
        "weights": sha256(b"".join(files.values())),
        "roles": {"photo": role([], []), "query": role([2], [3])},
        "composed": {"text_weight": 1.0},
        "graphs": {"onnx": {"image": "onnx/image.onnx", "text": "onnx/text.onnx"}},
        "packed": {"onnx": {"image": "onnx/image.q4"}},
    }
    return finish_bundle(folder, manifest, files | {"tokenizer.json": tokenizer_json().encode()})


def vision_language_bundle(folder: Path, name: str = "tiny-vlm") -> Path:
    """Write a vision graph, a token table, a language graph and a prefix for one role."""
    from safetensors.numpy import save

    words = word_vectors()
    scales = (np.abs(words).max(axis=1) / 127).astype(np.float32)
    codes = np.rint(words / scales[:, None]).astype(np.int8)
    table = codes.tobytes()
    table += bytes(-len(table) % 64) + scales.astype("<f4").tobytes()
    prefix = (codes[[2]].astype(np.float32) * scales[[2], None])[None, None]
    files = {
        "vision.onnx": vision_graph(),
        "language.onnx": language_graph(),
        "tokenizer.json": tokenizer_json().encode(),
        "tokens.bin": table,
        "prefix/query.safetensors": save({"prefix_k": prefix}),
    }
    around: dict[str, Any] = {"image_before": [10], "image_after": [11]}
    manifest = common_manifest() | {
        "id": name,
        "architecture": "vision_language",
        "weights": sha256(b"".join(files.values())),
        "image": {"side": SIDE, "views": ["squash"], "resample": "bicubic"},
        "tokens": {"file": "tokens.bin", "rows": len(words), "dim": DIM},
        "roles": {
            "photo": role([2], [3], **around),
            "query": role([2], [3], "query: {text}", prefix="prefix/query.safetensors"),
            "composed": role([2], [3], "query: {text}", **around),
            "document": role([2], [3], max_tiles=4, **around),
        },
        "graphs": {"onnx": {"vision": "vision.onnx", "language": "language.onnx"}},
    }
    return finish_bundle(folder, manifest, files)


def finish_bundle(folder: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> Path:
    """Stage the files and let the exporter write the bundle, golden cases included."""
    from magicmm_export.bundle_writer import GoldenInput, write_bundle

    staged = folder.with_name(folder.name + ".new")
    for name, data in files.items():
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    noise = np.random.default_rng(1).integers(0, 256, (29, 23, 3), dtype=np.uint8)
    golden = [
        GoldenInput("text", text="a red dog"),
        GoldenInput("photo", rgb=noise),
        GoldenInput("composed", text="blue", rgb=noise),
    ]
    return write_bundle(staged, folder, manifest, golden, threads=1).path
