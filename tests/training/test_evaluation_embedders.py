"""Bundles, checkpoints and foreign models as `EntryEmbedder`s; what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from exported_bundles import tiny_bundle, tiny_checkpoint
from magicmm import Embedder
from magicmm.errors import ErrorCode, MagicError
from magicmm.quantise import quantise
from magicmm_model import TorchEmbedder
from magicmm_model.embedder import Item
from magicmm_model.templates import ROLES, Role, Side
from magicmm_training.entries import Entry
from magicmm_training.evaluation.bundle_embedder import BundleEntryEmbedder, role_for
from magicmm_training.evaluation.embedders import TorchEvaluationEmbedder, open_embedder
from magicmm_training.evaluation.evaluate import KnowsTruncation, TakesNotes, evaluate
from magicmm_training.evaluation.sentence_embedder import SentenceEntryEmbedder
from magicmm_training.loop.collate import EntryReader
from magicmm_training.recipe import Benchmark
from tiny_bundles import COLOURS, DIM, SIDE

Encoded = Callable[..., bytes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny").folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from magicmm_model.checkpoint import Checkpoint

    return tiny_bundle(Checkpoint.open(checkpoint), tmp_path_factory.mktemp("bundle") / "tiny.magicmm", "float32")


def entry(role: Role, text: str | None = None, image: bytes | None = None) -> Entry:
    return Entry(text, image, role.instruction, role.side, role.max_tiles)


def colour(encoded: Encoded, name: str, side: int = SIDE) -> bytes:
    return encoded(Image.new("RGB", (side, side), COLOURS[name]))


def of_role(name: str, encoded: Encoded) -> Entry:
    """Return an entry that is exactly what a role of the model was made for."""
    role = ROLES[name]
    text = None if role.reads.value == "image" else "a red dog"
    return entry(role, text, None if role.reads.value == "text" else colour(encoded, "red", 40))


def test_entries_under_an_instruction_of_the_bundle_go_to_its_role(exported: Path, encoded: Encoded) -> None:
    embedder = BundleEntryEmbedder(exported, threads=1)
    for name in ROLES:
        asked = of_role(name, encoded)
        assert embedder.role(asked) == name
        embedder.note(asked)
    assert embedder.notes() == ()


def test_a_float32_bundle_gives_the_vectors_of_the_checkpoint(
    exported: Path, checkpoint: Path, encoded: Encoded
) -> None:
    bundle, trained = BundleEntryEmbedder(exported, threads=1), open_embedder(checkpoint)
    reference = TorchEmbedder.open(checkpoint, dtype=torch.float32)
    for name, role in ROLES.items():
        asked = of_role(name, encoded)
        expected = reference.embed([Item(asked.text, asked.image)], role)[0].vector.numpy()
        assert bundle.embed([asked])[0] @ expected == pytest.approx(1, abs=2e-3)
        assert trained.embed([asked])[0] == pytest.approx(expected, abs=1e-5)


def test_other_instructions_are_noted_with_what_was_read_instead(exported: Path) -> None:
    embedder = BundleEntryEmbedder(exported, threads=1)
    other = Entry("a dog", None, "Find me a dog.", Side.QUERY)
    for _ in range(3):
        embedder.note(other)
    assert embedder.notes() == (f"entries under 'Find me a dog.': 3 read as 'query' ({ROLES['query'].instruction!r})",)


def test_notes_and_vectors_of_an_evaluation(vlm_path: Path, tmp_path: Path, encoded: Encoded) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in COLOURS:
        (folder / f"{name}.png").write_bytes(colour(encoded, name))
        (folder / f"{name}.txt").write_text(name)
    benchmark = Benchmark(name="colours", format="pairs", path="data")
    kept = tmp_path / "kept"
    result = evaluate(BundleEntryEmbedder(vlm_path, threads=1), [benchmark], tmp_path, vectors=kept)
    assert len(result.tasks) == 2
    assert [task.truncated for task in result.tasks] == [0, 0]
    assert len(result.notes) == 4
    # Said again when no vector is made anew.
    again = evaluate(BundleEntryEmbedder(vlm_path, threads=1), [benchmark], tmp_path, vectors=kept)
    assert (again.embedded, again.notes) == (0, result.notes)


def test_a_dual_encoder_finds_colours_and_says_that_it_has_no_instructions(
    dual_path: Path, tmp_path: Path, encoded: Encoded
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in COLOURS:
        (folder / f"{name}.png").write_bytes(colour(encoded, name))
        (folder / f"{name}.txt").write_text(name)
    result = evaluate(
        BundleEntryEmbedder(dual_path, threads=1), [Benchmark(name="c", format="pairs", path="data")], tmp_path
    )
    assert [task.values["hit@1"].score for task in result.tasks] == [1, 1]
    assert all("no instruction" in note for note in result.notes)


def test_vectors_are_those_of_the_sdk(bundle_path: Path, encoded: Encoded) -> None:
    ours, sdk = BundleEntryEmbedder(bundle_path, threads=1), Embedder.open(bundle_path, threads=1)
    red, blue = colour(encoded, "red"), colour(encoded, "blue")
    entries = [
        Entry("red dog", None, "a", Side.QUERY),
        Entry(None, red, "b", Side.CANDIDATE),
        Entry("blue", red, "c", Side.QUERY),
        Entry(None, blue, "b", Side.CANDIDATE),
    ]
    expected = [sdk.embed_text("red dog"), sdk.embed_image(red), sdk.embed_query("blue", red), sdk.embed_image(blue)]
    assert ours.embed(entries) == pytest.approx(np.stack(expected), abs=1e-6)
    assert ours.embed([]).shape == (0, DIM)
    assert (ours.dim, ours.fingerprint) == (DIM, f"{sdk.fingerprint}-onnx")


def test_vectors_as_the_index_stores_them(dual_path: Path, encoded: Encoded) -> None:
    entries = [Entry(None, colour(encoded, name), "b", Side.CANDIDATE) for name in COLOURS]
    plain = BundleEntryEmbedder(dual_path, threads=1)
    stored = BundleEntryEmbedder(dual_path, threads=1, stored=True)
    codes, scales = quantise(plain.embed(entries))
    assert stored.embed(entries) == pytest.approx(codes * scales[:, None], abs=1e-7)
    assert stored.fingerprint != plain.fingerprint
    assert "int8" in stored.name


def test_roles_by_what_there_is() -> None:
    everything = dict.fromkeys(ROLES)
    few = dict.fromkeys(["photo", "query"])
    from magicmm_model.templates import Reads

    assert role_for(Side.CANDIDATE, Reads.TEXT, False, everything) == "caption"
    assert role_for(Side.CANDIDATE, Reads.TEXT, False, few) == "query"
    assert role_for(Side.CANDIDATE, Reads.IMAGE, True, everything) == "document"
    assert role_for(Side.CANDIDATE, Reads.IMAGE, True, few) == "photo"
    assert role_for(Side.QUERY, Reads.IMAGE_AND_TEXT, False, few) == "photo"
    assert role_for(Side.QUERY, Reads.TEXT, True, everything) == "document_query"


@pytest.mark.parametrize("words", [1, 20, 28, 29, 30, 31, 40])
def test_bundles_say_which_texts_they_cut(bundle_path: Path, words: int) -> None:
    embedder = BundleEntryEmbedder(bundle_path, threads=1)
    text = " ".join(["dog"] * words)
    try:
        Embedder.open(bundle_path, threads=1).embed_text(text)
        cut = False
    except MagicError as error:
        assert error.code is ErrorCode.TEXT_INVALID
        cut = True
    assert embedder.truncates(Entry(text, None, "a", Side.QUERY)) == cut
    assert embedder.embed([Entry(text, None, "a", Side.QUERY)]).shape == (1, DIM)


@pytest.mark.parametrize("words", [1, 18, 19, 20, 21, 22, 23, 24, 25, 26, 40])
def test_bundles_say_which_composed_texts_they_cut(vlm_path: Path, words: int, encoded: Encoded) -> None:
    embedder = BundleEntryEmbedder(vlm_path, threads=1)
    text, image = " ".join(["dog"] * words), colour(encoded, "red")
    try:
        Embedder.open(vlm_path, threads=1).embed_query(text, image)
        cut = False
    except MagicError as error:
        assert error.code is ErrorCode.TEXT_INVALID
        cut = True
    assert embedder.truncates(Entry(text, image, "a", Side.QUERY)) == cut
    assert not embedder.truncates(Entry(None, image, "a", Side.QUERY))


@pytest.mark.parametrize("max_tiles", [1, 4])
def test_checkpoints_say_which_texts_they_cut(checkpoint: Path, max_tiles: int, encoded: Encoded) -> None:
    embedder = open_embedder(checkpoint)
    assert isinstance(embedder, TorchEvaluationEmbedder)
    assert isinstance(embedder, KnowsTruncation)
    wide = encoded(Image.new("RGB", (90, 30), (10, 200, 30)))
    reader = EntryReader(embedder.model.config, embedder.tokenizer)
    seen = set()
    for words in (1, 30, 400, 4000):
        for image in (None, wide):
            asked = Entry(" ".join(["dog"] * words), image, "Find it.", Side.QUERY, max_tiles)
            cut = reader.read(asked).truncated
            assert embedder.truncates(asked) == cut
            seen.add(cut)
    assert seen == {False, True}
    assert not embedder.truncates(Entry(None, wide, "Find it.", Side.CANDIDATE))


def test_broken_pictures_are_image_errors(bundle_path: Path, checkpoint: Path) -> None:
    for embedder in (BundleEntryEmbedder(bundle_path, threads=1), open_embedder(checkpoint)):
        with pytest.raises(MagicError) as caught:
            embedder.embed([Entry(None, b"no picture", "a", Side.CANDIDATE)])
        assert caught.value.code is ErrorCode.IMAGE_INVALID


# Foreign models


@pytest.fixture(scope="module")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of a dozen words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from tiny_bundles import tokenizer_json, word_vectors

    folder = tmp_path_factory.mktemp("static") / "words"
    module = StaticEmbedding(Tokenizer.from_str(tokenizer_json()), embedding_weights=word_vectors())
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def test_a_sentence_transformers_folder(static_model: Path) -> None:
    embedder = open_embedder(static_model)
    assert isinstance(embedder, SentenceEntryEmbedder)
    assert (embedder.dim, embedder.name) == (DIM, "words")
    vectors = embedder.embed([Entry(text, None, "a", Side.QUERY) for text in ("red", "red dog", "blue")])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert vectors[0] @ vectors[1] > 0.9 > vectors[0] @ vectors[2]
    assert embedder.notes() == ("texts were given without the benchmark's instructions",)
    assert isinstance(embedder, TakesNotes)
    assert not isinstance(embedder, KnowsTruncation)


def test_a_template_puts_the_instruction_before_the_text(static_model: Path) -> None:
    embedder = SentenceEntryEmbedder.open(static_model, "{instruction} {text}")
    plain = SentenceEntryEmbedder.open(static_model)
    asked = embedder.embed([Entry("dog", None, "red", Side.QUERY)])
    assert asked == pytest.approx(plain.embed([Entry("red dog", None, "", Side.QUERY)]), abs=1e-6)
    assert embedder.notes() == ()
    assert embedder.fingerprint != plain.fingerprint
    with pytest.raises(MagicError, match="lacks"):
        SentenceEntryEmbedder.open(static_model, "{instruction}")


def test_pictures_for_a_model_of_texts_are_refused(static_model: Path, encoded: Encoded) -> None:
    with pytest.raises(MagicError, match="words cannot read image") as caught:
        open_embedder(static_model).embed([Entry(None, colour(encoded, "red"), "a", Side.CANDIDATE)])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        open_embedder(tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    with pytest.raises(MagicError, match="holds no model"):
        SentenceEntryEmbedder.open(tmp_path / "nowhere")
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(MagicError, match="cannot be loaded by sentence-transformers"):
        open_embedder(tmp_path)
    with pytest.raises(MagicError, match="is no bundle"):
        open_embedder(tmp_path, stored=True)


def test_what_lies_at_a_path_decides(dual_path: Path, static_model: Path, checkpoint: Path) -> None:
    kinds: list[Any] = [type(open_embedder(path)) for path in (dual_path, static_model, checkpoint)]
    assert kinds == [BundleEntryEmbedder, SentenceEntryEmbedder, TorchEvaluationEmbedder]
    assert "int8" in open_embedder(dual_path, stored=True).name
