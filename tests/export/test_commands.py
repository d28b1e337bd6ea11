"""The command line: answers on stdout, errors with their codes, reports that stand alone, parts that come and go."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exported_bundles import importable_in_children
from graph_runs import FOUR, SIDE
from magicmm import Bundle
from magicmm_export import cli, commands
from magicmm_export.options import Progress
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import RECIPES


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A few photos, one of them with a caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for place in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{place}.png")
    (folder / "0.txt").write_text("a dog on the beach\n")
    return folder


def run(tiny: Checkpoint | Path, target: Path, *more: str) -> int:
    folder = tiny if isinstance(tiny, Path) else tiny.folder
    return cli.main([str(folder), str(target), "--image-size", str(SIDE), *more])


def failed(tiny: Checkpoint | Path, capsys: pytest.CaptureFixture[str], target: Path, *more: str) -> str:
    """Run what must fail, check that nothing was written, and return what stderr says."""
    assert run(tiny, target, *more) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert not list(target.parent.glob(f"{target.name}*"))
    return said.err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom magicmm_export.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'onnxruntime')))"
    )
    with importable_in_children():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OUT.magicmm" in done.stdout and "--max-size" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["a"], ["a", "b", "--max-size", "huge"], ["a", "b", "--samples", "0"], ["bench"], ["a", "b", "-x"]],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and "usage:" in said.err


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.3GB", 1_300_000_000), ("900MB", 900_000_000), ("12k", 12_000), ("77", 77), ("2 g", 2 * 10**9)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert cli.build_export().parse_args(["a", "b", "--max-size", text]).max_size == size


def test_a_calibrated_export_answers_in_json_with_reports_beside_it(
    tiny: Checkpoint, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    target = tmp_path / "tiny.magicmm"
    assert run(tiny, target, "--calibrate", str(photos), "--json", "--report", "--id", "mine") == 0
    answer = json.loads(capsys.readouterr().out)
    bundle = Bundle.load(target)
    assert bundle.verify().passes and bundle.manifest.id == "mine"
    assert answer["bundle"] == str(target)
    assert answer["bytes"] == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert answer["quality"] == bundle.manifest.raw["quality"]
    assert answer["quality"] == json.loads((tmp_path / "tiny.report.json").read_text())
    assert answer["quality"]["parts"]["photo"]["count"] == 2 and answer["quality"]["pairs"] == 1
    assert 0.98 < answer["quality"]["parts"]["photo"]["mean"] < 1
    assert "of the user" in bundle.manifest.raw["source"]["calibration"]
    page = (tmp_path / "tiny.report.html").read_text()
    assert "<svg" in page and "</html>" in page
    assert not re.search(r"""(src|href)\s*=|@import|url\(|<script""", page.replace('xmlns="http', "")), (
        "it loads something"
    )
    names = {path.name for path in tmp_path.iterdir()}  # the parts, too, are gone
    assert names == {"photos", "tiny.magicmm", "tiny.report.html", "tiny.report.json"}


def test_an_export_answers_in_words(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    cache = tmp_path / "cache"
    recipe = tmp_path / "four.json"
    recipe.write_text(FOUR.to_json())
    arguments = ("--recipe", str(recipe), "--low-memory", "--min-cosine", "0", "--cache", str(cache))
    assert run(tiny, tmp_path / "tiny.magicmm", *arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "SYNTHETIC" in said.out and "it verifies" in said.out and str(tmp_path / "tiny.magicmm") in said.out
    assert len(list(cache.iterdir())) == 23, "a cache that was asked for stays"
    assert not list(tmp_path.glob("*.report.*"))


def test_a_log_file_gets_lines_of_progress(
    tiny: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,
) -> None:
    monkeypatch.setattr(commands, "NOTE_EVERY", 0.0)
    assert run(tiny, tmp_path / "tiny.magicmm", "--json") == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) > 5 and all(line.startswith("magicmm-export: ") for line in lines)
    assert any("(100% of the checkpoint)" in line for line in lines)
    assert json.loads(said.out)


def test_ctrl_c_ends_with_130_and_keeps_the_parts(
    tiny: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,
) -> None:
    def stop(_: object, progress: Progress) -> None:
        if progress.what.startswith("language.layers.1"):
            raise KeyboardInterrupt

    target = tmp_path / "tiny.magicmm"
    with monkeypatch.context() as patch:
        patch.setattr(commands._Bar, "show", stop)
        assert run(tiny, target) == 130
    said = capsys.readouterr()
    assert said.out == "" and "goes on" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.magicmm.parts"]
    assert run(tiny, target) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.magicmm"]


def test_without_a_cache_no_part_is_kept(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    def stop(_: object, progress: Progress) -> None:
        if progress.what.startswith("language.layers.1"):
            raise KeyboardInterrupt

    monkeypatch.setattr(commands._Bar, "show", stop)
    assert run(tiny, tmp_path / "tiny.magicmm", "--no-cache") == 130
    assert list(tmp_path.iterdir()) == []


def test_a_quality_gate_that_fails_keeps_the_old_bundle(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    target = tmp_path / "tiny.magicmm"
    target.mkdir()
    (target / "old").write_text("old")
    assert run(tiny, target, "--min-cosine", "1.01", "--json", "--report") == 1
    said = capsys.readouterr()
    error = json.loads(said.out or said.err)
    assert "quality gate of 1.01" in json.dumps(error) and "argument_invalid" in json.dumps(error)
    assert [path.name for path in target.iterdir()] == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.magicmm", "tiny.magicmm.parts"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runtime", "tflite"), ("'tflite'", "coreml")),
        (("--recipe", "int2"), ("'int2'", "int8")),
        (("--recipe", "mixed"), ("no size", "--max-size")),
        (("--max-size", "1kB"), ("Nothing fits", "smallest", "at least")),
    ],
)
def test_what_cannot_be_is_refused(
    tiny: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    said = failed(tiny, capsys, tmp_path / "out.magicmm", *arguments)
    assert all(word in said for word in words)


def test_a_broken_recipe_is_refused(tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"name": "a", "rules": [{"pattern": "(", "kind": "int8"}, {"pattern": ".*", "kind": "int3"}]}')
    said = failed(tiny, capsys, tmp_path / "out.magicmm", "--recipe", str(recipe))
    assert "rules[0]" in said and "rules[1]" in said


def test_a_folder_without_readable_photos_is_refused(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no photo")
    said = failed(tiny, capsys, tmp_path / "out.magicmm", "--calibrate", str(folder))
    assert "no photo that can be read" in said and str(folder) in said


@pytest.mark.parametrize("damage", ["no folder", "no config", "no shard"])
def test_a_checkpoint_that_is_not_whole_is_refused(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = tmp_path / "checkpoint"
    if damage != "no folder":
        shutil.copytree(tiny.folder, folder)
        (folder / ("config.json" if damage == "no config" else "model.safetensors")).unlink()
    assert str(folder) in failed(folder, capsys, tmp_path / "out.magicmm")


def test_each_recipe_has_its_gate() -> None:
    gates = [commands._gate(RECIPES[name]) for name in ("float32", "int8", "int4")]
    assert gates == sorted(gates, reverse=True) and len(set(gates)) == 3
    assert commands._gate(FOUR) == gates[2]


def test_a_size_and_a_recipe_exclude_each_other(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(tiny, capsys, tmp_path / "out.magicmm", "--recipe", "int8", "--max-size", "1GB")
    assert "int8" in said and "--max-size" in said


def test_an_export_for_openvino_is_measured_on_it_and_checked(
    tiny: Checkpoint, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    target = tmp_path / "tiny.magicmm"
    assert run(tiny, target, "--calibrate", str(photos), "--openvino", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    plain, other = answer["quality"]["parts"], answer["quality"]["alternatives"]["openvino"]["parts"]
    assert plain["query"] == other["query"] and plain["photo"]["mean"] != other["photo"]["mean"]
    assert other["photo"]["mean"] > 0.98
    assert Bundle.load(target).verify(1, "openvino").passes
    assert cli.main(["check", str(tiny.folder), str(target), "--runtime", "openvino"]) == 0
    assert "All stages are within the tolerance" in capsys.readouterr().out


def test_a_graph_for_openvino_needs_photos_and_the_package(
    tiny: Checkpoint,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(tiny, tmp_path / "a.magicmm", "--openvino") == 1
    assert "--calibrate PHOTOS" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert run(tiny, tmp_path / "a.magicmm", "--openvino", "--calibrate", str(photos)) == 1
    assert "pip install 'magicmm[openvino]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_another_family_has_no_graph_for_openvino(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert cli.main([str(tmp_path), str(tmp_path / "a.magicmm"), "--openvino", "--calibrate", str(tmp_path)]) == 1
    assert "InternVL3" in capsys.readouterr().err


def test_a_bundle_without_a_graph_for_openvino_is_neither_checked_nor_timed_on_it(
    tiny: Checkpoint, int8_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(tiny.folder), str(int8_bundle), "--runtime", "openvino"]) == 1
    assert "no graph for OpenVINO" in capsys.readouterr().err
    assert cli.main(["bench", str(int8_bundle), "--runtime", "openvino"]) == 1
    assert "no graph for OpenVINO" in capsys.readouterr().err
