"""Cases for quantise.json and search.json; all numbers are exact in float32, so the expected ones are too."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm.quantise import quantise
from magicmm.topk import Query, Segment, top_k

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]


def _bytes(name: str, count: int) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(count), np.uint8)


def codes(name: str, rows: int, dim: int) -> Codes:
    """Return int8 rows between -127 and 127 that depend on `name` alone."""
    values = _bytes(name, rows * dim).astype(np.int16) % 255 - 127
    return values.astype(np.int8).reshape(rows, dim)


def scales_of(rows: Codes) -> Floats:
    """Return 1 / length of each row, as docs/FORMAT.md, part 3 says."""
    squares = (rows.astype(np.int64) ** 2).sum(axis=1)
    scales: Floats = (1.0 / np.sqrt(squares.astype(np.float64))).astype(np.float32)
    return scales


def quantising() -> list[dict[str, Any]]:
    """Return the cases of quantise.json."""
    vectors: dict[str, list[float]] = {
        "one number": [0.25],
        "one negative number": [-3.0],
        "halves go to the even neighbour": [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 63.5],
        "the peak is negative": [0.1, -0.9, 0.3, 0.0],
        "zeros of both signs": [0.0, -0.0, 1.0, 0.0],
        "one hot": [0.0] * 15 + [1.0],
        "all equal": [0.125] * 64,
        "very small numbers": [1e-30, -2e-30, 5e-31, 0.0],
        "very large numbers": [1e30, -2e30, 5e29, 0.0],
        "a wide range": [1.0, 0.00390625, 0.0039, 0.00394, -0.0118, 1e-20],
    }
    for dim in (2, 3, 8, 33, 128, 384):
        words = _bytes(f"vector {dim}", 2 * dim).view("<u2").astype(np.float32) - 32768
        vectors[f"noise of {dim}"] = (words / np.float32(524288)).tolist()
    cases = []
    for name, numbers in vectors.items():
        row = np.array([numbers], np.float32)
        rows, scales = quantise(row)
        given: dict[str, Any] = {"operation": "quantise", "vector": [float(number) for number in row[0]]}
        expect = {"codes": rows[0].tolist(), "scale": float(scales[0])}
        cases.append({"name": name, "input": given, "expect": expect, "tolerance": 0})
    for dim in (1, 7, 64, 384, 1536):
        query, photo = codes(f"query {dim}", 1, dim), codes(f"photo {dim}", 1, dim)
        pair = {"query": _vector(query), "photo": _vector(photo)}
        segment = Segment(photo, scales_of(photo), np.array([1], np.int64))
        score = top_k(segment, Query(query[0], float(scales_of(query)[0]), 1))[0][0]
        given = {"operation": "score", **pair}
        cases.append({"name": f"score of {dim}", "input": given, "expect": {"score": float(score)}, "tolerance": 0})
    return cases


def searches() -> list[dict[str, Any]]:
    """Return the cases of search.json."""
    noise = codes("rows", 40, 16)
    tied = np.repeat(codes("tied", 4, 16), 10, axis=0)
    ordered = np.arange(1, 41)
    shuffled = np.argsort(_bytes("ids", 40), kind="stable") * 7 + 3
    some = _bytes("some", 40) % 2 == 0
    few = np.isin(np.arange(40), (3, 17))
    best = _search("", noise, ordered, 1)["expect"]["scores"][0]
    return [
        _search("the best three", noise, ordered, 3),
        _search("the best one", noise, ordered, 1),
        _search("all in order", noise, shuffled, 40),
        _search("k larger than the matrix", noise, ordered, 1000),
        _search("ties go by id", tied, ordered, 15),
        _search("ties go by id, not by row", tied, shuffled, 15),
        _search("ties across the cut", tied, shuffled, 7),
        _search("all rows equal", np.repeat(noise[:1], 40, axis=0), shuffled, 5),
        _search("min_score cuts", noise, ordered, 40, min_score=0.125),
        _search("min_score equal to the best score keeps it", noise, ordered, 40, min_score=best),
        _search("min_score of 1 finds nothing", noise, ordered, 40, min_score=1.0),
        _search("min_score below every score", noise, ordered, 40, min_score=-1.0),
        _search("half of the rows selected", noise, shuffled, 10, selected=some),
        _search("two rows selected", noise, shuffled, 10, selected=few),
        _search("no row selected", noise, ordered, 10, selected=np.zeros(40, np.bool_)),
        _search("dead rows", noise, shuffled, 10, alive=some),
        _search("dead rows and a selection", noise, shuffled, 40, alive=some, selected=few | (np.arange(40) < 20)),
        _search("selection and min_score on ties", tied, shuffled, 6, selected=some, min_score=-0.5),
        _search("an empty matrix", noise[:0], ordered[:0], 5),
        _search("one dimension", codes("thin", 9, 1), np.arange(9, 0, -1), 4),
        _search("more rows than a block", codes("tall", 1500, 4), np.arange(3000, 0, -2), 12),
    ]


def segment_of(given: dict[str, Any]) -> tuple[Segment, NDArray[np.bool_] | None]:
    """Read the matrix and the selection of a search case."""
    rows = np.frombuffer(bytes.fromhex(given["codes_hex"]), np.int8).reshape(len(given["ids"]), given["dim"])
    alive, selected = (None if given[key] is None else np.array(given[key], np.bool_) for key in ("alive", "selected"))
    scales = np.array(given["scales"], np.float32)
    return Segment(rows, scales, np.array(given["ids"], np.int64), alive), selected


def query_of(given: dict[str, Any]) -> Query:
    """Read the query of a search case."""
    query = given["query"]
    return Query(np.array(query["codes"], np.int8), query["scale"], given["k"], given["min_score"])


def _search(name: str, rows: Codes, ids: NDArray[Any], k: int, **options: Any) -> dict[str, Any]:
    given = {
        "dim": rows.shape[1],
        "codes_hex": rows.tobytes().hex(),
        "scales": [float(scale) for scale in scales_of(rows)],
        "ids": ids.tolist(),
        "query": _vector(codes("query", 1, rows.shape[1])),
        "k": k,
        "min_score": options.get("min_score"),
        "selected": _flags(options.get("selected")),
        "alive": _flags(options.get("alive")),
    }
    segment, selected = segment_of(given)
    scores, found = top_k(segment, query_of(given), selected)
    expect = {"ids": found.tolist(), "scores": [float(score) for score in scores]}
    return {"name": name, "input": given, "expect": expect, "tolerance": 0}


def _vector(row: Codes) -> dict[str, Any]:
    return {"codes": row[0].tolist(), "scale": float(scales_of(row)[0])}


def _flags(flags: Any) -> list[bool] | None:
    return None if flags is None else [bool(flag) for flag in flags]
