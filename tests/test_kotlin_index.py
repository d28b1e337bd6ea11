"""Kotlin and Python agree: the shared vectors, and index files that one writes and the other reads or goes on with.

Builds sdk/kotlin with Maven once a state of its source. Without Maven or its packages the tests are skipped; with
`kotlin` in REQUIRE_LANGS they fail instead.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gallery_fixtures import assert_index_is_sound, bundle, photo_bytes, rows_of, touch
from kotlin_build import ROOT, Runner, run_unit_tests
from kotlin_parity import runner
from magicmm.concepts import key_of, split_names
from magicmm.embedder import Embedder
from magicmm.errors import MagicError
from magicmm.filters import Filter, GeoBox
from magicmm.gallery import Gallery
from magicmm.index import Index
from magicmm.manifest import ConfidenceSpec
from magicmm.results import Progress, Results
from magicmm.scan import data_is_sound, open_scan_file, scan_path
from magicmm.sources import path_uri
from magicmm.sync import Budget

VECTORS = Path(__file__).parent / "vectors"
COLOURS = ("255 0 0", "0 200 0", "20 30 240", "128 128 127", "90 180 45")


@pytest.fixture(scope="session")
def command() -> list[str]:
    """Return how to start the Kotlin runner."""
    return runner()


@pytest.fixture(scope="module")
def kotlin(command: list[str]) -> Iterator[Kotlin]:
    """A runner that obeys commands on galleries."""
    assert command
    with Runner.of_kotlin("gallery") as runner:
        yield Kotlin(runner)


# -- the shared vectors ------------------------------------------------------------------------------------------


def test_kotlin_reproduces_the_shared_vectors(command: list[str]) -> None:
    done = subprocess.run([*command, "vectors", str(VECTORS)], capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = []
    for answer in answers:
        expect = cases(answer["file"])[answer["case"]]["expect"]
        if answer.get("result") != expect:
            wrong.append((answer, expect))
    assert wrong == []
    counted = {(answer["file"], answer["variant"], answer["case"]) for answer in answers}
    assert len(counted) == len(answers)
    ran = {file: len([key for key in counted if key[0] == file]) for file in ("search.json", "index_v1.json")}
    assert ran == {
        "search.json": 2 * len(cases("search.json")),  # with one thread and with two
        "index_v1.json": 2 * len(cases("index_v1.json")),  # with the scan file and without
    }


def cases(name: str) -> dict[str, Any]:
    return {case["name"]: case for case in json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]}


def test_the_unit_tests_pass(command: list[str]) -> None:
    assert command
    report = run_unit_tests()
    assert "KillTest" in report
    assert "FAIL" not in report


def test_the_benchmark_runs(command: list[str], tmp_path: Path) -> None:
    assert command
    out = tmp_path / "results.json"
    run = [sys.executable, str(ROOT / "benchmarks" / "kotlin.py"), "--quick", "--json", str(out)]
    path = os.pathsep.join([str(ROOT / "sdk" / "python"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(run, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True, timeout=300)
    results = json.loads(out.read_text(encoding="utf-8"))
    assert len(results["tables"]) == 4
    assert len(results["goals"]) == 4


# -- a model that is the same in both ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelSums(Embedder):
    """The Python side of `PixelSums.kt`: integer sums of the quarters of a picture, exact in every language."""

    @property
    def dim(self) -> int:
        return 16

    def decode_side(self, role: str = "photo") -> int:
        return 1 << 12

    def prepare(self, image: Any, role: str = "photo") -> Any:
        return np.asarray(super()._read(image, role), np.uint8)

    def embed_pixels(self, pixels: Sequence[Any], role: str = "photo") -> Any:
        return np.array([self._sums(picture) for picture in pixels], np.float32).reshape(len(pixels), 16)

    def embed_query(self, text: str | None = None, image: object | None = None, truncate: bool = False) -> Any:
        if image is not None:
            return self.embed_pixels([self.prepare(image)])[0]
        assert text is not None
        return self._sums(np.full((20, 20, 3), [int(part) for part in text.split()[:3]], np.uint8))

    def _sums(self, rgb: Any) -> Any:
        height, width = rgb.shape[:2]
        signed = rgb.astype(np.int64) - 128
        rows, columns = np.split(signed, [height // 2]), [slice(0, width // 2), slice(width // 2, width)]
        quarters = [part[:, some].sum((0, 1)) for part in rows for some in columns]
        return np.array([*np.concatenate(quarters), width * height, 0, 0, 0], np.float32)


def pixel_sums(seed: int = 0) -> PixelSums:
    opened = Embedder.open(bundle(seed), threads=1)
    return PixelSums(opened.bundle, opened._encoder)


class Kotlin:
    """The Kotlin gallery behind calls that look like Python's."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def ask(self, verb: str, index: Path, seed: int = 0, **more: Any) -> dict[str, Any]:
        made = bundle(seed)
        return self._runner.ask(verb=verb, index=index, name=made.manifest.id, fingerprint=made.fingerprint, **more)

    def run(self, verb: str, index: Path, seed: int = 0, **more: Any) -> Any:
        answer = self.ask(verb, index, seed, **more)
        assert "error" not in answer, answer
        return answer["result"]


