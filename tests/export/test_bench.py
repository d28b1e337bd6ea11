"""`bench_bundle`: the right tasks, measured as often as asked, in processes of their own."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from exported_bundles import importable_in_children
from magicmm import Bundle, ErrorCode, MagicError
from magicmm.runtime import OnnxSession
from magicmm_export.bench import PHOTO, QUERY, Bench, Loading, Timing, bench_bundle, measure
from tiny_bundles import dual_bundle, vision_language_bundle


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dual_bundle(tmp_path_factory.mktemp("bench") / "dual.magicmm")


@pytest.fixture(scope="module")
def vision_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language_bundle(tmp_path_factory.mktemp("bench") / "vlm.magicmm")


def test_all_tasks_are_measured_with_every_number_of_threads(dual: Path) -> None:
    with importable_in_children():
        found = bench_bundle(dual, rounds=2, threads=(1, 2))
    tasks = {"image", "text", "prepare", PHOTO, QUERY}
    assert {(row.task, row.threads) for row in found.timings} == {(task, count) for task in tasks for count in (1, 2)}
    assert {row.rounds for row in found.timings} == {2}
    assert all(0 < row.least_ms <= row.median_ms for row in found.timings)
    assert [(row.part, row.threads) for row in found.loading] == [
        (part, count) for count in (1, 2) for part in ("SDK", "image", "text")
    ]
    assert found.id == "tiny-dual"


def test_language_is_timed_for_photo_and_query_apart(vision_language: Path) -> None:
    loading, timings = measure(Bundle.load(vision_language), rounds=3, threads=1)
    assert {row.task for row in timings} == {"vision", "language photo", "language query", "prepare", PHOTO, QUERY}
    assert {row.rounds for row in timings} == {3}
    assert [entry.part for entry in loading] == ["SDK", "vision", "language"]
    by_task = {row.task: row for row in timings}
    inside = by_task["vision"].least_ms + by_task["language photo"].least_ms + by_task["prepare"].least_ms
    assert by_task[PHOTO].median_ms > inside
    assert by_task[QUERY].median_ms > by_task["language query"].least_ms


def test_waiting_is_wall_time_and_not_cpu_time(dual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxSession.run

    def slow(self: OnnxSession, inputs: Any, output: str | None = None) -> Any:
        time.sleep(0.05)
        return run(self, inputs, output)

    monkeypatch.setattr(OnnxSession, "run", slow)
    found = {row.task: row for row in measure(Bundle.load(dual), rounds=2, threads=1)[1]}
    assert found["image"].least_ms >= 50
    assert found["image"].cpu_ms < 45
    assert found[PHOTO].least_ms >= found["prepare"].least_ms + 50


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory is in use")
def test_memory_grows_with_what_is_loaded(dual: Path) -> None:
    loading, _ = measure(Bundle.load(dual), rounds=1, threads=1)
    sizes = [entry.resident or 0 for entry in loading]
    assert sizes[0] > 10_000_000
    assert sizes[0] < sizes[-1] + 1_000_000
    assert all(entry.seconds > 0 for entry in loading[1:])


@pytest.mark.parametrize(("rounds", "threads"), [(0, (1,)), (1, ()), (1, (0,))])
def test_nothing_to_measure_is_refused(dual: Path, rounds: int, threads: tuple[int, ...]) -> None:
    with pytest.raises(MagicError) as caught:
        bench_bundle(dual, rounds, threads)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_errors_of_the_measuring_process_arrive_here(dual: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.magicmm"
    shutil.copytree(dual, broken)
    (broken / "image.onnx").write_bytes(bytes(Bundle.load(dual).manifest.files["image.onnx"].bytes))
    with importable_in_children(), pytest.raises(MagicError) as caught:
        bench_bundle(broken, 1, (1,))
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    assert "image.onnx" in caught.value.message


def test_a_measuring_process_that_dies_is_an_error_with_its_last_words(
    dual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setattr("magicmm_export.bench.sys.executable", "false")
    with pytest.raises(MagicError, match="ended with 1") as caught:
        bench_bundle(dual, 1, (1,))
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_tables_and_json() -> None:
    found = Bench(
        "some",
        (Loading("SDK", 1, 0.0, None), Loading("vision", 1, 1.25, 483_000_000)),
        (Timing("vision", 1, 5, 1234.56, 1300.0, 1299.0),),
    )
    assert json.loads(json.dumps(found.to_json()))["timings"][0]["least_ms"] == 1234.56
    text = found.table()
    assert "1,234.6" in text and "1,300.0" in text and "483.0 MB" in text and "?" in text
