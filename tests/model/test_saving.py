"""Saving: every byte kept through both layouts, sharded as asked, and all or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration

from magicmm import ErrorCode, MagicError
from magicmm_model import saving
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head
from magicmm_model.config_json import Layout
from magicmm_model.loading import load_model
from magicmm_model.saving import convert_checkpoint, save_model
from magicmm_model.saving import write_checkpoint as write_folder
from tiny_checkpoints import hf_model, write_checkpoint

# What a published folder holds beside weights and code.
FOLLOWING = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "preprocessor_config.json", "processor_config.json", "chat_template.jinja"),
    *("generation_config.json", "LICENSE"),
)
Stored = dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]


def stored(folder: Path) -> Stored:
    """Return type, shape and bytes of every tensor of a folder, as the safetensors library reads them."""
    found: Stored = {}
    for path in folder.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert name not in found
            values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found[name] = (tensor.dtype, tuple(tensor.shape), values)
    return found


@pytest.fixture
def rewrite(folder: Path) -> Callable[..., None]:
    """Return a function that writes the tiny checkpoint again, with options of `write_checkpoint`."""
    checkpoint = Checkpoint.open(folder)

    def write(target: Path, layout: Layout = Layout.HF, **options: Any) -> None:
        write_folder(
            target, checkpoint.config, layout, **{"read": checkpoint.read, "dtype": checkpoint.dtype} | options
        )

    return write


@pytest.fixture(params=["float32", "bfloat16", "mixed"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in each type, and one in which types differ from tensor to tensor."""
    kind, folder = request.param, tmp_path / "source"
    if kind != "mixed":
        write_checkpoint(folder, getattr(torch, kind))
        return folder
    model = hf_model(folder)
    types = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for place, (name, parameter) in enumerate(model.named_parameters()):
        # The parts of what one layout joins have one type.
        parameter.data = parameter.data.to(types[3 if "attention" in name else place % 4])
    model.save_pretrained(folder)
    return folder


def test_there_and_back_again_not_a_bit_changes(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "original", Layout.ORIGINAL)
    convert_checkpoint(tmp_path / "original", tmp_path / "back", Layout.HF)
    assert stored(tmp_path / "back") == stored(source)
    assert Checkpoint.open(tmp_path / "back").config == Checkpoint.open(source).config
    assert Checkpoint.open(tmp_path / "original").config == Checkpoint.open(source).config
    assert Checkpoint.open(tmp_path / "original").layout is Layout.ORIGINAL


def test_the_original_layout_joins_query_key_and_value_in_this_order(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "original", Layout.ORIGINAL)
    ours, theirs = stored(tmp_path / "original"), stored(source)
    block = "vision_tower.encoder.layer.1.attention"
    for part in ("weight", "bias"):
        joined = ours[f"vision_model.encoder.layers.1.attn.qkv.{part}"]
        parts = [theirs[f"{block}.{letter}_proj.{part}"] for letter in "qkv"]
        assert joined[2] == b"".join(values for _, _, values in parts)
        assert joined[1] == (3 * parts[0][1][0], *parts[0][1][1:])
    assert ours["mlp1.3.weight"] == theirs["multi_modal_projector.linear_2.weight"]
    assert ours["vision_model.encoder.layers.0.ls1"] == theirs["vision_tower.encoder.layer.0.lambda_1"]


