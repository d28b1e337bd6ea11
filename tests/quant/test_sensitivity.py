"""The search finds what must not be rounded, and plans within the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.loading import load_model
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.samples import Samples, prepare, synthetic_samples
from magicmm_quant.schemes import Scheme, dequantise, quantise_int4
from magicmm_quant.sensitivity import CHEAP, DEAR, plan_bits, sensitivity
from magicmm_quant.weights import RewrittenWeights
from tiny_checkpoints import write_checkpoint

COARSE = Scheme("int4", 32)
PLANTED = "language.layers.1.o"
# Their inputs are whole groups of 32; those of the language layers are made so.
UNITS = ["vision.layers.0.fc1", "vision.layers.1.proj", "connector.linear_1"] + [
    f"language.layers.{layer}.{unit}" for layer in range(3) for unit in ("qkv", "o", "gate_up", "down")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One matrix has four huge columns that read next to nothing: groups of 15 levels lose all other columns."""
    folder = tmp_path_factory.mktemp("sensitivity") / "tiny"
    write_checkpoint(folder, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    (prefix,) = {name.partition("layers.1.self_attn.")[0] for name in tensors if "layers.1.self_attn." in name}
    block = f"{prefix}layers.1.self_attn"
    # Two heads of width 16 read each value head: the function stays the same.
    for part in ("weight", "bias"):
        tensors[f"{block}.v_proj.{part}"][::16] /= 1000
    tensors[f"{block}.o_proj.weight"][:, ::16] *= 1000
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def config(checkpoint: Checkpoint) -> ModelConfig:
    return checkpoint.config.variant(image_size=56, compression=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return synthetic_samples(2, side=56)


@pytest.fixture(scope="module")
def scores(
    checkpoint: Checkpoint, config: ModelConfig, samples: Samples, tokenizer: PromptTokenizer
) -> dict[str, float]:
    weights = RewrittenWeights(checkpoint, config, None)
    return sensitivity(checkpoint, weights, config, samples, tokenizer, UNITS, COARSE)


def test_every_unit_has_a_score_and_the_planted_one_the_worst(scores: dict[str, float]) -> None:
    assert list(scores) == UNITS
    assert all(0 < score < 2 for score in scores.values())
    assert max(scores, key=scores.__getitem__) == PLANTED


@pytest.mark.parametrize("unit", ["vision.layers.1.proj", "connector.linear_1", "language.layers.1.qkv", PLANTED])
def test_a_score_is_what_the_whole_model_loses_with_that_unit_rounded(
    checkpoint: Checkpoint,
    config: ModelConfig,
    samples: Samples,
    tokenizer: PromptTokenizer,
    scores: dict[str, float],
    unit: str,
) -> None:
    """Runs torch's whole model twice; the norm's gain and LayerScale are folded by hand."""
    inputs = prepare(samples, config, tokenizer)
    model = load_model(checkpoint, image_size=56, compression=1, dtype=torch.float32)
    before = []
    for changed in (False, True):
        if changed:
            _round_by_hand(model, unit)
        found = []
        for place, ids in enumerate(inputs.prompts):
            visual = model.visual_tokens(inputs.tiles[place]) if place < len(inputs.tiles) else None
            rows = model.embed_sequence(torch.tensor([ids]), visual, inputs.context)
            found.append(model.vectors(rows, torch.tensor([len(ids) - 1]))[0])
        before.append(torch.stack(found).double())
    expected = (1 - functional.cosine_similarity(before[0], before[1])).mean().item()
    assert scores[unit] == pytest.approx(expected, rel=0.02, abs=1e-6)


def _round_by_hand(model: Any, unit: str) -> None:
    layer, _, kind = unit.rpartition(".")
    names = {
        "proj": (["attn.proj"], None, "ls1"),
        "linear_1": (["linear_1"], "layer_norm", None),
        "o": (["self_attn.o_proj"], None, None),
        "qkv": ([f"self_attn.{part}_proj" for part in "qkv"], "input_layernorm", None),
    }
    paths, norm, scale = names[kind]
    module = model.get_submodule(layer)
    gain = module.get_submodule(norm).weight if norm else torch.ones(1)
    rows = getattr(module, scale)[:, None] if scale else torch.ones(1)
    for path in paths:
        linear = module.get_submodule(path)
        folded = (linear.weight * gain * rows).numpy()
        rounded = torch.from_numpy(dequantise(quantise_int4(folded, 32))) / gain / rows
        shift = getattr(module.get_submodule(norm), "bias", None) if norm else None
        if shift is not None:  # folded before anything was rounded
            linear.bias += (linear.weight - rounded) @ shift
        linear.weight = torch.nn.Parameter(rounded, requires_grad=False)


def test_nothing_is_lost_where_nothing_is_rounded(
    checkpoint: Checkpoint, config: ModelConfig, samples: Samples, tokenizer: PromptTokenizer
) -> None:
    weights = RewrittenWeights(checkpoint, config, None)
    units = ["vision.layers.0.fc1", "language.layers.0.down"]
    found = sensitivity(checkpoint, weights, config, samples, tokenizer, units, Scheme("float32"))
    assert found == dict.fromkeys(units, 0.0)


def test_units_that_do_not_exist_and_missing_photos_are_refused(
    checkpoint: Checkpoint, config: ModelConfig, tokenizer: PromptTokenizer
) -> None:
    weights = RewrittenWeights(checkpoint, config, None)
    texts = Samples((), ("a dog",))
    cases: tuple[tuple[Samples, list[str], str], ...] = (
        (texts, ["tokens"], "tokens"),
        (texts, UNITS[:1], "no photos"),
        (Samples((), ()), [], "no samples"),
    )
    for given, units, named in cases:
        with pytest.raises(MagicError, match=named) as caught:
            sensitivity(checkpoint, weights, config, given, tokenizer, units)
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    found = sensitivity(checkpoint, weights, config, texts, tokenizer, [PLANTED], COARSE)
    assert found[PLANTED] > 0


def random_plan(seed: int) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
    generator = np.random.default_rng(seed)
    names = [f"unit{place}" for place in range(12)]
    dear = {name: int(generator.integers(100, 1000)) for name in names}
    return {name: float(generator.uniform()) for name in names}, {n: dear[n] // 2 for n in names}, dear


def test_the_plan_fits_and_a_larger_limit_never_takes_a_unit_back() -> None:
    scores, cheap, dear = random_plan(0)
    least, most = sum(cheap.values()) + 50, sum(dear.values()) + 50
    before: set[str] = set()
    for limit in range(least, most + 200, 37):
        plan = plan_bits(scores, cheap, dear, limit, fixed=50)
        fine = {unit for unit, scheme in plan.items() if scheme == DEAR}
        assert {plan[unit] for unit in plan.keys() - fine} <= {CHEAP}
        assert 50 + sum((dear if unit in fine else cheap)[unit] for unit in plan) <= limit
        assert before <= fine
        before = fine
    assert before == set(scores)


def test_what_loses_least_a_byte_is_rounded_first() -> None:
    scores = {"a": 0.9, "b": 0.1, "c": 0.2}
    dear, cheap = {"a": 200, "b": 20, "c": 100}, {"a": 100, "b": 10, "c": 50}
    schemes = {limit: plan_bits(scores, cheap, dear, limit) for limit in (320, 319, 269, 259)}
    coarse = {limit: {unit for unit in plan if plan[unit] == CHEAP} for limit, plan in schemes.items()}
    assert coarse == {320: set(), 319: {"c"}, 269: {"c", "a"}, 259: {"c", "a"}}


def test_a_unit_that_saves_nothing_stays_fine() -> None:
    plan = plan_bits({"a": 0.0, "b": 1.0}, {"a": 10, "b": 5}, {"a": 10, "b": 9}, 15)
    assert plan == {"a": DEAR, "b": CHEAP}


def test_an_impossible_limit_names_the_smallest_size_which_then_works() -> None:
    scores, cheap, dear = random_plan(1)
    least = sum(cheap.values()) + 7
    with pytest.raises(MagicError, match=f"at least {least:,} bytes") as caught:
        plan_bits(scores, cheap, dear, least - 1, fixed=7)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert set(plan_bits(scores, cheap, dear, least, fixed=7).values()) == {CHEAP}


def test_a_unit_without_a_size_is_refused() -> None:
    with pytest.raises(MagicError, match="b lacks"):
        plan_bits({"a": 0.1, "b": 0.2}, {"a": 1}, {"a": 2}, 9)
