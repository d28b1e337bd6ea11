"""Pictures and captions in their public layouts: COCO, Flickr30K, ShareGPT4V, Urban1K, and folders of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_training.evaluation.benchmarks.registry import open_benchmark
from magicmm_training.evaluation.benchmarks.sharegpt4v import FILE, first_values
from magicmm_training.evaluation.benchmarks.two_way import Captioned, image_to_text, text_to_image
from magicmm_training.evaluation.evaluate import EvaluationOptions, evaluate
from magicmm_training.evaluation.result import EvaluationResult
from magicmm_training.evaluation.task import MISSING, entries_of
from magicmm_training.recipe import Benchmark
from toy_embedders import Constant, Guess, Oracle, thing_image


def benchmark(kind: str, **options: Any) -> Benchmark:
    return Benchmark(name=kind, format=kind, path="data", options=options)


def scores(result: EvaluationResult, metric: str = "hit@1") -> dict[str, float]:
    return {task.name: task.values[metric].score for task in result.tasks}


def write_karpathy(root: Path, dataset: str, captions: list[int], split: str = "test") -> None:
    """Write pictures about 0, 1, ..., each with so many captions; one more picture is for training."""
    folder = root / "data"
    folder.mkdir(exist_ok=True)
    images = []
    sentence = 0
    for place, count in enumerate([*captions, 5]):
        name = f"{place:012}.png"
        at = folder / "val2014" if dataset == "coco" else folder / "images"
        at.mkdir(exist_ok=True)
        (at / name).write_bytes(thing_image(place))
        sentences = [
            {"raw": f"thing {place}, caption {number}", "imgid": place, "sentid": sentence + number}
            for number in range(count)
        ]
        sentence += count
        images.append(
            {
                "filename": name,
                "imgid": place,
                "split": split if place < len(captions) else "train",
                "sentences": sentences,
                "sentids": [each["sentid"] for each in sentences],
            }
            | ({"filepath": "val2014", "cocoid": 100 + place} if dataset == "coco" else {})
        )
    (folder / f"dataset_{dataset}.json").write_text(json.dumps({"dataset": dataset, "images": images}))


def test_flickr_in_karpathys_split(tmp_path: Path) -> None:
    write_karpathy(tmp_path, "flickr30k", [5, 5, 5, 5])
    flickr = benchmark("karpathy", dataset="flickr30k", partial=True)
    there, back = (task.open() for task in open_benchmark(flickr, tmp_path))
    assert (len(there.queries), len(there.candidates)) == (4, 20)
    assert (len(back.queries), len(back.candidates)) == (20, 4)
    assert there.queries[0].instruction == INSTRUCTIONS[TaskGroup.IMAGE_TO_TEXT]["Flickr30K"].query
    assert back.queries[0].instruction == INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["Flickr30K"].query
    result = evaluate(Oracle(), [flickr], tmp_path)
    assert scores(result) == {"image to text": 1.0, "text to image": 1.0}


def test_captions_find_their_picture_by_id_and_only_the_first_five_count(tmp_path: Path) -> None:
    # With 6, 3 and 5 captions, the picture of caption i is not i // 5.
    write_karpathy(tmp_path, "coco", [6, 3, 5, 5, 5])
    tasks = {task.name: task for task in open_benchmark(benchmark("karpathy", partial=True), tmp_path)}
    assert list(tasks) == [
        "whole image to text",
        "whole text to image",
        "five parts image to text",
        "five parts text to image",
    ]
    content = tasks["whole text to image"].open()
    assert [next(iter(labels)) for labels in content.relevant] == [0] * 5 + [1] * 3 + [2] * 5 + [3] * 5 + [4] * 5
    assert content.facts["captions_beyond_the_fifth"] == 1
    found = scores(evaluate(Oracle(), [benchmark("karpathy", partial=True)], tmp_path))
    assert set(found.values()) == {1.0}


def test_recall_by_an_independent_count(tmp_path: Path) -> None:
    """Compare with ranks counted one by one, the way the papers describe it."""
    write_karpathy(tmp_path, "coco", [5] * 30)
    model = Guess()
    result = evaluate(model, [benchmark("karpathy", partial=True)], tmp_path)
    there, back, parts, _ = (task.open() for task in open_benchmark(benchmark("karpathy", partial=True), tmp_path))
    images, texts = model.embed(there.queries), model.embed(there.candidates)
    for depth in (1, 5, 10):
        best = np.argsort(-(images @ texts.T), axis=1)[:, :depth]
        expected = np.mean([any(caption // 5 == image for caption in best[image]) for image in range(30)])
        assert scores(result, f"hit@{depth}")["whole image to text"] == pytest.approx(expected)
        in_parts = []
        for part in range(5):
            own = images[part * 6 : part * 6 + 6] @ texts[part * 30 : part * 30 + 30].T
            best = np.argsort(-own, axis=1)[:, :depth]
            in_parts.append(np.mean([any(caption // 5 == image for caption in best[image]) for image in range(6)]))
        assert scores(result, f"hit@{depth}")["five parts image to text"] == pytest.approx(np.mean(in_parts))
    texts, images = model.embed(back.queries), model.embed(back.candidates)
    first = np.argmax(texts @ images.T, axis=1)
    assert scores(result)["whole text to image"] == pytest.approx(np.mean(first == np.arange(150) // 5))
    assert parts.average == "pools"


def test_five_parts_are_averaged_as_parts() -> None:
    """Parts of unequal numbers of captions weigh the same."""
    content = Captioned(
        ("a", "b"), (thing_image(0), thing_image(1)), (("thing 0", 0), ("x", 0), ("y", 0), ("thing 1", 1))
    )
    retrieval = text_to_image(content, "MSCOCO", 2)
    assert retrieval.pools is not None
    assert [places.tolist() for places in retrieval.pools.members] == [[0], [1]]
    assert retrieval.pools.of_query == (0, 0, 0, 1)
    assert retrieval.average == "pools"


def test_one_caption_of_two_pictures_is_a_tie(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for place in range(4):
        (tmp_path / "data" / f"{place}.png").write_bytes(thing_image(place % 2))
        (tmp_path / "data" / f"{place}.txt").write_text(f"thing {place % 2}")
    result = evaluate(Oracle(), [benchmark("pairs")], tmp_path)
    # Each has a double: without luck in the order, half.
    for task in result.tasks:
        assert (task.values["hit@1"].expected, task.values["hit@1"].pessimistic) == (0.5, 0)
        assert task.values["hit@5"].pessimistic == 1


def test_a_picture_without_captions_asks_nothing_but_can_be_found() -> None:
    content = Captioned(("a", "b"), (thing_image(0), thing_image(1)), (("thing 1", 1),))
    assert image_to_text(content, "MSCOCO").query_ids == ("b",)
    assert image_to_text(content, "MSCOCO").facts["images_without_caption"] == 1
    assert len(text_to_image(content, "MSCOCO").candidates) == 2


def test_parquet_with_lists_of_captions_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [
        {"image": {"bytes": thing_image(place), "path": None}, "text": [f"thing {place}, {n}" for n in range(5)]}
        for place in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "test-00000-of-00001.parquet")
    flickr = benchmark("karpathy", dataset="flickr30k", partial=True)
    assert set(scores(evaluate(Oracle(), [flickr], tmp_path)).values()) == {1.0}


def test_published_sizes_are_asserted(tmp_path: Path) -> None:
    write_karpathy(tmp_path, "flickr30k", [5, 5])
    with pytest.raises(MagicError, match=r"has 2 queries, the published files have 1,000"):
        evaluate(Oracle(), [benchmark("karpathy", dataset="flickr30k")], tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no pictures of split"),
        ({}, "no list of images"),
        ([{"filename": "a.png", "imgid": 0, "split": "test"}], "'sentences': is missing"),
        ([{"filename": "a.png", "imgid": 0, "split": "test", "sentences": [{"raw": " "}]}], r"captions\[0\]"),
        ([{"filename": "a.png", "imgid": 0, "split": "test", "sentences": [{"raw": "a"}]}] * 2, "there twice"),
        ([3], "'split': is missing"),
    ],
)
def test_broken_karpathy_files(tmp_path: Path, images: Any, message: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    with pytest.raises(MagicError, match=message):
        open_benchmark(benchmark("karpathy", partial=True), tmp_path)[0].open()


def write_urban(root: Path, count: int) -> None:
    for name in ("image", "caption"):
        (root / "data" / name).mkdir(parents=True)
    for place in range(count):
        (root / "data" / "image" / f"{place}.jpg").write_bytes(thing_image(place))
        (root / "data" / "caption" / f"{place}.txt").write_text(f"A street.\nIt shows thing {place}.\n")


def test_urban1k(tmp_path: Path) -> None:
    write_urban(tmp_path, 12)
    assert set(scores(evaluate(Oracle(), [benchmark("urban1k", partial=True)], tmp_path)).values()) == {1.0}
    whole = open_benchmark(benchmark("urban1k", partial=True), tmp_path)[1].open()
    assert whole.queries[0].text == "A street. It shows thing 0."
    assert whole.query_ids[:3] == ("0#0", "1#0", "10#0")  # in the order of names, on every system
    line = open_benchmark(benchmark("urban1k", partial=True, first_line=True), tmp_path)[1].open()
    assert {entry.text for entry in line.queries} == {"A street."}
    with pytest.raises(MagicError, match="12 queries, the published files have 1,000"):
        open_benchmark(benchmark("urban1k"), tmp_path)[0].open()


def test_missing_and_broken_pictures_are_skipped_and_counted_up_to_a_share(tmp_path: Path) -> None:
    write_urban(tmp_path, 20)
    (tmp_path / "data" / "image" / "3.jpg").unlink()
    (tmp_path / "data" / "image" / "7.jpg").write_bytes(b"no picture")
    urban = [benchmark("urban1k", partial=True)]
    with pytest.raises(MagicError, match=r"2 of 40 entries of urban1k/image to text cannot be read") as caught:
        evaluate(Oracle(), urban, tmp_path)
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    there, back = evaluate(Oracle(), urban, tmp_path, options=EvaluationOptions(max_bad_share=0.05)).tasks
    assert (there.queries, there.scored, there.unreadable_queries, there.unreadable_candidates) == (20, 18, 2, 0)
    # Captions whose picture is lost cannot be scored either.
    assert (back.queries, back.scored, back.unreadable_queries, back.unreadable_candidates) == (20, 18, 0, 2)
    assert (there.values["hit@1"].score, back.values["hit@1"].score) == (1, 1)


def test_nothing_readable_is_an_error_not_a_score(tmp_path: Path) -> None:
    write_urban(tmp_path, 3)
    for path in (tmp_path / "data" / "image").iterdir():
        path.write_bytes(b"")
    with pytest.raises(MagicError, match="No query of urban1k/image to text can be scored"):
        evaluate(Oracle(), [benchmark("urban1k", partial=True)], tmp_path, options=EvaluationOptions(max_bad_share=1))


def write_sharegpt(root: Path, rows: list[dict[str, Any]]) -> Path:
    folder = root / "data"
    (folder / "coco").mkdir(parents=True)
    for place in range(len(rows)):
        (folder / "coco" / f"{place}.png").write_bytes(thing_image(place))
    (folder / FILE).write_text(json.dumps(rows))
    return folder / FILE


def sharegpt_row(place: int) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": f"A long\ncaption of thing {place}"},
    ]
    return {"id": str(place), "image": f"coco/{place}.png", "conversations": turns}


def test_sharegpt4v(tmp_path: Path) -> None:
    write_sharegpt(tmp_path, [sharegpt_row(place) for place in range(15)])
    sharegpt = benchmark("sharegpt4v", partial=True)
    assert set(scores(evaluate(Oracle(), [sharegpt], tmp_path)).values()) == {1.0}
    content = open_benchmark(sharegpt, tmp_path)[1].open()
    assert content.queries[2].text == "A long caption of thing 2"
    assert content.queries[2].instruction == INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE]["ShareGPT4V"].query


def test_the_beginning_of_a_long_list_is_read_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    values = [{"text": "x" * 300_000, "at": place} for place in range(8)]
    path.write_text(json.dumps(values)[:-1000])  # the end is broken
    assert list(first_values(path, 7)) == values[:7]
    with pytest.raises(MagicError, match="no JSON list"):
        list(first_values(path, 9))
    path.write_text(" [ ]")
    assert list(first_values(path, 3)) == []
    path.write_text("[1, 2]")
    assert list(first_values(path, 3)) == [1, 2]


@pytest.mark.parametrize("text", ["{}", "", "[1, 2", "[nonsense]"])
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(MagicError, match="no JSON list") as caught:
        list(first_values(path, 5))
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_broken_sharegpt_rows_are_named(tmp_path: Path) -> None:
    write_sharegpt(tmp_path, [sharegpt_row(0), sharegpt_row(1) | {"conversations": [{"value": "a"}]}])
    with pytest.raises(MagicError, match="row 2, field 'conversations'"):
        open_benchmark(benchmark("sharegpt4v", partial=True), tmp_path)[0].open()


def test_a_folder_of_pictures_with_captions(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for place in range(6):
        (folder / f"photo {place}.png").write_bytes(thing_image(place))
        (folder / f"photo {place}.txt").write_text(f"thing {place}")
    (folder / "README.txt").write_text("no caption")
    (folder / "alone.png").write_bytes(thing_image(99))
    result = evaluate(Oracle(), [benchmark("pairs")], tmp_path)
    assert scores(result) == {"image to text": 1.0, "text to image": 1.0}
    assert result.tasks[0].facts["texts_without_picture"] == 1
    assert result.tasks[0].facts["pictures_without_caption"] == 1


def write_pairs(root: Path, rows: list[dict[str, Any]]) -> None:
    folder = root / "data"
    folder.mkdir(exist_ok=True)
    for place in range(12):
        (folder / f"{place}.png").write_bytes(thing_image(place))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_file_of_pairs_both_ways(tmp_path: Path) -> None:
    # Picture 0 has two captions; one caption belongs to two pictures; picture 9 is only a negative.
    rows: list[dict[str, Any]] = [
        {"query": {"text": text}, "positive": {"image": f"{place}.png"}, "query_instruction": "Find it."}
        for text, place in [("thing 0", 0), ("a thing 0", 0), ("thing 1", 1), ("thing 3", 3), ("thing 1", 11)]
    ]
    rows[0]["negatives"] = [{"image": "9.png"}]
    write_pairs(tmp_path, rows)
    forward, backward = open_benchmark(benchmark("pairs"), tmp_path)
    there, back = forward.open(), backward.open()
    assert [entry.text for entry in there.queries] == ["thing 0", "a thing 0", "thing 1", "thing 3"]
    assert len(there.candidates) == 5
    assert [sorted(labels) for labels in there.relevant] == [[0], [0], [1, 3], [2]]
    assert there.facts["repeated_queries"] == 1
    assert there.queries[0].instruction == "Find it."
    assert [len(labels) for labels in back.relevant] == [2, 1, 1, 1]
    assert back.queries[0].instruction == INSTRUCTIONS[TaskGroup.IMAGE_TO_TEXT]["Flickr30K"].query
    result = evaluate(Oracle(), [benchmark("pairs")], tmp_path)
    assert scores(result)["query to target"] == 1
    # No text is about picture 11: it finds its own by luck only.
    assert scores(result)["target to query"] in (3 / 4, 1)
    (tmp_path / "data" / "README.txt").write_text("a note beside pairs is no caption")
    without = open_benchmark(benchmark("pairs", negatives=False, backward=False), tmp_path)
    assert [len(task.open().candidates) for task in without] == [4]
    assert sum(1 for _ in entries_of(forward)) == 4 + 5


def test_composed_pairs_are_searched_forward_only(tmp_path: Path) -> None:
    row = {
        "query": {"text": "thing 1", "image": "0.png"},
        "positive": {"image": "1.png"},
        "query_instruction": "Change.",
    }
    write_pairs(tmp_path, [row])
    assert [task.name for task in open_benchmark(benchmark("pairs"), tmp_path)] == ["query to target"]


def test_pairs_with_missing_pictures_are_counted(tmp_path: Path) -> None:
    rows = [
        {"query": {"text": f"thing {place}"}, "positive": {"image": f"{place}.png"}, "query_instruction": "Find it."}
        for place in range(12)
    ]
    rows[4]["positive"] = {"image": "nowhere.png"}
    rows[5]["positive"] = {"image": "../outside.png"}
    write_pairs(tmp_path, rows)
    (tmp_path / "outside.png").write_bytes(thing_image(5))
    with pytest.raises(MagicError, match="cannot be read"):
        evaluate(Oracle(), [benchmark("pairs")], tmp_path)
    task = evaluate(Oracle(), [benchmark("pairs")], tmp_path, options=EvaluationOptions(max_bad_share=0.2)).tasks[0]
    assert (task.queries, task.scored, task.unreadable_candidates) == (12, 10, 2)


def test_constant_models_get_chance_both_ways(tmp_path: Path) -> None:
    write_karpathy(tmp_path, "flickr30k", [5] * 10)
    flickr = [benchmark("karpathy", dataset="flickr30k", partial=True)]
    result = evaluate(Constant(), flickr, tmp_path)
    # One of ten pictures; one of five captions among fifty.
    assert scores(result) == {"image to text": pytest.approx(0.1), "text to image": pytest.approx(0.1)}
    assert scores(result, "hit@10")["text to image"] == 1
    guess = scores(evaluate(Guess(), flickr, tmp_path))
    assert max(guess.values()) < 0.4


@pytest.mark.parametrize("kind", ["urban1k", "sharegpt4v", "pairs", "karpathy"])
def test_missing_folders_are_said(tmp_path: Path, kind: str) -> None:
    with pytest.raises(MagicError) as caught:
        for task in open_benchmark(benchmark(kind), tmp_path):
            task.open()
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    write_urban(tmp_path, 2)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data" / "caption" / "0.txt").unlink()
    (tmp_path / "data" / "caption" / "0.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(MagicError, match="leaves its folder"):
        open_benchmark(benchmark("urban1k", partial=True), tmp_path)[0].open()


def test_missing_is_no_picture_anyone_can_have() -> None:
    assert MISSING == b""
