"""The command line `magicmm-model`: answers on stdout, the rest on stderr, and a package that imports lazily."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import magicmm_model
from magicmm.version import __version__
from magicmm_model.cli import main
from magicmm_model.embedder import Item, TorchEmbedder
from tiny_checkpoints import edit_config

ROOT = Path(__file__).parents[2]
Output = pytest.CaptureFixture[str]


def answer(capsys: Output, *arguments: str | Path) -> Any:
    """Run a command that must succeed in silence, and return its JSON."""
    assert main([*map(str, arguments), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "beach.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)).save(path)
    return path


def test_inspect_counts_what_transformers_counts(folder: Path, hf: Any, capsys: Output) -> None:
    shown = answer(capsys, "inspect", folder)
    parts = {"vision": hf.model.vision_tower, "connector": hf.model.multi_modal_projector}
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()}
    total = sum(value.numel() for value in hf.parameters())
    assert shown["parameters"] == {**counts, "language": total - sum(counts.values()), "total": total}
    assert (shown["layout"], shown["types"], shown["bytes"]) == ("hf", ["float32"], 4 * total)
    assert (shown["dim"], shown["tokens_per_tile"]) == (48, 64)
    assert (shown["config"]["head"], shown["config"]["compression"]) == ("untied", 2)
    assert shown["config"]["vision"]["image_size"] == 448


def test_inspect_for_people(folder: Path, capsys: Output) -> None:
    assert main(["inspect", str(folder)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    shown = {parts[0]: parts[-1] for parts in lines}
    assert (shown["layout"], shown["head"], shown["tokens_per_tile"]) == ("hf", "untied", "64")
    assert "," in shown["total"]


def test_convert_writes_the_other_layout(folder: Path, tmp_path: Path, capsys: Output) -> None:
    target = tmp_path / "original"
    assert answer(capsys, "convert", folder, target, "--layout", "original") == {
        "written": str(target),
        "layout": "original",
    }
    assert answer(capsys, "inspect", target)["layout"] == "original"


def test_convert_for_people(folder: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["convert", str(folder), str(tmp_path / "again"), "--layout", "hf"]) == 0
    shown = capsys.readouterr()
    assert str(tmp_path / "again") in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("given", "role"),
    [("text", None), ("image", None), ("both", None), ("image", "photo"), ("text", "query"), ("image", "document")],
)
def test_embed_prints_the_vector_of_the_embedder(
    given: str, role: str | None, folder: Path, picture: Path, capsys: Output
) -> None:
    item = Item("a dog" if given != "image" else None, picture if given != "text" else None)
    arguments = [*(["--text", "a dog"] if item.text else []), *(["--image", str(picture)] if item.image else [])]
    shown = answer(capsys, "embed", folder, *arguments, *(["--role", role] if role else []))
    embedder = TorchEmbedder.open(folder)
    wanted = embedder.embed([item], role)[0] if role else embedder.embed_query(item.text, item.image)
    assert shown["vector"] == wanted.vector.tolist()
    assert (shown["dim"], shown["tokens"], shown["truncated"]) == (48, wanted.tokens, False)


def test_embed_in_another_variant(folder: Path, picture: Path, capsys: Output) -> None:
    plain = answer(capsys, "embed", folder, "--image", picture, "--compression", "1")
    small = answer(capsys, "embed", folder, "--image", picture, "--compression", "1", "--image-size", "224")
    rounded = answer(capsys, "embed", folder, "--image", picture, "--compression", "1", "--dtype", "bfloat16")
    assert plain["tokens"] - small["tokens"] == 256 - 64
    wanted = TorchEmbedder.open(folder, dtype=torch.bfloat16, compression=1).embed_query(image=picture)
    assert rounded["vector"] == wanted.vector.tolist() != plain["vector"]


def test_embed_for_people_shortens_the_vector(folder: Path, capsys: Output) -> None:
    assert main(["embed", str(folder), "--text", "a dog"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("vector"))
    vector = TorchEmbedder.open(folder).embed_text("a dog").vector
    assert line.split() == ["vector", *(f"{number:.4f}" for number in vector[:6].tolist()), "...", "(48)"]


FAILURES = {
    "no folder": (["inspect", "{tmp}/none"], "source_unavailable"),
    "another family": (["inspect", "{tmp}/llava"], "checkpoint_invalid"),
    "target exists": (["convert", "{folder}", "{tmp}", "--layout", "hf"], "argument_invalid"),
    "nothing to embed": (["embed", "{folder}"], "argument_invalid"),
    "unknown role": (["embed", "{folder}", "--text", "a", "--role", "poet"], "argument_invalid"),
    "no picture": (["embed", "{folder}", "--image", "{tmp}/llava/config.json"], "image_invalid"),
    "side that does not fit": (["embed", "{folder}", "--text", "a", "--image-size", "450"], "argument_invalid"),
    "negative side": (["embed", "{folder}", "--text", "a", "--image-size", "-448"], "argument_invalid"),
}


@pytest.mark.parametrize("what", list(FAILURES))
def test_errors_exit_with_1_and_say_what_to_do(what: str, folder: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/config.json").write_text((folder / "config.json").read_text())
    edit_config(tmp_path / "llava", model_type="llava")
    arguments, code = FAILURES[what]
    arguments = [part.format(tmp=tmp_path, folder=folder) for part in arguments]
    assert main([*arguments, "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    error = json.loads(shown.err)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["remedy"] or what == "no picture"  # of the SDK, which only says what is wrong with the file
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert error["message"] in shown.err
    assert error["remedy"] in shown.err


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["convert", "a", "b"], ["embed", "a", "--compression", "3"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_stop_from_the_keyboard_exits_with_130(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("magicmm_model.checkpoint.Checkpoint.open", stopped)
    assert main(["inspect", str(folder)]) == 130
    assert capsys.readouterr().out == ""


def python(*arguments: str) -> str:
    paths = os.pathsep.join(str(ROOT / part) for part in ("sdk/python", "model"))
    run = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, magicmm_model; from magicmm_model.cli import build_parser; build_parser().format_help();"
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    assert python("-c", code) == "[]\n"


def test_the_package_runs_as_a_module() -> None:
    assert python("-m", "magicmm_model", "--version") == f"magicmm {__version__}\n"


@pytest.mark.parametrize("name", magicmm_model.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(magicmm_model, name)
    if name != "FAMILY":
        assert found.__name__ == name
        assert getattr(import_module(found.__module__), name) is found


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = magicmm_model.nothing
    assert not hasattr(magicmm_model, "Embedder")


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'magicmm\[model\]'"):
        _ = magicmm_model.MagicModel
