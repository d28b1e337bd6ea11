"""The loop as a whole, in one process: what it learns, writes, skips and refuses."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loop_runs
from loop_runs import (
    chats,
    contrastive,
    contrastive_stage,
    distance,
    photos,
    restoration,
    restoration_stage,
    run,
    same_but_for_rounding,
    texts,
)
from magicmm.errors import ErrorCode, MagicError
from magicmm_model import TorchEmbedder
from magicmm_training.loop.contrastive import ContrastiveObjective
from magicmm_training.loop.logs import read_log
from magicmm_training.loop.loop import CHECKPOINT
from magicmm_training.loop.objective import StepResult
from magicmm_training.recipe import Batch, Lora, Optimiser
from one_thread import one_thread as one_thread


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


def losses(checkpoint: Path) -> list[float]:
    return [row["loss"] for row in read_log(checkpoint.parent)]


def test_a_contrastive_stage_learns_and_its_checkpoint_opens(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=15)
    done: list[tuple[int, int]] = []
    checkpoint = run(
        base,
        stage,
        contrastive(base, stage, texts(), photos()),
        tmp_path / "run",
        progress=lambda step, total, loss: done.append((step, total)),
    )
    found = losses(checkpoint)
    assert sum(found[-4:]) < 0.4 * sum(found[:4])
    assert done == [(step, 15) for step in range(1, 16)]
    assert checkpoint == tmp_path / "run" / CHECKPOINT
    assert {path.name for path in checkpoint.parent.iterdir()} == {"checkpoint", "log.jsonl", "run.json", "tensorboard"}
    embedder = TorchEmbedder.open(checkpoint, **loop_runs.FAST)
    assert embedder.embed_text("a red dog").vector.norm() == pytest.approx(1)
    assert (checkpoint / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_restoration_stage_learns_and_keeps_the_head(base: Path, tmp_path: Path) -> None:
    stage = restoration_stage(steps=15)
    checkpoint = run(base, stage, restoration(base, stage, chats()), tmp_path / "run")
    found = losses(checkpoint)
    assert sum(found[-4:]) < 0.65 * sum(found[:4])
    assert found[0] == pytest.approx(math.log(400), abs=2.5), "a random model knows nothing of 400 tokens"
    before, after = loop_runs.weights_of(base), loop_runs.weights_of(checkpoint)
    assert not torch.equal(before["language.lm_head.weight"], after["language.lm_head.weight"])


def test_the_log_says_what_happened_in_every_step(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=5, optimiser=Optimiser(lr=1e-3, schedule="linear", warmup_share=0.2))
    checkpoint = run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    rows = read_log(checkpoint.parent)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert {row["dataset"] for row in rows} == {"texts", "photos"}
    assert [row["samples"] for row in rows] == [4, 8, 12, 16, 20]
    assert [row["lr"] for row in rows] == pytest.approx([5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert all(row["grad_norm"] > 0 and row["negatives"] == 12 and row["bad_samples"] == 0 for row in rows)
    assert list((checkpoint.parent / "tensorboard").iterdir())


def test_tensorboard_has_the_losses_of_each_data_set(base: Path, tmp_path: Path) -> None:
    accumulator: Any = import_module("tensorboard.backend.event_processing.event_accumulator")

    stage = contrastive_stage(steps=5)
    checkpoint = run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    events = accumulator.EventAccumulator(str(checkpoint.parent / "tensorboard"))
    events.Reload()
    rows = read_log(checkpoint.parent)
    for name in ("texts", "photos"):
        seen = {event.step: event.value for event in events.Scalars(f"loss/{name}")}
        assert seen == pytest.approx({row["step"]: row["loss"] for row in rows if row["dataset"] == name})


@pytest.mark.parametrize("micro", [1, 3])
def test_gradcache_gives_the_weights_of_the_plain_loss(micro: int, base: Path, tmp_path: Path) -> None:
    ends = []
    for name, size in (("plain", None), ("cached", micro)):
        stage = contrastive_stage(batch=Batch(per_device=6, micro=size), use_explicit=True)
        data = loop_runs.DATA["mixed"]()
        ends.append(run(base, stage, contrastive(base, stage, *data), tmp_path / name))
    assert losses(ends[0]) == pytest.approx(losses(ends[1]), rel=1e-4)
    assert same_but_for_rounding(*ends)
    assert distance(base, ends[0]) > 1e-3


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_gives_the_weights_of_the_whole_batch(packing: bool, base: Path, tmp_path: Path) -> None:
    ends = []
    for name, size in (("whole", None), ("parts", 1)):
        stage = restoration_stage(batch=Batch(per_device=5, micro=size), packing=packing)
        ends.append(run(base, stage, restoration(base, stage, chats()), tmp_path / name))
    assert losses(ends[0]) == pytest.approx(losses(ends[1]), rel=1e-4)
    assert same_but_for_rounding(*ends)
    assert distance(base, ends[0]) > 1e-3


def test_recomputing_activations_changes_nothing(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, recompute in (("kept", False), ("again", True)):
        stage = contrastive_stage(
            gradient_checkpointing=recompute, lora=Lora(rank=4, dropout=0.2), batch=Batch(per_device=4, micro=2)
        )
        ends.append(run(base, stage, contrastive(base, stage, photos()), tmp_path / name))
    assert losses(ends[0]) == losses(ends[1])
    assert distance(*ends) == 0


def test_bfloat16_keeps_float32_weights_and_learns(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=12, dtype="bfloat16", batch=Batch(per_device=4, micro=2))
    checkpoint = run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    found = losses(checkpoint)
    assert sum(found[-4:]) < 0.5 * sum(found[:4])
    assert {tensor.dtype for tensor in loop_runs.weights_of(checkpoint).values()} == {torch.float32}


def test_adapters_learn_on_frozen_bfloat16_weights_and_are_merged_in_float32(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(
        steps=12, dtype="bfloat16", lora=Lora(rank=4), optimiser=Optimiser(lr=1e-2), batch=Batch(per_device=4, micro=2)
    )
    start = loop_runs.load(base, dtype=torch.bfloat16)
    before = {name: one.detach().float() for name, one in start.named_parameters()}
    checkpoint = run(base, stage, contrastive(base, stage, texts()), tmp_path / "run", model=start)
    found = losses(checkpoint)
    assert sum(found[-4:]) < 0.5 * sum(found[:4])
    after = loop_runs.weights_of(checkpoint)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("language.layers") and "_proj.weight" in name for name in changed)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_training_against_rounded_weights_saves_the_weights_before_rounding(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, kind in (("exact", None), ("rounded", "int4")):
        stage = contrastive_stage(steps=2, quantised_forward=kind, lora=Lora(rank=2, dropout=0))
        ends.append(run(base, stage, contrastive(base, stage, texts()), tmp_path / name))
    assert losses(ends[0])[0] != losses(ends[1])[0], "the forward pass is another"
    assert 0 < distance(*ends) < 0.1
    before, after = loop_runs.weights_of(base), loop_runs.weights_of(ends[1])
    untouched = [name for name in before if torch.equal(before[name], after[name])]
    assert "vision.layers.0.mlp.fc1.weight" in untouched


def test_broken_samples_are_replaced_counted_and_do_not_disturb_the_others(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=3, max_bad_share=0.2)
    data = texts(broken=[2, 7])
    checkpoint = run(base, stage, contrastive(base, stage, data), tmp_path / "run")
    rows = read_log(checkpoint.parent)
    assert rows[-1]["bad_samples"] == 2
    assert rows[-1]["samples"] == 12 + 2
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_too_many_broken_samples_stop_the_run_with_the_first_reasons(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=30, max_bad_share=0.1)
    with pytest.raises(MagicError, match=r"texts, row \d+: photo \d+ is torn") as caught:
        run(base, stage, contrastive(base, stage, texts(broken=range(1, 12))), tmp_path / "run")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert "allowed are 10.00% of" in str(caught.value)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_data_set_without_any_good_sample_stops_the_run(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(max_bad_share=1)
    with pytest.raises(MagicError) as caught:
        run(base, stage, contrastive(base, stage, texts(broken=range(12))), tmp_path / "run")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_a_batch_without_negatives_is_refused(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(batch=Batch(per_device=1))
    with pytest.raises(MagicError, match="no negative") as caught:
        run(base, stage, contrastive(base, stage, texts()), tmp_path / "run")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_stops_the_run_and_saves_the_batch(
    where: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = contrastive_stage(steps=6)
    objective = contrastive(base, stage, photos())
    honest = ContrastiveObjective.step
    taken: list[Any] = []

    def step(self: Any, model: Any, samples: Any, engine: Any) -> StepResult:
        taken.append(samples)
        result = honest(self, model, samples, engine)
        if len(taken) < 3:
            return result
        if where == "loss":
            return StepResult(math.nan, result.counters)
        next(model.parameters()).grad[0] = math.inf
        return result

    monkeypatch.setattr(ContrastiveObjective, "step", step)
    with pytest.raises(MagicError, match=r"Step 3 \(photos\)") as caught:
        run(base, stage, objective, tmp_path / "run")
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    folder = tmp_path / "run" / "offending-step-00000003"
    assert str(folder) in str(caught.value)
    facts = json.loads((folder / "rank-0.json").read_text(encoding="utf-8"))
    assert (
        [one["id"] for one in facts["samples"]]
        == [pair.id for pair in taken[-1]]
        == [str(place) for place in facts["places"]]
    )
    assert [one["query"]["text"] for one in facts["samples"]] == [pair.query.text for pair in taken[-1]]
    pixels = load_file(folder / "rank-0.safetensors")
    for one, pair in zip(facts["samples"], taken[-1], strict=True):
        assert torch.equal(pixels[one["positive"]["tiles"]["tensor"]], pair.positive.tiles)
    assert len(read_log(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_finished_run_is_returned_and_that_of_another_stage_refused(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=2)
    checkpoint = run(base, stage, contrastive(base, stage, texts()), tmp_path / "run")
    written = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert run(base, stage, contrastive(base, stage, texts()), tmp_path / "run") == checkpoint
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == written
    other = contrastive_stage(steps=3)
    with pytest.raises(MagicError, match=r"stage\.steps was 2, is 3") as caught:
        run(base, other, contrastive(base, other, texts()), tmp_path / "run")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_the_seed_decides_and_nothing_else(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=2, lora=Lora(rank=2, dropout=0.3))
    first, again, other = (
        run(base, stage, contrastive(base, stage, texts()), tmp_path / name, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert distance(first, again) == 0
    assert distance(first, other) > 1e-5
