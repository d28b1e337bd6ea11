"""The README does what it says: its Python and its commands run, its files exist, its numbers are in the results."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from magicmm.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a folder of pictures, as the README assumes."""
    pictures = tmp_path / "Pictures"
    pictures.mkdir()
    colours = {"red": (200, 20, 20), "blue": (20, 20, 200), "beach": (240, 220, 150)}
    colours |= {"rex-1": (90, 60, 30), "rex-2": (110, 70, 40)}
    for name, colour in colours.items():
        Image.new("RGB", (320, 240), colour).save(pictures / f"{name}.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "Pictures/" in capsys.readouterr().out


def test_shell_commands_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(line.split(" #")[0]) for block in blocks("sh") for line in block.splitlines() if line]
    assert {"magicmm", "make", "pip"} <= {command[0] for command in commands}
    for command in commands:
        words = [word.replace("~", str(home)) for word in command]
        if words[0] == "magicmm":
            assert main(words[1:]) == 0, capsys.readouterr().err
        elif words[0] == "make":
            assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True).returncode == 0


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_every_benchmark_named_exists_and_left_its_result() -> None:
    programs = set(re.findall(r"benchmarks/(\w+)\.py", README))
    assert programs
    for program in programs:
        assert (ROOT / "benchmarks" / f"{program}.py").exists()
        assert json.loads((ROOT / "benchmarks" / "results" / f"{program}.json").read_text("utf-8"))
