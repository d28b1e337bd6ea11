"""Saved packages, run by the interpreter, against torch: by stage, in every scheme, beyond the range of float16."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coreml_parts import LENGTH, SavedPart, language_inputs, save_language, save_part, save_vision
from graph_runs import cosine
from magicmm import ErrorCode, MagicError
from magicmm_export.coreml import package as package_module
from magicmm_export.coreml.convert import convert_module
from magicmm_export.coreml.interpreter import MilFunction
from magicmm_export.coreml.package import coremltools, load_function, load_spec
from magicmm_export.coreml.schemes import Target, Units, scheme_named
from magicmm_export.decomposition import LanguageBlocks, Norms, VisionEncoder
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel

LEAST = {"float32": 0.999999, "float16": 0.9999, "int8": 0.999, "palette6": 0.99, "palette4": 0.9, "int4": 0.85}
"""Cosine to torch of vectors and visual tokens; random weights are a bad case for few bits, and no forecast."""
STORED = {
    "int8": "constexpr_blockwise_shift_scale",
    "int4": "constexpr_blockwise_shift_scale",
    "palette6": "constexpr_lut_to_dense",
    "palette4": "constexpr_lut_to_dense",
}


@pytest.fixture(scope="module")
def small(tiny: Checkpoint) -> MagicModel:
    """With a quarter of the patches."""
    return load_model(tiny, dtype=torch.float32, image_size=224)


@pytest.fixture(scope="module")
def half_language(small: MagicModel, tmp_path_factory: pytest.TempPathFactory) -> SavedPart:
    return save_language(small, tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def half_vision(small: MagicModel, tmp_path_factory: pytest.TempPathFactory) -> SavedPart:
    return save_vision(small, tmp_path_factory.mktemp("half"))


def test_every_stage_of_the_language_part_is_torchs(half_language: SavedPart) -> None:
    run, wanted = half_language.run(), half_language.wanted()
    assert list(half_language.stages) == list(wanted)
    assert run.overflowed == ()
    for name, value in half_language.stages.items():
        rows = 9 if wanted[name].shape[1] == LENGTH else 1
        kept = [part[:, :rows] if part.ndim == 3 else part for part in (run.values[value], wanted[name].numpy())]
        assert cosine(*kept) > 0.9999, name


def test_every_stage_of_the_vision_part_is_torchs(half_vision: SavedPart) -> None:
    run, wanted = half_vision.run(), half_vision.wanted()
    assert (
        list(half_vision.stages) == list(wanted) == ["patches", "vision.layers.0", "vision.layers.1", "visual tokens"]
    )
    assert run.overflowed == ()
    for name, value in half_vision.stages.items():
        assert cosine(run.values[value], wanted[name].numpy()) > 0.9999, name


def test_a_half_package_is_really_rounded(half_language: SavedPart, small: MagicModel, tmp_path: Path) -> None:
    exact = save_language(small, tmp_path, "float32").run().values["vector"]
    half, wanted = half_language.run().values["vector"], half_language.wanted()["vector"].numpy()
    assert np.abs(exact - wanted).max() < 1e-6 < 1e-5 < np.abs(half - wanted).max()
    kinds = {values.dtype.name for values in half_language.run().values.values()}
    assert kinds == {"float16", "float32"}, "stages in half precision, the vector in float32"


@pytest.mark.parametrize("scheme", LEAST)
def test_schemes_lose_no_more_than_stated(small: MagicModel, tmp_path: Path, scheme: str) -> None:
    for save in (save_vision, save_language):
        part = save(small, tmp_path, scheme)
        result = "visual tokens" if save is save_vision else "vector"
        found, wanted = part.run().values[part.stages[result]], part.wanted()[result].numpy()
        assert found.dtype == np.float32
        assert cosine(found, wanted) > LEAST[scheme]
        kinds = {one.weight.op.op_type for one in load_function(part.package).operations if one.op_type == "linear"}
        assert kinds == {STORED.get(scheme, "const")}


def test_only_weights_of_linears_are_rounded(small: MagicModel, half_language: SavedPart, tmp_path: Path) -> None:
    """Coremltools' rule for all constants would round rotary angles and masks, too."""
    rounded = load_function(save_language(small, tmp_path, "int8").package)
    before = {
        one.name: one.val.val for one in load_function(half_language.package).operations if one.op_type == "const"
    }
    after = {one.name: one.val.val for one in rounded.operations if one.op_type == "const"}
    tables = [name for name in before if "cos" in name or "sin" in name or "causal" in name or "hidden" in name]
    assert len(tables) >= 6
    assert all(np.array_equal(before[name], after[name]) for name in tables)


