"""The committed index: written by the SDK with the tiny dual encoder, described row by row, and queried."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Set
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from magicmm import Changes, Filter, Gallery, GeoBox, PhotoFile, PhotoRef, PhotoSkipped, SkipReason
from magicmm.index import Index
from magicmm.ranking import ranked_by_signals
from magicmm.records import Stamp
from magicmm.results import Results
from magicmm.scan import ScanMatrix
from magicmm.signals import read_signals
from magicmm.topk import Query
from tiny_bundles import COLOURS, dual_bundle

URI = "file:///photos/"
_SECOND = 10**9
_WORDS = (
    "a beach at noon in summer 2012",
    "in June, winter 2018",
    "in the Arctic or in Chad in the afternoon",
    "at night in the fall of 1999, in Paris",
)
"""Of time and place, beside a vector."""
_TABLES = {
    "model": "id, fingerprint, name, dim, is_active",
    "source": "uri",
    "photo": "id, uri, bytes, modified, hex(hash), taken, latitude, longitude, width, height, reason, detail",
    "vector": "seq, photo_id, model_id, scale, hex(codes)",
    "removed": "seq",
}


class MemorySource:
    """Photos held in memory, with the stamps and URIs that a folder would give."""

    uri = URI

    def __init__(self, photos: dict[str, bytes]) -> None:
        """Take file contents by URI; all stamps follow from the place in the list."""
        self.photos = {URI + name: data for name, data in photos.items()}

    def changes(self, known: Mapping[str, Stamp], all_known: Set[str]) -> Changes:
        """Compare by URI alone: nothing here ever changes its content."""
        new = [PhotoRef(uri, self._stamp(uri)) for uri in sorted(set(self.photos) - all_known)]
        return Changes(new=new, removed=sorted(all_known - set(self.photos)), unchanged=len(known))

    def load(self, uri: str) -> PhotoFile:
        """Return the photo."""
        data = self.photos[uri]
        if data == b"locked":
            raise PhotoSkipped(SkipReason.PERMISSION_DENIED, "No permission.")
        return PhotoFile(data, self._stamp(uri), hashlib.sha256(data).digest()[:16])

    def _stamp(self, uri: str) -> Stamp:
        return Stamp(len(self.photos[uri]), (1_600_000_000 + len(uri)) * _SECOND)


def photos() -> dict[str, bytes]:
    """Return the photos of the first sync: colours, EXIF facts, copies, and two that cannot be read."""
    found = {}
    for place, (name, colour) in enumerate(COLOURS.items()):
        exif = Image.Exif()
        if place % 2 == 0:
            exif[0x8769] = {0x9003: f"20{10 + place}:06:15 12:30:00"}
        if place % 3 == 0:
            latitude = {1: "S" if place else "N", 2: (10.0 + place, 30.0, 0.0)}
            exif[0x8825] = latitude | {3: "W" if place else "E", 4: (20.0 + place, 15.0, 0.0)}
        found[f"colours/{name}.png"] = _png(40 + 8 * place, 30, colour, exif)
    found["copy of red.png"] = found["colours/red.png"]
    found["caf%C3%A9/m%C3%BCll%20%25.png"] = _png(31, 57, (200, 90, 30))
    found["broken.jpg"] = b"no photo"
    found["locked.jpg"] = b"locked"
    return found


def write_index(folder: Path) -> None:
    """Write index_v1.db and index_v1.db.scan: a first sync, its scan file, then changes that are not in the file."""
    with tempfile.TemporaryDirectory() as work:
        path = build_index(Path(work))
        for name in ("index_v1.db", "index_v1.db.scan"):
            shutil.copy(path.with_name(name), folder / name)


def build_index(work: Path) -> Path:
    """Build the index anew below `work`."""
    bundle = dual_bundle(work / "tiny.magicmm")
    path = work / "index_v1.db"
    first = photos()
    second = {name: data for name, data in first.items() if name != "colours/black.png"}
    second["later/orange.png"] = _png(60, 45, (255, 128, 0))
    for content in (first, second):
        with Gallery.open(path, bundle, [MemorySource(content)]) as gallery:
            list(gallery.sync())
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM meta WHERE key = 'photos_per_second'")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA journal_mode = WAL")
    return path


def describe(path: Path) -> dict[str, Any]:
    """Return the content of index_v1.json: every row of the index, and what searches find in it."""
    with tempfile.TemporaryDirectory() as work:
        for name in (path.name, path.name + ".scan"):
            shutil.copy(path.with_name(name), work)
        copy = Path(work) / path.name
        with closing(sqlite3.connect(copy)) as db:
            facts: dict[str, Any] = {
                "application_id": db.execute("PRAGMA application_id").fetchone()[0],
                "user_version": db.execute("PRAGMA user_version").fetchone()[0],
                "meta": dict(db.execute("SELECT key, value FROM meta ORDER BY key").fetchall()),
            }
            for table, columns in _TABLES.items():
                names = [column.split("(")[-1].strip(" )") for column in columns.split(",")]
                rows = db.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()
                facts[table] = [dict(zip(names, row, strict=True)) for row in rows]
        cases = [_search_case(copy, name, given) for name, given in searches(facts).items()]
    return (
        facts
        | {"scan_sha256": hashlib.sha256(path.with_name(path.name + ".scan").read_bytes()).hexdigest()}
        | {"cases": cases}
    )


def searches(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the searches: an indexed vector as the query, with and without filters."""
    vector = facts["vector"][0]
    codes = np.frombuffer(bytes.fromhex(vector["codes"]), np.int8).tolist()
    plain = {"codes": codes, "scale": vector["scale"], "k": 20, "min_score": None, "where": {}}
    ids = [row["id"] for row in facts["photo"]]
    wheres: dict[str, dict[str, Any]] = {
        "since a day": {"since": "2012-06-15"},
        "until a moment": {"until": "2012-06-15T12:29:59"},
        "one day": {"since": "2012-06-15", "until": "2012-06-15"},
        "under a folder": {"under": [URI + "colours/"]},
        "under two folders": {"under": [URI + "colours/", URI + "later/"]},
        "under a folder that holds nothing": {"under": [URI + "col/"]},
        "a name beyond ASCII": {"under": [URI + "caf%C3%A9/"]},
        "by size of the photo": {"min_side": 31},
        "by size of the file": {"min_bytes": 120, "max_bytes": 100_000},
        "in a box": {"box": {"south": -14.0, "west": -24.0, "north": -13.0, "east": -23.0}},
        "in a box across the 180th meridian": {"box": {"south": -90, "west": 20.0, "north": 90, "east": -23.0}},
        "by id": {"ids": [ids[0], ids[2], 99999]},
        "by no id": {"ids": []},
        "everything together": {"since": "2010-01-01", "under": [URI], "min_side": 10, "ids": ids},
    }
    return {
        "everything": plain,
        "the best two": plain | {"k": 2},
        "at least a half": plain | {"min_score": 0.5},
        **{name: plain | {"where": where} for name, where in wheres.items()},
        **{words: plain | {"words": words} for words in _WORDS},
        "words that say something, and a filter": plain
        | {"words": _WORDS[0], "k": 3, "where": wheres["under a folder"]},
        "words that say something, at least a half": plain | {"words": _WORDS[1], "min_score": 0.5},
        "words that say nothing of time and place": plain | {"words": "a red dog"},
    }


