"""LoRA: where it sits, that it starts as nothing, and that merging gives what peft's own merging gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

import loop_runs
from magicmm_model import MagicModel
from magicmm_training.loop.adapters import add_adapters, count_trained, merged_tensors, train_parameters
from magicmm_training.recipe import Lora
from one_thread import one_thread as one_thread

ALL: Any = ("vision", "connector", "language")
IDS = torch.tensor([[5, 6, *[399] * 64, 7]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


def vectors(model: MagicModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8, generator=generator)
    visual = model.visual_tokens(pixels)
    return model.vectors(model.embed_sequence(IDS, visual, 399), torch.tensor([66]))


def shake(model: MagicModel, seed: int = 2) -> None:
    """Give the adapters values as if they had learnt something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


def merged_model(base: Path, tensors: dict[str, torch.Tensor]) -> MagicModel:
    model = loop_runs.load(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model


@pytest.mark.parametrize("parts", [("language",), ("vision", "connector"), ALL])
def test_adapters_sit_on_the_linear_layers_of_the_parts(parts: tuple[str, ...], base: Path) -> None:
    model = loop_runs.load(base)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = add_adapters(model, Lora(rank=3, parts=parts))  # type: ignore[arg-type]
    assert set(names) == {name for name in linear if name.split(".")[0] in parts and "lm_head" not in name}
    assert {name for name, module in model.named_modules() if isinstance(module, LoraLinear)} == set(names)


def test_only_adapters_are_trained_and_counted(base: Path) -> None:
    model = loop_runs.load(base)
    whole = sum(parameter.numel() for parameter in model.parameters())
    names = add_adapters(model, Lora(rank=3, parts=ALL))
    layers = [model.get_submodule(name) for name in names]
    sizes = [3 * (layer.in_features + layer.out_features) for layer in layers]  # type: ignore[operator]
    assert count_trained(model) == (sum(sizes), whole + sum(sizes))
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())


def test_a_fresh_adapter_changes_nothing(base: Path) -> None:
    model = loop_runs.load(base)
    before = vectors(model)
    add_adapters(model, Lora(rank=4, parts=ALL))
    assert torch.equal(vectors(model.eval()), before)


def test_the_merged_model_computes_what_the_unmerged_one_does(base: Path) -> None:
    lora = Lora(rank=4, alpha=6, parts=ALL)
    model = loop_runs.load(base)
    before = vectors(model)
    add_adapters(model, lora)
    shake(model)
    unmerged = vectors(model.eval())
    merged = merged_model(base, dict(merged_tensors(dict(model.named_parameters()), lora)))
    assert (vectors(merged) - unmerged).abs().max() <= 1e-6
    assert (unmerged - before).abs().max() > 1e-2


def test_merging_gives_the_weights_that_peft_gives(base: Path) -> None:
    lora = Lora(rank=4, alpha=6, parts=ALL)
    model = loop_runs.load(base)
    names = add_adapters(model, lora)
    shake(model)
    ours = merged_tensors({name: one.detach().clone() for name, one in model.named_parameters()}, lora)
    for name in names:
        layer = model.get_submodule(name)
        layer.merge(safe_merge=True)  # type: ignore[operator]
        theirs = layer.base_layer.weight  # type: ignore[union-attr]
        assert torch.allclose(ours[f"{name}.weight"], theirs, atol=1e-6)  # type: ignore[arg-type]
    assert ours.keys() == dict(loop_runs.load(base).named_parameters()).keys()


def test_without_adapters_nothing_is_merged(base: Path) -> None:
    tensors = dict(loop_runs.load(base).named_parameters())
    assert merged_tensors(tensors, None) is tensors


def test_types_of_what_is_trained_and_what_is_frozen(base: Path) -> None:
    def types(lora: Lora | None, dtype: torch.dtype) -> set[tuple[bool, torch.dtype]]:
        model = loop_runs.load(base, dtype=torch.bfloat16)
        train_parameters(model, lora, dtype)
        return {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}

    assert types(None, torch.bfloat16) == {(True, torch.float32)}
    assert types(Lora(), torch.float32) == {(True, torch.float32), (False, torch.float32)}
    assert types(Lora(), torch.bfloat16) == {(True, torch.float32), (False, torch.bfloat16)}


def test_merging_into_bfloat16_keeps_small_changes(base: Path) -> None:
    lora = Lora(rank=2)
    model = loop_runs.load(base, dtype=torch.bfloat16)
    names = add_adapters(model, lora)
    for name in names:
        layer = model.get_submodule(name)
        layer.lora_B["default"].weight.data.fill_(1e-6)  # type: ignore[index,union-attr]
    merged = merged_tensors(dict(model.named_parameters()), lora)
    before = loop_runs.load(base, dtype=torch.bfloat16).get_parameter(f"{names[0]}.weight").float()
    assert merged[f"{names[0]}.weight"].dtype == torch.float32
    assert not torch.equal(merged[f"{names[0]}.weight"], before)
    lost = merged[f"{names[0]}.weight"].bfloat16().float() == before
    assert lost.float().mean() > 0.95, "rounding would lose nearly all of it"
