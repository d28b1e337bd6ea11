"""A `NAME.magicmm` folder: the manifest and the files that it lists, and nothing beyond them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm.manifest import Manifest, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicmm.verify import VerifyReport

MANIFEST_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 4 << 20
_REINSTALL = "Install the bundle again, or export it anew."


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read and whose files are all there with the listed sizes.

    Attributes:
        path: The folder.
        manifest: What the bundle says of itself.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle folder; sizes are checked here, contents by `check_hashes` and `verify`.

        Raises:
            MagicError: `bundle_invalid` (missing, wrong size, a path that leaves the folder) or `bundle_too_new`.
        """
        folder = Path(path)
        manifest_path = folder / MANIFEST_NAME
        try:
            if manifest_path.stat().st_size > _MAX_MANIFEST_BYTES:
                raise _invalid(f"{manifest_path} is larger than any manifest.")
            text = manifest_path.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise _invalid(
                f"{folder} is not a bundle: cannot read {MANIFEST_NAME} ({reason}).", "Give a NAME.magicmm folder."
            ) from None
        except UnicodeDecodeError:
            raise _invalid(f"{manifest_path} is not UTF-8.") from None
        bundle = cls(folder, parse_manifest(text))
        for name in bundle.manifest.files:
            bundle._check_file(name)
        return bundle

    @classmethod
    def default(cls) -> Bundle:
        """Open the small model that comes with the package (docs/NANO.md)."""
        return cls.load(Path(__file__).parent / "bundles" / "nano.magicmm")

    def file(self, name: str) -> Path:
        """Return the path of a listed file."""
        if name not in self.manifest.files:
            raise _invalid(f"{name!r} is not listed in the manifest of {self.path}.")
        return self.path / name

    @cached_property
    def fingerprint(self) -> str:
        """What vectors depend on, as 64 hex digits; an index refuses vectors of another fingerprint.

        Covers weights, quantisation, preprocessing, text handling, roles and dimension, not the runtime,
        so that an index made on a desktop serves on a phone.
        """
        return fingerprint_of(self.manifest.raw, self.manifest.files[self.manifest.text.tokenizer].sha256)

    @property
    def total_bytes(self) -> int:
        """The size of all listed files."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def check_hashes(self) -> None:
        """Hash every file and compare with the manifest.

        Raises:
            MagicError: `bundle_invalid`, naming every file that differs.
        """
        wrong = [name for name, entry in self.manifest.files.items() if _sha256(self.file(name)) != entry.sha256]
        if wrong:
            raise _invalid(f"{self.path}: the content of {', '.join(wrong)} is not what the manifest lists.")

    def verify(self, threads: int = 0, runtime: str = "onnx") -> VerifyReport:
        """Hash every file, run the golden cases and say how far this machine drifts from them.

        Args:
            threads: 0 uses all physical cores.
            runtime: As for `Embedder.open`.

        Raises:
            MagicError: `bundle_invalid` when a hash differs; drift is reported, not raised.
        """
        from magicmm.verify import verify_bundle  # the embedder (onnxruntime) is needed only here

        return verify_bundle(self, threads, runtime=runtime)

    def _check_file(self, name: str) -> None:
        path = self.path / name
        try:
            if not path.resolve(strict=True).is_relative_to(self.path.resolve(strict=True)):
                raise _invalid(f"{name} of {self.path} is a link that leaves the bundle.")
            size = path.stat().st_size
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13
            raise _invalid(f"{name} of {self.path} cannot be read ({error}).") from None
        expected = self.manifest.files[name].bytes
        if not path.is_file() or size != expected:
            raise _invalid(f"{name} of {self.path} has {size} bytes, the manifest lists {expected}.")


def fingerprint_of(manifest: Mapping[str, Any], tokenizer: str) -> str:
    """Return the fingerprint of a manifest's content and the SHA-256 of its tokenizer file."""
    parts = ("architecture", "dim", "weights", "quantisation", "image", "text", "tokens", "roles", "composed")
    facts = {**{key: manifest.get(key) for key in parts}, "tokenizer": tokenizer}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise _invalid(f"{path} cannot be read ({error.strerror}).") from None
    return digest.hexdigest()


def _invalid(message: str, remedy: str = _REINSTALL) -> MagicError:
    return MagicError(ErrorCode.BUNDLE_INVALID, message, remedy)
