"""Entries as batches, and the embedder of entries, against the reference embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import loop_runs
from loop_runs import photo
from magicmm.errors import ErrorCode, MagicError
from magicmm_model.embedder import Item, TorchEmbedder
from magicmm_model.templates import Side
from magicmm_training.entries import Entry
from magicmm_training.loop.collate import EntryReader, collate
from magicmm_training.loop.embedding import TorchEntryEmbedder
from one_thread import one_thread as one_thread


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def reference(base: Path) -> TorchEmbedder:
    return TorchEmbedder.open(base, **loop_runs.FAST)


@pytest.fixture(scope="module")
def embedder(base: Path) -> TorchEntryEmbedder:
    return TorchEntryEmbedder.open(base, batch=3, **loop_runs.FAST)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """All kinds, of very different lengths: texts, pictures as bytes and as a file, both, and a page of tiles."""
    path = tmp_path_factory.mktemp("photos") / "a.png"
    path.write_bytes(photo(7))
    page = np.random.default_rng(1).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    found = [
        Entry("a dog", None, "Find me an image.", Side.QUERY),
        Entry("a printed page of text " * 8, None, "Represent the given text.", Side.CANDIDATE),
        Entry(None, path, "Represent the given image.", Side.CANDIDATE),
        Entry("at sunset", photo(8), "Find a similar image.", Side.QUERY),
        Entry(None, loop_runs.png(page), "Represent the given visual documents.", Side.CANDIDATE, max_tiles=4),
        Entry("书生", None, "Represent the given text.", Side.CANDIDATE),
    ]
    return found + [Entry(f"dog number {n}", None, "Find me an image.", Side.QUERY) for n in range(50)]


def test_vectors_are_those_of_the_reference_embedder_in_order(
    embedder: TorchEntryEmbedder, reference: TorchEmbedder, entries: list[Entry]
) -> None:
    found = embedder.embed(entries)
    assert found.dtype == np.float32 and found.shape == (len(entries), 48)
    for vector, entry in zip(found, entries, strict=True):
        alone = reference.embed([Item(entry.text, entry.image)], entry.role)[0].vector.numpy()
        assert np.abs(vector - alone).max() <= 1e-6


def test_vectors_do_not_depend_on_the_batch(base: Path, embedder: TorchEntryEmbedder, entries: list[Entry]) -> None:
    large = TorchEntryEmbedder.open(base, batch=64, **loop_runs.FAST)
    assert np.abs(embedder.embed(entries) - large.embed(entries)).max() <= 1e-6
    assert np.abs(embedder.embed(entries[3:5]) - large.embed(entries)[3:5]).max() <= 1e-6


def test_no_entries_are_no_vectors(embedder: TorchEntryEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 48)


def test_bfloat16_is_close_and_has_another_fingerprint(base: Path, embedder: TorchEntryEmbedder) -> None:
    entries = [Entry(f"dog {n}", None, "Find.", Side.QUERY) for n in range(4)]
    rounded = TorchEntryEmbedder.open(base, dtype=torch.bfloat16, **loop_runs.FAST)
    cosines = (rounded.embed(entries) * embedder.embed(entries)).sum(1)
    assert cosines.min() > 0.98
    assert rounded.fingerprint != embedder.fingerprint
    assert TorchEntryEmbedder.open(base, **loop_runs.FAST).fingerprint == embedder.fingerprint
    assert TorchEntryEmbedder.open(base).fingerprint != embedder.fingerprint, "another size of tiles"


def test_a_model_in_training_embeds_without_dropout_and_goes_on_training(base: Path) -> None:
    model = loop_runs.load(base).train()
    embedder = TorchEntryEmbedder(model, loop_runs.tokenizer_of(base), name="mine")
    embedder.embed([Entry("a dog", None, "Find.", Side.QUERY)])
    assert model.training and embedder.name == "mine"


def test_a_broken_picture_is_named(embedder: TorchEntryEmbedder, tmp_path: Path) -> None:
    path = tmp_path / "torn.png"
    path.write_bytes(photo(1)[:100])
    for image in (path, tmp_path / "missing.png"):
        with pytest.raises(MagicError) as caught:
            embedder.embed([Entry(None, image, "Represent.", Side.CANDIDATE)])
        assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_a_vector_that_is_not_finite_is_refused(base: Path) -> None:
    model = loop_runs.load(base)
    model.language.norm.weight[0] = torch.nan
    embedder = TorchEntryEmbedder(model, loop_runs.tokenizer_of(base))
    with pytest.raises(MagicError, match="entry 0 of 1") as caught:
        embedder.embed([Entry("a dog", None, "Find.", Side.QUERY)])
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_a_batch_is_padded_on_the_right_with_all_tiles_in_order(base: Path, entries: list[Entry]) -> None:
    reader = EntryReader(loop_runs.load(base).config, loop_runs.tokenizer_of(base))
    read = [reader.read(entry) for entry in entries[:5]]
    batch = collate(read, fill=9)
    assert batch["ids"].shape == (5, max(len(one.ids) for one in read))
    for row, one, last in zip(batch["ids"], read, batch["last"], strict=True):
        assert tuple(row[: len(one.ids)].tolist()) == one.ids
        assert (row[len(one.ids) :] == 9).all()
        assert last == len(one.ids) - 1
    tiles = [one.tiles for one in read if one.tiles is not None]
    assert [len(part) for part in tiles] == [1, 1, 5]
    assert batch["pixels"] is not None and torch.equal(batch["pixels"], torch.cat(tiles))
    assert collate(read[:2], fill=9)["pixels"] is None


def test_reading_keeps_the_content_id_and_cuts_to_the_longest_prompt(base: Path, entries: list[Entry]) -> None:
    reader = EntryReader(loop_runs.load(base).config, loop_runs.tokenizer_of(base), max_tokens=300)
    assert [reader.read(entry).content for entry in entries[:4]] == [entry.content_id() for entry in entries[:4]]
    long = reader.read(Entry("sunset " * 300, None, "Find.", Side.QUERY))
    assert long.truncated and len(long.ids) == 300
    assert not reader.read(entries[0]).truncated
