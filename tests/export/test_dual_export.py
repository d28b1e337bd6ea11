"""`export_dual_encoder`: a checkpoint of transformers becomes a bundle that says the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from magicmm import Bundle, Embedder, ErrorCode, Gallery, MagicError
from tiny_dual_checkpoints import FAMILIES, LENGTH, SIDE, expected_images, expected_texts, write_dual_checkpoint

pytest.importorskip("optimum.exporters.onnx", reason="needs magicmm[export]")

from magicmm_export.dual import export, export_dual_encoder, parity

TEXTS = ["a dog", "Two people on the beach at sunset", "red", "my old kitchen , seen from above at night"]


def picture(seed: int) -> NDArray[np.uint8]:
    """Return a square of the model's own size, so that no preprocessing can differ: coarse noise in one tint."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3)) // 2 + random.integers(0, 128, 3)
    return np.kron(coarse, np.ones((SIDE // 4, SIDE // 4, 1))).astype(np.uint8)


PICTURES = [picture(seed) for seed in range(8)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dual_checkpoint(tmp_path_factory.mktemp(family) / f"tiny-{family}", family)


@pytest.fixture(scope="module")
def exact(checkpoint: Path) -> Bundle:
    return Bundle.load(export_dual_encoder(checkpoint, checkpoint.parent / "exact.magicmm", precision="float32"))


@pytest.fixture(scope="module")
def small(checkpoint: Path) -> Bundle:
    return Bundle.load(export_dual_encoder(checkpoint, checkpoint.parent / "small.magicmm", model_id="my-small"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def cosines(found: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray((found.astype(np.float64) * truth).sum(axis=1))


# -- the same vectors ------------------------------------------------------------------------------------------


def test_photos_have_the_vectors_of_transformers(checkpoint: Path, family: str, exact: Bundle) -> None:
    truth = expected_images(checkpoint, family, PICTURES)
    assert abs(truth @ truth.T - np.eye(len(truth))).max() > 0.01  # the pictures differ, or equality would say nothing
    found = Embedder.open(exact, 1).embed_images(PICTURES)
    assert cosines(found, truth).min() > 1 - 1e-5
    assert np.allclose(found, truth, atol=1e-5)


def test_words_have_the_vectors_of_transformers(checkpoint: Path, family: str, exact: Bundle) -> None:
    embedder = Embedder.open(exact, 1)
    found = np.stack([embedder.embed_text(text) for text in TEXTS])
    assert np.allclose(found, expected_texts(checkpoint, family, TEXTS), atol=1e-5)


def test_a_text_that_is_too_long_is_cut_as_transformers_cuts_it(checkpoint: Path, family: str, exact: Bundle) -> None:
    long = "two people on the beach " * 9
    embedder = Embedder.open(exact, 1)
    assert np.allclose(embedder.embed_text(long, truncate=True), expected_texts(checkpoint, family, [long]), atol=1e-5)
    with pytest.raises(MagicError, match="tokens"):
        embedder.embed_text(long)


def test_rows_of_a_batch_are_padded_under_the_mask(exact: Bundle, family: str) -> None:
    session = ort.InferenceSession(str(exact.file("text.onnx")))
    rows = [Embedder.open(exact, 1).token_ids(text) for text in TEXTS]
    ids = np.full((len(rows), max(map(len, rows))), 7, np.int64)  # a word: only the mask says that it is none
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    together = session.run(None, {"ids": ids, "mask": mask})[0]
    for row, vector in zip(rows, together, strict=True):
        alone = session.run(None, {"ids": np.array([row]), "mask": np.ones((1, len(row)), np.int64)})[0][0]
        assert np.allclose(vector, alone, atol=1e-6)
        assert abs(np.linalg.norm(vector) - 1) < 1e-6


@pytest.mark.parametrize("bundle_name", ["exact", "small"])
def test_a_gallery_ranks_as_transformers_does(
    bundle_name: str, checkpoint: Path, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(bundle_name)
    photos = tmp_path / "photos"
    photos.mkdir()
    for place, pixels in enumerate(PICTURES):
        Image.fromarray(pixels).save(photos / f"{place}.png")
    images, texts = expected_images(checkpoint, family, PICTURES), expected_texts(checkpoint, family, TEXTS)
    allowed = 0.008 if bundle_name == "exact" else 0.05  # an index keeps int8 vectors, here of 24 numbers
    with Gallery.open(tmp_path / "index.db", Embedder.open(bundle, 1), [photos]) as gallery:
        for _ in gallery.sync():
            pass
        for text, truth in zip(TEXTS, texts @ images.T, strict=True):
            matches = gallery.search(text, k=len(PICTURES)).matches
            order = [int(Path(match.uri).stem) for match in matches]
            assert sorted(order) == list(range(len(PICTURES)))
            assert (np.diff(truth[order]) <= allowed).all()  # falling, but for ties within the rounding
            assert np.allclose([match.score for match in matches], truth[order], atol=allowed)


# -- the bundle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle_name", ["exact", "small"])
def test_the_bundle_verifies(bundle_name: str, family: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(bundle_name).verify(1)
    assert report.passes
    assert len(report.checks) == 4


def test_the_manifest_says_what_the_checkpoint_says(exact: Bundle, small: Bundle, family: str) -> None:
    manifest = exact.manifest
    view, head, tail, pad, dim = ("crop", (98,), (99,), 99, 24) if family == "clip" else ("squash", (), (1,), 1, 32)
    query = manifest.roles["query"]
    assert (manifest.image.side, manifest.image.views, manifest.dim) == (SIDE, (view,), dim)
    assert (query.head, query.tail, manifest.text.pad_id, manifest.text.max_tokens) == (head, tail, pad, LENGTH)
    assert manifest.roles["photo"].head == manifest.roles["photo"].tail == ()
    assert (manifest.id, small.manifest.id) == (f"tiny-{family}", "my-small")
    assert manifest.composed_text_weight == 1.0
    assert manifest.raw["source"] == {"family": family, "notes": []}
    assert manifest.weights == small.manifest.weights
    assert exact.fingerprint != small.fingerprint


def test_int8_is_smaller_and_close(exact: Bundle, small: Bundle) -> None:
    kinds = {}
    for bundle in (exact, small):
        kinds[bundle.manifest.id] = sum(bundle.file(f"{part}.onnx").stat().st_size for part in ("image", "text"))
        data = [bundle.file(name).stat().st_size for name in bundle.manifest.files if name.endswith(".data")]
        kinds[bundle.manifest.id] += sum(data)
    large, little = kinds.values()
    assert little < large
    found, truth = Embedder.open(small, 1), Embedder.open(exact, 1)
    assert cosines(found.embed_images(PICTURES), truth.embed_images(PICTURES)).min() > 0.99
    quality = small.manifest.raw["quality"]
    assert quality["float32_to_torch"]["image"]["min"] > 0.99999
    assert 0.98 < quality["int8_to_float32"]["text"]["mean"] < 1


def test_an_int8_vector_does_not_depend_on_its_neighbours(small: Bundle) -> None:
    embedder = Embedder.open(small, 1)
    together = embedder.embed_images([*PICTURES, np.full((SIDE, SIDE, 3), 255, np.uint8)])
    for pixels, vector in zip(PICTURES, together, strict=False):
        assert np.allclose(embedder.embed_image(pixels), vector, atol=1e-6)


def test_progress_is_told_in_order(checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    export_dual_encoder(checkpoint, tmp_path / "out.magicmm", precision="float32", progress=told.append)
    assert [line.split()[0] for line in told] == ["Loading", "Tracing", "Comparing", "Writing"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.magicmm"]


# -- what is refused -------------------------------------------------------------------------------------------


def refusal(source: Path, target: Path, **options: object) -> MagicError:
    """Return the error, after seeing that nothing was left where the bundle would be."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(MagicError) as caught:
        export_dual_encoder(source, target, **options)  # type: ignore[arg-type]
    assert sorted(target.parent.iterdir()) == before
    return caught.value


def test_a_target_that_exists_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out.magicmm").mkdir()
    error = refusal(checkpoint, tmp_path / "out.magicmm")
    assert (error.code, list((tmp_path / "out.magicmm").iterdir())) == (ErrorCode.ARGUMENT_INVALID, [])
    assert refusal(checkpoint, tmp_path / "b.magicmm", precision="int2").code is ErrorCode.ARGUMENT_INVALID


def test_another_family_is_named(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "blip"}))
    error = refusal(copy, tmp_path / "out.magicmm")
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert "'blip'" in error.message
    assert "clip, siglip" in error.remedy


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).unlink()
    error = refusal(copy, tmp_path / "out.magicmm")
    assert error.code is ErrorCode.SOURCE_UNAVAILABLE
    assert name in error.message
    assert error.remedy


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_a_broken_file_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    assert refusal(copy, tmp_path / "out.magicmm").code is ErrorCode.CHECKPOINT_INVALID


def test_pickled_weights_are_never_opened(copy: Path, tmp_path: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    error = refusal(copy, tmp_path / "out.magicmm")
    assert error.code is ErrorCode.SOURCE_UNAVAILABLE
    assert "pytorch_model.bin" in error.message
    assert "can run code" in error.remedy


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("nan", "1 not finite: logit_scale"), ("missing", "1 missing: logit_scale"), ("unknown", "1 unknown: adapter")],
)
def test_weights_that_are_not_the_models_are_refused(wrong: str, message: str, copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    if wrong == "nan":
        tensors["logit_scale"] = torch.full_like(tensors["logit_scale"], float("nan"))
    elif wrong == "missing":
        del tensors["logit_scale"]
    else:
        tensors["adapter"] = torch.zeros(3)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    error = refusal(copy, tmp_path / "out.magicmm")
    assert error.code is ErrorCode.CHECKPOINT_INVALID
    assert message in error.message


def test_int8_that_is_too_far_off_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "LEAST_INT8", 0.9999999)
    error = refusal(checkpoint, tmp_path / "out.magicmm")
    assert error.code is ErrorCode.ARGUMENT_INVALID
    assert "float32" in error.remedy


def test_a_graph_that_is_not_the_model_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parity.torch_vectors
    monkeypatch.setattr(export, "torch_vectors", lambda *a: {k: v[::-1].copy() for k, v in real(*a).items()})
    assert refusal(checkpoint, tmp_path / "out.magicmm").code is ErrorCode.RUNTIME_FAILED


def test_without_the_exporter_the_extra_is_named() -> None:
    code = (
        "import importlib.metadata as m\n"
        "real = m.distribution\n"
        "def distribution(name):\n"
        "    if name == 'optimum-onnx': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.distribution = distribution\n"
        "import magicmm_export.dual\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError" in done.stderr
    assert "optimum-onnx" in done.stderr
    assert "pip install 'magicmm[export]'" in done.stderr
