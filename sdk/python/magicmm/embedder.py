"""`Embedder`: text, photo, or photo + text to one unit vector, whatever the bundle's architecture (docs/API.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicmm.bundle import Bundle
from magicmm.encoders import make_encoder
from magicmm.errors import ErrorCode, MagicError
from magicmm.reading import read_photo
from magicmm.runtime import EXECUTORCH, OPENVINO, check_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm.encoders import Encoder, Pixels
    from magicmm.image import RgbImage
    from magicmm.manifest import Role

    Vector = NDArray[np.float32]
    """float32 [dim], unit length."""
    Matrix = NDArray[np.float32]
    """float32 [n, dim], unit rows."""


_CHUNK = 16
"""Photos held as pixels at once, however many are asked for."""


@dataclass(frozen=True)
class Embedder:
    """Turns texts and photos into vectors of one space. Thread-safe; graphs load on first use.

    Attributes:
        bundle: The model in use.
    """

    bundle: Bundle
    _encoder: Encoder

    @classmethod
    def open(
        cls, bundle: Bundle | str | os.PathLike[str] | None = None, threads: int = 0, runtime: str = "onnx"
    ) -> Embedder:
        """Open a bundle; its graphs load on first use.

        Args:
            bundle: A folder or an opened bundle; None = the built-in one.
            threads: 0 uses all physical cores.
            runtime: "onnx"; "executorch" for bundles that were exported for it; "openvino": graphs that the bundle has
                for OpenVINO run there, all others on "onnx".

        Raises:
            MagicError: `bundle_invalid`, `bundle_too_new`, `argument_invalid` for negative threads, or `runtime_failed`
                when the runtime is not installed or the bundle has no graph for it.
        """
        if threads < 0:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, f"threads is {threads}.", "Use 0 (all cores) or more.")
        if bundle is None:
            bundle = Bundle.default()
        elif not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        if runtime in (OPENVINO, EXECUTORCH):  # a text search would find out only at its first photo
            check_runtime(bundle, runtime)
        return cls(bundle, make_encoder(bundle, threads, runtime))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.bundle.manifest.dim

    @property
    def fingerprint(self) -> str:
        """What vectors depend on; see `Bundle.fingerprint`."""
        return self.bundle.fingerprint

    def decode_side(self, role: str = "photo") -> int:
        """Return the pixels that both sides of a photo must keep when it is decoded: twice what the model sees."""
        return 2 * self.bundle.manifest.image.side * self._role(role).max_tiles

    def embed_text(self, text: str, role: str = "query", truncate: bool = False) -> Vector:
        """Embed one text.

        Args:
            text: What the photo shows, in words.
            role: A role of the bundle; it sets the words that the model reads around the text.
            truncate: Use the beginning of a text that is too long, instead of an error.

        Raises:
            MagicError: `text_invalid` (empty, too long), `argument_invalid` (no such role), `runtime_failed`.
        """
        return _first(self._encoder.encode_text(text, self._role(role), truncate))

    def embed_image(self, image: object, role: str = "photo") -> Vector:
        """Embed one photo: a path, the bytes of a file, a PIL image, or uint8 [height, width, 3].

        Raises:
            MagicError: `image_invalid` (as `PhotoSkipped`, with the reason), `argument_invalid`, `runtime_failed`.
        """
        return _first(self.embed_images([image], role))

    def embed_images(self, images: Sequence[object], role: str = "photo") -> Matrix:
        """Embed photos together: [n, dim], each as if it were alone (up to the runtime's rounding of the last bit)."""
        rows = [self.embed_pixels([], role)]
        for start in range(0, len(images), _CHUNK):
            pixels = [self.prepare(image, role) for image in images[start : start + _CHUNK]]
            rows.append(self.embed_pixels(pixels, role))
        return np.concatenate(rows)

    def embed_query(self, text: str | None = None, image: object | None = None, truncate: bool = False) -> Vector:
        """Embed a query of words, of a photo, or of both in one vector ("this room, but at night").

        Raises:
            MagicError: `argument_invalid` when both are missing; else as `embed_text` and `embed_image`.
        """
        if text is not None and image is not None:
            role = "composed" if "composed" in self.bundle.manifest.roles else "photo"
            pixels = self.prepare(image, role)
            return _first(self._encoder.encode_composed(text, pixels, self._role(role), truncate))
        if image is not None:
            return self.embed_image(image)
        if text is not None:
            return self.embed_text(text, truncate=truncate)
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "The query has neither text nor image.", "Give one of them.")

    def prepare(self, image: object, role: str = "photo") -> Pixels:
        """Decode and resize one photo without the model; may run in any thread, ahead of `embed_pixels`.

        Returns:
            uint8 [views or tiles, side, side, 3].
        """
        return self._encoder.prepare(self._read(image, role), self._role(role))

    def embed_pixels(self, pixels: Sequence[Pixels], role: str = "photo") -> Matrix:
        """Embed photos that `prepare` made ready: [n, dim]."""
        if not pixels:
            return np.empty((0, self.dim), dtype=np.float32)
        return self._encoder.encode_images(pixels, self._role(role))

    def token_ids(self, text: str, role: str = "query") -> list[int]:
        """Return the ids that the model reads for a text, those of the role around it included."""
        return self._encoder.token_ids(text, self._role(role))

    def release(self) -> None:
        """Give back the memory of all graphs; the next call loads what it needs again."""
        self._encoder.release()

    def _role(self, name: str) -> Role:
        roles = self.bundle.manifest.roles
        if name not in roles:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self.bundle.manifest.id} has no role {name!r}.",
                f"Use one of {', '.join(sorted(roles))}.",
            )
        return roles[name]

    def _read(self, image: object, role: str) -> RgbImage:
        from magicmm.image import as_rgb, decode_photo  # a text search needs no Pillow

        if isinstance(image, (str, os.PathLike)):
            image, _ = read_photo(Path(image))
        if isinstance(image, (bytes, bytearray, memoryview)):
            return decode_photo(bytes(image), self.decode_side(role)).rgb
        return as_rgb(image)


def _first(vectors: Matrix) -> Vector:
    vector: Vector = vectors[0]
    return vector
