"""`export_coreml`: a bundle whose packages give what the checkpoint gives, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph_runs import cosine, partial_folders, run_here
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm_export import cli, isolated
from magicmm_export.coreml.encoder import CoremlEncoder, bucket_for, bucket_inputs, package_facts, package_path
from magicmm_export.coreml.export import CoremlOptions, export_coreml
from magicmm_export.coreml.facts import PackageFacts
from magicmm_export.coreml.inspection import inspect_packages
from magicmm_export.coreml.package import function_names, load_spec, read_metadata
from magicmm_export.coreml.packages import PLAN
from magicmm_export.coreml.planner import ENGINE, plan_packages
from magicmm_export.coreml.schemes import SCHEMES, Target, Units
from magicmm_export.isolated import embed_queries
from magicmm_export.ladder import check_bundle
from magicmm_export.ladder_report import HALF
from magicmm_export.observed import Item
from magicmm_export.options import SEED
from magicmm_export.planner import read_plans
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.embedder import TorchEmbedder
from magicmm_model.loading import load_model
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.hadamard import Rotation
from magicmm_quant.weights import RewrittenWeights

BUCKETS = (32, 384)
"""The second one holds a document of five tiles."""


def options(scheme: str = "float16", **changes: Any) -> CoremlOptions:
    return CoremlOptions.of(SCHEMES[scheme], **{"image_size": 224, "buckets": BUCKETS, **changes})


@pytest.fixture(scope="module")
def half(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        target = tmp_path_factory.mktemp("half") / "tiny.magicmm"
        return export_coreml(tiny, target, options(layers_at_once=2))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolated, "_run", run_here)
    yield


@pytest.fixture(scope="module")
def torch_embedder(tiny: Checkpoint, tokenizer: PromptTokenizer) -> TorchEmbedder:
    return TorchEmbedder(load_model(tiny, image_size=224), tokenizer)


QUERIES = [("a dog", None), (None, "scene"), ("at night", "scene")]


@pytest.mark.parametrize(("text", "picture"), QUERIES, ids=["text", "photo", "composed"])
def test_vectors_are_those_of_the_checkpoint(
    half: Bundle, torch_embedder: TorchEmbedder, text: str | None, picture: str | None
) -> None:
    image = sample_scene() if picture else None
    found = embed_queries(half, [(text, image)], runtime="coreml")
    wanted = torch_embedder.embed_query(text, image).vector.numpy()
    assert cosine(found, wanted[None]) > 0.999, "the token table is int8"


def test_every_stage_of_the_ladder_is_within_its_tolerance(tiny: Checkpoint, half: Bundle) -> None:
    seen: list[str] = []
    report = check_bundle(tiny, half.path, progress=seen.append, runtime="coreml")
    names = ["patches", "vision.layers.0", "vision.layers.1", "visual tokens"]
    names += [f"language.layers.{place}" for place in range(3)] + ["vector"]
    assert [stage.name for stage in report.stages] == names and report.unnamed == ()
    assert report.tolerance == HALF and report.passes, report.table()
    assert min(stage.cosine for stage in report.stages) > 0.9999
    assert max(stage.largest_error for stage in report.stages) > 1e-4, "half precision would show"


def places_of_weights(bundle: Path, tiny: Checkpoint, unit: str) -> tuple[Path, list[int]]:
    """Return the file of the language weights, and every place of it where those of a unit begin."""
    weights = bundle / "coreml" / "language.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = np.frombuffer(weights.read_bytes(), np.float16)
    rotation = Rotation(tiny.config.dim, SEED)
    wanted = RewrittenWeights(tiny, tiny.config, rotation).linear(unit).weight.astype(np.float16).reshape(-1)
    starts = [int(at) for at in np.flatnonzero(data == wanted[0]) if np.array_equal(data[at : at + 64], wanted[:64])]
    return weights, starts


def test_functions_share_their_weights(half: Bundle, tiny: Checkpoint) -> None:
    assert function_names(load_spec(package_path(half, "language"))) == ("language_32", "language_384")
    for unit in ("o", "down"):
        assert len(places_of_weights(half.path, tiny, f"language.layers.1.{unit}")[1]) == 1


def test_a_planted_error_is_found_where_it_was_planted(tiny: Checkpoint, half: Bundle, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.magicmm"
    shutil.copytree(half.path, spoiled)
    weights, (start,) = places_of_weights(spoiled, tiny, "language.layers.1.down")
    data = np.frombuffer(weights.read_bytes(), np.float16).copy()
    data[start : start + 64] = 10
    weights.write_bytes(data.tobytes())
    assert check_bundle(tiny, spoiled, runtime="coreml").first_failure == "language.layers.1"


def test_the_manifest_lists_every_file_of_the_packages(half: Bundle) -> None:
    graphs = half.manifest.graphs
    assert graphs == {"coreml": {part: f"coreml/{part}.mlpackage/Manifest.json" for part in ("vision", "language")}}
    for part in ("vision", "language"):
        folder = package_path(half, part)
        listed = {name for name in half.manifest.files if name.startswith(f"coreml/{part}.mlpackage/")}
        assert listed == {path.relative_to(half.path).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert any(name.endswith("weight.bin") for name in listed)
    half.check_hashes()
    assert half.manifest.quantisation["vision"].startswith("float16")


def test_golden_vectors_verify_by_the_interpreter(half: Bundle) -> None:
    cases = json.loads(half.file(half.manifest.golden).read_text())["cases"]
    assert [case["name"] for case in cases] == ["short", "sentence", "accents", "landscape", "composed"]
    (found,) = embed_queries(half, [("a dog", None)], runtime="coreml")
    assert cosine(found[None], np.array(cases[0]["vector"])[None]) > 0.9999999
    assert "pixels_sha256" in cases[3] and "alternatives" not in cases[0]


def test_the_sdk_says_where_such_a_bundle_runs(half: Bundle) -> None:
    with pytest.raises(MagicError, match="coreml") as caught:
        Embedder.open(half).embed_text("a dog")
    assert "Apple" in caught.value.remedy


def test_packages_say_what_they_are(half: Bundle) -> None:
    vision, language = (package_facts(half, part) for part in ("vision", "language"))
    assert (language.scheme, language.target, language.units) == ("float16", "iOS18", "all")
    assert language.buckets == {32: "language_32", 384: "language_384"}
    assert language.prefix == max(len(role.head) for role in half.manifest.roles.values())
    assert set(language.roles) == set(half.manifest.roles)
    assert vision.fingerprint == language.fingerprint == half.fingerprint
    assert language.source == "tiny"
    assert vision.buckets == {} and list(vision.stages)[-1] == "visual tokens"
    noted = read_metadata(load_spec(package_path(half, "language")))
    assert all(name.startswith("magicmm.") for name in noted)
    assert PackageFacts.from_metadata(noted) == language
    with pytest.raises(MagicError, match="metadata of the package"):
        PackageFacts.from_metadata({"magicmm.part": "vision"})


def test_each_sequence_runs_in_the_shortest_bucket() -> None:
    assert [bucket_for(length, (384, 32)) for length in (1, 32, 33, 384)] == [32, 32, 384, 384]
    with pytest.raises(MagicError, match=r"385 tokens fits none .* 32, 384") as caught:
        bucket_for(385, (384, 32))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID and "--buckets" in caught.value.remedy


def test_a_sequence_is_filled_up_to_its_bucket() -> None:
    past = {"past_key_0": np.ones((1, 2, 3, 4), np.float32), "past_value_0": np.ones((1, 2, 3, 4), np.float32)}
    given = {"embeds": np.ones((1, 2, 6), np.float32), "last": np.array([1], np.int64), **past}
    found = bucket_inputs(given, 5, 7)
    assert {name: values.shape for name, values in found.items()} == {
        "embeds": (1, 5, 6),
        "last": (1,),
        "before": (1,),
        "past_key_0": (1, 2, 7, 4),
        "past_value_0": (1, 2, 7, 4),
    }
    assert found["before"].tolist() == [3] and found["last"].dtype == np.int32
    assert found["embeds"].sum() == 12 and found["past_key_0"].sum() == 24
    with pytest.raises(MagicError, match="prefix has 3 tokens, the package takes 2"):
        bucket_inputs(given, 5, 2)


def test_tiles_of_a_document_run_one_by_one(half: Bundle, torch_embedder: TorchEmbedder) -> None:
    role = half.manifest.roles["document"]
    encoder = CoremlEncoder(half)
    wide = np.concatenate([sample_scene(), sample_scene()[:, ::-1]], axis=1)
    pixels = Embedder.open(half).prepare(wide, "document")
    assert len(pixels) > 2, "tiles and the thumbnail"
    found = encoder.vectors([Item(role, pixels=pixels)])
    wanted = torch_embedder.embed_image(wide, "document").vector.numpy()
    assert cosine(found, wanted[None]) > 0.999
    assert encoder.overflowed == {"vision": (), "language": ()}


def test_plans_say_what_stays_outside(half: Bundle) -> None:
    (noted,) = read_plans(half)
    assert half.manifest.raw["plans"] == PLAN
    assert noted == plan_packages({part: package_path(half, part) for part in ("vision", "language")}, Units.ALL)
    assert (noted.target, [part.name for part in noted.parts]) == (ENGINE, ["vision", "language_32", "language_384"])
    assert "not verified here" in noted.status
    for part in noted.parts:
        assert 0 < part.outside_share < 0.05
        assert {one.operator for one in part.outside} <= {"cast", "gather", "greater_equal", "select", "add"}
        assert all(one.why for one in part.outside)
        assert part.pieces >= 1
    assert {one.operator for one in noted.parts[0].outside} == {"cast"}
    with pytest.raises(MagicError, match=r"More than 0.00% .* vision"):
        noted.check(0.0)


def test_inspection_shows_functions_and_plan(half: Bundle) -> None:
    found = inspect_packages(half)
    assert sum(found.bytes.values()) == half.total_bytes
    vision, language = found.packages
    assert [one.name for one in language.functions] == ["language_32", "language_384"]
    assert vision.functions[0].inputs == {"pixels": "fp32 [1, 224, 224, 3]"}
    assert vision.functions[0].weights == {"plain": 10}
    table = found.table()
    assert "language_384: embeds fp32 [1, 384, 96], last int32 [1], before int32 [1], 6 keys and values" in table
    assert "coreml for ane" in table and json.loads(json.dumps(found.to_json()))["plan"]["target"] == "ane"


def test_what_cannot_be_is_refused_before_anything_is_written(tiny: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "tiny.magicmm"
    for wrong, said in (
        (options("int4"), "does not run on the Neural Engine"),
        (options(target=Target.IOS17), "one function only"),
        (options(buckets=(32,)), "A photo of the role"),
        (options(most_outside=0.0, buckets=(384,)), "stays outside ane"),
    ):
        with pytest.raises(MagicError, match=said):
            export_coreml(tiny, target, wrong)
        assert list(tmp_path.iterdir()) == []
    assert partial_folders(tmp_path) == []


def test_the_command_line_exports_checks_and_inspects(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    target = tmp_path / "tiny.magicmm"
    own = ["--runtime", "coreml", "--recipe", "int8", "--image-size", "224", "--system", "iOS17", "--buckets", "384"]
    assert cli.main([str(tiny.folder), str(target), *own, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["quality"]["parts"]["query"]["mean"] > 0.99
    bundle = Bundle.load(target)
    assert package_facts(bundle, "language").buckets == {384: "main"}
    assert load_spec(package_path(bundle, "language")).specificationVersion == 8
    assert bundle.manifest.quantisation["language"] == "int8, one scale an output channel (int8)"
    assert cli.main(["check", str(tiny.folder), str(target), "--runtime", "coreml"]) == 0
    assert "All stages are within the tolerance" in capsys.readouterr().out
    assert cli.main(["inspect", str(target), "--max-outside", "0.05"]) == 0
    assert "constexpr_" in capsys.readouterr().out
    assert cli.main(["inspect", str(target), "--max-outside", "0"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.magicmm"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--recipe", "int2"), ("'int2'", "palette4")),
        (("--recipe", "int4"), ("Neural Engine", "#2510", "--compute-units cpu_and_gpu")),
        (("--recipe", "palette4", "--system", "iOS17"), ("needs iOS18",)),
        (("--openvino", "--calibrate", "."), ("openvino",)),
        (("--low-memory",), ("--low-memory", "coreml")),
        (("--buckets", "8"), ("photo", "role")),
    ],
)
def test_the_command_line_refuses_what_cannot_be(
    tiny: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    assert cli.main([str(tiny.folder), str(tmp_path / "a.magicmm"), "--runtime", "coreml", *arguments]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []
