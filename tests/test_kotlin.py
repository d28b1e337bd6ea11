"""Kotlin gives what tests/vectors/ says, and the same vectors as Python for the same queries.

That Python gives what the vectors say is tested in test_vectors.py, where they are generated again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kotlin_build
import kotlin_cases
import kotlin_parity
from magicmm.bundle import Bundle
from magicmm.errors import ErrorCode, SkipReason
from tiny_bundles import adding_bundle, packed_dual_bundle, sharing_bundle
from tools import embed_queries, image_cases, text_cases
from tools.embed_queries import Queries
from tools.generate_vectors import VECTORS

EXACT = (
    "tokenizer.json",
    "resize.json",
    "views.json",
    "tiling.json",
    "quantise.json",
    "packed.json",
    "bundle.json",
    "signals.json",
)
LEAST_COSINE = 0.99999
Json = dict[str, Any]


@pytest.fixture(scope="session")
def command() -> list[str]:
    return kotlin_parity.runner()


@pytest.fixture(scope="session")
def results(command: list[str]) -> dict[str, dict[str, Json]]:
    """What Kotlin says, by file and case."""
    files = [VECTORS / name for name in (*EXACT, "errors.json")]
    return _by_case(kotlin_cases.in_kotlin(command, "cases", files))


def _by_case(lines: list[Json]) -> dict[str, dict[str, Json]]:
    found: dict[str, dict[str, Json]] = {}
    for line in lines:
        cases = found.setdefault(line["file"], {})
        assert line["case"] not in cases
        cases[line["case"]] = line
    return found


def _cases(name: str) -> list[Json]:
    cases: list[Json] = json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize("name", EXACT)
def test_every_case_comes_out_exactly(results: dict[str, dict[str, Json]], name: str) -> None:
    cases = _cases(name)
    assert set(results[name]) == {case["name"] for case in cases}
    wrong = []
    for case in cases:
        line = results[name][case["name"]]
        expected = {key: case[key] for key in ("expect", "error") if key in case}
        given = {"expect" if key == "result" else key: line[key] for key in ("result", "error") if key in line}
        if given != expected:
            wrong.append((case["name"], f"{expected!r:.200}", f"{given!r:.200}"))
    assert not wrong, f"{len(wrong)} of {len(cases)}: {wrong[:5]}"


def test_the_vectors_hold_what_the_contract_asks_for() -> None:
    texts = {case["input"]["text"] for case in _cases("tokenizer.json") if "text" in case["input"]}
    assert len(texts) >= 500
    assert len(text_cases.SCRIPTS) >= 20
    assert len({(*case["input"]["size"], *case["input"]["box"]) for case in _cases("resize.json")}) >= 100


def test_kotlin_knows_every_code_and_no_other(results: dict[str, dict[str, Json]]) -> None:
    for case in _cases("errors.json"):
        result = results["errors.json"][case["name"]]["result"]
        if case["input"]["kind"] == "code":
            assert result == {"known": True, "of": len(ErrorCode)}
        else:
            expected = {"known": True, "is_transient": case["expect"]["is_transient"], "of": len(SkipReason)}
            assert result == expected, case["name"]


def _compare(command: list[str], queries: Queries, folder: Path) -> None:
    """Ask both languages, and compare vectors by cosine and failures by code."""
    path = queries.write(folder)
    with kotlin_parity.needed():
        python = _by_case(kotlin_cases.in_python(path))["embed.json"]
    kotlin = _by_case(kotlin_cases.in_kotlin(command, "cases", [path]))["embed.json"]
    assert set(kotlin) == set(python) == {case["name"] for case in queries.cases}
    for name, expected in python.items():
        assert kotlin[name].get("error") == expected.get("error"), name
        if "error" in expected:
            continue
        ours, theirs = (np.atleast_2d(np.array(line["result"])) for line in (kotlin[name], expected))
        assert ours.shape == theirs.shape
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert (ours * theirs).sum(axis=1).min() >= LEAST_COSINE, name


def test_nano_gives_the_vectors_of_python(command: list[str], tmp_path: Path) -> None:
    queries = Queries()
    queries.add_bundle("nano", Bundle.default().path, embed_queries.texts())
    _compare(command, queries, tmp_path)


def test_both_architectures_give_the_vectors_of_python(
    command: list[str], dual_path: Path, composing_path: Path, vlm_path: Path, tmp_path: Path
) -> None:
    texts = {"plain": "a red dog", "colon": "photo: blue", "unknown": "\u732b xyz", "long": "red " * 60, "empty": ""}
    queries = Queries()
    paths = {"dual": dual_path, "composing": composing_path, "vlm": vlm_path}
    paths["packed"] = packed_dual_bundle(tmp_path / "packed.magicmm")
    paths["sharing"] = sharing_bundle(tmp_path / "sharing.magicmm")
    paths["adding"] = adding_bundle(tmp_path / "adding.magicmm")
    for label, path in paths.items():
        queries.add_bundle(label, path, texts)
    for name, rgb in embed_queries.pictures().items():
        image = image_cases.picture(rgb)
        queries.add(f"document {name}", operation="document", bundle=str(vlm_path), image=image, role="document")
    _compare(command, queries, tmp_path)


def test_golden_cases_pass_in_kotlin(
    command: list[str], dual_path: Path, composing_path: Path, vlm_path: Path, tmp_path: Path
) -> None:
    queries = Queries()
    sharing_path = sharing_bundle(tmp_path / "sharing.magicmm")
    adding_path = adding_bundle(tmp_path / "adding.magicmm")
    for path in (Bundle.default().path, dual_path, composing_path, sharing_path, adding_path, vlm_path):
        queries.add(str(path), operation="verify", bundle=str(path))
    for line in kotlin_cases.in_kotlin(command, "cases", [queries.write(tmp_path)]):
        assert line["result"]["passes"]
        assert line["result"]["cases"] >= 3


def test_the_table_of_the_languages_is_written_from_a_run(command: list[str], tmp_path: Path) -> None:
    assert command
    out = tmp_path / "results.json"
    run = [sys.executable, str(kotlin_build.ROOT / "benchmarks" / "conformance.py"), "--quick", "--json", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert [goal["what"] for goal in results["goals"] if goal["met"] != "yes"] == []
    files = [name for goal in results["goals"] for name in re.findall(r"`(.+\.json)`", goal["what"])]
    assert sorted(files) == sorted([*EXACT, "errors.json", "search.json", "index_v1.json"])


@pytest.mark.parametrize("module", ["core", "ort"])
def test_the_library_neither_prints_nor_opens_connections(module: str) -> None:
    for path in (kotlin_build.SOURCE / module / "src/main").rglob("*.kt"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"java\.net\.(?!URI)|javax\.net|println\(|System\.(out|err)", text), path


@pytest.mark.parametrize("says", [None, "Could not transfer artifact x from/to central: Unknown host"])
def test_without_maven_or_its_repository_tests_skip_or_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str | None
) -> None:
    if says is not None:
        maven = tmp_path / "mvn"
        maven.write_text(f"#!/bin/sh\necho '[ERROR] {says}'\nexit 1\n")
        maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if says else str(tmp_path))
    monkeypatch.setattr(kotlin_build, "BUILDS", tmp_path / "builds")
    monkeypatch.setenv("REQUIRE_LANGS", "swift")
    with pytest.raises(pytest.skip.Exception, match="No Kotlin here: "):
        kotlin_parity.runner()
    monkeypatch.setenv("REQUIRE_LANGS", "swift,kotlin")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_LANGS"):
        kotlin_parity.runner()


def test_a_build_that_fails_is_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] There are test failures.'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setattr(kotlin_build, "BUILDS", tmp_path / "builds")
    with pytest.raises(kotlin_build.BuildError, match="test failures"):
        kotlin_parity.runner()


def test_the_quickstart_is_code_that_runs() -> None:
    readme = (kotlin_build.SOURCE / "README.md").read_text(encoding="utf-8")
    tested = (kotlin_build.SOURCE / "ort/src/test/kotlin/dev/magicmm/ort/QuickstartTest.kt").read_text(encoding="utf-8")
    lines = [line.strip() for line in tested.splitlines()]
    block = readme.split("```kotlin\n")[1].split("```")[0].replace('"nano.magicmm"', "NANO")
    assert [line.strip() for line in block.strip().splitlines() if line.strip() not in lines] == []
