"""The built-in model as Core ML packages: what was saved, interpreted, against the same weights in torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graph_runs import cosine, partial_folders, run_here
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm_export import cli, isolated
from magicmm_export.coreml.dual import PackageSession, package_embedder
from magicmm_export.coreml.encoder import package_facts, package_path
from magicmm_export.coreml.export import CoremlOptions
from magicmm_export.coreml.nano import export_nano
from magicmm_export.coreml.package import function_names, load_function, load_spec
from magicmm_export.coreml.schemes import SCHEMES
from magicmm_export.decomposition import Norms
from magicmm_export.nano import lowered
from magicmm_export.nano.encoder_modules import ComposedTower, TextTower
from magicmm_export.nano.layers import float_layers
from magicmm_export.nano.modules import ImageTower
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.stored import StoredImage, StoredText
from magicmm_export.planner import read_plans

PHOTOS = ("chelsea.png", "coffee.png")
TEXTS = ("a dog", "Café in Zürich, naïve façade", "two people walking along the beach at sunset with a dog and a ball")


def two_layers(bundle: Bundle) -> StoredText:
    text = read_text(bundle)
    return replace(text, layers=text.layers[:2])


def two_adapters(bundle: Bundle) -> StoredImage:
    image = read_image(bundle)
    assert image.student is not None
    return replace(image, student=replace(image.student, adapters=image.student.adapters[:2]))


@pytest.fixture(scope="module")
def written(student: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """From the command line, in int8; the encoder is cut to two layers, for time."""
    target = tmp_path_factory.mktemp("written") / "pocket.magicmm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        patch.setattr(lowered, "read_text", two_layers)
        patch.setattr(lowered, "read_image", two_adapters)
        arguments = [str(student.path), str(target), "--runtime", "coreml", "--buckets", "16,32"]
        assert cli.main(arguments) == 0
    return Bundle.load(target)


@pytest.fixture(scope="module")
def photos(student: Bundle) -> Sequence[NDArray[np.uint8]]:
    """Views of two photos of scikit-image, uint8 [2, 256, 256, 3] each."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "the dev extra brings scikit-image"
    embedder = Embedder.open(student, threads=1)
    return [embedder.prepare(Path(spec.origin).parent / "data" / name) for name in PHOTOS]


@torch.inference_mode()
def text_vector(text: StoredText, ids: list[int]) -> NDArray[np.float32]:
    given = torch.tensor([ids])
    tower = TextTower(text, float_layers(Norms.NATIVE)).eval()
    vector: torch.Tensor = tower.bucket(len(ids))(given, torch.ones_like(given))
    return vector.numpy()


@torch.inference_mode()
def test_photos_are_those_of_torch(written: Bundle, student: Bundle, photos: Sequence[NDArray[np.uint8]]) -> None:
    session, layers = PackageSession(written, "image"), float_layers(Norms.NATIVE)
    image, text = two_adapters(student), TextTower(two_layers(student), layers)
    tower = ImageTower(image, text, layers).eval()
    wanted, seen = zip(*(tower(torch.from_numpy(views.copy())) for views in photos), strict=True)
    assert cosine(session.run({"pixels": np.concatenate(photos)}), torch.cat(wanted).numpy()) > 0.999
    visual = session.run({"pixels": np.concatenate(photos)}, "visual")
    assert cosine(visual.reshape(2, -1), torch.cat(seen).flatten(1).numpy()) > 0.99
    assert session.overflowed == (), "nothing leaves float16"
    assert image.student is not None
    ids = np.array([[101, 102, 2012, 2305, 102]])
    session = PackageSession(written, "composed")
    assert session.input_names == {"visual", "ids", "mask"}
    given = {"visual": visual, "ids": ids.repeat(2, 0), "mask": np.ones_like(ids).repeat(2, 0)}
    bucket = ComposedTower(text, image.student).bucket(5).eval()
    both = [bucket(torch.from_numpy(one), torch.from_numpy(ids), torch.ones(1, 5)) for one in np.split(visual, 2)]
    assert cosine(session.run(given), torch.cat(both).numpy()) > 0.999
    assert session.overflowed == ()


def test_texts_are_those_of_torch_in_every_bucket(written: Bundle, student: Bundle) -> None:
    embedder, text = package_embedder(written), two_layers(student)
    for words in TEXTS:
        ids = embedder.token_ids(words)
        found = embedder.embed_text(words)[None]
        assert cosine(found, text_vector(text, ids)) > 0.9995
        session = PackageSession(written, "text")
        longer = np.array([ids + [9] * (32 - len(ids))])
        mask = np.array([[1] * len(ids) + [0] * (32 - len(ids))])
        assert cosine(session.run({"ids": longer, "mask": mask}), found) > 0.99999
        assert session.overflowed == ()


def test_a_text_longer_than_every_bucket_is_refused(written: Bundle) -> None:
    ids = np.ones((1, 33), np.int64)
    with pytest.raises(MagicError, match="33 tokens") as caught:
        PackageSession(written, "text").run({"ids": ids, "mask": ids})
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    with pytest.raises(MagicError, match="the model reads 30"):
        package_embedder(written).embed_text("word " * 40)


