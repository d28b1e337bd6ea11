"""Visual documents: both layouts of ViDoRe, the 24 sets of VisDoc, nDCG against pytrec_eval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from magicmm.errors import ErrorCode, MagicError
from magicmm_model import instructions
from magicmm_training.evaluation.benchmarks.registry import open_benchmark
from magicmm_training.evaluation.benchmarks.visdoc import SETS, averages_of
from magicmm_training.evaluation.evaluate import evaluate
from magicmm_training.recipe import Benchmark
from toy_embedders import Constant, Guess, Oracle, thing_image


def benchmark(kind: str = "vidore", **options: Any) -> Benchmark:
    return Benchmark(name=kind, format=kind, path="data", options=options)


def write_table(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def picture(number: int) -> dict[str, Any]:
    return {"bytes": thing_image(number), "path": None}


def write_beir(
    folder: Path,
    pages: int = 8,
    labels: Sequence[tuple[Any, Any, float]] | None = None,
    names: tuple[str, str] = ("query-id", "corpus-id"),
    split: str = "test",
) -> None:
    """Write pages about 0, 1, ... and questions about the first of each query's labels."""
    query, corpus = names
    labels = [(n, n, 1) for n in range(pages)] if labels is None else labels
    asked = {name: page for name, page, _ in reversed(labels)}
    write_table(folder / "corpus", [{corpus: n, "image": picture(n)} for n in range(pages)], split)
    questions = [{query: n, "query": f"thing {page}?", "language": "english"} for n, page in asked.items()]
    write_table(folder / "queries", questions, split)
    write_table(folder / "qrels", [{query: q, corpus: c, "score": s} for q, c, s in labels], split)


@pytest.mark.parametrize("names", [("query-id", "corpus-id"), ("query_id", "corpus_id")])
def test_queries_corpus_and_labels_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    write_beir(tmp_path / "data" / "arxivqa", names=names)
    result = evaluate(Oracle(), [benchmark()], tmp_path)
    assert [task.name for task in result.tasks] == ["arxivqa"]
    assert result.tasks[0].values["ndcg@5"].score == 1
    content = open_benchmark(benchmark(), tmp_path)[0].open()
    assert (content.candidates[0].max_tiles, content.candidates[0].instruction) == (4, instructions.DOCUMENT)
    assert [entry.content_id() for entry in content.candidates[1:3]] == [
        content.candidates[place].content_id() for place in (1, 2)
    ]


def test_graded_labels_as_trec_eval_counts_them(tmp_path: Path) -> None:
    labels = [(q, page, grade) for q in range(6) for page, grade in [(q, 3), ((q + 1) % 12, 1), ((q + 5) % 12, 2)]]
    write_beir(tmp_path / "data", 12, labels)
    model = Guess()
    task = evaluate(model, [benchmark()], tmp_path).tasks[0]
    content = open_benchmark(benchmark(), tmp_path)[0].open()
    scores = model.embed(content.queries) @ model.embed(list(content.candidates)).T
    run = {str(q): {str(page): float(score) for page, score in enumerate(row)} for q, row in enumerate(scores)}
    qrels: dict[str, dict[str, int]] = {}
    for q, page, grade in labels:
        qrels.setdefault(str(q), {})[str(page)] = int(grade)
    order = {query_id: str(place) for place, query_id in enumerate(content.query_ids)}
    theirs = pytrec_eval.RelevanceEvaluator(
        {order[q]: each for q, each in qrels.items()}, {"ndcg_cut.5,10", "recall.5"}
    )
    values = theirs.evaluate(run).values()
    for ours, name in (("ndcg@5", "ndcg_cut_5"), ("ndcg@10", "ndcg_cut_10"), ("recall@5", "recall_5")):
        mean = sum(each[name] for each in values) / len(values)
        assert task.values[ours].score == pytest.approx(mean, abs=1e-6)
    assert task.main == "ndcg@5"


