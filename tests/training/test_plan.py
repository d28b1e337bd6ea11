"""Plans: operations against torch's counter, memory against what autograd keeps, counts against the loop's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from magicmm.errors import MagicError
from magicmm_model.config import FAMILY, Head, LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.model import MagicModel
from magicmm_training.loop.adapters import train_parameters
from magicmm_training.loop.forward import TrainableModel
from magicmm_training.loop.recompute import recompute_layers
from magicmm_training.losses.next_token import IGNORED
from magicmm_training.plan import make_plan
from magicmm_training.plan_costs import Passes, step_flops
from magicmm_training.plan_memory import activation_bytes, parameter_counts, stage_memory
from magicmm_training.plan_report import StagePlan
from magicmm_training.recipe import Batch, Contrastive, Lora, Optimiser
from magicmm_training.recipe_file import load_recipe
from one_thread import one_thread as one_thread

IMAGE = 499
CONFIG = ModelConfig(
    VisionConfig(64, 3, 4, 256, 56, 14),
    LanguageConfig(96, 4, 6, 2, 560, 500, max_positions=2048),
    head=Head.UNTIED,
)
LORAS = [None, Lora(rank=4), Lora(rank=4, dropout=0.0), Lora(rank=4, parts=("vision", "language"))]


def options(lora: Lora | None, *, recompute: bool = False, dtype: str = "float32") -> Contrastive:
    return Contrastive.model_validate(
        {
            "name": "a",
            "batch": Batch(per_device=1),
            "optimiser": Optimiser(lr=1),
            "lora": lora,
            "gradient_checkpointing": recompute,
            "dtype": dtype,
        }
    )


def trainable(stage: Contrastive) -> TrainableModel:
    model = MagicModel(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    dtype = torch.bfloat16 if stage.dtype == "bfloat16" else torch.float32
    train_parameters(model, stage.lora, dtype)
    if stage.gradient_checkpointing:
        recompute_layers(model)
    return TrainableModel(model, IMAGE, None if dtype == torch.float32 else dtype).train()


def batch(count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 400, (count, length), generator=torch.Generator().manual_seed(0))
    ids[:, 5 : 5 + CONFIG.tile_tokens] = IMAGE
    return ids, torch.zeros(count, 56, 56, 3, dtype=torch.uint8)


@pytest.mark.parametrize("head", [0, 20])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", LORAS)
def test_operations_are_what_torch_counts(lora: Lora | None, recompute: bool, head: int) -> None:
    """Within 8 %: the first layer passes no gradient on, and only flash kernels compute scores again."""
    stage = options(lora, recompute=recompute)
    model = trainable(stage)
    ids, pixels = batch(3, 50)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if head:
            targets = torch.full((3, 50), IGNORED)
            targets[:, -head:] = 7
            model(ids, pixels, targets=targets).backward()
        else:
            model(ids, pixels, last=torch.tensor([49] * 3)).sum().backward()
    planned = step_flops(CONFIG, Passes.of(stage, cached=False), [(50, 1)] * 3, 3 * head)
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.08)


def test_a_forward_pass_is_counted_exactly() -> None:
    model = trainable(options(None))
    ids, pixels = batch(2, 40)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids, pixels, last=torch.tensor([39] * 2))
    frozen = Passes(frozenset(), frozenset(), recompute=False, cached=False, rank=0)
    assert step_flops(CONFIG, frozen, [(40, 1)] * 2) == counter.get_total_flops()
    cached = Passes(frozenset(), frozenset(), recompute=False, cached=True, rank=0)
    assert step_flops(CONFIG, cached, [(40, 1)] * 2) == 2 * counter.get_total_flops()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", LORAS)
def test_activations_are_what_autograd_keeps(lora: Lora | None, dtype: str) -> None:
    """Within a factor of 1.5: on a CPU, dropout keeps a float where the formula has the byte of a GPU."""
    stage = options(lora, dtype=dtype)
    model = trainable(stage)
    ids, pixels = batch(24, 50)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, so that nothing else gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, pixels, last=torch.tensor([49] * 24))
    measured = sum(size for size, _ in kept.values())
    planned = activation_bytes(CONFIG, stage, Passes.of(stage, cached=False), 24 * 50, 24)
    assert planned < 1.5 * measured
    assert measured < 1.5 * planned


def test_weights_gradients_and_moments_are_counted_exactly() -> None:
    counts = sum(parameter.numel() for parameter in MagicModel(CONFIG).parameters())
    assert sum(parameter_counts(CONFIG).values()) == counts
    for lora in (None, Lora(rank=4), Lora(rank=4, parts=("vision", "connector", "language"))):
        stage = options(lora)
        model = trainable(stage)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        everything = sum(parameter.numel() for parameter in model.parameters())
        memory = stage_memory(CONFIG, stage, Passes.of(stage, cached=False), 10, 1, 0)
        assert (memory.weights, memory.gradients, memory.optimiser) == (4 * everything, 4 * trained, 8 * trained)


def test_recomputing_saves_memory_and_costs_operations() -> None:
    kept, again = options(Lora()), options(Lora(), recompute=True)
    two_b = FAMILY["2B"]
    passes = [Passes.of(stage, cached=False) for stage in (kept, again)]
    memory = [activation_bytes(two_b, stage, each, 1e5, 100) for stage, each in zip((kept, again), passes, strict=True)]
    flops = [step_flops(two_b, each, [(150, 1)]) for each in passes]
    assert memory[1] < memory[0] / 5
    assert flops[1] > flops[0]


def plan_2b(*overrides: str, name: str = "magicmm-2b") -> dict[str, StagePlan]:
    return {stage.name: stage for stage in make_plan(load_recipe(name, ["--data_root", "/nowhere", *overrides])).stages}


def test_steps_and_batches_are_those_of_the_paper() -> None:
    stages = plan_2b()
    assert [stages[name].batch for name in ("warmup", "hnm", "finetune", "reranker")] == [6144, 3072, 576, 12 * 24]
    for name, steps in (("warmup", 2 * 2.6e3), ("hnm", 2 * 5.2e3), ("finetune", 2 * 2.6e3)):
        assert stages[name].steps == pytest.approx(steps, rel=0.05)
    assert stages["restoration"].steps == 30_000
    assert stages["restoration"].samples == pytest.approx(32e6, rel=0.02)


def test_the_2b_fits_its_devices_and_its_cost_is_compared_with_the_papers() -> None:
    stages = plan_2b()
    assert all(stage.fits for stage in stages.values() if stage.memory)
    warmup, vanilla = stages["warmup"], plan_2b(name="magicmm-2b-vanilla")["warmup"]
    assert warmup.known_hours == 1102 and warmup.implied_utilisation is not None and warmup.flops is not None
    assert warmup.implied_utilisation == pytest.approx(warmup.flops / (1102 * 3600 * 312e12))
    assert 0.05 < warmup.implied_utilisation < 0.5  # hours that no device could reach would show here
    assert vanilla.flops is not None and 1.5 < vanilla.flops / warmup.flops < 2.5  # the paper: 2.3 times the hours


def test_what_is_not_counted_is_said() -> None:
    plain = plan_2b()["warmup"]
    more = ["--stages.warmup.use_explicit", "true", "--stages.warmup.quantised_forward", "int8"]
    assert plain.notes == ()
    assert len(plan_2b(*more, "--stages.warmup.batch.micro", "64")["warmup"].notes) == 3


def test_gradient_caching_costs_a_forward_pass_and_saves_memory() -> None:
    plain, cached = plan_2b()["warmup"], plan_2b("--stages.warmup.batch.micro", "32")["warmup"]
    assert (
        plain.flops is not None and cached.flops is not None and plain.memory is not None and cached.memory is not None
    )
    assert 1.3 < cached.flops / plain.flops < 2
    assert cached.memory.activations == pytest.approx(plain.memory.activations / 4)


def test_a_batch_that_does_not_fit_is_found() -> None:
    plan = make_plan(load_recipe("magicmm-2b", ["--hardware.memory_gb", "24"]))
    assert not plan.is_ready
    assert {"restoration", "warmup"} <= {found.where for found in plan.findings if found.kind == "memory"}


def test_pictures_that_leave_no_room_for_words_are_found() -> None:
    plan = make_plan(load_recipe("magicmm-2b", ["--model.compression", "1"]))
    where = [found.where for found in plan.findings if found.kind == "length"]
    assert "warmup, ColPali" in where and "warmup, VOC2007" not in where
    vanilla = make_plan(load_recipe("magicmm-2b-vanilla"))
    assert not [found for found in vanilla.findings if found.kind == "length"]


def test_what_is_missing_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("magicmm-2b", ["--data_root", str(tmp_path)]))
    missing = {found.where for found in plan.findings if found.kind == "missing"}
    assert {"model.base", "WebQA", "judge", "MMEB"} <= missing
    licences = {found.where for found in plan.findings if found.kind == "licence"}
    assert "BAAI-MTP" in licences and "WebQA" not in licences
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "MMEB-train" / "WebQA").mkdir(parents=True)
    plan = make_plan(load_recipe("magicmm-2b", ["--data_root", str(tmp_path)]))
    assert "WebQA" not in {found.where for found in plan.findings if found.kind == "missing"}


def test_rows_without_stated_number_are_counted(tmp_path: Path) -> None:
    row: dict[str, Any] = {"query": {"text": "a"}, "positive": {"text": "b"}}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(21)))
    (tmp_path / "r.yaml").write_text(
        "name: r\ndata_root: .\nmodel: {base: none, size: 2B}\nhardware: {devices: 2}\nstages:\n"
        "  a: {kind: contrastive, epochs: 2, batch: {per_device: 5}, optimiser: {lr: 1},\n"
        "      data: [{name: n, group: T->T, instructions: BAAI-MTP, format: pairs, path: rows.jsonl}]}\n"
    )
    stage = make_plan(load_recipe(tmp_path / "r.yaml")).stages[0]
    assert (stage.batch, stage.steps, stage.samples) == (10, 6, 60)
    assert stage.visual_tokens == 0
    assert stage.text_tokens == 60 * (64 + 24 + 64 + 32)
    with pytest.raises(MagicError, match="how many samples n hold"):
        make_plan(load_recipe(tmp_path / "r.yaml", ["--data_root", str(tmp_path / "away")]))


def test_documents_and_pairs_of_pictures_have_their_tiles(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: {base: none, size: 2B}\nstages:\n"
        "  a: {kind: contrastive, steps: 1, negatives_each: 0, batch: {per_device: 1}, optimiser: {lr: 1},\n"
        "      data: [{name: n, group: IT->VD, format: pairs, path: x, samples: 3, max_tiles: 4}]}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert make_plan(recipe).stages[0].visual_tokens == 64 * (5 + 5)
    single = load_recipe(tmp_path / "r.yaml", ["--assumptions.document_tiles", "2"])
    assert make_plan(single).stages[0].visual_tokens == 64 * (2 + 2)


def test_shapes_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="no checkpoint"):
        make_plan(load_recipe("tiny", ["--data_root", str(tmp_path)]))


def test_table_and_json_say_the_same() -> None:
    plan = make_plan(load_recipe("magicmm-2b", ["--data_root", "/nowhere"]))
    facts = json.loads(json.dumps(plan.to_json()))
    table = plan.table()
    assert facts["parameters"] == pytest.approx(2.089e9, rel=1e-3)  # the fact sheet's, with head
    assert [stage["name"] for stage in facts["stages"]] == [stage.name for stage in plan.stages]
    for stage in plan.stages:
        line = next(line for line in table.splitlines() if line.startswith(f"{stage.name} "))
        assert stage.steps is None or f"{stage.steps:,}" in line
        assert stage.flops is None or f"{stage.flops:.2e}" in line
    assert "hardware.utilisation" in table and "MISSING" in table and "LICENCE" in table
    assert facts["ready"] is False
