"""Graphs that run piece by piece give what whole sessions give, and hold only a piece of the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from graph_runs import cosine
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.runtime import open_session
from magicmm_export.isolated import embed_queries
from magicmm_export.observed import Item, ObservedEncoder
from magicmm_export.piecewise import PiecewiseGraph
from magicmm_export.scenes import sample_scene

KINDS = ("float32_bundle", "int8_bundle", "int4_bundle", "low_memory_bundle")
SMALL = 20_000
"""Bytes of a piece that cut the tiny graphs into many."""


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.load(request.getfixturevalue(request.param))


def test_a_vision_graph_in_pieces_gives_what_the_whole_gives(bundle: Bundle) -> None:
    side = bundle.manifest.image.side
    tiles = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    graph = PiecewiseGraph(bundle, "vision", 1, SMALL)
    assert len(graph.pieces) > 4
    session = open_session(bundle, "vision", 1, "onnx")
    runs = graph.run([{"pixels": tiles[:1]}, {"pixels": tiles}])
    for given, found in zip((tiles[:1], tiles), runs, strict=True):
        assert cosine(found[graph.output], session.run({"pixels": given})) > 0.9999999


def test_queries_in_pieces_give_what_the_embedder_gives(bundle: Bundle) -> None:
    scene = sample_scene()
    queries = [("a dog", None), (None, scene), ("now at night", scene), ("two people at the beach", None)]
    embedder = Embedder.open(bundle, 1)
    wanted = np.stack([embedder.embed_query(*query) for query in queries])
    assert cosine(embed_queries(bundle, queries, 1), wanted) > 0.9999999
    roles = bundle.manifest.roles
    pixels = embedder.prepare(scene, "composed")
    encoder = ObservedEncoder(bundle, threads=1, piece_bytes=SMALL)
    items = [Item(roles["query"], "a dog"), Item(roles["composed"], "now at night", pixels)]
    assert cosine(encoder.vectors(items), wanted[[0, 2]]) > 0.9999999


def test_no_queries_give_no_rows(int8_bundle: Path) -> None:
    bundle = Bundle.load(int8_bundle)
    assert embed_queries(bundle, []).shape == (0, bundle.manifest.dim)


def test_pieces_hold_every_node_once_and_no_more_weights_than_asked(float32_bundle: Path) -> None:
    bundle = Bundle.load(float32_bundle)
    graph = PiecewiseGraph(bundle, "language", 1, SMALL)
    model = onnx.load(str(float32_bundle / "onnx" / "language.onnx"), load_external_data=False)
    assert [node for piece in graph.pieces for node in piece] == list(model.graph.node)
    sizes = {tensor.name: 4 * int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    for piece in graph.pieces:
        used = {name for node in piece for name in node.input if name in sizes}
        assert len(piece) == 1 or sum(sizes[name] for name in used) <= 2 * SMALL  # integers count as 4 bytes here


def test_watched_values_come_back_whatever_the_cuts(float32_bundle: Path) -> None:
    bundle = Bundle.load(float32_bundle)
    side = bundle.manifest.image.side
    given = [{"pixels": np.full((1, side, side, 3), 90, np.uint8)}]
    names = ["vision.embedded", "vision.layers.0"]
    fine = PiecewiseGraph(bundle, "vision", 1, SMALL).run(given, names)[0]
    whole = PiecewiseGraph(bundle, "vision", 1, 1 << 40).run(given, names)[0]
    assert set(fine) == set(whole) == {"visual", *names}
    for name in names:
        assert np.allclose(fine[name], whole[name], atol=1e-5)


def test_a_graph_that_reads_what_nothing_gives_is_a_clear_error(float32_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.magicmm"
    shutil.copytree(float32_bundle, broken)
    path = broken / "onnx" / "vision.onnx"
    model = onnx.load(str(path), load_external_data=False)
    place = next(i for i, node in enumerate(model.graph.node) if "vision.embedded" in node.output)
    del model.graph.node[place]
    path.write_bytes(model.SerializeToString())
    text = (broken / "manifest.json").read_text()
    size = f'"bytes": {(float32_bundle / "onnx" / "vision.onnx").stat().st_size}'
    (broken / "manifest.json").write_text(text.replace(size, f'"bytes": {path.stat().st_size}'))
    with pytest.raises(MagicError, match=r"vision\.embedded") as caught:
        graph = PiecewiseGraph(Bundle.load(broken), "vision", 1, SMALL)
        graph.run([{"pixels": np.zeros((1, 448, 448, 3), np.uint8)}])
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
