"""What a run writes down of every step: one JSON line, and the same numbers for tensorboard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.storage import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "log.jsonl"
_STEP = "step"


class RunLogs:
    """The log of a run; a resumed run goes on where its checkpoint stood, and rows after it are dropped.

    Example row: `{"step": 7, "epoch": 0, "dataset": "MSCOCO", "loss": 1.9, "lr": 0.0001, "grad_norm": 0.8, ...}`. Steps
    count from 1; losses of single data sets are also `loss/NAME` in tensorboard.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        """Open the files.

        Args:
            folder: Of the run; gets `log.jsonl` and `tensorboard/`.
            done: Steps that are kept.

        Raises:
            MagicError: `storage_failed`.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in self._lines() if json.loads(line)[_STEP] <= done]
            write_whole(self._path, "".join(f"{line}\n" for line in kept))
            self._file = self._path.open("a", encoding="utf-8")
            self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        except OSError as error:
            raise self._failed(error) from None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a step.

        Raises:
            MagicError: `storage_failed`.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in row.items():
                if name != _STEP and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row[_STEP])
            if row.get("dataset") is not None:
                self._board.add_scalar(f"loss/{row['dataset']}", row["loss"], row[_STEP])
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Write what is still in memory."""
        self._file.close()
        self._board.close()

    def _lines(self) -> list[str]:
        """Return the whole rows of an earlier run; a kill may have cut the last one."""
        if not self._path.exists():
            return []
        return [line for line in self._path.read_text(encoding="utf-8").split("\n")[:-1] if line]

    def _failed(self, error: OSError) -> MagicError:
        return MagicError(
            ErrorCode.STORAGE_FAILED, f"{self._path} cannot be written: {error.strerror}.", "Free some space."
        )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log.

    Raises:
        MagicError: `source_unavailable` without a log.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise MagicError(ErrorCode.SOURCE_UNAVAILABLE, f"{path} is missing.", "Name the folder of a run.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
