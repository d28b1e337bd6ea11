"""The contract of recipes: what is refused, and which stages may read which."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from magicmm_training.recipe import Mining, Recipe, Source

OPTIMISER = {"lr": 1e-3}
BATCH = {"per_device": 4}
SOURCE = {"name": "a", "format": "pairs", "path": "a.jsonl"}


def stage(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """Return a stage with only what it needs."""
    needs: dict[str, dict[str, Any]] = {
        "restoration": {"batch": BATCH, "optimiser": OPTIMISER},
        "contrastive": {"batch": BATCH, "optimiser": OPTIMISER},
        "mining": {"data": [SOURCE]},
        "judge": {"data": [SOURCE], "judge": {"kind": "own", "path": "restoration"}},
        "reranker": {"batch": BATCH, "optimiser": OPTIMISER},
        "evaluation": {"benchmarks": []},
    }
    return {"kind": kind, "name": name, **needs[kind], **more}


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "test", "model": {"base": "base"}, "stages": stages})


def test_a_whole_chain_is_accepted() -> None:
    whole = recipe(
        stage("restoration", "restoration"),
        stage("contrastive", "warmup", init="restoration"),
        stage("mining", "mine", init="warmup"),
        stage("contrastive", "hnm", init="warmup", negatives="mine", negatives_each=2),
        stage("judge", "judge", init="hnm"),
        stage("contrastive", "finetune", init="hnm", negatives="judge", negatives_each=12),
        stage("reranker", "reranker", init="restoration", judged="judge"),
        stage("evaluation", "evaluation", init="finetune", reranker="reranker"),
    )
    assert [type(one).__name__ for one in whole.stages] == [
        "Restoration",
        "Contrastive",
        "Mining",
        "Contrastive",
        "Judge",
        "Contrastive",
        "Reranker",
        "Evaluation",
    ]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage("contrastive", "a"), stage("contrastive", "a")], "two stages are named 'a'"),
        ([stage("contrastive", "a", init="later"), stage("contrastive", "later")], "init is 'later'"),
        ([stage("contrastive", "a", init="a")], "init is 'a', which is no earlier stage"),
        ([stage("contrastive", "a"), stage("evaluation", "b", init="a", reranker="a")], "kind reranker"),
        (
            [stage("contrastive", "a"), stage("mining", "m", init="a"), stage("reranker", "r", judged="m")],
            "judged is 'm', which is no earlier stage of kind judge",
        ),
        (
            [stage("contrastive", "a"), stage("mining", "m", init="a"), stage("contrastive", "b", init="m")],
            "init is 'm', which is no earlier stage of kind contrastive or restoration",
        ),
        ([stage("contrastive", "a", negatives_each=2)], "negatives and negatives_each go together"),
        ([stage("contrastive", "a"), stage("mining", "m", init="a", ranks=[9, 3])], "lies after the last"),
        ([stage("contrastive", "Upper")], "pattern"),
        ([stage("contrastive", "../out")], "pattern"),
        ([stage("contrastive", "a", temperatur=1)], "Extra inputs"),
        ([stage("restoration", "a", batch={"per_device": 0})], "greater than or equal to 1"),
        ([stage("contrastive", "a", optimiser={"lr": 0})], "greater than 0"),
        ([], "at least 1 item"),
    ],
)
def test_what_does_not_fit_is_refused(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(*stages)


def test_recipes_are_values() -> None:
    first, second = recipe(stage("contrastive", "a")), recipe(stage("contrastive", "a"))
    assert first == second
    with pytest.raises(ValidationError, match="frozen"):
        first.stages[0].name = "b"
    assert Recipe.model_validate_json(first.model_dump_json()) == first


def test_defaults_are_the_papers_where_it_has_one() -> None:
    mining = Mining(name="m", init="a", data=(Source.model_validate(SOURCE),))
    assert (mining.ranks, mining.each, mining.margin) == ((50, 100), 2, None)
    contrastive = recipe(stage("contrastive", "a")).stages[0]
    assert contrastive.kind == "contrastive"
    assert (contrastive.loss.temperature, contrastive.loss.symmetric) == (0.03, False)
