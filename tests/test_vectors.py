"""tests/vectors/ is what the code does today, and what code that is not ours says it must be."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import struct
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm.index import Index
from magicmm.scan import data_is_sound, open_scan_file, scan_path
from tools import bicubic, image_cases, index_cases, number_cases
from tools.generate_vectors import VECTORS, build


def load(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


GENERATED = build()
TOKENIZERS = {"tiny_tokenizer.json", "bpe_tokenizer.json"}


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_committed_file_is_what_the_generator_writes(name: str) -> None:
    assert (VECTORS / name).read_bytes() == GENERATED[name]


def test_no_file_lies_there_that_nothing_writes() -> None:
    written = set(GENERATED) | {"index_v1.json", "index_v1.db", "index_v1.db.scan"}
    assert {path.name for path in VECTORS.iterdir()} == written


def test_all_vectors_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) < 1_500_000
    assert (VECTORS / "resize.json").stat().st_size < 400_000


@pytest.mark.parametrize("name", [*sorted(set(GENERATED) - TOKENIZERS), "index_v1.json"])
def test_every_case_has_a_name_of_its_own_and_either_result_or_error(name: str) -> None:
    content = load(name)
    cases = content["cases"]
    assert content["schema"] == 1
    assert len({case["name"] for case in cases}) == len(cases) > 0
    assert all(("expect" in case) != ("error" in case) for case in cases)


def test_resize_cases_agree_with_integer_arithmetic_alone() -> None:
    cases = load("resize.json")["cases"]
    assert len(cases) >= 100
    for case in cases:
        given = case["input"]
        ours = bicubic.resize(image_cases.pixels_of(given["image"]), tuple(given["size"]), tuple(given["box"]))
        assert np.array_equal(ours, image_cases.pixels_of(case["expect"])), case["name"]


def test_alpha_cases_agree_with_the_formula() -> None:
    (case,) = (case for case in load("views.json")["cases"] if case["input"]["operation"] == "alpha_on_white")
    rgba = image_cases.pixels_of(case["input"]["image"]).astype(np.int64)
    alpha = rgba[..., 3:]
    wide = 255 * (255 - alpha) + rgba[..., :3] * alpha + 128
    assert np.array_equal(((wide >> 8) + wide) >> 8, image_cases.pixels_of(case["expect"][0]))


def test_quantise_cases_agree_with_exact_fractions() -> None:
    for case in load("quantise.json")["cases"]:
        given, expect = case["input"], case["expect"]
        if given["operation"] != "quantise":
            continue
        vector = [single(number) for number in given["vector"]]
        factor = single(Fraction(127) / Fraction(max(map(abs, vector))))
        assert expect["codes"] == [round(Fraction(single(Fraction(number) * Fraction(factor)))) for number in vector]
        squares = sum(code * code for code in expect["codes"])
        assert expect["scale"] == single(1 / squares**0.5), case["name"]


def test_packed_cases_agree_with_the_arithmetic_of_each_value() -> None:
    for case in load("packed.json")["cases"]:
        if "error" in case:
            continue
        codes, multipliers = case["input"]["codes"], case["input"]["multipliers"]
        half, group = len(codes[0]), len(codes) // len(multipliers)
        for row, values in enumerate(case["expect"]["values"]):
            for column, value in enumerate(values):
                byte = codes[row][column % half]
                nibble = byte % 16 if column < half else byte // 16
                signed = nibble - 16 if nibble > 7 else nibble
                assert value == signed * multipliers[row // group][column], case["name"]


def test_score_cases_agree_with_float32_steps() -> None:
    for case in load("quantise.json")["cases"]:
        if case["input"]["operation"] == "score":
            query, photo = case["input"]["query"], case["input"]["photo"]
            dot = sum(one * other for one, other in zip(query["codes"], photo["codes"], strict=True))
            length = single(Fraction(query["scale"]) * Fraction(photo["scale"]))
            assert case["expect"]["score"] == single(Fraction(single(dot)) * Fraction(length)), case["name"]


def single(number: float | Fraction) -> float:
    """Round to float32; the detour over float64 is harmless for products of two float32."""
    return struct.unpack("<f", struct.pack("<f", float(number)))[0]


def test_search_cases_agree_with_sorting_everything() -> None:
    for case in load("search.json")["cases"]:
        given, expect = case["input"], case["expect"]
        segment, selected = number_cases.segment_of(given)
        query = number_cases.query_of(given)
        takes_part = np.ones(len(segment), np.bool_)
        for mask in (selected, segment.alive):
            takes_part &= True if mask is None else mask
        dots = (segment.codes.astype(np.int64) @ query.codes.astype(np.int64)).astype(np.float32)
        scores = dots * (segment.scales * np.float32(query.scale))
        least = -np.inf if query.min_score is None else np.float32(query.min_score)
        rows = [row for row in range(len(segment)) if takes_part[row] and scores[row] >= least]
        rows.sort(key=lambda row: (-scores[row], segment.ids[row]))
        assert expect["ids"] == [int(segment.ids[row]) for row in rows[: query.k]], case["name"]
        assert expect["scores"] == [float(scores[row]) for row in rows[: query.k]], case["name"]


def test_bundle_cases_break_every_rule_with_the_right_code() -> None:
    cases = {case["name"]: case for case in load("bundle.json")["cases"]}
    assert cases["a future version"]["error"] == "bundle_too_new"
    others = {case["error"] for name, case in cases.items() if "error" in case and "future version" not in name}
    assert others == {"bundle_invalid"}
    accepted = {name for name, case in cases.items() if "expect" in case}
    assert accepted == {
        "a dual encoder",
        "a vision-language bundle",
        "graphs for no runtime",
        "text_weight 2",
        "a composed graph and a weight of the text",
        "another dim changes the fingerprint",
        "another licence does not",
        "numbers and letters of all kinds in the fingerprint",
        "keys of later versions are ignored",
        "a calibration does not change the fingerprint",
        "a calibration of whole numbers",
        "a wrong hash",
        "a file with other content",
        "a file more than listed",
        "a link within it",
        "a document role",
        "packed weights",
        "packed weights of no graph",
        "an alternative for another runtime",
        "no alternatives",
        "a dual encoder with a composed graph",
        "a role composed without a graph for it",
        "a second runtime with a composed graph",
        "an alternative composed graph",
        "a packed composed graph",
    }


@pytest.fixture
def index_copy(tmp_path: Path) -> Path:
    """The committed index, copied: opening it writes beside it."""
    for name in ("index_v1.db", "index_v1.db.scan"):
        shutil.copy(VECTORS / name, tmp_path)
    return tmp_path / "index_v1.db"


def test_committed_index_holds_what_its_description_says(index_copy: Path) -> None:
    described = load("index_v1.json")
    assert index_cases.describe(index_copy) == {
        key: value for key, value in described.items() if key not in ("schema", "generated_by")
    }


def test_an_index_written_today_has_the_same_content(tmp_path: Path) -> None:
    committed = load("index_v1.json")
    fresh = index_cases.describe(index_cases.build_index(tmp_path))
    for table in ("source", "removed", "photo", "application_id", "user_version"):
        assert fresh[table] == committed[table]
    for ours, theirs in zip(fresh["vector"], committed["vector"], strict=True):
        assert (ours["seq"], ours["photo_id"], ours["model_id"]) == (
            theirs["seq"],
            theirs["photo_id"],
            theirs["model_id"],
        )
        one, other = (np.frombuffer(bytes.fromhex(row["codes"]), np.int8).astype(int) for row in (ours, theirs))
        assert np.abs(one - other).max() <= 1  # runtimes may round the last digit another way


def test_committed_scan_file_is_current_and_sound(index_copy: Path) -> None:
    with closing(Index(index_copy)) as index:
        model = index.active_model()
        assert model is not None
        found = open_scan_file(scan_path(index_copy), index, model)
        assert found is not None
        assert 2 in found.seqs.tolist()  # removed since; search cases show that it stays hidden
    assert data_is_sound(scan_path(index_copy))


@pytest.mark.parametrize("with_scan_file", [True, False])
def test_searches_in_the_committed_index(index_copy: Path, with_scan_file: bool) -> None:
    if not with_scan_file:
        scan_path(index_copy).unlink()
    for case in load("index_v1.json")["cases"]:
        assert index_cases.run_search(index_copy, case["input"]) == case["expect"], case["name"]


def test_searches_in_the_committed_index_agree_with_its_rows() -> None:
    described = load("index_v1.json")
    names = {row["id"]: row["uri"] for row in described["photo"]}
    for case in described["cases"][:3]:
        given = case["input"]
        ranked = []
        for row in described["vector"]:
            dot = int(np.frombuffer(bytes.fromhex(row["codes"]), np.int8).astype(int) @ np.array(given["codes"]))
            score = np.float32(dot) * (np.float32(row["scale"]) * np.float32(given["scale"]))
            if given["min_score"] is None or score >= np.float32(given["min_score"]):
                ranked.append((-float(score), row["photo_id"]))
        ranked = sorted(ranked)[: given["k"]]
        assert case["expect"]["ids"] == [photo for _, photo in ranked]
        assert case["expect"]["scores"] == [-score for score, _ in ranked]
        assert case["expect"]["uris"] == [names[photo] for _, photo in ranked]


def test_committed_index_is_sound_sqlite(index_copy: Path) -> None:
    with closing(sqlite3.connect(index_copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_scan_file_digest_is_recorded() -> None:
    digest = hashlib.sha256((VECTORS / "index_v1.db.scan").read_bytes()).hexdigest()
    assert load("index_v1.json")["scan_sha256"] == digest
