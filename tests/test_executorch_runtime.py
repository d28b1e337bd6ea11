"""ExecuTorch as the SDK drives it: which method runs, how inputs are padded, and what a broken program says.

The programs are made here from a few operators, so that numpy says what has to come out.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.cli import main
from magicmm.executorch_runtime import ExecutorchSession

pytest.importorskip("executorch")
torch: Any = pytest.importorskip("torch")

DIM, ROOM = 4, 3
"""Width of rows, and tokens of the longest prefix."""


class Vision(torch.nn.Module):  # type: ignore[misc] # torch is Any here
    """The pixels of a tile as tokens."""

    def forward(self, pixels: Any) -> Any:
        return pixels.float().reshape(1, 4, 3)


class Language(torch.nn.Module):  # type: ignore[misc]
    """The last row + all rows x 10 + the length of the prefix x 100 + its keys x 1000 + its values x 10000."""

    def forward(self, embeds: Any, last: Any, before: Any, key: Any, value: Any) -> Any:
        found = embeds.index_select(1, last).sum(1) + 10 * embeds.sum(1) + 100 * before.float()
        return found + 1000 * key.sum((0, 1, 2))[None] + 10000 * value.sum((0, 1, 2))[None]


class Bare(torch.nn.Module):  # type: ignore[misc]
    """As Language, without a prefix."""

    def forward(self, embeds: Any, last: Any) -> Any:
        return embeds.index_select(1, last).sum(1) + 10 * embeds.sum(1)


def write_program(path: Path, methods: dict[str, tuple[Any, tuple[Any, ...]]]) -> Path:
    from executorch.exir import to_edge_transform_and_lower

    programs = {name: torch.export.export(module, inputs) for name, (module, inputs) in methods.items()}
    path.write_bytes(to_edge_transform_and_lower(programs).to_executorch().buffer)
    return path


def language(length: int, prefix: bool = True) -> tuple[Any, tuple[Any, ...]]:
    inputs = torch.zeros(1, length, DIM), torch.tensor([0])
    past = [torch.zeros(1, 1, ROOM, DIM) for _ in range(2)]  # one tensor twice would become one input
    return (Language(), (*inputs, torch.tensor([0]), *past)) if prefix else (Bare(), inputs)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pte"
    pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    return write_program(
        path, {"vision": (Vision(), (pixels,)), "language_3": language(3), "language_12": language(12)}
    )


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype(np.float32)


def wanted(embeds: np.ndarray, last: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    found = embeds[np.arange(len(embeds)), last] + 10 * embeds.sum(1) + 100 * key.shape[2]
    found = found + 1000 * key.sum((0, 1, 2)) + 10000 * value.sum((0, 1, 2))
    return np.asarray(found, np.float32)


def test_tiles_run_one_by_one(program: Path) -> None:
    session = ExecutorchSession(program, "vision", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    assert session.input_names == {"pixels"} and session.lengths == ()
    found = session.run({"pixels": pixels})
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels.reshape(3, 4, 3))


@pytest.mark.parametrize("length", [1, 3, 4, 12])
@pytest.mark.parametrize("before", [0, 1, ROOM])
def test_sequences_go_to_the_next_length_and_padding_adds_nothing(program: Path, length: int, before: int) -> None:
    session = ExecutorchSession(program, "language", 1)
    assert session.lengths == (3, 12)
    assert session.input_names == {"embeds", "last", "past_key_0", "past_value_0"}
    embeds, last = numbers(2, length, DIM), np.array([length - 1, 0])
    key, value = numbers(1, 1, before, DIM), numbers(1, 1, before, DIM) + 1
    found = session.run({"embeds": embeds, "last": last, "past_key_0": key, "past_value_0": value})
    assert np.array_equal(found, wanted(embeds, last, key, value))


def test_another_number_of_threads_does_not_break_open_sessions(program: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), dtype=np.uint8)
    first = ExecutorchSession(program, "vision", 1)
    before = first.run({"pixels": pixels})
    second = ExecutorchSession(program, "vision", 2)
    assert np.array_equal(second.run({"pixels": pixels}), before)
    assert np.array_equal(first.run({"pixels": pixels}), before)


def test_a_program_without_prefixes_takes_none(tmp_path: Path) -> None:
    session = ExecutorchSession(write_program(tmp_path / "bare.pte", {"language_3": language(3, False)}), "language", 1)
    assert session.input_names == {"embeds", "last"}
    embeds = numbers(1, 2, DIM)
    assert np.array_equal(session.run({"embeds": embeds, "last": np.array([1])}), embeds[:, 1] + 10 * embeds.sum(1))


def test_a_sequence_longer_than_every_method_is_a_text_that_is_too_long(program: Path) -> None:
    past = {name: np.zeros((1, 1, 0, DIM), np.float32) for name in ("past_key_0", "past_value_0")}
    with pytest.raises(MagicError, match="13 tokens, this program takes up to 12") as caught:
        ExecutorchSession(program, "language", 1).run({"embeds": numbers(1, 13, DIM), "last": np.array([0]), **past})
    assert caught.value.code is ErrorCode.TEXT_INVALID


@pytest.mark.parametrize(
    ("part", "inputs", "said"),
    [
        ("vision", {"pixels": np.zeros((1, 3, 3, 3), np.uint8)}, r"input 0 is \[1, 3, 3, 3\], not \[1, 2, 2, 3\]"),
        ("vision", {"pixels": np.zeros((0, 2, 2, 3), np.uint8)}, "ExecuTorch failed"),
        (
            "language",
            {
                "embeds": np.zeros((1, 2, DIM), np.float32),
                "last": np.array([0]),
                "past_key_0": np.zeros((1, 1, ROOM + 1, DIM), np.float32),
                "past_value_0": np.zeros((1, 1, ROOM + 1, DIM), np.float32),
            },
            "longer than 3",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(program: Path, part: str, inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        ExecutorchSession(program, part, 1).run(inputs)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_a_program_without_the_part_is_refused(tmp_path: Path) -> None:
    path = write_program(tmp_path / "half.pte", {"language_3": language(3)})
    with pytest.raises(MagicError, match="no method for vision: it has language_3") as caught:
        ExecutorchSession(path, "vision", 1)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize("content", [b"", b"no program at all", bytes(4096)])
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pte").write_bytes(content)
    with pytest.raises(MagicError, match="refuses") as caught:
        ExecutorchSession(tmp_path / "broken.pte", "vision", 1)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED and "magicmm verify" in caught.value.remedy


def with_program(source: Path, target: Path, program: Path) -> Path:
    """Return a copy of a bundle that names a program, too."""
    import hashlib

    shutil.copytree(source, target)
    data = program.read_bytes()
    (target / "model.pte").write_bytes(data)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["graphs"]["executorch"] = {"vision": "model.pte", "language": "model.pte"}
    manifest["files"]["model.pte"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_a_bundle_may_have_both(vlm_path: Path, program: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(with_program(vlm_path, tmp_path / "both.magicmm", program))
    assert bundle.fingerprint == Bundle.load(vlm_path).fingerprint, "another runtime serves the same index"
    Embedder.open(bundle, runtime="executorch")
    assert bundle.verify(1).passes


def test_a_bundle_without_a_program_is_refused_when_it_is_opened(vlm_path: Path) -> None:
    with pytest.raises(MagicError, match="cannot run") as caught:
        Embedder.open(vlm_path, runtime="executorch")
    assert caught.value.code is ErrorCode.RUNTIME_FAILED and "'onnx'" in caught.value.remedy


def test_the_command_line_passes_it_on(vlm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(vlm_path), "--runtime", "executorch"]) == 1
    assert "its graphs are for onnx" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_command(
    vlm_path: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_program(vlm_path, tmp_path / "both.magicmm", program)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "executorch" else find(name))
    with pytest.raises(MagicError, match="not installed") as caught:
        Embedder.open(bundle, runtime="executorch")
    assert "pip install 'magicmm[executorch]'" in caught.value.remedy
