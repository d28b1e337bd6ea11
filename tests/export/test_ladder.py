"""`check_bundle`: a sound bundle passes everywhere, and a planted error is found where it was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exported_bundles import tiny_bundle, tiny_checkpoint
from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.ladder import check_bundle
from magicmm_export.ladder_report import EXACT, INT4, INT8, LadderReport, Rows, Stage, Tolerance, compare
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import Recipe, Rule
from magicmm_quant.schemes import Scheme
from tiny_checkpoints import write_checkpoint

STAGES = [
    "patches",
    *[f"vision.layers.{place}" for place in range(2)],
    "visual tokens",
    *[f"language.layers.{place}" for place in range(3)],
    "vector",
]
MIXED = Recipe(
    "mixed",
    (
        Rule(r"vision\.patches", Scheme("float32")),
        Rule(r"vision\.layers\.\d+\.(qkv|proj|fc1)", Scheme("int4", 32)),
        Rule(".*", Scheme("int8")),
    ),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("ladder") / "tiny")


@pytest.fixture(scope="module")
def make(checkpoint: Checkpoint) -> Callable[..., Path]:
    """Return what exports a bundle once for each set of options."""

    def bundle(recipe: Recipe | str, rotate: bool = True, low_memory: bool = False) -> Path:
        name = recipe if isinstance(recipe, str) else recipe.name
        target = checkpoint.folder.parent / f"{name}-{rotate}-{low_memory}.magicmm"
        return target if target.exists() else tiny_bundle(checkpoint, target, recipe, rotate, low_memory)

    return bundle


@pytest.mark.parametrize("rotate", [True, False])
def test_a_float32_bundle_agrees_at_every_stage(
    checkpoint: Checkpoint, make: Callable[..., Path], rotate: bool
) -> None:
    seen: list[str] = []
    report = check_bundle(checkpoint, make("float32", rotate), progress=seen.append, threads=1)
    assert report.tolerance == EXACT
    assert [stage.name for stage in report.stages] == STAGES
    assert report.unnamed == ()
    assert report.passes
    assert min(stage.worst_cosine for stage in report.stages) > 0.999999
    assert max(stage.largest_error for stage in report.stages) < 1e-3
    assert seen[1:] == STAGES


def test_rows_of_prefixes_are_left_out_and_the_last_layer_has_pooled_rows_alone(
    checkpoint: Checkpoint, make: Callable[..., Path]
) -> None:
    path = make("float32")
    rows = {stage.name: stage.rows for stage in check_bundle(checkpoint, path, threads=1).stages}
    photo = Bundle.load(path).manifest.roles["photo"]
    assert rows["patches"] == rows["vision.layers.1"] == checkpoint.config.vision.grid**2 + 1
    assert rows["visual tokens"] == checkpoint.config.tile_tokens
    outside = len(photo.image_before) + len(photo.image_after) + len(photo.tail)
    assert rows["language.layers.0"] > checkpoint.config.tile_tokens + outside + 2 * len(photo.tail)
    assert rows["language.layers.0"] == rows["language.layers.1"] < rows["language.layers.0"] + len(photo.head)
    assert rows["language.layers.2"] == rows["vector"] == 3


@pytest.mark.parametrize(
    ("unit", "expected", "rotate"),
    [
        ("vision.positions", "patches", True),
        ("vision.layers.0.proj.weight", "vision.layers.0", True),
        ("vision.layers.1.fc2.weight", "vision.layers.1", True),
        ("connector.linear_2.weight", "visual tokens", True),
        ("language.layers.1.down.weight", "language.layers.1", True),
        ("language.layers.1.down.weight", "language.layers.1", False),
        ("language.layers.2.o.weight", "language.layers.2", True),
        ("language.closing", "vector", True),
        ("language.closing", "vector", False),
    ],
)
def test_a_planted_error_makes_its_layer_the_first_failure(
    checkpoint: Checkpoint, make: Callable[..., Path], tmp_path: Path, unit: str, expected: str, rotate: bool
) -> None:
    spoiled = tmp_path / "spoiled.magicmm"
    shutil.copytree(make("float32", rotate), spoiled)
    plant_error(spoiled, unit)
    report = check_bundle(checkpoint, spoiled, threads=1)
    assert report.first_failure == expected
    before = report.stages[: STAGES.index(expected)]
    assert all(stage.passes for stage in before)
    assert f"First out of tolerance: {expected}." in report.table()


def plant_error(bundle: Path, name: str) -> None:
    """Make one number of a constant ten times the largest, in the graph or in the file beside it."""
    path = bundle / "onnx" / f"{'language' if name.startswith('language') else 'vision'}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    places = {entry.key: entry.value for entry in tensor.external_data}
    if not places:
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[values.size // 2] = 10 * np.abs(values).max()
        tensor.raw_data = values.tobytes()
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    with (path.parent / places["location"]).open("r+b") as file:
        file.seek(int(places["offset"]))
        values = np.frombuffer(file.read(int(places["length"])), np.float32).copy()
        values[values.size // 2] = 10 * np.abs(values).max()
        file.seek(int(places["offset"]))
        file.write(values.tobytes())


@pytest.mark.parametrize(
    ("recipe", "low_memory", "expected"), [("int8", False, INT8), (MIXED, False, INT4), (MIXED, True, INT4)]
)
def test_quantised_bundles_are_judged_by_their_narrowest_weights(
    checkpoint: Checkpoint, make: Callable[..., Path], recipe: Recipe | str, low_memory: bool, expected: Tolerance
) -> None:
    report = check_bundle(checkpoint, make(recipe, low_memory=low_memory), threads=1)
    assert report.tolerance == expected
    assert [stage.name for stage in report.stages] == STAGES
    assert report.stages[0].cosine > 0.999999
    # Four bits are too few for a tower of random numbers that is 32 wide; what counts is that they are what is read.
    assert (0.999 if recipe == "int8" else 0.96) < report.stages[2].cosine < 0.99999
    assert report.passes or recipe != "int8"


def test_a_given_tolerance_replaces_that_of_the_weights(checkpoint: Checkpoint, make: Callable[..., Path]) -> None:
    report = check_bundle(checkpoint, make("int8"), EXACT, threads=1)
    assert report.tolerance == EXACT
    assert report.first_failure == "vision.layers.0"


def test_a_stage_that_the_graphs_do_not_name_is_reported_and_not_failed(
    checkpoint: Checkpoint, make: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.magicmm"
    shutil.copytree(make("float32"), other)
    path = other / "onnx" / "vision.onnx"
    path.write_bytes(path.read_bytes().replace(b"vision.embedded", b"vision.renamed_"))
    report = check_bundle(checkpoint, other, threads=1)
    assert report.unnamed == ("patches",)
    assert [stage.name for stage in report.stages] == STAGES[1:]
    assert "Not compared, for the graphs do not name them: patches." in report.table()


def test_reports_are_json_and_tables_have_a_line_for_each_stage(
    checkpoint: Checkpoint, make: Callable[..., Path]
) -> None:
    report = check_bundle(checkpoint, make("float32"), threads=1)
    again = json.loads(json.dumps(report.to_json()))
    assert again["passes"] is True and again["first_failure"] is None
    assert [stage["name"] for stage in again["stages"]] == STAGES
    lines = report.table().splitlines()
    assert len(lines) == 1 + len(STAGES) + 1
    assert lines[-1] == "All stages are within the tolerance."


def test_the_built_in_dual_encoder_has_no_ladder(checkpoint: Checkpoint) -> None:
    with pytest.raises(MagicError) as caught:
        check_bundle(checkpoint, Bundle.default().path)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize(
    ("changes", "said"), [({"hidden_size": 96}, "96 wide"), ({"num_hidden_layers": 4}, "4 layers")]
)
def test_another_checkpoint_is_refused(
    make: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_checkpoint(tmp_path, **changes)
    with pytest.raises(MagicError, match=said) as caught:
        check_bundle(Checkpoint.open(tmp_path), make("float32"), threads=1)
    assert caught.value.code is ErrorCode.MODEL_MISMATCH


def test_comparisons_measure_cosines_by_row_and_errors_against_the_root_mean_square() -> None:
    reference = np.array([[3, 4], [0, 5]], np.float32)
    ours = np.array([[3, 4], [5, 5]], np.float32)
    stage = compare("vision.layers.0", ours, reference, Tolerance(0.8, 0.9, 0.7))
    assert stage.cosine == pytest.approx((1 + 0.5**0.5) / 2)
    assert stage.worst_cosine == pytest.approx(0.5**0.5)
    assert stage.largest_error == pytest.approx(5 / 12.5**0.5)
    assert (stage.rows, stage.needed, stage.passes) == (2, 0.8, True)


@pytest.mark.parametrize(
    ("name", "tolerance", "passes"),
    [
        ("language.layers.0", Tolerance(0.8, 0.9, 0.7), False),
        ("vector", Tolerance(0.8, 0.9, 0.7), False),
        ("visual tokens", Tolerance(0.8, 0.9, 0.7), True),
        ("visual tokens", Tolerance(0.8, 0.9, 0.75), False),
    ],
)
def test_means_are_judged_by_tower_and_rows_by_the_worst(name: str, tolerance: Tolerance, passes: bool) -> None:
    reference = np.array([[3, 4], [0, 5]], np.float32)
    ours = np.array([[3, 4], [5, 5]], np.float32)
    assert compare(name, ours, reference, tolerance).passes is passes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_never_pass(value: float) -> None:
    rows: Rows = np.array([[1, value]], np.float32)
    with np.errstate(invalid="ignore"):
        assert not compare("vector", rows, np.ones((1, 2), np.float32), Tolerance(-1, -1, -1)).passes


def test_the_first_failure_is_that_of_the_lowest_stage() -> None:
    good = Stage("a", 1, 1.0, 1.0, 0.0, 0.9, True)
    bad = [replace(good, name=name, passes=False) for name in "bc"]
    assert LadderReport(INT8, (good, *bad), ()).first_failure == "b"
    assert LadderReport(INT8, (good,), ()).passes


def test_the_variant_of_the_bundle_counts_not_that_of_the_checkpoint(
    checkpoint: Checkpoint, make: Callable[..., Path]
) -> None:
    other = replace(checkpoint, config=checkpoint.config.variant(compression=1))
    assert check_bundle(other, make("float32"), threads=1).passes
