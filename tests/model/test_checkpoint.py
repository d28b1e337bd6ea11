"""Checkpoint folders as they come: shards, both spellings, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config_json import Layout
from tiny_checkpoints import edit_config

INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


@pytest.fixture
def sharded(hf: Any, own: Path) -> Path:
    """The same checkpoint, cut into shards by transformers."""
    (own / "model.safetensors").unlink()
    hf.save_pretrained(own, max_shard_size="200KB")
    return own


def refused(folder: Path, code: ErrorCode = ErrorCode.CHECKPOINT_INVALID) -> str:
    with pytest.raises(MagicError) as caught:
        Checkpoint.open(folder)
    assert caught.value.code is code
    return f"{caught.value.message} {caught.value.remedy}"


def change(folder: Path, edit: Callable[[Tensors], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def check_values(checkpoint: Checkpoint, hf: Any) -> None:
    """Compare some tensors of each part with transformers' own."""
    state = hf.state_dict()
    block = "model.vision_tower.encoder.layer.1.attention"
    qkv = torch.cat([state[f"{block}.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(checkpoint.read("vision.layers.1.attn.qkv.weight"), qkv)
    for ours, theirs in {
        "vision.class_embedding": "model.vision_tower.embeddings.cls_token",
        "vision.layers.0.ls2": "model.vision_tower.encoder.layer.0.lambda_2",
        "vision.layers.0.norm2.bias": "model.vision_tower.encoder.layer.0.layernorm_after.bias",
        "connector.linear_2.weight": "model.multi_modal_projector.linear_2.weight",
        "language.layers.2.mlp.up_proj.weight": "model.language_model.layers.2.mlp.up_proj.weight",
        "language.norm.weight": "model.language_model.norm.weight",
        "language.lm_head.weight": "lm_head.weight",
    }.items():
        assert torch.equal(checkpoint.read(ours), state[theirs]), ours


def test_one_file(folder: Path, hf: Any) -> None:
    checkpoint = Checkpoint.open(str(folder))
    assert (checkpoint.folder, checkpoint.layout) == (folder, Layout.HF)
    assert checkpoint.size == sum(value.numel() * 4 for value in hf.parameters())
    assert len(checkpoint.names) == len(list(hf.parameters())) - 2 * 2 * 2  # qkv is one of three, 2 layers
    assert {checkpoint.dtype(name) for name in checkpoint.names} == {torch.float32}
    check_values(checkpoint, hf)


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_index(index: bool, sharded: Path, hf: Any) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    if not index:
        (sharded / INDEX).unlink()
    check_values(Checkpoint.open(sharded), hf)


def test_files_beside_the_index_are_not_read(sharded: Path, hf: Any) -> None:
    (sharded / "adapter.safetensors").write_bytes(b"something else")
    check_values(Checkpoint.open(sharded), hf)


def test_the_other_spelling_of_the_hf_layout(own: Path, hf: Any) -> None:
    save_file({name: value.contiguous() for name, value in hf.state_dict().items()}, own / "model.safetensors")
    check_values(Checkpoint.open(own), hf)


@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_parts_of_different_types_are_joined_in_one_that_holds_both(letter: str, own: Path) -> None:
    part = f"vision_tower.encoder.layer.0.attention.{letter}_proj.bias"
    change(own, lambda tensors: tensors.update({part: tensors[part].bfloat16()}))
    checkpoint = Checkpoint.open(own)
    joined = checkpoint.read("vision.layers.0.attn.qkv.bias")
    assert joined.dtype is checkpoint.dtype("vision.layers.0.attn.qkv.bias") is torch.float32
    assert torch.equal(joined.reshape(3, 32)["qkv".index(letter)], load_file(own / "model.safetensors")[part].float())


def test_rows_of_a_tensor_come_from_the_shard_that_holds_it(sharded: Path, hf: Any) -> None:
    table = hf.state_dict()["model.language_model.embed_tokens.weight"]
    checkpoint = Checkpoint.open(sharded)
    assert torch.equal(checkpoint.read_rows("language.embed_tokens.weight", 7, 9), table[7:9])
    with pytest.raises(MagicError, match="no rows 7 to 401") as caught:
        checkpoint.read_rows("language.embed_tokens.weight", 7, 401)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_rows_of_a_tensor_that_is_stored_in_parts_are_refused(folder: Path) -> None:
    with pytest.raises(MagicError, match="3 parts") as caught:
        Checkpoint.open(folder).read_rows("vision.layers.0.attn.qkv.weight", 0, 1)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_all_differences_are_listed_in_one_error(own: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["vision_tower.embeddings.cls_token"]
        del tensors["language_model.model.layers.2.mlp.up_proj.weight"]
        tensors["language_model.model.layers.3.mlp.up_proj.weight"] = torch.zeros(80, 48)
        tensors["model.language_model.norm.weight"] = torch.ones(48)  # the other spelling of one that is there
        tensors["multi_modal_projector.linear_1.weight"] = torch.zeros(48, 127)
        tensors["vision_tower.encoder.layer.0.attention.k_proj.bias"] = torch.zeros(1, 32)

    change(own, spoil)
    message = refused(own)
    assert str(own) in message
    for part in (
        "2 missing: language_model.model.layers.2.mlp.up_proj.weight, vision_tower.embeddings.cls_token;",
        "1 extra: language_model.model.layers.3.mlp.up_proj.weight;",
        "1 there twice: language_model.model.norm.weight;",
        "2 of the wrong shape:",
        "multi_modal_projector.linear_1.weight [48, 127] instead of [48, 128]",
        "vision_tower.encoder.layer.0.attention.k_proj.bias [1, 32] instead of [32]",
    ):
        assert part in message


def test_the_same_tensor_in_two_files_is_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    first = sorted(sharded.glob("*.safetensors"))[0]
    shutil.copy(first, sharded / "copy.safetensors")
    assert f"{len(load_file(first))} there twice" in refused(sharded)


def test_a_shard_that_the_index_forgets_is_missing(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if "-00001-" in file}
    (sharded / INDEX).write_text(json.dumps({**index, "weight_map": kept}))
    assert f"{len(index['weight_map']) - len(kept)} missing" in refused(sharded)


def test_an_index_without_entries_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text('{"weight_map": {}}')
    assert "missing" in refused(sharded)


def test_a_shard_that_is_not_there_is_named(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    assert gone.name in refused(sharded, ErrorCode.SOURCE_UNAVAILABLE)


@pytest.mark.parametrize("how", ["parent", "absolute", "through a folder", "backslashes", "hidden", "pickle", "empty"])
def test_a_shard_outside_the_folder_is_refused_although_it_could_be_read(how: str, own: Path) -> None:
    outside = own.parent / "x.safetensors"
    (own / "model.safetensors").rename(outside)
    (own / "sub").mkdir()
    name = {
        "parent": "../x.safetensors",
        "absolute": str(outside),
        "through a folder": "sub/../../x.safetensors",
        "backslashes": "..\\x.safetensors",
        "hidden": ".x.safetensors",
        "pickle": "pytorch_model.bin",
        "empty": "",
    }[how]
    names = load_file(outside)
    (own / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
    message = refused(own)
    assert "no file beside it" in message
    assert repr(name) in message


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b"[]", b"{}", b"null", b'{"weight_map": []}', b'{"weight_map": {"a": 3}}'),
        *(b'{"weight_map": {"a": 3, "b": "x"}}', b'{"weight_map": {"a": []}}', b"[" * 100_000),
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_broken_index_is_refused(content: bytes, own: Path) -> None:
    (own / INDEX).write_bytes(content)
    message = refused(own)
    assert INDEX in message
    assert "broken" in message


def test_pickled_weights_are_not_read(own: Path) -> None:
    (own / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, own / "pytorch_model.bin")
    assert "pickled" in refused(own, ErrorCode.SOURCE_UNAVAILABLE)


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder"])
def test_no_checkpoint_at_all(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    if what == "a file":
        path.write_text("hello")
    elif what == "an empty folder":
        path.mkdir()
    assert str(path) in refused(path, ErrorCode.SOURCE_UNAVAILABLE)


def test_a_config_of_another_size_lists_every_layer_that_differs(own: Path) -> None:
    edit_config(own, text_config={"num_hidden_layers": 2, "intermediate_size": 96})
    message = refused(own)
    assert "12 extra: language_model.model.layers.2." in message
    assert "6 of the wrong shape" in message


def test_a_separate_head_that_the_config_denies_is_extra(own: Path) -> None:
    edit_config(own, text_config={"tie_word_embeddings": True})
    assert "1 extra: language_model.lm_head.weight" in refused(own)


def test_python_files_of_a_checkpoint_are_never_run(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = own / "marker"
    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("modeling_internvl_chat.py", "configuration_internvl_chat.py", "__init__.py", "torch.py", "json.py"):
        (own / name).write_text(code)
    edit_config(own, auto_map={"AutoModel": "modeling_internvl_chat.InternVLChatModel"})
    monkeypatch.chdir(own)
    before = set(sys.modules)
    Checkpoint.open(own).read("language.norm.weight")
    assert not marker.exists()
    assert not [name for name in set(sys.modules) - before if "internvl_chat" in name]
