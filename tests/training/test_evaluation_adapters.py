"""A tiny bundle inside sentence-transformers and mteb, without network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset  # type: ignore[import-untyped]
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.mocks.mock_tasks.retrieval import general_args
from mteb.models.models_protocols import EncoderProtocol
from PIL import Image
from sentence_transformers import SentenceTransformer

from magicmm import Embedder
from magicmm.errors import ErrorCode, MagicError
from magicmm.quantise import quantise
from magicmm_model.templates import Side
from magicmm_training.entries import Entry
from magicmm_training.evaluation.adapters import FOLDER, MtebBundle, sentence_transformer
from magicmm_training.evaluation.bundle_embedder import BundleEntryEmbedder
from magicmm_training.evaluation.evaluate import evaluate
from magicmm_training.evaluation.sentence_embedder import SentenceEntryEmbedder
from magicmm_training.recipe import Benchmark
from tiny_bundles import COLOURS, DIM, SIDE

PHOTOS = {name: Image.new("RGB", (SIDE, SIDE), rgb) for name, rgb in COLOURS.items()}


SETTINGS: dict[str, Any] = {**general_args, "modalities": ["image", "text"], "category": "t2i"}


class Colours(AbsTaskRetrieval):
    """Words find pictures of their colour; "green" and "a photo" are right about two."""

    metadata = TaskMetadata(
        type="Any2AnyRetrieval",
        name="Colours",
        main_score="ndcg_at_5",
        **SETTINGS,
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        labels = {name: {name: 1} for name in COLOURS}
        labels["red photo of a dog"] = {"red": 2, "yellow": 1}
        self.dataset = {
            "default": {
                "test": {
                    "queries": Dataset.from_dict({"id": list(labels), "text": list(labels)}),
                    "corpus": Dataset.from_dict({"id": list(PHOTOS), "image": list(PHOTOS.values())}),
                    "relevant_docs": labels,
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


def write_colours(root: Path, encoded: Callable[..., bytes]) -> Benchmark:
    """Write the same task for our own evaluation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    task = Colours()
    task.load_data()
    split = task.dataset["default"]["test"]
    tables = {
        "queries": [{"query-id": name, "query": name} for name in split["queries"]["id"]],
        "corpus": [
            {"corpus-id": name, "image": {"bytes": encoded(photo), "path": None}} for name, photo in PHOTOS.items()
        ],
        "qrels": [
            {"query-id": query, "corpus-id": page, "score": gain}
            for query, labels in split["relevant_docs"].items()
            for page, gain in labels.items()
        ],
    }
    for name, rows in tables.items():
        (root / "colours" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), root / "colours" / name / "test.parquet")
    return Benchmark(name="colours", format="vidore", path="colours")


