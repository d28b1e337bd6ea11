"""A `.magicmm` bundle as an `EntryEmbedder`: what is measured is what ships, quantisation included."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicmm.bundle import Bundle
from magicmm.embedder import Embedder
from magicmm.encoders import Encoder, VisionLanguageEncoder, make_encoder
from magicmm.quantise import quantise
from magicmm.tokenizer import Tokenizer
from magicmm_model.templates import ROLES, Reads, Side

if TYPE_CHECKING:
    from magicmm_training.entries import Entry, Floats

_PREFERRED = {
    (Side.QUERY, Reads.TEXT): ("query",),
    (Side.QUERY, Reads.IMAGE): ("similar", "photo"),
    (Side.QUERY, Reads.IMAGE_AND_TEXT): ("composed", "photo"),
    (Side.CANDIDATE, Reads.TEXT): ("caption", "query"),
    (Side.CANDIDATE, Reads.IMAGE): ("photo",),
    (Side.CANDIDATE, Reads.IMAGE_AND_TEXT): ("captioned_photo", "composed", "photo"),
}
"""Roles by what is embedded, the best first; `photo` and `query` are in every bundle, late fusion needs no other."""
_DOCUMENTS = {(Side.QUERY, Reads.TEXT): "document_query", (Side.CANDIDATE, Reads.IMAGE): "document"}


def role_for(side: Side, reads: Reads, document: bool, roles: Mapping[str, object]) -> str:
    """Return the role of a bundle that fits best.

    Args:
        side: Whether it asks or is found.
        reads: What there is.
        document: Whether the search is for pages.
        roles: Those of the bundle, by name.
    """
    names = _PREFERRED[side, reads]
    if document and (side, reads) in _DOCUMENTS:
        names = (_DOCUMENTS[side, reads], *names)
    return next(name for name in names if name in roles)


@dataclass(frozen=True, slots=True)
class BundleInput:
    """What becomes one vector.

    Attributes:
        text: Words, or None.
        image: A picture as the SDK takes it, or None.
        role: Name of a role of the bundle.
    """

    text: str | None
    image: object | None
    role: str


class BundleEntryEmbedder:
    """A bundle through the SDK.

    A bundle has its instructions built in. An entry goes to the role with its very instruction; without one, to the
    role for what it is made of, and `notes` says so.

    Attributes:
        name: The bundle's id.
        dim: Length of its vectors.
        fingerprint: The bundle's, with runtime and rounding.
        embedder: The SDK's.
    """

    def __init__(
        self, bundle: Bundle | Path | str, threads: int = 0, runtime: str = "onnx", stored: bool = False
    ) -> None:
        """Open a bundle.

        Args:
            bundle: It, or its folder.
            threads: 0 = all physical cores.
            runtime: As for `Embedder.open`.
            stored: Round vectors to int8, as the index keeps them.

        Raises:
            MagicError: `bundle_invalid`, `bundle_too_new`.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self._encoder: Encoder = make_encoder(opened, threads, runtime)
        self.embedder = Embedder(opened, self._encoder)
        self._manifest = opened.manifest
        self._stored = stored
        self._tokenizer = Tokenizer(opened.file(opened.manifest.text.tokenizer))
        self._instructions = _instructions(opened)
        self._others: Counter[tuple[str, str]] = Counter()
        self._tile_tokens: int | None = None
        self.name = opened.manifest.id + (" (int8 index)" if stored else "")
        self.dim = opened.manifest.dim
        self.fingerprint = f"{opened.fingerprint}-{runtime}{'-int8' if stored else ''}"

    def embed(self, entries: Sequence[Entry]) -> Floats:
        """Return float32 [n, dim], unit rows; texts that are too long are cut.

        Raises:
            MagicError: `image_invalid`, `text_invalid`, `runtime_failed`.
        """
        return self.embed_inputs([BundleInput(entry.text, entry.image, self.role(entry)) for entry in entries])

    def embed_inputs(self, inputs: Sequence[BundleInput]) -> Floats:
        """Embed texts and pictures under roles of the bundle; see `embed`."""
        vectors = np.empty((len(inputs), self.dim), np.float32)
        photos: defaultdict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(inputs):
            if each.text is None:
                photos[each.role].append(place)
            elif each.image is None:
                vectors[place] = self.embedder.embed_text(each.text, each.role, truncate=True)
            else:
                pixels = self.embedder.prepare(each.image, each.role)
                role = self._manifest.roles[each.role]
                vectors[place] = self._encoder.encode_composed(each.text, pixels, role, True)[0]
        for name, places in photos.items():
            vectors[places] = self.embedder.embed_images([inputs[place].image for place in places], name)
        if not self._stored:
            return vectors
        codes, scales = quantise(vectors)
        return codes.astype(np.float32) * scales[:, None]

    def role(self, entry: Entry) -> str:
        """Return the name of the role that an entry is read under."""
        wanted = entry.role
        for name, instruction in self._instructions.items():
            own = ROLES.get(name)
            if own is None or instruction != wanted.instruction or (own.side, own.reads) != (wanted.side, wanted.reads):
                continue
            if entry.image is None or self._manifest.roles[name].max_tiles == wanted.max_tiles:
                return name
        return role_for(wanted.side, wanted.reads, wanted.max_tiles > 1, self._manifest.roles)

    def note(self, entry: Entry) -> None:
        """Take note of an entry whose instruction the bundle does not have."""
        role = self.role(entry)
        if self._instructions.get(role) != entry.instruction:
            self._others[entry.instruction, role] += 1

    def notes(self) -> tuple[str, ...]:
        """Return what was read under other words than the benchmark's."""
        return tuple(
            f"entries under {instruction!r}: {count:,} read as {role!r} "
            f"({repr(self._instructions[role]) if role in self._instructions else 'no instruction'})"
            for (instruction, role), count in sorted(self._others.items())
        )

    def truncates(self, entry: Entry) -> bool:
        """Return whether an entry's text is cut."""
        if entry.text is None:
            return False
        fused = entry.image is not None and isinstance(self._encoder, VisionLanguageEncoder)
        # Late fusion reads the text alone, as a query.
        name = self.role(entry) if entry.image is None or fused else "query"
        role = self._manifest.roles[name]
        tokens = len(role.head) + len(self._tokenizer.encode(role.text.replace("{text}", entry.text))) + len(role.tail)
        if fused:
            tokens += len(role.image_before) + self._visual_tokens() + len(role.image_after)
        return tokens > self._manifest.text.max_tokens

    def _visual_tokens(self) -> int:
        """Return how many tokens the one tile of a photo has: known once the vision graph has run."""
        if self._tile_tokens is None:
            encoder = self._encoder
            assert isinstance(encoder, VisionLanguageEncoder), "only those fuse"  # noqa: S101
            side = self._manifest.image.side
            tile = np.zeros((1, side, side, 3), np.uint8)
            self._tile_tokens = int(encoder.session("vision").run({"pixels": tile}).shape[1])
        return self._tile_tokens


def _instructions(bundle: Bundle) -> dict[str, str]:
    """Return the instruction of each role that has one, read back from its token ids."""
    if bundle.manifest.architecture != "vision_language":
        return {}
    from tokenizers import Tokenizer as Backend

    tokenizer = Backend.from_file(str(bundle.file(bundle.manifest.text.tokenizer)))
    found = {}
    for name, role in bundle.manifest.roles.items():
        stated = re.search(r"Instruct: (.*)\n$", tokenizer.decode(list(role.head), skip_special_tokens=False))
        if stated is not None:
            found[name] = stated[1]
    return found