def test_padding_and_what_stands_in_it_change_nothing(half_language: SavedPart, small: MagicModel) -> None:
    inputs = language_inputs(small)
    vector = half_language.run(inputs).values["vector"]
    inputs["embeds"][:, 9:] = 100.0
    for name in inputs:
        if name.startswith("past_"):
            inputs[name][:, :, 6:] = 100.0
    assert np.array_equal(half_language.run(inputs).values["vector"], vector)


def test_rows_of_zeros_become_nan_in_coremltools_own_norm(small: MagicModel, tmp_path: Path) -> None:
    found = save_language(small, tmp_path, norms=Norms.NATIVE).run().values["vector"]
    assert np.isnan(found).all(), "then Norms.HALF is no longer needed for it"


@pytest.mark.parametrize("size", [600.0, 20000.0])
def test_massive_activations_stay_within_float16(small: MagicModel, tmp_path: Path, size: float) -> None:
    """One channel of all tokens and one whole token, as Qwen2 has them: 600 squared is beyond 65504."""
    inputs = language_inputs(small)
    inputs["embeds"][:, :9, 5] = size
    inputs["embeds"][:, 2] = size / 2
    ours = save_language(small, tmp_path / "half")
    wanted = ours.wanted(inputs)["vector"].numpy()
    run = ours.run(inputs)
    assert run.overflowed == ()
    assert cosine(run.values["vector"], wanted) > 0.9999
    assert cosine(*(np.delete(one, 5, 1) for one in (run.values["vector"], wanted))) > 0.999, "not the channel alone"
    plain = save_language(small, tmp_path / "plain", norms=Norms.PRODUCT)
    assert cosine(plain.wanted(inputs)["vector"].numpy(), wanted) > 0.999999, "the same in float32"
    broken = plain.run(inputs)
    assert len(broken.overflowed) >= 1
    assert not cosine(broken.values["vector"], wanted) > 0.5


def test_packages_have_the_names_and_types_of_the_format(half_language: SavedPart, half_vision: SavedPart) -> None:
    vision, language = MilFunction.load(half_vision.package), MilFunction.load(half_language.package)
    assert vision.inputs == {"pixels": ((1, 224, 224, 3), "fp32")}
    assert vision.outputs == {"visual": "fp32"} and language.outputs == {"vector": "fp32"}
    past = {f"past_{kind}_{place}": ((1, 2, 10, 16), "fp32") for place in range(3) for kind in ("key", "value")}
    own = {"embeds": ((1, LENGTH, 96), "fp32"), "last": ((1,), "int32"), "before": ((1,), "int32")}
    assert language.inputs == {**own, **past}
    described = {
        one.name: list(one.type.multiArrayType.shape) for one in load_spec(half_language.package).description.input
    }
    assert described["embeds"] == [1, LENGTH, 96]


@pytest.mark.parametrize(("target", "version"), [(Target.IOS17, 8), (Target.IOS18, 9)])
def test_packages_are_for_the_target(small: MagicModel, target: Target, version: int) -> None:
    inputs = language_inputs(small, prefix=0)
    blocks = LanguageBlocks(small, LENGTH, 0, Norms.HALF).eval()
    model = convert_module(blocks, inputs, "vector", scheme_named("float16"), target).model
    assert model.get_spec().specificationVersion == version


def test_inputs_of_another_length_are_refused(half_language: SavedPart, small: MagicModel) -> None:
    with pytest.raises(MagicError, match=r"embeds has the shape \[1, 30, 96\].* \[1, 24, 96\]") as caught:
        half_language.run(language_inputs(small, length=30))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    with pytest.raises(MagicError, match="The function reads before, embeds"):
        half_language.run({"embeds": torch.zeros(1, LENGTH, 96)})


