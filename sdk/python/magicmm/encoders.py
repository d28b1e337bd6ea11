"""The two architectures that a bundle may declare, behind one protocol (DESIGN section 4).

Graphs load on first use: a text search never loads the image tower.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm.runtime import Session, open_session, unit_vectors
from magicmm.tokenizer import Tokenizer, check_text, fit_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm.bundle import Bundle
    from magicmm.image import RgbImage
    from magicmm.manifest import Role, TokenTable
    from magicmm.runtime import Floats

    Pixels = NDArray[np.uint8]


class Encoder(Protocol):
    """What `Embedder` needs of an architecture. Vectors are float32 [n, dim], unit rows."""

    def prepare(self, rgb: RgbImage, role: Role) -> Pixels:
        """Return uint8 [views or tiles, side, side, 3]; runs without the model, in any thread."""
        ...

    def encode_images(self, pixels: Sequence[Pixels], role: Role) -> Floats:
        """Return one vector a photo."""
        ...

    def encode_text(self, text: str, role: Role, truncate: bool) -> Floats:
        """Return one vector, [1, dim]."""
        ...

    def encode_composed(self, text: str, pixels: Pixels, role: Role, truncate: bool) -> Floats:
        """Return one vector for photo and text together, [1, dim]."""
        ...

    def token_ids(self, text: str, role: Role) -> list[int]:
        """Return the whole sequence of ids for a text alone."""
        ...

    def release(self) -> None:
        """Give the memory of all graphs back; the next call loads what it needs again."""
        ...


def make_encoder(bundle: Bundle, threads: int, runtime: str) -> Encoder:
    """Return the encoder for the bundle's architecture; loads nothing yet."""
    kind = DualEncoder if bundle.manifest.architecture == "dual_encoder" else VisionLanguageEncoder
    return kind(bundle, threads, runtime)


class _Parts:
    """The lazily opened parts of a bundle, shared by threads."""

    def __init__(self, bundle: Bundle, threads: int, runtime: str) -> None:
        self.manifest = bundle.manifest
        self._bundle = bundle
        self._open = partial(open_session, bundle, threads=threads, runtime=runtime)
        self._sessions: dict[str, Session] = {}
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def session(self, part: str) -> Session:
        with self._lock:
            if part not in self._sessions:
                self._sessions[part] = self._open(part)
            return self._sessions[part]

    @property
    def tokenizer(self) -> Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer(self._bundle.file(self.manifest.text.tokenizer))
            return self._tokenizer

    def loaded(self) -> list[str]:
        """Name the graphs that are in memory."""
        return sorted(self._sessions)

    def release(self) -> None:
        with self._lock:
            self._sessions.clear()
            self._tokenizer = None

    def token_ids(self, text: str, role: Role) -> list[int]:
        """Return the whole sequence of ids for a text alone."""
        return [*role.head, *self.text_ids(text, role, len(role.head) + len(role.tail), False), *role.tail]

    def text_ids(self, text: str, role: Role, reserved: int, truncate: bool) -> list[int]:
        """Return the ids of the role's text line, at most max_tokens less what else the sequence holds."""
        room = self.manifest.text.max_tokens - reserved
        ids = self.tokenizer.encode(role.text.replace("{text}", check_text(text)))
        return fit_tokens(ids, room, truncate)


class DualEncoder(_Parts):
    """An `image` graph and a `text` graph that share a space.

    Photo + text go through a `composed` graph where there is one, and the text's vector may be added; else they are a
    weighted sum.
    """

    def prepare(self, rgb: RgbImage, role: Role) -> Pixels:
        """Return the views of the photo."""
        from magicmm.image import render_views  # a text search needs no Pillow

        return render_views(rgb, self.manifest.image)

    def encode_images(self, pixels: Sequence[Pixels], role: Role) -> Floats:
        """Run the image graph on all views of all photos at once."""
        output = self.session("image").run({"pixels": np.concatenate(pixels)})
        return unit_vectors(output, len(pixels), self.manifest.dim, "image")

    def encode_text(self, text: str, role: Role, truncate: bool) -> Floats:
        """Run the text graph on head + text + tail."""
        ids = self.text_ids(text, role, len(role.head) + len(role.tail), truncate)
        row = np.array([[*role.head, *ids, *role.tail]], dtype=np.int64)
        output = self.session("text").run({"ids": row, "mask": np.ones_like(row)})
        return unit_vectors(output, 1, self.manifest.dim, "text")

    def encode_composed(self, text: str, pixels: Pixels, role: Role, truncate: bool) -> Floats:
        """Return text_weight x text + what the composed graph says of both, or, without that graph, the photo."""
        weight = self.manifest.composed_text_weight
        if self.manifest.has_composed_graph:
            seen = self._compose(text, pixels, role, truncate)
        else:
            seen = self.encode_images([pixels], self.manifest.roles["photo"])
        if weight is None:
            return seen
        words = self.encode_text(text, self.manifest.roles["query"], truncate)
        return unit_vectors(np.float32(weight) * words + seen, 1, self.manifest.dim, "image and text")

    def _compose(self, text: str, pixels: Pixels, role: Role, truncate: bool) -> Floats:
        before, after = (*role.head, *role.image_before, *role.image_after), role.tail
        row = np.array([[*before, *self.text_ids(text, role, len(before) + len(after), truncate), *after]], np.int64)
        visual = self.session("image").run({"pixels": pixels}, "visual")
        if visual.ndim != 3 or len(visual) != 1:
            raise MagicError(
                ErrorCode.RUNTIME_FAILED, f"The image graph gave visual tokens {visual.shape}.", "Verify the bundle."
            )
        output = self.session("composed").run({"visual": visual, "ids": row, "mask": np.ones_like(row)})
        return unit_vectors(output, 1, self.manifest.dim, "composed")


