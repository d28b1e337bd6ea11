"""Write checkpoints of either layout, shard by shard; the folder appears complete or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from magicmm_model.checkpoint import Checkpoint
from magicmm_model.checkpoint_folder import whole_checkpoint
from magicmm_model.config_json import IMAGE_TOKEN_ID, config_json
from magicmm_model.naming import stored_names, tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from magicmm_model.config import ModelConfig
    from magicmm_model.config_json import Layout
    from magicmm_model.model import MagicModel

SHARD_BYTES = 1 << 30
"""Most bytes of a shard, and of memory while writing (a single larger tensor gets a shard of its own)."""
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
)
"""Files that follow a checkpoint. Python files never do."""


def convert_checkpoint(
    source: Path | str, target: Path | str, layout: Layout, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a checkpoint again in the other (or the same) layout; all values stay bit for bit what they are.

    Args:
        source: A checkpoint folder.
        target: A folder that does not exist yet.
        layout: The layout to write.
        progress: Called with (tensors written, tensors in all).

    Raises:
        MagicError: See `Checkpoint.open` and `write_checkpoint`.
    """
    checkpoint = Checkpoint.open(source)
    write_checkpoint(
        target,
        checkpoint.config,
        layout,
        checkpoint.read,
        checkpoint.dtype,
        companions=checkpoint.folder,
        progress=progress,
    )


def save_model(model: MagicModel, target: Path | str, layout: Layout, companions: Path | None = None) -> None:
    """Write a model as a checkpoint.

    Args:
        model: Saved with the head that it holds: an embedder loaded without head becomes a checkpoint without one.
        target: A folder that does not exist yet.
        layout: The layout to write.
        companions: A checkpoint folder whose tokenizer and other small files are copied.

    Raises:
        MagicError: See `write_checkpoint`.
    """
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_checkpoint(
        target, model.config, layout, lambda name: tensors[name].cpu(), lambda name: tensors[name].dtype, companions
    )


def write_checkpoint(
    target: Path | str,
    config: ModelConfig,
    layout: Layout,
    read: Callable[[str], torch.Tensor],
    dtype: Callable[[str], torch.dtype],
    companions: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write tensors that `read` gives one by one.

    Args:
        target: A folder that does not exist yet; written beside it under another name first.
        config: Shapes and head of what is written.
        layout: The layout to write.
        read: Gives a tensor by its name in `MagicModel`.
        dtype: Gives its type without reading it.
        companions: A checkpoint folder whose tokenizer and other small files are copied.
        shard_bytes: Most bytes of a shard.
        progress: Called with (tensors written, tensors in all).

    Raises:
        MagicError: `argument_invalid` when the target exists; `storage_failed` when it cannot be written.
    """
    with whole_checkpoint(Path(target)) as staged:
        _write_shards(staged, config, layout, read, dtype, shard_bytes, progress)
        for name in COMPANIONS:
            if companions is not None and (companions / name).is_file():
                shutil.copyfile(companions / name, staged / name)
        stored_type = str(dtype("language.embed_tokens.weight")).removeprefix("torch.")
        data = config_json(config, layout, stored_type, _image_token_id(staged / "tokenizer.json"))
        (staged / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _write_shards(
    folder: Path,
    config: ModelConfig,
    layout: Layout,
    read: Callable[[str], torch.Tensor],
    dtype: Callable[[str], torch.dtype],
    shard_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    shapes = tensor_shapes(config)
    sizes = {name: torch.Size(shape).numel() * dtype(name).itemsize for name, shape in shapes.items()}
    shards = _plan_shards(sizes, shard_bytes)
    places: dict[str, str] = {}
    done = 0
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            parts, tensor = stored_names(name, layout), read(name)
            pieces = [piece.clone() for piece in tensor.chunk(len(parts))] if len(parts) > 1 else [tensor.contiguous()]
            tensors |= dict(zip(parts, pieces, strict=True))
            done += 1
            if progress:
                progress(done, len(shapes))
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file_name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _plan_shards(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Fill shards in the order of the modules."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > most:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _image_token_id(tokenizer: Path) -> int:
    """Return the id that the copied tokenizer gives to image placeholders."""
    from magicmm_model.tokenizer import PromptTokenizer

    return PromptTokenizer(tokenizer).special.context if tokenizer.exists() else IMAGE_TOKEN_ID
