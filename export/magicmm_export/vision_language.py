"""What the export of a vision-language checkpoint does whatever the runtime: all of a bundle but its graphs."""

from __future__ import annotations

import glob
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.bundle_writer import GoldenInput, weights_identity
from magicmm_export.decomposition.buckets import choose_buckets
from magicmm_export.isolated import seal_bundle
from magicmm_export.memory import return_freed_memory
from magicmm_export.onnx.tables import write_prefixes, write_tokens
from magicmm_export.options import SEED, ExportOptions, Progress
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head, ModelConfig
from magicmm_model.naming import tensor_shapes
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.hadamard import Rotation
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

Quality = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]
"""Called with the staged bundle and what its manifest will say; the answer becomes the manifest's `quality`."""

_UNCOUNTED = (
    "vision.class_embedding",
    "vision.patch_embedding.bias",
    "vision.position_embedding",
    "language.norm.weight",
)
"""Small tensors of no unit; progress does not count them."""


class VisionLanguageExport(ABC):
    """The steps of one export, in the order in which their files are written; a runtime adds its graphs.

    Attributes:
        checkpoint: The model.
        staged: The folder that becomes the bundle.
        config: The variant that is exported.
        weights: The checkpoint's, rewritten as the options say.
        tokenizer: The checkpoint's.
        max_tokens: Longest prompt that the manifest promises.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        staged: Path,
        options: ExportOptions,
        progress: Callable[[Progress], None] | None,
        name: str,
    ) -> None:
        """Check that the options fit the model; nothing is written yet."""
        self.checkpoint, self.staged, self._options = checkpoint, staged, options
        self.config: ModelConfig = checkpoint.config.variant(
            compression=options.compression, image_size=options.image_size
        )
        rotation = Rotation(self.config.dim, SEED) if options.rotate else None
        self.weights = RewrittenWeights(checkpoint, self.config, rotation, options.smoothing or {})
        self.tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", self.config.language.vocab_size)
        self.max_tokens = self.config.max_tokens
        self._progress, self._done = progress, 0
        counted = tensor_shapes(checkpoint.config.variant(head=Head.NONE)).items()
        self._total = sum(
            prod(shape) * checkpoint.dtype(name).itemsize for name, shape in counted if name not in _UNCOUNTED
        )
        self._model_id = options.bundle_id(name)

    @abstractmethod
    def write_graphs(self, roles: Mapping[str, Any]) -> dict[str, Any]:
        """Write the graphs, and return what the manifest says of them: `graphs`, and whatever else there is.

        Args:
            roles: As the manifest will list them; their prefixes lie in `staged`.
        """

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest, and return what it has to say."""
        shutil.copyfile(self.checkpoint.folder / "tokenizer.json", self.staged / "tokenizer.json")
        roles = self._roles()  # first: it needs the most memory, and none is in use yet
        graphs = self.write_graphs(roles)
        rows, dim = self.config.language.vocab_size, self.config.dim
        row_bytes = dim * self.checkpoint.dtype("language.embed_tokens.weight").itemsize
        write_tokens(
            self.staged / "tokens.bin", self.weights, rows, lambda count: self.step(count * row_bytes, "token table")
        )
        return self._manifest(roles) | graphs

    def weight_files(self) -> list[Path]:
        """Return the files whose content is the identity of the weights, in a fixed order."""
        paths = (path for path in self.staged.rglob("*") if path.is_file())
        return sorted(path for path in paths if path != self.staged / "tokenizer.json")

    def fit_buckets(self, roles: Mapping[str, Any], wanted: Sequence[int] | None) -> tuple[int, ...]:
        """Choose lengths for graphs of fixed shapes (`choose_buckets`); promise no longer prompts than they take."""
        buckets = choose_buckets(self.config, roles, wanted)
        # What a prompt may hold with the shortest head in front, so that no accepted prompt overflows the last bucket.
        self.max_tokens = min(self.config.max_tokens, buckets[-1] + min(len(role["head"]) for role in roles.values()))
        return buckets

    def step(self, size: int, what: str) -> None:
        """Report that bytes of the checkpoint are done."""
        self._done += size
        if self._progress:
            self._progress(Progress(self._done, self._total, what))

    def _roles(self) -> dict[str, Any]:
        builder = PromptBuilder(self.config, self.tokenizer)
        tokens = {name: builder.role_tokens(role) for name, role in ROLES.items()}
        # Of all rewrites, only smoothing the values changes what a prefix holds; the checkpoint itself is lighter.
        smoothed = any(unit.endswith(".o") for unit in self._options.smoothing or ())
        model = StreamedModel(self.checkpoint, self.config, weights=self.weights if smoothed else None)
        files = write_prefixes(
            self.staged,
            model,
            {name: parts.head for name, parts in tokens.items()},
            lambda layer: self.step(0, f"prefixes: {layer}"),
        )
        return {
            name: {
                "head": list(parts.head),
                "image_before": list(parts.image_before),
                "image_after": list(parts.image_after),
                "text": parts.text,
                "tail": list(parts.tail),
                "prefix": files[name],
                "max_tiles": ROLES[name].max_tiles,
            }
            for name, parts in tokens.items()
        }

    def _manifest(self, roles: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        return {
            "id": self._model_id,
            "title": f"Magic-MM-Embedding from {self.checkpoint.folder.name}",
            "architecture": "vision_language",
            "dim": config.dim,
            "matryoshka_dims": [],
            "weights": weights_identity(self.weight_files()),
            "pooling": "hidden state of the last token",
            "image": {"side": config.vision.image_size, "views": ["squash"], "resample": "bicubic"},
            "text": {
                "tokenizer": "tokenizer.json",
                "max_tokens": self.max_tokens,
                "pad_id": self.tokenizer.special.end,
            },
            "tokens": {"file": "tokens.bin", "rows": config.language.vocab_size, "dim": config.dim},
            "roles": roles,
            "quantisation": {
                "vision": self._describe("vision"),
                "language": self._describe("language"),
                "tokens": "int8 rows",
            },
            "source": {
                "checkpoint": self.checkpoint.folder.name,
                "compression": config.compression,
                "rotation": self._options.rotate,
                "calibration": self._options.calibration or "none",
            },
        }

    def _describe(self, part: str) -> str:
        """Say which schemes a part mixes, and how many units have each."""
        recipe = self._options.recipe
        owned = ("vision.", "connector.") if part == "vision" else ("language.",)
        schemes = (recipe.scheme_for(unit) for unit in self.weights.unit_names() if unit.startswith(owned))
        names = (f"{how.kind} in groups of {how.group}" if how.group else how.kind for how in schemes)
        counts = Counter(names)
        return ", ".join(f"{count} x {name}" for name, count in counts.items()) + f" (recipe {recipe.name})"


class StagedExport(Protocol):
    """An export into a folder that becomes a bundle."""

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest, and return what it has to say."""
        ...


def write_staged(target: Path, make: Callable[[Path], StagedExport], quality: Quality | None = None) -> Bundle:
    """Run an export in a folder beside the target and seal it; `target` is replaced at the very end or left untouched.

    Args:
        target: `NAME.magicmm`.
        make: Called with the new folder.
        quality: An error that it raises stops the export.

    Raises:
        MagicError: `storage_failed` for a full disk, `bundle_invalid` when the finished bundle does not verify.
    """
    return_freed_memory()
    staged = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        _remove_abandoned(target)
        staged.mkdir(parents=True)
        manifest = make(staged).write()
        if quality:
            manifest["quality"] = dict(quality(staged, manifest))
        return seal_bundle(staged, target, manifest, _golden())
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED,
            f"{target} cannot be written: {error.strerror or error}.",
            "Free some space or choose another folder; finished parts are kept and found again.",
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Delete what killed exports to the same target left, which may be gigabytes; another one at work keeps its own.

    Windows has no call that asks for a process without touching it, so there they stay.
    """
    for folder in target.parent.glob(f"{glob.escape(target.name)}.partial-*") if os.name == "posix" else ():
        number = folder.name.rpartition("-")[2]
        try:
            if number.isdecimal():
                os.kill(int(number), 0)  # no signal: only asks
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:  # it is at work, for somebody else
            continue


def _golden() -> list[GoldenInput]:
    scene = sample_scene()
    return [
        GoldenInput("short", text="a dog"),
        GoldenInput("sentence", text="two people walking along the beach at sunset"),
        GoldenInput("accents", text="Café in Zürich, naïve façade"),
        GoldenInput("landscape", rgb=scene),
        GoldenInput("composed", text="at night", rgb=scene),
    ]