def test_labels_without_gain_and_questions_without_answer_are_counted(tmp_path: Path) -> None:
    write_beir(tmp_path / "data", 4, [(0, 0, 1), (0, 1, 0), (1, 1, -1), (2, 2, 1)])
    result = evaluate(Oracle(), [benchmark()], tmp_path)
    task = result.tasks[0]
    assert (task.queries, task.facts["unanswerable_queries"], task.facts["labels_without_gain"]) == (2, 1, 2)
    assert task.values["ndcg@5"].score == 1


def test_a_label_outside_the_corpus_is_an_error(tmp_path: Path) -> None:
    write_beir(tmp_path / "data", 3, [(0, 0, 1), (1, 7, 1)])
    with pytest.raises(MagicError, match=r"row 2: the label names page '7'") as caught:
        evaluate(Oracle(), [benchmark()], tmp_path)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_questions_of_one_language(tmp_path: Path) -> None:
    write_beir(tmp_path / "data", 4)
    rows: list[dict[str, Any]] = [
        {"query-id": n, "query": f"thing {n}", "language": ["english", "french"][n % 2]} for n in range(4)
    ]
    write_table(tmp_path / "data" / "queries", rows)
    assert len(open_benchmark(benchmark(language="french"), tmp_path)[0].open().queries) == 2
    assert len(open_benchmark(benchmark(), tmp_path)[0].open().queries) == 4
    with pytest.raises(MagicError, match="0 queries"):
        open_benchmark(benchmark(language="welsh"), tmp_path)[0].open()


def test_one_table_of_questions_and_pages(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "thing 1?", "image": picture(1), "image_filename": "a.png"},
        {"query": "where is thing 1?", "image": picture(1), "image_filename": "a.png"},
        {"query": None, "image": picture(2), "image_filename": "b.png"},
        {"query": "thing 3?", "image": picture(3), "image_filename": "c.png"},
        {"query": "thing 3?", "image": picture(4), "image_filename": "d.png"},
    ]
    write_table(tmp_path / "data" / "docvqa", rows)
    content = open_benchmark(benchmark(), tmp_path)[0].open()
    assert [entry.text for entry in content.queries] == ["thing 1?", "where is thing 1?", "thing 3?"]
    assert len(content.candidates) == 4
    assert [sorted(labels) for labels in content.relevant] == [[0], [0], [2, 3]]
    assert content.facts["pages_without_question"] == 1
    assert content.facts["repeated_questions"] == 1
    assert content.documents is None


def test_pages_of_one_name_are_one_document_with_its_best_score(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "thing 1?", "image": picture(9), "image_filename": "a.png"},
        {"query": None, "image": picture(1), "image_filename": "a.png"},
        {"query": None, "image": picture(9), "image_filename": "b.png"},
        {"query": None, "image": picture(8), "image_filename": "c.png"},
    ]
    write_table(tmp_path / "data", rows)
    task = evaluate(Oracle(), [benchmark()], tmp_path).tasks[0]
    # Its second picture is about the question; as two documents the ideal would hold both.
    assert task.values["ndcg@5"].score == 1
    assert task.mean_pool == 3
    assert task.facts["documents_with_several_pictures"] == 1


def test_constant_models_get_chance(tmp_path: Path) -> None:
    write_beir(tmp_path / "data", 20)
    task = evaluate(Constant(), [benchmark()], tmp_path).tasks[0]
    assert task.values["hit@1"].score == pytest.approx(1 / 20)
    assert task.values["recall@5"].score == pytest.approx(5 / 20)
    assert task.values["ndcg@5"].pessimistic == 0
    assert any("one score" in warning for warning in task.warnings)


