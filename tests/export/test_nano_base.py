"""The start of training: MiniLM copied from its file, and rows that say the names of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from magicmm_export.nano.base import read_encoder, soft_words, text_encoder
from magicmm_export.nano.concepts import SCENE_WEIGHT, SCENES, Concept, read_scenes, with_scenes
from tiny_nano import tiny_bert, tiny_nano

TOKENIZER = Path(__file__).parents[1] / "vectors" / "tiny_tokenizer.json"


def test_the_encoder_is_that_of_the_file(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert.safetensors")
    model, tokenizer = tiny_nano(), Tokenizer.from_file(str(TOKENIZER))
    adapters = {name: value.clone() for name, value in model.state_dict().items() if name.endswith((".up", ".down"))}
    read_encoder(model, tmp_path / "bert.safetensors")
    texts = ["a red photo", "blue", "green white black yellow a photo"]
    found = text_encoder(model, tokenizer)(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            hidden = bert(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state.mean(1)[0]
        np.testing.assert_allclose(vector, (hidden / hidden.norm()).numpy(), atol=2e-6)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in adapters.items())


def test_soft_words_are_means_of_the_pieces_of_names() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    rows = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    red, photo, blue = (tokenizer.token_to_id(word) for word in ("red", "photo", "blue"))
    found = soft_words([Concept(("red photo", "blue"), "a red"), Concept(("blue",), None)], tokenizer, rows)
    first = (rows[red] + rows[photo]) / 2
    np.testing.assert_allclose(found[0], 0.5 * first + 0.5 * (first + rows[blue]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[1], rows[blue], rtol=1e-5)


def test_scenes_join_their_classes() -> None:
    listed = json.loads(SCENES.read_text("utf-8"))
    names = list(dict.fromkeys(name for of in listed.values() for name in of))
    scenes = read_scenes([Concept((name, "other"), None) for name in (*names, names[0])])
    assert list(scenes) == list(listed)
    first = next(iter(scenes.values()))
    assert first[0] == 0 and first[-1] == len(names)  # two classes of one name
    bank = np.random.default_rng(0).standard_normal((len(names) + 1, 8)).astype(np.float32)
    vectors = np.eye(8, dtype=np.float32)[np.arange(len(scenes)) % 8]
    found = with_scenes(bank, scenes, lambda texts: vectors[: len(texts)])
    place = len(names) - 1
    row = bank[place] + SCENE_WEIGHT * sum(
        vector for vector, places in zip(vectors, scenes.values(), strict=True) if place in places
    )
    np.testing.assert_allclose(found[place], row / np.linalg.norm(row), rtol=1e-5)


def test_a_scene_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="names classes that there are not"):
        read_scenes([Concept(("tench",), None)])
