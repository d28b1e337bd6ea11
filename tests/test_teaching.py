"""Teaching: all of it is stored or nothing, examples add up, and a change of the model renews or retires them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gallery_fixtures import (
    CountingEmbedder,
    MemorySource,
    assert_index_is_sound,
    bundle,
    counting,
    make_photo,
    photo_bytes,
    rebuilt,
    rows_of,
    synced,
)
from magicmm.concept_rows import ConceptRows
from magicmm.concepts import Concept
from magicmm.doctor import examine
from magicmm.errors import ErrorCode, MagicError, PhotoSkipped
from magicmm.gallery import Gallery
from magicmm.index import Index
from magicmm.locking import writer_lock
from magicmm.sources import folder_uri, path_uri
from magicmm.teaching import restore_concepts


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    for number, colour in enumerate(("red", "green", "blue")):
        make_photo(tmp_path / "photos" / f"{colour}.png", number, colour)
    with Gallery.open(tmp_path / "index.db", counting(), [tmp_path / "photos"]) as gallery:
        synced(gallery)
        yield gallery


def photo(gallery: Gallery, name: str) -> Path:
    return gallery.index_path.parent / "photos" / f"{name}.png"


def model_of(gallery: Gallery) -> CountingEmbedder:
    assert isinstance(gallery.embedder, CountingEmbedder)
    return gallery.embedder


def code_of(call: object, *arguments: object) -> ErrorCode:
    with pytest.raises(MagicError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.remedy or isinstance(caught.value, PhotoSkipped)
    return caught.value.code


def stored(gallery: Gallery) -> list[object]:
    if not rows_of(gallery.index_path, "SELECT 1 FROM sqlite_master WHERE name = 'concept'"):
        return []
    return rows_of(gallery.index_path, "SELECT * FROM concept LEFT JOIN example ON concept_id = id")


def test_nothing_was_taught_to_a_new_index(gallery: Gallery) -> None:
    assert gallery.taught() == []
    assert stored(gallery) == []


def test_a_concept_remembers_what_it_was_taught(gallery: Gallery) -> None:
    paths = [photo(gallery, "red"), photo(gallery, "green")]
    taught = gallery.teach("  our  Dog ", paths, noun="a dog")
    assert taught == Concept("our Dog", "a dog", 2, 0, tuple(path_uri(path) for path in paths))
    assert gallery.taught() == [taught]
    with Gallery.open(gallery.index_path, counting()) as again:
        assert again.taught() == [taught]


def test_indexed_photos_need_no_model_and_others_do(gallery: Gallery, tmp_path: Path) -> None:
    photo_id = gallery.photo_id(path_uri(photo(gallery, "blue")))
    assert photo_id is not None
    before = model_of(gallery).count
    gallery.teach("Momo", [photo(gallery, "red"), path_uri(photo(gallery, "green")), photo_id])
    assert model_of(gallery).count == before
    elsewhere = make_photo(tmp_path / "elsewhere.png", 9)
    taught = gallery.teach("Momo", [str(elsewhere), photo_bytes(10)])
    assert model_of(gallery).count == before + 2
    assert (taught.examples, len(taught.uris)) == (5, 4)  # bytes have no place


def test_examples_hold_the_vectors_that_the_index_would(gallery: Gallery, tmp_path: Path) -> None:
    elsewhere = make_photo(tmp_path / "elsewhere.png", 9)
    gallery.teach("Momo", [elsewhere, photo(gallery, "red")])
    (gallery.index_path.parent / "photos" / "elsewhere.png").write_bytes(elsewhere.read_bytes())
    synced(gallery)
    query = (
        "SELECT example.codes, vector.codes, example.scale, vector.scale FROM example JOIN photo USING (hash)"
        " JOIN vector ON photo_id = photo.id"
    )
    pairs = rows_of(gallery.index_path, query)
    assert len(pairs) == 2
    assert all((row[0], row[2]) == (row[1], row[3]) for row in pairs)


def test_teaching_again_adds_and_replace_begins_anew(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")], noun="a dog")
    taught = gallery.teach("MOMO", [photo(gallery, "green"), photo(gallery, "red")])
    assert (taught.name, taught.noun, taught.examples) == ("MOMO", "a dog", 2)
    assert gallery.teach("Momo", [photo(gallery, "red")], noun="a photo").noun == "a photo"
    taught = gallery.teach("Mómo", [photo(gallery, "blue")], replace=True)
    assert taught == Concept("Mómo", None, 1, 0, (path_uri(photo(gallery, "blue")),))
    assert len(gallery.taught()) == 1


def test_one_bad_photo_or_noun_and_nothing_is_taught(gallery: Gallery, tmp_path: Path) -> None:
    good, missing, text = photo(gallery, "red"), tmp_path / "missing.png", tmp_path / "text.png"
    text.write_text("no photo")
    for bad in (missing, text, b"", b"no photo"):
        assert code_of(gallery.teach, "Momo", [good, bad]) is ErrorCode.IMAGE_INVALID
    for bad_id in (999, -1, "phone://camera/1"):
        assert code_of(gallery.teach, "Momo", [good, bad_id]) is ErrorCode.ARGUMENT_INVALID
    assert code_of(gallery.teach, "Momo", []) is ErrorCode.ARGUMENT_INVALID
    assert code_of(gallery.teach, "the", [good]) is ErrorCode.ARGUMENT_INVALID
    assert code_of(gallery.teach, "Momo", [good], " ") is ErrorCode.TEXT_INVALID
    assert stored(gallery) == []


def test_a_write_that_fails_on_the_way_leaves_what_was(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.teach("Momo", [photo(gallery, "red")], noun="a dog")
    before = stored(gallery)
    put = ConceptRows.put_example

    def fail_at_green(rows: ConceptRows, concept: object, example: object) -> None:
        put(rows, concept, example)  # type: ignore[arg-type]
        if example.uri.endswith("green.png"):  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(ConceptRows, "put_example", fail_at_green)
    with pytest.raises(KeyboardInterrupt):
        gallery.teach("Momo", [photo(gallery, "blue"), photo(gallery, "green")], replace=True)
    assert stored(gallery) == before
    with pytest.raises(KeyboardInterrupt):
        gallery.teach("Lulu", [photo(gallery, "blue"), photo(gallery, "green")])
    assert stored(gallery) == before


KILLED = """
import os, signal, sys
from magicmm.concept_rows import ConceptRows
from magicmm.embedder import Embedder
from magicmm.gallery import Gallery

