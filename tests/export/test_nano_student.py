"""The trained part of the built-in model as graphs, against torch: photos, photos with text, weights stored once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from magicmm import ErrorCode, MagicError
from magicmm_export.graph import GraphWriter
from magicmm_export.nano.base import read_encoder
from magicmm_export.nano.checkpoint import Checkpoint, read_checkpoint
from magicmm_export.nano.concepts import VIEWS, Bank, Logits
from magicmm_export.nano.efficientnet import Network
from magicmm_export.nano.encoder import block_inputs
from magicmm_export.nano.files import GraphFiles
from magicmm_export.nano.image import add_indexed
from magicmm_export.nano.minilm import text_graph
from magicmm_export.nano.run import open_model
from magicmm_export.nano.student import Student, add_soft_words, add_visual, composed_graph, read_views
from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.model import NanoModel, filled
from magicmm_model.nano.storing import save_nano
from tiny_nano import TINY, tiny_bert, tiny_nano, tiny_nano_checkpoint

Floats = NDArray[np.float32]
ROWS = [[CLS, SEP, 7, 8, 9, SEP], [CLS, SEP, 30, SEP], [CLS, SEP, *range(40, 52), SEP]]
WEIGHTS = "bert.safetensors"
SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, trained a bit, and the file of the encoder that it began with."""
    folder = tmp_path_factory.mktemp("student")
    tiny_bert(folder / WEIGHTS)
    model = tiny_nano()
    read_encoder(model, folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.3)
        model.connector.shift.normal_(std=0.1)
        model.connector.log_scale.fill_(0.3)
    save_nano(model.state_dict(), TINY, folder / "trained", tiny_nano_checkpoint(folder / "companions"))
    return folder


@pytest.fixture(scope="module")
def network() -> Network:
    classifier = tiny_nano().connector.classifier
    return Network((), classifier.weight.numpy(), classifier.bias.numpy())


@pytest.fixture(scope="module")
def trained(folder: Path, network: Network) -> Checkpoint:
    return read_checkpoint(folder / "trained", network, folder / WEIGHTS)


@pytest.fixture(scope="module")
def peaks(folder: Path) -> dict[str, Floats]:
    """Largest magnitude of each channel on every token."""
    names = block_inputs(TINY.layers)
    ids = np.arange(TINY.vocab, dtype=np.int64).reshape(-1, 5)
    session = open_model(text_graph(folder / WEIGHTS, None, TINY), names)
    values = session.run(names, {"ids": ids, "mask": np.ones_like(ids)})
    return {name: np.abs(value).max(0) for name, value in zip(names, values, strict=True)}


@pytest.fixture(scope="module")
def cells() -> torch.Tensor:
    return torch.rand(4, VIEWS, TINY.cells, TINY.channels, generator=torch.Generator().manual_seed(1))


def photo_graph(student: Student, bank: Bank) -> ModelProto:
    """Return what `image_graph` adds behind the classifier: `logits`, `pixels` -> `vector`, `visual`."""
    graph = GraphWriter("photos")
    own = graph.input("logits", TensorProto.FLOAT, ("views", TINY.cells, TINY.classes))
    logits = Logits(own, graph.node("ReduceMean", own, graph.ints(1), keepdims=1))
    words = add_soft_words(graph, read_views(graph, logits, student), student)
    pixels = graph.input("pixels", TensorProto.UINT8, ("given", SIDE, SIDE, 3))
    vector = add_indexed(graph, pixels, SIDE, logits, words, bank, student)
    visual = add_visual(graph, words, vector, student)
    graph.output(vector, TensorProto.FLOAT, ("photos", TINY.width))
    graph.output(visual, TensorProto.FLOAT, ("photos", student.handed, TINY.width))
    return graph.model()


@torch.inference_mode()
def seen(model: ModelProto | Path, nano: NanoModel, cells: torch.Tensor, first: int = 0) -> tuple[Floats, Floats]:
    """Return unit vectors and visual tokens of photos; the first of them is that many from the start."""
    logits = nano.connector.classifier(cells.flatten(0, 1)).numpy()
    vector, visual = open_model(model).run(
        ["vector", "visual"], {"logits": logits, "pixels": pictures(first, first + len(cells))}
    )
    return vector, visual


def pictures(first: int, end: int) -> NDArray[np.uint8]:
    """Return two views of photos, uint8 [2 n, SIDE, SIDE, 3]."""
    views = np.random.default_rng(2).integers(0, 256, (2 * end, SIDE, SIDE, 3))
    return views[2 * first :].astype(np.uint8)


def compose(model: ModelProto | Path, visual: Floats, rows: list[list[int]]) -> Floats:
    ids, mask = (tensor.numpy() for tensor in filled(rows))
    found: Floats = open_model(model).run(["vector"], {"visual": visual, "ids": ids, "mask": mask})[0]
    return found


