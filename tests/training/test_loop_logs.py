"""What a run writes: its log, also after a kill, and a batch that went wrong."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.logs import FILE_NAME, RunLogs, read_log
from magicmm_training.loop.offending import save_offending


def written(folder: Path, steps: range, done: int = 0) -> None:
    logs = RunLogs(folder, done)
    for step in steps:
        logs.write({"step": step, "dataset": "a", "loss": 1 / step})
    logs.close()


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    written(tmp_path, range(1, 4))
    assert read_log(tmp_path) == [{"step": step, "dataset": "a", "loss": 1 / step} for step in (1, 2, 3)]


def test_a_resumed_run_drops_rows_after_its_state_and_a_cut_one(tmp_path: Path) -> None:
    written(tmp_path, range(1, 6))
    with (tmp_path / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    written(tmp_path, range(4, 6), done=3)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_missing_log_and_a_folder_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        read_log(tmp_path)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(MagicError) as caught:
        RunLogs(tmp_path / "file")
    assert caught.value.code is ErrorCode.STORAGE_FAILED


@dataclass
class Part:
    """Something nested with a tensor."""

    pixels: torch.Tensor
    text: str | None


@dataclass
class Sample:
    """A sample of no objective in particular."""

    id: str
    parts: tuple[Part, ...]
    margin: float
    where: Path


def test_any_sample_is_saved_as_json_and_tensors(tmp_path: Path) -> None:
    pixels = torch.arange(12, dtype=torch.uint8).view(2, 2, 3)
    sample = Sample("7", (Part(pixels, "ein Hund, 书生"), Part(pixels[:1], None)), math.nan, Path("photos/a.png"))
    said = save_offending(tmp_path / "bad", 1, {"step": 3, "loss": math.inf, "places": (4,)}, [sample])
    assert str(tmp_path / "bad") in said
    text = (tmp_path / "bad" / "rank-1.json").read_text(encoding="utf-8")
    facts = json.loads(text)
    assert "书生" in text and facts["step"] == 3 and facts["loss"] == "inf" and facts["places"] == [4]
    (one,) = facts["samples"]
    assert (one["id"], one["margin"], [part["text"] for part in one["parts"]]) == ("7", "nan", ["ein Hund, 书生", None])
    tensors = load_file(tmp_path / "bad" / "rank-1.safetensors")
    assert torch.equal(tensors[one["parts"][0]["pixels"]["tensor"]], pixels)
    assert torch.equal(tensors[one["parts"][1]["pixels"]["tensor"]], pixels[:1])


def test_a_batch_that_cannot_be_saved_does_not_hide_why_the_run_stops(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    assert "could not be saved" in save_offending(tmp_path / "file", 0, {}, [])