def test_small_files_follow_and_code_does_not(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    for name in FOLLOWING:
        if not (own / name).exists():
            (own / name).write_text(f"content of {name}")
    for name in ("modeling_internvl_chat.py", "tokenizer.py", "pytorch_model.bin", "notes.md"):
        (own / name).write_text("not to be copied")
    convert_checkpoint(own, tmp_path / "target", Layout.ORIGINAL)
    target = tmp_path / "target"
    assert {path.name for path in target.iterdir()} == {*FOLLOWING, "config.json", "model.safetensors"}
    assert all((target / name).read_bytes() == (own / name).read_bytes() for name in FOLLOWING)


def test_the_id_of_image_placeholders_comes_from_the_tokenizer(
    folder: Path, hf: Any, rewrite: Callable[..., None], tmp_path: Path
) -> None:
    convert_checkpoint(folder, tmp_path / "with", Layout.HF)
    rewrite(tmp_path / "without")
    ids = [json.loads((tmp_path / name / "config.json").read_text())["image_token_id"] for name in ("with", "without")]
    assert ids == [hf.config.image_token_id, 151667]


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("most", [1, 20_000, 200_000])
def test_shards_hold_at_most_what_is_asked_for(
    most: int, layout: Layout, rewrite: Callable[..., None], tmp_path: Path
) -> None:
    rewrite(tmp_path / "whole", layout)
    assert [path.name for path in (tmp_path / "whole").glob("*.safetensors*")] == ["model.safetensors"]
    target = tmp_path / "cut"
    rewrite(target, layout, shard_bytes=most)
    assert stored(target) == stored(tmp_path / "whole")
    files = sorted(path.name for path in target.glob("*.safetensors"))
    assert files == [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    assert len(files) > 2
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for file in files for name in load_file(target / file)}
    assert index["metadata"]["total_size"] == sum(len(values) for _, _, values in stored(target).values())
    for file in files:
        tensors = load_file(target / file)
        alone = len(tensors) == 1 or all(
            ".attention." in name for name in tensors
        )  # query, key and value stay together
        assert alone or sum(tensor.nbytes for tensor in tensors.values()) <= most


def test_transformers_reads_our_shards(rewrite: Callable[..., None], hf: Any, tmp_path: Path) -> None:
    rewrite(tmp_path / "cut", shard_bytes=100_000)
    loaded, info = InternVLForConditionalGeneration.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, hf.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("layout", list(Layout))
def test_an_embedder_without_head_can_be_saved(layout: Layout, folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    save_model(model, tmp_path / "embedder", layout, companions=folder)
    again = load_model(tmp_path / "embedder")
    assert again.config == model.config
    assert again.config.head is Head.NONE
    assert not any("lm_head" in name for name in stored(tmp_path / "embedder"))
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layout", list(Layout))
def test_a_variant_of_smaller_tiles_can_be_saved(layout: Layout, folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, compression=1, image_size=224, dtype=torch.bfloat16, head=True)
    save_model(model, tmp_path / "small", layout)
    again = load_model(tmp_path / "small", head=True)
    assert again.config == model.config
    assert (again.config.vision.image_size, again.config.compression, again.config.head) == (224, 1, Head.UNTIED)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(again.visual_tokens(pixels), model.visual_tokens(pixels))


@pytest.mark.parametrize("what", ["an empty folder", "a folder with files", "a file"])
def test_what_exists_is_not_touched(what: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if what == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
    if what == "a folder with files":
        (target / "config.json").write_text("mine")
    with pytest.raises(MagicError) as caught:
        convert_checkpoint(folder, target, Layout.ORIGINAL)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert str(target) in caught.value.message
    assert list(tmp_path.iterdir()) == [target]
    kept = target if target.is_file() else target / "config.json"
    assert kept.exists() is (what != "an empty folder")
    assert not kept.exists() or kept.read_text() == "mine"


def test_a_tensor_that_cannot_be_read_leaves_nothing_behind(
    folder: Path, rewrite: Callable[..., None], tmp_path: Path
) -> None:
    checkpoint, read = Checkpoint.open(folder), []

    def failing(name: str) -> torch.Tensor:
        read.append(name)
        if len(read) > 20:
            raise MagicError(ErrorCode.SOURCE_UNAVAILABLE, "the disk went away", "look for it")
        return checkpoint.read(name)

    with pytest.raises(MagicError, match="the disk went away"):
        rewrite(tmp_path / "target", read=failing, shard_bytes=10_000)
    assert len(read) == 21
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: disk full")])
def test_a_full_disk_leaves_nothing_behind(
    error: Exception, rewrite: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def failing(tensors: Any, path: Path, **options: Any) -> None:
        if len(written) == 2:
            raise error
        save_file(tensors, path, **options)
        written.append(path)

    monkeypatch.setattr(saving, "save_file", failing)
    with pytest.raises(MagicError) as caught:
        rewrite(tmp_path / "target", shard_bytes=50_000)
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert str(tmp_path / "target") in caught.value.message
    assert "No space left" in caught.value.message or "disk full" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_cannot_be_written(rewrite: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MagicError) as caught:
        rewrite(tmp_path / "file" / "target")
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("most", [50_000, 1 << 30])
def test_progress_counts_every_tensor(most: int, folder: Path, rewrite: Callable[..., None], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rewrite(tmp_path / "target", shard_bytes=most, progress=lambda done, total: seen.append((done, total)))
    total = len(Checkpoint.open(folder).names)
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_files_of_a_checkpoint_are_as_readable_as_any_other(rewrite: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    rewrite(tmp_path / "target")
    wanted = (tmp_path / "other").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "target").iterdir()} == {wanted}
