"""Run the Kotlin side for tests: a build or the reason to skip, cases of vector files, Python on the same runtime.

Where Maven or its repository is missing, tests skip and say so; with kotlin in REQUIRE_LANGS they fail. A build that
fails is no reason to skip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from kotlin_build import ROOT, SOURCE, UnavailableError, runner_command


def runner() -> list[str]:
    """Return how to start the Kotlin runner; skips or fails the calling test where there is none."""
    try:
        return runner_command()
    except UnavailableError as error:
        absent(str(error))


def run_conformance(command: list[str], files: list[Path]) -> str:
    """Run the cases of vector files in Kotlin and return its lines of JSON."""
    done = subprocess.run(
        [*command, "cases", *map(str, files)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def runtime_version() -> str:
    """Return the release of onnxruntime that the Kotlin side builds with."""
    (version,) = re.findall(r"<onnxruntime.version>(.+)</", (SOURCE / "pom.xml").read_text(encoding="utf-8"))
    return str(version)


def python_with_that_runtime() -> dict[str, str]:
    """Return the environment of a Python that imports the same release of onnxruntime as the Kotlin side.

    Releases differ in kernels: with rows of activations in 8 bits, their last digits turn into cosines of 0.9997.
    """
    version = runtime_version()
    environment = dict(os.environ)
    if metadata.version("onnxruntime") != version:
        target = ROOT / "build" / f"onnxruntime-{version}"
        with FileLock(str(target) + ".lock"):
            if not target.is_dir():
                _install(f"onnxruntime=={version}", target)
        environment["PYTHONPATH"] = os.pathsep.join([str(target), *sys.path])
    else:
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return environment


def _install(requirement: str, target: Path) -> None:
    fresh = target.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(fresh), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        absent(f"{requirement}, which the Kotlin side builds with, cannot be installed for Python.")
    fresh.rename(target)


def absent(reason: str) -> NoReturn:
    """Skip the calling test, or fail it when REQUIRE_LANGS asks for Kotlin."""
    if "kotlin" in os.environ.get("REQUIRE_LANGS", "").split(","):
        pytest.fail(f"REQUIRE_LANGS asks for Kotlin. {reason}")
    pytest.skip(f"No Kotlin here: {reason}")