def run_search(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Run a search case on an index file."""
    query = Query(np.array(given["codes"], np.int8), given["scale"], given["k"], given["min_score"])
    with closing(Index(path)) as index:
        model = index.active_model()
        assert model is not None
        selected = index.select_ids(filter_of(given["where"])) if given["where"] else None
        matrix = ScanMatrix.load(index, model)
        if fired := read_signals(given.get("words", "")):
            return _facts(ranked_by_signals(index, matrix, query, selected, fired, index.exif_columns()))
        (scores, ids), searched = matrix.search(query, selected)
        uris = [match.uri for match in index.matches(ids.tolist(), scores.tolist())]
    return {"ids": ids.tolist(), "scores": [float(score) for score in scores], "uris": uris, "searched": searched}


def _facts(results: Results) -> dict[str, Any]:
    return {
        "ids": [match.id for match in results.matches],
        "scores": [match.score for match in results.matches],
        "uris": [match.uri for match in results.matches],
        "searched": results.searched,
        "signals": [[signal.kind, signal.words] for signal in results.signals],
        "told": [dict(match.signals) for match in results.matches],
    }


def filter_of(where: dict[str, Any]) -> Filter:
    """Read a filter: dates as ISO 8601, where a day without a time is a date."""
    plain = {key: where[key] for key in ("min_bytes", "max_bytes", "min_side", "ids") if key in where}
    found = Filter(**plain, under=tuple(where.get("under", ())))
    for key in ("since", "until"):
        if key in where:
            text = where[key]
            moment: Any = datetime.fromisoformat(text) if "T" in text else date.fromisoformat(text)
            found = replace(found, **{key: moment})
    return replace(found, box=GeoBox(**where["box"])) if "box" in where else found


def _search_case(path: Path, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "input": given, "expect": run_search(path, given), "tolerance": 0}


def _png(width: int, height: int, colour: tuple[int, int, int], exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG", exif=exif or Image.Exif())
    return file.getvalue()
