"""The whole chain at a tiny size: what a run leaves, what it reruns, and what a kill costs (nothing)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors.numpy import load_file

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head
from magicmm_training import chain
from magicmm_training.chain import ChainOptions, embed_for, run_chain
from magicmm_training.chain_keys import OpenData, stage_keys
from magicmm_training.chain_record import RunRecord, read_done, revision
from magicmm_training.chain_steps import VECTORS
from magicmm_training.chain_training import JOB, Job, launch_job, torchrun
from magicmm_training.evaluation.result import EvaluationResult
from magicmm_training.mining.negatives import FILE_NAME as NEGATIVES
from magicmm_training.recipe import Recipe
from magicmm_training.recipe_file import find_recipe, load_recipe
from magicmm_training.scenes import Sizes, write_base, write_scenes
from one_thread import one_thread as one_thread

ROOT = Path(__file__).parents[2]
STAGES = ("restoration", "warmup", "mine", "hnm", "judge_model", "judge", "finetune", "reranker", "evaluation")
# The recipe of the package with few steps. One source stays unjudged, to have negatives whatever the judge says.
OVERLAY = """
extends: {tiny}
stages:
  restoration: {{steps: 40, batch: {{per_device: 16}}, optimiser: {{lr: 5e-3}}}}
  warmup: {{steps: 3, batch: {{per_device: 8}}, save_every: 1}}
  hnm: {{steps: 2, batch: {{per_device: 8}}}}
  judge_model: {{steps: 10, batch: {{per_device: 16}}, optimiser: {{lr: 5e-3}}}}
  finetune: {{steps: 2, batch: {{per_device: 4}}}}
  reranker: {{steps: 2, batch: {{per_device: 4}}}}
  judge:
    unclear_share: 1
    top: 6
    each: 4
    data:
    - {{name: t2i, group: T->I, instructions: MSCOCO, format: pairs, path: scenes/train-t2i.jsonl}}
    - {{name: i2t, group: I->T, instructions: MSCOCO, format: pairs, path: scenes/train-i2t.jsonl, judged: false}}
    - {{name: it2i, group: IT->I, instructions: CIRR, format: pairs, path: scenes/train-it2i.jsonl}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a checkpoint and a recipe."""
    folder = tmp_path_factory.mktemp("world")
    write_scenes(folder / "scenes", Sizes(captions=20, changes=10, samples=60, test=10), seed=0)
    write_base(folder / "base", folder / "scenes", width=32, layers=2, vision_width=32)
    (folder / "small.yaml").write_text(OVERLAY.format(tiny=find_recipe("tiny")))
    return folder


def small(world: Path, *overrides: str) -> Recipe:
    return load_recipe(world / "small.yaml", ["--data_root", str(world), *overrides])


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """The chain, run once for all tests; they must not change it."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_chain(small(world), out)


def keys(recipe: Recipe, processes: int = 1) -> dict[str, str]:
    found = stage_keys(recipe, recipe.stages, OpenData(recipe), processes)
    return {name: key.digits for name, key in found.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def same_checkpoints(first: Path, second: Path) -> bool:
    tensors = [load_file(folder / "model.safetensors") for folder in (first, second)]
    return tensors[0].keys() == tensors[1].keys() and all(
        (tensors[0][name] == tensors[1][name]).all() for name in tensors[0]
    )


def test_every_stage_runs_and_leaves_its_result(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    assert [stage.name for stage in record.stages] == list(STAGES)
    folders = {stage.name: out / stage.folder for stage in record.stages}
    for name in ("restoration", "warmup", "hnm", "judge_model", "finetune", "reranker"):
        config = Checkpoint.open(folders[name] / "checkpoint").config
        # Embedders are saved without a head, unless a later stage is to speak (`keep_head`).
        assert (config.head is Head.NONE) == (name == "finetune")
        assert not (folders[name] / "state").exists()
    for name in ("mine", "judge"):
        lines = (folders[name] / "negatives.jsonl").read_text().splitlines()
        assert len(lines) == 1 + 20 + 20 + 10  # a header, and a row for each query
    assert not list(out.rglob("*.partial*"))


def test_the_record_says_what_happened(run: tuple[Path, RunRecord], world: Path) -> None:
    out, _ = run
    facts = json.loads((out / "record.json").read_text())
    assert Recipe.model_validate(facts["recipe"]) == small(world)
    assert {"python", "torch", "magicmm", "accelerate"} <= facts["versions"].keys()
    assert facts["revision"] == revision()
    by_name = {stage["name"]: stage for stage in facts["stages"]}
    restoration = by_name["restoration"]["facts"]
    assert restoration["steps"] == 40 and restoration["last_loss"] < restoration["first_loss"]
    judged = {counts["dataset"]: counts for counts in by_name["judge"]["facts"]["sets"]}
    assert judged["i2t"]["asked"] == 0 and judged["i2t"]["negatives"] == 20 * 4
    assert judged["t2i"]["asked"] == 20 * 7  # six candidates and the truth
    assert by_name["judge"]["facts"]["approved"] + by_name["judge"]["facts"]["rejected"] > 0
    assert by_name["mine"]["facts"]["negatives"] == 2 * 50
    key = json.loads((out / by_name["hnm"]["folder"] / "key.json").read_text())
    assert key["key"] == by_name["hnm"]["key"]
    assert key["inputs"] == {name: by_name[name]["key"] for name in ("warmup", "mine")}
    scores = by_name["evaluation"]["facts"]
    assert len(scores) == 6 and all(0 <= score <= 1 for score in scores.values())
    result = EvaluationResult.from_json((out / by_name["evaluation"]["folder"] / "result.json").read_text())
    assert result.rerank is not None and result.rerank.pairs == 30 * 5
    assert (out / by_name["evaluation"]["folder"] / "report.html").read_text().startswith("<!doctype html>")


def test_a_second_run_does_nothing(run: tuple[Path, RunRecord], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, first = run

    def never(*_: object) -> dict[str, Any]:
        raise AssertionError("a finished stage was run again")

    monkeypatch.setattr(chain, "run_stage", never)
    second = run_chain(small(world), out)
    assert all(stage.reused for stage in second.stages)
    assert [stage.key for stage in second.stages] == [stage.key for stage in first.stages]
    assert "kept" in second.table()


@pytest.mark.parametrize(
    ("override", "reruns"),
    [
        (["--stages.evaluation.rerank_top", "3"], {"evaluation"}),
        (["--stages.reranker.weights", "[1, 2]"], {"reranker", "evaluation"}),
        (["--stages.finetune.loss.temperature", "0.07"], {"finetune", "evaluation"}),
        (["--stages.mine.ranks", "[2, 9]"], set(STAGES) - {"restoration", "warmup"}),
        (["--stages.warmup.optimiser.lr", "2.5e-3"], set(STAGES) - {"restoration"}),
        (["--stages.restoration.steps", "41"], set(STAGES)),
        (["--model.compression", "1"], set(STAGES)),
        (["--seed", "1"], set(STAGES)),
        (["--stages.warmup.save_every", "7", "--stages.warmup.max_bad_share", "0.5", "--name", "other"], set()),
        (["--hardware.devices", "48", "--stages.warmup.known_hours", "5"], set()),
        (["--stages.judge.top", "5", "--stages.evaluation", "null"], {"judge", "finetune", "reranker", "evaluation"}),
    ],
)
def test_a_changed_option_reruns_only_what_it_touches(world: Path, override: list[str], reruns: set[str]) -> None:
    assert changed(keys(small(world)), keys(small(world, *override))) == reruns


def test_a_changed_option_really_reruns_only_its_stage(
    run: tuple[Path, RunRecord], world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(run[0], out)
    record = run_chain(small(world, "--stages.evaluation.rerank_top", "2"), out)
    assert [stage.name for stage in record.stages if not stage.reused] == ["evaluation"]
    assert len(list((out / "stages").glob("evaluation-*"))) == 2  # the old result is still there


def test_keys_follow_content_and_not_places(world: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(world, moved)
    assert keys(small(moved)) == keys(small(world))
    rows = (moved / "scenes" / "train-it2i.jsonl").read_text().splitlines(keepends=True)
    (moved / "scenes" / "train-it2i.jsonl").write_text("".join(rows[:-1]))
    assert changed(keys(small(moved)), keys(small(world))) == set(STAGES) - {"restoration"}


def test_a_changed_benchmark_or_base_is_noticed(world: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(world, moved)
    rows = (moved / "scenes" / "test-t2i.jsonl").read_text().splitlines(keepends=True)
    (moved / "scenes" / "test-t2i.jsonl").write_text("".join(rows[1:]))
    assert changed(keys(small(moved)), keys(small(world))) == {"evaluation"}
    shutil.rmtree(moved / "base")
    write_base(moved / "base", moved / "scenes", width=32, layers=2, vision_width=32, seed=1)
    assert changed(keys(small(moved)), keys(small(world))) == set(STAGES)


def test_other_numbers_of_processes_are_other_runs(world: Path) -> None:
    assert changed(keys(small(world)), keys(small(world), processes=2)) == set(STAGES)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from magicmm_training.chain import ChainOptions, run_chain
from magicmm_training.recipe_file import load_recipe

def report(stage, what, done, total, loss):
    if stage == "warmup" and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
recipe = load_recipe(sys.argv[1], ["--data_root", sys.argv[2]])
run_chain(recipe, Path(sys.argv[3]), ChainOptions(until="warmup"), report)
"""


def test_a_killed_run_goes_on_and_ends_the_same(
    run: tuple[Path, RunRecord], world: Path, tmp_path: Path, child_paths: None
) -> None:
    out, record = run
    resumed = tmp_path / "out"
    restoration = out / record.stages[0].folder
    shutil.copytree(restoration, resumed / "stages" / restoration.name)  # it need not be killed, too
    arguments = [str(world / "small.yaml"), str(world), str(resumed)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    warmup = out / record.stages[1].folder
    assert (resumed / "stages" / warmup.name / "state").is_dir()
    assert read_done(resumed / "stages" / warmup.name) is None
    steps: list[int] = []
    options = ChainOptions(until="warmup")
    after = run_chain(
        small(world), resumed, options, lambda stage, what, done, *_: steps.append(done) if stage == "warmup" else None
    )
    assert [stage.reused for stage in after.stages] == [True, False]
    assert steps == [3]  # the third of three
    assert same_checkpoints(warmup / "checkpoint", resumed / "stages" / warmup.name / "checkpoint")


@pytest.fixture
def child_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes import what this one does."""
    rooms = [str(ROOT / room) for room in ("sdk/python", "model", "training")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*rooms, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_launcher_trains_the_same(
    run: tuple[Path, RunRecord], world: Path, tmp_path: Path, child_paths: None
) -> None:
    out, record = run
    restoration, warmup = (out / stage.folder for stage in record.stages[:2])
    target = tmp_path / "out"
    shutil.copytree(restoration, target / "stages" / restoration.name)
    done = run_chain(small(world), target, ChainOptions(until="warmup", launcher=(sys.executable,)))
    folder = target / done.stages[1].folder
    assert folder.name == warmup.name
    assert same_checkpoints(warmup / "checkpoint", folder / "checkpoint")
    job = Job.read(folder / JOB)
    assert (job.stage, job.folder, job.recipe) == ("warmup", folder, small(world))


def test_two_processes_train_together(world: Path, tmp_path: Path, child_paths: None) -> None:
    (tmp_path / "one.yaml").write_text(
        "name: one\nmodel: {base: base}\nstages:\n"
        "  only: {kind: contrastive, steps: 2, batch: {per_device: 4}, optimiser: {lr: 1e-3}, dtype: float32,\n"
        "  data: [{name: t2i, group: T->I, instructions: MSCOCO, format: pairs, path: scenes/train-t2i.jsonl}]}\n"
    )
    recipe = load_recipe(tmp_path / "one.yaml", ["--data_root", str(world)])
    options = ChainOptions(processes=2)
    (record,) = run_chain(recipe, tmp_path / "out", options).stages
    log = [json.loads(line) for line in (tmp_path / "out" / record.folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2]
    whole = load_recipe(tmp_path / "one.yaml", ["--data_root", str(world), "--stages.only.batch.per_device", "8"])
    (alone,) = run_chain(whole, tmp_path / "out").stages
    # The same batch in one process has the same loss.
    assert record.facts["first_loss"] == pytest.approx(alone.facts["first_loss"], rel=1e-4)


def test_processes_that_fail_end_the_run(world: Path, tmp_path: Path) -> None:
    job = Job(small(world), "warmup", tmp_path / "job", tmp_path / "none")
    with pytest.raises(MagicError, match="ended with code 3") as caught:
        launch_job(job, [sys.executable, "-c", "raise SystemExit(3)"])
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    with pytest.raises(MagicError, match="cannot be started"):
        launch_job(job, [str(tmp_path / "no-such-launcher")])


def test_torchrun_starts_the_processes_of_this_machine() -> None:
    assert torchrun(3)[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {}}'])
def test_what_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / JOB).write_text(text)
    with pytest.raises(MagicError, match="is no job"):
        Job.read(tmp_path / JOB)


def test_a_job_names_a_training_stage(world: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="no training stage 'mine'"):
        Job(small(world), "mine", tmp_path, tmp_path).options()


def test_shares_embed_what_a_stage_then_finds(
    run: tuple[Path, RunRecord], world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / VECTORS)
    (mined,) = (tmp_path / "run").glob("stages/mine-*")
    before = (mined / NEGATIVES).read_bytes()
    shutil.rmtree(mined)
    told: list[str] = []
    for share in (1, 0):
        kept = embed_for(
            small(world), tmp_path / "run", "mine", share, 2, report=lambda stage, what, *_: told.append(what)
        )
    assert {"t2i: share 1 of 2", "t2i: share 2 of 2"} <= set(told)

    def refuse(*_: Any) -> None:
        raise AssertionError("something is left to embed")

    monkeypatch.setattr("magicmm_training.evaluation.embedders.TorchEvaluationEmbedder.embed", refuse)
    run_chain(small(world), tmp_path / "run", ChainOptions(only="mine"))
    assert kept > 0
    assert (mined / NEGATIVES).read_bytes() == before


def test_shares_need_a_stage_that_ranks_and_its_model(world: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="'hnm' embeds nothing") as caught:
        embed_for(small(world), tmp_path, "hnm", 0, 1)
    assert "mining" in caught.value.remedy
    with pytest.raises(MagicError, match="'warmup', whose model embeds for 'mine', is not done") as caught:
        embed_for(small(world), tmp_path, "mine", 0, 1)
    assert "--until warmup" in caught.value.remedy


def test_only_one_run_at_a_time(world: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(MagicError) as caught:
        run_chain(small(world), tmp_path)
    assert caught.value.code is ErrorCode.INDEX_LOCKED


def test_until_and_only_choose_stages(
    run: tuple[Path, RunRecord], world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chain, "run_stage", lambda stage, shop: {})

    def names(**options: Any) -> list[str]:
        record = run_chain(small(world), tmp_path / "out", ChainOptions(**options))
        return [stage.name for stage in record.stages]

    assert names(until="hnm") == ["restoration", "warmup", "mine", "hnm"]
    assert names(only="mine") == ["restoration", "warmup", "mine"]
    assert names(only="reranker") == [*STAGES[:6], "reranker"]
    for asked in ({"until": "later"}, {"only": "later"}):
        with pytest.raises(MagicError, match="has no stage 'later'"):
            names(**asked)


def test_from_scratch_deletes_old_results(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chain, "run_stage", lambda stage, shop: {})
    first = run_chain(small(world), tmp_path, ChainOptions(until="warmup"))
    (tmp_path / first.stages[0].folder / "old").touch()
    again = run_chain(small(world), tmp_path, ChainOptions(until="warmup", from_scratch=True))
    assert not any(stage.reused for stage in again.stages)
    assert not (tmp_path / first.stages[0].folder / "old").exists()


def test_a_failed_stage_keeps_what_was_done(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(stage: Any, shop: Any) -> dict[str, Any]:
        if stage.name == "mine":
            raise MagicError(ErrorCode.RUNTIME_FAILED, "Broken.", "Mend it.")
        return {}

    monkeypatch.setattr(chain, "run_stage", fail)
    with pytest.raises(MagicError, match="Broken"):
        run_chain(small(world), tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["restoration", "warmup"]


def test_missing_data_are_found_before_anything_runs(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chain, "run_stage", lambda stage, shop: pytest.fail("a stage was run"))
    moved = tmp_path / "moved"
    shutil.copytree(world, moved)
    (moved / "scenes" / "test-i2t.jsonl").unlink()  # which the last stage reads
    with pytest.raises(MagicError, match="test-i2t") as caught:
        run_chain(small(moved), tmp_path / "out")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    shutil.rmtree(moved / "base")
    with pytest.raises(MagicError, match="holds no checkpoint"):
        run_chain(small(moved), tmp_path / "out")


def test_folders_that_cannot_be_used(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MagicError) as caught:
        run_chain(small(world), tmp_path / "file")
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(MagicError, match="cannot be read"):
        read_done(tmp_path)
