"""Exact search: held against sorting everything with 64-bit integers."""

from __future__ import annotations

import numpy as np
import pytest

from magicmm import topk
from magicmm.quantise import quantise
from magicmm.topk import Query, Segment, merge, top_k


def segment_of(rows: int, dim: int, seed: int, distinct: int | None = None, alive: np.ndarray | None = None) -> Segment:
    """Random rows with shuffled ids; `distinct` makes them repeat, which makes ties."""
    random = np.random.default_rng(seed)
    codes = random.integers(-127, 128, (distinct or rows, dim)).astype(np.int8)
    codes[:, 0] = np.where(codes[:, 0] == 0, 1, codes[:, 0])
    codes = codes[random.integers(0, len(codes), rows)] if distinct else codes
    scales = (1 / np.sqrt((codes.astype(np.int64) ** 2).sum(axis=1))).astype(np.float32)
    return Segment(codes, scales, random.permutation(rows).astype(np.int64) * 3 + 5, alive)


def query_of(dim: int, k: int, min_score: float | None = None) -> Query:
    codes = np.random.default_rng(99).integers(-127, 128, dim).astype(np.int8)
    return Query(codes, float(1 / np.sqrt((codes.astype(np.int64) ** 2).sum())), k, min_score)


def sort_everything(segment: Segment, query: Query, selected: np.ndarray | None) -> tuple[list[float], list[int]]:
    dots = segment.codes.astype(np.int64) @ query.codes.astype(np.int64)
    scores = dots.astype(np.float32) * (segment.scales * np.float32(query.scale))
    keep = np.ones(len(segment), np.bool_)
    for mask in (selected, segment.alive):
        keep &= True if mask is None else mask
    if query.min_score is not None:
        keep &= scores >= np.float32(query.min_score)
    rows = sorted(np.flatnonzero(keep), key=lambda row: (-scores[row], segment.ids[row]))[: query.k]
    return [float(scores[row]) for row in rows], [int(segment.ids[row]) for row in rows]


def check(segment: Segment, query: Query, selected: np.ndarray | None = None, threads: int = 1) -> None:
    scores, ids = top_k(segment, query, selected, threads)
    assert (scores.tolist(), ids.tolist()) == sort_everything(segment, query, selected)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64


