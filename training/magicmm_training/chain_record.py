"""The record of a run: what was asked for, with which versions, what came out of each stage, and how long it took."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm.version import __version__
from magicmm_training.storage import storage_errors, write_whole

if TYPE_CHECKING:
    from magicmm_training.chain_keys import StageKey
    from magicmm_training.recipe import Recipe

FILE_NAME = "record.json"
DONE, KEY = "done.json", "key.json"
_LIBRARIES = ("torch", "accelerate", "peft", "numpy", "pillow", "safetensors", "tokenizers", "pyarrow", "transformers")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage gave.

    Attributes:
        name: Of the stage.
        kind: Of the stage.
        key: Hash of all that went into it.
        folder: Of its output, relative to the run's.
        seconds: That it took, over all starts that reached an end.
        facts: Losses, counts or scores.
        reused: Whether the result was there already; not stored.
    """

    name: str
    kind: str
    key: str
    folder: str
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    reused: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run so far.

    Attributes:
        recipe: As it was run.
        processes: That trained together.
        stages: Those that are done.
    """

    recipe: Recipe
    processes: int
    stages: tuple[StageRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        return {
            "format": "magicmm-run",
            "format_version": 1,
            "recipe": self.recipe.model_dump(mode="json"),
            "processes": self.processes,
            "versions": versions(),
            "revision": revision(),
            "stages": [asdict(stage) for stage in self.stages],
        }

    def table(self) -> str:
        """Return one line for each stage."""
        width = max((len(stage.name) for stage in self.stages), default=0)
        return "\n".join(
            f"{stage.name.ljust(width)}  {'kept' if stage.reused else f'{stage.seconds:.1f} s'.rjust(8)}"
            f"  {stage.folder}  {_shown(stage.facts)}"
            for stage in self.stages
        )

    def write(self, folder: Path) -> None:
        """Write it to the folder of the run.

        Raises:
            MagicError: `storage_failed`.
        """
        _write(folder / FILE_NAME, self.to_json())


def write_key(folder: Path, key: StageKey) -> None:
    """Write what a stage's key is a hash of, so that two folders of a stage can be compared.

    Raises:
        MagicError: `storage_failed`.
    """
    _write(folder / KEY, {"key": key.digits, **key.facts})


def write_done(folder: Path, record: StageRecord) -> None:
    """Mark a stage's folder as complete.

    Raises:
        MagicError: `storage_failed`.
    """
    facts = asdict(record)
    del facts["reused"]
    _write(folder / DONE, facts)


def read_done(folder: Path) -> StageRecord | None:
    """Return what `write_done` wrote, or None for a stage that is not done.

    Raises:
        MagicError: `argument_invalid` for a damaged mark.
    """
    path = folder / DONE
    if not path.is_file():
        return None
    try:
        return StageRecord(**json.loads(path.read_text(encoding="utf-8")), reused=True)
    except (OSError, ValueError, TypeError) as error:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{path} cannot be read: {error}.", f"Delete {folder}, and run again."
        ) from None


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that results depend on."""
    found = {"python": platform.python_version(), "magicmm": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str | None:
    """Return the commit of the source tree that this package runs from, or None when it was installed."""
    for folder in Path(__file__).resolve().parents:
        head = folder / ".git" / "HEAD"
        if head.is_file():
            text = head.read_text(encoding="utf-8").strip()
            if not text.startswith("ref: "):
                return text
            reference = folder / ".git" / text[5:]
            return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
    return None


def _shown(facts: dict[str, Any]) -> str:
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in facts.items()
        if isinstance(value, (int, float))
    ]
    return ", ".join(shown)


def _write(path: Path, facts: dict[str, Any]) -> None:
    with storage_errors(path, "Free some space and run the same command again: finished stages are kept."):
        write_whole(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
