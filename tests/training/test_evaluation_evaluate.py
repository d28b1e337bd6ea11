"""The evaluation as a whole: what is refused, counted, kept, resampled, cut and reranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm.errors import ErrorCode, MagicError
from magicmm.quantise import quantise
from magicmm_model.templates import Side
from magicmm_training.entries import Entry
from magicmm_training.evaluation.bootstrap import interval, resampled
from magicmm_training.evaluation.evaluate import EvaluationOptions, evaluate
from magicmm_training.evaluation.grid import Storage, storages
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.rerank import Reordering
from magicmm_training.evaluation.result import EvaluationResult
from magicmm_training.evaluation.scoring import Vectors, mean_cosine, score
from magicmm_training.evaluation.task import Pools, Retrieval
from magicmm_training.recipe import Benchmark
from toy_embedders import DIM, Broken, Constant, Guess, Oracle, direction, thing_image, thing_of

BENCHMARK = Benchmark(name="things", format="pairs", path="data")


def text(words: str) -> Entry:
    return Entry(words, None, "Find it.", Side.QUERY)


def retrieval(**changes: Any) -> Retrieval:
    """Two queries, three candidates, the first two of which are right."""
    entries = [text(f"thing {number}") for number in range(3)]
    base = Retrieval(("a", "b"), entries[:2], entries, ({0: 1.0}, {1: 1.0}))
    return replace(base, **changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty pictures with texts about them."""
    folder = tmp_path / "data"
    folder.mkdir()
    for place in range(40):
        (folder / f"{place}.png").write_bytes(thing_image(place))
    rows = [
        {"query": {"text": f"thing {place}"}, "positive": {"image": f"{place}.png"}, "query_instruction": "Find it."}
        for place in range(40)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"queries": [], "query_ids": (), "relevant": ()},
        {"candidates": []},
        {"query_ids": ("a", "a")},
        {"query_ids": ("a",)},
        {"relevant": ({0: 1.0},)},
        {"relevant": ({0: 1.0}, {})},
        {"relevant": ({0: 1.0}, {3: 1.0})},
        {"relevant": ({0: 1.0}, {-1: 1.0})},
        {"documents": (0, 1)},
        {"pools": Pools((np.array([0, 1]),), (0,))},
        {"pools": Pools((np.array([0, 1]),), (0, 1))},
        {"pools": Pools((np.array([0, 1, 5]),), (0, 0))},
        {"pools": Pools((np.array([0, 1, 1]),), (0, 0))},
        {"pools": Pools((np.array([0, 2]),), (0, 0))},
        {"pools": Pools((np.array([], np.int64),), (0, 0))},
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(changes: dict[str, Any]) -> None:
    """Empty sets, labels outside the candidates or the pool, ids that come twice."""
    with pytest.raises(MagicError) as caught:
        retrieval(**changes)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_nan_vectors_stop_the_evaluation(root: Path) -> None:
    with pytest.raises(MagicError) as caught:
        evaluate(Broken(), [BENCHMARK], root)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_nan_scores_are_refused_even_without_an_embedder_that_checks() -> None:
    rows = np.eye(3, 4, dtype=np.float32)
    rows[2, 0] = np.nan
    vectors = Vectors(rows[:2], rows, np.ones(2, bool), np.ones(3, bool))
    with pytest.raises(MagicError, match="no finite numbers"):
        score(retrieval(), vectors, [Metric("hit", 1)])


@pytest.mark.parametrize("dim", [64, 100, 1536])
@pytest.mark.parametrize("asked", [1, 5, 17])
def test_equal_vectors_tie_exactly_whatever_the_matrix_product_rounds(dim: int, asked: int) -> None:
    """OpenBLAS gives equal rows different last bits at these sizes, which a ranking would take for an order."""
    random = np.random.default_rng(0)
    metric = Metric("hit", 1)
    for count in (17, 33, 1003):
        vector = random.normal(size=(1, dim)).astype(np.float32)
        queries = random.normal(size=(asked, dim)).astype(np.float32)
        content = Retrieval(
            tuple(map(str, range(asked))), [text("q")] * asked, [text("c")] * count, ({0: 1.0},) * asked
        )
        vectors = Vectors(queries, np.repeat(vector, count, axis=0), np.ones(asked, bool), np.ones(count, bool))
        scored = score(content, vectors, [metric])
        assert scored.constant == asked
        assert scored.expected[metric] == pytest.approx(np.full(asked, 1 / count))


