"""The built-in model in torch: the encoder against transformers, the parts against plain arithmetic, and storing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError
from magicmm_export.nano.base import read_encoder
from magicmm_model.nano.concepts import ConceptBank
from magicmm_model.nano.config import CELL_SHARE, CLS, GLOBAL_WEIGHT, SEP, NanoConfig
from magicmm_model.nano.model import NanoModel
from magicmm_model.nano.storing import (
    CONCEPTS,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    is_nano,
    load_nano,
    load_words,
    save_nano,
)
from tiny_nano import TINY, WORDS, tiny_bert, tiny_nano, tiny_nano_checkpoint


@pytest.fixture
def model() -> NanoModel:
    return tiny_nano()


def batch(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(length) % 90 + 1
        mask[row, :length] = 1
    return ids, mask


def train_adapters_a_bit(model: NanoModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.3)


@torch.inference_mode()
def test_texts_are_encoded_as_transformers_does(model: NanoModel, tmp_path: Path) -> None:
    train_adapters_a_bit(model)  # they are off without visual tokens
    bert = tiny_bert(tmp_path / "bert.safetensors")
    read_encoder(model, tmp_path / "bert.safetensors")
    ids, mask = batch(9, 4, 1)
    hidden = bert(ids, attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(model(ids, mask), functional.normalize(mean, dim=-1), atol=2e-6, rtol=1e-5)


@torch.inference_mode()
def test_adapters_change_vectors_with_visual_tokens_alone(model: NanoModel) -> None:
    ids, mask = batch(5, 3)
    cells = torch.rand(2, 16, TINY.channels)
    text, both = model(ids, mask), model(ids, mask, cells)
    train_adapters_a_bit(model)
    assert torch.equal(model(ids, mask), text)
    assert (model(ids, mask, cells) - both).abs().max() > 1e-3


@torch.inference_mode()
def test_filling_up_changes_nothing(model: NanoModel) -> None:
    train_adapters_a_bit(model)
    cells = torch.rand(2, 16, TINY.channels)
    ids, mask = batch(9, 4)
    for visual in (None, cells):
        alone = model(ids[1:, :4], mask[1:, :4], None if visual is None else visual[1:])
        torch.testing.assert_close(model(ids, mask, visual)[1:], alone, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_photo_of_several_views_is_the_mean_of_their_vectors(model: NanoModel) -> None:
    train_adapters_a_bit(model)
    cells = torch.rand(3, 2, 16, TINY.channels)
    ids = torch.tensor([[CLS, SEP]])
    views = torch.stack([model(ids, torch.ones_like(ids), one[None])[0] for one in cells[1]])
    torch.testing.assert_close(model.photos(cells)[1], functional.normalize(views.sum(0), dim=0), atol=1e-6, rtol=1e-5)
    more, mask = torch.tensor([[CLS, SEP, 7, SEP]] * 3), torch.ones(3, 4)
    views = torch.stack([model(more[:1], mask[:1], one[None])[0] for one in cells[2]])
    found = model.composed(more, mask, cells)[2]
    torch.testing.assert_close(found, functional.normalize(views.sum(0), dim=0), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_an_indexed_photo_is_the_encoder_and_concepts_and_colours(model: NanoModel) -> None:
    train_adapters_a_bit(model)
    cells = torch.rand(2, 3, 16, TINY.channels)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    for read in (None, 2):
        bank = functional.normalize(sum(model.concepts(cells[:, view]) for view in range(3)), dim=-1)
        summed = TINY.encoder_weight * model.photos(cells[:, :read]) + bank + TINY.colour_weight * model.colours(pixels)
        found = model.indexed(cells, pixels, read)
        torch.testing.assert_close(found, functional.normalize(summed, dim=-1), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_query_of_both_is_both_together_and_the_photo(model: NanoModel) -> None:
    train_adapters_a_bit(model)
    cells, pixels = torch.rand(2, 3, 16, TINY.channels), torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    ids, mask = torch.tensor([[CLS, SEP, 7, SEP], [CLS, SEP, 9, 12]]) % 100, torch.ones(2, 4)
    summed = TINY.both_weight * model.composed(ids, mask, cells[:, :2]) + model.indexed(cells, pixels, 2)
    found = model.asked(ids, mask, cells, pixels, 2)
    torch.testing.assert_close(found, functional.normalize(summed, dim=-1), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_soft_words_are_weighed_rows_of_the_table(model: NanoModel) -> None:
    connector = model.connector
    connector.log_scale.fill_(0.5)
    connector.shift.normal_()
    cells = torch.rand(1, 16, TINY.channels)
    found = connector(cells)[0].numpy()
    weight, bias = connector.classifier.weight.numpy(), connector.classifier.bias.numpy()
    mean = cells[0].numpy().mean(0)
    for place, features in enumerate(
        [mean, *(TINY.local_share * cell + (1 - TINY.local_share) * mean for cell in cells[0].numpy())]
    ):
        logits = weight @ features + bias
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances)[: TINY.kept]
        roots = np.sqrt(chances[best])
        row = (roots / roots.sum()) @ connector.table.numpy()[best] * np.exp(0.5) + connector.shift.numpy()
        np.testing.assert_allclose(found[place], row, atol=1e-5)


def test_the_concept_bank_is_local_conse() -> None:
    rng = np.random.default_rng(0)
    bank = ConceptBank(30, 8, 0.7)
    rows = rng.standard_normal((30, 8)).astype(np.float32)
    bank.vectors.copy_(torch.from_numpy(rows))
    logits = (3 * rng.standard_normal((1, 16, 30))).astype(np.float32)

    def softmax(values: np.ndarray) -> np.ndarray:
        chances = np.exp(values - values.max(-1, keepdims=True))
        return np.asarray(chances / chances.sum(-1, keepdims=True))

    def mixed(chances: np.ndarray) -> np.ndarray:
        best = np.argsort(-chances)[:12]
        wanted = chances[best] ** 0.7 @ rows[best]
        return np.asarray(wanted / np.linalg.norm(wanted))

    mean = logits[0].mean(0)
    chances = softmax(CELL_SHARE * logits[0] + (1 - CELL_SHARE) * mean).mean(0) + GLOBAL_WEIGHT * softmax(mean)
    np.testing.assert_allclose(bank.sharp(torch.from_numpy(logits), 12)[0], mixed(chances), atol=1e-6)
    wanted = mixed(softmax(logits[0]).mean(0))
    np.testing.assert_allclose(bank.local(torch.from_numpy(logits), 12)[0], wanted, atol=1e-6)


def test_only_adapters_and_the_output_of_the_connector_are_trained(model: NanoModel) -> None:
    model.train_adapters()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if not name.endswith((".down", ".up"))} == {
        "connector.table",
        "connector.shift",
        "connector.log_scale",
    }
    assert len(trained) == 3 + 2 * 6 * TINY.layers


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    folder = tiny_nano_checkpoint(tmp_path / "tiny")
    loaded, model = load_nano(folder), tiny_nano()
    assert loaded.config == TINY
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert load_words(folder) == WORDS
    assert is_nano(folder) and not is_nano(tmp_path)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, TOKENIZER, CONCEPTS}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # the weights, too, are for all to read
    with pytest.raises(MagicError) as caught:
        save_nano(model.state_dict(), TINY, folder, folder)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        save_nano(tiny_nano().state_dict(), TINY, tmp_path / "out", tmp_path)  # no companions there
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["config", "json", "missing", "extra", "shape", "cut", "gone"])
def test_a_broken_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tiny_nano_checkpoint(tmp_path / "tiny")
    tensors = load_file(folder / WEIGHTS)
    if damage == "config":
        (folder / CONFIG).write_text(json.dumps({**TINY.to_json(), "depth": 3}), encoding="utf-8")
    elif damage == "json":
        (folder / CONFIG).write_text("{", encoding="utf-8")
    elif damage == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    elif damage == "gone":
        (folder / WEIGHTS).unlink()
    else:
        if damage == "missing":
            del tensors["encoder.norm.bias"]
        elif damage == "extra":
            tensors["more"] = torch.zeros(3)
        else:
            tensors["encoder.norm.bias"] = torch.zeros(3)
        save_file(tensors, folder / WEIGHTS)
    with pytest.raises(MagicError) as caught:
        load_nano(folder)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    assert damage not in ("missing", "shape") or "encoder.norm.bias" in str(caught.value)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"classes": [["a"]]}', '{"classes": [["a"]], "scenes": {"at sea": [1]}}']
)
def test_words_that_cannot_be_read_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CONCEPTS).write_text(content, encoding="utf-8")
    with pytest.raises(MagicError) as caught:
        load_words(tmp_path)
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID


def test_a_configuration_survives_json() -> None:
    config = replace(NanoConfig(), matryoshka=(64,))
    assert NanoConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
