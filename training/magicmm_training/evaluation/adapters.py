"""Our bundles as models of sentence-transformers and of mteb (extra `adapters`).

    model = sentence_transformer("NAME.magicmm")
    model.similarity(model.encode("a dog"), model.encode(Image.open("dog.jpg")))

    mteb.evaluate(MtebBundle("NAME.magicmm"), tasks)

A bundle has its instructions built in. It is asked by role: what is encoded as a query takes the roles that search,
what is encoded as a document those that are found. Prompts of the libraries are refused rather than ignored.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from magicmm.bundle import Bundle
from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import Reads, Side
from magicmm_training.evaluation.bundle_embedder import BundleEntryEmbedder, BundleInput, role_for

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(f"the adapters need {error.name}: pip install 'magicmm[adapters]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magicmm_training.entries import Floats

FOLDER = "bundle.magicmm"
"""Where a saved module keeps its bundle."""
_DOCUMENT_TASKS = {"DocumentUnderstanding"}
"""Types of mteb tasks whose pictures are pages."""


def sentence_transformer(bundle: Path | str, threads: int = 0) -> SentenceTransformer:
    """Return a bundle as a `SentenceTransformer`: texts, PIL images (or paths), and {"text", "image"}.

    It has no weights of torch, so it cannot be trained. `encode` and `encode_query` ask, `encode_document` is found.

    Raises:
        MagicError: `bundle_invalid`, `bundle_too_new`.
    """
    return SentenceTransformer(modules=[BundleModule(bundle, threads)], device="cpu", similarity_fn_name="cosine")


class BundleModule(InputModule):
    """The only module of such a model."""

    config_keys: list[str] = ["threads"]  # noqa: RUF012 -- the base class declares it so

    def __init__(self, bundle: Path | str, threads: int = 0) -> None:
        """Open a bundle."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.threads = threads
        self.embedder = BundleEntryEmbedder(bundle, threads)
        # One buffer, so that the library finds a device.
        self.register_buffer("_device", torch.empty(0), persistent=False)

    @property
    def modalities(self) -> list[Any]:
        """Return what may be encoded."""
        return ["text", "image", ("image", "text"), ("text", "image")]

    @property
    def max_seq_length(self) -> int:
        """Return the longest prompt in tokens; longer texts are cut."""
        return self.embedder.embedder.bundle.manifest.text.max_tokens

    def get_embedding_dimension(self) -> int:
        """Return the length of vectors."""
        return self.embedder.dim

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """Sort out what each input is made of.

        Raises:
            MagicError: `argument_invalid` for a prompt, which a bundle cannot be given, and for other inputs.
        """
        if prompt:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The prompt {prompt!r} cannot be put before a bundle's own instruction.",
                "Leave prompts away; use encode_query and encode_document.",
            )
        side = Side.CANDIDATE if options.get("task") == "document" else Side.QUERY
        return {"magicmm": [_input(each, side, self.embedder) for each in inputs]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Embed."""
        vectors = self.embedder.embed_inputs(features["magicmm"])
        return features | {"sentence_embedding": torch.from_numpy(vectors)}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the bundle beside the module's configuration, whole or not at all."""
        target = Path(output_path) / FOLDER
        aside = target.with_name(f"{FOLDER}.new")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self.embedder.embedder.bundle.path, aside)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", *_: Any, **__: Any) -> BundleModule:
        """Open what `save` wrote; only from a folder on this machine.

        Raises:
            MagicError: `bundle_invalid` when there is none.
        """
        return cls(Path(model_name_or_path) / subfolder / FOLDER)


class MtebBundle(AbsEncoder):
    """A bundle as a model of mteb."""

    def __init__(self, bundle: Path | str, threads: int = 0, stored: bool = False) -> None:
        """Open a bundle.

        Args:
            bundle: Its folder.
            threads: 0 = all physical cores.
            stored: Round vectors to int8, as the index keeps them.

        Raises:
            MagicError: `bundle_invalid`, `bundle_too_new`.
        """
        opened = Bundle.load(bundle)
        self.model = BundleEntryEmbedder(opened, threads, stored=stored)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"magicmm/{opened.manifest.id}",
                "revision": opened.fingerprint[:16] + ("-int8" if stored else ""),
                "embed_dim": self.model.dim,
                "max_tokens": opened.manifest.text.max_tokens,
                "memory_usage_mb": opened.total_bytes / (1 << 20),
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["ONNX"],
                "modalities": ["text", "image"],
                "use_instructions": False,
                "open_weights": True,
            }
        )

    def encode(
        self, inputs: Iterable[dict[str, Any]], *, task_metadata: Any, prompt_type: Any = None, **_: Any
    ) -> Floats:
        """Embed batches.

        Args:
            inputs: Batches with `text`, `image` or both.
            task_metadata: Its type says whether pictures are pages.
            prompt_type: Whether they ask or are found; None asks.

        Returns:
            float32 [n, dim], unit rows.

        Raises:
            MagicError: `argument_invalid` for a batch of something else.
        """
        side = Side.CANDIDATE if prompt_type == PromptType.document else Side.QUERY
        document = task_metadata.type in _DOCUMENT_TASKS
        rows = [np.empty((0, self.model.dim), np.float32)]
        for batch in inputs:
            texts, images = batch.get("text"), batch.get("image")
            pairs: Sequence[tuple[Any, Any]]
            if texts is not None and images is not None:
                pairs = list(zip(texts, images, strict=True))
            elif texts is not None:
                pairs = [(text, None) for text in texts]
            else:
                pairs = [(None, image) for image in images or ()]
            if not pairs:
                raise _unreadable(f"a batch of {', '.join(batch)}")
            rows.append(self.model.embed_inputs([_made(*pair, side, document, self.model) for pair in pairs]))
        return np.concatenate(rows)


def _input(value: Any, side: Side, embedder: BundleEntryEmbedder) -> BundleInput:
    if isinstance(value, str):
        return _made(value, None, side, False, embedder)
    if isinstance(value, dict):
        if not value or not value.keys() <= {"text", "image"}:
            raise _unreadable(f"an input with {', '.join(map(str, value)) or 'nothing'}")
        return _made(value.get("text"), value.get("image"), side, False, embedder)
    return _made(None, value, side, False, embedder)


def _made(text: str | None, image: Any, side: Side, document: bool, embedder: BundleEntryEmbedder) -> BundleInput:
    # A picture may come with an empty text: tables have a column for both.
    text = text if text is None or text.strip() or image is None else None
    reads = Reads.TEXT if image is None else Reads.IMAGE if text is None else Reads.IMAGE_AND_TEXT
    return BundleInput(text, image, role_for(side, reads, document, embedder.embedder.bundle.manifest.roles))


def _unreadable(what: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, f"A bundle cannot read {what}.", "Give texts, pictures, or both.")