def test_a_mean_over_pools_weighs_pools_not_queries() -> None:
    """Three queries that are right share a pool, one that is wrong has its own."""
    entries = [text(f"thing {number}") for number in range(4)]
    pools = Pools((np.array([0, 1]), np.array([2, 3])), (0, 0, 0, 1))
    content = Retrieval(
        tuple("abcd"), [entries[0]] * 4, entries, ({0: 1.0}, {0: 1.0}, {0: 1.0}, {2: 1.0}), pools, average="pools"
    )
    rows = np.eye(4, dtype=np.float32)
    vectors = Vectors(rows[[0, 0, 0, 3]], rows, np.ones(4, bool), np.ones(4, bool))
    metric = Metric("hit", 1)
    for each, expected in ((content, 0.5), (replace(content, average="queries"), 0.75)):
        scored = score(each, vectors, [metric])
        assert scored.weights @ scored.expected[metric] == pytest.approx(expected)
        assert scored.mean_pool == 2


def test_lost_queries_leave_the_weights_of_the_others_whole() -> None:
    entries = [text(f"thing {number}") for number in range(3)]
    content = Retrieval(tuple("abc"), entries, entries, ({0: 1.0}, {1: 1.0}, {2: 1.0}))
    rows = np.eye(3, dtype=np.float32)
    vectors = Vectors(rows, rows, np.array([True, False, True]), np.array([True, True, False]))
    scored = score(content, vectors, [Metric("hit", 1)])
    assert scored.kept == (0,)
    assert scored.weights.tolist() == [1]
    # What was lost competes no more, whatever its row holds.
    assert scored.mean_pool == 2


def test_collapse_is_said_and_health_is_not(root: Path) -> None:
    warnings = evaluate(Constant(), [BENCHMARK], root).tasks[0].warnings
    assert any("40 of 40 queries give all candidates one score" in warning for warning in warnings)
    assert any("mean cosine between candidate vectors is 1.0000" in warning for warning in warnings)
    assert evaluate(Oracle(), [BENCHMARK], root).tasks[0].warnings == ()


class Narrow(Oracle):
    """Knows everything, in a cone so narrow that float16 would lose it."""

    name = fingerprint = "narrow"

    def vector(self, entry: Entry) -> NDArray[np.float32]:
        vector = direction("centre") + 1e-2 * super().vector(entry)
        unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
        return unit


def test_a_narrow_cone_is_said_although_ranks_are_right(root: Path) -> None:
    task = evaluate(Narrow(), [BENCHMARK], root).tasks[0]
    assert task.values["hit@1"].score == 1
    assert any("mean cosine" in warning for warning in task.warnings)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = (rows @ rows.T)[~np.eye(9, dtype=bool)]
    assert mean_cosine(rows) == pytest.approx(pairs.mean(), abs=1e-6)


def test_n_is_what_was_scored_plus_what_was_lost(root: Path) -> None:
    (root / "data" / "5.png").write_bytes(b"broken")
    result = evaluate(Oracle(), [BENCHMARK], root, options=EvaluationOptions(max_bad_share=0.1))
    forward, backward = result.tasks
    assert (forward.queries, forward.scored, forward.unreadable_candidates) == (40, 39, 1)
    assert (backward.queries, backward.scored, backward.unreadable_queries) == (40, 39, 1)


def test_vectors_are_kept_between_runs_of_one_model(root: Path, tmp_path: Path) -> None:
    kept = tmp_path / "vectors"
    first, second = Oracle(), Oracle()
    result = evaluate(first, [BENCHMARK], root, vectors=kept)
    again = evaluate(second, [BENCHMARK], root, vectors=kept)
    assert first.embedded == result.embedded > 0
    assert second.embedded == again.embedded == 0
    assert again.tasks == result.tasks
    other = Guess()
    assert evaluate(other, [BENCHMARK], root, vectors=kept).embedded == other.embedded == result.embedded


def test_each_content_is_embedded_once(root: Path) -> None:
    model = Oracle()
    evaluate(model, [BENCHMARK, replace_name(BENCHMARK, "again")], root)
    # 40 texts and 40 pictures, each as a query and as a candidate.
    assert model.embedded == 160


def replace_name(benchmark: Benchmark, name: str) -> Benchmark:
    return benchmark.model_copy(update={"name": name})


