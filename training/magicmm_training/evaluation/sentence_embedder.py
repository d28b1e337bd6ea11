"""A sentence-transformers model from a local folder as an `EntryEmbedder` (extra `adapters`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm.image import decode_photo
from magicmm_training.data.files import content_fingerprint
from magicmm_training.entries import image_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.entries import Entry, Floats

_SIDE = 1024
"""Pictures keep at least so many pixels a side when they are decoded; models resize them further."""


class SentenceEntryEmbedder:
    """A foreign model.

    Attributes:
        name: Of its folder, or given.
        dim: Length of its vectors.
        fingerprint: Of the folder's files and the template.
    """

    def __init__(self, model: Any, name: str, fingerprint: str, template: str = "{text}") -> None:
        """Take a `SentenceTransformer` that is in memory; `open` loads one.

        Args:
            model: It.
            name: For reports.
            fingerprint: Names its weights.
            template: How a text is put to it; may hold {instruction}, must hold {text}.

        Raises:
            MagicError: `argument_invalid` for a template that leaves the text out.
        """
        if "{text}" not in template:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, f"The template {template!r} lacks {{text}}.", "Add it.")
        self._model = model
        self._template = template
        self.name = name
        self.dim = int(model.get_embedding_dimension())
        self.fingerprint = f"{fingerprint}-{template}"

    @classmethod
    def open(cls, folder: Path | str, template: str = "{text}", device: str = "cpu") -> SentenceEntryEmbedder:
        """Load a folder; nothing is downloaded.

        Raises:
            MagicError: `argument_invalid` without sentence-transformers, `checkpoint_invalid` for a folder that it
                cannot load.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "sentence-transformers is not installed.",
                "Run pip install 'magicmm[adapters]'.",
            ) from None
        folder = Path(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{folder} holds no model.", "Give a model's folder.")
        try:
            model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except Exception as error:  # the library raises whatever its parts raise
            raise MagicError(
                ErrorCode.CHECKPOINT_INVALID,
                f"{folder} cannot be loaded by sentence-transformers ({type(error).__name__}: {error}).",
                "Give the folder of a model that it has saved.",
            ) from None
        return cls(model, folder.name, content_fingerprint(files, {}), template)

    def embed(self, entries: Sequence[Entry]) -> Floats:
        """Return float32 [n, dim], unit rows.

        Raises:
            MagicError: `image_invalid` for a picture that cannot be decoded, `argument_invalid` for entries that the
                model cannot read, `runtime_failed` for a vector without direction.
        """
        inputs = [self._input(entry) for entry in entries]
        vectors = np.empty((len(entries), self.dim), np.float32)
        # The library wants one kind of input at a time.
        for kind in {_kind(entry) for entry in entries}:
            places = [place for place, entry in enumerate(entries) if _kind(entry) == kind]
            vectors[places] = self._encoded([inputs[place] for place in places], kind)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise MagicError(
                ErrorCode.RUNTIME_FAILED, f"{self.name} gave a vector without direction.", "Look at the model."
            )
        unit: Floats = vectors / lengths
        return unit

    def note(self, entry: Entry) -> None:
        """Take note of nothing: what is to be said holds for all entries."""

    def notes(self) -> tuple[str, ...]:
        """Say whether the model was given the benchmark's instructions."""
        return () if "{instruction}" in self._template else ("texts were given without the benchmark's instructions",)

    def _encoded(self, inputs: list[Any], kind: str) -> Floats:
        try:
            found: Floats = self._model.encode(
                inputs, batch_size=len(inputs), show_progress_bar=False, convert_to_numpy=True
            )
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self.name} cannot read {kind} ({type(error).__name__}: {error}).",
                "Choose benchmarks that it can read.",
            ) from None
        return np.asarray(found, np.float32)

    def _input(self, entry: Entry) -> Any:
        text = None
        if entry.text is not None:
            text = self._template.replace("{instruction}", entry.instruction).replace("{text}", entry.text)
        if entry.image is None:
            return text
        from PIL import Image

        picture = Image.fromarray(decode_photo(image_bytes(entry.image), _SIDE).rgb)
        return picture if text is None else {"text": text, "image": picture}


def _kind(entry: Entry) -> str:
    return str(entry.role.reads.value)