@pytest.mark.parametrize("k", [1, 2, 10, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("rows", [0, 1, 2, 1000, 1024, 1025])
def test_any_k_of_any_number_of_rows(rows: int, k: int) -> None:
    check(segment_of(rows, 8, rows), query_of(8, k))


@pytest.mark.parametrize("dim", [1, 2, 3, 15, 16, 17, 63, 64, 65, 384, 1536])
def test_any_dimension(dim: int) -> None:
    check(segment_of(700, dim, dim), query_of(dim, 50))


def test_dots_stay_exact_at_their_largest() -> None:
    codes = np.full((3, 16384), 127, np.int8)
    codes[1, 0] = 126
    codes[2] = -127
    scales = np.full(3, 1 / (127 * 128), np.float32)
    check(Segment(codes, scales, np.arange(3)), Query(codes[0], float(scales[0]), 3))


@pytest.mark.parametrize("distinct", [1, 2, 10])
@pytest.mark.parametrize("k", [1, 7, 100, 5000])
@pytest.mark.parametrize("threads", [1, 2])
def test_massive_ties_go_by_id(distinct: int, k: int, threads: int) -> None:
    check(segment_of(40_000, 4, distinct, distinct), query_of(4, k), threads=threads)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.079, 0.0799, 0.08, 0.0801, 0.09, 0.5, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_masks_around_the_point_where_rows_are_gathered(share: float, threads: int) -> None:
    segment = segment_of(20_000, 8, 1, 3000)
    selected = np.zeros(20_000, np.bool_)
    selected[np.random.default_rng(2).permutation(20_000)[: round(share * 20_000)]] = True
    check(segment, query_of(8, 60), selected, threads)


@pytest.mark.parametrize("threads", [0, 1, 2, 64])
def test_threads_change_nothing(threads: int) -> None:
    check(segment_of(100_000, 8, 3, 500), query_of(8, 300), threads=threads)


def test_dead_rows_do_not_take_part() -> None:
    alive = np.random.default_rng(1).random(5000) < 0.3
    selected = np.random.default_rng(2).random(5000) < 0.5
    segment = segment_of(5000, 8, 5, 50, alive)
    check(segment, query_of(8, 40))
    check(segment, query_of(8, 40), selected)
    check(segment, query_of(8, 40), ~alive)


@pytest.mark.parametrize("min_score", [-1.0, 0.0, 0.3, 0.9, 1.0, 2.0])
def test_min_score_before_k(min_score: float) -> None:
    check(segment_of(5000, 8, 6), query_of(8, 100, min_score))


def test_a_score_equal_to_min_score_passes() -> None:
    segment, query = segment_of(3000, 8, 7, 30), query_of(8, 10)
    best = float(top_k(segment, query)[0][0])
    exact = Query(query.codes, query.scale, 10, best)
    assert len(top_k(segment, exact)[1]) > 0
    check(segment, exact)
    above = Query(query.codes, query.scale, 10, float(np.nextafter(np.float32(best), np.float32(2))))
    assert len(top_k(segment, above)[1]) == 0


def test_min_score_nan_finds_nothing() -> None:
    assert len(top_k(segment_of(100, 8, 8), query_of(8, 5, float("nan")))[1]) == 0


def test_a_mapped_file_is_searched_in_place(tmp_path: object) -> None:
    segment = segment_of(3000, 16, 9)
    path = f"{tmp_path}/codes"
    segment.codes.tofile(path)
    mapped = np.memmap(path, np.int8, "r", shape=segment.codes.shape)
    check(Segment(mapped, segment.scales, segment.ids), query_of(16, 30))


def test_blocks_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BLOCK_ROWS", "_FIRST_BLOCK_ROWS", "_GATHER_ROWS"):
        monkeypatch.setattr(topk, name, 1)
    selected = np.arange(200) % 20 == 0
    check(segment_of(200, 8, 10, 5), query_of(8, 9), threads=2)
    check(segment_of(200, 8, 10, 5), query_of(8, 9), selected, threads=2)


def test_a_vector_finds_itself_with_a_cosine_of_one() -> None:
    segment = segment_of(500, 384, 11)
    scores, ids = top_k(segment, Query(segment.codes[123], float(segment.scales[123]), 1))
    assert ids.tolist() == [int(segment.ids[123])]
    assert scores[0] == pytest.approx(1, abs=1e-6)


def test_merge_ranks_across_segments() -> None:
    one = np.array([0.9, 0.5], np.float32), np.array([7, 3])
    other = np.array([0.9, 0.7, 0.5], np.float32), np.array([2, 9, 1])
    scores, ids = merge([one, other], 4)
    assert ids.tolist() == [2, 7, 9, 1]
    assert scores.tolist() == [np.float32(score) for score in (0.9, 0.9, 0.7, 0.5)]


@pytest.mark.parametrize("threads", [1, 2])
def test_faiss_finds_the_same_photos(threads: int) -> None:
    """Another library, in float32 over what the codes stand for."""
    faiss = pytest.importorskip("faiss")
    random = np.random.default_rng(5)
    vectors = random.normal(size=(40_000, 64)).astype(np.float32)
    codes, scales = quantise(vectors)
    (query_codes,), (query_scale,) = quantise(random.normal(size=(1, 64)).astype(np.float32))
    index = faiss.IndexFlatIP(64)
    index.add(codes.astype(np.float32) * scales[:, None])
    expected_scores, expected_rows = index.search((query_codes * query_scale)[None].astype(np.float32), 50)
    segment = Segment(codes, scales, np.arange(len(codes)))
    scores, ids = top_k(segment, Query(query_codes, float(query_scale), 50), threads=threads)
    assert np.array_equal(ids, expected_rows[0])
    assert np.allclose(scores, expected_scores[0], atol=1e-6)