def test_progress_reaches_the_end(root: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    options = EvaluationOptions(batch=7)
    evaluate(Oracle(), [BENCHMARK], root, options=options, progress=lambda *step: seen.append(step))
    assert seen[0] == ("things/query to target", 7, 80)
    assert {name for name, done, total in seen if done == total} == {"things/query to target", "things/target to query"}


class Forgetful(Oracle):
    """Reads two words of a text."""

    def truncates(self, entry: Entry) -> bool:
        return entry.text is not None and len(entry.text.split()) > 2

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def note(self, entry: Entry) -> None:
        self.seen += 1

    def notes(self) -> tuple[str, ...]:
        return (f"saw {self.seen} entries",)


def test_truncated_texts_are_counted_where_the_model_says(root: Path) -> None:
    rows = [
        {"query": {"text": words}, "positive": {"image": "1.png"}, "query_instruction": "Find it."}
        for words in ("thing 1", "a longer thing 1", "no", "one two three")
    ]
    (root / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(Forgetful(), [BENCHMARK], root)
    assert [task.truncated for task in result.tasks] == [2, 2]
    assert result.notes == ("saw 10 entries",)
    assert [task.truncated for task in evaluate(Oracle(), [BENCHMARK], root).tasks] == [None, None]


def test_no_benchmark_and_unknown_formats_are_errors(root: Path) -> None:
    with pytest.raises(MagicError, match="no benchmark"):
        evaluate(Oracle(), [], root)
    with pytest.raises(MagicError, match="no format 'imagenet'"):
        evaluate(Oracle(), [Benchmark(name="x", format="imagenet", path="data")], root)


def test_results_survive_json(root: Path) -> None:
    options = EvaluationOptions(dims=(8, DIM), precisions=("float32", "binary"))
    result = evaluate(Guess(), [BENCHMARK], root, ThingReader(), options)
    assert EvaluationResult.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["format"] == "magicmm-evaluation"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "magicmm-evaluation", "format_version": 2}', "null"])
def test_other_json_is_no_result(text: str) -> None:
    with pytest.raises(MagicError, match="no result of an evaluation"):
        EvaluationResult.from_json(text)


# Confidence intervals


def test_intervals_are_those_of_the_binomial() -> None:
    values = (np.arange(400) < 300).astype(np.float64)[:, None]
    low, high = interval(resampled(values, np.full(400, 1 / 400), seed=1)[:, 0])
    # 1.96 * sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - 0.0424, abs=0.006)
    assert high == pytest.approx(0.75 + 0.0424, abs=0.006)


def test_intervals_are_the_same_every_time_and_enclose_the_score(root: Path) -> None:
    first, second = (evaluate(Guess(), [BENCHMARK], root).tasks[0].values["hit@5"] for _ in range(2))
    assert first == second
    assert first.low <= first.score <= first.high
    certain = evaluate(Oracle(), [BENCHMARK], root).tasks[0].values["hit@1"]
    assert [certain.low, certain.high] == pytest.approx([1, 1])


def test_weights_of_queries_are_resampled_too() -> None:
    values, weights = np.array([[1.0], [0.0], [0.0]]), np.array([0.5, 0.25, 0.25])
    means = resampled(values, weights, seed=0, rounds=4000)[:, 0]
    assert set(np.round(means, 6)) <= {0.0, 1.0, 0.5, round(1 / 2, 6), round(1 / 1.5 * 1, 6), round(0.8, 6)}
    assert 0.4 < means.mean() < 0.6


# Cut and coarse vectors


def test_int8_vectors_have_the_cosines_of_the_index() -> None:
    vectors = np.stack([direction(number) for number in range(6)])
    codes, scales = quantise(vectors)
    index = (codes.astype(np.int32) @ codes.T.astype(np.int32)) * np.outer(scales, scales)
    stored = Storage(DIM, "int8").stored(vectors)
    assert stored @ stored.T == pytest.approx(index, abs=1e-6)


def test_binary_vectors_have_the_order_of_hamming_distances() -> None:
    vectors = np.stack([direction(number) for number in range(20)])
    bits = vectors[:, :32] >= 0
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    stored = Storage(32, "binary").stored(vectors)
    assert stored @ stored.T == pytest.approx(1 - 2 * distances / 32, abs=1e-6)


@pytest.mark.parametrize(
    ("storage", "bytes_"), [(Storage(64, "float32"), 256), (Storage(64, "int8"), 68), (Storage(20, "binary"), 3)]
)
def test_bytes_of_a_vector(storage: Storage, bytes_: int) -> None:
    assert storage.bytes == bytes_


def test_the_grid_measures_every_combination(root: Path) -> None:
    options = EvaluationOptions(dims=(4, 16, DIM), precisions=("float32", "int8", "binary"))
    result = evaluate(Oracle(), [BENCHMARK], root, options=options)
    assert [(cell.dim, cell.precision) for cell in result.grid] == [
        (dim, precision) for dim in (4, 16, DIM) for precision in ("float32", "int8", "binary")
    ]
    cells = {(cell.dim, cell.precision): cell for cell in result.grid}
    assert cells[DIM, "float32"].score == pytest.approx(np.mean([task.values["hit@1"].score for task in result.tasks]))
    # 16 patterns of 4 signs cannot tell 40 things apart; equal patterns are ties.
    assert cells[4, "binary"].score < 0.5 < cells[4, "int8"].score
    assert set(cells[4, "binary"].scores) == {"things/query to target", "things/target to query"}
    assert evaluate(Oracle(), [BENCHMARK], root).grid == ()


@pytest.mark.parametrize(
    ("dims", "precisions", "message"),
    [((0,), (), "not 0"), ((DIM + 1,), (), f"{DIM} numbers, not {DIM + 1}"), ((), ("int4",), "no precision 'int4'")],
)
def test_impossible_grids_are_refused(dims: tuple[int, ...], precisions: tuple[str, ...], message: str) -> None:
    with pytest.raises(MagicError, match=message):
        storages(dims, precisions, DIM)


def test_vectors_that_begin_with_zeros_cannot_be_cut() -> None:
    with pytest.raises(MagicError, match="0 in its first 2 numbers"):
        Storage(2, "float32").stored(np.array([[0, 0, 1]], np.float32))


# Reranking


class ThingReader:
    """Sees whether query and candidate are about the same."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> NDArray[np.float32]:
        self.asked.append(len(candidates))
        return np.array([thing_of(query) == thing_of(candidate) for candidate in candidates], np.float32)


class Undecided(ThingReader):
    """Finds all equally good."""

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> NDArray[np.float32]:
        return np.zeros(len(candidates), np.float32)


class Overflowing(ThingReader):
    """Gives a score that is no number."""

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> NDArray[np.float32]:
        return np.full(len(candidates), np.nan, np.float32)


class Short(ThingReader):
    """Forgets a candidate."""

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> NDArray[np.float32]:
        return np.zeros(len(candidates) - 1, np.float32)


def test_a_perfect_reranker_lifts_what_the_embedder_had_among_its_best(root: Path) -> None:
    reader = ThingReader()
    result = evaluate(Guess(), [BENCHMARK], root, reader, EvaluationOptions(rerank_top=5))
    for task in result.tasks:
        assert task.reranked is not None
        assert task.reranked["hit@1"].score == pytest.approx(task.values["hit@5"].score)
        assert task.reranked["hit@5"].score == pytest.approx(task.values["hit@5"].score)
        assert task.reranked["hit@10"].score == pytest.approx(task.values["hit@10"].score)
    assert result.rerank is not None
    assert (result.rerank.top, result.rerank.pairs) == (5, 2 * 40 * 5)
    assert reader.asked == [5] * 80
    assert result.rerank.seconds >= 0


def test_an_undecided_reranker_gets_chance_among_the_best(root: Path) -> None:
    task = evaluate(Oracle(), [BENCHMARK], root, Undecided(), EvaluationOptions(rerank_top=4)).tasks[0]
    assert task.reranked is not None
    assert task.reranked["hit@1"].score == pytest.approx(1 / 4)
    assert task.reranked["hit@1"].pessimistic == 0


def test_fewer_candidates_than_the_reranker_may_read(root: Path) -> None:
    task = evaluate(Guess(), [BENCHMARK], root, ThingReader(), EvaluationOptions(rerank_top=100)).tasks[0]
    assert task.reranked is not None
    assert task.reranked["hit@1"].score == 1


@pytest.mark.parametrize("reranker", [Overflowing(), Short()])
def test_broken_rerankers_stop_the_evaluation(root: Path, reranker: ThingReader) -> None:
    with pytest.raises(MagicError, match="The reranker gave") as caught:
        evaluate(Oracle(), [BENCHMARK], root, reranker)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_the_cut_favours_no_place_in_the_file() -> None:
    """Of equal scores, which ones the reranker sees is drawn."""
    reordering = Reordering(ThingReader(), 1)
    candidates = [text(f"thing {number}") for number in range(4)]
    found = 0
    for _ in range(200):
        scores = reordering.reorder(candidates[0], candidates, np.arange(4), np.zeros(4, np.float32))
        found += int(np.argmax(scores) == 0)
    assert 20 < found < 90
    with pytest.raises(MagicError, match="rerank_top is 0"):
        Reordering(ThingReader(), 0)
