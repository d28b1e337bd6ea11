"""Lowering: other targets, modules that do not lower, and the errors that name them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from magicmm import ErrorCode, MagicError
from magicmm.executorch_runtime import ExecutorchSession
from magicmm_export.decomposition import LanguageBlocks
from magicmm_export.planner import NOT_RUN
from magicmm_model.config import Head, LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.model import MagicModel
from magicmm_quant.recipe import RECIPES
from tiny_checkpoints import randomise

pytest.importorskip("executorch")

from magicmm_export.executorch.export import program_methods
from magicmm_export.executorch.lowering import Method, lower
from magicmm_export.executorch.targets import TARGETS, XNNPACK, find_target

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages about themselves


class Step(nn.Module):
    """One operator."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, rows: Tensor) -> Tensor:
        return self.step(rows)


class Whole(nn.Module):
    """It, in a module."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = Step(step)

    def forward(self, rows: Tensor) -> Tensor:
        return self.inner(rows) + 1


def step(function: Callable[[Tensor], Tensor]) -> dict[str, Method]:
    return {"part": Method(Whole(function), (torch.ones(2, 8),))}


def test_a_lowered_method_gives_the_models_vectors_behind_a_prefix(tmp_path: Path) -> None:
    """Each key and value has numbers of its own, so that inputs that are taken for each other show."""
    model = MagicModel(ModelConfig(VisionConfig(32, 1, 4, 64), LanguageConfig(48, 2, 6, 2, 80, 400), head=Head.NONE))
    randomise(model)
    model.requires_grad_(False).eval()
    methods = program_methods(model, None, XNNPACK, [8], 5)
    assert list(methods) == ["vision", "language_8"]
    lower({"language_8": methods["language_8"]}, XNNPACK).write(tmp_path / "model.pte")
    session = ExecutorchSession(tmp_path / "model.pte", "language", 1)
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(1, 6, 48, generator=generator)
    _, past = model.language(torch.randn(1, 3, 48, generator=generator))
    names = {
        f"past_{kind}_{layer}": pair[place].numpy()
        for layer, pair in enumerate(past)
        for place, kind in enumerate(("key", "value"))
    }
    found = session.run({"embeds": embeds.numpy(), "last": np.array([5]), **names})
    wanted = model.vectors(embeds, torch.tensor([5]), past)
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vulkan", "coreml"])
def test_other_targets_take_the_language_part_whole(reference: MagicModel, name: str) -> None:
    if name == "coreml":
        pytest.importorskip("coremltools")
    target = find_target(name)
    blocks = LanguageBlocks(reference, 8, norms=target.norms)
    inputs = (torch.zeros(1, 8, reference.config.dim), torch.tensor([0]))
    plan = lower({"language_8": Method(blocks, inputs)}, target).plan
    assert plan.status == NOT_RUN and plan.target == name
    assert plan.outside_share < 0.01
    assert plan.parts[0].pieces <= 2


def test_a_module_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(MagicError, match="part for xnnpack does not lower") as caught:
        lower(step(lambda rows: rows * rows.sum().item() if rows.sum().item() > 3 else rows), XNNPACK)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED and caught.value.remedy


def test_an_operator_without_a_kernel_is_named_with_its_module() -> None:
    with pytest.raises(MagicError) as caught:
        lower(step(lambda rows: torch.special.bessel_j0(rows)), XNNPACK)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    assert "bessel_j0" in caught.value.message and "inner" in caught.value.message


def test_what_xnnpack_leaves_out_has_a_reason() -> None:
    plan = lower(step(lambda rows: torch.atan2(rows, rows)), XNNPACK).plan
    reasons = {one.operator: one.why for one in plan.parts[0].outside}
    assert reasons["atan2"] == "XNNPACK has no such operator"


def test_work_of_a_product_is_that_of_its_shapes() -> None:
    weight = torch.ones(5, 8)
    plan = lower(step(lambda rows: nn.functional.linear(rows, weight)), XNNPACK).plan
    work = {one.operator: one.work for one in plan.parts[0].operators}
    assert sum(work[name] for name in ("linear", "mm", "addmm") if name in work) == 2 * 2 * 5 * 8
    assert work["add"] == 2 * 5
    assert plan.parts[0].pieces == 1 and plan.outside_share == 0


def test_recipes_that_a_target_does_not_multiply_are_refused() -> None:
    for name, recipe in (("vulkan", "int8"), ("coreml", "int4")):
        with pytest.raises(MagicError, match=f"which {name} does not multiply") as caught:
            TARGETS[name].check(RECIPES[recipe], ["vision.patches", "language.layers.0.qkv"])
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID and "language.layers.0.qkv" in caught.value.message
    for target in TARGETS.values():
        if target.package is None or importlib.util.find_spec(target.package):
            target.check(RECIPES["float32"], ["vision.patches"])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = {"coremltools"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    with pytest.raises(MagicError, match="needs coremltools") as caught:
        TARGETS["coreml"].check(RECIPES["float32"], [])
    assert "pip install coremltools" in caught.value.remedy
    absent.add("executorch")
    with pytest.raises(MagicError, match="ExecuTorch is not installed"):
        XNNPACK.check(RECIPES["float32"], [])
