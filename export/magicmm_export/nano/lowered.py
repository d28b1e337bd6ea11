"""What every export of the built-in model does, whatever the runtime: all of a bundle but its graphs."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.manifest import Manifest
from magicmm_export.bundle_writer import weights_identity
from magicmm_export.decomposition import Norms
from magicmm_export.isolated import embed_staged
from magicmm_export.nano.encoder_modules import TextTower
from magicmm_export.nano.layers import float_layers
from magicmm_export.nano.modules import ImageTower
from magicmm_export.nano.reader import read_image, read_text
from magicmm_quant.quality import QualityReport, assess
from magicmm_quant.samples import Samples

BUCKETS = (16, 64, 256)
"""Tokens of a text with its ends, alone or beside a photo: a few words; a sentence or two; all that the model takes."""
TOKENIZER = "tokenizer.json"
_ANEW = (
    "format",
    "format_version",
    "files",
    "golden",
    "graphs",
    "packed",
    "alternatives",
    "plans",
    "lowered",
    "quality",
)
"""What a manifest says of the files beside it; all else is carried over."""

Say = Callable[[str], None]
"""Called with what is being done, in a few words."""


class NanoExport(ABC):
    """One export: the weights of a bundle, lowered again. A runtime adds its graphs.

    Attributes:
        bundle: Where the weights come from.
        staged: The folder that becomes the bundle.
        image: The weights of the image graph.
        text: Those of the text graph.
        buckets: Lengths that the parts which read ids are lowered for, shortest first.
        parts: What the bundle consists of; without a student nothing is composed.
    """

    def __init__(self, bundle: Bundle, staged: Path, buckets: Sequence[int] | None, name: str, say: Say | None) -> None:
        """Read the weights; nothing is written yet.

        Args:
            bundle: A bundle that the builder of the built-in model wrote in int8.
            staged: The folder.
            buckets: Lengths, or None for the published ones.
            name: Of the new bundle.
            say: Called after each step.

        Raises:
            MagicError: As `read_image` and `text_buckets`.
        """
        self.bundle, self.staged = bundle, staged
        self.image, self.text = read_image(bundle), read_text(bundle)
        self.buckets = text_buckets(bundle.manifest, buckets)
        self.parts = ("image", "text") if self.image.student is None else ("image", "text", "composed")
        self.say = say or (lambda _: None)
        self._name = name

    @abstractmethod
    def write_graphs(self) -> dict[str, Any]:
        """Write the graphs, and return what the manifest says of them: `graphs`, `plans` and `quantisation`."""

    @abstractmethod
    def weight_files(self) -> list[Path]:
        """Return the files whose content is the identity of the weights."""

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest, and return what it has to say."""
        manifest = self.bundle.manifest
        shutil.copyfile(self.bundle.file(manifest.text.tokenizer), self.staged / TOKENIZER)
        graphs = self.write_graphs()
        carried = {key: value for key, value in manifest.raw.items() if key not in _ANEW}
        return {
            **carried,
            "id": self._name,
            "weights": weights_identity(sorted(self.weight_files())),
            "text": {**manifest.raw["text"], "tokenizer": TOKENIZER, "max_tokens": self.buckets[-1]},
            "source": {**manifest.raw.get("source", {}), "bundle": manifest.id, "weights": manifest.weights},
            **graphs,
        }


def text_buckets(manifest: Manifest, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the lengths that parts which read ids are lowered for, shortest first.

    Args:
        manifest: Of the bundle.
        wanted: Lengths, or None for the published ones.

    Raises:
        MagicError: `argument_invalid` for a length that is no length of a text, with its ends, that the bundle takes.
    """
    query, most = manifest.roles["query"], manifest.text.max_tokens
    least = len(query.head) + len(query.tail) + 1
    lengths = [length for length in BUCKETS if length < most] + [most] if wanted is None else list(wanted)
    if not lengths or min(lengths) < least or max(lengths) > most:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Buckets of {', '.join(map(str, lengths)) or 'no'} tokens do not fit the model's {least} to {most}.",
            f"Give lengths such as {','.join(map(str, BUCKETS))}.",
        )
    return tuple(sorted(set(lengths)))


def measure_nano(
    bundle: Bundle, samples: Samples, staged: Path, manifest: Mapping[str, Any], scheme: str, runtime: str
) -> QualityReport:
    """Compare a staged bundle with the same weights in torch, where no activation is rounded.

    Args:
        bundle: Where the weights come from.
        samples: Photos and captions.
        staged: The bundle, complete but for its manifest.
        manifest: What its manifest will say.
        scheme: Name of the recipe, for the report.
        runtime: What runs the bundle.

    Raises:
        MagicError: As `embed_staged`.
    """
    found = dict(
        zip(("photo", "query"), embed_staged(staged, manifest, samples.photos, samples.captions, runtime), strict=True)
    )
    wanted = reference_vectors(bundle, samples)
    given = [part for part, rows in wanted.items() if len(rows)]
    return assess(
        f"{scheme} on {runtime}",
        samples.describe(),
        {part: wanted[part] for part in given},
        {part: found[part] for part in given},
        samples.pairs,
    )


@torch.inference_mode()
def reference_vectors(bundle: Bundle, samples: Samples) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of photos (`photo`) and captions (`query`) in torch: float32 [n, dim] each."""
    embedder, layers = Embedder.open(bundle), float_layers(Norms.NATIVE)
    text = TextTower(read_text(bundle), layers).eval()
    image = ImageTower(read_image(bundle), text, layers).eval()
    photos = [image.vector(torch.from_numpy(embedder.prepare(photo).copy())) for photo in samples.photos]
    captions = []
    for caption in samples.captions:
        ids = torch.tensor([embedder.token_ids(caption)])
        captions.append(text.bucket(ids.shape[1])(ids, torch.ones_like(ids)))
    return {
        part: torch.cat([torch.empty(0, embedder.dim), *rows]).numpy()
        for part, rows in (("photo", photos), ("query", captions))
    }
