"""The scan file, decoded byte by byte as docs/FORMAT.md says, and every way of it being wrong."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.records import Model, PhotoFacts, Stamp
from magicmm.scan import ScanHeader, ScanMatrix, data_is_sound, open_scan_file, scan_path, write_scan_file
from magicmm.topk import Query, Segment

DIM = 12
FINGERPRINT = "ab" * 32


def vector(number: int) -> tuple[np.ndarray, float]:
    codes, scales = quantise(np.random.default_rng(number).normal(size=(1, DIM)).astype(np.float32))
    return codes[0], float(scales[0])


def add(index: Index, model: Model, numbers: range) -> list[int]:
    """Add photos in one transaction and return their ids."""
    with index.transaction():
        ids = []
        for number in numbers:
            photo_id = index.put_photo(
                PhotoFacts(f"file:///p/{number:05}", Stamp(1, 1), number.to_bytes(16, "big")), None
            )
            index.put_vector(photo_id, model, *vector(number))
            ids.append(photo_id)
        index.bump_generation()
    return ids


def remove(index: Index, numbers: list[int]) -> None:
    with index.transaction():
        index.remove_photos(f"file:///p/{number:05}" for number in numbers)
        index.bump_generation()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(tmp_path / "index.db", create=True)) as found:
        with found.transaction():
            found.add_model(FINGERPRINT, "small", DIM, True)
        yield found


@pytest.fixture
def model(index: Index) -> Model:
    found = index.active_model()
    assert found is not None
    return found


def opened(index: Index, model: Model) -> bool:
    return open_scan_file(scan_path(index.path), index, model) is not None


def contents(index: Index, model: Model) -> dict[int, tuple[bytes, float]]:
    """Return what a search would read, by photo id."""
    rows = ScanMatrix.load(index, model).rows()
    return {
        int(photo): (codes.tobytes(), float(scale))
        for photo, codes, scale in zip(rows.ids, rows.codes, rows.scales, strict=True)
    }


def truth(index: Index, model: Model) -> dict[int, tuple[bytes, float]]:
    """Return what SQLite holds, by photo id."""
    return {photo: (codes, float(np.float32(scale))) for _, photo, scale, codes in index.vectors_after(0, model)}


def test_the_file_is_laid_out_as_described(index: Index, model: Model) -> None:
    ids = add(index, model, range(7))
    remove(index, [2])
    write_scan_file(index, model)
    data = scan_path(index.path).read_bytes()
    assert data[:8] == b"MMSCAN01"
    header_crc, dim = struct.unpack_from("<II", data, 8)
    (rows,) = struct.unpack_from("<Q", data, 16)
    generation, last_seq, columns_crc, codes_crc = struct.unpack_from("<QQII", data, 88)
    assert (dim, rows, generation, last_seq) == (DIM, 6, 2, 7)
    assert data[24:56].decode("ascii") == index.meta("index_id")
    assert data[56:88].hex() == FINGERPRINT
    assert data[112:128] == bytes(16)
    assert zlib.crc32(data[12:112]) == header_crc
    codes_at = -(-(128 + 20 * 6) // 64) * 64
    assert zlib.crc32(data[128:codes_at]) == columns_crc
    assert zlib.crc32(data[codes_at:]) == codes_crc
    assert struct.unpack_from("<6q", data, 128) == (1, 2, 4, 5, 6, 7)
    assert struct.unpack_from("<6q", data, 128 + 48) == tuple(ids[:2] + ids[3:])
    assert struct.unpack_from("<6f", data, 128 + 96) == pytest.approx([vector(n)[1] for n in (0, 1, 3, 4, 5, 6)], abs=0)
    assert data[128 + 120 : codes_at] == bytes(codes_at - 248)
    assert data[codes_at:] == b"".join(vector(n)[0].tobytes() for n in (0, 1, 3, 4, 5, 6))


def test_an_empty_index_has_an_empty_file(index: Index, model: Model) -> None:
    write_scan_file(index, model)
    assert scan_path(index.path).stat().st_size == 128
    assert contents(index, model) == {}


def test_header_survives_packing() -> None:
    header = ScanHeader(384, 10**9, b"i" * 32, bytes(32), 2**60, 2**61, 2**32 - 1, 7)
    assert len(header.pack()) == 128
    assert ScanHeader.unpack(header.pack()) == header


def test_every_byte_of_the_header_is_guarded() -> None:
    data = ScanHeader(384, 5, b"i" * 32, b"f" * 32, 6, 7, 8, 9).pack()
    for place in range(112):
        broken = bytearray(data)
        broken[place] ^= 1
        assert ScanHeader.unpack(bytes(broken)) is None
    assert ScanHeader.unpack(data[:127]) is None


def test_the_file_and_what_came_after_give_what_sqlite_holds(index: Index, model: Model) -> None:
    add(index, model, range(20))
    write_scan_file(index, model)
    add(index, model, range(20, 26))
    remove(index, [0, 7, 19, 22])
    assert opened(index, model)
    assert contents(index, model) == truth(index, model)
    assert len(truth(index, model)) == 22


def test_a_vector_written_anew_replaces_the_one_in_the_file(index: Index, model: Model) -> None:
    ids = add(index, model, range(5))
    write_scan_file(index, model)
    with index.transaction():
        index.put_vector(ids[2], model, *vector(99))
        index.bump_generation()
    found = contents(index, model)
    assert found[ids[2]][0] == vector(99)[0].tobytes()
    assert found == truth(index, model)


def test_searching_file_and_changes_equals_searching_all(index: Index, model: Model) -> None:
    add(index, model, range(300))
    write_scan_file(index, model)
    add(index, model, range(300, 340))
    remove(index, list(range(0, 300, 7)))
    with_file = ScanMatrix.load(index, model)
    scan_path(index.path).unlink()
    without = ScanMatrix.load(index, model)
    codes, scale = vector(1000)
    for selected in (None, np.arange(1, 400, 3, dtype=np.int64), np.array([5, 10**6]), np.empty(0, np.int64)):
        query = Query(codes, scale, 25)
        (scores, ids), searched = with_file.search(query, selected)
        (other_scores, other_ids), other_searched = without.search(query, selected)
        assert ids.tolist() == other_ids.tolist()
        assert scores.tolist() == other_scores.tolist()
        assert searched == other_searched


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, -1])
def test_a_file_cut_short_is_not_used(index: Index, model: Model, size: int) -> None:
    add(index, model, range(20))
    write_scan_file(index, model)
    path = scan_path(index.path)
    path.write_bytes(path.read_bytes()[:size])
    assert not opened(index, model)
    assert not data_is_sound(path)
    assert contents(index, model) == truth(index, model)


def test_a_file_with_a_byte_too_many_is_not_used(index: Index, model: Model) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    with scan_path(index.path).open("ab") as file:
        file.write(b"\0")
    assert not opened(index, model)


def test_a_flipped_bit_in_the_columns_is_seen_at_once(index: Index, model: Model) -> None:
    add(index, model, range(9))
    write_scan_file(index, model)
    path = scan_path(index.path)
    sound = path.read_bytes()
    for place in range(128, 128 + 20 * 9):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        assert not opened(index, model)
    assert contents(index, model) == truth(index, model)


def test_a_flipped_bit_in_the_codes_is_seen_by_the_full_check(index: Index, model: Model) -> None:
    add(index, model, range(9))
    write_scan_file(index, model)
    path = scan_path(index.path)
    assert data_is_sound(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not data_is_sound(path)


def test_a_file_of_another_index_model_or_dimension_is_not_used(index: Index, model: Model, tmp_path: Path) -> None:
    add(index, model, range(4))
    write_scan_file(index, model)
    assert opened(index, model)
    assert not opened(index, Model(model.id, "cd" * 32, "other", DIM, True))
    assert not opened(index, Model(model.id, FINGERPRINT, "other", DIM + 1, True))
    with closing(Index(tmp_path / "other.db", create=True)) as other:
        with other.transaction():
            other.set_meta("generation", index.meta("generation"))
            other.set_meta("compacted", index.meta("compacted"))
        shutil.copy(scan_path(index.path), scan_path(other.path))
        assert not opened(other, model)


def test_a_file_from_beyond_a_restored_backup_is_not_used_even_when_the_index_has_caught_up(
    index: Index, model: Model
) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    with closing(Index(index.path)) as other:
        add(other, model, range(10, 13))
        write_scan_file(other, model)
        future = scan_path(index.path).read_bytes()
        remove(other, [10, 11, 12])
    with index.transaction():  # the backup knew of the first file only, and its history went on otherwise
        index.set_meta("compacted", 1)
        index.set_meta("generation", 9)
    scan_path(index.path).write_bytes(future)
    assert not opened(index, model)


def test_an_older_file_is_not_used_after_a_newer_one_was_written(index: Index, model: Model) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    old = scan_path(index.path).read_bytes()
    remove(index, [1])
    write_scan_file(index, model)
    assert index.removed_seqs() == []
    scan_path(index.path).write_bytes(old)
    assert not opened(index, model)
    assert contents(index, model) == truth(index, model)


def test_a_kill_between_the_file_and_its_record_leaves_a_usable_index(
    index: Index, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    add(index, model, range(3, 6))
    remove(index, [0])

    def killed(key: str, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index, "set_meta", killed)
        with pytest.raises(KeyboardInterrupt):
            write_scan_file(index, model)
    assert contents(index, model) == truth(index, model)


def test_writing_leaves_nothing_beside_the_file(index: Index, model: Model) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    names = {path.name for path in index.path.parent.iterdir()}
    assert names - {"index.db-wal", "index.db-shm"} == {"index.db", "index.db.scan"}


def test_a_failed_write_keeps_the_old_file(index: Index, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    add(index, model, range(3))
    write_scan_file(index, model)
    old = scan_path(index.path).read_bytes()
    add(index, model, range(3, 5))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        write_scan_file(index, model)
    assert scan_path(index.path).read_bytes() == old
    assert opened(index, model)
    assert not list(index.path.parent.glob("*.new"))


def test_rewriting_is_worth_it_at_first_and_after_many_changes(index: Index, model: Model) -> None:
    assert not ScanMatrix.load(index, model).is_worth_rewriting
    add(index, model, range(10))
    assert ScanMatrix.load(index, model).is_worth_rewriting
    write_scan_file(index, model)
    add(index, model, range(10, 1010))
    assert not ScanMatrix.load(index, model).is_worth_rewriting
    add(index, model, range(1010, 1011))
    assert ScanMatrix.load(index, model).is_worth_rewriting


def test_vectors_of_a_model_being_filled_do_not_show(index: Index, model: Model) -> None:
    ids = add(index, model, range(5))
    write_scan_file(index, model)
    with index.transaction():
        other = index.add_model("cd" * 32, "next", DIM, False)
        for photo_id in ids:
            index.put_vector(photo_id, other, *vector(50 + photo_id))
        index.bump_generation()
    assert contents(index, model) == truth(index, model)
    assert len(contents(index, model)) == 5


def test_the_background_is_all_living_rows_of_a_small_library(index: Index, model: Model) -> None:
    add(index, model, range(30))
    write_scan_file(index, model)
    add(index, model, range(30, 40))
    remove(index, [0, 7, 35])
    matrix = ScanMatrix.load(index, model)
    query = Query(*vector(99), k=100)
    (scores, _), searched = matrix.search(query)
    assert np.array_equal(np.sort(matrix.background(query)), np.sort(scores))
    assert len(matrix) == searched == 37


def test_the_background_of_a_large_library_is_an_even_sample() -> None:
    rng = np.random.default_rng(0)
    count = 50_000
    codes = rng.integers(-127, 128, (count, DIM), dtype=np.int8)
    segment = Segment(codes, np.full(count, 0.01, np.float32), np.arange(count))
    matrix = ScanMatrix(0, 0, None, segment, 0)
    query = Query(*vector(3), k=count)
    (scores, ids), _ = matrix.search(query)
    found = matrix.background(query)
    assert 1000 < len(found) <= 2048
    in_order = scores[np.argsort(ids)]
    assert np.array_equal(found, in_order[:: -(-count // 2048)])
    assert abs(np.quantile(found, 0.7) - np.quantile(scores, 0.7)) < 0.1 * scores.std()
