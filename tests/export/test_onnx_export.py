"""Whole exports: bundles that verify, the same bytes every time, in the memory of one unit, or nothing at all."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graph_runs import FOUR, SIDE, cosine, damaged, hashes, options
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.saturation import saturates
from magicmm_export.graph import DataFile
from magicmm_export.onnx import tables
from magicmm_export.onnx.export import export_onnx
from magicmm_export.options import Progress
from magicmm_export.part_cache import PartCache
from magicmm_export.scenes import sample_scene
from magicmm_model import TorchEmbedder
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import RECIPES
from magicmm_quant.units import unit_plans

BUNDLES = {"float32_bundle": 0.9999, "int8_bundle": 0.995, "int4_bundle": 0.9, "low_memory_bundle": 0.9}
"""By fixture, the least cosine to torch; even float32 has int8 token rows."""
TABLE = "language.embed_tokens.weight"


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_verifies_and_embeds_as_torch_does(
    tiny: Checkpoint, request: pytest.FixtureRequest, name: str
) -> None:
    bundle = Bundle.load(request.getfixturevalue(name))
    assert bundle.verify().passes
    ours, torch_embedder = Embedder.open(bundle), TorchEmbedder.open(tiny.folder, image_size=SIDE)
    photo = sample_scene()[::-1].copy()
    pairs = [
        (ours.embed_text("a printed page of text"), torch_embedder.embed_text("a printed page of text")),
        (ours.embed_image(photo), torch_embedder.embed_image(photo)),
        (ours.embed_query("at sunset", photo), torch_embedder.embed_query("at sunset", photo)),
        (ours.embed_image(photo, "document"), torch_embedder.embed_image(photo, "document")),
    ]
    for found, wanted in pairs:
        assert cosine(found[None], wanted.vector.numpy()[None]) > BUNDLES[name]
    photos = [photo, sample_scene()[:, :80].copy(), 255 - photo]
    together = ours.embed_images(photos)
    alone = np.stack([ours.embed_image(one) for one in photos])
    if name == "float32_bundle" or (name == "low_memory_bundle" and saturates()):
        # onnxruntime's float32 and, on x86 without VNNI, its 4-bit kernels sum in another order when a batch is larger.
        assert np.allclose(alone, together, atol=1e-6)
    else:
        assert np.array_equal(alone, together)


def test_bundles_of_different_recipes_are_different(request: pytest.FixtureRequest) -> None:
    bundles = [Bundle.load(request.getfixturevalue(name)) for name in BUNDLES]
    assert len({bundle.fingerprint for bundle in bundles}) == len(bundles)
    sizes = [sum(path.stat().st_size for path in (bundle.path / "onnx").iterdir()) for bundle in bundles]
    assert sizes[0] > sizes[1] > sizes[2]
    assert [("packed" in bundle.manifest.raw) for bundle in bundles] == [False, False, True, False]


def test_the_manifest_says_what_was_done(int4_bundle: Path) -> None:
    facts = Bundle.load(int4_bundle).manifest.raw
    assert facts["quantisation"]["language"] == f"12 x int4 in groups of 32 (recipe {FOUR.name})"
    assert facts["quantisation"]["vision"] == f"1 x float32, 10 x int8 (recipe {FOUR.name})"
    assert facts["source"] == {"checkpoint": "tiny", "compression": 2, "rotation": True, "calibration": "none"}
    assert facts["id"] == "tiny" and "tiny" in facts["title"]


def test_exporting_twice_gives_the_same_bytes(
    tiny: Checkpoint, int8_bundle: Path, int4_bundle: Path, tmp_path: Path, in_process: None
) -> None:
    for bundle, recipe in ((int8_bundle, RECIPES["int8"]), (int4_bundle, FOUR)):
        export_onnx(tiny, tmp_path / "tiny.magicmm", options(recipe))
        assert hashes(tmp_path / "tiny.magicmm") == hashes(bundle)


def test_no_more_than_one_unit_is_in_memory(
    tiny: Checkpoint, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[int, int] = {}
    peaks: list[tuple[int, str]] = []
    read, read_rows = Checkpoint.read, Checkpoint.read_rows

    def watched(self: Checkpoint, name: str) -> torch.Tensor:
        assert name != TABLE, "the token table is only read by rows"
        tensor = read(self, name)
        alive[id(tensor)] = tensor.nbytes
        weakref.finalize(tensor, alive.pop, id(tensor))
        peaks.append((sum(alive.values()), name))
        return tensor

    def watched_rows(self: Checkpoint, name: str, start: int, stop: int) -> torch.Tensor:
        assert name == TABLE and stop - start <= 64
        return read_rows(self, name, start, stop)

    monkeypatch.setattr(Checkpoint, "read", watched)
    monkeypatch.setattr(Checkpoint, "read_rows", watched_rows)
    monkeypatch.setattr(tables, "_ROWS", 64)
    export_onnx(tiny, tmp_path / "a.magicmm", options(FOUR, cache=PartCache(tmp_path / "parts")))
    sizes = {name: read(tiny, name).nbytes for name in tiny.names if name != TABLE}
    parts = [
        [name for name in sizes if any(name.startswith(f"{part}.") for part in plan.parts)]
        for plan in unit_plans(tiny.config).values()
    ]
    largest = max(sum(sizes[name] for name in names) for names in parts)
    # Prefixes are computed first, a layer at a time; from the patches on, units come one by one.
    begin = next(place for place, (_, name) in enumerate(peaks) if name.startswith("vision."))
    layer = sum(size for name, size in sizes.items() if name.startswith("language.layers.0."))
    assert begin > 0 and len(peaks) - begin > len(tiny.names)
    assert max(size for size, _ in peaks[:begin]) <= layer
    positions = sizes["vision.position_embedding"]  # larger than any unit of so tiny a model
    assert max(size for size, _ in peaks[begin:]) <= max(largest + 4096, positions)  # a norm or two beside a unit


def test_progress_ends_with_every_byte(tiny: Checkpoint, tmp_path: Path, in_process: None) -> None:
    steps: list[Progress] = []
    export_onnx(tiny, tmp_path / "a.magicmm", options(), progress=steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {step.total for step in steps} == {steps[-1].done}
    assert steps[-1].done < tiny.size  # the head for next-token logits is not read


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Something that lies at the target and has to stay when an export fails."""
    target = tmp_path / "out" / "tiny.magicmm"
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    return target


