"""Recipe files: merging, overrides, messages that name file, line and key; and the recipes of the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import TaskGroup
from magicmm_training.data.registry import CONVERSATION_FORMATS, PAIR_FORMATS
from magicmm_training.evaluation.benchmarks.registry import FORMATS
from magicmm_training.recipe import Contrastive, Evaluation, Judge, Mining, Recipe, Reranker, Restoration, Source
from magicmm_training.recipe_file import RECIPES, find_recipe, known_recipes, load_recipe

BASE = """
name: test
model:
  base: base
stages:
  first:
    kind: contrastive
    batch: {per_device: 4}
    optimiser:
      lr: 1e-3
  mine:
    kind: mining
    init: first
    data:
    - {name: a, format: pairs, path: a.jsonl}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def refused(path: Path | str, *overrides: str) -> MagicError:
    """Return the error that loading gives."""
    with pytest.raises(MagicError) as caught:
        load_recipe(path, overrides)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    return caught.value


def contrastive(recipe: Recipe, place: int = 0) -> Contrastive:
    stage = recipe.stages[place]
    assert isinstance(stage, Contrastive)
    return stage


def test_stages_keep_their_order_and_get_their_names(base: Path) -> None:
    recipe = load_recipe(base)
    assert [stage.name for stage in recipe.stages] == ["first", "mine"]
    assert contrastive(recipe).optimiser.lr == 1e-3  # which YAML 1.1 would read as a text