index, bundle, *photos = sys.argv[1:]
put, calls = ConceptRows.put_example, []

def put_and_die(rows, concept, example):
    put(rows, concept, example)
    calls.append(example)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

ConceptRows.put_example = put_and_die
with Gallery.open(index, Embedder.open(bundle, threads=1)) as gallery:
    gallery.teach("Momo", photos, replace=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_between_two_examples_leaves_what_was(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    before = stored(gallery)
    photos = [photo(gallery, name) for name in ("green", "blue", "red")]
    arguments = [str(path) for path in (gallery.index_path, bundle().path, *photos)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=60)
    assert done.returncode == -9
    assert stored(gallery) == before
    assert_index_is_sound(gallery.index_path)
    assert gallery.teach("Momo", photos).examples == 3


def test_forget_removes_a_concept_and_leaves_nothing_of_it_in_the_file(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    gallery.teach("Lulu", [photo(gallery, "green")])
    for unknown in ("Bobo", "./Momo", "photos of"):
        assert code_of(gallery.forget, unknown) is ErrorCode.ARGUMENT_INVALID
    gallery.forget("MOMO")
    assert [concept.name for concept in gallery.taught()] == ["Lulu"]
    assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM example") == [(1,)]
    assert gallery.search("Momo").taught == ()
    assert gallery.status().indexed == 3


def test_what_was_taught_outlives_its_photos(gallery: Gallery) -> None:
    taught = gallery.teach("Momo", [photo(gallery, "red")])
    photo(gallery, "red").unlink()
    synced(gallery)
    gallery.forget(folder_uri(gallery.index_path.parent / "photos"))
    assert gallery.taught() == [taught]


def test_one_writer_at_a_time(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    with writer_lock(gallery.index_path):
        assert code_of(gallery.teach, "Momo", [photo(gallery, "red")]) is ErrorCode.INDEX_LOCKED
        assert code_of(gallery.forget, "Momo") is ErrorCode.INDEX_LOCKED
        assert gallery.search("Momo").taught == ("Momo",)


def test_vectors_of_another_model_are_refused(gallery: Gallery) -> None:
    with Gallery.open(gallery.index_path, counting(seed=1)) as other:
        assert code_of(other.teach, "Momo", [photo(gallery, "red")]) is ErrorCode.MODEL_MISMATCH
    assert stored(gallery) == []


def test_an_index_without_photos_says_so(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path]) as gallery:
        assert code_of(gallery.teach, "Momo", [photo_bytes(1)]) is ErrorCode.SOURCE_UNAVAILABLE
        assert gallery.taught() == []


# -- another model -----------------------------------------------------------------------------------------------


def fingerprints(gallery: Gallery) -> list[str]:
    rows = rows_of(gallery.index_path, "SELECT fingerprint FROM example ORDER BY rowid")
    return [fingerprint for (fingerprint,) in rows]


def test_a_rebuild_renews_what_can_be_found(gallery: Gallery, tmp_path: Path) -> None:
    elsewhere, changed, gone = (make_photo(tmp_path / f"{name}.png", name, "red") for name in (10, 11, 12))
    gallery.teach("Momo", [photo(gallery, "red"), elsewhere, changed, gone, photo_bytes(13)])
    make_photo(changed, 99, "blue")
    gone.unlink()
    with Gallery.open(gallery.index_path, counting(seed=1)) as other:
        rebuilt(other)
        new, old = other.embedder.fingerprint, gallery.embedder.fingerprint
        assert fingerprints(other) == [new, new, old, old, old]
        (concept,) = other.taught()
        assert (concept.examples, concept.stale) == (2, 3)
        assert other.search("Momo", k=1).matches[0].uri == path_uri(photo(gallery, "red"))
        findings = {finding.subject: finding for finding in examine(gallery.index_path, other.embedder.bundle.path)}
        assert findings["taught"].state == "warn"
        make_photo(gone, 12, "red")
        synced(other)  # the drive is connected again
        assert fingerprints(other) == [new, new, old, new, old]


def test_the_old_vectors_answer_until_a_rebuild_is_done(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    with Gallery.open(gallery.index_path, counting(seed=1)) as other:
        next(other.rebuild())
        assert gallery.search("Momo").taught == ("Momo",)
        assert fingerprints(gallery) == [gallery.embedder.fingerprint]


def test_a_concept_none_of_whose_photos_is_found_is_a_word_like_others(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo_bytes(50)])
    gallery.teach("red Momo", [photo(gallery, "red")])
    with Gallery.open(gallery.index_path, counting(seed=1)) as other:
        rebuilt(other)
        plain = other.search("a Momo", taught=False)
        assert other.search("a Momo") == plain
        assert other.search("red Momo").taught == ("red Momo",)
        assert other.teach("Momo", [photo_bytes(50)]).stale == 0
        assert other.search("a Momo").taught == ("Momo",)


def test_photos_of_another_kind_of_source_are_renewed_through_it(tmp_path: Path) -> None:
    source = MemorySource()
    first, second = source.put("1", photo_bytes(1, "red")), source.put("2", photo_bytes(2, "blue"))
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
        gallery.teach("Momo", [first])
        gallery.teach("Lulu", [second])
        del source.photos[second]
        synced(gallery)
        source.photos[second] = photo_bytes(2, "blue")  # comes back while the rebuild runs
        with Gallery.open(tmp_path / "i.db", counting(seed=1), [source]) as other:
            rebuilt(other)
            assert [concept.stale for concept in other.taught()] == [0, 0]


def test_a_sync_with_nothing_to_renew_writes_nothing(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    log = gallery.index_path.with_name("index.db-wal")
    before = log.stat().st_size, log.read_bytes()
    synced(gallery)
    assert (log.stat().st_size, log.read_bytes()) == before


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE example SET codes = 'text'",
        "UPDATE example SET codes = x'01'",
        "UPDATE example SET scale = 0",
        "UPDATE example SET scale = 'large'",
        "UPDATE example SET hash = 3",
        "UPDATE concept SET name = x'00'",
    ],
)
def test_rows_that_make_no_sense_are_index_corrupt(gallery: Gallery, damage: str) -> None:
    gallery.teach("Momo", [photo(gallery, "red")])
    with closing(Index(gallery.index_path)) as index, index.transaction():
        index.query(damage)
    assert code_of(gallery.search, "Momo") is ErrorCode.INDEX_CORRUPT


def test_names_are_saved_from_a_damaged_index(gallery: Gallery, tmp_path: Path) -> None:
    taught = gallery.teach("our dog", [photo(gallery, "red"), photo(gallery, "blue")], noun="a dog")
    gallery.teach("Lulu", [photo(gallery, "green")])
    with closing(sqlite3.connect(gallery.index_path)) as database:
        database.execute("UPDATE example SET codes = 'text' WHERE concept_id = 2")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(gallery.index_path.read_bytes())
    with Gallery.open(tmp_path / "new.db", counting(), [tmp_path / "photos"]) as new:
        synced(new)
        assert restore_concepts(damaged, new.index_path) == 1
        assert new.taught() == [taught]
        assert restore_concepts(tmp_path / "missing.db", new.index_path) == 1
        (tmp_path / "junk.db").write_bytes(b"junk" * 1000)
        assert restore_concepts(tmp_path / "junk.db", new.index_path) == 1
        assert_index_is_sound(new.index_path)


def test_vectors_are_unit_rows(gallery: Gallery) -> None:
    gallery.teach("Momo", [photo(gallery, "red"), photo(gallery, "blue")])
    with closing(Index(gallery.index_path)) as index:
        rows = ConceptRows(index)
        (concept,) = rows.known().values()
        vectors = rows.vectors(concept, gallery.embedder.fingerprint, gallery.embedder.dim)
        assert vectors.shape == (2, gallery.embedder.dim)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert rows.vectors(concept, "0" * 64, gallery.embedder.dim).shape == (0, gallery.embedder.dim)
