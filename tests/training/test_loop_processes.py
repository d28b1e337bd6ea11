"""Two processes, started by torchrun with gloo, against one that has the whole batch: replicated and sharded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import loop_runs
from loop_runs import Job, distance, same_but_for_rounding, start
from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.logs import read_log
from magicmm_training.loop.loop import CHECKPOINT
from one_thread import one_thread as one_thread

WHOLE = {
    "contrastive": Job("", "", "contrastive", {"steps": 3, "batch": {"per_device": 6}, "use_explicit": True}, "mixed"),
    "restoration": Job("", "", "restoration", {"steps": 3, "batch": {"per_device": 6}}, "chats"),
}
"""Hard negatives of different numbers, pictures in some micro batches only; rows that processes pack differently."""
HALVES = {"contrastive": {"per_device": 3, "micro": 2}, "restoration": {"per_device": 3, "micro": 1}}
"""The same steps in two processes, with GradCache or accumulation, which the one process goes without."""
SHARDED = Job("", "", "contrastive", {"steps": 4, "save_every": 1, "batch": {"per_device": 2}}, "both", shard=True)
ADAPTED = {
    "lora": {"rank": 4, "parts": ["vision", "connector", "language"]},
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "steps": 8,
    "batch": {"per_device": 2, "micro": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, by the name of the run; they are started once for all runs."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [
        replace(job, out=f"{name}-{shard}", stage={**job.stage, "batch": HALVES[name]}, shard=shard)
        for name, job in WHOLE.items()
        for shard in (False, True)
    ]
    jobs += [
        replace(SHARDED, out="never killed"),
        Job("", "adapted", "contrastive", ADAPTED, "both", shard=True, half=True),
        Job("", "torn", "contrastive", {"steps": 20, "max_bad_share": 0.1}, "torn"),
        replace(SHARDED, out="killed", kill_after=2),
    ]
    done = start([replace(job, base=str(base), out=str(folder / job.out)) for job in jobs], processes=2)
    assert done.returncode != 0, "the last run is killed"
    assert (folder / "killed").is_dir(), done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
@pytest.mark.parametrize("kind", list(WHOLE))
def test_two_processes_give_the_weights_of_one(kind: str, shard: bool, base: Path, two: Path, tmp_path: Path) -> None:
    alone = replace(WHOLE[kind], base=str(base), out=str(tmp_path / "one")).run()
    assert same_but_for_rounding(alone, two / f"{kind}-{shard}" / CHECKPOINT)
    assert distance(base, alone) > 1e-3
    same = {"step", "epoch", "dataset", "lr", "samples", "negatives", "hard_negatives", "target_tokens", "tokens"}
    for one, other in zip(read_log(tmp_path / "one"), read_log(two / f"{kind}-{shard}"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-4)
        assert {name: one[name] for name in same & one.keys()} == {name: other[name] for name in same & other.keys()}


def test_sharded_adapters_on_a_bfloat16_start_with_recomputation_learn(base: Path, two: Path) -> None:
    losses = [row["loss"] for row in read_log(two / "adapted")]
    assert sum(losses[-3:]) < sum(losses[:3])
    before, after = loop_runs.weights_of(base), loop_runs.weights_of(two / "adapted" / CHECKPOINT)
    changed = {name for name in before if not before[name].bfloat16().float().equal(after[name])}
    linear = ("attn.qkv", "attn.proj", "fc1", "fc2", "linear_1", "linear_2", "_proj")
    assert changed == {name for name in before if name.endswith(tuple(f"{end}.weight" for end in linear))}


def test_broken_samples_stop_all_processes_with_the_same_error(two: Path) -> None:
    first, second = ((two / "torn" / f"error-{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1))
    assert first == second
    assert "source_unavailable" in first and "allowed are 10.00% of" in first and "is torn" in first


def test_a_sharded_run_goes_on_bit_for_bit_but_not_with_another_number_of_processes(base: Path, two: Path) -> None:
    killed = replace(SHARDED, base=str(base), out=str(two / "killed"))
    assert (two / "killed" / "state" / "step-00000002" / "part-00001-of-00002.safetensors").is_file()
    assert not (two / "killed" / CHECKPOINT).exists()
    with pytest.raises(MagicError, match=r"processes was 2, is 1; sharded was True, is False") as caught:
        replace(killed, shard=False).run()
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID

    resumed = start([killed], processes=2)
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert distance(two / "never killed" / CHECKPOINT, two / "killed" / CHECKPOINT) == 0
    assert [row["step"] for row in read_log(two / "killed")] == [1, 2, 3, 4]


def test_sharding_needs_other_processes(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="torchrun") as caught:
        Job(str(base), str(tmp_path / "run"), "contrastive", {}, "texts", shard=True).run()
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
