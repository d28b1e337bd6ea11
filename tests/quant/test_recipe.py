"""Recipes: which rule decides, what the presets come to at the published sizes, and broken files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import FAMILY
from magicmm_quant.hadamard import Rotation
from magicmm_quant.recipe import RECIPES, Recipe, Rule, bytes_of, recipe_bytes
from magicmm_quant.schemes import Scheme, quantise_int4, quantise_int8
from magicmm_quant.units import unit_shapes
from magicmm_quant.weights import RewrittenWeights
from tiny_checkpoints import write_checkpoint

INT8, INT4, FLOAT32 = Scheme("int8"), Scheme("int4", 32), Scheme("float32")


def test_the_first_rule_that_matches_the_whole_name_decides() -> None:
    recipe = Recipe("own", (Rule("language", INT8), Rule(r"language\..*", INT4), Rule(".*qkv", INT8)))
    assert recipe.scheme_for("language.layers.0.qkv") == INT4
    assert recipe.scheme_for("vision.layers.0.qkv") == INT8
    with pytest.raises(
        MagicError, match=r"No rule of the recipe own matches the unit vision\.layers\.0\.fc1"
    ) as caught:
        recipe.scheme_for("vision.layers.0.fc1")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize(("unit", "scheme"), [("vision.patches", INT8), ("tokens", INT4), ("tokens", FLOAT32)])
def test_patches_and_tokens_cannot_be_anything_else(unit: str, scheme: Scheme) -> None:
    with pytest.raises(MagicError, match=unit):
        Recipe("own", (Rule(".*", scheme),)).scheme_for(unit)


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("size", list(FAMILY))
def test_presets_know_every_unit_of_every_size(name: str, size: str) -> None:
    schemes = {unit: RECIPES[name].scheme_for(unit) for unit in unit_shapes(FAMILY[size])}
    assert RECIPES[name].name == name
    assert schemes.pop("vision.patches") == FLOAT32
    assert schemes.pop("tokens") == INT8
    four = {(unit.partition(".")[0], unit.rpartition(".")[2]) for unit in schemes if schemes[unit].kind == "int4"}
    language = {("language", kind) for kind in ("qkv", "o", "gate_up", "down")}
    assert four == (language | {("vision", "qkv"), ("vision", "fc1")} if name == "int4" else set())


def test_the_presets_meet_their_goals_at_2b() -> None:
    """1.9 GB and 1.2 GB for the whole bundle; what else is in it takes less than 15 and 40 MB."""
    assert 1.3e9 + 3.1e8 + 2.3e8 < recipe_bytes(FAMILY["2B"], RECIPES["int8"]) < 1.9e9 - 15e6
    assert 1.12e9 < recipe_bytes(FAMILY["2B"], RECIPES["int4"]) < 1.2e9 - 40e6
    assert recipe_bytes(FAMILY["2B"], RECIPES["float32"]) > 6.6e9


def test_bytes_are_those_of_the_arrays() -> None:
    weight = np.ones((10, 256), np.float32)
    eight = quantise_int8(weight)
    assert bytes_of((10, 256), INT8) == eight.codes.nbytes + eight.scales.nbytes
    assert bytes_of((10, 256), FLOAT32) == weight.nbytes
    for group in (32, 128):
        four = quantise_int4(weight, group)
        expected = four.codes.nbytes // 2 + four.multipliers.nbytes + four.scales.nbytes
        assert bytes_of((10, 256), Scheme("int4", group)) == expected
    with pytest.raises(MagicError, match="Groups of 32 do not divide 48"):
        bytes_of((10, 48), INT4)


def test_the_bytes_of_a_recipe_are_those_of_everything_the_weights_give(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    weights = RewrittenWeights(checkpoint, checkpoint.config, Rotation(48, 0))
    linears = [weights.linear(unit) for unit in weights.unit_names()]
    arrays = [weights.closing(), weights.positions(), *(linear.weight for linear in linears)]
    arrays += [linear.bias for linear in linears if linear.bias is not None]
    total = sum(array.nbytes for array in arrays) + 400 * (48 + 4)
    assert recipe_bytes(checkpoint.config, RECIPES["float32"]) == total
    for qkv_bias in (True, False):
        vision = replace(checkpoint.config.vision, qkv_bias=qkv_bias)
        assert recipe_bytes(replace(checkpoint.config, vision=vision), RECIPES["float32"]) == total


def test_exact_names_go_in_front() -> None:
    recipe = RECIPES["int8"].with_units({"language.layers.1.qkv": INT4})
    assert recipe.name == "int8"
    assert recipe.scheme_for("language.layers.1.qkv") == INT4
    assert recipe.scheme_for("language.layers.11.qkv") == INT8
    assert recipe.scheme_for("languageXlayersX1Xqkv") == INT8
    assert recipe.with_units({"language.layers.1.qkv": FLOAT32}).scheme_for("language.layers.1.qkv") == FLOAT32
    assert RECIPES["int8"].scheme_for("language.layers.1.qkv") == INT8


@pytest.mark.parametrize("name", list(RECIPES))
def test_json_holds_the_whole_recipe(name: str) -> None:
    recipe = RECIPES[name].with_units({"language.layers.1.qkv": INT4})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["rules"][0] == {
        "pattern": r"language\.layers\.1\.qkv",
        "kind": "int4",
        "group": 32,
    }


def broken(data: Any) -> str:
    with pytest.raises(MagicError) as caught:
        Recipe.from_json(data if isinstance(data, str) else json.dumps(data))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    return caught.value.message


def test_all_problems_of_a_file_are_listed_at_once() -> None:
    rules = [
        {"pattern": "(", "kind": "int8"},
        {"pattern": ".*", "kind": "int8"},
        {"pattern": ".*", "kind": "int3"},
        {"pattern": ".*", "kind": "int4", "group": 48},
        {"pattern": ".*", "kind": "int4", "group": True},
        {"pattern": ".*"},
        {"pattern": ".*", "kind": "int8", "bits": 8},
        {"pattern": 3, "kind": "int8"},
        "int8",
    ]
    message = broken({"name": "", "rules": rules, "extra": 1, "also": 2})
    for part in ("'also'; it has the unknown key 'extra'", "name is no text", "rules[0]: The pattern '('", "'int3'"):
        assert part in message
    assert "rules[1]" not in message
    for place in range(2, 9):
        assert f"rules[{place}]: " in message


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ([], "no object"),
        ("null", "no object"),
        ({"name": "a"}, "rules is no list"),
        ({"name": "a", "rules": []}, "rules is no list"),
        ({"name": "a", "rules": {}}, "rules is no list"),
        ({"name": 3, "rules": [{"pattern": ".*", "kind": "int8"}]}, "name is no text"),
    ],
)
def test_broken_files_are_refused(data: Any, part: str) -> None:
    assert part in broken(data)