@pytest.mark.parametrize("views", [1, 2, 3])
@torch.inference_mode()
def test_float_graphs_say_what_torch_says(trained: Checkpoint, cells: torch.Tensor, views: int) -> None:
    student = trained.student(None, views)
    vectors, visual = seen(photo_graph(student, trained.bank), trained.model, cells)
    assert visual.shape == (4, views * (1 + TINY.cells) + 1, TINY.width)
    np.testing.assert_allclose(
        vectors, trained.model.indexed(cells, torch.from_numpy(pictures(0, 4)[::2]), views).numpy(), atol=2e-6
    )
    rows = [*ROWS, ROWS[0]]
    truth = trained.model.asked(*filled(rows), cells, torch.from_numpy(pictures(0, 4)[::2]), views).numpy()
    np.testing.assert_allclose(compose(composed_graph(student), visual, rows), truth, atol=2e-6)


def test_int8_graphs_are_close(trained: Checkpoint, peaks: dict[str, Floats], cells: torch.Tensor) -> None:
    found: dict[bool, list[Floats]] = {}
    for is_exact in (True, False):
        student = trained.student(None if is_exact else peaks)
        vectors, visual = seen(photo_graph(student, trained.bank), trained.model, cells)
        found[is_exact] = [vectors, compose(composed_graph(student), visual, [*ROWS, ROWS[0]])]
    for exact, rounded in zip(found[True], found[False], strict=True):
        cosines = np.einsum("nd,nd->n", exact, rounded)
        assert cosines.min() > 0.998 and not np.array_equal(exact, rounded)


def test_company_and_filling_change_no_bit(trained: Checkpoint, peaks: dict[str, Floats], cells: torch.Tensor) -> None:
    student = trained.student(peaks)
    graph, composed = photo_graph(student, trained.bank), composed_graph(student)
    together, visual = seen(graph, trained.model, cells)
    both = compose(composed, visual[:3], ROWS)
    for place, row in enumerate(ROWS):
        alone, tokens = seen(graph, trained.model, cells[place : place + 1], place)
        assert np.array_equal(alone[0], together[place]) and np.array_equal(tokens[0], visual[place])
        np.testing.assert_allclose(compose(composed, tokens, [row])[0], both[place], atol=1e-6, rtol=0)


def test_adapters_and_the_connector_reach_the_graphs(trained: Checkpoint, cells: torch.Tensor) -> None:
    student = trained.student(None)
    whole = seen(photo_graph(student, trained.bank), trained.model, cells)[0]
    still = {name: np.zeros_like(matrix) for name, matrix in student.adapters.items()}
    for changed in (replace(student, adapters=still), replace(student, shift=-2 * student.shift)):
        assert np.abs(seen(photo_graph(changed, trained.bank), trained.model, cells)[0] - whole).max() > 1e-3


@pytest.mark.parametrize("is_int8", [True, False])
def test_each_weight_is_stored_once(
    folder: Path, trained: Checkpoint, peaks: dict[str, Floats], cells: torch.Tensor, tmp_path: Path, is_int8: bool
) -> None:
    given = peaks if is_int8 else None
    student = trained.student(given)
    text = text_graph(folder / WEIGHTS, given, TINY)
    image, composed = photo_graph(student, trained.bank), composed_graph(student)
    expected = seen(image, trained.model, cells)
    files = GraphFiles(tmp_path)
    # What is over 64 KiB in the real model is tiny here: name it.
    files.add("text.onnx", text, {tensor.name for tensor in text.graph.initializer})
    files.add("image.onnx", image, {tensor.name for tensor in composed.graph.initializer}, 64)
    files.add("composed.onnx", composed, is_anonymous=True)
    assert [path.name for path in files.written] == [
        "text.onnx",
        "text.onnx.data",
        "image.onnx",
        "image.onnx.data",
        "composed.onnx",
    ]
    vectors, visual = seen(tmp_path / "image.onnx", trained.model, cells)
    assert np.array_equal(vectors, expected[0]) and np.array_equal(visual, expected[1])
    assert np.array_equal(compose(tmp_path / "composed.onnx", visual[:3], ROWS), compose(composed, visual[:3], ROWS))
    stored = onnx.load(tmp_path / "composed.onnx", load_external_data=False).graph.initializer
    assert {len(tensor.name) for tensor in stored} <= {1, 2, 3}
    assert max(len(tensor.raw_data) for tensor in stored if tensor.data_type != TensorProto.INT64) <= 256
    places = {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"}
    assert places == {"text.onnx.data", "image.onnx.data"}


@pytest.mark.parametrize(
    "name", ["encoder.words.weight", "encoder.layers.1.outer.base.bias", "connector.classifier.bias"]
)
def test_a_checkpoint_that_changes_what_is_frozen_is_refused(
    folder: Path, network: Network, tmp_path: Path, name: str
) -> None:
    model = read_checkpoint(folder / "trained", network, folder / WEIGHTS).model
    state = model.state_dict()
    state[name] = state[name] + 1e-3
    save_nano(state, TINY, tmp_path / "other", folder / "trained")
    with pytest.raises(MagicError, match=name) as caught:
        read_checkpoint(tmp_path / "other", network, folder / WEIGHTS)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
