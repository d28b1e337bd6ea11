"""Every benchmark runs at a tiny size and writes JSON that can be read; no time is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_bundles import dual_bundle

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = (
    "search",
    "cold_start",
    "sync",
    "model_2b",
    "export_2b",
    "latency_2b",
    "train_throughput",
    "train_chain",
    "runtimes",
    "parity",
)
REAL_SIZE = ("model_2b", "export_2b", "latency_2b")
"""Their goals mean nothing at a tiny size."""

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="the benchmarks measure processes with wait4")


def run_benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    rooms = ("sdk/python", "model", "training", "quant", "export")
    paths = [*(str(ROOT / room) for room in rooms), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_is_measured(name: str) -> None:
    done = run_benchmark(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout and "--json" in done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_quick_run_writes_valid_results(name: str, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    arguments = ["--quick", "--json", str(out)]
    if name == "search":
        arguments += ["--dim", "64"]
    elif not (name in (*REAL_SIZE, "runtimes", "parity") or name.startswith("train_")):
        arguments += ["--bundle", str(dual_bundle(tmp_path / "tiny.magicmm"))]
    done = run_benchmark(name, *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["benchmark"] == name
    assert results["machine"]["cores"] >= 1
    assert results["tables"]
    assert results["goals"] or name in REAL_SIZE
    for table in results["tables"]:
        assert table["title"] in done.stdout
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for goal in results["goals"]:
        assert set(goal) == {"what", "goal", "measured", "met"}
    assert str(tmp_path) not in out.read_text(encoding="utf-8"), "results are committed: no paths of this machine"


def test_committed_results_name_no_machine() -> None:
    committed = {path.stem: path for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert committed.keys() >= set(PROGRAMS)
    for name, path in committed.items():
        text = path.read_text(encoding="utf-8")
        assert json.loads(text)["benchmark"] == name
        assert not any(place in text for place in (str(ROOT), str(Path.home()), "/home/", "/Users/"))
