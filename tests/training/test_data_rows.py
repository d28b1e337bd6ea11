"""Files as rows: JSONL by offset, parquet by row group, tar shards; which files, which rows, and what names them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicmm import ErrorCode, MagicError
from magicmm_training.data.files import chosen_rows, content_fingerprint, open_rows, source_files
from magicmm_training.data.json_rows import JsonLines, JsonList
from magicmm_training.data.parquet_rows import GroupCache, ParquetRows
from magicmm_training.data.rows import Row
from magicmm_training.data.tar_rows import TarSamples
from training_rows import write_jsonl, write_parquet, write_tar


def test_lines_are_found_in_any_order_and_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "é"}\r\n\n   \n{"a": 2}\n{"a": "日本"}'.encode())
    rows = JsonLines(path)
    assert len(rows) == 3
    assert [(rows[place].values["a"], rows[place].number) for place in (2, 0, 1)] == [("日本", 5), ("é", 1), (2, 4)]


def test_a_long_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for row in range(20):
            file.write(json.dumps({"row": row, "text": "x" * 1_000_000}) + "\n")
    tracemalloc.start()
    rows = JsonLines(path)
    assert [rows[place].values["row"] for place in (19, 0, 7)] == [19, 0, 7]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000 < path.stat().st_size


@pytest.mark.parametrize(("line", "said"), [("{broken", "is no JSON"), ("[1]", "is no object"), ("\xff", "is no JSON")])
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line.encode("latin-1") + b"\n")
    rows = JsonLines(path)
    assert rows[0].values == {"a": 1}
    with pytest.raises(MagicError, match=f"a.jsonl, row 2: {said}") as caught:
        rows[1]
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    rows = JsonLines(path)
    path.unlink()
    with pytest.raises(MagicError, match=r"a.jsonl cannot be read") as caught:
        rows[0]
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_a_json_list_is_rows_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = [{"a": "日本 ]},{"}, {"b": [1, {"c": "é"}]}, {"d": None}]
    for text in (json.dumps(values), json.dumps(values, indent=2, ensure_ascii=False), "\ufeff [ ] "):
        path.write_text(text, encoding="utf-8")
        rows = JsonList(path)
        assert [rows[place].values for place in range(len(rows))] == json.loads(text.lstrip("\ufeff"))
    path.write_text('[{"a": 1}, 5]')
    rows = JsonList(path)
    assert (len(rows), rows[0].values, rows[0].number) == (2, {"a": 1}, 1)
    with pytest.raises(MagicError, match=r"a.json, row 2: is no object but int 5"):
        rows[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}', "holds no list of rows"),
        ("", "holds no list of rows"),
        ('[{"a": 1}, {"a": ', "row 2: is no JSON"),
        ('[{"a": 1} {"a": 2}]', "row 1: is followed by neither a comma nor the end"),
        ('[{"a": 1}', "row 1: is followed by neither a comma nor the end"),
        ('[{"a": 1},]', "row 2: is no JSON"),
    ],
)
def test_a_json_list_that_breaks_off_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MagicError, match=said) as caught:
        JsonList(tmp_path / "a.json")
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_parquet_rows_are_those_of_pyarrow(tmp_path: Path) -> None:
    rows = [{"a": place, "b": f"text {place}", "c": [place, None], "unread": b"x"} for place in range(7)]
    path = write_parquet(tmp_path / "a.parquet", rows, group=3)
    table = pq.read_table(path, columns=["a", "b", "c"]).to_pylist()
    found = ParquetRows(path, ["a"], ["b", "c", "d"], GroupCache())
    assert len(found) == 7
    for place in (6, 0, 3, 2, 5, 1, 4, 6):
        assert found[place].values == table[place]
        assert found[place].number == place + 1
    copy = pickle.loads(pickle.dumps(found))
    assert copy[5].values == table[5]


def test_few_row_groups_of_all_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write_parquet(tmp_path / f"{name}.parquet", [{"a": name}] * 6, group=2) for name in "xyz"]
    rows = open_rows(files, ["a"], [])
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counted(file: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return real(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert [rows[place].values["a"] for place in (0, 1, 6, 12, 2)] == ["x", "x", "y", "z", "x"]
    assert len(read) == 4  # rows 0 and 1 share a group
    assert [rows[place].values["a"] for place in (0, 6, 12, 2)] == ["x", "y", "z", "x"]
    assert len(read) == 4
    assert [rows[place].values["a"] for place in (4, 0)] == ["x", "x"]
    assert len(read) == 6  # the fifth group took the place of the one that was used longest ago


def test_parquet_that_is_none_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"a": 1}])
    with pytest.raises(MagicError, match="has no column 'query'; it has a"):
        ParquetRows(path, ["query"], [], GroupCache())
    path.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(MagicError, match=r"a.parquet cannot be read") as caught:
        ParquetRows(path, [], [], GroupCache())
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"a": f"{place:>2000}"} for place in range(4)])
    rows = ParquetRows(path, ["a"], [], GroupCache())
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(MagicError, match=r"a.parquet cannot be read"):
        rows[0]


def test_tar_members_of_one_stem_are_a_sample(tmp_path: Path) -> None:
    members = {
        "x/0.jpg": b"j0",
        "x/0.cap.txt": b"t0",
        "x/1.txt": b"t1",
        "x/1.jpg": b"j1",
        "README": b"",
        ".hidden": b"",
    }
    rows = TarSamples(write_tar(tmp_path / "a.tar", members))
    assert [dict(rows[place].values) for place in (1, 0)] == [
        {"__key__": "x/1", "txt": b"t1", "jpg": b"j1"},
        {"__key__": "x/0", "jpg": b"j0", "cap.txt": b"t0"},
    ]


def test_a_tar_file_that_is_cut_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"x" * 600})
    rows = TarSamples(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(MagicError, match="it ends too early"):
        rows[0]
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(MagicError, match=r"a.tar cannot be read"):
        TarSamples(path)


def test_files_follow_one_another(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", [{"a": 0}, {"a": 1}])
    empty = write_jsonl(tmp_path / "b.jsonl", [])
    last = write_parquet(tmp_path / "c.parquet", [{"a": 2}, {"a": 3}, {"a": 4}])
    rows = open_rows([first, empty, last], ["a"], [])
    assert [rows[place].values["a"] for place in range(len(rows))] == [0, 1, 2, 3, 4]
    assert rows[4].place == "c.parquet:3"


def test_files_of_a_folder_are_those_of_the_split(tmp_path: Path) -> None:
    for name in ("train-00001.parquet", "train-00000.parquet", "test.parquet", "training.parquet", "train.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-0.parquet").write_bytes(b"")

    def names(split: str, *others: str) -> list[str]:
        return [path.name for path in source_files(tmp_path, split, (".parquet", ".json"), others)]

    assert names("train") == ["train-00000.parquet", "train-00001.parquet"]
    assert names("test", "train") == ["test.parquet"]
    assert names("dev") == ["dev-0.parquet"]
    assert names("absent", "test") == ["test.parquet"]
    assert source_files(tmp_path / "test.parquet", "train", (".parquet",)) == [tmp_path / "test.parquet"]
    with pytest.raises(MagicError, match=r"holds no file absent\* that ends in .parquet or .json"):
        names("absent")
    with pytest.raises(MagicError, match=r"does not end in .tar"):
        source_files(tmp_path / "test.parquet", "train", (".tar",))
    with pytest.raises(MagicError, match="does not exist") as caught:
        source_files(tmp_path / "nowhere", "train", (".tar",))
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


@given(st.integers(0, 200), st.integers(1, 250), st.integers(0, 2**32))
def test_a_limit_chooses_distinct_rows_by_the_seed(count: int, limit: int, seed: int) -> None:
    places = chosen_rows(count, limit, seed)
    assert len(places) == min(count, limit)
    assert np.all(np.diff(places) > 0)
    assert count == 0 or not len(places) or (places[0] >= 0 and places[-1] < count)
    assert np.array_equal(places, chosen_rows(count, limit, seed))


def test_the_choice_is_the_same_for_ever() -> None:
    assert chosen_rows(20, 5, 0).tolist() == [2, 3, 11, 13, 15]
    assert chosen_rows(20, 5, 1).tolist() != chosen_rows(20, 5, 0).tolist()
    counts = np.zeros(10)
    for seed in range(2000):
        counts[chosen_rows(10, 3, seed)] += 1
    assert np.abs(counts / 2000 - 0.3).max() < 0.05


def test_a_fingerprint_names_content_and_options_but_no_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_jsonl(tmp_path / folder / "x.jsonl", [{"a": 1}])
    first = content_fingerprint([tmp_path / "a" / "x.jsonl"], {"limit": 1})
    assert first == content_fingerprint([tmp_path / "b" / "x.jsonl"], {"limit": 1})
    assert first != content_fingerprint([tmp_path / "a" / "x.jsonl"], {"limit": 2})
    write_jsonl(tmp_path / "b" / "x.jsonl", [{"a": 2}])
    assert first != content_fingerprint([tmp_path / "b" / "x.jsonl"], {"limit": 1})


def test_a_fingerprint_of_a_long_file_reads_both_ends_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "long.tar"
    size = 70 << 20
    with path.open("wb") as file:
        file.truncate(size)  # sparse
    first = content_fingerprint([path], {})

    def changed_at(offset: int) -> bool:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"1")
        changed = content_fingerprint([path], {}) != first
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\0")
        return changed

    assert changed_at(0)
    assert changed_at(size - 1)
    assert content_fingerprint([path], {}) == first
    with path.open("ab") as file:
        file.write(b"\0")
    assert content_fingerprint([path], {}) != first


def test_fields_are_read_strictly() -> None:
    row = Row({"text": "a", "empty": "", "null": None, "number": 5, "flag": True, "half": "\ud800"}, "f.jsonl", 3)
    assert (row.text("text"), row.text("empty"), row.text("null"), row.text("absent")) == ("a", None, None, None)
    assert (row.id("number"), row.id("text"), row.id("absent")) == ("5", "a", "f.jsonl:3")
    for field, said in (("number", "is no text but int 5"), ("half", "surrogate")):
        with pytest.raises(MagicError, match=rf"f.jsonl, row 3, field '{field}': .*{said}"):
            row.text(field)
    with pytest.raises(MagicError, match="is no text but bool True"):
        row.id("flag")
    with pytest.raises(MagicError, match="field 'null': is missing"):
        row.required("null")


def test_parquet_texts_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": column}), path)
    rows = ParquetRows(path, ["a"], [], GroupCache())
    assert rows[0].values == {"a": "ok"}
    with pytest.raises(MagicError, match=r"a.parquet, row 2: a text is no UTF-8"):
        rows[1]


def test_reading_data_loads_no_model_code() -> None:
    code = "import sys, magicmm_training.data.check; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    names = set(loaded.stdout.split())
    assert {"pyarrow", "magicmm_training.data.registry"} <= names
    assert names & {"torch", "transformers", "accelerate", "peft", "onnx", "onnxruntime", "datasets", "pandas"} == set()
