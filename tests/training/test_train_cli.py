"""The command line `magicmm-train`: answers on stdout, exit codes, and how fast it says what it can do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from magicmm_training import cli, commands
from magicmm_training.recipe import Evaluation, Judge, Recipe
from magicmm_training.recipe_file import load_recipe
from one_thread import one_thread as one_thread

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "pydantic", "yaml", "accelerate", "tqdm"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "root"
    sizes = ["--captions", "8", "--changes", "4", "--samples", "12", "--test", "6", "--width", "32", "--layers", "2"]
    assert cli.main(["scenes", str(out), *sizes]) == 0
    return out


DROPPED = [
    word
    for name in ("hnm", "judge_model", "judge", "finetune", "reranker", "evaluation")
    for word in (f"--stages.{name}", "null")
]


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the JSON that a command prints."""
    assert cli.main([*words, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Return the error that a command reports."""
    assert cli.main([*words, "--json"]) == 1
    caught = capsys.readouterr()
    assert caught.out == ""
    error: dict[str, str] = json.loads(caught.err.splitlines()[-1])["error"]
    return error


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom magicmm_training.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    print('MODULES', *sys.modules)\n"
    )
    rooms = os.pathsep.join(str(ROOT / room) for room in ("sdk/python", "model", "training"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": rooms},
        check=True,
        capture_output=True,
        text=True,
    )
    text, _, modules = done.stdout.partition("MODULES")
    assert "--until STAGE" in text and "--stages.warmup.optimiser.lr 1e-4" in text.replace("\n", " ")
    assert {name.split(".")[0] for name in modules.split()} & HEAVY == set()


def test_overrides_may_begin_with_every_key_of_a_recipe() -> None:
    assert set(cli.RECIPE_KEYS) == set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("words", "rest", "overrides"),
    [
        (
            ["run", "r", "--stages.a.b", "1", "--out", "o", "--seed=3"],
            ["run", "r", "--out", "o"],
            ["--stages.a.b", "1", "--seed=3"],
        ),
        (["plan", "--data-root", "d", "r"], ["plan", "r"], ["--data-root", "d"]),
        (["plan", "r", "--stages.a.b", "-1"], ["plan", "r"], ["--stages.a.b", "-1"]),
        (["mine", "r", "--stage", "a"], ["mine", "r", "--stage", "a"], []),
        (["scenes", "out", "--seed", "3"], ["scenes", "out", "--seed", "3"], []),
        ([], [], []),
    ],
)
def test_overrides_are_taken_out_of_the_command_line(words: list[str], rest: list[str], overrides: list[str]) -> None:
    assert cli.split_overrides(words) == (rest, overrides)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "tiny", "--processes", "0"],
        ["run", "tiny", "--until"],
        ["plan", "tiny", "--unknown", "1"],
        ["data"],
        ["scenes", "x", "--captions", "many"],
        ["embed", "tiny", "--stage", "mine"],
        ["embed", "tiny", "--stage", "mine", "--share", "2/2"],
        ["embed", "tiny", "--stage", "mine", "--share", "-1/2"],
        ["embed", "tiny", "--stage", "mine", "--share", "1"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_every_verb_has_a_command() -> None:
    parser = cli.build_parser()
    verbs = [["plan", "r"], ["run", "r"], ["mine", "r"], ["judge", "r"], ["data", "check", "r"], ["eval", "m"]]
    verbs += [["scenes", "o"], ["stage", "j"], ["embed", "r", "--stage", "s", "--share", "0/1"]]
    for words in verbs:
        options = parser.parse_args(words)
        assert callable(getattr(commands, f"run_{options.verb.replace('-', '_')}"))


def test_a_plan_in_json_and_as_a_table(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "plan", "tiny", "--data_root", str(scenes), "--stages.warmup.steps", "9")
    assert facts["ready"] is True
    assert [stage["steps"] for stage in facts["stages"] if stage["name"] == "warmup"] == [9]
    assert cli.main(["plan", "tiny", "--data_root", str(scenes)]) == 0
    assert "Everything is there." in capsys.readouterr().out


def test_errors_name_code_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    error = failure(capsys, "plan", "no-such-recipe")
    assert error["code"] == "argument_invalid" and "tiny" in error["remedy"]
    error = failure(capsys, "plan", "tiny", "--stages.warmup.optimiser.lr", "fast")
    assert "stages.warmup.optimiser.lr is 'fast'" in error["message"]


def test_a_stage_is_run_and_kept(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tiny", "--data_root", str(scenes), "--out", str(tmp_path), "--until", "warmup"]
    words += ["--stages.restoration.steps", "2", "--stages.restoration.batch.per_device", "4"]
    words += ["--stages.warmup.steps", "2", "--stages.warmup.batch.per_device", "4"]
    facts = answer(capsys, *words)
    assert [(stage["name"], stage["reused"]) for stage in facts["stages"]] == [
        ("restoration", False),
        ("warmup", False),
    ]
    assert [stage["reused"] for stage in answer(capsys, *words)["stages"]] == [True, True]

    mined = answer(capsys, "mine", *words[1:6], *words[8:], "--stages.mine.ranks", "[1, 5]")
    assert [(stage["name"], stage["reused"]) for stage in mined["stages"]] == [
        ("restoration", True),
        ("warmup", True),
        ("mine", False),
    ]
    checkpoint = tmp_path / mined["stages"][1]["folder"] / "checkpoint"
    report = tmp_path / "report"
    recipe = ["--recipe", "tiny", "--data_root", str(scenes)]
    scores = answer(capsys, "eval", str(checkpoint), *recipe, "--report", str(report))
    assert {task["benchmark"] for task in scores["tasks"]} == {"t2i", "i2t", "it2i"}
    assert json.loads((report / "result.json").read_text())["tasks"] == scores["tasks"]
    assert scores["model"].startswith("warmup-")
    again = ["--compare", str(report / "result.json"), "--report", str(tmp_path / "both")]
    assert cli.main(["eval", str(checkpoint), *recipe, *again, "--dims", "16,32", "--precisions", "float32,int8"]) == 0
    table = capsys.readouterr().out
    assert "16 x int8, 20 bytes" in table and "t2i/query to target" in table
    assert (tmp_path / "both" / "report.html").read_text().count("warmup-") >= 2
    broken = failure(
        capsys, "eval", str(checkpoint), *recipe, "--compare", str(tmp_path), "--report", str(tmp_path / "c")
    )
    assert broken["code"] == "argument_invalid"
    pairs = f"pairs={scenes / 'scenes' / 'test-t2i.jsonl'}"
    assert failure(capsys, "eval", str(checkpoint), "--benchmark", pairs)["code"] == "text_invalid"  # no instructions


def test_eval_wants_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to score" in failure(capsys, "eval", str(tmp_path))["message"]
    assert "there is none" in failure(capsys, "eval", str(tmp_path), "--seed", "1")["message"]
    assert "is no benchmark" in failure(capsys, "eval", str(tmp_path), "--benchmark", "mmeb")["message"]


def test_single_stages_must_be_named_when_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        "has 0 stages of kind mining" in failure(capsys, "mine", "tiny", "--stages.mine", "null", *DROPPED)["message"]
    )
    assert "is no stage of kind judge" in failure(capsys, "judge", "tiny", "--stage", "mine")["message"]


def test_a_data_check_that_finds_errors_ends_with_1(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "data", "check", "tiny", "--data_root", str(scenes))["has_errors"] is False
    assert cli.main(["data", "check", "tiny", "--data_root", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["has_errors"] is True


def test_scenes_need_a_new_folder(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exists already" in failure(capsys, "scenes", str(scenes))["message"]


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(options: object) -> tuple[object, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_plan", interrupt)
    assert cli.main(["plan", "tiny"]) == 130
    assert "goes on" in capsys.readouterr().err


DOCUMENT = (ROOT / "docs" / "TRAINING.md").read_text("utf-8")
CODE = "\n".join(line[4:] for line in DOCUMENT.splitlines() if line.startswith("    ")).replace("\\\n", " ")
COMMANDS = [shlex.split(line, comments=True)[1:] for line in CODE.splitlines() if line.startswith("magicmm-train ")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_of_the_documentation_are_accepted(words: list[str]) -> None:
    rest, overrides = cli.split_overrides(words)
    options = cli.build_parser().parse_args(rest)
    if recipe := getattr(options, "recipe", None):
        load_recipe(recipe, overrides)


def test_the_recipe_of_the_documentation_loads(tmp_path: Path) -> None:
    start = CODE.index("extends: magicmm-2b")
    (tmp_path / "own.yaml").write_text(CODE[start : CODE.index("OUT/", start)])
    recipe = load_recipe(tmp_path / "own.yaml")
    stages = {stage.name: stage for stage in recipe.stages}
    judge, evaluation = stages["judge"], stages["evaluation"]
    assert isinstance(judge, Judge) and judge.judge.kind == "endpoint"
    assert "reranker" not in stages and isinstance(evaluation, Evaluation) and evaluation.reranker is None


def test_the_documentation_shows_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "magicmm-2b", "--data_root", "/data"]) == 0
    printed = set(capsys.readouterr().out.splitlines())
    names = {stage.name for stage in load_recipe("magicmm-2b").stages}
    shown = [line for line in CODE.splitlines() if line.split("  ")[0].strip() in names]
    assert len(shown) == len(names) + 5  # and the five with gradients once more, for memory
    assert set(shown) <= printed


def test_links_of_the_documentation_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", DOCUMENT)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