def test_a_stage_that_is_not_there_is_named(half_language: SavedPart) -> None:
    given = {name: value.numpy() for name, value in half_language.inputs.items()}
    with pytest.raises(MagicError, match="no value nothing"):
        MilFunction.load(half_language.package).run(given, ["nothing"])


class _Odd(nn.Module):
    """Holds something that Core ML has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Inner()

    def stages(self, rows: Tensor) -> Any:
        yield "vector", self.inner(rows)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.inner(rows)
        return found


class _Inner(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return torch.special.bessel_j0(rows * 2)


class _Branch(_Odd):
    def forward(self, rows: Tensor) -> Tensor:
        return rows if rows.sum() > 0 else -rows


def test_an_operator_that_does_not_lower_is_named_with_its_module() -> None:
    with pytest.raises(MagicError, match=r"special_bessel_j0.* in inner does not lower") as caught:
        convert_module(_Odd(), {"rows": torch.ones(2, 3)}, "vector", scheme_named("float16"), Target.IOS18)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_what_torch_cannot_trace_is_said() -> None:
    with pytest.raises(MagicError, match=r"torch.export does not take _Branch"):
        convert_module(_Branch(), {"rows": torch.ones(2, 3)}, "vector", scheme_named("float16"), Target.IOS18)


def test_groups_that_do_not_divide_are_refused(tmp_path: Path, tiny: Checkpoint) -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(40, 24)

        def stages(self, rows: Tensor) -> Any:
            yield "vector", self.one(rows)

        def forward(self, rows: Tensor) -> Tensor:
            found: Tensor = self.one(rows)
            return found

    for scheme in ("int4", "palette4"):
        with pytest.raises(MagicError, match=rf"{scheme} does not fit .*\[24, 40\]"):
            save_part(Narrow(), {"rows": torch.ones(2, 40)}, "vector", tmp_path, scheme)


@pytest.mark.parametrize(
    ("scheme", "target", "units", "said"),
    [
        ("int4", Target.IOS18, Units.ALL, "int4 does not run on the Neural Engine: scales by block"),
        ("float32", Target.IOS18, Units.ALL, "float32 does not run on the Neural Engine"),
        ("palette4", Target.IOS17, Units.ALL, "palette4 needs iOS18"),
        ("int4", Target.IOS17, Units.CPU_AND_GPU, "int4 needs iOS18"),
    ],
)
def test_what_a_target_cannot_run_is_refused(scheme: str, target: Target, units: Units, said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        scheme_named(scheme).check(target, units)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID and caught.value.remedy


def test_what_a_target_can_run_is_not() -> None:
    for scheme in ("float16", "int8"):
        scheme_named(scheme).check(Target.IOS17, Units.ALL)
    for scheme in ("palette6", "palette4"):
        scheme_named(scheme).check(Target.IOS18, Units.ALL)
    scheme_named("int4").check(Target.IOS18, Units.CPU_AND_GPU)


def test_another_scheme_is_refused() -> None:
    with pytest.raises(MagicError, match="no recipe 'int2'"):
        scheme_named("int2")


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else find(name))
    with pytest.raises(MagicError, match=r"pip install 'magicmm\[coreml\]'"):
        coremltools()


def test_a_build_without_storage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find, lacking = importlib.util.find_spec, "coremltools.libmilstoragepython"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else find(name))
    with pytest.raises(MagicError, match="cannot store weights"):
        package_module.require_coremltools()


def test_what_is_no_package_is_said(half_language: SavedPart, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="no package") as caught:
        load_spec(tmp_path)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
    with pytest.raises(MagicError, match=r"no function 'other'.* It has main"):
        load_function(half_language.package, "other")


def test_modules_of_the_decomposition_have_no_padding_in_their_vision(small: MagicModel) -> None:
    assert VisionEncoder(small, Norms.HALF)(torch.zeros(1, 224, 224, 3)).isfinite().all()
