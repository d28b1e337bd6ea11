"""The pictures that rows name: bytes, or files that must lie below the data set's folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode
from magicmm_training.data.rows import Row, shown

if TYPE_CHECKING:
    from magicmm_training.entries import ImageSource


class Pictures:
    """Finds pictures from a data set's folder upwards: data sets name theirs relative to various levels."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Remember where to look.

        Args:
            folder: Of the data files.
            root: The highest folder that is looked into, when `folder` lies below it; otherwise the parent of `folder`.
        """
        folder, root = folder.resolve(), root.resolve()
        if not folder.is_relative_to(root):
            root = folder.parent
        self._root = root
        levels = [folder, *(level for level in folder.parents if level.is_relative_to(root))]
        self._bases = [base for level in levels for base in (level, level / "images")]

    def of(self, row: Row, field: str, value: object) -> ImageSource | None:
        """Return the picture that a value stands for.

        Args:
            row: For messages.
            field: For messages.
            value: A relative path, bytes, the Hub's {"bytes", "path"}; null and "" mean that there is none.

        Raises:
            MagicError: `image_invalid` when a path leaves the folder (absolute, "..", by a link) or names no file;
                `text_invalid` for values of another kind.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or value in ("", b""):
            return None
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise row.fault(field, f"is no picture but {shown(value)}")
        return self._file(row, field, value)

    def _file(self, row: Row, field: str, name: str) -> Path:
        said = shown(name)  # names may be very long: pictures written as text, in base64
        plain = PurePosixPath(name)
        windows = PureWindowsPath(name)
        if plain.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
            raise row.fault(
                field,
                f"{said} is no path below the data set's folder",
                ErrorCode.IMAGE_INVALID,
                "Name pictures relative to the folder of the data, without '..'.",
            )
        for base in self._bases:
            path = base / plain
            if _is_file(path):
                if not path.resolve().is_relative_to(self._root):
                    raise row.fault(
                        field,
                        f"{said} leads out of {self._root.name} by a symbolic link",
                        ErrorCode.IMAGE_INVALID,
                        "Copy the pictures into the folder, or place the data beside them.",
                    )
                return path
        raise row.fault(
            field,
            f"there is no picture {said} in {self._bases[0].name} or above",
            ErrorCode.IMAGE_INVALID,
            "Unpack the pictures of the data set, or remove the row.",
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        return False