def facts_of(last: Progress) -> dict[str, int]:
    names = ("done", "total", "embedded", "reused", "removed", "skipped")
    return {name: getattr(last, name) for name in names}


def python_sync(
    index: Path, photos: Path, seed: int = 0, verb: str = "sync", budget: Budget | None = None
) -> dict[str, int]:
    with Gallery.open(index, pixel_sums(seed), [photos]) as gallery:
        *_, last = getattr(gallery, verb)(budget)
        return facts_of(last)


def rows_in(results: Results) -> dict[str, Any]:
    rows = [[m.id, m.uri, m.score, m.taken, m.width, m.height, dict(m.signals)] for m in results.matches]
    return {
        "matches": rows,
        "searched": results.searched,
        "taught": list(results.taught),
        "confidence": results.confidence,
        "is_doubtful": results.is_doubtful,
        "signals": [[signal.kind, signal.words] for signal in results.signals],
        "signal_weight": results.signal_weight and pytest.approx(results.signal_weight, rel=1e-9),
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photos of noise and colours, with copies, odd names, and files that are none."""
    folder = tmp_path / "photos"
    colours = [None, "red", "green", "blue", "black"]
    names = [f"{seed:04}.png" for seed in range(36)]
    names += ["a b/100%.png", "a b/new\nline.png", "c/caf\u00e9.png", "c/" + os.fsdecode(b"\xff\xfe.png")]
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes(seed, colours[seed % 5], side=20 + seed % 3))
    shutil.copy(folder / "0003.png", folder / "c" / "copy.png")
    (folder / "junk.jpg").write_bytes(b"no photo at all")
    (folder / "empty.jpg").touch()
    (folder / "broken.jpg").symlink_to("nowhere")
    (folder / ".hidden.png").write_bytes(photo_bytes(99))
    return folder


TABLES = {
    "photo": "SELECT id, uri, bytes, modified, hash, taken, latitude, longitude, width, height, reason"
    " FROM photo ORDER BY id",
    "vector": "SELECT seq, photo_id, model_id, scale, codes FROM vector ORDER BY seq",
    "model": "SELECT * FROM model",
    "source": "SELECT * FROM source",
    "removed": "SELECT * FROM removed",
    "meta": "SELECT * FROM meta WHERE key NOT IN ('index_id', 'photos_per_second') ORDER BY key",
    "schema": "SELECT type, name, tbl_name FROM sqlite_master ORDER BY name",
    "columns": "SELECT t.name, c.* FROM sqlite_master t, pragma_table_info(t.name) c"
    " WHERE t.type = 'table' ORDER BY 1, 2",
    "versions": "SELECT * FROM pragma_application_id, pragma_user_version, pragma_journal_mode",
}


def contents(index: Path) -> dict[str, Any]:
    """Return all that both languages must write alike; details of skips are words for people."""
    return {name: rows_of(index, query) for name, query in TABLES.items()}


def assert_scan_file_is_python_s(index_path: Path) -> None:
    assert data_is_sound(scan_path(index_path))
    with closing(Index(index_path)) as index:
        model = index.active_model()
        assert model is not None
        assert open_scan_file(scan_path(index_path), index, model) is not None


# -- whole indexes -----------------------------------------------------------------------------------------------


def change(photos: Path) -> None:
    """Edit, touch, move, swap, copy, delete and mend."""
    (photos / "0001.png").write_bytes(photo_bytes(201, side=31))
    touch(photos / "0002.png")
    (photos / "moved").mkdir()
    (photos / "0004.png").rename(photos / "moved" / "0004.png")
    (photos / "0005.png").rename(photos / "t")
    (photos / "0006.png").rename(photos / "0005.png")
    (photos / "t").rename(photos / "0006.png")
    shutil.copy(photos / "0007.png", photos / "0007b.png")
    (photos / "0008.png").unlink()
    (photos / "junk.jpg").write_bytes(photo_bytes(202))
    for seed in range(300, 320):
        (photos / f"{seed}.png").write_bytes(photo_bytes(seed))


def test_both_write_the_same_index_through_every_kind_of_change(kotlin: Kotlin, photos: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "python.db", tmp_path / "kotlin.db"
    for step in range(3):
        if step == 1:
            change(photos)
        expected = python_sync(ours, photos)
        assert kotlin.run("sync", theirs, photos=[photos]) == expected
        assert contents(theirs) == contents(ours)
        assert_index_is_sound(theirs)
        assert_scan_file_is_python_s(theirs)
    assert python_sync(ours, photos, 1, "rebuild") == kotlin.run("rebuild", theirs, 1, photos=[photos])
    assert contents(theirs) == contents(ours)
    one, other = (scan_path(path).read_bytes() for path in (ours, theirs))
    assert one[128:] == other[128:]
    assert (one[56:104], one[104:128]) == (other[56:104], other[104:128])


@pytest.mark.parametrize("first", ["python", "kotlin"])
def test_each_goes_on_where_the_other_stopped(kotlin: Kotlin, photos: Path, tmp_path: Path, first: str) -> None:
    alone, shared = tmp_path / "alone.db", tmp_path / "shared.db"
    python_sync(alone, photos)
    is_python = first == "python"
    done = 0
    while True:  # a few files each, in turns
        if is_python:
            last = python_sync(shared, photos, budget=Budget(files=7))
        else:
            last = kotlin.run("sync", shared, photos=[photos], files=7)
        done += 1
        is_python = not is_python
        assert_index_is_sound(shared)
        if last["done"] == last["total"] or done > 40:
            break
    assert done > 5
    by_uri = (
        "SELECT uri, bytes, modified, hash, width, height, reason, scale, codes"
        " FROM photo LEFT JOIN vector ON photo_id = photo.id ORDER BY uri"
    )
    assert rows_of(shared, by_uri) == rows_of(alone, by_uri)


# -- taught names ------------------------------------------------------------------------------------------------

TEXTS = [
    "Momo",
    "photos of MO\u0301MO!",
    "momo's 255 0 0",
    "Zoe\u0308 und stra\u00dfe 0 0 9",
    "STRASSE",
    "our dog Rex, our dog",
    "our dog rexes",
    "\u0131stanbul \u0130STANBUL",
    "\u03a3\u03ac\u03c3\u03c2 on the beach",
    "a boat, our-dog, the sea",
    "Momo\u2019s and momo 's",
    "\ud83d\ude00Momo\ud83d\ude00 x\u00b2 _momo_",
    "\u5c0f\u767d \uff2d\uff2f\uff2d\uff2f \u0939\u093f\u0928\u094d\u0926\u0940",
    "momos",
    "  two   spaces\u3000and\ta tab, ",
    "",
]
NAMES = [
    "Momo",
    "Zo\u00eb",
    "Strasse",
    "our dog",
    "our dog Rex",
    "\u0130stanbul",
    "\u03c3\u03b1\u03c3\u03c3",
    "\u5c0f\u767d",
]


def test_names_are_found_alike(kotlin: Kotlin, photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.db"
    python_sync(index, photos)
    for text in TEXTS:
        keys, rest = split_names(text, [key_of(name) for name in NAMES])
        assert kotlin.run("split", index, text=text, names=NAMES) == [[" ".join(key) for key in keys], rest], text


@pytest.mark.parametrize("writer", ["python", "kotlin"])
def test_either_teaches_and_both_find(kotlin: Kotlin, photos: Path, tmp_path: Path, writer: str) -> None:
    index = tmp_path / "i.db"
    python_sync(index, photos)
    lessons: list[tuple[str, list[str], str | None]] = [
        ("Momo", ["0001.png", "0006.png"], None),
        ("our dog", ["0003.png"], "90 180 45"),
        ("MOMO", ["c/copy.png", "0011.png"], None),
    ]
    extra = photo_bytes(500, "blue")
    for name, names, noun in lessons:
        with Gallery.open(index, pixel_sums()) as gallery:
            ids = [photo_id for path in names if (photo_id := gallery.photo_id(path_uri(photos / path))) is not None]
            assert len(ids) == len(names)
            if writer == "python":
                gallery.teach(name, [*ids, extra], noun)
        if writer == "kotlin":
            image = base64.b64encode(extra).decode()
            kotlin.run("teach", index, taught=name, ids=ids, images=[image], noun=noun)
    with Gallery.open(index, pixel_sums()) as gallery:
        taught = [[c.name, c.noun, c.examples, c.stale, list(c.uris)] for c in gallery.taught()]
        assert [row[:3] for row in taught] == [["MOMO", None, 5], ["our dog", "90 180 45", 2]]
        assert kotlin.run("taught", index) == taught
        for text in ("Momo", "momo 255 0 0", "our dog", "our dog, 0 200 0", "Momo and our dog", "255 0 0"):
            found = gallery.search(text, k=1000)
            assert found.taught or text == "255 0 0"
            assert kotlin.run("search", index, text=text, k=1000) == rows_in(found), text
    kotlin.run("forget", index, what="momo")
    assert [row[0] for row in kotlin.run("taught", index)] == ["our dog"]
    assert_index_is_sound(index)


@pytest.mark.parametrize("rebuilder", ["python", "kotlin"])
def test_either_renews_what_was_taught(kotlin: Kotlin, photos: Path, tmp_path: Path, rebuilder: str) -> None:
    index, elsewhere = tmp_path / "i.db", tmp_path / "elsewhere.png"
    python_sync(index, photos)
    elsewhere.write_bytes(photo_bytes(501))
    with Gallery.open(index, pixel_sums()) as gallery:
        gallery.teach("Momo", [photos / "0001.png", elsewhere, photo_bytes(502)])
    if rebuilder == "python":
        python_sync(index, photos, 1, "rebuild")
    else:
        kotlin.run("rebuild", index, 1, photos=[photos])
    ((_, _, examples, stale, uris),) = kotlin.run("taught", index, 1)
    assert (examples, stale, uris) == (2, 1, [path_uri(photos / "0001.png"), path_uri(elsewhere)])
    (photos / "late.png").write_bytes(photo_bytes(502))
    if rebuilder == "python":
        python_sync(index, photos, 1)
    else:
        kotlin.run("sync", index, 1, photos=[photos])
    assert kotlin.run("taught", index, 1)[0][2:4] == [3, 0]


# -- searches ----------------------------------------------------------------------------------------------------

FILTERS: list[dict[str, Any]] = [
    {},
    {"k": 1},
    {"k": 1000},
    {"k": 1000, "min_score": 0.25},
    {"k": 5, "where": {"ids": [2, 3, 5, 8, 13, 21, 34, 99999]}},
    {"k": 50, "where": {"ids": []}},
    {"k": 50, "where": {"min_side": 21}},
    {"k": 50, "where": {"min_bytes": 1000, "max_bytes": 1300}},
    {"k": 50, "where": {"box": {"south": -90, "west": 10, "north": 90, "east": -10}}},
    {"k": 3, "min_score": -0.5, "where": {"min_side": 20, "ids": list(range(1, 30))}},
]


def filter_of(asked: dict[str, Any]) -> Filter:
    fields: dict[str, Any] = {key: GeoBox(**value) if key == "box" else value for key, value in asked.items()}
    return Filter(**fields)


def test_both_are_equally_sure(kotlin: Kotlin, photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.db"
    python_sync(index, photos)
    (photos / "0001.png").unlink()  # a row of the scan file is dead
    for seed in range(200, 207):
        (photos / f"{seed}.png").write_bytes(photo_bytes(seed))
    python_sync(index, photos)
    spec = ConfidenceSpec(0.7, -1.0, 12.0, -0.7, 30, 0.1)
    plain = pixel_sums()
    made = replace(plain.bundle, manifest=replace(plain.bundle.manifest, confidence=spec))
    said = set()
    filters: list[dict[str, Any]] = [{}, {"where": {"min_side": 21}}, {"where": {"min_side": 99}}]
    with Gallery.open(index, PixelSums(made, plain._encoder)) as gallery:
        for colour in COLOURS:
            for options in filters:
                where = filter_of(options["where"]) if "where" in options else None
                ours = gallery.search(colour, where=where)
                theirs = kotlin.run("search", index, text=colour, k=20, confidence=asdict(spec), **options)
                assert theirs["confidence"] == (ours.confidence and pytest.approx(ours.confidence, rel=1e-9))
                assert theirs["is_doubtful"] == ours.is_doubtful
                said.add(ours.confidence)
        gallery.teach("Momo", [photo_bytes(500)])
        photo = base64.b64encode(photo_bytes(3)).decode()
        queries: list[dict[str, Any]] = [
            {"image": photo},
            {"text": "Momo"},
            {"text": "Momo 255 0 0"},
            {"text": "momo", "image": photo},
        ]
        for asked in queries:
            theirs = kotlin.run("search", index, k=20, confidence=asdict(spec), **asked)
            assert (theirs["confidence"], theirs["is_doubtful"]) == (None, False), asked
            image = base64.b64decode(asked["image"]) if "image" in asked else None
            assert rows_in(gallery.search(asked.get("text"), image)) == theirs, asked
        named = kotlin.run("search", index, text=COLOURS[0], k=20, confidence=asdict(spec))
        assert named["confidence"] is not None
    assert len(said) > len(COLOURS)


@pytest.mark.parametrize("writer", ["python", "kotlin"])
@pytest.mark.parametrize("scan_file", ["kept", "gone"])
def test_searches_in_either_s_index_are_equal(
    kotlin: Kotlin, photos: Path, tmp_path: Path, writer: str, scan_file: str
) -> None:
    index = tmp_path / "i.db"
    for number in range(12):  # ties
        shutil.copy(photos / "0009.png", photos / f"tie-{number}.png")
    if writer == "python":
        python_sync(index, photos)
    else:
        kotlin.run("sync", index, photos=[photos])
    if scan_file == "gone":
        scan_path(index).unlink()
    query = base64.b64encode((photos / "0009.png").read_bytes()).decode()
    with Gallery.open(index, pixel_sums()) as gallery:
        for options in FILTERS:
            asked = {"k": 20, **options}
            where = filter_of(asked["where"]) if "where" in asked else None
            given = {"k": asked["k"], "min_score": asked.get("min_score"), "where": where}
            for colour in COLOURS:
                found = gallery.search(colour, **given)
                assert kotlin.run("search", index, text=colour, **asked) == rows_in(found), (colour, options)
            by_photo = gallery.search(image=photos / "0009.png", **given)
            assert kotlin.run("search", index, image=query, **asked) == rows_in(by_photo)
            assert kotlin.run("similar", index, id=4, **asked) == rows_in(gallery.similar(4, **given))
        for least in (None, 0.999, 0.9, 0.2):
            groups = [
                {"kind": group.kind, "photos": [[m.id, m.uri, m.score] for m in group.photos]}
                for group in gallery.duplicates(least)
            ]
            assert kotlin.run("duplicates", index, min_score=least) == groups
        status = gallery.status()
        theirs = kotlin.run("status", index)
        assert (theirs["indexed"], theirs["sources"]) == (status.indexed, list(status.sources))
        assert theirs["skipped"] == [[skip.uri, skip.reason.value] for skip in status.skipped]


def test_filters_by_date_and_folder_are_equal(kotlin: Kotlin, photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.db"
    python_sync(index, photos)
    with closing(sqlite3.connect(index)) as database:  # PNG photos have no EXIF
        database.execute("UPDATE photo SET taken = 1e9 + 86400.25 * id, latitude = id - 20, longitude = id * 9 - 180")
        database.commit()
    folder = (photos / "c").as_uri() + "/"
    pairs: list[tuple[dict[str, Any], Filter]] = [
        ({"since": "2001-09-20"}, Filter(since=date(2001, 9, 20))),
        ({"until": "2001-09-20"}, Filter(until=date(2001, 9, 20))),
        ({"since": "2001-09-20T05:06:07"}, Filter(since=datetime(2001, 9, 20, 5, 6, 7))),
        (
            {"since": "2001-09-20T05:06:07Z"},
            Filter(since=datetime(2001, 9, 20, 5, 6, 7, tzinfo=timezone.utc)),
        ),
        ({"under": [folder]}, Filter(under=(folder,))),
        ({"under": [folder, folder]}, Filter(under=(folder, folder))),
        (
            {"box": {"south": -5, "west": 170, "north": 15, "east": -100}},
            Filter(box=GeoBox(-5, 170, 15, -100)),
        ),
        ({"box": {"south": -5, "west": -50, "north": 15, "east": 60}}, Filter(box=GeoBox(-5, -50, 15, 60))),
    ]
    sizes = set()
    with Gallery.open(index, pixel_sums()) as gallery:
        for asked, where in pairs:
            found = gallery.search("255 0 0", k=100, where=where)
            assert kotlin.run("search", index, text="255 0 0", k=100, where=asked) == rows_in(found), asked
            sizes.add(found.searched)
    assert len(sizes) > 4


@pytest.mark.parametrize("scan_file", ["kept", "gone"])
def test_signals_lift_the_same_photos(kotlin: Kotlin, photos: Path, tmp_path: Path, scan_file: str) -> None:
    index = tmp_path / "i.db"
    for number in range(12):  # ties
        shutil.copy(photos / "0009.png", photos / f"tie-{number}.png")
    python_sync(index, photos)
    cities = [(48.86, 2.35), (-33.87, 151.2), (52.52, 13.4), None]
    with closing(sqlite3.connect(index)) as database:
        for (photo_id,) in database.execute("SELECT id FROM photo").fetchall():
            taken = None if photo_id % 5 == 0 else 1.5e9 + photo_id * 1e6 + photo_id % 7 * 10_000
            place = cities[photo_id % 4] or (None, None)
            facts = (taken, *place, photo_id)
            database.execute("UPDATE photo SET taken = ?, latitude = ?, longitude = ? WHERE id = ?", facts)
        database.commit()
    if scan_file == "gone":
        scan_path(index).unlink()
    words = ["at night", "in winter", "in winter in paris", "in berlin or in paris at noon", "in may 2018, in france"]
    lifted = set()
    with Gallery.open(index, pixel_sums()) as gallery:
        for options in FILTERS:
            asked = {"k": 20, **options}
            where = filter_of(asked["where"]) if "where" in asked else None
            given = {"k": asked["k"], "min_score": asked.get("min_score"), "where": where}
            for text in (f"{colour} {some}" for colour in COLOURS for some in words):
                found = gallery.search(text, **given)
                assert kotlin.run("search", index, text=text, **asked) == rows_in(found), (text, options)
                plainly = gallery.search(text, **given, signals=False)
                assert kotlin.run("search", index, text=text, signals=False, **asked) == rows_in(plainly)
                lifted.add(found.matches != plainly.matches)
        gallery.teach("Momo", [photos / "0001.png"])
        for some in words:
            found = gallery.search(f"Momo {COLOURS[0]} {some}")
            assert found.taught
            assert kotlin.run("search", index, text=f"Momo {COLOURS[0]} {some}", k=20) == rows_in(found), some
    assert lifted == {True, False}


# -- errors ------------------------------------------------------------------------------------------------------


def python_code(index: Path, call: Any, seed: int = 0, photos: Path | None = None) -> str | None:
    try:
        with Gallery.open(index, pixel_sums(seed), [] if photos is None else [photos]) as gallery:
            call(gallery)
    except MagicError as error:
        return error.code.value
    return None


def red(gallery: Gallery) -> object:
    return gallery.search("255 0 0", k=5)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a text file": lambda path: path.write_text("no database " * 20),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "another program's": lambda path: statement(path, "PRAGMA application_id = 77"),
    "of a later version": lambda path: statement(path, "PRAGMA user_version = 2"),
    "of version 0": lambda path: statement(path, "PRAGMA user_version = 0"),
    "pages overwritten": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)
    ),
    "a vector too short": lambda path: statement(path, "UPDATE vector SET codes = x'00'"),
    "a scale of 0": lambda path: statement(path, "UPDATE vector SET scale = 0.0"),
    "a fingerprint that is none": lambda path: statement(path, "UPDATE model SET fingerprint = 'short'"),
    "a dim that is none": lambda path: statement(path, "UPDATE model SET dim = 0"),
    "another dim": lambda path: statement(path, "UPDATE model SET dim = 8"),
    "a generation that is none": lambda path: statement(path, "UPDATE meta SET value = 'x' WHERE key = 'generation'"),
    "no models": lambda path: statement(path, "DELETE FROM vector; DELETE FROM model"),
    "no table": lambda path: statement(path, "DROP TABLE vector"),
    "an unknown reason": lambda path: statement(path, "UPDATE photo SET reason = 'unheard_of' WHERE id = 2"),
    "a photo without a place": lambda path: statement(path, "UPDATE photo SET uri = x'ff' || id"),
    "a width that is none": lambda path: statement(path, "UPDATE photo SET width = 'wide'"),
    "no file at all": lambda path: path.unlink(),
}


def statement(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(sql)


@pytest.fixture(scope="module")
def sound_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small index by Python, without its scan file; tests copy it."""
    folder = tmp_path_factory.mktemp("sound")
    for seed in range(8):
        (folder / "p").mkdir(exist_ok=True)
        (folder / "p" / f"{seed}.png").write_bytes(photo_bytes(seed))
    python_sync(folder / "i.db", folder / "p")
    scan_path(folder / "i.db").unlink()
    return folder / "i.db"


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_indexes_give_the_same_codes(kotlin: Kotlin, sound_index: Path, tmp_path: Path, name: str) -> None:
    codes = []
    for language in ("python", "kotlin"):
        index = tmp_path / f"{language}.db"
        shutil.copy(sound_index, index)
        DAMAGES[name](index)
        if language == "python":
            calls = (red, lambda gallery: gallery.status(), lambda gallery: gallery.similar(1, 5))
            codes.append([python_code(index, call) for call in calls])
        else:
            more: list[dict[str, Any]] = [
                {"verb": "search", "text": "255 0 0"},
                {"verb": "status"},
                {"verb": "similar", "id": 1},
            ]
            codes.append([kotlin.ask(index=index, k=5, **options).get("error") for options in more])
    assert codes[0] == codes[1]
    assert set(codes[0]) != {None}


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 1_000_001},
        {"k": 5, "where": {"under": ["file:///a"]}},
        {"k": 5, "where": {"box": {"south": 5, "west": 0, "north": 1, "east": 1}}},
    ],
)
def test_bad_arguments_are_refused(kotlin: Kotlin, sound_index: Path, options: dict[str, Any]) -> None:
    assert kotlin.ask("search", sound_index, text="255 0 0", **options)["error"] == "argument_invalid"


