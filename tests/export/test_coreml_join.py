"""Joined packages: pieces give what the whole gives, functions share their constants, broken files are said."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from coreml_parts import LENGTH, PREFIX, language_inputs, save_language, save_part
from magicmm import MagicError
from magicmm_export.coreml.export import layer_pieces
from magicmm_export.coreml.interpreter import MilFunction
from magicmm_export.coreml.join import GIVES, TAKES, _Blobs, join_functions
from magicmm_export.coreml.package import coremltools, function_names, load_function, load_spec, weights_folder
from magicmm_export.decomposition import LanguageBlocks, Norms
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import FAMILY
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel


@pytest.fixture(scope="module")
def small(tiny: Checkpoint) -> MagicModel:
    return load_model(tiny, dtype=torch.float32, image_size=224)


def piece(model: MagicModel, layers: range, folder: Path, length: int = LENGTH) -> Path:
    """Save some layers as a package."""
    given = language_inputs(model, length)
    own: dict[str, Tensor] = {} if layers.start else {"embeds": given["embeds"]}
    own |= {TAKES: given["embeds"]} if layers.start else {}
    own |= {name: given[name] for name in ("last", "before")}
    own |= {name: given[name] for name in given if name.startswith("past_") and int(name.rpartition("_")[2]) in layers}
    blocks = LanguageBlocks(model, length, PREFIX, Norms.HALF, layers=layers)
    output = "vector" if layers.stop == model.config.language.layers else GIVES
    return save_part(blocks, own, output, folder / f"{length}-{layers.start}", inner=(TAKES, GIVES)).package


@pytest.mark.parametrize("size", [1, 2])
def test_pieces_give_the_bits_of_the_whole(small: MagicModel, tmp_path: Path, size: int) -> None:
    pieces = [piece(small, layers, tmp_path) for layers in layer_pieces(small.config, size)]
    assert len(pieces) == -(-3 // size)
    joined = tmp_path / "joined.mlpackage"
    join_functions({"main": pieces}, joined)
    whole = save_language(small, tmp_path)
    given = {name: value.numpy() for name, value in whole.inputs.items()}
    function = MilFunction.load(joined)
    assert function.inputs == MilFunction.load(whole.package).inputs
    names = [one.name for operation in load_function(joined).operations for one in operation.outputs]
    assert len(names) == len(set(names))
    watched = [name for name in names if name in ("piece0_rows_out", "piece1_rows_out")]
    run = function.run(given, watched)
    assert np.array_equal(run.values["vector"], whole.run().values["vector"])
    assert {run.values[name].dtype.name for name in watched} == {"float16"}, "no detour through float32 in between"


def test_functions_share_constants_and_stay_apart(small: MagicModel, tmp_path: Path) -> None:
    lengths = (LENGTH, 40)
    saved = {f"language_{length}": save_language(small, tmp_path / str(length), length=length) for length in lengths}
    joined = tmp_path / "joined.mlpackage"
    join_functions({name: [part.package] for name, part in saved.items()}, joined)
    assert function_names(load_spec(joined)) == tuple(saved)
    for name, part in saved.items():
        given = {key: value.numpy() for key, value in part.inputs.items()}
        found = MilFunction.load(joined, name).run(given).values["vector"]
        assert np.array_equal(found, part.run().values["vector"])
    packages = (joined, *(part.package for part in saved.values()))
    sizes = [(weights_folder(path) / "weight.bin").stat().st_size for path in packages]
    assert sizes[0] < sizes[1] + sizes[2] - 2 * 96 * 128 * 9, "the matrices of three layers lie there once"


def test_joined_packages_are_those_of_coremltools(small: MagicModel, tmp_path: Path) -> None:
    """Its own way to join gives the same functions and constants."""
    ct = coremltools()
    part = save_language(small, tmp_path / "a")
    other = save_language(small, tmp_path / "b", length=40)
    join_functions({"a": [part.package], "b": [other.package]}, tmp_path / "ours.mlpackage")
    described = ct.utils.MultiFunctionDescriptor()
    for name, one in (("a", part), ("b", other)):
        described.add_function(str(one.package), src_function_name="main", target_function_name=name)
    described.default_function_name = "a"
    ct.utils.save_multifunction(described, str(tmp_path / "theirs.mlpackage"))
    ours, theirs = (load_spec(tmp_path / f"{name}.mlpackage") for name in ("ours", "theirs"))
    assert function_names(ours) == function_names(theirs)
    assert ours.specificationVersion == theirs.specificationVersion
    assert list(ours.description.functions) == list(theirs.description.functions)
    given = {key: value.numpy() for key, value in part.inputs.items()}
    functions = [MilFunction.load(tmp_path / f"{name}.mlpackage", "a") for name in ("ours", "theirs")]
    assert np.array_equal(*(function.run(given).values["vector"] for function in functions))


def entry(data: bytes, sentinel: int = 0xDEADBEEF) -> bytes:
    """Return a file with one constant at 64."""
    return bytes(64) + struct.pack("<IIQQQ32x", sentinel, 1, len(data), 128, 0) + data


def test_equal_constants_are_copied_once() -> None:
    target = io.BytesIO()
    blobs = _Blobs(target)
    first, same, other = (io.BytesIO(entry(data)) for data in (b"a" * 100, b"a" * 100, b"b" * 30))
    places = [blobs.copy(source, 64) for source in (first, same, other)]
    blobs.close()
    assert places == [64, 64, 256]
    written = target.getvalue()
    assert len(written) % 64 == 0 and struct.unpack_from("<II", written) == (2, 2)
    assert struct.unpack_from("<IIQQ", written, 256) == (0xDEADBEEF, 1, 30, 320)
    assert written[320:350] == b"b" * 30


@pytest.mark.parametrize("content", [entry(b"a" * 100, sentinel=1), bytes(70), entry(b"a" * 100)[:150]])
def test_broken_weights_are_said(content: bytes) -> None:
    with pytest.raises(MagicError, match=r"no constant at 64|ends too early"):
        _Blobs(io.BytesIO()).copy(io.BytesIO(content), 64)


def test_pieces_cover_all_layers_and_fit_the_memory() -> None:
    pieces = layer_pieces(FAMILY["2B"])
    assert [place for layers in pieces for place in layers] == list(range(28))
    assert max(map(len, pieces)) == 4
    assert layer_pieces(FAMILY["2B"], 28) == [range(28)]