def test_mteb_scores_a_bundle_as_we_do(bundle_path: Path, tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    model = MtebBundle(bundle_path, threads=1)
    assert isinstance(model, EncoderProtocol)
    result = mteb.evaluate(
        model, Colours(), cache=None, encode_kwargs={"batch_size": 4}, show_progress_bar=False, co2_tracker=False
    )
    theirs = result.task_results[0].scores["test"][0]
    ours = evaluate(BundleEntryEmbedder(bundle_path, threads=1), [write_colours(tmp_path, encoded)], tmp_path).tasks[0]
    assert ours.tied == 0
    assert ours.values["ndcg@5"].score == pytest.approx(theirs["ndcg_at_5"], abs=1e-4)
    assert ours.values["ndcg@10"].score == pytest.approx(theirs["ndcg_at_10"], abs=1e-4)
    assert ours.values["recall@5"].score == pytest.approx(theirs["recall_at_5"], abs=1e-4)
    assert ours.values["hit@1"].score == pytest.approx(theirs["hit_rate_at_1"], abs=1e-4)


def test_what_mteb_is_told_of_a_bundle(dual_path: Path) -> None:
    meta = MtebBundle(dual_path, threads=1).mteb_model_meta
    assert meta is not None
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("magicmm/tiny-dual", DIM, 32)
    assert set(meta.modalities) == {"text", "image"}
    stored = MtebBundle(dual_path, threads=1, stored=True).mteb_model_meta
    assert stored is not None
    assert stored.revision == f"{meta.revision}-int8"


def test_batches_of_mteb(vlm_path: Path) -> None:
    model, sdk = MtebBundle(vlm_path, threads=1), Embedder.open(vlm_path, threads=1)
    task = Colours.metadata
    document = task.model_copy(update={"type": "DocumentUnderstanding"})
    kinds = mteb.types.PromptType
    red = PHOTOS["red"]
    both = model.encode([{"text": ["blue", ""], "image": [red, red]}], task_metadata=task, prompt_type=kinds.query)
    assert both[0] == pytest.approx(sdk.embed_query("blue", red), abs=1e-6)
    assert both[1] == pytest.approx(sdk.embed_image(red), abs=1e-6)
    page = Image.new("RGB", (4 * SIDE, SIDE), COLOURS["red"])
    page.paste(COLOURS["blue"], (0, 0, SIDE, SIDE))
    pages = model.encode([{"image": [page]}, {"image": [red]}], task_metadata=document, prompt_type=kinds.document)
    assert pages == pytest.approx(sdk.embed_images([page, red], "document"), abs=1e-6)
    assert pages[0] != pytest.approx(sdk.embed_image(page), abs=1e-3)  # of one tile
    assert model.encode([], task_metadata=task).shape == (0, DIM)
    with pytest.raises(MagicError, match="a batch of audio"):
        model.encode([{"audio": [1]}], task_metadata=task)


def test_stored_vectors_reach_mteb(dual_path: Path) -> None:
    texts = [{"text": list(COLOURS)}]
    plain = MtebBundle(dual_path, threads=1).encode(texts, task_metadata=Colours.metadata)
    codes, scales = quantise(plain)
    stored = MtebBundle(dual_path, threads=1, stored=True).encode(texts, task_metadata=Colours.metadata)
    assert stored == pytest.approx(codes * scales[:, None], abs=1e-7)


def test_sentence_transformers_encodes_texts_pictures_and_both(bundle_path: Path) -> None:
    model, sdk = sentence_transformer(bundle_path, threads=1), Embedder.open(bundle_path, threads=1)
    texts = ["red", "a blue dog", "green photo of a dog"]
    assert model.encode(texts, batch_size=2) == pytest.approx(
        np.stack([sdk.embed_text(text) for text in texts]), abs=1e-6
    )
    assert model.encode(list(PHOTOS.values())) == pytest.approx(sdk.embed_images(list(PHOTOS.values())), abs=1e-6)
    composed = model.encode([{"text": "blue", "image": PHOTOS["red"]}])
    assert composed[0] == pytest.approx(sdk.embed_query("blue", PHOTOS["red"]), abs=1e-6)
    assert model.get_embedding_dimension() == DIM
    assert model.max_seq_length == 32
    assert model.supports("image")


def test_words_find_their_colour_through_sentence_transformers(dual_path: Path) -> None:
    model = sentence_transformer(dual_path, threads=1)
    scores = model.similarity(model.encode_query(list(COLOURS)), model.encode_document(list(PHOTOS.values())))
    assert scores.argmax(dim=1).tolist() == list(range(len(COLOURS)))


def test_a_saved_model_is_a_folder_that_needs_nothing_else(vlm_path: Path, tmp_path: Path) -> None:
    model = sentence_transformer(vlm_path, threads=1)
    folder = tmp_path / "model"
    model.save(str(folder), create_model_card=False)
    model.save(str(folder), create_model_card=False)
    assert (folder / FOLDER / "manifest.json").read_bytes() == (vlm_path / "manifest.json").read_bytes()
    again = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert again.encode("a red dog") == pytest.approx(model.encode("a red dog"), abs=0)


def test_our_own_evaluation_reads_such_a_folder(dual_path: Path, tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    sentence_transformer(dual_path, threads=1).save(str(tmp_path / "model"), create_model_card=False)
    red = encoded(PHOTOS["red"])
    entries = [
        Entry("red dog", None, "a", Side.QUERY),
        Entry(None, red, "b", Side.CANDIDATE),
        Entry("blue", red, "c", Side.QUERY),
    ]
    foreign = SentenceEntryEmbedder.open(tmp_path / "model").embed(entries)
    assert foreign == pytest.approx(BundleEntryEmbedder(dual_path, threads=1).embed(entries), abs=1e-6)


def test_prompts_are_refused_rather_than_ignored(dual_path: Path) -> None:
    model = sentence_transformer(dual_path, threads=1)
    with pytest.raises(MagicError, match="'query: ' cannot be put before") as caught:
        model.encode("red", prompt="query: ")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("value", [{"text": "a", "audio": [1]}, {}])
def test_other_inputs_are_refused(dual_path: Path, value: dict[str, Any]) -> None:
    model = sentence_transformer(dual_path, threads=1)
    with pytest.raises((MagicError, ValueError)):
        model.encode([value])