def test_several_sets_are_averaged(tmp_path: Path) -> None:
    write_beir(tmp_path / "data" / "one", 4)
    write_beir(tmp_path / "data" / "two", 6)
    result = evaluate(Oracle(), [benchmark(main="ndcg@10")], tmp_path)
    assert [(mean.name, mean.tasks, mean.of) for mean in result.means] == [("all", 2, 2)]
    assert {task.main for task in result.tasks} == {"ndcg@10"}


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("queries", [{"query-id": 0, "query": " "}], "'query': is empty"),
        ("queries", [{"query": "a"}], "'query-id': is missing"),
        ("queries", [{"query-id": 0, "query": "a"}] * 2, "comes twice"),
        ("corpus", [{"corpus-id": 0, "image": {"bytes": b"1", "path": None}}] * 2, "comes twice"),
        ("qrels", [{"query-id": 0, "corpus-id": 0, "score": "much"}], "'score': is no number"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, part: str, rows: list[dict[str, Any]], message: str) -> None:
    write_beir(tmp_path / "data", 3)
    write_table(tmp_path / "data" / part, rows)
    with pytest.raises(MagicError, match=message):
        open_benchmark(benchmark(), tmp_path)[0].open()


def test_no_data_set_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(MagicError, match="holds no data set") as caught:
        open_benchmark(benchmark(), tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_the_24_sets_of_visdoc() -> None:
    assert Counter(each.group for each in SETS) == {"ViDoRe-V1": 10, "ViDoRe-V2": 4, "VisRAG": 6, "OOD": 4}
    assert len({each.name for each in SETS}) == len({each.folder for each in SETS}) == 24
    # The paper's own row (2B): its group means recombine to its overall mean.
    means = {"ViDoRe-V1": 83.4, "ViDoRe-V2": 53.3, "VisRAG": 85.6, "OOD": 42.2}
    assert sum(means[each.group] for each in SETS) / 24 == pytest.approx(72.1, abs=0.1)
    assert [(mean.name, mean.tasks) for mean in averages_of(SETS[0], old=False)] == [("ViDoRe-V1", 10), ("all", 24)]


def test_visdoc_reads_the_fixed_pages_and_says_when_it_does_not(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_beir(root / "ViDoSeek-page-fixed", 5)
    write_beir(root / "ViDoSeek-page", 4)
    write_beir(root / "MMLongBench-doc", 3)
    write_beir(root / "ViDoRe_arxivqa", 6)
    write_beir(root / "VisRAG-Ret-Test-ChartQA", 7, split="train")
    found = {
        task.name: len(task.open().queries) for task in open_benchmark(benchmark("visdoc", partial=True), tmp_path)
    }
    assert found == {"ViDoRe_arxivqa": 6, "VisRAG_ChartQA": 7, "ViDoSeek-page": 5, "MMLongBench-doc": 3}
    old = evaluate(Oracle(), [benchmark("visdoc", partial=True, ood="old")], tmp_path)
    assert [task.name for task in old.tasks] == [
        "ViDoRe_arxivqa",
        "VisRAG_ChartQA",
        "ViDoSeek-page (old split)",
        "MMLongBench-doc",
    ]
    assert [task.queries for task in old.tasks] == [6, 7, 4, 3]
    assert {mean.name for mean in old.means} == {"ViDoRe-V1", "VisRAG", "OOD (old split)", "all (old split)"}
    assert all(mean.partial for mean in old.means)


def test_visdoc_asserts_sets_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="no data set ViDoRe_arxivqa"):
        open_benchmark(benchmark("visdoc"), tmp_path)
    for each in SETS:
        write_beir(tmp_path / "data" / each.folder, 2, split=each.split)
    tasks = open_benchmark(benchmark("visdoc"), tmp_path)
    assert [task.expected for task in tasks] == [each.queries for each in SETS]
    with pytest.raises(MagicError, match="has 2 queries, the published files have 500"):
        tasks[0].open()


def test_rows_of_json_lines_read_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part in ("queries", "corpus", "qrels"):
        (folder / part).mkdir(parents=True)
    (folder / "page.png").write_bytes(thing_image(1))
    (folder / "corpus" / "test.jsonl").write_text(json.dumps({"corpus-id": 1, "image": "page.png"}))
    (folder / "queries" / "test.jsonl").write_text(json.dumps({"query-id": 1, "query": "thing 1"}))
    (folder / "qrels" / "test.jsonl").write_text(json.dumps({"query-id": 1, "corpus-id": 1, "score": 1}))
    assert evaluate(Oracle(), [benchmark()], tmp_path).tasks[0].values["ndcg@5"].score == 1
