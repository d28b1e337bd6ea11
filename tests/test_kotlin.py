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
import kotlin_parity
from magicmm.bundle import Bundle
from magicmm.errors import ErrorCode, SkipReason
from tiny_bundles import packed_dual_bundle
from tools import image_cases, text_cases
from tools.generate_vectors import VECTORS

EXACT = ("tokenizer.json", "resize.json", "views.json", "tiling.json", "quantise.json", "packed.json", "bundle.json")
LEAST_COSINE = 0.99999
Json = dict[str, Any]


@pytest.fixture(scope="session")
def command() -> list[str]:
    return kotlin_parity.runner()


@pytest.fixture(scope="session")
def results(command: list[str]) -> dict[str, dict[str, Json]]:
    """What Kotlin says, by file and case."""
    return _by_case(kotlin_parity.run_conformance(command, [VECTORS / name for name in (*EXACT, "errors.json")]))


def _by_case(lines: str) -> dict[str, dict[str, Json]]:
    found: dict[str, dict[str, Json]] = {}
    for line in map(json.loads, lines.splitlines()):
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


class Queries:
    """Queries that both languages answer."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "embed.json"
        self.cases: list[Json] = []

    def add(self, name: str, **given: Any) -> None:
        self.cases.append({"name": name, "input": given})

    def in_kotlin(self, command: list[str]) -> dict[str, Json]:
        self.file.write_text(json.dumps({"schema": 1, "cases": self.cases}), encoding="utf-8")
        return _by_case(kotlin_parity.run_conformance(command, [self.file]))["embed.json"]

    def in_python(self) -> dict[str, Json]:
        """Run them on the same release of onnxruntime."""
        command = [sys.executable, str(Path(__file__).parent / "tools/embed_cases.py"), str(self.file)]
        environment = kotlin_parity.python_with_that_runtime()
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]
        return _by_case(done.stdout)["embed.json"]

    def compare(self, command: list[str]) -> None:
        """Compare vectors by cosine and failures by code."""
        kotlin, python = self.in_kotlin(command), self.in_python()
        assert set(kotlin) == set(python) == {case["name"] for case in self.cases}
        for name, expected in python.items():
            assert kotlin[name].get("error") == expected.get("error"), name
            if "error" in expected:
                continue
            ours, theirs = (np.atleast_2d(np.array(line["result"])) for line in (kotlin[name], expected))
            assert ours.shape == theirs.shape
            assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
            assert (ours * theirs).sum(axis=1).min() >= LEAST_COSINE, name


def _pictures() -> dict[str, np.ndarray]:
    """Pictures of several shapes, with edges, noise and smooth colours."""
    rows, columns = np.mgrid[0:300, 0:420]
    smooth = np.stack([rows % 256, columns % 256, (rows + columns) // 3 % 256], axis=2).astype(np.uint8)
    return {
        "smooth": smooth,
        "portrait": smooth[:, :97],
        "panorama": smooth[:40],
        "edges": image_cases.edges(320, 200),
        "noise": image_cases.noise("photo", 333, 255),
        "small": image_cases.noise("small", 31, 17),
        "one pixel": image_cases.noise("pixel", 1, 1),
        "bands": np.repeat(image_cases.noise("bands", 1, 64), 200, axis=1),
    }


def _add_queries(queries: Queries, label: str, path: Path, texts: dict[str, str]) -> None:
    """Add every text, every picture, and pairs of both, to a bundle."""
    bundle = str(path)
    pictures = {name: image_cases.picture(rgb) for name, rgb in _pictures().items()}
    for name, text in texts.items():
        queries.add(f"{label}: text {name}", operation="query", bundle=bundle, text=text)
    for name, image in pictures.items():
        queries.add(f"{label}: photo {name}", operation="query", bundle=bundle, image=image)
    for (name, image), text in zip(pictures.items(), texts.values(), strict=False):
        queries.add(f"{label}: composed {name}", operation="query", bundle=bundle, image=image, text=text)
    queries.add(f"{label}: many photos", operation="photos", bundle=bundle, images=[*pictures.values()] * 3)


def test_nano_gives_the_vectors_of_python(command: list[str], tmp_path: Path) -> None:
    texts = {
        **{name: text for name, text in text_cases.SCRIPTS.items() if name in ("arabic", "chinese", "greek", "thai")},
        **{name: text for name, text in text_cases.TEXTS.items() if "longest" in name or "accents" in name},
        **{f"query {number}": text for number, text in enumerate(_QUERIES)},
        "long": "a dog on the beach " * 200,
        "empty": " ",
    }
    queries = Queries(tmp_path)
    _add_queries(queries, "nano", Bundle.default().path, texts)
    queries.compare(command)


_QUERIES = (
    "a dog running on the beach at sunset",
    "two people drinking coffee",
    "a red car in front of a house",
    "snowy mountains under a blue sky",
    "a page of printed text",
    "birthday cake with candles",
    "a cat",
    "fireworks at night",
)


def test_both_architectures_give_the_vectors_of_python(
    command: list[str], dual_path: Path, vlm_path: Path, tmp_path: Path
) -> None:
    texts = {"plain": "a red dog", "colon": "photo: blue", "unknown": "\u732b xyz", "long": "red " * 60, "empty": ""}
    queries = Queries(tmp_path)
    packed_path = packed_dual_bundle(tmp_path / "packed.magicmm")
    for label, path in {"dual": dual_path, "packed": packed_path, "vlm": vlm_path}.items():
        _add_queries(queries, label, path, texts)
    for name, rgb in _pictures().items():
        image = image_cases.picture(rgb)
        queries.add(f"document {name}", operation="document", bundle=str(vlm_path), image=image, role="document")
    queries.compare(command)


def test_golden_cases_pass_in_kotlin(command: list[str], dual_path: Path, vlm_path: Path, tmp_path: Path) -> None:
    queries = Queries(tmp_path)
    for path in (Bundle.default().path, dual_path, vlm_path):
        queries.add(str(path), operation="verify", bundle=str(path))
    for line in queries.in_kotlin(command).values():
        assert line["result"]["passes"]
        assert line["result"]["cases"] >= 3


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