def test_a_list_of_stages_is_accepted_too(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(
        "name: x\nmodel: {base: b}\nstages:\n"
        "- {name: a, kind: contrastive, batch: {per_device: 1}, optimiser: {lr: 1}}\n"
    )
    assert load_recipe(path).stages[0].name == "a"


def test_an_extending_file_replaces_single_values(base: Path, tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text(
        "extends: base.yaml\nname: over\nstages:\n  first: {batch: {micro: 2}}\n  mine: {ranks: [3, 7]}\n"
    )
    recipe = load_recipe(tmp_path / "over.yaml")
    stage = contrastive(recipe)
    assert (recipe.name, stage.batch.per_device, stage.batch.micro, stage.optimiser.lr) == ("over", 4, 2, 1e-3)
    mining = recipe.stages[1]
    assert isinstance(mining, Mining) and mining.ranks == (3, 7)


def test_recipes_of_the_package_are_extended_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: magicmm-2b\nseed: 5\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.seed == 5 and recipe.stages == load_recipe("magicmm-2b").stages


def test_null_drops_a_stage(base: Path, tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("extends: base.yaml\nstages: {mine: null}\n")
    assert [stage.name for stage in load_recipe(tmp_path / "over.yaml").stages] == ["first"]
    assert [stage.name for stage in load_recipe(base, ["--stages.mine", "null"]).stages] == ["first"]


def test_circles_of_extends_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "extends" in str(refused(tmp_path / "a.yaml"))


def test_overrides_change_single_values(base: Path) -> None:
    recipe = load_recipe(
        base, ["--stages.first.optimiser.lr", "5e-4", "--seed=7", "--stages.mine.ranks", "[1, 2]", "--name", "new"]
    )
    mining = recipe.stages[1]
    assert isinstance(mining, Mining)
    assert (contrastive(recipe).optimiser.lr, recipe.seed, mining.ranks, recipe.name) == (5e-4, 7, (1, 2), "new")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--stages.frist.epochs", "1"], "--stages.frist.epochs: the recipe has no such stage"),
        (["--stages.first.optimiser.rl", "1"], "stages.first.optimiser.rl is no option"),
        (
            ["--stages.first.optimiser.lr", "fast"],
            "stages.first.optimiser.lr is 'fast': input should be a valid number",
        ),
        (["--stages.first.epochs"], "has no value"),
        (["stages.first.epochs", "2"], "is no option"),
        (["--"], "is no option"),
    ],
)
def test_wrong_overrides_are_named(base: Path, override: list[str], message: str) -> None:
    assert message in str(refused(base, *override))


def test_misspelt_options_are_guessed(base: Path) -> None:
    assert "Did you mean temperature?" in str(refused(base, "--stages.first.loss.temprature", "1"))


def test_messages_name_file_line_and_key(base: Path) -> None:
    base.write_text(BASE.replace("lr: 1e-3", "lr: -1"))
    assert f"{base}, line 10: stages.first.optimiser.lr is -1: input should be greater than 0." in str(refused(base))
    base.write_text(BASE.replace("kind: mining", "kind: minning"))
    assert f"{base}, line 12: stages.mine: kind must be one of" in str(refused(base))
    base.write_text(BASE.replace("    init: first\n", ""))
    assert "stages.mine.init is missing" in str(refused(base))


def test_all_mistakes_are_reported_at_once(base: Path) -> None:
    base.write_text(BASE.replace("lr: 1e-3", "lr: -1").replace("base: base", "bass: base"))
    text = str(refused(base))
    assert "model.bass is no option" in text and "model.base is missing" in text and "lr is -1" in text


def test_a_broken_value_of_an_extended_file_is_placed_there(base: Path, tmp_path: Path) -> None:
    base.write_text(BASE.replace("lr: 1e-3", "lr: -1"))
    (tmp_path / "over.yaml").write_text("extends: base.yaml\nname: over\n")
    assert f"{base}, line 10" in str(refused(tmp_path / "over.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "line 2: name is there twice"),
        ("stages:\n  x: {a: 1, a: 2}\n", "stages.x.a is there twice"),
        ("name: &a [*a]\n", "holds itself"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("name: [\n", "line 2"),
        ("- a\n", "holds no recipe"),
        ("", "holds no recipe"),
    ],
)
def test_broken_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert message in str(refused(path))


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    assert "magicmm-2b" in str(refused(tmp_path / "none.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in str(refused(tmp_path / "b.yaml"))


def test_data_root_is_relative_to_the_file_that_names_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_recipe(base).data_root == str(elsewhere)
    assert load_recipe(base, ["--data_root", "d"]).data_root == str(elsewhere / "d")
    assert load_recipe(base, ["--data-root=d"]).data_root == str(elsewhere / "d")
    assert load_recipe(base).model.base == "base"
    assert load_recipe(base, ["--model.base", "b"]).model.base == str(elsewhere / "b")
    base.write_text(BASE + "data_root: data\n")
    assert load_recipe(base).data_root == str(tmp_path / "data")
    (elsewhere / "over.yaml").write_text("extends: ../base.yaml\n")
    assert load_recipe(elsewhere / "over.yaml").data_root == str(tmp_path / "data")


# The recipes of the package.

NAMES = sorted(known_recipes())
MARK = re.compile(r"\s#(?: paper(?:$|[:;, ].*)| ours: \S.*)")
LABELS = {"name", "kind", "extends"}


def sources(recipe: Recipe) -> list[Source]:
    return [source for stage in recipe.stages for source in getattr(stage, "data", ())]


def leaves(node: yaml.Node, key: str = "") -> list[tuple[str, int]]:
    """Return the key and the line of each scalar that is no label of a block."""
    if isinstance(node, yaml.MappingNode):
        return [
            leaf
            for name, value in node.value
            if not (name.value in LABELS and not node.flow_style)
            for leaf in leaves(value, f"{key}.{name.value}")
        ]
    if isinstance(node, yaml.SequenceNode):
        return [leaf for place, value in enumerate(node.value) for leaf in leaves(value, f"{key}.{place}")]
    return [(key, node.end_mark.line)]


def unmarked(text: str) -> list[str]:
    """Return values whose line does not say where they are from."""
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    assert root is not None
    return sorted({key for key, line in leaves(root) if not MARK.search(lines[line])})


@pytest.mark.parametrize("name", NAMES)
def test_every_value_says_where_it_is_from(name: str) -> None:
    assert unmarked(find_recipe(name).read_text()) == []


@pytest.mark.parametrize("line", ["lr: 1", "lr: 1  # ours", "lr: 1  # ours: ", "lr: 1  # papers", "lr: 1  # why not"])
def test_the_marker_test_sees_values_without_one(line: str) -> None:
    assert unmarked(f"a:\n  {line}\n  b: {{c: 2}}  # paper\n") == [".a.lr"]


@pytest.mark.parametrize("name", NAMES)
def test_recipes_of_the_package_load_and_name_what_exists(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    for source in sources(recipe):
        assert source.format in PAIR_FORMATS.keys() | CONVERSATION_FORMATS.keys()
        assert source.group is None or source.group in {group.value for group in TaskGroup}
    for stage in recipe.stages:
        if isinstance(stage, Evaluation):
            assert stage.benchmarks
            assert {benchmark.format for benchmark in stage.benchmarks} <= FORMATS.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("magicmm-2b")])
def test_the_2b_opens_with_the_instructions_of_the_paper(name: str, tmp_path: Path) -> None:
    """Every source has instructions, or brings its own: opening fails at the missing file, never at the task."""
    recipe = load_recipe(name, ["--data_root", str(tmp_path)])
    for source in sources(recipe):
        if source.format in PAIR_FORMATS:
            PAIR_FORMATS[source.format].task(source)


def total(items: Any) -> int:
    return sum(min(item.samples, item.limit or item.samples) for item in items)


def test_sample_counts_are_the_papers() -> None:
    stages = {stage.name: stage for stage in load_recipe("magicmm-2b").stages}
    restoration, warmup, finetune = stages["restoration"], stages["warmup"], stages["finetune"]
    assert isinstance(restoration, Restoration) and isinstance(warmup, Contrastive)
    assert isinstance(finetune, Contrastive)
    assert total(restoration.data) == pytest.approx(32e6, rel=0.01)
    assert total(warmup.data) == pytest.approx(16.6e6, rel=0.01)
    assert total(finetune.data) == pytest.approx(1.5e6, rel=0.05)
    by_group = {
        group.value: total(source for source in warmup.data if source.group == group.value) for group in TaskGroup
    }
    # mmE5-synthetic, 560,000 of mixed directions, is what is missing where the paper lists it.
    assert by_group["T->T"] == 1_000_000
    assert by_group["I->I"] == pytest.approx(1.3e6, rel=0.01)
    assert by_group["T->VD"] == pytest.approx(1.6e6, rel=0.01)
    assert by_group["T->I"] == pytest.approx(5.3e6 - 0.14e6, rel=0.01)
    assert by_group["I->T"] == pytest.approx(0.5e6 - 0.14e6, rel=0.04)
    assert by_group["IT->T"] == pytest.approx(1.6e6 - 0.14e6 + 0.049e6, rel=0.02)
    assert by_group["T->IT"] == 3_200


def test_the_20_sets_of_mmeb_are_all_in_the_last_stage() -> None:
    from magicmm_training.data.mmeb_habits import TRAINED, subset_habit

    finetune = next(stage for stage in load_recipe("magicmm-2b").stages if stage.name == "finetune")
    assert isinstance(finetune, Contrastive)
    found = [subset_habit(source) for source in finetune.data if source.format == "mmeb-train"]
    assert sorted(map(repr, found)) == sorted(map(repr, TRAINED.values()))


def test_hyper_parameters_are_the_papers() -> None:
    """Tables 1, 2 and 14 of the paper for the 2B, once more and by hand."""
    stages = {stage.name: stage for stage in load_recipe("magicmm-2b").stages}
    restoration = stages["restoration"]
    assert isinstance(restoration, Restoration)
    assert (restoration.steps, restoration.optimiser.lr, restoration.lora) == (30_000, 1e-5, None)
    for name, batch, negatives in (("warmup", 128, 0), ("hnm", 64, 2), ("finetune", 12, 12)):
        stage = stages[name]
        assert isinstance(stage, Contrastive) and stage.lora is not None
        assert (stage.batch.per_device, stage.negatives_each, stage.epochs) == (batch, negatives, 2)
        assert (stage.optimiser.lr, stage.loss.temperature, stage.lora.rank) == (2e-4, 0.03, 16)
    mine, judge, reranker, evaluation = (stages[name] for name in ("mine", "judge", "reranker", "evaluation"))
    assert isinstance(mine, Mining) and (mine.ranks, mine.each) == ((50, 100), 2)
    assert isinstance(judge, Judge) and (judge.top, judge.each) == (20, 12)
    assert [source.name for source in judge.data if not source.judged] == ["HatefulMemes"]
    assert isinstance(reranker, Reranker)
    assert (reranker.init, reranker.optimiser.lr, reranker.epochs, reranker.listwise) == (
        "restoration",
        4e-5,
        2,
        (2, 5),
    )
    assert isinstance(evaluation, Evaluation) and evaluation.rerank_top == 5


def test_the_variants_differ_only_in_what_they_are_about() -> None:
    whole, vanilla, small = (load_recipe(name) for name in ("magicmm-2b", "magicmm-2b-vanilla", "magicmm-2b-224"))
    assert (vanilla.model.compression, vanilla.model.image_size) == (1, 448)
    assert (small.model.compression, small.model.image_size) == (1, 224)
    for variant in (vanilla, small):
        assert [stage.name for stage in variant.stages] == [stage.name for stage in whole.stages]
        assert sources(variant) == sources(whole)


def test_recipes_lie_in_the_package() -> None:
    assert {"magicmm-2b", "magicmm-2b-vanilla", "magicmm-2b-224", "tiny"} <= known_recipes().keys()
    assert RECIPES.parent.name == "magicmm_training"