class VisionLanguageEncoder(_Parts):
    """A `vision` graph, a token table on disk and one `language` graph that reads photo and text together."""

    def __init__(self, bundle: Bundle, threads: int, runtime: str) -> None:
        """Remember what to open; nothing is loaded yet."""
        super().__init__(bundle, threads, runtime)
        self._table: tuple[NDArray[np.int8], Floats] | None = None
        self._prefixes: dict[str, dict[str, Floats]] = {}

    def prepare(self, rgb: RgbImage, role: Role) -> Pixels:
        """Return one tile, or the tiles and thumbnail of a document."""
        from magicmm.image import render_tiles, render_views

        if role.max_tiles == 1:
            return render_views(rgb, self.manifest.image)
        return render_tiles(rgb, self.manifest.image.side, role.max_tiles)

    def encode_images(self, pixels: Sequence[Pixels], role: Role) -> Floats:
        """Run vision on each photo's tiles, then language on photos of equal length together."""
        visual = [self._visual(tiles) for tiles in pixels]
        vectors = np.empty((len(pixels), self.manifest.dim), dtype=np.float32)
        for length in {len(tokens) for tokens in visual}:
            places = [place for place, tokens in enumerate(visual) if len(tokens) == length]
            vectors[places] = self._language([self._sequence(role, visual[place], []) for place in places], role)
        return vectors

    def encode_text(self, text: str, role: Role, truncate: bool) -> Floats:
        """Run language on the role's ids around the text."""
        ids = self.text_ids(text, role, len(role.head) + len(role.tail), truncate)
        return self._language([self._sequence(role, None, ids)], role)

    def encode_composed(self, text: str, pixels: Pixels, role: Role, truncate: bool) -> Floats:
        """Run photo and text through the language model in one pass."""
        visual = self._visual(pixels)
        constant = sum(map(len, (role.head, role.image_before, role.image_after, role.tail)))
        ids = self.text_ids(text, role, constant + len(visual), truncate)
        return self._language([self._sequence(role, visual, ids)], role)

    def release(self) -> None:
        """Also unmap the token table and drop the prefixes."""
        super().release()
        self._table = None
        self._prefixes = {}

    def _visual(self, tiles: Pixels) -> Floats:
        output = self.session("vision").run({"pixels": tiles})
        if output.ndim != 3 or len(output) != len(tiles) or output.shape[2] != self._table_spec.dim:
            raise MagicError(ErrorCode.RUNTIME_FAILED, f"The vision graph gave {output.shape}.", "Verify the bundle.")
        return output.reshape(-1, output.shape[2])

    def _sequence(self, role: Role, visual: Floats | None, text_ids: list[int]) -> Floats:
        """Set token rows and visual tokens side by side: float32 [s, D]."""
        head = () if role.prefix else role.head
        if visual is None:
            return self._rows([*head, *text_ids, *role.tail])
        before = self._rows([*head, *role.image_before])
        return np.concatenate([before, visual, self._rows([*role.image_after, *text_ids, *role.tail])])

    def _language(self, sequences: Sequence[Floats], role: Role) -> Floats:
        embeds = np.stack(sequences)
        last = np.full(len(embeds), embeds.shape[1] - 1, dtype=np.int64)
        inputs: dict[str, NDArray[Any]] = {"embeds": embeds, "last": last, **self._prefix(role)}
        return unit_vectors(self.session("language").run(inputs), len(embeds), self.manifest.dim, "language")

    @property
    def _table_spec(self) -> TokenTable:
        spec = self.manifest.tokens
        assert spec is not None, "parse_manifest gives every vision_language manifest a token table"  # noqa: S101
        return spec

    def _rows(self, ids: Sequence[int]) -> Floats:
        spec = self._table_spec
        if self._table is None:
            file = np.memmap(self._bundle.file(spec.file), dtype=np.uint8, mode="r")
            codes = file[: spec.rows * spec.dim].view(np.int8).reshape(spec.rows, spec.dim)
            self._table = codes, file[-4 * spec.rows :].view("<f4")
        codes, scales = self._table
        places = np.array(ids, dtype=np.int64)
        if places.size and not (places.min() >= 0 and places.max() < spec.rows):
            raise MagicError(
                ErrorCode.BUNDLE_INVALID,
                f"Token id {places.max()} lies outside the table of {spec.rows} rows.",
                "The bundle's tokenizer and token table do not belong together; export it anew.",
            )
        return codes[places].astype(np.float32) * scales[places, None].astype(np.float32)

    def _prefix(self, role: Role) -> dict[str, Floats]:
        """Return the role's keys and values; the tensors of the file are named as the graph's inputs."""
        if role.prefix is None:
            return self._empty_prefix()
        if role.prefix not in self._prefixes:
            from safetensors.numpy import load_file

            try:
                self._prefixes[role.prefix] = load_file(self._bundle.file(role.prefix))
            except Exception as error:  # safetensors raises its own and OSError
                raise MagicError(
                    ErrorCode.BUNDLE_INVALID, f"{role.prefix} cannot be read: {error}.", "Install the bundle again."
                ) from None
        return self._prefixes[role.prefix]

    def _empty_prefix(self) -> dict[str, Floats]:
        """Return keys and values of length 0, in the shape that some role's prefix file shows."""
        for role in self.manifest.roles.values():
            if role.prefix is not None:
                return {name: values[..., :0, :] for name, values in self._prefix(role).items()}
        return {}
