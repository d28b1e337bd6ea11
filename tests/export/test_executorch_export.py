"""A bundle for ExecuTorch gives the vectors of the one for ONNX, keeps its weights once, and says what is delegated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph_runs import SIDE, cosine, partial_folders, pictures
from magicmm import Bundle, Embedder, ErrorCode, Gallery, MagicError
from magicmm.sources import FolderSource
from magicmm_export.inspection import inspect_bundle
from magicmm_export.ladder import EXACT, check_bundle
from magicmm_export.ladder_report import INT8
from magicmm_export.planner import RUN_HERE, read_plans
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import RECIPES

pytest.importorskip("executorch")

from magicmm_export.decomposition.buckets import choose_buckets
from magicmm_export.executorch.export import PROGRAM, ExecutorchOptions, export_executorch

LONG = "two people walking along the beach at sunset with a dog, and a printed page of text on the sand beside them"


def vectors(bundle: Path, runtime: str) -> np.ndarray:
    """Return a short and a long text, a photo, a photo with words, and a document of five tiles."""
    embedder = Embedder.open(bundle, 1, runtime)
    wide = np.ascontiguousarray(np.concatenate([sample_scene()] * 2, axis=1))
    return np.stack(
        [
            embedder.embed_text("a dog"),
            embedder.embed_text(LONG),
            embedder.embed_image(sample_scene()),
            embedder.embed_query("at night", sample_scene()),
            embedder.embed_image(wide, "document"),
        ]
    )


def test_vectors_are_those_of_onnx(executorch_bundle: Path, float32_bundle: Path) -> None:
    assert cosine(vectors(executorch_bundle, "executorch"), vectors(float32_bundle, "onnx")) > 0.99999


def test_int8_vectors_are_close_to_float32_and_to_onnx(
    executorch_int8_bundle: Path, int8_bundle: Path, float32_bundle: Path
) -> None:
    found = vectors(executorch_int8_bundle, "executorch")
    assert cosine(found, vectors(float32_bundle, "onnx")) > 0.998
    assert cosine(found, vectors(int8_bundle, "onnx")) > 0.998, "the same codes; rows are rounded another way"


def test_the_ladder_compares_what_a_program_shows(
    tiny: Checkpoint, executorch_bundle: Path, executorch_int8_bundle: Path
) -> None:
    exact, rounded = (
        check_bundle(tiny, path, threads=1, runtime="executorch")
        for path in (executorch_bundle, executorch_int8_bundle)
    )
    assert exact.tolerance is EXACT and rounded.tolerance is INT8
    for report in (exact, rounded):
        assert report.passes
        assert [stage.name for stage in report.stages] == ["visual tokens", "vector"]
        assert "patches" in report.unnamed and "language.layers.2" in report.unnamed


def test_the_bundle_verifies_and_names_one_program(executorch_bundle: Path) -> None:
    bundle = Bundle.load(executorch_bundle)
    assert bundle.manifest.graphs == {"executorch": {"vision": PROGRAM, "language": PROGRAM}}
    assert bundle.verify(1, "executorch").passes
    with pytest.raises(MagicError, match="executorch") as caught:
        bundle.verify(1)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED and "'executorch'" in caught.value.remedy


def test_another_number_of_threads_keeps_open_sessions_right(executorch_bundle: Path) -> None:
    one = Embedder.open(executorch_bundle, 1, "executorch")
    before = one.embed_text("a dog")
    two = Embedder.open(executorch_bundle, 2, "executorch")
    assert cosine(two.embed_text("a dog"), before) > 0.999999
    assert cosine(one.embed_text("a dog"), before) > 0.999999
    assert cosine(two.embed_image(sample_scene()), one.embed_image(sample_scene())) > 0.999999


def test_galleries_rank_alike(executorch_bundle: Path, float32_bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for place, pixels in enumerate(pictures(6, 64)):
        shade = np.clip(pixels // (place + 1) + 30 * place, 0, 255).astype(np.uint8)
        Image.fromarray(shade).save(tmp_path / "photos" / f"{place}.png")
    rankings, scores = [], []
    for path, runtime in ((executorch_bundle, "executorch"), (float32_bundle, "onnx")):
        embedder = Embedder.open(path, 1, runtime)
        with Gallery.open(tmp_path / f"{runtime}.db", embedder, [FolderSource(tmp_path / "photos")]) as gallery:
            list(gallery.sync())
            found = [gallery.search(text=text, k=6).matches for text in ("a dog", "a printed page of text", "sunset")]
            rankings.append([[Path(hit.uri).name for hit in hits] for hits in found])
            scores.append([[hit.score for hit in hits] for hits in found])
    assert rankings[0] == rankings[1] and len(rankings[0][0]) == 6
    assert np.abs(np.array(scores[0]) - np.array(scores[1])).max() < 1e-3


def test_the_plan_leaves_out_one_cast_and_the_picking_of_rows(executorch_bundle: Path) -> None:
    (plan,) = read_plans(Bundle.load(executorch_bundle))
    assert (plan.runtime, plan.target, plan.status) == ("executorch", "xnnpack", RUN_HERE)
    assert [(part.name, part.pieces) for part in plan.parts] == [
        ("vision", 1),
        ("language_32", 2),
        ("language_128", 2),
    ]
    outside = [{one.operator for one in part.outside} for part in plan.parts]
    assert outside == [{"_to_dim_order_copy"}, {"index_select"}, {"index_select"}]
    assert plan.outside_share < 0.01
    assert all(one.why for part in plan.parts for one in part.outside)


@pytest.mark.parametrize("fixture", ["executorch_bundle", "executorch_int8_bundle"])
def test_the_plan_is_what_the_program_holds(fixture: str, request: pytest.FixtureRequest) -> None:
    """The oracle reads the file: instructions that call a kernel, and those that call a delegate."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    bundle = Bundle.load(request.getfixturevalue(fixture))
    (plan,) = read_plans(bundle)
    program: Any = deserialize_pte_binary(bundle.file(PROGRAM).read_bytes())
    program = getattr(program, "program", program)
    for part in plan.parts:
        (entry,) = (entry for entry in program.execution_plan if entry.name == part.name)
        arguments = [one.instr_args for one in entry.chains[0].instructions]
        kernels = Counter(
            entry.operators[one.op_index].name.partition("::")[2]
            for one in arguments
            if type(one).__name__ == "KernelCall"
        )
        assert kernels == {one.operator: one.count for one in part.outside}
        assert sum(type(one).__name__ == "DelegateCall" for one in arguments) == part.pieces


