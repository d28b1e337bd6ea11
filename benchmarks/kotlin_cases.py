"""Run the same cases in Kotlin and in Python, on the same release of onnxruntime; lines of JSON, one a case."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from kotlin_build import ROOT, SOURCE, BuildError, UnavailableError

_SECONDS = 600
_SAID = 4000
"""Characters of a program's complaint that an error repeats."""

Line = dict[str, Any]
"""`file`, `case` (index vectors: `variant`, too) and `result`, or `error` with a code in place of the result."""


def in_kotlin(command: Sequence[str], verb: str, paths: Sequence[Path]) -> list[Line]:
    """Run the cases of vector files (`cases FILE...`), or those of searches and the index (`vectors FOLDER`).

    Raises:
        BuildError: When the runner fails.
    """
    return _lines([*command, verb, *map(str, paths)], dict(os.environ))


def in_python(path: Path) -> list[Line]:
    """Run the cases of an `embed.json` with the release of onnxruntime that the Kotlin side builds with.

    Raises:
        UnavailableError: When that release cannot be installed beside this one.
        BuildError: When the program fails.
    """
    program = ROOT / "tests" / "tools" / "embed_cases.py"
    return _lines([sys.executable, str(program), str(path)], python_environment())


def _lines(command: list[str], environment: dict[str, str]) -> list[Line]:
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=_SECONDS, check=False, env=environment
    )
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} fails: {done.stderr[-_SAID:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def runtime_version() -> str:
    """Return the release of onnxruntime that the Kotlin side builds with."""
    (version,) = re.findall(r"<onnxruntime.version>(.+)</", (SOURCE / "pom.xml").read_text(encoding="utf-8"))
    return str(version)


def python_environment() -> dict[str, str]:
    """Return the environment of a Python that imports the same release of onnxruntime as the Kotlin side.

    Releases differ in kernels: with rows of activations in 8 bits, their last digits turn into cosines of 0.9997.

    Raises:
        UnavailableError: When that release cannot be installed beside this one.
    """
    version = runtime_version()
    paths = list(sys.path)
    if metadata.version("onnxruntime") != version:
        target = ROOT / "build" / f"onnxruntime-{version}"
        with FileLock(str(target) + ".lock"):
            if not target.is_dir():
                _install(f"onnxruntime=={version}", target)
        paths.insert(0, str(target))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _install(requirement: str, target: Path) -> None:
    fresh = target.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(fresh), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{requirement}, which the Kotlin side builds with, cannot be installed for Python.")
    fresh.rename(target)
