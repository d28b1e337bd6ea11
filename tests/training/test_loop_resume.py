"""A run that was killed, ran out of disk, or is started again differently."""

from __future__ import annotations

import errno
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import loop_runs
from loop_runs import Job, contrastive, contrastive_stage, distance, photos, run, start, texts
from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop import resume
from magicmm_training.loop.logs import read_log
from magicmm_training.loop.loop import CHECKPOINT, STATE
from magicmm_training.recipe import Lora
from one_thread import one_thread as one_thread

STEPS = 7
STAGE: dict[str, Any] = {
    "steps": STEPS,
    "save_every": 2,
    "max_bad_share": 1,
    "lora": {"rank": 2, "dropout": 0.2, "parts": ["vision", "connector", "language"]},
    "batch": {"per_device": 3, "micro": 2},
}
"""Dropout, broken samples and GradCache: all that could be random or counted."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_log(folder)]


def test_kills_at_any_step_and_within_a_save_change_no_bit(base: Path, tmp_path: Path) -> None:
    job = Job(str(base), str(tmp_path / "whole"), "contrastive", STAGE, "torn photos")
    whole = job.run()
    broken = replace(job, out=str(tmp_path / "killed"))
    state = tmp_path / "killed" / STATE
    steps = sorted(random.Random(5).sample(range(1, STEPS), 2))
    assert start([replace(broken, kill_saving=2)]).returncode == -9
    assert [path.name for path in state.iterdir()] == ["step-00000002.partial"]
    for step in steps:
        assert start([replace(broken, kill_after=step)]).returncode == -9
        assert not (tmp_path / "killed" / CHECKPOINT).exists()
    assert start([broken]).returncode == 0
    assert distance(whole, tmp_path / "killed" / CHECKPOINT) == 0
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "killed")
    assert rows_of(tmp_path / "whole")[-1]["bad_samples"] > 0
    assert not state.exists()


def stop_after(step: int) -> Any:
    """Return a progress that ends the run as an interrupt would."""

    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def interrupted(base: Path, out: Path, after: int, **options: Any) -> None:
    stage = contrastive_stage(**{"steps": 6, "save_every": 1, **options})
    with pytest.raises(KeyboardInterrupt):
        run(base, stage, contrastive(base, stage, texts(), photos()), out, progress=stop_after(after))


def test_all_parameters_go_on_bit_for_bit_in_the_same_process_too(base: Path, tmp_path: Path) -> None:
    stage = contrastive_stage(steps=6, save_every=1)
    data = texts(), photos()
    whole = run(base, stage, contrastive(base, stage, *data), tmp_path / "whole")
    interrupted(base, tmp_path / "run", after=3)
    resumed = run(base, stage, contrastive(base, stage, *data), tmp_path / "run")
    assert distance(whole, resumed) == 0


def test_the_two_latest_states_are_kept_in_files_that_anybody_can_read(base: Path, tmp_path: Path) -> None:
    interrupted(base, tmp_path / "run", after=4, lora=Lora(rank=2))
    folders = sorted((tmp_path / "run" / STATE).iterdir())
    assert [folder.name for folder in folders] == ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in folders[1].iterdir()) == ["facts.json", "part-00000-of-00001.safetensors"]
    facts = json.loads((folders[1] / "facts.json").read_text(encoding="utf-8"))
    assert facts["step"] == 4 and facts["run"]["seed"] == 3 and facts["run"]["processes"] == 1
    tensors = load_file(folders[1] / "part-00000-of-00001.safetensors")
    assert {name.split("/")[0] for name in tensors} == {"weight", "exp_avg", "exp_avg_sq", "step"}
    assert all("lora_" in name for name in tensors), "frozen weights are those of the start"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, r"stage\.steps was 6, is 5"),
        ({"loss": {"temperature": 0.05}}, r"stage\.loss\.temperature was 0\.03, is 0\.05"),
        ({"batch": {"per_device": 2}}, r"stage\.batch\.per_device was 4, is 2"),
    ],
)
def test_another_stage_cannot_go_on(changes: dict[str, Any], words: str, base: Path, tmp_path: Path) -> None:
    interrupted(base, tmp_path / "run", after=1)
    stage = contrastive_stage(**{"steps": 6, "save_every": 1, **changes})
    with pytest.raises(MagicError, match=words) as caught:
        run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert (tmp_path / "run" / STATE / "step-00000001").is_dir(), "nothing is lost"


def test_other_data_another_start_and_another_seed_cannot_go_on(base: Path, tmp_path: Path) -> None:
    interrupted(base, tmp_path / "run", after=1)
    stage = contrastive_stage(steps=6, save_every=1)
    objective = contrastive(base, stage, texts(), photos())
    with pytest.raises(MagicError, match="data was"):
        run(base, stage, contrastive(base, stage, texts(count=11), photos()), tmp_path / "run")
    other = loop_runs.load(base)
    other.language.norm.weight[0] += 1
    with pytest.raises(MagicError, match="start was"):
        run(base, stage, objective, tmp_path / "run", model=other)
    with pytest.raises(MagicError, match="seed was 3, is 4"):
        run(base, stage, objective, tmp_path / "run", seed=4)


def test_how_often_states_are_saved_may_change(base: Path, tmp_path: Path) -> None:
    interrupted(base, tmp_path / "run", after=2)
    stage = contrastive_stage(steps=6, save_every=100)
    run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["save_file", "write_whole"])
def test_a_full_disk_while_saving_keeps_the_state_before(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = contrastive_stage(steps=6, save_every=2)
    whole = run(base, stage, contrastive(base, stage, texts()), tmp_path / "whole")
    honest, calls = getattr(resume, name), []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(*arguments)

    monkeypatch.setattr(resume, name, full)
    with pytest.raises(MagicError, match="No space left") as caught:
        run(base, stage, contrastive(base, stage, texts()), tmp_path / "run")
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert [path.name for path in (tmp_path / "run" / STATE).iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert distance(whole, run(base, stage, contrastive(base, stage, texts()), tmp_path / "run")) == 0


def test_a_full_disk_while_writing_the_result_loses_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicmm_model import saving

    stage = contrastive_stage(steps=2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(MagicError, match="No space left") as caught:
        run(base, stage, contrastive(base, stage, texts()), tmp_path / "run")
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert (tmp_path / "run" / STATE / "step-00000002").is_dir()
    monkeypatch.undo()
    assert run(base, stage, contrastive(base, stage, texts()), tmp_path / "run").is_dir()
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2], "no step is taken again"


@pytest.mark.parametrize("broken", ["facts.json", "part-00000-of-00001.safetensors"])
def test_a_damaged_state_is_named(broken: str, base: Path, tmp_path: Path) -> None:
    interrupted(base, tmp_path / "run", after=2)
    path = tmp_path / "run" / STATE / "step-00000002" / broken
    path.write_bytes(path.read_bytes()[:50])
    stage = contrastive_stage(steps=6, save_every=1)
    with pytest.raises(MagicError, match="step-00000002 is broken") as caught:
        run(base, stage, contrastive(base, stage, texts(), photos()), tmp_path / "run")
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID


def test_differences_name_the_path() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert resume.differences(before, before) == []
    assert resume.differences(before, {"a": 1, "b": {"c": [1], "e": 2}}) == [
        "b.c was [1, 2], is [1]",
        "b.e was None, is 2",
    ]