def test_weights_keep_the_codes_of_the_bundle(written: Bundle, student: Bundle) -> None:
    """Convolutions have 7 bits: coremltools' own rounding would spread them over 8 and lose as much again."""
    image, text = read_image(student), two_layers(student)
    trained = image.student
    assert trained is not None
    layers = [part.codes for one in text.layers for part in (one.attention, one.mixed, one.inner, one.outer)]
    marks = np.eye(11, dtype=np.int8)[trained.colours.nearest]
    stored = [*(conv.codes for conv in image.convs), image.classifier.codes, image.bank.table.codes]
    assert codes_of(load_function(package_path(written, "image"))) == signatures(
        [*stored, *layers, trained.words.table.codes, marks]
    )
    for part in ("text", "composed"):
        function = load_function(package_path(written, part), f"{part}_32")
        assert codes_of(function) == signatures([text.words.codes, *layers])


def codes_of(function: Any) -> list[tuple[int, int, int]]:
    packed = [one for one in function.operations if one.op_type == "constexpr_blockwise_shift_scale"]
    return signatures([one.data.val for one in packed])


def signatures(arrays: Sequence[NDArray[Any]]) -> list[tuple[int, int, int]]:
    """Return for each array its size and two sums that depend on every code and its place, in one order."""
    found = []
    for array in arrays:
        flat = np.asarray(array).astype(np.int64).reshape(-1)
        found.append((flat.size, int(flat.sum()), int((flat * (np.arange(flat.size) % 9973)).sum())))
    return sorted(found)


def test_functions_share_their_weights(written: Bundle, student: Bundle) -> None:
    package = package_path(written, "text")
    assert function_names(load_spec(package)) == ("text_16", "text_32")
    text = two_layers(student)
    weights = sum(part.codes.size for one in text.layers for part in (one.attention, one.mixed, one.inner, one.outer))
    size = sum(path.stat().st_size for path in package.rglob("weight.bin"))
    assert size < 1.02 * (text.words.codes.size + weights) + 200_000


def test_the_bundle_says_where_it_comes_from(written: Bundle, student: Bundle) -> None:
    source, parts = student, ("image", "text", "composed")
    assert written.manifest.graphs == {"coreml": {part: f"coreml/{part}.mlpackage/Manifest.json" for part in parts}}
    written.check_hashes()
    assert written.fingerprint != source.fingerprint
    assert written.manifest.text.max_tokens == 32
    assert written.manifest.composed_text_weight == source.manifest.composed_text_weight == 1.1
    for part in parts:
        facts = package_facts(written, part)
        assert (facts.part, facts.source, facts.fingerprint) == (part, source.manifest.id, written.fingerprint)
        assert (facts.scheme, facts.prefix) == ("int8", 0)
    assert package_facts(written, "text").buckets == {16: "text_16", 32: "text_32"}
    assert package_facts(written, "composed").buckets == {16: "composed_16", 32: "composed_32"}
    assert set(package_facts(written, "image").stages) == {"features", "logits", "visual", "vector"}
    names = [case["name"] for case in json.loads(written.file(written.manifest.golden).read_text())["cases"]]
    assert "landscape" in names and "composed" in names
    assert not partial_folders(written.path.parent)
    with pytest.raises(MagicError, match=r"Core ML|coreml"):
        Embedder.open(written).embed_text("a dog")


def test_inspect_shows_functions_and_the_plan(written: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (plan,) = read_plans(written)
    assert [part.name for part in plan.parts] == ["image", "text_16", "text_32", "composed_16", "composed_32"]
    assert plan.outside_share < 0.01
    assert cli.main(["inspect", str(written.path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    image, text, _ = answer["packages"]
    # 64 convolutions, the classifier and four products of two layers keep their codes; floats are their adapters
    # (a first matrix each, three second ones for attention), the sum of soft words' weights, and the colours' words.
    assert image["functions"][0]["weights"] == {"constexpr_blockwise_shift_scale": 64 + 1 + 8, "plain": 2 * (4 + 6) + 2}
    assert [one["name"] for one in text["functions"]] == ["text_16", "text_32"]
    assert cli.main(["inspect", str(written.path), "--max-outside", "0"]) == 1


@pytest.mark.parametrize("scheme", ["palette6", "palette4", "int4"])
def test_schemes_below_8_bits_are_refused(scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(Bundle.default().path), str(tmp_path / "x.magicmm"), "--runtime", "coreml", "--recipe", scheme]
    assert cli.main([*arguments, "--compute-units", "cpu_and_gpu"]) == 1
    assert "does not fit the built-in model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_bundles_are_refused(dual_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="no int8 bundle of the built-in model's builder") as caught:
        export_nano(Bundle.load(dual_path), tmp_path / "x.magicmm", CoremlOptions.of(SCHEMES["float16"]))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert not list(tmp_path.iterdir())