def test_work_is_that_of_the_shapes(tiny: Checkpoint, executorch_bundle: Path) -> None:
    (plan,) = read_plans(Bundle.load(executorch_bundle))
    vision, width = tiny.config.vision, 32
    rows = (SIDE // vision.patch_size) ** 2 + 1
    work = {one.operator: one.work for one in plan.parts[0].operators}
    assert work["bmm"] == vision.layers * 2 * (2 * rows * rows * width)
    assert work["convolution"] == 2 * (rows - 1) * width * 3 * vision.patch_size**2


def test_weights_are_stored_once(executorch_bundle: Path, tiny: Checkpoint) -> None:
    """Two lengths hold the language model; its weights alone would double the program."""
    size = Bundle.load(executorch_bundle).manifest.files[PROGRAM].bytes
    language = sum(
        int(np.prod(tiny.read(name).shape)) * 4
        for name in (f"language.layers.{place}.mlp.{part}_proj.weight" for place in range(3) for part in ("gate", "up"))
    )
    tables = 128 * (128 + 32) * 4
    assert size < 5.2 * language + 4 * tables + 400_000


def test_inspect_shows_the_plan_and_all_bytes(executorch_bundle: Path) -> None:
    found = inspect_bundle(executorch_bundle)
    assert not found.graphs and len(found.plans) == 1
    assert sum(found.bytes.values()) == Bundle.load(executorch_bundle).total_bytes
    assert found.bytes["program for executorch"] > 100_000
    assert "language_32: 2 delegates" in found.table()
    assert json.loads(json.dumps(found.to_json()))["plans"][0]["target"] == "xnnpack"


def refused(checkpoint: Checkpoint, folder: Path, **changes: Any) -> MagicError:
    with pytest.raises(MagicError) as caught:
        export_executorch(checkpoint, folder / "tiny.magicmm", ExecutorchOptions(image_size=SIDE, **changes))
    assert not partial_folders(folder) and not list(folder.iterdir())
    return caught.value


def test_too_much_outside_stops_the_export(tiny: Checkpoint, tmp_path: Path) -> None:
    error = refused(tiny, tmp_path, recipe=RECIPES["float32"], buckets=(128,), most_outside=0.0)
    assert error.code is ErrorCode.RUNTIME_FAILED
    assert "vision 0." in error.message and "_to_dim_order_copy" in error.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"buckets": (32,)}, "role document"),
        ({"buckets": (0, 32)}, "Buckets of 0, 32"),
        ({"buckets": (4096,)}, "do not fit"),
        ({"also": ("nothing",)}, "no target 'nothing'"),
        ({"also": ("vulkan",)}, "vision.layers.0.qkv as int8, which vulkan"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tiny: Checkpoint, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    error = refused(tiny, tmp_path, **changes)
    assert error.code is ErrorCode.ARGUMENT_INVALID and said in error.message and error.remedy


def test_qualcomm_is_refused_with_the_reason(tiny: Checkpoint, tmp_path: Path) -> None:
    error = refused(tiny, tmp_path, also=("qnn",))
    assert error.code is ErrorCode.RUNTIME_FAILED and "Qualcomm's SDK" in error.message and error.remedy


def test_the_longest_prompt_has_a_bucket(tiny: Checkpoint) -> None:
    assert choose_buckets(tiny.config, {}, None) == (32, 96, 384, tiny.config.max_tokens)
    assert choose_buckets(tiny.config, {}, (96, 32, 96)) == (32, 96)


def test_prompts_are_as_long_as_the_last_bucket_allows(executorch_bundle: Path) -> None:
    manifest = Bundle.load(executorch_bundle).manifest
    assert manifest.text.max_tokens == 128 + min(len(role.head) for role in manifest.roles.values())
    embedder = Embedder.open(executorch_bundle, 1, "executorch")
    with pytest.raises(MagicError) as caught:
        embedder.embed_text("dog " * 400)
    assert caught.value.code is ErrorCode.TEXT_INVALID
    assert embedder.embed_text("dog " * 400, truncate=True).shape == (manifest.dim,)
