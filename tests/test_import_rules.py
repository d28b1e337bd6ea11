"""The one-way arrows between the rooms (docs/ARCHITECTURE.md), and what a plain import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_SIDE = {"torch", "transformers", "onnx", "accelerate", "peft", "timm", "magicmm_model", "magicmm_training"}
FORBIDDEN = {
    "sdk/python": MODEL_SIDE | {"magicmm_export", "magicmm_quant", "tests", "benchmarks"},
    "model": {
        "magicmm_export",
        "magicmm_quant",
        "magicmm_training",
        "onnx",
        "accelerate",
        "peft",
        "tests",
        "benchmarks",
    },
    "training": {"magicmm_export", "magicmm_quant", "onnx", "tests", "benchmarks"},
    "quant": (MODEL_SIDE - {"torch", "magicmm_model"}) | {"magicmm_export", "tests", "benchmarks"},
    "export": {"magicmm_training", "tests", "benchmarks"},
}
HEAVY = {"numpy", "onnxruntime", "PIL", "tqdm", "tokenizers", "simsimd", "safetensors", "filelock", "platformdirs"}


def imported_by(path: Path) -> set[str]:
    """Return the top-level names that a file imports anywhere, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_arrow_points_the_wrong_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {path.relative_to(ROOT).as_posix(): imported_by(path) & FORBIDDEN[room] for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_rule_sees_imports_inside_functions(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text("def f():\n    import torch.nn as nn\n    from onnx.helper import x\n")
    assert imported_by(tmp_path / "sample.py") == {"torch", "onnx"}


@pytest.mark.parametrize("module", ["magicmm", "magicmm.cli", "magicmm.errors", "magicmm.manifest", "magicmm.bundle"])
def test_a_plain_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()


def test_every_public_name_can_be_imported() -> None:
    import magicmm

    assert all(getattr(magicmm, name) is not None for name in magicmm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = magicmm.nothing
