"""`.mlpackage` folders, read and written by coremltools' own code on any machine: nothing is compiled or run."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from magicmm import ErrorCode, MagicError

INSTALL = "pip install 'magicmm[coreml]'"
MANIFEST = "Manifest.json"
"""The file of a package that names its parts; a bundle's manifest points at it."""
PROGRAM = "model.mlmodel"
"""The file of a package that holds its functions, without large constants."""
MAIN = "main"
"""What a package with one function calls it."""


def require_coremltools() -> None:
    """Check that the package is there, with the library that reads and writes weights.

    Raises:
        MagicError: `runtime_failed` with the command that installs it.
    """
    if importlib.util.find_spec("coremltools") is None:
        raise MagicError(ErrorCode.RUNTIME_FAILED, "coremltools is not installed.", f"Run: {INSTALL}")
    with quiet():  # imports coremltools itself
        storage = importlib.util.find_spec("coremltools.libmilstoragepython")
    if storage is None:
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            "This build of coremltools cannot store weights: it has no libmilstoragepython.",
            f"On Linux x86-64, Linux aarch64 or macOS with a Python that has wheels of it, run: {INSTALL}",
        )


def coremltools() -> Any:
    """Import coremltools, without its remarks that nothing can be predicted here.

    Raises:
        MagicError: As `require_coremltools`.
    """
    require_coremltools()
    with quiet():
        import coremltools as ct
    return ct


@contextmanager
def quiet() -> Iterator[None]:
    """Keep coremltools from writing progress bars and warnings to the terminal; errors still come as exceptions."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_spec(package: Path) -> Any:
    """Return the protocol buffer of a package, without its weights.

    Raises:
        MagicError: `bundle_invalid` for what is no package of an ML program.
    """
    ct = coremltools()
    try:
        spec = ct.utils.load_spec(str(package))
    except Exception as error:  # the storage library's own
        raise _no_package(package, str(error)) from None
    if spec.WhichOneof("Type") != "mlProgram":
        raise _no_package(package, f"it holds a {spec.WhichOneof('Type')}")
    return spec


def function_names(spec: Any) -> tuple[str, ...]:
    """Return the names of all functions, the default one first."""
    default = default_function(spec)
    return (default, *sorted(set(spec.mlProgram.functions) - {default}))


def default_function(spec: Any) -> str:
    """Return the name of the function that a program runs when it names none."""
    return str(spec.description.defaultFunctionName or MAIN)


def read_metadata(spec: Any) -> dict[str, str]:
    """Return what was written into the package by its maker."""
    return dict(spec.description.metadata.userDefined)


def save_model(model: Any, target: Path) -> None:
    """Write a model with one function as a package, and nothing beside what the package itself names."""
    with quiet():
        model.save(str(target))
    for stray in target.glob("*_debug_handle_mapping.json"):  # of converted torch programs, for debuggers
        stray.unlink()


def write_metadata(package: Path, facts: Mapping[str, str]) -> None:
    """Write user-defined metadata into a package; its weights are not touched.

    Args:
        package: The folder.
        facts: Texts by key; they replace all that there were.
    """
    spec = load_spec(package)
    noted = spec.description.metadata.userDefined
    noted.clear()
    for key, value in facts.items():
        noted[key] = value
    path = _content(package) / PROGRAM
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_bytes(spec.SerializeToString(deterministic=True))
    aside.replace(path)


def load_function(package: Path, name: str | None = None) -> Any:
    """Return one function as a pymil program; the weights of others are not read.

    Args:
        package: The folder.
        name: Of the function; None = the default one.

    Raises:
        MagicError: `bundle_invalid` for what is no package, `argument_invalid` for another name.
    """
    spec = load_spec(package)
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load as load_program
    wanted = name or default_function(spec)
    names = function_names(spec)
    if wanted not in names:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{package} has no function {wanted!r}.",
            f"It has {', '.join(names)}.",
        )
    for other in set(names) - {wanted}:
        del spec.mlProgram.functions[other]
    try:
        with quiet():
            program = load_program(spec, spec.specificationVersion, str(weights_folder(package)))
    except Exception as error:  # of every kind: the loader checks types, names and offsets by assertions
        raise _no_package(package, str(error)) from None
    return program.functions[wanted]


def weights_folder(package: Path) -> Path:
    """Return the folder of a package that holds large constants."""
    return _content(package) / "weights"


def _content(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML"


def _no_package(package: Path, said: str) -> MagicError:
    reason = " ".join(said.split())[:300]
    return MagicError(
        ErrorCode.BUNDLE_INVALID,
        f"{package} is no package of an ML program: {reason}.",
        "Install the bundle again, or export it anew.",
    )
