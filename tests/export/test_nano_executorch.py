"""The built-in model as a program: step by step the codes of ONNX, as a whole its vectors, in the SDK its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from graph_runs import cosine, partial_folders, run_here
from magicmm import Bundle, Embedder, ErrorCode, Gallery, MagicError
from magicmm.executorch_runtime import ExecutorchSession
from magicmm_export import cli, isolated
from magicmm_export.decomposition import Norms
from magicmm_export.nano.encoder_modules import ComposedTower, TextTower
from magicmm_export.nano.layers import Layers, float_layers
from magicmm_export.nano.modules import ImageTower
from magicmm_export.nano.reader import read_image, read_text
from magicmm_export.nano.run import open_model
from magicmm_export.nano.stored import StoredImage, StoredText
from magicmm_export.planner import RUN_HERE, read_plans
from magicmm_export.scenes import sample_scene
from magicmm_quant.recipe import RECIPES

pytest.importorskip("executorch")

from magicmm_export.executorch.export import PROGRAM, ExecutorchOptions
from magicmm_export.executorch.lowering import Method, lower
from magicmm_export.executorch.nano import export_nano, nano_methods
from magicmm_export.executorch.nano_layers import quantised_layers
from magicmm_export.executorch.targets import XNNPACK

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "horse.png", "page.png", "motorcycle_left.png", "astronaut.png")
SENTENCES = {
    "a cat": "chelsea.png",
    "a cup of coffee": "coffee.png",
    "a rocket launch": "rocket.jpg",
    "the outline of a horse": "horse.png",
    "a printed page of text": "page.png",
    "a motorbike in a workshop": "motorcycle_left.png",
}
LONG = "a long sentence that needs the larger bucket, with a dog on a beach, two people and the sun behind the clouds"


@pytest.fixture(scope="module")
def onnx_embedder(student: Bundle) -> Embedder:
    return Embedder.open(student, threads=1)


@pytest.fixture(scope="module")
def image(student: Bundle) -> StoredImage:
    return read_image(student)


@pytest.fixture(scope="module")
def text(student: Bundle) -> StoredText:
    return read_text(student)


@pytest.fixture(scope="module")
def photos() -> Sequence[Path]:
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "the dev extra brings scikit-image"
    return [Path(spec.origin).parent / "data" / name for name in PHOTOS]


@pytest.fixture(scope="module")
def written(student: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model in int8, from the command line; one bucket, since each takes long to lower."""
    target = tmp_path_factory.mktemp("written") / "pocket.magicmm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        arguments = [str(student.path), str(target), "--runtime", "executorch", "--buckets", "64", "--report"]
        assert cli.main(arguments) == 0
    return target


@pytest.fixture(scope="module")
def two_layers(image: StoredImage, text: StoredText) -> tuple[StoredImage, StoredText]:
    assert image.student is not None
    student = replace(image.student, adapters=image.student.adapters[:2])
    return replace(image, student=student), replace(text, layers=text.layers[:2])


