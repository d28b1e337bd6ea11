"""Build the Kotlin SDK with Maven and start its runner; tests and benchmarks share one build a state of the source."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "sdk" / "kotlin"
BUILDS = ROOT / "build" / "kotlin"
_MODULES = ("core", "ort", "jvm", "conformance")
"""What the runner is made of."""
_PLACES = ROOT / "sdk" / "python" / "magicmm" / "places.json"
"""The table that is packaged with it."""
MAIN = "dev.magicmm.conformance.MainKt"
_SECONDS = 1500
_SAID = 2000
"""Characters of Maven's output that an error repeats."""


_UNREACHED = ("Could not resolve", "Could not transfer", "Non-resolvable", "could not be resolved", "Unknown host")
"""What Maven says when it cannot fetch packages."""


class BuildError(Exception):
    """Why there is no runner, as a sentence: the source does not compile, or a test fails."""


class UnavailableError(BuildError):
    """There is no Java, no Maven, or no way to its packages here."""


def runner_command() -> list[str]:
    """Return the command that starts the runner, built unless this state of the source was built before.

    Raises:
        UnavailableError: When Java or Maven is not installed, or packages cannot be fetched.
        BuildError: When the source does not compile.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not installed.")
    folder = BUILDS / _digest()
    BUILDS.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILDS / "lock"):
        if not folder.exists():
            _build(folder)
    return ["java", "-cp", str(folder / "*"), MAIN]


def run_unit_tests() -> str:
    """Lint and run the JUnit tests, unless this state of source and tests has passed before; return Maven's report.

    Raises:
        BuildError: When a test fails, or nothing can be built.
    """
    runner_command()
    report = BUILDS / f"tests-{_digest(with_tests=True)}.txt"
    with FileLock(BUILDS / "lock"):
        if not report.exists():
            report.write_text(_tests_run(_maven("-pl", "conformance", "-am", "verify")), encoding="utf-8")
    return report.read_text(encoding="utf-8")


def run_android_tests(photos: Path, screenshots: Path) -> str:
    """Lint and compile the Android module and the demo app, drive them in Robolectric, and return Maven's report.

    Args:
        photos: The folder `skimage/data` of a scikit-image package.
        screenshots: Where pictures of the screens go.

    Raises:
        BuildError: When a test fails, or nothing can be built.
    """
    runner_command()
    tests = "-Dtest=dev.magicmm.android.*Test,dev.magicmm.demo.*Test"
    options = (tests, "-Dsurefire.failIfNoSpecifiedTests=false", f"-Dmagicmm.photos={photos}")
    with FileLock(BUILDS / "lock"):
        modules = ("-pl", "android,../../android_demo", "-am")
        return _tests_run(_maven(*modules, *options, f"-Dmagicmm.screenshots={screenshots}", "verify"))


def _tests_run(said: str) -> str:
    return "\n".join(line for line in said.splitlines() if "Tests run:" in line)


def _digest(with_tests: bool = False) -> str:
    """Return what identifies the source: names and bytes of all that Maven reads."""
    found = hashlib.sha256()
    ignored = {"target"} if with_tests else {"target", "test"}
    found.update(_PLACES.read_bytes())
    for path in sorted([SOURCE / "pom.xml", *(path for name in _MODULES for path in (SOURCE / name).rglob("*"))]):
        parts = path.relative_to(SOURCE).parts
        if path.is_file() and path.suffix in (".kt", ".xml") and ignored.isdisjoint(parts):
            found.update("/".join(parts).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _build(folder: Path) -> None:
    # Without clean, classes of deleted files would stay.
    _maven("-q", "-pl", "conformance", "-am", "-Dmaven.test.skip", "clean", "package")
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    target = SOURCE / "conformance" / "target"
    for jar in [*target.glob("*.jar"), *(target / "lib").glob("*.jar")]:
        shutil.copy(jar, aside)
    aside.rename(folder)


def _maven(*goals: str) -> str:
    command = ["mvn", "-B", *goals]
    try:
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BuildError(f"Maven took more than {_SECONDS} seconds.") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        kind = UnavailableError if any(sign in line for line in said for sign in _UNREACHED) else BuildError
        raise kind("Maven fails on sdk/kotlin: " + "\n".join(said)[:_SAID])
    return done.stdout


class Runner:
    """A running process that obeys JSON commands, one a line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
        )

    @classmethod
    def of_kotlin(cls, verb: str, options: Sequence[str] = ()) -> Runner:
        """Start the Kotlin runner, built when it is not; `options` go to the JVM."""
        java, *rest = runner_command()
        return cls([java, *options, *rest, verb])

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the whole answer: `result`, or `error` with a code."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(command, default=os.fspath) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def run(self, **command: Any) -> Any:
        """Send a command and return its result.

        Raises:
            RuntimeError: When the runner answers with an error.
        """
        answer = self.ask(**command)
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}: {answer['message']}")
        return answer["result"]
