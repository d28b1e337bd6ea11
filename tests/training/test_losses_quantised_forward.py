"""Training against rounded weights: the export's numbers, straight-through gradients, LoRA, and no trace left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import tiny_checkpoints
from magicmm import ErrorCode, MagicError
from magicmm_model.loading import load_model
from magicmm_quant.schemes import dequantise, quantise_int4, quantise_int8
from magicmm_training.losses.quantised_forward import group_size, quantise_forward, rounded
from one_thread import one_thread as one_thread

Kind = Literal["int8", "int4"]
KINDS: tuple[Kind, ...] = ("int8", "int4")


def weights(outputs: int = 24, inputs: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** (torch.rand(outputs, 1, generator=generator) * 4 - 3)
    return torch.randn(outputs, inputs, generator=generator) * sizes


class Mlp(nn.Module):
    """Two linear layers, one of which no bundle would hold."""

    def __init__(self) -> None:
        """Take fixed weights."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = nn.Linear(32, 12)
        self.down = nn.Linear(12, 8)
        self.lm_head = nn.Linear(8, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 32] -> [n, 5]."""
        scores: Tensor = self.lm_head(self.down(functional.silu(self.up(inputs))))
        return scores


def inputs(rows: int = 7, seed: int = 1) -> Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))


def test_int8_is_the_rounding_of_the_export() -> None:
    weight = weights()
    weight[3] = 0
    wanted = dequantise(quantise_int8(weight.numpy()))
    np.testing.assert_array_equal(rounded(weight, "int8").numpy(), wanted)
    assert not np.array_equal(wanted, weight.numpy())


def test_int4_is_on_the_grid_of_the_export_and_nearly_as_good() -> None:
    weight = weights()
    weight[3] = 0
    found = rounded(weight, "int4").numpy().reshape(24, 2, 128)
    peaks = np.abs(weight.numpy().reshape(24, 2, 128)).max(axis=2)
    scales = peaks.max(axis=1, keepdims=True) / 126
    for row in (0, 1, 2, 23):
        for group in range(2):
            step = scales[row, 0] * np.clip(np.ceil(peaks[row, group] / (7 * scales[row, 0]) - 1e-6), 1, 18)
            codes = found[row, group] / step
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
            assert np.abs(codes).max() <= 7.001
    assert not found[3].any()
    export = dequantise(quantise_int4(weight.numpy(), 128)).reshape(found.shape)
    ours, theirs = (
        np.square(other - weight.numpy().reshape(found.shape)).sum(axis=(1, 2)) for other in (found, export)
    )
    assert (ours[4:] < 2 * theirs[4:]).all()


def test_int4_by_hand() -> None:
    # One group of 4: peak 12.6, so scale 12.6 / 126 = 0.1, multiplier ceil(12.6 / 0.7) = 18, step 1.8.
    # -12.6 / 1.8 = -7; 3.5 / 1.8 = 1.94 -> 2 -> 3.6; 0.8 / 1.8 = 0.44 -> 0; 6.0 / 1.8 = 3.33 -> 3 -> 5.4.
    found = rounded(torch.tensor([[-12.6, 3.5, 0.8, 6.0]]), "int4")
    torch.testing.assert_close(found, torch.tensor([[-12.6, 3.6, 0.0, 5.4]]))


@pytest.mark.parametrize(
    ("columns", "group"), [(128, 128), (1536, 128), (8960, 128), (96, 96), (192, 96), (130, 65), (257, 1), (1, 1)]
)
def test_groups_divide_the_inputs(columns: int, group: int) -> None:
    assert group_size(columns) == group


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_with_rounded_weights_and_the_head_with_its_own(kind: Kind) -> None:
    model, other = Mlp(), Mlp()
    assert quantise_forward(model, kind).layers == ("up", "down")
    for layer in (other.up, other.down):
        layer.weight.data = rounded(layer.weight, kind)
    torch.testing.assert_close(model(inputs()), other(inputs()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(inputs()), Mlp()(inputs()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_model_with_the_rounded_weights(kind: Kind) -> None:
    model, other = Mlp(), Mlp()
    quantise_forward(model, kind)
    for layer in (other.up, other.down):
        layer.weight.data = rounded(layer.weight, kind)
    given, same = inputs().requires_grad_(), inputs().requires_grad_()
    model(given).square().sum().backward()
    other(same).square().sum().backward()
    pairs = [(given.grad, same.grad)]
    pairs += [(left.grad, right.grad) for left, right in zip(model.parameters(), other.parameters(), strict=True)]
    assert len(pairs) == 7
    for found, wanted in pairs:
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_removal_leaves_nothing_behind(kind: Kind) -> None:
    model = Mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounding = quantise_forward(model, kind)
    assert model.state_dict().keys() == before.keys()
    model(inputs()).sum().backward()
    rounding.remove()
    rounding.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(inputs()), Mlp()(inputs()))


def lora(model: nn.Module, dropout: float = 0.0) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["up"]))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return adapted


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_against_the_rounding_of_what_it_will_be_merged_to(kind: Kind) -> None:
    model = lora(Mlp())
    rounding = quantise_forward(model, kind)
    assert [name.split(".")[-1] for name in rounding.layers] == ["up", "down"]
    found = model(inputs())
    rounding.remove()
    merged = model.merge_and_unload()
    for layer in (merged.up, merged.down):
        layer.weight.data = rounded(layer.weight, kind)
    torch.testing.assert_close(found, merged(inputs()), rtol=1e-4, atol=1e-4)


def test_gradients_of_lora_are_those_through_the_merged_weight() -> None:
    model = lora(Mlp())
    quantise_forward(model, "int4")
    layer = model.base_model.model.up
    given = inputs()
    model.base_model.model.up(given).square().sum().backward()
    left, right = (part["default"].weight.detach().clone().requires_grad_() for part in (layer.lora_B, layer.lora_A))
    merged = layer.base_layer.weight.detach() + 2 * left @ right
    through = merged + (rounded(merged, "int4") - merged).detach()
    functional.linear(given, through, layer.base_layer.bias).square().sum().backward()  # type: ignore[no-untyped-call]
    assert layer.base_layer.weight.grad is None
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, left.grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(layer.lora_A["default"].weight.grad, right.grad, rtol=1e-3, atol=1e-2)


def test_adapters_that_are_off_or_merged() -> None:
    model = lora(Mlp())
    quantise_forward(model, "int8")
    on = model(inputs())
    with model.disable_adapter():
        plain = Mlp()
        quantise_forward(plain, "int8")
        torch.testing.assert_close(model(inputs()), plain(inputs()), rtol=1e-4, atol=1e-4)
    model.merge_adapter()
    torch.testing.assert_close(model(inputs()), on, rtol=1e-4, atol=1e-4)


def test_adapter_dropout_runs() -> None:
    model = lora(Mlp(), dropout=0.5).train()
    quantise_forward(model, "int8")
    torch.manual_seed(0)
    first = model(inputs())
    torch.manual_seed(0)
    assert torch.equal(model(inputs()), first)
    assert not torch.equal(model(inputs()), first)


def test_with_gradient_checkpointing_and_autocast() -> None:
    model, other = Mlp(), Mlp()
    quantise_forward(model, "int8")
    quantise_forward(other, "int8")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(inputs()).sum().backward()
        checkpoint(other, inputs(), use_reentrant=False).sum().backward()
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert left.grad is not None
        torch.testing.assert_close(right.grad, left.grad)


def test_bfloat16_weights() -> None:
    model = Mlp().bfloat16()
    quantise_forward(model, "int4")
    assert model(inputs().bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_training_against_rounding_loses_less_to_it(kind: Kind) -> None:
    """A layer that starts perfect; its inputs are correlated, so that errors of some weights can make up for others."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(8, 32, generator=generator)
    data = torch.randn(256, 6, generator=generator) @ torch.randn(6, 32, generator=generator)

    def error(rounding: bool) -> float:
        layer = nn.Linear(32, 8, bias=False)
        layer.weight.data = target.clone()
        if rounding:
            quantise_forward(layer, kind)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
        for _ in range(300):
            optimiser.zero_grad()
            (layer(data) - data @ target.T).square().mean().backward()
            optimiser.step()
            schedule.step()
        return float((data @ rounded(layer.weight, kind).T - data @ target.T).square().mean())

    assert error(rounding=True) < 0.5 * error(rounding=False)


def test_the_whole_model(tmp_path: Path) -> None:
    tiny_checkpoints.write_checkpoint(tmp_path / "tiny")
    model = load_model(tmp_path / "tiny", head=True)
    layers = quantise_forward(model, "int8").layers
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert [name for name in linears if name not in layers] == ["language.lm_head"]
    assert {name.split(".")[0] for name in layers} == {"vision", "connector", "language"}


def test_nothing_to_round_is_refused() -> None:
    with pytest.raises(MagicError, match="no linear layer") as error:
        quantise_forward(nn.Sequential(nn.Tanh()), "int8")
    assert error.value.code is ErrorCode.ARGUMENT_INVALID