@pytest.fixture(scope="module")
def float_program(two_layers: tuple[StoredImage, StoredText], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, texts and both, through two layers of the encoder in buckets of 8 and 16, in float32."""
    path = tmp_path_factory.mktemp("float") / "model.pte"
    lower(nano_methods(*two_layers, float_layers(XNNPACK.norms), (8, 16)), XNNPACK).write(path)
    return path


@torch.inference_mode()
def photo_vectors(
    image: StoredImage, text: StoredText, layers: Layers, pixels: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    tower = ImageTower(image, TextTower(text, layers), layers).eval()
    return torch.cat([tower.vector(torch.from_numpy(views.copy())) for views in pixels]).numpy()


@torch.inference_mode()
def text_vector(text: StoredText, layers: Layers, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    given = torch.from_numpy(ids)
    vector: torch.Tensor = TextTower(text, layers).eval().bucket(ids.shape[1])(given, torch.ones_like(given))
    return vector.numpy()


@torch.inference_mode()
def test_every_step_gives_the_codes_of_onnx(
    student: Bundle, image: StoredImage, text: StoredText, onnx_embedder: Embedder
) -> None:
    """Each step reads what ONNX gave in front of it: over 64 of them, one code here and there grows."""
    model = onnx.load(str(student.path / "image.onnx"))
    names = [conv.name for conv in image.convs]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    pixels = onnx_embedder.prepare(sample_scene())
    found = dict(zip(names, open_model(model).run(names, {"pixels": pixels}), strict=True))
    signed = {name: torch.from_numpy((codes.astype(np.int16) - 128).astype(np.int8)) for name, codes in found.items()}
    views = np.concatenate([pixels, pixels[:1, :, ::-1]]).transpose(0, 3, 1, 2)
    kept = torch.from_numpy((views.astype(np.int16) - 128).astype(np.int8))
    layers = quantised_layers()
    tower = ImageTower(image, TextTower(text, layers), layers)
    for step, (name, other) in zip(tower.steps, tower.convs, strict=True):
        away = (step(kept, None if other is None else signed[other]).int() - signed[name].int()).abs()
        assert away.max() <= 1 and (away > 0).float().mean() < 1e-3, name
        kept = signed[name]


@torch.inference_mode()
def test_xnnpack_gives_the_codes_of_torch(image: StoredImage, text: StoredText, tmp_path: Path) -> None:
    """Stem, depthwise with and without stride, projection, expansion and a sum, each for itself."""
    layers = quantised_layers()
    tower = ImageTower(image, TextTower(text, layers), layers).eval()
    chosen = [0, 1, 2, 3, 4, next(place for place, conv in enumerate(image.convs) if conv.other)]
    rng = torch.Generator().manual_seed(0)
    methods: dict[str, Method] = {}
    for place in chosen:
        conv, step = image.convs[place], tower.steps[place]
        channels = conv.codes.shape[1] * conv.groups
        given = torch.randint(-128, 128, (1, channels, 16, 16), generator=rng, dtype=torch.int8)
        inputs = [given]
        if conv.other is not None:
            inputs.append(torch.randint(-128, 128, (1, len(conv.codes), 16, 16), generator=rng, dtype=torch.int8))
        methods[f"step_{place}"] = Method(_Alone(step), tuple(inputs))
    lower(methods, XNNPACK).write(tmp_path / "steps.pte")
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(tmp_path / "steps.pte")
    for name, method in methods.items():
        (found,) = program.load_method(name).execute(list(method.inputs))
        away = (found.int() - method.module(*method.inputs).int()).abs()
        assert away.max() <= 1 and (away > 0).float().mean() < 0.01, name


class _Alone(torch.nn.Module):
    """One step, with or without what is added."""

    def __init__(self, step: torch.nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, kept: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        found: torch.Tensor = self.step(kept, other)
        return found


@torch.inference_mode()
def test_float32_vectors_are_those_of_torch(
    float_program: Path,
    two_layers: tuple[StoredImage, StoredText],
    onnx_embedder: Embedder,
    photos: Sequence[Path],
) -> None:
    image, text = two_layers
    session, layers = ExecutorchSession(float_program, "image", 1), float_layers(Norms.NATIVE)
    pixels = [onnx_embedder.prepare(photo) for photo in photos[:2]]
    found = session.run({"pixels": np.concatenate(pixels)})
    assert found.shape == (2, 384)
    assert cosine(found, photo_vectors(image, text, layers, pixels)) > 0.99999
    visual = session.run({"pixels": np.concatenate(pixels)}, "visual")
    tower = TextTower(text, layers)
    wanted = [ImageTower(image, tower, layers).eval()(torch.from_numpy(views.copy()))[1] for views in pixels]
    np.testing.assert_allclose(visual, torch.cat(wanted).numpy(), atol=1e-4)
    session = ExecutorchSession(float_program, "text", 1)
    assert session.lengths == (8, 16) and session.input_names == {"ids", "mask"}
    composing = ExecutorchSession(float_program, "composed", 1)
    assert composing.lengths == (8, 16) and composing.input_names == {"visual", "ids", "mask"}
    assert image.student is not None
    encoder = ComposedTower(tower, image.student)
    for words in ("a dog", "two people on a beach at sunset"):
        ids = np.array([onnx_embedder.token_ids(words)])
        vector = session.run({"ids": ids, "mask": np.ones_like(ids)})
        assert cosine(vector, text_vector(text, layers, ids)) > 0.99999
        ids = np.array([[101, 102, *ids[0, 1:]]])
        both = encoder.bucket(ids.shape[1]).eval()
        composed = torch.cat(
            [both(torch.from_numpy(one), torch.from_numpy(ids), torch.ones(ids.shape)) for one in np.split(visual, 2)]
        ).numpy()
        given = {"visual": visual, "ids": ids.repeat(2, 0), "mask": np.ones_like(ids).repeat(2, 0)}
        assert cosine(composing.run(given), composed) > 0.99999


def test_padded_texts_of_a_batch_run_alone(float_program: Path) -> None:
    session = ExecutorchSession(float_program, "text", 1)
    short, long = [101, 7, 102], [101, *range(1000, 1008), 102]
    ids = np.array([short + [0] * (len(long) - len(short)), long])
    mask = np.array([[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)])
    together = session.run({"ids": ids, "mask": mask})
    for row, alone in zip(together, (short, long), strict=True):
        one = np.array([alone])
        assert cosine(session.run({"ids": one, "mask": np.ones_like(one)}), row[None]) > 0.999999


def test_inputs_that_do_not_fit_are_named(float_program: Path) -> None:
    text, photo = (ExecutorchSession(float_program, part, 1) for part in ("text", "image"))
    with pytest.raises(MagicError, match="17 tokens, this program takes up to 16") as caught:
        text.run({"ids": np.ones((1, 17), np.int64), "mask": np.ones((1, 17), np.int64)})
    assert caught.value.code is ErrorCode.TEXT_INVALID
    with pytest.raises(MagicError, match=r"input 0 is \[1, 256, 256, 3\], not \[2, 256, 256, 3\]") as caught:
        photo.run({"pixels": np.zeros((3, 256, 256, 3), np.uint8)})
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    with pytest.raises(MagicError, match="no method for vision: it has composed_16, composed_8, image, text"):
        ExecutorchSession(float_program, "vision", 1)


def test_the_bundle_verifies_and_says_where_it_comes_from(written: Path, student: Bundle) -> None:
    bundle, source = Bundle.load(written), student
    assert bundle.manifest.graphs == {"executorch": dict.fromkeys(("image", "text", "composed"), PROGRAM)}
    assert bundle.verify(1, "executorch").passes
    assert bundle.fingerprint != source.fingerprint, "vectors differ, so no index serves both"
    assert bundle.manifest.id == "pocket" and bundle.manifest.text.max_tokens == 64
    assert bundle.manifest.roles == source.manifest.roles
    assert bundle.manifest.composed_text_weight == source.manifest.composed_text_weight == 1.1
    assert set(bundle.manifest.raw["quantisation"]) == {"image", "text", "composed"}
    assert bundle.manifest.files["tokenizer.json"] == source.manifest.files["tokenizer.json"]
    assert bundle.manifest.raw["source"]["weights"] == source.manifest.weights
    assert bundle.total_bytes < 1.1 * source.total_bytes, "weights stay in 8 bits, words too"
    assert json.loads(written.with_name("pocket.report.json").read_text()) == bundle.manifest.raw["quality"]
    assert not partial_folders(written.parent)


def test_int8_texts_are_those_of_torch_and_close_to_onnx(
    written: Path, text: StoredText, onnx_embedder: Embedder
) -> None:
    embedder = Embedder.open(written, 1, "executorch")
    for words in ("a dog", "two people walking along the beach at sunset", LONG):
        found = embedder.embed_text(words)[None]
        ids = np.array([onnx_embedder.token_ids(words)])
        assert cosine(found, text_vector(text, quantised_layers(), ids)) > 0.999
        assert cosine(found, onnx_embedder.embed_text(words)[None]) > 0.998
    with pytest.raises(MagicError, match="the model reads 62") as caught:
        embedder.embed_text("word " * 80)
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_int8_photos_are_close_to_torch_and_to_onnx(
    written: Path, image: StoredImage, text: StoredText, onnx_embedder: Embedder, photos: Sequence[Path]
) -> None:
    """A bound that rounding alone explains: torch and onnxruntime differ from each other as much."""
    found = Embedder.open(written, 1, "executorch").embed_images(photos)
    in_torch = photo_vectors(image, text, quantised_layers(), [onnx_embedder.prepare(photo) for photo in photos[:4]])
    for wanted in (in_torch, onnx_embedder.embed_images(photos)):
        cosines = np.einsum("nd,nd->n", found[: len(wanted)], wanted)
        assert cosines.mean() > 0.995 and cosines.min() > 0.98


def test_composed_queries_are_close_to_onnx(written: Path, onnx_embedder: Embedder, photos: Sequence[Path]) -> None:
    found = Embedder.open(written, 1, "executorch").embed_query("at night", photos[0])
    assert cosine(found[None], onnx_embedder.embed_query("at night", photos[0])[None]) > 0.998


def test_galleries_find_the_same_photos(
    written: Path, onnx_embedder: Embedder, photos: Sequence[Path], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for photo in photos:
        (tmp_path / "photos" / photo.name).write_bytes(photo.read_bytes())
    found = []
    for name, embedder in (("one", Embedder.open(written, 1, "executorch")), ("other", onnx_embedder)):
        with Gallery.open(tmp_path / f"{name}.db", embedder, [tmp_path / "photos"]) as gallery:
            list(gallery.sync())
            hits = [gallery.search(sentence, k=1).matches[0] for sentence in SENTENCES]
            found.append([Path(hit.uri).name for hit in hits])
    assert found[0] == found[1] == list(SENTENCES.values())


def test_xnnpack_takes_all_but_a_few_small_nodes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plan,) = read_plans(Bundle.load(written))
    assert (plan.runtime, plan.target, plan.status) == ("executorch", "xnnpack", RUN_HERE)
    assert [(part.name, part.pieces) for part in plan.parts] == [("image", 3), ("text_64", 1), ("composed_64", 2)]
    outside = [{one.operator for one in part.outside} for part in plan.parts]
    pixels = {"slice_copy", "index_select", "_to_dim_order_copy"}
    colours = {"select_copy", "mul", "add", "view_copy", "embedding_byte", "mean"}
    assert outside[0] == pixels | colours | {"topk", "pow", "unsqueeze_copy"}
    assert outside[1] == outside[2] == {"embedding_byte", "_to_dim_order_copy", "unsqueeze_copy"}
    assert plan.outside_share < 0.001
    assert cli.main(["inspect", str(written), "--max-outside", "0.001"]) == 0
    assert "executorch for xnnpack: run here." in capsys.readouterr().out
    assert cli.main(["inspect", str(written), "--max-outside", "0"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "is a bundle already"),
        (["--runtime", "openvino"], "is a bundle already"),
        (["--runtime", "executorch", "--recipe", "int4"], "with the recipe int4"),
        (["--runtime", "executorch", "--recipe", "mine.json"], "with the recipe mine.json"),
        (["--runtime", "executorch", "--also", "vulkan"], "--also means nothing"),
        (["--runtime", "executorch", "--image-size", "224"], "--image-size means nothing"),
        (["--runtime", "executorch", "--buckets", "512"], "Buckets of 512 tokens"),
    ],
)
def test_what_means_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main([str(Bundle.default().path), str(tmp_path / "x.magicmm"), *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_bundles_are_refused(dual_path: Path, vlm_path: Path, tmp_path: Path) -> None:
    for path in (dual_path, vlm_path):
        with pytest.raises(MagicError, match="no int8 bundle of the built-in model's builder") as caught:
            export_nano(Bundle.load(path), tmp_path / "x.magicmm", ExecutorchOptions(RECIPES["int8"]))
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID
        assert not list(tmp_path.iterdir())