def test_neither_writes_while_the_other_does(kotlin: Kotlin, photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.db"
    with Gallery.open(index, pixel_sums(), [photos]) as gallery:
        steps = gallery.sync()
        next(steps)
        assert kotlin.ask("sync", index, photos=[photos])["error"] == "index_locked"
        for _ in range(2):  # a failed attempt in the same process must not free the lock
            assert python_code(index, lambda other: list(other.sync()), photos=photos) == "index_locked"
        assert kotlin.ask("sync", index, photos=[photos])["error"] == "index_locked"
        assert sum(1 for _ in steps) > 0
        assert kotlin.run("sync", index, photos=[photos])["embedded"] == 0
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, f"{index}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdout.read(4) == b"held"
        assert python_code(index, lambda other: list(other.sync()), photos=photos) == "index_locked"
        assert kotlin.ask("sync", index, photos=[photos])["error"] == "index_locked"
        holder.kill()
        holder.communicate()
        assert python_code(index, lambda other: list(other.sync()), photos=photos) is None


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a JVM does
sys.stdout.write("held")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_full_disk_is_an_error_that_leaves_a_sound_index_which_goes_on_later(
    kotlin: Kotlin, photos: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    try:
        index = disk / "i.db"
        assert kotlin.run("sync", index, photos=[photos], files=16)["embedded"] == 16
        with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(512))
        assert kotlin.ask("sync", index, photos=[photos])["error"] == "storage_failed"
        (disk / "ballast").unlink()
        assert_index_is_sound(index)
        assert kotlin.run("status", index)["indexed"] == 16
        kotlin.run("sync", index, photos=[photos])
        assert kotlin.run("status", index)["indexed"] == 41
        assert_index_is_sound(index)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_another_model_is_refused(kotlin: Kotlin, sound_index: Path) -> None:
    assert kotlin.ask("search", sound_index, seed=1, text="255 0 0", k=5)["error"] == "model_mismatch"
    assert python_code(sound_index, red, seed=1) == "model_mismatch"
