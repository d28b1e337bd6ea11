"""SugarCrepe: strictly higher counts, means over kinds, and a count of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.benchmarks.sugarcrepe import SIZES, open_sugarcrepe
from magicmm_training.evaluation.evaluate import evaluate
from magicmm_training.recipe import Benchmark
from toy_embedders import Constant, Guess, Oracle, thing_image


def sugarcrepe(**options: Any) -> Benchmark:
    return Benchmark(name="sugarcrepe", format="sugarcrepe", path="data", options={"partial": True, **options})


def write(root: Path, name: str, rows: dict[str, dict[str, str]]) -> None:
    folder = root / "data"
    (folder / "val2017").mkdir(parents=True, exist_ok=True)
    for place in range(30):
        (folder / "val2017" / f"{place}.png").write_bytes(thing_image(place))
    (folder / f"{name}.json").write_text(json.dumps(rows))


def row(place: int, caption: str, negative: str) -> dict[str, str]:
    return {"filename": f"{place}.png", "caption": caption, "negative_caption": negative}


def test_control_models(tmp_path: Path) -> None:
    rows = {str(place): row(place, f"thing {place}", f"thing {place + 100}") for place in range(30)}
    for name in SIZES:
        write(tmp_path, name, rows)
    oracle = evaluate(Oracle(), [sugarcrepe()], tmp_path)
    assert [task.values["hit@1"].score for task in oracle.tasks] == [1] * 7
    constant = evaluate(Constant(), [sugarcrepe()], tmp_path)
    # Equal scores are wrong, not a coin toss; both numbers are given.
    for task in constant.tasks:
        assert (task.values["hit@1"].score, task.values["hit@1"].expected) == (0, 0.5)
    guess = evaluate(Guess(), [sugarcrepe()], tmp_path)
    assert {mean.name: (mean.tasks, mean.of) for mean in guess.means} == {
        "add": (2, 2),
        "replace": (3, 3),
        "swap": (2, 2),
        "all": (7, 7),
    }
    assert 0.2 < next(mean.value.score for mean in guess.means if mean.name == "all") < 0.8


def test_scores_are_those_of_comparing_two_cosines(tmp_path: Path) -> None:
    model = Guess()
    for number, name in enumerate(SIZES):
        write(tmp_path, name, {str(n): row(n, f"caption {number} {n}", f"wrong {number} {n}") for n in range(8)})
    result = evaluate(model, [sugarcrepe()], tmp_path)
    by_name = {}
    for task, found in zip(open_sugarcrepe(sugarcrepe(), tmp_path), result.tasks, strict=True):
        content = task.open()
        pictures, texts = model.embed(content.queries), model.embed(content.candidates)
        right = [pictures[n] @ texts[2 * n] > pictures[n] @ texts[2 * n + 1] for n in range(8)]
        by_name[task.name] = np.mean(right)
        assert found.values["hit@1"].score == pytest.approx(by_name[task.name])
    means = {mean.name: mean.value.score for mean in result.means}
    assert means["replace"] == pytest.approx(np.mean([by_name[f"replace_{kind}"] for kind in ("obj", "att", "rel")]))
    assert means["swap"] == pytest.approx(np.mean([by_name[f"swap_{kind}"] for kind in ("obj", "att")]))
    assert means["all"] == pytest.approx(np.mean(list(by_name.values())))


def test_equal_captions_are_wrong(tmp_path: Path) -> None:
    write(tmp_path, "swap_obj", {"1": row(1, "thing 1", "thing 1"), "2": row(2, "thing 2", "thing 3")})
    task = evaluate(Oracle(), [sugarcrepe()], tmp_path).tasks[0]
    assert (task.values["hit@1"].score, task.values["hit@1"].expected, task.tied) == (0.5, 0.75, 1)


def test_sizes_are_those_published(tmp_path: Path) -> None:
    assert sum(SIZES.values()) == 7511
    for name in SIZES:
        write(tmp_path, name, {"1": row(1, "a", "b")})
    with pytest.raises(MagicError, match=r"add_obj has 1 queries, the published files have 2,062"):
        evaluate(Oracle(), [sugarcrepe(partial=False)], tmp_path)


def test_missing_files_are_said(tmp_path: Path) -> None:
    write(tmp_path, "add_obj", {"1": row(1, "a", "b")})
    with pytest.raises(MagicError, match=r"no add_att\.json") as caught:
        open_sugarcrepe(sugarcrepe(partial=False), tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert [task.name for task in open_sugarcrepe(sugarcrepe(), tmp_path)] == ["add_obj"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no object of rows"),
        ("{", "is no JSON"),
        ("{}", "0 queries"),
        ('{"1": {"filename": "1.png", "caption": "a"}}', "'negative_caption': is missing"),
        ('{"1": {"filename": "1.png", "caption": " ", "negative_caption": "a"}}', "'caption': is empty"),
        ('{"1": 5}', "'filename': is missing"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, "add_obj", {})
    (tmp_path / "data" / "add_obj.json").write_text(content)
    with pytest.raises(MagicError, match=message):
        open_sugarcrepe(sugarcrepe(), tmp_path)[0].open()