def refused(target: Path, export: Callable[[], Any]) -> MagicError:
    """Return the error of an export that must not have left a trace."""
    with pytest.raises(MagicError) as caught:
        export()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert [path.name for path in target.iterdir()] == ["old"]
    return caught.value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("encoder.layer.1.mlp.fc1.weight", "vision.layers.1.mlp.fc1.weight"),
        ("layers.2.post_attention_layernorm.weight", "language.layers.2.post_attention_layernorm.weight"),
        ("embed_tokens.weight", TABLE),
    ],
)
def test_nan_and_infinity_are_refused_by_name(
    tiny: Checkpoint, tmp_path: Path, old: Path, in_process: None, stored: str, name: str, value: float
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        found = [key for key in tensors if key.endswith(stored)]
        assert len(found) == 1
        tensors[found[0]].view(-1)[-1] = value  # of the table: a row that no prefix uses

    checkpoint = damaged(tiny, tmp_path / "bad", spoil)
    error = refused(old, lambda: export_onnx(checkpoint, old, options()))
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert name in error.message


def test_a_full_disk_is_a_clear_error(
    tiny: Checkpoint, old: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataFile, "append", full)
    error = refused(old, lambda: export_onnx(tiny, old, options()))
    assert error.code is ErrorCode.STORAGE_FAILED
    assert str(old) in error.message and "No space left" in error.message


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    from tiny_checkpoints import write_checkpoint

    write_checkpoint(tmp_path / "sharded", shard="200KB")
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(MagicError) as caught:
        Checkpoint.open(tmp_path / "sharded")
    assert shards[1].name in caught.value.message


def test_a_quality_that_is_refused_keeps_the_old_bundle(tiny: Checkpoint, old: Path, in_process: None) -> None:
    seen: list[Path] = []

    def gate(staged: Path, manifest: Any) -> Any:
        seen.append(staged)
        assert (staged / "onnx" / "language.onnx").exists() and manifest["dim"] == tiny.config.dim
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "Not good enough.", "Try again.")

    error = refused(old, lambda: export_onnx(tiny, old, options(), quality=gate))
    assert error.message == "Not good enough." and len(seen) == 1


def test_the_old_bundle_is_replaced_at_the_end(tiny: Checkpoint, old: Path, in_process: None) -> None:
    def note(_: Path, __: Any) -> dict[str, float]:
        assert (old / "old").exists()
        return {"cosine": 0.5}

    def still_there(_: Progress) -> None:
        assert (old / "old").read_text() == "old"

    bundle = export_onnx(tiny, old, options(), quality=note, progress=still_there)
    assert not (old / "old").exists() and bundle.verify().passes
    assert bundle.manifest.raw["quality"] == {"cosine": 0.5}
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_variants_of_a_checkpoint_are_exported_as_asked(tiny: Checkpoint, tmp_path: Path, in_process: None) -> None:
    lowering = options(compression=1, model_id="mine", rotate=False)
    bundle = export_onnx(tiny, tmp_path / "tiny.magicmm", lowering)
    photo = sample_scene()
    model = TorchEmbedder.open(tiny.folder, compression=1, image_size=SIDE)
    assert cosine(Embedder.open(bundle).embed_image(photo)[None], model.embed_image(photo).vector.numpy()[None]) > 0.99
    assert bundle.manifest.id == "mine" and bundle.manifest.image.side == SIDE
    assert bundle.manifest.raw["source"]["compression"] == 1 and not bundle.manifest.raw["source"]["rotation"]
